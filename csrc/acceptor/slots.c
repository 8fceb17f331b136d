#include "slots.h"

#include <errno.h>
#include <stdlib.h>

#define HEAD(value) ((uint32_t)(value))

static void push_free(struct slots *slots, uint32_t index) {
  uint64_t head = atomic_load_explicit(&slots->free, memory_order_relaxed);
  uint64_t next;
  do {
    atomic_store_explicit(&slots->slot[index].next_free, HEAD(head), memory_order_relaxed);
    next = ((head >> 32) + 1) << 32 | (index + 1);
  } while (
      !atomic_compare_exchange_weak_explicit(&slots->free, &head, next, memory_order_release, memory_order_relaxed));
}

/* False if there is none. */
static bool pop_free(struct slots *slots, uint32_t *index) {
  uint64_t head = atomic_load_explicit(&slots->free, memory_order_acquire), next;
  do {
    if (HEAD(head) == 0) return false;
    const uint32_t after = atomic_load_explicit(&slots->slot[HEAD(head) - 1].next_free, memory_order_relaxed);
    next = ((head >> 32) + 1) << 32 | after;
  } while (
      !atomic_compare_exchange_weak_explicit(&slots->free, &head, next, memory_order_acquire, memory_order_acquire));
  *index = HEAD(head) - 1;
  return true;
}

int slots_init(struct slots *slots, uint32_t count) {
  slots->slot = calloc(count, sizeof *slots->slot);
  if (!slots->slot) return -ENOMEM;
  slots->count = count;
  atomic_init(&slots->free, 0);
  for (uint32_t index = count; index-- > 0;) push_free(slots, index);
  return 0;
}

void slots_free(struct slots *slots) { free(slots->slot); }

bool slots_reserve(struct slots *slots, uint64_t *token) {
  uint32_t index;
  if (!pop_free(slots, &index)) return false;
  *token = (uint64_t)atomic_load_explicit(&slots->slot[index].word, memory_order_relaxed) << 32 | index;
  return true;
}

void slots_give_back(struct slots *slots, uint64_t token) { push_free(slots, (uint32_t)token); }

void slots_put(struct slots *slots, uint64_t token, const struct pdlb_accepted *accepted, uint64_t overdue_at) {
  struct slot *slot = &slots->slot[(uint32_t)token];
  slot->accepted = *accepted;
  atomic_store_explicit(&slot->overdue_at, overdue_at, memory_order_relaxed);
  atomic_store_explicit(&slot->picked, accepted->worker, memory_order_relaxed);
  atomic_store_explicit(&slot->word, (uint32_t)(token >> 32) + 1, memory_order_release);
}

uint64_t slots_overdue_at(const struct slots *slots, uint32_t index) {
  const struct slot *slot = &slots->slot[index];
  if (!(atomic_load_explicit(&slot->word, memory_order_acquire) & 1)) return PDLB_FOREVER;
  return atomic_load_explicit(&slot->overdue_at, memory_order_relaxed);
}

bool slots_waits(const struct slots *slots, uint64_t token) {
  const uint32_t word = (uint32_t)(token >> 32);
  return atomic_load_explicit(&slots->slot[(uint32_t)token].word, memory_order_relaxed) == (word | 1);
}

/* Whoever moves the word on owns the connection, and the slot. */
static bool take_word(struct slots *slots, uint32_t index, uint32_t word, struct pdlb_accepted *accepted) {
  struct slot *slot = &slots->slot[index];
  uint32_t waiting = word | 1;
  if (!atomic_compare_exchange_strong_explicit(&slot->word, &waiting, word + 2, memory_order_acquire,
                                               memory_order_relaxed))
    return false;
  *accepted = slot->accepted;
  return true;
}

bool slots_withdraw(struct slots *slots, uint64_t old, uint64_t *token, struct pdlb_accepted *accepted) {
  const uint32_t index = (uint32_t)old, word = (uint32_t)(old >> 32);
  *token = (uint64_t)(word + 2) << 32 | index;
  return take_word(slots, index, word, accepted);
}

bool slots_withdraw_at(struct slots *slots, uint32_t index, bool nobodys, uint64_t *token,
                       struct pdlb_accepted *accepted) {
  struct slot *slot = &slots->slot[index];
  const uint32_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
  if (!(word & 1) || (nobodys && atomic_load_explicit(&slot->picked, memory_order_relaxed) != PDLB_NONE)) return false;
  return slots_withdraw(slots, (uint64_t)(word & ~1u) << 32 | index, token, accepted);
}

bool slots_take(struct slots *slots, uint64_t token, struct pdlb_accepted *accepted) {
  const uint32_t index = (uint32_t)token, word = (uint32_t)(token >> 32);
  if (index >= slots->count || (word & 1) || !take_word(slots, index, word, accepted)) return false;
  push_free(slots, index);
  return true;
}

bool slots_take_any(struct slots *slots, struct pdlb_accepted *accepted) {
  for (uint32_t index = 0; index < slots->count; index++) {
    const uint32_t word = atomic_load_explicit(&slots->slot[index].word, memory_order_acquire);
    if (!(word & 1) || !take_word(slots, index, word & ~1u, accepted)) continue;
    push_free(slots, index);
    return true;
  }
  return false;
}
