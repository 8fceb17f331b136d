/* DPDK's software event devices in one thread, which is producer, scheduler and worker in turn. (DPDK's own
 * dpdk-test-eventdev needs a processor that spins for each of these.) 16-byte events, 1024 flows, one queue.
 *
 *   eventdev DEVICE TYPE BATCH COUNT
 *
 * DEVICE: event_sw0 or event_dsw0. TYPE: atomic, parallel or ordered. Moves so many events and prints Mev/s.
 *
 *   cc -O3 $(pkg-config --cflags libdpdk) -o eventdev eventdev.c $(pkg-config --libs libdpdk) -pthread
 */
#include <rte_eal.h>
#include <rte_eventdev.h>
#include <rte_service.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEVICE = 0, PRODUCER = 0, WORKER = 1, FLOWS = 1024, MOST_EVENTS = 4096, DEPTH = 32 };

static uint32_t service;
static int has_service;

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void require(int right, const char *what) {
  if (right) return;
  fprintf(stderr, "eventdev: %s failed\n", what);
  exit(1);
}

static uint32_t least(uint32_t one, uint32_t other) { return one < other ? one : other; }

static void start(uint8_t type) {
  struct rte_event_dev_info most;
  rte_event_dev_info_get(DEVICE, &most);
  const struct rte_event_dev_config config = {
      .nb_events_limit = (int32_t)least((uint32_t)most.max_num_events, MOST_EVENTS),
      .nb_event_queues = 1,
      .nb_event_ports = 2,
      .nb_event_queue_flows = least(most.max_event_queue_flows, FLOWS),
      .nb_event_port_dequeue_depth = least(most.max_event_port_dequeue_depth, DEPTH),
      .nb_event_port_enqueue_depth = least(most.max_event_port_enqueue_depth, DEPTH)};
  require(rte_event_dev_configure(DEVICE, &config) == 0, "configure");
  struct rte_event_queue_conf queue;
  rte_event_queue_default_conf_get(DEVICE, 0, &queue);
  queue.schedule_type = type;
  queue.nb_atomic_flows = queue.nb_atomic_order_sequences = FLOWS;
  queue.event_queue_cfg = 0;
  require(rte_event_queue_setup(DEVICE, 0, &queue) == 0, "queue");
  for (uint8_t id = PRODUCER; id <= WORKER; id++) {
    struct rte_event_port_conf port;
    rte_event_port_default_conf_get(DEVICE, id, &port);
    port.new_event_threshold = config.nb_events_limit;
    port.dequeue_depth = (uint16_t)config.nb_event_port_dequeue_depth;
    port.enqueue_depth = (uint16_t)config.nb_event_port_enqueue_depth;
    require(rte_event_port_setup(DEVICE, id, &port) == 0, "port");
  }
  const uint8_t linked = 0;
  require(rte_event_port_link(DEVICE, WORKER, &linked, NULL, 1) == 1, "link");
  has_service = rte_event_dev_service_id_get(DEVICE, &service) == 0;
  if (has_service) {
    rte_service_runstate_set(service, 1);
    rte_service_set_runstate_mapped_check(service, 0);
  }
  require(rte_event_dev_start(DEVICE) == 0, "start");
}

static uint64_t move(uint8_t type, unsigned batch, uint64_t count) {
  struct rte_event in[DEPTH], out[DEPTH];
  uint64_t sent = 0, received = 0;
  while (received < count) {
    for (unsigned i = 0; i < batch; i++)
      in[i] = (struct rte_event){.op = RTE_EVENT_OP_NEW,
                                 .sched_type = type,
                                 .flow_id = (sent + i) % FLOWS,
                                 .event_type = RTE_EVENT_TYPE_CPU,
                                 .u64 = sent + i};
    sent += rte_event_enqueue_new_burst(DEVICE, PRODUCER, in, (uint16_t)batch);
    if (has_service) rte_service_run_iter_on_app_lcore(service, 0);
    const uint16_t came = rte_event_dequeue_burst(DEVICE, WORKER, out, DEPTH, 0);
    received += came;
    /* event_dsw gathers what is sent until it is told that no more comes. */
    if (!came && !has_service) rte_event_enqueue_burst(DEVICE, PRODUCER, in, 0);
  }
  return received;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: eventdev DEVICE TYPE BATCH COUNT\n");
    return 2;
  }
  char *eal[] = {argv[0],          "--no-huge",     "-m",       "256",   "--no-pci",
                 "--lcores",       "0@0",           "--vdev",   argv[1], "--log-level=2",
                 "--no-telemetry", "--file-prefix", "pydlbpeer"};
  require(rte_eal_init(sizeof eal / sizeof *eal, eal) >= 0, "DPDK's set-up");
  const uint8_t type = strcmp(argv[2], "atomic") == 0     ? RTE_SCHED_TYPE_ATOMIC
                       : strcmp(argv[2], "parallel") == 0 ? RTE_SCHED_TYPE_PARALLEL
                                                          : RTE_SCHED_TYPE_ORDERED;
  const unsigned batch = (unsigned)atoi(argv[3]);
  require(batch >= 1 && batch <= DEPTH, "a batch from 1 to 32");
  start(type);
  const uint64_t begin = now();
  const uint64_t moved = move(type, batch, strtoull(argv[4], NULL, 10));
  printf("%.3f Mev/s\n", (double)moved * 1e3 / (double)(now() - begin));
  return 0;
}
