/* Many producers and many consumers at once: every event is received exactly once, atomic flows are never on two
 * ports at a time and keep their order, directed queues keep theirs.
 *
 *   PDLB_STRESS_EVENTS     events per case (default 40000; 1e7 for the long form)
 *   PDLB_STRESS_PRODUCERS  (4)
 *   PDLB_STRESS_CONSUMERS  (4)
 *
 * The oracle for atomic flows has no lock: consumers keep each flow's next number in plain memory. If two ports had
 * the flow at once, the check itself would tear, and ThreadSanitizer would see it.
 */
#include "traffic.h"

enum { FLOWS = 512 };

/* How a consumer completes what it received. */
enum completing { COMPLETE_BATCH, COMPLETE_IN_PARTS, COMPLETE_ON_RECV, COMPLETE_LATER, COMPLETE_KINDS };

static struct stress {
  struct rig rig;
  struct traffic_count count;
  enum pdlb_sched type;
  uint8_t queue;
  uint8_t queues[TRAFFIC_THREADS]; /* directed: one for each consumer */
  uint32_t consumer_count;
  struct pdlb_port *producers[TRAFFIC_THREADS], *consumers[TRAFFIC_THREADS];
  uint32_t expected[FLOWS]; /* plain on purpose: guarded by nothing but atomic scheduling */
} stress;

static void explain(void) {
  const struct pdlb_domain_stats stats = rig_stats(&stress.rig);
  fprintf(stderr,
          "  enqueued %" PRIu64 ", scheduled %" PRIu64 ", queued %" PRIu32 ", credits free %" PRIu32 ", wakes %" PRIu64
          ", rewakes %" PRIu64 "\n",
          stats.enqueued, stats.scheduled, stats.queued, stats.credits_free, stats.wakes, stats.rewakes);
  for (uint32_t i = 0; i < stress.consumer_count; i++) {
    const struct pdlb_port_stats port = rig_port_stats(stress.consumers[i]);
    fprintf(stderr,
            "  consumer %" PRIu32 ": received %" PRIu64 ", released %" PRIu64 ", in flight %" PRIu32 ", wakes %" PRIu64
            "%s%s\n",
            i, port.received, port.released, port.in_flight, port.wakes, port.armed ? ", armed" : "",
            port.stalled ? ", stalled" : "");
  }
}

/* ---- producers -------------------------------------------------------------------------------------------------- */

/* Each flow belongs to one producer, so that its events have an order: opaque counts within the flow. */
static void *produce(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument, producers = stress.count.producers;
  struct check_random random = check_randomness(100 + me);
  uint16_t next_of_flow[FLOWS] = {0};
  for (uint32_t sent = 0; sent < stress.count.each;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    uint32_t batch = 1 + check_below(&random, TRAFFIC_BATCH);
    if (batch > stress.count.each - sent) batch = stress.count.each - sent;
    for (uint32_t i = 0; i < batch; i++) {
      const uint32_t own_flows = FLOWS / producers, skewed = check_below(&random, 4) ? own_flows : 4;
      const uint16_t flow = (uint16_t)(me + producers * check_below(&random, skewed));
      const uint32_t consumer = check_below(&random, stress.consumer_count);
      const bool directed = stress.type == PDLB_SCHED_DIRECTED;
      events[i] = rig_event(directed ? stress.queues[consumer] : stress.queue, stress.type, flow % PDLB_PRIORITIES,
                            flow, traffic_data(me, sent + i));
      if (directed) events[i].sched = pdlb_sched_byte(PDLB_SCHED_DIRECTED, 0);
      events[i].opaque = next_of_flow[flow]++;
    }
    traffic_send(stress.producers[me], events, batch);
    sent += batch;
    traffic_dawdle(&random);
  }
  return NULL;
}

/* ---- consumers -------------------------------------------------------------------------------------------------- */

static void check_flow(const struct pdlb_event *event) {
  const uint16_t expected = (uint16_t)stress.expected[event->flow];
  if (event->opaque != expected)
    FAIL("flow %u: event %u came, %u was due: the flow is on two ports at once, or its order is broken", event->flow,
         event->opaque, expected);
  stress.expected[event->flow]++;
}

/* Directed: each producer's events come to this consumer in the order in which they were sent. */
static void check_directed(uint32_t last[TRAFFIC_THREADS], const struct pdlb_event *event) {
  const uint32_t producer = traffic_producer(event->data), number = traffic_number(event->data) + 1;
  CHECK_GT(number, last[producer]);
  last[producer] = number;
}

static void complete(struct pdlb_port *port, enum completing how, uint32_t count, struct check_random *random) {
  switch (how) {
    case COMPLETE_BATCH: CHECK_EQ(pdlb_port_release(port, count), count); break;
    case COMPLETE_IN_PARTS:
      while (count) {
        const uint32_t part = 1 + check_below(random, count);
        CHECK_EQ(pdlb_port_release(port, part), part);
        traffic_dawdle(random);
        count -= part;
      }
      break;
    case COMPLETE_LATER: pdlb_port_release_later(port, count); break;
    default: break;
  }
}

static void *consume(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct pdlb_port *port = stress.consumers[me];
  struct check_random random = check_randomness(200 + me);
  uint32_t last[TRAFFIC_THREADS] = {0};
  for (;;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    const enum traffic_waiting waiting = (enum traffic_waiting)check_below(&random, WAIT_KINDS);
    const int received = traffic_receive(port, events, 1 + check_below(&random, TRAFFIC_BATCH), waiting);
    if (received < 0) return NULL;
    for (int i = 0; i < received; i++) {
      if (stress.type == PDLB_SCHED_ATOMIC) check_flow(&events[i]);
      if (stress.type == PDLB_SCHED_DIRECTED) check_directed(last, &events[i]);
      traffic_count_one(&stress.count, events[i].data);
      traffic_dawdle(&random);
    }
    if (stress.type != PDLB_SCHED_DIRECTED)
      complete(port, (enum completing)(me % COMPLETE_KINDS), (uint32_t)received, &random);
  }
}

/* ---- observer -------------------------------------------------------------------------------------------------- */

/* Numbers read while everybody works are each true for some moment: none negative, none beyond its limit, and what is
 * counted never goes back. */
static void *observe(void *credits) {
  uint64_t enqueued = 0, scheduled = 0;
  while (!atomic_load(&stress.count.over)) {
    const struct pdlb_domain_stats stats = rig_stats(&stress.rig);
    CHECK_LE(stats.scheduled, stats.enqueued);
    CHECK_GE(stats.enqueued, enqueued);
    CHECK_GE(stats.scheduled, scheduled);
    CHECK_LE(stats.enqueued, traffic_total(&stress.count));
    CHECK_LE(stats.credits_free, (uint32_t)(uintptr_t)credits);
    enqueued = stats.enqueued;
    scheduled = stats.scheduled;
    if (stress.type != PDLB_SCHED_DIRECTED) CHECK_GE(rig_depth(&stress.rig, stress.queue), 0);
    for (uint32_t i = 0; i < stress.consumer_count; i++) {
      const struct pdlb_port_stats port = rig_port_stats(stress.consumers[i]);
      CHECK_LE(port.released, port.received);
      CHECK_LE(port.in_flight, 128);
    }
    sched_yield();
  }
  return NULL;
}

/* ---- cases ------------------------------------------------------------------------------------------------------ */

static void open_consumer(uint32_t me, enum pdlb_sharing sharing) {
  if (stress.type == PDLB_SCHED_DIRECTED) {
    stress.queues[me] = rig_directed_queue(&stress.rig, PDLB_NONE);
    stress.consumers[me] = rig_directed_port(&stress.rig, stress.queues[me], 64);
    return;
  }
  stress.consumers[me] = rig_port_with(
      &stress.rig, &(struct pdlb_port_config){.cq_depth = 64,
                                              .history_entries = sharing == PDLB_SHARE_EVEN ? 16 : 128,
                                              .release_on_recv = me % COMPLETE_KINDS == COMPLETE_ON_RECV});
  rig_link(stress.consumers[me], stress.queue, 0);
}

static void open_all(enum pdlb_sched type, enum pdlb_sharing sharing, uint32_t credits) {
  struct pdlb_domain_config config = rig_plenty;
  const uint32_t producers = (uint32_t)check_setting("PDLB_STRESS_PRODUCERS", 4);
  config.ldb_credits = credits;
  memset(&stress, 0, sizeof stress);
  stress.type = type;
  stress.consumer_count = (uint32_t)check_setting("PDLB_STRESS_CONSUMERS", 4);
  CHECK_LE(producers, TRAFFIC_THREADS);
  CHECK_LE(stress.consumer_count, TRAFFIC_THREADS);
  traffic_count_open(&stress.count, producers, check_setting("PDLB_STRESS_EVENTS", 40000));
  stress.rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  check_explain_with(explain);
  if (type != PDLB_SCHED_DIRECTED)
    stress.queue = rig_queue_with(
        &stress.rig, &(struct pdlb_ldb_queue_config){.sequence_numbers = type == PDLB_SCHED_ORDERED ? 128 : 0,
                                                     .atomic_inflights = type == PDLB_SCHED_ATOMIC ? 256 : 0,
                                                     .sharing = sharing});
  for (uint32_t i = 0; i < stress.consumer_count; i++) open_consumer(i, sharing);
  for (uint32_t i = 0; i < producers; i++) stress.producers[i] = rig_producer(&stress.rig);
  rig_start(&stress.rig);
}

static void close_all(void) {
  const struct pdlb_domain_stats stats = rig_stats(&stress.rig);
  CHECK_EQ(stats.queued, 0);
  CHECK_EQ(stats.enqueued, traffic_total(&stress.count));
  CHECK_EQ(stats.scheduled, traffic_total(&stress.count));
  for (uint32_t i = 0; i < stress.count.producers; i++) rig_close_port(stress.producers[i]);
  for (uint32_t i = 0; i < stress.consumer_count; i++) rig_close_port(stress.consumers[i]);
  check_explain_with(NULL);
  rig_close(&stress.rig);
  traffic_count_close(&stress.count);
}

static void run(enum pdlb_sched type, enum pdlb_sharing sharing, uint32_t credits) {
  pthread_t producers[TRAFFIC_THREADS], consumers[TRAFFIC_THREADS], observer;
  check_randomness(0); /* the seed is drawn before there are threads */
  open_all(type, sharing, credits);
  CHECK_EQ(pthread_create(&observer, NULL, observe, (void *)(uintptr_t)credits), 0);
  for (uintptr_t i = 0; i < stress.consumer_count; i++)
    CHECK_EQ(pthread_create(&consumers[i], NULL, consume, (void *)i), 0);
  for (uintptr_t i = 0; i < stress.count.producers; i++)
    CHECK_EQ(pthread_create(&producers[i], NULL, produce, (void *)i), 0);
  traffic_await(&stress.count, stress.consumers, stress.consumer_count);
  for (uint32_t i = 0; i < stress.count.producers; i++) pthread_join(producers[i], NULL);
  for (uint32_t i = 0; i < stress.consumer_count; i++) pthread_join(consumers[i], NULL);
  pthread_join(observer, NULL);
  close_all();
}

static void unordered_exactly_once(void) { run(PDLB_SCHED_UNORDERED, PDLB_SHARE_PULL, 4096); }
static void atomic_flows_on_one_port(void) { run(PDLB_SCHED_ATOMIC, PDLB_SHARE_PULL, 4096); }
static void ordered_exactly_once(void) { run(PDLB_SCHED_ORDERED, PDLB_SHARE_PULL, 4096); }
static void directed_in_order(void) { run(PDLB_SCHED_DIRECTED, PDLB_SHARE_PULL, 4096); }
static void unordered_with_few_credits(void) { run(PDLB_SCHED_UNORDERED, PDLB_SHARE_PULL, 16); }
static void atomic_with_few_credits(void) { run(PDLB_SCHED_ATOMIC, PDLB_SHARE_PULL, 16); }
static void unordered_shared_evenly(void) { run(PDLB_SCHED_UNORDERED, PDLB_SHARE_EVEN, 4096); }
static void atomic_shared_evenly(void) { run(PDLB_SCHED_ATOMIC, PDLB_SHARE_EVEN, 4096); }

CHECK_MAIN(CASE(unordered_exactly_once), CASE(atomic_flows_on_one_port), CASE(ordered_exactly_once),
           CASE(directed_in_order), CASE(unordered_with_few_credits), CASE(atomic_with_few_credits),
           CASE(unordered_shared_evenly), CASE(atomic_shared_evenly))
