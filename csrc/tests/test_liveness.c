/* Consumers that only ever sleep, in queues and ports with the tightest limits: every element that can be had wakes
 * somebody, whatever it was that held it back. Nobody polls, so a wake-up that is lost is never made up for.
 *
 *   PDLB_LIVENESS_ROUNDS  random set-ups to try for each case (default 40)
 */
#include "traffic.h"

enum { QUEUES = 3, CONSUMERS = 5, PRODUCERS = 2 };

static struct life {
  struct rig rig;
  struct check_random random;
  struct traffic_count count;
  enum traffic_waiting waiting;
  uint8_t queues[QUEUES];
  bool ordered[QUEUES], atomic[QUEUES];
  uint32_t flows;
  struct pdlb_port *producers[PRODUCERS], *consumers[CONSUMERS];
  uint64_t seeds[CONSUMERS];
  char setting[512];
} life;

static void explain(void) {
  const struct pdlb_domain_stats stats = rig_stats(&life.rig);
  fprintf(stderr, "%s  enqueued %" PRIu64 ", scheduled %" PRIu64 ", credits free %" PRIu32 "\n", life.setting,
          stats.enqueued, stats.scheduled, stats.credits_free);
  for (int i = 0; i < QUEUES; i++)
    fprintf(stderr, "  queue %u: %d wait\n", life.queues[i], rig_depth(&life.rig, life.queues[i]));
  for (int i = 0; i < CONSUMERS; i++) {
    const struct pdlb_port_stats port = rig_port_stats(life.consumers[i]);
    fprintf(stderr, "  consumer %d: received %" PRIu64 ", in flight %" PRIu32 ", wakes %" PRIu64 "%s%s\n", i,
            port.received, port.in_flight, port.wakes, port.armed ? ", armed" : "", port.stalled ? ", stalled" : "");
  }
}

static void note(const char *format, uint32_t number) {
  const size_t used = strlen(life.setting);
  snprintf(life.setting + used, sizeof life.setting - used, format, number);
}

/* ---- traffic ---------------------------------------------------------------------------------------------------- */

static void *produce(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct check_random random = check_randomness(100 + me);
  for (uint32_t sent = 0; sent < life.count.each;) {
    struct pdlb_event events[8];
    uint32_t batch = 1 + check_below(&random, 8);
    if (batch > life.count.each - sent) batch = life.count.each - sent;
    for (uint32_t i = 0; i < batch; i++) {
      const uint32_t queue = check_below(&random, QUEUES);
      enum pdlb_sched type = life.ordered[queue] ? PDLB_SCHED_ORDERED : PDLB_SCHED_UNORDERED;
      if (life.atomic[queue] && check_below(&random, 4)) type = PDLB_SCHED_ATOMIC;
      events[i] = rig_event(life.queues[queue], type, check_below(&random, PDLB_PRIORITIES),
                            (uint16_t)check_below(&random, life.flows), traffic_data(me, sent + i));
    }
    traffic_send(life.producers[me], events, batch);
    sent += batch;
    traffic_dawdle(&random);
  }
  return NULL;
}

/* Nothing is held while it sleeps, or what waits behind it could wait for ever, and rightly. */
static void *consume(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct pdlb_port *port = life.consumers[me];
  struct check_random random = {life.seeds[me]};
  for (;;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    const int received = traffic_receive(port, events, 1 + check_below(&random, 6), life.waiting);
    if (received < 0) return NULL;
    for (int i = 0; i < received; i++) traffic_count_one(&life.count, events[i].data);
    for (uint32_t left = (uint32_t)received; left;) {
      const uint32_t part = 1 + check_below(&random, left);
      traffic_dawdle(&random);
      if (check_below(&random, 4))
        CHECK_EQ(pdlb_port_release(port, part), part);
      else
        pdlb_port_release_later(port, part);
      left -= part;
    }
  }
}

/* ---- set-ups ---------------------------------------------------------------------------------------------------- */

static uint32_t tight(uint32_t most) { return 1 + check_below(&life.random, most); }

static void open_queue(int index, enum pdlb_sharing sharing) {
  const bool ordered = check_below(&life.random, 3) == 0;
  const struct pdlb_ldb_queue_config config = {.sequence_numbers = ordered ? 64 : 0,
                                               .inflights = check_below(&life.random, 3) ? tight(4) : 0,
                                               .atomic_inflights = check_below(&life.random, 4) ? 64 : 0,
                                               .sharing = sharing};
  life.queues[index] = rig_queue_with(&life.rig, &config);
  life.ordered[index] = ordered;
  life.atomic[index] = config.atomic_inflights != 0;
  note(ordered ? "  ordered queue, inflights %" PRIu32 : "  queue, inflights %" PRIu32, config.inflights);
  note(life.atomic[index] ? ", atomic\n" : "\n", 0);
}

/* Every queue has a consumer, some have several. */
static void open_consumer(int index) {
  const struct pdlb_port_config config = {.cq_depth = 1u << check_below(&life.random, 4),
                                          .history_entries = tight(5),
                                          .release_on_recv = check_below(&life.random, 3) == 0};
  life.consumers[index] = rig_port_with(&life.rig, &config);
  life.seeds[index] = check_next(&life.random);
  note("  port, depth %" PRIu32, config.cq_depth);
  note(", history %" PRIu32 ", linked to", config.history_entries);
  for (int i = 0; i < QUEUES; i++) {
    if (i != index % QUEUES && check_below(&life.random, 2)) continue;
    rig_link(life.consumers[index], life.queues[i], check_below(&life.random, PDLB_PRIORITIES));
    note(" %" PRIu32, life.queues[i]);
  }
  note("\n", 0);
}

static void open_all(enum traffic_waiting waiting, enum pdlb_sharing sharing) {
  struct pdlb_domain_config config = rig_plenty;
  struct pdlb_error error = {0};
  life.setting[0] = 0;
  life.waiting = waiting;
  life.flows = tight(4);
  config.ldb_credits = tight(24);
  note("  credits %" PRIu32, config.ldb_credits);
  note(", flows %" PRIu32 "\n", life.flows);
  life.rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  /* No timer may come to the rescue; only even sharing must be able to pass somebody over. */
  if (sharing == PDLB_SHARE_PULL) CHECK_OK(pdlb_domain_set_external_clock(life.rig.domain, true, &error), error);
  for (int i = 0; i < QUEUES; i++) open_queue(i, sharing);
  for (int i = 0; i < CONSUMERS; i++) open_consumer(i);
  for (int i = 0; i < PRODUCERS; i++) life.producers[i] = rig_producer(&life.rig);
  traffic_count_open(&life.count, PRODUCERS, 400);
  check_explain_with(explain);
  rig_start(&life.rig);
}

static void close_all(void) {
  check_explain_with(NULL);
  for (int i = 0; i < PRODUCERS; i++) rig_close_port(life.producers[i]);
  for (int i = 0; i < CONSUMERS; i++) rig_close_port(life.consumers[i]);
  rig_close(&life.rig);
  traffic_count_close(&life.count);
}

static void run(enum traffic_waiting waiting, enum pdlb_sharing sharing) {
  life.random = check_randomness(0);
  setenv("PDLB_STRESS_PATIENCE", "10", 0);
  for (uint64_t round = check_setting("PDLB_LIVENESS_ROUNDS", 40); round; round--) {
    pthread_t producers[PRODUCERS], consumers[CONSUMERS];
    open_all(waiting, sharing);
    for (uintptr_t i = 0; i < CONSUMERS; i++) CHECK_EQ(pthread_create(&consumers[i], NULL, consume, (void *)i), 0);
    for (uintptr_t i = 0; i < PRODUCERS; i++) CHECK_EQ(pthread_create(&producers[i], NULL, produce, (void *)i), 0);
    traffic_await(&life.count, life.consumers, CONSUMERS);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(producers[i], NULL);
    for (int i = 0; i < CONSUMERS; i++) pthread_join(consumers[i], NULL);
    close_all();
  }
}

static void blocking_consumers_are_woken(void) { run(WAIT_BLOCKING, PDLB_SHARE_PULL); }
static void descriptors_become_readable(void) { run(WAIT_DESCRIPTOR, PDLB_SHARE_PULL); }
static void blocking_consumers_share_evenly(void) { run(WAIT_BLOCKING, PDLB_SHARE_EVEN); }
static void descriptors_share_evenly(void) { run(WAIT_DESCRIPTOR, PDLB_SHARE_EVEN); }

CHECK_MAIN(CASE(blocking_consumers_are_woken), CASE(descriptors_become_readable), CASE(blocking_consumers_share_evenly),
           CASE(descriptors_share_evenly))
