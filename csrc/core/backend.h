/* What a backend offers: the verbs of pdlb.h, one table for each kind of handle. pdlb.c checks what every backend
 * would have to check, then calls through these.
 *
 * A backend's own structs begin with the matching one of these.
 */
#ifndef PDLB_BACKEND_H
#define PDLB_BACKEND_H

#include "pdlb.h"
#include "pdlb_settings.h"

/* What only hardware has. */
struct pdlb_device_settings {
  int (*sequence_group)(struct pdlb_device *device, uint32_t group, struct pdlb_sequence_group *result,
                        struct pdlb_error *error);
  int (*set_sequence_numbers)(struct pdlb_device *device, uint32_t group, uint32_t numbers, struct pdlb_error *error);
  int (*bandwidth)(struct pdlb_device *device, uint32_t service_class, struct pdlb_error *error);
  int (*set_bandwidth)(struct pdlb_device *device, uint32_t service_class, uint32_t percent, struct pdlb_error *error);
  int (*polls_sparse)(const struct pdlb_device *device);
  int (*read_register)(struct pdlb_device *device, uint32_t which, uint32_t id, uint32_t *value,
                       struct pdlb_error *error);
};

struct pdlb_port_settings {
  int (*set_weight)(struct pdlb_port *port, uint32_t weight, struct pdlb_error *error);
  int (*set_inflight_threshold)(struct pdlb_port *port, uint32_t threshold, struct pdlb_error *error);
};

struct pdlb_device_ops {
  const struct pdlb_device_settings *settings; /* NULL: there is no hardware */
  int (*close)(struct pdlb_device *device);
  int (*resources)(struct pdlb_device *device, struct pdlb_resources *total, struct pdlb_resources *available,
                   struct pdlb_error *error);
  int (*domain_create)(struct pdlb_device *device, const struct pdlb_domain_config *config, struct pdlb_domain **domain,
                       struct pdlb_error *error);
  int (*domain_join)(struct pdlb_device *device, const struct pdlb_shared *shared, uint32_t member,
                     struct pdlb_domain **domain, struct pdlb_error *error); /* NULL: cannot */
};

struct pdlb_domain_ops {
  int (*close)(struct pdlb_domain *domain);
  int (*start)(struct pdlb_domain *domain, struct pdlb_error *error);
  int (*stop)(struct pdlb_domain *domain, struct pdlb_error *error);
  int (*external_clock)(struct pdlb_domain *domain, bool external, struct pdlb_error *error);
  uint64_t (*tick)(struct pdlb_domain *domain, uint64_t now);
  int (*stats)(struct pdlb_domain *domain, struct pdlb_domain_stats *stats);
  int (*ldb_queue_create)(struct pdlb_domain *domain, const struct pdlb_ldb_queue_config *config,
                          struct pdlb_error *error);
  int (*dir_queue_create)(struct pdlb_domain *domain, uint32_t port, struct pdlb_error *error);
  int (*depth)(struct pdlb_domain *domain, uint32_t queue, bool directed, struct pdlb_error *error);
  int (*port_create)(struct pdlb_domain *domain, const struct pdlb_port_config *config, bool directed, uint32_t queue,
                     struct pdlb_port **port, struct pdlb_error *error);
  int (*share)(struct pdlb_domain *domain, struct pdlb_shared *shared, struct pdlb_error *error); /* NULL: cannot */
  int (*port_join)(struct pdlb_domain *domain, uint32_t id, bool directed, int doorbell_fd, struct pdlb_port **port,
                   struct pdlb_error *error);                                         /* NULL: cannot */
  int (*bury)(struct pdlb_domain *domain, uint32_t member, struct pdlb_error *error); /* NULL: cannot */
  uint32_t (*standing)(struct pdlb_domain *domain, uint64_t patience_ns);             /* NULL: nothing stands */
  uint32_t (*next)(const struct pdlb_domain *domain, uint32_t queue);                 /* NULL: cannot tell */
};

struct pdlb_port_ops {
  const struct pdlb_port_settings *settings; /* NULL: there is no hardware */
  int (*close)(struct pdlb_port *port);
  int (*link)(struct pdlb_port *port, uint32_t queue, uint32_t priority, struct pdlb_error *error);
  int (*unlink)(struct pdlb_port *port, uint32_t queue, struct pdlb_error *error);
  int (*enable)(struct pdlb_port *port, bool enabled, struct pdlb_error *error);
  uint32_t (*send)(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count, enum pdlb_refusal *why);
  uint32_t (*forward)(struct pdlb_port *port, const struct pdlb_event *events, uint32_t count, enum pdlb_refusal *why);
  int (*prepare_wait)(struct pdlb_port *port, struct pdlb_error *error); /* NULL: there is nothing to prepare */
  int (*recv)(struct pdlb_port *port, struct pdlb_event *events, uint32_t max, uint64_t deadline);
  uint32_t (*release)(struct pdlb_port *port, uint32_t count);
  void (*release_later)(struct pdlb_port *port, uint32_t count);
  uint32_t (*in_flight)(const struct pdlb_port *port);
  int (*fd)(struct pdlb_port *port, struct pdlb_error *error);
  void (*parked)(struct pdlb_port *port, bool parked);
  void (*expect)(struct pdlb_port *port);         /* NULL: it is signalled all the same */
  bool (*has_work)(const struct pdlb_port *port); /* NULL: not known */
  void (*cancel)(struct pdlb_port *port);
  int (*stats)(const struct pdlb_port *port, struct pdlb_port_stats *stats);
};

struct pdlb_device {
  const struct pdlb_device_ops *ops;
  enum pdlb_backend backend;
  uint32_t version;
};

struct pdlb_domain {
  const struct pdlb_domain_ops *ops;
  uint32_t id;
};

struct pdlb_port {
  const struct pdlb_port_ops *ops;
  uint32_t id;
  bool directed;
};

/* Fill `error`, if there is one, and return -err. */
__attribute__((format(printf, 4, 5))) int pdlb_fail(struct pdlb_error *error, int err, const char *op,
                                                    const char *format, ...);

#endif
