#include "errors.hpp"

namespace py = pybind11;

namespace {

// pydlb.errors builds the exception: which class, which words. It is imported at the first failure.
template <typename... Arguments>
PyObject *set_from(const char *maker, Arguments &&...arguments) {
  try {
    const py::object exception = py::module_::import("pydlb.errors").attr(maker)(std::forward<Arguments>(arguments)...);
    PyErr_SetObject(reinterpret_cast<PyObject *>(Py_TYPE(exception.ptr())), exception.ptr());
  } catch (py::error_already_set &error) {
    error.restore();
  }
  return nullptr;
}

}  // namespace

PyObject *set_error(const pdlb_error &error) {
  return set_from("from_core", error.err, error.status, error.op ? error.op : "", error.text);
}

PyObject *set_closed(const char *what) { return set_from("closed", what); }

PyObject *set_busy() { return set_from("busy"); }

PyObject *set_config(const char *text) { return set_from("config", text); }

PyObject *set_refusal(pdlb_refusal why, uint32_t index, const pdlb_event &event) {
  return set_from("refused", static_cast<int>(why), index, event.queue, pdlb_event_type(&event));
}

void throw_error(const pdlb_error &error) {
  set_error(error);
  throw py::error_already_set();
}

void throw_closed(const char *what) {
  set_closed(what);
  throw py::error_already_set();
}
