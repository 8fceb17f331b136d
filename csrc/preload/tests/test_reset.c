/* A reset of the function while a program uses the device: everything of its domain is dead, every wait ends, and a
 * new domain can be made at once. */
#include <pthread.h>

#include "client.h"

static struct client client;
static struct client_port port;

struct wait {
  int result, error;
  struct pdlb_domain_alert alert;
};

static void *block(void *argument) {
  struct wait *wait = argument;
  struct pdlb_block_on_cq_interrupt_args args = {
      .port_id = port.id, .cq_gen = 1, .cq_va = (uint64_t)(uintptr_t)port.consumer};
  wait->result = ioctl(client.domain, REQUEST(BLOCK_ON_CQ_INTERRUPT), &args);
  wait->error = errno;
  return NULL;
}

static void *read_alert(void *argument) {
  struct wait *wait = argument;
  wait->result = (int)read(client.domain, &wait->alert, sizeof wait->alert);
  return NULL;
}

static void reset(void) {
  const int fd = open("/sys/class/dlb2/dlb0/device/reset", O_WRONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK(write(fd, "1\n", 2) == 2);
  CHECK(close(fd) == 0);
}

static void send_to(const struct client_port *sender, uint32_t queue) {
  const struct pdlb_qe line[4] = {{.data = 1, .qid = (uint8_t)queue, .sched = 3, .command = PDLB_QE_NEW}};
  client_store(sender, line);
}

int main(void) {
  struct wait blocked = {0}, reader = {0};
  pthread_t threads[2];
  client = client_open(1, 1, 1);
  port = client_dir_port(&client, 8);
  client_start(&client);
  CHECK(pthread_create(&threads[0], NULL, block, &blocked) == 0);
  CHECK(pthread_create(&threads[1], NULL, read_alert, &reader) == 0);
  reset();
  CHECK(pthread_join(threads[0], NULL) == 0);
  CHECK(pthread_join(threads[1], NULL) == 0);
  /* The threads may have come to the driver before or after. */
  CHECK(blocked.result == -1 && (blocked.error == EINTR || blocked.error == EINVAL));
  CHECK(reader.result == 16 && reader.alert.id == PDLB_ALERT_DEVICE_RESET);

  /* The response of a dead domain is left as it was. */
  struct pdlb_queue_depth_args depth = {.response = {77, 78}, .queue_id = port.id};
  CHECK(ioctl(client.domain, REQUEST(GET_DIR_QUEUE_DEPTH), &depth) == -1 && errno == EINVAL);
  CHECK(depth.response.status == 77 && depth.response.id == 78);
  CHECK(read(client.domain, &reader.alert, sizeof reader.alert) == 16);

  struct pdlb_get_num_resources_args free = {.num_sched_domains = 0};
  CHECK(ioctl(client.device, REQUEST(GET_NUM_RESOURCES), &free) == 0);
  CHECK(free.num_sched_domains == 32 && free.num_ldb_queues == 32 && free.num_ldb_ports == 64);

  /* A new domain gets the same port; what is stored through the old mapping does not reach it. */
  struct client other = client_open(1, 1, 1);
  struct client_port again = client_dir_port(&other, 8);
  struct pdlb_qe qe;
  client_start(&other);
  CHECK(again.id == port.id);
  send_to(&port, port.id);
  CHECK(!client_receive(&again, &qe));
  send_to(&again, again.id);
  CHECK(client_receive(&again, &qe));

  CHECK(munmap(port.producer, PDLB_PP_SIZE) == 0 && munmap(port.consumer, PDLB_CQ_SIZE) == 0);
  CHECK(close(client.domain) == 0);
  CHECK(ioctl(client.device, REQUEST(GET_NUM_RESOURCES), &free) == 0 && free.num_sched_domains == 31);
  return 0;
}
