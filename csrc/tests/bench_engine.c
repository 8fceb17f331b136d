/* Moves events through the engine in one thread, for callgrind to count: benchmarks/instructions.sh runs it with n
 * and with 2n events, and the difference is what n events cost, set-up excluded.
 *
 *   PDLB_COUNT   events to move (default 1e6)
 *   PDLB_BATCH   events per call (32)
 *   PDLB_TYPE    unordered | atomic | ordered | forward | directed (atomic)
 *                ordered: received and released, which drops the place in the order;
 *                forward: received from an ordered queue, forwarded to an unordered one, received there and released
 *   PDLB_FLOWS   flows per queue (1024)
 *   PDLB_PORTS   consumer ports (1); they take turns
 *   PDLB_QUEUES  queues (1); each port is linked to eight of them, or to all
 *
 * Events are made before the loop and carry all eight priorities. Everything received is released at once.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pdlb.h"

enum { MAX_PORTS = 64, MAX_QUEUES = 32, MAX_BATCH = 1024 };

struct bench {
  enum pdlb_sched type;
  bool directed, forwarding;
  uint32_t count, batch, flows, port_count, queue_count, group_count;
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  struct pdlb_port *producer;
  struct pdlb_port *ports[MAX_PORTS];
  struct pdlb_port *sink; /* receives what was forwarded */
  uint8_t queues[MAX_QUEUES];
  uint8_t sink_queue;
  struct pdlb_event *events[MAX_QUEUES / PDLB_MAX_LINKS]; /* for each group of queues that share their ports */
};

static void require(int result, const struct pdlb_error *error) {
  if (result >= 0) return;
  fprintf(stderr, "%s: %s\n", error->op, error->text);
  exit(1);
}

static uint32_t setting(const char *name, uint32_t otherwise, uint32_t least, uint32_t most) {
  const char *text = getenv(name);
  const double value = text ? strtod(text, NULL) : otherwise;
  if (value >= least && value <= most) return (uint32_t)value;
  fprintf(stderr, "%s=%s: from %" PRIu32 " to %" PRIu32 "\n", name, text, least, most);
  exit(1);
}

static void choose_type(struct bench *bench, const char *name) {
  if (!name || !strcmp(name, "atomic"))
    bench->type = PDLB_SCHED_ATOMIC;
  else if (!strcmp(name, "unordered"))
    bench->type = PDLB_SCHED_UNORDERED;
  else if (!strcmp(name, "ordered"))
    bench->type = PDLB_SCHED_ORDERED;
  else if (!strcmp(name, "forward"))
    bench->type = PDLB_SCHED_ORDERED, bench->forwarding = true;
  else if (!strcmp(name, "directed"))
    bench->type = PDLB_SCHED_DIRECTED, bench->directed = true;
  else {
    fprintf(stderr, "PDLB_TYPE=%s: unordered, atomic, ordered, forward or directed\n", name);
    exit(1);
  }
}

/* Queues in groups of eight, ports dealt to the groups in turn, so that each port can be linked to its whole group. */
static void open_queues_and_ports(struct bench *bench) {
  struct pdlb_error error = {0};
  const struct pdlb_port_config depth = {.cq_depth = MAX_BATCH, .history_entries = 2 * MAX_BATCH};
  const struct pdlb_ldb_queue_config ordered = {.sequence_numbers = 1024, .inflights = 1024};
  const struct pdlb_ldb_queue_config unordered = {.atomic_inflights = 2048};

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
                                      .history_entries = 2 * MAX_BATCH * (bench->port_count + 1),
                                      .atomic_inflights = 2048 * (bench->queue_count + 1)};
  if (bench->type == PDLB_SCHED_ORDERED) config.sequence_slots[0] = 16 * bench->queue_count; /* of 64 numbers */
  require(pdlb_device_open_software(PDLB_LIMITS_LARGE, &bench->device, &error), &error);
  require(pdlb_domain_create(bench->device, &config, &bench->domain, &error), &error);
  open_queues_and_ports(bench);
  require(pdlb_domain_start(bench->domain, &error), &error);
}

/* As many events as there are flows, and at least a batch's; `batch` more, so that a batch may begin anywhere. */
static void make_events(struct bench *bench) {
  const uint32_t made = bench->flows + bench->batch;
  for (uint32_t group = 0; group < bench->group_count; group++) {
    const uint32_t first = group * PDLB_MAX_LINKS;
    const uint32_t width = bench->queue_count - first < PDLB_MAX_LINKS ? bench->queue_count - first : PDLB_MAX_LINKS;
    bench->events[group] = calloc(made, sizeof(struct pdlb_event));
    if (!bench->events[group]) exit(1);
    for (uint32_t i = 0; i < made; i++)
      bench->events[group][i] = (struct pdlb_event){.data = i,
                                                    .queue = bench->queues[first + i % width],
                                                    .sched = pdlb_sched_byte((unsigned)bench->type, i * 5u % 8u),
                                                    .flow = (uint16_t)(i % bench->flows)};
  }
}

static void expect(uint32_t moved, uint32_t wanted, const char *where) {
  if (moved == wanted) return;
  fprintf(stderr, "%s moved %" PRIu32 " of %" PRIu32 " events\n", where, moved, wanted);
  exit(1);
}

static void move_once(struct bench *bench, struct pdlb_port *port, const struct pdlb_event *events) {
  struct pdlb_event received[MAX_BATCH];
  enum pdlb_refusal why;
  const uint32_t batch = bench->batch;

  expect(pdlb_port_send(bench->producer, events, batch, &why), batch, "send");
  expect((uint32_t)pdlb_port_recv(port, received, batch, 0), batch, "recv");
  if (bench->forwarding) {
    for (uint32_t i = 0; i < batch; i++) {
      received[i].queue = bench->sink_queue;
      received[i].sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, pdlb_event_priority(&received[i]));
    }
    expect(pdlb_port_forward(port, received, batch, &why), batch, "forward");
    expect((uint32_t)pdlb_port_recv(bench->sink, received, batch, 0), batch, "recv after forward");
    port = bench->sink;
  }
  if (!bench->directed) expect(pdlb_port_release(port, batch), batch, "release");
}

static void move_all(struct bench *bench) {
  uint32_t at[MAX_QUEUES / PDLB_MAX_LINKS] = {0};
  uint32_t port = 0;
  for (uint32_t moved = 0; moved < bench->count; moved += bench->batch) {
    const uint32_t group = port % bench->group_count;
    move_once(bench, bench->ports[port], bench->events[group] + at[group]);
    at[group] += bench->batch;
    if (at[group] >= bench->flows) at[group] = 0;
    if (++port == bench->port_count) port = 0;
  }
}

static void close_engine(struct bench *bench) {
  for (uint32_t i = 0; i < bench->port_count; i++) pdlb_port_close(bench->ports[i]);
  for (uint32_t i = 0; i < bench->group_count; i++) free(bench->events[i]);
  if (bench->sink) pdlb_port_close(bench->sink);
  pdlb_port_close(bench->producer);
  pdlb_domain_close(bench->domain);
  pdlb_device_close(bench->device);
}

int main(void) {
  struct bench bench = {.count = setting("PDLB_COUNT", 1000000, 1, UINT32_MAX - MAX_BATCH),
                        .batch = setting("PDLB_BATCH", 32, 1, MAX_BATCH),
                        .flows = setting("PDLB_FLOWS", 1024, 1, 65536),
                        .port_count = setting("PDLB_PORTS", 1, 1, MAX_PORTS),
                        .queue_count = setting("PDLB_QUEUES", 1, 1, MAX_QUEUES)};
  choose_type(&bench, getenv("PDLB_TYPE"));
  if (bench.directed) bench.queue_count = bench.port_count = 1; /* one port is one queue */
  bench.group_count = (bench.queue_count + PDLB_MAX_LINKS - 1) / PDLB_MAX_LINKS;
  if (bench.port_count < bench.group_count) bench.port_count = bench.group_count;
  open_engine(&bench);
  make_events(&bench);
  const uint64_t begin = pdlb_now();
  move_all(&bench);
  const uint64_t took = pdlb_now() - begin;
  printf("%" PRIu32 " events, %.1f ns each, %.2f million/s\n", bench.count, (double)took / bench.count,
         bench.count * 1e3 / (double)took);
  close_engine(&bench);
  return 0;
}
