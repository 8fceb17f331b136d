#!/usr/bin/env python3
"""A WebSocket chat whose connections last for hours, and are even over the workers all that time.

    python examples/websocket_chat.py [--port 8000] [--workers 4]       # and open http://127.0.0.1:8000/
    python examples/websocket_chat.py --demo        # with 40 clients of its own, of whom half leave and others come

What one says is heard by all, on whichever worker they are. The page shows how many are with each worker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
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


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>pydlb chat</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
  #balance div { display: grid; grid-template-columns: 6rem 1fr 3rem; align-items: center }
  #balance i { height: 0.8rem; background: #2a7ab0; border-radius: 2px; transition: width 0.3s }
  #balance b { text-align: right; font-weight: normal }
  #said { list-style: none; padding: 0.5rem 1rem; border: 1px solid #ccc; height: 16rem; overflow-y: auto }
  #said span { color: #777; margin-right: 0.5rem }
  form { display: flex; gap: 0.5rem } input { flex: 1 } input, button { font: inherit; padding: 0.3rem 0.6rem }
</style>
<h1>Chat</h1>
<p>Each window is a connection that stays with one worker: you are with <b id="mine">nobody yet</b>.</p>
<div id="balance"></div>
<ul id="said"></ul>
<form><input id="text" placeholder="Say something" aria-label="Say something" autofocus><button>Say</button></form>
<script>
  const at = id => document.getElementById(id);
  const chat = new WebSocket(location.href.replace(/^http/, "ws"));
  function add(parent, tag, text) {
    const made = parent.appendChild(document.createElement(tag));
    made.textContent = text;
    return made;
  }
  function line(who, text) {
    const item = add(at("said"), "li", "");
    add(item, "span", who);
    add(item, "q", text);
    item.scrollIntoView();
  }
  chat.onmessage = event => {
    const message = JSON.parse(event.data);
    if (message.you) at("mine").textContent = message.you;
    if (message.text !== undefined) line(message.worker, message.text);
    if (message.balance) {
      const most = Math.max(1, ...Object.values(message.balance));
      at("balance").replaceChildren();
      for (const [name, count] of Object.entries(message.balance)) {
        const row = add(at("balance"), "div", "");
        add(row, "span", name);
        add(row, "i", "").style.width = 100 * count / most + "%";
        add(row, "b", count);
      }
    }
  };
  chat.onclose = () => line("the server", "has gone: reload the page");
  document.forms[0].onsubmit = event => {
    event.preventDefault();
    if (at("text").value) chat.send(at("text").value);
    at("text").value = "";
  };
</script>
"""


class Room:
    """Who is here, on any worker's loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mailboxes: dict[asyncio.Queue[str], asyncio.AbstractEventLoop] = {}
        self.balance: dict[str, int] = {}

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

    def say(self, message: dict[str, Any]) -> None:
        """Put it into all mailboxes, each on its own loop."""
        text = json.dumps(message)
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
    """The chat, as an ASGI application: a page, and the WebSocket that it opens."""
    if scope["type"] == "http":
        await show_page(scope["path"], send)
        return
    await receive()
    mailbox = room.enter()  # first: who is connected hears all
    await send({"type": "websocket.accept"})
    greeting = {"you": threading.current_thread().name, "balance": room.balance}
    await send({"type": "websocket.send", "text": json.dumps(greeting)})
    deliveries = asyncio.create_task(deliver(mailbox, send))
    try:
        while (message := await receive())["type"] == "websocket.receive":
            room.say({"worker": threading.current_thread().name, "text": message.get("text") or ""})
    finally:
        deliveries.cancel()
        room.leave(mailbox)


async def show_page(path: str, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """The page, at the root only."""
    status, body = (200, PAGE) if path == "/" else (404, "there is only /")
    headers = [(b"content-type", b"text/html; charset=utf-8" if status == 200 else b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def deliver(mailbox: asyncio.Queue[str], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Send what comes into a mailbox to whom it belongs."""
    while True:
        await send({"type": "websocket.send", "text": await mailbox.get()})


def balance(balancer: pydlb.Balancer) -> dict[str, int]:
    """How many connections each worker has."""
    return {worker.name: worker.open for worker in balancer.stats().workers}


def show(balancer: pydlb.Balancer) -> None:
    """Print that."""
    now = balance(balancer)
    print(f"{sum(now.values())} open: " + " ".join(f"{name}={count}" for name, count in now.items()), flush=True)


async def tell_balance(balancer: pydlb.Balancer) -> None:
    """Tell all who are here, once a second."""
    while True:
        room.balance = balance(balancer)
        room.say({"balance": room.balance})
        await asyncio.sleep(1)


async def hear(chat: websockets.ClientConnection) -> str:
    """The next thing that somebody says."""
    while "text" not in (message := json.loads(await chat.recv())):
        pass
    return f"{message['worker']}: {message['text']}"


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
    heard = [await hear(chat) for chat in chats]
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
        print(f"{options.workers} workers: open http://{host}:{port}/ in a browser, in several windows", flush=True)
        telling = asyncio.create_task(tell_balance(server.balancer))
        if options.demo:
            await demonstrate(server.balancer, f"ws://{host}:{port}/")
        else:
            await over.wait()
        telling.cancel()
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
