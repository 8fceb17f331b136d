/* The emulated devices' whole state: one shared region without pointers.
 *
 * Several processes work on it in place, each under the device's lock, and any of them may be killed at any
 * instruction. Every change is therefore part of a step (journal.h), which the next owner of the lock finishes or
 * takes back.
 */
#ifndef PDLB_EMULATE_STATE_H
#define PDLB_EMULATE_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uapi/pdlb_abi.h"

#define PDLB_EMULATE_MAGIC 0x31424C44504D4544u
#define PDLB_EMULATE_MAX_DEVICES 16u
#define PDLB_EMULATE_MAX_USERS 1024u

#define NUM_DIR_PORTS PDLB_NUM_DIR_PORTS_V25
#define NUM_PORTS (PDLB_NUM_LDB_PORTS + NUM_DIR_PORTS) /* load-balanced ones first */
#define NUM_QUEUES (PDLB_NUM_LDB_QUEUES + NUM_DIR_PORTS)
#define NUM_ELEMENTS PDLB_NUM_CREDITS_V25 /* an element holds a credit, so there are never more */
#define NUM_LEVELS 4u                     /* priorities are equal in pairs */
#define NUM_FLOWS 65536u
#define ID_NONE 0xFFFFu

/* A stack or list of ids, linked through an array of `next`. */
struct id_list {
  uint16_t head;
  uint16_t count;
};

/* Elements waiting, first in first out. */
struct fifo {
  uint16_t head, tail;
  uint16_t count;
};

struct element {
  struct pdlb_qe qe;
  uint16_t next;
  uint16_t sender; /* the port that stored it */
};

enum slot_state { SLOT_FREE = 0, SLOT_MAPPED, SLOT_MAP_IN_PROGRESS, SLOT_UNMAP_IN_PROGRESS };

/* One of the eight links from a load-balanced port to a queue. */
struct slot {
  uint8_t state;
  uint8_t qid;
  uint8_t priority;          /* what the driver remembers */
  uint8_t register_priority; /* what the device acts on: changing a priority only ever sets bits */
  uint8_t map_pending;       /* with SLOT_UNMAP_IN_PROGRESS: another queue takes the slot when it is free */
  uint8_t pending_qid;
  uint8_t pending_priority;
};

/* What a port holds of a load-balanced queue, oldest first; the device keeps these in its history list. */
struct held {
  uint16_t flow;
  uint16_t sequence; /* ordered: the place in line */
  uint8_t qid;
  uint8_t type;
};

struct port {
  bool configured;
  bool directed;
  bool enabled;
  bool stuck; /* enabled, but given nothing since a link failed */
  bool armed;
  bool interrupt_configured;
  uint8_t weight_depth; /* the depth as ENABLE_CQ_WEIGHT remembers it: in eight bits */
  uint16_t domain;
  uint16_t next; /* in a list of the function or of a domain */
  uint16_t cq_depth;
  uint16_t cq_threshold; /* tokens; 0 never fires */
  uint16_t inflight_threshold;
  uint16_t weight_limit;
  uint32_t tokens;  /* entries written and not returned */
  uint32_t idle_ms; /* since some were returned, as far as there are any */
  uint32_t write_index;
  bool write_generation;
  bool producer_used; /* descriptors for its memory were made: their files exist */
  bool consumer_used;
  uint8_t pending_unmaps;
  uint8_t slot_turn;                     /* equal priorities take turns */
  uint64_t producer_file, consumer_file; /* inode numbers */
  uint64_t consumer_serial;              /* names this life of the consumer queue */
  /* Load-balanced. */
  struct slot slots[PDLB_QIDS_PER_CQ];
  uint16_t history_base, history_size;
  uint16_t held_first, held_count; /* a ring within its part of the history list */
  /* Interrupts. */
  uint32_t event_process, event_fd;
  uint64_t event_serial; /* 0: no eventfd */
};

struct queue {
  bool configured;
  bool directed;
  uint16_t domain;
  uint16_t next;
  uint32_t depth_threshold;
  uint32_t queued;     /* elements waiting */
  uint64_t port_mask;  /* load-balanced: ports whose slots name it as mapped */
  uint8_t port_turn;   /* the port that is looked at first */
  bool atomic_turn;    /* atomic and other elements take turns */
  bool fid_configured; /* may schedule atomic */
  bool sn_configured;  /* may schedule ordered */
  uint8_t sn_group;
  uint8_t sn_slot;
  uint8_t pending_maps;
  uint16_t sequence_numbers;
  uint16_t atomic_inflights;
  uint32_t inflight_limit; /* the register; 0 while links are being changed */
  uint32_t inflights;      /* as configured */
  uint32_t inflight;
  uint16_t next_sequence;        /* of the next ordered element to be scheduled */
  uint16_t oldest_sequence;      /* the first that is not yet completed */
  struct fifo plain[NUM_LEVELS]; /* unordered, ordered, directed */
  struct fifo atomic[NUM_LEVELS];
};

struct alert_ring {
  struct pdlb_domain_alert alerts[PDLB_NUM_ALERTS];
  uint8_t read, write;
};

enum domain_state { DOMAIN_FREE = 0, DOMAIN_LIVE, DOMAIN_LOST };

struct domain {
  uint8_t state;
  bool started;
  bool valid; /* false after a reset of the function: every command fails */
  uint16_t next;
  uint64_t serial;
  uint64_t file; /* inode number; 0 while its maker has not come so far */
  uint32_t maker;
  uint64_t maker_started;
  struct id_list free_queues, used_queues;
  struct id_list free_ports[PDLB_NUM_COS], used_ports[PDLB_NUM_COS];
  struct id_list free_pairs, used_pairs;
  struct id_list producer_pairs; /* set aside for ports that only send */
  uint16_t history_base, history_size, history_left;
  uint32_t atomic_total, atomic_left;
  uint32_t credits_total[2]; /* load-balanced or combined, directed */
  uint32_t credits[2];
  uint32_t sn_slots[PDLB_NUM_SN_GROUPS], sn_slots_left[PDLB_NUM_SN_GROUPS];
};

struct sn_group {
  uint32_t sns_per_queue;
  uint32_t slots_free; /* not reserved by a domain */
  uint16_t used;       /* a bit for each slot that a queue has */
};

/* The place of an ordered element that is in flight: what took it, and whether more may follow. */
struct order_place {
  uint16_t head, tail;
  bool complete;
};

/* What is small and belongs to commands rather than elements: a command saves all of it at once. */
struct control {
  uint32_t version; /* PDLB_DEVICE_V20 or PDLB_DEVICE_V25 */
  uint32_t num_dir_ports;
  bool port_probe;   /* the module parameter: ports are chosen by their distance from a processor */
  bool reset_failed; /* a domain could not be emptied: no more domains until the function is reset */
  uint32_t cos_bandwidth[PDLB_NUM_COS];
  uint32_t ingress_errors_enabled;
  uint32_t inflight_control; /* a register of the whole device */
  struct id_list free_domains;
  struct id_list free_queues;
  struct id_list free_ports[PDLB_NUM_COS];
  struct id_list free_pairs;
  uint32_t atomic_free;
  uint32_t credits_free[2];
  uint64_t history_used[PDLB_NUM_HISTORY_ENTRIES / 64];
  struct sn_group sn_groups[PDLB_NUM_SN_GROUPS];
  struct domain domains[PDLB_NUM_DOMAINS];
  struct port ports[NUM_PORTS];
  struct queue queues[NUM_QUEUES];
  uint64_t next_serial;
  uint16_t free_elements;   /* a stack */
  uint16_t unused_elements; /* from here on none was ever used */
};

/* ---- the journal of the step in progress --------------------------------------------------------------------- */

enum journal_phase { JOURNAL_IDLE = 0, JOURNAL_CHANGING, JOURNAL_COMMITTED };

#define JOURNAL_BYTES (128u * 1024u)
#define JOURNAL_ENTRIES 4096u

struct journal {
  _Atomic uint32_t phase;
  uint32_t used;
  _Atomic uint32_t entries;
  struct {
    uint32_t offset, length; /* in the device */
  } entry[JOURNAL_ENTRIES];
  unsigned char bytes[JOURNAL_BYTES];
  /* The effects of a committed step, which may be carried out twice. */
  bool write_cq, fire;
  uint16_t port;
  uint32_t index;
  struct pdlb_qe qe;
};

/* What one instruction stored at a port, until all of it is taken: the device has it in whole, also when the process
 * that stored it is killed after the first element. */
#define LINE_ELEMENTS 4u

struct line {
  _Atomic uint32_t count; /* 0: none */
  uint32_t next;          /* changes in the step in which that element is taken */
  uint32_t port;
  uint64_t serial;
  struct pdlb_qe elements[LINE_ELEMENTS];
};

/* A futex: `changed` counts what a sleeper must look at. It is no part of steps. */
struct doorbell {
  _Atomic uint32_t changed;
  _Atomic uint32_t sleepers;
};

struct device {
  /* The lock: 0, or the owner's process id, with the top bit set while others wait. */
  _Atomic uint32_t lock;
  _Atomic uint64_t lock_started; /* when the owner's process started: process ids are used again */
  /* Not 0 while everything is being made as new: the version to make it of. */
  _Atomic uint32_t renewing;
  struct doorbell port_bells[NUM_PORTS];
  struct doorbell alert_bells[PDLB_NUM_DOMAINS];
  struct journal journal;
  struct line line;
  struct control control;
  struct alert_ring alerts[PDLB_NUM_DOMAINS];
  struct held history[PDLB_NUM_HISTORY_ENTRIES];
  struct order_place order[PDLB_NUM_SN_GROUPS][PDLB_SNS_PER_GROUP];
  struct element elements[NUM_ELEMENTS];
  uint32_t flows[PDLB_NUM_LDB_QUEUES][NUM_FLOWS]; /* of a flow in flight: port << 16 | elements */
};

/* A file of a domain that a reset of the function took away. */
struct grave {
  uint64_t file;
  uint32_t kind;
};
#define NUM_GRAVES 1024u

enum fault_kind { FAULT_NONE = 0, FAULT_DEVICE_REQUEST, FAULT_DOMAIN_REQUEST, FAULT_STORE, FAULT_INTERRUPT };

/* What is to go wrong, once, at the `nth` event of its kind. */
struct fault {
  uint32_t kind;
  uint32_t number; /* of the request; or enum emulate_fault_action */
  uint32_t nth;
  int32_t error;
  uint32_t status;
  _Atomic uint32_t count;
};
#define MAX_FAULTS 32u

struct user {
  _Atomic uint32_t process;
  _Atomic uint64_t started;
};

struct region {
  uint64_t magic;
  uint64_t size;
  uint32_t num_devices;
  uint32_t num_faults;
  struct fault faults[MAX_FAULTS];
  uint64_t attribute_files[PDLB_EMULATE_MAX_DEVICES][64]; /* inode numbers */
  uint64_t device_files[PDLB_EMULATE_MAX_DEVICES];
  struct grave graves[PDLB_EMULATE_MAX_DEVICES][NUM_GRAVES]; /* a ring */
  uint32_t next_grave[PDLB_EMULATE_MAX_DEVICES];
  struct user users[PDLB_EMULATE_MAX_DEVICES][PDLB_EMULATE_MAX_USERS];
  struct device devices[];
};

#endif
