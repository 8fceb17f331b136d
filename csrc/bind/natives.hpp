// What the types have in common that are written in the C API, for the sake of what each connection costs.
#pragma once

#include <pybind11/pybind11.h>

// Thrown away: 0, or -1 with the Python error set if it is none.
inline int done(PyObject *result) {
  Py_XDECREF(result);
  return result ? 0 : -1;
}

// The error that is being handled, with its traceback, which is the caller's now.
inline PyObject *fetch_error() {
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace) PyException_SetTraceback(value, trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  return value;
}

// The ends of a type that the cycle collector looks through, whose objects `parts_of` lists.
template <auto parts_of>
struct Collected {
  static int traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    for (PyObject **part : parts_of(self)) Py_VISIT(*part);
    return 0;
  }

  static int clear(PyObject *self) {
    for (PyObject **part : parts_of(self)) Py_CLEAR(*part);
    return 0;
  }

  static void dealloc(PyObject *self) {
    PyTypeObject *const type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
  }
};
