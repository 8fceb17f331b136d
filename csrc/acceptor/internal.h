/* What the accepting thread and its callers share. */
#ifndef PDLB_ACCEPTOR_INTERNAL_H
#define PDLB_ACCEPTOR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "listeners.h"
#include "pdlb_acceptor.h"
#include "slots.h"

#define MAX_BATCH 64u
#define SECOND 1000000000u

/* Marks the epoll entry of the descriptor by which others call the thread. */
#define CALLED UINT64_MAX
/* And that of the domain's bell: pdlb_domain_tick, called at each turn, answers it. */
#define BELL (UINT64_MAX - 1)

struct pdlb_acceptor {
  struct pdlb_domain *domain;
  struct pdlb_port *port;
  struct pdlb_acceptor_config config;
  struct slots slots;
  pthread_t thread;
  pthread_mutex_t call_mutex;
  int call_fd; /* guarded by it; -1 after the end */

  pthread_mutex_t mutex; /* guards what follows */
  struct listeners listeners;
  bool paused, stopping, stopped, ending;
  uint64_t drain_until;
  pthread_cond_t has_stopped;

  /* The thread's own. */
  uint64_t backoff, accept_again_at;
  struct pdlb_event unsent[MAX_BATCH]; /* accepted, but there was no credit for them */
  uint32_t unsent_count;

  _Atomic bool held_up; /* the thread waits for a slot or a credit: call it after a take */
  _Atomic uint64_t accepted, taken, drained, aborted, times_held_up, backoffs;
  _Atomic uint32_t last_errno;
  _Atomic uint64_t handoff[PDLB_HANDOFF_BUCKETS];
};

/* Under the mutex: as many permits as connections wait. Returns when to look again. */
uint64_t permits_issue(struct pdlb_acceptor *acceptor);

/* The thread: accepts until it is told to end. */
void *acceptor_run(void *acceptor);

static inline void acceptor_count(_Atomic uint64_t *counter) {
  atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

#endif
