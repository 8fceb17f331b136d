/* A device with one domain, and short words for what tests do most: so that the body of a test is about its point. */
#ifndef PDLB_TESTS_RIG_H
#define PDLB_TESTS_RIG_H

#include <sched.h>

#include "check.h"
#include "pdlb.h"

struct rig {
  struct pdlb_device *device;
  struct pdlb_domain *domain;
};

/* A result that must be success; prints what the error says. */
#define CHECK_OK(result, error)                                                                                \
  do {                                                                                                         \
    const int check_result = (result);                                                                         \
    if (check_result < 0)                                                                                      \
      check_fail(__FILE__, __LINE__, "%s is %d: %s: %s", #result, check_result, (error).op ? (error).op : "?", \
                 (error).text);                                                                                \
  } while (0)

/* A result that must be this failure, told in full. */
#define CHECK_ERROR(result, expected, error)                                                                      \
  do {                                                                                                            \
    (error) = (struct pdlb_error){0};                                                                             \
    const int check_result = (result);                                                                            \
    if (check_result != (expected))                                                                               \
      check_fail(__FILE__, __LINE__, "%s is %d, expected %s (%d); it says: %s", #result, check_result, #expected, \
                 (expected), (error).text);                                                                       \
    CHECK_EQ((error).err, -check_result);                                                                         \
    CHECK((error).op && *(error).op);                                                                             \
    CHECK((error).text[0] && memchr((error).text, 0, sizeof(error).text));                                        \
  } while (0)

static const struct pdlb_domain_config rig_plenty = {.ldb_queues = 16,
                                                     .ldb_ports = 32,
                                                     .dir_ports = 32,
                                                     .ldb_credits = 4096,
                                                     .history_entries = 2048,
                                                     .atomic_inflights = 2048,
                                                     .sequence_slots = {16, 16}};

static inline struct rig rig_open_with(enum pdlb_limits limits, const struct pdlb_domain_config *config) {
  struct rig rig;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_device_open_software(limits, &rig.device, &error), error);
  CHECK_OK(pdlb_domain_create(rig.device, config, &rig.domain, &error), error);
  return rig;
}

static inline struct rig rig_open(void) { return rig_open_with(PDLB_LIMITS_HARDWARE, &rig_plenty); }

static inline void rig_start(const struct rig *rig) {
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_start(rig->domain, &error), error);
}

static inline void rig_stop(const struct rig *rig) {
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_stop(rig->domain, &error), error);
}

static inline void rig_close(const struct rig *rig) {
  CHECK_EQ(pdlb_domain_close(rig->domain), 0);
  CHECK_EQ(pdlb_device_close(rig->device), 0);
}

/* ---- queues and ports --------------------------------------------------------------------------------------- */

static inline uint8_t rig_queue_with(const struct rig *rig, const struct pdlb_ldb_queue_config *config) {
  struct pdlb_error error = {0};
  const int queue = pdlb_ldb_queue_create(rig->domain, config, &error);
  CHECK_OK(queue, error);
  CHECK_LE(queue, UINT8_MAX);
  return (uint8_t)queue;
}

/* Does atomic and unordered scheduling. */
static inline uint8_t rig_queue(const struct rig *rig) {
  return rig_queue_with(rig, &(struct pdlb_ldb_queue_config){.atomic_inflights = 64});
}

/* Does atomic and ordered scheduling. */
static inline uint8_t rig_ordered_queue(const struct rig *rig, uint32_t sequence_numbers) {
  return rig_queue_with(rig,
                        &(struct pdlb_ldb_queue_config){.sequence_numbers = sequence_numbers, .atomic_inflights = 64});
}

static inline struct pdlb_port *rig_port_with(const struct rig *rig, const struct pdlb_port_config *config) {
  struct pdlb_port *port;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_ldb_port_create(rig->domain, config, &port, &error), error);
  return port;
}

static inline void rig_link(struct pdlb_port *port, uint8_t queue, uint32_t priority) {
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_port_link(port, queue, priority, &error), error);
}

static inline void rig_unlink(struct pdlb_port *port, uint8_t queue) {
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_port_unlink(port, queue, &error), error);
}

/* A load-balanced port of depth 32 that may hold 64, linked to `queue`. */
static inline struct pdlb_port *rig_consumer(const struct rig *rig, uint8_t queue) {
  struct pdlb_port *port = rig_port_with(rig, &(struct pdlb_port_config){.cq_depth = 32});
  rig_link(port, queue, 0);
  return port;
}

static inline struct pdlb_port *rig_directed_port(const struct rig *rig, uint32_t queue, uint32_t depth) {
  struct pdlb_port *port;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_dir_port_create(rig->domain, &(struct pdlb_port_config){.cq_depth = depth}, queue, &port, &error),
           error);
  return port;
}

/* A port that only sends. */
static inline struct pdlb_port *rig_producer(const struct rig *rig) { return rig_directed_port(rig, PDLB_NONE, 8); }

static inline uint8_t rig_directed_queue(const struct rig *rig, uint32_t port) {
  struct pdlb_error error = {0};
  const int queue = pdlb_dir_queue_create(rig->domain, port, &error);
  CHECK_OK(queue, error);
  CHECK_LE(queue, UINT8_MAX);
  return (uint8_t)queue;
}

static inline int rig_depth(const struct rig *rig, uint8_t queue) {
  struct pdlb_error error = {0};
  const int depth = pdlb_ldb_queue_depth(rig->domain, queue, &error);
  CHECK_OK(depth, error);
  return depth;
}

static inline struct pdlb_domain_stats rig_stats(const struct rig *rig) {
  struct pdlb_domain_stats stats;
  CHECK_EQ(pdlb_domain_stats(rig->domain, &stats), 0);
  return stats;
}

static inline struct pdlb_port_stats rig_port_stats(const struct pdlb_port *port) {
  struct pdlb_port_stats stats;
  CHECK_EQ(pdlb_port_stats(port, &stats), 0);
  return stats;
}

static inline void rig_close_port(struct pdlb_port *port) { CHECK_EQ(pdlb_port_close(port), 0); }

/* ---- events ------------------------------------------------------------------------------------------------- */

static inline struct pdlb_event rig_event(uint8_t queue, enum pdlb_sched type, unsigned priority, uint16_t flow,
                                          uint64_t data) {
  return (struct pdlb_event){
      .data = data, .queue = queue, .sched = pdlb_sched_byte((unsigned)type, priority), .flow = flow};
}

/* Sends what must be taken whole. */
static inline void rig_send(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count) {
  enum pdlb_refusal why = PDLB_TAKEN;
  const uint32_t sent = pdlb_port_send(port, events, count, &why);
  if (sent != count) FAIL("%" PRIu32 " of %" PRIu32 " events were taken, refusal %d", sent, count, (int)why);
  CHECK_EQ(why, PDLB_TAKEN);
}

static inline void rig_send_one(struct pdlb_port *port, uint8_t queue, enum pdlb_sched type, unsigned priority,
                                uint16_t flow, uint64_t data) {
  const struct pdlb_event event = rig_event(queue, type, priority, flow, data);
  rig_send(port, &event, 1);
}

static inline void rig_forward(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count) {
  enum pdlb_refusal why = PDLB_TAKEN;
  const uint32_t sent = pdlb_port_forward(port, events, count, &why);
  if (sent != count) FAIL("%" PRIu32 " of %" PRIu32 " events were forwarded, refusal %d", sent, count, (int)why);
  CHECK_EQ(why, PDLB_TAKEN);
}

/* What is there now, without waiting. */
static inline uint32_t rig_poll(struct pdlb_port *port, struct pdlb_event *events, uint32_t max) {
  const int received = pdlb_port_recv(port, events, max, 0);
  CHECK_GE(received, 0);
  CHECK_LE(received, max);
  return (uint32_t)received;
}

/* Polls and finds exactly these data, in this order. */
#define CHECK_RECEIVES(port, ...)                                                                           \
  do {                                                                                                      \
    const uint64_t check_expected[] = {__VA_ARGS__};                                                        \
    rig_expect(__FILE__, __LINE__, (port), check_expected, sizeof check_expected / sizeof *check_expected); \
  } while (0)

static inline void rig_expect(const char *file, int line, struct pdlb_port *port, const uint64_t *expected,
                              size_t count) {
  struct pdlb_event events[64];
  const int received = pdlb_port_recv(port, events, 64, 0);
  if (received < 0) check_fail(file, line, "recv is %d", received);
  for (size_t i = 0; i < (size_t)received && i < count; i++)
    if (events[i].data != expected[i])
      check_fail(file, line, "event %zu of %d carries %" PRIu64 ", expected %" PRIu64, i, received, events[i].data,
                 expected[i]);
  if ((size_t)received != count) check_fail(file, line, "%d events received, expected %zu", received, count);
}

#define CHECK_RECEIVES_NOTHING(port)                \
  do {                                              \
    struct pdlb_event check_event;                  \
    CHECK_EQ(rig_poll((port), &check_event, 1), 0); \
  } while (0)

#endif
