/* What every test program of the C core needs: checks that say what they found, cases that can be run one by one,
 * random numbers that can be repeated, and a watchdog, because the worst failure of a scheduler is silence.
 *
 *   static void something_holds(void) { CHECK_EQ(answer(), 42); }
 *   CHECK_MAIN(CASE(something_holds))
 *
 * A program without arguments runs all its cases; arguments name the ones to run. It exits with 0 when all hold, 1 at
 * the first that does not, and 77 when this machine cannot run it. The environment may say
 *   PDLB_TEST_SEED     the seed of the random tests, as a failed run printed it
 *   PDLB_TEST_TIMEOUT  seconds that one case may take (default 120)
 *   PDLB_TEST_ABORT    abort instead of exiting with 1, for a debugger
 */
#ifndef PDLB_TESTS_CHECK_H
#define PDLB_TESTS_CHECK_H

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK_SKIPPED 77

struct check_case {
  const char *name;
  void (*run)(void);
};

static struct {
  const char *name; /* of the case that runs */
  void (*explain)(void);
  uint64_t seed;
  pthread_mutex_t lock;
  pthread_cond_t over;
  struct timespec deadline; /* CLOCK_MONOTONIC */
  bool ended;
} check_state = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- failing ------------------------------------------------------------------------------------------------ */

/* Not exit(): other threads may still run, and what they hold must not be torn down below them. */
_Noreturn static inline void check_end(int code) {
  fflush(NULL);
  if (code == 1 && getenv("PDLB_TEST_ABORT")) abort();
  _exit(code);
}

__attribute__((format(printf, 3, 4))) _Noreturn static inline void check_fail(const char *file, int line,
                                                                              const char *format, ...) {
  static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
  va_list arguments;
  pthread_mutex_lock(&one_at_a_time); /* never unlocked: the first failure is the one to read */
  fprintf(stderr, "%s:%d: in %s: ", file, line, check_state.name ? check_state.name : "main");
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
  if (check_state.explain) check_state.explain();
  if (check_state.seed) fprintf(stderr, "repeat with PDLB_TEST_SEED=0x%" PRIx64 "\n", check_state.seed);
  check_end(1);
}

/* What a failure and the watchdog should print besides: the state of what was tested. */
static inline void check_explain_with(void (*explain)(void)) { check_state.explain = explain; }

#define FAIL(...) check_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) check_fail(__FILE__, __LINE__, "not so: %s", #condition); \
  } while (0)

/* `what` is printed with a failure: the operands are evaluated once. */
#define CHECK_COMPARE(left, relation, right)                                                                    \
  do {                                                                                                          \
    const long long check_left = (long long)(left), check_right = (long long)(right);                           \
    if (!(check_left relation check_right))                                                                     \
      check_fail(__FILE__, __LINE__, "%s is %lld, expected %s %s (%lld)", #left, check_left, #relation, #right, \
                 check_right);                                                                                  \
  } while (0)

#define CHECK_EQ(left, right) CHECK_COMPARE(left, ==, right)
#define CHECK_NE(left, right) CHECK_COMPARE(left, !=, right)
#define CHECK_LE(left, right) CHECK_COMPARE(left, <=, right)
#define CHECK_GE(left, right) CHECK_COMPARE(left, >=, right)
#define CHECK_LT(left, right) CHECK_COMPARE(left, <, right)
#define CHECK_GT(left, right) CHECK_COMPARE(left, >, right)

/* ---- random numbers ----------------------------------------------------------------------------------------- */

struct check_random {
  uint64_t state;
};

static inline uint64_t check_next(struct check_random *random) { /* splitmix64: any seed will do */
  uint64_t mixed = (random->state += 0x9E3779B97F4A7C15u);
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
  return mixed ^ (mixed >> 31);
}

/* 0 to `below` - 1 */
static inline uint32_t check_below(struct check_random *random, uint32_t below) {
  return (uint32_t)(((check_next(random) >> 32) * below) >> 32);
}

/* The program's seed: given, or new each time; a failure prints it. `stream` tells generators of one run apart. */
static inline struct check_random check_randomness(uint64_t stream) {
  if (!check_state.seed) {
    const char *given = getenv("PDLB_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    check_state.seed = given ? strtoull(given, NULL, 0) : ((uint64_t)now.tv_sec * 1000000007u) ^ (uint64_t)now.tv_nsec;
    if (!check_state.seed) check_state.seed = 1;
    printf("seed 0x%" PRIx64 "\n", check_state.seed);
  }
  return (struct check_random){check_state.seed + stream * 0xD1B54A32D192ED03u};
}

/* ---- environment -------------------------------------------------------------------------------------------- */

static inline uint64_t check_setting(const char *name, uint64_t otherwise) {
  const char *text = getenv(name);
  if (!text || !*text) return otherwise;
  char *end;
  const double value = strtod(text, &end); /* so that 1e7 can be said */
  if (*end || value < 0) {
    fprintf(stderr, "%s=%s is not a number\n", name, text);
    check_end(1);
  }
  return (uint64_t)value;
}

/* ---- running ------------------------------------------------------------------------------------------------ */

static inline void *check_watchdog(void *unused) {
  pthread_mutex_lock(&check_state.lock);
  while (!check_state.ended) {
    struct timespec now;
    pthread_cond_timedwait(&check_state.over, &check_state.lock, &check_state.deadline);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!check_state.ended && now.tv_sec > check_state.deadline.tv_sec)
      check_fail(__FILE__, __LINE__, "no end in sight: something hangs (PDLB_TEST_TIMEOUT is the limit in seconds)");
  }
  pthread_mutex_unlock(&check_state.lock);
  return unused;
}

/* Give the case that runs its full time once more: for cases whose size the user chose. */
static inline void check_still_alive(void) {
  pthread_mutex_lock(&check_state.lock);
  clock_gettime(CLOCK_MONOTONIC, &check_state.deadline);
  check_state.deadline.tv_sec += (time_t)check_setting("PDLB_TEST_TIMEOUT", 120);
  pthread_mutex_unlock(&check_state.lock);
}

static inline bool check_asked_for(const char *name, int count, char **names) {
  for (int i = 1; i < count; i++)
    if (!strcmp(name, names[i])) return true;
  return count < 2;
}

static inline int check_run(const struct check_case *cases, size_t count, int argument_count, char **arguments) {
  pthread_t watchdog;
  pthread_condattr_t monotonic;
  sigset_t all, before;
  size_t run = 0;

  setvbuf(stdout, NULL, _IOLBF, 0);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&check_state.over, &monotonic);
  pthread_condattr_destroy(&monotonic);
  check_still_alive();
  sigfillset(&all); /* signals are for the thread that is tested */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_create(&watchdog, NULL, check_watchdog, NULL)) FAIL("no thread for the watchdog: %s", strerror(errno));
  pthread_sigmask(SIG_SETMASK, &before, NULL);

  for (size_t i = 0; i < count; i++) {
    if (!check_asked_for(cases[i].name, argument_count, arguments)) continue;
    check_state.name = cases[i].name;
    check_state.explain = NULL;
    check_still_alive();
    cases[i].run();
    printf("ok  %s\n", cases[i].name);
    run++;
  }
  pthread_mutex_lock(&check_state.lock);
  check_state.ended = true;
  pthread_cond_signal(&check_state.over);
  pthread_mutex_unlock(&check_state.lock);
  pthread_join(watchdog, NULL);
  pthread_cond_destroy(&check_state.over);
  if (!run) {
    fprintf(stderr, "no case of that name\n");
    return 1;
  }
  return 0;
}

#define CASE(function) {#function, function}

#define CHECK_MAIN(...)                                                               \
  int main(int argument_count, char **arguments) {                                    \
    static const struct check_case cases[] = {__VA_ARGS__};                           \
    return check_run(cases, sizeof cases / sizeof *cases, argument_count, arguments); \
  }

#endif
