/* Domains shared between processes, and what becomes of them when processes end. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client.h"

static uint32_t free_domains(int device) {
  struct pdlb_get_num_resources_args args = {.num_sched_domains = 0};
  CHECK(ioctl(device, REQUEST(GET_NUM_RESOURCES), &args) == 0);
  return args.num_sched_domains;
}

static void wait_for(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void send_value(const struct client_port *port, uint8_t queue, uint64_t value) {
  const struct pdlb_qe line[4] = {{.data = value, .qid = queue, .sched = 3, .command = PDLB_QE_NEW}};
  client_store(port, line);
}

static void receive_value(struct client_port *port, uint64_t value) {
  struct pdlb_qe qe;
  CHECK(client_receive(port, &qe));
  CHECK(qe.data == value);
  client_return_tokens(port, 1);
}

/* A child inherits descriptors and mappings; the domain lives until both are done. */
static void test_fork(void) {
  struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 8);
  int gate[2];
  CHECK(pipe(gate) == 0);
  client_start(&client);
  CHECK(free_domains(client.device) == 31);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    close(gate[1]);
    CHECK(read(gate[0], &byte, 1) == 0); /* until the parent has closed everything */
    send_value(&port, (uint8_t)port.id, 77);
    receive_value(&port, 77);
    CHECK(free_domains(client.device) == 31);
    _exit(0);
  }
  CHECK(munmap(port.producer, PDLB_PP_SIZE) == 0);
  CHECK(munmap(port.consumer, PDLB_CQ_SIZE) == 0);
  CHECK(close(client.domain) == 0);
  CHECK(free_domains(client.device) == 31);
  close(gate[0]);
  close(gate[1]);
  wait_for(child);
  CHECK(free_domains(client.device) == 32);
  CHECK(close(client.device) == 0);
}

/* A mapping alone keeps the domain. */
static void test_mapping_keeps(void) {
  struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 8);
  client_start(&client);
  CHECK(close(client.domain) == 0);
  CHECK(munmap(port.producer, PDLB_PP_SIZE) == 0);
  CHECK(free_domains(client.device) == 31);
  CHECK(munmap(port.consumer, PDLB_CQ_SIZE) == 0);
  CHECK(free_domains(client.device) == 32);
  CHECK(close(client.device) == 0);
}

static void send_descriptor(int socket, int fd) {
  char byte = ' ';
  struct iovec part = {&byte, 1};
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
  } control = {{0}};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  CHECK(sendmsg(socket, &message, 0) == 1);
}

static int receive_descriptor(int socket) {
  char byte;
  int fd;
  struct iovec part = {&byte, 1};
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
  } control;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  CHECK(recvmsg(socket, &message, 0) == 1);
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

/* A process that never opened the device gets the domain over a socket, and its ports from the domain. */
static void test_passing(void) {
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const pid_t child = fork();
  if (child == 0) {
    struct client client = {.device = -1, .domain = receive_descriptor(pair[1])};
    uint32_t id;
    CHECK(read(pair[1], &id, sizeof id) == sizeof id);
    struct client_port port = {.producer =
                                   client_map(&client, REQUEST(GET_DIR_PORT_PP_FD), id, PDLB_PP_SIZE, PROT_WRITE)};
    send_value(&port, (uint8_t)id, 99);
    _exit(0);
  }
  struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 8);
  client_start(&client);
  send_descriptor(pair[0], client.domain);
  CHECK(write(pair[0], &port.id, sizeof port.id) == sizeof port.id);
  wait_for(child);
  receive_value(&port, 99);
  CHECK(close(client.domain) == 0 && munmap(port.producer, PDLB_PP_SIZE) == 0);
  CHECK(munmap(port.consumer, PDLB_CQ_SIZE) == 0);
  CHECK(free_domains(client.device) == 32);
  CHECK(close(client.device) == 0 && close(pair[0]) == 0 && close(pair[1]) == 0);
}

/* The interrupt comes from another process than the eventfd. */
static void test_eventfd_of_another(void) {
  struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 8);
  int gate[2];
  CHECK(pipe(gate) == 0);
  client_start(&client);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    CHECK(read(gate[0], &byte, 1) == 1);
    send_value(&port, (uint8_t)port.id, 5);
    _exit(0);
  }
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct pdlb_enable_cq_epoll_args args = {
      .port_id = port.id, .process_id = (uint32_t)getpid(), .event_fd = (uint32_t)event};
  CHECK(ioctl(client.domain, REQUEST(ENABLE_CQ_EPOLL), &args) == 0);
  const struct pdlb_qe arm[4] = {{.command = PDLB_QE_ARM}};
  client_store(&port, arm);
  CHECK(write(gate[1], "x", 1) == 1);
  struct pollfd wait = {.fd = event, .events = POLLIN};
  CHECK(poll(&wait, 1, 20000) == 1);
  eventfd_t count;
  CHECK(eventfd_read(event, &count) == 0 && count == 1);
  receive_value(&port, 5);
  wait_for(child);
  CHECK(close(event) == 0 && close(client.domain) == 0 && close(client.device) == 0);
  CHECK(munmap(port.producer, PDLB_PP_SIZE) == 0 && munmap(port.consumer, PDLB_CQ_SIZE) == 0);
}

/* Nobody complains of an interrupt whose listener was killed. */
static void test_eventfd_of_the_dead(void) {
  struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 8);
  client_start(&client);
  const pid_t child = fork();
  if (child == 0) {
    struct pdlb_enable_cq_epoll_args args = {
        .port_id = port.id, .process_id = (uint32_t)getpid(), .event_fd = (uint32_t)eventfd(0, EFD_NONBLOCK)};
    CHECK(ioctl(client.domain, REQUEST(ENABLE_CQ_EPOLL), &args) == 0);
    const struct pdlb_qe arm[4] = {{.command = PDLB_QE_ARM}};
    client_store(&port, arm);
    raise(SIGKILL);
  }
  CHECK(waitpid(child, NULL, 0) == child);
  send_value(&port, (uint8_t)port.id, 6);
  receive_value(&port, 6);
  CHECK(close(client.domain) == 0 && close(client.device) == 0);
  CHECK(munmap(port.producer, PDLB_PP_SIZE) == 0 && munmap(port.consumer, PDLB_CQ_SIZE) == 0);
}

/* ---- threads that sleep in the driver ------------------------------------------------------------------------ */

struct sleeper {
  struct client *client;
  struct client_port *port;
  int result, error;
};

static void *block(void *argument) {
  struct sleeper *sleeper = argument;
  struct pdlb_block_on_cq_interrupt_args args = {
      .port_id = sleeper->port->id,
      .arm = 1,
      .cq_gen = sleeper->port->generation,
      .cq_va = (uint64_t)(uintptr_t)(sleeper->port->consumer + sleeper->port->index * PDLB_CQ_SPARSE_STRIDE),
  };
  sleeper->result = ioctl(sleeper->client->domain, REQUEST(BLOCK_ON_CQ_INTERRUPT), &args);
  sleeper->error = errno;
  return NULL;
}

static void *read_alert(void *argument) {
  struct sleeper *sleeper = argument;
  struct pdlb_domain_alert alert = {0, 0};
  sleeper->result = (int)read(sleeper->client->domain, &alert, sizeof alert);
  sleeper->error = alert.id == PDLB_ALERT_USER ? (int)alert.aux : -1;
  return NULL;
}

static void test_sleepers(void) {
  struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 8);
  struct sleeper sleeper = {.client = &client, .port = &port};
  pthread_t thread;
  client_start(&client);

  CHECK(pthread_create(&thread, NULL, block, &sleeper) == 0);
  send_value(&port, (uint8_t)port.id, 1);
  CHECK(pthread_join(thread, NULL) == 0 && sleeper.result == 0);
  receive_value(&port, 1);

  CHECK(pthread_create(&thread, NULL, block, &sleeper) == 0);
  struct pdlb_port_args disable = {.port_id = port.id};
  CHECK(ioctl(client.domain, REQUEST(DISABLE_DIR_PORT), &disable) == 0);
  CHECK(pthread_join(thread, NULL) == 0 && sleeper.result == -1 && sleeper.error == EACCES);

  CHECK(pthread_create(&thread, NULL, read_alert, &sleeper) == 0);
  struct pdlb_enqueue_domain_alert_args alert = {.aux_alert_data = 42};
  CHECK(ioctl(client.domain, REQUEST(ENQUEUE_DOMAIN_ALERT), &alert) == 0);
  CHECK(pthread_join(thread, NULL) == 0 && sleeper.result == 16 && sleeper.error == 42);

  CHECK(close(client.domain) == 0 && close(client.device) == 0);
  CHECK(munmap(port.producer, PDLB_PP_SIZE) == 0 && munmap(port.consumer, PDLB_CQ_SIZE) == 0);
}

int main(void) {
  test_fork();
  test_mapping_keeps();
  test_passing();
  test_eventfd_of_another();
  test_eventfd_of_the_dead();
  test_sleepers();
  return 0;
}
