/* What processes that share a domain must know of it: one region without pointers. A domain that is not shared has one
 * of its own.
 *
 * Whoever uses a port may be killed between any two stores. All that is to be known of its port then follows from
 * counters of which each is changed by one store: how far it came in its ring, what it holds, what it owes. Only
 * whether the device has seen a line that was being stored does not, and that the device tells.
 */
#ifndef PDLB_DEVICE_STATE_H
#define PDLB_DEVICE_STATE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pdlb.h"
#include "pdlb_abi.h"

#define NUM_PORTS (PDLB_NUM_LDB_PORTS + PDLB_NUM_DIR_PORTS_V25) /* by index: load-balanced ones first */
#define NUM_KEYS 1024u                                          /* queue | scheduling type << 8 */

enum credit { CREDIT_ANY = 0, CREDIT_DIRECTED, NUM_CREDITS };

/* What a line that is being stored does to the counters once they are told: kind, and above it how many. */
enum doing { DOING_NOTHING = 0, DOING_SEND = 1, DOING_COMPLETE = 2, DOING_POP = 4, DOING_ARM = 8 };
#define DOING_SHIFT 8

struct port_record {
  /* Written by the port's user. */
  alignas(128) _Atomic uint64_t received; /* also: how many credits the port has given back */
  _Atomic uint64_t released;              /* load-balanced: of those, completed */
  _Atomic uint64_t popped;                /* of those, and of what was put back: tokens returned */
  _Atomic uint64_t sent, wakes;
  _Atomic uint64_t reserved[NUM_CREDITS]; /* shared domains: credits that were taken */
  _Atomic uint32_t doing;
  _Atomic uint32_t member; /* who has joined, + 1; 0: the port is its maker's */
  /* Written by anybody. */
  _Atomic bool cancelled, stalled, disabled;
  /* Written by the port's maker while nobody uses it. */
  _Atomic uint64_t put_back; /* out of the ring without being received */
  _Atomic bool exists;
  bool release_on_recv, hold_tokens;
  uint32_t cq_depth, most;
  uint64_t watch_ns;
};

struct domain_state {
  uint64_t magic, size;
  char path[128]; /* the device's */
  uint32_t version, stride, domain;
  bool shared;
  bool directed_credits_apart; /* as on DLB 2.0 */
  uint32_t credits_total[NUM_CREDITS];
  /* Elements that may be sent before one is received; on DLB 2.0, those of them that may be directed. In a shared
   * domain that follows from the ports' counters, and whoever takes some is alone: his number + 1. */
  _Atomic uint32_t credits[NUM_CREDITS];
  _Atomic uint32_t taking;
  _Atomic bool started, gone;
  _Atomic uint64_t refused, lost;
  _Atomic uint8_t keys[NUM_KEYS]; /* of enum key */
  struct port_record ports[NUM_PORTS];
};

/* A slot's place in a ring: how many were taken out of it before. */
static inline uint64_t record_taken(const struct port_record *record) {
  return atomic_load_explicit(&record->received, memory_order_acquire) +
         atomic_load_explicit(&record->put_back, memory_order_relaxed);
}

#endif
