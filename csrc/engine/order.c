/* Ordered queues: elements are spread over ports and, when they are forwarded, take their places in line again.
 *
 * Every ordered element that is scheduled gets the next sequence number and with it a slot. A release leaves the slot
 * empty but complete, a forward puts the new element there. From the oldest slot on, complete ones are sent on; one
 * that is still open holds back all behind it.
 */
#include "internal.h"

static struct order_slot *slot_of(const struct pdlb_engine *engine, uint32_t queue, uint32_t sequence) {
  return &engine_order(engine, queue)[sequence & (engine->queues[queue].window - 1)];
}

void engine_order_fill(struct pdlb_engine *engine, uint32_t queue, uint32_t sequence, const struct pdlb_event *event) {
  struct order_slot *slot = slot_of(engine, queue, sequence);
  if (event) {
    slot->event = *event;
    atomic_fetch_add_explicit(&engine->queues[queue].in_line, 1, memory_order_relaxed);
  }
  slot->state = event ? ORDER_FORWARDED : ORDER_DROPPED;
}

/* Under the egress lock: move up to `max` elements that are next in line into `events`. */
static uint32_t collect(struct pdlb_engine *engine, uint32_t index, struct pdlb_event *events, uint32_t max) {
  struct engine_queue *queue = &engine->queues[index];
  uint32_t count = 0;
  while (count < max && queue->oldest_sequence != queue->next_sequence) {
    struct order_slot *slot = slot_of(engine, index, queue->oldest_sequence);
    if (slot->state == ORDER_OPEN) break;
    if (slot->state == ORDER_FORWARDED) events[count++] = slot->event;
    slot->state = ORDER_OPEN;
    queue->oldest_sequence++;
  }
  return count;
}

/* One round under the lock, so that nobody can overtake between collecting and appending. */
static uint32_t flush_round(struct pdlb_engine *engine, uint32_t index, struct pdlb_event *events) {
  struct engine_queue *queue = &engine->queues[index];
  engine_lock(engine, &queue->egress);
  const uint32_t window_before = queue->next_sequence - queue->oldest_sequence;
  const uint32_t count = collect(engine, index, events, ENGINE_BATCH);
  for (uint32_t done = 0; done < count;) {
    const uint32_t key = engine_event_key(&events[done]);
    done += engine_append(engine, engine_key_queue(engine, key), key, events + done, count - done);
  }
  if (count) atomic_fetch_sub_explicit(&queue->in_line, count, memory_order_relaxed);
  const bool was_full = window_before == queue->window && queue->next_sequence - queue->oldest_sequence < window_before;
  engine_unlock_and_fence(&queue->egress);
  if (was_full) engine_offer(engine, index, window_before);
  return count;
}

void engine_order_flush(struct pdlb_engine *engine, uint32_t index) {
  struct pdlb_event events[ENGINE_BATCH];
  uint32_t count;
  do {
    count = flush_round(engine, index, events);
    for (uint32_t done = 0; done < count;) {
      const uint32_t key = engine_event_key(&events[done]);
      uint32_t run = 1;
      while (done + run < count && engine_event_key(&events[done + run]) == key) run++;
      engine_offer(engine, engine_key_queue(engine, key), run);
      done += run;
    }
  } while (count == ENGINE_BATCH);
}
