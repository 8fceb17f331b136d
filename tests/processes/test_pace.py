"""A worker process offers its processor to others between connections, and asks the kernel for short slices."""

from __future__ import annotations

import asyncio
import os
import platform
from typing import TYPE_CHECKING

import pydlb
from pydlb import pace

from . import handlers

if TYPE_CHECKING:
    import pytest


def test_a_worker_process_has_short_slices() -> None:
    async def main() -> int:
        server = await pydlb.start_server(handlers.tell_slice, "127.0.0.1", 0, workers=1, worker_class="process")
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            answer = await reader.readline()
            writer.close()
        return int(answer)

    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    assert asyncio.run(main()) == (100_000 if release >= (6, 12) else 0)


def test_it_gives_way_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = 0.0, []
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    monkeypatch.setattr(pace._native, "shorten_slice", lambda: None)
    monkeypatch.setattr(os, "sched_yield", lambda: given.append(now))
    rests = pace.Pace()
    for step in range(100):
        now = step / 10_000
        rests.rest()
    assert 10 <= len(given) <= 20
    assert given == sorted(set(given))
