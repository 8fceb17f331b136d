/* A lock in the region whose word names its owner, so that the death of the owner can be found out.
 *
 * Critical sections are a few hundred instructions at the most, so a waiter spins, then lets the host decide how to
 * wait. Nobody is queued: a waiter that dies leaves no trace.
 */
#ifndef PDLB_ENGINE_LOCK_H
#define PDLB_ENGINE_LOCK_H

#include "region.h"

static inline void engine_spin_hint(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

void engine_lock_contended(struct pdlb_engine *engine, _Atomic uint32_t *word);

static inline bool engine_try_lock_as(uint32_t owner, _Atomic uint32_t *word) {
  uint32_t nobody = 0;
  return atomic_compare_exchange_strong_explicit(word, &nobody, owner, memory_order_acquire, memory_order_relaxed);
}

static inline bool engine_try_lock(struct pdlb_engine *engine, _Atomic uint32_t *word) {
  return engine_try_lock_as(engine->owner, word);
}

static inline void engine_lock(struct pdlb_engine *engine, _Atomic uint32_t *word) {
  if (__builtin_expect(!engine_try_lock(engine, word), 0)) engine_lock_contended(engine, word);
}

/* The lock, be it from a dead owner: from `dead`, or whomever the host tells of. Returns that owner, and the caller
 * sees to what the lock protects; or 0. For those who hold locks already, and so cannot have the dead buried. */
uint32_t engine_take_over(struct pdlb_engine *engine, _Atomic uint32_t *word, uint32_t dead);

static inline void engine_unlock(_Atomic uint32_t *word) { atomic_store_explicit(word, 0, memory_order_release); }

/* As if the lock were taken and given up: who had it before has been seen out, and who takes it from now on sees what
 * was stored before. */
static inline void engine_go_through(struct pdlb_engine *engine, _Atomic uint32_t *word) {
  uint32_t nobody = 0;
  if (__builtin_expect(
          atomic_compare_exchange_strong_explicit(word, &nobody, 0, memory_order_acq_rel, memory_order_relaxed), 1))
    return;
  engine_lock_contended(engine, word);
  engine_unlock(word);
}

/* Also orders everything before it against every load after it: a sender must not miss a port that goes to sleep. */
static inline void engine_unlock_and_fence(_Atomic uint32_t *word) {
  atomic_exchange_explicit(word, 0, memory_order_seq_cst);
}

#endif
