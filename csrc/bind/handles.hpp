// Who owns the core's handles, and for how long.
//
// A core object lives as long as anybody uses it: each handle holds its parent's, and a call that is inside the core
// holds its own. close() only gives up the Python object's share and ends waits, so it is safe at any time.
//
// After fork() the child's copies are not its own: they refuse to be used and are never closed there.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "errors.hpp"
#include "pdlb.h"

// Counts forks of this process; a handle remembers the count of its birth.
extern std::atomic<uint32_t> forks;
inline uint32_t fork_count() { return forks.load(std::memory_order_relaxed); }

// Open handles by kind, for tests that look for leaks.
struct LiveHandles {
  std::atomic<int> devices{0}, domains{0}, ports{0}, acceptors{0};
};
extern LiveHandles live_handles;

struct DeviceHandle {
  explicit DeviceHandle(pdlb_device *device, std::shared_ptr<void> ground = nullptr)
      : device(device), ground(std::move(ground)) {
    live_handles.devices++;
  }
  ~DeviceHandle() {
    live_handles.devices--;
    if (born == fork_count()) pdlb_device_close(device);
  }
  DeviceHandle(const DeviceHandle &) = delete;
  DeviceHandle &operator=(const DeviceHandle &) = delete;

  pdlb_device *const device;
  const std::shared_ptr<void> ground;  // what the device stands on, if it is emulated
  const uint32_t born = fork_count();
};

struct DomainHandle {
  DomainHandle(pdlb_domain *domain, std::shared_ptr<DeviceHandle> parent) : domain(domain), parent(std::move(parent)) {
    live_handles.domains++;
  }
  ~DomainHandle() {
    live_handles.domains--;
    if (born == fork_count()) pdlb_domain_close(domain);
  }
  DomainHandle(const DomainHandle &) = delete;
  DomainHandle &operator=(const DomainHandle &) = delete;

  pdlb_domain *const domain;
  const std::shared_ptr<DeviceHandle> parent;
  const uint32_t born = fork_count();
};

struct PortHandle {
  PortHandle(pdlb_port *port, std::shared_ptr<DomainHandle> parent) : port(port), parent(std::move(parent)) {
    live_handles.ports++;
  }
  ~PortHandle() {
    live_handles.ports--;
    if (born == fork_count()) pdlb_port_close(port);
  }
  PortHandle(const PortHandle &) = delete;
  PortHandle &operator=(const PortHandle &) = delete;

  pdlb_port *const port;
  const std::shared_ptr<DomainHandle> parent;
  const uint32_t born = fork_count();
};

// A Python object's share of a handle, given up by close(). In a forked child it counts as closed, and its lock, which
// another thread may have held at the fork, is left alone.
template <typename Handle>
class Share {
 public:
  Share(std::shared_ptr<Handle> handle, const char *name)
      : born_(handle->born), name_(name), handle_(std::move(handle)) {}

  // The handle, kept alive for the caller; raises ClosedError.
  std::shared_ptr<Handle> pin() const {
    std::shared_ptr<Handle> handle = get();
    if (!handle) throw_closed(name_);
    return handle;
  }

  std::shared_ptr<Handle> get() const {
    if (!ours()) return nullptr;
    const std::lock_guard<std::mutex> lock(mutex_);
    return handle_;
  }

  // Returns the share, to be dropped by the caller once no lock is held.
  std::shared_ptr<Handle> give_up() {
    if (!ours()) return nullptr;
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::move(handle_);
  }

  bool ours() const { return born_ == fork_count(); }
  bool closed() const { return !get(); }

 private:
  const uint32_t born_;
  const char *const name_;
  mutable std::mutex mutex_;
  std::shared_ptr<Handle> handle_;
};

// A port has one user thread at a time. Its hot calls take no lock: they hold the port by one flag. Whoever enters,
// leaves or closes has the interpreter lock where there is one, and needs no atomic instruction, of which four would be
// a third of what an event costs.
class Port {
 public:
  explicit Port(std::shared_ptr<PortHandle> handle) : raw_(handle->port), share_(std::move(handle), "port") {}

  enum class Entry { entered, busy, closed };

  Entry enter() {
    if (!share_.ours()) return Entry::closed;
    const uint32_t before = set(kBusy);
    if (before == 0) return Entry::entered;
    if (!(before & kClosing)) return Entry::busy;
    if (!(before & kBusy)) leave();
    return Entry::closed;
  }

  // For a call that keeps the interpreter lock from its beginning to its end: where there is one, nobody else can come
  // meanwhile, and nothing need be marked.
#ifdef Py_GIL_DISABLED
  Entry enter_briefly() { return enter(); }
  void leave_briefly() { leave(); }
#else
  Entry enter_briefly() {
    const uint32_t state = state_.load(std::memory_order_relaxed);
    if (state == 0 && share_.ours()) return Entry::entered;
    return share_.ours() && !(state & kClosing) ? Entry::busy : Entry::closed;
  }
  void leave_briefly() {}
#endif

  void leave() {
    if (unset(kBusy) & kClosing) share_.give_up();
  }

  // Ends a wait in progress; the last one out closes the core's port.
  void close() {
    if (!share_.ours()) return;
    const uint32_t before = set(kClosing);
    if (const std::shared_ptr<PortHandle> handle = share_.get()) pdlb_port_cancel(handle->port);
    if (!(before & kBusy)) share_.give_up();
  }

  bool closed() const { return !share_.ours() || state_.load(std::memory_order_acquire) & kClosing; }

  // For calls that any thread may make.
  std::shared_ptr<PortHandle> pin() const {
    if (closed()) throw_closed("port");
    return share_.pin();
  }

  // The same, or nullptr once it is closed.
  std::shared_ptr<PortHandle> open_handle() const { return closed() ? nullptr : share_.get(); }

  // Between enter and leave only.
  pdlb_port *raw() const { return raw_; }

 private:
  static constexpr uint32_t kBusy = 1, kClosing = 2;

  // Both return what was set before.
#ifdef Py_GIL_DISABLED
  uint32_t set(uint32_t flag) { return state_.fetch_or(flag, std::memory_order_acq_rel); }
  uint32_t unset(uint32_t flag) { return state_.fetch_and(~flag, std::memory_order_acq_rel); }
#else
  uint32_t set(uint32_t flag) {
    const uint32_t before = state_.load(std::memory_order_relaxed);
    state_.store(before | flag, std::memory_order_release);
    return before;
  }
  uint32_t unset(uint32_t flag) {
    const uint32_t before = state_.load(std::memory_order_relaxed);
    state_.store(before & ~flag, std::memory_order_release);
    return before;
  }
#endif

  std::atomic<uint32_t> state_{0};
  pdlb_port *const raw_;
  Share<PortHandle> share_;
};

using Device = Share<DeviceHandle>;
using Domain = Share<DomainHandle>;

void register_device(pybind11::module_ &module);
void register_port(pybind11::module_ &module);
void register_settings(pybind11::module_ &module);
void register_port_calls();
// A port's functions by their names. `domain` is the one that the queues must belong to.
pybind11::dict bind_calls(const std::shared_ptr<Port> &port, const pybind11::object &domain, uint32_t cq_depth);
void register_acceptor(pybind11::module_ &module);
void register_connection(pybind11::module_ &module);
void register_emulated(pybind11::module_ &module);
void register_inlet(pybind11::module_ &module);
void register_poller(pybind11::module_ &module);
void register_receiver(pybind11::module_ &module);
void register_socket(pybind11::module_ &module);
void register_link(pybind11::module_ &module);
void register_prompt(pybind11::module_ &module);
void register_first_turns(pybind11::module_ &module);
