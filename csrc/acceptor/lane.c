/* Workers that accept by themselves, each in its own thread, and send through ports of their own. */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "internal.h"

#define READY 16
#define RETRY_NS 1000000u

int pdlb_acceptor_door(const struct pdlb_acceptor *acceptor) { return acceptor->listeners.door_fd; }

bool lanes_serve(const struct pdlb_acceptor *acceptor, const struct listener *listener, bool refuses) {
  return acceptor->config.by_workers && listener->state == LISTENER_OPEN && !listener->proxy && !refuses;
}

/* ---- accepting ------------------------------------------------------------------------------------------------- */

/* False, and to be called after the next take, if there is none. */
static bool get_slot(struct pdlb_acceptor *acceptor, uint64_t *token) {
  if (slots_reserve(&acceptor->slots, token)) return true;
  if (!atomic_exchange_explicit(&acceptor->held_up, true, memory_order_seq_cst))
    acceptor_count(&acceptor->times_held_up);
  return slots_reserve(&acceptor->slots, token);
}

static enum accept_outcome accept_one(struct pdlb_acceptor *acceptor, const struct listener *listener,
                                      struct fresh *fresh) {
  const int flags = acceptor->config.blocking ? SOCK_CLOEXEC : SOCK_CLOEXEC | SOCK_NONBLOCK;
  fresh->address_size = sizeof fresh->address;
  const int fd = accept4(listener->fd, (struct sockaddr *)&fresh->address, &fresh->address_size, flags);
  if (fd < 0) return accept_judge(acceptor, errno);
  acceptor->backoff = 0;
  fresh->accepted = (struct pdlb_accepted){
      .fd = fd,
      .listener = listener->id,
      .family = listener->family,
      .protocol = listener->protocol,
      .worker = PDLB_NONE,
      .accepted_at = pdlb_now(),
  };
  /* Before the slot is filled: nobody may be seen to take what was not accepted. */
  acceptor_count(&acceptor->accepted);
  atomic_fetch_add_explicit(&acceptor->unpicked, 1, memory_order_relaxed);
  return ACCEPTED;
}

/* Under the mutex. Returns false if the thread has to look why no more can be accepted. */
static bool accept_from(struct pdlb_acceptor *acceptor, const struct listener *listener, uint32_t max,
                        struct fresh *fresh, uint32_t *count) {
  for (bool told = true; *count < max; told = false) {
    const uint32_t unpicked = atomic_load_explicit(&acceptor->unpicked, memory_order_relaxed);
    if (limits_judge(acceptor, unpicked) != LIMITS_TAKE) return false;
    if (!told && !listener_has_more(listener)) return true;
    if (!get_slot(acceptor, &fresh[*count].token)) return false;
    const enum accept_outcome outcome = accept_one(acceptor, listener, &fresh[*count]);
    if (outcome == ACCEPTED) {
      ++*count;
      continue;
    }
    slots_give_back(&acceptor->slots, fresh[*count].token);
    if (outcome != TRY_NEXT) return outcome == NOTHING_THERE;
  }
  return true;
}

/* Under the mutex. */
static bool accept_ready(struct pdlb_acceptor *acceptor, uint32_t max, struct fresh *fresh, uint32_t *count) {
  struct epoll_event ready[READY];
  const int found = epoll_wait(acceptor->listeners.door_fd, ready, READY, 0);
  for (int i = 0; i < found && *count < max; i++) {
    const struct listener *listener = listeners_find(&acceptor->listeners, (uint32_t)ready[i].data.u64);
    if (!listener || !listener->for_workers) continue;
    if (!accept_from(acceptor, listener, max, fresh, count)) return false;
  }
  return true;
}

/* ---- handing on ------------------------------------------------------------------------------------------------ */

/* A few times at once, then no more: who would make room may be who asks. */
static bool send_event(struct pdlb_acceptor *acceptor, const struct pdlb_lane *lane, const struct pdlb_event *event) {
  uint64_t until = 0;
  for (uint32_t retries = 0;; retries++) {
    enum pdlb_refusal why;
    if (pdlb_port_send(lane->port, event, 1, &why) == 1) return true;
    if (why != PDLB_NO_CREDIT) {
      pdlb_acceptor_report(acceptor, why);
      return false;
    }
    if (retries == lane->retries) return false;
    const uint64_t now = pdlb_now();
    if (!until) until = now + RETRY_NS;
    if (now >= until) return false;
    acceptor_count(&acceptor->retries);
  }
}

/* True if it stays here. */
static bool hand_on(struct pdlb_acceptor *acceptor, const struct pdlb_lane *lane, struct fresh *fresh) {
  struct pdlb_event event;
  const struct pdlb_arrival arrival = {
      .listener = fresh->accepted.listener,
      .current = lane->worker,
      .family = fresh->address_size >= sizeof(sa_family_t) ? fresh->address.ss_family : fresh->accepted.family,
      .address_size = fresh->address_size,
      .address = &fresh->address,
  };
  pthread_mutex_lock(&acceptor->workers.mutex);
  struct worker *worker = handoff_pick(acceptor, &arrival);
  const bool placed = handoff_place(acceptor, worker, fresh->token, &fresh->accepted, &event);
  pthread_mutex_unlock(&acceptor->workers.mutex);
  atomic_fetch_sub_explicit(&acceptor->unpicked, 1, memory_order_relaxed);
  if (placed && fresh->accepted.worker != lane->worker && send_event(acceptor, lane, &event)) return false;
  /* Unless the thread has sent it elsewhere meanwhile. */
  if (!slots_take(&acceptor->slots, fresh->token, &fresh->accepted)) return false;
  acceptor_count(&acceptor->kept);
  acceptor_note_take(acceptor, lane->worker, &fresh->accepted);
  return true;
}

uint32_t pdlb_acceptor_accept(struct pdlb_acceptor *acceptor, const struct pdlb_lane *lane, uint32_t max,
                              struct pdlb_accepted *kept) {
  struct fresh fresh[MAX_BATCH];
  uint32_t count = 0, stay = 0;
  if (max > acceptor->config.batch) max = acceptor->config.batch;
  pthread_mutex_lock(&acceptor->mutex);
  const bool goes_on = !acceptor->config.by_workers || acceptor->stopping || acceptor->paused ||
                       accept_backs_off(acceptor) || accept_ready(acceptor, max, fresh, &count);
  pthread_mutex_unlock(&acceptor->mutex);
  if (!goes_on) acceptor_call(acceptor);
  for (uint32_t i = 0; i < count; i++)
    if (hand_on(acceptor, lane, &fresh[i])) kept[stay++] = fresh[i].accepted;
  if (stay < count) acceptor_keep_time(acceptor);
  return stay;
}
