/* Even sharing by a clock that the test moves: how long those who are due may stay away, and that it costs nobody its
 * turn if nobody could come. The engine alone, over memory of the test.
 */
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
static uint32_t receive_or(uint32_t port, uint32_t most, uint64_t *retry_at) {
  struct pdlb_event events[BATCH];
  *retry_at = PDLB_FOREVER;
  return pdlb_engine_schedule(&circle.users[port], events, most, retry_at);
}

static uint32_t receive(uint32_t port, uint32_t most) {
  uint64_t retry_at;
  return receive_or(port, most, &retry_at);
}

static bool is_stalled(uint32_t port) {
  struct pdlb_port_stats stats;
  pdlb_engine_port_stats(&circle.engine, port, &stats);
  return stats.stalled;
}

/* As an event loop that sleeps: it has looked, and can be told. */
static void fall_asleep(uint32_t port) {
  pdlb_engine_arm(&circle.engine, port);
  pdlb_engine_presence(&circle.engine, port, PDLB_PARKED);
}

static uint32_t waiting(void) { return (uint32_t)pdlb_engine_depth(&circle.engine, circle.queue); }

/* ---- who stays away ---------------------------------------------------------------------------------------------- */

static void who_stays_away_while_another_looks_loses_its_turn(void) {
  open_circle();
  send(PORTS * SHARE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) CHECK_EQ(receive(i, BATCH), SHARE);
  const uint64_t since = now;
  uint64_t next;
  while (!receive_or(0, BATCH, &next)) {
    CHECK(!is_stalled(PORTS - 1));
    CHECK_LE(next, now + QUARTER);
    now = next;
  }
  CHECK(is_stalled(PORTS - 1));
  CHECK_EQ(now - since, GRACE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) receive(i, BATCH);
  CHECK_EQ(waiting(), 0); /* nobody waits for it any more */
  close_circle();
}

/* Slow as it is, it comes: each time it does, its grace begins anew. */
static void who_comes_slowly_keeps_its_share(void) {
  open_circle();
  send(PORTS * SHARE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) CHECK_EQ(receive(i, BATCH), SHARE);
  for (uint32_t taken = 0; taken < SHARE; taken++) {
    for (uint32_t look = 0; look < 4; look++) {
      CHECK_EQ(receive(look % (PORTS - 1), BATCH), 0);
      now += GRACE / 5;
    }
    CHECK(!is_stalled(PORTS - 1));
    CHECK_EQ(receive(PORTS - 1, 1), 1);
  }
  CHECK_EQ(waiting(), 0);
  close_circle();
}

/* ---- who cannot come --------------------------------------------------------------------------------------------- */

/* The process was stopped, or had no processor. Whoever is first afterwards does not take what is the others'. */
static void standing_still_costs_nobody_its_turn(void) {
  for (uint32_t first = 0; first < PORTS; first++) {
    open_circle();
    send(PORTS * SHARE);
    CHECK_EQ(receive(first, SHARE / 2), SHARE / 2);
    pdlb_engine_tick(&circle.engine, now);
    now += 50ull * GRACE;
    pdlb_engine_tick(&circle.engine, now);
    CHECK_EQ(receive(first, BATCH), SHARE - SHARE / 2);
    pdlb_engine_tick(&circle.engine, now);
    now += 50ull * GRACE;
    CHECK_EQ(receive(first, BATCH), 0);
    for (uint32_t i = 0; i < PORTS; i++) CHECK(!is_stalled(i));
    for (uint32_t i = 0; i < PORTS; i++)
      if (i != first) CHECK_EQ(receive(i, BATCH), SHARE);
    close_circle();
  }
}

/* On a busy machine who looks is late as well: no look counts for more than a quarter of the grace. */
static void late_looks_lengthen_the_grace(void) {
  open_circle();
  send(PORTS * SHARE);
  CHECK_EQ(receive(0, BATCH), SHARE);
  for (uint32_t look = 0; look < 3; look++) {
    now += 5ull * GRACE;
    CHECK_EQ(receive(0, BATCH), 0);
    for (uint32_t i = 1; i < PORTS; i++) CHECK(!is_stalled(i));
  }
  now += 5ull * GRACE;
  CHECK_GE(receive(0, BATCH), 1); /* but not for ever */
  for (uint32_t i = 1; i < PORTS; i++) CHECK(is_stalled(i));
  close_circle();
}

/* ---- who is asked to look ---------------------------------------------------------------------------------------- */

/* The one that was told since this was asked last, PORTS for none; never more than one. */
static uint32_t told(void) {
  uint32_t found = PORTS;
  for (uint32_t i = 0; i < PORTS; i++) {
    if (!woken[i]) continue;
    CHECK_EQ(found, PORTS);
    found = i;
  }
  memset(woken, 0, sizeof woken);
  return found;
}

/* All who could look sleep. The clock has one of them look at a time, and takes nothing from anybody by itself. */
static void the_clock_has_a_sleeper_look(void) {
  open_circle();
  send(PORTS * SHARE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) {
    CHECK_EQ(receive(i, BATCH), SHARE);
    CHECK_EQ(receive(i, BATCH), 0);
    fall_asleep(i);
  }
  const uint64_t since = now;
  for (uint32_t received = 0; !received;) {
    const uint64_t next = pdlb_engine_tick(&circle.engine, now);
    CHECK_LE(next, now + QUARTER);
    CHECK(!is_stalled(PORTS - 1));
    const uint32_t looker = told();
    if (looker < PORTS) {
      pdlb_engine_presence(&circle.engine, looker, PDLB_AWAKE);
      received = receive(looker, BATCH);
      if (!received) fall_asleep(looker);
    }
    if (!received) now = next;
    CHECK_LE(now - since, 2ull * GRACE);
  }
  CHECK(is_stalled(PORTS - 1));
  CHECK_GE(now - since, GRACE);
  uint32_t others = 0;
  for (uint32_t i = 0; i < PORTS; i++) others += woken[i];
  CHECK_EQ(others, PORTS - 2); /* what is left is for those who sleep still: they were told */
  close_circle();
}

CHECK_MAIN(CASE(who_stays_away_while_another_looks_loses_its_turn), CASE(who_comes_slowly_keeps_its_share),
           CASE(standing_still_costs_nobody_its_turn), CASE(late_looks_lengthen_the_grace),
           CASE(the_clock_has_a_sleeper_look))
