// A connection that its event loop does not know of yet: what pydlb.adapters.prompt's transports are made of.
#pragma once

#include <pybind11/pybind11.h>

#include "link.hpp"

// What has come, at most as much as a loop reads at a time. nullptr if nothing has, at the end, and with errors, of
// which no Python error is set; with one if there is no memory.
PyObject *first_bytes(int fd);

// The transport of one that begins. Takes the descriptor over, also if it fails.
PyObject *new_prompt(PyObject *beginnings, Link *link, int fd, int family, bool closes_quickly, PyObject *protocol,
                     bool knows);

// Tell its protocol that it is connected, and what has come. -1 with the Python error set.
int begin_prompt(PyObject *transport, PyObject *data);

// Learn what became of one of these beginnings when its first turn had ended.
void note_first_turn(PyObject *beginnings, bool went_on);

// The handlers had their turn: go on. -1 with the Python error set.
int end_first_turn(PyObject *transport);

// What links are made of.
PyTypeObject *link_class();
