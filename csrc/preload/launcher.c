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
#include "options.h"
#include "program.h"
#include "trace.h"
#include "tree.h"

#define LIBRARY "libpdlb_preload.so"

/* How often what processes left behind when they were killed is put in order. */
#define TICK_MS 100

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
static void start_trace(const char *file, const char *directory) {
  char path[DOOR_PATH_MAX];
  const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0 || realpath(file, path) == NULL) {
    const int error = errno;
    tree_remove(directory);
    die(file, error);
  }
  close(fd);
  setenv(TRACE_ENVIRONMENT, path, 1);
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

/* Domains whose last user was killed, and locks that one held, are put in order although nobody else calls; and the
 * device's watchdogs are told the time. */
static int supervise(double reset_after) {
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
    const double before = seconds_now();
    sigtimedwait(&ended, NULL, &tick);
    const unsigned passed = (unsigned)(1000 * (seconds_now() - before));
    for (unsigned device = 0; self != NULL && device < emulate_num_devices(&self->emulation); device++) {
      emulate_collect(&self->emulation, device);
      emulate_pass_time(&self->emulation, device, passed);
    }
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void add_faults(const struct options *options, const char *directory) {
  for (unsigned i = 0; i < options->num_faults; i++) {
    if (options_add_fault(&door()->emulation, options->faults[i])) continue;
    fprintf(stderr, "pdlb-emulate: no such fault: %s\n", options->faults[i]);
    tree_remove(directory);
    exit(2);
  }
}

/* It is run all the same: what it starts may see the device. */
static void warn_of(const char *program) {
  const char *obstacle = program_obstacle(program);
  if (obstacle == NULL) return;
  fprintf(stderr, "pdlb-emulate: %s will not see the emulated devices: %s\n", program, obstacle);
}

int main(int count, char **arguments) {
  char directory[sizeof((struct door *)0)->directory];
  sigset_t ended, before;
  (void)count;
  const struct options options = options_parse(arguments + 1);
  make_directory(directory, sizeof directory);
  hold_directory(directory);
  sweep(directory);
  const int error = tree_make(directory, options.devices, options.version, options.port_probe);
  if (error != 0) {
    tree_remove(directory);
    die(directory, -error);
  }
  setenv(DOOR_ENVIRONMENT, directory, 1);
  add_faults(&options, directory);
  if (options.trace != NULL) start_trace(options.trace, directory);
  warn_of(options.program[0]);

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
  const int status = child < 0 ? 125 : supervise(options.reset_after);
  tree_remove(directory);
  return status;
}
