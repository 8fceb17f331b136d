/* Where a domain lies: one mapping without pointers, which is this process's alone, or a sealed file in memory that
 * others may map too. A head says what is in it; doorbells and the engine's region follow. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "software.h"

#define MAGIC 0x35626c6470ull /* "pdlb5": to be counted up when anything in the region changes its place or meaning */
#define PAGE 4096u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static uint64_t in_pages(uint64_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

/* The memory is address space first; pages come as they are used. */
static int map(struct software_domain *domain, uint64_t size, int fd, struct pdlb_error *error) {
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, kind | MAP_NORESERVE, fd, 0);
  if (memory == MAP_FAILED)
    return pdlb_fail(error, ENOMEM, "create domain",
                     "no address space for a domain of %llu bytes; create it with fewer queues or credits",
                     (unsigned long long)size);
  domain->head = memory;
  return 0;
}

static int make_file(uint64_t size, struct pdlb_error *error) {
  const int fd = memfd_create("pdlb-domain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd >= 0 && ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0) return fd;
  const int err = errno;
  if (fd >= 0) close(fd);
  return pdlb_fail(error, err, "create domain", "no memory that can be shared: %s", strerror(err));
}

int software_memory_create(struct software_domain *domain, const struct pdlb_engine_config *config,
                           struct pdlb_error *error) {
  const uint64_t ports = config->ldb_ports + config->dir_ports;
  const uint64_t doorbells_at = in_pages(sizeof(struct software_head));
  const uint64_t engine_at = doorbells_at + in_pages(ports * sizeof(struct doorbell));
  const uint64_t size = engine_at + in_pages(pdlb_engine_size(config));
  if (domain->taken.shared) {
    const int fd = make_file(size, error);
    if (fd < 0) return fd;
    domain->memory_fd = fd;
  }
  const int rc = map(domain, size, domain->memory_fd, error);
  if (rc < 0) return rc;
  *domain->head = (struct software_head){
      .magic = MAGIC,
      .size = size,
      .domain = domain->base.id,
      .order_slots = config->order_slots,
      .config = domain->taken,
      .doorbells_at = doorbells_at,
      .engine_at = engine_at,
  };
  pdlb_engine_format((char *)domain->head + engine_at, config);
  return 0;
}

/* Only what can no longer change its size: else another process could have this one killed when it reads. */
static int check_file(int fd, uint64_t *size, struct pdlb_error *error) {
  struct stat status;
  if (fstat(fd, &status) < 0) return pdlb_fail(error, errno, "join domain", "descriptor %d: %s", fd, strerror(errno));
  *size = (uint64_t)status.st_size;
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & SEALS) != SEALS || *size < sizeof(struct software_head))
    return pdlb_fail(error, EINVAL, "join domain", "descriptor %d is not the memory of a shared domain", fd);
  return 0;
}

int software_memory_join(struct software_domain *domain, int memory_fd, struct pdlb_error *error) {
  uint64_t size = 0;
  int rc = check_file(memory_fd, &size, error);
  if (rc < 0) return rc;
  domain->memory_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 3);
  if (domain->memory_fd < 0) return pdlb_fail(error, errno, "join domain", "%s", strerror(errno));
  rc = map(domain, size, domain->memory_fd, error);
  if (rc < 0) return rc;
  if (domain->head->magic != MAGIC || domain->head->size != size)
    return pdlb_fail(error, EINVAL, "join domain",
                     "descriptor %d is the memory of another version of pydlb; processes that share a domain need the "
                     "same one",
                     memory_fd);
  return 0;
}

void software_memory_free(struct software_domain *domain) {
  if (domain->head) munmap(domain->head, domain->head->size);
  if (domain->memory_fd >= 0) close(domain->memory_fd);
}
