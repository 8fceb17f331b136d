/* Connections whose PROXY header has not come whole yet. They are looked at as their bytes come, and none keeps another
 * one from its turn: who says nothing is given up after a while, or when others need the place. */
#ifndef PDLB_ACCEPTOR_INTAKE_H
#define PDLB_ACCEPTOR_INTAKE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "pdlb_acceptor.h"

struct waiting;

/* At a time, and for how long, in nanoseconds. Who is silent is closed earlier, if its place is needed. */
#define INTAKE_SIZE 4096u
#define INTAKE_PATIENCE 3000000000ull

/* One thread's, or used under one lock. */
struct intake {
  int epoll_fd; /* readable when there may be something to look at, or somebody is late */
  int timer_fd;
  uint64_t patience;
  struct waiting *table;
  uint32_t size, used;                                      /* places that there are, and that ever were of use */
  uint32_t free, oldest, youngest, first_whole, last_whole; /* places of the table, PDLB_NONE for none */
  uint32_t count;                                           /* connections that it has */
  void (*on_closed)(void *context, uint32_t listener);      /* told of each that it closes; NULL: nobody is */
  void *context;
  _Atomic uint64_t broken, late,
      gone; /* closed: what came is no header; it did not come in time; the client left before */
};

/* Result: 0 or -errno. */
int intake_init(struct intake *intake, uint32_t size, uint64_t patience);
/* Closes what it has. */
void intake_free(struct intake *intake);
/* The connection is the intake's from now on. `optional`: one without a header is as good. */
void intake_add(struct intake *intake, const struct pdlb_accepted *accepted, bool optional);
/* Look at what has come, and who is late. Returns when to look again, whatever comes. */
uint64_t intake_look(struct intake *intake, uint64_t now);
/* Close what waits for a header still. */
void intake_end(struct intake *intake);
/* How many were closed. */
static inline uint64_t intake_closed(const struct intake *intake) {
  return atomic_load_explicit(&intake->broken, memory_order_relaxed) +
         atomic_load_explicit(&intake->late, memory_order_relaxed) +
         atomic_load_explicit(&intake->gone, memory_order_relaxed);
}
static inline bool intake_has_whole(const struct intake *intake) { return intake->first_whole != PDLB_NONE; }
/* A connection of which the header was read; the caller's from then on. False if there is none. */
bool intake_take(struct intake *intake, struct pdlb_accepted *accepted);

#endif
