/* Two stages: four workers receive from an ordered queue and forward after random delays. At the second queue the
 * order of arrival at the first is restored, whatever kind of queue it is.
 *
 *   PDLB_STRESS_EVENTS  events per case (default 40000)
 *
 * Built with the engine's reordering taken out, these cases must fail.
 */
#include "traffic.h"

/* WINDOW: events under way at once. Fewer than there are credits, so that a worker can always forward: if producers
 * took the last credit, nobody could move any more, here as on the device. */
enum { WORKERS = 4, PRODUCERS = 2, SINKS = 2, WINDOW = 2048 };

/* What becomes of an event at a worker. */
enum fate { FATE_FORWARD, FATE_DROP };

static struct pipeline {
  struct rig rig;
  struct traffic_count count;
  _Atomic uint64_t sent;
  uint8_t first, second;
  enum pdlb_sched second_type;
  uint32_t priorities;
  bool dropping; /* workers release some events instead of forwarding them */
  uint32_t sink_count;
  struct pdlb_port *producers[PRODUCERS], *workers[WORKERS], *sinks[SINKS];
  uint32_t last[PRODUCERS][PDLB_PRIORITIES]; /* plain: the second queue has one port, or one atomic flow for each */
} pipeline;

/* Not random, so that the sink knows what must be missing. */
static enum fate fate_of(uint64_t data) {
  return pipeline.dropping && traffic_number(data) % 7 == 3 ? FATE_DROP : FATE_FORWARD;
}

static void explain(void) {
  const struct pdlb_domain_stats stats = rig_stats(&pipeline.rig);
  fprintf(stderr, "  enqueued %" PRIu64 ", scheduled %" PRIu64 ", queued %" PRIu32 ", credits free %" PRIu32 "\n",
          stats.enqueued, stats.scheduled, stats.queued, stats.credits_free);
  for (uint32_t i = 0; i < WORKERS + pipeline.sink_count; i++) {
    const bool sink = i >= WORKERS;
    const struct pdlb_port_stats port = rig_port_stats(sink ? pipeline.sinks[i - WORKERS] : pipeline.workers[i]);
    fprintf(stderr, "  %s: received %" PRIu64 ", sent %" PRIu64 ", in flight %" PRIu32 "%s\n", sink ? "sink" : "worker",
            port.received, port.sent, port.in_flight, port.armed ? ", armed" : "");
  }
}

static void *produce(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct check_random random = check_randomness(100 + me);
  for (uint32_t sent = 0; sent < pipeline.count.each;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    uint32_t batch = 1 + check_below(&random, TRAFFIC_BATCH);
    if (batch > pipeline.count.each - sent) batch = pipeline.count.each - sent;
    for (uint32_t i = 0; i < batch; i++)
      events[i] = rig_event(pipeline.first, PDLB_SCHED_ORDERED, check_below(&random, pipeline.priorities), (uint16_t)me,
                            traffic_data(me, sent + i));
    while (atomic_load(&pipeline.sent) - atomic_load(&pipeline.count.received) > WINDOW) sched_yield();
    traffic_send(pipeline.producers[me], events, batch);
    atomic_fetch_add(&pipeline.sent, batch);
    sent += batch;
    traffic_dawdle(&random);
  }
  return NULL;
}

static void pass_on(struct pdlb_port *port, struct pdlb_event *events, uint32_t count, struct check_random *random) {
  while (count) {
    uint32_t run = 1;
    const enum fate fate = fate_of(events->data);
    const uint32_t most = 1 + check_below(random, 8);
    while (run < count && run < most && fate_of(events[run].data) == fate) run++;
    traffic_dawdle(random);
    if (fate == FATE_DROP) {
      CHECK_EQ(pdlb_port_release(port, run), run);
    } else {
      for (uint32_t i = 0; i < run; i++) {
        events[i].queue = pipeline.second;
        events[i].sched = pdlb_sched_byte((unsigned)pipeline.second_type, pdlb_event_priority(&events[i]));
      }
      traffic_forward(port, events, run);
    }
    events += run;
    count -= run;
  }
}

static void *work(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct check_random random = check_randomness(200 + me);
  for (;;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    const enum traffic_waiting waiting = (enum traffic_waiting)check_below(&random, WAIT_KINDS);
    const int received = traffic_receive(pipeline.workers[me], events, 1 + check_below(&random, 8), waiting);
    if (received < 0) return NULL;
    for (int i = 0; i < received; i++)
      if (fate_of(events[i].data) == FATE_DROP) traffic_count_one(&pipeline.count, events[i].data);
    pass_on(pipeline.workers[me], events, (uint32_t)received, &random);
  }
}

static void check_order(const struct pdlb_event *event) {
  const uint32_t producer = traffic_producer(event->data), number = traffic_number(event->data) + 1;
  uint32_t *last = &pipeline.last[producer][pdlb_event_priority(event)];
  if (number <= *last)
    FAIL("producer %" PRIu32 ", priority %u: event %" PRIu32 " came after event %" PRIu32, producer,
         pdlb_event_priority(event), number - 1, *last - 1);
  *last = number;
}

static void *sink(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct check_random random = check_randomness(300 + me);
  for (;;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    const enum traffic_waiting waiting = (enum traffic_waiting)check_below(&random, WAIT_KINDS);
    const int received = traffic_receive(pipeline.sinks[me], events, TRAFFIC_BATCH, waiting);
    if (received < 0) return NULL;
    for (int i = 0; i < received; i++) {
      CHECK(fate_of(events[i].data) == FATE_FORWARD);
      check_order(&events[i]);
      traffic_count_one(&pipeline.count, events[i].data);
    }
    if (!pdlb_port_directed(pipeline.sinks[me])) pdlb_port_release(pipeline.sinks[me], (uint32_t)received);
  }
}

static void open_second_stage(void) {
  pipeline.sink_count = pipeline.second_type == PDLB_SCHED_ATOMIC ? SINKS : 1;
  if (pipeline.second_type == PDLB_SCHED_DIRECTED) {
    pipeline.second = rig_directed_queue(&pipeline.rig, PDLB_NONE);
    pipeline.sinks[0] = rig_directed_port(&pipeline.rig, pipeline.second, TRAFFIC_BATCH);
    return;
  }
  pipeline.second = rig_queue(&pipeline.rig);
  for (uint32_t i = 0; i < pipeline.sink_count; i++) pipeline.sinks[i] = rig_consumer(&pipeline.rig, pipeline.second);
}

static void open_all(enum pdlb_sched second_type, uint32_t priorities, bool dropping) {
  memset(&pipeline, 0, sizeof pipeline);
  pipeline.second_type = second_type;
  pipeline.priorities = priorities;
  pipeline.dropping = dropping;
  traffic_count_open(&pipeline.count, PRODUCERS, check_setting("PDLB_STRESS_EVENTS", 40000));
  pipeline.rig = rig_open();
  check_explain_with(explain);
  pipeline.first = rig_ordered_queue(&pipeline.rig, 64);
  for (uint32_t i = 0; i < WORKERS; i++) pipeline.workers[i] = rig_consumer(&pipeline.rig, pipeline.first);
  for (uint32_t i = 0; i < PRODUCERS; i++) pipeline.producers[i] = rig_producer(&pipeline.rig);
  open_second_stage();
  rig_start(&pipeline.rig);
}

static void close_all(void) {
  CHECK_EQ(rig_stats(&pipeline.rig).queued, 0);
  for (uint32_t i = 0; i < PRODUCERS; i++) rig_close_port(pipeline.producers[i]);
  for (uint32_t i = 0; i < WORKERS; i++) rig_close_port(pipeline.workers[i]);
  for (uint32_t i = 0; i < pipeline.sink_count; i++) rig_close_port(pipeline.sinks[i]);
  check_explain_with(NULL);
  rig_close(&pipeline.rig);
  traffic_count_close(&pipeline.count);
}

static void run(enum pdlb_sched second_type, uint32_t priorities, bool dropping) {
  pthread_t threads[PRODUCERS + WORKERS + SINKS];
  uint32_t count = 0;
  struct pdlb_port *consumers[WORKERS + SINKS];
  check_randomness(0);
  open_all(second_type, priorities, dropping);
  for (uintptr_t i = 0; i < pipeline.sink_count; i++)
    CHECK_EQ(pthread_create(&threads[count++], NULL, sink, (void *)i), 0);
  for (uintptr_t i = 0; i < WORKERS; i++) CHECK_EQ(pthread_create(&threads[count++], NULL, work, (void *)i), 0);
  for (uintptr_t i = 0; i < PRODUCERS; i++) CHECK_EQ(pthread_create(&threads[count++], NULL, produce, (void *)i), 0);
  memcpy(consumers, pipeline.workers, sizeof pipeline.workers);
  memcpy(consumers + WORKERS, pipeline.sinks, pipeline.sink_count * sizeof *pipeline.sinks);
  traffic_await(&pipeline.count, consumers, WORKERS + pipeline.sink_count);
  for (uint32_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
  close_all();
}

static void order_restored_at_directed_queue(void) { run(PDLB_SCHED_DIRECTED, 1, false); }
static void order_restored_at_unordered_queue(void) { run(PDLB_SCHED_UNORDERED, 1, false); }
static void order_restored_in_atomic_flows(void) { run(PDLB_SCHED_ATOMIC, 1, false); }
static void order_restored_when_some_are_dropped(void) { run(PDLB_SCHED_DIRECTED, 1, true); }
static void order_restored_within_each_priority(void) { run(PDLB_SCHED_DIRECTED, PDLB_PRIORITIES, false); }

CHECK_MAIN(CASE(order_restored_at_directed_queue), CASE(order_restored_at_unordered_queue),
           CASE(order_restored_in_atomic_flows), CASE(order_restored_when_some_are_dropped),
           CASE(order_restored_within_each_priority))
