/* How many connections there may be, in all and on one worker, and what becomes of those that are too many. */
#include "limit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend.h"
#include "internal.h"

#define MAX_REPLY 65536u

/* A client that was refused may still be sending: what it has sent is read for so long, or until it closes, for a
 * socket that is closed with unread data resets the connection, and the reply would be lost. */
#define PARTING_NS 1000000000u
#define LOOK_AGAIN_NS 10000000u

/* ---- setting ----------------------------------------------------------------------------------------------------- */

static int check(const struct pdlb_connection_limits *limits, struct pdlb_error *error) {
  static const char op[] = "set limits";
  if (limits->when_full > PDLB_FULL_OVERFLOW)
    return pdlb_fail(error, EINVAL, op, "when_full is %d: there is none of that number", (int)limits->when_full);
  if (limits->reply_size > MAX_REPLY)
    return pdlb_fail(error, EINVAL, op, "the reply has %u bytes: it has at most %u", limits->reply_size, MAX_REPLY);
  return 0;
}

int pdlb_acceptor_set_limits(struct pdlb_acceptor *acceptor, const struct pdlb_connection_limits *limits,
                             struct pdlb_error *error) {
  const int rc = check(limits, error);
  if (rc < 0) return rc;
  char *reply = limits->reply_size ? malloc(limits->reply_size) : NULL;
  if (limits->reply_size && !reply) return pdlb_fail(error, ENOMEM, "set limits", "no memory for the reply");
  if (reply) memcpy(reply, limits->reply, limits->reply_size);
  pthread_mutex_lock(&acceptor->mutex);
  free(acceptor->reply);
  acceptor->limits = *limits;
  acceptor->limits.reply = acceptor->reply = reply;
  pthread_mutex_lock(&acceptor->workers.mutex);
  workers_set_limit(&acceptor->workers, limits->worker, limits->worker_again);
  pthread_mutex_unlock(&acceptor->workers.mutex);
  pthread_mutex_unlock(&acceptor->mutex);
  acceptor_call(acceptor);
  return 0;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

/* Those that other processes have are on the board, as long as they are open. */
static uint64_t elsewhere(struct pdlb_acceptor *acceptor) {
  if (!acceptor->config.board) return 0;
  pthread_mutex_lock(&acceptor->workers.mutex);
  workers_see(&acceptor->workers);
  const uint64_t unshelved = acceptor->workers.unshelved;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return board_open(acceptor->config.board) - unshelved;
}

static bool total_is_reached(struct pdlb_acceptor *acceptor, uint32_t permitted, uint64_t *room) {
  const struct pdlb_connection_limits *limits = &acceptor->limits;
  *room = UINT32_MAX;
  if (!limits->total) return acceptor->total_reached = false;
  const uint64_t gone =
      atomic_load_explicit(&acceptor->finished, memory_order_seq_cst) + intake_closed(&acceptor->intake);
  const uint64_t here =
      atomic_load_explicit(&acceptor->accepted, memory_order_relaxed) - gone + elsewhere(acceptor) + permitted;
  *room = here < limits->total ? limits->total - here : 0;
  acceptor->total_reached = acceptor->total_reached ? here > limits->total_again : here >= limits->total;
  return acceptor->total_reached;
}

static bool is_full(struct pdlb_acceptor *acceptor, uint32_t unpicked) {
  uint64_t room;
  if (total_is_reached(acceptor, 0, &room)) return true;
  if (!acceptor->limits.worker) return false;
  pthread_mutex_lock(&acceptor->workers.mutex);
  workers_see(&acceptor->workers);
  const bool full = workers_all_full(&acceptor->workers, unpicked);
  acceptor->workers.ignores_limit = full && acceptor->limits.when_full == PDLB_FULL_OVERFLOW;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return full;
}

static void want_calls(struct pdlb_acceptor *acceptor) {
  atomic_store_explicit(&acceptor->at_limit, true, memory_order_seq_cst);
  if (acceptor->config.board) board_want_call(acceptor->config.board, true);
}

static void note_full(struct pdlb_acceptor *acceptor) {
  if (!acceptor->was_full) acceptor_count(&acceptor->times_full);
  acceptor->was_full = true;
}

uint32_t limits_room(struct pdlb_acceptor *acceptor, uint32_t permitted) {
  uint64_t room;
  if (acceptor->limits.total) want_calls(acceptor);
  if (total_is_reached(acceptor, permitted, &room)) {
    note_full(acceptor);
    return 0;
  }
  acceptor->was_full = false;
  return (uint32_t)room;
}

enum verdict limits_judge(struct pdlb_acceptor *acceptor, uint32_t unpicked) {
  /* Before the look: whoever closes a connection after it calls. */
  if (acceptor->limits.total || acceptor->limits.worker) want_calls(acceptor);
  if (!is_full(acceptor, unpicked)) {
    atomic_store_explicit(&acceptor->at_limit, false, memory_order_relaxed);
    acceptor->was_full = false;
    return LIMITS_TAKE;
  }
  note_full(acceptor);
  switch (acceptor->limits.when_full) {
    case PDLB_FULL_PAUSE: return LIMITS_LEAVE;
    case PDLB_FULL_RESET:
    case PDLB_FULL_REPLY: return LIMITS_REFUSE;
    case PDLB_FULL_OVERFLOW: break;
  }
  return LIMITS_TAKE;
}

static void close_parting(struct pdlb_acceptor *acceptor, uint32_t index) {
  close(acceptor->parting[index].fd);
  acceptor->parting[index] = acceptor->parting[--acceptor->parting_count];
}

static void reply_and_part(struct pdlb_acceptor *acceptor, int fd) {
  const struct pdlb_connection_limits *limits = &acceptor->limits;
  if (send(fd, limits->reply, limits->reply_size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 || shutdown(fd, SHUT_WR) < 0) {
    close(fd);
    return;
  }
  if (acceptor->parting_count == MAX_PARTING) close_parting(acceptor, 0);
  acceptor->parting[acceptor->parting_count++] = (struct parting){.fd = fd, .until = pdlb_now() + PARTING_NS};
}

void limits_refuse(struct pdlb_acceptor *acceptor, int fd) {
  /* First: who sees it closed finds it counted. */
  atomic_fetch_add_explicit(&acceptor->finished, 1, memory_order_seq_cst);
  if (acceptor->total_reached) acceptor_count(&acceptor->refused_in_all);
  atomic_fetch_add_explicit(&acceptor->refused, 1, memory_order_seq_cst);
  if (acceptor->limits.when_full == PDLB_FULL_REPLY) {
    reply_and_part(acceptor, fd);
    return;
  }
  const struct linger at_once = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(fd);
}

static bool has_parted(int fd) {
  char discarded[4096];
  ssize_t length;
  do length = recv(fd, discarded, sizeof discarded, MSG_DONTWAIT);
  while (length > 0 || (length < 0 && errno == EINTR));
  return length == 0 || errno != EAGAIN;
}

uint64_t limits_see_off(struct pdlb_acceptor *acceptor) {
  for (uint32_t i = acceptor->parting_count; i-- > 0;)
    if (has_parted(acceptor->parting[i].fd) || pdlb_now() >= acceptor->parting[i].until) close_parting(acceptor, i);
  return acceptor->parting_count ? pdlb_now() + LOOK_AGAIN_NS : PDLB_FOREVER;
}

void limits_end(struct pdlb_acceptor *acceptor) {
  while (acceptor->parting_count) close_parting(acceptor, acceptor->parting_count - 1);
  free(acceptor->reply);
}

void limits_note_end(struct pdlb_acceptor *acceptor) {
  atomic_fetch_add_explicit(&acceptor->finished, 1, memory_order_seq_cst);
  if (atomic_load_explicit(&acceptor->at_limit, memory_order_seq_cst)) acceptor_call(acceptor);
}
