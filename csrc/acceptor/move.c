/* From one domain to another while connections wait: when the device under the first one is gone, or usable again.
 *
 * The accepting thread carries it out between two turns, because domain and port are its own. What waits, waits in
 * slots: it is withdrawn and sent again under new tokens, so that the old domain's mean nothing any more.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "backend.h"
#include "internal.h"

/* ---- the thread's part ------------------------------------------------------------------------------------------- */

int move_watch_bell(struct pdlb_acceptor *acceptor, int operation) {
  struct pdlb_shared shared;
  if (pdlb_domain_share(acceptor->domain, &shared, NULL) < 0 || shared.bell_fd < 0) return 0;
  struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = BELL}};
  return epoll_ctl(acceptor->listeners.epoll_fd, operation, shared.bell_fd, &event) < 0 ? -errno : 0;
}

void move_carry_out(struct pdlb_acceptor *acceptor) {
  if (!acceptor->next_domain) return;
  move_watch_bell(acceptor, EPOLL_CTL_DEL);
  acceptor->domain = acceptor->next_domain;
  acceptor->port = acceptor->next_port;
  acceptor->move_result = pdlb_domain_set_external_clock(acceptor->domain, true, NULL);
  if (acceptor->move_result == 0) acceptor->move_result = move_watch_bell(acceptor, EPOLL_CTL_ADD);
  acceptor->unsent_count = 0; /* it waits in slots, as everything does */
  acceptor->refused_before = false;
  acceptor->resend = (struct resend){.left = acceptor->slots.count};
  acceptor->trouble = acceptor->send_trouble = PDLB_TAKEN;
  acceptor->next_domain = NULL;
  pthread_cond_broadcast(&acceptor->has_moved);
}

/* ---- what others ask --------------------------------------------------------------------------------------------- */

static void set_queues(struct workers *workers, const struct pdlb_destination *destination) {
  pthread_mutex_lock(&workers->mutex);
  workers->policy.queue = destination->queue;
  workers->directed = destination->directed;
  workers->holds = destination->holds;
  for (uint32_t place = 0; place < workers->count; place++) workers->table[place].queue = PDLB_NONE;
  for (uint32_t i = 0; i < destination->num_queues; i++) {
    struct worker *worker = workers_find(workers, destination->queues[i].worker);
    if (worker) worker->queue = destination->queues[i].queue;
  }
  pthread_mutex_unlock(&workers->mutex);
}

int pdlb_acceptor_move(struct pdlb_acceptor *acceptor, const struct pdlb_destination *destination,
                       struct pdlb_error *error) {
  static const char op[] = "move acceptor";
  if (acceptor->config.board) return pdlb_fail(error, ENOTSUP, op, "an acceptor that sends permits stays");
  pthread_mutex_lock(&acceptor->mutex);
  const int rc = acceptor->next_domain ? EBUSY : acceptor->ending ? EPIPE : 0;
  if (rc == 0) {
    set_queues(&acceptor->workers, destination); /* what is sent to them before the thread has moved, is sent again */
    acceptor->next_domain = destination->domain;
    acceptor->next_port = destination->port;
  }
  pthread_mutex_unlock(&acceptor->mutex);
  if (rc != 0) return pdlb_fail(error, rc, op, "%s", rc == EBUSY ? "another move is under way" : "it has ended");
  acceptor_call(acceptor);
  return 0;
}

int pdlb_acceptor_moved(struct pdlb_acceptor *acceptor, struct pdlb_error *error) {
  pthread_mutex_lock(&acceptor->mutex);
  while (acceptor->next_domain && !acceptor->ended) pthread_cond_wait(&acceptor->has_moved, &acceptor->mutex);
  const int rc = acceptor->next_domain ? -EPIPE : acceptor->move_result;
  acceptor->next_domain = NULL;
  pthread_mutex_unlock(&acceptor->mutex);
  return rc < 0 ? pdlb_fail(error, -rc, "move acceptor", "%s", rc == -EPIPE ? "it has ended" : strerror(-rc)) : 0;
}

void pdlb_acceptor_report(struct pdlb_acceptor *acceptor, enum pdlb_refusal trouble) {
  pthread_mutex_lock(&acceptor->mutex);
  if (acceptor->trouble == PDLB_TAKEN) acceptor->trouble = trouble;
  pthread_cond_broadcast(&acceptor->has_moved);
  pthread_mutex_unlock(&acceptor->mutex);
}

void pdlb_acceptor_unwatch(struct pdlb_acceptor *acceptor) {
  pthread_mutex_lock(&acceptor->mutex);
  acceptor->unwatched = true;
  pthread_cond_broadcast(&acceptor->has_moved);
  pthread_mutex_unlock(&acceptor->mutex);
}

enum pdlb_refusal pdlb_acceptor_trouble(struct pdlb_acceptor *acceptor, uint64_t deadline) {
  const struct timespec until = {.tv_sec = (time_t)(deadline / SECOND), .tv_nsec = (long)(deadline % SECOND)};
  int rc = 0;
  pthread_mutex_lock(&acceptor->mutex);
  acceptor->asked = true;
  acceptor_call(acceptor);
  while (acceptor->trouble == PDLB_TAKEN && !acceptor->unwatched && !acceptor->ended && rc == 0)
    rc = pthread_cond_timedwait(&acceptor->has_moved, &acceptor->mutex, &until);
  const enum pdlb_refusal trouble = acceptor->trouble;
  pthread_mutex_unlock(&acceptor->mutex);
  return trouble;
}
