/* pdlb-emulate: runs a program that sees /dev/dlb0..N-1; --help says how.
 *
 * Ends as the program ends: with its status, or 128 and the number of the signal that killed it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "door.h"
#include "emulate/describe.h"
#include "trace.h"
#include "tree.h"

#define LIBRARY "libpdlb_preload.so"

/* How often what processes left behind when they were killed is put in order. */
#define TICK_MS 100

struct options {
  uint32_t version;
  unsigned devices;
  unsigned port_probe;
  const char *trace;
  const char *faults[32];
  unsigned num_faults;
  char **program;
};

#define USAGE                                                                                                         \
  "usage: pydlb emulate [--version 2.0|2.5] [--devices N] [--port-probe 0|1|2] [--trace FILE] [--fault FAULT]... -- " \
  "PROGRAM [ARGUMENTS]\n"

static void usage(void) {
  fputs(USAGE, stderr);
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

static struct options parse(char **argument) {
  struct options options = {.version = PDLB_DEVICE_V25, .devices = 1};
  for (; *argument != NULL && argument[0][0] == '-'; argument += 2) {
    char *end = NULL;
    if (strcmp(*argument, "--") == 0) {
      argument++;
      break;
    }
    if (strcmp(*argument, "--help") == 0 || strcmp(*argument, "-h") == 0) help();
    if (argument[1] == NULL) usage();
    if (strcmp(*argument, "--version") == 0 && strcmp(argument[1], "2.0") == 0) {
      options.version = PDLB_DEVICE_V20;
    } else if (strcmp(*argument, "--version") == 0 && strcmp(argument[1], "2.5") == 0) {
      options.version = PDLB_DEVICE_V25;
    } else if (strcmp(*argument, "--devices") == 0) {
      const unsigned long count = strtoul(argument[1], &end, 10);
      if (*end != 0 || count < 1 || count > DOOR_MAX_DEVICES) usage();
      options.devices = (unsigned)count;
    } else if (strcmp(*argument, "--port-probe") == 0) {
      const unsigned long level = strtoul(argument[1], &end, 10);
      if (*end != 0 || end == argument[1] || level > 2) usage();
      options.port_probe = (unsigned)level;
    } else if (strcmp(*argument, "--trace") == 0) {
      options.trace = argument[1];
    } else if (strcmp(*argument, "--fault") == 0 && options.num_faults < 32) {
      options.faults[options.num_faults++] = argument[1];
    } else {
      usage();
    }
  }
  if (*argument == NULL) usage();
  options.program = argument;
  return options;
}

static void die(const char *what, int error) {
  fprintf(stderr, "pdlb-emulate: %s: %s\n", what, strerror(error));
  exit(125);
}

/* Where the state lies: in memory, so that no disk is worn. */
static void make_directory(char *directory, size_t size) {
  const char *parents[] = {getenv("XDG_RUNTIME_DIR"), "/dev/shm", "/tmp"};
  for (size_t i = 0; i < sizeof parents / sizeof parents[0]; i++) {
    if (parents[i] == NULL) continue;
    const int length = snprintf(directory, size, "%s/pdlb-emulated-XXXXXX", parents[i]);
    if (length > 0 && (size_t)length < size && mkdtemp(directory) != NULL) return;
  }
  die("no directory for the device's state", errno);
}

/* Not one that another launcher has just made and does not hold yet. Its program may have outlived a launcher, but not
 * for a day. */
static bool is_old(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && time(NULL) - status.st_mtime > 24 * 60 * 60;
}

/* Held as long as this program lives. */
static void hold_directory(const char *directory) {
  const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) flock(fd, LOCK_SH);
}

/* A launcher that was killed leaves its directory. */
static void sweep(const char *directory) {
  char pattern[DOOR_PATH_MAX];
  glob_t found;
  snprintf(pattern, sizeof pattern, "%.*s*", (int)(strlen(directory) - strlen("XXXXXX")), directory);
  if (glob(pattern, GLOB_NOSORT, NULL, &found) != 0) return;
  for (size_t i = 0; i < found.gl_pathc; i++) {
    const int fd = open(found.gl_pathv[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) continue;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_old(fd)) tree_remove(found.gl_pathv[i]);
    close(fd);
  }
  globfree(&found);
}

/* The library lies beside this program. */
static void preload(void) {
  char self[DOOR_PATH_MAX];
  char value[2 * DOOR_PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  const char *others = getenv("LD_PRELOAD");
  if (length < 0) die("/proc/self/exe", errno);
  self[length] = 0;
  /* What the program preloads comes first: a sanitizer insists on it. */
  snprintf(value, sizeof value, "%s%s%s/" LIBRARY, others == NULL ? "" : others, others == NULL ? "" : ":",
           dirname(self));
  setenv("LD_PRELOAD", value, 1);
}

/* Processes that change their directory write to the same file. */
static void start_trace(const char *file) {
  char path[DOOR_PATH_MAX];
  const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) die(file, errno);
  close(fd);
  if (realpath(file, path) == NULL) die(file, errno);
  setenv(TRACE_ENVIRONMENT, path, 1);
}

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
  if (error == 0 || status < 0) return false;
  for (unsigned number = 0; number < 32; number++) {
    const bool is_device = same(emulate_device_command_name(number), name);
    if (!is_device && !same(emulate_domain_command_name(number), name)) continue;
    return emulate_fail_request(emulation, is_device, number, nth, error, (uint32_t)status) == 0;
  }
  return false;
}

/* Seconds from the program's beginning; negative: never. */
static double reset_after = -1;

static bool add_fault(struct emulation *emulation, const char *text) {
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
  int length = 0;
  if (sscanf(text, "after:%lf:reset%n", &reset_after, &length) == 1 && length > 0 && text[length] == 0) {
    return reset_after >= 0;
  }
  if (sscanf(text, "request:%39[A-Z_]:%u:%23[A-Z0-9]:%47[A-Z_]", name, &nth, error, status) >= 3) {
    return add_request_fault(emulation, name, nth, errno_of(error), status_of(status));
  }
  for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
    int end = 0;
    if (sscanf(text, events[i].format, &nth, &end) == 1 && end > 0 && text[end] == 0) {
      return emulate_fail_event(emulation, events[i].action, nth) == 0;
    }
  }
  return false;
}

static pid_t child;

/* What a terminal sends it sends to the program as well. */
static void forward(int number, siginfo_t *info, void *context) {
  (void)context;
  if (child > 0 && info->si_code != SI_KERNEL) kill(child, number);
}

static void forward_signals(void) {
  static const int forwarded[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGQUIT};
  const struct sigaction action = {.sa_sigaction = forward, .sa_flags = SA_RESTART | SA_SIGINFO};
  for (size_t i = 0; i < sizeof forwarded / sizeof forwarded[0]; i++) sigaction(forwarded[i], &action, NULL);
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void reset_all(struct emulation *emulation) {
  for (unsigned device = 0; device < emulate_num_devices(emulation); device++)
    emulate_function_reset(emulation, device);
}

/* Domains whose last user was killed, and locks that one held, are put in order although nobody else calls. */
static int supervise(void) {
  const struct timespec tick = {0, TICK_MS * 1000000};
  struct door *self = door();
  const double begin = seconds_now();
  sigset_t ended;
  int status;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  for (;;) {
    if (self != NULL && reset_after >= 0 && seconds_now() - begin >= reset_after) {
      reset_all(&self->emulation);
      reset_after = -1;
    }
    const pid_t pid = waitpid(child, &status, WNOHANG);
    if (pid == child) break;
    if (pid < 0 && errno != EINTR) return 125;
    sigtimedwait(&ended, NULL, &tick);
    for (unsigned device = 0; self != NULL && device < emulate_num_devices(&self->emulation); device++) {
      emulate_collect(&self->emulation, device);
    }
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int count, char **arguments) {
  char directory[sizeof((struct door *)0)->directory];
  sigset_t ended, before;
  (void)count;
  const struct options options = parse(arguments + 1);
  make_directory(directory, sizeof directory);
  hold_directory(directory);
  sweep(directory);
  const int error = tree_make(directory, options.devices, options.version, options.port_probe);
  if (error != 0) {
    tree_remove(directory);
    die(directory, -error);
  }
  setenv(DOOR_ENVIRONMENT, directory, 1);
  if (options.trace != NULL) start_trace(options.trace);

  for (unsigned i = 0; i < options.num_faults; i++) {
    if (add_fault(&door()->emulation, options.faults[i])) continue;
    fprintf(stderr, "pdlb-emulate: no such fault: %s\n", options.faults[i]);
    tree_remove(directory);
    return 2;
  }

  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &ended, &before);
  child = fork();
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, NULL);
    preload();
    execvp(options.program[0], options.program);
    fprintf(stderr, "pdlb-emulate: %s: %s\n", options.program[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
  }
  forward_signals();
  const int status = child < 0 ? 125 : supervise();
  tree_remove(directory);
  return status;
}
