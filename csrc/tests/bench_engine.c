/* Moves events through the engine in one thread: send, receive, release, again and again. For callgrind to count
 * (benchmarks/instructions.sh runs it with n and with 2n events, and the difference is what n events cost, set-up
 * excluded) and for the wall clock, which it prints.
 *
 *   --events N    events to move (1e6)
 *   --batch N     events per call (32)
 *   --sched TYPE  unordered | atomic | ordered | directed (atomic); ordered ones are received and released, which
 *                 drops the place in the order
 *   --forward     what is received is forwarded to an unordered queue, received there and released
 *   --flows N     flows per queue (1024)
 *   --ports N     consumer ports (1); they take turns
 *   --queues N    queues (1); each port is linked to eight of them, or to all
 *   --spread      the events of one batch go to different queues, instead of batch after batch to the next
 *   --private     the domain is this process's alone; else it lies in memory that others may join
 *   --held N      events that the ports hold all the while, as a port holds its open connections (0)
 *   --even        the queues share evenly, as a balancer's do
 *   --on-recv     ports release on recv, what they returned before, instead of by a call
 *
 * Events are made before the loop and carry all eight priorities. Everything received is released at once.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pdlb.h"

enum { MAX_PORTS = 64, MAX_QUEUES = 32, MAX_BATCH = 1024 };

struct stream {
  struct pdlb_event *events;
  const struct pdlb_event *next, *end;
};

/* Who receives, and what is sent to it. */
struct turn {
  struct pdlb_port *port;
  struct stream *stream;
};

struct bench {
  enum pdlb_sched type;
  bool directed, forwarding, spread, private, on_recv, even;
  uint64_t count;
  uint32_t batch, flows, port_count, queue_count, group_count, held;
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  struct pdlb_port *producer;
  struct pdlb_port *ports[MAX_PORTS];
  struct pdlb_port *sink; /* receives what was forwarded */
  uint8_t queues[MAX_QUEUES];
  uint8_t sink_queue;
  struct stream streams[MAX_QUEUES / PDLB_MAX_LINKS]; /* for each group of queues that share their ports */
};

static void require(int result, const struct pdlb_error *error) {
  if (result >= 0) return;
  fprintf(stderr, "%s: %s\n", error->op, error->text);
  exit(1);
}

static uint64_t number(const char *name, const char *text, uint64_t most) {
  const double value = strtod(text, NULL);
  if (value >= 1 && value <= (double)most) return (uint64_t)value;
  fprintf(stderr, "--%s %s: from 1 to %" PRIu64 "\n", name, text, most);
  exit(1);
}

static void choose_type(struct bench *bench, const char *name) {
  static const char *const names[] = {"atomic", "unordered", "ordered", "directed"};
  for (unsigned type = 0; type < sizeof names / sizeof *names; type++) {
    if (strcmp(name, names[type]) != 0) continue;
    bench->type = (enum pdlb_sched)type;
    bench->directed = bench->type == PDLB_SCHED_DIRECTED;
    return;
  }
  fprintf(stderr, "--sched %s: unordered, atomic, ordered or directed\n", name);
  exit(1);
}

static uint32_t history_of_port(const struct bench *bench) {
  return 2 * MAX_BATCH + bench->held / bench->port_count + 1;
}

/* Queues in groups of eight, ports dealt to the groups in turn, so that each port can be linked to its whole group. */
static void open_queues_and_ports(struct bench *bench) {
  struct pdlb_error error = {0};
  const struct pdlb_port_config depth = {
      .cq_depth = MAX_BATCH, .history_entries = history_of_port(bench), .release_on_recv = bench->on_recv};
  const struct pdlb_ldb_queue_config ordered = {.sequence_numbers = 1024, .inflights = 1024};
  const struct pdlb_ldb_queue_config unordered = {.atomic_inflights = 2048,
                                                  .sharing = bench->even ? PDLB_SHARE_EVEN : PDLB_SHARE_PULL};

  for (uint32_t i = 0; i < bench->queue_count; i++) {
    const int queue =
        bench->directed
            ? pdlb_dir_queue_create(bench->domain, PDLB_NONE, &error)
            : pdlb_ldb_queue_create(bench->domain, bench->type == PDLB_SCHED_ORDERED ? &ordered : &unordered, &error);
    require(queue, &error);
    bench->queues[i] = (uint8_t)queue;
  }
  for (uint32_t i = 0; i < bench->port_count; i++) {
    if (bench->directed) {
      require(pdlb_dir_port_create(bench->domain, &depth, bench->queues[i], &bench->ports[i], &error), &error);
      continue;
    }
    require(pdlb_ldb_port_create(bench->domain, &depth, &bench->ports[i], &error), &error);
    const uint32_t first = i % bench->group_count * PDLB_MAX_LINKS;
    for (uint32_t j = first; j < bench->queue_count && j < first + PDLB_MAX_LINKS; j++)
      require(pdlb_port_link(bench->ports[i], bench->queues[j], 0, &error), &error);
  }
  require(pdlb_dir_port_create(bench->domain, &depth, PDLB_NONE, &bench->producer, &error), &error);
  if (!bench->forwarding) return;
  require(pdlb_ldb_port_create(bench->domain, &depth, &bench->sink, &error), &error);
  const int queue = pdlb_ldb_queue_create(bench->domain, &unordered, &error);
  require(queue, &error);
  bench->sink_queue = (uint8_t)queue;
  require(pdlb_port_link(bench->sink, bench->sink_queue, 0, &error), &error);
}

static void open_engine(struct bench *bench) {
  struct pdlb_error error = {0};
  struct pdlb_domain_config config = {.ldb_queues = bench->directed ? 0 : bench->queue_count + 1,
                                      .ldb_ports = bench->directed ? 0 : bench->port_count + 1,
                                      .dir_ports = bench->directed ? bench->port_count + 1 : 1,
                                      .ldb_credits = 16384,
                                      .history_entries = history_of_port(bench) * (bench->port_count + 1),
                                      .atomic_inflights = 2048 * (bench->queue_count + 1),
                                      .shared = !bench->private};
  if (bench->type == PDLB_SCHED_ORDERED) config.sequence_slots[0] = 16 * bench->queue_count; /* of 64 numbers */
  require(pdlb_device_open_software(PDLB_LIMITS_LARGE, &bench->device, &error), &error);
  require(pdlb_domain_create(bench->device, &config, &bench->domain, &error), &error);
  open_queues_and_ports(bench);
  require(pdlb_domain_start(bench->domain, &error), &error);
}

/* A stream of batches for each group of queues: as many events as there are flows for each queue, and at least a
 * batch; `batch` more, so that a batch may begin anywhere. */
static void make_events(struct bench *bench) {
  const uint32_t batch = bench->batch;
  for (uint32_t group = 0; group < bench->group_count; group++) {
    const uint32_t first = group * PDLB_MAX_LINKS;
    const uint32_t width = bench->queue_count - first < PDLB_MAX_LINKS ? bench->queue_count - first : PDLB_MAX_LINKS;
    const uint32_t made = width * (bench->flows + batch);
    struct stream *stream = &bench->streams[group];
    *stream = (struct stream){.events = calloc(made + batch, sizeof(struct pdlb_event))};
    if (!stream->events) exit(1);
    stream->next = stream->events;
    stream->end = stream->events + made;
    for (uint32_t i = 0; i < made + batch; i++) {
      const uint32_t turn = bench->spread ? i % width : i / batch % width;
      const uint32_t nth = bench->spread ? i / width : i / batch / width * batch + i % batch;
      stream->events[i] = (struct pdlb_event){.data = i,
                                              .queue = bench->queues[first + turn],
                                              .sched = pdlb_sched_byte((unsigned)bench->type, nth * 5u % 8u),
                                              .flow = (uint16_t)(nth % bench->flows)};
    }
  }
}

static inline void expect(uint32_t moved, uint32_t wanted, const char *where) {
  if (__builtin_expect(moved == wanted, 1)) return;
  fprintf(stderr, "%s moved %" PRIu32 " of %" PRIu32 " events\n", where, moved, wanted);
  exit(1);
}

static void forward_all(const struct bench *bench, struct pdlb_port *port, struct pdlb_event *events, uint32_t count) {
  enum pdlb_refusal why;
  for (uint32_t i = 0; i < count; i++) {
    events[i].queue = bench->sink_queue;
    events[i].sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, pdlb_event_priority(&events[i]));
  }
  expect(pdlb_port_forward(port, events, count, &why), count, "forward");
  expect((uint32_t)pdlb_port_recv(bench->sink, events, count, 0), count, "recv after forward");
}

/* Each port in turn is given one, and keeps it. */
static void hold(const struct bench *bench) {
  struct pdlb_event received;
  enum pdlb_refusal why;
  for (uint32_t i = 0; i < bench->held; i++) {
    expect(pdlb_port_send(bench->producer, bench->streams[0].events, 1, &why), 1, "send");
    expect((uint32_t)pdlb_port_recv(bench->ports[i % bench->port_count], &received, 1, 0), 1, "recv");
  }
}

/* The loops that are counted: what they do themselves is kept small. This one is for one port. */
static inline __attribute__((always_inline)) void move_to_one(const struct bench *bench, bool releasing) {
  struct pdlb_port *const producer = bench->producer, *const consumer = bench->ports[0];
  const struct pdlb_event *const begin = bench->streams[0].events, *const end = bench->streams[0].end, *events = begin;
  const uint32_t batch = bench->batch;
  struct pdlb_event received[MAX_BATCH];
  enum pdlb_refusal why;
  for (uint64_t calls = (bench->count + batch - 1) / batch; calls; calls--) {
    expect(pdlb_port_send(producer, events, batch, &why), batch, "send");
    expect((uint32_t)pdlb_port_recv(consumer, received, batch, 0), batch, "recv");
    if (releasing) expect(pdlb_port_release(consumer, batch), batch, "release");
    events += batch;
    if (events >= end) events = begin;
  }
}

static void move_in_turns(struct bench *bench) {
  struct pdlb_port *const producer = bench->producer;
  const uint32_t batch = bench->batch;
  const bool forwarding = bench->forwarding, releasing = !bench->directed && !bench->on_recv;
  struct pdlb_event received[MAX_BATCH];
  enum pdlb_refusal why;
  struct turn turns[MAX_PORTS], *const end = turns + bench->port_count, *turn = turns;
  for (uint32_t i = 0; i < bench->port_count; i++)
    turns[i] = (struct turn){bench->ports[i], &bench->streams[i % bench->group_count]};
  for (uint64_t calls = (bench->count + batch - 1) / batch; calls; calls--) {
    struct pdlb_port *consumer = turn->port;
    struct stream *stream = turn->stream;
    const struct pdlb_event *events = stream->next;
    stream->next = events + batch < stream->end ? events + batch : stream->events;
    if (++turn == end) turn = turns;

    expect(pdlb_port_send(producer, events, batch, &why), batch, "send");
    expect((uint32_t)pdlb_port_recv(consumer, received, batch, 0), batch, "recv");
    if (forwarding) {
      forward_all(bench, consumer, received, batch);
      consumer = bench->sink;
    }
    if (releasing) expect(pdlb_port_release(consumer, batch), batch, "release");
  }
}

static void move_all(struct bench *bench) {
  if (bench->port_count > 1 || bench->forwarding)
    move_in_turns(bench);
  else if (bench->directed || bench->on_recv)
    move_to_one(bench, false);
  else
    move_to_one(bench, true);
}

static void close_engine(struct bench *bench) {
  for (uint32_t i = 0; i < bench->port_count; i++) pdlb_port_close(bench->ports[i]);
  for (uint32_t i = 0; i < bench->group_count; i++) free(bench->streams[i].events);
  if (bench->sink) pdlb_port_close(bench->sink);
  pdlb_port_close(bench->producer);
  pdlb_domain_close(bench->domain);
  pdlb_device_close(bench->device);
}

static void read_options(struct bench *bench, int argc, char **argv) {
  static const struct option options[] = {
      {"events", required_argument, NULL, 'e'},
      {"batch", required_argument, NULL, 'b'},
      {"sched", required_argument, NULL, 's'},
      {"flows", required_argument, NULL, 'f'},
      {"ports", required_argument, NULL, 'p'},
      {"queues", required_argument, NULL, 'q'},
      {"forward", no_argument, NULL, 'w'},
      {"spread", no_argument, NULL, 'd'},
      {"private", no_argument, NULL, 'v'},
      {"on-recv", no_argument, NULL, 'r'},
      {"held", required_argument, NULL, 'h'},
      {"even", no_argument, NULL, 'n'},
      {NULL, 0, NULL, 0},
  };
  int option, index = 0;
  while ((option = getopt_long(argc, argv, "", options, &index)) != -1) {
    const char *const name = options[index].name;
    switch (option) {
      case 'e': bench->count = number(name, optarg, UINT32_MAX); break;
      case 'b': bench->batch = (uint32_t)number(name, optarg, MAX_BATCH); break;
      case 's': choose_type(bench, optarg); break;
      case 'f': bench->flows = (uint32_t)number(name, optarg, 65536); break;
      case 'p': bench->port_count = (uint32_t)number(name, optarg, MAX_PORTS); break;
      case 'q': bench->queue_count = (uint32_t)number(name, optarg, MAX_QUEUES); break;
      case 'w': bench->forwarding = true; break;
      case 'd': bench->spread = true; break;
      case 'v': bench->private = true; break;
      case 'r': bench->on_recv = true; break;
      case 'h': bench->held = (uint32_t)number(name, optarg, 100000); break;
      case 'n': bench->even = true; break;
      default: exit(2);
    }
  }
  if (bench->directed && (bench->forwarding || bench->queue_count > 1 || bench->port_count > 1)) {
    fprintf(stderr, "--sched directed: one port is one queue, and holds nothing to forward\n");
    exit(2);
  }
}

int main(int argc, char **argv) {
  struct bench bench = {
      .type = PDLB_SCHED_ATOMIC, .count = 1000000, .batch = 32, .flows = 1024, .port_count = 1, .queue_count = 1};
  read_options(&bench, argc, argv);
  bench.group_count = (bench.queue_count + PDLB_MAX_LINKS - 1) / PDLB_MAX_LINKS;
  if (bench.port_count < bench.group_count) bench.port_count = bench.group_count;
  open_engine(&bench);
  make_events(&bench);
  hold(&bench);
  const uint64_t begin = pdlb_now();
  move_all(&bench);
  const uint64_t took = pdlb_now() - begin;
  printf("%" PRIu64 " events, %.2f ns each, %.2f Mev/s\n", bench.count, (double)took / (double)bench.count,
         (double)bench.count * 1e3 / (double)took);
  close_engine(&bench);
  return 0;
}
