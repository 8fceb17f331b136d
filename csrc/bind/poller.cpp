// What a worker's event loop waits with: an epoll set, and the worker's port to be told when the loop sleeps.
//
// select.epoll gives up the interpreter lock in every call. A loop makes several turns for each connection, most of
// which only look; on a busy interpreter each of them would hand the lock to another thread and wait for it to come
// back. Here the lock is given up only to sleep.
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <mutex>

#include "handles.hpp"
#include "unlocked.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

// As Python's selectors module has them.
constexpr uint32_t kRead = 1, kWrite = 2;

// Where a selectors.SelectorKey has its events.
constexpr Py_ssize_t kKeyEvents = 2;

constexpr int kMaxEvents = 256;

[[noreturn]] void throw_errno() {
  PyErr_SetFromErrno(PyExc_OSError);
  throw py::error_already_set();
}

class Poller {
 public:
  explicit Poller(std::shared_ptr<Port> port) : port_(std::move(port)), set_(epoll_create1(EPOLL_CLOEXEC)) {
    if (set_ < 0) throw_errno();
  }
  ~Poller() { close(); }
  Poller(const Poller &) = delete;
  Poller &operator=(const Poller &) = delete;

  void close() {
    const int set = set_.exchange(-1);
    if (set >= 0) ::close(set);
  }

  int fileno() const { return set_; }

  void set_port(std::shared_ptr<Port> port) {
    const std::lock_guard<std::mutex> lock(port_mutex_);
    port_.swap(port);
  }

  void control(int operation, int fd, uint32_t events) {
    epoll_event event{};
    event.events =
        (events & kRead ? static_cast<uint32_t>(EPOLLIN) : 0) | (events & kWrite ? static_cast<uint32_t>(EPOLLOUT) : 0);
    event.data.fd = fd;
    if (epoll_ctl(set_, operation, fd, &event) < 0) throw_errno();
  }

  // [(key, events)] of what is ready within `timeout` seconds, None for no end. `offer`: the port may be chosen while
  // the loop sleeps.
  py::list poll(const py::object &timeout, const py::dict &keys, bool offer) {
    std::array<epoll_event, kMaxEvents> ready;
    Turns::give_way();
    const int milliseconds = milliseconds_of(timeout);
    const int count =
        milliseconds == 0 ? epoll_wait(set_, ready.data(), kMaxEvents, 0) : sleep(ready, milliseconds, offer);
    if (count < 0 && errno != EINTR) throw_errno();
    if (count < 0 && PyErr_CheckSignals() < 0) throw py::error_already_set();
    py::list found;
    for (int i = 0; i < count; i++) {
      const py::object key =
          py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(keys.ptr(), py::int_(ready[i].data.fd).ptr()));
      if (!key) continue;
      const uint32_t wanted = py::cast<uint32_t>(py::handle(PyTuple_GET_ITEM(key.ptr(), kKeyEvents)));
      // Errors and hang-ups are for whoever waits, to read or to write.
      const uint32_t events = (ready[i].events & ~static_cast<uint32_t>(EPOLLOUT) ? kRead : 0) |
                              (ready[i].events & ~static_cast<uint32_t>(EPOLLIN) ? kWrite : 0);
      if (events & wanted) found.append(py::make_tuple(key, events & wanted));
    }
    return found;
  }

 private:
  // Rounded up: a loop must not look in vain just before its time.
  static int milliseconds_of(const py::object &timeout) {
    if (timeout.is_none()) return -1;
    const double milliseconds = std::ceil(timeout.cast<double>() * 1e3);
    return milliseconds <= 0 ? 0 : milliseconds > 1e9 ? 1'000'000'000 : static_cast<int>(milliseconds);
  }

  int sleep(std::array<epoll_event, kMaxEvents> &ready, int milliseconds, bool offer) {
    const std::shared_ptr<PortHandle> handle = offer ? pin() : nullptr;
    const int set = set_;
    const Unlocked lock;
    if (handle) pdlb_port_parked(handle->port, true);
    const int count = epoll_wait(set, ready.data(), kMaxEvents, milliseconds);
    const int error = errno;
    if (handle) pdlb_port_parked(handle->port, false);
    errno = error;
    return count;
  }

  // nullptr if it is closed.
  std::shared_ptr<PortHandle> pin() {
    std::shared_ptr<Port> port;
    {
      const std::lock_guard<std::mutex> lock(port_mutex_);
      port = port_;
    }
    return port->open_handle();
  }

  std::mutex port_mutex_;
  std::shared_ptr<Port> port_;
  std::atomic<int> set_;
};

}  // namespace

void register_poller(py::module_ &module) {
  py::class_<Poller>(module, "Poller", py::is_final())
      .def(py::init<std::shared_ptr<Port>>(), "port"_a)
      .def("fileno", &Poller::fileno)
      .def("set_port", &Poller::set_port, "port"_a)
      .def(
          "add", [](Poller &poller, int fd, uint32_t events) { poller.control(EPOLL_CTL_ADD, fd, events); }, "fd"_a,
          "events"_a)
      .def(
          "change", [](Poller &poller, int fd, uint32_t events) { poller.control(EPOLL_CTL_MOD, fd, events); }, "fd"_a,
          "events"_a)
      .def(
          "remove", [](Poller &poller, int fd) { poller.control(EPOLL_CTL_DEL, fd, 0); }, "fd"_a)
      .def("poll", &Poller::poll, "timeout"_a, "keys"_a, "offer"_a)
      .def("close", &Poller::close);
}
