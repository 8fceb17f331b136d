/* DPDK's rte_ring with elements of 16 bytes: the throughput record to hold a software queue against. It schedules
 * nothing: no flows, no priorities, no releases.
 *
 *   rte_ring MODE BATCH COUNT                       moves so many elements in one thread
 *   rte_ring MODE BATCH MS PRODUCERS CONSUMERS      so many threads on two processors, for so long
 *   rte_ring MODE BATCH lines CONSUMERS AHEAD BATCHES   batches in turn in one thread, for ../shared_lines.py to trace
 *
 * MODE: sp (one producer, one consumer), mt (many), rts or hts (many, on fewer processors). Prints Mev/s.
 *
 *   cc -O3 $(pkg-config --cflags libdpdk) -o rte_ring rte_ring.c $(pkg-config --libs libdpdk) -pthread
 */
#define _GNU_SOURCE
#define ALLOW_EXPERIMENTAL_API
#include <pthread.h>
#include <rte_pause.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOTS = 1024, MAX_BATCH = 256, MAX_THREADS = 16, TRIES = 64 };

struct element {
  uint64_t words[2];
};

struct member {
  pthread_t thread;
  int processor;
  int producing;
  uint64_t moved;
};

static const struct {
  const char *name;
  unsigned flags;
} modes[] = {{"sp", RING_F_SP_ENQ | RING_F_SC_DEQ},
             {"mt", 0},
             {"rts", RING_F_MP_RTS_ENQ | RING_F_MC_RTS_DEQ},
             {"hts", RING_F_MP_HTS_ENQ | RING_F_MC_HTS_DEQ}};

static struct rte_ring *ring;
static unsigned batch;
static _Atomic int go, stop;

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void open_ring(const char *name) {
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    if (strcmp(modes[i].name, name)) continue;
    ring = aligned_alloc(128, (size_t)rte_ring_get_memsize_elem(sizeof(struct element), SLOTS));
    if (!ring || rte_ring_init(ring, "peer", SLOTS, modes[i].flags)) exit(1);
    return;
  }
  fprintf(stderr, "rte_ring: the mode is sp, mt, rts or hts\n");
  exit(2);
}

static uint64_t move_in_one_thread(uint64_t count) {
  struct element elements[MAX_BATCH] = {0};
  uint64_t moved = 0;
  while (moved < count) {
    rte_ring_enqueue_burst_elem(ring, elements, sizeof *elements, batch, NULL);
    moved += rte_ring_dequeue_burst_elem(ring, elements, sizeof *elements, batch, NULL);
  }
  return moved;
}

static void *run(void *argument) {
  struct member *member = argument;
  struct element elements[MAX_BATCH] = {0};
  unsigned tries = 0;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(member->processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  while (!atomic_load(&go)) sched_yield();
  while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
    const unsigned moved = member->producing
                               ? rte_ring_enqueue_burst_elem(ring, elements, sizeof *elements, batch, NULL)
                               : rte_ring_dequeue_burst_elem(ring, elements, sizeof *elements, batch, NULL);
    member->moved += moved;
    if (moved) {
      tries = 0;
    } else if (++tries < TRIES) {
      rte_pause();
    } else {
      tries = 0;
      sched_yield();
    }
  }
  return NULL;
}

static uint64_t move_between_threads(int producers, int consumers, uint64_t milliseconds) {
  struct member members[2 * MAX_THREADS] = {0};
  uint64_t moved = 0;
  for (int i = 0; i < producers + consumers; i++) {
    const int producing = i < producers;
    members[i].producing = producing;
    members[i].processor = producing ? i % 2 : 1 - (i - producers) % 2;
    if (pthread_create(&members[i].thread, NULL, run, &members[i])) exit(1);
  }
  const struct timespec pause = {.tv_sec = (time_t)(milliseconds / 1000),
                                 .tv_nsec = (long)(milliseconds % 1000) * 1000000};
  atomic_store(&go, 1);
  nanosleep(&pause, NULL);
  atomic_store(&stop, 1);
  for (int i = 0; i < producers + consumers; i++) {
    pthread_join(members[i].thread, NULL);
    if (!members[i].producing) moved += members[i].moved;
  }
  return moved;
}

int main(int argc, char **argv);

/* As csrc/tests/bench_lines.c does, and as that prints it. */
static int move_by_turns(int consumers, int ahead, int batches) {
  static struct {
    _Alignas(64) volatile char here;
  } marker[3];
  static _Alignas(4096) struct element sent[MAX_BATCH], received[MAX_THREADS][MAX_BATCH];
  printf("name ring.prod %p %zu\n", (void *)&ring->prod, (size_t)64);
  printf("name ring.cons %p %zu\n", (void *)&ring->cons, (size_t)64);
  printf("name ring.(fixed) %p %zu\n", (void *)ring, (size_t)((char *)&ring->prod - (char *)ring));
  printf("name ring.elements %p %zu\n", (void *)(ring + 1), SLOTS * sizeof(struct element));
  for (int i = 0; i < 3; i++) printf("marker %p\n", (void *)&marker[i].here);
  printf("main %p\nstack %p\nelements elements\n", (void *)main, __builtin_frame_address(0));
  fflush(stdout);
  for (int i = -ahead; i < 2 * batches; i++) {
    if (i == batches) marker[2].here = 1;
    marker[0].here = 1;
    rte_ring_enqueue_burst_elem(ring, sent, sizeof *sent, batch, NULL);
    if (i < 0) continue;
    marker[1 - i % consumers % 2].here = 1;
    rte_ring_dequeue_burst_elem(ring, received[i % consumers], sizeof **received, batch, NULL);
  }
  marker[2].here = 1;
  return 0;
}

int main(int argc, char **argv) {
  const int by_turns = argc == 7 && !strcmp(argv[3], "lines");
  if (argc != 4 && argc != 6 && !by_turns) {
    fprintf(stderr, "usage: rte_ring MODE BATCH COUNT | rte_ring MODE BATCH MS PRODUCERS CONSUMERS\n");
    return 2;
  }
  open_ring(argv[1]);
  batch = (unsigned)atoi(argv[2]);
  const int producers = argc == 6 ? atoi(argv[4]) : 1, consumers = argc == 6 ? atoi(argv[5]) : 1;
  if (batch < 1 || batch > MAX_BATCH || producers < 1 || producers > MAX_THREADS || consumers < 1 ||
      consumers > MAX_THREADS)
    return 2;
  if (by_turns) return move_by_turns(atoi(argv[4]), atoi(argv[5]), atoi(argv[6]));
  const uint64_t amount = strtoull(argv[3], NULL, 10), begin = now();
  const uint64_t moved = argc == 4 ? move_in_one_thread(amount) : move_between_threads(producers, consumers, amount);
  printf("%.3f Mev/s\n", (double)moved * 1e3 / (double)(now() - begin));
  return 0;
}
