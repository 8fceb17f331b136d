#include "workers.h"

#include <stdlib.h>
#include <string.h>

#define PLACE_BITS 10
#define FIRST_SIZE 64u

_Static_assert(MAX_WORKERS == 1u << PLACE_BITS, "a handle names a place");

struct worker *workers_add(struct workers *workers, uint32_t queue) {
  uint32_t place = 0;
  while (place < workers->count && workers->table[place].state != WORKER_UNUSED) place++;
  if (place == MAX_WORKERS) return NULL;
  struct worker *worker = &workers->table[place];
  if (!worker->assigned) worker->assigned = calloc(FIRST_SIZE, sizeof *worker->assigned);
  if (!worker->by_listener) worker->by_listener = calloc(COUNTED_LISTENERS, sizeof *worker->by_listener);
  if (!worker->assigned || !worker->by_listener) return NULL;
  if (place == workers->count) workers->count++;
  if (!worker->size) worker->size = FIRST_SIZE;
  memset(worker->by_listener, 0, COUNTED_LISTENERS * sizeof *worker->by_listener);
  worker->head = worker->tail = 0;
  /* From 1: no handle is 0, and none is PDLB_NONE for four million workers. */
  const uint32_t count = (worker->handle >> PLACE_BITS) + 1;
  worker->handle = count << PLACE_BITS | place;
  worker->state = WORKER_ACTIVE;
  worker->queue = queue;
  worker->weight = PDLB_WEIGHT;
  worker->added = workers->added++;
  worker->full = false;
  worker->turn = 0;
  worker->came_at = 0;
  worker->waits = false;
  worker->loop_fd = -1;
  worker->seat = NULL;
  worker->shelf = (struct shelf){.put_fd = -1, .take_fd = -1};
  worker->shelved = worker->unshelved = worker->steps = worker->reminded_at = 0;
  atomic_store_explicit(&worker->stalled, false, memory_order_relaxed);
  atomic_store_explicit(&worker->open, 0, memory_order_relaxed);
  atomic_store_explicit(&worker->waiting, 0, memory_order_relaxed);
  return worker;
}

struct worker *workers_find(struct workers *workers, uint32_t handle) {
  struct worker *worker = &workers->table[handle & (MAX_WORKERS - 1)];
  return worker->state != WORKER_UNUSED && worker->handle == handle ? worker : NULL;
}

void workers_drop(struct worker *worker) {
  worker->state = WORKER_UNUSED;
  shelf_close(&worker->shelf);
}

void workers_free(struct workers *workers) {
  for (uint32_t place = 0; place < workers->count; place++) {
    if (workers->table[place].state != WORKER_UNUSED) workers_drop(&workers->table[place]);
    free(workers->table[place].assigned);
    free(workers->table[place].by_listener);
  }
}

static void add(_Atomic uint32_t *counter, uint32_t by) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
}

static bool grow(struct worker *worker) {
  struct assigned *larger = calloc(2 * (size_t)worker->size, sizeof *larger);
  if (!larger) return false;
  for (uint32_t i = worker->head; i != worker->tail; i++)
    larger[i & (2 * worker->size - 1)] = worker->assigned[i & (worker->size - 1)];
  free(worker->assigned);
  worker->assigned = larger;
  worker->size *= 2;
  return true;
}

bool worker_assign(const struct workers *workers, struct worker *worker, uint32_t listener, uint64_t token) {
  if (worker->tail - worker->head == worker->size && !grow(worker)) return false;
  worker->assigned[worker->tail++ & (worker->size - 1)] =
      (struct assigned){.token = token, .at = pdlb_now(), .listener = listener};
  add(&worker->waiting, 1);
  worker_open(workers, worker, listener);
  return true;
}

/* Full at the limit; not full any more where it is to be so. */
static void note_fullness(const struct workers *workers, struct worker *worker) {
  const uint32_t open = atomic_load_explicit(&worker->open, memory_order_relaxed);
  worker->full = workers->limit && open > (worker->full ? workers->limit_again : workers->limit - 1);
}

void workers_set_limit(struct workers *workers, uint32_t limit, uint32_t again) {
  workers->limit = limit;
  workers->limit_again = again;
  workers->ignores_limit = false;
  for (uint32_t place = 0; place < workers->count; place++) note_fullness(workers, &workers->table[place]);
}

bool workers_all_full(const struct workers *workers, uint32_t more) {
  uint64_t room = 0;
  bool any = false;
  for (uint32_t place = 0; place < workers->count; place++) {
    const struct worker *worker = &workers->table[place];
    if (!worker_is_there(worker)) continue;
    any = true;
    const uint32_t open = atomic_load_explicit(&worker->open, memory_order_relaxed);
    if (!worker->full) room += workers->limit - open;
  }
  return any && room <= more;
}

void worker_open(const struct workers *workers, struct worker *worker, uint32_t listener) {
  add(&worker->open, 1);
  note_fullness(workers, worker);
  worker->by_listener[listener % COUNTED_LISTENERS]++;
}

void worker_close(const struct workers *workers, struct worker *worker, uint32_t listener) {
  add(&worker->open, UINT32_MAX);
  note_fullness(workers, worker);
  worker->by_listener[listener % COUNTED_LISTENERS]--;
}

void worker_not_waiting(struct worker *worker) { add(&worker->waiting, UINT32_MAX); }

/* ---- processes -----------------------------------------------------------------------------------------------------
 */

void worker_see(struct workers *workers, struct worker *worker) {
  const struct seat *seat = worker->seat;
  if (!seat) return;
  const uint64_t unshelved = seat_unshelved(seat);
  if (unshelved > worker->unshelved) {
    workers->unshelved += unshelved - worker->unshelved;
    worker->unshelved = unshelved;
  }
  const uint32_t lay = worker->tail - worker->head;
  const uint64_t lies = worker->shelved > worker->unshelved ? worker->shelved - worker->unshelved : 0;
  worker->head = worker->tail - (lies < lay ? (uint32_t)lies : lay);
  const uint32_t waiting = worker->tail - worker->head;
  atomic_store_explicit(&worker->waiting, waiting, memory_order_relaxed);
  atomic_store_explicit(&worker->open, (uint32_t)seat_open(seat) + waiting, memory_order_relaxed);
  note_fullness(workers, worker);
  const uint64_t steps = atomic_load_explicit(&seat->settled, memory_order_relaxed);
  if (steps != worker->steps) worker_came(worker, false);
  worker->steps = steps;
}

void workers_see(struct workers *workers) {
  for (uint32_t place = 0; place < workers->count; place++) worker_see(workers, &workers->table[place]);
}

bool worker_shelve(struct workers *workers, struct worker *worker, const struct pdlb_accepted *accepted) {
  if (worker->tail - worker->head >= SHELF_SIZE || shelf_put(&worker->shelf, accepted) < 0) return false;
  worker->shelved++;
  return worker_assign(workers, worker, accepted->listener, 0); /* there is room: it began with as much */
}

bool worker_unshelve(struct worker *worker, struct pdlb_accepted *accepted) {
  if (worker->shelf.take_fd < 0 || shelf_take(worker->shelf.take_fd, accepted) < 0) return false;
  worker->shelved--;
  if (worker->head != worker->tail) worker->head++;
  worker_not_waiting(worker);
  add(&worker->open, UINT32_MAX);
  return true;
}

void worker_bury(struct worker *worker) {
  if (!worker->seat) return;
  const uint64_t lie = shelf_count(&worker->shelf), unshelved = seat_unshelved(worker->seat);
  if (worker->shelved > lie + unshelved)
    atomic_fetch_add_explicit(&worker->seat->accepted, worker->shelved - lie - unshelved, memory_order_seq_cst);
}

bool workers_any_room(const struct workers *workers) {
  for (uint32_t place = 0; place < workers->count; place++)
    if (worker_is_there(&workers->table[place]) && worker_has_room(&workers->table[place])) return true;
  return false;
}

static uint32_t open_from(const struct worker *worker, uint32_t listener) {
  const struct seat_listener *counts = &worker->seat->listeners[listener % PDLB_SEAT_LISTENERS];
  const uint64_t closed = atomic_load_explicit(&counts->closed, memory_order_seq_cst);
  uint32_t open = (uint32_t)(atomic_load_explicit(&counts->accepted, memory_order_seq_cst) - closed);
  for (uint32_t i = worker->head; i != worker->tail; i++)
    open += worker->assigned[i & (worker->size - 1)].listener == listener;
  return open;
}

void worker_came(struct worker *worker, bool waits) {
  worker->waits = waits;
  worker->came_at = pdlb_now();
  atomic_store_explicit(&worker->stalled, false, memory_order_relaxed);
}

uint32_t worker_count(const struct worker *worker, uint32_t listener, bool per_listener) {
  if (per_listener && worker->seat) return open_from(worker, listener);
  return per_listener ? worker->by_listener[listener % COUNTED_LISTENERS]
                      : atomic_load_explicit(&worker->open, memory_order_relaxed);
}
