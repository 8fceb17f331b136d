"""The application of asgi_servers.py: says which process answers. In one of them, which comes first to make the file
that PDLB_STALL names, every request blocks for 50 ms."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_STALL = 0.05


def _is_to_stall() -> bool:
    path = os.environ.get("PDLB_STALL")
    if path is None:
        return False
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class State:
    """Decided by the first request: when this is imported, the process may be about to fork."""

    stalls: bool | None = None


async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Hello, world."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if State.stalls is None:
        State.stalls = _is_to_stall()
    if State.stalls:
        time.sleep(_STALL)  # noqa: ASYNC251 - as an application would that knows no better
    body = b"Hello, world: %d\n" % os.getpid()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
