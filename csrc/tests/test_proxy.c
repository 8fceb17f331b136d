/* The PROXY protocol's headers: whole, in pieces, broken, and anything else. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "check.h"
#include "proxy.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static struct proxy_header header;

static enum proxy_finding find(const void *data, size_t size) {
  /* On the heap and no longer than it is: the address sanitizer sees who reads beyond. */
  uint8_t *copy = calloc(1, size ? size : 1);
  memcpy(copy, data, size);
  const enum proxy_finding finding = proxy_read(copy, size, &header);
  free(copy);
  return finding;
}

#define FIND(text) find(text, sizeof(text) - 1)

static const char *text_of(const struct sockaddr_storage *address, char text[INET6_ADDRSTRLEN + 8]) {
  char name[INET6_ADDRSTRLEN];
  const struct sockaddr_in *in = (const struct sockaddr_in *)address;
  const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
  if (address->ss_family == AF_INET)
    sprintf(text, "%s %d", inet_ntop(AF_INET, &in->sin_addr, name, sizeof name), ntohs(in->sin_port));
  else
    sprintf(text, "%s %d", inet_ntop(AF_INET6, &in6->sin6_addr, name, sizeof name), ntohs(in6->sin6_port));
  return text;
}

static void check_addresses(const char *client, const char *server) {
  char text[INET6_ADDRSTRLEN + 8];
  CHECK(strcmp(text_of(&header.client, text), client) == 0);
  CHECK(strcmp(text_of(&header.server, text), server) == 0);
}

static void lines_of_text(void) {
  CHECK_EQ(FIND("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET"), PROXY_WHOLE);
  check_addresses("192.0.2.1 56324", "198.51.100.2 443");
  CHECK_EQ(header.size, 45);
  CHECK_EQ(FIND("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"), PROXY_WHOLE);
  check_addresses("2001:db8::1 0", "::1 65535");
  CHECK_EQ(FIND("PROXY UNKNOWN\r\n"), PROXY_WHOLE);
  CHECK_EQ(header.client_size, 0);
  CHECK_EQ(header.size, 15);
  /* The longest line there may be. */
  CHECK_EQ(FIND("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535 and then something more until it is "
                "full......\r\n"),
           PROXY_WHOLE);
}

static void broken_lines(void) {
  static const char *const lines[] = {
      "PROXY \r\n",
      "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY TCP4\r\n",
      "PROXY TCP4 1.2.3.4\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
      "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
      "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
      "PROXY TCP4 ::1 ::1 1 2\r\n",
      "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 0x2\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 99999999999999999999\r\n",
      "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX",
      "PROXY TCP6 1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc ::1 1 2\r\n",
      "PROXY UNKNOWNS\r\n",
  };
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
    if (find(lines[i], strlen(lines[i])) != PROXY_BROKEN) check_fail(__FILE__, __LINE__, "it takes %s", lines[i]);
  CHECK_EQ(FIND("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n"), PROXY_BROKEN);
  char endless[200];
  memset(endless, 'x', sizeof endless);
  memcpy(endless, "PROXY UNKNOWN ", 14);
  CHECK_EQ(find(endless, 106), PROXY_MORE);
  CHECK_EQ(find(endless, 107), PROXY_BROKEN);
  CHECK_EQ(find(endless, 200), PROXY_BROKEN);
}

/* A header of version 2 with so many bytes after the fixed part. */
static size_t binary(uint8_t *data, uint8_t command, uint8_t family, const void *rest, size_t size) {
  memcpy(data, SIGNATURE, 12);
  data[12] = command;
  data[13] = family;
  data[14] = (uint8_t)(size >> 8);
  data[15] = (uint8_t)size;
  memcpy(data + 16, rest, size);
  return 16 + size;
}

static const uint8_t inet[12] = {192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb};

static void binary_headers(void) {
  uint8_t data[600], rest[500] = {0};
  CHECK_EQ(find(data, binary(data, 0x21, 0x11, inet, 12)), PROXY_WHOLE);
  check_addresses("192.0.2.1 56324", "198.51.100.2 443");
  CHECK_EQ(header.size, 28);
  rest[15] = 1, rest[0] = 0x20, rest[31] = 2, rest[33] = 80, rest[35] = 90;
  CHECK_EQ(find(data, binary(data, 0x21, 0x21, rest, 36)), PROXY_WHOLE);
  check_addresses("2000::1 80", "::2 90");
  memset(rest, 0, sizeof rest);
  strcpy((char *)rest, "/there");
  strcpy((char *)rest + 108, "/here");
  CHECK_EQ(find(data, binary(data, 0x21, 0x31, rest, 216)), PROXY_WHOLE);
  CHECK_EQ(header.client_size, sizeof(struct sockaddr_un));
  CHECK(strcmp(((struct sockaddr_un *)&header.client)->sun_path, "/there") == 0);
  CHECK(strcmp(((struct sockaddr_un *)&header.server)->sun_path, "/here") == 0);
  CHECK_EQ(16 + 216, PROXY_LOOK);
  /* What follows the addresses is skipped, and need not be there to know them. */
  memcpy(rest, inet, 12);
  binary(data, 0x21, 0x11, rest, 500);
  CHECK_EQ(find(data, 28), PROXY_WHOLE);
  CHECK_EQ(header.size, 516);
  check_addresses("192.0.2.1 56324", "198.51.100.2 443");
  data[14] = data[15] = 0xff;
  CHECK_EQ(find(data, PROXY_LOOK), PROXY_WHOLE);
  CHECK_EQ(header.size, 16 + 65535);
}

static void binary_headers_that_name_nobody(void) {
  uint8_t data[100];
  static const uint8_t families[] = {0x00, 0x01, 0x10, 0x20, 0x12, 0x22, 0x32};
  for (size_t i = 0; i < sizeof families; i++) {
    CHECK_EQ(find(data, binary(data, 0x21, families[i], inet, 12)), PROXY_WHOLE);
    CHECK_EQ(header.client_size, 0);
    CHECK_EQ(header.size, 28);
  }
  CHECK_EQ(find(data, binary(data, 0x20, 0x00, "", 0)), PROXY_WHOLE);
  CHECK_EQ(header.size, 16);
  CHECK_EQ(find(data, binary(data, 0x20, 0x11, inet, 12)), PROXY_WHOLE); /* LOCAL: whatever else it says */
  CHECK_EQ(header.client_size, 0);
}

static void broken_binary_headers(void) {
  uint8_t data[100];
  CHECK_EQ(find(data, binary(data, 0x11, 0x11, inet, 12)), PROXY_BROKEN); /* version 1 in binary */
  CHECK_EQ(find(data, binary(data, 0x22, 0x11, inet, 12)), PROXY_BROKEN); /* no such command */
  CHECK_EQ(find(data, binary(data, 0x21, 0x41, inet, 12)), PROXY_BROKEN); /* no such family */
  CHECK_EQ(find(data, binary(data, 0x21, 0x13, inet, 12)), PROXY_BROKEN); /* no such kind of socket */
  CHECK_EQ(find(data, binary(data, 0x21, 0x11, inet, 11)), PROXY_BROKEN);
  CHECK_EQ(find(data, binary(data, 0x21, 0x21, inet, 12)), PROXY_BROKEN);
  CHECK_EQ(find(data, binary(data, 0x21, 0x31, inet, 12)), PROXY_BROKEN);
}

static void what_is_no_header(void) {
  CHECK_EQ(FIND(""), PROXY_MORE);
  CHECK_EQ(FIND("GET / HTTP/1.1\r\n"), PROXY_NONE);
  CHECK_EQ(FIND("G"), PROXY_NONE);
  CHECK_EQ(FIND("\x16\x03\x01"), PROXY_NONE);
  CHECK_EQ(FIND("PROPFIND / HTTP/1.1"), PROXY_NONE);
  CHECK_EQ(FIND("PRO"), PROXY_MORE);
  CHECK_EQ(FIND("\r\n\r\nGET"), PROXY_NONE);
}

static struct check_random randomness;

static uint32_t below(uint32_t most) { return check_below(&randomness, most); }

static size_t any_header(uint8_t *data) {
  uint8_t rest[300];
  for (size_t i = 0; i < sizeof rest; i++) rest[i] = (uint8_t)below(256);
  switch (below(4)) {
    case 0:
      return (size_t)sprintf((char *)data, "PROXY TCP4 %u.%u.%u.%u 10.0.0.1 %u %u\r\n", rest[0], rest[1], rest[2],
                             rest[3], below(65536), below(65536));
    case 1: return binary(data, 0x21, 0x11, rest, 12 + below(200));
    case 2: return binary(data, 0x21, 0x21, rest, 36 + below(200));
    default: return binary(data, (uint8_t)(0x20 + below(2)), 0x31, rest, 216 + below(80));
  }
}

/* What was found does not change with what comes later, and nothing is said too early. */
static void pieces_give_the_same(void) {
  randomness = check_randomness(1);
  for (int turn = 0; turn < 3000; turn++) {
    uint8_t data[700] = {0};
    const size_t whole = any_header(data);
    if (below(3) == 0) data[below((uint32_t)whole)] ^= (uint8_t)(1u << below(8));
    const size_t seen = whole < PROXY_LOOK ? whole : PROXY_LOOK;
    const enum proxy_finding last = find(data, seen);
    const struct proxy_header told = header;
    bool over = false;
    for (size_t size = 0; size <= seen; size++) {
      const enum proxy_finding finding = find(data, size);
      if (over || finding != PROXY_MORE) {
        over = true;
        CHECK_EQ(finding, last);
        CHECK(finding != PROXY_WHOLE || memcmp(&header, &told, sizeof told) == 0);
      }
    }
  }
}

CHECK_MAIN(CASE(lines_of_text), CASE(broken_lines), CASE(binary_headers), CASE(binary_headers_that_name_nobody),
           CASE(broken_binary_headers), CASE(what_is_no_header), CASE(pieces_give_the_same))
