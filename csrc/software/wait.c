/* How a software port waits, and how it is woken.
 *
 * A thread in pdlb_port_recv sleeps on a futex; a user who waits by himself (select, epoll, an event loop) has a
 * descriptor. Either way: arm, look again, then sleep. A waker bumps the futex word first, so a sleeper that has not
 * yet slept will not.
 *
 * A port that waits by descriptor is only believed idle: its loop may be busy. Where no clock outside looks after
 * that, waking one such port starts the timer of another, which the first one stops when it comes.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "one.h"
#include "software.h"

#define NANOSECONDS 1000000000u

/* A lock is held for well under a microsecond, unless its owner was put off the CPU. */
#define YIELDS 32u
#define OWNER_AWAY_NS 50000
#define OWNER_LATE 50u /* pauses */

uint64_t software_now(void *context) {
  (void)context;
  return pdlb_now();
}

static void write_event(int fd) {
  const uint64_t one = 1;
  while (write(fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

/* After some 5 ms it is asked whether the owner lives: by the creator itself, or at the instance of a member. */
bool software_relax(void *context, uint32_t owner, uint32_t times) {
  struct software_domain *domain = context;
  if (times < YIELDS) {
    sched_yield();
    return false;
  }
  const struct timespec pause = {.tv_nsec = OWNER_AWAY_NS};
  nanosleep(&pause, NULL);
  if (domain->memory_fd < 0 || owner == domain->engine.owner || times % OWNER_LATE != 0) return false;
  if (!domain->joined) return software_member_is_dead(domain, owner);
  atomic_store_explicit(&domain->head->suspect, owner, memory_order_seq_cst);
  write_event(domain->bell_fd);
  return false;
}

/* ---- timers
 * ---------------------------------------------------------------------------------------------------------------- */

/* Under the waiter's mutex. `at` 0 stops the timer. */
static void set_timer(struct waiter *waiter, uint64_t at, uint32_t watches) {
  if (waiter->timer_fd < 0) return;
  const struct itimerspec time = {
      .it_value = {.tv_sec = (time_t)(at / NANOSECONDS), .tv_nsec = (long)(at % NANOSECONDS)}};
  timerfd_settime(waiter->timer_fd, TFD_TIMER_ABSTIME, &time, NULL);
  waiter->watches = at ? watches : 0;
  if (at) atomic_store_explicit(&waiter->timer_set, 1, memory_order_relaxed);
}

/* In case `port` does not come, `late` will. */
static void watch(struct software_domain *domain, uint32_t port, uint32_t late, uint64_t at) {
  struct waiter *waiter = &domain->waiters[late];
  pthread_mutex_lock(&waiter->mutex);
  if (waiter->timer_fd >= 0) {
    set_timer(waiter, at, port + 1);
    atomic_store_explicit(&domain->waiters[port].watched_by, late + 1, memory_order_relaxed);
  }
  pthread_mutex_unlock(&waiter->mutex);
}

/* The port has come: whoever watched it need not. */
static void unwatch(struct software_port *port) {
  const uint32_t late = atomic_exchange_explicit(&port->waiter->watched_by, 0, memory_order_relaxed);
  if (!late) return;
  struct waiter *waiter = &port->domain->waiters[late - 1];
  pthread_mutex_lock(&waiter->mutex);
  if (waiter->watches == port->index + 1) set_timer(waiter, 0, 0);
  pthread_mutex_unlock(&waiter->mutex);
}

/* ---- waking
 * ---------------------------------------------------------------------------------------------------------------- */

static void signal_fd(struct software_domain *domain, struct waiter *waiter) {
  if (atomic_load_explicit(&waiter->expected, memory_order_seq_cst)) return; /* it arms the port after it has looked */
  pthread_mutex_lock(&waiter->mutex);
  if (waiter->event_fd >= 0) {
    /* Before the write: it may put the sleeper into this thread's place on the processor. After it: who had seen the
     * flag already, and found nothing to read, is told again. */
    atomic_store_explicit(&waiter->doorbell->signalled, 1, memory_order_release);
    write_event(waiter->event_fd);
    atomic_store_explicit(&waiter->doorbell->signalled, 1, memory_order_release);
  } else if (domain->joined) {
    atomic_store_explicit(&waiter->doorbell->rung, 1, memory_order_seq_cst);
    write_event(domain->bell_fd);
  }
  pthread_mutex_unlock(&waiter->mutex);
}

void software_answer_bells(struct software_domain *domain) {
  uint64_t count;
  if (read(domain->bell_fd, &count, sizeof count) < 0) return;
  const uint32_t ports = domain->taken.ldb_ports + domain->taken.dir_ports;
  for (uint32_t index = 0; index < ports; index++)
    if (atomic_exchange_explicit(&domain->waiters[index].doorbell->rung, 0, memory_order_seq_cst))
      signal_fd(domain, &domain->waiters[index]);
}

/* What a futex word's address means to the kernel: this process's memory, or whatever is mapped there. */
static int futex_scope(const struct software_domain *domain) { return domain->memory_fd < 0 ? FUTEX_PRIVATE_FLAG : 0; }

static bool has_fd(const struct doorbell *doorbell) {
  return atomic_load_explicit(&doorbell->special, memory_order_seq_cst) & DOORBELL_HAS_FD;
}

static void rouse(struct software_domain *domain, struct waiter *waiter) {
  struct doorbell *doorbell = waiter->doorbell;
  atomic_fetch_add_explicit(&doorbell->sequence, 1, memory_order_seq_cst);
  if (atomic_load_explicit(&doorbell->sleeping, memory_order_seq_cst))
    syscall(SYS_futex, &doorbell->sequence, FUTEX_WAKE | futex_scope(domain), 1, NULL, NULL, 0);
  else if (has_fd(doorbell))
    signal_fd(domain, waiter);
}

void software_wake(void *context, uint32_t port, uint32_t late, uint64_t grace) {
  struct software_domain *domain = context;
  struct waiter *waiter = &domain->waiters[port];
  if (late != PDLB_NONE && has_fd(waiter->doorbell)) watch(domain, port, late, pdlb_now() + grace);
  rouse(domain, waiter);
}

/* What a receive has to heed from now on, said where it looks. */
static void set_special(struct software_domain *domain, uint32_t index, uint32_t special) {
  atomic_fetch_or_explicit(&domain->waiters[index].doorbell->special, special, memory_order_seq_cst);
  pdlb_engine_heed_host(&domain->engine, index, true);
}

void software_port_cancel(struct pdlb_port *base) {
  struct software_port *port = (struct software_port *)base;
  struct doorbell *doorbell = port->doorbell;
  set_special(port->domain, port->index, DOORBELL_CANCELLED);
  /* It is chosen no more, and what it was chosen for goes to others. */
  pdlb_engine_port_enable(&port->domain->engine, port->index, false);
  rouse(port->domain, port->waiter);
  if (has_fd(doorbell)) signal_fd(port->domain, port->waiter);
}

/* ---- waiting
 * --------------------------------------------------------------------------------------------------------------- */

void software_port_expect(struct pdlb_port *base) {
  const struct software_port *port = (const struct software_port *)base;
  if (has_fd(port->doorbell)) atomic_store_explicit(&port->waiter->expected, 1, memory_order_seq_cst);
}

/* Read what made the descriptor readable. From now on whoever wakes the port tells it. */
static void drain_fd(struct software_port *port) {
  struct waiter *waiter = port->waiter;
  uint64_t count;
  if (atomic_load_explicit(&waiter->expected, memory_order_relaxed))
    atomic_store_explicit(&waiter->expected, 0, memory_order_seq_cst);
  if (atomic_exchange_explicit(&waiter->doorbell->signalled, 0, memory_order_acquire))
    while (read(waiter->event_fd, &count, sizeof count) < 0 && errno == EINTR) continue;
  if (atomic_load_explicit(&waiter->timer_set, memory_order_relaxed) &&
      read(waiter->timer_fd, &count, sizeof count) == (ssize_t)sizeof count)
    atomic_store_explicit(&waiter->timer_set, 0, memory_order_relaxed);
  unwatch(port);
}

/* The port leaves with less than it asked for: arm it. What came meanwhile makes the descriptor readable at once. */
static void arm_fd(struct software_port *port) {
  struct pdlb_engine *engine = &port->domain->engine;
  pdlb_engine_arm(engine, port->index);
#ifndef PDLB_BREAK_RECHECK
  if (pdlb_engine_has_work(engine, port->index) && pdlb_engine_disarm(engine, port->index))
    signal_fd(port->domain, port->waiter);
#endif
}

/* The port found nothing: arm it, and look again. There may be work that others are due for, or whose flow is in
 * flight elsewhere: that is no reason to be woken at once, but perhaps later. */
static int arm_fd_and_look(struct software_port *port, struct pdlb_event *events, uint32_t max) {
  struct pdlb_engine *engine = &port->domain->engine;
  uint64_t retry_at = PDLB_FOREVER;
  int rc = 0;
  pdlb_engine_arm(engine, port->index);
#ifndef PDLB_BREAK_RECHECK
  rc = (int)pdlb_engine_schedule(&port->user, events, max, &retry_at);
#endif
  if (rc == 0 && retry_at != PDLB_FOREVER) {
    pthread_mutex_lock(&port->waiter->mutex);
    set_timer(port->waiter, retry_at, 0);
    pthread_mutex_unlock(&port->waiter->mutex);
  }
  if ((uint32_t)rc == max)
    pdlb_engine_disarm(engine, port->index);
  else if (rc > 0)
    arm_fd(port);
  return rc;
}

/* Returns 0 when the word has moved on or the time is over, else -EINTR. */
static int sleep_on(const struct software_port *port, uint32_t sequence, uint64_t until) {
  struct timespec time = {.tv_sec = (time_t)(until / NANOSECONDS), .tv_nsec = (long)(until % NANOSECONDS)};
  const long rc = syscall(SYS_futex, &port->waiter->doorbell->sequence, FUTEX_WAIT_BITSET | futex_scope(port->domain),
                          sequence, until == PDLB_FOREVER ? NULL : &time, NULL, FUTEX_BITSET_MATCH_ANY);
  return rc < 0 && errno == EINTR ? -EINTR : 0;
}

static bool is_cancelled(const struct doorbell *doorbell) {
  return atomic_load_explicit(&doorbell->special, memory_order_seq_cst) & DOORBELL_CANCELLED;
}

/* Look again for a moment before going to sleep, as long as that pays: where elements come thick and fast, a system
 * call to sleep and one to wake for each would cost ten times what they do. Others who wait for this processor come
 * first, and where they keep it the moment is over. Now and then it is seen whether it pays again. */
#define LOOKS_MOST 64u
#define LOOKS_FEW 4u
#define LOOKS_NS 50000u
#define WAITS_BETWEEN 32u

static int look_again(struct software_port *port, struct pdlb_event *events, uint32_t max) {
  const bool trial = port->looks == 0;
  if (trial && ++port->waits % WAITS_BETWEEN) return 0;
  const uint32_t looks = trial ? LOOKS_FEW : port->looks;
  const uint64_t until = pdlb_now() + LOOKS_NS;
  uint32_t left = looks, came = 0;
  bool work;
  do {
    sched_yield();
    work = pdlb_engine_has_work(&port->domain->engine, port->index);
  } while (!work && --left && pdlb_now() < until);
  if (work) came = pdlb_engine_schedule(&port->user, events, max, NULL);
  if (came)
    port->looks = 2 * looks < LOOKS_MOST ? 2 * looks : LOOKS_MOST;
  else
    port->looks = looks > LOOKS_FEW ? looks / 2 : 0;
  return (int)came;
}

/* Arm, look again, sleep. Returns what was received, 0 to try again, or -errno. */
static int wait_once(struct software_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  struct doorbell *doorbell = port->doorbell;
  struct pdlb_engine *engine = &port->domain->engine;
  uint64_t retry_at = deadline;
  int rc = 0;
  const uint32_t sequence = atomic_load_explicit(&doorbell->sequence, memory_order_seq_cst);
  atomic_store_explicit(&doorbell->sleeping, 1, memory_order_seq_cst);
  const enum pdlb_presence before = pdlb_engine_presence(engine, port->index, PDLB_PARKED);
  pdlb_engine_arm(engine, port->index);
#ifndef PDLB_BREAK_RECHECK
  rc = (int)pdlb_engine_schedule(&port->user, events, max, &retry_at);
#endif
  if (rc == 0 && !is_cancelled(doorbell)) rc = sleep_on(port, sequence, retry_at);
  atomic_store_explicit(&doorbell->sleeping, 0, memory_order_seq_cst);
  pdlb_engine_presence(engine, port->index, before);
  pdlb_engine_disarm(engine, port->index);
  return rc;
}

static __attribute__((noinline)) int recv_or_wait(struct software_port *port, struct pdlb_event *events, uint32_t max,
                                                  uint64_t deadline) {
  const struct doorbell *doorbell = port->doorbell;
  if (has_fd(doorbell)) drain_fd(port);
  for (;;) {
    if (is_cancelled(doorbell)) return -ECANCELED;
    uint64_t retry_at = PDLB_FOREVER;
    int rc = (int)pdlb_engine_schedule(&port->user, events, max, &retry_at);
    if (rc == 0 && max && deadline && pdlb_now() < deadline) {
#ifndef PDLB_BREAK_RECHECK /* it would find most of what a look after arming is there for */
      rc = look_again(port, events, max);
#endif
      if (rc == 0) rc = wait_once(port, events, max, deadline);
      if (rc == 0) continue;
    }
    /* Asked again: another thread may have taken the descriptor meanwhile, and its arming undone by this wait's end. */
    if (!max || !has_fd(doorbell)) return rc;
    if (rc == 0) return arm_fd_and_look(port, events, max);
    if (rc < 0 || (uint32_t)rc < max) arm_fd(port);
    return rc;
  }
}

int software_port_recv(struct pdlb_port *base, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  struct software_port *port = (struct software_port *)base;
  if (deadline || engine_has_any(&port->user.port->notice, NOTICE_HOST))
    return recv_or_wait(port, events, max, deadline);
  return (int)pdlb_engine_schedule(&port->user, events, max, NULL);
}

/* ---- descriptors
 * ----------------------------------------------------------------------------------------------------------- */

void software_waiter_init(struct waiter *waiter, struct doorbell *doorbell) {
  waiter->doorbell = doorbell;
  pthread_mutex_init(&waiter->mutex, NULL);
  waiter->event_fd = waiter->timer_fd = waiter->poll_fd = -1;
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* Under the waiter's mutex. */
static void close_fds(struct waiter *waiter) {
  if (waiter->poll_fd == waiter->event_fd) waiter->poll_fd = -1;
  close_fd(&waiter->poll_fd);
  close_fd(&waiter->event_fd);
  close_fd(&waiter->timer_fd);
}

void software_waiter_close(struct waiter *waiter, bool unused) {
  pthread_mutex_lock(&waiter->mutex);
  if (unused) atomic_fetch_and_explicit(&waiter->doorbell->special, ~DOORBELL_HAS_FD, memory_order_release);
  close_fds(waiter);
  waiter->watches = 0;
  pthread_mutex_unlock(&waiter->mutex);
  if (unused) atomic_store_explicit(&waiter->doorbell->signalled, 0, memory_order_relaxed);
  atomic_store_explicit(&waiter->expected, 0, memory_order_relaxed);
  atomic_store_explicit(&waiter->timer_set, 0, memory_order_relaxed);
  atomic_store_explicit(&waiter->watched_by, 0, memory_order_relaxed);
}

static int add_to_set(int set, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
  return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

/* One descriptor that is readable when either of two is. */
static int open_fds(struct waiter *waiter, bool with_timer) {
  waiter->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (waiter->event_fd < 0) return -errno;
  waiter->poll_fd = waiter->event_fd;
  if (!with_timer) return 0;
  waiter->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (waiter->timer_fd < 0) return -errno;
  waiter->poll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (waiter->poll_fd < 0) return -errno;
  if (add_to_set(waiter->poll_fd, waiter->event_fd) < 0 || add_to_set(waiter->poll_fd, waiter->timer_fd) < 0)
    return -errno;
  return 0;
}

int software_port_fd(struct pdlb_port *base, struct pdlb_error *error) {
  struct software_port *port = (struct software_port *)base;
  struct waiter *waiter = port->waiter;
  pthread_mutex_lock(&waiter->mutex);
  const bool fresh = waiter->poll_fd < 0;
  int rc = fresh ? open_fds(waiter, !pdlb_engine_has_clock(&port->domain->engine)) : 0;
  if (rc < 0)
    close_fds(waiter);
  else
    rc = waiter->poll_fd;
  pthread_mutex_unlock(&waiter->mutex);
  if (rc < 0) return pdlb_fail(error, -rc, "fileno", "no descriptor to wait for port %u: %s", base->id, strerror(-rc));
  if (fresh) {
    set_special(port->domain, port->index, DOORBELL_HAS_FD);
    arm_fd(port);
    /* A cancel that came before it could signal the descriptor. */
    if (is_cancelled(waiter->doorbell)) signal_fd(port->domain, waiter);
  }
  return rc;
}
