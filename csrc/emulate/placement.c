/* Which ports the driver takes for near to which processor.
 *
 * With its module parameter `port_probe` the driver measures, when it is bound, how long each processor takes to reach
 * each producer port, and hands out the nearest first. What it measures is the silicon's secret: here each processor
 * has an order of its own, always the same. What a program can count on holds: which ids it is given depends on the
 * masks.
 */
#include "internal.h"

#define PROCESSORS 16u

static unsigned count_bits(const uint64_t mask[2]) {
  return (unsigned)(__builtin_popcountll(mask[0]) + __builtin_popcountll(mask[1]));
}

/* The number of the `nth` bit that is set, counted from 0; of the last one if there are fewer. `mask` is not empty. */
static unsigned nth_bit(const uint64_t mask[2], unsigned nth) {
  unsigned found = 0, last = 0;
  for (unsigned bit = 0; bit < 128 && found <= nth; bit++) {
    if (!(mask[bit / 64] >> bit % 64 & 1)) continue;
    last = bit;
    found++;
  }
  return last;
}

unsigned producer_processor(const struct pdlb_create_sched_domain_args *args) {
  return count_bits(args->pcore_mask) ? nth_bit(args->pcore_mask, 0) % PROCESSORS : 0;
}

unsigned count_producers(const struct pdlb_create_sched_domain_args *args) {
  const unsigned wanted = count_bits(args->pcore_mask);
  return wanted < args->num_dir_ports ? wanted : args->num_dir_ports;
}

unsigned pair_distance(uint16_t id, unsigned processor) {
  /* Ports are grouped by fours along a ring that the processors sit on, too. */
  const unsigned place = (id - PDLB_NUM_LDB_PORTS) / 4 % PROCESSORS;
  const unsigned one_way = (place - processor) % PROCESSORS, other_way = (processor - place) % PROCESSORS;
  return one_way < other_way ? one_way : other_way;
}

unsigned best_class(const struct device *device, const struct pdlb_create_sched_domain_args *args) {
  if (!device->control.port_probe || !count_bits(args->core_mask)) return 0;
  return nth_bit(args->core_mask, 1) % PDLB_NUM_COS;
}
