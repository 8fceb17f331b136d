/* Ways to write a line of four elements to a producer port. */
#ifndef PDLB_STORE_H
#define PDLB_STORE_H

#include "pdlb_abi.h"

enum pdlb_store { PDLB_STORE_NONE = 0, PDLB_STORE_STREAMING, PDLB_STORE_MOVDIR64B };

/* What this processor is to use. */
enum pdlb_store pdlb_store_best(void);

/* `line` is aligned to 64 bytes, `producer` to a page. The context is not used. */
void pdlb_store_movdir64b(void *context, void *producer, const struct pdlb_qe *line);
void pdlb_store_streaming(void *context, void *producer, const struct pdlb_qe *line);

#endif
