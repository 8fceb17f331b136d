/* Making and changing: the region, queues, ports. One control call at a time. */
#include <errno.h>

#include "front_wide.h"
#include "internal.h"

#define PAGE 4096u
#define HISTORY_ROOM 4u /* address space for so many times the entries, because slices are powers of two */

static uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

static uint32_t power_of_two(uint32_t value) {
  uint32_t result = 1;
  while (result < value) result *= 2;
  return result;
}

static uint32_t shift_for(uint32_t count) { return (uint32_t)__builtin_ctz(power_of_two(count)); }

/* ---- the region
 * ---------------------------------------------------------------------------------------------------------- */

static void lay_out(struct engine_header *header, const struct pdlb_engine_config *config, uint64_t *end) {
  header->ldb_queues = config->ldb_queues;
  header->dir_queues = config->dir_queues;
  header->ldb_ports = config->ldb_ports;
  header->dir_ports = config->dir_ports;
  header->credits_total = config->credits;
  header->credits_ahead = config->credits / (config->ldb_queues + config->dir_queues + 1);
  if (header->credits_ahead > 4 * FRONT) header->credits_ahead = 4 * FRONT;
  header->ring_shift = shift_for(config->credits ? config->credits : 1);
  header->history_slots = HISTORY_ROOM * power_of_two(config->history_entries ? config->history_entries : 1);
  const uint64_t queues = config->ldb_queues + config->dir_queues, ports = config->ldb_ports + config->dir_ports;
  const uint64_t ring = 1ull << header->ring_shift;
  const uint64_t records = engine_parked_flow_count(header);
  header->port_words = (uint32_t)((ports + 63) / 64);
  header->flows_stride = align_up(
      2 * FLOWS * sizeof(uint32_t) + records * sizeof(struct parked_flow) + ring * sizeof(struct parked_node), PAGE);
  header->order_stride = align_up(power_of_two(config->order_slots) * sizeof(struct order_slot), PAGE);

  uint64_t at = align_up(sizeof *header, PAGE);
#define PLACE(field, bytes) (header->field = at, at = align_up(at + (bytes), PAGE))
  PLACE(queues_at, queues * sizeof(struct engine_queue));
  PLACE(ports_at, ports * sizeof(struct engine_port));
  PLACE(idle_at, (header->port_words + 1) * sizeof(uint64_t));
  PLACE(links_at, queues * header->port_words * sizeof(uint64_t));
  PLACE(history_at, header->history_slots * sizeof(history_entry));
  PLACE(rings_at, queues * PDLB_PRIORITIES * ring * sizeof(struct pdlb_event));
  PLACE(flows_at, config->ldb_queues * header->flows_stride);
  PLACE(order_at, config->ldb_queues * header->order_stride);
#undef PLACE
  *end = at;
}

size_t pdlb_engine_size(const struct pdlb_engine_config *config) {
  struct engine_header header;
  memset(&header, 0, sizeof header);
  uint64_t end;
  lay_out(&header, config, &end);
  return end;
}

void pdlb_engine_format(void *region, const struct pdlb_engine_config *config) {
  struct engine_header *header = region;
  uint64_t end;
  lay_out(header, config, &end);
  _Atomic uint64_t *idle = (_Atomic uint64_t *)((char *)region + header->idle_at);
  atomic_store_explicit(&idle[header->port_words], UINT64_MAX, memory_order_relaxed);
  atomic_store_explicit(&header->credits, (int32_t)config->credits, memory_order_release);
}

void pdlb_engine_attach(struct pdlb_engine *engine, void *region, const struct pdlb_engine_host *host, void *context,
                        uint32_t owner) {
  engine->base = region;
  engine->header = region;
  engine->queues = (struct engine_queue *)(engine->base + engine->header->queues_at);
  engine->ports = (struct engine_port *)(engine->base + engine->header->ports_at);
  engine->idle = (_Atomic uint64_t *)(engine->base + engine->header->idle_at);
  engine->host = host;
  engine->context = context;
  engine->owner = owner;
}

/* ---- start and stop
 * ------------------------------------------------------------------------------------------------------- */

/* Every port is told, so that a send has but one place to look at. */
static int set_started(struct pdlb_engine *engine, uint32_t started, const char *already, const char **why) {
  struct engine_header *header = engine->header;
  engine_lock(engine, &header->control_lock);
  const bool same = atomic_exchange_explicit(&header->started, started, memory_order_acq_rel) == started;
  for (uint32_t directed = 0; directed < 2; directed++)
    for (uint32_t id = 0; id < header->ports_made[directed]; id++) {
      _Atomic uint32_t *notice = &engine->ports[pdlb_engine_port_index(engine, id, directed)].notice;
      if (started)
        atomic_fetch_and_explicit(notice, ~NOTICE_STOPPED, memory_order_release);
      else
        atomic_fetch_or_explicit(notice, NOTICE_STOPPED, memory_order_release);
    }
  engine_unlock(&header->control_lock);
  if (!same) return 0;
  *why = already;
  return -EINVAL;
}

int pdlb_engine_start(struct pdlb_engine *engine, const char **why) {
  return set_started(engine, 1, "the domain is started already", why);
}

int pdlb_engine_stop(struct pdlb_engine *engine, const char **why) {
  return set_started(engine, 0, "the domain is not started", why);
}

bool pdlb_engine_started(const struct pdlb_engine *engine) {
  return atomic_load_explicit(&engine->header->started, memory_order_acquire);
}

/* ---- queues
 * ------------------------------------------------------------------------------------------------------------------ */

static int free_queue(const struct pdlb_engine *engine, bool directed) {
  const uint32_t first = directed ? engine->header->ldb_queues : 0;
  const uint32_t count = directed ? engine->header->dir_queues : engine->header->ldb_queues;
  for (uint32_t id = 0; id < count; id++)
    if (!atomic_load_explicit(&engine->queues[first + id].configured, memory_order_relaxed)) return (int)id;
  return -1;
}

/* From now on elements may be sent to it. */
static void open_queue(struct pdlb_engine *engine, uint32_t index, uint32_t id) {
  struct engine_queue *queue = &engine->queues[index];
  queue->index = index;
  queue->entry = ENTRY_MAKE(0, 1, index, PDLB_SCHED_ATOMIC) | (queue->limited ? ENTRY_LIMITED : 0);
  queue->flows_at = engine->header->flows_at + index * engine->header->flows_stride;
  atomic_store_explicit(&queue->linked_word, engine->header->port_words, memory_order_relaxed);
  atomic_store_explicit(&queue->linked, 0, memory_order_relaxed);
  atomic_store_explicit(&queue->configured, 1, memory_order_release);
  for (uint32_t type = PDLB_SCHED_ATOMIC; type <= PDLB_SCHED_DIRECTED; type++)
    if (queue->types & (1u << type))
      atomic_store_explicit(&engine->header->route[(type << 8) | id], engine_queue_at(engine, &engine->queues[index]),
                            memory_order_release);
}

int pdlb_engine_ldb_queue_create(struct pdlb_engine *engine, const struct pdlb_ldb_queue_config *config,
                                 const char **why) {
  struct engine_header *header = engine->header;
  engine_lock(engine, &header->control_lock);
  const int id = free_queue(engine, false);
  if (id < 0) {
    *why = "the domain has no load-balanced queue left; create it with more ldb_queues";
  } else {
    struct engine_queue *queue = &engine->queues[id];
    const bool ordered = config->sequence_numbers != 0;
    queue->types = (uint8_t)((ordered ? 1u << PDLB_SCHED_ORDERED : 1u << PDLB_SCHED_UNORDERED) |
                             (config->atomic_inflights ? 1u << PDLB_SCHED_ATOMIC : 0));
    queue->window = ordered ? power_of_two(config->sequence_numbers) : 0;
    queue->inflight_limit = config->inflights ? config->inflights : UINT32_MAX;
    queue->even = config->sharing == PDLB_SHARE_EVEN;
    queue->grace = config->grace_ns ? config->grace_ns : DEFAULT_GRACE_NS;
    /* An ordered queue that does nothing else has no more in flight than it has sequence numbers, whatever counts. */
    queue->limited = queue->inflight_limit != UINT32_MAX &&
                     !(queue->types == 1u << PDLB_SCHED_ORDERED && queue->inflight_limit >= queue->window);
    atomic_store_explicit(&queue->slow, queue->even || queue->limited ? SLOW_KIND : 0, memory_order_relaxed);
    open_queue(engine, (uint32_t)id, (uint32_t)id);
  }
  engine_unlock(&header->control_lock);
  return id < 0 ? -ENOSPC : id;
}

/* A directed port and its queue are one pair and share one id: either half may be made first. */
static void pair(struct pdlb_engine *engine, uint32_t id) {
  const uint32_t queue_index = pdlb_engine_queue_index(engine, id, true);
  const uint32_t port_index = pdlb_engine_port_index(engine, id, true);
  struct engine_port *port = &engine->ports[port_index];
  atomic_store_explicit(&engine->queues[queue_index].paired_port, port_index, memory_order_relaxed);
  atomic_store_explicit(&port->link[0], LINK_MAKE(queue_index, 0), memory_order_release);
  atomic_store_explicit(&port->link_order, LINK_ORDER_END << 8, memory_order_release);
  atomic_store_explicit(&port->only_link, engine_queue_at(engine, &engine->queues[queue_index]), memory_order_release);
  engine_set_linked(engine, port_index, queue_index, true);
}

bool pdlb_engine_port_exists(const struct pdlb_engine *engine, uint32_t id, bool directed) {
  if (id >= (directed ? engine->header->dir_ports : engine->header->ldb_ports)) return false;
  const struct engine_port *port = &engine->ports[pdlb_engine_port_index(engine, id, directed)];
  return atomic_load_explicit(&port->configured, memory_order_acquire);
}

static bool queue_exists(const struct pdlb_engine *engine, uint32_t id, bool directed) {
  if (id >= (directed ? engine->header->dir_queues : engine->header->ldb_queues)) return false;
  const struct engine_queue *queue = &engine->queues[pdlb_engine_queue_index(engine, id, directed)];
  return atomic_load_explicit(&queue->configured, memory_order_acquire);
}

/* A pair of which neither half is in use. */
static int free_pair(const struct pdlb_engine *engine) {
  for (uint32_t id = 0; id < engine->header->dir_queues && id < engine->header->dir_ports; id++)
    if (!queue_exists(engine, id, true) && !pdlb_engine_port_exists(engine, id, true)) return (int)id;
  return -1;
}

int pdlb_engine_dir_queue_create(struct pdlb_engine *engine, uint32_t port, const char **why) {
  struct engine_header *header = engine->header;
  int id;
  engine_lock(engine, &header->control_lock);
  if (port == PDLB_NONE) {
    id = free_pair(engine);
    if (id < 0) {
      *why = "the domain has no directed pair left; create it with more dir_ports";
      id = -ENOSPC;
    }
  } else if (!pdlb_engine_port_exists(engine, port, true)) {
    *why = "the port to pair with is not an open directed port of this domain";
    id = -EINVAL;
  } else if (queue_exists(engine, port, true)) {
    *why = "the port to pair with has its directed queue already";
    id = -EINVAL;
  } else {
    id = (int)port;
  }
  if (id >= 0) {
    struct engine_queue *queue = &engine->queues[pdlb_engine_queue_index(engine, (uint32_t)id, true)];
    queue->directed = 1;
    queue->types = 1u << PDLB_SCHED_DIRECTED;
    queue->inflight_limit = UINT32_MAX;
    queue->grace = DEFAULT_GRACE_NS;
    atomic_store_explicit(&queue->paired_port, NIL, memory_order_relaxed);
    open_queue(engine, pdlb_engine_queue_index(engine, (uint32_t)id, true), (uint32_t)id);
    if (pdlb_engine_port_exists(engine, (uint32_t)id, true)) pair(engine, (uint32_t)id);
  }
  engine_unlock(&header->control_lock);
  return id;
}

int pdlb_engine_depth(const struct pdlb_engine *engine, uint32_t index) {
  if (index >= engine_queue_count(engine->header)) return -EINVAL;
  const struct engine_queue *queue = &engine->queues[index];
  if (!atomic_load_explicit(&queue->configured, memory_order_acquire)) return -EINVAL;
  return (int)engine_queued(queue);
}

/* ---- ports
 * --------------------------------------------------------------------------------------------------------------------
 */

static bool overlaps(const struct engine_port *port, uint64_t at, uint64_t bytes) {
  const uint64_t length = (port->history_mask + 1) * sizeof(history_entry);
  return atomic_load_explicit(&port->configured, memory_order_relaxed) && at < port->history_at + length &&
         port->history_at < at + bytes;
}

/* A slice of the history list, aligned to its size, that no other port has; 0 if there is none. */
static uint64_t free_history(const struct pdlb_engine *engine, uint32_t slots) {
  const struct engine_header *header = engine->header;
  const uint64_t bytes = slots * sizeof(history_entry), end = header->history_slots * sizeof(history_entry);
  for (uint64_t at = 0; at + bytes <= end; at += bytes) {
    uint32_t index = 0;
    while (index < header->ports_made[0] && !overlaps(&engine->ports[index], header->history_at + at, bytes)) index++;
    if (index == header->ports_made[0]) return header->history_at + at;
  }
  return 0;
}

static int free_ldb_port(const struct pdlb_engine *engine, const char **why) {
  for (uint32_t id = 0; id < engine->header->ldb_ports; id++)
    if (!pdlb_engine_port_exists(engine, id, false)) return (int)id;
  *why = "the domain has no load-balanced port left; create it with more ldb_ports";
  return -ENOSPC;
}

static int choose_dir_port(const struct pdlb_engine *engine, uint32_t queue, const char **why) {
  if (queue == PDLB_NONE) {
    const int id = free_pair(engine);
    if (id < 0) *why = "the domain has no directed pair left; create it with more dir_ports";
    return id < 0 ? -ENOSPC : id;
  }
  if (!queue_exists(engine, queue, true)) {
    *why = "the queue to pair with is not a directed queue of this domain";
    return -EINVAL;
  }
  if (pdlb_engine_port_exists(engine, queue, true)) {
    *why = "the queue to pair with has its directed port already";
    return -EINVAL;
  }
  return (int)queue;
}

/* A port that was destroyed left no links and no flows behind; its numbers begin anew. */
static void reset_port(const struct pdlb_engine *engine, struct engine_port *port,
                       const struct pdlb_port_config *config, bool directed) {
  port->cq_depth = config->cq_depth;
  port->calls = port->last_received = 0;
  port->room = directed ? UINT32_MAX : config->history_entries;
  _Atomic uint32_t *const numbers[] = {&port->history_head, &port->history_tail, &port->released_later, &port->presence,
                                       &port->woken_stamp,  &port->excuse,       &port->leaves};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    atomic_store_explicit(numbers[i], 0, memory_order_relaxed);
  atomic_store_explicit(&port->wakes, 0, memory_order_relaxed);
  engine_turns_level(port);
  port->sent_before = engine_get(&port->sent);
  port->received_before = engine_get(&port->received);
  atomic_store_explicit(&port->history_limit, directed ? UINT32_MAX : config->history_entries, memory_order_relaxed);
  atomic_store_explicit(&port->link_order, LINK_ORDER_END, memory_order_relaxed);
  atomic_store_explicit(&port->only_link, 0, memory_order_relaxed);
  atomic_store_explicit(&port->user, engine->owner, memory_order_relaxed);
  atomic_store_explicit(
      &port->notice,
      (config->release_on_recv && !directed ? NOTICE_RELEASES : 0) | (pdlb_engine_started(engine) ? 0 : NOTICE_STOPPED),
      memory_order_relaxed);
}

int pdlb_engine_port_create(struct pdlb_engine *engine, const struct pdlb_port_config *config, bool directed,
                            uint32_t queue, const char **why) {
  struct engine_header *header = engine->header;
  engine_lock(engine, &header->control_lock);
  int id = directed ? choose_dir_port(engine, queue, why) : free_ldb_port(engine, why);
  const uint32_t slots = directed ? 0 : power_of_two(config->history_entries);
  const uint64_t history = directed ? 0 : free_history(engine, slots);
  if (id >= 0 && !directed && !history) {
    *why = "the domain has no run of history entries left for this port";
    id = -ENOSPC;
  }
  if (id >= 0) {
    const uint32_t index = pdlb_engine_port_index(engine, (uint32_t)id, directed);
    struct engine_port *port = &engine->ports[index];
    port->index = index;
    port->owns = engine_flow_owned_by(index);
    if ((uint32_t)id >= header->ports_made[directed]) header->ports_made[directed] = (uint32_t)id + 1;
    reset_port(engine, port, config, directed);
    if (!directed) {
      port->history_at = history;
      port->history_mask = slots - 1;
    }
    atomic_store_explicit(&port->configured, 1, memory_order_release);
    if (directed && queue_exists(engine, (uint32_t)id, true)) pair(engine, (uint32_t)id);
  }
  engine_unlock(&header->control_lock);
  return id;
}

void pdlb_engine_use(struct pdlb_engine *engine, uint32_t index, struct pdlb_engine_user *user) {
  struct engine_port *port = &engine->ports[index];
  *user = (struct pdlb_engine_user){
      .engine = engine,
      .port = port,
      .base = engine->base,
      .routes = engine->header->route,
      .idle = engine->idle,
      .history = engine_history(engine, port),
      .flows = engine->base + engine->header->flows_at,
      .flows_stride = engine->header->flows_stride,
      .rings = engine_ring(engine, 0, 0),
      .holds_one = port->owns + 1,
      .index = index,
      .owner = engine->owner,
      .ring_mask = engine_ring_mask(engine),
#ifdef ENGINE_HAS_WIDE
      .wide = front_wide_here(),
#endif
  };
  engine_look_at_only_link(user);
  atomic_store_explicit(&user->port->user, engine->owner, memory_order_release);
}

void pdlb_engine_heed_host(struct pdlb_engine *engine, uint32_t index, bool heed) {
  _Atomic uint32_t *const notice = &engine->ports[index].notice;
  if (heed)
    atomic_fetch_or_explicit(notice, NOTICE_HOST, memory_order_seq_cst);
  else
    atomic_fetch_and_explicit(notice, ~NOTICE_HOST, memory_order_seq_cst);
}
