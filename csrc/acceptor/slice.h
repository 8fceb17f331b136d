/* How long the scheduler lets a thread run at a time. */
#ifndef PDLB_SLICE_H
#define PDLB_SLICE_H

/* Ask for short slices for the calling thread: one that works for microseconds, and that many wait for, is let in
 * sooner when it wakes beside one that does not stop (Linux 6.12; before, it changes nothing). Its share stays the
 * same. */
void slice_shorten(void);

#endif
