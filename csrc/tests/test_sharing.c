/* Even sharing: elements in flight are levelled over the linked ports; who does not come in time loses its turn; and
 * what a stalled port does not take, others do.
 */
#include <poll.h>

#include "rig.h"

enum { MANY = 4 };

/* Nobody is preempted for so long where the grace must not be over yet; where its end is not the point, it never ends.
 */
#define GRACE 200000000u
#define FOR_EVER 3600000000000u

struct circle {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *ports[MANY];
  uint64_t sent;
};

static struct circle open_circle(uint64_t grace) {
  struct pdlb_domain_config config = rig_plenty;
  struct circle circle = {.sent = 0};
  struct pdlb_error error = {0};
  config.history_entries = 16384;
  circle.rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  CHECK_OK(pdlb_domain_set_external_clock(circle.rig.domain, true, &error), error);
  circle.queue = rig_queue_with(
      &circle.rig,
      &(struct pdlb_ldb_queue_config){.atomic_inflights = 64, .sharing = PDLB_SHARE_EVEN, .grace_ns = grace});
  circle.producer = rig_producer(&circle.rig);
  for (int i = 0; i < MANY; i++) {
    circle.ports[i] = rig_port_with(&circle.rig, &(struct pdlb_port_config){.cq_depth = 256, .history_entries = 2048});
    rig_link(circle.ports[i], circle.queue, 0);
  }
  rig_start(&circle.rig);
  return circle;
}

static void close_circle(const struct circle *circle) {
  rig_close_port(circle->producer);
  for (int i = 0; i < MANY; i++) rig_close_port(circle->ports[i]);
  rig_close(&circle->rig);
}

static void send(struct circle *circle, uint32_t count) {
  for (uint32_t i = 0; i < count; i++)
    rig_send_one(circle->producer, circle->queue, PDLB_SCHED_UNORDERED, 0, 0, circle->sent++);
}

static uint32_t receive(struct pdlb_port *port) {
  struct pdlb_event events[256];
  return rig_poll(port, events, 256);
}

static void receive_all_round(const struct circle *circle) {
  for (int i = 0; i < MANY; i++) receive(circle->ports[i]);
}

static uint32_t spread(const struct circle *circle) {
  uint32_t least = UINT32_MAX, most = 0;
  for (int i = 0; i < MANY; i++) {
    const uint32_t held = pdlb_port_in_flight(circle->ports[i]);
    least = held < least ? held : least;
    most = held > most ? held : most;
  }
  return most - least;
}

static bool readable(struct pdlb_port *port) {
  struct pdlb_error error = {0};
  const int fd = pdlb_port_fd(port, &error);
  CHECK_OK(fd, error);
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  CHECK_GE(poll(&descriptor, 1, 0), 0);
  return descriptor.revents & POLLIN;
}

/* ---- levelling -------------------------------------------------------------------------------------------------- */

static void a_burst_is_shared(void) {
  for (uint32_t burst = 1; burst <= 400; burst = burst * 3 + 1) {
    struct circle circle = open_circle(FOR_EVER);
    send(&circle, burst);
    receive_all_round(&circle);
    /* What does not divide evenly is left for whoever comes next: all have as good a right to it. */
    CHECK_LE(rig_depth(&circle.rig, circle.queue), MANY - 1);
    CHECK_LE(spread(&circle), 1);
    receive_all_round(&circle);
    CHECK_EQ(rig_depth(&circle.rig, circle.queue), 0);
    CHECK_LE(spread(&circle), 1);
    close_circle(&circle);
  }
}

static void one_by_one_stays_level(void) {
  struct circle circle = open_circle(FOR_EVER);
  for (int i = 0; i < 400; i++) {
    send(&circle, 1);
    receive_all_round(&circle);
    CHECK_LE(spread(&circle), 1);
  }
  CHECK_EQ(rig_depth(&circle.rig, circle.queue), 0);
  close_circle(&circle);
}

/* After some have ended, new ones go where fewer are. */
static void level_again_after_releases(void) {
  struct check_random random = check_randomness(0);
  struct circle circle = open_circle(FOR_EVER);
  uint32_t held = 400;
  send(&circle, held);
  receive_all_round(&circle);
  for (int round = 0; round < 20; round++) {
    for (uint32_t i = 0; i < 100; i++) /* by chance here and there */
      held -= pdlb_port_release(circle.ports[check_below(&random, MANY)], 1 + check_below(&random, 2));
    while (held < 400 || spread(&circle) > 1) {
      const uint32_t before = spread(&circle);
      send(&circle, 1);
      held++;
      receive_all_round(&circle);
      CHECK_LE(spread(&circle), before > 1 ? before : 1);
    }
    while (held > 400) held -= pdlb_port_release(circle.ports[held % MANY], 1);
  }
  close_circle(&circle);
}

/* What is put off counts as gone, so the next one goes there. */
static void released_later_counts_at_once(void) {
  struct circle circle = open_circle(FOR_EVER);
  send(&circle, 4 * MANY);
  receive_all_round(&circle);
  pdlb_port_release_later(circle.ports[2], 2);
  CHECK_EQ(pdlb_port_in_flight(circle.ports[2]), 2);
  send(&circle, 1);
  for (int i = 0; i < MANY; i++)
    if (i != 2) CHECK_EQ(receive(circle.ports[i]), 0);
  CHECK_EQ(receive(circle.ports[2]), 1);
  close_circle(&circle);
}

/* A port that is full or disabled has no share. */
static void ports_that_cannot_take_have_no_share(void) {
  struct circle circle = open_circle(FOR_EVER);
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_port_disable(circle.ports[0], &error), error);
  send(&circle, 30);
  for (int i = 1; i < MANY; i++) CHECK_EQ(receive(circle.ports[i]), 10);
  CHECK_OK(pdlb_port_enable(circle.ports[0], &error), error);
  send(&circle, 10);
  for (int i = 1; i < MANY; i++) CHECK_EQ(receive(circle.ports[i]), 0); /* it is the other's turn */
  CHECK_EQ(receive(circle.ports[0]), 10);
  close_circle(&circle);
}

/* ---- turns ------------------------------------------------------------------------------------------------------ */

static void port_that_does_not_come_loses_its_turn(void) {
  struct circle circle = open_circle(GRACE);
  send(&circle, 2 * MANY);
  receive_all_round(&circle);
  CHECK_EQ(pdlb_port_release(circle.ports[1], 2), 2); /* busy elsewhere, with the least in flight */
  send(&circle, 1);
  CHECK_EQ(receive(circle.ports[0]), 0); /* within the grace, its turn is kept */
  const uint64_t begin = pdlb_now();
  uint32_t received = 0;
  while (!received) {
    received = receive(circle.ports[0]);
    CHECK_LE(pdlb_now() - begin, 5000000000u);
  }
  CHECK_EQ(received, 1);
  CHECK(rig_port_stats(circle.ports[1]).stalled);
  send(&circle, 1); /* while it is stalled nobody waits for it */
  receive(circle.ports[2]);
  receive(circle.ports[3]);
  CHECK_EQ(rig_depth(&circle.rig, circle.queue), 0);
  send(&circle, 1);
  CHECK_EQ(receive(circle.ports[1]), 1); /* it came: as before */
  CHECK(!rig_port_stats(circle.ports[1]).stalled);
  close_circle(&circle);
}

/* A blocking wait of a port whose turn it is not ends when the others have lost theirs. */
static void waiting_port_gets_what_others_leave(void) {
  struct circle circle = open_circle(GRACE);
  struct pdlb_event event;
  send(&circle, 2 * MANY);
  receive_all_round(&circle);
  CHECK_EQ(pdlb_port_release(circle.ports[3], 2), 2);
  send(&circle, 1);
  CHECK_EQ(pdlb_port_recv(circle.ports[0], &event, 1, pdlb_now() + 10000000000u), 1);
  CHECK(rig_port_stats(circle.ports[3]).stalled);
  close_circle(&circle);
}

/* All but one stalled for long: that one gets everything, and at once after the first grace. */
static void one_port_does_all_the_work(void) {
  struct circle circle = open_circle(GRACE);
  uint32_t received = 0;
  send(&circle, 1);
  const uint64_t begin = pdlb_now();
  for (uint32_t sent = 1; sent < 500;) {
    struct pdlb_event events[16];
    const int count = pdlb_port_recv(circle.ports[0], events, 16, pdlb_now() + 10000000000u);
    CHECK_GE(count, 1);
    received += (uint32_t)count;
    send(&circle, 1);
    sent++;
    CHECK_LE(pdlb_now() - begin, 10000000000u);
  }
  CHECK_GE(received, 498);
  close_circle(&circle);
}

/* ---- telling ---------------------------------------------------------------------------------------------------- */

static void the_emptiest_idle_port_is_told(void) {
  struct circle circle = open_circle(FOR_EVER);
  for (int i = 0; i < MANY; i++) CHECK(!readable(circle.ports[i]));
  send(&circle, 3 * MANY);
  receive_all_round(&circle);
  receive_all_round(&circle); /* empty-handed: armed */
  for (int i = 0; i < MANY; i++) CHECK(!readable(circle.ports[i]));
  pdlb_port_release(circle.ports[2], 1);
  send(&circle, 1);
  for (int i = 0; i < MANY; i++) CHECK_EQ(readable(circle.ports[i]), i == 2);
  close_circle(&circle);
}

/* The one that is due was told and does not come: the tick tells another, which may take once the grace is over. */
static void tick_tells_the_next(void) {
  struct circle circle = open_circle(GRACE);
  for (int i = 0; i < MANY; i++) readable(circle.ports[i]);
  send(&circle, 3 * MANY);
  receive_all_round(&circle);
  receive_all_round(&circle);
  pdlb_port_release(circle.ports[1], 1);
  send(&circle, 1);
  CHECK(readable(circle.ports[1]));
  uint32_t received = 0;
  while (!received) {
    const uint64_t next = pdlb_domain_tick(circle.rig.domain, pdlb_now());
    CHECK_NE(next, PDLB_FOREVER);
    for (int i = 0; i < MANY; i++)
      if (i != 1 && readable(circle.ports[i])) received += receive(circle.ports[i]);
    while (!received && pdlb_now() < next) sched_yield(); /* the port itself asks the real clock */
  }
  CHECK_EQ(received, 1);
  CHECK(rig_port_stats(circle.ports[1]).stalled);
  CHECK_GE(rig_stats(&circle.rig).rewakes, 1);
  close_circle(&circle);
}

/* Without a clock outside: the due port is busy and not armed, the idle one must find out by itself. */
static void idle_port_looks_after_a_busy_one(void) {
  struct circle circle = open_circle(GRACE);
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_set_external_clock(circle.rig.domain, false, &error), error);
  send(&circle, 3 * MANY);
  receive_all_round(&circle);
  receive_all_round(&circle);
  int fd = pdlb_port_fd(circle.ports[0], &error);
  CHECK_OK(fd, error);
  CHECK_EQ(receive(circle.ports[0]), 0);                                /* armed, and waited for */
  for (int i = 1; i < MANY; i++) pdlb_port_release(circle.ports[i], 2); /* all due before it, none of them here */
  send(&circle, 1);
  uint32_t received = 0;
  const uint64_t begin = pdlb_now();
  while (!received) {
    struct pollfd descriptor = {.fd = fd, .events = POLLIN};
    CHECK_GE(poll(&descriptor, 1, 10000), 1);
    received = receive(circle.ports[0]);
    CHECK_LE(pdlb_now() - begin, 10000000000u);
  }
  CHECK_EQ(received, 1);
  close_circle(&circle);
}

CHECK_MAIN(CASE(a_burst_is_shared), CASE(one_by_one_stays_level), CASE(level_again_after_releases),
           CASE(released_later_counts_at_once), CASE(ports_that_cannot_take_have_no_share),
           CASE(port_that_does_not_come_loses_its_turn), CASE(waiting_port_gets_what_others_leave),
           CASE(one_port_does_all_the_work), CASE(the_emptiest_idle_port_is_told), CASE(tick_tells_the_next),
           CASE(idle_port_looks_after_a_busy_one))
