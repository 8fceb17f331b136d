// What becomes of a connection whose socket nobody has asked for.
#pragma once

#include <pybind11/pybind11.h>

struct Bare {
  int fd, family;
  bool closes_quickly;  // the kernel does not wait when it is closed
};

// Its descriptor, if it is one of a family with ports, for which no proxy spoke and of which no socket was made; else
// -1.
Bare bare_descriptor(PyObject *connection);

// Take over that descriptor: the ticket that stands for the connection from now on. nullptr with the Python error set.
PyObject *take_descriptor(PyObject *connection);

// Release what detach_descriptor() and such returned, or anything else that has such a method. -1 with the Python error
// set.
int release_ticket(PyObject *ticket, bool aborted);
