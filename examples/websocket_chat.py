#!/usr/bin/env python3
"""A WebSocket chat whose connections last for hours, and are even over the workers all that time.

    python examples/websocket_chat.py [--port 8000] [--workers 4]
    python examples/websocket_chat.py --demo        # with 40 clients of its own, of whom half leave and others come

What one says is heard by all, on whichever worker they are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import random
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import websockets

import pydlb
from pydlb.adapters.uvicorn import UvicornAdapter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Room:
    """Who is here, on any worker's loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mailboxes: dict[asyncio.Queue[str], asyncio.AbstractEventLoop] = {}

    def enter(self) -> asyncio.Queue[str]:
        """A mailbox for one more, who is on the running loop."""
        mailbox: asyncio.Queue[str] = asyncio.Queue()
        with self._lock:
            self._mailboxes[mailbox] = asyncio.get_running_loop()
        return mailbox

    def leave(self, mailbox: asyncio.Queue[str]) -> None:
        """Deliver there no more."""
        with self._lock:
            del self._mailboxes[mailbox]

    def say(self, text: str) -> None:
        """Put it into all mailboxes, each on its own loop."""
        with self._lock:
            mailboxes = list(self._mailboxes.items())
        for mailbox, loop in mailboxes:
            with contextlib.suppress(RuntimeError):  # that worker has ended
                loop.call_soon_threadsafe(mailbox.put_nowait, text)


room = Room()


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The chat, as an ASGI application that knows WebSockets only."""
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    await receive()
    mailbox = room.enter()  # first: who is connected hears all
    await send({"type": "websocket.accept"})
    deliveries = asyncio.create_task(deliver(mailbox, send))
    try:
        while (message := await receive())["type"] == "websocket.receive":
            room.say(f"{threading.current_thread().name}: {message['text']}")
    finally:
        deliveries.cancel()
        room.leave(mailbox)


async def deliver(mailbox: asyncio.Queue[str], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Send what comes into a mailbox to whom it belongs."""
    while True:
        await send({"type": "websocket.send", "text": await mailbox.get()})


def show(balancer: pydlb.Balancer) -> None:
    """Say how many are with each worker."""
    stats = balancer.stats()
    print(f"{stats.open} open: " + " ".join(f"{worker.name}={worker.open}" for worker in stats.workers), flush=True)


async def demonstrate(balancer: pydlb.Balancer, url: str) -> None:
    """40 come, 20 of them leave, 20 others come; then one says something, and all hear it."""
    chats = [await websockets.connect(url) for _ in range(40)]
    show(balancer)
    random.shuffle(chats)
    for chat in chats[:20]:
        await chat.close()
    while balancer.stats().open > 20:  # noqa: ASYNC110 - workers on other threads count
        await asyncio.sleep(0.01)
    show(balancer)
    chats = chats[20:] + [await websockets.connect(url) for _ in range(20)]
    await chats[0].send("hello")
    heard = [await chat.recv() for chat in chats]
    show(balancer)
    print(f"{len(heard)} heard {heard[0]!r}")
    for chat in chats:
        await chat.close()


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal comes, or the demonstration is over."""
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    make_adapter = functools.partial(UvicornAdapter, app, lifespan="off", access_log=False)
    async with await pydlb.serve(make_adapter, "127.0.0.1", options.port, workers=options.workers) as server:
        host, port = server.sockets[0].getsockname()
        print(f"{options.workers} workers: python -m websockets ws://{host}:{port}/", flush=True)
        if options.demo:
            await demonstrate(server.balancer, f"ws://{host}:{port}/")
        else:
            await over.wait()
        server.balancer.begin_drain(1.0)


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="A WebSocket chat balanced over workers by pydlb.")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="event loops (default: %(default)s)")
    parser.add_argument("--demo", action="store_true", help="come with clients, show the balance, and end")
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
