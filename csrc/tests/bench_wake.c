/* How long a consumer that sleeps takes to run again, beside a thread on a bare futex.
 *
 *   PDLB_WAKES   wakes of each kind in a round (default 300)
 *   PDLB_ROUNDS  rounds (7)
 *   PDLB_APART   1 | 0: with 0 the threads are where the kernel puts them, often on one processor
 *   PDLB_KIND    both | futex | port: with one kind alone, strace counts its system calls
 *
 * Two threads on two processors, where there are two, for both kinds; one of them sleeps now in one way, now in the
 * other, by turns of one wake, so that both kinds find the machine as it is at the moment. Prints a line for each round
 * and kind: the kind and the median of its wakes, in nanoseconds. A wake is measured from just before it is given until
 * the other thread runs: from before the store or the send until the wait or the receive has returned. In between the
 * giver sleeps until the other one must be asleep too.
 */
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pdlb.h"

enum { MAX_WAKES = 100000, KINDS = 2 };

static struct pdlb_port *sender, *receiver;
static uint8_t queue;
static _Atomic uint32_t word;
static _Atomic uint32_t answered;
static uint64_t given, took[KINDS][MAX_WAKES];

static void fail(const char *what) {
  fprintf(stderr, "bench_wake: %s\n", what);
  exit(1);
}

static uint32_t setting(const char *name, uint32_t otherwise, uint32_t most) {
  const char *text = getenv(name);
  const unsigned long value = text ? strtoul(text, NULL, 10) : otherwise;
  if (value < 1 || value > most) fail(name);
  return (uint32_t)value;
}

/* ---- the two kinds ----------------------------------------------------------------------------------------------- */

static void wake_futex(uint32_t turn) {
  atomic_store(&word, turn);
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void sleep_futex(uint32_t turn) {
  for (uint32_t value; (value = atomic_load(&word)) != turn;)
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void after_futex(void) {}

static void wake_port(uint32_t turn) {
  const struct pdlb_event event = {.data = turn, .queue = queue, .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0)};
  enum pdlb_refusal why;
  if (pdlb_port_send(sender, &event, 1, &why) != 1) fail("the event was not taken");
}

static void sleep_port(uint32_t turn) {
  struct pdlb_event event;
  if (pdlb_port_recv(receiver, &event, 1, PDLB_FOREVER) != 1 || event.data != turn) fail("another event came");
}

static void after_port(void) { pdlb_port_release(receiver, 1); }

struct kind {
  const char *name;
  void (*wake)(uint32_t turn);
  void (*sleep)(uint32_t turn);
  void (*after)(void);
};

static const struct kind kinds[KINDS] = {{"futex", wake_futex, sleep_futex, after_futex},
                                         {"port", wake_port, sleep_port, after_port}};

/* ---- a round ----------------------------------------------------------------------------------------------------- */

struct round {
  const char *only; /* a kind's name, or NULL */
  uint32_t wakes;   /* of each kind */
};

static uint32_t turns_of(const struct round *round) { return round->only ? round->wakes : KINDS * round->wakes; }

/* Two after each other are one of each kind; which comes first changes each time. */
static uint32_t kind_of(const struct round *round, uint32_t turn) {
  if (round->only) return !strcmp(round->only, kinds[1].name);
  const uint32_t pair = (turn - 1) / 2;
  return ((turn - 1) ^ pair) & 1u;
}

static bool apart = true;

static void stay_on(uint32_t processor) {
  if (!apart) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* in vain where there is but one */
}

static void *consume(void *argument) {
  const struct round *round = argument;
  uint32_t count[KINDS] = {0};
  stay_on(1);
  for (uint32_t turn = 1; turn <= turns_of(round); turn++) {
    const uint32_t kind = kind_of(round, turn);
    kinds[kind].sleep(turn);
    took[kind][count[kind]++] = pdlb_now() - given;
    kinds[kind].after();
    atomic_store(&answered, turn);
  }
  return NULL;
}

static int by_size(const void *left, const void *right) {
  const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return (a > b) - (a < b);
}

static void pause_for(long nanoseconds) {
  const struct timespec time = {.tv_nsec = nanoseconds};
  nanosleep(&time, NULL);
}

static void run(const struct round *round) {
  pthread_t thread;
  atomic_store(&word, 0);
  atomic_store(&answered, 0);
  if (pthread_create(&thread, NULL, consume, (void *)(uintptr_t)round)) fail("no thread");
  for (uint32_t turn = 1; turn <= turns_of(round); turn++) {
    const struct kind *kind = &kinds[kind_of(round, turn)];
    pause_for(300000);
    given = pdlb_now();
    kind->wake(turn);
    while (atomic_load(&answered) != turn) pause_for(50000);
  }
  pthread_join(thread, NULL);
  for (uint32_t kind = 0; kind < KINDS; kind++) {
    if (round->only && strcmp(round->only, kinds[kind].name)) continue;
    qsort(took[kind], round->wakes, sizeof **took, by_size);
    printf("%s %" PRIu64 "\n", kinds[kind].name, took[kind][round->wakes / 2]);
  }
  fflush(stdout);
}

static void open_ports(void) {
  struct pdlb_error error = {0};
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  const struct pdlb_domain_config config = {
      .ldb_queues = 1, .ldb_ports = 1, .dir_ports = 1, .ldb_credits = 64, .history_entries = 64};
  const struct pdlb_port_config shape = {.cq_depth = 8, .history_entries = 16};
  const struct pdlb_ldb_queue_config plain = {.atomic_inflights = 0};
  if (pdlb_device_open_software(PDLB_LIMITS_HARDWARE, &device, &error) < 0 ||
      pdlb_domain_create(device, &config, &domain, &error) < 0)
    fail(error.text);
  const int number = pdlb_ldb_queue_create(domain, &plain, &error);
  if (number < 0 || pdlb_ldb_port_create(domain, &shape, &receiver, &error) < 0 ||
      pdlb_dir_port_create(domain, &shape, PDLB_NONE, &sender, &error) < 0 ||
      pdlb_port_link(receiver, (uint32_t)number, 0, &error) < 0 || pdlb_domain_start(domain, &error) < 0)
    fail(error.text);
  queue = (uint8_t)number;
}

int main(void) {
  const char *only = getenv("PDLB_KIND");
  const uint32_t rounds = setting("PDLB_ROUNDS", 7, 1000), wakes = setting("PDLB_WAKES", 300, MAX_WAKES);
  const struct round round = {only && strcmp(only, "both") ? only : NULL, wakes};
  const char *placed = getenv("PDLB_APART");
  apart = !placed || strcmp(placed, "0");
  stay_on(0);
  open_ports();
  for (uint32_t number = 0; number < rounds; number++) run(&round);
  return 0;
}
