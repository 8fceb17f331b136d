/* The same as front.h by AVX2, for processors that have it: two elements in one load, and the places of all priorities
 * out of bits. It is asked for once, when a port is taken (pdlb_engine_use), not when this is compiled. */
#ifndef PDLB_ENGINE_FRONT_WIDE_H
#define PDLB_ENGINE_FRONT_WIDE_H

#include "front.h"

/* The keys are loaded with what lies behind them, which somebody may be writing: the thread sanitizer says so. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__SANITIZE_THREAD__) && !defined(PDLB_NARROW)
#define ENGINE_HAS_WIDE 1
#include <immintrin.h>

#define WIDE __attribute__((target("avx2,bmi,bmi2,popcnt")))

static inline bool front_wide_here(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt");
}

/* Copy thirty-two elements and their keys. Returns the bits in which any of their ways differs from `way`. */
WIDE static inline __attribute__((always_inline)) __m256i front_put_thirty_two(struct pdlb_event *to, uint8_t *key,
                                                                               const struct pdlb_event *events,
                                                                               __m256i way) {
  __m256i four[4]; /* of the even elements in the lower half, of the odd ones in the upper one */
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; i++) {
    __m256i two[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
      two[j] = _mm256_loadu_si256((const __m256i *)&events[8 * i + 2 * j]);
      _mm256_storeu_si256((__m256i *)&to[8 * i + 2 * j], two[j]);
    }
    const __m256i low = _mm256_unpackhi_epi32(two[0], two[1]), high = _mm256_unpackhi_epi32(two[2], two[3]);
    four[i] = _mm256_srai_epi32(_mm256_unpacklo_epi64(low, high), 16);
  }
  const __m256i low = _mm256_packs_epi32(four[0], four[1]), high = _mm256_packs_epi32(four[2], four[3]);
  const __m256i low_key = _mm256_srli_epi16(_mm256_slli_epi16(low, 3), 13); /* bits 10 to 12 */
  const __m256i high_key = _mm256_srli_epi16(_mm256_slli_epi16(high, 3), 13);
  const __m256i keys = _mm256_packus_epi16(low_key, high_key);
  const __m128i even = _mm256_castsi256_si128(keys), odd = _mm256_extracti128_si256(keys, 1);
  /* In one, as they are loaded: else who loads them soon waits for all that is being stored. */
  _mm256_storeu_si256((__m256i *)key, _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd)));
  return _mm256_or_si256(_mm256_xor_si256(low, way), _mm256_xor_si256(high, way));
}

WIDE static inline __attribute__((always_inline)) bool front_put_wide(struct engine_queue *queue, uint32_t slot,
                                                                      const struct pdlb_event *events, uint32_t count,
                                                                      uint32_t way) {
  const __m256i ways = _mm256_set1_epi16((short)way);
  while (count >= 32) {
    const __m256i bits = front_put_thirty_two(queue->front + slot, queue->front_key + slot, events, ways);
    const __m256i other = _mm256_slli_epi16(bits, 6); /* those of ROUTE_MASK */
    if (UNLIKELY(!_mm256_testz_si256(other, other))) return false;
    events += 32, slot += 32, count -= 32;
  }
  return LIKELY(!count) || front_put(queue, slot, events, count, way);
}

WIDE static inline __attribute__((always_inline)) void front_sort_out_wide(const struct engine_queue *queue,
                                                                           uint64_t first, uint32_t count,
                                                                           struct pdlb_event *events) {
  const uint32_t slot = (uint32_t)first & FRONT_MASK;
  if (UNLIKELY(slot + count > FRONT || count > 32)) {
    front_sort_out(queue, first, count, events);
    return;
  }
  const struct front_part part = {queue->front + slot, queue->front_key + slot, count};
  __m256i keys = _mm256_loadu_si256((const __m256i *)part.key); /* what lies beyond `count` is not counted */
  const uint32_t all = (uint32_t)_bzhi_u64(UINT32_MAX, count);
  front_places places;
  places[0] = 0;
#pragma GCC unroll 8
  for (size_t priority = 1; priority < PDLB_PRIORITIES; priority++) {
    const __m256i not_before = _mm256_cmpgt_epi8(keys, _mm256_setzero_si256());
    const uint32_t before = _andn_u32((uint32_t)_mm256_movemask_epi8(not_before), all);
    places[priority] = (size_t)(uint32_t)_mm_popcnt_u32(before) * sizeof(struct pdlb_event);
    keys = _mm256_sub_epi8(keys, _mm256_set1_epi8(1));
  }
  front_spread(part, places, events, 16);
}
#endif

#endif
