/* Completing what a port holds, strictly oldest first, as the device's history list does. */
#include "internal.h"

/* Whoever finds the queue's in-flight limit no longer reached tells those who may be asleep because of it. */
static void leave_flight(struct pdlb_engine *engine, uint32_t index, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t before = atomic_fetch_sub_explicit(&queue->inflight, count, memory_order_seq_cst);
  if (UNLIKELY(before >= queue->inflight_limit) && engine_queued(queue)) engine_offer(engine, index, count);
}

/* Atomic entries of one queue, up to `count`: flows are freed under one lock. Returns how many elements. */
static uint32_t complete_atomic(struct pdlb_engine *engine, struct engine_port *port, uint32_t index, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  const struct history_entry *history = engine_history(engine, port);
  uint32_t done = 0, freed = 0;
  engine_lock(engine, &queue->egress);
  uint32_t *flows = engine_flows(engine, index);
  while (done < count && port->history_head != port->history_tail) {
    const struct history_entry *entry = &history[port->history_head & port->history_mask];
    if (entry->type != PDLB_SCHED_ATOMIC || entry->queue != index) break;
    const uint32_t word = flows[entry->first];
    if (LIKELY(!(word & FLOW_PARKED)))
      flows[entry->first] = (word & FLOW_COUNT) == 1 ? 0 : word - 1;
    else if (engine_flow_completed(engine, index, entry->first))
      freed++;
    port->history_head++;
    done++;
  }
  if (freed)
    engine_unlock_and_fence(&queue->egress);
  else
    engine_unlock(&queue->egress);
  leave_flight(engine, index, done);
  if (freed) engine_offer(engine, index, freed);
  return done;
}

static uint32_t complete_ordered(struct pdlb_engine *engine, struct engine_port *port, struct history_entry *entry,
                                 uint32_t count) {
  const uint32_t index = entry->queue;
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t done = entry->count < count ? entry->count : count;
  engine_lock(engine, &queue->egress);
  for (uint32_t i = 0; i < done; i++) engine_order_fill(engine, index, entry->first + i, NULL);
  engine_unlock(&queue->egress);
  entry->first += done;
  entry->count = (uint16_t)(entry->count - done);
  if (entry->count == 0) port->history_head++;
  leave_flight(engine, index, done);
  engine_order_flush(engine, index);
  return done;
}

static uint32_t complete_unordered(struct pdlb_engine *engine, struct engine_port *port, struct history_entry *entry,
                                   uint32_t count) {
  const uint32_t index = entry->queue;
  const uint32_t done = entry->count < count ? entry->count : count;
  entry->count = (uint16_t)(entry->count - done);
  if (entry->count == 0) port->history_head++;
  leave_flight(engine, index, done);
  return done;
}

/* A port that was full and idle can be given something again. */
static void wake_if_work(struct pdlb_engine *engine, uint32_t port_index) {
  if (pdlb_engine_armed(engine, port_index) && pdlb_engine_has_work(engine, port_index))
    engine_call(engine, port_index);
}

static void count_released(struct pdlb_engine *engine, uint32_t port_index, uint32_t done) {
  struct engine_port *port = &engine->ports[port_index];
  const uint32_t held = atomic_load_explicit(&port->in_flight, memory_order_relaxed);
  atomic_store_explicit(&port->in_flight, held - done, memory_order_relaxed);
  const uint64_t total = atomic_load_explicit(&port->released, memory_order_relaxed);
  atomic_store_explicit(&port->released, total + done, memory_order_relaxed);
  if (UNLIKELY(held >= port->history_limit) && done) wake_if_work(engine, port_index);
}

uint32_t engine_complete(struct pdlb_engine *engine, uint32_t port_index, uint32_t count) {
  struct engine_port *port = &engine->ports[port_index];
  const uint32_t held = atomic_load_explicit(&port->in_flight, memory_order_relaxed);
  if (count > held) count = held;
  uint32_t done = 0;
  while (done < count) {
    struct history_entry *entry = &engine_history(engine, port)[port->history_head & port->history_mask];
    const uint32_t left = count - done;
    if (entry->type == PDLB_SCHED_ATOMIC)
      done += complete_atomic(engine, port, entry->queue, left);
    else if (entry->type == PDLB_SCHED_ORDERED)
      done += complete_ordered(engine, port, entry, left);
    else
      done += complete_unordered(engine, port, entry, left);
  }
  count_released(engine, port_index, done);
  return done;
}

void engine_complete_in_order(struct pdlb_engine *engine, uint32_t port_index, const struct pdlb_event *event) {
  struct engine_port *port = &engine->ports[port_index];
  struct history_entry *oldest = &engine_history(engine, port)[port->history_head & port->history_mask];
  const uint32_t index = oldest->queue;
  struct engine_queue *queue = &engine->queues[index];
  engine_lock(engine, &queue->egress);
  engine_order_fill(engine, index, oldest->first, event);
  engine_unlock(&queue->egress);
  oldest->first++;
  if (--oldest->count == 0) port->history_head++;
  leave_flight(engine, index, 1);
  count_released(engine, port_index, 1);
}

void engine_release_put_off(struct pdlb_engine *engine, uint32_t port) {
  const uint32_t count = atomic_exchange_explicit(&engine->ports[port].released_later, 0, memory_order_relaxed);
  engine_complete(engine, port, count);
}

uint32_t pdlb_engine_release(struct pdlb_engine *engine, uint32_t port, uint32_t count) {
  engine_settle(engine, port);
  return engine_complete(engine, port, count);
}

void pdlb_engine_release_later(struct pdlb_engine *engine, uint32_t port_index, uint32_t count) {
  struct engine_port *port = &engine->ports[port_index];
  const uint32_t held = atomic_load_explicit(&port->in_flight, memory_order_relaxed);
  const uint32_t later = atomic_fetch_add_explicit(&port->released_later, count, memory_order_seq_cst);
  if (held - later >= port->history_limit) wake_if_work(engine, port_index);
}
