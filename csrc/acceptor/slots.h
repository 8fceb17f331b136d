/* Where accepted connections wait, each under a token that is good for one take. */
#ifndef PDLB_ACCEPTOR_SLOTS_H
#define PDLB_ACCEPTOR_SLOTS_H

#include <stdatomic.h>

#include "pdlb_acceptor.h"

struct slot {
  _Atomic uint32_t word;       /* generation * 2, + 1 while a connection waits here */
  _Atomic uint32_t next_free;  /* index + 1 */
  _Atomic uint64_t overdue_at; /* when it may be taken back, though nobody was picked for it */
  _Atomic uint32_t picked;     /* the worker that was picked for it: to be looked at by who has not got it */
  struct pdlb_accepted accepted;
};

/* Any thread puts, any takes. */
struct slots {
  struct slot *slot;
  uint32_t count;
  _Atomic uint64_t free; /* index + 1 of the first free slot, and above it a count that makes each head unique */
};

int slots_init(struct slots *slots, uint32_t count);
void slots_free(struct slots *slots);
/* Get a slot to put a connection into, and the token that will name it; false if there is none. */
bool slots_reserve(struct slots *slots, uint64_t *token);
/* It is not needed after all. */
void slots_give_back(struct slots *slots, uint64_t token);
/* From now on whoever has the token can take it. */
void slots_put(struct slots *slots, uint64_t token, const struct pdlb_accepted *accepted, uint64_t overdue_at);
/* When what waits in a slot is overdue; PDLB_FOREVER where nothing does. */
uint64_t slots_overdue_at(const struct slots *slots, uint32_t index);
/* Take a connection, but keep its slot, to put it there again under the new token; false if it does not wait. */
bool slots_withdraw(struct slots *slots, uint64_t old, uint64_t *token, struct pdlb_accepted *accepted);
/* The same, of whatever waits in a slot; `nobodys`: only if no worker was picked for it. */
bool slots_withdraw_at(struct slots *slots, uint32_t index, bool nobodys, uint64_t *token,
                       struct pdlb_accepted *accepted);
/* Whether the connection that the token names still waits. */
bool slots_waits(const struct slots *slots, uint64_t token);
bool slots_take(struct slots *slots, uint64_t token, struct pdlb_accepted *accepted);
bool slots_take_any(struct slots *slots, struct pdlb_accepted *accepted);

#endif
