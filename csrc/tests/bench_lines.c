/* Moves batches between two processors' parts of the work in one thread, for benchmarks/shared_lines.py to find out, by
 * a trace of what is loaded and stored, which cache lines would move between the two.
 *
 *   bench_lines [--consumers N] [--batch N] [--ahead N] [--batches N] [--unordered]      (1, 32, 8, 64)
 *   bench_lines --cost        what it takes a line to get from one processor to the other, in nanoseconds
 *
 * A producer, on processor 0, sends; consumers, on processors 1, 0, 1 and so on, receive and release: batch by batch in
 * turn, while `ahead` batches wait. What is done on a processor begins with a store to its marker. Printed are where
 * the markers, the stack and the code are, and the names of what may be shared.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench_ports.h"
#include "region.h"
#include "software.h"

enum { MAX_CONSUMERS = 16 };

struct buffer {
  alignas(4096) struct pdlb_event events[BENCH_FLOWS + BENCH_MAX_BATCH];
};

static uint32_t consumers = 1, batch = 32, ahead = 8, batches = 64;
static enum pdlb_sched type = PDLB_SCHED_ATOMIC;
static struct buffer sent, received[MAX_CONSUMERS];
static struct pdlb_port *producer, *consumer[MAX_CONSUMERS];
static struct {
  alignas(CACHE_LINE) volatile uint8_t here;
} marker[3]; /* two processors; and what is before and after it */

int main(int argc, char **argv);

/* ---- names ------------------------------------------------------------------------------------------------------- */

static void name(const char *of, uint32_t index, const char *what, const volatile void *at, size_t size) {
  printf("name %s%" PRIu32 ".%s %p %zu\n", of, index, what, (const void *)at, size);
}

static void name_queue(const struct pdlb_engine *engine, uint32_t index) {
  const struct engine_queue *queue = &engine->queues[index];
#define NAME(field) name("queue", index, #field, &queue->field, sizeof queue->field)
  name("queue", index, "(fixed)", queue, offsetof(struct engine_queue, linked_word));
  NAME(linked_word), NAME(linked);
  NAME(ingress), NAME(front_tail), NAME(front_until), NAME(front_way), NAME(reserved), NAME(credit_until);
  NAME(ring_in), NAME(rings_until), NAME(tail), NAME(tail_next);
  NAME(egress), NAME(slow), NAME(front_taken), NAME(scheduled), NAME(ring_out), NAME(head);
  NAME(left), NAME(front_looked), NAME(front_gone), NAME(parked), NAME(picks), NAME(starve_turn), NAME(run_until),
      NAME(given);
  NAME(run_in_ring), NAME(front_key), NAME(front);
#undef NAME
  const struct pdlb_event *ring = engine_ring(engine, index, 0);
  name("queue", index, "rings", ring, PDLB_PRIORITIES * sizeof *ring << engine->header->ring_shift);
  name("queue", index, "flows", engine_flows(engine, index), FLOWS * sizeof(uint32_t));
}

static void name_port(const struct pdlb_engine *engine, uint32_t index) {
  const struct engine_port *port = &engine->ports[index];
#define NAME(field) name("port", index, #field, &port->field, sizeof port->field)
  name("port", index, "(fixed)", port, offsetof(struct engine_port, history_head));
  NAME(history_head), NAME(history_tail), NAME(calls), NAME(last_received), NAME(room), NAME(sent), NAME(received);
  NAME(released), NAME(notice), NAME(released_later), NAME(presence), NAME(turns);
#undef NAME
  name("port", index, "history", engine_history(engine, port), (port->history_mask + 1) * sizeof(history_entry));
}

static void print_names(const struct pdlb_engine *engine) {
  const struct engine_header *header = engine->header;
  name("header", 0, "credits", &header->credits, sizeof header->credits);
  name("header", 0, "route", header->route, sizeof header->route);
  name("header", 0, "(fixed)", header, offsetof(struct engine_header, control_lock));
  name("idle", 0, "", engine->idle, header->port_words * sizeof(uint64_t));
  name_queue(engine, 0);
  for (uint32_t i = 0; i < engine_port_count(header); i++) name_port(engine, i);
  for (int i = 0; i < 3; i++) printf("marker %p\n", (const void *)&marker[i].here);
  printf("stack %p\n", __builtin_frame_address(0));
  printf("main %p\n", (void *)(uintptr_t)main);
  printf("elements rings front\n");
  fflush(stdout);
}

/* ---- work -------------------------------------------------------------------------------------------------------- */

static void send(uint32_t *next) {
  enum pdlb_refusal why;
  marker[0].here = 1;
  const uint32_t count = pdlb_port_send(producer, sent.events + *next, batch, &why);
  *next = (*next + count) % BENCH_FLOWS;
}

static void receive(uint32_t index) {
  marker[1 - index % 2].here = 1;
  const int count = pdlb_port_recv(consumer[index], received[index].events, batch, 0);
  if (count > 0) pdlb_port_release(consumer[index], (uint32_t)count);
}

static void open_ports(void) {
  uint8_t queue;
  struct pdlb_domain *domain = bench_open(1, &producer, consumers, consumer, &queue);
  bench_fill(sent.events, queue, type);
  print_names(&((struct software_domain *)domain)->engine);
}

/* ---- what a line costs ---------------------------------------------------------------------------------------------
 */

enum { TIMES = 100000 };

static struct {
  alignas(LINE_PAIR) _Atomic uint32_t turn;
} ball;

/* Even turns are one player's, odd ones the other's. */
static void play(uint32_t which) {
  bench_pin(which);
  for (uint32_t turn = which; turn < 2 * TIMES; turn += 2) {
    while (atomic_load_explicit(&ball.turn, memory_order_acquire) != turn) continue;
    atomic_store_explicit(&ball.turn, turn + 1, memory_order_release);
  }
}

static void *play_second(void *unused) {
  play(1);
  return unused;
}

static int print_cost(void) {
  pthread_t second;
  if (pthread_create(&second, NULL, play_second, NULL)) return 1;
  const uint64_t begin = pdlb_now();
  play(0);
  pthread_join(second, NULL);
  printf("%.1f ns\n", (double)(pdlb_now() - begin) / (2.0 * TIMES));
  return 0;
}

/* False if the cost is asked for. */
static bool read_options(int argc, char **argv) {
  static const struct option options[] = {{"consumers", required_argument, NULL, 'c'},
                                          {"batch", required_argument, NULL, 'b'},
                                          {"ahead", required_argument, NULL, 'a'},
                                          {"batches", required_argument, NULL, 'n'},
                                          {"unordered", no_argument, NULL, 'u'},
                                          {"cost", no_argument, NULL, 'l'},
                                          {NULL, 0, NULL, 0}};
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == 'l') return false;
    if (option == 'u') {
      type = PDLB_SCHED_UNORDERED;
      continue;
    }
    const uint32_t value = option == '?' ? 0 : (uint32_t)strtoul(optarg, NULL, 10);
    const uint32_t most = option == 'b' ? BENCH_MAX_BATCH : option == 'c' ? MAX_CONSUMERS : 1000000;
    if (value > most || (!value && option != 'a')) {
      fprintf(stderr, "bench_lines: numbers from 1 to %" PRIu32 "\n", most);
      exit(2);
    }
    *(option == 'c' ? &consumers : option == 'b' ? &batch : option == 'a' ? &ahead : &batches) = value;
  }
  return true;
}

int main(int argc, char **argv) {
  uint32_t next = 0;
  if (!read_options(argc, argv)) return print_cost();
  open_ports();
  for (uint32_t i = 0; i < ahead; i++) send(&next);
  for (uint32_t i = 0; i < 2 * batches; i++) {
    if (i == batches) marker[2].here = 1; /* from here on it counts */
    send(&next);
    receive(i % consumers);
  }
  marker[2].here = 1;
  return 0;
}
