"""A transport that sends the beginning of a response and what follows at once in one piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["GatheringTransport", "introduced"]

# More bytes than these are not copied to be sent with others.
SHORT: Final = 2**16


class GatheringTransport(asyncio.Transport):
    """A transport that keeps the first thing written in a turn of the loop until the next one, or the turn's end.

    uvicorn writes a response's header and its body one after the other. Each is a system call, a packet and a wake of
    the client, and together they cost a third of what a short request costs. What is written later in the same turn is
    sent at once, as nobody knows when an application that does not give way will come back.

    Args:
        transport: The loop's own.
        call_soon: The loop's.

    Attributes:
        introducing: Whether it owns to no socket just now: who then asks for an address is told the host and port that
            it knows. uvloop makes a socket object for each question to its socket, and asks the kernel again.
    """

    __slots__ = ("_call_soon", "_due", "_held", "_transport", "introducing")

    def __init__(self, transport: Any, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self._transport = transport
        self._call_soon = call_soon
        self._held: bytes | None = None
        self._due = False  # _end_turn will be called
        self.introducing = False

    # ---- writing ---------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it, or keep it for a moment."""
        held = self._held
        if held is not None:
            self._held = None
            if type(data) is bytes and len(data) < SHORT:
                self._transport.write(held + data)
                return
            self._transport.write(held)
        elif not self._due and type(data) is bytes and len(data) < SHORT:
            self._held = data
            self._due = True
            self._call_soon(self._end_turn)
            return
        self._transport.write(data)

    def _end_turn(self) -> None:
        self._due = False
        if self._held is not None:
            self._send_held()

    def _send_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._transport.write(held)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of it."""
        self._send_held()
        self._transport.writelines(list_of_data)

    def write_eof(self) -> None:
        """Send what was kept, and the end."""
        self._send_held()
        self._transport.write_eof()

    def close(self) -> None:
        """Close it once everything is sent."""
        if self._held is not None:
            self._send_held()
        self._transport.close()

    def abort(self) -> None:
        """Close it now."""
        self._held = None
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return int(self._transport.get_write_buffer_size()) + len(self._held or b"")

    # ---- all else is the transport's own ---------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As :meth:`asyncio.BaseTransport.get_extra_info`."""
        if not self.introducing:
            return self._transport.get_extra_info(name, default)
        if name == "socket":
            return None
        found = self._transport.get_extra_info(name, default)
        return found[:2] if isinstance(found, tuple) else found  # of IPv6, too, uvicorn takes host and port alone

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()  # type: ignore[no-any-return]

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is given what comes."""
        return self._transport.get_protocol()  # type: ignore[no-any-return]

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._transport.is_reading()  # type: ignore[no-any-return]

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is to pause writing, and to resume."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """When the protocol is to resume writing, and to pause."""
        return self._transport.get_write_buffer_limits()  # type: ignore[no-any-return]

    def can_write_eof(self) -> bool:
        """Whether the end can be sent alone."""
        return self._transport.can_write_eof()  # type: ignore[no-any-return]


def introduced(protocol_class: type[Any]) -> type[Any]:
    """A subclass of an HTTP protocol that asks its transport for the addresses, not the transport's socket."""

    class Introduced(protocol_class):  # type: ignore[misc]
        __slots__ = ()

        def connection_made(self, transport: Any) -> None:
            transport.introducing = True
            protocol_class.connection_made(self, transport)
            transport.introducing = False

    Introduced.__name__ = Introduced.__qualname__ = protocol_class.__name__
    return Introduced
