/* What the door's parts share: the door itself, what it answers to the model, and the locks on its files. */
#ifndef PDLB_PRELOAD_HOST_H
#define PDLB_PRELOAD_HOST_H

#include "door.h"

extern struct door the_door; /* that is open */

/* What the model asks of the process that it runs in. */
extern const struct emulation_host door_host;

/* Take the shared lock by which an open file description holds a file. */
int door_hold_file(int fd);
/* Whether some open file description of the file, in any process, does. */
bool door_file_is_held(const char *path);
/* Before a descriptor of this process's own holds the device: the model must know whether somebody else does. */
void door_use_device(unsigned device);

#endif
