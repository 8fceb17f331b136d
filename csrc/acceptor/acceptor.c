/* What others ask of the acceptor. They leave word under its mutex, and call the thread. */
#include "pdlb_acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "board.h"
#include "internal.h"

void acceptor_call(struct pdlb_acceptor *acceptor) {
  const uint64_t one = 1;
  pthread_mutex_lock(&acceptor->call_mutex);
  if (acceptor->call_fd >= 0)
    while (write(acceptor->call_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
  pthread_mutex_unlock(&acceptor->call_mutex);
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

/* Signals are for the program's own threads. */
static int start_thread(struct pdlb_acceptor *acceptor) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int rc = pthread_create(&acceptor->thread, NULL, acceptor_run, acceptor);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc == 0) pthread_setname_np(acceptor->thread, "pdlb-acceptor");
  return -rc;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void close_descriptors(struct pdlb_acceptor *acceptor) {
  if (acceptor->has_intake) intake_free(&acceptor->intake);
  acceptor->has_intake = false;
  close_fd(&acceptor->listeners.epoll_fd);
  close_fd(&acceptor->listeners.door_fd);
  pthread_mutex_lock(&acceptor->call_mutex);
  close_fd(&acceptor->call_fd);
  pthread_mutex_unlock(&acceptor->call_mutex);
}

static void discard(struct pdlb_acceptor *acceptor) {
  close_descriptors(acceptor);
  slots_free(&acceptor->slots);
  workers_free(&acceptor->workers);
  limits_end(acceptor);
  free(acceptor->last_seen);
  backlog_monitor_close(&acceptor->monitor);
  pthread_mutex_destroy(&acceptor->workers.mutex);
  pthread_cond_destroy(&acceptor->has_stopped);
  pthread_cond_destroy(&acceptor->has_moved);
  pthread_mutex_destroy(&acceptor->call_mutex);
  pthread_mutex_destroy(&acceptor->mutex);
  pthread_mutex_destroy(&acceptor->duty);
  free(acceptor);
}

static void init_locks(struct pdlb_acceptor *acceptor) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&acceptor->has_stopped, &attributes);
  pthread_cond_init(&acceptor->has_moved, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&acceptor->duty, NULL);
  pthread_mutex_init(&acceptor->mutex, NULL);
  pthread_mutex_init(&acceptor->call_mutex, NULL);
  pthread_mutex_init(&acceptor->workers.mutex, NULL);
}

/* By edges: nobody needs to read how often it was called. */
static int watch_for(struct pdlb_acceptor *acceptor, int fd, uint64_t mark) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.u64 = mark}};
  return epoll_ctl(acceptor->listeners.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int open_descriptors(struct pdlb_acceptor *acceptor) {
  acceptor->listeners.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (acceptor->listeners.epoll_fd < 0) return -errno;
  const struct timespec at_once = {0};
  struct epoll_event event;
  acceptor->has_pwait2 = epoll_pwait2(acceptor->listeners.epoll_fd, &event, 1, &at_once, NULL) == 0;
  if (acceptor->config.by_workers) {
    acceptor->listeners.door_fd = epoll_create1(EPOLL_CLOEXEC);
    if (acceptor->listeners.door_fd < 0) return -errno;
  }
  acceptor->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (acceptor->call_fd < 0) return -errno;
  const int rc = watch_for(acceptor, acceptor->call_fd, CALLED);
  if (rc < 0) return rc;
  return move_watch_bell(acceptor, EPOLL_CTL_ADD);
}

static int init_permits(struct pdlb_acceptor *acceptor) {
  backlog_monitor_open(&acceptor->monitor);
  acceptor->last_seen = calloc(pdlb_board_seats(acceptor->config.board), sizeof *acceptor->last_seen);
  return acceptor->last_seen ? 0 : -ENOMEM;
}

int pdlb_acceptor_start(struct pdlb_domain *domain, struct pdlb_port *port, const struct pdlb_acceptor_config *config,
                        struct pdlb_acceptor **result, struct pdlb_error *error) {
  *result = NULL;
  if (config->slots == 0 || config->slots > 1u << 24)
    return pdlb_fail(error, EINVAL, "start acceptor", "slots is %u: it goes from 1 to 2^24", config->slots);
  if (config->batch == 0 || config->batch > MAX_BATCH)
    return pdlb_fail(error, EINVAL, "start acceptor", "batch is %u: it goes from 1 to %u", config->batch, MAX_BATCH);
  struct pdlb_acceptor *acceptor = calloc(1, sizeof *acceptor);
  if (!acceptor) return pdlb_fail(error, ENOMEM, "start acceptor", "no memory for an acceptor");
  init_locks(acceptor);
  acceptor->domain = domain;
  acceptor->port = port;
  acceptor->config = *config;
  acceptor->listeners.epoll_fd = acceptor->listeners.door_fd = acceptor->listeners.lead_fd = acceptor->call_fd =
      acceptor->monitor.fd = -1;
  acceptor->listeners.arrivals_only = config->board != NULL;
  acceptor->accepted_before = config->board == NULL;
  acceptor->workers.processes = config->board != NULL;
  acceptor->workers.last = UINT32_MAX; /* so that the first is first */
  acceptor->workers.directed = config->directed;
  acceptor->workers.holds = config->holds;
  acceptor->workers.policy = (struct pdlb_policy_config){.queue = config->queue, .grace_ns = PDLB_FOREVER / 2};
  acceptor->drain_until = PDLB_FOREVER;
  atomic_init(&acceptor->leader, PDLB_NONE);
  int rc = slots_init(&acceptor->slots, config->slots);
  if (config->board && rc == 0) rc = init_permits(acceptor);
  if (rc == 0) rc = open_descriptors(acceptor);
  if (config->board && rc == 0) rc = watch_for(acceptor, pdlb_board_bell_fd(config->board), BOARD);
  if (rc == 0) rc = pdlb_domain_set_external_clock(domain, true, error);
  if (rc == 0) rc = start_thread(acceptor);
  if (rc < 0) {
    discard(acceptor);
    return pdlb_fail(error, -rc, "start acceptor", "%s", strerror(-rc));
  }
  *result = acceptor;
  return 0;
}

static int check_listener(int fd, struct pdlb_error *error) {
  int listening = 0;
  socklen_t size = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0)
    return pdlb_fail(error, errno, "add listener", "descriptor %d is no socket: %s", fd, strerror(errno));
  if (!listening) return pdlb_fail(error, EINVAL, "add listener", "socket %d does not listen: call listen() first", fd);
  if (!(fcntl(fd, F_GETFL) & O_NONBLOCK))
    return pdlb_fail(error, EINVAL, "add listener", "socket %d is blocking: call setblocking(False) first", fd);
  return 0;
}

/* ---- listeners --------------------------------------------------------------------------------------------------- */

int pdlb_acceptor_add(struct pdlb_acceptor *acceptor, int fd, struct pdlb_error *error) {
  return pdlb_acceptor_add_proxied(acceptor, fd, PDLB_PROXY_NONE, error);
}

int pdlb_acceptor_add_proxied(struct pdlb_acceptor *acceptor, int fd, enum pdlb_proxy proxy, struct pdlb_error *error) {
  int rc = check_listener(fd, error);
  if (rc < 0) return rc;
  pthread_mutex_lock(&acceptor->mutex);
  rc = acceptor->stopping ? -EPIPE : 0;
  if (rc == 0 && proxy) rc = proxied_begin(acceptor);
  if (rc == 0) rc = listeners_add(&acceptor->listeners, fd, proxy);
  pthread_mutex_unlock(&acceptor->mutex);
  if (rc < 0) return pdlb_fail(error, -rc, "add listener", "%s", strerror(-rc));
  acceptor_call(acceptor);
  return rc;
}

int pdlb_acceptor_remove(struct pdlb_acceptor *acceptor, uint32_t id, bool drain, struct pdlb_error *error) {
  pthread_mutex_lock(&acceptor->mutex);
  struct listener *listener = listeners_find(&acceptor->listeners, id);
  if (listener && drain) listener->state = LISTENER_DRAINING;
  if (listener && !drain) listeners_drop(&acceptor->listeners, listener);
  pthread_mutex_unlock(&acceptor->mutex);
  if (!listener) return pdlb_fail(error, EINVAL, "remove listener", "there is no listener %u", id);
  acceptor_call(acceptor);
  return 0;
}

bool pdlb_acceptor_listens(struct pdlb_acceptor *acceptor, uint32_t id) {
  pthread_mutex_lock(&acceptor->mutex);
  const bool listens = listeners_find(&acceptor->listeners, id);
  pthread_mutex_unlock(&acceptor->mutex);
  return listens;
}

void pdlb_acceptor_pause(struct pdlb_acceptor *acceptor, bool paused) {
  pthread_mutex_lock(&acceptor->mutex);
  acceptor->paused = paused;
  pthread_mutex_unlock(&acceptor->mutex);
  acceptor_call(acceptor);
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void note_handoff(struct pdlb_acceptor *acceptor, uint64_t accepted_at) {
  const uint64_t now = pdlb_now(), microseconds = now > accepted_at ? (now - accepted_at) / 1000 : 0;
  acceptor_count(&acceptor->handoff[board_bucket(microseconds)]);
}

/* A take makes room for a slot; the receive before it, for a credit. */
void acceptor_note_take(struct pdlb_acceptor *acceptor, uint32_t worker, const struct pdlb_accepted *accepted) {
  handoff_note_take(acceptor, worker, accepted);
  acceptor_count(&acceptor->taken);
  note_handoff(acceptor, accepted->accepted_at);
  if (atomic_load_explicit(&acceptor->held_up, memory_order_seq_cst)) acceptor_call(acceptor);
}

int pdlb_acceptor_take(struct pdlb_acceptor *acceptor, uint32_t worker, uint64_t token,
                       struct pdlb_accepted *accepted) {
  if (!slots_take(&acceptor->slots, token, accepted)) {
    if (worker != PDLB_NONE) pdlb_acceptor_came(acceptor, worker, false);
    return -ESTALE;
  }
  acceptor_note_take(acceptor, worker, accepted);
  return 0;
}

/* What lies on the shelves of workers that have ended. */
static bool take_from_any_shelf(struct pdlb_acceptor *acceptor, struct pdlb_accepted *accepted) {
  bool found = false;
  pthread_mutex_lock(&acceptor->workers.mutex);
  for (uint32_t place = 0; place < acceptor->workers.count && !found; place++) {
    struct worker *worker = &acceptor->workers.table[place];
    found = worker->state != WORKER_UNUSED && worker_unshelve(worker, accepted);
  }
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return found;
}

int pdlb_acceptor_take_left(struct pdlb_acceptor *acceptor, struct pdlb_accepted *accepted) {
  if (!slots_take_any(&acceptor->slots, accepted) && !take_from_any_shelf(acceptor, accepted)) return -ENOENT;
  limits_note_end(acceptor);
  acceptor_note_take(acceptor, PDLB_NONE, accepted);
  return 0;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

void pdlb_acceptor_stop(struct pdlb_acceptor *acceptor, uint64_t drain_until) {
  pthread_mutex_lock(&acceptor->mutex);
  acceptor->stopping = true;
  if (drain_until < acceptor->drain_until) acceptor->drain_until = drain_until;
  listeners_drain_all(&acceptor->listeners);
  pthread_mutex_unlock(&acceptor->mutex);
  acceptor_call(acceptor);
}

bool pdlb_acceptor_wait(struct pdlb_acceptor *acceptor, uint64_t deadline) {
  const struct timespec until = {.tv_sec = (time_t)(deadline / SECOND), .tv_nsec = (long)(deadline % SECOND)};
  int rc = 0;
  pthread_mutex_lock(&acceptor->mutex);
  while (!acceptor->stopped && rc == 0)
    rc = deadline == PDLB_FOREVER ? pthread_cond_wait(&acceptor->has_stopped, &acceptor->mutex)
                                  : pthread_cond_timedwait(&acceptor->has_stopped, &acceptor->mutex, &until);
  const bool stopped = acceptor->stopped;
  pthread_mutex_unlock(&acceptor->mutex);
  return stopped;
}

void pdlb_acceptor_end(struct pdlb_acceptor *acceptor) {
  pdlb_acceptor_stop(acceptor, 0);
  pdlb_acceptor_wait(acceptor, PDLB_FOREVER);
  pthread_mutex_lock(&acceptor->mutex);
  acceptor->ending = true;
  pthread_mutex_unlock(&acceptor->mutex);
  acceptor_call(acceptor);
  pthread_join(acceptor->thread, NULL);
  close_descriptors(acceptor);
}

void pdlb_acceptor_free(struct pdlb_acceptor *acceptor) {
  struct pdlb_accepted left;
  while (slots_take_any(&acceptor->slots, &left)) {
    close(left.fd);
    free(left.proxied);
  }
  discard(acceptor);
}

/* ---- counters ---------------------------------------------------------------------------------------------------- */

void pdlb_acceptor_stats(const struct pdlb_acceptor *acceptor, struct pdlb_acceptor_stats *stats) {
  /* Out before in, so that what is counted as taken was counted as accepted. */
  stats->taken = atomic_load_explicit(&acceptor->taken, memory_order_seq_cst);
  stats->refused = atomic_load_explicit(&acceptor->refused, memory_order_seq_cst);
  stats->refused_in_all = atomic_load_explicit(&acceptor->refused_in_all, memory_order_relaxed);
  stats->accepted = atomic_load_explicit(&acceptor->accepted, memory_order_seq_cst);
  stats->drained = atomic_load_explicit(&acceptor->drained, memory_order_relaxed);
  stats->aborted = atomic_load_explicit(&acceptor->aborted, memory_order_relaxed);
  stats->taken_back = atomic_load_explicit(&acceptor->taken_back, memory_order_relaxed);
  stats->held_up = atomic_load_explicit(&acceptor->times_held_up, memory_order_relaxed);
  stats->full = atomic_load_explicit(&acceptor->times_full, memory_order_relaxed);
  stats->overflowed = atomic_load_explicit(&acceptor->overflowed, memory_order_relaxed);
  stats->retries = atomic_load_explicit(&acceptor->retries, memory_order_relaxed);
  stats->kept = atomic_load_explicit(&acceptor->kept, memory_order_relaxed);
  stats->led = atomic_load_explicit(&acceptor->led, memory_order_relaxed);
  stats->resent = atomic_load_explicit(&acceptor->resent, memory_order_relaxed);
  stats->backoffs = atomic_load_explicit(&acceptor->backoffs, memory_order_relaxed);
  stats->header_broken = atomic_load_explicit(&acceptor->intake.broken, memory_order_relaxed);
  stats->header_late = atomic_load_explicit(&acceptor->intake.late, memory_order_relaxed);
  stats->header_gone = atomic_load_explicit(&acceptor->intake.gone, memory_order_relaxed);
  stats->last_errno = atomic_load_explicit(&acceptor->last_errno, memory_order_relaxed);
  for (uint32_t bucket = 0; bucket < PDLB_HANDOFF_BUCKETS; bucket++)
    stats->handoff[bucket] = atomic_load_explicit(&acceptor->handoff[bucket], memory_order_relaxed);
}
