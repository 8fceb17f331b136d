// The one place where a failure of the core becomes a Python exception.
#pragma once

#include <pybind11/pybind11.h>

#include "pdlb.h"

// Each sets the Python error and returns nullptr, for functions of the C API; the interpreter lock is held.
PyObject *set_error(const pdlb_error &error);
PyObject *set_closed(const char *what);
PyObject *set_busy();
PyObject *set_config(const char *text);
PyObject *set_refusal(pdlb_refusal why, uint32_t index, const pdlb_event &event);

// The same, thrown through pybind11.
[[noreturn]] void throw_error(const pdlb_error &error);
[[noreturn]] void throw_closed(const char *what);

// `rc` if it is no failure.
inline int check(int rc, const pdlb_error &error) {
  if (rc < 0) throw_error(error);
  return rc;
}
