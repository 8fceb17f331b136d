/* Worker processes: permits, and what becomes of connections when a worker dies with one. Here workers are threads of
 * one process, each with a receiver of its own: what they share is the board. */
#include "pdlb_receiver.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>

#include "clients.h"
#include "rig.h"

enum { MILLISECOND = 1000000, WORKERS = 2 };

static const uint64_t patience = 60ull * 1000 * MILLISECOND;

struct place {
  struct rig rig;
  uint8_t queue;
  struct pdlb_port *sender, *ports[WORKERS];
  struct pdlb_board *board, *joined;
  struct pdlb_receiver *receivers[WORKERS];
  struct pdlb_acceptor *acceptor;
  struct sockaddr_in address;
  int listener_fd;
  uint32_t listener;
  enum pdlb_proxy proxy;
  int shelf_of_first;
};

static void open_proxied_place(struct place *place, enum pdlb_proxy proxy) {
  memset(place, 0, sizeof *place);
  place->proxy = proxy;
  struct pdlb_error error = {0};
  place->rig = rig_open();
  place->queue = rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_EVEN});
  place->sender = rig_producer(&place->rig);
  rig_start(&place->rig);
  CHECK_OK(pdlb_board_create(WORKERS, &place->board, &error), error);
  CHECK_OK(pdlb_board_join(pdlb_board_fd(place->board), pdlb_board_bell_fd(place->board), &place->joined, &error),
           error);
  const struct pdlb_acceptor_config config = {.queue = place->queue, .slots = 1, .batch = 16, .board = place->board};
  CHECK_OK(pdlb_acceptor_start(place->rig.domain, place->sender, &config, &place->acceptor, &error), error);
  CHECK_OK(pdlb_acceptor_set_policy(
               place->acceptor, &(struct pdlb_policy_config){.queue = place->queue, .grace_ns = MILLISECOND}, &error),
           error);
  place->listener_fd = listen_on(&place->address);
  const int id = pdlb_acceptor_add(place->acceptor, place->listener_fd, &error);
  CHECK_OK(id, error);
  place->listener = (uint32_t)id;
  for (uint32_t i = 0; i < WORKERS; i++) {
    CHECK_OK(pdlb_receiver_create(place->joined, i, true, &place->receivers[i], &error), error);
    CHECK_OK(pdlb_receiver_add(place->receivers[i], place->listener, place->listener_fd, place->proxy, &error), error);
    place->ports[i] = rig_consumer(&place->rig, place->queue);
  }
}

static void open_place(struct place *place) { open_proxied_place(place, PDLB_PROXY_NONE); }

static void close_place(struct place *place) {
  pdlb_acceptor_end(place->acceptor);
  pdlb_acceptor_free(place->acceptor);
  close(place->listener_fd);
  rig_close_port(place->sender);
  for (int i = 0; i < WORKERS; i++) {
    pdlb_receiver_free(place->receivers[i]);
    rig_close_port(place->ports[i]);
  }
  pdlb_board_close(place->joined);
  pdlb_board_close(place->board);
  rig_close(&place->rig);
}

static struct pdlb_seat_stats seat(const struct place *place, uint32_t index) {
  struct pdlb_seat_stats stats;
  pdlb_board_stats(place->board, index, &stats);
  return stats;
}

/* The worker has a permit in its hand. */
static uint64_t receive_permit(struct place *place, int worker) {
  struct pdlb_event event;
  CHECK_EQ(pdlb_port_recv(place->ports[worker], &event, 1, pdlb_now() + patience), 1);
  pdlb_receiver_hold(place->receivers[worker], 1);
  return event.data;
}

static void accept_by(struct place *place, int worker, uint64_t permit) {
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_receiver_accept(place->receivers[worker], permit, &accepted), 0);
  CHECK_EQ(accepted.listener, place->listener);
  CHECK_EQ(accepted.family, AF_INET);
  CHECK_EQ(fcntl(accepted.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  close(accepted.fd);
}

static void each_connection_has_one_permit(void) {
  struct place place;
  open_place(&place);
  for (int round = 0; round < 200; round++) {
    const int client = connect_to(&place.address), worker = round % WORKERS;
    accept_by(&place, worker, receive_permit(&place, worker));
    pdlb_board_closed(place.joined, (uint32_t)worker, place.listener, round % 3 == 0);
    CHECK_EQ(pdlb_port_release(place.ports[worker], 1), 1);
    close(client);
  }
  uint64_t served = 0, aborted = 0, timed = 0;
  for (uint32_t i = 0; i < WORKERS; i++) {
    const struct pdlb_seat_stats stats = seat(&place, i);
    CHECK_EQ(stats.accepted, 100);
    CHECK_EQ(stats.served + stats.aborted, 100);
    CHECK_EQ(stats.in_hand, 0);
    CHECK_EQ(stats.empty, 0);
    served += stats.served;
    aborted += stats.aborted;
    for (uint32_t bucket = 0; bucket < PDLB_HANDOFF_BUCKETS; bucket++) timed += stats.handoff[bucket];
  }
  CHECK_EQ(aborted, 67);
  CHECK_EQ(served, 133);
  CHECK_EQ(timed, 200);
  close_place(&place);
}

static void permit_of_the_dead_is_issued_again(void) {
  struct place place;
  open_place(&place);
  const int client = connect_to(&place.address);
  receive_permit(&place, 0);
  CHECK_EQ(seat(&place, 0).in_hand, 1);
  CHECK_EQ(pdlb_board_bury(place.board, 0), 0);
  accept_by(&place, 1, receive_permit(&place, 1));
  close(client);
  close_place(&place);
}

static void permit_of_one_that_was_stopped_is_issued_again(void) {
  struct place place;
  open_place(&place);
  const int client = connect_to(&place.address);
  const uint64_t kept = receive_permit(&place, 0);
  accept_by(&place, 1, receive_permit(&place, 1));
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_receiver_accept(place.receivers[0], kept, &accepted), -EAGAIN);
  CHECK_EQ(seat(&place, 0).empty, 1);
  CHECK_EQ(seat(&place, 0).in_hand, 0);
  close(client);
  close_place(&place);
}

static void what_the_dead_had_is_aborted(void) {
  struct place place;
  open_place(&place);
  int clients[4];
  for (int i = 0; i < 4; i++) {
    clients[i] = connect_to(&place.address);
    accept_by(&place, 0, receive_permit(&place, 0));
  }
  pdlb_board_closed(place.joined, 0, place.listener, false);
  CHECK_EQ(pdlb_board_bury(place.board, 0), 3);
  CHECK_EQ(pdlb_board_bury(place.board, 0), 0);
  const struct pdlb_seat_stats stats = seat(&place, 0);
  CHECK_EQ(stats.accepted, 4);
  CHECK_EQ(stats.served, 1);
  CHECK_EQ(stats.aborted, 3);
  for (int i = 0; i < 4; i++) close(clients[i]);
  close_place(&place);
}

static void listener_that_is_gone_has_nothing(void) {
  struct place place;
  open_place(&place);
  const int client = connect_to(&place.address);
  const uint64_t permit = receive_permit(&place, 0);
  pdlb_receiver_remove(place.receivers[0], place.listener);
  struct pdlb_accepted accepted;
  CHECK_EQ(pdlb_receiver_accept(place.receivers[0], permit, &accepted), -ENOENT);
  accept_by(&place, 1, receive_permit(&place, 1));
  close(client);
  close_place(&place);
}

static void drains_what_is_in_the_backlog(void) {
  struct place place;
  open_place(&place);
  int clients[8];
  for (int i = 0; i < 8; i++) clients[i] = connect_to(&place.address);
  pdlb_acceptor_stop(place.acceptor, pdlb_now() + patience);
  for (int i = 0; i < 8; i++) accept_by(&place, i % WORKERS, receive_permit(&place, i % WORKERS));
  CHECK(pdlb_acceptor_wait(place.acceptor, pdlb_now() + patience));
  CHECK_EQ(seat(&place, 0).accepted + seat(&place, 1).accepted, 8);
  for (int i = 0; i < 8; i++) close(clients[i]);
  close_place(&place);
}

static void bad_arguments_are_refused(void) {
  struct pdlb_error error = {0};
  struct pdlb_board *board = NULL;
  CHECK_EQ(pdlb_board_create(0, &board, &error), -EINVAL);
  CHECK_EQ(pdlb_board_create(PDLB_MAX_SEATS + 1, &board, &error), -EINVAL);
  CHECK_EQ(pdlb_board_join(-1, -1, &board, &error), -EBADF);
  const int pipe_end = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_EQ(pdlb_board_join(pipe_end, pipe_end, &board, &error), -EINVAL);
  close(pipe_end);
  CHECK_EQ(pdlb_board_create(1, &board, &error), 0);
  struct pdlb_receiver *receiver = NULL;
  CHECK_EQ(pdlb_receiver_create(board, 1, true, &receiver, &error), -EINVAL);
  CHECK_EQ(pdlb_receiver_create(board, 0, true, &receiver, &error), 0);
  CHECK_EQ(pdlb_receiver_add(receiver, 0, -1, PDLB_PROXY_NONE, &error), -EBADF);
  pdlb_receiver_free(receiver);
  pdlb_board_close(board);
}

/* The permit is held until the connection ends, whether its header comes or not. */
static void headers_are_awaited(void) {
  static const char header[] = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
  struct place place;
  struct pdlb_accepted accepted;
  uint32_t given_up;
  open_proxied_place(&place, PDLB_PROXY_REQUIRED);
  struct pdlb_receiver *receiver = place.receivers[0];
  const int late = connect_to(&place.address);
  CHECK_EQ(pdlb_receiver_accept(receiver, receive_permit(&place, 0), &accepted), -EINPROGRESS);
  CHECK_EQ(pdlb_receiver_collect(receiver, &accepted, &given_up), -ENOENT);
  CHECK_EQ(given_up, 0);
  CHECK_EQ(send(late, header, sizeof header - 1, 0), (ssize_t)sizeof header - 1);
  struct pollfd state = {.fd = pdlb_receiver_headers_fd(receiver), .events = POLLIN};
  CHECK_EQ(poll(&state, 1, 10000), 1);
  CHECK_EQ(pdlb_receiver_collect(receiver, &accepted, &given_up), 0);
  CHECK(accepted.proxied && accepted.listener == place.listener);
  free(accepted.proxied);
  close(accepted.fd);
  pdlb_board_closed(place.joined, 0, place.listener, false);
  CHECK_EQ(pdlb_port_release(place.ports[0], 1), 1);
  const int broken = connect_to(&place.address);
  CHECK_EQ(send(broken, "GET /", 5, 0), 5);
  CHECK_EQ(pdlb_receiver_accept(receiver, receive_permit(&place, 0), &accepted), -EINPROGRESS);
  CHECK_EQ(pdlb_receiver_collect(receiver, &accepted, &given_up), -ENOENT);
  CHECK_EQ(given_up, 1);
  CHECK_EQ(pdlb_port_release(place.ports[0], 1), 1);
  const struct pdlb_seat_stats stats = seat(&place, 0);
  CHECK_EQ(stats.accepted, 2);
  CHECK_EQ(stats.served, 1);
  CHECK_EQ(stats.aborted, 1);
  close(late);
  close(broken);
  close_place(&place);
}

/* ---- workers that are picked ------------------------------------------------------------------------------------- */

struct picking {
  struct place place;
  uint32_t workers[WORKERS];
};

/* Each in turn; a worker that does not come for `grace_ns` loses what it was picked for. */
static void open_picking(struct picking *picking, uint64_t grace_ns) {
  struct place *place = &picking->place;
  struct pdlb_error error = {0};
  open_place(place);
  for (uint32_t i = 0; i < WORKERS; i++) {
    const uint8_t queue = rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_PULL});
    rig_link(place->ports[i], queue, 0);
    CHECK_OK(pdlb_acceptor_worker_add(place->acceptor, queue, &picking->workers[i], &error), error);
    const int shelf = pdlb_acceptor_worker_seat(place->acceptor, picking->workers[i], i, &error);
    CHECK_OK(shelf, error);
    if (i == 0) place->shelf_of_first = shelf;
    CHECK_OK(pdlb_receiver_set_shelf(place->receivers[i], shelf, &error), error);
  }
  const struct pdlb_policy_config policy = {
      .policy = PDLB_POLICY_ROUND_ROBIN, .queue = place->queue, .grace_ns = grace_ns};
  CHECK_OK(pdlb_acceptor_set_policy(place->acceptor, &policy, &error), error);
}

static struct pdlb_worker_stats worker_of(const struct picking *picking, int worker) {
  struct pdlb_worker_stats stats;
  pdlb_acceptor_worker_stats(picking->place.acceptor, picking->workers[worker], &stats);
  return stats;
}

static void each_is_picked_in_turn(void) {
  struct picking picking;
  struct place *place = &picking.place;
  open_picking(&picking, 3600ull * 1000 * MILLISECOND);
  int clients[20];
  for (int i = 0; i < 20; i++) {
    clients[i] = connect_to(&place->address);
    accept_by(place, i % WORKERS, receive_permit(place, i % WORKERS));
    CHECK_EQ(worker_of(&picking, i % WORKERS).open, (uint32_t)i / WORKERS + 1);
    CHECK_EQ(worker_of(&picking, i % WORKERS).waiting, 0);
  }
  const struct pdlb_seat_stats stats = seat(place, 0);
  CHECK_EQ(stats.accepted, 10);
  CHECK_EQ(stats.permitted, 0);
  uint64_t accepted, closed;
  pdlb_board_listener(place->board, 0, place->listener, &accepted, &closed);
  CHECK_EQ(accepted, 10);
  pdlb_board_closed(place->joined, 0, place->listener, false);
  CHECK_EQ(worker_of(&picking, 0).open, 9);
  for (int i = 0; i < 20; i++) close(clients[i]);
  close_place(place);
}

static void await_waiting(const struct picking *picking, int worker, uint32_t count) {
  while (worker_of(picking, worker).waiting != count) sched_yield();
}

/* It was killed between taking one from its shelf and counting it: that one counts as its own. */
static void what_lay_on_the_shelf_of_the_dead_goes_to_others(void) {
  struct picking picking;
  struct place *place = &picking.place;
  open_picking(&picking, 3600ull * 1000 * MILLISECOND);
  int clients[4];
  for (int i = 0; i < 4; i++) clients[i] = connect_to(&place->address);
  await_waiting(&picking, 0, 2);
  await_waiting(&picking, 1, 2);
  char note[1024];
  struct pdlb_error error = {0};
  const int shelf = pdlb_acceptor_worker_seat(place->acceptor, picking.workers[0], 0, &error);
  CHECK_EQ(shelf, -EINVAL); /* it has one */
  CHECK_GT(recv(place->shelf_of_first, note, sizeof note, 0), 0);
  pdlb_acceptor_worker_pause(place->acceptor, picking.workers[0], true);
  pdlb_acceptor_worker_bury(place->acceptor, picking.workers[0]);
  CHECK_EQ(pdlb_board_bury(place->board, 0), 1);
  CHECK_EQ(seat(place, 0).accepted, 1);
  CHECK_EQ(seat(place, 0).aborted, 1);
  await_waiting(&picking, 1, 3);
  for (int i = 0; i < 3; i++) accept_by(place, 1, receive_permit(place, 1));
  CHECK_EQ(seat(place, 1).accepted, 3);
  for (int i = 0; i < 4; i++) close(clients[i]);
  close_place(place);
}

/* Worker 1 accepts, perhaps at a second try: on a busy machine it may be too late itself. */
static void accept_in_time(struct place *place) {
  struct pdlb_accepted accepted;
  int rc;
  do rc = pdlb_receiver_accept(place->receivers[1], receive_permit(place, 1), &accepted);
  while (rc == -EAGAIN);
  CHECK_EQ(rc, 0);
  close(accepted.fd);
}

static void what_one_does_not_come_for_is_taken_back(void) {
  struct picking picking;
  struct place *place = &picking.place;
  struct pdlb_accepted accepted;
  open_picking(&picking, MILLISECOND);
  int clients[2];
  clients[0] = connect_to(&place->address);
  accept_in_time(place);
  const uint64_t late = receive_permit(place, 0);
  CHECK_EQ(pdlb_receiver_accept(place->receivers[0], late, &accepted), -EAGAIN);
  CHECK_EQ(worker_of(&picking, 0).stalled, false); /* it has come */
  clients[1] = connect_to(&place->address);
  accept_in_time(place);
  for (int i = 0; i < 2; i++) close(clients[i]);
  close_place(place);
}

CHECK_MAIN(CASE(each_is_picked_in_turn), CASE(what_lay_on_the_shelf_of_the_dead_goes_to_others),
           CASE(what_one_does_not_come_for_is_taken_back), CASE(headers_are_awaited),
           CASE(each_connection_has_one_permit), CASE(permit_of_the_dead_is_issued_again),
           CASE(permit_of_one_that_was_stopped_is_issued_again), CASE(what_the_dead_had_is_aborted),
           CASE(listener_that_is_gone_has_nothing), CASE(drains_what_is_in_the_backlog),
           CASE(bad_arguments_are_refused))
