/* A consumer queue that is not served is told of: once, after the time that the driver asks for, until it is served. */
#include <time.h>

#include "model.h"

static struct emulation emulation;
static unsigned domain_id;

static uint64_t serial(void) { return emulate_domain_serial(&emulation, 0, domain_id); }

static void command(unsigned number, void *args) {
  CHECK(emulate_domain_command(&emulation, 0, domain_id, serial(), number, args) == 0);
}

/* A directed port with its queue, in a domain that is started. */
static unsigned make_port(void) {
  struct pdlb_create_sched_domain_args domain = {.num_dir_ports = 1, .num_ldb_credits = 8, .num_dir_credits = 8};
  CHECK(model_create_domain(&emulation, &domain) == 0);
  domain_id = domain.response.id;
  struct pdlb_create_dir_port_args port = {.cq_depth = 8, .cq_depth_threshold = 1, .queue_id = -1};
  command(PDLB_COMMAND_CREATE_DIR_PORT, &port);
  struct pdlb_create_dir_queue_args queue = {.port_id = (int32_t)port.response.id};
  command(PDLB_COMMAND_CREATE_DIR_QUEUE, &queue);
  struct pdlb_start_domain_args start = {{0, 0}};
  command(PDLB_COMMAND_START_DOMAIN, &start);
  return port.response.id;
}

static void store(unsigned port, struct pdlb_qe qe) {
  emulate_store(&emulation, 0, PDLB_NUM_LDB_PORTS + port, serial(), &qe, 1, false);
}

static void pass(unsigned milliseconds) { emulate_pass_time(&emulation, 0, milliseconds); }

static bool told(unsigned port) {
  struct pdlb_domain_alert alert;
  uint32_t seen;
  const int result = emulate_read_alert(&emulation, 0, domain_id, serial(), &alert, &seen);
  if (result == -EAGAIN) return false;
  CHECK(result == sizeof alert && alert.id == PDLB_ALERT_CQ_WATCHDOG_TIMEOUT && alert.aux == port);
  return true;
}

static void test_watchdog(uint32_t version, unsigned too_short, unsigned long_enough) {
  emulation = model_make(version);
  const unsigned port = make_port();
  const struct pdlb_qe element = {.qid = (uint8_t)port, .sched = 3, .command = PDLB_QE_NEW};
  pass(60000);
  CHECK(!told(port)); /* there is nothing to serve */
  for (unsigned round = 0; round < 3; round++) {
    store(port, element);
    pass(too_short);
    CHECK(!told(port));
    pass(long_enough - too_short);
    CHECK(told(port));
    pass(60000);
    CHECK(!told(port));
    store(port, (struct pdlb_qe){.command = PDLB_QE_BAT_T});
  }
  pass(60000);
  CHECK(!told(port));
  model_drop(&emulation);
}

int main(void) {
  test_watchdog(PDLB_DEVICE_V20, 10000, 10100);
  test_watchdog(PDLB_DEVICE_V25, 15000, 15200);
  return 0;
}
