"""pydlb-bench: measures pydlb beside its peers, alternating in one run, every count checked."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from typing import IO, TYPE_CHECKING, Final

from . import page, report
from .measure import CountError, Plan, Progress, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["main"]

# For each option its default, and that of --quick.
DEFAULTS: Final[dict[str, tuple[object, object]]] = {
    "rounds": (5, 2),
    "duration": (1.0, 0.2),
    "batch": ([1, 4, 32, 256], [1, 32]),
    "receivers": ([1, 4], [1, 4]),
    "held": (400, 100),
    "rate": (200.0, 400.0),
}


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type of argument: a whole number of at least `least`, at most `most`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            limits = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return value

    return convert


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rounds", type=_whole(1), help="runs of each contender (5)")
    parser.add_argument("--duration", type=_positive, metavar="SECONDS", help="length of a run (1)")
    parser.add_argument("--seed", type=_whole(0), default=1, help="of the order in which contenders run (1)")
    parser.add_argument("--backend", default="auto", help="auto, software, or a device (auto)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON; - for standard output alone")
    parser.add_argument("--quick", action="store_true", help="two short rounds: all scenarios in under a minute")
    parser.add_argument("--quiet", action="store_true", help="do not say on the way what is being measured")
    return parser


def _engine() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--events", type=_whole(1), help="events a run, instead of a duration")
    parser.add_argument("--batch", type=_whole(1, 1024), nargs="+", help="batch sizes (1 4 32 256)")
    parser.add_argument("--receivers", type=_whole(1, 64), nargs="+", help="numbers of receiving threads (1 4)")
    return parser


def _handoff() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--items", type=_whole(1), help="items a run, instead of a duration")
    return parser


def _connections() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--connections", type=_whole(1), help="short connections a run, instead of a duration")
    parser.add_argument("--clients", type=_whole(1), default=64, help="short connections at a time (64)")
    parser.add_argument("--held", type=_whole(0), help="connections that stay open; 0 to leave this out (400)")
    parser.add_argument("--rate", type=_positive, help="how many of those are opened in a second (200)")
    parser.add_argument("--workers", type=_whole(1, 64), default=4, help="worker threads (4)")
    return parser


def _parser() -> argparse.ArgumentParser:
    common, engine, handoff, connections = _common(), _engine(), _handoff(), _connections()
    parser = argparse.ArgumentParser(
        prog="pydlb-bench",
        description="Measure pydlb beside its peers. A lost or doubled event fails the run.",
        epilog="In each table the last row is the peer that the others are compared with, round by round.",
    )
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    scenarios.add_parser("engine", parents=[common, engine], help="events through a queue, by scheduling type")
    scenarios.add_parser("handoff", parents=[common, handoff], help="single items between threads and into a loop")
    scenarios.add_parser("connections", parents=[common, connections], help="connections over loopback")
    scenarios.add_parser("all", parents=[common, engine, handoff, connections], help="all of these")
    page.add_options(scenarios.add_parser("report", help="what was measured, as a page with plots"))
    return parser


def _fill_in(options: argparse.Namespace) -> None:
    """Give the options that were left open their defaults."""
    for name, (usual, quick) in DEFAULTS.items():
        if getattr(options, name, 0) is None:
            setattr(options, name, quick if options.quick else usual)


def _run(options: argparse.Namespace, plan: Plan) -> None:
    """Measure what was asked for. Scenarios are loaded when they are wanted."""
    if options.scenario in ("engine", "all"):
        from . import engine

        engine.measure(plan, batches=options.batch, receivers=options.receivers, events=options.events)
    if options.scenario in ("handoff", "all"):
        from . import handoff

        handoff.measure(plan, items=options.items)
    if options.scenario in ("connections", "all"):
        from . import connections

        connections.measure(
            plan,
            workers=options.workers,
            clients=options.clients,
            connections=options.connections,
            held=options.held,
            rate=options.rate,
        )


@contextlib.contextmanager
def _ended_by_interrupt(plan: Plan) -> Iterator[None]:
    """Let Ctrl-C end the measurement between two runs, where no thread is left half-way; a second one at once."""

    def interrupt(*_: object) -> None:
        plan.interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _measure(options: argparse.Namespace, output: IO[str] | None) -> int:
    from . import machine

    def show(table: Table) -> None:
        if options.json != "-":
            report.print_table(table)
            sys.stdout.flush()

    told = machine.environment(options.backend)
    told["parameters"] = {name: value for name, value in vars(options).items() if name not in ("json", "quiet")}
    if options.json != "-":
        print(report.heading(told), end="\n\n", flush=True)
    plan = Plan(
        rounds=options.rounds,
        duration=options.duration,
        seed=options.seed,
        backend=options.backend,
        progress=Progress(quiet=options.quiet),
        report=show,
    )
    steal = machine.StealMeter()
    complete = False
    try:
        with _ended_by_interrupt(plan):
            _run(options, plan)
        complete = True
    except KeyboardInterrupt:
        print("\npydlb-bench: interrupted; this is what was measured until then", file=sys.stderr)
        for table in plan.tables[-1:]:
            if table.started:
                show(table)
    told["steal"] = steal.stolen()
    if options.json != "-":
        print(f"{told['steal']:.1%} of the machine's time was stolen by its host.")
    if output is not None:
        tables = [table for table in plan.tables if table.started]
        json.dump(report.as_json(told, tables, complete=complete), output, indent=1)
        output.write("\n")
        output.flush()
    return 0 if complete else 130


def main(arguments: list[str] | None = None) -> int:
    """Run pydlb-bench.

    Returns:
        0; 1 if something was lost or came twice, or could not be had; 2 for wrong arguments; 130 if it was
        interrupted, after what was measured until then.
    """
    import pydlb

    parser = _parser()
    options = parser.parse_args(arguments)
    if options.scenario == "report":
        return page.main(options)
    _fill_in(options)
    output: IO[str] | None = sys.stdout if options.json == "-" else None
    try:
        if options.json and output is None:
            output = open(options.json, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - closed below, unless it is stdout
        return _measure(options, output)
    except (CountError, pydlb.DLBError, OSError) as error:
        print(f"pydlb-bench: {error}", file=sys.stderr)
        return 1
    finally:
        if output is not None and output is not sys.stdout:
            output.close()


if __name__ == "__main__":
    sys.exit(main())
