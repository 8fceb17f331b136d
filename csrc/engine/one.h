/* One element at a time, on the way that is hoped for: sent into a front that has room, taken as the only one that
 * waits, released as the only one of its flow. Inlined where a port's verbs are, because at this size each call, each
 * saved register and each pointer that has to be found again is felt.
 *
 * What is not as hoped for is left as it was, for the general way to see to. Nothing is called but to end with it.
 */
#ifndef PDLB_ENGINE_ONE_H
#define PDLB_ENGINE_ONE_H

#include "front.h"
#include "ring.h"

/* What keeps a port from being given one element at once. */
#define NOTICES_TO_TAKE_ONE \
  (NOTICE_DISABLED | NOTICE_STALLED | NOTICE_LATER | NOTICE_RELEASES | NOTICE_CALLED | NOTICE_FULL | NOTICE_HOST)

static inline __attribute__((always_inline)) void engine_put_one_in_front(struct engine_queue *queue, uint64_t tail,
                                                                          const struct pdlb_event *event) {
  const size_t slot = tail & FRONT_MASK;
  queue->front[slot] = *event;
  queue->front_key[slot] = front_key_of(event);
}

/* The ring of one queue and priority; as engine_ring, with what the port has at hand. */
static inline struct pdlb_event *engine_ring_for(const struct pdlb_engine_user *user, const struct engine_queue *queue,
                                                 uint32_t priority) {
  return user->rings + (uint64_t)(queue->index * PDLB_PRIORITIES + priority) * (user->ring_mask + 1);
}

/* What comes goes into the rings, if there are credits for it. */
static inline bool engine_rings_take(const struct engine_queue *queue) {
  return engine_get(&queue->ring_in) < queue->rings_until;
}

static inline bool engine_has_credits(const struct engine_queue *queue, uint32_t count) {
  return engine_get(&queue->front_tail) + engine_get(&queue->ring_in) + count <= queue->credit_until;
}

static inline __attribute__((always_inline)) void engine_put_one_in_ring(struct engine_queue *queue,
                                                                         struct pdlb_event *ring, uint32_t mask,
                                                                         uint32_t priority,
                                                                         const struct pdlb_event *event) {
  const uint32_t tail = atomic_load_explicit(&queue->tail[priority], memory_order_relaxed);
  ring[tail & mask] = *event;
  engine_fetch_to_write(&ring[(tail + RING_AHEAD) & mask]);
  atomic_store_explicit(&queue->tail_next[priority], tail + 1, memory_order_relaxed);
  engine_add(&queue->ring_in, 1); /* the commit */
  atomic_store_explicit(&queue->tail[priority], tail + 1, memory_order_release);
}

/* Under the ingress lock, which is given up. Whether somebody is idle is seen without a fence: who has become so since
 * the lock was taken goes through it, and looks again (wake.c). */
static inline __attribute__((always_inline)) uint32_t engine_send_one_locked(const struct pdlb_engine_user *user,
                                                                             const struct pdlb_event *event,
                                                                             enum pdlb_refusal *why,
                                                                             struct engine_queue *queue, uint32_t way) {
  const uint64_t tail = engine_get(&queue->front_tail);
  if (tail < queue->front_until && LIKELY(engine_is(&queue->front_way, way))) {
    engine_put_one_in_front(queue, tail, event);
    atomic_store_explicit(&queue->front_tail, tail + 1, memory_order_release); /* the commit */
  } else if (LIKELY(engine_rings_take(queue)) && LIKELY(engine_has_credits(queue, 1))) {
    const uint32_t priority = pdlb_event_priority(event);
    engine_put_one_in_ring(queue, engine_ring_for(user, queue, priority), user->ring_mask, priority, event);
  } else {
    return engine_send_one_otherwise(user, event, why, queue);
  }
  engine_unlock(&queue->ingress);
  engine_add(&user->port->sent, 1);
  *why = PDLB_TAKEN;
  if (UNLIKELY(engine_may_offer(user->idle, queue))) return engine_offer_sent(user->engine, queue->index, 1);
  return engine_one();
}

/* pdlb_engine_send of one. */
static inline __attribute__((always_inline)) uint32_t engine_send_one(const struct pdlb_engine_user *user,
                                                                      const struct pdlb_event *event,
                                                                      enum pdlb_refusal *why) {
  if (UNLIKELY(engine_has_any(&user->port->notice, NOTICE_STOPPED | NOTICE_DISABLED)))
    return pdlb_engine_send(user, event, 1, why);
  size_t way = engine_event_key(event);
  __asm__("" : "+r"(way)); /* so that it is kept, and not computed for each use */
  const uint32_t at = atomic_load_explicit(&user->routes[way], memory_order_acquire);
  if (UNLIKELY(!at)) return pdlb_engine_send(user, event, 1, why);
  struct engine_queue *queue = (struct engine_queue *)(user->base + at);
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->ingress))) return pdlb_engine_send(user, event, 1, why);
  return engine_send_one_locked(user, event, why, queue, (uint32_t)way);
}

/* Ordered elements get their places in line. False if there are not enough. */
static inline bool engine_take_places(struct engine_queue *queue, uint32_t count, uint32_t *first) {
  *first = queue->next_sequence;
  if (UNLIKELY(*first - queue->oldest_sequence + count > queue->window)) return false;
  queue->next_sequence = *first + count;
  return true;
}

/* The history tells of an element of the only queue as the port's next one, if the port may have it. */
static inline __attribute__((always_inline)) bool engine_hold_one(const struct pdlb_engine_user *user,
                                                                  const struct engine_port *port,
                                                                  const struct pdlb_event *event, uint32_t type,
                                                                  uint32_t *history_tail) {
  uint64_t entry = user->queue_entry;
  if (LIKELY(type == PDLB_SCHED_ATOMIC)) {
    const size_t flow = event->flow;
    const uint32_t word = atomic_load_explicit(&user->queue_flows[flow], memory_order_acquire);
    uint32_t more = user->holds_one;
    if (UNLIKELY(word)) {
      if (!engine_may_take_flow(word, port->owns)) return false;
      more = word + 1;
    }
    atomic_store_explicit(&user->queue_flows[flow], more, memory_order_relaxed);
    entry |= flow;
  } else if (UNLIKELY(type == PDLB_SCHED_ORDERED)) {
    uint32_t first;
    if (!engine_take_places(user->queue, 1, &first)) return false;
    entry = ENTRY_MAKE(first, 1, user->queue->index, type);
  } else {
    entry |= (uint64_t)type << ENTRY_TYPE_SHIFT;
  }
  *history_tail = atomic_load_explicit(&port->history_tail, memory_order_relaxed);
  if (LIKELY(type != PDLB_SCHED_DIRECTED))
    atomic_store_explicit(&user->history[(*history_tail)++ & port->history_mask], entry, memory_order_relaxed);
  return true;
}

/* The port has what its history tells up to `history_tail`: `count` elements that have left the queue, whose egress
 * lock is given up. */
static inline __attribute__((always_inline)) void engine_take_hold(struct engine_port *port, struct engine_queue *queue,
                                                                   uint32_t count, uint32_t history_tail,
                                                                   uint32_t type) {
  atomic_store_explicit(&port->history_tail, history_tail, memory_order_release);
  engine_add(&port->received, count);
  if (UNLIKELY(type == PDLB_SCHED_DIRECTED))
    engine_add(&port->released, count);
  else
    engine_take_room(port, count);
  port->last_received = count;
  engine_count_given(queue, count);
  engine_unlock(&queue->egress);
}

/* Under the egress lock: nobody else has taken the element at `taken`, nothing waits elsewhere, and the port still
 * serves the queue. */
static inline __attribute__((always_inline)) bool engine_only_waits(const struct pdlb_engine_user *user,
                                                                    const struct engine_port *port,
                                                                    const struct engine_queue *queue, uint64_t taken) {
  return LIKELY(engine_is_64(&queue->front_taken, taken)) && LIKELY(engine_is(&queue->slow, 0)) &&
         LIKELY(engine_is(&port->only_link, user->only));
}

/* pdlb_engine_schedule of the only element that waits in the only queue. The caller has looked at the notices. False if
 * nothing is received: perhaps there is something, the general way. */
static inline __attribute__((always_inline)) bool engine_take_only(const struct pdlb_engine_user *user,
                                                                   struct pdlb_event *event) {
  struct engine_port *port = user->port;
  struct engine_queue *queue = user->queue;
  const uint64_t tail = atomic_load_explicit(&queue->front_tail, memory_order_acquire);
  const uint64_t taken = engine_get(&queue->front_taken);
  if (UNLIKELY(tail != taken + 1)) return false;
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->egress))) return false;
  if (UNLIKELY(!engine_only_waits(user, port, queue, taken))) goto otherwise;
  *event = queue->front[taken & FRONT_MASK];
  const uint32_t type = pdlb_event_type(event);
  uint32_t history_tail;
  if (UNLIKELY(!engine_hold_one(user, port, event, type, &history_tail))) goto otherwise;
  atomic_store_explicit(&queue->front_taken, taken + 1, memory_order_release); /* the commit */
  engine_take_hold(port, queue, 1, history_tail, type);
  return true;

otherwise:
  engine_unlock(&queue->egress);
  return false;
}

/* What the history says of one unordered element of a queue, beside what it says of an atomic one. */
#define ENTRY_UNORDERED ((uint64_t)PDLB_SCHED_UNORDERED << ENTRY_TYPE_SHIFT)

static inline uint64_t engine_oldest_beside_atomic(const struct pdlb_engine_user *user, const struct engine_port *port,
                                                   uint32_t head) {
  return atomic_load_explicit(&user->history[head & port->history_mask], memory_order_relaxed) ^ user->queue_entry;
}

static inline bool engine_holds_any(const struct engine_port *port, uint32_t head) {
  return !engine_is(&port->history_tail, head);
}

/* The port's oldest element is completed, if it is of the only queue, and unordered or the only one of an atomic flow.
 * An entry that was completed says of an atomic one what it did before, but then the port does not have the flow. */
static inline __attribute__((always_inline)) bool engine_release_oldest(const struct pdlb_engine_user *user) {
  struct engine_port *port = user->port;
  const uint32_t head = atomic_load_explicit(&port->history_head, memory_order_relaxed);
  const uint64_t flow = engine_oldest_beside_atomic(user, port, head);
  uint32_t word = user->holds_one;
  if (LIKELY(flow < FLOWS)) {
    if (UNLIKELY(!atomic_compare_exchange_strong_explicit(&user->queue_flows[flow], &word, 0, memory_order_release,
                                                          memory_order_relaxed)))
      return false;
  } else if (flow != ENTRY_UNORDERED || !engine_holds_any(port, head)) {
    return false;
  }
  atomic_store_explicit(&port->history_head, head + 1, memory_order_release);
  engine_give_room(port, 1);
  return true;
}

/* The same under the egress lock of the queue, where a look at the flow's word and a store will do; and what it gives,
 * the port is about to take again, so that its room stays as it is. */
static inline __attribute__((always_inline)) bool engine_exchange_oldest(const struct pdlb_engine_user *user,
                                                                         struct engine_port *port) {
  const uint32_t head = atomic_load_explicit(&port->history_head, memory_order_relaxed);
  const uint64_t flow = engine_oldest_beside_atomic(user, port, head);
  if (LIKELY(flow < FLOWS)) {
    if (UNLIKELY(!engine_is(&user->queue_flows[flow], user->holds_one))) return false;
    atomic_store_explicit(&user->queue_flows[flow], 0, memory_order_release);
  } else if (flow != ENTRY_UNORDERED || !engine_holds_any(port, head)) {
    return false;
  }
  atomic_store_explicit(&port->history_head, head + 1, memory_order_release);
  engine_add(&port->released, 1);
  return true;
}

/* The port has an element that left the queue, whose egress lock is given up, instead of the one that it had. */
static inline __attribute__((always_inline)) void engine_hold_instead(struct engine_port *port,
                                                                      struct engine_queue *queue,
                                                                      uint32_t history_tail) {
  atomic_store_explicit(&port->history_tail, history_tail, memory_order_release);
  engine_add(&port->received, 1);
  engine_count_given(queue, 1);
  engine_unlock(&queue->egress);
}

/* It has none after all. */
static inline void engine_hold_nothing(struct engine_port *port) {
  port->last_received = 0;
  port->room++;
}

/* A port that releases what the receive before returned: engine_take_only, and if that was one, it is released. */
static inline __attribute__((always_inline)) bool engine_exchange_only(const struct pdlb_engine_user *user,
                                                                       struct pdlb_event *event) {
  struct engine_port *port = user->port;
  struct engine_queue *queue = user->queue;
  const uint64_t tail = atomic_load_explicit(&queue->front_tail, memory_order_acquire);
  const uint64_t taken = engine_get(&queue->front_taken);
  if (UNLIKELY(tail != taken + 1) || UNLIKELY(port->last_received != 1)) return false;
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->egress))) return false;
  if (UNLIKELY(!engine_only_waits(user, port, queue, taken)) || UNLIKELY(!engine_exchange_oldest(user, port)))
    goto otherwise;
  *event = queue->front[taken & FRONT_MASK];
  const uint32_t type = pdlb_event_type(event);
  uint32_t history_tail;
  if (UNLIKELY(!engine_hold_one(user, port, event, type, &history_tail))) {
    engine_hold_nothing(port);
    goto otherwise;
  }
  atomic_store_explicit(&queue->front_taken, taken + 1, memory_order_release); /* the commit */
  engine_hold_instead(port, queue, history_tail);
  return true;

otherwise:
  engine_unlock(&queue->egress);
  return false;
}

/* How many elements of a run (region.h) are known to come next. */
static inline uint64_t engine_left_of_run(const struct engine_queue *queue) {
  const uint64_t until = engine_get(&queue->run_until), given = engine_get(&queue->given);
  return until > given ? until - given : 0;
}

static inline bool engine_run_is_in_ring(const struct engine_queue *queue) {
  return atomic_load_explicit(&queue->run_in_ring, memory_order_relaxed);
}

/* Under the egress lock: the next one of the run is the next one of the queue. While the run lasts in the ring, the
 * ring is not empty, and so nothing is put into the front. */
static inline bool engine_run_goes_on(const struct pdlb_engine_user *user, const struct engine_queue *queue) {
  return LIKELY(queue->picks + 1 < STARVATION_PERIOD) && LIKELY(!(engine_slow(queue) & ~SLOW_RINGS)) &&
         LIKELY(engine_is(&user->port->only_link, user->only));
}

/* The same of the next one of a run. */
static inline __attribute__((always_inline)) bool engine_exchange_next(const struct pdlb_engine_user *user,
                                                                       struct pdlb_event *event) {
  struct engine_port *port = user->port;
  struct engine_queue *queue = user->queue;
  if (UNLIKELY(!engine_left_of_run(queue)) || UNLIKELY(port->last_received != 1)) return false;
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->egress))) return false;
  const uint64_t left = engine_left_of_run(queue);
  if (UNLIKELY(!left) || UNLIKELY(!engine_run_goes_on(user, queue)) || UNLIKELY(!engine_exchange_oldest(user, port)))
    goto otherwise;
  const bool in_ring = engine_run_is_in_ring(queue);
  const uint32_t head = atomic_load_explicit(&queue->head[0], memory_order_relaxed);
  const uint64_t taken = engine_get(&queue->front_taken);
  *event = in_ring ? user->queue_ring[head & user->ring_mask] : queue->front[taken & FRONT_MASK];
  uint32_t history_tail;
  if (UNLIKELY(!engine_hold_one(user, port, event, pdlb_event_type(event), &history_tail))) {
    engine_hold_nothing(port);
    goto otherwise;
  }
  queue->picks++;
  if (LIKELY(in_ring)) {
    atomic_store_explicit(&queue->head[0], head + 1, memory_order_release); /* the commit */
    engine_add(&queue->ring_out, 1);
    /* Not so far on that the sender is about to write there. */
    if (LIKELY(left > RING_AHEAD)) __builtin_prefetch(&user->queue_ring[(head + RING_AHEAD) & user->ring_mask]);
  } else {
    atomic_store_explicit(&queue->front_taken, taken + 1, memory_order_release); /* the commit */
  }
  engine_hold_instead(port, queue, history_tail);
  return true;

otherwise:
  engine_unlock(&queue->egress);
  return false;
}

#endif
