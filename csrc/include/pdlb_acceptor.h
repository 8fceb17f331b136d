/* A thread that accepts connections and sends them through a load-balanced queue to whoever has room.
 *
 * A connection has one owner at each instant: the kernel's backlog, a slot of the acceptor, or whoever took it from
 * there. What travels through the queue is a token that names the slot and its generation, never a descriptor: a
 * token that is stale, or comes twice, gives nothing.
 *
 * The acceptor is also the clock of its domain: it hands on what a chosen worker does not come for.
 */
#ifndef PDLB_ACCEPTOR_H
#define PDLB_ACCEPTOR_H

#include "pdlb.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pdlb_acceptor;

struct pdlb_acceptor_config {
  uint32_t queue; /* id of the load-balanced queue to send to */
  uint32_t slots; /* accepted connections that may wait at a time; beyond that they stay in the kernel's backlog */
  uint32_t batch; /* connections taken from one listener before the next one has its turn */
  bool blocking;  /* what the accepted descriptors are */
  bool permits;   /* accept nothing: leave connections in the backlog, and send permits to accept them, whose data is
                     the listener's id. For workers in other processes: one that dies takes nothing along. */
};

/* Starts the thread. `port` is the acceptor's alone from now on; it and the domain must outlive it. The domain's
 * clock is set to be external. */
int pdlb_acceptor_start(struct pdlb_domain *domain, struct pdlb_port *port, const struct pdlb_acceptor_config *config,
                        struct pdlb_acceptor **acceptor, struct pdlb_error *error);

/* Any thread. `fd` is a listening, non-blocking socket; the acceptor uses a duplicate of its own. Result: the
 * listener's id, never given twice, which says of each connection where it came from. */
int pdlb_acceptor_add(struct pdlb_acceptor *acceptor, int fd, struct pdlb_error *error);
/* Any thread. Accept from it no more; `drain`: after the connections that are in its backlog now. */
int pdlb_acceptor_remove(struct pdlb_acceptor *acceptor, uint32_t listener, bool drain, struct pdlb_error *error);
/* Any thread. Whether it is still accepted from. */
bool pdlb_acceptor_listens(struct pdlb_acceptor *acceptor, uint32_t listener);
/* Any thread. Leave connections in all backlogs (true), or go on (false). */
void pdlb_acceptor_pause(struct pdlb_acceptor *acceptor, bool paused);

/* Keep new clients from connecting to a listening socket that is about to be closed, so that its backlog can be
 * emptied for good: closing resets what is in it. A client that comes now is refused once the socket is closed. */
int pdlb_listener_shut(int fd);

/* A connection, and what is known of it. */
struct pdlb_accepted {
  int fd; /* close-on-exec; the taker's from now on */
  uint32_t listener;
  int family, protocol; /* of the listener's socket, and so of this one */
  uint64_t accepted_at; /* ns */
};

/* Any thread. Take the connection that a received element's data names: 0, or -ESTALE. */
int pdlb_acceptor_take(struct pdlb_acceptor *acceptor, uint64_t token, struct pdlb_accepted *accepted);
/* Any thread, once nobody receives any more: take any connection that still waits: 0, or -ENOENT. */
int pdlb_acceptor_take_left(struct pdlb_acceptor *acceptor, struct pdlb_accepted *accepted);

/* Any thread. Accept what is in the backlogs, but no longer than `drain_until`, then no more. Of several calls the
 * earliest time counts. What waits is handed on until the end. */
void pdlb_acceptor_stop(struct pdlb_acceptor *acceptor, uint64_t drain_until);
/* Any thread. True once it has stopped, false at the deadline. */
bool pdlb_acceptor_wait(struct pdlb_acceptor *acceptor, uint64_t deadline);
/* Once. Stops it at once if it has not stopped, and ends the thread. */
void pdlb_acceptor_end(struct pdlb_acceptor *acceptor);
/* After the end. Closes what still waits. */
void pdlb_acceptor_free(struct pdlb_acceptor *acceptor);

#define PDLB_HANDOFF_BUCKETS 32u

struct pdlb_acceptor_stats {
  uint64_t accepted; /* taken from a backlog: taken + waiting */
  uint64_t taken;
  uint64_t drained;                       /* of those accepted, after the order to stop or to drain the listener */
  uint64_t aborted;                       /* given up by the client before they could be accepted */
  uint64_t held_up;                       /* times that all slots were taken, or no credit was left */
  uint64_t backoffs;                      /* times that accept failed for want of descriptors or memory */
  uint32_t last_errno;                    /* of the last of these, or of a listener that failed for good */
  uint64_t handoff[PDLB_HANDOFF_BUCKETS]; /* times from accept to take: bucket n counts those below 2^n microseconds */
};
/* Any thread. */
void pdlb_acceptor_stats(const struct pdlb_acceptor *acceptor, struct pdlb_acceptor_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
