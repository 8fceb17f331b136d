"""Arguments that are whole numbers."""

from __future__ import annotations

from pydlb.errors import ConfigError

__all__ = ["check_range"]


def check_range(**arguments: tuple[int, int, int]) -> None:
    """Raise ConfigError unless each value is a whole number from the least to the most."""
    for name, (value, least, most) in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name} is {value!r}: it is a whole number from {least} to {most}")
