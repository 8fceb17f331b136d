/* Permits to accept, for workers in other processes.
 *
 * A descriptor that is on its way to another process would be lost if that one died. So nothing is on its way:
 * connections stay in the kernel's backlog, and what travels through the queue is the permit to accept one. Permits
 * are worth nothing by themselves. There should be as many as there are connections that wait; if a worker dies with
 * one, or the guess was wrong, the next look puts it right, and one too many finds nothing to accept.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include "internal.h"

/* While anything is in a backlog, look again after so long. */
#define LOOK_AGAIN_NS 1000000u

/* Of a socket that tells whether, but not how many connections wait. */
#define A_FEW 4u
/* And that is readable for ever once it was shut down: looks until it must be empty. */
#define LAST_LOOKS 50u

/* Connections in the backlog. */
static uint32_t backlog_of(const struct listener *listener, bool *exact) {
  struct tcp_info info = {.tcpi_state = TCP_LISTEN};
  socklen_t size = offsetof(struct tcp_info, tcpi_unacked) + sizeof info.tcpi_unacked;
  *exact = listener->family != AF_UNIX && getsockopt(listener->fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
           info.tcpi_state == TCP_LISTEN;
  if (*exact) return info.tcpi_unacked; /* of a listening socket, that is what this field says */
  struct pollfd state = {.fd = listener->fd, .events = POLLIN};
  return poll(&state, 1, 0) == 1 ? A_FEW : 0;
}

static void send_permits(struct pdlb_acceptor *acceptor, uint32_t listener, uint32_t count) {
  struct pdlb_event permits[MAX_BATCH];
  while (count) {
    const uint32_t batch = count < MAX_BATCH ? count : MAX_BATCH;
    for (uint32_t i = 0; i < batch; i++)
      permits[i] = (struct pdlb_event){
          .data = listener,
          .queue = (uint8_t)acceptor->config.queue,
          .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0),
      };
    enum pdlb_refusal why;
    if (pdlb_port_send(acceptor->port, permits, batch, &why) < batch) return; /* no credit: at the next look */
    count -= batch;
  }
}

static bool is_drained(struct listener *listener, uint32_t backlog, bool exact, uint32_t queued) {
  if (listener->state != LISTENER_DRAINING) return false;
  if (backlog == 0) return true;
  return !exact && queued == 0 && ++listener->last_looks > LAST_LOOKS;
}

uint64_t permits_issue(struct pdlb_acceptor *acceptor) {
  struct listeners *listeners = &acceptor->listeners;
  const int depth = pdlb_ldb_queue_depth(acceptor->domain, acceptor->config.queue, NULL);
  uint32_t queued = depth > 0 ? (uint32_t)depth : 0;
  bool any = false;
  for (uint32_t place = 0; place < listeners->count; place++) {
    struct listener *listener = &listeners->table[place];
    if (listener->state == LISTENER_UNUSED) continue;
    bool exact;
    const uint32_t backlog = backlog_of(listener, &exact);
    any |= backlog != 0;
    if (backlog > queued) send_permits(acceptor, listener->id, backlog - queued);
    if (is_drained(listener, backlog, exact, queued)) listeners_drop(listeners, listener);
    queued -= backlog < queued ? backlog : queued;
  }
  return any ? pdlb_now() + LOOK_AGAIN_NS : PDLB_FOREVER;
}
