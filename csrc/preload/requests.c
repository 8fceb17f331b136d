/* What programs ask of the emulated devices through descriptors of theirs: ioctls, alerts, attributes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "events.h"
#include "held.h"
#include "host.h"
#include "names.h"
#include "system.h"
#include "trace.h"

static int make_file(const char *path, size_t size, struct stat *status) {
  const int fd = sys_open(path, O_RDWR | O_CREAT, 0600);
  if (fd < 0) return fd;
  if (sys_ftruncate(fd, (off_t)size) != 0 || door_hold_file(fd) != 0 || sys_fstat(fd, status) != 0) {
    const int saved = errno;
    sys_close(fd);
    errno = saved;
    return -1;
  }
  return fd;
}

static int give_domain(unsigned device, struct pdlb_create_sched_domain_args *args) {
  struct emulation *emulation = &the_door.emulation;
  const unsigned domain = args->response.id;
  char path[DOOR_NAME_MAX];
  struct stat status;
  const int fd =
      make_file(name_domain(&the_door, path, device, emulate_domain_serial(emulation, device, domain)), 0, &status);
  if (fd < 0) {
    const int error = errno;
    emulate_discard_domain(emulation, device, domain);
    args->response.id = 0;
    return -error;
  }
  emulate_name_domain(emulation, device, domain, status.st_ino);
  args->domain_fd = (uint32_t)fd;
  return 0;
}

static int give_memory(unsigned device, unsigned number, struct pdlb_port_args *args) {
  struct emulation *emulation = &the_door.emulation;
  const bool directed = number == PDLB_COMMAND_GET_DIR_PORT_PP_FD || number == PDLB_COMMAND_GET_DIR_PORT_CQ_FD;
  const bool producer = number == PDLB_COMMAND_GET_LDB_PORT_PP_FD || number == PDLB_COMMAND_GET_DIR_PORT_PP_FD;
  const unsigned port = directed ? PDLB_NUM_LDB_PORTS + args->port_id : args->port_id;
  const uint64_t serial = emulate_consumer_serial(emulation, device, port);
  char path[DOOR_NAME_MAX];
  struct stat status;
  const int fd = producer ? make_file(name_producer(&the_door, path, device, serial), PDLB_PP_SIZE, &status)
                          : make_file(name_consumer(&the_door, path, device, serial), PDLB_CQ_SIZE, &status);
  if (fd < 0) return -errno;
  if (producer) {
    emulate_name_producer(emulation, device, port, status.st_ino);
  } else {
    emulate_name_consumer(emulation, device, port, status.st_ino);
  }
  args->response.id = (uint32_t)fd;
  return 0;
}

static int device_command(const struct emulate_object *object, unsigned number, void *args) {
  const int result = emulate_device_command(&the_door.emulation, object->device, number, args);
  return result == 0 && number == PDLB_COMMAND_CREATE_SCHED_DOMAIN ? give_domain(object->device, args) : result;
}

static int block_on_cq(int fd, const struct emulate_object *object, struct pdlb_block_on_cq_interrupt_args *args) {
  struct emulation *emulation = &the_door.emulation;
  struct emulate_wait wait;
  int held = -1;
  int result;
  for (bool first = true;; first = false) {
    struct pdlb_qe entry;
    result = emulate_block(emulation, object->device, object->index, object->serial, args, first, &wait);
    if (result != -EAGAIN) break;
    if (!door_copy_in(&entry, (const void *)(uintptr_t)args->cq_va, sizeof entry)) {
      result = -EFAULT;
      break;
    }
    if ((entry.command & PDLB_QE_GEN) == args->cq_gen) {
      result = 0;
      break;
    }
    if (held < 0) held = held_take(fd);
    if (first && args->arm) emulate_arm(emulation, object->device, object->index, object->serial, &wait);
    result = emulate_sleep(emulation, object->device, &wait);
    if (result != 0) break;
  }
  if (held >= 0) held_let_go(held);
  args->response = (struct pdlb_response){0, 0};
  return result;
}

static int enable_epoll(const struct emulate_object *object, struct pdlb_enable_cq_epoll_args *args) {
  struct emulation *emulation = &the_door.emulation;
  const uint32_t theirs = args->event_fd;
  const unsigned port = args->is_ldb == 1 ? args->port_id : PDLB_NUM_LDB_PORTS + args->port_id;
  const uint32_t limit = args->is_ldb == 1 ? PDLB_NUM_LDB_PORTS : PDLB_NUM_DIR_PORTS_V25;
  const bool mine = args->process_id == emulation->process;
  /* The driver keeps the eventfd whatever becomes of the descriptor: so does a duplicate of ours. */
  const int ours = mine ? sys_fcntl((int)theirs, F_DUPFD_CLOEXEC, 64) : -1;
  if (ours >= 0) args->event_fd = (uint32_t)ours;
  const int result = emulate_domain_command(emulation, object->device, object->index, object->serial,
                                            PDLB_COMMAND_ENABLE_CQ_EPOLL, args);
  args->event_fd = theirs;
  if (ours < 0) return result;
  if (result == 0 && args->port_id < limit) {
    /* Other processes that store to the port fetch it from this one. */
    sys_prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    emulate_lock(emulation, object->device);
    events_add(object->device, emulate_event_serial(emulation, object->device, port), ours);
    emulate_unlock(emulation, object->device);
  } else {
    sys_close(ours);
  }
  return result;
}

static int domain_command(int fd, const struct emulate_object *object, unsigned number, void *args) {
  if (number == PDLB_COMMAND_BLOCK_ON_CQ_INTERRUPT) return block_on_cq(fd, object, args);
  if (number == PDLB_COMMAND_ENABLE_CQ_EPOLL) return enable_epoll(object, args);
  const int result =
      emulate_domain_command(&the_door.emulation, object->device, object->index, object->serial, number, args);
  if (result == 0 && number >= PDLB_COMMAND_GET_LDB_PORT_PP_FD && number <= PDLB_COMMAND_GET_DIR_PORT_CQ_FD) {
    return give_memory(object->device, number, args);
  }
  return result;
}

int door_ioctl(int fd, const struct emulate_object *object, unsigned long request, void *argument) {
  const unsigned number = request & 0xFF;
  const bool is_device = object->kind == EMULATE_DEVICE;
  uint64_t args[PDLB_MAX_ARGS / sizeof(uint64_t)] = {0};
  uint64_t before[PDLB_MAX_ARGS / sizeof(uint64_t)];
  size_t size = 0;
  int result;
  if (is_device) size = emulate_device_command_size(number);
  if (object->kind == EMULATE_DOMAIN) size = emulate_domain_command_size(number);
  if (size == 0) {
    errno = ENOTTY;
    return -1;
  }
  if (!door_copy_in(args, argument, size)) {
    errno = EFAULT;
    return -1;
  }
  memcpy(before, args, sizeof before);
  result = emulate_request_fault(&the_door.emulation, is_device, number, (struct pdlb_response *)args);
  if (result == 0) {
    result = is_device ? device_command(object, number, args) : domain_command(fd, object, number, args);
  }
  if (result == EMULATE_UNTOUCHED) {
    result = -EINVAL;
  } else if (!door_copy_out(argument, args, size)) {
    result = -EFAULT; /* the work is done all the same */
  }
  if (trace_wanted()) trace_request(object, fd, number, before, args, result);
  if (result == 0) return 0;
  errno = -result;
  return -1;
}

/* ---- alerts and attributes ----------------------------------------------------------------------------------- */

ssize_t door_read(int fd, const struct emulate_object *object, void *buffer, size_t size) {
  struct emulation *emulation = &the_door.emulation;
  struct pdlb_domain_alert alert;
  int held = -1;
  int result = -EINVAL;
  while (object->kind == EMULATE_DOMAIN && size == sizeof alert) {
    uint32_t seen;
    result = emulate_read_alert(emulation, object->device, object->index, object->serial, &alert, &seen);
    if (result != -EAGAIN || sys_fcntl(fd, F_GETFL, 0) & O_NONBLOCK) break;
    if (held < 0) held = held_take(fd);
    result = emulate_sleep_alert(emulation, object->device, object->index, seen);
    if (result != 0) break;
  }
  if (held >= 0) held_let_go(held);
  if (result > 0 && !door_copy_out(buffer, &alert, sizeof alert)) result = -EFAULT;
  if (result >= 0) return result;
  errno = -result;
  return -1;
}

static int attribute_text(const struct emulate_object *object, int flags) {
  char text[32];
  const int length = emulate_attribute_read(&the_door.emulation, object->device, object->index, text);
  if (length < 0) {
    errno = -length;
    return -1;
  }
  const int fd = (int)syscall(SYS_memfd_create, "attribute", flags & O_CLOEXEC ? 1u : 0u);
  if (fd < 0) return fd;
  if (sys_write(fd, text, (size_t)length) != length || sys_lseek(fd, 0, SEEK_SET) != 0) {
    sys_close(fd);
    errno = EIO;
    return -1;
  }
  return fd;
}

int door_open_attribute(int fd, const struct emulate_object *object, int flags) {
  door_use_device(object->device);
  if ((flags & O_ACCMODE) != O_RDONLY) return fd;
  sys_close(fd);
  return attribute_text(object, flags);
}
