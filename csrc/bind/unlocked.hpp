// Giving up the interpreter lock: around a call that blocks, and to others whose turn it is.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

// Who takes the lock and keeps it, call after call, keeps others from it for the interpreter's switch interval, 5 ms.
// So those who come back from a wait are counted, and whoever has had his turn gives way to them at a moment of his
// own choice: between two connections, not in the middle of one.
class Turns {
 public:
  // To be called around asking for the lock.
  static void ask() { asking.fetch_add(1, std::memory_order_relaxed); }
  static void begin();

  // Let somebody who asks have the lock, if this thread's turn was long enough. The lock is held.
  static void give_way();

 private:
  static std::atomic<uint32_t> asking;
};

// Until Python 3.13 a thread that asks for the lock while the interpreter ends is made to exit by unwinding its stack,
// which C++ answers by ending the process. Such a thread stays where it is instead, as later versions have it.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    Turns::ask();
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind &) {
      for (;;) pause();
    }
    Turns::begin();
  }
  Unlocked(const Unlocked &) = delete;
  Unlocked &operator=(const Unlocked &) = delete;

 private:
  PyThreadState *const state_;
};

// What `call` returns, called without the interpreter lock.
template <typename Call>
auto unlocked(Call &&call) {
  const Unlocked lock;
  return call();
}
