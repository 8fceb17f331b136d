"""What is wrong, or only strange, in a configuration of Envoy's."""

from __future__ import annotations

from typing import Final

from pydlb.errors import ConfigError

__all__ = ["EnvoyConfigError", "EnvoyWarning"]


class EnvoyConfigError(ConfigError):
    """A configuration that Envoy would not take, or that is none.

    Attributes:
        source: The file's name; None for text.
        line: Where, from 1; None where it concerns all of it.
        path: The field, such as ``"static_resources.listeners[0].connection_balance_config"``; empty for the whole.
        reason: What is wrong with it.
    """

    def __init__(self, reason: str, *, source: str | None = None, line: int | None = None, path: str = "") -> None:
        where = [source] if source else []
        if line is not None:
            where.append(str(line) if source else f"line {line}")
        prefix = ":".join(where)
        super().__init__(": ".join(part for part in (prefix, path, reason) if part))
        self.source: Final = source
        self.line: Final = line
        self.path: Final = path
        self.reason: Final = reason


class EnvoyWarning(UserWarning):
    """A configuration that is understood, but not one that Envoy's last DLB balancer would have taken as it is."""
