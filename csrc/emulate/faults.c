/* What goes wrong because somebody asked for it. */
#include "internal.h"

static int add(struct emulation *emulation, const struct fault *fault) {
  struct region *region = emulation->region;
  if (region->num_faults == MAX_FAULTS) return -ENOSPC;
  struct fault *room = &region->faults[region->num_faults++];
  room->kind = fault->kind;
  room->number = fault->number;
  room->nth = fault->nth;
  room->error = fault->error;
  room->status = fault->status;
  return 0;
}

int emulate_fail_request(struct emulation *emulation, bool is_device, unsigned number, uint32_t nth, int error,
                         uint32_t status) {
  const struct fault fault = {.kind = is_device ? FAULT_DEVICE_REQUEST : FAULT_DOMAIN_REQUEST,
                              .number = number,
                              .nth = nth,
                              .error = error,
                              .status = status};
  return add(emulation, &fault);
}

static uint32_t kind_of(enum emulate_fault_action action) {
  return action == EMULATE_DROP_STORE || action == EMULATE_RESET_AT_STORE ? FAULT_STORE : FAULT_INTERRUPT;
}

int emulate_fail_event(struct emulation *emulation, enum emulate_fault_action action, uint32_t nth) {
  const struct fault fault = {.kind = kind_of(action), .number = action, .nth = nth};
  return add(emulation, &fault);
}

/* Each fault counts by itself the events that concern it. */
static const struct fault *due(struct region *region, uint32_t kind, uint32_t number) {
  const struct fault *found = NULL;
  for (uint32_t i = 0; i < region->num_faults; i++) {
    struct fault *fault = &region->faults[i];
    if (fault->kind != kind || fault->number != number) continue;
    if (atomic_fetch_add(&fault->count, 1) + 1 == fault->nth) found = fault;
  }
  return found;
}

int emulate_request_fault(struct emulation *emulation, bool is_device, unsigned number,
                          struct pdlb_response *response) {
  const struct fault *fault = due(emulation->region, is_device ? FAULT_DEVICE_REQUEST : FAULT_DOMAIN_REQUEST, number);
  if (fault == NULL) return 0;
  *response = (struct pdlb_response){fault->status, 0};
  return -fault->error;
}

bool fault_now(struct emulation *emulation, enum emulate_fault_action action) {
  if (emulation->region->num_faults == 0) return false;
  return due(emulation->region, kind_of(action), action) != NULL;
}
