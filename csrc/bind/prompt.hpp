// A connection that its event loop does not know of yet: what pydlb.adapters.prompt's transports are made of.
#pragma once

#include <pybind11/pybind11.h>

#include "link.hpp"

// What has come, at most as much as a loop reads at a time. nullptr if nothing has, at the end, where errno is 0, and
// with errors, of which no Python error is set; with one if there is no memory. `more`: there may be more later.
PyObject *bytes_of(int fd, bool *more);

// The transport of one that begins. Takes the descriptor over, also if it fails.
PyObject *new_prompt(PyObject *beginnings, Link *link, int fd, int family, bool closes_quickly, PyObject *protocol,
                     bool knows);

// Tell its protocol that it is connected, and what has come, if anything. -1 with the Python error set.
int begin_prompt(PyObject *transport, PyObject *data);

// Learn what became of one of these beginnings when its first turn had ended.
void note_first_turn(PyObject *beginnings, bool went_on);

// The handlers had their turn: go on. -1 with the Python error set.
int end_first_turn(PyObject *transport);

// Have that done in the loop's next turn. -1 with the Python error set.
int end_turn_later(PyObject *beginnings, PyObject *transport);

// ---- between two exchanges ------------------------------------------------------------------------------------------
// One that goes on after its first turn rests in an epoll set of its beginnings, in which it is read when something
// comes. So it is made once, by one system call, and not again by the loop, which does not know of it until it has to
// wait for something else than bytes.

// Where those of these beginnings rest, -1 if they do not.
int resting_set(PyObject *beginnings);

// Send what it holds, and let it rest, or pass it on. -1 with the Python error set.
int rest_prompt(PyObject *transport, int set);

// Give their protocols what has come. -1 with the Python error set.
int look_at_resting(int set);

// What links are made of.
PyTypeObject *link_class();
