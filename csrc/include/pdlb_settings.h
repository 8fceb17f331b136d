/* What only hardware has: settings of the whole device, or of one port, that the meaning of queues and ports does not
 * depend on. On a backend without them, -EOPNOTSUPP. Any thread. Values are the driver's own.
 */
#ifndef PDLB_SETTINGS_H
#define PDLB_SETTINGS_H

#include "pdlb.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PDLB_SEQUENCE_GROUPS 2u
#define PDLB_SERVICE_CLASSES 4u

/* A device's sequence numbers come in two groups; a group has so many slots of so many numbers each. */
struct pdlb_sequence_group {
  uint32_t numbers; /* per ordered queue: 64, 128, 256, 512 or 1024 */
  uint32_t slots;   /* ordered queues that there can be */
  uint32_t taken;   /* slots that domains have reserved */
};
int pdlb_device_sequence_group(struct pdlb_device *device, uint32_t group, struct pdlb_sequence_group *result,
                               struct pdlb_error *error);
/* For all users of the device. -EPERM once a domain has reserved one of the group's slots. */
int pdlb_device_set_sequence_numbers(struct pdlb_device *device, uint32_t group, uint32_t numbers,
                                     struct pdlb_error *error);

/* The share of a class of service in what the device schedules, in per cent; all classes together have at most 100. */
int pdlb_device_bandwidth(struct pdlb_device *device, uint32_t service_class, struct pdlb_error *error);
int pdlb_device_set_bandwidth(struct pdlb_device *device, uint32_t service_class, uint32_t percent,
                              struct pdlb_error *error);

/* How consumer queues are laid out: one element to a cache line (true), or four. */
int pdlb_device_polls_sparse(struct pdlb_device *device, struct pdlb_error *error);

/* A register of a queue or a port, whoever's it is: what it is by the driver's number, and whose. -ENXIO if the
 * device has no such register. */
int pdlb_device_register(struct pdlb_device *device, uint32_t which, uint32_t id, uint32_t *value,
                         struct pdlb_error *error);

/* Load-balanced ports. The weight: how many elements the port is given in one turn, 1 to its depth. DLB 2.5 only, and
 * only before the domain is started. */
int pdlb_port_set_weight(struct pdlb_port *port, uint32_t weight, struct pdlb_error *error);
/* The port is given no more while it has so many in flight, up to 4095; PDLB_NONE lifts the limit. DLB 2.5 only.
 * Whether such limits hold at all is one switch of the device: all ports are given or relieved of theirs. */
int pdlb_port_set_inflight_threshold(struct pdlb_port *port, uint32_t threshold, struct pdlb_error *error);

#ifdef __cplusplus
}
#endif
#endif
