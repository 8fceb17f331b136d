/* The acceptor: every connection is somebody's, exactly once, while listeners come and go. */
#include "pdlb_acceptor.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "clients.h"
#include "rig.h"

enum { MILLISECOND = 1000000, WORKERS = 4, CLIENTS = 4 };

static const uint64_t patience = 60ull * 1000 * MILLISECOND;

/* ---- a domain with an acceptor ------------------------------------------------------------------------------ */

struct place {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *sender, *workers[WORKERS];
  struct pdlb_acceptor *acceptor;
  struct sockaddr_in address;
  int listener_fd;
  uint32_t listener;
};

static void open_place(struct place *place, uint32_t slots, uint64_t grace_ns) {
  memset(place, 0, sizeof *place);
  place->rig = rig_open();
  place->queue =
      rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_EVEN, .grace_ns = grace_ns});
  place->sender = rig_producer(&place->rig);
  rig_start(&place->rig);
  struct pdlb_error error = {0};
  const struct pdlb_acceptor_config config = {.queue = place->queue, .slots = slots, .batch = 16, .blocking = true};
  CHECK_OK(pdlb_acceptor_start(place->rig.domain, place->sender, &config, &place->acceptor, &error), error);
  for (int i = 0; i < WORKERS; i++) place->workers[i] = rig_consumer(&place->rig, place->queue);
  place->listener_fd = listen_on(&place->address);
  const int id = pdlb_acceptor_add(place->acceptor, place->listener_fd, &error);
  CHECK_OK(id, error);
  place->listener = (uint32_t)id;
}

static void close_place(struct place *place) {
  pdlb_acceptor_end(place->acceptor);
  pdlb_acceptor_free(place->acceptor);
  close(place->listener_fd);
  rig_close_port(place->sender);
  for (int i = 0; i < WORKERS; i++) rig_close_port(place->workers[i]);
  rig_close(&place->rig);
}

static struct pdlb_acceptor_stats stats_of(const struct place *place) {
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(place->acceptor, &stats);
  return stats;
}

static uint64_t receive_token(struct pdlb_port *port) {
  struct pdlb_event event;
  CHECK_EQ(pdlb_port_recv(port, &event, 1, pdlb_now() + patience), 1);
  return event.data;
}

static void wait_for_accepted(const struct place *place, uint64_t count) {
  while (stats_of(place).accepted < count) sched_yield();
}

/* ---- tokens ------------------------------------------------------------------------------------------------- */

static void token_is_good_for_one_take(void) {
  struct place place;
  open_place(&place, 2, 0);
  uint64_t tokens[64];
  for (int i = 0; i < 64; i++) {
    const int client = connect_to(&place.address);
    tokens[i] = receive_token(place.workers[0]);
    struct pdlb_accepted accepted;
    CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, tokens[i], &accepted), 0);
    CHECK_EQ(accepted.listener, place.listener);
    CHECK_EQ(accepted.family, AF_INET);
    CHECK(accepted.accepted_at <= pdlb_now());
    CHECK_EQ(fcntl(accepted.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    for (int earlier = 0; earlier <= i; earlier++)
      CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, tokens[earlier], &accepted), -ESTALE);
    close(accepted.fd);
    close_at_once(client);
    CHECK_EQ(pdlb_port_release(place.workers[0], 1), 1);
  }
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, 0, &accepted), -ESTALE);
  CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, UINT64_MAX, &accepted), -ESTALE);
  CHECK_EQ(stats_of(&place).taken, 64);
  close_place(&place);
}

/* ---- many at once ------------------------------------------------------------------------------------------- */

struct crowd {
  struct place place;
  uint64_t connections; /* so many are made, */
  bool until_refused;   /* or as many as there can be */
  _Atomic uint64_t tickets, answered, refused, served;
  _Atomic bool over;
};

/* Connects, and must be answered. */
static void *visit(void *argument) {
  struct crowd *crowd = argument;
  while (crowd->until_refused || atomic_fetch_add(&crowd->tickets, 1) < crowd->connections) {
    const int fd = connect_to(&crowd->place.address);
    if (fd < 0) {
      atomic_fetch_add(&crowd->refused, 1);
      return NULL;
    }
    char answer = 0;
    CHECK_EQ(recv(fd, &answer, 1, 0), 1);
    CHECK_EQ(answer, 'x');
    atomic_fetch_add(&crowd->answered, 1);
    close_at_once(fd);
    check_still_alive();
  }
  return NULL;
}

struct serving {
  struct crowd *crowd;
  struct pdlb_port *port;
};

static void *serve(void *argument) {
  const struct serving *serving = argument;
  struct crowd *crowd = serving->crowd;
  struct pdlb_event events[8];
  for (;;) {
    const int count = pdlb_port_recv(serving->port, events, 8, PDLB_FOREVER);
    if (count == -ECANCELED) return NULL;
    for (int i = 0; i < count; i++) {
      struct pdlb_accepted accepted;
      CHECK_EQ(pdlb_acceptor_take(crowd->place.acceptor, PDLB_NONE, events[i].data, &accepted), 0);
      CHECK_EQ(send(accepted.fd, "x", 1, MSG_NOSIGNAL), 1);
      atomic_fetch_add(&crowd->served, 1);
      close(accepted.fd);
      pdlb_port_release(serving->port, 1);
    }
  }
}

static void *look(void *argument) {
  struct crowd *crowd = argument;
  while (!atomic_load(&crowd->over)) {
    const struct pdlb_acceptor_stats stats = stats_of(&crowd->place);
    CHECK_LE(stats.taken, stats.accepted);
  }
  return NULL;
}

static void run_crowd(struct crowd *crowd, uint32_t slots, void (*meanwhile)(struct crowd *crowd)) {
  open_place(&crowd->place, slots, 0);
  crowd->connections = check_setting("PDLB_STRESS_EVENTS", 40000) / 20;
  pthread_t clients[CLIENTS], workers[WORKERS], looking;
  struct serving serving[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    serving[i] = (struct serving){.crowd = crowd, .port = crowd->place.workers[i]};
    CHECK_EQ(pthread_create(&workers[i], NULL, serve, &serving[i]), 0);
  }
  CHECK_EQ(pthread_create(&looking, NULL, look, crowd), 0);
  for (int i = 0; i < CLIENTS; i++) CHECK_EQ(pthread_create(&clients[i], NULL, visit, crowd), 0);
  if (meanwhile) meanwhile(crowd);
  for (int i = 0; i < CLIENTS; i++) pthread_join(clients[i], NULL);
  atomic_store(&crowd->over, true);
  pthread_join(looking, NULL);
  for (int i = 0; i < WORKERS; i++) pdlb_port_cancel(crowd->place.workers[i]);
  for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
  const struct pdlb_acceptor_stats stats = stats_of(&crowd->place);
  CHECK_EQ(stats.accepted, atomic_load(&crowd->answered));
  CHECK_EQ(stats.taken, stats.accepted);
  CHECK_EQ(atomic_load(&crowd->served), stats.accepted);
  if (crowd->until_refused)
    CHECK_EQ(atomic_load(&crowd->refused), CLIENTS);
  else
    CHECK_EQ(atomic_load(&crowd->answered), crowd->connections);
  close_place(&crowd->place);
}

static void every_connection_is_served_once(void) {
  struct crowd crowd = {0};
  run_crowd(&crowd, 64, NULL);
}

static void every_connection_is_served_with_one_slot(void) {
  struct crowd crowd = {0};
  run_crowd(&crowd, 1, NULL);
}

/* Paused, resumed, and other listeners added and removed, until half of the connections are through. */
static void change_things(struct crowd *crowd) {
  struct pdlb_error error = {0};
  while (atomic_load(&crowd->answered) < crowd->connections / 2) {
    struct sockaddr_in other;
    pdlb_acceptor_pause(crowd->place.acceptor, true);
    const int fd = listen_on(&other);
    const int id = pdlb_acceptor_add(crowd->place.acceptor, fd, &error);
    CHECK_OK(id, error);
    CHECK(pdlb_acceptor_listens(crowd->place.acceptor, (uint32_t)id));
    pdlb_acceptor_pause(crowd->place.acceptor, false);
    CHECK_OK(pdlb_acceptor_remove(crowd->place.acceptor, (uint32_t)id, id & 1, &error), error);
    while (pdlb_acceptor_listens(crowd->place.acceptor, (uint32_t)id)) sched_yield();
    CHECK_ERROR(pdlb_acceptor_remove(crowd->place.acceptor, (uint32_t)id, false, &error), -EINVAL, error);
    close(fd);
  }
}

static void listeners_come_and_go(void) {
  struct crowd crowd = {0};
  run_crowd(&crowd, 16, change_things);
}

/* Whoever was connected is served; whoever comes later is refused, and nobody is cut off: visit() checks that. */
static void stop_under_load(struct crowd *crowd) {
  while (atomic_load(&crowd->answered) < crowd->connections / 4) sched_yield();
  CHECK_EQ(pdlb_listener_shut(crowd->place.listener_fd), 0);
  pdlb_acceptor_stop(crowd->place.acceptor, pdlb_now() + patience);
  CHECK(pdlb_acceptor_wait(crowd->place.acceptor, pdlb_now() + patience));
  close(crowd->place.listener_fd);
  crowd->place.listener_fd = -1;
}

static void stopping_cuts_nobody_off(void) {
  struct crowd crowd = {.until_refused = true};
  run_crowd(&crowd, 16, stop_under_load);
}

/* ---- limits ------------------------------------------------------------------------------------------------- */

static void beyond_the_slots_clients_stay_in_the_backlog(void) {
  struct place place;
  open_place(&place, 3, 0);
  int clients[10];
  for (int i = 0; i < 10; i++) clients[i] = connect_to(&place.address);
  wait_for_accepted(&place, 3);
  while (stats_of(&place).held_up == 0) sched_yield();
  for (uint64_t i = 0; i < 10; i++) {
    CHECK_LE(stats_of(&place).accepted, i + 3);
    struct pdlb_accepted accepted;
    CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, receive_token(place.workers[0]), &accepted), 0);
    close(accepted.fd);
    close_at_once(clients[i]);
  }
  CHECK_EQ(stats_of(&place).accepted, 10);
  close_place(&place);
}

static void without_descriptors_it_waits_and_goes_on(void) {
  struct place place;
  open_place(&place, 16, 0);
  const int clients[2] = {connect_to(&place.address), connect_to(&place.address)};
  struct pdlb_accepted accepted;
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, receive_token(place.workers[0]), &accepted), 0);
    close(accepted.fd);
    CHECK_EQ(pdlb_port_release(place.workers[0], 1), 1);
  }
  const int late = connect_to(&place.address);
  CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, receive_token(place.workers[0]), &accepted), 0);
  close(accepted.fd);

  const int last = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct rlimit before, none;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  none = before;
  none.rlim_cur = 3;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  CHECK_EQ(connect(last, (const struct sockaddr *)&place.address, sizeof place.address), 0);
  while (stats_of(&place).backoffs < 3) sched_yield();
  CHECK_EQ(stats_of(&place).last_errno, EMFILE);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, receive_token(place.workers[1]), &accepted), 0);
  close(accepted.fd);
  close_at_once(last);
  close_at_once(late);
  for (int i = 0; i < 2; i++) close_at_once(clients[i]);
  close_place(&place);
}

/* ---- the clock ---------------------------------------------------------------------------------------------- */

/* A port that is believed to be idle, but does not come when it is its turn. */
static void what_a_busy_worker_leaves_goes_to_another(void) {
  struct place place;
  open_place(&place, 16, MILLISECOND);
  struct pdlb_error error = {0};
  for (int i = 1; i < WORKERS; i++) rig_unlink(place.workers[i], place.queue);
  CHECK_OK(pdlb_port_fd(place.workers[0], &error), error);
  const int client = connect_to(&place.address);
  wait_for_accepted(&place, 1);
  rig_link(place.workers[1], place.queue, 0);
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, receive_token(place.workers[1]), &accepted), 0);
  close(accepted.fd);
  close_at_once(client);
  close_place(&place);
}

/* ---- the end ------------------------------------------------------------------------------------------------ */

static void what_waits_at_the_end_can_be_taken_or_is_closed(void) {
  struct place place;
  open_place(&place, 16, 0);
  int clients[3];
  for (int i = 0; i < 3; i++) clients[i] = connect_to(&place.address);
  wait_for_accepted(&place, 3);
  pdlb_acceptor_stop(place.acceptor, 0);
  CHECK(pdlb_acceptor_wait(place.acceptor, PDLB_FOREVER));
  struct pdlb_error error = {0};
  CHECK_ERROR(pdlb_acceptor_add(place.acceptor, place.listener_fd, &error), -EPIPE, error);
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_acceptor_take_left(place.acceptor, &accepted), 0);
  close(accepted.fd);
  close_place(&place);
  for (int i = 0; i < 3; i++) {
    char byte;
    CHECK_EQ(recv(clients[i], &byte, 1, 0), 0);
    close(clients[i]);
  }
}

static void an_earlier_end_of_draining_counts(void) {
  struct place place;
  open_place(&place, 1, 0);
  int clients[3];
  for (int i = 0; i < 3; i++) clients[i] = connect_to(&place.address);
  wait_for_accepted(&place, 1);
  pdlb_acceptor_stop(place.acceptor, pdlb_now() + patience);
  CHECK(!pdlb_acceptor_wait(place.acceptor, pdlb_now() + MILLISECOND));
  pdlb_acceptor_stop(place.acceptor, PDLB_FOREVER);
  CHECK(!pdlb_acceptor_wait(place.acceptor, 0));
  pdlb_acceptor_stop(place.acceptor, 0);
  CHECK(pdlb_acceptor_wait(place.acceptor, PDLB_FOREVER));
  for (int i = 0; i < 3; i++) close_at_once(clients[i]);
  close_place(&place);
}

static void unix_sockets_are_shut_too(void) {
  struct place place;
  open_place(&place, 16, 0);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0); /* a name that the kernel chooses */
  socklen_t size = sizeof address;
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &size), 0);
  CHECK_EQ(listen(fd, 8), 0);
  const int early = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), late = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_EQ(connect(early, (struct sockaddr *)&address, size), 0);
  CHECK_EQ(pdlb_listener_shut(fd), 0);
  CHECK_EQ(connect(late, (struct sockaddr *)&address, size), -1);
  struct pdlb_error error = {0};
  const int id = pdlb_acceptor_add(place.acceptor, fd, &error);
  CHECK_OK(id, error);
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_acceptor_take(place.acceptor, PDLB_NONE, receive_token(place.workers[0]), &accepted), 0);
  CHECK_EQ(accepted.family, AF_UNIX);
  CHECK_EQ(accepted.listener, (uint32_t)id);
  while (pdlb_acceptor_listens(place.acceptor, (uint32_t)id)) sched_yield();
  close(accepted.fd);
  close(early);
  close(late);
  close(fd);
  close_place(&place);
}

static void wrong_arguments_change_nothing(void) {
  struct place place;
  open_place(&place, 16, 0);
  struct pdlb_error error = {0};
  struct pdlb_acceptor *acceptor;
  struct pdlb_acceptor_config config = {.queue = place.queue, .slots = 0, .batch = 16};
  CHECK_ERROR(pdlb_acceptor_start(place.rig.domain, place.sender, &config, &acceptor, &error), -EINVAL, error);
  config = (struct pdlb_acceptor_config){.queue = place.queue, .slots = 16, .batch = 65};
  CHECK_ERROR(pdlb_acceptor_start(place.rig.domain, place.sender, &config, &acceptor, &error), -EINVAL, error);
  CHECK(!acceptor);
  CHECK_ERROR(pdlb_acceptor_add(place.acceptor, -1, &error), -EBADF, error);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  CHECK_ERROR(pdlb_acceptor_add(place.acceptor, fd, &error), -EINVAL, error);
  CHECK_EQ(listen(fd, 1), 0);
  CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
  CHECK_ERROR(pdlb_acceptor_add(place.acceptor, fd, &error), -EINVAL, error);
  CHECK_ERROR(pdlb_acceptor_remove(place.acceptor, 77, true, &error), -EINVAL, error);
  CHECK_EQ(pdlb_listener_shut(-1), -EBADF);
  close(fd);
  close_place(&place);
}

CHECK_MAIN(CASE(token_is_good_for_one_take), CASE(every_connection_is_served_once),
           CASE(every_connection_is_served_with_one_slot), CASE(listeners_come_and_go), CASE(stopping_cuts_nobody_off),
           CASE(beyond_the_slots_clients_stay_in_the_backlog), CASE(without_descriptors_it_waits_and_goes_on),
           CASE(what_a_busy_worker_leaves_goes_to_another), CASE(what_waits_at_the_end_can_be_taken_or_is_closed),
           CASE(an_earlier_end_of_draining_counts), CASE(unix_sockets_are_shut_too),
           CASE(wrong_arguments_change_nothing))
