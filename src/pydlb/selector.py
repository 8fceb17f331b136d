"""The selector of a worker's event loop: it knows when the loop sleeps, and what comes first."""

from __future__ import annotations

import contextlib
import selectors
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from . import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import FileDescriptorLike

    from .port import Port

__all__ = ["WorkerSelector"]

# How many turns a busy loop may go on with what it has before it takes new connections. In so many the one that was
# taken last has had its first request read, and its handler run.
_TURNS: Final = 5

# How many turns a busy loop may go on before the kernel is asked what else is ready.
_UNASKED_TURNS: Final = 3

# A loop that did not come back for so long is slow for a while: while it has connections, it offers itself for new ones
# only after a quiet moment. All in seconds.
_SLOW_TURN: Final = 0.040
_SLOW_FOR: Final = 0.3
_QUIET: Final = 0.002


class WorkerSelector(selectors.BaseSelector):
    """Tells the port when its loop goes to sleep, and when it is back.

    So the balancer knows which workers are idle, and need not find out by waiting for one that is not. A connection
    that still waits can go to anybody, one that was taken cannot: therefore a loop that has other things to do does
    those first, and one whose handlers have been slow, and that may have to call them again in a moment, waits for
    that moment before it offers itself.

    The interpreter lock is given up to sleep, or because another worker's turn has come, and then only. The kernel is
    asked no more often than has a use: a client that has just connected has most often sent its request, so a new
    connection is read from before it is watched, and need not be watched at all if it is answered and closed.

    Attributes:
        more: The port may have more, and is not armed: look there before going to sleep.
        busy: Seconds that the loop has been at work, as long as nobody sets it back.
    """

    def __init__(self, port: Port, has_connections: Callable[[], bool], descriptor: int | None = None) -> None:
        self.more = False
        self.busy = 0.0
        self._poller = _native.Poller(port._native)
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._map = cast("Mapping[FileDescriptorLike, selectors.SelectorKey]", MappingProxyType(self._keys))
        self._descriptor = port.fileno() if descriptor is None else descriptor
        self._has_connections = has_connections
        # Descriptors that will be registered in the next turn, that are in this one, that have been taken for readable
        # without being asked, and that have been since.
        self._coming: set[int] = set()
        self._expected: set[int] = set()
        self._fresh: set[int] = set()
        self._unwatched: set[int] = set()
        self._turns = 0
        self._unasked = 0
        self._returned = time.monotonic()
        self._slow_until = 0.0

    def move(self, port: Port) -> None:
        """Tell another port from now on. For who gave a descriptor that stays."""
        self._poller.set_port(port._native)

    # ---- what is waited for ----------------------------------------------------------------------------------------

    def expect(self, descriptor: int) -> None:
        """Take a descriptor for readable when it is registered in the loop's next turn. Its owner must not mind."""
        self._coming.add(descriptor)

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        """Wait for a descriptor, or an object that has one."""
        descriptor = fileobj if type(fileobj) is int and fileobj >= 0 else _descriptor(fileobj)
        if descriptor in self._keys:
            raise KeyError(f"{fileobj!r} (descriptor {descriptor}) is already registered")
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        if descriptor in self._expected:
            self._fresh.add(descriptor)
        else:
            self._poller.add(descriptor, events)
        self._keys[descriptor] = key
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        """Wait for other events, or remember other data."""
        key = self.get_key(fileobj)
        if events != key.events and key.fd not in self._fresh and key.fd not in self._unwatched:
            self._poller.change(key.fd, events)
        key = self._keys[key.fd] = key._replace(events=events, data=data)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """Wait for it no more."""
        key = self._keys.pop(fileobj, None) if type(fileobj) is int else None
        if key is None:
            key = self._keys.pop(self.get_key(fileobj).fd)
        if key.fd in self._fresh:
            self._fresh.remove(key.fd)
        elif key.fd in self._unwatched:
            self._unwatched.remove(key.fd)
        else:
            with contextlib.suppress(OSError):  # it was closed, and left the set by that
                self._poller.remove(key.fd)
        return key

    def has(self, descriptor: int) -> bool:
        """Whether it is waited for."""
        return descriptor in self._keys

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """What is waited for on a descriptor."""
        try:
            return self._keys[fileobj if isinstance(fileobj, int) else _descriptor(fileobj)]
        except (KeyError, ValueError):
            raise KeyError(f"{fileobj!r} is not registered") from None

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """All that is waited for, by descriptor; it changes with the selector."""
        return self._map

    def close(self) -> None:
        """Wait for nothing more."""
        self._keys.clear()
        for descriptors in (self._coming, self._expected, self._fresh, self._unwatched):
            descriptors.clear()
        self._poller.close()

    # ---- waiting ---------------------------------------------------------------------------------------------------

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready within `timeout` seconds, None for no end."""
        now = time.monotonic()
        self.busy += now - self._returned
        if now - self._returned > _SLOW_TURN:
            self._slow_until = now + _SLOW_FOR
        if self._coming or self._expected:
            self._expected, self._coming = self._coming, set()
        idle = (timeout is None or timeout > 0) and not self._fresh
        if self._fresh:
            ready = self._take_fresh()
        elif not idle and self._unasked < _UNASKED_TURNS:
            self._unasked += 1
            ready = []
        else:
            self._watch()
            ready = self._sleep(timeout, slow=now < self._slow_until) if idle else self._poll(0)
        self._returned = time.monotonic()
        return self._in_order(ready, idle=idle)

    @property
    def slow(self) -> bool:
        """Whether the loop has been slow of late."""
        return self._returned < self._slow_until

    def _take_fresh(self) -> list[tuple[selectors.SelectorKey, int]]:
        ready = [(self._keys[descriptor], selectors.EVENT_READ) for descriptor in self._fresh]
        self._unwatched |= self._fresh
        self._fresh.clear()
        return ready

    def _watch(self) -> None:
        """Have the kernel watch those that are still here."""
        for descriptor in self._unwatched:
            self._poller.add(descriptor, self._keys[descriptor].events)
        self._unwatched.clear()

    def _poll(self, timeout: float | None, *, offer: bool = False) -> list[tuple[selectors.SelectorKey, int]]:
        self._unasked = 0
        return self._poller.poll(timeout, self._keys, offer)

    def _sleep(self, timeout: float | None, *, slow: bool) -> list[tuple[selectors.SelectorKey, int]]:
        if slow and self._has_connections():
            quiet = _QUIET if timeout is None else min(timeout, _QUIET)
            ready = self._poll(quiet)
            if ready or quiet == timeout:
                return ready
            timeout = None if timeout is None else timeout - quiet
        return self._poll(0) if self.more else self._poll(timeout, offer=self._descriptor in self._keys)

    def _in_order(
        self, ready: list[tuple[selectors.SelectorKey, int]], *, idle: bool
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Look for new connections last, and every so many turns: when there is nothing else to do, or at all.

        A port that tells is not chosen while it is awake, so the loop that never sleeps has to look by itself.
        """
        port = self._keys.get(self._descriptor)
        if port is None:  # the loop is about to end
            return ready
        others = [entry for entry in ready if entry[0] is not port]
        if others or not idle:
            self._turns += 1
            if self._turns <= _TURNS:
                self.more |= len(others) < len(ready)
                return others
        elif not ready and not self.more:
            return ready
        self._turns = 0
        self.more = False
        return [*others, (port, selectors.EVENT_READ)]


def _descriptor(fileobj: FileDescriptorLike) -> int:
    descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    if descriptor < 0:
        raise ValueError(f"{fileobj!r} has no descriptor: it is closed")
    return descriptor
