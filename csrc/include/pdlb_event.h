/* The queue element (QE) as pydlb's users see it, and the constants that travel with it.
 *
 * The layout follows the element that the device takes at a producer port (data at 0, opaque at 8, queue at 10,
 * scheduling type and priority at 11, flow at 12), so that the device path copies it and changes one or two bytes.
 * pydlb.EVENT_DTYPE describes the same sixteen bytes.
 */
#ifndef PDLB_EVENT_H
#define PDLB_EVENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define PDLB_STATIC_ASSERT static_assert
#else
#define PDLB_STATIC_ASSERT _Static_assert
#endif

struct pdlb_event {
  uint64_t data;   /* carried through untouched */
  uint16_t opaque; /* carried through untouched */
  uint8_t queue;   /* id of the queue; load-balanced and directed queues are numbered apart */
  uint8_t sched;   /* bits 0-1 enum pdlb_sched, bits 2-4 priority (0 is the highest); bits 5-7 are carried through */
  uint16_t flow;   /* atomic scheduling: events of one flow are never on two ports at once */
  uint8_t flags;   /* PDLB_EVENT_* on a received event; 0 on a sent one */
  uint8_t command; /* 0: the verb (send, forward) decides */
};

PDLB_STATIC_ASSERT(sizeof(struct pdlb_event) == 16, "an event is sixteen bytes");
PDLB_STATIC_ASSERT(offsetof(struct pdlb_event, queue) == 10, "queue follows data and opaque");
PDLB_STATIC_ASSERT(offsetof(struct pdlb_event, flow) == 12, "flow follows the scheduling byte");

/* Scheduling types, with the device's codes. */
enum pdlb_sched {
  PDLB_SCHED_ATOMIC = 0,
  PDLB_SCHED_UNORDERED = 1,
  PDLB_SCHED_ORDERED = 2,
  PDLB_SCHED_DIRECTED = 3,
};

#define PDLB_PRIORITIES 8u
#define PDLB_EVENT_ERROR 0x01u /* the device marked the element as bad */

static inline unsigned pdlb_event_type(const struct pdlb_event *event) { return event->sched & 3u; }

static inline unsigned pdlb_event_priority(const struct pdlb_event *event) { return (event->sched >> 2) & 7u; }

static inline uint8_t pdlb_sched_byte(unsigned type, unsigned priority) {
  return (uint8_t)((type & 3u) | ((priority & 7u) << 2));
}

#endif
