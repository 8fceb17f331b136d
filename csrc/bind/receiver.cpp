// Worker processes: the board that they share, and how each accepts.
#include <poll.h>
#include <pybind11/stl.h>

#include <vector>

#include "receiving.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

std::shared_ptr<Board> create_board(uint32_t seats) {
  pdlb_board *board = nullptr;
  pdlb_error error{};
  check(pdlb_board_create(seats, &board, &error), error);
  return std::make_shared<Board>(board);
}

std::shared_ptr<Board> join_board(int fd, int bell) {
  pdlb_board *board = nullptr;
  pdlb_error error{};
  check(pdlb_board_join(fd, bell, &board, &error), error);
  return std::make_shared<Board>(board);
}

py::dict stats(const Board &board, uint32_t seat) {
  pdlb_seat_stats stats;
  pdlb_board_stats(board.raw(), board.seat(seat), &stats);
  return py::dict("accepted"_a = stats.accepted, "permitted"_a = stats.permitted, "served"_a = stats.served,
                  "aborted"_a = stats.aborted, "in_hand"_a = stats.in_hand, "empty"_a = stats.empty,
                  "gone"_a = stats.gone, "backoffs"_a = stats.backoffs, "last_errno"_a = stats.last_errno,
                  "beat_at"_a = static_cast<double>(stats.beat_at) * 1e-9,
                  "late"_a = static_cast<double>(stats.late_ns) * 1e-9,
                  "handoff"_a = std::vector<uint64_t>(stats.handoff, stats.handoff + PDLB_HANDOFF_BUCKETS));
}

// Connections of a listener, and those of them that are closed.
std::tuple<uint64_t, uint64_t> by_listener(const Board &board, uint32_t seat, uint32_t listener) {
  uint64_t accepted, closed;
  pdlb_board_listener(board.raw(), board.seat(seat), listener, &accepted, &closed);
  return {accepted, closed};
}

class Receiver : public Source {
 public:
  Receiver(std::shared_ptr<Board> board, uint32_t seat, bool blocking)
      : board_(std::move(board)), seat_(board_->seat(seat)) {
    pdlb_error error{};
    check(pdlb_receiver_create(board_->raw(), seat, blocking, &receiver_, &error), error);
  }
  ~Receiver() override { pdlb_receiver_free(receiver_); }

  void add(uint32_t listener, int fd, int proxy) {
    pdlb_error error{};
    check(pdlb_receiver_add(receiver_, listener, fd, static_cast<pdlb_proxy>(proxy), &error), error);
  }

  void set_shelf(int fd) {
    pdlb_error error{};
    check(pdlb_receiver_set_shelf(receiver_, fd, &error), error);
  }

  int headers_fileno() const { return pdlb_receiver_headers_fd(receiver_); }

  void remove(uint32_t listener) { pdlb_receiver_remove(receiver_, listener); }

  void waits(uint32_t) override {}

  void received(uint32_t, uint32_t permits) override { pdlb_receiver_hold(receiver_, permits); }

  int take(uint32_t, uint64_t permit, pdlb_accepted *accepted) override {
    return pdlb_receiver_accept(receiver_, permit, accepted);
  }

  bool collect(pdlb_accepted *accepted, uint32_t *never) override {
    return pdlb_receiver_collect(receiver_, accepted, never) == 0;
  }

  bool await(pdlb_accepted *accepted) override {
    for (;;) {
      uint32_t never = 0;
      if (collect(accepted, &never)) return true;
      if (never) return false;
      pollfd state{pdlb_receiver_headers_fd(receiver_), POLLIN, 0};
      poll(&state, 1, -1);
    }
  }

  void closed(uint32_t, uint32_t listener, bool aborted) override {
    pdlb_board_closed(board_->raw(), seat_, listener, aborted);
  }

  // Connections, those of them that wait, and whether it stalls: what the acceptor says of workers that it picks.
  std::tuple<uint32_t, uint32_t, bool> worker_stats() const {
    pdlb_seat_stats stats;
    pdlb_board_stats(board_->raw(), seat_, &stats);
    return {static_cast<uint32_t>(stats.accepted - stats.served - stats.aborted), 0, false};
  }

 private:
  const std::shared_ptr<Board> board_;
  const uint32_t seat_;
  pdlb_receiver *receiver_ = nullptr;
};

}  // namespace

void register_receiver(py::module_ &module) {
  py::class_<Board, std::shared_ptr<Board>>(module, "Board", py::is_final())
      .def(py::init(&create_board), "seats"_a)
      .def_static("join", &join_board, "fd"_a, "bell"_a)
      .def("fileno", [](const Board &board) { return pdlb_board_fd(board.raw()); })
      .def("bell_fileno", [](const Board &board) { return pdlb_board_bell_fd(board.raw()); })
      .def("by_listener", &by_listener, "seat"_a, "listener"_a)
      .def("stats", &stats, "seat"_a)
      .def(
          "clear", [](const Board &board, uint32_t seat) { pdlb_board_clear(board.raw(), board.seat(seat)); }, "seat"_a)
      .def(
          "bury", [](const Board &board, uint32_t seat) { return pdlb_board_bury(board.raw(), board.seat(seat)); },
          "seat"_a)
      .def(
          "beat",
          [](const Board &board, uint32_t seat, double late) {
            pdlb_board_beat(board.raw(), board.seat(seat), late > 0 ? static_cast<uint64_t>(late * 1e9) : 0);
          },
          "seat"_a, "late"_a);

  module.def("permit_listener", &pdlb_permit_listener, "permit"_a);
  module.def("shorten_slice", &pdlb_shorten_slice);

  py::class_<Receiver, Source, std::shared_ptr<Receiver>>(module, "Receiver", py::is_final())
      .def(py::init<std::shared_ptr<Board>, uint32_t, bool>(), "board"_a, "seat"_a, "blocking"_a)
      .def("add", &Receiver::add, "listener"_a, "fd"_a, "proxy"_a = 0)
      .def("set_shelf", &Receiver::set_shelf, "fd"_a)
      .def("headers_fileno", &Receiver::headers_fileno)
      .def("remove", &Receiver::remove, "listener"_a)
      .def(
          "worker_stats", [](const Receiver &receiver, uint32_t) { return receiver.worker_stats(); }, "worker"_a)
      .def("remove_worker", [](const Receiver &, uint32_t) {}, "worker"_a);
}
