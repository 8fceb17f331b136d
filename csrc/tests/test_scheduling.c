/* What is served first, how much of it, and what holds it back: priorities of links and elements, depth, history,
 * elements in flight, credits.
 */
#include "rig.h"

enum { STARVATION_PERIOD = 64 };

/* ---- priorities ------------------------------------------------------------------------------------------------- */

static void higher_priorities_first(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  static const unsigned sent[] = {5, 0, 7, 3, 0, 6, 1, 2, 4, 7};
  rig_start(&rig);
  for (uint64_t i = 0; i < 10; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, sent[i], 0, i);
  CHECK_RECEIVES(consumer, 1, 4, 6, 7, 3, 8, 0, 5, 2, 9);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void one_priority_in_order_of_arrival(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  struct pdlb_event received[32];
  uint64_t sent = 0, expected = 0;
  rig_start(&rig);
  for (int round = 0; round < 300; round++) { /* far enough for every ring to wrap */
    for (int i = 0; i < 29; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 3, 0, sent++);
    const uint32_t count = rig_poll(consumer, received, 32);
    for (uint32_t i = 0; i < count; i++) CHECK_EQ(received[i].data, expected++);
    CHECK_EQ(pdlb_port_release(consumer, count), count);
  }
  CHECK_EQ(expected, sent);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void links_by_priority(void) {
  const struct rig rig = rig_open();
  const uint8_t last = rig_queue(&rig), first = rig_queue(&rig), middle = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port *consumer = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 32});
  rig_start(&rig);
  rig_link(consumer, last, 7);
  rig_link(consumer, first, 0);
  rig_link(consumer, middle, 3);
  /* The link decides before the element does. */
  rig_send_one(producer, last, PDLB_SCHED_UNORDERED, 0, 0, 1);
  rig_send_one(producer, middle, PDLB_SCHED_UNORDERED, 4, 0, 2);
  rig_send_one(producer, first, PDLB_SCHED_UNORDERED, 7, 0, 3);
  CHECK_RECEIVES(consumer, 3, 2, 1);
  rig_link(consumer, last, 0); /* linked again: a new priority */
  rig_link(consumer, first, 7);
  rig_send_one(producer, first, PDLB_SCHED_UNORDERED, 0, 0, 4);
  rig_send_one(producer, last, PDLB_SCHED_UNORDERED, 7, 0, 5);
  CHECK_RECEIVES(consumer, 5, 4);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void equal_links_take_turns(void) {
  const struct rig rig = rig_open();
  uint8_t queues[4];
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port *consumer = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 32});
  uint32_t served[256] = {0};
  for (int i = 0; i < 4; i++) {
    queues[i] = rig_queue(&rig);
    rig_link(consumer, queues[i], 2);
  }
  rig_start(&rig);
  for (uint64_t i = 0; i < 400; i++) rig_send_one(producer, queues[i % 4], PDLB_SCHED_UNORDERED, 0, 0, i);
  for (int i = 0; i < 200; i++) {
    struct pdlb_event event;
    CHECK_EQ(rig_poll(consumer, &event, 1), 1);
    CHECK_EQ(pdlb_port_release(consumer, 1), 1);
    served[event.queue]++;
  }
  for (int i = 0; i < 4; i++) CHECK_GE(served[queues[i]], 40); /* 50 each, but for a turn out of turn */
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* While high ones never end, how many low ones come, when `batch` are received at a time? */
static uint32_t low_ones_of(uint32_t events, uint32_t batch) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  uint32_t low = 0;
  rig_start(&rig);
  for (uint64_t i = 0; i < 1000; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 7, 0, 1);
  for (uint32_t done = 0; done < events;) {
    struct pdlb_event received[32];
    for (uint32_t i = 0; i < 2 * batch; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, 0);
    for (uint32_t half = 0; half < 2; half++) {
      const uint32_t count = rig_poll(consumer, received, batch);
      CHECK_EQ(count, batch);
      for (uint32_t i = 0; i < count; i++) low += received[i].data == 1;
      CHECK_EQ(pdlb_port_release(consumer, count), count);
      done += count;
    }
  }
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
  return low;
}

static void low_priorities_do_not_starve(void) {
  for (uint32_t batch = 1; batch <= 32; batch *= 2) {
    const uint32_t low = low_ones_of(64 * STARVATION_PERIOD, batch);
    CHECK_GE(low, 60); /* one of 64 */
    CHECK_LE(low, 66);
  }
}

static void every_lower_priority_has_its_turn(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  bool seen[PDLB_PRIORITIES] = {false};
  rig_start(&rig);
  for (unsigned priority = 1; priority < PDLB_PRIORITIES; priority++)
    rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, priority, (uint16_t)priority, priority);
  for (int i = 0; i < 8 * STARVATION_PERIOD; i++) {
    struct pdlb_event event;
    rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 0, 0);
    CHECK_EQ(rig_poll(consumer, &event, 1), 1);
    CHECK_EQ(pdlb_port_release(consumer, 1), 1);
    seen[event.data] = true;
  }
  for (unsigned priority = 0; priority < PDLB_PRIORITIES; priority++) CHECK(seen[priority]);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void low_links_do_not_starve(void) {
  const struct rig rig = rig_open();
  const uint8_t high = rig_queue(&rig), low = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, high);
  uint32_t low_ones = 0;
  rig_link(consumer, low, 7);
  rig_start(&rig);
  for (int i = 0; i < 100; i++) rig_send_one(producer, low, PDLB_SCHED_UNORDERED, 0, 0, 1);
  for (int i = 0; i < 32 * STARVATION_PERIOD; i++) {
    struct pdlb_event event;
    if (i == 0) rig_send_one(producer, high, PDLB_SCHED_UNORDERED, 0, 0, 0);
    rig_send_one(producer, high, PDLB_SCHED_UNORDERED, 0, 0, 0);
    CHECK_EQ(rig_poll(consumer, &event, 1), 1);
    CHECK_EQ(pdlb_port_release(consumer, 1), 1);
    low_ones += event.data == 1;
  }
  CHECK_GE(low_ones, 28);
  CHECK_LE(low_ones, 34);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static void recv_returns_at_most_the_depth(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  rig_start(&rig);
  for (uint32_t depth = 1; depth <= 128; depth *= 2) {
    struct pdlb_port *consumer = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = depth});
    struct pdlb_event received[256];
    rig_link(consumer, queue, 0);
    for (uint32_t i = 0; i < depth + 3; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, i);
    CHECK_EQ(rig_poll(consumer, received, 256), depth);
    CHECK_EQ(rig_depth(&rig, queue), 3);
    CHECK_EQ(pdlb_port_release(consumer, depth), depth);
    for (uint32_t left = 3; left;) {
      const uint32_t count = rig_poll(consumer, received, 256);
      CHECK_GT(count, 0);
      CHECK_EQ(pdlb_port_release(consumer, count), count);
      left -= count;
    }
    rig_close_port(consumer);
  }
  rig_close_port(producer);
  rig_close(&rig);
}

static void history_is_the_most_that_a_port_holds(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  rig_start(&rig);
  for (uint32_t history = 1; history <= 40; history += 3) {
    struct pdlb_port *consumer =
        rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 16, .history_entries = history});
    struct pdlb_event received[64];
    uint32_t held = 0;
    rig_link(consumer, queue, 0);
    for (uint32_t i = 0; i < history + 5; i++) rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, (uint16_t)i, i);
    while (held < history) held += rig_poll(consumer, received, 64);
    CHECK_EQ(held, history);
    CHECK_EQ(pdlb_port_in_flight(consumer), history);
    CHECK_EQ(rig_poll(consumer, received, 64), 0);
    CHECK_EQ(pdlb_port_release(consumer, 1), 1); /* one gone is room for one */
    CHECK_EQ(rig_poll(consumer, received, 64), 1);
    CHECK_EQ(rig_poll(consumer, received, 64), 0);
    for (held = 5 + history; held;) {
      const uint32_t released = pdlb_port_release(consumer, history);
      held -= released < held ? released : held;
      if (rig_poll(consumer, received, 64) == 0) break;
    }
    rig_close_port(consumer);
  }
  CHECK_EQ(rig_depth(&rig, queue), 0);
  rig_close_port(producer);
  rig_close(&rig);
}

/* Over all ports: while so many of a queue are in flight, nobody gets another. */
static void queue_keeps_its_inflight_limit(void) {
  const struct rig rig = rig_open();
  const uint8_t limited = rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){.inflights = 5, .atomic_inflights = 8});
  const uint8_t other = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port *left = rig_consumer(&rig, limited), *right = rig_consumer(&rig, limited);
  struct pdlb_event received[32];
  rig_link(right, other, 1);
  rig_start(&rig);
  for (uint16_t i = 0; i < 20; i++) rig_send_one(producer, limited, PDLB_SCHED_ATOMIC, 0, i, i);
  CHECK_EQ(rig_poll(left, received, 3), 3);
  CHECK_EQ(rig_poll(right, received, 32), 2);
  CHECK_EQ(rig_poll(left, received, 32), 0);
  rig_send_one(producer, other, PDLB_SCHED_UNORDERED, 0, 0, 100); /* other queues go on */
  CHECK_RECEIVES(right, 100);
  CHECK_EQ(pdlb_port_release(left, 2), 2);
  CHECK_EQ(rig_poll(right, received, 32), 2);
  CHECK_EQ(rig_poll(left, received, 32), 0);
  rig_close_port(right); /* what it held counts no more */
  CHECK_EQ(rig_poll(left, received, 32), 4);
  CHECK_EQ(rig_depth(&rig, limited), 9);
  rig_close_port(left);
  rig_close_port(producer);
  rig_close(&rig);
}

static void credits_run_out_and_return_when_scheduled(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_credits = 10;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const uint8_t queue = rig_queue(&rig), directed = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  struct pdlb_port *sink = rig_directed_port(&rig, directed, 8);
  struct pdlb_event events[16], received[16];
  enum pdlb_refusal why;
  rig_start(&rig);
  for (uint64_t i = 0; i < 16; i++) events[i] = rig_event(queue, PDLB_SCHED_UNORDERED, (unsigned)i % 8, 0, i);
  CHECK_EQ(pdlb_port_send(producer, events, 16, &why), 10);
  CHECK_EQ(why, PDLB_NO_CREDIT);
  CHECK_EQ(rig_stats(&rig).credits_free, 0);
  CHECK_EQ(pdlb_port_send(producer, events, 1, &why), 0);
  CHECK_EQ(why, PDLB_NO_CREDIT);
  CHECK_GE(rig_stats(&rig).refused_no_credit, 2);
  CHECK_EQ(rig_poll(consumer, received, 3), 3); /* scheduled, not yet released: the credits are back */
  CHECK_EQ(rig_stats(&rig).credits_free, 3);
  rig_send(producer, events, 2); /* all kinds of queue share them */
  rig_send_one(producer, directed, PDLB_SCHED_DIRECTED, 0, 0, 77);
  CHECK_EQ(pdlb_port_send(producer, events, 1, &why), 0);
  CHECK_EQ(why, PDLB_NO_CREDIT);
  CHECK_RECEIVES(sink, 77);
  CHECK_EQ(rig_stats(&rig).credits_free, 1);
  CHECK_EQ(rig_poll(consumer, received, 16), 9);
  CHECK_EQ(rig_stats(&rig).credits_free, 10);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close_port(sink);
  rig_close(&rig);
}

/* A domain without credits is legal and mute. */
static void no_credits_at_all(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_credits = 0;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  const struct pdlb_event event = rig_event(queue, PDLB_SCHED_ATOMIC, 0, 0, 0);
  enum pdlb_refusal why;
  rig_start(&rig);
  CHECK_EQ(pdlb_port_send(producer, &event, 1, &why), 0);
  CHECK_EQ(why, PDLB_NO_CREDIT);
  CHECK_RECEIVES_NOTHING(consumer);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* All credits in one priority of one queue: a ring has room for every one. */
static void all_credits_in_one_place(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  struct pdlb_event received[32];
  rig_start(&rig);
  for (int round = 0; round < 3; round++) {
    for (uint64_t i = 0; i < rig_plenty.ldb_credits; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 5, 0, i);
    CHECK_EQ(rig_depth(&rig, queue), rig_plenty.ldb_credits);
    for (uint64_t i = 0; i < rig_plenty.ldb_credits;) {
      const uint32_t count = rig_poll(consumer, received, 32);
      for (uint32_t j = 0; j < count; j++) CHECK_EQ(received[j].data, i++);
      CHECK_EQ(pdlb_port_release(consumer, count), count);
    }
  }
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

CHECK_MAIN(CASE(higher_priorities_first), CASE(one_priority_in_order_of_arrival), CASE(links_by_priority),
           CASE(equal_links_take_turns), CASE(low_priorities_do_not_starve), CASE(every_lower_priority_has_its_turn),
           CASE(low_links_do_not_starve), CASE(recv_returns_at_most_the_depth),
           CASE(history_is_the_most_that_a_port_holds), CASE(queue_keeps_its_inflight_limit),
           CASE(credits_run_out_and_return_when_scheduled), CASE(no_credits_at_all), CASE(all_credits_in_one_place))
