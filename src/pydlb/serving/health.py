"""Readiness and liveness by HTTP, for whoever watches over services."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HealthServer", "Watched"]


class Watched(Protocol):
    """Whose health is asked for."""

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome."""

    @property
    def alive(self) -> bool:
        """Whether there is no need to kill it."""


class HealthServer:
    """Answers ``/ready`` and ``/alive`` with 200 or 503, on a thread of its own.

    Args:
        host: The address to listen on.
        port: The port; None to not listen at all.

    Raises:
        OSError: It cannot be listened on.
    """

    def __init__(self, host: str, port: int | None) -> None:
        self._server = None if port is None else _Server((host, port), _Handler)

    @property
    def port(self) -> int | None:
        """The port that is listened on."""
        return self._server.server_port if self._server is not None else None

    @contextlib.contextmanager
    def watching(self, watched: Watched) -> Iterator[None]:
        """Answer for it until the context ends."""
        if self._server is None:
            yield
            return
        self._server.watched = watched
        thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    watched: Watched


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 5  # for a client that connects and asks nothing

    def do_GET(self) -> None:
        """Answer one question."""
        watched = self.server.watched
        answers = {"/ready": watched.ready, "/alive": watched.alive}
        if self.path not in answers:
            self.send_error(404)
            return
        body = f"{self.path[1:]}: {'yes' if answers[self.path] else 'no'}\n".encode()
        self.send_response(200 if answers[self.path] else 503)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Nobody wants to read of it."""
