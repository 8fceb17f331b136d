"""What a worker process is told when it starts."""

from __future__ import annotations

import dataclasses
import os
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pydlb.balancer import Runner
    from pydlb.sharing import SharedPort
    from pydlb.workers import Worker

__all__ = ["Assignment", "Descriptor"]


class Descriptor:
    """A descriptor on its way to another process, by whatever method that is started."""

    def __init__(self, number: int) -> None:
        self.number: Final = number

    def __getstate__(self) -> Any:  # noqa: ANN401 - what multiprocessing carries
        """For multiprocessing."""
        return DupFd(self.number)

    def __setstate__(self, carried: Any) -> None:  # noqa: ANN401
        """In the process where it arrives."""
        self.__init__(carried.detach())  # type: ignore[misc]

    def close(self) -> None:
        """Let go of it where it arrived."""
        os.close(self.number)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker process is told when it starts.

    Attributes:
        name: The worker's name.
        port: Its port of the domain.
        history: How many connections that can hold, as of :class:`pydlb.workers.Station`.
        board: The board on which it counts.
        bell: By which it calls the balancer.
        seat: Its seat on the board.
        shelf: Where connections lie that it was picked for.
        blocking: Whether accepted sockets are blocking.
        make_runner: Makes what runs the worker.
        channel: To the process with the balancer.
        parent: That process's number.
        inherited: What a fork brought along, and is to be closed: descriptors, and inodes of listening sockets.
    """

    name: str
    port: SharedPort
    history: int | None
    board: Descriptor
    bell: Descriptor
    seat: int
    shelf: Descriptor
    blocking: bool
    make_runner: Callable[[Worker], Runner]
    channel: socket.socket
    parent: int
    inherited: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
