"""An HTTP endpoint of its own for metrics, probes and ``pydlb top``."""

from __future__ import annotations

import http.server
import json
import logging
import os
import socket
import socketserver
import struct
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from pydlb.balancer import Balancer
from pydlb.errors import ConfigError

from .health import Health
from .snapshot import take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

__all__ = ["BalancerSource", "MetricsServer", "Source", "local_address"]

logger = logging.getLogger("pydlb")

# Sockets of one process that `pydlb top --pid` looks for.
_MOST_LOCAL: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")


class Source(Protocol):
    """Of whom the endpoint tells. All of it is called on threads of the endpoint's."""

    def ready(self) -> str | None:
        """None if new connections would be served; else why not."""

    def alive(self) -> str | None:
        """None if there is no need to restart it; else why."""

    def snapshot(self) -> Mapping[str, Any]:
        """What ``pydlb top`` shows, as JSON can hold it."""

    def collector(self) -> Collector:
        """What Prometheus is told."""


class BalancerSource:
    """A balancer as a :class:`Source`.

    Args:
        balancer: The balancer.
        envoy_names: Also tell Prometheus the figures that Envoy has under Envoy's names.
    """

    def __init__(self, balancer: Balancer, *, envoy_names: bool = False) -> None:
        self._balancer: Final = balancer
        self._envoy_names: Final = envoy_names
        health = Health(balancer)
        self.ready: Final = health.ready
        self.alive: Final = health.alive

    def snapshot(self) -> dict[str, Any]:
        """Statistics, and what they are of."""
        return take(self._balancer)

    def collector(self) -> Collector:
        """The balancer's."""
        from .prometheus import BalancerCollector

        return BalancerCollector(self._balancer, envoy_names=self._envoy_names)


class MetricsServer:
    """Answers ``/metrics``, ``/ready``, ``/alive`` and ``/stats`` by HTTP, on threads of its own.

    ``/metrics`` is for Prometheus; ``/ready`` and ``/alive`` answer probes with 200, or 503 and the reason; ``/stats``
    is JSON. ``pydlb top --pid`` asks by a socket of the process's name that only its user may use.

    Args:
        source: Whom to tell of: a :class:`pydlb.Balancer`, or another :class:`Source`.
        host: The address to listen on. Everybody who can connect to it may read the figures.
        port: The port; 0 for any that is free.
        envoy_names: Also tell Prometheus the figures that Envoy has under Envoy's names.

    Raises:
        ConfigError: prometheus-client is not installed, or the port is none.
        OSError: It cannot be listened on.

    **Synchronization**: any thread.

    **Resource handling**: a context manager. `close` ends its threads and those of requests.
    """

    def __init__(
        self, source: Balancer | Source, host: str = "127.0.0.1", port: int = 0, *, envoy_names: bool = False
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 0xFFFF:
            raise ConfigError(f"metrics_port is {port!r}: it is a port, 0 for any that is free")
        told = BalancerSource(source, envoy_names=envoy_names) if isinstance(source, Balancer) else source
        answers = _answers(told, _registry_of(told))
        self._servers: list[_Server] = [_TcpServer((host, port), answers)]
        local = _open_local(answers)
        self._servers += [local] if local is not None else []
        self._threads = [
            threading.Thread(target=server.serve_forever, name="pydlb-metrics", daemon=True, args=(0.1,))
            for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._servers[0].socket.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening, and end the requests that are being answered. May be called twice."""
        servers, self._servers = self._servers, self._servers[:0]
        for server in servers:
            server.shutdown()
            server.end_requests()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def local_address(pid: int, number: int) -> str:
    """The name, in the kernel's abstract namespace, at which a process answers its own user."""
    return f"\0pydlb/metrics/{pid}/{number}"


def _registry_of(source: Source) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry
    except ImportError:
        raise ConfigError("metrics need prometheus-client: pip install 'pydlb[metrics]'") from None
    registry = CollectorRegistry()
    registry.register(source.collector())
    return registry


# ---- what is answered ----------------------------------------------------------------------------------------------


class _Answer:
    """A status, a media type and a text."""

    def __init__(self, status: int, text: bytes | str, media_type: str = "text/plain; charset=utf-8") -> None:
        self.status = status
        self.body = text if isinstance(text, bytes) else text.encode()
        self.media_type = media_type


_Answers = dict[str, "Callable[[str], _Answer]"]


def _answers(source: Source, registry: CollectorRegistry) -> _Answers:
    """For each path, a function of the Accept header."""
    from prometheus_client.exposition import choose_encoder

    def metrics(accept: str) -> _Answer:
        encode, media_type = choose_encoder(accept)
        return _Answer(200, encode(registry), media_type)

    def probe(question: Callable[[], str | None]) -> Callable[[str], _Answer]:
        def answer(_: str) -> _Answer:
            reason = question()
            return _Answer(200, "yes\n") if reason is None else _Answer(503, f"no: {reason}\n")

        return answer

    def stats(_: str) -> _Answer:
        return _Answer(200, json.dumps(source.snapshot()), "application/json")

    return {"/metrics": metrics, "/ready": probe(source.ready), "/alive": probe(source.alive), "/stats": stats}


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request a connection."""

    server: _Server
    timeout = 5  # seconds for a client that connects and asks nothing
    server_version = "pydlb"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one question."""
        path = self.path.partition("?")[0]
        answer = self.server.answers.get(path)
        if answer is None:
            known = ", ".join(self.server.answers)
            self._send(_Answer(404, f"there is no {path}; there are {known}\n"))
        else:
            self._send(self._ask(answer))

    def _ask(self, answer: Callable[[str], _Answer]) -> _Answer:
        """An application's collector may fail; whoever asks is to see that."""
        try:
            return answer(self.headers.get("Accept", ""))
        except Exception:
            logger.exception("cannot answer %s", self.path)
            return _Answer(500, "this failed; the log of the process says why\n")

    def do_HEAD(self) -> None:
        """As GET, without the text."""
        self.do_GET()

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Nobody wants to read of probes."""

    def address_string(self) -> str:
        """A socket with a name of the kernel's has no address."""
        return "local"


# ---- who listens ---------------------------------------------------------------------------------------------------


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server that can end the requests that it is answering."""

    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True
    request_queue_size = 16

    def __init__(self, address: Any, answers: _Answers) -> None:  # noqa: ANN401 - host and port, or a name
        self.answers: Final = answers
        self._requests: set[socket.socket] = set()
        self._requests_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class
        with self._requests_lock:
            self._requests.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as the base class
        with self._requests_lock:
            self._requests.discard(request)
        super().shutdown_request(request)

    def end_requests(self) -> None:
        """Let no request be waited for."""
        with self._requests_lock:
            requests = list(self._requests)
        for request in requests:
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class
        """A client that goes away in the middle is no news."""


class _TcpServer(_Server):
    def __init__(self, address: tuple[str, int], answers: _Answers) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, answers)


class _LocalServer(_Server):
    """For the same user, or the superuser."""

    address_family = socket.AF_UNIX
    allow_reuse_address = False

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as the base class
        """Look at who asks: such sockets have no owner and mode."""
        told = request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return _CREDENTIALS.unpack(told)[1] in (0, os.geteuid())


def _open_local(answers: _Answers) -> _LocalServer | None:
    """At the first free name of this process; None if all are taken."""
    for number in range(_MOST_LOCAL):
        try:
            return _LocalServer(local_address(os.getpid(), number), answers)
        except OSError:
            continue
    return None
