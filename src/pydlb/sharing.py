"""One scheduling domain in several processes."""

from __future__ import annotations

import itertools
import os
import select
import threading
import weakref
from multiprocessing.reduction import DupFd
from typing import Any, Final, Self

from . import _native
from .device import Device, Domain
from .device import open as open_device
from .errors import ConfigError
from .port import DirPort, LDBPort, Port

__all__ = ["SharedPort", "Sharing"]

# Numbers of those who join, over all domains of this process: none is ever given twice.
_members = itertools.count()


class SharedPort:
    """A port of a shared domain, on its way to the process that is to use it.

    Pass it to a :class:`multiprocessing.Process`, however that is started, and call :meth:`open` there. The process
    that created the domain keeps the port object, configures it, and closes it when the user is gone::

        with pydlb.open("software") as device, device.create_domain(shared=True) as domain, pydlb.Sharing(domain):
            port = domain.create_ldb_port()
            process = context.Process(target=work, args=(pydlb.SharedPort(port),))

        def work(shared):
            with shared.open() as port:
                event = port.recv_one()

    Args:
        port: A port of a domain that was created with ``shared=True``, by this process.

    Raises:
        ConfigError: Its domain is not shared, or was joined.

    **Resource handling**: where it arrives, it holds descriptors until :meth:`open` or :meth:`close`. In the process
    that makes it, it holds one of the driver's, if the domain is on a device, until :meth:`close`, :meth:`bury`, or
    until nobody has it any more: a device's domain lives as long as any process has such a descriptor, so close it once
    the other process has started.
    """

    def __init__(self, port: Port) -> None:
        domain = port.domain._native
        if not isinstance(domain, _native.Domain):
            raise ConfigError(f"{port!r} is of a backend whose domains cannot be shared")
        self._domain: _native.Domain | None = domain
        memory, bell, driver = domain.share()
        doorbell = port.fileno()
        # Children that are forked close the domain's own descriptor.
        self._driver = -1 if driver < 0 else os.dup(driver)
        self._let_go = weakref.finalize(self, os.close, self._driver) if driver >= 0 else None
        self._descriptors: tuple[int, ...] = (memory, bell, self._driver, doorbell)
        self._backend = port.domain.device.backend
        self._id = port.id
        self._directed = isinstance(port, DirPort)
        self._cq_depth = port.cq_depth
        self._releases_on_recv = port.releases_on_recv
        self._owned = False
        self.member: Final = next(_members)
        """What the one who joins with it is called in the domain's memory."""

    def __getstate__(self) -> dict[str, Any]:
        """For multiprocessing, which carries descriptors along."""
        carried = tuple(None if descriptor < 0 else DupFd(descriptor) for descriptor in self._descriptors)
        return {**self.__dict__, "_domain": None, "_let_go": None, "_descriptors": carried}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In the process where it arrives."""
        self.__dict__.update(state)
        self._descriptors = tuple(-1 if carried is None else carried.detach() for carried in state["_descriptors"])
        self._owned = True

    def open(self) -> Port:
        """Join the domain, and use the port. Once, in one other process.

        Returns:
            The port. Closing its domain's device lets go of everything; so does closing the port, but for memory.

        Raises:
            ConfigError: What arrived is no shared domain, or the port is closed.
        """
        memory, bell, driver, doorbell = self._descriptors
        device = self._open_device(memory)
        try:
            handle = device._native
            assert isinstance(handle, _native.Device)
            joined = handle.join_domain(memory, bell, driver, self.member)
            domain = Domain(device, joined)
            device._adopt(domain)
            native = joined.join_port(self._id, self._directed, doorbell)
        except BaseException:
            device.close()
            raise
        finally:
            self.close()
        kind = DirPort if self._directed else LDBPort
        port = kind(domain, native, joined, self._cq_depth, releases_on_recv=self._releases_on_recv)
        domain._adopt(port)
        return port

    def _open_device(self, memory: int) -> Device:
        """That of a device needs not be opened, which this process might not be allowed."""
        if self._backend == "software":
            return open_device("software", limits="large")
        return Device(_native.join_device(memory), self._backend, None)

    def bury(self) -> int:
        """Say that the process that has opened it is dead, killed perhaps in the middle of a call.

        What it was doing with the domain is finished or undone, and what it had locked is free. The port is given
        nothing any more; closing it releases what it held.

        A process that waits for the dead one has the domain's clock (:class:`Sharing`, a balancer) find that out within
        some 10 ms; whoever knows sooner, because the process was its child, says so here.

        On a device, the port is free for another process: what the dead one held is released, and what the device had
        put before it goes back into its queue. It is left disabled, for :meth:`LDBPort.enable`.

        Returns:
            How many events the process had taken and not yet been given by ``recv``: these are gone, as are those
            that it held. What it was sending is in its queue, or is not. On a device 0: what was taken is given.

        Raises:
            ConfigError: This is not the process that created the domain.
            ClosedError: The domain is closed.
            DeviceError: The process was killed while it told the device of something, and the device does not say
                whether that came, as a virtual function may not: the port is given up.

        **Synchronization**: any thread; others may use the domain meanwhile.
        """
        if self._domain is None:
            raise ConfigError("only the process that created the domain can bury those that joined it")
        self.close()
        return self._domain.bury(self.member)

    def close(self) -> None:
        """Let go of the descriptors that it holds. May be called twice."""
        if self._let_go is not None:
            self._let_go()
        if self._owned:
            self._owned = False
            for descriptor in self._descriptors:
                if descriptor >= 0:
                    os.close(descriptor)


class Sharing:
    """Keeps a shared domain's time in a thread, and wakes ports on behalf of those who cannot.

    A balancer's acceptor does that for its own domain; any other shared domain needs one of these while it is used. One
    on a device does not: the device keeps the time, and wakes whom it gives something.

    Args:
        domain: A domain created with ``shared=True``, by this process.

    Raises:
        ConfigError: The domain is not shared.

    **Resource handling**: a context manager; leaving it ends the thread.
    """

    def __init__(self, domain: Domain) -> None:
        native = domain._native
        if not isinstance(native, _native.Domain):
            raise ConfigError(f"{domain!r} is of a backend whose domains cannot be shared")
        self._domain = native
        self._bell = native.share()[1]
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="pydlb-sharing", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = _poll(*(descriptor for descriptor in (self._bell, self._reader) if descriptor >= 0))
        while True:
            next_call = self._domain.tick()
            ready = poll.poll(None if next_call is None else 1000 * next_call)
            if any(descriptor == self._reader for descriptor, _ in ready):
                return

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._writer >= 0:
            os.write(self._writer, b".")
            self._thread.join()
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _poll(*descriptors: int) -> select.poll:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return poll
