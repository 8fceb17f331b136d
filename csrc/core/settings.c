/* Settings of hardware: checks, then the backend's own verb. */
#include "pdlb_settings.h"

#include <errno.h>

#include "backend.h"

#define MIN_NUMBERS 64u
#define MAX_NUMBERS 1024u
#define MAX_THRESHOLD 4095u

static int no_hardware(struct pdlb_error *error, const char *op) {
  return pdlb_fail(error, EOPNOTSUPP, op, "this is a setting of hardware, and the backend has none");
}

static int check_group(uint32_t group, const char *op, struct pdlb_error *error) {
  return group < PDLB_SEQUENCE_GROUPS ? 0 : pdlb_fail(error, EINVAL, op, "group is %u: it is 0 or 1", group);
}

static int check_class(uint32_t service_class, const char *op, struct pdlb_error *error) {
  return service_class < PDLB_SERVICE_CLASSES
             ? 0
             : pdlb_fail(error, EINVAL, op, "the class of service is %u: it is 0 to 3", service_class);
}

int pdlb_device_sequence_group(struct pdlb_device *device, uint32_t group, struct pdlb_sequence_group *result,
                               struct pdlb_error *error) {
  static const char op[] = "sequence numbers";
  if (!device->ops->settings) return no_hardware(error, op);
  const int rc = check_group(group, op, error);
  return rc < 0 ? rc : device->ops->settings->sequence_group(device, group, result, error);
}

int pdlb_device_set_sequence_numbers(struct pdlb_device *device, uint32_t group, uint32_t numbers,
                                     struct pdlb_error *error) {
  static const char op[] = "set sequence numbers";
  if (!device->ops->settings) return no_hardware(error, op);
  const int rc = check_group(group, op, error);
  if (rc < 0) return rc;
  if (numbers < MIN_NUMBERS || numbers > MAX_NUMBERS || (numbers & (numbers - 1)))
    return pdlb_fail(error, EINVAL, op, "numbers is %u: it is 64, 128, 256, 512 or 1024", numbers);
  return device->ops->settings->set_sequence_numbers(device, group, numbers, error);
}

int pdlb_device_bandwidth(struct pdlb_device *device, uint32_t service_class, struct pdlb_error *error) {
  static const char op[] = "bandwidth";
  if (!device->ops->settings) return no_hardware(error, op);
  const int rc = check_class(service_class, op, error);
  return rc < 0 ? rc : device->ops->settings->bandwidth(device, service_class, error);
}

int pdlb_device_set_bandwidth(struct pdlb_device *device, uint32_t service_class, uint32_t percent,
                              struct pdlb_error *error) {
  static const char op[] = "set bandwidth";
  if (!device->ops->settings) return no_hardware(error, op);
  const int rc = check_class(service_class, op, error);
  if (rc < 0) return rc;
  if (percent > 100) return pdlb_fail(error, EINVAL, op, "percent is %u: it is 0 to 100", percent);
  return device->ops->settings->set_bandwidth(device, service_class, percent, error);
}

int pdlb_device_polls_sparse(struct pdlb_device *device, struct pdlb_error *error) {
  if (!device->ops->settings) return no_hardware(error, "poll mode");
  return device->ops->settings->polls_sparse(device);
}

int pdlb_device_register(struct pdlb_device *device, uint32_t which, uint32_t id, uint32_t *value,
                         struct pdlb_error *error) {
  if (!device->ops->settings) return no_hardware(error, "register");
  return device->ops->settings->read_register(device, which, id, value, error);
}

static int check_port(const struct pdlb_port *port, const char *op, struct pdlb_error *error) {
  if (!port->ops->settings) return no_hardware(error, op);
  return port->directed ? pdlb_fail(error, EINVAL, op, "port %u is a directed one", port->id) : 0;
}

int pdlb_port_set_weight(struct pdlb_port *port, uint32_t weight, struct pdlb_error *error) {
  const int rc = check_port(port, "set weight", error);
  return rc < 0 ? rc : port->ops->settings->set_weight(port, weight, error);
}

int pdlb_port_set_inflight_threshold(struct pdlb_port *port, uint32_t threshold, struct pdlb_error *error) {
  static const char op[] = "set in-flight threshold";
  const int rc = check_port(port, op, error);
  if (rc < 0) return rc;
  if (threshold != PDLB_NONE && threshold > MAX_THRESHOLD)
    return pdlb_fail(error, EINVAL, op, "threshold is %u: it is at most %u", threshold, MAX_THRESHOLD);
  return port->ops->settings->set_inflight_threshold(port, threshold, error);
}
