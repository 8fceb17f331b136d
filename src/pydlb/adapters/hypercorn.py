"""ASGI and WSGI applications by hypercorn's protocols: HTTP/1.1, HTTP/2 and WebSockets, on asyncio, uvloop or trio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import load_application, wrap_app

from .streams import StreamAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HypercornAdapter", "application"]


def application(app: str | Callable[..., Any], config: Config) -> Any:
    """An application, or where to import it from, as hypercorn's protocols call it."""
    if isinstance(app, str):
        return load_application(app, config.wsgi_max_body_size)
    return wrap_app(app, config.wsgi_max_body_size, None)


class _Connection(TCPServer):
    """One connection, which ends when its client leaves."""

    async def _read_data(self) -> None:
        await super()._read_data()
        # hypercorn itself would keep it open until its keep-alive time is over.
        await self.idle_task.stop()


class HypercornAdapter(StreamAdapter):
    """Serves an application on one worker that is an asyncio or uvloop event loop.

    Args:
        app: The application, or where to import it from, such as ``"module:app"``.
        config: Hypercorn's; what it says about listening and workers says nothing here.

    **Error handling**: an application whose start fails keeps its worker from starting, by hypercorn's error.
    """

    def __init__(self, app: str | Callable[..., Any], config: Config | None = None) -> None:
        self._config = config or Config()
        super().__init__(
            self._serve,
            ssl=self._config.create_ssl_context(),
            ssl_handshake_timeout=self._config.ssl_handshake_timeout if self._config.ssl_enabled else None,
        )
        self._app = application(app, self._config)
        self._state: dict[str, Any] = {}
        self._context = WorkerContext(None)

    async def start(self) -> None:
        """Start the application: its lifespan, if it has one."""
        await super().start()
        self._lifespan = Lifespan(self._app, self._config, self._loop, self._state)
        self._living = self._loop.create_task(self._lifespan.handle_lifespan())
        await self._lifespan.wait_for_startup()
        if self._living.done():
            self._living.result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Connection(self._app, self._loop, self._config, self._context, self._state, reader, writer)

    def close_silent(self, timeout: float | None) -> None:
        """Close connections on which nothing is asked, and others when they have answered."""
        self._closing = self._loop.create_task(self._context.terminated.set())

    async def stop(self) -> None:
        """End what is still open, and shut the application down."""
        await self._context.terminated.set()
        await super().stop()
        await self._lifespan.wait_for_shutdown()
        self._living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._living
