/* Completing what a port holds, strictly oldest first, as the device's history list does. */
#include "internal.h"

/* ---- the queue's in-flight limit --------------------------------------------------------------------------------- */

/* With the egress lock held, for recovery counts what is in flight. True if the limit was reached before. */
static inline bool leave_flight_locked(struct engine_queue *queue, uint32_t count) {
  if (LIKELY(!queue->limited)) return false;
  return atomic_fetch_sub_explicit(&queue->inflight, count, memory_order_seq_cst) >= queue->inflight_limit;
}

/* With no lock held. Whoever finds the limit no longer reached tells those who may be asleep because of it. */
static inline void offer_room(struct pdlb_engine *engine, uint32_t index, uint32_t room) {
  const uint32_t waiting = engine_queued(&engine->queues[index]);
  if (waiting) engine_offer(engine, index, waiting < room ? waiting : room);
}

/* ---- by type ----------------------------------------------------------------------------------------------------- */

/* One element of a flow that has more of them, or on which others wait. True if that freed it for others. */
static __attribute__((noinline)) bool complete_shared_flow(struct pdlb_engine *engine, uint32_t queue, uint32_t flow) {
  _Atomic uint32_t *const at = &engine_flows(engine, queue)[flow];
  const uint32_t word = atomic_load_explicit(at, memory_order_relaxed);
  if (word & FLOW_PARKED) return engine_flow_completed(engine, queue, flow);
  atomic_store_explicit(at, word - 1, memory_order_release);
  return false;
}

/* Leading entries of atomic elements of the queue, up to `count`. Returns how many; `*freed`: flows that others wait
 * for. */
static inline uint32_t complete_flows(struct pdlb_engine *engine, const struct engine_port *port,
                                      const struct engine_queue *queue, const history_entry *entry, uint32_t count,
                                      uint32_t *freed) {
  _Atomic uint32_t *const flows = (_Atomic uint32_t *)(engine->base + queue->flows_at);
  const history_entry *const first = entry, *const end = entry + count;
  const uint32_t last_one = port->owns + 1;
  const uint64_t alike = queue->entry;
#pragma GCC unroll 4
  for (; entry != end; entry++) {
    const uint64_t flow = atomic_load_explicit(entry, memory_order_relaxed) ^ alike;
    if (UNLIKELY(flow >= FLOWS)) break;
    if (LIKELY(atomic_load_explicit(&flows[flow], memory_order_relaxed) == last_one))
      atomic_store_explicit(&flows[flow], 0, memory_order_release);
    else
      *freed += complete_shared_flow(engine, queue->index, (uint32_t)flow);
  }
  return (uint32_t)(entry - first);
}

/* Atomic entries of one queue, up to `count`, under one lock. Returns how many elements. */
static uint32_t complete_atomic(struct pdlb_engine *engine, struct engine_port *port, uint32_t index, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const history_entry *history = engine_history(engine, port);
  const uint32_t head = atomic_load_explicit(&port->history_head, memory_order_relaxed);
  const uint32_t at = head & port->history_mask, room = port->history_mask + 1 - at;
  const uint32_t straight = count < room ? count : room;
  uint32_t freed = 0;
  engine_lock(engine, &queue->egress);
  uint32_t done = complete_flows(engine, port, queue, history + at, straight, &freed);
  if (UNLIKELY(done == straight && done != count))
    done += complete_flows(engine, port, queue, history, count - done, &freed);
  atomic_store_explicit(&port->history_head, head + done, memory_order_release);
  const bool was_limited = leave_flight_locked(queue, done);
  if (LIKELY(!freed && !was_limited)) {
    engine_unlock(&queue->egress);
    return done;
  }
  engine_unlock_and_fence(&queue->egress);
  if (freed) engine_offer(engine, index, freed);
  if (was_limited) offer_room(engine, index, done);
  return done;
}

static uint32_t complete_ordered(struct pdlb_engine *engine, struct engine_port *port, uint64_t entry, uint32_t count) {
  const uint32_t index = ENTRY_QUEUE(entry);
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t done = ENTRY_COUNT(entry) < count ? ENTRY_COUNT(entry) : count;
  engine_lock(engine, &queue->egress);
  const bool next_in_line = ENTRY_FIRST(entry) == queue->oldest_sequence;
  const bool was_full = next_in_line && queue->next_sequence - queue->oldest_sequence == queue->window;
  if (next_in_line) {
    queue->oldest_sequence += done; /* nobody has looked at these places yet: they are open */
  } else {
    for (uint32_t i = 0; i < done; i++) engine_order_fill(engine, index, ENTRY_FIRST(entry) + i, NULL);
  }
  engine_shorten_oldest(engine, port, done);
  const bool was_limited = leave_flight_locked(queue, done);
  /* Whether what follows in line is complete already. */
  const bool flush = next_in_line && queue->oldest_sequence != queue->next_sequence &&
                     engine_order_slot(engine, index, queue->oldest_sequence)->state != ORDER_OPEN;
  engine_unlock_and_fence(&queue->egress);
  if (UNLIKELY(flush)) engine_order_flush(engine, index);
  if (UNLIKELY(was_full || was_limited)) offer_room(engine, index, was_full ? queue->window : done);
  return done;
}

static uint32_t complete_unordered(struct pdlb_engine *engine, struct engine_port *port, uint64_t entry,
                                   uint32_t count) {
  const uint32_t index = ENTRY_QUEUE(entry);
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t done = ENTRY_COUNT(entry) < count ? ENTRY_COUNT(entry) : count;
  if (LIKELY(!queue->limited)) {
    engine_shorten_oldest(engine, port, done);
    return done;
  }
  engine_lock(engine, &queue->egress);
  engine_shorten_oldest(engine, port, done);
  const bool was_limited = leave_flight_locked(queue, done);
  engine_unlock_and_fence(&queue->egress);
  if (was_limited) offer_room(engine, index, done);
  return done;
}

/* ---- the port's side --------------------------------------------------------------------------------------------- */

/* A port that was full and idle can be given something again. */
static void wake_if_work(struct pdlb_engine *engine, uint32_t port_index) {
  if (pdlb_engine_armed(engine, port_index) && pdlb_engine_has_work(engine, port_index))
    engine_call(engine, port_index);
}

void engine_count_released(struct pdlb_engine *engine, uint32_t port_index, uint32_t done) {
  struct engine_port *port = &engine->ports[port_index];
  const bool was_full = port->room == 0;
  engine_give_room(port, done);
  if (LIKELY(!was_full) || !done) return;
  atomic_fetch_and_explicit(&port->notice, ~NOTICE_FULL, memory_order_relaxed);
  wake_if_work(engine, port_index);
}

static inline uint32_t held_at_most(const struct engine_port *port, uint32_t count) {
  const uint32_t held = atomic_load_explicit(&port->history_limit, memory_order_relaxed) - port->room;
  return count < held ? count : held;
}

uint32_t engine_complete(struct pdlb_engine *engine, uint32_t port_index, uint32_t count) {
  struct engine_port *port = &engine->ports[port_index];
  count = held_at_most(port, count);
  uint32_t done = 0;
  while (done < count) {
    const uint64_t entry = engine_oldest(engine, port);
    const uint32_t left = count - done, type = ENTRY_TYPE(entry);
    if (type == PDLB_SCHED_ATOMIC)
      done += complete_atomic(engine, port, ENTRY_QUEUE(entry), left);
    else if (type == PDLB_SCHED_ORDERED)
      done += complete_ordered(engine, port, entry, left);
    else
      done += complete_unordered(engine, port, entry, left);
  }
  engine_count_released(engine, port_index, done);
  return done;
}

void engine_settle(struct pdlb_engine *engine, uint32_t port_index) {
  struct engine_port *port = &engine->ports[port_index];
  if (LIKELY(!(engine_notice(port) & NOTICE_LATER))) return;
  /* The notice first: who adds something after that gives notice again. */
  atomic_fetch_and_explicit(&port->notice, ~NOTICE_LATER, memory_order_seq_cst);
  const uint32_t count = atomic_exchange_explicit(&port->released_later, 0, memory_order_seq_cst);
  engine_complete(engine, port_index, count);
}

static __attribute__((noinline)) uint32_t release_some(const struct pdlb_engine_user *user, uint32_t count) {
  engine_settle(user->engine, user->index);
  return engine_complete(user->engine, user->index, count);
}

uint32_t pdlb_engine_release(const struct pdlb_engine_user *user, uint32_t count) {
  const bool notice = engine_has_any(&user->port->notice, NOTICE_LATER | NOTICE_FULL);
  return LIKELY(!notice) && LIKELY(engine_release_quietly(user, count)) ? count : release_some(user, count);
}

void pdlb_engine_release_later(struct pdlb_engine *engine, uint32_t port_index, uint32_t count) {
  struct engine_port *port = &engine->ports[port_index];
  const uint32_t held = engine_in_flight(port);
  const uint32_t later = atomic_fetch_add_explicit(&port->released_later, count, memory_order_seq_cst);
  atomic_fetch_or_explicit(&port->notice, NOTICE_LATER, memory_order_seq_cst);
  if (held - later >= atomic_load_explicit(&port->history_limit, memory_order_relaxed))
    wake_if_work(engine, port_index);
}
