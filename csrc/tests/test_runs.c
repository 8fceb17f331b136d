/* One element after the other out of a queue in which more of them wait, by ports that release with a receive: what
 * is known of the next ones from the last look must not outlast what others do in between.
 */
#include "rig.h"

enum { STARVATION_PERIOD = 64, STEPS = 60000, WAITING = 200, LESS_URGENT = 3 };

struct run {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *port[2];
  struct check_random random;
  uint64_t sent[2], received[2]; /* urgent ones, and others: each kind is numbered */
  uint32_t in_turn;              /* urgent ones received in a row while others waited */
  uint32_t since;                /* elements received since one that was less urgent came before others */
};

static struct pdlb_port *open_port(const struct run *run) {
  struct pdlb_port *port = rig_port_with(
      &run->rig, &(struct pdlb_port_config){.cq_depth = 16, .history_entries = 16, .release_on_recv = true});
  rig_link(port, run->queue, 0);
  return port;
}

static struct run open_run(uint64_t stream) {
  struct run run = {.rig = rig_open(), .random = check_randomness(stream), .since = STARVATION_PERIOD};
  run.queue = rig_queue(&run.rig);
  run.producer = rig_producer(&run.rig);
  for (uint32_t i = 0; i < 2; i++) run.port[i] = open_port(&run);
  rig_start(&run.rig);
  return run;
}

static void close_run(const struct run *run) {
  rig_close_port(run->producer);
  for (uint32_t i = 0; i < 2; i++) rig_close_port(run->port[i]);
  rig_close(&run->rig);
}

static bool waits(const struct run *run, bool less_urgent) {
  return run->sent[less_urgent] != run->received[less_urgent];
}

static uint64_t waiting(const struct run *run) {
  return run->sent[0] - run->received[0] + run->sent[1] - run->received[1];
}

static void send_some(struct run *run, bool less_urgent, uint32_t count) {
  for (; count && waiting(run) < WAITING; count--)
    rig_send_one(run->producer, run->queue, PDLB_SCHED_UNORDERED, less_urgent ? LESS_URGENT : 0, 0,
                 2 * run->sent[less_urgent]++ + less_urgent);
}

/* Each kind in the order of arrival; the less urgent ones when no others wait, but for one now and then. */
static void check_received(struct run *run, const struct pdlb_event *event) {
  const bool less_urgent = event->data & 1;
  CHECK_EQ(event->data / 2, run->received[less_urgent]);
  if (less_urgent || !waits(run, true))
    run->in_turn = 0;
  else
    CHECK_LE(++run->in_turn, 2 * STARVATION_PERIOD);
  run->since++;
  if (less_urgent && waits(run, false)) {
    CHECK_GE(run->since, STARVATION_PERIOD / 2);
    run->since = 0;
  }
  run->received[less_urgent]++;
}

static void receive_some(struct run *run, uint32_t port, uint32_t max) {
  struct pdlb_event events[16];
  const uint32_t count = rig_poll(run->port[port], events, max);
  CHECK_EQ(count != 0, waiting(run) != 0);
  for (uint32_t i = 0; i < count; i++) check_received(run, &events[i]);
}

static void link_anew(struct run *run, uint32_t port) {
  rig_unlink(run->port[port], run->queue);
  CHECK_RECEIVES_NOTHING(run->port[port]);
  rig_link(run->port[port], run->queue, 0);
}

/* Long stretches of sending and of receiving, so that both the queue's front and its rings are used. */
static void whatever_comes_in_between(void) {
  struct run run = open_run(1);
  bool more = true;
  for (uint32_t step = 0; step < STEPS; step++) {
    if (check_below(&run.random, 100) == 0) more = !more;
    const uint32_t what = check_below(&run.random, 1000), port = check_below(&run.random, 2);
    if (what < (more ? 650 : 350))
      send_some(&run, false, 1);
    else if (what < (more ? 660 : 355))
      send_some(&run, true, 1 + check_below(&run.random, 3));
    else if (what < 990)
      receive_some(&run, port, 1);
    else if (what < 998)
      receive_some(&run, port, 2 + check_below(&run.random, 15));
    else
      link_anew(&run, port);
  }
  while (waiting(&run)) receive_some(&run, 0, 1);
  close_run(&run);
}

static void what_is_more_urgent_comes_first(void) {
  struct run run = open_run(3);
  struct pdlb_event event;
  send_some(&run, true, 3);
  receive_some(&run, 0, 1);
  send_some(&run, false, 1);
  CHECK_EQ(rig_poll(run.port[0], &event, 1), 1);
  CHECK_EQ(event.data, 0);
  close_run(&run);
}

static void a_new_port_has_its_share_at_once(void) {
  struct run run = open_run(2);
  send_some(&run, false, 100);
  for (uint32_t i = 0; i < 10; i++) receive_some(&run, 0, 1);
  struct pdlb_port *late = open_port(&run), *first = run.port[1];
  run.port[1] = late;
  for (uint32_t i = 0; i < 90; i++) receive_some(&run, i % 2, 1);
  CHECK_EQ(waiting(&run), 0);
  CHECK_EQ(rig_port_stats(late).received, 45);
  rig_close_port(first);
  close_run(&run);
}

CHECK_MAIN(CASE(whatever_comes_in_between), CASE(what_is_more_urgent_comes_first),
           CASE(a_new_port_has_its_share_at_once))
