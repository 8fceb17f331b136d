#define _GNU_SOURCE
#include "door.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "events.h"
#include "held.h"
#include "host.h"
#include "names.h"
#include "system.h"
#include "trace.h"

struct door the_door;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic bool ready;

void *door_real(const char *name) {
  void *function = dlsym(RTLD_NEXT, name);
  if (function == NULL) abort(); /* the program called what its own library does not have */
  return function;
}

/* ---- opening the door -------------------------------------------------------------------------------------------- */

static void after_fork_in_child(void) {
  emulate_forked(&the_door.emulation);
  held_after_fork_in_child();
}

static void open_door(void) {
  const char *directory = getenv(DOOR_ENVIRONMENT);
  char path[DOOR_NAME_MAX];
  struct stat status;
  if (directory == NULL || strlen(directory) >= sizeof the_door.directory) return;
  the_door.directory_length = strlen(directory);
  memcpy(the_door.directory, directory, the_door.directory_length + 1);
  const int fd = sys_open(name_in_directory(&the_door, path, "/state"), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  if (sys_fstat(fd, &status) == 0) {
    const size_t size = (size_t)status.st_size;
    void *region = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (region != MAP_FAILED && emulate_region_valid(region, size)) {
      the_door.filesystem = status.st_dev;
      emulate_attach(&the_door.emulation, region, &door_host, NULL);
      pthread_atfork(held_before_fork, held_after_fork, after_fork_in_child);
      the_door.open = true;
      trace_open();
    }
  }
  sys_close(fd);
}

static void open_door_once(void) {
  const int saved = errno;
  open_door();
  atomic_store(&ready, true);
  errno = saved;
}

struct door *door(void) {
  if (!atomic_load_explicit(&ready, memory_order_acquire)) {
    /* A sanitizer calls before the C library has found the environment. */
    if (environ == NULL) return NULL;
    /* Some library's constructor is ahead of ours, or it is our own that calls. */
    static _Thread_local bool opening;
    if (opening) return NULL;
    opening = true;
    pthread_once(&once, open_door_once);
    opening = false;
  }
  return the_door.open ? &the_door : NULL;
}

/* ---- recognising descriptors --------------------------------------------------------------------------------- */

struct emulate_object door_object(int fd) {
  struct emulate_object nothing = {EMULATE_NOTHING, 0, 0, 0, 0};
  struct door *self = door();
  struct stat status;
  const int saved = errno;
  if (self == NULL || fd < 0) return nothing;
  const int result = sys_fstat(fd, &status);
  errno = saved;
  if (result != 0 || status.st_dev != self->filesystem || !S_ISREG(status.st_mode)) return nothing;
  return emulate_find(&self->emulation, status.st_ino);
}

void door_disguise(const struct emulate_object *object, struct stat *status) {
  if (object->kind == EMULATE_NOTHING || object->kind == EMULATE_ATTRIBUTE) return;
  status->st_mode = object->kind == EMULATE_DEVICE ? S_IFCHR | 0600 : 0600;
  status->st_rdev = object->kind == EMULATE_DEVICE ? makedev(DOOR_MAJOR, object->index) : 0;
  status->st_size = 0;
  status->st_blocks = 0;
}

bool door_is_private(int fd) { return fd >= 3 && atomic_load(&ready) && (trace_owns(fd) || events_own(fd)); }

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

/* Waits only while somebody looks whether the file is held. */
int door_hold_file(int fd) {
  int result;
  do {
    result = sys_flock(fd, LOCK_SH);
  } while (result != 0 && errno == EINTR);
  return result;
}

/* Who has no descriptor to look with takes it for held: whoever looks next will see. */
bool door_file_is_held(const char *path) {
  const int saved = errno;
  const int fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
  const bool exists = fd >= 0 || errno != ENOENT;
  errno = saved;
  if (fd < 0) return exists;
  const bool held = sys_flock(fd, LOCK_EX | LOCK_NB) != 0;
  sys_close(fd);
  return held;
}

void door_use_device(unsigned device) {
  char path[DOOR_NAME_MAX];
  emulate_use(&the_door.emulation, device, door_file_is_held(name_device(&the_door, path, device)));
}

int door_open_device(unsigned device, int flags) {
  char path[DOOR_NAME_MAX];
  door_use_device(device);
  const int fd = sys_open(name_device(&the_door, path, device), flags & ~(O_CREAT | O_TRUNC | O_APPEND | O_TMPFILE), 0);
  if (fd < 0) return fd;
  door_hold_file(fd);
  trace_opened(device, fd);
  return fd;
}
