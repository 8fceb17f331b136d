#include "handles.hpp"

#include <pthread.h>

LiveHandles live_handles;
std::atomic<uint32_t> forks{0};

namespace {

// Registered when the module is loaded, so that every handle is younger than it.
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

}  // namespace
