// The sockets that a worker is given: Python's own, but a call that need not wait keeps the interpreter lock.
//
// socket.socket gives the lock up in every call. Where several threads want it, each of these calls wakes one of them
// and puts the caller at the end of the line: that costs more than the call itself, which takes a few microseconds for
// a short message. Here a call is tried without waiting; what would wait, or is long, is left to socket.socket.
#include <pybind11/pybind11.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>

#include "addresses.hpp"
#include "handles.hpp"
#include "socket.hpp"
#include "unlocked.hpp"

namespace py = pybind11;

namespace {

// No more bytes than these are copied under the lock.
constexpr Py_ssize_t kShort = 1 << 16;

// For whoever is asked to leave the call to socket.socket.
constexpr Py_ssize_t kLeave = -2;

// The methods of socket.socket that are overridden, and `detach` of what that extends. They live as long as the
// interpreter.
struct Inherited {
  PyObject *init, *recv, *recv_into, *send, *close, *real_close, *detach, *getsockname, *getpeername, *setsockopt, *dup;
};
Inherited inherited;

// What socket.socket extends, and what extends it here.
PyTypeObject *core, *extension;

// Where a socket of that type has what is its own, behind what socket.socket has: whether to close it is known to be
// quick.
Py_ssize_t own_offset;

std::atomic<bool> &is_quick(PyObject *self) {
  return *reinterpret_cast<std::atomic<bool> *>(reinterpret_cast<char *>(self) + own_offset);
}

// What socket.socket remembers: how many files were made of it, and whether it was closed.
PyObject *io_refs, *closed, *no_refs, *real_close_name;

struct Call {
  PyObject *self;
  PyObject *const *arguments;
  Py_ssize_t count;
  PyObject *names;

  // The only argument, nullptr if there is none or are more.
  PyObject *only() const { return count == 1 && !names ? arguments[0] : nullptr; }
};

PyObject *leave_to(PyObject *method, const Call &call) {
  std::array<PyObject *, 8> all{call.self};
  const size_t given = static_cast<size_t>(call.count + (call.names ? PyTuple_GET_SIZE(call.names) : 0));
  if (given >= all.size()) return PyErr_Format(PyExc_TypeError, "%zu arguments are too many", given);
  std::copy_n(call.arguments, given, all.begin() + 1);
  return PyObject_Vectorcall(method, all.data(), static_cast<size_t>(call.count) + 1, call.names);
}

// -1 if it is closed: socket.socket has the words for that.
int descriptor_of(PyObject *self) {
  const int fd = PyObject_AsFileDescriptor(self);
  if (fd < 0) PyErr_Clear();
  return fd;
}

// What a system call returned; -1 with the Python error set, or kLeave.
Py_ssize_t judged(Py_ssize_t result) {
  if (result >= 0) return result;
  if (errno == EAGAIN || errno == EINTR) return kLeave;
  PyErr_SetFromErrno(PyExc_OSError);
  return -1;
}

// recv(bufsize[, flags])
PyObject *socket_recv(const Call &call) {
  PyObject *const wanted = call.only();
  int overflow = 0;
  const long size = wanted && PyLong_CheckExact(wanted) ? PyLong_AsLongAndOverflow(wanted, &overflow) : -1;
  const int fd = size > 0 && size <= kShort ? descriptor_of(call.self) : -1;
  if (fd < 0) return leave_to(inherited.recv, call);
  std::array<char, kShort> buffer;
  const Py_ssize_t got = judged(recv(fd, buffer.data(), static_cast<size_t>(size), MSG_DONTWAIT));
  if (got == kLeave) return leave_to(inherited.recv, call);
  return got < 0 ? nullptr : PyBytes_FromStringAndSize(buffer.data(), got);
}

// A contiguous buffer, if it is a short one.
class Buffer {
 public:
  Buffer(PyObject *object, int flags) {
    valid_ = object && PyObject_GetBuffer(object, &view_, flags) == 0;
    if (!valid_) PyErr_Clear();
  }
  ~Buffer() {
    if (valid_) PyBuffer_Release(&view_);
  }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  bool is_short() const { return valid_ && view_.len > 0 && view_.len <= kShort; }
  void *data() const { return view_.buf; }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_{};
  bool valid_;
};

// recv_into(buffer[, nbytes[, flags]]) and send(data[, flags])
template <typename Transfer>
PyObject *transfer(const Call &call, int flags, PyObject *method, Transfer &&transfer) {
  {
    const Buffer buffer(call.only(), flags);
    const int fd = buffer.is_short() ? descriptor_of(call.self) : -1;
    const Py_ssize_t moved = fd < 0 ? kLeave : judged(transfer(fd, buffer));
    if (moved != kLeave) return moved < 0 ? nullptr : PyLong_FromSsize_t(moved);
  }
  return leave_to(method, call);
}

PyObject *socket_recv_into(const Call &call) {
  return transfer(call, PyBUF_WRITABLE, inherited.recv_into,
                  [](int fd, const Buffer &buffer) { return recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT); });
}

PyObject *socket_send(const Call &call) {
  return transfer(call, PyBUF_SIMPLE, inherited.send,
                  [](int fd, const Buffer &buffer) { return send(fd, buffer.data(), buffer.size(), MSG_DONTWAIT); });
}

// socket(family, type, proto, fileno): as socket.socket does it in Python.
int socket_init(PyObject *self, PyObject *arguments, PyObject *names) {
  if (PyTuple_GET_SIZE(arguments) == 4 && !names && PyTuple_GET_ITEM(arguments, 3) != Py_None) {
    const bool made = core->tp_init(self, arguments, nullptr) == 0 && PyObject_SetAttr(self, io_refs, no_refs) == 0 &&
                      PyObject_SetAttr(self, closed, Py_False) == 0;
    return made ? 0 : -1;
  }
  const py::tuple bound = py::make_tuple(py::handle(self));
  const auto all = py::reinterpret_steal<py::object>(PySequence_Concat(bound.ptr(), arguments));
  const auto none = py::reinterpret_steal<py::object>(all ? PyObject_Call(inherited.init, all.ptr(), names) : nullptr);
  return none ? 0 : -1;
}

// close(): for good, unless files that were made of it are open still.
PyObject *socket_close(const Call &call) {
  PyObject *const refs = call.count || call.names ? nullptr : PyObject_GetAttr(call.self, io_refs);
  if (!refs) PyErr_Clear();
  const bool last = refs == no_refs;
  Py_XDECREF(refs);
  if (!last) return leave_to(inherited.close, call);
  if (PyObject_SetAttr(call.self, closed, Py_True) < 0) return nullptr;
  return PyObject_CallMethodNoArgs(call.self, real_close_name);
}

// setsockopt(level, option, value[, size])
PyObject *socket_setsockopt(const Call &call) {
  PyObject *const option = call.count > 1 ? call.arguments[1] : nullptr;
  int overflow = 0;
  const long number = option && PyLong_Check(option) ? PyLong_AsLongAndOverflow(option, &overflow) : SO_LINGER;
  if (number == SO_LINGER) is_quick(call.self).store(false, std::memory_order_relaxed);
  return leave_to(inherited.setsockopt, call);
}

// dup(): what is set by the other one holds for this one too.
PyObject *socket_dup(const Call &call) {
  is_quick(call.self).store(false, std::memory_order_relaxed);
  return leave_to(inherited.dup, call);
}

// _real_close(): what socket.socket.close() calls once nobody uses the socket, and subclasses extend.
PyObject *socket_real_close(const Call &call) {
  const int fd = call.count || call.names ? -1 : descriptor_of(call.self);
  if (fd < 0 || (!is_quick(call.self).load(std::memory_order_relaxed) && lingers(fd)))
    return leave_to(inherited.real_close, call);
  PyObject *const detached = PyObject_CallOneArg(inherited.detach, call.self);
  if (!detached) return nullptr;
  Py_DECREF(detached);
  if (close(fd) < 0 && errno != ECONNRESET && errno != EINTR) return PyErr_SetFromErrno(PyExc_OSError);
  Py_RETURN_NONE;
}

// As socket.socket has addresses, for the families that have ports.
PyObject *address_of(const Call &call, int (*ask)(int, sockaddr *, socklen_t *), PyObject *method) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  const int fd = call.count || call.names ? -1 : descriptor_of(call.self);
  if (fd < 0) return leave_to(method, call);
  if (ask(fd, reinterpret_cast<sockaddr *>(&address), &size) < 0) return PyErr_SetFromErrno(PyExc_OSError);
  if (PyObject *const made = address_tuple(reinterpret_cast<const sockaddr &>(address))) return made;
  return PyErr_Occurred() ? nullptr : leave_to(method, call);
}

// An attribute that is a number to _socket, and to socket.socket a member of an enumeration, which it looks up again by
// ten functions in Python: an event loop asks both for each connection.
struct Named {
  PyObject *number, *member;  // as these two have it
  PyObject *known;            // dict[int, member]
};
Named family, kind;

PyObject *got(PyObject *attribute, PyObject *self) {
  return Py_TYPE(attribute)->tp_descr_get(attribute, self, reinterpret_cast<PyObject *>(Py_TYPE(self)));
}

PyObject *socket_named(PyObject *self, void *which) {
  const Named &named = *static_cast<const Named *>(which);
  const auto number = py::reinterpret_steal<py::object>(got(named.number, self));
  if (!number) return nullptr;
  if (PyObject *const member = PyDict_GetItemWithError(named.known, number.ptr())) return Py_NewRef(member);
  PyObject *const member = PyErr_Occurred() ? nullptr : got(named.member, self);
  if (member && PyDict_SetItem(named.known, number.ptr(), member) < 0) PyErr_Clear();
  return member;
}

PyGetSetDef named[] = {
    {"family", &socket_named, nullptr, "The address family.", &family},
    {"type", &socket_named, nullptr, "The kind of socket.", &kind},
    {},
};

PyObject *socket_getsockname(const Call &call) { return address_of(call, getsockname, inherited.getsockname); }
PyObject *socket_getpeername(const Call &call) { return address_of(call, getpeername, inherited.getpeername); }

template <PyObject *(*function)(const Call &)>
PyObject *called(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names) {
  return function(Call{self, arguments, count, names});
}

template <PyObject *(*function)(const Call &)>
PyMethodDef method(const char *name, const char *text) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(&called<function>)),
          METH_FASTCALL | METH_KEYWORDS, text};
}

PyMethodDef methods[] = {
    method<socket_recv>("recv", "Receive up to so many bytes, as socket.socket does."),
    method<socket_recv_into>("recv_into", "Receive into a buffer, as socket.socket does."),
    method<socket_send>("send", "Send bytes, as socket.socket does; returns how many."),
    method<socket_close>("close", "Close it, as socket.socket does."),
    method<socket_real_close>("_real_close", nullptr),
    method<socket_setsockopt>("setsockopt", "Set an option, as socket.socket does."),
    method<socket_dup>("dup", "Another socket for the same connection, as socket.socket makes it."),
    method<socket_getsockname>("getsockname", "The address of this end."),
    method<socket_getpeername>("getpeername", "The address of the other end."),
    {},
};

constexpr const char *kText =
    "A socket.socket whose calls keep the interpreter lock as long as they need not wait.\n\n"
    "Short messages are sent and received without a switch of threads. A subclass of socket.socket in all else.";

PyObject *inherit(const py::object &base, const char *name) { return py::object(base.attr(name)).release().ptr(); }

}  // namespace

// To close takes long only where SO_LINGER says so.
bool lingers(int fd) {
  linger value{};
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, SO_LINGER, &value, &size) == 0 && value.l_onoff && value.l_linger;
}

void close_descriptor(int fd, bool quickly) {
  if (quickly)
    close(fd);
  else
    unlocked([fd] { return close(fd); });
}

void note_quick_close(PyObject *socket) {
  if (PyObject_TypeCheck(socket, extension)) is_quick(socket).store(true, std::memory_order_relaxed);
}

void register_socket(py::module_ &module) {
  const py::object base = py::module_::import("socket").attr("socket"),
                   extended = py::module_::import("_socket").attr("socket");
  inherited = {inherit(base, "__init__"),   inherit(base, "recv"),        inherit(base, "recv_into"),
               inherit(base, "send"),       inherit(base, "close"),       inherit(base, "_real_close"),
               inherit(extended, "detach"), inherit(base, "getsockname"), inherit(base, "getpeername"),
               inherit(base, "setsockopt"), inherit(base, "dup")};
  core = reinterpret_cast<PyTypeObject *>(py::object(extended).release().ptr());
  family = {inherit(extended, "family"), inherit(base, "family"), PyDict_New()};
  kind = {inherit(extended, "type"), inherit(base, "type"), PyDict_New()};
  io_refs = PyUnicode_InternFromString("_io_refs");
  closed = PyUnicode_InternFromString("_closed");
  real_close_name = PyUnicode_InternFromString("_real_close");
  no_refs = PyLong_FromLong(0);
  PyType_Slot slots[] = {{Py_tp_init, reinterpret_cast<void *>(socket_init)},
                         {Py_tp_methods, methods},
                         {Py_tp_getset, named},
                         {Py_tp_doc, const_cast<char *>(kText)},
                         {0, nullptr}};
  own_offset = reinterpret_cast<PyTypeObject *>(base.ptr())->tp_basicsize;
  PyType_Spec spec{"pydlb._native.Socket", static_cast<int>(own_offset + static_cast<Py_ssize_t>(sizeof(void *))), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  const py::tuple bases = py::make_tuple(base);
  PyObject *const type = PyType_FromSpecWithBases(&spec, bases.ptr());
  if (!type) throw py::error_already_set();
  extension = reinterpret_cast<PyTypeObject *>(type);
  module.attr("Socket") = py::reinterpret_steal<py::object>(type);
}
