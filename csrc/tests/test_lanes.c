/* Workers that accept by themselves and send through ports of their own, while everything changes. */
#include <poll.h>

#include "clients.h"
#include "pdlb_acceptor.h"
#include "rig.h"

enum { MILLISECOND = 1000000, WORKERS = 3, BURST = 16 };

struct place {
  struct rig rig;
  uint8_t shared;
  struct pdlb_port *sender, *port[WORKERS];
  struct pdlb_lane lane[WORKERS];
  struct pdlb_acceptor *acceptor;
  struct sockaddr_in address;
  int listener_fd, listener;
  _Atomic uint64_t served;
  _Atomic bool over;
};

static void set_policy(struct place *place, enum pdlb_policy policy, enum pdlb_tie tie) {
  struct pdlb_error error = {0};
  const struct pdlb_policy_config config = {
      .policy = policy, .queue = place->shared, .tie = tie, .choices = 2, .bound = 1.25, .grace_ns = PDLB_FOREVER / 2};
  CHECK_OK(pdlb_acceptor_set_policy(place->acceptor, &config, &error), error);
}

static void open_place(struct place *place, uint32_t slots) {
  struct pdlb_error error = {0};
  uint8_t own[WORKERS];
  memset(place, 0, sizeof *place);
  place->rig = rig_open();
  place->shared =
      rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_PULL, .grace_ns = MILLISECOND});
  for (int i = 0; i < WORKERS; i++) own[i] = rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){0});
  place->sender = rig_producer(&place->rig);
  for (int i = 0; i < WORKERS; i++) place->lane[i] = (struct pdlb_lane){.port = rig_producer(&place->rig)};
  rig_start(&place->rig);
  const struct pdlb_acceptor_config config = {
      .queue = place->shared, .slots = slots, .batch = BURST, .blocking = true, .by_workers = true};
  CHECK_OK(pdlb_acceptor_start(place->rig.domain, place->sender, &config, &place->acceptor, &error), error);
  for (int i = 0; i < WORKERS; i++) {
    place->port[i] = rig_consumer(&place->rig, place->shared);
    rig_link(place->port[i], own[i], 0);
    CHECK_OK(pdlb_acceptor_worker_add(place->acceptor, own[i], &place->lane[i].worker, &error), error);
  }
  set_policy(place, PDLB_POLICY_QUEUE, PDLB_TIE_ROTATE);
  place->listener_fd = listen_on(&place->address);
  place->listener = pdlb_acceptor_add(place->acceptor, place->listener_fd, &error);
  CHECK_OK(place->listener, error);
}

static void close_place(struct place *place) {
  pdlb_acceptor_end(place->acceptor);
  pdlb_acceptor_free(place->acceptor);
  close(place->listener_fd);
  rig_close_port(place->sender);
  for (int i = 0; i < WORKERS; i++) {
    rig_close_port(place->port[i]);
    rig_close_port(place->lane[i].port);
  }
  rig_close(&place->rig);
}

static bool is_open(const struct place *place, int timeout) {
  struct pollfd door = {.fd = pdlb_acceptor_door(place->acceptor), .events = POLLIN};
  return poll(&door, 1, timeout) == 1;
}

static void end(struct place *place, int worker, const struct pdlb_accepted *accepted) {
  CHECK_EQ(send(accepted->fd, "x", 1, MSG_NOSIGNAL), 1);
  close(accepted->fd);
  pdlb_acceptor_closed(place->acceptor, place->lane[worker].worker, accepted->listener);
  atomic_fetch_add(&place->served, 1);
}

/* What the worker was given: how many. */
static int receive(struct place *place, int worker, uint32_t max) {
  struct pdlb_event events[BURST];
  int taken = 0;
  const int count = pdlb_port_recv(place->port[worker], events, max, 0);
  for (int i = 0; i < count; i++) {
    struct pdlb_accepted accepted;
    pdlb_port_release(place->port[worker], 1);
    if (pdlb_acceptor_take(place->acceptor, place->lane[worker].worker, events[i].data, &accepted) < 0) continue;
    end(place, worker, &accepted);
    taken++;
  }
  return taken;
}

static uint32_t accept_some(struct place *place, int worker, uint32_t max) {
  struct pdlb_accepted kept[BURST];
  const uint32_t count = pdlb_acceptor_accept(place->acceptor, &place->lane[worker], max, kept);
  for (uint32_t i = 0; i < count; i++) end(place, worker, &kept[i]);
  return count;
}

static struct pdlb_acceptor_stats stats_of(const struct place *place) {
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(place->acceptor, &stats);
  return stats;
}

/* ---- one by one -------------------------------------------------------------------------------------------------- */

static void what_one_accepts_another_takes(void) {
  struct place place;
  open_place(&place, 64);
  CHECK(!is_open(&place, 0));
  const int client = connect_to(&place.address);
  CHECK(is_open(&place, -1));
  CHECK_EQ(accept_some(&place, 0, 1), 0u);
  CHECK_EQ(receive(&place, 1, 1), 1);
  CHECK(!is_open(&place, 0));
  CHECK_EQ(stats_of(&place).accepted, 1u);
  CHECK_EQ(stats_of(&place).taken, 1u);
  CHECK_EQ(stats_of(&place).kept, 0u);
  close_at_once(client);
  close_place(&place);
}

static void who_accepts_may_keep_it(void) {
  struct place place;
  open_place(&place, 64);
  const struct {
    enum pdlb_policy policy;
    enum pdlb_tie tie;
  } ways[] = {{PDLB_POLICY_LOCAL, PDLB_TIE_ROTATE}, {PDLB_POLICY_EXACT, PDLB_TIE_LOCAL}};
  for (int way = 0; way < 2; way++) {
    set_policy(&place, ways[way].policy, ways[way].tie);
    for (int worker = WORKERS; worker-- > 0;) {
      const int client = connect_to(&place.address);
      CHECK(is_open(&place, -1));
      CHECK_EQ(accept_some(&place, worker, 4), 1u);
      close_at_once(client);
    }
  }
  CHECK_EQ(stats_of(&place).kept, 2u * WORKERS);
  CHECK_EQ(stats_of(&place).taken, 2u * WORKERS);

  /* One that is to be given nothing hands on what it accepts. */
  set_policy(&place, PDLB_POLICY_LOCAL, PDLB_TIE_ROTATE);
  pdlb_acceptor_worker_pause(place.acceptor, place.lane[0].worker, true);
  const int client = connect_to(&place.address);
  CHECK(is_open(&place, -1));
  CHECK_EQ(accept_some(&place, 0, 4), 0u);
  CHECK_EQ(receive(&place, 2, 4), 1);
  close_at_once(client);
  close_place(&place);
}

static void what_cannot_be_sent_stays(void) {
  struct place place;
  open_place(&place, 64);
  struct pdlb_event event = {.queue = place.shared, .sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0), .data = 1};
  enum pdlb_refusal why = PDLB_TAKEN;
  while (pdlb_port_send(place.sender, &event, 1, &why) == 1) continue;
  CHECK_EQ(why, PDLB_NO_CREDIT);
  place.lane[0].retries = 3;
  const int client = connect_to(&place.address);
  CHECK(is_open(&place, -1));
  CHECK_EQ(accept_some(&place, 0, 4), 1u);
  CHECK_EQ(stats_of(&place).kept, 1u);
  CHECK(stats_of(&place).retries <= 3u); /* fewer if they took a millisecond */
  close_at_once(client);
  close_place(&place);
}

static void without_a_slot_the_door_is_closed(void) {
  struct place place;
  open_place(&place, 2);
  int clients[4];
  for (int i = 0; i < 4; i++) clients[i] = connect_to(&place.address);
  while (stats_of(&place).accepted < 2) accept_some(&place, 0, 4);
  accept_some(&place, 0, 4);
  while (is_open(&place, 0)) check_still_alive();
  CHECK_EQ(stats_of(&place).accepted, 2u);
  CHECK(stats_of(&place).held_up > 0);
  while (atomic_load(&place.served) < 4)
    if (receive(&place, 1, 4) == 0) accept_some(&place, 0, 4);
  for (int i = 0; i < 4; i++) close_at_once(clients[i]);
  close_place(&place);
}

static void the_thread_does_what_workers_do_not(void) {
  struct place place;
  struct pdlb_error error = {0};
  open_place(&place, 64);
  const struct pdlb_connection_limits limits = {.total = 1, .when_full = PDLB_FULL_RESET};
  CHECK_OK(pdlb_acceptor_set_limits(place.acceptor, &limits, &error), error);
  const int first = connect_to(&place.address);
  while (stats_of(&place).accepted == 0) accept_some(&place, 0, 4);
  const int second = connect_to(&place.address);
  while (stats_of(&place).refused == 0) accept_some(&place, 0, 4); /* which sees the limit, and leaves it */
  CHECK_EQ(receive(&place, 1, 4), 1);
  const int third = connect_to(&place.address);
  CHECK_OK(pdlb_acceptor_remove(place.acceptor, (uint32_t)place.listener, true, &error), error);
  while (pdlb_acceptor_listens(place.acceptor, (uint32_t)place.listener)) sched_yield();
  CHECK_EQ(receive(&place, 1, 4), 1);
  close_at_once(first);
  close_at_once(second);
  close_at_once(third);
  close_place(&place);
}

/* ---- all at once ------------------------------------------------------------------------------------------------- */

struct serving {
  struct place *place;
  int worker;
};

static void *serve(void *argument) {
  const struct serving *serving = argument;
  while (!atomic_load(&serving->place->over)) {
    const bool idle = accept_some(serving->place, serving->worker, BURST) == 0;
    if (receive(serving->place, serving->worker, 8) == 0 && idle) sched_yield();
  }
  return NULL;
}

static void *change(void *argument) {
  struct place *place = argument;
  for (uint32_t i = 0; !atomic_load(&place->over); i++) {
    static const enum pdlb_policy policies[] = {PDLB_POLICY_QUEUE, PDLB_POLICY_EXACT, PDLB_POLICY_LOCAL,
                                                PDLB_POLICY_LEAST, PDLB_POLICY_HASH};
    set_policy(place, policies[i % 5], (enum pdlb_tie)(i % 3));
    const uint32_t worker = place->lane[i % WORKERS].worker;
    pdlb_acceptor_worker_pause(place->acceptor, worker, true);
    pdlb_acceptor_pause(place->acceptor, i & 4);
    const struct pdlb_connection_limits limits = {.total = i & 8 ? 5 : 0};
    pdlb_acceptor_set_limits(place->acceptor, &limits, NULL);
    sched_yield();
    pdlb_acceptor_worker_pause(place->acceptor, worker, false);
  }
  pdlb_acceptor_pause(place->acceptor, false);
  return NULL;
}

static void nothing_is_lost_while_everything_changes(void) {
  struct place place;
  open_place(&place, 12);
  const uint64_t connections = check_setting("PDLB_STRESS_EVENTS", 40000) / 20;
  pthread_t threads[WORKERS], changing;
  struct serving serving[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    serving[i] = (struct serving){.place = &place, .worker = i};
    CHECK_EQ(pthread_create(&threads[i], NULL, serve, &serving[i]), 0);
  }
  CHECK_EQ(pthread_create(&changing, NULL, change, &place), 0);
  const uint64_t asked = ask_all(&place.address, connections);
  atomic_store(&place.over, true);
  pthread_join(changing, NULL);
  for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  CHECK_EQ(atomic_load(&place.served), asked);
  CHECK_EQ(stats_of(&place).accepted, asked);
  CHECK_EQ(stats_of(&place).taken, asked);
  for (int i = 0; i < WORKERS; i++) {
    struct pdlb_worker_stats stats;
    pdlb_acceptor_worker_stats(place.acceptor, place.lane[i].worker, &stats);
    CHECK_EQ(stats.open, 0u);
    CHECK_EQ(stats.waiting, 0u);
  }
  close_place(&place);
}

CHECK_MAIN(CASE(what_one_accepts_another_takes), CASE(who_accepts_may_keep_it), CASE(what_cannot_be_sent_stays),
           CASE(without_a_slot_the_door_is_closed), CASE(the_thread_does_what_workers_do_not),
           CASE(nothing_is_lost_while_everything_changes))
