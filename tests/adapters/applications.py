"""Applications for the servers under test; each answers with the name of the worker that runs it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

events: list[str] = []


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """``/`` the worker's name, ``/slow`` so after the other side allows it, ``/fail`` an exception, and an echo."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["path"] == "/fail":
        raise ValueError("as asked")
    else:
        if scope["path"] == "/slow":
            arrived.set()
            while not allowed.is_set():
                await asyncio.sleep(0.001)
        body = f"{threading.current_thread().name} {scope['scheme']} {scope.get('state', {}).get('name', '')}"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body.encode()})


arrived = threading.Event()
allowed = threading.Event()


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    events.append(f"start {threading.current_thread().name}")
    if "state" in scope:
        scope["state"]["name"] = threading.current_thread().name
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    events.append(f"stop {threading.current_thread().name}")
    await send({"type": "lifespan.shutdown.complete"})


async def echo(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{threading.current_thread().name} {message['text']}"})
    events.append(f"code {message['code']}")


async def broken(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application whose start fails."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
