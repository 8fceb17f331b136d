/* Workers that are processes of their own: a board of counts that all of them share, and how each accepts.
 *
 * Where nobody is picked, a worker accepts from the backlog by a permit. What a worker was picked for was accepted
 * before, and lies on its shelf until it takes it from there.
 *
 * The process with the acceptor makes the board. Every worker has a seat on it, which it alone writes while it lives,
 * so that what it does can be read without asking it, and is known after it has died.
 */
#ifndef PDLB_RECEIVER_H
#define PDLB_RECEIVER_H

#include "pdlb_acceptor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PDLB_MAX_SEATS 1024u

struct pdlb_board;

int pdlb_board_create(uint32_t seats, struct pdlb_board **board, struct pdlb_error *error);
/* `fd`, `bell_fd`: as the two below say, passed to another process; they stay the caller's. */
int pdlb_board_join(int fd, int bell_fd, struct pdlb_board **board, struct pdlb_error *error);
int pdlb_board_fd(const struct pdlb_board *board);
/* By which workers call the acceptor. */
int pdlb_board_bell_fd(const struct pdlb_board *board);
uint32_t pdlb_board_seats(const struct pdlb_board *board);
void pdlb_board_close(struct pdlb_board *board);

struct pdlb_seat_stats {
  uint64_t accepted;  /* open + served + aborted */
  uint64_t permitted; /* of these, by itself from a backlog; the others lay on its shelf */
  uint64_t served;
  uint64_t aborted;
  uint64_t in_hand;  /* permits that it received, and is about to use */
  uint64_t empty;    /* permits that found no connection */
  uint64_t gone;     /* connections given up by the client before they could be accepted */
  uint64_t backoffs; /* times that accept failed for want of descriptors or memory */
  uint32_t last_errno;
  uint64_t beat_at;                       /* when its event loop last turned, ns; 0: it never said */
  uint64_t late_ns;                       /* how late that was */
  uint64_t handoff[PDLB_HANDOFF_BUCKETS]; /* as the acceptor's, from permit to accept */
};

/* For all of these: any thread, of any process. `seat` is below pdlb_board_seats. */

void pdlb_board_stats(const struct pdlb_board *board, uint32_t seat, struct pdlb_seat_stats *stats);
/* Connections of one listener, and those of them that are closed. */
#define PDLB_SEAT_LISTENERS 256u /* beyond so many, later listeners share counts with earlier ones */
void pdlb_board_listener(const struct pdlb_board *board, uint32_t seat, uint32_t listener, uint64_t *accepted,
                         uint64_t *closed);
/* A new worker will sit there: count from nothing. */
void pdlb_board_clear(struct pdlb_board *board, uint32_t seat);
/* Its process has ended: what it still had counts as aborted, and what it was about to accept is left to others.
 * Returns how many connections it had. */
uint64_t pdlb_board_bury(struct pdlb_board *board, uint32_t seat);
/* The worker: its event loop has turned, `late_ns` after it was to. */
void pdlb_board_beat(struct pdlb_board *board, uint32_t seat, uint64_t late_ns);
/* The worker: a connection that it accepted is closed. */
void pdlb_board_closed(struct pdlb_board *board, uint32_t seat, uint32_t listener, bool aborted);

/* The listener that a permit is for. */
uint32_t pdlb_permit_listener(uint64_t permit);

/* ---- accepting, in the worker --------------------------------------------------------------------------------------
 */

struct pdlb_receiver;

/* The board must outlive it. `blocking`: what the accepted descriptors are. */
int pdlb_receiver_create(struct pdlb_board *board, uint32_t seat, bool blocking, struct pdlb_receiver **receiver,
                         struct pdlb_error *error);
void pdlb_receiver_free(struct pdlb_receiver *receiver);
/* Any thread. `listener`: its number for the acceptor; `fd`: of the same socket, of which a duplicate is kept. */
int pdlb_receiver_add(struct pdlb_receiver *receiver, uint32_t listener, int fd, enum pdlb_proxy proxy,
                      struct pdlb_error *error);
/* Any thread. Let go of the socket. */
void pdlb_receiver_remove(struct pdlb_receiver *receiver, uint32_t listener);
/* Before the first permit: where connections lie that the worker was picked for, as pdlb_acceptor_worker_seat said;
 * a duplicate is kept. */
int pdlb_receiver_set_shelf(struct pdlb_receiver *receiver, int fd, struct pdlb_error *error);
/* Any thread. So many permits were received, and will be used in a moment. */
void pdlb_receiver_hold(struct pdlb_receiver *receiver, uint32_t permits);
/* Any thread. Use one: accept a connection, or take it from the shelf: 0; -EAGAIN if none waits any more, -ENOENT if
 * there is no such listener (yet), or what accept says. Without a connection the permit is worth nothing, and to be
 * released; but with -EINPROGRESS there is one, whose PROXY header has not come. */
int pdlb_receiver_accept(struct pdlb_receiver *receiver, uint64_t permit, struct pdlb_accepted *accepted);

/* A descriptor that is readable when headers have come, or were due. */
int pdlb_receiver_headers_fd(const struct pdlb_receiver *receiver);
/* Any thread. A connection whose header has come since: 0, or -ENOENT if there is none now. `given_up`: how many were
 * closed meanwhile for want of a header; they count as aborted, and their permits are to be released. */
int pdlb_receiver_collect(struct pdlb_receiver *receiver, struct pdlb_accepted *accepted, uint32_t *given_up);

#ifdef __cplusplus
}
#endif
#endif
