// The calls of a port's one user thread, once per event or batch: functions of the C API bound to the port, because
// such a call costs a third of one through pybind11.
//
// The interpreter lock is given up only where a call will block: taking it back may take as long as the switch
// interval, 5 ms, if another thread is busy.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "arguments.hpp"
#include "batch.hpp"
#include "integers.hpp"
#include "port_use.hpp"

namespace py = pybind11;

namespace {

// What the functions of a port are bound to.
struct Calls {
  PyObject_HEAD std::shared_ptr<Port> port;
  PyObject *domain;
  uint32_t cq_depth;
  // The queue that send_one last sent to, and what an event for it is that says no more: neither need be looked up
  // again.
  pdlb_event plain;
  PyObject *queue;
  Integers received;
};

Calls *calls_of(PyObject *self) { return reinterpret_cast<Calls *>(self); }

// Without the interpreter lock, a port may be closed by another thread in the midst of a call. It takes nothing more
// then, as if it were disabled; its user is told what it is.
PyObject *set_refusal_of(const Calls *calls, pdlb_refusal why, uint32_t index, const pdlb_event &event) {
  if (why == PDLB_PORT_DISABLED && calls->port->closed()) return set_closed("port");
  return set_refusal(why, index, event);
}

// ---- batches ------------------------------------------------------------------------------------------------------

using SendFunction = uint32_t (*)(pdlb_port *, const pdlb_event *, uint32_t, pdlb_refusal *);

// Send what is left of a batch after the first `taken`, as far as there are credits. False with the Python error set.
bool put(const Calls *calls, const Batch &batch, uint32_t *taken, SendFunction function) {
  const Use use(*calls->port);
  if (!use) return false;
  pdlb_refusal why = PDLB_TAKEN;
  *taken += function(calls->port->raw(), batch.data() + *taken, batch.count() - *taken, &why);
  if (why == PDLB_TAKEN || why == PDLB_NO_CREDIT) return true;
  return set_refusal_of(calls, why, *taken, batch.data()[*taken]), false;
}

// How long a send that waits for credits sleeps between tries, from and to.
constexpr long kFirstPause = 20'000, kLongestPause = 1'000'000;

bool put_in_time(const Calls *calls, const Batch &batch, uint32_t *taken, uint64_t wait) {
  const uint64_t deadline = deadline_of(wait);
  timespec pause{0, kFirstPause};
  while (*taken < batch.count() && (deadline == PDLB_FOREVER || pdlb_now() < deadline)) {
    unlocked([&] { return nanosleep(&pause, nullptr); });
    if (PyErr_CheckSignals() < 0) return false;
    const uint32_t before = *taken;
    if (!put(calls, batch, taken, pdlb_port_send)) return false;
    pause.tv_nsec = *taken > before ? kFirstPause : std::min(2 * pause.tv_nsec, kLongestPause);
  }
  return true;
}

Signature<2> send_signature{"send", 1, 2, {"events", "timeout"}};

PyObject *send(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  std::array<PyObject *, 2> values;
  uint64_t wait = 0;
  Batch batch;
  if (!send_signature.read(arguments, count, names, &values) || !batch.take(values[0], "events", false) ||
      (values[1] && !wait_of(values[1], &wait)))
    return nullptr;
  uint32_t taken = 0;
  if (!put(calls_of(self), batch, &taken, pdlb_port_send)) return nullptr;
  if (taken < batch.count() && wait && !put_in_time(calls_of(self), batch, &taken, wait)) return nullptr;
  return PyLong_FromUnsignedLong(taken);
}

Signature<1> forward_signature{"forward", 1, 1, {"events"}};

PyObject *forward(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  std::array<PyObject *, 1> values;
  Batch batch;
  uint32_t taken = 0;
  if (!forward_signature.read(arguments, count, names, &values) || !batch.take(values[0], "events", false) ||
      !put(calls_of(self), batch, &taken, pdlb_port_forward))
    return nullptr;
  return PyLong_FromUnsignedLong(taken);
}

Signature<3> recv_signature{"recv", 0, 3, {"max", "timeout", "out"}};
constexpr uint64_t kUsualBatch = 32;

PyObject *recv(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  const Calls *calls = calls_of(self);
  std::array<PyObject *, 3> values;
  if (!recv_signature.read(arguments, count, names, &values)) return nullptr;
  const auto [most, timeout, out] = values;
  uint64_t max = kUsualBatch, wait = PDLB_FOREVER;
  if ((most && !unsigned_of(most, "max must be a number of events, at least 1", UINT64_MAX, &max)) ||
      (timeout && !wait_of(timeout, &wait)))
    return nullptr;
  if (max == 0) return set_config("max is 0: receive at least 1 event");
  Batch batch;
  const bool given = out && out != Py_None;
  if (given ? !batch.take(out, "out", true)
            : !batch.make(static_cast<uint32_t>(std::min<uint64_t>(max, calls->cq_depth))))
    return nullptr;
  const Use use(*calls->port);
  if (!use) return nullptr;
  max = std::min<uint64_t>(max, batch.count());
  const int received = receive(calls->port->raw(), batch.data(), static_cast<uint32_t>(max), wait);
  return received < 0 ? nullptr : batch.first(static_cast<uint32_t>(received));
}

// ---- one event ------------------------------------------------------------------------------------------------------

// A queue's key holds its id and the type in which it is sent to by default. The queue is remembered.
bool remember_queue(Calls *calls, PyObject *queue) {
  if (queue == calls->queue) return true;
  PyObject *domain = PyObject_GetAttrString(queue, "_native_domain");
  PyObject *value = domain ? PyObject_GetAttrString(queue, "_key") : nullptr;
  const bool ours = domain == calls->domain;
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
  calls->plain = pdlb_event{};
  calls->plain.queue = static_cast<uint8_t>(number);
  calls->plain.sched = pdlb_sched_byte(static_cast<unsigned>(number >> 8), 0);
  return true;
}

// The same event with other data, in one store: whoever copies all of it at once would wait for two.
inline void with_data(const pdlb_event &plain, uint64_t data, pdlb_event *event) {
  using Halves = uint64_t __attribute__((vector_size(sizeof(pdlb_event))));
  Halves halves;
  std::memcpy(&halves, &plain, sizeof halves);
  halves[0] = data;
  std::memcpy(static_cast<void *>(event), &halves, sizeof halves);
}

Signature<6> send_one_signature{"send_one", 2, 2, {"", "", "flow", "priority", "sched", "opaque"}};

// What send_one was told by name. False with the Python error set.
bool options_of(const std::array<PyObject *, 6> &values, pdlb_event *event) {
  const auto [data, queue, flow, priority, sched, opaque] = values;
  (void)data, (void)queue;
  uint64_t number[4] = {0, 0, pdlb_event_type(event), 0};
  if ((flow && !unsigned_of(flow, "flow must be from 0 to 65535", UINT16_MAX, &number[0])) ||
      (priority &&
       !unsigned_of(priority, "priority must be from 0 (served first) to 7", PDLB_PRIORITIES - 1, &number[1])) ||
      (sched && sched != Py_None &&
       !unsigned_of(sched, "sched must be a pydlb.Sched", PDLB_SCHED_DIRECTED, &number[2])) ||
      (opaque && !unsigned_of(opaque, "opaque must be from 0 to 65535", UINT16_MAX, &number[3])))
    return false;
  event->flow = static_cast<uint16_t>(number[0]);
  event->opaque = static_cast<uint16_t>(number[3]);
  event->sched = pdlb_sched_byte(static_cast<uint32_t>(number[2]), static_cast<uint32_t>(number[1]));
  return true;
}

PyObject *send_event(const Calls *calls, const pdlb_event &event) {
  pdlb_refusal why = PDLB_TAKEN;
  if (pdlb_port_send(calls->port->raw(), &event, 1, &why) == 1) Py_RETURN_TRUE;
  if (why != PDLB_NO_CREDIT) return set_refusal_of(calls, why, 0, event);
  Py_RETURN_FALSE;
}

__attribute__((noinline)) PyObject *send_any(Calls *calls, PyObject *const *arguments, Py_ssize_t count,
                                             PyObject *names) {
  std::array<PyObject *, 6> values;
  uint64_t data;
  if (!send_one_signature.read(arguments, count, names, &values) ||
      !unsigned_of(arguments[0], "data must be from 0 to 2**64 - 1", UINT64_MAX, &data))
    return nullptr;
  const Use use(*calls->port);
  if (!use || !remember_queue(calls, arguments[1])) return nullptr;
  pdlb_event event = calls->plain;
  event.data = data;
  return options_of(values, &event) ? send_event(calls, event) : nullptr;
}

// What is sent time and again, to the same queue and with no more said of it, is read without a call. Who holds the
// port looks what that queue is: without an interpreter lock, another thread's call could remember another one
// meanwhile.
PyObject *send_one(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  Calls *calls = calls_of(self);
  uint64_t data;
  if (count == 2 && !names && two_digits(arguments[0], &data)) {
    const BriefUse use(*calls->port);
    if (!use) return nullptr;
    if (arguments[1] == calls->queue) {
      pdlb_event event;
      with_data(calls->plain, data, &event);
      return send_event(calls, event);
    }
  }
  return send_any(calls, arguments, count, names);
}

Signature<1> recv_one_signature{"recv_one", 0, 1, {"timeout"}};

__attribute__((noinline)) bool timeout_of(PyObject *const *arguments, Py_ssize_t count, PyObject *names,
                                          uint64_t *wait) {
  std::array<PyObject *, 1> values;
  return recv_one_signature.read(arguments, count, names, &values) && (!values[0] || wait_of(values[0], wait));
}

__attribute__((noinline)) PyObject *wait_for_one(const Calls *calls, uint64_t wait, int rc) {
  const Use use(*calls->port);
  if (!use) return nullptr;
  pdlb_event event;
  rc = wait_to_receive(calls->port->raw(), &event, 1, wait, rc);
  if (rc < 0) return nullptr;
  if (rc == 0) Py_RETURN_NONE;
  return PyLong_FromUnsignedLongLong(event.data);
}

// Who holds the port makes the integer: without an interpreter lock, another thread could be about to.
PyObject *recv_one(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  Calls *calls = calls_of(self);
  uint64_t wait = PDLB_FOREVER;
  if ((count || names) && !timeout_of(arguments, count, names, &wait)) return nullptr;
  int received = 0;
  {
    const BriefUse use(*calls->port);
    if (!use) return nullptr;
    pdlb_event event;
    received = pdlb_port_recv(calls->port->raw(), &event, 1, 0);
    if (received > 0) return calls->received.make(event.data);
  }
  return wait_for_one(calls, wait, received);
}

// ---- what is held
// -----------------------------------------------------------------------------------------------------

Signature<1> release_signature{"release", 0, 1, {"n"}};
Signature<1> release_later_signature{"release_later", 0, 1, {"n"}};

bool count_of(const Signature<1> &signature, PyObject *const *arguments, Py_ssize_t count, PyObject *names,
              uint32_t *result) {
  std::array<PyObject *, 1> values;
  uint64_t number = 1;
  if (!signature.read(arguments, count, names, &values) ||
      (values[0] && !unsigned_of(values[0], "n must be a number of events, from 0", UINT32_MAX, &number)))
    return false;
  *result = static_cast<uint32_t>(number);
  return true;
}

PyObject *release(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  const Calls *calls = calls_of(self);
  uint32_t wanted;
  if (!count_of(release_signature, arguments, count, names, &wanted)) return nullptr;
  const Use use(*calls->port);
  if (!use) return nullptr;
  return PyLong_FromUnsignedLong(pdlb_port_release(calls->port->raw(), wanted));
}

// From any thread, as set_parked is.
PyObject *release_later(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  uint32_t wanted;
  if (!count_of(release_later_signature, arguments, count, names, &wanted)) return nullptr;
  try {
    pdlb_port_release_later(calls_of(self)->port->pin()->port, wanted);
  } catch (py::error_already_set &error) {
    error.restore();
    return nullptr;
  }
  Py_RETURN_NONE;
}

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

constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;

PyMethodDef methods[] = {
    {"send", as_function(send), kFast,
     "send($self, events, timeout=0)\n--\n\nSend a batch of events; returns how many were taken."},
    {"forward", as_function(forward), kFast,
     "forward($self, events)\n--\n\nSend a batch of events on, each in the place of one held; returns how many were "
     "taken."},
    {"recv", as_function(recv), kFast,
     "recv($self, max=32, timeout=None, out=None)\n--\n\nReceive a batch of events, into `out` where that is given."},
    {"send_one", as_function(send_one), kFast,
     "send_one($self, data, queue, /, *, flow=0, priority=0, sched=None, opaque=0)\n--\n\n"
     "Send one event with `data`; False if the domain has no credit left."},
    {"recv_one", as_function(recv_one), kFast,
     "recv_one($self, timeout=None)\n--\n\nReceive one event's data; None if none came within `timeout` seconds."},
    {"release", as_function(release), kFast,
     "release($self, n=1)\n--\n\nComplete the `n` oldest events held; returns how many there were."},
    {"release_later", as_function(release_later), kFast,
     "release_later($self, n=1)\n--\n\nAs release, from any thread; carried out at the port's next call."},
    {"set_parked", as_function(set_parked), METH_O,
     "set_parked($self, flag, /)\n--\n\nTell whether the owner waits on the port's descriptor."},
};

// ---- what they are bound to -----------------------------------------------------------------------------------------

int traverse(PyObject *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(calls_of(self)->domain);
  Py_VISIT(calls_of(self)->queue);
  return 0;
}

int clear(PyObject *self) {
  Py_CLEAR(calls_of(self)->queue);
  calls_of(self)->received.clear();
  return 0;
}

void dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  Py_CLEAR(calls_of(self)->domain);
  calls_of(self)->port.~shared_ptr();
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

template <typename Function>
PyType_Slot slot(int number, Function function) {
  return {number, reinterpret_cast<void *>(function)};
}

PyTypeObject *make_type() {
  PyType_Slot slots[] = {slot(Py_tp_traverse, traverse), slot(Py_tp_clear, clear), slot(Py_tp_dealloc, dealloc), {}};
  PyType_Spec spec{"pydlb._native.PortCalls", sizeof(Calls), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  PyObject *type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  return reinterpret_cast<PyTypeObject *>(type);
}

PyTypeObject *calls_type;

}  // namespace

void register_port_calls() {
  calls_type = make_type();
  send_signature.intern();
  forward_signature.intern();
  recv_signature.intern();
  send_one_signature.intern();
  recv_one_signature.intern();
  release_signature.intern();
  release_later_signature.intern();
}

py::dict bind_calls(const std::shared_ptr<Port> &port, const py::object &domain, uint32_t cq_depth) {
  Calls *calls = PyObject_GC_New(Calls, calls_type);
  if (!calls) throw py::error_already_set();
  new (&calls->port) std::shared_ptr<Port>(port);
  calls->domain = domain.inc_ref().ptr();
  calls->cq_depth = cq_depth;
  calls->queue = nullptr;
  new (&calls->received) Integers;
  PyObject_GC_Track(calls);
  const auto self = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject *>(calls));
  py::dict functions;
  for (PyMethodDef &method : methods) {
    PyObject *function = PyCFunction_NewEx(&method, self.ptr(), nullptr);
    if (!function) throw py::error_already_set();
    functions[method.ml_name] = py::reinterpret_steal<py::object>(function);
  }
  return functions;
}
