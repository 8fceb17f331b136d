// One connection on an event loop, from its socket to its last byte: what pydlb.adapters.protocols.Link is made of.
#pragma once

#include <pybind11/pybind11.h>
#include <structmember.h>  // behind Python.h, which pybind11 brings

// Each is None until there is one.
struct Link {
  PyObject_HEAD PyObject *adapter, *ticket, *proxied, *task, *connecting, *end, *transport;
  char failed;
};

// One of a subclass, for a connection of which no proxy spoke. nullptr with the Python error set.
Link *new_link(PyTypeObject *type, PyObject *adapter, PyObject *ticket);

void set_transport(Link *link, PyObject *transport);

// Its socket is closed. -1 with the Python error set.
int end_link(Link *link);
