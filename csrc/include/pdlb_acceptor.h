/* A thread that accepts connections and sends them to workers: through one load-balanced queue to whoever has room, or
 * to the worker that a policy picks, through that worker's own queue.
 *
 * A connection has one owner at each instant: the kernel's backlog, a slot of the acceptor, or whoever took it from
 * there. What travels through the queue is a token that names the slot and its generation, never a descriptor: a
 * token that is stale, or comes twice, gives nothing.
 *
 * The acceptor is also the clock of its domain: it hands on what a chosen worker does not come for.
 */
#ifndef PDLB_ACCEPTOR_H
#define PDLB_ACCEPTOR_H

#include <sys/socket.h>

#include "pdlb.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pdlb_acceptor;
struct pdlb_board; /* pdlb_receiver.h */

struct pdlb_acceptor_config {
  uint32_t queue; /* id of the load-balanced queue for what no worker is picked for; PDLB_NONE where there is none: it
                     goes to the worker that has least to do */
  uint32_t slots; /* accepted connections that may wait at a time; beyond that they stay in the kernel's backlog */
  uint32_t batch; /* connections taken from one listener before the next one has its turn */
  bool blocking;  /* what the accepted descriptors are */
  struct pdlb_board *board; /* not NULL: workers are in other processes, and one that dies takes nothing along. Where
                               nobody is picked, connections stay in the backlog, and what is sent are permits to
                               accept them; where somebody is, they are accepted and put on that worker's shelf.
                               pdlb_receiver_accept uses both. The board must outlive the acceptor. */
  bool directed;            /* the workers' own queues are directed ones */
  bool holds;      /* what the queue gives stands before a worker at once, as on a device: from one that does not
                      come it is taken back when another one waits */
  bool by_workers; /* workers accept by themselves, with pdlb_acceptor_accept */
};

/* Starts the thread. `port` is the acceptor's alone from now on; it and the domain must outlive it. The domain's
 * clock is set to be external. */
int pdlb_acceptor_start(struct pdlb_domain *domain, struct pdlb_port *port, const struct pdlb_acceptor_config *config,
                        struct pdlb_acceptor **acceptor, struct pdlb_error *error);

/* Any thread. `fd` is a listening, non-blocking socket; the acceptor uses a duplicate of its own. Result: the
 * listener's id, never given twice, which says of each connection where it came from. */
int pdlb_acceptor_add(struct pdlb_acceptor *acceptor, int fd, struct pdlb_error *error);

/* Whether connections begin with a header of the PROXY protocol, version 1 or 2, by which a proxy says for whom it
 * speaks. A connection is handed on when its header was read, and counts as that client's. Where one is required, what
 * begins otherwise is closed; and so is whoever has not said all of it within three seconds. */
enum pdlb_proxy { PDLB_PROXY_NONE = 0, PDLB_PROXY_OPTIONAL, PDLB_PROXY_REQUIRED };
int pdlb_acceptor_add_proxied(struct pdlb_acceptor *acceptor, int fd, enum pdlb_proxy proxy, struct pdlb_error *error);
/* Any thread. Accept from it no more; `drain`: after the connections that are in its backlog now. */
int pdlb_acceptor_remove(struct pdlb_acceptor *acceptor, uint32_t listener, bool drain, struct pdlb_error *error);
/* Any thread. Whether it is still accepted from. */
bool pdlb_acceptor_listens(struct pdlb_acceptor *acceptor, uint32_t listener);
/* Any thread. Leave connections in all backlogs (true), or go on (false). */
void pdlb_acceptor_pause(struct pdlb_acceptor *acceptor, bool paused);

/* ---- another domain ------------------------------------------------------------------------------------------------
 * What is accepted waits in the acceptor, not in the domain: so a domain can be replaced, with nothing lost. */

struct pdlb_worker_queue {
  uint32_t worker, queue;
};

struct pdlb_destination {
  struct pdlb_domain *domain;
  struct pdlb_port *port; /* the acceptor's alone from now on */
  uint32_t queue;         /* as in pdlb_acceptor_config, as are `directed` and `holds` */
  bool directed, holds;
  const struct pdlb_worker_queue *queues; /* of workers that have one of their own */
  uint32_t num_queues;
};

/* Any thread. Send through another domain, and what waits again: tokens of the old one are stale then. Followed by
 * pdlb_acceptor_moved, and not before that by another move. */
int pdlb_acceptor_move(struct pdlb_acceptor *acceptor, const struct pdlb_destination *move, struct pdlb_error *error);

/* Any thread. Wait until the accepting thread has moved: the old domain and port are not used any more. */
int pdlb_acceptor_moved(struct pdlb_acceptor *acceptor, struct pdlb_error *error);

/* Any thread. Wait until the domain is in trouble: until it refuses what is sent, other than for want of credits, or
 * somebody has reported. Result: why, or PDLB_TAKEN at the deadline, at the acceptor's end, or once it is unwatched. */
enum pdlb_refusal pdlb_acceptor_trouble(struct pdlb_acceptor *acceptor, uint64_t deadline);
/* Any thread. Say that it is; until the next move. */
void pdlb_acceptor_report(struct pdlb_acceptor *acceptor, enum pdlb_refusal trouble);
/* Any thread. Nobody needs to know of trouble any more: who waits for it returns, now and later. */
void pdlb_acceptor_unwatch(struct pdlb_acceptor *acceptor);

/* ---- workers, and who is picked ------------------------------------------------------------------------------------
 * A worker is known by a handle, which is never given twice. Its connections are counted from the moment at which it
 * is picked for them, or takes them from the queue that all share, until pdlb_acceptor_closed. */

/* Any thread. `queue`: a load-balanced queue that feeds this worker's port alone, for what it is picked for; PDLB_NONE
 * if it has none, and is not picked. Result 0 or -ENOSPC, -ENOMEM. */
int pdlb_acceptor_worker_add(struct pdlb_acceptor *acceptor, uint32_t queue, uint32_t *worker,
                             struct pdlb_error *error);
/* Any thread. It is not picked any more; what waits for it goes to others. */
void pdlb_acceptor_worker_remove(struct pdlb_acceptor *acceptor, uint32_t worker);
/* Any thread. The same until it is over. */
void pdlb_acceptor_worker_pause(struct pdlb_acceptor *acceptor, uint32_t worker, bool paused);
/* Any thread. As in worker_add. */
void pdlb_acceptor_worker_queue(struct pdlb_acceptor *acceptor, uint32_t worker, uint32_t queue);
/* Any thread. Its share: twice the weight, twice the connections; 0 for none. A new worker has PDLB_WEIGHT. */
void pdlb_acceptor_worker_weigh(struct pdlb_acceptor *acceptor, uint32_t worker, uint32_t weight);
#define PDLB_WEIGHT 1000u
#define PDLB_MAX_WEIGHT 1000000u

/* Of a worker that is a process: before anything else, the seat at which it counts. Result: a descriptor of its shelf,
 * for pdlb_receiver_set_shelf, which stays the acceptor's; or -errno. If the process dies, another one may go on. */
int pdlb_acceptor_worker_seat(struct pdlb_acceptor *acceptor, uint32_t worker, uint32_t seat, struct pdlb_error *error);
/* Any thread. Its process has ended, and no other one has begun. Before pdlb_board_bury. */
void pdlb_acceptor_worker_bury(struct pdlb_acceptor *acceptor, uint32_t worker);

struct pdlb_worker_stats {
  uint32_t open;    /* picked for it or taken by it, and not closed */
  uint32_t waiting; /* of these, not taken yet */
  bool stalled;     /* it did not come in time for what waited for it */
};
/* Any thread; waits for nobody. */
void pdlb_acceptor_worker_stats(struct pdlb_acceptor *acceptor, uint32_t worker, struct pdlb_worker_stats *stats);

enum pdlb_policy {
  PDLB_POLICY_QUEUE = 0, /* nobody is picked: the queue that all share gives it to who comes */
  PDLB_POLICY_EXACT,     /* the fewest connections */
  PDLB_POLICY_ROUND_ROBIN,
  PDLB_POLICY_RANDOM,
  PDLB_POLICY_LEAST,  /* the fewest connections of a few that are drawn */
  PDLB_POLICY_HASH,   /* by the client's address, as long as that worker has not much more than its share */
  PDLB_POLICY_LOCAL,  /* who accepted it; nobody if the thread did */
  PDLB_POLICY_CALLER, /* whom `pick` names */
};

/* Who is picked of several with as few connections. */
enum pdlb_tie {
  PDLB_TIE_ROTATE = 0, /* the next one in turn */
  PDLB_TIE_FIRST,      /* the one that was added first */
  PDLB_TIE_LOCAL,      /* the one that accepted it, else the first */
};

struct pdlb_arrival {
  uint32_t listener;
  uint32_t current; /* the worker that accepted it, PDLB_NONE if none did */
  int family;
  uint32_t address_size;
  const void *address; /* the client's, a struct sockaddr */
};

struct pdlb_policy_config {
  enum pdlb_policy policy;
  uint32_t queue; /* the load-balanced queue for what no worker is picked for, or PDLB_NONE */
  enum pdlb_tie tie;
  uint32_t choices;  /* LEAST: how many are drawn */
  double bound;      /* HASH: a worker has at most so many times its share, more than 1 */
  bool per_listener; /* EXACT, LEAST, HASH: count connections of the same listener only */
  uint64_t seed;     /* RANDOM, LEAST */
  uint64_t grace_ns; /* a worker that does not come for so long loses what waits for it, if another one is idle */
  /* CALLER: a worker, or PDLB_NONE. Called on the accepting thread, or by pdlb_acceptor_accept, never by who leads; and
   * with no lock held that others wait for. */
  uint32_t (*pick)(void *context, const struct pdlb_arrival *arrival);
  void *context;
};
/* Any thread. From the next connection on. */
int pdlb_acceptor_set_policy(struct pdlb_acceptor *acceptor, const struct pdlb_policy_config *config,
                             struct pdlb_error *error);

/* ---- limits --------------------------------------------------------------------------------------------------------
 */

enum pdlb_when_full {
  PDLB_FULL_PAUSE = 0, /* leave connections in the backlog */
  PDLB_FULL_RESET,     /* accept and reset them */
  PDLB_FULL_REPLY,     /* accept them, send the reply, and close */
  PDLB_FULL_OVERFLOW,  /* only where all workers are at their limit: give them to whom the policy picks, all the same */
};

/* A limit that was reached holds until no more than `..._again` are left. */
struct pdlb_connection_limits {
  uint32_t total, total_again; /* accepted and not closed; 0: no limit */
  uint32_t worker,
      worker_again; /* picked for one worker and not closed; 0: no limit. Nobody who has so many is picked */
  enum pdlb_when_full when_full;
  const void *reply;
  uint32_t reply_size;
};
/* Any thread. From the next connection on. */
int pdlb_acceptor_set_limits(struct pdlb_acceptor *acceptor, const struct pdlb_connection_limits *limits,
                             struct pdlb_error *error);

/* Keep new clients from connecting to a listening socket that is about to be closed, so that its backlog can be
 * emptied for good: closing resets what is in it. A client that comes now is refused once the socket is closed. */
int pdlb_listener_shut(int fd);

/* For whom a proxy speaks, by the header of the PROXY protocol. */
struct pdlb_proxied {
  uint32_t client_size, server_size; /* of what follows */
  struct sockaddr_storage client;    /* who connected to the proxy, and to what */
  struct sockaddr_storage server;
};

/* A connection, and what is known of it. */
struct pdlb_accepted {
  int fd; /* close-on-exec; the taker's from now on */
  uint32_t listener;
  int family, protocol;         /* of the listener's socket, and so of this one */
  uint32_t worker;              /* that was picked for it, PDLB_NONE if none was */
  uint64_t accepted_at;         /* ns */
  uint32_t offers;              /* times that it was taken back, as it stood before a worker that did not come */
  struct pdlb_proxied *proxied; /* the taker's from now on, to be freed; NULL if no proxy named anybody */
};

/* ---- workers that accept by themselves ------------------------------------------------------------------------------
 * Each through a port of its own to send by, as Envoy's workers do. The accepting thread does what they do not: it
 * refuses at a limit, reads PROXY headers, empties listeners that are removed, and what is in the backlogs at the end.
 */

/* A worker's means: the port is its thread's alone while it calls. */
struct pdlb_lane {
  struct pdlb_port *port;
  uint32_t worker;
  uint32_t
      retries; /* how often what is refused for want of a credit is sent again at once, for a millisecond at most */
};

/* Any thread. Readable while there may be something for workers to accept; -1 if they do not. */
int pdlb_acceptor_door(const struct pdlb_acceptor *acceptor);
/* Any thread, one at a time for each lane. Accept up to `max` connections, at most 64, and hand them on as the policy
 * says. Those that stay are written to `kept`: their worker was picked for them, or they could not be sent. They are
 * taken; result: how many. */
uint32_t pdlb_acceptor_accept(struct pdlb_acceptor *acceptor, const struct pdlb_lane *lane, uint32_t max,
                              struct pdlb_accepted *kept);

/* ---- the worker that comes next accepts -----------------------------------------------------------------------------
 * Where workers are event loops, and connections come one at a time, the accepting thread lets that worker accept that
 * would be chosen for the next one, while it sleeps: so one thread is woken for it, not two. */

/* Any thread. The worker sleeps in an epoll set of its own, in which `mark` stands for its port, whose id is `port`:
 * what is ready under that mark makes it receive, with these two calls around. `set` -1: it does not any more, and the
 * set is not touched again. */
int pdlb_acceptor_worker_loop(struct pdlb_acceptor *acceptor, uint32_t worker, int set, uint64_t mark, uint32_t port,
                              struct pdlb_error *error);
/* The worker's thread, before it receives from `port`, without a wait. True if it accepted something: then, after the
 * receive, it has led. Where nothing that was accepted waits by then, that may be said later: until then the thread
 * accepts what comes while the worker does not sleep. */
bool pdlb_acceptor_lead(struct pdlb_acceptor *acceptor, uint32_t worker, struct pdlb_port *port);
void pdlb_acceptor_led(struct pdlb_acceptor *acceptor);
/* Any thread. Whether something that was accepted waits to be taken. */
bool pdlb_acceptor_waits(const struct pdlb_acceptor *acceptor);

/* Any thread. Take the connection that a received element's data names, for a worker, which has it from then on: 0,
 * or -ESTALE. `worker` may be PDLB_NONE: nobody's count then. */
int pdlb_acceptor_take(struct pdlb_acceptor *acceptor, uint32_t worker, uint64_t token, struct pdlb_accepted *accepted);
/* Any thread. The worker looked for connections; `waits`: there were none, and it waits for the next one. */
void pdlb_acceptor_came(struct pdlb_acceptor *acceptor, uint32_t worker, bool waits);
/* Any thread. A connection that the worker took is closed. */
void pdlb_acceptor_closed(struct pdlb_acceptor *acceptor, uint32_t worker, uint32_t listener);
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

/* Ask for short slices of a processor for the calling thread: one that works for microseconds, and that many wait for,
 * is let in sooner when it wakes beside one that does not stop (Linux 6.12; before, it changes nothing). Its share
 * stays the same. */
void pdlb_shorten_slice(void);

#define PDLB_HANDOFF_BUCKETS 32u

struct pdlb_acceptor_stats {
  uint64_t accepted; /* taken from a backlog: taken + waiting + refused + those without a header */
  uint64_t taken;
  uint64_t refused;        /* of those accepted, turned away at a limit */
  uint64_t refused_in_all; /* of these, because there were too many in all, not on each worker */
  uint64_t full;           /* times that a limit was reached */
  uint64_t overflowed;     /* connections given to a worker beyond its limit */
  uint64_t drained;        /* of those accepted, after the order to stop or to drain the listener */
  uint64_t aborted;        /* given up by the client before they could be accepted */
  uint64_t taken_back;     /* times that what waited for one worker went to another */
  uint64_t retries;        /* times that what was refused was sent again */
  uint64_t kept;           /* connections that stayed with the worker that accepted them */
  uint64_t led;            /* connections that a worker accepted in the thread's place */
  uint64_t resent;         /* connections sent again after a move, or once a worker was there */
  uint64_t held_up;        /* times that all slots were taken, or no credit was left */
  uint64_t backoffs;       /* times that accept failed for want of descriptors or memory */
  uint32_t last_errno;     /* of the last of these, or of a listener that failed for good */
  /* Closed for want of a PROXY header: it was none, or did not come in time, or the client left before. */
  uint64_t header_broken, header_late, header_gone;
  uint64_t handoff[PDLB_HANDOFF_BUCKETS]; /* times from accept to take: bucket n counts those below 2^n microseconds */
};
/* Any thread. */
void pdlb_acceptor_stats(const struct pdlb_acceptor *acceptor, struct pdlb_acceptor_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
