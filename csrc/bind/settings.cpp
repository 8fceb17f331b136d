// Settings of hardware, as functions of a device or a port.
#include <pdlb_settings.h>
#include <pybind11/stl.h>

#include "handles.hpp"
#include "unlocked.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

py::tuple sequence_group(const Device &device, uint32_t group) {
  pdlb_sequence_group result{};
  pdlb_error error{};
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  check(unlocked([&] { return pdlb_device_sequence_group(handle->device, group, &result, &error); }), error);
  return py::make_tuple(result.numbers, result.slots, result.taken);
}

void set_sequence_numbers(const Device &device, uint32_t group, uint32_t numbers) {
  pdlb_error error{};
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  check(unlocked([&] { return pdlb_device_set_sequence_numbers(handle->device, group, numbers, &error); }), error);
}

int bandwidth(const Device &device, uint32_t service_class) {
  pdlb_error error{};
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  return check(unlocked([&] { return pdlb_device_bandwidth(handle->device, service_class, &error); }), error);
}

void set_bandwidth(const Device &device, uint32_t service_class, uint32_t percent) {
  pdlb_error error{};
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  check(unlocked([&] { return pdlb_device_set_bandwidth(handle->device, service_class, percent, &error); }), error);
}

bool polls_sparse(const Device &device) {
  pdlb_error error{};
  return check(pdlb_device_polls_sparse(device.pin()->device, &error), error) != 0;
}

uint32_t read_register(const Device &device, uint32_t which, uint32_t id) {
  uint32_t value = 0;
  pdlb_error error{};
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  check(unlocked([&] { return pdlb_device_register(handle->device, which, id, &value, &error); }), error);
  return value;
}

void set_weight(const Port &port, uint32_t weight) {
  pdlb_error error{};
  const std::shared_ptr<PortHandle> handle = port.pin();
  check(unlocked([&] { return pdlb_port_set_weight(handle->port, weight, &error); }), error);
}

void set_inflight_threshold(const Port &port, std::optional<uint32_t> threshold) {
  pdlb_error error{};
  const std::shared_ptr<PortHandle> handle = port.pin();
  const uint32_t value = threshold.value_or(PDLB_NONE);
  check(unlocked([&] { return pdlb_port_set_inflight_threshold(handle->port, value, &error); }), error);
}

}  // namespace

void register_settings(py::module_ &module) {
  module.def("sequence_group", &sequence_group, "device"_a, "group"_a);
  module.def("set_sequence_numbers", &set_sequence_numbers, "device"_a, "group"_a, "numbers"_a);
  module.def("bandwidth", &bandwidth, "device"_a, "service_class"_a);
  module.def("set_bandwidth", &set_bandwidth, "device"_a, "service_class"_a, "percent"_a);
  module.def("polls_sparse", &polls_sparse, "device"_a);
  module.def("read_register", &read_register, "device"_a, "which"_a, "number"_a);
  module.def("set_weight", &set_weight, "port"_a, "weight"_a);
  module.def("set_inflight_threshold", &set_inflight_threshold, "port"_a, "threshold"_a);
}
