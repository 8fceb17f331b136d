/* Which element goes to which consumer queue, and in what order: the part of the model that stands for silicon. */
#include "internal.h"

/* ---- elements ------------------------------------------------------------------------------------------------ */

uint16_t element_allocate(struct device *device, const struct pdlb_qe *qe, unsigned sender) {
  struct control *control = &device->control;
  uint16_t id = control->free_elements;
  SAVE(device, &control->free_elements);
  SAVE(device, &control->unused_elements);
  if (id == ID_NONE) {
    id = control->unused_elements++;
  } else {
    control->free_elements = device->elements[id].next;
  }
  struct element *element = &device->elements[id];
  SAVE(device, element);
  element->qe = *qe;
  element->next = ID_NONE;
  element->sender = (uint16_t)sender;
  return id;
}

static void element_free(struct device *device, uint16_t id) {
  struct control *control = &device->control;
  SAVE(device, &control->free_elements);
  SAVE(device, &device->elements[id]);
  device->elements[id].next = control->free_elements;
  control->free_elements = id;
}

/* Within a fifo that its owner has saved. */
static void fifo_append(struct device *device, struct fifo *fifo, uint16_t id) {
  if (fifo->count == 0) {
    fifo->head = id;
  } else {
    SAVE(device, &device->elements[fifo->tail]);
    device->elements[fifo->tail].next = id;
  }
  fifo->tail = id;
  fifo->count++;
}

/* `before`: the element ahead of it, ID_NONE for the head. */
static void fifo_remove(struct device *device, struct fifo *fifo, uint16_t before, uint16_t id) {
  const uint16_t next = device->elements[id].next;
  if (before == ID_NONE) {
    fifo->head = next;
  } else {
    SAVE(device, &device->elements[before]);
    device->elements[before].next = next;
  }
  if (fifo->tail == id) fifo->tail = before;
  fifo->count--;
}

static unsigned qe_type(const struct pdlb_qe *qe) { return qe->sched & 3u; }

/* The lowest bit of a priority makes no difference. */
static unsigned qe_level(const struct pdlb_qe *qe) { return qe->sched >> 3 & 3u; }

static unsigned qe_queue(const struct pdlb_qe *qe) {
  return qe_type(qe) == 3 ? PDLB_NUM_LDB_QUEUES + qe->qid : qe->qid;
}

unsigned schedule_enqueue(struct device *device, uint16_t element) {
  const struct pdlb_qe *qe = &device->elements[element].qe;
  const unsigned id = qe_queue(qe);
  struct queue *queue = &device->control.queues[id];
  SAVE(device, queue);
  SAVE(device, &device->elements[element]);
  device->elements[element].next = ID_NONE;
  fifo_append(device, qe_type(qe) == 0 ? &queue->atomic[qe_level(qe)] : &queue->plain[qe_level(qe)], element);
  queue->queued++;
  return id;
}

/* ---- what ports hold ----------------------------------------------------------------------------------------- */

static struct held *held_entry(struct device *device, const struct port *port, unsigned nth) {
  return &device->history[port->history_base + (port->held_first + nth) % port->history_size];
}

static struct order_place *place_of(struct device *device, const struct queue *queue, uint16_t sequence) {
  const unsigned base = (unsigned)queue->sn_slot * queue->sequence_numbers;
  return &device->order[queue->sn_group][base + sequence % queue->sequence_numbers];
}

bool schedule_holds_ordered(const struct device *device, unsigned port) {
  const struct port *entry = &device->control.ports[port];
  if (entry->held_count == 0) return false;
  return device->history[entry->history_base + entry->held_first].type == 2;
}

static void place_append(struct device *device, struct order_place *place, uint16_t element) {
  if (place->tail == ID_NONE) {
    place->head = element;
  } else {
    SAVE(device, &device->elements[place->tail]);
    device->elements[place->tail].next = element;
  }
  place->tail = element;
}

void schedule_fragment(struct device *device, unsigned port, uint16_t element) {
  const struct held *held = held_entry(device, &device->control.ports[port], 0);
  struct order_place *place = place_of(device, &device->control.queues[held->qid], held->sequence);
  SAVE(device, place);
  place_append(device, place, element);
}

void schedule_complete(struct device *device, unsigned id, uint16_t element, struct queue_set *touched) {
  struct port *port = &device->control.ports[id];
  const struct held held = *held_entry(device, port, 0);
  struct queue *queue = &device->control.queues[held.qid];
  SAVE(device, port);
  SAVE(device, queue);
  port->held_first = (uint16_t)((port->held_first + 1) % port->history_size);
  port->held_count--;
  queue->inflight--;
  queue_set_add(touched, held.qid);
  if (held.type == 0) {
    uint32_t *flow = &device->flows[held.qid][held.flow];
    SAVE(device, flow);
    *flow = (*flow & 0xFFFF) > 1 ? *flow - 1 : 0;
  }
  if (held.type == 2) {
    struct order_place *place = place_of(device, queue, held.sequence);
    SAVE(device, place);
    if (element != ID_NONE) place_append(device, place, element);
    place->complete = true;
  } else if (element != ID_NONE) {
    queue_set_add(touched, schedule_enqueue(device, element));
  }
}

bool schedule_advance_line(struct device *device, unsigned id, struct queue_set *touched) {
  struct queue *queue = &device->control.queues[id];
  if (!queue->sn_configured || queue->oldest_sequence == queue->next_sequence) return false;
  struct order_place *place = place_of(device, queue, queue->oldest_sequence);
  if (!place->complete) return false;
  SAVE(device, queue);
  SAVE(device, place);
  const uint16_t element = place->head;
  if (element != ID_NONE) {
    place->head = device->elements[element].next;
    if (place->head == ID_NONE) place->tail = ID_NONE;
    queue_set_add(touched, schedule_enqueue(device, element));
  } else {
    place->complete = false;
    queue->oldest_sequence++;
  }
  return true;
}

/* ---- choosing ------------------------------------------------------------------------------------------------ */

struct choice {
  unsigned queue;
  struct fifo *fifo;
  uint16_t before, element;
};

static bool cq_has_room(const struct port *port) {
  if (!port->configured || !port->enabled || port->stuck || port->pending_unmaps > 0) return false;
  if (port->tokens >= port->cq_depth) return false;
  return port->directed || port->held_count < port->history_size;
}

/* The first atomic element that may go to the port: its flow is in flight nowhere, or there already. Only so many as
 * the queue has storage for are looked at; a flow that fills it holds up the others. */
static bool choose_atomic(struct device *device, struct queue *queue, unsigned id, unsigned port,
                          struct choice *choice) {
  unsigned left = queue->atomic_inflights;
  for (unsigned level = 0; level < NUM_LEVELS; level++) {
    uint16_t before = ID_NONE;
    uint16_t element = queue->atomic[level].head;
    for (unsigned n = queue->atomic[level].count; n > 0 && left > 0; n--, left--) {
      const uint32_t flow = device->flows[id][device->elements[element].qe.flow];
      if (flow == 0 || flow >> 16 == port) {
        *choice = (struct choice){id, &queue->atomic[level], before, element};
        return true;
      }
      before = element;
      element = device->elements[element].next;
    }
  }
  return false;
}

static bool choose_plain(struct queue *queue, unsigned id, struct choice *choice) {
  if (queue->sn_configured && (uint16_t)(queue->next_sequence - queue->oldest_sequence) >= queue->sequence_numbers) {
    return false;
  }
  for (unsigned level = 0; level < NUM_LEVELS; level++) {
    if (queue->plain[level].count == 0) continue;
    *choice = (struct choice){id, &queue->plain[level], ID_NONE, queue->plain[level].head};
    return true;
  }
  return false;
}

static bool choose_from(struct device *device, unsigned id, unsigned port, struct choice *choice) {
  struct queue *queue = &device->control.queues[id];
  if (queue->queued == 0) return false;
  if (queue->directed) return choose_plain(queue, id, choice);
  if (queue->inflight >= queue->inflight_limit) return false;
  if (queue->atomic_turn) {
    return choose_atomic(device, queue, id, port, choice) || choose_plain(queue, id, choice);
  }
  return choose_plain(queue, id, choice) || choose_atomic(device, queue, id, port, choice);
}

/* The most urgent link that has work; equal ones take turns. */
static bool choose_slot(struct device *device, unsigned id, struct choice *choice) {
  struct port *port = &device->control.ports[id];
  for (unsigned level = 0; level < NUM_LEVELS; level++) {
    for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
      const unsigned turn = (port->slot_turn + i) % PDLB_QIDS_PER_CQ;
      const struct slot *slot = &port->slots[turn];
      if (slot->state != SLOT_MAPPED || slot->register_priority >> 1 != level) continue;
      if (!choose_from(device, slot->qid, id, choice)) continue;
      SAVE(device, port);
      port->slot_turn = (uint8_t)((turn + 1) % PDLB_QIDS_PER_CQ);
      return true;
    }
  }
  return false;
}

/* ---- writing to a consumer queue ----------------------------------------------------------------------------- */

/* How full the queue that the element leaves is, in quarters of its threshold. */
static unsigned depth_code(const struct queue *queue) {
  const uint64_t depth = queue->queued;
  const uint64_t threshold = queue->depth_threshold;
  if (depth * 2 <= threshold) return 0;
  if (depth * 4 <= threshold * 3) return 1;
  return depth <= threshold ? 2 : 3;
}

static void hold(struct device *device, struct port *port, unsigned id, struct queue *queue, unsigned queue_id,
                 const struct pdlb_qe *qe) {
  struct held *held = held_entry(device, port, port->held_count);
  SAVE(device, held);
  *held = (struct held){qe->flow, 0, (uint8_t)queue_id, (uint8_t)qe_type(qe)};
  port->held_count++;
  queue->inflight++;
  if (held->type == 0) {
    uint32_t *flow = &device->flows[queue_id][qe->flow];
    SAVE(device, flow);
    *flow = *flow == 0 ? (uint32_t)id << 16 | 1u : *flow + 1;
    queue->atomic_turn = false;
  } else {
    queue->atomic_turn = true;
  }
  if (held->type == 2) {
    held->sequence = queue->next_sequence++;
    struct order_place *place = place_of(device, queue, held->sequence);
    SAVE(device, place);
    *place = (struct order_place){ID_NONE, ID_NONE, false};
  }
}

static bool fires(const struct port *port) { return port->cq_threshold != 0 && port->tokens >= port->cq_threshold; }

static void write_entry(struct device *device, unsigned id, const struct choice *choice) {
  struct port *port = &device->control.ports[id];
  struct queue *queue = &device->control.queues[choice->queue];
  struct domain *domain = &device->control.domains[port->domain];
  struct journal *journal = &device->journal;
  const struct element element = device->elements[choice->element];
  SAVE(device, port);
  SAVE(device, queue);
  fifo_remove(device, choice->fifo, choice->before, choice->element);
  queue->queued--;
  element_free(device, choice->element);

  const unsigned kind = !is_v25(device) && queue->directed ? 1 : 0;
  SAVE(device, &domain->credits);
  domain->credits[kind]++;

  journal->write_cq = true;
  journal->port = (uint16_t)id;
  journal->index = port->write_index;
  journal->qe = element.qe;
  journal->qe.misc = 0;
  journal->qe.command =
      (uint8_t)((port->write_generation ? PDLB_QE_GEN : 0u) | depth_code(queue) << PDLB_QE_DEPTH_SHIFT);
  /* A directed element has no flow; the field tells where it came from. */
  if (queue->directed) {
    journal->qe.flow =
        (uint16_t)(element.sender < PDLB_NUM_LDB_PORTS ? element.sender : element.sender - PDLB_NUM_LDB_PORTS);
  }
  if (!queue->directed) hold(device, port, id, queue, choice->queue, &element.qe);

  const uint32_t ring = port->cq_depth > PDLB_MIN_CQ_RING ? port->cq_depth : PDLB_MIN_CQ_RING;
  port->tokens++;
  if (++port->write_index == ring) {
    port->write_index = 0;
    port->write_generation = !port->write_generation;
  }
  if (port->armed && fires(port)) {
    port->armed = false;
    journal->fire = true;
  }
}

static void interrupt(struct emulation *emulation, unsigned number, unsigned id, const struct port *port) {
  const struct emulation_host *host = emulation->host;
  unsigned times = fault_now(emulation, EMULATE_LOSE_INTERRUPT) ? 0 : 1;
  if (fault_now(emulation, EMULATE_REPEAT_INTERRUPT)) times++;
  while (times-- > 0 && port->event_serial != 0) {
    host->signal_eventfd(emulation->context, number, id, port->event_serial, port->event_process, port->event_fd);
  }
}

void apply_effects(struct emulation *emulation, struct device *device) {
  const struct journal *journal = &device->journal;
  const unsigned number = device_number(emulation, device);
  const struct port *port = &device->control.ports[journal->port];
  if (journal->write_cq) {
    char *memory = emulation->host->consumer_queue(emulation->context, number, journal->port, port->consumer_serial);
    if (memory != NULL) {
      /* The generation bit is in the second half: a reader that sees it sees all. */
      uint64_t halves[2];
      memcpy(halves, &journal->qe, sizeof halves);
      _Atomic uint64_t *slot = (_Atomic uint64_t *)(void *)(memory + (size_t)journal->index * PDLB_CQ_SPARSE_STRIDE);
      atomic_store_explicit(&slot[0], halves[0], memory_order_relaxed);
      atomic_store_explicit(&slot[1], halves[1], memory_order_release);
    }
  }
  if (journal->write_cq && emulation->host->scheduled != NULL) {
    emulation->host->scheduled(emulation->context, number, journal->port, journal->index, &journal->qe);
  }
  if (journal->fire && emulation->host->interrupted != NULL) {
    emulation->host->interrupted(emulation->context, number, journal->port);
  }
  if (journal->fire) interrupt(emulation, number, journal->port, port);
  if (journal->write_cq || journal->fire) bell_ring(&device->port_bells[journal->port]);
}

static bool pump_one(struct emulation *emulation, struct device *device, unsigned id) {
  struct port *port = &device->control.ports[id];
  struct choice choice;
  if (!cq_has_room(port)) return false;
  journal_begin(device);
  const bool found = port->directed ? choose_from(device, PDLB_NUM_LDB_QUEUES + (id - PDLB_NUM_LDB_PORTS), id, &choice)
                                    : choose_slot(device, id, &choice);
  if (found) write_entry(device, id, &choice);
  journal_commit(device);
  if (found) apply_effects(emulation, device);
  journal_end(device);
  return found;
}

void pump_port(struct emulation *emulation, struct device *device, unsigned port) {
  while (pump_one(emulation, device, port)) continue;
}

static unsigned next_port_of(uint64_t mask, unsigned from) {
  const uint64_t above = from >= 64 ? 0 : mask >> from << from;
  return (unsigned)__builtin_ctzll(above != 0 ? above : mask);
}

/* Ports take turns, an element each. */
static void pump_queue(struct emulation *emulation, struct device *device, unsigned id) {
  struct queue *queue = &device->control.queues[id];
  if (queue->queued == 0) return;
  if (queue->directed) {
    pump_port(emulation, device, PDLB_NUM_LDB_PORTS + (id - PDLB_NUM_LDB_QUEUES));
    return;
  }
  uint64_t candidates = queue->port_mask;
  while (candidates != 0 && queue->queued > 0) {
    const unsigned port = next_port_of(candidates, queue->port_turn);
    if (pump_one(emulation, device, port)) {
      queue->port_turn = (uint8_t)((port + 1) % PDLB_NUM_LDB_PORTS);
    } else {
      candidates &= ~((uint64_t)1 << port);
    }
  }
}

void pump_queues(struct emulation *emulation, struct device *device, const struct queue_set *queues) {
  for (unsigned word = 0; word < NUM_QUEUES / 64; word++) {
    for (uint64_t left = queues->words[word]; left != 0; left &= left - 1) {
      pump_queue(emulation, device, word * 64 + (unsigned)__builtin_ctzll(left));
    }
  }
}

void pump_domain(struct emulation *emulation, struct device *device, unsigned domain) {
  if (device->control.domains[domain].state != DOMAIN_LIVE) return;
  for (unsigned queue = 0; queue < NUM_QUEUES; queue++) {
    const struct queue *entry = &device->control.queues[queue];
    if (entry->configured && entry->domain == domain) pump_queue(emulation, device, queue);
  }
}

/* ---- emptying a domain --------------------------------------------------------------------------------------- */

static bool discard_queued(struct device *device, struct queue *queue) {
  for (unsigned i = 0; i < 2 * NUM_LEVELS; i++) {
    struct fifo *fifo = i < NUM_LEVELS ? &queue->plain[i] : &queue->atomic[i - NUM_LEVELS];
    if (fifo->count == 0) continue;
    SAVE(device, queue);
    const uint16_t element = fifo->head;
    fifo_remove(device, fifo, ID_NONE, element);
    queue->queued--;
    element_free(device, element);
    return true;
  }
  return false;
}

static bool discard_held(struct device *device, unsigned id) {
  struct port *port = &device->control.ports[id];
  struct queue_set ignored = {{0}};
  if (port->held_count > 0) {
    schedule_complete(device, id, ID_NONE, &ignored);
    return true;
  }
  if (port->tokens == 0) return false;
  SAVE(device, port);
  port->tokens = 0;
  return true;
}

bool schedule_discard_one(struct device *device, unsigned domain) {
  bool dropped = false;
  journal_begin(device);
  for (unsigned i = 0; i < NUM_PORTS && !dropped; i++) {
    const struct port *port = &device->control.ports[i];
    if (port->configured && port->domain == domain) dropped = discard_held(device, i);
  }
  for (unsigned i = 0; i < NUM_QUEUES && !dropped; i++) {
    struct queue *queue = &device->control.queues[i];
    struct queue_set ignored = {{0}};
    if (!queue->configured || queue->domain != domain) continue;
    dropped = schedule_advance_line(device, i, &ignored) || discard_queued(device, queue);
  }
  journal_commit(device);
  journal_end(device);
  return dropped;
}
