/* Who has which resource: the function's pools, what a domain took from them, and what it has used.
 *
 * Ids come off stacks, as in the driver: giving n of them to a domain moves them one by one from the top of the
 * function's stack to the top of the domain's.
 */
#include "internal.h"

typedef uint16_t *(*next_of)(struct device *device, uint16_t id);

static uint16_t *next_domain(struct device *device, uint16_t id) { return &device->control.domains[id].next; }
static uint16_t *next_queue(struct device *device, uint16_t id) { return &device->control.queues[id].next; }
static uint16_t *next_port(struct device *device, uint16_t id) { return &device->control.ports[id].next; }

static void push(struct device *device, struct id_list *list, next_of next, uint16_t id) {
  *next(device, id) = list->head;
  list->head = id;
  list->count++;
}

static uint16_t pop(struct device *device, struct id_list *list, next_of next) {
  const uint16_t id = list->head;
  if (id == ID_NONE) return ID_NONE;
  list->head = *next(device, id);
  list->count--;
  return id;
}

static void move(struct device *device, struct id_list *from, struct id_list *to, next_of next, uint32_t count) {
  while (count-- > 0) push(device, to, next, pop(device, from, next));
}

static void take_out(struct device *device, struct id_list *list, next_of next, uint16_t id) {
  uint16_t *link = &list->head;
  while (*link != id) link = next(device, *link);
  *link = *next(device, id);
  list->count--;
}

static void clear(struct id_list *list) { *list = (struct id_list){ID_NONE, 0}; }

/* ---- a device that nobody has used --------------------------------------------------------------------------- */

static void clear_lists(struct domain *domain) {
  clear(&domain->free_queues);
  clear(&domain->used_queues);
  clear(&domain->free_pairs);
  clear(&domain->used_pairs);
  clear(&domain->producer_pairs);
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) {
    clear(&domain->free_ports[cos]);
    clear(&domain->used_ports[cos]);
  }
}

static void init_lists(struct device *device) {
  struct control *control = &device->control;
  for (unsigned i = 0; i < PDLB_NUM_DOMAINS; i++) clear_lists(&control->domains[i]);
  clear(&control->free_domains);
  clear(&control->free_queues);
  clear(&control->free_pairs);
  for (uint16_t i = 0; i < PDLB_NUM_DOMAINS; i++) push(device, &control->free_domains, next_domain, i);
  for (uint16_t i = 0; i < PDLB_NUM_LDB_QUEUES; i++) push(device, &control->free_queues, next_queue, i);
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) {
    clear(&control->free_ports[cos]);
    /* Neighbours in number share resources in the device, so they are not handed out one after the other. */
    for (unsigned i = 0; i < PDLB_PORTS_PER_COS; i++) {
      push(device, &control->free_ports[cos], next_port, (uint16_t)(cos * PDLB_PORTS_PER_COS + i * 7 % 16));
    }
  }
  for (unsigned i = 0; i < control->num_dir_ports; i++) {
    push(device, &control->free_pairs, next_port, (uint16_t)(PDLB_NUM_LDB_PORTS + i));
  }
}

uint32_t credits_of(const struct device *device, unsigned kind) {
  if (is_v25(device)) return kind == 0 ? PDLB_NUM_CREDITS_V25 : 0;
  return kind == 0 ? PDLB_NUM_LDB_CREDITS_V20 : PDLB_NUM_DIR_CREDITS_V20;
}

void resources_init(struct device *device, uint32_t version) {
  struct control *control = &device->control;
  const uint64_t serial = control->next_serial;
  const bool port_probe = control->port_probe;
  memset(control, 0, sizeof *control);
  control->next_serial = serial; /* names of files that may still be open */
  control->port_probe = port_probe;
  control->version = version;
  control->num_dir_ports = version == PDLB_DEVICE_V25 ? PDLB_NUM_DIR_PORTS_V25 : PDLB_NUM_DIR_PORTS_V20;
  control->ingress_errors_enabled = 1;
  control->atomic_free = PDLB_NUM_ATOMIC_INFLIGHTS;
  for (unsigned kind = 0; kind < 2; kind++) control->credits_free[kind] = credits_of(device, kind);
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) control->cos_bandwidth[cos] = 25;
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    control->sn_groups[group].sns_per_queue = PDLB_MIN_SNS_PER_QUEUE;
    control->sn_groups[group].slots_free = PDLB_SNS_PER_GROUP / PDLB_MIN_SNS_PER_QUEUE;
  }
  for (unsigned port = 0; port < NUM_PORTS; port++) control->ports[port].directed = port >= PDLB_NUM_LDB_PORTS;
  for (unsigned queue = 0; queue < NUM_QUEUES; queue++) {
    control->queues[queue].directed = queue >= PDLB_NUM_LDB_QUEUES;
  }
  control->free_elements = ID_NONE;
  memset(device->order, 0, sizeof device->order);
  init_lists(device);
}

void renew(struct device *device, uint32_t version) {
  atomic_store(&device->renewing, version);
  resources_init(device, version);
  atomic_store(&device->renewing, 0);
}

/* ---- the history list: contiguous runs of a bitmap ----------------------------------------------------------- */

static bool history_is_used(const struct control *control, uint32_t entry) {
  return control->history_used[entry / 64] >> entry % 64 & 1u;
}

/* The first free run of `wanted` entries, or the longest run's length if there is none. */
static bool history_find(const struct control *control, uint32_t wanted, uint32_t *base, uint32_t *longest) {
  uint32_t run = 0;
  *longest = 0;
  for (uint32_t entry = 0; entry < PDLB_NUM_HISTORY_ENTRIES; entry++) {
    run = history_is_used(control, entry) ? 0 : run + 1;
    if (run > *longest) *longest = run;
    if (wanted > 0 && run == wanted) {
      *base = entry + 1 - wanted;
      return true;
    }
  }
  return wanted == 0;
}

static void history_mark(struct control *control, uint32_t base, uint32_t count, bool used) {
  for (uint32_t entry = base; entry < base + count; entry++) {
    const uint64_t bit = (uint64_t)1 << entry % 64;
    if (used) {
      control->history_used[entry / 64] |= bit;
    } else {
      control->history_used[entry / 64] &= ~bit;
    }
  }
}

static uint32_t history_free(const struct control *control) {
  uint32_t used = 0;
  for (unsigned i = 0; i < PDLB_NUM_HISTORY_ENTRIES / 64; i++) {
    used += (uint32_t)__builtin_popcountll(control->history_used[i]);
  }
  return PDLB_NUM_HISTORY_ENTRIES - used;
}

/* ---- domains ------------------------------------------------------------------------------------------------- */

static uint32_t ldb_ports_free(const struct control *control) {
  uint32_t count = 0;
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) count += control->free_ports[cos].count;
  return count;
}

/* The order is the driver's. */
static uint32_t check_domain(const struct device *device, const struct pdlb_create_sched_domain_args *args,
                             uint32_t *history_base) {
  const struct control *control = &device->control;
  uint32_t ports = args->num_ldb_ports;
  uint32_t longest;
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) ports += args->num_cos_ldb_ports[cos];

  if (control->free_domains.count == 0) return PDLB_ST_DOMAIN_UNAVAILABLE;
  if (args->num_ldb_queues > control->free_queues.count) return PDLB_ST_LDB_QUEUES_UNAVAILABLE;
  if (ports > ldb_ports_free(control)) return PDLB_ST_LDB_PORTS_UNAVAILABLE;
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) {
    if (args->cos_strict && args->num_cos_ldb_ports[cos] > control->free_ports[cos].count) {
      return PDLB_ST_LDB_PORTS_UNAVAILABLE;
    }
  }
  if (args->num_ldb_queues > 0 && ports == 0) return PDLB_ST_LDB_PORT_REQUIRED_FOR_LDB_QUEUES;
  if (args->num_dir_ports > control->free_pairs.count) return PDLB_ST_DIR_PORTS_UNAVAILABLE;
  if (args->num_ldb_credits > control->credits_free[0]) return PDLB_ST_LDB_CREDITS_UNAVAILABLE;
  if (args->num_dir_credits > control->credits_free[1]) return PDLB_ST_DIR_CREDITS_UNAVAILABLE;
  if (args->num_atomic_inflights > control->atomic_free) return PDLB_ST_ATOMIC_INFLIGHTS_UNAVAILABLE;
  if (!history_find(control, args->num_hist_list_entries, history_base, &longest)) {
    return PDLB_ST_HIST_LIST_ENTRIES_UNAVAILABLE;
  }
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    if (args->num_sn_slots[group] > control->sn_groups[group].slots_free) return PDLB_ST_SN_SLOTS_UNAVAILABLE;
  }
  return PDLB_ST_SUCCESS;
}

static bool give_port(struct device *device, struct domain *domain, unsigned cos, bool strict) {
  struct control *control = &device->control;
  for (unsigned i = 0; i < (strict ? 1 : PDLB_NUM_COS); i++) {
    const unsigned class = (cos + i) % PDLB_NUM_COS;
    if (control->free_ports[class].count == 0) continue;
    move(device, &control->free_ports[class], &domain->free_ports[class], next_port, 1);
    return true;
  }
  return false;
}

/* Move ports of class `cos` to the domain; where a class is empty and `strict` is not asked for, of the next one.
 * False if they run out: the sum of what was asked for may have wrapped. */
static bool give_ports(struct device *device, struct domain *domain, unsigned cos, bool strict, uint32_t count) {
  while (count > 0 && give_port(device, domain, cos, strict)) count--;
  return count == 0;
}

static bool give_all_ports(struct device *device, struct domain *domain,
                           const struct pdlb_create_sched_domain_args *args) {
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) {
    if (!give_ports(device, domain, cos, args->cos_strict, args->num_cos_ldb_ports[cos])) return false;
  }
  return give_ports(device, domain, best_class(device, args), false, args->num_ldb_ports);
}

/* The pair that is nearest to a processor, of those that nobody has. */
static uint16_t nearest_pair(struct device *device, unsigned processor) {
  struct control *control = &device->control;
  uint16_t nearest = control->free_pairs.head;
  for (uint16_t id = nearest; id != ID_NONE; id = *next_port(device, id)) {
    if (pair_distance(id, processor) < pair_distance(nearest, processor)) nearest = id;
  }
  return nearest;
}

/* With probing, the nearest pairs, of which the domain's producers have the first. */
static void give_pairs(struct device *device, struct domain *domain, const struct pdlb_create_sched_domain_args *args) {
  struct control *control = &device->control;
  if (!control->port_probe) {
    move(device, &control->free_pairs, &domain->free_pairs, next_port, args->num_dir_ports);
    return;
  }
  uint16_t pairs[NUM_DIR_PORTS];
  const unsigned processor = producer_processor(args);
  for (unsigned i = 0; i < args->num_dir_ports; i++) {
    pairs[i] = nearest_pair(device, processor);
    take_out(device, &control->free_pairs, next_port, pairs[i]);
  }
  const unsigned producers = count_producers(args);
  for (unsigned i = args->num_dir_ports; i-- > 0;) {
    push(device, i < producers ? &domain->producer_pairs : &domain->free_pairs, next_port, pairs[i]);
  }
}

static void begin_domain(struct device *device, uint16_t id) {
  struct domain *domain = &device->control.domains[id];
  domain->state = DOMAIN_LIVE;
  domain->valid = true;
  domain->started = false;
  domain->serial = ++device->control.next_serial;
  domain->file = 0;
  SAVE(device, &device->alerts[id].read);
  SAVE(device, &device->alerts[id].write);
  device->alerts[id].read = device->alerts[id].write = 0;
}

int resources_create_domain(struct device *device, struct pdlb_create_sched_domain_args *args) {
  struct control *control = &device->control;
  if (control->reset_failed) {
    args->response.status = PDLB_ST_DOMAIN_RESET_FAILED;
    return -EINVAL;
  }
  if (is_v25(device)) {
    args->num_ldb_credits += args->num_dir_credits;
    args->num_dir_credits = 0;
  }
  uint32_t history_base = 0;
  args->response.status = check_domain(device, args, &history_base);
  if (args->response.status != PDLB_ST_SUCCESS) return -EINVAL;

  struct domain *domain = &control->domains[control->free_domains.head];
  move(device, &control->free_queues, &domain->free_queues, next_queue, args->num_ldb_queues);
  if (!give_all_ports(device, domain, args)) {
    /* As in the driver, what was moved so far stays: the next domain of this number has it on top. */
    args->response.status = PDLB_ST_LDB_PORTS_UNAVAILABLE;
    return -EINVAL;
  }
  const uint16_t id = pop(device, &control->free_domains, next_domain);
  begin_domain(device, id);
  give_pairs(device, domain, args);

  domain->history_base = (uint16_t)history_base;
  domain->history_size = domain->history_left = (uint16_t)args->num_hist_list_entries;
  history_mark(control, history_base, args->num_hist_list_entries, true);
  domain->atomic_total = domain->atomic_left = args->num_atomic_inflights;
  control->atomic_free -= args->num_atomic_inflights;
  const uint32_t credits[2] = {args->num_ldb_credits, args->num_dir_credits};
  for (unsigned kind = 0; kind < 2; kind++) {
    domain->credits_total[kind] = domain->credits[kind] = credits[kind];
    control->credits_free[kind] -= credits[kind];
  }
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    domain->sn_slots[group] = domain->sn_slots_left[group] = args->num_sn_slots[group];
    control->sn_groups[group].slots_free -= args->num_sn_slots[group];
  }
  args->response.id = id;
  return 0;
}

static void forget_queue(struct control *control, struct queue *queue) {
  if (queue->sn_configured) {
    control->sn_groups[queue->sn_group].used =
        (uint16_t)(control->sn_groups[queue->sn_group].used & ~(1u << queue->sn_slot));
  }
  const bool directed = queue->directed;
  const uint16_t next = queue->next;
  memset(queue, 0, sizeof *queue);
  queue->directed = directed;
  queue->next = next;
}

static void forget_port(struct port *port) {
  const bool directed = port->directed;
  const uint16_t next = port->next;
  memset(port, 0, sizeof *port);
  port->directed = directed;
  port->next = next;
}

/* Used ones go back on top of the unused ones, the latest first; then all of them, from the top, to the function. */
static void give_back(struct device *device, struct id_list *used, struct id_list *unused, struct id_list *function,
                      next_of next) {
  move(device, used, unused, next, used->count);
  move(device, unused, function, next, unused->count);
}

/* All that the domain has becomes the function's again. The domain holds nothing any more. */
void resources_release_domain(struct device *device, unsigned id) {
  struct control *control = &device->control;
  struct domain *domain = &control->domains[id];
  for (unsigned port = 0; port < NUM_PORTS; port++) {
    if (control->ports[port].configured && control->ports[port].domain == id) forget_port(&control->ports[port]);
  }
  for (unsigned queue = 0; queue < NUM_QUEUES; queue++) {
    if (control->queues[queue].configured && control->queues[queue].domain == id) {
      forget_queue(control, &control->queues[queue]);
    }
  }
  give_back(device, &domain->used_queues, &domain->free_queues, &control->free_queues, next_queue);
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) {
    give_back(device, &domain->used_ports[cos], &domain->free_ports[cos], &control->free_ports[cos], next_port);
  }
  move(device, &domain->producer_pairs, &domain->free_pairs, next_port, domain->producer_pairs.count);
  give_back(device, &domain->used_pairs, &domain->free_pairs, &control->free_pairs, next_port);

  history_mark(control, domain->history_base, domain->history_size, false);
  control->atomic_free += domain->atomic_total;
  for (unsigned kind = 0; kind < 2; kind++) control->credits_free[kind] += domain->credits_total[kind];
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    control->sn_groups[group].slots_free += domain->sn_slots[group];
  }
  domain->state = DOMAIN_FREE;
  domain->valid = false;
  domain->file = 0;
  push(device, &control->free_domains, next_domain, (uint16_t)id);
}

/* ---- within a domain ----------------------------------------------------------------------------------------- */

uint16_t take_ldb_queue(struct device *device, struct domain *domain) {
  const uint16_t id = pop(device, &domain->free_queues, next_queue);
  if (id != ID_NONE) push(device, &domain->used_queues, next_queue, id);
  return id;
}

uint16_t take_ldb_port(struct device *device, struct domain *domain, uint32_t cos, bool strict) {
  for (unsigned i = 0; i < (strict ? 1 : PDLB_NUM_COS); i++) {
    const unsigned class = (cos + i) % PDLB_NUM_COS;
    const uint16_t id = pop(device, &domain->free_ports[class], next_port);
    if (id == ID_NONE) continue;
    push(device, &domain->used_ports[class], next_port, id);
    return id;
  }
  return ID_NONE;
}

uint16_t take_dir_pair(struct device *device, struct domain *domain, bool producer) {
  const bool reserved = producer ? domain->producer_pairs.count > 0 : domain->free_pairs.count == 0;
  const uint16_t id = pop(device, reserved ? &domain->producer_pairs : &domain->free_pairs, next_port);
  if (id != ID_NONE) push(device, &domain->used_pairs, next_port, id);
  return id;
}

/* ---- the function -------------------------------------------------------------------------------------------- */

void resources_report(const struct device *device, struct pdlb_get_num_resources_args *args) {
  const struct control *control = &device->control;
  uint32_t base;
  args->num_sched_domains = control->free_domains.count;
  args->num_ldb_queues = control->free_queues.count;
  args->num_ldb_ports = ldb_ports_free(control);
  for (unsigned cos = 0; cos < PDLB_NUM_COS; cos++) args->num_cos_ldb_ports[cos] = control->free_ports[cos].count;
  args->num_dir_ports = control->free_pairs.count;
  args->num_atomic_inflights = control->atomic_free;
  args->num_hist_list_entries = history_free(control);
  history_find(control, PDLB_NUM_HISTORY_ENTRIES + 1, &base, &args->max_contiguous_hist_list_entries);
  args->num_ldb_credits = control->credits_free[0];
  args->num_dir_credits = control->credits_free[1];
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    args->num_sn_slots[group] = control->sn_groups[group].slots_free;
  }
}

int set_sn_allocation(struct device *device, uint32_t group, uint32_t sns_per_queue) {
  if (group >= PDLB_NUM_SN_GROUPS) return -EINVAL;
  struct sn_group *entry = &device->control.sn_groups[group];
  if (entry->used != 0) return -EPERM;
  if (entry->slots_free != PDLB_SNS_PER_GROUP / entry->sns_per_queue && entry->sns_per_queue != sns_per_queue) {
    return -EPERM;
  }
  if (sns_per_queue < PDLB_MIN_SNS_PER_QUEUE || sns_per_queue > PDLB_SNS_PER_GROUP ||
      (sns_per_queue & (sns_per_queue - 1)) != 0) {
    return -EINVAL;
  }
  if (entry->sns_per_queue == sns_per_queue) return 0;
  entry->sns_per_queue = sns_per_queue;
  entry->slots_free = PDLB_SNS_PER_GROUP / sns_per_queue;
  return 0;
}

int set_cos_bandwidth(struct device *device, uint32_t cos, uint32_t percent) {
  uint32_t *bandwidth = device->control.cos_bandwidth;
  percent &= 0xFF;
  if (cos >= PDLB_NUM_COS || percent > 100) return -EINVAL;
  uint32_t total = percent;
  for (unsigned i = 0; i < PDLB_NUM_COS; i++) total += i == cos ? 0 : bandwidth[i];
  if (total > 100) return -EINVAL;
  bandwidth[cos] = percent;
  return 0;
}
