"""How many connections a balancer may have, and what becomes of those that are too many."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal, get_args

from .errors import ConfigError

__all__ = ["Limits", "WhenFull"]

WhenFull = Literal["pause", "reset", "reply", "overflow"]

# As enum pdlb_when_full has them.
_NUMBERS: Final = {"pause": 0, "reset": 1, "reply": 2, "overflow": 3}
_MOST: Final = 1 << 30
_LONGEST_REPLY: Final = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a balancer. Given to :class:`pydlb.Balancer` as ``limits``, and changed at any time by setting that.

    Attributes:
        total: Connections that may be waiting or open, in all; None for any number. Envoy's global limit on downstream
            connections.
        per_worker: Connections that may be waiting for or open on one worker. One that has so many is not picked: the
            next connections go to others, and when all have so many, as `when_full` says.
        resume: A limit that was reached holds until this part of it is left, more than 0 and at most 1.
        when_full: ``"pause"`` leaves connections in the kernel's backlog; ``"reset"`` accepts and resets them, as Envoy
            does; ``"reply"`` sends `reply` and closes them; ``"overflow"`` goes beyond `per_worker`, and counts it.
        reply: For ``"reply"``: bytes, such as a whole HTTP response; at most 65536.

    Raises:
        ConfigError: A value is out of range, or goes with no other.
    """

    total: int | None = None
    per_worker: int | None = None
    resume: float = 0.9
    when_full: WhenFull = "pause"
    reply: bytes = b""

    def __post_init__(self) -> None:
        """Check what was given."""
        for name in ("total", "per_worker"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST):
                raise ConfigError(f"{name} is {value!r}: it is a whole number from 1 to {_MOST}, or None for no limit")
        if not 0 < self.resume <= 1:
            raise ConfigError(f"resume is {self.resume!r}: it is a part of the limit, more than 0 and at most 1")
        if self.when_full not in _NUMBERS:
            names = ", ".join(map(repr, get_args(WhenFull)))
            raise ConfigError(f"when_full is {self.when_full!r}: it is one of {names}")
        if (self.when_full == "reply") != bool(self.reply) or not isinstance(self.reply, bytes):
            raise ConfigError("a reply, as bytes, goes with when_full='reply', and that with a reply")
        if len(self.reply) > _LONGEST_REPLY:
            raise ConfigError(f"reply has {len(self.reply)} bytes: it has at most {_LONGEST_REPLY}")
        if self.when_full == "overflow" and (self.total is not None or self.per_worker is None):
            raise ConfigError("when_full='overflow' goes beyond per_worker, which must be given, and total must not")

    def for_acceptor(self) -> tuple[int, int, int, int, int, bytes]:
        """The arguments of the acceptor's `set_limits`."""
        total, worker = self.total or 0, self.per_worker or 0
        return total, self._again(total), worker, self._again(worker), _NUMBERS[self.when_full], self.reply

    def _again(self, limit: int) -> int:
        """Full until no more than so many are left."""
        return max(0, min(limit - 1, int(limit * self.resume)))
