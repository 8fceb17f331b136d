/* The descriptor: readable once the port was chosen for an element, never silent while one waits that nobody else
 * will take, and no more wake-ups than elements.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>

#include "rig.h"

enum { MANY = 6 };

struct crowd {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *ports[MANY];
  int fds[MANY];
};

static int fd_of(struct pdlb_port *port) {
  struct pdlb_error error = {0};
  const int fd = pdlb_port_fd(port, &error);
  CHECK_OK(fd, error);
  return fd;
}

static bool readable(int fd) {
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  CHECK_GE(poll(&descriptor, 1, 0), 0);
  CHECK_EQ(descriptor.revents & ~POLLIN, 0);
  return descriptor.revents & POLLIN;
}

static bool readable_within(int fd, int milliseconds) {
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  CHECK_GE(poll(&descriptor, 1, milliseconds), 0);
  return descriptor.revents & POLLIN;
}

static int count_readable(const struct crowd *crowd) {
  int count = 0;
  for (int i = 0; i < MANY; i++) count += readable(crowd->fds[i]);
  return count;
}

/* With a clock of our own: nothing happens behind the test's back. */
static struct crowd open_crowd(enum pdlb_sharing sharing) {
  struct crowd crowd = {.rig = rig_open()};
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_set_external_clock(crowd.rig.domain, true, &error), error);
  crowd.queue = rig_queue_with(&crowd.rig, &(struct pdlb_ldb_queue_config){.atomic_inflights = 64, .sharing = sharing});
  crowd.producer = rig_producer(&crowd.rig);
  for (int i = 0; i < MANY; i++) {
    crowd.ports[i] = rig_consumer(&crowd.rig, crowd.queue);
    crowd.fds[i] = fd_of(crowd.ports[i]);
  }
  rig_start(&crowd.rig);
  return crowd;
}

static void close_crowd(const struct crowd *crowd) {
  rig_close_port(crowd->producer);
  for (int i = 0; i < MANY; i++)
    if (crowd->ports[i]) rig_close_port(crowd->ports[i]);
  rig_close(&crowd->rig);
}

static void send(const struct crowd *crowd, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) rig_send_one(crowd->producer, crowd->queue, PDLB_SCHED_UNORDERED, 0, 0, i);
}

/* ---- one port --------------------------------------------------------------------------------------------------- */

static void readable_after_one_element(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_event events[4];
  for (int i = 1; i < MANY; i++) rig_unlink(crowd.ports[i], crowd.queue);
  CHECK(!readable(crowd.fds[0]));
  send(&crowd, 1);
  CHECK(readable(crowd.fds[0]));
  CHECK(readable(crowd.fds[0])); /* level-triggered */
  CHECK_EQ(rig_poll(crowd.ports[0], events, 4), 1);
  CHECK(!readable(crowd.fds[0])); /* fewer than asked: armed again, and nothing there */
  for (int round = 0; round < 20; round++) {
    send(&crowd, 1);
    CHECK(readable(crowd.fds[0]));
    CHECK_EQ(rig_poll(crowd.ports[0], events, 4), 1);
    CHECK_EQ(pdlb_port_release(crowd.ports[0], 1), 1);
  }
  CHECK_EQ(rig_port_stats(crowd.ports[0]).wakes, 21);
  close_crowd(&crowd);
}

static void descriptor_is_the_same_each_time(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  for (int i = 0; i < MANY; i++) {
    CHECK_EQ(fd_of(crowd.ports[i]), crowd.fds[i]);
    for (int j = 0; j < i; j++) CHECK_NE(crowd.fds[i], crowd.fds[j]);
  }
  close_crowd(&crowd);
}

/* Asked for when something waits already. */
static void readable_at_once_when_late(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  rig_start(&rig);
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 0, 1);
  CHECK(readable(fd_of(consumer)));
  CHECK_RECEIVES(consumer, 1);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* A recv that got all it asked for may have left something: the port is awake, and comes again by itself. */
static void full_recv_then_the_rest(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_event events[8];
  for (int i = 1; i < MANY; i++) rig_unlink(crowd.ports[i], crowd.queue);
  send(&crowd, 6);
  CHECK_EQ(rig_poll(crowd.ports[0], events, 4), 4);
  CHECK_EQ(rig_poll(crowd.ports[0], events, 4), 2);
  CHECK(!readable(crowd.fds[0]));
  send(&crowd, 1);
  CHECK(readable(crowd.fds[0]));
  close_crowd(&crowd);
}

/* A port of small depth gets less than it asks for and is armed: what is left makes it readable at once. */
static void small_depth_is_readable_for_the_rest(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port *consumer = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 2, .history_entries = 8});
  struct pdlb_event events[8];
  rig_link(consumer, queue, 0);
  rig_start(&rig);
  const int fd = fd_of(consumer);
  for (uint64_t i = 0; i < 5; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, i);
  for (uint32_t left = 5; left;) {
    CHECK(readable(fd));
    const uint32_t count = rig_poll(consumer, events, 8);
    CHECK_EQ(count, left < 2 ? left : 2);
    left -= count;
  }
  CHECK(!readable(fd));
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void directed_port_has_one_too(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_directed_port(&rig, queue, 8);
  const int fd = fd_of(consumer), silent = fd_of(producer);
  rig_start(&rig);
  for (uint64_t round = 0; round < 3; round++) {
    CHECK(!readable(fd));
    rig_send_one(producer, queue, PDLB_SCHED_DIRECTED, 0, 0, round);
    CHECK(readable(fd));
    CHECK(!readable(silent));
    CHECK_RECEIVES(consumer, round);
  }
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* ---- who is woken ----------------------------------------------------------------------------------------------- */

static void one_port_for_one_element(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  for (int sent = 1; sent <= MANY; sent++) {
    send(&crowd, 1);
    CHECK_EQ(count_readable(&crowd), sent);
    CHECK_EQ(rig_stats(&crowd.rig).wakes, sent);
  }
  send(&crowd, 3); /* everybody is awake: nobody more to wake */
  CHECK_EQ(count_readable(&crowd), MANY);
  CHECK_EQ(rig_stats(&crowd.rig).wakes, MANY);
  close_crowd(&crowd);
}

static void as_many_ports_as_elements_in_a_batch(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_event events[4];
  for (uint32_t i = 0; i < 4; i++) events[i] = rig_event(crowd.queue, PDLB_SCHED_UNORDERED, i, 0, i);
  rig_send(crowd.producer, events, 4);
  CHECK_EQ(count_readable(&crowd), 4);
  CHECK_EQ(rig_stats(&crowd.rig).wakes, 4);
  close_crowd(&crowd);
}

/* One that is busy is not armed, and gets no system call. */
static void nobody_who_is_not_armed(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_event event;
  send(&crowd, MANY + 1);
  for (int i = 0; i < MANY; i++) CHECK_EQ(rig_poll(crowd.ports[i], &event, 1), 1); /* all they asked for: not armed */
  CHECK_EQ(count_readable(&crowd), 0);
  for (int i = 0; i < MANY; i++) CHECK(!rig_port_stats(crowd.ports[i]).armed);
  send(&crowd, 5);
  CHECK_EQ(count_readable(&crowd), 0);
  CHECK_EQ(rig_stats(&crowd.rig).wakes, MANY);
  close_crowd(&crowd);
}

static void least_in_flight_first(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_event events[32];
  for (int i = 0; i < MANY; i++) { /* the last one holds least */
    send(&crowd, (uint32_t)(MANY - i));
    CHECK_EQ(rig_poll(crowd.ports[i], events, 32), MANY - i);
  }
  for (int i = 0; i < MANY; i++) CHECK_EQ(rig_poll(crowd.ports[i], events, 32), 0);
  CHECK_EQ(count_readable(&crowd), 0);
  for (int i = MANY - 1; i >= 0; i--) {
    send(&crowd, 1);
    CHECK(readable(crowd.fds[i]));
    CHECK_EQ(count_readable(&crowd), MANY - i);
  }
  close_crowd(&crowd);
}

/* What is put off counts at once. */
static void released_later_is_not_in_flight(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_event events[8];
  for (int i = 0; i < MANY; i++) {
    send(&crowd, 3);
    CHECK_EQ(rig_poll(crowd.ports[i], events, 8), 3);
  }
  for (int i = 0; i < MANY; i++) CHECK_EQ(rig_poll(crowd.ports[i], events, 8), 0); /* armed */
  CHECK_EQ(count_readable(&crowd), 0);
  pdlb_port_release_later(crowd.ports[4], 2);
  send(&crowd, 1);
  CHECK(readable(crowd.fds[4]));
  close_crowd(&crowd);
}

static void known_idle_before_believed_idle(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  pdlb_port_parked(crowd.ports[3], true);
  send(&crowd, 1);
  CHECK(readable(crowd.fds[3]));
  CHECK_EQ(count_readable(&crowd), 1);
  close_crowd(&crowd);
}

static void full_and_disabled_ports_are_passed_over(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct pdlb_error error = {0};
  for (int i = 0; i < MANY; i++)
    if (i != 2) CHECK_OK(pdlb_port_disable(crowd.ports[i], &error), error);
  send(&crowd, 1);
  CHECK(readable(crowd.fds[2]));
  CHECK_EQ(count_readable(&crowd), 1);
  close_crowd(&crowd);
}

/* ---- nothing is forgotten --------------------------------------------------------------------------------------- */

/* The woken port goes before it has taken the element: another one is told. */
static int index_of_woken(const struct crowd *crowd) {
  for (int i = 0; i < MANY; i++)
    if (readable(crowd->fds[i])) return i;
  FAIL("nobody was woken");
}

static bool another_is_told(const struct crowd *crowd, int but) {
  for (int i = 0; i < MANY; i++)
    if (i != but && readable(crowd->fds[i])) return true;
  return false;
}

static void woken_port_is_disabled(void) {
  for (int parked = 0; parked < 2; parked++) {
    const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
    struct pdlb_error error = {0};
    for (int i = 0; i < MANY && parked; i++) pdlb_port_parked(crowd.ports[i], true);
    send(&crowd, 1);
    const int woken = index_of_woken(&crowd);
    CHECK_OK(pdlb_port_disable(crowd.ports[woken], &error), error);
    CHECK(another_is_told(&crowd, woken));
    close_crowd(&crowd);
  }
}

static void woken_port_is_unlinked(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  send(&crowd, 1);
  const int woken = index_of_woken(&crowd);
  rig_unlink(crowd.ports[woken], crowd.queue);
  CHECK(another_is_told(&crowd, woken));
  close_crowd(&crowd);
}

static void woken_port_is_closed(void) {
  struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  send(&crowd, 1);
  const int woken = index_of_woken(&crowd);
  rig_close_port(crowd.ports[woken]);
  crowd.ports[woken] = NULL;
  bool told = false;
  for (int i = 0; i < MANY; i++) told |= i != woken && readable(crowd.fds[i]);
  CHECK(told);
  close_crowd(&crowd);
}

/* Cancelled, it will not take anything either. */
static void woken_port_is_cancelled(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  send(&crowd, 1);
  const int woken = index_of_woken(&crowd);
  pdlb_port_cancel(crowd.ports[woken]);
  CHECK(another_is_told(&crowd, woken));
  close_crowd(&crowd);
}

static void cancelled_port_is_not_chosen(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  for (int i = 0; i < MANY; i++)
    if (i != 3) pdlb_port_cancel(crowd.ports[i]);
  send(&crowd, 1);
  CHECK(readable(crowd.fds[3]));
  close_crowd(&crowd);
}

/* An armed port that is full becomes readable when it has room again. */
static void readable_after_release_made_room(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port *consumer = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 4, .history_entries = 2});
  struct pdlb_event events[4];
  rig_link(consumer, queue, 0);
  rig_start(&rig);
  const int fd = fd_of(consumer);
  for (uint64_t i = 0; i < 6; i++) rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, i);
  CHECK_EQ(rig_poll(consumer, events, 4), 2);
  CHECK_EQ(rig_poll(consumer, events, 4), 0);
  CHECK(!readable(fd)); /* there is work, but none that it could take */
  CHECK_EQ(pdlb_port_release(consumer, 1), 1);
  CHECK(readable(fd));
  CHECK_EQ(rig_poll(consumer, events, 4), 1);
  CHECK(!readable(fd));
  pdlb_port_release_later(consumer, 1);
  CHECK(readable(fd));
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* A flow in flight elsewhere: nothing that this port could take, so no busy loop; told when the flow is free. */
static void silent_while_the_flow_is_elsewhere(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *holder = rig_consumer(&rig, queue),
                   *idle = rig_consumer(&rig, queue);
  struct pdlb_event event;
  rig_start(&rig);
  const int fd = fd_of(idle);
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 1, 1);
  CHECK_RECEIVES(holder, 1);
  rig_poll(idle, &event, 1); /* it may have been told of the first one */
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 1, 2);
  for (int round = 0; round < 2 && readable(fd); round++) CHECK_EQ(rig_poll(idle, &event, 1), 0);
  CHECK(!readable(fd));
  CHECK_EQ(pdlb_port_release(holder, 1), 1);
  CHECK(readable(fd));
  CHECK_RECEIVES(idle, 2);
  rig_close_port(producer);
  rig_close_port(holder);
  rig_close_port(idle);
  rig_close(&rig);
}

/* The same for the limit of elements in flight. */
static void silent_while_the_queue_is_at_its_limit(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){.inflights = 1});
  struct pdlb_port *producer = rig_producer(&rig), *holder = rig_consumer(&rig, queue),
                   *idle = rig_consumer(&rig, queue);
  struct pdlb_event event;
  rig_start(&rig);
  const int fd = fd_of(idle);
  rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 1, 1);
  CHECK_RECEIVES(holder, 1);
  rig_poll(idle, &event, 1);
  rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 1, 2);
  for (int round = 0; round < 2 && readable(fd); round++) CHECK_EQ(rig_poll(idle, &event, 1), 0);
  CHECK(!readable(fd));
  CHECK_EQ(pdlb_port_release(holder, 1), 1);
  CHECK(readable(fd));
  rig_close_port(producer);
  rig_close_port(holder);
  rig_close_port(idle);
  rig_close(&rig);
}

/* The element is for a flow of the port that sleeps, not of the one that was woken for it. */
static void owner_of_the_flow_is_told(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *holder = rig_consumer(&rig, queue),
                   *idle = rig_consumer(&rig, queue);
  struct pdlb_event event;
  const int holder_fd = fd_of(holder), idle_fd = fd_of(idle);
  rig_start(&rig);
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 1, 1);
  CHECK_RECEIVES(holder, 1);
  CHECK_EQ(rig_poll(holder, &event, 1), 0);
  CHECK_EQ(rig_poll(idle, &event, 1), 0);
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 1, 2);
  if (readable(idle_fd)) CHECK_EQ(rig_poll(idle, &event, 1), 0);
  CHECK(readable(holder_fd));
  CHECK_RECEIVES(holder, 2);
  rig_close_port(producer);
  rig_close_port(holder);
  rig_close_port(idle);
  rig_close(&rig);
}

/* ---- with the rest of the world --------------------------------------------------------------------------------- */

static void cancel_makes_it_readable(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  pdlb_port_cancel(crowd.ports[0]);
  CHECK(readable(crowd.fds[0]));
  CHECK_EQ(count_readable(&crowd), 1);
  close_crowd(&crowd);
}

/* Also where it was asked for only afterwards. */
static void descriptor_of_a_cancelled_port_is_readable(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *port = rig_consumer(&rig, rig_queue(&rig));
  pdlb_port_cancel(port);
  CHECK(readable(fd_of(port)));
  rig_close_port(port);
  rig_close(&rig);
}

static void edge_triggered_epoll(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  struct epoll_event ready = {.events = EPOLLIN | EPOLLET};
  struct pdlb_event events[4];
  const int set = epoll_create1(EPOLL_CLOEXEC);
  CHECK_GE(set, 0);
  for (int i = 1; i < MANY; i++) rig_unlink(crowd.ports[i], crowd.queue);
  CHECK_EQ(epoll_ctl(set, EPOLL_CTL_ADD, crowd.fds[0], &ready), 0);
  for (int round = 0; round < 10; round++) {
    CHECK_EQ(epoll_wait(set, &ready, 1, 0), 0);
    send(&crowd, 1);
    CHECK_EQ(epoll_wait(set, &ready, 1, 0), 1);
    CHECK_EQ(rig_poll(crowd.ports[0], events, 4), 1);
    CHECK_EQ(pdlb_port_release(crowd.ports[0], 1), 1);
  }
  close(set);
  close_crowd(&crowd);
}

static int open_descriptors(void) {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

static void descriptors_are_closed_with_their_port(void) {
  const int before = open_descriptors();
  for (int round = 0; round < 3; round++) {
    const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
    send(&crowd, 3);
    close_crowd(&crowd);
    CHECK_EQ(open_descriptors(), before);
  }
}

/* ---- the grace -------------------------------------------------------------------------------------------------- */

/* The domain's own clock: the woken port does not come, so another is told, without anybody's help. */
static void another_is_told_after_the_grace(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *ports[2];
  int fds[2];
  for (int i = 0; i < 2; i++) {
    ports[i] = rig_consumer(&rig, queue);
    fds[i] = fd_of(ports[i]);
  }
  rig_start(&rig);
  rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, 1);
  CHECK(readable_within(fds[0], 10000) && readable_within(fds[1], 10000));
  struct pdlb_event event;
  const uint32_t first = rig_poll(ports[0], &event, 1), second = rig_poll(ports[1], &event, 1);
  CHECK_EQ(first, 1); /* whoever comes has it, and the other finds nothing */
  CHECK_EQ(second, 0);
  CHECK(!readable(fds[1]));
  rig_close_port(producer);
  rig_close_port(ports[0]);
  rig_close_port(ports[1]);
  rig_close(&rig);
}

/* All of many in turn, until one comes: nobody is the last hope. */
static void all_are_told_in_the_end(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *ports[MANY];
  int fds[MANY];
  for (int i = 0; i < MANY; i++) {
    ports[i] = rig_consumer(&rig, queue);
    fds[i] = fd_of(ports[i]);
  }
  rig_start(&rig);
  rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, 1);
  int told = 0;
  /* Those that are told come, but too late for nothing: they only look at the descriptor. The element stays. */
  for (int i = 0; i < MANY; i++) told += readable_within(fds[i], i < 2 ? 10000 : 0);
  CHECK_GE(told, 2);
  CHECK_RECEIVES(ports[MANY - 1], 1);
  rig_close_port(producer);
  for (int i = 0; i < MANY; i++) rig_close_port(ports[i]);
  rig_close(&rig);
}

/* A clock outside: nothing happens by itself, and the tick says when it wants to be called again. */
static void ticks_tell_the_next_one(void) {
  const struct crowd crowd = open_crowd(PDLB_SHARE_PULL);
  const uint64_t begin = pdlb_now();
  CHECK_EQ(pdlb_domain_tick(crowd.rig.domain, begin), PDLB_FOREVER);
  send(&crowd, 1);
  CHECK_EQ(count_readable(&crowd), 1);
  uint64_t next = pdlb_domain_tick(crowd.rig.domain, pdlb_now());
  CHECK_GT(next, begin);
  CHECK_LE(next, pdlb_now() + 200000); /* the default grace */
  CHECK_EQ(count_readable(&crowd), 1);
  for (int told = 2; told <= MANY; told++) {
    next = pdlb_domain_tick(crowd.rig.domain, next);
    CHECK_EQ(count_readable(&crowd), told);
    CHECK_EQ(rig_stats(&crowd.rig).rewakes, told - 1);
  }
  CHECK_NE(next, PDLB_FOREVER);
  struct pdlb_event event;
  CHECK_EQ(rig_poll(crowd.ports[0], &event, 1), 1);
  CHECK_EQ(pdlb_domain_tick(crowd.rig.domain, next), PDLB_FOREVER);
  close_crowd(&crowd);
}

static void tick_keeps_the_queues_grace(void) {
  const struct rig rig = rig_open();
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_set_external_clock(rig.domain, true, &error), error);
  const uint64_t grace = 50000000;
  const uint8_t queue = rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){.grace_ns = grace});
  struct pdlb_port *producer = rig_producer(&rig), *ports[2] = {rig_consumer(&rig, queue), rig_consumer(&rig, queue)};
  const int fds[2] = {fd_of(ports[0]), fd_of(ports[1])};
  rig_start(&rig);
  rig_send_one(producer, queue, PDLB_SCHED_UNORDERED, 0, 0, 1);
  const uint64_t sent = pdlb_now();
  const uint64_t next = pdlb_domain_tick(rig.domain, sent);
  CHECK_LE(next, sent + grace);
  CHECK_EQ(pdlb_domain_tick(rig.domain, next - 1), next);
  CHECK_EQ(readable(fds[0]) + readable(fds[1]), 1);
  pdlb_domain_tick(rig.domain, next);
  CHECK_EQ(readable(fds[0]) + readable(fds[1]), 2);
  rig_close_port(producer);
  rig_close_port(ports[0]);
  rig_close_port(ports[1]);
  rig_close(&rig);
}

CHECK_MAIN(CASE(readable_after_one_element), CASE(descriptor_is_the_same_each_time), CASE(readable_at_once_when_late),
           CASE(full_recv_then_the_rest), CASE(small_depth_is_readable_for_the_rest), CASE(directed_port_has_one_too),
           CASE(one_port_for_one_element), CASE(as_many_ports_as_elements_in_a_batch), CASE(nobody_who_is_not_armed),
           CASE(least_in_flight_first), CASE(released_later_is_not_in_flight), CASE(known_idle_before_believed_idle),
           CASE(full_and_disabled_ports_are_passed_over), CASE(woken_port_is_disabled), CASE(woken_port_is_unlinked),
           CASE(woken_port_is_closed), CASE(woken_port_is_cancelled), CASE(cancelled_port_is_not_chosen),
           CASE(readable_after_release_made_room), CASE(silent_while_the_flow_is_elsewhere),
           CASE(silent_while_the_queue_is_at_its_limit), CASE(owner_of_the_flow_is_told),
           CASE(cancel_makes_it_readable), CASE(descriptor_of_a_cancelled_port_is_readable), CASE(edge_triggered_epoll),
           CASE(descriptors_are_closed_with_their_port), CASE(another_is_told_after_the_grace),
           CASE(all_are_told_in_the_end), CASE(ticks_tell_the_next_one), CASE(tick_keeps_the_queues_grace))
