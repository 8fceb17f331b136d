#!/usr/bin/env python3
"""Row 6, line by line: which cache lines move between two processors for each batch of 32, ours and rte_ring's.

    python benchmarks/shared_lines.py [--ahead 8] [--consumers 1] [--unordered] [--mode mt] [--where] [--rounds 7]

The machine need not count cache misses, nor have two processors: one thread does in turn what a producer and consumers
do on two, a batch each, while `ahead` batches wait. Valgrind's lackey tells all that is loaded and stored, and here two
caches are followed through it: a line that the other processor has written since moves when it is loaded, or is asked
for to be written; one that both have is taken away from the other when it is stored to. Figures are exact, and the same
on every run. What they leave out is what happens where both do something at the very same time.

With --rounds, what a batch takes on two processors is measured beside that, and what it takes a line to get from one to
the other, in turn: of a virtual machine's processors that may change tenfold within a minute, and the rates with it.

Needs valgrind, the core's programs (make core-test) and DPDK for the peer.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import dataclasses
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from programs import ours, peer
from programs import run as run_program
from results import LeftOut

LINE = 64
BATCH = 32
BATCHES = 64
MILLISECONDS = "100"
STACK = 1 << 20  # bytes around the stack's place that are one thread's own
KINDS = {"I", "L", "S", "M"}
SIDES = ("sender's", "other's")

Moves = collections.Counter[tuple[int, str, str, int]]


@dataclasses.dataclass
class Layout:
    """What a traced program prints of where things lie."""

    markers: list[int] = dataclasses.field(default_factory=list)
    main: int = 0
    stack: int = 0
    elements: tuple[str, ...] = ()
    names: list[tuple[int, int, str]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> Layout:
        """Parse the program's output."""
        layout = cls()
        for line in text.splitlines():
            match line.split():
                case ["name", name, at, size]:
                    layout.names.append((int(at, 16), int(size), name))
                case ["marker", at]:
                    layout.markers.append(int(at, 16))
                case ["main", at]:
                    layout.main = int(at, 16)
                case ["stack", at]:
                    layout.stack = int(at, 16)
                case ["elements", *names]:
                    layout.elements = tuple(names)
        layout.names.sort()
        return layout

    def name(self, at: int) -> str:
        """What lies at the address."""
        index = bisect.bisect_right(self.names, (at, 1 << 62, "")) - 1
        if index >= 0 and at < self.names[index][0] + self.names[index][1]:
            return self.names[index][2]
        return "other"

    def is_element(self, name: str) -> bool:
        """Whether that is elements of the queue."""
        return name.rpartition(".")[2] in self.elements


class Code:
    """The traced program's instructions, as they lie in its file."""

    def __init__(self, program: str) -> None:
        text = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", program], capture_output=True, text=True, check=True
        ).stdout
        functions = re.findall(r"^([0-9a-f]+) <(.+)>:$", text, re.MULTILINE)
        self.functions = [(int(at, 16), name) for at, name in functions]
        self.main = next(at for at, name in self.functions if name == "main")
        locked = re.findall(r"^\s*([0-9a-f]+):\s+(?:lock |xchg .*\(|mfence)", text, re.MULTILINE)
        self.locked = {int(at, 16) for at in locked}

    def function(self, at: int) -> str:
        """The function that the instruction is in."""
        index = bisect.bisect_right(self.functions, (at, "\x7f")) - 1
        return self.functions[index][1].partition(".")[0] if index >= 0 else "other"


class Caches:
    """Who has which line, and how often lines moved, by processor, kind, what was touched, and the function."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.having: dict[int, set[int]] = {}
        self.moves: Moves = collections.Counter()

    def touch(self, here: int, kind: str, at: int, instruction: int) -> None:
        """The processor `here` loads from the address (``L``), stores to it (``S``), or does both (``M``)."""
        having = self.having.setdefault(at // LINE, {here})
        if having == {here} or (kind == "L" and here in having):
            return
        what = "loads" if kind == "L" else "takes for itself" if here in having else "fetches to store"
        self.moves[here, what, self.layout.name(at), instruction] += 1
        self.having[at // LINE] = having | {here} if kind == "L" else {here}


class Run:
    """Follows a trace from marker to marker."""

    def __init__(self, layout: Layout, code: Code) -> None:
        self.layout, self.code = layout, code
        self.base = layout.main - code.main
        self.caches = Caches(layout)
        self.locked: collections.Counter[tuple[int, str]] = collections.Counter()
        self.here = -1  # which processor; -1 before the first
        self.counts = False
        self.instruction = 0

    def marked(self, at: int) -> bool:
        """True at the end."""
        *sides, turn = self.layout.markers
        if at != turn:
            self.here = sides.index(at)
            return False
        if self.counts:
            return True
        self.counts = True
        self.caches.moves.clear()
        return False

    def executes(self, at: int) -> None:
        """One instruction."""
        self.instruction = at - self.base
        if self.counts and self.instruction in self.code.locked:
            self.locked[self.here, self.code.function(self.instruction)] += 1

    def follow(self, trace: TextIO) -> None:
        """All that lackey wrote, up to the last marker."""
        for row in trace:
            kind = row[:2].strip()
            if kind not in KINDS:
                continue
            text, _, length = row[3:].partition(",")
            at = int(text, 16)
            if kind == "I":
                self.executes(at)
            elif kind == "S" and at in self.layout.markers:
                if self.marked(at):
                    return
            elif self.here >= 0 and abs(at - self.layout.stack) > STACK:
                end = at + int(length) - 1
                for each in {at, max(at, end // LINE * LINE)}:
                    self.caches.touch(self.here, kind, each, self.instruction)


def trace(*command: str) -> Run:
    """Run a program under lackey.

    Raises:
        LeftOut: There is no valgrind, or the program failed.
    """
    for tool in ("valgrind", "objdump"):
        if shutil.which(tool) is None:
            raise LeftOut(f"there is no {tool}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace"
        valgrind = ["valgrind", "--tool=lackey", "--basic-counts=no", "--trace-mem=yes", f"--log-file={file}"]
        told = subprocess.run([*valgrind, *command], capture_output=True, text=True, check=False)
        if told.returncode:
            raise LeftOut(f"{Path(command[0]).name} under valgrind: {told.stderr.strip().splitlines()[-1:]}")
        run = Run(Layout.read(told.stdout), Code(command[0]))
        with file.open() as rows:
            run.follow(rows)
    return run


def elements(run: Run) -> float:
    """Lines of elements that move for each batch."""
    return sum(n for (_, _, name, _), n in run.caches.moves.items() if run.layout.is_element(name)) / BATCHES


def others(run: Run) -> dict[str, float]:
    """Other lines that do, by whose side moves them, how, and what of the line is touched first, and where."""
    found: dict[str, float] = {}
    for (here, what, name, instruction), count in run.caches.moves.items():
        if not run.layout.is_element(name):
            key = f"{SIDES[here]:<9} {what:<17} {name:<22} in {run.code.function(instruction)}"
            found[key] = found.get(key, 0) + count / BATCHES
    return dict(sorted(found.items()))


def show(what: str, run: Run, *, where: bool) -> None:
    """A line, or with all that it is made of."""
    rest = others(run)
    locked = [sum(n for (side, _), n in run.locked.items() if side == here) / BATCHES for here in (0, 1)]
    print(
        f"{what:<30} elements {elements(run):5.2f}, others {sum(rest.values()):5.2f} a batch; "
        f"locked instructions {locked[0]:.2f} + {locked[1]:.2f}",
        flush=True,
    )
    if where:
        for key, count in rest.items():
            print(f"    {count:6.2f} {key}")


def nanoseconds(*command: str) -> float:
    """What a program prints: ns for a line, or Mev/s, as ns for a batch."""
    told = run_program(*command)
    number, unit = told.split()[-2:]
    return float(number) if unit == "ns" else BATCH * 1e3 / float(number)


def measure(rounds: int, consumers: int, mode: str, kind: list[str]) -> None:
    """Show what a batch takes, in ns and in lines that get from one processor to the other one after the other."""
    count = str(consumers)
    sides = {
        "ours": [ours("bench_threads"), "--consumers", count, "--ms", MILLISECONDS, *kind],
        "rte_ring": [peer("rte_ring"), mode, str(BATCH), MILLISECONDS, "1", count],
    }
    took: dict[str, list[float]] = {"a line": [], **{side: [] for side in sides}}
    for _ in range(rounds):
        took["a line"].append(nanoseconds(ours("bench_lines"), "--cost"))
        for side, command in sides.items():
            took[side].append(nanoseconds(*command))
    for what, times in took.items():
        lines = [time / line for time, line in zip(times, took["a line"], strict=True)]
        beside = "" if what == "a line" else f" a batch; as long as {statistics.median(lines):.1f} lines one by one"
        print(
            f"{what:<10} {statistics.median(times):6.0f} ns [{min(times):.0f} - {max(times):.0f}]{beside}", flush=True
        )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Cache lines that move between two processors, for each batch of 32.")
    parser.add_argument("--ahead", type=int, nargs="+", default=[0, 1, 8, 24], help="batches that wait (0 1 8 24)")
    parser.add_argument("--consumers", type=int, default=1, help="on processors 1, 0, 1 and so on (1)")
    parser.add_argument("--unordered", action="store_true", help="not atomic")
    parser.add_argument("--mode", default="mt", choices=["sp", "mt", "rts", "hts"], help="of rte_ring (mt)")
    parser.add_argument("--where", action="store_true", help="show which they are, and what moves them")
    parser.add_argument("--rounds", type=int, default=0, help="measure time on two processors as well, so often (0)")
    options = parser.parse_args()
    kind = ["--unordered"] if options.unordered else []
    try:
        for ahead in options.ahead:
            sizes = [str(options.consumers), str(ahead), str(BATCHES)]
            named = [word for pair in zip(("--consumers", "--ahead", "--batches"), sizes, strict=True) for word in pair]
            show(f"ours, {ahead} batches wait", trace(ours("bench_lines"), *named, *kind), where=options.where)
            theirs = trace(peer("rte_ring"), options.mode, str(BATCH), "lines", *sizes)
            show(f"rte_ring, {ahead} batches wait", theirs, where=options.where)
        if options.rounds:
            measure(options.rounds, options.consumers, options.mode, kind)
    except LeftOut as why:
        print(f"left out: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
