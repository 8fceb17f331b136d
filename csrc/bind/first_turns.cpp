// The connections of one adapter that its event loop does not know of yet: from those that its worker received to
// their protocols, and to the end of their first turn.
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <utility>

#include "connection.hpp"
#include "handles.hpp"
#include "inlet.hpp"
#include "natives.hpp"
#include "prompt.hpp"
#include "socket.hpp"

namespace py = pybind11;

namespace {

struct Beginnings {
  PyObject_HEAD PyObject *adapter, *loop, *make, *move;
  unsigned went_on;  // one after the other, after their first turn, or were taken for such
  int set;           // in which those that go on rest; -1 where they are the loop's
};

// Where so many went on, others will: one that does, and does not rest, is made twice, and the most of that is done
// after its answer, when the next one comes. They are the loop's at once, but for one in so many, by which it is seen
// whether that has changed.
constexpr unsigned kWentOn = 4, kTry = 16;

PyObject *submit_name, *links_name, *give_up_name, *call_soon_name, *end_turns;

Beginnings &beginnings_of(PyObject *self) { return *reinterpret_cast<Beginnings *>(self); }

std::array<PyObject **, 4> parts_of(PyObject *self) {
  Beginnings &all = beginnings_of(self);
  return {&all.adapter, &all.loop, &all.make, &all.move};
}

// It cannot be served. Errors that are no exceptions of programs go on.
int give_up(const Beginnings &all, Link *link) {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) return -1;
  const auto error = py::reinterpret_steal<py::object>(fetch_error());
  return done(PyObject_CallMethodObjArgs(all.adapter, give_up_name, link, error.ptr(), nullptr));
}

// Makes protocol and transport; takes the descriptor over.
PyObject *make_transport(PyObject *self, Link *link, int fd, int family, bool closes_quickly) {
  const Beginnings &all = beginnings_of(self);
  const auto protocol =
      py::reinterpret_steal<py::object>(PyObject_CallOneArg(all.make, reinterpret_cast<PyObject *>(link)));
  if (!protocol) return close_descriptor(fd, closes_quickly), nullptr;
  return new_prompt(self, link, fd, family, closes_quickly, protocol.ptr(), all.move != Py_None);
}

int note(const Beginnings &all, Link *link) {
  const auto links = py::reinterpret_steal<py::object>(PyObject_GetAttr(all.adapter, links_name));
  return links ? PySet_Add(links.ptr(), reinterpret_cast<PyObject *>(link)) : -1;
}

bool pays(Beginnings &all) { return all.set >= 0 || all.went_on < kWentOn || ++all.went_on % kTry == 0; }

// One whose client has sent something; or nothing yet, where it can rest.
int begin(PyObject *self, const Bare &bare, PyObject *connection, PyObject *data, PyObject *begun) {
  const Beginnings &all = beginnings_of(self);
  const auto ticket = py::reinterpret_steal<py::object>(take_descriptor(connection));
  if (!ticket) return -1;
  Link *const link = new_link(link_class(), all.adapter, ticket.ptr());
  const auto held = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject *>(link));
  if (!link || note(all, link) < 0)
    return close_descriptor(bare.fd, bare.closes_quickly), release_ticket(ticket.ptr(), true), -1;
  const auto transport =
      py::reinterpret_steal<py::object>(make_transport(self, link, bare.fd, bare.family, bare.closes_quickly));
  if (!transport) return give_up(all, link);
  const int noted = PyList_Append(begun, transport.ptr());
  return begin_prompt(transport.ptr(), data) < 0 ? -1 : noted;
}

// Those that were begun are noted in `begun`.
int serve_one(PyObject *self, PyObject *connection, PyObject *begun) {
  const Bare bare = pays(beginnings_of(self)) ? bare_descriptor(connection) : Bare{-1, 0, false};
  bool more = false;
  const auto data = py::reinterpret_steal<py::object>(bare.fd < 0 ? nullptr : bytes_of(bare.fd, &more));
  if (PyErr_Occurred()) return -1;
  if (data || (more && beginnings_of(self).set >= 0)) return begin(self, bare, connection, data.ptr(), begun);
  return done(PyObject_CallMethodOneArg(beginnings_of(self).adapter, submit_name, connection));
}

// The loop has before it what those have to do that have begun: their first turn ends behind that.
int end_later(PyObject *self, PyObject *begun) {
  if (PyList_GET_SIZE(begun) == 0) return 0;
  return done(PyObject_CallMethodObjArgs(beginnings_of(self).loop, call_soon_name, end_turns, begun, nullptr));
}

// serve(connections) -> bool: their handlers will have had what there is in the loop's next turn, and no more is to be
// done for them
PyObject *serve(PyObject *self, PyObject *connections) {
  const auto all = py::reinterpret_steal<py::object>(PySequence_Fast(connections, "connections are a sequence"));
  const auto begun = py::reinterpret_steal<py::object>(all ? PyList_New(0) : nullptr);
  if (!begun) return nullptr;
  int rc = 0;
  for (Py_ssize_t i = 0; rc == 0 && i < PySequence_Fast_GET_SIZE(all.ptr()); i++)
    rc = serve_one(self, PySequence_Fast_GET_ITEM(all.ptr(), i), begun.ptr());
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  const int later = end_later(self, begun.ptr());
  if (rc < 0) PyErr_Restore(type, value, trace);
  if (rc < 0 || later < 0) return nullptr;
  const bool all_rest =
      beginnings_of(self).set >= 0 && PyList_GET_SIZE(begun.ptr()) == PySequence_Fast_GET_SIZE(all.ptr());
  return PyBool_FromLong(all_rest);
}

// transport(link, descriptor, family)
PyObject *transport(PyObject *self, PyObject *arguments) {
  PyObject *link;
  int fd, family;
  if (!PyArg_ParseTuple(arguments, "O!ii", link_class(), &link, &fd, &family)) return nullptr;
  return make_transport(self, reinterpret_cast<Link *>(link), fd, family, false);
}

// What goes wrong with one is told once all others had theirs.
PyObject *end_first_turns(PyObject *, PyObject *begun) {
  int failed = 0;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(begun); i++) {
    PyObject *const one = PyList_GET_ITEM(begun, i);
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    const int rc = end_first_turn(one);
    if (failed && rc < 0) PyErr_WriteUnraisable(one);
    if (failed) PyErr_Restore(type, value, trace);
    failed |= rc < 0;
  }
  if (failed) return nullptr;
  Py_RETURN_NONE;
}

// ---- those that rest ------------------------------------------------------------------------------------------------

// let_rest() -> the descriptor that tells of them
PyObject *let_rest(PyObject *self, PyObject *) {
  Beginnings &all = beginnings_of(self);
  if (all.set < 0) all.set = epoll_create1(EPOLL_CLOEXEC);
  return all.set < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(all.set);
}

// look()
PyObject *look(PyObject *self, PyObject *) {
  if (look_at_resting(beginnings_of(self).set) < 0) return nullptr;
  Py_RETURN_NONE;
}

void close_set(Beginnings &all) {
  const int set = std::exchange(all.set, -1);
  if (set >= 0) close(set);
}

// rest_no_more()
PyObject *rest_no_more(PyObject *self, PyObject *) {
  close_set(beginnings_of(self));
  Py_RETURN_NONE;
}

void dealloc(PyObject *self) {
  close_set(beginnings_of(self));
  Collected<parts_of>::dealloc(self);
}

// Beginnings(adapter, loop, make, move)
PyObject *construct(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  PyObject *adapter, *loop, *make, *move;
  if (keywords && PyDict_GET_SIZE(keywords))
    return PyErr_Format(PyExc_TypeError, "Beginnings() takes no keyword arguments");
  if (!PyArg_ParseTuple(arguments, "OOOO", &adapter, &loop, &make, &move)) return nullptr;
  if (!link_class()) return PyErr_Format(PyExc_RuntimeError, "Beginnings() needs pydlb.adapters.prompt");
  PyObject *const self = type->tp_alloc(type, 0);
  if (!self) return nullptr;
  Beginnings &all = beginnings_of(self);
  all.adapter = Py_NewRef(adapter);
  all.loop = Py_NewRef(loop);
  all.make = Py_NewRef(make);
  all.move = Py_NewRef(move);
  all.set = -1;
  return self;
}

PyMemberDef members[] = {
    {"loop", T_OBJECT_EX, static_cast<Py_ssize_t>(offsetof(Beginnings, loop)), READONLY, nullptr},
    {"move", T_OBJECT_EX, static_cast<Py_ssize_t>(offsetof(Beginnings, move)), READONLY, nullptr},
    {},
};

PyMethodDef methods[] = {
    {"serve", serve, METH_O, "serve($self, connections, /)\n--\n\nServe connections, from their first bytes on."},
    {"let_rest", let_rest, METH_NOARGS,
     "let_rest($self)\n--\n\nKeep those that go on from the loop; the descriptor that calls for `look`."},
    {"look", look, METH_NOARGS, "look($self)\n--\n\nRead those that rest, and have received something."},
    {"rest_no_more", rest_no_more, METH_NOARGS, "rest_no_more($self)\n--\n\nNone rests any more."},
    {"transport", transport, METH_VARARGS,
     "transport($self, link, descriptor, family, /)\n--\n\nMake protocol and transport for one without bytes."},
    {},
};

PyMethodDef end_first_turns_function = {"end_first_turns", end_first_turns, METH_O, nullptr};

}  // namespace

int resting_set(PyObject *beginnings) { return beginnings ? beginnings_of(beginnings).set : -1; }

int end_turn_later(PyObject *beginnings, PyObject *transport) {
  const auto one = py::reinterpret_steal<py::object>(PyList_New(0));
  return one && PyList_Append(one.ptr(), transport) == 0 ? end_later(beginnings, one.ptr()) : -1;
}

void note_first_turn(PyObject *beginnings, bool went_on) {
  if (beginnings) beginnings_of(beginnings).went_on = went_on ? beginnings_of(beginnings).went_on + 1 : 0;
}

void register_first_turns(py::module_ &module) {
  submit_name = PyUnicode_InternFromString("_submit");
  links_name = PyUnicode_InternFromString("_links");
  give_up_name = PyUnicode_InternFromString("_give_up");
  call_soon_name = PyUnicode_InternFromString("call_soon");
  end_turns = PyCFunction_New(&end_first_turns_function, nullptr);
  if (!end_turns) throw py::error_already_set();
  PyType_Slot slots[] = {slot(Py_tp_new, construct),
                         slot(Py_tp_traverse, Collected<parts_of>::traverse),
                         slot(Py_tp_clear, Collected<parts_of>::clear),
                         slot(Py_tp_dealloc, dealloc),
                         {Py_tp_members, members},
                         {Py_tp_methods, methods},
                         {}};
  PyTypeObject *const type =
      make_type("pydlb._native.Beginnings", sizeof(Beginnings), Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots);
  module.attr("Beginnings") = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject *>(type));
}
