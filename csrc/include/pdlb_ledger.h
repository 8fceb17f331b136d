/* What one worker was given, and what has become of it.
 *
 * Each connection is given once and ends once. Those that are open when the worker is closed have ended then, aborted;
 * when they are closed later, that counts no more.
 *
 * A worker has one port at a time. Those that it has had are numbered from 1; 0 stands for none, for what it accepted
 * by itself. What came by an earlier one was released when that was closed.
 */
#ifndef PDLB_LEDGER_H
#define PDLB_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pdlb_ledger;

/* NULL without memory. */
struct pdlb_ledger *pdlb_ledger_create(void);
void pdlb_ledger_free(struct pdlb_ledger *ledger);

/* Any thread. What is taken and noted between these two is one step to whoever asks for counts, moves or closes. */
void pdlb_ledger_lock(struct pdlb_ledger *ledger);
void pdlb_ledger_unlock(struct pdlb_ledger *ledger);

/* ---- under the lock ------------------------------------------------------------------------------------------------
 */

bool pdlb_ledger_is_closed(const struct pdlb_ledger *ledger);
/* Before anything is taken: 0 if so many connections can be noted, -EPIPE once it is closed, -ENOMEM. */
int pdlb_ledger_prepare(struct pdlb_ledger *ledger, uint32_t most);
/* The worker was given a connection of this listener. There is room for the note. */
void pdlb_ledger_give(struct pdlb_ledger *ledger, uint32_t listener);
/* The number of its port. */
uint32_t pdlb_ledger_port(const struct pdlb_ledger *ledger);
/* It has the next one. */
void pdlb_ledger_move(struct pdlb_ledger *ledger);
/* The port holds `held` elements, `taken` of them new, and has room for `history`. Returns how many of the oldest are
 * to be released, although their connections are open, so that there is room for one more. */
uint32_t pdlb_ledger_release_early(struct pdlb_ledger *ledger, uint32_t taken, uint64_t held, uint32_t history);
/* A connection has ended, `aborted` if not in the ordinary way: as all do once it is closed. Returns whether an element
 * of its port is to be released for it, which it is not if one was released early. */
bool pdlb_ledger_end(struct pdlb_ledger *ledger, uint32_t listener, uint32_t port, bool *aborted);
/* False if it was closed before. */
bool pdlb_ledger_close(struct pdlb_ledger *ledger);

struct pdlb_ledger_counts {
  uint64_t given;          /* of these */
  uint64_t ended;          /* so many are not open any more, */
  uint64_t aborted;        /* of which so many did not end in the ordinary way */
  uint64_t released_early; /* in all */
};
void pdlb_ledger_counts(const struct pdlb_ledger *ledger, struct pdlb_ledger_counts *counts);

/* Of one listener. */
struct pdlb_ledger_entry {
  uint64_t given, ended; /* given 0: it has none */
  uint32_t listener;
};
/* Listeners that it knows: the first that is at `*place` or after it, which is moved past it; NULL after the last. */
const struct pdlb_ledger_entry *pdlb_ledger_next(const struct pdlb_ledger *ledger, uint32_t *place);

#ifdef __cplusplus
}
#endif
#endif
