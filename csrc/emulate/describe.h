/* Requests and elements as text for people and programs: one JSON object each. Safe in a signal handler. */
#ifndef PDLB_EMULATE_DESCRIBE_H
#define PDLB_EMULATE_DESCRIBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/pdlb_abi.h"

/* Text that grows as far as there is room, always ended by a NUL. */
struct text {
  char *at;
  char *end;
};

struct text text_in(char *buffer, size_t size);
void text_put(struct text *text, const char *string);
void text_put_number(struct text *text, int64_t number);
void text_put_unsigned(struct text *text, uint64_t number);
/* A string in quotes. Nothing is escaped: names only. */
void text_put_name(struct text *text, const char *name);

/* The fields of a command's structure but for the response and padding. */
void describe_arguments(struct text *text, bool is_device, unsigned number, const void *args);
/* NULL if there is no such status. */
const char *describe_status(uint32_t status);
void describe_port(struct text *text, unsigned port);
/* An element on its way to the device, and one in a consumer queue. */
void describe_stored(struct text *text, const struct pdlb_qe *qe);
void describe_scheduled(struct text *text, const struct pdlb_qe *qe);

#endif
