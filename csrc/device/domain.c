/* A scheduling domain of a device: what it takes, its queues, its beginning and its end. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* ---- forked children ------------------------------------------------------------------------------------------- */

/* A child's copy of a domain's descriptor would keep the domain alive after its owner closed it. */
static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct domain *list;

static void before_fork(void) { pthread_mutex_lock(&list_mutex); }
static void after_fork(void) { pthread_mutex_unlock(&list_mutex); }

static void in_child(void) {
  for (struct domain *domain = list; domain; domain = domain->next)
    domain->device->system->close(domain->device->context, domain->fd);
  list = NULL;
  pthread_mutex_unlock(&list_mutex);
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork, in_child); }

void forks_wait(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  pthread_mutex_lock(&list_mutex);
}

void forks_go_on(void) { pthread_mutex_unlock(&list_mutex); }

void forks_tell(struct domain *domain) {
  domain->next = list;
  list = domain;
}

static void list_remove(struct domain *domain) {
  struct domain **link = &list;
  while (*link && *link != domain) link = &(*link)->next;
  if (*link) *link = domain->next;
}

/* ---- queues ---------------------------------------------------------------------------------------------------- */

static void allow(struct domain *domain, uint32_t queue, enum pdlb_sched type, enum key key) {
  atomic_store_explicit(&domain->state->keys[queue | (uint32_t)type << 8], (uint8_t)key, memory_order_release);
}

/* Where a queue's depth is coded into its elements: two thirds of what could wait in it. */
static uint32_t depth_threshold(const struct domain *domain, bool directed) {
  const bool apart = directed && domain->state->directed_credits_apart;
  return (uint32_t)((uint64_t)(apart ? domain->config.dir_credits : domain->state->credits_total[CREDIT_ANY]) * 2 / 3);
}

static int create_ldb_queue(struct domain *domain, const struct pdlb_ldb_queue_config *config,
                            struct pdlb_error *error) {
  static const char op[] = "create load-balanced queue";
  const uint32_t numbers = config->sequence_numbers;
  if (atomic_load_explicit(&domain->state->gone, memory_order_acquire)) return device_gone(error, op, domain->device);
  if (numbers && (numbers < PDLB_MIN_SNS_PER_QUEUE || numbers > PDLB_SNS_PER_GROUP || (numbers & (numbers - 1))))
    return pdlb_fail(error, EINVAL, op, "sequence_numbers is %u: it is 0, or a power of two from %u to %u", numbers,
                     PDLB_MIN_SNS_PER_QUEUE, PDLB_SNS_PER_GROUP);
  if (config->inflights > PDLB_MAX_QID_INFLIGHTS)
    return pdlb_fail(error, EINVAL, op, "inflights is %u: a queue has at most %u", config->inflights,
                     PDLB_MAX_QID_INFLIGHTS);
  if (config->atomic_inflights > domain->atomic_left)
    return pdlb_fail(error, ENOSPC, op,
                     "atomic_inflights is %u, but the domain has %u left; create it with more atomic_inflights",
                     config->atomic_inflights, domain->atomic_left);
  if (domain->ldb_queues == domain->config.ldb_queues)
    return pdlb_fail(error, ENOSPC, op, "the domain has its %u load-balanced queues; create it with more ldb_queues",
                     domain->ldb_queues);
  struct pdlb_create_ldb_queue_args args = {
      .num_sequence_numbers = numbers,
      .num_qid_inflights = config->inflights ? config->inflights
                           : numbers         ? numbers
                                             : PDLB_MAX_QID_INFLIGHTS,
      .num_atomic_inflights = config->atomic_inflights,
      .depth_threshold = depth_threshold(domain, false),
  };
  const int rc = domain_request(domain, (uint32_t)PDLB_IOC_CREATE_LDB_QUEUE, &args, op, error);
  if (rc < 0) return rc;
  const uint32_t id = args.response.id;
  domain->ldb_queues++;
  domain->atomic_left -= config->atomic_inflights;
  if (config->atomic_inflights) allow(domain, id, PDLB_SCHED_ATOMIC, KEY_PLAIN);
  allow(domain, id, numbers ? PDLB_SCHED_ORDERED : PDLB_SCHED_UNORDERED, KEY_PLAIN);
  domain->even[id] = config->sharing == PDLB_SHARE_EVEN;
  return (int)id;
}

static int domain_ldb_queue_create(struct pdlb_domain *base, const struct pdlb_ldb_queue_config *config,
                                   struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  if (domain->joined) return not_ours(error, "create load-balanced queue");
  pthread_mutex_lock(&domain->mutex);
  const int rc = create_ldb_queue(domain, config, error);
  pthread_mutex_unlock(&domain->mutex);
  return rc;
}

static int create_dir_queue(struct domain *domain, uint32_t port_id, struct pdlb_error *error) {
  static const char op[] = "create directed queue";
  struct port *port = NULL;
  if (port_id != PDLB_NONE) {
    port = port_id < PDLB_NUM_DIR_PORTS_V25 ? domain->ports[PDLB_NUM_LDB_PORTS + port_id] : NULL;
    if (!port || port->use != PORT_OPEN)
      return pdlb_fail(error, EINVAL, op, "the domain has no directed port %u", port_id);
    if (port->queue != PDLB_NONE)
      return pdlb_fail(error, EINVAL, op, "port %u has a queue already: a pair has one of each", port_id);
  }
  struct pdlb_create_dir_queue_args args = {.port_id = port ? (int32_t)port_id : -1,
                                            .depth_threshold = depth_threshold(domain, true)};
  const int rc = domain_request(domain, (uint32_t)PDLB_IOC_CREATE_DIR_QUEUE, &args, op, error);
  if (rc < 0) return rc;
  const uint32_t id = args.response.id;
  if (port) port->queue = id;
  allow(domain, id, PDLB_SCHED_DIRECTED, domain->state->directed_credits_apart ? KEY_DIRECTED : KEY_PLAIN);
  return (int)id;
}

static int domain_dir_queue_create(struct pdlb_domain *base, uint32_t port, struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  if (domain->joined) return not_ours(error, "create directed queue");
  pthread_mutex_lock(&domain->mutex);
  const int rc = create_dir_queue(domain, port, error);
  pthread_mutex_unlock(&domain->mutex);
  return rc;
}

bool domain_has_queue(const struct domain *domain, uint32_t queue, bool directed) {
  if (queue >= 256) return false;
  const uint32_t first = directed ? PDLB_SCHED_DIRECTED : PDLB_SCHED_ATOMIC;
  const uint32_t last = directed ? PDLB_SCHED_DIRECTED : PDLB_SCHED_ORDERED;
  for (uint32_t type = first; type <= last; type++)
    if (atomic_load_explicit(&domain->state->keys[queue | type << 8], memory_order_acquire) != KEY_NONE) return true;
  return false;
}

static int domain_depth(struct pdlb_domain *base, uint32_t queue, bool directed, struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  if (!domain_has_queue(domain, queue, directed))
    return pdlb_fail(error, EINVAL, "queue depth", "the domain has no %s queue %u",
                     directed ? "directed" : "load-balanced", queue);
  struct pdlb_queue_depth_args args = {.queue_id = queue};
  const int request = directed ? PDLB_IOC_GET_DIR_QUEUE_DEPTH : PDLB_IOC_GET_LDB_QUEUE_DEPTH;
  const int rc = domain_request(domain, (uint32_t)request, &args, "queue depth", error);
  return rc < 0 ? rc : (int)args.response.id;
}

/* ---- beginning and end ----------------------------------------------------------------------------------------- */

/* The driver is asked once. Its own stop would complete what ports hold behind their users' backs, so a domain that is
 * stopped only refuses to send. */
static int domain_start(struct pdlb_domain *base, struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  if (domain->joined) return not_ours(error, "start domain");
  int rc = 0;
  pthread_mutex_lock(&domain->mutex);
  if (domain->state->started) rc = pdlb_fail(error, EINVAL, "start domain", "the domain is started already");
  if (rc == 0 && !domain->device_started) {
    struct pdlb_start_domain_args args = {0};
    rc = domain_request(domain, (uint32_t)PDLB_IOC_START_DOMAIN, &args, "start domain", error);
    domain->device_started = rc == 0;
  }
  if (rc == 0) domain->state->started = true;
  pthread_mutex_unlock(&domain->mutex);
  return rc;
}

static int domain_stop(struct pdlb_domain *base, struct pdlb_error *error) {
  struct domain *domain = domain_of(base);
  if (domain->joined) return not_ours(error, "stop domain");
  pthread_mutex_lock(&domain->mutex);
  const int rc = domain->state->started ? 0 : pdlb_fail(error, EINVAL, "stop domain", "the domain is not started");
  domain->state->started = false;
  pthread_mutex_unlock(&domain->mutex);
  return rc;
}

/* The device is its own clock. */
static int domain_external_clock(struct pdlb_domain *base, bool external, struct pdlb_error *error) {
  (void)base, (void)external, (void)error;
  return 0;
}

static uint64_t domain_tick(struct pdlb_domain *base, uint64_t now) {
  (void)base, (void)now;
  return PDLB_FOREVER;
}

/* A joined one knows ports by their records alone. */
static int domain_stats(struct pdlb_domain *base, struct pdlb_domain_stats *stats) {
  struct domain_state *state = domain_of(base)->state;
  *stats = (struct pdlb_domain_stats){0};
  /* What came out is read before what went in, so that nothing is negative. */
  uint64_t reserved = 0;
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    const struct port_record *record = &state->ports[index];
    if (!atomic_load_explicit(&record->exists, memory_order_acquire)) continue;
    stats->scheduled += atomic_load_explicit(&record->received, memory_order_acquire);
    stats->wakes += atomic_load_explicit(&record->wakes, memory_order_relaxed);
  }
  stats->lost = atomic_load_explicit(&state->lost, memory_order_acquire);
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    const struct port_record *record = &state->ports[index];
    if (!atomic_load_explicit(&record->exists, memory_order_acquire)) continue;
    stats->enqueued += atomic_load_explicit(&record->sent, memory_order_acquire);
    reserved += atomic_load_explicit(&record->reserved[CREDIT_ANY], memory_order_relaxed);
  }
  stats->refused_no_credit = atomic_load_explicit(&state->refused, memory_order_relaxed);
  stats->credits_free = state->shared ? (uint32_t)(state->credits_total[CREDIT_ANY] + stats->scheduled - reserved)
                                      : atomic_load_explicit(&state->credits[CREDIT_ANY], memory_order_relaxed);
  const uint64_t out = stats->scheduled + stats->lost;
  const uint64_t inside = stats->enqueued > out ? stats->enqueued - out : 0;
  if (atomic_load_explicit(&state->gone, memory_order_acquire))
    stats->lost += inside;
  else
    stats->queued = (uint32_t)inside;
  return 0;
}

static void domain_free(struct domain *domain) {
  struct device *device = domain->device;
  alerts_stop(domain);
  for (uint32_t index = 0; index < NUM_PORTS; index++)
    if (domain->ports[index]) port_discard(domain->ports[index]);
  forks_wait();
  list_remove(domain);
  /* The last reference: the driver empties the domain in here. */
  device->system->close(device->context, domain->fd);
  forks_go_on();
  state_free(domain->state, domain->memory_fd);
  pthread_mutex_destroy(&domain->mutex);
  pthread_mutex_lock(&device->mutex);
  device->domains--;
  pthread_mutex_unlock(&device->mutex);
  free(domain);
}

int domain_close(struct pdlb_domain *base) {
  struct domain *domain = domain_of(base);
  pthread_mutex_lock(&domain->mutex);
  const bool busy = domain->open_ports != 0;
  pthread_mutex_unlock(&domain->mutex);
  if (busy) return -EBUSY;
  domain_free(domain);
  return 0;
}

const struct pdlb_domain_ops device_domain_ops = {
    .close = domain_close,
    .start = domain_start,
    .stop = domain_stop,
    .external_clock = domain_external_clock,
    .tick = domain_tick,
    .stats = domain_stats,
    .ldb_queue_create = domain_ldb_queue_create,
    .dir_queue_create = domain_dir_queue_create,
    .depth = domain_depth,
    .port_create = device_port_create,
    .share = device_domain_share,
    .port_join = device_port_join,
    .bury = device_domain_bury,
    .standing = device_domain_standing,
};

/* ---- creation -------------------------------------------------------------------------------------------------- */

/* The driver says of which kind there is too little; the numbers say how much there is. */
static void name_shortage(struct device *device, const struct pdlb_domain_config *config, struct pdlb_error *error) {
  struct pdlb_resources left;
  if (!error || device->base.ops->resources(&device->base, NULL, &left, NULL) < 0) return;
  const struct {
    const char *name;
    uint32_t wanted, left;
  } amounts[] = {
      {"domains", 1, left.domains},
      {"ldb_queues", config->ldb_queues, left.ldb_queues},
      {"ldb_ports", config->ldb_ports, left.ldb_ports},
      {"dir_ports", config->dir_ports, left.dir_ports},
      {"ldb_credits", config->ldb_credits, left.ldb_credits},
      {"dir_credits", config->dir_credits, left.dir_credits},
      {"history_entries", config->history_entries, left.history_entries},
      {"atomic_inflights", config->atomic_inflights, left.atomic_inflights},
      {"sequence_slots[0]", config->sequence_slots[0], left.sequence_slots[0]},
      {"sequence_slots[1]", config->sequence_slots[1], left.sequence_slots[1]},
  };
  for (size_t i = 0; i < sizeof amounts / sizeof *amounts; i++) {
    if (amounts[i].wanted <= amounts[i].left) continue;
    snprintf(error->text, sizeof error->text, "%s is %u, but %s has %u left (driver status %s)", amounts[i].name,
             amounts[i].wanted, device->path, amounts[i].left, pdlb_status_name(error->status));
    return;
  }
}

static int request_domain(struct domain *domain, struct pdlb_error *error) {
  struct device *device = domain->device;
  const struct pdlb_domain_config *config = &domain->config;
  struct pdlb_create_sched_domain_args args = {
      .num_ldb_queues = config->ldb_queues,
      .num_ldb_ports = config->ldb_ports,
      .num_cos_ldb_ports = {config->class_ports[0], config->class_ports[1], config->class_ports[2],
                            config->class_ports[3]},
      .cos_strict = 1,
      .num_dir_ports = config->dir_ports,
      .num_atomic_inflights = config->atomic_inflights,
      .num_hist_list_entries = config->history_entries,
      .num_ldb_credits = config->ldb_credits,
      .num_dir_credits = config->dir_credits,
      .num_sn_slots = {config->sequence_slots[0], config->sequence_slots[1]},
  };
  const int rc = device_request(device, (uint32_t)PDLB_IOC_CREATE_SCHED_DOMAIN, &args, "create domain", error);
  if (rc < 0) {
    if (error && error->status) name_shortage(device, config, error);
    return rc;
  }
  domain->fd = (int)args.domain_fd;
  domain->base.id = args.response.id;
  const int marked = device->system->close_on_exec(device->context, domain->fd);
  if (marked < 0) {
    device->system->close(device->context, domain->fd);
    return system_failed(error, marked, "create domain", device, "mark the domain's descriptor as closed on exec");
  }
  return 0;
}

/* On DLB 2.0 directed elements need credits of their own: as many as there are in all, as far as the device has them.
 */
static int complete_config(struct device *device, struct pdlb_domain_config *config, struct pdlb_error *error) {
  if (config->dir_credits > UINT32_MAX - config->ldb_credits)
    return pdlb_fail(error, EINVAL, "create domain", "ldb_credits and dir_credits together exceed 32 bits");
  if (device->base.version != PDLB_DEVICE_V20) {
    config->ldb_credits += config->dir_credits;
    config->dir_credits = 0;
  } else if (config->dir_credits == 0 && config->dir_ports > 0) {
    struct pdlb_resources left;
    const int rc = device->base.ops->resources(&device->base, NULL, &left, error);
    if (rc < 0) return rc;
    config->dir_credits = config->ldb_credits < left.dir_credits ? config->ldb_credits : left.dir_credits;
  }
  return 0;
}

static void fill(struct domain *domain, struct device *device, const struct pdlb_domain_config *config) {
  domain->base.ops = &device_domain_ops;
  domain->device = device;
  domain->config = *config;
  domain->history_left = config->history_entries;
  domain->atomic_left = config->atomic_inflights;
  pthread_mutex_init(&domain->mutex, NULL);
}

static void fill_state(struct domain *domain) {
  struct domain_state *state = domain->state;
  const struct pdlb_domain_config *config = &domain->config;
  memcpy(state->path, domain->device->path, sizeof state->path);
  state->version = domain->device->base.version;
  state->stride = domain->device->stride;
  state->directed_credits_apart = state->version == PDLB_DEVICE_V20;
  state->credits_total[CREDIT_ANY] = config->ldb_credits;
  state->credits_total[CREDIT_DIRECTED] = config->dir_credits;
  for (uint32_t credit = 0; credit < NUM_CREDITS; credit++)
    atomic_init(&state->credits[credit], state->credits_total[credit]);
  for (uint32_t key = 0; key < NUM_KEYS; key++) atomic_init(&state->keys[key], (uint8_t)KEY_NONE);
}

static void abandon(struct domain *domain) {
  state_free(domain->state, domain->memory_fd);
  pthread_mutex_destroy(&domain->mutex);
  free(domain);
}

int device_domain_create(struct pdlb_device *base, const struct pdlb_domain_config *wanted, struct pdlb_domain **result,
                         struct pdlb_error *error) {
  struct device *device = device_of(base);
  struct pdlb_domain_config config = *wanted;
  int rc = complete_config(device, &config, error);
  if (rc < 0) return rc;
  struct domain *domain = calloc(1, sizeof *domain);
  if (!domain) return pdlb_fail(error, ENOMEM, "create domain", "no memory for a domain");
  fill(domain, device, &config);
  rc = state_create(domain, config.shared, error);
  if (rc < 0) {
    abandon(domain);
    return rc;
  }
  fill_state(domain);
  forks_wait();
  rc = request_domain(domain, error);
  if (rc == 0) forks_tell(domain);
  forks_go_on();
  if (rc < 0) {
    abandon(domain);
    return rc;
  }
  domain->state->domain = domain->base.id;
  pthread_mutex_lock(&device->mutex);
  device->domains++;
  pthread_mutex_unlock(&device->mutex);
  rc = alerts_start(domain, error);
  if (rc < 0) {
    domain_free(domain);
    return rc;
  }
  *result = &domain->base;
  return 0;
}
