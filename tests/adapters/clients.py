"""Plain clients."""

from __future__ import annotations

import collections
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextlib


def names_of(stack: contextlib.ExitStack, address: Any, count: int) -> dict[str, int]:
    """How many of so many connections, all held until the stack ends, are with each worker."""
    names: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(address, timeout=60))
        client.sendall(b"?\n")
        names[client.recv(100).decode().strip()] += 1
    return dict(names)
