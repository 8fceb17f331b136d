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
  uint32_t window_room; /* ordered elements that may still be put in flight */
  uint32_t owners;
  bool blocked; /* the next element must wait: stop */
  bool limited; /* the queue's in-flight limit cut what the port may take */
  uint32_t owner[MAX_OWNERS];
};

static inline uint32_t ring_depth(const struct engine_queue *queue, uint32_t priority) {
  return atomic_load_explicit(&queue->tail[priority], memory_order_acquire) -
         atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
}

static inline bool has_parked(const struct pass *pass, uint32_t priority) {
  return atomic_load_explicit(&pass->queue->parked, memory_order_relaxed) &&
         (pass->port->owned[pass->slot][priority].head || pass->queue->ready[priority].head);
}

static inline bool has_any(const struct pass *pass, uint32_t priority) {
  return ring_depth(pass->queue, priority) || has_parked(pass, priority);
}

/* ---- out of a ring ---------------------------------------------------------------------------------------------------- */

/* Elements that need no look each: all of one type, which is unordered or directed. */
static uint32_t take_run(const struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  const struct pdlb_event *ring = engine_ring(pass->engine, pass->queue_index, priority);
  const uint32_t mask = engine_ring_mask(pass->engine);
  const uint32_t head = atomic_load_explicit(&pass->queue->head[priority], memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) events[i] = ring[(head + i) & mask];
  if (!pass->queue->directed)
    engine_history_push(pass->engine, pass->port, pass->queue_index, PDLB_SCHED_UNORDERED, 0, count);
  atomic_store_explicit(&pass->queue->head[priority], head + count, memory_order_relaxed);
  return count;
}

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

static uint32_t take_each(struct pass *pass, uint32_t priority, uint32_t depth, struct pdlb_event *events,
                          uint32_t count) {
  struct engine_queue *queue = pass->queue;
  const struct pdlb_event *ring = engine_ring(pass->engine, pass->queue_index, priority);
  const uint32_t mask = engine_ring_mask(pass->engine), mine = engine_flow_owned_by(pass->port_index);
  uint32_t *flows = engine_flows(pass->engine, pass->queue_index);
  uint32_t head = atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
  const uint32_t end = head + depth;
  uint32_t taken = 0;
  for (; head != end && taken < count && !pass->blocked; head++) {
    const struct pdlb_event *event = &ring[head & mask];
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
      if (pass->window_room == 0) {
        pass->blocked = true;
        break;
      }
      pass->window_room--;
      note_run(pass, PDLB_SCHED_ORDERED, queue->next_sequence++);
    } else {
      note_run(pass, PDLB_SCHED_UNORDERED, 0);
    }
    events[taken++] = *event;
  }
  atomic_store_explicit(&queue->head[priority], head, memory_order_relaxed);
  return taken;
}

static uint32_t take(struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  uint32_t taken = 0;
  if (UNLIKELY(has_parked(pass, priority))) {
    taken = engine_unpark(pass->engine, pass->queue_index, pass->port_index, pass->slot, priority, events, count);
    if (taken == count) return taken;
  }
  count -= taken;
  /* In this order: the types of all that the depth counts have then been seen. */
  const uint32_t depth = ring_depth(pass->queue, priority);
  const uint32_t seen = atomic_load_explicit(&pass->queue->types_seen, memory_order_relaxed);
  if (depth == 0) return taken;
  if (seen == 1u << PDLB_SCHED_UNORDERED || seen == 1u << PDLB_SCHED_DIRECTED)
    return taken + take_run(pass, priority, events + taken, count < depth ? count : depth);
  return taken + take_each(pass, priority, depth, events + taken, count);
}

/* ---- which priority next -------------------------------------------------------------------------------------------------- */

/* The lower priority whose turn it is to be served before the highest one; that one if there is no other. */
static uint32_t starving(const struct pass *pass, uint32_t highest) {
  uint32_t turn = pass->queue->starve_turn;
  for (uint32_t tries = 0; tries < PDLB_PRIORITIES; tries++) {
    turn = (turn + 1) % PDLB_PRIORITIES;
    if (turn > highest && has_any(pass, turn)) return turn;
  }
  return highest;
}

static uint32_t take_by_priority(struct pass *pass, struct pdlb_event *events, uint32_t count) {
  struct engine_queue *queue = pass->queue;
  uint32_t taken = 0, priority = 0;
  while (taken < count && !pass->blocked) {
    while (priority < PDLB_PRIORITIES && !has_any(pass, priority)) priority++;
    if (priority == PDLB_PRIORITIES) break;
    uint32_t serve = priority, run = STARVATION_PERIOD - 1 - queue->picks;
    if (UNLIKELY(run == 0)) {
      serve = queue->starve_turn = starving(pass, priority);
      run = 1;
      queue->picks = 0;
    }
    if (run > count - taken) run = count - taken;
    const uint32_t got = take(pass, serve, events + taken, run);
    if (serve == priority) queue->picks += got;
    if (queue->picks >= STARVATION_PERIOD) queue->picks = 0;
    taken += got;
  }
  return taken;
}

/* ---- one queue, one port ------------------------------------------------------------------------------------------------- */

/* How many elements the queue's limits let the port take now. */
static uint32_t allowance(struct pass *pass, uint32_t count, uint64_t now, uint64_t *retry_at, bool *offer) {
  const struct engine_queue *queue = pass->queue;
  if (queue->directed) return count;
  const uint32_t inflight = atomic_load_explicit(&queue->inflight, memory_order_seq_cst);
  const uint32_t room = inflight < queue->inflight_limit ? queue->inflight_limit - inflight : 0;
  pass->limited = count > room;
  if (pass->limited) count = room;
  pass->window_room = queue->window - (queue->next_sequence - queue->oldest_sequence);
  if (queue->even && count) {
    const uint32_t waiting = engine_queued(queue);
    const uint32_t share = waiting ? engine_even_share(pass->engine, pass->queue_index, pass->port_index, waiting, now,
                                                       retry_at, offer)
                                   : 0;
    if (count > share) count = share;
  }
  return count;
}

/* What was taken leaves the queue for good: its counters, its clock, the credits. Sets `*offer` where a release made
 * room, unseen by those whom the in-flight limit had turned away. */
static void commit(const struct pass *pass, uint32_t taken, uint64_t now, bool *offer) {
  struct engine_queue *queue = pass->queue;
  const uint64_t scheduled = atomic_load_explicit(&queue->scheduled, memory_order_relaxed);
  atomic_store_explicit(&queue->scheduled, scheduled + taken, memory_order_release);
  if (!queue->directed) {
    const uint32_t before = atomic_fetch_add_explicit(&queue->inflight, taken, memory_order_seq_cst);
    if (UNLIKELY(pass->limited) && before + taken < queue->inflight_limit) *offer = true;
    const uint32_t held = atomic_load_explicit(&pass->port->in_flight, memory_order_relaxed);
    atomic_store_explicit(&pass->port->in_flight, held + taken, memory_order_relaxed);
  }
  if (now) atomic_store_explicit(&queue->waiting_since, engine_queued(queue) ? now : 0, memory_order_relaxed);
  engine_give_credits(pass->engine, taken);
}

/* One pass under the lock. */
static uint32_t schedule_once(struct pass *pass, struct pdlb_event *events, uint32_t count, uint64_t now,
                              uint64_t *retry_at) {
  struct pdlb_engine *engine = pass->engine;
  bool hold_back = false, offer = false;
  engine_lock(engine, &pass->queue->egress);
  /* Links change under this lock: the slot may have been given to another queue meanwhile. */
  const uint32_t link = atomic_load_explicit(&pass->port->link[pass->slot], memory_order_relaxed);
  uint32_t taken = 0;
  if (LIKELY(link != LINK_NONE && LINK_QUEUE(link) == pass->queue_index)) {
    count = allowance(pass, count, now, retry_at, &hold_back);
    if (count) taken = take_by_priority(pass, events, count);
    if (taken) commit(pass, taken, now, &offer);
  }
  if (LIKELY(pass->owners == 0 && !hold_back && !offer)) {
    engine_unlock(&pass->queue->egress);
    return taken;
  }
  engine_unlock_and_fence(&pass->queue->egress);
  for (uint32_t i = 0; i < pass->owners; i++) engine_call(engine, pass->owner[i]);
  const uint32_t waiting = engine_queued(pass->queue);
  if (hold_back && waiting) engine_offer_to_due(engine, pass->queue_index, waiting);
  if (offer && waiting) engine_offer(engine, pass->queue_index, waiting, now);
  return taken;
}

static uint32_t schedule_from(struct pdlb_engine *engine, uint32_t port_index, uint32_t slot, uint32_t queue_index,
                              struct pdlb_event *events, uint32_t count, uint64_t now, uint64_t *retry_at) {
  uint32_t taken = 0, owners;
  do {
    struct pass pass;
    pass.engine = engine;
    pass.queue = &engine->queues[queue_index];
    pass.port = &engine->ports[port_index];
    pass.queue_index = queue_index;
    pass.port_index = port_index;
    pass.slot = slot;
    pass.window_room = 0;
    pass.owners = 0;
    pass.blocked = pass.limited = false;
    taken += schedule_once(&pass, events + taken, count - taken, now, retry_at);
    owners = pass.owners;
  } while (UNLIKELY(owners == MAX_OWNERS) && taken < count);
  return taken;
}

/* ---- one port, all its links ------------------------------------------------------------------------------------------------ */

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

static void before_scheduling(struct pdlb_engine *engine, uint32_t port_index, uint64_t now) {
  struct engine_port *port = &engine->ports[port_index];
  engine_settle(engine, port_index, now);
  if (port->release_on_recv && port->last_received) {
    engine_complete(engine, port_index, port->last_received, now);
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
                              uint64_t now, uint64_t *retry_at) {
  struct engine_port *port = &engine->ports[port_index];
  before_scheduling(engine, port_index, now);
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
    const uint32_t got = schedule_from(engine, port_index, slot, LINK_QUEUE(link), events + taken, max - taken, now,
                                       retry_at);
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
