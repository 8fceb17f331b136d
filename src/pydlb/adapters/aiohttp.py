"""aiohttp's applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from .protocols import Link, ProtocolAdapter

if TYPE_CHECKING:
    import asyncio
    import ssl as ssl_module
    from collections.abc import Callable

__all__ = ["AiohttpAdapter"]


class _Runner(web.AppRunner):
    """Runs `on_shutdown` once, in a drain or at the end."""

    __slots__ = ("_is_shut_down",)

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, **options)
        self._is_shut_down = False

    async def shutdown(self) -> None:
        if not self._is_shut_down:
            self._is_shut_down = True
            await super().shutdown()


class AiohttpAdapter(ProtocolAdapter):
    """Serves an aiohttp application on one worker.

    Args:
        make_app: Makes the application: aiohttp binds one to one event loop, so each worker has its own.
        ssl: For TLS; handshakes run on the worker.
        options: As for :class:`aiohttp.web.AppRunner`, such as `access_log` or `keepalive_timeout`.

    **Error handling**: what an application's `on_startup` raises keeps its worker from starting.
    """

    def __init__(
        self, make_app: Callable[[], web.Application], *, ssl: ssl_module.SSLContext | None = None, **options: Any
    ) -> None:
        super().__init__(ssl=ssl)
        self._runner = _Runner(make_app(), **options)
        self._draining = False
        self._closing: asyncio.Task[None] | None = None
        self._handlers: dict[Any, Link] = {}

    async def start(self) -> None:
        """Start the application: its `on_startup` and its cleanup contexts."""
        await super().start()
        self._runner.app.on_response_prepare.append(self._prepare)
        try:
            await self._runner.setup()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._server = cast("Any", self._runner.server)
        self._made, self._lost = self._server.connection_made, self._server.connection_lost
        self._server.connection_made = self._connection_made
        self._server.connection_lost = self._connection_lost

    async def _prepare(self, _request: web.BaseRequest, response: web.StreamResponse) -> None:
        if self._draining and not isinstance(response, web.WebSocketResponse):
            response.force_close()
            response.headers["Connection"] = "close"  # it has been looked at by now

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """Aiohttp's protocol for one connection."""
        protocol = self._server()
        self._handlers[protocol] = link
        return protocol  # type: ignore[no-any-return]

    def _connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Its protocols tell their server, and so the adapter."""
        handler.transport = self._handlers[handler].opened(transport)
        self._made(handler, transport)

    def _connection_lost(self, handler: Any, error: BaseException | None = None) -> None:
        self._lost(handler, error)
        link = self._handlers.pop(handler, None)
        if link is not None:
            link.ended()

    def ask_to_close(self) -> None:
        """Close each connection after its next response, and say so in it."""
        self._draining = True

    def close_silent(self, timeout: float | None) -> None:
        """Close connections on which nothing is asked, and others when they have answered."""
        self._server.pre_shutdown()
        self._closing = self._loop.create_task(self._server.shutdown(timeout))

    async def say_farewell(self) -> None:
        """Run `on_shutdown`, which is where an application ends its WebSockets."""
        await self._runner.shutdown()

    async def stop(self) -> None:
        """End what is still open, and run `on_shutdown` and `on_cleanup`."""
        await self._runner.shutdown()
        await super().stop()
        await self._runner.cleanup()
