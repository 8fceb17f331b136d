/* Limits and accounts: what a device has, what domains and their parts take of it, and what comes back. */
#include "rig.h"

static struct pdlb_resources total_of(struct pdlb_device *device) {
  struct pdlb_resources total;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_device_resources(device, &total, NULL, &error), error);
  return total;
}

static struct pdlb_resources available_of(struct pdlb_device *device) {
  struct pdlb_resources available;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_device_resources(device, NULL, &available, &error), error);
  return available;
}

static void check_same(const struct pdlb_resources *left, const struct pdlb_resources *right) {
  CHECK_EQ(left->domains, right->domains);
  CHECK_EQ(left->ldb_queues, right->ldb_queues);
  CHECK_EQ(left->ldb_ports, right->ldb_ports);
  CHECK_EQ(left->dir_ports, right->dir_ports);
  CHECK_EQ(left->ldb_credits, right->ldb_credits);
  CHECK_EQ(left->dir_credits, right->dir_credits);
  CHECK_EQ(left->history_entries, right->history_entries);
  CHECK_EQ(left->atomic_inflights, right->atomic_inflights);
  CHECK_EQ(left->sequence_slots[0], right->sequence_slots[0]);
  CHECK_EQ(left->sequence_slots[1], right->sequence_slots[1]);
}

static struct pdlb_device *open_device(enum pdlb_limits limits) {
  struct pdlb_device *device;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_device_open_software(limits, &device, &error), error);
  return device;
}

static struct pdlb_domain_config everything_of(const struct pdlb_resources *total) {
  return (struct pdlb_domain_config){.ldb_queues = total->ldb_queues,
                                     .ldb_ports = total->ldb_ports,
                                     .dir_ports = total->dir_ports,
                                     .ldb_credits = total->ldb_credits,
                                     .dir_credits = total->dir_credits,
                                     .history_entries = total->history_entries,
                                     .atomic_inflights = total->atomic_inflights,
                                     .sequence_slots = {total->sequence_slots[0], total->sequence_slots[1]}};
}

/* ---- the device ------------------------------------------------------------------------------------------------- */

static void hardware_numbers(void) {
  struct pdlb_device *device = open_device(PDLB_LIMITS_HARDWARE);
  const struct pdlb_resources dlb_2_5 = {.domains = 32,
                                         .ldb_queues = 32,
                                         .ldb_ports = 64,
                                         .dir_ports = 96,
                                         .ldb_credits = 16384,
                                         .dir_credits = 0,
                                         .history_entries = 2048,
                                         .atomic_inflights = 2048,
                                         .sequence_slots = {16, 16}};
  const struct pdlb_resources total = total_of(device), available = available_of(device);
  check_same(&total, &dlb_2_5);
  check_same(&available, &dlb_2_5);
  CHECK_EQ(pdlb_device_backend(device), PDLB_BACKEND_SOFTWARE);
  CHECK_EQ(pdlb_device_version(device), 3);
  CHECK_EQ(pdlb_device_close(device), 0);
}

static void large_numbers_are_larger(void) {
  struct pdlb_device *hardware = open_device(PDLB_LIMITS_HARDWARE), *large = open_device(PDLB_LIMITS_LARGE);
  const struct pdlb_resources less = total_of(hardware), more = total_of(large);
  CHECK_GE(more.domains, less.domains);
  CHECK_GT(more.ldb_queues, less.ldb_queues);
  CHECK_GT(more.ldb_ports, less.ldb_ports);
  CHECK_GT(more.dir_ports, less.dir_ports);
  CHECK_GT(more.ldb_credits, less.ldb_credits);
  CHECK_GT(more.history_entries, less.history_entries);
  CHECK_GT(more.atomic_inflights, less.atomic_inflights);
  CHECK_LE(more.ldb_queues, 256); /* an event names its queue in one byte */
  CHECK_LE(more.dir_ports, 256);
  CHECK_EQ(pdlb_device_close(hardware), 0);
  CHECK_EQ(pdlb_device_close(large), 0);
}

static void devices_share_nothing(void) {
  struct pdlb_device *first = open_device(PDLB_LIMITS_HARDWARE), *second = open_device(PDLB_LIMITS_HARDWARE);
  const struct pdlb_resources total = total_of(first);
  const struct pdlb_domain_config everything = everything_of(&total);
  struct pdlb_domain *domain;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_create(first, &everything, &domain, &error), error);
  const struct pdlb_resources available = available_of(second);
  check_same(&available, &total);
  CHECK_EQ(pdlb_domain_close(domain), 0);
  CHECK_EQ(pdlb_device_close(first), 0);
  CHECK_EQ(pdlb_device_close(second), 0);
}

static void device_with_domains_stays_open(void) {
  const struct rig rig = rig_open();
  CHECK_EQ(pdlb_device_close(rig.device), -EBUSY);
  rig_close(&rig);
}

/* ---- domains ---------------------------------------------------------------------------------------------------- */

static void domain_takes_and_returns(void) {
  struct pdlb_device *device = open_device(PDLB_LIMITS_HARDWARE);
  const struct pdlb_resources total = total_of(device);
  const struct pdlb_domain_config config = {.ldb_queues = 3,
                                            .ldb_ports = 5,
                                            .dir_ports = 7,
                                            .ldb_credits = 100,
                                            .history_entries = 11,
                                            .atomic_inflights = 13,
                                            .sequence_slots = {1, 2}};
  struct pdlb_domain *domain;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_create(device, &config, &domain, &error), error);
  struct pdlb_resources available = available_of(device), expected = total;
  expected.domains--;
  expected.ldb_queues -= 3;
  expected.ldb_ports -= 5;
  expected.dir_ports -= 7;
  expected.ldb_credits -= 100;
  expected.history_entries -= 11;
  expected.atomic_inflights -= 13;
  expected.sequence_slots[0] -= 1;
  expected.sequence_slots[1] -= 2;
  check_same(&available, &expected);
  CHECK_EQ(pdlb_domain_close(domain), 0);
  available = available_of(device);
  check_same(&available, &total);
  CHECK_EQ(pdlb_device_close(device), 0);
}

/* On DLB 2.5 there is one pool: directed credits are added to it. */
static void credits_are_combined(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.ldb_credits = 5;
  config.dir_credits = 3;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  CHECK_EQ(available_of(rig.device).ldb_credits, 16384 - 8);
  CHECK_EQ(rig_stats(&rig).credits_free, 8);
  rig_close(&rig);
}

static void everything_in_one_domain(enum pdlb_limits limits) {
  struct pdlb_device *device = open_device(limits);
  const struct pdlb_resources total = total_of(device);
  const struct pdlb_domain_config everything = everything_of(&total);
  struct pdlb_domain *domain, *none;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_create(device, &everything, &domain, &error), error);
  CHECK_OK(pdlb_domain_create(device, &(struct pdlb_domain_config){0}, &none, &error), error);
  CHECK_EQ(pdlb_domain_close(none), 0);
  CHECK_EQ(pdlb_domain_close(domain), 0);
  const struct pdlb_resources available = available_of(device);
  check_same(&available, &total);
  CHECK_EQ(pdlb_device_close(device), 0);
}

static void everything_in_one_hardware_domain(void) { everything_in_one_domain(PDLB_LIMITS_HARDWARE); }
static void everything_in_one_large_domain(void) { everything_in_one_domain(PDLB_LIMITS_LARGE); }

/* One more of each than there is: refused, and nothing taken. */
static void one_too_many_takes_nothing(void) {
  struct pdlb_device *device = open_device(PDLB_LIMITS_HARDWARE);
  const struct pdlb_resources total = total_of(device);
  static const size_t fields[] = {offsetof(struct pdlb_domain_config, ldb_queues),
                                  offsetof(struct pdlb_domain_config, ldb_ports),
                                  offsetof(struct pdlb_domain_config, dir_ports),
                                  offsetof(struct pdlb_domain_config, ldb_credits),
                                  offsetof(struct pdlb_domain_config, history_entries),
                                  offsetof(struct pdlb_domain_config, atomic_inflights),
                                  offsetof(struct pdlb_domain_config, sequence_slots),
                                  offsetof(struct pdlb_domain_config, sequence_slots) + sizeof(uint32_t)};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    for (int wrapped = 0; wrapped < 2; wrapped++) {
      struct pdlb_domain_config config = everything_of(&total);
      struct pdlb_domain *domain = NULL;
      struct pdlb_error error;
      uint32_t *field = (uint32_t *)(void *)((char *)&config + fields[i]);
      *field = wrapped ? UINT32_MAX : *field + 1;
      CHECK_ERROR(pdlb_domain_create(device, &config, &domain, &error), -ENOSPC, error);
      CHECK(!domain);
      const struct pdlb_resources available = available_of(device);
      check_same(&available, &total);
    }
  }
  CHECK_EQ(pdlb_device_close(device), 0);
}

/* Two amounts that only together are too much, also where their sum wraps. */
static void combined_credits_are_added_before_they_are_checked(void) {
  struct pdlb_device *device = open_device(PDLB_LIMITS_HARDWARE);
  static const uint32_t amounts[][2] = {{16384, 1}, {1, 16384}, {0, 16385}, {UINT32_MAX, 1}, {1u << 31, 1u << 31}};
  for (size_t i = 0; i < sizeof amounts / sizeof *amounts; i++) {
    const struct pdlb_domain_config config = {.ldb_credits = amounts[i][0], .dir_credits = amounts[i][1]};
    struct pdlb_domain *domain = NULL;
    struct pdlb_error error;
    const bool wraps = amounts[i][0] + amounts[i][1] < amounts[i][0];
    CHECK_ERROR(pdlb_domain_create(device, &config, &domain, &error), wraps ? -EINVAL : -ENOSPC, error);
  }
  CHECK_EQ(available_of(device).ldb_credits, 16384);
  CHECK_EQ(pdlb_device_close(device), 0);
}

static void as_many_domains_as_there_are(void) {
  struct pdlb_device *device = open_device(PDLB_LIMITS_HARDWARE);
  struct pdlb_domain *domains[32], *one_more;
  struct pdlb_error error = {0};
  uint32_t seen = 0;
  for (uint32_t i = 0; i < 32; i++) {
    CHECK_OK(pdlb_domain_create(device, &(struct pdlb_domain_config){0}, &domains[i], &error), error);
    const uint32_t id = pdlb_domain_id(domains[i]);
    CHECK_LT(id, 32);
    CHECK(!(seen & (1u << id)));
    seen |= 1u << id;
  }
  CHECK_ERROR(pdlb_domain_create(device, &(struct pdlb_domain_config){0}, &one_more, &error), -ENOSPC, error);
  const uint32_t given_back = pdlb_domain_id(domains[7]);
  CHECK_EQ(pdlb_domain_close(domains[7]), 0);
  CHECK_OK(pdlb_domain_create(device, &(struct pdlb_domain_config){0}, &domains[7], &error), error);
  CHECK_EQ(pdlb_domain_id(domains[7]), given_back);
  for (uint32_t i = 0; i < 32; i++) CHECK_EQ(pdlb_domain_close(domains[i]), 0);
  CHECK_EQ(pdlb_device_close(device), 0);
}

/* ---- queues and ports of a domain ------------------------------------------------------------------------------- */

static void domain_runs_out_of_queues(void) {
  const struct pdlb_domain_config config = {
      .ldb_queues = 2, .ldb_ports = 1, .dir_ports = 2, .ldb_credits = 8, .history_entries = 8, .atomic_inflights = 10};
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const struct pdlb_ldb_queue_config plain = {0};
  struct pdlb_error error;
  const uint8_t first = rig_queue_with(&rig, &plain), second = rig_queue_with(&rig, &plain);
  CHECK_NE(first, second);
  CHECK_ERROR(pdlb_ldb_queue_create(rig.domain, &plain, &error), -ENOSPC, error);
  rig_directed_queue(&rig, PDLB_NONE);
  rig_directed_queue(&rig, PDLB_NONE);
  CHECK_ERROR(pdlb_dir_queue_create(rig.domain, PDLB_NONE, &error), -ENOSPC, error);
  rig_close(&rig);
}

static void domain_runs_out_of_atomic_inflights(void) {
  struct pdlb_domain_config config = rig_plenty;
  config.atomic_inflights = 10;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  struct pdlb_error error;
  CHECK_ERROR(pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.atomic_inflights = 11}, &error),
              -ENOSPC, error);
  rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){.atomic_inflights = 7});
  CHECK_ERROR(pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.atomic_inflights = 4}, &error),
              -ENOSPC, error);
  rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){.atomic_inflights = 3});
  rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){0});
  rig_close(&rig);
}

static void domain_runs_out_of_sequence_numbers(void) {
  struct pdlb_domain_config config = rig_plenty;
  struct pdlb_error error;
  config.sequence_slots[0] = 3;
  config.sequence_slots[1] = 0;
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  rig_ordered_queue(&rig, 64);
  rig_ordered_queue(&rig, 128);
  CHECK_ERROR(pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.sequence_numbers = 64}, &error),
              -ENOSPC, error);
  rig_close(&rig);
}

static void domain_runs_out_of_ports(void) {
  const struct pdlb_domain_config config = {.ldb_ports = 2, .dir_ports = 2, .ldb_credits = 8, .history_entries = 1000};
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  const struct pdlb_port_config small = {.cq_depth = 1};
  struct pdlb_error error;
  struct pdlb_port *none = NULL;
  struct pdlb_port *balanced[] = {rig_port_with(&rig, &small), rig_port_with(&rig, &small)};
  CHECK_NE(pdlb_port_id(balanced[0]), pdlb_port_id(balanced[1]));
  CHECK_ERROR(pdlb_ldb_port_create(rig.domain, &small, &none, &error), -ENOSPC, error);
  struct pdlb_port *directed[] = {rig_producer(&rig), rig_producer(&rig)};
  CHECK_ERROR(pdlb_dir_port_create(rig.domain, &small, PDLB_NONE, &none, &error), -ENOSPC, error);
  CHECK(!none);
  rig_close_port(balanced[0]); /* a closed port can be had again */
  balanced[0] = rig_port_with(&rig, &small);
  rig_close_port(directed[0]);
  directed[0] = rig_producer(&rig);
  for (int i = 0; i < 2; i++) {
    rig_close_port(balanced[i]);
    rig_close_port(directed[i]);
  }
  rig_close(&rig);
}

/* Any split of the history entries among ports is possible, in any order of opening and closing. */
static void history_entries_are_shared_out_whole(void) {
  const struct pdlb_domain_config config = {.ldb_ports = 8, .ldb_credits = 8, .history_entries = 100};
  static const uint32_t splits[][4] = {
      {100, 0, 0, 0}, {33, 33, 33, 1}, {1, 64, 34, 1}, {65, 33, 1, 1}, {50, 25, 24, 1}};
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
    struct pdlb_port *ports[4] = {NULL}, *none;
    struct pdlb_error error;
    for (int j = 0; j < 4 && splits[i][j]; j++)
      ports[j] = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 1, .history_entries = splits[i][j]});
    CHECK_ERROR(pdlb_ldb_port_create(rig.domain, &(struct pdlb_port_config){.cq_depth = 1, .history_entries = 1}, &none,
                                     &error),
                -ENOSPC, error);
    for (int j = 0; j < 4 && ports[j]; j++) rig_close_port(ports[j]);
  }
  rig_close(&rig);
}

/* 0 history entries are twice the depth. */
static void history_defaults_to_twice_the_depth(void) {
  const struct pdlb_domain_config config = {.ldb_ports = 2, .ldb_credits = 8, .history_entries = 32};
  const struct rig rig = rig_open_with(PDLB_LIMITS_HARDWARE, &config);
  struct pdlb_error error;
  struct pdlb_port *port = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 16}), *none;
  CHECK_ERROR(
      pdlb_ldb_port_create(rig.domain, &(struct pdlb_port_config){.cq_depth = 1, .history_entries = 1}, &none, &error),
      -ENOSPC, error);
  rig_close_port(port);
  rig_close(&rig);
}

/* All that a large device has, in use at once. */
static void every_large_queue_and_port_works(void) {
  struct pdlb_device *device = open_device(PDLB_LIMITS_LARGE);
  const struct pdlb_resources total = total_of(device);
  CHECK_EQ(pdlb_device_close(device), 0);
  struct pdlb_domain_config config = everything_of(&total);
  config.ldb_credits = 4096;
  const struct rig rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  struct pdlb_port *producer = rig_producer(&rig);
  struct pdlb_port **ports = calloc(total.ldb_ports, sizeof *ports);
  CHECK(ports);
  for (uint32_t i = 0; i < total.ldb_queues; i++) rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){0});
  for (uint32_t i = 0; i < total.ldb_ports; i++) {
    ports[i] = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 1});
    rig_link(ports[i], (uint8_t)(i % total.ldb_queues), 0);
  }
  rig_start(&rig);
  for (uint32_t i = 0; i < total.ldb_ports; i++) {
    rig_send_one(producer, (uint8_t)(i % total.ldb_queues), PDLB_SCHED_UNORDERED, 0, 0, i);
    CHECK_RECEIVES(ports[i], i);
  }
  for (uint32_t i = 0; i < total.ldb_ports; i++) rig_close_port(ports[i]);
  free(ports);
  rig_close_port(producer);
  rig_close(&rig);
}

CHECK_MAIN(CASE(hardware_numbers), CASE(large_numbers_are_larger), CASE(devices_share_nothing),
           CASE(device_with_domains_stays_open), CASE(domain_takes_and_returns), CASE(credits_are_combined),
           CASE(everything_in_one_hardware_domain), CASE(everything_in_one_large_domain),
           CASE(one_too_many_takes_nothing), CASE(combined_credits_are_added_before_they_are_checked),
           CASE(as_many_domains_as_there_are), CASE(domain_runs_out_of_queues),
           CASE(domain_runs_out_of_atomic_inflights), CASE(domain_runs_out_of_sequence_numbers),
           CASE(domain_runs_out_of_ports), CASE(history_entries_are_shared_out_whole),
           CASE(history_defaults_to_twice_the_depth), CASE(every_large_queue_and_port_works))
