#include "shelf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

/* What goes along with a descriptor: always of one size, by which they can be counted. */
struct note {
  uint64_t accepted_at;
  uint32_t listener;
  int32_t family, protocol;
  uint32_t is_proxied;
  struct pdlb_proxied proxied;
};

union control {
  struct cmsghdr header;
  char space[CMSG_SPACE(sizeof(int))];
};

int shelf_open(struct shelf *shelf) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) return -errno;
  *shelf = (struct shelf){.put_fd = ends[0], .take_fd = ends[1]};
  return 0;
}

void shelf_close(struct shelf *shelf) {
  if (shelf->put_fd >= 0) close(shelf->put_fd);
  if (shelf->take_fd >= 0) close(shelf->take_fd);
  shelf->put_fd = shelf->take_fd = -1;
}

int shelf_put(const struct shelf *shelf, const struct pdlb_accepted *accepted) {
  struct note note = {
      .accepted_at = accepted->accepted_at,
      .listener = accepted->listener,
      .family = accepted->family,
      .protocol = accepted->protocol,
      .is_proxied = accepted->proxied != NULL,
  };
  if (accepted->proxied) note.proxied = *accepted->proxied;
  union control control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET}};
  control.header.cmsg_type = SCM_RIGHTS;
  memcpy(CMSG_DATA(&control.header), &accepted->fd, sizeof(int));
  struct iovec part = {.iov_base = &note, .iov_len = sizeof note};
  const struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
  ssize_t sent;
  do sent = sendmsg(shelf->put_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return -errno;
  close(accepted->fd);
  free(accepted->proxied);
  return 0;
}

/* A descriptor for which there is no number would be closed by the kernel. */
static int check_for_room(int take_fd) {
  const int probe = fcntl(take_fd, F_DUPFD_CLOEXEC, 3);
  if (probe < 0) return -errno;
  close(probe);
  return 0;
}

static int read_note(const struct note *note, int fd, struct pdlb_accepted *accepted) {
  struct pdlb_proxied *proxied = note->is_proxied ? malloc(sizeof *proxied) : NULL;
  if (note->is_proxied && !proxied) {
    close(fd);
    return -ECONNABORTED;
  }
  if (proxied) *proxied = note->proxied;
  *accepted = (struct pdlb_accepted){
      .fd = fd,
      .listener = note->listener,
      .family = note->family,
      .protocol = note->protocol,
      .worker = PDLB_NONE,
      .accepted_at = note->accepted_at,
      .proxied = proxied,
  };
  return 0;
}

int shelf_take(int take_fd, struct pdlb_accepted *accepted) {
  struct note note;
  union control control;
  struct iovec part = {.iov_base = &note, .iov_len = sizeof note};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
  const int rc = check_for_room(take_fd);
  if (rc < 0) return rc;
  ssize_t received;
  do received = recvmsg(take_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (received < 0 && errno == EINTR);
  if (received < 0) return -errno;
  if (received == 0) return -EAGAIN; /* the acceptor's process has ended */
  const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (!header || header->cmsg_type != SCM_RIGHTS || received != sizeof note) return -ECONNABORTED;
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return read_note(&note, fd, accepted);
}

uint32_t shelf_count(const struct shelf *shelf) {
  int bytes = 0;
  if (ioctl(shelf->take_fd, SIOCINQ, &bytes) < 0 || bytes < 0) return 0;
  return (uint32_t)((size_t)bytes / sizeof(struct note));
}
