/* A domain's alerts: a ring of 256 with indexes of eight bits. */
#include "internal.h"

void raise_alert(struct device *device, unsigned domain, uint64_t id, uint64_t aux) {
  struct alert_ring *ring = &device->alerts[domain];
  /* The driver's test for a full ring forgets that the indexes wrap: it only holds while the read index is 0. At any
   * other time the 256th unread alert makes the ring look empty. */
  if ((int)ring->write - (int)ring->read == (int)PDLB_NUM_ALERTS - 1) return;
  SAVE(device, &ring->alerts[ring->write]);
  SAVE(device, &ring->write);
  ring->alerts[ring->write] = (struct pdlb_domain_alert){id, aux};
  ring->write++;
}

static struct domain *domain_of(struct device *device, unsigned domain, uint64_t serial) {
  struct domain *entry = &device->control.domains[domain];
  return entry->state == DOMAIN_LIVE && entry->serial == serial && entry->valid ? entry : NULL;
}

int emulate_read_alert(struct emulation *emulation, unsigned device_id, unsigned domain, uint64_t serial,
                       struct pdlb_domain_alert *alert, uint32_t *seen) {
  struct device *device = device_of(emulation, device_id);
  struct alert_ring *ring = &device->alerts[domain];
  int result = sizeof *alert;
  emulate_lock(emulation, device_id);
  *seen = atomic_load(&device->alert_bells[domain].changed);
  if (domain_of(device, domain, serial) == NULL) {
    *alert = (struct pdlb_domain_alert){PDLB_ALERT_DEVICE_RESET, 0};
  } else if (ring->read == ring->write) {
    result = -EAGAIN;
  } else {
    journal_begin(device);
    SAVE(device, &ring->read);
    *alert = ring->alerts[ring->read++];
    journal_commit(device);
    journal_end(device);
  }
  emulate_unlock(emulation, device_id);
  return result;
}

static int sleep_on(struct doorbell *bell, uint32_t seen) {
  atomic_fetch_add(&bell->sleepers, 1);
  const int result = futex_wait(&bell->changed, seen, -1);
  atomic_fetch_sub(&bell->sleepers, 1);
  return result == -EINTR ? -EINTR : 0;
}

int emulate_sleep_alert(struct emulation *emulation, unsigned device, unsigned domain, uint32_t seen) {
  return sleep_on(&device_of(emulation, device)->alert_bells[domain], seen);
}

int emulate_sleep(struct emulation *emulation, unsigned device, const struct emulate_wait *wait) {
  return sleep_on(&device_of(emulation, device)->port_bells[wait->port], wait->seen);
}

int emulate_alert(struct emulation *emulation, unsigned device_id, unsigned domain, uint64_t id, uint64_t aux) {
  struct device *device = device_of(emulation, device_id);
  if (domain >= PDLB_NUM_DOMAINS) return -EINVAL;
  emulate_lock(emulation, device_id);
  const bool there = device->control.domains[domain].state == DOMAIN_LIVE && device->control.domains[domain].valid;
  if (there) {
    journal_begin(device);
    raise_alert(device, domain, id, aux);
    journal_commit(device);
    journal_end(device);
    bell_ring(&device->alert_bells[domain]);
  }
  emulate_unlock(emulation, device_id);
  return there ? 0 : -EINVAL;
}

/* ---- the watchdog -------------------------------------------------------------------------------------------- */

/* The driver asks for ten seconds; the device counts in steps that grow with the number of its ports. */
#define MS_PER_PORT 157.3
static uint32_t watchdog_ms(const struct device *device, bool directed) {
  return (uint32_t)(MS_PER_PORT * (directed ? device->control.num_dir_ports : PDLB_NUM_LDB_PORTS));
}

/* It barks once, until the queue is served again. */
static void watch_port(struct device *device, unsigned id, unsigned milliseconds) {
  struct port *port = &device->control.ports[id];
  const uint32_t limit = watchdog_ms(device, port->directed);
  if (port->idle_ms >= limit) return;
  journal_begin(device);
  SAVE(device, port);
  port->idle_ms += milliseconds;
  const bool barks = port->idle_ms >= limit;
  if (barks) raise_alert(device, port->domain, PDLB_ALERT_CQ_WATCHDOG_TIMEOUT, alert_port(id));
  journal_commit(device);
  journal_end(device);
  if (barks) bell_ring(&device->alert_bells[port->domain]);
}

void emulate_pass_time(struct emulation *emulation, unsigned number, unsigned milliseconds) {
  struct device *device = device_of(emulation, number);
  emulate_lock(emulation, number);
  for (unsigned id = 0; id < NUM_PORTS; id++) {
    const struct port *port = &device->control.ports[id];
    if (port->configured && port->tokens > 0) watch_port(device, id, milliseconds);
  }
  emulate_unlock(emulation, number);
}
