/* Ports are linked, unlinked, disabled, enabled, closed and created while traffic flows through them: nothing is lost,
 * nothing comes twice, flows stay whole.
 *
 *   PDLB_STRESS_EVENTS  events per case (default 40000)
 */
#include "traffic.h"

enum { QUEUES = 4, SLOTS = 4, PRODUCERS = 3, FLOWS = 96 };

/* A place for a consumer. Its port comes and goes; `changing` keeps it from going while somebody handles it. */
struct slot {
  pthread_mutex_t changing;
  pthread_t thread;
  struct pdlb_port *port;
  uint64_t seed;
};

static struct chaos {
  struct rig rig;
  struct traffic_count count;
  bool atomic;
  enum pdlb_sharing sharing;
  uint8_t queues[QUEUES];
  struct pdlb_port *producers[PRODUCERS];
  struct slot slots[SLOTS];
  uint32_t expected[QUEUES][FLOWS]; /* plain: guarded by atomic scheduling alone */
} chaos;

static void explain(void) {
  const struct pdlb_domain_stats stats = rig_stats(&chaos.rig);
  fprintf(stderr,
          "  enqueued %" PRIu64 ", scheduled %" PRIu64 ", queued %" PRIu32 ", credits free %" PRIu32 ", wakes %" PRIu64
          "\n",
          stats.enqueued, stats.scheduled, stats.queued, stats.credits_free, stats.wakes);
  for (int i = 0; i < QUEUES; i++)
    fprintf(stderr, "  queue %u: %d wait\n", chaos.queues[i],
            pdlb_ldb_queue_depth(chaos.rig.domain, chaos.queues[i], NULL));
}

/* ---- traffic ---------------------------------------------------------------------------------------------------- */

static void *produce(void *argument) {
  const uint32_t me = (uint32_t)(uintptr_t)argument;
  struct check_random random = check_randomness(100 + me);
  uint16_t next[QUEUES][FLOWS] = {{0}};
  for (uint32_t sent = 0; sent < chaos.count.each;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    uint32_t batch = 1 + check_below(&random, 16);
    if (batch > chaos.count.each - sent) batch = chaos.count.each - sent;
    for (uint32_t i = 0; i < batch; i++) {
      const uint32_t queue = check_below(&random, QUEUES);
      const uint16_t flow = (uint16_t)(me + PRODUCERS * check_below(&random, FLOWS / PRODUCERS));
      events[i] = rig_event(chaos.queues[queue], chaos.atomic ? PDLB_SCHED_ATOMIC : PDLB_SCHED_UNORDERED,
                            flow % PDLB_PRIORITIES, flow, traffic_data(me, sent + i));
      events[i].opaque = next[queue][flow]++;
    }
    traffic_send(chaos.producers[me], events, batch);
    sent += batch;
    traffic_dawdle(&random);
  }
  return NULL;
}

static void check_flow(const struct pdlb_event *event) {
  uint32_t queue = 0;
  while (chaos.queues[queue] != event->queue) queue++;
  if (event->opaque != (uint16_t)chaos.expected[queue][event->flow])
    FAIL("queue %u, flow %u: event %u came, %u was due", event->queue, event->flow, event->opaque,
         (uint16_t)chaos.expected[queue][event->flow]);
  chaos.expected[queue][event->flow]++;
}

/* Until its port is cancelled. What it still holds then is released by closing the port. */
static void *consume(void *argument) {
  struct slot *slot = argument;
  struct check_random random = {slot->seed};
  uint32_t held = 0;
  for (;;) {
    struct pdlb_event events[TRAFFIC_BATCH];
    const enum traffic_waiting waiting = (enum traffic_waiting)check_below(&random, WAIT_KINDS);
    const int received = traffic_receive(slot->port, events, 1 + check_below(&random, 16), waiting);
    if (received < 0) return NULL;
    held += (uint32_t)received;
    for (int i = 0; i < received; i++) {
      if (chaos.atomic) check_flow(&events[i]);
      traffic_count_one(&chaos.count, events[i].data);
    }
    traffic_dawdle(&random);
    const uint32_t part = check_below(&random, 4) ? held : check_below(&random, held + 1);
    CHECK_EQ(pdlb_port_release(slot->port, part), part);
    held -= part;
  }
}

/* ---- chaos ------------------------------------------------------------------------------------------------------ */

static void open_slot(struct slot *slot, struct check_random *random) {
  slot->port = rig_port_with(&chaos.rig, &(struct pdlb_port_config){.cq_depth = 16, .history_entries = 64});
  slot->seed = check_next(random);
  for (int i = 0; i < QUEUES; i++)
    if (check_below(random, 4)) rig_link(slot->port, chaos.queues[i], check_below(random, PDLB_PRIORITIES));
  CHECK_EQ(pthread_create(&slot->thread, NULL, consume, slot), 0);
}

static void close_slot(struct slot *slot) {
  pdlb_port_cancel(slot->port);
  pthread_join(slot->thread, NULL);
  rig_close_port(slot->port);
}

static void disturb(struct slot *slot, struct check_random *random) {
  struct pdlb_error error = {0};
  const uint8_t queue = chaos.queues[check_below(random, QUEUES)];
  switch (check_below(random, 8)) {
    case 0:
      close_slot(slot);
      open_slot(slot, random);
      break;
    case 1: CHECK_OK(pdlb_port_disable(slot->port, &error), error); break;
    case 2:
    case 3: CHECK_OK(pdlb_port_enable(slot->port, &error), error); break;
    case 4: pdlb_port_unlink(slot->port, queue, NULL); break; /* it may not be linked */
    default: rig_link(slot->port, queue, check_below(random, PDLB_PRIORITIES)); break;
  }
}

/* One of two who disturb at the same time. */
static void *wreak(void *argument) {
  struct check_random random = check_randomness(500 + (uint32_t)(uintptr_t)argument);
  while (atomic_load(&chaos.count.received) < traffic_total(&chaos.count)) {
    struct slot *slot = &chaos.slots[check_below(&random, SLOTS)];
    pthread_mutex_lock(&slot->changing);
    disturb(slot, &random);
    pthread_mutex_unlock(&slot->changing);
    traffic_dawdle(&random);
    if (check_below(&random, 50) == 0) { /* everybody may work for a moment */
      struct pdlb_error error = {0};
      const struct timespec moment = {0, 1000000};
      for (int i = 0; i < SLOTS; i++) {
        pthread_mutex_lock(&chaos.slots[i].changing);
        CHECK_OK(pdlb_port_enable(chaos.slots[i].port, &error), error);
        for (int j = 0; j < QUEUES; j++) rig_link(chaos.slots[i].port, chaos.queues[j], 0);
        pthread_mutex_unlock(&chaos.slots[i].changing);
      }
      nanosleep(&moment, NULL);
    }
  }
  return NULL;
}

static void open_all(bool atomic, enum pdlb_sharing sharing) {
  struct check_random random = check_randomness(0);
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_credits = 256;
  memset(&chaos, 0, sizeof chaos);
  chaos.atomic = atomic;
  chaos.sharing = sharing;
  traffic_count_open(&chaos.count, PRODUCERS, check_setting("PDLB_STRESS_EVENTS", 40000));
  chaos.rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  check_explain_with(explain);
  for (int i = 0; i < QUEUES; i++)
    chaos.queues[i] = rig_queue_with(
        &chaos.rig, &(struct pdlb_ldb_queue_config){.atomic_inflights = 64, .inflights = 40, .sharing = sharing});
  for (int i = 0; i < PRODUCERS; i++) chaos.producers[i] = rig_producer(&chaos.rig);
  rig_start(&chaos.rig);
  for (int i = 0; i < SLOTS; i++) {
    pthread_mutex_init(&chaos.slots[i].changing, NULL);
    open_slot(&chaos.slots[i], &random);
  }
}

static void close_all(void) {
  CHECK_EQ(rig_stats(&chaos.rig).queued, 0);
  for (int i = 0; i < SLOTS; i++) {
    close_slot(&chaos.slots[i]);
    pthread_mutex_destroy(&chaos.slots[i].changing);
  }
  for (int i = 0; i < PRODUCERS; i++) rig_close_port(chaos.producers[i]);
  check_explain_with(NULL);
  rig_close(&chaos.rig);
  traffic_count_close(&chaos.count);
}

static void run(bool atomic, enum pdlb_sharing sharing) {
  pthread_t producers[PRODUCERS], wreckers[2];
  open_all(atomic, sharing);
  for (uintptr_t i = 0; i < PRODUCERS; i++) CHECK_EQ(pthread_create(&producers[i], NULL, produce, (void *)i), 0);
  for (uintptr_t i = 0; i < 2; i++) CHECK_EQ(pthread_create(&wreckers[i], NULL, wreak, (void *)i), 0);
  traffic_await(&chaos.count, NULL, 0);
  for (int i = 0; i < PRODUCERS; i++) pthread_join(producers[i], NULL);
  for (int i = 0; i < 2; i++) pthread_join(wreckers[i], NULL);
  close_all();
}

static void unordered_survives(void) { run(false, PDLB_SHARE_PULL); }
static void atomic_survives(void) { run(true, PDLB_SHARE_PULL); }
static void even_sharing_survives(void) { run(true, PDLB_SHARE_EVEN); }

CHECK_MAIN(CASE(unordered_survives), CASE(atomic_survives), CASE(even_sharing_survives))
