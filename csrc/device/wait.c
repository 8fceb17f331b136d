/* How a port waits: on an eventfd that the driver signals when the port's interrupt fires.
 *
 * The interrupt is armed by an element to the port, and fires once. In this order nothing is missed: take what there
 * is, give back tokens, empty the eventfd, arm, look again, sleep. The interrupt may come late, or twice: who is woken
 * may find nothing.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "device.h"

#define NANOSECONDS 1000000000u

static int event_of(const struct port *port) { return atomic_load_explicit(&port->event_fd, memory_order_seq_cst); }

void port_signal(struct port *port) {
  const uint64_t one = 1;
  const int fd = event_of(port);
  if (fd >= 0)
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

void port_cancel(struct pdlb_port *base) {
  struct port *port = port_of(base);
  atomic_store_explicit(&port->record->cancelled, true, memory_order_seq_cst);
  port_signal(port);
}

/* Under the domain's mutex. */
static int make_event(struct port *port, struct pdlb_error *error) {
  struct domain *domain = port->domain;
  struct device *device = domain->device;
  const int fd = device->system->event(device->context);
  if (fd < 0) return system_failed(error, fd, "fileno", device, "make a descriptor to wait with");
  struct pdlb_enable_cq_epoll_args args = {.port_id = port->base.id,
                                           .process_id = (uint32_t)getpid(),
                                           .event_fd = (uint32_t)fd,
                                           .is_ldb = !port->base.directed};
  const int rc = domain_request(domain, (uint32_t)PDLB_IOC_ENABLE_CQ_EPOLL, &args, "fileno", error);
  if (rc < 0) {
    close(fd);
    return rc;
  }
  atomic_store_explicit(&port->event_fd, fd, memory_order_seq_cst);
  return fd;
}

/* The port's eventfd; it is made when somebody first wants to wait. */
static int need_event(struct port *port, struct pdlb_error *error) {
  const int fd = event_of(port);
  if (fd >= 0) return fd;
  pthread_mutex_lock(&port->domain->mutex);
  const int rc = event_of(port) >= 0 ? event_of(port) : make_event(port, error);
  pthread_mutex_unlock(&port->domain->mutex);
  return rc;
}

int port_prepare_wait(struct pdlb_port *base, struct pdlb_error *error) {
  const int fd = need_event(port_of(base), error);
  return fd < 0 ? fd : 0;
}

/* Whether the interrupt has come, or somebody has signalled. */
static bool empty_event(struct port *port) {
  uint64_t times;
  ssize_t length;
  do length = read(event_of(port), &times, sizeof times);
  while (length < 0 && errno == EINTR);
  return length == (ssize_t)sizeof times;
}

/* 0, or why there is nothing more to wait for. */
static int ended(const struct port *port) {
  if (atomic_load_explicit(&port->record->cancelled, memory_order_seq_cst)) return -ECANCELED;
  return atomic_load_explicit(&port->domain->state->gone, memory_order_seq_cst) ? -ENODEV : 0;
}

/* Within a use: see to it that the eventfd tells of all that comes from now on. Returns what came just before. */
static uint32_t rearm(struct port *port, struct pdlb_event *events, uint32_t max) {
  const bool fired = empty_event(port);
  if (fired) atomic_fetch_add_explicit(&port->record->wakes, 1, memory_order_relaxed);
  if (fired && ended(port) < 0) port_signal(port); /* that was the end's signal: it stays */
  if (fired || !port->armed) port_arm(port);
#ifndef PDLB_BREAK_RECHECK
  return port_take(port, events, max);
#else
  return 0;
#endif
}

/* One look. Whoever is going to watch if there is nothing has no need for the interrupt. */
static uint32_t look(struct port *port, struct pdlb_event *events, uint32_t max, bool watching) {
  port_enter(port);
  if (port->release_on_recv) port_complete(port, UINT32_MAX);
  uint32_t taken = port_take(port, events, max);
  if (taken < max && event_of(port) >= 0 && (taken || !watching)) taken += rearm(port, events + taken, max - taken);
  port_leave(port);
  return taken;
}

static void watch(const struct port *port) {
  const unsigned char *slot = port->consumer + port->at;
  port->domain->device->system->watch(port->context, &slot[PDLB_QE_SIZE - 1], port->generation);
}

static uint64_t end_of_watch(const struct port *port, uint64_t deadline) {
  if (!port->watch_ns || deadline == 0) return 0;
  const uint64_t end = pdlb_now() + port->watch_ns;
  return end < deadline ? end : deadline;
}

/* Until the eventfd is readable or the time is over. */
static int sleep_on(int fd, uint64_t deadline) {
  struct pollfd event = {.fd = fd, .events = POLLIN};
  const uint64_t now = pdlb_now(), left = deadline > now ? deadline - now : 0;
  const struct timespec time = {.tv_sec = (time_t)(left / NANOSECONDS), .tv_nsec = (long)(left % NANOSECONDS)};
  return ppoll(&event, 1, deadline == PDLB_FOREVER ? NULL : &time, NULL) < 0 ? -errno : 0;
}

int port_recv(struct pdlb_port *base, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  struct port *port = port_of(base);
  if (max > port->most) max = port->most;
  const uint64_t watched = end_of_watch(port, deadline);
  for (;;) {
    int rc = ended(port);
    if (rc < 0) return rc;
    const bool has_event = event_of(port) >= 0, watching = watched && pdlb_now() < watched;
    const uint32_t taken = look(port, events, max, watching);
    if (taken || max == 0 || deadline == 0 || pdlb_now() >= deadline) return (int)taken;
    if (watching) {
      watch(port);
      continue;
    }
    /* Without an eventfd the look did not arm: look again with one. */
    rc = has_event ? sleep_on(event_of(port), deadline) : need_event(port, NULL);
    if (rc < 0) return rc == -EINVAL ? -EIO : rc;
  }
}

int port_fd(struct pdlb_port *base, struct pdlb_error *error) {
  struct port *port = port_of(base);
  const bool fresh = event_of(port) < 0;
  const int fd = need_event(port, error);
  if (fd < 0 || !fresh) return fd;
  port_enter(port);
  port_arm(port);
  port_leave(port);
  /* A cancel or a reset that came before it could signal the descriptor. */
  if (ended(port) < 0) port_signal(port);
  return fd;
}
