"""Servers that answer one byte with one byte, which names the worker: pydlb's, and what people use without it.

Each is a context: a function of the number of workers that gives the port on which it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pydlb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = [
    "acceptor_and_queue",
    "asyncio_reuse_port",
    "asyncio_shared",
    "pydlb_balancer",
    "pydlb_start_server",
]

_BACKLOG: Final = 4096
_HOLD: Final = b"H"
_ENDING: Final = 5.0


class _Letters:
    """A letter for each thread that asks: A for the first, and so on."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._left = iter(range(ord("A"), 256))

    def own(self) -> bytes:
        """The calling thread's."""
        letter: bytes | None = getattr(self._own, "letter", None)
        if letter is None:
            letter = self._own.letter = bytes([next(self._left)])
        return letter


class _Answers(_Letters):
    """Answers connections: on a plain thread, or on an event loop."""

    def serve(self, sock: socket.socket) -> None:
        """On a plain thread."""
        with contextlib.suppress(OSError):
            if sock.recv(1):
                sock.send(self.own())

    async def serve_streams(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """On an event loop; a connection that wants to be held is held until the client goes."""
        with contextlib.suppress(ConnectionError):
            request = await reader.read(1)
            if request:
                writer.write(self.own())
            if request == _HOLD:
                await reader.read(1)
        writer.close()


def _listener(*, reuse_port: bool = False, port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=_BACKLOG, reuse_port=reuse_port)


# ---- event loops -----------------------------------------------------------------------------------------------------


class _Loops:
    """Event loops in threads; each serves in a context until it is told to end."""

    def __init__(self, serving: list[Callable[[], contextlib.AbstractAsyncContextManager[int]]]) -> None:
        self._pool = ThreadPoolExecutor(len(serving))
        self._over: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        ready: list[Future[int]] = [Future() for _ in serving]
        self._done = [
            self._pool.submit(asyncio.run, self._run(each, future)) for each, future in zip(serving, ready, strict=True)
        ]
        try:
            self.port, *_ = [future.result() for future in ready]
        except BaseException:
            self.close()
            raise

    async def _run(
        self, serving: Callable[[], contextlib.AbstractAsyncContextManager[int]], ready: Future[int]
    ) -> None:
        over = asyncio.Event()
        self._over.append((asyncio.get_running_loop(), over))
        try:
            async with serving() as port:
                ready.set_result(port)
                await over.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    def close(self) -> None:
        """End them all."""
        for loop, over in self._over:
            with contextlib.suppress(RuntimeError):  # one that could not begin has ended
                loop.call_soon_threadsafe(over.set)
        self._pool.shutdown()
        for done in self._done:
            done.result()


@contextlib.asynccontextmanager
async def _asyncio_server(answers: _Answers, listener: socket.socket) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await answers.serve_streams(reader, writer)

    server = await asyncio.start_server(serve, sock=listener, backlog=_BACKLOG)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=_ENDING)
        await asyncio.sleep(0)  # transports close in a call of their own


@contextlib.asynccontextmanager
async def _pydlb_server(answers: _Answers, workers: int, backend: str) -> AsyncIterator[int]:
    server = await pydlb.start_server(
        answers.serve_streams, "127.0.0.1", 0, workers=workers, backend=backend, backlog=_BACKLOG
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        server.close_clients()
        await server.wait_closed()


@contextlib.contextmanager
def pydlb_start_server(workers: int, backend: str) -> Iterator[int]:
    """pydlb.start_server: loops in threads, fed by the balancer."""
    answers = _Answers()
    with contextlib.closing(_Loops([lambda: _pydlb_server(answers, workers, backend)])) as loops:
        yield loops.port


@contextlib.contextmanager
def asyncio_reuse_port(workers: int) -> Iterator[int]:
    """A loop in each thread, and a listener of its own for each: the kernel spreads connections by their address."""
    answers = _Answers()
    first = _listener(reuse_port=True)
    port = first.getsockname()[1]
    listeners = [first, *(_listener(reuse_port=True, port=port) for _ in range(workers - 1))]
    with contextlib.closing(_Loops([lambda sock=sock: _asyncio_server(answers, sock) for sock in listeners])) as loops:  # type: ignore[misc]
        yield loops.port


@contextlib.contextmanager
def asyncio_shared(workers: int) -> Iterator[int]:
    """A loop in each thread, and one listener for all: who wakes first accepts."""
    answers = _Answers()
    with _listener() as listener:
        copies = [listener.dup() for _ in range(workers)]
        with contextlib.closing(_Loops([lambda sock=sock: _asyncio_server(answers, sock) for sock in copies])) as loops:  # type: ignore[misc]
            yield loops.port


# ---- plain threads ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def pydlb_balancer(workers: int, backend: str) -> Iterator[int]:
    """pydlb.Balancer with a handler: one connection at a time on each thread."""
    answers = _Answers()
    with pydlb.Balancer(workers, handler=lambda each: answers.serve(each.socket), backend=backend) as balancer:
        balancer.listen("127.0.0.1", 0, backlog=_BACKLOG)
        yield balancer.address()[1]


@contextlib.contextmanager
def acceptor_and_queue(workers: int) -> Iterator[int]:
    """One thread accepts and puts sockets into a queue.SimpleQueue, others get them."""
    answers = _Answers()
    accepted: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.put(listener.accept()[0])

    def serve() -> None:
        while (sock := accepted.get()) is not None:
            with sock:
                answers.serve(sock)

    with _listener() as listener, ThreadPoolExecutor(workers + 1) as pool:
        pool.submit(accept, listener)
        for _ in range(workers):
            pool.submit(serve)
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for _ in range(workers):
                accepted.put(None)
