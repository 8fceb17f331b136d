/* Four ports that share a queue evenly, by a clock that the test moves: the engine alone, over memory of the test. */
#ifndef PDLB_TESTS_CLOCKED_H
#define PDLB_TESTS_CLOCKED_H

#include <stdlib.h>

#include "check.h"
#include "engine.h"
#include "region.h"

enum { PORTS = 4, SHARE = 10, BATCH = 256 };

#define GRACE 20000000u
#define QUARTER (GRACE / 4 + 1)

static struct circle {
  struct pdlb_engine engine;
  struct pdlb_engine_user users[PORTS], producer;
  uint32_t queue;
  void *region;
} circle;

static uint64_t now = 1;
static uint32_t woken[PORTS];

static void note_wake(void *context, uint32_t port, uint32_t late, uint64_t grace) {
  (void)context, (void)late, (void)grace;
  if (port < PORTS) woken[port]++;
}

static uint64_t tell_time(void *context) {
  (void)context;
  return now;
}

static bool never_wait(void *context, uint32_t owner, uint32_t times) {
  (void)context, (void)owner, (void)times;
  FAIL("a lock is held in a test of one thread");
  return false;
}

static const struct pdlb_engine_host host = {.wake = note_wake, .now = tell_time, .relax = never_wait};

static void open_circle(void) {
  const struct pdlb_engine_config config = {.ldb_queues = 1,
                                            .ldb_ports = PORTS,
                                            .dir_queues = 1,
                                            .dir_ports = 1,
                                            .credits = 1024,
                                            .history_entries = 4096,
                                            .order_slots = 1};
  const struct pdlb_ldb_queue_config queue = {.sharing = PDLB_SHARE_EVEN, .grace_ns = GRACE};
  const char *why = NULL;
  const size_t size = (pdlb_engine_size(&config) + 4095) & ~(size_t)4095;
  circle.region = aligned_alloc(4096, size);
  CHECK(circle.region);
  memset(circle.region, 0, size);
  memset(woken, 0, sizeof woken);
  pdlb_engine_format(circle.region, &config);
  pdlb_engine_attach(&circle.engine, circle.region, &host, NULL, 1);
  pdlb_engine_external_clock(&circle.engine, true);
  const int id = pdlb_engine_ldb_queue_create(&circle.engine, &queue, &why);
  CHECK_GE(id, 0);
  circle.queue = pdlb_engine_queue_index(&circle.engine, (uint32_t)id, false);
  for (uint32_t i = 0; i < PORTS; i++) {
    const struct pdlb_port_config port = {.cq_depth = BATCH, .history_entries = 1024};
    const int made = pdlb_engine_port_create(&circle.engine, &port, false, PDLB_NONE, &why);
    CHECK_EQ(made, (int)i);
    CHECK_GE(pdlb_engine_link(&circle.engine, i, circle.queue, 0, &why), 0);
    pdlb_engine_use(&circle.engine, i, &circle.users[i]);
  }
  const struct pdlb_port_config port = {.cq_depth = 8};
  const int made = pdlb_engine_port_create(&circle.engine, &port, true, PDLB_NONE, &why);
  CHECK_GE(made, 0);
  pdlb_engine_use(&circle.engine, pdlb_engine_port_index(&circle.engine, (uint32_t)made, true), &circle.producer);
  CHECK_GE(pdlb_engine_start(&circle.engine, &why), 0);
}

static void close_circle(void) { free(circle.region); }

static void send(uint32_t count) {
  const struct pdlb_event event = {.queue = (uint8_t)circle.queue, .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0)};
  enum pdlb_refusal why;
  for (uint32_t i = 0; i < count; i++) CHECK_EQ(pdlb_engine_send(&circle.producer, &event, 1, &why), 1);
}

/* What it got, and when it is to look again if that is nothing. */
static inline uint32_t receive_or(uint32_t port, uint32_t most, uint64_t *retry_at) {
  struct pdlb_event events[BATCH];
  *retry_at = PDLB_FOREVER;
  return pdlb_engine_schedule(&circle.users[port], events, most, retry_at);
}

static inline uint32_t receive(uint32_t port, uint32_t most) {
  uint64_t retry_at;
  return receive_or(port, most, &retry_at);
}

static inline bool is_stalled(uint32_t port) {
  struct pdlb_port_stats stats;
  pdlb_engine_port_stats(&circle.engine, port, &stats);
  return stats.stalled;
}

/* As an event loop that sleeps: it has looked, and can be told. */
static inline void fall_asleep(uint32_t port) {
  pdlb_engine_arm(&circle.engine, port);
  pdlb_engine_presence(&circle.engine, port, PDLB_PARKED);
}

static inline uint32_t waiting(void) { return (uint32_t)pdlb_engine_depth(&circle.engine, circle.queue); }

#endif
