/* What arrives at a producer port: queue elements, completions, tokens. */
#include "internal.h"

struct arrival {
  struct emulation *emulation;
  struct device *device;
  unsigned port;
  struct queue_set touched;
};

static void punish(struct arrival *arrival, enum pdlb_alert alert, const char *text) {
  struct device *device = arrival->device;
  const unsigned domain = device->control.ports[arrival->port].domain;
  if (device->control.ingress_errors_enabled) {
    journal_begin(device);
    raise_alert(device, domain, alert, alert_port(arrival->port));
    journal_commit(device);
    journal_end(device);
    bell_ring(&device->alert_bells[domain]);
  }
  arrival->emulation->host->misuse(arrival->emulation->context, device_number(arrival->emulation, device),
                                   arrival->port, text);
}

/* ---- interrupts ---------------------------------------------------------------------------------------------- */

void arm_interrupt(struct emulation *emulation, struct device *device, unsigned id) {
  struct port *port = &device->control.ports[id];
  journal_begin(device);
  SAVE(device, port);
  device->journal.port = (uint16_t)id;
  port->armed = true;
  if (port->cq_threshold != 0 && port->tokens >= port->cq_threshold) {
    port->armed = false;
    device->journal.fire = true;
  }
  journal_commit(device);
  apply_effects(emulation, device);
  journal_end(device);
}

/* ---- what an element may do ---------------------------------------------------------------------------------- */

static bool command_exists(unsigned command) {
  switch (command) {
#define COMMAND_CASE(code, name) case code:
    PDLB_QE_COMMAND_LIST(COMMAND_CASE)
#undef COMMAND_CASE
    return true;
    default: return false;
  }
}

static bool command_is_legal(unsigned command, bool directed) {
  if (!command_exists(command)) return false;
  if (!directed || command == PDLB_QE_ARM) return true;
  return (command & (PDLB_QE_COMPLETE | PDLB_QE_FRAGMENT)) == 0;
}

/* Tokens that the command returns. With a completion or alone, the flow field counts them. */
static uint32_t tokens_of(const struct pdlb_qe *qe, unsigned command) {
  if (!(command & PDLB_QE_TOKEN)) return 0;
  if (command & PDLB_QE_VALID) return 1;
  return (qe->flow & PDLB_QE_TOKEN_COUNT_MASK) + 1u;
}

struct destination {
  bool good;
  unsigned kind; /* of credit */
  enum pdlb_alert alert;
  const char *text;
};

static struct destination bad(enum pdlb_alert alert, const char *text) {
  return (struct destination){false, 0, alert, text};
}

static struct destination destination_of(const struct device *device, unsigned domain, const struct pdlb_qe *qe) {
  const unsigned type = qe->sched & 3u;
  const unsigned limit = type == 3 ? device->control.num_dir_ports : PDLB_NUM_LDB_QUEUES;
  if (qe->qid >= limit) return bad(PDLB_ALERT_ILLEGAL_QID, "element for a queue that the device does not have");
  const struct queue *queue = &device->control.queues[type == 3 ? PDLB_NUM_LDB_QUEUES + qe->qid : qe->qid];
  if (!queue->configured) return bad(PDLB_ALERT_ILLEGAL_QID, "element for a queue that was not created");
  if (queue->domain != domain) return bad(PDLB_ALERT_DISABLED_QID, "element for a queue of another domain");
  if (!device->control.domains[domain].started) {
    return bad(PDLB_ALERT_DISABLED_QID, "element for a queue of a domain that is not started");
  }
  if ((type == 0 && !queue->fid_configured) || (type == 1 && queue->sn_configured) ||
      (type == 2 && !queue->sn_configured)) {
    return bad(PDLB_ALERT_UNRECOGNISED, "element with a scheduling type that its queue is not configured for");
  }
  const unsigned kind = type == 3 && !is_v25(device) ? 1 : 0;
  if (device->control.domains[domain].credits[kind] == 0) {
    return bad(PDLB_ALERT_ILLEGAL_ENQUEUE, "element without a credit");
  }
  return (struct destination){true, kind, 0, NULL};
}

/* ---- carrying it out ----------------------------------------------------------------------------------------- */

/* Links that wait for completions see each of them; the links' own changes need the whole state saved. */
static void complete(struct arrival *arrival, uint16_t element) {
  struct device *device = arrival->device;
  const struct port *port = &device->control.ports[arrival->port];
  const unsigned queue = device->history[port->history_base + port->held_first].qid;
  if (links_waiting(device, arrival->port, queue)) SAVE(device, &device->control);
  schedule_complete(device, arrival->port, element, &arrival->touched);
  if (links_waiting(device, arrival->port, queue)) {
    links_progress(device, arrival->port, queue);
    for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
      if (port->slots[i].state == SLOT_MAPPED) queue_set_add(&arrival->touched, port->slots[i].qid);
    }
  }
}

static void return_tokens(struct arrival *arrival, uint32_t tokens) {
  struct port *port = &arrival->device->control.ports[arrival->port];
  SAVE(arrival->device, port);
  port->tokens -= tokens;
  port->idle_ms = 0;
}

static void enqueue(struct arrival *arrival, const struct pdlb_qe *qe, unsigned command, unsigned kind, bool held) {
  struct device *device = arrival->device;
  struct domain *domain = &device->control.domains[device->control.ports[arrival->port].domain];
  SAVE(device, &domain->credits);
  domain->credits[kind]--;
  const uint16_t element = element_allocate(device, qe, arrival->port);
  if (command & PDLB_QE_FRAGMENT) {
    schedule_fragment(device, arrival->port, element);
  } else if ((command & PDLB_QE_COMPLETE) && held) {
    complete(arrival, element);
  } else {
    queue_set_add(&arrival->touched, schedule_enqueue(device, element));
  }
}

/* One element, as one step. False if it is dropped. */
static bool take(struct arrival *arrival, const struct pdlb_qe *qe, unsigned command) {
  struct device *device = arrival->device;
  const struct port *port = &device->control.ports[arrival->port];
  const uint32_t tokens = tokens_of(qe, command);
  const bool held = port->held_count > 0;
  struct destination destination = {true, 0, 0, NULL};

  if (!command_is_legal(command, port->directed)) {
    punish(arrival, PDLB_ALERT_ILLEGAL_HCW, "command that does not exist, or not for a directed port");
    return false;
  }
  if (command == PDLB_QE_FRAG || command == PDLB_QE_FRAG_T) {
    if (!schedule_holds_ordered(device, arrival->port)) {
      punish(arrival, PDLB_ALERT_ILLEGAL_ENQUEUE, "fragment while no ordered element is held");
      return false;
    }
  }
  if (tokens > port->tokens) {
    punish(arrival, PDLB_ALERT_EXCESS_TOKEN_POPS, "more tokens returned than owed");
    return false;
  }
  if ((command & PDLB_QE_COMPLETE) && !held) {
    punish(arrival, PDLB_ALERT_ILLEGAL_ENQUEUE, "completion while nothing is held");
    if (!(command & PDLB_QE_VALID)) return false;
  }
  if (command & PDLB_QE_VALID) {
    destination = destination_of(device, port->domain, qe);
    if (!destination.good) {
      punish(arrival, destination.alert, destination.text);
      return false;
    }
  }

  journal_begin(device);
  SAVE(device, &device->line.next);
  device->line.next++;
  if (tokens > 0) return_tokens(arrival, tokens);
  if (command & PDLB_QE_VALID) {
    enqueue(arrival, qe, command, destination.kind, held);
  } else if (command & PDLB_QE_COMPLETE) {
    complete(arrival, ID_NONE);
  }
  journal_commit(device);
  journal_end(device);
  return true;
}

static void advance_lines(struct arrival *arrival) {
  struct device *device = arrival->device;
  const uint64_t queues = arrival->touched.words[0] & 0xFFFFFFFFu;
  for (uint64_t left = queues; left != 0; left &= left - 1) {
    const unsigned queue = (unsigned)__builtin_ctzll(left);
    bool moved = device->control.queues[queue].sn_configured;
    while (moved) {
      journal_begin(device);
      moved = schedule_advance_line(device, queue, &arrival->touched);
      journal_commit(device);
      journal_end(device);
    }
  }
}

static void schedule(struct arrival *arrival) {
  advance_lines(arrival);
  pump_port(arrival->emulation, arrival->device, arrival->port);
  pump_queues(arrival->emulation, arrival->device, &arrival->touched);
  arrival->touched = (struct queue_set){{0}};
}

static void arrive(struct arrival *arrival, const struct pdlb_qe *qe) {
  struct device *device = arrival->device;
  const unsigned command = qe->command & PDLB_QE_COMMAND_MASK;
  const struct emulation_host *host = arrival->emulation->host;
  const uint32_t next = device->line.next + 1;
  if (command != PDLB_QE_NOOP && host->stored != NULL)
    host->stored(arrival->emulation->context, device_number(arrival->emulation, device), arrival->port, qe);
  if (command == PDLB_QE_NOOP || command == PDLB_QE_ARM) {
    device->line.next = next;
    if (command == PDLB_QE_ARM) arm_interrupt(arrival->emulation, device, arrival->port);
    return;
  }
  if (fault_now(arrival->emulation, EMULATE_DROP_STORE)) {
    punish(arrival, PDLB_ALERT_ILLEGAL_ENQUEUE, "element dropped, as was asked for");
  } else if (take(arrival, qe, command)) {
    schedule(arrival);
  }
  device->line.next = next;
}

/* After a reset of the function, a mapping that is left leads nowhere. */
static bool leads_to_port(const struct device *device, const struct line *line) {
  const struct port *port = &device->control.ports[line->port];
  return port->configured && device->control.domains[port->domain].serial == line->serial;
}

static void take_line(struct emulation *emulation, struct device *device) {
  struct line *line = &device->line;
  const uint32_t count = atomic_load_explicit(&line->count, memory_order_acquire);
  struct arrival arrival = {emulation, device, line->port, {{0}}};
  while (line->next < count && leads_to_port(device, line)) {
    const struct pdlb_qe qe = line->elements[line->next];
    if ((qe.command & PDLB_QE_COMMAND_MASK) != PDLB_QE_NOOP && fault_now(emulation, EMULATE_RESET_AT_STORE)) {
      function_reset(emulation, device);
      break;
    }
    arrive(&arrival, &qe);
  }
  atomic_store_explicit(&line->count, 0, memory_order_release);
}

void store_elements(struct emulation *emulation, struct device *device, unsigned port, uint64_t serial,
                    const struct pdlb_qe *qes, unsigned count) {
  struct line *line = &device->line;
  for (unsigned done = 0; done < count; done += LINE_ELEMENTS) {
    const unsigned part = count - done < LINE_ELEMENTS ? count - done : LINE_ELEMENTS;
    line->next = 0;
    line->port = port;
    line->serial = serial;
    memcpy(line->elements, qes + done, part * sizeof *qes);
    atomic_store_explicit(&line->count, part, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    take_line(emulation, device);
  }
}

void finish_stores(struct emulation *emulation, struct device *device) {
  /* The dead one may have stopped between an ordered element and those that may go on after it. */
  struct arrival arrival = {emulation, device, 0, {{(1ull << PDLB_NUM_LDB_QUEUES) - 1}}};
  advance_lines(&arrival);
  take_line(emulation, device);
}

void drain_ports(struct emulation *emulation, struct device *device, unsigned domain) {
  struct arrival arrival = {emulation, device, 0, {{0}}};
  for (unsigned id = 0; id < NUM_PORTS; id++) {
    const struct port *port = &device->control.ports[id];
    if (!port->configured || port->domain != domain) continue;
    arrival.port = id;
    for (unsigned left = port->held_count; left > 0; left--) {
      journal_begin(device);
      complete(&arrival, ID_NONE);
      journal_commit(device);
      journal_end(device);
    }
    journal_begin(device);
    return_tokens(&arrival, port->tokens);
    journal_commit(device);
    journal_end(device);
  }
  advance_lines(&arrival);
  pump_domain(emulation, device, domain);
}
