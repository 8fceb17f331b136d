/* What is left of a process that used a port, and ended or was killed.
 *
 * All that its port owes follows from the counters in the port's record, if no line was being stored; else the device
 * is asked, which has registers for it. A physical function's can be read. Where they cannot, the port is given up: one
 * token too few, and it would stand still some day; one too many, and the device would complain of us. */
#include <errno.h>

#include "device.h"

/* What a port owes: tokens, without those of what waits in the ring; and completions of what was received. */
struct debt {
  uint64_t tokens, held;
};

/* A function that does not know the register leaves the value as it is. */
static bool read_register(struct device *device, uint32_t which, uint32_t id, uint32_t *value) {
  uint32_t values[2];
  for (uint32_t i = 0; i < 2; i++) {
    struct pdlb_xstats_args args = {.xstats_val = i, .xstats_type = which, .xstats_id = id};
    if (device_request(device, (uint32_t)PDLB_IOC_GET_XSTATS, &args, "bury member", NULL) < 0) return false;
    values[i] = (uint32_t)args.xstats_val;
  }
  *value = values[0];
  return values[0] == values[1];
}

static bool ask_device(const struct port *port, uint32_t unread, struct debt *debt) {
  struct device *device = port->domain->device;
  const bool directed = port->base.directed;
  uint32_t depth, inflight = unread;
  if (!read_register(device, directed ? PDLB_XSTAT_CQ_DIR_DEPTH : PDLB_XSTAT_CQ_LDB_DEPTH, port->base.id, &depth))
    return false;
  if (!directed && !read_register(device, PDLB_XSTAT_CQ_LDB_INFLIGHT_COUNT, port->base.id, &inflight)) return false;
  if (depth < unread || inflight < unread) return false;
  *debt = (struct debt){.tokens = depth - unread, .held = inflight - unread};
  return true;
}

static struct debt by_counters(const struct port *port) {
  const struct port_record *record = port->record;
  const uint64_t received = atomic_load_explicit(&record->received, memory_order_acquire);
  return (struct debt){
      .tokens = record_taken(record) - atomic_load_explicit(&record->popped, memory_order_relaxed),
      .held = port->base.directed ? 0 : received - atomic_load_explicit(&record->released, memory_order_relaxed),
  };
}

/* Whether it is what it can be: `counted`, or less by what was being done. Without MOVDIR64B a line is several stores,
 * so some of its elements may have come and others not; tokens are returned by one. */
static bool may_be(const struct debt *found, const struct debt *counted, uint32_t doing) {
  const uint64_t count = doing >> DOING_SHIFT;
  const uint64_t popping = doing & DOING_POP ? count : 0, completing = doing & DOING_COMPLETE ? count : 0;
  return (found->tokens == counted->tokens || found->tokens + popping == counted->tokens) &&
         found->held <= counted->held && found->held + completing >= counted->held;
}

/* What was being done when it was killed is done, in part, or not: then all counters are right. False if nobody can
 * tell. */
static bool settle(struct port *port, uint32_t unread) {
  struct port_record *record = port->record;
  const uint32_t doing = atomic_load_explicit(&record->doing, memory_order_acquire);
  const struct debt counted = by_counters(port);
  struct debt debt = counted;
  if (doing & (DOING_COMPLETE | DOING_POP)) {
    if (!ask_device(port, unread, &debt)) return false;
    if (!may_be(&debt, &counted, doing)) return false;
  }
  atomic_fetch_add_explicit(&record->popped, counted.tokens - debt.tokens, memory_order_relaxed);
  atomic_fetch_add_explicit(&record->released, counted.held - debt.held, memory_order_relaxed);
  port->tokens = (uint32_t)debt.tokens;
  atomic_store_explicit(&port->held, (uint32_t)debt.held, memory_order_relaxed);
  return true;
}

/* What it had taken and not sent, others may have. What was perhaps not sent counts as sent: to believe in a credit
 * that the device does not have would cost somebody else his element. */
static void settle_credits(struct port *port) {
  struct port_record *record = port->record;
  const uint32_t doing = atomic_load_explicit(&record->doing, memory_order_acquire);
  const uint64_t reserved = atomic_load_explicit(&record->reserved[CREDIT_ANY], memory_order_relaxed);
  uint64_t sent = atomic_load_explicit(&record->sent, memory_order_relaxed);
  if (doing & DOING_SEND) sent += doing >> DOING_SHIFT;
  if (sent > reserved) sent = reserved; /* it was counted already */
  atomic_store_explicit(&record->sent, sent, memory_order_relaxed);
  atomic_store_explicit(&record->reserved[CREDIT_ANY], sent, memory_order_release);
}

int port_reclaim(struct port *port, struct pdlb_error *error) {
  struct port_record *record = port->record;
  int rc = port_set_enabled(port, false, "bury member", error);
  if (rc < 0) rc = port_set_enabled(port, false, "bury member", error);
  if (rc < 0) return rc;
  atomic_store_explicit(&record->disabled, true, memory_order_relaxed);
  port_find_place(port);
  port_enter(port);
  settle_credits(port); /* before anything is stored for the port: that is told in the same record */
  if (domain_is_gone(port->domain) || settle(port, port_unread(port))) {
    port_complete(port, UINT32_MAX);
    if (!port->base.directed) port_put_back(port);
    port_return_tokens(port);
  } else {
    port->use = PORT_LOST;
    rc = pdlb_fail(error, EIO, "bury member",
                   "a process was killed while it told %s of port %u, and the device does not say whether that came: "
                   "the port is given up",
                   port->domain->device->path, port->base.id);
  }
  port_leave(port);
  port->armed = false;
  atomic_store_explicit(&record->doing, DOING_NOTHING, memory_order_relaxed);
  atomic_store_explicit(&record->stalled, false, memory_order_relaxed);
  atomic_store_explicit(&record->cancelled, false, memory_order_relaxed);
  atomic_store_explicit(&record->member, 0, memory_order_release);
  return rc;
}

int device_domain_bury(struct pdlb_domain *base, uint32_t number, struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  if (domain->joined) return not_ours(error, "bury member");
  if (domain->memory_fd < 0)
    return pdlb_fail(error, EINVAL, "bury member", "the domain is this process's alone; only a shared one has members");
  uint32_t member = number + 1, taking = member + 1;
  int result = 0;
  atomic_compare_exchange_strong_explicit(&domain->state->taking, &taking, 0, memory_order_release,
                                          memory_order_relaxed);
  pthread_mutex_lock(&domain->mutex);
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    struct port *port = domain->ports[index];
    if (!port || atomic_load_explicit(&port->record->member, memory_order_acquire) != member) continue;
    const int rc = port_reclaim(port, error);
    if (rc < 0) result = rc;
  }
  pthread_mutex_unlock(&domain->mutex);
  return result;
}

/* ---- what stands before processes -------------------------------------------------------------------------------- */

/* Under the mutex. */
static uint32_t standing(struct port *port, uint64_t now, uint64_t patience_ns) {
  const uint64_t taken = record_taken(port->record);
  port_find_place(port);
  const uint32_t unread = port_unread(port);
  if (unread == 0 || taken != port->seen) {
    port->seen = taken;
    port->seen_at = now;
  }
  const bool comes = now - port->seen_at < patience_ns;
  atomic_store_explicit(&port->record->stalled, !comes, memory_order_relaxed);
  return comes ? unread : 0;
}

uint32_t device_domain_standing(struct pdlb_domain *base, uint64_t patience_ns) {
  struct domain *domain = domain_of(base);
  const uint64_t now = pdlb_now();
  uint32_t count = 0;
  pthread_mutex_lock(&domain->mutex);
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    struct port *port = domain->ports[index];
    if (port && port->use == PORT_OPEN && atomic_load_explicit(&port->record->member, memory_order_acquire))
      count += standing(port, now, patience_ns);
  }
  pthread_mutex_unlock(&domain->mutex);
  return count;
}
