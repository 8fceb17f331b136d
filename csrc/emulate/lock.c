/* The device's lock. It holds a process id, so that the death of the owner can be found out; the next owner then
 * takes back or finishes the step that the dead one left. */
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define WAITERS 0x80000000u
#define PATIENCE_MS 20
#define DOUBTS 10 /* a living process with the owner's id may be another one: then believe it only so often */

int futex_wait(_Atomic uint32_t *word, uint32_t value, long milliseconds) {
  const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  const int saved = errno;
  const long result = syscall(SYS_futex, word, FUTEX_WAIT, value, milliseconds < 0 ? NULL : &time, NULL, 0);
  const int error = result < 0 ? -errno : 0;
  errno = saved;
  return error;
}

void futex_wake_all(_Atomic uint32_t *word) {
  const int saved = errno;
  syscall(SYS_futex, word, FUTEX_WAKE, 0x7FFFFFFF, NULL, NULL, 0);
  errno = saved;
}

void bell_ring(struct doorbell *bell) {
  atomic_fetch_add(&bell->changed, 1);
  if (atomic_load(&bell->sleepers) != 0) futex_wake_all(&bell->changed);
}

/* Field 22 of /proc/PID/stat; 0 if there is no such process. Safe in a signal handler. */
uint64_t process_start_time(uint32_t process, bool *zombie) {
  char path[32] = "/proc/";
  char digits[10];
  size_t at = 6, count = 0;
  do {
    digits[count++] = (char)('0' + process % 10);
    process /= 10;
  } while (process > 0);
  while (count > 0) path[at++] = digits[--count];
  memcpy(path + at, "/stat", 6);

  char text[512];
  const int saved = errno;
  const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  const long length = fd < 0 ? 0 : syscall(SYS_read, fd, text, sizeof text - 1);
  if (fd >= 0) syscall(SYS_close, fd);
  errno = saved;
  if (length <= 0) return 0;
  text[length] = 0;
  /* The name, in parentheses, may hold anything: look for its end from behind. */
  const char *field = strrchr(text, ')');
  if (field == NULL) return 0;
  const bool ended = field[1] == ' ' && (field[2] == 'Z' || field[2] == 'X');
  for (int skip = 0; skip < 18 && field != NULL; skip++) field = strchr(field + 1, ' ');
  /* The first thread may have ended while others live. */
  *zombie = ended && (field == NULL || (field[1] == '1' && field[2] == ' ') || field[1] == '0');
  for (int skip = 0; skip < 2 && field != NULL; skip++) field = strchr(field + 1, ' ');
  uint64_t time = 0;
  for (const char *digit = field == NULL ? "" : field + 1; *digit >= '0' && *digit <= '9'; digit++) {
    time = time * 10 + (uint64_t)(*digit - '0');
  }
  return time;
}

bool process_lives(uint32_t process, uint64_t started) {
  bool zombie = false;
  const uint64_t found = process_start_time(process, &zombie);
  return found != 0 && !zombie && found == started;
}

static bool owner_is_dead(const struct device *device, uint32_t owner, unsigned *doubts) {
  bool zombie = false;
  const uint64_t started = process_start_time(owner, &zombie);
  if (started == 0 || zombie) return true;
  /* The owner notes its start time only after it has the lock. */
  if (started == atomic_load(&device->lock_started)) return false;
  return ++*doubts > DOUBTS;
}

/* True if the lock was taken from a dead owner. */
static bool lock_contended(struct emulation *emulation, struct device *device) {
  unsigned doubts = 0;
  for (unsigned spins = 0;; spins++) {
    uint32_t word = atomic_load_explicit(&device->lock, memory_order_relaxed);
    if (word == 0) {
      /* Others may be asleep: keep saying so. */
      if (atomic_compare_exchange_strong(&device->lock, &word, emulation->process | WAITERS)) return false;
      continue;
    }
    if (spins < 100) {
      __builtin_ia32_pause();
      continue;
    }
    if (!(word & WAITERS) && !atomic_compare_exchange_strong(&device->lock, &word, word | WAITERS)) continue;
    if (futex_wait(&device->lock, word | WAITERS, PATIENCE_MS) == -ETIMEDOUT &&
        owner_is_dead(device, word & ~WAITERS, &doubts)) {
      uint32_t dead = word | WAITERS;
      if (atomic_compare_exchange_strong(&device->lock, &dead, emulation->process | WAITERS)) return true;
    }
  }
}

static void recover(struct emulation *emulation, struct device *device) {
  const uint32_t phase = atomic_load_explicit(&device->journal.phase, memory_order_acquire);
  const uint32_t version = atomic_load(&device->renewing);
  if (version != 0) {
    renew(device, version);
  } else if (phase == JOURNAL_CHANGING) {
    journal_roll_back(device);
  } else if (phase == JOURNAL_COMMITTED) {
    apply_effects(emulation, device);
    journal_end(device);
  }
  /* What the dead owner would have taken and scheduled next. */
  finish_stores(emulation, device);
  for (unsigned domain = 0; domain < PDLB_NUM_DOMAINS; domain++) pump_domain(emulation, device, domain);
}

void device_lock(struct emulation *emulation, struct device *device) {
  uint32_t nobody = 0;
  bool inherited = false;
  if (UNLIKELY(!atomic_compare_exchange_strong_explicit(&device->lock, &nobody, emulation->process,
                                                        memory_order_acquire, memory_order_relaxed))) {
    inherited = lock_contended(emulation, device);
  }
  atomic_store_explicit(&device->lock_started, emulation->started, memory_order_relaxed);
  if (UNLIKELY(inherited)) recover(emulation, device);
}

void device_unlock(struct device *device) {
  if (UNLIKELY(atomic_exchange_explicit(&device->lock, 0, memory_order_release) & WAITERS)) {
    const int saved = errno;
    syscall(SYS_futex, &device->lock, FUTEX_WAKE, 1, NULL, NULL, 0);
    errno = saved;
  }
}
