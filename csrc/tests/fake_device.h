/* A device that does nothing by itself: it keeps the lines that are stored, and the test fills the consumer queues. */
#ifndef PDLB_TESTS_FAKE_DEVICE_H
#define PDLB_TESTS_FAKE_DEVICE_H

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "pdlb.h"
#include "system.h"

#define FAKE_LINES 4096u

enum { FAKE_DEVICE = 1000, FAKE_DOMAIN, FAKE_PRODUCER, FAKE_CONSUMER };

struct fake {
  uint32_t version, poll_mode;
  uint32_t ports, queues; /* created */
  uint32_t lines;
  struct pdlb_qe line[FAKE_LINES][PDLB_QES_PER_LINE];
  _Alignas(64) unsigned char consumer[4][PDLB_CQ_SIZE]; /* in the order of mapping */
  unsigned char producer[64];
  uint32_t mapped;
  pthread_mutex_t mutex;
  pthread_cond_t told;
  bool has_alert;
  uint64_t alert;
};

static int fake_open(void *context, const char *path, uint32_t *number) {
  (void)context, (void)path;
  *number = 0;
  return FAKE_DEVICE;
}

static int fake_close(void *context, int fd) {
  (void)context, (void)fd;
  return 0;
}

static int fake_domain_request(struct fake *fake, uint32_t number, struct pdlb_response *response, void *args) {
  switch (number) {
    case PDLB_COMMAND_CREATE_LDB_QUEUE:
    case PDLB_COMMAND_CREATE_DIR_QUEUE: response->id = fake->queues++; break;
    case PDLB_COMMAND_CREATE_LDB_PORT:
    case PDLB_COMMAND_CREATE_DIR_PORT: response->id = fake->ports++; break;
    case PDLB_COMMAND_GET_LDB_PORT_PP_FD:
    case PDLB_COMMAND_GET_DIR_PORT_PP_FD: response->id = FAKE_PRODUCER; break;
    case PDLB_COMMAND_GET_LDB_PORT_CQ_FD:
    case PDLB_COMMAND_GET_DIR_PORT_CQ_FD: response->id = FAKE_CONSUMER; break;
    case PDLB_COMMAND_ENQUEUE_DOMAIN_ALERT:
      pthread_mutex_lock(&fake->mutex);
      fake->has_alert = true;
      fake->alert = ((struct pdlb_enqueue_domain_alert_args *)args)->aux_alert_data;
      pthread_cond_broadcast(&fake->told);
      pthread_mutex_unlock(&fake->mutex);
      break;
    default: break;
  }
  return 0;
}

static int fake_request(void *context, int fd, uint32_t request, void *args) {
  struct fake *fake = context;
  struct pdlb_response *response = args;
  const uint32_t number = request & 0xFF;
  if (fd == FAKE_DOMAIN) return fake_domain_request(fake, number, response, args);
  if (number == PDLB_COMMAND_GET_DEVICE_VERSION) response->id = fake->version << 8;
  if (number == PDLB_COMMAND_QUERY_CQ_POLL_MODE) response->id = fake->poll_mode;
  if (number == PDLB_COMMAND_CREATE_SCHED_DOMAIN)
    ((struct pdlb_create_sched_domain_args *)args)->domain_fd = FAKE_DOMAIN;
  if (number == PDLB_COMMAND_GET_NUM_RESOURCES) ((struct pdlb_get_num_resources_args *)args)->num_dir_credits = 4096;
  return 0;
}

static int fake_map(void *context, int fd, size_t length, bool writable, void **address) {
  struct fake *fake = context;
  (void)length, (void)writable;
  *address = fd == FAKE_CONSUMER ? fake->consumer[fake->mapped++ % 4] : fake->producer;
  return 0;
}

static int fake_unmap(void *context, void *address, size_t length) {
  (void)context, (void)address, (void)length;
  return 0;
}

static int fake_read_alert(void *context, int fd, struct pdlb_domain_alert *alert) {
  struct fake *fake = context;
  (void)fd;
  pthread_mutex_lock(&fake->mutex);
  while (!fake->has_alert) pthread_cond_wait(&fake->told, &fake->mutex);
  fake->has_alert = false;
  *alert = (struct pdlb_domain_alert){PDLB_ALERT_USER, fake->alert};
  pthread_mutex_unlock(&fake->mutex);
  return 0;
}

static int fake_attribute(void *context, uint32_t number, const char *name, uint32_t *value) {
  (void)context, (void)number, (void)name, (void)value;
  return -ENOENT;
}

static int fake_event(void *context) {
  (void)context;
  return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void fake_store(void *context, void *producer, const struct pdlb_qe *line) {
  struct fake *fake = context;
  (void)producer;
  memcpy(fake->line[fake->lines++ % FAKE_LINES], line, sizeof fake->line[0]);
}

static const struct pdlb_system fake_system = {
    .open = fake_open,
    .close = fake_close,
    .close_on_exec = fake_close,
    .request = fake_request,
    .map = fake_map,
    .unmap = fake_unmap,
    .read_alert = fake_read_alert,
    .attribute = fake_attribute,
    .event = fake_event,
    .store = fake_store,
};

static inline void fake_init(struct fake *fake, uint32_t version, uint32_t poll_mode) {
  memset(fake, 0, sizeof *fake);
  fake->version = version;
  fake->poll_mode = poll_mode;
  pthread_mutex_init(&fake->mutex, NULL);
  pthread_cond_init(&fake->told, NULL);
}

/* The device gives the `nth` element of a ring, from 0, as it would. */
static inline void fake_give(struct fake *fake, uint32_t consumer, uint32_t depth, uint32_t nth, uint64_t data,
                             uint8_t sched) {
  const uint32_t ring = depth < PDLB_MIN_CQ_RING ? PDLB_MIN_CQ_RING : depth;
  const uint32_t stride = fake->poll_mode == PDLB_POLL_MODE_SPARSE ? PDLB_CQ_SPARSE_STRIDE : PDLB_QE_SIZE;
  struct pdlb_qe *slot = (struct pdlb_qe *)(void *)&fake->consumer[consumer][nth % ring * stride];
  *slot = (struct pdlb_qe){.data = data, .sched = sched, .misc = 0x5A, .command = 0};
  slot->command = (uint8_t)(nth / ring % 2 == 0 ? PDLB_QE_GEN : 0) | PDLB_QE_DEPTH_MASK;
}

#endif
