/* Eventfds that ports of the emulated devices signal, as duplicates that this process owns. */
#ifndef PDLB_PRELOAD_EVENTS_H
#define PDLB_PRELOAD_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the descriptor is one of them, which the program must not close. */
bool events_own(int fd);
/* Keep `fd` for a registration, with the device's lock held. */
void events_add(unsigned device, uint64_t serial, int fd);
/* The port is no more, nor its registration. */
void events_drop(unsigned device, uint64_t serial);
/* Signal a registration's eventfd, which is fetched from the process that made it if need be. With the device's lock
 * held. */
void events_signal(void *context, unsigned device, unsigned port, uint64_t serial, uint32_t process, uint32_t fd);

#endif
