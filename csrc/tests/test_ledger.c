/* What a worker was given adds up, whatever comes and goes beside it. */
#include "check.h"
#include "pdlb_ledger.h"

static struct pdlb_ledger *ledger;

static void begin(void) {
  ledger = pdlb_ledger_create();
  CHECK(ledger != NULL);
}

static void finish(void) { pdlb_ledger_free(ledger); }

static void give(uint32_t listener) {
  pdlb_ledger_lock(ledger);
  CHECK_EQ(pdlb_ledger_prepare(ledger, 1), 0);
  pdlb_ledger_give(ledger, listener);
  pdlb_ledger_unlock(ledger);
}

static bool end(uint32_t listener, uint32_t port, bool aborted) {
  pdlb_ledger_lock(ledger);
  const bool is_to_release = pdlb_ledger_end(ledger, listener, port, &aborted);
  pdlb_ledger_unlock(ledger);
  return is_to_release;
}

static struct pdlb_ledger_counts counts(void) {
  struct pdlb_ledger_counts counts;
  pdlb_ledger_lock(ledger);
  pdlb_ledger_counts(ledger, &counts);
  pdlb_ledger_unlock(ledger);
  return counts;
}

static void check_counts(uint64_t given, uint64_t ended, uint64_t aborted) {
  const struct pdlb_ledger_counts now = counts();
  CHECK_EQ(now.given, given);
  CHECK_EQ(now.ended, ended);
  CHECK_EQ(now.aborted, aborted);
}

static void listeners_are_counted_apart(void) {
  enum { LISTENERS = 3000 };
  begin();
  for (uint32_t listener = 0; listener < LISTENERS; listener++)
    for (uint32_t i = 0; i <= listener % 3; i++) give(listener * 7);
  for (uint32_t listener = 0; listener < LISTENERS; listener++) end(listener * 7, 0, false);
  uint32_t place = 0, found = 0;
  const struct pdlb_ledger_entry *entry;
  while ((entry = pdlb_ledger_next(ledger, &place)) != NULL) {
    CHECK_EQ(entry->given, entry->listener / 7 % 3 + 1);
    CHECK_EQ(entry->ended, 1);
    found++;
  }
  CHECK_EQ(found, LISTENERS);
  check_counts(2 * LISTENERS, LISTENERS, 0);
  finish();
}

static void what_is_open_at_the_end_is_aborted_once(void) {
  begin();
  for (int i = 0; i < 5; i++) give(1);
  end(1, 0, false);
  end(1, 0, true);
  check_counts(5, 2, 1);
  CHECK(pdlb_ledger_close(ledger));
  CHECK(!pdlb_ledger_close(ledger));
  check_counts(5, 5, 4);
  bool aborted = false;
  CHECK(!pdlb_ledger_end(ledger, 1, 1, &aborted));
  CHECK(aborted);
  check_counts(5, 5, 4);
  CHECK_EQ(pdlb_ledger_prepare(ledger, 1), -EPIPE);
  finish();
}

static void only_what_its_port_holds_is_released(void) {
  begin();
  pdlb_ledger_move(ledger);
  CHECK_EQ(pdlb_ledger_port(ledger), 1);
  for (int i = 0; i < 3; i++) give(0);
  CHECK(end(0, 1, false));
  CHECK(!end(0, 0, false)); /* it came by none */
  pdlb_ledger_move(ledger);
  CHECK(!end(0, 1, false)); /* by the one before */
  finish();
}

static void as_many_as_were_released_early_are_not_released_again(void) {
  begin();
  pdlb_ledger_move(ledger);
  for (int i = 0; i < 6; i++) give(0);
  CHECK_EQ(pdlb_ledger_release_early(ledger, 2, 2, 4), 0);
  CHECK_EQ(pdlb_ledger_release_early(ledger, 1, 3, 4), 0);
  CHECK_EQ(pdlb_ledger_release_early(ledger, 2, 5, 4), 2);   /* so that it holds 3, and can be given one more */
  CHECK_EQ(pdlb_ledger_release_early(ledger, 1, 100, 4), 1); /* never more than it was given */
  for (int i = 0; i < 3; i++) CHECK(!end(0, 1, false));
  CHECK(end(0, 1, false));
  CHECK_EQ(counts().released_early, 3);
  finish();
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static void *give_and_end(void *listener) {
  const uint32_t own = *(const uint32_t *)listener;
  for (int i = 0; i < 20000; i++) {
    give(own);
    end(own, 0, i % 2);
  }
  return NULL;
}

static void sums_hold_while_threads_count(void) {
  uint32_t listeners[4] = {1, 2, 2, 3};
  pthread_t threads[4];
  begin();
  for (int i = 0; i < 4; i++) CHECK_EQ(pthread_create(&threads[i], NULL, give_and_end, &listeners[i]), 0);
  struct pdlb_ledger_counts now;
  do {
    now = counts();
    CHECK(now.aborted <= now.ended && now.ended <= now.given && now.given - now.ended <= 4);
  } while (now.given < 80000);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  check_counts(80000, 80000, 40000);
  finish();
}

CHECK_MAIN(CASE(listeners_are_counted_apart), CASE(what_is_open_at_the_end_is_aborted_once),
           CASE(only_what_its_port_holds_is_released), CASE(as_many_as_were_released_early_are_not_released_again),
           CASE(sums_hold_while_threads_count))
