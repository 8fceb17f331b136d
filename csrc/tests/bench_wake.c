/* How long a consumer that sleeps takes to run again, beside a thread on a bare futex.
 *
 *   PDLB_WAKES   wakes of each kind in a round (default 300)
 *   PDLB_ROUNDS  rounds (7); the kinds take turns in each
 *   PDLB_KIND    both | futex | port: with one kind alone, strace counts its system calls
 *
 * Prints a line for each round: the kind and the median of its wakes, in nanoseconds. A wake is measured from just
 * before it is given until the other thread runs. In between the giver sleeps until the other one must be asleep too.
 */
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pdlb.h"

enum { MAX_WAKES = 100000 };

static struct pdlb_port *sender, *receiver;
static uint8_t queue;
static _Atomic uint32_t word;
static _Atomic uint32_t answered;
static uint64_t given, took[MAX_WAKES];

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
  while (atomic_load(&word) != turn) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, turn - 1, NULL, NULL, 0);
}

static void wake_port(uint32_t turn) {
  const struct pdlb_event event = {.data = turn, .queue = queue, .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0)};
  enum pdlb_refusal why;
  if (pdlb_port_send(sender, &event, 1, &why) != 1) fail("the event was not taken");
}

static void sleep_port(uint32_t turn) {
  struct pdlb_event event;
  if (pdlb_port_recv(receiver, &event, 1, PDLB_FOREVER) != 1 || event.data != turn) fail("another event came");
  pdlb_port_release(receiver, 1);
}

struct kind {
  const char *name;
  void (*wake)(uint32_t turn);
  void (*sleep)(uint32_t turn);
};

static const struct kind kinds[] = {{"futex", wake_futex, sleep_futex}, {"port", wake_port, sleep_port}};

/* ---- a round ----------------------------------------------------------------------------------------------------- */

struct round {
  const struct kind *kind;
  uint32_t wakes;
};

static void *consume(void *argument) {
  const struct round *round = argument;
  for (uint32_t turn = 1; turn <= round->wakes; turn++) {
    round->kind->sleep(turn);
    took[turn - 1] = pdlb_now() - given;
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
  for (uint32_t turn = 1; turn <= round->wakes; turn++) {
    pause_for(300000);
    given = pdlb_now();
    round->kind->wake(turn);
    while (atomic_load(&answered) != turn) pause_for(50000);
  }
  pthread_join(thread, NULL);
  qsort(took, round->wakes, sizeof *took, by_size);
  printf("%s %" PRIu64 "\n", round->kind->name, took[round->wakes / 2]);
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
  open_ports();
  for (uint32_t number = 0; number < rounds; number++)
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      const struct round round = {&kinds[i], wakes};
      if (!only || !strcmp(only, "both") || !strcmp(only, kinds[i].name)) run(&round);
    }
  return 0;
}
