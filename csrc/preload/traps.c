/* Stores to producer ports. Their pages are inaccessible, so each store raises SIGSEGV; the handler reads the
 * instruction, gives its bytes to the device, and steps over it. A store that this processor does not have raises
 * SIGILL, and is carried out as well. Everything else that raises the two goes to the program's own handlers.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <ucontext.h>

#include "decode.h"
#include "door.h"
#include "signals.h"
#include "system.h"

/* ---- registers of the interrupted program -------------------------------------------------------------------- */

/* The processor's numbering of general registers, in the order of a signal's context. */
static const int general_registers[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                          REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static uint64_t general(const ucontext_t *context, unsigned reg) {
  return (uint64_t)context->uc_mcontext.gregs[general_registers[reg]];
}

/* Where the parts of wide vector registers lie in an XSAVE area, as the processor tells. */
enum { YMM_HIGH = 2, OPMASKS = 5, ZMM_HIGH = 6, ZMM_UPPER = 7 };
static uint32_t component_offset[8];

static void learn_components(void) {
  for (unsigned component = 2; component < 8; component++) {
    unsigned size, offset, c, d;
    if (__get_cpuid_count(0xD, component, &size, &offset, &c, &d) && size != 0) component_offset[component] = offset;
  }
}

#define XSAVE_MAGIC 0x46505853u
#define XSAVE_MAGIC_AT 464
#define XSAVE_FEATURES_AT 512
#define XMM_AT 160

/* The component's bytes; NULL if they are all zero or not there. */
static const uint8_t *component(const uint8_t *area, unsigned which) {
  uint32_t magic;
  uint64_t features;
  memcpy(&magic, area + XSAVE_MAGIC_AT, sizeof magic);
  if (magic != XSAVE_MAGIC || component_offset[which] == 0) return NULL;
  memcpy(&features, area + XSAVE_FEATURES_AT, sizeof features);
  return features >> which & 1 ? area + component_offset[which] : NULL;
}

/* All 64 bytes of a vector register. */
static void vector_register(const ucontext_t *context, unsigned reg, uint8_t *bytes) {
  const uint8_t *area = (const uint8_t *)context->uc_mcontext.fpregs;
  memset(bytes, 0, 64);
  if (reg >= 16) {
    const uint8_t *upper = component(area, ZMM_UPPER);
    if (upper != NULL) memcpy(bytes, upper + (size_t)(reg - 16) * 64, 64);
    return;
  }
  memcpy(bytes, area + XMM_AT + (size_t)reg * 16, 16);
  const uint8_t *high = component(area, YMM_HIGH);
  if (high != NULL) memcpy(bytes + 16, high + (size_t)reg * 16, 16);
  const uint8_t *highest = component(area, ZMM_HIGH);
  if (highest != NULL) memcpy(bytes + 32, highest + (size_t)reg * 32, 32);
}

static uint64_t opmask(const ucontext_t *context, unsigned reg) {
  const uint8_t *masks = component((const uint8_t *)context->uc_mcontext.fpregs, OPMASKS);
  uint64_t mask = 0;
  if (masks != NULL) memcpy(&mask, masks + (size_t)reg * sizeof mask, sizeof mask);
  return mask;
}

static uint64_t segment_base(char segment) {
  uint64_t base = 0;
  const long code = segment == 'f' ? 0x1003 : 0x1004; /* ARCH_GET_FS, ARCH_GET_GS */
  if (segment != 0) syscall(SYS_arch_prctl, code, &base);
  return base;
}

static uint64_t effective_address(const ucontext_t *context, const struct store *store) {
  const struct memory_operand *memory = &store->memory;
  uint64_t address = (uint64_t)memory->displacement;
  if (memory->base >= 0) address += general(context, (unsigned)memory->base);
  if (memory->index >= 0) address += general(context, (unsigned)memory->index) << memory->scale;
  if (memory->rip_relative) address += (uint64_t)context->uc_mcontext.gregs[REG_RIP] + store->length;
  return (memory->address_32 ? (uint32_t)address : address) + segment_base(memory->segment);
}

static uint64_t swapped(uint64_t value, unsigned width) { return __builtin_bswap64(value) >> (64 - 8 * width); }

/* ---- bytes that arrive at a producer port -------------------------------------------------------------------- */

/* An element that is stored in pieces. One thread at a time writes to a port, but one may do so to several. */
struct pieces {
  uint64_t slot; /* address of the element's place */
  uint32_t present;
  uint8_t bytes[PDLB_QE_SIZE];
};
static _Thread_local struct pieces pieces;

static void deliver_piece(const struct emulate_object *target, uintptr_t address, const uint8_t *bytes,
                          unsigned count) {
  const uint64_t slot = address & ~(uint64_t)(PDLB_QE_SIZE - 1);
  const unsigned at = (unsigned)(address - slot);
  if (pieces.slot != slot || pieces.present == 0xFFFF) pieces = (struct pieces){.slot = slot};
  memcpy(pieces.bytes + at, bytes, count);
  pieces.present |= ((1u << count) - 1u) << at;
  if (pieces.present != 0xFFFF) return;
  struct pdlb_qe qe;
  memcpy(&qe, pieces.bytes, sizeof qe);
  emulate_store(&door()->emulation, target->device, target->index, target->serial, &qe, 1, true);
}

static void deliver(const struct emulate_object *target, uintptr_t address, const uint8_t *bytes, size_t count) {
  struct pdlb_qe qes[PDLB_QES_PER_LINE];
  if (address % PDLB_QE_SIZE == 0 && count % PDLB_QE_SIZE == 0 && count <= sizeof qes) {
    memcpy(qes, bytes, count);
    emulate_store(&door()->emulation, target->device, target->index, target->serial, qes,
                  (unsigned)(count / PDLB_QE_SIZE), true);
    return;
  }
  while (count > 0) {
    const size_t room = PDLB_QE_SIZE - address % PDLB_QE_SIZE;
    const size_t now = count < room ? count : room;
    deliver_piece(target, address, bytes, (unsigned)now);
    address += now;
    bytes += now;
    count -= now;
  }
}

/* ---- instructions -------------------------------------------------------------------------------------------- */

/* REP MOVS and REP STOS: as far as they stay in the page. They can be resumed, like the processor's. */
static bool run_string(ucontext_t *context, const struct emulate_object *target, const struct store *store,
                       uintptr_t address) {
  greg_t *registers = context->uc_mcontext.gregs;
  const uintptr_t page_end = (address | 4095) + 1;
  uint64_t left = store->repeat ? (uint64_t)registers[REG_RCX] : 1;
  if (registers[REG_EFL] & 0x400) return false; /* backwards */
  while (left > 0 && (uintptr_t)registers[REG_RDI] + store->width <= page_end) {
    uint8_t bytes[8];
    const void *source = store->source == SOURCE_STRING_MOVE ? (const void *)(uintptr_t)registers[REG_RSI]
                                                             : (const void *)&registers[REG_RAX];
    if (!door_copy_in(bytes, source, store->width)) return false;
    deliver(target, (uintptr_t)registers[REG_RDI], bytes, store->width);
    registers[REG_RDI] += store->width;
    if (store->source == SOURCE_STRING_MOVE) registers[REG_RSI] += store->width;
    left--;
    if (store->repeat) registers[REG_RCX] = (greg_t)left;
  }
  if (left == 0) registers[REG_RIP] += store->length;
  return true;
}

/* Those elements of a vector that the instruction's mask names. */
static void deliver_masked(const ucontext_t *context, const struct emulate_object *target, const struct store *store,
                           const uint8_t *source) {
  const uintptr_t start = effective_address(context, store); /* the fault's address may be further on */
  const uint64_t bits = store->mask == MASK_OPMASK ? opmask(context, store->mask_reg) : 0;
  uint8_t signs[64] = {0};
  if (store->mask == MASK_VECTOR) vector_register(context, store->mask_reg, signs);
  for (unsigned i = 0; i < store->width / store->element; i++) {
    const unsigned at = i * store->element;
    if (!(store->mask == MASK_OPMASK ? bits >> i & 1 : signs[at + store->element - 1] >> 7)) continue;
    deliver(target, start + at, source + at, store->element);
  }
}

/* What the instruction stores, but for strings and ordinary memory. */
static const uint8_t *register_bytes(const ucontext_t *context, const struct store *store, uint8_t bytes[64]) {
  uint64_t value = store->immediate;
  if (store->source == SOURCE_VECTOR) {
    vector_register(context, store->reg, bytes);
    return bytes + store->skip;
  }
  if (store->source != SOURCE_IMMEDIATE) value = general(context, store->reg);
  if (store->source == SOURCE_HIGH_BYTE) value >>= 8;
  if (store->source == SOURCE_GENERAL_SWAPPED) value = swapped(value, store->width);
  memcpy(bytes, &value, sizeof value);
  return bytes;
}

/* Carry out the store at the program's RIP. False if it is none that we know. */
static bool run_store(ucontext_t *context, const struct emulate_object *target, uintptr_t address) {
  const uint8_t *code = (const uint8_t *)(uintptr_t)context->uc_mcontext.gregs[REG_RIP];
  uint8_t bytes[64];
  const uint8_t *source = bytes;
  struct store store;
  if (!decode_store(code, &store)) return false;
  if (store.source == SOURCE_STRING_MOVE || store.source == SOURCE_STRING_FILL) {
    return run_string(context, target, &store, address);
  }
  if (store.source == SOURCE_MEMORY) {
    if (!door_copy_in(bytes, (const void *)(uintptr_t)effective_address(context, &store), 64)) return false;
  } else {
    source = register_bytes(context, &store, bytes);
  }
  if (store.mask == MASK_NONE) {
    deliver(target, address, source, store.width);
  } else {
    deliver_masked(context, target, &store, source);
  }
  context->uc_mcontext.gregs[REG_RIP] += store.length;
  return true;
}

static void on_fault(int number, siginfo_t *info, void *data) {
  ucontext_t *context = data;
  const uintptr_t address = (uintptr_t)info->si_addr;
  struct emulate_object target;
  const int saved = errno;
  if (info->si_code > 0 && door_producer_at(address, &target)) {
    if (run_store(context, &target, address)) {
      errno = saved;
      return;
    }
    door_misuse(target.device, target.index, "access to a producer port that is not a store of registers or memory");
  }
  errno = saved;
  signals_chain(number, info, context);
}

/* ---- instructions that this processor does not have ---------------------------------------------------------- */

/* To a port or to ordinary memory: programs that were built for processors with MOVDIR64B and MOVDIRI do not ask. */
static bool run_direct_store(ucontext_t *context, const struct store *store) {
  const bool line = store->source == SOURCE_MEMORY;
  const uint64_t operand = effective_address(context, store);
  const uintptr_t address = line ? general(context, store->reg) : operand;
  struct emulate_object target;
  uint8_t bytes[64];
  if (line && (address % 64 != 0 || !door_copy_in(bytes, (const void *)(uintptr_t)operand, 64))) return false;
  if (!line) register_bytes(context, store, bytes);
  if (door_producer_at(address, &target)) {
    deliver(&target, address, bytes, store->width);
  } else if (!door_copy_out((void *)address, bytes, store->width)) {
    return false;
  }
  context->uc_mcontext.gregs[REG_RIP] += store->length;
  return true;
}

/* A wait that ends at once, as it may at any time. */
static void run_pause(ucontext_t *context, unsigned length) {
  context->uc_mcontext.gregs[REG_RIP] += length;
  context->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)1;
  syscall(SYS_sched_yield);
}

static bool run_unknown(ucontext_t *context) {
  const uint8_t *code = (const uint8_t *)(uintptr_t)context->uc_mcontext.gregs[REG_RIP];
  const unsigned pause = decode_pause(code);
  struct store store;
  if (pause != 0) {
    run_pause(context, pause);
    return true;
  }
  if (!decode_store(code, &store)) return false;
  return (store.source == SOURCE_MEMORY || store.source == SOURCE_GENERAL) && run_direct_store(context, &store);
}

static void on_unknown_instruction(int number, siginfo_t *info, void *data) {
  const int saved = errno;
  const bool done = info->si_code > 0 && run_unknown(data);
  errno = saved;
  if (!done) signals_chain(number, info, data);
}

void door_catch_stores(void) {
  static _Atomic bool caught;
  if (atomic_exchange(&caught, true)) {
    signals_unblock();
    return;
  }
  learn_components();
  signals_install(SIGSEGV, on_fault);
  signals_install(SIGILL, on_unknown_instruction);
}
