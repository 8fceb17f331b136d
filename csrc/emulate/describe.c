#include "describe.h"

#include <string.h>

#include "emulate.h"

/* ---- text ----------------------------------------------------------------------------------------------------- */

struct text text_in(char *buffer, size_t size) {
  buffer[0] = 0;
  return (struct text){buffer, buffer + size - 1};
}

void text_put(struct text *text, const char *string) {
  while (*string != 0 && text->at < text->end) *text->at++ = *string++;
  *text->at = 0;
}

void text_put_unsigned(struct text *text, uint64_t number) {
  char digits[21];
  size_t at = sizeof digits - 1;
  digits[at] = 0;
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  text_put(text, digits + at);
}

void text_put_number(struct text *text, int64_t number) {
  if (number < 0) text_put(text, "-");
  text_put_unsigned(text, number < 0 ? 0u - (uint64_t)number : (uint64_t)number);
}

void text_put_name(struct text *text, const char *name) {
  text_put(text, "\"");
  text_put(text, name);
  text_put(text, "\"");
}

static void put_key(struct text *text, bool *first, const char *name) {
  if (!*first) text_put(text, ",");
  *first = false;
  text_put_name(text, name);
  text_put(text, ":");
}

/* ---- structures ----------------------------------------------------------------------------------------------- */

struct field {
  const char *name;
  size_t offset;
  size_t width;
  size_t count; /* 0: not an array */
  bool is_signed;
};

#define ONE(type, member) {#member, offsetof(type, member), sizeof((type *)0)->member, 0, false}
#define SIGNED(type, member) {#member, offsetof(type, member), sizeof((type *)0)->member, 0, true}
#define MANY(type, member)                                        \
  {#member, offsetof(type, member), sizeof((type *)0)->member[0], \
   sizeof((type *)0)->member / sizeof((type *)0)->member[0], false}
#define END {NULL, 0, 0, 0, false}

#define T struct pdlb_create_sched_domain_args
static const struct field create_domain[] = {
    ONE(T, domain_fd),
    ONE(T, num_ldb_queues),
    ONE(T, num_ldb_ports),
    MANY(T, num_cos_ldb_ports),
    ONE(T, num_dir_ports),
    ONE(T, num_atomic_inflights),
    ONE(T, num_hist_list_entries),
    ONE(T, num_ldb_credits),
    ONE(T, num_dir_credits),
    ONE(T, cos_strict),
    MANY(T, num_sn_slots),
    MANY(T, pcore_mask),
    MANY(T, core_mask),
    END,
};
#undef T
#define T struct pdlb_get_num_resources_args
static const struct field resources[] = {
    ONE(T, num_sched_domains),     ONE(T, num_ldb_queues),
    ONE(T, num_ldb_ports),         MANY(T, num_cos_ldb_ports),
    ONE(T, num_dir_ports),         ONE(T, num_atomic_inflights),
    ONE(T, num_hist_list_entries), ONE(T, max_contiguous_hist_list_entries),
    ONE(T, num_ldb_credits),       ONE(T, num_dir_credits),
    MANY(T, num_sn_slots),         END,
};
#undef T
static const struct field nothing[] = {END};
static const struct field group[] = {ONE(struct pdlb_get_sn_allocation_args, group), END};
static const struct field set_group[] = {ONE(struct pdlb_set_sn_allocation_args, group),
                                         ONE(struct pdlb_set_sn_allocation_args, num), END};
static const struct field get_cos[] = {ONE(struct pdlb_get_cos_bw_args, cos_id), END};
static const struct field set_cos[] = {ONE(struct pdlb_set_cos_bw_args, cos_id),
                                       ONE(struct pdlb_set_cos_bw_args, bandwidth), END};
static const struct field xstats[] = {ONE(struct pdlb_xstats_args, xstats_val),
                                      ONE(struct pdlb_xstats_args, xstats_type),
                                      ONE(struct pdlb_xstats_args, xstats_id), END};
#define T struct pdlb_create_ldb_queue_args
static const struct field ldb_queue[] = {ONE(T, num_sequence_numbers), ONE(T, num_qid_inflights),
                                         ONE(T, num_atomic_inflights), ONE(T, lock_id_comp_level),
                                         ONE(T, depth_threshold),      END};
#undef T
static const struct field dir_queue[] = {SIGNED(struct pdlb_create_dir_queue_args, port_id),
                                         ONE(struct pdlb_create_dir_queue_args, depth_threshold), END};
#define T struct pdlb_create_ldb_port_args
static const struct field ldb_port[] = {
    ONE(T, cq_depth),   ONE(T, cq_depth_threshold),   ONE(T, cq_history_list_size), ONE(T, cos_id),
    ONE(T, cos_strict), ONE(T, enable_inflight_ctrl), ONE(T, inflight_threshold),   END,
};
#undef T
#define T struct pdlb_create_dir_port_args
static const struct field dir_port[] = {ONE(T, cq_depth), ONE(T, cq_depth_threshold), SIGNED(T, queue_id),
                                        ONE(T, is_producer), END};
#undef T
static const struct field map[] = {ONE(struct pdlb_map_qid_args, port_id), ONE(struct pdlb_map_qid_args, qid),
                                   ONE(struct pdlb_map_qid_args, priority), END};
static const struct field unmap[] = {ONE(struct pdlb_unmap_qid_args, port_id), ONE(struct pdlb_unmap_qid_args, qid),
                                     END};
static const struct field port[] = {ONE(struct pdlb_port_args, port_id), END};
#define T struct pdlb_block_on_cq_interrupt_args
static const struct field block[] = {ONE(T, port_id), ONE(T, is_ldb), ONE(T, arm), ONE(T, cq_gen), ONE(T, cq_va), END};
#undef T
static const struct field alert[] = {ONE(struct pdlb_enqueue_domain_alert_args, aux_alert_data), END};
static const struct field depth[] = {ONE(struct pdlb_queue_depth_args, queue_id), END};
static const struct field weight[] = {ONE(struct pdlb_enable_cq_weight_args, port_id),
                                      ONE(struct pdlb_enable_cq_weight_args, limit), END};
#define T struct pdlb_enable_cq_epoll_args
static const struct field epoll[] = {ONE(T, port_id), ONE(T, process_id), ONE(T, event_fd), ONE(T, is_ldb), END};
#undef T
#define T struct pdlb_cq_inflight_ctrl_args
static const struct field inflight[] = {ONE(T, port_id), ONE(T, enable), ONE(T, threshold), END};
#undef T

static const struct field *const device_fields[] = {
    [PDLB_COMMAND_GET_DEVICE_VERSION] = nothing,  [PDLB_COMMAND_CREATE_SCHED_DOMAIN] = create_domain,
    [PDLB_COMMAND_GET_NUM_RESOURCES] = resources, [PDLB_COMMAND_SET_SN_ALLOCATION] = set_group,
    [PDLB_COMMAND_GET_SN_ALLOCATION] = group,     [PDLB_COMMAND_SET_COS_BW] = set_cos,
    [PDLB_COMMAND_GET_COS_BW] = get_cos,          [PDLB_COMMAND_GET_SN_OCCUPANCY] = group,
    [PDLB_COMMAND_QUERY_CQ_POLL_MODE] = nothing,  [PDLB_COMMAND_GET_XSTATS] = xstats,
};

static const struct field *const domain_fields[] = {
    [PDLB_COMMAND_CREATE_LDB_QUEUE] = ldb_queue,
    [PDLB_COMMAND_CREATE_DIR_QUEUE] = dir_queue,
    [PDLB_COMMAND_CREATE_LDB_PORT] = ldb_port,
    [PDLB_COMMAND_CREATE_DIR_PORT] = dir_port,
    [PDLB_COMMAND_START_DOMAIN] = nothing,
    [PDLB_COMMAND_MAP_QID] = map,
    [PDLB_COMMAND_UNMAP_QID] = unmap,
    [PDLB_COMMAND_ENABLE_LDB_PORT] = port,
    [PDLB_COMMAND_ENABLE_DIR_PORT] = port,
    [PDLB_COMMAND_DISABLE_LDB_PORT] = port,
    [PDLB_COMMAND_DISABLE_DIR_PORT] = port,
    [PDLB_COMMAND_BLOCK_ON_CQ_INTERRUPT] = block,
    [PDLB_COMMAND_ENQUEUE_DOMAIN_ALERT] = alert,
    [PDLB_COMMAND_GET_LDB_QUEUE_DEPTH] = depth,
    [PDLB_COMMAND_GET_DIR_QUEUE_DEPTH] = depth,
    [PDLB_COMMAND_PENDING_PORT_UNMAPS] = port,
    [PDLB_COMMAND_GET_LDB_PORT_PP_FD] = port,
    [PDLB_COMMAND_GET_LDB_PORT_CQ_FD] = port,
    [PDLB_COMMAND_GET_DIR_PORT_PP_FD] = port,
    [PDLB_COMMAND_GET_DIR_PORT_CQ_FD] = port,
    [PDLB_COMMAND_ENABLE_CQ_WEIGHT] = weight,
    [PDLB_COMMAND_ENABLE_CQ_EPOLL] = epoll,
    [PDLB_COMMAND_SET_CQ_INFLIGHT_CTRL] = inflight,
    [PDLB_COMMAND_STOP_DOMAIN] = nothing,
};

static void put_value(struct text *text, const struct field *field, const char *at) {
  uint64_t value = 0;
  memcpy(&value, at, field->width); /* little-endian, as the structures are */
  if (field->is_signed) {
    text_put_number(text, (int32_t)value);
  } else {
    text_put_unsigned(text, value);
  }
}

static void put_field(struct text *text, const struct field *field, const char *at) {
  if (field->count == 0) {
    put_value(text, field, at);
    return;
  }
  for (size_t i = 0; i < field->count; i++) {
    text_put(text, i == 0 ? "[" : ",");
    put_value(text, field, at + i * field->width);
  }
  text_put(text, "]");
}

void describe_arguments(struct text *text, bool is_device, unsigned number, const void *args) {
  bool first = true;
  text_put(text, "{");
  for (const struct field *field = is_device ? device_fields[number] : domain_fields[number]; field->name != NULL;
       field++) {
    put_key(text, &first, field->name);
    put_field(text, field, (const char *)args + field->offset);
  }
  text_put(text, "}");
}

const char *describe_status(uint32_t status) {
  static const char *const names[] = {
#define NAME(name, meaning) #name,
      PDLB_STATUS_LIST(NAME)
#undef NAME
  };
  return status < PDLB_STATUS_COUNT ? names[status] : NULL;
}

/* ---- elements ------------------------------------------------------------------------------------------------- */

void describe_port(struct text *text, unsigned number) {
  text_put(text, number < PDLB_NUM_LDB_PORTS ? "\"ldb " : "\"dir ");
  text_put_unsigned(text, number < PDLB_NUM_LDB_PORTS ? number : number - PDLB_NUM_LDB_PORTS);
  text_put(text, "\"");
}

static const char *command_name(unsigned code) {
  switch (code) {
#define CASE(value, name) \
  case value: return #name;
    PDLB_QE_COMMAND_LIST(CASE)
#undef CASE
    default: return "ILLEGAL";
  }
}

static void put_element(struct text *text, bool *first, const struct pdlb_qe *qe) {
  static const char *const types[] = {"atomic", "unordered", "ordered", "directed"};
  put_key(text, first, "queue");
  text_put_unsigned(text, qe->qid);
  put_key(text, first, "type");
  text_put_name(text, types[qe->sched & 3]);
  put_key(text, first, "priority");
  text_put_unsigned(text, qe->sched >> 2 & 7u);
  put_key(text, first, "flow");
  text_put_unsigned(text, qe->flow);
  put_key(text, first, "data");
  text_put_unsigned(text, qe->data);
  put_key(text, first, "opaque");
  text_put_unsigned(text, qe->opaque);
}

void describe_stored(struct text *text, const struct pdlb_qe *qe) {
  const unsigned command = qe->command & PDLB_QE_COMMAND_MASK;
  bool first = true;
  text_put(text, "{");
  put_key(text, &first, "command");
  text_put_name(text, command_name(command));
  if (command & PDLB_QE_VALID) {
    put_element(text, &first, qe);
  } else if (command & PDLB_QE_TOKEN && command != PDLB_QE_ARM) {
    put_key(text, &first, "tokens");
    text_put_unsigned(text, (qe->flow & PDLB_QE_TOKEN_COUNT_MASK) + 1u);
  }
  text_put(text, "}");
}

void describe_scheduled(struct text *text, const struct pdlb_qe *qe) {
  bool first = true;
  text_put(text, "{");
  put_element(text, &first, qe);
  put_key(text, &first, "generation");
  text_put_unsigned(text, qe->command & PDLB_QE_GEN);
  put_key(text, &first, "depth");
  text_put_unsigned(text, (qe->command & PDLB_QE_DEPTH_MASK) >> PDLB_QE_DEPTH_SHIFT);
  text_put(text, "}");
}
