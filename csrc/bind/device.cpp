// Devices and scheduling domains.
#include <pybind11/stl.h>

#include <algorithm>

#include "handles.hpp"
#include "unlocked.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

py::dict as_dict(const pdlb_resources &resources) {
  return py::dict("domains"_a = resources.domains, "ldb_queues"_a = resources.ldb_queues,
                  "ldb_ports"_a = resources.ldb_ports, "dir_ports"_a = resources.dir_ports,
                  "ldb_credits"_a = resources.ldb_credits, "dir_credits"_a = resources.dir_credits,
                  "history_entries"_a = resources.history_entries, "atomic_inflights"_a = resources.atomic_inflights,
                  "sequence_slots"_a = py::make_tuple(resources.sequence_slots[0], resources.sequence_slots[1]));
}

// The last one to give up a device's domain waits for the driver to reset it.
template <typename Shared>
void give_up(Shared &shared) {
  const Unlocked lock;
  shared.give_up();
}

std::shared_ptr<Device> open_software(bool large) {
  pdlb_device *device = nullptr;
  pdlb_error error{};
  check(pdlb_device_open_software(large ? PDLB_LIMITS_LARGE : PDLB_LIMITS_HARDWARE, &device, &error), error);
  return std::make_shared<Device>(std::make_shared<DeviceHandle>(device), "device");
}

// Opening wakes a device that sleeps, which takes a while.
std::shared_ptr<Device> open_device(const std::string &path) {
  pdlb_device *device = nullptr;
  pdlb_error error{};
  check(unlocked([&] { return pdlb_device_open(path.c_str(), &device, &error); }), error);
  return std::make_shared<Device>(std::make_shared<DeviceHandle>(device), "device");
}

std::shared_ptr<Device> join_device(int memory) {
  const pdlb_shared shared{memory, -1, -1};
  pdlb_device *device = nullptr;
  pdlb_error error{};
  check(pdlb_device_join(&shared, &device, &error), error);
  return std::make_shared<Device>(std::make_shared<DeviceHandle>(device), "device");
}

py::tuple device_resources(const Device &device) {
  pdlb_resources total{}, available{};
  pdlb_error error{};
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  check(unlocked([&] { return pdlb_device_resources(handle->device, &total, &available, &error); }), error);
  return py::make_tuple(as_dict(total), as_dict(available));
}

std::shared_ptr<Domain> create_domain(const Device &device, uint32_t ldb_queues, uint32_t ldb_ports, uint32_t dir_ports,
                                      uint32_t credits, uint32_t history_entries, uint32_t atomic_inflights,
                                      std::pair<uint32_t, uint32_t> sequence_slots, bool shared,
                                      std::array<uint32_t, 4> class_ports) {
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  pdlb_domain_config config{};
  config.ldb_queues = ldb_queues;
  config.ldb_ports = ldb_ports;
  config.dir_ports = dir_ports;
  config.ldb_credits = credits;
  config.history_entries = history_entries;
  config.atomic_inflights = atomic_inflights;
  config.sequence_slots[0] = sequence_slots.first;
  config.sequence_slots[1] = sequence_slots.second;
  config.shared = shared;
  std::copy(class_ports.begin(), class_ports.end(), config.class_ports);
  pdlb_domain *domain = nullptr;
  pdlb_error error{};
  check(unlocked([&] { return pdlb_domain_create(handle->device, &config, &domain, &error); }), error);
  return std::make_shared<Domain>(std::make_shared<DomainHandle>(domain, handle), "domain");
}

std::shared_ptr<Domain> join_domain(const Device &device, int memory, int bell, int driver, uint32_t member) {
  const std::shared_ptr<DeviceHandle> handle = device.pin();
  const pdlb_shared shared{memory, bell, driver};
  pdlb_domain *domain = nullptr;
  pdlb_error error{};
  check(pdlb_domain_join(handle->device, &shared, member, &domain, &error), error);
  return std::make_shared<Domain>(std::make_shared<DomainHandle>(domain, handle), "domain");
}

py::tuple share(const Domain &domain) {
  pdlb_shared shared{};
  pdlb_error error{};
  check(pdlb_domain_share(domain.pin()->domain, &shared, &error), error);
  return py::make_tuple(shared.memory_fd, shared.bell_fd, shared.device_fd);
}

int create_ldb_queue(const Domain &domain, uint32_t sequence_numbers, uint32_t inflights, uint32_t atomic_inflights,
                     bool even, uint64_t grace_ns) {
  pdlb_ldb_queue_config config{};
  config.sequence_numbers = sequence_numbers;
  config.inflights = inflights;
  config.atomic_inflights = atomic_inflights;
  config.sharing = even ? PDLB_SHARE_EVEN : PDLB_SHARE_PULL;
  config.grace_ns = grace_ns;
  pdlb_error error{};
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  return check(unlocked([&] { return pdlb_ldb_queue_create(handle->domain, &config, &error); }), error);
}

int create_dir_queue(const Domain &domain, std::optional<uint32_t> port) {
  pdlb_error error{};
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  const uint32_t number = port.value_or(PDLB_NONE);
  return check(unlocked([&] { return pdlb_dir_queue_create(handle->domain, number, &error); }), error);
}

int queue_depth(const Domain &domain, uint32_t queue, bool directed) {
  pdlb_error error{};
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  const auto depth = directed ? pdlb_dir_queue_depth : pdlb_ldb_queue_depth;
  return check(unlocked([&] { return depth(handle->domain, queue, &error); }), error);
}

std::shared_ptr<Port> create_port(const Domain &domain, bool directed, uint32_t cq_depth, uint32_t history_entries,
                                  bool release_on_recv, std::optional<uint32_t> queue, uint32_t service_class,
                                  uint64_t watch_ns, uint32_t prefetch) {
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  pdlb_port_config config{};
  config.cq_depth = cq_depth;
  config.history_entries = history_entries;
  config.release_on_recv = release_on_recv;
  config.service_class = service_class;
  config.watch_ns = watch_ns;
  config.prefetch = prefetch;
  pdlb_port *port = nullptr;
  pdlb_error error{};
  check(unlocked([&] {
          return directed ? pdlb_dir_port_create(handle->domain, &config, queue.value_or(PDLB_NONE), &port, &error)
                          : pdlb_ldb_port_create(handle->domain, &config, &port, &error);
        }),
        error);
  return std::make_shared<Port>(std::make_shared<PortHandle>(port, handle));
}

std::shared_ptr<Port> join_port(const Domain &domain, uint32_t id, bool directed, int doorbell) {
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  pdlb_port *port = nullptr;
  pdlb_error error{};
  check(pdlb_port_join(handle->domain, id, directed, doorbell, &port, &error), error);
  return std::make_shared<Port>(std::make_shared<PortHandle>(port, handle));
}

int bury(const Domain &domain, uint32_t member) {
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  pdlb_error error{};
  const int lost = unlocked([&] { return pdlb_domain_bury(handle->domain, member, &error); });
  check(lost, error);
  return lost;
}

void start(const Domain &domain) {
  pdlb_error error{};
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  check(unlocked([&] { return pdlb_domain_start(handle->domain, &error); }), error);
}

// Seconds until it wants to be called again; None for never.
std::optional<double> tick(const Domain &domain) {
  const uint64_t now = pdlb_now(), next = pdlb_domain_tick(domain.pin()->domain, now);
  if (next == PDLB_FOREVER) return std::nullopt;
  return next > now ? static_cast<double>(next - now) * 1e-9 : 0.0;
}

void stop(const Domain &domain) {
  pdlb_error error{};
  const std::shared_ptr<DomainHandle> handle = domain.pin();
  check(unlocked([&] { return pdlb_domain_stop(handle->domain, &error); }), error);
}

py::dict domain_stats(const Domain &domain) {
  struct pdlb_domain_stats stats{};
  pdlb_domain_stats(domain.pin()->domain, &stats);
  return py::dict("enqueued"_a = stats.enqueued, "scheduled"_a = stats.scheduled,
                  "refused_no_credit"_a = stats.refused_no_credit, "wakes"_a = stats.wakes, "rewakes"_a = stats.rewakes,
                  "credits_free"_a = stats.credits_free, "queued"_a = stats.queued, "lost"_a = stats.lost);
}

}  // namespace

void register_device(py::module_ &module) {
  py::class_<Device, std::shared_ptr<Device>>(module, "Device", py::is_final())
      .def_property_readonly("closed", &Device::closed)
      .def_property_readonly("version", [](const Device &device) { return pdlb_device_version(device.pin()->device); })
      .def("resources", &device_resources)
      .def("create_domain", &create_domain, "ldb_queues"_a, "ldb_ports"_a, "dir_ports"_a, "credits"_a,
           "history_entries"_a, "atomic_inflights"_a, "sequence_slots"_a, "shared"_a = false,
           "class_ports"_a = std::array<uint32_t, 4>{})
      .def("join_domain", &join_domain, "memory"_a, "bell"_a, "driver"_a, "member"_a)
      .def("close", &give_up<Device>);

  py::class_<Domain, std::shared_ptr<Domain>>(module, "Domain", py::is_final())
      .def_property_readonly("closed", &Domain::closed)
      .def_property_readonly("id", [](const Domain &domain) { return pdlb_domain_id(domain.pin()->domain); })
      .def("create_ldb_queue", &create_ldb_queue, "sequence_numbers"_a, "inflights"_a, "atomic_inflights"_a, "even"_a,
           "grace_ns"_a)
      .def("create_dir_queue", &create_dir_queue, "port"_a)
      .def("queue_depth", &queue_depth, "queue"_a, "directed"_a)
      .def("create_port", &create_port, "directed"_a, "cq_depth"_a, "history_entries"_a, "release_on_recv"_a, "queue"_a,
           "service_class"_a = 0, "watch_ns"_a = 0, "prefetch"_a = 1)
      .def("share", &share)
      .def("join_port", &join_port, "port"_a, "directed"_a, "doorbell"_a)
      .def("bury", &bury, "member"_a)
      .def("tick", &tick)
      .def("start", &start)
      .def("stop", &stop)
      .def("stats", &domain_stats)
      .def("close", &give_up<Domain>);

  module.def("open_software", &open_software, "large"_a);
  module.def("open_device", &open_device, "path"_a);
  module.def("join_device", &join_device, "memory"_a);
  module.def("status_name", [](uint32_t status) { return pdlb_status_name(status); }, "status"_a);
}
