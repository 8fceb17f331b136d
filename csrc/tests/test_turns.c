/* Even sharing over time: ports that are ahead leave what waits to those that are behind, as long as these come; and
 * who is slow, or stopped, or new, costs the others next to nothing. In simulated time.
 */
#include "clocked.h"

enum { SERVED_AT_A_TIME = 64, MICROSECOND = 1000, MILLISECOND = 1000000, SECOND = 1000000000 };

/* What one may be ahead of another: a window, and half of one where these are told late. */
enum { APART = 3 * 48 / 2 };

static uint64_t served[PORTS];

static uint32_t most_apart(uint32_t ports) {
  uint64_t least = UINT64_MAX, most = 0;
  for (uint32_t i = 0; i < ports; i++) {
    least = served[i] < least ? served[i] : least;
    most = served[i] > most ? served[i] : most;
  }
  return (uint32_t)(most - least);
}

static bool serve(uint32_t port) {
  if (!receive(port, 1)) return false;
  CHECK_EQ(pdlb_engine_release(&circle.users[port], 1), 1);
  served[port]++;
  return true;
}

/* As with so many clients, each of which comes again when it has been answered. */
static void come_again(uint32_t in_hand) {
  const uint32_t there = waiting() + in_hand;
  if (there < SERVED_AT_A_TIME) send(SERVED_AT_A_TIME - there);
}

/* How many the port serves one after the other until it is to leave what waits, or so many. */
static uint32_t serve_on(uint32_t port, uint32_t most) {
  uint32_t count = 0;
  do come_again(0);
  while (count < most && serve(port) && ++count);
  return count;
}

/* None is new any more. */
static void open_level(void) {
  open_circle();
  memset(served, 0, sizeof served);
  for (uint32_t i = 0; i < PORTS; i++) CHECK_EQ(serve_on(i, 1), 1);
}

/* ---- one that is ahead ------------------------------------------------------------------------------------------- */

static void who_is_ahead_leaves_what_waits(void) {
  open_level();
  CHECK_LE(serve_on(0, 1000), APART);
  CHECK_GE(served[0], 16);
  uint64_t next;
  CHECK_EQ(receive_or(0, BATCH, &next), 0);
  CHECK_LE(next, now + MILLISECOND); /* it is not told to sleep for long */
  close_circle();
}

static void who_left_it_is_told_when_others_have_come(void) {
  open_level();
  serve_on(0, 1000);
  fall_asleep(0);
  CHECK_EQ(receive(0, 1), 0);
  uint32_t came = 0;
  for (; !woken[0] && came < APART; came++)
    for (uint32_t i = 1; i < PORTS; i++) CHECK_EQ(serve_on(i, 1), 1);
  CHECK(woken[0]);
  CHECK_GE(came, 8); /* not for each */
  CHECK_EQ(serve_on(0, 1), 1);
  close_circle();
}

/* Where little waits, it goes to whoever comes. */
static void nobody_waits_for_others_while_little_is_there(void) {
  open_level();
  while (waiting()) CHECK(serve(0) || serve(1) || serve(2) || serve(3));
  for (uint32_t i = 0; i < 1000; i++) {
    send(2);
    CHECK(serve(0));
    CHECK(serve(0));
  }
  close_circle();
}

/* ---- one that does not come -------------------------------------------------------------------------------------- */

/* How long the port looks in vain until it is given something, or a second. */
static uint64_t wait_for_turn(uint32_t port) {
  const uint64_t since = now;
  uint64_t next;
  while (now - since < SECOND && !receive_or(port, 1, &next)) {
    CHECK_GE(next, now + 1);
    now = next;
  }
  CHECK_EQ(pdlb_engine_release(&circle.users[port], 1), 1);
  served[port]++;
  return now - since;
}

static void who_does_not_come_is_waited_for_once(void) {
  open_level();
  serve_on(0, 1000);
  const uint64_t waited = wait_for_turn(0);
  CHECK_GE(waited, MILLISECOND / 2);
  CHECK_LE(waited, 2 * MILLISECOND);
  CHECK_EQ(serve_on(0, 5000), 5000);
  /* Each time that another comes, it is not made to take what it has missed. */
  for (uint32_t time = 0; time < 20; time++) {
    CHECK_EQ(serve_on(1, 1), 1);
    CHECK_EQ(serve_on(0, 500), 500);
  }
  close_circle();
}

static void who_is_new_begins_level(void) {
  open_level();
  const char *why = NULL;
  pdlb_engine_port_destroy(&circle.engine, 3);
  for (uint32_t turn = 0; turn < 1000; turn++)
    for (uint32_t i = 0; i < 3; i++) CHECK_EQ(serve_on(i, 1), 1);
  const struct pdlb_port_config port = {.cq_depth = BATCH, .history_entries = 1024};
  CHECK_EQ(pdlb_engine_port_create(&circle.engine, &port, false, PDLB_NONE, &why), 3);
  CHECK_GE(pdlb_engine_link(&circle.engine, 3, circle.queue, 0, &why), 0);
  pdlb_engine_use(&circle.engine, 3, &circle.users[3]);
  CHECK_EQ(serve_on(3, 1), 1);
  for (uint32_t i = 0; i < 3; i++) CHECK_EQ(serve_on(i, 8), 8); /* they need not wait for it */
  CHECK_LE(serve_on(3, 1000), APART);
  close_circle();
}

/* ---- simulated processors ---------------------------------------------------------------------------------------- */

struct worker {
  uint64_t cost; /* of an element */
  uint64_t at;   /* when it has served the one it has, or is to look again */
  bool has, sleeps;
};

static struct worker workers[PORTS];

static uint32_t in_hand(void) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < PORTS; i++) count += workers[i].has;
  return count;
}

/* Go on with what there is to do: end an element, take the next one, or fall asleep. */
static void go_on(uint32_t index) {
  struct worker *worker = &workers[index];
  if (worker->has) {
    CHECK_EQ(pdlb_engine_release(&circle.users[index], 1), 1);
    worker->has = false;
    served[index]++;
    come_again(in_hand());
  }
  woken[index] = 0;
  uint64_t next;
  if (worker->sleeps) {
    pdlb_engine_presence(&circle.engine, index, PDLB_AWAKE);
    pdlb_engine_disarm(&circle.engine, index);
  }
  worker->sleeps = false;
  worker->has = receive_or(index, 1, &next);
  if (!worker->has) {
    fall_asleep(index);
    worker->has = receive_or(index, 1, &next);
    worker->sleeps = !worker->has;
    if (worker->has) pdlb_engine_presence(&circle.engine, index, PDLB_AWAKE);
  }
  worker->at = worker->has ? now + worker->cost : next;
}

static bool may_run(uint32_t index) { return !workers[index].sleeps || woken[index] || workers[index].at <= now; }

static void begin(const uint64_t *cost) {
  open_level();
  for (uint32_t i = 0; i < PORTS; i++) workers[i] = (struct worker){.cost = cost[i], .at = now};
  come_again(0);
}

static uint64_t all_served(void) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < PORTS; i++) sum += served[i];
  return sum;
}

/* A processor for each. */
static void run_side_by_side(uint64_t duration) {
  const uint64_t end = now + duration;
  while (now < end) {
    uint32_t next = 0;
    for (uint32_t i = 0; i < PORTS; i++) {
      if (workers[i].sleeps && woken[i]) workers[i].at = now;
      if (workers[i].at < workers[next].at) next = i;
    }
    CHECK_LE(workers[next].at, now + SECOND); /* nobody waits for ever */
    if (workers[next].at > now) now = workers[next].at;
    go_on(next);
  }
}

/* As many as they would serve by themselves, but for a tenth; and each costs them the more the faster they are. */
static void who_is_slow_costs_the_others_little(void) {
  static const uint64_t times[] = {2, 3, 10, 100, 1000}, costs[] = {5, 20, 50, 200};
  for (size_t j = 0; j < sizeof costs / sizeof *costs; j++) {
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
      const uint64_t cost = costs[j] * MICROSECOND;
      begin((const uint64_t[PORTS]){cost, cost, cost, times[i] * cost});
      const uint64_t duration = SECOND / 5 + 1000 * cost;
      run_side_by_side(duration);
      const double alone = (double)duration / (double)cost * (3 + 1 / (double)times[i]);
      if ((double)all_served() < 0.9 * alone)
        FAIL("one %" PRIu64 " times slower than %" PRIu64 " us: %.3f of what they could", times[i], costs[j],
             (double)all_served() / alone);
      close_circle();
    }
  }
}

/* One processor for all, which is given to each for some milliseconds, also while it has something in hand. Who sleeps
 * gives it to the next one. */
static void share_a_processor(struct check_random *random, uint64_t duration) {
  const uint64_t end = now + duration;
  uint32_t on = 0;
  while (now < end) {
    uint32_t looked = 0;
    while (looked < PORTS && !may_run(on)) on = (on + 1) % PORTS, looked++;
    if (looked == PORTS) {
      uint64_t next = PDLB_FOREVER;
      for (uint32_t i = 0; i < PORTS; i++) next = workers[i].at < next ? workers[i].at : next;
      CHECK_LE(next, now + SECOND);
      now = next;
      continue;
    }
    const uint64_t until = now + (1 + check_below(random, 8)) * MILLISECOND;
    while (now < until && may_run(on)) {
      go_on(on);
      now += workers[on].has ? workers[on].cost : MICROSECOND;
    }
    on = (on + 1 + check_below(random, PORTS - 1)) % PORTS;
  }
}

static void counts_stay_level_on_one_processor(void) {
  struct check_random random = check_randomness(1);
  const uint64_t cost = 50 * MICROSECOND;
  begin((const uint64_t[PORTS]){cost, cost, cost, cost});
  for (uint32_t part = 0; part < 10; part++) {
    share_a_processor(&random, SECOND / 10);
    CHECK_LE(most_apart(PORTS), 2 * APART);
  }
  CHECK_GE(all_served() * cost, SECOND / 10 * 9); /* and the processor had work all the while */
  close_circle();
}

/* ---- whatever happens -------------------------------------------------------------------------------------------- */

/* Ports come and stay away, hold much or little, sleep and are busy, elements come or do not: in the end one alone
 * is given all that is left, in little time. */
static void nothing_is_left_undone(void) {
  struct check_random random = check_randomness(2);
  for (uint32_t run = 0; run < 60; run++) {
    open_level();
    uint32_t held[PORTS] = {0};
    uint64_t sent = waiting(), received = 0, next;
    for (uint32_t step = 0; step < 400; step++) {
      const uint32_t port = check_below(&random, PORTS), what = check_below(&random, 8);
      const uint32_t room = SERVED_AT_A_TIME * 4 - waiting();
      now += check_below(&random, what == 7 ? 30 * MILLISECOND : 200 * MICROSECOND);
      if (what == 0) {
        const uint32_t count = check_below(&random, room + 1);
        send(count);
        sent += count;
      } else if (what == 1) {
        const uint32_t count = check_below(&random, held[port] + 1);
        if (count) CHECK_EQ(pdlb_engine_release(&circle.users[port], count), count);
        held[port] -= count;
      } else if (what == 2) {
        fall_asleep(port);
      } else if (what == 3) {
        pdlb_engine_port_enable(&circle.engine, port, check_below(&random, 4));
      } else if (what == 4) {
        pdlb_engine_tick(&circle.engine, now);
      } else {
        const uint32_t got = receive(port, 1 + check_below(&random, 20));
        held[port] += got;
        received += got;
      }
    }
    const uint32_t last = check_below(&random, PORTS);
    pdlb_engine_port_enable(&circle.engine, last, true);
    const uint64_t since = now;
    while (received < sent) {
      const uint32_t got = receive_or(last, BATCH, &next);
      received += got;
      if (!got) now = next < now + GRACE ? next : now + GRACE;
      CHECK_LE(now - since, 10ull * GRACE);
    }
    CHECK_EQ(received, sent);
    CHECK_EQ(waiting(), 0);
    close_circle();
  }
}

CHECK_MAIN(CASE(who_is_ahead_leaves_what_waits), CASE(who_left_it_is_told_when_others_have_come),
           CASE(nobody_waits_for_others_while_little_is_there), CASE(who_does_not_come_is_waited_for_once),
           CASE(who_is_new_begins_level), CASE(who_is_slow_costs_the_others_little),
           CASE(counts_stay_level_on_one_processor), CASE(nothing_is_left_undone))
