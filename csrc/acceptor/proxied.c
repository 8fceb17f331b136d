/* Connections that a proxy passes on, and says for whom: between accepting them and handing them on, their headers are
 * awaited. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "internal.h"

int proxied_begin(struct pdlb_acceptor *acceptor) {
  if (acceptor->has_intake) return 0;
  const int rc = intake_init(&acceptor->intake, INTAKE_SIZE, INTAKE_PATIENCE);
  if (rc < 0) return rc;
  struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = INTAKE}};
  if (epoll_ctl(acceptor->listeners.epoll_fd, EPOLL_CTL_ADD, acceptor->intake.epoll_fd, &event) < 0) {
    const int error = errno;
    intake_free(&acceptor->intake);
    return -error;
  }
  acceptor->has_intake = true;
  return 0;
}

socklen_t proxied_client(const struct pdlb_accepted *accepted, struct sockaddr_storage *address) {
  socklen_t size = sizeof *address;
  if (accepted->proxied) {
    *address = accepted->proxied->client;
    return accepted->proxied->client_size;
  }
  return getpeername(accepted->fd, (struct sockaddr *)address, &size) < 0 ? 0 : size;
}

/* One that was reserved for the connection that is accepted next will do. */
static bool get_slot(struct pdlb_acceptor *acceptor, uint64_t *token) {
  if (!acceptor->has_reserved) return slots_reserve(&acceptor->slots, token);
  *token = acceptor->reserved;
  acceptor->has_reserved = false;
  return true;
}

static bool has_room(struct pdlb_acceptor *acceptor, uint64_t *token) {
  if (acceptor->fresh_count == MAX_BATCH || !handoff_send(acceptor)) return false;
  if (get_slot(acceptor, token)) return true;
  /* To be called after the next take. */
  if (!atomic_exchange_explicit(&acceptor->held_up, true, memory_order_seq_cst))
    acceptor_count(&acceptor->times_held_up);
  return get_slot(acceptor, token);
}

uint64_t proxied_collect(struct pdlb_acceptor *acceptor) {
  if (!acceptor->has_intake) return PDLB_FOREVER;
  const uint64_t look = intake_look(&acceptor->intake, pdlb_now());
  uint64_t token;
  while (intake_has_whole(&acceptor->intake) && has_room(acceptor, &token)) {
    struct fresh *fresh = &acceptor->fresh[acceptor->fresh_count++];
    intake_take(&acceptor->intake, &fresh->accepted);
    fresh->token = token;
    fresh->address_size = proxied_client(&fresh->accepted, &fresh->address);
  }
  /* With a full batch there may be more. */
  return intake_has_whole(&acceptor->intake) && acceptor->fresh_count == MAX_BATCH ? 0 : look;
}
