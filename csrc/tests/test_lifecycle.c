/* The life of domains and ports while elements are queued and held: start, stop, disable, unlink, close; the ways to
 * release; and the numbers that are told about it.
 */
#include <poll.h>

#include "rig.h"

struct single {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *consumer;
};

static struct single open_single(const struct pdlb_port_config *config) {
  struct single single = {.rig = rig_open()};
  single.queue = rig_queue(&single.rig);
  single.producer = rig_producer(&single.rig);
  single.consumer = rig_port_with(&single.rig, config);
  rig_link(single.consumer, single.queue, 0);
  rig_start(&single.rig);
  return single;
}

static void close_single(const struct single *single) {
  rig_close_port(single->producer);
  rig_close_port(single->consumer);
  rig_close(&single->rig);
}

static void send_range(const struct single *single, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i <= to; i++)
    rig_send_one(single->producer, single->queue, PDLB_SCHED_ATOMIC, 0, (uint16_t)i, i);
}

static const struct pdlb_port_config explicit_release = {.cq_depth = 16};
static const struct pdlb_port_config release_on_recv = {.cq_depth = 16, .history_entries = 16, .release_on_recv = true};

/* ---- releasing -------------------------------------------------------------------------------------------------- */

static void release_is_oldest_first(void) {
  const struct single single = open_single(&explicit_release);
  struct pdlb_port *other = rig_consumer(&single.rig, single.queue);
  for (uint64_t i = 0; i < 3; i++) rig_send_one(single.producer, single.queue, PDLB_SCHED_ATOMIC, 0, (uint16_t)i, i);
  CHECK_RECEIVES(single.consumer, 0, 1, 2);
  CHECK_EQ(pdlb_port_release(single.consumer, 1), 1);
  for (uint64_t i = 0; i < 3; i++)
    rig_send_one(single.producer, single.queue, PDLB_SCHED_ATOMIC, 0, (uint16_t)i, 10 + i);
  CHECK_RECEIVES(other, 10); /* flow 0 is free, 1 and 2 are not */
  CHECK_EQ(pdlb_port_release(single.consumer, 1), 1);
  CHECK_RECEIVES(other, 11);
  rig_close_port(other);
  close_single(&single);
}

static void each_recv_releases_what_the_last_returned(void) {
  const struct single single = open_single(&release_on_recv);
  struct pdlb_event received[16];
  send_range(&single, 0, 99);
  for (int i = 0; i < 6; i++) {
    CHECK_EQ(rig_poll(single.consumer, received, 16), 16);
    CHECK_EQ(pdlb_port_in_flight(single.consumer), 16);
  }
  CHECK_EQ(rig_poll(single.consumer, received, 16), 4);
  CHECK_EQ(rig_poll(single.consumer, received, 16), 0);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 0);
  CHECK_EQ(rig_port_stats(single.consumer).released, 100);
  close_single(&single);
}

/* Part of a batch released or forwarded by hand: the next recv releases the rest, and nothing of its own. */
static void release_on_recv_beside_release_and_forward(void) {
  const struct single single = open_single(&release_on_recv);
  struct pdlb_event received[16];
  send_range(&single, 0, 19);
  CHECK_EQ(rig_poll(single.consumer, received, 10), 10);
  CHECK_EQ(pdlb_port_release(single.consumer, 4), 4);
  const struct pdlb_event again = rig_event(single.queue, PDLB_SCHED_ATOMIC, 0, 500, 500);
  rig_forward(single.consumer, &again, 1);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 5);
  CHECK_EQ(rig_poll(single.consumer, received, 3), 3);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 3);
  CHECK_EQ(pdlb_port_release(single.consumer, 16), 3);
  CHECK_EQ(rig_poll(single.consumer, received, 2), 2);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 2);
  close_single(&single);
}

/* Counted at once, carried out when the port's owner comes by, whatever it comes for. */
static void release_later_by_every_next_call(void) {
  enum { RECV, RELEASE, FORWARD, CALLS };
  for (int call = 0; call < CALLS; call++) {
    const struct single single = open_single(&explicit_release);
    struct pdlb_port *other = rig_consumer(&single.rig, single.queue);
    const struct pdlb_event forwarded = rig_event(single.queue, PDLB_SCHED_UNORDERED, 0, 0, 99);
    struct pdlb_event received[4];
    send_range(&single, 0, 2);
    CHECK_RECEIVES(single.consumer, 0, 1, 2);
    pdlb_port_release_later(single.consumer, 1);
    CHECK_EQ(pdlb_port_in_flight(single.consumer), 2);
    if (call == RECV) CHECK_EQ(rig_poll(single.consumer, received, 4), 0);
    if (call == RELEASE) CHECK_EQ(pdlb_port_release(single.consumer, 0), 0);
    if (call == FORWARD) rig_forward(single.consumer, &forwarded, 1);
    CHECK_EQ(pdlb_port_in_flight(single.consumer), call == FORWARD ? 1 : 2);
    CHECK_EQ(rig_port_stats(single.consumer).released, call == FORWARD ? 2 : 1);
    rig_send_one(single.producer, single.queue, PDLB_SCHED_ATOMIC, 0, 0, 100); /* flow 0 is free again */
    if (call == FORWARD)
      CHECK_RECEIVES(other, 99, 100);
    else
      CHECK_RECEIVES(other, 100);
    rig_close_port(other);
    close_single(&single);
  }
}

static void release_later_adds_up(void) {
  const struct single single = open_single(&explicit_release);
  struct pdlb_event received[16];
  send_range(&single, 0, 9);
  CHECK_EQ(rig_poll(single.consumer, received, 16), 10);
  for (int i = 0; i < 10; i++) pdlb_port_release_later(single.consumer, 1);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 0);
  CHECK_EQ(rig_poll(single.consumer, received, 16), 0);
  CHECK_EQ(rig_port_stats(single.consumer).released, 10);
  close_single(&single);
}

/* A full port that is released later has room at its next recv. */
static void release_later_makes_room(void) {
  const struct pdlb_port_config small = {.cq_depth = 2, .history_entries = 2};
  const struct single single = open_single(&small);
  struct pdlb_event received[4];
  send_range(&single, 0, 5);
  CHECK_EQ(rig_poll(single.consumer, received, 4), 2);
  CHECK_EQ(rig_poll(single.consumer, received, 4), 0);
  pdlb_port_release_later(single.consumer, 2);
  CHECK_EQ(rig_poll(single.consumer, received, 4), 2);
  close_single(&single);
}

/* ---- disabling, unlinking, closing ------------------------------------------------------------------------------ */

static void disabled_port_gets_and_sends_nothing(void) {
  const struct single single = open_single(&explicit_release);
  struct pdlb_error error = {0};
  const struct pdlb_event event = rig_event(single.queue, PDLB_SCHED_ATOMIC, 0, 0, 9);
  enum pdlb_refusal why;
  send_range(&single, 1, 2);
  for (int again = 0; again < 2; again++) CHECK_OK(pdlb_port_disable(single.consumer, &error), error);
  CHECK_RECEIVES_NOTHING(single.consumer);
  CHECK_EQ(pdlb_port_send(single.consumer, &event, 1, &why), 0);
  CHECK_EQ(why, PDLB_PORT_DISABLED);
  CHECK_EQ(rig_depth(&single.rig, single.queue), 2);
  for (int again = 0; again < 2; again++) CHECK_OK(pdlb_port_enable(single.consumer, &error), error);
  CHECK_RECEIVES(single.consumer, 1, 2);
  CHECK_OK(pdlb_port_disable(single.consumer, &error), error);
  CHECK_EQ(pdlb_port_release(single.consumer, 2), 2); /* what it holds it can give back */
  close_single(&single);
}

static void unlinked_queue_waits(void) {
  const struct single single = open_single(&explicit_release);
  send_range(&single, 1, 1);
  CHECK_RECEIVES(single.consumer, 1);
  rig_unlink(single.consumer, single.queue);
  send_range(&single, 2, 3);
  CHECK_RECEIVES_NOTHING(single.consumer);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 1);
  CHECK_EQ(pdlb_port_release(single.consumer, 1), 1);
  rig_link(single.consumer, single.queue, 3);
  CHECK_RECEIVES(single.consumer, 2, 3);
  close_single(&single);
}

static void closed_port_releases_what_it_held(void) {
  struct single single = open_single(&explicit_release);
  send_range(&single, 1, 3);
  CHECK_RECEIVES(single.consumer, 1, 2, 3);
  send_range(&single, 4, 5);
  rig_close_port(single.consumer);
  CHECK_EQ(rig_depth(&single.rig, single.queue), 2);
  single.consumer = rig_consumer(&single.rig, single.queue);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 0);
  CHECK_EQ(rig_port_stats(single.consumer).received, 0); /* it is another port */
  CHECK_RECEIVES(single.consumer, 4, 5);
  close_single(&single);
}

static void stopped_domain_hands_out_what_it_has(void) {
  const struct single single = open_single(&explicit_release);
  send_range(&single, 1, 4);
  rig_stop(&single.rig);
  struct pdlb_event received[2];
  enum pdlb_refusal why;
  CHECK_EQ(rig_poll(single.consumer, received, 2), 2);
  CHECK_EQ(pdlb_port_release(single.consumer, 1), 1);
  CHECK_EQ(pdlb_port_forward(single.consumer, received, 1, &why), 0);
  CHECK_EQ(why, PDLB_NOT_STARTED);
  CHECK_EQ(pdlb_port_in_flight(single.consumer), 1);
  CHECK_RECEIVES(single.consumer, 3, 4);
  rig_start(&single.rig);
  send_range(&single, 5, 5);
  CHECK_RECEIVES(single.consumer, 5);
  close_single(&single);
}

/* Closing discards what is queued; the device has everything back. */
static void domain_closes_with_elements_queued(void) {
  for (int stopped = 0; stopped < 2; stopped++) {
    const struct single single = open_single(&explicit_release);
    struct pdlb_resources total, available;
    struct pdlb_event received;
    send_range(&single, 1, 100);
    CHECK_EQ(rig_poll(single.consumer, &received, 1), 1);
    if (stopped) rig_stop(&single.rig);
    rig_close_port(single.producer);
    rig_close_port(single.consumer);
    CHECK_EQ(pdlb_domain_close(single.rig.domain), 0);
    CHECK_EQ(pdlb_device_resources(single.rig.device, &total, &available, NULL), 0);
    CHECK(!memcmp(&total, &available, sizeof total));
    CHECK_EQ(pdlb_device_close(single.rig.device), 0);
  }
}

/* Queues and ports may come and go while the domain runs. */
static void created_while_running(void) {
  struct single single = open_single(&explicit_release);
  for (uint64_t round = 0; round < 200; round++) {
    send_range(&single, round, round);
    struct pdlb_port *guest = rig_consumer(&single.rig, single.queue);
    CHECK_RECEIVES(guest, round);
    rig_close_port(guest);
  }
  const uint8_t late = rig_queue(&single.rig);
  rig_link(single.consumer, late, 0);
  rig_send_one(single.producer, late, PDLB_SCHED_UNORDERED, 0, 0, 1);
  CHECK_RECEIVES(single.consumer, 1);
  close_single(&single);
}

/* Threads that make ports in the place that another one has just given up. */
struct tenants {
  struct rig rig;
  uint8_t queue;
  uint64_t rounds;
};

static struct pdlb_port *move_in(struct tenants *tenants) {
  const struct pdlb_port_config config = {.cq_depth = 4, .history_entries = 4};
  struct pdlb_error error = {0};
  struct pdlb_port *port;
  uint32_t tries = 0;
  while (pdlb_ldb_port_create(tenants->rig.domain, &config, &port, &error) < 0) {
    CHECK_EQ(error.err, ENOSPC);
    if (++tries % 64 == 0) sched_yield();
  }
  return port;
}

static void *come_and_go(void *argument) {
  struct tenants *tenants = argument;
  for (uint64_t round = 0; round < tenants->rounds; round++) {
    struct pdlb_error error = {0};
    struct pdlb_port *port = move_in(tenants);
    const int fd = pdlb_port_fd(port, &error);
    CHECK_OK(fd, error);
    rig_link(port, tenants->queue, 0);
    /* The element is there to the end, and a port that is linked is told of it. */
    struct pollfd descriptor = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&descriptor, 1, -1), 1);
    CHECK_EQ(descriptor.revents, POLLIN);
    rig_close_port(port);
    if (round % 1024 == 0) check_still_alive();
  }
  return NULL;
}

static void descriptor_is_not_closed_by_the_tenant_before(void) {
  struct tenants tenants = {.rounds = check_setting("PDLB_STRESS_EVENTS", 20000)};
  const struct pdlb_domain_config one = {
      .ldb_queues = 1, .ldb_ports = 1, .dir_ports = 1, .ldb_credits = 64, .history_entries = 64};
  pthread_t threads[2];
  tenants.rig = rig_open_with(PDLB_LIMITS_HARDWARE, &one);
  tenants.queue = rig_queue_with(&tenants.rig, &(struct pdlb_ldb_queue_config){0});
  struct pdlb_port *producer = rig_producer(&tenants.rig);
  rig_start(&tenants.rig);
  rig_send_one(producer, tenants.queue, PDLB_SCHED_UNORDERED, 0, 0, 1);
  for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&threads[i], NULL, come_and_go, &tenants), 0);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  rig_close_port(producer);
  rig_close(&tenants.rig);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static void numbers_add_up(void) {
  const struct single single = open_single(&explicit_release);
  struct pdlb_event received[16];
  send_range(&single, 1, 12);
  CHECK_EQ(rig_poll(single.consumer, received, 10), 10);
  CHECK_EQ(pdlb_port_release(single.consumer, 3), 3);
  const struct pdlb_event forwarded = rig_event(single.queue, PDLB_SCHED_UNORDERED, 0, 0, 50);
  rig_forward(single.consumer, &forwarded, 1);
  const struct pdlb_port_stats producer = rig_port_stats(single.producer), consumer = rig_port_stats(single.consumer);
  CHECK_EQ(producer.sent, 12);
  CHECK_EQ(producer.received, 0);
  CHECK_EQ(consumer.sent, 1);
  CHECK_EQ(consumer.received, 10);
  CHECK_EQ(consumer.released, 4);
  CHECK_EQ(consumer.in_flight, 6);
  CHECK(!consumer.stalled);
  const struct pdlb_domain_stats domain = rig_stats(&single.rig);
  CHECK_EQ(domain.enqueued, 13);
  CHECK_EQ(domain.scheduled, 10);
  CHECK_EQ(domain.queued, 3);
  CHECK_EQ(domain.credits_free, rig_plenty.ldb_credits - 3);
  CHECK_EQ(domain.refused_no_credit, 0);
  CHECK_EQ(domain.rewakes, 0);
  CHECK_EQ(rig_depth(&single.rig, single.queue), 3);
  close_single(&single);
}

CHECK_MAIN(CASE(release_is_oldest_first), CASE(each_recv_releases_what_the_last_returned),
           CASE(release_on_recv_beside_release_and_forward), CASE(release_later_by_every_next_call),
           CASE(release_later_adds_up), CASE(release_later_makes_room), CASE(disabled_port_gets_and_sends_nothing),
           CASE(unlinked_queue_waits), CASE(closed_port_releases_what_it_held),
           CASE(stopped_domain_hands_out_what_it_has), CASE(domain_closes_with_elements_queued),
           CASE(created_while_running), CASE(descriptor_is_not_closed_by_the_tenant_before), CASE(numbers_add_up))
