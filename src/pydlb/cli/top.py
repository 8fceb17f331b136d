"""pydlb top: a live view of a running balancer."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import os
import socket
import sys
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

from pydlb.metrics import local_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

__all__ = ["main"]

DEFAULT_URL: Final = "http://127.0.0.1:9464"
_TIMEOUT: Final = 5.0
_BAR: Final = 24
# Shown where they are not 0.
_RARE: Final = (
    "refused_at_limit",
    "limited",
    "overflowed",
    "retries",
    "kept",
    "fallbacks",
    "probes",
    "recoveries",
    "resent",
    "released_early",
)
_WIDTH_WITHOUT_TERMINAL: Final = 120


def main(arguments: list[str]) -> int:
    """Show a balancer until interrupted.

    Returns:
        0; 1 if it cannot be asked, or rich is not installed.
    """
    options = _parser().parse_args(arguments)
    try:
        source = _Process(options.pid) if options.pid is not None else _Url(options.url)
        _show(source, interval=options.interval, times=1 if options.once else options.times)
    except ImportError:
        print("pydlb top: it needs rich: pip install 'pydlb[cli]'", file=sys.stderr)
        return 1
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"pydlb top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pydlb top",
        description="Watch a balancer that was started with metrics_port=.",
        epilog="Ctrl-C ends it.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help=f"its metrics port ({DEFAULT_URL})")
    where.add_argument("--pid", type=int, help="a process of this user, on this machine")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument("--times", type=int, default=0, help="end after so many looks")
    parser.add_argument("--once", action="store_true", help="look once")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.05 to 3600")
    return value


# ---- whom to ask ---------------------------------------------------------------------------------------------------


class _Url:
    """A metrics port."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
        if parts.scheme not in ("", "http") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a metrics port, such as {DEFAULT_URL}")
        self.name = f"{parts.hostname}:{parts.port or 80}"
        self._address = (parts.hostname, parts.port or 80)

    def snapshots(self) -> list[dict[str, Any]]:
        connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT)
        try:
            return [_ask(connection)]
        except ConnectionRefusedError:
            text = f"nobody listens at {self.name}: give the balancer metrics_port=, and its address here"
            raise OSError(text) from None
        finally:
            connection.close()


class _Process:
    """All balancers of a process that have a metrics port."""

    def __init__(self, pid: int) -> None:
        self.name = f"process {pid}"
        self._pid = pid

    def snapshots(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number in range(16):
            connection = _LocalConnection(local_address(self._pid, number))
            try:
                found.append(_ask(connection))
            except ConnectionRefusedError:
                break
            finally:
                connection.close()
        if not found:
            try:
                os.kill(self._pid, 0)
            except ProcessLookupError:
                raise OSError(f"there is no process {self._pid}") from None
            except PermissionError:
                raise OSError(f"process {self._pid} belongs to another user") from None
            raise OSError(f"process {self._pid} has no balancer with a metrics port (metrics_port=)")
        return found


class _LocalConnection(http.client.HTTPConnection):
    def __init__(self, name: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._name = name

    def connect(self) -> None:
        """By the name."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._name)


def _ask(connection: http.client.HTTPConnection) -> dict[str, Any]:
    connection.request("GET", "/stats")
    response = connection.getresponse()
    body = response.read()
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if response.status != http.HTTPStatus.OK or not isinstance(told, dict) or "stats" not in told:
        raise OSError(f"what answers there is no metrics port of pydlb (status {response.status})")
    return told


# ---- what is shown -------------------------------------------------------------------------------------------------


def _show(source: _Url | _Process, *, interval: float, times: int) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_WITHOUT_TERMINAL)
    views: list[_View] = []

    def look() -> RenderableType:
        told = source.snapshots()
        views.extend(_View() for _ in told[len(views) :])
        return Group(*(view.draw(one) for view, one in zip(views, told, strict=False)))

    if times == 1 or not console.is_terminal:
        for turn in itertools.count(1):
            console.print(look())
            if turn == times:
                return
            time.sleep(interval)
    with Live(look(), console=console, auto_refresh=False, screen=not times) as live:
        for _ in range(times - 1) if times else itertools.count():
            time.sleep(interval)
            live.update(look(), refresh=True)


class _View:
    """One balancer, whose rates come from two looks."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None
        self._at = -math.inf

    def draw(self, told: dict[str, Any]) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        now = time.monotonic()
        stats = told["stats"]
        rates = _rates(stats, self._before, now - self._at)
        self._before, self._at = stats, now
        return Group(_heading(told), _totals(stats, rates), _timing(told), Text(), _workers(stats, rates))


def _rates(stats: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> dict[str, float]:
    """Connections a second, by worker; in all under the empty name."""
    if before is None:
        return {}
    counts = {worker["name"]: worker["accepted"] for worker in before["workers"]}
    rates = {
        worker["name"]: (worker["accepted"] - counts.get(worker["name"], 0)) / seconds for worker in stats["workers"]
    }
    return {**rates, "": (stats["accepted"] - before["accepted"]) / seconds}


def _heading(told: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    text = Text()
    text.append("pydlb ", style="bold")
    text.append(str(told.get("state", "")), style="green" if told.get("state") == "accepting" else "yellow")
    text.append(f"  process {told.get('pid')}  policy {told.get('policy')}  backend {told.get('backend')}")
    if told.get("fallback_reason"):
        text.append(f" ({told['fallback_reason']})", style="dim")
    return text


def _totals(stats: dict[str, Any], rates: dict[str, float]) -> RenderableType:
    from rich.text import Text

    rate = f"{rates['']:.0f}/s" if "" in rates else "-"
    names = ("open", "waiting", "served", "refused", "aborted", "gone", "taken_back", "held_up", "backoffs")
    figures = [f"{name.replace('_', ' ')} {stats[name]}" for name in names if name in stats]
    figures += [f"{name.replace('_', ' ')} {stats[name]}" for name in _RARE if stats.get(name)]
    causes = stats.get("refused_by", {})
    figures += [f"refused by {cause.replace('_', ' ')} {count}" for cause, count in causes.items() if count]
    text = Text(f"accepted {stats['accepted']} ({rate})  " + "  ".join(figures))
    if stats.get("accept_error"):
        text.append(f"  {stats['accept_error']}", style="red")
    return text


def _timing(told: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    parts = [
        f"p{float(part) * 100:g} <= {_duration(seconds)}" for part, seconds in told.get("handoff_seconds", {}).items()
    ]
    evenness = f"imbalance (max/mean) {told.get('imbalance', 1.0):.3f}, fairness (Jain) {told.get('fairness', 1.0):.3f}"
    return Text(f"accept to worker: {', '.join(parts)}  {evenness}")


def _duration(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _workers(stats: dict[str, Any], rates: dict[str, float]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("worker", no_wrap=True)
    for name in ("accepted", "/s", "open"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("served", "aborted", "lag"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    workers: Sequence[dict[str, Any]] = stats["workers"]
    most = max((worker["open"] for worker in workers), default=0)
    for worker in workers:
        rate = f"{rates[worker['name']]:.0f}" if worker["name"] in rates else "-"
        bar = Text("━" * round(_BAR * worker["open"] / most) if most else "", style="cyan")
        table.add_row(
            worker["name"],
            str(worker["accepted"]),
            rate,
            str(worker["open"]),
            bar,
            str(worker["served"]),
            str(worker["aborted"]),
            "" if worker.get("loop_lag") is None else _duration(worker["loop_lag"]),
            Text("stalled", style="red") if worker.get("stalled") else "",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
