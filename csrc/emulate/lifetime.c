/* The region, its users, and the end of domains. */
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* ---- the region ---------------------------------------------------------------------------------------------- */

size_t emulate_region_size(unsigned num_devices) {
  return sizeof(struct region) + (size_t)num_devices * sizeof(struct device);
}

void emulate_format(struct region *region, unsigned num_devices, uint32_t version, bool port_probe) {
  region->magic = PDLB_EMULATE_MAGIC;
  region->size = emulate_region_size(num_devices);
  region->num_devices = num_devices;
  for (unsigned i = 0; i < num_devices; i++) {
    region->devices[i].control.port_probe = port_probe;
    resources_init(&region->devices[i], version);
  }
}

bool emulate_region_valid(const struct region *region, size_t size) {
  return size >= sizeof *region && region->magic == PDLB_EMULATE_MAGIC && region->size == size &&
         size == emulate_region_size(region->num_devices);
}

void emulate_attach(struct emulation *emulation, struct region *region, const struct emulation_host *host,
                    void *context) {
  *emulation = (struct emulation){.region = region, .host = host, .context = context};
  emulate_forked(emulation);
}

void emulate_forked(struct emulation *emulation) {
  bool zombie;
  emulation->process = (uint32_t)syscall(SYS_getpid);
  emulation->started = process_start_time(emulation->process, &zombie);
}

unsigned emulate_num_devices(const struct emulation *emulation) { return emulation->region->num_devices; }

/* A signal handler that stores to a producer port must not find its own thread holding the lock. */
static _Thread_local sigset_t mask_before_lock;

static void mask_signals(int how, const sigset_t *set, sigset_t *old) {
  syscall(SYS_rt_sigprocmask, how, set, old, sizeof(uint64_t));
}

void emulate_lock(struct emulation *emulation, unsigned device) {
  sigset_t all, before;
  memset(&all, 0xFF, sizeof all);
  mask_signals(SIG_SETMASK, &all, &before);
  device_lock(emulation, device_of(emulation, device));
  mask_before_lock = before;
}

void emulate_unlock(struct emulation *emulation, unsigned device) {
  const sigset_t before = mask_before_lock;
  device_unlock(device_of(emulation, device));
  mask_signals(SIG_SETMASK, &before, NULL);
}

void emulate_store(struct emulation *emulation, unsigned device, unsigned port, uint64_t serial,
                   const struct pdlb_qe *qes, unsigned count, bool masked) {
  struct device *entry = device_of(emulation, device);
  if (!masked) {
    emulate_lock(emulation, device);
  } else {
    device_lock(emulation, entry);
  }
  store_elements(emulation, entry, port, serial, qes, count);
  if (!masked) {
    emulate_unlock(emulation, device);
  } else {
    device_unlock(entry);
  }
}

/* ---- the end of a domain ------------------------------------------------------------------------------------- */

/* What the driver cannot empty. It drains a started domain through its ports, but a queue whose limit of elements in
 * flight was lost gives nothing away; a stopped domain it does not drain at all. */
static bool can_be_emptied(const struct device *device, unsigned id) {
  const struct control *control = &device->control;
  const bool started = control->domains[id].started;
  for (unsigned i = 0; i < NUM_PORTS; i++) {
    const struct port *port = &control->ports[i];
    if (!port->configured || port->domain != id || started) continue;
    if (port->tokens > 0 || port->held_count > 0) return false;
  }
  for (unsigned i = 0; i < NUM_QUEUES; i++) {
    const struct queue *queue = &control->queues[i];
    if (!queue->configured || queue->domain != id || queue->queued == 0) continue;
    if (!started) return false;
    if (!queue->directed && queue->inflight_limit == 0 && queue->pending_maps == 0) return false;
  }
  return true;
}

static void lose_domain(struct device *device, unsigned id) {
  journal_begin(device);
  SAVE(device, &device->control);
  device->control.domains[id].state = DOMAIN_LOST;
  device->control.domains[id].valid = false;
  device->control.reset_failed = true;
  journal_commit(device);
  journal_end(device);
}

void reset_domain(struct emulation *emulation, struct device *device, unsigned id) {
  emulation->host->domain_gone(emulation->context, device_number(emulation, device), id);
  if (!can_be_emptied(device, id)) {
    lose_domain(device, id);
    return;
  }
  while (schedule_discard_one(device, id)) continue;
  journal_begin(device);
  SAVE(device, &device->control);
  resources_release_domain(device, id);
  journal_commit(device);
  journal_end(device);
}

/* False once nobody can be about to make its descriptor. */
static bool is_being_made(const struct domain *domain) {
  return domain->file == 0 && process_lives(domain->maker, domain->maker_started);
}

static void collect(struct emulation *emulation, struct device *device) {
  const unsigned number = device_number(emulation, device);
  for (unsigned id = 0; id < PDLB_NUM_DOMAINS; id++) {
    const struct domain *domain = &device->control.domains[id];
    if (domain->state != DOMAIN_LIVE || is_being_made(domain)) continue;
    if (emulation->host->domain_referenced(emulation->context, number, id)) continue;
    reset_domain(emulation, device, id);
  }
}

void emulate_collect(struct emulation *emulation, unsigned device) {
  emulate_lock(emulation, device);
  collect(emulation, device_of(emulation, device));
  emulate_unlock(emulation, device);
}

void emulate_discard_domain(struct emulation *emulation, unsigned device, unsigned domain) {
  emulate_lock(emulation, device);
  reset_domain(emulation, device_of(emulation, device), domain);
  emulate_unlock(emulation, device);
}

/* ---- a reset of the function, or of the driver --------------------------------------------------------------- */

static void begin_anew(struct device *device) {
  for (unsigned id = 0; id < PDLB_NUM_DOMAINS; id++) {
    while (schedule_discard_one(device, id)) continue;
  }
  renew(device, device->control.version);
}

static void bury(struct region *region, unsigned number, uint64_t file, enum emulate_kind kind) {
  if (file == 0) return;
  region->graves[number][region->next_grave[number]++ % NUM_GRAVES] = (struct grave){file, kind};
}

/* Descriptors of a domain that is no more must still be known for what they were. */
static void bury_domain(struct emulation *emulation, struct device *device, unsigned id) {
  const unsigned number = device_number(emulation, device);
  struct control *control = &device->control;
  emulation->host->domain_gone(emulation->context, number, id);
  bury(emulation->region, number, control->domains[id].file, EMULATE_DOMAIN);
  control->domains[id].file = 0;
  for (unsigned i = 0; i < NUM_PORTS; i++) {
    const struct port *port = &control->ports[i];
    if (!port->configured || port->domain != id) continue;
    bury(emulation->region, number, port->producer_file, EMULATE_PRODUCER);
    bury(emulation->region, number, port->consumer_file, EMULATE_CONSUMER);
  }
}

/* Domains, their descriptors and mappings are dead from here on. What was mapped stays readable: the driver would take
 * it away, and who then looks is killed. */
void function_reset(struct emulation *emulation, struct device *device) {
  for (unsigned id = 0; id < PDLB_NUM_DOMAINS; id++) {
    if (device->control.domains[id].state == DOMAIN_LIVE) bury_domain(emulation, device, id);
  }
  begin_anew(device);
  for (unsigned port = 0; port < NUM_PORTS; port++) bell_ring(&device->port_bells[port]);
  for (unsigned domain = 0; domain < PDLB_NUM_DOMAINS; domain++) bell_ring(&device->alert_bells[domain]);
}

void emulate_function_reset(struct emulation *emulation, unsigned number) {
  emulate_lock(emulation, number);
  function_reset(emulation, device_of(emulation, number));
  emulate_unlock(emulation, number);
}

/* ---- users --------------------------------------------------------------------------------------------------- */

static bool is_alive(const struct user *user) {
  return process_lives(atomic_load(&user->process), atomic_load(&user->started));
}

static bool in_use(const struct device *device) {
  for (unsigned id = 0; id < PDLB_NUM_DOMAINS; id++) {
    if (device->control.domains[id].state == DOMAIN_LIVE) return true;
  }
  return false;
}

void emulate_use(struct emulation *emulation, unsigned number, bool held) {
  struct device *device = device_of(emulation, number);
  struct user *users = emulation->region->users[number];
  struct user *room = NULL;
  bool known = false;
  bool others = false;
  emulate_lock(emulation, number);
  for (unsigned i = 0; i < PDLB_EMULATE_MAX_USERS && !known; i++) {
    struct user *user = &users[i];
    const uint32_t process = atomic_load(&user->process);
    known = process == emulation->process && atomic_load(&user->started) == emulation->started;
    if (process != 0 && !known && !is_alive(user)) atomic_store(&user->process, 0);
    if (atomic_load(&user->process) == 0 && room == NULL) room = user;
    others |= atomic_load(&user->process) != 0;
  }
  if (!known) {
    collect(emulation, device);
    if (!others && !held && !in_use(device)) begin_anew(device);
    if (room != NULL) {
      atomic_store(&room->started, emulation->started);
      atomic_store(&room->process, emulation->process);
    }
  }
  emulate_unlock(emulation, number);
}

/* ---- names of files ------------------------------------------------------------------------------------------ */

static bool find_in_device(const struct region *region, unsigned number, uint64_t file, struct emulate_object *object) {
  const struct control *control = &region->devices[number].control;
  for (unsigned i = 0; i < PDLB_NUM_DOMAINS; i++) {
    const struct domain *domain = &control->domains[i];
    if (domain->file != file) continue;
    *object = (struct emulate_object){EMULATE_DOMAIN, number, i, i, domain->serial};
    return true;
  }
  for (unsigned i = 0; i < NUM_PORTS; i++) {
    const struct port *port = &control->ports[i];
    if (!port->configured || (port->producer_file != file && port->consumer_file != file)) continue;
    const enum emulate_kind kind = port->producer_file == file ? EMULATE_PRODUCER : EMULATE_CONSUMER;
    *object = (struct emulate_object){kind, number, i, port->domain, control->domains[port->domain].serial};
    return true;
  }
  for (unsigned i = 0; i < NUM_GRAVES; i++) {
    if (region->graves[number][i].file != file) continue;
    *object = (struct emulate_object){(enum emulate_kind)region->graves[number][i].kind, number, 0, 0, 0};
    return true;
  }
  for (unsigned i = 0; i < sizeof region->attribute_files[0] / sizeof region->attribute_files[0][0]; i++) {
    if (region->attribute_files[number][i] != file) continue;
    *object = (struct emulate_object){EMULATE_ATTRIBUTE, number, i, 0, 0};
    return true;
  }
  return false;
}

struct emulate_object emulate_find(const struct emulation *emulation, uint64_t file) {
  const struct region *region = emulation->region;
  struct emulate_object object = {EMULATE_NOTHING, 0, 0, 0, 0};
  for (unsigned i = 0; file != 0 && i < region->num_devices; i++) {
    if (region->device_files[i] == file) return (struct emulate_object){EMULATE_DEVICE, i, i, 0, 0};
    if (find_in_device(region, i, file, &object)) break;
  }
  return object;
}

void emulate_name_device(struct emulation *emulation, unsigned device, uint64_t file) {
  emulation->region->device_files[device] = file;
}

void emulate_name_attribute(struct emulation *emulation, unsigned device, unsigned index, uint64_t file) {
  emulation->region->attribute_files[device][index] = file;
}

void emulate_name_domain(struct emulation *emulation, unsigned device, unsigned domain, uint64_t file) {
  device_of(emulation, device)->control.domains[domain].file = file;
}

void emulate_name_producer(struct emulation *emulation, unsigned device, unsigned port, uint64_t file) {
  device_of(emulation, device)->control.ports[port].producer_file = file;
}

void emulate_name_consumer(struct emulation *emulation, unsigned device, unsigned port, uint64_t file) {
  device_of(emulation, device)->control.ports[port].consumer_file = file;
}

uint64_t emulate_domain_serial(const struct emulation *emulation, unsigned device, unsigned domain) {
  return device_of(emulation, device)->control.domains[domain].serial;
}

uint64_t emulate_consumer_serial(const struct emulation *emulation, unsigned device, unsigned port) {
  return device_of(emulation, device)->control.ports[port].consumer_serial;
}

int emulate_next_port(const struct emulation *emulation, unsigned device, unsigned domain, int port, bool *producer,
                      bool *consumer) {
  const struct control *control = &device_of(emulation, device)->control;
  for (unsigned i = (unsigned)(port + 1); i < NUM_PORTS; i++) {
    const struct port *entry = &control->ports[i];
    if (!entry->configured || entry->domain != domain) continue;
    *producer = entry->producer_file != 0;
    *consumer = entry->consumer_file != 0;
    return (int)i;
  }
  return -1;
}

uint64_t emulate_event_serial(const struct emulation *emulation, unsigned device, unsigned port) {
  return device_of(emulation, device)->control.ports[port].event_serial;
}

uint32_t emulate_version(const struct emulation *emulation, unsigned device) {
  return device_of(emulation, device)->control.version;
}
