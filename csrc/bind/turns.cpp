#include <linux/futex.h>
#include <sys/syscall.h>

#include <algorithm>
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

// Nobody waits longer for each turn of somebody else to begin.
constexpr uint64_t kPatience = 1'000'000;

thread_local uint64_t began;
std::atomic<uint32_t> turns{0};  // counts beginnings
std::atomic<uint32_t> giving_way{0};

// Until so many have begun since that turn: all who asked then, or one who has just had his turn would often be the
// next but one again, and others would serve less.
void wait_for_others(uint32_t turn, uint32_t count) {
  const uint64_t until = pdlb_now() + count * kPatience;
  for (;;) {
    const uint32_t reached = turns.load(std::memory_order_seq_cst);
    const uint64_t now = pdlb_now();
    if (reached - turn >= count || now >= until) return;
    const timespec left{0, static_cast<long>(std::min(until - now, kPatience))};
    syscall(SYS_futex, &turns, FUTEX_WAIT_PRIVATE, reached, &left, nullptr, 0);
  }
}

}  // namespace

void Turns::begin() {
  asking.fetch_sub(1, std::memory_order_relaxed);
  began = pdlb_now();
  turns.fetch_add(1, std::memory_order_seq_cst);
  if (giving_way.load(std::memory_order_seq_cst))
    syscall(SYS_futex, &turns, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

void Turns::give_way() {
  const uint32_t others = asking.load(std::memory_order_relaxed);
  if (others == 0 || pdlb_now() - began < kTurn) return;
  const uint32_t turn = turns.load(std::memory_order_seq_cst);
  const Unlocked lock;
  giving_way.fetch_add(1, std::memory_order_seq_cst);
  wait_for_others(turn, others);
  giving_way.fetch_sub(1, std::memory_order_relaxed);
}

#endif
