/* The dlb2 kernel driver's interface, release 8.8.0, in our own words: requests, argument structures, statuses, and
 * the layout of what is mapped. Facts only; whoever includes this adds the meaning.
 *
 * Integers are little-endian and naturally aligned, nothing is packed. The driver dispatches on the low eight bits of
 * a request alone and copies a structure of its own size in and out, whatever the request's direction and size say.
 */
#ifndef PDLB_ABI_H
#define PDLB_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define PDLB_ABI_ASSERT(condition) static_assert(condition, #condition)
#else
#define PDLB_ABI_ASSERT(condition) _Static_assert(condition, #condition)
#endif

#define PDLB_DRIVER_VERSION "8.8.0"

/* ---- what exists --------------------------------------------------------------------------------------------- */

#define PDLB_NUM_DOMAINS 32u
#define PDLB_NUM_LDB_QUEUES 32u
#define PDLB_NUM_LDB_PORTS 64u
#define PDLB_NUM_COS 4u
#define PDLB_PORTS_PER_COS 16u
#define PDLB_NUM_DIR_PORTS_V20 64u
#define PDLB_NUM_DIR_PORTS_V25 96u
#define PDLB_NUM_LDB_CREDITS_V20 8192u
#define PDLB_NUM_DIR_CREDITS_V20 4096u
#define PDLB_NUM_CREDITS_V25 16384u
#define PDLB_NUM_HISTORY_ENTRIES 2048u
#define PDLB_NUM_ATOMIC_INFLIGHTS 2048u
#define PDLB_MAX_QID_INFLIGHTS 2048u
#define PDLB_NUM_SN_GROUPS 2u
#define PDLB_SNS_PER_GROUP 1024u
#define PDLB_MIN_SNS_PER_QUEUE 64u
#define PDLB_QIDS_PER_CQ 8u
#define PDLB_QID_PRIORITIES 8u
#define PDLB_MAX_CQ_DEPTH 1024u
#define PDLB_MIN_CQ_RING 8u /* slots that a consumer queue has at least, whatever its depth */
#define PDLB_COS_ANY 255u
#define PDLB_NUM_ALERTS 256u

/* GET_DEVICE_VERSION answers version << 8 | revision. */
#define PDLB_DEVICE_V20 2u
#define PDLB_DEVICE_V25 3u

#define PDLB_POLL_MODE_STANDARD 0u
#define PDLB_POLL_MODE_SPARSE 1u

/* ---- statuses ------------------------------------------------------------------------------------------------ */

/* X(name, what it means to a person) in the order of their codes. */
#define PDLB_STATUS_LIST(X)                                                                       \
  X(SUCCESS, "no detail")                                                                         \
  X(NAME_EXISTS, "the name exists")                                                               \
  X(DOMAIN_UNAVAILABLE, "no scheduling domain is free")                                           \
  X(LDB_PORTS_UNAVAILABLE, "too few load-balanced ports are free")                                \
  X(DIR_PORTS_UNAVAILABLE, "too few directed ports are free")                                     \
  X(LDB_QUEUES_UNAVAILABLE, "too few load-balanced queues are free")                              \
  X(LDB_CREDITS_UNAVAILABLE, "too few load-balanced credits are free")                            \
  X(DIR_CREDITS_UNAVAILABLE, "too few directed credits are free")                                 \
  X(SEQUENCE_NUMBERS_UNAVAILABLE, "no slot with so many sequence numbers is free")                \
  X(INVALID_DOMAIN_ID, "there is no such domain")                                                 \
  X(INVALID_QID_INFLIGHT_ALLOCATION, "the queue's limit of elements in flight is out of range")   \
  X(ATOMIC_INFLIGHTS_UNAVAILABLE, "too little storage for atomic elements is free")               \
  X(HIST_LIST_ENTRIES_UNAVAILABLE, "too few contiguous history list entries are free")            \
  X(INVALID_LDB_QUEUE_ID, "there is no such load-balanced queue")                                 \
  X(INVALID_CQ_DEPTH, "the consumer queue's depth is not a power of two from 1 to 1024")          \
  X(INVALID_CQ_VIRT_ADDR, "the consumer queue's memory is not aligned")                           \
  X(INVALID_PORT_ID, "there is no such port in this domain")                                      \
  X(INVALID_QID, "there is no such queue in this domain")                                         \
  X(INVALID_PRIORITY, "the priority is above 7")                                                  \
  X(NO_QID_SLOTS_AVAILABLE, "the port is linked to eight queues already")                         \
  X(INVALID_DIR_QUEUE_ID, "there is no such directed queue in this domain")                       \
  X(DIR_QUEUES_UNAVAILABLE, "no directed queue is left in this domain")                           \
  X(DOMAIN_NOT_CONFIGURED, "the domain is not configured")                                        \
  X(INTERNAL_ERROR, "internal error")                                                             \
  X(DOMAIN_IN_USE, "the domain is in use")                                                        \
  X(DOMAIN_NOT_FOUND, "there is no such domain")                                                  \
  X(QUEUE_NOT_FOUND, "there is no such queue")                                                    \
  X(DOMAIN_STARTED, "the domain is started")                                                      \
  X(DOMAIN_NOT_STARTED, "the domain is not started")                                              \
  X(LDB_PORT_REQUIRED_FOR_LDB_QUEUES, "load-balanced queues need a load-balanced port")           \
  X(DOMAIN_RESET_FAILED, "an earlier reset of a domain failed; the device needs a reset")         \
  X(MBOX_ERROR, "the physical function did not answer")                                           \
  X(INVALID_HIST_LIST_DEPTH, "a load-balanced port needs at least one history list entry")        \
  X(NO_MEMORY, "no memory for the consumer queue")                                                \
  X(INVALID_LOCK_ID_COMP_LEVEL, "the flow compression level is not one of those that exist")      \
  X(INVALID_COS_ID, "there is no such class of service")                                          \
  X(INVALID_CQ_WEIGHT_LIMIT, "the weight limit is zero or above the depth of the consumer queue") \
  X(SN_SLOTS_UNAVAILABLE, "too few sequence number slots are free")                               \
  X(FEATURE_UNAVAILABLE, "this device does not have the feature")

enum pdlb_status {
#define PDLB_STATUS_ENUM(name, text) PDLB_ST_##name,
  PDLB_STATUS_LIST(PDLB_STATUS_ENUM)
#undef PDLB_STATUS_ENUM
      PDLB_STATUS_COUNT
};
PDLB_ABI_ASSERT(PDLB_ST_DOMAIN_NOT_CONFIGURED == 22);
PDLB_ABI_ASSERT(PDLB_ST_DOMAIN_RESET_FAILED == 30);
PDLB_ABI_ASSERT(PDLB_ST_FEATURE_UNAVAILABLE == 38);

/* ---- argument structures ------------------------------------------------------------------------------------- */

struct pdlb_response {
  uint32_t status;
  uint32_t id;
};

struct pdlb_get_device_version_args {
  struct pdlb_response response;
};

struct pdlb_create_sched_domain_args {
  struct pdlb_response response;
  uint32_t domain_fd;
  uint32_t padding0;
  uint32_t num_ldb_queues;
  uint32_t num_ldb_ports;
  uint32_t num_cos_ldb_ports[4];
  uint32_t num_dir_ports;
  uint32_t num_atomic_inflights;
  uint32_t num_hist_list_entries;
  uint32_t num_ldb_credits;
  uint32_t num_dir_credits;
  uint8_t cos_strict;
  uint8_t padding1[3];
  uint32_t num_sn_slots[2];
  uint64_t pcore_mask[2];
  uint64_t core_mask[2];
};

struct pdlb_get_num_resources_args {
  struct pdlb_response response;
  uint32_t num_sched_domains;
  uint32_t num_ldb_queues;
  uint32_t num_ldb_ports;
  uint32_t num_cos_ldb_ports[4];
  uint32_t num_dir_ports;
  uint32_t num_atomic_inflights;
  uint32_t num_hist_list_entries;
  uint32_t max_contiguous_hist_list_entries;
  uint32_t num_ldb_credits;
  uint32_t num_dir_credits;
  uint32_t num_sn_slots[2];
};

struct pdlb_set_sn_allocation_args {
  struct pdlb_response response;
  uint32_t group;
  uint32_t num;
};

struct pdlb_get_sn_allocation_args {
  struct pdlb_response response;
  uint32_t group;
  uint32_t padding0;
};

struct pdlb_set_cos_bw_args {
  struct pdlb_response response;
  uint32_t cos_id;
  uint32_t bandwidth;
};

struct pdlb_get_cos_bw_args {
  struct pdlb_response response;
  uint32_t cos_id;
  uint32_t padding0;
};

struct pdlb_get_sn_occupancy_args {
  struct pdlb_response response;
  uint32_t group;
  uint32_t padding0;
};

struct pdlb_query_cq_poll_mode_args {
  struct pdlb_response response;
};

struct pdlb_xstats_args {
  struct pdlb_response response;
  uint64_t xstats_val;
  uint32_t xstats_type;
  uint32_t xstats_id;
};

struct pdlb_create_ldb_queue_args {
  struct pdlb_response response;
  uint32_t num_sequence_numbers;
  uint32_t num_qid_inflights;
  uint32_t num_atomic_inflights;
  uint32_t lock_id_comp_level;
  uint32_t depth_threshold;
  uint32_t padding0;
};

struct pdlb_create_dir_queue_args {
  struct pdlb_response response;
  int32_t port_id;
  uint32_t depth_threshold;
};

struct pdlb_create_ldb_port_args {
  struct pdlb_response response;
  uint16_t cq_depth;
  uint16_t cq_depth_threshold;
  uint16_t cq_history_list_size;
  uint8_t cos_id;
  uint8_t cos_strict;
  uint8_t enable_inflight_ctrl;
  uint16_t inflight_threshold;
};

struct pdlb_create_dir_port_args {
  struct pdlb_response response;
  uint16_t cq_depth;
  uint16_t cq_depth_threshold;
  int32_t queue_id;
  uint8_t is_producer;
};

struct pdlb_start_domain_args {
  struct pdlb_response response;
};

struct pdlb_stop_domain_args {
  struct pdlb_response response;
};

struct pdlb_map_qid_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint32_t qid;
  uint32_t priority;
  uint32_t padding0;
};

struct pdlb_unmap_qid_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint32_t qid;
};

/* ENABLE_LDB_PORT, DISABLE_LDB_PORT, DISABLE_DIR_PORT, PENDING_PORT_UNMAPS and the four commands that make a
 * descriptor for a port's memory. */
struct pdlb_port_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint32_t padding0;
};

/* ENABLE_DIR_PORT alone has no padding. */
struct pdlb_enable_dir_port_args {
  struct pdlb_response response;
  uint32_t port_id;
};

struct pdlb_block_on_cq_interrupt_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint8_t is_ldb;
  uint8_t arm;
  uint8_t cq_gen;
  uint8_t padding0;
  uint64_t cq_va;
};

struct pdlb_enqueue_domain_alert_args {
  struct pdlb_response response;
  uint64_t aux_alert_data;
};

struct pdlb_queue_depth_args {
  struct pdlb_response response;
  uint32_t queue_id;
  uint32_t padding0;
};

struct pdlb_enable_cq_weight_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint32_t limit;
};

struct pdlb_enable_cq_epoll_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint32_t process_id;
  uint32_t event_fd;
  uint8_t is_ldb;
  uint8_t padding0[3];
};

struct pdlb_cq_inflight_ctrl_args {
  struct pdlb_response response;
  uint32_t port_id;
  uint16_t enable;
  uint16_t threshold;
};

PDLB_ABI_ASSERT(offsetof(struct pdlb_create_sched_domain_args, num_dir_ports) == 40);
PDLB_ABI_ASSERT(offsetof(struct pdlb_create_sched_domain_args, cos_strict) == 60);
PDLB_ABI_ASSERT(offsetof(struct pdlb_create_sched_domain_args, num_sn_slots) == 64);
PDLB_ABI_ASSERT(offsetof(struct pdlb_create_sched_domain_args, core_mask) == 88);
PDLB_ABI_ASSERT(offsetof(struct pdlb_get_num_resources_args, max_contiguous_hist_list_entries) == 48);
PDLB_ABI_ASSERT(offsetof(struct pdlb_get_num_resources_args, num_sn_slots) == 60);
PDLB_ABI_ASSERT(offsetof(struct pdlb_xstats_args, xstats_type) == 16);
PDLB_ABI_ASSERT(offsetof(struct pdlb_create_ldb_port_args, enable_inflight_ctrl) == 16);
PDLB_ABI_ASSERT(offsetof(struct pdlb_create_ldb_port_args, inflight_threshold) == 18);
PDLB_ABI_ASSERT(offsetof(struct pdlb_create_dir_port_args, is_producer) == 16);
PDLB_ABI_ASSERT(offsetof(struct pdlb_block_on_cq_interrupt_args, cq_va) == 16);
PDLB_ABI_ASSERT(offsetof(struct pdlb_enable_cq_epoll_args, is_ldb) == 20);

/* ---- commands ------------------------------------------------------------------------------------------------ */

/* X(number, NAME, direction, size, argument structure). Directions as in a request: 2 read, 3 read and write. */
#define PDLB_DEVICE_COMMAND_LIST(X)                                       \
  X(0, GET_DEVICE_VERSION, 2, 8, struct pdlb_get_device_version_args)     \
  X(1, CREATE_SCHED_DOMAIN, 3, 104, struct pdlb_create_sched_domain_args) \
  X(2, GET_NUM_RESOURCES, 2, 68, struct pdlb_get_num_resources_args)      \
  X(5, SET_SN_ALLOCATION, 3, 16, struct pdlb_set_sn_allocation_args)      \
  X(6, GET_SN_ALLOCATION, 3, 16, struct pdlb_get_sn_allocation_args)      \
  X(7, SET_COS_BW, 3, 16, struct pdlb_set_cos_bw_args)                    \
  X(8, GET_COS_BW, 3, 16, struct pdlb_get_cos_bw_args)                    \
  X(9, GET_SN_OCCUPANCY, 3, 16, struct pdlb_get_sn_occupancy_args)        \
  X(10, QUERY_CQ_POLL_MODE, 2, 8, struct pdlb_query_cq_poll_mode_args)    \
  X(11, GET_XSTATS, 3, 24, struct pdlb_xstats_args)

#define PDLB_DOMAIN_COMMAND_LIST(X)                                           \
  X(0, CREATE_LDB_QUEUE, 3, 32, struct pdlb_create_ldb_queue_args)            \
  X(1, CREATE_DIR_QUEUE, 3, 16, struct pdlb_create_dir_queue_args)            \
  X(2, CREATE_LDB_PORT, 3, 20, struct pdlb_create_ldb_port_args)              \
  X(3, CREATE_DIR_PORT, 3, 20, struct pdlb_create_dir_port_args)              \
  X(4, START_DOMAIN, 2, 8, struct pdlb_start_domain_args)                     \
  X(5, MAP_QID, 3, 24, struct pdlb_map_qid_args)                              \
  X(6, UNMAP_QID, 3, 16, struct pdlb_unmap_qid_args)                          \
  X(7, ENABLE_LDB_PORT, 3, 16, struct pdlb_port_args)                         \
  X(8, ENABLE_DIR_PORT, 3, 12, struct pdlb_enable_dir_port_args)              \
  X(9, DISABLE_LDB_PORT, 3, 16, struct pdlb_port_args)                        \
  X(10, DISABLE_DIR_PORT, 3, 16, struct pdlb_port_args)                       \
  X(11, BLOCK_ON_CQ_INTERRUPT, 3, 24, struct pdlb_block_on_cq_interrupt_args) \
  X(12, ENQUEUE_DOMAIN_ALERT, 3, 16, struct pdlb_enqueue_domain_alert_args)   \
  X(13, GET_LDB_QUEUE_DEPTH, 3, 16, struct pdlb_queue_depth_args)             \
  X(14, GET_DIR_QUEUE_DEPTH, 3, 16, struct pdlb_queue_depth_args)             \
  X(15, PENDING_PORT_UNMAPS, 3, 16, struct pdlb_port_args)                    \
  X(16, GET_LDB_PORT_PP_FD, 3, 16, struct pdlb_port_args)                     \
  X(17, GET_LDB_PORT_CQ_FD, 3, 16, struct pdlb_port_args)                     \
  X(18, GET_DIR_PORT_PP_FD, 3, 16, struct pdlb_port_args)                     \
  X(19, GET_DIR_PORT_CQ_FD, 3, 16, struct pdlb_port_args)                     \
  X(20, ENABLE_CQ_WEIGHT, 3, 16, struct pdlb_enable_cq_weight_args)           \
  X(21, ENABLE_CQ_EPOLL, 3, 24, struct pdlb_enable_cq_epoll_args)             \
  X(22, SET_CQ_INFLIGHT_CTRL, 3, 16, struct pdlb_cq_inflight_ctrl_args)       \
  X(23, STOP_DOMAIN, 2, 8, struct pdlb_stop_domain_args)

enum pdlb_command {
#define PDLB_COMMAND_ENUM(number, name, direction, size, type) PDLB_COMMAND_##name = number,
  PDLB_DEVICE_COMMAND_LIST(PDLB_COMMAND_ENUM) PDLB_DOMAIN_COMMAND_LIST(PDLB_COMMAND_ENUM)
#undef PDLB_COMMAND_ENUM
};

/* The 32-bit requests. Those of the two kinds of descriptor collide: never dispatch on the request alone. */
enum pdlb_request {
#define PDLB_REQUEST_ENUM(number, name, direction, size, type) \
  PDLB_IOC_##name = (int)((uint32_t)(direction) << 30 | (uint32_t)(size) << 16 | 0x68u << 8 | (number)),
  PDLB_DEVICE_COMMAND_LIST(PDLB_REQUEST_ENUM) PDLB_DOMAIN_COMMAND_LIST(PDLB_REQUEST_ENUM)
#undef PDLB_REQUEST_ENUM
};

#define PDLB_COMMAND_SIZE(number, name, direction, size, type) PDLB_ABI_ASSERT(sizeof(type) == (size));
PDLB_DEVICE_COMMAND_LIST(PDLB_COMMAND_SIZE)
PDLB_DOMAIN_COMMAND_LIST(PDLB_COMMAND_SIZE)
#undef PDLB_COMMAND_SIZE
PDLB_ABI_ASSERT((uint32_t)PDLB_IOC_CREATE_SCHED_DOMAIN == 0xC0686801u);
PDLB_ABI_ASSERT((uint32_t)PDLB_IOC_GET_NUM_RESOURCES == 0x80446802u);
PDLB_ABI_ASSERT((uint32_t)PDLB_IOC_ENABLE_DIR_PORT == 0xC00C6808u);
PDLB_ABI_ASSERT((uint32_t)PDLB_IOC_STOP_DOMAIN == 0x80086817u);
PDLB_ABI_ASSERT((uint32_t)PDLB_IOC_GET_XSTATS == (uint32_t)PDLB_IOC_BLOCK_ON_CQ_INTERRUPT);

#define PDLB_MAX_ARGS 104u

/* ---- registers that GET_XSTATS reads ------------------------------------------------------------------------- */

enum pdlb_xstat {
  PDLB_XSTAT_QID_LDB_INFLIGHT_COUNT = 0x10000,
  PDLB_XSTAT_QID_LDB_INFLIGHT_LIMIT,
  PDLB_XSTAT_QID_ATM_ACTIVE,
  PDLB_XSTAT_QID_ATM_DEPTH_THRESHOLD,
  PDLB_XSTAT_QID_NALB_DEPTH_THRESHOLD,
  PDLB_XSTAT_QID_ATQ_ENQUEUE_COUNT,
  PDLB_XSTAT_QID_LDB_ENQUEUE_COUNT,
  PDLB_XSTAT_CQ_LDB_DEPTH = 0x20000,
  PDLB_XSTAT_CQ_LDB_TOKEN_COUNT,
  PDLB_XSTAT_CQ_LDB_TOKEN_DEPTH_SELECT,
  PDLB_XSTAT_CQ_LDB_INFLIGHT_COUNT,
  PDLB_XSTAT_CQ_DIR_TOKEN_DEPTH_SELECT = 0x30000,
  PDLB_XSTAT_CQ_DIR_DEPTH,
  PDLB_XSTAT_QID_DIR_DEPTH_THRESHOLD,
  PDLB_XSTAT_QID_DIR_ENQUEUE_COUNT,
};

/* ---- alerts -------------------------------------------------------------------------------------------------- */

struct pdlb_domain_alert {
  uint64_t id;
  uint64_t aux;
};
PDLB_ABI_ASSERT(sizeof(struct pdlb_domain_alert) == 16);

enum pdlb_alert {
  PDLB_ALERT_ILLEGAL_ENQUEUE = 0, /* no credit, excess completion, illegal fragment */
  PDLB_ALERT_EXCESS_TOKEN_POPS,
  PDLB_ALERT_ILLEGAL_HCW,
  PDLB_ALERT_ILLEGAL_QID,
  PDLB_ALERT_DISABLED_QID,
  PDLB_ALERT_DEVICE_RESET,
  PDLB_ALERT_USER,
  PDLB_ALERT_CQ_WATCHDOG_TIMEOUT,
  PDLB_ALERT_UNRECOGNISED,
};
#define PDLB_ALERT_AUX_LDB 0x100u /* beside the port's id: it is a load-balanced one */

/* ---- memory and queue elements ------------------------------------------------------------------------------- */

#define PDLB_PP_SIZE 4096u
#define PDLB_CQ_SIZE 65536u
#define PDLB_CQ_SPARSE_STRIDE 64u
#define PDLB_QE_SIZE 16u
#define PDLB_QES_PER_LINE 4u

struct pdlb_qe {
  uint64_t data;
  uint16_t opaque;
  uint8_t qid;
  uint8_t sched; /* bits 0-1 type, 2-4 priority, 5-7 carried through */
  uint16_t flow; /* BAT_T and REL_T: tokens minus one, in ten bits */
  uint8_t misc;
  uint8_t command; /* to the device: PDLB_QE_*; from it: PDLB_QE_GEN and others */
};
PDLB_ABI_ASSERT(sizeof(struct pdlb_qe) == PDLB_QE_SIZE);
PDLB_ABI_ASSERT(offsetof(struct pdlb_qe, flow) == 12);

#define PDLB_QE_TOKEN 0x1u
#define PDLB_QE_COMPLETE 0x2u
#define PDLB_QE_FRAGMENT 0x4u
#define PDLB_QE_VALID 0x8u
#define PDLB_QE_COMMAND_MASK 0xFu
#define PDLB_QE_TOKEN_COUNT_MASK 0x3FFu

/* X(code, NAME) of the command nibble. The codes that are not here are illegal. */
#define PDLB_QE_COMMAND_LIST(X) \
  X(0, NOOP)                    \
  X(1, BAT_T)                   \
  X(2, REL)                     \
  X(3, REL_T)                   \
  X(5, ARM)                     \
  X(8, NEW)                     \
  X(9, NEW_T)                   \
  X(10, FWD)                    \
  X(11, FWD_T)                  \
  X(12, FRAG)                   \
  X(13, FRAG_T)

enum pdlb_qe_command {
#define PDLB_QE_COMMAND_ENUM(code, name) PDLB_QE_##name = code,
  PDLB_QE_COMMAND_LIST(PDLB_QE_COMMAND_ENUM)
#undef PDLB_QE_COMMAND_ENUM
};

#define PDLB_QE_GEN 0x01u
#define PDLB_QE_DEPTH_SHIFT 1
#define PDLB_QE_DEPTH_MASK 0x06u
#define PDLB_QE_ERROR 0x20u

#endif
