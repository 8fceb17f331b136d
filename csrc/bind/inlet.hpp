// Where one worker's connections come in, and are counted when they end. Its ledger's lock is never held where Python
// code may run, so that a connection can be thrown away in the middle of anything.
#pragma once

#include <atomic>

#include "pdlb_ledger.h"
#include "receiving.hpp"

// No listener has this number.
constexpr uint64_t kNoListener = UINT64_MAX;

struct Inlet {
  PyObject_HEAD PyObject *source_object;
  Source *source;  // it
  pdlb_ledger *ledger;
  uint32_t worker, born;
  bool blocking;  // what the source makes of descriptors
  // Guarded by the ledger's lock.
  PyObject *socket_class;
  PyObject *port_object;  // a pydlb.Port
  std::shared_ptr<Port> port;
  uint32_t history, cq_depth;  // history 0: what the port can hold suffices
  bool holds, releases_on_recv;
  // Of one listener, whose connections inherit it, that the kernel does not wait when they are closed; kNoListener.
  std::atomic<uint64_t> quick_listener;
  std::atomic<bool> leads;  // it accepted in the accepting thread's place, and has not said that it is done

  // In a forked child the lock may be held for ever.
  bool ours() const { return born == fork_count(); }
};

// Holds its ledger.
class Locked {
 public:
  explicit Locked(const Inlet &inlet) : ledger_(inlet.ledger) { pdlb_ledger_lock(ledger_); }
  ~Locked() { pdlb_ledger_unlock(ledger_); }
  Locked(const Locked &) = delete;
  Locked &operator=(const Locked &) = delete;

 private:
  pdlb_ledger *const ledger_;
};

// Count one of its connections as ended. Touches nothing of Python's.
void end_connection(Inlet &inlet, uint32_t listener, uint32_t port, bool aborted);

// A connection that was noted, with its descriptor. Without memory nullptr: it is closed, and counted as aborted.
PyObject *make_connection(Inlet &inlet, const pdlb_accepted &accepted, uint32_t port, bool blocking);

// A worker's own type, of which Python's code makes none except for inlets.
template <size_t N>
PyTypeObject *make_type(const char *name, size_t size, unsigned flags, PyType_Slot (&slots)[N]) {
  PyType_Spec spec{name, static_cast<int>(size), 0, static_cast<unsigned>(Py_TPFLAGS_DEFAULT) | flags, slots};
  PyObject *const type = PyType_FromSpec(&spec);
  if (!type) throw pybind11::error_already_set();
  return reinterpret_cast<PyTypeObject *>(type);
}

template <typename Function>
PyType_Slot slot(int number, Function function) {
  return {number, reinterpret_cast<void *>(function)};
}

template <typename Function>
constexpr PyCFunction as_function(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(function));
}
