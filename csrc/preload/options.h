/* What the launcher is asked to do. */
#ifndef PDLB_PRELOAD_OPTIONS_H
#define PDLB_PRELOAD_OPTIONS_H

#include "emulate/emulate.h"

#define OPTIONS_MAX_FAULTS 32

struct options {
  uint32_t version;
  unsigned devices;
  unsigned port_probe;
  const char *trace; /* NULL: none */
  const char *faults[OPTIONS_MAX_FAULTS];
  unsigned num_faults;
  double reset_after; /* seconds from the program's beginning; negative: never */
  char **program;
};

/* Ends the process if they make no sense, or ask for help. */
struct options options_parse(char **arguments);
/* False if there is no such fault. */
bool options_add_fault(struct emulation *emulation, const char *text);

#endif
