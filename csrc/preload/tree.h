/* The files of an emulation: made by the launcher, read by every process under it. */
#ifndef PDLB_PRELOAD_TREE_H
#define PDLB_PRELOAD_TREE_H

#include <stdint.h>

/* Fills the empty directory. 0, or -errno. */
int tree_make(const char *directory, unsigned num_devices, uint32_t version, unsigned port_probe);
void tree_remove(const char *directory);

#endif
