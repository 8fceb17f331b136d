// The calls of a port's one user thread, once per event or batch: functions of the C API bound to the port, because
// such a call costs a third of one through pybind11.
//
// The interpreter lock is given up only where a call will block: taking it back may take as long as the switch
// interval, 5 ms, if another thread is busy.
#include <cerrno>
#include <climits>
#include <cmath>

#include "handles.hpp"
#include "unlocked.hpp"

namespace py = pybind11;

namespace {

// What a bound function carries. `queue` is the one that send_one last sent to: its key need not be looked up again.
struct Calls {
  std::shared_ptr<Port> port;
  py::object domain;
  PyObject *queue = nullptr;
  uint32_t queue_key = 0;

  ~Calls() { Py_XDECREF(queue); }
};

constexpr const char *kCapsule = "pydlb.port";

Calls *calls_of(PyObject *self) { return static_cast<Calls *>(PyCapsule_GetPointer(self, kCapsule)); }

// Holds the port for one call.
class Use {
 public:
  explicit Use(Port &port) : port_(port), entry_(port.enter()) {
    if (entry_ == Port::Entry::busy) set_busy();
    if (entry_ == Port::Entry::closed) set_closed("port");
  }
  ~Use() {
    if (*this) port_.leave();
  }
  Use(const Use &) = delete;
  Use &operator=(const Use &) = delete;
  explicit operator bool() const { return entry_ == Port::Entry::entered; }

 private:
  Port &port_;
  const Port::Entry entry_;
};

// A contiguous buffer of events, for as long as the object lives.
class Events {
 public:
  Events(PyObject *object, bool writable) {
    if (PyObject_GetBuffer(object, &view_, PyBUF_ND | (writable ? PyBUF_WRITABLE : 0)) < 0) {
      PyErr_Clear();
      set_config(writable
                     ? "out must be a writable, contiguous array of pydlb.EVENT_DTYPE"
                     : "events must be a contiguous array of pydlb.EVENT_DTYPE: numpy.ascontiguousarray makes one");
      return;
    }
    valid_ = view_.ndim == 1 && view_.itemsize == sizeof(pdlb_event);
    if (!valid_) set_config("a batch is an array of one dimension, of pydlb.EVENT_DTYPE; pydlb.make_events makes one");
  }
  // A daemon thread that waited may be ended here, without the interpreter lock, because the interpreter exits.
  ~Events() {
    if (view_.obj && PyGILState_Check()) PyBuffer_Release(&view_);
  }
  Events(const Events &) = delete;
  Events &operator=(const Events &) = delete;
  explicit operator bool() const { return valid_; }

  pdlb_event *data() const { return static_cast<pdlb_event *>(view_.buf); }
  uint32_t count() const {
    const Py_ssize_t count = view_.shape[0];
    return count > INT_MAX ? INT_MAX : static_cast<uint32_t>(count);
  }

 private:
  Py_buffer view_{};
  bool valid_ = false;
};

// Seconds from now, or None for ever, as a deadline. False with the Python error set.
bool deadline_of(PyObject *timeout, uint64_t *deadline) {
  *deadline = PDLB_FOREVER;
  if (!timeout || timeout == Py_None) return true;
  const double seconds = PyFloat_AsDouble(timeout);
  if (seconds == -1.0 && PyErr_Occurred()) return false;
  if (std::isnan(seconds)) return set_config("timeout is not a number of seconds"), false;
  if (seconds <= 0)
    *deadline = 0;
  else if (seconds < 1e9)
    *deadline = pdlb_now() + static_cast<uint64_t>(seconds * 1e9);
  return true;
}

// A Python int, or what numpy and others have instead.
bool unsigned_of(PyObject *value, const char *text, uint64_t most, uint64_t *result) {
  if (!PyLong_Check(value)) {
    PyObject *integer = PyNumber_Index(value);
    const bool valid = integer && unsigned_of(integer, text, most, result);
    Py_XDECREF(integer);
    return valid;
  }
  const unsigned long long number = PyLong_AsUnsignedLongLong(value);
  if (number == ULLONG_MAX && PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return false;
    PyErr_Clear();
    return set_config(text), false;
  }
  if (number > most) return set_config(text), false;
  *result = number;
  return true;
}

// Receive without the interpreter lock once it is known that there is nothing yet. Returns -1 with the error set.
int receive(pdlb_port *port, pdlb_event *events, uint32_t max, uint64_t deadline) {
  int rc = pdlb_port_recv(port, events, max, 0);
  if (rc == 0 && deadline && max) {
    pdlb_error error{};
    if (pdlb_port_prepare_wait(port, &error) < 0) return set_error(error), -1;
  }
  while ((rc == 0 || rc == -EINTR) && deadline && max) {
    {
      const Unlocked lock;
      rc = pdlb_port_recv(port, events, max, deadline);
    }
    if (rc != -EINTR) break;
    if (PyErr_CheckSignals() < 0) return -1;
  }
  if (rc >= 0) return rc;
  if (rc == -ECANCELED) {
    set_closed("port");
  } else {
    pdlb_error error{};
    error.err = -rc;
    error.op = "recv";
    set_error(error);
  }
  return -1;
}

// ---- batches ------------------------------------------------------------------------------------------------------

using SendFunction = uint32_t (*)(pdlb_port *, const pdlb_event *, uint32_t, pdlb_refusal *);

PyObject *send_batch(PyObject *self, PyObject *const *arguments, Py_ssize_t count, SendFunction function) {
  if (count != 1) return PyErr_Format(PyExc_TypeError, "expected one array of events, got %zd arguments", count);
  Calls *calls = calls_of(self);
  const Events events(arguments[0], false);
  if (!events) return nullptr;
  const Use use(*calls->port);
  if (!use) return nullptr;
  pdlb_refusal why = PDLB_TAKEN;
  const uint32_t taken = function(calls->port->raw(), events.data(), events.count(), &why);
  if (why != PDLB_TAKEN && why != PDLB_NO_CREDIT) return set_refusal(why, taken, events.data()[taken]);
  return PyLong_FromUnsignedLong(taken);
}

PyObject *send(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  return send_batch(self, arguments, count, pdlb_port_send);
}

PyObject *forward(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  return send_batch(self, arguments, count, pdlb_port_forward);
}

// recv_into(out, max, timeout) -> count
PyObject *recv_into(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  if (count != 3) return PyErr_Format(PyExc_TypeError, "expected out, max and timeout, got %zd arguments", count);
  Calls *calls = calls_of(self);
  const Events events(arguments[0], true);
  uint64_t max, deadline;
  if (!events || !unsigned_of(arguments[1], "max is not a number of events", UINT64_MAX, &max) ||
      !deadline_of(arguments[2], &deadline))
    return nullptr;
  if (max > events.count()) max = events.count();
  const Use use(*calls->port);
  if (!use) return nullptr;
  const int received = receive(calls->port->raw(), events.data(), static_cast<uint32_t>(max), deadline);
  return received < 0 ? nullptr : PyLong_FromLong(received);
}

// ---- one event ------------------------------------------------------------------------------------------------------

// A queue's key holds its id and the type in which it is sent to by default. The queue is remembered.
bool key_of(Calls *calls, PyObject *queue, uint32_t *key) {
  if (queue == calls->queue) return *key = calls->queue_key, true;
  PyObject *domain = PyObject_GetAttrString(queue, "_native_domain");
  PyObject *value = domain ? PyObject_GetAttrString(queue, "_key") : nullptr;
  const bool ours = domain == calls->domain.ptr();
  Py_XDECREF(domain);
  if (!value) {
    if (PyErr_ExceptionMatches(PyExc_AttributeError)) PyErr_SetString(PyExc_TypeError, "queue is not a pydlb queue");
    return false;
  }
  const unsigned long number = PyLong_AsUnsignedLong(value);
  Py_DECREF(value);
  if (PyErr_Occurred()) return false;
  if (!ours) return set_config("the queue belongs to another scheduling domain than the port"), false;
  Py_XSETREF(calls->queue, Py_NewRef(queue));
  *key = calls->queue_key = static_cast<uint32_t>(number);
  return true;
}

bool option_of(PyObject *name, PyObject *value, pdlb_event *event, uint32_t *type, uint32_t *priority) {
  uint64_t number = 0;
  if (PyUnicode_CompareWithASCIIString(name, "flow") == 0) {
    if (!unsigned_of(value, "flow must be from 0 to 65535", UINT16_MAX, &number)) return false;
    event->flow = static_cast<uint16_t>(number);
  } else if (PyUnicode_CompareWithASCIIString(name, "opaque") == 0) {
    if (!unsigned_of(value, "opaque must be from 0 to 65535", UINT16_MAX, &number)) return false;
    event->opaque = static_cast<uint16_t>(number);
  } else if (PyUnicode_CompareWithASCIIString(name, "priority") == 0) {
    if (!unsigned_of(value, "priority must be from 0 (served first) to 7", PDLB_PRIORITIES - 1, &number)) return false;
    *priority = static_cast<uint32_t>(number);
  } else if (PyUnicode_CompareWithASCIIString(name, "sched") == 0) {
    if (value == Py_None) return true;
    if (!unsigned_of(value, "sched must be a pydlb.Sched", PDLB_SCHED_DIRECTED, &number)) return false;
    *type = static_cast<uint32_t>(number);
  } else {
    PyErr_Format(PyExc_TypeError, "send_one() got an unexpected keyword argument '%U'", name);
    return false;
  }
  return true;
}

// send_one(data, queue, *, flow=0, priority=0, sched=None, opaque=0) -> bool
PyObject *send_one(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "send_one() takes data and queue, got %zd arguments", count);
  Calls *calls = calls_of(self);
  pdlb_event event{};
  uint64_t data;
  if (!unsigned_of(arguments[0], "data must be from 0 to 2**64 - 1", UINT64_MAX, &data)) return nullptr;
  const Use use(*calls->port);
  uint32_t key;
  if (!use || !key_of(calls, arguments[1], &key)) return nullptr;
  event.data = data;
  event.queue = static_cast<uint8_t>(key);
  uint32_t type = key >> 8, priority = 0;
  const Py_ssize_t options = names ? PyTuple_GET_SIZE(names) : 0;
  for (Py_ssize_t i = 0; i < options; i++)
    if (!option_of(PyTuple_GET_ITEM(names, i), arguments[2 + i], &event, &type, &priority)) return nullptr;
  event.sched = pdlb_sched_byte(type, priority);
  pdlb_refusal why = PDLB_TAKEN;
  if (pdlb_port_send(calls->port->raw(), &event, 1, &why) == 1) Py_RETURN_TRUE;
  if (why != PDLB_NO_CREDIT) return set_refusal(why, 0, event);
  Py_RETURN_FALSE;
}

// The value of a function's only argument, `name`, which may be left out (nullptr). False with the Python error set.
bool only_argument(PyObject *const *arguments, Py_ssize_t count, PyObject *names, const char *name, PyObject **value) {
  const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  *value = count + named ? arguments[0] : nullptr;
  if (count + named <= 1 && (!named || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), name) == 0))
    return true;
  return PyErr_Format(PyExc_TypeError, "expected at most one argument, %s", name), false;
}

// recv_one(timeout=None) -> int | None
PyObject *recv_one(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  Calls *calls = calls_of(self);
  PyObject *timeout;
  uint64_t deadline;
  if (!only_argument(arguments, count, names, "timeout", &timeout) || !deadline_of(timeout, &deadline)) return nullptr;
  const Use use(*calls->port);
  if (!use) return nullptr;
  pdlb_event event;
  const int received = receive(calls->port->raw(), &event, 1, deadline);
  if (received < 0) return nullptr;
  if (received == 0) Py_RETURN_NONE;
  return PyLong_FromUnsignedLongLong(event.data);
}

// ---- what is held
// -----------------------------------------------------------------------------------------------------

bool count_of(PyObject *const *arguments, Py_ssize_t count, PyObject *names, uint32_t *result) {
  *result = 1;
  PyObject *value;
  if (!only_argument(arguments, count, names, "n", &value)) return false;
  if (!value) return true;
  uint64_t number;
  if (!unsigned_of(value, "n must be a number of events, from 0", UINT32_MAX, &number)) return false;
  *result = static_cast<uint32_t>(number);
  return true;
}

// release(n=1) -> int
PyObject *release(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  Calls *calls = calls_of(self);
  uint32_t wanted;
  if (!count_of(arguments, count, names, &wanted)) return nullptr;
  const Use use(*calls->port);
  if (!use) return nullptr;
  return PyLong_FromUnsignedLong(pdlb_port_release(calls->port->raw(), wanted));
}

// release_later(n=1): from any thread
PyObject *release_later(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  uint32_t wanted;
  if (!count_of(arguments, count, names, &wanted)) return nullptr;
  try {
    pdlb_port_release_later(calls_of(self)->port->pin()->port, wanted);
  } catch (py::error_already_set &error) {
    error.restore();
    return nullptr;
  }
  Py_RETURN_NONE;
}

// set_parked(flag): from any thread
PyObject *set_parked(PyObject *self, PyObject *flag) {
  const int parked = PyObject_IsTrue(flag);
  if (parked < 0) return nullptr;
  try {
    pdlb_port_parked(calls_of(self)->port->pin()->port, parked != 0);
  } catch (py::error_already_set &error) {
    error.restore();
    return nullptr;
  }
  Py_RETURN_NONE;
}

template <typename Function>
PyCFunction as_function(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(function));
}

PyMethodDef methods[] = {
    {"send", as_function(send), METH_FASTCALL, "Send a batch of events; returns how many were taken."},
    {"forward", as_function(forward), METH_FASTCALL, "Forward a batch of events; returns how many were taken."},
    {"recv_into", as_function(recv_into), METH_FASTCALL, "Receive into an array; returns how many."},
    {"send_one", as_function(send_one), METH_FASTCALL | METH_KEYWORDS,
     "send_one($self, data, queue, /, *, flow=0, priority=0, sched=None, opaque=0)\n--\n\n"
     "Send one element with `data`; False if the domain has no credit left."},
    {"recv_one", as_function(recv_one), METH_FASTCALL | METH_KEYWORDS,
     "recv_one($self, timeout=None)\n--\n\nReceive one element's data; None if none came within `timeout` seconds."},
    {"release", as_function(release), METH_FASTCALL | METH_KEYWORDS,
     "release($self, n=1)\n--\n\nComplete the `n` oldest elements held; returns how many there were."},
    {"release_later", as_function(release_later), METH_FASTCALL | METH_KEYWORDS,
     "release_later($self, n=1)\n--\n\nAs release, from any thread; carried out at the port's next call."},
    {"set_parked", as_function(set_parked), METH_O, "Tell whether the owner waits on the port's descriptor."},
};

}  // namespace

// A dictionary of the functions above, bound to the port. `domain` is the one that the queues must belong to.
py::dict bind_calls(const std::shared_ptr<Port> &port, const py::object &domain) {
  auto *calls = new Calls{port, domain};
  PyObject *capsule = PyCapsule_New(calls, kCapsule, [](PyObject *self) { delete calls_of(self); });
  if (!capsule) {
    delete calls;
    throw py::error_already_set();
  }
  const py::object self = py::reinterpret_steal<py::object>(capsule);
  py::dict functions;
  for (PyMethodDef &method : methods) {
    PyObject *function = PyCFunction_NewEx(&method, self.ptr(), nullptr);
    if (!function) throw py::error_already_set();
    functions[method.ml_name] = py::reinterpret_steal<py::object>(function);
  }
  return functions;
}
