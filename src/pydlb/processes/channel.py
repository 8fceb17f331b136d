"""Messages between a process and one that it started, over a pair of connected sockets."""

from __future__ import annotations

import json
import socket
from typing import Any, Final, Self, TypeAlias

__all__ = ["Channel", "Message"]

Message: TypeAlias = dict[str, Any]

_MOST_BYTES: Final = 1 << 17
_MOST_SOCKETS: Final = 64


class Channel:
    """One end. A message is a dictionary that JSON can express; listening sockets may come with it.

    **Synchronization**: one thread sends and one receives at a time.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @property
    def end(self) -> socket.socket:
        """The socket, to be passed to another process."""
        return self._sock

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Two ends that are connected with each other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """The end's descriptor."""
        return self._sock.fileno()

    def send(self, message: Message, sockets: list[socket.socket] | None = None) -> bool:
        """Send a message, and copies of sockets with it. False if the other end is gone."""
        data = json.dumps(message).encode()
        try:
            socket.send_fds(self._sock, [data], [sock.fileno() for sock in sockets or []])
        except OSError:
            return False
        return True

    def receive(self, timeout: float | None = None) -> tuple[Message, list[socket.socket]] | None:
        """Wait for a message.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            The message and the sockets that came with it; None at the end of the channel.

        Raises:
            TimeoutError: None came in time.
        """
        self._sock.settimeout(timeout)
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _MOST_BYTES, _MOST_SOCKETS)
        except TimeoutError:
            raise
        except OSError:
            return None
        return (json.loads(data), [socket.socket(fileno=one) for one in descriptors]) if data else None

    def close(self) -> None:
        """Close this end. May be called twice."""
        self._sock.close()
