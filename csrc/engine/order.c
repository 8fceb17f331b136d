/* Ordered queues: elements are spread over ports and, when they are forwarded, take their places in line again.
 *
 * Every ordered element that is scheduled gets the next sequence number and with it a slot. A release leaves the slot
 * empty but complete, a forward puts the new element there. From the oldest slot on, complete ones are sent on; one
 * that is still open holds back all behind it.
 */
#include "internal.h"

void engine_order_fill(struct pdlb_engine *engine, uint32_t queue, uint32_t sequence, const struct pdlb_event *event) {
  struct order_slot *slot = engine_order_slot(engine, queue, sequence);
  if (event) {
    slot->event = *event;
    atomic_fetch_add_explicit(&engine->queues[queue].in_line, 1, memory_order_relaxed);
  }
  __atomic_store_n(&slot->state, event ? ORDER_FORWARDED : ORDER_DROPPED, __ATOMIC_RELEASE);
}

/* What the next slots in line have: up to `max` elements for one queue, copied out. `*slots`: from how many slots. */
static uint32_t collect(const struct pdlb_engine *engine, uint32_t index, struct pdlb_event *events, uint32_t max,
                        uint32_t *slots) {
  const struct engine_queue *queue = &engine->queues[index];
  uint32_t count = 0, sequence = queue->oldest_sequence;
  for (; count < max && sequence != queue->next_sequence; sequence++) {
    const struct order_slot *slot = engine_order_slot(engine, index, sequence);
    if (slot->state == ORDER_OPEN) break;
    if (slot->state != ORDER_FORWARDED) continue;
    if (count && engine_event_key(&slot->event) != engine_event_key(events)) break;
    events[count++] = slot->event;
  }
  *slots = sequence - queue->oldest_sequence;
  return count;
}

void engine_order_move_on(struct pdlb_engine *engine, uint32_t index, uint32_t until) {
  struct engine_queue *queue = &engine->queues[index];
  for (uint32_t sequence = queue->oldest_sequence; sequence != until; sequence++)
    engine_order_slot(engine, index, sequence)->state = ORDER_OPEN;
  __atomic_store_n(&queue->oldest_sequence, until, __ATOMIC_RELEASE);
}

/* The elements arrive where they are for. Should this process die here, `flush` tells whether they did. */
static void deliver(struct pdlb_engine *engine, struct engine_queue *line, const struct pdlb_event *events,
                    uint32_t count, uint32_t slots) {
  const uint32_t target_index = engine_key_queue(engine, engine_event_key(events));
  struct engine_queue *target = &engine->queues[target_index];
  if (UNLIKELY(engine_take_over(engine, &target->ingress, 0))) engine_mend_ingress(target);
  line->flush.until = line->oldest_sequence + slots;
  line->flush.arrived = engine_enqueued(target);
  __atomic_store_n(&line->flush.target, target_index + 1, __ATOMIC_RELEASE);
  engine_append_with_credits(engine, target_index, events, count);
  engine_unlock_and_fence(&target->ingress);
}

/* One round under the lock, so that nobody can overtake between collecting and delivering. False if there was nothing
 * to do. */
static bool flush_round(struct pdlb_engine *engine, uint32_t index) {
  struct pdlb_event events[ENGINE_BATCH];
  struct engine_queue *queue = &engine->queues[index];
  uint32_t slots;
  engine_lock(engine, &queue->egress);
  const uint32_t count = collect(engine, index, events, ENGINE_BATCH, &slots);
  if (!slots) {
    engine_unlock(&queue->egress);
    return false;
  }
  if (count) deliver(engine, queue, events, count, slots);
  const bool was_full = queue->next_sequence - queue->oldest_sequence == queue->window;
  engine_order_move_on(engine, index, queue->oldest_sequence + slots);
  if (count) atomic_fetch_sub_explicit(&queue->in_line, count, memory_order_relaxed);
  __atomic_store_n(&queue->flush.target, 0, __ATOMIC_RELEASE);
  engine_unlock_and_fence(&queue->egress);
  if (count) engine_offer(engine, engine_key_queue(engine, engine_event_key(events)), count);
  if (was_full && engine_any_queued(queue)) engine_offer(engine, index, queue->window);
  return true;
}

void engine_order_flush(struct pdlb_engine *engine, uint32_t index) {
  while (flush_round(engine, index)) continue;
}
