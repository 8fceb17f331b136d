/* Opening a device, and what it has. */
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a physical function has that nobody uses. A virtual one's amounts are in its attributes. */
static const struct pdlb_resources whole[] = {
    [PDLB_DEVICE_V20] = {.domains = PDLB_NUM_DOMAINS,
                         .ldb_queues = PDLB_NUM_LDB_QUEUES,
                         .ldb_ports = PDLB_NUM_LDB_PORTS,
                         .dir_ports = PDLB_NUM_DIR_PORTS_V20,
                         .ldb_credits = PDLB_NUM_LDB_CREDITS_V20,
                         .dir_credits = PDLB_NUM_DIR_CREDITS_V20,
                         .history_entries = PDLB_NUM_HISTORY_ENTRIES,
                         .atomic_inflights = PDLB_NUM_ATOMIC_INFLIGHTS,
                         .sequence_slots = {16, 16}},
    [PDLB_DEVICE_V25] = {.domains = PDLB_NUM_DOMAINS,
                         .ldb_queues = PDLB_NUM_LDB_QUEUES,
                         .ldb_ports = PDLB_NUM_LDB_PORTS,
                         .dir_ports = PDLB_NUM_DIR_PORTS_V25,
                         .ldb_credits = PDLB_NUM_CREDITS_V25,
                         .history_entries = PDLB_NUM_HISTORY_ENTRIES,
                         .atomic_inflights = PDLB_NUM_ATOMIC_INFLIGHTS,
                         .sequence_slots = {16, 16}},
};

static int device_close(struct pdlb_device *base) {
  struct device *device = device_of(base);
  pthread_mutex_lock(&device->mutex);
  const bool busy = device->domains != 0;
  pthread_mutex_unlock(&device->mutex);
  if (busy) return -EBUSY;
  if (device->fd >= 0) device->system->close(device->context, device->fd);
  pthread_mutex_destroy(&device->mutex);
  free(device);
  return 0;
}

static void read_total(struct device *device, struct pdlb_resources *total) {
  *total = whole[device->base.version];
  const struct {
    const char *name;
    uint32_t *amount;
  } attributes[] = {
      {"total_resources/num_sched_domains", &total->domains},
      {"total_resources/num_ldb_queues", &total->ldb_queues},
      {"total_resources/num_ldb_ports", &total->ldb_ports},
      {"total_resources/num_dir_ports", &total->dir_ports},
      {"total_resources/num_ldb_credits", &total->ldb_credits},
      {"total_resources/num_dir_credits", &total->dir_credits},
      {"total_resources/num_hist_list_entries", &total->history_entries},
      {"total_resources/num_atomic_inflights", &total->atomic_inflights},
      {"total_resources/num_sn0_slots", &total->sequence_slots[0]},
      {"total_resources/num_sn1_slots", &total->sequence_slots[1]},
  };
  for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
    device->system->attribute(device->context, device->number, attributes[i].name, attributes[i].amount);
}

static int read_available(struct device *device, struct pdlb_resources *available, const char *op,
                          struct pdlb_error *error) {
  struct pdlb_get_num_resources_args args = {0};
  const int rc = device_request(device, (uint32_t)PDLB_IOC_GET_NUM_RESOURCES, &args, op, error);
  if (rc < 0) return rc;
  *available = (struct pdlb_resources){
      .domains = args.num_sched_domains,
      .ldb_queues = args.num_ldb_queues,
      .ldb_ports = args.num_ldb_ports,
      .dir_ports = args.num_dir_ports,
      .ldb_credits = args.num_ldb_credits,
      .dir_credits = args.num_dir_credits,
      .history_entries = args.num_hist_list_entries,
      .atomic_inflights = args.num_atomic_inflights,
      .sequence_slots = {args.num_sn_slots[0], args.num_sn_slots[1]},
  };
  return 0;
}

static int device_resources(struct pdlb_device *base, struct pdlb_resources *total, struct pdlb_resources *available,
                            struct pdlb_error *error) {
  struct device *device = device_of(base);
  if (total) read_total(device, total);
  return available ? read_available(device, available, "resources", error) : 0;
}

static const struct pdlb_device_ops device_ops = {
    .settings = &device_settings,
    .close = device_close,
    .resources = device_resources,
    .domain_create = device_domain_create,
    .domain_join = device_domain_join,
};

/* ---- opening ------------------------------------------------------------------------------------------------- */

static int identify(struct device *device, struct pdlb_error *error) {
  struct pdlb_get_device_version_args version = {0};
  int rc = device->system->request(device->context, device->fd, (uint32_t)PDLB_IOC_GET_DEVICE_VERSION, &version);
  if (rc < 0)
    return pdlb_fail(error, rc == -ENOTTY || rc == -EINVAL ? ENOTTY : -rc, "open",
                     "%s does not answer as a DLB does (%s): it is another device", device->path, strerror(-rc));
  device->base.version = version.response.id >> 8;
  if (device->base.version != PDLB_DEVICE_V20 && device->base.version != PDLB_DEVICE_V25)
    return pdlb_fail(error, ENOTSUP, "open", "%s is a DLB of version code %u: DLB 2.0 (2) and DLB 2.5 (3) are known",
                     device->path, device->base.version);
  struct pdlb_query_cq_poll_mode_args mode = {0};
  rc = device_request(device, (uint32_t)PDLB_IOC_QUERY_CQ_POLL_MODE, &mode, "open", error);
  if (rc < 0) return rc;
  device->stride = mode.response.id == PDLB_POLL_MODE_SPARSE ? PDLB_CQ_SPARSE_STRIDE : PDLB_QE_SIZE;
  return 0;
}

static int open_node(struct device *device, struct pdlb_error *error) {
  if (!device->system->store)
    return pdlb_fail(error, ENOTSUP, "open", "%s: this processor cannot write to a DLB: it needs x86-64", device->path);
  const int fd = device->system->open(device->context, device->path, &device->number);
  if (fd == -EACCES || fd == -EPERM)
    return pdlb_fail(error, -fd, "open", "%s: this user may not open it; give it read and write access by a udev rule",
                     device->path);
  if (fd == -ENOTTY)
    return pdlb_fail(error, ENOTTY, "open", "%s is not a character device, so it is no DLB", device->path);
  if (fd == -EINVAL) return pdlb_fail(error, EBUSY, "open", "%s is being reset: try again in a moment", device->path);
  if (fd < 0) return system_failed(error, fd, "open", device, "open it");
  device->fd = fd;
  return 0;
}

int pdlb_device_open_through(const struct pdlb_system *system, void *context, const char *path,
                             struct pdlb_device **result, struct pdlb_error *error) {
  *result = NULL;
  struct device *device = calloc(1, sizeof *device);
  if (!device) return pdlb_fail(error, ENOMEM, "open", "no memory for a device");
  device->base = (struct pdlb_device){.ops = &device_ops, .backend = PDLB_BACKEND_DEVICE};
  device->system = system;
  device->context = context;
  const int length = snprintf(device->path, sizeof device->path, "%s", path);
  int rc = length >= (int)sizeof device->path ? pdlb_fail(error, ENAMETOOLONG, "open", "the path is too long: %s", path)
                                              : open_node(device, error);
  if (rc < 0) {
    free(device);
    return rc;
  }
  rc = identify(device, error);
  if (rc < 0) {
    system->close(context, device->fd);
    free(device);
    return rc;
  }
  pthread_mutex_init(&device->mutex, NULL);
  *result = &device->base;
  return 0;
}

int pdlb_device_open(const char *path, struct pdlb_device **device, struct pdlb_error *error) {
  return pdlb_device_open_through(pdlb_system_linux(), NULL, path, device, error);
}

int pdlb_device_join(const struct pdlb_shared *shared, struct pdlb_device **result, struct pdlb_error *error) {
  *result = NULL;
  struct domain_state *state;
  const int rc = state_join(shared->memory_fd, &state, NULL, error);
  if (rc < 0) return rc;
  struct device *device = calloc(1, sizeof *device);
  if (device) {
    device->base = (struct pdlb_device){.ops = &device_ops, .backend = PDLB_BACKEND_DEVICE, .version = state->version};
    device->system = pdlb_system_linux();
    memcpy(device->path, state->path, sizeof device->path - 1);
    device->fd = -1;
    device->stride = state->stride;
    pthread_mutex_init(&device->mutex, NULL);
    *result = &device->base;
  }
  state_free(state, -1);
  return device ? 0 : pdlb_fail(error, ENOMEM, "join domain", "no memory for a device");
}
