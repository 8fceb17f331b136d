/* Who has joined a shared domain, and whether he lives.
 *
 * Whoever waits for a lock that is not freed rings the creator; the creator looks whether the owner is dead, and buries
 * it. Who knows of a death sooner, because he is the parent, says so by pdlb_domain_bury.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "software.h"

/* The start time of a process, in ticks since the machine's; 0 if it cannot be had. */
static uint64_t start_time(int32_t process) {
  char path[32], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", process);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length <= 0) return 0;
  text[length] = 0;
  const char *field = strrchr(text, ')'); /* the name may hold anything */
  for (unsigned number = 2; field && number < 22; number++) field = strchr(field + 1, ' ');
  return field ? strtoull(field, NULL, 10) : 0;
}

void software_member_enter(struct software_domain *domain) {
  const uint64_t born = start_time(getpid());
  for (uint32_t i = 0; i < MEMBERS; i++) {
    struct member *member = &domain->head->members[i];
    uint32_t nobody = 0;
    if (!atomic_compare_exchange_strong(&member->owner, &nobody, domain->engine.owner)) continue;
    atomic_store(&member->born, born);
    atomic_store(&member->process, (int32_t)getpid());
    return;
  }
}

static struct member *find(const struct software_domain *domain, uint32_t owner) {
  for (uint32_t i = 0; i < MEMBERS; i++)
    if (atomic_load(&domain->head->members[i].owner) == owner) return &domain->head->members[i];
  return NULL;
}

void software_member_leave(struct software_domain *domain, uint32_t owner) {
  struct member *member = find(domain, owner);
  if (!member) return;
  atomic_store(&member->process, 0);
  atomic_store(&member->owner, 0);
}

/* One that has ended is dead even before its parent has asked after it. */
static bool has_ended(int32_t process) {
  const int fd = (int)syscall(SYS_pidfd_open, process, 0);
  if (fd < 0) return errno == ESRCH;
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  const bool ended = poll(&descriptor, 1, 0) > 0;
  close(fd);
  return ended;
}

bool software_member_is_dead(const struct software_domain *domain, uint32_t owner) {
  const struct member *member = find(domain, owner);
  const int32_t process = member ? atomic_load(&member->process) : 0;
  if (!process) return false;
  const uint64_t born = atomic_load(&member->born), now = start_time(process);
  return has_ended(process) || (born && now && born != now);
}

void software_bury_suspect(struct software_domain *domain) {
  const uint32_t owner = atomic_exchange(&domain->head->suspect, 0);
  if (!owner || !software_member_is_dead(domain, owner)) return;
  pdlb_engine_bury(&domain->engine, owner);
  software_member_leave(domain, owner);
}

int software_domain_bury(struct pdlb_domain *base, uint32_t member, struct pdlb_error *error) {
  struct software_domain *domain = (struct software_domain *)base;
  if (domain->joined) return software_not_ours(error, "bury member");
  if (domain->memory_fd < 0)
    return pdlb_fail(error, EINVAL, "bury member", "the domain is this process's alone; only a shared one has members");
  const uint32_t lost = pdlb_engine_bury(&domain->engine, SOFTWARE_MEMBER(member));
  software_member_leave(domain, SOFTWARE_MEMBER(member));
  return lost > INT32_MAX ? INT32_MAX : (int)lost;
}
