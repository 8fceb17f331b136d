/* The worker that comes next accepts. A connection that comes alone would wake two threads, one after the other: the
 * one that accepts, and the worker that it is sent to. So the worker that would be chosen is let into the listeners'
 * wait queues before the thread. What wakes it there it accepts and sends as the thread would, in the thread's place,
 * and most often receives itself. Who gets the connection is decided as ever; the lead is a guess about that.
 *
 * The kernel passes over who does not sleep: then, and when connections come quickly or wait for workers, the thread
 * accepts. Before Linux 5.7 it did not pass over one that was woken and had not run yet: there nobody leads.
 *
 * Who leads is told of arrivals, and once of each: a loop that is told as long as something is there would turn and
 * turn while the thread, which may wait for the same processor, accepts it. So whoever goes on leading has looked
 * whether more is there. */
#include <errno.h>

#include "backend.h"
#include "internal.h"

/* ---- whose turn it is -------------------------------------------------------------------------------------------- */

static struct worker *find_by_port(struct workers *workers, uint32_t port) {
  for (uint32_t place = 0; place < workers->count; place++) {
    struct worker *worker = &workers->table[place];
    if (worker->state == WORKER_ACTIVE && worker->loop_fd >= 0 && worker->loop_port == port) return worker;
  }
  return NULL;
}

/* Under the lock of the workers: who would be given a connection that came now. */
static struct worker *next_worker(struct pdlb_acceptor *acceptor) {
  struct workers *workers = &acceptor->workers;
  if (!acceptor->domain->ops->next) return NULL; /* a device gives to ports by itself */
  if (workers->policy.policy != PDLB_POLICY_QUEUE) return pick_ahead(workers);
  if (workers->limit || workers->policy.queue == PDLB_NONE) return NULL;
  const uint32_t port = pdlb_domain_next(acceptor->domain, workers->policy.queue);
  return port == PDLB_NONE ? NULL : find_by_port(workers, port);
}

/* What a limit turns away, and what a worker process accepts, is the thread's. */
static bool may_lead(const struct pdlb_acceptor *acceptor) {
  return acceptor->has_pwait2 && acceptor->alone && acceptor->may_accept && !acceptor->paused && !acceptor->stopping &&
         !acceptor->next_domain && !acceptor->config.board && !acceptor->config.by_workers && !acceptor->limits.total &&
         !acceptor->limits.worker && acceptor->unsent_count == 0 && acceptor->resend.left == 0;
}

/* Under the mutex. If a listener cannot be watched, the thread sees to that. */
static void let_lead(struct pdlb_acceptor *acceptor, uint32_t handle, int set, uint64_t mark) {
  atomic_store_explicit(&acceptor->leader, handle, memory_order_relaxed);
  acceptor->listeners.lead_fd = set;
  acceptor->listeners.lead_mark = mark;
  if (!listeners_watch(&acceptor->listeners, acceptor->may_accept)) acceptor_call(acceptor);
}

void lead_give_up(struct pdlb_acceptor *acceptor) { let_lead(acceptor, PDLB_NONE, -1, 0); }

void lead_pass_on(struct pdlb_acceptor *acceptor) {
  uint32_t handle = PDLB_NONE;
  int set = -1;
  uint64_t mark = 0;
  /* Where more has come meanwhile the thread is told by its set, or by its addition there. */
  if (may_lead(acceptor) && !listeners_have_more(&acceptor->listeners)) {
    pthread_mutex_lock(&acceptor->workers.mutex);
    const struct worker *worker = next_worker(acceptor);
    if (worker && worker->loop_fd >= 0) {
      handle = worker->handle;
      set = worker->loop_fd;
      mark = worker->loop_mark;
    }
    pthread_mutex_unlock(&acceptor->workers.mutex);
  }
  if (handle != atomic_load_explicit(&acceptor->leader, memory_order_relaxed)) let_lead(acceptor, handle, set, mark);
}

int pdlb_acceptor_worker_loop(struct pdlb_acceptor *acceptor, uint32_t handle, int set, uint64_t mark, uint32_t port,
                              struct pdlb_error *error) {
  pthread_mutex_lock(&acceptor->mutex);
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) {
    worker->loop_fd = set;
    worker->loop_mark = mark;
    worker->loop_port = port;
  }
  pthread_mutex_unlock(&acceptor->workers.mutex);
  if (atomic_load_explicit(&acceptor->leader, memory_order_relaxed) == handle) lead_give_up(acceptor);
  pthread_mutex_unlock(&acceptor->mutex);
  if (worker || set < 0) return 0;
  return pdlb_fail(error, EINVAL, "set loop of worker", "there is no worker %u", handle);
}

/* ---- the leader's turn ------------------------------------------------------------------------------------------- */

/* Once, until it looks. */
static void call_to_look(struct pdlb_acceptor *acceptor) {
  if (!atomic_exchange_explicit(&acceptor->look, true, memory_order_acq_rel)) acceptor_call(acceptor);
}

/* True if this one is on duty now. The thread may wait for one that leads, which waits for nobody. One that leads must
 * not wait for the thread: that may ask the program itself who is to be picked, and the program may wait for a loop. */
static bool go_on_duty(struct pdlb_acceptor *acceptor) {
  if (pthread_mutex_trylock(&acceptor->duty) == 0) return true;
  call_to_look(acceptor);
  return false;
}

/* On duty, under the mutex. What is there, and cannot be accepted now, must not keep waking the worker. */
static void accept_as_leader(struct pdlb_acceptor *acceptor) {
  if (may_lead(acceptor)) {
    if (!listeners_ask(&acceptor->listeners)) return;
    accept_from_all(acceptor);
    if (acceptor->fresh_count) return;
  }
  lead_give_up(acceptor);
  call_to_look(acceptor);
}

bool pdlb_acceptor_waits(const struct pdlb_acceptor *acceptor) { return handoff_waits(acceptor); }

bool pdlb_acceptor_lead(struct pdlb_acceptor *acceptor, uint32_t handle, struct pdlb_port *port) {
  if (atomic_load_explicit(&acceptor->leader, memory_order_relaxed) != handle || !go_on_duty(acceptor)) return false;
  pthread_mutex_lock(&acceptor->mutex);
  if (atomic_load_explicit(&acceptor->leader, memory_order_relaxed) == handle) accept_as_leader(acceptor);
  const bool accepted = acceptor->fresh_count;
  if (accepted) {
    atomic_fetch_add_explicit(&acceptor->led, acceptor->fresh_count, memory_order_relaxed);
    pdlb_port_expect(port);
    handoff_fresh(acceptor); /* under the mutex the policy stays one that asks nobody */
  }
  pthread_mutex_unlock(&acceptor->mutex);
  pthread_mutex_unlock(&acceptor->duty);
  return accepted;
}

void pdlb_acceptor_led(struct pdlb_acceptor *acceptor) {
  if (pthread_mutex_trylock(&acceptor->duty) != 0) {
    acceptor_call(acceptor); /* who is on duty may be one that leads no more */
    return;
  }
  pthread_mutex_lock(&acceptor->mutex);
  lead_pass_on(acceptor);
  pthread_mutex_unlock(&acceptor->mutex);
  const bool waits = handoff_waits(acceptor) || acceptor->unsent_count;
  pthread_mutex_unlock(&acceptor->duty);
  if (waits) acceptor_keep_time(acceptor);
}
