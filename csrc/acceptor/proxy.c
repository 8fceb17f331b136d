#include "proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

/* ---- version 1: a line of text ----------------------------------------------------------------------------------- */

#define LONGEST_LINE 107u /* with its end */
#define V1_START "PROXY "
#define V1_START_SIZE 6u

/* The next word, which ends at a space or at the end of the line; NULL if there is none, or it is too long. */
static const char *next_word(const char **at, const char *end, char word[INET6_ADDRSTRLEN]) {
  size_t size = 0;
  while (*at < end && **at != ' ') {
    if (size + 1 >= INET6_ADDRSTRLEN) return NULL;
    word[size++] = *(*at)++;
  }
  if (size == 0) return NULL;
  word[size] = 0;
  if (*at < end) (*at)++;
  return word;
}

static int port_of(const char *word) {
  int port = 0;
  if (word[0] == '0' && word[1]) return -1;
  for (; *word; word++) {
    if (*word < '0' || *word > '9') return -1;
    port = 10 * port + (*word - '0');
    if (port > 65535) return -1;
  }
  return port;
}

static socklen_t address_of(int family, const char *text, int port, struct sockaddr_storage *address) {
  memset(address, 0, sizeof *address);
  if (family == AF_INET) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, text, &in.sin_addr) != 1) return 0;
    memcpy(address, &in, sizeof in);
    return sizeof in;
  }
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET6, text, &in6.sin6_addr) != 1) return 0;
  memcpy(address, &in6, sizeof in6);
  return sizeof in6;
}

static enum proxy_finding read_line(const char *at, const char *end, struct proxy_header *header) {
  char family[INET6_ADDRSTRLEN], words[4][INET6_ADDRSTRLEN];
  if (!next_word(&at, end, family)) return PROXY_BROKEN;
  if (strcmp(family, "UNKNOWN") == 0) return PROXY_WHOLE; /* whatever else the line says */
  const int kind = strcmp(family, "TCP4") == 0 ? AF_INET : strcmp(family, "TCP6") == 0 ? AF_INET6 : AF_UNSPEC;
  if (kind == AF_UNSPEC) return PROXY_BROKEN;
  for (int i = 0; i < 4; i++)
    if (!next_word(&at, end, words[i])) return PROXY_BROKEN;
  const int client_port = port_of(words[2]), server_port = port_of(words[3]);
  if (at != end || end[-1] == ' ' || client_port < 0 || server_port < 0) return PROXY_BROKEN;
  header->client_size = address_of(kind, words[0], client_port, &header->client);
  header->server_size = address_of(kind, words[1], server_port, &header->server);
  return header->client_size && header->server_size ? PROXY_WHOLE : PROXY_BROKEN;
}

static enum proxy_finding read_v1(const uint8_t *data, size_t size, struct proxy_header *header) {
  const size_t seen = size < LONGEST_LINE ? size : LONGEST_LINE;
  const uint8_t *end = memchr(data, '\r', seen);
  if (!end || (size_t)(end - data) + 1 == seen) return size < LONGEST_LINE ? PROXY_MORE : PROXY_BROKEN;
  if (end[1] != '\n' || memchr(data, 0, (size_t)(end - data))) return PROXY_BROKEN;
  header->size = (size_t)(end - data) + 2;
  return read_line((const char *)data + V1_START_SIZE, (const char *)end, header);
}

/* ---- version 2: binary ------------------------------------------------------------------------------------------- */

static const uint8_t v2_start[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

#define V2_FIXED 16u
#define V2_LOCAL 0x20u
#define V2_PROXY 0x21u
#define V2_PATH 108u

/* By family, in the high half of the byte, for streams: the bytes of both addresses. */
static size_t addresses_size(uint8_t family) {
  switch (family) {
    case 0x11: return 2 * (4 + 2);
    case 0x21: return 2 * (16 + 2);
    case 0x31: return 2 * V2_PATH;
    default: return 0; /* datagrams, and what is unspecified: it names nobody */
  }
}

static void copy_inet(const uint8_t *at, struct proxy_header *header) {
  struct sockaddr_in client = {.sin_family = AF_INET}, server = client;
  memcpy(&client.sin_addr, at, 4);
  memcpy(&server.sin_addr, at + 4, 4);
  memcpy(&client.sin_port, at + 8, 2);
  memcpy(&server.sin_port, at + 10, 2);
  memcpy(&header->client, &client, header->client_size = sizeof client);
  memcpy(&header->server, &server, header->server_size = sizeof server);
}

static void copy_inet6(const uint8_t *at, struct proxy_header *header) {
  struct sockaddr_in6 client = {.sin6_family = AF_INET6}, server = client;
  memcpy(&client.sin6_addr, at, 16);
  memcpy(&server.sin6_addr, at + 16, 16);
  memcpy(&client.sin6_port, at + 32, 2);
  memcpy(&server.sin6_port, at + 34, 2);
  memcpy(&header->client, &client, header->client_size = sizeof client);
  memcpy(&header->server, &server, header->server_size = sizeof server);
}

static void copy_paths(const uint8_t *at, struct proxy_header *header) {
  struct sockaddr_un client = {.sun_family = AF_UNIX}, server = client;
  _Static_assert(sizeof client.sun_path >= V2_PATH, "a path of the protocol fits");
  memcpy(client.sun_path, at, V2_PATH);
  memcpy(server.sun_path, at + V2_PATH, V2_PATH);
  memcpy(&header->client, &client, header->client_size = sizeof client);
  memcpy(&header->server, &server, header->server_size = sizeof server);
}

static enum proxy_finding read_v2(const uint8_t *data, size_t size, struct proxy_header *header) {
  if (size > 12 && data[12] != V2_LOCAL && data[12] != V2_PROXY) return PROXY_BROKEN;
  if (size < V2_FIXED) return PROXY_MORE;
  const uint8_t family = data[13];
  const size_t rest = (size_t)data[14] << 8 | data[15];
  header->size = V2_FIXED + rest;
  if (data[12] == V2_LOCAL) return PROXY_WHOLE; /* the proxy speaks for itself */
  if (family >> 4 > 3 || (family & 0xf) > 2) return PROXY_BROKEN;
  const size_t needed = addresses_size(family);
  if (needed > rest) return PROXY_BROKEN;
  if (size < V2_FIXED + needed) return PROXY_MORE;
  const uint8_t *at = data + V2_FIXED;
  if (family == 0x11) copy_inet(at, header);
  if (family == 0x21) copy_inet6(at, header);
  if (family == 0x31) copy_paths(at, header);
  return PROXY_WHOLE;
}

/* ---- either ------------------------------------------------------------------------------------------------------ */

/* Whether what there is begins as it should; `whole` if all of the beginning is there. */
static int begins(const uint8_t *data, size_t size, const void *start, size_t start_size) {
  return memcmp(data, start, size < start_size ? size : start_size) == 0;
}

enum proxy_finding proxy_read(const uint8_t *data, size_t size, struct proxy_header *header) {
  memset(header, 0, sizeof *header);
  if (size == 0) return PROXY_MORE;
  if (begins(data, size, v2_start, sizeof v2_start))
    return size < sizeof v2_start ? PROXY_MORE : read_v2(data, size, header);
  if (begins(data, size, V1_START, V1_START_SIZE))
    return size < V1_START_SIZE ? PROXY_MORE : read_v1(data, size, header);
  return PROXY_NONE;
}
