/* A domain in a process that did not make it. It has the driver's descriptor of the domain, which is as good as its
 * maker's, and maps ports anew; what was done to them before is in the shared state.
 *
 * It hears no alerts: each goes to one reader alone, and that is the maker. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

int not_ours(struct pdlb_error *error, const char *op) {
  return pdlb_fail(error, EPERM, op, "this process has joined the domain: the one that created it configures it");
}

int device_domain_share(struct pdlb_domain *base, struct pdlb_shared *shared, struct pdlb_error *error) {
  const struct domain *domain = domain_of(base);
  if (domain->joined) return not_ours(error, "share domain");
  if (domain->memory_fd < 0)
    return pdlb_fail(error, EINVAL, "share domain", "the domain is this process's alone; create it as a shared one");
  *shared = (struct pdlb_shared){.memory_fd = domain->memory_fd, .bell_fd = -1, .device_fd = domain->fd};
  return 0;
}

/* The descriptor, in this process. */
static int take_descriptor(struct domain *domain, int fd, struct pdlb_error *error) {
  struct device *device = domain->device;
  forks_wait();
  domain->fd = device->system->duplicate(device->context, fd);
  if (domain->fd >= 0) forks_tell(domain);
  forks_go_on();
  return domain->fd < 0
             ? pdlb_fail(error, -domain->fd, "join domain", "descriptor %d is no domain: %s", fd, strerror(-domain->fd))
             : 0;
}

int device_domain_join(struct pdlb_device *base, const struct pdlb_shared *shared, uint32_t member,
                       struct pdlb_domain **result, struct pdlb_error *error) {
  struct device *device = device_of(base);
  if (!device->system->duplicate)
    return pdlb_fail(error, EOPNOTSUPP, "join domain", "an emulated device in this process has no shared domains");
  struct domain *domain = calloc(1, sizeof *domain);
  if (!domain) return pdlb_fail(error, ENOMEM, "join domain", "no memory for a domain");
  *domain = (struct domain){.base = {.ops = &device_domain_ops}, .device = device, .memory_fd = -1, .joined = true};
  domain->member = member + 1; /* 0 is the maker */
  int rc = state_join(shared->memory_fd, &domain->state, &domain->memory_fd, error);
  if (rc == 0) rc = take_descriptor(domain, shared->device_fd, error);
  if (rc < 0) {
    state_free(domain->state, domain->memory_fd);
    free(domain);
    return rc;
  }
  domain->base.id = domain->state->domain;
  pthread_mutex_init(&domain->mutex, NULL);
  pthread_mutex_lock(&device->mutex);
  device->domains++;
  pthread_mutex_unlock(&device->mutex);
  *result = &domain->base;
  return 0;
}

static struct port *make_port(struct domain *domain, uint32_t id, bool directed, struct pdlb_error *error) {
  struct port *port = aligned_alloc(_Alignof(struct port), sizeof *port);
  if (!port) {
    pdlb_fail(error, ENOMEM, "join port", "no memory for a port");
    return NULL;
  }
  memset(port, 0, sizeof *port);
  port->base = (struct pdlb_port){.ops = &device_port_ops, .id = id, .directed = directed};
  port->domain = domain;
  port->record = &domain->state->ports[port_index(port)];
  port->store = domain->device->system->store;
  port->context = domain->device->context;
  port->cq_depth = port->record->cq_depth;
  port->most = port->record->most;
  port->release_on_recv = port->record->release_on_recv;
  port->hold_tokens = port->record->hold_tokens;
  port->watch_ns = domain->device->system->watch ? port->record->watch_ns : 0;
  port->use = PORT_OPEN;
  atomic_init(&port->event_fd, -1);
  return port;
}

/* Who buries a process that dies from here on looks for its number. */
static int claim(struct port *port, struct pdlb_error *error) {
  uint32_t nobody = 0;
  if (atomic_compare_exchange_strong_explicit(&port->record->member, &nobody, port->domain->member,
                                              memory_order_acq_rel, memory_order_acquire))
    return 0;
  return pdlb_fail(error, EBUSY, "join port",
                   "%s port %u is another process's, or was and is not buried: a port has one user at a time",
                   port->base.directed ? "directed" : "load-balanced", port->base.id);
}

int device_port_join(struct pdlb_domain *base, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **result,
                     struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  const uint32_t most = directed ? PDLB_NUM_DIR_PORTS_V25 : PDLB_NUM_LDB_PORTS;
  const uint32_t index = directed ? PDLB_NUM_LDB_PORTS + id : id;
  if (!domain->joined || id >= most || !atomic_load_explicit(&domain->state->ports[index].exists, memory_order_acquire))
    return pdlb_fail(error, EINVAL, "join port", "there is no %s port %u in a domain that was joined",
                     directed ? "directed" : "load-balanced", id);
  struct port *port = make_port(domain, id, directed, error);
  if (!port) return -ENOMEM;
  const int own = fcntl(doorbell_fd, F_DUPFD_CLOEXEC, 3);
  int rc = own < 0
               ? pdlb_fail(error, errno, "join port", "descriptor %d is no doorbell: %s", doorbell_fd, strerror(errno))
               : 0;
  if (rc == 0) atomic_store_explicit(&port->event_fd, own, memory_order_relaxed);
  if (rc == 0) rc = port_map(port, error);
  if (rc == 0) rc = claim(port, error);
  if (rc < 0) {
    port_discard(port);
    return rc;
  }
  port_find_place(port);
  pthread_mutex_lock(&domain->mutex);
  atomic_store_explicit(&domain->ports[index], port, memory_order_release);
  domain->open_ports++;
  pthread_mutex_unlock(&domain->mutex);
  *result = &port->base;
  return 0;
}
