"""Loading libdlb.so, and calling it."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any, Final

from pydlb.errors import BackendUnavailable, ConfigError, DeviceError, DLBError, from_core

__all__ = ["Library", "load"]

SONAME: Final = "libdlb.so"

# The interface of libdlb 8.8.0: amounts and layouts are its own, names within structures ours.
_TYPES: Final = """
typedef void *dlb_hdl_t;
typedef void *dlb_domain_hdl_t;
typedef void *dlb_port_hdl_t;
typedef uint64_t dlb_dev_cap_t;
typedef struct {
  uint32_t domains, ldb_queues, ldb_ports, cos_ports[4], dir_ports, history_entries, contiguous_history_entries;
  uint32_t ldb_credits, contiguous_ldb_credits, dir_credits, contiguous_dir_credits, ldb_pools, dir_pools;
  uint32_t sequence_slots[2];
} dlb_resources_t;
typedef struct {
  uint32_t ldb_queues, ldb_ports, dir_ports, history_entries, sequence_slots[2];
  uint32_t ldb_credits, dir_credits, ldb_pools, dir_pools;
  uint64_t producer_cores[2];
} dlb_create_sched_domain_t;
typedef struct { uint32_t sequence_numbers, flow_compression; } dlb_create_ldb_queue_t;
typedef struct {
  uint32_t ldb_pool, dir_pool;
  uint16_t cq_depth;
  uint32_t history_entries;
  int class_of_service;
} dlb_create_port_t;
typedef struct { int id; uint64_t data; } dlb_alert_t;
typedef struct {
  uint64_t data;
  uint16_t opaque;
  uint8_t queue, sched;
  uint16_t flow;
  uint8_t misc, command;
} dlb_event_t;
"""
_FUNCTIONS: Final = {
    "dlb_open": "int (int, dlb_hdl_t *)",
    "dlb_close": "int (dlb_hdl_t)",
    "dlb_get_dev_capabilities": "int (dlb_hdl_t, dlb_dev_cap_t *)",
    "dlb_get_num_resources": "int (dlb_hdl_t, dlb_resources_t *)",
    "dlb_create_sched_domain": "int (dlb_hdl_t, dlb_create_sched_domain_t *)",
    "dlb_attach_sched_domain": "dlb_domain_hdl_t (dlb_hdl_t, int)",
    "dlb_detach_sched_domain": "int (dlb_domain_hdl_t)",
    "dlb_reset_sched_domain": "int (dlb_hdl_t, int)",
    "dlb_create_credit_pool": "int (dlb_domain_hdl_t, int)",
    "dlb_create_ldb_credit_pool": "int (dlb_domain_hdl_t, int)",
    "dlb_create_dir_credit_pool": "int (dlb_domain_hdl_t, int)",
    "dlb_create_ldb_queue": "int (dlb_domain_hdl_t, dlb_create_ldb_queue_t *)",
    "dlb_create_dir_queue": "int (dlb_domain_hdl_t, int)",
    "dlb_create_ldb_port": "int (dlb_domain_hdl_t, dlb_create_port_t *)",
    "dlb_create_dir_port": "int (dlb_domain_hdl_t, dlb_create_port_t *, int)",
    "dlb_launch_domain_alert_thread": "int (dlb_domain_hdl_t, void (*)(dlb_alert_t *, int, void *), void *)",
    "dlb_start_sched_domain": "int (dlb_domain_hdl_t)",
    "dlb_attach_ldb_port": "dlb_port_hdl_t (dlb_domain_hdl_t, int)",
    "dlb_attach_dir_port": "dlb_port_hdl_t (dlb_domain_hdl_t, int)",
    "dlb_detach_port": "int (dlb_port_hdl_t)",
    "dlb_link_queue": "int (dlb_port_hdl_t, int, int)",
    "dlb_unlink_queue": "int (dlb_port_hdl_t, int)",
    "dlb_enable_port": "int (dlb_port_hdl_t)",
    "dlb_disable_port": "int (dlb_port_hdl_t)",
    "dlb_enable_cq_epoll": "int (dlb_port_hdl_t, _Bool, int)",
    "dlb_send": "int (dlb_port_hdl_t, uint32_t, dlb_event_t *)",
    "dlb_forward": "int (dlb_port_hdl_t, uint32_t, dlb_event_t *)",
    "dlb_release": "int (dlb_port_hdl_t, uint32_t)",
    "dlb_recv": "int (dlb_port_hdl_t, uint32_t, _Bool, dlb_event_t *)",
}


class Library:
    """A loaded libdlb.so.

    Attributes:
        path: What it was loaded as.
        ffi: cffi's interface, for memory to pass to it.

    **Synchronization**: any thread; calls run without the interpreter lock.
    """

    def __init__(self, path: str, ffi: Any, functions: dict[str, Any]) -> None:  # noqa: ANN401 - cffi has no types
        self.path: Final = path
        self.ffi: Final = ffi
        self._functions: Final = functions

    def call(self, name: str, *arguments: Any, op: str) -> Any:  # noqa: ANN401 - a number or a handle
        """Call a function; -1 and NULL are errors.

        Args:
            name: Of the function, without "dlb_".
            arguments: Its arguments.
            op: What is being done, for the message.

        Raises:
            DLBError: It failed; the class is chosen by errno.
        """
        result = self.attempt(name, *arguments)
        if result == -1 or result == self.ffi.NULL:
            raise self.failure(name, op)
        return result

    def attempt(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - a number or a handle
        """The same, with errors left to the caller, who finds errno in ``ffi.errno``."""
        return self._functions[f"dlb_{name}"](*arguments)

    def failure(self, name: str, op: str) -> DLBError:
        """The exception for a call that failed just now on this thread."""
        number = self.ffi.errno or errno.EIO
        text = f"dlb_{name} failed: {os.strerror(number)}"
        if number == errno.EINVAL:  # the driver's answer to most things, wrong arguments and want of resources
            return DeviceError(number, f"{text}; what the driver said, libdlb has printed", op=op)
        return from_core(number, 0, op, text)


_loaded: dict[str, Library] = {}
_loading = threading.Lock()


def load(path: str | None) -> Library:
    """Load the library and look for all that is needed of it.

    Args:
        path: Where it lies; None to have the dynamic linker find ``libdlb.so``.

    Raises:
        BackendUnavailable: There is no cffi or no library, or functions are missing from it: the message names them.
        ConfigError: The path is empty.
    """
    if path == "":
        raise ConfigError("device is 'libdlb:': a path follows, as in 'libdlb:/usr/lib/libdlb.so', or 'libdlb' alone")
    with _loading:
        name = path or SONAME
        if name not in _loaded:
            _loaded[name] = _load(name)
        return _loaded[name]


def _load(name: str) -> Library:
    try:
        import cffi
    except ImportError:
        raise _unavailable("it needs cffi, which is not installed: pip install 'pydlb[libdlb]'") from None
    ffi = cffi.FFI()
    ffi.cdef(_TYPES)
    ffi.cdef("\n".join(_declaration(function, type_) for function, type_ in _FUNCTIONS.items()))
    try:
        library = ffi.dlopen(name)
    except OSError as error:
        raise _unavailable(f"{name} cannot be loaded: {error}") from error
    functions = {function: getattr(library, function, None) for function in _FUNCTIONS}
    missing = [function for function, found in functions.items() if found is None]
    if missing:
        raise _unavailable(f"{name} is no libdlb of release 8: it has no {', '.join(missing)}")
    return Library(name, ffi, functions)


def _declaration(name: str, type_: str) -> str:
    result, _, arguments = type_.partition(" (")
    return f"{result} {name}({arguments};"


def _unavailable(reason: str) -> BackendUnavailable:
    return BackendUnavailable(f"the vendor's library cannot be used: {reason}", {"libdlb": reason})
