/* Moves events between threads on two processors, as fast as they go, and prints Mev/s.
 *
 *   bench_threads [--producers N] [--consumers N] [--batch N] [--ms N] [--unordered]      (1, 1, 32, 150)
 *
 * They are of 1,024 atomic flows in turn, or unordered as those of a ring are.
 * Each producer sends through a port of its own, each consumer receives and releases through its own. Even ones of
 * each kind are pinned to one processor, odd ones to the other; a producer and a consumer of the same number are on
 * different ones. Nobody sleeps in the engine: who finds nothing looks again a few times and then yields, as the peer
 * (benchmarks/peers/rte_ring.c) does.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench_ports.h"
#include "pdlb.h"

enum { MAX_THREADS = 16, TRIES = 64 };

struct member {
  pthread_t thread;
  struct pdlb_port *port;
  unsigned processor;
  bool producing;
  uint64_t moved;
};

static uint32_t producers = 1, consumers = 1, batch = 32, milliseconds = 150;
static struct member members[2 * MAX_THREADS];
static _Atomic bool go, stop;
static uint8_t queue;
static enum pdlb_sched type = PDLB_SCHED_ATOMIC;

static void look_again(uint32_t *tries) {
  if (++*tries < TRIES) {
    __builtin_ia32_pause();
    return;
  }
  *tries = 0;
  sched_yield();
}

static uint32_t consume(struct member *member, struct pdlb_event *events) {
  const int received = pdlb_port_recv(member->port, events, batch, 0);
  if (received > 0) pdlb_port_release(member->port, (uint32_t)received);
  return received > 0 ? (uint32_t)received : 0;
}

static void *run(void *argument) {
  struct member *member = argument;
  struct pdlb_event events[BENCH_FLOWS + BENCH_MAX_BATCH]; /* to send: all flows in turn; or received */
  enum pdlb_refusal why;
  uint32_t tries = 0, next = 0;

  bench_fill(events, queue, type);
  bench_pin(member->processor);
  while (!atomic_load_explicit(&go, memory_order_acquire)) sched_yield();
  while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
    const uint32_t moved =
        member->producing ? pdlb_port_send(member->port, events + next, batch, &why) : consume(member, events);
    member->moved += moved;
    if (member->producing) next = (next + moved) % BENCH_FLOWS;
    if (moved)
      tries = 0;
    else
      look_again(&tries);
  }
  return NULL;
}

static void open_members(void) {
  struct pdlb_port *ports[2 * MAX_THREADS];
  bench_open(producers, ports, consumers, ports + producers, &queue);
  for (uint32_t i = 0; i < producers; i++)
    members[i] = (struct member){.producing = true, .processor = i % 2, .port = ports[i]};
  for (uint32_t i = 0; i < consumers; i++)
    members[producers + i] = (struct member){.processor = 1 - i % 2, .port = ports[producers + i]};
}

static void read_options(int argc, char **argv) {
  static const struct option options[] = {
      {"producers", required_argument, NULL, 'p'}, {"consumers", required_argument, NULL, 'c'},
      {"batch", required_argument, NULL, 'b'},     {"ms", required_argument, NULL, 'm'},
      {"unordered", no_argument, NULL, 'u'},       {NULL, 0, NULL, 0}};
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == 'u') {
      type = PDLB_SCHED_UNORDERED;
      continue;
    }
    const uint32_t value = option == '?' ? 0 : (uint32_t)strtoul(optarg, NULL, 10);
    const uint32_t most = option == 'b' ? BENCH_MAX_BATCH : option == 'm' ? 60000 : MAX_THREADS;
    if (value < 1 || value > most) {
      fprintf(stderr, "bench_threads: numbers from 1 to %" PRIu32 "\n", most);
      exit(2);
    }
    *(option == 'p' ? &producers : option == 'c' ? &consumers : option == 'b' ? &batch : &milliseconds) = value;
  }
}

int main(int argc, char **argv) {
  read_options(argc, argv);
  open_members(); /* ends with the process */
  const uint32_t count = producers + consumers;
  for (uint32_t i = 0; i < count; i++)
    if (pthread_create(&members[i].thread, NULL, run, &members[i])) return 1;
  const uint64_t begin = pdlb_now();
  atomic_store_explicit(&go, true, memory_order_release);
  const struct timespec pause = {.tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000};
  nanosleep(&pause, NULL);
  atomic_store_explicit(&stop, true, memory_order_relaxed);
  const uint64_t took = pdlb_now() - begin;
  uint64_t received = 0;
  for (uint32_t i = 0; i < count; i++) {
    pthread_join(members[i].thread, NULL);
    if (!members[i].producing) received += members[i].moved;
  }
  printf("%.3f Mev/s\n", (double)received * 1e3 / (double)took);
  return 0;
}
