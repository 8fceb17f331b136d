// The accepting thread.
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <optional>

#include "handles.hpp"
#include "receiving.hpp"
#include "unlocked.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

// Holds the domain, and the port for itself, for as long as the thread may run.
class Acceptor : public Source {
 public:
  Acceptor(const Domain &domain, std::shared_ptr<Port> port, uint32_t queue, uint32_t slots, uint32_t batch,
           bool blocking, std::shared_ptr<Board> board, bool directed, bool holds, bool by_workers)
      : domain_(domain.pin()), port_(std::move(port)), board_(std::move(board)) {
    enter(*port_);
    pdlb_acceptor_config config{queue,    slots, batch,     blocking, board_ ? board_->raw() : nullptr,
                                directed, holds, by_workers};
    pdlb_error error{};
    const int rc = pdlb_acceptor_start(domain_->domain, port_->raw(), &config, &acceptor_, &error);
    if (rc < 0) {
      port_->leave();
      throw_error(error);
    }
    live_handles.acceptors++;
  }

  ~Acceptor() override {
    live_handles.acceptors--;
    if (born_ == fork_count()) {
      end();
      pdlb_acceptor_free(acceptor_);
    } else if (!ended_) {
      port_->leave();
    }
    if (next_port_) next_port_->leave();
  }

  // Sends through another domain, which is held beside the old one until moved() returns.
  void move(const Domain &domain, std::shared_ptr<Port> port, pdlb_destination destination) {
    std::shared_ptr<DomainHandle> handle = domain.pin();
    enter(*port);
    destination.domain = handle->domain;
    destination.port = port->raw();
    pdlb_error error{};
    if (pdlb_acceptor_move(raw(), &destination, &error) < 0) {
      port->leave();
      throw_error(error);
    }
    next_domain_ = std::move(handle);
    next_port_ = std::move(port);
  }

  void moved() {
    if (!next_port_) return;
    pdlb_error error{};
    const int rc = [&] {
      const Unlocked lock;
      return pdlb_acceptor_moved(raw(), &error);
    }();
    std::swap(domain_, next_domain_);
    std::swap(port_, next_port_);
    next_port_->leave();
    next_domain_.reset();
    next_port_.reset();
    check(rc, error);
  }

  // The first call ends the thread, and lets go of port and domain; the counters and what was left can still be asked
  // for.
  void end() {
    if (ended_.exchange(true)) return;
    pdlb_acceptor_end(raw());
    port_->leave();
    domain_.reset();
  }

  // Whom the policy's function names: called on the accepting thread. An exception is reported, and nobody picked.
  static uint32_t ask(void *self, const pdlb_arrival *arrival) {
    const py::gil_scoped_acquire locked;
    py::object function;
    {
      auto *acceptor = static_cast<Acceptor *>(self);
      const std::lock_guard<std::mutex> lock(acceptor->function_mutex_);
      function = acceptor->function_;
    }
    try {
      const py::bytes address(static_cast<const char *>(arrival->address), arrival->address_size);
      return function(arrival->listener, arrival->current, arrival->family, address).cast<uint32_t>();
    } catch (py::error_already_set &error) {
      error.discard_as_unraisable("a policy");
    } catch (const py::cast_error &) {
    }
    return PDLB_NONE;
  }

  void set_policy(pdlb_policy_config config, py::object function) {
    config.pick = &Acceptor::ask;
    config.context = this;
    {
      const std::lock_guard<std::mutex> lock(function_mutex_);
      if (!function.is_none()) std::swap(function_, function);
    }
    pdlb_error error{};
    check(pdlb_acceptor_set_policy(raw(), &config, &error), error);
  }

  // It may hold what holds the acceptor. Once the thread has ended, nobody calls it.
  void forget_function() {
    py::object function; /* dropped when the lock is not held any more */
    const std::lock_guard<std::mutex> lock(function_mutex_);
    std::swap(function_, function);
  }

  void waits(uint32_t worker) override { pdlb_acceptor_came(acceptor_, worker, true); }

  // To take says that it came.
  void received(uint32_t worker, uint32_t count) override {
    if (count == 0) waits(worker);
  }

  int take(uint32_t worker, uint64_t token, pdlb_accepted *accepted) override {
    return pdlb_acceptor_take(acceptor_, worker, token, accepted);
  }

  uint32_t accept(const pdlb_lane &lane, uint32_t max, pdlb_accepted *kept) override {
    return pdlb_acceptor_accept(acceptor_, &lane, max, kept);
  }

  bool lead(uint32_t worker, pdlb_port *port) override { return pdlb_acceptor_lead(acceptor_, worker, port); }
  bool waiting() override { return pdlb_acceptor_waits(acceptor_); }
  void led() override { pdlb_acceptor_led(acceptor_); }

  void closed(uint32_t worker, uint32_t listener, bool) override { pdlb_acceptor_closed(acceptor_, worker, listener); }

  pdlb_acceptor *raw() const {
    if (born_ != fork_count()) throw_closed("acceptor");
    return acceptor_;
  }

 private:
  std::shared_ptr<DomainHandle> domain_, next_domain_;
  std::shared_ptr<Port> port_, next_port_;
  const std::shared_ptr<Board> board_;
  pdlb_acceptor *acceptor_ = nullptr;
  std::atomic<bool> ended_{false};
  std::mutex function_mutex_;
  py::object function_;
  const uint32_t born_ = fork_count();
};

int add(const Acceptor &acceptor, int fd, int proxy) {
  pdlb_error error{};
  return check(pdlb_acceptor_add_proxied(acceptor.raw(), fd, static_cast<pdlb_proxy>(proxy), &error), error);
}

void remove_listener(const Acceptor &acceptor, uint32_t listener, bool drain) {
  pdlb_error error{};
  check(pdlb_acceptor_remove(acceptor.raw(), listener, drain, &error), error);
}

// Descriptor, listener, family and protocol; and for whom a proxy speaks.
using Taken = std::optional<std::tuple<int, uint32_t, int, int, std::optional<std::tuple<py::bytes, py::bytes>>>>;

Taken taken(const pdlb_accepted &accepted) {
  const std::unique_ptr<pdlb_proxied, decltype(&std::free)> named(accepted.proxied, &std::free);
  std::optional<std::tuple<py::bytes, py::bytes>> proxied;
  if (named) proxied = addresses(*named);
  return std::make_tuple(accepted.fd, accepted.listener, accepted.family, accepted.protocol, std::move(proxied));
}

Taken take(const Acceptor &acceptor, uint32_t worker, uint64_t token) {
  pdlb_accepted accepted;
  if (pdlb_acceptor_take(acceptor.raw(), worker, token, &accepted) < 0) return std::nullopt;
  return taken(accepted);
}

Taken take_left(const Acceptor &acceptor) {
  pdlb_accepted accepted;
  if (pdlb_acceptor_take_left(acceptor.raw(), &accepted) < 0) return std::nullopt;
  return taken(accepted);
}

uint64_t after(double seconds) {
  return seconds > 0 ? pdlb_now() + static_cast<uint64_t>(std::min(seconds, 1e9) * 1e9) : 0;
}

bool wait(const Acceptor &acceptor, double timeout) {
  pdlb_acceptor *raw = acceptor.raw();
  const uint64_t deadline = after(timeout);
  const Unlocked lock;
  return pdlb_acceptor_wait(raw, deadline);
}

// Why the domain is in trouble, as a number of enum pdlb_refusal; 0 if it is not.
int trouble(const Acceptor &acceptor, double timeout) {
  pdlb_acceptor *raw = acceptor.raw();
  const uint64_t deadline = after(timeout);
  const Unlocked lock;
  return pdlb_acceptor_trouble(raw, deadline);
}

void move(Acceptor &acceptor, const Domain &domain, std::shared_ptr<Port> port, uint32_t queue, bool directed,
          bool holds, const std::vector<std::pair<uint32_t, uint32_t>> &queues) {
  std::vector<pdlb_worker_queue> given;
  given.reserve(queues.size());
  for (const auto &[worker, own] : queues) given.push_back({worker, own});
  pdlb_destination destination{};
  destination.queue = queue;
  destination.directed = directed;
  destination.holds = holds;
  destination.queues = given.data();
  destination.num_queues = static_cast<uint32_t>(given.size());
  acceptor.move(domain, std::move(port), destination);
}

void end(Acceptor &acceptor) {
  acceptor.raw();
  {
    const Unlocked lock;
    acceptor.end();
  }
  acceptor.forget_function();
}

uint32_t add_worker(const Acceptor &acceptor, uint32_t queue) {
  pdlb_error error{};
  uint32_t worker = PDLB_NONE;
  check(pdlb_acceptor_worker_add(acceptor.raw(), queue, &worker, &error), error);
  return worker;
}

// The epoll set in which its event loop sleeps, -1 for none; what stands for its port there; that port's id.
void set_loop(const Acceptor &acceptor, uint32_t worker, int set, uint32_t mark, uint32_t port) {
  pdlb_error error{};
  check(pdlb_acceptor_worker_loop(acceptor.raw(), worker, set, mark, port, &error), error);
}

// A descriptor of the worker's shelf, which stays the acceptor's.
int seat_worker(const Acceptor &acceptor, uint32_t worker, uint32_t seat) {
  pdlb_error error{};
  return check(pdlb_acceptor_worker_seat(acceptor.raw(), worker, seat, &error), error);
}

// Connections, those of them that wait, and whether it stalls.
std::tuple<uint32_t, uint32_t, bool> worker_stats(const Acceptor &acceptor, uint32_t worker) {
  pdlb_worker_stats stats;
  pdlb_acceptor_worker_stats(acceptor.raw(), worker, &stats);
  return {stats.open, stats.waiting, stats.stalled};
}

void set_policy(Acceptor &acceptor, int policy, uint32_t queue, int tie, uint32_t choices, double bound,
                bool per_listener, uint64_t seed, uint64_t grace_ns, py::object function) {
  pdlb_policy_config config{};
  config.policy = static_cast<pdlb_policy>(policy);
  config.queue = queue;
  config.tie = static_cast<pdlb_tie>(tie);
  config.choices = choices;
  config.bound = bound;
  config.per_listener = per_listener;
  config.seed = seed;
  config.grace_ns = grace_ns;
  acceptor.set_policy(config, std::move(function));
}

void set_limits(const Acceptor &acceptor, uint32_t total, uint32_t total_again, uint32_t worker, uint32_t worker_again,
                int when_full, const std::string &reply) {
  const pdlb_connection_limits limits{total,
                                      total_again,
                                      worker,
                                      worker_again,
                                      static_cast<pdlb_when_full>(when_full),
                                      reply.data(),
                                      static_cast<uint32_t>(reply.size())};
  pdlb_error error{};
  check(pdlb_acceptor_set_limits(acceptor.raw(), &limits, &error), error);
}

py::dict stats(const Acceptor &acceptor) {
  struct pdlb_acceptor_stats stats;
  pdlb_acceptor_stats(acceptor.raw(), &stats);
  return py::dict("accepted"_a = stats.accepted, "taken"_a = stats.taken, "refused"_a = stats.refused,
                  "refused_in_all"_a = stats.refused_in_all, "full"_a = stats.full, "overflowed"_a = stats.overflowed,
                  "drained"_a = stats.drained, "aborted"_a = stats.aborted, "taken_back"_a = stats.taken_back,
                  "retries"_a = stats.retries, "resent"_a = stats.resent, "kept"_a = stats.kept, "led"_a = stats.led,
                  "held_up"_a = stats.held_up, "backoffs"_a = stats.backoffs, "last_errno"_a = stats.last_errno,
                  "header_broken"_a = stats.header_broken, "header_late"_a = stats.header_late,
                  "header_gone"_a = stats.header_gone,
                  "handoff"_a = std::vector<uint64_t>(stats.handoff, stats.handoff + PDLB_HANDOFF_BUCKETS));
}

}  // namespace

void register_acceptor(py::module_ &module) {
  py::class_<Acceptor, Source, std::shared_ptr<Acceptor>>(module, "Acceptor", py::is_final())
      .def(py::init<const Domain &, std::shared_ptr<Port>, uint32_t, uint32_t, uint32_t, bool, std::shared_ptr<Board>,
                    bool, bool, bool>(),
           "domain"_a, "port"_a, "queue"_a, "slots"_a, "batch"_a, "blocking"_a, "board"_a = nullptr,
           "directed"_a = false, "holds"_a = false, "by_workers"_a = false)
      .def("door", [](const Acceptor &acceptor) { return pdlb_acceptor_door(acceptor.raw()); })
      .def("move", &move, "domain"_a, "port"_a, "queue"_a, "directed"_a, "holds"_a, "queues"_a)
      .def("moved", &Acceptor::moved)
      .def("trouble", &trouble, "timeout"_a)
      .def(
          "report",
          [](const Acceptor &acceptor, int trouble) {
            pdlb_acceptor_report(acceptor.raw(), static_cast<pdlb_refusal>(trouble));
          },
          "trouble"_a)
      .def("unwatch", [](const Acceptor &acceptor) { pdlb_acceptor_unwatch(acceptor.raw()); })
      .def("add", &add, "fd"_a, "proxy"_a = 0)
      .def("remove", &remove_listener, "listener"_a, "drain"_a)
      .def(
          "listens", [](const Acceptor &acceptor, uint32_t id) { return pdlb_acceptor_listens(acceptor.raw(), id); },
          "listener"_a)
      .def(
          "pause", [](const Acceptor &acceptor, bool paused) { pdlb_acceptor_pause(acceptor.raw(), paused); },
          "paused"_a)
      .def("take", &take, "worker"_a, "token"_a)
      .def("take_left", &take_left)
      .def("add_worker", &add_worker, "queue"_a)
      .def("seat_worker", &seat_worker, "worker"_a, "seat"_a)
      .def("set_loop", &set_loop, "worker"_a, "sleeps_in"_a, "mark"_a, "port"_a)
      .def(
          "bury_worker",
          [](const Acceptor &acceptor, uint32_t worker) { pdlb_acceptor_worker_bury(acceptor.raw(), worker); },
          "worker"_a)
      .def(
          "remove_worker",
          [](const Acceptor &acceptor, uint32_t worker) { pdlb_acceptor_worker_remove(acceptor.raw(), worker); },
          "worker"_a)
      .def(
          "pause_worker",
          [](const Acceptor &acceptor, uint32_t worker, bool paused) {
            pdlb_acceptor_worker_pause(acceptor.raw(), worker, paused);
          },
          "worker"_a, "paused"_a)
      .def(
          "set_queue",
          [](const Acceptor &acceptor, uint32_t worker, uint32_t queue) {
            pdlb_acceptor_worker_queue(acceptor.raw(), worker, queue);
          },
          "worker"_a, "queue"_a)
      .def(
          "set_weight",
          [](const Acceptor &acceptor, uint32_t worker, uint32_t weight) {
            pdlb_acceptor_worker_weigh(acceptor.raw(), worker, weight);
          },
          "worker"_a, "weight"_a)
      .def("set_limits", &set_limits, "total"_a, "total_again"_a, "worker"_a, "worker_again"_a, "when_full"_a,
           "reply"_a)
      .def("worker_stats", &worker_stats, "worker"_a)
      .def("set_policy", &set_policy, "policy"_a, "queue"_a, "tie"_a, "choices"_a, "bound"_a, "per_listener"_a,
           "seed"_a, "grace_ns"_a, "function"_a)
      .def(
          "stop", [](const Acceptor &acceptor, double drain) { pdlb_acceptor_stop(acceptor.raw(), after(drain)); },
          "drain"_a)
      .def("wait", &wait, "timeout"_a)
      .def("end", &end)
      .def("stats", &stats);

  module.def(
      "shut_listener",
      [](int fd) {
        if (const int rc = pdlb_listener_shut(fd); rc < 0) {
          errno = -rc;
          PyErr_SetFromErrno(PyExc_OSError);
          throw py::error_already_set();
        }
      },
      "fd"_a);
}
