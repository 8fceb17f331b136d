/* The way in: credits, then the ring of the element's queue and priority.
 *
 * Every ring has room for all credits of the domain, so an element with a credit always finds a place, and
 * back-pressure shows in exactly one spot: where credits are taken.
 */
#include "internal.h"

enum pdlb_refusal engine_check_key(const struct pdlb_engine *engine, uint32_t key) {
  const struct engine_header *header = engine->header;
  const uint32_t id = key & 0xFFu, type = key >> 8;
  if (id >= (type == PDLB_SCHED_DIRECTED ? header->dir_queues : header->ldb_queues)) return PDLB_BAD_QUEUE;
  const struct engine_queue *queue = &engine->queues[engine_key_queue(engine, key)];
  if (!atomic_load_explicit(&queue->configured, memory_order_acquire)) return PDLB_BAD_QUEUE;
  return queue->types & (1u << type) ? PDLB_TAKEN : PDLB_BAD_SCHED;
}

uint32_t engine_take_credits(struct pdlb_engine *engine, uint32_t wanted) {
  _Atomic uint32_t *credits = &engine->header->credits;
  uint32_t free = atomic_load_explicit(credits, memory_order_relaxed), taken;
  do {
    taken = free < wanted ? free : wanted;
    if (UNLIKELY(taken == 0)) return 0;
  } while (
      !atomic_compare_exchange_weak_explicit(credits, &free, free - taken, memory_order_acquire, memory_order_relaxed));
  return taken;
}

static inline uint32_t load_tail(const struct engine_queue *queue, uint32_t priority) {
  return atomic_load_explicit(&queue->tail[priority], memory_order_relaxed);
}

/* The commit: whoever sees the tail sees the elements before it. */
static inline void store_tail(struct engine_queue *queue, uint32_t priority, uint32_t tail) {
  atomic_store_explicit(&queue->tail[priority], tail, memory_order_release);
}

/* One by one: the general case, where a ring may wrap. */
static uint32_t copy_each(const struct pdlb_engine *engine, uint32_t index, uint32_t key,
                          const struct pdlb_event *events, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t mask = engine_ring_mask(engine);
  uint32_t copied = 0;
  for (; copied < count && engine_event_key(&events[copied]) == key; copied++) {
    const uint32_t priority = pdlb_event_priority(&events[copied]), tail = load_tail(queue, priority);
    engine_ring(engine, index, priority)[tail & mask] = events[copied];
    store_tail(queue, priority, tail + 1);
  }
  return copied;
}

/* Into eight rings at once, none of which wraps within `count` elements. */
static uint32_t copy_batch(const struct pdlb_engine *engine, uint32_t index, uint32_t key,
                           const struct pdlb_event *events, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t mask = engine_ring_mask(engine);
  struct pdlb_event *place[PDLB_PRIORITIES];
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    place[priority] = engine_ring(engine, index, priority) + (load_tail(queue, priority) & mask);

  const struct pdlb_event *event = events, *const end = events + count;
  for (; event != end && engine_event_key(event) == key; event++) *place[pdlb_event_priority(event)]++ = *event;

  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    const uint32_t tail = load_tail(queue, priority);
    const struct pdlb_event *start = engine_ring(engine, index, priority) + (tail & mask);
    store_tail(queue, priority, tail + (uint32_t)(place[priority] - start));
  }
  return (uint32_t)(event - events);
}

static bool none_wraps(const struct pdlb_engine *engine, const struct engine_queue *queue, uint32_t count) {
  const uint32_t mask = engine_ring_mask(engine);
  uint32_t last = 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    const uint32_t at = load_tail(queue, priority) & mask;
    if (at > last) last = at;
  }
  return last + count <= mask + 1;
}

/* Fewer than these are not worth the look at all eight rings. */
#define BATCH_FROM 4u

/* Under the ingress lock. */
static uint32_t append_locked(const struct pdlb_engine *engine, uint32_t index, uint32_t key,
                              const struct pdlb_event *events, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t seen = atomic_load_explicit(&queue->types_seen, memory_order_relaxed), type = 1u << (key >> 8);
  if (UNLIKELY(!(seen & type))) atomic_store_explicit(&queue->types_seen, seen | type, memory_order_relaxed);
  const uint32_t copied = count >= BATCH_FROM && none_wraps(engine, queue, count)
                              ? copy_batch(engine, index, key, events, count)
                              : copy_each(engine, index, key, events, count);
  const uint64_t enqueued = atomic_load_explicit(&queue->enqueued, memory_order_relaxed);
  atomic_store_explicit(&queue->enqueued, enqueued + copied, memory_order_release);
  return copied;
}

/* The queue's clock starts with the element that finds nothing before it. */
static inline void start_waiting(const struct pdlb_engine *engine, struct engine_queue *queue) {
  if (engine_is_timed(engine) && atomic_load_explicit(&queue->waiting_since, memory_order_relaxed) == 0)
    atomic_store_explicit(&queue->waiting_since, engine_now(engine), memory_order_relaxed);
}

uint32_t engine_append(struct pdlb_engine *engine, uint32_t index, uint32_t key, const struct pdlb_event *events,
                       uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  engine_lock(engine, &queue->ingress);
  const uint32_t copied = append_locked(engine, index, key, events, count);
  start_waiting(engine, queue);
  engine_unlock_and_fence(&queue->ingress);
  return copied;
}

/* As engine_append, for elements that have no credit yet; takes them where a dead owner's can be told from a live
 * one's: inside the lock. */
static uint32_t append_with_credit(struct pdlb_engine *engine, uint32_t index, uint32_t key,
                                   const struct pdlb_event *events, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  engine_lock(engine, &queue->ingress);
  const uint32_t credits = engine_take_credits(engine, count);
  uint32_t copied = 0;
  if (LIKELY(credits != 0)) {
    copied = append_locked(engine, index, key, events, credits);
    if (copied < credits) engine_give_credits(engine, credits - copied);
    start_waiting(engine, queue);
  }
  engine_unlock_and_fence(&queue->ingress);
  return copied;
}

static enum pdlb_refusal check_sender(const struct pdlb_engine *engine, const struct engine_port *port) {
  if (UNLIKELY(!atomic_load_explicit(&engine->header->started, memory_order_acquire))) return PDLB_NOT_STARTED;
  if (UNLIKELY(!atomic_load_explicit(&port->enabled, memory_order_relaxed))) return PDLB_PORT_DISABLED;
  return PDLB_TAKEN;
}

uint32_t pdlb_engine_send(struct pdlb_engine *engine, uint32_t port_index, const struct pdlb_event *events,
                          uint32_t count, enum pdlb_refusal *why) {
  struct engine_port *port = &engine->ports[port_index];
  uint32_t sent = 0;
  *why = count ? check_sender(engine, port) : PDLB_TAKEN;
  while (sent < count && *why == PDLB_TAKEN) {
    const uint32_t key = engine_event_key(&events[sent]);
    *why = engine_check_key(engine, key);
    if (UNLIKELY(*why != PDLB_TAKEN)) break;
    const uint32_t queue = engine_key_queue(engine, key);
    const uint32_t copied = append_with_credit(engine, queue, key, events + sent, count - sent);
    if (UNLIKELY(copied == 0)) {
      *why = PDLB_NO_CREDIT;
      atomic_fetch_add_explicit(&engine->header->refused_no_credit, count - sent, memory_order_relaxed);
      break;
    }
    engine_offer(engine, queue, copied);
    sent += copied;
  }
  const uint64_t total = atomic_load_explicit(&port->sent, memory_order_relaxed);
  atomic_store_explicit(&port->sent, total + sent, memory_order_relaxed);
  return sent;
}

/* ---- forward: into the oldest held element's place ------------------------------------------------------------------
 */

/* The ordered queue in whose line the oldest held element has its place, or NIL. */
static uint32_t line_of_oldest(const struct pdlb_engine *engine, const struct engine_port *port) {
#ifdef PDLB_BREAK_REORDER
  return NIL;
#endif
  const struct history_entry *oldest = &engine_history(engine, port)[port->history_head & port->history_mask];
  return oldest->type == PDLB_SCHED_ORDERED ? oldest->queue : NIL;
}

/* `event` goes to its queue at once, and the oldest held element is completed after it, so that what follows in an
 * atomic flow stays behind. */
static void forward_at_once(struct pdlb_engine *engine, uint32_t port, const struct pdlb_event *event) {
  const uint32_t key = engine_event_key(event), queue = engine_key_queue(engine, key);
  engine_append(engine, queue, key, event, 1);
  engine_offer(engine, queue, 1);
  engine_complete(engine, port, 1);
}

static enum pdlb_refusal check_forward(const struct pdlb_engine *engine, const struct engine_port *port,
                                       const struct pdlb_event *event, bool credit) {
  if (port->history_head == port->history_tail) return PDLB_NOT_HELD;
  const enum pdlb_refusal why = engine_check_key(engine, engine_event_key(event));
  return why == PDLB_TAKEN && !credit ? PDLB_NO_CREDIT : why;
}

/* With credits for `credits` of the elements. */
static uint32_t forward_each(struct pdlb_engine *engine, uint32_t port_index, const struct pdlb_event *events,
                             uint32_t count, uint32_t credits, enum pdlb_refusal *why) {
  struct engine_port *port = &engine->ports[port_index];
  uint32_t sent = 0, line = NIL;
  for (; sent < count; sent++) {
    *why = check_forward(engine, port, &events[sent], sent < credits);
    if (*why != PDLB_TAKEN) break;
    const uint32_t next = line_of_oldest(engine, port);
    /* Before anything overtakes on another way. */
    if (line != NIL && line != next) engine_order_flush(engine, line);
    line = next;
    if (line != NIL)
      engine_complete_in_order(engine, port_index, &events[sent]);
    else
      forward_at_once(engine, port_index, &events[sent]);
  }
  if (line != NIL) engine_order_flush(engine, line);
  return sent;
}

uint32_t pdlb_engine_forward(struct pdlb_engine *engine, uint32_t port_index, const struct pdlb_event *events,
                             uint32_t count, enum pdlb_refusal *why) {
  struct engine_port *port = &engine->ports[port_index];
  engine_settle(engine, port_index);
  *why = count ? check_sender(engine, port) : PDLB_TAKEN;
  if (*why != PDLB_TAKEN || count == 0) return 0;

  const uint32_t credits = engine_take_credits(engine, count);
  const uint32_t sent = forward_each(engine, port_index, events, count, credits, why);
  if (sent < credits) engine_give_credits(engine, credits - sent);
  if (*why == PDLB_NO_CREDIT)
    atomic_fetch_add_explicit(&engine->header->refused_no_credit, count - sent, memory_order_relaxed);
  const uint64_t total = atomic_load_explicit(&port->sent, memory_order_relaxed);
  atomic_store_explicit(&port->sent, total + sent, memory_order_relaxed);
  return sent;
}
