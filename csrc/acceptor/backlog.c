/* How many connections wait in a listener's backlog. TCP says so itself; of UNIX sockets the kernel's socket monitor
 * knows, where there is one; else all that is known is whether there is any. */
#include "backlog.h"

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ask_tcp(int fd, uint32_t *count) {
  struct tcp_info info = {.tcpi_state = TCP_LISTEN};
  socklen_t size = offsetof(struct tcp_info, tcpi_unacked) + sizeof info.tcpi_unacked;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || info.tcpi_state != TCP_LISTEN) return false;
  *count = info.tcpi_unacked; /* of a listening socket, that is what this field says */
  return true;
}

/* The answer about one socket: a header, and attributes. */
static bool read_length(const char *answer, size_t size, uint32_t *count) {
  const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)answer;
  if (size < NLMSG_LENGTH(sizeof(struct unix_diag_msg)) || header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
      header->nlmsg_len > size)
    return false;
  size_t at = NLMSG_LENGTH(sizeof(struct unix_diag_msg));
  while (at + sizeof(struct nlattr) <= header->nlmsg_len) {
    const struct nlattr *attribute = (const struct nlattr *)(const void *)(answer + at);
    if (attribute->nla_len < sizeof *attribute || at + attribute->nla_len > header->nlmsg_len) return false;
    if (attribute->nla_type == UNIX_DIAG_RQLEN &&
        attribute->nla_len >= sizeof *attribute + sizeof(struct unix_diag_rqlen)) {
      struct unix_diag_rqlen length;
      memcpy(&length, attribute + 1, sizeof length);
      *count = length.udiag_rqueue;
      return true;
    }
    at += (size_t)NLA_ALIGN(attribute->nla_len);
  }
  return false;
}

static bool ask_monitor(struct backlog_monitor *monitor, int fd, uint32_t *count) {
  struct stat status;
  if (monitor->fd < 0 || fstat(fd, &status) < 0) return false;
  const struct {
    struct nlmsghdr header;
    struct unix_diag_req request;
  } question = {
      .header = {.nlmsg_len = sizeof question, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
      .request = {.sdiag_family = AF_UNIX,
                  .udiag_states = UINT32_MAX,
                  .udiag_ino = (uint32_t)status.st_ino,
                  .udiag_show = UDIAG_SHOW_RQLEN,
                  .udiag_cookie = {UINT32_MAX, UINT32_MAX}}, /* whatever its cookie is */
  };
  _Alignas(struct nlmsghdr) char answer[512];
  if (send(monitor->fd, &question, sizeof question, MSG_DONTWAIT) < 0) return false;
  const ssize_t size = recv(monitor->fd, answer, sizeof answer, MSG_DONTWAIT);
  return size > 0 && read_length(answer, (size_t)size, count);
}

void backlog_monitor_open(struct backlog_monitor *monitor) {
  monitor->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
}

void backlog_monitor_close(struct backlog_monitor *monitor) {
  if (monitor->fd >= 0) close(monitor->fd);
  monitor->fd = -1;
}

uint32_t backlog_of(struct backlog_monitor *monitor, const struct listener *listener, bool *exact) {
  uint32_t count = 0;
  if (listener->family != AF_UNIX) {
    *exact = ask_tcp(listener->fd, &count);
    if (*exact) return count;
  }
  struct pollfd state = {.fd = listener->fd, .events = POLLIN};
  const bool any = poll(&state, 1, 0) == 1;
  /* One that was shut down is readable for ever. */
  *exact = listener->family == AF_UNIX && any && ask_monitor(monitor, listener->fd, &count);
  /* One at a time, then: more would be taken by whoever is quickest. */
  return *exact ? count : any;
}
