/* How a worker in a process of its own accepts: by permit, from the listening sockets that all share. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend.h"
#include "board.h"
#include "intake.h"
#include "listeners.h"

struct pdlb_receiver {
  struct pdlb_board *board;
  struct seat *seat;
  uint32_t number;
  int flags, shelf;
  pthread_mutex_t mutex; /* guards what follows: a socket must not be closed under an accept */
  uint32_t count;
  struct listener *table;
  struct intake intake;
  uint32_t given_up; /* of the intake's connections, not told of yet */
};

static void note_given_up(void *context, uint32_t listener) {
  struct pdlb_receiver *receiver = context;
  receiver->given_up++;
  pdlb_board_closed(receiver->board, receiver->number, listener, true);
}

int pdlb_receiver_create(struct pdlb_board *board, uint32_t seat, bool blocking, struct pdlb_receiver **result,
                         struct pdlb_error *error) {
  if (seat >= pdlb_board_seats(board))
    return pdlb_fail(error, EINVAL, "create receiver", "there is no seat %u: the board has %u", seat,
                     pdlb_board_seats(board));
  struct pdlb_receiver *receiver = calloc(1, sizeof *receiver);
  if (!receiver) return pdlb_fail(error, ENOMEM, "create receiver", "no memory for a receiver");
  receiver->board = board;
  receiver->seat = &board->seats[seat];
  receiver->number = seat;
  receiver->shelf = -1;
  receiver->flags = blocking ? SOCK_CLOEXEC : SOCK_CLOEXEC | SOCK_NONBLOCK;
  const int rc = intake_init(&receiver->intake, INTAKE_SIZE, INTAKE_PATIENCE);
  if (rc < 0) {
    free(receiver);
    return pdlb_fail(error, -rc, "create receiver", "%s", strerror(-rc));
  }
  receiver->intake.on_closed = note_given_up;
  receiver->intake.context = receiver;
  pthread_mutex_init(&receiver->mutex, NULL);
  *result = receiver;
  return 0;
}

void pdlb_receiver_free(struct pdlb_receiver *receiver) {
  for (uint32_t place = 0; place < receiver->count; place++) close(receiver->table[place].fd);
  if (receiver->shelf >= 0) close(receiver->shelf);
  free(receiver->table);
  intake_free(&receiver->intake);
  pthread_mutex_destroy(&receiver->mutex);
  free(receiver);
}

/* ---- listeners ------------------------------------------------------------------------------------------------------
 */

static int option(int fd, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? 0 : value;
}

/* Under the mutex. */
static int append(struct pdlb_receiver *receiver, uint32_t listener, int own, enum pdlb_proxy proxy) {
  struct listener *table = realloc(receiver->table, (receiver->count + 1) * sizeof *table);
  if (!table) return -ENOMEM;
  receiver->table = table;
  table[receiver->count++] = (struct listener){
      .state = LISTENER_OPEN,
      .fd = own,
      .family = option(own, SO_DOMAIN),
      .protocol = option(own, SO_PROTOCOL),
      .id = listener,
      .proxy = proxy,
  };
  return 0;
}

int pdlb_receiver_add(struct pdlb_receiver *receiver, uint32_t listener, int fd, enum pdlb_proxy proxy,
                      struct pdlb_error *error) {
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return pdlb_fail(error, errno, "add listener", "descriptor %d: %s", fd, strerror(errno));
  pthread_mutex_lock(&receiver->mutex);
  const int rc = append(receiver, listener, own, proxy);
  pthread_mutex_unlock(&receiver->mutex);
  if (rc == 0) return 0;
  close(own);
  return pdlb_fail(error, -rc, "add listener", "no memory for a listener");
}

void pdlb_receiver_remove(struct pdlb_receiver *receiver, uint32_t listener) {
  pthread_mutex_lock(&receiver->mutex);
  for (uint32_t place = 0; place < receiver->count; place++) {
    if (receiver->table[place].id != listener) continue;
    close(receiver->table[place].fd);
    receiver->table[place] = receiver->table[--receiver->count];
    break;
  }
  pthread_mutex_unlock(&receiver->mutex);
}

uint32_t pdlb_permit_listener(uint64_t permit) { return permit_listener(permit); }

/* ---- accepting ------------------------------------------------------------------------------------------------------
 */

/* Under the mutex. */
static const struct listener *find(const struct pdlb_receiver *receiver, uint64_t permit) {
  for (uint32_t place = 0; place < receiver->count; place++)
    if ((receiver->table[place].id & (PERMIT_LISTENERS - 1)) == permit_listener(permit)) return &receiver->table[place];
  return NULL;
}

static void note_failure(struct seat *seat, int error) {
  switch (error) {
    case EAGAIN: board_count(&seat->empty); return;
    case ECONNABORTED:
    case EPROTO: board_count(&seat->gone); return;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      board_count(&seat->backoffs);
      atomic_store_explicit(&seat->last_errno, (uint32_t)error, memory_order_relaxed);
      return;
    default: return;
  }
}

/* It has one more. */
static void note_accepted(struct pdlb_receiver *receiver, uint32_t listener, uint64_t waited_us) {
  struct seat *seat = receiver->seat;
  board_count(&seat->listeners[listener % PDLB_SEAT_LISTENERS].accepted);
  board_count(&seat->accepted);
  board_count(&seat->handoff[board_bucket(waited_us)]);
}

static int take_from_shelf(struct pdlb_receiver *receiver, struct pdlb_accepted *accepted) {
  const int rc = receiver->shelf < 0 ? -ENOENT : shelf_take(receiver->shelf, accepted);
  if (rc == -ECONNABORTED) {
    board_count(&receiver->seat->accepted);
    board_count(&receiver->seat->aborted);
  } else if (rc < 0) {
    note_failure(receiver->seat, -rc);
  } else {
    const uint64_t now = pdlb_now();
    accepted->worker = receiver->number;
    note_accepted(receiver, accepted->listener, now > accepted->accepted_at ? (now - accepted->accepted_at) / 1000 : 0);
  }
  return rc;
}

/* Under the mutex. */
static int accept_from(struct pdlb_receiver *receiver, const struct listener *listener, uint64_t permit,
                       struct pdlb_accepted *accepted) {
  const int fd = accept4(listener->fd, NULL, NULL, receiver->flags);
  if (fd < 0) {
    const int error = errno;
    note_failure(receiver->seat, error);
    return -error;
  }
  const uint64_t now = pdlb_now();
  board_count(&receiver->seat->permitted);
  note_accepted(receiver, listener->id, permit_age_us(permit, now));
  *accepted = (struct pdlb_accepted){
      .fd = fd,
      .listener = listener->id,
      .family = listener->family,
      .protocol = listener->protocol,
      .worker = receiver->number,
      .accepted_at = now,
  };
  if (listener->proxy == PDLB_PROXY_NONE) return 0;
  intake_add(&receiver->intake, accepted, listener->proxy == PDLB_PROXY_OPTIONAL);
  return -EINPROGRESS;
}

int pdlb_receiver_set_shelf(struct pdlb_receiver *receiver, int fd, struct pdlb_error *error) {
  receiver->shelf = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return receiver->shelf >= 0 ? 0 : pdlb_fail(error, errno, "set shelf", "descriptor %d: %s", fd, strerror(errno));
}

void pdlb_receiver_hold(struct pdlb_receiver *receiver, uint32_t permits) {
  atomic_fetch_add_explicit(&receiver->seat->held, permits, memory_order_relaxed);
}

static int use_permit(struct pdlb_receiver *receiver, uint64_t permit, struct pdlb_accepted *accepted) {
  if (permit_listener(permit) == PERMIT_SHELF) return take_from_shelf(receiver, accepted);
  pthread_mutex_lock(&receiver->mutex);
  const struct listener *listener = find(receiver, permit);
  const int rc = listener ? accept_from(receiver, listener, permit, accepted) : -ENOENT;
  pthread_mutex_unlock(&receiver->mutex);
  return rc;
}

int pdlb_receiver_accept(struct pdlb_receiver *receiver, uint64_t permit, struct pdlb_accepted *accepted) {
  const int rc = use_permit(receiver, permit, accepted);
  /* Last: whoever sees that no permit is in hand any more sees what came of it. */
  atomic_fetch_add_explicit(&receiver->seat->settled, 1, memory_order_release);
  board_call(receiver->board);
  return rc;
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

int pdlb_receiver_headers_fd(const struct pdlb_receiver *receiver) { return receiver->intake.epoll_fd; }

int pdlb_receiver_collect(struct pdlb_receiver *receiver, struct pdlb_accepted *accepted, uint32_t *given_up) {
  struct intake *intake = &receiver->intake;
  pthread_mutex_lock(&receiver->mutex);
  if (!intake_has_whole(intake) && intake->used) intake_look(intake, pdlb_now());
  *given_up = receiver->given_up;
  receiver->given_up = 0;
  const bool found = intake_take(intake, accepted);
  pthread_mutex_unlock(&receiver->mutex);
  return found ? 0 : -ENOENT;
}
