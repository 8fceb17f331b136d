#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend.h"

int pdlb_fail(struct pdlb_error *error, int err, const char *op, const char *format, ...) {
  if (error) {
    memset(error, 0, sizeof *error);
    error->err = err;
    error->op = op;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
  }
  return -err;
}
