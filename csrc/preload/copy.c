/* Memory of the program that may not be there: the kernel tells, without a fault. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/uio.h>

#include "door.h"
#include "system.h"

static bool copy(long call, void *ours, void *theirs, size_t size) {
  const struct iovec local = {ours, size};
  const struct iovec remote = {theirs, size};
  const int saved = errno;
  const long result = syscall(call, syscall(SYS_getpid), &local, 1, &remote, 1, 0);
  const int error = errno;
  errno = saved;
  if (result == (long)size) return true;
  if (result >= 0 || (error != ENOSYS && error != EPERM)) return false;
  /* Forbidden by some containers: then a bad pointer is the program's fault. */
  if (call == SYS_process_vm_readv) {
    memcpy(ours, theirs, size);
  } else {
    memcpy(theirs, ours, size);
  }
  return true;
}

bool door_copy_in(void *to, const void *from, size_t size) {
  return copy(SYS_process_vm_readv, to, (void *)(uintptr_t)from, size);
}

bool door_copy_out(void *to, const void *from, size_t size) {
  return copy(SYS_process_vm_writev, (void *)(uintptr_t)from, to, size);
}
