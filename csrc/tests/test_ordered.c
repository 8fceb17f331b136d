/* Ordered scheduling: elements are spread over ports, and what is forwarded takes its place in line again. */
#include "rig.h"

struct line {
  struct rig rig;
  uint8_t first, second;
  struct pdlb_port *producer, *left, *right, *sink;
};

static struct line open_line(uint32_t sequence_numbers) {
  struct line line = {.rig = rig_open()};
  line.first = rig_ordered_queue(&line.rig, sequence_numbers);
  line.second = rig_directed_queue(&line.rig, PDLB_NONE);
  line.producer = rig_producer(&line.rig);
  line.left = rig_consumer(&line.rig, line.first);
  line.right = rig_consumer(&line.rig, line.first);
  line.sink = rig_directed_port(&line.rig, line.second, 64);
  rig_start(&line.rig);
  return line;
}

static void close_line(const struct line *line) {
  rig_close_port(line->producer);
  rig_close_port(line->left);
  rig_close_port(line->right);
  rig_close_port(line->sink);
  rig_close(&line->rig);
}

static void send_numbers(const struct line *line, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i <= to; i++) rig_send_one(line->producer, line->first, PDLB_SCHED_ORDERED, 0, 0, i);
}

static void receive(struct pdlb_port *port, uint32_t count) {
  struct pdlb_event events[64];
  CHECK_EQ(rig_poll(port, events, count), count);
}

/* Forward to the second queue: the data tell the order in which they were received. */
static void forward(const struct line *line, struct pdlb_port *port, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i <= to; i++) {
    const struct pdlb_event event = rig_event(line->second, PDLB_SCHED_DIRECTED, 0, 0, i);
    rig_forward(port, &event, 1);
  }
}

static void later_ones_wait_for_earlier_ones(void) {
  const struct line line = open_line(64);
  send_numbers(&line, 1, 6);
  receive(line.left, 2);
  receive(line.right, 3);
  receive(line.left, 1);
  forward(&line, line.right, 3, 5);
  CHECK_RECEIVES_NOTHING(line.sink);
  forward(&line, line.left, 1, 1);
  CHECK_RECEIVES(line.sink, 1);
  forward(&line, line.left, 2, 2);
  CHECK_RECEIVES(line.sink, 2, 3, 4, 5);
  forward(&line, line.left, 6, 6);
  CHECK_RECEIVES(line.sink, 6);
  close_line(&line);
}

static void release_drops_the_place(void) {
  const struct line line = open_line(64);
  send_numbers(&line, 1, 4);
  receive(line.left, 1);
  receive(line.right, 3);
  forward(&line, line.right, 2, 2);
  CHECK_EQ(pdlb_port_release(line.right, 1), 1);
  forward(&line, line.right, 4, 4);
  CHECK_RECEIVES_NOTHING(line.sink);
  CHECK_EQ(pdlb_port_release(line.left, 1), 1);
  CHECK_RECEIVES(line.sink, 2, 4);
  close_line(&line);
}

static void closing_drops_the_places(void) {
  struct line line = open_line(64);
  send_numbers(&line, 1, 3);
  receive(line.left, 2);
  receive(line.right, 1);
  forward(&line, line.right, 3, 3);
  CHECK_RECEIVES_NOTHING(line.sink);
  rig_close_port(line.left);
  CHECK_RECEIVES(line.sink, 3);
  line.left = rig_consumer(&line.rig, line.first);
  close_line(&line);
}

/* No more in flight than there are sequence numbers, counting those that await their turn. */
static void sequence_numbers_bound_the_line(void) {
  const struct line line = open_line(64);
  struct pdlb_event events[64];
  send_numbers(&line, 0, 99);
  receive(line.left, 1);
  uint64_t expected = 1;
  for (int rounds = 0; rounds < 3; rounds++) {
    const uint32_t count = rig_poll(line.right, events, 64);
    for (uint32_t i = 0; i < count; i++) CHECK_EQ(events[i].data, expected + i);
    forward(&line, line.right, expected, expected + count - 1);
    expected += count;
  }
  CHECK_EQ(expected, 64);
  CHECK_EQ(rig_depth(&line.rig, line.first), 36);
  CHECK_RECEIVES_NOTHING(line.right);
  CHECK_RECEIVES_NOTHING(line.left);
  forward(&line, line.left, 0, 0); /* the oldest: the line moves */
  CHECK_EQ(rig_poll(line.sink, events, 64), 64);
  for (uint64_t i = 0; i < 64; i++) CHECK_EQ(events[i].data, i);
  receive(line.right, 32);
  close_line(&line);
}

/* Round and round: sequence numbers are used again and again. */
static void sequence_numbers_wrap(void) {
  const struct line line = open_line(64);
  struct pdlb_event events[64];
  uint64_t sent = 0, seen = 0;
  for (int round = 0; round < 400; round++) {
    send_numbers(&line, sent, sent + 12);
    receive(line.left, 5);
    receive(line.right, 8);
    forward(&line, line.right, sent + 5, sent + 12);
    forward(&line, line.left, sent, sent + 4);
    sent += 13;
    const uint32_t count = rig_poll(line.sink, events, 64);
    for (uint32_t i = 0; i < count; i++) CHECK_EQ(events[i].data, seen++);
  }
  CHECK_EQ(seen, sent);
  close_line(&line);
}

static void forward_to_another_kind_of_queue(void) {
  const struct line line = open_line(64);
  const uint8_t unordered = rig_queue(&line.rig);
  struct pdlb_port *consumer = rig_consumer(&line.rig, unordered);
  send_numbers(&line, 1, 4);
  receive(line.left, 2);
  receive(line.right, 2);
  const struct pdlb_event third = rig_event(unordered, PDLB_SCHED_UNORDERED, 0, 0, 3),
                          fourth = rig_event(unordered, PDLB_SCHED_ATOMIC, 0, 7, 4),
                          first = rig_event(unordered, PDLB_SCHED_ATOMIC, 0, 7, 1),
                          second = rig_event(line.second, PDLB_SCHED_DIRECTED, 0, 0, 2);
  rig_forward(line.right, &third, 1);
  rig_forward(line.right, &fourth, 1);
  CHECK_RECEIVES_NOTHING(consumer);
  rig_forward(line.left, &first, 1);
  CHECK_RECEIVES(consumer, 1);
  rig_forward(line.left, &second, 1);
  CHECK_RECEIVES(line.sink, 2);
  CHECK_RECEIVES(consumer, 3, 4);
  rig_close_port(consumer);
  close_line(&line);
}

/* Back into the queue that they came from: at its end, in order. */
static void forward_to_the_same_queue(void) {
  const struct line line = open_line(64);
  send_numbers(&line, 1, 4);
  receive(line.left, 1);
  receive(line.right, 2);
  for (uint64_t i = 102; i <= 103; i++) {
    const struct pdlb_event again = rig_event(line.first, PDLB_SCHED_ORDERED, 0, 0, i);
    rig_forward(line.right, &again, 1);
  }
  CHECK_EQ(rig_depth(&line.rig, line.first), 1);
  const struct pdlb_event again = rig_event(line.first, PDLB_SCHED_ORDERED, 0, 0, 101);
  rig_forward(line.left, &again, 1);
  CHECK_RECEIVES(line.left, 4, 101, 102, 103);
  close_line(&line);
}

/* One call that forwards held elements of two queues: the order of the call is kept where they meet. */
static void one_call_over_two_queues(void) {
  const struct line line = open_line(64);
  const uint8_t other = rig_queue(&line.rig);
  rig_link(line.left, other, 7);
  send_numbers(&line, 1, 2);
  rig_send_one(line.producer, other, PDLB_SCHED_ATOMIC, 0, 0, 3);
  rig_send_one(line.producer, other, PDLB_SCHED_UNORDERED, 0, 0, 4);
  CHECK_RECEIVES(line.left, 1, 2, 3, 4);
  struct pdlb_event events[4];
  for (uint64_t i = 0; i < 4; i++) events[i] = rig_event(line.second, PDLB_SCHED_DIRECTED, 0, 0, i + 1);
  rig_forward(line.left, events, 4);
  CHECK_RECEIVES(line.sink, 1, 2, 3, 4);
  close_line(&line);
}

static void forward_needs_something_held(void) {
  const struct line line = open_line(64);
  const struct pdlb_event event = rig_event(line.second, PDLB_SCHED_DIRECTED, 0, 0, 1);
  struct pdlb_event events[3] = {event, event, event};
  enum pdlb_refusal why;
  CHECK_EQ(pdlb_port_forward(line.left, &event, 1, &why), 0);
  CHECK_EQ(why, PDLB_NOT_HELD);
  CHECK_EQ(pdlb_port_forward(line.producer, &event, 1, &why), 0); /* directed ports hold nothing */
  CHECK_EQ(why, PDLB_NOT_HELD);
  send_numbers(&line, 1, 2);
  receive(line.left, 2);
  CHECK_EQ(pdlb_port_forward(line.left, events, 3, &why), 2);
  CHECK_EQ(why, PDLB_NOT_HELD);
  CHECK_RECEIVES(line.sink, 1, 1);
  close_line(&line);
}

/* A forward takes a credit; without one nothing is completed. */
static void forward_without_credit_completes_nothing(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_credits = 2;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const uint8_t first = rig_ordered_queue(&rig, 64), second = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig), *worker = rig_consumer(&rig, first);
  struct pdlb_port *sink = rig_directed_port(&rig, second, 8);
  enum pdlb_refusal why;
  rig_start(&rig);
  rig_send_one(producer, first, PDLB_SCHED_ORDERED, 0, 0, 1);
  CHECK_RECEIVES(worker, 1);
  rig_send_one(producer, second, PDLB_SCHED_DIRECTED, 0, 0, 50);
  rig_send_one(producer, second, PDLB_SCHED_DIRECTED, 0, 0, 51);
  const struct pdlb_event event = rig_event(second, PDLB_SCHED_DIRECTED, 0, 0, 1);
  CHECK_EQ(pdlb_port_forward(worker, &event, 1, &why), 0);
  CHECK_EQ(why, PDLB_NO_CREDIT);
  CHECK_EQ(pdlb_port_in_flight(worker), 1);
  CHECK_RECEIVES(sink, 50, 51);
  rig_forward(worker, &event, 1);
  CHECK_EQ(pdlb_port_in_flight(worker), 0);
  CHECK_RECEIVES(sink, 1);
  rig_close_port(producer);
  rig_close_port(worker);
  rig_close_port(sink);
  rig_close(&rig);
}

/* A line longer than the domain has credits: elements in flight hold none. */
static void more_in_flight_than_credits(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_credits = 4;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const uint8_t queues[] = {rig_ordered_queue(&rig, 1024), rig_ordered_queue(&rig, 1024)};
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port *worker = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 1024, .history_entries = 2048});
  rig_link(worker, queues[0], 0);
  rig_link(worker, queues[1], 0);
  rig_start(&rig);
  for (int round = 0; round < 3; round++) {
    for (uint64_t i = 0; i < 2048; i++) {
      struct pdlb_event event;
      rig_send_one(producer, queues[i % 2], PDLB_SCHED_ORDERED, 0, 0, i);
      CHECK_EQ(rig_poll(worker, &event, 1), 1);
      CHECK_EQ(event.data, i);
    }
    CHECK_EQ(pdlb_port_in_flight(worker), 2048);
    CHECK_EQ(pdlb_port_release(worker, 2048), 2048);
  }
  rig_close_port(producer);
  rig_close_port(worker);
  rig_close(&rig);
}

/* What an ordered queue does besides: atomic elements need no place in line. */
static void atomic_elements_in_an_ordered_queue(void) {
  const struct line line = open_line(64);
  send_numbers(&line, 1, 1);
  rig_send_one(line.producer, line.first, PDLB_SCHED_ATOMIC, 0, 5, 2);
  send_numbers(&line, 3, 3);
  receive(line.left, 1);
  CHECK_RECEIVES(line.right, 2, 3);
  rig_send_one(line.producer, line.first, PDLB_SCHED_ATOMIC, 0, 5, 4);
  CHECK_RECEIVES_NOTHING(line.left);
  const struct pdlb_event atomic = rig_event(line.second, PDLB_SCHED_DIRECTED, 0, 0, 2),
                          ordered = rig_event(line.second, PDLB_SCHED_DIRECTED, 0, 0, 3);
  rig_forward(line.right, &atomic, 1);
  CHECK_RECEIVES(line.sink, 2); /* at once */
  rig_forward(line.right, &ordered, 1);
  CHECK_RECEIVES_NOTHING(line.sink); /* in line behind 1 */
  forward(&line, line.left, 1, 1);
  CHECK_RECEIVES(line.sink, 1, 3);
  CHECK_RECEIVES(line.left, 4);
  close_line(&line);
}

CHECK_MAIN(CASE(later_ones_wait_for_earlier_ones), CASE(release_drops_the_place), CASE(closing_drops_the_places),
           CASE(sequence_numbers_bound_the_line), CASE(sequence_numbers_wrap), CASE(forward_to_another_kind_of_queue),
           CASE(forward_to_the_same_queue), CASE(one_call_over_two_queues), CASE(forward_needs_something_held),
           CASE(forward_without_credit_completes_nothing), CASE(more_in_flight_than_credits),
           CASE(atomic_elements_in_an_ordered_queue))
