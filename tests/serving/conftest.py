"""`pydlb serve` as a program, with applications that are written to a folder of the test's."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Answers with the version of the program, the process and the worker; some paths do more.
APPLICATION = """
    import asyncio, os, threading, time
    VERSION = 1
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("application stopped", flush=True)
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/slow":
            print("slow request", flush=True)
            await asyncio.sleep(0.5)
        if scope["path"] == "/for-ever":
            print("endless request", flush=True)
            await asyncio.sleep(3600)
        if scope["path"] == "/block":
            time.sleep(1.5)
        body = f"{VERSION} {os.getpid()} {threading.current_thread().name}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        if scope["path"] == "/afterwards":
            print("begun", flush=True)
            await asyncio.sleep(0.5)
            print("done afterwards", flush=True)
"""


class Served:
    """A running `pydlb serve`, and what it has said."""

    command: tuple[str, ...] = (sys.executable, "-W", "error", "-m", "pydlb.cli.main", "serve")
    where = r"pydlb running on https?://\[?([\w.:]+?)\]?:(\d+) "

    def __init__(self, folder: Path, arguments: tuple[str, ...], **options: Any) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **options.pop("environment", {})}
        through, before = options.pop("through", []), options.pop("before", None)
        self.process = subprocess.Popen(
            [*through, *self.command, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=before,
            close_fds=before is None,
            **options,
        )
        self.said: list[str] = []
        self._news = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said.append(line)
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until it has said this so often; the last of them."""
        deadline = time.monotonic() + 60
        with self._news:
            while True:
                found = [match for line in self.said if (match := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                if self._over or not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"it never said {pattern!r} {count} times:\n{''.join(self.said)}")

    @property
    def address(self) -> tuple[str, int]:
        found = self.wait_for(self.where)
        return found[1], int(found[2])

    def get(self, path: str = "/", **headers: str) -> list[str]:
        """One request over one connection: the words of the answer."""
        with contextlib.closing(self.connect()) as connection:
            return self.ask(connection, path, **headers)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=60)

    def ask(self, connection: http.client.HTTPConnection, path: str = "/", **headers: str) -> list[str]:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode().split()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, *, errors: bool = False) -> str:
        """End it; it must leave in order, without errors unless some are expected. Returns all that it has said."""
        self.send(number)
        return self.end(0, errors=errors)

    def end(self, status: int, *, errors: bool = False) -> str:
        assert self.process.wait(60) == status, "".join(self.said)
        self._reader.join(60)
        said = "".join(self.said)
        assert errors or "Traceback" not in said, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the application is."""
    (tmp_path / "site_app.py").write_text(textwrap.dedent(APPLICATION))
    return tmp_path


@pytest.fixture(params=["thread", "process"])
def worker_class(request: pytest.FixtureRequest) -> str:
    """What workers are."""
    return str(request.param)


@pytest.fixture
def serve(folder: Path, worker_class: str) -> Iterator[Callable[..., Served]]:
    """``serve("site_app:app", "--workers", "2")``: killed at the end of the test."""
    running: list[Served] = []

    def start(*arguments: str, ready: bool = True, **options: Any) -> Served:
        told = {"--uds", "--fd", "--port"} & set(arguments) or "LISTEN_FDS" in options.get("environment", {})
        where = () if told else ("--port", "0")
        if "--worker-class" not in arguments:
            where = (*where, "--worker-class", worker_class)
        served = Served(folder, (*arguments, *where), **options)
        running.append(served)
        if ready:
            served.wait_for(r"Serving with \d+ worker")
        return served

    yield start
    for served in running:
        served.kill()


class Visitors:
    """Clients that ask again and again until told to stop: half keep their connections, half do not."""

    def __init__(self, served: Served, count: int = 8, *, keep: bool = True) -> None:
        self.served = served
        self.address = served.address
        self.answers: list[list[str]] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(keep and n % 2 == 0,)) for n in range(count)]

    def _visit(self, keep: bool) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        while not self._over.is_set():
            try:
                self.answers.append(self.served.ask(connection))
            except Exception as error:
                self.failures.append(repr(error))
                connection.close()
            if not keep:
                connection.close()
        connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def wait_until(self, condition: Callable[[list[str]], bool]) -> None:
        """Until one of the answers that come from now on is such."""
        seen = len(self.answers)
        deadline = time.monotonic() + 60
        while not any(map(condition, self.answers[seen:])):
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def visiting() -> type[Visitors]:
    return Visitors
