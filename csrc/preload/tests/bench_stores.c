/* Elements through a directed queue from one thread to itself: how fast trapped stores are. */
#include <time.h>

#include "client.h"

#define ELEMENTS 400000u

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(void) {
  const struct client client = client_open(0, 0, 1);
  struct client_port port = client_dir_port(&client, 128);
  uint64_t sent = 0;
  uint64_t received = 0;
  client_start(&client);
  const double start = seconds();
  while (received < ELEMENTS) {
    unsigned owed = 0;
    struct pdlb_qe qe;
    for (int burst = 0; burst < 8; burst++) {
      struct pdlb_qe line[4];
      for (int i = 0; i < 4; i++) {
        line[i] = (struct pdlb_qe){.data = sent++, .qid = (uint8_t)port.id, .sched = 3, .command = PDLB_QE_NEW};
      }
      client_store(&port, line);
    }
    while (client_receive(&port, &qe)) {
      CHECK(qe.data == received);
      received++;
      owed++;
    }
    CHECK(owed > 0);
    client_return_tokens(&port, owed);
  }
  printf("%.0f elements/s\n", (double)received / (seconds() - start));
  return 0;
}
