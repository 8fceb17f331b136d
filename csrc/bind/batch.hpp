// Batches of events, as numpy has them.
#pragma once

#include "handles.hpp"

// A caller's array, which lives as long as this and does not move.
class Batch {
 public:
  // `name` is what the caller calls it. False with the Python error set if it is no array of events.
  bool take(pybind11::handle array, const char *name, bool writable);
  // A new one. Null with the Python error set.
  bool make(uint32_t count);

  pdlb_event *data() const { return data_; }
  uint32_t count() const { return count_; }
  // The first `count` of them, as a new reference.
  PyObject *first(uint32_t count) const;

 private:
  pybind11::object array_;
  pdlb_event *data_ = nullptr;
  uint32_t count_ = 0;
};
