// What a port's one user thread does in each call: hold it, and receive, with a wait or without.
//
// The interpreter lock is given up only where a call will block: taking it back may take as long as the switch
// interval, 5 ms, if another thread is busy.
#pragma once

#include <cerrno>

#include "arguments.hpp"
#include "handles.hpp"
#include "unlocked.hpp"

// Holds the port for one call.
template <Port::Entry (Port::*enter)(), void (Port::*leave)()>
class Held {
 public:
  explicit Held(Port &port) : port_(port), entry_((port.*enter)()) {
    if (entry_ == Port::Entry::busy) set_busy();
    if (entry_ == Port::Entry::closed) set_closed("port");
  }
  ~Held() {
    if (*this) (port_.*leave)();
  }
  Held(const Held &) = delete;
  Held &operator=(const Held &) = delete;
  explicit operator bool() const { return entry_ == Port::Entry::entered; }

 private:
  Port &port_;
  const Port::Entry entry_;
};

using Use = Held<&Port::enter, &Port::leave>;
// For a call that does not wait, and calls nothing in Python.
using BriefUse = Held<&Port::enter_briefly, &Port::leave_briefly>;

// A receive that found nothing, or failed: `rc`. Waits without the interpreter lock. Returns -1 with the error set.
__attribute__((noinline)) inline int wait_to_receive(pdlb_port *port, pdlb_event *events, uint32_t max, uint64_t wait,
                                                     int rc) {
  if (rc == 0 && wait && max) {
    pdlb_error error{};
    if (pdlb_port_prepare_wait(port, &error) < 0) return set_error(error), -1;
    const uint64_t deadline = deadline_of(wait);
    do {
      {
        const Unlocked lock;
        rc = pdlb_port_recv(port, events, max, deadline);
      }
      if (rc == -EINTR && PyErr_CheckSignals() < 0) return -1;
    } while (rc == -EINTR);
  }
  if (rc >= 0) return rc;
  if (rc == -ECANCELED) {
    set_closed("port");
  } else {
    pdlb_error error{};
    error.err = -rc;
    error.op = "recv";
    set_error(error);
  }
  return -1;
}

inline int receive(pdlb_port *port, pdlb_event *events, uint32_t max, uint64_t wait) {
  const int rc = pdlb_port_recv(port, events, max, 0);
  return rc > 0 ? rc : wait_to_receive(port, events, max, wait, rc);
}
