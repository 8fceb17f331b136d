// What the two have in common from which workers receive connections: the acceptor, and a receiver in another process.
#pragma once

#include <cstdlib>
#include <memory>
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
inline std::tuple<pybind11::bytes, pybind11::bytes> addresses(const pdlb_proxied &named) {
  return {pybind11::bytes(reinterpret_cast<const char *>(&named.client), named.client_size),
          pybind11::bytes(reinterpret_cast<const char *>(&named.server), named.server_size)};
}

// At once, at most.
constexpr uint32_t kMostAtOnce = 64;

// Where a worker's connections come from. Nothing here raises, or needs the interpreter lock.
class Source {
 public:
  Source() = default;
  virtual ~Source() = default;
  Source(const Source &) = delete;
  Source &operator=(const Source &) = delete;

  // The worker is about to wait for the next connection.
  virtual void waits(uint32_t worker) = 0;
  // It received so many elements, and is about to take what they name.
  virtual void received(uint32_t worker, uint32_t count) = 0;
  // Take the connection that one names: 0; with -EINPROGRESS it is to be collected later; else there is none.
  virtual int take(uint32_t worker, uint64_t token, pdlb_accepted *accepted) = 0;
  // One of those that are to be taken later; `never`: how many of them never will.
  virtual bool collect(pdlb_accepted *, uint32_t *never) { return *never = 0, false; }
  // Wait until there is one. False if it will not come.
  virtual bool await(pdlb_accepted *) { return false; }
  // Accept by oneself, send what is for others, and return how many stay.
  virtual uint32_t accept(const pdlb_lane &, uint32_t, pdlb_accepted *) { return 0; }
  // The worker is about to receive from the port: accept in the accepting thread's place. If so, the worker has led
  // after the receive, or, where nothing waits to be taken then, later.
  virtual bool lead(uint32_t, pdlb_port *) { return false; }
  virtual bool waiting() { return false; }
  virtual void led() {}
  // A connection that was taken has ended.
  virtual void closed(uint32_t worker, uint32_t listener, bool aborted) = 0;
};
