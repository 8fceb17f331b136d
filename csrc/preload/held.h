/* Duplicates of domains' descriptors that keep the domains alive while threads sleep in them, whoever closes the
 * program's own meanwhile. */
#ifndef PDLB_PRELOAD_HELD_H
#define PDLB_PRELOAD_HELD_H

/* A duplicate of the descriptor, or -1. */
int held_take(int fd);
void held_let_go(int held);

/* Around a fork, as pthread_atfork has them. A kernel keeps no such thing for a child, which has none of the threads:
 * neither does this. */
void held_before_fork(void);
void held_after_fork(void);
void held_after_fork_in_child(void);

#endif
