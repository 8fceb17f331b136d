"""What a worker works with: its ports, and where its connections come from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pydlb.port import DirPort, DirQueue, Port

__all__ = ["GONE", "NOBODY", "Accepting", "Door", "Source", "Station"]

# No queue.
NOBODY: Final = 0xFFFFFFFF

# As enum pdlb_refusal has them.
GONE: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Station:
    """What an engine has for one worker.

    Attributes:
        port: To receive from.
        queue: The directed queue that feeds the port; None for a load-balanced port.
        sender: The port to send by what the worker accepts itself; None where it does not accept.
        holds: Whether what the queue gives stands before the worker, and may have to be taken back.
        stays: Whether its port outlives the process that used it, and the next one has it: a device makes no others,
            and changes links only while nothing is out of the queue.
        history: How many connections the port can hold, where that is fewer than a worker may have open: when it is
            used up, the oldest is released on receive. None where it suffices.
    """

    port: Port
    queue: DirQueue | None = None
    history: int | None = None
    sender: DirPort | None = None
    holds: bool = False
    stays: bool = False

    def close(self) -> None:
        """Close its ports."""
        self.port.close()
        if self.sender is not None:
            self.sender.close()


class Source(Protocol):
    """Where a worker gets its connections: the acceptor, or in another process a receiver. An inlet takes them."""

    def worker_stats(self, worker: int) -> tuple[int, int, bool]:
        """Connections that it has, those of them that it did not take yet, and whether it stalls."""

    def remove_worker(self, worker: int) -> None:
        """It takes no more."""


class Door(Protocol):
    """Where a worker accepts by itself: the acceptor."""

    def door(self) -> int:
        """A descriptor that is readable while there may be something to accept."""


@dataclasses.dataclass(frozen=True, slots=True)
class Accepting:
    """How a worker accepts by itself, as Envoy's do.

    Attributes:
        door: Where.
        retries: How often what the engine has no credit for is sent again at once; then it stays.
    """

    door: Door
    retries: int = 0
