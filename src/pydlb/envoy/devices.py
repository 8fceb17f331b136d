"""Which device Envoy would take, and which pydlb does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from pydlb import _backend

__all__ = ["backend_for", "find_device", "tell_other_device"]

logger = logging.getLogger("pydlb")

# Envoy looks no further; the number that is asked for may be any.
_MOST_DEVICES: Final = 64


def find_device(preferred: int = 0, directory: Path | None = None) -> int | None:
    """The device that Envoy's search finds: the preferred one if it is there, else the first of 0 to 63.

    Args:
        preferred: The field `id`.
        directory: Where the nodes ``dlbN`` are; None for ``/dev``.

    Returns:
        Its number; None if there is none. Whether it can be opened, or has anything left, is not looked at; a balancer
        goes on to the next one if it cannot.
    """
    return next((number for number in [preferred, *range(_MOST_DEVICES)] if _node(number, directory).exists()), None)


def backend_for(preferred: int) -> str:
    """The same search as a `backend` of :class:`pydlb.Balancer`, over devices that can be used."""
    return "device" if preferred == 0 else f"{preferred},device"


def _node(number: int, directory: Path | None = None) -> Path:
    return (_backend.DEV if directory is None else directory) / f"dlb{number}"


def tell_other_device(preferred: int, backend: str) -> None:
    """Warn, in Envoy's words, that it is not the preferred device."""
    name = Path(backend).name
    if not name.startswith("dlb") or name == f"dlb{preferred}":
        return
    state = "cannot be used" if _node(preferred).exists() else "is not found"
    logger.warning("dlb device %d %s, use dlb device %s instead", preferred, state, name.removeprefix("dlb"))
