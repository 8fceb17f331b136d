#define _GNU_SOURCE
#include "door.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "names.h"
#include "system.h"
#include "trace.h"

static struct door the_door;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic bool ready;

/* ---- descriptors of our own ---------------------------------------------------------------------------------- */

#define MAX_EVENTS 512

/* Eventfds that ports signal, by registration. Guarded by the lock of the entry's device. */
struct event {
  _Atomic uint64_t serial;
  _Atomic int fd; /* -1 once the registration is no more */
};
static struct event events[DOOR_MAX_DEVICES][MAX_EVENTS];

bool door_is_private(int fd) {
  if (fd < 3 || !atomic_load(&ready)) return false;
  if (trace_owns(fd)) return true;
  for (unsigned device = 0; device < sizeof events / sizeof events[0]; device++) {
    for (unsigned i = 0; i < MAX_EVENTS && atomic_load(&events[device][i].serial) != 0; i++) {
      if (atomic_load(&events[device][i].fd) == fd) return true;
    }
  }
  return false;
}

static struct event *find_event(unsigned device, uint64_t serial) {
  for (unsigned i = 0; i < MAX_EVENTS; i++) {
    const uint64_t found = atomic_load(&events[device][i].serial);
    if (found == serial) return &events[device][i];
    if (found == 0) return NULL;
  }
  return NULL;
}

/* An entry for a new registration, in place of one that is no more if there is no other. */
static void add_event(unsigned device, uint64_t serial, int fd) {
  struct event *oldest = &events[device][0];
  for (unsigned i = 0; i < MAX_EVENTS; i++) {
    struct event *event = &events[device][i];
    if (atomic_load(&event->serial) == 0 || atomic_load(&event->fd) < 0) {
      oldest = event;
      break;
    }
    if (atomic_load(&event->serial) < atomic_load(&oldest->serial)) oldest = event;
  }
  if (atomic_load(&oldest->serial) != 0 && atomic_load(&oldest->fd) >= 0) sys_close(atomic_load(&oldest->fd));
  atomic_store(&oldest->fd, fd);
  atomic_store(&oldest->serial, serial);
}

/* The port is no more. The entry stays, for the search ends at the first that was never used. */
static void drop_event(unsigned device, uint64_t serial) {
  struct event *event = serial ? find_event(device, serial) : NULL;
  const int fd = event ? atomic_exchange(&event->fd, -1) : -1;
  if (fd >= 0) sys_close(fd);
}

static int fetch_descriptor(uint32_t process, uint32_t fd) {
  const int pidfd = (int)syscall(SYS_pidfd_open, process, 0);
  if (pidfd < 0) return -errno;
  const int result = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
  const int error = errno;
  sys_close(pidfd);
  return result < 0 ? -error : result;
}

/* ---- what the model asks ------------------------------------------------------------------------------------- */

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

static void signal_eventfd(void *context, unsigned device, unsigned port, uint64_t serial, uint32_t process,
                           uint32_t fd) {
  const struct event *event = find_event(device, serial);
  const uint64_t one = 1;
  const int saved = errno;
  (void)context;
  if (event == NULL) {
    const int fetched = fetch_descriptor(process, fd);
    if (fetched == -ESRCH) { /* it was killed: nobody listens any more */
      errno = saved;
      return;
    }
    if (fetched >= 0) {
      add_event(device, serial, fetched);
      event = find_event(device, serial);
    }
  }
  const int target = event == NULL ? -1 : atomic_load(&event->fd);
  if (event != NULL && target < 0) return; /* the port is no more */
  if (event == NULL || sys_write(target, &one, sizeof one) != sizeof one) {
    door_misuse(device, port, "interrupt for an eventfd that this process cannot reach");
  }
  errno = saved;
}

/* Whether some open file description of the file, in any process, holds its shared lock. */
static bool file_is_held(const char *path) {
  const int fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool held = sys_flock(fd, LOCK_EX | LOCK_NB) != 0;
  sys_close(fd);
  return held;
}

static bool domain_referenced(void *context, unsigned device, unsigned domain) {
  const struct emulation *emulation = &the_door.emulation;
  char path[DOOR_NAME_MAX];
  bool producer, consumer;
  (void)context;
  if (file_is_held(name_domain(&the_door, path, device, emulate_domain_serial(emulation, device, domain)))) {
    return true;
  }
  for (int port = -1; (port = emulate_next_port(emulation, device, domain, port, &producer, &consumer)) >= 0;) {
    const uint64_t serial = emulate_consumer_serial(emulation, device, (unsigned)port);
    if (producer && file_is_held(name_producer(&the_door, path, device, serial))) return true;
    if (consumer && file_is_held(name_consumer(&the_door, path, device, serial))) return true;
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
    drop_event(device, emulate_event_serial(emulation, device, (unsigned)port));
  }
}

static void misuse(void *context, unsigned device, unsigned port, const char *text) {
  (void)context;
  door_misuse(device, port, text);
}

static const struct emulation_host host = {
    .consumer_queue = consumer_queue,
    .signal_eventfd = signal_eventfd,
    .domain_referenced = domain_referenced,
    .domain_gone = domain_gone,
    .misuse = misuse,
    .stored = trace_stored,
    .scheduled = trace_scheduled,
    .interrupted = trace_interrupted,
};

/* ---- opening the door ---------------------------------------------------------------------------------------- */

void *door_real(const char *name) {
  void *function = dlsym(RTLD_NEXT, name);
  if (function == NULL) abort(); /* the program called what its own library does not have */
  return function;
}

/* Duplicates that keep domains alive while threads sleep in them, whoever closes the descriptors meanwhile; 0: none. A
 * kernel keeps no such thing for a child, which has none of the threads. */
#define MAX_HELD 256
static int held_descriptors[MAX_HELD];
static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;

static int hold_descriptor(int fd) {
  int held = -1;
  pthread_mutex_lock(&held_mutex);
  for (unsigned i = 0; i < MAX_HELD && held < 0; i++) {
    if (held_descriptors[i] != 0) continue;
    held = sys_fcntl(fd, F_DUPFD_CLOEXEC, 64);
    if (held < 0) break;
    held_descriptors[i] = held;
  }
  pthread_mutex_unlock(&held_mutex);
  return held;
}

static void let_go(int held) {
  pthread_mutex_lock(&held_mutex);
  for (unsigned i = 0; i < MAX_HELD; i++) {
    if (held_descriptors[i] == held) held_descriptors[i] = 0;
  }
  sys_close(held);
  pthread_mutex_unlock(&held_mutex);
}

static void before_fork(void) { pthread_mutex_lock(&held_mutex); }
static void after_fork(void) { pthread_mutex_unlock(&held_mutex); }

static void after_fork_in_child(void) {
  emulate_forked(&the_door.emulation);
  for (unsigned i = 0; i < MAX_HELD; i++) {
    if (held_descriptors[i] != 0) sys_close(held_descriptors[i]);
    held_descriptors[i] = 0;
  }
  pthread_mutex_unlock(&held_mutex);
}

static void open_door(void) {
  const char *directory = getenv(DOOR_ENVIRONMENT);
  char path[DOOR_NAME_MAX];
  struct stat status;
  if (directory == NULL || strlen(directory) >= sizeof the_door.directory) return;
  the_door.directory_length = strlen(directory);
  memcpy(the_door.directory, directory, the_door.directory_length + 1);
  const int fd = sys_open(name_in_directory(&the_door, path, "/state"), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  if (sys_fstat(fd, &status) == 0) {
    const size_t size = (size_t)status.st_size;
    void *region = sys_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (region != MAP_FAILED && emulate_region_valid(region, size)) {
      the_door.filesystem = status.st_dev;
      emulate_attach(&the_door.emulation, region, &host, NULL);
      pthread_atfork(before_fork, after_fork, after_fork_in_child);
      the_door.open = true;
      trace_open();
    }
  }
  sys_close(fd);
}

static void open_door_once(void) {
  const int saved = errno;
  open_door();
  atomic_store(&ready, true);
  errno = saved;
}

struct door *door(void) {
  if (!atomic_load_explicit(&ready, memory_order_acquire)) {
    /* A sanitizer calls before the C library has found the environment. */
    if (environ == NULL) return NULL;
    /* Some library's constructor is ahead of ours, or it is our own that calls. */
    static _Thread_local bool opening;
    if (opening) return NULL;
    opening = true;
    pthread_once(&once, open_door_once);
    opening = false;
  }
  return the_door.open ? &the_door : NULL;
}

/* ---- recognising descriptors --------------------------------------------------------------------------------- */

struct emulate_object door_object(int fd) {
  struct emulate_object nothing = {EMULATE_NOTHING, 0, 0, 0, 0};
  struct door *self = door();
  struct stat status;
  const int saved = errno;
  if (self == NULL || fd < 0) return nothing;
  const int result = sys_fstat(fd, &status);
  errno = saved;
  if (result != 0 || status.st_dev != self->filesystem || !S_ISREG(status.st_mode)) return nothing;
  return emulate_find(&self->emulation, status.st_ino);
}

void door_disguise(const struct emulate_object *object, struct stat *status) {
  if (object->kind == EMULATE_NOTHING || object->kind == EMULATE_ATTRIBUTE) return;
  status->st_mode = object->kind == EMULATE_DEVICE ? S_IFCHR | 0600 : 0600;
  status->st_rdev = object->kind == EMULATE_DEVICE ? makedev(DOOR_MAJOR, object->index) : 0;
  status->st_size = 0;
  status->st_blocks = 0;
}

/* ---- nodes --------------------------------------------------------------------------------------------------- */

/* Waits only while somebody looks whether the file is held. */
static int hold_file(int fd) {
  int result;
  do {
    result = sys_flock(fd, LOCK_SH);
  } while (result != 0 && errno == EINTR);
  return result;
}

/* Before a descriptor of this process's own holds the device: the model must know whether somebody else does. */
static void use_device(unsigned device) {
  char path[DOOR_NAME_MAX];
  emulate_use(&the_door.emulation, device, file_is_held(name_device(&the_door, path, device)));
}

int door_open_device(unsigned device, int flags) {
  char path[DOOR_NAME_MAX];
  use_device(device);
  const int fd = sys_open(name_device(&the_door, path, device), flags & ~(O_CREAT | O_TRUNC | O_APPEND | O_TMPFILE), 0);
  if (fd < 0) return fd;
  hold_file(fd);
  trace_opened(device, fd);
  return fd;
}

/* ---- commands ------------------------------------------------------------------------------------------------ */

static int make_file(const char *path, size_t size, struct stat *status) {
  const int fd = sys_open(path, O_RDWR | O_CREAT, 0600);
  if (fd < 0) return fd;
  if (sys_ftruncate(fd, (off_t)size) != 0 || hold_file(fd) != 0 || sys_fstat(fd, status) != 0) {
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
    if (held < 0) held = hold_descriptor(fd);
    if (first && args->arm) emulate_arm(emulation, object->device, object->index, object->serial, &wait);
    result = emulate_sleep(emulation, object->device, &wait);
    if (result != 0) break;
  }
  if (held >= 0) let_go(held);
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
    add_event(object->device, emulate_event_serial(emulation, object->device, port), ours);
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
    if (held < 0) held = hold_descriptor(fd);
    result = emulate_sleep_alert(emulation, object->device, object->index, seen);
    if (result != 0) break;
  }
  if (held >= 0) let_go(held);
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
  use_device(object->device);
  if ((flags & O_ACCMODE) != O_RDONLY) return fd;
  sys_close(fd);
  return attribute_text(object, flags);
}
