/* The memory of a domain's state, and credits that several processes take from it. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

/* "pdldb1": to be counted up when anything in the state changes its place or meaning. */
#define MAGIC 0x3162646c6470ull
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int make_file(struct pdlb_error *error) {
  const int fd = memfd_create("pdlb-device-domain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd >= 0 && ftruncate(fd, (off_t)sizeof(struct domain_state)) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
    return fd;
  const int err = errno;
  if (fd >= 0) close(fd);
  return pdlb_fail(error, err, "create domain", "no memory that can be shared: %s", strerror(err));
}

static struct domain_state *map(int fd) {
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void *memory = mmap(NULL, sizeof(struct domain_state), PROT_READ | PROT_WRITE, kind, fd, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

int state_create(struct domain *domain, bool shared, struct pdlb_error *error) {
  domain->memory_fd = -1;
  if (shared && !domain->device->system->duplicate)
    return pdlb_fail(error, EOPNOTSUPP, "create domain",
                     "this emulated device is in this process, and other processes have no way to it: run the program "
                     "under `pydlb emulate`, whose devices all of them share");
  if (shared) {
    const int fd = make_file(error);
    if (fd < 0) return fd;
    domain->memory_fd = fd;
  }
  domain->state = map(domain->memory_fd);
  if (!domain->state) return pdlb_fail(error, ENOMEM, "create domain", "no memory for a domain");
  domain->state->magic = MAGIC;
  domain->state->size = sizeof(struct domain_state);
  domain->state->shared = shared;
  return 0;
}

/* Only what can no longer change its size: else another process could have this one killed when it reads. */
int state_join(int memory_fd, struct domain_state **result, int *own_fd, struct pdlb_error *error) {
  struct stat status;
  const int seals = fcntl(memory_fd, F_GET_SEALS);
  if (seals < 0 || (seals & SEALS) != SEALS || fstat(memory_fd, &status) < 0 ||
      (uint64_t)status.st_size != sizeof(struct domain_state))
    return pdlb_fail(error, EINVAL, "join domain",
                     "descriptor %d is not the memory of a shared domain of this version of pydlb", memory_fd);
  struct domain_state *state = map(memory_fd);
  if (!state) return pdlb_fail(error, ENOMEM, "join domain", "no memory for a domain");
  if (state->magic != MAGIC || state->size != sizeof *state) {
    state_free(state, -1);
    return pdlb_fail(error, EINVAL, "join domain",
                     "descriptor %d is the memory of another version of pydlb; processes that share a domain need the "
                     "same one",
                     memory_fd);
  }
  if (own_fd && (*own_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 3)) < 0) {
    const int err = errno;
    state_free(state, -1);
    return pdlb_fail(error, err, "join domain", "no descriptor for the domain's memory: %s", strerror(err));
  }
  *result = state;
  return 0;
}

void state_free(struct domain_state *state, int memory_fd) {
  if (state) munmap(state, sizeof *state);
  if (memory_fd >= 0) close(memory_fd);
}

/* ---- credits that are shared ------------------------------------------------------------------------------------- */

/* What all ports have taken is changed by its takers, one at a time, and each by a single store: one that is killed has
 * taken them or has not. Who buries it lets others go on. */
static void begin_taking(const struct domain *domain) {
  const uint32_t mine = domain->member + 1;
  uint32_t nobody = 0;
  while (!atomic_compare_exchange_weak_explicit(&domain->state->taking, &nobody, mine, memory_order_acquire,
                                                memory_order_relaxed)) {
    nobody = 0;
    sched_yield();
  }
}

static void end_taking(const struct domain *domain) {
  atomic_store_explicit(&domain->state->taking, 0, memory_order_release);
}

/* Directed elements are received by directed ports alone. */
static uint32_t count_free(const struct domain_state *state, enum credit credit) {
  uint64_t free = state->credits_total[credit];
  for (uint32_t index = 0; index < NUM_PORTS; index++) {
    const struct port_record *record = &state->ports[index];
    if (!atomic_load_explicit(&record->exists, memory_order_acquire)) continue;
    free -= atomic_load_explicit(&record->reserved[credit], memory_order_relaxed);
    if (credit == CREDIT_ANY || index >= PDLB_NUM_LDB_PORTS)
      free += atomic_load_explicit(&record->received, memory_order_acquire);
  }
  return free > UINT32_MAX ? 0 : (uint32_t)free;
}

uint32_t state_take(struct port *port, enum credit credit, uint32_t wanted) {
  if (wanted == 0) return 0;
  begin_taking(port->domain);
  const uint32_t free = count_free(port->domain->state, credit), taken = free < wanted ? free : wanted;
  _Atomic uint64_t *reserved = &port->record->reserved[credit];
  atomic_store_explicit(reserved, atomic_load_explicit(reserved, memory_order_relaxed) + taken, memory_order_relaxed);
  end_taking(port->domain);
  return taken;
}

void state_give_back(struct port *port, enum credit credit, uint32_t count) {
  _Atomic uint64_t *reserved = &port->record->reserved[credit];
  atomic_store_explicit(reserved, atomic_load_explicit(reserved, memory_order_relaxed) - count, memory_order_release);
}
