/* Which port serves which queues, and when that changes: links, and ports that come to an end. One control call at a
 * time. */
#include <errno.h>

#include "internal.h"

/* While what senders look at is half changed, it makes them look at the whole set. */
void engine_set_linked(struct pdlb_engine *engine, uint32_t port, uint32_t queue_index, bool linked) {
  struct engine_queue *queue = &engine->queues[queue_index];
  _Atomic uint64_t *set = engine_linked(engine, queue_index);
  const uint32_t words = engine->header->port_words;
  const uint64_t bit = 1ull << (port % 64);
  atomic_store_explicit(&queue->linked_word, words, memory_order_seq_cst);
  atomic_store_explicit(&queue->linked, UINT64_MAX, memory_order_seq_cst);
  if (linked)
    atomic_fetch_or_explicit(&set[port / 64], bit, memory_order_seq_cst);
  else
    atomic_fetch_and_explicit(&set[port / 64], ~bit, memory_order_seq_cst);
  uint32_t used = 0, last = 0;
  for (uint32_t word = 0; word < words; word++) {
    if (!atomic_load_explicit(&set[word], memory_order_relaxed)) continue;
    used++;
    last = word;
  }
  if (used > 1 || queue->even) return; /* sharing evenly, each send has something to tell */
  atomic_store_explicit(&queue->linked, atomic_load_explicit(&set[last], memory_order_relaxed), memory_order_seq_cst);
  atomic_store_explicit(&queue->linked_word, last, memory_order_seq_cst);
}

static uint32_t slot_of_link(const struct engine_port *port, uint32_t queue) {
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_relaxed);
    if (link != LINK_NONE && LINK_QUEUE(link) == queue) return slot;
  }
  return NIL;
}

static uint32_t empty_slot(const struct engine_port *port) {
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++)
    if (atomic_load_explicit(&port->link[slot], memory_order_relaxed) == LINK_NONE) return slot;
  return NIL;
}

/* Write down anew in which order the port's links are served. */
static void order_links(const struct pdlb_engine *engine, struct engine_port *port) {
  uint64_t order = 0, lasts = 0;
  uint32_t count = 0; /* bits */
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    const uint32_t first = count;
    for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
      const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_relaxed);
      if (link == LINK_NONE || LINK_PRIORITY(link) != priority) continue;
      order |= (uint64_t)slot << count;
      count += 8;
    }
    for (uint32_t place = first; place < count; place += 8) lasts |= (uint64_t)(count - 8) << place;
  }
  if (count < 64) order |= LINK_ORDER_END << count;
  atomic_store_explicit(&port->link_lasts, lasts, memory_order_relaxed);
  atomic_store_explicit(&port->link_order, order, memory_order_release);
  const bool one = order != LINK_ORDER_END && order >> 8 == LINK_ORDER_END >> 8;
  const uint32_t first = one ? atomic_load_explicit(&port->link[order & 0xFF], memory_order_relaxed) : LINK_NONE;
  atomic_store_explicit(&port->only_link, one ? engine_queue_at(engine, &engine->queues[LINK_QUEUE(first)]) : 0,
                        memory_order_release);
}

int pdlb_engine_link(struct pdlb_engine *engine, uint32_t index, uint32_t queue_index, uint32_t priority,
                     const char **why) {
  struct engine_port *port = &engine->ports[index];
  struct engine_queue *queue = &engine->queues[queue_index];
  engine_lock(engine, &engine->header->control_lock);
  uint32_t slot = slot_of_link(port, queue_index);
  const bool fresh = slot == NIL;
  if (fresh) slot = empty_slot(port);
  if (slot != NIL) {
    engine_lock(engine, &queue->egress);
    atomic_store_explicit(&port->link[slot], LINK_MAKE(queue_index, priority), memory_order_release);
    if (fresh) engine_flows_linked(engine, queue_index, index);
    engine_unlock(&queue->egress);
    order_links(engine, port);
    engine_set_linked(engine, index, queue_index, true);
  }
  engine_unlock(&engine->header->control_lock);
  if (slot == NIL) {
    *why = "the port is linked to eight queues already; unlink one first";
    return -ENOSPC;
  }
  engine_go_through(engine, &queue->ingress); /* as a port that goes to sleep does */
  if (pdlb_engine_has_work(engine, index)) engine_call(engine, index);
  return 0;
}

/* Under the control lock. */
static void unlink_slot(struct pdlb_engine *engine, uint32_t index, uint32_t slot) {
  struct engine_port *port = &engine->ports[index];
  const uint32_t queue_index = LINK_QUEUE(atomic_load_explicit(&port->link[slot], memory_order_relaxed));
  struct engine_queue *queue = &engine->queues[queue_index];
  engine_set_linked(engine, index, queue_index, false);
  engine_lock(engine, &queue->egress);
  atomic_store_explicit(&port->link[slot], LINK_NONE, memory_order_release);
  atomic_store_explicit(&port->only_link, 0, memory_order_release);
  if (!queue->directed) engine_flows_unlinked(engine, queue_index, index, slot);
  engine_unlock_and_fence(&queue->egress);
  order_links(engine, port);
}

/* What a port that no longer serves the queue may have been woken for goes to others. */
static void offer_again(struct pdlb_engine *engine, uint32_t queue_index) {
  const uint32_t waiting = engine_queued(&engine->queues[queue_index]);
  if (waiting) engine_offer(engine, queue_index, waiting);
}

void pdlb_engine_port_enable(struct pdlb_engine *engine, uint32_t index, bool enabled) {
  struct engine_port *port = &engine->ports[index];
  if (enabled) {
    engine_turns_level(port);
    atomic_fetch_and_explicit(&port->notice, ~NOTICE_DISABLED, memory_order_seq_cst);
    if (pdlb_engine_has_work(engine, index)) engine_call(engine, index);
    return;
  }
  atomic_fetch_or_explicit(&port->notice, NOTICE_DISABLED, memory_order_seq_cst);
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_acquire);
    if (link != LINK_NONE) offer_again(engine, LINK_QUEUE(link));
  }
}

int pdlb_engine_unlink(struct pdlb_engine *engine, uint32_t index, uint32_t queue_index, const char **why) {
  engine_lock(engine, &engine->header->control_lock);
  const uint32_t slot = slot_of_link(&engine->ports[index], queue_index);
  if (slot != NIL) unlink_slot(engine, index, slot);
  engine_unlock(&engine->header->control_lock);
  if (slot == NIL) {
    *why = "the port is not linked to this queue";
    return -EINVAL;
  }
  offer_again(engine, queue_index);
  return 0;
}

void pdlb_engine_port_destroy(struct pdlb_engine *engine, uint32_t index) {
  struct engine_port *port = &engine->ports[index];
  atomic_fetch_or_explicit(&port->notice, NOTICE_DISABLED, memory_order_seq_cst);
  pdlb_engine_disarm(engine, index);
  uint32_t queues[PDLB_MAX_LINKS], count = 0;
  engine_lock(engine, &engine->header->control_lock);
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_relaxed);
    if (link == LINK_NONE) continue;
    queues[count++] = LINK_QUEUE(link);
    unlink_slot(engine, index, slot);
    if (index >= engine->header->ldb_ports)
      atomic_store_explicit(&engine->queues[LINK_QUEUE(link)].paired_port, NIL, memory_order_relaxed);
  }
  engine_unlock(&engine->header->control_lock);
  engine_complete(engine, index, UINT32_MAX);
  atomic_store_explicit(&port->configured, 0, memory_order_release);
  for (uint32_t i = 0; i < count; i++) offer_again(engine, queues[i]);
}
