/* One port scheduling from one queue, in the general case: by priority out of what is parked, what lies in the front
 * and what is in the rings, in this order within a priority; within the queue's limits; and parking what must wait.
 *
 * All under the queue's egress lock. Each element leaves the queue by one store; the history is lengthened after that,
 * and what the port has received is counted last.
 */
#include "internal.h"

/* Owners of flows that were met on the way and may be asleep; more than these are met at the next call. */
#define MAX_OWNERS 16u

struct pass {
  struct pdlb_engine *engine;
  struct engine_queue *queue;
  struct engine_port *port;
  uint32_t queue_index, port_index, slot;
  uint32_t rings;                  /* a bit for each priority whose ring has elements */
  uint32_t depth[PDLB_PRIORITIES]; /* of the rings, as the pass began; what comes later waits for the next one */
  uint32_t front;                  /* a bit for each priority that the front has */
  uint32_t first_entry, tail;      /* the history that the pass has written so far */
  uint32_t window_room;            /* ordered elements that may still be put in flight */
  bool blocked;                    /* the next element must wait: stop */
  bool limited;                    /* the queue's in-flight limit cut what the port may take */
  uint32_t freed;                  /* others who left what waits, and need not any more */
  uint32_t owners;
  uint32_t owner[MAX_OWNERS];
};

/* ---- what there is ----------------------------------------------------------------------------------------------- */

static void look_at_front(struct pass *pass) {
  struct engine_queue *queue = pass->queue;
  const uint64_t taken = engine_get(&queue->front_taken);
  const uint64_t tail = atomic_load_explicit(&queue->front_tail, memory_order_acquire);
  uint64_t at = queue->front_looked > taken ? queue->front_looked : taken;
  for (; at != tail; at++) {
    const uint32_t slot = (uint32_t)at & FRONT_MASK;
    queue->left[queue->front_key[slot] & KEY_PRIORITY] |= 1ull << slot;
  }
  queue->front_looked = tail;
  pass->front = 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    pass->front |= (uint32_t)(queue->left[priority] != 0) << priority;
}

/* Before the front: what is older than anything seen here is seen there. */
static void look_at_rings(struct pass *pass) {
  const struct engine_queue *queue = pass->queue;
  pass->rings = 0;
  if (!(engine_slow(queue) & SLOW_RINGS)) return;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++) {
    pass->depth[priority] = atomic_load_explicit(&queue->tail[priority], memory_order_acquire) -
                            atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
    pass->rings |= (uint32_t)(pass->depth[priority] != 0) << priority;
  }
}

/* Priorities that have parked elements which the port may take. */
static uint32_t parked_priorities(const struct pass *pass) {
  uint32_t priorities = 0;
  if (LIKELY(!(engine_slow(pass->queue) & SLOW_PARKED))) return 0;
  for (uint32_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    if (pass->port->owned[pass->slot][priority].head || pass->queue->ready[priority].head) priorities |= 1u << priority;
  return priorities;
}

/* ---- which priority next ----------------------------------------------------------------------------------------- */

/* The lower priority whose turn it is to be served before the highest one; that one if there is no other. */
static uint32_t starving(struct engine_queue *queue, uint32_t priorities) {
  const uint32_t lower = priorities & (priorities - 1);
  if (!lower) return priorities;
  const uint32_t next = lower & ~((2u << queue->starve_turn) - 1);
  const uint32_t turn = next ? next & -next : lower & -lower;
  queue->starve_turn = (uint32_t)__builtin_ctz(turn);
  return turn;
}

/* Of the priorities that have elements, the one to serve, and how many elements of it at the most. */
static inline uint32_t choose(struct engine_queue *queue, uint32_t priorities, uint32_t *run) {
  uint32_t choice = priorities & -priorities;
  uint32_t most = STARVATION_PERIOD - 1 - queue->picks;
  if (UNLIKELY(most == 0)) {
    choice = starving(queue, priorities);
    most = 1;
  }
  if (*run > most) *run = most;
  return (uint32_t)__builtin_ctz(choice);
}

/* ---- one element ------------------------------------------------------------------------------------------------- */

static void meet_owner(struct pass *pass, uint32_t owner) {
  if (owner == NIL || owner == pass->port_index) return;
  for (uint32_t i = 0; i < pass->owners; i++)
    if (pass->owner[i] == owner) return;
  pass->owner[pass->owners++] = owner;
  if (pass->owners == MAX_OWNERS) pass->blocked = true;
}

static inline void note(struct pass *pass, uint64_t entry) {
  atomic_store_explicit(&engine_history(pass->engine, pass->port)[pass->tail++ & pass->port->history_mask], entry,
                        memory_order_relaxed);
}

/* Runs of unordered and of ordered elements share an entry; but never one that was there before the pass. */
static inline void note_run(struct pass *pass, uint32_t type, uint32_t first, uint32_t count) {
  const uint64_t limited = pass->queue->entry & ENTRY_LIMITED;
  if (pass->tail != pass->first_entry) {
    history_entry *last = &engine_history(pass->engine, pass->port)[(pass->tail - 1) & pass->port->history_mask];
    const uint64_t entry = atomic_load_explicit(last, memory_order_relaxed);
    const uint32_t so_far = ENTRY_COUNT(entry);
    if (ENTRY_TYPE(entry) == type && so_far + count <= ENTRY_MOST &&
        (type == PDLB_SCHED_UNORDERED || ENTRY_FIRST(entry) + so_far == first)) {
      atomic_store_explicit(last, ENTRY_MAKE(ENTRY_FIRST(entry), so_far + count, pass->queue_index, type) | limited,
                            memory_order_relaxed);
      return;
    }
  }
  note(pass, ENTRY_MAKE(first, count, pass->queue_index, type) | limited);
}

enum verdict { TAKE, PARK, WAIT };

/* May the element go to the port? If so, it is noted as held. */
static inline enum verdict judge(struct pass *pass, const struct pdlb_event *event) {
  const uint32_t type = pdlb_event_type(event);
  if (LIKELY(type == PDLB_SCHED_ATOMIC)) {
    const uint32_t mine = engine_flow_owned_by(pass->port_index);
    _Atomic uint32_t *const flow = &engine_flows(pass->engine, pass->queue_index)[event->flow];
    const uint32_t word = atomic_load_explicit(flow, memory_order_acquire);
    if (UNLIKELY(!engine_may_take_flow(word, mine))) return PARK;
    atomic_store_explicit(flow, (word | mine) + 1, memory_order_relaxed);
    note(pass, pass->queue->entry | event->flow);
  } else if (type == PDLB_SCHED_ORDERED) {
    if (pass->window_room == 0) {
      pass->blocked = true;
      return WAIT;
    }
    pass->window_room--;
    note_run(pass, PDLB_SCHED_ORDERED, pass->queue->next_sequence++, 1);
  } else if (type == PDLB_SCHED_UNORDERED) {
    note_run(pass, PDLB_SCHED_UNORDERED, 0, 1);
  }
  return TAKE;
}

static void park(struct pass *pass, const struct pdlb_event *event, uint32_t ring, uint64_t from) {
  meet_owner(pass, engine_park(pass->engine, pass->queue_index, event, ring, from));
}

/* ---- out of the front -------------------------------------------------------------------------------------------- */

static void leave_front(struct pass *pass, uint32_t priority, uint32_t slot) {
  struct engine_queue *queue = pass->queue;
  const uint32_t gone = atomic_load_explicit(&queue->front_gone, memory_order_relaxed);
  __atomic_store_n(&queue->front_key[slot], queue->front_key[slot] | KEY_GONE, __ATOMIC_RELEASE);
  atomic_store_explicit(&queue->front_gone, gone + 1, memory_order_relaxed);
  queue->left[priority] &= ~(1ull << slot);
  if (!queue->left[priority]) pass->front &= ~(1u << priority);
}

static uint32_t take_from_front(struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  const struct engine_queue *queue = pass->queue;
  const uint64_t first = engine_get(&queue->front_taken);
  const uint32_t turn = (uint32_t)first & FRONT_MASK;
  const uint64_t left = queue->left[priority];
  uint64_t bits = (left >> turn) | (left << ((FRONT - turn) & FRONT_MASK)); /* the oldest one lowest */
  uint32_t taken = 0;
  for (; bits && taken < count && !pass->blocked; bits &= bits - 1) {
    const uint64_t at = first + (uint32_t)__builtin_ctzll(bits);
    const uint32_t slot = (uint32_t)at & FRONT_MASK;
    const struct pdlb_event *event = &queue->front[slot];
    const enum verdict verdict = judge(pass, event);
    if (verdict == WAIT) break;
    if (verdict == PARK)
      park(pass, event, NIL, at);
    else
      events[taken++] = *event;
    leave_front(pass, priority, slot);
  }
  return taken;
}

/* Let the sender have the places of what is gone. */
static void move_front_on(struct engine_queue *queue) {
  uint64_t taken = engine_get(&queue->front_taken);
  uint32_t gone = atomic_load_explicit(&queue->front_gone, memory_order_relaxed);
  const bool was_left = engine_slow(queue) & SLOW_LEFT;
  if (!gone && !was_left && queue->front_looked == taken) return;
  for (; gone && queue->front_key[taken & FRONT_MASK] & KEY_GONE; taken++, gone--) continue;
  atomic_store_explicit(&queue->front_taken, taken, memory_order_release);
  atomic_store_explicit(&queue->front_gone, gone, memory_order_relaxed);
  const bool left = queue->front_looked != taken;
  if (left && !was_left) atomic_fetch_or_explicit(&queue->slow, SLOW_LEFT, memory_order_relaxed);
  if (!left && was_left) atomic_fetch_and_explicit(&queue->slow, ~SLOW_LEFT, memory_order_relaxed);
}

/* ---- out of a ring ----------------------------------------------------------------------------------------------- */

static inline void leave_ring(struct pass *pass, uint32_t priority, uint32_t count) {
  struct engine_queue *queue = pass->queue;
  if (!count) return;
  const uint32_t head = atomic_load_explicit(&queue->head[priority], memory_order_relaxed);
  atomic_store_explicit(&queue->head[priority], head + count, memory_order_release);
  atomic_store_explicit(&queue->ring_out, engine_get(&queue->ring_out) + count, memory_order_release);
  pass->depth[priority] -= count;
  if (pass->depth[priority] == 0) pass->rings &= ~(1u << priority);
}

/* Elements that need no look each: the leading ones of the ring that are unordered, or directed. */
static uint32_t copy_run(struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  const struct pdlb_event *ring = engine_ring(pass->engine, pass->queue_index, priority);
  const uint32_t mask = engine_ring_mask(pass->engine);
  const uint32_t at = atomic_load_explicit(&pass->queue->head[priority], memory_order_relaxed) & mask;
  const uint32_t straight = mask + 1 - at < count ? mask + 1 - at : count;
  const uint32_t type = pdlb_event_type(&ring[at]);
  uint32_t run = 0;
  for (; run < straight && pdlb_event_type(&ring[at + run]) == type; run++) events[run] = ring[at + run];
  if (type == PDLB_SCHED_UNORDERED) note_run(pass, type, 0, run);
  leave_ring(pass, priority, run);
  return run;
}

static uint32_t take_from_ring(struct pass *pass, uint32_t priority, struct pdlb_event *events, uint32_t count) {
  const struct pdlb_event *ring = engine_ring(pass->engine, pass->queue_index, priority);
  const uint32_t mask = engine_ring_mask(pass->engine);
  const uint32_t head = atomic_load_explicit(&pass->queue->head[priority], memory_order_relaxed);
  const uint32_t depth = pass->depth[priority];
  if (count > depth) count = depth;
  if (pdlb_event_type(&ring[head & mask]) & PDLB_SCHED_UNORDERED) return copy_run(pass, priority, events, count);
  uint32_t taken = 0, seen = 0, left = 0; /* of `seen` elements, `left` have left the ring for good */
  for (; seen < depth && taken < count && !pass->blocked; seen++) {
    const struct pdlb_event *event = &ring[(head + seen) & mask];
    const enum verdict verdict = judge(pass, event);
    if (verdict == WAIT) break;
    if (verdict == TAKE) {
      events[taken++] = *event;
      continue;
    }
    park(pass, event, priority, head + seen);
    leave_ring(pass, priority, seen + 1 - left);
    left = seen + 1;
  }
  leave_ring(pass, priority, seen - left);
  return taken;
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

static uint32_t take(struct pass *pass, struct pdlb_event *events, uint32_t count) {
  struct engine_queue *queue = pass->queue;
  uint32_t taken = 0;
  look_at_rings(pass);
  look_at_front(pass);
  while (taken < count && !pass->blocked) {
    const uint32_t parked = parked_priorities(pass), waiting = parked | pass->front | pass->rings;
    if (!waiting) break;
    uint32_t run = count - taken, got;
    const uint32_t priority = choose(queue, waiting, &run), bit = 1u << priority;
    if (UNLIKELY(parked & bit))
      got = engine_unpark(pass->engine, pass->queue_index, pass->port_index, pass->slot, priority, events + taken, run,
                          &pass->tail);
    else if (pass->front & bit)
      got = take_from_front(pass, priority, events + taken, run);
    else
      got = take_from_ring(pass, priority, events + taken, run);
    queue->picks = (queue->picks + got) % STARVATION_PERIOD;
    taken += got;
  }
  move_front_on(queue);
  return taken;
}

/* How many elements the queue's limits let the port take now. */
static uint32_t allowance(struct pass *pass, uint32_t count, uint64_t *retry_at, bool *hold_back) {
  const struct engine_queue *queue = pass->queue;
  if (queue->directed) return count;
  pass->window_room = queue->window - (queue->next_sequence - queue->oldest_sequence);
  if (queue->limited) {
    const uint32_t inflight = atomic_load_explicit(&queue->inflight, memory_order_seq_cst);
    const uint32_t room = inflight < queue->inflight_limit ? queue->inflight_limit - inflight : 0;
    pass->limited = count > room;
    if (pass->limited) count = room;
  }
  if (UNLIKELY(queue->even) && count) {
    const uint32_t waiting = engine_queued(queue);
    const uint32_t share =
        waiting ? engine_even_share(pass->engine, pass->queue_index, pass->port_index, waiting, retry_at, hold_back)
                : 0;
    if (count > share) count = share;
  }
  return count;
}

/* The port has what was taken. Sets `*offer` where a release made room, unseen by those whom the in-flight limit had
 * turned away. */
static void commit(struct pass *pass, uint32_t taken, bool *offer) {
  struct engine_queue *queue = pass->queue;
  struct engine_port *port = pass->port;
  atomic_store_explicit(&port->history_tail, pass->tail, memory_order_release);
  engine_add(&port->received, taken);
  if (queue->directed)
    engine_add(&port->released, taken);
  else
    engine_take_room(port, taken);
  if (queue->limited) {
    const uint32_t before = atomic_fetch_add_explicit(&queue->inflight, taken, memory_order_seq_cst);
    if (UNLIKELY(pass->limited) && before + taken < queue->inflight_limit) *offer = true;
  }
  engine_count_given(queue, taken);
  if (queue->even) pass->freed = engine_given_evenly(pass->engine, pass->queue_index, pass->port_index, taken);
}

/* Whom the pass found asleep though there is work for them. */
static void tell_others(const struct pass *pass, bool hold_back, bool offer) {
  for (uint32_t i = 0; i < pass->owners; i++) engine_call(pass->engine, pass->owner[i]);
  const uint32_t waiting = engine_queued(pass->queue);
  if (hold_back && waiting) engine_offer_to_due(pass->engine, pass->queue_index, waiting);
  if (pass->freed) engine_offer_to_due(pass->engine, pass->queue_index, pass->freed);
  if (offer && waiting) engine_offer(pass->engine, pass->queue_index, waiting);
}

/* Once under the lock. */
static uint32_t pass_once(struct pass *pass, struct pdlb_event *events, uint32_t count, uint64_t *retry_at) {
  bool hold_back = false, offer = false;
  engine_lock(pass->engine, &pass->queue->egress);
  /* Links change under this lock: the slot may have been given to another queue meanwhile. */
  const uint32_t link = atomic_load_explicit(&pass->port->link[pass->slot], memory_order_relaxed);
  uint32_t taken = 0;
  if (LIKELY(link != LINK_NONE && LINK_QUEUE(link) == pass->queue_index)) {
    count = allowance(pass, count, retry_at, &hold_back);
    if (count) taken = take(pass, events, count);
    if (taken) commit(pass, taken, &offer);
  }
  if (LIKELY(pass->owners == 0 && !hold_back && !offer && !pass->freed)) {
    engine_unlock(&pass->queue->egress);
  } else {
    engine_unlock_and_fence(&pass->queue->egress);
    tell_others(pass, hold_back, offer);
  }
  return taken;
}

uint32_t engine_pass(struct pdlb_engine *engine, uint32_t port_index, uint32_t slot, uint32_t queue_index,
                     struct pdlb_event *events, uint32_t count, uint64_t *retry_at) {
  struct pass pass; /* not initialised as a whole: most of it is set before it is used */
  pass.engine = engine;
  pass.queue = &engine->queues[queue_index];
  pass.port = &engine->ports[port_index];
  pass.queue_index = queue_index;
  pass.port_index = port_index;
  pass.slot = slot;
  uint32_t taken = 0;
  do {
    pass.first_entry = pass.tail = atomic_load_explicit(&pass.port->history_tail, memory_order_relaxed);
    pass.window_room = pass.freed = pass.owners = 0;
    pass.blocked = pass.limited = false;
    taken += pass_once(&pass, events + taken, count - taken, retry_at);
  } while (UNLIKELY(pass.owners == MAX_OWNERS) && taken < count);
  return taken;
}
