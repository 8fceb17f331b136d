/* Whom the acceptor picks, and what it takes back: under threads that take, leave, pause and change the policy. */
#include "pdlb_acceptor.h"

#include "clients.h"
#include "rig.h"

enum { MILLISECOND = 1000000, WORKERS = 4 };

static const uint64_t patience = 60ull * 1000 * MILLISECOND;

struct place {
  struct rig rig;
  uint8_t shared;
  struct pdlb_port *sender, *port[WORKERS];
  uint32_t worker[WORKERS];
  struct pdlb_acceptor *acceptor;
  struct sockaddr_in address;
  int listener_fd;
  _Atomic uint64_t taken;
  _Atomic bool over;
};

static struct pdlb_policy_config exactly(const struct place *place) {
  return (struct pdlb_policy_config){
      .policy = PDLB_POLICY_EXACT, .queue = place->shared, .choices = 2, .bound = 1.25, .grace_ns = 20 * MILLISECOND};
}

static void set_policy(struct place *place, const struct pdlb_policy_config *config) {
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_acceptor_set_policy(place->acceptor, config, &error), error);
}

static void open_place(struct place *place) {
  memset(place, 0, sizeof *place);
  struct pdlb_error error = {0};
  place->rig = rig_open();
  place->shared =
      rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_EVEN, .grace_ns = MILLISECOND});
  uint8_t own[WORKERS];
  for (int i = 0; i < WORKERS; i++) own[i] = rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){0});
  place->sender = rig_producer(&place->rig);
  rig_start(&place->rig);
  const struct pdlb_acceptor_config config = {.queue = place->shared, .slots = 256, .batch = 16, .blocking = true};
  CHECK_OK(pdlb_acceptor_start(place->rig.domain, place->sender, &config, &place->acceptor, &error), error);
  for (int i = 0; i < WORKERS; i++) {
    place->port[i] = rig_consumer(&place->rig, place->shared);
    rig_link(place->port[i], own[i], 0);
    CHECK_OK(pdlb_acceptor_worker_add(place->acceptor, own[i], &place->worker[i], &error), error);
  }
  const struct pdlb_policy_config exact = exactly(place);
  set_policy(place, &exact);
  place->listener_fd = listen_on(&place->address);
  CHECK_OK(pdlb_acceptor_add(place->acceptor, place->listener_fd, &error), error);
}

static void close_place(struct place *place) {
  pdlb_acceptor_end(place->acceptor);
  pdlb_acceptor_free(place->acceptor);
  close(place->listener_fd);
  rig_close_port(place->sender);
  for (int i = 0; i < WORKERS; i++) rig_close_port(place->port[i]);
  rig_close(&place->rig);
}

static struct pdlb_worker_stats stats_of(const struct place *place, int worker) {
  struct pdlb_worker_stats stats;
  pdlb_acceptor_worker_stats(place->acceptor, place->worker[worker], &stats);
  return stats;
}

/* What the worker is given next. */
static struct pdlb_accepted take(struct place *place, int worker) {
  struct pdlb_accepted accepted;
  for (;;) {
    struct pdlb_event event;
    CHECK_EQ(pdlb_port_recv(place->port[worker], &event, 1, pdlb_now() + patience), 1);
    pdlb_port_release(place->port[worker], 1);
    if (pdlb_acceptor_take(place->acceptor, place->worker[worker], event.data, &accepted) == 0) return accepted;
  }
}

/* ---- one by one ---------------------------------------------------------------------------------------------------
 */

static void exact_counts_what_waits_and_what_is_open(void) {
  struct place place;
  open_place(&place);
  struct pdlb_policy_config patient = exactly(&place);
  patient.grace_ns = PDLB_FOREVER / 2;
  set_policy(&place, &patient);
  int clients[2 * WORKERS];
  for (int i = 0; i < 2 * WORKERS; i++) clients[i] = connect_to(&place.address);
  struct pdlb_accepted first = take(&place, 0);
  for (int i = 0; i < WORKERS; i++)
    while (stats_of(&place, i).open < 2) sched_yield();
  CHECK_EQ(stats_of(&place, 0).waiting, 1);
  CHECK_EQ(stats_of(&place, 1).waiting, 2);
  CHECK_EQ(first.worker, place.worker[0]);

  struct pdlb_accepted second = take(&place, 0);
  close(first.fd);
  pdlb_acceptor_closed(place.acceptor, place.worker[0], first.listener);
  const int late = connect_to(&place.address);
  struct pdlb_accepted third = take(&place, 0);
  CHECK_EQ(stats_of(&place, 0).open, 2);
  close(second.fd);
  close(third.fd);
  close_at_once(late);
  for (int i = 0; i < 2 * WORKERS; i++) close_at_once(clients[i]);
  close_place(&place);
}

static void what_a_worker_leaves_is_picked_for_again(void) {
  struct place place;
  open_place(&place);
  struct pdlb_policy_config config = exactly(&place);
  config.tie = PDLB_TIE_FIRST;
  config.grace_ns = PDLB_FOREVER / 2;
  set_policy(&place, &config);
  const int client = connect_to(&place.address);
  while (stats_of(&place, 0).waiting == 0) sched_yield();
  pdlb_acceptor_worker_pause(place.acceptor, place.worker[0], true);
  struct pdlb_accepted accepted = take(&place, 1);
  CHECK_EQ(accepted.worker, place.worker[1]);
  CHECK_EQ(stats_of(&place, 0).open, 0);
  CHECK_EQ(stats_of(&place, 1).open, 1);

  /* The handle of one that left means nothing, even where its place is taken again. */
  pdlb_acceptor_worker_remove(place.acceptor, place.worker[1]);
  const uint32_t before = place.worker[1];
  while (pdlb_acceptor_worker_add(place.acceptor, PDLB_NONE, &place.worker[1], NULL) < 0 ||
         (place.worker[1] ^ before) & 1023)
    sched_yield(); /* the place is free once the accepting thread has looked */
  pdlb_acceptor_closed(place.acceptor, before, accepted.listener);
  CHECK_EQ(stats_of(&place, 1).open, 0);
  close(accepted.fd);
  close_at_once(client);
  close_place(&place);
}

static void what_a_stalled_worker_leaves_goes_to_whoever_comes(void) {
  struct place place;
  open_place(&place);
  struct pdlb_policy_config config = exactly(&place);
  config.tie = PDLB_TIE_FIRST;
  config.grace_ns = MILLISECOND;
  set_policy(&place, &config);
  const int client = connect_to(&place.address);
  struct pdlb_accepted accepted = take(&place, 3);
  CHECK_EQ(accepted.worker, PDLB_NONE);
  CHECK(stats_of(&place, 0).stalled);
  pdlb_acceptor_came(place.acceptor, place.worker[0], false);
  CHECK(!stats_of(&place, 0).stalled);
  CHECK_EQ(stats_of(&place, 3).open, 1);
  close(accepted.fd);
  close_at_once(client);
  close_place(&place);
}

/* ---- all at once ---------------------------------------------------------------------------------------------------
 */

struct serving {
  struct place *place;
  int worker;
};

static void *serve(void *argument) {
  const struct serving *serving = argument;
  struct place *place = serving->place;
  struct pdlb_event events[8];
  for (;;) {
    const int count = pdlb_port_recv(place->port[serving->worker], events, 8, PDLB_FOREVER);
    if (count == -ECANCELED) return NULL;
    for (int i = 0; i < count; i++) {
      struct pdlb_accepted accepted;
      pdlb_port_release(place->port[serving->worker], 1);
      if (pdlb_acceptor_take(place->acceptor, place->worker[serving->worker], events[i].data, &accepted) < 0) continue;
      CHECK_EQ(send(accepted.fd, "x", 1, MSG_NOSIGNAL), 1);
      atomic_fetch_add(&place->taken, 1);
      close(accepted.fd);
      pdlb_acceptor_closed(place->acceptor, place->worker[serving->worker], accepted.listener);
    }
  }
}

static uint32_t ask(void *context, const struct pdlb_arrival *arrival) {
  struct place *place = context;
  CHECK_EQ(arrival->family, AF_INET);
  CHECK(arrival->address_size >= sizeof(struct sockaddr_in));
  return place->worker[((const struct sockaddr_in *)arrival->address)->sin_port % WORKERS];
}

static void *change(void *argument) {
  struct place *place = argument;
  for (uint32_t i = 0; !atomic_load(&place->over); i++) {
    struct pdlb_policy_config config = exactly(place);
    config.policy = (enum pdlb_policy)(i % (PDLB_POLICY_CALLER + 1));
    config.pick = ask;
    config.context = place;
    config.seed = i;
    config.per_listener = i & 8;
    config.grace_ns = i & 16 ? 1000 : MILLISECOND;
    set_policy(place, &config);
    const uint32_t worker = place->worker[i % WORKERS];
    pdlb_acceptor_worker_pause(place->acceptor, worker, true);
    pdlb_acceptor_worker_weigh(place->acceptor, worker, i % 3 * PDLB_WEIGHT);
    sched_yield();
    pdlb_acceptor_worker_pause(place->acceptor, worker, false);
  }
  return NULL;
}

static void nothing_is_lost_while_everything_changes(void) {
  struct place place;
  open_place(&place);
  const uint64_t connections = check_setting("PDLB_STRESS_EVENTS", 40000) / 20;
  pthread_t threads[WORKERS], changing;
  struct serving serving[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    serving[i] = (struct serving){.place = &place, .worker = i};
    CHECK_EQ(pthread_create(&threads[i], NULL, serve, &serving[i]), 0);
  }
  CHECK_EQ(pthread_create(&changing, NULL, change, &place), 0);
  ask_all(&place.address, connections);
  atomic_store(&place.over, true);
  pthread_join(changing, NULL);
  for (int i = 0; i < WORKERS; i++) pdlb_port_cancel(place.port[i]);
  for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(place.acceptor, &stats);
  CHECK_EQ(stats.accepted, atomic_load(&place.taken));
  for (int i = 0; i < WORKERS; i++) {
    CHECK_EQ(stats_of(&place, i).open, 0);
    CHECK_EQ(stats_of(&place, i).waiting, 0);
  }
  close_place(&place);
}

static void wrong_arguments_change_nothing(void) {
  struct place place;
  open_place(&place);
  struct pdlb_error error = {0};
  struct pdlb_policy_config config = exactly(&place);
  config.policy = (enum pdlb_policy)(PDLB_POLICY_CALLER + 1);
  CHECK_ERROR(pdlb_acceptor_set_policy(place.acceptor, &config, &error), -EINVAL, error);
  config = exactly(&place);
  config.policy = PDLB_POLICY_CALLER;
  CHECK_ERROR(pdlb_acceptor_set_policy(place.acceptor, &config, &error), -EINVAL, error);
  config.policy = PDLB_POLICY_LEAST;
  config.choices = 17;
  CHECK_ERROR(pdlb_acceptor_set_policy(place.acceptor, &config, &error), -EINVAL, error);
  config.policy = PDLB_POLICY_HASH;
  config.bound = 1;
  CHECK_ERROR(pdlb_acceptor_set_policy(place.acceptor, &config, &error), -EINVAL, error);
  config = exactly(&place);
  config.grace_ns = 0;
  CHECK_ERROR(pdlb_acceptor_set_policy(place.acceptor, &config, &error), -EINVAL, error);
  /* Nobody of that name. */
  pdlb_acceptor_worker_remove(place.acceptor, 12345);
  pdlb_acceptor_worker_pause(place.acceptor, 12345, true);
  pdlb_acceptor_closed(place.acceptor, 12345, 0);
  const int client = connect_to(&place.address);
  struct pdlb_accepted accepted = take(&place, 0);
  close(accepted.fd);
  close_at_once(client);
  close_place(&place);
}

CHECK_MAIN(CASE(exact_counts_what_waits_and_what_is_open), CASE(what_a_worker_leaves_is_picked_for_again),
           CASE(what_a_stalled_worker_leaves_goes_to_whoever_comes), CASE(nothing_is_lost_while_everything_changes),
           CASE(wrong_arguments_change_nothing))
