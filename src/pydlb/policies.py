"""Which worker gets a connection."""

from __future__ import annotations

from typing import Final, Literal

from .errors import ConfigError

__all__ = ["POLICIES", "PolicyName", "check_policy"]

PolicyName = Literal["dlb"]

POLICIES: Final[dict[str, str]] = {
    "dlb": "through one load-balanced queue: to the worker with the fewest open connections among those not busy",
}
"""The policies by name, each with what it does."""


def check_policy(name: str) -> None:
    """Raise ConfigError unless there is such a policy."""
    if name not in POLICIES:
        raise ConfigError(f"policy is {name!r}: it is one of {', '.join(map(repr, POLICIES))}")
