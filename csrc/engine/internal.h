/* What the engine's sources share with each other, and with those that inline one.h. */
#ifndef PDLB_ENGINE_INTERNAL_H
#define PDLB_ENGINE_INTERNAL_H

#include <string.h>

#include "lock.h"
#include "region.h"

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Elements handed over at a time where a batch of the caller's is not at hand. */
#define ENGINE_BATCH 32u

/* ---- counters that one thread, or the holder of one lock, writes ------------------------------------------------- */

/* Released, so that whoever sees the sum sees what was stored before. */
static inline void engine_add(_Atomic uint64_t *counter, uint64_t count) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  /* One instruction, as compilers do not make one of a load and a store that are atomic. */
  __asm__("addq %1, %0" : "+m"(*(uint64_t *)counter) : "er"(count) : "memory", "cc");
#else
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + count, memory_order_release);
#endif
}

static inline uint64_t engine_get(const _Atomic uint64_t *counter) {
  return atomic_load_explicit(counter, memory_order_relaxed);
}

/* A look at a word that others may write: compilers do not fold one into a comparison, either. */
static inline bool engine_is(const _Atomic uint32_t *place, uint32_t value) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  bool is;
  __asm__ __volatile__("cmpl %2, %1" : "=@cce"(is) : "m"(*(const uint32_t *)place), "ri"(value));
  return is;
#else
  return atomic_load_explicit(place, memory_order_relaxed) == value;
#endif
}

static inline bool engine_is_64(const _Atomic uint64_t *place, uint64_t value) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  bool is;
  __asm__ __volatile__("cmpq %2, %1" : "=@cce"(is) : "m"(*(const uint64_t *)place), "r"(value));
  return is;
#else
  return atomic_load_explicit(place, memory_order_relaxed) == value;
#endif
}

/* Whether the word has any of the bits, which are a constant. */
static inline __attribute__((always_inline)) bool engine_has_any(const _Atomic uint32_t *place, uint32_t bits) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  bool has;
  __asm__ __volatile__("testl %2, %1" : "=@ccnz"(has) : "m"(*(const uint32_t *)place), "ir"(bits));
  return has;
#else
  return atomic_load_explicit(place, memory_order_relaxed) & bits;
#endif
}

static inline uint32_t engine_slow(const struct engine_queue *queue) {
  return atomic_load_explicit(&queue->slow, memory_order_relaxed);
}

/* 1, and the compiler cannot tell: it would else keep the outcome of a comparison in a register all the way. */
static inline uint32_t engine_one(void) {
#if defined(__x86_64__)
  uint32_t one;
  __asm__("movl $1, %0" : "=r"(one));
#else
  uint32_t one = 1;
  __asm__("" : "+r"(one));
#endif
  return one;
}

/* ---- enqueue.c --------------------------------------------------------------------------------------------------- */

/* Queue and type of an element, as they stand in its bytes 10 and 11: elements with the same key go the same way. */
static inline uint32_t engine_event_key(const struct pdlb_event *event) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  uint16_t both;
  memcpy(&both, &event->queue, sizeof both);
  return both & ROUTE_MASK;
#else
  return (uint32_t)event->queue | ((uint32_t)(event->sched & 3u) << 8);
#endif
}

static inline uint32_t engine_key_type(uint32_t key) { return key >> 8; }

static inline uint32_t engine_key_queue(const struct pdlb_engine *engine, uint32_t key) {
  return pdlb_engine_queue_index(engine, key & 0xFFu, (key >> 8) == PDLB_SCHED_DIRECTED);
}

/* The queue that elements with this key go to; NULL where they may not. */
static inline struct engine_queue *engine_route(const struct pdlb_engine *engine, uint32_t key) {
  const uint32_t at = atomic_load_explicit(&engine->header->route[key], memory_order_acquire);
  return LIKELY(at) ? engine_queue_of(engine, at) : NULL;
}

/* Why there is no route; PDLB_TAKEN where there is one. */
enum pdlb_refusal engine_check_key(const struct pdlb_engine *engine, uint32_t key);

/* With a lock held. Up to `wanted` credits that no queue has reserved. */
uint32_t engine_take_credits(struct pdlb_engine *engine, uint32_t wanted);
static inline void engine_give_credits(struct pdlb_engine *engine, uint32_t count) {
  atomic_fetch_add_explicit(&engine->header->credits, (int32_t)count, memory_order_release);
}
/* With no lock held. Queues but `but` give back what they have reserved and do not need. False if that is nothing. */
bool engine_collect_credits(struct pdlb_engine *engine, uint32_t but);

static inline uint64_t engine_now(const struct pdlb_engine *engine) { return engine->host->now(engine->context); }

/* Under the queue's ingress lock: elements of one key, whose credits come with them. */
void engine_append_with_credits(struct pdlb_engine *engine, uint32_t queue, const struct pdlb_event *events,
                                uint32_t count);
/* With no ingress lock held: as many as there are credits for. Wakes nobody. */
uint32_t engine_append(struct pdlb_engine *engine, uint32_t queue, const struct pdlb_event *events, uint32_t count);
/* Under the queue's ingress lock, which is given up: one element that neither the front nor the rings take, at least
 * not at first sight. Wakes whom it is for. */
uint32_t engine_send_one_otherwise(const struct pdlb_engine_user *user, const struct pdlb_event *event,
                                   enum pdlb_refusal *why, struct engine_queue *queue);
/* How many of the elements, from the first on, have the first one's key. */
uint32_t engine_run_of_key(const struct pdlb_event *events, uint32_t count);

/* ---- wake.c ------------------------------------------------------------------------------------------------------ */

void engine_offer_to_idle(struct pdlb_engine *engine, uint32_t queue, uint32_t count);
/* After a send of `count`, which had no such operation as engine_offer asks for. Returns the count. */
uint32_t engine_offer_sent(struct pdlb_engine *engine, uint32_t queue, uint32_t count);

/* Whether a port that serves the queue may be idle. */
static inline bool engine_may_offer(const _Atomic uint64_t *idle, const struct engine_queue *queue) {
  const uint32_t word = atomic_load_explicit(&queue->linked_word, memory_order_relaxed);
  return atomic_load_explicit(&idle[word], memory_order_seq_cst) &
         atomic_load_explicit(&queue->linked, memory_order_relaxed);
}

/* `count` elements of `queue` wait: wake idle ports for them. To be called with no lock held, and after a
 * sequentially consistent operation that followed the commit. (A send does without: see wake.c.) */
static inline void engine_offer(struct pdlb_engine *engine, uint32_t queue, uint32_t count) {
  if (UNLIKELY(engine_may_offer(engine->idle, &engine->queues[queue]))) engine_offer_to_idle(engine, queue, count);
}

/* Even sharing: wake up to `count` idle ports that are due, unless enough were called already. Returns how many were
 * woken, or come. */
uint32_t engine_offer_to_due(struct pdlb_engine *engine, uint32_t queue, uint32_t count);

/* Wake this very port, if it is idle. */
void engine_call(struct pdlb_engine *engine, uint32_t port);

/* From now on something waits in the queue that did not before. */
void engine_start_waiting(struct pdlb_engine *engine, struct engine_queue *queue);

/* Even sharing, under the queue's egress lock: how many of `waiting` elements the port may take now. 0 means that
 * others are due first; `*retry_at` is then lowered to when the port is to look again, and `*offer` set where one of
 * them has not been told. */
uint32_t engine_even_share(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t waiting,
                           uint64_t *retry_at, bool *offer);

/* Even sharing, under the queue's egress lock: the port has taken `count` elements. Returns how many others may now
 * take what they left before, and are to be told. */
uint32_t engine_given_evenly(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t count);

static inline uint32_t engine_notice(const struct engine_port *port) {
  return atomic_load_explicit(&port->notice, memory_order_relaxed);
}

/* Elements received and not released. Read in this order, so that it is never below 0. */
static inline uint32_t engine_in_flight(const struct engine_port *port) {
  const uint64_t released = atomic_load_explicit(&port->released, memory_order_acquire);
  return (uint32_t)(atomic_load_explicit(&port->received, memory_order_relaxed) - released);
}

/* What the port holds, as balancing sees it: what is to be released later does not count. */
static inline uint32_t engine_load(const struct engine_port *port) {
  const uint32_t held = engine_in_flight(port);
  const uint32_t later = atomic_load_explicit(&port->released_later, memory_order_relaxed);
  return held > later ? held - later : 0;
}

static inline bool engine_has_room(const struct engine_port *port) {
  return engine_load(port) < atomic_load_explicit(&port->history_limit, memory_order_relaxed);
}

/* Whether the port counts when elements are levelled: it is served, has room, and came when it was last due. */
static inline bool engine_is_due(const struct engine_port *port) {
  return !(engine_notice(port) & (NOTICE_DISABLED | NOTICE_STALLED)) && engine_has_room(port);
}

/* The port holds `count` elements more, or less. `room` is its own thread's; the notice tells that thread at once. */
static inline void engine_take_room(struct engine_port *port, uint32_t count) {
  port->room -= count;
  if (UNLIKELY(port->room == 0)) atomic_fetch_or_explicit(&port->notice, NOTICE_FULL, memory_order_relaxed);
}

static inline void engine_give_room(struct engine_port *port, uint32_t count) {
  port->room += count;
  engine_add(&port->released, count);
}

/* ---- turns.c: but for the first two under the queue's egress lock --------------------------------------------------
 */

/* So many turns one may be ahead of another. And so often one that is ahead looks again. */
#define ENGINE_WINDOW 48u
#define ENGINE_LEFT_LOOK_NS 500000u

/* Which ports are due: those with less in flight than the level, and of those the ones with the fewest turns first. */
struct engine_due {
  uint32_t level;
  uint32_t fewest;
  bool any; /* turns matter, and there is one that others may wait for */
};

/* Set all but the level. */
void engine_turns_compare(const struct pdlb_engine *engine, uint32_t queue, uint32_t waiting, struct engine_due *due);
/* Whether the port is to leave what waits to others. */
bool engine_turns_too_many(const struct engine_port *port, const struct engine_due *due);
/* It does, and is to look again. False if that was in vain: it is not to wait. */
bool engine_turns_leave(struct pdlb_engine *engine, uint32_t queue, uint32_t port, const struct engine_due *due,
                        uint64_t now);
/* It does not: how many it may take. */
uint32_t engine_turns_left(struct engine_port *port, const struct engine_due *due);
/* It was given `count`. */
void engine_turns_count(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t count);
/* How many have left what waits to others and need not any more, now that the port was given something. */
uint32_t engine_turns_freed(struct pdlb_engine *engine, uint32_t queue, uint32_t port, const struct engine_due *due,
                            uint64_t now);
/* It took so long (ns) until it was. */
void engine_turns_pace(struct engine_queue *queue, uint64_t took, uint32_t count);
/* Nobody waits for it because of its turns for some time. */
void engine_turns_excuse(struct engine_port *port);
/* Any time: with the next element that it is given it begins level with the others. */
static inline void engine_turns_level(struct engine_port *port) {
  atomic_store_explicit(&port->excused, 1, memory_order_relaxed);
}

/* ---- release.c --------------------------------------------------------------------------------------------------- */

/* Complete the oldest entry, if these are `count` elements and nobody is to be told of it: then no lock is needed.
 * False if that is not so. */
static inline __attribute__((always_inline)) bool engine_release_quietly(const struct pdlb_engine_user *user,
                                                                         uint32_t count) {
  struct engine_port *port = user->port;
  const uint32_t head = atomic_load_explicit(&port->history_head, memory_order_relaxed);
  if (UNLIKELY(engine_is(&port->history_tail, head))) return false;
  const uint64_t entry = atomic_load_explicit(&user->history[head & port->history_mask], memory_order_relaxed);
  if (LIKELY(!(entry >> ENTRY_TYPE_SHIFT))) {
    /* Of an atomic flow, on which nobody waits if the word tells of this one element. */
    uint32_t last_one = port->owns + 1;
    char *const flows = user->flows + (entry >> ENTRY_QUEUE_SHIFT) * user->flows_stride;
    _Atomic uint32_t *const flow = (_Atomic uint32_t *)flows + (uint16_t)entry;
    if (count != 1 || UNLIKELY(!atomic_compare_exchange_strong_explicit(flow, &last_one, 0, memory_order_release,
                                                                        memory_order_relaxed)))
      return false;
  } else if (entry >> ENTRY_TYPE_SHIFT != PDLB_SCHED_UNORDERED || ENTRY_COUNT(entry) != count) {
    return false;
  }
  atomic_store_explicit(&port->history_head, head + 1, memory_order_release);
  engine_give_room(port, count);
  return true;
}

/* Complete the `count` oldest elements, whatever may be put off. */
uint32_t engine_complete(struct pdlb_engine *engine, uint32_t port, uint32_t count);

/* Carry out what pdlb_engine_release_later put off. */
void engine_settle(struct pdlb_engine *engine, uint32_t port);

/* Elements of the queue, of which the in-flight limit counts so many, are completed. With no lock held. */
void engine_leave_flight(struct pdlb_engine *engine, uint32_t queue, uint32_t count);

/* The port has released elements: if it was full and idle, it can be given something again. */
void engine_count_released(struct pdlb_engine *engine, uint32_t port, uint32_t count);

static inline uint64_t engine_oldest(const struct pdlb_engine *engine, const struct engine_port *port) {
  const uint32_t head = atomic_load_explicit(&port->history_head, memory_order_relaxed);
  return atomic_load_explicit(&engine_history(engine, port)[head & port->history_mask], memory_order_relaxed);
}

/* `done` of the oldest entry's elements are completed; the entry with it, where these are all. */
static inline void engine_shorten_oldest(const struct pdlb_engine *engine, struct engine_port *port, uint32_t done) {
  const uint32_t head = atomic_load_explicit(&port->history_head, memory_order_relaxed);
  history_entry *oldest = &engine_history(engine, port)[head & port->history_mask];
  const uint64_t entry = atomic_load_explicit(oldest, memory_order_relaxed);
  if (ENTRY_COUNT(entry) <= done)
    atomic_store_explicit(&port->history_head, head + 1, memory_order_relaxed);
  else
    atomic_store_explicit(
        oldest,
        ENTRY_MAKE(ENTRY_FIRST(entry) + done, ENTRY_COUNT(entry) - done, ENTRY_QUEUE(entry), ENTRY_TYPE(entry)) |
            (entry & ENTRY_LIMITED),
        memory_order_relaxed);
}

/* ---- schedule.c, pass.c ------------------------------------------------------------------------------------------ */

/* Note which queue the port is linked to, if it is one. */
void engine_look_at_only_link(struct pdlb_engine_user *user);

/* What one port may take of one queue, at whatever pace that needs. With no lock held. */
uint32_t engine_pass(struct pdlb_engine *engine, uint32_t port, uint32_t slot, uint32_t queue,
                     struct pdlb_event *events, uint32_t count, uint64_t *retry_at);

/* Without a lock: whether anything waits. May say so of what is just being taken. */
static inline bool engine_any_queued(const struct engine_queue *queue) {
  if (atomic_load_explicit(&queue->front_taken, memory_order_seq_cst) !=
      atomic_load_explicit(&queue->front_tail, memory_order_seq_cst))
    return true;
  if (LIKELY(!(atomic_load_explicit(&queue->slow, memory_order_seq_cst) & (SLOW_RINGS | SLOW_PARKED)))) return false;
  return atomic_load_explicit(&queue->ring_out, memory_order_seq_cst) !=
             atomic_load_explicit(&queue->ring_in, memory_order_seq_cst) ||
         atomic_load_explicit(&queue->parked, memory_order_seq_cst);
}

/* Elements that ever came, and that ever were given to ports. Without a lock each is exact for some moment only if
 * nobody is at work. */
static inline uint64_t engine_enqueued(const struct engine_queue *queue) {
  return atomic_load_explicit(&queue->front_tail, memory_order_seq_cst) +
         atomic_load_explicit(&queue->ring_in, memory_order_seq_cst);
}

static inline uint64_t engine_scheduled(const struct engine_queue *queue) {
  return atomic_load_explicit(&queue->scheduled, memory_order_seq_cst);
}

/* Elements that wait: a guess, as above, but never below 0. */
static inline uint32_t engine_queued(const struct engine_queue *queue) {
  const uint64_t out = engine_scheduled(queue), in = engine_enqueued(queue);
  return in > out ? (uint32_t)(in - out) : 0;
}

/* Under the egress lock: so many more were given to a port. */
static inline void engine_count_given(struct engine_queue *queue, uint64_t count) {
  engine_add(&queue->given, count);
  engine_add(&queue->scheduled, count);
}

/* ---- flows.c: all under the queue's egress lock ------------------------------------------------------------------ */

/* Set an element aside because its flow is in flight elsewhere, or has elements set aside before it. `from`: the
 * position at which it lies in the ring of priority `ring`, or NIL for the front. Returns the port that has the flow
 * in flight, or NIL. */
uint32_t engine_park(struct pdlb_engine *engine, uint32_t queue, const struct pdlb_event *event, uint32_t ring,
                     uint64_t from);
/* Take up to `count` parked elements of this priority that the port may have, its own flows first. Notes each in the
 * port's history from `*tail` on. */
uint32_t engine_unpark(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t slot, uint32_t priority,
                       struct pdlb_event *events, uint32_t count, uint32_t *tail);
/* A flow that is free, or in flight on the port which is called `mine` in flow words. */
static inline bool engine_may_take_flow(uint32_t word, uint32_t mine) {
#ifdef PDLB_BREAK_ATOMIC
  return true;
#endif
  return LIKELY(word == 0) || (word & (FLOW_OWNER | FLOW_PARKED)) == mine;
}

/* One element of the flow was completed. True if that freed the flow and it has parked elements. */
bool engine_flow_completed(struct pdlb_engine *engine, uint32_t queue, uint32_t flow);
void engine_flows_unlinked(struct pdlb_engine *engine, uint32_t queue, uint32_t port, uint32_t slot);
void engine_flows_linked(struct pdlb_engine *engine, uint32_t queue, uint32_t port);
/* Put the node's element with its flow. */
void engine_flow_add(struct pdlb_engine *engine, uint32_t queue, uint32_t node);

/* ---- links.c ----------------------------------------------------------------------------------------------------- */

/* Under the control lock: the port serves the queue from now on, or no longer. */
void engine_set_linked(struct pdlb_engine *engine, uint32_t port, uint32_t queue, bool linked);

/* ---- recover.c --------------------------------------------------------------------------------------------------- */

/* Under the ingress lock, which a dead owner held: what it was appending is in the queue, or not. */
void engine_mend_ingress(struct engine_queue *queue);

/* ---- order.c ----------------------------------------------------------------------------------------------------- */

static inline struct order_slot *engine_order_slot(const struct pdlb_engine *engine, uint32_t queue,
                                                   uint32_t sequence) {
  return &engine_order(engine, queue)[sequence & (engine->queues[queue].window - 1)];
}

/* Under the queue's egress lock: what takes the place of sequence number `sequence`; NULL for nothing. */
void engine_order_fill(struct pdlb_engine *engine, uint32_t queue, uint32_t sequence, const struct pdlb_event *event);
/* Under the egress lock: the places before sequence number `until` are open for the next round. */
void engine_order_move_on(struct pdlb_engine *engine, uint32_t queue, uint32_t until);
/* Send on, in order, what is complete from the oldest place on. With no lock held. */
void engine_order_flush(struct pdlb_engine *engine, uint32_t queue);

#endif
