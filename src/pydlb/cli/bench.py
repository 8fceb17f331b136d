"""pydlb-bench: measures pydlb beside its peers, alternating in one run, every count checked."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import measure, report

__all__ = ["main"]


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=_positive, default=5, help="runs of each contender (default: %(default)s)")
    common.add_argument("--json", metavar="FILE", help="also write the figures as JSON; - for standard output")
    common.add_argument("--quick", action="store_true", help="small sizes and two rounds: under a minute for all")
    common.add_argument("--quiet", action="store_true", help="do not say on the way what is being measured")

    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument("--events", type=_positive, default=500_000, help="events a run (default: %(default)s)")
    engine.add_argument(
        "--batch", type=_positive, nargs="+", default=[1, 4, 32, 256], help="batch sizes (default: 1 4 32 256)"
    )
    engine.add_argument(
        "--consumers", type=_positive, nargs="+", default=[1, 4], help="receiving threads (default: 1 4)"
    )

    handoff = argparse.ArgumentParser(add_help=False)
    handoff.add_argument("--items", type=_positive, default=200_000, help="items a run (default: %(default)s)")

    connections = argparse.ArgumentParser(add_help=False)
    connections.add_argument(
        "--connections", type=_positive, default=4000, help="connections a run (default: %(default)s)"
    )
    connections.add_argument("--in-flight", type=_positive, default=64, help="at a time (default: %(default)s)")
    connections.add_argument("--workers", type=_positive, default=4, help="worker threads (default: %(default)s)")

    parser = argparse.ArgumentParser(
        prog="pydlb-bench", description="Measure pydlb beside its peers. A lost or doubled event fails the run."
    )
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    scenarios.add_parser("engine", parents=[common, engine], help="events through a queue, by scheduling type")
    scenarios.add_parser("handoff", parents=[common, handoff], help="single items between threads and into a loop")
    scenarios.add_parser("connections", parents=[common, connections], help="short connections over loopback")
    scenarios.add_parser("all", parents=[common, engine, handoff, connections], help="all of these")
    return parser


def _make_quick(options: argparse.Namespace) -> None:
    """Smaller sizes, where the user left them as they are."""
    small = {"events": (500_000, 60_000), "items": (200_000, 40_000), "connections": (4000, 800), "rounds": (5, 2)}
    for name, (usual, less) in small.items():
        if getattr(options, name, None) == usual:
            setattr(options, name, less)
    if getattr(options, "batch", None) == [1, 4, 32, 256]:
        options.batch = [1, 32]


def _run(options: argparse.Namespace, tables: dict[str, list[measure.Row]]) -> None:
    """Measure what was asked for; `tables` is filled as results come."""
    progress = measure.Progress(quiet=options.quiet)
    if options.scenario in ("engine", "all"):
        from . import engine

        tables |= engine.measure(
            batches=options.batch,
            consumers=options.consumers,
            events=options.events,
            rounds=options.rounds,
            progress=progress,
        )
    if options.scenario in ("handoff", "all"):
        from . import handoff

        tables |= handoff.measure(items=options.items, rounds=options.rounds, progress=progress)
    if options.scenario in ("connections", "all"):
        from . import connections

        tables |= connections.measure(
            connections=options.connections,
            in_flight=options.in_flight,
            workers=options.workers,
            rounds=options.rounds,
            progress=progress,
        )


def _write(options: argparse.Namespace, stolen_before: tuple[int, int], tables: dict[str, list[measure.Row]]) -> None:
    environment = measure.environment(
        **{name: value for name, value in vars(options).items() if name not in ("json", "quiet")}
    )
    stolen, ticks = (after - before for after, before in zip(measure.stolen_ticks(), stolen_before, strict=True))
    environment["steal"] = stolen / ticks if ticks else 0.0
    if options.json == "-":
        json.dump(report.as_json(environment, tables), sys.stdout, indent=1)
        print()
        return
    print(report.heading(environment), end="\n\n")
    report.print_tables(tables)
    if options.json:
        Path(options.json).write_text(json.dumps(report.as_json(environment, tables), indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run pydlb-bench.

    Returns:
        0; 1 if something was lost or came twice; 130 if it was interrupted, after what was measured until then.
    """
    options = _parser().parse_args(arguments)
    if options.quick:
        _make_quick(options)
    stolen_before = measure.stolen_ticks()
    tables: dict[str, list[measure.Row]] = {}
    try:
        _run(options, tables)
    except measure.CountError as error:
        print(f"pydlb-bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npydlb-bench: interrupted; this is what was measured until then", file=sys.stderr)
        _write(options, stolen_before, tables)
        return 130
    _write(options, stolen_before, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
