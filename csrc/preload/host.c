#define _GNU_SOURCE
#include "host.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "events.h"
#include "names.h"
#include "system.h"
#include "trace.h"

/* Consumer queues that this process has mapped for the model. Guarded by the device's lock. */
struct memory {
  uint64_t serial;
  void *at;
};
static struct memory memories[DOOR_MAX_DEVICES][PDLB_NUM_LDB_PORTS + PDLB_NUM_DIR_PORTS_V25];

static void *consumer_queue(void *context, unsigned device, unsigned port, uint64_t serial) {
  struct memory *memory = &memories[device][port];
  char path[DOOR_NAME_MAX];
  (void)context;
  if (memory->serial == serial) return memory->at;
  if (memory->at != NULL) sys_munmap(memory->at, PDLB_CQ_SIZE);
  *memory = (struct memory){0, NULL};
  const int fd = sys_open(name_consumer(&the_door, path, device, serial), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return NULL;
  void *at = MAP_FAILED;
  if (sys_ftruncate(fd, PDLB_CQ_SIZE) == 0) {
    at = sys_mmap(NULL, PDLB_CQ_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  sys_close(fd);
  if (at == MAP_FAILED) return NULL;
  *memory = (struct memory){serial, at};
  return at;
}

static bool domain_referenced(void *context, unsigned device, unsigned domain) {
  const struct emulation *emulation = &the_door.emulation;
  char path[DOOR_NAME_MAX];
  bool producer, consumer;
  (void)context;
  if (door_file_is_held(name_domain(&the_door, path, device, emulate_domain_serial(emulation, device, domain)))) {
    return true;
  }
  for (int port = -1; (port = emulate_next_port(emulation, device, domain, port, &producer, &consumer)) >= 0;) {
    const uint64_t serial = emulate_consumer_serial(emulation, device, (unsigned)port);
    if (producer && door_file_is_held(name_producer(&the_door, path, device, serial))) return true;
    if (consumer && door_file_is_held(name_consumer(&the_door, path, device, serial))) return true;
  }
  return false;
}

static void domain_gone(void *context, unsigned device, unsigned domain) {
  const struct emulation *emulation = &the_door.emulation;
  char path[DOOR_NAME_MAX];
  bool producer, consumer;
  (void)context;
  trace_domain_gone(device, domain);
  sys_unlink(name_domain(&the_door, path, device, emulate_domain_serial(emulation, device, domain)));
  for (int port = -1; (port = emulate_next_port(emulation, device, domain, port, &producer, &consumer)) >= 0;) {
    const uint64_t serial = emulate_consumer_serial(emulation, device, (unsigned)port);
    sys_unlink(name_producer(&the_door, path, device, serial));
    sys_unlink(name_consumer(&the_door, path, device, serial));
    events_drop(device, emulate_event_serial(emulation, device, (unsigned)port));
  }
}

static void misuse(void *context, unsigned device, unsigned port, const char *text) {
  (void)context;
  door_misuse(device, port, text);
}

const struct emulation_host door_host = {
    .consumer_queue = consumer_queue,
    .signal_eventfd = events_signal,
    .domain_referenced = domain_referenced,
    .domain_gone = domain_gone,
    .misuse = misuse,
    .stored = trace_stored,
    .scheduled = trace_scheduled,
    .interrupted = trace_interrupted,
};
