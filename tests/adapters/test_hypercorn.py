"""ASGI applications by hypercorn's protocols, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import collections
import functools
from typing import TYPE_CHECKING, Any

import pytest
from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

import pydlb
from pydlb.adapters.hypercorn import HypercornAdapter
from pydlb.adapters.hypercorn_trio import HypercornTrioAdapter
from pydlb.adapters.trio import TrioWorker

from . import applications

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=["asyncio", "trio"])
def serving(request: pytest.FixtureRequest) -> Callable[..., Any]:
    applications.events.clear()
    adapter, runner = (HypercornAdapter, None) if request.param == "asyncio" else (HypercornTrioAdapter, TrioWorker)

    def start(app: Any = applications.asgi, **options: Any) -> Any:
        config = Config()
        for name, value in options.items():
            setattr(config, name, value)
        return pydlb.serve(functools.partial(adapter, app, config), "localhost", 0, workers=3, runner=runner)

    return start


def test_spreads_held_connections(run: Callable[..., Any], client: Any, serving: Callable[..., Any]) -> None:
    async def main() -> None:
        async with await serving() as server:
            web = client(server.sockets[0].getsockname())
            answers = [(await asyncio.to_thread(web.get)).text.split() for _ in range(12)]
            names = [f"worker_{n}" for n in range(3)]
            assert collections.Counter(name for name, *_ in answers) == dict.fromkeys(names, 4)
            assert all(name == state for name, _, state in answers)
            web.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (12, 12, 0)
        assert sorted(applications.events) == sorted(f"{what} {name}" for what in ("start", "stop") for name in names)

    run(main())


def test_a_client_that_leaves_is_gone(run: Callable[..., Any], client: Any, serving: Callable[..., Any]) -> None:
    """Though its connection might have been kept for an hour."""

    async def main() -> None:
        async with await serving(keep_alive_timeout=3600) as server:
            web = client(server.sockets[0].getsockname())
            await asyncio.to_thread(web.get)
            web.close()
            while server.balancer.stats().served == 0:
                await asyncio.sleep(0.01)

    run(main())


def test_tls(
    run: Callable[..., Any], client: Any, serving: Callable[..., Any], certificate: Any, client_context: Any
) -> None:
    async def main() -> None:
        async with await serving(certfile=str(certificate), keyfile=str(certificate)) as server:
            web = client(("localhost", server.sockets[0].getsockname()[1]), client_context)
            assert (await asyncio.to_thread(web.get)).text.split()[1] == "https"
            web.close()

    run(main())


def test_a_drain_closes_silent_connections(run: Callable[..., Any], client: Any, serving: Callable[..., Any]) -> None:
    async def main() -> None:
        async with await serving() as server:
            web = client(server.sockets[0].getsockname())
            await asyncio.to_thread(web.get)
            server.balancer.begin_drain(0.4)
            assert await asyncio.to_thread(web.held[0].sock.recv, 10) == b""
            web.close()
        stats = server.balancer.stats()
        assert (stats.accepted, stats.served, stats.aborted) == (1, 1, 0)

    run(main())


def test_an_application_that_does_not_start(run: Callable[..., Any], serving: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(LifespanFailureError, match="no database"):
            await serving(applications.broken)

    run(main())
