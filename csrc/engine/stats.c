/* Numbers, read while others work: each is exact for some moment, none is ever negative. */
#include "internal.h"

uint32_t pdlb_engine_in_flight(const struct pdlb_engine *engine, uint32_t port) {
  return engine_load(&engine->ports[port]);
}

void pdlb_engine_port_stats(const struct pdlb_engine *engine, uint32_t index, struct pdlb_port_stats *stats) {
  const struct engine_port *port = &engine->ports[index];
  const bool directed = index >= engine->header->ldb_ports; /* holds nothing, so releases nothing */
  const uint64_t released = atomic_load_explicit(&port->released, memory_order_acquire);
  const uint64_t received = atomic_load_explicit(&port->received, memory_order_acquire);
  stats->released = directed ? 0 : released - port->received_before; /* by then all had been released */
  stats->received = received - port->received_before;
  stats->sent = engine_get(&port->sent) - port->sent_before;
  stats->wakes = atomic_load_explicit(&port->wakes, memory_order_relaxed);
  stats->in_flight = engine_load(port);
  stats->armed = pdlb_engine_armed(engine, index);
  stats->stalled = engine_notice(port) & NOTICE_STALLED;
}

void pdlb_engine_stats(const struct pdlb_engine *engine, struct pdlb_domain_stats *stats) {
  const struct engine_header *header = engine->header;
  memset(stats, 0, sizeof *stats);
  /* Out before in, so that what is counted as out was counted as in. */
  for (uint32_t directed = 0; directed < 2; directed++)
    for (uint32_t id = 0; id < atomic_load_explicit(&header->ports_made[directed], memory_order_acquire); id++)
      stats->scheduled += atomic_load_explicit(&engine->ports[pdlb_engine_port_index(engine, id, directed)].received,
                                               memory_order_seq_cst);
  for (uint32_t index = 0; index < engine_queue_count(header); index++)
    stats->enqueued += atomic_load_explicit(&engine->queues[index].in_line, memory_order_seq_cst) +
                       engine_enqueued(&engine->queues[index]);
  if (stats->enqueued < stats->scheduled) stats->enqueued = stats->scheduled; /* taken, but not counted as sent yet */
  stats->queued = (uint32_t)(stats->enqueued - stats->scheduled);
  stats->refused_no_credit = atomic_load_explicit(&header->refused_no_credit, memory_order_relaxed);
  stats->wakes = atomic_load_explicit(&header->wakes, memory_order_relaxed);
  stats->rewakes = atomic_load_explicit(&header->rewakes, memory_order_relaxed);
  stats->credits_free = stats->queued < header->credits_total ? header->credits_total - stats->queued : 0;
}
