/* A producer, workers that sleep on eventfds until there is work, and a collector, in threads and in processes: each
 * element arrives exactly once, whoever carries it, and the device has nothing to complain of.
 *
 * The calls are those of a balancer of connections: credits are counted in software, each worker has a port of depth
 * eight, arms its interrupt, and is woken by an eventfd.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "client.h"

#define WORKERS 4
#define ELEMENTS 20000u

/* In memory that processes share. */
struct shared {
  _Atomic int64_t credits;
  _Atomic uint32_t done;
  _Atomic uint8_t seen[ELEMENTS];
};

static struct shared *shared;
static struct client client;
static uint32_t queue;
static struct client_port producer, worker_ports[WORKERS];
static int events[WORKERS];
static int finished; /* an eventfd: the last element has arrived */

static void take_credit(void) {
  while (atomic_fetch_sub(&shared->credits, 1) <= 0) {
    atomic_fetch_add(&shared->credits, 1);
    usleep(50);
  }
}

static void store_one(const struct client_port *port, const struct pdlb_qe *qe) {
  const struct pdlb_qe line[4] = {*qe};
  client_store(port, line);
}

static void send_elements(unsigned type) {
  for (uint64_t i = 0; i < ELEMENTS; i++) {
    take_credit();
    store_one(&producer, &(struct pdlb_qe){.data = i,
                                           .qid = (uint8_t)queue,
                                           .sched = (uint8_t)type,
                                           .flow = (uint16_t)(i % 7),
                                           .command = PDLB_QE_NEW});
  }
}

/* One look at the queue; the number of elements taken. */
static unsigned serve(struct client_port *port) {
  struct pdlb_qe qe;
  unsigned count = 0;
  while (client_receive(port, &qe)) {
    atomic_fetch_add(&shared->credits, 1);
    CHECK(qe.data < ELEMENTS);
    CHECK(atomic_fetch_add(&shared->seen[qe.data], 1) == 0);
    store_one(port, &(struct pdlb_qe){.command = PDLB_QE_REL_T});
    if (atomic_fetch_add(&shared->done, 1) + 1 == ELEMENTS) CHECK(eventfd_write(finished, 1) == 0);
    count++;
  }
  return count;
}

static void work(int index) {
  struct client_port *port = &worker_ports[index];
  struct pollfd wait = {.fd = events[index], .events = POLLIN};
  struct pdlb_enable_cq_epoll_args args = {
      .port_id = port->id, .process_id = (uint32_t)getpid(), .event_fd = (uint32_t)events[index], .is_ldb = 1};
  CHECK(ioctl(client.domain, REQUEST(ENABLE_CQ_EPOLL), &args) == 0);
  while (atomic_load(&shared->done) < ELEMENTS) {
    eventfd_t count;
    store_one(port, &(struct pdlb_qe){.command = PDLB_QE_ARM});
    if (serve(port) > 0) continue;
    CHECK(poll(&wait, 1, 30000) == 1); /* an interrupt that is lost would be waited for in vain */
    eventfd_read(events[index], &count);
    serve(port);
  }
}

static void *work_in_thread(void *argument) {
  work((int)(intptr_t)argument);
  return NULL;
}

static void run_workers(int processes, unsigned type) {
  pthread_t threads[WORKERS];
  pid_t children[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    if (!processes) {
      CHECK(pthread_create(&threads[i], NULL, work_in_thread, (void *)(intptr_t)i) == 0);
      continue;
    }
    children[i] = fork();
    CHECK(children[i] >= 0);
    if (children[i] != 0) continue;
    work(i);
    _exit(0);
  }
  struct pollfd wait = {.fd = finished, .events = POLLIN};
  send_elements(type);
  CHECK(poll(&wait, 1, 30000) == 1);
  for (int i = 0; i < WORKERS; i++) CHECK(eventfd_write(events[i], 1) == 0);
  for (int i = 0; i < WORKERS; i++) {
    int status = 0;
    if (!processes) {
      CHECK(pthread_join(threads[i], NULL) == 0);
    } else {
      CHECK(waitpid(children[i], &status, 0) == children[i] && status == 0);
    }
  }
}

static void set_up(void) {
  client = client_open(1, WORKERS + 1, 0);
  queue = client_ldb_queue(&client, 64);
  producer = client_ldb_port(&client, 8, queue);
  struct pdlb_unmap_qid_args unmap = {.port_id = producer.id, .qid = queue};
  CHECK(ioctl(client.domain, REQUEST(UNMAP_QID), &unmap) == 0);
  for (int i = 0; i < WORKERS; i++) {
    worker_ports[i] = client_ldb_port(&client, 8, queue);
    events[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  }
  finished = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  client_start(&client);
  memset(shared, 0, sizeof *shared);
  atomic_store(&shared->credits, 256);
}

static void tear_down(void) {
  struct pdlb_domain_alert alert;
  CHECK(fcntl(client.domain, F_SETFL, O_NONBLOCK) == 0);
  CHECK(read(client.domain, &alert, sizeof alert) == -1 && errno == EAGAIN);
  for (int i = 0; i <= WORKERS; i++) {
    struct client_port *port = i < WORKERS ? &worker_ports[i] : &producer;
    CHECK(munmap(port->producer, PDLB_PP_SIZE) == 0 && munmap(port->consumer, PDLB_CQ_SIZE) == 0);
    if (i < WORKERS) CHECK(close(events[i]) == 0);
  }
  CHECK(close(finished) == 0 && close(client.domain) == 0);
  struct pdlb_get_num_resources_args free = {.num_sched_domains = 0};
  CHECK(ioctl(client.device, REQUEST(GET_NUM_RESOURCES), &free) == 0 && free.num_sched_domains == 32);
  CHECK(close(client.device) == 0);
}

int main(void) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  for (int processes = 0; processes < 2; processes++) {
    for (unsigned type = 0; type < 2; type++) {
      set_up();
      run_workers(processes, type);
      CHECK(atomic_load(&shared->done) == ELEMENTS);
      tear_down();
    }
  }
  return 0;
}
