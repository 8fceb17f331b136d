// What a METH_FASTCALL function was called with, found without a look-up.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <climits>
#include <cmath>
#include <cstdint>

#include "errors.hpp"
#include "pdlb.h"

// A function's parameters: `positional` of them may be given by place, the first `required` must be, and the others by
// name, except for those whose name is empty.
template <size_t N>
class Signature {
 public:
  constexpr Signature(const char *function, size_t required, size_t positional, std::array<const char *, N> names)
      : function_(function), required_(required), positional_(positional), names_(names) {}

  // Once, before the first call: the names that compiled code gives are found by their addresses then.
  void intern() {
    for (size_t i = 0; i < N; i++) interned_[i] = PyUnicode_InternFromString(names_[i]);
  }

  // Each parameter's value, null where it was left out. False with the Python error set.
  bool read(PyObject *const *arguments, Py_ssize_t count, PyObject *keywords, std::array<PyObject *, N> *values) const {
    const size_t given = static_cast<size_t>(count);
    if (given < required_ || given > positional_) return wrong_count(count);
    for (size_t i = 0; i < N; i++) (*values)[i] = i < given ? arguments[i] : nullptr;
    const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t i = 0; i < named; i++)
      if (!place(PyTuple_GET_ITEM(keywords, i), arguments[count + i], values)) return false;
    return true;
  }

 private:
  bool place(PyObject *name, PyObject *value, std::array<PyObject *, N> *values) const {
    size_t at = 0;
    while (at < N && name != interned_[at]) at++;
    if (at == N)  // made at run time, as the names in **options may be
      for (at = required_; at < N && PyUnicode_CompareWithASCIIString(name, names_[at]) != 0;) at++;
    if (at < N && !(*values)[at]) return (*values)[at] = value, true;
    PyErr_Format(PyExc_TypeError,
                 at < N ? "%s() got multiple values for argument '%U'" : "%s() got an unexpected keyword argument '%U'",
                 function_, name);
    return false;
  }

  bool wrong_count(Py_ssize_t count) const {
    if (required_ == positional_)
      PyErr_Format(PyExc_TypeError, "%s() takes %zu positional arguments but %zd were given", function_, required_,
                   count);
    else
      PyErr_Format(PyExc_TypeError, "%s() takes from %zu to %zu positional arguments but %zd were given", function_,
                   required_, positional_, count);
    return false;
  }

  const char *const function_;
  const size_t required_, positional_;
  const std::array<const char *, N> names_;
  std::array<PyObject *, N> interned_{};
};

// A whole number from 0 to `most`: a Python int, or what numpy and others have instead. `text` says what it must be.
inline bool unsigned_of(PyObject *value, const char *text, uint64_t most, uint64_t *result) {
  static_assert(sizeof(unsigned long) == sizeof(uint64_t));
  if (!PyLong_Check(value)) {
    PyObject *integer = PyNumber_Index(value);
    const bool valid = integer && unsigned_of(integer, text, most, result);
    Py_XDECREF(integer);
    return valid;
  }
  // PyLong_AsUnsignedLongLong goes through an array of bytes.
  const unsigned long number = PyLong_AsUnsignedLong(value);
  if (number == ULONG_MAX && PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return false;
    PyErr_Clear();
    return set_config(text), false;
  }
  if (number > most) return set_config(text), false;
  *result = number;
  return true;
}

// How long to wait: seconds, None for ever; as nanoseconds, PDLB_FOREVER for ever.
inline bool wait_of(PyObject *timeout, uint64_t *wait) {
  *wait = PDLB_FOREVER;
  if (timeout == Py_None) return true;
  int overflow = 0;
  const double seconds = PyLong_CheckExact(timeout) ? static_cast<double>(PyLong_AsLongAndOverflow(timeout, &overflow))
                                                    : PyFloat_AsDouble(timeout);
  if (overflow > 0) return true;
  if (seconds == -1.0 && PyErr_Occurred()) return false;
  if (std::isnan(seconds)) return set_config("timeout is not a number of seconds"), false;
  if (seconds < 1e9) *wait = seconds > 0 ? static_cast<uint64_t>(seconds * 1e9) : 0;
  return true;
}

// When a wait that begins now is over.
inline uint64_t deadline_of(uint64_t wait) { return wait == 0 || wait == PDLB_FOREVER ? wait : pdlb_now() + wait; }
