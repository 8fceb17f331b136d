// The extension module: names and constants. What they do is in the other files of this folder.
#include "handles.hpp"

namespace py = pybind11;
using py::literals::operator""_a;

PYBIND11_MODULE(_native, module, py::mod_gil_not_used()) {
  module.doc() = "pydlb's C core. Use the package's public names instead.";
  module.attr("VERSION") = PDLB_VERSION;
  module.attr("MAX_LINKS") = PDLB_MAX_LINKS;
  module.attr("PRIORITIES") = PDLB_PRIORITIES;
  module.attr("EVENT_SIZE") = sizeof(pdlb_event);
  module.attr("EVENT_OFFSETS") =
      py::dict("data"_a = offsetof(pdlb_event, data), "opaque"_a = offsetof(pdlb_event, opaque),
               "queue"_a = offsetof(pdlb_event, queue), "sched"_a = offsetof(pdlb_event, sched),
               "flow"_a = offsetof(pdlb_event, flow), "flags"_a = offsetof(pdlb_event, flags),
               "command"_a = offsetof(pdlb_event, command));
  register_device(module);
  register_port(module);
  register_settings(module);
  register_emulated(module);
  register_poller(module);
  register_inlet(module);
  register_connection(module);
  register_receiver(module);
  register_socket(module);
  register_link(module);
  register_prompt(module);
  register_first_turns(module);
  register_acceptor(module);
  module.def("live_handles", [] {
    return py::dict("devices"_a = live_handles.devices.load(), "domains"_a = live_handles.domains.load(),
                    "ports"_a = live_handles.ports.load(), "acceptors"_a = live_handles.acceptors.load());
  });
}
