/* A program that has its own idea of SIGSEGV, and the emulation's under it. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include "client.h"

static struct client_port port;
static uint64_t next_sent = 1;
static uint64_t next_received = 1;

static void send_one(void) {
  const struct pdlb_qe line[4] = {{.data = next_sent++, .qid = (uint8_t)port.id, .sched = 3, .command = PDLB_QE_NEW}};
  client_store(&port, line);
}

static void receive_one(void) {
  struct pdlb_qe qe;
  CHECK(client_receive(&port, &qe));
  CHECK(qe.data == next_received++);
  client_return_tokens(&port, 1);
}

/* An address that is never mapped; in a variable, for compilers that would object. */
static volatile char *volatile nowhere = (volatile char *)0x10;

static sigjmp_buf resume;
static volatile sig_atomic_t faults;
static void *volatile fault_address;

static void on_fault(int number, siginfo_t *info, void *context) {
  (void)context;
  CHECK(number == SIGSEGV);
  fault_address = info->si_addr;
  faults++;
  send_one(); /* a handler may store, too */
  siglongjmp(resume, 1);
}

static void plain_handler(int number) {
  CHECK(number == SIGSEGV);
  faults++;
  siglongjmp(resume, 1);
}

static void fault_at(volatile char *address) {
  if (sigsetjmp(resume, 1) == 0) *address = 1;
}

static void test_own_handler(void) {
  struct sigaction action = {.sa_flags = SA_SIGINFO}, old;
  action.sa_sigaction = on_fault;
  CHECK(sigaction(SIGSEGV, &action, &old) == 0);
  CHECK(old.sa_handler == SIG_DFL);
  send_one();
  receive_one();
  CHECK(faults == 0);
  fault_at(nowhere);
  CHECK(faults == 1 && fault_address == nowhere);
  receive_one();
  CHECK(sigaction(SIGSEGV, NULL, &old) == 0);
  CHECK(old.sa_sigaction == on_fault && old.sa_flags & SA_SIGINFO);
}

static void test_signal_function(void) {
  faults = 0;
  signal(SIGSEGV, plain_handler);
  send_one();
  receive_one();
  fault_at(nowhere);
  CHECK(faults == 1);
  CHECK(signal(SIGSEGV, SIG_DFL) == plain_handler);
}

static void test_reset_after_one(void) {
  struct sigaction action = {.sa_flags = (int)SA_RESETHAND}, old;
  action.sa_handler = plain_handler;
  faults = 0;
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  fault_at(nowhere);
  CHECK(faults == 1);
  CHECK(sigaction(SIGSEGV, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
}

/* What the program does not handle kills it. */
static void test_default_action(int way) {
  int status;
  const pid_t child = fork();
  if (child == 0) {
    if (way == 0) *nowhere = 1;
    if (way == 1) raise(SIGSEGV);
    if (way == 2) (void)*(volatile char *)port.producer; /* a port cannot be read */
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void test_blocked_signals(void) {
  sigset_t all, before, now;
  sigfillset(&all);
  CHECK(sigprocmask(SIG_BLOCK, &all, &before) == 0);
  send_one();
  receive_one();
  CHECK(sigprocmask(SIG_SETMASK, &before, &now) == 0);
  CHECK(sigismember(&now, SIGTERM) == 1);
}

static void *blocked_thread(void *argument) {
  sigset_t all;
  (void)argument;
  sigfillset(&all);
  CHECK(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
  send_one();
  return NULL;
}

static void test_thread(void) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, blocked_thread, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  receive_one();
}

static void on_alarm(int number) {
  (void)number;
  send_one();
}

/* A handler of another signal, which blocks all signals, stores. */
static void test_other_handler(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  sigfillset(&action.sa_mask);
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  raise(SIGUSR1);
  receive_one();
}

static void test_alternate_stack(void) {
  /* As small as programs make them. */
  const size_t size = (size_t)sysconf(_SC_SIGSTKSZ);
  const stack_t stack = {.ss_sp = malloc(size), .ss_size = size};
  const stack_t none = {.ss_flags = SS_DISABLE};
  CHECK(sigaltstack(&stack, NULL) == 0);
  send_one();
  receive_one();
  CHECK(sigaltstack(&none, NULL) == 0);
  free(stack.ss_sp);
}

int main(void) {
  const struct client client = client_open(0, 0, 1);
  port = client_dir_port(&client, 8);
  client_start(&client);
  test_own_handler();
  test_signal_function();
  test_reset_after_one();
  for (int way = 0; way < 3; way++) test_default_action(way);
  test_blocked_signals();
  test_thread();
  test_other_handler();
  test_alternate_stack();
  return 0;
}
