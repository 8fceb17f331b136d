/* The way in: credits, then the front of the element's queue, or the ring of its priority.
 *
 * Every ring has room for all credits of the domain, so an element with a credit always finds a place, and
 * back-pressure shows in exactly one spot: where credits are reserved. They are moved inside the ingress lock, where a
 * dead owner's can be told from a live one's.
 */
#include "front_wide.h"
#include "internal.h"
#include "one.h"
#include "ring.h"

enum pdlb_refusal engine_check_key(const struct pdlb_engine *engine, uint32_t key) {
  const struct engine_header *header = engine->header;
  const uint32_t id = key & 0xFFu, type = key >> 8;
  if (id >= (type == PDLB_SCHED_DIRECTED ? header->dir_queues : header->ldb_queues)) return PDLB_BAD_QUEUE;
  const struct engine_queue *queue = &engine->queues[engine_key_queue(engine, key)];
  if (!atomic_load_explicit(&queue->configured, memory_order_acquire)) return PDLB_BAD_QUEUE;
  return queue->types & (1u << type) ? PDLB_TAKEN : PDLB_BAD_SCHED;
}

/* ---- credits ----------------------------------------------------------------------------------------------------- */

/* One addition in the common case. Whoever finds too few has taken all there were, and gives back what was not there.
 */
uint32_t engine_take_credits(struct pdlb_engine *engine, uint32_t wanted) {
  const int32_t free = atomic_fetch_sub_explicit(&engine->header->credits, (int32_t)wanted, memory_order_acquire);
  if (LIKELY(free >= (int32_t)wanted)) return wanted;
  const uint32_t taken = free > 0 ? (uint32_t)free : 0;
  engine_give_credits(engine, wanted - taken);
  return taken;
}

/* Under the ingress lock: how many credits more the queue is to reserve. So many that it is not asked for every batch,
 * which takes the line that those write who schedule; not all that the domain has, as others' senders need some too;
 * and none if there are none, which is seen without a try. */
static inline uint32_t to_reserve(const struct engine_header *header, uint32_t needed, uint32_t reserved) {
  const int32_t there = atomic_load_explicit(&header->credits, memory_order_relaxed);
  if (there <= 0) return 0;
  const uint32_t half = (uint32_t)there / 2, ahead = half < header->credits_ahead ? half : header->credits_ahead;
  return reserved >= needed + ahead / 2 ? 0 : needed + ahead - reserved;
}

/* Under the ingress lock: how many of `count` elements the queue has credits for, after it has reserved what it can. */
static __attribute__((noinline)) uint32_t reserve(struct pdlb_engine *engine, struct engine_queue *queue,
                                                  uint32_t count) {
  const uint64_t in = engine_get(&queue->front_tail) + engine_get(&queue->ring_in);
  const uint32_t waiting = (uint32_t)(in - atomic_load_explicit(&queue->scheduled, memory_order_acquire));
  uint32_t reserved = atomic_load_explicit(&queue->reserved, memory_order_relaxed);
  const uint32_t more = to_reserve(engine->header, waiting + count, reserved);
  if (more) {
    reserved += engine_take_credits(engine, more);
    atomic_store_explicit(&queue->reserved, reserved, memory_order_relaxed);
  }
  const uint32_t free = reserved - waiting;
  queue->credit_until = in + free;
  return count < free ? count : free;
}

/* Under the ingress lock. */
static uint32_t give_up_reserve(struct pdlb_engine *engine, struct engine_queue *queue) {
  const uint64_t tail = engine_get(&queue->front_tail), in = tail + engine_get(&queue->ring_in);
  const uint32_t waiting = (uint32_t)(in - atomic_load_explicit(&queue->scheduled, memory_order_acquire));
  const uint32_t surplus = atomic_load_explicit(&queue->reserved, memory_order_relaxed) - waiting;
  queue->front_until = tail;
  queue->credit_until = in;
  atomic_store_explicit(&queue->reserved, waiting, memory_order_relaxed);
  engine_give_credits(engine, surplus);
  return surplus;
}

bool engine_collect_credits(struct pdlb_engine *engine, uint32_t but) {
  uint32_t collected = 0;
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++) {
    struct engine_queue *queue = &engine->queues[index];
    const uint32_t reserved = atomic_load_explicit(&queue->reserved, memory_order_relaxed);
    if (index == but || !reserved || reserved <= engine_queued(queue)) continue;
    engine_lock(engine, &queue->ingress);
    collected += give_up_reserve(engine, queue);
    engine_unlock(&queue->ingress);
  }
  return collected;
}

/* ---- places ------------------------------------------------------------------------------------------------------ */

/* Once the rings are in use, at least so many elements go there, and as many as wait there: to see whether they are
 * empty again takes the line that those write who schedule. */
#define RINGS_STAY 64u

/* Whether the front takes elements for which there are credits: it was full, or without credits, when last looked at;
 * or the rings are in use; or it has elements of another type. */
static bool front_can_take(struct engine_queue *queue, uint32_t count, uint32_t way) {
  const uint64_t tail = engine_get(&queue->front_tail), ring_in = engine_get(&queue->ring_in);
  if (queue->rings_until) {
    const uint64_t waiting = ring_in - atomic_load_explicit(&queue->ring_out, memory_order_acquire);
    if (waiting) {
      queue->rings_until = ring_in + (waiting > RINGS_STAY ? waiting : RINGS_STAY);
      return false;
    }
    queue->rings_until = 0;
    atomic_fetch_and_explicit(&queue->slow, ~SLOW_RINGS, memory_order_relaxed);
  }
  const uint64_t taken = atomic_load_explicit(&queue->front_taken, memory_order_acquire);
  if (taken == tail && atomic_load_explicit(&queue->front_way, memory_order_relaxed) != way)
    atomic_store_explicit(&queue->front_way, way, memory_order_relaxed);
  if (tail + count - taken <= FRONT && atomic_load_explicit(&queue->front_way, memory_order_relaxed) == way) {
    const uint64_t places = taken + FRONT, credits = queue->credit_until - ring_in;
    queue->front_until = places < credits ? places : credits;
    return true;
  }
  /* What comes from now on is younger than all in the front, until the rings are empty. */
  atomic_fetch_or_explicit(&queue->slow, SLOW_RINGS, memory_order_relaxed);
  queue->front_until = tail;
  queue->rings_until = ring_in + RINGS_STAY;
  return false;
}

static inline bool front_takes(const struct engine_queue *queue, uint64_t tail, uint32_t count, uint32_t way) {
  return LIKELY(tail + count <= queue->front_until &&
                atomic_load_explicit(&queue->front_way, memory_order_relaxed) == way);
}

/* False if not all have the way `way`; nothing of it is to be seen then. */
static __attribute__((noinline)) bool put_in_front(struct engine_queue *queue, uint64_t tail,
                                                   const struct pdlb_event *events, uint32_t count, uint32_t way) {
  const uint32_t slot = (uint32_t)tail & FRONT_MASK, straight = FRONT - slot;
  if (LIKELY(count <= straight)) return front_put(queue, slot, events, count, way);
  return front_put(queue, slot, events, straight, way) && front_put(queue, 0, events + straight, count - straight, way);
}

/* The commit: whoever sees the tail sees the elements before it. */
static inline void store_front_tail(struct engine_queue *queue, uint64_t tail) {
  atomic_store_explicit(&queue->front_tail, tail, memory_order_release);
}

/* The commit. Each tail is moved by a store of its own: what is loaded as one before its parts have left for the cache
 * waits for all that is being stored, the elements too. */
static inline void commit_rings(struct engine_queue *queue, uint32_t first, uint32_t end, uint32_t count) {
  engine_add(&queue->ring_in, count);
  for (uint32_t priority = first; priority < end; priority++)
    atomic_store_explicit(&queue->tail[priority],
                          atomic_load_explicit(&queue->tail_next[priority], memory_order_relaxed),
                          memory_order_release);
}

static inline uint32_t add_to_tail(struct engine_queue *queue, uint32_t priority, uint32_t count) {
  const uint32_t tail = atomic_load_explicit(&queue->tail_next[priority], memory_order_relaxed);
  atomic_store_explicit(&queue->tail_next[priority], tail + count, memory_order_relaxed);
  return tail;
}

/* False if not all have the way `way`; nothing of it counts then. */
static bool put_in_rings(const struct pdlb_engine *engine, struct engine_queue *queue, const struct pdlb_event *events,
                         uint32_t count, uint32_t way) {
  const uint32_t mask = engine_ring_mask(engine), shift = engine->header->ring_shift;
  struct pdlb_event *const rings = engine_ring(engine, queue->index, 0);
  const uint32_t urgent = pdlb_event_priority(events);
  struct pdlb_event *const ring = rings + ((size_t)urgent << shift);
  const uint32_t tail = atomic_load_explicit(&queue->tail[urgent], memory_order_relaxed);
  if (LIKELY(!ring_put(ring, mask, tail, events, count))) { /* all are for this one */
    atomic_store_explicit(&queue->tail_next[urgent], tail + count, memory_order_relaxed);
    commit_rings(queue, urgent, urgent + 1, count);
    if (engine_has_credits(queue, count))
      ring_fetch_to_write(ring, mask, tail + count, count); /* the next ones' places */
    return true;
  }
  uint32_t other = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t priority = pdlb_event_priority(&events[i]);
    other |= engine_event_key(&events[i]) ^ way;
    rings[((size_t)priority << shift) + (add_to_tail(queue, priority, 1) & mask)] = events[i];
  }
  if (UNLIKELY(other)) {
    for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
      atomic_store_explicit(&queue->tail_next[priority],
                            atomic_load_explicit(&queue->tail[priority], memory_order_relaxed), memory_order_relaxed);
    return false;
  }
  commit_rings(queue, 0, PDLB_PRIORITIES, count);
  return true;
}

static __attribute__((noinline)) void put_otherwise(struct pdlb_engine *engine, struct engine_queue *queue,
                                                    const struct pdlb_event *events, uint32_t count, uint32_t way) {
  const uint64_t tail = engine_get(&queue->front_tail);
  if (front_takes(queue, tail, count, way) || (!engine_rings_take(queue) && front_can_take(queue, count, way))) {
    put_in_front(queue, tail, events, count, way);
    store_front_tail(queue, tail + count);
  } else if (count == 1) {
    const uint32_t priority = pdlb_event_priority(events);
    engine_put_one_in_ring(queue, engine_ring(engine, queue->index, priority), engine_ring_mask(engine), priority,
                           events);
  } else {
    put_in_rings(engine, queue, events, count, way);
  }
}

/* Elements of one key, for which the queue has credits. */
static inline void put(struct pdlb_engine *engine, struct engine_queue *queue, const struct pdlb_event *events,
                       uint32_t count) {
  const uint64_t tail = engine_get(&queue->front_tail);
  const uint32_t way = engine_event_key(events);
  if (count == 1 && front_takes(queue, tail, 1, way)) {
    engine_put_one_in_front(queue, tail, events);
    store_front_tail(queue, tail + 1);
  } else {
    put_otherwise(engine, queue, events, count, way);
  }
}

void engine_append_with_credits(struct pdlb_engine *engine, uint32_t index, const struct pdlb_event *events,
                                uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t reserved = atomic_load_explicit(&queue->reserved, memory_order_relaxed);
  atomic_store_explicit(&queue->reserved, reserved + count, memory_order_relaxed);
  queue->credit_until += count;
  put(engine, queue, events, count);
}

/* As many as there are credits for, with what the domain has left. */
static inline uint32_t append_some(struct pdlb_engine *engine, struct engine_queue *queue,
                                   const struct pdlb_event *events, uint32_t count) {
  engine_lock(engine, &queue->ingress);
  if (!engine_has_credits(queue, count)) count = reserve(engine, queue, count);
  if (LIKELY(count)) put(engine, queue, events, count);
  engine_unlock_and_fence(&queue->ingress);
  return count;
}

static __attribute__((noinline)) uint32_t append_rest(struct pdlb_engine *engine, struct engine_queue *queue,
                                                      const struct pdlb_event *events, uint32_t count) {
  uint32_t done = 0;
  /* Another sender may take what was collected before this one does. */
  while (done < count && engine_collect_credits(engine, queue->index))
    done += append_some(engine, queue, events + done, count - done);
  return done;
}

static inline uint32_t append(struct pdlb_engine *engine, struct engine_queue *queue, const struct pdlb_event *events,
                              uint32_t count) {
  const uint32_t done = append_some(engine, queue, events, count);
  return LIKELY(done == count) ? done : done + append_rest(engine, queue, events + done, count - done);
}

uint32_t engine_append(struct pdlb_engine *engine, uint32_t index, const struct pdlb_event *events, uint32_t count) {
  return append(engine, &engine->queues[index], events, count);
}

uint32_t engine_run_of_key(const struct pdlb_event *events, uint32_t count) {
  const uint32_t key = engine_event_key(events);
  uint32_t run = 1;
  while (run < count && engine_event_key(&events[run]) == key) run++;
  return run;
}

/* ---- sending: the general case ----------------------------------------------------------------------------------- */

static enum pdlb_refusal check_sender(const struct engine_port *port) {
  const uint32_t notice = engine_notice(port);
  if (notice & NOTICE_STOPPED) return PDLB_NOT_STARTED;
  return notice & NOTICE_DISABLED ? PDLB_PORT_DISABLED : PDLB_TAKEN;
}

/* Run by run of elements that go the same way. */
static __attribute__((noinline)) uint32_t send_runs(const struct pdlb_engine_user *user,
                                                    const struct pdlb_event *events, uint32_t count,
                                                    enum pdlb_refusal *why) {
  struct pdlb_engine *engine = user->engine;
  uint32_t sent = 0;
  *why = count ? check_sender(user->port) : PDLB_TAKEN;
  while (sent < count && *why == PDLB_TAKEN) {
    const uint32_t key = engine_event_key(&events[sent]);
    struct engine_queue *queue = engine_route(engine, key);
    if (UNLIKELY(!queue)) {
      *why = engine_check_key(engine, key);
      break;
    }
    const uint32_t run = engine_run_of_key(events + sent, count - sent);
    const uint32_t taken = append(engine, queue, events + sent, run);
    if (taken) engine_offer(engine, queue->index, taken);
    sent += taken;
    if (UNLIKELY(taken < run)) {
      *why = PDLB_NO_CREDIT;
      atomic_fetch_add_explicit(&engine->header->refused_no_credit, count - sent, memory_order_relaxed);
    }
  }
  engine_add(&user->port->sent, sent);
  return sent;
}

/* ---- sending: at once, all the same way, into a front with room -------------------------------------------------- */

__attribute__((noinline)) uint32_t engine_offer_sent(struct pdlb_engine *engine, uint32_t queue, uint32_t count) {
  /* What the choice among them looks at may change without a way through the lock. */
  atomic_fetch_or_explicit(&engine->idle[0], 0, memory_order_seq_cst);
  engine_offer_to_idle(engine, queue, count);
  return count;
}

/* After the commit. Whether somebody is idle is seen without a fence: who has become so since the lock was taken goes
 * through it, and looks again (wake.c). */
static inline uint32_t leave(const struct pdlb_engine_user *user, struct engine_queue *queue, uint32_t count,
                             enum pdlb_refusal *why) {
  engine_unlock(&queue->ingress);
  engine_add(&user->port->sent, count);
  *why = PDLB_TAKEN;
  if (UNLIKELY(engine_may_offer(user->idle, queue))) return engine_offer_sent(user->engine, queue->index, count);
  return count;
}

/* Under the lock, to a place that wraps. */
static __attribute__((noinline)) uint32_t send_wrapped(const struct pdlb_engine_user *user,
                                                       const struct pdlb_event *events, uint32_t count,
                                                       enum pdlb_refusal *why, struct engine_queue *queue,
                                                       uint32_t way) {
  const uint64_t tail = engine_get(&queue->front_tail);
  if (LIKELY(put_in_front(queue, tail, events, count, way))) {
    store_front_tail(queue, tail + count);
    return leave(user, queue, count, why);
  }
  engine_unlock(&queue->ingress);
  return send_runs(user, events, count, why);
}

/* Under the lock, not into the front: into the rings, or else the general way. */
static __attribute__((noinline)) uint32_t send_behind(const struct pdlb_engine_user *user,
                                                      const struct pdlb_event *events, uint32_t count,
                                                      enum pdlb_refusal *why, struct engine_queue *queue,
                                                      uint32_t way) {
  if (LIKELY(engine_rings_take(queue)) && LIKELY(engine_has_credits(queue, count)) &&
      LIKELY(put_in_rings(user->engine, queue, events, count, way)))
    return leave(user, queue, count, why);
  engine_unlock(&queue->ingress);
  return send_runs(user, events, count, why);
}

typedef bool put_function(struct engine_queue *queue, uint32_t slot, const struct pdlb_event *events, uint32_t count,
                          uint32_t way);

static bool room_for(struct pdlb_engine *engine, struct engine_queue *queue, uint32_t count, uint32_t way) {
  return (engine_has_credits(queue, count) || reserve(engine, queue, count) == count) && !engine_rings_take(queue) &&
         front_can_take(queue, count, way);
}

static inline __attribute__((always_inline)) uint32_t send_batch_by(const struct pdlb_engine_user *user,
                                                                    const struct pdlb_event *events, uint32_t count,
                                                                    enum pdlb_refusal *why, struct engine_queue *queue,
                                                                    uint32_t way, put_function *put_straight) {
  if (UNLIKELY(count > FRONT || !engine_try_lock_as(user->owner, &queue->ingress)))
    return send_runs(user, events, count, why);
  const uint64_t tail = engine_get(&queue->front_tail);
  const uint32_t slot = (uint32_t)tail & FRONT_MASK;
  if (LIKELY(front_takes(queue, tail, count, way) || room_for(user->engine, queue, count, way))) {
    if (UNLIKELY(slot + count > FRONT)) return send_wrapped(user, events, count, why, queue, way);
    if (LIKELY(put_straight(queue, slot, events, count, way))) {
      store_front_tail(queue, tail + count);
      return leave(user, queue, count, why);
    }
  }
  return send_behind(user, events, count, why, queue, way);
}

#ifdef ENGINE_HAS_WIDE
WIDE static __attribute__((noinline)) uint32_t send_batch_wide(const struct pdlb_engine_user *user,
                                                               const struct pdlb_event *events, uint32_t count,
                                                               enum pdlb_refusal *why, struct engine_queue *queue,
                                                               uint32_t way) {
  return send_batch_by(user, events, count, why, queue, way, front_put_wide);
}
#endif

static __attribute__((noinline)) uint32_t send_batch(const struct pdlb_engine_user *user,
                                                     const struct pdlb_event *events, uint32_t count,
                                                     enum pdlb_refusal *why, struct engine_queue *queue, uint32_t way) {
  return send_batch_by(user, events, count, why, queue, way, front_put);
}

__attribute__((noinline)) uint32_t engine_send_one_otherwise(const struct pdlb_engine_user *user,
                                                             const struct pdlb_event *event, enum pdlb_refusal *why,
                                                             struct engine_queue *queue) {
  struct pdlb_engine *engine = user->engine;
  if (UNLIKELY(!engine_has_credits(queue, 1)) && !reserve(engine, queue, 1)) {
    engine_unlock(&queue->ingress);
    return send_runs(user, event, 1, why);
  }
  put(engine, queue, event, 1);
  return leave(user, queue, 1, why);
}

/* One element: what engine_send_one does, or did not do. */
static __attribute__((noinline)) uint32_t send_one(const struct pdlb_engine_user *user, const struct pdlb_event *event,
                                                   enum pdlb_refusal *why, struct engine_queue *queue, uint32_t way) {
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->ingress))) return send_runs(user, event, 1, why);
  return engine_send_one_locked(user, event, why, queue, way);
}

/* On the way that is hoped for nothing is called but to end with it, so that no register need be saved. What is not as
 * hoped for goes the general way. */
uint32_t pdlb_engine_send(const struct pdlb_engine_user *user, const struct pdlb_event *events, uint32_t count,
                          enum pdlb_refusal *why) {
  if (UNLIKELY(!count) || UNLIKELY(engine_has_any(&user->port->notice, NOTICE_STOPPED | NOTICE_DISABLED)))
    return send_runs(user, events, count, why);
  const size_t key = engine_event_key(events);
  const uint32_t way = (uint32_t)key, at = atomic_load_explicit(&user->routes[key], memory_order_acquire);
  if (UNLIKELY(!at)) return send_runs(user, events, count, why);
  struct engine_queue *queue = (struct engine_queue *)(user->base + at);
#ifdef ENGINE_HAS_WIDE
  if (count >= 32 && user->wide) return send_batch_wide(user, events, count, why, queue, way);
#endif
  if (count > 1) return send_batch(user, events, count, why, queue, way);
  return send_one(user, events, why, queue, way);
}
