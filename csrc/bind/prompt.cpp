// What is done with a connection before its event loop knows of it: nothing here waits, so the interpreter lock is
// kept.
#include <pybind11/pybind11.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>

#include "addresses.hpp"
#include "handles.hpp"

namespace py = pybind11;

namespace {

// As many bytes as an event loop reads at a time.
constexpr size_t kBlock = 1 << 16;

// -1 with the error set.
int descriptor_of(PyObject *number) {
  const long fd = PyLong_AsLong(number);
  if (fd >= 0 && fd <= INT_MAX) return static_cast<int>(fd);
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a descriptor is at least 0");
  return -1;
}

bool is_not_now() { return errno == EAGAIN || errno == EINTR; }

// receive_now(fd) -> bytes | None
PyObject *receive_now(PyObject *, PyObject *number) {
  const int fd = descriptor_of(number);
  if (fd < 0) return nullptr;
  std::array<char, kBlock> buffer;
  const ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got >= 0) return PyBytes_FromStringAndSize(buffer.data(), got);
  if (is_not_now()) Py_RETURN_NONE;
  return PyErr_SetFromErrno(PyExc_OSError);
}

// send_now(fd, data, more) -> int
PyObject *send_now(PyObject *, PyObject *const *arguments, Py_ssize_t count) {
  if (count != 3)
    return PyErr_Format(PyExc_TypeError, "send_now takes a descriptor, bytes, and whether more will come");
  const int fd = descriptor_of(arguments[0]);
  if (fd < 0) return nullptr;
  const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (arguments[2] == Py_True ? MSG_MORE : 0);
  Py_buffer view;
  if (PyObject_GetBuffer(arguments[1], &view, PyBUF_SIMPLE) < 0) return nullptr;
  const ssize_t sent = send(fd, view.buf, static_cast<size_t>(view.len), flags);
  PyBuffer_Release(&view);
  if (sent >= 0) return PyLong_FromSsize_t(sent);
  return is_not_now() ? PyLong_FromLong(0) : PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *address_by(int (*ask)(int, sockaddr *, socklen_t *), PyObject *number) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  const int fd = descriptor_of(number);
  if (fd < 0) return nullptr;
  if (ask(fd, reinterpret_cast<sockaddr *>(&address), &size) < 0) Py_RETURN_NONE;
  PyObject *const made = address_tuple(address);
  if (!made && !PyErr_Occurred()) Py_RETURN_NONE;
  return made;
}

PyObject *own_address(PyObject *, PyObject *number) { return address_by(getsockname, number); }
PyObject *peer_address(PyObject *, PyObject *number) { return address_by(getpeername, number); }

// close_now(fd)
PyObject *close_now(PyObject *, PyObject *number) {
  const int fd = descriptor_of(number);
  if (fd < 0) return nullptr;
  close(fd);
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"receive_now", receive_now, METH_O, "What has come, at most 64 KiB; None if nothing has, b'' at the end."},
    {"send_now", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(&send_now)), METH_FASTCALL,
     "Send what can be sent now, with what follows or the end if more will come; how many bytes."},
    {"own_address", own_address, METH_O, "The address of this end; None if there is none."},
    {"peer_address", peer_address, METH_O, "The address of the other end; None if there is none."},
    {"close_now", close_now, METH_O, "Close a descriptor."},
    {},
};

}  // namespace

void register_prompt(py::module_ &module) {
  if (PyModule_AddFunctions(module.ptr(), functions) < 0) throw py::error_already_set();
}
