"""pydlb envoy: configurations of Envoy's connection balance, explained and brought up to date."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydlb.envoy import EnvoyConfigError
from pydlb.envoy.configuration import read
from pydlb.envoy.explain import explain
from pydlb.envoy.migrate import migrate
from pydlb.envoy.program import program
from pydlb.envoy.reading import read_source

if TYPE_CHECKING:
    from pydlb.envoy.migrate import Migration

__all__ = ["main"]

_FILE: Final = "a listener, a bootstrap, an EnvoyFilter or a List of them; YAML or JSON; - for standard input"


def main(arguments: list[str]) -> int:
    """Explain or migrate a file.

    Returns:
        The exit status: 1 if the file cannot be read, or is not right; or the result not be written.
    """
    options = _parser().parse_args(arguments)
    try:
        text, source = _read(options.file)
        if options.command == "explain":
            return _explain(text, source, only_python=options.python)
        return _migrate(text, source, options)
    except BrokenPipeError:  # head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail
        return 1
    except EnvoyConfigError as error:
        print(f"pydlb envoy: {error}", file=sys.stderr)
    except OSError as error:
        print(f"pydlb envoy: {error.filename or options.file}: {error.strerror}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pydlb envoy",
        description="Read what Envoy's DLB balancer, exact_balance or their absence were configured by.",
        epilog="The exit status is 0; 1 if the file cannot be read or is not right; 2 if the command is not.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{explain,migrate}")
    told = commands.add_parser(
        "explain",
        help="say what it did in Envoy, what pydlb does, and show that in Python",
        description="Say in words what Envoy did with a configuration, what pydlb does, and show that in Python.",
    )
    told.add_argument("file", metavar="FILE", help=_FILE)
    told.add_argument("--python", action="store_true", help="only the Python, with a balancer for each listener")
    moved = commands.add_parser(
        "migrate",
        help="write it for today's Envoy, which has no DLB balancer any more",
        description="Write the same configuration with exact_balance in the place of the DLB balancer, and what pydlb "
        "would do as a Python program beside it. All else stays as it is, with its comments. Without -o it is "
        "printed, with the program in comments at the end.",
    )
    moved.add_argument("file", metavar="FILE", help=_FILE)
    moved.add_argument("-o", "--output", metavar="FILE", help="write it there, and the program beside it")
    moved.add_argument("--python", metavar="FILE", help="write the program there")
    moved.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


def _read(name: str) -> tuple[str, str | None]:
    if name == "-":
        return sys.stdin.read(), None
    return read_source(Path(name))


def _explain(text: str, source: str | None, *, only_python: bool) -> int:
    configuration = read(text, source)
    if only_python:
        print(program(configuration.listeners, f"The listeners of {source or 'a configuration'}."), end="")
    else:
        print(explain(configuration), end="")
    return 0


def _migrate(text: str, source: str | None, options: argparse.Namespace) -> int:
    done = migrate(text, source)
    for warning in done.before.warnings:
        print(f"pydlb envoy: warning: {warning}", file=sys.stderr)
    output = None if options.output in (None, "-") else Path(options.output)
    python = Path(options.python) if options.python else output and output.with_suffix(".pydlb.py")
    targets = {path: content for path, content in ((output, done.text), (python, done.python)) if path is not None}
    for path in targets:
        if path.exists() and not options.force:
            print(f"pydlb envoy: {path} is there already: --force replaces it", file=sys.stderr)
            return 1
    for path, content in targets.items():
        path.write_bytes(content.encode())
    if output is None:
        print(done.text if python or not done.commented else _with_comment(done), end="")
    _report(done, [os.fspath(path) for path in targets])
    return 0


def _with_comment(done: Migration) -> str:
    """The text with the program at its end, in comments."""
    text = done.text if done.text.endswith("\n") else done.text + "\n"
    lines = ["# The same by pydlb, in Python:", "#", *(f"#   {line}".rstrip() for line in done.python.splitlines())]
    return text + "\n".join(lines) + "\n"


def _report(done: Migration, written: list[str]) -> None:
    what = "nothing to replace" if done.count == 0 else f"{done.count} x exact_balance for the DLB balancer"
    where = f"; wrote {' and '.join(written)}" if written else ""
    print(f"pydlb envoy: {what}{where}", file=sys.stderr)
    if done.count and not done.commented:
        print("pydlb envoy: JSON has no comments, so the file does not say what was replaced", file=sys.stderr)
    if not written and not done.commented:
        print("pydlb envoy: --python FILE writes the program that does the same by pydlb", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
