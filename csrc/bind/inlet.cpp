// How a worker receives: from the port's element to the connection that it names in one call.
#include "inlet.hpp"

#include <array>
#include <new>
#include <vector>

#include "port_use.hpp"

namespace py = pybind11;

namespace {

Inlet &inlet_of(PyObject *self) { return *reinterpret_cast<Inlet *>(self); }

// What the worker receives from, as it was when the call began.
struct Station {
  std::shared_ptr<Port> port;
  uint32_t number = 0, history = 0, cq_depth = 0;
  bool holds = false, releases_on_recv = false;
};

// There is room to note `most` connections then. False with the Python error set.
bool begin(const Inlet &inlet, uint32_t most, Station *station) {
  int rc = -EPIPE;
  if (inlet.ours()) {
    const Locked lock(inlet);
    rc = pdlb_ledger_prepare(inlet.ledger, most);
    *station = {inlet.port,  pdlb_ledger_port(inlet.ledger), inlet.history, inlet.cq_depth,
                inlet.holds, inlet.releases_on_recv};
  }
  if (rc == -ENOMEM) PyErr_NoMemory();
  if (rc == -EPIPE) set_closed("worker");
  return rc == 0;
}

// Under the lock: it was given these. Returns how many elements the port, which must be entered, is to release early.
uint32_t note(const Inlet &inlet, const Station &station, const pdlb_accepted *accepted, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) pdlb_ledger_give(inlet.ledger, accepted[i].listener);
  if (count == 0 || station.history == 0 || station.number != pdlb_ledger_port(inlet.ledger)) return 0;
  return pdlb_ledger_release_early(inlet.ledger, count, pdlb_port_in_flight(station.port->raw()), station.history);
}

void release_early(const Station &station, uint32_t count) {
  if (count) pdlb_port_release_later(station.port->raw(), count);
}

// What names no connection is given back.
void give_back(const Station &station, uint32_t count) {
  if (count && !station.releases_on_recv) pdlb_port_release(station.port->raw(), count);
}

// ---- one connection -------------------------------------------------------------------------------------------------

// One whose header was awaited has been counted elsewhere.
void drop(const Inlet &inlet, const pdlb_accepted &accepted) {
  close(accepted.fd);
  std::free(accepted.proxied);
  inlet.source->closed(inlet.worker, accepted.listener, true);
}

// False if the element names no connection any more, or the worker is closed.
bool take(const Inlet &inlet, const Station &station, uint64_t token, pdlb_accepted *accepted) {
  uint32_t early = 0;
  int rc = -EPIPE;
  {
    const Locked lock(inlet);
    if (pdlb_ledger_is_closed(inlet.ledger)) return false;
    inlet.source->received(inlet.worker, 1);
    rc = inlet.source->take(inlet.worker, token, accepted);
    if (rc == 0) early = note(inlet, station, accepted, 1);
  }
  if (rc == -EINPROGRESS && unlocked([&] { return inlet.source->await(accepted); })) {
    const Locked lock(inlet);
    rc = pdlb_ledger_is_closed(inlet.ledger) ? -EPIPE : 0;
    if (rc == 0)
      early = note(inlet, station, accepted, 1);
    else
      drop(inlet, *accepted);
  }
  release_early(station, early);
  return rc == 0;
}

Signature<1> accept_signature{"accept", 0, 1, {"timeout"}};

PyObject *accept(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  Inlet &inlet = inlet_of(self);
  std::array<PyObject *, 1> values;
  uint64_t wait = PDLB_FOREVER;
  Station station;
  if (!accept_signature.read(arguments, count, names, &values) || (values[0] && !wait_of(values[0], &wait)) ||
      !begin(inlet, 1, &station))
    return nullptr;
  const uint64_t deadline = deadline_of(wait);
  const Use use(*station.port);
  if (!use) return nullptr;
  for (;;) {
    if (station.holds) inlet.source->waits(inlet.worker);
    pdlb_event event;
    const int received = receive(station.port->raw(), &event, 1, wait);
    if (received < 0) return nullptr;
    if (received == 0) Py_RETURN_NONE;
    pdlb_accepted accepted;
    if (take(inlet, station, event.data, &accepted)) return make_connection(inlet, accepted, station.number, true);
    give_back(station, 1);
    if (wait && wait != PDLB_FOREVER) {
      const uint64_t now = pdlb_now();
      wait = deadline > now ? deadline - now : 0;
    }
  }
}

// ---- several --------------------------------------------------------------------------------------------------------

// Takes what elements name, and what is to be collected, as much as there is place for.
struct Taking {
  std::array<pdlb_accepted, 2 * kMostAtOnce> accepted;
  uint32_t count = 0, nothing = 0;  // connections; elements that name none
  bool more = false;

  void take(const Inlet &inlet, const pdlb_event *events, uint32_t received) {
    inlet.source->received(inlet.worker, received);
    for (uint32_t i = 0; i < received; i++) {
      const int rc = inlet.source->take(inlet.worker, events[i].data, &accepted[count]);
      count += rc == 0;
      nothing += rc < 0 && rc != -EINPROGRESS;
    }
    bool found = true;
    while (found && count < accepted.size()) {
      uint32_t never = 0;
      found = inlet.source->collect(&accepted[count], &never);
      count += found;
      nothing += never;
    }
    more = found && count == accepted.size();
  }
};

// If there is no memory for all, some are closed and counted as aborted.
PyObject *list_of(Inlet &inlet, const pdlb_accepted *accepted, uint32_t count, uint32_t port) {
  PyObject *list = PyList_New(count);
  for (uint32_t i = 0; i < count; i++) {
    PyObject *const connection = make_connection(inlet, accepted[i], port, false);
    if (list && connection) PyList_SET_ITEM(list, i, connection);
    if (!list) Py_XDECREF(connection);
    if (!connection) Py_CLEAR(list);
  }
  return list;
}

// Let another worker lead, if this one does.
void pass_lead(Inlet &inlet) {
  if (inlet.leads.load(std::memory_order_relaxed) && inlet.leads.exchange(false)) inlet.source->led();
}

// Accepts first, where it is this worker's turn to. Who leads next is a matter of four system calls: where it has what
// it accepted, that comes first.
class Lead {
 public:
  Lead(Inlet &inlet, const Station &station, bool may) : inlet_(inlet) {
    pass_lead(inlet);
    if (may && inlet.source->lead(inlet.worker, station.port->raw())) inlet.leads.store(true);
  }
  ~Lead() {
    if (!received_) pass_lead(inlet_);
  }
  Lead(const Lead &) = delete;
  Lead &operator=(const Lead &) = delete;

  void received(uint32_t count) { received_ = count && !inlet_.source->waiting(); }

 private:
  Inlet &inlet_;
  bool received_ = false;
};

enum class Outcome { received, failed, moved };

Outcome receive_now(Inlet &inlet, uint32_t most, PyObject **result) {
  Station station;
  if (!begin(inlet, 2 * kMostAtOnce, &station)) return Outcome::failed;
  const Use use(*station.port);
  std::array<pdlb_event, kMostAtOnce> events;
  Lead lead(inlet, station, static_cast<bool>(use));
  const int received = use ? receive(station.port->raw(), events.data(), most, 0) : -1;
  Taking taking;
  uint32_t early = 0;
  {
    const Locked lock(inlet);
    const bool closed = pdlb_ledger_is_closed(inlet.ledger);
    if (received < 0 && !closed && station.number != pdlb_ledger_port(inlet.ledger)) return Outcome::moved;
    if (received >= 0 && !closed) taking.take(inlet, events.data(), static_cast<uint32_t>(received));
    if (received >= 0 && closed) taking.nothing = static_cast<uint32_t>(received);
    early = note(inlet, station, taking.accepted.data(), taking.count);
  }
  if (received < 0) return Outcome::failed;
  lead.received(taking.count);
  give_back(station, taking.nothing);
  release_early(station, early);
  // Where it is given one at a time, the next one comes when it is asked for.
  const bool more = taking.more || received == static_cast<int>(most) || (taking.count && station.cq_depth < most);
  PyObject *const list = list_of(inlet, taking.accepted.data(), taking.count, station.number);
  *result = list ? Py_BuildValue("NO", list, more ? Py_True : Py_False) : nullptr;
  return Outcome::received;
}

bool most_of(PyObject *argument, uint32_t *most) {
  uint64_t number = 0;
  if (!unsigned_of(argument, "most must be a number of connections, from 0", UINT32_MAX, &number)) return false;
  *most = static_cast<uint32_t>(std::min<uint64_t>(number, kMostAtOnce));
  return true;
}

PyObject *receive_some(PyObject *self, PyObject *most) {
  uint32_t max;
  if (!most_of(most, &max)) return nullptr;
  PyObject *result = nullptr;
  while (receive_now(inlet_of(self), max, &result) == Outcome::moved) PyErr_Clear();
  return result;
}

// hand_on(): what it accepted for the accepting thread is dealt with.
PyObject *hand_on(PyObject *self, PyObject *) {
  Inlet &inlet = inlet_of(self);
  if (!inlet.ours()) return set_closed("worker");
  pass_lead(inlet);
  Py_RETURN_NONE;
}

// rest() -> bool: nothing is in hand. True if something waits; else it may be chosen again, as one that looked in vain.
PyObject *rest(PyObject *self, PyObject *) {
  Inlet &inlet = inlet_of(self);
  if (!inlet.ours()) return set_closed("worker");
  pass_lead(inlet);
  std::shared_ptr<Port> port;
  {
    const Locked lock(inlet);
    if (!pdlb_ledger_is_closed(inlet.ledger)) port = inlet.port;
  }
  const std::shared_ptr<PortHandle> handle = port ? port->open_handle() : nullptr;
  if (!handle || pdlb_port_has_work(handle->port)) Py_RETURN_TRUE;
  inlet.source->received(inlet.worker, 0);
  pdlb_port_parked(handle->port, true);
  Py_RETURN_FALSE;
}

// accept_own(port, most, retries): accept by oneself, and send what is for others through the port.
PyObject *accept_own(PyObject *self, PyObject *arguments) {
  Inlet &inlet = inlet_of(self);
  PyObject *port, *most;
  unsigned retries;
  uint32_t max;
  Station station;
  if (!PyArg_ParseTuple(arguments, "OOI", &port, &most, &retries) || !most_of(most, &max)) return nullptr;
  std::shared_ptr<Port> sender;
  try {
    sender = py::cast<std::shared_ptr<Port>>(py::handle(port));
  } catch (const py::cast_error &) {
    return PyErr_Format(PyExc_TypeError, "%R is no port", port);
  }
  if (!begin(inlet, kMostAtOnce, &station)) return nullptr;
  const Use use(*sender);
  if (!use) return nullptr;
  std::array<pdlb_accepted, kMostAtOnce> kept;
  const uint32_t count = inlet.source->accept({sender->raw(), inlet.worker, retries}, max, kept.data());
  {
    const Locked lock(inlet);
    for (uint32_t i = 0; i < count; i++) pdlb_ledger_give(inlet.ledger, kept[i].listener);
  }
  return list_of(inlet, kept.data(), count, 0);
}

// ---- what it stands on ----------------------------------------------------------------------------------------------

std::shared_ptr<Port> native_port(PyObject *port) {
  return py::cast<std::shared_ptr<Port>>(py::handle(port).attr("_native"));
}

// move(port, holds, history)
PyObject *move(PyObject *self, PyObject *arguments) {
  Inlet &inlet = inlet_of(self);
  PyObject *port;
  int holds;
  unsigned history;
  if (!PyArg_ParseTuple(arguments, "OpI", &port, &holds, &history)) return nullptr;
  if (!inlet.ours()) return set_closed("worker");
  try {
    std::shared_ptr<Port> native = native_port(port);
    const bool releases = py::handle(port).attr("releases_on_recv").cast<bool>();
    const uint32_t depth = py::handle(port).attr("cq_depth").cast<uint32_t>();
    PyObject *before = Py_NewRef(port);
    {
      const Locked lock(inlet);
      std::swap(inlet.port, native);
      std::swap(inlet.port_object, before);
      inlet.holds = holds;
      inlet.history = history;
      inlet.cq_depth = depth;
      inlet.releases_on_recv = releases;
      pdlb_ledger_move(inlet.ledger);
    }
    Py_XDECREF(before);
  } catch (py::error_already_set &error) {
    error.restore();
    return nullptr;
  } catch (const py::cast_error &) {
    return PyErr_Format(PyExc_TypeError, "%R is no port of a worker", port);
  }
  Py_RETURN_NONE;
}

PyObject *set_sockets(PyObject *self, PyObject *socket_class) {
  const Inlet &inlet = inlet_of(self);
  if (!inlet.ours()) return set_closed("worker");
  PyObject *before = Py_NewRef(socket_class);
  {
    const Locked lock(inlet);
    std::swap(inlet_of(self).socket_class, before);
  }
  Py_XDECREF(before);
  Py_RETURN_NONE;
}

// ---- counts ---------------------------------------------------------------------------------------------------------

PyObject *close_inlet(PyObject *self, PyObject *) {
  const Inlet &inlet = inlet_of(self);
  if (!inlet.ours()) Py_RETURN_FALSE;
  const Locked lock(inlet);
  return Py_NewRef(pdlb_ledger_close(inlet.ledger) ? Py_True : Py_False);
}

PyObject *counts(PyObject *self, PyObject *) {
  const Inlet &inlet = inlet_of(self);
  if (!inlet.ours()) return set_closed("worker");
  struct pdlb_ledger_counts now;
  {
    const Locked lock(inlet);
    pdlb_ledger_counts(inlet.ledger, &now);
  }
  return Py_BuildValue("KKKK", now.given, now.ended, now.aborted, now.released_early);
}

py::dict entries(const Inlet &inlet) {
  std::vector<pdlb_ledger_entry> found;
  {
    const Locked lock(inlet);
    uint32_t place = 0;
    while (const pdlb_ledger_entry *entry = pdlb_ledger_next(inlet.ledger, &place)) found.push_back(*entry);
  }
  py::dict result;
  for (const pdlb_ledger_entry &entry : found)
    result[py::int_(entry.listener)] = py::make_tuple(entry.given, entry.ended);
  return result;
}

PyObject *by_listener(PyObject *self, PyObject *) {
  const Inlet &inlet = inlet_of(self);
  if (!inlet.ours()) return set_closed("worker");
  try {
    return entries(inlet).release().ptr();
  } catch (py::error_already_set &error) {
    error.restore();
    return nullptr;
  } catch (const std::bad_alloc &) {
    return PyErr_NoMemory();
  }
}

// ---- between two connections ----------------------------------------------------------------------------------------

PyObject *give_way(PyObject *, PyObject *) {
  Turns::give_way();
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"give_way", give_way, METH_NOARGS,
     "give_way()\n--\n\nLet a thread that asks for the interpreter lock have it, if this one's turn was long enough."},
    {},
};

// ---- the type -------------------------------------------------------------------------------------------------------

// Inlet(source, worker, blocking)
PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *names) {
  PyObject *source;
  unsigned worker;
  int blocking;
  if (names && PyDict_GET_SIZE(names)) return PyErr_Format(PyExc_TypeError, "Inlet() takes no keyword arguments");
  if (!PyArg_ParseTuple(arguments, "OIp", &source, &worker, &blocking)) return nullptr;
  auto *inlet = reinterpret_cast<Inlet *>(type->tp_alloc(type, 0));
  if (!inlet) return nullptr;
  const auto self = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject *>(inlet));
  new (&inlet->port) std::shared_ptr<Port>;
  new (&inlet->quick_listener) std::atomic<uint64_t>(kNoListener);
  new (&inlet->leads) std::atomic<bool>(false);
  inlet->born = fork_count();
  inlet->worker = worker;
  inlet->blocking = blocking;
  try {
    inlet->source = py::cast<Source *>(py::handle(source));
  } catch (const py::cast_error &) {
    return PyErr_Format(PyExc_TypeError, "%R is nothing that a worker receives from", source);
  }
  inlet->source_object = Py_NewRef(source);
  inlet->ledger = pdlb_ledger_create();
  return inlet->ledger ? py::object(self).release().ptr() : PyErr_NoMemory();
}

void dealloc(PyObject *self) {
  PyTypeObject *const type = Py_TYPE(self);
  Inlet &inlet = inlet_of(self);
  if (inlet.ledger) pdlb_ledger_free(inlet.ledger);
  inlet.port.~shared_ptr();
  Py_XDECREF(inlet.socket_class);
  Py_XDECREF(inlet.port_object);
  Py_XDECREF(inlet.source_object);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"accept", as_function(accept), METH_FASTCALL | METH_KEYWORDS,
     "accept($self, timeout=None)\n--\n\nWait for the next connection; None if none came within `timeout` seconds."},
    {"receive", as_function(receive_some), METH_O,
     "receive($self, most, /)\n--\n\nTake what connections there are now, and tell whether there may be more."},
    {"hand_on", as_function(hand_on), METH_NOARGS,
     "hand_on($self)\n--\n\nLet another worker accept the next one, if this one did."},
    {"rest", as_function(rest), METH_NOARGS,
     "rest($self)\n--\n\nNothing is in hand: be there for more. True if some waits, which is to be taken."},
    {"accept_own", as_function(accept_own), METH_VARARGS,
     "accept_own($self, port, most, retries, /)\n--\n\nAccept, send what is for others, and return what stays."},
    {"move", as_function(move), METH_VARARGS,
     "move($self, port, holds, history, /)\n--\n\nReceive from this port from now on."},
    {"set_sockets", as_function(set_sockets), METH_O,
     "set_sockets($self, socket_class, /)\n--\n\nMake sockets of this class from now on."},
    {"close", as_function(close_inlet), METH_NOARGS,
     "close($self)\n--\n\nTake no more; what is open counts as aborted. False if it was closed before."},
    {"counts", as_function(counts), METH_NOARGS,
     "counts($self)\n--\n\nConnections given, ended, of these aborted; and elements released early."},
    {"by_listener", as_function(by_listener), METH_NOARGS,
     "by_listener($self)\n--\n\nFor each listener, connections given and ended."},
    {},
};

}  // namespace

void end_connection(Inlet &inlet, uint32_t listener, uint32_t port, bool aborted) {
  if (!inlet.ours()) return;
  std::shared_ptr<Port> held_by;
  {
    const Locked lock(inlet);
    if (pdlb_ledger_end(inlet.ledger, listener, port, &aborted) && !inlet.releases_on_recv) held_by = inlet.port;
  }
  inlet.source->closed(inlet.worker, listener, aborted);
  // What a port held that is closed was released then.
  if (held_by)
    if (const std::shared_ptr<PortHandle> handle = held_by->open_handle()) pdlb_port_release_later(handle->port, 1);
}

void register_inlet(py::module_ &module) {
  py::class_<Source, std::shared_ptr<Source>>(module, "Source");
  accept_signature.intern();
  PyType_Slot slots[] = {slot(Py_tp_new, make), slot(Py_tp_dealloc, dealloc), {Py_tp_methods, methods}, {}};
  PyTypeObject *const type = make_type("pydlb._native.Inlet", sizeof(Inlet), 0, slots);
  if (PyModule_AddFunctions(module.ptr(), functions) < 0) throw py::error_already_set();
  module.attr("Inlet") = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject *>(type));
}
