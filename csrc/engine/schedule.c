/* The way out: which elements a port gets next.
 *
 * A port serves its links by priority, each queue serves its elements by priority; now and then a lower one comes
 * first. Here is the port's side, and the case that is hoped for: the port can have all that waits in a queue, at once.
 * Everything else is a pass (pass.c).
 */
#include "front_wide.h"
#include "internal.h"
#include "one.h"
#include "ring.h"

/* ---- all of a front ---------------------------------------------------------------------------------------------- */

static inline _Atomic uint32_t *flows_of(const struct pdlb_engine *engine, const struct engine_queue *queue) {
  return (_Atomic uint32_t *)(engine->base + queue->flows_at);
}

/* Nothing of the elements is in flight here after all. */
static __attribute__((noinline)) void let_go(_Atomic uint32_t *flows, const struct pdlb_event *events, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    _Atomic uint32_t *const flow = &flows[events[i].flow];
    const uint32_t word = atomic_load_explicit(flow, memory_order_relaxed);
    atomic_store_explicit(flow, (word & FLOW_COUNT) == 1 ? 0 : word - 1, memory_order_release);
  }
}

/* The flows of the elements come to be in flight here, as entries from `entry` on tell. Returns how many could, from
 * the first on. */
static inline uint32_t hold_flows(_Atomic uint32_t *flows, uint32_t mine, uint64_t alike,
                                  const struct pdlb_event *events, uint32_t count, history_entry *entry) {
  const struct pdlb_event *event = events, *const end = events + count;
#pragma GCC unroll 4
  for (; event != end; event++, entry++) {
    const size_t flow = event->flow;
    const uint32_t word = atomic_load_explicit(&flows[flow], memory_order_acquire);
    if (UNLIKELY(!engine_may_take_flow(word, mine))) break;
    atomic_store_explicit(&flows[flow], word ? word + 1 : mine + 1, memory_order_relaxed);
    atomic_store_explicit(entry, alike | flow, memory_order_relaxed);
  }
  return (uint32_t)(event - events);
}

static __attribute__((noinline)) bool hold_atomic(const struct pdlb_engine_user *user, const struct engine_queue *queue,
                                                  const struct pdlb_event *events, uint32_t count, uint32_t tail) {
  const struct engine_port *port = user->port;
  _Atomic uint32_t *const flows = flows_of(user->engine, queue);
  history_entry *const history = user->history;
  const uint32_t at = tail & port->history_mask, room = port->history_mask + 1 - at;
  const uint32_t straight = count < room ? count : room;
  uint32_t held = hold_flows(flows, port->owns, queue->entry, events, straight, history + at);
  if (UNLIKELY(held == straight && held != count))
    held += hold_flows(flows, port->owns, queue->entry, events + held, count - held, history);
  if (LIKELY(held == count)) return true;
  let_go(flows, events, held);
  return false;
}

/* Under the egress lock: nothing waits but what lies in the front, whence it can be had as it comes; and the port still
 * serves the queue. */
static inline bool front_is_all(const struct engine_queue *queue, const _Atomic uint32_t *link, uint32_t linked) {
  return engine_is(&queue->slow, 0) && engine_is(link, linked);
}

/* The history tells of elements of one type, copied out, as the port's next ones, if it may have them all. */
static inline __attribute__((always_inline)) bool hold_all(const struct pdlb_engine_user *user,
                                                           struct engine_queue *queue, const struct pdlb_event *events,
                                                           uint32_t count, uint32_t type, uint32_t *history_tail) {
  const struct engine_port *port = user->port;
  uint32_t first = 0;
  if (type == PDLB_SCHED_ATOMIC) {
    if (UNLIKELY(!hold_atomic(user, queue, events, count, *history_tail))) return false;
    *history_tail += count;
  } else if (type != PDLB_SCHED_DIRECTED) {
    if (type == PDLB_SCHED_ORDERED && !engine_take_places(queue, count, &first)) return false;
    atomic_store_explicit(&user->history[*history_tail & port->history_mask],
                          ENTRY_MAKE(first, count, queue->index, type), memory_order_relaxed);
    ++*history_tail;
  }
  return true;
}

/* How many of the front's `count` oldest elements, from the first on, are as urgent as that one; or more than `count`.
 * Where sixteen keys are loaded at once, those behind the last one do not count; somebody may be writing them, and the
 * thread sanitizer says so. */
static inline uint32_t front_alike(const struct engine_queue *queue, uint32_t turn, uint32_t count) {
  const uint8_t key = queue->front_key[turn];
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
  (void)count;
  const __m128i wanted = _mm_set1_epi8((char)key);
  uint64_t alike = 0; /* by slot */
  for (uint32_t slot = 0; slot < FRONT; slot += 16) {
    const __m128i sixteen = _mm_loadu_si128((const __m128i *)(queue->front_key + slot));
    alike |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(sixteen, wanted)) << slot;
  }
  const uint64_t others = ~(turn ? alike >> turn | alike << (FRONT - turn) : alike); /* the oldest one lowest */
  return others ? (uint32_t)__builtin_ctzll(others) : FRONT;
#else
  uint32_t run = 1;
  while (run < count && queue->front_key[(turn + run) & FRONT_MASK] == key) run++;
  return run;
#endif
}

/* Under the egress lock: the next `count` elements are as urgent as can be. Who takes one of them later need not look
 * at what senders write. Whatever leaves the queue counts against them: a run ends early rather than late. */
static inline void begin_run(struct engine_queue *queue, bool in_ring, uint32_t count) {
  atomic_store_explicit(&queue->run_in_ring, in_ring, memory_order_relaxed);
  atomic_store_explicit(&queue->run_until, engine_get(&queue->given) + count, memory_order_relaxed);
}

/* Whether the `most` oldest of the front's `count` elements are the next ones: as urgent as each other, where none can
 * be more urgent. */
static bool front_begins_alike(struct engine_queue *queue, uint64_t taken, uint32_t count, uint32_t most) {
  const uint32_t turn = (uint32_t)taken & FRONT_MASK;
  const uint8_t key = queue->front_key[turn];
  const uint32_t run = front_alike(queue, turn, count);
  const uint32_t slow = engine_slow(queue);
  if (run >= count && !slow) {
    queue->picks = 0;
  } else {
    /* Others wait that are less urgent: they are not to starve. */
    if (key || (slow & ~SLOW_RINGS) || run < most || queue->picks + most >= STARVATION_PERIOD) return false;
    queue->picks += most;
  }
  if (!key) begin_run(queue, false, run < count ? run : count);
  return true;
}

/* Under the lock, which is given up: the front has more elements than the `most` that the port may have. */
static __attribute__((noinline)) uint32_t take_part_of_front(const struct pdlb_engine_user *user,
                                                             struct engine_queue *queue, const _Atomic uint32_t *link,
                                                             uint32_t linked, struct pdlb_event *events,
                                                             uint32_t most) {
  struct engine_port *port = user->port;
  const uint64_t taken = engine_get(&queue->front_taken);
  const uint32_t count = (uint32_t)(atomic_load_explicit(&queue->front_tail, memory_order_acquire) - taken);
  const uint32_t type = engine_key_type(atomic_load_explicit(&queue->front_way, memory_order_relaxed));
  uint32_t history_tail = atomic_load_explicit(&port->history_tail, memory_order_relaxed);
  if (most > port->room) most = port->room;
  const uint32_t slot = (uint32_t)taken & FRONT_MASK, straight = most < FRONT - slot ? most : FRONT - slot;
  if (UNLIKELY(!most || atomic_load_explicit(link, memory_order_relaxed) != linked ||
               !front_begins_alike(queue, taken, count, most)))
    goto otherwise;
  memcpy(events, queue->front + slot, straight * sizeof *events);
  if (most > straight) memcpy(events + straight, queue->front, (most - straight) * sizeof *events);
  if (UNLIKELY(!hold_all(user, queue, events, most, type, &history_tail))) goto otherwise;
  atomic_store_explicit(&queue->front_taken, taken + most, memory_order_release); /* the commit */
  engine_take_hold(port, queue, most, history_tail, type);
  return most;

otherwise:
  engine_unlock(&queue->egress);
  return 0;
}

typedef void sort_function(const struct engine_queue *queue, uint64_t first, uint32_t count, struct pdlb_event *events);

/* All elements that wait in the queue's front, if nothing else waits, or the next `most` of them; else none. */
static inline __attribute__((always_inline)) uint32_t take_front(const struct pdlb_engine_user *user,
                                                                 struct engine_queue *queue,
                                                                 const _Atomic uint32_t *link, uint32_t linked,
                                                                 struct pdlb_event *events, uint32_t most,
                                                                 sort_function *sort_out) {
  struct engine_port *port = user->port;
  const uint64_t tail = atomic_load_explicit(&queue->front_tail, memory_order_acquire);
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->egress))) return 0;
  const uint64_t taken = engine_get(&queue->front_taken);
  const uint32_t count = (uint32_t)(tail - taken);
  const uint32_t type = engine_key_type(atomic_load_explicit(&queue->front_way, memory_order_relaxed));
  uint32_t history_tail = atomic_load_explicit(&port->history_tail, memory_order_relaxed);
  if (UNLIKELY(count - 1 >= most)) {
    if ((int32_t)count > 0) return take_part_of_front(user, queue, link, linked, events, most);
    goto otherwise; /* what there was is gone */
  }
  if (UNLIKELY(!front_is_all(queue, link, linked) || count > port->room)) goto otherwise;
  sort_out(queue, taken, count, events);
  if (UNLIKELY(!hold_all(user, queue, events, count, type, &history_tail))) goto otherwise;
  atomic_store_explicit(&queue->front_taken, tail, memory_order_release); /* the commit */
  engine_take_hold(port, queue, count, history_tail, type);
  return count;

otherwise:
  engine_unlock(&queue->egress);
  return 0;
}

/* ---- out of one ring -----------------------------------------------------------------------------------------------
 */

/* The ring that has elements; NIL if none has, or more than one. */
static inline uint32_t only_ring(const struct engine_queue *queue, uint32_t *depth) {
  uint32_t only = NIL;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    const uint32_t waiting = atomic_load_explicit(&queue->tail[priority], memory_order_acquire) -
                             atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
    if (!waiting) continue;
    if (only != NIL) return NIL;
    only = priority;
    *depth = waiting;
  }
  return only;
}

/* Under the egress lock: which ring the next elements are in, and how many of at most `most`; NIL if that is not one
 * ring, or none. Where a run has as many, senders' lines are not looked at, unless it is a lower priority's turn. */
static inline uint32_t next_ring(struct engine_queue *queue, uint32_t most, uint32_t *count, uint32_t *picks) {
  if (engine_run_is_in_ring(queue) && engine_left_of_run(queue) >= most && engine_slow(queue) == SLOW_RINGS &&
      queue->picks + most < STARVATION_PERIOD) {
    *count = most;
    *picks = queue->picks + most;
    return 0;
  }
  const uint32_t priority = only_ring(queue, count); /* before the front is looked at: what lies there is older */
  if (UNLIKELY(priority == NIL || engine_slow(queue) != SLOW_RINGS ||
               engine_get(&queue->front_taken) != atomic_load_explicit(&queue->front_tail, memory_order_acquire)))
    return NIL;
  if (!priority) begin_run(queue, true, *count);
  if (*count > most) *count = most;
  *picks = 0; /* nothing else waits */
  return priority;
}

/* With no lock held. What the next call of this kind will look at, where senders are done with it: it comes while the
 * port sees to what it has got. `picks`: as in the queue, when the lock was given up. */
static inline void fetch_next(const struct engine_queue *queue, const struct pdlb_event *ring, uint32_t mask,
                              uint32_t head, uint32_t count, uint32_t picks) {
  ring_fetch(ring, mask, head, count);
  if (picks + count >= STARVATION_PERIOD) __builtin_prefetch(&queue->front_tail);
}

/* The next elements, `most` or all, of one ring, if nothing waits elsewhere and they are of one type; else none. */
static __attribute__((noinline)) uint32_t take_ring(const struct pdlb_engine_user *user, struct engine_queue *queue,
                                                    const _Atomic uint32_t *link, uint32_t linked,
                                                    struct pdlb_event *events, uint32_t most) {
  struct engine_port *port = user->port;
  if (!engine_try_lock_as(user->owner, &queue->egress)) return 0;
  engine_fetch_to_write(&queue->front_taken); /* the line in which senders are told */
  uint32_t count = 0, picks = 0;
  if (most > port->room) most = port->room;
  const uint32_t priority = next_ring(queue, most, &count, &picks);
  if (UNLIKELY(priority == NIL || !count || atomic_load_explicit(link, memory_order_relaxed) != linked)) goto otherwise;
  const uint32_t head = atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
  const uint32_t mask = engine_ring_mask(user->engine);
  const struct pdlb_event *ring = engine_ring(user->engine, queue->index, priority);
  const uint32_t others = ring_get(ring, mask, head, events, count), type = pdlb_event_type(events);
  uint32_t history_tail = atomic_load_explicit(&port->history_tail, memory_order_relaxed);
  if (UNLIKELY(others || !hold_all(user, queue, events, count, type, &history_tail))) goto otherwise;
  queue->picks = picks;
  atomic_store_explicit(&queue->head[priority], head + count, memory_order_release); /* the commit */
  engine_add(&queue->ring_out, count);
  const bool as_many_wait = engine_left_of_run(queue) >= 2ull * count;
  engine_take_hold(port, queue, count, history_tail, type);
  if (as_many_wait) fetch_next(queue, ring, mask, head + count, count, picks);
  return count;

otherwise:
  engine_unlock(&queue->egress);
  return 0;
}

/* ---- one element ------------------------------------------------------------------------------------------------- */

/* The first one of the most urgent ring that has any; NIL if there is none. */
static inline uint32_t urgent_ring(const struct engine_queue *queue) {
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    if (atomic_load_explicit(&queue->tail[priority], memory_order_acquire) !=
        atomic_load_explicit(&queue->head[priority], memory_order_relaxed))
      return priority;
  return NIL;
}

/* Under the lock: the oldest element of a ring; false if the port may not have it. */
static inline bool take_head(const struct pdlb_engine_user *user, struct engine_queue *queue, uint32_t priority,
                             struct pdlb_event *event) {
  struct engine_port *port = user->port;
  const uint32_t head = atomic_load_explicit(&queue->head[priority], memory_order_relaxed), mask = user->ring_mask;
  const struct pdlb_event *ring = engine_ring_for(user, queue, priority);
  *event = ring[head & mask];
  /* Not so far on that the sender is about to write there. */
  if (engine_left_of_run(queue) > RING_AHEAD) __builtin_prefetch(&ring[(head + RING_AHEAD) & mask]);
  const uint32_t type = pdlb_event_type(event);
  uint32_t history_tail;
  if (UNLIKELY(!engine_hold_one(user, port, event, type, &history_tail))) return false;
  queue->picks++;
  atomic_store_explicit(&queue->head[priority], head + 1, memory_order_release); /* the commit */
  engine_add(&queue->ring_out, 1);
  engine_take_hold(port, queue, 1, history_tail, type);
  return true;
}

/* The same of the front. */
static inline bool take_oldest(const struct pdlb_engine_user *user, struct engine_queue *queue,
                               struct pdlb_event *event) {
  struct engine_port *port = user->port;
  const uint64_t taken = engine_get(&queue->front_taken);
  *event = queue->front[taken & FRONT_MASK];
  const uint32_t type = pdlb_event_type(event);
  uint32_t history_tail;
  if (UNLIKELY(!engine_hold_one(user, port, event, type, &history_tail))) return false;
  queue->picks++;
  atomic_store_explicit(&queue->front_taken, taken + 1, memory_order_release); /* the commit */
  engine_take_hold(port, queue, 1, history_tail, type);
  return true;
}

/* One of those that wait in the rings, if none waits elsewhere and it is not a lower priority's turn. */
static __attribute__((noinline)) bool take_from_rings(const struct pdlb_engine_user *user, struct engine_queue *queue,
                                                      uint32_t linked, struct pdlb_event *event) {
  if (!engine_try_lock_as(user->owner, &queue->egress)) return false;
  const uint32_t priority = urgent_ring(queue); /* before the front is looked at: what lies there is older */
  if (UNLIKELY(priority == NIL || queue->picks + 1 >= STARVATION_PERIOD || engine_slow(queue) != SLOW_RINGS ||
               engine_get(&queue->front_taken) != atomic_load_explicit(&queue->front_tail, memory_order_acquire) ||
               atomic_load_explicit(&user->port->only_link, memory_order_relaxed) != linked))
    goto otherwise;
  if (priority == 0)
    begin_run(queue, true,
              atomic_load_explicit(&queue->tail[0], memory_order_acquire) -
                  atomic_load_explicit(&queue->head[0], memory_order_relaxed));
  if (LIKELY(take_head(user, queue, priority, event))) return true;

otherwise:
  engine_unlock(&queue->egress);
  return false;
}

static inline bool take_next_of_run(const struct pdlb_engine_user *user, struct engine_queue *queue,
                                    struct pdlb_event *event) {
  if (UNLIKELY(!engine_try_lock_as(user->owner, &queue->egress))) return false;
  if (LIKELY(engine_left_of_run(queue)) && LIKELY(engine_run_goes_on(user, queue)) &&
      LIKELY(engine_run_is_in_ring(queue) ? take_head(user, queue, 0, event) : take_oldest(user, queue, event)))
    return true;
  engine_unlock(&queue->egress);
  return false;
}

/* ---- one port, all its links ------------------------------------------------------------------------------------- */

static uint64_t reversed(uint64_t order) {
  uint64_t result = LINK_ORDER_END;
  for (; (order & 0xFF) != 0xFF; order = (order >> 8) | (0xFFull << 56)) result = (result << 8) | (order & 0xFF);
  return result;
}

/* Links of one priority take turns: the one just served goes behind its equals, which end at position `last`. */
static inline void serve_equals_next(struct engine_port *port, uint64_t order, uint32_t position) {
  const uint64_t lasts = atomic_load_explicit(&port->link_lasts, memory_order_relaxed);
  const uint32_t from = 8 * position, to = lasts >> from & 0xFF; /* bits */
  if (to <= from) return;
  const uint64_t served = order >> from & 0xFF, between = (1ull << to) - (1ull << from);
  const uint64_t turned = (order & ~(between | 0xFFull << to)) | (order >> 8 & between) | served << to;
  atomic_compare_exchange_strong_explicit(&port->link_order, &order, turned, memory_order_relaxed,
                                          memory_order_relaxed);
}

/* What has to be done before the port gets anything. */
static void heed_notices(struct pdlb_engine *engine, uint32_t port_index, uint32_t notice) {
  struct engine_port *port = &engine->ports[port_index];
  if (notice & NOTICE_LATER) engine_settle(engine, port_index);
  if (notice & NOTICE_RELEASES) {
    engine_complete(engine, port_index, port->last_received);
    port->last_received = 0;
  }
  const uint32_t turn = NOTICE_STALLED | NOTICE_CALLED; /* over, now that it comes */
  if (notice & turn) atomic_fetch_and_explicit(&port->notice, ~turn, memory_order_relaxed);
}

static inline uint32_t room_for(const struct engine_port *port, uint32_t max) {
  if (max > port->cq_depth) max = port->cq_depth;
  return max < port->room ? max : port->room;
}

#ifdef ENGINE_HAS_WIDE
#define WIDE_PAYS 8u /* of fewer elements the places are sooner found one by one */

WIDE static
    __attribute__((noinline)) uint32_t take_linked_wide(const struct pdlb_engine_user *user, struct engine_queue *queue,
                                                        const _Atomic uint32_t *link, uint32_t linked,
                                                        struct pdlb_event *events, uint32_t most) {
  return take_front(user, queue, link, linked, events, most, front_sort_out_wide);
}
#endif

static
    __attribute__((noinline)) uint32_t take_linked_narrow(const struct pdlb_engine_user *user,
                                                          struct engine_queue *queue, const _Atomic uint32_t *link,
                                                          uint32_t linked, struct pdlb_event *events, uint32_t most) {
  return take_front(user, queue, link, linked, events, most, front_sort_out);
}

static inline uint32_t take_linked(const struct pdlb_engine_user *user, struct engine_queue *queue,
                                   const _Atomic uint32_t *link, uint32_t linked, struct pdlb_event *events,
                                   uint32_t most) {
  const uint64_t waiting = engine_get(&queue->front_tail) - engine_get(&queue->front_taken);
#ifdef ENGINE_HAS_WIDE
  if (user->wide && waiting >= WIDE_PAYS) return take_linked_wide(user, queue, link, linked, events, most);
#endif
  if (!waiting && engine_slow(queue) == SLOW_RINGS) return take_ring(user, queue, link, linked, events, most);
  if (engine_slow(queue) & SLOW_KIND) return 0;
  return take_linked_narrow(user, queue, link, linked, events, most);
}

/* One of so many calls serves the links the other way round. */
static __attribute__((noinline)) uint32_t schedule_links(const struct pdlb_engine_user *user, struct pdlb_event *events,
                                                         uint32_t max, uint64_t *retry_at) {
  struct pdlb_engine *engine = user->engine;
  struct engine_port *port = user->port;
  const uint32_t notice = engine_notice(port);
  uint64_t nobody_asks;
  if (!retry_at) retry_at = &nobody_asks;
  if (UNLIKELY(notice)) {
    heed_notices(engine, user->index, notice);
    if (notice & NOTICE_DISABLED) return 0;
  }
  max = room_for(port, max);
  const uint64_t order = atomic_load_explicit(&port->link_order, memory_order_acquire);
  const bool upside_down = UNLIKELY(++port->calls % STARVATION_PERIOD == 0);
  uint64_t rest = upside_down ? reversed(order) : order;
  uint32_t taken = 0;
  for (uint32_t position = 0; position < PDLB_MAX_LINKS && taken < max; position++, rest >>= 8) {
    const uint32_t slot = rest & 0xFF;
    if (slot == 0xFF) break;
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_acquire), index = LINK_QUEUE(link);
    if (link == LINK_NONE || !engine_any_queued(&engine->queues[index])) continue;
    uint32_t got = take_linked(user, &engine->queues[index], &port->link[slot], link, events + taken, max - taken);
    if (!got) got = engine_pass(engine, user->index, slot, index, events + taken, max - taken, retry_at);
    if (got && !upside_down) serve_equals_next(port, order, position);
    taken += got;
  }
  if (notice & NOTICE_RELEASES) port->last_received = taken;
  return taken;
}

#ifdef ENGINE_HAS_WIDE
WIDE static
    __attribute__((noinline)) uint32_t schedule_front_wide(const struct pdlb_engine_user *user,
                                                           struct pdlb_event *events, uint32_t max, uint64_t *retry_at,
                                                           struct engine_queue *queue, uint32_t only) {
  struct engine_port *port = user->port;
  const uint32_t most = max < port->cq_depth ? max : port->cq_depth;
  const uint32_t taken = take_front(user, queue, &port->only_link, only, events, most, front_sort_out_wide);
  return LIKELY(taken) ? taken : schedule_links(user, events, max, retry_at);
}
#endif

static __attribute__((noinline)) uint32_t schedule_front(const struct pdlb_engine_user *user, struct pdlb_event *events,
                                                         uint32_t max, uint64_t *retry_at, struct engine_queue *queue,
                                                         uint32_t only) {
  struct engine_port *port = user->port;
  const uint32_t most = max < port->cq_depth ? max : port->cq_depth;
  const uint32_t taken = take_front(user, queue, &port->only_link, only, events, most, front_sort_out);
  return LIKELY(taken) ? taken : schedule_links(user, events, max, retry_at);
}

static __attribute__((noinline)) uint32_t schedule_only(const struct pdlb_engine_user *user, struct pdlb_event *events,
                                                        uint32_t max, uint64_t *retry_at) {
  return LIKELY(engine_take_only(user, events)) ? engine_one() : schedule_links(user, events, max, retry_at);
}

/* Nothing waits in the front, or the rings are in use. Senders' lines are looked at where there is no run, and no lock
 * is taken where nothing waits at all. */
static __attribute__((noinline)) uint32_t schedule_rings(const struct pdlb_engine_user *user, struct pdlb_event *events,
                                                         uint32_t max, uint64_t *retry_at, struct engine_queue *queue,
                                                         uint32_t only) {
  struct engine_port *port = user->port;
  const uint32_t most = max < port->cq_depth ? max : port->cq_depth;
  uint32_t taken = 0;
  if (!engine_run_is_in_ring(queue) || !engine_left_of_run(queue)) {
    if (atomic_load_explicit(&queue->front_tail, memory_order_acquire) != engine_get(&queue->front_taken))
      return schedule_front(user, events, max, retry_at, queue, only);
    if (!engine_any_queued(queue)) return 0;
  }
  if (engine_slow(queue) == SLOW_RINGS)
    taken = max == 1 ? take_from_rings(user, queue, only, events)
                     : take_ring(user, queue, &port->only_link, only, events, most);
  return LIKELY(taken) ? taken : schedule_links(user, events, max, retry_at);
}

static __attribute__((noinline)) uint32_t schedule_run(const struct pdlb_engine_user *user, struct pdlb_event *events,
                                                       uint32_t max, uint64_t *retry_at, struct engine_queue *queue) {
  return LIKELY(take_next_of_run(user, queue, events)) ? engine_one() : schedule_links(user, events, max, retry_at);
}

static inline __attribute__((always_inline)) uint32_t schedule_queue(const struct pdlb_engine_user *user,
                                                                     struct pdlb_event *events, uint32_t max,
                                                                     uint64_t *retry_at, uint32_t only) {
  struct engine_queue *queue = user->queue;
  if (UNLIKELY(engine_is(&queue->slow, SLOW_RINGS))) return schedule_rings(user, events, max, retry_at, queue, only);
  const uint64_t tail = atomic_load_explicit(&queue->front_tail, memory_order_acquire);
  const uint64_t waiting = tail - engine_get(&queue->front_taken);
  if (waiting == 1 && max) return schedule_only(user, events, max, retry_at);
  if (UNLIKELY(!waiting)) return schedule_rings(user, events, max, retry_at, queue, only);
#ifdef ENGINE_HAS_WIDE
  if (user->wide) return schedule_front_wide(user, events, max, retry_at, queue, only);
#endif
  return schedule_front(user, events, max, retry_at, queue, only);
}

/* What the last call returned is released, if that needs no lock. */
static __attribute__((noinline)) uint32_t schedule_releasing(const struct pdlb_engine_user *user,
                                                             struct pdlb_event *events, uint32_t max,
                                                             uint64_t *retry_at, uint32_t only) {
  struct engine_port *port = user->port;
  const uint32_t count = port->last_received;
  if (UNLIKELY(count && !engine_release_quietly(user, count))) return schedule_links(user, events, max, retry_at);
  port->last_received = 0;
  /* Ports that release with a receive are those that take one after the other at a rate where this pays. */
  struct engine_queue *queue = user->queue;
  if (max == 1 && engine_left_of_run(queue)) return schedule_run(user, events, max, retry_at, queue);
  return schedule_queue(user, events, max, retry_at, only);
}

/* What a port without a queue, or with several, may look at: nothing waits there. */
static struct engine_queue no_queue;

/* So that no port's only link is the same: that is 0, or where a queue lies. */
#define ONLY_NONE 1u

void engine_look_at_only_link(struct pdlb_engine_user *user) {
  const uint32_t only = atomic_load_explicit(&user->port->only_link, memory_order_acquire);
  user->only = only ? only : ONLY_NONE;
  user->queue = only ? engine_queue_of(user->engine, only) : &no_queue;
  /* Where what is in flight is counted, the general way sees to it; and a directed port has no history. */
  const bool simple = only && !user->queue->limited && !user->queue->directed;
  user->queue_entry = simple ? user->queue->entry : UINT64_MAX;
  user->queue_flows = flows_of(user->engine, user->queue);
  user->queue_ring = engine_ring_for(user, user->queue, 0);
}

/* The port has not the one link that it had when last looked at. */
static __attribute__((noinline)) uint32_t schedule_anew(struct pdlb_engine_user *user, struct pdlb_event *events,
                                                        uint32_t max, uint64_t *retry_at) {
  if (!engine_is(&user->port->only_link, 0) || user->only != ONLY_NONE) engine_look_at_only_link(user);
  return schedule_links(user, events, max, retry_at);
}

/* As in sending: nothing is called but to end with it. */
uint32_t pdlb_engine_schedule(struct pdlb_engine_user *user, struct pdlb_event *events, uint32_t max,
                              uint64_t *retry_at) {
  const struct engine_port *port = user->port;
  const uint32_t only = user->only;
  if (UNLIKELY(!engine_is(&port->only_link, only))) return schedule_anew(user, events, max, retry_at);
  if (UNLIKELY(engine_has_any(&port->notice, ~(NOTICE_STOPPED | NOTICE_HOST | NOTICE_RELEASES))))
    return schedule_links(user, events, max, retry_at);
  if (engine_has_any(&port->notice, NOTICE_RELEASES)) return schedule_releasing(user, events, max, retry_at, only);
  return schedule_queue(user, events, max, retry_at, only);
}

uint32_t pdlb_engine_share(const struct pdlb_engine_user *user, uint32_t most) {
  const uint32_t only = atomic_load_explicit(&user->port->only_link, memory_order_acquire);
  if (!only) return 1;
  const struct engine_queue *queue = engine_queue_of(user->engine, only);
  if (queue->even) return 1;
  /* Where not all that are linked are in one word, its bits are more than there are. */
  const uint64_t linked = atomic_load_explicit(&queue->linked, memory_order_relaxed);
  const uint32_t share = engine_queued(queue) / (uint32_t)__builtin_popcountll(linked | 1);
  return share < most ? share : most;
}

bool pdlb_engine_knows_next(const struct pdlb_engine_user *user) {
  const uint32_t only = atomic_load_explicit(&user->port->only_link, memory_order_acquire);
  return only && engine_left_of_run(engine_queue_of(user->engine, only));
}
