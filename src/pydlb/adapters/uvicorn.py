"""ASGI and WSGI applications, by uvicorn's protocols: all of uvicorn but its listening sockets and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from .gathering import GatheringTransport, introduced
from .prompt import Beginnings, can_begin
from .protocols import Link, ProtocolAdapter, counted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["UvicornAdapter"]

logger = logging.getLogger("uvicorn.error")

_CLOSE: Final = (b"connection", b"close")

# How long requests that were answered may take for what they do afterwards, and others to end once cancelled, in
# seconds.
_AFTERWARDS: Final = 5.0
_CANCELLED: Final = 1.0


class UvicornAdapter(ProtocolAdapter):
    """Serves an ASGI application, or any other that uvicorn knows, on one worker.

    HTTP, WebSockets, TLS, lifespan, access log and headers are uvicorn's own. A drain answers what is asked with
    ``Connection: close``, so that no client finds its connection closed under a request, closes what was silent for a
    second, and lets WebSockets go on until the time is up.

    Args:
        app: The application, or where to import it from, such as ``"module:app"``.
        on_exhausted: Called when `limit_max_requests` is reached.
        options: As for :class:`uvicorn.Config`, such as `http`, `ws`, `lifespan`, `ssl_certfile`. Those about listening
            and processes say nothing here. `log_config` is None: logging is the program's.

    **Error handling**: an application that cannot be imported, or whose start fails, ends in :class:`SystemExit` with
    uvicorn's code 3, after uvicorn has logged why.
    """

    def __init__(
        self, app: str | Callable[..., Any], *, on_exhausted: Callable[[], object] | None = None, **options: Any
    ) -> None:
        config = uvicorn.Config(app, **{"log_config": None, **options})
        config.load()
        super().__init__(ssl=config.ssl)
        self._config = config
        http_class = config.http_protocol_class
        self._is_uvicorns = _is_uvicorns(http_class)
        self._http: Any = introduced(http_class) if self._is_uvicorns else http_class
        self._counted_http = counted(self._http, self.by_transport)
        if config.ws_protocol_class is not None:
            config.ws_protocol_class = counted(config.ws_protocol_class, self.by_transport)
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._on_exhausted = on_exhausted
        self._ticks: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application: its lifespan, if it has one."""
        await super().start()
        if self._by_descriptor and self._is_uvicorns:
            self.beginnings = Beginnings(self, self._loop, self._make_http, None)
        await self._server.startup(sockets=[])
        self._ticks = self._loop.create_task(self._tick())

    async def _tick(self) -> None:
        """Uvicorn's own clock: the date header, and the count of requests."""
        await self._server.main_loop()
        if not self._server.should_exit and self._on_exhausted is not None:
            self._on_exhausted()

    def connect(self, link: Link, descriptor: int, family: int) -> None:
        """Begin to serve a connection whose first request has not come."""
        if self.beginnings is None or not can_begin(link, family):
            super().connect(link, descriptor, family)
        else:
            self.beginnings.pass_on(link, descriptor, family)

    def _make_http(self, _: Link) -> Any:
        return self._http(
            config=self._config, server_state=self._server.server_state, app_state=self._server.lifespan.state
        )

    def make_protocol(self, link: Link) -> asyncio.BaseProtocol:
        """Uvicorn's protocol for one connection."""
        protocol: Any = self._counted_http(
            config=self._config, server_state=self._server.server_state, app_state=self._server.lifespan.state
        )
        protocol.pydlb_link = link
        return protocol  # type: ignore[no-any-return]

    def shown(self, transport: Any) -> Any:
        """A transport that sends header and body together."""
        return GatheringTransport(transport, self._loop.call_soon)

    @property
    def requests(self) -> int:
        """Requests answered until now."""
        return self._server.server_state.total_requests

    # ---- the end ---------------------------------------------------------------------------------------------------

    def ask_to_close(self) -> None:
        """Close each connection after its next response, and say so in it."""
        if _CLOSE in self._config.encoded_headers:
            return
        state = self._server.server_state
        self._config.encoded_headers = [*self._config.encoded_headers, _CLOSE]
        state.default_headers = [*state.default_headers, _CLOSE]

    def close_silent(self, timeout: float | None) -> None:
        """Close HTTP connections on which nothing is asked."""
        self._shut(http=True)

    async def say_farewell(self) -> None:
        """End WebSockets with code 1012: the service restarts."""
        self._shut(http=False)

    def _shut(self, *, http: bool) -> None:
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, self._http) is http:
                connection.shutdown()

    async def stop(self) -> None:
        """End what is still open, let answered requests finish what they do, and shut the application down."""
        await super().stop()
        self._server.should_exit = True
        await self._end_tasks()
        if self._ticks is not None:
            self._ticks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticks
            await self._server.lifespan.shutdown()

    async def _end_tasks(self) -> None:
        """Wait for what requests do once they are answered; cancel what takes too long, or was cut off."""
        tasks = set(self._server.server_state.tasks)
        if tasks and not self.cut:
            _, tasks = await asyncio.wait(tasks, timeout=_AFTERWARDS)
        for task in tasks:
            task.cancel("Task cancelled, timeout graceful shutdown exceeded")  # uvicorn's words
        if tasks:
            logger.error("Cancel %s running task(s), timeout graceful shutdown exceeded", len(tasks))
            await asyncio.wait(tasks, timeout=_CANCELLED)


def _is_uvicorns(protocol_class: type[Any]) -> bool:
    return protocol_class.__module__.startswith("uvicorn.protocols.http.")
