/* Where accepted connections wait, each under a token that is good for one take. */
#ifndef PDLB_ACCEPTOR_SLOTS_H
#define PDLB_ACCEPTOR_SLOTS_H

#include <stdatomic.h>

#include "pdlb_acceptor.h"

struct slot {
  _Atomic uint32_t word;      /* generation * 2, + 1 while a connection waits here */
  _Atomic uint32_t next_free; /* index + 1 */
  struct pdlb_accepted accepted;
};

/* One thread puts, many take. */
struct slots {
  struct slot *slot;
  uint32_t count;
  _Atomic uint64_t free; /* index + 1 of the first free slot, and above it a count that makes each head unique */
};

int slots_init(struct slots *slots, uint32_t count);
void slots_free(struct slots *slots);
bool slots_full(const struct slots *slots);
/* There must be a free slot. Returns the token. */
uint64_t slots_put(struct slots *slots, const struct pdlb_accepted *accepted);
bool slots_take(struct slots *slots, uint64_t token, struct pdlb_accepted *accepted);
bool slots_take_any(struct slots *slots, struct pdlb_accepted *accepted);

#endif
