/* After a death: what a process was in the middle of is finished or undone, and derived state is made anew from truth.
 *
 * With all locks of all queues held nothing moves but what needs none: ports release unordered elements, and free flows
 * that nobody waits for. A lock that the dead process held is taken over, and what it protects is mended; credits are
 * counted anew in any case.
 */
#include "internal.h"

#define MOST_QUEUES 1024u
#define MOST_DEAD 32u

struct burial {
  struct pdlb_engine *engine;
  uint32_t dead[MOST_DEAD]; /* who is to be buried, and others who were found to have locks and be dead */
  uint32_t count;
  uint64_t ingress[MOST_QUEUES / 64], egress[MOST_QUEUES / 64]; /* locks that were a dead process's */
};

static bool has(const uint64_t *set, uint32_t index) { return set[index / 64] & (1ull << (index % 64)); }

/* ---- ports ------------------------------------------------------------------------------------------------------- */

typedef void visit_port(struct burial *burial, struct engine_port *port, uint32_t queue);

static void each_port(struct burial *burial, bool directed, visit_port *visit, uint32_t queue) {
  const struct pdlb_engine *engine = burial->engine;
  const uint32_t made = atomic_load_explicit(&engine->header->ports_made[directed], memory_order_acquire);
  for (uint32_t id = 0; id < made; id++)
    visit(burial, &engine->ports[pdlb_engine_port_index(engine, id, directed)], queue);
}

static bool was_used_by_dead(const struct burial *burial, const struct engine_port *port) {
  const uint32_t user = atomic_load_explicit(&port->user, memory_order_relaxed);
  for (uint32_t i = 0; i < burial->count; i++)
    if (burial->dead[i] == user) return true;
  return false;
}

static uint64_t entry_at(const struct burial *burial, const struct engine_port *port, uint32_t position) {
  const history_entry *history = engine_history(burial->engine, port);
  return atomic_load_explicit(&history[position & port->history_mask], memory_order_relaxed);
}

static uint32_t head_of(const struct engine_port *port) {
  return atomic_load_explicit(&port->history_head, memory_order_acquire);
}

static uint32_t tail_of(const struct engine_port *port) {
  return atomic_load_explicit(&port->history_tail, memory_order_acquire);
}

/* Whether the oldest element was completed already, and but for its entry nothing tells otherwise. */
static bool is_completed(const struct burial *burial, const struct engine_port *port, uint64_t entry) {
  const struct pdlb_engine *engine = burial->engine;
  const uint32_t index = ENTRY_QUEUE(entry), first = ENTRY_FIRST(entry);
  const struct engine_queue *queue = &engine->queues[index];
  if (ENTRY_TYPE(entry) == PDLB_SCHED_ATOMIC) {
    const uint32_t word = atomic_load_explicit(&engine_flows(engine, index)[first], memory_order_relaxed);
    return (word & FLOW_OWNER) != port->owns || !(word & FLOW_COUNT);
  }
  return ENTRY_TYPE(entry) == PDLB_SCHED_ORDERED && ((int32_t)(first - queue->oldest_sequence) < 0 ||
                                                     engine_order_slot(engine, index, first)->state != ORDER_OPEN);
}

static void make_room_anew(struct engine_port *port, uint32_t room) {
  port->room = room;
  if (room)
    atomic_fetch_and_explicit(&port->notice, ~NOTICE_FULL, memory_order_seq_cst);
  else
    atomic_fetch_or_explicit(&port->notice, NOTICE_FULL, memory_order_seq_cst);
}

/* What the port holds is what its history tells; its counts follow. */
static void mend_port(struct burial *burial, struct engine_port *port, uint32_t ignored) {
  (void)ignored;
  if (!was_used_by_dead(burial, port)) return;
  uint32_t held = 0;
  while (head_of(port) != tail_of(port) && is_completed(burial, port, engine_oldest(burial->engine, port)))
    engine_shorten_oldest(burial->engine, port, 1);
  for (uint32_t at = head_of(port); at != tail_of(port); at++) held += ENTRY_COUNT(entry_at(burial, port, at));
  port->last_received = held; /* a receive of the heir releases it, where a receive does */
  const uint64_t received = engine_get(&port->received), released = engine_get(&port->released);
  if (received - released < held)
    atomic_store_explicit(&port->received, released + held, memory_order_relaxed);
  else
    atomic_store_explicit(&port->released, received - held, memory_order_relaxed);
  const uint32_t limit = atomic_load_explicit(&port->history_limit, memory_order_relaxed);
  if (limit != UINT32_MAX) make_room_anew(port, limit - held);
  atomic_fetch_or_explicit(&port->notice, NOTICE_DISABLED, memory_order_seq_cst);
  pdlb_engine_disarm(burial->engine, port->index);
}

/* ---- flows ------------------------------------------------------------------------------------------------------- */

/* Flows in flight on the dead process's ports are what their histories tell; nothing is parked, for now. */
static void forget_flows(struct burial *burial, uint32_t index) {
  const struct pdlb_engine *engine = burial->engine;
  _Atomic uint32_t *const flows = engine_flows(engine, index);
  for (uint32_t flow = 0; flow < FLOWS; flow++) {
    const uint32_t word = atomic_load_explicit(&flows[flow], memory_order_relaxed);
    if (!word) continue;
    atomic_fetch_and_explicit(&flows[flow], ~FLOW_PARKED, memory_order_relaxed);
    const uint32_t owner = (word & FLOW_OWNER) >> FLOW_OWNER_SHIFT;
    if (!owner || was_used_by_dead(burial, &engine->ports[owner - 1]))
      atomic_store_explicit(&flows[flow], 0, memory_order_relaxed);
  }
}

static void hold_flows_again(struct burial *burial, struct engine_port *port, uint32_t index) {
  if (!was_used_by_dead(burial, port)) return;
  for (uint32_t at = head_of(port); at != tail_of(port); at++) {
    const uint64_t entry = entry_at(burial, port, at);
    if (ENTRY_QUEUE(entry) != index || ENTRY_TYPE(entry) != PDLB_SCHED_ATOMIC) continue;
    _Atomic uint32_t *const flow = &engine_flows(burial->engine, index)[ENTRY_FIRST(entry)];
    const uint32_t word = atomic_load_explicit(flow, memory_order_relaxed);
    atomic_store_explicit(flow, (word | port->owns) + 1, memory_order_relaxed);
  }
}

static void forget_owned(struct burial *burial, struct engine_port *port, uint32_t index) {
  (void)burial;
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_relaxed);
    if (link != LINK_NONE && LINK_QUEUE(link) == index) memset(port->owned[slot], 0, sizeof port->owned[slot]);
  }
}

/* The last element that was parked lies where it came from: the queue still has it there. */
static bool is_still_there(const struct engine_queue *queue) {
  const uint64_t from = engine_get(&queue->parked_from);
  const uint32_t ring = atomic_load_explicit(&queue->parked_from_ring, memory_order_relaxed);
  if (ring != NIL)
    return (int32_t)((uint32_t)from - atomic_load_explicit(&queue->head[ring], memory_order_relaxed)) >= 0;
  return from >= engine_get(&queue->front_taken) && from < engine_get(&queue->front_tail) &&
         !(queue->front_key[from & FRONT_MASK] & KEY_GONE);
}

/* Merge two lists of nodes, each in order of stamps. */
static uint32_t merge(struct parked_node *nodes, uint32_t left, uint32_t right) {
  uint32_t first = NIL, *end = &first;
  while (left != NIL && right != NIL) {
    uint32_t *const less = engine_get(&nodes[left].stamp) < engine_get(&nodes[right].stamp) ? &left : &right;
    *end = *less;
    end = &nodes[*less].next;
    *less = nodes[*less].next;
  }
  *end = left != NIL ? left : right;
  return first;
}

/* All parked nodes as one list in order of stamps, and all others as the list of free ones. */
static uint32_t sort_nodes(struct engine_queue *queue, struct parked_node *nodes) {
  uint32_t runs[32]; /* the nth is a sorted list of 1 << n nodes, or NIL */
  for (uint32_t n = 0; n < 32; n++) runs[n] = NIL;
  queue->node_free = 0;
  for (uint32_t index = 0; index < queue->node_unused; index++) {
    if (!engine_get(&nodes[index].stamp)) {
      nodes[index].next = queue->node_free;
      queue->node_free = index + 1;
      continue;
    }
    uint32_t run = index, n = 0;
    nodes[index].next = NIL;
    for (; runs[n] != NIL; n++) {
      run = merge(nodes, runs[n], run);
      runs[n] = NIL;
    }
    runs[n] = run;
  }
  uint32_t all = NIL;
  for (uint32_t n = 0; n < 32; n++) all = merge(nodes, runs[n], all);
  return all;
}

static void mend_flows(struct burial *burial, uint32_t index) {
  struct pdlb_engine *engine = burial->engine;
  struct engine_queue *queue = &engine->queues[index];
  struct parked_node *nodes = engine_nodes(engine, index);
  forget_flows(burial, index);
  each_port(burial, false, hold_flows_again, index);
  each_port(burial, false, forget_owned, index);
  memset(queue->ready, 0, sizeof queue->ready);
  queue->record_free = queue->record_unused = 0;
  atomic_store_explicit(&queue->parked, 0, memory_order_relaxed);
  atomic_fetch_and_explicit(&queue->slow, ~SLOW_PARKED, memory_order_relaxed);
  if (is_still_there(queue))
    for (uint32_t node = 0; node < queue->node_unused; node++)
      if (engine_get(&nodes[node].stamp) == engine_get(&queue->park_stamp))
        atomic_store_explicit(&nodes[node].stamp, 0, memory_order_relaxed);
  for (uint32_t node = sort_nodes(queue, nodes), next; node != NIL; node = next) {
    next = nodes[node].next;
    engine_flow_add(engine, index, node);
  }
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static void mark_held_places(struct burial *burial, struct engine_port *port, uint32_t index) {
  for (uint32_t at = head_of(port); at != tail_of(port); at++) {
    const uint64_t entry = entry_at(burial, port, at);
    if (ENTRY_QUEUE(entry) != index || ENTRY_TYPE(entry) != PDLB_SCHED_ORDERED) continue;
    for (uint32_t i = 0; i < ENTRY_COUNT(entry); i++) {
      struct order_slot *slot = engine_order_slot(burial->engine, index, ENTRY_FIRST(entry) + i);
      if (slot->state == ORDER_OPEN) slot->state = ORDER_HELD;
    }
  }
}

/* What was being moved has arrived, or not; and places that nobody holds are held no more. */
static void mend_line(struct burial *burial, uint32_t index) {
  struct pdlb_engine *engine = burial->engine;
  struct engine_queue *queue = &engine->queues[index];
  uint32_t in_line = 0;
  if (queue->flush.target && engine_enqueued(&engine->queues[queue->flush.target - 1]) != queue->flush.arrived)
    engine_order_move_on(engine, index, queue->flush.until);
  queue->flush.target = 0;
  each_port(burial, false, mark_held_places, index);
  for (uint32_t sequence = queue->oldest_sequence; sequence != queue->next_sequence; sequence++) {
    struct order_slot *slot = engine_order_slot(engine, index, sequence);
    if (slot->state == ORDER_OPEN)
      slot->state = ORDER_DROPPED;
    else if (slot->state == ORDER_HELD)
      slot->state = ORDER_OPEN;
    in_line += slot->state == ORDER_FORWARDED;
  }
  atomic_store_explicit(&queue->in_line, in_line, memory_order_relaxed);
}

/* ---- queues ------------------------------------------------------------------------------------------------------ */

void engine_mend_ingress(struct engine_queue *queue) {
  const uint64_t tail = engine_get(&queue->front_tail);
  uint32_t sum = 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    sum += atomic_load_explicit(&queue->tail[priority], memory_order_relaxed);
  if (sum != (uint32_t)engine_get(&queue->ring_in))
    for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
      atomic_store_explicit(&queue->tail[priority],
                            atomic_load_explicit(&queue->tail_next[priority], memory_order_relaxed),
                            memory_order_release);
  else
    for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
      atomic_store_explicit(&queue->tail_next[priority],
                            atomic_load_explicit(&queue->tail[priority], memory_order_relaxed), memory_order_relaxed);
  /* Credits and places are looked at again. */
  queue->front_until = tail;
  queue->rings_until = engine_slow(queue) & SLOW_RINGS ? 1 : 0;
  queue->credit_until = engine_enqueued(queue);
}

static void mend_front(struct engine_queue *queue) {
  const uint64_t tail = engine_get(&queue->front_tail);
  uint64_t taken = engine_get(&queue->front_taken);
  uint32_t gone = 0;
  while (taken != tail && queue->front_key[taken & FRONT_MASK] & KEY_GONE) taken++;
  memset(queue->left, 0, sizeof queue->left);
  for (uint64_t at = taken; at != tail; at++) {
    const uint32_t slot = (uint32_t)at & FRONT_MASK, key = queue->front_key[slot];
    if (key & KEY_GONE)
      gone++;
    else
      queue->left[key & KEY_PRIORITY] |= 1ull << slot;
  }
  queue->front_looked = tail;
  atomic_store_explicit(&queue->front_taken, taken, memory_order_release);
  atomic_store_explicit(&queue->front_gone, gone, memory_order_relaxed);
  atomic_fetch_and_explicit(&queue->slow, ~SLOW_LEFT, memory_order_relaxed);
  if (taken != tail) atomic_fetch_or_explicit(&queue->slow, SLOW_LEFT, memory_order_relaxed);
}

static void mend_rings(struct engine_queue *queue) {
  uint64_t out = engine_get(&queue->ring_out);
  uint32_t heads = 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    heads += atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
  out += heads - (uint32_t)out;
  atomic_store_explicit(&queue->ring_out, out, memory_order_release);
}

static void count_in_flight(struct burial *burial, struct engine_port *port, uint32_t index) {
  struct engine_queue *queue = &burial->engine->queues[index];
  for (uint32_t at = head_of(port); at != tail_of(port); at++) {
    const uint64_t entry = entry_at(burial, port, at);
    if (ENTRY_QUEUE(entry) == index)
      atomic_fetch_add_explicit(&queue->inflight, ENTRY_COUNT(entry), memory_order_relaxed);
  }
}

/* Flows, lines, and what is in flight. */
static void mend_flights(struct burial *burial, uint32_t index) {
  struct engine_queue *queue = &burial->engine->queues[index];
  if (queue->window) mend_line(burial, index);
  mend_flows(burial, index);
  if (!queue->limited) return;
  atomic_store_explicit(&queue->inflight, 0, memory_order_relaxed);
  each_port(burial, false, count_in_flight, index);
}

static void mend_egress(struct burial *burial, uint32_t index) {
  struct engine_queue *queue = &burial->engine->queues[index];
  mend_front(queue);
  mend_rings(queue);
  if (!queue->directed) mend_flights(burial, index);
  atomic_store_explicit(&queue->scheduled,
                        engine_get(&queue->front_taken) +
                            atomic_load_explicit(&queue->front_gone, memory_order_relaxed) +
                            engine_get(&queue->ring_out) - atomic_load_explicit(&queue->parked, memory_order_relaxed),
                        memory_order_release);
  atomic_store_explicit(&queue->given, engine_get(&queue->scheduled), memory_order_relaxed);
  atomic_store_explicit(&queue->run_until, 0, memory_order_relaxed);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* True if the lock was a dead one's. */
static bool take_over(struct burial *burial, _Atomic uint32_t *lock) {
  const uint32_t dead = engine_take_over(burial->engine, lock, burial->dead[0]);
  uint32_t i = 0;
  while (i < burial->count && burial->dead[i] != dead) i++;
  if (dead && i == burial->count && i < MOST_DEAD) burial->dead[burial->count++] = dead;
  return dead;
}

static void lock_all(struct burial *burial) {
  struct pdlb_engine *engine = burial->engine;
  const uint32_t count = engine_queue_count(engine->header);
  take_over(burial, &engine->header->recovery_lock);
  for (uint32_t index = 0; index < count; index++)
    if (take_over(burial, &engine->queues[index].egress)) burial->egress[index / 64] |= 1ull << (index % 64);
  for (uint32_t index = 0; index < count; index++)
    if (take_over(burial, &engine->queues[index].ingress)) burial->ingress[index / 64] |= 1ull << (index % 64);
}

static void unlock_all(const struct burial *burial) {
  struct pdlb_engine *engine = burial->engine;
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++) {
    engine_unlock_and_fence(&engine->queues[index].ingress);
    engine_unlock_and_fence(&engine->queues[index].egress);
  }
  engine_unlock(&engine->header->recovery_lock);
}

/* What is left of all credits when each queue has as many as it needs. */
static uint32_t reserve_anew(const struct pdlb_engine *engine) {
  uint32_t left = engine->header->credits_total;
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++) {
    struct engine_queue *queue = &engine->queues[index];
    const uint32_t waiting = engine_queued(queue);
    atomic_store_explicit(&queue->reserved, waiting, memory_order_relaxed);
    queue->front_until = engine_get(&queue->front_tail);
    queue->credit_until = engine_enqueued(queue);
    left -= waiting + atomic_load_explicit(&queue->in_line, memory_order_relaxed);
  }
  return left;
}

/* Credits are what is left of all when those of waiting elements are taken away; no queue has any in reserve. What left
 * a queue and came to no port is counted as received and released by one of the dead process's. */
static uint32_t balance(struct burial *burial) {
  const struct pdlb_engine *engine = burial->engine;
  uint64_t lost = 0;
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++)
    lost += engine_scheduled(&engine->queues[index]);
  struct engine_port *heir = NULL;
  for (uint32_t directed = 0; directed < 2; directed++)
    for (uint32_t id = 0; id < engine->header->ports_made[directed]; id++) {
      struct engine_port *port = &engine->ports[pdlb_engine_port_index(engine, id, directed)];
      lost -= engine_get(&port->received);
      if (was_used_by_dead(burial, port)) heir = port;
    }
  if (heir) {
    atomic_fetch_add_explicit(&heir->received, lost, memory_order_relaxed);
    atomic_fetch_add_explicit(&heir->released, lost, memory_order_relaxed);
  }
  atomic_store_explicit(&engine->header->credits, (int32_t)reserve_anew(engine), memory_order_release);
  return (uint32_t)lost;
}

static void inherit_port(struct burial *burial, struct engine_port *port, uint32_t ignored) {
  (void)ignored;
  if (was_used_by_dead(burial, port)) atomic_store_explicit(&port->user, burial->engine->owner, memory_order_relaxed);
}

/* The dead one may have been about to tell somebody. */
static void tell_everybody(struct burial *burial, struct engine_port *port, uint32_t ignored) {
  (void)ignored;
  struct pdlb_engine *engine = burial->engine;
  if (atomic_load_explicit(&port->configured, memory_order_acquire) && !was_used_by_dead(burial, port))
    engine->host->wake(engine->context, port->index, PDLB_NONE, 0);
}

static void hand_on(struct burial *burial) {
  struct pdlb_engine *engine = burial->engine;
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++) {
    struct engine_queue *queue = &engine->queues[index];
    if (!atomic_load_explicit(&queue->configured, memory_order_acquire)) continue;
    if (queue->window) engine_order_flush(engine, index);
    const uint32_t waiting = engine_queued(queue);
    if (waiting) engine_offer(engine, index, waiting);
  }
  each_port(burial, false, tell_everybody, 0);
  each_port(burial, true, tell_everybody, 0);
}

uint32_t pdlb_engine_bury(struct pdlb_engine *engine, uint32_t owner) {
  struct burial burial = {.engine = engine, .dead = {owner}, .count = 1};
  lock_all(&burial);
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++)
    if (has(burial.ingress, index)) engine_mend_ingress(&engine->queues[index]);
  each_port(&burial, false, mend_port, 0);
  each_port(&burial, true, mend_port, 0);
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++)
    if (has(burial.egress, index)) mend_egress(&burial, index);
  const uint32_t lost = balance(&burial);
  unlock_all(&burial);
  hand_on(&burial);
  each_port(&burial, false, inherit_port, 0);
  each_port(&burial, true, inherit_port, 0);
  return lost;
}
