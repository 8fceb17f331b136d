/* What others ask of the policy and the workers. */
#include <errno.h>

#include <string.h>

#include "backend.h"
#include "internal.h"

#define MOST_CHOICES 16u

static int check(const struct pdlb_policy_config *config, struct pdlb_error *error) {
  const char *const what = "set policy";
  if (config->policy > PDLB_POLICY_CALLER)
    return pdlb_fail(error, EINVAL, what, "policy is %d: there is none of that number", (int)config->policy);
  if (config->policy == PDLB_POLICY_LEAST && (config->choices == 0 || config->choices > MOST_CHOICES))
    return pdlb_fail(error, EINVAL, what, "choices is %u: it goes from 1 to %u", config->choices, MOST_CHOICES);
  if (config->policy == PDLB_POLICY_HASH && !(config->bound > 1 && config->bound <= 1e6))
    return pdlb_fail(error, EINVAL, what, "bound is %g: it is more than 1, and at most a million", config->bound);
  if (config->policy == PDLB_POLICY_CALLER && !config->pick)
    return pdlb_fail(error, EINVAL, what, "there is no function to ask");
  if (config->grace_ns == 0) return pdlb_fail(error, EINVAL, what, "grace is 0: nobody comes as quickly as that");
  return 0;
}

int pdlb_acceptor_set_policy(struct pdlb_acceptor *acceptor, const struct pdlb_policy_config *config,
                             struct pdlb_error *error) {
  const int rc = check(config, error);
  if (rc < 0) return rc;
  struct workers *workers = &acceptor->workers;
  pthread_mutex_lock(&acceptor->mutex);
  pthread_mutex_lock(&workers->mutex);
  workers->policy = *config;
  workers->random = config->seed;
  for (uint32_t place = 0; place < workers->count; place++) workers->table[place].turn = 0;
  pthread_mutex_unlock(&workers->mutex);
  /* Another may come next now; and a function is not asked on a worker's thread, for which it may wait. */
  if (atomic_load_explicit(&acceptor->leader, memory_order_relaxed) != PDLB_NONE) lead_give_up(acceptor);
  pthread_mutex_unlock(&acceptor->mutex);
  if (acceptor->config.board) acceptor_call(acceptor); /* it may have to accept now, or not any more */
  return 0;
}

int pdlb_acceptor_worker_add(struct pdlb_acceptor *acceptor, uint32_t queue, uint32_t *handle,
                             struct pdlb_error *error) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  const struct worker *worker = workers_add(&acceptor->workers, queue);
  if (worker) *handle = worker->handle;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return worker ? 0 : pdlb_fail(error, ENOSPC, "add worker", "there are %u workers, or no memory", MAX_WORKERS);
}

int pdlb_acceptor_worker_seat(struct pdlb_acceptor *acceptor, uint32_t handle, uint32_t seat,
                              struct pdlb_error *error) {
  struct pdlb_board *board = acceptor->config.board;
  if (!board || seat >= pdlb_board_seats(board))
    return pdlb_fail(error, EINVAL, "seat worker", "there is no seat %u on a board of this acceptor's", seat);
  struct shelf shelf;
  int rc = shelf_open(&shelf);
  if (rc < 0) return pdlb_fail(error, -rc, "seat worker", "no sockets: %s", strerror(-rc));
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker && !worker->seat) {
    worker->seat = &board->seats[seat];
    worker->shelf = shelf;
    rc = shelf.take_fd;
  } else {
    rc = -EINVAL;
  }
  pthread_mutex_unlock(&acceptor->workers.mutex);
  if (rc >= 0) return rc;
  shelf_close(&shelf);
  return pdlb_fail(error, EINVAL, "seat worker", "there is no worker %u without a seat", handle);
}

void pdlb_acceptor_worker_bury(struct pdlb_acceptor *acceptor, uint32_t handle) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) worker_bury(worker);
  pthread_mutex_unlock(&acceptor->workers.mutex);
  acceptor_call(acceptor);
}

/* Its seat may be another's from now on. */
static void unseat(struct pdlb_acceptor *acceptor, uint32_t handle) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) {
    worker_see(&acceptor->workers, worker);
    worker->seat = NULL;
  }
  pthread_mutex_unlock(&acceptor->workers.mutex);
}

/* What waits for it is looked after by the thread. */
static void set_state(struct pdlb_acceptor *acceptor, uint32_t handle, enum worker_state state) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker && worker->state != WORKER_LEAVING) worker->state = state;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  if (worker) acceptor_call(acceptor);
}

void pdlb_acceptor_worker_remove(struct pdlb_acceptor *acceptor, uint32_t handle) {
  unseat(acceptor, handle);
  set_state(acceptor, handle, WORKER_LEAVING);
  /* Its port may have been given a token that nobody will use. */
  atomic_store_explicit(&acceptor->token_lost, true, memory_order_release);
  acceptor_call(acceptor);
}

void pdlb_acceptor_worker_pause(struct pdlb_acceptor *acceptor, uint32_t handle, bool paused) {
  set_state(acceptor, handle, paused ? WORKER_PAUSED : WORKER_ACTIVE);
}

void pdlb_acceptor_worker_queue(struct pdlb_acceptor *acceptor, uint32_t handle, uint32_t queue) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) worker->queue = queue;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  acceptor_call(acceptor);
}

void pdlb_acceptor_worker_weigh(struct pdlb_acceptor *acceptor, uint32_t handle, uint32_t weight) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) worker->weight = weight < PDLB_MAX_WEIGHT ? weight : PDLB_MAX_WEIGHT;
  pthread_mutex_unlock(&acceptor->workers.mutex);
}

void pdlb_acceptor_worker_stats(struct pdlb_acceptor *acceptor, uint32_t handle, struct pdlb_worker_stats *stats) {
  struct worker *worker = &acceptor->workers.table[handle & (MAX_WORKERS - 1)];
  if (acceptor->config.board) {
    pthread_mutex_lock(&acceptor->workers.mutex);
    worker_see(&acceptor->workers, worker);
    pthread_mutex_unlock(&acceptor->workers.mutex);
  }
  stats->open = atomic_load_explicit(&worker->open, memory_order_relaxed);
  stats->waiting = atomic_load_explicit(&worker->waiting, memory_order_relaxed);
  stats->stalled = atomic_load_explicit(&worker->stalled, memory_order_relaxed);
}
