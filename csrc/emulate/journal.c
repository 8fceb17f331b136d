#include "journal.h"

#include <stdlib.h>
#include <string.h>

void journal_begin(struct device *device) {
  struct journal *journal = &device->journal;
  journal->used = 0;
  journal->write_cq = false;
  journal->fire = false;
  atomic_store_explicit(&journal->entries, 0, memory_order_relaxed);
  atomic_store_explicit(&journal->phase, JOURNAL_CHANGING, memory_order_release);
}

void journal_save(struct device *device, const void *object, size_t length) {
  struct journal *journal = &device->journal;
  const uint32_t entry = atomic_load_explicit(&journal->entries, memory_order_relaxed);
  /* A step is a bounded number of changes; one that does not fit is a defect of this file's users. */
  if (entry == JOURNAL_ENTRIES || journal->used + length > JOURNAL_BYTES) abort();
  memcpy(journal->bytes + journal->used, object, length);
  journal->entry[entry].offset = (uint32_t)((const char *)object - (const char *)device);
  journal->entry[entry].length = (uint32_t)length;
  journal->used += (uint32_t)length;
  /* The entry counts from here on; the caller's writes come after this store. */
  atomic_store_explicit(&journal->entries, entry + 1, memory_order_release);
  atomic_signal_fence(memory_order_seq_cst);
}

void journal_commit(struct device *device) {
  atomic_store_explicit(&device->journal.phase, JOURNAL_COMMITTED, memory_order_release);
  atomic_signal_fence(memory_order_seq_cst);
}

void journal_end(struct device *device) {
  atomic_store_explicit(&device->journal.phase, JOURNAL_IDLE, memory_order_release);
}

void journal_roll_back(struct device *device) {
  struct journal *journal = &device->journal;
  uint32_t at = 0;
  const uint32_t entries = atomic_load_explicit(&journal->entries, memory_order_acquire);
  for (uint32_t i = 0; i < entries; i++) at += journal->entry[i].length;
  for (uint32_t i = entries; i-- > 0;) {
    at -= journal->entry[i].length;
    memcpy((char *)device + journal->entry[i].offset, journal->bytes + at, journal->entry[i].length);
  }
  journal_end(device);
}
