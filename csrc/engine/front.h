/* The front of a queue: how elements get in, and out by priority. */
#ifndef PDLB_ENGINE_FRONT_H
#define PDLB_ENGINE_FRONT_H

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "internal.h"

static inline uint8_t front_key_of(const struct pdlb_event *event) { return (uint8_t)pdlb_event_priority(event); }

#ifdef __SSE2__
/* The bits that any, and that all, of some elements' ways have. */
struct front_ways {
  __m128i any, all;
};

/* Copy sixteen elements and their keys. */
static inline void front_put_sixteen(struct pdlb_event *to, uint8_t *key, const struct pdlb_event *events,
                                     struct front_ways *ways) {
  __m128i four[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; i++) {
    __m128i event[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
      event[j] = _mm_loadu_si128((const __m128i *)&events[4 * i + j]);
      _mm_storeu_si128((__m128i *)&to[4 * i + j], event[j]);
    }
    /* The third word of each, which is opaque, queue and scheduling byte; of that, the last two. */
    const __m128i low = _mm_unpackhi_epi32(event[0], event[1]), high = _mm_unpackhi_epi32(event[2], event[3]);
    four[i] = _mm_srai_epi32(_mm_unpacklo_epi64(low, high), 16);
  }
  const __m128i low = _mm_packs_epi32(four[0], four[1]), high = _mm_packs_epi32(four[2], four[3]);
  ways->any = _mm_or_si128(ways->any, _mm_or_si128(low, high));
  ways->all = _mm_and_si128(ways->all, _mm_and_si128(low, high));
  const __m128i keys = _mm_packus_epi16(_mm_srli_epi16(low, 10), _mm_srli_epi16(high, 10)); /* bits 2 and up */
  _mm_storeu_si128((__m128i *)key, _mm_and_si128(keys, _mm_set1_epi8(KEY_PRIORITY)));
}

static inline bool front_ways_are(const struct front_ways *ways, uint32_t way) {
  const __m128i wanted = _mm_set1_epi16((short)way), bits = _mm_set1_epi16(ROUTE_MASK);
  const __m128i other = _mm_or_si128(_mm_xor_si128(ways->any, wanted), _mm_xor_si128(ways->all, wanted));
  return _mm_movemask_epi8(_mm_cmpeq_epi16(_mm_and_si128(other, bits), _mm_setzero_si128())) == 0xFFFF;
}
#endif

/* Copy `count` elements into slots from `slot` on, and their keys. False if one of them goes another way than `way`:
 * then nothing of it counts. */
static inline __attribute__((always_inline)) bool front_put(struct engine_queue *queue, uint32_t slot,
                                                            const struct pdlb_event *events, uint32_t count,
                                                            uint32_t way) {
  struct pdlb_event *to = queue->front + slot;
  uint8_t *key = queue->front_key + slot;
  const struct pdlb_event *const end = events + count;
  uint32_t other = 0;
#ifdef __SSE2__
  if (count >= 16) {
    struct front_ways ways = {_mm_setzero_si128(), _mm_set1_epi8(-1)};
    for (; end - events >= 16; events += 16, to += 16, key += 16) front_put_sixteen(to, key, events, &ways);
    if (!front_ways_are(&ways, way)) return false;
  }
#endif
  for (; events != end; events++) {
    other |= engine_event_key(events) ^ way;
    *to++ = *events;
    *key++ = front_key_of(events);
  }
  return other == 0;
}

/* A stretch of the front that does not wrap. */
struct front_part {
  const struct pdlb_event *event;
  const uint8_t *key;
  uint32_t count;
};

/* How many elements of each priority, a byte each. */
static inline __attribute__((always_inline)) uint64_t front_count(struct front_part part) {
  static const uint64_t one[PDLB_PRIORITIES] = {1ull << 0,  1ull << 8,  1ull << 16, 1ull << 24,
                                                1ull << 32, 1ull << 40, 1ull << 48, 1ull << 56};
  const uint8_t *key = part.key, *const end = key + part.count, *const eights = key + (part.count & ~7u);
  uint64_t counts = 0;
  for (; key != eights; key += 8)
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; j++) counts += one[key[j]];
  for (; key != end; key++) counts += one[*key];
  return counts;
}

/* By priority: at which byte of what is received the next element goes. */
typedef size_t front_places[PDLB_PRIORITIES];

/* Where each priority begins, after all that are higher. */
static inline void front_begin(uint64_t counts, front_places places) {
  const uint64_t before = counts * 0x0101010101010100u; /* in each byte, the sum of the bytes below it */
#ifdef __SSE2__
  const __m128i none = _mm_setzero_si128();
  const __m128i words = _mm_slli_epi16(_mm_unpacklo_epi8(_mm_cvtsi64_si128((long long)before), none), 4);
  const __m128i low = _mm_unpacklo_epi16(words, none), high = _mm_unpackhi_epi16(words, none);
  _mm_storeu_si128((__m128i *)&places[0], _mm_unpacklo_epi32(low, none));
  _mm_storeu_si128((__m128i *)&places[2], _mm_unpackhi_epi32(low, none));
  _mm_storeu_si128((__m128i *)&places[4], _mm_unpacklo_epi32(high, none));
  _mm_storeu_si128((__m128i *)&places[6], _mm_unpackhi_epi32(high, none));
#else
  for (size_t priority = 0; priority < PDLB_PRIORITIES; priority++)
    places[priority] = (before >> 8 * priority & 0xFF) * sizeof(struct pdlb_event);
#endif
}

static inline void front_put_at(struct pdlb_event *to, const struct pdlb_event *event, front_places place, size_t key) {
  memcpy((char *)to + place[key], event, sizeof *event);
  __asm__("" : "+r"(key)); /* so that the place is moved on in memory, by one instruction */
  place[key] += sizeof *event;
}

/* By so many in one go as `step`, a constant, says. */
static inline __attribute__((always_inline)) void front_spread(struct front_part part, front_places place,
                                                               struct pdlb_event *to, uint32_t step) {
  const struct pdlb_event *event = part.event;
  const uint8_t *key = part.key, *const end = key + part.count, *const steps = key + (part.count & ~(step - 1));
  for (; key != steps; key += step, event += step)
#pragma GCC unroll 16
    for (size_t j = 0; j < step; j++) front_put_at(to, &event[j], place, key[j]);
  for (; key != end; key++, event++) front_put_at(to, event, place, *key);
}

static __attribute__((noinline)) void front_sort_wrapped(const struct engine_queue *queue, uint32_t slot,
                                                         uint32_t count, struct pdlb_event *events) {
  const uint32_t straight = FRONT - slot;
  const struct front_part first = {queue->front + slot, queue->front_key + slot, straight};
  const struct front_part second = {queue->front, queue->front_key, count - straight};
  front_places places;
  front_begin(front_count(first) + front_count(second), places);
  front_spread(first, places, events, 8);
  front_spread(second, places, events, 8);
}

/* `count` elements from position `first` on, in order of priority and, within one, of arrival: counted, then each put
 * where it belongs. */
static inline __attribute__((always_inline)) void front_sort_out(const struct engine_queue *queue, uint64_t first,
                                                                 uint32_t count, struct pdlb_event *events) {
  const uint32_t slot = (uint32_t)first & FRONT_MASK;
  if (UNLIKELY(slot + count > FRONT)) {
    front_sort_wrapped(queue, slot, count, events);
    return;
  }
  const struct front_part all = {queue->front + slot, queue->front_key + slot, count};
  front_places places;
  front_begin(front_count(all), places);
  front_spread(all, places, events, 8);
}

#endif
