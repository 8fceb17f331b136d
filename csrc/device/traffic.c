/* A port's elements: out by its producer page, four to a line; in from its consumer queue.
 *
 * The device takes a line as it comes and says nothing. What it would punish is therefore checked here: an element
 * needs a credit, a queue that does its type, and to be forwarded or released, one that is held.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "device.h"

#define BUSY 1u
#define ONE_RELEASE 2u

/* ---- one use at a time ----------------------------------------------------------------------------------------- */

/* Beside its user, only who releases for it uses a port, and briefly. */
static void enter_slowly(struct port *port) {
  uint32_t state = atomic_load_explicit(&port->state, memory_order_relaxed);
  for (;;) {
    if (state & BUSY) {
      sched_yield();
      state = atomic_load_explicit(&port->state, memory_order_relaxed);
    } else if (atomic_compare_exchange_weak_explicit(&port->state, &state, BUSY, memory_order_acquire,
                                                     memory_order_relaxed)) {
      break;
    }
  }
  if (state) port_complete(port, state / ONE_RELEASE);
}

void port_enter(struct port *port) {
  uint32_t unused = 0;
  if (!atomic_compare_exchange_strong_explicit(&port->state, &unused, BUSY, memory_order_acquire, memory_order_relaxed))
    enter_slowly(port);
}

/* What others have left to release meanwhile is released on the way out: nobody else might come for a long time. */
void port_leave(struct port *port) {
  uint32_t state = BUSY;
  while (
      !atomic_compare_exchange_strong_explicit(&port->state, &state, 0, memory_order_release, memory_order_relaxed)) {
    atomic_fetch_sub_explicit(&port->state, state - BUSY, memory_order_acquire);
    port_complete(port, state / ONE_RELEASE);
    state = BUSY;
  }
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

typedef uint64_t pair __attribute__((vector_size(16)));
typedef pair unaligned_pair __attribute__((aligned(8), may_alias));
typedef uint64_t half __attribute__((may_alias));
typedef pair aligned_pair __attribute__((may_alias));

/* Bytes 14 and 15 of an element are the device's: weight and other hints, and the command. */
#define CARRIED 0x0000FFFFFFFFFFFFu
#define COMMAND_SHIFT 56
#define GENERATION ((uint64_t)PDLB_QE_GEN << COMMAND_SHIFT)
#define FLAG_ERROR ((uint64_t)PDLB_EVENT_ERROR << 48)
#define ERROR ((uint64_t)PDLB_QE_ERROR << COMMAND_SHIFT)

static inline void put(struct port *port, uint32_t slot, const struct pdlb_event *event, uint64_t command) {
  const pair carried = {UINT64_MAX, CARRIED}, added = {0, command << COMMAND_SHIFT};
  *(aligned_pair *)&port->line[slot] = (*(const unaligned_pair *)event & carried) | added;
}

static inline void put_nothing(struct port *port, uint32_t slot) { *(aligned_pair *)&port->line[slot] = (pair){0, 0}; }

static inline void count(_Atomic uint64_t *counter, uint32_t more) {
  /* One thread at a time counts. */
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_release);
}

static inline void give_line(struct port *port) { port->store(port->context, port->producer, port->line); }

static inline void count_all(struct port_record *record, uint32_t doing, uint32_t how_many) {
  if (doing & DOING_SEND) count(&record->sent, how_many);
  if (doing & DOING_COMPLETE) count(&record->released, how_many);
  if (doing & DOING_POP) count(&record->popped, how_many);
}

/* Should this process be killed in between, it is known what may not have been counted. Signal fences: whoever looks
 * then sees the stores of a dead process in their order. */
static inline void store(struct port *port, uint32_t doing, uint32_t how_many) {
  struct port_record *record = port->record;
  atomic_store_explicit(&record->doing, doing | how_many << DOING_SHIFT, memory_order_relaxed);
  atomic_signal_fence(memory_order_seq_cst);
  give_line(port);
  atomic_signal_fence(memory_order_seq_cst);
  count_all(record, doing, how_many);
  atomic_signal_fence(memory_order_seq_cst);
  atomic_store_explicit(&record->doing, DOING_NOTHING, memory_order_relaxed);
}

/* A line with one command. */
static void store_command(struct port *port, uint8_t command, uint16_t field, uint32_t doing, uint32_t how_many) {
  for (uint32_t slot = 0; slot < PDLB_QES_PER_LINE; slot++) put_nothing(port, slot);
  port->line[0].flow = field;
  port->line[0].command = command;
  store(port, doing, how_many);
}

static inline bool is_gone(const struct port *port) {
  return atomic_load_explicit(&port->domain->state->gone, memory_order_acquire);
}

/* ---- credits ----------------------------------------------------------------------------------------------------- */

/* The domain's credits are in one place, where no idle port can keep them from others: taken when elements are sent,
 * given back when one that was received shows that the device has its own again. */
static inline uint32_t take_credits(struct port *port, enum credit credit, uint32_t wanted) {
  struct domain_state *state = port->domain->state;
  if (state->shared) return state_take(port, credit, wanted);
  _Atomic uint32_t *pool = &state->credits[credit];
  uint32_t free = atomic_load_explicit(pool, memory_order_relaxed), taken;
  do {
    taken = free < wanted ? free : wanted;
    if (taken == 0) return 0;
  } while (
      !atomic_compare_exchange_weak_explicit(pool, &free, free - taken, memory_order_acquire, memory_order_relaxed));
  return taken;
}

static inline void put_back_credits(struct port *port, enum credit credit, uint32_t count) {
  struct domain_state *state = port->domain->state;
  if (state->shared)
    state_give_back(port, credit, count);
  else
    atomic_fetch_add_explicit(&state->credits[credit], count, memory_order_release);
}

/* In a shared domain, that they were received says so. */
static inline void give_credits(struct domain_state *state, enum credit credit, uint32_t count) {
  if (!state->shared) atomic_fetch_add_explicit(&state->credits[credit], count, memory_order_release);
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

/* Queue and type of an element lie side by side. */
static inline uint32_t key_of(const struct domain_state *state, const struct pdlb_event *event) {
  uint16_t key;
  memcpy(&key, &event->queue, sizeof key);
  return atomic_load_explicit(&state->keys[key & (NUM_KEYS - 1)], memory_order_relaxed);
}

/* Up to four elements in a line, by the one. Returns how many were put. */
static uint32_t put_each(struct port *port, const struct pdlb_event *events, uint32_t count, uint8_t command) {
  uint32_t done = 0;
  for (; done < count; done++) {
    const uint32_t key = key_of(port->domain->state, &events[done]);
    if (key == KEY_NONE || (key == KEY_DIRECTED && !take_credits(port, CREDIT_DIRECTED, 1))) break;
    put(port, done, &events[done], command);
  }
  for (uint32_t slot = done; slot < PDLB_QES_PER_LINE; slot++) put_nothing(port, slot);
  return done;
}

/* Full lines, as far as their elements need no more than a credit. `told`: others may have to know how far it came. */
static inline uint32_t write_full_lines(struct port *port, const struct pdlb_event *events, uint32_t count,
                                        uint8_t command, uint32_t doing, bool told) {
  const struct domain_state *state = port->domain->state;
  uint32_t done = 0;
  for (; count - done >= PDLB_QES_PER_LINE; done += PDLB_QES_PER_LINE) {
    const struct pdlb_event *four = &events[done];
    if (key_of(state, &four[0]) | key_of(state, &four[1]) | key_of(state, &four[2]) | key_of(state, &four[3])) break;
    put(port, 0, &four[0], command);
    put(port, 1, &four[1], command);
    put(port, 2, &four[2], command);
    put(port, 3, &four[3], command);
    if (told)
      store(port, doing, PDLB_QES_PER_LINE);
    else
      give_line(port);
  }
  if (!told && done) count_all(port->record, doing, done);
  return done;
}

static uint32_t write_lines(struct port *port, const struct pdlb_event *events, uint32_t count, uint8_t command) {
  const uint32_t doing = command == PDLB_QE_FWD ? DOING_SEND | DOING_COMPLETE : DOING_SEND;
  uint32_t done = port->domain->state->shared ? write_full_lines(port, events, count, command, doing, true)
                                              : write_full_lines(port, events, count, command, doing, false);
  while (done < count) {
    const uint32_t left = count - done, most = left < PDLB_QES_PER_LINE ? left : PDLB_QES_PER_LINE;
    const uint32_t put = put_each(port, &events[done], most, command);
    if (put) store(port, doing, put);
    done += put;
    if (put < most) break;
  }
  return done;
}

static enum pdlb_refusal why_not(const struct port *port, const struct pdlb_event *event) {
  const unsigned type = pdlb_event_type(event);
  if (!domain_has_queue(port->domain, event->queue, type == PDLB_SCHED_DIRECTED)) return PDLB_BAD_QUEUE;
  if (key_of(port->domain->state, event) == KEY_NONE) return PDLB_BAD_SCHED;
  return PDLB_NO_CREDIT;
}

static inline enum pdlb_refusal why_none(const struct port *port) {
  if (is_gone(port)) return PDLB_GONE;
  if (!atomic_load_explicit(&port->domain->state->started, memory_order_relaxed)) return PDLB_NOT_STARTED;
  return atomic_load_explicit(&port->record->disabled, memory_order_relaxed) ? PDLB_PORT_DISABLED : PDLB_TAKEN;
}

/* `most`: as many as may be sent; the one after them, if there is one, is not held. */
static uint32_t enqueue(struct port *port, const struct pdlb_event *events, uint32_t given, uint32_t most,
                        uint8_t command, enum pdlb_refusal *why) {
  struct domain *domain = port->domain;
  const uint32_t credits = take_credits(port, CREDIT_ANY, most);
  const uint32_t done = write_lines(port, events, credits, command);
  if (done < credits) put_back_credits(port, CREDIT_ANY, credits - done);
  *why = PDLB_TAKEN;
  if (done < given) {
    *why = done == most ? PDLB_NOT_HELD : why_not(port, &events[done]);
    if (*why == PDLB_NO_CREDIT) atomic_fetch_add_explicit(&domain->state->refused, given - done, memory_order_relaxed);
  }
  return done;
}

uint32_t port_send(struct pdlb_port *base, const struct pdlb_event *events, uint32_t count, enum pdlb_refusal *why) {
  struct port *port = port_of(base);
  *why = why_none(port);
  if (*why != PDLB_TAKEN) return 0;
  port_enter(port);
  const uint32_t done = enqueue(port, events, count, count, PDLB_QE_NEW, why);
  port_leave(port);
  return done;
}

uint32_t port_forward(struct pdlb_port *base, const struct pdlb_event *events, uint32_t given, enum pdlb_refusal *why) {
  struct port *port = port_of(base);
  *why = why_none(port);
  if (*why != PDLB_TAKEN || given == 0) return 0;
  port_enter(port);
  const uint32_t held = atomic_load_explicit(&port->held, memory_order_relaxed);
  const uint32_t done = enqueue(port, events, given, given < held ? given : held, PDLB_QE_FWD, why);
  atomic_store_explicit(&port->held, held - done, memory_order_relaxed);
  port_leave(port);
  return done;
}

/* ---- completing -------------------------------------------------------------------------------------------------- */

void port_complete(struct port *port, uint32_t wanted) {
  const uint32_t held = atomic_load_explicit(&port->held, memory_order_relaxed);
  const uint32_t completed = wanted < held ? wanted : held;
  if (completed == 0) return;
  uint32_t left = completed;
  while (left && !is_gone(port)) {
    const uint32_t some = left < PDLB_QES_PER_LINE ? left : PDLB_QES_PER_LINE;
    for (uint32_t slot = 0; slot < PDLB_QES_PER_LINE; slot++) {
      put_nothing(port, slot);
      if (slot < some) port->line[slot].command = PDLB_QE_REL;
    }
    store(port, DOING_COMPLETE, some);
    left -= some;
  }
  if (left) count(&port->record->released, left);
  atomic_store_explicit(&port->held, held - completed, memory_order_relaxed);
}

uint32_t port_release(struct pdlb_port *base, uint32_t wanted) {
  struct port *port = port_of(base);
  port_enter(port);
  const uint32_t before = atomic_load_explicit(&port->held, memory_order_relaxed);
  port_complete(port, wanted);
  const uint32_t after = atomic_load_explicit(&port->held, memory_order_relaxed);
  port_leave(port);
  return before - after;
}

void port_release_later(struct pdlb_port *base, uint32_t wanted) {
  struct port *port = port_of(base);
  if (wanted > UINT32_MAX / ONE_RELEASE / 2) wanted = UINT32_MAX / ONE_RELEASE / 2;
  uint32_t state = atomic_fetch_add_explicit(&port->state, wanted * ONE_RELEASE, memory_order_acq_rel);
  if (state & BUSY) return; /* whoever it is does it on the way out */
  port_enter(port);
  port_leave(port);
}

uint32_t port_in_flight(const struct pdlb_port *base) {
  const struct port *port = (const struct port *)base;
  const struct port_record *record = port->record;
  if (!port->domain->joined && atomic_load_explicit(&record->member, memory_order_relaxed)) {
    const uint64_t released = atomic_load_explicit(&record->released, memory_order_acquire);
    return (uint32_t)(atomic_load_explicit(&record->received, memory_order_relaxed) - released);
  }
  const uint32_t held = atomic_load_explicit(&port->held, memory_order_relaxed);
  const uint32_t waiting = atomic_load_explicit(&port->state, memory_order_relaxed) / ONE_RELEASE;
  return held > waiting ? held - waiting : 0;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

/* The half of a slot that has the generation: the device writes it last, or the whole slot at once. */
static inline uint64_t last_half(const unsigned char *slot) {
  return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(slot + 8), memory_order_acquire);
}

static inline uint64_t first_half(const unsigned char *slot) {
  return atomic_load_explicit((const _Atomic uint64_t *)(const void *)slot, memory_order_relaxed);
}

/* Move elements out of the ring. */
static uint32_t consume(struct port *port, struct pdlb_event *events, uint32_t max) {
  const uint32_t stride = port->domain->device->stride;
  uint32_t done = 0;
  while (done < max) {
    /* Up to the end of the lap, where the generation changes. */
    const uint32_t before = done, left = (port->end - port->at) / stride;
    const uint32_t most = max - done < left ? max : done + left;
    const unsigned char *slot = port->consumer + port->at;
    const uint64_t generation = (uint64_t)port->generation << COMMAND_SHIFT;
    for (; done < most; done++, slot += stride) {
      const uint64_t last = last_half(slot);
      half *out = (half *)&events[done];
      if (__builtin_expect((last ^ generation) & (GENERATION | ERROR), 0)) {
        if ((last ^ generation) & GENERATION) break;
        out[0] = first_half(slot);
        out[1] = (last & CARRIED) | FLAG_ERROR;
        continue;
      }
      out[0] = first_half(slot);
      out[1] = last & CARRIED;
    }
    port->at += (done - before) * stride;
    if (port->at < port->end) break;
    port->at = 0;
    port->generation ^= PDLB_QE_GEN;
  }
  port->tokens += done;
  return done;
}

void port_return_tokens(struct port *port) {
  if (port->tokens == 0 || is_gone(port)) return;
  store_command(port, PDLB_QE_BAT_T, (uint16_t)(port->tokens - 1), DOING_POP, port->tokens);
  port->tokens = 0;
  if (__builtin_expect(atomic_load_explicit(&port->record->stalled, memory_order_relaxed), 0))
    atomic_store_explicit(&port->record->stalled, false, memory_order_relaxed);
}

uint32_t port_take(struct port *port, struct pdlb_event *events, uint32_t max) {
  struct domain *domain = port->domain;
  if (port->hold_tokens) port_return_tokens(port);
  const uint32_t taken = consume(port, events, max);
  if (taken == 0) return 0;
  count(&port->record->received, taken);
  give_credits(domain->state, CREDIT_ANY, taken);
  if (!port->base.directed) {
    atomic_store_explicit(&port->held, atomic_load_explicit(&port->held, memory_order_relaxed) + taken,
                          memory_order_relaxed);
  } else if (domain->state->directed_credits_apart) {
    give_credits(domain->state, CREDIT_DIRECTED, taken);
  }
  if (!port->hold_tokens) port_return_tokens(port);
  return taken;
}

void port_arm(struct port *port) {
  port_return_tokens(port);
  if (!is_gone(port)) store_command(port, PDLB_QE_ARM, 0, DOING_ARM, 0);
  port->armed = true;
}

uint32_t port_unread(const struct port *port) {
  const uint32_t stride = port->domain->device->stride;
  uint32_t at = port->at, unread = 0;
  uint8_t generation = port->generation;
  for (; unread < port->end / stride; unread++) {
    if (((last_half(port->consumer + at) >> COMMAND_SHIFT) ^ generation) & PDLB_QE_GEN) break;
    at += stride;
    if (at < port->end) continue;
    at = 0;
    generation ^= PDLB_QE_GEN;
  }
  return unread;
}

/* Each takes its own place in the port's history, so nothing else may be held. Their credits stay taken. */
void port_put_back(struct port *port) {
  struct pdlb_event events[PDLB_QES_PER_LINE];
  uint32_t taken;
  while (!is_gone(port) && (taken = consume(port, events, PDLB_QES_PER_LINE)) > 0) {
    for (uint32_t slot = 0; slot < PDLB_QES_PER_LINE; slot++) {
      if (slot < taken)
        put(port, slot, &events[slot], PDLB_QE_FWD);
      else
        put_nothing(port, slot);
    }
    count(&port->record->put_back, taken);
    store(port, DOING_NOTHING, 0);
    port_return_tokens(port);
  }
}
