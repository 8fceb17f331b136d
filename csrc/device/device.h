/* The device backend: a DLB by its kernel driver. What its sources share. */
#ifndef PDLB_DEVICE_H
#define PDLB_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend.h"
#include "state.h"
#include "system.h"

struct device {
  struct pdlb_device base;
  const struct pdlb_system *system;
  void *context;
  char path[128];
  int fd;
  uint32_t number;
  uint32_t stride; /* bytes from one slot of a consumer queue to the next */
  pthread_mutex_t mutex;
  uint32_t domains; /* open ones; under the mutex */
};

/* What is kept of a hardware port. The driver takes none back before its domain ends, so a port that is closed rests
 * here until another of the same shape is wanted. */
enum port_use { PORT_NONE = 0, PORT_RESTING, PORT_OPEN, PORT_LOST /* what it owes is not known: never used again */ };

struct counts {
  uint64_t sent, received, released, wakes;
};

struct port {
  struct pdlb_port base;
  struct domain *domain;
  struct port_record *record;
  struct pdlb_qe line[PDLB_QES_PER_LINE] __attribute__((aligned(64)));

  /* Bit 0: somebody uses the port. Above it: releases that wait for whoever does. */
  _Atomic uint32_t state;
  void (*store)(void *context, void *producer, const struct pdlb_qe *line);
  void *context;
  void *producer;
  const unsigned char *consumer;
  uint32_t at, end;   /* the next slot and the ring's end, in bytes */
  uint8_t generation; /* of slots that are full */
  bool release_on_recv;
  uint64_t watch_ns;
  bool hold_tokens; /* they go back when the port comes for more, not when it takes */
  bool armed;
  uint32_t tokens;       /* taken, and not given back */
  _Atomic uint32_t held; /* load-balanced: received, and not released */
  uint32_t cq_depth;
  uint32_t most; /* that one receive may return */

  _Atomic int event_fd; /* -1 until somebody waits */

  /* Under the domain's mutex. */
  enum port_use use;
  struct counts before;   /* at the beginning of this life */
  uint64_t seen, seen_at; /* how far another process was that uses it, when something stood there for it */
  uint32_t history_entries;
  uint32_t service_class;
  uint32_t queue; /* directed: of the pair, once there is one */
  uint8_t links[PDLB_MAX_LINKS], priorities[PDLB_MAX_LINKS];
  uint32_t num_links;
};

struct domain {
  struct pdlb_domain base;
  struct device *device;
  struct pdlb_domain_config config;
  int fd;
  struct domain_state *state;
  int memory_fd;       /* of the state; -1: it is this process's alone */
  bool joined;         /* another process has made the domain, */
  uint32_t member;     /* which calls this one so */
  _Atomic bool told;   /* this process's ports: that it is gone */
  bool device_started; /* under the mutex: the driver was asked */

  pthread_mutex_t mutex; /* control: guards what follows, and what ports say is under it */
  uint32_t open_ports;
  uint32_t ldb_queues; /* how many were created */
  uint32_t history_left, atomic_left;
  bool even[PDLB_NUM_LDB_QUEUES]; /* by queue: a port is given more only when it comes for it */
  struct port *_Atomic ports[NUM_PORTS];

  _Atomic uint64_t alerts;
  pthread_t alert_thread;
  bool has_alert_thread;
  struct domain *next; /* in the list of those that a forked child closes */
};

/* Whether elements may be sent with this queue and type, and whether they need a directed credit of their own. */
enum key { KEY_PLAIN = 0, KEY_DIRECTED = 1, KEY_NONE = 0x80 };

static inline struct device *device_of(const struct pdlb_device *base) { return (struct device *)base; }
static inline struct domain *domain_of(const struct pdlb_domain *base) { return (struct domain *)base; }
static inline struct port *port_of(const struct pdlb_port *base) { return (struct port *)base; }

static inline uint32_t port_index(const struct port *port) {
  return port->base.directed ? PDLB_NUM_LDB_PORTS + port->base.id : port->base.id;
}

static inline bool domain_is_gone(const struct domain *domain) {
  return atomic_load_explicit(&domain->state->gone, memory_order_acquire);
}

/* ---- requests.c ---------------------------------------------------------------------------------------------- */

/* A request to the driver; `args` begins with the response. On failure `error` says what the driver
 * answered. */
int device_request(struct device *device, uint32_t request, void *args, const char *op, struct pdlb_error *error);
int domain_request(struct domain *domain, uint32_t request, void *args, const char *op, struct pdlb_error *error);
/* The same, for the few that the driver refuses with EINVAL and no status though the device is there. */
int device_try(struct device *device, uint32_t request, void *args, const char *op, struct pdlb_error *error);
/* A system call that is no request failed; `tried` completes "cannot". */
int system_failed(struct pdlb_error *error, int rc, const char *op, const struct device *device, const char *tried);
int device_gone(struct pdlb_error *error, const char *op, const struct device *device);

/* ---- settings.c ---------------------------------------------------------------------------------------------- */

extern const struct pdlb_device_settings device_settings;
extern const struct pdlb_port_settings device_port_settings;

/* ---- domain.c ------------------------------------------------------------------------------------------------ */

int device_domain_create(struct pdlb_device *device, const struct pdlb_domain_config *config,
                         struct pdlb_domain **domain, struct pdlb_error *error);
/* No child is forked in between: it would inherit a descriptor that nobody knows of, and so keep the domain alive. */
void forks_wait(void);
void forks_go_on(void);
bool domain_has_queue(const struct domain *domain, uint32_t queue, bool directed);

int domain_close(struct pdlb_domain *domain);
/* A child that is forked closes the domain's descriptor. While forks wait. */
void forks_tell(struct domain *domain);
extern const struct pdlb_domain_ops device_domain_ops;

/* ---- state.c ------------------------------------------------------------------------------------------------- */

int state_create(struct domain *domain, bool shared, struct pdlb_error *error);
int state_join(int memory_fd, struct domain_state **state, int *own_fd, struct pdlb_error *error);
void state_free(struct domain_state *state, int memory_fd);
/* How many of `wanted` credits there were; they are the port's. */
uint32_t state_take(struct port *port, enum credit credit, uint32_t wanted);
void state_give_back(struct port *port, enum credit credit, uint32_t count);

/* ---- join.c -------------------------------------------------------------------------------------------------- */

int device_domain_join(struct pdlb_device *device, const struct pdlb_shared *shared, uint32_t member,
                       struct pdlb_domain **domain, struct pdlb_error *error);
int device_domain_share(struct pdlb_domain *domain, struct pdlb_shared *shared, struct pdlb_error *error);
int device_port_join(struct pdlb_domain *domain, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **port,
                     struct pdlb_error *error);
int not_ours(struct pdlb_error *error, const char *op);

/* ---- reclaim.c ----------------------------------------------------------------------------------------------- */

int device_domain_bury(struct pdlb_domain *domain, uint32_t member, struct pdlb_error *error);
uint32_t device_domain_standing(struct pdlb_domain *domain, uint64_t patience_ns);
/* Under the domain's mutex: another process has used the port, and does no more. */
int port_reclaim(struct port *port, struct pdlb_error *error);

/* ---- alerts.c ------------------------------------------------------------------------------------------------ */

int alerts_start(struct domain *domain, struct pdlb_error *error);
void alerts_stop(struct domain *domain);
/* The device was reset, or is no more: end every wait. */
void domain_gone(struct domain *domain);

/* ---- port.c -------------------------------------------------------------------------------------------------- */

extern const struct pdlb_port_ops device_port_ops;

int device_port_create(struct pdlb_domain *domain, const struct pdlb_port_config *config, bool directed, uint32_t queue,
                       struct pdlb_port **port, struct pdlb_error *error);
/* At the domain's end. */
void port_discard(struct port *port);
int port_map(struct port *port, struct pdlb_error *error);
/* Where its ring begins, and how far it came. */
void port_find_place(struct port *port);
int port_set_enabled(struct port *port, bool enabled, const char *op, struct pdlb_error *error);

/* ---- traffic.c ----------------------------------------------------------------------------------------------- */

/* One use of the port at a time. */
void port_enter(struct port *port);
void port_leave(struct port *port);

uint32_t port_send(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count, enum pdlb_refusal *why);
uint32_t port_forward(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count, enum pdlb_refusal *why);
uint32_t port_release(struct pdlb_port *port, uint32_t count);
void port_release_later(struct pdlb_port *port, uint32_t count);
uint32_t port_in_flight(const struct pdlb_port *port);

/* Within a use: */
uint32_t port_take(struct port *port, struct pdlb_event *events, uint32_t max);
void port_complete(struct port *port, uint32_t count);
void port_return_tokens(struct port *port);
void port_arm(struct port *port);
/* Elements that the port was given and nobody received go back into their queues. */
void port_put_back(struct port *port);
/* Elements that wait in the ring. */
uint32_t port_unread(const struct port *port);

/* ---- wait.c -------------------------------------------------------------------------------------------------- */

int port_prepare_wait(struct pdlb_port *port, struct pdlb_error *error);
int port_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);
int port_fd(struct pdlb_port *port, struct pdlb_error *error);
void port_cancel(struct pdlb_port *port);
void port_signal(struct port *port);

#endif
