/* A listening socket on loopback, and those who connect to it. */
#ifndef PDLB_TESTS_CLIENTS_H
#define PDLB_TESTS_CLIENTS_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* On any free port, whose address it writes. */
static inline int listen_on(struct sockaddr_in *address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof *address;
  CHECK_EQ(bind(fd, (struct sockaddr *)address, size), 0);
  CHECK_EQ(listen(fd, 256), 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)address, &size), 0);
  return fd;
}

/* -1 if it is refused. */
static inline int connect_to(const struct sockaddr_in *address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0) return fd;
  CHECK_EQ(errno, ECONNREFUSED);
  close(fd);
  return -1;
}

/* A client that is closed leaves nothing behind: thousands of them would use up the ports. */
static inline void close_at_once(int fd) {
  const struct linger linger = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(fd);
}

/* At least so many connections, a few at a time, each of which is answered by one letter; how many it were. */
static inline uint64_t ask_all(const struct sockaddr_in *address, uint64_t connections) {
  enum { AT_A_TIME = 16 };
  uint64_t done = 0;
  for (; done < connections; done += AT_A_TIME) {
    int clients[AT_A_TIME];
    for (int i = 0; i < AT_A_TIME; i++) clients[i] = connect_to(address);
    for (int i = 0; i < AT_A_TIME; i++) {
      char answer = 0;
      CHECK_EQ(recv(clients[i], &answer, 1, 0), 1);
      CHECK_EQ(answer, 'x');
      close_at_once(clients[i]);
    }
    check_still_alive();
  }
  return done;
}

#endif
