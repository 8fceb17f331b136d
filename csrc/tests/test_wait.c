/* Blocking waits: they end for work, a deadline, a signal, and pdlb_port_cancel, and for nothing else. */
#include <poll.h>
#include <sys/time.h>

#include "rig.h"

enum { MILLISECOND = 1000000 };

struct waiting {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *producer, *consumer;
  pthread_t thread;
  int result;
  struct pdlb_event event;
  _Atomic bool about_to_wait;
};

static void open_waiting(struct waiting *waiting) {
  memset(waiting, 0, sizeof *waiting);
  waiting->rig = rig_open();
  waiting->queue = rig_queue(&waiting->rig);
  waiting->producer = rig_producer(&waiting->rig);
  waiting->consumer = rig_consumer(&waiting->rig, waiting->queue);
  rig_start(&waiting->rig);
}

static void close_waiting(const struct waiting *waiting) {
  rig_close_port(waiting->producer);
  rig_close_port(waiting->consumer);
  rig_close(&waiting->rig);
}

static void send_one(const struct waiting *waiting, uint64_t data) {
  rig_send_one(waiting->producer, waiting->queue, PDLB_SCHED_UNORDERED, 0, 0, data);
}

static void *wait_for_ever(void *argument) {
  struct waiting *waiting = argument;
  atomic_store(&waiting->about_to_wait, true);
  waiting->result = pdlb_port_recv(waiting->consumer, &waiting->event, 1, PDLB_FOREVER);
  return NULL;
}

/* Gets less than it asks for. */
static void *wait_for_more(void *argument) {
  struct waiting *waiting = argument;
  struct pdlb_event events[4];
  atomic_store(&waiting->about_to_wait, true);
  waiting->result = pdlb_port_recv(waiting->consumer, events, 4, PDLB_FOREVER);
  return NULL;
}

/* Until it sleeps, as far as the engine tells: a port in a wait is armed. */
static void start_waiting_by(struct waiting *waiting, void *(*wait)(void *)) {
  CHECK_EQ(pthread_create(&waiting->thread, NULL, wait, waiting), 0);
  while (!atomic_load(&waiting->about_to_wait) || !rig_port_stats(waiting->consumer).armed) sched_yield();
}

static void start_waiting(struct waiting *waiting) { start_waiting_by(waiting, wait_for_ever); }

static bool readable(int fd) {
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  CHECK_GE(poll(&descriptor, 1, 0), 0);
  return descriptor.revents & POLLIN;
}

static void past_deadlines_poll_once(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  struct pdlb_event event;
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, 0), 0);
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, 1), 0);
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, pdlb_now() - 1), 0);
  send_one(&waiting, 5);
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, 0), 1);
  close_waiting(&waiting);
}

static void deadline_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  struct pdlb_event event;
  for (uint64_t wait = 0; wait < 4; wait++) {
    const uint64_t deadline = pdlb_now() + wait * 3 * MILLISECOND;
    CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, deadline), 0);
    CHECK_GE(pdlb_now(), deadline);
  }
  close_waiting(&waiting);
}

static void far_deadlines_are_like_never(void) {
  static const uint64_t deadlines[] = {PDLB_FOREVER, PDLB_FOREVER - 1, PDLB_FOREVER / 2, INT64_MAX};
  for (size_t i = 0; i < sizeof deadlines / sizeof *deadlines; i++) {
    struct waiting waiting;
    open_waiting(&waiting);
    start_waiting(&waiting);
    send_one(&waiting, 7);
    pthread_join(waiting.thread, NULL);
    CHECK_EQ(waiting.result, 1);
    struct pdlb_event event;
    send_one(&waiting, 8);
    CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, deadlines[i]), 1);
    close_waiting(&waiting);
  }
}

static void work_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  start_waiting(&waiting);
  send_one(&waiting, 42);
  pthread_join(waiting.thread, NULL);
  CHECK_EQ(waiting.result, 1);
  CHECK_EQ(waiting.event.data, 42);
  CHECK(!rig_port_stats(waiting.consumer).armed);
  close_waiting(&waiting);
}

static void cancel_ends_the_wait_and_all_later_ones(void) {
  struct waiting waiting;
  struct pdlb_event event;
  open_waiting(&waiting);
  start_waiting(&waiting);
  pdlb_port_cancel(waiting.consumer);
  pthread_join(waiting.thread, NULL);
  CHECK_EQ(waiting.result, -ECANCELED);
  send_one(&waiting, 1);
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, PDLB_FOREVER), -ECANCELED);
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, 0), -ECANCELED);
  CHECK_EQ(rig_depth(&waiting.rig, waiting.queue), 1); /* nothing is lost in it */
  pdlb_port_cancel(waiting.consumer);
  rig_close_port(waiting.consumer);
  waiting.consumer = rig_consumer(&waiting.rig, waiting.queue); /* cancelled was the port, not its place */
  CHECK_RECEIVES(waiting.consumer, 1);
  close_waiting(&waiting);
}

static void cancel_before_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  pdlb_port_cancel(waiting.consumer);
  wait_for_ever(&waiting);
  CHECK_EQ(waiting.result, -ECANCELED);
  close_waiting(&waiting);
}

/* Cancel at any moment of a wait's beginning; a lost one hangs. */
static void cancel_races_with_the_wait(void) {
  struct check_random random = check_randomness(0);
  for (int round = 0; round < 300; round++) {
    struct waiting waiting;
    open_waiting(&waiting);
    CHECK_EQ(pthread_create(&waiting.thread, NULL, wait_for_ever, &waiting), 0);
    while (!atomic_load(&waiting.about_to_wait)) continue;
    for (volatile uint32_t spin = check_below(&random, 3000); spin; spin--) continue;
    pdlb_port_cancel(waiting.consumer);
    pthread_join(waiting.thread, NULL);
    CHECK_EQ(waiting.result, -ECANCELED);
    close_waiting(&waiting);
  }
}

static void on_signal(int signal) { (void)signal; }

static void wait_until_a_signal(struct waiting *waiting) {
  const struct sigaction action = {.sa_handler = on_signal}; /* without SA_RESTART, as CPython installs them */
  CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
  start_waiting(waiting);
  /* One signal may come before the thread sleeps, and is then only a signal: repeat until it is back. */
  while (pthread_kill(waiting->thread, SIGUSR1) == 0) {
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 2 * MILLISECOND;
    if (soon.tv_nsec >= 1000000000) soon.tv_sec++, soon.tv_nsec -= 1000000000;
    if (pthread_timedjoin_np(waiting->thread, NULL, &soon) == 0) break;
  }
  CHECK_EQ(waiting->result, -EINTR);
}

static void signal_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  wait_until_a_signal(&waiting);
  struct pdlb_event event; /* the port is as before */
  send_one(&waiting, 3);
  CHECK_EQ(pdlb_port_recv(waiting.consumer, &event, 1, PDLB_FOREVER), 1);
  close_waiting(&waiting);
}

/* Whoever waits by descriptor after that is told of what comes. */
static void descriptor_is_good_after_a_signal(void) {
  struct waiting waiting;
  struct pdlb_error error = {0};
  open_waiting(&waiting);
  const int fd = pdlb_port_fd(waiting.consumer, &error);
  CHECK_OK(fd, error);
  wait_until_a_signal(&waiting);
  CHECK(!readable(fd));
  send_one(&waiting, 1);
  CHECK(readable(fd));
  CHECK_RECEIVES(waiting.consumer, 1);
  close_waiting(&waiting);
}

/* The same after a wait in which another thread took the descriptor. */
static void descriptor_is_good_when_taken_during_a_wait(void) {
  struct waiting waiting;
  struct pdlb_error error = {0};
  open_waiting(&waiting);
  start_waiting_by(&waiting, wait_for_more);
  const int fd = pdlb_port_fd(waiting.consumer, &error);
  CHECK_OK(fd, error);
  send_one(&waiting, 1);
  pthread_join(waiting.thread, NULL);
  CHECK_EQ(waiting.result, 1);
  if (readable(fd)) CHECK_RECEIVES_NOTHING(waiting.consumer); /* said of what the wait has taken already */
  CHECK(!readable(fd));
  send_one(&waiting, 2);
  CHECK(readable(fd));
  CHECK_RECEIVES(waiting.consumer, 2);
  close_waiting(&waiting);
}

/* Who receives next without being told is not told; and after that receive it is. */
static void descriptor_is_silent_while_the_receive_comes(void) {
  struct waiting waiting;
  struct pdlb_error error = {0};
  struct pdlb_event events[4];
  open_waiting(&waiting);
  const int fd = pdlb_port_fd(waiting.consumer, &error);
  CHECK_OK(fd, error);
  CHECK_RECEIVES_NOTHING(waiting.consumer);
  for (uint64_t i = 0; i < 3; i++) {
    CHECK(!pdlb_port_has_work(waiting.consumer));
    pdlb_port_expect(waiting.consumer);
    send_one(&waiting, i);
    CHECK(!readable(fd));
    CHECK(pdlb_port_has_work(waiting.consumer));
    CHECK_EQ(pdlb_port_recv(waiting.consumer, events, 4, 0), 1);
    CHECK_EQ(events[0].data, i);
    send_one(&waiting, 10 + i);
    CHECK(readable(fd));
    CHECK_EQ(pdlb_port_recv(waiting.consumer, events, 4, 0), 1);
    CHECK_EQ(events[0].data, 10 + i);
    CHECK(!readable(fd));
  }
  close_waiting(&waiting);
}

static void *send_many(void *argument) {
  const struct waiting *waiting = argument;
  const uint64_t count = check_setting("PDLB_STRESS_EVENTS", 40000);
  for (uint64_t i = 0; i < count; i++) {
    const struct pdlb_event event = rig_event(waiting->queue, PDLB_SCHED_UNORDERED, 0, 0, i);
    enum pdlb_refusal why;
    while (pdlb_port_send(waiting->producer, &event, 1, &why) == 0) sched_yield(); /* the receiver is behind */
    if (i % 16 == 0) sched_yield();
  }
  return NULL;
}

/* However a sender meets it. */
static void expected_receives_lose_nothing(void) {
  struct waiting waiting;
  struct pdlb_error error = {0};
  const uint64_t count = check_setting("PDLB_STRESS_EVENTS", 40000);
  open_waiting(&waiting);
  struct pollfd poll_fd = {.fd = pdlb_port_fd(waiting.consumer, &error), .events = POLLIN};
  CHECK_OK(poll_fd.fd, error);
  CHECK_EQ(pthread_create(&waiting.thread, NULL, send_many, &waiting), 0);
  for (uint64_t next = 0; next < count;) {
    struct pdlb_event events[4];
    pdlb_port_expect(waiting.consumer);
    const int received = pdlb_port_recv(waiting.consumer, events, 4, 0);
    for (int i = 0; i < received; i++) CHECK_EQ(events[i].data, next++);
    pdlb_port_release(waiting.consumer, (uint32_t)received);
    if (received < 4 && next < count) CHECK_EQ(poll(&poll_fd, 1, 10000), 1);
  }
  pthread_join(waiting.thread, NULL);
  close_waiting(&waiting);
}

/* Under a storm of signals, no element is lost and none comes twice. */
static void signals_lose_nothing(void) {
  struct waiting waiting;
  const struct sigaction action = {.sa_handler = on_signal};
  const struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
  CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
  open_waiting(&waiting);
  CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
  for (uint64_t i = 0; i < 300; i++) {
    struct pdlb_event event;
    int received;
    const uint64_t deadline = pdlb_now() + MILLISECOND;
    while (i % 3 == 0 && pdlb_port_recv(waiting.consumer, &event, 1, deadline) == -EINTR) continue;
    send_one(&waiting, i);
    do received = pdlb_port_recv(waiting.consumer, &event, 1, PDLB_FOREVER);
    while (received == -EINTR);
    CHECK_EQ(received, 1);
    CHECK_EQ(event.data, i);
    CHECK_EQ(pdlb_port_release(waiting.consumer, 1), 1);
  }
  CHECK_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
  close_waiting(&waiting);
}

/* Everything that makes an element eligible ends a wait for it. */
static void expect_wait_to_end(struct waiting *waiting, uint64_t data) {
  pthread_join(waiting->thread, NULL);
  CHECK_EQ(waiting->result, 1);
  CHECK_EQ(waiting->event.data, data);
}

static void link_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  rig_unlink(waiting.consumer, waiting.queue);
  send_one(&waiting, 1);
  start_waiting(&waiting);
  rig_link(waiting.consumer, waiting.queue, 0);
  expect_wait_to_end(&waiting, 1);
  close_waiting(&waiting);
}

static void enable_ends_the_wait(void) {
  struct waiting waiting;
  struct pdlb_error error = {0};
  open_waiting(&waiting);
  CHECK_OK(pdlb_port_disable(waiting.consumer, &error), error);
  send_one(&waiting, 1);
  start_waiting(&waiting);
  CHECK_OK(pdlb_port_enable(waiting.consumer, &error), error);
  expect_wait_to_end(&waiting, 1);
  close_waiting(&waiting);
}

/* Another port's release of the flow, or of a place among the queue's elements in flight. */
static void release_by_another_ends_the_wait(void) {
  for (int limited = 0; limited < 2; limited++) {
    struct waiting waiting;
    open_waiting(&waiting);
    if (limited) {
      const struct pdlb_ldb_queue_config one = {.inflights = 1, .atomic_inflights = 8};
      rig_unlink(waiting.consumer, waiting.queue);
      waiting.queue = rig_queue_with(&waiting.rig, &one);
      rig_link(waiting.consumer, waiting.queue, 0);
    }
    struct pdlb_port *holder = rig_consumer(&waiting.rig, waiting.queue);
    const enum pdlb_sched type = limited ? PDLB_SCHED_UNORDERED : PDLB_SCHED_ATOMIC;
    rig_send_one(waiting.producer, waiting.queue, type, 0, 4, 1);
    CHECK_RECEIVES(holder, 1);
    rig_send_one(waiting.producer, waiting.queue, type, 0, 4, 2);
    start_waiting(&waiting);
    CHECK_EQ(pdlb_port_release(holder, 1), 1);
    expect_wait_to_end(&waiting, 2);
    rig_close_port(holder);
    close_waiting(&waiting);
  }
}

static void closing_of_the_holder_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  struct pdlb_port *holder = rig_consumer(&waiting.rig, waiting.queue);
  rig_send_one(waiting.producer, waiting.queue, PDLB_SCHED_ATOMIC, 0, 4, 1);
  CHECK_RECEIVES(holder, 1);
  rig_send_one(waiting.producer, waiting.queue, PDLB_SCHED_ATOMIC, 0, 4, 2);
  start_waiting(&waiting);
  rig_close_port(holder);
  expect_wait_to_end(&waiting, 2);
  close_waiting(&waiting);
}

/* Room in the line of an ordered queue. */
static void moving_line_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  const uint8_t ordered = rig_ordered_queue(&waiting.rig, 64);
  struct pdlb_port *holder =
      rig_port_with(&waiting.rig, &(struct pdlb_port_config){.cq_depth = 64, .history_entries = 64});
  struct pdlb_event events[64];
  rig_link(holder, ordered, 0);
  rig_link(waiting.consumer, ordered, 0);
  for (uint64_t i = 0; i < 65; i++) rig_send_one(waiting.producer, ordered, PDLB_SCHED_ORDERED, 0, 0, i);
  CHECK_EQ(rig_poll(holder, events, 64), 64);
  start_waiting(&waiting);
  CHECK_EQ(pdlb_port_release(holder, 1), 1);
  expect_wait_to_end(&waiting, 64);
  rig_close_port(holder);
  close_waiting(&waiting);
}

/* A full port sleeps although there is work; releasing later, from another thread, wakes it. */
static void release_later_ends_the_wait(void) {
  struct waiting waiting;
  open_waiting(&waiting);
  rig_close_port(waiting.consumer);
  waiting.consumer = rig_port_with(&waiting.rig, &(struct pdlb_port_config){.cq_depth = 1, .history_entries = 1});
  rig_link(waiting.consumer, waiting.queue, 0);
  send_one(&waiting, 1);
  send_one(&waiting, 2);
  CHECK_RECEIVES(waiting.consumer, 1);
  start_waiting(&waiting);
  pdlb_port_release_later(waiting.consumer, 1);
  expect_wait_to_end(&waiting, 2);
  close_waiting(&waiting);
}

/* Even sharing: only a busy port is due, and the idle one sleeps already. */
static void sleeper_takes_what_a_busy_port_leaves(void) {
  struct waiting waiting;
  struct pdlb_event event;
  open_waiting(&waiting);
  const uint8_t even = rig_queue_with(&waiting.rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_EVEN});
  struct pdlb_port *busy = rig_consumer(&waiting.rig, even);
  rig_link(waiting.consumer, even, 0);
  for (uint64_t i = 0; i < 2; i++) rig_send_one(waiting.producer, even, PDLB_SCHED_UNORDERED, 0, 0, i);
  CHECK_EQ(rig_poll(busy, &event, 1), 1);
  CHECK_EQ(rig_poll(waiting.consumer, &event, 1), 1);
  CHECK_EQ(pdlb_port_release(busy, 1), 1); /* the least in flight, and away */
  start_waiting(&waiting);
  rig_send_one(waiting.producer, even, PDLB_SCHED_UNORDERED, 0, 0, 7);
  expect_wait_to_end(&waiting, 7);
  CHECK(rig_port_stats(busy).stalled);
  rig_close_port(busy);
  close_waiting(&waiting);
}

/* One element back and forth, so that any lost wake-up hangs. One player polls and answers after a random moment, the
 * other goes to sleep after one, both about as long as falling asleep takes: the answer comes at every point of it.
 * Built with the second look before the sleep taken out, this must fail.
 */
struct table {
  struct rig rig;
  uint8_t queues[2];
  struct pdlb_port *sleeper, *answerer;
  uint64_t rounds;
};

static void dawdle(struct check_random *random) {
  for (volatile uint32_t spin = check_below(random, 1000); spin; spin--) continue;
}

/* To one of the processors that this process may use, if there are several: on the same one, nobody answers while the
 * other falls asleep. */
static void stay_on(int which) {
  cpu_set_t allowed, one;
  CHECK_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || which-- > 0) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    CHECK_EQ(pthread_setaffinity_np(pthread_self(), sizeof one, &one), 0);
    return;
  }
}

static void *answer(void *argument) {
  const struct table *table = argument;
  struct check_random random = check_randomness(7);
  stay_on(1);
  for (uint64_t round = 0; round < table->rounds; round++) {
    struct pdlb_event event;
    while (rig_poll(table->answerer, &event, 1) == 0)
      if (check_below(&random, 256) == 0) sched_yield();
    CHECK_EQ(event.data, round);
    CHECK_EQ(pdlb_port_release(table->answerer, 1), 1);
    dawdle(&random);
    rig_send_one(table->answerer, table->queues[0], PDLB_SCHED_UNORDERED, 0, 0, round);
  }
  return NULL;
}

static void *ask(void *argument) {
  const struct table *table = argument;
  struct check_random random = check_randomness(8);
  stay_on(0);
  for (uint64_t round = 0; round < table->rounds; round++) {
    struct pdlb_event event;
    rig_send_one(table->sleeper, table->queues[1], PDLB_SCHED_UNORDERED, 0, 0, round);
    dawdle(&random);
    CHECK_EQ(pdlb_port_recv(table->sleeper, &event, 1, PDLB_FOREVER), 1);
    CHECK_EQ(event.data, round);
    CHECK_EQ(pdlb_port_release(table->sleeper, 1), 1);
    if (round % 1024 == 0) check_still_alive();
  }
  return NULL;
}

static void every_answer_wakes_the_sleeper(void) {
  struct table table = {.rig = rig_open(), .rounds = check_setting("PDLB_STRESS_EVENTS", 40000)};
  pthread_t asking, answering;
  check_randomness(0); /* the seed is drawn before there are threads */
  for (int i = 0; i < 2; i++) table.queues[i] = rig_queue(&table.rig);
  table.sleeper = rig_consumer(&table.rig, table.queues[0]);
  table.answerer = rig_consumer(&table.rig, table.queues[1]);
  rig_start(&table.rig);
  CHECK_EQ(pthread_create(&answering, NULL, answer, &table), 0);
  CHECK_EQ(pthread_create(&asking, NULL, ask, &table), 0);
  pthread_join(asking, NULL);
  pthread_join(answering, NULL);
  rig_close_port(table.sleeper);
  rig_close_port(table.answerer);
  rig_close(&table.rig);
}

CHECK_MAIN(CASE(past_deadlines_poll_once), CASE(deadline_ends_the_wait), CASE(far_deadlines_are_like_never),
           CASE(work_ends_the_wait), CASE(cancel_ends_the_wait_and_all_later_ones), CASE(cancel_before_the_wait),
           CASE(cancel_races_with_the_wait), CASE(signal_ends_the_wait), CASE(descriptor_is_good_after_a_signal),
           CASE(descriptor_is_good_when_taken_during_a_wait), CASE(descriptor_is_silent_while_the_receive_comes),
           CASE(expected_receives_lose_nothing), CASE(signals_lose_nothing), CASE(link_ends_the_wait),
           CASE(enable_ends_the_wait), CASE(release_by_another_ends_the_wait),
           CASE(closing_of_the_holder_ends_the_wait), CASE(moving_line_ends_the_wait),
           CASE(release_later_ends_the_wait), CASE(sleeper_takes_what_a_busy_port_leaves),
           CASE(every_answer_wakes_the_sleeper))
