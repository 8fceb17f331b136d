// What others know of a worker's sockets.
#pragma once

#include <Python.h>

// Whether the kernel would wait when this descriptor is closed.
bool lingers(int fd);

// Close a descriptor: without the interpreter lock unless that is known to be quick.
void close_descriptor(int fd, bool quickly);

// It would not, for this socket, if it is one of a worker's: it need not be asked again, unless the program sets it.
void note_quick_close(PyObject *socket);
