#include <linux/futex.h>
#include <sys/syscall.h>

#include <ctime>

#include "pdlb.h"
#include "unlocked.hpp"

std::atomic<uint32_t> Turns::asking{0};

#ifdef Py_GIL_DISABLED

void Turns::begin() { asking.fetch_sub(1, std::memory_order_relaxed); }
void Turns::give_way() {}

#else

namespace {

// Long beside a switch of threads, short beside what a client notices.
constexpr uint64_t kTurn = 500'000;

// Nobody waits longer for somebody else's turn to begin.
constexpr timespec kPatience{0, 1'000'000};

thread_local uint64_t began;
std::atomic<uint32_t> turns{0};  // counts beginnings
std::atomic<uint32_t> giving_way{0};

void wait_for_another(uint32_t turn) { syscall(SYS_futex, &turns, FUTEX_WAIT_PRIVATE, turn, &kPatience, nullptr, 0); }

}  // namespace

void Turns::begin() {
  asking.fetch_sub(1, std::memory_order_relaxed);
  began = pdlb_now();
  turns.fetch_add(1, std::memory_order_seq_cst);
  if (giving_way.load(std::memory_order_seq_cst))
    syscall(SYS_futex, &turns, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

void Turns::give_way() {
  if (asking.load(std::memory_order_relaxed) == 0 || pdlb_now() - began < kTurn) return;
  const uint32_t turn = turns.load(std::memory_order_seq_cst);
  const Unlocked lock;
  giving_way.fetch_add(1, std::memory_order_seq_cst);
  wait_for_another(turn);
  giving_way.fetch_sub(1, std::memory_order_relaxed);
}

#endif
