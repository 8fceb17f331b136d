// Integers of 64 bits, to and from Python's, where a call for each event is of little else.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>

#if PYLONG_BITS_IN_DIGIT == 30 && !defined(PYPY_VERSION) && PY_VERSION_HEX < 0x030F0000
#define PDLB_KNOWS_DIGITS
#endif

#ifdef PDLB_KNOWS_DIGITS

constexpr uint32_t kDigitBits = 30;

// 0 for what is not exactly an int above 0.
inline size_t digits_of(PyObject *integer) {
  if (!PyLong_CheckExact(integer)) return 0;
#if PY_VERSION_HEX >= 0x030C0000
  const uintptr_t tag = reinterpret_cast<PyLongObject *>(integer)->long_value.lv_tag;
  return tag & 3 ? 0 : tag >> 3;
#else
  return Py_SIZE(integer) > 0 ? static_cast<size_t>(Py_SIZE(integer)) : 0;
#endif
}

inline digit *digits_in(PyObject *integer) {
#if PY_VERSION_HEX >= 0x030C0000
  return reinterpret_cast<PyLongObject *>(integer)->long_value.ob_digit;
#else
  return reinterpret_cast<PyLongObject *>(integer)->ob_digit;
#endif
}

// The value of an integer of two digits, as addresses and random numbers are. False for all others.
inline bool two_digits(PyObject *integer, uint64_t *value) {
  if (digits_of(integer) != 2) return false;
  const digit *const digits = digits_in(integer);
  *value = digits[0] | static_cast<uint64_t>(digits[1]) << kDigitBits;
  return true;
}

#else

inline bool two_digits(PyObject *, uint64_t *) { return false; }

#endif

// Whether nobody but the caller, who has the object, refers to it, or can come to.
inline bool is_ours_alone(PyObject *object) {
#ifndef Py_GIL_DISABLED
  return Py_REFCNT(object) == 1;
#elif PY_VERSION_HEX >= 0x030E0000
  return PyUnstable_Object_IsUniquelyReferenced(object);
#else
  // Who finds no shared reference has to fail to make one.
  return _Py_IsOwnedByCurrentThread(object) && _Py_atomic_load_uint32_relaxed(&object->ob_ref_local) == 1 &&
         _Py_atomic_load_ssize_relaxed(&object->ob_ref_shared) == 0;
#endif
}

// Makes the integers that one function returns, in one thread at a time. Most receivers have thrown the last one away
// when they ask for the next: it is then nobody's but ours, and takes the next value. To have memory for an integer and
// to give it back costs as much as all else that a receive does. zip and enumerate do the same with the tuples that
// they return.
class Integers {
 public:
  PyObject *make(uint64_t value) {
#ifdef PDLB_KNOWS_DIGITS
    if (value >> kDigitBits && !(value >> 2 * kDigitBits)) {
      if (!last_ || !is_ours_alone(last_)) return renew(value);
      digit *const digits = digits_in(last_);
      digits[0] = static_cast<digit>(value & ((1u << kDigitBits) - 1));
      digits[1] = static_cast<digit>(value >> kDigitBits);
      return Py_NewRef(last_);
    }
#endif
    return PyLong_FromUnsignedLong(value);
  }

  void clear() { Py_CLEAR(last_); }

 private:
  // Of two digits, as all that are kept.
  PyObject *renew(uint64_t value) {
    Py_XSETREF(last_, PyLong_FromUnsignedLong(value));
    return Py_XNewRef(last_);
  }

  PyObject *last_ = nullptr;
};
