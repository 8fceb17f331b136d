#include <errno.h>
#include <linux/filter.h>
#include <sys/socket.h>

#include "pdlb_acceptor.h"

#define TCP_FLAGS_AT 13
#define TCP_SYN 0x02
#define DROP 0
#define KEEP 0xFFFFFFFF

/* A filter that drops the segments with which connections begin. Handshakes that have begun go on. */
static int drop_beginnings(int fd) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_AT),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TCP_SYN, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, DROP),
      BPF_STMT(BPF_RET | BPF_K, KEEP),
  };
  const struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

int pdlb_listener_shut(int fd) {
  int family = 0;
  socklen_t size = sizeof family;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) < 0) return -errno;
  /* To stop receiving leaves a UNIX socket its backlog; a TCP one would reset it. */
  const int rc = family == AF_UNIX ? shutdown(fd, SHUT_RD) : drop_beginnings(fd);
  return rc < 0 ? -errno : 0;
}
