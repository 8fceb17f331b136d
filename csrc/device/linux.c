/* The system calls themselves, and how a line reaches a producer port.
 *
 * A port takes 64 bytes by one MOVDIR64B. Where the processor has none, four 16-byte streaming stores do, each fenced
 * from the next and all to the same address: the device takes any 16 bytes in the page for one element. Both are
 * weakly ordered, so a fence goes before them: what the elements speak of must be visible first.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "store.h"
#include "system.h"
#include "watch.h"

static int linux_open(void *context, const char *path, uint32_t *number) {
  (void)context;
  struct stat status;
  /* Whatever else it may be: a terminal must not become this process's, nor a line be waited for. */
  const int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return -errno;
  if (fstat(fd, &status) < 0 || !S_ISCHR(status.st_mode)) {
    close(fd);
    return -ENOTTY;
  }
  *number = minor(status.st_rdev);
  return fd;
}

static int linux_close(void *context, int fd) {
  (void)context;
  return close(fd) < 0 ? -errno : 0;
}

static int linux_close_on_exec(void *context, int fd) {
  (void)context;
  return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

static int linux_duplicate(void *context, int fd) {
  (void)context;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return own < 0 ? -errno : own;
}

static int linux_request(void *context, int fd, uint32_t request, void *args) {
  (void)context;
  int result;
  do result = ioctl(fd, request, args);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : 0;
}

/* A child that was forked has none of these mappings: a port has one writer. */
static int linux_map(void *context, int fd, size_t length, bool writable, void **address) {
  (void)context;
  void *memory = mmap(NULL, length, writable ? PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return -errno;
  madvise(memory, length, MADV_DONTFORK);
  *address = memory;
  return 0;
}

static int linux_unmap(void *context, void *address, size_t length) {
  (void)context;
  return munmap(address, length) < 0 ? -errno : 0;
}

static int linux_read_alert(void *context, int fd, struct pdlb_domain_alert *alert) {
  (void)context;
  const ssize_t length = read(fd, alert, sizeof *alert);
  if (length < 0) return -errno;
  return length == (ssize_t)sizeof *alert ? 0 : -EIO;
}

static int linux_attribute(void *context, uint32_t number, const char *name, uint32_t *value) {
  (void)context;
  char path[160], text[24];
  snprintf(path, sizeof path, "/sys/class/dlb2/dlb%u/device/%s", number, name);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const ssize_t length = read(fd, text, sizeof text - 1);
  const int error = length < 0 ? errno : EINVAL;
  close(fd);
  if (length <= 0) return -error;
  text[length] = 0;
  *value = (uint32_t)strtoul(text, NULL, 10);
  return 0;
}

static int linux_event(void *context) {
  (void)context;
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

static struct pdlb_system kernel = {
    .open = linux_open,
    .close = linux_close,
    .close_on_exec = linux_close_on_exec,
    .duplicate = linux_duplicate,
    .request = linux_request,
    .map = linux_map,
    .unmap = linux_unmap,
    .read_alert = linux_read_alert,
    .attribute = linux_attribute,
    .event = linux_event,
};

static void ask_processor(void) {
  switch (pdlb_store_best()) {
    case PDLB_STORE_MOVDIR64B: kernel.store = pdlb_store_movdir64b; break;
    case PDLB_STORE_STREAMING: kernel.store = pdlb_store_streaming; break;
    default: kernel.store = NULL;
  }
  if (pdlb_watch_available()) kernel.watch = pdlb_watch_umwait;
}

const struct pdlb_system *pdlb_system_linux(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, ask_processor);
  return &kernel;
}
