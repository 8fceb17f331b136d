/* The worker that comes next accepts, if it sleeps in its loop when a connection comes. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "../acceptor/internal.h"
#include "clients.h"
#include "rig.h"

enum { MILLISECOND = 1000000, WORKERS = 3, ROUNDS = 40, MARK = 7, MOST = 1000 };

struct place;

/* A loop: it sleeps in its set, and receives when its port or a listener wakes it. */
struct loop {
  struct place *place;
  pthread_t thread;
  int set;
  struct pdlb_port *port;
  uint32_t worker, served;
  int held[WORKERS * MOST];
  _Atomic bool blocked;          /* what it received last keeps it */
  _Atomic uint32_t told, untold; /* turns in which it was told of something, and in which it was not */
};

struct place {
  struct rig rig;
  uint8_t shared;
  struct pdlb_port *sender;
  struct pdlb_acceptor *acceptor;
  struct sockaddr_in address;
  int listener_fd;
  struct loop loop[WORKERS];
  _Atomic uint32_t led, asked, asked_by_loops;
  _Atomic int blocks; /* the worker that stops when it is given the next one, -1 for none */
  _Atomic bool over;
};

static void receive(struct loop *loop) {
  struct place *place = loop->place;
  const bool leads = pdlb_acceptor_lead(place->acceptor, loop->worker, loop->port);
  if (leads) atomic_fetch_add(&place->led, 1);
  struct pdlb_event event;
  while (pdlb_port_recv(loop->port, &event, 1, 0) == 1) {
    struct pdlb_accepted accepted;
    if (pdlb_acceptor_take(place->acceptor, loop->worker, event.data, &accepted) < 0) continue;
    loop->held[loop->served++] = accepted.fd;
    if (atomic_load(&place->blocks) == (int)(loop - place->loop)) {
      atomic_store(&loop->blocked, true);
      while (atomic_load(&loop->blocked)) poll(NULL, 0, 1);
    }
    CHECK_EQ(send(accepted.fd, "x", 1, MSG_NOSIGNAL), 1);
  }
  if (leads) pdlb_acceptor_led(place->acceptor);
}

static void *run(void *argument) {
  struct loop *loop = argument;
  receive(loop); /* which arms the port */
  pdlb_port_parked(loop->port, true);
  while (!atomic_load(&loop->place->over)) {
    struct epoll_event events[4];
    const int found = epoll_wait(loop->set, events, 4, 10);
    for (int i = 0; i < found; i++) CHECK_EQ(events[i].data.u64, (uint64_t)MARK);
    atomic_fetch_add(found > 0 ? &loop->told : &loop->untold, 1);
    if (found > 0) receive(loop);
  }
  return NULL;
}

static void start(struct place *place, int index) {
  struct pdlb_error error = {0};
  struct loop *loop = &place->loop[index];
  loop->place = place;
  loop->port = rig_port_with(&place->rig, &(struct pdlb_port_config){.cq_depth = 8, .history_entries = 256});
  rig_link(loop->port, place->shared, 0);
  CHECK_OK(pdlb_acceptor_worker_add(place->acceptor, PDLB_NONE, &loop->worker, &error), error);
  loop->set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = MARK}};
  CHECK_EQ(epoll_ctl(loop->set, EPOLL_CTL_ADD, pdlb_port_fd(loop->port, &error), &event), 0);
  CHECK_OK(pdlb_acceptor_worker_loop(place->acceptor, loop->worker, loop->set, MARK, pdlb_port_id(loop->port), &error),
           error);
  pthread_create(&loop->thread, NULL, run, loop);
}

static struct place *open_place(void) {
  struct pdlb_error error = {0};
  struct place *place = calloc(1, sizeof *place);
  place->rig = rig_open();
  place->shared =
      rig_queue_with(&place->rig, &(struct pdlb_ldb_queue_config){.sharing = PDLB_SHARE_EVEN, .grace_ns = MILLISECOND});
  place->sender = rig_producer(&place->rig);
  rig_start(&place->rig);
  atomic_init(&place->blocks, -1);
  const struct pdlb_acceptor_config config = {.queue = place->shared, .slots = 64, .batch = 8, .blocking = true};
  CHECK_OK(pdlb_acceptor_start(place->rig.domain, place->sender, &config, &place->acceptor, &error), error);
  for (int i = 0; i < WORKERS; i++) start(place, i);
  place->listener_fd = listen_on(&place->address);
  CHECK_OK(pdlb_acceptor_add(place->acceptor, place->listener_fd, &error), error);
  return place;
}

static void close_place(struct place *place) {
  struct pdlb_error error = {0};
  atomic_store(&place->over, true);
  for (int i = 0; i < WORKERS; i++) {
    struct loop *loop = &place->loop[i];
    pthread_join(loop->thread, NULL);
    CHECK_OK(pdlb_acceptor_worker_loop(place->acceptor, loop->worker, -1, 0, 0, &error), error);
    close(loop->set);
  }
  pdlb_acceptor_end(place->acceptor);
  pdlb_acceptor_free(place->acceptor);
  for (int i = 0; i < WORKERS; i++) {
    for (uint32_t one = 0; one < place->loop[i].served; one++) close(place->loop[i].held[one]);
    pdlb_port_release(place->loop[i].port, place->loop[i].served);
    rig_close_port(place->loop[i].port);
  }
  close(place->listener_fd);
  rig_close_port(place->sender);
  rig_close(&place->rig);
  free(place);
}

static int connect_and_wait(const struct place *place) {
  const int client = connect_to(&place->address);
  char answer;
  CHECK_EQ(recv(client, &answer, 1, 0), 1);
  poll(NULL, 0, 1); /* it comes alone */
  return client;
}

static void wait_for_leader(struct place *place, int clients[ROUNDS], int *count) {
  while (place->acceptor->has_pwait2 && atomic_load(&place->acceptor->leader) == PDLB_NONE) {
    CHECK(*count < ROUNDS);
    clients[(*count)++] = connect_and_wait(place);
  }
}

static int swap_call_fd(struct pdlb_acceptor *acceptor, int fd) {
  pthread_mutex_lock(&acceptor->call_mutex);
  const int before = acceptor->call_fd;
  acceptor->call_fd = fd;
  pthread_mutex_unlock(&acceptor->call_mutex);
  return before;
}

static uint64_t calls(int fd) {
  uint64_t count;
  return read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

static struct loop *leader_of(struct place *place) {
  for (int i = 0; i < WORKERS; i++)
    if (place->loop[i].worker == atomic_load(&place->acceptor->leader)) return &place->loop[i];
  return NULL;
}

/* A connection that a leader is told of while somebody else is on duty, and calls nobody for who would hear it. Returns
 * the client. */
static int come_while_another_is_on_duty(struct place *place, struct loop *loop) {
  struct pdlb_acceptor *acceptor = place->acceptor;
  const int unheard = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), heard = swap_call_fd(acceptor, unheard);
  const uint32_t before = atomic_load(&loop->told);
  const int client = connect_to(&place->address);
  struct pollfd called = {.fd = unheard, .events = POLLIN};
  CHECK_EQ(poll(&called, 1, -1), 1);
  const uint32_t untold = atomic_load(&loop->untold);
  while (atomic_load(&loop->untold) < untold + 2) { /* it slept in vain */
    CHECK(atomic_load(&loop->told) < before + 10);
    poll(NULL, 0, 1);
  }
  swap_call_fd(acceptor, heard);
  close(unheard);
  return client;
}

/* ---- the cases --------------------------------------------------------------------------------------------------- */

static void one_by_one_they_are_led_and_as_even_as_ever(void) {
  struct place *place = open_place();
  int clients[ROUNDS * WORKERS];
  for (int i = 0; i < ROUNDS * WORKERS; i++) clients[i] = connect_and_wait(place);
  for (int i = 0; i < WORKERS; i++) CHECK_EQ(place->loop[i].served, (uint32_t)ROUNDS);
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(place->acceptor, &stats);
  CHECK_EQ(stats.accepted, (uint64_t)(ROUNDS * WORKERS));
  CHECK_EQ(stats.led, (uint64_t)atomic_load(&place->led));
  CHECK(stats.led > 0 || !place->acceptor->has_pwait2);
  for (int i = 0; i < ROUNDS * WORKERS; i++) close_at_once(clients[i]);
  close_place(place);
}

/* Also the one that was to lead. */
static void whoever_is_busy_keeps_nobody_waiting(void) {
  struct place *place = open_place();
  int clients[MOST];
  for (int i = 0; i < WORKERS; i++) clients[i] = connect_and_wait(place);
  for (int busy = 0; busy < WORKERS; busy++) {
    struct loop *loop = &place->loop[busy];
    atomic_store(&place->blocks, busy);
    int waiting = -1, served = WORKERS;
    while (!atomic_load(&loop->blocked)) { /* soon; later where others have had their grace for want of a processor */
      CHECK(served < MOST - 10);
      const int client = connect_to(&place->address);
      struct pollfd state = {.fd = client, .events = POLLIN};
      while (poll(&state, 1, 1) == 0 && !atomic_load(&loop->blocked)) continue;
      if (atomic_load(&loop->blocked) && poll(&state, 1, 0) == 0)
        waiting = client;
      else
        clients[served++] = client;
    }
    const int before = served;
    while (served < before + 10) clients[served++] = connect_and_wait(place);
    atomic_store(&place->blocks, -1);
    atomic_store(&loop->blocked, false);
    char answer;
    if (waiting >= 0) {
      CHECK_EQ(recv(waiting, &answer, 1, 0), 1);
      close_at_once(waiting);
    }
    while (served > WORKERS) close_at_once(clients[--served]);
  }
  for (int i = 0; i < WORKERS; i++) close_at_once(clients[i]);
  close_place(place);
}

static void without_its_loop_nobody_leads(void) {
  struct pdlb_error error = {0};
  struct place *place = open_place();
  int clients[10];
  clients[0] = connect_and_wait(place);
  for (int i = 0; i < WORKERS; i++)
    CHECK_OK(pdlb_acceptor_worker_loop(place->acceptor, place->loop[i].worker, -1, 0, 0, &error), error);
  const uint32_t before = atomic_load(&place->led);
  for (int i = 1; i < 10; i++) clients[i] = connect_and_wait(place);
  CHECK_EQ(atomic_load(&place->led), before);
  CHECK_EQ(pdlb_acceptor_worker_loop(place->acceptor, 12345, place->loop[0].set, MARK, 0, &error), -EINVAL);
  for (int i = 0; i < 10; i++) close_at_once(clients[i]);
  close_place(place);
}

static void what_comes_at_once_is_all_served(void) {
  struct place *place = open_place();
  int clients[ROUNDS];
  clients[0] = connect_and_wait(place);
  for (int i = 1; i < ROUNDS; i++) clients[i] = connect_to(&place->address);
  for (int i = 1; i < ROUNDS; i++) {
    char answer;
    CHECK_EQ(recv(clients[i], &answer, 1, 0), 1);
  }
  for (int i = 0; i < ROUNDS; i++) close_at_once(clients[i]);
  close_place(place);
}

static uint32_t note_who_asks(void *context, const struct pdlb_arrival *arrival) {
  struct place *place = context;
  (void)arrival;
  atomic_fetch_add(&place->asked, 1);
  for (int i = 0; i < WORKERS; i++)
    if (pthread_equal(pthread_self(), place->loop[i].thread)) atomic_fetch_add(&place->asked_by_loops, 1);
  return PDLB_NONE;
}

/* It may wait for a loop, which must not be the one that asks it. */
static void a_policy_of_the_callers_is_never_asked_in_a_loop(void) {
  enum { TIMES = 10 };
  struct pdlb_error error = {0};
  struct place *place = open_place();
  struct pdlb_policy_config config = {
      .queue = place->shared, .grace_ns = 1000 * MILLISECOND, .pick = note_who_asks, .context = place};
  for (int i = 0; i < TIMES; i++) {
    int clients[ROUNDS], count = 0;
    wait_for_leader(place, clients, &count);
    config.policy = PDLB_POLICY_CALLER;
    CHECK_OK(pdlb_acceptor_set_policy(place->acceptor, &config, &error), error);
    const int client = connect_and_wait(place);
    config.policy = PDLB_POLICY_QUEUE;
    CHECK_OK(pdlb_acceptor_set_policy(place->acceptor, &config, &error), error);
    close_at_once(client);
    while (count) close_at_once(clients[--count]);
  }
  CHECK_EQ(atomic_load(&place->asked), (uint32_t)TIMES);
  CHECK_EQ(atomic_load(&place->asked_by_loops), 0u);
  close_place(place);
}

/* Also before the thread has heard of the pause. */
static void while_paused_nobody_leads(void) {
  enum { TIMES = 5 };
  struct place *place = open_place();
  for (int i = 0; i < TIMES; i++) {
    int clients[ROUNDS], count = 0;
    wait_for_leader(place, clients, &count);
    const int unheard = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), heard = swap_call_fd(place->acceptor, unheard);
    pdlb_acceptor_pause(place->acceptor, true);
    const uint64_t before = atomic_load(&place->acceptor->accepted);
    const int client = connect_to(&place->address);
    while (atomic_load(&place->acceptor->leader) != PDLB_NONE) {
      CHECK_EQ(atomic_load(&place->acceptor->accepted), before);
      poll(NULL, 0, 1);
    }
    CHECK_EQ(atomic_load(&place->acceptor->accepted), before);
    swap_call_fd(place->acceptor, heard);
    close(unheard);
    pdlb_acceptor_pause(place->acceptor, false);
    char answer;
    CHECK_EQ(recv(client, &answer, 1, 0), 1);
    close_at_once(client);
    while (count) close_at_once(clients[--count]);
  }
  close_place(place);
}

static void who_cannot_pass_the_lead_on_has_the_thread_do_it(void) {
  struct place *place = open_place();
  struct pdlb_acceptor *acceptor = place->acceptor;
  pthread_mutex_lock(&acceptor->duty);
  const int unheard = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), heard = swap_call_fd(acceptor, unheard);
  pdlb_acceptor_led(acceptor);
  CHECK_EQ(calls(unheard), 1u);
  swap_call_fd(acceptor, heard);
  pthread_mutex_unlock(&acceptor->duty);
  close(unheard);
  close_place(place);
}

/* Its loop does not turn and turn until that one has accepted. And before it leads again it looks. */
static void while_another_is_on_duty_a_leader_is_told_once(void) {
  struct place *place = open_place();
  struct pdlb_acceptor *acceptor = place->acceptor;
  int clients[ROUNDS], count = 0;
  for (bool looks_itself = false; count < ROUNDS - 1; looks_itself = !looks_itself) {
    wait_for_leader(place, clients, &count);
    pthread_mutex_lock(&acceptor->duty);
    struct loop *loop = leader_of(place);
    const int client = loop ? come_while_another_is_on_duty(place, loop) : -1;
    pthread_mutex_unlock(&acceptor->duty);
    if (!acceptor->has_pwait2) break;
    if (!loop) continue;
    if (looks_itself)
      pdlb_acceptor_led(acceptor);
    else
      acceptor_call(acceptor);
    char answer;
    CHECK_EQ(recv(client, &answer, 1, 0), 1);
    clients[count++] = client;
    poll(NULL, 0, 1);
  }
  while (count) close_at_once(clients[--count]);
  close_place(place);
}

/* As before Linux 5.11. What this thread may not call, those that it starts may not either. */
static void *without_pwait2(void *argument) {
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {.len = sizeof rules / sizeof *rules, .filter = rules};
  CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
  struct place *place = open_place();
  int clients[ROUNDS];
  for (int i = 0; i < ROUNDS; i++) clients[i] = connect_and_wait(place);
  CHECK_EQ(atomic_load(&place->acceptor->led), 0u);
  for (int i = 0; i < ROUNDS; i++) close_at_once(clients[i]);
  close_place(place);
  return argument;
}

static void on_an_old_kernel_nobody_leads(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, without_pwait2, NULL);
  pthread_join(thread, NULL);
}

CHECK_MAIN(CASE(one_by_one_they_are_led_and_as_even_as_ever), CASE(whoever_is_busy_keeps_nobody_waiting),
           CASE(without_its_loop_nobody_leads), CASE(what_comes_at_once_is_all_served),
           CASE(a_policy_of_the_callers_is_never_asked_in_a_loop), CASE(while_paused_nobody_leads),
           CASE(who_cannot_pass_the_lead_on_has_the_thread_do_it), CASE(while_another_is_on_duty_a_leader_is_told_once),
           CASE(on_an_old_kernel_nobody_leads))
