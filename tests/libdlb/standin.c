/* A libdlb.so of our own making, for the tests of the adapter: the vendor's functions over pydlb's software engine.
 *
 * It does what the adapter has to live with: received elements carry garbage where the vendor's do; events that are
 * sent get commands written into them; a port is never given back; a receive in epoll mode that finds the descriptor
 * silent complains on standard output and does not arm again.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "pdlb.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX_DOMAINS 32
#define MAX_PORTS 256
#define ATOMIC_INFLIGHTS_PER_QUEUE 64
#define INFLIGHTS_PER_QUEUE 512

enum { COMBINED_CREDITS = 1 << 4, COMMON_CAPABILITIES = 0xF };
enum { ALERT_DEVICE_RESET = 0, ALERT_DOMAIN_RESET = 1 };

struct alert {
  int id;
  uint64_t data;
};
typedef void alert_callback(struct alert *alert, int domain, void *argument);

struct port {
  struct pdlb_port *port;
  struct domain *domain;
  bool directed, enabled;
};

/* What a handle to a port adds to the port. */
struct port_handle {
  struct port *port;
  int event_fd, stop_fd;
  pthread_t watcher;
  pthread_mutex_t mutex;
  pthread_cond_t rearmed;
  bool armed, stopping;
};

struct domain {
  struct device *device;
  struct pdlb_domain *domain;
  int id;
  struct port ports[MAX_PORTS];
  unsigned num_ports;
  unsigned handles;
  bool started, launched;
  uint32_t credits_left;
  pthread_t alert_thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int alert; /* -1: none */
  alert_callback *callback;
  void *argument;
};

struct device {
  struct pdlb_device *device;
  struct domain *domains[MAX_DOMAINS];
  uint64_t capabilities;
};

static struct device *last_opened;

static int fail(int number) {
  errno = number;
  return -1;
}

/* As the driver, which has one answer to most things. */
static int result_of(int rc) { return rc >= 0 ? rc : fail(EINVAL); }

/* ---- device ----------------------------------------------------------------------------------------------------- */

EXPORT int dlb_open(int number, struct device **handle) {
  const char *version = getenv("STANDIN_VERSION");
  if (number != 0) return fail(ENOENT);
  struct device *device = calloc(1, sizeof *device);
  if (!device) return fail(ENOMEM);
  if (pdlb_device_open_software(PDLB_LIMITS_HARDWARE, &device->device, NULL) < 0) {
    free(device);
    return fail(ENOMEM);
  }
  device->capabilities = COMMON_CAPABILITIES;
  if (!version || strcmp(version, "2.0") != 0) device->capabilities |= COMBINED_CREDITS;
  last_opened = *handle = device;
  return 0;
}

EXPORT int dlb_close(struct device *device) {
  for (int i = 0; i < MAX_DOMAINS; i++)
    if (device->domains[i]) return fail(EEXIST);
  if (last_opened == device) last_opened = NULL;
  pdlb_device_close(device->device);
  free(device);
  return 0;
}

EXPORT int dlb_get_dev_capabilities(struct device *device, uint64_t *capabilities) {
  *capabilities = device->capabilities;
  return 0;
}

EXPORT int dlb_get_num_resources(struct device *device, uint32_t *amounts) {
  struct pdlb_resources total, left;
  if (pdlb_device_resources(device->device, &total, &left, NULL) < 0) return fail(EINVAL);
  const bool combined = device->capabilities & COMBINED_CREDITS;
  const uint32_t entries = left.history_entries;
  const uint32_t dir_ports = combined ? left.dir_ports : left.dir_ports - 32;
  const uint32_t credits = combined ? left.ldb_credits : left.ldb_credits - 8192;
  const uint32_t values[18] = {
      left.domains,
      left.ldb_queues,
      left.ldb_ports,
      16,
      16,
      16,
      16,
      dir_ports,
      entries,
      entries,
      credits,
      64,
      4096,
      4096,
      64,
      64,
      left.sequence_slots[0],
      left.sequence_slots[1],
  };
  for (int i = 0; i < 18; i++)
    if (!combined || i < 12 || i > 15) amounts[i] = values[i]; /* with combined credits the rest is left as it was */
  return 0;
}

/* ---- domain ------------------------------------------------------------------------------------------------------ */

struct create_domain {
  uint32_t ldb_queues, ldb_ports, dir_ports, history_entries, sequence_slots[2], ldb_credits, dir_credits, ldb_pools,
      dir_pools;
  uint64_t producer_cores[2];
};

EXPORT int dlb_create_sched_domain(struct device *device, const struct create_domain *args) {
  const bool combined = device->capabilities & COMBINED_CREDITS;
  const struct pdlb_domain_config config = {
      .ldb_queues = args->ldb_queues,
      .ldb_ports = args->ldb_ports,
      .dir_ports = args->dir_ports,
      .ldb_credits = args->ldb_credits,
      .history_entries = args->history_entries,
      .atomic_inflights = ATOMIC_INFLIGHTS_PER_QUEUE * args->ldb_queues,
      .sequence_slots = {args->sequence_slots[0], args->sequence_slots[1]},
  };
  struct domain *domain = calloc(1, sizeof *domain);
  int id = 0;
  if (!domain) return fail(ENOMEM);
  while (id < MAX_DOMAINS && device->domains[id]) id++;
  if (id == MAX_DOMAINS || pdlb_domain_create(device->device, &config, &domain->domain, NULL) < 0) {
    free(domain);
    return fail(EINVAL);
  }
  domain->device = device;
  domain->id = id;
  domain->credits_left = args->ldb_credits + (combined ? 0 : args->dir_credits);
  domain->alert = -1;
  pthread_mutex_init(&domain->mutex, NULL);
  pthread_cond_init(&domain->changed, NULL);
  device->domains[id] = domain;
  return id;
}

EXPORT struct domain *dlb_attach_sched_domain(struct device *device, int id) {
  if (id < 0 || id >= MAX_DOMAINS || !device->domains[id]) return errno = EINVAL, NULL;
  device->domains[id]->handles++;
  return device->domains[id];
}

EXPORT int dlb_detach_sched_domain(struct domain *domain) {
  domain->handles--;
  return 0;
}

static void raise_alert(struct domain *domain, int alert) {
  pthread_mutex_lock(&domain->mutex);
  domain->alert = alert;
  pthread_cond_signal(&domain->changed);
  pthread_mutex_unlock(&domain->mutex);
}

static void *tell_alerts(void *argument) {
  struct domain *domain = argument;
  for (int id = -1; id != ALERT_DOMAIN_RESET;) {
    pthread_mutex_lock(&domain->mutex);
    while (domain->alert < 0) pthread_cond_wait(&domain->changed, &domain->mutex);
    id = domain->alert;
    domain->alert = -1;
    pthread_mutex_unlock(&domain->mutex);
    struct alert alert = {.id = id};
    if (domain->callback) domain->callback(&alert, domain->id, domain->argument);
  }
  return NULL;
}

EXPORT int dlb_reset_sched_domain(struct device *device, int id) {
  struct domain *domain = id >= 0 && id < MAX_DOMAINS ? device->domains[id] : NULL;
  if (!domain || domain->handles) return fail(domain ? EEXIST : EINVAL);
  if (domain->launched) {
    raise_alert(domain, ALERT_DOMAIN_RESET);
    pthread_join(domain->alert_thread, NULL);
  }
  for (unsigned i = 0; i < domain->num_ports; i++) pdlb_port_close(domain->ports[i].port);
  pdlb_domain_close(domain->domain);
  device->domains[id] = NULL;
  free(domain);
  return 0;
}

static int create_pool(struct domain *domain, int credits) {
  if (credits < 0 || (uint32_t)credits > domain->credits_left) return fail(EINVAL);
  domain->credits_left -= (uint32_t)credits;
  return 0;
}

EXPORT int dlb_create_credit_pool(struct domain *domain, int credits) {
  return domain->device->capabilities & COMBINED_CREDITS ? create_pool(domain, credits) : fail(EINVAL);
}

EXPORT int dlb_create_ldb_credit_pool(struct domain *domain, int credits) {
  return domain->device->capabilities & COMBINED_CREDITS ? fail(EINVAL) : create_pool(domain, credits);
}

EXPORT int dlb_create_dir_credit_pool(struct domain *domain, int credits) {
  return dlb_create_ldb_credit_pool(domain, credits);
}

EXPORT int dlb_launch_domain_alert_thread(struct domain *domain, alert_callback *callback, void *argument) {
  if (domain->launched) return fail(EEXIST);
  domain->callback = callback;
  domain->argument = argument;
  if (pthread_create(&domain->alert_thread, NULL, tell_alerts, domain) != 0) return fail(ENOMEM);
  domain->launched = true;
  return 0;
}

EXPORT int dlb_start_sched_domain(struct domain *domain) {
  if (!domain->launched) return fail(ESRCH);
  domain->started = true;
  return result_of(pdlb_domain_start(domain->domain, NULL));
}

/* For tests: the device that was opened last is reset. */
EXPORT void standin_reset_device(void) {
  for (int id = 0; id < MAX_DOMAINS; id++) {
    struct domain *domain = last_opened ? last_opened->domains[id] : NULL;
    if (!domain) continue;
    for (unsigned i = 0; i < domain->num_ports; i++) {
      domain->ports[i].enabled = false;
      pdlb_port_disable(domain->ports[i].port, NULL);
    }
    raise_alert(domain, ALERT_DEVICE_RESET);
  }
}

/* ---- queues and ports ----------------------------------------------------------------------------------------------
 */

EXPORT int dlb_create_ldb_queue(struct domain *domain, const uint32_t *args) {
  const uint32_t sequence_numbers = args[0];
  const struct pdlb_ldb_queue_config config = {
      .sequence_numbers = sequence_numbers,
      .inflights = sequence_numbers ? sequence_numbers : INFLIGHTS_PER_QUEUE,
      .atomic_inflights = ATOMIC_INFLIGHTS_PER_QUEUE,
  };
  return result_of(pdlb_ldb_queue_create(domain->domain, &config, NULL));
}

EXPORT int dlb_create_dir_queue(struct domain *domain, int port) {
  return result_of(pdlb_dir_queue_create(domain->domain, port < 0 ? PDLB_NONE : (uint32_t)port, NULL));
}

struct create_port {
  uint32_t ldb_pool, dir_pool;
  uint16_t cq_depth;
  uint32_t history_entries;
  int class_of_service;
};

static int keep(struct domain *domain, struct pdlb_port *created, bool directed) {
  if (domain->num_ports == MAX_PORTS) abort();
  domain->ports[domain->num_ports++] =
      (struct port){.port = created, .domain = domain, .directed = directed, .enabled = true};
  return (int)pdlb_port_id(created);
}

EXPORT int dlb_create_ldb_port(struct domain *domain, const struct create_port *args) {
  const struct pdlb_port_config config = {.cq_depth = args->cq_depth, .history_entries = args->history_entries};
  struct pdlb_port *created;
  if (args->class_of_service != 4) return fail(EINVAL);
  if (pdlb_ldb_port_create(domain->domain, &config, &created, NULL) < 0) return fail(EINVAL);
  return keep(domain, created, false);
}

EXPORT int dlb_create_dir_port(struct domain *domain, const struct create_port *args, int queue) {
  const struct pdlb_port_config config = {.cq_depth = args->cq_depth};
  struct pdlb_port *created;
  if (pdlb_dir_port_create(domain->domain, &config, queue < 0 ? PDLB_NONE : (uint32_t)queue, &created, NULL) < 0)
    return fail(EINVAL);
  return keep(domain, created, true);
}

static struct port_handle *attach(struct domain *domain, int id, bool directed) {
  for (unsigned i = 0; i < domain->num_ports; i++) {
    struct port *port = &domain->ports[i];
    if (port->directed != directed || pdlb_port_id(port->port) != (uint32_t)id) continue;
    struct port_handle *handle = calloc(1, sizeof *handle);
    if (!handle) return NULL;
    handle->port = port;
    pthread_mutex_init(&handle->mutex, NULL);
    pthread_cond_init(&handle->rearmed, NULL);
    return handle;
  }
  return errno = EINVAL, NULL;
}

EXPORT struct port_handle *dlb_attach_ldb_port(struct domain *domain, int id) { return attach(domain, id, false); }

EXPORT struct port_handle *dlb_attach_dir_port(struct domain *domain, int id) { return attach(domain, id, true); }

EXPORT int dlb_detach_port(struct port_handle *handle) {
  if (handle->event_fd) {
    pthread_mutex_lock(&handle->mutex);
    handle->stopping = true;
    pthread_cond_signal(&handle->rearmed);
    pthread_mutex_unlock(&handle->mutex);
    eventfd_write(handle->stop_fd, 1);
    pthread_join(handle->watcher, NULL);
    close(handle->stop_fd);
  }
  free(handle);
  return 0;
}

EXPORT int dlb_link_queue(struct port_handle *handle, int queue, int priority) {
  return result_of(pdlb_port_link(handle->port->port, (uint32_t)queue, (uint32_t)priority, NULL));
}

EXPORT int dlb_unlink_queue(struct port_handle *handle, int queue) {
  return result_of(pdlb_port_unlink(handle->port->port, (uint32_t)queue, NULL));
}

EXPORT int dlb_enable_port(struct port_handle *handle) {
  handle->port->enabled = true;
  return result_of(pdlb_port_enable(handle->port->port, NULL));
}

EXPORT int dlb_disable_port(struct port_handle *handle) {
  handle->port->enabled = false;
  return result_of(pdlb_port_disable(handle->port->port, NULL));
}

/* ---- interrupts
 * ------------------------------------------------------------------------------------------------------ */

/* Stands for the interrupt: once armed, and there is something, add to the descriptor, once. */
static void *watch(void *argument) {
  struct port_handle *handle = argument;
  struct pollfd fds[2] = {{.fd = pdlb_port_fd(handle->port->port, NULL), .events = POLLIN},
                          {.fd = handle->stop_fd, .events = POLLIN}};
  pthread_mutex_lock(&handle->mutex);
  while (!handle->stopping) {
    if (!handle->armed) {
      pthread_cond_wait(&handle->rearmed, &handle->mutex);
      continue;
    }
    pthread_mutex_unlock(&handle->mutex);
    poll(fds, 2, -1);
    pthread_mutex_lock(&handle->mutex);
    if (!handle->stopping && handle->armed && (fds[0].revents & POLLIN)) {
      handle->armed = false;
      eventfd_write(handle->event_fd, 1);
    }
  }
  pthread_mutex_unlock(&handle->mutex);
  return NULL;
}

EXPORT int dlb_enable_cq_epoll(struct port_handle *handle, bool is_ldb, int event_fd) {
  if (is_ldb == handle->port->directed) return fail(EINVAL);
  handle->stop_fd = eventfd(0, EFD_CLOEXEC);
  if (handle->stop_fd < 0) return -1;
  handle->event_fd = event_fd;
  handle->armed = true;
  if (pthread_create(&handle->watcher, NULL, watch, handle) == 0) return 0;
  handle->event_fd = 0;
  close(handle->stop_fd);
  return fail(ENOMEM);
}

static void rearm(struct port_handle *handle) {
  eventfd_t count;
  if (eventfd_read(handle->event_fd, &count) < 0) {
    printf("libdlb stand-in: asked in vain\n");
    fflush(stdout);
    return;
  }
  pthread_mutex_lock(&handle->mutex);
  handle->armed = true;
  pthread_cond_signal(&handle->rearmed);
  pthread_mutex_unlock(&handle->mutex);
}

/* ---- traffic
 * --------------------------------------------------------------------------------------------------------- */

static int enqueue(struct port_handle *handle, uint32_t count, struct pdlb_event *events, bool forward) {
  struct port *port = handle->port;
  enum pdlb_refusal why;
  if (!port->enabled) return fail(EACCES);
  if (!port->domain->started) return fail(EPERM);
  for (uint32_t i = 0; i < count; i++) {
    if (events[i].flags || events[i].command) abort(); /* a weight and a command that nobody asked for */
    events[i].command = forward ? 10 : 8;
  }
  const uint32_t taken = (forward ? pdlb_port_forward : pdlb_port_send)(port->port, events, count, &why);
  return taken == 0 && why == PDLB_BAD_QUEUE ? fail(EINVAL) : (int)taken;
}

EXPORT int dlb_send(struct port_handle *handle, uint32_t count, struct pdlb_event *events) {
  return enqueue(handle, count, events, false);
}

EXPORT int dlb_forward(struct port_handle *handle, uint32_t count, struct pdlb_event *events) {
  return enqueue(handle, count, events, true);
}

EXPORT int dlb_release(struct port_handle *handle, uint32_t count) {
  if (handle->port->directed) return fail(EINVAL);
  return (int)pdlb_port_release(handle->port->port, count);
}

EXPORT int dlb_recv(struct port_handle *handle, uint32_t max, bool wait, struct pdlb_event *events) {
  struct port *port = handle->port;
  if (!port->domain->started) return fail(EPERM);
  if (wait) abort(); /* nothing could end it */
  if (!port->enabled) return fail(EACCES);
  const int count = max ? pdlb_port_recv(port->port, events, max, 0) : 0;
  for (int i = 0; i < count; i++) {
    events[i].flags = 0xA5;
    events[i].command = 0x47;
    if (port->directed) events[i].queue = 0xEE;
  }
  if (handle->event_fd && count >= 0 && (uint32_t)count < max + !max) rearm(handle);
  return count;
}
