/* System calls without the C library: what we do must not come back to us, and must be safe in a signal handler. */
#ifndef PDLB_PRELOAD_SYSTEM_H
#define PDLB_PRELOAD_SYSTEM_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static inline int sys_open(const char *path, int flags, mode_t mode) {
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static inline int sys_close(int fd) { return (int)syscall(SYS_close, fd); }

static inline int sys_fstat(int fd, struct stat *status) { return (int)syscall(SYS_fstat, fd, status); }

static inline int sys_ftruncate(int fd, off_t size) { return (int)syscall(SYS_ftruncate, fd, size); }

static inline int sys_flock(int fd, int operation) { return (int)syscall(SYS_flock, fd, operation); }

static inline int sys_fcntl(int fd, int command, long argument) {
  return (int)syscall(SYS_fcntl, fd, command, argument);
}

static inline int sys_unlink(const char *path) { return (int)syscall(SYS_unlink, path); }

static inline off_t sys_lseek(int fd, off_t offset, int whence) { return syscall(SYS_lseek, fd, offset, whence); }

static inline ssize_t sys_write(int fd, const void *data, size_t size) { return syscall(SYS_write, fd, data, size); }

static inline ssize_t sys_readlink(const char *path, char *buffer, size_t size) {
  return syscall(SYS_readlink, path, buffer, size);
}

static inline int sys_prctl(int option, unsigned long argument) {
  return (int)syscall(SYS_prctl, option, argument, 0, 0, 0);
}

static inline void *sys_mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  return (void *)syscall(SYS_mmap, address, length, prot, flags, fd, offset);
}

static inline int sys_munmap(void *address, size_t length) { return (int)syscall(SYS_munmap, address, length); }

#endif
