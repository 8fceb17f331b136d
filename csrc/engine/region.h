/* The engine's region: what lies in it, where, and who may write it.
 *
 * The way of an element. The first 64 elements that wait in a queue lie in its front, in order of arrival and whatever
 * their priority; a byte beside each tells its priority and type. While nothing else waits, a receiver that has room
 * for all of the front takes all of it and puts it in order on the way out: one store commits a send, one a schedule.
 * When the front is full, or what comes is of another type, it goes into a ring for each priority, until these are
 * empty again: what lies in the front is older than anything in the rings. Elements of atomic flows that are in flight
 * elsewhere are parked.
 *
 * Truth and derived state. A process may be killed between any two instructions. Everything here is therefore either
 *   truth, which changes by one store that commits an operation: `front_tail` and `ring_in` for what was sent;
 *   `front_taken`, a front key's GONE, a ring's head, and a parked node's stamp for what was scheduled; a history entry
 *   and the history's ends for what a port holds; an order slot's state; or
 *   derived from truth: flow words, lists of parked flows, counters, credits. recover.c rebuilds it for whoever finds
 *   locks that a dead process held.
 * An element is in exactly one place: in the front, in a ring between head and tail, in a parked node, in an order
 * slot, or held by a port, whose history list names it. Between leaving a queue and entering the history it is lost
 * with the process that was taking it.
 *
 * Credits. What waits in a queue holds the domain's credits, and so does what waits in an ordered line. A queue
 * reserves some, more than it needs at the moment, and who sends need not look further: what has left the queue is that
 * much room for what comes. When the domain has none left, the sender collects what other queues have and do not need.
 *
 * Lines. Those who send and those who schedule may be on two processors, and a cache line that both touch moves from
 * one to the other each time, which takes as long as hundreds of instructions. So each side has a line that it alone
 * looks at, with its lock in it, and one in which it tells the other side what that must know, and that looks as rarely
 * as it can. benchmarks/shared_lines.py counts which lines move.
 *
 * Locks. Each queue has two: `ingress` for those who append, `egress` for those who schedule or release. The order is
 * control, then egress, then ingress; at most one of each kind is held, but by recovery, which holds all of the last
 * two. Credits are moved, and what a port has received is counted, with a lock held: so recovery can add up.
 */
#ifndef PDLB_ENGINE_REGION_H
#define PDLB_ENGINE_REGION_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#include "engine.h"

#define CACHE_LINE 64
#define LINE_PAIR 128 /* some processors fetch a line's neighbour with it */
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

static inline uint32_t engine_flow_owned_by(uint32_t port) { return (port + 1u) << FLOW_OWNER_SHIFT; }

/* What may be sent: by an element's bytes 10 and 11, which are its queue and, in two bits, its type. */
#define ROUTES 1024u
#define ROUTE_MASK (ROUTES - 1)

struct engine_header {
  /* Fixed when formatted. */
  uint32_t ldb_queues, dir_queues, ldb_ports, dir_ports;
  uint32_t credits_total;
  uint32_t credits_ahead;         /* so many more than it needs a queue reserves, if there are */
  _Atomic uint32_t ports_made[2]; /* load-balanced, directed: those beyond were never used */
  uint32_t ring_shift; /* a ring has 1 << ring_shift elements: room for every credit, so a send with credit fits */
  uint32_t history_slots;
  uint32_t port_words; /* 64-bit words in a set of ports */
  uint64_t queues_at, ports_at, links_at, idle_at, rings_at, flows_at, history_at, order_at;
  uint64_t flows_stride, order_stride;

  alignas(CACHE_LINE) _Atomic uint32_t control_lock;
  _Atomic uint32_t recovery_lock; /* who has it may wait for all others, but for the control lock */
  _Atomic uint32_t started;
  _Atomic uint32_t external_clock;

  /* That no queue has reserved; below 0 for a moment, where somebody wanted more than there were. */
  alignas(CACHE_LINE) _Atomic int32_t credits;
  alignas(CACHE_LINE) _Atomic uint64_t wakes;
  _Atomic uint64_t rewakes;
  _Atomic uint64_t refused_no_credit;

  /* Where the queue lies; 0: there is none, or it does not do this type. */
  alignas(CACHE_LINE) _Atomic uint32_t route[ROUTES];
};

/* A list of parked flows, by record index. */
struct flow_list {
  uint32_t head, tail;
};

#define FRONT 64u
#define FRONT_MASK (FRONT - 1)

/* What a front key says of an element: its priority, and whether it has been taken. */
#define KEY_PRIORITY 0x07u
#define KEY_GONE 0x80u

/* Why the front cannot be taken as a whole, in engine_queue.slow. */
#define SLOW_KIND 1u   /* the queue shares evenly, or limits what is in flight */
#define SLOW_PARKED 2u /* elements are parked */
#define SLOW_LEFT 4u   /* elements of the front were left behind */
#define SLOW_RINGS 8u  /* what comes goes into the rings, until they are empty; set and cleared under `ingress` */

/* What is being moved from an ordered line into the queue that it is for: so that, should the mover die, it is known
 * whether it arrived. Written with both locks held, before the target's tail moves. */
struct engine_flush {
  uint32_t target;  /* a queue's index + 1; 0: nothing is */
  uint32_t until;   /* the oldest sequence number then */
  uint64_t arrived; /* elements that had come to the target before */
};

struct engine_queue {
  /* Fixed once configured. */
  alignas(LINE_PAIR) _Atomic uint32_t configured;
  uint8_t directed;
  uint8_t types; /* 1 << enum pdlb_sched for each it does */
  uint8_t even;
  uint8_t limited; /* it counts what is in flight */
  uint32_t inflight_limit;
  uint32_t window; /* order slots, a power of two; 0 where the queue is not ordered */
  uint64_t grace;
  uint32_t index;
  uint64_t flows_at;            /* its flow words */
  uint64_t entry;               /* what a history says of one atomic element of it, but for the flow */
  _Atomic uint32_t paired_port; /* directed: index of the port that is fed, or NIL */
  /* The linked ports again, where one word of the set has them all: else every bit, so that whoever asks looks. */
  _Atomic uint32_t linked_word;
  _Atomic uint64_t linked;

  /* Appending: under `ingress`. What senders tell, each with its commit, and who schedules looks at: a tail is the
   * commit of a send. */
  alignas(CACHE_LINE) _Atomic uint64_t front_tail; /* elements that ever came to the front */
  _Atomic uint64_t ring_in;                        /* elements that ever came to the rings: the sum of their tails */
  _Atomic uint32_t front_way; /* bytes 10 and 11, as a route has them, of all that lies in the front */
  _Atomic uint32_t tail[PDLB_PRIORITIES];

  /* What senders alone look at, the lock too: who looks whether something has come does not keep them. */
  alignas(LINE_PAIR) _Atomic uint32_t ingress;
  _Atomic uint32_t reserved; /* credits: for what waits, and for what may come */
  uint64_t front_until;      /* up to here the front has places, and the queue credits, as last looked at */
  uint64_t credit_until;     /* so many elements may ever come before credits are looked at again */
  /* Until so many elements ever came to the rings, what comes goes there without a look at whether they are empty; 0
   * while they are not in use, as SLOW_RINGS tells those who schedule. */
  uint64_t rings_until;
  /* What the tails become when `ring_in` has grown; else they are the same. */
  _Atomic uint32_t tail_next[PDLB_PRIORITIES];

  /* Scheduling: under `egress`. What those who schedule tell, and senders look at when they need places or credits. */
  alignas(LINE_PAIR) _Atomic uint64_t front_taken; /* all before it are gone */
  _Atomic uint64_t scheduled;                      /* elements that were ever given to ports */
  _Atomic uint64_t ring_out;                       /* the sum of the rings' heads */

  /* What those who schedule alone look at; but who sends sets and clears SLOW_RINGS. */
  alignas(LINE_PAIR) _Atomic uint32_t egress;
  _Atomic uint32_t slow;
  uint32_t picks; /* elements scheduled since a lower priority was last served first, while others waited */
  _Atomic uint32_t run_in_ring; /* a run is in the ring of the first priority, and not in the front */
  /* A run: until so many were ever scheduled, what comes next is known to be at hand, as urgent as can be, and with
   * nothing older before it, whatever is sent meanwhile; unless something is parked or left behind. */
  _Atomic uint64_t run_until;
  _Atomic uint64_t given; /* as `scheduled`, for those who schedule */
  _Atomic uint32_t head[PDLB_PRIORITIES];

  uint64_t front_looked;       /* up to here the front is sorted into `left`; or it is below `front_taken` */
  _Atomic uint32_t front_gone; /* of those from `front_taken` on */
  _Atomic uint32_t parked;
  uint32_t starve_turn;           /* the priority that was served first last, out of turn */
  uint64_t left[PDLB_PRIORITIES]; /* the front's elements by priority: a bit for each slot */

  alignas(CACHE_LINE) _Atomic uint32_t inflight; /* where it is limited */
  /* When the element that waits longest began to, as far as known (0: unknown), and how many had been scheduled then.
   */
  _Atomic uint64_t waiting_since, waiting_at;
  _Atomic uint64_t looked_at; /* even sharing: when a port last looked in vain since then */
  /* Even sharing (turns.c): the time that an element takes to go, as of late; since when ports that are ahead
   * leave what waits to others, when one last looked (0: none leaves anything), how long that is as far as they looked,
   * and how many had gone before. */
  _Atomic uint64_t pace, left_since, left_look, left_for, left_at;

  /* Atomic flows that wait: under `egress`. */
  struct flow_list ready[PDLB_PRIORITIES];
  uint32_t node_free, node_unused;
  uint32_t record_free, record_unused;
  /* The last element that was parked: its stamp, and where it was taken from. */
  _Atomic uint64_t park_stamp, parked_from;
  _Atomic uint32_t parked_from_ring; /* a priority, or NIL for the front */

  /* Ordered: sequence numbers of elements scheduled and not yet completed in order; under `egress`. */
  uint32_t next_sequence;
  uint32_t oldest_sequence;
  _Atomic uint32_t in_line; /* elements in order slots: sent, but not yet in the queue that they are for */
  struct engine_flush flush;

  alignas(LINE_PAIR) uint8_t front_key[FRONT];
  struct pdlb_event front[FRONT];
};

/* A parked element. `stamp` is not 0 while it is in use, and says in which order the elements were parked. */
struct parked_node {
  struct pdlb_event event;
  _Atomic uint64_t stamp;
  uint32_t next;
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

enum order_state { ORDER_OPEN = 0, ORDER_DROPPED, ORDER_FORWARDED, ORDER_HELD /* only during recovery */ };

/* The place in line of an ordered element that is in flight, and later what took that place. */
struct order_slot {
  struct pdlb_event event;
  uint32_t state;
};

/* Elements that a port holds, oldest first, as runs that are released alike. One word, so that it changes at once: the
 * flow of an atomic one or the first sequence number of ordered ones, the count, the queue, the type; and a mark where
 * the queue counts what is in flight. */
typedef _Atomic uint64_t history_entry;

#define ENTRY_LIMITED (1ull << 63)

#define ENTRY_MAKE(first, count, queue, type) \
  ((uint64_t)(first) | ((uint64_t)(count) << 32) | ((uint64_t)(queue) << 48) | ((uint64_t)(type) << 56))
#define ENTRY_TYPE_SHIFT 56
#define ENTRY_QUEUE_SHIFT 48
#define ENTRY_FIRST(entry) ((uint32_t)(entry))
#define ENTRY_COUNT(entry) ((uint32_t)((entry) >> 32) & 0xFFFFu)
#define ENTRY_QUEUE(entry) ((uint32_t)((entry) >> 48) & 0xFFu)
#define ENTRY_TYPE(entry) ((uint32_t)((entry) >> 56) & 3u)
#define ENTRY_MOST UINT16_MAX

#define LINK_NONE 0u
#define LINK_MAKE(queue, priority) (0x80000000u | ((uint32_t)(priority) << 16) | (uint32_t)(queue))
#define LINK_QUEUE(link) ((link) & 0xFFFFu)
#define LINK_PRIORITY(link) (((link) >> 16) & 7u)
#define LINK_ORDER_END UINT64_MAX

/* What a port's thread has to look at before it goes on, in engine_port.notice. */
#define NOTICE_STOPPED 1u   /* the domain is not started: no sends */
#define NOTICE_DISABLED 2u  /* no sends, nothing scheduled */
#define NOTICE_STALLED 4u   /* it was due and did not come */
#define NOTICE_LATER 8u     /* releases were put off */
#define NOTICE_RELEASES 16u /* each schedule first releases what the one before returned */
#define NOTICE_CALLED 32u   /* it sleeps no more, and has not come yet: something is left for it */
#define NOTICE_FULL 64u     /* it holds as much as it may: a release makes it one that can be given something */
#define NOTICE_HOST 128u    /* the host wants to be asked before it is given anything */

struct engine_port {
  /* Fixed once configured. */
  _Atomic uint32_t configured;
  uint32_t index;
  uint32_t owns; /* its name in flow words */
  uint32_t cq_depth;
  uint32_t history_mask;
  uint64_t history_at;   /* its slice of the history list */
  _Atomic uint32_t user; /* the process that uses it, as it names itself in locks */

  /* Written by control calls, read by anybody: a waker may look at a port that is just being made anew. */
  _Atomic uint32_t history_limit;        /* UINT32_MAX for a directed port, which holds nothing */
  _Atomic uint32_t link[PDLB_MAX_LINKS]; /* a link keeps its slot for life */
  _Atomic uint64_t link_order;           /* slots, a byte each, in the order of service; 0xFF ends */
  _Atomic uint64_t link_lasts;           /* for each place in that order, where those of its priority end, in bits */
  _Atomic uint32_t only_link;            /* where the queue lies, if there is but one link; else 0 */

  /* The port's thread. */
  alignas(CACHE_LINE) _Atomic uint32_t history_head;
  _Atomic uint32_t history_tail;
  uint32_t calls;
  uint32_t last_received;                    /* what the last receive returned, for NOTICE_RELEASES */
  uint32_t room;                             /* elements that it may still hold */
  _Atomic uint64_t sent, received, released; /* since the region was formatted, by all ports that had this index */
  uint64_t sent_before, received_before;     /* when this one was created */

  /* Anybody. */
  alignas(CACHE_LINE) _Atomic uint32_t notice;
  _Atomic uint32_t released_later;
  _Atomic uint32_t presence; /* enum pdlb_presence */
  _Atomic uint32_t woken_stamp;
  _Atomic uint64_t wakes;
  /* Even sharing (turns.c): elements that it was given; how many more until others wait for it, and how many these were
   * when it was last excused; whether it leaves what waits to others. */
  _Atomic uint32_t turns, excused, excuse, leaves;

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

/* Offsets of queues are below 4 GiB: they lie at the region's beginning. */
static inline uint32_t engine_queue_at(const struct pdlb_engine *engine, const struct engine_queue *queue) {
  return (uint32_t)((const char *)queue - engine->base);
}

static inline struct engine_queue *engine_queue_of(const struct pdlb_engine *engine, uint32_t at) {
  return (struct engine_queue *)(engine->base + at);
}

/* The ring of one queue and priority. */
static inline struct pdlb_event *engine_ring(const struct pdlb_engine *engine, uint32_t queue, uint32_t priority) {
  const uint64_t index = ((uint64_t)queue * PDLB_PRIORITIES + priority) << engine->header->ring_shift;
  return (struct pdlb_event *)(engine->base + engine->header->rings_at) + index;
}

static inline uint32_t engine_ring_mask(const struct pdlb_engine *engine) {
  return (1u << engine->header->ring_shift) - 1u;
}

static inline history_entry *engine_history(const struct pdlb_engine *engine, const struct engine_port *port) {
  return (history_entry *)(engine->base + port->history_at);
}

static inline struct order_slot *engine_order(const struct pdlb_engine *engine, uint32_t queue) {
  return (struct order_slot *)(engine->base + engine->header->order_at + queue * engine->header->order_stride);
}

/* The tables of one load-balanced queue's atomic flows: words (under `egress`, but that the port which has a flow in
 * flight may free it by compare and exchange), then records by flow, records, nodes. */
static inline _Atomic uint32_t *engine_flows(const struct pdlb_engine *engine, uint32_t queue) {
  return (_Atomic uint32_t *)(engine->base + engine->queues[queue].flows_at);
}

static inline uint32_t *engine_flow_records(const struct pdlb_engine *engine, uint32_t queue) {
  return (uint32_t *)(engine_flows(engine, queue) + FLOWS);
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
