"""A configuration in words: what Envoy did with it, and what pydlb does."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from .balance import DLB_TYPE, Dlb, ExactBalance, FallbackPolicy
from .devices import find_device
from .program import program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .configuration import Configuration
    from .listener import Listener

__all__ = ["explain"]

_WIDTH: Final = 100


def explain(configuration: Configuration) -> str:
    """Say what each listener means, in Envoy and here, with the same in Python."""
    count = len(configuration)
    name = configuration.source or "The configuration"
    parts = [f"{name}: {count} {'listener' if count == 1 else 'listeners'}."]
    parts += [_item(f"Note: {warning}", "") for warning in configuration.warnings]
    parts += [_explain(listener) for listener in configuration]
    return "\n\n".join(parts) + "\n"


def _explain(listener: Listener) -> str:
    sections = [_heading(listener)]
    told = [
        ("Envoy, as long as it had the balancer (contrib builds from 1.23 on)", _in_envoy),
        ("Envoy today (the balancer was disabled in 1.35 to 1.38 in June 2026, removed in September)", _today),
        ("pydlb", _here),
    ]
    if not isinstance(listener.balance, Dlb):
        told = [("Envoy", _in_envoy), ("pydlb", _here)]
    for title, tell in told:
        sections.append("\n".join([f"  {title}:", *(_item(text) for text in tell(listener))]))
    source = program([listener], f"{listener.label.capitalize()}, balanced by pydlb.")
    sections.append("  The same in Python:\n\n" + textwrap.indent(source.rstrip(), "      "))
    return "\n\n".join(sections)


def _item(text: str, bullet: str = "    - ") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _heading(listener: Listener) -> str:
    origin = listener.origin
    where = ", ".join(map(str, listener.addresses))
    match = f", for {origin.match}" if origin.match else ""
    name = f"Listener {listener.name!r}" if listener.name else "A listener"
    if origin.kind == "EnvoyFilter":
        name = f"A patch of {listener.name!r}" if listener.name else "A patch"
    place = f"line {origin.line}" + (f", {origin.path}" if origin.path else "")
    heading = f"{name} ({place}){match}" + (f", on {where}" if where else "")
    return "\n".join([heading, *(_item(text, "  ") for text in _says(listener))])


def _says(listener: Listener) -> Iterator[str]:
    balance = listener.balance
    if isinstance(balance, Dlb):
        yield (
            f"asks for Envoy's DLB balancer: id {balance.id}, max_retries {balance.max_retries}, "
            f"fallback_policy {balance.fallback_policy}."
        )
    elif isinstance(balance, ExactBalance):
        yield "asks for Envoy's exact_balance."
    elif balance.instead_of:
        yield f"asks for Envoy's {balance.instead_of}."
    else:
        yield "has no connection_balance_config."


# ---- Envoy -----------------------------------------------------------------------------------------------------------


def _in_envoy(listener: Listener) -> Iterator[str]:
    balance = listener.balance
    if isinstance(balance, Dlb):
        yield from _dlb_in_envoy(listener, balance)
    elif isinstance(balance, ExactBalance):
        yield (
            "gives each connection to the worker with the fewest open connections of this listener's address, under "
            "one lock; of several with as few, to the one that was there first."
        )
    elif balance.instead_of:
        yield "prefers the worker on the processor that a connection arrived on."
    else:
        yield "leaves it to the kernel, which deals connections out to the workers' sockets by a hash of the addresses."


def _dlb_in_envoy(listener: Listener, balance: Dlb) -> Iterator[str]:
    yield (
        f"took /dev/dlb{balance.id} if there was one, else the first of /dev/dlb0 to /dev/dlb63 with the warning "
        f'"dlb device {balance.id} is not found, use dlb device B instead". It did not look whether that one could be '
        "opened or had anything left."
    )
    yield (
        "had at most 32 workers, two load-balanced ports for each, and took all credits of the device, so that nobody "
        "else could use it: not even the second address of a listener, or a second listener."
    )
    if listener.origin.match is not None and listener.origin.match.startswith("every"):
        yield f"did so for {listener.origin.match}: where there was more than one, the second could not be set up."
    yield {
        FallbackPolicy.NONE: 'refused the listener if any of this failed, as with "no available dlb hardware".',
        FallbackPolicy.NOP: "went on without any balance if any of this failed, with a warning.",
        FallbackPolicy.EXACT: "went on with exact_balance if any of this failed, with a warning.",
    }[balance.fallback_policy]
    yield (
        "let the worker that accepted a connection send it through the device to whichever worker's queue of 8 had "
        "room. The device forgot a connection as soon as a worker had it, so long-lived ones were not levelled."
    )
    times = "once" if balance.max_retries == 1 else f"{balance.max_retries} times"
    yield (
        f"tried again {times} at once when the device did not take a connection, then lost it: its client hung."
        if balance.max_retries
        else "lost a connection that the device did not take at once: its client hung."
    )


def _today(_: Listener) -> Iterator[str]:
    yield f"rejects the configuration: could not find @type 'type.googleapis.com/{DLB_TYPE}'."
    yield "has exact_balance; `pydlb envoy migrate` writes that."


# ---- pydlb -----------------------------------------------------------------------------------------------------------


def _here(listener: Listener) -> Iterator[str]:
    balance = listener.balance
    if isinstance(balance, Dlb):
        yield from _dlb_here(balance)
    elif isinstance(balance, ExactBalance):
        yield (
            'has policy="exact": the worker with the fewest open connections of all listeners; of several with as few, '
            "each in turn. Exact(tie='first', per_listener=True), which parity=True chooses, does it in Envoy's order."
        )
    else:
        yield 'has policy="nop": a connection goes to the worker that comes for it first.'
    yield from _fields(listener)


def _dlb_here(balance: Dlb) -> Iterator[str]:
    yield "takes the same device, and goes on to the next one where that cannot be used. " + _this_machine(balance.id)
    yield (
        "gives each connection to the worker with the fewest open among those that are not busy; takes only what it "
        "needs of the device; sends from a directed port, so that more than 32 workers find room. Any number of "
        "listeners may share a balancer."
    )
    yield {
        FallbackPolicy.NONE: "refuses too where no device can be used, unless you say backend='software', which has "
        "the same balancer without hardware.",
        FallbackPolicy.NOP: 'goes on with policy="nop" in software where no device can be used, with a warning.',
        FallbackPolicy.EXACT: 'goes on with policy="exact" in software where no device can be used, with a warning.',
    }[balance.fallback_policy]
    yield "does not end with a device that fails later, as Envoy's did: " + (
        "connections wait in the backlog until it can be used again."
        if balance.fallback_policy is FallbackPolicy.NONE
        else "it goes on in the same way, loses nothing, and goes back to the device once it can be used again."
    )
    yield (
        "does not lose what the device does not take at once: it waits in the backlog or goes to another worker. So "
        "max_retries has nothing to do, by default."
    )
    yield (
        "has Envoy's way too, with parity=True: each worker accepts, sends through a port of its own, has a queue of "
        "8, receives up to 32 at a time and releases them at once. max_retries is then "
        f"{balance.max_retries}, and what is not taken after so many stays with the worker that accepted it."
    )


def _this_machine(preferred: int) -> str:
    found = find_device(preferred)
    if found is None:
        return "This machine has none."
    return f"On this machine that is /dev/dlb{found}."


def _fields(listener: Listener) -> Iterator[str]:
    carried = {
        "tcp_backlog_size": listener.backlog,
        "max_connections_to_accept_per_socket_event": listener.batch,
        "enable_reuse_port": listener.reuse_port,
    }
    said = [f"{name} {str(value).lower()}" for name, value in carried.items() if value is not None]
    if said:
        yield f"takes over {', '.join(said)}."
    if not listener.bind_to_port:
        yield (
            "does not listen either: bind_to_port is false. Envoy hands such a listener connections from others; pydlb "
            "does not."
        )
    if listener.not_carried:
        yield f"does nothing with {', '.join(listener.not_carried)}: those are Envoy's work on a connection."
