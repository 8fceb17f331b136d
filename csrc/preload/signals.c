#define _GNU_SOURCE
#include "signals.h"

#include <stdatomic.h>
#include <string.h>

#include "door.h"
#include "system.h"

/* What the program last asked for, in one of two places so that a fault in another thread never sees half of it. */
struct shared_signal {
  int number;
  struct sigaction wishes[2];
  _Atomic unsigned current;
  _Atomic bool installed;
  _Atomic int writers;
};
static struct shared_signal shared_signals[] = {{.number = SIGSEGV}, {.number = SIGILL}};

#define NUM_SHARED (sizeof shared_signals / sizeof shared_signals[0])

static struct shared_signal *find_shared(int number) {
  for (size_t i = 0; i < NUM_SHARED; i++)
    if (shared_signals[i].number == number) return &shared_signals[i];
  return NULL;
}

/* NULL for a signal that is the program's alone. */
static struct shared_signal *find_installed(int number) {
  struct shared_signal *shared = find_shared(number);
  return shared != NULL && atomic_load(&shared->installed) ? shared : NULL;
}

static void lock_wishes(struct shared_signal *shared) {
  int nobody = 0;
  while (!atomic_compare_exchange_weak(&shared->writers, &nobody, 1)) nobody = 0;
}

static void unlock_wishes(struct shared_signal *shared) { atomic_store(&shared->writers, 0); }

static void set_wish(struct shared_signal *shared, const struct sigaction *action) {
  const unsigned other = 1 - atomic_load(&shared->current);
  shared->wishes[other] = *action;
  atomic_store(&shared->current, other);
}

static void raw_mask(int how, const sigset_t *set, sigset_t *old) {
  syscall(SYS_rt_sigprocmask, how, set, old, sizeof(uint64_t));
}

static void without_shared(sigset_t *set) {
  for (size_t i = 0; i < NUM_SHARED; i++) sigdelset(set, shared_signals[i].number);
}

void signals_unblock(void) {
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < NUM_SHARED; i++) sigaddset(&set, shared_signals[i].number);
  raw_mask(SIG_UNBLOCK, &set, NULL);
}

void signals_install(int number, void (*handler)(int, siginfo_t *, void *)) {
  struct shared_signal *shared = find_shared(number);
  struct sigaction ours, theirs;
  memset(&ours, 0, sizeof ours);
  ours.sa_sigaction = handler;
  /* All signals stay blocked while an element is taken: their handlers might store to a port, too. The alternate
   * stack, where a thread has one, is for programs that look at the overflow of the other. */
  sigfillset(&ours.sa_mask);
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  lock_wishes(shared);
  if (REAL(sigaction)(number, &ours, &theirs) == 0) {
    set_wish(shared, &theirs);
    atomic_store(&shared->installed, true);
  }
  unlock_wishes(shared);
  signals_unblock();
}

static void default_action(int number, const siginfo_t *info) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_DFL;
  REAL(sigaction)(number, &action, NULL);
  /* A fault happens again when we return; a signal that somebody sent does not. */
  if (info->si_code <= 0) {
    syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), number);
  }
}

static void forget_handler(struct shared_signal *shared) {
  struct sigaction none;
  memset(&none, 0, sizeof none);
  none.sa_handler = SIG_DFL;
  lock_wishes(shared);
  set_wish(shared, &none);
  unlock_wishes(shared);
}

void signals_chain(int number, siginfo_t *info, ucontext_t *context) {
  struct shared_signal *shared = find_shared(number);
  const struct sigaction action = shared->wishes[atomic_load(&shared->current)];
  if (action.sa_handler == SIG_IGN && info->si_code <= 0) return;
  if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
    default_action(number, info);
    return;
  }
  if (action.sa_flags & (int)SA_RESETHAND) forget_handler(shared);
  /* The mask that the program's handler would run with, but for these signals: it may store to a port. */
  sigset_t mask = context->uc_sigmask;
  for (int i = 1; i < 64; i++) {
    if (sigismember(&action.sa_mask, i) == 1) sigaddset(&mask, i);
  }
  without_shared(&mask);
  raw_mask(SIG_SETMASK, &mask, NULL);
  if (action.sa_flags & SA_SIGINFO) {
    action.sa_sigaction(number, info, context);
  } else {
    action.sa_handler(number);
  }
}

/* ---- what the program calls ---------------------------------------------------------------------------------- */

EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  if (door() == NULL || number == 0) return REAL(sigaction)(number, action, old);
  struct shared_signal *shared = find_installed(number);
  if (shared == NULL) {
    struct sigaction open;
    if (action == NULL) return REAL(sigaction)(number, NULL, old);
    /* In any handler, a store to a port must get through. */
    open = *action;
    without_shared(&open.sa_mask);
    return REAL(sigaction)(number, &open, old);
  }
  lock_wishes(shared);
  const struct sigaction before = shared->wishes[atomic_load(&shared->current)];
  if (action != NULL) set_wish(shared, action);
  unlock_wishes(shared);
  if (old != NULL) *old = before;
  return 0;
}

static sighandler_t set_handler(int number, sighandler_t handler, int flags) {
  struct sigaction action, old;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = flags;
  if (!(flags & (int)SA_NODEFER)) sigaddset(&action.sa_mask, number);
  return sigaction(number, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

EXPORT sighandler_t signal(int number, sighandler_t handler) {
  if (find_installed(number) == NULL) return REAL(signal)(number, handler);
  return set_handler(number, handler, SA_RESTART);
}

EXPORT sighandler_t bsd_signal(int number, sighandler_t handler);
EXPORT sighandler_t bsd_signal(int number, sighandler_t handler) { return signal(number, handler); }

EXPORT sighandler_t ssignal(int number, sighandler_t handler) { return signal(number, handler); }

EXPORT sighandler_t __sysv_signal(int number, sighandler_t handler) {
  if (find_installed(number) == NULL) return REAL(__sysv_signal)(number, handler);
  return set_handler(number, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

EXPORT sighandler_t sysv_signal(int number, sighandler_t handler) { return __sysv_signal(number, handler); }

static const sigset_t *without_fault(int how, const sigset_t *set, sigset_t *copy) {
  if (set == NULL || how == SIG_UNBLOCK || door() == NULL) return set;
  *copy = *set;
  without_shared(copy);
  return copy;
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
  sigset_t copy;
  return REAL(sigprocmask)(how, without_fault(how, set, &copy), old);
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
  sigset_t copy;
  return REAL(pthread_sigmask)(how, without_fault(how, set, &copy), old);
}
