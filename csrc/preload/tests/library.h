/* What the vendor's library does for its users, as far as the kernel and the device see it: the same requests with the
 * same values in the same order, the same mappings, stores, looks at consumer queues, and credits counted in software.
 * Its users are test_balancer.c and test_generators.c.
 */
#ifndef PDLB_PRELOAD_TESTS_LIBRARY_H
#define PDLB_PRELOAD_TESTS_LIBRARY_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "client.h"

#define BATCH 32u           /* credits that a port takes at once */
#define PATIENCE 1024u      /* looks after which a port gives back what it hoards */
#define SHARED_BUSY 1595808 /* the size of the shared memory until it is ready, and then */
#define SHARED_READY 2410912

enum { LDB, DIR };

/* A domain, as its creator has it. */
struct library {
  int device;
  bool v25;
  int creator; /* the domain's descriptor */
  uint32_t id;
  _Atomic uint32_t pools[2];
  _Atomic unsigned complaints; /* alerts that are not the library's own */
  int listener;
  struct sockaddr_un address;
  char shared_name[64];
  pthread_t server, alerts;
};

struct library_port {
  struct library *library;
  int domain;
  unsigned type;
  uint32_t id, depth;
  char *producer, *consumer;
  uint32_t index; /* in units of 16 bytes */
  uint8_t generation;
  uint32_t credits[2], idle_looks, rich_looks;
  uint32_t owed_tokens, owed_releases;
  int event_fd; /* -1: none */
  bool int_armed;
  struct pdlb_qe line[4] __attribute__((aligned(64)));
};

/* ---- the domain ---------------------------------------------------------------------------------------------- */

/* Gives the domain's descriptor to whoever connects: also to threads of the process that has it. */
static inline void *library_serve(void *argument) {
  struct library *library = argument;
  for (;;) {
    const int fd = accept(library->listener, NULL, NULL);
    if (fd < 0) return NULL;
    char byte = ' ';
    struct iovec part = {&byte, 1};
    union {
      char bytes[CMSG_SPACE(sizeof(int))];
      struct cmsghdr header;
    } control = {{0}};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &library->creator, sizeof(int));
    CHECK(sendmsg(fd, &message, 0) == 1);
    close(fd);
  }
}

static inline void library_listen(struct library *library) {
  library->address.sun_family = AF_UNIX;
  snprintf(library->address.sun_path, sizeof library->address.sun_path, "/tmp/__pdlb_test_domain_%d_%u", (int)getpid(),
           library->id);
  unlink(library->address.sun_path);
  library->listener = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(bind(library->listener, (struct sockaddr *)&library->address, sizeof library->address) == 0);
  CHECK(listen(library->listener, 128) == 0);
  CHECK(pthread_create(&library->server, NULL, library_serve, library) == 0);
}

static inline void library_share(struct library *library) {
  snprintf(library->shared_name, sizeof library->shared_name, "/pdlb_test_%d_%u", (int)getpid(), library->id);
  const int fd = shm_open(library->shared_name, O_RDWR | O_CREAT | O_EXCL, 0600);
  CHECK(fd >= 0 && ftruncate(fd, SHARED_BUSY) == 0);
  void *memory = mmap(NULL, SHARED_BUSY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED && ftruncate(fd, SHARED_READY) == 0 && close(fd) == 0);
  memset(memory, 0, 4096);
  CHECK(munmap(memory, SHARED_BUSY) == 0);
}

/* With all the device's credits. */
static inline struct library *library_open(uint32_t ldb_queues, uint32_t ldb_ports, uint32_t dir_ports,
                                           uint32_t history, bool all_slots) {
  struct library *library = calloc(1, sizeof *library);
  library->device = open("/dev/dlb0", O_RDWR);
  CHECK(library->device >= 0);
  struct pdlb_get_device_version_args version = {{0, 0}};
  CHECK(ioctl(library->device, REQUEST(GET_DEVICE_VERSION), &version) == 0);
  library->v25 = version.response.id >> 8 == PDLB_DEVICE_V25;
  struct pdlb_get_num_resources_args has = {.num_sched_domains = 0};
  CHECK(ioctl(library->device, REQUEST(GET_NUM_RESOURCES), &has) == 0 && has.num_ldb_ports >= ldb_ports);
  struct pdlb_create_sched_domain_args args;
  memset(&args, 0xA5, sizeof args); /* some callers leave the masks to chance */
  args.response = (struct pdlb_response){0, 0};
  args.num_ldb_queues = ldb_queues;
  args.num_ldb_ports = ldb_ports;
  memset(args.num_cos_ldb_ports, 0, sizeof args.num_cos_ldb_ports);
  args.num_dir_ports = dir_ports;
  args.num_atomic_inflights = 64 * ldb_queues;
  args.num_hist_list_entries = history;
  args.num_ldb_credits = has.num_ldb_credits;
  args.num_dir_credits = has.num_dir_credits;
  args.cos_strict = 1;
  for (unsigned i = 0; i < 2; i++) args.num_sn_slots[i] = all_slots ? has.num_sn_slots[i] : 0;
  CHECK(ioctl(library->device, REQUEST(CREATE_SCHED_DOMAIN), &args) == 0);
  library->creator = (int)args.domain_fd;
  library->id = args.response.id;
  atomic_init(&library->pools[LDB], has.num_ldb_credits);
  atomic_init(&library->pools[DIR], has.num_dir_credits);
  library_share(library);
  library_listen(library);
  return library;
}

/* Another descriptor of the domain. */
static inline int library_attach(const struct library *library) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  char byte;
  int domain;
  struct iovec part = {&byte, 1};
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
  } control;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  CHECK(connect(fd, (const struct sockaddr *)&library->address, sizeof library->address) == 0);
  CHECK(recvmsg(fd, &message, 0) == 1);
  memcpy(&domain, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof domain);
  close(fd);
  return domain;
}

static inline void *library_read_alerts(void *argument) {
  struct library *library = argument;
  struct pdlb_domain_alert alert;
  while (read(library->creator, &alert, sizeof alert) == sizeof alert) {
    if (alert.id == PDLB_ALERT_USER && alert.aux == 0) return NULL;
    fprintf(stderr, "alert %llu of %llu\n", (unsigned long long)alert.id, (unsigned long long)alert.aux);
    atomic_fetch_add(&library->complaints, 1);
  }
  return NULL;
}

static inline void library_start(struct library *library, int domain) {
  struct pdlb_start_domain_args args = {{0, 0}};
  CHECK(pthread_create(&library->alerts, NULL, library_read_alerts, library) == 0);
  CHECK(ioctl(domain, REQUEST(START_DOMAIN), &args) == 0);
}

static inline void library_close(struct library *library, int domain) {
  struct pdlb_enqueue_domain_alert_args last = {.aux_alert_data = 0};
  CHECK(close(domain) == 0);
  CHECK(shm_unlink(library->shared_name) == 0);
  CHECK(ioctl(library->creator, REQUEST(ENQUEUE_DOMAIN_ALERT), &last) == 0);
  CHECK(pthread_join(library->alerts, NULL) == 0);
  CHECK(shutdown(library->listener, SHUT_RDWR) == 0);
  CHECK(pthread_join(library->server, NULL) == 0);
  CHECK(close(library->listener) == 0 && unlink(library->address.sun_path) == 0);
  CHECK(close(library->creator) == 0);
  struct pdlb_get_num_resources_args left = {.num_sched_domains = 0};
  CHECK(ioctl(library->device, REQUEST(GET_NUM_RESOURCES), &left) == 0 && left.num_sched_domains == 32);
  CHECK(left.num_ldb_ports == 64 && left.num_hist_list_entries == 2048 && left.num_sn_slots[0] == 16);
  CHECK(close(library->device) == 0);
  CHECK(atomic_load(&library->complaints) == 0);
  free(library);
}

/* ---- queues and ports ---------------------------------------------------------------------------------------- */

static inline uint32_t library_ldb_queue(int domain, uint32_t sequence_numbers) {
  struct pdlb_create_ldb_queue_args args = {.num_sequence_numbers = sequence_numbers,
                                            .num_qid_inflights = sequence_numbers ? sequence_numbers : 512,
                                            .num_atomic_inflights = 64,
                                            .depth_threshold = 5461};
  CHECK(ioctl(domain, REQUEST(CREATE_LDB_QUEUE), &args) == 0);
  return args.response.id;
}

static inline uint32_t library_dir_queue(int domain, int port) {
  struct pdlb_create_dir_queue_args args = {.port_id = port, .depth_threshold = 2730};
  CHECK(ioctl(domain, REQUEST(CREATE_DIR_QUEUE), &args) == 0);
  return args.response.id;
}

static inline char *library_map(int domain, unsigned long request, uint32_t port, size_t size) {
  struct pdlb_port_args args = {.port_id = port};
  CHECK(ioctl(domain, request, &args) == 0);
  const int fd = (int)args.response.id;
  char *at = mmap(NULL, size, PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(at != MAP_FAILED && close(fd) == 0);
  return at;
}

static inline struct library_port *library_port(struct library *library, int domain, unsigned type, uint32_t id,
                                                uint32_t depth) {
  struct library_port *port = aligned_alloc(64, sizeof *port);
  memset(port, 0x5A, sizeof *port);
  *port = (struct library_port){.library = library, .domain = domain, .type = type, .id = id, .depth = depth};
  port->consumer =
      library_map(domain, type == LDB ? REQUEST(GET_LDB_PORT_CQ_FD) : REQUEST(GET_DIR_PORT_CQ_FD), id, PDLB_CQ_SIZE);
  port->producer =
      library_map(domain, type == LDB ? REQUEST(GET_LDB_PORT_PP_FD) : REQUEST(GET_DIR_PORT_PP_FD), id, PDLB_PP_SIZE);
  port->generation = 1;
  port->event_fd = -1;
  return port;
}

static inline void library_check_poll_mode(const struct library *library) {
  struct pdlb_query_cq_poll_mode_args args = {{0, 0}};
  CHECK(ioctl(library->device, REQUEST(QUERY_CQ_POLL_MODE), &args) == 0);
  CHECK(args.response.id == PDLB_POLL_MODE_SPARSE);
}

static inline struct library_port *library_ldb_port(struct library *library, int domain, uint16_t history) {
  library_check_poll_mode(library);
  struct pdlb_create_ldb_port_args args = {.cq_depth = 8, .cq_depth_threshold = 1, .cq_history_list_size = history};
  CHECK(ioctl(domain, REQUEST(CREATE_LDB_PORT), &args) == 0);
  return library_port(library, domain, LDB, args.response.id, 8);
}

static inline struct library_port *library_dir_port(struct library *library, int domain, int queue) {
  library_check_poll_mode(library);
  struct pdlb_create_dir_port_args args = {.cq_depth = 128, .cq_depth_threshold = 1, .queue_id = queue};
  CHECK(ioctl(domain, REQUEST(CREATE_DIR_PORT), &args) == 0);
  return library_port(library, domain, DIR, args.response.id, 128);
}

static inline void library_link(const struct library_port *port, uint32_t queue) {
  struct pdlb_map_qid_args args = {.port_id = port->id, .qid = queue};
  CHECK(ioctl(port->domain, REQUEST(MAP_QID), &args) == 0);
}

static inline void library_disable(struct library_port *port) {
  struct pdlb_port_args args = {.port_id = port->id};
  for (unsigned kind = 0; kind < 2; kind++) atomic_fetch_add(&port->library->pools[kind], port->credits[kind]);
  port->credits[LDB] = port->credits[DIR] = 0;
  CHECK(ioctl(port->domain, port->type == LDB ? REQUEST(DISABLE_LDB_PORT) : REQUEST(DISABLE_DIR_PORT), &args) == 0);
}

static inline void library_detach(struct library_port *port) {
  CHECK(munmap(port->producer, PDLB_PP_SIZE) == 0 && munmap(port->consumer, PDLB_CQ_SIZE) == 0);
  free(port);
}

/* ---- stores -------------------------------------------------------------------------------------------------- */

/* One instruction, on processors that have it. The same program must run on those that have not. */
static bool library_direct_stores;

static inline void library_store(struct library_port *port) {
  if (library_direct_stores) {
    __asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x02" ::"a"(port->producer), "d"(port->line) : "memory");
  } else {
    client_store((const struct client_port *)&(struct client_port){.producer = port->producer}, port->line);
  }
}

/* Of slots that are not used, only the last two bytes are cleared: the rest is what was there before. */
static inline void library_clear(struct library_port *port, unsigned from) {
  for (unsigned i = from; i < 4; i++) port->line[i].misc = port->line[i].command = 0;
}

static inline void library_command(struct library_port *port, uint8_t command, uint16_t count) {
  library_clear(port, 0);
  port->line[0].command = command;
  if (command == PDLB_QE_BAT_T) port->line[0].flow = count;
  library_store(port);
}

static void library_arm(struct library_port *port) { library_command(port, PDLB_QE_ARM, 0); }

static inline void library_enable_epoll(struct library_port *port, int event_fd) {
  struct pdlb_enable_cq_epoll_args args = {.port_id = port->id,
                                           .process_id = (uint32_t)getpid(),
                                           .event_fd = (uint32_t)event_fd,
                                           .is_ldb = port->type == LDB};
  CHECK(ioctl(port->domain, REQUEST(ENABLE_CQ_EPOLL), &args) == 0);
  port->event_fd = event_fd;
  library_arm(port);
}

/* ---- credits ------------------------------------------------------------------------------------------------- */

static unsigned library_kind(const struct library *library, unsigned type) { return library->v25 ? LDB : type; }

static inline bool library_take_credit(struct library_port *port, unsigned kind) {
  _Atomic uint32_t *pool = &port->library->pools[kind];
  if (port->credits[kind] == 0) {
    uint32_t left = atomic_load(pool);
    const uint32_t wanted = left < BATCH ? left : BATCH;
    /* Tried once. */
    if (wanted == 0 || !atomic_compare_exchange_strong(pool, &left, left - wanted)) return false;
    port->credits[kind] += wanted;
  }
  port->credits[kind]--;
  return true;
}

static inline void library_keep_credits(struct library_port *port, uint32_t most) {
  for (unsigned kind = 0; kind < 2; kind++) {
    if (port->credits[kind] <= most) continue;
    atomic_fetch_add(&port->library->pools[kind], port->credits[kind] - most);
    port->credits[kind] = most;
  }
}

static inline bool library_pool_is_low(const struct library *library) {
  return atomic_load(&library->pools[LDB]) < BATCH || (!library->v25 && atomic_load(&library->pools[DIR]) < BATCH);
}

/* ---- sending and receiving ----------------------------------------------------------------------------------- */

static inline unsigned library_send(struct library_port *port, unsigned count, const struct pdlb_qe *events,
                                    uint8_t command) {
  unsigned sent = 0;
  if (port->type == DIR) command &= (uint8_t)~PDLB_QE_COMPLETE;
  while (sent < count) {
    unsigned slot = 0;
    for (; slot < 4 && sent + slot < count; slot++) {
      const unsigned type = (events[sent + slot].sched & 3) == 3 ? DIR : LDB;
      if (!library_take_credit(port, library_kind(port->library, type))) break;
      port->line[slot] = events[sent + slot];
      port->line[slot].misc = 0;
      port->line[slot].command = command;
    }
    if (slot == 0) break;
    library_clear(port, slot);
    __asm__ volatile("sfence" ::: "memory");
    library_store(port);
    sent += slot;
  }
  if (command & PDLB_QE_COMPLETE) port->owed_releases -= sent;
  if (port->credits[LDB] > 2 * BATCH || port->credits[DIR] > 2 * BATCH) library_keep_credits(port, BATCH);
  if (sent == 0) library_keep_credits(port, 0);
  return sent;
}

static inline void library_release(struct library_port *port, unsigned count) {
  if (count > port->owed_releases) count = port->owed_releases;
  for (unsigned left = count; left > 0;) {
    memset(port->line, 0xEE, sizeof port->line); /* what a release has beside its command means nothing */
    library_clear(port, 0);
    for (unsigned slot = 0; slot < 4 && left > 0; slot++, left--) port->line[slot].command = PDLB_QE_REL;
    library_store(port);
  }
  port->owed_releases -= count;
}

static const char *library_slot(const struct library_port *port) { return port->consumer + (size_t)port->index * 16; }

static inline bool library_is_empty(const struct library_port *port) {
  return (__atomic_load_n((const uint8_t *)library_slot(port) + 15, __ATOMIC_ACQUIRE) & 1) != port->generation;
}

static inline void library_block(struct library_port *port) {
  struct pdlb_block_on_cq_interrupt_args args = {.port_id = port->id,
                                                 .is_ldb = port->type == LDB,
                                                 .cq_gen = port->generation,
                                                 .cq_va = (uint64_t)(uintptr_t)library_slot(port)};
  if (!port->int_armed) library_arm(port);
  port->int_armed = ioctl(port->domain, REQUEST(BLOCK_ON_CQ_INTERRUPT), &args) != 0;
  CHECK(!port->int_armed || errno == EACCES || errno == EINTR);
}

/* The queue was drained: the eventfd is to tell of what comes from now on. */
static inline void library_rearm(struct library_port *port) {
  uint64_t count;
  if (library_pool_is_low(port->library)) library_keep_credits(port, 0);
  if (read(port->event_fd, &count, sizeof count) == sizeof count) library_arm(port);
}

static inline unsigned library_recv(struct library_port *port, unsigned most, bool wait, struct pdlb_qe *events) {
  unsigned count = 0;
  if (port->credits[LDB] <= BATCH && port->credits[DIR] <= BATCH) {
    port->rich_looks = 0;
  } else if (++port->rich_looks > PATIENCE) {
    library_keep_credits(port, BATCH);
  }
  if (wait && library_is_empty(port)) {
    if (library_pool_is_low(port->library)) library_keep_credits(port, 0);
    library_block(port);
  }
  while (count < most && !library_is_empty(port)) {
    memcpy(&events[count++], library_slot(port), sizeof *events);
    port->index += 4;
    if (port->index != port->depth * 4) continue;
    port->index = 0;
    port->generation ^= 1;
  }
  if (port->event_fd >= 0 && library_is_empty(port)) library_rearm(port);
  port->credits[library_kind(port->library, port->type)] += count;
  if (port->type == LDB) port->owed_releases += count;
  port->idle_looks = count ? 0 : port->idle_looks + 1;
  if (port->idle_looks > PATIENCE) library_keep_credits(port, 0);
  if (count > 0) library_command(port, PDLB_QE_BAT_T, (uint16_t)(count - 1));
  return count;
}

#endif
