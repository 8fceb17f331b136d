/* What the device backend asks of the world: a handful of system calls, and the store of a line. Linux answers them,
 * or an emulated device in this process, or a test that lets one of them fail.
 *
 * Results are >= 0, or -errno.
 */
#ifndef PDLB_SYSTEM_H
#define PDLB_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pdlb_abi.h"

struct pdlb_device;
struct pdlb_error;

struct pdlb_system {
  /* A device node; the descriptor is closed on exec. `number`: N of dlbN, whose attributes it has. */
  int (*open)(void *context, const char *path, uint32_t *number);
  int (*close)(void *context, int fd);
  /* The driver does not make its descriptors so. */
  int (*close_on_exec)(void *context, int fd);
  /* A descriptor of the driver's once more, closed on exec; NULL where nothing can be shared with other processes. */
  int (*duplicate)(void *context, int fd);
  int (*request)(void *context, int fd, uint32_t request, void *args);
  int (*map)(void *context, int fd, size_t length, bool writable, void **address);
  int (*unmap)(void *context, void *address, size_t length);
  /* Wait for a domain's next alert. */
  int (*read_alert)(void *context, int fd, struct pdlb_domain_alert *alert);
  /* A file below the device's directory in sysfs, as a number. */
  int (*attribute)(void *context, uint32_t number, const char *name, uint32_t *value);
  /* An eventfd, non-blocking and closed on exec. */
  int (*event)(void *context);
  /* Four elements to a mapped producer port, at once. */
  void (*store)(void *context, void *producer, const struct pdlb_qe *line);
  /* Wait until an element is written whose last byte `command` is, or some microseconds. `generation`: what its
   * generation bit is then. NULL where the processor cannot. */
  void (*watch)(void *context, const uint8_t *command, uint8_t generation);
};

/* The kernel's. `store` is NULL where the processor has no way to write a line. */
const struct pdlb_system *pdlb_system_linux(void);

/* A device by way of `system`, which with its context must outlive it. */
int pdlb_device_open_through(const struct pdlb_system *system, void *context, const char *path,
                             struct pdlb_device **device, struct pdlb_error *error);

#endif
