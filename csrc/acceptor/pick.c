/* Which worker gets a connection. All under the lock of the workers, as everybody picks from the same counts. */
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <string.h>

#include "workers.h"

#define FEW_CHOICES 16u

/* splitmix64 */
static uint64_t mix(uint64_t value) {
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9u;
  value = (value ^ value >> 27) * 0x94D049BB133111EBu;
  return value ^ value >> 31;
}

static uint64_t draw(struct workers *workers) { return mix(workers->random += 0x9E3779B97F4A7C15u); }

/* In [0, bound). */
static uint64_t draw_below(struct workers *workers, uint64_t bound) {
  return (uint64_t)((unsigned __int128)draw(workers) * bound >> 64);
}

/* Whether one more connection makes `one` less full than `other`, each by its weight: < 0, 0 or > 0. */
static int compare(const struct worker *one, uint32_t count, const struct worker *other, uint32_t other_count) {
  const uint64_t left = (uint64_t)(count + 1) * other->weight, right = (uint64_t)(other_count + 1) * one->weight;
  return (left > right) - (left < right);
}

/* ---- the fewest connections ----------------------------------------------------------------------------------------
 */

static bool wins_tie(const struct workers *workers, const struct worker *one, const struct worker *other,
                     uint32_t current) {
  const enum pdlb_tie tie = workers->policy.tie;
  if (tie == PDLB_TIE_ROTATE) return false; /* they are looked at in turn */
  if (tie == PDLB_TIE_LOCAL && (one->handle == current || other->handle == current)) return one->handle == current;
  return one->added < other->added;
}

static struct worker *pick_exact(struct workers *workers, const struct pdlb_arrival *arrival) {
  struct worker *best = NULL;
  uint32_t fewest = 0;
  for (uint32_t i = 1; i <= workers->count; i++) {
    struct worker *worker = &workers->table[(workers->last + i) % workers->count];
    if (!worker_may_be_picked(workers, worker)) continue;
    const uint32_t count = worker_count(worker, arrival->listener, workers->policy.per_listener);
    const int order = best ? compare(worker, count, best, fewest) : -1;
    if (order > 0 || (order == 0 && !wins_tie(workers, worker, best, arrival->current))) continue;
    best = worker;
    fewest = count;
  }
  return best;
}

/* Who accepted it. It needs no queue for that. */
static struct worker *pick_local(struct workers *workers, const struct pdlb_arrival *arrival) {
  struct worker *worker = arrival->current == PDLB_NONE ? NULL : workers_find(workers, arrival->current);
  if (!worker || worker->state != WORKER_ACTIVE || !worker->weight) return NULL;
  return worker_is_barred(workers, worker) ? NULL : worker;
}

/* ---- by turns and by chance ----------------------------------------------------------------------------------------
 */

/* Each is owed its weight at each turn; the one that is owed most pays for all. */
static struct worker *pick_in_turn(struct workers *workers) {
  struct worker *best = NULL;
  int64_t all = 0;
  for (uint32_t place = 0; place < workers->count; place++) {
    struct worker *worker = &workers->table[place];
    if (!worker_may_be_picked(workers, worker)) continue;
    worker->turn += worker->weight;
    all += worker->weight;
    if (!best || worker->turn > best->turn) best = worker;
  }
  if (best) best->turn -= all;
  return best;
}

static bool is_among(struct worker *const *chosen, uint32_t count, const struct worker *worker) {
  for (uint32_t i = 0; i < count; i++)
    if (chosen[i] == worker) return true;
  return false;
}

/* One that is not among those chosen, by weight. */
static struct worker *draw_one(struct workers *workers, struct worker *const *chosen, uint32_t count) {
  uint64_t all = 0;
  for (uint32_t place = 0; place < workers->count; place++) {
    const struct worker *worker = &workers->table[place];
    if (worker_may_be_picked(workers, worker) && !is_among(chosen, count, worker)) all += worker->weight;
  }
  if (!all) return NULL;
  uint64_t at = draw_below(workers, all);
  for (uint32_t place = 0; place < workers->count; place++) {
    struct worker *worker = &workers->table[place];
    if (!worker_may_be_picked(workers, worker) || is_among(chosen, count, worker)) continue;
    if (at < worker->weight) return worker;
    at -= worker->weight;
  }
  return NULL;
}

static struct worker *pick_least(struct workers *workers, const struct pdlb_arrival *arrival) {
  const struct pdlb_policy_config *policy = &workers->policy;
  struct worker *chosen[FEW_CHOICES], *best = NULL;
  uint32_t fewest = 0;
  for (uint32_t i = 0; i < policy->choices; i++) {
    struct worker *worker = chosen[i] = draw_one(workers, chosen, i);
    if (!worker) break;
    const uint32_t count = worker_count(worker, arrival->listener, policy->per_listener);
    if (best && compare(worker, count, best, fewest) >= 0) continue;
    best = worker;
    fewest = count;
  }
  return best;
}

/* ---- by the client's address ---------------------------------------------------------------------------------------
 */

static uint64_t hash_bytes(const void *bytes, size_t size) {
  uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */
  for (const unsigned char *byte = bytes, *end = byte + size; byte < end; byte++)
    hash = (hash ^ *byte) * 0x100000001B3u;
  return mix(hash);
}

/* Of the address without the port. Clients of a UNIX socket have none: they are all different. */
static uint64_t hash_client(struct workers *workers, const struct pdlb_arrival *arrival) {
  if (arrival->family == AF_INET && arrival->address_size >= sizeof(struct sockaddr_in)) {
    const struct sockaddr_in *address = arrival->address;
    return hash_bytes(&address->sin_addr, sizeof address->sin_addr);
  }
  if (arrival->family == AF_INET6 && arrival->address_size >= sizeof(struct sockaddr_in6)) {
    const struct sockaddr_in6 *address = arrival->address;
    return hash_bytes(&address->sin6_addr, sizeof address->sin6_addr);
  }
  return draw(workers);
}

/* The highest score gets the client. One that leaves moves its own clients only. */
static double score(const struct worker *worker, uint64_t client) {
  const uint64_t place = worker->handle & (MAX_WORKERS - 1);
  const double unit = ((double)(mix(client ^ mix(place + 1)) >> 11) + 0.5) * 0x1p-53;
  return (double)worker->weight / -log(unit);
}

static struct worker *pick_by_client(struct workers *workers, const struct pdlb_arrival *arrival) {
  const struct pdlb_policy_config *policy = &workers->policy;
  uint64_t connections = 1, weights = 0;
  for (uint32_t place = 0; place < workers->count; place++) {
    const struct worker *worker = &workers->table[place];
    if (!worker_may_be_picked(workers, worker)) continue;
    connections += worker_count(worker, arrival->listener, policy->per_listener);
    weights += worker->weight;
  }
  const uint64_t client = hash_client(workers, arrival);
  struct worker *best = NULL;
  double highest = 0;
  for (uint32_t place = 0; place < workers->count; place++) {
    struct worker *worker = &workers->table[place];
    if (!worker_may_be_picked(workers, worker)) continue;
    const double most = ceil(policy->bound * (double)connections * worker->weight / (double)weights);
    if (worker_count(worker, arrival->listener, policy->per_listener) >= most) continue;
    const double its = score(worker, client);
    if (best && its <= highest) continue;
    best = worker;
    highest = its;
  }
  return best;
}

/* ---- in place of a queue -------------------------------------------------------------------------------------------
 */

static bool is_idler(const struct worker *one, const struct worker *other) {
  const bool stalls = atomic_load_explicit(&one->stalled, memory_order_relaxed);
  if (stalls != atomic_load_explicit(&other->stalled, memory_order_relaxed)) return !stalls;
  const uint32_t waiting = worker_waiting(one), others = worker_waiting(other);
  if (waiting != others) return waiting < others;
  return compare(one, worker_count(one, 0, false), other, worker_count(other, 0, false)) < 0;
}

struct worker *pick_idlest(struct workers *workers) {
  struct worker *best = NULL;
  for (uint32_t i = 1; i <= workers->count; i++) {
    struct worker *worker = &workers->table[(workers->last + i) % workers->count];
    if (!worker_is_there(worker) || worker_is_barred(workers, worker)) continue;
    if (!best || is_idler(worker, best)) best = worker;
  }
  if (best) workers->last = best->handle & (MAX_WORKERS - 1);
  return best;
}

struct worker *pick(struct workers *workers, const struct pdlb_arrival *arrival) {
  struct worker *worker = NULL;
  if (workers->count == 0) return NULL;
  switch (workers->policy.policy) {
    case PDLB_POLICY_QUEUE:
    case PDLB_POLICY_CALLER: break;
    case PDLB_POLICY_LOCAL: return pick_local(workers, arrival);
    case PDLB_POLICY_EXACT: worker = pick_exact(workers, arrival); break;
    case PDLB_POLICY_ROUND_ROBIN: worker = pick_in_turn(workers); break;
    case PDLB_POLICY_RANDOM: worker = draw_one(workers, NULL, 0); break;
    case PDLB_POLICY_LEAST: worker = pick_least(workers, arrival); break;
    case PDLB_POLICY_HASH: worker = pick_by_client(workers, arrival); break;
  }
  if (worker) workers->last = worker->handle & (MAX_WORKERS - 1);
  return worker;
}

struct worker *pick_ahead(struct workers *workers) {
  const struct pdlb_arrival any = {.current = PDLB_NONE};
  const bool is_known = workers->policy.policy == PDLB_POLICY_EXACT && !workers->policy.per_listener;
  return is_known ? pick_exact(workers, &any) : NULL;
}
