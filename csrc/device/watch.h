/* Waiting for a write to memory without leaving the processor. */
#ifndef PDLB_WATCH_H
#define PDLB_WATCH_H

#include <stdbool.h>
#include <stdint.h>

/* Whether this processor has UMONITOR and UMWAIT. */
bool pdlb_watch_available(void);
/* See struct pdlb_system. The context is not used. */
void pdlb_watch_umwait(void *context, const uint8_t *command, uint8_t generation);

#endif
