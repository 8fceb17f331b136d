"""ASGI and WSGI applications by hypercorn's protocols, on workers that are trio programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from trio.testing import wait_all_tasks_blocked

from .hypercorn import application
from .trio import TrioAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HypercornTrioAdapter"]


class _Connection(TCPServer):
    """One connection, which ends when its client leaves."""

    async def _read_data(self) -> None:
        await super()._read_data()
        # hypercorn itself would keep it open until its keep-alive time is over.
        await self.idle_task.stop()


class HypercornTrioAdapter(TrioAdapter):
    """Serves an application on one worker that is a trio program.

    Args:
        app: The application, or where to import it from, such as ``"module:app"``.
        config: Hypercorn's; what it says about listening and workers says nothing here.
    """

    def __init__(self, app: str | Callable[..., Any], config: Config | None = None) -> None:
        self._config = config or Config()
        super().__init__(self._answer, ssl=self._config.create_ssl_context())
        self._app = application(app, self._config)
        self._state: dict[str, Any] = {}
        self._context = WorkerContext(None)
        self._living = trio.CancelScope()

    async def start(self) -> None:
        """Start the application: its lifespan, if it has one."""
        self._lifespan = Lifespan(self._app, self._config, self._state)
        self._failure: BaseException | None = None
        trio.lowlevel.spawn_system_task(self._live)
        await self._lifespan.wait_for_startup()
        await wait_all_tasks_blocked()  # the failure of a start is told first, and raised then
        if self._failure is not None:
            raise self._failure

    async def _live(self) -> None:
        try:
            with self._living:
                await self._lifespan.handle_lifespan()
        except Exception as error:  # raised by start
            self._failure = error

    async def _answer(self, stream: Any) -> None:
        await _Connection(self._app, self._config, self._context, ConnectionState(self._state.copy()), stream)

    async def drain(self, timeout: float | None = None) -> int:
        """Close connections on which nothing is asked, and others when they have answered."""
        await self._context.terminated.set()
        return await super().drain(timeout)

    async def stop(self) -> None:
        """End what is still open, and shut the application down."""
        await self._context.terminated.set()
        await super().stop()
        with trio.move_on_after(self._config.shutdown_timeout or math.inf):
            await self._lifespan.wait_for_shutdown()
        self._living.cancel()
