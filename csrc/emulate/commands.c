/* From a request to its command: sizes, names, and the step that surrounds each. */
#include "internal.h"

struct command {
  size_t size;
  const char *name;
};

static const struct command device_commands[] = {
#define ENTRY(number, name, direction, size, type) [number] = {size, #name},
    PDLB_DEVICE_COMMAND_LIST(ENTRY)};
static const struct command domain_commands[] = {PDLB_DOMAIN_COMMAND_LIST(ENTRY)};
#undef ENTRY

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

size_t emulate_device_command_size(unsigned number) {
  return number < COUNT(device_commands) ? device_commands[number].size : 0;
}

size_t emulate_domain_command_size(unsigned number) {
  return number < COUNT(domain_commands) ? domain_commands[number].size : 0;
}

const char *emulate_device_command_name(unsigned number) {
  return number < COUNT(device_commands) ? device_commands[number].name : NULL;
}

const char *emulate_domain_command_name(unsigned number) {
  return number < COUNT(domain_commands) ? domain_commands[number].name : NULL;
}

int emulate_device_command(struct emulation *emulation, unsigned number, unsigned command, void *args) {
  struct device *device = device_of(emulation, number);
  /* A process that was killed may have left domains to which nothing refers. */
  if (command != PDLB_COMMAND_GET_DEVICE_VERSION) emulate_collect(emulation, number);
  emulate_lock(emulation, number);
  memset(args, 0, sizeof(struct pdlb_response));
  journal_begin(device);
  SAVE(device, &device->control);
  const int result = device_command(device, command, args);
  if (result == 0 && command == PDLB_COMMAND_CREATE_SCHED_DOMAIN) {
    struct domain *domain = &device->control.domains[((struct pdlb_response *)args)->id];
    domain->maker = emulation->process;
    domain->maker_started = emulation->started;
  }
  journal_commit(device);
  journal_end(device);
  emulate_unlock(emulation, number);
  return result;
}

int emulate_domain_command(struct emulation *emulation, unsigned number, unsigned id, uint64_t serial, unsigned command,
                           void *args) {
  struct device *device = device_of(emulation, number);
  const struct domain *domain = &device->control.domains[id];
  struct aftermath after = {.bell = -1};
  emulate_lock(emulation, number);
  if (domain->state != DOMAIN_LIVE || domain->serial != serial || !domain->valid) {
    emulate_unlock(emulation, number);
    return EMULATE_UNTOUCHED;
  }
  memset(args, 0, sizeof(struct pdlb_response));
  journal_begin(device);
  SAVE(device, &device->control);
  const int result = domain_command(device, id, command, args, &after);
  journal_commit(device);
  journal_end(device);
  if (after.drain) drain_ports(emulation, device, id);
  if (after.pump) pump_domain(emulation, device, id);
  if (after.bell >= 0) bell_ring(&device->port_bells[after.bell]);
  if (after.alert) bell_ring(&device->alert_bells[id]);
  emulate_unlock(emulation, number);
  return result;
}

/* With the device locked. */
static int look(struct device *device, unsigned id, const struct pdlb_block_on_cq_interrupt_args *args,
                struct emulate_wait *wait) {
  const unsigned limit = args->is_ldb ? PDLB_NUM_LDB_PORTS : device->control.num_dir_ports;
  if (args->port_id >= limit) return -EINVAL;
  const unsigned port_id = args->is_ldb ? args->port_id : PDLB_NUM_LDB_PORTS + args->port_id;
  const struct port *port = &device->control.ports[port_id];
  if (!port->configured || !port->interrupt_configured || port->domain != id) return -EPERM;
  if (!port->enabled) return -EACCES;
  wait->port = port_id;
  wait->seen = atomic_load(&device->port_bells[port_id].changed);
  return -EAGAIN;
}

int emulate_block(struct emulation *emulation, unsigned number, unsigned id, uint64_t serial,
                  const struct pdlb_block_on_cq_interrupt_args *args, bool first, struct emulate_wait *wait) {
  struct device *device = device_of(emulation, number);
  const struct domain *domain = &device->control.domains[id];
  int result;
  emulate_lock(emulation, number);
  if (domain->state != DOMAIN_LIVE || domain->serial != serial || !domain->valid) {
    result = first ? EMULATE_UNTOUCHED : -EINTR;
  } else {
    result = look(device, id, args, wait);
  }
  emulate_unlock(emulation, number);
  return result;
}

void emulate_arm(struct emulation *emulation, unsigned number, unsigned id, uint64_t serial,
                 const struct emulate_wait *wait) {
  struct device *device = device_of(emulation, number);
  const struct domain *domain = &device->control.domains[id];
  emulate_lock(emulation, number);
  if (domain->state == DOMAIN_LIVE && domain->serial == serial) arm_interrupt(emulation, device, wait->port);
  emulate_unlock(emulation, number);
}
