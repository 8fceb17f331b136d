/* Directed queues: one pair of a queue and the port that it feeds, first in first out for each priority, nothing to
 * release.
 */
#include <sys/mman.h>

#include "one.h"
#include "rig.h"
#include "software.h"

static void send_directed(struct pdlb_port *port, uint8_t queue, unsigned priority, uint64_t data) {
  rig_send_one(port, queue, PDLB_SCHED_DIRECTED, priority, 0, data);
}

static void either_half_may_be_made_first(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *port_first = rig_producer(&rig);
  const uint8_t its_queue = rig_directed_queue(&rig, pdlb_port_id(port_first));
  CHECK_EQ(its_queue, pdlb_port_id(port_first));
  const uint8_t queue_first = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *its_port = rig_directed_port(&rig, queue_first, 8);
  CHECK_EQ(pdlb_port_id(its_port), queue_first);
  CHECK_NE(queue_first, its_queue);
  rig_start(&rig);
  send_directed(its_port, its_queue, 0, 1);
  send_directed(port_first, queue_first, 0, 2);
  send_directed(port_first, its_queue, 0, 3); /* to itself */
  CHECK_RECEIVES(port_first, 1, 3);
  CHECK_RECEIVES(its_port, 2);
  rig_close_port(port_first);
  rig_close_port(its_port);
  rig_close(&rig);
}

/* A new port and a new queue, neither naming the other, are two pairs. */
static void two_halves_that_do_not_meet(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *port = rig_producer(&rig);
  CHECK_NE(pdlb_port_id(port), queue);
  rig_start(&rig);
  send_directed(port, queue, 0, 1);
  CHECK_RECEIVES_NOTHING(port);
  struct pdlb_error error = {0};
  CHECK_EQ(pdlb_dir_queue_depth(rig.domain, queue, &error), 1);
  rig_close_port(port);
  rig_close(&rig);
}

static void first_in_first_out_by_priority(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_directed_port(&rig, queue, 64);
  rig_start(&rig);
  static const unsigned priorities[] = {7, 0, 3, 7, 0, 3};
  for (uint64_t i = 0; i < 6; i++) send_directed(producer, queue, priorities[i], i);
  CHECK_RECEIVES(consumer, 1, 4, 2, 5, 0, 3);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void nothing_to_release(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_directed_port(&rig, queue, 4);
  struct pdlb_event received[64];
  rig_start(&rig);
  for (uint64_t i = 0; i < 40; i++) send_directed(producer, queue, 0, i);
  for (int i = 0; i < 10; i++) CHECK_EQ(rig_poll(consumer, received, 64), 4); /* its depth, again and again */
  CHECK_EQ(pdlb_port_in_flight(consumer), 0);
  CHECK_EQ(pdlb_port_release(consumer, 40), 0);
  const struct pdlb_port_stats stats = rig_port_stats(consumer);
  CHECK_EQ(stats.received, 40);
  CHECK_EQ(stats.in_flight, 0);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void wake_nobody(void *context, uint32_t port, uint32_t late, uint64_t grace) {
  (void)context, (void)port, (void)late, (void)grace;
}

static bool wait_for_nobody(void *context, uint32_t owner, uint32_t times) {
  (void)context, (void)owner, (void)times;
  FAIL("a lock is held, and there is one thread");
}

static const struct pdlb_engine_host alone = {.wake = wake_nobody, .now = software_now, .relax = wait_for_nobody};

/* Nor is it looked for: where a load-balanced port's history and its queue's flows would be, the pair has none, and a
 * domain of directed pairs ends. */
static void no_history_is_looked_at(void) {
  const struct pdlb_engine_config config = {.dir_queues = 1, .dir_ports = 1, .credits = 16};
  const size_t size = pdlb_engine_size(&config), page = (size_t)sysconf(_SC_PAGESIZE);
  char *region = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(region != MAP_FAILED);
  CHECK_EQ(mprotect(region + size, page, PROT_NONE), 0);
  struct pdlb_engine engine;
  struct pdlb_engine_user user;
  const char *why = NULL;
  pdlb_engine_format(region, &config);
  pdlb_engine_attach(&engine, region, &alone, NULL, 1);
  CHECK_EQ(pdlb_engine_port_create(&engine, &(struct pdlb_port_config){.cq_depth = 8}, true, PDLB_NONE, &why), 0);
  CHECK_EQ(pdlb_engine_dir_queue_create(&engine, 0, &why), 0);
  CHECK_EQ(pdlb_engine_start(&engine, &why), 0);
  pdlb_engine_use(&engine, pdlb_engine_port_index(&engine, 0, true), &user);
  const struct pdlb_event sent = rig_event(0, PDLB_SCHED_DIRECTED, 0, 0, 7);
  struct pdlb_event received;
  enum pdlb_refusal refusal;
  for (int round = 0; round < 2; round++) {
    CHECK_EQ(engine_send_one(&user, &sent, &refusal), 1);
    CHECK(round == 0 ? engine_take_only(&user, &received) : !engine_exchange_only(&user, &received));
    CHECK(!engine_release_oldest(&user));
    CHECK_EQ(pdlb_engine_release(&user, 1), 0);
  }
  CHECK_EQ(pdlb_engine_in_flight(&engine, user.index), 0);
  CHECK_EQ(munmap(region, size + page), 0);
}

/* Ids of directed and of load-balanced queues are counted apart. */
static void same_id_other_kind(void) {
  const struct rig rig = rig_open();
  const uint8_t balanced = rig_queue(&rig), directed = rig_directed_queue(&rig, PDLB_NONE);
  CHECK_EQ(balanced, directed); /* both are the first of their kind */
  struct pdlb_port *worker = rig_consumer(&rig, balanced), *sink = rig_directed_port(&rig, directed, 8);
  rig_start(&rig);
  rig_send_one(sink, balanced, PDLB_SCHED_UNORDERED, 0, 0, 1);
  send_directed(worker, directed, 0, 2);
  CHECK_RECEIVES(worker, 1);
  CHECK_RECEIVES(sink, 2);
  rig_close_port(worker);
  rig_close_port(sink);
  rig_close(&rig);
}

/* The queue outlives its port; who opens the port again finds what waited. */
static void what_waits_stays_when_the_port_closes(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_directed_port(&rig, queue, 8);
  rig_start(&rig);
  send_directed(producer, queue, 0, 1);
  rig_close_port(consumer);
  send_directed(producer, queue, 0, 2);
  consumer = rig_directed_port(&rig, queue, 8);
  CHECK_RECEIVES(consumer, 1, 2);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

CHECK_MAIN(CASE(either_half_may_be_made_first), CASE(two_halves_that_do_not_meet), CASE(first_in_first_out_by_priority),
           CASE(nothing_to_release), CASE(no_history_is_looked_at), CASE(same_id_other_kind),
           CASE(what_waits_stays_when_the_port_closes))
