/* pydlb's C core: scheduling domains, queues and ports over one of several backends.
 *
 * Conventions, for every function here:
 *   - A result >= 0 is success or a count; a negative result is -errno. errno itself is not part of the contract.
 *   - `error`, always last, may be NULL; it is filled on failure only.
 *   - Inputs are const and are checked before anything is changed.
 *   - Flow control is not an error: send and recv return how many elements moved, 0 included.
 *   - Times are absolute CLOCK_MONOTONIC nanoseconds. 0 is in the past (poll once), PDLB_FOREVER never comes.
 *   - Nothing here prints, reads the environment, installs a signal handler or starts a thread.
 *
 * Threads. Device, domain and queue functions, and those of a port marked "any thread", may be called from any
 * thread at any time. Every other port function belongs to one thread at a time; the caller sees to that.
 * pdlb_*_close must be the last use of an object; end waits with pdlb_port_cancel first.
 */
#ifndef PDLB_H
#define PDLB_H

#include <stdbool.h>
#include <stdint.h>

#include "pdlb_event.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PDLB_FOREVER UINT64_MAX
#define PDLB_MAX_LINKS 8u /* queues linked to one load-balanced port, as on the device */
#define PDLB_NONE UINT32_MAX

struct pdlb_device;
struct pdlb_domain;
struct pdlb_port;

/* What failed and why. `text` is a whole sentence for a person: what was tried, what was found, what to do. */
struct pdlb_error {
  int err;         /* errno, positive */
  uint32_t status; /* the driver's status code; 0 where there is none */
  const char *op;  /* the operation, a static string */
  char text[232];
};

/* ---- device ------------------------------------------------------------------------------------------------- */

enum pdlb_backend { PDLB_BACKEND_SOFTWARE = 0, PDLB_BACKEND_DEVICE = 1 };

/* Amounts of everything a device has, or has left. Credits are combined on DLB 2.5: `dir_credits` is then 0. */
struct pdlb_resources {
  uint32_t domains;
  uint32_t ldb_queues;
  uint32_t ldb_ports;
  uint32_t dir_ports; /* a directed port and the directed queue that feeds it are one pair */
  uint32_t ldb_credits;
  uint32_t dir_credits;
  uint32_t history_entries;
  uint32_t atomic_inflights;
  uint32_t sequence_slots[2];
};

/* Limits of the software backend: those of a DLB 2.5 device, or the larger ones of this implementation. */
enum pdlb_limits { PDLB_LIMITS_HARDWARE = 0, PDLB_LIMITS_LARGE = 1 };

/* A device by its node, such as /dev/dlb0. Results beside what open gives: -ENOTTY it is no DLB, -ENOTSUP it is one
 * that is not known, -EBUSY it is being reset. */
int pdlb_device_open(const char *path, struct pdlb_device **device, struct pdlb_error *error);
/* A new software device; nothing is shared with another one. */
int pdlb_device_open_software(enum pdlb_limits limits, struct pdlb_device **device, struct pdlb_error *error);
int pdlb_device_close(struct pdlb_device *device); /* -EBUSY while a domain is open */
enum pdlb_backend pdlb_device_backend(const struct pdlb_device *device);
uint32_t pdlb_device_version(const struct pdlb_device *device); /* the device's code: 2 is DLB 2.0, 3 is DLB 2.5 */
int pdlb_device_resources(struct pdlb_device *device, struct pdlb_resources *total, struct pdlb_resources *available,
                          struct pdlb_error *error);

/* ---- scheduling domain -------------------------------------------------------------------------------------- */

/* What a domain takes from its device, for its whole life. */
struct pdlb_domain_config {
  uint32_t ldb_queues;
  uint32_t ldb_ports;
  uint32_t class_ports[4]; /* devices only: further load-balanced ports, of one class of service each */
  uint32_t dir_ports;
  uint32_t ldb_credits; /* with combined credits: the pool */
  uint32_t dir_credits; /* with combined credits: added to the pool; else how many of the pool may be directed, 0 for
                           all */
  uint32_t history_entries;
  uint32_t atomic_inflights;
  uint32_t sequence_slots[2];
  bool shared; /* other processes may join */
};

int pdlb_domain_create(struct pdlb_device *device, const struct pdlb_domain_config *config, struct pdlb_domain **domain,
                       struct pdlb_error *error);
/* Ports must be closed first (-EBUSY). What is queued is discarded. */
int pdlb_domain_close(struct pdlb_domain *domain);
uint32_t pdlb_domain_id(const struct pdlb_domain *domain);
int pdlb_domain_start(struct pdlb_domain *domain, struct pdlb_error *error); /* -EINVAL if started */
int pdlb_domain_stop(struct pdlb_domain *domain, struct pdlb_error *error);  /* sends are refused; recv goes on */

/* Who looks after work that a woken port does not take: the domain (false, the default; costs a timer descriptor on
 * ports that are waited for through pdlb_port_fd) or a clock of the caller's, who promises to call
 * pdlb_domain_tick (true). */
int pdlb_domain_set_external_clock(struct pdlb_domain *domain, bool external, struct pdlb_error *error);
/* Any thread. Hands work that has waited longer than its queue's grace to another idle port. Returns the time at
 * which it wants to be called again, PDLB_FOREVER if nothing waits. */
uint64_t pdlb_domain_tick(struct pdlb_domain *domain, uint64_t now);
/* Any thread. The id of the idle port that would be woken, as things are, for what is sent next to a load-balanced
 * queue; PDLB_NONE if there is none, or only a device knows. */
uint32_t pdlb_domain_next(const struct pdlb_domain *domain, uint32_t queue);

struct pdlb_domain_stats {
  uint64_t enqueued;  /* elements taken by send and forward, those held back in an ordered line too */
  uint64_t scheduled; /* elements given to ports */
  uint64_t refused_no_credit;
  uint64_t wakes;   /* idle ports told that there is work */
  uint64_t rewakes; /* of these: because the first one told did not come in time */
  uint32_t credits_free;
  uint32_t queued; /* elements waiting, in queues or in an ordered line: what holds a credit */
  uint64_t lost;   /* elements that the device dropped, or that were queued when it went away */
};
int pdlb_domain_stats(struct pdlb_domain *domain, struct pdlb_domain_stats *stats);

/* ---- one domain in several processes ------------------------------------------------------------------------------
 * The process that created a shared domain configures it, and keeps its clock: whoever joins uses ports. Each port has
 * one user at a time, in whatever process. A process that dies leaves nothing behind that others wait for; its ports
 * are closed by the creator. */

/* Descriptors to pass to a process that is to join; they belong to the domain. `bell_fd` is readable when
 * pdlb_domain_tick should be called, because somebody has to be woken whom only this process can wake; -1: nobody has.
 * `device_fd`: the driver's descriptor of the domain, which lives until the last process has closed its own; -1: there
 * is no driver. */
struct pdlb_shared {
  int memory_fd;
  int bell_fd;
  int device_fd;
};
int pdlb_domain_share(struct pdlb_domain *domain, struct pdlb_shared *shared, struct pdlb_error *error);
/* The device of a domain of which one has the descriptors, without opening it: to join it, and for nothing else. */
int pdlb_device_join(const struct pdlb_shared *shared, struct pdlb_device **device, struct pdlb_error *error);
/* `member`: a number that no other process has that is joined or was joined when it died, below 2^31. */
int pdlb_domain_join(struct pdlb_device *device, const struct pdlb_shared *shared, uint32_t member,
                     struct pdlb_domain **domain, struct pdlb_error *error);
/* Any thread of the creator. The process that joined as `member` is dead: free what it locked, finish or undo what it
 * was in the middle of, and let others have what it was about to hand on. An element that it was just receiving is
 * either still in its queue or counted in the result, which is how many were taken and never returned to it; what it
 * was sending is in the queue or is not. What its ports hold is released when they are closed. Others who wait for one
 * of its locks find its death out by themselves within some 10 ms if the creator calls pdlb_domain_tick when the bell
 * rings.
 *
 * On a device, what was received counts as returned, and the ports are free for another process: what the dead one held
 * is released, and what it was given and had not received goes back into its queue. They are left disabled, for
 * pdlb_port_enable. -EIO: what a port owes the device cannot be known, because the device does not tell of the line
 * that was being stored; it is not used again. Such a line of elements that were sent counts as sent. */
int pdlb_domain_bury(struct pdlb_domain *domain, uint32_t member, struct pdlb_error *error);
/* Any thread of the creator. Elements that a device gave to ports of other processes, which did not receive them yet;
 * without those that stand before one which has not come for longer than `patience_ns`. In software nothing stands. */
uint32_t pdlb_domain_standing(struct pdlb_domain *domain, uint64_t patience_ns);
/* Use a port of a joined domain. `doorbell_fd`: what pdlb_port_fd says of it in the process that made it. */
int pdlb_port_join(struct pdlb_domain *domain, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **port,
                   struct pdlb_error *error);

/* ---- queues ------------------------------------------------------------------------------------------------- */

/* How a load-balanced queue shares work among its ports.
 * PULL: whichever linked port asks first takes as much as it asked for; the idle port with the least in flight is
 *       woken. The choice for throughput.
 * EVEN: a port takes only its share: what levels elements in flight over the linked ports. A port that is due but
 *       does not come within `grace_ns` loses its turn to one that does. Only time in which such a one looks for work,
 *       four times in `grace_ns` or more, counts: none in which nobody can come, and on a machine too busy for that it
 *       counts more slowly. The choice for connections that live long. */
enum pdlb_sharing { PDLB_SHARE_PULL = 0, PDLB_SHARE_EVEN = 1 };

struct pdlb_ldb_queue_config {
  uint32_t sequence_numbers; /* 0: atomic and unordered; else atomic and ordered, so many elements in flight */
  uint32_t inflights;        /* elements scheduled and not released, over all ports; 0: as many as allowed */
  uint32_t atomic_inflights; /* 0: the queue does not schedule atomic */
  enum pdlb_sharing sharing; /* software only */
  uint64_t grace_ns;         /* how long work may wait for a busy port while another is idle; 0: 200 us */
};

/* Results are queue ids. */
int pdlb_ldb_queue_create(struct pdlb_domain *domain, const struct pdlb_ldb_queue_config *config,
                          struct pdlb_error *error);
/* `port`: the id of a directed port that has no queue yet, or PDLB_NONE to take a new pair. */
int pdlb_dir_queue_create(struct pdlb_domain *domain, uint32_t port, struct pdlb_error *error);
int pdlb_ldb_queue_depth(struct pdlb_domain *domain, uint32_t queue, struct pdlb_error *error);
int pdlb_dir_queue_depth(struct pdlb_domain *domain, uint32_t queue, struct pdlb_error *error);

/* ---- ports -------------------------------------------------------------------------------------------------- */

struct pdlb_port_config {
  uint32_t cq_depth;        /* a power of two, 1 to 1024: the most that one recv returns */
  uint32_t history_entries; /* load-balanced only: elements received and not released; 0: 2 x cq_depth */
  bool release_on_recv;     /* each recv first releases all that the one before returned */
  uint64_t watch_ns;        /* devices only: a wait watches the consumer queue's memory for so long before it sleeps, if
                               the processor can (UMWAIT) */
  uint32_t service_class;   /* load-balanced, devices only: 1 to 4 for a port of that class alone, 0 for any */
  /* Load-balanced with release_on_recv, software only, for devices always fill consumer queues ahead: a recv of one
   * element takes the port's share of what waits, up to so many, and the next ones return these. They count as received
   * and are released as one. 0 or 1: none. In the process that made the port, not in one that joined. */
  uint32_t prefetch;
};

int pdlb_ldb_port_create(struct pdlb_domain *domain, const struct pdlb_port_config *config, struct pdlb_port **port,
                         struct pdlb_error *error);
/* `queue`: the id of a directed queue that has no port yet, or PDLB_NONE for a new pair (a port that only sends,
 * until pdlb_dir_queue_create names it). */
int pdlb_dir_port_create(struct pdlb_domain *domain, const struct pdlb_port_config *config, uint32_t queue,
                         struct pdlb_port **port, struct pdlb_error *error);
/* Unlinks, disables and frees the port. What it had not released is released. */
int pdlb_port_close(struct pdlb_port *port);
uint32_t pdlb_port_id(const struct pdlb_port *port);
bool pdlb_port_directed(const struct pdlb_port *port);

/* Any thread. `priority` 0 to 7, 0 is served first. Linking again changes the priority. */
int pdlb_port_link(struct pdlb_port *port, uint32_t queue, uint32_t priority, struct pdlb_error *error);
int pdlb_port_unlink(struct pdlb_port *port, uint32_t queue, struct pdlb_error *error);
/* Any thread. A disabled port is given nothing and may not send; a wait on it goes on. */
int pdlb_port_enable(struct pdlb_port *port, struct pdlb_error *error);
int pdlb_port_disable(struct pdlb_port *port, struct pdlb_error *error);

/* Why a send or forward took fewer elements than it was given. NOT_STARTED and PORT_DISABLED are looked at first and
 * once, then for each element NOT_HELD, BAD_QUEUE, BAD_SCHED and NO_CREDIT in this order. */
enum pdlb_refusal {
  PDLB_TAKEN = 0,   /* it did not: all were taken */
  PDLB_NO_CREDIT,   /* the domain's credits are used up: try when something was received */
  PDLB_NOT_STARTED, /* the domain is not started */
  PDLB_PORT_DISABLED,
  PDLB_GONE,      /* the device went away */
  PDLB_BAD_QUEUE, /* the first element not taken names a queue that does not exist */
  PDLB_BAD_SCHED, /* ... has a scheduling type that its queue does not do, or one that ports of its kind cannot */
  PDLB_NOT_HELD,  /* forward: the port holds no element to forward */
};

/* Take elements in order, up to the first that is refused. Never blocks. */
uint32_t pdlb_port_send(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count,
                        enum pdlb_refusal *why);
/* As send, and each element taken also completes the oldest one held: in an ordered flow it takes that one's place. */
uint32_t pdlb_port_forward(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count,
                           enum pdlb_refusal *why);
/* Any thread. Get what a recv that blocks needs. It does so itself, but cannot say why it failed. */
int pdlb_port_prepare_wait(struct pdlb_port *port, struct pdlb_error *error);
/* Up to `max` elements into `events`; blocks until there is one, the deadline, a signal (-EINTR), or
 * pdlb_port_cancel (-ECANCELED). 0 at the deadline. A call that returns fewer than `max` leaves the port armed: it
 * will be woken for new work. */
int pdlb_port_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);
/* Complete the `count` oldest elements held; returns how many there were. */
uint32_t pdlb_port_release(struct pdlb_port *port, uint32_t count);
/* Any thread. The same, carried out at the port's next call; for balancing it counts at once. The caller sees to
 * it that `count` elements are held. */
void pdlb_port_release_later(struct pdlb_port *port, uint32_t count);
/* Any thread. Elements received and not released. */
uint32_t pdlb_port_in_flight(const struct pdlb_port *port);

/* Any thread. A descriptor that is readable (level-triggered) when the port was chosen to be woken, perhaps with
 * nothing left to receive, and never silent while the port is armed and an element waits that no awake port will
 * take. It belongs to the port: wait on it, do not read or close it. -errno if none can be had. */
int pdlb_port_fd(struct pdlb_port *port, struct pdlb_error *error);
/* Any thread. The owner tells that it is about to wait on pdlb_port_fd (true) or has come back (false). An armed port
 * that never told is believed to be idle; one that tells is chosen only while it is parked, and before those. */
void pdlb_port_parked(struct pdlb_port *port, bool parked);
/* The user receives next, whatever its descriptor says: until then that need not be made readable. */
void pdlb_port_expect(struct pdlb_port *port);
/* Any thread. Whether something waits that the port may be given; true where that is not known. */
bool pdlb_port_has_work(const struct pdlb_port *port);
/* Any thread. Ends a wait in progress and refuses all later calls with -ECANCELED. */
void pdlb_port_cancel(struct pdlb_port *port);

struct pdlb_port_stats {
  uint64_t sent;
  uint64_t received;
  uint64_t released;
  uint64_t wakes;
  uint32_t in_flight;
  bool armed;
  bool stalled; /* it was due and did not come within the grace */
};
/* Any thread. */
int pdlb_port_stats(const struct pdlb_port *port, struct pdlb_port_stats *stats);

/* The name of a driver's status code, as DOMAIN_UNAVAILABLE; NULL beyond the last. */
const char *pdlb_status_name(uint32_t status);

/* CLOCK_MONOTONIC, in nanoseconds. */
uint64_t pdlb_now(void);

#ifdef __cplusplus
}
#endif
#endif
