/* Traffic generators in the manner of the vendor's: one thread sends, others forward, one receives and checks, through
 * load-balanced or directed queues; receivers poll, sleep in the driver, or watch an eventfd.
 */
#include <sys/epoll.h>

#include "library.h"

#define EVENTS 2000u
#define MOST_FORWARDERS 3u
#define FLOW 0xABCD

enum wait_mode { POLL, INTERRUPT, EPOLL };
static const char *const mode_names[] = {"poll", "interrupt", "epoll"};

static struct setting {
  unsigned type; /* of scheduling; 3: directed */
  enum wait_mode mode;
  unsigned forwarders;
} setting;

/* One that receives: from `port`, whose events go on to `next` if there is one. */
struct stage {
  struct library_port *port;
  uint32_t next;
  int event_fd, loop;
  pthread_t thread;
};

static struct library_port *sender;
static uint32_t first_queue;
static struct stage receiver, forwarders[MOST_FORWARDERS];
static _Atomic bool stopping;

static bool exact_order(void) {
  if (setting.type == 1) return false;
  return setting.forwarders < 2 || setting.type == 2;
}

static void *send_all(void *argument) {
  (void)argument;
  for (uint64_t first = 0; first < EVENTS; first += 4) {
    struct pdlb_qe events[4];
    for (unsigned i = 0; i < 4; i++) {
      events[i] = (struct pdlb_qe){.data = first + i,
                                   .opaque = (uint16_t)((first + i) % 65535),
                                   .qid = (uint8_t)first_queue,
                                   .sched = (uint8_t)setting.type,
                                   .flow = FLOW};
    }
    for (unsigned done = 0; done < 4;) {
      const unsigned sent = library_send(sender, 4 - done, events + done, PDLB_QE_NEW);
      if (sent == 0) sched_yield();
      done += sent;
    }
  }
  return NULL;
}

/* What there is; without anything, wait as the setting says. */
static unsigned receive(struct stage *stage, struct pdlb_qe *events, unsigned most) {
  const unsigned count = library_recv(stage->port, most, setting.mode == INTERRUPT, events);
  if (count > 0) return count;
  if (setting.mode == POLL) sched_yield();
  if (setting.mode == EPOLL) {
    struct epoll_event ready;
    CHECK(epoll_wait(stage->loop, &ready, 1, 60000) >= 0);
  }
  return 0;
}

static void *forward_all(void *argument) {
  struct stage *stage = argument;
  while (!atomic_load(&stopping)) {
    struct pdlb_qe events[4];
    const unsigned count = receive(stage, events, 4);
    for (unsigned i = 0; i < count; i++) events[i].qid = (uint8_t)stage->next;
    for (unsigned done = 0; done < count;) {
      const unsigned sent = library_send(stage->port, count - done, events + done, PDLB_QE_FWD);
      if (sent == 0) sched_yield();
      done += sent;
    }
  }
  return NULL;
}

static void check(const struct pdlb_qe *event, uint64_t nth, uint8_t *seen) {
  CHECK(!(event->command & PDLB_QE_ERROR) && event->data < EVENTS && !seen[event->data]);
  seen[event->data] = 1;
  CHECK(event->opaque == event->data % 65535 && (event->sched & 3) == setting.type);
  if (setting.type != 3) CHECK(event->flow == FLOW);
  if (exact_order()) CHECK(event->data == nth);
}

static void *receive_all(void *argument) {
  static uint8_t seen[EVENTS];
  (void)argument;
  memset(seen, 0, sizeof seen);
  for (uint64_t received = 0; received < EVENTS;) {
    struct pdlb_qe events[4];
    const unsigned count = receive(&receiver, events, 4);
    for (unsigned i = 0; i < count; i++) check(&events[i], received++, seen);
    if (setting.type != 3) library_release(receiver.port, count);
  }
  return NULL;
}

/* ---- setting up ---------------------------------------------------------------------------------------------- */

static void make_stage(struct library *library, int domain, struct stage *stage, uint32_t queue, uint32_t next) {
  stage->port =
      setting.type == 3 ? library_dir_port(library, domain, (int)queue) : library_ldb_port(library, domain, 16);
  if (setting.type != 3) library_link(stage->port, queue);
  if (setting.type == 3) CHECK(stage->port->id == queue);
  stage->next = next;
  if (setting.mode != EPOLL) return;
  struct epoll_event interest = {.events = EPOLLIN};
  stage->event_fd = eventfd(0, EFD_NONBLOCK);
  stage->loop = epoll_create1(0);
  CHECK(epoll_ctl(stage->loop, EPOLL_CTL_ADD, stage->event_fd, &interest) == 0);
  library_enable_epoll(stage->port, stage->event_fd);
}

static uint32_t make_queue(int domain) {
  if (setting.type == 3) return library_dir_queue(domain, -1);
  return library_ldb_queue(domain, setting.type == 2 ? 64 : 0);
}

/* Directed forwarders have each a queue of its own, of which the sender uses the first: with more than one, each goes
 * on to the next. */
static void make_stages(struct library *library, int domain) {
  const uint32_t last = make_queue(domain);
  uint32_t queue = last;
  make_stage(library, domain, &receiver, last, 0);
  if (setting.forwarders > 0 && setting.type != 3) queue = make_queue(domain);
  for (unsigned i = 0; i < setting.forwarders; i++) {
    const uint32_t own = setting.type == 3 ? make_queue(domain) : queue;
    make_stage(library, domain, &forwarders[i], own, setting.type == 3 ? queue : last);
    queue = own;
  }
  first_queue = queue;
  sender = setting.type == 3 ? library_dir_port(library, domain, -1) : library_ldb_port(library, domain, 16);
}

static void end_stage(struct stage *stage) {
  library_disable(stage->port);
  if (setting.mode == EPOLL) CHECK(eventfd_write(stage->event_fd, 1) == 0);
  if (stage != &receiver) CHECK(pthread_join(stage->thread, NULL) == 0);
  library_detach(stage->port);
  if (setting.mode == EPOLL) CHECK(close(stage->loop) == 0 && close(stage->event_fd) == 0);
}

static void generate(struct setting wanted) {
  pthread_t threads[2];
  setting = wanted;
  printf("type %u, %s, %u forwarders\n", wanted.type, mode_names[wanted.mode], wanted.forwarders);
  fflush(stdout);
  atomic_store(&stopping, false);
  const uint32_t ports = 2 + wanted.forwarders;
  const bool directed = wanted.type == 3;
  struct library *library = directed ? library_open(0, 0, ports, 0, false)
                                     : library_open(1 + (wanted.forwarders > 0), ports, 0, ports * 16, true);
  const int domain = library_attach(library);
  make_stages(library, domain);
  library_start(library, domain);
  for (unsigned i = 0; i < wanted.forwarders; i++) {
    CHECK(pthread_create(&forwarders[i].thread, NULL, forward_all, &forwarders[i]) == 0);
  }
  CHECK(pthread_create(&threads[0], NULL, receive_all, NULL) == 0);
  CHECK(pthread_create(&threads[1], NULL, send_all, NULL) == 0);
  for (unsigned i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  atomic_store(&stopping, true);
  for (unsigned i = 0; i < wanted.forwarders; i++) end_stage(&forwarders[i]);
  end_stage(&receiver);
  library_disable(sender);
  library_detach(sender);
  library_close(library, domain);
}

int main(void) {
  static const unsigned counts[] = {0, 1, MOST_FORWARDERS};
  for (int direct = 0; direct < 2; direct++) {
    library_direct_stores = direct;
    for (unsigned type = 0; type < 4; type++) {
      for (unsigned mode = POLL; mode <= EPOLL; mode++) {
        for (unsigned i = 0; i < 3; i++) generate((struct setting){type, (enum wait_mode)mode, counts[i]});
      }
    }
  }
  return 0;
}
