/* A small client of the driver's interface, for tests of programs that know nothing of the emulation. */
#ifndef PDLB_PRELOAD_TESTS_CLIENT_H
#define PDLB_PRELOAD_TESTS_CLIENT_H

#include <emmintrin.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uapi/pdlb_abi.h"

#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
      exit(1);                                                                          \
    }                                                                                   \
  } while (0)

#define REQUEST(name) ((unsigned long)(uint32_t)PDLB_IOC_##name)

struct client_port {
  uint32_t id;
  char *producer;
  char *consumer;
  uint32_t depth, index;
  uint8_t generation;
};

struct client {
  int device, domain;
};

static inline struct client client_open(uint32_t ldb_queues, uint32_t ldb_ports, uint32_t dir_ports) {
  struct pdlb_create_sched_domain_args args = {
      .num_ldb_queues = ldb_queues,
      .num_ldb_ports = ldb_ports,
      .num_dir_ports = dir_ports,
      .num_atomic_inflights = 64 * ldb_queues,
      .num_hist_list_entries = 64 * ldb_ports,
      .num_ldb_credits = 2048,
      .num_dir_credits = 2048,
  };
  struct client client;
  client.device = open("/dev/dlb0", O_RDWR | O_CLOEXEC);
  CHECK(client.device >= 0);
  CHECK(ioctl(client.device, REQUEST(CREATE_SCHED_DOMAIN), &args) == 0);
  client.domain = (int)args.domain_fd;
  return client;
}

static inline void client_start(const struct client *client) {
  struct pdlb_start_domain_args args = {{0, 0}};
  CHECK(ioctl(client->domain, REQUEST(START_DOMAIN), &args) == 0);
}

static inline char *client_map(const struct client *client, unsigned long request, uint32_t port, size_t size,
                               int prot) {
  struct pdlb_port_args args = {.port_id = port};
  CHECK(ioctl(client->domain, request, &args) == 0);
  const int fd = (int)args.response.id;
  char *at = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
  CHECK(at != MAP_FAILED);
  CHECK(close(fd) == 0);
  return at;
}

/* A directed queue and the port that it feeds. */
static inline struct client_port client_dir_port(const struct client *client, uint16_t depth) {
  struct pdlb_create_dir_port_args port = {.cq_depth = depth, .cq_depth_threshold = 1, .queue_id = -1};
  CHECK(ioctl(client->domain, REQUEST(CREATE_DIR_PORT), &port) == 0);
  struct pdlb_create_dir_queue_args queue = {.port_id = (int32_t)port.response.id};
  CHECK(ioctl(client->domain, REQUEST(CREATE_DIR_QUEUE), &queue) == 0);
  return (struct client_port){
      .id = port.response.id,
      .consumer = client_map(client, REQUEST(GET_DIR_PORT_CQ_FD), port.response.id, PDLB_CQ_SIZE, PROT_READ),
      .producer = client_map(client, REQUEST(GET_DIR_PORT_PP_FD), port.response.id, PDLB_PP_SIZE, PROT_WRITE),
      .depth = depth < PDLB_MIN_CQ_RING ? PDLB_MIN_CQ_RING : depth,
      .generation = 1,
  };
}

static inline uint32_t client_ldb_queue(const struct client *client, uint32_t atomic_inflights) {
  struct pdlb_create_ldb_queue_args args = {.num_qid_inflights = 512, .num_atomic_inflights = atomic_inflights};
  CHECK(ioctl(client->domain, REQUEST(CREATE_LDB_QUEUE), &args) == 0);
  return args.response.id;
}

static inline struct client_port client_ldb_port(const struct client *client, uint16_t depth, uint32_t queue) {
  struct pdlb_create_ldb_port_args port = {
      .cq_depth = depth, .cq_depth_threshold = 1, .cq_history_list_size = (uint16_t)(2 * depth), .cos_id = 255};
  CHECK(ioctl(client->domain, REQUEST(CREATE_LDB_PORT), &port) == 0);
  struct pdlb_map_qid_args map = {.port_id = port.response.id, .qid = queue};
  CHECK(ioctl(client->domain, REQUEST(MAP_QID), &map) == 0);
  return (struct client_port){
      .id = port.response.id,
      .consumer = client_map(client, REQUEST(GET_LDB_PORT_CQ_FD), port.response.id, PDLB_CQ_SIZE, PROT_READ),
      .producer = client_map(client, REQUEST(GET_LDB_PORT_PP_FD), port.response.id, PDLB_PP_SIZE, PROT_WRITE),
      .depth = depth < PDLB_MIN_CQ_RING ? PDLB_MIN_CQ_RING : depth,
      .generation = 1,
  };
}

/* Four elements, by streaming stores to one address. */
static inline void client_store(const struct client_port *port, const struct pdlb_qe line[4]) {
  for (int i = 0; i < 4; i++) {
    _mm_stream_si128((__m128i *)(void *)port->producer, _mm_loadu_si128((const __m128i *)(const void *)&line[i]));
    __asm__ volatile("sfence" ::: "memory");
  }
}

/* The next entry, if there is one. */
static inline int client_receive(struct client_port *port, struct pdlb_qe *qe) {
  const char *slot = port->consumer + (size_t)port->index * PDLB_CQ_SPARSE_STRIDE;
  const uint8_t command = __atomic_load_n((const uint8_t *)slot + 15, __ATOMIC_ACQUIRE);
  if ((command & PDLB_QE_GEN) != port->generation) return 0;
  memcpy(qe, slot, sizeof *qe);
  if (++port->index == port->depth) {
    port->index = 0;
    port->generation ^= 1;
  }
  return 1;
}

static inline void client_return_tokens(const struct client_port *port, unsigned count) {
  const struct pdlb_qe line[4] = {{.flow = (uint16_t)(count - 1), .command = PDLB_QE_BAT_T}};
  client_store(port, line);
}

#endif
