/* Commands on a domain's descriptor. Each checks its arguments in the driver's order. */
#include "internal.h"

static int refuse(void *args, enum pdlb_status status) {
  ((struct pdlb_response *)args)->status = status;
  return -EINVAL;
}

static bool depth_is_valid(uint32_t depth) {
  return depth >= 1 && depth <= PDLB_MAX_CQ_DEPTH && (depth & (depth - 1)) == 0;
}

/* ---- finding things ------------------------------------------------------------------------------------------ */

static struct port *find_port(struct device *device, unsigned domain, uint32_t id, bool directed) {
  if (id >= (directed ? device->control.num_dir_ports : PDLB_NUM_LDB_PORTS)) return NULL;
  struct port *port = &device->control.ports[directed ? PDLB_NUM_LDB_PORTS + id : id];
  return port->configured && port->domain == domain ? port : NULL;
}

static struct queue *find_queue(struct device *device, unsigned domain, uint32_t id, bool directed) {
  if (id >= (directed ? device->control.num_dir_ports : PDLB_NUM_LDB_QUEUES)) return NULL;
  struct queue *queue = &device->control.queues[directed ? PDLB_NUM_LDB_QUEUES + id : id];
  return queue->configured && queue->domain == domain ? queue : NULL;
}

/* ---- queues -------------------------------------------------------------------------------------------------- */

static bool compression_is_valid(uint32_t level) {
  return level == 0 || level == 65536 || (level >= 64 && level <= 4096 && (level & (level - 1)) == 0);
}

/* The first group with so many sequence numbers for each queue that has a slot left, and so has the domain. */
static int find_sn_group(const struct device *device, const struct domain *domain, uint32_t sequence_numbers) {
  for (unsigned group = 0; group < PDLB_NUM_SN_GROUPS; group++) {
    const struct sn_group *entry = &device->control.sn_groups[group];
    const uint32_t slots = PDLB_SNS_PER_GROUP / entry->sns_per_queue;
    if (entry->sns_per_queue == sequence_numbers && domain->sn_slots_left[group] > 0 &&
        (uint32_t)__builtin_popcount(entry->used) < slots) {
      return (int)group;
    }
  }
  return -1;
}

static void take_sn_slot(struct device *device, struct domain *domain, struct queue *queue, unsigned group) {
  struct sn_group *entry = &device->control.sn_groups[group];
  queue->sn_configured = true;
  queue->sn_group = (uint8_t)group;
  queue->sn_slot = (uint8_t)__builtin_ctz(~(uint32_t)entry->used);
  entry->used = (uint16_t)(entry->used | 1u << queue->sn_slot);
  domain->sn_slots_left[group]--;
}

static void begin_queue(struct queue *queue, unsigned domain) {
  const bool directed = queue->directed;
  const uint16_t next = queue->next;
  memset(queue, 0, sizeof *queue);
  queue->directed = directed;
  queue->next = next;
  queue->configured = true;
  queue->domain = (uint16_t)domain;
}

static int create_ldb_queue(struct device *device, unsigned id, struct pdlb_create_ldb_queue_args *args) {
  struct domain *domain = &device->control.domains[id];
  const uint32_t ordered = args->num_sequence_numbers;
  const uint32_t inflights = args->num_qid_inflights;
  const int group = ordered == 0 ? -1 : find_sn_group(device, domain, ordered);
  if (domain->started) return refuse(args, PDLB_ST_DOMAIN_STARTED);
  if (domain->free_queues.count == 0) return refuse(args, PDLB_ST_LDB_QUEUES_UNAVAILABLE);
  if (ordered != 0 && group < 0) return refuse(args, PDLB_ST_SEQUENCE_NUMBERS_UNAVAILABLE);
  if (inflights == 0 || inflights > PDLB_MAX_QID_INFLIGHTS || (ordered != 0 && inflights > ordered)) {
    return refuse(args, PDLB_ST_INVALID_QID_INFLIGHT_ALLOCATION);
  }
  if (args->num_atomic_inflights > domain->atomic_left) return refuse(args, PDLB_ST_ATOMIC_INFLIGHTS_UNAVAILABLE);
  if (args->num_atomic_inflights > 0 && !compression_is_valid(args->lock_id_comp_level)) {
    return refuse(args, PDLB_ST_INVALID_LOCK_ID_COMP_LEVEL);
  }

  const uint16_t qid = take_ldb_queue(device, domain);
  struct queue *queue = &device->control.queues[qid];
  begin_queue(queue, id);
  queue->depth_threshold = args->depth_threshold & (is_v25(device) ? 0x7FFFu : 0x3FFFu);
  queue->inflights = queue->inflight_limit = inflights;
  queue->sequence_numbers = (uint16_t)ordered;
  queue->atomic_inflights = (uint16_t)args->num_atomic_inflights;
  queue->fid_configured = args->num_atomic_inflights > 0;
  domain->atomic_left -= args->num_atomic_inflights;
  if (group >= 0) take_sn_slot(device, domain, queue, (unsigned)group);
  args->response.id = qid;
  return 0;
}

/* A directed port and the queue that feeds it are one pair: naming the one makes the other half. */
static int create_dir_queue(struct device *device, unsigned id, struct pdlb_create_dir_queue_args *args) {
  struct domain *domain = &device->control.domains[id];
  uint16_t pair = (uint16_t)(PDLB_NUM_LDB_PORTS + (uint32_t)args->port_id);
  if (domain->started) return refuse(args, PDLB_ST_DOMAIN_STARTED);
  if (args->port_id != -1) {
    if (find_port(device, id, (uint32_t)args->port_id, true) == NULL) return refuse(args, PDLB_ST_INVALID_PORT_ID);
  } else if ((pair = take_dir_pair(device, domain, false)) == ID_NONE) {
    return refuse(args, PDLB_ST_DIR_QUEUES_UNAVAILABLE);
  }
  struct queue *queue = &device->control.queues[PDLB_NUM_LDB_QUEUES + pair - PDLB_NUM_LDB_PORTS];
  if (!queue->configured) begin_queue(queue, id);
  queue->depth_threshold = args->depth_threshold & (is_v25(device) ? 0x7FFFu : 0x1FFFu);
  args->response.id = pair - PDLB_NUM_LDB_PORTS;
  return 0;
}

/* ---- ports --------------------------------------------------------------------------------------------------- */

static void begin_port(struct device *device, struct port *port, unsigned domain, uint16_t depth, uint16_t threshold) {
  const bool directed = port->directed;
  const uint16_t next = port->next;
  memset(port, 0, sizeof *port);
  port->directed = directed;
  port->next = next;
  port->configured = true;
  port->enabled = true;
  port->interrupt_configured = true;
  port->domain = (uint16_t)domain;
  port->cq_depth = depth;
  port->cq_threshold = threshold;
  port->weight_depth = (uint8_t)depth;
  port->write_generation = true;
  port->consumer_serial = ++device->control.next_serial;
}

static bool port_is_left(const struct domain *domain, uint32_t cos, bool strict) {
  uint32_t left = 0;
  if (strict) return domain->free_ports[cos].count > 0;
  for (unsigned i = 0; i < PDLB_NUM_COS; i++) left += domain->free_ports[i].count;
  return left > 0;
}

static int create_ldb_port(struct device *device, unsigned id, struct pdlb_create_ldb_port_args *args) {
  struct domain *domain = &device->control.domains[id];
  const bool any = args->cos_id == PDLB_COS_ANY && !args->cos_strict;
  if (domain->started) return refuse(args, PDLB_ST_DOMAIN_STARTED);
  if (args->cos_id >= PDLB_NUM_COS && !any) return refuse(args, PDLB_ST_INVALID_COS_ID);
  if (!port_is_left(domain, args->cos_id, args->cos_strict)) return refuse(args, PDLB_ST_LDB_PORTS_UNAVAILABLE);
  if (!depth_is_valid(args->cq_depth)) return refuse(args, PDLB_ST_INVALID_CQ_DEPTH);
  if (args->cq_history_list_size == 0) return refuse(args, PDLB_ST_INVALID_HIST_LIST_DEPTH);
  if (args->cq_history_list_size > domain->history_left) return refuse(args, PDLB_ST_HIST_LIST_ENTRIES_UNAVAILABLE);

  const uint16_t port_id = take_ldb_port(device, domain, any ? 0 : args->cos_id, args->cos_strict);
  struct port *port = &device->control.ports[port_id];
  begin_port(device, port, id, args->cq_depth, args->cq_depth_threshold);
  port->history_size = args->cq_history_list_size;
  port->history_base = (uint16_t)(domain->history_base + domain->history_size - domain->history_left);
  domain->history_left = (uint16_t)(domain->history_left - args->cq_history_list_size);
  if (is_v25(device)) {
    port->inflight_threshold = args->inflight_threshold & 0xFFFu;
    device->control.inflight_control = args->enable_inflight_ctrl;
  }
  args->response.id = port_id;
  return 0;
}

static int create_dir_port(struct device *device, unsigned id, struct pdlb_create_dir_port_args *args) {
  struct domain *domain = &device->control.domains[id];
  uint16_t pair = (uint16_t)(PDLB_NUM_LDB_PORTS + (uint32_t)args->queue_id);
  if (!depth_is_valid(args->cq_depth)) return refuse(args, PDLB_ST_INVALID_CQ_DEPTH);
  if (domain->started) return refuse(args, PDLB_ST_DOMAIN_STARTED);
  if (args->queue_id != -1) {
    if (find_queue(device, id, (uint32_t)args->queue_id, true) == NULL) {
      return refuse(args, PDLB_ST_INVALID_DIR_QUEUE_ID);
    }
  } else if ((pair = take_dir_pair(device, domain, args->is_producer)) == ID_NONE) {
    return refuse(args, PDLB_ST_DIR_PORTS_UNAVAILABLE);
  }
  begin_port(device, &device->control.ports[pair], id, args->cq_depth, args->cq_depth_threshold);
  args->response.id = pair - PDLB_NUM_LDB_PORTS;
  return 0;
}

static int enable_port(struct device *device, unsigned domain, void *args, bool directed, bool enable,
                       struct aftermath *after) {
  const struct pdlb_enable_dir_port_args *fields = args; /* what all four structures begin with */
  struct port *port = find_port(device, domain, fields->port_id, directed);
  if (port == NULL) return refuse(args, PDLB_ST_INVALID_PORT_ID);
  if (enable != port->enabled) port->stuck = false;
  port->enabled = enable;
  after->pump = enable;
  if (!enable) after->bell = (int)(port - device->control.ports);
  return 0;
}

static int check_port(struct device *device, unsigned domain, struct pdlb_port_args *args, bool directed) {
  const struct port *port = find_port(device, domain, args->port_id, directed);
  return port == NULL ? refuse(args, PDLB_ST_INVALID_PORT_ID) : 0;
}

static int pending_unmaps(struct device *device, unsigned domain, struct pdlb_port_args *args) {
  const struct port *port = find_port(device, domain, args->port_id, false);
  if (port == NULL) return refuse(args, PDLB_ST_INVALID_PORT_ID);
  args->response.id = port->pending_unmaps;
  return 0;
}

static int enable_weight(struct device *device, unsigned id, struct pdlb_enable_cq_weight_args *args) {
  if (!is_v25(device)) return refuse(args, PDLB_ST_FEATURE_UNAVAILABLE);
  if (device->control.domains[id].started) return refuse(args, PDLB_ST_DOMAIN_STARTED);
  struct port *port = find_port(device, id, args->port_id, false);
  if (port == NULL) return refuse(args, PDLB_ST_INVALID_PORT_ID);
  /* The driver remembers the depth in eight bits: from 256 on it is 0, and no limit will do. */
  if (args->limit == 0 || args->limit > port->weight_depth) return refuse(args, PDLB_ST_INVALID_CQ_WEIGHT_LIMIT);
  port->weight_limit = (uint16_t)args->limit;
  return 0;
}

static int enable_epoll(struct device *device, const struct domain *domain, struct pdlb_enable_cq_epoll_args *args) {
  const bool directed = args->is_ldb != 1;
  args->response.id = args->port_id;
  /* The driver does not check the port; a kernel would be at risk, this need not be. */
  struct port *port = find_port(device, (unsigned)(domain - device->control.domains), args->port_id, directed);
  if (port == NULL) return 0;
  port->event_serial = ++device->control.next_serial;
  port->event_process = args->process_id;
  port->event_fd = args->event_fd;
  return 0;
}

static int inflight_control(struct device *device, unsigned domain, struct pdlb_cq_inflight_ctrl_args *args) {
  struct port *port = find_port(device, domain, args->port_id, false);
  if (port == NULL) return -EFAULT;
  port->inflight_threshold = args->threshold & 0xFFFu;
  device->control.inflight_control = args->enable;
  return 0;
}

/* ---- the domain ---------------------------------------------------------------------------------------------- */

static int start(struct domain *domain, void *args, struct aftermath *after) {
  if (domain->started) return refuse(args, PDLB_ST_DOMAIN_STARTED);
  domain->started = true;
  after->pump = true;
  return 0;
}

static int stop(struct domain *domain, void *args, struct aftermath *after) {
  if (!domain->started) return refuse(args, PDLB_ST_DOMAIN_NOT_STARTED);
  domain->started = false;
  after->drain = true;
  return 0;
}

static int queue_depth(struct device *device, unsigned domain, struct pdlb_queue_depth_args *args, bool directed) {
  const struct queue *queue = find_queue(device, domain, args->queue_id, directed);
  if (queue == NULL) return refuse(args, PDLB_ST_INVALID_QID);
  args->response.id = queue->queued;
  return 0;
}

static int user_alert(struct device *device, unsigned domain, const struct pdlb_enqueue_domain_alert_args *args,
                      struct aftermath *after) {
  raise_alert(device, domain, PDLB_ALERT_USER, args->aux_alert_data);
  after->alert = true;
  return 0;
}

int domain_command(struct device *device, unsigned id, unsigned number, void *args, struct aftermath *after) {
  struct domain *domain = &device->control.domains[id];
  int result;
  switch (number) {
    case PDLB_COMMAND_CREATE_LDB_QUEUE: return create_ldb_queue(device, id, args);
    case PDLB_COMMAND_CREATE_DIR_QUEUE: return create_dir_queue(device, id, args);
    case PDLB_COMMAND_CREATE_LDB_PORT: return create_ldb_port(device, id, args);
    case PDLB_COMMAND_CREATE_DIR_PORT: return create_dir_port(device, id, args);
    case PDLB_COMMAND_START_DOMAIN: return start(domain, args, after);
    case PDLB_COMMAND_MAP_QID:
      result = link_queue(device, id, args);
      after->pump = result == 0;
      return result;
    case PDLB_COMMAND_UNMAP_QID:
      result = unlink_queue(device, id, args);
      after->pump = result == 0;
      return result;
    case PDLB_COMMAND_ENABLE_LDB_PORT: return enable_port(device, id, args, false, true, after);
    case PDLB_COMMAND_ENABLE_DIR_PORT: return enable_port(device, id, args, true, true, after);
    case PDLB_COMMAND_DISABLE_LDB_PORT: return enable_port(device, id, args, false, false, after);
    case PDLB_COMMAND_DISABLE_DIR_PORT: return enable_port(device, id, args, true, false, after);
    case PDLB_COMMAND_ENQUEUE_DOMAIN_ALERT: return user_alert(device, id, args, after);
    case PDLB_COMMAND_GET_LDB_QUEUE_DEPTH: return queue_depth(device, id, args, false);
    case PDLB_COMMAND_GET_DIR_QUEUE_DEPTH: return queue_depth(device, id, args, true);
    case PDLB_COMMAND_PENDING_PORT_UNMAPS: return pending_unmaps(device, id, args);
    case PDLB_COMMAND_GET_LDB_PORT_PP_FD:
    case PDLB_COMMAND_GET_LDB_PORT_CQ_FD: return check_port(device, id, args, false);
    case PDLB_COMMAND_GET_DIR_PORT_PP_FD:
    case PDLB_COMMAND_GET_DIR_PORT_CQ_FD: return check_port(device, id, args, true);
    case PDLB_COMMAND_ENABLE_CQ_WEIGHT: return enable_weight(device, id, args);
    case PDLB_COMMAND_ENABLE_CQ_EPOLL: return enable_epoll(device, domain, args);
    case PDLB_COMMAND_SET_CQ_INFLIGHT_CTRL: return inflight_control(device, id, args);
    case PDLB_COMMAND_STOP_DOMAIN: return stop(domain, args, after);
    default: return -ENOTTY;
  }
}
