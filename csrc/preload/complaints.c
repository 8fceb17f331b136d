/* What hardware would punish is told to whoever reads standard error. Safe in a signal handler. */
#define _GNU_SOURCE
#include <string.h>

#include "door.h"
#include "system.h"
#include "trace.h"

static size_t put(char *line, size_t at, const char *text) {
  const size_t length = strlen(text);
  memcpy(line + at, text, length);
  return at + length;
}

void door_misuse(unsigned device, unsigned port, const char *text) {
  trace_misuse(device, port, text);
  char line[256];
  char number[4] = {0};
  const unsigned id = port < PDLB_NUM_LDB_PORTS ? port : port - PDLB_NUM_LDB_PORTS;
  const int saved = errno;
  size_t at = put(line, 0, "pdlb emulated device dlb");
  number[0] = (char)('0' + device / 10);
  number[1] = (char)('0' + device % 10);
  at = put(line, at, device < 10 ? number + 1 : number);
  at = put(line, at, port < PDLB_NUM_LDB_PORTS ? ", load-balanced port " : ", directed port ");
  number[0] = (char)('0' + id / 10);
  number[1] = (char)('0' + id % 10);
  at = put(line, at, id < 10 ? number + 1 : number);
  at = put(line, at, ": ");
  at = put(line, at, text);
  at = put(line, at, "\n");
  /* One write, so that lines of several processes do not mix. */
  if (sys_write(STDERR_FILENO, line, at) < 0) errno = saved;
  errno = saved;
}
