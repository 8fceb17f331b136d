"""The application, imported and made fit for uvicorn's protocols."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.importer import ImportFromStringError, import_from_string

from pydlb.adapters.uvicorn import UvicornAdapter

from .placement import cpus_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import ServeOptions

__all__ = ["AdapterFactory", "configure_logging"]

logger = logging.getLogger("uvicorn.error")

# What is said in other words elsewhere: uvicorn's listening and its processes.
_NOT_OURS: Final = frozenset(
    {"host", "port", "uds", "fd", "workers", "reload", "reload_dirs", "reload_includes", "reload_excludes"}
    | {"reload_delay", "log_config", "env_file", "timeout_worker_healthcheck", "interface", "factory"}
)


class AdapterFactory:
    """Makes each worker's adapter, on the worker: in a thread of the serving process, or in a process of its own.

    Args:
        options: What was asked for.
        on_exhausted: Called with a worker's name when it has answered as many requests as it may. A worker that is a
            process ends itself then, and is replaced.
    """

    def __init__(self, options: ServeOptions, on_exhausted: Callable[[str], object] | None) -> None:
        self._options = options
        self._on_exhausted = on_exhausted

    def __getstate__(self) -> ServeOptions:
        """What goes to another process."""
        return self._options

    def __setstate__(self, options: ServeOptions) -> None:
        self.__init__(options, None)  # type: ignore[misc]
        sys.path.insert(0, options.app_dir)
        configure_logging(options)

    def __call__(self) -> UvicornAdapter:
        """Import the application, or take what has been imported, and put uvicorn's protocols before it."""
        options, name = self._options, threading.current_thread().name
        if options.pin != "none":
            number = int(name.rpartition("_")[2])
            os.sched_setaffinity(0, cpus_for(number, options.pin))  # of the calling thread
        app, interface = _load(options.app, options.uvicorn)
        given = {name: value for name, value in options.uvicorn.items() if name not in _NOT_OURS}
        exhausted = functools.partial(self._on_exhausted, name) if self._on_exhausted is not None else _end_process
        return UvicornAdapter(app, interface=interface, on_exhausted=exhausted, **given)


def _end_process() -> None:
    """Serve what is open, and end."""
    os.kill(os.getpid(), signal.SIGTERM)


def configure_logging(options: ServeOptions, *, watching: bool = False) -> uvicorn.Config:
    """Log as uvicorn does, with the options that it has for that.

    Args:
        options: What was asked for.
        watching: Whether this process looks for changes in the application's files.

    Returns:
        The configuration that it was read from.
    """
    names = ["log_config", "log_level", "access_log", "use_colors", "ssl_certfile", "ssl_keyfile", "env_file"]
    if watching:
        names += ["reload", "reload_dirs", "reload_includes", "reload_excludes", "reload_delay"]
    config = uvicorn.Config(options.app, **{name: options.uvicorn[name] for name in names if name in options.uvicorn})
    ours, theirs = logging.getLogger("pydlb"), logging.getLogger("uvicorn")
    if not ours.handlers:  # what the balancer says looks like what uvicorn says
        ours.handlers, ours.propagate = list(theirs.handlers), not theirs.handlers
        ours.setLevel(theirs.level)
    return config


def _load(path: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The application, and the interface by which it is called."""
    try:
        app = import_from_string(path)
    except ImportFromStringError as error:
        logger.error("Error loading ASGI app. %s", error)  # noqa: TRY400 - the user's mistake, not ours
        sys.exit(STARTUP_FAILURE)
    interface = options.get("interface", "auto")
    if options.get("factory"):
        try:
            app = app()
        except TypeError as error:
            logger.error("Error loading ASGI app factory: %s", error)  # noqa: TRY400
            sys.exit(STARTUP_FAILURE)
    if interface == "wsgi" or (interface == "auto" and _is_wsgi(app)):
        return _bridged(app), "asgi3"
    return app, interface


def _is_wsgi(app: Any) -> bool:  # noqa: ANN401 - whatever the user calls an application
    """Whether it is called with an environment and a function, and does not wait: so are WSGI applications."""
    if not callable(app) or inspect.isclass(app):
        return False
    call = app if inspect.isfunction(app) or inspect.ismethod(app) else type(app).__call__
    if inspect.iscoroutinefunction(call):
        return False
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [one for one in parameters if one.kind in _POSITIONAL and one.default is inspect.Parameter.empty]
    return len(needed) == _OF_WSGI


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OF_WSGI: Final = 2


def _bridged(app: Any) -> Any:  # noqa: ANN401
    """A WSGI application as an ASGI application."""
    try:
        from a2wsgi import WSGIMiddleware
    except ImportError:
        logger.error("WSGI applications need a2wsgi: pip install 'pydlb[serve]'")  # noqa: TRY400
        sys.exit(STARTUP_FAILURE)

    def with_end(environ: Any, start_response: Any) -> Any:  # noqa: ANN401
        """A body ends where it ends, also one of unknown length: the bridge does not say so."""
        environ["wsgi.input_terminated"] = True
        return app(environ, start_response)

    return WSGIMiddleware(with_end)
