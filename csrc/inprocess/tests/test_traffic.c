/* The device backend with threads, on an emulated device: each event once, whatever is done beside it. */
#include <sched.h>
#include "check.h"
#include "inprocess.h"

#include "pdlb.h"

#define CONSUMERS 3
#define EVENTS 3000u

struct rig {
  struct pdlb_emulated *emulated;
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  struct pdlb_port *sender, *ports[CONSUMERS];
  uint8_t queue;
  _Atomic uint32_t seen[EVENTS];
  _Atomic uint32_t received;
  _Atomic bool ended;
};

static struct rig rig;

static void set_up(uint32_t version) {
  const struct pdlb_domain_config config = {
      .ldb_queues = 1, .ldb_ports = CONSUMERS, .dir_ports = 1, .ldb_credits = 64, .history_entries = 64};
  const struct pdlb_port_config shape = {.cq_depth = 8, .history_entries = 16};
  const struct pdlb_ldb_queue_config plain = {.sharing = PDLB_SHARE_PULL};
  struct pdlb_error error;
  memset(&rig, 0, sizeof rig);
  CHECK_EQ(pdlb_emulated_create(version, false, &rig.emulated), 0);
  CHECK_EQ(pdlb_emulated_open(rig.emulated, &rig.device, &error), 0);
  CHECK_EQ(pdlb_domain_create(rig.device, &config, &rig.domain, &error), 0);
  rig.queue = (uint8_t)pdlb_ldb_queue_create(rig.domain, &plain, &error);
  CHECK_EQ(pdlb_dir_port_create(rig.domain, &shape, PDLB_NONE, &rig.sender, &error), 0);
  for (int i = 0; i < CONSUMERS; i++) {
    CHECK_EQ(pdlb_ldb_port_create(rig.domain, &shape, &rig.ports[i], &error), 0);
    CHECK_EQ(pdlb_port_link(rig.ports[i], rig.queue, 0, &error), 0);
  }
  CHECK_EQ(pdlb_domain_start(rig.domain, &error), 0);
}

static void tear_down(void) {
  for (int i = 0; i < CONSUMERS; i++) pdlb_port_close(rig.ports[i]);
  pdlb_port_close(rig.sender);
  CHECK_EQ(pdlb_domain_close(rig.domain), 0);
  CHECK_EQ(pdlb_device_close(rig.device), 0);
  const char *misuse = pdlb_emulated_misuse(rig.emulated, 0);
  if (misuse) fprintf(stderr, "%s\n", misuse);
  CHECK(misuse == NULL);
  pdlb_emulated_free(rig.emulated);
}

static void *consume(void *argument) {
  struct pdlb_port *port = argument;
  struct pdlb_event events[8];
  while (!atomic_load(&rig.ended)) {
    const int count = pdlb_port_recv(port, events, 8, pdlb_now() + 20000000);
    if (count == -ENODEV) return NULL;
    CHECK(count >= 0 || count == -EINTR);
    for (int i = 0; i < count; i++) CHECK_EQ(atomic_fetch_add(&rig.seen[events[i].data], 1), 0);
    if (count > 0) pdlb_port_release_later(port, (uint32_t)count);
    if (count > 0) atomic_fetch_add(&rig.received, (uint32_t)count);
  }
  return NULL;
}

/* Releases for a port that may just be in use, and asks it what it does. */
static void *disturb(void *argument) {
  (void)argument;
  while (!atomic_load(&rig.ended)) {
    for (int i = 0; i < CONSUMERS; i++) {
      struct pdlb_port_stats stats;
      struct pdlb_domain_stats total;
      pdlb_port_release_later(rig.ports[i], 0);
      pdlb_port_stats(rig.ports[i], &stats);
      pdlb_domain_stats(rig.domain, &total);
      CHECK(total.credits_free <= 64);
    }
    sched_yield();
  }
  return NULL;
}

static uint32_t send_all(void) {
  uint32_t sent = 0;
  while (sent < EVENTS) {
    struct pdlb_event events[7];
    uint32_t count = 0;
    for (; count < 7 && sent + count < EVENTS; count++)
      events[count] = (struct pdlb_event){.data = sent + count, .queue = rig.queue, .sched = PDLB_SCHED_UNORDERED};
    enum pdlb_refusal why;
    sent += pdlb_port_send(rig.sender, events, count, &why);
    if (why == PDLB_GONE) break;
    if (why != PDLB_TAKEN) sched_yield();
  }
  return sent;
}

static void run(uint32_t version, bool reset) {
  pthread_t threads[CONSUMERS + 1];
  set_up(version);
  if (reset) CHECK_EQ(pdlb_emulated_expect(rig.emulated, PDLB_EMULATED_RESET_AT_ELEMENT, 1000), 0);
  for (int i = 0; i < CONSUMERS; i++) CHECK_EQ(pthread_create(&threads[i], NULL, consume, rig.ports[i]), 0);
  CHECK_EQ(pthread_create(&threads[CONSUMERS], NULL, disturb, NULL), 0);
  const uint32_t sent = send_all();
  while (!reset && atomic_load(&rig.received) < sent) sched_yield();
  atomic_store(&rig.ended, true);
  for (int i = 0; i <= CONSUMERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  struct pdlb_domain_stats stats;
  pdlb_domain_stats(rig.domain, &stats);
  CHECK_EQ(stats.enqueued, sent);
  CHECK_EQ(stats.scheduled, atomic_load(&rig.received));
  CHECK_EQ(stats.scheduled + stats.lost + stats.queued, sent);
  if (!reset) CHECK_EQ(stats.credits_free, 64);
  tear_down();
}

static void each_event_comes_once_on_2_0(void) { run(2, false); }
static void each_event_comes_once_on_2_5(void) { run(3, false); }
static void a_reset_ends_it_all(void) { run(3, true); }

CHECK_MAIN(CASE(each_event_comes_once_on_2_0), CASE(each_event_comes_once_on_2_5), CASE(a_reset_ends_it_all))
