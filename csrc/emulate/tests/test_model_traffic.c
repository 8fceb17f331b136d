/* Random traffic through queues of every type: each element arrives exactly once, atomic flows in order and never on
 * two ports at once, ordered ones in the order of arrival behind the stage that reorders them, and all credits,
 * tokens and places in history lists come back. */
#include <time.h>

#include "model.h"

#define PORTS 4u
#define FLOWS 5u
#define ELEMENTS 4000u

static struct emulation emulation;
static unsigned domain_id;

static void command(unsigned number, void *args) {
  const uint64_t serial = emulate_domain_serial(&emulation, 0, domain_id);
  const int result = emulate_domain_command(&emulation, 0, domain_id, serial, number, args);
  if (result != 0) {
    fprintf(stderr, "%s: %d\n", emulate_domain_command_name(number), result);
    exit(1);
  }
}

static void make_domain(void) {
  struct pdlb_create_sched_domain_args args = {
      .num_ldb_queues = 2,
      .num_ldb_ports = PORTS,
      .num_dir_ports = 1,
      .num_atomic_inflights = 256,
      .num_hist_list_entries = 64 * PORTS,
      .num_ldb_credits = 256,
      .num_dir_credits = 256,
      .num_sn_slots = {1, 0},
  };
  CHECK(model_create_domain(&emulation, &args) == 0);
  domain_id = args.response.id;
}

struct worker {
  unsigned port;
  struct model_reader reader;
  struct pdlb_qe held[64];
  unsigned first, count;
};

static struct worker workers[PORTS];
static struct worker collector;
static unsigned first_queue;
static unsigned last_queue; /* directed */

static void make_pipeline(unsigned type) {
  struct pdlb_create_ldb_queue_args queue = {
      .num_sequence_numbers = type == 2 ? 64 : 0, .num_qid_inflights = 40, .num_atomic_inflights = 64};
  command(PDLB_COMMAND_CREATE_LDB_QUEUE, &queue);
  first_queue = queue.response.id;
  for (unsigned i = 0; i < PORTS; i++) {
    struct pdlb_create_ldb_port_args port = {.cq_depth = (uint16_t)(4u << model_random(3)),
                                             .cq_depth_threshold = 1,
                                             .cq_history_list_size = (uint16_t)(1 + model_random(40)),
                                             .cos_id = 255};
    command(PDLB_COMMAND_CREATE_LDB_PORT, &port);
    struct pdlb_map_qid_args map = {.port_id = port.response.id, .qid = first_queue};
    command(PDLB_COMMAND_MAP_QID, &map);
    workers[i] = (struct worker){.port = port.response.id, .reader = {port.cq_depth, 0, 1}};
  }
  struct pdlb_create_dir_port_args port = {.cq_depth = 16, .cq_depth_threshold = 1, .queue_id = -1};
  command(PDLB_COMMAND_CREATE_DIR_PORT, &port);
  struct pdlb_create_dir_queue_args dir_queue = {.port_id = (int32_t)port.response.id};
  command(PDLB_COMMAND_CREATE_DIR_QUEUE, &dir_queue);
  last_queue = dir_queue.response.id;
  collector = (struct worker){.port = PDLB_NUM_LDB_PORTS + port.response.id, .reader = {16, 0, 1}};
  struct pdlb_start_domain_args start = {{0, 0}};
  command(PDLB_COMMAND_START_DOMAIN, &start);
}

static void store(unsigned port, struct pdlb_qe qe) {
  const struct pdlb_qe line[4] = {qe};
  emulate_store(&emulation, 0, port, emulate_domain_serial(&emulation, 0, domain_id), line, 4, false);
}

static void receive(struct worker *worker) {
  struct pdlb_qe qe;
  while (worker->count < 64 && model_receive(&worker->reader, worker->port, &qe)) {
    worker->held[(worker->first + worker->count++) % 64] = qe;
    store(worker->port, (struct pdlb_qe){.command = PDLB_QE_BAT_T});
  }
}

/* Only one port may hold elements of an atomic flow. */
static void check_flows(void) {
  for (unsigned flow = 0; flow < FLOWS; flow++) {
    unsigned holders = 0;
    for (unsigned i = 0; i < PORTS; i++) {
      bool holds = false;
      for (unsigned n = 0; n < workers[i].count; n++) {
        holds |= workers[i].held[(workers[i].first + n) % 64].flow == flow;
      }
      holders += holds;
    }
    CHECK(holders <= 1);
  }
}

static uint64_t expected[FLOWS];
static bool seen[ELEMENTS];
static uint64_t total_seen;

static void collect(unsigned type) {
  struct pdlb_qe qe;
  while (model_receive(&collector.reader, collector.port, &qe)) {
    CHECK(qe.data < ELEMENTS && !seen[qe.data]);
    seen[qe.data] = true;
    if (type == 2) CHECK(qe.data == total_seen);
    if (type == 0) {
      CHECK(qe.data / FLOWS == expected[qe.opaque]);
      expected[qe.opaque]++;
    }
    total_seen++;
    store(collector.port, (struct pdlb_qe){.command = PDLB_QE_BAT_T});
  }
}

/* Forward the oldest element that the worker holds; sometimes as a fragment first. */
static void forward(struct worker *worker, uint32_t *credits) {
  struct pdlb_qe qe = worker->held[worker->first];
  if (worker->count == 0 || *credits == 0) return;
  worker->first = (worker->first + 1) % 64;
  worker->count--;
  qe.qid = (uint8_t)last_queue;
  qe.sched = 3;
  qe.command = PDLB_QE_FWD;
  store(worker->port, qe);
}

static void run(uint32_t version, unsigned type) {
  uint64_t sent = 0;
  emulation = model_make(version);
  memset(seen, 0, sizeof seen);
  memset(expected, 0, sizeof expected);
  total_seen = 0;
  make_domain();
  make_pipeline(type);
  const struct domain *domain = &device_of(&emulation, 0)->control.domains[domain_id];
  const unsigned kind = version == PDLB_DEVICE_V25 ? 0 : 1;
  while (total_seen < ELEMENTS) {
    uint32_t ldb = domain->credits[0];
    uint32_t dir = domain->credits[kind];
    const unsigned who = model_random(PORTS + 2);
    if (who == PORTS + 1) {
      collect(type);
    } else if (who == PORTS) {
      /* Leave some credits to those who forward. */
      for (unsigned n = model_random(20); n > 0 && sent < ELEMENTS && ldb > 128; n--, ldb--, sent++) {
        const uint16_t flow = (uint16_t)(sent % FLOWS);
        store(collector.port, (struct pdlb_qe){.data = sent,
                                               .opaque = flow,
                                               .qid = (uint8_t)first_queue,
                                               .sched = (uint8_t)type,
                                               .flow = flow,
                                               .command = PDLB_QE_NEW});
      }
    } else {
      receive(&workers[who]);
      if (type == 0) check_flows();
      if (model_random(2)) forward(&workers[who], &dir);
    }
  }
  CHECK(model_complaints == 0);
  CHECK(domain->credits[0] == domain->credits_total[0] && domain->credits[1] == domain->credits_total[1]);
  for (unsigned i = 0; i < PORTS; i++) {
    const struct port *port = &device_of(&emulation, 0)->control.ports[workers[i].port];
    CHECK(port->tokens == 0 && port->held_count == 0);
  }
  model_closed[domain_id] = true;
  emulate_collect(&emulation, 0);
  CHECK(device_of(&emulation, 0)->control.free_domains.count == PDLB_NUM_DOMAINS);
  model_drop(&emulation);
}

int main(int count, char **arguments) {
  model_seed_from(count, arguments);
  for (unsigned type = 0; type < 3; type++) {
    run(PDLB_DEVICE_V20, type);
    run(PDLB_DEVICE_V25, type);
  }
  return 0;
}
