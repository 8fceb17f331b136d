// The emulated device in this process, for pydlb.testing.
#include <pybind11/stl.h>

#include "handles.hpp"
#include "unlocked.hpp"

#ifdef PDLB_HAS_EMULATION

#include "inprocess.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

class Emulated {
 public:
  Emulated(uint32_t version, bool port_probe) {
    if (pdlb_emulated_create(version, port_probe, &raw_) < 0) throw std::bad_alloc();
  }
  ~Emulated() {
    if (born_ == fork_count()) pdlb_emulated_free(raw_);
  }
  Emulated(const Emulated &) = delete;
  Emulated &operator=(const Emulated &) = delete;

  pdlb_emulated *raw() const {
    if (born_ != fork_count()) throw_closed("emulated device");
    return raw_;
  }

 private:
  pdlb_emulated *raw_ = nullptr;
  const uint32_t born_ = fork_count();
};

void require(int rc, const char *op, const char *text) {
  if (rc >= 0) return;
  pdlb_error error{};
  error.err = -rc;
  error.op = op;
  snprintf(error.text, sizeof error.text, "%s", text);
  throw_error(error);
}

// The device keeps what it is emulated by.
std::shared_ptr<Device> open(const std::shared_ptr<Emulated> &emulated) {
  pdlb_device *device = nullptr;
  pdlb_error error{};
  check(pdlb_emulated_open(emulated->raw(), &device, &error), error);
  return std::make_shared<Device>(std::make_shared<DeviceHandle>(device, emulated), "device");
}

void limit(const Emulated &emulated, const std::map<std::string, uint32_t> &amounts) {
  pdlb_resources left;
  left.domains = amounts.at("domains");
  left.ldb_queues = amounts.at("ldb_queues");
  left.ldb_ports = amounts.at("ldb_ports");
  left.dir_ports = amounts.at("dir_ports");
  left.ldb_credits = amounts.at("ldb_credits");
  left.dir_credits = amounts.at("dir_credits");
  left.history_entries = amounts.at("history_entries");
  left.atomic_inflights = amounts.at("atomic_inflights");
  left.sequence_slots[0] = amounts.at("sequence_slots[0]");
  left.sequence_slots[1] = amounts.at("sequence_slots[1]");
  require(pdlb_emulated_limit(emulated.raw(), &left), "limit",
          "the limits leave no domain for whoever has the rest: allow one less");
}

void fail(const Emulated &emulated, const std::optional<std::string> &call, uint32_t nth, int error, uint32_t status) {
  require(pdlb_emulated_fail(emulated.raw(), call ? call->c_str() : nullptr, nth, error, status), "fail",
          "nth counts from 1, errno is more than 0, and call is the name of a request or one of open, map, event, "
          "close_on_exec and read_alert; at most 8 failures may wait");
}

void expect(const Emulated &emulated, const std::string &event, uint32_t nth) {
  static const std::map<std::string, pdlb_emulated_event> events{
      {"drop", PDLB_EMULATED_DROP_ELEMENT},
      {"reset", PDLB_EMULATED_RESET_AT_ELEMENT},
      {"lose", PDLB_EMULATED_LOSE_INTERRUPT},
      {"repeat", PDLB_EMULATED_REPEAT_INTERRUPT},
  };
  require(pdlb_emulated_expect(emulated.raw(), events.at(event), nth), "expect",
          "nth counts from 1, and at most 32 events are watched for");
}

std::vector<std::string> misuses(const Emulated &emulated) {
  std::vector<std::string> texts;
  while (const char *text = pdlb_emulated_misuse(emulated.raw(), static_cast<uint32_t>(texts.size())))
    texts.emplace_back(text);
  return texts;
}

}  // namespace

void register_emulated(py::module_ &module) {
  py::class_<Emulated, std::shared_ptr<Emulated>>(module, "Emulated", py::is_final())
      .def(py::init<uint32_t, bool>(), "version"_a, "port_probe"_a = false)
      .def("open", &open)
      .def("limit", &limit, "amounts"_a)
      .def("fail", &fail, "call"_a, "nth"_a, "errno"_a, "status"_a)
      .def("watches", [](const Emulated &emulated) { return pdlb_emulated_watches(emulated.raw()); })
      .def("calls", [](const Emulated &emulated) { return pdlb_emulated_calls(emulated.raw()); })
      .def("failed_call", [](const Emulated &emulated) { return pdlb_emulated_failed_call(emulated.raw()); })
      .def("failure_waits", [](const Emulated &emulated) { return pdlb_emulated_failure_waits(emulated.raw()); })
      .def("expect", &expect, "event"_a, "nth"_a)
      .def("reset", [](const Emulated &emulated) { pdlb_emulated_reset(emulated.raw()); })
      .def(
          "alert",
          [](const Emulated &emulated, uint32_t domain, uint64_t id, uint64_t aux) {
            require(pdlb_emulated_alert(emulated.raw(), domain, id, aux), "alert", "there is no such domain");
          },
          "domain"_a, "alert"_a, "data"_a)
      .def("interrupt_all", [](const Emulated &emulated) { pdlb_emulated_interrupt_all(emulated.raw()); })
      .def("misuses", &misuses);
}

#else

void register_emulated(pybind11::module_ &) {}

#endif
