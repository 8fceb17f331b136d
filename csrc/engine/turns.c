/* Even sharing over time: who has been given more than others leaves what waits to them.
 *
 * What ports have in flight is levelled (wake.c). But where there are fewer processors than workers, who has one ends
 * what it holds and comes again, while others have something in hand and wait for a processor: level at each moment,
 * they drift apart. So ports count their turns. One that is a window ahead of another that could take as well leaves
 * what waits, until half of that is made up for; it sleeps, and so leaves the processor too. If that was missing,
 * elements leave the queue about as fast as before. If they do not, who is behind is slow, or stopped, and is excused:
 * it is not waited for on this ground until it was given a number of elements, and then begins level with the others.
 *
 * All of it is a hint, and may be half written by a process that was killed.
 */
#include "internal.h"

/* Where less waits, whoever comes takes it. */
#define LEAST_WAITING 8u

/* How many elements a port is excused for: twice as many each time, as long as waiting for it is in vain. */
#define LONGEST_EXCUSE 1024u

/* Waiting is in vain after a millisecond, and so many times what the elements that went meanwhile take otherwise; but
 * after five milliseconds in any case. Time counts in which somebody looks. */
#define PATIENCE_NS 1000000u
#define TIMES_SLOWER 3u
#define MOST_PATIENCE_NS 5000000u

static inline uint32_t get(const _Atomic uint32_t *number) {
  return atomic_load_explicit(number, memory_order_relaxed);
}

static inline void set(_Atomic uint32_t *number, uint32_t value) {
  atomic_store_explicit(number, value, memory_order_relaxed);
}

/* ---- who is behind ----------------------------------------------------------------------------------------------- */

/* Whether others may wait for the port to take: it can, and has less in flight than the level. */
static bool is_behind(const struct engine_port *port, uint32_t level) {
  return engine_is_due(port) && !get(&port->excused) && engine_load(port) < level;
}

static void find_fewest(const struct pdlb_engine *engine, uint32_t queue, const struct engine_port *but,
                        struct engine_due *due) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  due->any = false;
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    for (uint64_t bits = atomic_load_explicit(&linked[word], memory_order_relaxed); bits; bits &= bits - 1) {
      const struct engine_port *port = &engine->ports[word * 64 + (uint32_t)__builtin_ctzll(bits)];
      if (port == but || !is_behind(port, due->level)) continue;
      const uint32_t turns = get(&port->turns);
      if (!due->any || (int32_t)(turns - due->fewest) < 0) due->fewest = turns;
      due->any = true;
    }
  }
}

void engine_turns_compare(const struct pdlb_engine *engine, uint32_t queue, uint32_t waiting, struct engine_due *due) {
  due->any = false;
  if (waiting >= LEAST_WAITING) find_fewest(engine, queue, NULL, due);
}

static uint32_t ahead_by(const struct engine_port *port, const struct engine_due *due) {
  const int32_t by = due->any ? (int32_t)(get(&port->turns) - due->fewest) : 0;
  return by > 0 ? (uint32_t)by : 0;
}

bool engine_turns_too_many(const struct engine_port *port, const struct engine_due *due) {
#ifdef PDLB_BREAK_TURNS
  return false;
#endif
  if (get(&port->excused)) return false;
  return ahead_by(port, due) >= (get(&port->leaves) ? ENGINE_WINDOW / 2 : ENGINE_WINDOW);
}

/* ---- leaving it to them ------------------------------------------------------------------------------------------ */

void engine_turns_excuse(struct engine_port *port) {
  const uint32_t excuse = get(&port->excuse), next = excuse ? 2 * excuse : ENGINE_WINDOW;
  set(&port->excuse, next < LONGEST_EXCUSE ? next : LONGEST_EXCUSE);
  set(&port->excused, get(&port->excuse));
}

/* Those that are behind by as much as somebody waits for. */
static void excuse_all(struct pdlb_engine *engine, uint32_t queue, uint32_t index, uint32_t level) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  const uint32_t mine = get(&engine->ports[index].turns);
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    for (uint64_t bits = atomic_load_explicit(&linked[word], memory_order_relaxed); bits; bits &= bits - 1) {
      struct engine_port *port = &engine->ports[word * 64 + (uint32_t)__builtin_ctzll(bits)];
      const int32_t by = (int32_t)(mine - get(&port->turns));
      if (by >= (int32_t)ENGINE_WINDOW / 2 && is_behind(port, level)) engine_turns_excuse(port);
    }
  }
}

static void begin_leaving(struct engine_queue *queue, uint64_t now) {
  atomic_store_explicit(&queue->left_since, now, memory_order_relaxed);
  atomic_store_explicit(&queue->left_look, now, memory_order_relaxed);
  atomic_store_explicit(&queue->left_for, 0, memory_order_relaxed);
  atomic_store_explicit(&queue->left_at, engine_scheduled(queue), memory_order_relaxed);
}

static void end_leaving(struct engine_queue *queue) {
  atomic_store_explicit(&queue->left_look, 0, memory_order_relaxed);
}

/* How long (ns) as many elements as have gone since may take, if a processor was missing. */
static uint64_t time_for_others(const struct engine_queue *queue) {
  return TIMES_SLOWER * engine_get(&queue->pace) * (engine_scheduled(queue) - engine_get(&queue->left_at));
}

static bool is_in_vain(struct engine_queue *queue, uint64_t now) {
  const uint64_t went_by = now - engine_get(&queue->left_look);
  const uint64_t part = went_by < ENGINE_LEFT_LOOK_NS ? went_by : ENGINE_LEFT_LOOK_NS;
  const uint64_t left_for = engine_get(&queue->left_for) + part;
  atomic_store_explicit(&queue->left_look, now, memory_order_relaxed);
  atomic_store_explicit(&queue->left_for, left_for, memory_order_relaxed);
  return left_for >= MOST_PATIENCE_NS || left_for >= PATIENCE_NS + time_for_others(queue);
}

bool engine_turns_leave(struct pdlb_engine *engine, uint32_t queue_index, uint32_t index, const struct engine_due *due,
                        uint64_t now) {
  struct engine_queue *queue = &engine->queues[queue_index];
  struct engine_port *port = &engine->ports[index];
  /* What had to be (others had no room, or more in flight) is forgotten. */
  if (!get(&port->leaves) && ahead_by(port, due) > 2 * ENGINE_WINDOW)
    set(&port->turns, due->fewest + 2 * ENGINE_WINDOW);
  set(&port->leaves, 1);
  if (!engine_get(&queue->left_look)) begin_leaving(queue, now);
  if (!is_in_vain(queue, now)) return true;
  end_leaving(queue);
  excuse_all(engine, queue_index, index, due->level);
  return false;
}

uint32_t engine_turns_left(struct engine_port *port, const struct engine_due *due) {
  const uint32_t ahead = ahead_by(port, due);
  if (UNLIKELY(get(&port->leaves))) set(&port->leaves, 0);
  return get(&port->excused) || ahead >= ENGINE_WINDOW ? UINT32_MAX : ENGINE_WINDOW - ahead;
}

/* ---- when they have come ----------------------------------------------------------------------------------------- */

/* One for which others have waited has come. If they would have done much more themselves meanwhile, it is slow. */
static void judge(struct engine_queue *queue, struct engine_port *port, uint64_t now) {
  const uint64_t since = engine_get(&queue->left_since);
  if (now > since && now - since > time_for_others(queue))
    engine_turns_excuse(port);
  else
    set(&port->excuse, 0);
}

/* How many need not leave what waits any more; those that still have to are counted in `*more`. */
static uint32_t let_go_on(struct pdlb_engine *engine, uint32_t queue, const struct engine_due *due, uint32_t *more) {
  const _Atomic uint64_t *linked = engine_linked(engine, queue);
  uint32_t freed = 0;
  for (uint32_t word = 0; word < engine->header->port_words; word++) {
    for (uint64_t bits = atomic_load_explicit(&linked[word], memory_order_relaxed); bits; bits &= bits - 1) {
      struct engine_port *port = &engine->ports[word * 64 + (uint32_t)__builtin_ctzll(bits)];
      if (LIKELY(!get(&port->leaves))) continue;
      const bool leaves = engine_turns_too_many(port, due);
      *more += leaves;
      freed += !leaves;
      if (!leaves) set(&port->leaves, 0);
    }
  }
  return freed;
}

uint32_t engine_turns_freed(struct pdlb_engine *engine, uint32_t queue_index, uint32_t index,
                            const struct engine_due *due, uint64_t now) {
  struct engine_queue *queue = &engine->queues[queue_index];
  uint32_t more = 0;
  const uint32_t freed = let_go_on(engine, queue_index, due, &more);
  if (!freed && more) return 0;
  if (freed && due->any) judge(queue, &engine->ports[index], now);
  end_leaving(queue);
  if (more) begin_leaving(queue, now);
  return freed;
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

void engine_turns_count(struct pdlb_engine *engine, uint32_t queue, uint32_t index, uint32_t count) {
  struct engine_port *port = &engine->ports[index];
  const uint32_t excused = get(&port->excused);
  set(&port->turns, get(&port->turns) + count);
  if (LIKELY(!excused)) return;
  set(&port->excused, excused > count ? excused - count : 0);
  struct engine_due others = {.level = UINT32_MAX};
  find_fewest(engine, queue, port, &others);
  if (others.any) set(&port->turns, others.fewest);
}

void engine_turns_pace(struct engine_queue *queue, uint64_t took, uint32_t count) {
  if (engine_get(&queue->left_look)) return;
  const uint64_t each = took / count, pace = engine_get(&queue->pace);
  const uint64_t seen = each < ENGINE_LEFT_LOOK_NS ? each : ENGINE_LEFT_LOOK_NS;
  atomic_store_explicit(&queue->pace, pace ? pace - pace / 16 + seen / 16 : seen, memory_order_relaxed);
}
