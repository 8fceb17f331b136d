/* How many connections wait to be accepted. */
#ifndef PDLB_ACCEPTOR_BACKLOG_H
#define PDLB_ACCEPTOR_BACKLOG_H

#include "listeners.h"

/* A descriptor by which the kernel is asked about UNIX sockets; -1 where it does not answer. */
struct backlog_monitor {
  int fd;
};

void backlog_monitor_open(struct backlog_monitor *monitor);
void backlog_monitor_close(struct backlog_monitor *monitor);
/* `exact`: whether it is the number; else it is 1 if there is any. */
uint32_t backlog_of(struct backlog_monitor *monitor, const struct listener *listener, bool *exact);

#endif
