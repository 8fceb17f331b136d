/* A port of the software backend: the engine's verbs for one index. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "one.h"
#include "software.h"

static int port_close(struct pdlb_port *base) {
  struct software_port *port = (struct software_port *)base;
  struct software_domain *domain = port->domain;
  /* Before the engine gives the place away: who opens a port in it at once has the same waiter. */
  software_waiter_close(port->waiter, !domain->joined);
  /* In a domain that another process made, only that one takes ports apart. */
  if (!domain->joined) pdlb_engine_port_destroy(&domain->engine, port->index);
  pthread_mutex_lock(&domain->mutex);
  domain->open_ports--;
  domain->history_left += port->history_entries;
  pthread_mutex_unlock(&domain->mutex);
  free(port->prefetched);
  free(port);
  return 0;
}

static int check_queue(const struct software_port *port, uint32_t queue, const char *op, struct pdlb_error *error) {
  if (queue < port->domain->taken.ldb_queues && pdlb_engine_depth(&port->domain->engine, queue) >= 0) return 0;
  return pdlb_fail(error, EINVAL, op, "the domain has no load-balanced queue %u", queue);
}

static int port_link(struct pdlb_port *base, uint32_t queue, uint32_t priority, struct pdlb_error *error) {
  struct software_port *port = (struct software_port *)base;
  if (port->domain->joined) return software_not_ours(error, "link");
  int rc = check_queue(port, queue, "link", error);
  if (rc < 0) return rc;
  const char *why = NULL;
  rc = pdlb_engine_link(&port->domain->engine, port->index, queue, priority, &why);
  return rc < 0 ? pdlb_fail(error, -rc, "link", "%s", why) : 0;
}

static int port_unlink(struct pdlb_port *base, uint32_t queue, struct pdlb_error *error) {
  struct software_port *port = (struct software_port *)base;
  if (port->domain->joined) return software_not_ours(error, "unlink");
  int rc = check_queue(port, queue, "unlink", error);
  if (rc < 0) return rc;
  const char *why = NULL;
  rc = pdlb_engine_unlink(&port->domain->engine, port->index, queue, &why);
  return rc < 0 ? pdlb_fail(error, -rc, "unlink", "%s", why) : 0;
}

static int port_enable(struct pdlb_port *base, bool enabled, struct pdlb_error *error) {
  struct software_port *port = (struct software_port *)base;
  (void)error;
  pdlb_engine_port_enable(&port->domain->engine, port->index, enabled);
  return 0;
}

static uint32_t port_send(struct pdlb_port *base, const struct pdlb_event *events, uint32_t count,
                          enum pdlb_refusal *why) {
  struct software_port *port = (struct software_port *)base;
  return count == 1 ? engine_send_one(&port->user, events, why) : pdlb_engine_send(&port->user, events, count, why);
}

static uint32_t port_forward(struct pdlb_port *base, const struct pdlb_event *events, uint32_t count,
                             enum pdlb_refusal *why) {
  struct software_port *port = (struct software_port *)base;
  return pdlb_engine_forward(&port->user, events, count, why);
}

static uint32_t port_release(struct pdlb_port *base, uint32_t count) {
  struct software_port *port = (struct software_port *)base;
  if (count == 1 && LIKELY(!engine_has_any(&port->user.port->notice, NOTICE_LATER | NOTICE_FULL)) &&
      LIKELY(engine_release_oldest(&port->user)))
    return engine_one();
  return pdlb_engine_release(&port->user, count);
}

static int port_recv(struct pdlb_port *base, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  struct software_port *port = (struct software_port *)base;
  if (max != 1 || deadline) return software_port_recv(base, events, max, deadline);
  if (LIKELY(!engine_has_any(&port->user.port->notice, NOTICES_TO_TAKE_ONE)) &&
      LIKELY(engine_take_only(&port->user, events)))
    return (int)engine_one();
  return software_port_recv(base, events, 1, 0);
}

/* What was taken ahead has not been received: there is nothing yet to release of it, or to forward in its place. */
static uint32_t received_of(const struct software_port *port, uint32_t count) {
  const uint32_t held = pdlb_engine_in_flight(&port->domain->engine, port->index);
  const uint32_t received = held - software_prefetched_left(port->prefetched);
  return count < received ? count : received;
}

static uint32_t prefetching_forward(struct pdlb_port *base, const struct pdlb_event *events, uint32_t count,
                                    enum pdlb_refusal *why) {
  struct software_port *port = (struct software_port *)base;
  const uint32_t received = received_of(port, count);
  const uint32_t sent = pdlb_engine_forward(&port->user, events, received, why);
  if (sent < received || received == count) return sent;
  return sent + pdlb_engine_send(&port->user, events + sent, count - sent, why);
}

static uint32_t prefetching_release(struct pdlb_port *base, uint32_t count) {
  struct software_port *port = (struct software_port *)base;
  return pdlb_engine_release(&port->user, received_of(port, count));
}

static void port_release_later(struct pdlb_port *base, uint32_t count) {
  struct software_port *port = (struct software_port *)base;
  pdlb_engine_release_later(&port->domain->engine, port->index, count);
}

static uint32_t port_in_flight(const struct pdlb_port *base) {
  const struct software_port *port = (const struct software_port *)base;
  return pdlb_engine_in_flight(&port->domain->engine, port->index);
}

static void port_parked(struct pdlb_port *base, bool parked) {
  struct software_port *port = (struct software_port *)base;
  pdlb_engine_presence(&port->domain->engine, port->index, parked ? PDLB_PARKED : PDLB_AWAKE);
}

static bool port_has_work(const struct pdlb_port *base) {
  const struct software_port *port = (const struct software_port *)base;
  return pdlb_engine_has_work(&port->domain->engine, port->index);
}

static int port_stats(const struct pdlb_port *base, struct pdlb_port_stats *stats) {
  const struct software_port *port = (const struct software_port *)base;
  pdlb_engine_port_stats(&port->domain->engine, port->index, stats);
  return 0;
}

#define OPS(forward_function, recv_function, release_function) \
  {.close = port_close,                                        \
   .link = port_link,                                          \
   .unlink = port_unlink,                                      \
   .enable = port_enable,                                      \
   .send = port_send,                                          \
   .forward = forward_function,                                \
   .recv = recv_function,                                      \
   .release = release_function,                                \
   .release_later = port_release_later,                        \
   .in_flight = port_in_flight,                                \
   .fd = software_port_fd,                                     \
   .parked = port_parked,                                      \
   .expect = software_port_expect,                             \
   .has_work = port_has_work,                                  \
   .cancel = software_port_cancel,                             \
   .stats = port_stats}

static const struct pdlb_port_ops port_ops = OPS(port_forward, port_recv, port_release);
static const struct pdlb_port_ops successive_ops = OPS(port_forward, software_successive_recv, port_release);
static const struct pdlb_port_ops prefetching_ops =
    OPS(prefetching_forward, software_prefetching_recv, prefetching_release);

static void set_up(struct software_port *port, struct software_domain *domain, uint32_t id, bool directed) {
  port->base = (struct pdlb_port){.ops = &port_ops, .id = id, .directed = directed};
  port->domain = domain;
  port->index = directed ? domain->taken.ldb_ports + id : id;
  port->waiter = &domain->waiters[port->index];
  port->doorbell = port->waiter->doorbell;
  pdlb_engine_use(&domain->engine, port->index, &port->user);
}

/* Under the domain's mutex. */
static int create_locked(struct software_domain *domain, const struct pdlb_port_config *config, bool directed,
                         uint32_t queue, struct pdlb_error *error) {
  static const char *const ops[] = {"create load-balanced port", "create directed port"};
  if (config->history_entries > domain->history_left)
    return pdlb_fail(error, ENOSPC, ops[directed],
                     "history_entries is %u, but the domain has %u left; create it with more history_entries",
                     config->history_entries, domain->history_left);
  const char *why = NULL;
  const int id = pdlb_engine_port_create(&domain->engine, config, directed, queue, &why);
  if (id < 0) return pdlb_fail(error, -id, ops[directed], "%s", why);
  domain->history_left -= config->history_entries;
  domain->open_ports++;
  return id;
}

int software_port_create(struct pdlb_domain *base, const struct pdlb_port_config *config, bool directed, uint32_t queue,
                         struct pdlb_port **result, struct pdlb_error *error) {
  struct software_domain *domain = (struct software_domain *)base;
  if (domain->joined) return software_not_ours(error, "create port");
  if (config->service_class)
    return pdlb_fail(error, EOPNOTSUPP, "create port", "classes of service are hardware's: this backend has none");
  const bool prefetching = config->prefetch > 1;
  struct software_port *port = calloc(1, sizeof *port);
  struct software_prefetched *prefetched = port && prefetching ? software_prefetched_create(config->prefetch) : NULL;
  if (!port || (prefetching && !prefetched)) {
    free(port);
    return pdlb_fail(error, ENOMEM, "create port", "no memory for a port");
  }
  pthread_mutex_lock(&domain->mutex);
  const int id = create_locked(domain, config, directed, queue, error);
  pthread_mutex_unlock(&domain->mutex);
  if (id < 0) {
    free(prefetched);
    free(port);
    return id;
  }
  set_up(port, domain, (uint32_t)id, directed);
  port->prefetched = prefetched;
  if (prefetching)
    port->base.ops = &prefetching_ops;
  else if (config->release_on_recv)
    port->base.ops = &successive_ops;
  port->history_entries = config->history_entries;
  atomic_fetch_and_explicit(&port->doorbell->special, ~DOORBELL_CANCELLED, memory_order_relaxed);
  *result = &port->base;
  return 0;
}

/* The doorbell's descriptor, as this process has it, is the port's from now on. */
static int take_doorbell(struct waiter *waiter, int fd, struct pdlb_error *error) {
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return pdlb_fail(error, errno, "join port", "descriptor %d is no doorbell: %s", fd, strerror(errno));
  pthread_mutex_lock(&waiter->mutex);
  waiter->event_fd = waiter->poll_fd = own;
  pthread_mutex_unlock(&waiter->mutex);
  return 0;
}

int software_port_join(struct pdlb_domain *base, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **result,
                       struct pdlb_error *error) {
  struct software_domain *domain = (struct software_domain *)base;
  if (!domain->joined || id >= (directed ? domain->taken.dir_ports : domain->taken.ldb_ports) ||
      !pdlb_engine_port_exists(&domain->engine, id, directed))
    return pdlb_fail(error, EINVAL, "join port", "there is no %s port %u in a domain that was joined",
                     directed ? "directed" : "load-balanced", id);
  struct software_port *port = calloc(1, sizeof *port);
  if (!port) return pdlb_fail(error, ENOMEM, "join port", "no memory for a port");
  set_up(port, domain, id, directed);
  const int rc = take_doorbell(port->waiter, doorbell_fd, error);
  if (rc < 0) {
    free(port);
    return rc;
  }
  pthread_mutex_lock(&domain->mutex);
  domain->open_ports++;
  pthread_mutex_unlock(&domain->mutex);
  *result = &port->base;
  return 0;
}
