#include "handles.hpp"

#include <pthread.h>

LiveHandles live_handles;

namespace {

std::atomic<uint32_t> forks{0};

// Registered when the module is loaded, so that every handle is younger than it.
const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

uint32_t fork_count() {
  (void)registered;
  return forks.load(std::memory_order_relaxed);
}
