/* Names of the files in the emulation's directory. Safe in a signal handler. */
#ifndef PDLB_PRELOAD_NAMES_H
#define PDLB_PRELOAD_NAMES_H

#include "door.h"

/* Each writes into `path` and returns it. The first needs room for `rest`, the others DOOR_NAME_MAX. */
const char *name_in_directory(const struct door *self, char *path, const char *rest);
const char *name_device(const struct door *self, char *path, unsigned device);
const char *name_domain(const struct door *self, char *path, unsigned device, uint64_t serial);
const char *name_producer(const struct door *self, char *path, unsigned device, uint64_t serial);
const char *name_consumer(const struct door *self, char *path, unsigned device, uint64_t serial);

#endif
