#include "intake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "backend.h"
#include "proxy.h"

#define EVENTS 64
#define NANOSECONDS 1000000000u

struct waiting {
  struct pdlb_accepted accepted;
  bool optional;
  bool understood; /* all that is left to do is to skip: */
  size_t skip;     /* bytes of the header, which are in the socket still, or on their way */
  uint64_t until;
  uint32_t before, after; /* in the order of age; of those that are whole, and of free places, only `after` */
};

enum outcome { WAITS, IS_WHOLE, IS_BROKEN, IS_GONE };

/* ---- places ------------------------------------------------------------------------------------------------------ */

static void close_descriptors(struct intake *intake) {
  if (intake->epoll_fd >= 0) close(intake->epoll_fd);
  if (intake->timer_fd >= 0) close(intake->timer_fd);
  free(intake->table);
}

int intake_init(struct intake *intake, uint32_t size, uint64_t patience) {
  memset(intake, 0, sizeof *intake);
  intake->patience = patience;
  intake->size = size;
  intake->free = intake->oldest = intake->youngest = intake->first_whole = intake->last_whole = PDLB_NONE;
  intake->table = calloc(size, sizeof *intake->table);
  if (!intake->table) return -ENOMEM;
  intake->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  intake->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = PDLB_NONE};
  if (intake->epoll_fd >= 0 && intake->timer_fd >= 0 &&
      epoll_ctl(intake->epoll_fd, EPOLL_CTL_ADD, intake->timer_fd, &event) == 0)
    return 0;
  const int error = errno;
  close_descriptors(intake);
  return -error;
}

/* Out of the order of age. */
static void leave_line(struct intake *intake, const struct waiting *waiting) {
  if (waiting->before == PDLB_NONE)
    intake->oldest = waiting->after;
  else
    intake->table[waiting->before].after = waiting->after;
  if (waiting->after == PDLB_NONE)
    intake->youngest = waiting->before;
  else
    intake->table[waiting->after].before = waiting->before;
}

static void give_back(struct intake *intake, uint32_t place) {
  intake->table[place].after = intake->free;
  intake->free = place;
}

/* Before it is closed: who sees that finds it counted. */
static void count_closed(struct intake *intake, uint32_t listener, _Atomic uint64_t *why) {
  atomic_fetch_add_explicit(why, 1, memory_order_relaxed);
  if (intake->on_closed) intake->on_closed(intake->context, listener);
}

static void discard(struct intake *intake, uint32_t place, _Atomic uint64_t *why) {
  struct waiting *waiting = &intake->table[place];
  count_closed(intake, waiting->accepted.listener, why);
  leave_line(intake, waiting);
  epoll_ctl(intake->epoll_fd, EPOLL_CTL_DEL, waiting->accepted.fd, NULL); /* a forked child may have it open still */
  close(waiting->accepted.fd);
  free(waiting->accepted.proxied);
  give_back(intake, place);
  intake->count--;
}

static void let_pass(struct intake *intake, uint32_t place) {
  struct waiting *waiting = &intake->table[place];
  leave_line(intake, waiting);
  epoll_ctl(intake->epoll_fd, EPOLL_CTL_DEL, waiting->accepted.fd, NULL);
  waiting->after = PDLB_NONE;
  if (intake->last_whole == PDLB_NONE)
    intake->first_whole = place;
  else
    intake->table[intake->last_whole].after = place;
  intake->last_whole = place;
}

/* Its time is over, or its place is needed. */
static void lose_patience(struct intake *intake, uint32_t place) {
  const struct waiting *waiting = &intake->table[place];
  if (waiting->optional && !waiting->understood)
    let_pass(intake, place);
  else
    discard(intake, place, &intake->late);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static enum outcome failure(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR ? WAITS : IS_GONE;
}

static bool remember(struct waiting *waiting, const struct proxy_header *header) {
  waiting->understood = true;
  waiting->skip = header->size;
  if (header->client_size == 0) return true;
  struct pdlb_proxied *proxied = malloc(sizeof *proxied);
  if (!proxied) return false;
  *proxied = (struct pdlb_proxied){
      .client_size = header->client_size,
      .server_size = header->server_size,
      .client = header->client,
      .server = header->server,
  };
  waiting->accepted.proxied = proxied;
  return true;
}

/* What is not the header's stays in the socket. */
static enum outcome understand(struct waiting *waiting) {
  uint8_t data[PROXY_LOOK];
  struct proxy_header header;
  const ssize_t size = recv(waiting->accepted.fd, data, sizeof data, MSG_PEEK | MSG_DONTWAIT);
  if (size < 0) return failure(errno);
  if (size == 0) return waiting->optional ? IS_WHOLE : IS_GONE;
  switch (proxy_read(data, (size_t)size, &header)) {
    case PROXY_WHOLE: return remember(waiting, &header) ? WAITS : IS_GONE;
    case PROXY_MORE: return WAITS;
    case PROXY_NONE: return waiting->optional ? IS_WHOLE : IS_BROKEN;
    case PROXY_BROKEN: break;
  }
  return IS_BROKEN;
}

static enum outcome skip(struct waiting *waiting) {
  uint8_t data[1024];
  while (waiting->skip) {
    const size_t wanted = waiting->skip < sizeof data ? waiting->skip : sizeof data;
    const ssize_t size = recv(waiting->accepted.fd, data, wanted, MSG_DONTWAIT);
    if (size < 0) return failure(errno);
    if (size == 0) return IS_GONE;
    waiting->skip -= (size_t)size;
  }
  return IS_WHOLE;
}

static void look_at(struct intake *intake, uint32_t place) {
  struct waiting *waiting = &intake->table[place];
  enum outcome outcome = WAITS;
  if (!waiting->understood) outcome = understand(waiting);
  if (waiting->understood && outcome == WAITS) outcome = skip(waiting);
  switch (outcome) {
    case WAITS: return;
    case IS_WHOLE: let_pass(intake, place); return;
    case IS_BROKEN: discard(intake, place, &intake->broken); return;
    case IS_GONE: discard(intake, place, &intake->gone); return;
  }
}

/* ---- what the owner calls ---------------------------------------------------------------------------------------- */

/* There is a free place afterwards, unless all that there are wait to be taken. */
static bool make_room(struct intake *intake) {
  if (intake->free == PDLB_NONE && intake->used < intake->size) give_back(intake, intake->used++);
  if (intake->free == PDLB_NONE && intake->oldest != PDLB_NONE) discard(intake, intake->oldest, &intake->late);
  return intake->free != PDLB_NONE;
}

/* Let the descriptor tell when somebody is late. */
static void set_timer(struct intake *intake, uint64_t until) {
  const struct itimerspec time = {
      .it_value = {.tv_sec = (time_t)(until / NANOSECONDS), .tv_nsec = (long)(until % NANOSECONDS)},
  };
  timerfd_settime(intake->timer_fd, TFD_TIMER_ABSTIME, &time, NULL);
}

void intake_add(struct intake *intake, const struct pdlb_accepted *accepted, bool optional) {
  if (!make_room(intake)) {
    count_closed(intake, accepted->listener, &intake->late);
    close(accepted->fd);
    return;
  }
  const uint32_t place = intake->free;
  struct waiting *waiting = &intake->table[place];
  intake->free = waiting->after;
  intake->count++;
  *waiting = (struct waiting){
      .accepted = *accepted,
      .optional = optional,
      .until = pdlb_now() + intake->patience,
      .before = intake->youngest,
      .after = PDLB_NONE,
  };
  if (intake->youngest == PDLB_NONE) {
    intake->oldest = place;
    set_timer(intake, waiting->until);
  } else {
    intake->table[intake->youngest].after = place;
  }
  intake->youngest = place;
  /* By edges: a part of a header must not tell of itself again and again. */
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = place};
  if (epoll_ctl(intake->epoll_fd, EPOLL_CTL_ADD, accepted->fd, &event) < 0)
    discard(intake, place, &intake->gone);
  else
    look_at(intake, place);
}

uint64_t intake_look(struct intake *intake, uint64_t now) {
  struct epoll_event events[EVENTS];
  int found;
  do {
    found = epoll_wait(intake->epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < found; i++)
      if (events[i].data.u32 != PDLB_NONE) look_at(intake, events[i].data.u32);
  } while (found == EVENTS);
  while (intake->oldest != PDLB_NONE && intake->table[intake->oldest].until <= now)
    lose_patience(intake, intake->oldest);
  const uint64_t next = intake->oldest == PDLB_NONE ? PDLB_FOREVER : intake->table[intake->oldest].until;
  if (found > 0) set_timer(intake, next == PDLB_FOREVER ? 0 : next); /* 0 for never */
  return next;
}

bool intake_take(struct intake *intake, struct pdlb_accepted *accepted) {
  const uint32_t place = intake->first_whole;
  if (place == PDLB_NONE) return false;
  *accepted = intake->table[place].accepted;
  intake->first_whole = intake->table[place].after;
  if (intake->first_whole == PDLB_NONE) intake->last_whole = PDLB_NONE;
  give_back(intake, place);
  intake->count--;
  return true;
}

void intake_end(struct intake *intake) {
  while (intake->oldest != PDLB_NONE) discard(intake, intake->oldest, &intake->late);
}

void intake_free(struct intake *intake) {
  struct pdlb_accepted left;
  intake_end(intake);
  while (intake_take(intake, &left)) {
    close(left.fd);
    free(left.proxied);
  }
  close_descriptors(intake);
}
