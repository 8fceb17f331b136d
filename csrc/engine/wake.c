/* Who is told that there is work, and who may take it.
 *
 * A port is idle from pdlb_engine_arm until it is chosen; the bit in the set of idle ports is taken by exactly one
 * waker. Nothing is lost: a sender commits and then looks at the set, a receiver enters the set and then looks for
 * work. A sender does both around its queue's ingress lock, and pays for no fence; instead a receiver, which is about
 * to sleep, goes through that lock in between. Whoever else commits has a sequentially consistent operation in between.
 */
#include "internal.h"

static inline _Atomic uint64_t *word_of(const struct pdlb_engine *engine, uint32_t port) {
  return &engine->idle[port / 64];
}

void pdlb_engine_arm(struct pdlb_engine *engine, uint32_t index) {
  const struct engine_port *port = &engine->ports[index];
  atomic_fetch_or_explicit(word_of(engine, index), 1ull << (index % 64), memory_order_seq_cst);
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_acquire);
    if (link != LINK_NONE) engine_go_through(engine, &engine->queues[LINK_QUEUE(link)].ingress);
  }
}

bool pdlb_engine_disarm(struct pdlb_engine *engine, uint32_t port) {
  const uint64_t bit = 1ull << (port % 64);
  return atomic_fetch_and_explicit(word_of(engine, port), ~bit, memory_order_seq_cst) & bit;
}

bool pdlb_engine_armed(const struct pdlb_engine *engine, uint32_t port) {
  return atomic_load_explicit(word_of(engine, port), memory_order_seq_cst) & (1ull << (port % 64));
}

/* What waits while the port goes to sleep may be for it: nobody could choose it before. */
static void offer_to_parked(struct pdlb_engine *engine, uint32_t index) {
  const struct engine_port *port = &engine->ports[index];
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_acquire);
    const uint32_t waiting = link == LINK_NONE ? 0 : engine_queued(&engine->queues[LINK_QUEUE(link)]);
    if (waiting) engine_offer(engine, LINK_QUEUE(link), waiting);
  }
}

enum pdlb_presence pdlb_engine_presence(struct pdlb_engine *engine, uint32_t index, enum pdlb_presence presence) {
  const uint32_t before = atomic_exchange_explicit(&engine->ports[index].presence, presence, memory_order_seq_cst);
  if (presence == PDLB_PARKED && before == PDLB_AWAKE && pdlb_engine_armed(engine, index))
    offer_to_parked(engine, index);
  return (enum pdlb_presence)before;
}

static inline enum pdlb_presence presence_of(const struct engine_port *port) {
  return (enum pdlb_presence)atomic_load_explicit(&port->presence, memory_order_seq_cst);
}

void pdlb_engine_external_clock(struct pdlb_engine *engine, bool external) {
  atomic_store_explicit(&engine->header->external_clock, external, memory_order_relaxed);
}

bool pdlb_engine_has_clock(const struct pdlb_engine *engine) {
  return atomic_load_explicit(&engine->header->external_clock, memory_order_relaxed);
}

bool pdlb_engine_has_work(const struct pdlb_engine *engine, uint32_t port_index) {
  const struct engine_port *port = &engine->ports[port_index];
  if ((engine_notice(port) & NOTICE_DISABLED) || !engine_has_room(port)) return false;
  for (uint32_t slot = 0; slot < PDLB_MAX_LINKS; slot++) {
    const uint32_t link = atomic_load_explicit(&port->link[slot], memory_order_acquire);
    if (link != LINK_NONE && engine_any_queued(&engine->queues[LINK_QUEUE(link)])) return true;
  }
  return false;
}

static inline bool may_take(const struct engine_port *port) {
  return !(engine_notice(port) & NOTICE_DISABLED) && engine_has_room(port);
}

/* ---- choosing
 * ---------------------------------------------------------------------------------------------------------- */

/* Known to sleep before believed idle, then the least in flight, then the one not woken for longest. */
static bool better(const struct engine_port *left, const struct engine_port *right) {
  const bool left_parked = presence_of(left) == PDLB_PARKED, right_parked = presence_of(right) == PDLB_PARKED;
  if (left_parked != right_parked) return left_parked;
  const uint32_t left_load = engine_load(left), right_load = engine_load(right);
  if (left_load != right_load) return left_load < right_load;
  const uint32_t left_stamp = atomic_load_explicit(&left->woken_stamp, memory_order_relaxed);
  const uint32_t right_stamp = atomic_load_explicit(&right->woken_stamp, memory_order_relaxed);
  return (int32_t)(left_stamp - right_stamp) < 0;
}

/* The idle port to wake next for this queue, of those that are due, or of any if `due` is NULL; NIL if there is none.
 */
static uint32_t best_idle(const struct pdlb_engine *engine, uint32_t queue, const struct engine_due *due) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue), *idle = engine->idle;
  uint32_t best = NIL;
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    uint64_t bits = atomic_load_explicit(&idle[word], memory_order_seq_cst) &
                    atomic_load_explicit(&linked[word], memory_order_relaxed);
    for (; bits; bits &= bits - 1) {
      const uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
      const struct engine_port *port = &engine->ports[index];
      if (!may_take(port) || presence_of(port) == PDLB_AWAKE) continue;
      if (due && (engine_load(port) >= due->level || engine_turns_too_many(port, due))) continue;
      if (best == NIL || better(port, &engine->ports[best])) best = index;
    }
  }
  return best;
}

/* Even sharing: who is due and does not come may have no chance to, because the process stands still or the machine is
 * busy. So its grace is not any time, but that in which another port looks for work and comes away empty-handed; and
 * from one such look to the next no more of it goes by than this part, for who looks late has no better chance. */
#define LOOKS_IN_GRACE 4u

static uint64_t look_time(const struct engine_queue *queue) { return queue->grace / LOOKS_IN_GRACE + 1; }

/* How long after a wake somebody has to see whether the one who was woken came. */
static uint64_t patience(const struct engine_queue *queue) { return queue->even ? look_time(queue) : queue->grace; }

/* False if somebody else took the port's idle mark first. */
static bool wake(struct pdlb_engine *engine, uint32_t index, uint32_t queue) {
  struct engine_header *header = engine->header;
  struct engine_port *port = &engine->ports[index];
  if (!pdlb_engine_disarm(engine, index)) return false;
  const uint64_t stamp = atomic_fetch_add_explicit(&header->wakes, 1, memory_order_relaxed);
  atomic_store_explicit(&port->woken_stamp, (uint32_t)stamp + 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&port->wakes, 1, memory_order_relaxed);
  /* One that sleeps will come; one that is only believed idle may be busy. */
  if (queue != NIL && engine->queues[queue].even && presence_of(port) == PDLB_PARKED)
    atomic_fetch_or_explicit(&port->notice, NOTICE_CALLED, memory_order_relaxed);
  uint32_t late = PDLB_NONE;
  if (queue != NIL && !pdlb_engine_has_clock(engine) && presence_of(port) == PDLB_UNKNOWN) {
    late = best_idle(engine, queue, NULL);
    if (late == NIL) late = PDLB_NONE;
  }
  engine->host->wake(engine->context, index, late, queue == NIL ? 0 : patience(&engine->queues[queue]));
  return true;
}

void engine_call(struct pdlb_engine *engine, uint32_t port) { wake(engine, port, NIL); }

/* ---- how long something has waited ------------------------------------------------------------------------------- */

static void wait_since(struct engine_queue *queue, uint64_t now) {
  atomic_store_explicit(&queue->waiting_since, now, memory_order_relaxed);
  atomic_store_explicit(&queue->looked_at, now, memory_order_relaxed);
  atomic_store_explicit(&queue->waiting_at, engine_scheduled(queue), memory_order_relaxed);
}

/* Nothing has been scheduled since it was noted how long the first one waits. */
static bool knows_since(const struct engine_queue *queue, uint64_t *since) {
  *since = engine_get(&queue->waiting_since);
  return *since && engine_get(&queue->waiting_at) == engine_scheduled(queue);
}

void engine_start_waiting(struct pdlb_engine *engine, struct engine_queue *queue) {
  uint64_t since;
  if (!knows_since(queue, &since)) wait_since(queue, engine_now(engine));
}

static uint64_t since_when(struct engine_queue *queue, uint64_t now) {
  uint64_t since;
  if (knows_since(queue, &since) && since <= now) return since;
  wait_since(queue, now);
  return now;
}

static bool grace_is_over(struct engine_queue *queue, uint64_t now, uint64_t *until) {
  *until = since_when(queue, now) + queue->grace;
  return now >= *until;
}

/* Even sharing: somebody looks in vain. What went by unseen does not count, as if the waiting had begun later. */
static bool seen_grace_is_over(struct engine_queue *queue, uint64_t now, uint64_t *until) {
  uint64_t since = since_when(queue, now);
  const uint64_t seen_until = engine_get(&queue->looked_at) + look_time(queue);
  if (now > seen_until) {
    since += now - seen_until;
    atomic_store_explicit(&queue->waiting_since, since, memory_order_relaxed);
  }
  atomic_store_explicit(&queue->looked_at, now, memory_order_relaxed);
  *until = since + queue->grace;
  return now >= *until;
}

/* ---- even sharing
 * -------------------------------------------------------------------------------------------------------- */

static uint64_t room_below(const struct pdlb_engine *engine, uint32_t queue, uint32_t level, uint32_t *lowest) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  uint64_t room = 0;
  *lowest = UINT32_MAX;
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    for (uint64_t bits = atomic_load_explicit(&linked[word], memory_order_relaxed); bits; bits &= bits - 1) {
      const struct engine_port *port = &engine->ports[word * 64 + (uint32_t)__builtin_ctzll(bits)];
      if (!engine_is_due(port)) continue;
      const uint32_t load = engine_load(port);
      if (load < *lowest) *lowest = load;
      if (load < level) room += level - load;
    }
  }
  return room;
}

/* The level to which ports must fill up to take `waiting` elements between them, as water finds it. */
static uint32_t fill_level(const struct pdlb_engine *engine, uint32_t queue, uint32_t waiting) {
  uint32_t lowest, ignored;
  room_below(engine, queue, 0, &lowest);
  if (lowest == UINT32_MAX) return 0;
  uint32_t low = lowest + 1, high = lowest + waiting;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (room_below(engine, queue, middle, &ignored) >= waiting)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

uint32_t pdlb_engine_next(const struct pdlb_engine *engine, uint32_t queue) {
  if (!engine->queues[queue].even) return best_idle(engine, queue, NULL);
  struct engine_due due = {.level = fill_level(engine, queue, 1)};
  engine_turns_compare(engine, queue, 1, &due);
  return best_idle(engine, queue, &due);
}

/* Those that are due and had their grace lose their turn to the port that looks, unless nobody told them. True if any
 * lost it. */
static bool pass_over(struct pdlb_engine *engine, uint32_t queue, uint32_t level, uint32_t looks) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  bool any = false;
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    for (uint64_t bits = atomic_load_explicit(&linked[word], memory_order_relaxed); bits; bits &= bits - 1) {
      const uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
      struct engine_port *port = &engine->ports[index];
      const bool untold = pdlb_engine_armed(engine, index) && presence_of(port) != PDLB_AWAKE;
      if (index == looks || !engine_is_due(port) || engine_load(port) >= level || untold) continue;
      atomic_fetch_or_explicit(&port->notice, NOTICE_STALLED, memory_order_relaxed);
      engine_turns_excuse(port);
      any = true;
    }
  }
  if (any) atomic_fetch_add_explicit(&engine->header->rewakes, 1, memory_order_relaxed);
  return any;
}

/* How many ports but one were called to rise to the level, and are on their way. */
static uint32_t called(const struct pdlb_engine *engine, uint32_t queue, uint32_t level, uint32_t but) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  uint32_t count = 0;
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    for (uint64_t bits = atomic_load_explicit(&linked[word], memory_order_relaxed); bits; bits &= bits - 1) {
      const uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(bits);
      const struct engine_port *port = &engine->ports[index];
      count +=
          index != but && (engine_notice(port) & NOTICE_CALLED) && engine_is_due(port) && engine_load(port) < level;
    }
  }
  return count;
}

/* What the port may take at once, to rise to the level. If not all that are due can rise so far, the last step is for
 * those who were called, then for whoever comes next; one that could take more than a step leaves it to others. */
static uint32_t own_share(const struct pdlb_engine *engine, uint32_t queue, uint32_t level, uint32_t port,
                          uint32_t waiting) {
  uint32_t ignored;
  const uint32_t rise = level - engine_load(&engine->ports[port]);
  if (room_below(engine, queue, level, &ignored) <= waiting) return rise;
  const uint64_t last = waiting - room_below(engine, queue, level - 1, &ignored);
  return rise > 1 || called(engine, queue, level, port) >= last ? rise - 1 : rise;
}

/* 0 if others are due by what they have in flight. */
static uint32_t share_by_load(const struct pdlb_engine *engine, uint32_t queue, uint32_t level, uint32_t port,
                              uint32_t waiting) {
  return level > engine_load(&engine->ports[port]) ? own_share(engine, queue, level, port, waiting) : 0;
}

static void look_again_at(uint64_t at, uint64_t *retry_at) {
  if (at < *retry_at) *retry_at = at;
}

uint32_t engine_even_share(struct pdlb_engine *engine, uint32_t queue_index, uint32_t port, uint32_t waiting,
                           uint64_t *retry_at, bool *offer) {
  struct engine_queue *queue = &engine->queues[queue_index];
  for (;;) {
    struct engine_due due = {.level = fill_level(engine, queue_index, waiting)};
    const uint32_t share = share_by_load(engine, queue_index, due.level, port, waiting);
    if (share) {
      engine_turns_compare(engine, queue_index, waiting, &due);
      if (LIKELY(!engine_turns_too_many(&engine->ports[port], &due))) {
        const uint32_t left = engine_turns_left(&engine->ports[port], &due);
        return share < left ? share : left;
      }
    }
    *offer = true;
    const uint64_t now = engine_now(engine);
    if (share) {
      if (!engine_turns_leave(engine, queue_index, port, &due, now)) continue;
      look_again_at(now + ENGINE_LEFT_LOOK_NS, retry_at);
      return 0;
    }
    uint64_t until;
    if (seen_grace_is_over(queue, now, &until)) {
      if (pass_over(engine, queue_index, due.level, port)) continue;
      wait_since(queue, now);
      until = now + queue->grace;
    }
    look_again_at(until, retry_at);
    look_again_at(now + look_time(queue), retry_at);
    return 0;
  }
}

uint32_t engine_given_evenly(struct pdlb_engine *engine, uint32_t index, uint32_t port, uint32_t count) {
  struct engine_queue *queue = &engine->queues[index];
  engine_turns_count(engine, index, port, count);
  const uint32_t waiting = engine_queued(queue);
  if (!waiting) return 0;
  const uint64_t now = engine_now(engine), since = engine_get(&queue->waiting_since);
  engine_turns_pace(queue, since && since < now ? now - since : 0, count);
  wait_since(queue, now);
  if (LIKELY(!engine_get(&queue->left_look))) return 0;
  struct engine_due due = {.level = fill_level(engine, index, waiting)};
  engine_turns_compare(engine, index, waiting, &due);
  return engine_turns_freed(engine, index, port, &due, now);
}

uint32_t engine_offer_to_due(struct pdlb_engine *engine, uint32_t queue, uint32_t count) {
  const uint32_t waiting = engine_queued(&engine->queues[queue]);
  if (!waiting) return 0;
  struct engine_due due = {.level = fill_level(engine, queue, waiting)};
  const uint32_t coming = called(engine, queue, due.level, NIL);
  if (coming >= waiting) return coming;
  engine_turns_compare(engine, queue, waiting, &due);
  if (count > waiting - coming) count = waiting - coming;
  uint32_t woken = 0;
  while (woken < count) {
    const uint32_t port = best_idle(engine, queue, &due);
    if (port == NIL) break;
    woken += wake(engine, port, queue);
  }
  return woken;
}

static void offer_evenly(struct pdlb_engine *engine, uint32_t queue, uint32_t count) {
  /* If only busy ports are due and there is no clock outside, somebody idle must watch that they come. */
  if (engine_offer_to_due(engine, queue, count) == 0 && engine_queued(&engine->queues[queue]) &&
      !pdlb_engine_has_clock(engine)) {
    const uint32_t port = best_idle(engine, queue, NULL);
    if (port != NIL) wake(engine, port, queue);
  }
}

/* ---- offering
 * -------------------------------------------------------------------------------------------------------------- */

void engine_offer_to_idle(struct pdlb_engine *engine, uint32_t queue, uint32_t count) {
  /* Who is told has the grace from now on; the clock outside sees to it. */
  if (engine->queues[queue].even || pdlb_engine_has_clock(engine)) engine_start_waiting(engine, &engine->queues[queue]);
  if (engine->queues[queue].even) {
    offer_evenly(engine, queue, count);
    return;
  }
  while (count) {
    const uint32_t port = best_idle(engine, queue, NULL);
    if (port == NIL) return;
    count -= wake(engine, port, queue);
  }
}

/* When somebody is to look again at what waits. */
static uint64_t next_look(const struct engine_queue *queue) {
  const uint64_t left = engine_get(&queue->left_look);
  return left ? left + ENGINE_LEFT_LOOK_NS : engine_get(&queue->looked_at) + look_time(queue);
}

/* Somebody idle has to look, now and then, for the grace to go by: the one who gives what waits to others. */
static uint64_t tick_even_queue(struct pdlb_engine *engine, uint32_t index, uint64_t now) {
  struct engine_queue *queue = &engine->queues[index];
  const uint32_t waiting = engine_queued(queue);
  if (!waiting) return PDLB_FOREVER;
  since_when(queue, now);
  const uint64_t look_at = next_look(queue);
  if (now < look_at) return look_at;
  engine_offer_to_due(engine, index, waiting);
  const uint32_t port = best_idle(engine, index, NULL);
  if (port != NIL) engine_call(engine, port);
  return now + (engine_get(&queue->left_look) ? ENGINE_LEFT_LOOK_NS : look_time(queue));
}

static uint64_t tick_queue(struct pdlb_engine *engine, uint32_t index, uint64_t now) {
  struct engine_queue *queue = &engine->queues[index];
  if (queue->even) return tick_even_queue(engine, index, now);
  const uint32_t waiting = engine_queued(queue);
  if (!waiting) return PDLB_FOREVER;
  uint64_t until;
  if (!grace_is_over(queue, now, &until)) return until;
  wait_since(queue, now);
  const uint64_t before = atomic_load_explicit(&engine->header->wakes, memory_order_relaxed);
  engine_offer(engine, index, waiting);
  const uint64_t after = atomic_load_explicit(&engine->header->wakes, memory_order_relaxed);
  atomic_fetch_add_explicit(&engine->header->rewakes, after - before, memory_order_relaxed);
  return now + queue->grace;
}

uint64_t pdlb_engine_tick(struct pdlb_engine *engine, uint64_t now) {
  uint64_t next = PDLB_FOREVER;
  for (uint32_t index = 0; index < engine_queue_count(engine->header); index++) {
    if (!atomic_load_explicit(&engine->queues[index].configured, memory_order_acquire)) continue;
    const uint64_t wanted = tick_queue(engine, index, now);
    if (wanted < next) next = wanted;
  }
  return next;
}
