#include "link.hpp"

#include <array>
#include <cstddef>
#include <utility>

#include "connection.hpp"
#include "handles.hpp"
#include "inlet.hpp"
#include "natives.hpp"

namespace py = pybind11;

namespace {

PyObject *links_name, *awaited_name, *all_ended_name;

Link &link_of(PyObject *self) { return *reinterpret_cast<Link *>(self); }

std::array<PyObject **, 7> parts_of(PyObject *self) {
  Link &link = link_of(self);
  return {&link.adapter, &link.ticket, &link.proxied, &link.task, &link.connecting, &link.end, &link.transport};
}

PyObject *make(PyTypeObject *type, PyObject *adapter, PyObject *ticket, PyObject *proxied) {
  PyObject *const self = type->tp_alloc(type, 0);
  if (!self) return nullptr;
  for (PyObject **part : parts_of(self)) *part = Py_NewRef(Py_None);
  Py_SETREF(link_of(self).adapter, Py_NewRef(adapter));
  Py_SETREF(link_of(self).ticket, Py_NewRef(ticket));
  Py_SETREF(link_of(self).proxied, Py_NewRef(proxied));
  return self;
}

// Link(adapter, ticket, proxied)
PyObject *construct(PyTypeObject *type, PyObject *arguments, PyObject *names) {
  PyObject *adapter, *ticket, *proxied;
  if (names && PyDict_GET_SIZE(names)) return PyErr_Format(PyExc_TypeError, "Link() takes no keyword arguments");
  if (!PyArg_ParseTuple(arguments, "OOO", &adapter, &ticket, &proxied)) return nullptr;
  return make(type, adapter, ticket, proxied);
}

// The last one that is open tells its adapter, if that was asked to wait for it.
int forget(Link &link) {
  const auto links = py::reinterpret_steal<py::object>(PyObject_GetAttr(link.adapter, links_name));
  if (!links || PySet_Discard(links.ptr(), reinterpret_cast<PyObject *>(&link)) < 0) return -1;
  if (PySet_GET_SIZE(links.ptr()) > 0) return 0;
  const auto awaited = py::reinterpret_steal<py::object>(PyObject_GetAttr(link.adapter, awaited_name));
  if (!awaited) return -1;
  if (awaited.ptr() != Py_True) return 0;
  return done(PyObject_CallMethodNoArgs(link.adapter, all_ended_name));
}

// What connects it is taken to its end.
int finish(Link &link) {
  if (link.connecting == Py_None) return 0;
  const auto connecting = py::reinterpret_steal<py::object>(link.connecting);
  link.connecting = Py_NewRef(Py_None);
  Py_XDECREF(PyIter_Next(connecting.ptr()));
  return PyErr_Occurred() ? -1 : 0;
}

PyObject *ended(PyObject *self, PyObject *) {
  if (end_link(&link_of(self)) < 0) return nullptr;
  Py_RETURN_NONE;
}

constexpr PyMemberDef part(const char *name, size_t place) {
  return {name, T_OBJECT_EX, static_cast<Py_ssize_t>(place), 0, nullptr};
}

PyMemberDef members[] = {
    part("_adapter", offsetof(Link, adapter)),
    part("_ticket", offsetof(Link, ticket)),
    part("proxied", offsetof(Link, proxied)),
    part("task", offsetof(Link, task)),
    part("connecting", offsetof(Link, connecting)),
    part("_end", offsetof(Link, end)),
    part("transport", offsetof(Link, transport)),
    {"failed", T_BOOL, static_cast<Py_ssize_t>(offsetof(Link, failed)), 0, nullptr},
    {},
};

PyMethodDef methods[] = {
    {"ended", as_function(ended), METH_NOARGS, "ended($self, /)\n--\n\nThe socket is closed."},
    {},
};

}  // namespace

Link *new_link(PyTypeObject *type, PyObject *adapter, PyObject *ticket) {
  return reinterpret_cast<Link *>(make(type, adapter, ticket, Py_None));
}

// Where there is no interpreter lock, others may be about to look at it, who lock the link for it.
void set_transport(Link *link, PyObject *transport) {
  PyObject *before = Py_NewRef(transport);
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030d0000
  Py_BEGIN_CRITICAL_SECTION(reinterpret_cast<PyObject *>(link));
  std::swap(link->transport, before);
  Py_END_CRITICAL_SECTION();
#else
  std::swap(link->transport, before);
#endif
  Py_XDECREF(before);
}

int end_link(Link *link) {
  const auto held = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject *>(link));
  if (release_ticket(link->ticket, link->failed) < 0 || forget(*link) < 0) return -1;
  set_transport(link, Py_None);  // it may refer to the link, and both would be left to the cycle collector
  return finish(*link);
}

void register_link(py::module_ &module) {
  links_name = PyUnicode_InternFromString("_links");
  awaited_name = PyUnicode_InternFromString("_is_awaited");
  all_ended_name = PyUnicode_InternFromString("all_ended");
  PyType_Slot slots[] = {slot(Py_tp_new, construct),
                         slot(Py_tp_traverse, Collected<parts_of>::traverse),
                         slot(Py_tp_clear, Collected<parts_of>::clear),
                         slot(Py_tp_dealloc, Collected<parts_of>::dealloc),
                         {Py_tp_members, members},
                         {Py_tp_methods, methods},
                         {}};
  PyTypeObject *const type =
      make_type("pydlb._native.Link", sizeof(Link), Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots);
  module.attr("Link") = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject *>(type));
}
