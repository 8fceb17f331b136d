"""The command line of `pydlb serve`: uvicorn's options, and a few more."""

from __future__ import annotations

import contextlib
import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from uvicorn import main as uvicorn_command

from pydlb.errors import ConfigError
from pydlb.policies import check_policy

from .application import configure_logging
from .health import HealthServer
from .options import ServeOptions
from .process import STARTUP_FAILURE
from .reloader import Reloader
from .supervisor import Supervisor, bind

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["command"]

logger = logging.getLogger("uvicorn.error")

# Those of uvicorn's options that say nothing here, or that are given another meaning.
_LEFT_OUT: Final = {"version", "workers", "timeout_worker_healthcheck"}

_HELP: Final = """Serve the ASGI or WSGI application APP, such as module:app.

Connections are spread over the workers by how many each has open. All of uvicorn's options are understood, and HTTP,
WebSockets and logs are uvicorn's own. Options may also come from the environment, as PYDLB_SERVE_PORT or UVICORN_PORT.

Signals: TERM and INT end when what is open has been served (a second one at once); HUP reloads the application, TTIN
and TTOU add and take away a worker, USR2 replaces the supervisor; none of these refuses a connection."""


def _check_policy(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        check_policy(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


_OURS: Final[list[click.Parameter]] = [
    click.Option(
        ["--workers"],
        type=click.IntRange(1, 1024),
        envvar=["PYDLB_SERVE_WORKERS", "UVICORN_WORKERS", "WEB_CONCURRENCY"],
        default=1,
        show_default=True,
        help="Workers to spread connections over. Also from $WEB_CONCURRENCY.",
    ),
    click.Option(
        ["--worker-class"],
        type=click.Choice(["auto", "thread", "process"]),
        default="auto",
        show_default=True,
        help="What a worker is; auto: a thread if there is no interpreter lock, else a process.",
    ),
    click.Option(
        ["--policy"], default="dlb", show_default=True, callback=_check_policy, help="Which worker gets a connection."
    ),
    click.Option(
        ["--backend"],
        default="auto",
        show_default=True,
        metavar="[auto|software|device|/dev/dlbN]",
        help="What spreads the connections: hardware or software.",
    ),
    click.Option(
        ["--graceful-timeout"],
        type=click.FloatRange(0),
        default=30.0,
        show_default=True,
        help="Seconds that open connections have to end.",
    ),
    click.Option(
        ["--stall-timeout"],
        type=click.FloatRange(0, min_open=True),
        default=10.0,
        show_default=True,
        help="Seconds after which a worker that does only one thing is reported, and counts as not alive.",
    ),
    click.Option(
        ["--proxy-protocol"],
        type=click.Choice(["off", "on", "optional"]),
        default="off",
        show_default=True,
        callback=lambda _context, _parameter, value: {"off": False, "on": True}.get(value, value),
        help="Connections begin with a header of the PROXY protocol, version 1 or 2, that names the client.",
    ),
    click.Option(
        ["--pin"],
        type=click.Choice(["none", "cpu", "numa"]),
        default="none",
        show_default=True,
        help="Keep each worker on one CPU, or on the CPUs of one NUMA node.",
    ),
    click.Option(
        ["--health-port"], type=click.IntRange(0, 65535), help="Answer /ready and /alive on this port of --host."
    ),
    click.Option(["--metrics-port"], type=click.IntRange(0, 65535), help="Answer /metrics, and these, on this port."),
]


def _run(**given: Any) -> None:  # noqa: ANN401 - whatever uvicorn has options for
    """Bind, and supervise."""
    ours = {option.name: given.pop(option.name or "") for option in _OURS}
    options = ServeOptions(app=given.pop("app"), app_dir=given.pop("app_dir"), **ours)
    if given.get("timeout_graceful_shutdown") is not None:
        options.graceful_timeout = given["timeout_graceful_shutdown"]
    given.pop("timeout_graceful_shutdown")
    given["headers"] = [_header(text) for text in given["headers"]]
    if given["log_config"] is None:
        del given["log_config"]  # uvicorn's own
    options.uvicorn = given
    click.get_current_context().exit(_supervise(options))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise click.BadParameter(f"{text!r} is not of the form NAME:VALUE", param_hint="'--header'")
    return name, value


def _supervise(options: ServeOptions) -> int:
    given = options.uvicorn
    config = configure_logging(options, watching=True)
    try:
        for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
            if given[name]:
                Path(given[name]).open("rb").close()  # its error names the file; that of the TLS library does not
        sockets = bind(
            host=given["host"], port=given["port"], uds=given["uds"], fd=given["fd"], backlog=given["backlog"]
        )
        health = HealthServer(given["host"], options.health_port)
    except OSError as error:
        logger.error("%s", error)  # noqa: TRY400 - uvicorn says no more, and no more is to be said
        return STARTUP_FAILURE
    for sock in sockets:
        _announce(sock, "https" if config.is_ssl else "http")
    supervisor = Supervisor(options, sockets, Reloader(config) if given["reload"] else None)
    try:
        metrics = _metrics(supervisor, given["host"], options.metrics_port)
    except (ImportError, ConfigError, OSError) as error:
        logger.error("No metrics: %s", error)  # noqa: TRY400 - it says all that there is to say
        return STARTUP_FAILURE
    with metrics, health.watching(supervisor):
        return supervisor.run()


def _metrics(supervisor: Supervisor, host: str, port: int | None) -> contextlib.AbstractContextManager[object]:
    """Tell of the serving process by HTTP, and to ``pydlb top``."""
    if port is None:
        return contextlib.nullcontext()
    from pydlb.metrics import MetricsServer

    from .metrics import SupervisorSource

    return MetricsServer(SupervisorSource(supervisor), host, port)


def _announce(sock: socket.socket, scheme: str) -> None:
    """Say where it serves, in uvicorn's words."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        where = f"{scheme}://[{name[0]}]:{name[1]}" if ":" in name[0] else f"{scheme}://{name[0]}:{name[1]}"
    else:
        where = f"unix socket {name}"
    logger.info(
        "pydlb running on %s (Press CTRL+C to quit)",
        where,
        extra={"color_message": f"pydlb running on {click.style('%s', bold=True)} (Press CTRL+C to quit)"},
    )


def _uvicorns() -> Iterator[click.Parameter]:
    """Uvicorn's parameters, which may also come from its environment variables."""
    for parameter in uvicorn_command.params:
        if parameter.name not in _LEFT_OUT:
            ours = copy.copy(parameter)
            if isinstance(ours, click.Option) and ours.envvar is None and ours.name:
                ours.envvar = [f"{prefix}_{ours.name.upper()}" for prefix in ("PYDLB_SERVE", "UVICORN")]
            if ours.name == "port":
                ours.type = click.IntRange(0, 65535)
            yield ours


command: Final = click.Command(
    "serve",
    params=[*_uvicorns(), *_OURS],
    callback=_run,
    help=_HELP,
    context_settings={"auto_envvar_prefix": "PYDLB_SERVE"},
)
