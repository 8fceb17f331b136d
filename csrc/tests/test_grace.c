/* Even sharing by a clock that the test moves: how long those who are due may stay away, and that it costs nobody its
 * turn if nobody could come.
 */
#include "clocked.h"

/* ---- who stays away ---------------------------------------------------------------------------------------------- */

static void who_stays_away_while_another_looks_loses_its_turn(void) {
  open_circle();
  send(PORTS * SHARE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) CHECK_EQ(receive(i, BATCH), SHARE);
  const uint64_t since = now;
  uint64_t next;
  while (!receive_or(0, BATCH, &next)) {
    CHECK(!is_stalled(PORTS - 1));
    CHECK_LE(next, now + QUARTER);
    now = next;
  }
  CHECK(is_stalled(PORTS - 1));
  CHECK_EQ(now - since, GRACE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) receive(i, BATCH);
  CHECK_EQ(waiting(), 0); /* nobody waits for it any more */
  close_circle();
}

/* Slow as it is, it comes: each time it does, its grace begins anew. */
static void who_comes_slowly_keeps_its_share(void) {
  open_circle();
  send(PORTS * SHARE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) CHECK_EQ(receive(i, BATCH), SHARE);
  for (uint32_t taken = 0; taken < SHARE; taken++) {
    for (uint32_t look = 0; look < 4; look++) {
      CHECK_EQ(receive(look % (PORTS - 1), BATCH), 0);
      now += GRACE / 5;
    }
    CHECK(!is_stalled(PORTS - 1));
    CHECK_EQ(receive(PORTS - 1, 1), 1);
  }
  CHECK_EQ(waiting(), 0);
  close_circle();
}

/* ---- who cannot come --------------------------------------------------------------------------------------------- */

/* The process was stopped, or had no processor. Whoever is first afterwards does not take what is the others'. */
static void standing_still_costs_nobody_its_turn(void) {
  for (uint32_t first = 0; first < PORTS; first++) {
    open_circle();
    send(PORTS * SHARE);
    CHECK_EQ(receive(first, SHARE / 2), SHARE / 2);
    pdlb_engine_tick(&circle.engine, now);
    now += 50ull * GRACE;
    pdlb_engine_tick(&circle.engine, now);
    CHECK_EQ(receive(first, BATCH), SHARE - SHARE / 2);
    pdlb_engine_tick(&circle.engine, now);
    now += 50ull * GRACE;
    CHECK_EQ(receive(first, BATCH), 0);
    for (uint32_t i = 0; i < PORTS; i++) CHECK(!is_stalled(i));
    for (uint32_t i = 0; i < PORTS; i++)
      if (i != first) CHECK_EQ(receive(i, BATCH), SHARE);
    close_circle();
  }
}

/* On a busy machine who looks is late as well: no look counts for more than a quarter of the grace. */
static void late_looks_lengthen_the_grace(void) {
  open_circle();
  send(PORTS * SHARE);
  CHECK_EQ(receive(0, BATCH), SHARE);
  for (uint32_t look = 0; look < 3; look++) {
    now += 5ull * GRACE;
    CHECK_EQ(receive(0, BATCH), 0);
    for (uint32_t i = 1; i < PORTS; i++) CHECK(!is_stalled(i));
  }
  now += 5ull * GRACE;
  CHECK_GE(receive(0, BATCH), 1); /* but not for ever */
  for (uint32_t i = 1; i < PORTS; i++) CHECK(is_stalled(i));
  close_circle();
}

/* ---- who is asked to look ---------------------------------------------------------------------------------------- */

/* The one that was told since this was asked last, PORTS for none; never more than one. */
static uint32_t told(void) {
  uint32_t found = PORTS;
  for (uint32_t i = 0; i < PORTS; i++) {
    if (!woken[i]) continue;
    CHECK_EQ(found, PORTS);
    found = i;
  }
  memset(woken, 0, sizeof woken);
  return found;
}

/* All who could look sleep. The clock has one of them look at a time, and takes nothing from anybody by itself. */
static void the_clock_has_a_sleeper_look(void) {
  open_circle();
  send(PORTS * SHARE);
  for (uint32_t i = 0; i + 1 < PORTS; i++) {
    CHECK_EQ(receive(i, BATCH), SHARE);
    CHECK_EQ(receive(i, BATCH), 0);
    fall_asleep(i);
  }
  const uint64_t since = now;
  for (uint32_t received = 0; !received;) {
    const uint64_t next = pdlb_engine_tick(&circle.engine, now);
    CHECK_LE(next, now + QUARTER);
    CHECK(!is_stalled(PORTS - 1));
    const uint32_t looker = told();
    if (looker < PORTS) {
      pdlb_engine_presence(&circle.engine, looker, PDLB_AWAKE);
      received = receive(looker, BATCH);
      if (!received) fall_asleep(looker);
    }
    if (!received) now = next;
    CHECK_LE(now - since, 2ull * GRACE);
  }
  CHECK(is_stalled(PORTS - 1));
  CHECK_GE(now - since, GRACE);
  uint32_t others = 0;
  for (uint32_t i = 0; i < PORTS; i++) others += woken[i];
  CHECK_EQ(others, PORTS - 2); /* what is left is for those who sleep still: they were told */
  close_circle();
}

CHECK_MAIN(CASE(who_stays_away_while_another_looks_loses_its_turn), CASE(who_comes_slowly_keeps_its_share),
           CASE(standing_still_costs_nobody_its_turn), CASE(late_looks_lengthen_the_grace),
           CASE(the_clock_has_a_sleeper_look))
