/* The core's face: checks that hold for every backend, then the backend's own verb. */
#include "pdlb.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "backend.h"

#define MAX_CQ_DEPTH 1024u

uint64_t pdlb_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ---- device
 * ----------------------------------------------------------------------------------------------------------------- */

int pdlb_device_close(struct pdlb_device *device) { return device->ops->close(device); }

enum pdlb_backend pdlb_device_backend(const struct pdlb_device *device) { return device->backend; }

uint32_t pdlb_device_version(const struct pdlb_device *device) { return device->version; }

int pdlb_device_resources(struct pdlb_device *device, struct pdlb_resources *total, struct pdlb_resources *available,
                          struct pdlb_error *error) {
  return device->ops->resources(device, total, available, error);
}

/* ---- scheduling domain
 * ------------------------------------------------------------------------------------------------------ */

int pdlb_domain_create(struct pdlb_device *device, const struct pdlb_domain_config *config, struct pdlb_domain **domain,
                       struct pdlb_error *error) {
  *domain = NULL;
  if (config->ldb_queues && !config->ldb_ports)
    return pdlb_fail(
        error, EINVAL, "create domain",
        "ldb_queues is %u but ldb_ports is 0: load-balanced queues need a load-balanced port to serve them",
        config->ldb_queues);
  static const uint32_t none[PDLB_SERVICE_CLASSES];
  if (!device->ops->settings && memcmp(config->class_ports, none, sizeof none) != 0)
    return pdlb_fail(error, EOPNOTSUPP, "create domain", "classes of service are hardware's: this backend has none");
  if (config->shared && !device->ops->domain_join)
    return pdlb_fail(error, EOPNOTSUPP, "create domain",
                     "domains of this backend stay with the process that makes them");
  return device->ops->domain_create(device, config, domain, error);
}

int pdlb_domain_close(struct pdlb_domain *domain) { return domain->ops->close(domain); }

uint32_t pdlb_domain_id(const struct pdlb_domain *domain) { return domain->id; }

int pdlb_domain_start(struct pdlb_domain *domain, struct pdlb_error *error) {
  return domain->ops->start(domain, error);
}

int pdlb_domain_stop(struct pdlb_domain *domain, struct pdlb_error *error) { return domain->ops->stop(domain, error); }

int pdlb_domain_set_external_clock(struct pdlb_domain *domain, bool external, struct pdlb_error *error) {
  return domain->ops->external_clock(domain, external, error);
}

uint64_t pdlb_domain_tick(struct pdlb_domain *domain, uint64_t now) { return domain->ops->tick(domain, now); }

uint32_t pdlb_domain_next(const struct pdlb_domain *domain, uint32_t queue) {
  return domain->ops->next ? domain->ops->next(domain, queue) : PDLB_NONE;
}

int pdlb_domain_stats(struct pdlb_domain *domain, struct pdlb_domain_stats *stats) {
  return domain->ops->stats(domain, stats);
}

/* ---- sharing between processes
 * ---------------------------------------------------------------------------------------------- */

int pdlb_domain_share(struct pdlb_domain *domain, struct pdlb_shared *shared, struct pdlb_error *error) {
  if (!domain->ops->share)
    return pdlb_fail(error, EOPNOTSUPP, "share domain", "domains of this backend stay with the process that made them");
  return domain->ops->share(domain, shared, error);
}

int pdlb_domain_join(struct pdlb_device *device, const struct pdlb_shared *shared, uint32_t member,
                     struct pdlb_domain **domain, struct pdlb_error *error) {
  *domain = NULL;
  if (!device->ops->domain_join)
    return pdlb_fail(error, EOPNOTSUPP, "join domain", "domains of this backend stay with the process that made them");
  return device->ops->domain_join(device, shared, member, domain, error);
}

int pdlb_domain_bury(struct pdlb_domain *domain, uint32_t member, struct pdlb_error *error) {
  if (!domain->ops->bury)
    return pdlb_fail(error, EOPNOTSUPP, "bury member", "domains of this backend stay with the process that made them");
  return domain->ops->bury(domain, member, error);
}

uint32_t pdlb_domain_standing(struct pdlb_domain *domain, uint64_t patience_ns) {
  return domain->ops->standing ? domain->ops->standing(domain, patience_ns) : 0;
}

int pdlb_port_join(struct pdlb_domain *domain, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **port,
                   struct pdlb_error *error) {
  *port = NULL;
  if (!domain->ops->port_join)
    return pdlb_fail(error, EOPNOTSUPP, "join port", "ports of this backend stay with the process that made them");
  return domain->ops->port_join(domain, id, directed, doorbell_fd, port, error);
}

/* ---- queues
 * ------------------------------------------------------------------------------------------------------------------ */

int pdlb_ldb_queue_create(struct pdlb_domain *domain, const struct pdlb_ldb_queue_config *config,
                          struct pdlb_error *error) {
  const uint32_t numbers = config->sequence_numbers;
  if (numbers && config->inflights > numbers)
    return pdlb_fail(error, EINVAL, "create load-balanced queue",
                     "inflights is %u, more than the queue's %u sequence numbers: an ordered queue has at most one "
                     "element in flight for each",
                     config->inflights, numbers);
  if (config->sharing != PDLB_SHARE_PULL && config->sharing != PDLB_SHARE_EVEN)
    return pdlb_fail(error, EINVAL, "create load-balanced queue", "sharing is %d: it is PULL (0) or EVEN (1)",
                     (int)config->sharing);
  return domain->ops->ldb_queue_create(domain, config, error);
}

int pdlb_dir_queue_create(struct pdlb_domain *domain, uint32_t port, struct pdlb_error *error) {
  return domain->ops->dir_queue_create(domain, port, error);
}

int pdlb_ldb_queue_depth(struct pdlb_domain *domain, uint32_t queue, struct pdlb_error *error) {
  return domain->ops->depth(domain, queue, false, error);
}

int pdlb_dir_queue_depth(struct pdlb_domain *domain, uint32_t queue, struct pdlb_error *error) {
  return domain->ops->depth(domain, queue, true, error);
}

/* ---- ports
 * --------------------------------------------------------------------------------------------------------------------
 */

static int check_port(const struct pdlb_port_config *config, const char *op, struct pdlb_error *error) {
  const uint32_t depth = config->cq_depth;
  if (depth == 0 || depth > MAX_CQ_DEPTH || (depth & (depth - 1)))
    return pdlb_fail(error, EINVAL, op, "cq_depth is %u: a consumer queue holds a power of two from 1 to %u elements",
                     depth, MAX_CQ_DEPTH);
  return 0;
}

int pdlb_ldb_port_create(struct pdlb_domain *domain, const struct pdlb_port_config *config, struct pdlb_port **port,
                         struct pdlb_error *error) {
  *port = NULL;
  const int rc = check_port(config, "create load-balanced port", error);
  if (rc < 0) return rc;
  if (config->service_class > PDLB_SERVICE_CLASSES)
    return pdlb_fail(error, EINVAL, "create load-balanced port", "the class of service is %u: it is 0 to 3",
                     config->service_class - 1);
  if (config->prefetch > 1 && (!config->release_on_recv || config->prefetch > config->cq_depth))
    return pdlb_fail(error, EINVAL, "create load-balanced port",
                     "prefetch is %u: it is for ports that release on recv, and at most their cq_depth, %u",
                     config->prefetch, config->cq_depth);
  struct pdlb_port_config complete = *config;
  if (complete.history_entries == 0) complete.history_entries = 2 * complete.cq_depth;
  return domain->ops->port_create(domain, &complete, false, PDLB_NONE, port, error);
}

int pdlb_dir_port_create(struct pdlb_domain *domain, const struct pdlb_port_config *config, uint32_t queue,
                         struct pdlb_port **port, struct pdlb_error *error) {
  *port = NULL;
  const int rc = check_port(config, "create directed port", error);
  if (rc < 0) return rc;
  struct pdlb_port_config complete = *config;
  complete.history_entries = 0;
  complete.service_class = 0;
  complete.prefetch = 0;
  return domain->ops->port_create(domain, &complete, true, queue, port, error);
}

int pdlb_port_close(struct pdlb_port *port) { return port->ops->close(port); }

uint32_t pdlb_port_id(const struct pdlb_port *port) { return port->id; }

bool pdlb_port_directed(const struct pdlb_port *port) { return port->directed; }

int pdlb_port_link(struct pdlb_port *port, uint32_t queue, uint32_t priority, struct pdlb_error *error) {
  if (port->directed)
    return pdlb_fail(error, EINVAL, "link",
                     "port %u is directed: it receives from its paired queue and cannot be linked to others", port->id);
  if (priority >= PDLB_PRIORITIES)
    return pdlb_fail(error, EINVAL, "link", "priority is %u: it goes from 0 (served first) to 7", priority);
  return port->ops->link(port, queue, priority, error);
}

int pdlb_port_unlink(struct pdlb_port *port, uint32_t queue, struct pdlb_error *error) {
  if (port->directed)
    return pdlb_fail(error, EINVAL, "unlink", "port %u is directed: it stays with its paired queue", port->id);
  return port->ops->unlink(port, queue, error);
}

int pdlb_port_enable(struct pdlb_port *port, struct pdlb_error *error) { return port->ops->enable(port, true, error); }

int pdlb_port_disable(struct pdlb_port *port, struct pdlb_error *error) {
  return port->ops->enable(port, false, error);
}

uint32_t pdlb_port_send(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count,
                        enum pdlb_refusal *why) {
  return port->ops->send(port, events, count, why);
}

uint32_t pdlb_port_forward(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count,
                           enum pdlb_refusal *why) {
  return port->ops->forward(port, events, count, why);
}

int pdlb_port_prepare_wait(struct pdlb_port *port, struct pdlb_error *error) {
  return port->ops->prepare_wait ? port->ops->prepare_wait(port, error) : 0;
}

int pdlb_port_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline) {
  return port->ops->recv(port, events, max, deadline);
}

uint32_t pdlb_port_release(struct pdlb_port *port, uint32_t count) { return port->ops->release(port, count); }

void pdlb_port_release_later(struct pdlb_port *port, uint32_t count) { port->ops->release_later(port, count); }

uint32_t pdlb_port_in_flight(const struct pdlb_port *port) { return port->ops->in_flight(port); }

int pdlb_port_fd(struct pdlb_port *port, struct pdlb_error *error) { return port->ops->fd(port, error); }

void pdlb_port_parked(struct pdlb_port *port, bool parked) { port->ops->parked(port, parked); }

void pdlb_port_expect(struct pdlb_port *port) {
  if (port->ops->expect) port->ops->expect(port);
}

bool pdlb_port_has_work(const struct pdlb_port *port) { return !port->ops->has_work || port->ops->has_work(port); }

void pdlb_port_cancel(struct pdlb_port *port) { port->ops->cancel(port); }

int pdlb_port_stats(const struct pdlb_port *port, struct pdlb_port_stats *stats) {
  return port->ops->stats(port, stats);
}
