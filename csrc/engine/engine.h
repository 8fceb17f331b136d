/* The scheduler engine: queues, priorities, flows, ordering, credits, tokens in flight, and which port gets the next
 * element. It does no I/O, allocates nothing and starts nothing; it works on one contiguous region without pointers,
 * so that threads (anonymous memory) and processes (shared memory) can use the same one.
 *
 * Two drivers: the software backend pulls (a port that receives asks for its next elements), the emulated device
 * pumps (it asks on behalf of each consumer queue with room).
 *
 * Whoever must be woken is told through the host's `wake`, always with no lock held.
 */
#ifndef PDLB_ENGINE_H
#define PDLB_ENGINE_H

#include <stdatomic.h>
#include <stddef.h>

#include "pdlb.h"

/* What the engine asks of the world around it. */
struct pdlb_engine_host {
  /* `port` was idle and has been chosen to look for work; its idle mark is gone. `late` is PDLB_NONE, or another idle
   * port that is to look after the queue's grace (ns) if nobody has taken the work by then. */
  void (*wake)(void *context, uint32_t port, uint32_t late, uint64_t grace);
  /* CLOCK_MONOTONIC in nanoseconds, never 0. Asked for only where a queue shares evenly or a clock outside ticks. */
  uint64_t (*now)(void *context);
  /* A lock is held by somebody else; called again and again until it is free. True if it is known here that the owner
   * is dead: then the engine buries it. */
  bool (*relax)(void *context, uint32_t owner, uint32_t times);
};

/* What the region is sized for; fixed for its life. */
struct pdlb_engine_config {
  uint32_t ldb_queues;
  uint32_t dir_queues;
  uint32_t ldb_ports;
  uint32_t dir_ports;
  uint32_t credits;
  uint32_t history_entries;
  uint32_t order_slots; /* the most sequence numbers of one queue */
};

/* One process's handle on a region. Plain data: copy it, drop it. */
struct pdlb_engine {
  struct engine_header *header;
  struct engine_queue *queues; /* load-balanced queues first, then directed ones */
  struct engine_port *ports;   /* load-balanced ports first, then directed ones */
  _Atomic uint64_t *idle;      /* the set of idle ports; after it a word that is all ones */
  char *base;
  const struct pdlb_engine_host *host;
  void *context;
  uint32_t owner; /* what this process writes into a lock that it holds; never 0 */
};

/* A port as the thread that uses it holds it: what it needs for each element at hand, so that it need not be looked up.
 */
struct pdlb_engine_user {
  struct pdlb_engine *engine;
  struct engine_port *port;
  char *base;                     /* the engine's, as the next two */
  const _Atomic uint32_t *routes; /* where queues lie, by what elements tell */
  const _Atomic uint64_t *idle;
  _Atomic uint64_t *history; /* the port's slice of the history list */
  char *flows;               /* the flow words of load-balanced queue 0; those of the next one are */
  uint64_t flows_stride;     /* so many bytes further on */
  struct pdlb_event *rings;  /* queue 0's of the highest priority; then those of the others, and of the next queue */
  /* The queue that the port is linked to, where it is but one: as the port's only link was when last looked at. */
  struct engine_queue *queue;
  _Atomic uint32_t *queue_flows; /* its flow words */
  struct pdlb_event *queue_ring; /* its ring of the highest priority */
  uint64_t queue_entry;          /* what a history says of one atomic element of it, but for the flow; or of nothing */
  uint32_t only;                 /* that link; or what no link is, and `queue` is one without elements */
  uint32_t holds_one;            /* what a flow word says while one element of the flow is in flight on the port */
  uint32_t index;
  uint32_t owner;     /* the engine's */
  uint32_t ring_mask; /* a ring's places less one */
  bool wide;          /* this processor has what front_wide.h takes */
};

size_t pdlb_engine_size(const struct pdlb_engine_config *config);
/* `region`: page-aligned, zeroed, of pdlb_engine_size(config) bytes. */
void pdlb_engine_format(void *region, const struct pdlb_engine_config *config);
void pdlb_engine_attach(struct pdlb_engine *engine, void *region, const struct pdlb_engine_host *host, void *context,
                        uint32_t owner);

/* ---- control: any thread; the engine serialises it. Results are ids, or -errno with `*why` a sentence. -------- */

int pdlb_engine_start(struct pdlb_engine *engine, const char **why);
int pdlb_engine_stop(struct pdlb_engine *engine, const char **why);
bool pdlb_engine_started(const struct pdlb_engine *engine);

int pdlb_engine_ldb_queue_create(struct pdlb_engine *engine, const struct pdlb_ldb_queue_config *config,
                                 const char **why);
int pdlb_engine_dir_queue_create(struct pdlb_engine *engine, uint32_t port, const char **why);
int pdlb_engine_port_create(struct pdlb_engine *engine, const struct pdlb_port_config *config, bool directed,
                            uint32_t queue, const char **why);
/* The port's user has stopped. Releases what it holds, unlinks and forgets it. */
void pdlb_engine_port_destroy(struct pdlb_engine *engine, uint32_t port);
int pdlb_engine_link(struct pdlb_engine *engine, uint32_t port, uint32_t queue, uint32_t priority, const char **why);
int pdlb_engine_unlink(struct pdlb_engine *engine, uint32_t port, uint32_t queue, const char **why);
bool pdlb_engine_port_exists(const struct pdlb_engine *engine, uint32_t id, bool directed);
void pdlb_engine_port_enable(struct pdlb_engine *engine, uint32_t port, bool enabled);

/* Here and below, queues and ports of both kinds are indexed in one row each: load-balanced ones by their id, directed
 * ones by their id after all load-balanced ones (pdlb_engine_queue_index, pdlb_engine_port_index in region.h). */

/* `queue`: an index into engine->queues. -EINVAL if it was not created. */
int pdlb_engine_depth(const struct pdlb_engine *engine, uint32_t queue);

/* ---- data path: one thread per port ------------------------------------------------------------------------------ */

/* This process uses the port, `port` being an index, from now on. */
void pdlb_engine_use(struct pdlb_engine *engine, uint32_t port, struct pdlb_engine_user *user);
/* Any thread: the host wants to be asked before the port is given anything, or no longer. That is for who inlines
 * one.h; the functions below do not heed it. */
void pdlb_engine_heed_host(struct pdlb_engine *engine, uint32_t port, bool heed);

uint32_t pdlb_engine_send(const struct pdlb_engine_user *user, const struct pdlb_event *events, uint32_t count,
                          enum pdlb_refusal *why);
uint32_t pdlb_engine_forward(const struct pdlb_engine_user *user, const struct pdlb_event *events, uint32_t count,
                             enum pdlb_refusal *why);
/* Up to `max` elements for the port. Where it held back because another port is due first, `*retry_at` is lowered to
 * the time at which it is to look again, to have what that port may lose; `retry_at` may be NULL. */
uint32_t pdlb_engine_schedule(struct pdlb_engine_user *user, struct pdlb_event *events, uint32_t max,
                              uint64_t *retry_at);
/* Up to `most` elements: what each port of a queue may take without taking more than others can. `user` serves it, and
 * no other; else 1. */
uint32_t pdlb_engine_share(const struct pdlb_engine_user *user, uint32_t most);
/* Whether the next element is known to wait, without a look at what senders write. */
bool pdlb_engine_knows_next(const struct pdlb_engine_user *user);
uint32_t pdlb_engine_release(const struct pdlb_engine_user *user, uint32_t count);
/* Any thread; `port` is an index, as everywhere below. */
void pdlb_engine_release_later(struct pdlb_engine *engine, uint32_t port, uint32_t count);

/* ---- waiting --------------------------------------------------------------------------------------------------- */

/* Mark the port idle: from now on it may be chosen by `wake`, once. The caller must look for work again after this
 * and before it sleeps (pdlb_engine_has_work). */
void pdlb_engine_arm(struct pdlb_engine *engine, uint32_t port);
/* Take the mark back; false if `wake` has been or is being called for the port. */
bool pdlb_engine_disarm(struct pdlb_engine *engine, uint32_t port);
bool pdlb_engine_armed(const struct pdlb_engine *engine, uint32_t port);
/* Whether pdlb_engine_schedule could find something, for a port that considers going to sleep. */
bool pdlb_engine_has_work(const struct pdlb_engine *engine, uint32_t port);
/* What is known of an armed port. One that never told is believed to be idle; one that tells is chosen only while it
 * is parked. Returns what was known before. */
enum pdlb_presence { PDLB_UNKNOWN = 0, PDLB_PARKED, PDLB_AWAKE };
enum pdlb_presence pdlb_engine_presence(struct pdlb_engine *engine, uint32_t port, enum pdlb_presence presence);
/* The idle port that would be woken for what is sent to the queue next, all ones if there is none. */
uint32_t pdlb_engine_next(const struct pdlb_engine *engine, uint32_t queue);
/* Offer what waits to another idle port where the first has let the grace pass; of an even queue, have an idle port
 * look whether it has. Returns the next time to call. */
uint64_t pdlb_engine_tick(struct pdlb_engine *engine, uint64_t now);
/* A clock outside calls pdlb_engine_tick: `wake` then names no late port. */
void pdlb_engine_external_clock(struct pdlb_engine *engine, bool external);
bool pdlb_engine_has_clock(const struct pdlb_engine *engine);

/* ---- after a death ----------------------------------------------------------------------------------------------- */

/* The process that called itself `owner` is dead: finish or undo what it was in the middle of, free its locks, hand on
 * what it was about to tell others. Its ports are given nothing any more; what they hold is released when they are
 * destroyed. Any thread that holds no lock. Returns how many elements had left their queues and had not yet come to be
 * held by its ports: they are gone. */
uint32_t pdlb_engine_bury(struct pdlb_engine *engine, uint32_t owner);

/* ---- numbers: any thread ------------------------------------------------------------------------------------------
 */

uint32_t pdlb_engine_in_flight(const struct pdlb_engine *engine, uint32_t port);
void pdlb_engine_port_stats(const struct pdlb_engine *engine, uint32_t port, struct pdlb_port_stats *stats);
void pdlb_engine_stats(const struct pdlb_engine *engine, struct pdlb_domain_stats *stats);

#endif
