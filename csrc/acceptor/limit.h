/* What becomes of the next connection, by how many there are. */
#ifndef PDLB_ACCEPTOR_LIMIT_H
#define PDLB_ACCEPTOR_LIMIT_H

#include <stdint.h>

#define MAX_PARTING 256u

struct pdlb_acceptor;

/* A client that was told to go, until it has. */
struct parting {
  int fd;
  uint64_t until;
};

enum verdict { LIMITS_TAKE, LIMITS_LEAVE, LIMITS_REFUSE };

/* Under the mutex. `unpicked`: connections that were accepted, and no worker was picked for yet. */
enum verdict limits_judge(struct pdlb_acceptor *acceptor, uint32_t unpicked);
/* The thread, under the mutex: how many more there may be, where so many have a permit. */
uint32_t limits_room(struct pdlb_acceptor *acceptor, uint32_t permitted);
/* On duty, under the mutex: get rid of a connection that was accepted and is one too many. */
void limits_refuse(struct pdlb_acceptor *acceptor, int fd);
/* The thread. Close those that have gone. Returns when to look again. */
uint64_t limits_see_off(struct pdlb_acceptor *acceptor);
/* Any thread: a connection has ended. */
void limits_note_end(struct pdlb_acceptor *acceptor);
/* After the thread's end. */
void limits_end(struct pdlb_acceptor *acceptor);

#endif
