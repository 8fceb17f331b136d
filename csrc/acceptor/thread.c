/* The accepting thread. It sleeps in one epoll set: listeners, and an event descriptor by which others call it. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "internal.h"

#define READY 64

/* A worker needs longer than this for a connection: for each permit that waits, and no more than so many. */
#define NAP_NS 50000
#define LONGEST_NAP 20
#define MILLISECOND 1000000u

/* Without descriptors or memory, accept again after 5 ms, then twice as long each time, up to a tenth of a second. */
#define FIRST_BACKOFF_NS (5u * MILLISECOND)
#define LONGEST_BACKOFF_NS (100u * MILLISECOND)

/* While nothing can be accepted, because processes have too much. */
#define LOOK_AGAIN_NS (10u * MILLISECOND)

/* A connection that comes so long after the one before comes by itself; and one that comes so long after it, while
 * nothing waits for workers, alone: there is time to hand the lead on. */
#define BY_ITSELF_NS 50000u
#define ALONE_NS 100000u

/* ---- accepting ------------------------------------------------------------------------------------------------- */

/* The slot of the connection that is accepted next is reserved before. */
static bool has_slot(struct pdlb_acceptor *acceptor) {
  acceptor->has_reserved = acceptor->has_reserved || slots_reserve(&acceptor->slots, &acceptor->reserved);
  return acceptor->has_reserved;
}

/* A process has a shelf, and that is finite. */
static bool has_shelf(struct pdlb_acceptor *acceptor) {
  if (!acceptor->config.board) return true;
  pthread_mutex_lock(&acceptor->workers.mutex);
  workers_see(&acceptor->workers);
  const bool room = workers_any_room(&acceptor->workers);
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return room;
}

/* False, and to be called after the next take, if there is no slot or no credit. */
static bool has_room(struct pdlb_acceptor *acceptor) {
  if (handoff_resend(acceptor) && has_slot(acceptor) && has_shelf(acceptor)) return true;
  if (acceptor->config.board) board_want_call(acceptor->config.board, true);
  if (!atomic_exchange_explicit(&acceptor->held_up, true, memory_order_seq_cst))
    acceptor_count(&acceptor->times_held_up);
  return handoff_resend(acceptor) && has_slot(acceptor) && has_shelf(acceptor);
}

static void back_off(struct pdlb_acceptor *acceptor, int error) {
  acceptor->backoff = acceptor->backoff ? 2 * acceptor->backoff : FIRST_BACKOFF_NS;
  if (acceptor->backoff > LONGEST_BACKOFF_NS) acceptor->backoff = LONGEST_BACKOFF_NS;
  acceptor->accept_again_at = pdlb_now() + acceptor->backoff;
  atomic_store_explicit(&acceptor->last_errno, (uint32_t)error, memory_order_relaxed);
  acceptor_count(&acceptor->backoffs);
}

bool accept_backs_off(const struct pdlb_acceptor *acceptor) {
  return acceptor->backoff && pdlb_now() < acceptor->accept_again_at;
}

enum accept_outcome accept_judge(struct pdlb_acceptor *acceptor, int error) {
  switch (error) {
    case EAGAIN: return NOTHING_THERE;
    case ECONNABORTED:
    case EPROTO: acceptor_count(&acceptor->aborted); return TRY_NEXT;
    case EINTR:
    case EPERM: /* a firewall rule */ return TRY_NEXT;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM: back_off(acceptor, error); return NO_MEANS;
    case EINVAL: /* shut down, and empty */ return UNUSABLE;
    default: atomic_store_explicit(&acceptor->last_errno, (uint32_t)error, memory_order_relaxed); return UNUSABLE;
  }
}

/* A UNIX socket that was shut down is readable for ever, and has nothing. */
static bool is_shut_down(const struct listener *listener) {
  struct pollfd state = {.fd = listener->fd, .events = POLLRDHUP};
  return listener->family == AF_UNIX && poll(&state, 1, 0) == 1 && state.revents;
}

static enum accept_outcome accept_one(struct pdlb_acceptor *acceptor, struct listener *listener, bool refuses) {
  const int flags = acceptor->config.blocking ? SOCK_CLOEXEC : SOCK_CLOEXEC | SOCK_NONBLOCK;
  struct fresh *fresh = &acceptor->fresh[acceptor->fresh_count];
  fresh->address_size = sizeof fresh->address;
  const int fd = accept4(listener->fd, (struct sockaddr *)&fresh->address, &fresh->address_size, flags);
  if (fd < 0) {
    const enum accept_outcome outcome = accept_judge(acceptor, errno);
    return outcome == NOTHING_THERE && is_shut_down(listener) ? UNUSABLE : outcome;
  }
  acceptor->backoff = 0;
  if (refuses) {
    acceptor_count(&acceptor->accepted);
    limits_refuse(acceptor, fd);
    return TRY_NEXT; /* there is nothing fresh */
  }
  fresh->accepted = (struct pdlb_accepted){
      .fd = fd,
      .listener = listener->id,
      .family = listener->family,
      .protocol = listener->protocol,
      .worker = PDLB_NONE,
      .accepted_at = pdlb_now(),
  };
  listener->accepted_at = fresh->accepted.accepted_at;
  /* Before the slot is filled: nobody may be seen to take what was not accepted. */
  acceptor_count(&acceptor->accepted);
  if (listener->state == LISTENER_DRAINING) acceptor_count(&acceptor->drained);
  if (listener->proxy) {
    intake_add(&acceptor->intake, &fresh->accepted, listener->proxy == PDLB_PROXY_OPTIONAL);
    return ACCEPTED;
  }
  fresh->token = acceptor->reserved;
  acceptor->has_reserved = false;
  acceptor->fresh_count++;
  return ACCEPTED;
}

static uint32_t unpicked(const struct pdlb_acceptor *acceptor) {
  return acceptor->fresh_count + atomic_load_explicit(&acceptor->unpicked, memory_order_relaxed);
}

bool acceptor_refuse_one(struct pdlb_acceptor *acceptor, struct listener *listener) {
  if (acceptor->fresh_count == MAX_BATCH || accept_backs_off(acceptor)) return false;
  return accept_one(acceptor, listener, true) == TRY_NEXT;
}

/* One listener's turn. A connection that comes by itself is handed on at once: if there is another one, the epoll set
 * tells. */
static enum accept_outcome accept_batch(struct pdlb_acceptor *acceptor, struct listener *listener) {
  const uint64_t before = listener->accepted_at;
  uint64_t previous = before;
  const bool behind = handoff_waits(acceptor);
  enum accept_outcome outcome = ACCEPTED;
  bool told = listener->ready;
  listener->ready = false;
  for (uint32_t i = 0; i < acceptor->config.batch; i++) {
    if (acceptor->fresh_count == MAX_BATCH || !has_slot(acceptor)) break;
    const enum verdict verdict = limits_judge(acceptor, unpicked(acceptor));
    if (verdict == LIMITS_LEAVE) break;
    if (!told && !listener_has_more(listener)) return NOTHING_THERE;
    told = false;
    outcome = accept_one(acceptor, listener, verdict == LIMITS_REFUSE);
    if (outcome != ACCEPTED && outcome != TRY_NEXT) break;
    if (outcome == TRY_NEXT) continue;
    acceptor->alone = !behind && listener->accepted_at - previous > ALONE_NS;
    previous = listener->accepted_at;
    if (listener->state == LISTENER_OPEN && listener->accepted_at - before > BY_ITSELF_NS) break;
  }
  return outcome;
}

/* Under the mutex: a turn for every listener that has something, the draining ones until nothing is there. Each is
 * first in its turn, so that none is kept from the last slots for ever. */
void accept_from_all(struct pdlb_acceptor *acceptor) {
  struct listeners *listeners = &acceptor->listeners;
  const uint32_t first = listeners->turn++;
  for (uint32_t i = 0; i < listeners->count; i++) {
    struct listener *listener = &listeners->table[(first + i) % listeners->count];
    const enum listener_state state = listener->state;
    if (state == LISTENER_UNUSED || listener->for_workers) continue;
    if ((state == LISTENER_OPEN && !listener->ready) || !has_room(acceptor)) continue;
    const enum accept_outcome outcome = accept_batch(acceptor, listener);
    if (outcome == UNUSABLE || (outcome == NOTHING_THERE && state == LISTENER_DRAINING))
      listeners_drop(listeners, listener);
    if (outcome == NO_MEANS) return;
  }
}

/* The clock may be so late for what a worker has sent. */
#define LATE_NS 5000000u

void acceptor_keep_time(struct pdlb_acceptor *acceptor) {
  if (atomic_load_explicit(&acceptor->awake_at, memory_order_seq_cst) > pdlb_now() + LATE_NS) acceptor_call(acceptor);
}

/* ---- the thread ------------------------------------------------------------------------------------------------ */

/* Sleep until something is ready or `until`. Returns how much is. */
static int sleep_until(const struct pdlb_acceptor *acceptor, uint64_t until, struct epoll_event ready[READY]) {
  const uint64_t now = pdlb_now();
  const uint64_t left = until > now ? until - now : 0;
  const struct timespec time = {.tv_sec = (time_t)(left / SECOND), .tv_nsec = (long)(left % SECOND)};
  if (acceptor->has_pwait2)
    return epoll_pwait2(acceptor->listeners.epoll_fd, ready, READY, until == PDLB_FOREVER ? NULL : &time, NULL);
  const uint64_t milliseconds = (left + MILLISECOND - 1) / MILLISECOND;
  const int most = until == PDLB_FOREVER ? -1 : milliseconds > 1000 ? 1000 : (int)milliseconds;
  return epoll_wait(acceptor->listeners.epoll_fd, ready, READY, most);
}

/* Returns on duty, under the mutex. */
static void wait_until(struct pdlb_acceptor *acceptor, uint64_t until) {
  struct epoll_event ready[READY];
  pthread_mutex_unlock(&acceptor->duty);
  const int found = sleep_until(acceptor, until, ready);
  pthread_mutex_lock(&acceptor->duty);
  pthread_mutex_lock(&acceptor->mutex);
  if (atomic_exchange_explicit(&acceptor->look, false, memory_order_acquire)) listeners_look(&acceptor->listeners);
  for (int i = 0; i < found; i++) {
    const uint64_t who = ready[i].data.u64;
    struct listener *const listener = who <= UINT32_MAX ? listeners_find(&acceptor->listeners, (uint32_t)who) : NULL;
    if (listener) listener->ready = true;
  }
}

/* Under the mutex: who accepts from which listener. */
static void share_out(struct pdlb_acceptor *acceptor) {
  struct listeners *listeners = &acceptor->listeners;
  const bool refuses = limits_judge(acceptor, unpicked(acceptor)) == LIMITS_REFUSE;
  for (uint32_t place = 0; place < listeners->count; place++) {
    struct listener *listener = &listeners->table[place];
    listener->for_workers = lanes_serve(acceptor, listener, refuses);
  }
}

/* Under the mutex: workers accept from now on, and may need the last slot. */
static void leave_it_to_workers(struct pdlb_acceptor *acceptor) {
  share_out(acceptor);
  if (acceptor->has_reserved) slots_give_back(&acceptor->slots, acceptor->reserved);
  acceptor->has_reserved = false;
}

static bool accepts(struct pdlb_acceptor *acceptor) {
  if (!acceptor->config.board) return true;
  pthread_mutex_lock(&acceptor->workers.mutex);
  const bool picks = acceptor->workers.policy.policy != PDLB_POLICY_QUEUE || acceptor->workers.limit;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return picks;
}

/* Under the mutex: others accept, by permit. Returns when to look again at the latest. */
static uint64_t permit(struct pdlb_acceptor *acceptor, bool wanted) {
  acceptor->behind = 0;
  if (!listeners_watch(&acceptor->listeners, wanted)) back_off(acceptor, ENOMEM);
  const uint64_t look = wanted ? permits_issue(acceptor) : PDLB_FOREVER, headers = proxied_collect(acceptor);
  return headers < look ? headers : look;
}

/* Under the mutex: permits are for arrivals, of which the set tells once. */
static void change_watch(struct pdlb_acceptor *acceptor, bool accepting) {
  listeners_watch(&acceptor->listeners, false);
  acceptor->listeners.arrivals_only = !accepting;
  acceptor->accepted_before = accepting;
  acceptor->behind = 0;
}

/* Under the mutex. Returns when to look again at the latest. */
static uint64_t step(struct pdlb_acceptor *acceptor) {
  struct listeners *listeners = &acceptor->listeners;
  const bool wanted = !acceptor->paused || acceptor->stopping;
  const bool accepting = accepts(acceptor);
  if (accepting != acceptor->accepted_before) change_watch(acceptor, accepting);
  if (!accepting) return permit(acceptor, wanted);
  atomic_store_explicit(&acceptor->held_up, false, memory_order_seq_cst);
  const bool room = has_room(acceptor);
  if (acceptor->config.by_workers) share_out(acceptor);
  if (room && wanted && !accept_backs_off(acceptor)) accept_from_all(acceptor);
  uint64_t look = proxied_collect(acceptor);

  /* What cannot be accepted now must not keep the thread awake. */
  const bool may_accept = wanted && has_room(acceptor) && !accept_backs_off(acceptor) &&
                          limits_judge(acceptor, unpicked(acceptor)) != LIMITS_LEAVE;
  if (acceptor->config.by_workers) leave_it_to_workers(acceptor);
  acceptor->may_accept = may_accept;
  if (!listeners_watch(listeners, may_accept)) back_off(acceptor, ENOMEM);
  /* A process that dies does not call. */
  if (!may_accept && acceptor->config.board && pdlb_now() + LOOK_AGAIN_NS < look) look = pdlb_now() + LOOK_AGAIN_NS;
  if (accept_backs_off(acceptor)) return acceptor->accept_again_at < look ? acceptor->accept_again_at : look;
  /* A draining one wakes nobody when it is empty: look until then. */
  return may_accept && listeners_draining(listeners) ? 0 : look;
}

/* Under the mutex: whether all was accepted that was to be, or the time for it is over. */
static void stop_if_done(struct pdlb_acceptor *acceptor) {
  if (!acceptor->stopping || acceptor->stopped) return;
  const bool is_late = pdlb_now() >= acceptor->drain_until;
  if (is_late) listeners_drop_all(&acceptor->listeners);
  if (is_late && acceptor->has_intake) intake_end(&acceptor->intake);
  if (listeners_any(&acceptor->listeners) || (acceptor->has_intake && acceptor->intake.count)) return;
  acceptor->stopped = true;
  pthread_cond_broadcast(&acceptor->has_stopped);
}

/* Under the mutex: why nothing can be sent. */
static void note_trouble(struct pdlb_acceptor *acceptor) {
  if (acceptor->asked) { /* to send nothing tells whether something could be sent */
    enum pdlb_refusal why;
    acceptor->asked = false;
    pdlb_port_send(acceptor->port, acceptor->unsent, 0, &why);
    if (why != PDLB_TAKEN && why != PDLB_NO_CREDIT) acceptor->send_trouble = why;
  }
  if (acceptor->send_trouble == PDLB_TAKEN || acceptor->next_domain) return;
  if (acceptor->trouble == PDLB_TAKEN) acceptor->trouble = acceptor->send_trouble;
  acceptor->send_trouble = PDLB_TAKEN;
  pthread_cond_broadcast(&acceptor->has_moved);
}

/* While permits wait for workers, others behind them need not be sent at once: each turn takes a processor from one
 * that works. */
static void nap(uint32_t behind) {
  const struct timespec pause = {.tv_nsec = (behind < LONGEST_NAP ? behind : LONGEST_NAP) * NAP_NS};
  nanosleep(&pause, NULL);
}

/* When there is nothing more to accept, the thread goes on: it sends what waits for a credit, and keeps the time. */
void *acceptor_run(void *argument) {
  struct pdlb_acceptor *acceptor = argument;
  pdlb_shorten_slice();
  pthread_mutex_lock(&acceptor->duty);
  pthread_mutex_lock(&acceptor->mutex);
  while (!acceptor->ending) {
    move_carry_out(acceptor);
    uint64_t next = step(acceptor);
    pthread_mutex_unlock(&acceptor->mutex);
    handoff_fresh(acceptor);
    const uint64_t parting = limits_see_off(acceptor);
    if (parting < next) next = parting;
    /* Before the look: whoever sends after it calls. */
    atomic_store_explicit(&acceptor->awake_at, PDLB_FOREVER, memory_order_seq_cst);
    const uint64_t look = handoff_look(acceptor), tick = pdlb_domain_tick(acceptor->domain, pdlb_now());
    pthread_mutex_lock(&acceptor->mutex);
    note_trouble(acceptor);
    stop_if_done(acceptor);
    lead_pass_on(acceptor);
    if (acceptor->stopping && !acceptor->stopped && acceptor->drain_until < next) next = acceptor->drain_until;
    pthread_mutex_unlock(&acceptor->mutex);
    if (look < next) next = look;
    if (acceptor->behind) nap(acceptor->behind);
    if (tick < next) next = tick;
    atomic_store_explicit(&acceptor->awake_at, next, memory_order_seq_cst);
    wait_until(acceptor, next);
  }
  acceptor->ended = true;
  pthread_cond_broadcast(&acceptor->has_moved);
  pthread_mutex_unlock(&acceptor->mutex);
  pthread_mutex_unlock(&acceptor->duty);
  return NULL;
}
