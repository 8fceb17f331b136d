/* A trace of what programs ask and what the device does, one JSON object a line. Safe in a signal handler. */
#ifndef PDLB_PRELOAD_TRACE_H
#define PDLB_PRELOAD_TRACE_H

#include "door.h"

#define TRACE_ENVIRONMENT "PDLB_EMULATED_TRACE"

/* Start to write to the file that the environment names; nothing happens without one. */
void trace_open(void);
bool trace_wanted(void);
bool trace_owns(int fd);

void trace_opened(unsigned device, int fd);
void trace_request(const struct emulate_object *object, int fd, unsigned number, const void *before, const void *after,
                   int result);
void trace_domain_gone(unsigned device, unsigned domain);
void trace_misuse(unsigned device, unsigned port, const char *text);
void trace_stored(void *context, unsigned device, unsigned port, const struct pdlb_qe *qe);
void trace_scheduled(void *context, unsigned device, unsigned port, uint32_t slot, const struct pdlb_qe *qe);
void trace_interrupted(void *context, unsigned device, unsigned port);

#endif
