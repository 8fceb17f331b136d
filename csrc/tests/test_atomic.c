/* Atomic scheduling: all elements of one flow go to one port while any of them is not released. */
#include "rig.h"

struct pair {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *left, *right;
};

static struct pair open_pair(void) {
  struct pair pair = {.rig = rig_open()};
  pair.queue = rig_queue(&pair.rig);
  pair.producer = rig_producer(&pair.rig);
  pair.left = rig_consumer(&pair.rig, pair.queue);
  pair.right = rig_consumer(&pair.rig, pair.queue);
  rig_start(&pair.rig);
  return pair;
}

static void close_pair(const struct pair *pair) {
  rig_close_port(pair->producer);
  rig_close_port(pair->left);
  rig_close_port(pair->right);
  rig_close(&pair->rig);
}

static void send_flow(const struct pair *pair, uint16_t flow, uint64_t data) {
  rig_send_one(pair->producer, pair->queue, PDLB_SCHED_ATOMIC, 0, flow, data);
}

static void flow_stays_until_released(void) {
  const struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  send_flow(&pair, 1, 11);
  send_flow(&pair, 1, 12);
  CHECK_RECEIVES_NOTHING(pair.right);
  CHECK_RECEIVES(pair.left, 11, 12);
  CHECK_EQ(pdlb_port_release(pair.left, 2), 2); /* one of three is still held */
  send_flow(&pair, 1, 13);
  CHECK_RECEIVES_NOTHING(pair.right);
  CHECK_EQ(pdlb_port_release(pair.left, 1), 1);
  CHECK_RECEIVES(pair.right, 13); /* free: whoever asks first has it */
  send_flow(&pair, 1, 14);
  CHECK_RECEIVES_NOTHING(pair.left);
  CHECK_RECEIVES(pair.right, 14);
  close_pair(&pair);
}

static void held_flow_does_not_block_others(void) {
  const struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  send_flow(&pair, 1, 11);
  send_flow(&pair, 2, 20);
  send_flow(&pair, 1, 12);
  send_flow(&pair, 3, 30);
  CHECK_RECEIVES(pair.right, 20, 30);
  CHECK_EQ(rig_depth(&pair.rig, pair.queue), 2);
  CHECK_RECEIVES(pair.left, 11, 12);
  close_pair(&pair);
}

static void parked_elements_go_on_in_order(void) {
  const struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  for (uint64_t i = 11; i < 15; i++) send_flow(&pair, 1, i);
  CHECK_RECEIVES_NOTHING(pair.right); /* parks them */
  send_flow(&pair, 1, 15);
  send_flow(&pair, 9, 90);
  CHECK_RECEIVES(pair.right, 90);
  CHECK_EQ(pdlb_port_release(pair.left, 1), 1);
  send_flow(&pair, 1, 16);
  struct pdlb_event event;
  CHECK_EQ(rig_poll(pair.right, &event, 1), 1);
  CHECK_EQ(event.data, 11);
  CHECK_RECEIVES_NOTHING(pair.left); /* the flow has moved, with all that waits */
  CHECK_RECEIVES(pair.right, 12, 13, 14, 15, 16);
  close_pair(&pair);
}

static void parked_elements_keep_their_priority(void) {
  const struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_ATOMIC, 6, 1, 60);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_ATOMIC, 2, 1, 20);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_ATOMIC, 6, 1, 61);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_ATOMIC, 0, 1, 0);
  CHECK_RECEIVES_NOTHING(pair.right);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_ATOMIC, 2, 1, 21);
  CHECK_RECEIVES(pair.left, 0, 20, 21, 60, 61);
  close_pair(&pair);
}

/* The same flow id in two queues is two flows. */
static void flows_belong_to_their_queue(void) {
  const struct pair pair = open_pair();
  const uint8_t other = rig_queue(&pair.rig);
  rig_link(pair.right, other, 0);
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  rig_send_one(pair.producer, other, PDLB_SCHED_ATOMIC, 0, 1, 20);
  CHECK_RECEIVES(pair.right, 20);
  close_pair(&pair);
}

static void every_flow_id(void) {
  const struct pair pair = open_pair();
  for (uint32_t flow = 0; flow < 65536; flow += 16) {
    for (uint32_t i = 0; i < 16; i++) send_flow(&pair, (uint16_t)(flow + i), flow + i);
    for (uint32_t i = 0; i < 16; i++) {
      struct pdlb_event event;
      CHECK_EQ(rig_poll(i % 2 ? pair.left : pair.right, &event, 1), 1);
      CHECK_EQ(event.data, flow + i);
      CHECK_EQ(event.flow, flow + i);
    }
    CHECK_EQ(pdlb_port_release(pair.left, 64), 8);
    CHECK_EQ(pdlb_port_release(pair.right, 64), 8);
  }
  close_pair(&pair);
}

/* More flows parked at once than any list is long, all of them released again. */
static void thousands_of_flows_wait(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_ports = 3;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const uint8_t queue = rig_queue(&rig);
  const struct pdlb_port_config depth = {.cq_depth = 1024, .history_entries = 1024};
  struct pdlb_port *producer = rig_producer(&rig), *left = rig_port_with(&rig, &depth),
                   *right = rig_port_with(&rig, &depth);
  static struct pdlb_event events[1024];
  rig_link(left, queue, 0);
  rig_link(right, queue, 0);
  rig_start(&rig);
  for (int round = 0; round < 3; round++) {
    for (uint16_t flow = 0; flow < 1024; flow++) rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, flow % 8u, flow, 0);
    CHECK_EQ(rig_poll(left, events, 1024), 1024);
    for (uint16_t flow = 0; flow < 1024; flow++)
      for (uint64_t i = 1; i <= 3; i++) rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, flow % 8u, flow, i);
    CHECK_EQ(rig_poll(right, events, 1024), 0);
    CHECK_EQ(rig_depth(&rig, queue), 3072);
    CHECK_EQ(pdlb_port_release(left, 1024), 1024);
    uint64_t next[1024];
    for (int flow = 0; flow < 1024; flow++) next[flow] = 1;
    for (uint32_t taken = 0; taken < 3072;) {
      const uint32_t count = rig_poll(right, events, 1024);
      CHECK_GT(count, 0);
      for (uint32_t i = 0; i < count; i++) CHECK_EQ(events[i].data, next[events[i].flow]++);
      CHECK_EQ(pdlb_port_release(right, count), count);
      taken += count;
    }
  }
  rig_close_port(producer);
  rig_close_port(left);
  rig_close_port(right);
  rig_close(&rig);
}

/* A port may meet the flows of many others before it finds something for itself. */
static void one_free_flow_behind_many_held(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *holders[24];
  rig_start(&rig);
  for (uint16_t i = 0; i < 24; i++) {
    holders[i] = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 8});
    rig_link(holders[i], queue, 0);
    rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, i, i);
    CHECK_RECEIVES(holders[i], i);
  }
  struct pdlb_port *free_port = rig_consumer(&rig, queue);
  for (uint16_t i = 0; i < 24; i++) rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, i, 100u + i);
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 99, 199);
  CHECK_RECEIVES(free_port, 199);
  for (uint16_t i = 0; i < 24; i++) {
    CHECK_RECEIVES(holders[i], 100u + i);
    rig_close_port(holders[i]);
  }
  rig_close_port(free_port);
  rig_close_port(producer);
  rig_close(&rig);
}

/* Forwarding into the same flow: the new element is behind all that waited, and the flow may move. */
static void forward_to_the_same_flow(void) {
  const struct pair pair = open_pair();
  const struct pdlb_event again = rig_event(pair.queue, PDLB_SCHED_ATOMIC, 0, 1, 100);
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  send_flow(&pair, 1, 11);
  rig_forward(pair.left, &again, 1);
  CHECK_EQ(pdlb_port_in_flight(pair.left), 0);
  CHECK_RECEIVES(pair.right, 11, 100);
  close_pair(&pair);
}

static void unlinked_port_keeps_its_flows_until_released(void) {
  const struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  send_flow(&pair, 1, 11);
  CHECK_RECEIVES_NOTHING(pair.right);
  rig_unlink(pair.left, pair.queue);
  send_flow(&pair, 1, 12);
  CHECK_RECEIVES_NOTHING(pair.right); /* still in flight on the left */
  CHECK_RECEIVES_NOTHING(pair.left);
  CHECK_EQ(pdlb_port_release(pair.left, 1), 1);
  CHECK_RECEIVES(pair.right, 11, 12);
  close_pair(&pair);
}

/* Unlinked, another queue in its place, linked again in another place: the parked flow is still found. */
static void flow_survives_relinking(void) {
  const struct pair pair = open_pair();
  const uint8_t other = rig_queue(&pair.rig);
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  send_flow(&pair, 1, 11);
  CHECK_RECEIVES_NOTHING(pair.right);
  rig_unlink(pair.left, pair.queue);
  rig_link(pair.left, other, 0);
  rig_send_one(pair.producer, other, PDLB_SCHED_ATOMIC, 0, 1, 20);
  CHECK_RECEIVES(pair.left, 20);
  rig_link(pair.left, pair.queue, 5);
  CHECK_RECEIVES(pair.left, 11);
  CHECK_EQ(pdlb_port_release(pair.left, 3), 3);
  close_pair(&pair);
}

static void closed_port_gives_its_flows_back(void) {
  struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  send_flow(&pair, 2, 20);
  CHECK_RECEIVES(pair.left, 10, 20);
  send_flow(&pair, 1, 11);
  send_flow(&pair, 2, 21);
  CHECK_RECEIVES_NOTHING(pair.right);
  rig_close_port(pair.left);
  CHECK_RECEIVES(pair.right, 11, 21);
  pair.left = rig_consumer(&pair.rig, pair.queue); /* most likely in the same place */
  send_flow(&pair, 1, 12);
  CHECK_RECEIVES_NOTHING(pair.left);
  CHECK_RECEIVES(pair.right, 12);
  close_pair(&pair);
}

static void disabled_port_keeps_its_flows(void) {
  const struct pair pair = open_pair();
  struct pdlb_error error = {0};
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  CHECK_OK(pdlb_port_disable(pair.left, &error), error);
  send_flow(&pair, 1, 11);
  CHECK_RECEIVES_NOTHING(pair.left);
  CHECK_RECEIVES_NOTHING(pair.right);
  CHECK_OK(pdlb_port_enable(pair.left, &error), error);
  CHECK_RECEIVES(pair.left, 11);
  close_pair(&pair);
}

/* Atomic and unordered elements of one queue do not wait for each other. */
static void unordered_ones_pass_a_held_flow(void) {
  const struct pair pair = open_pair();
  send_flow(&pair, 1, 10);
  CHECK_RECEIVES(pair.left, 10);
  send_flow(&pair, 1, 11);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_UNORDERED, 0, 1, 50);
  rig_send_one(pair.producer, pair.queue, PDLB_SCHED_UNORDERED, 0, 1, 51);
  CHECK_RECEIVES(pair.right, 50, 51);
  CHECK_RECEIVES(pair.left, 11);
  close_pair(&pair);
}

CHECK_MAIN(CASE(flow_stays_until_released), CASE(held_flow_does_not_block_others), CASE(parked_elements_go_on_in_order),
           CASE(parked_elements_keep_their_priority), CASE(flows_belong_to_their_queue), CASE(every_flow_id),
           CASE(thousands_of_flows_wait), CASE(one_free_flow_behind_many_held), CASE(forward_to_the_same_flow),
           CASE(unlinked_port_keeps_its_flows_until_released), CASE(flow_survives_relinking),
           CASE(closed_port_gives_its_flows_back), CASE(disabled_port_keeps_its_flows),
           CASE(unordered_ones_pass_a_held_flow))
