/* Commands on a device's descriptor. */
#include "internal.h"

static int refuse_with_code(struct pdlb_response *response) {
  response->id = (uint32_t)-EINVAL;
  return -EINVAL;
}

static uint64_t ldb_queue_register(const struct queue *queue, uint32_t type) {
  uint32_t atomic = 0;
  for (unsigned level = 0; level < NUM_LEVELS; level++) atomic += queue->atomic[level].count;
  switch (type) {
    case PDLB_XSTAT_QID_LDB_INFLIGHT_COUNT: return queue->inflight;
    case PDLB_XSTAT_QID_LDB_INFLIGHT_LIMIT: return queue->inflight_limit;
    case PDLB_XSTAT_QID_ATM_ACTIVE: return atomic;
    case PDLB_XSTAT_QID_ATM_DEPTH_THRESHOLD:
    case PDLB_XSTAT_QID_NALB_DEPTH_THRESHOLD: return queue->depth_threshold;
    case PDLB_XSTAT_QID_LDB_ENQUEUE_COUNT: return queue->queued - atomic;
    default: return 0;
  }
}

static uint32_t depth_select(const struct port *port) {
  uint32_t code = 1;
  if (!port->configured) return 0;
  for (uint32_t depth = 8; depth < port->cq_depth; depth *= 2) code++;
  return code;
}

static uint64_t ldb_port_register(const struct port *port, uint32_t type) {
  /* A ring of fewer than eight entries is one of eight of which some are always taken. */
  const uint32_t taken = port->configured && port->cq_depth < PDLB_MIN_CQ_RING ? PDLB_MIN_CQ_RING - port->cq_depth : 0;
  switch (type) {
    case PDLB_XSTAT_CQ_LDB_DEPTH: return port->tokens;
    case PDLB_XSTAT_CQ_LDB_TOKEN_COUNT: return port->tokens + taken;
    case PDLB_XSTAT_CQ_LDB_TOKEN_DEPTH_SELECT: return depth_select(port);
    case PDLB_XSTAT_CQ_LDB_INFLIGHT_COUNT: return port->held_count;
    default: return 0;
  }
}

static uint64_t dir_register(const struct port *port, const struct queue *queue, uint32_t type) {
  switch (type) {
    case PDLB_XSTAT_CQ_DIR_TOKEN_DEPTH_SELECT: return depth_select(port);
    case PDLB_XSTAT_CQ_DIR_DEPTH: return port->tokens;
    case PDLB_XSTAT_QID_DIR_DEPTH_THRESHOLD: return queue->depth_threshold;
    case PDLB_XSTAT_QID_DIR_ENQUEUE_COUNT: return queue->queued;
    default: return 0;
  }
}

static int read_register(const struct device *device, struct pdlb_xstats_args *args) {
  const struct control *control = &device->control;
  const uint32_t base = args->xstats_type >> 16;
  const uint32_t id = args->xstats_id;
  if (base >= 4) return -EINVAL;
  if (base == 1 && id < PDLB_NUM_LDB_QUEUES) {
    args->xstats_val = ldb_queue_register(&control->queues[id], args->xstats_type);
  } else if (base == 2 && id < PDLB_NUM_LDB_PORTS) {
    args->xstats_val = ldb_port_register(&control->ports[id], args->xstats_type);
  } else if (base == 3 && id < control->num_dir_ports) {
    args->xstats_val = dir_register(&control->ports[PDLB_NUM_LDB_PORTS + id],
                                    &control->queues[PDLB_NUM_LDB_QUEUES + id], args->xstats_type);
  }
  return 0; /* anything else leaves the caller's value */
}

static int report_group(const struct device *device, struct pdlb_get_sn_allocation_args *args, bool occupancy) {
  if (args->group >= PDLB_NUM_SN_GROUPS) return refuse_with_code(&args->response);
  const struct sn_group *group = &device->control.sn_groups[args->group];
  const uint32_t slots = PDLB_SNS_PER_GROUP / group->sns_per_queue;
  args->response.id = occupancy ? slots - group->slots_free : group->sns_per_queue;
  return 0;
}

int device_command(struct device *device, unsigned number, void *args) {
  struct pdlb_response *response = args;
  switch (number) {
    case PDLB_COMMAND_GET_DEVICE_VERSION: response->id = device->control.version << 8; return 0;
    case PDLB_COMMAND_CREATE_SCHED_DOMAIN: return resources_create_domain(device, args);
    case PDLB_COMMAND_GET_NUM_RESOURCES: resources_report(device, args); return 0;
    case PDLB_COMMAND_SET_SN_ALLOCATION: {
      const struct pdlb_set_sn_allocation_args *set = args;
      return set_sn_allocation(device, set->group, set->num);
    }
    case PDLB_COMMAND_GET_SN_ALLOCATION: return report_group(device, args, false);
    case PDLB_COMMAND_SET_COS_BW: {
      const struct pdlb_set_cos_bw_args *set = args;
      return set_cos_bandwidth(device, set->cos_id, set->bandwidth);
    }
    case PDLB_COMMAND_GET_COS_BW: {
      const struct pdlb_get_cos_bw_args *get = args;
      if (get->cos_id >= PDLB_NUM_COS) return refuse_with_code(response);
      response->id = device->control.cos_bandwidth[get->cos_id];
      return 0;
    }
    case PDLB_COMMAND_GET_SN_OCCUPANCY: return report_group(device, args, true);
    case PDLB_COMMAND_QUERY_CQ_POLL_MODE: response->id = PDLB_POLL_MODE_SPARSE; return 0;
    case PDLB_COMMAND_GET_XSTATS: return read_register(device, args);
    default: return -ENOTTY;
  }
}
