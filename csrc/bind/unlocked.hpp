// Giving up the interpreter lock around a call that blocks.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

// Until Python 3.13 a thread that asks for the lock while the interpreter ends is made to exit by unwinding its stack,
// which C++ answers by ending the process. Such a thread stays where it is instead, as later versions have it.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind &) {
      for (;;) pause();
    }
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
