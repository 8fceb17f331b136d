/* A shelf: where connections lie that a worker process was picked for, until it takes them.
 *
 * It is a pair of connected sockets, of which the acceptor has both ends, and the worker the one to take from. The
 * kernel keeps a descriptor that lies there: taken by one and only one, and still there when a worker has died. */
#ifndef PDLB_ACCEPTOR_SHELF_H
#define PDLB_ACCEPTOR_SHELF_H

#include "pdlb_acceptor.h"

struct shelf {
  int put_fd, take_fd;
};

/* Result of all: 0 or -errno. */
int shelf_open(struct shelf *shelf);
/* Closes what lies there. Does nothing to one that is closed. */
void shelf_close(struct shelf *shelf);
/* The connection is the shelf's from now on, if that succeeds. */
int shelf_put(const struct shelf *shelf, const struct pdlb_accepted *accepted);
/* The oldest; -EAGAIN if there is none. -EMFILE, -ENFILE: there is no descriptor for it, and it lies there still;
 * -ECONNABORTED: there was none, and it is gone. `accepted->worker` is not set. */
int shelf_take(int take_fd, struct pdlb_accepted *accepted);
/* How many lie there. */
uint32_t shelf_count(const struct shelf *shelf);

#endif
