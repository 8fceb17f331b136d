/* pdlb-emulate: runs a program that sees /dev/dlb0..N-1.
 *
 *   pdlb-emulate [--version 2.0|2.5] [--devices N] [--trace FILE] -- PROGRAM [ARGUMENTS]
 *
 * Ends as the program ends: with its status, or 128 and the number of the signal that killed it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "door.h"
#include "trace.h"
#include "tree.h"

#define LIBRARY "libpdlb_preload.so"

/* How often what processes left behind when they were killed is put in order. */
#define TICK_MS 100

struct options {
  uint32_t version;
  unsigned devices;
  const char *trace;
  char **program;
};

static void usage(void) {
  fputs("usage: pdlb-emulate [--version 2.0|2.5] [--devices N] [--trace FILE] -- PROGRAM [ARGUMENTS]\n", stderr);
  exit(2);
}

static struct options parse(char **argument) {
  struct options options = {.version = PDLB_DEVICE_V25, .devices = 1};
  for (; *argument != NULL && argument[0][0] == '-'; argument += 2) {
    char *end = NULL;
    if (strcmp(*argument, "--") == 0) {
      argument++;
      break;
    }
    if (argument[1] == NULL) usage();
    if (strcmp(*argument, "--version") == 0 && strcmp(argument[1], "2.0") == 0) {
      options.version = PDLB_DEVICE_V20;
    } else if (strcmp(*argument, "--version") == 0 && strcmp(argument[1], "2.5") == 0) {
      options.version = PDLB_DEVICE_V25;
    } else if (strcmp(*argument, "--devices") == 0) {
      const unsigned long count = strtoul(argument[1], &end, 10);
      if (*end != 0 || count < 1 || count > 16) usage();
      options.devices = (unsigned)count;
    } else if (strcmp(*argument, "--trace") == 0) {
      options.trace = argument[1];
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

/* The library lies beside this program. */
static void preload(void) {
  char self[DOOR_PATH_MAX];
  char value[2 * DOOR_PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  const char *others = getenv("LD_PRELOAD");
  if (length < 0) die("/proc/self/exe", errno);
  self[length] = 0;
  snprintf(value, sizeof value, "%s/" LIBRARY "%s%s", dirname(self), others == NULL ? "" : ":",
           others == NULL ? "" : others);
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

static pid_t child;

static void forward(int number) {
  if (child > 0) kill(child, number);
}

static void forward_signals(void) {
  static const int forwarded[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
  struct sigaction action = {.sa_handler = forward, .sa_flags = SA_RESTART};
  for (size_t i = 0; i < sizeof forwarded / sizeof forwarded[0]; i++) sigaction(forwarded[i], &action, NULL);
  /* The terminal sends these to the program as well. */
  action.sa_handler = SIG_IGN;
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGQUIT, &action, NULL);
}

/* Domains whose last user was killed, and locks that one held, are put in order although nobody else calls. */
static int supervise(void) {
  const struct timespec tick = {0, TICK_MS * 1000000};
  struct door *self = door();
  sigset_t ended;
  int status;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  for (;;) {
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
  const int error = tree_make(directory, options.devices, options.version);
  if (error != 0) {
    tree_remove(directory);
    die(directory, -error);
  }
  setenv(DOOR_ENVIRONMENT, directory, 1);
  if (options.trace != NULL) start_trace(options.trace);

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
