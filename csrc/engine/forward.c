/* Forwarding: a new element for the oldest one held, which is completed with it; in an ordered queue it takes that
 * one's place in line. */
#include "internal.h"

/* The ordered queue in whose line the oldest held element has its place, or NIL. */
static uint32_t line_of_oldest(const struct pdlb_engine *engine, const struct engine_port *port) {
#ifdef PDLB_BREAK_REORDER
  return NIL;
#endif
  const uint64_t oldest = engine_oldest(engine, port);
  return ENTRY_TYPE(oldest) == PDLB_SCHED_ORDERED ? ENTRY_QUEUE(oldest) : NIL;
}

static bool holds_any(const struct engine_port *port) {
  return atomic_load_explicit(&port->history_head, memory_order_relaxed) !=
         atomic_load_explicit(&port->history_tail, memory_order_relaxed);
}

/* How many of the elements, from the first on, may be sent, and why not more. */
static uint32_t check_events(const struct pdlb_engine *engine, const struct pdlb_event *events, uint32_t count,
                             enum pdlb_refusal *why) {
  uint32_t good = 0;
  while (good < count && engine_route(engine, engine_event_key(&events[good]))) good++;
  if (good < count) *why = engine_check_key(engine, engine_event_key(&events[good]));
  return good;
}

/* Elements take the places in line of those that the oldest entry names. Returns how many there were credits for. */
static uint32_t take_places(struct pdlb_engine *engine, uint32_t port_index, uint32_t line,
                            const struct pdlb_event *events, uint32_t count) {
  struct engine_port *port = &engine->ports[port_index];
  struct engine_queue *queue = &engine->queues[line];
  engine_lock(engine, &queue->egress);
  const uint64_t entry = engine_oldest(engine, port);
  if (count > ENTRY_COUNT(entry)) count = ENTRY_COUNT(entry);
  const uint32_t taken = engine_take_credits(engine, count);
  for (uint32_t i = 0; i < taken; i++) engine_order_fill(engine, line, ENTRY_FIRST(entry) + i, &events[i]);
  if (taken) engine_shorten_oldest(engine, port, taken);
  bool was_limited = false;
  if (queue->limited)
    was_limited = atomic_fetch_sub_explicit(&queue->inflight, taken, memory_order_seq_cst) >= queue->inflight_limit;
  engine_unlock_and_fence(&queue->egress);
  engine_count_released(engine, port_index, taken);
  if (was_limited && engine_any_queued(queue)) engine_offer(engine, line, taken);
  return taken;
}

/* The element goes to its queue at once, and the oldest held one is completed after it, so that what follows in an
 * atomic flow stays behind. False if there was no credit. */
static bool send_at_once(struct pdlb_engine *engine, uint32_t port, const struct pdlb_event *event) {
  const uint32_t index = engine_key_queue(engine, engine_event_key(event));
  if (!engine_append(engine, index, event, 1)) return false;
  engine_offer(engine, index, 1);
  engine_complete(engine, port, 1);
  return true;
}

static uint32_t forward_each(struct pdlb_engine *engine, uint32_t port_index, const struct pdlb_event *events,
                             uint32_t count, enum pdlb_refusal *why) {
  struct engine_port *port = &engine->ports[port_index];
  const uint32_t good = check_events(engine, events, count, why);
  uint32_t sent = 0, line = NIL;
  while (sent < good && holds_any(port)) {
    const uint32_t next = line_of_oldest(engine, port);
    /* Before anything overtakes on another way. */
    if (line != NIL && line != next) engine_order_flush(engine, line);
    line = next;
    const uint32_t taken = line != NIL ? take_places(engine, port_index, line, events + sent, good - sent)
                                       : send_at_once(engine, port_index, &events[sent]);
    sent += taken;
    if (!taken && (line == NIL || !engine_collect_credits(engine, NIL))) break;
  }
  if (line != NIL) engine_order_flush(engine, line);
  /* What holds for the first element that was not taken, in this order. */
  if (sent < count && !holds_any(port))
    *why = PDLB_NOT_HELD;
  else if (sent < good)
    *why = PDLB_NO_CREDIT;
  return sent;
}

uint32_t pdlb_engine_forward(const struct pdlb_engine_user *user, const struct pdlb_event *events, uint32_t count,
                             enum pdlb_refusal *why) {
  struct engine_port *port = user->port;
  engine_settle(user->engine, user->index);
  *why = PDLB_TAKEN;
  if (count == 0) return 0;
  const uint32_t notice = engine_notice(port);
  if (UNLIKELY(notice & (NOTICE_STOPPED | NOTICE_DISABLED))) {
    *why = notice & NOTICE_STOPPED ? PDLB_NOT_STARTED : PDLB_PORT_DISABLED;
    return 0;
  }
  const uint32_t sent = forward_each(user->engine, user->index, events, count, why);
  if (*why == PDLB_NO_CREDIT)
    atomic_fetch_add_explicit(&user->engine->header->refused_no_credit, count - sent, memory_order_relaxed);
  engine_add(&port->sent, sent);
  return sent;
}
