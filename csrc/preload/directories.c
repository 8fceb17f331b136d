/* Reading directories: /dev has the nodes, and patterns find them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "door.h"
#include "system.h"

#define MAX_READERS 64

/* A program's open /dev, and the entry that it is given after the real ones. */
struct reader {
  _Atomic(DIR *) stream;
  unsigned next;
  struct dirent entry;
};
static struct reader readers[MAX_READERS];

static bool is_dev(const char *path) {
  const size_t length = strlen(path);
  return strncmp(path, "/dev", 4) == 0 && strspn(path + 4, "/.") == length - 4;
}

static void watch(DIR *stream) {
  for (unsigned i = 0; i < MAX_READERS && stream != NULL; i++) {
    DIR *nobody = NULL;
    if (!atomic_compare_exchange_strong(&readers[i].stream, &nobody, stream)) continue;
    readers[i].next = 0;
    return;
  }
}

static struct reader *find(DIR *stream) {
  for (unsigned i = 0; i < MAX_READERS && door() != NULL; i++) {
    if (atomic_load(&readers[i].stream) == stream) return &readers[i];
  }
  return NULL;
}

EXPORT DIR *opendir(const char *path) {
  char buffer[DOOR_PATH_MAX];
  DIR *stream = REAL(opendir)(door_redirect(AT_FDCWD, path, buffer));
  if (door() != NULL && is_dev(path)) watch(stream);
  return stream;
}

EXPORT DIR *fdopendir(int fd) {
  char link[32];
  char path[8];
  DIR *stream = REAL(fdopendir)(fd);
  if (door() == NULL) return stream;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = sys_readlink(link, path, sizeof path);
  if (length == 4 && memcmp(path, "/dev", 4) == 0) watch(stream);
  return stream;
}

static bool next_node(struct reader *reader, struct dirent **entry) {
  if (reader == NULL || reader->next >= emulate_num_devices(&door()->emulation)) return false;
  memset(&reader->entry, 0, sizeof reader->entry);
  reader->entry.d_ino = 0x44000000u + reader->next;
  reader->entry.d_reclen = sizeof reader->entry;
  reader->entry.d_type = DT_CHR;
  snprintf(reader->entry.d_name, sizeof reader->entry.d_name, "dlb%u", reader->next++);
  *entry = &reader->entry;
  return true;
}

/* struct dirent and struct dirent64 are one on this machine. */
EXPORT struct dirent *readdir(DIR *stream) {
  struct dirent *entry = REAL(readdir)(stream);
  if (entry == NULL && next_node(find(stream), &entry)) return entry;
  return entry;
}

EXPORT struct dirent64 *readdir64(DIR *stream) { return (struct dirent64 *)readdir(stream); }

/* Deprecated, and still called. */
static int read_into(DIR *stream, struct dirent *entry, struct dirent **result) {
  typedef int (*function)(DIR *, struct dirent *, struct dirent **);
  const int error = (__extension__(function) door_real("readdir_r"))(stream, entry, result);
  if (error != 0 || *result != NULL || !next_node(find(stream), result)) return error;
  *entry = **result;
  *result = entry;
  return 0;
}

EXPORT int readdir_r(DIR *stream, struct dirent *entry, struct dirent **result) {
  return read_into(stream, entry, result);
}

EXPORT int readdir64_r(DIR *stream, struct dirent64 *entry, struct dirent64 **result) {
  return read_into(stream, (struct dirent *)entry, (struct dirent **)result);
}

EXPORT void rewinddir(DIR *stream) {
  struct reader *reader = find(stream);
  if (reader != NULL) reader->next = 0;
  REAL(rewinddir)(stream);
}

EXPORT int closedir(DIR *stream) {
  struct reader *reader = find(stream);
  if (reader != NULL) atomic_store(&reader->stream, NULL);
  return REAL(closedir)(stream);
}

/* ---- whole directories ---------------------------------------------------------------------------------------- */

/* The C library's own does not come by our readdir(). */
typedef int (*filter_type)(const struct dirent *);
typedef int (*order_type)(const struct dirent **, const struct dirent **);

static bool append(struct dirent ***list, size_t *count, const struct dirent *entry) {
  struct dirent **longer = realloc(*list, (*count + 1) * sizeof *longer);
  if (longer == NULL) return false;
  *list = longer;
  longer[*count] = malloc(sizeof *entry);
  if (longer[*count] == NULL) return false;
  /* An entry of the C library's is only as long as it says. */
  memcpy(longer[*count], entry, entry->d_reclen < sizeof *entry ? entry->d_reclen : sizeof *entry);
  ++*count;
  return true;
}

static int scan(DIR *stream, struct dirent ***list, filter_type wanted, order_type order) {
  size_t count = 0;
  bool complete = true;
  *list = NULL;
  if (stream == NULL) return -1;
  for (struct dirent *entry; complete && (entry = readdir(stream)) != NULL;) {
    if (wanted == NULL || wanted(entry)) complete = append(list, &count, entry);
  }
  closedir(stream);
  if (!complete) {
    while (count > 0) free((*list)[--count]);
    free(*list);
    errno = ENOMEM;
    return -1;
  }
  if (count > 0 && order != NULL) qsort(*list, count, sizeof **list, (int (*)(const void *, const void *))order);
  return (int)count;
}

EXPORT int scandir(const char *path, struct dirent ***list, filter_type wanted, order_type order) {
  if (door() == NULL || !is_dev(path)) {
    char buffer[DOOR_PATH_MAX];
    return REAL(scandir)(door_redirect(AT_FDCWD, path, buffer), list, wanted, order);
  }
  return scan(opendir(path), list, wanted, order);
}

EXPORT int scandir64(const char *path, struct dirent64 ***list, int (*wanted)(const struct dirent64 *),
                     int (*order)(const struct dirent64 **, const struct dirent64 **)) {
  return scandir(path, (struct dirent ***)list, (filter_type)wanted, (order_type)order);
}

/* ---- patterns ------------------------------------------------------------------------------------------------ */

static void *pattern_opendir(const char *path) { return opendir(path); }
static struct dirent *pattern_readdir(void *stream) { return readdir(stream); }
static void pattern_closedir(void *stream) { closedir(stream); }

EXPORT int glob(const char *pattern, int flags, int (*on_error)(const char *, int), glob_t *result) {
  const bool ours = door() != NULL && !(flags & GLOB_ALTDIRFUNC) &&
                    (strncmp(pattern, "/dev", 4) == 0 || strncmp(pattern, "/sys", 4) == 0);
  if (!ours) return REAL(glob)(pattern, flags, on_error, result);
  /* Without this the C library reads directories by itself. */
  result->gl_opendir = pattern_opendir;
  result->gl_readdir = pattern_readdir;
  result->gl_closedir = pattern_closedir;
  result->gl_stat = stat;
  result->gl_lstat = lstat;
  const int status = REAL(glob)(pattern, flags | GLOB_ALTDIRFUNC, on_error, result);
  result->gl_flags &= ~GLOB_ALTDIRFUNC;
  return status;
}

EXPORT int glob64(const char *pattern, int flags, int (*on_error)(const char *, int), glob64_t *result) {
  return glob(pattern, flags, on_error, (glob_t *)(void *)result);
}
