/* Processes that share a domain are killed at any instruction; the others go on, and nothing is lost for good.
 *
 * A child sends through an atomic queue and to itself, completes and returns tokens, as fast as it can, until it is
 * killed. The parent then empties what the child left, and finds every credit, token and element accounted for.
 */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "client.h"

#define ROUNDS 150

struct shared {
  struct client client;
  struct client_port port;
  uint32_t queue;
};

/* Send, receive, complete and return tokens for ever. */
static void work(struct shared *shared) {
  struct client_port *port = &shared->port;
  for (uint64_t value = 0;; value += 4) {
    struct pdlb_qe line[4];
    struct pdlb_qe qe;
    for (unsigned i = 0; i < 4; i++) {
      line[i] = (struct pdlb_qe){
          .data = value + i, .qid = (uint8_t)shared->queue, .flow = (uint16_t)i, .command = PDLB_QE_NEW};
    }
    client_store(port, line);
    while (client_receive(port, &qe)) {
      const struct pdlb_qe done[4] = {{.command = PDLB_QE_REL_T}};
      client_store(port, done);
    }
  }
}

static uint32_t depth(const struct shared *shared) {
  struct pdlb_queue_depth_args args = {.queue_id = shared->queue};
  CHECK(ioctl(shared->client.domain, REQUEST(GET_LDB_QUEUE_DEPTH), &args) == 0);
  return args.response.id;
}

static uint64_t reading(const struct shared *shared, uint32_t type, uint32_t id) {
  struct pdlb_xstats_args args = {.xstats_type = type, .xstats_id = id};
  CHECK(ioctl(shared->client.device, REQUEST(GET_XSTATS), &args) == 0);
  return args.xstats_val;
}

/* Complete what the dead child held, until the queue is empty. */
static void empty(const struct shared *shared) {
  for (;;) {
    const uint64_t held = reading(shared, PDLB_XSTAT_CQ_LDB_INFLIGHT_COUNT, shared->port.id);
    if (held == 0 && depth(shared) == 0) break;
    CHECK(held > 0);
    const struct pdlb_qe done[4] = {{.command = PDLB_QE_REL}};
    client_store(&shared->port, done);
    const uint64_t tokens = reading(shared, PDLB_XSTAT_CQ_LDB_DEPTH, shared->port.id);
    if (tokens > 0) client_return_tokens(&shared->port, (unsigned)tokens);
  }
  CHECK(reading(shared, PDLB_XSTAT_QID_LDB_INFLIGHT_COUNT, shared->queue) == 0);
}

static uint32_t alert_count(const struct shared *shared) {
  struct pdlb_domain_alert alert;
  uint32_t count = 0;
  CHECK(fcntl(shared->client.domain, F_SETFL, O_NONBLOCK) == 0);
  while (read(shared->client.domain, &alert, sizeof alert) == sizeof alert) count++;
  return count;
}

static struct shared set_up(void) {
  struct shared shared = {.client = client_open(1, 1, 0)};
  shared.queue = client_ldb_queue(&shared.client, 64);
  shared.port = client_ldb_port(&shared.client, 8, shared.queue);
  client_start(&shared.client);
  return shared;
}

int main(void) {
  const unsigned seed = (unsigned)time(NULL);
  srand(seed);
  for (int round = 0; round < ROUNDS; round++) {
    struct shared shared = set_up();
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) work(&shared);
    /* Long enough for it to be anywhere. */
    const struct timespec pause = {0, 200000 + rand() % 2000000};
    nanosleep(&pause, NULL);
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, NULL, 0) == child);

    empty(&shared);
    if (alert_count(&shared) != 0) {
      fprintf(stderr, "round %d, seed %u: the device complained\n", round, seed);
      return 1;
    }
    /* All credits are back: the whole pool can be spent at once. */
    CHECK(munmap(shared.port.producer, PDLB_PP_SIZE) == 0);
    CHECK(munmap(shared.port.consumer, PDLB_CQ_SIZE) == 0);
    CHECK(close(shared.client.domain) == 0);
    struct pdlb_get_num_resources_args free = {.num_sched_domains = 0};
    CHECK(ioctl(shared.client.device, REQUEST(GET_NUM_RESOURCES), &free) == 0);
    CHECK(free.num_sched_domains == 32 && free.num_hist_list_entries == 2048);
    CHECK(close(shared.client.device) == 0);
  }
  return 0;
}
