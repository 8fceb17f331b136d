#define _GNU_SOURCE
#include "tree.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "door.h"

struct tree {
  const char *directory;
  struct emulation emulation;
  int error; /* the first */
};

static void fail(struct tree *tree) {
  if (tree->error == 0) tree->error = -errno;
}

__attribute__((format(printf, 3, 4))) static void path_of(const struct tree *tree, char *path, const char *format,
                                                          ...) {
  va_list list;
  const int length = snprintf(path, DOOR_PATH_MAX, "%s", tree->directory);
  va_start(list, format);
  vsnprintf(path + length, (size_t)(DOOR_PATH_MAX - length), format, list);
  va_end(list);
}

static void make_parents(struct tree *tree, char *path) {
  for (char *slash = path + strlen(tree->directory) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
    *slash = 0;
    if (mkdir(path, 0755) != 0 && errno != EEXIST) fail(tree);
    *slash = '/';
  }
}

/* Returns the file's inode number. */
static uint64_t make_file(struct tree *tree, const char *name, mode_t mode, const char *text) {
  char path[DOOR_PATH_MAX];
  struct stat status = {0};
  path_of(tree, path, "%s", name);
  make_parents(tree, path);
  const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
  const ssize_t length = (ssize_t)strlen(text);
  if (fd < 0 || write(fd, text, (size_t)length) != length || fchmod(fd, mode) != 0 || fstat(fd, &status) != 0) {
    fail(tree);
  }
  if (fd >= 0) close(fd);
  return status.st_ino;
}

static void make_link(struct tree *tree, const char *name, const char *target) {
  char path[DOOR_PATH_MAX];
  path_of(tree, path, "%s", name);
  make_parents(tree, path);
  if (symlink(target, path) != 0) fail(tree);
}

#define PCI "/sys/devices/pci0000:6d/0000:6d:%02x.0"
#define NAME_MAX_LENGTH 160

/* Attributes that never change. */
static void make_pci_files(struct tree *tree, unsigned device, uint32_t version) {
  const struct {
    const char *name;
    const char *text;
  } files[] = {
      {"vendor", "0x8086\n"},
      {"device", version == PDLB_DEVICE_V25 ? "0x2714\n" : "0x2710\n"},
      {"class", "0x0b4000\n"},
      {"revision", "0x00\n"},
      {"numa_node", "-1\n"},
      {"local_cpulist", "0\n"},
      {"driver_ver", PDLB_DRIVER_VERSION "\n"},
      {"sriov_numvfs", "0\n"},
      {"sriov_totalvfs", "16\n"},
  };
  char name[NAME_MAX_LENGTH];
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    snprintf(name, sizeof name, PCI "/%s", device, files[i].name);
    make_file(tree, name, 0444, files[i].text);
  }
  for (unsigned i = 0; emulate_attribute_name(i) != NULL; i++) {
    snprintf(name, sizeof name, PCI "/%s", device, emulate_attribute_name(i));
    emulate_name_attribute(&tree->emulation, device, i,
                           make_file(tree, name, emulate_attribute_writable(i) ? 0644 : 0444, ""));
  }
}

static void make_links(struct tree *tree, unsigned device) {
  char name[NAME_MAX_LENGTH];
  char target[NAME_MAX_LENGTH];
  snprintf(name, sizeof name, PCI "/dlb2/dlb%u/dev", device, device);
  snprintf(target, sizeof target, "%u:%u\n", DOOR_MAJOR, device);
  make_file(tree, name, 0444, target);
  snprintf(name, sizeof name, PCI "/dlb2/dlb%u/device", device, device);
  make_link(tree, name, "../..");
  snprintf(name, sizeof name, "/sys/class/dlb2/dlb%u", device);
  snprintf(target, sizeof target, "../../devices/pci0000:6d/0000:6d:%02x.0/dlb2/dlb%u", device, device);
  make_link(tree, name, target);
  snprintf(name, sizeof name, "/sys/bus/pci/drivers/dlb2/0000:6d:%02x.0", device);
  snprintf(target, sizeof target, "../../../../devices/pci0000:6d/0000:6d:%02x.0", device);
  make_link(tree, name, target);
  snprintf(name, sizeof name, "/sys/bus/pci/devices/0000:6d:%02x.0", device);
  snprintf(target, sizeof target, "../../../devices/pci0000:6d/0000:6d:%02x.0", device);
  make_link(tree, name, target);
  snprintf(name, sizeof name, PCI "/driver", device);
  make_link(tree, name, "../../../bus/pci/drivers/dlb2");
}

static void make_module(struct tree *tree, unsigned port_probe) {
  const char levels[][3] = {"0\n", "1\n", "2\n"};
  const char *const parameters[][2] = {
      {"reset_timeout_s", "5\n"}, {"wdto_disable", "0\n"},    {"qe_sa_pct", "1\n"},
      {"qid_sa_pct", "0\n"},      {"qidx_wrr_weight", "0\n"}, {"port_probe", levels[port_probe]},
      {"pasid_override", "0\n"},
  };
  char name[NAME_MAX_LENGTH];
  make_file(tree, "/sys/module/dlb2/version", 0444, PDLB_DRIVER_VERSION "\n");
  for (size_t i = 0; i < sizeof parameters / sizeof parameters[0]; i++) {
    snprintf(name, sizeof name, "/sys/module/dlb2/parameters/%s", parameters[i][0]);
    make_file(tree, name, 0444, parameters[i][1]);
  }
}

static struct region *make_region(struct tree *tree, unsigned num_devices, uint32_t version, bool port_probe) {
  char path[DOOR_PATH_MAX];
  const size_t size = emulate_region_size(num_devices);
  path_of(tree, path, "/state");
  const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  void *region = MAP_FAILED;
  if (fd >= 0 && ftruncate(fd, (off_t)size) == 0) {
    region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (region == MAP_FAILED) fail(tree);
  if (fd >= 0) close(fd);
  if (region == MAP_FAILED) return NULL;
  emulate_format(region, num_devices, version, port_probe);
  return region;
}

int tree_make(const char *directory, unsigned num_devices, uint32_t version, unsigned port_probe) {
  struct tree tree = {.directory = directory};
  char path[DOOR_PATH_MAX];
  struct region *region = make_region(&tree, num_devices, version, port_probe != 0);
  if (region == NULL) return tree.error;
  emulate_attach(&tree.emulation, region, NULL, NULL);
  path_of(&tree, path, "/objects");
  if (mkdir(path, 0700) != 0) fail(&tree);
  make_module(&tree, port_probe);
  for (unsigned device = 0; device < num_devices; device++) {
    snprintf(path, sizeof path, "/dev/dlb%u", device);
    emulate_name_device(&tree.emulation, device, make_file(&tree, path, 0600, ""));
    make_pci_files(&tree, device, version);
    make_links(&tree, device);
  }
  munmap(region, emulate_region_size(num_devices));
  return tree.error;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk) {
  (void)status;
  (void)type;
  (void)walk;
  remove(path);
  return 0;
}

void tree_remove(const char *directory) { nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS); }
