/* The emulated DLB device: what the kernel driver and the device behind it answer, over one shared region.
 *
 * A door (the preloaded library, or the in-process device of the tests) owns descriptors, mappings and threads; this
 * model owns the answers. Results are 0 or a count, or -errno.
 */
#ifndef PDLB_EMULATE_H
#define PDLB_EMULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/pdlb_abi.h"

struct region;

/* What the model asks of its door. Called with the device locked and signals blocked, perhaps from a signal handler:
 * only what is safe there may be used, and nothing of the model may be called. */
struct emulation_host {
  /* The memory of a consumer queue in this process; NULL if it cannot be had. */
  void *(*consumer_queue)(void *context, unsigned device, unsigned port, uint64_t serial);
  /* Add one to the eventfd that was registered as `serial`. */
  void (*signal_eventfd)(void *context, unsigned device, unsigned port, uint64_t serial, uint32_t process, uint32_t fd);
  /* Whether any descriptor or mapping in any process still refers to the domain. */
  bool (*domain_referenced)(void *context, unsigned device, unsigned domain);
  /* The domain was emptied and given back: its files are of no more use. */
  void (*domain_gone)(void *context, unsigned device, unsigned domain);
  /* Something happened that hardware would punish; `text` says what. */
  void (*misuse)(void *context, unsigned device, unsigned port, const char *text);
  /* For a trace; NULL where nobody wants one. An element was stored, one was written to a consumer queue, an armed
   * interrupt fired. */
  void (*stored)(void *context, unsigned device, unsigned port, const struct pdlb_qe *qe);
  void (*scheduled)(void *context, unsigned device, unsigned port, uint32_t slot, const struct pdlb_qe *qe);
  void (*interrupted)(void *context, unsigned device, unsigned port);
};

struct emulation {
  struct region *region;
  const struct emulation_host *host;
  void *context;
  uint32_t process; /* the process id and its start time name the owner of a lock */
  uint64_t started;
};

/* ---- the region ---------------------------------------------------------------------------------------------- */

size_t emulate_region_size(unsigned num_devices);
/* `region`: zeroed, of emulate_region_size bytes. `version`: PDLB_DEVICE_V20 or PDLB_DEVICE_V25. `port_probe`: the
 * driver's module parameter: it has measured which ports are near to which processor, and hands them out so. */
void emulate_format(struct region *region, unsigned num_devices, uint32_t version, bool port_probe);
bool emulate_region_valid(const struct region *region, size_t size);
void emulate_attach(struct emulation *emulation, struct region *region, const struct emulation_host *host,
                    void *context);
/* In the child, after fork. */
void emulate_forked(struct emulation *emulation);

/* Hold a device for a while; recursion is not allowed. Doors use this around what must not change under them. */
void emulate_lock(struct emulation *emulation, unsigned device);
void emulate_unlock(struct emulation *emulation, unsigned device);

/* ---- a device's users ---------------------------------------------------------------------------------------- */

/* This process uses the device. If all who did before have ended and nothing of theirs is left, the device becomes
 * what it is when the driver is bound: each program finds it fresh. `held`: the door knows of an open descriptor. */
void emulate_use(struct emulation *emulation, unsigned device, bool held);
/* Reset those domains to which nothing refers any more: what the last close does in the driver. */
void emulate_collect(struct emulation *emulation, unsigned device);
/* Reset of the whole function: every domain becomes invalid, the device pristine. */
void emulate_function_reset(struct emulation *emulation, unsigned device);

/* ---- commands ------------------------------------------------------------------------------------------------ */

/* Size of the argument structure; 0: there is no such command. */
size_t emulate_device_command_size(unsigned number);
size_t emulate_domain_command_size(unsigned number);
const char *emulate_device_command_name(unsigned number);
const char *emulate_domain_command_name(unsigned number);

/* `args`: a copy of the caller's structure, to be copied back whatever the result, except that -ENODEV (the caller
 * sees EINVAL) leaves the caller's untouched. CREATE_SCHED_DOMAIN puts the domain's number in the response; the door
 * makes the descriptor and fills in `domain_fd`. */
int emulate_device_command(struct emulation *emulation, unsigned device, unsigned number, void *args);
/* Commands that make descriptors only check the port here; BLOCK_ON_CQ_INTERRUPT is emulate_block. `serial` says
 * which life of the domain is meant. */
int emulate_domain_command(struct emulation *emulation, unsigned device, unsigned domain, uint64_t serial,
                           unsigned number, void *args);
#define EMULATE_UNTOUCHED (-4096) /* EINVAL, and nothing is copied back */

struct emulate_wait {
  unsigned port;
  uint32_t seen; /* sleep until the port's counter is no longer this */
};
/* Whether a caller may wait for a consumer queue: -EAGAIN: if its slot is empty, arm if that was asked for, sleep with
 * emulate_sleep and ask again; else the command's result. `first`: no answer was given yet. */
int emulate_block(struct emulation *emulation, unsigned device, unsigned domain, uint64_t serial,
                  const struct pdlb_block_on_cq_interrupt_args *args, bool first, struct emulate_wait *wait);
void emulate_arm(struct emulation *emulation, unsigned device, unsigned domain, uint64_t serial,
                 const struct emulate_wait *wait);
/* 0: look again; -EINTR: a signal came. */
int emulate_sleep(struct emulation *emulation, unsigned device, const struct emulate_wait *wait);

/* Read the next alert: 16, or -EAGAIN after which emulate_sleep_alert waits for one. */
int emulate_read_alert(struct emulation *emulation, unsigned device, unsigned domain, uint64_t serial,
                       struct pdlb_domain_alert *alert, uint32_t *seen);
/* The driver tells the domain something of its own accord. */
int emulate_alert(struct emulation *emulation, unsigned device, unsigned domain, uint64_t id, uint64_t aux);
/* So much time has passed: consumer queues that nobody has served for long are told of. */
void emulate_pass_time(struct emulation *emulation, unsigned device, unsigned milliseconds);
int emulate_sleep_alert(struct emulation *emulation, unsigned device, unsigned domain, uint32_t seen);

/* A new domain's, and an unused one's, way back when its descriptor could not be made. */
void emulate_discard_domain(struct emulation *emulation, unsigned device, unsigned domain);

/* ---- the data path ------------------------------------------------------------------------------------------- */

/* Up to four elements arrive at a producer port, in order. `port`: as everywhere here, load-balanced ports are 0 to 63
 * and directed port d is 64 + d. `serial`: of the domain for which the port was mapped. `masked`: the caller has all
 * signals blocked already. */
void emulate_store(struct emulation *emulation, unsigned device, unsigned port, uint64_t serial,
                   const struct pdlb_qe *qes, unsigned count, bool masked);

/* ---- faults ------------------------------------------------------------------------------------------------------ */

enum emulate_fault_action {
  EMULATE_DROP_STORE,       /* the element is lost, as for lack of a credit */
  EMULATE_RESET_AT_STORE,   /* the function is reset before the element */
  EMULATE_LOSE_INTERRUPT,   /* nobody is told */
  EMULATE_REPEAT_INTERRUPT, /* told twice */
};

/* The `nth` request of the number, counted over all processes and from 1, fails. -ENOSPC: there are too many faults. */
int emulate_fail_request(struct emulation *emulation, bool is_device, unsigned number, uint32_t nth, int error,
                         uint32_t status);
/* Something happens at the `nth` element stored or interrupt. */
int emulate_fail_event(struct emulation *emulation, enum emulate_fault_action action, uint32_t nth);
/* A request comes: 0, or -errno with which it is to fail at once; `response` then has the status. */
int emulate_request_fault(struct emulation *emulation, bool is_device, unsigned number, struct pdlb_response *response);

/* ---- attributes below /sys/class/dlb2/dlbN/device ------------------------------------------------------------ */

/* Names in order, NULL after the last. */
const char *emulate_attribute_name(unsigned index);
bool emulate_attribute_writable(unsigned index);
/* Decimal text with a newline into `text` (at least 32 bytes); its length, or -errno. */
int emulate_attribute_read(struct emulation *emulation, unsigned device, unsigned index, char *text);
int emulate_attribute_write(struct emulation *emulation, unsigned device, unsigned index, const char *text,
                            size_t length);

/* ---- what doors keep in the region: inode numbers of the files that stand for things ------------------------- */

enum emulate_kind {
  EMULATE_NOTHING = 0,
  EMULATE_DEVICE,
  EMULATE_DOMAIN,
  EMULATE_PRODUCER,
  EMULATE_CONSUMER,
  EMULATE_ATTRIBUTE,
};

struct emulate_object {
  enum emulate_kind kind;
  unsigned device;
  unsigned index;  /* domain, port or attribute */
  unsigned domain; /* of a domain or a port */
  uint64_t serial; /* of the domain; 0 after a reset of the function */
};

unsigned emulate_num_devices(const struct emulation *emulation);
struct emulate_object emulate_find(const struct emulation *emulation, uint64_t file);
void emulate_name_device(struct emulation *emulation, unsigned device, uint64_t file);
void emulate_name_attribute(struct emulation *emulation, unsigned device, unsigned index, uint64_t file);
void emulate_name_domain(struct emulation *emulation, unsigned device, unsigned domain, uint64_t file);
void emulate_name_producer(struct emulation *emulation, unsigned device, unsigned port, uint64_t file);
void emulate_name_consumer(struct emulation *emulation, unsigned device, unsigned port, uint64_t file);
/* With the device locked. */
uint64_t emulate_domain_serial(const struct emulation *emulation, unsigned device, unsigned domain);
uint64_t emulate_consumer_serial(const struct emulation *emulation, unsigned device, unsigned port);
/* The next port after `port` (start with -1) that the domain has, and whether descriptors for its memory were made;
 * -1: no more. */
int emulate_next_port(const struct emulation *emulation, unsigned device, unsigned domain, int port, bool *producer,
                      bool *consumer);
/* Which registration of an eventfd the port has; 0: none. */
uint64_t emulate_event_serial(const struct emulation *emulation, unsigned device, unsigned port);
uint32_t emulate_version(const struct emulation *emulation, unsigned device);

#endif
