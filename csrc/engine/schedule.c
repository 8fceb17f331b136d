/* The way out: which elements a port gets next.
 *
 * A port serves its links by priority, each queue serves its elements by priority; now and then a lower one comes
 * first. Under the queue's egress lock elements are copied out, noted in the port's history list, and committed by
 * the ring's head.
 */
#include "internal.h"

/* Owners of flows that were met on the way and may be asleep; more than these are met at the next call. */
#define MAX_OWNERS 16u

/* One port scheduling from one queue. */
struct pass {
  struct pdlb_engine *engine;
  struct engine_queue *queue;
  struct engine_port *port;
  uint32_t queue_index, port_index, slot;
  uint32_t rings;                  /* a bit for each priority whose ring has elements */
  uint32_t types;                  /* of all elements counted in `depth` */
  uint32_t depth[PDLB_PRIORITIES]; /* of the rings, as the pass began; what comes later waits for the next one */
  uint32_t window_room;            /* ordered elements that may still be put in flight */
  bool blocked;                    /* the next element must wait: stop */
  bool limited;                    /* the queue's in-flight limit cut what the port may take */
  uint32_t owners;
  uint32_t owner[MAX_OWNERS];
};

/* In this order: the types of all that the depths count have then been seen. */
static inline void look_at_rings(struct pass *pass) {
  const struct engine_queue *queue = pass->queue;
  pass->rings = 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    pass->depth[priority] = atomic_load_explicit(&queue->tail[priority], memory_order_acquire) -
                            atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
    pass->rings |= (uint32_t)(pass->depth[priority] != 0) << priority;
  }
  pass->types = atomic_load_explicit(&queue->types_seen, memory_order_relaxed);
}

static inline void leave_ring(struct pass *pass, uint32_t priority, uint32_t count) {
  struct engine_queue *queue = pass->queue;
  const uint32_t head = atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
  atomic_store_explicit(&queue->head[priority], head + count, memory_order_relaxed);
  pass->depth[priority] -= count;
  if (pass->depth[priority] == 0) pass->rings &= ~(1u << priority);
}

/* ---- which priority next
 * -------------------------------------------------------------------------------------------------- */

/* Priorities that have parked elements which the port may take. */
static uint32_t parked_priorities(const struct pass *pass) {
  uint32_t priorities = 0;
  if (LIKELY(atomic_load_explicit(&pass->queue->parked, memory_order_relaxed) == 0)) return 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    if (pass->port->owned[pass->slot][priority].head || pass->queue->ready[priority].head) priorities |= 1u << priority;
  return priorities;
}

/* The lower priority whose turn it is to be served before the highest one; that one if there is no other. */
static uint32_t starving(struct engine_queue *queue, uint32_t priorities) {
  const uint32_t lower = priorities & (priorities - 1);
  if (!lower) return priorities;
  const uint32_t next = lower & ~((2u << queue->starve_turn) - 1);
  const uint32_t turn = next ? next & -next : lower & -lower;
  queue->starve_turn = (uint32_t)__builtin_ctz(turn);
  return turn;
}

/* Of the priorities that have elements, the one to serve, and how many elements of it at the most. */
static inline uint32_t choose(struct engine_queue *queue, uint32_t priorities, uint32_t *run) {
  uint32_t choice = priorities & -priorities;
  uint32_t most = STARVATION_PERIOD - 1 - queue->picks;
  if (UNLIKELY(most == 0)) {
    choice = starving(queue, priorities);
    most = 1;
  }
  if (*run > most) *run = most;
  return (uint32_t)__builtin_ctz(choice);
}

static inline void count_picks(struct engine_queue *queue, uint32_t count) {
  queue->picks = (queue->picks + count) % STARVATION_PERIOD;
}

/* ---- elements that need no look each: all unordered, or all directed
 * ------------------------------------------------------- */

static inline void copy_out(const struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  const struct pdlb_event *ring = engine_ring(pass->engine, pass->queue_index, priority);
  const uint32_t mask = engine_ring_mask(pass->engine);
  const uint32_t at = atomic_load_explicit(&pass->queue->head[priority], memory_order_relaxed) & mask;
  const uint32_t straight = mask + 1 - at < count ? mask + 1 - at : count;
  for (uint32_t i = 0; i < straight; i++) events[i] = ring[at + i];
  for (uint32_t i = straight; UNLIKELY(i < count); i++) events[i] = ring[i - straight];
}

static uint32_t take_runs(struct pass *pass, struct pdlb_event *events, uint32_t count) {
  uint32_t taken = 0;
  while (taken < count && pass->rings) {
    uint32_t run = count - taken;
    const uint32_t priority = choose(pass->queue, pass->rings, &run);
    if (run > pass->depth[priority]) run = pass->depth[priority];
    copy_out(pass, priority, events + taken, run);
    leave_ring(pass, priority, run);
    count_picks(pass->queue, run);
    taken += run;
  }
  if (taken && !pass->queue->directed)
    engine_history_push(pass->engine, pass->port, pass->queue_index, PDLB_SCHED_UNORDERED, 0, taken);
  return taken;
}

/* ---- elements that do
 * ---------------------------------------------------------------------------------------------------------- */

static void meet_owner(struct pass *pass, uint32_t owner) {
  if (owner == NIL || owner == pass->port_index) return;
  for (uint32_t i = 0; i < pass->owners; i++)
    if (pass->owner[i] == owner) return;
  pass->owner[pass->owners++] = owner;
  if (pass->owners == MAX_OWNERS) pass->blocked = true;
}

/* Note an element that the port now holds. Runs of unordered and of ordered ones share an entry. */
static inline void note_run(const struct pass *pass, uint32_t type, uint32_t first) {
  struct engine_port *port = pass->port;
  struct history_entry *last = &engine_history(pass->engine, port)[(port->history_tail - 1) & port->history_mask];
  if (port->history_tail != port->history_head && last->type == type && last->queue == pass->queue_index &&
      last->count < UINT16_MAX && (type == PDLB_SCHED_UNORDERED || last->first + last->count == first))
    last->count++;
  else
    engine_history_push(pass->engine, port, pass->queue_index, type, first, 1);
}

/* False if the element must wait, and all behind it. */
static bool take_in_order(struct pass *pass) {
  if (pass->window_room == 0) {
    pass->blocked = true;
    return false;
  }
  pass->window_room--;
  note_run(pass, PDLB_SCHED_ORDERED, pass->queue->next_sequence++);
  return true;
}

static uint32_t take_each(struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  const struct pdlb_event *ring = engine_ring(pass->engine, pass->queue_index, priority);
  const uint32_t mask = engine_ring_mask(pass->engine), mine = engine_flow_owned_by(pass->port_index);
  uint32_t *flows = engine_flows(pass->engine, pass->queue_index);
  const uint32_t head = atomic_load_explicit(&pass->queue->head[priority], memory_order_relaxed);
  const uint32_t depth = pass->depth[priority];
  uint32_t taken = 0, seen = 0;
  for (; seen < depth && taken < count && !pass->blocked; seen++) {
    const struct pdlb_event *event = &ring[(head + seen) & mask];
    const uint32_t type = pdlb_event_type(event);
    if (LIKELY(type == PDLB_SCHED_ATOMIC)) {
      const uint32_t word = flows[event->flow];
#ifndef PDLB_BREAK_ATOMIC
      if (UNLIKELY(word != 0 && (word & (FLOW_OWNER | FLOW_PARKED)) != mine)) {
        meet_owner(pass, engine_park(pass->engine, pass->queue_index, event));
        continue;
      }
#endif
      flows[event->flow] = (word | mine) + 1;
      engine_history_push(pass->engine, pass->port, pass->queue_index, PDLB_SCHED_ATOMIC, event->flow, 1);
    } else if (type == PDLB_SCHED_ORDERED) {
      if (!take_in_order(pass)) break;
    } else {
      note_run(pass, PDLB_SCHED_UNORDERED, 0);
    }
    events[taken++] = *event;
  }
  leave_ring(pass, priority, seen);
  return taken;
}

static uint32_t take_mixed(struct pass *pass, struct pdlb_event *events, uint32_t count) {
  uint32_t taken = 0;
  while (taken < count && !pass->blocked) {
    const uint32_t parked = parked_priorities(pass), waiting = parked | pass->rings;
    if (!waiting) break;
    uint32_t run = count - taken, got;
    const uint32_t priority = choose(pass->queue, waiting, &run);
    if (UNLIKELY(parked & (1u << priority)))
      got = engine_unpark(pass->engine, pass->queue_index, pass->port_index, pass->slot, priority, events + taken, run);
    else
      got = take_each(pass, priority, events + taken, run);
    count_picks(pass->queue, got);
    taken += got;
  }
  return taken;
}

/* ---- one queue, one port
 * ------------------------------------------------------------------------------------------------- */

/* How many elements the queue's limits let the port take now. */
static uint32_t allowance(struct pass *pass, uint32_t count, uint64_t *retry_at, bool *hold_back) {
  const struct engine_queue *queue = pass->queue;
  if (queue->directed) return count;
  const uint32_t inflight = atomic_load_explicit(&queue->inflight, memory_order_seq_cst);
  const uint32_t room = inflight < queue->inflight_limit ? queue->inflight_limit - inflight : 0;
  pass->limited = count > room;
  if (pass->limited) count = room;
  pass->window_room = queue->window - (queue->next_sequence - queue->oldest_sequence);
  if (UNLIKELY(queue->even) && count) {
    const uint32_t waiting = engine_queued(queue);
    const uint32_t share =
        waiting ? engine_even_share(pass->engine, pass->queue_index, pass->port_index, waiting, retry_at, hold_back)
                : 0;
    if (count > share) count = share;
  }
  return count;
}

/* What was taken leaves the queue for good: its counters, its clock, the credits. Sets `*offer` where a release made
 * room, unseen by those whom the in-flight limit had turned away. */
static void commit(const struct pass *pass, uint32_t taken, bool *offer) {
  struct engine_queue *queue = pass->queue;
  const uint64_t scheduled = atomic_load_explicit(&queue->scheduled, memory_order_relaxed);
  atomic_store_explicit(&queue->scheduled, scheduled + taken, memory_order_release);
  if (!queue->directed) {
    const uint32_t before = atomic_fetch_add_explicit(&queue->inflight, taken, memory_order_seq_cst);
    if (UNLIKELY(pass->limited) && before + taken < queue->inflight_limit) *offer = true;
    const uint32_t held = atomic_load_explicit(&pass->port->in_flight, memory_order_relaxed);
    atomic_store_explicit(&pass->port->in_flight, held + taken, memory_order_relaxed);
  }
  if (engine_is_timed(pass->engine))
    atomic_store_explicit(&queue->waiting_since, engine_queued(queue) ? engine_now(pass->engine) : 0,
                          memory_order_relaxed);
  engine_give_credits(pass->engine, taken);
}

static uint32_t take(struct pass *pass, struct pdlb_event *events, uint32_t count) {
  look_at_rings(pass);
  return pass->types == 1u << PDLB_SCHED_UNORDERED || pass->types == 1u << PDLB_SCHED_DIRECTED
             ? take_runs(pass, events, count)
             : take_mixed(pass, events, count);
}

/* Whom the pass found asleep though there is work for them. */
static void tell_others(const struct pass *pass, bool hold_back, bool offer) {
  for (uint32_t i = 0; i < pass->owners; i++) engine_call(pass->engine, pass->owner[i]);
  const uint32_t waiting = engine_queued(pass->queue);
  if (hold_back && waiting) engine_offer_to_due(pass->engine, pass->queue_index, waiting);
  if (offer && waiting) engine_offer(pass->engine, pass->queue_index, waiting);
}

/* One pass under the lock. */
static uint32_t schedule_once(struct pass *pass, struct pdlb_event *events, uint32_t count, uint64_t *retry_at) {
  bool hold_back = false, offer = false;
  engine_lock(pass->engine, &pass->queue->egress);
  /* Links change under this lock: the slot may have been given to another queue meanwhile. */
  const uint32_t link = atomic_load_explicit(&pass->port->link[pass->slot], memory_order_relaxed);
  uint32_t taken = 0;
  if (LIKELY(link != LINK_NONE && LINK_QUEUE(link) == pass->queue_index)) {
    count = allowance(pass, count, retry_at, &hold_back);
    if (count) taken = take(pass, events, count);
    if (taken) commit(pass, taken, &offer);
  }
  if (LIKELY(pass->owners == 0 && !hold_back && !offer)) {
    engine_unlock(&pass->queue->egress);
  } else {
    engine_unlock_and_fence(&pass->queue->egress);
    tell_others(pass, hold_back, offer);
  }
  return taken;
}

static uint32_t schedule_from(struct pdlb_engine *engine, uint32_t port_index, uint32_t slot, uint32_t queue_index,
                              struct pdlb_event *events, uint32_t count, uint64_t *retry_at) {
  struct pass pass; /* not initialised as a whole: it is large, and most of it is set before it is used */
  pass.engine = engine;
  pass.queue = &engine->queues[queue_index];
  pass.port = &engine->ports[port_index];
  pass.queue_index = queue_index;
  pass.port_index = port_index;
  pass.slot = slot;
  uint32_t taken = 0;
  do {
    pass.window_room = pass.owners = 0;
    pass.blocked = pass.limited = false;
    taken += schedule_once(&pass, events + taken, count - taken, retry_at);
  } while (UNLIKELY(pass.owners == MAX_OWNERS) && taken < count);
  return taken;
}

/* ---- one port, all its links
 * ------------------------------------------------------------------------------------------------ */

static uint64_t reversed(uint64_t order) {
  uint64_t result = LINK_ORDER_END;
  for (; (order & 0xFF) != 0xFF; order = (order >> 8) | (0xFFull << 56)) result = (result << 8) | (order & 0xFF);
  return result;
}

/* Links of one priority take turns: the one just served goes behind its equals. */
static void serve_equals_next(struct engine_port *port, uint64_t order, uint32_t position, uint32_t priority) {
  uint64_t turned = order;
  while (position + 1 < PDLB_MAX_LINKS) {
    const uint32_t slot = (turned >> (8 * position)) & 0xFF, next = (turned >> (8 * (position + 1))) & 0xFF;
    if (next == 0xFF) break;
    const uint32_t link = atomic_load_explicit(&port->link[next], memory_order_relaxed);
    if (link == LINK_NONE || LINK_PRIORITY(link) != priority) break;
    turned &= ~(0xFFFFull << (8 * position));
    turned |= ((uint64_t)next | ((uint64_t)slot << 8)) << (8 * position);
    position++;
  }
  if (turned != order)
    atomic_compare_exchange_strong_explicit(&port->link_order, &order, turned, memory_order_relaxed,
                                            memory_order_relaxed);
}

static void before_scheduling(struct pdlb_engine *engine, uint32_t port_index) {
  struct engine_port *port = &engine->ports[port_index];
  engine_settle(engine, port_index);
  if (port->release_on_recv && port->last_received) {
    engine_complete(engine, port_index, port->last_received);
    port->last_received = 0;
  }
  if (UNLIKELY(atomic_load_explicit(&port->stalled, memory_order_relaxed)))
    atomic_store_explicit(&port->stalled, 0, memory_order_relaxed);
}

static inline uint32_t room_for(const struct engine_port *port, uint32_t max) {
  if (max > port->cq_depth) max = port->cq_depth;
  if (port->directed) return max;
  const uint32_t room = port->history_limit - atomic_load_explicit(&port->in_flight, memory_order_relaxed);
  return max < room ? max : room;
}

uint32_t pdlb_engine_schedule(struct pdlb_engine *engine, uint32_t port_index, struct pdlb_event *events, uint32_t max,
                              uint64_t *retry_at) {
  struct engine_port *port = &engine->ports[port_index];
  before_scheduling(engine, port_index);
  if (UNLIKELY(!atomic_load_explicit(&port->enabled, memory_order_relaxed))) return 0;
  max = room_for(port, max);
  const uint64_t order = atomic_load_explicit(&port->link_order, memory_order_acquire);
  const bool upside_down = UNLIKELY(++port->calls % STARVATION_PERIOD == 0);
  uint64_t rest = upside_down ? reversed(order) : order;
  uint32_t taken = 0;
  for (uint32_t position = 0; position < PDLB_MAX_LINKS && taken < max; position++, rest >>= 8) {
    const uint32_t slot = rest & 0xFF;
    if (slot == 0xFF) break;
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_acquire);
    if (link == LINK_NONE || !engine_queued(&engine->queues[LINK_QUEUE(link)])) continue;
    const uint32_t got =
        schedule_from(engine, port_index, slot, LINK_QUEUE(link), events + taken, max - taken, retry_at);
    if (got && !upside_down) serve_equals_next(port, order, position, LINK_PRIORITY(link));
    taken += got;
  }
  if (taken) {
    const uint64_t received = atomic_load_explicit(&port->received, memory_order_relaxed);
    atomic_store_explicit(&port->received, received + taken, memory_order_relaxed);
    if (port->release_on_recv) port->last_received += taken;
  }
  return taken;
}
