/* Any step can be taken back: at the end of each, before it is committed, rolling back gives the state before it, to
 * the byte. Random commands and elements, good and bad. */
#include <time.h>

#include "model.h"

void __real_journal_begin(struct device *device);
void __real_journal_commit(struct device *device);
void __wrap_journal_begin(struct device *device);
void __wrap_journal_commit(struct device *device);

#define USED_FLOWS 16u

/* What a step may change, but for flows, of which the test uses few. */
struct image {
  struct control control;
  struct alert_ring alerts[PDLB_NUM_DOMAINS];
  struct held history[PDLB_NUM_HISTORY_ENTRIES];
  struct order_place order[PDLB_NUM_SN_GROUPS][PDLB_SNS_PER_GROUP];
  struct element elements[1024];
  uint32_t flows[PDLB_NUM_LDB_QUEUES][USED_FLOWS];
  uint32_t next;
};

static struct image before, after, rolled_back;
static unsigned long steps;

static void take(struct image *image, const struct device *device) {
  memcpy(&image->control, &device->control, sizeof image->control);
  memcpy(image->alerts, device->alerts, sizeof image->alerts);
  memcpy(image->history, device->history, sizeof image->history);
  memcpy(image->order, device->order, sizeof image->order);
  memcpy(image->elements, device->elements, sizeof image->elements);
  for (unsigned i = 0; i < PDLB_NUM_LDB_QUEUES; i++) memcpy(image->flows[i], device->flows[i], sizeof image->flows[i]);
  image->next = device->line.next;
}

static void put_back(const struct image *image, struct device *device) {
  memcpy(&device->control, &image->control, sizeof image->control);
  memcpy(device->alerts, image->alerts, sizeof image->alerts);
  memcpy(device->history, image->history, sizeof image->history);
  memcpy(device->order, image->order, sizeof image->order);
  memcpy(device->elements, image->elements, sizeof image->elements);
  for (unsigned i = 0; i < PDLB_NUM_LDB_QUEUES; i++) memcpy(device->flows[i], image->flows[i], sizeof image->flows[i]);
  device->line.next = image->next;
}

void __wrap_journal_begin(struct device *device) {
  take(&before, device);
  __real_journal_begin(device);
}

void __wrap_journal_commit(struct device *device) {
  steps++;
  take(&after, device);
  journal_roll_back(device);
  take(&rolled_back, device);
  if (memcmp(&before, &rolled_back, sizeof before) != 0) {
    for (size_t i = 0; i < sizeof before; i++) {
      if (((char *)&before)[i] == ((char *)&rolled_back)[i]) continue;
      fprintf(stderr, "byte %zu of the state was changed and not saved (seed %u)\n", i, model_seed);
      exit(1);
    }
  }
  put_back(&after, device);
  __real_journal_commit(device);
}

static struct emulation emulation;

static uint64_t serial_of(unsigned domain) { return device_of(&emulation, 0)->control.domains[domain].serial; }

static bool live(unsigned domain) { return device_of(&emulation, 0)->control.domains[domain].state == DOMAIN_LIVE; }

static void create_domain(void) {
  struct pdlb_create_sched_domain_args args = {
      .num_ldb_queues = model_random(5),
      .num_ldb_ports = model_random(6),
      .num_dir_ports = model_random(5),
      .num_atomic_inflights = model_random(200),
      .num_hist_list_entries = model_random(100),
      .num_ldb_credits = model_random(150),
      .num_dir_credits = model_random(100),
      .num_sn_slots = {model_random(3), model_random(3)},
      .cos_strict = (uint8_t)model_random(2),
      .num_cos_ldb_ports = {model_random(2), model_random(2), 0, model_random(2)},
  };
  model_create_domain(&emulation, &args);
}

/* Numbers that are often right. */
static uint32_t number(void) {
  static const uint32_t likely[] = {1, 8, 16, 31, 30, 29, 64, 2, 9, 11, 4, 95, 94, 63, 62, 0};
  return model_random(8) == 0 ? model_random(UINT32_MAX) : likely[model_random(16)];
}

static void domain_step(unsigned domain) {
  /* Half of the time, what a domain is made of. */
  const unsigned command = model_random(2) ? model_random(4) + model_random(3) : model_random(24);
  union {
    uint32_t words[PDLB_MAX_ARGS / 4];
    struct pdlb_create_ldb_queue_args queue;
    struct pdlb_create_ldb_port_args port;
    struct pdlb_create_dir_port_args dir_port;
    struct pdlb_create_dir_queue_args dir_queue;
    struct pdlb_map_qid_args map;
  } args;
  for (size_t i = 0; i < PDLB_MAX_ARGS / 4; i++) args.words[i] = number();
  if (command == PDLB_COMMAND_CREATE_LDB_QUEUE) {
    args.queue.num_sequence_numbers = model_random(2) * 64;
    args.queue.num_qid_inflights = 1 + model_random(64);
    args.queue.num_atomic_inflights = model_random(40);
    args.queue.lock_id_comp_level = 0;
  }
  if (command == PDLB_COMMAND_CREATE_LDB_PORT) {
    args.port = (struct pdlb_create_ldb_port_args){.cq_depth = (uint16_t)(1u << model_random(5)),
                                                   .cq_depth_threshold = 1,
                                                   .cq_history_list_size = (uint16_t)(1 + model_random(16)),
                                                   .cos_id = 255};
  }
  if (command == PDLB_COMMAND_CREATE_DIR_PORT) {
    args.dir_port.cq_depth = 8;
    if (model_random(2)) args.dir_port.queue_id = -1;
  }
  if (command == PDLB_COMMAND_CREATE_DIR_QUEUE && model_random(2)) args.dir_queue.port_id = -1;
  if (command == PDLB_COMMAND_MAP_QID) args.map.priority &= 7;
  if (command == PDLB_COMMAND_START_DOMAIN && model_random(4)) return; /* not before there is something */
  if (command == PDLB_COMMAND_STOP_DOMAIN && model_random(4)) return;
  if (command != PDLB_COMMAND_BLOCK_ON_CQ_INTERRUPT) {
    emulate_domain_command(&emulation, 0, domain, serial_of(domain), command, &args);
  }
}

static void store_step(void) {
  const struct control *control = &device_of(&emulation, 0)->control;
  struct pdlb_qe line[4];
  unsigned port = model_random(NUM_PORTS);
  for (unsigned i = 0; i < NUM_PORTS && !control->ports[port].configured; i++) port = (port + 1) % NUM_PORTS;
  if (!control->ports[port].configured) return;
  for (unsigned i = 0; i < 4; i++) {
    line[i] = (struct pdlb_qe){
        .data = steps,
        .qid = (uint8_t)(model_random(2) ? 31 - model_random(6) : number()),
        .sched = (uint8_t)model_random(32),
        .flow = (uint16_t)model_random(model_random(4) ? 2 : USED_FLOWS),
        .command = (uint8_t)model_random(16),
    };
  }
  emulate_store(&emulation, 0, port, serial_of(control->ports[port].domain), line, 4, false);
}

static void random_life(uint32_t version) {
  emulation = model_make(version);
  for (unsigned i = 0; i < 1500; i++) {
    const unsigned domain = 31 - model_random(3);
    const unsigned what = model_random(100);
    if (what < 2) {
      create_domain();
    } else if (what < 40 && live(domain)) {
      domain_step(domain);
    } else if (what == 99 && live(domain)) {
      model_closed[domain] = true;
      emulate_collect(&emulation, 0);
      CHECK(!live(domain));
    } else {
      store_step();
    }
  }
  model_drop(&emulation);
}

/* The thread sanitizer, which has little to see here, makes each copy of the state some forty times as long. */
#if defined(__SANITIZE_THREAD__)
#define LIVES 1u
#else
#define LIVES 6u
#endif

int main(int count, char **arguments) {
  model_seed_from(count, arguments);
  for (unsigned life = 0; life < LIVES; life++) {
    random_life(PDLB_DEVICE_V20);
    random_life(PDLB_DEVICE_V25);
  }
  CHECK(steps > 1000 * LIVES);
  printf("%lu steps\n", steps);
  return 0;
}
