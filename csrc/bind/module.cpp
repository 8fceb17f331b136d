// The extension module: names and constants. What they do is in the other files of this folder.
#include "handles.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_native, module, py::mod_gil_not_used()) {
  module.doc() = "pydlb's C core. Use the package's public names instead.";
  module.attr("VERSION") = PDLB_VERSION;
  module.attr("MAX_LINKS") = PDLB_MAX_LINKS;
  module.attr("PRIORITIES") = PDLB_PRIORITIES;
  register_device(module);
  register_port(module);
  register_port_calls(module);
  register_acceptor(module);
  module.def("live_handles", [] {
    return py::dict(py::arg("devices") = live_handles.devices.load(), py::arg("domains") = live_handles.domains.load(),
                    py::arg("ports") = live_handles.ports.load(),
                    py::arg("acceptors") = live_handles.acceptors.load());
  });
}
