/* The emulated device's first door: it answers the device backend's system calls in this process, so that a test has a
 * device of its own and may let anything go wrong with it. */
#ifndef PDLB_INPROCESS_H
#define PDLB_INPROCESS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pdlb_device;
struct pdlb_error;
struct pdlb_resources;
struct pdlb_emulated;

/* `version` as pdlb_device_version has it. -ENOMEM, -EINVAL. */
int pdlb_emulated_create(uint32_t version, bool port_probe, struct pdlb_emulated **emulated);
/* After all that was opened on it was closed. */
void pdlb_emulated_free(struct pdlb_emulated *emulated);

int pdlb_emulated_open(struct pdlb_emulated *emulated, struct pdlb_device **device, struct pdlb_error *error);

/* Leave so much for whoever opens it, as if others had the rest. -ENOSPC if less is left. */
int pdlb_emulated_limit(struct pdlb_emulated *emulated, const struct pdlb_resources *left);

/* ---- what goes wrong ----------------------------------------------------------------------------------------- */

/* The `nth` system call from now fails with -`err` before it is made; for a request the driver's answer has `status`.
 * `call`: the name of a request (CREATE_LDB_PORT), or open, map, event, close_on_exec, read_alert; NULL for any that
 * can fail. -EINVAL: there is no such call. */
int pdlb_emulated_fail(struct pdlb_emulated *emulated, const char *call, uint32_t nth, int err, uint32_t status);
/* System calls made until now. */
uint64_t pdlb_emulated_calls(const struct pdlb_emulated *emulated);
/* How often a port watched the memory of its consumer queue. */
uint64_t pdlb_emulated_watches(const struct pdlb_emulated *emulated);
/* The last call that failed because it was asked to; NULL if none has. */
const char *pdlb_emulated_failed_call(struct pdlb_emulated *emulated);
/* Whether a failure that was asked for is still to come. */
bool pdlb_emulated_failure_waits(struct pdlb_emulated *emulated);

enum pdlb_emulated_event {
  PDLB_EMULATED_DROP_ELEMENT,     /* the nth element stored is lost, as for lack of a credit */
  PDLB_EMULATED_RESET_AT_ELEMENT, /* the function is reset before the nth element */
  PDLB_EMULATED_LOSE_INTERRUPT,   /* the nth interrupt tells nobody */
  PDLB_EMULATED_REPEAT_INTERRUPT, /* it comes twice */
};
int pdlb_emulated_expect(struct pdlb_emulated *emulated, enum pdlb_emulated_event event, uint32_t nth);
/* Reset the function now. */
void pdlb_emulated_reset(struct pdlb_emulated *emulated);
/* The driver tells the domain. -EINVAL: there is no such domain. */
int pdlb_emulated_alert(struct pdlb_emulated *emulated, uint32_t domain, uint64_t id, uint64_t aux);
/* All eventfds of ports are signalled, for nothing. */
void pdlb_emulated_interrupt_all(struct pdlb_emulated *emulated);

/* What hardware would have punished: the `index`th thing since the beginning; NULL if there were no more. Of very many
 * only the first are kept. */
const char *pdlb_emulated_misuse(struct pdlb_emulated *emulated, uint32_t index);

#ifdef __cplusplus
}
#endif
#endif
