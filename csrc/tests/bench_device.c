/* Not a test: sends and receives lines of four elements through the device backend, over a device that does nothing,
 * for callgrind to count (benchmarks/device_instructions.py). PDLB_COUNT: how often; PDLB_BATCH: lines in each call. */
#include <stdio.h>
#include <stdlib.h>

#include "fake_device.h"

static struct fake fake;

static void store_nothing(void *context, void *producer, const struct pdlb_qe *line) {
  (void)context, (void)producer, (void)line;
}

int main(void) {
  const char *text = getenv("PDLB_COUNT");
  const uint32_t count = text ? (uint32_t)strtoul(text, NULL, 10) : 1000;
  const struct pdlb_domain_config config = {
      .ldb_queues = 1, .ldb_ports = 1, .dir_ports = 1, .ldb_credits = 64, .history_entries = 2048};
  const struct pdlb_port_config shape = {.cq_depth = 32, .history_entries = 1024};
  const struct pdlb_ldb_queue_config plain = {.sharing = PDLB_SHARE_PULL};
  struct pdlb_system system = fake_system;
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  struct pdlb_port *port, *sender;
  system.store = store_nothing;
  fake_init(&fake, PDLB_DEVICE_V25, PDLB_POLL_MODE_SPARSE);
  if (pdlb_device_open_through(&system, &fake, "fake", &device, NULL) < 0 ||
      pdlb_domain_create(device, &config, &domain, NULL) < 0)
    return 1;
  const int queue = pdlb_ldb_queue_create(domain, &plain, NULL);
  if (queue < 0 || pdlb_ldb_port_create(domain, &shape, &port, NULL) < 0 ||
      pdlb_dir_port_create(domain, &shape, PDLB_NONE, &sender, NULL) < 0 || pdlb_domain_start(domain, NULL) < 0)
    return 1;
  const char *lines = getenv("PDLB_BATCH");
  const uint32_t batch = 4 * (lines ? (uint32_t)strtoul(lines, NULL, 10) : 1);
  struct pdlb_event events[32] = {{0}}, got[32];
  if (batch == 0 || batch > 32) return 1;
  for (uint32_t i = 0; i < batch; i++)
    events[i] = (struct pdlb_event){.queue = (uint8_t)queue, .sched = PDLB_SCHED_UNORDERED};
  for (uint32_t turn = 0; turn < count; turn++) {
    enum pdlb_refusal why;
    for (uint32_t i = 0; i < batch; i++) fake_give(&fake, 0, 32, batch * turn + i, turn, PDLB_SCHED_UNORDERED);
    if (pdlb_port_send(sender, events, batch, &why) != batch || pdlb_port_recv(port, got, batch, 0) != (int)batch)
      return 1;
    pdlb_port_release(port, batch);
  }
  pdlb_port_close(port);
  pdlb_port_close(sender);
  pdlb_domain_close(domain);
  pdlb_device_close(device);
  printf("%u lines\n", count);
  return 0;
}
