#include "watch.h"

#include "pdlb_abi.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define CPUID_ECX_WAITPKG (1u << 5) /* leaf 7 */
#define LIGHT_SLEEP 1u              /* C0.1: woken sooner, saves less */
#define LONGEST 100000u             /* time-stamp ticks; Linux allows no more unless it is told to */

bool pdlb_watch_available(void) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_ECX_WAITPKG);
}

/* The look after UMONITOR is what makes it safe: a write before it is seen, one after it ends the wait. */
__attribute__((target("waitpkg"))) void pdlb_watch_umwait(void *context, const uint8_t *command, uint8_t generation) {
  (void)context;
  _umonitor((void *)(uintptr_t)command);
  if ((*(const volatile uint8_t *)command & PDLB_QE_GEN) == generation) return;
  _umwait(LIGHT_SLEEP, __rdtsc() + LONGEST);
}

#else

bool pdlb_watch_available(void) { return false; }

void pdlb_watch_umwait(void *context, const uint8_t *command, uint8_t generation) {
  (void)context, (void)command, (void)generation;
}

#endif
