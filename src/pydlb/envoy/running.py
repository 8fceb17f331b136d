"""Balancers and servers from listeners."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydlb import policies
from pydlb.balancer import Balancer
from pydlb.errors import BackendUnavailable, ConfigError, DeviceError

from .balance import Dlb, ExactBalance, FallbackPolicy
from .devices import backend_for, tell_other_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pydlb.adapters.streams import ClientConnected
    from pydlb.server import Server
    from pydlb.workers import Connection

    from .listener import Address, Listener

__all__ = ["balancer_options", "bind", "make_balancer", "start_server"]

logger = logging.getLogger("pydlb")

# Envoy's own words.
NO_HARDWARE: Final = "no available dlb hardware"
_FALLBACKS: Final = {FallbackPolicy.NONE: None, FallbackPolicy.NOP: "nop", FallbackPolicy.EXACT: "exact"}
# As Envoy chooses.
_EXACT_PARITY: Final = policies.Exact(tie="first", per_listener=True)

# Envoy's workers accept, whatever the balance. With its DLB balancer a worker's queue holds 8, it receives up to 32 at
# a time, and the device forgets a connection when a worker has it.
_WORKERS_ACCEPT: Final[dict[str, Any]] = {"accept": "workers"}
_DLB_PARITY: Final[dict[str, Any]] = {"queue_depth": 8, "receive_batch": 32, "release": "receive"}

_MOST_BATCH: Final = 64
_BACKLOG: Final = 1024
MOST_BACKLOG: Final = 1 << 16


def balancer_options(listener: Listener, *, parity: bool = False) -> dict[str, Any]:
    """See :meth:`Listener.balancer_options`."""
    balance = listener.balance
    if isinstance(balance, Dlb):
        fallback = _FALLBACKS[balance.fallback_policy]
        chosen: dict[str, Any] = {"policy": "dlb", "backend": backend_for(balance.id), "fallback": fallback}
        if parity:
            chosen |= _DLB_PARITY | {"max_retries": balance.max_retries}
    elif isinstance(balance, ExactBalance):
        chosen = {"policy": _EXACT_PARITY if parity else "exact", "backend": "software"}
    else:
        chosen = {"policy": "nop", "backend": "software"}
    if parity:
        chosen |= _WORKERS_ACCEPT
    return chosen if listener.batch is None else chosen | {"batch": min(listener.batch, _MOST_BATCH)}


def _common_options(listeners: Sequence[Listener], *, parity: bool) -> tuple[Sequence[Listener], dict[str, Any]]:
    """Those of the listeners that connections come to, and what all of them come to.

    Raises:
        ConfigError: They are not balanced in the same way.
    """
    served = [listener for listener in listeners if listener.for_tcp] or listeners
    first, *others = served
    chosen = balancer_options(first, parity=parity)
    for other in others:
        if balancer_options(other, parity=parity) != chosen:
            raise ConfigError(f"{first.label} and {other.label} are balanced differently: make a balancer for each")
    return served, chosen


def make_balancer(
    listeners: Sequence[Listener],
    workers: int | None,
    *,
    handler: Callable[[Connection], object] | None,
    parity: bool,
    options: dict[str, Any],
) -> Balancer:
    """See :meth:`Listener.make_balancer`."""
    served, chosen = _common_options(listeners, parity=parity)
    count = (_processors() if handler else 0) if workers is None else workers
    with contextlib.ExitStack() as undo:
        sockets = list(_bind(served, undo))
        with _in_envoys_words(served[0]):
            balancer = Balancer(count, handler=handler, **chosen | options)
        undo.callback(balancer.close, timeout=0)
        _tell(served[0], balancer, options, parity=parity)
        for sock, backlog in sockets:
            balancer.listen(sock=sock, backlog=backlog)
        undo.pop_all()
        return balancer


async def start_server(
    listeners: Sequence[Listener],
    client_connected_cb: ClientConnected,
    *,
    workers: int | None,
    parity: bool,
    options: dict[str, Any],
) -> Server:
    """See :meth:`Listener.start_server`."""
    from pydlb import server

    served, chosen = _common_options(listeners, parity=parity)
    count = _processors() if workers is None else workers
    with contextlib.ExitStack() as undo:
        elsewhere = {"host", "port", "sock"} & set(options)
        sockets = [] if elsewhere else list(_bind(served, undo))
        if not elsewhere and not sockets:
            raise ConfigError(f"{served[0].label} has no address to listen on: give host and port")
        chosen.pop("batch", None)  # event loops accept as many as there are
        if sockets:
            chosen["sock"], chosen["backlog"] = sockets[0]
        with _in_envoys_words(served[0]):
            started = await server.start_server(client_connected_cb, workers=count, **chosen | options)
        undo.callback(started.balancer.close, timeout=0)
        _tell(served[0], started.balancer, options, parity=parity)
        for sock, backlog in sockets[1:]:
            started.balancer.listen(sock=sock, backlog=backlog)
        undo.pop_all()
        return started


# ---- Envoy's words ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _in_envoys_words(listener: Listener) -> Iterator[None]:
    """Say of a DLB balancer without a fallback what it ends with."""
    try:
        yield
    except (DeviceError, BackendUnavailable) as error:
        if not isinstance(listener.balance, Dlb):
            raise
        raise BackendUnavailable(
            f"{NO_HARDWARE}: {error}. With fallback_policy None that is the end, as in Envoy; backend='software' has "
            "the same balancer without hardware",
            getattr(error, "reasons", {"device": str(error)}),
        ) from error


def _tell(listener: Listener, balancer: Balancer, options: dict[str, Any], *, parity: bool) -> None:
    """Warn of another device, or of the fallback."""
    balance = listener.balance
    if not isinstance(balance, Dlb) or "backend" in options or "fallback" in options:
        return
    if balancer.backend != "software":
        tell_other_device(balance.id, balancer.backend)
        return
    name = str(balance.fallback_policy).removesuffix("ConnectionBalance")
    logger.warning("error: %s (%s), fallback to %s Connection Balance", NO_HARDWARE, balancer.fallback_reason, name)
    if parity and balance.fallback_policy is FallbackPolicy.EXACT:
        balancer.policy = _EXACT_PARITY


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _backlog(listener: Listener) -> int:
    return _BACKLOG if listener.backlog is None else min(listener.backlog, MOST_BACKLOG)


# ---- sockets ---------------------------------------------------------------------------------------------------------


def _bind(listeners: Sequence[Listener], undo: contextlib.ExitStack) -> Iterator[tuple[socket.socket, int]]:
    """The sockets of all addresses, bound, with their backlogs."""
    for listener in listeners:
        for address in listener.addresses if listener.bind_to_port else ():
            if address.transport != "tcp":
                raise ConfigError(f"{listener.label} is for {address.transport}: there are no connections to balance")
            sock = bind(address, reuse_port=bool(listener.reuse_port))
            undo.callback(sock.close)
            yield sock, _backlog(listener)


def bind(address: Address, *, reuse_port: bool = False) -> socket.socket:
    """A socket bound to an address.

    Raises:
        OSError: The address cannot be had.
    """
    if address.path is not None:
        return _bind_path(address.path, address.mode)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.both_families)
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    return sock


def _bind_path(path: str, mode: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(f"\0{path[1:]}" if path.startswith("@") else path)
        if mode is not None and not path.startswith("@"):
            Path(path).chmod(mode)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {path}: {error.strerror}") from None
    return sock
