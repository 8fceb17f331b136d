/* One instruction stores up to four elements, and a device has all of them or none. So has this one, whenever the
 * process that carries the store out is killed. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "model.h"

void __real_journal_end(struct device *device);
void __wrap_journal_end(struct device *device);

enum { LINE = 4, DEPTH = 8 };

static struct emulation emulation;
static unsigned domain_id, queue_id, port_id;
static unsigned steps_to_live;

/* Between a step and the next. */
void __wrap_journal_end(struct device *device) {
  __real_journal_end(device);
  if (steps_to_live > 0 && --steps_to_live == 0) kill(getpid(), SIGKILL);
}

static void command(unsigned number, void *args) {
  const uint64_t serial = emulate_domain_serial(&emulation, 0, domain_id);
  CHECK(emulate_domain_command(&emulation, 0, domain_id, serial, number, args) == 0);
}

/* A queue of one type, and a port that sends to it and serves it. */
static void make_device(struct region *region, unsigned type) {
  memset(region, 0, emulate_region_size(1));
  emulate_format(region, 1, PDLB_DEVICE_V25, false);
  emulate_attach(&emulation, region, &model_host, NULL);
  struct pdlb_create_sched_domain_args domain = {.num_ldb_queues = 1,
                                                 .num_ldb_ports = 1,
                                                 .num_atomic_inflights = 64,
                                                 .num_hist_list_entries = 64,
                                                 .num_ldb_credits = 64,
                                                 .num_sn_slots = {1, 0}};
  CHECK(model_create_domain(&emulation, &domain) == 0);
  domain_id = domain.response.id;
  struct pdlb_create_ldb_queue_args queue = {
      .num_sequence_numbers = type == 2 ? 64 : 0, .num_qid_inflights = 32, .num_atomic_inflights = 64};
  command(PDLB_COMMAND_CREATE_LDB_QUEUE, &queue);
  queue_id = queue.response.id;
  struct pdlb_create_ldb_port_args port = {
      .cq_depth = DEPTH, .cq_depth_threshold = 1, .cq_history_list_size = 32, .cos_id = 255};
  command(PDLB_COMMAND_CREATE_LDB_PORT, &port);
  port_id = port.response.id;
  struct pdlb_map_qid_args map = {.port_id = port_id, .qid = queue_id};
  command(PDLB_COMMAND_MAP_QID, &map);
  struct pdlb_start_domain_args start = {{0, 0}};
  command(PDLB_COMMAND_START_DOMAIN, &start);
}

/* Another process stores four of these, and dies after so many steps. True if it lived. */
static bool store_elsewhere(struct pdlb_qe qe, unsigned steps) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    const struct pdlb_qe line[LINE] = {qe, qe, qe, qe};
    emulate_forked(&emulation);
    steps_to_live = steps;
    emulate_store(&emulation, 0, port_id, emulate_domain_serial(&emulation, 0, domain_id), line, LINE, false);
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  /* Whoever is next at the device finds what it left. */
  emulate_lock(&emulation, 0);
  emulate_unlock(&emulation, 0);
  return WIFEXITED(status);
}

static unsigned held(void) { return device_of(&emulation, 0)->control.ports[port_id].held_count; }

static unsigned tokens(void) { return device_of(&emulation, 0)->control.ports[port_id].tokens; }

static void try_type(struct region *region, unsigned type) {
  bool lived = false;
  for (unsigned steps = 1; !lived; steps++) {
    make_device(region, type);
    const struct pdlb_qe sent = {.qid = (uint8_t)queue_id, .sched = (uint8_t)type, .command = PDLB_QE_NEW};
    lived = store_elsewhere(sent, steps);
    CHECK(held() == LINE && tokens() == LINE);
    const struct pdlb_qe done = {.command = PDLB_QE_REL_T};
    lived &= store_elsewhere(done, steps);
    CHECK(held() == 0 && tokens() == 0);
    CHECK(model_complaints == 0);
  }
}

int main(int count, char **arguments) {
  model_seed_from(count, arguments);
  struct region *region = mmap(NULL, emulate_region_size(1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(region != MAP_FAILED);
  for (unsigned type = 0; type < 3; type++) try_type(region, type);
  return 0;
}
