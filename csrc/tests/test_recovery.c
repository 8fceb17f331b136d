/* A process is killed between any two instructions of an operation on a shared domain, and the others go on.
 *
 * A child joins the domain, gets ready, and performs one operation under ptrace, step by step, until it is killed. The
 * creator buries it. Then nothing may be locked, and everything must add up: each element is with a survivor, still
 * waiting, or with the dead; none is there twice; credits are those of what waits; and flows, lines and limits let
 * everything through that waits, and whatever comes.
 *
 *   PDLB_KILLS         kills for each operation, at instructions drawn by lot (default 8), or "all": at each of them
 *   PDLB_KILL_FROM, PDLB_KILL_TO   only these operations, from 1: a part of a long run
 *   PDLB_KILL_STRIDE   with "all": at each so manieth of them
 *   PDLB_KILL_EVENTS   events that the survivors move after each (default 300)
 */
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "one.h"
#include "rig.h"
#include "software.h"

#if defined(__x86_64__)

enum { BATCH = 8, CREDITS = 512, MOST_IDS = 4096, LIMIT = 6, MEMBER = 7 };

/* How far the child is; in memory that both see. */
enum stage { GETTING_READY, BEFORE, AFTER };

struct world {
  struct rig rig;
  uint8_t work, limited, line, sink, direct; /* queues: atomic and unordered; the same, limited; ordered; unordered */
  struct pdlb_port *producer, *survivor;     /* the creator's; `survivor` serves all queues but `direct` */
  struct pdlb_port *their_producer, *their_port, *their_single, *their_direct; /* the child's */
  uint64_t next_id;
};

/* The child's own view. */
struct child {
  const struct world *world;
  struct pdlb_port *producer, *port, *single, *direct;
  struct pdlb_event held[64];
};

struct operation {
  const char *name;
  void (*before)(struct world *world);  /* in the creator */
  void (*prepare)(struct child *child); /* in the child, whole */
  void (*act)(struct child *child);     /* in the child, until it is killed */
};

static _Atomic uint32_t *stage;
static struct check_random randomness;

/* ---- the world --------------------------------------------------------------------------------------------------- */

static struct pdlb_port *linked_port(struct world *world, bool to_all) {
  struct pdlb_port *port =
      rig_port_with(&world->rig, &(struct pdlb_port_config){.cq_depth = 64, .history_entries = 128});
  rig_link(port, world->work, 0);
  if (!to_all) return port;
  rig_link(port, world->limited, 1);
  rig_link(port, world->line, 2);
  rig_link(port, world->sink, 3);
  return port;
}

static struct world open_world(void) {
  struct world world = {.next_id = 1};
  const struct pdlb_domain_config config = {.ldb_queues = 4,
                                            .ldb_ports = 4,
                                            .dir_ports = 4,
                                            .ldb_credits = CREDITS,
                                            .history_entries = 1024,
                                            .atomic_inflights = 512,
                                            .sequence_slots = {4, 0},
                                            .shared = true};
  world.rig = rig_open_with(PDLB_LIMITS_LARGE, &config);
  world.work = rig_queue(&world.rig);
  world.limited =
      rig_queue_with(&world.rig, &(struct pdlb_ldb_queue_config){.atomic_inflights = 64, .inflights = LIMIT});
  world.line = rig_ordered_queue(&world.rig, 64);
  world.sink = rig_queue(&world.rig);
  world.producer = rig_producer(&world.rig);
  world.survivor = linked_port(&world, true);
  world.their_producer = rig_producer(&world.rig);
  world.their_port = linked_port(&world, true);
  world.their_single = linked_port(&world, false);
  world.direct = rig_directed_queue(&world.rig, PDLB_NONE);
  world.their_direct = rig_directed_port(&world.rig, world.direct, 64);
  rig_start(&world.rig);
  return world;
}

static void close_world(const struct world *world) {
  rig_close_port(world->producer);
  rig_close_port(world->survivor);
  rig_close(&world->rig);
}

/* `count` events of eight priorities and few flows, numbered on. */
static void make(struct world *world, struct pdlb_event *events, uint32_t count, uint8_t queue, enum pdlb_sched type,
                 uint32_t flows) {
  for (uint32_t i = 0; i < count; i++, world->next_id++)
    events[i] = rig_event(queue, type, type == PDLB_SCHED_ORDERED ? 0 : (unsigned)(world->next_id % 8),
                          (uint16_t)(world->next_id % flows), world->next_id);
}

static void send(struct world *world, uint32_t count, uint8_t queue, enum pdlb_sched type, uint32_t flows) {
  struct pdlb_event events[256];
  make(world, events, count, queue, type, flows);
  rig_send(world->producer, events, count);
}

/* The same of the highest priority. */
static void send_urgent(struct world *world, uint32_t count, enum pdlb_sched type) {
  struct pdlb_event events[256];
  make(world, events, count, world->work, type, 16);
  for (uint32_t i = 0; i < count; i++) events[i].sched = pdlb_sched_byte((unsigned)type, 0);
  rig_send(world->producer, events, count);
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

static void nothing_before(struct world *world) { (void)world; }
static void nothing_to_prepare(struct child *child) { (void)child; }

static struct world *own_copy(const struct child *child) { return (struct world *)child->world; }

static void send_of(struct child *child, uint32_t count, uint8_t queue, enum pdlb_sched type, uint32_t flows) {
  struct pdlb_event events[256];
  enum pdlb_refusal why;
  make(own_copy(child), events, count, queue, type, flows);
  pdlb_port_send(child->producer, events, count, &why);
}

/* As urgent as each other. */
static void make_urgent(struct world *world, struct pdlb_event *events, uint32_t count) {
  make(world, events, count, world->work, PDLB_SCHED_ATOMIC, 16);
  for (uint32_t i = 0; i < count; i++) events[i].sched = pdlb_sched_byte(PDLB_SCHED_ATOMIC, 0);
}

static void act_send_urgent(struct child *child) {
  struct pdlb_event events[20];
  enum pdlb_refusal why;
  make_urgent(own_copy(child), events, 20);
  pdlb_port_send(child->producer, events, 20, &why);
}

static void act_send_one(struct child *child) { send_of(child, 1, child->world->work, PDLB_SCHED_ATOMIC, 4); }
static void act_send_batch(struct child *child) { send_of(child, 20, child->world->work, PDLB_SCHED_ATOMIC, 4); }
static void act_send_wrapping(struct child *child) { send_of(child, 30, child->world->work, PDLB_SCHED_ATOMIC, 4); }
static void act_send_to_line(struct child *child) { send_of(child, 3, child->world->line, PDLB_SCHED_ORDERED, 1); }
static void act_send_directed(struct child *child) { send_of(child, 5, child->world->direct, PDLB_SCHED_DIRECTED, 1); }

static void act_send_mixed(struct child *child) {
  struct pdlb_event events[6];
  enum pdlb_refusal why;
  make(own_copy(child), events, 2, child->world->work, PDLB_SCHED_ATOMIC, 4);
  make(own_copy(child), events + 2, 2, child->world->sink, PDLB_SCHED_UNORDERED, 4);
  make(own_copy(child), events + 4, 2, child->world->work, PDLB_SCHED_UNORDERED, 4);
  pdlb_port_send(child->producer, events, 6, &why);
}

static void before_full(struct world *world) { send(world, 60, world->work, PDLB_SCHED_ATOMIC, 16); }
static void before_in_rings(struct world *world) { send(world, 100, world->work, PDLB_SCHED_ATOMIC, 16); }
static void before_some(struct world *world) { send(world, 12, world->work, PDLB_SCHED_ATOMIC, 16); }
static void before_one(struct world *world) { send(world, 1, world->work, PDLB_SCHED_ATOMIC, 16); }
static void before_unordered(struct world *world) { send(world, 12, world->work, PDLB_SCHED_UNORDERED, 16); }
static void before_limited(struct world *world) { send(world, 12, world->limited, PDLB_SCHED_ATOMIC, 16); }
static void before_urgent(struct world *world) { send_urgent(world, 12, PDLB_SCHED_ATOMIC); }
static void before_urgent_unordered(struct world *world) { send_urgent(world, 12, PDLB_SCHED_UNORDERED); }
static void before_urgent_in_rings(struct world *world) { send_urgent(world, 100, PDLB_SCHED_ATOMIC); }
static void before_line(struct world *world) { send(world, 12, world->line, PDLB_SCHED_ORDERED, 1); }
static void before_directed(struct world *world) { send(world, 12, world->direct, PDLB_SCHED_DIRECTED, 1); }

/* All that waits is in one ring: a front has no room for so many in one go. */
static void before_in_one_ring(struct world *world) {
  struct pdlb_event events[100];
  make_urgent(world, events, 100);
  rig_send(world->producer, events, 100);
}

/* Some flows are in flight with the survivor. */
static void let_survivor_own(struct world *world) {
  struct pdlb_event events[4];
  send(world, 4, world->work, PDLB_SCHED_ATOMIC, 4);
  CHECK_EQ(rig_poll(world->survivor, events, 4), 4);
}

static void before_owned(struct world *world) {
  let_survivor_own(world);
  send(world, 12, world->work, PDLB_SCHED_ATOMIC, 8);
}

/* What comes after an element of another type goes into rings. No more than it takes: to be killed at each instruction
 * of parking a hundred is the work of hours. */
static void before_owned_in_rings(struct world *world) {
  let_survivor_own(world);
  send(world, 1, world->work, PDLB_SCHED_UNORDERED, 8);
  send(world, 12, world->work, PDLB_SCHED_ATOMIC, 8);
}

/* ... and others wait for them, parked by this very port, and are free by now. */
static void before_parked(struct world *world) {
  before_owned(world);
  struct pdlb_event events[64];
  rig_poll(world->their_port, events, 64);
  pdlb_port_release(world->their_port, 64);
  pdlb_port_release(world->survivor, 64);
}

static void receive(struct child *child, struct pdlb_port *port, uint32_t max) {
  pdlb_port_recv(port, child->held, max, 0);
}

static void act_receive_all(struct child *child) { receive(child, child->port, 64); }
static void act_receive_single(struct child *child) { receive(child, child->single, 64); }
static void act_receive_some(struct child *child) { receive(child, child->single, 5); }
static void act_receive_dozen(struct child *child) { receive(child, child->single, 12); }
static void act_receive_directed(struct child *child) { receive(child, child->direct, 64); }
static void act_wait(struct child *child) { pdlb_port_recv(child->port, child->held, 64, pdlb_now() + 100000); }

static void prepare_dozen(struct child *child) { receive(child, child->single, 12); }
static void prepare_held(struct child *child) { receive(child, child->port, 8); }

/* The first places in line are the survivor's, then the child's. */
static void before_places(struct world *world) {
  struct pdlb_event events[4];
  before_line(world);
  CHECK_EQ(rig_poll(world->survivor, events, 2), 2);
}

/* The flows that the child has are waited for by the survivor. */
static void prepare_waited_for(struct child *child) {
  struct pdlb_event events[64];
  receive(child, child->port, 8);
  send_of(child, 16, child->world->work, PDLB_SCHED_ATOMIC, 16);
  pdlb_port_recv(child->single, events, 64, 0);
}

static void act_release_one(struct child *child) { pdlb_port_release(child->port, 1); }
static void act_release_all(struct child *child) { pdlb_port_release(child->port, 64); }

static void act_release_later(struct child *child) {
  pdlb_port_release_later(child->port, 3);
  receive(child, child->port, 4);
}

static void forward(struct child *child, uint8_t queue, enum pdlb_sched type) {
  enum pdlb_refusal why;
  for (uint32_t i = 0; i < BATCH; i++) {
    child->held[i].queue = queue;
    child->held[i].sched = pdlb_sched_byte((unsigned)type, 0);
    child->held[i].data += 2048; /* another element, of which it is known what it was */
  }
  pdlb_port_forward(child->port, child->held, BATCH, &why);
}

static void act_forward(struct child *child) { forward(child, child->world->sink, PDLB_SCHED_UNORDERED); }

/* What a port that nobody waits for by descriptor does with single elements; the child's have one. */
static const struct pdlb_engine_user *user_of(struct pdlb_port *port) { return &((struct software_port *)port)->user; }

static void act_take_only(struct child *child) { engine_take_only(user_of(child->single), child->held); }

static void prepare_only(struct child *child) { CHECK(engine_take_only(user_of(child->single), child->held)); }

/* One is held, and the only one that waits. */
static void prepare_two(struct child *child) {
  prepare_only(child);
  send_of(child, 1, child->world->work, PDLB_SCHED_ATOMIC, 16);
}

static void act_release_only(struct child *child) { pdlb_port_release(child->single, 1); }
static void act_exchange_only(struct child *child) { engine_exchange_only(user_of(child->single), child->held); }

/* One is held, and the next ones are known to be at hand: in the front, in a ring. */
static void prepare_run(struct child *child) {
  receive(child, child->single, 1);
  CHECK(engine_left_of_run(user_of(child->single)->queue));
}

static void prepare_run_in_ring(struct child *child) {
  struct pdlb_event events[64];
  CHECK_EQ(pdlb_port_recv(child->single, events, 64, 0), 64);
  CHECK_EQ(pdlb_port_release(child->single, 64), 64);
  prepare_run(child);
  CHECK(engine_run_is_in_ring(user_of(child->single)->queue));
}

static void act_exchange_next(struct child *child) { engine_exchange_next(user_of(child->single), child->held); }

static void before_one_unordered(struct world *world) { send(world, 1, world->work, PDLB_SCHED_UNORDERED, 16); }

/* Somebody is asleep for whom the child's element is. */
static void before_asleep(struct world *world) {
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_port_fd(world->survivor, &error), error);
  CHECK_RECEIVES_NOTHING(world->survivor);
}

static const struct operation operations[] = {
    {"send one", nothing_before, nothing_to_prepare, act_send_one},
    {"send a batch", nothing_before, nothing_to_prepare, act_send_batch},
    {"send a batch over the front's end", before_full, prepare_held, act_send_wrapping},
    {"send into rings", before_in_rings, nothing_to_prepare, act_send_batch},
    {"send one into rings", before_in_rings, nothing_to_prepare, act_send_one},
    {"send to several queues", nothing_before, nothing_to_prepare, act_send_mixed},
    {"send to a line", nothing_before, nothing_to_prepare, act_send_to_line},
    {"send directed", nothing_before, nothing_to_prepare, act_send_directed},
    {"send to a sleeper", before_asleep, nothing_to_prepare, act_send_one},
    {"receive one", before_one, nothing_to_prepare, act_receive_single},
    {"receive a front", before_some, nothing_to_prepare, act_receive_single},
    {"receive by one of several links", before_some, nothing_to_prepare, act_receive_all},
    {"receive some of a front", before_some, nothing_to_prepare, act_receive_some},
    {"receive unordered", before_unordered, nothing_to_prepare, act_receive_single},
    {"receive from rings", before_in_rings, nothing_to_prepare, act_receive_single},
    {"receive where flows are elsewhere", before_owned, nothing_to_prepare, act_receive_single},
    {"receive from rings where flows are elsewhere", before_owned_in_rings, nothing_to_prepare, act_receive_single},
    {"receive what was parked", before_parked, nothing_to_prepare, act_receive_single},
    {"receive up to a limit", before_limited, nothing_to_prepare, act_receive_all},
    {"receive ordered", before_line, nothing_to_prepare, act_receive_all},
    {"receive directed", before_directed, nothing_to_prepare, act_receive_directed},
    {"wait in vain", nothing_before, nothing_to_prepare, act_wait},
    {"release one", before_some, prepare_held, act_release_one},
    {"release a batch", before_some, prepare_held, act_release_all},
    {"release flows that others wait for", before_some, prepare_waited_for, act_release_all},
    {"release one that others wait for", before_some, prepare_waited_for, act_release_one},
    {"release unordered", before_unordered, prepare_held, act_release_all},
    {"release below a limit", before_limited, prepare_held, act_release_all},
    {"release the next in line", before_line, prepare_held, act_release_all},
    {"release later places in line", before_places, prepare_held, act_release_all},
    {"release later", before_some, prepare_held, act_release_later},
    {"forward the next in line", before_line, prepare_held, act_forward},
    {"forward later places in line", before_places, prepare_held, act_forward},
    {"receive the only one", before_one, nothing_to_prepare, act_take_only},
    {"release the only one", before_one, prepare_only, act_release_only},
    {"release the only one, unordered", before_one_unordered, prepare_only, act_release_only},
    {"release the only one and receive the next", before_one, prepare_two, act_exchange_only},
    {"release one of a run and receive the next", before_urgent, prepare_run, act_exchange_next},
    {"release one unordered of a run and receive the next", before_urgent_unordered, prepare_run, act_exchange_next},
    {"release one of a run in a ring and receive the next", before_urgent_in_rings, prepare_run_in_ring,
     act_exchange_next},
    {"forward from a flow", before_some, prepare_held, act_forward},
    {"send into one ring", before_in_one_ring, nothing_to_prepare, act_send_urgent},
    {"receive from one ring", before_in_one_ring, nothing_to_prepare, act_receive_dozen},
    {"receive the next ones of a run", before_in_one_ring, prepare_dozen, act_receive_dozen},
};

enum { OPERATIONS = sizeof operations / sizeof *operations };

/* ---- the child --------------------------------------------------------------------------------------------------- */

static struct pdlb_port *join(struct pdlb_domain *domain, struct pdlb_port *port) {
  struct pdlb_error error = {0};
  struct pdlb_port *joined;
  const int fd = pdlb_port_fd(port, &error);
  CHECK_OK(fd, error);
  CHECK_OK(pdlb_port_join(domain, pdlb_port_id(port), pdlb_port_directed(port), fd, &joined, &error), error);
  return joined;
}

_Noreturn static void be_child(const struct world *world, const struct pdlb_shared *shared,
                               const struct operation *operation) {
  static struct child child;
  struct pdlb_error error = {0};
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  child.world = world;
  CHECK_OK(pdlb_device_open_software(PDLB_LIMITS_LARGE, &device, &error), error);
  CHECK_OK(pdlb_domain_join(device, shared, MEMBER, &domain, &error), error);
  child.producer = join(domain, world->their_producer);
  child.port = join(domain, world->their_port);
  child.single = join(domain, world->their_single);
  child.direct = join(domain, world->their_direct);
  operation->prepare(&child);
  ptrace(PTRACE_TRACEME, 0, NULL, NULL);
  raise(SIGSTOP);
  atomic_store(stage, BEFORE);
  operation->act(&child);
  atomic_store(stage, AFTER);
  for (;;) pause();
}

/* Step once. */
static void step(pid_t child) {
  int status;
  CHECK_EQ(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
  CHECK_EQ(waitpid(child, &status, 0), child);
  if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) FAIL("the child ended or was signalled: status %x", status);
}

/* Let the child take `most` steps of the operation, then kill it. Returns how many it took: fewer if it was done. */
static uint32_t run_and_kill(const struct world *world, const struct operation *operation, uint32_t most) {
  struct pdlb_shared shared;
  struct pdlb_error error = {0};
  int status;
  uint32_t steps = 0;
  CHECK_OK(pdlb_domain_share(world->rig.domain, &shared, &error), error);
  atomic_store(stage, GETTING_READY);
  fflush(NULL);
  const pid_t child = fork();
  CHECK_GE(child, 0);
  if (child == 0) be_child(world, &shared, operation);
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  while (atomic_load(stage) != BEFORE) step(child);
  for (; steps < most && atomic_load(stage) != AFTER; steps++) step(child);
  CHECK_EQ(kill(child, SIGKILL), 0);
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFSIGNALED(status));
  return steps;
}

/* ---- afterwards -------------------------------------------------------------------------------------------------- */

static struct after {
  const struct operation *operation;
  uint32_t steps;
  uint8_t seen[MOST_IDS];
} after;

static void explain(void) {
  fprintf(stderr, "  killed after %" PRIu32 " steps of: %s\n", after.steps, after.operation->name);
}

static void check_account(const struct world *world) {
  const struct pdlb_domain_stats stats = rig_stats(&world->rig);
  CHECK_EQ(stats.credits_free + stats.queued, CREDITS);
  CHECK_EQ(stats.enqueued, stats.scheduled + stats.queued);
}

/* What the survivor gets, each at most once. Elements of the line come in their order. */
static uint32_t take_all(const struct world *world, struct pdlb_port *port) {
  struct pdlb_event events[64];
  uint32_t taken = 0, count;
  uint64_t last = 0;
  while ((count = rig_poll(port, events, 64)) != 0) {
    for (uint32_t i = 0; i < count; i++) {
      CHECK_LT(events[i].data, MOST_IDS);
      CHECK_EQ(after.seen[events[i].data], 0);
      after.seen[events[i].data] = 1;
      if (events[i].queue != world->line || pdlb_event_type(&events[i]) != PDLB_SCHED_ORDERED) continue;
      CHECK_GT(events[i].data, last);
      last = events[i].data;
    }
    if (!pdlb_port_directed(port)) CHECK_EQ(pdlb_port_release(port, count), count);
    taken += count;
    check_account(world);
  }
  return taken;
}

/* Through every queue, and from the line to the sink, in order. */
static void move(struct world *world, uint64_t count) {
  struct pdlb_event events[BATCH];
  uint64_t id = 0, next = 0;
  static const enum pdlb_sched types[] = {PDLB_SCHED_ATOMIC, PDLB_SCHED_UNORDERED, PDLB_SCHED_ATOMIC,
                                          PDLB_SCHED_ORDERED};
  const uint8_t queues[] = {world->work, world->work, world->limited, world->line};
  for (uint32_t turn = 0; id < count; turn = (turn + 1) % 4) {
    const uint32_t batch = turn == 2 ? LIMIT : BATCH;
    for (uint32_t i = 0; i < batch; i++) events[i] = rig_event(queues[turn], types[turn], 0, (uint16_t)i, id++);
    rig_send(world->producer, events, batch);
    CHECK_EQ(rig_poll(world->survivor, events, BATCH), batch);
    if (turn == 3) {
      for (uint32_t i = 0; i < batch; i++)
        events[i].queue = world->sink, events[i].sched = pdlb_sched_byte(PDLB_SCHED_UNORDERED, 0);
      rig_forward(world->survivor, events, batch);
      CHECK_EQ(rig_poll(world->survivor, events, BATCH), batch);
    }
    for (uint32_t i = 0; i < batch; i++) CHECK_EQ(events[i].data, next++);
    CHECK_EQ(pdlb_port_release(world->survivor, BATCH), batch);
  }
  check_account(world);
}

/* Of what the survivor may have, nothing is left for which nobody would wake it. */
static void check_sleeper(const struct world *world) {
  struct pdlb_error error = {0};
  if (after.operation->before != before_asleep || !rig_depth(&world->rig, world->work)) return;
  struct pollfd descriptor = {.fd = pdlb_port_fd(world->survivor, &error), .events = POLLIN};
  CHECK_EQ(poll(&descriptor, 1, 0), 1);
}

static void check_survivors(struct world *world) {
  struct pdlb_error error = {0};
  const int lost = pdlb_domain_bury(world->rig.domain, MEMBER, &error);
  CHECK_OK(lost, error);
  check_account(world);
  check_sleeper(world);
  struct pdlb_port *const theirs[] = {world->their_port, world->their_single, world->their_producer};
  uint64_t gone = rig_port_stats(world->their_direct).received, theirs_held = 0;
  for (uint32_t i = 0; i < 3; i++) {
    const struct pdlb_port_stats stats = rig_port_stats(theirs[i]);
    gone += stats.received;
    theirs_held += stats.in_flight;
    CHECK_LE(stats.in_flight, stats.received - stats.released); /* but for what is released later */
    rig_close_port(theirs[i]);
  }
  CHECK_LE(theirs_held, gone);
  uint64_t others = rig_port_stats(world->survivor).received; /* before: what is in its hands has been released */
  pdlb_port_release(world->survivor, 64);
  rig_close_port(world->their_direct);
  struct pdlb_port *heir = rig_directed_port(&world->rig, world->direct, 64);
  others += take_all(world, world->survivor) + take_all(world, heir);
  rig_close_port(heir);
  const struct pdlb_domain_stats stats = rig_stats(&world->rig);
  CHECK_EQ(stats.queued, 0);
  CHECK_EQ(stats.credits_free, CREDITS);
  CHECK_EQ(stats.enqueued, gone + others);
  move(world, check_setting("PDLB_KILL_EVENTS", 300));
}

/* Where the dead one was not buried by name: what is left goes to the survivor, then everything works. */
static void move_after_all(struct world *world) {
  struct pdlb_port *const theirs[] = {world->their_port, world->their_producer, world->their_direct};
  for (uint32_t i = 0; i < 3; i++) rig_close_port(theirs[i]);
  take_all(world, world->survivor);
  check_account(world);
  CHECK_EQ(rig_stats(&world->rig).queued, 0);
  move(world, 300);
}

static uint32_t kill_at(const struct operation *operation, uint32_t most) {
  after = (struct after){.operation = operation, .steps = most};
  struct world world = open_world();
  operation->before(&world);
  const uint32_t steps = run_and_kill(&world, operation, most);
  after.steps = steps;
  check_survivors(&world);
  close_world(&world);
  return steps;
}

static void make_stage(void) {
  stage = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(stage != MAP_FAILED);
  check_explain_with(explain);
}

static void killed_at_any_instruction(void) {
  const char *setting = getenv("PDLB_KILLS");
  const bool all = setting && !strcmp(setting, "all");
  const uint32_t kills = all ? 0 : (uint32_t)check_setting("PDLB_KILLS", 8);
  randomness = check_randomness(0);
  make_stage();
  const uint32_t first = (uint32_t)check_setting("PDLB_KILL_FROM", 1);
  const uint32_t last = (uint32_t)check_setting("PDLB_KILL_TO", OPERATIONS);
  const uint32_t stride = (uint32_t)check_setting("PDLB_KILL_STRIDE", 1);
  for (uint32_t i = first - 1; i < last && i < OPERATIONS; i++) {
    const uint32_t length = kill_at(&operations[i], UINT32_MAX);
    for (uint32_t n = 0; n < (all ? length : kills); n += all ? stride : 1) {
      kill_at(&operations[i], all ? n : check_below(&randomness, length));
      check_still_alive();
    }
    if (all)
      printf("    %s: killed at each %" PRIu32 ". of %" PRIu32 " instructions\n", operations[i].name, stride, length);
    fflush(stdout);
  }
  check_explain_with(NULL);
}

/* ---- the dead one's port, for somebody else ---------------------------------------------------------------------- */

/* One element fills it: whoever waits by its descriptor is told when it has room again, time and again. */
static void check_heir(struct world *world) {
  struct pdlb_port *port = world->their_single;
  struct pdlb_error error = {0};
  struct pdlb_event event;
  const int lost = pdlb_domain_bury(world->rig.domain, MEMBER, &error);
  CHECK_OK(lost, error);
  CHECK_OK(pdlb_port_enable(port, &error), error);
  struct pollfd descriptor = {.fd = pdlb_port_fd(port, &error), .events = POLLIN};
  send(world, 3, world->work, PDLB_SCHED_ATOMIC, 16);
  if (!pdlb_port_in_flight(port)) CHECK_EQ(rig_poll(port, &event, 1), 1);
  while (rig_depth(&world->rig, world->work)) {
    CHECK_EQ(pdlb_port_in_flight(port), 1);
    CHECK_EQ(rig_poll(port, &event, 1), 0);
    CHECK_EQ(poll(&descriptor, 1, 0), 0);
    CHECK_EQ(pdlb_port_release(port, 1), 1);
    CHECK_EQ(poll(&descriptor, 1, 0), 1);
    CHECK_EQ(rig_poll(port, &event, 1), 1);
  }
  check_account(world);
}

/* A port that releases with a receive: the first one releases all that the dead one held. */
static void check_releasing_heir(struct world *world) {
  struct pdlb_error error = {0};
  struct pdlb_event events[64];
  uint32_t count;
  const int lost = pdlb_domain_bury(world->rig.domain, MEMBER, &error);
  CHECK_OK(lost, error);
  CHECK_OK(pdlb_port_enable(world->their_single, &error), error);
  do {
    count = rig_poll(world->their_single, events, 64);
    CHECK_EQ(pdlb_port_in_flight(world->their_single), count);
  } while (count);
  check_account(world);
}

/* An operation on a port that is made as `config` says, and then is the heir's. */
struct inheritance {
  struct operation operation;
  struct pdlb_port_config config;
  void (*check)(struct world *world);
};

static uint32_t kill_predecessor_at(const struct inheritance *inheritance, uint32_t most) {
  after = (struct after){.operation = &inheritance->operation, .steps = most};
  struct world world = open_world();
  rig_close_port(world.their_single);
  world.their_single = rig_port_with(&world.rig, &inheritance->config);
  rig_link(world.their_single, world.work, 0);
  inheritance->operation.before(&world);
  const uint32_t steps = run_and_kill(&world, &inheritance->operation, most);
  after.steps = steps;
  inheritance->check(&world);
  struct pdlb_port *const theirs[] = {world.their_single, world.their_port, world.their_producer, world.their_direct};
  for (uint32_t i = 0; i < 4; i++) rig_close_port(theirs[i]);
  close_world(&world);
  return steps;
}

/* At each instruction, or at some where the environment limits the kills: a sanitizer has them by the thousand. */
static uint32_t stride_for(uint32_t length) {
  const char *setting = getenv("PDLB_KILLS");
  const uint32_t kills = setting && strcmp(setting, "all") ? (uint32_t)check_setting("PDLB_KILLS", 0) : length;
  return kills && kills < length ? length / kills : 1;
}

static void port_has_an_heir(const struct inheritance *inheritance) {
  make_stage();
  const uint32_t length = kill_predecessor_at(inheritance, UINT32_MAX);
  for (uint32_t n = 0; n < length; n += stride_for(length)) {
    kill_predecessor_at(inheritance, n);
    check_still_alive();
  }
  check_explain_with(NULL);
}

static void full_port_has_an_heir(void) {
  const struct pdlb_port_config one = {.cq_depth = 1, .history_entries = 1};
  port_has_an_heir(
      &(struct inheritance){{"fill a port", before_one, nothing_to_prepare, act_take_only}, one, check_heir});
  port_has_an_heir(
      &(struct inheritance){{"make room in a port", before_one, prepare_only, act_release_only}, one, check_heir});
}

static void releasing_port_has_an_heir(void) {
  const struct pdlb_port_config releasing = {.cq_depth = 8, .history_entries = 16, .release_on_recv = true};
  port_has_an_heir(&(struct inheritance){
      {"receive", before_one, nothing_to_prepare, act_take_only}, releasing, check_releasing_heir});
  port_has_an_heir(&(struct inheritance){
      {"release and receive", before_urgent, prepare_run, act_exchange_next}, releasing, check_releasing_heir});
}

/* ---- nobody says so ---------------------------------------------------------------------------------------------- */

_Noreturn static void be_waiter(const struct world *world, const struct pdlb_shared *shared) {
  static struct child child;
  struct pdlb_error error = {0};
  struct pdlb_device *device;
  struct pdlb_domain *domain;
  struct pdlb_event events[64];
  child.world = world;
  CHECK_OK(pdlb_device_open_software(PDLB_LIMITS_LARGE, &device, &error), error);
  CHECK_OK(pdlb_domain_join(device, shared, MEMBER + 1, &domain, &error), error);
  child.producer = join(domain, world->their_producer);
  child.single = join(domain, world->their_single);
  send_of(&child, 4, world->work, PDLB_SCHED_ATOMIC, 4);
  pdlb_port_release(child.single, (uint32_t)pdlb_port_recv(child.single, events, 64, 0));
  _exit(0);
}

/* Another member runs into the dead one's locks, and rings; the creator's clock is all that looks after it. */
static void await_waiter(const struct world *world) {
  struct pdlb_shared shared;
  struct pdlb_error error = {0};
  CHECK_OK(pdlb_domain_share(world->rig.domain, &shared, &error), error);
  const pid_t waiter = fork();
  CHECK_GE(waiter, 0);
  if (waiter == 0) be_waiter(world, &shared);
  const int ended = (int)syscall(SYS_pidfd_open, waiter, 0);
  CHECK_GE(ended, 0);
  struct pollfd descriptors[2] = {{.fd = shared.bell_fd, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
  int status;
  do {
    CHECK_GT(poll(descriptors, 2, -1), 0);
    pdlb_domain_tick(world->rig.domain, pdlb_now());
  } while (!descriptors[1].revents);
  close(ended);
  CHECK_EQ(waitpid(waiter, &status, 0), waiter);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Kill one that receives, here and there; nobody buries it by name. */
static void kill_without_a_word(bool members_are_left) {
  static const struct operation receiving = {"receive a front", before_some, nothing_to_prepare, act_receive_single};
  make_stage();
  const uint32_t length = kill_at(&receiving, UINT32_MAX);
  for (uint32_t n = 0; n < length; n += length / 10 + 1) {
    after = (struct after){.operation = &receiving, .steps = n};
    struct world world = open_world();
    before_some(&world);
    struct pdlb_port *const other = world.their_single;
    world.their_single = linked_port(&world, false);
    run_and_kill(&world, &receiving, n);
    rig_close_port(world.their_single);
    world.their_single = other;
    if (members_are_left) await_waiter(&world);
    rig_close_port(other);
    move_after_all(&world);
    close_world(&world);
  }
  check_explain_with(NULL);
}

static void members_find_out_by_the_clock(void) { kill_without_a_word(true); }

static void creator_finds_out(void) { kill_without_a_word(false); }

CHECK_MAIN(CASE(killed_at_any_instruction), CASE(full_port_has_an_heir), CASE(releasing_port_has_an_heir),
           CASE(members_find_out_by_the_clock), CASE(creator_finds_out))

#else

int main(void) { return 77; } /* other processors cannot be stepped through an exclusive store */

#endif
