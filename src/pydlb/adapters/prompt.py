"""Connections whose first request is answered before their event loop knows of them.

Most clients send their request as soon as they are connected, so it is there when the connection is accepted; and many
ask only once. Such a connection is read, answered and closed here, by one system call each. An event loop would make a
transport, register it with the kernel, tell in the next turn that it was made, read in another, close it in a third.
What is not over when its first request has had its turn is the loop's from then on, as any other connection.

Where its adapter lets connections rest, it is the loop's only when it needs more than to be told of bytes: at the
client's end, when its socket takes no more, when it is to be paused, for another protocol. Until then it rests in an
epoll set, which the loop watches as one descriptor for all of them, and what its client sends is read here.
"""

from __future__ import annotations

import functools
import os
import socket
from asyncio import BufferedProtocol, sleep
from asyncio.trsock import TransportSocket
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

from pydlb import _native
from pydlb._native import own_address, peer_address

from .descriptors import WITH_PORTS, connect_descriptor
from .gathering import GatheringTransport
from .protocols import Link

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from typing import Concatenate, ParamSpec, TypeVar

    _Self = TypeVar("_Self")
    _Arguments = ParamSpec("_Arguments")
    _Result = TypeVar("_Result")

__all__ = ["Beginnings", "can_begin"]

# What uvloop has, until somebody asks for others; and the most that it takes.
_WATER: Final = (2**14, 2**16)
_MOST_WATER: Final = 2**31 - 1


class Beginnings(_native.Beginnings):
    """The connections of one adapter that its event loop does not know of yet.

    Args:
        adapter: Their links are its, and it serves those of which nothing is there to begin with, by its `_submit`.
        loop: For which `takes_descriptors` is true.
        make: Makes the protocol for a link: one for a stream of bytes that are given to it.
        move: Gives a protocol the loop's transport, once there is one, in place of the one that it has here, of
            whose end the socket tells the link. None where protocols go on with the transport that they have.

    **Synchronization**: the loop only.
    """

    __slots__ = ()

    def pass_on(self, link: Link, descriptor: int, family: int) -> None:
        """Serve a connection of which nothing is there to begin with.

        Args:
            link: It has the transport from now on, and is told when the connection has ended.
            descriptor: A socket that does not block; owned from now on, also if this fails.
            family: Of its addresses.

        Raises:
            Exception: What `make` raised.
        """
        transport: Any = self.transport(link, descriptor, family)
        transport.pass_on()


def can_begin(link: Link, family: int) -> bool:
    """Whether a connection can be answered without its loop: it has an address with a port, its own."""
    return link.proxied is None and family in WITH_PORTS


def _limits(high: int | None, low: int | None) -> tuple[int, int]:
    """When a protocol is to pause writing, and to resume, as asyncio takes what it is asked for.

    Raises:
        ValueError: It would resume before it paused, or never.
    """
    if high is None:
        high = _WATER[1] if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return min(high, _MOST_WATER), min(low, _MOST_WATER)


if TYPE_CHECKING:

    class _Base(GatheringTransport):
        """What transports are made of: what is done for each connection that is answered at once is native."""

        _beginnings: Beginnings
        _closes_quickly: bool
        _entrance: _Entrance | None
        _descriptor: int
        _error: Exception | None
        _family: int
        _link: Link
        _opened: bool  # the protocol knows that it is connected
        _protocol: Any
        _set: int  # in which it rests; -1 if it does not

        def write_first(self, data: bytes | bytearray | memoryview) -> None:
            """Send it, or keep it for a moment."""

        def flush_first(self) -> None:
            """Send what is kept."""

        def close_first(self) -> None:
            """Close it once everything is sent."""

        def abort_first(self) -> None:
            """Close it now."""

        def extra_info_first(self, name: str, default: Any = None) -> Any:
            """Nothing is encrypted; for all else `other_info` is asked."""

        def send_now(self, data: bytes | bytearray | memoryview) -> int:
            """Send what can be sent now; how many bytes."""

        def known_peer(self) -> Any:
            """Whose it was when it was closed; None if nobody knows."""

        def known_own(self) -> Any:
            """Its own address when it was closed; None if nobody knows."""

        def lose_closed(self) -> None:
            """Tell the protocol of the end, and the link."""

        def stop_resting(self) -> None:
            """Wait no more for what its client sends, if it does."""

        def is_closing_first(self) -> bool:
            """It is not."""

        def yes(self) -> bool:
            """True."""

else:
    _Base = _native.prompt_type(GatheringTransport)


def _as_it_is(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """A method that leads on to what has its name now, if it was taken while the connection was something else.

    Who keeps a method, as a callback say, keeps that of a class which the connection has no more when it is called.
    """
    name = method.__name__

    @functools.wraps(method)
    def called(self: _Self, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        present: Callable[Concatenate[_Self, _Arguments], _Result] = getattr(type(self), name)
        return (method if present is called else present)(self, *arguments, **options)

    return called


class _Transport(_Base):
    """What a protocol sees of its connection: a descriptor at first, then the loop's transport.

    It changes its class with what it is, so that no call has to ask: a `_Prompt` becomes `_Closed`, or `_PassedOn` and
    then this; or at last `_Left`, where its protocol is moved to the loop's transport.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_entrance",
        "_eof",
        "_full",
        "_later",
        "_reads",
        "_silent",
        "_waiting",
        "_water",
    )

    @_as_it_is
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        if self._protocol is not None:  # else it has ended
            self._protocol = protocol
            self._lead_to(protocol)

    @_as_it_is
    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is given what comes."""
        return self._protocol  # type: ignore[no-any-return]

    def end_first_turn(self) -> None:
        """It is the loop's already."""

    def flush(self) -> None:
        """Send what is kept."""
        self._send_held()

    def socket(self) -> Any:
        """What can be asked about the socket."""
        return self._transport.get_extra_info("socket")

    def fileno(self) -> int:
        """Its descriptor."""
        return self.socket().fileno()  # type: ignore[no-any-return]

    async def become_the_loops(self, *, reading: bool = True) -> Any:
        """Wait until the protocol has the loop's transport, unless it was replaced by one that does not move to that.

        Args:
            reading: What comes is for the protocol. Else the transport is paused.

        Returns:
            What the protocol has then: the loop's transport, or this one.

        Raises:
            ConnectionResetError: The connection has ended.
        """
        self.pass_on()
        if not reading:
            self.pause_reading()
            self._keep_silent()
        while type(self) is not _Left:
            if type(self) is _Closed or self._protocol is None:
                raise ConnectionResetError("Connection lost")
            if self._entrance is not None:
                return self
            await sleep(0)
        return self._transport

    def _keep_silent(self) -> None:
        """Have the kernel tell of nothing until the loop's transport is paused: it begins to read before it can be."""
        if self._descriptor < 0:
            return
        own = socket.socket(fileno=self._descriptor)
        try:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _MOST_WATER)
        finally:
            own.detach()
        self._silent = True

    def pass_on(self, *later: Callable[[Any], object]) -> None:
        """It is the loop's already."""

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        self._reads = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._reads = True
        self._transport.resume_reading()

    def lose(self, error: Exception | None) -> None:
        """The connection has ended. May be called twice."""
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        self._entrance = None
        try:
            if self._opened:
                protocol.connection_lost(error)
        except Exception as failure:
            self._report(failure, protocol)
        finally:
            self._link.ended()

    def _stay_paused(self) -> None:
        if not self._reads and not self._transport.is_closing():
            self._transport.pause_reading()
            if self._silent:
                own = self._transport.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if self._entrance is None and self._protocol is not None:
            self._leave()

    def _lead_to(self, protocol: Any) -> None:
        """Have the loop give what comes to a protocol, and tell the end here."""
        kind = _BufferedEntrance if isinstance(protocol, BufferedProtocol) else _Entrance
        if type(self._entrance) is not kind:
            self._entrance = kind(self)
        self._entrance.lead_to(protocol)
        self._transport.set_protocol(self._entrance)

    def _leave(self) -> None:
        """The protocol has the loop's transport from now on."""
        self._send_held()
        protocol, self._protocol = self._protocol, None
        self.__class__ = _Left
        self._beginnings.move(protocol, self._transport)  # type: ignore[misc]

    def _report(self, error: Exception, protocol: Any) -> None:
        context = {"message": "a protocol failed", "exception": error, "transport": self, "protocol": protocol}
        self._beginnings.loop.call_exception_handler(context)


class _Prompt(_Transport):
    """One of which the loop does not know.

    Its ordinary calls are native: here are their other ends.
    """

    __slots__ = ()

    write = _Base.write_first
    flush = _Base.flush_first
    close = _Base.close_first
    abort = _Base.abort_first
    is_closing = _Base.is_closing_first
    get_extra_info = _Base.extra_info_first

    @_as_it_is
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        self._protocol = protocol
        if self._set >= 0:
            self.pass_on()

    def failed(self, error: Exception) -> None:
        """Its protocol did not begin."""
        self._report(error, self._protocol)
        self._error = error
        self.abort()

    def end_first_turn(self) -> None:
        """It goes on."""
        self.flush()
        if type(self) is _Prompt:
            self.pass_on()
        else:
            self.end_first_turn()

    def pass_on(self, *later: Callable[[Any], object]) -> None:
        """Let the loop have it, and tell its transport something as soon as there is one."""
        self.stop_resting()
        held, self._held = self._held, None
        self._due = False
        self._later: list[Callable[[Any], object]] = [] if held is None else [methodcaller("write", held)]
        self._later += later
        self._call_soon = self._beginnings.loop.call_soon
        self._entrance = None
        self._reads, self._closing, self._eof, self._silent = True, False, False, False
        self._waiting, self._full = 0, False
        self._water = _WATER
        self.__class__ = _PassedOn
        make: Callable[[], Any] = lambda: _Entrance(self)  # noqa: E731
        ended = None if self._beginnings.move is None else self._link.ended
        try:
            self._link.connecting = connect_descriptor(
                self._beginnings.loop, make, self._descriptor, self._family, read=self._opened, ended=ended
            )
        except Exception as error:
            self._link.failed = True
            self._error = error
            self._descriptor = -1
            self.__class__ = _Closed
            self._call_soon(self.end_first_turn)

    # ---- as a transport --------------------------------------------------------------------------------------------

    def write_large(self, data: bytes | bytearray | memoryview) -> None:
        """Send what was kept, and this."""
        self.flush()
        if type(self) is not _Prompt:
            self.write(data)
            return
        try:
            sent = self.send_now(data)
        except OSError as error:
            self._error = error
            self.abort()
        else:
            if sent < memoryview(data).nbytes:
                self.write_rest(data, sent)

    def write_rest(self, data: bytes | bytearray | memoryview, sent: int) -> None:
        """Let the loop send what could not be sent at once."""
        self.pass_on()
        self.write(bytes(data)[sent:])

    def socket(self) -> Any:
        """What can be asked about the socket."""
        return _Copy(fileno=os.dup(self._descriptor))

    def fileno(self) -> int:
        """Its descriptor."""
        return self._descriptor

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of it."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Send what was kept, and the end."""
        self.pass_on()
        self.write_eof()

    @_as_it_is
    def can_write_eof(self) -> bool:
        """It can."""
        return True

    @_as_it_is
    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return len(self._held or b"")

    def other_info(self, name: str, default: Any = None) -> Any:
        """What is asked more seldom."""
        if name == "peername":
            found = peer_address(self._descriptor)
        elif name == "sockname":
            found = own_address(self._descriptor)
        elif name == "socket" and not self.introducing:
            self._closes_quickly = False  # it may be told to linger
            return TransportSocket(_Socket(self))  # type: ignore[arg-type]
        else:
            return default
        if found is None:
            return default
        return found[:2] if self.introducing else found

    @_as_it_is
    def is_reading(self) -> bool:
        """It is about to."""
        return True

    @_as_it_is
    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        self.pass_on()
        self.pause_reading()

    @_as_it_is
    def resume_reading(self) -> None:
        """It reads."""

    @_as_it_is
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is to pause writing, and to resume."""
        limits = _limits(high, low)
        self.pass_on()
        self.set_write_buffer_limits(*limits)

    @_as_it_is
    def get_write_buffer_limits(self) -> tuple[int, int]:
        """When the protocol is to resume writing, and to pause."""
        return _WATER


class _PassedOn(_Prompt):
    """One that the loop makes a transport for: what that is to be told waits."""

    __slots__ = ()

    def flush(self) -> None:
        """Nothing is kept."""

    def end_first_turn(self) -> None:
        """It is the loop's already."""

    def pass_on(self, *later: Callable[[Any], object]) -> None:
        """It is the loop's already."""

    def adopt(self, transport: Any, entrance: _Entrance) -> None:
        """The loop has made its transport."""
        self._transport = transport
        self._descriptor = -1
        self.__class__ = _Transport  # type: ignore[assignment]
        if not self._opened:
            self._opened = True
            self._protocol.connection_made(self)
        if self._full:  # the loop's transport says so itself
            self._protocol.resume_writing()
        moves = hasattr(self._protocol, "is_the_loops")  # not so if a handler has set another one
        if moves:
            transport.set_protocol(self._protocol)
            self._protocol.is_the_loops(transport)
        else:
            self._link.read_little(transport)
            self._entrance = entrance
            self._lead_to(self._protocol)
        for tell in self._later:
            tell(transport)
        self._later.clear()
        if not self._reads:  # when connection_made returns, it begins to
            self._call_soon(self._stay_paused)
        elif moves:
            self._leave()

    # ---- as a transport --------------------------------------------------------------------------------------------

    @_as_it_is
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it later."""
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        copy = bytes(memoryview(data))
        self._later.append(methodcaller("write", copy))
        self._waiting += len(copy)
        if self._waiting > self._water[1] and not self._full:
            self._full = True
            self._protocol.pause_writing()

    @_as_it_is
    def write_eof(self) -> None:
        """Send the end later."""
        self._eof = True
        self._later.append(methodcaller("write_eof"))

    @_as_it_is
    def close(self) -> None:
        """Close it once everything is sent."""
        self._closing = True
        self._later.append(methodcaller("close"))

    @_as_it_is
    def abort(self) -> None:
        """Close it as soon as the loop has it."""
        self._closing = True
        self._later.append(methodcaller("abort"))

    @_as_it_is
    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return self._waiting

    @_as_it_is
    def is_closing(self) -> bool:
        """Whether it is about to be."""
        return self._closing

    @_as_it_is
    def is_reading(self) -> bool:
        """Whether it is about to."""
        return self._reads

    @_as_it_is
    def pause_reading(self) -> None:
        """Do not begin until `resume_reading`."""
        self._reads = False

    @_as_it_is
    def resume_reading(self) -> None:
        """Begin."""
        self._reads = True

    @_as_it_is
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is to pause writing, and to resume."""
        high, low = _limits(high, low)
        self._water = (low, high)
        self._later.append(methodcaller("set_write_buffer_limits", high, low))

    @_as_it_is
    def get_write_buffer_limits(self) -> tuple[int, int]:
        """When the protocol is to resume writing, and to pause."""
        return self._water

    @_as_it_is
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of its descriptor, which is the same."""
        return self.other_info(name, default)


class _Closed(_Prompt):
    """One that was closed before the loop knew of it."""

    __slots__ = ()

    end_first_turn = _Base.lose_closed
    is_closing = _Base.yes

    def flush(self) -> None:
        """Nothing is kept."""

    def pass_on(self, *later: Callable[[Any], object]) -> None:
        """There is nothing to pass on."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """It goes nowhere."""

    def write_eof(self) -> None:
        """It has ended."""

    def close(self) -> None:
        """It is closed."""

    def abort(self) -> None:
        """It is closed."""

    def socket(self) -> Any:
        """A closed one."""
        closed = socket.socket()
        closed.close()
        return closed

    def fileno(self) -> int:
        """It has none."""
        return -1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Who it was is known still."""
        if name == "peername":
            return self.known_peer() or default
        if name == "sockname":
            return self.known_own() or default
        return default

    def is_reading(self) -> bool:
        """It does not."""
        return False

    def pause_reading(self) -> None:
        """It does not read."""

    def resume_reading(self) -> None:
        """Nor will it."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is written."""


class _Left(_Transport):
    """One whose protocol has the loop's transport, for whoever has kept this one."""

    __slots__ = ()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it."""
        self._transport.write(data)

    def flush(self) -> None:
        """Nothing is kept."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is given what comes."""
        return self._transport.get_protocol()  # type: ignore[no-any-return]


class _Entrance:
    """What the loop takes for the protocol of a connection that was passed on: it leads to the protocol itself."""

    __slots__ = ("_transport", "data_received", "eof_received", "pause_writing", "resume_writing")

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def lead_to(self, protocol: Any) -> None:
        """Give what comes to a protocol, without a function between."""
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def connection_made(self, transport: Any) -> None:
        """The loop has made its transport."""
        self._transport.adopt(transport, self)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        self._transport.lose(error)


class _BufferedEntrance(_Entrance, BufferedProtocol):
    """One that leads to a protocol which has a buffer of its own."""

    __slots__ = ("buffer_updated", "get_buffer")

    def lead_to(self, protocol: Any) -> None:
        """Give what comes to a protocol, without a function between."""
        self.get_buffer = protocol.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = protocol.buffer_updated  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing


class _Socket:
    """What a `TransportSocket` asks: the connection's socket, as long as there is one.

    A copy that lives for the question alone: one that is kept would keep the client from seeing the end.
    """

    def __init__(self, transport: _Transport) -> None:
        self._transport = transport

    def fileno(self) -> int:
        return self._transport.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport.socket(), name)


class _Copy(socket.socket):
    """A socket for a moment: for whoever has a question to it."""

    def __del__(self) -> None:
        self.close()


_native.set_prompt_classes(_Prompt, _Closed, Link)
