"""A server in the manner of asyncio's, whose connections are spread over event loops in threads."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl as ssl_module
from typing import TYPE_CHECKING, Any, Final, Literal

from .adapters.streams import StreamAdapter
from .balancer import Balancer, Runner, check_range
from .errors import ConfigError
from .loops import LoopWorker
from .proxied import proxy_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .adapters import Adapter
    from .adapters.streams import ClientConnected
    from .balancer.backends import Backend, Fallback
    from .limits import Limits
    from .policies import PolicyLike
    from .proxied import ProxyProtocol
    from .workers import Worker

__all__ = ["Server", "serve", "start_server"]

_LIMIT: Final = 2**16

# How long a backlog may take to be emptied when the server is closed, in seconds.
_DRAIN: Final = 5.0

# Who waits for the server to be closed looks after the first of these times, later after the second, in seconds.
_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 0.02


class Server(asyncio.AbstractServer):
    """What :func:`start_server` returns: all that :class:`asyncio.Server` has, and `balancer`.

    Attributes:
        balancer: The balancer that spreads the connections; its `stats()` tell what each worker has.

    **Synchronization**: as with asyncio, methods belong to the thread of the event loop that started the server;
    `balancer` may be used from any thread.
    """

    def __init__(
        self,
        balancer: Balancer,
        sockets: Sequence[socket.socket],
        backlog: int,
        proxy_protocol: ProxyProtocol = False,
    ) -> None:
        self.balancer: Final = balancer
        self._proxy_protocol: Final = proxy_protocol
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        self._backlog = backlog
        self._serving = False
        self._closed = False
        self._forever: asyncio.Future[None] | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; empty once the server is closed."""
        return self._sockets

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that started the server. Handlers run on others."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._serving

    async def start_serving(self) -> None:
        """Start to accept connections, if that was put off.

        Raises:
            RuntimeError: The server is closed.
        """
        self._start()

    def _start(self) -> None:
        if self._serving:
            return
        if self._closed:
            raise RuntimeError(f"{self!r} is closed")
        for sock in self._sockets:
            self.balancer.listen(sock=sock, backlog=self._backlog, proxy_protocol=self._proxy_protocol)
        self._serving = True

    async def serve_forever(self) -> None:
        """Serve until cancelled, then close the server and wait until it is closed.

        Raises:
            RuntimeError: The server is closed, or somebody awaits this already.
        """
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._start()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Accept no more connections. Those in the backlog and those that are open are served to their end."""
        if self._closed:
            return
        self._closed = True
        self._serving = False
        self.balancer.begin_stop(_DRAIN)
        sockets, self._sockets = self._sockets, ()
        for sock in sockets:
            sock.close()  # those that never listened; the balancer closed the others
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    def close_clients(self) -> None:
        """Close all connections that are open now, once what was written to them is sent."""
        self.balancer.close_connections()

    def abort_clients(self) -> None:
        """End all connections that are open now; they are counted as aborted."""
        self.balancer.abort_connections()

    async def wait_closed(self) -> None:
        """Wait until the server is closed, its last connection has ended, and its workers have stopped.

        When the wait is cancelled, connections go on; `balancer.close` ends them.
        """
        pause = _FIRST_LOOK
        while not (self._closed and self.balancer.idle):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)
        await asyncio.to_thread(self.balancer.close, 0)

    def __repr__(self) -> str:
        """Its sockets."""
        return f"<pydlb.Server sockets={self.sockets!r}>"


# ---- listening sockets ---------------------------------------------------------------------------------------------


async def _bound_sockets(
    host: str | Iterable[str] | None, port: int | str | None, options: dict[str, Any]
) -> list[socket.socket]:
    """Bind one socket for each address that the names stand for, as asyncio does."""
    loop = asyncio.get_running_loop()
    hosts: list[str | None] = [host] if isinstance(host, str) or host is None else list(host)
    found: dict[Any, None] = {}
    for name in hosts:
        for family, kind, proto, _, address in await loop.getaddrinfo(
            name or None, port, family=options["family"], type=socket.SOCK_STREAM, flags=options["flags"]
        ):
            found[family, kind, proto, address] = None
    sockets: list[socket.socket] = []
    try:
        for family, kind, proto, address in found:
            sockets.append(_bound(family, kind, proto, address, options))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(
    family: int, kind: int, proto: int, address: tuple[str | int, ...], options: dict[str, Any]
) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        if options["reuse_address"] is not False:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options["reuse_port"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address!r}: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


# ---- the server ----------------------------------------------------------------------------------------------------


def _check(client_connected: object, ssl: object, timeouts: tuple[float | None, float | None]) -> None:
    if not callable(client_connected):
        raise ConfigError(f"client_connected_cb is {client_connected!r}: it is a function of a reader and a writer")
    if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
        raise ConfigError(f"ssl is {ssl!r}: it is an ssl.SSLContext or None")
    if ssl is None and timeouts != (None, None):
        raise ConfigError("ssl_handshake_timeout and ssl_shutdown_timeout need ssl")


def _start_workers(
    balancer: Balancer,
    count: int,
    make_runner: Callable[[Worker], Runner],
) -> None:
    try:
        balancer.add_some(make_runner, count)
    except BaseException:
        balancer.close(timeout=0)
        raise


async def start_server(
    client_connected_cb: ClientConnected,
    host: str | Iterable[str] | None = None,
    port: int | str | None = None,
    *,
    workers: int = 4,
    worker_class: Literal["thread", "process", "auto"] = "thread",
    start_method: Literal["fork", "forkserver", "spawn"] | None = None,
    policy: PolicyLike = "dlb",
    backend: Backend = "auto",
    fallback: Fallback | None = "auto",
    grace: float | None = None,
    accept: Literal["native", "workers"] = "native",
    max_retries: int = 0,
    release: Literal["close", "receive"] = "close",
    queue_depth: int | None = None,
    receive_batch: int | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    limit: int = _LIMIT,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    sock: socket.socket | None = None,
    backlog: int = 1024,
    ssl: ssl_module.SSLContext | None = None,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    proxy_protocol: ProxyProtocol = False,
    start_serving: bool = True,
    limits: Limits | None = None,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> Server:
    """Start a server whose connections are spread over event loops in worker threads.

    Args:
        client_connected_cb: Called with a reader and a writer for each connection, as by
            :func:`asyncio.start_server`, but on the event loop of a worker: it may be called on several threads at a
            time. A coroutine function, or a plain function.
        host: Address or addresses to listen on; None for all.
        port: The port to listen on; 0 or None for any that is free.
        workers: Event loops to spread connections over, each in a thread or process of its own.
        worker_class: What a worker is, as for :class:`Balancer`: ``"thread"``, ``"process"`` or ``"auto"``.
        start_method: How processes are started, as for :class:`Balancer`.
        policy: Which worker gets a connection, as for :class:`Balancer`.
        backend: As for :class:`Balancer`.
        fallback: What to go on with when a device fails, as for :class:`Balancer`.
        grace: As for :class:`Balancer`.
        accept: Who accepts, as for :class:`Balancer`: ``"native"``, or ``"workers"`` as in Envoy.
        max_retries: As for :class:`Balancer`.
        release: As for :class:`Balancer`.
        queue_depth: As for :class:`Balancer`.
        receive_batch: As for :class:`Balancer`.
        loop_factory: Makes each worker's loop, such as ``uvloop.new_event_loop``; None for asyncio's own.
        limit: The readers' buffer limit in bytes.
        family: ``socket.AF_INET`` or ``socket.AF_INET6`` to listen on addresses of one kind.
        flags: For ``getaddrinfo``.
        sock: A bound socket to listen on, in place of `host` and `port`; the server closes it.
        backlog: Connections that the kernel keeps until they are accepted.
        ssl: For TLS; handshakes run on the worker.
        reuse_address: False not to reuse an address that a closed server leaves behind for a while.
        reuse_port: Let other sockets listen on the same port.
        ssl_handshake_timeout: Seconds that a TLS handshake may take.
        ssl_shutdown_timeout: Seconds that the end of a TLS connection may take.
        proxy_protocol: Whether connections come from a proxy that says for whom, as for :meth:`Balancer.listen`; the
            client's address is then that of ``get_extra_info("peername")``.
        start_serving: False to accept only when :meth:`Server.start_serving` is called.
        limits: How many connections there may be, and what becomes of the others, as for :class:`Balancer`.
        metrics_port: A port for metrics and probes, as for :class:`Balancer`; None for none.
        metrics_host: The address for that.

    Returns:
        The server.

    Raises:
        OSError: An address cannot be listened on.
        ConfigError: An argument is out of range.
        BackendUnavailable: The backend cannot be had.

    **Resource handling**: no signal handlers are installed. Close the server, and await its `wait_closed`, or use it
    as an asynchronous context manager.

    **Error handling**: an exception of the handler goes to the worker loop's exception handler; its connection is
    aborted and counted.
    """
    _check(client_connected_cb, ssl, (ssl_handshake_timeout, ssl_shutdown_timeout))
    make_adapter = functools.partial(
        StreamAdapter,
        client_connected_cb,
        limit=limit,
        ssl=ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    return await serve(
        make_adapter,
        host,
        port,
        workers=workers,
        worker_class=worker_class,
        start_method=start_method,
        policy=policy,
        backend=backend,
        fallback=fallback,
        grace=grace,
        accept=accept,
        max_retries=max_retries,
        release=release,
        queue_depth=queue_depth,
        receive_batch=receive_batch,
        loop_factory=loop_factory,
        family=family,
        flags=flags,
        sock=sock,
        backlog=backlog,
        reuse_address=reuse_address,
        reuse_port=reuse_port,
        proxy_protocol=proxy_protocol,
        start_serving=start_serving,
        limits=limits,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
    )


async def serve(
    make_adapter: Callable[[], Adapter],
    host: str | Iterable[str] | None = None,
    port: int | str | None = None,
    *,
    workers: int = 4,
    worker_class: Literal["thread", "process", "auto"] = "thread",
    start_method: Literal["fork", "forkserver", "spawn"] | None = None,
    policy: PolicyLike = "dlb",
    backend: Backend = "auto",
    fallback: Fallback | None = "auto",
    grace: float | None = None,
    accept: Literal["native", "workers"] = "native",
    max_retries: int = 0,
    release: Literal["close", "receive"] = "close",
    queue_depth: int | None = None,
    receive_batch: int | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    runner: Callable[..., Runner] | None = None,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    sock: socket.socket | None = None,
    backlog: int = 1024,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    proxy_protocol: ProxyProtocol = False,
    start_serving: bool = True,
    limits: Limits | None = None,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> Server:
    """Serve a framework's application on event loops in worker threads: ASGI, aiohttp and others.

    Args:
        make_adapter: Makes the :class:`pydlb.adapters.Adapter` of each worker, on the worker: such as
            ``functools.partial(pydlb.adapters.uvicorn.UvicornAdapter, "module:app")``.
        host: As for :func:`start_server`, as are all others.
        port: The port to listen on; 0 or None for any that is free.
        workers: Event loops to spread connections over, each in a thread or process of its own.
        worker_class: What a worker is, as for :class:`Balancer`: ``"thread"``, ``"process"`` or ``"auto"``.
        start_method: How processes are started, as for :class:`Balancer`.
        policy: Which worker gets a connection, as for :class:`Balancer`.
        backend: As for :class:`Balancer`.
        fallback: What to go on with when a device fails, as for :class:`Balancer`.
        grace: As for :class:`Balancer`.
        accept: Who accepts, as for :class:`Balancer`: ``"native"``, or ``"workers"`` as in Envoy.
        max_retries: As for :class:`Balancer`.
        release: As for :class:`Balancer`.
        queue_depth: As for :class:`Balancer`.
        receive_batch: As for :class:`Balancer`.
        loop_factory: Makes each worker's loop.
        runner: What runs an adapter that is not asyncio's, such as :class:`pydlb.adapters.trio.TrioWorker`: called with
            the worker and `make_adapter`.
        family: ``socket.AF_INET`` or ``socket.AF_INET6`` to listen on addresses of one kind.
        flags: For ``getaddrinfo``.
        sock: A bound socket to listen on, in place of `host` and `port`; the server closes it.
        backlog: Connections that the kernel keeps until they are accepted.
        reuse_address: False not to reuse an address that a closed server leaves behind for a while.
        reuse_port: Let other sockets listen on the same port.
        proxy_protocol: Whether connections come from a proxy that says for whom, as for :meth:`Balancer.listen`; the
            client's address is then that of ``get_extra_info("peername")``.
        start_serving: False to accept only when :meth:`Server.start_serving` is called.
        limits: How many connections there may be, and what becomes of the others, as for :class:`Balancer`.
        metrics_port: A port for metrics and probes, as for :class:`Balancer`; None for none.
        metrics_host: The address for that.

    Returns:
        The server; its applications have started.

    Raises:
        OSError: An address cannot be listened on.
        ConfigError: An argument is out of range.
        BackendUnavailable: The backend cannot be had.
        Exception: What kept an application from starting.

    **Resource handling**: as :func:`start_server`.
    """
    proxy_mode(proxy_protocol)
    check_range(workers=(workers, 1, 1024))
    if sock is not None and (host is not None or port is not None):
        raise ConfigError("give host and port, or sock, not both")
    if sock is None and host is None and port is None:
        raise ConfigError("give host and port, or sock, to say where to listen")
    check_range(backlog=(backlog, 0, 1 << 16))
    if isinstance(port, int):
        check_range(port=(port, 0, 0xFFFF))

    make_runner: Callable[[Worker], Runner] = (
        functools.partial(LoopWorker, make_adapter=make_adapter, loop_factory=loop_factory)
        if runner is None
        else functools.partial(runner, make_adapter=make_adapter)
    )
    binding = {"family": family, "flags": flags, "reuse_address": reuse_address, "reuse_port": reuse_port}
    balancer = Balancer(
        0,
        policy=policy,
        backend=backend,
        fallback=fallback,
        grace=grace,
        accept=accept,
        max_retries=max_retries,
        release=release,
        queue_depth=queue_depth,
        receive_batch=receive_batch,
        max_workers=max(16, workers),
        worker_class=worker_class,
        start_method=start_method,
        limits=limits,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
    )
    sockets: list[socket.socket] = []
    try:
        sockets = [sock] if sock is not None else await _bound_sockets(host, port, binding)
        await asyncio.to_thread(_start_workers, balancer, workers, make_runner)
        server = Server(balancer, sockets, backlog, proxy_protocol)
        if start_serving:
            server._start()
    except BaseException:
        for bound in sockets:
            if bound is not sock:
                bound.close()
        await asyncio.to_thread(balancer.close, 0)
        raise
    return server
