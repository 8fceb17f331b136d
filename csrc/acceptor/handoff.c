/* From whoever accepts to a worker: who is picked, what is sent, and what is taken back from one that does not come.
 * A connection waits in its slot all the while; what was sent for it before is stale once it is taken back. */
#include <string.h>
#include <sys/socket.h>

#include "internal.h"

#define LOOK_AGAIN_NS 1000000u
#define MOST_DOUBLINGS 8u

static void lock(struct pdlb_acceptor *acceptor) { pthread_mutex_lock(&acceptor->workers.mutex); }
static void unlock(struct pdlb_acceptor *acceptor) { pthread_mutex_unlock(&acceptor->workers.mutex); }

/* ---- picking ----------------------------------------------------------------------------------------------------- */

/* Under the lock, which is not held while the caller's own function is asked: that may wait for anything. */
static struct worker *ask_caller(struct pdlb_acceptor *acceptor, const struct pdlb_arrival *arrival) {
  const struct pdlb_policy_config policy = acceptor->workers.policy;
  unlock(acceptor);
  const uint32_t handle = policy.pick(policy.context, arrival);
  lock(acceptor);
  struct worker *worker = handle == PDLB_NONE ? NULL : workers_find(&acceptor->workers, handle);
  return worker && worker_may_be_picked(&acceptor->workers, worker) ? worker : NULL;
}

struct worker *handoff_pick(struct pdlb_acceptor *acceptor, const struct pdlb_arrival *arrival) {
  return acceptor->workers.policy.policy == PDLB_POLICY_CALLER ? ask_caller(acceptor, arrival)
                                                               : pick(&acceptor->workers, arrival);
}

/* Each time later, for who seemed to wait may be somewhere else. */
static uint64_t overdue_at(const struct workers *workers, const struct pdlb_accepted *accepted) {
  if (!workers->holds) return PDLB_FOREVER;
  const uint64_t since = accepted->offers ? pdlb_now() : accepted->accepted_at;
  return since + (workers->policy.grace_ns << (accepted->offers < MOST_DOUBLINGS ? accepted->offers : MOST_DOUBLINGS));
}

static struct pdlb_event token_for(uint32_t queue, uint64_t token, enum pdlb_sched sched) {
  return (struct pdlb_event){.data = token, .queue = (uint8_t)queue, .sched = pdlb_sched_byte(sched, 0)};
}

/* What lies on a process's shelf is known by this. */
static struct pdlb_event shelf_token(const struct workers *workers, const struct worker *worker) {
  return token_for(worker->queue, permit_make(PERMIT_SHELF, pdlb_now()),
                   workers->directed ? PDLB_SCHED_DIRECTED : PDLB_SCHED_UNORDERED);
}

/* What cannot lie on a shelf waits in its slot. */
static bool place_on_shelf(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t token,
                           struct pdlb_accepted *accepted, struct pdlb_event *event) {
  if (worker && worker_shelve(&acceptor->workers, worker, accepted)) {
    slots_give_back(&acceptor->slots, token);
    *event = shelf_token(&acceptor->workers, worker);
    return true;
  }
  accepted->worker = PDLB_NONE;
  slots_put(&acceptor->slots, token, accepted, PDLB_FOREVER);
  return false;
}

bool handoff_place(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t token,
                   struct pdlb_accepted *accepted, struct pdlb_event *event) {
  struct workers *workers = &acceptor->workers;
  const bool is_shared = workers->policy.queue != PDLB_NONE && !workers->processes;
  if (!worker && (!is_shared || workers->limit)) worker = pick_idlest(workers);
  if (worker && worker->full) acceptor_count(&acceptor->overflowed);
  if (workers->processes) return place_on_shelf(acceptor, worker, token, accepted, event);
  if (worker && !worker_assign(workers, worker, accepted->listener, token)) worker = NULL;
  accepted->worker = worker ? worker->handle : PDLB_NONE;
  slots_put(&acceptor->slots, token, accepted, worker ? PDLB_FOREVER : overdue_at(workers, accepted));
  const bool directed = worker && workers->directed;
  *event = token_for(worker ? worker->queue : workers->policy.queue, token,
                     directed ? PDLB_SCHED_DIRECTED : PDLB_SCHED_UNORDERED);
  return worker || is_shared;
}

/* Under the lock. There must be room among what is unsent. `worker` NULL: to whoever comes first; where there is no
 * queue for that, and nobody, it waits for somebody to be there. */
static void send_to(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t token,
                    struct pdlb_accepted *accepted) {
  if (handoff_place(acceptor, worker, token, accepted, &acceptor->unsent[acceptor->unsent_count]))
    acceptor->unsent_count++;
  else
    acceptor->homeless = true;
}

/* Under the lock, which may be left for a moment. */
static void route(struct pdlb_acceptor *acceptor, uint64_t token, struct pdlb_accepted *accepted, const void *address,
                  uint32_t address_size) {
  const struct pdlb_arrival arrival = {
      .listener = accepted->listener,
      .current = PDLB_NONE,
      .family = address_size >= sizeof(sa_family_t) ? ((const struct sockaddr *)address)->sa_family : accepted->family,
      .address_size = address_size,
      .address = address,
  };
  send_to(acceptor, handoff_pick(acceptor, &arrival), token, accepted);
}

bool handoff_send(struct pdlb_acceptor *acceptor) {
  if (acceptor->unsent_count == 0) return true;
  enum pdlb_refusal why;
  if (acceptor->refused_before) acceptor_count(&acceptor->retries);
  const uint32_t sent = pdlb_port_send(acceptor->port, acceptor->unsent, acceptor->unsent_count, &why);
  acceptor->unsent_count -= sent;
  memmove(acceptor->unsent, acceptor->unsent + sent, acceptor->unsent_count * sizeof *acceptor->unsent);
  acceptor->refused_before = acceptor->unsent_count != 0;
  if (why != PDLB_TAKEN && why != PDLB_NO_CREDIT) acceptor->send_trouble = why;
  return acceptor->unsent_count == 0;
}

/* ---- sending again -------------------------------------------------------------------------------------------------
 */

/* Under the lock: what waits in a slot goes to whom it was picked for, if that worker is there still. */
static void send_again(struct pdlb_acceptor *acceptor, uint64_t token, struct pdlb_accepted *accepted) {
  struct worker *worker = accepted->worker == PDLB_NONE ? NULL : workers_find(&acceptor->workers, accepted->worker);
  if (worker) {
    worker_not_waiting(worker);
    worker_close(&acceptor->workers, worker, accepted->listener);
    if (worker->state != WORKER_ACTIVE || worker->queue == PDLB_NONE) worker = NULL;
  }
  acceptor_count(&acceptor->resent);
  send_to(acceptor, worker, token, accepted);
}

bool handoff_resend(struct pdlb_acceptor *acceptor) {
  struct resend *resend = &acceptor->resend;
  while (resend->left && handoff_send(acceptor)) {
    lock(acceptor);
    while (resend->left && acceptor->unsent_count < MAX_BATCH) {
      const uint32_t index = acceptor->slots.count - resend->left--;
      uint64_t token;
      struct pdlb_accepted accepted;
      if (slots_withdraw_at(&acceptor->slots, index, resend->homeless_only, &token, &accepted))
        send_again(acceptor, token, &accepted);
    }
    unlock(acceptor);
  }
  return handoff_send(acceptor) && resend->left == 0;
}

/* Under the lock: somebody is there again. */
static void house_homeless(struct pdlb_acceptor *acceptor) {
  if (!acceptor->homeless || acceptor->resend.left || !pick_idlest(&acceptor->workers)) return;
  acceptor->homeless = false;
  acceptor->resend = (struct resend){.left = acceptor->slots.count, .homeless_only = true};
}

void handoff_fresh(struct pdlb_acceptor *acceptor) {
  if (acceptor->fresh_count) lock(acceptor);
  if (acceptor->fresh_count) workers_see(&acceptor->workers);
  for (uint32_t i = 0; i < acceptor->fresh_count; i++) {
    struct fresh *fresh = &acceptor->fresh[i];
    route(acceptor, fresh->token, &fresh->accepted, &fresh->address, fresh->address_size);
  }
  if (acceptor->fresh_count) unlock(acceptor);
  acceptor->fresh_count = 0;
  handoff_send(acceptor);
}

/* ---- taking back ---------------------------------------------------------------------------------------------------
 */

/* What it has taken meanwhile is not waiting for it. */
static void forget_taken(struct pdlb_acceptor *acceptor, struct worker *worker) {
  if (acceptor->config.board) {
    worker_see(&acceptor->workers, worker);
    /* One that has ended has what lies on its shelf, and no more. */
    if (!worker->seat && shelf_count(&worker->shelf) == 0) worker->head = worker->tail;
    return;
  }
  while (worker->head != worker->tail &&
         !slots_waits(&acceptor->slots, worker->assigned[worker->head & (worker->size - 1)].token))
    worker->head++;
}

/* Where all share a queue, whoever comes takes from it. */
static bool another_may_have_it(const struct workers *workers, const struct worker *worker) {
  if (workers->policy.queue != PDLB_NONE && !workers->processes) return true;
  for (uint32_t place = 0; place < workers->count; place++) {
    const struct worker *other = &workers->table[place];
    if (other != worker && worker_may_be_picked(workers, other)) return true;
  }
  return false;
}

static bool another_is_idle(const struct workers *workers, const struct worker *worker) {
  for (uint32_t place = 0; place < workers->count; place++) {
    const struct worker *other = &workers->table[place];
    if (other != worker && worker_may_be_picked(workers, other) && worker_waiting(other) == 0) return true;
  }
  return false;
}

/* Under the lock: whether what waits for it is to go to others now; else when to look again. */
static bool is_to_lose(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t now, uint64_t *look_at) {
  forget_taken(acceptor, worker);
  if (worker->head == worker->tail) {
    if (worker->state == WORKER_LEAVING) workers_drop(worker);
    return false;
  }
  const uint64_t grace = acceptor->workers.policy.grace_ns;
  if (worker->state != WORKER_ACTIVE) return true;
  if (atomic_load_explicit(&worker->stalled, memory_order_relaxed)) {
    if (another_may_have_it(&acceptor->workers, worker)) return true;
    if (now + grace < *look_at) *look_at = now + grace;
    return false;
  }
  const uint64_t since = worker->assigned[worker->head & (worker->size - 1)].at;
  const uint64_t due = (since > worker->came_at ? since : worker->came_at) + grace;
  if (due <= now && another_is_idle(&acceptor->workers, worker)) {
    atomic_store_explicit(&worker->stalled, true, memory_order_relaxed);
    return true;
  }
  const uint64_t again = due > now ? due : now + grace;
  if (again < *look_at) *look_at = again;
  return false;
}

/* One that was reserved for the connection that is accepted next will do. */
static bool get_slot(struct pdlb_acceptor *acceptor, uint64_t *token) {
  if (slots_reserve(&acceptor->slots, token)) return true;
  if (!acceptor->has_reserved) return false;
  *token = acceptor->reserved;
  acceptor->has_reserved = false;
  return true;
}

/* Under the lock: the oldest that lies on its shelf, with a slot of its own. */
static bool take_from_shelf(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t *token,
                            struct pdlb_accepted *accepted) {
  if (!get_slot(acceptor, token)) return false;
  if (worker_unshelve(worker, accepted)) {
    acceptor_count(&acceptor->taken_back);
    return true;
  }
  slots_give_back(&acceptor->slots, *token);
  return false;
}

/* Under the lock: the oldest that waits for it, under a new token, with what was counted for it. */
static bool take_oldest(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t *token,
                        struct pdlb_accepted *accepted) {
  if (acceptor->config.board) return take_from_shelf(acceptor, worker, token, accepted);
  while (worker->head != worker->tail) {
    const uint64_t old = worker->assigned[worker->head++ & (worker->size - 1)].token;
    if (!slots_withdraw(&acceptor->slots, old, token, accepted)) continue;
    worker_not_waiting(worker);
    worker_close(&acceptor->workers, worker, accepted->listener);
    acceptor_count(&acceptor->taken_back);
    return true;
  }
  return false;
}

/* What waited for a worker that left goes where the policy says. What waited for one that stalls has waited long
 * enough: it goes to whoever comes first. */
static void give_away(struct pdlb_acceptor *acceptor, const struct worker *worker, uint64_t token,
                      struct pdlb_accepted *accepted) {
  struct sockaddr_storage address;
  if (worker->state == WORKER_ACTIVE) {
    send_to(acceptor, NULL, token, accepted);
    return;
  }
  const socklen_t size = proxied_client(accepted, &address);
  route(acceptor, token, accepted, &address, size);
}

static bool somebody_waits(const struct workers *workers) {
  for (uint32_t place = 0; place < workers->count; place++) {
    const struct worker *worker = &workers->table[place];
    if (worker->state == WORKER_ACTIVE && worker->weight && worker->waits) return true;
  }
  return false;
}

bool handoff_waits(const struct pdlb_acceptor *acceptor) {
  return atomic_load_explicit(&acceptor->accepted, memory_order_relaxed) !=
         atomic_load_explicit(&acceptor->taken, memory_order_relaxed) +
             atomic_load_explicit(&acceptor->refused, memory_order_relaxed) + intake_closed(&acceptor->intake);
}

/* Under the lock: a device gives what its queue has to ports with room at once, so with somebody who waits, what is
 * overdue stands before one that does not come. It is sent again; what stands there is stale. Returns when to look
 * again. */
static uint64_t take_back_held(struct pdlb_acceptor *acceptor, uint64_t now) {
  const struct workers *workers = &acceptor->workers;
  uint64_t look_at = PDLB_FOREVER;
  if (!workers->holds || workers->policy.queue == PDLB_NONE || !handoff_waits(acceptor)) return look_at;
  const bool may = acceptor->unsent_count == 0 && !acceptor->resend.left && somebody_waits(workers);
  for (uint32_t index = 0; index < acceptor->slots.count && acceptor->unsent_count < MAX_BATCH; index++) {
    const uint64_t overdue = slots_overdue_at(&acceptor->slots, index);
    const uint64_t again = overdue > now ? overdue : now + workers->policy.grace_ns;
    uint64_t token;
    struct pdlb_accepted accepted;
    if (overdue == PDLB_FOREVER) continue;
    if (again < look_at) look_at = again;
    if (!may || overdue > now || !slots_withdraw_at(&acceptor->slots, index, true, &token, &accepted)) continue;
    acceptor_count(&acceptor->taken_back);
    accepted.offers++;
    send_to(acceptor, NULL, token, &accepted);
  }
  return look_at;
}

/* Under the lock: a process that came since, and left something on its shelf for want of descriptors, is told again. */
static void remind(struct pdlb_acceptor *acceptor, struct worker *worker, uint64_t now) {
  if (!worker->seat || worker->head == worker->tail || worker->came_at <= worker->reminded_at) return;
  const uint64_t since = worker->assigned[worker->head & (worker->size - 1)].at;
  if (now - since < acceptor->workers.policy.grace_ns || acceptor->unsent_count == MAX_BATCH) return;
  worker->reminded_at = now;
  acceptor->unsent[acceptor->unsent_count++] = shelf_token(&acceptor->workers, worker);
}

uint64_t handoff_look(struct pdlb_acceptor *acceptor) {
  struct workers *workers = &acceptor->workers;
  uint64_t look_at = PDLB_FOREVER;
  lock(acceptor);
  const uint64_t now = pdlb_now();
  for (uint32_t place = 0; place < workers->count; place++) {
    struct worker *worker = &workers->table[place];
    if (worker->state == WORKER_UNUSED) continue;
    if (!is_to_lose(acceptor, worker, now, &look_at)) {
      if (worker->state == WORKER_ACTIVE) remind(acceptor, worker, now);
      continue;
    }
    uint64_t token;
    struct pdlb_accepted accepted;
    while (acceptor->unsent_count < MAX_BATCH && take_oldest(acceptor, worker, &token, &accepted))
      give_away(acceptor, worker, token, &accepted);
    look_at = now + LOOK_AGAIN_NS; /* there may be more, and others have what this one had */
  }
  const uint64_t held = take_back_held(acceptor, now);
  if (held < look_at) look_at = held;
  house_homeless(acceptor);
  if (acceptor->config.board && acceptor->homeless && now + LOOK_AGAIN_NS < look_at) look_at = now + LOOK_AGAIN_NS;
  if (!acceptor->config.board && !acceptor->resend.left &&
      atomic_exchange_explicit(&acceptor->token_lost, false, memory_order_acquire))
    acceptor->resend = (struct resend){.left = acceptor->slots.count, .homeless_only = true};
  unlock(acceptor);
  handoff_send(acceptor);
  return acceptor->resend.homeless_only && acceptor->resend.left ? now : look_at;
}

/* ---- who has what --------------------------------------------------------------------------------------------------
 */

void handoff_note_take(struct pdlb_acceptor *acceptor, uint32_t handle, const struct pdlb_accepted *accepted) {
  lock(acceptor);
  struct worker *taker = handle == PDLB_NONE ? NULL : workers_find(&acceptor->workers, handle);
  struct worker *picked = accepted->worker == PDLB_NONE ? NULL : workers_find(&acceptor->workers, accepted->worker);
  if (picked) worker_not_waiting(picked);
  if (picked != taker) {
    if (picked) worker_close(&acceptor->workers, picked, accepted->listener);
    if (taker) worker_open(&acceptor->workers, taker, accepted->listener);
  }
  if (taker) worker_came(taker, false);
  unlock(acceptor);
}

void pdlb_acceptor_came(struct pdlb_acceptor *acceptor, uint32_t handle, bool waits) {
  lock(acceptor);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) worker_came(worker, waits);
  unlock(acceptor);
}

void pdlb_acceptor_closed(struct pdlb_acceptor *acceptor, uint32_t handle, uint32_t listener) {
  lock(acceptor);
  struct worker *worker = workers_find(&acceptor->workers, handle);
  if (worker) worker_close(&acceptor->workers, worker, listener);
  unlock(acceptor);
  limits_note_end(acceptor);
}
