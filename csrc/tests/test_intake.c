/* Connections whose PROXY header comes late, in pieces, broken, or not at all. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "check.h"
#include "intake.h"

#define LINE "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
#define SECOND 1000000000u

static struct intake intake;

/* A connection that the intake has, and its other end. */
static int connected(bool optional, uint32_t listener) {
  int ends[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const struct pdlb_accepted accepted = {.fd = ends[0], .listener = listener};
  intake_add(&intake, &accepted, optional);
  return ends[1];
}

static void say(int fd, const void *data, size_t size) { CHECK_EQ(send(fd, data, size, MSG_NOSIGNAL), (ssize_t)size); }

static void look(void) { intake_look(&intake, pdlb_now()); }

/* The intake gives it, and what is left in it is `rest`. */
static void check_given(uint32_t listener, const char *rest, bool named) {
  struct pdlb_accepted accepted;
  char data[100] = "";
  look();
  CHECK(intake_take(&intake, &accepted));
  CHECK_EQ(accepted.listener, listener);
  CHECK_EQ(accepted.proxied != NULL, named);
  if (named) {
    const struct sockaddr_in *client = (const struct sockaddr_in *)&accepted.proxied->client;
    CHECK_EQ(accepted.proxied->client_size, sizeof *client);
    CHECK_EQ(ntohs(client->sin_port), 56324);
    CHECK_EQ(ntohl(client->sin_addr.s_addr), 0xc0000201);
  }
  CHECK_EQ(recv(accepted.fd, data, sizeof data, MSG_DONTWAIT) >= 0, *rest != 0);
  CHECK(strcmp(data, rest) == 0);
  free(accepted.proxied);
  close(accepted.fd);
}

static void check_nothing_given(void) {
  struct pdlb_accepted accepted;
  look();
  CHECK(!intake_take(&intake, &accepted));
}

/* Its other end sees that it was closed. */
static void check_closed(int fd) {
  char byte;
  CHECK_LE(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
  CHECK_EQ(send(fd, "x", 1, MSG_NOSIGNAL), -1);
  close(fd);
}

static void start(uint32_t size, uint64_t patience) { CHECK_EQ(intake_init(&intake, size, patience), 0); }

static void end(uint64_t broken, uint64_t late, uint64_t gone) {
  CHECK_EQ(intake.broken, broken);
  CHECK_EQ(intake.late, late);
  CHECK_EQ(intake.gone, gone);
  CHECK_EQ(intake.count, 0);
  intake_free(&intake);
}

static void whole_headers_pass(void) {
  start(8, SECOND * 100ull);
  const int other = connected(false, 7);
  check_nothing_given();
  say(other, LINE "GET", sizeof LINE + 2);
  check_given(7, "GET", true);
  close(other);
  end(0, 0, 0);
}

static void pieces_pass_when_the_last_has_come(void) {
  start(8, SECOND * 100ull);
  const int other = connected(false, 1);
  for (size_t i = 0; i < sizeof LINE - 2; i++) {
    say(other, LINE + i, 1);
    check_nothing_given();
  }
  say(other, "\nrest", 5);
  check_given(1, "rest", true);
  close(other);
  end(0, 0, 0);
}

/* A header of version 2 that is longer than what is looked at: the rest is thrown away as it comes. */
static void what_follows_the_addresses_is_skipped(void) {
  start(8, SECOND * 100ull);
  static uint8_t data[16 + 9000] = "\r\n\r\n\0\r\nQUIT\n\x21\x11";
  data[14] = 9000 >> 8, data[15] = 9000 & 255;
  const uint8_t inet[] = {192, 0, 2, 1, 198, 51, 100, 2, 56324 >> 8, 56324 & 255, 1, 0xbb};
  memcpy(data + 16, inet, sizeof inet);
  const int other = connected(false, 2);
  say(other, data, 3000);
  check_nothing_given();
  say(other, data + 3000, sizeof data - 3001);
  check_nothing_given();
  say(other, data + sizeof data - 1, 1);
  say(other, "hello", 5);
  check_given(2, "hello", true);
  close(other);
  end(0, 0, 0);
}

static void what_is_no_header_is_closed_or_passes(void) {
  start(8, SECOND * 100ull);
  const int strict = connected(false, 1), lax = connected(true, 2), broken = connected(true, 3);
  say(strict, "GET / HTTP", 10);
  say(lax, "GET / HTTP", 10);
  say(broken, "PROXY NOTHING\r\n", 15);
  check_given(2, "GET / HTTP", false);
  check_nothing_given();
  check_closed(strict);
  check_closed(broken);
  close(lax);
  end(2, 0, 0);
}

static void who_leaves_is_counted(void) {
  start(8, SECOND * 100ull);
  const int silent = connected(false, 1), half = connected(false, 2), lax = connected(true, 3);
  say(half, LINE, 10);
  close(silent);
  close(half);
  CHECK_EQ(shutdown(lax, SHUT_WR), 0); /* it has said all that it will: nothing */
  look();
  struct pdlb_accepted accepted;
  CHECK(intake_take(&intake, &accepted));
  CHECK_EQ(accepted.listener, 3);
  close(accepted.fd);
  close(lax);
  CHECK_EQ(intake.gone, 1);
  CHECK_EQ(intake_look(&intake, pdlb_now() + SECOND * 200ull), PDLB_FOREVER); /* half a header, and no more to come */
  check_nothing_given();
  end(0, 1, 1);
}

static void nobody_waits_for_ever(void) {
  start(8, SECOND);
  const int strict = connected(false, 1), lax = connected(true, 2), half = connected(true, 3);
  say(half, "PRO", 3);
  const uint64_t until = intake_look(&intake, pdlb_now());
  CHECK_LE(until, pdlb_now() + SECOND);
  check_nothing_given();
  intake_look(&intake, until + SECOND);
  check_closed(strict);
  check_given(2, "", false);
  check_given(3, "PRO", false);
  close(lax);
  close(half);
  end(0, 1, 0);
}

/* Silent ones take up all places: the oldest gives way. */
static void silence_keeps_nobody_out(void) {
  start(4, SECOND * 100ull);
  int silent[4];
  for (uint32_t i = 0; i < 4; i++) silent[i] = connected(false, i);
  for (uint32_t i = 0; i < 4; i++) {
    const int other = connected(false, 10 + i);
    check_closed(silent[i]);
    say(other, LINE, sizeof LINE - 1);
    check_given(10 + i, "", true);
    close(other);
    silent[i] = connected(false, i);
  }
  intake_free(&intake);
  for (uint32_t i = 0; i < 4; i++) check_closed(silent[i]);
}

static void the_end_closes_what_is_left(void) {
  start(8, SECOND * 100ull);
  const int silent = connected(false, 1), whole = connected(false, 2);
  say(whole, LINE, sizeof LINE - 1);
  look();
  intake_free(&intake);
  check_closed(silent);
  check_closed(whole);
}

/* Its descriptor tells of what comes, and does not go on about parts of a header. */
static void its_descriptor_tells_of_news_only(void) {
  start(8, SECOND * 100ull);
  struct pollfd state = {.fd = intake.epoll_fd, .events = POLLIN};
  const int other = connected(false, 1);
  CHECK_EQ(poll(&state, 1, 0), 0);
  say(other, LINE, 10);
  CHECK_EQ(poll(&state, 1, 10000), 1);
  check_nothing_given();
  CHECK_EQ(poll(&state, 1, 0), 0);
  say(other, LINE + 10, sizeof LINE - 11);
  CHECK_EQ(poll(&state, 1, 10000), 1);
  check_given(1, "", true);
  close(other);
  end(0, 0, 0);
}

CHECK_MAIN(CASE(whole_headers_pass), CASE(pieces_pass_when_the_last_has_come),
           CASE(what_follows_the_addresses_is_skipped), CASE(what_is_no_header_is_closed_or_passes),
           CASE(who_leaves_is_counted), CASE(nobody_waits_for_ever), CASE(silence_keeps_nobody_out),
           CASE(the_end_closes_what_is_left), CASE(its_descriptor_tells_of_news_only))
