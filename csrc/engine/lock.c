#include "lock.h"

/* About a microsecond of spinning: longer than any critical section whose owner runs. */
#define SPINS 64u

void engine_lock_contended(struct pdlb_engine *engine, _Atomic uint32_t *word) {
  for (uint32_t times = 0;; times++) {
    for (uint32_t spin = 0; spin < SPINS; spin++) {
      engine_spin_hint();
      if (atomic_load_explicit(word, memory_order_relaxed) == 0 && engine_try_lock(engine, word)) return;
    }
    engine->host->relax(engine->context, atomic_load_explicit(word, memory_order_relaxed), times);
  }
}
