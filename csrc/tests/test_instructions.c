/* The instructions that only newer processors have: MOVDIR64B, UMONITOR, UMWAIT.
 *
 * Where the processor has them, even if it is told to deny it, they are run. Where it has not, each raises SIGILL, and
 * a handler decodes it and does what it would have done, so that what goes into it is seen: its registers are what the
 * processor would have used.
 */
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "check.h"
#include "store.h"
#include "watch.h"

#if defined(__x86_64__)

static struct {
  unsigned stores, monitors, waits;
  const void *monitored;
  uint64_t deadline;
  uint32_t state;
} seen;

/* By the number in an instruction. */
static greg_t register_of(const ucontext_t *context, unsigned number) {
  static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context->uc_mcontext.gregs[order[number]];
}

/* 66 [REX] 0F 38 F8 /r: 64 bytes from memory to where the register points. Only a plain register as the source's
 * address is understood, which is what compilers make of an argument; RSP and R12 take a byte more to be named. */
static size_t do_movdir64b(const ucontext_t *context, const uint8_t *code) {
  size_t length = 1;
  const uint8_t rex = (code[length] & 0xF0) == 0x40 ? code[length++] : 0;
  if (code[0] != 0x66 || memcmp(&code[length], "\x0F\x38\xF8", 3) != 0) return 0;
  const uint8_t operands = code[length + 3], base = code[length + 4];
  const bool is_long = (operands & 7) == 4;
  if (operands >> 6 != 0 || (operands & 7) == 5 || (is_long && base != 0x24)) return 0;
  void *to = (void *)register_of(context, (operands >> 3 & 7) | (rex & 4) << 1);
  const void *from = (const void *)register_of(context, (operands & 7) | (rex & 1) << 3);
  CHECK_EQ((uintptr_t)to % 64, 0);
  memcpy(to, from, 64);
  seen.stores++;
  return length + (is_long ? 5 : 4);
}

/* F3 [REX] 0F AE /6, the address in a register; F2 [REX] 0F AE /6, the state in one and the deadline in EDX:EAX. */
static size_t do_wait(ucontext_t *context, const uint8_t *code) {
  size_t length = 1;
  const uint8_t rex = (code[length] & 0xF0) == 0x40 ? code[length++] : 0;
  if (memcmp(&code[length], "\x0F\xAE", 2) != 0 || (code[length + 2] & 0xF8) != 0xF0) return 0;
  const greg_t operand = register_of(context, (code[length + 2] & 7) | (rex & 1) << 3);
  if (code[0] == 0xF3) {
    seen.monitored = (const void *)operand;
    seen.monitors++;
  } else if (code[0] == 0xF2) {
    seen.state = (uint32_t)operand;
    seen.deadline = (uint64_t)(uint32_t)register_of(context, 2) << 32 | (uint32_t)register_of(context, 0);
    seen.waits++;
  } else {
    return 0;
  }
  return length + 3;
}

static void on_illegal(int number, siginfo_t *info, void *frame) {
  (void)number, (void)info;
  ucontext_t *context = frame;
  const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
  size_t length = do_movdir64b(context, code);
  if (!length) length = do_wait(context, code);
  if (!length) {
    signal(SIGILL, SIG_DFL);
    return;
  }
  context->uc_mcontext.gregs[REG_RIP] += (greg_t)length;
}

static void stand_in(void) {
  const struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO};
  sigaction(SIGILL, &action, NULL);
  memset(&seen, 0, sizeof seen);
}

/* One instruction writes the whole line to the producer port. */
static void line_in_one_store(void) {
  stand_in();
  _Alignas(64) struct pdlb_qe line[PDLB_QES_PER_LINE], producer[PDLB_QES_PER_LINE] = {0};
  for (size_t i = 0; i < sizeof line; i++) ((uint8_t *)line)[i] = (uint8_t)(i * 7 + 1);
  pdlb_store_movdir64b(NULL, producer, line);
  CHECK(memcmp(producer, line, sizeof line) == 0);
  CHECK_LE(seen.stores, 1);
}

static uint64_t ticks(void) { return __builtin_ia32_rdtsc(); }

/* It sleeps on an empty slot, until a time that is yet to come. */
static void empty_slot_is_watched(void) {
  stand_in();
  const uint8_t command = 0;
  const uint64_t before = ticks();
  pdlb_watch_umwait(NULL, &command, PDLB_QE_GEN);
  if (!seen.monitors) return;
  CHECK(seen.monitored == &command);
  CHECK_EQ(seen.waits, 1);
  CHECK_EQ(seen.state, 1);
  CHECK(seen.deadline > before && seen.deadline < before + (1ull << 40));
}

/* It does not sleep when the element has come, in either generation. */
static void full_slot_is_seen(void) {
  for (unsigned generation = 0; generation <= PDLB_QE_GEN; generation += PDLB_QE_GEN) {
    stand_in();
    const uint8_t command = (uint8_t)(generation | 0x40);
    pdlb_watch_umwait(NULL, &command, (uint8_t)generation);
    CHECK_EQ(seen.waits, 0);
  }
}

CHECK_MAIN(CASE(line_in_one_store), CASE(empty_slot_is_watched), CASE(full_slot_is_seen))

#else

int main(void) { return 77; }

#endif
