/* The device backend: a DLB by its kernel driver. What its sources share. */
#ifndef PDLB_DEVICE_H
#define PDLB_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend.h"
#include "system.h"

#define NUM_PORTS (PDLB_NUM_LDB_PORTS + PDLB_NUM_DIR_PORTS_V25) /* by index: load-balanced ones first */
#define NUM_KEYS 1024u                                          /* queue | scheduling type << 8 */

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
enum port_use { PORT_NONE = 0, PORT_RESTING, PORT_OPEN };

struct counts {
  uint64_t sent, received, released, wakes;
};

struct port {
  struct pdlb_port base;
  struct domain *domain;
  struct pdlb_qe line[PDLB_QES_PER_LINE] __attribute__((aligned(64)));

  /* Bit 0: somebody uses the port. Above it: releases that wait for whoever does. */
  _Atomic uint32_t state;
  _Atomic bool disabled;
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
  _Atomic uint64_t sent, received, released, wakes;

  _Atomic int event_fd; /* -1 until somebody waits */
  _Atomic bool cancelled, stalled;

  /* Under the domain's mutex. */
  enum port_use use;
  struct counts before; /* at the beginning of this life */
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
  _Atomic bool started, gone;
  bool device_started; /* under the mutex: the driver was asked */
  /* Elements that may be sent before one is received; on DLB 2.0, those of them that may be directed. */
  _Atomic uint32_t credits, directed_credits;
  bool directed_credits_apart;
  uint32_t credits_total;
  _Atomic uint8_t keys[NUM_KEYS]; /* of enum key */

  pthread_mutex_t mutex; /* control: guards what follows, and what ports say is under it */
  uint32_t open_ports;
  uint32_t ldb_queues; /* how many were created */
  uint32_t history_left, atomic_left;
  bool even[PDLB_NUM_LDB_QUEUES]; /* by queue: a port is given more only when it comes for it */
  struct port *_Atomic ports[NUM_PORTS];

  _Atomic uint64_t refused, lost, alerts;
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

/* ---- wait.c -------------------------------------------------------------------------------------------------- */

int port_prepare_wait(struct pdlb_port *port, struct pdlb_error *error);
int port_recv(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);
int port_fd(struct pdlb_port *port, struct pdlb_error *error);
void port_cancel(struct pdlb_port *port);
void port_signal(struct port *port);

#endif
