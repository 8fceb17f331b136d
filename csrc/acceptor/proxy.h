/* The PROXY protocol, versions 1 and 2: what a proxy says first on a connection about whom it speaks for. */
#ifndef PDLB_ACCEPTOR_PROXY_H
#define PDLB_ACCEPTOR_PROXY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* What has to be seen of a header to know all that is used of it. The rest of a header of version 2 is skipped. */
#define PROXY_LOOK 232u

struct proxy_header {
  size_t size;           /* bytes of the header, of which those beyond PROXY_LOOK need not have come yet */
  socklen_t client_size; /* 0: it names nobody, the connection's own address counts */
  socklen_t server_size;
  struct sockaddr_storage client; /* who connected to the proxy, and to what */
  struct sockaddr_storage server;
};

enum proxy_finding {
  PROXY_WHOLE = 0,
  PROXY_MORE,   /* so far it is one, and goes on */
  PROXY_NONE,   /* something else */
  PROXY_BROKEN, /* it begins as one and is none */
};

/* Reads the first bytes of a connection, `size` of them up to PROXY_LOOK. */
enum proxy_finding proxy_read(const uint8_t *data, size_t size, struct proxy_header *header);

#endif
