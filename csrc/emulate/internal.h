/* What the model's sources share with each other and with nobody else. */
#ifndef PDLB_EMULATE_INTERNAL_H
#define PDLB_EMULATE_INTERNAL_H

#include <errno.h>
#include <string.h>

#include "emulate.h"
#include "journal.h"
#include "state.h"

#if defined(__clang__) || defined(__GNUC__)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define UNLIKELY(condition) (condition)
#endif

static inline struct device *device_of(const struct emulation *emulation, unsigned device) {
  return &emulation->region->devices[device];
}

static inline bool is_v25(const struct device *device) { return device->control.version == PDLB_DEVICE_V25; }

static inline unsigned device_number(const struct emulation *emulation, const struct device *device) {
  return (unsigned)(device - emulation->region->devices);
}

/* ---- lock.c -------------------------------------------------------------------------------------------------- */

void device_lock(struct emulation *emulation, struct device *device);
void device_unlock(struct device *device);
int futex_wait(_Atomic uint32_t *word, uint32_t value, long milliseconds);
void futex_wake_all(_Atomic uint32_t *word);
void bell_ring(struct doorbell *bell);
uint64_t process_start_time(uint32_t process, bool *zombie);
/* Whether the process that began at that time has not ended. */
bool process_lives(uint32_t process, uint64_t started);

/* ---- resources.c --------------------------------------------------------------------------------------------- */

void resources_init(struct device *device, uint32_t version);
/* The same for a device that others may look at. Not a step: who finds it half done does it again. */
void renew(struct device *device, uint32_t version);
int resources_create_domain(struct device *device, struct pdlb_create_sched_domain_args *args);
void resources_report(const struct device *device, struct pdlb_get_num_resources_args *args);
void resources_release_domain(struct device *device, unsigned domain);
int set_sn_allocation(struct device *device, uint32_t group, uint32_t sns_per_queue);
int set_cos_bandwidth(struct device *device, uint32_t cos, uint32_t percent);
uint16_t take_ldb_queue(struct device *device, struct domain *domain);
uint16_t take_ldb_port(struct device *device, struct domain *domain, uint32_t cos, bool strict);
uint16_t take_dir_pair(struct device *device, struct domain *domain, bool producer);

/* ---- placement.c --------------------------------------------------------------------------------------------- */

/* The processor that a domain's producers run on; how many of its pairs are set aside for them. */
unsigned producer_processor(const struct pdlb_create_sched_domain_args *args);
unsigned count_producers(const struct pdlb_create_sched_domain_args *args);
unsigned pair_distance(uint16_t id, unsigned processor);
/* The class of service that load-balanced ports of no class are taken from first. */
unsigned best_class(const struct device *device, const struct pdlb_create_sched_domain_args *args);

/* ---- links.c: within a step that has saved all of `control` -------------------------------------------------- */

int link_queue(struct device *device, unsigned domain, struct pdlb_map_qid_args *args);
int unlink_queue(struct device *device, unsigned domain, struct pdlb_unmap_qid_args *args);
/* Whether links of the port or the queue wait for elements to be released. */
bool links_waiting(const struct device *device, unsigned port, unsigned queue);
/* An element of the queue was released by the port: finish what waited for that. */
void links_progress(struct device *device, unsigned port, unsigned queue);

/* ---- schedule.c: the data path's small interface ------------------------------------------------------------- */

/* Queues that may have something to schedule. */
struct queue_set {
  uint64_t words[NUM_QUEUES / 64];
};

static inline void queue_set_add(struct queue_set *set, unsigned queue) {
  set->words[queue / 64] |= (uint64_t)1 << queue % 64;
}

/* These five change state within a step of the caller's. */
uint16_t element_allocate(struct device *device, const struct pdlb_qe *qe, unsigned sender);
/* Into the queue that the element names; returns it. Its credit is already taken. */
unsigned schedule_enqueue(struct device *device, uint16_t element);
/* Complete the oldest element that the port holds; `element`, if any, goes on in its place, in order where the held
 * one was ordered. Adds the queues concerned to `touched`. */
void schedule_complete(struct device *device, unsigned port, uint16_t element, struct queue_set *touched);
/* One more element goes on in the place of the oldest one, which stays open. */
void schedule_fragment(struct device *device, unsigned port, uint16_t element);
/* Send on one place of the ordered queue's line, if the oldest is complete. */
bool schedule_advance_line(struct device *device, unsigned queue, struct queue_set *touched);

bool schedule_holds_ordered(const struct device *device, unsigned port);
/* Write elements to consumer queues until there is no more room or work; each element is a step of its own. */
void pump_port(struct emulation *emulation, struct device *device, unsigned port);
void pump_queues(struct emulation *emulation, struct device *device, const struct queue_set *queues);
void pump_domain(struct emulation *emulation, struct device *device, unsigned domain);
/* Carry out the effects of a committed step. */
void apply_effects(struct emulation *emulation, struct device *device);
/* Drop one thing that the domain's queues and ports hold, as a step; false if there is nothing more. */
bool schedule_discard_one(struct device *device, unsigned domain);

/* ---- store.c ------------------------------------------------------------------------------------------------- */

/* Elements arrive at a producer port, in order. */
void store_elements(struct emulation *emulation, struct device *device, unsigned port, uint64_t serial,
                    const struct pdlb_qe *qes, unsigned count);
/* What was stored by one who was killed in the midst of it. */
void finish_stores(struct emulation *emulation, struct device *device);
void arm_interrupt(struct emulation *emulation, struct device *device, unsigned port);
/* Complete and return everything that the domain's ports hold, once. */
void drain_ports(struct emulation *emulation, struct device *device, unsigned domain);

/* ---- alerts.c ------------------------------------------------------------------------------------------------ */

/* Within a step; ring the domain's bell afterwards. */
void raise_alert(struct device *device, unsigned domain, uint64_t id, uint64_t aux);
/* How alerts name a port. */
static inline uint32_t alert_port(unsigned port) {
  return port < PDLB_NUM_LDB_PORTS ? port | PDLB_ALERT_AUX_LDB : port - PDLB_NUM_LDB_PORTS;
}

/* ---- lifetime.c ---------------------------------------------------------------------------------------------- */

void reset_domain(struct emulation *emulation, struct device *device, unsigned domain);
void function_reset(struct emulation *emulation, struct device *device);

/* ---- device.c, domain.c: within a step that has saved all of `control` --------------------------------------- */

int device_command(struct device *device, unsigned number, void *args);
/* What is to be done once a domain's command is committed. */
struct aftermath {
  bool pump, drain, alert;
  int bell; /* a port whose sleepers must look again; -1: none */
};
int domain_command(struct device *device, unsigned domain, unsigned number, void *args, struct aftermath *after);

/* ---- faults.c ---------------------------------------------------------------------------------------------------- */

bool fault_now(struct emulation *emulation, enum emulate_fault_action action);

/* ---- attributes.c -------------------------------------------------------------------------------------------- */

uint32_t credits_of(const struct device *device, unsigned kind);

#endif
