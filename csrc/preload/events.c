#define _GNU_SOURCE
#include "events.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "door.h"
#include "system.h"

#define MAX_EVENTS 512

/* Eventfds that ports signal, by registration. Guarded by the lock of the entry's device. */
struct event {
  _Atomic uint64_t serial;
  _Atomic int fd; /* -1 once the registration is no more */
};
static struct event events[DOOR_MAX_DEVICES][MAX_EVENTS];

bool events_own(int fd) {
  for (unsigned device = 0; device < DOOR_MAX_DEVICES; device++) {
    for (unsigned i = 0; i < MAX_EVENTS && atomic_load(&events[device][i].serial) != 0; i++) {
      if (atomic_load(&events[device][i].fd) == fd) return true;
    }
  }
  return false;
}

static struct event *find_event(unsigned device, uint64_t serial) {
  for (unsigned i = 0; i < MAX_EVENTS; i++) {
    const uint64_t found = atomic_load(&events[device][i].serial);
    if (found == serial) return &events[device][i];
    if (found == 0) return NULL;
  }
  return NULL;
}

/* An entry for a new registration, in place of one that is no more if there is no other. */
void events_add(unsigned device, uint64_t serial, int fd) {
  struct event *oldest = &events[device][0];
  for (unsigned i = 0; i < MAX_EVENTS; i++) {
    struct event *event = &events[device][i];
    if (atomic_load(&event->serial) == 0 || atomic_load(&event->fd) < 0) {
      oldest = event;
      break;
    }
    if (atomic_load(&event->serial) < atomic_load(&oldest->serial)) oldest = event;
  }
  if (atomic_load(&oldest->serial) != 0 && atomic_load(&oldest->fd) >= 0) sys_close(atomic_load(&oldest->fd));
  atomic_store(&oldest->fd, fd);
  atomic_store(&oldest->serial, serial);
}

/* The entry stays, for the search ends at the first that was never used. */
void events_drop(unsigned device, uint64_t serial) {
  struct event *event = serial ? find_event(device, serial) : NULL;
  const int fd = event ? atomic_exchange(&event->fd, -1) : -1;
  if (fd >= 0) sys_close(fd);
}

static int fetch_descriptor(uint32_t process, uint32_t fd) {
  const int pidfd = (int)syscall(SYS_pidfd_open, process, 0);
  if (pidfd < 0) return -errno;
  const int result = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
  const int error = errno;
  sys_close(pidfd);
  return result < 0 ? -error : result;
}

void events_signal(void *context, unsigned device, unsigned port, uint64_t serial, uint32_t process, uint32_t fd) {
  const struct event *event = find_event(device, serial);
  const uint64_t one = 1;
  const int saved = errno;
  (void)context;
  if (event == NULL) {
    const int fetched = fetch_descriptor(process, fd);
    if (fetched == -ESRCH) { /* it was killed: nobody listens any more */
      errno = saved;
      return;
    }
    if (fetched >= 0) {
      events_add(device, serial, fetched);
      event = find_event(device, serial);
    }
  }
  const int target = event == NULL ? -1 : atomic_load(&event->fd);
  const bool gone = event != NULL && target < 0; /* the port is no more */
  if (!gone && (event == NULL || sys_write(target, &one, sizeof one) != sizeof one)) {
    door_misuse(device, port, "interrupt for an eventfd that this process cannot reach");
  }
  errno = saved;
}
