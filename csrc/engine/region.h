/* The engine's region: what lies in it, where, and who may write it.
 *
 * Truth and derived state. A process may be killed between any two instructions. Everything here is therefore either
 *   truth, which changes by one store that commits an operation (a ring's tail for what was sent, a ring's head for
 *   what was scheduled, a parked node's `stamp`, an order slot's state), or
 *   derived from truth (flow words, lists of parked flows, counters, credits), and can be rebuilt by whoever finds a
 *   lock whose word names a dead owner.
 * An element is in exactly one place: in a ring between head and tail, in a parked node, in an order slot, or held by
 * a port, whose history list names it.
 *
 * Locks. Each queue has two: `ingress` for those who append, `egress` for those who schedule or release. The order is
 * control, then egress, then ingress; at most one of each kind is held.
 */
#ifndef PDLB_ENGINE_REGION_H
#define PDLB_ENGINE_REGION_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#include "engine.h"

#define CACHE_LINE 64
#define FLOWS 65536u
#define NIL UINT32_MAX
#define MAX_PORTS 2048u /* both kinds: what fits a flow word's owner field */

/* One of every so many elements of a queue, and one of so many calls of a port, serves a lower priority first, so
 * that none starves. The device does the same for 1 % of its picks by default. */
#define STARVATION_PERIOD 64u

#define DEFAULT_GRACE_NS 200000u

/* How an atomic flow stands: in flight on one port, and whether some of its elements wait parked. 0 is a free flow. */
#define FLOW_COUNT 0x000FFFFFu
#define FLOW_OWNER 0x7FF00000u
#define FLOW_PARKED 0x80000000u
#define FLOW_OWNER_SHIFT 20

struct engine_header {
  /* Fixed when formatted. */
  uint32_t ldb_queues, dir_queues, ldb_ports, dir_ports;
  uint32_t credits_total;
  uint32_t ring_shift; /* a ring has 1 << ring_shift elements: room for every credit, so a send with credit fits */
  uint32_t history_slots;
  uint32_t port_words; /* 64-bit words in a set of ports */
  uint64_t queues_at, ports_at, links_at, idle_at, rings_at, flows_at, history_at, order_at;
  uint64_t flows_stride, order_stride;

  alignas(CACHE_LINE) _Atomic uint32_t control_lock;
  _Atomic uint32_t started;
  _Atomic uint32_t external_clock;
  _Atomic uint32_t timed; /* queues keep their clocks: one of them shares evenly, or a clock outside ticks */

  alignas(CACHE_LINE) _Atomic uint32_t credits;
  alignas(CACHE_LINE) _Atomic uint64_t wakes;
  _Atomic uint64_t rewakes;
  _Atomic uint64_t refused_no_credit;
};

/* A list of parked flows, by record index. */
struct flow_list {
  uint32_t head, tail;
};

struct engine_queue {
  /* Fixed once configured. */
  _Atomic uint32_t configured;
  uint8_t directed;
  uint8_t types; /* 1 << enum pdlb_sched for each it does */
  uint8_t even;
  uint32_t inflight_limit;
  uint32_t window; /* order slots, a power of two; 0 where the queue is not ordered */
  uint64_t grace;
  _Atomic uint32_t paired_port; /* directed: index of the port that is fed, or NIL */

  /* Appending: under `ingress`. A tail is the commit of a send. */
  alignas(CACHE_LINE) _Atomic uint32_t ingress;
  _Atomic uint32_t tail[PDLB_PRIORITIES];
  _Atomic uint32_t types_seen; /* of all elements that ever came: one bit only lets scheduling copy whole runs */
  _Atomic uint64_t enqueued;

  /* Scheduling: under `egress`. A head is the commit of a schedule. */
  alignas(CACHE_LINE) _Atomic uint32_t egress;
  _Atomic uint32_t head[PDLB_PRIORITIES];
  uint32_t picks;       /* elements scheduled since a lower priority was last served first */
  uint32_t starve_turn; /* the priority that was then served */
  _Atomic uint32_t parked;
  _Atomic uint64_t scheduled;

  alignas(CACHE_LINE) _Atomic uint32_t inflight;
  _Atomic uint64_t waiting_since; /* even sharing: when the head element became the head; 0: unknown or empty */

  /* Atomic flows that wait: under `egress`. */
  struct flow_list ready[PDLB_PRIORITIES];
  uint32_t node_free, node_unused;
  uint32_t record_free, record_unused;
  uint32_t park_stamp;

  /* Ordered: sequence numbers of elements scheduled and not yet completed in order; under `egress`. */
  uint32_t next_sequence;
  uint32_t oldest_sequence;
  _Atomic uint32_t in_line; /* elements in order slots: sent, but not yet in the queue that they are for */
};

/* A parked element. `stamp` is not 0 while it is in use, and says in which order the elements were parked. */
struct parked_node {
  struct pdlb_event event;
  uint32_t next;
  uint32_t stamp;
};

enum flow_place { PLACE_NOWHERE = 0, PLACE_READY, PLACE_OWNED };

/* A flow that has parked elements, by priority, and the one list on which it stands. */
struct parked_flow {
  uint32_t head[PDLB_PRIORITIES], tail[PDLB_PRIORITIES];
  uint32_t previous, next;
  uint16_t flow;
  uint8_t priorities; /* a bit for each priority with elements */
  uint8_t place;
  uint8_t place_priority;
  uint8_t slot;  /* PLACE_OWNED: the owner's link slot */
  uint16_t port; /* PLACE_OWNED: the owner */
};

enum order_state { ORDER_OPEN = 0, ORDER_DROPPED, ORDER_FORWARDED };

/* The place in line of an ordered element that is in flight, and later what took that place. */
struct order_slot {
  struct pdlb_event event;
  uint32_t state;
};

/* Elements that a port holds, oldest first, as runs that are released alike. */
struct history_entry {
  uint32_t first; /* atomic: the flow; ordered: the first sequence number */
  uint16_t count;
  uint8_t queue;
  uint8_t type;
};

#define LINK_NONE 0u
#define LINK_MAKE(queue, priority) (0x80000000u | ((uint32_t)(priority) << 16) | (uint32_t)(queue))
#define LINK_QUEUE(link) ((link) & 0xFFFFu)
#define LINK_PRIORITY(link) (((link) >> 16) & 7u)
#define LINK_ORDER_END UINT64_MAX

struct engine_port {
  /* Fixed once configured. */
  _Atomic uint32_t configured;
  uint8_t directed;
  uint8_t release_on_recv;
  uint32_t cq_depth;
  uint32_t history_limit;
  uint32_t history_at, history_mask;

  /* Written by control calls, read by the port's thread. */
  _Atomic uint32_t enabled;
  _Atomic uint32_t link[PDLB_MAX_LINKS]; /* a link keeps its slot for life */
  _Atomic uint64_t link_order;           /* slots, a byte each, in the order of service; 0xFF ends */

  /* The port's thread. */
  alignas(CACHE_LINE) uint32_t history_head;
  uint32_t history_tail;
  uint32_t calls;
  uint32_t last_received; /* what the last receive returned, for release_on_recv */
  _Atomic uint32_t in_flight;
  _Atomic uint64_t sent, received, released;

  /* Anybody. */
  alignas(CACHE_LINE) _Atomic uint32_t released_later;
  _Atomic uint32_t presence; /* enum pdlb_presence */
  _Atomic uint32_t stalled;
  _Atomic uint32_t woken_stamp;
  _Atomic uint64_t wakes;

  /* Flows in flight here that have parked elements, by link slot and priority: under the linked queue's `egress`. */
  struct flow_list owned[PDLB_MAX_LINKS][PDLB_PRIORITIES];
};

/* ---- where things lie ------------------------------------------------------------------------------------------- */

static inline uint32_t engine_queue_count(const struct engine_header *header) {
  return header->ldb_queues + header->dir_queues;
}

static inline uint32_t engine_port_count(const struct engine_header *header) {
  return header->ldb_ports + header->dir_ports;
}

static inline uint32_t pdlb_engine_port_index(const struct pdlb_engine *engine, uint32_t id, bool directed) {
  return directed ? engine->header->ldb_ports + id : id;
}

static inline uint32_t pdlb_engine_queue_index(const struct pdlb_engine *engine, uint32_t id, bool directed) {
  return directed ? engine->header->ldb_queues + id : id;
}

/* The ring of one queue and priority. */
static inline struct pdlb_event *engine_ring(const struct pdlb_engine *engine, uint32_t queue, uint32_t priority) {
  const uint64_t index = ((uint64_t)queue * PDLB_PRIORITIES + priority) << engine->header->ring_shift;
  return (struct pdlb_event *)(engine->base + engine->header->rings_at) + index;
}

static inline uint32_t engine_ring_mask(const struct pdlb_engine *engine) {
  return (1u << engine->header->ring_shift) - 1u;
}

static inline struct history_entry *engine_history(const struct pdlb_engine *engine, const struct engine_port *port) {
  return (struct history_entry *)(engine->base + engine->header->history_at) + port->history_at;
}

static inline struct order_slot *engine_order(const struct pdlb_engine *engine, uint32_t queue) {
  return (struct order_slot *)(engine->base + engine->header->order_at + queue * engine->header->order_stride);
}

/* The tables of one load-balanced queue's atomic flows: words, then records by flow, records, nodes. */
static inline uint32_t *engine_flows(const struct pdlb_engine *engine, uint32_t queue) {
  return (uint32_t *)(engine->base + engine->header->flows_at + queue * engine->header->flows_stride);
}

static inline uint32_t *engine_flow_records(const struct pdlb_engine *engine, uint32_t queue) {
  return engine_flows(engine, queue) + FLOWS;
}

static inline struct parked_flow *engine_parked_flows(const struct pdlb_engine *engine, uint32_t queue) {
  return (struct parked_flow *)(engine_flow_records(engine, queue) + FLOWS);
}

static inline uint32_t engine_parked_flow_count(const struct engine_header *header) {
  const uint32_t ring = 1u << header->ring_shift;
  return ring < FLOWS ? ring : FLOWS;
}

static inline struct parked_node *engine_nodes(const struct pdlb_engine *engine, uint32_t queue) {
  return (struct parked_node *)(engine_parked_flows(engine, queue) + engine_parked_flow_count(engine->header));
}

/* Sets of ports: those linked to a queue, and those that are idle. */
static inline _Atomic uint64_t *engine_linked(const struct pdlb_engine *engine, uint32_t queue) {
  return (_Atomic uint64_t *)(engine->base + engine->header->links_at) + (size_t)queue * engine->header->port_words;
}

static inline _Atomic uint64_t *engine_idle(const struct pdlb_engine *engine) {
  return (_Atomic uint64_t *)(engine->base + engine->header->idle_at);
}

#endif
