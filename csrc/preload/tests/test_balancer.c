/* A balancer of connections in the manner of Envoy's, over the vendor's library: each worker has a port to send what it
 * accepts and one to receive what it is to serve, whose eventfd its event loop watches; one queue lies between them.
 */
#include <sys/epoll.h>

#include "library.h"

#define MOST_WORKERS 32u
#define CONNECTIONS 4096u

struct worker {
  struct library_port *sender, *receiver;
  int event_fd;
  pthread_t thread;
  unsigned number;
};

static struct worker workers[MOST_WORKERS];
static unsigned num_workers;
static uint32_t queue;
static _Atomic unsigned accepted, served;
static _Atomic uint8_t seen[CONNECTIONS];

static void set_up_worker(struct library *library, int domain, struct worker *worker) {
  worker->sender = library_ldb_port(library, domain, 16);
  worker->receiver = library_ldb_port(library, domain, 16);
  library_link(worker->receiver, queue);
  worker->event_fd = eventfd(0, EFD_NONBLOCK);
  library_enable_epoll(worker->receiver, worker->event_fd); /* before the domain is started */
}

static void wake_all(void) {
  for (unsigned i = 0; i < num_workers; i++) CHECK(eventfd_write(workers[i].event_fd, 1) == 0);
}

/* Whose fields beside those that matter are left to chance. */
static void accept_some(struct worker *worker) {
  for (unsigned burst = 0; burst < 3; burst++) {
    const unsigned connection = atomic_fetch_add(&accepted, 1);
    if (connection >= CONNECTIONS) return;
    struct pdlb_qe event;
    memset(&event, (int)(connection * 37), sizeof event);
    event.data = connection;
    event.qid = (uint8_t)queue;
    event.sched = (uint8_t)((event.sched & ~3) | 1);
    while (library_send(worker->sender, 1, &event, PDLB_QE_NEW) == 0) sched_yield();
  }
}

static void serve_some(struct worker *worker) {
  struct pdlb_qe events[32];
  const unsigned count = library_recv(worker->receiver, 32, false, events);
  library_release(worker->receiver, count);
  for (unsigned i = 0; i < count; i++) {
    CHECK(events[i].data < CONNECTIONS && !(events[i].command & PDLB_QE_ERROR));
    CHECK(atomic_fetch_add(&seen[events[i].data], 1) == 0);
    if (atomic_fetch_add(&served, 1) + 1 == CONNECTIONS) wake_all();
  }
}

static void *run_worker(void *argument) {
  struct worker *worker = argument;
  const int loop = epoll_create1(0);
  struct epoll_event interest = {.events = EPOLLIN}, ready;
  CHECK(epoll_ctl(loop, EPOLL_CTL_ADD, worker->event_fd, &interest) == 0);
  while (atomic_load(&served) < CONNECTIONS) {
    accept_some(worker);
    const int count = epoll_wait(loop, &ready, 1, atomic_load(&accepted) < CONNECTIONS ? 0 : 60000);
    CHECK(count > 0 || atomic_load(&accepted) < CONNECTIONS + MOST_WORKERS);
    if (count > 0) serve_some(worker);
  }
  close(loop);
  return NULL;
}

static void balance(unsigned count) {
  num_workers = count;
  atomic_store(&accepted, 0);
  atomic_store(&served, 0);
  memset(seen, 0, sizeof seen);
  struct library *library = library_open(1, 2 * count, 0, 32 * count, true);
  const int domain = library_attach(library);
  queue = library_ldb_queue(domain, 0);
  for (unsigned i = 0; i < count; i++) set_up_worker(library, domain, &workers[i]);
  library_start(library, domain);
  for (unsigned i = 0; i < count; i++) {
    CHECK(pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) == 0);
  }
  for (unsigned i = 0; i < count; i++) CHECK(pthread_join(workers[i].thread, NULL) == 0);
  CHECK(atomic_load(&served) == CONNECTIONS);
  for (unsigned i = 0; i < count; i++) {
    struct library_port *ports[] = {workers[i].sender, workers[i].receiver};
    for (unsigned j = 0; j < 2; j++) {
      library_disable(ports[j]);
      library_detach(ports[j]);
    }
  }
  library_close(library, domain);
  for (unsigned i = 0; i < count; i++) CHECK(close(workers[i].event_fd) == 0);
}

int main(void) {
  for (unsigned count = 1; count <= MOST_WORKERS; count = count < 5 ? count + 1 : 2 * count) balance(count);
  balance(MOST_WORKERS);
  library_direct_stores = true;
  balance(4);
  return 0;
}
