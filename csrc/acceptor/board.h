/* What lies on the board. */
#ifndef PDLB_ACCEPTOR_BOARD_H
#define PDLB_ACCEPTOR_BOARD_H

#include <stdalign.h>
#include <stdatomic.h>

#include "pdlb_receiver.h"
#include "shelf.h"

/* Permits say which listener they are for, and when they were sent: microseconds, of which 40 bits are enough to tell
 * how long ago that was. */
#define PERMIT_LISTENER_BITS 24
#define PERMIT_LISTENERS (1u << PERMIT_LISTENER_BITS)

static inline uint64_t permit_make(uint32_t listener, uint64_t now) {
  return now / 1000 << PERMIT_LISTENER_BITS | (listener & (PERMIT_LISTENERS - 1));
}
static inline uint32_t permit_listener(uint64_t permit) { return (uint32_t)(permit & (PERMIT_LISTENERS - 1)); }
static inline uint64_t permit_age_us(uint64_t permit, uint64_t now) {
  return ((now / 1000) - (permit >> PERMIT_LISTENER_BITS)) & ((1ull << (64 - PERMIT_LISTENER_BITS)) - 1);
}

/* No listener's number: the connection lies on the worker's shelf. */
#define PERMIT_SHELF (PERMIT_LISTENERS - 1)

/* Connections of one listener. */
struct seat_listener {
  _Atomic uint64_t accepted, closed;
};

/* Written by one process, and after its death by the one that buries it. */
struct seat {
  alignas(128) _Atomic uint64_t held; /* permits received */
  _Atomic uint64_t settled;           /* of these, used: a connection was accepted and counted, or none was there */
  _Atomic uint64_t permitted;         /* of those accepted, by itself from a backlog; the others lay on its shelf */
  _Atomic uint64_t accepted, served, aborted, empty, gone, backoffs;
  _Atomic uint32_t last_errno;
  _Atomic uint64_t beat_at, late_ns;
  _Atomic uint64_t handoff[PDLB_HANDOFF_BUCKETS];
  struct seat_listener listeners[PDLB_SEAT_LISTENERS];
};

struct board_head {
  uint64_t magic, size;
  uint32_t seats;
  _Atomic uint32_t calls; /* ring the bell when a connection was taken or closed */
};

struct pdlb_board {
  struct board_head *head; /* the memory */
  struct seat *seats;
  int fd, bell_fd;
};

static inline void board_count(_Atomic uint64_t *counter) {
  atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* The bucket of a hand-off histogram. */
static inline uint32_t board_bucket(uint64_t microseconds) {
  const uint32_t bucket = microseconds ? 64u - (uint32_t)__builtin_clzll(microseconds) : 0;
  return bucket < PDLB_HANDOFF_BUCKETS ? bucket : PDLB_HANDOFF_BUCKETS - 1;
}

/* Any process: the acceptor wants to know if something changes. */
static inline void board_want_call(struct pdlb_board *board, bool wanted) {
  atomic_store_explicit(&board->head->calls, wanted, memory_order_seq_cst);
}
/* Something has changed. */
void board_call(struct pdlb_board *board);

/* Connections that are open in all processes. */
uint64_t board_open(const struct pdlb_board *board);

static inline uint64_t seat_open(const struct seat *seat) {
  const uint64_t closed = atomic_load_explicit(&seat->aborted, memory_order_seq_cst) +
                          atomic_load_explicit(&seat->served, memory_order_seq_cst);
  const uint64_t accepted = atomic_load_explicit(&seat->accepted, memory_order_seq_cst);
  return accepted > closed ? accepted - closed : 0;
}

/* Of a seat's connections, those that it took from its shelf. */
static inline uint64_t seat_unshelved(const struct seat *seat) {
  const uint64_t accepted = atomic_load_explicit(&seat->accepted, memory_order_seq_cst);
  const uint64_t permitted = atomic_load_explicit(&seat->permitted, memory_order_seq_cst);
  return accepted > permitted ? accepted - permitted : 0;
}

/* Permits that a seat has received and not used yet. */
static inline uint64_t board_in_hand(const struct seat *seat) {
  const uint64_t settled = atomic_load_explicit(&seat->settled, memory_order_acquire);
  const uint64_t held = atomic_load_explicit(&seat->held, memory_order_relaxed);
  return held > settled ? held - settled : 0;
}

#endif
