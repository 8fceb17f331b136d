/* Steps: changes that happen entirely or not at all, although the process that makes them may be killed.
 *
 * Whoever changes the state calls journal_save on each object before it writes to it. A step that was not committed
 * is taken back by the next owner of the lock; of one that was, the effects outside the region are carried out again.
 */
#ifndef PDLB_EMULATE_JOURNAL_H
#define PDLB_EMULATE_JOURNAL_H

#include <stddef.h>

#include "state.h"

void journal_begin(struct device *device);
/* Remember `length` bytes at `object`, which lies in the device. */
void journal_save(struct device *device, const void *object, size_t length);
void journal_commit(struct device *device);
/* The effects are carried out. */
void journal_end(struct device *device);
/* Take back everything since journal_begin. */
void journal_roll_back(struct device *device);

#define SAVE(device, object) journal_save((device), (object), sizeof *(object))

#endif
