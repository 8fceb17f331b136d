/* Ports that take ahead: what they take, to whom it goes, and when it is released. */
#include "rig.h"

enum { MOST = 8 };

static const struct pdlb_port_config ahead = {
    .cq_depth = 16, .history_entries = 64, .release_on_recv = true, .prefetch = MOST};

struct line {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *port[2];
};

static struct line open_line(uint32_t ports) {
  struct line line = {.rig = rig_open()};
  line.queue = rig_queue(&line.rig);
  line.producer = rig_producer(&line.rig);
  for (uint32_t i = 0; i < ports; i++) {
    line.port[i] = rig_port_with(&line.rig, &ahead);
    rig_link(line.port[i], line.queue, 0);
  }
  rig_start(&line.rig);
  return line;
}

static void close_line(const struct line *line) {
  rig_close_port(line->producer);
  for (uint32_t i = 0; i < 2; i++)
    if (line->port[i]) rig_close_port(line->port[i]);
  rig_close(&line->rig);
}

static void send_range(const struct line *line, enum pdlb_sched type, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i <= to; i++) rig_send_one(line->producer, line->queue, type, 0, (uint16_t)(i % 4), i);
}

static uint64_t receive_one(struct pdlb_port *port) {
  struct pdlb_event event;
  return rig_poll(port, &event, 1) ? event.data : UINT64_MAX;
}

static void each_comes_once_and_in_order(void) {
  const enum pdlb_sched types[] = {PDLB_SCHED_UNORDERED, PDLB_SCHED_ATOMIC};
  for (uint32_t t = 0; t < 2; t++) {
    const struct line line = open_line(1);
    send_range(&line, types[t], 0, 199);
    for (uint64_t i = 0; i < 200; i++) CHECK_EQ(receive_one(line.port[0]), i);
    CHECK_EQ(receive_one(line.port[0]), UINT64_MAX);
    CHECK_EQ(pdlb_port_in_flight(line.port[0]), 0);
    CHECK_EQ(rig_port_stats(line.port[0]).released, 200);
    close_line(&line);
  }
}

static void batches_get_what_was_taken_ahead_first(void) {
  const struct line line = open_line(1);
  struct pdlb_event events[16];
  send_range(&line, PDLB_SCHED_UNORDERED, 0, 19);
  CHECK_EQ(receive_one(line.port[0]), 0);
  CHECK_EQ(rig_poll(line.port[0], events, 3), 3);
  for (uint64_t i = 0; i < 3; i++) CHECK_EQ(events[i].data, 1 + i);
  CHECK_EQ(rig_poll(line.port[0], events, 16), MOST - 4);
  CHECK_EQ(rig_poll(line.port[0], events, 16), 20 - MOST);
  CHECK_EQ(events[0].data, MOST);
  close_line(&line);
}

/* Half of what waits is the other port's. */
static void takes_no_more_than_its_share(void) {
  const struct line line = open_line(2);
  send_range(&line, PDLB_SCHED_UNORDERED, 0, 5);
  CHECK_EQ(receive_one(line.port[0]), 0);
  CHECK_EQ(rig_depth(&line.rig, line.queue), 3);
  CHECK_EQ(receive_one(line.port[1]), 3);
  CHECK_EQ(rig_depth(&line.rig, line.queue), 2);
  CHECK_EQ(receive_one(line.port[1]), 4);
  CHECK_EQ(receive_one(line.port[0]), 1);
  CHECK_EQ(receive_one(line.port[0]), 2);
  CHECK_EQ(receive_one(line.port[0]), 5);
  close_line(&line);
}

/* Of several queues, nothing: what one of them gets later may be the more urgent. */
static void takes_nothing_ahead_of_several_queues(void) {
  const struct line line = open_line(1);
  const uint8_t other = rig_queue(&line.rig);
  rig_link(line.port[0], other, 1);
  send_range(&line, PDLB_SCHED_UNORDERED, 0, 9);
  CHECK_EQ(receive_one(line.port[0]), 0);
  CHECK_EQ(rig_depth(&line.rig, line.queue), 9);
  close_line(&line);
}

/* By hand only what was received can be released, or forwarded in its place. */
static void what_was_not_received_stays_held(void) {
  const struct line line = open_line(1);
  send_range(&line, PDLB_SCHED_ATOMIC, 0, 7);
  CHECK_EQ(receive_one(line.port[0]), 0);
  CHECK_EQ(receive_one(line.port[0]), 1);
  CHECK_EQ(pdlb_port_in_flight(line.port[0]), MOST);
  CHECK_EQ(pdlb_port_release(line.port[0], 64), 2);
  CHECK_EQ(pdlb_port_in_flight(line.port[0]), MOST - 2);
  CHECK_EQ(receive_one(line.port[0]), 2);
  const struct pdlb_event more[] = {rig_event(line.queue, PDLB_SCHED_ATOMIC, 0, 1, 100),
                                    rig_event(line.queue, PDLB_SCHED_ATOMIC, 0, 1, 101)};
  rig_forward(line.port[0], more, 2);
  CHECK_EQ(pdlb_port_in_flight(line.port[0]), MOST - 3);
  for (uint64_t i = 3; i < MOST; i++) CHECK_EQ(receive_one(line.port[0]), i);
  CHECK_EQ(receive_one(line.port[0]), 100);
  CHECK_EQ(receive_one(line.port[0]), 101);
  close_line(&line);
}

static void a_cancelled_port_hands_out_nothing(void) {
  const struct line line = open_line(1);
  struct pdlb_event event;
  send_range(&line, PDLB_SCHED_UNORDERED, 0, 7);
  CHECK_EQ(receive_one(line.port[0]), 0);
  pdlb_port_cancel(line.port[0]);
  CHECK_EQ(pdlb_port_recv(line.port[0], &event, 1, 0), -ECANCELED);
  close_line(&line);
}

static void is_refused_where_it_makes_no_sense(void) {
  const struct line line = open_line(1);
  struct pdlb_error error = {0};
  struct pdlb_port *port;
  struct pdlb_port_config config = ahead;
  config.release_on_recv = false;
  CHECK_EQ(pdlb_ldb_port_create(line.rig.domain, &config, &port, &error), -EINVAL);
  config = ahead;
  config.prefetch = config.cq_depth + 1;
  CHECK_EQ(pdlb_ldb_port_create(line.rig.domain, &config, &port, &error), -EINVAL);
  close_line(&line);
}

CHECK_MAIN(CASE(each_comes_once_and_in_order), CASE(batches_get_what_was_taken_ahead_first),
           CASE(takes_no_more_than_its_share), CASE(takes_nothing_ahead_of_several_queues),
           CASE(what_was_not_received_stays_held), CASE(a_cancelled_port_hands_out_nothing),
           CASE(is_refused_where_it_makes_no_sense))
