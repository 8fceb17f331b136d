// What the two have in common from which workers receive connections: the acceptor, and a receiver in another process.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <tuple>

#include "handles.hpp"
#include "pdlb_receiver.h"

// Hold a port until its leave(), or throw.
inline void enter(Port &port) {
  switch (port.enter()) {
    case Port::Entry::busy: set_busy(); throw pybind11::error_already_set();
    case Port::Entry::closed: throw_closed("port");
    case Port::Entry::entered: break;
  }
}

// Holds a port for one call, or throws.
class PortUse {
 public:
  explicit PortUse(Port &port) : port_(port) { enter(port_); }
  ~PortUse() { port_.leave(); }
  PortUse(const PortUse &) = delete;
  PortUse &operator=(const PortUse &) = delete;

 private:
  Port &port_;
};

// The counts that worker processes share.
class Board {
 public:
  explicit Board(pdlb_board *board) : board_(board) {}
  ~Board() { pdlb_board_close(board_); }
  Board(const Board &) = delete;
  Board &operator=(const Board &) = delete;

  pdlb_board *raw() const { return board_; }

  // Raises IndexError.
  uint32_t seat(uint32_t number) const {
    if (number >= pdlb_board_seats(board_)) throw pybind11::index_error("there is no such seat");
    return number;
  }

 private:
  pdlb_board *const board_;
};

// For whom a proxy speaks: the addresses of its client and of what that connected to, as the system has them.
using Proxied = std::optional<std::tuple<pybind11::bytes, pybind11::bytes>>;

// Descriptor, listener, family and protocol; and that.
using Taken = std::optional<std::tuple<int, uint32_t, int, int, Proxied>>;

inline Taken taken(const pdlb_accepted &accepted) {
  Proxied proxied;
  if (accepted.proxied) {
    const std::unique_ptr<pdlb_proxied, decltype(&std::free)> named(accepted.proxied, &std::free);
    proxied.emplace(pybind11::bytes(reinterpret_cast<const char *>(&named->client), named->client_size),
                    pybind11::bytes(reinterpret_cast<const char *>(&named->server), named->server_size));
  }
  return std::make_tuple(accepted.fd, accepted.listener, accepted.family, accepted.protocol, std::move(proxied));
}

constexpr uint32_t kMostAtOnce = 64;

// What the port is given now, up to `max` elements, each made a connection by `take`: the connections, and whether
// there may be more. `came` is told how many elements there were. What is no connection is given back, unless it is to
// become one later (EINPROGRESS): `collect` gives one of those at a time, and says how many never will.
template <typename Came, typename Take, typename Collect>
pybind11::tuple receive_connections(Port &port, uint32_t max, Came came, Take take, Collect collect) {
  std::array<pdlb_event, kMostAtOnce> events;
  max = std::min(max, kMostAtOnce);
  const PortUse use(port);
  const int count = pdlb_port_recv(port.raw(), events.data(), max, 0);
  if (count == -ECANCELED) throw_closed("port");
  if (count == -ENODEV) {
    pdlb_error error{};
    error.err = ENODEV;
    error.op = "recv";
    throw_error(error);
  }
  came(count > 0 ? static_cast<uint32_t>(count) : 0);
  pybind11::list connections;
  for (int i = 0; i < count; i++) {
    pdlb_accepted accepted;
    const int rc = take(events[static_cast<size_t>(i)].data, accepted);
    if (rc == 0)
      connections.append(taken(accepted));
    else if (rc != -EINPROGRESS)
      pdlb_port_release(port.raw(), 1);
  }
  bool found = true;
  while (found) {
    pdlb_accepted accepted;
    uint32_t never = 0;
    found = collect(accepted, never);
    if (never) pdlb_port_release(port.raw(), never);
    if (found) connections.append(taken(accepted));
  }
  return pybind11::make_tuple(connections, count == static_cast<int>(max));
}
