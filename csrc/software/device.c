/* A software device: a set of limits, and what of it is taken. */
#include <errno.h>
#include <stdlib.h>

#include "software.h"

#define MAX_DOMAINS 64u

/* The numbers of a DLB 2.5 physical function. */
static const struct pdlb_resources hardware_limits = {
    .domains = 32,
    .ldb_queues = 32,
    .ldb_ports = 64,
    .dir_ports = 96,
    .ldb_credits = 16384,
    .history_entries = 2048,
    .atomic_inflights = 2048,
    .sequence_slots = {16, 16},
};

/* Bounded by an event's 8-bit queue id, by what a flow word can name, and by memory that nobody would miss. */
static const struct pdlb_resources large_limits = {
    .domains = MAX_DOMAINS,
    .ldb_queues = 256,
    .ldb_ports = 1024,
    .dir_ports = 256,
    .ldb_credits = 1u << 20,
    .history_entries = 1u << 20,
    .atomic_inflights = 1u << 20,
    .sequence_slots = {1024, 1024},
};

static int device_close(struct pdlb_device *base) {
  struct software_device *device = (struct software_device *)base;
  pthread_mutex_lock(&device->mutex);
  const bool busy = device->domains != 0 || device->joined != 0;
  pthread_mutex_unlock(&device->mutex);
  if (busy) return -EBUSY;
  pthread_mutex_destroy(&device->mutex);
  free(device);
  return 0;
}

static int device_resources(struct pdlb_device *base, struct pdlb_resources *total, struct pdlb_resources *available,
                            struct pdlb_error *error) {
  struct software_device *device = (struct software_device *)base;
  (void)error;
  pthread_mutex_lock(&device->mutex);
  if (total) *total = device->total;
  if (available) *available = device->available;
  pthread_mutex_unlock(&device->mutex);
  return 0;
}

static const struct pdlb_device_ops device_ops = {
    .close = device_close,
    .resources = device_resources,
    .domain_create = software_domain_create,
    .domain_join = software_domain_join,
};

int pdlb_device_open_software(enum pdlb_limits limits, struct pdlb_device **result, struct pdlb_error *error) {
  *result = NULL;
  if (limits != PDLB_LIMITS_HARDWARE && limits != PDLB_LIMITS_LARGE)
    return pdlb_fail(error, EINVAL, "open", "limits is %d: it is HARDWARE (0) or LARGE (1)", (int)limits);
  struct software_device *device = calloc(1, sizeof *device);
  if (!device) return pdlb_fail(error, ENOMEM, "open", "no memory for a software device");
  device->base = (struct pdlb_device){.ops = &device_ops, .backend = PDLB_BACKEND_SOFTWARE, .version = 3};
  pthread_mutex_init(&device->mutex, NULL);
  device->total = limits == PDLB_LIMITS_LARGE ? large_limits : hardware_limits;
  device->available = device->total;
  device->order_slots = limits == PDLB_LIMITS_LARGE ? 65536 : 1024;
  *result = &device->base;
  return 0;
}
