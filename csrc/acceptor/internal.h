/* What the accepting thread and its callers share. */
#ifndef PDLB_ACCEPTOR_INTERNAL_H
#define PDLB_ACCEPTOR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "backlog.h"
#include "intake.h"
#include "limit.h"
#include "listeners.h"
#include "pdlb_acceptor.h"
#include "slots.h"
#include "workers.h"

#define MAX_BATCH 64u
#define SECOND 1000000000u

/* Marks the epoll entry of the descriptor by which others call the thread. */
#define CALLED UINT64_MAX
/* That of the board's. */
#define BOARD (UINT64_MAX - 3)
/* And that of the domain's bell: pdlb_domain_tick, called at each turn, answers it. */
#define BELL (UINT64_MAX - 1)

/* And that of the connections whose header is awaited. */
#define INTAKE (UINT64_MAX - 2)

/* A connection that was accepted a moment ago, and its client. */
struct fresh {
  uint64_t token; /* reserved for it */
  struct pdlb_accepted accepted;
  socklen_t address_size;
  struct sockaddr_storage address;
};

/* How far a worker was with its permits when it was last seen to go on. */
struct last_seen {
  uint64_t settled, at;
};

/* What waits is sent again, slot by slot: after a move all of it, else what no worker could be found for. */
struct resend {
  uint32_t left;
  bool homeless_only;
};

struct pdlb_acceptor {
  struct pdlb_domain *domain; /* that of who is on duty, as is the port */
  struct pdlb_port *port;
  struct pdlb_acceptor_config config;
  struct slots slots;
  bool has_pwait2;        /* not before Linux 5.11, nor in a sandbox that does not know it */
  struct workers workers; /* with a lock of its own, the innermost */
  pthread_t thread;
  pthread_mutex_t call_mutex;
  int call_fd; /* guarded by it; -1 after the end */

  pthread_mutex_t duty;  /* held by whoever accepts, for its turn: the thread, or the worker that leads */
  pthread_mutex_t mutex; /* guards what follows */
  struct listeners listeners;
  bool paused, stopping, stopped, ending, ended;
  uint64_t drain_until;
  pthread_cond_t has_stopped;
  struct pdlb_domain *next_domain; /* where the thread is to move to; NULL: it stays */
  struct pdlb_port *next_port;
  int move_result;
  bool asked;     /* somebody wants to know whether there is trouble */
  bool unwatched; /* and nobody any more */
  struct pdlb_connection_limits limits;
  char *reply;               /* theirs */
  enum pdlb_refusal trouble; /* what is wrong with the domain; PDLB_TAKEN: nothing */
  pthread_cond_t has_moved;  /* or been told of trouble */

  struct intake intake; /* from the first listener on that has one: */
  bool has_intake;

  bool may_accept; /* as it was when the listeners were last looked at */

  /* On duty. */
  bool alone; /* the last connection came a while after the one before */
  bool total_reached, was_full;
  struct parting parting[MAX_PARTING];
  uint32_t parting_count;
  uint64_t backoff, accept_again_at;
  bool accepted_before;          /* by itself, where there is a board */
  bool has_reserved;             /* a slot for the connection that is accepted next: */
  uint64_t reserved;             /* its token */
  struct fresh fresh[MAX_BATCH]; /* nobody is picked for them yet; nor for those of others: */
  uint32_t fresh_count;
  struct pdlb_event unsent[MAX_BATCH]; /* to be sent, perhaps once there is credit for them */
  uint32_t unsent_count;
  /* Where there is a board. */
  struct last_seen *last_seen; /* by seat */
  struct backlog_monitor monitor;
  uint32_t behind;                /* permits that workers had not come for when others were sent */
  enum pdlb_refusal send_trouble; /* why the port took nothing, other than for want of credits */
  bool refused_before;            /* the last attempt to send left something */
  struct resend resend;
  bool homeless; /* something waits that no worker was there for */

  _Atomic uint32_t leader;   /* the worker that accepts next, if it sleeps then; PDLB_NONE: the thread */
  _Atomic bool look;         /* at all listeners: the leader could not accept, or somebody else was on duty */
  _Atomic uint64_t awake_at; /* when the thread looks at the clock next; PDLB_FOREVER while it is about to */
  _Atomic uint32_t unpicked; /* connections that workers have just accepted by themselves */
  _Atomic uint64_t kept;     /* connections that stayed with the worker that accepted them */
  _Atomic uint64_t led;      /* that a worker accepted in the thread's place */
  _Atomic bool held_up;      /* the thread waits for a slot or a credit: call it after a take */
  _Atomic uint64_t accepted, taken, drained, aborted, taken_back, times_held_up, backoffs;
  _Atomic uint64_t retries, resent;
  _Atomic bool token_lost; /* perhaps: what nobody was picked for is sent again */
  _Atomic bool at_limit;   /* call the thread when a connection has ended */
  _Atomic uint64_t finished, refused, refused_in_all, times_full, overflowed;
  _Atomic uint32_t last_errno;
  _Atomic uint64_t handoff[PDLB_HANDOFF_BUCKETS];
};

/* Under the mutex: get rid of a connection that is in the backlog. False if there is none. */
bool acceptor_refuse_one(struct pdlb_acceptor *acceptor, struct listener *listener);

/* Under the mutex: as many permits as connections wait. Returns when to look again. */
uint64_t permits_issue(struct pdlb_acceptor *acceptor);

/* Under the mutex: read headers from now on. Result: 0 or -errno. */
int proxied_begin(struct pdlb_acceptor *acceptor);
/* The thread, under its mutex: let those be fresh whose header was read. Returns when to look again. */
uint64_t proxied_collect(struct pdlb_acceptor *acceptor);
/* The client's address: by its header, else by its socket. Returns its size, 0 if it is not known. */
socklen_t proxied_client(const struct pdlb_accepted *accepted, struct sockaddr_storage *address);

enum accept_outcome { ACCEPTED, NOTHING_THERE, TRY_NEXT, NO_MEANS, UNUSABLE };
/* Under the mutex: what an error of accept means; without descriptors or memory nobody accepts for a while. */
enum accept_outcome accept_judge(struct pdlb_acceptor *acceptor, int error);
/* Under the mutex. */
bool accept_backs_off(const struct pdlb_acceptor *acceptor);
/* Whether workers accept from it, not the thread. */
bool lanes_serve(const struct pdlb_acceptor *acceptor, const struct listener *listener, bool refuses);

/* On duty, under the mutex: a turn for every listener that has something. */
void accept_from_all(struct pdlb_acceptor *acceptor);
/* On duty, under the mutex: let the worker lead that comes next, if connections come one by one. */
void lead_pass_on(struct pdlb_acceptor *acceptor);
/* Under the mutex: let the thread accept the next one. */
void lead_give_up(struct pdlb_acceptor *acceptor);

/* Any thread: the thread is the domain's clock, and may not know yet that there is something to keep the time for. */
void acceptor_keep_time(struct pdlb_acceptor *acceptor);

/* Any thread: wake the accepting thread. */
void acceptor_call(struct pdlb_acceptor *acceptor);

/* On duty, and without the mutex if the policy may be one that asks the caller: pick workers for what is fresh, and
 * send. There must be nothing unsent. */
void handoff_fresh(struct pdlb_acceptor *acceptor);
/* On duty: send what has no credit yet. True if nothing is left of it. */
bool handoff_send(struct pdlb_acceptor *acceptor);
/* The thread, without its mutex: give to others what waits for workers that do not come. Returns when to look again. */
uint64_t handoff_look(struct pdlb_acceptor *acceptor);
/* Under the lock of the workers, which may be left for a moment. NULL for none. */
struct worker *handoff_pick(struct pdlb_acceptor *acceptor, const struct pdlb_arrival *arrival);
/* Under the mutex. False while there is something left to send again. */
bool handoff_resend(struct pdlb_acceptor *acceptor);
/* Under the lock: let it wait in its slot for a worker, or for whoever comes first if NULL. False if there is nobody to
 * wait for; else `event` is to be sent for it. */
bool handoff_place(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t token,
                   struct pdlb_accepted *accepted, struct pdlb_event *event);
void handoff_note_take(struct pdlb_acceptor *acceptor, uint32_t worker, const struct pdlb_accepted *accepted);

/* Count a connection that somebody has taken. */
void acceptor_note_take(struct pdlb_acceptor *acceptor, uint32_t worker, const struct pdlb_accepted *accepted);

/* Under the mutex: take up with another domain, if that was asked for. */
void move_carry_out(struct pdlb_acceptor *acceptor);
/* Wait for the domain's bell too, if it has one (EPOLL_CTL_ADD), or no more. */
int move_watch_bell(struct pdlb_acceptor *acceptor, int operation);

/* Whether there is a connection that nobody has taken yet. */
bool handoff_waits(const struct pdlb_acceptor *acceptor);

/* The thread: accepts until it is told to end. */
void *acceptor_run(void *acceptor);

static inline void acceptor_count(_Atomic uint64_t *counter) {
  atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

#endif
