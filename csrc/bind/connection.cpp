// A connection that a worker was given, and the ticket that stands for it once its socket is somebody else's.
//
// Neither can be part of a cycle, so that the cycle collector is not told of them: they hold their inlet and a socket,
// of which neither holds anything of the user's.
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "arguments.hpp"
#include "connection.hpp"
#include "inlet.hpp"
#include "natives.hpp"
#include "socket.hpp"

namespace py = pybind11;

namespace {

enum State : uint8_t { kOpen, kEnded, kDetached };  // kDetached: its descriptor is somebody else's

struct Connection {
  PyObject_HEAD Inlet *inlet;
  std::atomic<PyObject *> socket, proxied;  // made when somebody asks for them, and kept
  pdlb_proxied *named;                      // what a proxy said of it
  int fd, family, protocol;
  uint32_t listener, port;
  bool blocking;
  std::atomic<State> state;
};

struct Ticket {
  PyObject_HEAD Inlet *inlet;
  uint32_t listener, port;
  std::atomic<bool> counts;
};

Connection &connection_of(PyObject *self) { return *reinterpret_cast<Connection *>(self); }
Ticket &ticket_of(PyObject *self) { return *reinterpret_cast<Ticket *>(self); }

PyTypeObject *connection_type, *ticket_type;
PyObject *close_name, *detach_name, *family_name, *getpeername_name, *closed_error;

// Keeps the error that is being handled from what is called meanwhile.
class Aside {
 public:
  Aside() { PyErr_Fetch(&type_, &value_, &trace_); }
  ~Aside() { PyErr_Restore(type_, value_, trace_); }
  Aside(const Aside &) = delete;
  Aside &operator=(const Aside &) = delete;

 private:
  PyObject *type_, *value_, *trace_;
};

PyObject *set_over(const char *text) {
  if (!closed_error) {
    const py::object errors = py::reinterpret_steal<py::object>(PyImport_ImportModule("pydlb.errors"));
    PyObject *const found = errors ? PyObject_GetAttrString(errors.ptr(), "ClosedError") : nullptr;
    if (!found) return nullptr;
    closed_error = found;
  }
  PyErr_SetString(closed_error, text);
  return nullptr;
}

// ---- what is made when it is asked for ------------------------------------------------------------------------------

PyObject *socket_class_of(const Inlet &inlet) {
  if (!inlet.ours()) return Py_XNewRef(inlet.socket_class);
  const Locked lock(inlet);
  return Py_XNewRef(inlet.socket_class);
}

// Accepted sockets inherit it from their listener: to ask for one of them will do.
bool closes_quickly(const Connection &connection) {
  std::atomic<uint64_t> &known = connection.inlet->quick_listener;
  if (known.load(std::memory_order_relaxed) == connection.listener) return true;
  if (lingers(connection.fd)) return false;
  known.store(connection.listener, std::memory_order_relaxed);
  return true;
}

// To say what the descriptor is costs nothing; to ask the kernel would.
PyObject *make_socket(const Connection &connection) {
  PyObject *const socket_class = socket_class_of(*connection.inlet);
  const int kind = connection.blocking ? SOCK_STREAM : SOCK_STREAM | SOCK_NONBLOCK;
  PyObject *values[] = {PyLong_FromLong(connection.family), PyLong_FromLong(kind), PyLong_FromLong(connection.protocol),
                        PyLong_FromLong(connection.fd)};
  PyObject *made = nullptr;
  if (socket_class && values[0] && values[1] && values[2] && values[3])
    made = PyObject_Vectorcall(socket_class, values, 4, nullptr);
  if (made && closes_quickly(connection)) note_quick_close(made);
  for (PyObject *value : values) Py_XDECREF(value);
  Py_XDECREF(socket_class);
  return made;
}

// Another thread may have been quicker. Takes over `made`; returns what is kept, borrowed.
PyObject *keep(std::atomic<PyObject *> &place, PyObject *made, PyObject *drop_by) {
  PyObject *before = nullptr;
  if (place.compare_exchange_strong(before, made, std::memory_order_acq_rel)) return made;
  if (drop_by) Py_XDECREF(PyObject_CallMethodNoArgs(made, drop_by));
  Py_DECREF(made);
  return before;
}

// Borrowed from the connection.
PyObject *socket_of(Connection &connection) {
  if (PyObject *const socket = connection.socket.load(std::memory_order_acquire)) return socket;
  if (connection.state.load(std::memory_order_acquire) == kDetached)
    return set_over("this connection's descriptor was detached");
  PyObject *const made = make_socket(connection);
  return made ? keep(connection.socket, made, detach_name) : nullptr;
}

PyObject *get_socket(PyObject *self, void *) { return Py_XNewRef(socket_of(connection_of(self))); }

PyObject *read_proxied(const pdlb_proxied &named) {
  const py::object proxied = py::module_::import("pydlb.proxied").attr("Proxied");
  return proxied.attr("read")(addresses(named)).release().ptr();
}

PyObject *proxied_of(Connection &connection) {
  if (PyObject *const proxied = connection.proxied.load(std::memory_order_acquire)) return proxied;
  if (!connection.named) return Py_None;
  try {
    return keep(connection.proxied, read_proxied(*connection.named), nullptr);
  } catch (py::error_already_set &error) {
    error.restore();
    return nullptr;
  }
}

PyObject *get_proxied(PyObject *self, void *) { return Py_XNewRef(proxied_of(connection_of(self))); }

PyObject *get_client_address(PyObject *self, void *) {
  PyObject *const proxied = proxied_of(connection_of(self));
  if (!proxied) return nullptr;
  if (proxied != Py_None) return PyObject_GetAttrString(proxied, "client");
  PyObject *const socket = socket_of(connection_of(self));
  return socket ? PyObject_CallMethodNoArgs(socket, getpeername_name) : nullptr;
}

PyObject *get_listener(PyObject *self, void *) { return PyLong_FromUnsignedLong(connection_of(self).listener); }

// ---- its end --------------------------------------------------------------------------------------------------------

// Of all who end it, the first one counts.
bool claim(Connection &connection, State state) {
  State before = kOpen;
  return connection.state.compare_exchange_strong(before, state, std::memory_order_acq_rel);
}

void end(Connection &connection, bool aborted) {
  end_connection(*connection.inlet, connection.listener, connection.port, aborted);
}

PyObject *close_connection(Connection &connection, bool aborted) {
  if (!claim(connection, kEnded)) Py_RETURN_NONE;
  PyObject *const socket = socket_of(connection);
  PyObject *const result = socket ? PyObject_CallMethodNoArgs(socket, close_name) : nullptr;
  if (!socket) close(connection.fd);
  end(connection, aborted);
  return result;
}

Signature<1> close_signature{"close", 0, 0, {"aborted"}};
Signature<1> release_signature{"release", 0, 0, {"aborted"}};

// -1 with the Python error set.
int aborted_of(const Signature<1> &signature, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  std::array<PyObject *, 1> values;
  if (!signature.read(arguments, count, names, &values)) return -1;
  return values[0] ? PyObject_IsTrue(values[0]) : 0;
}

PyObject *connection_close(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  const int aborted = aborted_of(close_signature, arguments, count, names);
  return aborted < 0 ? nullptr : close_connection(connection_of(self), aborted);
}

PyObject *connection_enter(PyObject *self, PyObject *) { return Py_NewRef(self); }

// __exit__(kind, value, trace)
PyObject *connection_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
  if (count != 3) return PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments but %zd were given", count);
  return close_connection(connection_of(self), arguments[0] != Py_None);
}

// It was thrown away: its socket warns of itself, and closes the descriptor.
void forget(Connection &connection, PyTypeObject *type) {
  const Aside aside;
  if (!socket_of(connection)) {
    PyErr_WriteUnraisable(reinterpret_cast<PyObject *>(type));
    close(connection.fd);
  }
  end(connection, true);
  Py_XDECREF(connection.socket.exchange(nullptr, std::memory_order_relaxed));
}

void connection_dealloc(PyObject *self) {
  PyTypeObject *const type = Py_TYPE(self);
  Connection &connection = connection_of(self);
  if (claim(connection, kEnded)) forget(connection, type);
  Py_XDECREF(connection.socket.load(std::memory_order_relaxed));
  Py_XDECREF(connection.proxied.load(std::memory_order_relaxed));
  std::free(connection.named);
  Py_DECREF(connection.inlet);
  PyObject_Free(self);
  Py_DECREF(type);
}

// ---- giving it up ---------------------------------------------------------------------------------------------------

PyObject *make_ticket(const Connection &connection) {
  Ticket *const ticket = PyObject_New(Ticket, ticket_type);
  if (!ticket) return nullptr;
  ticket->inlet = connection.inlet;
  Py_INCREF(ticket->inlet);
  ticket->listener = connection.listener;
  ticket->port = connection.port;
  new (&ticket->counts) std::atomic<bool>(true);
  return reinterpret_cast<PyObject *>(ticket);
}

PyObject *set_ended() { return set_over("this connection is closed, or was detached"); }

PyObject *connection_detach(PyObject *self, PyObject *) {
  Connection &connection = connection_of(self);
  if (connection.state.load(std::memory_order_acquire) != kOpen) return set_ended();
  PyObject *const socket = socket_of(connection);
  const auto ticket = py::reinterpret_steal<py::object>(socket ? make_ticket(connection) : nullptr);
  if (!ticket) return nullptr;
  const auto both = py::reinterpret_steal<py::object>(PyTuple_Pack(2, socket, ticket.ptr()));
  if (!both) return nullptr;
  return claim(connection, kEnded) ? py::object(both).release().ptr() : set_ended();
}

// The descriptor of a socket that was made already, and its family as that has it.
PyObject *detach_socket(PyObject *self) {
  const auto both = py::reinterpret_steal<py::object>(connection_detach(self, nullptr));
  if (!both) return nullptr;
  PyObject *const socket = PyTuple_GET_ITEM(both.ptr(), 0), *const ticket = PyTuple_GET_ITEM(both.ptr(), 1);
  const auto family = py::reinterpret_steal<py::object>(PyObject_GetAttr(socket, family_name));
  PyObject *const descriptor = family ? PyObject_CallMethodNoArgs(socket, detach_name) : nullptr;
  return descriptor ? Py_BuildValue("NOO", descriptor, family.ptr(), ticket) : nullptr;
}

PyObject *connection_detach_descriptor(PyObject *self, PyObject *) {
  Connection &connection = connection_of(self);
  if (connection.socket.load(std::memory_order_acquire)) return detach_socket(self);
  if (connection.state.load(std::memory_order_acquire) != kOpen) return set_ended();
  PyObject *const ticket = make_ticket(connection);
  PyObject *const all = ticket ? Py_BuildValue("iiN", connection.fd, connection.family, ticket) : nullptr;
  if (!all || claim(connection, kDetached)) return all;
  Py_DECREF(all);
  return set_ended();
}

void release(Ticket &ticket, bool aborted) {
  if (ticket.counts.exchange(false, std::memory_order_acq_rel))
    end_connection(*ticket.inlet, ticket.listener, ticket.port, aborted);
}

PyObject *ticket_release(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  const int aborted = aborted_of(release_signature, arguments, count, names);
  if (aborted < 0) return nullptr;
  release(ticket_of(self), aborted);
  Py_RETURN_NONE;
}

PyObject *ticket_listener(PyObject *self, void *) { return PyLong_FromUnsignedLong(ticket_of(self).listener); }

PyObject *ticket_port(PyObject *self, void *) {
  const Ticket &ticket = ticket_of(self);
  if (ticket.port == 0 || !ticket.inlet->ours()) Py_RETURN_NONE;
  const Locked lock(*ticket.inlet);
  const bool holds = ticket.port == pdlb_ledger_port(ticket.inlet->ledger);
  return Py_NewRef(holds ? ticket.inlet->port_object : Py_None);
}

void ticket_dealloc(PyObject *self) {
  PyTypeObject *const type = Py_TYPE(self);
  Py_DECREF(ticket_of(self).inlet);
  PyObject_Free(self);
  Py_DECREF(type);
}

// ---- the types ------------------------------------------------------------------------------------------------------

constexpr const char *kConnection =
    "A connection that a worker was given.\n\n"
    "Attributes:\n"
    "    socket: The client's socket, blocking unless the worker's event loop took it.\n"
    "    listener: The number of the listener that it came through, as :meth:`Balancer.listen` returned it.\n"
    "    proxied: What a proxy said of it by the PROXY protocol: the client's address and the one that it connected\n"
    "        to, with their family; None if none did.\n\n"
    "**Synchronization**: any thread may close it, or give it up.\n\n"
    "**Resource handling**: a context manager. `close` closes the socket and counts it; `detach` hands both out. One\n"
    "that is forgotten counts as aborted, and its socket warns.";

constexpr const char *kTicket =
    "Stands for one open connection in the balancer's count, until it is given back.\n\n"
    "Attributes:\n"
    "    listener: The number of its listener.\n"
    "    port: Which holds it; None for one that came through no port, or whose port was closed since.\n\n"
    "**Synchronization**: any thread.";

PyGetSetDef connection_values[] = {
    {"socket", get_socket, nullptr, "The client's socket.", nullptr},
    {"listener", get_listener, nullptr, "The number of its listener.", nullptr},
    {"proxied", get_proxied, nullptr, "What a proxy said of it; None if none did.", nullptr},
    {"client_address", get_client_address, nullptr,
     "The client's address: that of which the proxy told, if there is one, else the socket's.\n\n"
     "Raises:\n"
     "    OSError: The client has left.",
     nullptr},
    {},
};

PyMethodDef connection_methods[] = {
    {"detach", as_function(connection_detach), METH_NOARGS,
     "detach($self)\n--\n\n"
     "Give up the connection: its socket, and the ticket to release when the socket is closed.\n\n"
     "Raises:\n"
     "    ClosedError: It was closed, or given up before."},
    {"detach_descriptor", as_function(connection_detach_descriptor), METH_NOARGS,
     "detach_descriptor($self)\n--\n\n"
     "The same for who needs no socket object: its descriptor, its family, and the ticket."},
    {"close", as_function(connection_close), METH_FASTCALL | METH_KEYWORDS,
     "close($self, *, aborted=False)\n--\n\n"
     "Close the socket, and count the connection as closed. May be called twice."},
    {"__enter__", as_function(connection_enter), METH_NOARGS, "__enter__($self)\n--\n\nThe connection itself."},
    {"__exit__", as_function(connection_exit), METH_FASTCALL,
     "__exit__($self, kind, value, trace, /)\n--\n\n"
     "Close it; one that ends by an exception is counted as aborted."},
    {},
};

PyGetSetDef ticket_values[] = {
    {"listener", ticket_listener, nullptr, "The number of its listener.", nullptr},
    {"port", ticket_port, nullptr, "The port that holds it.", nullptr},
    {},
};

PyMethodDef ticket_methods[] = {
    {"release", as_function(ticket_release), METH_FASTCALL | METH_KEYWORDS,
     "release($self, *, aborted=False)\n--\n\n"
     "The connection is closed. May be called twice; the first call counts.\n\n"
     "Args:\n"
     "    aborted: It did not end in the ordinary way."},
    {},
};

template <size_t N>
PyTypeObject *publish(py::module_ &module, const char *name, const char *place, size_t size, PyType_Slot (&slots)[N]) {
  PyTypeObject *const type = make_type(place, size, Py_TPFLAGS_DISALLOW_INSTANTIATION, slots);
  module.attr(name) = py::handle(reinterpret_cast<PyObject *>(type));
  return type;
}

}  // namespace

Bare bare_descriptor(PyObject *object) {
  if (!Py_IS_TYPE(object, connection_type)) return {-1, 0, false};
  const Connection &connection = connection_of(object);
  const bool has_port = connection.family == AF_INET || connection.family == AF_INET6;
  const bool bare = has_port && !connection.named && !connection.socket.load(std::memory_order_acquire) &&
                    connection.state.load(std::memory_order_acquire) == kOpen;
  return {bare ? connection.fd : -1, connection.family, bare && closes_quickly(connection)};
}

PyObject *take_descriptor(PyObject *connection) {
  PyObject *const ticket = make_ticket(connection_of(connection));
  if (!ticket || claim(connection_of(connection), kDetached)) return ticket;
  Py_DECREF(ticket);
  return set_ended();
}

int release_ticket(PyObject *ticket, bool aborted) {
  if (Py_IS_TYPE(ticket, ticket_type)) return release(ticket_of(ticket), aborted), 0;
  const auto method = py::reinterpret_steal<py::object>(PyObject_GetAttrString(ticket, "release"));
  const auto none = py::reinterpret_steal<py::object>(PyTuple_New(0));
  const auto names = py::reinterpret_steal<py::object>(Py_BuildValue("{sO}", "aborted", aborted ? Py_True : Py_False));
  if (!method || !none || !names) return -1;
  return done(PyObject_Call(method.ptr(), none.ptr(), names.ptr()));
}

PyObject *make_connection(Inlet &inlet, const pdlb_accepted &accepted, uint32_t port, bool blocking) {
  Connection *const connection = PyObject_New(Connection, connection_type);
  if (!connection) {
    close(accepted.fd);
    std::free(accepted.proxied);
    end_connection(inlet, accepted.listener, port, true);
    return nullptr;
  }
  if (blocking != inlet.blocking) {
    int nonblocking = !blocking;
    ioctl(accepted.fd, FIONBIO, &nonblocking);
  }
  connection->inlet = &inlet;
  Py_INCREF(connection->inlet);
  new (&connection->socket) std::atomic<PyObject *>(nullptr);
  new (&connection->proxied) std::atomic<PyObject *>(nullptr);
  new (&connection->state) std::atomic<State>(kOpen);
  connection->named = accepted.proxied;
  connection->fd = accepted.fd;
  connection->family = accepted.family;
  connection->protocol = accepted.protocol;
  connection->listener = accepted.listener;
  connection->port = port;
  connection->blocking = blocking;
  return reinterpret_cast<PyObject *>(connection);
}

void register_connection(py::module_ &module) {
  close_signature.intern();
  release_signature.intern();
  close_name = PyUnicode_InternFromString("close");
  detach_name = PyUnicode_InternFromString("detach");
  family_name = PyUnicode_InternFromString("family");
  getpeername_name = PyUnicode_InternFromString("getpeername");
  PyType_Slot of_connection[] = {slot(Py_tp_dealloc, connection_dealloc),
                                 {Py_tp_methods, connection_methods},
                                 {Py_tp_getset, connection_values},
                                 {Py_tp_doc, const_cast<char *>(kConnection)},
                                 {}};
  connection_type = publish(module, "Connection", "pydlb.Connection", sizeof(Connection), of_connection);
  PyType_Slot of_ticket[] = {slot(Py_tp_dealloc, ticket_dealloc),
                             {Py_tp_methods, ticket_methods},
                             {Py_tp_getset, ticket_values},
                             {Py_tp_doc, const_cast<char *>(kTicket)},
                             {}};
  ticket_type = publish(module, "Ticket", "pydlb.Ticket", sizeof(Ticket), of_ticket);
}
