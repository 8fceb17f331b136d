/* Calls on descriptors that may be of the emulated device. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "door.h"
#include "system.h"

/* While there is one thread. */
__attribute__((constructor)) static void at_load(void) { door(); }

/* Requests that the kernel answers before a driver sees them. */
static bool kernel_answers(unsigned long request) {
  switch ((unsigned int)request) {
    case FIOCLEX:
    case FIONCLEX:
    case FIONBIO:
    case FIOASYNC:
    case 2: /* FIGETBSZ */ return true;
    default: return false;
  }
}

/* A terminal's request has the number of some command. The driver would carry that out with whatever lies on the
 * stack; nobody wants this. */
static bool is_terminal_request(unsigned long request) { return (request & 0xFFFFFF00u) == 0x5400; }

EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  const struct emulate_object object = door_object(fd);
  if (object.kind == EMULATE_NOTHING || object.kind == EMULATE_ATTRIBUTE || kernel_answers(request)) {
    return REAL(ioctl)(fd, request, argument);
  }
  if (is_terminal_request(request)) {
    errno = ENOTTY;
    return -1;
  }
  return door_ioctl(fd, &object, request, argument);
}

EXPORT ssize_t read(int fd, void *buffer, size_t size) {
  const struct emulate_object object = door_object(fd);
  if (object.kind == EMULATE_NOTHING || object.kind == EMULATE_ATTRIBUTE) return REAL(read)(fd, buffer, size);
  return door_read(fd, &object, buffer, size);
}

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room);
EXPORT ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room) {
  const struct emulate_object object = door_object(fd);
  if (object.kind == EMULATE_NOTHING || size > room) return REAL(__read_chk)(fd, buffer, size, room);
  return read(fd, buffer, size);
}

EXPORT ssize_t write(int fd, const void *data, size_t size) {
  const struct emulate_object object = door_object(fd);
  if (object.kind == EMULATE_NOTHING) return REAL(write)(fd, data, size);
  int result = -EINVAL;
  if (object.kind == EMULATE_ATTRIBUTE) {
    result = emulate_attribute_write(&door()->emulation, object.device, object.index, data, size);
  }
  if (result == 0) return (ssize_t)size;
  errno = -result;
  return -1;
}

EXPORT off_t lseek(int fd, off_t offset, int whence) {
  const struct emulate_object object = door_object(fd);
  if (object.kind == EMULATE_NOTHING || object.kind == EMULATE_ATTRIBUTE) return REAL(lseek)(fd, offset, whence);
  errno = ESPIPE;
  return -1;
}

EXPORT off_t lseek64(int fd, off_t offset, int whence) { return lseek(fd, offset, whence); }

/* The last reference to a domain may be gone: the driver resets it within the close. */
static void dropped(const struct emulate_object *object) {
  const int saved = errno;
  if (object->kind >= EMULATE_DOMAIN && object->kind <= EMULATE_CONSUMER) {
    emulate_collect(&door()->emulation, object->device);
  }
  errno = saved;
}

EXPORT int close(int fd) {
  if (door_is_private(fd)) {
    errno = EBADF;
    return -1;
  }
  const struct emulate_object object = door_object(fd);
  const int result = REAL(close)(fd);
  if (object.kind != EMULATE_NOTHING) dropped(&object);
  return result;
}

EXPORT int dup2(int from, int to) {
  if (from != to && door_is_private(to)) {
    errno = EBUSY;
    return -1;
  }
  const struct emulate_object object = door_object(to);
  const int result = REAL(dup2)(from, to);
  if (object.kind != EMULATE_NOTHING && result >= 0) dropped(&object);
  return result;
}

EXPORT int dup3(int from, int to, int flags) {
  if (door_is_private(to)) {
    errno = EBUSY;
    return -1;
  }
  const struct emulate_object object = door_object(to);
  const int result = REAL(dup3)(from, to, flags);
  if (object.kind != EMULATE_NOTHING && result >= 0) dropped(&object);
  return result;
}

/* Around the descriptors that are ours. */
EXPORT int close_range(unsigned int first, unsigned int last, int flags) {
  if (door() == NULL) return REAL(close_range)(first, last, flags);
  const unsigned limit = (unsigned)sysconf(_SC_OPEN_MAX);
  unsigned from = first;
  for (unsigned fd = first; fd <= last && fd < limit; fd++) {
    if (!door_is_private((int)fd)) continue;
    if (from < fd && REAL(close_range)(from, fd - 1, flags) != 0) return -1;
    from = fd + 1;
  }
  return from <= last ? REAL(close_range)(from, last, flags) : 0;
}

EXPORT void closefrom(int first) {
  if (door() == NULL) {
    REAL(closefrom)(first);
  } else {
    close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
  }
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

EXPORT void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  if (door() == NULL) return sys_mmap(address, length, prot, flags, fd, offset);
  const struct emulate_object object = flags & MAP_ANONYMOUS ? (struct emulate_object){0} : door_object(fd);
  const bool ours = object.kind != EMULATE_NOTHING && object.kind != EMULATE_ATTRIBUTE;
  void *at = ours ? door_map(&object, address, length, prot, flags, fd, offset)
                  : sys_mmap(address, length, prot, flags, fd, offset);
  if (!ours && at != MAP_FAILED && flags & MAP_FIXED) door_unmapped(at, length);
  return at;
}

EXPORT void *mmap64(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  return mmap(address, length, prot, flags, fd, offset);
}

EXPORT int munmap(void *address, size_t length) {
  const int result = sys_munmap(address, length);
  if (result == 0 && door() != NULL) door_unmapped(address, (length + 4095) & ~(size_t)4095);
  return result;
}

/* A producer port stays inaccessible, whatever the program thinks of it. */
EXPORT int mprotect(void *address, size_t length, int prot) {
  if (door() != NULL && prot != PROT_NONE && door_covers_producer(address, length)) return 0;
  return (int)syscall(SYS_mprotect, address, length, prot);
}
