"""Whether arguments make sense, before anything is made of them."""

from __future__ import annotations

import sys

from pydlb.errors import ConfigError
from pydlb.limits import Limits

__all__ = ["accept_by_workers", "are_processes", "check_handler", "check_limits", "check_queue", "check_range"]


def check_range(**arguments: tuple[int, int, int]) -> None:
    """Raise ConfigError unless each value is a whole number from the least to the most."""
    for name, (value, least, most) in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{name} is {value!r}: it is a whole number from {least} to {most}")


def check_handler(handler: object, workers: int) -> None:
    """Raise ConfigError unless it can be called, or nobody is to call one."""
    if workers and handler is None:
        raise ConfigError(f"{workers} workers need a handler to call; workers=0 starts none")
    if handler is not None and not callable(handler):
        raise ConfigError(f"handler is {handler!r}: it is a function of one connection")


def are_processes(worker_class: str) -> bool:
    """Whether workers of a class are processes.

    Raises:
        ConfigError: There is no such class.
    """
    if worker_class not in {"thread", "process", "auto"}:
        raise ConfigError(f"worker_class is {worker_class!r}: it is 'thread', 'process' or 'auto'")
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    return worker_class == "process" or (worker_class == "auto" and has_lock)


def accept_by_workers(accept: str, max_retries: int, *, processes: bool) -> bool:
    """Whether workers accept by themselves. Raises ConfigError for what does not go together."""
    if accept not in {"native", "workers"}:
        raise ConfigError(f"accept is {accept!r}: it is 'native' or 'workers'")
    check_range(max_retries=(max_retries, 0, 2**32 - 1))
    if accept == "native" and max_retries:
        raise ConfigError(f"max_retries is {max_retries}: it goes with accept='workers'; otherwise nobody need retry")
    if accept == "workers" and processes:
        raise ConfigError("accept is 'workers': worker processes accept by themselves anyway, by permit")
    return accept == "workers"


def check_queue(release: str, queue_depth: int | None, receive_batch: int | None) -> None:
    """Raise ConfigError for what no queue can be like."""
    if release not in {"close", "receive"}:
        raise ConfigError(f"release is {release!r}: it is 'close' or 'receive'")
    if receive_batch is not None:
        check_range(receive_batch=(receive_batch, 1, 64))
    if queue_depth is not None:
        check_range(queue_depth=(queue_depth, 1, 1024))
        if queue_depth & (queue_depth - 1):
            raise ConfigError(f"queue_depth is {queue_depth}: it is a power of two")


def check_limits(limits: object) -> None:
    """Raise ConfigError unless it is None or Limits."""
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigError(f"limits is {limits!r}: it is a pydlb.Limits, or None")
