/* The software backend: the scheduler engine over memory of this process, with descriptors and futexes to wait on. */
#ifndef PDLB_SOFTWARE_H
#define PDLB_SOFTWARE_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

#include "backend.h"
#include "engine.h"

struct software_device {
  struct pdlb_device base;
  pthread_mutex_t mutex; /* guards `available` and `domains` */
  struct pdlb_resources total, available;
  uint32_t order_slots; /* the most sequence numbers of one queue */
  uint64_t domains;     /* ids in use, a bit each */
  uint32_t joined;      /* domains of other processes that are open here */
};

/* How one port is woken, by whatever process. It lies in the region and outlives the port: a waker may be late. */
struct doorbell {
  alignas(64) _Atomic uint32_t sequence; /* the futex: moves on with every wake */
  _Atomic uint32_t sleeping;             /* the port's thread is in the futex, or on its way */
  _Atomic uint32_t special;              /* DOORBELL_*: what a receive has to heed */
  _Atomic uint32_t signalled;            /* which may have to be read */
  _Atomic uint32_t rung;                 /* by somebody who has no such descriptor: the domain's creator signals it */
};

#define DOORBELL_CANCELLED 1u
#define DOORBELL_HAS_FD 2u /* its user may wait on a descriptor */

/* What this process has to wait on one port, or to wake it. */
struct waiter {
  struct doorbell *doorbell;
  _Atomic uint32_t timer_set;  /* the timer descriptor may have to be read */
  _Atomic uint32_t watched_by; /* index + 1 of the port whose timer runs in case this one does not come */
  pthread_mutex_t mutex;       /* guards the descriptors: a waker must not write to one that was closed */
  int event_fd;
  int timer_fd;              /* -1 while a clock outside looks after late ports */
  int poll_fd;               /* what the user waits on: event_fd, or an epoll set of both */
  _Atomic uint32_t expected; /* its user looks next without being told */
  uint32_t watches;          /* index + 1 of the port on whose behalf the timer runs; 0: on its own, or not at all */
};

/* A process that has joined, so that whoever waits for it can find out whether it lives. */
struct member {
  _Atomic uint32_t owner; /* as it calls itself in locks; 0: nobody */
  _Atomic int32_t process;
  _Atomic uint64_t born; /* its start time: the number may come to be another process's */
};

#define MEMBERS 256u /* those that come when there are so many must be buried by somebody who knows of their death */

/* The beginning of a domain's memory: all that a process must know to join. */
struct software_head {
  uint64_t magic;
  uint64_t size; /* of the whole */
  uint32_t domain;
  uint32_t order_slots;
  struct pdlb_domain_config config;
  uint64_t doorbells_at, engine_at;
  _Atomic uint32_t suspect; /* has a lock for long: the creator shall see whether it lives */
  struct member members[MEMBERS];
};

struct software_domain {
  struct pdlb_domain base;
  struct software_device *device;
  struct pdlb_domain_config taken; /* given back to the device at the end */
  struct pdlb_engine engine;
  struct software_head *head; /* the memory */
  bool joined;                /* another process made it */
  int memory_fd;              /* -1 where it is this process's alone */
  int bell_fd;                /* wakes the creator, who then signals the ports that were rung */
  pthread_mutex_t mutex;      /* guards what follows */
  uint32_t open_ports;
  uint32_t history_left, atomic_left, sequence_slots_left;
  struct waiter *waiters; /* by port index */
};

/* Whether a port holds back before it looks for an element (pace.c). */
struct pace {
  bool alone;             /* the last one that it found was */
  uint32_t looks_left;    /* before it tries again whether holding back pays */
  uint32_t looks_between; /* how many there were the last time; 0: it pays */
};

struct software_port {
  struct pdlb_port base;
  struct software_domain *domain;
  struct pdlb_engine_user user;
  struct waiter *waiter;
  struct doorbell *doorbell; /* the waiter's */
  uint32_t index;
  uint32_t history_entries;
  uint32_t looks, waits; /* wait.c: how often to look before sleeping; waits without a look */
  struct pace pace;
  struct software_prefetched *prefetched; /* NULL: the port takes nothing ahead */
};

/* ---- wait.c: how ports wait and are woken
 * ------------------------------------------------------------------------------ */

void software_waiter_init(struct waiter *waiter, struct doorbell *doorbell);
/* Let go of its descriptors; `unused`: for good, nobody else waits on this port. */
void software_waiter_close(struct waiter *waiter, bool unused);
/* Creator: signal the ports that others have rung. */
void software_answer_bells(struct software_domain *domain);
void software_wake(void *context, uint32_t port, uint32_t late, uint64_t grace);
uint64_t software_now(void *context);
bool software_relax(void *context, uint32_t owner, uint32_t times);
int software_port_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);
int software_port_fd(struct pdlb_port *port, struct pdlb_error *error);
void software_port_expect(struct pdlb_port *port);
void software_port_cancel(struct pdlb_port *port);

/* ---- pace.c: a port that takes one element after the other
 * ---------------------------------------------------------------------------------- */

int software_successive_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);
/* Before a look for one element; true if the port held back. And after it: whether it found one, and more behind it. */
bool software_hold_back(struct software_port *port);
void software_looked(struct software_port *port, bool held_back, bool found, bool more);

/* ---- prefetch.c: a port that takes ahead
 * ---------------------------------------------------------------------------------- */

struct software_prefetched *software_prefetched_create(uint32_t most);
/* How many were taken ahead and not received. */
uint32_t software_prefetched_left(const struct software_prefetched *prefetched);
int software_prefetching_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);

/* ---- members.c: who has joined
 * -------------------------------------------------------------------------------------------- */

/* What a process writes into the engine's locks. */
#define SOFTWARE_CREATOR 1u
#define SOFTWARE_MEMBER(number) ((number) + 2u)

void software_member_enter(struct software_domain *domain);
void software_member_leave(struct software_domain *domain, uint32_t owner);
/* False if that is not known. */
bool software_member_is_dead(const struct software_domain *domain, uint32_t owner);
/* Creator: whom others suspect, if dead, is buried. */
void software_bury_suspect(struct software_domain *domain);
int software_domain_bury(struct pdlb_domain *base, uint32_t member, struct pdlb_error *error);

/* ---- memory.c: where a domain lies
 * ----------------------------------------------------------------------------------------- */

int software_memory_create(struct software_domain *domain, const struct pdlb_engine_config *config,
                           struct pdlb_error *error);
int software_memory_join(struct software_domain *domain, int memory_fd, struct pdlb_error *error);
void software_memory_free(struct software_domain *domain);

/* ---- port.c
 * ------------------------------------------------------------------------------------------------------------- */

int software_port_create(struct pdlb_domain *domain, const struct pdlb_port_config *config, bool directed,
                         uint32_t queue, struct pdlb_port **port, struct pdlb_error *error);

int software_port_join(struct pdlb_domain *domain, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **port,
                       struct pdlb_error *error);

/* ---- domain.c
 * ------------------------------------------------------------------------------------------------------------ */

int software_domain_create(struct pdlb_device *device, const struct pdlb_domain_config *config,
                           struct pdlb_domain **domain, struct pdlb_error *error);

/* Configuration is the business of the process that made the domain. */
int software_not_ours(struct pdlb_error *error, const char *op);

int software_domain_join(struct pdlb_device *device, const struct pdlb_shared *shared, uint32_t member,
                         struct pdlb_domain **domain, struct pdlb_error *error);

#endif
