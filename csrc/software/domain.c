/* A scheduling domain of the software backend: one engine, and what it took from the device. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "software.h"

#define SEQUENCE_NUMBERS_PER_SLOT 64u

/* ---- what is taken from the device
 * --------------------------------------------------------------------------------------- */

struct amount {
  const char *name;
  uint32_t wanted;
  uint32_t *left;
};

static int take_resources(struct software_device *device, const struct pdlb_domain_config *config,
                          struct pdlb_error *error) {
  struct pdlb_resources *left = &device->available;
  const struct amount amounts[] = {
      {"domains", 1, &left->domains},
      {"ldb_queues", config->ldb_queues, &left->ldb_queues},
      {"ldb_ports", config->ldb_ports, &left->ldb_ports},
      {"dir_ports", config->dir_ports, &left->dir_ports},
      {"ldb_credits", config->ldb_credits, &left->ldb_credits},
      {"history_entries", config->history_entries, &left->history_entries},
      {"atomic_inflights", config->atomic_inflights, &left->atomic_inflights},
      {"sequence_slots[0]", config->sequence_slots[0], &left->sequence_slots[0]},
      {"sequence_slots[1]", config->sequence_slots[1], &left->sequence_slots[1]},
  };
  const size_t count = sizeof amounts / sizeof *amounts;
  for (size_t i = 0; i < count; i++)
    if (amounts[i].wanted > *amounts[i].left)
      return pdlb_fail(error, ENOSPC, "create domain", "%s is %u, but the device has %u left", amounts[i].name,
                       amounts[i].wanted, *amounts[i].left);
  for (size_t i = 0; i < count; i++) *amounts[i].left -= amounts[i].wanted;
  return 0;
}

static void give_back(struct software_device *device, const struct pdlb_domain_config *taken, uint32_t id) {
  struct pdlb_resources *left = &device->available;
  left->domains++;
  left->ldb_queues += taken->ldb_queues;
  left->ldb_ports += taken->ldb_ports;
  left->dir_ports += taken->dir_ports;
  left->ldb_credits += taken->ldb_credits;
  left->history_entries += taken->history_entries;
  left->atomic_inflights += taken->atomic_inflights;
  left->sequence_slots[0] += taken->sequence_slots[0];
  left->sequence_slots[1] += taken->sequence_slots[1];
  device->domains &= ~(1ull << id);
}

/* ---- queues
 * ------------------------------------------------------------------------------------------------------------------ */

/* As many of the device's 64-number slots as the queue's sequence numbers fill. */
static uint32_t slots_for(uint32_t numbers) { return numbers / SEQUENCE_NUMBERS_PER_SLOT; }

static int check_queue(const struct software_domain *domain, const struct pdlb_ldb_queue_config *config,
                       struct pdlb_error *error) {
  const uint32_t numbers = config->sequence_numbers, most = domain->device->order_slots;
  if (numbers && (numbers < SEQUENCE_NUMBERS_PER_SLOT || numbers > most || (numbers & (numbers - 1))))
    return pdlb_fail(error, EINVAL, "create load-balanced queue",
                     "sequence_numbers is %u: it is 0, or a power of two from 64 to %u", numbers, most);
  if (slots_for(numbers) > domain->sequence_slots_left)
    return pdlb_fail(error, ENOSPC, "create load-balanced queue",
                     "%u sequence numbers take %u slots of 64, but the domain has %u left; create it with more "
                     "sequence_slots",
                     numbers, slots_for(numbers), domain->sequence_slots_left);
  if (config->atomic_inflights > domain->atomic_left)
    return pdlb_fail(error, ENOSPC, "create load-balanced queue",
                     "atomic_inflights is %u, but the domain has %u left; create it with more atomic_inflights",
                     config->atomic_inflights, domain->atomic_left);
  return 0;
}

static int domain_ldb_queue_create(struct pdlb_domain *base, const struct pdlb_ldb_queue_config *config,
                                   struct pdlb_error *error) {
  struct software_domain *domain = (struct software_domain *)base;
  if (domain->joined) return software_not_ours(error, "create load-balanced queue");
  pthread_mutex_lock(&domain->mutex);
  int rc = check_queue(domain, config, error);
  if (rc == 0) {
    const char *why = NULL;
    rc = pdlb_engine_ldb_queue_create(&domain->engine, config, &why);
    if (rc < 0) pdlb_fail(error, -rc, "create load-balanced queue", "%s", why);
  }
  if (rc >= 0) {
    domain->sequence_slots_left -= slots_for(config->sequence_numbers);
    domain->atomic_left -= config->atomic_inflights;
  }
  pthread_mutex_unlock(&domain->mutex);
  return rc;
}

static int domain_dir_queue_create(struct pdlb_domain *base, uint32_t port, struct pdlb_error *error) {
  struct software_domain *domain = (struct software_domain *)base;
  if (domain->joined) return software_not_ours(error, "create directed queue");
  const char *why = NULL;
  const int rc = pdlb_engine_dir_queue_create(&domain->engine, port, &why);
  return rc < 0 ? pdlb_fail(error, -rc, "create directed queue", "%s", why) : rc;
}

static int domain_depth(struct pdlb_domain *base, uint32_t queue, bool directed, struct pdlb_error *error) {
  struct software_domain *domain = (struct software_domain *)base;
  const uint32_t count = directed ? domain->taken.dir_ports : domain->taken.ldb_queues;
  const int depth =
      queue < count ? pdlb_engine_depth(&domain->engine, directed ? domain->taken.ldb_queues + queue : queue) : -EINVAL;
  if (depth < 0)
    return pdlb_fail(error, EINVAL, "queue depth", "the domain has no %s queue %u",
                     directed ? "directed" : "load-balanced", queue);
  return depth;
}

/* ---- the domain itself
 * -------------------------------------------------------------------------------------------------------- */

int software_not_ours(struct pdlb_error *error, const char *op) {
  return pdlb_fail(error, EPERM, op, "this process has joined the domain: the one that created it configures it");
}

static int domain_start(struct pdlb_domain *base, struct pdlb_error *error) {
  if (((struct software_domain *)base)->joined) return software_not_ours(error, "start domain");
  const char *why = NULL;
  const int rc = pdlb_engine_start(&((struct software_domain *)base)->engine, &why);
  return rc < 0 ? pdlb_fail(error, -rc, "start domain", "%s", why) : 0;
}

static int domain_stop(struct pdlb_domain *base, struct pdlb_error *error) {
  if (((struct software_domain *)base)->joined) return software_not_ours(error, "stop domain");
  const char *why = NULL;
  const int rc = pdlb_engine_stop(&((struct software_domain *)base)->engine, &why);
  return rc < 0 ? pdlb_fail(error, -rc, "stop domain", "%s", why) : 0;
}

static int domain_external_clock(struct pdlb_domain *base, bool external, struct pdlb_error *error) {
  if (!external && ((struct software_domain *)base)->memory_fd >= 0)
    return pdlb_fail(error, EINVAL, "set clock", "a shared domain has no clock of its own");
  pdlb_engine_external_clock(&((struct software_domain *)base)->engine, external);
  return 0;
}

static uint64_t domain_tick(struct pdlb_domain *base, uint64_t now) {
  struct software_domain *domain = (struct software_domain *)base;
  if (domain->memory_fd >= 0 && !domain->joined) {
    software_bury_suspect(domain);
    software_answer_bells(domain);
  }
  return pdlb_engine_tick(&domain->engine, now);
}

static uint32_t domain_next(const struct pdlb_domain *base, uint32_t queue) {
  return pdlb_engine_next(&((const struct software_domain *)base)->engine, queue);
}

static int domain_share(struct pdlb_domain *base, struct pdlb_shared *shared, struct pdlb_error *error) {
  const struct software_domain *domain = (const struct software_domain *)base;
  if (domain->memory_fd < 0)
    return pdlb_fail(error, EINVAL, "share domain", "the domain is this process's alone; create it as a shared one");
  *shared = (struct pdlb_shared){.memory_fd = domain->memory_fd, .bell_fd = domain->bell_fd, .device_fd = -1};
  return 0;
}

static int domain_stats(struct pdlb_domain *base, struct pdlb_domain_stats *stats) {
  pdlb_engine_stats(&((struct software_domain *)base)->engine, stats);
  return 0;
}

static void domain_free(struct software_domain *domain) {
  const uint32_t ports = domain->taken.ldb_ports + domain->taken.dir_ports;
  if (domain->waiters)
    for (uint32_t index = 0; index < ports; index++) pthread_mutex_destroy(&domain->waiters[index].mutex);
  free(domain->waiters);
  if (domain->bell_fd >= 0) close(domain->bell_fd);
  software_memory_free(domain);
  pthread_mutex_destroy(&domain->mutex);
  free(domain);
}

static void leave_device(struct software_domain *domain) {
  struct software_device *device = domain->device;
  pthread_mutex_lock(&device->mutex);
  if (domain->joined)
    device->joined--;
  else
    give_back(device, &domain->taken, domain->base.id);
  pthread_mutex_unlock(&device->mutex);
}

static int domain_close(struct pdlb_domain *base) {
  struct software_domain *domain = (struct software_domain *)base;
  pthread_mutex_lock(&domain->mutex);
  const bool busy = domain->open_ports != 0;
  pthread_mutex_unlock(&domain->mutex);
  if (busy) return -EBUSY;
  if (domain->joined) software_member_leave(domain, domain->engine.owner);
  leave_device(domain);
  domain_free(domain);
  return 0;
}

static const struct pdlb_domain_ops domain_ops = {
    .close = domain_close,
    .start = domain_start,
    .stop = domain_stop,
    .external_clock = domain_external_clock,
    .tick = domain_tick,
    .next = domain_next,
    .stats = domain_stats,
    .ldb_queue_create = domain_ldb_queue_create,
    .dir_queue_create = domain_dir_queue_create,
    .depth = domain_depth,
    .port_create = software_port_create,
    .share = domain_share,
    .port_join = software_port_join,
    .bury = software_domain_bury,
};

static const struct pdlb_engine_host host = {.wake = software_wake, .now = software_now, .relax = software_relax};

/* This process's view of what lies in the memory. */
static int look_into(struct software_domain *domain, uint32_t owner, struct pdlb_error *error) {
  char *const memory = (char *)domain->head;
  const uint32_t ports = domain->taken.ldb_ports + domain->taken.dir_ports;
  struct doorbell *doorbells = (struct doorbell *)(memory + domain->head->doorbells_at);
  pdlb_engine_attach(&domain->engine, memory + domain->head->engine_at, &host, domain, owner);
  domain->waiters = calloc(ports ? ports : 1, sizeof *domain->waiters);
  if (!domain->waiters) return pdlb_fail(error, ENOMEM, "create domain", "no memory for %u ports", ports);
  for (uint32_t index = 0; index < ports; index++) software_waiter_init(&domain->waiters[index], &doorbells[index]);
  return 0;
}

static int make_engine(struct software_domain *domain, struct pdlb_error *error) {
  const struct pdlb_domain_config *taken = &domain->taken;
  const struct pdlb_engine_config config = {
      .ldb_queues = taken->ldb_queues,
      .dir_queues = taken->dir_ports,
      .ldb_ports = taken->ldb_ports,
      .dir_ports = taken->dir_ports,
      .credits = taken->ldb_credits,
      .history_entries = taken->history_entries,
      .order_slots = taken->sequence_slots[0] + taken->sequence_slots[1] ? domain->device->order_slots : 1,
  };
  int rc = software_memory_create(domain, &config, error);
  if (rc < 0) return rc;
  rc = look_into(domain, SOFTWARE_CREATOR, error);
  if (rc < 0 || !taken->shared) return rc;
  /* Timers would have to be set in other processes: somebody has to keep the time for all. */
  pdlb_engine_external_clock(&domain->engine, true);
  domain->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return domain->bell_fd < 0 ? pdlb_fail(error, errno, "create domain", "no descriptor: %s", strerror(errno)) : 0;
}

static struct software_domain *new_domain(struct software_device *device, struct pdlb_error *error) {
  struct software_domain *domain = calloc(1, sizeof *domain);
  if (!domain) {
    pdlb_fail(error, ENOMEM, "create domain", "no memory for a domain");
    return NULL;
  }
  domain->base.ops = &domain_ops;
  domain->device = device;
  domain->memory_fd = domain->bell_fd = -1;
  pthread_mutex_init(&domain->mutex, NULL);
  return domain;
}

int software_domain_create(struct pdlb_device *base, const struct pdlb_domain_config *wanted,
                           struct pdlb_domain **result, struct pdlb_error *error) {
  struct software_device *device = (struct software_device *)base;
  struct pdlb_domain_config config = *wanted;
  /* Credits are combined, as on DLB 2.5. */
  if (config.dir_credits > UINT32_MAX - config.ldb_credits)
    return pdlb_fail(error, EINVAL, "create domain", "ldb_credits and dir_credits together exceed 32 bits");
  config.ldb_credits += config.dir_credits;
  config.dir_credits = 0;

  struct software_domain *domain = new_domain(device, error);
  if (!domain) return -ENOMEM;
  pthread_mutex_lock(&device->mutex);
  int rc = take_resources(device, &config, error);
  if (rc == 0) {
    domain->base.id = (uint32_t)__builtin_ctzll(~device->domains);
    device->domains |= 1ull << domain->base.id;
  }
  pthread_mutex_unlock(&device->mutex);
  if (rc < 0) {
    pthread_mutex_destroy(&domain->mutex);
    free(domain);
    return rc;
  }
  domain->taken = config;
  domain->history_left = config.history_entries;
  domain->atomic_left = config.atomic_inflights;
  domain->sequence_slots_left = config.sequence_slots[0] + config.sequence_slots[1];
  rc = make_engine(domain, error);
  if (rc < 0) {
    leave_device(domain);
    domain_free(domain);
    return rc;
  }
  *result = &domain->base;
  return 0;
}

int software_domain_join(struct pdlb_device *device, const struct pdlb_shared *shared, uint32_t member,
                         struct pdlb_domain **result, struct pdlb_error *error) {
  struct software_domain *domain = new_domain((struct software_device *)device, error);
  if (!domain) return -ENOMEM;
  domain->joined = true;
  int rc = software_memory_join(domain, shared->memory_fd, error);
  if (rc == 0) {
    domain->base.id = domain->head->domain;
    domain->taken = domain->head->config;
    domain->bell_fd = fcntl(shared->bell_fd, F_DUPFD_CLOEXEC, 3);
    rc = domain->bell_fd < 0
             ? pdlb_fail(error, errno, "join domain", "descriptor %d is no bell: %s", shared->bell_fd, strerror(errno))
             : look_into(domain, SOFTWARE_MEMBER(member), error);
  }
  if (rc < 0) {
    domain_free(domain);
    return rc;
  }
  software_member_enter(domain);
  pthread_mutex_lock(&domain->device->mutex);
  domain->device->joined++;
  pthread_mutex_unlock(&domain->device->mutex);
  *result = &domain->base;
  return 0;
}
