/* What the engine's sources share with each other and with nobody else. */
#ifndef PDLB_ENGINE_INTERNAL_H
#define PDLB_ENGINE_INTERNAL_H

#include <string.h>

#include "lock.h"
#include "region.h"

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Elements handed over at a time where a batch of the caller's is not at hand. */
#define ENGINE_BATCH 32u

/* ---- enqueue.c
 * ------------------------------------------------------------------------------------------------------- */

/* Queue and type of an element, as they stand in its bytes 10 and 11: elements with the same key go the same way. */
static inline uint32_t engine_event_key(const struct pdlb_event *event) {
  return (uint32_t)event->queue | ((uint32_t)(event->sched & 3u) << 8);
}

static inline uint32_t engine_key_queue(const struct pdlb_engine *engine, uint32_t key) {
  return pdlb_engine_queue_index(engine, key & 0xFFu, (key >> 8) == PDLB_SCHED_DIRECTED);
}

enum pdlb_refusal engine_check_key(const struct pdlb_engine *engine, uint32_t key);

uint32_t engine_take_credits(struct pdlb_engine *engine, uint32_t wanted);
static inline void engine_give_credits(struct pdlb_engine *engine, uint32_t count) {
  atomic_fetch_add_explicit(&engine->header->credits, count, memory_order_release);
}

static inline bool engine_is_timed(const struct pdlb_engine *engine) {
  return UNLIKELY(atomic_load_explicit(&engine->header->timed, memory_order_relaxed));
}

static inline uint64_t engine_now(const struct pdlb_engine *engine) { return engine->host->now(engine->context); }

/* Append the leading elements that have `key`, for which the caller holds credits. Wakes nobody. */
uint32_t engine_append(struct pdlb_engine *engine, uint32_t queue, uint32_t key, const struct pdlb_event *events,
                       uint32_t count);

/* ---- wake.c
 * ------------------------------------------------------------------------------------------------------------ */

void engine_offer_to_idle(struct pdlb_engine *engine, uint32_t queue, uint32_t count);

/* `count` elements of `queue` wait: wake idle ports for them. To be called with no lock held, and after a
 * sequentially consistent operation that followed the commit. */
static inline void engine_offer(struct pdlb_engine *engine, uint32_t queue, uint32_t count) {
  const _Atomic uint64_t *idle = engine_idle(engine);
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    if (UNLIKELY(atomic_load_explicit(&idle[word], memory_order_seq_cst) &
                 atomic_load_explicit(&linked[word], memory_order_relaxed))) {
      engine_offer_to_idle(engine, queue, count);
      return;
    }
  }
}

/* Even sharing: wake up to `count` idle ports that are due. Returns how many. */
uint32_t engine_offer_to_due(struct pdlb_engine *engine, uint32_t queue, uint32_t count);

/* Wake this very port, if it is idle. */
void engine_call(struct pdlb_engine *engine, uint32_t port);

/* Even sharing, under the queue's egress lock: how many of `waiting` elements the port may take now. 0 means that
 * others are due first; `*retry_at` is then lowered to the end of their grace, and `*offer` set where one of them has
 * not been told. */
uint32_t engine_even_share(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t waiting,
                           uint64_t *retry_at, bool *offer);

/* What the port holds, as balancing sees it: what is to be released later does not count. */
static inline uint32_t engine_load(const struct engine_port *port) {
  const uint32_t held = atomic_load_explicit(&port->in_flight, memory_order_relaxed);
  const uint32_t later = atomic_load_explicit(&port->released_later, memory_order_relaxed);
  return held > later ? held - later : 0;
}

static inline bool engine_has_room(const struct engine_port *port) {
  return port->directed || engine_load(port) < port->history_limit;
}

/* ---- release.c
 * --------------------------------------------------------------------------------------------------------- */

/* Complete the `count` oldest elements, whatever may be put off. */
uint32_t engine_complete(struct pdlb_engine *engine, uint32_t port, uint32_t count);

void engine_release_put_off(struct pdlb_engine *engine, uint32_t port);

/* Carry out what pdlb_engine_release_later put off. */
static inline void engine_settle(struct pdlb_engine *engine, uint32_t port) {
  if (UNLIKELY(atomic_load_explicit(&engine->ports[port].released_later, memory_order_relaxed)))
    engine_release_put_off(engine, port);
}

/* The oldest element that the port holds is an ordered one: `event` takes its place in line. The line is not moved. */
void engine_complete_in_order(struct pdlb_engine *engine, uint32_t port, const struct pdlb_event *event);

/* ---- schedule.c
 * -------------------------------------------------------------------------------------------------------- */

/* Without a lock, so a guess: elements in rings and parked. An element may be taken before its sender has counted it;
 * that one has yet to look for idle ports. */
static inline uint32_t engine_queued(const struct engine_queue *queue) {
  const uint64_t out = atomic_load_explicit(&queue->scheduled, memory_order_seq_cst);
  const uint64_t in = atomic_load_explicit(&queue->enqueued, memory_order_seq_cst);
  return in > out ? (uint32_t)(in - out) : 0;
}

/* ---- flows.c: all under the queue's egress lock
 * --------------------------------------------------------------------------- */

/* Set an element aside because its flow is in flight elsewhere, or has elements set aside before it. Returns the
 * port that has the flow in flight, or NIL. */
uint32_t engine_park(struct pdlb_engine *engine, uint32_t queue, const struct pdlb_event *event);
/* Take up to `count` parked elements of this priority that the port may have, its own flows first; each gets its
 * entry in the port's history list. */
uint32_t engine_unpark(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t slot, uint32_t priority,
                       struct pdlb_event *events, uint32_t count);
/* One element of the flow was completed. True if that freed the flow and it has parked elements. */
bool engine_flow_completed(struct pdlb_engine *engine, uint32_t queue, uint32_t flow);
void engine_flows_unlinked(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t slot);
void engine_flows_linked(struct pdlb_engine *engine, uint32_t queue, uint32_t port);

static inline uint32_t engine_flow_owned_by(uint32_t port) { return (port + 1u) << FLOW_OWNER_SHIFT; }

static inline void engine_history_push(const struct pdlb_engine *engine, struct engine_port *port, uint32_t queue,
                                       uint32_t type, uint32_t first, uint32_t count) {
  struct history_entry *entry = &engine_history(engine, port)[port->history_tail & port->history_mask];
  entry->first = first;
  entry->count = (uint16_t)count;
  entry->queue = (uint8_t)queue;
  entry->type = (uint8_t)type;
  port->history_tail++;
}

/* ---- order.c
 * --------------------------------------------------------------------------------------------------------------- */

/* Under the queue's egress lock: what takes the place of sequence number `sequence`; NULL for nothing. */
void engine_order_fill(struct pdlb_engine *engine, uint32_t queue, uint32_t sequence, const struct pdlb_event *event);
/* Send on, in order, what is complete from the oldest place on. With no lock held. */
void engine_order_flush(struct pdlb_engine *engine, uint32_t queue);

#endif
