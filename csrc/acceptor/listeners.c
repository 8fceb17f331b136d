#include "listeners.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int option(int fd, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? 0 : value;
}

int listeners_add(struct listeners *listeners, int fd, enum pdlb_proxy proxy) {
  uint32_t place = 0;
  while (place < listeners->count && listeners->table[place].state != LISTENER_UNUSED) place++;
  if (place == MAX_LISTENERS) return -ENOSPC;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return -errno;
  if (place == listeners->count) listeners->count++;
  const uint32_t id = listeners->next_id++;
  listeners->table[place] = (struct listener){
      .state = LISTENER_OPEN,
      .fd = own,
      .family = option(own, SO_DOMAIN),
      .protocol = option(own, SO_PROTOCOL),
      .id = id,
      .watched_by = -1,
      .led_by = -1,
      .proxy = proxy,
  };
  return (int)id;
}

struct listener *listeners_find(struct listeners *listeners, uint32_t id) {
  for (uint32_t place = 0; place < listeners->count; place++)
    if (listeners->table[place].state != LISTENER_UNUSED && listeners->table[place].id == id)
      return &listeners->table[place];
  return NULL;
}

bool listener_has_more(const struct listener *listener) {
  struct pollfd state = {.fd = listener->fd, .events = POLLIN};
  return poll(&state, 1, 0) != 0;
}

static bool add(int set, const struct listener *listener, uint32_t events, uint64_t mark) {
  struct epoll_event event = {.events = events, .data = {.u64 = mark}};
  return epoll_ctl(set, EPOLL_CTL_ADD, listener->fd, &event) == 0;
}

static bool take_out(int *set, const struct listener *listener) {
  struct epoll_event event = {0};
  if (*set >= 0 && epoll_ctl(*set, EPOLL_CTL_DEL, listener->fd, &event) < 0) return false;
  *set = -1;
  return true;
}

/* Of those that wait exclusively the kernel wakes the first one that sleeps. So the worker that leads comes first, and
 * the thread is woken if that one is awake, and may be busy. What had been told to one of them is told anew by the
 * addition. */
static bool watch(const struct listeners *listeners, struct listener *listener, bool wanted) {
  const int set = !wanted ? -1 : listener->for_workers ? listeners->door_fd : listeners->epoll_fd;
  const bool may_be_led = wanted && !listener->for_workers && !listener->proxy && listener->state == LISTENER_OPEN;
  const int lead = may_be_led ? listeners->lead_fd : -1;
  if (listener->watched_by == set && listener->led_by == lead) return true;
  take_out(&listener->led_by, listener);
  listener->led_by = -1; /* else that set is gone */
  if (!take_out(&listener->watched_by, listener)) return false;
  if (lead >= 0 && add(lead, listener, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, listeners->lead_mark))
    listener->led_by = lead;
  const uint32_t how = (listeners->arrivals_only ? EPOLLET : 0) | (listener->led_by >= 0 ? EPOLLEXCLUSIVE : 0);
  if (set >= 0 && !add(set, listener, EPOLLIN | how, listener->id)) return false;
  listener->watched_by = set;
  return true;
}

void listeners_drop(struct listeners *listeners, struct listener *listener) {
  /* Before the close: the set would keep the socket for as long as anybody else has it open. */
  watch(listeners, listener, false);
  close(listener->fd);
  listener->state = LISTENER_UNUSED;
}

void listeners_drop_all(struct listeners *listeners) {
  for (uint32_t place = 0; place < listeners->count; place++)
    if (listeners->table[place].state != LISTENER_UNUSED) listeners_drop(listeners, &listeners->table[place]);
}

void listeners_drain_all(struct listeners *listeners) {
  for (uint32_t place = 0; place < listeners->count; place++)
    if (listeners->table[place].state == LISTENER_OPEN) listeners->table[place].state = LISTENER_DRAINING;
}

bool listeners_any(const struct listeners *listeners) {
  for (uint32_t place = 0; place < listeners->count; place++)
    if (listeners->table[place].state != LISTENER_UNUSED) return true;
  return false;
}

bool listeners_draining(const struct listeners *listeners) {
  for (uint32_t place = 0; place < listeners->count; place++)
    if (listeners->table[place].state == LISTENER_DRAINING) return true;
  return false;
}

bool listeners_ask(struct listeners *listeners) {
  bool any = false;
  for (uint32_t place = 0; place < listeners->count; place++) {
    struct listener *listener = &listeners->table[place];
    if (listener->state == LISTENER_OPEN && listener->led_by >= 0) any |= listener->ready = listener_has_more(listener);
  }
  return any;
}

bool listeners_have_more(const struct listeners *listeners) {
  for (uint32_t place = 0; place < listeners->count; place++) {
    const struct listener *listener = &listeners->table[place];
    if (listener->state == LISTENER_OPEN && !listener->for_workers && listener_has_more(listener)) return true;
  }
  return false;
}

void listeners_look(struct listeners *listeners) {
  for (uint32_t place = 0; place < listeners->count; place++) listeners->table[place].ready = true;
}

bool listeners_watch(struct listeners *listeners, bool wanted) {
  bool all = true;
  for (uint32_t place = 0; place < listeners->count; place++)
    if (listeners->table[place].state != LISTENER_UNUSED) all &= watch(listeners, &listeners->table[place], wanted);
  return all;
}
