#!/usr/bin/env python3
"""What people use without pydlb, as servers of the load generator's protocol (connload.c).

    python benchmarks/peers/python_server.py asyncio|uvloop|queue PORT [WORKERS]

asyncio, uvloop: one event loop accepts and serves. queue: one thread accepts and puts sockets into a queue.SimpleQueue,
WORKERS others get them. Ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import sys
import threading


def listener(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=4096)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await reader.read(1)
        if request:
            writer.write(b"A")
        if request == b"H":
            await reader.read(1)
    except ConnectionError:
        pass
    writer.close()


async def serve_in_one_loop(port: int) -> None:
    server = await asyncio.start_server(serve, sock=listener(port), backlog=4096)
    await server.serve_forever()


def serve_on_threads(port: int, workers: int) -> None:
    accepted: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def work(letter: bytes) -> None:
        while True:
            with accepted.get() as sock:
                try:
                    if sock.recv(1):
                        sock.send(letter)
                except OSError:
                    pass

    for index in range(workers):
        threading.Thread(target=work, args=(bytes([ord("A") + index]),), daemon=True).start()
    with listener(port) as sock:
        while True:
            accepted.put(sock.accept()[0])


def main() -> None:
    mode, port = sys.argv[1], int(sys.argv[2])
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    if mode == "queue":
        serve_on_threads(port, workers)
    elif mode == "uvloop":
        import uvloop

        uvloop.run(serve_in_one_loop(port))
    else:
        asyncio.run(serve_in_one_loop(port))


if __name__ == "__main__":
    main()
