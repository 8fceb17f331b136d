/* Threads that send and receive, for the stress tests: what they share, how consumers wait, and the counts that must
 * come out. Set up with traffic_open, run with traffic_run, and every event was received exactly once or the test has
 * failed.
 */
#ifndef PDLB_TESTS_TRAFFIC_H
#define PDLB_TESTS_TRAFFIC_H

#include <poll.h>

#include "rig.h"

enum { TRAFFIC_THREADS = 16, TRAFFIC_BATCH = 64 };

/* How a consumer finds out that there is work. */
enum traffic_waiting { WAIT_POLLING, WAIT_BLOCKING, WAIT_DESCRIPTOR, WAIT_KINDS };

/* An event's data: who sent it, and its number among that sender's (or flow's). */
static inline uint64_t traffic_data(uint32_t producer, uint32_t number) { return (uint64_t)producer << 32 | number; }
static inline uint32_t traffic_producer(uint64_t data) { return (uint32_t)(data >> 32); }
static inline uint32_t traffic_number(uint64_t data) { return (uint32_t)data; }

struct traffic_count {
  uint32_t producers, each; /* events that every producer sends */
  _Atomic uint8_t *seen;    /* how often each was received */
  _Atomic uint64_t received;
  _Atomic bool over; /* all were */
};

static inline void traffic_count_open(struct traffic_count *count, uint32_t producers, uint64_t total) {
  count->producers = producers;
  count->each = (uint32_t)(total / producers);
  count->seen = calloc((size_t)producers * count->each, sizeof *count->seen);
  CHECK(count->seen);
  atomic_store(&count->received, 0);
  atomic_store(&count->over, false);
}

static inline uint64_t traffic_total(const struct traffic_count *count) {
  return (uint64_t)count->producers * count->each;
}

/* Received, for the first time. True for the very last one. */
static inline bool traffic_count_one(struct traffic_count *count, uint64_t data) {
  const uint32_t producer = traffic_producer(data), number = traffic_number(data);
  CHECK_LT(producer, count->producers);
  CHECK_LT(number, count->each);
  const uint8_t before =
      atomic_fetch_add_explicit(&count->seen[(size_t)producer * count->each + number], 1, memory_order_relaxed);
  if (before) FAIL("event %" PRIu32 " of producer %" PRIu32 " was received %d times", number, producer, before + 1);
  return atomic_fetch_add_explicit(&count->received, 1, memory_order_relaxed) + 1 == traffic_total(count);
}

static inline void traffic_count_close(struct traffic_count *count) {
  CHECK_EQ(atomic_load(&count->received), traffic_total(count));
  free(count->seen);
}

/* Waits until everything was received; fails when nothing more comes. Then ends every wait. */
static inline void traffic_await(struct traffic_count *count, struct pdlb_port *const *consumers, uint32_t many) {
  const uint64_t patience_ns = check_setting("PDLB_STRESS_PATIENCE", 20) * 1000000000u;
  uint64_t last = 0, since = pdlb_now();
  for (;;) {
    const uint64_t received = atomic_load(&count->received);
    if (received == traffic_total(count)) break;
    if (received != last) {
      last = received;
      since = pdlb_now();
      check_still_alive();
    } else if (pdlb_now() - since > patience_ns) {
      FAIL("stuck: %" PRIu64 " of %" PRIu64 " events were received and no more come", received, traffic_total(count));
    }
    const struct timespec moment = {0, 2000000};
    nanosleep(&moment, NULL);
  }
  atomic_store(&count->over, true);
  for (uint32_t i = 0; i < many; i++) pdlb_port_cancel(consumers[i]);
}

/* Sends all, as credits allow. */
static inline void traffic_send(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count) {
  while (count) {
    enum pdlb_refusal why = PDLB_TAKEN;
    const uint32_t sent = pdlb_port_send(port, events, count, &why);
    if (sent < count && why != PDLB_NO_CREDIT) FAIL("send was refused: %d", (int)why);
    if (!sent) sched_yield();
    events += sent;
    count -= sent;
  }
}

static inline void traffic_forward(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count) {
  while (count) {
    enum pdlb_refusal why = PDLB_TAKEN;
    const uint32_t sent = pdlb_port_forward(port, events, count, &why);
    if (sent < count && why != PDLB_NO_CREDIT) FAIL("forward was refused: %d", (int)why);
    if (!sent) sched_yield();
    events += sent;
    count -= sent;
  }
}

/* Some events, or -ECANCELED when all is over. */
static inline int traffic_receive(struct pdlb_port *port, struct pdlb_event *events, uint32_t max,
                                  enum traffic_waiting waiting) {
  for (;;) {
    const int received = pdlb_port_recv(port, events, max, waiting == WAIT_BLOCKING ? PDLB_FOREVER : 0);
    if (received == -EINTR) continue;
    if (received) {
      if (received < 0) CHECK_EQ(received, -ECANCELED);
      return received;
    }
    CHECK(waiting != WAIT_BLOCKING);
    if (waiting == WAIT_POLLING) {
      sched_yield();
      continue;
    }
    struct pdlb_error error = {0};
    const int fd = pdlb_port_fd(port, &error);
    CHECK_OK(fd, error);
    struct pollfd descriptor = {.fd = fd, .events = POLLIN};
    pdlb_port_parked(port, true);
    CHECK_GE(poll(&descriptor, 1, -1), 0);
    pdlb_port_parked(port, false);
  }
}

/* A moment of work, now and then long enough for others to overtake. */
static inline void traffic_dawdle(struct check_random *random) {
  const uint32_t kind = check_below(random, 16);
  if (kind == 0) sched_yield();
  if (kind < 4)
    for (volatile uint32_t spin = check_below(random, 300); spin; spin--) continue;
}

#endif
