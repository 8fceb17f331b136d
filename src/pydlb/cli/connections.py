"""Short connections over loopback: pydlb's balancer beside what people use without it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pydlb

from .measure import CountError, Figures, Progress, Row, alternate, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["measure"]

_BACKLOG = 4096


def _letter(index: int) -> bytes:
    return bytes([ord("A") + index])


def _answer(sock: socket.socket, letter: bytes) -> None:
    """One connection on a plain thread."""
    with contextlib.suppress(OSError):
        sock.setblocking(True)
        if sock.recv(1):
            sock.send(letter)


class _Streams:
    """One connection on an asyncio loop; its worker is known by the thread's name."""

    @staticmethod
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if await reader.read(1):
                writer.write(_letter(int(threading.current_thread().name.rpartition("_")[2])))
        writer.close()


def _listener(*, reuse_port: bool = False, port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=_BACKLOG, reuse_port=reuse_port)


# ---- contenders: each a context in which something serves on the port that it names ----------------------------------


@contextlib.contextmanager
def _pydlb_asyncio(workers: int) -> Iterator[int]:
    over = threading.Event()
    ports: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()

    async def run() -> None:
        async with await pydlb.start_server(
            _Streams.serve, "127.0.0.1", 0, workers=workers, backlog=_BACKLOG
        ) as server:
            ports.put(server.sockets[0].getsockname()[1])
            await asyncio.to_thread(over.wait)

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            ports.put(error)
            raise

    thread = threading.Thread(target=main)
    thread.start()
    port = ports.get()
    if isinstance(port, BaseException):
        raise port
    try:
        yield port
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _pydlb_threads(workers: int) -> Iterator[int]:
    letters = {f"worker_{index}": _letter(index) for index in range(workers)}

    def handle(connection: pydlb.Connection) -> None:
        _answer(connection.socket, letters[threading.current_thread().name])

    with pydlb.Balancer(workers, handler=handle) as balancer:
        number = balancer.listen("127.0.0.1", 0, backlog=_BACKLOG)
        address = balancer.address(number)
        assert not isinstance(address, str)
        yield address[1]


@contextlib.contextmanager
def _asyncio_loops(listeners: list[socket.socket]) -> Iterator[int]:
    """A loop in a thread for each listener."""
    loops: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def run(listener: socket.socket) -> None:
        over = asyncio.Event()
        server = await asyncio.start_server(_Streams.serve, sock=listener, backlog=_BACKLOG)
        loops.put((asyncio.get_running_loop(), over))
        await over.wait()
        server.close()
        await asyncio.sleep(0.01)

    port = listeners[0].getsockname()[1]
    threads = [
        threading.Thread(target=asyncio.run, args=(run(listener),), name=f"peer_{index}")
        for index, listener in enumerate(listeners)
    ]
    for thread in threads:
        thread.start()
    running = [loops.get() for _ in threads]
    try:
        yield port
    finally:
        for loop, over in running:
            loop.call_soon_threadsafe(over.set)
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def _asyncio_reuse_port(workers: int) -> Iterator[int]:
    first = _listener(reuse_port=True)
    port = first.getsockname()[1]
    with _asyncio_loops([first, *(_listener(reuse_port=True, port=port) for _ in range(workers - 1))]) as bound:
        yield bound


@contextlib.contextmanager
def _asyncio_shared(workers: int) -> Iterator[int]:
    with _listener() as listener, _asyncio_loops([listener.dup() for _ in range(workers)]) as port:
        yield port


@contextlib.contextmanager
def _acceptor_and_queue(workers: int) -> Iterator[int]:
    """One thread accepts and puts sockets into a queue.SimpleQueue, others get them."""
    accepted: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
    listener = _listener()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.put(listener.accept()[0])

    def serve(letter: bytes) -> None:
        while (sock := accepted.get()) is not None:
            with sock:
                _answer(sock, letter)

    threads = [threading.Thread(target=serve, args=(_letter(index),)) for index in range(workers)]
    threads.append(threading.Thread(target=accept))
    for thread in threads:
        thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for _ in range(workers):
            accepted.put(None)
        for thread in threads:
            thread.join()


def _load(port: int, connections: int, in_flight: int, workers: int) -> Figures:
    """Open the connections from a process of its own."""
    command = [sys.executable, "-m", "pydlb.cli.load", str(port), str(connections), str(in_flight)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(result.stdout)
    answered = sum(told["workers"])
    if told["errors"] or answered != connections:
        raise CountError(f"{answered} of {connections} connections were answered, {told['errors']} failed")
    latencies = told["latencies"]
    return Figures(
        connections / told["seconds"],
        latencies={f"p{name}": percentile(latencies, float(name) / 100) for name in ("50", "99", "99.9")},
        spread=[*told["workers"], *[0] * (workers - len(told["workers"]))],
    )


def measure(*, connections: int, in_flight: int, workers: int, rounds: int, progress: Progress) -> dict[str, list[Row]]:
    """Measure short connections on asyncio loops and on plain threads.

    Args:
        connections: How many each run opens.
        in_flight: How many at a time.
        workers: Worker threads of each server.
        rounds: How many runs of each.
        progress: Where to say what is going on.
    """

    def contender(serving: Callable[[int], contextlib.AbstractContextManager[int]]) -> Callable[[], Figures]:
        def run() -> Figures:
            with serving(workers) as port:
                return _load(port, connections, in_flight, workers)

        return run

    loops = f"connections, {in_flight} at a time, {workers} asyncio workers"
    threads = f"connections, {in_flight} at a time, {workers} plain threads"
    return {
        loops: alternate(
            {
                "pydlb.start_server": contender(_pydlb_asyncio),
                "asyncio, shared listener": contender(_asyncio_shared),
                "asyncio, SO_REUSEPORT": contender(_asyncio_reuse_port),
            },
            rounds=rounds,
            unit="connections/s",
            progress=progress,
            title=loops,
        ),
        threads: alternate(
            {
                "pydlb.Balancer": contender(_pydlb_threads),
                "acceptor + SimpleQueue": contender(_acceptor_and_queue),
            },
            rounds=rounds,
            unit="connections/s",
            progress=progress,
            title=threads,
        ),
    }
