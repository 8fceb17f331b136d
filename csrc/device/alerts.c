/* What the driver tells of a domain: read by a thread, for a domain's descriptor cannot be polled, and a reset of the
 * device signals nobody else. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "device.h"

#define SECOND 1000000000
#define REPEAT_NS 50000000

/* The alert by which the thread is told to end: nobody else knows the domain's address. */
static uint64_t last_word(const struct domain *domain) { return (uint64_t)(uintptr_t)domain; }

void domain_gone(struct domain *domain) {
  atomic_store_explicit(&domain->state->gone, true, memory_order_seq_cst);
  if (atomic_exchange_explicit(&domain->told, true, memory_order_seq_cst)) return;
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    struct port *port = atomic_load_explicit(&domain->ports[index], memory_order_acquire);
    if (port) port_signal(port);
  }
}

/* An element was sent for which the device had no credit: it is lost. Its credit is not given back, for the device has
 * one less than was believed. */
static void note_overrun(struct domain *domain) {
  atomic_fetch_add_explicit(&domain->state->lost, 1, memory_order_relaxed);
}

static void note_watchdog(struct domain *domain, uint64_t aux) {
  const uint32_t id = (uint32_t)(aux & 0xFF);
  const uint32_t index = aux & PDLB_ALERT_AUX_LDB ? id : PDLB_NUM_LDB_PORTS + id;
  if (index >= NUM_PORTS) return;
  struct port *port = atomic_load_explicit(&domain->ports[index], memory_order_acquire);
  if (port) atomic_store_explicit(&port->record->stalled, true, memory_order_relaxed);
}

static void *read_alerts(void *argument) {
  struct domain *domain = argument;
  struct device *device = domain->device;
  for (;;) {
    struct pdlb_domain_alert alert;
    const int rc = device->system->read_alert(device->context, domain->fd, &alert);
    if (rc == -EINTR) continue;
    if (rc < 0 || alert.id == PDLB_ALERT_DEVICE_RESET) {
      domain_gone(domain);
      return NULL;
    }
    atomic_fetch_add_explicit(&domain->alerts, 1, memory_order_relaxed);
    if (alert.id == PDLB_ALERT_USER && alert.aux == last_word(domain)) return NULL;
    if (alert.id == PDLB_ALERT_ILLEGAL_ENQUEUE) note_overrun(domain);
    if (alert.id == PDLB_ALERT_CQ_WATCHDOG_TIMEOUT) note_watchdog(domain, alert.aux);
  }
}

/* Signals are for the program's own threads. */
int alerts_start(struct domain *domain, struct pdlb_error *error) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int rc = pthread_create(&domain->alert_thread, NULL, read_alerts, domain);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc != 0) return pdlb_fail(error, rc, "create domain", "no thread to read the domain's alerts: %s", strerror(rc));
  pthread_setname_np(domain->alert_thread, "pdlb-alerts");
  domain->has_alert_thread = true;
  return 0;
}

/* The request may fail, and the driver drops alerts of which there are too many: it is repeated. A domain that is gone
 * refuses it, but its thread has ended. */
void alerts_stop(struct domain *domain) {
  struct device *device = domain->device;
  struct pdlb_enqueue_domain_alert_args args = {.aux_alert_data = last_word(domain)};
  while (domain->has_alert_thread) {
    device->system->request(device->context, domain->fd, (uint32_t)PDLB_IOC_ENQUEUE_DOMAIN_ALERT, &args);
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    time.tv_nsec += REPEAT_NS;
    time.tv_sec += time.tv_nsec / SECOND;
    time.tv_nsec %= SECOND;
    domain->has_alert_thread = pthread_timedjoin_np(domain->alert_thread, NULL, &time) == ETIMEDOUT;
  }
}
