"""The Python program that does what listeners say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import running
from .balance import FallbackPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .listener import Address, Listener

__all__ = ["program"]

_HEAD = '''\
WORKERS = 4  # Envoy's --concurrency


def handle(connection: pydlb.Connection) -> None:
    """Yours: called on a worker's thread. With asyncio, pydlb.start_server takes the same policy and backend."""
    connection.socket.sendall(b"hello from pydlb\\n")
'''


def program(listeners: Sequence[Listener], title: str) -> str:
    """A whole program, with a balancer for the listeners that are balanced in the same way.

    Args:
        listeners: The listeners.
        title: The first line of its docstring.
    """
    groups: dict[str, list[Listener]] = {}
    for listener in listeners:
        groups.setdefault(repr(running.balancer_options(listener)), []).append(listener)
    names = _function_names(group[0] for group in groups.values())
    functions = [_function(name, group) for name, group in zip(names, groups.values(), strict=True)]
    body = "\n\n\n".join([_HEAD.rstrip(), *functions, _tail(names)])
    imports = ["contextlib", "signal", "time"]
    imports += [name for name in ("pathlib", "socket") if re.search(rf"(?<![.\w]){name}\.", body)]
    lines = "\n".join(f"import {name}" for name in sorted(imports))
    quoted = title.replace("\\", "/").replace('"', "'")
    return f'"""{quoted}"""\n\n{lines}\n\nimport pydlb\n\n{body}\n'


def _function_names(listeners: Iterable[Listener]) -> list[str]:
    names: list[str] = []
    for listener in listeners:
        base = "serve_" + (re.sub(r"\W+", "_", listener.name, flags=re.ASCII).strip("_").lower() or "listener")
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names


def _function(name: str, listeners: Sequence[Listener]) -> str:
    labels = [repr(listener.name)[1:-1].replace('"', "'").replace("\\", "/") for listener in listeners]
    places = [
        f"{label or 'without a name'}: line {one.origin.line}" for label, one in zip(labels, listeners, strict=True)
    ]
    lines = [
        f"def {name}() -> pydlb.Balancer:",
        f'    """{"; ".join(places)} of the configuration."""',
        *_creation(listeners[0]),
        *(line for listener in listeners for line in _listening(listener)),
        "    return balancer",
    ]
    return "\n".join(lines)


def _creation(listener: Listener) -> Iterator[str]:
    if listener.fallback_policy is FallbackPolicy.NONE:
        yield "    # As in Envoy, this fails where there is no device that can be used; backend='software' needs none."
    options = running.balancer_options(listener)
    words = [f"{key}={_written(value)}" for key, value in options.items()]
    yield f"    balancer = pydlb.Balancer({', '.join(['WORKERS', 'handler=handle', *words])})"


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _listening(listener: Listener) -> Iterator[str]:
    if not listener.bind_to_port:
        yield "    # bind_to_port is false: it does not listen, and gets no connections from elsewhere here."
        return
    addresses = [address for address in listener.addresses if address.transport == "tcp"]
    if len(addresses) < len(listener.addresses):
        yield "    # Only TCP connections are balanced: other addresses are left out."
    elif not addresses:
        yield "    # The configuration does not say where; 0 is any port that is free."
        yield '    balancer.listen("0.0.0.0", 0)'
    for address in addresses:
        yield from _listen(address, listener)


def _listen(address: Address, listener: Listener) -> Iterator[str]:
    options = "" if listener.backlog is None else f", backlog={min(listener.backlog, running.MOST_BACKLOG)}"
    if listener.reuse_port and address.path is None and not address.both_families:
        options += ", reuse_port=True"
    if address.path is not None:
        path = f"\0{address.path[1:]}" if address.path.startswith("@") else address.path
        yield f"    balancer.listen(path={path!r}{options})"
        if address.mode is not None and not address.path.startswith("@"):
            yield f"    pathlib.Path({address.path!r}).chmod(0o{address.mode:o})"
    elif address.both_families and ":" in address.host:
        reuse = ", reuse_port=True" if listener.reuse_port else ""
        place = f'("{address.host}", {address.port})'
        sock = f"socket.create_server({place}, family=socket.AF_INET6, dualstack_ipv6=True{reuse})"
        yield f"    balancer.listen(sock={sock}{options})"
    else:
        yield f'    balancer.listen("{address.host}", {address.port}{options})'


def _tail(names: list[str]) -> str:
    # It looks up now and then: a signal that comes just before a thread falls asleep for ever does not wake it.
    return f"""\
signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
try:
    with contextlib.ExitStack() as stack:
        for make in ({", ".join(names)},):
            balancer = stack.enter_context(make())
            print(make.__name__, "on", balancer.address(0), "by", balancer.backend, flush=True)
        while True:
            time.sleep(1)
except KeyboardInterrupt:
    pass"""
