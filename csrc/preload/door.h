/* The emulated device's second door: a library that is preloaded into a program and makes /dev/dlbN appear.
 *
 * All processes under one emulation share a directory, named by PDLB_EMULATED, in which real files stand for what
 * the driver has: the model's region, the nodes, a file for each domain and each port's memory, the attribute tree.
 * Descriptors and mappings are the kernel's own, of those files, so that fork, exec, dup, SCM_RIGHTS and the death of
 * a process need no help: a descriptor is recognised by its inode, and each open file description holds a shared
 * lock that the kernel drops with the last descriptor or mapping of it.
 */
#ifndef PDLB_PRELOAD_DOOR_H
#define PDLB_PRELOAD_DOOR_H

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "emulate/emulate.h"

#define DOOR_ENVIRONMENT "PDLB_EMULATED"
#define DOOR_MAX_DEVICES 16u
#define DOOR_MAJOR 1000u /* higher than any that Linux gives to a driver */
#define DOOR_PATH_MAX 4096
#define DOOR_NAME_MAX 384 /* of the emulation's own files: their names are made on small signal stacks, too */

#define EXPORT __attribute__((visibility("default")))

/* The function that the program would have called without us. */
#define REAL(name)                                          \
  (__extension__({                                          \
    static void *found;                                     \
    void *real = __atomic_load_n(&found, __ATOMIC_RELAXED); \
    if (real == NULL) {                                     \
      real = door_real(#name);                              \
      __atomic_store_n(&found, real, __ATOMIC_RELAXED);     \
    }                                                       \
    (__typeof__(&name))real;                                \
  }))
void *door_real(const char *name);

struct door {
  bool open;
  struct emulation emulation;
  dev_t filesystem;
  size_t directory_length;
  char directory[256];
};

/* The door, if this process is under an emulation; else NULL. Safe in a signal handler once it was called. */
struct door *door(void);

/* ---- paths --------------------------------------------------------------------------------------------------- */

/* Where `path` leads under the emulation: into `buffer`, or `path` itself. */
const char *door_redirect(int directory, const char *path, char *buffer);
/* N if `path` is /dev/dlbN and that device is emulated, else -1. */
int door_device_of_path(int directory, const char *path);

/* ---- descriptors --------------------------------------------------------------------------------------------- */

struct emulate_object door_object(int fd);
/* What stat says of a node, a domain or a port's memory. */
void door_disguise(const struct emulate_object *object, struct stat *status);
int door_open_device(unsigned device, int flags);
int door_ioctl(int fd, const struct emulate_object *object, unsigned long request, void *argument);
ssize_t door_read(int fd, const struct emulate_object *object, void *buffer, size_t size);
/* The attribute's file was opened as `fd`: what the program gets instead, to read the text as it is now, or the same
 * to write to. */
int door_open_attribute(int fd, const struct emulate_object *object, int flags);
/* Descriptors of ours that the program must not close. */
bool door_is_private(int fd);

/* ---- memory -------------------------------------------------------------------------------------------------- */

void *door_map(const struct emulate_object *object, void *address, size_t length, int prot, int flags, int fd,
               off_t offset);
/* Memory from `address` on was unmapped or mapped over: forget what was there. */
void door_unmapped(void *address, size_t length);
bool door_covers_producer(const void *address, size_t length);
/* The producer port that is mapped at the address; false if there is none. */
bool door_producer_at(uintptr_t address, struct emulate_object *object);
bool door_copy_in(void *to, const void *from, size_t size);
bool door_copy_out(void *to, const void *from, size_t size);

/* ---- stores to producer ports -------------------------------------------------------------------------------- */

/* From now on SIGSEGV comes to us first. */
void door_catch_stores(void);
void door_misuse(unsigned device, unsigned port, const char *text);

#endif
