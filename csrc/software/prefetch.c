/* A port that takes ahead, as a device fills a consumer queue ahead of its user: a receive of one element takes what is
 * the port's share at the moment, and the next ones find theirs without a lock.
 *
 * A share is never more than what waits divided by the ports that serve the queue, so nobody idles for want of what
 * another took ahead. It leaves the queue nonetheless: a more urgent element that comes then waits for it, and it is
 * lost with the port. Hence it is for those who ask for it, and only where a receive releases what the one before
 * returned: then all that was taken ahead is released as one, by the receive that finds none left.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "software.h"

struct software_prefetched {
  uint32_t most;
  _Atomic uint32_t next, end; /* of `events`: what nobody has received yet. Stored by the port's user alone. */
  struct pdlb_event events[];
};

struct software_prefetched *software_prefetched_create(uint32_t most) {
  struct software_prefetched *ahead = calloc(1, sizeof *ahead + most * sizeof *ahead->events);
  if (ahead) ahead->most = most;
  return ahead;
}

static inline uint32_t get(const _Atomic uint32_t *place) { return atomic_load_explicit(place, memory_order_relaxed); }

static inline void set(_Atomic uint32_t *place, uint32_t value) {
  atomic_store_explicit(place, value, memory_order_relaxed);
}

uint32_t software_prefetched_left(const struct software_prefetched *ahead) {
  return get(&ahead->end) - get(&ahead->next);
}

static __attribute__((noinline)) int fetch(struct software_port *port, struct pdlb_event *events, uint32_t max,
                                           uint64_t deadline) {
  struct software_prefetched *ahead = port->prefetched;
  if (max != 1) return software_port_recv(&port->base, events, max, deadline);
  const bool held_back = !deadline && software_hold_back(port);
  const uint32_t share = pdlb_engine_share(&port->user, ahead->most);
  if (share <= 1) {
    const int count = software_port_recv(&port->base, events, 1, deadline);
    software_looked(port, held_back, count > 0, false);
    return count;
  }
  const int count = software_port_recv(&port->base, ahead->events, share, deadline);
  software_looked(port, held_back, count > 0, count > 1);
  if (count <= 0) return count;
  *events = ahead->events[0];
  set(&ahead->next, 1);
  set(&ahead->end, (uint32_t)count);
  return 1;
}

int software_prefetching_recv(struct pdlb_port *base, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  struct software_port *port = (struct software_port *)base;
  struct software_prefetched *ahead = port->prefetched;
  const uint32_t next = get(&ahead->next), left = get(&ahead->end) - next;
  if (left == 0) return fetch(port, events, max, deadline);
  if (atomic_load_explicit(&port->doorbell->special, memory_order_acquire) & DOORBELL_CANCELLED) return -ECANCELED;
  const uint32_t count = max < left ? max : left;
  if (count == 1)
    *events = ahead->events[next];
  else
    memcpy(events, ahead->events + next, count * sizeof *events);
  set(&ahead->next, next + count);
  return (int)count;
}
