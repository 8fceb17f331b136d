/* The elements of a ring: how they are copied into it and out of it, and how their lines come to be at hand in time. A
 * line lies in the cache of whoever was there last, on another processor. */
#ifndef PDLB_ENGINE_RING_H
#define PDLB_ENGINE_RING_H

#include "internal.h"

/* One at a time: so many elements before a ring's end comes to be at a place, that is fetched. A lock's instructions
 * wait for what is being stored. */
#define RING_AHEAD 16u

/* Have the line at `place` here, to write to, before long. */
static inline void engine_fetch_to_write(const void *place) {
#if defined(__x86_64__)
  /* A hint to every such processor; compilers must be told that it is one. */
  __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)place));
#else
  __builtin_prefetch(place, 1);
#endif
}

#define EVENTS_IN_LINE (CACHE_LINE / sizeof(struct pdlb_event))

/* The lines of `count` places from position `from` on, to be read, or written to. */
static inline void ring_fetch(const struct pdlb_event *ring, uint32_t mask, uint32_t from, uint32_t count) {
  for (uint32_t i = 0; i < count; i += EVENTS_IN_LINE) __builtin_prefetch(&ring[(from + i) & mask]);
}

static inline void ring_fetch_to_write(const struct pdlb_event *ring, uint32_t mask, uint32_t from, uint32_t count) {
  for (uint32_t i = 0; i < count; i += EVENTS_IN_LINE) engine_fetch_to_write(&ring[(from + i) & mask]);
}

typedef uint8_t ring_event __attribute__((vector_size(sizeof(struct pdlb_event)), aligned(1), may_alias));

/* Copy elements, and note the bits in which they differ from the first one. */
static inline void ring_copy_part(struct pdlb_event *to, const struct pdlb_event *from, uint32_t count,
                                  ring_event first, ring_event *others) {
  const struct pdlb_event *const end = from + count;
  ring_event other = *others;
#pragma GCC unroll 4
  for (; from != end; from++, to++) {
    const ring_event event = *(const ring_event *)from;
    *(ring_event *)to = event;
    other |= event ^ first;
  }
  *others = other;
}

/* The bits in which the ways of any of them, as a route has them, and their priorities differ. */
#define RING_PRIORITY (7u << 10)

static inline uint32_t ring_others(ring_event others) {
  return (others[10] | (uint32_t)others[11] << 8) & (ROUTE_MASK | RING_PRIORITY);
}

/* `count` elements into, or out of, a ring from position `at` on. Returns the bits in which they differ: of queue, type
 * and priority. */
static inline uint32_t ring_put(struct pdlb_event *ring, uint32_t mask, uint32_t at, const struct pdlb_event *events,
                                uint32_t count) {
  const uint32_t slot = at & mask, to_end = mask + 1 - slot, straight = count < to_end ? count : to_end;
  const ring_event first = *(const ring_event *)events;
  ring_event others = {0};
  ring_copy_part(ring + slot, events, straight, first, &others);
  if (UNLIKELY(count > straight)) ring_copy_part(ring, events + straight, count - straight, first, &others);
  return ring_others(others);
}

static inline uint32_t ring_get(const struct pdlb_event *ring, uint32_t mask, uint32_t at, struct pdlb_event *events,
                                uint32_t count) {
  const uint32_t slot = at & mask, to_end = mask + 1 - slot, straight = count < to_end ? count : to_end;
  const ring_event first = *(const ring_event *)&ring[slot];
  ring_event others = {0};
  ring_copy_part(events, ring + slot, straight, first, &others);
  if (UNLIKELY(count > straight)) ring_copy_part(events + straight, ring, count - straight, first, &others);
  return ring_others(others);
}

#endif
