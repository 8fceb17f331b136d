#define _GNU_SOURCE
#include "held.h"

#include <fcntl.h>
#include <pthread.h>

#include "system.h"

#define MAX_HELD 256
static int held_descriptors[MAX_HELD]; /* 0: none */
static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;

int held_take(int fd) {
  int held = -1;
  pthread_mutex_lock(&held_mutex);
  for (unsigned i = 0; i < MAX_HELD && held < 0; i++) {
    if (held_descriptors[i] != 0) continue;
    held = sys_fcntl(fd, F_DUPFD_CLOEXEC, 64);
    if (held < 0) break;
    held_descriptors[i] = held;
  }
  pthread_mutex_unlock(&held_mutex);
  return held;
}

void held_let_go(int held) {
  pthread_mutex_lock(&held_mutex);
  for (unsigned i = 0; i < MAX_HELD; i++) {
    if (held_descriptors[i] == held) held_descriptors[i] = 0;
  }
  sys_close(held);
  pthread_mutex_unlock(&held_mutex);
}

void held_before_fork(void) { pthread_mutex_lock(&held_mutex); }
void held_after_fork(void) { pthread_mutex_unlock(&held_mutex); }

void held_after_fork_in_child(void) {
  for (unsigned i = 0; i < MAX_HELD; i++) {
    if (held_descriptors[i] != 0) sys_close(held_descriptors[i]);
    held_descriptors[i] = 0;
  }
  pthread_mutex_unlock(&held_mutex);
}
