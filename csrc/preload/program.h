/* Which programs can be shown an emulated device. */
#ifndef PDLB_PRELOAD_PROGRAM_H
#define PDLB_PRELOAD_PROGRAM_H

/* Why the program that execvp would start under this name will not see the device; NULL if it will, or if that cannot
 * be told. */
const char *program_obstacle(const char *name);

#endif
