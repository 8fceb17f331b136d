/* Who may be given connections, how many each has, and what waits for it. */
#ifndef PDLB_ACCEPTOR_WORKERS_H
#define PDLB_ACCEPTOR_WORKERS_H

#include <pthread.h>
#include <stdatomic.h>

#include "board.h"
#include "pdlb_acceptor.h"
#include "shelf.h"

#define MAX_WORKERS 1024u
/* Listeners beyond so many share counts with earlier ones. */
#define COUNTED_LISTENERS 1024u

/* On one shelf, at most. */
#define SHELF_SIZE 64u

struct assigned {
  uint64_t token, at;
  uint32_t listener;
};

enum worker_state { WORKER_UNUSED = 0, WORKER_ACTIVE, WORKER_PAUSED, WORKER_LEAVING };

struct worker {
  enum worker_state state;
  uint32_t handle; /* place in the table, and above it a count that makes it unique */
  uint32_t queue;
  uint32_t weight;
  bool full;      /* it has reached the limit, and not come down again */
  uint64_t added; /* the how-manieth it was */
  int64_t turn;   /* round robin: what it is owed */
  uint64_t came_at;
  bool waits; /* it has found nothing, and waits */
  uint32_t *by_listener;

  /* What it was picked for, oldest first, also what it took meanwhile. */
  struct assigned *assigned;
  uint32_t size, head, tail;

  /* Of one that is an event loop: the epoll set in which it sleeps, -1 for none; what makes it look at its port there;
   * and that port's id. */
  int loop_fd;
  uint64_t loop_mark;
  uint32_t loop_port;

  /* Of one that is a process: */
  struct seat *seat; /* where it counts; NULL: it is none, or has ended for good */
  struct shelf shelf;
  uint64_t shelved;          /* put on the shelf, without what was taken back */
  uint64_t unshelved, steps; /* as its seat had them: what it took from there; what it did at all */
  uint64_t reminded_at;      /* that something lies there */

  /* Changed under the lock, read by anybody. */
  _Atomic bool stalled;
  _Atomic uint32_t open, waiting;
};

struct workers {
  pthread_mutex_t mutex;
  struct worker table[MAX_WORKERS];
  uint32_t count; /* places ever used */
  uint64_t added;
  uint32_t last; /* the place that was picked last */
  uint64_t random;
  uint32_t limit,
      limit_again;    /* of what each may have open, 0 for none; where one that was full is not full any more */
  bool ignores_limit; /* all are full: any may be picked */
  bool processes;     /* they are: what they have is known by their seats */
  uint64_t unshelved; /* by all that there were */
  bool directed;      /* their queues are directed ones, and there may be none that they share */
  bool holds;         /* what the shared queue gives stands before a worker at once */
  struct pdlb_policy_config policy;
};

/* All that follows: under the mutex. */

struct worker *workers_add(struct workers *workers, uint32_t queue);
/* NULL if it is not there, or no more. */
struct worker *workers_find(struct workers *workers, uint32_t handle);
void workers_drop(struct worker *worker);
void workers_free(struct workers *workers);

/* Note that a connection goes to it. False without memory for the note. */
bool worker_assign(const struct workers *workers, struct worker *worker, uint32_t listener, uint64_t token);
void worker_open(const struct workers *workers, struct worker *worker, uint32_t listener);
void worker_close(const struct workers *workers, struct worker *worker, uint32_t listener);
void worker_not_waiting(struct worker *worker);
/* See how far a process has come. */
void worker_see(struct workers *workers, struct worker *worker);
void workers_see(struct workers *workers);
/* Put a connection on its shelf. False if that cannot be done. */
bool worker_shelve(struct workers *workers, struct worker *worker, const struct pdlb_accepted *accepted);
/* Take the oldest back from there. False if there is none. */
bool worker_unshelve(struct worker *worker, struct pdlb_accepted *accepted);
/* Its process is dead: count what it had taken and not counted. */
void worker_bury(struct worker *worker);
/* Whether one of them may be given something to its shelf. */
bool workers_any_room(const struct workers *workers);
/* It looked for connections: it does not stall, whatever it found. */
void worker_came(struct worker *worker, bool waits);
uint32_t worker_count(const struct worker *worker, uint32_t listener, bool per_listener);

/* The policy's choice, of those that are there and come for what they are given; NULL for none. */
struct worker *pick(struct workers *workers, const struct pdlb_arrival *arrival);

/* Whom `pick` would choose for a connection of any listener and client; NULL if that depends on those, or on chance. */
struct worker *pick_ahead(struct workers *workers);

/* Where nobody is picked and there is no queue for all: who has least to do; those that stall only if all do. */
struct worker *pick_idlest(struct workers *workers);

void workers_set_limit(struct workers *workers, uint32_t limit, uint32_t again);
/* Whether there are some, and all are full, or would be with `more` connections. */
bool workers_all_full(const struct workers *workers, uint32_t more);

static inline bool worker_is_there(const struct worker *worker) {
  return worker->state == WORKER_ACTIVE && worker->weight && worker->queue != PDLB_NONE;
}

static inline bool worker_has_room(const struct worker *worker) {
  return !worker->seat || worker->tail - worker->head < SHELF_SIZE;
}

static inline bool worker_is_barred(const struct workers *workers, const struct worker *worker) {
  return (worker->full && !workers->ignores_limit) || !worker_has_room(worker);
}

static inline bool worker_may_be_picked(const struct workers *workers, const struct worker *worker) {
  return worker_is_there(worker) && !worker_is_barred(workers, worker) &&
         !atomic_load_explicit(&worker->stalled, memory_order_relaxed);
}

static inline uint32_t worker_waiting(const struct worker *worker) {
  return atomic_load_explicit(&worker->waiting, memory_order_relaxed);
}

#endif
