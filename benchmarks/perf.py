#!/usr/bin/env python3
"""All rows, one program after the other, in under half an hour: `make perf`.

    python benchmarks/perf.py [--quick] [--only PROGRAM ...] [--json build/perf.json]
    python benchmarks/perf.py --table build/perf.json        (what README.md shows, from a file)

Each program runs in a process of its own. A free-threaded interpreter with pydlb in it, where `make free-threaded` made
one, runs the rows about Python's items once more. `pydlb-bench report` makes a page of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
FREE_THREADED = ROOT / ".venv-free-threaded" / "bin" / "python"

# Each with its rounds, and those of --quick. What counts instructions comes first: it is not disturbed by anything.
PROGRAMS = {
    "engine_instructions": (1, 1),
    "device_instructions": (1, 1),
    "start": (7, 2),
    "python_items": (9, 2),
    "into_loop": (7, 2),
    "engine_rate": (7, 2),
    "wake": (7, 2),
    "connections": (5, 1),
    "even_spread": (3, 1),
    "asgi_servers": (5, 1),
}
LONGEST = 900  # seconds of one program


def run(name: str, interpreter: list[str], rounds: int) -> dict[str, Any]:
    """What a program found out; it shows it on the way."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [*interpreter, str(HERE / f"{name}.py"), "--rounds", str(rounds), "--json", str(file)]
        try:
            subprocess.run(command, check=True, timeout=LONGEST)
            told: dict[str, Any] = json.loads(file.read_text())
        except (subprocess.SubprocessError, OSError) as error:
            print(f"      {name}: {error}", flush=True)
            return {"bars": [], "left_out": [{"what": name, "why": str(error)}]}
        return told


def interpreters(name: str) -> list[list[str]]:
    found = [[sys.executable]]
    if name == "python_items" and FREE_THREADED.exists():
        found.append([str(FREE_THREADED), "-X", "gil=0"])
    return found


def table(told: dict[str, Any]) -> str:
    """As README.md has it, row by row."""
    lines = ["| row | what | figure | bar | | ours, peer's |", "| --- | --- | --- | --- | --- | --- |"]

    def order(bar: dict[str, Any]) -> tuple[int, str]:
        number = "".join(filter(str.isdigit, bar["row"]))
        return int(number), bar["row"]

    for bar in sorted(told["bars"], key=order):
        spread = "" if bar["least"] == bar["most"] else f" [{bar['least']:.3g} - {bar['most']:.3g}]"
        sign = {"less": "<=", "more": ">="}[bar["better"]]
        limit = f"{sign} {bar['bar']:g}" if bar["bar"] is not None else ""
        verdict = "" if bar["bar"] is None else "met" if bar["met"] else "**short**"
        both = f"{bar['ours']}, {bar['theirs']}" if bar["ours"] else ""
        figure = f"{bar['value']:.3g} {bar['unit']}".strip()
        lines.append(f"| {bar['row']} | {bar['what']} | {figure}{spread} | {limit} | {verdict} | {both} |")
    return "\n".join(lines)


def steal() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure all rows of benchmarks/README.md.")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "perf.json", metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing: show a file as README.md does")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return 0

    told: dict[str, Any] = {"format": 1, "complete": False, "environment": {}}
    told.update(tables=[], bars=[], left_out=[])
    began, before = time.monotonic(), steal()
    names = options.only or list(PROGRAMS)
    try:
        for name in names:
            for interpreter in interpreters(name):
                minutes, seconds = divmod(int(time.monotonic() - began), 60)
                print(f"[{minutes:d}:{seconds:02d}] {name}, {Path(interpreter[0]).name}", flush=True)
                found = run(name, interpreter, PROGRAMS[name][options.quick])
                told["bars"] += found["bars"]
                told["left_out"] += found["left_out"]
                told["environment"] = told["environment"] or found.get("environment", {})
        told["complete"] = True
    except KeyboardInterrupt:
        print("interrupted: this is what was measured until then", file=sys.stderr)
    stolen, ticks = (now - then for now, then in zip(steal(), before, strict=True))
    told["environment"]["steal"] = stolen / max(1, ticks)
    told["environment"]["load"] = os.getloadavg()[2]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(told, indent=1) + "\n")
    short = [record for record in told["bars"] if not record["met"]]
    left_out = len(told["left_out"])
    print(f"{len(told['bars'])} figures, {len(short)} short of their bars, {left_out} left out: {options.json}")
    return 0 if told["complete"] else 130


if __name__ == "__main__":
    sys.exit(main())
