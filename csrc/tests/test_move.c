/* From one domain to another and back, while connections come, wait and are served. */

#include "clients.h"
#include "pdlb_acceptor.h"
#include "rig.h"

enum { MILLISECOND = 1000000, WORKERS = 3, SIDES = 2 };

/* Of two domains: one with a queue for all and one for each worker, the other with directed queues alone. */
struct side {
  struct rig rig;
  bool directed;
  uint32_t shared;
  struct pdlb_port *sender, *port[WORKERS];
  uint32_t own[WORKERS];
};

struct place {
  struct side sides[SIDES];
  uint32_t worker[WORKERS];
  struct pdlb_acceptor *acceptor;
  struct sockaddr_in address;
  int listener_fd;
  _Atomic uint64_t taken;
  _Atomic bool over;
};

static void open_side(struct side *side, bool directed) {
  *side = (struct side){.rig = rig_open(), .directed = directed, .shared = PDLB_NONE};
  side->sender = rig_producer(&side->rig);
  if (!directed) side->shared = rig_queue(&side->rig);
  for (int i = 0; i < WORKERS; i++) {
    side->own[i] = directed ? rig_directed_queue(&side->rig, PDLB_NONE) : rig_queue(&side->rig);
    side->port[i] =
        directed ? rig_directed_port(&side->rig, side->own[i], 8) : rig_consumer(&side->rig, (uint8_t)side->own[i]);
    if (!directed) rig_link(side->port[i], (uint8_t)side->shared, 0);
  }
  rig_start(&side->rig);
}

static void close_side(struct side *side) {
  rig_close_port(side->sender);
  for (int i = 0; i < WORKERS; i++) rig_close_port(side->port[i]);
  rig_close(&side->rig);
}

static void set_policy(struct place *place, const struct side *side, enum pdlb_policy policy) {
  struct pdlb_error error = {0};
  const struct pdlb_policy_config config = {
      .policy = policy, .queue = side->shared, .choices = 2, .bound = 1.25, .grace_ns = MILLISECOND};
  CHECK_OK(pdlb_acceptor_set_policy(place->acceptor, &config, &error), error);
}

static void open_place(struct place *place) {
  memset(place, 0, sizeof *place);
  struct pdlb_error error = {0};
  for (int i = 0; i < SIDES; i++) open_side(&place->sides[i], i == 1);
  const struct side *first = &place->sides[0];
  const struct pdlb_acceptor_config config = {.queue = first->shared, .slots = 64, .batch = 16, .blocking = true};
  CHECK_OK(pdlb_acceptor_start(first->rig.domain, first->sender, &config, &place->acceptor, &error), error);
  for (int i = 0; i < WORKERS; i++)
    CHECK_OK(pdlb_acceptor_worker_add(place->acceptor, first->own[i], &place->worker[i], &error), error);
  set_policy(place, first, PDLB_POLICY_EXACT);
  place->listener_fd = listen_on(&place->address);
  CHECK_OK(pdlb_acceptor_add(place->acceptor, place->listener_fd, &error), error);
}

static void close_place(struct place *place) {
  pdlb_acceptor_end(place->acceptor);
  pdlb_acceptor_free(place->acceptor);
  close(place->listener_fd);
  for (int i = 0; i < SIDES; i++) close_side(&place->sides[i]);
}

static void move_to(struct place *place, const struct side *side) {
  struct pdlb_error error = {0};
  struct pdlb_worker_queue queues[WORKERS];
  for (int i = 0; i < WORKERS; i++)
    queues[i] = (struct pdlb_worker_queue){.worker = place->worker[i], .queue = side->own[i]};
  const struct pdlb_destination destination = {.domain = side->rig.domain,
                                               .port = side->sender,
                                               .queue = side->shared,
                                               .directed = side->directed,
                                               .queues = queues,
                                               .num_queues = WORKERS};
  CHECK_OK(pdlb_acceptor_move(place->acceptor, &destination, &error), error);
  CHECK_OK(pdlb_acceptor_moved(place->acceptor, &error), error);
}

/* ---- one by one ---------------------------------------------------------------------------------------------------
 */

static void take_and_close(struct place *place, struct side *side, int worker, bool expected) {
  struct pdlb_event event;
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_port_recv(side->port[worker], &event, 1, pdlb_now() + 60ull * 1000 * MILLISECOND), 1);
  if (!side->directed) pdlb_port_release(side->port[worker], 1);
  const int rc = pdlb_acceptor_take(place->acceptor, place->worker[worker], event.data, &accepted);
  CHECK_EQ(rc, expected ? 0 : -ESTALE);
  if (rc < 0) return;
  close(accepted.fd);
  pdlb_acceptor_closed(place->acceptor, place->worker[worker], accepted.listener);
}

static uint64_t waiting(const struct place *place) {
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(place->acceptor, &stats);
  return stats.accepted - stats.taken;
}

/* Accepted connections are sent a moment after they are counted. */
static bool each_has_one(const struct side *side) {
  for (int i = 0; i < WORKERS; i++)
    if (pdlb_ldb_queue_depth(side->rig.domain, (uint32_t)side->own[i], NULL) < 1) return false;
  return true;
}

static void what_waits_is_sent_again_and_once(void) {
  struct place place;
  open_place(&place);
  int clients[WORKERS];
  struct pdlb_policy_config patient = {
      .policy = PDLB_POLICY_EXACT, .queue = place.sides[0].shared, .grace_ns = 1ull << 60};
  CHECK_EQ(pdlb_acceptor_set_policy(place.acceptor, &patient, NULL), 0);
  for (int i = 0; i < WORKERS; i++) clients[i] = connect_to(&place.address);
  while (!each_has_one(&place.sides[0])) sched_yield();
  move_to(&place, &place.sides[1]);
  for (int i = 0; i < WORKERS; i++) take_and_close(&place, &place.sides[1], i, true);
  for (int i = 0; i < WORKERS; i++) take_and_close(&place, &place.sides[0], i, false);
  for (int i = 0; i < WORKERS; i++) close(clients[i]);
  struct pdlb_worker_stats stats;
  for (int i = 0; i < WORKERS; i++) {
    pdlb_acceptor_worker_stats(place.acceptor, place.worker[i], &stats);
    CHECK_EQ(stats.open, 0);
    CHECK_EQ(stats.waiting, 0);
  }
  close_place(&place);
}

static void without_a_queue_for_all_it_waits_for_a_worker(void) {
  struct place place;
  open_place(&place);
  for (int i = 0; i < WORKERS; i++) pdlb_acceptor_worker_pause(place.acceptor, place.worker[i], true);
  move_to(&place, &place.sides[1]);
  const int client = connect_to(&place.address);
  while (waiting(&place) < 1) sched_yield();
  pdlb_acceptor_worker_pause(place.acceptor, place.worker[2], false);
  take_and_close(&place, &place.sides[1], 2, true);
  close(client);
  close_place(&place);
}

static void trouble_is_told(void) {
  struct place place;
  open_place(&place);
  CHECK_EQ(pdlb_acceptor_trouble(place.acceptor, 0), PDLB_TAKEN);
  CHECK_EQ(pdlb_port_disable(place.sides[0].sender, NULL), 0);
  const int client = connect_to(&place.address);
  CHECK_EQ(pdlb_acceptor_trouble(place.acceptor, pdlb_now() + 60ull * 1000 * MILLISECOND), PDLB_PORT_DISABLED);
  move_to(&place, &place.sides[1]);
  CHECK_EQ(pdlb_acceptor_trouble(place.acceptor, 0), PDLB_TAKEN);
  while (waiting(&place) < 1) sched_yield();
  close(client);
  close_place(&place);
}

/* ---- all at once ---------------------------------------------------------------------------------------------------
 */

struct serving {
  struct place *place;
  struct side *side;
  int worker;
};

static void *serve(void *argument) {
  const struct serving *serving = argument;
  struct place *place = serving->place;
  struct pdlb_port *port = serving->side->port[serving->worker];
  struct pdlb_event events[8];
  for (;;) {
    const int count = pdlb_port_recv(port, events, 8, PDLB_FOREVER);
    if (count == -ECANCELED) return NULL;
    for (int i = 0; i < count; i++) {
      struct pdlb_accepted accepted;
      if (!serving->side->directed) pdlb_port_release(port, 1);
      if (pdlb_acceptor_take(place->acceptor, place->worker[serving->worker], events[i].data, &accepted) < 0) continue;
      CHECK_EQ(send(accepted.fd, "x", 1, MSG_NOSIGNAL), 1);
      atomic_fetch_add(&place->taken, 1);
      close(accepted.fd);
      pdlb_acceptor_closed(place->acceptor, place->worker[serving->worker], accepted.listener);
    }
  }
}

static void *change(void *argument) {
  struct place *place = argument;
  for (uint32_t i = 0; !atomic_load(&place->over); i++) {
    const struct side *side = &place->sides[i % SIDES];
    move_to(place, side);
    set_policy(place, side, (enum pdlb_policy)(i / SIDES % PDLB_POLICY_CALLER));
    const struct pdlb_connection_limits limits = {
        .total = i & 4 ? 4 : 0, .total_again = 2, .worker = i & 8 ? 2 : 0, .worker_again = 1};
    CHECK_EQ(pdlb_acceptor_set_limits(place->acceptor, &limits, NULL), 0);
    pdlb_acceptor_worker_pause(place->acceptor, place->worker[i % WORKERS], true);
    sched_yield();
    pdlb_acceptor_worker_pause(place->acceptor, place->worker[i % WORKERS], false);
  }
  return NULL;
}

static void nothing_is_lost_on_the_way(void) {
  struct place place;
  open_place(&place);
  const uint64_t connections = check_setting("PDLB_STRESS_EVENTS", 40000) / 20;
  pthread_t threads[SIDES * WORKERS], changing;
  struct serving serving[SIDES * WORKERS];
  for (int i = 0; i < SIDES * WORKERS; i++) {
    serving[i] = (struct serving){.place = &place, .side = &place.sides[i % SIDES], .worker = i / SIDES};
    CHECK_EQ(pthread_create(&threads[i], NULL, serve, &serving[i]), 0);
  }
  CHECK_EQ(pthread_create(&changing, NULL, change, &place), 0);
  ask_all(&place.address, connections);
  atomic_store(&place.over, true);
  pthread_join(changing, NULL);
  for (int i = 0; i < SIDES * WORKERS; i++) pdlb_port_cancel(place.sides[i % SIDES].port[i / SIDES]);
  for (int i = 0; i < SIDES * WORKERS; i++) pthread_join(threads[i], NULL);
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(place.acceptor, &stats);
  CHECK_EQ(stats.accepted, atomic_load(&place.taken));
  CHECK_EQ(stats.refused, 0);
  close_place(&place);
}

CHECK_MAIN(CASE(what_waits_is_sent_again_and_once), CASE(without_a_queue_for_all_it_waits_for_a_worker),
           CASE(trouble_is_told), CASE(nothing_is_lost_on_the_way))
