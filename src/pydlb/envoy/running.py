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
from pydlb.errors import BackendUnavailable, ConfigError, DeviceError, DLBError

from .balance import Dlb, ExactBalance, FallbackPolicy
from .devices import backend_for, tell_other_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

_MOST_BATCH: Final = 64
_BACKLOG: Final = 1024
MOST_BACKLOG: Final = 1 << 16


def balancer_options(listener: Listener, *, parity: bool = False) -> dict[str, Any]:
    """See :meth:`Listener.balancer_options`."""
    balance = listener.balance
    if isinstance(balance, Dlb):
        fallback = _FALLBACKS[balance.fallback_policy]
        chosen: dict[str, Any] = {"policy": "dlb", "backend": backend_for(balance.id), "fallback": fallback}
    elif isinstance(balance, ExactBalance):
        chosen = {"policy": _EXACT_PARITY if parity else "exact", "backend": "software"}
    else:
        chosen = {"policy": "nop", "backend": "software"}
    return chosen if listener.batch is None else chosen | {"batch": min(listener.batch, _MOST_BATCH)}


def _no_hardware(failure: DLBError) -> BackendUnavailable:
    """What a DLB balancer without a fallback ends with."""
    return BackendUnavailable(
        f"{NO_HARDWARE}: {failure}. With fallback_policy None that is the end, as in Envoy; backend='software' has the "
        "same balancer without hardware",
        getattr(failure, "reasons", {"device": str(failure)}),
    )


def _tell(listener: Listener, balancer: Balancer, options: dict[str, Any], *, parity: bool) -> None:
    """Warn, in Envoy's words, of another device or of the fallback."""
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


def make_balancer(
    listener: Listener,
    workers: int | None,
    *,
    handler: Callable[[Connection], object] | None,
    parity: bool,
    options: dict[str, Any],
) -> Balancer:
    """See :meth:`Listener.make_balancer`."""
    count = (_processors() if handler else 0) if workers is None else workers

    chosen = balancer_options(listener, parity=parity) | options
    with contextlib.ExitStack() as undo:
        sockets = list(_bind(listener, undo))
        try:
            balancer = Balancer(count, handler=handler, **chosen)
        except (DeviceError, BackendUnavailable) as error:
            if isinstance(listener.balance, Dlb):
                raise _no_hardware(error) from error
            raise
        undo.callback(balancer.close, timeout=0)
        _tell(listener, balancer, options, parity=parity)
        for sock in sockets:
            balancer.listen(sock=sock, backlog=_backlog(listener))
        undo.pop_all()
        return balancer


async def start_server(
    listener: Listener,
    client_connected_cb: ClientConnected,
    *,
    workers: int | None,
    parity: bool,
    options: dict[str, Any],
) -> Server:
    """See :meth:`Listener.start_server`."""
    from pydlb import server

    count = _processors() if workers is None else workers
    with contextlib.ExitStack() as undo:
        elsewhere = {"host", "port", "sock"} & set(options)
        sockets = [] if elsewhere else list(_bind(listener, undo))
        if not elsewhere and not sockets:
            raise ConfigError(f"{listener.label} has no address to listen on: give host and port")
        chosen = balancer_options(listener, parity=parity) | {"backlog": _backlog(listener)} | options
        chosen.pop("batch", None)  # event loops accept as many as there are
        if sockets:
            chosen["sock"] = sockets[0]
        try:
            started = await server.start_server(client_connected_cb, workers=count, **chosen)
        except (DeviceError, BackendUnavailable) as error:
            if isinstance(listener.balance, Dlb):
                raise _no_hardware(error) from error
            raise
        undo.callback(started.close)
        _tell(listener, started.balancer, options, parity=parity)
        for sock in sockets[1:]:
            started.balancer.listen(sock=sock, backlog=_backlog(listener))
        undo.pop_all()
        return started


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _backlog(listener: Listener) -> int:
    return _BACKLOG if listener.backlog is None else min(listener.backlog, MOST_BACKLOG)


# ---- sockets ---------------------------------------------------------------------------------------------------------


def _bind(listener: Listener, undo: contextlib.ExitStack) -> Iterator[socket.socket]:
    for address in listener.addresses if listener.bind_to_port else ():
        if address.transport != "tcp":
            raise ConfigError(f"{listener.label} is for {address.transport}: there are no connections to balance")
        sock = bind(address, reuse_port=bool(listener.reuse_port))
        undo.callback(sock.close)
        yield sock


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
