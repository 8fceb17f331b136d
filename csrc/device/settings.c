/* Settings of the whole device, and of ports, that scheduling does not depend on. */
#include <errno.h>

#include "device.h"

#define SEQUENCE_NUMBERS 1024u /* of a group */

static int sequence_group(struct pdlb_device *base, uint32_t group, struct pdlb_sequence_group *result,
                          struct pdlb_error *error) {
  static const char op[] = "sequence numbers";
  struct device *device = device_of(base);
  struct pdlb_get_sn_allocation_args numbers = {.group = group};
  int rc = device_request(device, (uint32_t)PDLB_IOC_GET_SN_ALLOCATION, &numbers, op, error);
  if (rc < 0) return rc;
  struct pdlb_get_sn_occupancy_args taken = {.group = group};
  rc = device_request(device, (uint32_t)PDLB_IOC_GET_SN_OCCUPANCY, &taken, op, error);
  if (rc < 0) return rc;
  *result = (struct pdlb_sequence_group){
      .numbers = numbers.response.id, .slots = SEQUENCE_NUMBERS / numbers.response.id, .taken = taken.response.id};
  return 0;
}

static int set_sequence_numbers(struct pdlb_device *base, uint32_t group, uint32_t numbers, struct pdlb_error *error) {
  static const char op[] = "set sequence numbers";
  struct device *device = device_of(base);
  struct pdlb_set_sn_allocation_args args = {.group = group, .num = numbers};
  const int rc = device_try(device, (uint32_t)PDLB_IOC_SET_SN_ALLOCATION, &args, op, error);
  if (rc != -EPERM) return rc;
  return pdlb_fail(error, EBUSY, op, "%s: domains have reserved slots of group %u: close them first", device->path,
                   group);
}

static int bandwidth(struct pdlb_device *base, uint32_t service_class, struct pdlb_error *error) {
  struct pdlb_get_cos_bw_args args = {.cos_id = service_class};
  const int rc = device_request(device_of(base), (uint32_t)PDLB_IOC_GET_COS_BW, &args, "bandwidth", error);
  return rc < 0 ? rc : (int)args.response.id;
}

static int set_bandwidth(struct pdlb_device *base, uint32_t service_class, uint32_t percent, struct pdlb_error *error) {
  static const char op[] = "set bandwidth";
  struct device *device = device_of(base);
  struct pdlb_set_cos_bw_args args = {.cos_id = service_class, .bandwidth = percent};
  const int rc = device_try(device, (uint32_t)PDLB_IOC_SET_COS_BW, &args, op, error);
  if (rc != -EINVAL) return rc;
  return pdlb_fail(error, EINVAL, op, "%s: with %u per cent for class %u, all classes together would have over 100",
                   device->path, percent, service_class);
}

static int polls_sparse(const struct pdlb_device *base) {
  return ((const struct device *)base)->stride == PDLB_CQ_SPARSE_STRIDE;
}

/* The driver leaves the value as it was given where it knows no such register; an answer has 32 bits. */
static int read_register(struct pdlb_device *base, uint32_t which, uint32_t id, uint32_t *value,
                         struct pdlb_error *error) {
  static const char op[] = "register";
  struct device *device = device_of(base);
  struct pdlb_xstats_args args = {.xstats_val = UINT64_MAX, .xstats_type = which, .xstats_id = id};
  const int rc = device_try(device, (uint32_t)PDLB_IOC_GET_XSTATS, &args, op, error);
  if (rc < 0 && rc != -EINVAL) return rc;
  if (rc == -EINVAL || args.xstats_val > UINT32_MAX)
    return pdlb_fail(error, ENXIO, op, "%s has no register %#x of number %u", device->path, which, id);
  *value = (uint32_t)args.xstats_val;
  return 0;
}

const struct pdlb_device_settings device_settings = {
    .sequence_group = sequence_group,
    .set_sequence_numbers = set_sequence_numbers,
    .bandwidth = bandwidth,
    .set_bandwidth = set_bandwidth,
    .polls_sparse = polls_sparse,
    .read_register = read_register,
};

/* ---- ports ----------------------------------------------------------------------------------------------------- */

static int needs_v25(const struct device *device, const char *op, struct pdlb_error *error) {
  return device->base.version == PDLB_DEVICE_V25
             ? 0
             : pdlb_fail(error, EOPNOTSUPP, op, "%s is a DLB 2.0, which has no such setting", device->path);
}

static int set_weight(struct pdlb_port *base, uint32_t weight, struct pdlb_error *error) {
  static const char op[] = "set weight";
  struct port *port = port_of(base);
  const int rc = needs_v25(port->domain->device, op, error);
  if (rc < 0) return rc;
  if (weight == 0 || weight > port->cq_depth)
    return pdlb_fail(error, EINVAL, op, "weight is %u: it is 1 to the port's depth, %u", weight, port->cq_depth);
  struct pdlb_enable_cq_weight_args args = {.port_id = base->id, .limit = weight};
  return domain_request(port->domain, (uint32_t)PDLB_IOC_ENABLE_CQ_WEIGHT, &args, op, error);
}

static int set_inflight_threshold(struct pdlb_port *base, uint32_t threshold, struct pdlb_error *error) {
  static const char op[] = "set in-flight threshold";
  struct port *port = port_of(base);
  const int rc = needs_v25(port->domain->device, op, error);
  if (rc < 0) return rc;
  const bool limited = threshold != PDLB_NONE;
  struct pdlb_cq_inflight_ctrl_args args = {
      .port_id = base->id, .enable = limited, .threshold = limited ? (uint16_t)threshold : 0};
  return domain_request(port->domain, (uint32_t)PDLB_IOC_SET_CQ_INFLIGHT_CTRL, &args, op, error);
}

const struct pdlb_port_settings device_port_settings = {
    .set_weight = set_weight,
    .set_inflight_threshold = set_inflight_threshold,
};
