/* A port that takes one element after the other lets some more of them come before it looks.
 *
 * Where a receiver is as fast as the sender, it finds one element each time, and each look takes the lines away that
 * the sender is about to write: both then take twice as long for each element as where several wait. So a port that
 * found one element alone gives way for a moment, in which a few more are sent, as long as that is what happens.
 * Where it does not, as between two who answer each other, it is seen ever more rarely whether it does by now.
 */
#include <sched.h>

#include "one.h"
#include "software.h"

#define LOOKS_BETWEEN 32u
#define LOOKS_BETWEEN_MOST 1024u

bool software_hold_back(struct software_port *port) {
  struct pace *pace = &port->pace;
  if (!pace->alone) return false;
  if (pace->looks_left) {
    pace->looks_left--;
    return false;
  }
  sched_yield(); /* half a microsecond, or the time of somebody who wants this processor, the sender perhaps */
  return true;
}

void software_looked(struct software_port *port, bool held_back, bool found, bool more) {
  struct pace *pace = &port->pace;
  if (held_back && more) {
    pace->looks_between = 0;
  } else if (held_back) {
    const uint32_t next = pace->looks_between ? 2 * pace->looks_between : LOOKS_BETWEEN;
    pace->looks_left = pace->looks_between = next < LOOKS_BETWEEN_MOST ? next : LOOKS_BETWEEN_MOST;
  } else if (found) {
    pace->alone = !more;
  }
}

static __attribute__((noinline)) int recv_at_pace(struct software_port *port, struct pdlb_event *events, uint32_t max,
                                                  uint64_t deadline) {
  if (max != 1 || deadline || pdlb_engine_knows_next(&port->user))
    return software_port_recv(&port->base, events, max, deadline);
  const bool held_back = software_hold_back(port);
  const int count = software_port_recv(&port->base, events, 1, 0);
  software_looked(port, held_back, count > 0, pdlb_engine_knows_next(&port->user));
  return count;
}

static __attribute__((noinline)) int recv_next(struct software_port *port, struct pdlb_event *event,
                                               uint64_t deadline) {
  return LIKELY(engine_exchange_next(&port->user, event)) ? (int)engine_one() : recv_at_pace(port, event, 1, deadline);
}

/* The port is known to find one alone. */
static __attribute__((noinline)) int recv_alone(struct software_port *port, struct pdlb_event *event) {
  if (UNLIKELY(!engine_exchange_only(&port->user, event))) return recv_next(port, event, 0);
  port->pace.looks_left--;
  return (int)engine_one();
}

int software_successive_recv(struct pdlb_port *base, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  struct software_port *port = (struct software_port *)base;
  if (UNLIKELY(max != 1) || UNLIKELY(engine_has_any(&port->user.port->notice, NOTICES_TO_TAKE_ONE & ~NOTICE_RELEASES)))
    return recv_at_pace(port, events, max, deadline);
  if (port->pace.alone && port->pace.looks_left && !deadline) return recv_alone(port, events);
  return recv_next(port, events, deadline);
}
