/* Wrong arguments everywhere: refused with a whole sentence, and nothing changed. Elements that are refused are
 * refused one by one, after those before them were taken.
 */
#include "rig.h"

/* ---- control calls ---------------------------------------------------------------------------------------------- */

static void open_refuses_unknown_limits(void) {
  struct pdlb_device *device = NULL;
  struct pdlb_error error;
  CHECK_ERROR(pdlb_device_open_software((enum pdlb_limits)2, &device, &error), -EINVAL, error);
  CHECK(!device);
  CHECK_ERROR(pdlb_device_open_software((enum pdlb_limits) - 1, &device, &error), -EINVAL, error);
  CHECK_EQ(pdlb_device_open_software((enum pdlb_limits)99, &device, NULL), -EINVAL);
}

static void depth_is_a_power_of_two(void) {
  const struct pdlb_domain_config config = {
      .ldb_ports = 16, .dir_ports = 16, .ldb_credits = 8, .history_entries = 16384};
  const struct rig rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  static const uint32_t wrong[] = {0, 3, 5, 6, 7, 9, 1023, 1025, 2048, 1u << 16, 1u << 31, UINT32_MAX};
  struct pdlb_error error;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const struct pdlb_port_config port = {.cq_depth = wrong[i], .history_entries = 1};
    struct pdlb_port *none = NULL;
    CHECK_ERROR(pdlb_ldb_port_create(rig.domain, &port, &none, &error), -EINVAL, error);
    CHECK_ERROR(pdlb_dir_port_create(rig.domain, &port, PDLB_NONE, &none, &error), -EINVAL, error);
    CHECK(!none);
  }
  for (uint32_t depth = 1; depth <= 1024; depth *= 2) {
    struct pdlb_port *balanced = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = depth});
    struct pdlb_port *directed = rig_directed_port(&rig, PDLB_NONE, depth);
    CHECK(!pdlb_port_directed(balanced));
    CHECK(pdlb_port_directed(directed));
    rig_close_port(balanced);
    rig_close_port(directed);
  }
  rig_close(&rig);
}

static void history_must_be_there(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *none = NULL;
  struct pdlb_error error;
  static const uint32_t wrong[] = {2049, 1u << 16, 1u << 31, UINT32_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    CHECK_ERROR(pdlb_ldb_port_create(rig.domain, &(struct pdlb_port_config){.cq_depth = 8, .history_entries = wrong[i]},
                                     &none, &error),
                -ENOSPC, error);
  rig_close(&rig);
}

static void sequence_numbers_are_the_devices(void) {
  static const uint32_t wrong[] = {1, 32, 63, 65, 100, 192, 1023, 1025, 2048, 1u << 31, UINT32_MAX};
  const struct rig rig = rig_open();
  struct pdlb_error error;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    CHECK_ERROR(
        pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.sequence_numbers = wrong[i]}, &error),
        -EINVAL, error);
  for (uint32_t numbers = 64; numbers <= 1024; numbers *= 2) {
    if (numbers == 1024) continue; /* the slots are used up by the others */
    rig_ordered_queue(&rig, numbers);
  }
  rig_close(&rig);
}

static void inflights_fit_the_sequence_numbers(void) {
  const struct rig rig = rig_open();
  struct pdlb_error error;
  CHECK_ERROR(pdlb_ldb_queue_create(rig.domain,
                                    &(struct pdlb_ldb_queue_config){.sequence_numbers = 64, .inflights = 65}, &error),
              -EINVAL, error);
  rig_queue_with(&rig, &(struct pdlb_ldb_queue_config){.sequence_numbers = 64, .inflights = 64});
  rig_close(&rig);
}

static void sharing_is_known(void) {
  const struct rig rig = rig_open();
  struct pdlb_error error;
  CHECK_ERROR(
      pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.sharing = (enum pdlb_sharing)2}, &error),
      -EINVAL, error);
  CHECK_ERROR(
      pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.sharing = (enum pdlb_sharing) - 1}, &error),
      -EINVAL, error);
  rig_close(&rig);
}

static void links_name_queues_and_priorities(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *port = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 8});
  struct pdlb_error error;
  static const uint32_t priorities[] = {8, 9, 255, 1u << 16, UINT32_MAX};
  for (size_t i = 0; i < sizeof priorities / sizeof *priorities; i++)
    CHECK_ERROR(pdlb_port_link(port, queue, priorities[i], &error), -EINVAL, error);
  for (uint32_t id = 0; id < 300; id++) {
    if (id == queue) continue;
    CHECK_ERROR(pdlb_port_link(port, id, 0, &error), -EINVAL, error);
    CHECK_ERROR(pdlb_port_unlink(port, id, &error), -EINVAL, error);
  }
  CHECK_ERROR(pdlb_port_link(port, queue + 65536u, 0, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_port_link(port, UINT32_MAX, 0, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_port_link(port, 1u << 31, 0, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_port_unlink(port, queue, &error), -EINVAL, error); /* not linked */
  for (uint32_t priority = 0; priority < 8; priority++) rig_link(port, queue, priority);
  rig_unlink(port, queue);
  CHECK_ERROR(pdlb_port_unlink(port, queue, &error), -EINVAL, error);
  rig_close_port(port);
  rig_close(&rig);
}

static void eight_links_and_no_more(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *port = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 8});
  uint8_t queues[PDLB_MAX_LINKS + 1];
  struct pdlb_error error;
  for (uint32_t i = 0; i <= PDLB_MAX_LINKS; i++) queues[i] = rig_queue(&rig);
  for (uint32_t i = 0; i < PDLB_MAX_LINKS; i++) rig_link(port, queues[i], i % 8);
  CHECK_ERROR(pdlb_port_link(port, queues[8], 0, &error), -ENOSPC, error);
  rig_link(port, queues[3], 7); /* linking again changes the priority and takes no slot */
  rig_unlink(port, queues[3]);
  rig_link(port, queues[8], 0);
  CHECK_ERROR(pdlb_port_link(port, queues[3], 0, &error), -ENOSPC, error);
  rig_close_port(port);
  rig_close(&rig);
}

static void directed_ports_are_not_linked(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *port = rig_producer(&rig);
  struct pdlb_error error;
  CHECK_ERROR(pdlb_port_link(port, queue, 0, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_port_unlink(port, queue, &error), -EINVAL, error);
  rig_close_port(port);
  rig_close(&rig);
}

static void pairs_are_made_once(void) {
  const struct rig rig = rig_open();
  struct pdlb_error error;
  struct pdlb_port *none = NULL;
  const struct pdlb_port_config small = {.cq_depth = 8};
  CHECK_ERROR(pdlb_dir_queue_create(rig.domain, 0, &error), -EINVAL, error); /* no such port yet */
  CHECK_ERROR(pdlb_dir_port_create(rig.domain, &small, 0, &none, &error), -EINVAL, error);
  for (uint32_t id = 30; id < 300; id++) {
    CHECK_ERROR(pdlb_dir_queue_create(rig.domain, id, &error), -EINVAL, error);
    CHECK_ERROR(pdlb_dir_port_create(rig.domain, &small, id, &none, &error), -EINVAL, error);
  }
  CHECK_ERROR(pdlb_dir_queue_create(rig.domain, UINT32_MAX - 1, &error), -EINVAL, error);
  const uint8_t queue = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *port = rig_directed_port(&rig, queue, 8);
  CHECK_EQ(pdlb_port_id(port), queue);
  CHECK_ERROR(pdlb_dir_port_create(rig.domain, &small, queue, &none, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_dir_queue_create(rig.domain, queue, &error), -EINVAL, error);
  rig_close_port(port);
  rig_close(&rig);
}

static void depths_are_of_queues_that_exist(void) {
  const struct rig rig = rig_open();
  const uint8_t balanced = rig_queue(&rig), directed = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_error error;
  for (uint32_t id = 0; id < 300; id++) {
    if (id != balanced) CHECK_ERROR(pdlb_ldb_queue_depth(rig.domain, id, &error), -EINVAL, error);
    if (id != directed) CHECK_ERROR(pdlb_dir_queue_depth(rig.domain, id, &error), -EINVAL, error);
  }
  CHECK_ERROR(pdlb_ldb_queue_depth(rig.domain, UINT32_MAX, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_dir_queue_depth(rig.domain, UINT32_MAX, &error), -EINVAL, error);
  CHECK_EQ(pdlb_ldb_queue_depth(rig.domain, balanced, NULL), 0);
  CHECK_EQ(pdlb_dir_queue_depth(rig.domain, directed, NULL), 0);
  rig_close(&rig);
}

static void started_is_started(void) {
  const struct rig rig = rig_open();
  struct pdlb_error error;
  CHECK_ERROR(pdlb_domain_stop(rig.domain, &error), -EINVAL, error);
  rig_start(&rig);
  CHECK_ERROR(pdlb_domain_start(rig.domain, &error), -EINVAL, error);
  rig_stop(&rig);
  CHECK_ERROR(pdlb_domain_stop(rig.domain, &error), -EINVAL, error);
  rig_start(&rig);
  rig_close(&rig);
}

/* Without anybody to tell, failing is the same. */
static void error_may_be_null(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *port = rig_producer(&rig), *none;
  struct pdlb_domain *no_domain;
  CHECK_EQ(pdlb_domain_create(rig.device, &(struct pdlb_domain_config){.ldb_ports = 65}, &no_domain, NULL), -ENOSPC);
  CHECK_EQ(pdlb_ldb_queue_create(rig.domain, &(struct pdlb_ldb_queue_config){.sequence_numbers = 1}, NULL), -EINVAL);
  CHECK_EQ(pdlb_dir_queue_create(rig.domain, 999, NULL), -EINVAL);
  CHECK_EQ(pdlb_ldb_port_create(rig.domain, &(struct pdlb_port_config){0}, &none, NULL), -EINVAL);
  CHECK_EQ(pdlb_port_link(port, 0, 0, NULL), -EINVAL);
  CHECK_EQ(pdlb_port_unlink(port, 0, NULL), -EINVAL);
  CHECK_EQ(pdlb_domain_stop(rig.domain, NULL), -EINVAL);
  CHECK_EQ(pdlb_ldb_queue_depth(rig.domain, 99, NULL), -EINVAL);
  rig_close_port(port);
  rig_close(&rig);
}

static void domain_with_ports_stays_open(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *producer = rig_producer(&rig);
  CHECK_EQ(pdlb_domain_close(rig.domain), -EBUSY);
  rig_close_port(producer);
  struct pdlb_port *port = rig_port_with(&rig, &(struct pdlb_port_config){.cq_depth = 8});
  CHECK_EQ(pdlb_domain_close(rig.domain), -EBUSY);
  rig_close_port(port);
  rig_close(&rig);
}

/* ---- elements --------------------------------------------------------------------------------------------------- */

#define CHECK_REFUSED(port, event, reason)                            \
  do {                                                                \
    enum pdlb_refusal check_why = PDLB_TAKEN;                         \
    const struct pdlb_event check_event = (event);                    \
    CHECK_EQ(pdlb_port_send((port), &check_event, 1, &check_why), 0); \
    CHECK_EQ(check_why, (reason));                                    \
  } while (0)

static void every_queue_id(void) {
  const struct rig rig = rig_open();
  const uint8_t balanced = rig_queue(&rig), directed = rig_directed_queue(&rig, PDLB_NONE);
  struct pdlb_port *producer = rig_producer(&rig);
  rig_start(&rig);
  for (unsigned id = 0; id < 256; id++) {
    for (unsigned type = 0; type < 4; type++) {
      const bool to_directed = type == PDLB_SCHED_DIRECTED;
      const struct pdlb_event event = rig_event((uint8_t)id, (enum pdlb_sched)type, 0, 0, id);
      if (id != (to_directed ? directed : balanced))
        CHECK_REFUSED(producer, event, PDLB_BAD_QUEUE);
      else if (type == PDLB_SCHED_ORDERED)
        CHECK_REFUSED(producer, event, PDLB_BAD_SCHED);
      else
        rig_send(producer, &event, 1);
    }
  }
  CHECK_EQ(rig_stats(&rig).enqueued, 3);
  rig_close_port(producer);
  rig_close(&rig);
}

/* {atomic, unordered} or {atomic, ordered}, atomic only where there is storage for it. */
static void queues_do_their_types(void) {
  const struct rig rig = rig_open();
  struct pdlb_port *producer = rig_producer(&rig);
  rig_start(&rig);
  for (unsigned ordered = 0; ordered < 2; ordered++) {
    for (unsigned atomic = 0; atomic < 2; atomic++) {
      const struct pdlb_ldb_queue_config config = {.sequence_numbers = ordered ? 64 : 0,
                                                   .atomic_inflights = atomic ? 8 : 0};
      const uint8_t queue = rig_queue_with(&rig, &config);
      const bool does[] = {
          [PDLB_SCHED_ATOMIC] = atomic, [PDLB_SCHED_UNORDERED] = !ordered, [PDLB_SCHED_ORDERED] = ordered};
      for (unsigned type = 0; type < 3; type++) {
        const struct pdlb_event event = rig_event(queue, (enum pdlb_sched)type, 0, 0, 0);
        if (does[type])
          rig_send(producer, &event, 1);
        else
          CHECK_REFUSED(producer, event, PDLB_BAD_SCHED);
      }
    }
  }
  rig_close_port(producer);
  rig_close(&rig);
}

static void good_elements_before_a_bad_one_are_taken(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  rig_start(&rig);
  for (uint32_t bad = 0; bad < 5; bad++) {
    struct pdlb_event events[5], received[5];
    enum pdlb_refusal why = PDLB_TAKEN;
    for (uint32_t i = 0; i < 5; i++) events[i] = rig_event(i == bad ? 200 : queue, PDLB_SCHED_UNORDERED, 0, 0, i);
    CHECK_EQ(pdlb_port_send(producer, events, 5, &why), bad);
    CHECK_EQ(why, PDLB_BAD_QUEUE);
    CHECK_EQ(rig_poll(consumer, received, 5), bad);
    for (uint32_t i = 0; i < bad; i++) CHECK_EQ(received[i].data, i);
    pdlb_port_release(consumer, bad);
  }
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

static void a_domain_that_is_not_started_takes_nothing(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig);
  CHECK_REFUSED(producer, rig_event(queue, PDLB_SCHED_ATOMIC, 0, 0, 0), PDLB_NOT_STARTED);
  rig_start(&rig);
  rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 0, 0);
  rig_stop(&rig);
  CHECK_REFUSED(producer, rig_event(queue, PDLB_SCHED_ATOMIC, 0, 0, 0), PDLB_NOT_STARTED);
  rig_close_port(producer);
  rig_close(&rig);
}

/* The counts at the ends of their range; nothing is read or written beyond what moved. */
static void extreme_counts(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  struct pdlb_event events[64];
  enum pdlb_refusal why = PDLB_NO_CREDIT;
  rig_start(&rig);
  CHECK_EQ(pdlb_port_send(producer, events, 0, &why), 0);
  CHECK_EQ(why, PDLB_TAKEN);
  CHECK_EQ(pdlb_port_forward(producer, events, 0, &why), 0);
  CHECK_EQ(why, PDLB_TAKEN);
  CHECK_EQ(pdlb_port_recv(consumer, events, 0, 0), 0);
  CHECK_EQ(pdlb_port_recv(consumer, events, 0, PDLB_FOREVER), 0); /* nothing is what was asked for */
  CHECK_EQ(pdlb_port_release(consumer, 0), 0);
  CHECK_EQ(pdlb_port_release(consumer, UINT32_MAX), 0);
  CHECK_EQ(pdlb_port_release(producer, UINT32_MAX), 0);
  for (uint64_t i = 0; i < 3; i++) rig_send_one(producer, queue, PDLB_SCHED_ATOMIC, 0, 0, i);
  CHECK_EQ(pdlb_port_recv(consumer, events, UINT32_MAX, 0), 3);
  CHECK_EQ(pdlb_port_release(consumer, UINT32_MAX), 3);
  CHECK_EQ(pdlb_port_release(consumer, 1), 0);
  CHECK_EQ(rig_port_stats(consumer).released, 3);
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

/* What the user put in comes out; what is the scheduler's is clean. */
static void events_are_carried_through(void) {
  const struct rig rig = rig_open();
  const uint8_t queue = rig_queue(&rig);
  struct pdlb_port *producer = rig_producer(&rig), *consumer = rig_consumer(&rig, queue);
  struct pdlb_event received;
  rig_start(&rig);
  for (unsigned sched = 0; sched < 256; sched++) {
    const unsigned type = sched & 3u;
    if (type == PDLB_SCHED_ORDERED || type == PDLB_SCHED_DIRECTED) continue;
    const struct pdlb_event event = {.data = 0xFEDCBA9876543210u - sched,
                                     .opaque = (uint16_t)(0xFFFF - sched),
                                     .queue = queue,
                                     .sched = (uint8_t)sched,
                                     .flow = (uint16_t)(65535 - 257 * sched)};
    rig_send(producer, &event, 1);
    CHECK_EQ(rig_poll(consumer, &received, 1), 1);
    CHECK(!memcmp(&received, &event, sizeof event));
    CHECK_EQ(pdlb_port_release(consumer, 1), 1);
  }
  rig_close_port(producer);
  rig_close_port(consumer);
  rig_close(&rig);
}

CHECK_MAIN(CASE(open_refuses_unknown_limits), CASE(depth_is_a_power_of_two), CASE(history_must_be_there),
           CASE(sequence_numbers_are_the_devices), CASE(inflights_fit_the_sequence_numbers), CASE(sharing_is_known),
           CASE(links_name_queues_and_priorities), CASE(eight_links_and_no_more), CASE(directed_ports_are_not_linked),
           CASE(pairs_are_made_once), CASE(depths_are_of_queues_that_exist), CASE(started_is_started),
           CASE(error_may_be_null), CASE(domain_with_ports_stays_open), CASE(every_queue_id),
           CASE(queues_do_their_types), CASE(good_elements_before_a_bad_one_are_taken),
           CASE(a_domain_that_is_not_started_takes_nothing), CASE(extreme_counts), CASE(events_are_carried_through))
