/* Permits to accept, for workers in other processes.
 *
 * A descriptor that is on its way to another process would be lost if that one died. So nothing is on its way:
 * connections stay in the kernel's backlog, and what travels through the queue is the permit to accept one. Permits
 * are worth nothing by themselves. There should be as many as there are connections that wait; if a worker dies with
 * one, or the guess was wrong, the next look puts it right, and one too many finds nothing to accept.
 */
#include "board.h"
#include "internal.h"

/* While anything is in a backlog, look again after so long. */
#define LOOK_AGAIN_NS 1000000u

/* Who has not used a permit for so long does not count: it was stopped, or died. */
#define IN_HAND_NS 100000000u

/* And that is readable for ever once it was shut down: looks until it must be empty. */
#define LAST_LOOKS 50u

/* Permits that workers have received and are about to use. */
static uint32_t in_hand(struct pdlb_acceptor *acceptor, uint64_t now) {
  const struct pdlb_board *board = acceptor->config.board;
  uint64_t count = 0;
  for (uint32_t index = 0; index < pdlb_board_seats(board); index++) {
    const struct seat *seat = &board->seats[index];
    struct last_seen *last = &acceptor->last_seen[index];
    const uint64_t settled = atomic_load_explicit(&seat->settled, memory_order_acquire), mine = board_in_hand(seat);
    if (mine == 0 || settled != last->settled) *last = (struct last_seen){.settled = settled, .at = now};
    if (now - last->at < IN_HAND_NS) count += mine;
  }
  return count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
}

/* Where permits are sent: to a queue that all workers share. And how long one may stand before a worker. */
static uint32_t queue_of(struct pdlb_acceptor *acceptor, uint64_t *patience_ns) {
  pthread_mutex_lock(&acceptor->workers.mutex);
  const uint32_t queue = acceptor->workers.policy.queue;
  *patience_ns = acceptor->workers.policy.grace_ns;
  pthread_mutex_unlock(&acceptor->workers.mutex);
  return queue;
}

/* What no worker has received yet. A device gives it to one before that comes for it; if that does not come, another
 * gets another permit. */
static uint32_t queued_in(const struct pdlb_acceptor *acceptor, uint32_t queue, uint64_t patience_ns) {
  const uint32_t standing = pdlb_domain_standing(acceptor->domain, patience_ns);
  const int depth = pdlb_ldb_queue_depth(acceptor->domain, queue, NULL);
  return standing + (depth > 0 ? (uint32_t)depth : 0);
}

static void send_permits(struct pdlb_acceptor *acceptor, uint32_t queue, uint32_t listener, uint32_t count) {
  struct pdlb_event permits[MAX_BATCH];
  const uint64_t permit = permit_make(listener, pdlb_now());
  while (count) {
    const uint32_t batch = count < MAX_BATCH ? count : MAX_BATCH;
    for (uint32_t i = 0; i < batch; i++)
      permits[i] = (struct pdlb_event){
          .data = permit,
          .queue = (uint8_t)queue,
          .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0),
      };
    enum pdlb_refusal why;
    if (pdlb_port_send(acceptor->port, permits, batch, &why) < batch) return; /* no credit: at the next look */
    count -= batch;
  }
}

static bool is_drained(struct pdlb_acceptor *acceptor, struct listener *listener, uint32_t backlog, bool exact,
                       uint32_t issued) {
  if (listener->state != LISTENER_DRAINING) return false;
  /* A permit that is queued still will find nothing; but a worker may just be accepting the last one. */
  if (backlog == 0) return issued == 0 || in_hand(acceptor, pdlb_now()) == 0;
  return !exact && issued == 0 && ++listener->last_looks > LAST_LOOKS;
}

/* What is too much stays where it is, or is got rid of. */
static void refuse(struct pdlb_acceptor *acceptor, struct listener *listener, uint32_t count) {
  if (acceptor->limits.when_full != PDLB_FULL_RESET && acceptor->limits.when_full != PDLB_FULL_REPLY) return;
  while (count && acceptor_refuse_one(acceptor, listener)) count--;
}

uint64_t permits_issue(struct pdlb_acceptor *acceptor) {
  struct listeners *listeners = &acceptor->listeners;
  uint64_t patience_ns;
  const uint32_t queue = queue_of(acceptor, &patience_ns);
  const uint32_t queued = queued_in(acceptor, queue, patience_ns);
  uint32_t issued = queued + in_hand(acceptor, pdlb_now()), all = issued;
  bool again = false;
  for (uint32_t place = 0; place < listeners->count; place++) {
    struct listener *listener = &listeners->table[place];
    if (listener->state == LISTENER_UNUSED) continue;
    bool exact;
    const uint32_t backlog = backlog_of(&acceptor->monitor, listener, &exact);
    if (backlog > issued) {
      const uint32_t wanted = backlog - issued, room = limits_room(acceptor, all);
      const uint32_t granted = wanted < room ? wanted : room;
      send_permits(acceptor, queue, listener->id, granted);
      refuse(acceptor, listener, wanted - granted);
      all += granted;
    }
    if (is_drained(acceptor, listener, backlog, exact, issued)) listeners_drop(listeners, listener);
    again |= backlog != 0 || listener->state == LISTENER_DRAINING;
    issued -= backlog < issued ? backlog : issued;
  }
  acceptor->behind = queued;
  return again ? pdlb_now() + LOOK_AGAIN_NS : PDLB_FOREVER;
}
