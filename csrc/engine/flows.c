/* Atomic flows whose elements cannot be scheduled at once.
 *
 * A flow is in flight on at most one port. When scheduling for another port meets one of its elements, the element is
 * parked with its flow, so that nobody has to step over it again. A flow with parked elements stands on one list:
 * ready (it is free, whoever asks may have it) or owned (in flight on a port, which alone may have more of it).
 * Elements of one flow and priority keep their order, because what comes later is parked behind what was parked.
 */
#include "internal.h"

static struct flow_list *list_of(struct pdlb_engine *engine, uint32_t queue, const struct parked_flow *record) {
  if (record->place == PLACE_READY) return &engine->queues[queue].ready[record->place_priority];
  return &engine->ports[record->port].owned[record->slot][record->place_priority];
}

/* Lists hold record indices plus one, so that zeroed memory is an empty list. */
static void list_append(struct parked_flow *records, struct flow_list *list, uint32_t index) {
  records[index].next = 0;
  records[index].previous = list->tail;
  if (list->tail)
    records[list->tail - 1].next = index + 1;
  else
    list->head = index + 1;
  list->tail = index + 1;
}

static void list_remove(struct parked_flow *records, struct flow_list *list, uint32_t index) {
  const struct parked_flow *record = &records[index];
  if (record->previous)
    records[record->previous - 1].next = record->next;
  else
    list->head = record->next;
  if (record->next)
    records[record->next - 1].previous = record->previous;
  else
    list->tail = record->previous;
}

static uint32_t load_flow(const struct pdlb_engine *engine, uint32_t queue, uint32_t flow) {
  return atomic_load_explicit(&engine_flows(engine, queue)[flow], memory_order_acquire);
}

static void store_flow(const struct pdlb_engine *engine, uint32_t queue, uint32_t flow, uint32_t word) {
  atomic_store_explicit(&engine_flows(engine, queue)[flow], word, memory_order_release);
}

static uint32_t link_slot(const struct engine_port *port, uint32_t queue) {
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_relaxed);
    if (link != LINK_NONE && LINK_QUEUE(link) == queue) return slot;
  }
  return NIL;
}

/* Put the flow on the list where its state and its most urgent element want it. */
static void place(struct pdlb_engine *engine, uint32_t queue, uint32_t index) {
  struct parked_flow *records = engine_parked_flows(engine, queue), *record = &records[index];
  const uint32_t word = load_flow(engine, queue, record->flow);
  const uint8_t priority = (uint8_t)__builtin_ctz(record->priorities);
  uint8_t where = PLACE_READY;
  uint32_t slot = 0, port = 0;
  if (word & FLOW_COUNT) {
    port = ((word & FLOW_OWNER) >> FLOW_OWNER_SHIFT) - 1;
    slot = link_slot(&engine->ports[port], queue);
    where = slot == NIL ? PLACE_NOWHERE : PLACE_OWNED;
  }
  if (record->place == where && record->place_priority == priority &&
      (where != PLACE_OWNED || (record->port == port && record->slot == slot)))
    return;
  if (record->place != PLACE_NOWHERE) list_remove(records, list_of(engine, queue, record), index);
  record->place = where;
  record->place_priority = priority;
  record->port = (uint16_t)port;
  record->slot = (uint8_t)slot;
  if (where != PLACE_NOWHERE) list_append(records, list_of(engine, queue, record), index);
}

/* Records and nodes come from the part never used yet, or from a list of given-back ones (index plus one). */
static uint32_t new_record(struct pdlb_engine *engine, uint32_t queue_index, uint32_t flow) {
  struct engine_queue *queue = &engine->queues[queue_index];
  struct parked_flow *records = engine_parked_flows(engine, queue_index);
  uint32_t index;
  if (queue->record_free) {
    index = queue->record_free - 1;
    queue->record_free = records[index].next;
  } else {
    index = queue->record_unused++;
  }
  records[index].flow = (uint16_t)flow;
  records[index].priorities = 0;
  records[index].place = PLACE_NOWHERE;
  engine_flow_records(engine, queue_index)[flow] = index;
  return index;
}

static uint32_t new_node(struct pdlb_engine *engine, uint32_t queue_index) {
  struct engine_queue *queue = &engine->queues[queue_index];
  if (!queue->node_free) return queue->node_unused++;
  const uint32_t index = queue->node_free - 1;
  queue->node_free = engine_nodes(engine, queue_index)[index].next;
  return index;
}

void engine_flow_add(struct pdlb_engine *engine, uint32_t queue_index, uint32_t node_index) {
  struct engine_queue *queue = &engine->queues[queue_index];
  struct parked_node *nodes = engine_nodes(engine, queue_index), *node = &nodes[node_index];
  /* From now on the port that has it in flight, if one still has, cannot free it without the lock. */
  const uint32_t word =
      atomic_fetch_or_explicit(&engine_flows(engine, queue_index)[node->event.flow], FLOW_PARKED, memory_order_acq_rel);
  const uint32_t index = word & FLOW_PARKED ? engine_flow_records(engine, queue_index)[node->event.flow]
                                            : new_record(engine, queue_index, node->event.flow);
  struct parked_flow *record = &engine_parked_flows(engine, queue_index)[index];
  const uint32_t priority = pdlb_event_priority(&node->event);
  node->next = NIL;
  if (record->priorities & (1u << priority))
    nodes[record->tail[priority]].next = node_index;
  else
    record->head[priority] = node_index;
  record->tail[priority] = node_index;
  record->priorities |= (uint8_t)(1u << priority);
  const uint32_t parked = atomic_load_explicit(&queue->parked, memory_order_relaxed);
  atomic_store_explicit(&queue->parked, parked + 1, memory_order_relaxed);
  atomic_fetch_or_explicit(&queue->slow, SLOW_PARKED, memory_order_relaxed);
  place(engine, queue_index, index);
}

/* Until the caller has taken it from where it lay, the element is in two places; what is noted here tells which is
 * right, should the caller die. */
uint32_t engine_park(struct pdlb_engine *engine, uint32_t queue_index, const struct pdlb_event *event, uint32_t ring,
                     uint64_t from) {
  struct engine_queue *queue = &engine->queues[queue_index];
  const uint32_t index = new_node(engine, queue_index);
  struct parked_node *node = &engine_nodes(engine, queue_index)[index];
  /* In this order: what is noted is of the node with the last stamp, or of none yet. */
  const uint64_t stamp = engine_get(&queue->park_stamp) + 1;
  atomic_store_explicit(&queue->park_stamp, stamp, memory_order_release);
  atomic_store_explicit(&queue->parked_from_ring, ring, memory_order_release);
  atomic_store_explicit(&queue->parked_from, from, memory_order_release);
  node->event = *event;
  atomic_store_explicit(&node->stamp, stamp, memory_order_release);
  engine_flow_add(engine, queue_index, index);
  const uint32_t word = load_flow(engine, queue_index, event->flow);
  return word & FLOW_COUNT ? ((word & FLOW_OWNER) >> FLOW_OWNER_SHIFT) - 1 : NIL;
}

/* The flow's next element of this priority, out of its node. */
static void take_node(struct pdlb_engine *engine, uint32_t queue_index, struct parked_flow *record, uint32_t priority,
                      struct pdlb_event *event) {
  struct engine_queue *queue = &engine->queues[queue_index];
  struct parked_node *nodes = engine_nodes(engine, queue_index);
  const uint32_t node = record->head[priority];
  *event = nodes[node].event;
  if (nodes[node].next == NIL)
    record->priorities &= (uint8_t)~(1u << priority);
  else
    record->head[priority] = nodes[node].next;
  atomic_store_explicit(&nodes[node].stamp, 0, memory_order_release);
  nodes[node].next = queue->node_free;
  queue->node_free = node + 1;
  const uint32_t parked = atomic_load_explicit(&queue->parked, memory_order_relaxed);
  atomic_store_explicit(&queue->parked, parked - 1, memory_order_relaxed);
  if (parked == 1) atomic_fetch_and_explicit(&queue->slow, ~SLOW_PARKED, memory_order_relaxed);
}

static void forget_record(struct pdlb_engine *engine, uint32_t queue_index, uint32_t index) {
  struct engine_queue *queue = &engine->queues[queue_index];
  struct parked_flow *records = engine_parked_flows(engine, queue_index), *record = &records[index];
  list_remove(records, list_of(engine, queue_index, record), index);
  store_flow(engine, queue_index, record->flow, load_flow(engine, queue_index, record->flow) & ~FLOW_PARKED);
  record->place = PLACE_NOWHERE;
  record->next = queue->record_free;
  queue->record_free = index + 1;
}

uint32_t engine_unpark(struct pdlb_engine *engine, uint32_t queue_index, uint32_t port_index, uint32_t slot,
                       uint32_t priority, struct pdlb_event *events, uint32_t count, uint32_t *tail) {
  struct engine_port *port = &engine->ports[port_index];
  struct parked_flow *records = engine_parked_flows(engine, queue_index);
  uint32_t taken = 0;
  while (taken < count) {
    uint32_t index = port->owned[slot][priority].head;
    if (!index) index = engine->queues[queue_index].ready[priority].head;
    if (!index) break;
    struct parked_flow *record = &records[--index];
    const uint32_t word = load_flow(engine, queue_index, record->flow) & (FLOW_COUNT | FLOW_PARKED);
    store_flow(engine, queue_index, record->flow, (word | port->owns) + 1);
    take_node(engine, queue_index, record, priority, &events[taken++]);
    atomic_store_explicit(&engine_history(engine, port)[(*tail)++ & port->history_mask],
                          engine->queues[queue_index].entry | record->flow, memory_order_relaxed);
    if (record->priorities)
      place(engine, queue_index, index);
    else
      forget_record(engine, queue_index, index);
  }
  return taken;
}

bool engine_flow_completed(struct pdlb_engine *engine, uint32_t queue, uint32_t flow) {
  const uint32_t word = load_flow(engine, queue, flow) - 1;
  store_flow(engine, queue, flow, word & FLOW_COUNT ? word : FLOW_PARKED);
  if (word & FLOW_COUNT) return false;
  place(engine, queue, engine_flow_records(engine, queue)[flow]);
  return true;
}

/* The link is gone from the port: what it owned waits, on no list, until the port completes what it holds. */
void engine_flows_unlinked(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t slot) {
  struct parked_flow *records = engine_parked_flows(engine, queue);
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    struct flow_list *list = &engine->ports[port].owned[slot][priority];
    while (list->head) {
      const uint32_t index = list->head - 1;
      list_remove(records, list, index);
      records[index].place = PLACE_NOWHERE;
    }
  }
}

void engine_flows_linked(struct pdlb_engine *engine, uint32_t queue, uint32_t port) {
  const struct parked_flow *records = engine_parked_flows(engine, queue);
  for (uint32_t index = 0; index < engine->queues[queue].record_unused; index++) {
    if (!records[index].priorities || records[index].place != PLACE_NOWHERE) continue;
    if ((load_flow(engine, queue, records[index].flow) & FLOW_OWNER) == engine_flow_owned_by(port))
      place(engine, queue, index);
  }
}
