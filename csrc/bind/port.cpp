// What any thread may ask of a port. The calls of its one user thread are in port_calls.cpp.
#include "handles.hpp"
#include "unlocked.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

void link_queue(const Port &port, uint32_t queue, uint32_t priority) {
  pdlb_error error{};
  const std::shared_ptr<PortHandle> handle = port.pin();
  check(unlocked([&] { return pdlb_port_link(handle->port, queue, priority, &error); }), error);
}

void unlink_queue(const Port &port, uint32_t queue) {
  pdlb_error error{};
  const std::shared_ptr<PortHandle> handle = port.pin();
  check(unlocked([&] { return pdlb_port_unlink(handle->port, queue, &error); }), error);
}

void set_enabled(const Port &port, bool enabled) {
  pdlb_error error{};
  const std::shared_ptr<PortHandle> handle = port.pin();
  const auto set = enabled ? pdlb_port_enable : pdlb_port_disable;
  check(unlocked([&] { return set(handle->port, &error); }), error);
}

int descriptor(const Port &port) {
  pdlb_error error{};
  return check(pdlb_port_fd(port.pin()->port, &error), error);
}

py::dict stats(const Port &port) {
  struct pdlb_port_stats stats{};
  pdlb_port_stats(port.pin()->port, &stats);
  return py::dict("sent"_a = stats.sent, "received"_a = stats.received, "released"_a = stats.released,
                  "wakes"_a = stats.wakes, "in_flight"_a = stats.in_flight, "armed"_a = stats.armed,
                  "stalled"_a = stats.stalled);
}

}  // namespace

void register_port(py::module_ &module) {
  register_port_calls();
  py::class_<Port, std::shared_ptr<Port>>(module, "Port", py::is_final())
      .def_property_readonly("closed", &Port::closed)
      .def_property_readonly("id", [](const Port &port) { return pdlb_port_id(port.pin()->port); })
      .def_property_readonly("in_flight", [](const Port &port) { return pdlb_port_in_flight(port.pin()->port); })
      .def("link", &link_queue, "queue"_a, "priority"_a)
      .def("unlink", &unlink_queue, "queue"_a)
      .def("set_enabled", &set_enabled, "enabled"_a)
      .def("fileno", &descriptor)
      .def("stats", &stats)
      .def("bind_calls", &bind_calls, "domain"_a, "cq_depth"_a)
      .def("close", &Port::close);
}
