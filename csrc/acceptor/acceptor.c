/* The accepting thread. It sleeps in one epoll set: listeners, and an event descriptor by which others call it. */
#include "pdlb_acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "slots.h"

#define MAX_LISTENERS 1024u
#define MAX_BATCH 64u
#define READY 64
#define CALLED UINT64_MAX
#define MILLISECOND 1000000u

/* Without descriptors or memory, accept again after 10 ms, then twice as long each time, up to a second. */
#define FIRST_BACKOFF_NS (10u * MILLISECOND)
#define LONGEST_BACKOFF_NS (1000u * MILLISECOND)

enum listener_state { LISTENER_UNUSED = 0, LISTENER_OPEN, LISTENER_DRAINING };

struct listener {
  enum listener_state state;
  int fd;
  bool watched; /* in the epoll set */
};

struct pdlb_acceptor {
  struct pdlb_domain *domain;
  struct pdlb_port *port;
  struct pdlb_acceptor_config config;
  struct slots slots;
  pthread_t thread;
  int epoll_fd, call_fd;

  pthread_mutex_t mutex; /* guards listeners and what is asked for */
  struct listener listeners[MAX_LISTENERS];
  uint32_t listener_count; /* slots of the array ever used */
  bool paused, stopping;
  uint64_t drain_until;

  /* The thread's own. */
  uint64_t backoff, accept_again_at;
  struct pdlb_event unsent[MAX_BATCH]; /* accepted, but there was no credit for them */
  uint32_t unsent_count;

  _Atomic bool held_up; /* the thread waits for a slot or a credit: call it after a take */
  _Atomic uint64_t accepted, taken, aborted, times_held_up, backoffs;
  _Atomic uint32_t last_errno;
  _Atomic uint64_t handoff[PDLB_HANDOFF_BUCKETS];
};

static void call(struct pdlb_acceptor *acceptor) {
  const uint64_t one = 1;
  while (write(acceptor->call_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

/* ---- listeners: under the mutex ------------------------------------------------------------------------------------------- */

static void watch(struct pdlb_acceptor *acceptor, uint32_t index, bool wanted) {
  struct listener *listener = &acceptor->listeners[index];
  if (listener->watched == wanted) return;
  struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = index}};
  epoll_ctl(acceptor->epoll_fd, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener->fd, &event);
  listener->watched = wanted;
}

/* What cannot be accepted from now must not keep the thread awake. */
static void watch_all(struct pdlb_acceptor *acceptor, bool wanted) {
  for (uint32_t index = 0; index < acceptor->listener_count; index++)
    if (acceptor->listeners[index].state != LISTENER_UNUSED) watch(acceptor, index, wanted);
}

static void drop_listener(struct pdlb_acceptor *acceptor, uint32_t index) {
  struct listener *listener = &acceptor->listeners[index];
  watch(acceptor, index, false);
  close(listener->fd);
  *listener = (struct listener){.state = LISTENER_UNUSED, .fd = -1};
}

/* ---- accepting --------------------------------------------------------------------------------------------------------------- */

/* Send what has no credit yet. True if nothing is left of it. */
static bool send_unsent(struct pdlb_acceptor *acceptor) {
  if (acceptor->unsent_count == 0) return true;
  enum pdlb_refusal why;
  const uint32_t sent = pdlb_port_send(acceptor->port, acceptor->unsent, acceptor->unsent_count, &why);
  acceptor->unsent_count -= sent;
  memmove(acceptor->unsent, acceptor->unsent + sent, acceptor->unsent_count * sizeof *acceptor->unsent);
  return acceptor->unsent_count == 0;
}

/* False, and to be called after the next take, if there is no slot or no credit. */
static bool has_room(struct pdlb_acceptor *acceptor) {
  if (send_unsent(acceptor) && !slots_full(&acceptor->slots)) return true;
  if (!atomic_exchange_explicit(&acceptor->held_up, true, memory_order_seq_cst))
    atomic_fetch_add_explicit(&acceptor->times_held_up, 1, memory_order_relaxed);
  return send_unsent(acceptor) && !slots_full(&acceptor->slots);
}

static void back_off(struct pdlb_acceptor *acceptor, int error) {
  acceptor->backoff = acceptor->backoff ? 2 * acceptor->backoff : FIRST_BACKOFF_NS;
  if (acceptor->backoff > LONGEST_BACKOFF_NS) acceptor->backoff = LONGEST_BACKOFF_NS;
  acceptor->accept_again_at = pdlb_now() + acceptor->backoff;
  atomic_store_explicit(&acceptor->last_errno, (uint32_t)error, memory_order_relaxed);
  atomic_fetch_add_explicit(&acceptor->backoffs, 1, memory_order_relaxed);
}

enum outcome { ACCEPTED, NOTHING_THERE, TRY_NEXT, NO_MEANS, UNUSABLE };

static enum outcome judge(struct pdlb_acceptor *acceptor, int error) {
  switch (error) {
    case EAGAIN:
      return NOTHING_THERE;
    case ECONNABORTED:
    case EPROTO:
      atomic_fetch_add_explicit(&acceptor->aborted, 1, memory_order_relaxed);
      return TRY_NEXT;
    case EINTR:
    case EPERM: /* a firewall rule */
      return TRY_NEXT;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      back_off(acceptor, error);
      return NO_MEANS;
    default:
      atomic_store_explicit(&acceptor->last_errno, (uint32_t)error, memory_order_relaxed);
      return UNUSABLE;
  }
}

static enum outcome accept_one(struct pdlb_acceptor *acceptor, uint32_t index) {
  const int fd = accept4(acceptor->listeners[index].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return judge(acceptor, errno);
  acceptor->backoff = 0;
  const struct pdlb_accepted accepted = {.fd = fd, .listener = index, .accepted_at = pdlb_now()};
  atomic_fetch_add_explicit(&acceptor->accepted, 1, memory_order_relaxed);
  acceptor->unsent[acceptor->unsent_count++] = (struct pdlb_event){
      .data = slots_put(&acceptor->slots, &accepted),
      .queue = (uint8_t)acceptor->config.queue,
      .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0),
  };
  return ACCEPTED;
}

/* One listener's turn. */
static enum outcome accept_batch(struct pdlb_acceptor *acceptor, uint32_t index) {
  enum outcome outcome = ACCEPTED;
  for (uint32_t i = 0; i < acceptor->config.batch && !slots_full(&acceptor->slots); i++) {
    outcome = accept_one(acceptor, index);
    if (outcome != ACCEPTED && outcome != TRY_NEXT) break;
  }
  send_unsent(acceptor);
  return outcome;
}

/* Under the mutex: a turn for every listener, the draining ones until nothing is there. */
static void accept_from_all(struct pdlb_acceptor *acceptor) {
  for (uint32_t index = 0; index < acceptor->listener_count; index++) {
    const enum listener_state state = acceptor->listeners[index].state;
    if (state == LISTENER_UNUSED || !has_room(acceptor)) continue;
    const enum outcome outcome = accept_batch(acceptor, index);
    if (outcome == UNUSABLE || (outcome == NOTHING_THERE && state == LISTENER_DRAINING))
      drop_listener(acceptor, index);
    if (outcome == NO_MEANS) return;
  }
}

/* ---- the thread ------------------------------------------------------------------------------------------------------------------ */

static bool any_listener(const struct pdlb_acceptor *acceptor) {
  for (uint32_t index = 0; index < acceptor->listener_count; index++)
    if (acceptor->listeners[index].state != LISTENER_UNUSED) return true;
  return false;
}

/* Sleep until something is ready or `until`. */
static void wait_until(struct pdlb_acceptor *acceptor, uint64_t until) {
  struct epoll_event ready[READY];
  const uint64_t now = pdlb_now();
  const uint64_t left = until > now ? until - now : 0;
  const struct timespec time = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
  int count = epoll_pwait2(acceptor->epoll_fd, ready, READY, until == PDLB_FOREVER ? NULL : &time, NULL);
  if (count < 0 && errno == ENOSYS) {
    const int milliseconds = until == PDLB_FOREVER ? -1 : (int)((left + MILLISECOND - 1) / MILLISECOND);
    count = epoll_wait(acceptor->epoll_fd, ready, READY, milliseconds);
  }
  uint64_t calls;
  for (int i = 0; i < count; i++)
    if (ready[i].data.u64 == CALLED && read(acceptor->call_fd, &calls, sizeof calls) < 0) break;
}

/* Under the mutex. Returns when to look again; sets `*over` when the thread is to end. */
static uint64_t step(struct pdlb_acceptor *acceptor, bool *over) {
  const uint64_t now = pdlb_now();
  atomic_store_explicit(&acceptor->held_up, false, memory_order_seq_cst);
  const bool backing_off = acceptor->backoff && now < acceptor->accept_again_at;
  const bool may_accept = has_room(acceptor) && (!acceptor->paused || acceptor->stopping) && !backing_off;
  if (may_accept) accept_from_all(acceptor);

  *over = acceptor->stopping && acceptor->unsent_count == 0 && (!any_listener(acceptor) || now >= acceptor->drain_until);
  if (acceptor->stopping && now >= acceptor->drain_until) *over = true;
  const bool backing_off_now = acceptor->backoff && pdlb_now() < acceptor->accept_again_at;
  watch_all(acceptor, (!acceptor->paused || acceptor->stopping) && has_room(acceptor) && !backing_off_now);
  uint64_t next = backing_off_now ? acceptor->accept_again_at : PDLB_FOREVER;
  if (acceptor->stopping) {
    if (acceptor->drain_until < next) next = acceptor->drain_until;
    if (any_listener(acceptor) && has_room(acceptor) && !backing_off_now) next = 0;
  }
  return next;
}

static void *run(void *argument) {
  struct pdlb_acceptor *acceptor = argument;
  for (bool over = false; !over;) {
    pthread_mutex_lock(&acceptor->mutex);
    uint64_t next = step(acceptor, &over);
    pthread_mutex_unlock(&acceptor->mutex);
    const uint64_t tick = pdlb_domain_tick(acceptor->domain, pdlb_now());
    if (tick < next) next = tick;
    if (!over) wait_until(acceptor, next);
  }
  pthread_mutex_lock(&acceptor->mutex);
  for (uint32_t index = 0; index < acceptor->listener_count; index++)
    if (acceptor->listeners[index].state != LISTENER_UNUSED) drop_listener(acceptor, index);
  pthread_mutex_unlock(&acceptor->mutex);
  return NULL;
}

/* Signals are for the program's own threads. */
static int start_thread(struct pdlb_acceptor *acceptor) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int rc = pthread_create(&acceptor->thread, NULL, run, acceptor);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc == 0) pthread_setname_np(acceptor->thread, "pdlb-acceptor");
  return -rc;
}

/* ---- the interface --------------------------------------------------------------------------------------------------------------- */

static void discard(struct pdlb_acceptor *acceptor) {
  if (acceptor->epoll_fd >= 0) close(acceptor->epoll_fd);
  if (acceptor->call_fd >= 0) close(acceptor->call_fd);
  slots_free(&acceptor->slots);
  pthread_mutex_destroy(&acceptor->mutex);
  free(acceptor);
}

static int open_descriptors(struct pdlb_acceptor *acceptor) {
  acceptor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (acceptor->epoll_fd < 0) return -errno;
  acceptor->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (acceptor->call_fd < 0) return -errno;
  struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = CALLED}};
  return epoll_ctl(acceptor->epoll_fd, EPOLL_CTL_ADD, acceptor->call_fd, &event) < 0 ? -errno : 0;
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
  pthread_mutex_init(&acceptor->mutex, NULL);
  acceptor->domain = domain;
  acceptor->port = port;
  acceptor->config = *config;
  acceptor->epoll_fd = acceptor->call_fd = -1;
  int rc = slots_init(&acceptor->slots, config->slots);
  if (rc == 0) rc = open_descriptors(acceptor);
  if (rc == 0) rc = pdlb_domain_set_external_clock(domain, true, error);
  if (rc == 0) rc = start_thread(acceptor);
  if (rc < 0) {
    discard(acceptor);
    return pdlb_fail(error, -rc, "start acceptor", "%s", strerror(-rc));
  }
  *result = acceptor;
  return 0;
}

/* Under the mutex. */
static int add_locked(struct pdlb_acceptor *acceptor, int fd) {
  uint32_t index = 0;
  while (index < acceptor->listener_count && acceptor->listeners[index].state != LISTENER_UNUSED) index++;
  if (index == MAX_LISTENERS) return -ENOSPC;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return -errno;
  acceptor->listeners[index] = (struct listener){.state = LISTENER_OPEN, .fd = own};
  if (index == acceptor->listener_count) acceptor->listener_count++;
  return (int)index;
}

int pdlb_acceptor_add(struct pdlb_acceptor *acceptor, int fd, struct pdlb_error *error) {
  int listening = 0;
  socklen_t size = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0)
    return pdlb_fail(error, errno, "add listener", "descriptor %d is no socket: %s", fd, strerror(errno));
  if (!listening) return pdlb_fail(error, EINVAL, "add listener", "socket %d does not listen: call listen() first", fd);
  const int flags = fcntl(fd, F_GETFL);
  if (!(flags & O_NONBLOCK))
    return pdlb_fail(error, EINVAL, "add listener", "socket %d is blocking: call setblocking(False) first", fd);
  pthread_mutex_lock(&acceptor->mutex);
  const int rc = acceptor->stopping ? -EPIPE : add_locked(acceptor, fd);
  pthread_mutex_unlock(&acceptor->mutex);
  if (rc < 0) return pdlb_fail(error, -rc, "add listener", "%s", strerror(-rc));
  call(acceptor);
  return rc;
}

int pdlb_acceptor_remove(struct pdlb_acceptor *acceptor, uint32_t index, bool drain, struct pdlb_error *error) {
  pthread_mutex_lock(&acceptor->mutex);
  const bool known = index < acceptor->listener_count && acceptor->listeners[index].state != LISTENER_UNUSED;
  if (known && drain) acceptor->listeners[index].state = LISTENER_DRAINING;
  if (known && !drain) drop_listener(acceptor, index);
  pthread_mutex_unlock(&acceptor->mutex);
  if (!known) return pdlb_fail(error, EINVAL, "remove listener", "there is no listener %u", index);
  call(acceptor);
  return 0;
}

void pdlb_acceptor_pause(struct pdlb_acceptor *acceptor, bool paused) {
  pthread_mutex_lock(&acceptor->mutex);
  acceptor->paused = paused;
  pthread_mutex_unlock(&acceptor->mutex);
  call(acceptor);
}

static void note_handoff(struct pdlb_acceptor *acceptor, uint64_t accepted_at) {
  const uint64_t now = pdlb_now(), microseconds = now > accepted_at ? (now - accepted_at) / 1000 : 0;
  uint32_t bucket = microseconds ? 64u - (uint32_t)__builtin_clzll(microseconds) : 0;
  if (bucket >= PDLB_HANDOFF_BUCKETS) bucket = PDLB_HANDOFF_BUCKETS - 1;
  atomic_fetch_add_explicit(&acceptor->handoff[bucket], 1, memory_order_relaxed);
}

/* A take makes room for a slot; the receive before it, for a credit. */
static void count_take(struct pdlb_acceptor *acceptor, const struct pdlb_accepted *accepted) {
  atomic_fetch_add_explicit(&acceptor->taken, 1, memory_order_relaxed);
  note_handoff(acceptor, accepted->accepted_at);
  if (atomic_load_explicit(&acceptor->held_up, memory_order_seq_cst)) call(acceptor);
}

int pdlb_acceptor_take(struct pdlb_acceptor *acceptor, uint64_t token, struct pdlb_accepted *accepted) {
  if (!slots_take(&acceptor->slots, token, accepted)) return -ESTALE;
  count_take(acceptor, accepted);
  return 0;
}

int pdlb_acceptor_take_left(struct pdlb_acceptor *acceptor, struct pdlb_accepted *accepted) {
  if (!slots_take_any(&acceptor->slots, accepted)) return -ENOENT;
  count_take(acceptor, accepted);
  return 0;
}

void pdlb_acceptor_stop(struct pdlb_acceptor *acceptor, uint64_t drain_until) {
  pthread_mutex_lock(&acceptor->mutex);
  const bool already = acceptor->stopping;
  acceptor->stopping = true;
  acceptor->drain_until = drain_until;
  for (uint32_t index = 0; index < acceptor->listener_count; index++)
    if (acceptor->listeners[index].state == LISTENER_OPEN) acceptor->listeners[index].state = LISTENER_DRAINING;
  pthread_mutex_unlock(&acceptor->mutex);
  call(acceptor);
  if (!already) pthread_join(acceptor->thread, NULL);
}

void pdlb_acceptor_free(struct pdlb_acceptor *acceptor) {
  struct pdlb_accepted left;
  while (slots_take_any(&acceptor->slots, &left)) close(left.fd);
  discard(acceptor);
}

void pdlb_acceptor_stats(const struct pdlb_acceptor *acceptor, struct pdlb_acceptor_stats *stats) {
  /* Out before in, so that what is counted as taken was counted as accepted. */
  stats->taken = atomic_load_explicit(&acceptor->taken, memory_order_seq_cst);
  stats->accepted = atomic_load_explicit(&acceptor->accepted, memory_order_seq_cst);
  stats->aborted = atomic_load_explicit(&acceptor->aborted, memory_order_relaxed);
  stats->held_up = atomic_load_explicit(&acceptor->times_held_up, memory_order_relaxed);
  stats->backoffs = atomic_load_explicit(&acceptor->backoffs, memory_order_relaxed);
  stats->last_errno = atomic_load_explicit(&acceptor->last_errno, memory_order_relaxed);
  for (uint32_t bucket = 0; bucket < PDLB_HANDOFF_BUCKETS; bucket++)
    stats->handoff[bucket] = atomic_load_explicit(&acceptor->handoff[bucket], memory_order_relaxed);
}
