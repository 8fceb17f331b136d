/* What the device backend writes to producer pages and reads from consumer queues, byte by byte. */
#include "check.h"
#include "fake_device.h"

struct rig {
  struct fake fake;
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  struct pdlb_port *port, *sender; /* consumer queues 0 and 1 */
  uint8_t queue, directed;
};

static struct rig rig;

static void set_up(uint32_t version, uint32_t poll_mode, uint32_t depth) {
  const struct pdlb_domain_config config = {
      .ldb_queues = 1, .ldb_ports = 1, .dir_ports = 1, .ldb_credits = 64, .history_entries = 64};
  const struct pdlb_port_config shape = {.cq_depth = depth, .history_entries = 64};
  struct pdlb_error error;
  fake_init(&rig.fake, version, poll_mode);
  CHECK_EQ(pdlb_device_open_through(&fake_system, &rig.fake, "fake", &rig.device, &error), 0);
  CHECK_EQ(pdlb_domain_create(rig.device, &config, &rig.domain, &error), 0);
  const struct pdlb_ldb_queue_config plain = {.sharing = PDLB_SHARE_PULL};
  rig.queue = (uint8_t)pdlb_ldb_queue_create(rig.domain, &plain, &error);
  rig.directed = (uint8_t)pdlb_dir_queue_create(rig.domain, PDLB_NONE, &error);
  CHECK_EQ(pdlb_ldb_port_create(rig.domain, &shape, &rig.port, &error), 0);
  CHECK_EQ(pdlb_dir_port_create(rig.domain, &shape, PDLB_NONE, &rig.sender, &error), 0);
  CHECK_EQ(pdlb_port_link(rig.port, rig.queue, 0, &error), 0);
  CHECK_EQ(pdlb_domain_start(rig.domain, &error), 0);
  rig.fake.lines = 0;
}

static void tear_down(void) {
  pdlb_port_close(rig.port);
  pdlb_port_close(rig.sender);
  CHECK_EQ(pdlb_domain_close(rig.domain), 0);
  CHECK_EQ(pdlb_device_close(rig.device), 0);
}

static struct pdlb_event event(uint64_t data) {
  return (struct pdlb_event){.data = data,
                             .opaque = 0x1234,
                             .queue = rig.queue,
                             .sched = (uint8_t)(pdlb_sched_byte(PDLB_SCHED_UNORDERED, 5) | 0xE0),
                             .flow = 0xABCD,
                             .flags = 0xFF,
                             .command = 0xFF};
}

static void check_sent(const struct pdlb_qe *qe, uint64_t data, uint8_t command) {
  const struct pdlb_event sent = event(data);
  CHECK_EQ(memcmp(qe, &sent, 14), 0);
  CHECK_EQ(qe->misc, 0);
  CHECK_EQ(qe->command, command);
}

static void check_nothing(const struct pdlb_qe *qe) {
  static const struct pdlb_qe nothing;
  CHECK_EQ(memcmp(qe, &nothing, sizeof nothing), 0);
}

static void elements_fill_lines(void) {
  set_up(PDLB_DEVICE_V25, PDLB_POLL_MODE_SPARSE, 8);
  struct pdlb_event events[9];
  for (uint64_t i = 0; i < 9; i++) events[i] = event(i);
  enum pdlb_refusal why;
  CHECK_EQ(pdlb_port_send(rig.sender, events, 9, &why), 9);
  CHECK_EQ(rig.fake.lines, 3);
  for (uint32_t i = 0; i < 12; i++) {
    const struct pdlb_qe *qe = &rig.fake.line[i / 4][i % 4];
    if (i < 9)
      check_sent(qe, i, PDLB_QE_NEW);
    else
      check_nothing(qe);
  }
  tear_down();
}

/* Takes, releases and forwards some elements, in either poll mode, over several laps; every token is given back. */
static void receive_laps(uint32_t poll_mode, uint32_t depth) {
  set_up(PDLB_DEVICE_V25, poll_mode, depth);
  struct pdlb_event got[64];
  uint32_t nth = 0;
  for (uint32_t turn = 0; turn < 40; turn++) {
    const uint32_t count = turn % depth + 1;
    for (uint32_t i = 0; i < count; i++)
      fake_give(&rig.fake, 0, depth, nth + i, nth + i, pdlb_sched_byte(PDLB_SCHED_UNORDERED, 2));
    rig.fake.lines = 0;
    CHECK_EQ(pdlb_port_recv(rig.port, got, 64, 0), (int)count);
    for (uint32_t i = 0; i < count; i++) {
      CHECK_EQ(got[i].data, nth + i);
      CHECK_EQ(got[i].flags, 0);
      CHECK_EQ(got[i].command, 0);
    }
    nth += count;
    CHECK_EQ(rig.fake.lines, 1);
    CHECK_EQ(rig.fake.line[0][0].command, PDLB_QE_BAT_T);
    CHECK_EQ(rig.fake.line[0][0].flow, count - 1);
    for (uint32_t slot = 1; slot < 4; slot++) check_nothing(&rig.fake.line[0][slot]);
    CHECK_EQ(pdlb_port_recv(rig.port, got, 64, 0), 0);
    CHECK_EQ(rig.fake.lines, 1);
    CHECK_EQ(pdlb_port_release(rig.port, 1000), count);
    CHECK_EQ(rig.fake.lines, 1 + (count + 3) / 4);
    uint32_t releases = 0;
    for (uint32_t line = 1; line < rig.fake.lines; line++)
      for (uint32_t slot = 0; slot < 4; slot++) releases += rig.fake.line[line][slot].command == PDLB_QE_REL;
    CHECK_EQ(releases, count);
  }
  tear_down();
}

static void sparse_queues_are_read(void) {
  receive_laps(PDLB_POLL_MODE_SPARSE, 8);
  receive_laps(PDLB_POLL_MODE_SPARSE, 32);
}

static void standard_queues_are_read(void) {
  receive_laps(PDLB_POLL_MODE_STANDARD, 8);
  receive_laps(PDLB_POLL_MODE_STANDARD, 16);
}

static void short_queues_have_eight_slots(void) {
  receive_laps(PDLB_POLL_MODE_SPARSE, 1);
  receive_laps(PDLB_POLL_MODE_SPARSE, 4);
}

static void bad_elements_are_marked(void) {
  set_up(PDLB_DEVICE_V25, PDLB_POLL_MODE_SPARSE, 8);
  fake_give(&rig.fake, 0, 8, 0, 7, 0);
  struct pdlb_qe *slot = (struct pdlb_qe *)(void *)rig.fake.consumer[0];
  slot->command |= PDLB_QE_ERROR;
  struct pdlb_event got;
  CHECK_EQ(pdlb_port_recv(rig.port, &got, 1, 0), 1);
  CHECK_EQ(got.flags, PDLB_EVENT_ERROR);
  tear_down();
}

static void forwards_take_the_oldest_place(void) {
  set_up(PDLB_DEVICE_V25, PDLB_POLL_MODE_SPARSE, 8);
  struct pdlb_event events[2] = {event(1), event(2)}, got[8];
  enum pdlb_refusal why;
  fake_give(&rig.fake, 0, 8, 0, 7, 0);
  CHECK_EQ(pdlb_port_recv(rig.port, got, 8, 0), 1);
  rig.fake.lines = 0;
  CHECK_EQ(pdlb_port_forward(rig.port, events, 2, &why), 1);
  CHECK_EQ(why, PDLB_NOT_HELD);
  CHECK_EQ(rig.fake.lines, 1);
  check_sent(&rig.fake.line[0][0], 1, PDLB_QE_FWD);
  check_nothing(&rig.fake.line[0][1]);
  tear_down();
}

/* On DLB 2.0 directed elements need a credit of their own kind as well. */
static void directed_credits_are_apart_on_2_0(void) {
  set_up(PDLB_DEVICE_V20, PDLB_POLL_MODE_SPARSE, 8);
  struct pdlb_event events[65], got[8];
  enum pdlb_refusal why;
  for (uint64_t i = 0; i < 65; i++) {
    events[i] = event(i);
    events[i].queue = i % 2 ? rig.directed : rig.queue;
    events[i].sched = pdlb_sched_byte(i % 2 ? PDLB_SCHED_DIRECTED : PDLB_SCHED_UNORDERED, 0);
  }
  CHECK_EQ(pdlb_port_send(rig.sender, events, 65, &why), 64);
  CHECK_EQ(why, PDLB_NO_CREDIT);
  struct pdlb_domain_stats stats;
  for (uint32_t i = 0; i < 4; i++) fake_give(&rig.fake, 0, 8, i, i, 0);
  CHECK_EQ(pdlb_port_recv(rig.port, got, 8, 0), 4);
  pdlb_domain_stats(rig.domain, &stats);
  CHECK_EQ(stats.credits_free, 4);
  tear_down();
}

static void arming_is_a_command(void) {
  set_up(PDLB_DEVICE_V25, PDLB_POLL_MODE_SPARSE, 8);
  struct pdlb_error error;
  CHECK(pdlb_port_fd(rig.port, &error) >= 0);
  CHECK_EQ(rig.fake.lines, 1);
  CHECK_EQ(rig.fake.line[0][0].command, PDLB_QE_ARM);
  /* What comes after the drain and before the sleep is found: tokens go back first, then the interrupt is armed. */
  fake_give(&rig.fake, 0, 8, 0, 9, 0);
  struct pdlb_event got[8];
  CHECK_EQ(pdlb_port_recv(rig.port, got, 8, 0), 1);
  CHECK_EQ(rig.fake.line[1][0].command, PDLB_QE_BAT_T);
  tear_down();
}

CHECK_MAIN(CASE(elements_fill_lines), CASE(sparse_queues_are_read), CASE(standard_queues_are_read),
           CASE(short_queues_have_eight_slots), CASE(bad_elements_are_marked), CASE(forwards_take_the_oldest_place),
           CASE(directed_credits_are_apart_on_2_0), CASE(arming_is_a_command))
