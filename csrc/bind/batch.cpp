#include "batch.hpp"

#include <pybind11/numpy.h>

#include <atomic>
#include <climits>

namespace py = pybind11;

namespace {

std::atomic<PyObject *> known_dtype{nullptr};

// pydlb.EVENT_DTYPE, borrowed. Numpy is imported when the first batch is met: from no frame that may not be unwound,
// since a daemon thread is, where it asks for the interpreter lock when the interpreter ends.
PyObject *event_dtype() {
  PyObject *dtype = known_dtype.load(std::memory_order_acquire);
  if (dtype) return dtype;
  PyObject *types = PyImport_ImportModule("pydlb.types");
  dtype = types ? PyObject_CallMethod(types, "event_dtype", nullptr) : nullptr;
  Py_XDECREF(types);
  if (!dtype) throw py::error_already_set();
  known_dtype.store(dtype, std::memory_order_release);  // whoever comes second has the same one: it is made once
  return dtype;
}

// Almost every array has the very dtype object; one that was pickled, or made by other means, has its equal. Throws
// for what has not.
bool is_array(py::handle object, const char *name) {
  const PyObject *dtype = event_dtype();
  const bool array = py::isinstance<py::array>(object);
  if (!array || py::reinterpret_borrow<py::array>(object).dtype().ptr() != dtype)
    py::module_::import("pydlb.types").attr("check_events")(name, object);
  return array;
}

}  // namespace

bool Batch::take(py::handle object, const char *name, bool writable) {
  try {
    const bool is_single = !is_array(object, name);
    if (is_single || py::reinterpret_borrow<py::array>(object).ndim() != 1)
      return set_config("a batch is an array of one dimension, of pydlb.EVENT_DTYPE; pydlb.make_events makes one"),
             false;
    auto array = py::reinterpret_borrow<py::array>(object);
    if (!(array.flags() & py::array::c_style) || (writable && !array.writeable()))
      return set_config(
                 writable
                     ? "out must be a writable, contiguous array of pydlb.EVENT_DTYPE"
                     : "events must be a contiguous array of pydlb.EVENT_DTYPE: numpy.ascontiguousarray makes one"),
             false;
    const py::ssize_t count = array.shape(0);
    count_ = count > INT_MAX ? INT_MAX : static_cast<uint32_t>(count);
    data_ = static_cast<pdlb_event *>(const_cast<void *>(array.data()));
    array_ = std::move(array);
    return true;
  } catch (py::error_already_set &error) {
    error.restore();
    return false;
  }
}

bool Batch::make(uint32_t count) {
  try {
    py::array array(py::reinterpret_borrow<py::dtype>(event_dtype()), count);
    count_ = count;
    data_ = static_cast<pdlb_event *>(array.mutable_data());
    array_ = std::move(array);
    return true;
  } catch (py::error_already_set &error) {
    error.restore();
    return false;
  }
}

PyObject *Batch::first(uint32_t count) const {
  return count == count_ ? array_.inc_ref().ptr() : PySequence_GetSlice(array_.ptr(), 0, count);
}
