#include "store.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define CPUID_ECX_MOVDIR64B (1u << 28) /* leaf 7 */

enum pdlb_store pdlb_store_best(void) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_ECX_MOVDIR64B)) return PDLB_STORE_MOVDIR64B;
  return PDLB_STORE_STREAMING;
}

/* For the device, not for other threads: what they share is ordered by atomics. */
static inline void fence(void) { __asm__ volatile("sfence" ::: "memory"); }

__attribute__((target("movdir64b"))) void pdlb_store_movdir64b(void *context, void *producer,
                                                               const struct pdlb_qe *line) {
  (void)context;
  fence();
  _movdir64b(producer, line);
}

void pdlb_store_streaming(void *context, void *producer, const struct pdlb_qe *line) {
  (void)context;
  fence();
  for (unsigned slot = 0; slot < PDLB_QES_PER_LINE; slot++) {
    _mm_stream_si128((__m128i *)producer, _mm_load_si128((const __m128i *)&line[slot]));
    fence();
  }
}

#else

enum pdlb_store pdlb_store_best(void) { return PDLB_STORE_NONE; }

void pdlb_store_movdir64b(void *context, void *producer, const struct pdlb_qe *line) {
  (void)context, (void)producer, (void)line;
}

void pdlb_store_streaming(void *context, void *producer, const struct pdlb_qe *line) {
  (void)context, (void)producer, (void)line;
}

#endif
