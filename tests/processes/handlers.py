"""What the worker processes of these tests run: to be imported there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    import pydlb


def name_process(connection: pydlb.Connection) -> None:
    """Answer each request with the number of the process."""
    with contextlib.suppress(OSError):
        while connection.socket.recv(100):
            connection.socket.sendall(b"%d\n" % os.getpid())


def fail(_connection: pydlb.Connection) -> None:
    raise ValueError("as the test wants it")


def end_process(_connection: pydlb.Connection) -> None:
    os._exit(3)


async def name_process_by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same, for event loops; and the worker's name. `block` stops the loop for as many milliseconds as it says."""
    while request := await reader.readline():
        if request.startswith(b"block "):
            time.sleep(int(request[6:]) / 1e3)  # noqa: ASYNC251 - it is to do nothing else
        writer.write(b"%d %s\n" % (os.getpid(), threading.current_thread().name.encode()))
        await writer.drain()
    writer.close()


class Unready:
    """An application that cannot start."""

    def __init__(self) -> None:
        raise LookupError("no such application")


async def tell_slice(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with how long the kernel lets this thread run at a time, in nanoseconds; 0 if it does not say."""
    attributes = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, 0, attributes, len(attributes), 0) == 0
    writer.write(b"%d\n" % struct.unpack_from("=Q", attributes, 24))
    writer.close()
