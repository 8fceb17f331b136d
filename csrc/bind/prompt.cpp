// What is done with a connection before its event loop knows of it: nothing here waits, so the interpreter lock is
// kept, but where to close it takes long. The ordinary way of one that is answered at once is here, and what may happen
// to it else in Python.
#include "prompt.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "addresses.hpp"
#include "handles.hpp"
#include "inlet.hpp"
#include "natives.hpp"
#include "socket.hpp"

namespace py = pybind11;

namespace {

// As many bytes as an event loop reads at a time.
constexpr size_t kBlock = 1 << 16;

// More bytes than these are not kept to be sent with others.
constexpr Py_ssize_t kShort = 1 << 16;

// In a response's header: the end will follow, and is sent in one packet with what comes before. Else the kernel sends
// that when the loop is given the connection, or after a fifth of a second.
constexpr std::string_view kCloses = "onnection: close\r\n";

// -1 with the error set.
int descriptor_of(PyObject *number) {
  const long fd = PyLong_AsLong(number);
  if (fd >= 0 && fd <= INT_MAX) return static_cast<int>(fd);
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a descriptor is at least 0");
  return -1;
}

bool is_not_now() { return errno == EAGAIN || errno == EINTR; }

// ---- addresses ------------------------------------------------------------------------------------------------------

// Of one of the families that have ports.
struct Address {
  union {
    sockaddr any;
    sockaddr_in of_4;
    sockaddr_in6 of_6;
  };
  bool known;

  using Ask = int (*)(int, sockaddr *, socklen_t *);

  void ask(Ask asked, int fd) {
    socklen_t size = sizeof of_6;
    known = asked(fd, &any, &size) == 0;
  }

  // None if there is none.
  PyObject *tuple() const {
    PyObject *const made = known ? address_tuple(any) : nullptr;
    return made || PyErr_Occurred() ? made : Py_NewRef(Py_None);
  }
};

// ---- the transport --------------------------------------------------------------------------------------------------

// What the transport has behind what its base class has. Python sees the parts as slots, which it visits and clears.
struct Prompt {
  PyObject *held, *beginnings, *link, *protocol, *error;
  int fd, family;
  int set;  // the epoll set in which it rests, which holds a reference; -1 while it does not
  char due, opened, introducing, knows, closes_quickly;
  Address peer, own;  // once it is closed, for whoever asks still
};

Py_ssize_t offset;
PyTypeObject *prompt_class, *closed_class, *class_of_links;

struct Names {
  PyObject *class_, *connection_made, *data_received, *connection_lost, *is_closing, *end_first_turn, *failed, *write,
      *flush, *write_large, *write_rest, *close, *abort, *sslcontext, *get_extra_info, *other_info, *report, *pass_on,
      *get_buffer;
};
Names names;

Prompt &prompt_of(PyObject *self) { return *reinterpret_cast<Prompt *>(reinterpret_cast<char *>(self) + offset); }

// The loop does not know of it, and it is not closed.
bool is_prompt(PyObject *self) { return Py_IS_TYPE(self, prompt_class); }

// Takes over `value`.
void set(PyObject **part, PyObject *value) {
  PyObject *const before = *part;
  *part = value;
  Py_XDECREF(before);
}

PyObject *none_if(int rc) { return rc < 0 ? nullptr : Py_NewRef(Py_None); }

// What was kept, which is the caller's now; nullptr if nothing was.
PyObject *take_held(Prompt &prompt) {
  if (prompt.held == Py_None) return nullptr;
  PyObject *const held = prompt.held;
  prompt.held = Py_NewRef(Py_None);
  return held;
}

// It rests no more. True if it did.
bool leave_set(PyObject *self) {
  Prompt &prompt = prompt_of(self);
  if (prompt.set < 0) return false;
  epoll_event none{};
  epoll_ctl(std::exchange(prompt.set, -1), EPOLL_CTL_DEL, prompt.fd, &none);
  Py_DECREF(self);
  return true;
}

// One that rests is told of the end in its loop's next turn, others when their first one ends.
int close_now(PyObject *self) {
  Prompt &prompt = prompt_of(self);
  const bool rested = leave_set(self);
  if (prompt.knows) {  // handlers tell who it was when they have closed it
    prompt.peer.ask(getpeername, prompt.fd);
    prompt.own.ask(getsockname, prompt.fd);
  }
  const int rc = PyObject_SetAttr(self, names.class_, reinterpret_cast<PyObject *>(closed_class));
  close_descriptor(std::exchange(prompt.fd, -1), prompt.closes_quickly);
  return rested && end_turn_later(prompt.beginnings, self) < 0 ? -1 : rc;
}

// By what errno says.
int abort_with_errno(PyObject *self) {
  PyErr_SetFromErrno(PyExc_OSError);
  set(&prompt_of(self).error, fetch_error());
  return done(PyObject_CallMethodNoArgs(self, names.abort));
}

// Two pieces in one packet; the second may be missing.
int send_pieces(PyObject *self, PyObject *first, PyObject *second, bool more) {
  Prompt &prompt = prompt_of(self);
  std::array<iovec, 2> pieces{{{PyBytes_AS_STRING(first), static_cast<size_t>(PyBytes_GET_SIZE(first))}, {}}};
  if (second) pieces[1] = {PyBytes_AS_STRING(second), static_cast<size_t>(PyBytes_GET_SIZE(second))};
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = second ? 2 : 1;
  const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0);
  const size_t size = pieces[0].iov_len + pieces[1].iov_len;
  ssize_t sent = second ? sendmsg(prompt.fd, &message, flags) : send(prompt.fd, pieces[0].iov_base, size, flags);
  if (sent == static_cast<ssize_t>(size)) return 0;
  if (sent < 0 && !is_not_now()) return abort_with_errno(self);
  PyObject *all = Py_NewRef(first);
  if (second) PyBytes_Concat(&all, second);
  const auto both = py::reinterpret_steal<py::object>(all);
  const auto count = py::reinterpret_steal<py::object>(PyLong_FromSsize_t(std::max<ssize_t>(sent, 0)));
  if (!both || !count) return -1;
  return done(PyObject_CallMethodObjArgs(self, names.write_rest, both.ptr(), count.ptr(), nullptr));
}

// What follows are its methods, which somebody may have taken and call when it is something else, as callbacks are:
// then it is asked for what it has of that name now. Its descriptor may be another connection's by then.

// write(data)
PyObject *prompt_write(PyObject *self, PyObject *data) {
  if (!is_prompt(self)) return PyObject_CallMethodOneArg(self, names.write, data);
  Prompt &prompt = prompt_of(self);
  if (!PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) >= kShort)
    return PyObject_CallMethodOneArg(self, names.write_large, data);
  if (const auto held = py::reinterpret_steal<py::object>(take_held(prompt))) {
    const std::string_view before{PyBytes_AS_STRING(held.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(held.ptr()))};
    return none_if(send_pieces(self, held.ptr(), data, before.find(kCloses) != std::string_view::npos));
  }
  if (prompt.due) return none_if(send_pieces(self, data, nullptr, false));
  set(&prompt.held, Py_NewRef(data));
  prompt.due = true;
  Py_RETURN_NONE;
}

// flush()
PyObject *prompt_flush(PyObject *self, PyObject *) {
  if (!is_prompt(self)) return PyObject_CallMethodNoArgs(self, names.flush);
  const auto held = py::reinterpret_steal<py::object>(take_held(prompt_of(self)));
  return none_if(held ? send_pieces(self, held.ptr(), nullptr, false) : 0);
}

// close()
PyObject *prompt_close(PyObject *self, PyObject *) {
  if (!is_prompt(self)) return PyObject_CallMethodNoArgs(self, names.close);
  const auto held = py::reinterpret_steal<py::object>(take_held(prompt_of(self)));
  if (held && send_pieces(self, held.ptr(), nullptr, true) < 0) return nullptr;
  if (!is_prompt(self)) return PyObject_CallMethodNoArgs(self, names.close);
  return none_if(close_now(self));
}

// abort()
PyObject *prompt_abort(PyObject *self, PyObject *) {
  if (!is_prompt(self)) return PyObject_CallMethodNoArgs(self, names.abort);
  set(&prompt_of(self).held, Py_NewRef(Py_None));
  return none_if(close_now(self));
}

// get_extra_info(name, default=None): protocols ask each whether it is encrypted.
PyObject *prompt_extra_info(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords) {
  const bool is_now = is_prompt(self);
  if (is_now && count == 1 && !keywords && arguments[0] == names.sslcontext) Py_RETURN_NONE;
  std::array<PyObject *, 4> all{self};
  const Py_ssize_t given = count + (keywords ? PyTuple_GET_SIZE(keywords) : 0);
  if (given > 2) return PyErr_Format(PyExc_TypeError, "get_extra_info() takes a name and a default");
  std::copy_n(arguments, given, all.begin() + 1);
  PyObject *const name = is_now ? names.other_info : names.get_extra_info;
  return PyObject_VectorcallMethod(name, all.data(), static_cast<size_t>(count) + 1, keywords);
}

// Whose it was and is not any more.
PyObject *known_peer(PyObject *self, PyObject *) { return prompt_of(self).peer.tuple(); }
PyObject *known_own(PyObject *self, PyObject *) { return prompt_of(self).own.tuple(); }

// is_closing()
PyObject *prompt_is_closing(PyObject *self, PyObject *) {
  if (!is_prompt(self)) return PyObject_CallMethodNoArgs(self, names.is_closing);
  Py_RETURN_FALSE;
}

PyObject *yes(PyObject *, PyObject *) { Py_RETURN_TRUE; }

// send_now(data) -> int: how much of it could be sent
PyObject *prompt_send_now(PyObject *self, PyObject *data) {
  Py_buffer view;
  if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return nullptr;
  const ssize_t sent = send(prompt_of(self).fd, view.buf, static_cast<size_t>(view.len), MSG_DONTWAIT | MSG_NOSIGNAL);
  const int failure = errno;
  PyBuffer_Release(&view);  // which may call anything
  errno = failure;
  if (sent >= 0) return PyLong_FromSsize_t(sent);
  return is_not_now() ? PyLong_FromLong(0) : PyErr_SetFromErrno(PyExc_OSError);
}

int tell_of_the_end(PyObject *self, PyObject *protocol) {
  const int rc = done(PyObject_CallMethodOneArg(protocol, names.connection_lost, prompt_of(self).error));
  if (rc == 0 || !PyErr_ExceptionMatches(PyExc_Exception)) return rc;
  const auto error = py::reinterpret_steal<py::object>(fetch_error());
  return done(PyObject_CallMethodObjArgs(self, names.report, error.ptr(), protocol, nullptr));
}

// Of one that is closed: tell the protocol, and then the link, whatever the protocol did.
int lose(PyObject *self) {
  Prompt &prompt = prompt_of(self);
  if (prompt.protocol == Py_None) return 0;
  const auto protocol = py::reinterpret_steal<py::object>(prompt.protocol);
  prompt.protocol = Py_NewRef(Py_None);
  const auto link = py::reinterpret_borrow<py::object>(prompt.link);
  const int told = prompt.opened ? tell_of_the_end(self, protocol.ptr()) : 0;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  const int ended = end_link(reinterpret_cast<Link *>(link.ptr()));
  if (told < 0) PyErr_Restore(type, value, trace);
  return std::min(told, ended);
}

PyObject *prompt_lose(PyObject *self, PyObject *) { return none_if(lose(self)); }

PyObject *prompt_stop_resting(PyObject *self, PyObject *) {
  leave_set(self);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"write_first", prompt_write, METH_O, nullptr},
    {"flush_first", prompt_flush, METH_NOARGS, nullptr},
    {"close_first", prompt_close, METH_NOARGS, nullptr},
    {"abort_first", prompt_abort, METH_NOARGS, nullptr},
    {"extra_info_first", as_function(prompt_extra_info), METH_FASTCALL | METH_KEYWORDS, nullptr},
    {"send_now", prompt_send_now, METH_O, nullptr},
    {"known_peer", known_peer, METH_NOARGS, nullptr},
    {"known_own", known_own, METH_NOARGS, nullptr},
    {"lose_closed", prompt_lose, METH_NOARGS, nullptr},
    {"stop_resting", prompt_stop_resting, METH_NOARGS, nullptr},
    {"is_closing_first", prompt_is_closing, METH_NOARGS, nullptr},
    {"yes", yes, METH_NOARGS, nullptr},
    {},
};

template <typename Part>
PyMemberDef part(const char *name, int kind, Part Prompt::*which) {
  static const Prompt empty{};
  const auto place = reinterpret_cast<const char *>(&(empty.*which)) - reinterpret_cast<const char *>(&empty);
  return {name, kind, offset + place, 0, nullptr};
}

// prompt_type(base) -> type: what transports derive from; once, for asyncio is imported only when it is used.
PyObject *prompt_type(PyObject *, PyObject *base) {
  if (!PyType_Check(base)) return PyErr_Format(PyExc_TypeError, "%R is no class", base);
  offset = reinterpret_cast<PyTypeObject *>(base)->tp_basicsize;
  PyMemberDef members[] = {
      part("_held", T_OBJECT_EX, &Prompt::held),
      part("_beginnings", T_OBJECT_EX, &Prompt::beginnings),
      part("_link", T_OBJECT_EX, &Prompt::link),
      part("_protocol", T_OBJECT_EX, &Prompt::protocol),
      part("_error", T_OBJECT_EX, &Prompt::error),
      part("_descriptor", T_INT, &Prompt::fd),
      part("_family", T_INT, &Prompt::family),
      part("_set", T_INT, &Prompt::set),
      part("_due", T_BOOL, &Prompt::due),
      part("introducing", T_BOOL, &Prompt::introducing),
      part("_opened", T_BOOL, &Prompt::opened),
      part("_closes_quickly", T_BOOL, &Prompt::closes_quickly),
      {},
  };
  PyType_Slot slots[] = {{Py_tp_members, members}, {Py_tp_methods, methods}, {}};
  PyType_Spec spec{"pydlb._native.Prompt", static_cast<int>(offset + static_cast<Py_ssize_t>(sizeof(Prompt))), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  const auto bases = py::reinterpret_steal<py::object>(PyTuple_Pack(1, base));
  return bases ? PyType_FromSpecWithBases(&spec, bases.ptr()) : nullptr;
}

// set_prompt_classes(prompt, closed, link): what instances are made of.
PyObject *set_prompt_classes(PyObject *, PyObject *arguments) {
  PyObject *prompt, *closed, *link;
  if (!PyArg_ParseTuple(arguments, "O!O!O!", &PyType_Type, &prompt, &PyType_Type, &closed, &PyType_Type, &link))
    return nullptr;
  prompt_class = reinterpret_cast<PyTypeObject *>(Py_NewRef(prompt));
  closed_class = reinterpret_cast<PyTypeObject *>(Py_NewRef(closed));
  class_of_links = reinterpret_cast<PyTypeObject *>(Py_NewRef(link));
  Py_RETURN_NONE;
}

// ---- functions of descriptors ---------------------------------------------------------------------------------------

PyObject *address_by(Address::Ask ask, PyObject *number) {
  const int fd = descriptor_of(number);
  if (fd < 0) return nullptr;
  Address address{};
  address.ask(ask, fd);
  return address.tuple();
}

PyObject *own_address(PyObject *, PyObject *number) { return address_by(getsockname, number); }
PyObject *peer_address(PyObject *, PyObject *number) { return address_by(getpeername, number); }

PyMethodDef functions[] = {
    {"prompt_type", prompt_type, METH_O, "A class that transports of a base class derive from. Once."},
    {"set_prompt_classes", set_prompt_classes, METH_VARARGS,
     "The classes of such transports, of closed ones, of links."},
    {"own_address", own_address, METH_O, "The address of this end; None if there is none."},
    {"peer_address", peer_address, METH_O, "The address of the other end; None if there is none."},
    {},
};

}  // namespace

PyTypeObject *link_class() { return class_of_links; }

PyObject *bytes_of(int fd, bool *more) {
  std::array<char, kBlock> buffer;
  errno = 0;
  const ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  *more = got > 0 || (got < 0 && is_not_now());
  return got > 0 ? PyBytes_FromStringAndSize(buffer.data(), got) : nullptr;
}

PyObject *new_prompt(PyObject *beginnings, Link *link, int fd, int family, bool closes_quickly, PyObject *protocol,
                     bool knows) {
  PyObject *const self = prompt_class->tp_alloc(prompt_class, 0);
  if (!self) return close_descriptor(fd, closes_quickly), nullptr;
  Prompt &prompt = prompt_of(self);
  prompt.held = Py_NewRef(Py_None);
  prompt.error = Py_NewRef(Py_None);
  prompt.beginnings = Py_NewRef(beginnings);
  prompt.link = Py_NewRef(reinterpret_cast<PyObject *>(link));
  prompt.protocol = Py_NewRef(protocol);
  prompt.fd = fd;
  prompt.family = family;
  prompt.set = -1;
  prompt.knows = knows;
  prompt.closes_quickly = closes_quickly;
  set_transport(link, self);
  return self;
}

namespace {

int give(PyObject *self, PyObject *data) {
  const auto protocol = py::reinterpret_borrow<py::object>(prompt_of(self).protocol);
  return done(PyObject_CallMethodOneArg(protocol.ptr(), names.data_received, data));
}

// Of what its protocol did. Errors that are no exceptions of programs go on.
int abort_if_failed(PyObject *self, int rc) {
  if (rc == 0 || !PyErr_ExceptionMatches(PyExc_Exception)) return rc;
  const auto error = py::reinterpret_steal<py::object>(fetch_error());
  return done(PyObject_CallMethodOneArg(self, names.failed, error.ptr()));
}

// At once, at most.
constexpr int kLook = 64;

// The end is the loop's business. An error is not: the kernel tells it once, and the loop would take it for the end.
int read_resting(PyObject *self) {
  const Prompt &prompt = prompt_of(self);
  if (!is_prompt(self) || prompt.set < 0) return 0;  // what others read before it has ended it
  bool more = true;
  const auto data = py::reinterpret_steal<py::object>(bytes_of(prompt.fd, &more));
  if (data) return abort_if_failed(self, give(self, data.ptr()));
  if (PyErr_Occurred()) return -1;
  if (more) return 0;
  return errno ? abort_with_errno(self) : done(PyObject_CallMethodNoArgs(self, names.pass_on));
}

}  // namespace

int begin_prompt(PyObject *self, PyObject *data) {
  Prompt &prompt = prompt_of(self);
  prompt.opened = true;
  const auto first = py::reinterpret_borrow<py::object>(prompt.protocol);  // which may set another one
  int rc = done(PyObject_CallMethodOneArg(first.ptr(), names.connection_made, self));
  bool closing = false;
  if (rc == 0 && !is_prompt(self)) {
    const auto answer = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(self, names.is_closing));
    rc = answer ? 0 : -1;
    closing = answer && answer.ptr() == Py_True;
  }
  if (rc == 0 && !closing && data) rc = give(self, data);
  return abort_if_failed(self, rc);
}

namespace {

// As loops do. What is kept in the kernel, for an end that did not follow, is sent by that.
void send_without_delay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

int rest_prompt(PyObject *self, int set) {
  Prompt &prompt = prompt_of(self);
  const auto held = py::reinterpret_steal<py::object>(take_held(prompt));
  if (held && send_pieces(self, held.ptr(), nullptr, false) < 0) return -1;
  if (!is_prompt(self)) return done(PyObject_CallMethodNoArgs(self, names.end_first_turn));
  prompt.due = true;  // what is written from now on is sent at once
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = self;
  if (PyObject_HasAttr(prompt.protocol, names.get_buffer) || epoll_ctl(set, EPOLL_CTL_ADD, prompt.fd, &event) < 0)
    return done(PyObject_CallMethodNoArgs(self, names.pass_on));
  prompt.set = set;
  Py_INCREF(self);
  send_without_delay(prompt.fd);
  return 0;
}

int look_at_resting(int set) {
  std::array<epoll_event, kLook> ready;
  const int count = epoll_wait(set, ready.data(), kLook, 0);
  std::array<PyObject *, kLook> who;
  for (int i = 0; i < count; i++) who[i] = Py_NewRef(static_cast<PyObject *>(ready[i].data.ptr));
  int failed = 0;
  for (int i = 0; i < count; i++) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    const int rc = read_resting(who[i]);
    if (failed && rc < 0) PyErr_WriteUnraisable(who[i]);
    if (failed) PyErr_Restore(type, value, trace);
    failed |= rc < 0;
    Py_DECREF(who[i]);
  }
  return failed ? -1 : 0;
}

int end_first_turn(PyObject *self) {
  const bool is_closed = Py_IS_TYPE(self, closed_class);
  note_first_turn(prompt_of(self).beginnings, !is_closed);
  if (is_closed) return lose(self);
  const int set = is_prompt(self) ? resting_set(prompt_of(self).beginnings) : -1;
  return set < 0 ? done(PyObject_CallMethodNoArgs(self, names.end_first_turn)) : rest_prompt(self, set);
}

void register_prompt(py::module_ &module) {
  names = {PyUnicode_InternFromString("__class__"),      PyUnicode_InternFromString("connection_made"),
           PyUnicode_InternFromString("data_received"),  PyUnicode_InternFromString("connection_lost"),
           PyUnicode_InternFromString("is_closing"),     PyUnicode_InternFromString("end_first_turn"),
           PyUnicode_InternFromString("failed"),         PyUnicode_InternFromString("write"),
           PyUnicode_InternFromString("flush"),          PyUnicode_InternFromString("write_large"),
           PyUnicode_InternFromString("write_rest"),     PyUnicode_InternFromString("close"),
           PyUnicode_InternFromString("abort"),          PyUnicode_InternFromString("sslcontext"),
           PyUnicode_InternFromString("get_extra_info"), PyUnicode_InternFromString("other_info"),
           PyUnicode_InternFromString("_report"),        PyUnicode_InternFromString("pass_on"),
           PyUnicode_InternFromString("get_buffer")};
  if (PyModule_AddFunctions(module.ptr(), functions) < 0) throw py::error_already_set();
}
