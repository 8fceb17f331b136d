/* Calls that take paths, and what stat tells. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "door.h"
#include "system.h"

/* ---- open ---------------------------------------------------------------------------------------------------- */

/* A path of ours: `path` was redirected. */
static int open_redirected(const char *path, int flags) {
  const int fd = sys_open(path, flags & ~(O_CREAT | O_TRUNC | O_TMPFILE), 0);
  if (fd < 0) return fd;
  const struct emulate_object object = door_object(fd);
  return object.kind == EMULATE_ATTRIBUTE ? door_open_attribute(fd, &object, flags) : fd;
}

/* False if the path is none of ours. */
static bool open_ours(int directory, const char *path, int flags, int *fd) {
  char buffer[DOOR_PATH_MAX];
  const int device = door_device_of_path(directory, path);
  if (device >= 0) {
    *fd = flags & O_DIRECTORY ? (errno = ENOTDIR, -1) : door_open_device((unsigned)device, flags);
    return true;
  }
  const char *redirected = door_redirect(directory, path, buffer);
  if (redirected == path) return false;
  *fd = open_redirected(redirected, flags);
  return true;
}

static bool takes_mode(int flags) { return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

#define DEFINE_OPEN(name)                                             \
  EXPORT int name(const char *path, int flags, ...) {                 \
    int fd;                                                           \
    va_list list;                                                     \
    va_start(list, flags);                                            \
    const mode_t mode = takes_mode(flags) ? va_arg(list, mode_t) : 0; \
    va_end(list);                                                     \
    if (open_ours(AT_FDCWD, path, flags, &fd)) return fd;             \
    return REAL(name)(path, flags, mode);                             \
  }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name)                                           \
  EXPORT int name(int directory, const char *path, int flags, ...) {  \
    int fd;                                                           \
    va_list list;                                                     \
    va_start(list, flags);                                            \
    const mode_t mode = takes_mode(flags) ? va_arg(list, mode_t) : 0; \
    va_end(list);                                                     \
    if (open_ours(directory, path, flags, &fd)) return fd;            \
    return REAL(name)(directory, path, flags, mode);                  \
  }
DEFINE_OPENAT(openat)
DEFINE_OPENAT(openat64)

/* What fortified programs call. */
#define DEFINE_OPEN_2(name)                               \
  EXPORT int name(const char *path, int flags);           \
  EXPORT int name(const char *path, int flags) {          \
    int fd;                                               \
    if (open_ours(AT_FDCWD, path, flags, &fd)) return fd; \
    return REAL(name)(path, flags);                       \
  }
DEFINE_OPEN_2(__open_2)
DEFINE_OPEN_2(__open64_2)

#define DEFINE_OPENAT_2(name)                                   \
  EXPORT int name(int directory, const char *path, int flags);  \
  EXPORT int name(int directory, const char *path, int flags) { \
    int fd;                                                     \
    if (open_ours(directory, path, flags, &fd)) return fd;      \
    return REAL(name)(directory, path, flags);                  \
  }
DEFINE_OPENAT_2(__openat_2)
DEFINE_OPENAT_2(__openat64_2)

static int flags_of_mode(const char *mode) {
  const int update = strchr(mode, '+') != NULL;
  const int extra = strchr(mode, 'e') != NULL ? O_CLOEXEC : 0;
  if (mode[0] == 'r') return extra | (update ? O_RDWR : O_RDONLY);
  return extra | (update ? O_RDWR : O_WRONLY) | (mode[0] == 'a' ? O_APPEND : 0);
}

/* The C library writes to its streams without coming by our write(). */
static ssize_t stream_write(void *cookie, const char *data, size_t size) {
  return write((int)(intptr_t)cookie, data, size) < 0 ? 0 : (ssize_t)size;
}

static ssize_t stream_read(void *cookie, char *data, size_t size) { return read((int)(intptr_t)cookie, data, size); }

static int stream_close(void *cookie) { return close((int)(intptr_t)cookie); }

static FILE *stream_of(int fd, const char *mode) {
  const cookie_io_functions_t functions = {.read = stream_read, .write = stream_write, .close = stream_close};
  if (fd < 0) return NULL;
  const struct emulate_object object = door_object(fd);
  FILE *stream = object.kind == EMULATE_NOTHING ? fdopen(fd, mode) : fopencookie((void *)(intptr_t)fd, mode, functions);
  if (stream == NULL) sys_close(fd);
  return stream;
}

#define DEFINE_FOPEN(name)                                                               \
  EXPORT FILE *name(const char *path, const char *mode) {                                \
    int fd;                                                                              \
    if (open_ours(AT_FDCWD, path, flags_of_mode(mode), &fd)) return stream_of(fd, mode); \
    return REAL(name)(path, mode);                                                       \
  }
DEFINE_FOPEN(fopen)
DEFINE_FOPEN(fopen64)

/* ---- stat ---------------------------------------------------------------------------------------------------- */

static void disguise_path(int directory, const char *path, struct stat *status) {
  const int device = door_device_of_path(directory, path);
  if (device < 0) return;
  const struct emulate_object object = {EMULATE_DEVICE, (unsigned)device, (unsigned)device, 0, 0};
  door_disguise(&object, status);
}

static void disguise_fd(int fd, struct stat *status) {
  const struct emulate_object object = door_object(fd);
  if (object.kind != EMULATE_NOTHING) door_disguise(&object, status);
}

/* struct stat and struct stat64 are one on this machine. */
#define DEFINE_STAT(name, type)                                                   \
  EXPORT int name(const char *path, type *status) {                               \
    char buffer[DOOR_PATH_MAX];                                                   \
    const int result = REAL(name)(door_redirect(AT_FDCWD, path, buffer), status); \
    if (result == 0) disguise_path(AT_FDCWD, path, (struct stat *)status);        \
    return result;                                                                \
  }
DEFINE_STAT(stat, struct stat)
DEFINE_STAT(stat64, struct stat64)
DEFINE_STAT(lstat, struct stat)
DEFINE_STAT(lstat64, struct stat64)

#define DEFINE_FSTAT(name, type)                             \
  EXPORT int name(int fd, type *status) {                    \
    const int result = REAL(name)(fd, status);               \
    if (result == 0) disguise_fd(fd, (struct stat *)status); \
    return result;                                           \
  }
DEFINE_FSTAT(fstat, struct stat)
DEFINE_FSTAT(fstat64, struct stat64)

static void disguise_at(int directory, const char *path, int flags, struct stat *status) {
  if (path[0] == 0 && flags & AT_EMPTY_PATH) {
    disguise_fd(directory, status);
  } else {
    disguise_path(directory, path, status);
  }
}

#define DEFINE_FSTATAT(name, type)                                                                   \
  EXPORT int name(int directory, const char *path, type *status, int flags) {                        \
    char buffer[DOOR_PATH_MAX];                                                                      \
    const int result = REAL(name)(directory, door_redirect(directory, path, buffer), status, flags); \
    if (result == 0) disguise_at(directory, path, flags, (struct stat *)status);                     \
    return result;                                                                                   \
  }
DEFINE_FSTATAT(fstatat, struct stat)
DEFINE_FSTATAT(fstatat64, struct stat64)

/* What programs call that were built before glibc 2.33. */
#define DEFINE_XSTAT(name, type)                                                           \
  EXPORT int name(int version, const char *path, type *status);                            \
  EXPORT int name(int version, const char *path, type *status) {                           \
    char buffer[DOOR_PATH_MAX];                                                            \
    const int result = REAL(name)(version, door_redirect(AT_FDCWD, path, buffer), status); \
    if (result == 0) disguise_path(AT_FDCWD, path, (struct stat *)status);                 \
    return result;                                                                         \
  }
DEFINE_XSTAT(__xstat, struct stat)
DEFINE_XSTAT(__xstat64, struct stat64)
DEFINE_XSTAT(__lxstat, struct stat)
DEFINE_XSTAT(__lxstat64, struct stat64)

#define DEFINE_FXSTAT(name, type)                            \
  EXPORT int name(int version, int fd, type *status);        \
  EXPORT int name(int version, int fd, type *status) {       \
    const int result = REAL(name)(version, fd, status);      \
    if (result == 0) disguise_fd(fd, (struct stat *)status); \
    return result;                                           \
  }
DEFINE_FXSTAT(__fxstat, struct stat)
DEFINE_FXSTAT(__fxstat64, struct stat64)

#define DEFINE_FXSTATAT(name, type)                                                                           \
  EXPORT int name(int version, int directory, const char *path, type *status, int flags);                     \
  EXPORT int name(int version, int directory, const char *path, type *status, int flags) {                    \
    char buffer[DOOR_PATH_MAX];                                                                               \
    const int result = REAL(name)(version, directory, door_redirect(directory, path, buffer), status, flags); \
    if (result == 0) disguise_at(directory, path, flags, (struct stat *)status);                              \
    return result;                                                                                            \
  }
DEFINE_FXSTATAT(__fxstatat, struct stat)
DEFINE_FXSTATAT(__fxstatat64, struct stat64)

EXPORT int statx(int directory, const char *path, int flags, unsigned int mask, struct statx *status) {
  char buffer[DOOR_PATH_MAX];
  struct stat shown = {0};
  const int result = REAL(statx)(directory, door_redirect(directory, path, buffer), flags, mask, status);
  if (result != 0) return result;
  disguise_at(directory, path, flags, &shown);
  if (shown.st_mode == 0) return 0;
  status->stx_mode = (uint16_t)shown.st_mode;
  status->stx_rdev_major = major(shown.st_rdev);
  status->stx_rdev_minor = minor(shown.st_rdev);
  status->stx_size = 0;
  status->stx_blocks = 0;
  return 0;
}

/* ---- access, links ------------------------------------------------------------------------------------------- */

#define DEFINE_ACCESS(name)                                         \
  EXPORT int name(const char *path, int mode) {                     \
    char buffer[DOOR_PATH_MAX];                                     \
    return REAL(name)(door_redirect(AT_FDCWD, path, buffer), mode); \
  }
DEFINE_ACCESS(access)
DEFINE_ACCESS(eaccess)
DEFINE_ACCESS(euidaccess)

EXPORT int faccessat(int directory, const char *path, int mode, int flags) {
  char buffer[DOOR_PATH_MAX];
  return REAL(faccessat)(directory, door_redirect(directory, path, buffer), mode, flags);
}

/* What ls asks for beside the rest. */
#define DEFINE_GETXATTR(name)                                                              \
  EXPORT ssize_t name(const char *path, const char *attribute, void *value, size_t size) { \
    char buffer[DOOR_PATH_MAX];                                                            \
    return REAL(name)(door_redirect(AT_FDCWD, path, buffer), attribute, value, size);      \
  }
DEFINE_GETXATTR(getxattr)
DEFINE_GETXATTR(lgetxattr)

#define DEFINE_LISTXATTR(name)                                            \
  EXPORT ssize_t name(const char *path, char *list, size_t size) {        \
    char buffer[DOOR_PATH_MAX];                                           \
    return REAL(name)(door_redirect(AT_FDCWD, path, buffer), list, size); \
  }
DEFINE_LISTXATTR(listxattr)
DEFINE_LISTXATTR(llistxattr)

static const char *const memory_names[] = {"/dlb2_ldb_pp::", "/dlb2_dir_pp::", "/dlb2_ldb_cq::", "/dlb2_dir_cq::"};

/* What the kernel says that a descriptor of ours is; 0 if it is none. */
static size_t describe(int fd, char *text, size_t size) {
  const struct emulate_object object = door_object(fd);
  const bool directed = object.index >= PDLB_NUM_LDB_PORTS;
  const unsigned id = directed ? object.index - PDLB_NUM_LDB_PORTS : object.index;
  switch (object.kind) {
    case EMULATE_DEVICE: return (size_t)snprintf(text, size, "/dev/dlb%u", object.index);
    case EMULATE_DOMAIN: return (size_t)snprintf(text, size, "anon_inode:[dlb2domain]");
    case EMULATE_PRODUCER: return (size_t)snprintf(text, size, "%s%u (deleted)", memory_names[directed], id);
    case EMULATE_CONSUMER: return (size_t)snprintf(text, size, "%s%u (deleted)", memory_names[2 + directed], id);
    default: return 0;
  }
}

/* N if the path is /proc/self/fd/N or /proc/PID/fd/N of this process; else -1. */
static int descriptor_of(const char *path) {
  int fd = -1;
  int end = 0;
  long process;
  if (strncmp(path, "/proc/", 6) != 0 || door() == NULL) return -1;
  if (sscanf(path, "/proc/self/fd/%d%n", &fd, &end) == 1 && path[end] == 0) return fd;
  if (sscanf(path, "/proc/%ld/fd/%d%n", &process, &fd, &end) == 2 && path[end] == 0 && process == syscall(SYS_getpid)) {
    return fd;
  }
  return -1;
}

static ssize_t read_link(int directory, const char *path, char *buffer, size_t size) {
  char redirected[DOOR_PATH_MAX];
  char text[64];
  const int fd = descriptor_of(path);
  const size_t length = fd < 0 ? 0 : describe(fd, text, sizeof text);
  if (length == 0) return REAL(readlinkat)(directory, door_redirect(directory, path, redirected), buffer, size);
  const size_t copied = length < size ? length : size;
  memcpy(buffer, text, copied);
  return (ssize_t)copied;
}

EXPORT ssize_t readlink(const char *path, char *buffer, size_t size) { return read_link(AT_FDCWD, path, buffer, size); }

EXPORT ssize_t readlinkat(int directory, const char *path, char *buffer, size_t size) {
  return read_link(directory, path, buffer, size);
}

EXPORT ssize_t __readlink_chk(const char *path, char *buffer, size_t size, size_t room);
EXPORT ssize_t __readlink_chk(const char *path, char *buffer, size_t size, size_t room) {
  return read_link(AT_FDCWD, path, buffer, size < room ? size : room);
}

/* A path below the emulation's directory, as the program knows it. */
static char *without_directory(char *path) {
  const struct door *self = door();
  if (path == NULL || self == NULL || strncmp(path, self->directory, self->directory_length) != 0) return path;
  if (path[self->directory_length] != '/') return path;
  memmove(path, path + self->directory_length, strlen(path + self->directory_length) + 1);
  return path;
}

EXPORT char *realpath(const char *path, char *resolved) {
  char buffer[DOOR_PATH_MAX];
  return without_directory(REAL(realpath)(door_redirect(AT_FDCWD, path, buffer), resolved));
}

EXPORT char *__realpath_chk(const char *path, char *resolved, size_t room);
EXPORT char *__realpath_chk(const char *path, char *resolved, size_t room) {
  char buffer[DOOR_PATH_MAX];
  return without_directory(REAL(__realpath_chk)(door_redirect(AT_FDCWD, path, buffer), resolved, room));
}

EXPORT char *canonicalize_file_name(const char *path) { return realpath(path, NULL); }
