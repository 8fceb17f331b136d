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

// The type numpy.ndarray, once an array of events was met.
std::atomic<PyTypeObject *> known_type{nullptr};

constexpr int kContiguous = py::array::c_style, kWritable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

// Almost every batch is such: of numpy's own type, and of the very dtype object.
bool is_plain(py::handle object, int flags) {
  if (Py_TYPE(object.ptr()) != known_type.load(std::memory_order_acquire)) return false;
  const auto *array = py::detail::array_proxy(object.ptr());
  return array->descr == known_dtype.load(std::memory_order_relaxed) && array->nd == 1 &&
         (array->flags & flags) == flags;
}

// Returns false with the Python error set, or throws.
bool check_slowly(py::handle object, const char *name, bool writable) {
  const PyObject *dtype = event_dtype();
  const bool array = py::isinstance<py::array>(object);
  const auto *proxy = py::detail::array_proxy(object.ptr());
  if (!array || proxy->descr != dtype)  // one that was pickled, or made by other means, has an equal dtype
    py::module_::import("pydlb.types").attr("check_events")(name, object);
  if (!array || proxy->nd != 1)
    return set_config("a batch is an array of one dimension, of pydlb.EVENT_DTYPE; pydlb.make_events makes one"), false;
  if (!(proxy->flags & kContiguous) || (writable && !(proxy->flags & kWritable)))
    return set_config(
               writable ? "out must be a writable, contiguous array of pydlb.EVENT_DTYPE"
                        : "events must be a contiguous array of pydlb.EVENT_DTYPE: numpy.ascontiguousarray makes one"),
           false;
  if (Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_) known_type.store(Py_TYPE(object.ptr()));
  return true;
}

}  // namespace

bool Batch::take(py::handle object, const char *name, bool writable) {
  if (!is_plain(object, kContiguous | (writable ? kWritable : 0))) {
    try {
      if (!check_slowly(object, name, writable)) return false;
    } catch (py::error_already_set &error) {
      error.restore();
      return false;
    }
  }
  const auto *array = py::detail::array_proxy(object.ptr());
  const py::ssize_t count = array->dimensions[0];
  count_ = count > INT_MAX ? INT_MAX : static_cast<uint32_t>(count);
  data_ = reinterpret_cast<pdlb_event *>(array->data);
  array_ = py::reinterpret_borrow<py::object>(object);
  return true;
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
