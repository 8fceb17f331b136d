#define _GNU_SOURCE
#include "trace.h"

#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

#include "emulate/describe.h"
#include "system.h"

#define LINE 2048
#define SHORT_LINE 512 /* on small signal stacks */

static int trace_fd = -1;
static struct stat trace_file;

void trace_open(void) {
  const char *path = getenv(TRACE_ENVIRONMENT);
  if (path == NULL) return;
  const int fd = sys_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return;
  /* Out of the way of programs that count on low numbers. */
  const int high = sys_fcntl(fd, F_DUPFD_CLOEXEC, 64);
  if (high >= 0) sys_close(fd);
  trace_fd = high >= 0 ? high : fd;
  if (sys_fstat(trace_fd, &trace_file) != 0) trace_fd = -1;
}

bool trace_wanted(void) { return trace_fd >= 0; }

bool trace_owns(int fd) { return fd >= 0 && fd == trace_fd; }

/* A program may have closed the descriptor behind our back and opened its own under the number. */
static bool still_ours(void) {
  struct stat now;
  return sys_fstat(trace_fd, &now) == 0 && now.st_dev == trace_file.st_dev && now.st_ino == trace_file.st_ino;
}

static void put_key(struct text *line, const char *name) {
  text_put(line, ",");
  text_put_name(line, name);
  text_put(line, ":");
}

static struct text begin(char *buffer, size_t size, unsigned device) {
  struct text line = text_in(buffer, size);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  text_put(&line, "{\"time\":");
  text_put_unsigned(&line, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
  put_key(&line, "process");
  text_put_number(&line, syscall(SYS_getpid));
  put_key(&line, "thread");
  text_put_number(&line, syscall(SYS_gettid));
  put_key(&line, "device");
  text_put_unsigned(&line, device);
  return line;
}

/* One write to a file opened for appending: lines of several processes do not mix. */
static void finish(struct text *line, const char *buffer) {
  const int saved = errno;
  text_put(line, "}\n");
  if (still_ours() && sys_write(trace_fd, buffer, (size_t)(line->at - buffer)) < 0) errno = saved;
  errno = saved;
}

void trace_opened(unsigned device, int fd) {
  char buffer[SHORT_LINE];
  if (!trace_wanted()) return;
  struct text line = begin(buffer, sizeof buffer, device);
  put_key(&line, "opened");
  text_put_number(&line, fd);
  finish(&line, buffer);
}

void trace_request(const struct emulate_object *object, int fd, unsigned number, const void *before, const void *after,
                   int result) {
  const bool is_device = object->kind == EMULATE_DEVICE;
  const struct pdlb_response *response = after;
  char buffer[LINE];
  struct text line = begin(buffer, sizeof buffer, object->device);
  put_key(&line, "descriptor");
  text_put_number(&line, fd);
  if (!is_device) {
    put_key(&line, "domain");
    text_put_unsigned(&line, object->domain);
  }
  put_key(&line, "request");
  text_put_name(&line, is_device ? emulate_device_command_name(number) : emulate_domain_command_name(number));
  put_key(&line, "arguments");
  describe_arguments(&line, is_device, number, before);
  put_key(&line, "errno");
  text_put_number(&line, -result);
  put_key(&line, "status");
  text_put_name(&line, describe_status(response->status) == NULL ? "UNKNOWN" : describe_status(response->status));
  put_key(&line, "id");
  text_put_unsigned(&line, response->id);
  put_key(&line, "answer");
  describe_arguments(&line, is_device, number, after);
  finish(&line, buffer);
}

void trace_domain_gone(unsigned device, unsigned domain) {
  char buffer[SHORT_LINE];
  if (!trace_wanted()) return;
  struct text line = begin(buffer, SHORT_LINE, device);
  put_key(&line, "domain");
  text_put_unsigned(&line, domain);
  put_key(&line, "event");
  text_put_name(&line, "reset");
  finish(&line, buffer);
}

static struct text begin_port(char *buffer, unsigned device, unsigned port) {
  struct text line = begin(buffer, SHORT_LINE, device);
  put_key(&line, "port");
  describe_port(&line, port);
  return line;
}

void trace_misuse(unsigned device, unsigned port, const char *text) {
  char buffer[SHORT_LINE];
  if (!trace_wanted()) return;
  struct text line = begin_port(buffer, device, port);
  put_key(&line, "misuse");
  text_put_name(&line, text);
  finish(&line, buffer);
}

void trace_stored(void *context, unsigned device, unsigned port, const struct pdlb_qe *qe) {
  char buffer[SHORT_LINE];
  (void)context;
  if (!trace_wanted()) return;
  struct text line = begin_port(buffer, device, port);
  put_key(&line, "stored");
  describe_stored(&line, qe);
  finish(&line, buffer);
}

void trace_scheduled(void *context, unsigned device, unsigned port, uint32_t slot, const struct pdlb_qe *qe) {
  char buffer[SHORT_LINE];
  (void)context;
  if (!trace_wanted()) return;
  struct text line = begin_port(buffer, device, port);
  put_key(&line, "slot");
  text_put_unsigned(&line, slot);
  put_key(&line, "scheduled");
  describe_scheduled(&line, qe);
  finish(&line, buffer);
}

void trace_interrupted(void *context, unsigned device, unsigned port) {
  char buffer[SHORT_LINE];
  (void)context;
  if (!trace_wanted()) return;
  struct text line = begin_port(buffer, device, port);
  put_key(&line, "event");
  text_put_name(&line, "interrupt");
  finish(&line, buffer);
}
