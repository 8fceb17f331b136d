"""The kernel driver's status codes."""

from __future__ import annotations

import enum

__all__ = ["DriverStatus"]


class DriverStatus(enum.IntEnum):
    """What the dlb2 kernel driver (release 8.8.0) says when it refuses a request; `SUCCESS` is no detail."""

    SUCCESS = 0
    NAME_EXISTS = 1
    DOMAIN_UNAVAILABLE = 2
    LDB_PORTS_UNAVAILABLE = 3
    DIR_PORTS_UNAVAILABLE = 4
    LDB_QUEUES_UNAVAILABLE = 5
    LDB_CREDITS_UNAVAILABLE = 6
    DIR_CREDITS_UNAVAILABLE = 7
    SEQUENCE_NUMBERS_UNAVAILABLE = 8
    INVALID_DOMAIN_ID = 9
    INVALID_QID_INFLIGHT_ALLOCATION = 10
    ATOMIC_INFLIGHTS_UNAVAILABLE = 11
    HIST_LIST_ENTRIES_UNAVAILABLE = 12
    INVALID_LDB_QUEUE_ID = 13
    INVALID_CQ_DEPTH = 14
    INVALID_CQ_VIRT_ADDR = 15
    INVALID_PORT_ID = 16
    INVALID_QID = 17
    INVALID_PRIORITY = 18
    NO_QID_SLOTS_AVAILABLE = 19
    INVALID_DIR_QUEUE_ID = 20
    DIR_QUEUES_UNAVAILABLE = 21
    DOMAIN_NOT_CONFIGURED = 22
    INTERNAL_ERROR = 23
    DOMAIN_IN_USE = 24
    DOMAIN_NOT_FOUND = 25
    QUEUE_NOT_FOUND = 26
    DOMAIN_STARTED = 27
    DOMAIN_NOT_STARTED = 28
    LDB_PORT_REQUIRED_FOR_LDB_QUEUES = 29
    DOMAIN_RESET_FAILED = 30
    MBOX_ERROR = 31
    INVALID_HIST_LIST_DEPTH = 32
    NO_MEMORY = 33
    INVALID_LOCK_ID_COMP_LEVEL = 34
    INVALID_COS_ID = 35
    INVALID_CQ_WEIGHT_LIMIT = 36
    SN_SLOTS_UNAVAILABLE = 37
    FEATURE_UNAVAILABLE = 38

    @property
    def means_exhausted(self) -> bool:
        """Whether something of which there is a limited amount is used up."""
        return self in _EXHAUSTED


_EXHAUSTED = frozenset(
    {
        DriverStatus.DOMAIN_UNAVAILABLE,
        DriverStatus.LDB_PORTS_UNAVAILABLE,
        DriverStatus.DIR_PORTS_UNAVAILABLE,
        DriverStatus.LDB_QUEUES_UNAVAILABLE,
        DriverStatus.LDB_CREDITS_UNAVAILABLE,
        DriverStatus.DIR_CREDITS_UNAVAILABLE,
        DriverStatus.SEQUENCE_NUMBERS_UNAVAILABLE,
        DriverStatus.ATOMIC_INFLIGHTS_UNAVAILABLE,
        DriverStatus.HIST_LIST_ENTRIES_UNAVAILABLE,
        DriverStatus.NO_QID_SLOTS_AVAILABLE,
        DriverStatus.DIR_QUEUES_UNAVAILABLE,
        DriverStatus.NO_MEMORY,
        DriverStatus.SN_SLOTS_UNAVAILABLE,
    }
)
