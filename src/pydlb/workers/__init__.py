"""Workers: those who receive connections, each through a port of its own."""

from __future__ import annotations

from .connection import Connection, Ticket
from .station import GONE, NOBODY, Accepting, Door, Source, Station
from .thread import ThreadWorker
from .worker import Worker

__all__ = [
    "GONE",
    "NOBODY",
    "Accepting",
    "Connection",
    "Door",
    "Source",
    "Station",
    "ThreadWorker",
    "Ticket",
    "Worker",
]
