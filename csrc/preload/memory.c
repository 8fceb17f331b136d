/* Mappings of ports' memory. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/mman.h>

#include "door.h"
#include "system.h"

#define MAX_MAPPINGS 8192

/* Written by mmap and munmap, read by the handler of trapped stores in any thread: no locks, an entry counts while
 * its address is not 0. */
struct mapping {
  _Atomic uintptr_t address;
  uint32_t length;
  uint16_t device;
  uint16_t port;
  bool producer;
  uint64_t serial; /* of the domain */
};

static struct mapping mappings[MAX_MAPPINGS];
static _Atomic unsigned used; /* no entry from here on */

#define RESERVED ((uintptr_t)1)

static bool remember(void *address, size_t length, const struct emulate_object *object) {
  for (unsigned i = 0; i < MAX_MAPPINGS; i++) {
    struct mapping *mapping = &mappings[i];
    uintptr_t nothing = 0;
    if (!atomic_compare_exchange_strong(&mapping->address, &nothing, RESERVED)) continue;
    mapping->length = (uint32_t)length;
    mapping->device = (uint16_t)object->device;
    mapping->port = (uint16_t)object->index;
    mapping->producer = object->kind == EMULATE_PRODUCER;
    mapping->serial = object->serial;
    atomic_store(&mapping->address, (uintptr_t)address);
    unsigned seen = atomic_load(&used);
    while (seen < i + 1 && !atomic_compare_exchange_weak(&used, &seen, i + 1)) continue;
    return true;
  }
  return false;
}

static bool overlaps(uintptr_t start, size_t length, uintptr_t address, size_t size) {
  return start < address + size && address < start + length;
}

/* What the kernel has given away anew was free: a mapping that is kept from children (MADV_DONTFORK) is known here, and
 * gone. */
static void forget_vanished(void *address, size_t length) {
  for (unsigned i = 0; i < atomic_load(&used); i++) {
    uintptr_t start = atomic_load(&mappings[i].address);
    if (start > RESERVED && overlaps(start, mappings[i].length, (uintptr_t)address, length))
      atomic_compare_exchange_strong(&mappings[i].address, &start, 0);
  }
}

void *door_map(const struct emulate_object *object, void *address, size_t length, int prot, int flags, int fd,
               off_t offset) {
  const size_t wanted = object->kind == EMULATE_PRODUCER ? PDLB_PP_SIZE : PDLB_CQ_SIZE;
  const size_t rounded = (length + 4095) & ~(size_t)4095;
  if (object->kind == EMULATE_DEVICE || object->kind == EMULATE_DOMAIN) {
    errno = ENODEV;
    return MAP_FAILED;
  }
  if (rounded != wanted || offset % 4096 != 0) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  if (object->kind == EMULATE_PRODUCER) {
    prot = PROT_NONE;
    door_catch_stores();
  } else if (prot & PROT_WRITE) {
    prot |= PROT_READ; /* as on x86, where nothing can be written and not read */
  }
  void *at = sys_mmap(address, length, prot, flags, fd, 0);
  if (at != MAP_FAILED) forget_vanished(at, rounded);
  if (at != MAP_FAILED && !remember(at, rounded, object)) {
    sys_munmap(at, length);
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return at;
}

void door_unmapped(void *address, size_t length) {
  uint32_t devices = 0;
  for (unsigned i = 0; i < atomic_load(&used); i++) {
    struct mapping *mapping = &mappings[i];
    const uintptr_t start = atomic_load(&mapping->address);
    if (start <= RESERVED || !overlaps(start, mapping->length, (uintptr_t)address, length)) continue;
    devices |= 1u << mapping->device;
    /* Of a queue that loses only some of its pages, the rest goes on counting. */
    const bool whole = (uintptr_t)address <= start && start + mapping->length <= (uintptr_t)address + length;
    if (whole) atomic_store(&mapping->address, 0);
  }
  for (unsigned device = 0; devices >> device != 0; device++) {
    if (devices >> device & 1) emulate_collect(&door()->emulation, device);
  }
}

bool door_covers_producer(const void *address, size_t length) {
  for (unsigned i = 0; i < atomic_load(&used); i++) {
    const uintptr_t start = atomic_load(&mappings[i].address);
    if (start > RESERVED && mappings[i].producer && overlaps(start, PDLB_PP_SIZE, (uintptr_t)address, length)) {
      return true;
    }
  }
  return false;
}

bool door_producer_at(uintptr_t address, struct emulate_object *object) {
  for (unsigned i = 0; i < atomic_load_explicit(&used, memory_order_acquire); i++) {
    const struct mapping *mapping = &mappings[i];
    if (atomic_load_explicit(&mapping->address, memory_order_acquire) != (address & ~(uintptr_t)4095)) continue;
    if (!mapping->producer) continue;
    *object = (struct emulate_object){EMULATE_PRODUCER, mapping->device, mapping->port, 0, mapping->serial};
    return true;
  }
  return false;
}
