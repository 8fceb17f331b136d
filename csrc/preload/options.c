#define _GNU_SOURCE
#include "options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "door.h"
#include "emulate/describe.h"

#define USAGE                                                                                                         \
  "usage: pydlb emulate [--version 2.0|2.5] [--devices N] [--port-probe 0|1|2] [--trace FILE] [--fault FAULT]... -- " \
  "PROGRAM [ARGUMENTS]\n"

__attribute__((noreturn, format(printf, 1, 2))) static void refuse(const char *format, ...) {
  va_list list;
  fputs("pdlb-emulate: ", stderr);
  va_start(list, format);
  vfprintf(stderr, format, list);
  va_end(list);
  fputs("\n" USAGE, stderr);
  exit(2);
}

static void help(void) {
  fputs(
      USAGE
      "\n"
      "Run a program, and its children, that see emulated DLB devices as /dev/dlb0 and so on, with their attributes\n"
      "below /sys/class/dlb2.\n"
      "\n"
      "  --version 2.0|2.5  of all devices; 2.5 if not given\n"
      "  --devices N        how many, 1 to 16\n"
      "  --port-probe 0|1|2 the driver's module parameter of this name; 0 if not given\n"
      "  --trace FILE       write every request and every queue element down, one JSON object a line\n"
      "  --fault FAULT      let something go wrong; may be given 32 times\n"
      "\n"
      "faults, each once, at the Nth of its events over all processes:\n"
      "  request:NAME:N:ERRNO[:STATUS]  the request fails, as request:CREATE_LDB_PORT:2:EINVAL:LDB_PORTS_UNAVAILABLE\n"
      "  store:N:drop                   an element is lost at the producer port, as for lack of a credit\n"
      "  store:N:reset                  the device is reset\n"
      "  interrupt:N:lose               an armed interrupt tells nobody\n"
      "  interrupt:N:repeat             it comes twice\n"
      "  after:SECONDS:reset            all devices are reset so long after the program has begun\n"
      "\n"
      "A program resets a device itself by writing 1 to /sys/class/dlb2/dlbN/device/reset.\n"
      "\n"
      "Misuse that hardware would punish is reported on stderr. The exit status is the program's, or 128 and the\n"
      "number of the signal that ended it.\n",
      stdout);
  exit(0);
}

/* ---- faults -------------------------------------------------------------------------------------------------- */

static int errno_of(const char *name) {
  for (int number = 1; number < 134; number++) {
    const char *known = strerrorname_np(number);
    if (known != NULL && strcmp(known, name) == 0) return number;
  }
  return 0;
}

/* -1: there is no such status. */
static int status_of(const char *name) {
  for (int status = 0; status < PDLB_STATUS_COUNT; status++) {
    if (strcmp(describe_status((uint32_t)status), name) == 0) return status;
  }
  return -1;
}

static bool same(const char *known, const char *name) { return known != NULL && strcmp(known, name) == 0; }

static bool add_request_fault(struct emulation *emulation, const char *name, unsigned nth, int error, int status) {
  if (nth == 0 || error == 0 || status < 0) return false;
  for (unsigned number = 0; number < 32; number++) {
    const bool is_device = same(emulate_device_command_name(number), name);
    if (!is_device && !same(emulate_domain_command_name(number), name)) continue;
    return emulate_fail_request(emulation, is_device, number, nth, error, (uint32_t)status) == 0;
  }
  return false;
}

static bool is_reset_after(const char *text, double *seconds) {
  int length = 0;
  return sscanf(text, "after:%lf:reset%n", seconds, &length) == 1 && length > 0 && text[length] == 0 && *seconds >= 0;
}

static bool is_request(const char *text, char name[40], unsigned *nth, char error[24], char status[48]) {
  int length = 0;
  if (sscanf(text, "request:%39[A-Z_]:%u:%23[A-Z0-9]%n", name, nth, error, &length) < 3) return false;
  text += length;
  length = 0;
  if (*text == 0) return true;
  return sscanf(text, ":%47[A-Z_]%n", status, &length) == 1 && text[length] == 0;
}

bool options_add_fault(struct emulation *emulation, const char *text) {
  static const struct {
    const char *format;
    enum emulate_fault_action action;
  } events[] = {
      {"store:%u:drop%n", EMULATE_DROP_STORE},
      {"store:%u:reset%n", EMULATE_RESET_AT_STORE},
      {"interrupt:%u:lose%n", EMULATE_LOSE_INTERRUPT},
      {"interrupt:%u:repeat%n", EMULATE_REPEAT_INTERRUPT},
  };
  char name[40], error[24], status[48] = "SUCCESS";
  unsigned nth = 0;
  if (is_request(text, name, &nth, error, status)) {
    return add_request_fault(emulation, name, nth, errno_of(error), status_of(status));
  }
  for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
    int end = 0;
    if (sscanf(text, events[i].format, &nth, &end) == 1 && end > 0 && text[end] == 0) {
      return nth > 0 && emulate_fail_event(emulation, events[i].action, nth) == 0;
    }
  }
  return false;
}

/* ---- options ------------------------------------------------------------------------------------------------- */

static unsigned number_of(const char *option, const char *value, unsigned from, unsigned to) {
  char *end;
  const unsigned long number = strtoul(value, &end, 10);
  if (end == value || *end != 0 || number < from || number > to) {
    refuse("%s is '%s': it is a number from %u to %u", option, value, from, to);
  }
  return (unsigned)number;
}

static void set(struct options *options, const char *option, const char *value) {
  if (strcmp(option, "--version") == 0) {
    options->version = strcmp(value, "2.0") == 0 ? PDLB_DEVICE_V20 : PDLB_DEVICE_V25;
    if (strcmp(value, "2.0") != 0 && strcmp(value, "2.5") != 0) refuse("--version is '%s': it is 2.0 or 2.5", value);
  } else if (strcmp(option, "--devices") == 0) {
    options->devices = number_of(option, value, 1, DOOR_MAX_DEVICES);
  } else if (strcmp(option, "--port-probe") == 0) {
    options->port_probe = number_of(option, value, 0, 2);
  } else if (strcmp(option, "--trace") == 0) {
    options->trace = value;
  } else if (strcmp(option, "--fault") == 0) {
    if (is_reset_after(value, &options->reset_after)) return;
    if (options->num_faults == OPTIONS_MAX_FAULTS) refuse("there are more than %d faults", OPTIONS_MAX_FAULTS);
    options->faults[options->num_faults++] = value;
  } else {
    refuse("there is no option %s", option);
  }
}

struct options options_parse(char **argument) {
  struct options options = {.version = PDLB_DEVICE_V25, .devices = 1, .reset_after = -1};
  for (; *argument != NULL && argument[0][0] == '-'; argument++) {
    if (strcmp(*argument, "--") == 0) {
      argument++;
      break;
    }
    if (strcmp(*argument, "--help") == 0 || strcmp(*argument, "-h") == 0) help();
    char *value = strchr(*argument, '=');
    if (value != NULL) {
      *value++ = 0;
      set(&options, *argument, value);
      continue;
    }
    if (argument[1] == NULL) refuse("%s has no value", *argument);
    set(&options, argument[0], argument[1]);
    argument++;
  }
  if (*argument == NULL) refuse("no program is given");
  options.program = argument;
  return options;
}
