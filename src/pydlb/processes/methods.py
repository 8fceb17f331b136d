"""How worker processes are started."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from pydlb.errors import ConfigError

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["StartMethod", "check_picklable", "context_for"]

StartMethod: TypeAlias = Literal["fork", "forkserver", "spawn"]

# A fork has the parent's threads' locks without its threads; the balancer always has a thread.
_DEFAULT: Final[StartMethod] = "forkserver"


def context_for(method: StartMethod | None) -> BaseContext:
    """What starts processes by a method, None for the one that is safe with threads.

    Raises:
        ConfigError: There is no such method here.
    """
    methods = multiprocessing.get_all_start_methods()
    if method is not None and method not in methods:
        raise ConfigError(f"start_method is {method!r}: it is one of {', '.join(methods)}")
    return multiprocessing.get_context(method or _DEFAULT)


def check_picklable(method: str, what: Any) -> None:  # noqa: ANN401 - whatever runs in a worker
    """Find out beforehand whether it can go to another process.

    Raises:
        ConfigError: It cannot; says why, and what to do.
    """
    if method == "fork":
        return  # it is inherited
    try:
        ForkingPickler.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"worker processes started by {method} get their handlers by pickle, which failed: {error}; define "
            f"handlers at the top of a module, make in the worker what cannot be pickled, or use start_method='fork'"
        ) from error
