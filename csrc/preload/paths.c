/* Which paths lead into the emulation. */
#define _GNU_SOURCE
#include <string.h>

#include "door.h"
#include "names.h"
#include "system.h"

/* Everything below these comes from the emulation's directory. */
static const char *const trees[] = {
    "/sys/class/dlb2",
    "/sys/module/dlb2",
    "/sys/bus/pci/drivers/dlb2",
    "/sys/bus/pci/devices/0000:6d",
    "/sys/devices/pci0000:6d/0000:6d",
};

static bool below(const char *path, const char *tree) {
  const size_t length = strlen(tree);
  if (strncmp(path, tree, length) != 0) return false;
  return path[length] == 0 || path[length] == '/' || path[length] == ':';
}

/* The absolute path without empty and "." components; false if it is too long. */
static bool normalise(const char *directory, const char *path, char *out) {
  size_t at = 0;
  const char *const parts[2] = {path[0] == '/' ? "" : directory, path};
  for (unsigned i = 0; i < 2; i++) {
    for (const char *from = parts[i]; *from != 0;) {
      while (*from == '/') from++;
      const size_t length = strcspn(from, "/");
      if (length == 0) break;
      if (at + length + 2 > DOOR_PATH_MAX) return false;
      if (length != 1 || from[0] != '.') {
        out[at++] = '/';
        memcpy(out + at, from, length);
        at += length;
      }
      from += length;
    }
  }
  out[at] = 0;
  return true;
}

/* A cheap test first: hardly any path is ours. */
static bool may_be_ours(const char *path) {
  if (path == NULL) return false;
  return strstr(path, "dlb") != NULL || strncmp(path, "/sys", 4) == 0;
}

static bool absolute(int directory, const char *path, char *out) {
  char base[DOOR_PATH_MAX] = "";
  char link[40] = "/proc/self/cwd";
  if (path[0] != '/') {
    if (directory != AT_FDCWD) {
      char digits[12];
      size_t count = 0;
      size_t at = 14;
      memcpy(link, "/proc/self/fd/", 15);
      if (directory < 0) return false;
      for (unsigned left = (unsigned)directory; count == 0 || left > 0; left /= 10) {
        digits[count++] = (char)('0' + left % 10);
      }
      while (count > 0) link[at++] = digits[--count];
      link[at] = 0;
    }
    const ssize_t length = sys_readlink(link, base, sizeof base - 1);
    if (length <= 0) return false;
    base[length] = 0;
  }
  return normalise(base, path, out);
}

/* N of /dev/dlbN in a path that is absolute; -1 for anything else. */
static int device_of(const char *path) {
  unsigned number = 0;
  const char *at = path + 8;
  if (strncmp(path, "/dev/dlb", 8) != 0 || *at == 0 || (at[0] == '0' && at[1] != 0)) return -1;
  for (; *at != 0; at++) {
    if (*at < '0' || *at > '9' || number > 1000) return -1;
    number = number * 10 + (unsigned)(*at - '0');
  }
  return number < emulate_num_devices(&door()->emulation) ? (int)number : -1;
}

int door_device_of_path(int directory, const char *path) {
  char whole[DOOR_PATH_MAX];
  const int saved = errno;
  if (!may_be_ours(path) || door() == NULL) return -1;
  const bool known = absolute(directory, path, whole);
  errno = saved;
  return known ? device_of(whole) : -1;
}

const char *door_redirect(int directory, const char *path, char *buffer) {
  char whole[DOOR_PATH_MAX];
  const int saved = errno;
  if (!may_be_ours(path) || door() == NULL) return path;
  const bool known = absolute(directory, path, whole);
  errno = saved;
  if (!known || door()->directory_length + strlen(whole) >= DOOR_PATH_MAX) return path;
  if (device_of(whole) >= 0) return name_in_directory(door(), buffer, whole);
  for (size_t i = 0; i < sizeof trees / sizeof trees[0]; i++) {
    if (below(whole, trees[i])) return name_in_directory(door(), buffer, whole);
  }
  return path;
}
