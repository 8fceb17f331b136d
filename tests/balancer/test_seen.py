"""What statistics tell of listeners and of event loops."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Clients

PATIENCE = 30.0


def test_each_listener_has_its_own_account(clients: Clients, wait_until: Callable[..., None]) -> None:
    with pydlb.Balancer(0) as balancer:
        worker = balancer.worker()
        first, second = balancer.listen(), balancer.listen()
        host, port = balancer.address(second)
        clients.connect(balancer.address(first), 3)
        clients.connect((host, port), 2)
        held = [connection for _ in range(5) if (connection := worker.accept_blocking(PATIENCE))]
        held.pop().close()
        one, two = balancer.stats().listeners
        assert (one.number, two.number) == (first, second)
        assert (one.accepted, two.accepted) == (3, 2)
        assert one.open + two.open == 4
        assert (two.downstream_cx_total, two.downstream_cx_active) == (two.accepted, two.open)
        assert two.address == f"{host}:{port}"
        balancer.unlisten(second)
        assert [listener.address is None for listener in balancer.stats().listeners] == [False, True]
        stats = balancer.close(timeout=0)
        assert [listener.open for listener in stats.listeners] == [0, 0]
        for connection in held:
            connection.close()
        assert [listener.open for listener in balancer.stats().listeners] == [0, 0]


def test_a_loop_that_is_late_shows(clients: Clients, wait_until: Callable[..., None]) -> None:
    blocks, goes_on = threading.Event(), threading.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        blocks.set()
        goes_on.wait(PATIENCE)  # as no handler should
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=2, backend="software")

        def look() -> None:
            lags = [worker.loop_lag for worker in server.balancer.stats().workers]
            assert all(lag is not None for lag in lags)
            clients.connect(server.sockets[0].getsockname())
            assert blocks.wait(PATIENCE)
            server.balancer.stats()  # asks
            time.sleep(0.2)
            late = [worker.loop_lag or 0.0 for worker in server.balancer.stats().workers]
            assert max(late) >= 0.2
            goes_on.set()
            wait_until(lambda: all((one.loop_lag or 0.0) < 0.2 for one in server.balancer.stats().workers))

        await asyncio.to_thread(look)
        server.close()
        await server.wait_closed()
        assert all(worker.loop_lag is None for worker in server.balancer.stats().workers)

    asyncio.run(main())
