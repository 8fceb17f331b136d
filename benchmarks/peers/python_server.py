#!/usr/bin/env python3
"""What people use without pydlb, as servers of the load generator's protocol (connload.c).

    python benchmarks/peers/python_server.py asyncio|uvloop|queue|accept|LOOP-threads|LOOP-processes PORT [WORKERS]

asyncio, uvloop: one event loop accepts and serves. asyncio-threads and so on: WORKERS of these, each with a listener of
its own (SO_REUSEPORT), so that nothing is handed on. queue: one thread accepts and puts sockets into a
queue.SimpleQueue, WORKERS others get them. accept: WORKERS threads accept for themselves, and nothing is handed on.
Ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def listener(port: int, *, shared: bool = False) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=4096, reuse_port=shared)


def letter(index: int) -> bytes:
    return bytes([ord("A") + index])


async def serve(answer: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await reader.read(1)
        if request:
            writer.write(answer)
        if request == b"H":
            await reader.read(1)
    except ConnectionError:
        pass
    writer.close()


async def serve_in_one_loop(sock: socket.socket, index: int = 0) -> None:
    server = await asyncio.start_server(functools.partial(serve, letter(index)), sock=sock, backlog=4096)
    await server.serve_forever()


def run_loop(kind: str, sock: socket.socket, index: int = 0) -> None:
    if kind == "uvloop":
        import uvloop

        uvloop.run(serve_in_one_loop(sock, index))
    else:
        asyncio.run(serve_in_one_loop(sock, index))


def serve_in_many_loops(kind: str, port: int, workers: int, *, processes: bool) -> None:
    socks = [listener(port, shared=True) for _ in range(workers)]
    if not processes:
        for index in range(workers):
            threading.Thread(target=run_loop, args=(kind, socks[index], index), daemon=True).start()
        signal.pause()
    children = []
    for index in range(workers):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for other in range(workers):
                if other != index:
                    socks[other].close()
            run_loop(kind, socks[index], index)
        children.append(child)
    for sock in socks:
        sock.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.sigwait([signal.SIGTERM])
    for child in children:
        os.kill(child, signal.SIGTERM)


def work(next_one: Callable[[], socket.socket], answer: bytes) -> None:
    while True:
        with next_one() as sock:
            try:
                if sock.recv(1):
                    sock.send(answer)
            except OSError:
                pass


def accept_on_threads(port: int, workers: int) -> None:
    with listener(port) as sock:
        for index in range(workers):
            threading.Thread(target=work, args=(lambda: sock.accept()[0], letter(index)), daemon=True).start()
        signal.pause()


def serve_on_threads(port: int, workers: int) -> None:
    accepted: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
    for index in range(workers):
        threading.Thread(target=work, args=(accepted.get, letter(index)), daemon=True).start()
    with listener(port) as sock:
        while True:
            accepted.put(sock.accept()[0])


def main() -> None:
    mode, port = sys.argv[1], int(sys.argv[2])
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    if mode == "queue":
        serve_on_threads(port, workers)
    elif mode == "accept":
        accept_on_threads(port, workers)
    elif "-" in mode:
        kind, _, how = mode.partition("-")
        serve_in_many_loops(kind, port, workers, processes=how == "processes")
    else:
        run_loop(mode, listener(port))


if __name__ == "__main__":
    main()
