#include "lock.h"

/* About a microsecond of spinning: longer than any critical section whose owner runs. */
#define SPINS 64u

static bool spin(struct pdlb_engine *engine, _Atomic uint32_t *word) {
  for (uint32_t times = 0; times < SPINS; times++) {
    engine_spin_hint();
    if (atomic_load_explicit(word, memory_order_relaxed) == 0 && engine_try_lock(engine, word)) return true;
  }
  return false;
}

/* The dead one that has the lock; 0 if nobody has it, or somebody who lives. */
static uint32_t dead_owner(struct pdlb_engine *engine, const _Atomic uint32_t *word, uint32_t times) {
  const uint32_t owner = atomic_load_explicit(word, memory_order_relaxed);
  const bool dead = engine->host->relax(engine->context, owner, times);
  return dead && owner != engine->owner ? owner : 0;
}

void engine_lock_contended(struct pdlb_engine *engine, _Atomic uint32_t *word) {
  for (uint32_t times = 0; !spin(engine, word); times++) {
    const uint32_t dead = dead_owner(engine, word, times);
    if (dead) pdlb_engine_bury(engine, dead);
  }
}

uint32_t engine_take_over(struct pdlb_engine *engine, _Atomic uint32_t *word, uint32_t dead) {
  for (uint32_t times = 0;; times++) {
    uint32_t owner = dead;
    if (dead && atomic_compare_exchange_strong_explicit(word, &owner, engine->owner, memory_order_acquire,
                                                        memory_order_relaxed))
      return dead;
    if (engine_try_lock(engine, word) || spin(engine, word)) return 0;
    owner = dead_owner(engine, word, times);
    if (owner) dead = owner;
  }
}
