/* One queue between producers and consumers, each with a port of its own, as bench_threads.c and bench_lines.c both
 * need it: what one times, the other traces.
 */
#ifndef PDLB_BENCH_PORTS_H
#define PDLB_BENCH_PORTS_H

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "pdlb.h"

enum { BENCH_MAX_BATCH = 256, BENCH_FLOWS = 1024 };

static inline void bench_require(int result, const struct pdlb_error *error) {
  if (result >= 0) return;
  fprintf(stderr, "%s: %s\n", error->op, error->text);
  exit(1);
}

static inline void bench_pin(unsigned processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/* Open a domain of its own, in memory that processes could share, with directed ports for the producers and others that
 * are linked to the one queue, which is returned in `queue`. It ends with the process. */
static inline struct pdlb_domain *bench_open(uint32_t producers, struct pdlb_port **producer, uint32_t consumers,
                                             struct pdlb_port **consumer, uint8_t *queue) {
  struct pdlb_error error = {0};
  const struct pdlb_domain_config config = {.ldb_queues = 1,
                                            .ldb_ports = consumers,
                                            .dir_ports = producers,
                                            .ldb_credits = 1024,
                                            .history_entries = 2 * BENCH_MAX_BATCH * consumers,
                                            .atomic_inflights = 2048,
                                            .shared = true};
  const struct pdlb_port_config depth = {.cq_depth = BENCH_MAX_BATCH, .history_entries = 2 * BENCH_MAX_BATCH};
  const struct pdlb_ldb_queue_config queue_config = {.atomic_inflights = 2048};
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  bench_require(pdlb_device_open_software(PDLB_LIMITS_LARGE, &device, &error), &error);
  bench_require(pdlb_domain_create(device, &config, &domain, &error), &error);
  const int id = pdlb_ldb_queue_create(domain, &queue_config, &error);
  bench_require(id, &error);
  *queue = (uint8_t)id;
  for (uint32_t i = 0; i < producers; i++)
    bench_require(pdlb_dir_port_create(domain, &depth, PDLB_NONE, &producer[i], &error), &error);
  for (uint32_t i = 0; i < consumers; i++) {
    bench_require(pdlb_ldb_port_create(domain, &depth, &consumer[i], &error), &error);
    bench_require(pdlb_port_link(consumer[i], *queue, 0, &error), &error);
  }
  bench_require(pdlb_domain_start(domain, &error), &error);
  return domain;
}

/* What is sent: all flows in turn, and a batch more. */
static inline void bench_fill(struct pdlb_event *events, uint8_t queue, enum pdlb_sched type) {
  for (uint32_t i = 0; i < BENCH_FLOWS + BENCH_MAX_BATCH; i++)
    events[i] = (struct pdlb_event){
        .queue = queue, .sched = pdlb_sched_byte(type, 0), .flow = (uint16_t)(i * 37 % BENCH_FLOWS)};
}

#endif
