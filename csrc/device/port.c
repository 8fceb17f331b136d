/* A port's life: created, mapped, linked, closed.
 *
 * The driver takes no port back before its domain ends. One that is closed rests, unlinked and disabled, until another
 * of its shape is wanted; so does one whose creation failed half-way.
 */
#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const creating[] = {"create load-balanced port", "create directed port"};

/* ---- the driver's port ----------------------------------------------------------------------------------------- */

static int request_port(struct domain *domain, const struct pdlb_port_config *config, bool directed, uint32_t queue,
                        struct pdlb_error *error) {
  if (directed) {
    struct pdlb_create_dir_port_args args = {.cq_depth = (uint16_t)config->cq_depth,
                                             .cq_depth_threshold = 1,
                                             .queue_id = queue == PDLB_NONE ? -1 : (int32_t)queue};
    const int rc = domain_request(domain, (uint32_t)PDLB_IOC_CREATE_DIR_PORT, &args, creating[directed], error);
    return rc < 0 ? rc : (int)args.response.id;
  }
  struct pdlb_create_ldb_port_args args = {.cq_depth = (uint16_t)config->cq_depth,
                                           .cq_depth_threshold = 1,
                                           .cq_history_list_size = (uint16_t)config->history_entries,
                                           .cos_id = config->service_class ? (uint8_t)(config->service_class - 1) : 0,
                                           .cos_strict = config->service_class != 0};
  const int rc = domain_request(domain, (uint32_t)PDLB_IOC_CREATE_LDB_PORT, &args, creating[directed], error);
  return rc < 0 ? rc : (int)args.response.id;
}

static struct port *make_port(struct domain *domain, const struct pdlb_port_config *config, bool directed,
                              uint32_t queue, struct pdlb_error *error) {
  struct port *port = aligned_alloc(_Alignof(struct port), sizeof *port);
  if (!port) {
    pdlb_fail(error, ENOMEM, creating[directed], "no memory for a port");
    return NULL;
  }
  const int id = request_port(domain, config, directed, queue, error);
  if (id < 0) {
    free(port);
    return NULL;
  }
  memset(port, 0, sizeof *port);
  port->base = (struct pdlb_port){.ops = &device_port_ops, .id = (uint32_t)id, .directed = directed};
  port->domain = domain;
  port->store = domain->device->system->store;
  port->context = domain->device->context;
  port->cq_depth = config->cq_depth;
  port->history_entries = config->history_entries;
  port->service_class = config->service_class;
  port->queue = queue;
  port->record = &domain->state->ports[port_index(port)];
  port->record->cq_depth = config->cq_depth;
  port_find_place(port);
  port->use = PORT_RESTING;
  atomic_store_explicit(&port->record->exists, true, memory_order_release);
  atomic_init(&port->event_fd, -1);
  atomic_store_explicit(&domain->ports[port_index(port)], port, memory_order_release);
  return port;
}

void port_find_place(struct port *port) {
  const uint32_t slots = port->cq_depth < PDLB_MIN_CQ_RING ? PDLB_MIN_CQ_RING : port->cq_depth;
  const uint64_t taken = record_taken(port->record);
  port->end = slots * port->domain->device->stride;
  port->at = (uint32_t)(taken % slots) * port->domain->device->stride;
  port->generation = (uint8_t)(taken / slots % 2 ? 0 : PDLB_QE_GEN);
}

/* The descriptor is needed for the mapping alone. */
static int map_now(struct port *port, uint32_t request, size_t length, bool writable, void **address,
                   struct pdlb_error *error) {
  const char *op = creating[port->base.directed];
  struct device *device = port->domain->device;
  struct pdlb_port_args args = {.port_id = port->base.id};
  int rc = domain_request(port->domain, request, &args, op, error);
  if (rc < 0) return rc;
  const int fd = (int)args.response.id;
  rc = device->system->map(device->context, fd, length, writable, address);
  device->system->close(device->context, fd);
  return rc < 0 ? system_failed(error, rc, op, device, "map a port's memory") : 0;
}

static int map(struct port *port, uint32_t request, size_t length, bool writable, void **address,
               struct pdlb_error *error) {
  forks_wait();
  const int rc = map_now(port, request, length, writable, address, error);
  forks_go_on();
  return rc;
}

int port_map(struct port *port, struct pdlb_error *error) {
  const bool directed = port->base.directed;
  void *memory;
  if (!port->consumer) {
    const int request = directed ? PDLB_IOC_GET_DIR_PORT_CQ_FD : PDLB_IOC_GET_LDB_PORT_CQ_FD;
    const int rc = map(port, (uint32_t)request, PDLB_CQ_SIZE, false, &memory, error);
    if (rc < 0) return rc;
    port->consumer = memory;
  }
  if (!port->producer) {
    const int request = directed ? PDLB_IOC_GET_DIR_PORT_PP_FD : PDLB_IOC_GET_LDB_PORT_PP_FD;
    const int rc = map(port, (uint32_t)request, PDLB_PP_SIZE, true, &memory, error);
    if (rc < 0) return rc;
    port->producer = memory;
  }
  return 0;
}

/* Ports are given nothing while they are closed. */
int port_set_enabled(struct port *port, bool enabled, const char *op, struct pdlb_error *error) {
  const uint32_t id = port->base.id;
  if (enabled && port->base.directed) {
    struct pdlb_enable_dir_port_args args = {.port_id = id};
    return domain_request(port->domain, (uint32_t)PDLB_IOC_ENABLE_DIR_PORT, &args, op, error);
  }
  static const int requests[2][2] = {{PDLB_IOC_DISABLE_LDB_PORT, PDLB_IOC_ENABLE_LDB_PORT},
                                     {PDLB_IOC_DISABLE_DIR_PORT, PDLB_IOC_ENABLE_DIR_PORT}};
  struct pdlb_port_args args = {.port_id = id};
  return domain_request(port->domain, (uint32_t)requests[port->base.directed][enabled], &args, op, error);
}

void port_discard(struct port *port) {
  struct device *device = port->domain->device;
  if (port->producer) device->system->unmap(device->context, port->producer, PDLB_PP_SIZE);
  if (port->consumer) device->system->unmap(device->context, (void *)(uintptr_t)port->consumer, PDLB_CQ_SIZE);
  const int fd = atomic_load_explicit(&port->event_fd, memory_order_relaxed);
  if (fd >= 0) close(fd);
  free(port);
}

/* ---- links ------------------------------------------------------------------------------------------------------- */

static uint32_t find_link(const struct port *port, uint32_t queue) {
  uint32_t link = 0;
  while (link < port->num_links && port->links[link] != queue) link++;
  return link;
}

static void forget_link(struct port *port, uint32_t link) {
  port->num_links--;
  port->links[link] = port->links[port->num_links];
  port->priorities[link] = port->priorities[port->num_links];
}

static int unmap_queue(struct port *port, uint32_t queue, const char *op, struct pdlb_error *error) {
  struct pdlb_unmap_qid_args args = {.port_id = port->base.id, .qid = queue};
  return domain_request(port->domain, (uint32_t)PDLB_IOC_UNMAP_QID, &args, op, error);
}

/* A link that is made while elements of its queue are out waits for them, and the queue with it. To take it back then
 * would leave the queue without service for good: the driver forgets to give it its limit back. */
static int check_link_made(const struct port *port, uint32_t queue, const char *op, struct pdlb_error *error) {
  struct domain *domain = port->domain;
  if (atomic_load_explicit(&domain->state->gone, memory_order_acquire)) return device_gone(error, op, domain->device);
  if (!domain->device_started) return 0;
  /* A function that does not know the register leaves the value as it is. */
  struct pdlb_xstats_args args = {
      .xstats_val = 1, .xstats_type = PDLB_XSTAT_QID_LDB_INFLIGHT_LIMIT, .xstats_id = queue};
  const int rc = device_request(domain->device, (uint32_t)PDLB_IOC_GET_XSTATS, &args, op, error);
  if (rc < 0 || args.xstats_val) return rc;
  return pdlb_fail(error, EBUSY, op,
                   "queue %u is still being linked to a port, which waits until what is out of it was released: "
                   "release it and try again",
                   queue);
}

static int remove_link(struct port *port, uint32_t queue, const char *op, struct pdlb_error *error) {
  const uint32_t link = find_link(port, queue);
  if (link == port->num_links)
    return pdlb_fail(error, EINVAL, op, "port %u is not linked to queue %u", port->base.id, queue);
  int rc = check_link_made(port, queue, op, error);
  if (rc == 0) rc = unmap_queue(port, queue, op, error);
  if (rc == 0) forget_link(port, link);
  return rc;
}

/* The device only adds bits to a priority: what has others is linked anew. */
static int make_link(struct port *port, uint32_t queue, uint32_t priority, struct pdlb_error *error) {
  if (!domain_has_queue(port->domain, queue, false))
    return pdlb_fail(error, EINVAL, "link", "the domain has no load-balanced queue %u", queue);
  uint32_t link = find_link(port, queue);
  if (link == port->num_links && link == PDLB_MAX_LINKS)
    return pdlb_fail(error, ENOSPC, "link", "port %u is linked to eight queues already: unlink one of them",
                     port->base.id);
  if (link < port->num_links && (port->priorities[link] & ~priority)) {
    const int rc = remove_link(port, queue, "link", error);
    if (rc < 0) return rc;
    link = port->num_links;
  }
  struct pdlb_map_qid_args args = {.port_id = port->base.id, .qid = queue, .priority = priority};
  const int rc = domain_request(port->domain, (uint32_t)PDLB_IOC_MAP_QID, &args, "link", error);
  if (rc < 0) return rc;
  if (link == port->num_links) port->num_links++;
  port->links[link] = (uint8_t)queue;
  port->priorities[link] = (uint8_t)priority;
  port->hold_tokens |= port->domain->even[queue];
  port->record->hold_tokens = port->hold_tokens;
  return 0;
}

static int port_link(struct pdlb_port *base, uint32_t queue, uint32_t priority, struct pdlb_error *error) {
  struct port *port = port_of(base);
  if (port->domain->joined) return not_ours(error, "link");
  pthread_mutex_lock(&port->domain->mutex);
  const int rc = make_link(port, queue, priority, error);
  pthread_mutex_unlock(&port->domain->mutex);
  return rc;
}

static int port_unlink(struct pdlb_port *base, uint32_t queue, struct pdlb_error *error) {
  struct port *port = port_of(base);
  if (port->domain->joined) return not_ours(error, "unlink");
  pthread_mutex_lock(&port->domain->mutex);
  const int rc = remove_link(port, queue, "unlink", error);
  pthread_mutex_unlock(&port->domain->mutex);
  return rc;
}

static int port_enable(struct pdlb_port *base, bool enabled, struct pdlb_error *error) {
  struct port *port = port_of(base);
  pthread_mutex_lock(&port->domain->mutex);
  const int rc = port_set_enabled(port, enabled, enabled ? "enable" : "disable", error);
  if (rc == 0) atomic_store_explicit(&port->record->disabled, !enabled, memory_order_relaxed);
  pthread_mutex_unlock(&port->domain->mutex);
  return rc;
}

/* What the port has done in all its lives. */
static struct counts counts_of(const struct port *port) {
  return (struct counts){
      .sent = atomic_load_explicit(&port->record->sent, memory_order_relaxed),
      .received = atomic_load_explicit(&port->record->received, memory_order_relaxed),
      .released = atomic_load_explicit(&port->record->released, memory_order_relaxed),
      .wakes = atomic_load_explicit(&port->record->wakes, memory_order_relaxed),
  };
}

/* ---- creation -------------------------------------------------------------------------------------------------- */

static bool fits(const struct port *port, const struct pdlb_port_config *config, bool directed, uint32_t queue) {
  return port->use == PORT_RESTING && port->base.directed == directed && port->cq_depth == config->cq_depth &&
         port->history_entries == config->history_entries && port->service_class == config->service_class &&
         (!directed || port->queue == queue);
}

/* Whether nothing is left of its former life. */
static bool clear(struct port *port) {
  for (uint32_t link = port->num_links; link-- > 0;) remove_link(port, port->links[link], "close", NULL);
  if (port->num_links) return false;
  if (!port->base.directed && port->producer && port->consumer) port_put_back(port);
  return true;
}

static struct port *find_resting(struct domain *domain, const struct pdlb_port_config *config, bool directed,
                                 uint32_t queue) {
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    struct port *port = domain->ports[index];
    if (port && fits(port, config, directed, queue) && clear(port)) return port;
  }
  return NULL;
}

static uint32_t count_ports(const struct domain *domain, bool directed) {
  uint32_t count = 0;
  for (uint32_t index = 0; index < NUM_PORTS; index++)
    count += domain->ports[index] && domain->ports[index]->base.directed == directed;
  return count;
}

static uint32_t most_ports(const struct domain *domain, bool directed) {
  if (directed) return domain->config.dir_ports;
  uint32_t most = domain->config.ldb_ports;
  for (uint32_t class = 0; class < PDLB_SERVICE_CLASSES; class++) most += domain->config.class_ports[class];
  return most;
}

static int check_config(const struct domain *domain, const struct pdlb_port_config *config, bool directed,
                        uint32_t queue, struct pdlb_error *error) {
  const char *op = creating[directed];
  const uint32_t most = most_ports(domain, directed);
  if (count_ports(domain, directed) == most)
    return pdlb_fail(error, ENOSPC, op, "the domain has its %u %s ports; create it with more %s", most,
                     directed ? "directed" : "load-balanced", directed ? "dir_ports" : "ldb_ports");
  if (!directed && config->history_entries > domain->history_left)
    return pdlb_fail(error, ENOSPC, op,
                     "history_entries is %u, but the domain has %u left; create it with more history_entries",
                     config->history_entries, domain->history_left);
  if (!directed || queue == PDLB_NONE) return 0;
  if (!domain_has_queue(domain, queue, true))
    return pdlb_fail(error, EINVAL, op, "the domain has no directed queue %u", queue);
  const struct port *port = domain->ports[PDLB_NUM_LDB_PORTS + queue];
  if (port && port->use == PORT_OPEN)
    return pdlb_fail(error, EINVAL, op, "directed queue %u has a port already: a pair has one of each", queue);
  if (port)
    return pdlb_fail(error, EINVAL, op,
                     "directed queue %u had a port with cq_depth %u: on a device it keeps that depth", queue,
                     port->cq_depth);
  return 0;
}

/* Under the domain's mutex. */
static int open_port(struct domain *domain, const struct pdlb_port_config *config, bool directed, uint32_t queue,
                     struct port **result, struct pdlb_error *error) {
  if (atomic_load_explicit(&domain->state->gone, memory_order_acquire))
    return device_gone(error, creating[directed], domain->device);
  struct port *port = find_resting(domain, config, directed, queue);
  if (!port) {
    int rc = check_config(domain, config, directed, queue, error);
    if (rc < 0) return rc;
    struct pdlb_error why = {0};
    port = make_port(domain, config, directed, queue, &why);
    if (error) *error = why;
    if (!port) return -why.err;
    domain->history_left -= config->history_entries;
  } else {
    const int rc = port_set_enabled(port, true, creating[directed], error);
    if (rc < 0) return rc;
  }
  const int rc = port_map(port, error);
  if (rc < 0) return rc;
  port->release_on_recv = config->release_on_recv;
  port->watch_ns = port->domain->device->system->watch ? config->watch_ns : 0;
  /* More are not given to a port that releases when it comes for more. */
  port->most = config->cq_depth;
  if (config->release_on_recv && !directed && config->history_entries < port->most)
    port->most = config->history_entries;
  struct port_record *record = port->record;
  record->release_on_recv = port->release_on_recv;
  record->watch_ns = port->watch_ns;
  record->most = port->most;
  port->before = counts_of(port);
  port->use = PORT_OPEN;
  domain->open_ports++;
  atomic_store_explicit(&port->record->disabled, false, memory_order_relaxed);
  atomic_store_explicit(&port->record->stalled, false, memory_order_relaxed);
  atomic_store_explicit(&port->record->cancelled, false, memory_order_seq_cst);
  *result = port;
  return 0;
}

int device_port_create(struct pdlb_domain *base, const struct pdlb_port_config *config, bool directed, uint32_t queue,
                       struct pdlb_port **result, struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  struct port *port = NULL;
  if (domain->joined) return not_ours(error, creating[directed]);
  if (config->history_entries > PDLB_NUM_HISTORY_ENTRIES)
    return pdlb_fail(error, ENOSPC, creating[directed], "history_entries is %u: a device has %u",
                     config->history_entries, PDLB_NUM_HISTORY_ENTRIES);
  pthread_mutex_lock(&domain->mutex);
  const int rc = open_port(domain, config, directed, queue, &port, error);
  pthread_mutex_unlock(&domain->mutex);
  if (rc < 0) return rc;
  *result = &port->base;
  return 0;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

/* Another process has it still: its maker closes it, when that has left. */
static void leave(struct port *port) {
  struct domain *domain = port->domain;
  pthread_mutex_lock(&domain->mutex);
  atomic_store_explicit(&domain->ports[port_index(port)], NULL, memory_order_release);
  domain->open_ports--;
  pthread_mutex_unlock(&domain->mutex);
  port_discard(port);
}

/* Nothing may be lost: what is held is released, what waits goes back into its queue, and what the device was just
 * about to give is found by the port's next user. A request that fails here leaves a port that rests linked. */
static int port_close(struct pdlb_port *base) {
  struct port *port = port_of(base);
  struct domain *domain = port->domain;
  if (domain->joined) {
    leave(port);
    return 0;
  }
  pthread_mutex_lock(&domain->mutex);
  if (atomic_load_explicit(&port->record->member, memory_order_acquire)) port_reclaim(port, NULL);
  /* What is put back must not come straight in again. */
  const bool disabled =
      port_set_enabled(port, false, "close", NULL) == 0 || port_set_enabled(port, false, "close", NULL) == 0;
  port_enter(port);
  port_complete(port, UINT32_MAX);
  if (!base->directed && disabled && port->use != PORT_LOST) port_put_back(port);
  port_return_tokens(port);
  port_leave(port);
  for (uint32_t link = port->num_links; link-- > 0;) remove_link(port, port->links[link], "close", NULL);
  port->hold_tokens = false;
  if (port->use != PORT_LOST) port->use = PORT_RESTING;
  domain->open_ports--;
  pthread_mutex_unlock(&domain->mutex);
  return 0;
}

static void port_parked(struct pdlb_port *base, bool parked) { (void)base, (void)parked; }

static int port_stats(const struct pdlb_port *base, struct pdlb_port_stats *stats) {
  const struct port *port = (const struct port *)base;
  const struct counts counts = counts_of(port);
  *stats = (struct pdlb_port_stats){
      .received = counts.received - port->before.received,
      .released = counts.released - port->before.released,
      .sent = counts.sent - port->before.sent,
      .wakes = counts.wakes - port->before.wakes,
      .in_flight = port_in_flight(base),
      .armed = atomic_load_explicit(&port->event_fd, memory_order_relaxed) >= 0,
      .stalled = atomic_load_explicit(&port->record->stalled, memory_order_relaxed),
  };
  return 0;
}

const struct pdlb_port_ops device_port_ops = {
    .settings = &device_port_settings,
    .close = port_close,
    .link = port_link,
    .unlink = port_unlink,
    .enable = port_enable,
    .send = port_send,
    .forward = port_forward,
    .prepare_wait = port_prepare_wait,
    .recv = port_recv,
    .release = port_release,
    .release_later = port_release_later,
    .in_flight = port_in_flight,
    .fd = port_fd,
    .parked = port_parked,
    .cancel = port_cancel,
    .stats = port_stats,
};
