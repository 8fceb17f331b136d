/* The board: a sealed file in memory, which every worker's process maps. */
#include "board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend.h"

#define MAGIC 0x326472616f62ull /* "board2": to be counted up when anything on it changes its place or meaning */
#define SEATS_AT 4096u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

_Static_assert(sizeof(struct seat) % 128 == 0, "no two seats share a cache line");

static int map(struct pdlb_board *board, uint64_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, board->fd, 0);
  if (memory == MAP_FAILED) return -errno;
  board->head = memory;
  board->seats = (struct seat *)((char *)memory + SEATS_AT);
  return 0;
}

static int make(struct pdlb_board *board, uint32_t seats) {
  const uint64_t size = SEATS_AT + seats * sizeof(struct seat);
  board->fd = memfd_create("pdlb-board", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (board->fd < 0 || ftruncate(board->fd, (off_t)size) < 0 || fcntl(board->fd, F_ADD_SEALS, SEALS) < 0) return -errno;
  board->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (board->bell_fd < 0) return -errno;
  const int rc = map(board, size);
  if (rc == 0) *board->head = (struct board_head){.magic = MAGIC, .size = size, .seats = seats};
  return rc;
}

int pdlb_board_create(uint32_t seats, struct pdlb_board **result, struct pdlb_error *error) {
  if (seats == 0 || seats > PDLB_MAX_SEATS)
    return pdlb_fail(error, EINVAL, "create board", "seats is %u: it goes from 1 to %u", seats, PDLB_MAX_SEATS);
  struct pdlb_board *board = calloc(1, sizeof *board);
  if (!board) return pdlb_fail(error, ENOMEM, "create board", "no memory for a board");
  board->fd = board->bell_fd = -1;
  const int rc = make(board, seats);
  if (rc < 0) {
    pdlb_board_close(board);
    return pdlb_fail(error, -rc, "create board", "no memory that can be shared: %s", strerror(-rc));
  }
  *result = board;
  return 0;
}

static int join(struct pdlb_board *board, int fd, int bell_fd) {
  struct stat status;
  if (fstat(fd, &status) < 0) return -errno;
  const int seals = fcntl(fd, F_GET_SEALS);
  const uint64_t size = (uint64_t)status.st_size;
  if (seals < 0 || (seals & SEALS) != SEALS || size < SEATS_AT) return -EINVAL;
  board->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  board->bell_fd = fcntl(bell_fd, F_DUPFD_CLOEXEC, 3);
  if (board->fd < 0 || board->bell_fd < 0) return -errno;
  const int rc = map(board, size);
  if (rc < 0) return rc;
  const struct board_head *head = board->head;
  const bool fits = head->magic == MAGIC && head->size == size && head->seats <= PDLB_MAX_SEATS &&
                    size == SEATS_AT + head->seats * sizeof(struct seat);
  return fits ? 0 : -EINVAL;
}

int pdlb_board_join(int fd, int bell_fd, struct pdlb_board **result, struct pdlb_error *error) {
  struct pdlb_board *board = calloc(1, sizeof *board);
  if (!board) return pdlb_fail(error, ENOMEM, "join board", "no memory for a board");
  board->fd = board->bell_fd = -1;
  const int rc = join(board, fd, bell_fd);
  if (rc < 0) {
    pdlb_board_close(board);
    return pdlb_fail(error, -rc, "join board", "descriptor %d is no board of this version of pydlb: %s", fd,
                     strerror(-rc));
  }
  *result = board;
  return 0;
}

int pdlb_board_fd(const struct pdlb_board *board) { return board->fd; }
int pdlb_board_bell_fd(const struct pdlb_board *board) { return board->bell_fd; }
uint32_t pdlb_board_seats(const struct pdlb_board *board) { return board->head->seats; }

void pdlb_board_close(struct pdlb_board *board) {
  if (board->head) {
    struct stat status;
    /* Not what the head says: others may write there. */
    if (fstat(board->fd, &status) == 0) munmap(board->head, (size_t)status.st_size);
  }
  if (board->fd >= 0) close(board->fd);
  if (board->bell_fd >= 0) close(board->bell_fd);
  free(board);
}

/* ---- counts --------------------------------------------------------------------------------------------------------
 */

static uint64_t load(const _Atomic uint64_t *counter) { return atomic_load_explicit(counter, memory_order_seq_cst); }

void pdlb_board_stats(const struct pdlb_board *board, uint32_t index, struct pdlb_seat_stats *stats) {
  const struct seat *seat = &board->seats[index];
  /* Out before in, so that what is counted as closed was counted as accepted; and what is not in hand any more before
   * what came of it. */
  stats->in_hand = board_in_hand(seat);
  stats->aborted = load(&seat->aborted);
  stats->served = load(&seat->served);
  stats->accepted = load(&seat->accepted);
  stats->permitted = load(&seat->permitted);
  stats->empty = load(&seat->empty);
  stats->gone = load(&seat->gone);
  stats->backoffs = load(&seat->backoffs);
  stats->last_errno = atomic_load_explicit(&seat->last_errno, memory_order_relaxed);
  stats->beat_at = load(&seat->beat_at);
  stats->late_ns = load(&seat->late_ns);
  for (uint32_t bucket = 0; bucket < PDLB_HANDOFF_BUCKETS; bucket++)
    stats->handoff[bucket] = load(&seat->handoff[bucket]);
}

void pdlb_board_listener(const struct pdlb_board *board, uint32_t index, uint32_t listener, uint64_t *accepted,
                         uint64_t *closed) {
  const struct seat_listener *counts = &board->seats[index].listeners[listener % PDLB_SEAT_LISTENERS];
  *closed = load(&counts->closed);
  *accepted = load(&counts->accepted);
}

void board_call(struct pdlb_board *board) {
  const uint64_t one = 1;
  if (!atomic_load_explicit(&board->head->calls, memory_order_seq_cst) ||
      !atomic_exchange_explicit(&board->head->calls, 0, memory_order_seq_cst))
    return;
  while (write(board->bell_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

uint64_t board_open(const struct pdlb_board *board) {
  uint64_t open = 0;
  for (uint32_t index = 0; index < pdlb_board_seats(board); index++) open += seat_open(&board->seats[index]);
  return open;
}

void pdlb_board_clear(struct pdlb_board *board, uint32_t index) {
  memset((void *)&board->seats[index], 0, sizeof(struct seat));
}

uint64_t pdlb_board_bury(struct pdlb_board *board, uint32_t index) {
  struct seat *seat = &board->seats[index];
  const uint64_t open = seat_open(seat);
  for (uint32_t i = 0; i < PDLB_SEAT_LISTENERS; i++)
    atomic_store_explicit(&seat->listeners[i].closed, load(&seat->listeners[i].accepted), memory_order_seq_cst);
  atomic_fetch_add_explicit(&seat->aborted, open, memory_order_seq_cst);
  atomic_store_explicit(&seat->settled, load(&seat->held), memory_order_release);
  atomic_store_explicit(&seat->beat_at, 0, memory_order_relaxed);
  return open;
}

void pdlb_board_beat(struct pdlb_board *board, uint32_t index, uint64_t late_ns) {
  struct seat *seat = &board->seats[index];
  atomic_store_explicit(&seat->late_ns, late_ns, memory_order_relaxed);
  atomic_store_explicit(&seat->beat_at, pdlb_now(), memory_order_release);
}

void pdlb_board_closed(struct pdlb_board *board, uint32_t index, uint32_t listener, bool aborted) {
  struct seat *seat = &board->seats[index];
  board_count(&seat->listeners[listener % PDLB_SEAT_LISTENERS].closed);
  board_count(aborted ? &seat->aborted : &seat->served);
  board_call(board);
}
