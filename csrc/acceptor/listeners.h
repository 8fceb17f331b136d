/* The sockets that are accepted from, and the epoll set in which the thread waits for them. */
#ifndef PDLB_ACCEPTOR_LISTENERS_H
#define PDLB_ACCEPTOR_LISTENERS_H

#include <stdbool.h>
#include <stdint.h>

#include "pdlb_acceptor.h"

#define MAX_LISTENERS 1024u

enum listener_state { LISTENER_UNUSED = 0, LISTENER_OPEN, LISTENER_DRAINING };

struct listener {
  enum listener_state state;
  int fd;
  int family, protocol;
  uint32_t id;
  bool for_workers; /* they accept from it: it belongs into the set of the door, else into the thread's own */
  int watched_by;   /* the epoll set that it is in, -1 for none */
  int led_by;       /* and that of the worker that leads, -1 for none */
  bool ready;       /* the thread's own set, or the leader's, told of it, and it has not had its turn since */
  enum pdlb_proxy proxy;
  uint32_t last_looks;
  uint64_t accepted_at; /* when the last connection came from it */
};

/* To be used under one lock. */
struct listeners {
  int epoll_fd;
  int door_fd;        /* the epoll set that workers look into who accept by themselves; -1 if none does */
  int lead_fd;        /* the epoll set in which the worker sleeps that accepts next; -1 if the thread does */
  uint64_t lead_mark; /* by which that worker knows the entry */
  bool arrivals_only; /* the epoll set tells of each connection once, though it is left in the backlog */
  uint32_t next_id;
  uint32_t count; /* places of the table ever used */
  uint32_t turn;  /* the place that is served first next time */
  struct listener table[MAX_LISTENERS];
};

/* Accept from a duplicate of `fd`. Returns its id, or -errno. */
int listeners_add(struct listeners *listeners, int fd, enum pdlb_proxy proxy);
/* NULL if there is none, or no more. */
struct listener *listeners_find(struct listeners *listeners, uint32_t id);
/* Whether accept will find something, or a reason why there is nothing. An accept that finds nothing has made a file
 * for it before: to ask first costs a tenth of that. */
bool listener_has_more(const struct listener *listener);
void listeners_drop(struct listeners *listeners, struct listener *listener);
void listeners_drop_all(struct listeners *listeners);
void listeners_drain_all(struct listeners *listeners);
bool listeners_any(const struct listeners *listeners);
bool listeners_draining(const struct listeners *listeners);
/* Of those that a worker leads at, let have a turn which have something. False if none does. */
bool listeners_ask(struct listeners *listeners);
/* Whether one of those that the thread or a leader accepts from has something. */
bool listeners_have_more(const struct listeners *listeners);
/* Let all of them have a turn. */
void listeners_look(struct listeners *listeners);
/* Let the epoll sets be readable for connections, or not. False if one cannot be watched for want of memory. */
bool listeners_watch(struct listeners *listeners, bool wanted);

#endif
