/* The model in one process: consumer queues in ordinary memory, descriptors that are always held. */
#ifndef PDLB_EMULATE_TESTS_MODEL_H
#define PDLB_EMULATE_TESTS_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulate/internal.h"

#define CHECK(condition)                                                                    \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      fprintf(stderr, "%s:%d: %s (seed %u)\n", __FILE__, __LINE__, #condition, model_seed); \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)

static unsigned model_seed;
static uint64_t model_random_state;

/* The same numbers from the same seed on every machine. */
static inline uint32_t model_random(uint32_t below) {
  model_random_state = model_random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(model_random_state >> 33) % below;
}

static inline void model_seed_from(int count, char **arguments) {
  model_seed = count > 1 ? (unsigned)strtoul(arguments[1], NULL, 10) : (unsigned)time(NULL);
  model_random_state = model_seed;
  printf("seed %u\n", model_seed);
}

static _Alignas(64) char model_queues[NUM_PORTS][PDLB_CQ_SIZE];
static uint64_t model_serials[NUM_PORTS];
static bool model_closed[PDLB_NUM_DOMAINS];
static unsigned model_complaints;
static unsigned model_signals;

static void *model_consumer_queue(void *context, unsigned device, unsigned port, uint64_t serial) {
  (void)context;
  (void)device;
  if (model_serials[port] != serial) memset(model_queues[port], 0, sizeof model_queues[port]);
  model_serials[port] = serial;
  return model_queues[port];
}

static void model_signal(void *context, unsigned device, unsigned port, uint64_t serial, uint32_t process,
                         uint32_t fd) {
  (void)context, (void)device, (void)port, (void)serial, (void)process, (void)fd;
  model_signals++;
}

static bool model_referenced(void *context, unsigned device, unsigned domain) {
  (void)context, (void)device;
  return !model_closed[domain];
}

static void model_gone(void *context, unsigned device, unsigned domain) {
  (void)context, (void)device;
  model_closed[domain] = false;
}

static void model_misuse(void *context, unsigned device, unsigned port, const char *text) {
  (void)context, (void)device, (void)port, (void)text;
  model_complaints++;
}

static const struct emulation_host model_host = {
    .consumer_queue = model_consumer_queue,
    .signal_eventfd = model_signal,
    .domain_referenced = model_referenced,
    .domain_gone = model_gone,
    .misuse = model_misuse,
};

static inline struct emulation model_make(uint32_t version) {
  struct emulation emulation;
  struct region *region = calloc(1, emulate_region_size(1));
  if (region == NULL) abort();
  emulate_format(region, 1, version, false);
  emulate_attach(&emulation, region, &model_host, NULL);
  memset(model_closed, 0, sizeof model_closed);
  memset(model_serials, 0, sizeof model_serials);
  memset(model_queues, 0, sizeof model_queues);
  return emulation;
}

/* With a descriptor, so to speak: until then its maker keeps it. */
static inline int model_create_domain(struct emulation *emulation, struct pdlb_create_sched_domain_args *args) {
  const int result = emulate_device_command(emulation, 0, PDLB_COMMAND_CREATE_SCHED_DOMAIN, args);
  if (result == 0) emulate_name_domain(emulation, 0, args->response.id, 1 + args->response.id);
  return result;
}

static inline void model_drop(struct emulation *emulation) { free(emulation->region); }

/* A consumer's place in its queue. */
struct model_reader {
  uint32_t depth, index;
  uint8_t generation;
};

static inline bool model_receive(struct model_reader *reader, unsigned port, struct pdlb_qe *qe) {
  memcpy(qe, model_queues[port] + (size_t)reader->index * PDLB_CQ_SPARSE_STRIDE, sizeof *qe);
  if ((qe->command & PDLB_QE_GEN) != reader->generation) return false;
  if (++reader->index == (reader->depth > 8 ? reader->depth : 8)) {
    reader->index = 0;
    reader->generation ^= 1;
  }
  return true;
}

#endif
