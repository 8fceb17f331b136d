/* Requests to the driver, and what its refusals mean. */
#include <errno.h>
#include <string.h>

#include "device.h"

static const struct {
  const char *name, *text;
} statuses[] = {
#define ENTRY(name, text) {#name, text},
    PDLB_STATUS_LIST(ENTRY)
#undef ENTRY
};

const char *pdlb_status_name(uint32_t status) { return status < PDLB_STATUS_COUNT ? statuses[status].name : NULL; }

/* What a user can do about it. */
static const char *advice(uint32_t status) {
  switch (status) {
    case PDLB_ST_DOMAIN_STARTED:
      return ": on a device, create queues and ports before the domain is started; what is closed can be had again in "
             "the same shape";
    case PDLB_ST_SEQUENCE_NUMBERS_UNAVAILABLE:
      return ": the device's groups have another number of them each, or the domain has no slot left; see "
             "sequence_slots";
    case PDLB_ST_DOMAIN_RESET_FAILED: return ": write 1 to its reset file in sysfs, as root";
    default: return "";
  }
}

int device_gone(struct pdlb_error *error, const char *op, const struct device *device) {
  return pdlb_fail(error, ENODEV, op, "%s was reset or went away: close it and open it again", device->path);
}

/* EINVAL is the caller's mistake everywhere else; that of a plain system call is none of his. */
int system_failed(struct pdlb_error *error, int rc, const char *op, const struct device *device, const char *tried) {
  if (rc == -ENODEV) return device_gone(error, op, device);
  return pdlb_fail(error, rc == -EINVAL ? EIO : -rc, op, "%s: cannot %s: %s", device->path, tried, strerror(-rc));
}

static int refused(struct device *device, int rc, const struct pdlb_response *response, const char *op,
                   struct pdlb_error *error) {
  const uint32_t status = response->status;
  if (status == 0 || status >= PDLB_STATUS_COUNT)
    return pdlb_fail(error, -rc, op, "%s: %s", device->path, strerror(-rc));
  pdlb_fail(error, -rc, op, "%s: %s (driver status %s)%s", device->path, statuses[status].text, statuses[status].name,
            advice(status));
  if (error) error->status = status;
  return rc;
}

static int request_on(struct device *device, int fd, uint32_t request, void *args) {
  memset(args, 0, sizeof(struct pdlb_response));
  return device->system->request(device->context, fd, request, args);
}

int device_request(struct device *device, uint32_t request, void *args, const char *op, struct pdlb_error *error) {
  if (device->fd < 0)
    return pdlb_fail(error, EPERM, op, "this process has joined a domain of %s, and has not opened it", device->path);
  const int rc = request_on(device, device->fd, request, args);
  if (rc >= 0) return rc;
  const struct pdlb_response *response = args;
  if (rc == -ENODEV || (rc == -EINVAL && response->status == 0)) return device_gone(error, op, device);
  return refused(device, rc, response, op, error);
}

int device_try(struct device *device, uint32_t request, void *args, const char *op, struct pdlb_error *error) {
  if (device->fd < 0) return device_request(device, request, args, op, error);
  const int rc = request_on(device, device->fd, request, args);
  if (rc >= 0) return rc;
  struct pdlb_get_num_resources_args probe = {0};
  const int there = request_on(device, device->fd, (uint32_t)PDLB_IOC_GET_NUM_RESOURCES, &probe);
  return there < 0 ? device_gone(error, op, device) : refused(device, rc, args, op, error);
}

/* All that a domain's requests refuse has a status; without one, the domain is no more. */
int domain_request(struct domain *domain, uint32_t request, void *args, const char *op, struct pdlb_error *error) {
  if (atomic_load_explicit(&domain->state->gone, memory_order_acquire)) return device_gone(error, op, domain->device);
  const int rc = request_on(domain->device, domain->fd, request, args);
  if (rc >= 0) return rc;
  const struct pdlb_response *response = args;
  if (rc == -ENODEV || (rc == -EINVAL && response->status == 0)) {
    domain_gone(domain);
    return device_gone(error, op, domain->device);
  }
  return refused(domain->device, rc, response, op, error);
}
