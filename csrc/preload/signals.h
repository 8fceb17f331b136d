/* SIGSEGV and SIGILL are shared with the program: it believes to have them alone. */
#ifndef PDLB_PRELOAD_SIGNALS_H
#define PDLB_PRELOAD_SIGNALS_H

#include <signal.h>
#include <ucontext.h>

/* Put `handler` in front of whatever the program has or will have for the signal, which is one of the two. */
void signals_install(int number, void (*handler)(int, siginfo_t *, void *));
/* A thread that blocks one of them is killed by its first store to a producer port. */
void signals_unblock(void);
/* Do what would have happened without us. */
void signals_chain(int number, siginfo_t *info, ucontext_t *context);

#endif
