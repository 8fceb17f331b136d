/* Links from load-balanced ports to queues. Before a domain is started they change at once; afterwards the device
 * must first be quiet: a new link waits until nothing of its queue is in flight anywhere, a removed one until nothing
 * at all is in flight on its port.
 *
 * All of this happens within a command's step.
 */
#include "internal.h"

static struct slot *find(struct port *port, enum slot_state state, unsigned qid) {
  for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
    if (port->slots[i].state == state && port->slots[i].qid == qid) return &port->slots[i];
  }
  return NULL;
}

/* A link that is being removed, and whose slot nothing waits for. */
static struct slot *find_leaving(struct port *port, unsigned qid) {
  struct slot *slot = find(port, SLOT_UNMAP_IN_PROGRESS, qid);
  return slot != NULL && !slot->map_pending ? slot : NULL;
}

static struct slot *find_pending(struct port *port, unsigned qid) {
  for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
    const struct slot *slot = &port->slots[i];
    if (slot->state == SLOT_UNMAP_IN_PROGRESS && slot->map_pending && slot->pending_qid == qid) return &port->slots[i];
  }
  return NULL;
}

/* A slot that nothing has, or that something is about to leave and nothing waits for. */
static struct slot *find_room(struct port *port) {
  struct slot *leaving = NULL;
  for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
    struct slot *slot = &port->slots[i];
    if (slot->state == SLOT_FREE) return slot;
    if (slot->state == SLOT_UNMAP_IN_PROGRESS && !slot->map_pending && leaving == NULL) leaving = slot;
  }
  return leaving;
}

/* The driver's rule. It counts links that are made or being removed, but not those that are still being made: it may
 * promise a slot that is not there. */
static bool may_have_slot(struct port *port, unsigned qid) {
  unsigned counted = 0;
  for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
    counted += port->slots[i].state == SLOT_MAPPED || port->slots[i].state == SLOT_UNMAP_IN_PROGRESS;
  }
  return counted < PDLB_QIDS_PER_CQ || find(port, SLOT_MAPPED, qid) != NULL || find_pending(port, qid) != NULL ||
         find_room(port) != NULL;
}

static void activate(struct device *device, struct port *port, struct slot *slot) {
  struct queue *queue = &device->control.queues[slot->qid];
  slot->state = SLOT_MAPPED;
  slot->register_priority = slot->priority;
  queue->port_mask |= (uint64_t)1 << (port - device->control.ports);
}

static void finish_maps(struct device *device, unsigned qid) {
  struct queue *queue = &device->control.queues[qid];
  if (queue->pending_maps == 0 || queue->inflight > 0) return;
  for (unsigned id = 0; id < PDLB_NUM_LDB_PORTS; id++) {
    struct port *port = &device->control.ports[id];
    if (!port->configured) continue;
    struct slot *slot = find(port, SLOT_MAP_IN_PROGRESS, qid);
    if (slot != NULL) activate(device, port, slot);
  }
  queue->pending_maps = 0;
  queue->inflight_limit = queue->inflights;
}

static void start_map(struct device *device, struct port *port, struct slot *slot, unsigned qid, unsigned priority) {
  struct queue *queue = &device->control.queues[qid];
  *slot = (struct slot){.qid = (uint8_t)qid, .priority = (uint8_t)priority};
  if (!device->control.domains[port->domain].started) {
    activate(device, port, slot);
    return;
  }
  slot->state = SLOT_MAP_IN_PROGRESS;
  queue->pending_maps++;
  queue->inflight_limit = 0;
  finish_maps(device, qid);
}

static void finish_unmaps(struct device *device, struct port *port) {
  if (port->pending_unmaps == 0 || port->held_count > 0) return;
  port->pending_unmaps = 0;
  port->stuck = false;
  for (unsigned i = 0; i < PDLB_QIDS_PER_CQ; i++) {
    struct slot *slot = &port->slots[i];
    if (slot->state != SLOT_UNMAP_IN_PROGRESS) continue;
    const struct slot left = *slot;
    *slot = (struct slot){0};
    if (left.map_pending) start_map(device, port, slot, left.pending_qid, left.pending_priority);
  }
}

static struct port *ldb_port(struct device *device, unsigned domain, uint32_t id) {
  if (id >= PDLB_NUM_LDB_PORTS) return NULL;
  struct port *port = &device->control.ports[id];
  return port->configured && port->domain == domain ? port : NULL;
}

static struct queue *ldb_queue(struct device *device, unsigned domain, uint32_t id) {
  if (id >= PDLB_NUM_LDB_QUEUES) return NULL;
  struct queue *queue = &device->control.queues[id];
  return queue->configured && queue->domain == domain ? queue : NULL;
}

static int map(struct device *device, struct port *port, unsigned qid, unsigned priority) {
  struct slot *slot = find(port, SLOT_MAPPED, qid);
  if (slot == NULL && (slot = find_leaving(port, qid)) != NULL) { /* the removal is called off */
    slot->state = SLOT_MAPPED;
    port->pending_unmaps--;
    device->control.queues[qid].port_mask |= (uint64_t)1 << (port - device->control.ports);
  }
  if (slot != NULL) {
    slot->priority = (uint8_t)priority;
    slot->register_priority = (uint8_t)(slot->register_priority | priority);
    return 0;
  }
  if ((slot = find(port, SLOT_MAP_IN_PROGRESS, qid)) != NULL) {
    slot->priority = (uint8_t)priority;
    return 0;
  }
  if ((slot = find_pending(port, qid)) != NULL) {
    slot->pending_priority = (uint8_t)priority;
    return 0;
  }
  if ((slot = find_room(port)) == NULL) {
    port->stuck = true; /* the driver gives up half-way */
    return -EFAULT;
  }
  if (slot->state == SLOT_UNMAP_IN_PROGRESS) {
    slot->map_pending = 1;
    slot->pending_qid = (uint8_t)qid;
    slot->pending_priority = (uint8_t)priority;
    return 0;
  }
  start_map(device, port, slot, qid, priority);
  return 0;
}

int link_queue(struct device *device, unsigned domain, struct pdlb_map_qid_args *args) {
  struct port *port = ldb_port(device, domain, args->port_id);
  const unsigned qid = args->qid;
  if (port == NULL) {
    args->response.status = PDLB_ST_INVALID_PORT_ID;
  } else if (args->priority >= PDLB_QID_PRIORITIES) {
    args->response.status = PDLB_ST_INVALID_PRIORITY;
  } else if (ldb_queue(device, domain, qid) == NULL) {
    args->response.status = PDLB_ST_INVALID_QID;
  } else if (!may_have_slot(port, qid)) {
    args->response.status = PDLB_ST_NO_QID_SLOTS_AVAILABLE;
  } else {
    port->stuck = false;
    return map(device, port, qid, args->priority);
  }
  return -EINVAL;
}

static bool unmap(struct device *device, struct port *port, unsigned qid) {
  struct queue *queue = &device->control.queues[qid];
  struct slot *slot = find(port, SLOT_MAPPED, qid);
  if (slot != NULL) {
    slot->state = SLOT_UNMAP_IN_PROGRESS;
    queue->port_mask &= ~((uint64_t)1 << (port - device->control.ports));
    port->pending_unmaps++;
    finish_unmaps(device, port);
    return true;
  }
  if ((slot = find(port, SLOT_MAP_IN_PROGRESS, qid)) != NULL) {
    /* As in the driver, nobody gives the queue its limit of elements in flight back. */
    *slot = (struct slot){0};
    queue->pending_maps--;
    return true;
  }
  if ((slot = find_pending(port, qid)) != NULL) {
    slot->map_pending = 0;
    return true;
  }
  return false;
}

int unlink_queue(struct device *device, unsigned domain, struct pdlb_unmap_qid_args *args) {
  struct port *port = ldb_port(device, domain, args->port_id);
  if (port == NULL) {
    args->response.status = PDLB_ST_INVALID_PORT_ID;
    return -EINVAL;
  }
  if (ldb_queue(device, domain, args->qid) == NULL || !unmap(device, port, args->qid)) {
    args->response.status = PDLB_ST_INVALID_QID;
    return -EINVAL;
  }
  return 0;
}

bool links_waiting(const struct device *device, unsigned port, unsigned queue) {
  return device->control.ports[port].pending_unmaps > 0 || device->control.queues[queue].pending_maps > 0;
}

void links_progress(struct device *device, unsigned port, unsigned queue) {
  finish_maps(device, queue);
  finish_unmaps(device, &device->control.ports[port]);
}
