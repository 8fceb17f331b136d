#include "inprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "emulate/emulate.h"
#include "pdlb.h"
#include "system.h"

#define NUM_PORTS (PDLB_NUM_LDB_PORTS + PDLB_NUM_DIR_PORTS_V25)
#define FIRST_FD (1 << 20) /* no descriptor of the process's */
#define MAX_FILES 512u
#define MAX_MISUSES 64u
#define ONLY_DEVICE 0u

/* What a descriptor of the driver's stands for. */
struct file {
  enum emulate_kind kind;
  unsigned index;  /* domain or port */
  uint64_t serial; /* of the domain */
};

/* A mapped producer port: what stores are told by. */
struct producer {
  unsigned port;
  uint64_t serial; /* of the domain */
};

/* The memory of a consumer queue, for as long as the port lives or somebody has it mapped. */
struct queue_memory {
  struct queue_memory *next;
  void *at;
  unsigned port;
  uint64_t life;   /* of the port's consumer queue; 0: over */
  uint64_t serial; /* of the domain */
  unsigned mapped;
};

struct failure {
  bool waits;
  const char *call; /* NULL: any */
  uint32_t left;
  int err;
  uint32_t status;
};

struct pdlb_emulated {
  struct emulation emulation;
  pid_t process;
  pthread_mutex_t
      mutex; /* guards files, memories, failures and events; taken within the model's lock, never around it */
  struct file files[MAX_FILES];
  struct queue_memory *memories;
  struct failure failures[8];
  const char *failed_call; /* the last one */
  int events[NUM_PORTS];   /* duplicates: the driver keeps an eventfd whatever becomes of the descriptor */
  struct {
    uint64_t serial;
    unsigned count; /* descriptors and mappings that keep the domain alive */
  } references[2 * PDLB_NUM_DOMAINS];
  _Atomic uint64_t calls, watches;
  uint32_t num_misuses;
  char misuses[MAX_MISUSES][160];
  /* What others have, so that only the limits are left. */
  bool limited;
  struct pdlb_resources limits;
};

/* ---- what the model asks --------------------------------------------------------------------------------------- */

static void *consumer_queue(void *context, unsigned device, unsigned port, uint64_t life) {
  struct pdlb_emulated *emulated = context;
  (void)device;
  pthread_mutex_lock(&emulated->mutex);
  struct queue_memory *memory = emulated->memories;
  while (memory && (memory->port != port || memory->life != life)) memory = memory->next;
  if (!memory && (memory = calloc(1, sizeof *memory))) {
    memory->at = mmap(NULL, PDLB_CQ_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory->port = port;
    memory->life = life;
    memory->next = emulated->memories;
    emulated->memories = memory;
  }
  pthread_mutex_unlock(&emulated->mutex);
  return memory && memory->at != MAP_FAILED ? memory->at : NULL;
}

/* Under the mutex: forget memories that nobody has. */
static void sweep_memories(struct pdlb_emulated *emulated) {
  struct queue_memory **link = &emulated->memories;
  while (*link) {
    struct queue_memory *memory = *link;
    if (memory->life || memory->mapped) {
      link = &memory->next;
      continue;
    }
    *link = memory->next;
    munmap(memory->at, PDLB_CQ_SIZE);
    free(memory);
  }
}

static void signal_event(struct pdlb_emulated *emulated, unsigned port) {
  const uint64_t one = 1;
  pthread_mutex_lock(&emulated->mutex);
  if (emulated->events[port] >= 0)
    while (write(emulated->events[port], &one, sizeof one) < 0 && errno == EINTR) continue;
  pthread_mutex_unlock(&emulated->mutex);
}

static void signal_eventfd(void *context, unsigned device, unsigned port, uint64_t serial, uint32_t process,
                           uint32_t fd) {
  (void)device, (void)serial, (void)process, (void)fd;
  signal_event(context, port);
}

/* Under the mutex: change how often a domain is referred to; returns how often it is now. */
static unsigned refer(struct pdlb_emulated *emulated, uint64_t serial, int change) {
  const size_t count = sizeof emulated->references / sizeof *emulated->references;
  size_t found = count;
  for (size_t i = count; i-- > 0;)
    if (!emulated->references[i].count) found = i;
  for (size_t i = 0; i < count; i++)
    if (emulated->references[i].count && emulated->references[i].serial == serial) found = i;
  if (found == count) return 0; /* more lives of domains than there can be */
  emulated->references[found].serial = serial;
  emulated->references[found].count += (unsigned)change;
  return emulated->references[found].count;
}

static bool domain_referenced(void *context, unsigned device, unsigned domain) {
  struct pdlb_emulated *emulated = context;
  const uint64_t serial = emulate_domain_serial(&emulated->emulation, device, domain);
  pthread_mutex_lock(&emulated->mutex);
  const bool held = refer(emulated, serial, 0) > 0;
  pthread_mutex_unlock(&emulated->mutex);
  return held;
}

static void domain_gone(void *context, unsigned device, unsigned domain) {
  struct pdlb_emulated *emulated = context;
  bool producer, consumer;
  pthread_mutex_lock(&emulated->mutex);
  for (int port = -1;
       (port = emulate_next_port(&emulated->emulation, device, domain, port, &producer, &consumer)) >= 0;) {
    if (emulated->events[port] >= 0) close(emulated->events[port]);
    emulated->events[port] = -1;
    for (struct queue_memory *memory = emulated->memories; memory; memory = memory->next)
      if (memory->port == (unsigned)port) memory->life = 0;
  }
  sweep_memories(emulated);
  pthread_mutex_unlock(&emulated->mutex);
}

static void misuse(void *context, unsigned device, unsigned port, const char *text) {
  struct pdlb_emulated *emulated = context;
  (void)device;
  const bool directed = port >= PDLB_NUM_LDB_PORTS;
  pthread_mutex_lock(&emulated->mutex);
  if (emulated->num_misuses < MAX_MISUSES)
    snprintf(emulated->misuses[emulated->num_misuses++], sizeof emulated->misuses[0], "%s port %u: %s",
             directed ? "directed" : "load-balanced", directed ? port - PDLB_NUM_LDB_PORTS : port, text);
  pthread_mutex_unlock(&emulated->mutex);
}

static const struct emulation_host host = {
    .consumer_queue = consumer_queue,
    .signal_eventfd = signal_eventfd,
    .domain_referenced = domain_referenced,
    .domain_gone = domain_gone,
    .misuse = misuse,
};

/* ---- failures -------------------------------------------------------------------------------------------------- */

/* Called at each system call: 0, or what it fails with. */
static int fault(struct pdlb_emulated *emulated, const char *call, struct pdlb_response *response) {
  int err = 0;
  atomic_fetch_add_explicit(&emulated->calls, 1, memory_order_relaxed);
  pthread_mutex_lock(&emulated->mutex);
  for (size_t i = 0; i < sizeof emulated->failures / sizeof *emulated->failures; i++) {
    struct failure *failure = &emulated->failures[i];
    if (!failure->waits || (failure->call && strcmp(failure->call, call) != 0) || --failure->left) continue;
    failure->waits = false;
    err = failure->err;
    emulated->failed_call = call;
    if (response) *response = (struct pdlb_response){.status = failure->status};
  }
  pthread_mutex_unlock(&emulated->mutex);
  return -err;
}

static const char *const other_calls[] = {"open", "map", "event", "close_on_exec", "read_alert"};

/* Our own copy of the name, so that the caller's need not live. */
static const char *call_named(const char *name) {
  for (size_t i = 0; i < sizeof other_calls / sizeof *other_calls; i++)
    if (strcmp(name, other_calls[i]) == 0) return other_calls[i];
  for (unsigned number = 0; number < 64; number++) {
    const char *device = emulate_device_command_name(number), *domain = emulate_domain_command_name(number);
    if (device && strcmp(name, device) == 0) return device;
    if (domain && strcmp(name, domain) == 0) return domain;
  }
  return NULL;
}

int pdlb_emulated_fail(struct pdlb_emulated *emulated, const char *call, uint32_t nth, int err, uint32_t status) {
  const char *name = call ? call_named(call) : NULL;
  if ((call && !name) || nth == 0 || err <= 0) return -EINVAL;
  int rc = -ENOSPC;
  pthread_mutex_lock(&emulated->mutex);
  for (size_t i = 0; i < sizeof emulated->failures / sizeof *emulated->failures && rc < 0; i++) {
    if (emulated->failures[i].waits) continue;
    emulated->failures[i] = (struct failure){.waits = true, .call = name, .left = nth, .err = err, .status = status};
    rc = 0;
  }
  pthread_mutex_unlock(&emulated->mutex);
  return rc;
}

uint64_t pdlb_emulated_calls(const struct pdlb_emulated *emulated) {
  return atomic_load_explicit(&emulated->calls, memory_order_relaxed);
}
uint64_t pdlb_emulated_watches(const struct pdlb_emulated *emulated) {
  return atomic_load_explicit(&emulated->watches, memory_order_relaxed);
}

const char *pdlb_emulated_failed_call(struct pdlb_emulated *emulated) {
  pthread_mutex_lock(&emulated->mutex);
  const char *call = emulated->failed_call;
  pthread_mutex_unlock(&emulated->mutex);
  return call;
}

bool pdlb_emulated_failure_waits(struct pdlb_emulated *emulated) {
  bool waits = false;
  pthread_mutex_lock(&emulated->mutex);
  for (size_t i = 0; i < sizeof emulated->failures / sizeof *emulated->failures; i++)
    waits |= emulated->failures[i].waits;
  pthread_mutex_unlock(&emulated->mutex);
  return waits;
}

/* ---- descriptors ----------------------------------------------------------------------------------------------- */

static int add_file(struct pdlb_emulated *emulated, struct file file) {
  int fd = -EMFILE;
  pthread_mutex_lock(&emulated->mutex);
  for (unsigned i = 0; i < MAX_FILES && fd < 0; i++) {
    if (emulated->files[i].kind != EMULATE_NOTHING) continue;
    emulated->files[i] = file;
    fd = FIRST_FD + (int)i;
    if (file.kind != EMULATE_DEVICE) refer(emulated, file.serial, 1);
  }
  pthread_mutex_unlock(&emulated->mutex);
  return fd;
}

static struct file file_of(struct pdlb_emulated *emulated, int fd) {
  struct file file = {EMULATE_NOTHING, 0, 0};
  pthread_mutex_lock(&emulated->mutex);
  if (fd >= FIRST_FD && fd < FIRST_FD + (int)MAX_FILES) file = emulated->files[fd - FIRST_FD];
  pthread_mutex_unlock(&emulated->mutex);
  return file;
}

/* The last reference to a domain may be gone: the driver resets it within the call. */
static void drop_reference(struct pdlb_emulated *emulated, uint64_t serial) {
  pthread_mutex_lock(&emulated->mutex);
  refer(emulated, serial, -1);
  pthread_mutex_unlock(&emulated->mutex);
  emulate_collect(&emulated->emulation, ONLY_DEVICE);
}

static int call_open(void *context, const char *path, uint32_t *number) {
  struct pdlb_emulated *emulated = context;
  (void)path;
  const int rc = fault(emulated, "open", NULL);
  *number = ONLY_DEVICE;
  return rc < 0 ? rc : add_file(emulated, (struct file){.kind = EMULATE_DEVICE});
}

static int call_close(void *context, int fd) {
  struct pdlb_emulated *emulated = context;
  if (getpid() != emulated->process) return 0;
  const struct file file = file_of(emulated, fd);
  if (file.kind == EMULATE_NOTHING) return -EBADF;
  pthread_mutex_lock(&emulated->mutex);
  emulated->files[fd - FIRST_FD] = (struct file){.kind = EMULATE_NOTHING};
  pthread_mutex_unlock(&emulated->mutex);
  if (file.kind != EMULATE_DEVICE) drop_reference(emulated, file.serial);
  return 0;
}

static int call_close_on_exec(void *context, int fd) {
  (void)fd;
  return fault(context, "close_on_exec", NULL);
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

static int create_domain(struct pdlb_emulated *emulated, struct pdlb_create_sched_domain_args *args) {
  struct emulation *emulation = &emulated->emulation;
  const unsigned domain = args->response.id;
  const uint64_t serial = emulate_domain_serial(emulation, ONLY_DEVICE, domain);
  /* Any name does for a file that is known by its number here. */
  emulate_name_domain(emulation, ONLY_DEVICE, domain, serial);
  const int fd = add_file(emulated, (struct file){.kind = EMULATE_DOMAIN, .index = domain, .serial = serial});
  if (fd < 0) emulate_discard_domain(emulation, ONLY_DEVICE, domain);
  if (fd >= 0) args->domain_fd = (uint32_t)fd;
  return fd < 0 ? fd : 0;
}

static int make_port_file(struct pdlb_emulated *emulated, const struct file *domain, unsigned number,
                          struct pdlb_port_args *args) {
  const bool directed = number == PDLB_COMMAND_GET_DIR_PORT_PP_FD || number == PDLB_COMMAND_GET_DIR_PORT_CQ_FD;
  const bool producer = number == PDLB_COMMAND_GET_LDB_PORT_PP_FD || number == PDLB_COMMAND_GET_DIR_PORT_PP_FD;
  const int fd = add_file(emulated, (struct file){.kind = producer ? EMULATE_PRODUCER : EMULATE_CONSUMER,
                                                  .index = args->port_id + (directed ? PDLB_NUM_LDB_PORTS : 0),
                                                  .serial = domain->serial});
  if (fd >= 0) args->response.id = (uint32_t)fd;
  return fd < 0 ? fd : 0;
}

static int enable_epoll(struct pdlb_emulated *emulated, const struct file *file,
                        struct pdlb_enable_cq_epoll_args *args) {
  const unsigned port = args->port_id + (args->is_ldb == 1 ? 0 : PDLB_NUM_LDB_PORTS);
  if (port >= NUM_PORTS) return -EFAULT;
  const int ours = fcntl((int)args->event_fd, F_DUPFD_CLOEXEC, 0);
  if (ours < 0) return -errno;
  const int rc = emulate_domain_command(&emulated->emulation, ONLY_DEVICE, file->index, file->serial,
                                        PDLB_COMMAND_ENABLE_CQ_EPOLL, args);
  pthread_mutex_lock(&emulated->mutex);
  const int replaced = rc == 0 ? emulated->events[port] : ours;
  if (rc == 0) emulated->events[port] = ours;
  pthread_mutex_unlock(&emulated->mutex);
  if (replaced >= 0) close(replaced);
  return rc;
}

static int domain_request(struct pdlb_emulated *emulated, const struct file *file, unsigned number, void *args) {
  if (number == PDLB_COMMAND_ENABLE_CQ_EPOLL) return enable_epoll(emulated, file, args);
  const int rc = emulate_domain_command(&emulated->emulation, ONLY_DEVICE, file->index, file->serial, number, args);
  if (rc == 0 && number >= PDLB_COMMAND_GET_LDB_PORT_PP_FD && number <= PDLB_COMMAND_GET_DIR_PORT_CQ_FD)
    return make_port_file(emulated, file, number, args);
  return rc;
}

static int call_request(void *context, int fd, uint32_t request, void *args) {
  struct pdlb_emulated *emulated = context;
  const struct file file = file_of(emulated, fd);
  const unsigned number = request & 0xFF;
  const bool is_device = file.kind == EMULATE_DEVICE;
  const char *name = is_device ? emulate_device_command_name(number) : emulate_domain_command_name(number);
  if (file.kind != EMULATE_DEVICE && file.kind != EMULATE_DOMAIN) return -EBADF;
  if (!name) return -ENOTTY;
  int rc = fault(emulated, name, args);
  if (rc < 0) return rc;
  if (is_device) {
    rc = emulate_device_command(&emulated->emulation, ONLY_DEVICE, number, args);
    if (rc == 0 && number == PDLB_COMMAND_CREATE_SCHED_DOMAIN) rc = create_domain(emulated, args);
  } else {
    rc = domain_request(emulated, &file, number, args);
  }
  return rc == EMULATE_UNTOUCHED ? -EINVAL : rc;
}

static int call_read_alert(void *context, int fd, struct pdlb_domain_alert *alert) {
  struct pdlb_emulated *emulated = context;
  const struct file file = file_of(emulated, fd);
  const int rc = fault(emulated, "read_alert", NULL);
  if (rc < 0) return rc;
  for (;;) {
    uint32_t seen;
    const int length = emulate_read_alert(&emulated->emulation, ONLY_DEVICE, file.index, file.serial, alert, &seen);
    if (length != -EAGAIN) return length < 0 ? length : 0;
    emulate_sleep_alert(&emulated->emulation, ONLY_DEVICE, file.index, seen);
  }
}

static int call_attribute(void *context, uint32_t number, const char *name, uint32_t *value) {
  struct pdlb_emulated *emulated = context;
  char text[32] = {0};
  for (unsigned index = 0; emulate_attribute_name(index); index++) {
    if (strcmp(emulate_attribute_name(index), name) != 0) continue;
    const int length = emulate_attribute_read(&emulated->emulation, number, index, text);
    if (length < 0) return length;
    *value = (uint32_t)strtoul(text, NULL, 10);
    return 0;
  }
  return -ENOENT;
}

static int call_event(void *context) {
  const int rc = fault(context, "event", NULL);
  if (rc < 0) return rc;
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static int map_producer(const struct file *file, void **address) {
  struct producer *producer = malloc(sizeof *producer);
  if (!producer) return -ENOMEM;
  *producer = (struct producer){.port = file->index, .serial = file->serial};
  *address = producer;
  return 0;
}

static int map_consumer(struct pdlb_emulated *emulated, const struct file *file, void **address) {
  const uint64_t life = emulate_consumer_serial(&emulated->emulation, ONLY_DEVICE, file->index);
  void *at = consumer_queue(emulated, ONLY_DEVICE, file->index, life);
  if (!at) return -ENOMEM;
  pthread_mutex_lock(&emulated->mutex);
  for (struct queue_memory *memory = emulated->memories; memory; memory = memory->next) {
    if (memory->at != at) continue;
    memory->mapped++;
    memory->serial = file->serial;
  }
  pthread_mutex_unlock(&emulated->mutex);
  *address = at;
  return 0;
}

static int call_map(void *context, int fd, size_t length, bool writable, void **address) {
  struct pdlb_emulated *emulated = context;
  const struct file file = file_of(emulated, fd);
  int rc = fault(emulated, "map", NULL);
  if (rc < 0) return rc;
  if (file.kind == EMULATE_PRODUCER && length == PDLB_PP_SIZE && writable)
    rc = map_producer(&file, address);
  else if (file.kind == EMULATE_CONSUMER && length == PDLB_CQ_SIZE)
    rc = map_consumer(emulated, &file, address);
  else
    rc = -EINVAL;
  if (rc < 0) return rc;
  pthread_mutex_lock(&emulated->mutex);
  refer(emulated, file.serial, 1);
  pthread_mutex_unlock(&emulated->mutex);
  return 0;
}

static int call_unmap(void *context, void *address, size_t length) {
  struct pdlb_emulated *emulated = context;
  uint64_t serial = 0;
  if (length == PDLB_PP_SIZE) {
    serial = ((struct producer *)address)->serial;
    free(address);
  } else {
    pthread_mutex_lock(&emulated->mutex);
    for (struct queue_memory *memory = emulated->memories; memory; memory = memory->next) {
      if (memory->at != address) continue;
      memory->mapped--;
      serial = memory->serial;
    }
    sweep_memories(emulated);
    pthread_mutex_unlock(&emulated->mutex);
  }
  drop_reference(emulated, serial);
  return 0;
}

static void call_store(void *context, void *address, const struct pdlb_qe *line) {
  struct pdlb_emulated *emulated = context;
  const struct producer *producer = address;
  emulate_store(&emulated->emulation, ONLY_DEVICE, producer->port, producer->serial, line, PDLB_QES_PER_LINE, true);
}

/* Stands for UMWAIT: others get the processor, for as long as that would wait. */
static void call_watch(void *context, const uint8_t *command, uint8_t generation) {
  struct pdlb_emulated *emulated = context;
  atomic_fetch_add_explicit(&emulated->watches, 1, memory_order_relaxed);
  const struct timespec moment = {.tv_nsec = 20000};
  if ((__atomic_load_n(command, __ATOMIC_ACQUIRE) & PDLB_QE_GEN) != generation) nanosleep(&moment, NULL);
}

static const struct pdlb_system system_calls = {
    .open = call_open,
    .close = call_close,
    .close_on_exec = call_close_on_exec,
    .request = call_request,
    .map = call_map,
    .unmap = call_unmap,
    .read_alert = call_read_alert,
    .attribute = call_attribute,
    .event = call_event,
    .store = call_store,
    .watch = call_watch,
};

/* ---- the device ------------------------------------------------------------------------------------------------ */

int pdlb_emulated_create(uint32_t version, bool port_probe, struct pdlb_emulated **result) {
  *result = NULL;
  if (version != PDLB_DEVICE_V20 && version != PDLB_DEVICE_V25) return -EINVAL;
  struct pdlb_emulated *emulated = calloc(1, sizeof *emulated);
  if (!emulated) return -ENOMEM;
  void *region =
      mmap(NULL, emulate_region_size(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) {
    free(emulated);
    return -ENOMEM;
  }
  pthread_mutex_init(&emulated->mutex, NULL);
  for (unsigned port = 0; port < NUM_PORTS; port++) emulated->events[port] = -1;
  emulated->process = getpid();
  emulate_format(region, 1, version, port_probe);
  emulate_attach(&emulated->emulation, region, &host, emulated);
  *result = emulated;
  return 0;
}

void pdlb_emulated_free(struct pdlb_emulated *emulated) {
  for (unsigned port = 0; port < NUM_PORTS; port++)
    if (emulated->events[port] >= 0) close(emulated->events[port]);
  for (struct queue_memory *memory = emulated->memories; memory; memory = memory->next) memory->life = 0;
  sweep_memories(emulated);
  munmap(emulated->emulation.region, emulate_region_size(1));
  pthread_mutex_destroy(&emulated->mutex);
  free(emulated);
}

int pdlb_emulated_open(struct pdlb_emulated *emulated, struct pdlb_device **device, struct pdlb_error *error) {
  return pdlb_device_open_through(&system_calls, emulated, "the emulated device", device, error);
}

/* ---- limits ---------------------------------------------------------------------------------------------------- */

static uint32_t beyond(uint32_t there, uint32_t limit) { return there > limit ? there - limit : 0; }

/* Others' domains, which take what is beyond the limits: the first one all of it, and as many more as it needs. */
static int hold_rest(struct pdlb_emulated *emulated) {
  struct emulation *emulation = &emulated->emulation;
  const struct pdlb_resources *limits = &emulated->limits;
  struct pdlb_get_num_resources_args there = {0};
  emulate_device_command(emulation, ONLY_DEVICE, PDLB_COMMAND_GET_NUM_RESOURCES, &there);
  struct pdlb_create_sched_domain_args args = {
      .num_ldb_queues = beyond(there.num_ldb_queues, limits->ldb_queues),
      .num_ldb_ports = beyond(there.num_ldb_ports, limits->ldb_ports),
      .num_dir_ports = beyond(there.num_dir_ports, limits->dir_ports),
      .num_atomic_inflights = beyond(there.num_atomic_inflights, limits->atomic_inflights),
      .num_hist_list_entries = beyond(there.num_hist_list_entries, limits->history_entries),
      .num_ldb_credits = beyond(there.num_ldb_credits, limits->ldb_credits),
      .num_dir_credits = beyond(there.num_dir_credits, limits->dir_credits),
      .num_sn_slots = {beyond(there.num_sn_slots[0], limits->sequence_slots[0]),
                       beyond(there.num_sn_slots[1], limits->sequence_slots[1])},
  };
  uint32_t domains = beyond(there.num_sched_domains, limits->domains);
  const bool takes = memcmp(&args.num_ldb_queues, &(struct pdlb_create_sched_domain_args){0}.num_ldb_queues,
                            sizeof args - offsetof(struct pdlb_create_sched_domain_args, num_ldb_queues)) != 0;
  if (takes && domains == 0) domains = 1;
  for (uint32_t i = 0; i < domains; i++) {
    int rc = emulate_device_command(emulation, ONLY_DEVICE, PDLB_COMMAND_CREATE_SCHED_DOMAIN, &args);
    if (rc == 0) rc = create_domain(emulated, &args);
    if (rc < 0) return rc;
    args = (struct pdlb_create_sched_domain_args){0};
  }
  return 0;
}

int pdlb_emulated_limit(struct pdlb_emulated *emulated, const struct pdlb_resources *left) {
  emulated->limited = true;
  emulated->limits = *left;
  return hold_rest(emulated);
}

/* ---- what goes wrong by itself --------------------------------------------------------------------------------- */

int pdlb_emulated_expect(struct pdlb_emulated *emulated, enum pdlb_emulated_event event, uint32_t nth) {
  static const enum emulate_fault_action actions[] = {
      [PDLB_EMULATED_DROP_ELEMENT] = EMULATE_DROP_STORE,
      [PDLB_EMULATED_RESET_AT_ELEMENT] = EMULATE_RESET_AT_STORE,
      [PDLB_EMULATED_LOSE_INTERRUPT] = EMULATE_LOSE_INTERRUPT,
      [PDLB_EMULATED_REPEAT_INTERRUPT] = EMULATE_REPEAT_INTERRUPT,
  };
  if (nth == 0 || (unsigned)event >= sizeof actions / sizeof *actions) return -EINVAL;
  emulate_lock(&emulated->emulation, ONLY_DEVICE);
  const int rc = emulate_fail_event(&emulated->emulation, actions[event], nth);
  emulate_unlock(&emulated->emulation, ONLY_DEVICE);
  return rc;
}

void pdlb_emulated_reset(struct pdlb_emulated *emulated) {
  emulate_function_reset(&emulated->emulation, ONLY_DEVICE);
  if (emulated->limited) hold_rest(emulated);
}

int pdlb_emulated_alert(struct pdlb_emulated *emulated, uint32_t domain, uint64_t id, uint64_t aux) {
  return emulate_alert(&emulated->emulation, ONLY_DEVICE, domain, id, aux);
}

void pdlb_emulated_interrupt_all(struct pdlb_emulated *emulated) {
  for (unsigned port = 0; port < NUM_PORTS; port++) signal_event(emulated, port);
}

const char *pdlb_emulated_misuse(struct pdlb_emulated *emulated, uint32_t index) {
  pthread_mutex_lock(&emulated->mutex);
  const char *text = index < emulated->num_misuses ? emulated->misuses[index] : NULL;
  pthread_mutex_unlock(&emulated->mutex);
  return text;
}
