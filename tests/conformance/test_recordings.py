"""The emulated device answers as the driver did when it was recorded: every command, every lifetime, every alert."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RECORDINGS = ("configuration", "random-2.0", "random-2.5", "data", "assumed")
WRITTEN = "written"  # not recorded: what public sources say of cases that the recordings leave out

VERSIONS = ("2.0", "2.5")


def contents(recording: str, version: str) -> tuple[int, int]:
    """Scenarios and steps that a file holds for a device, counted without replay.py."""
    scenarios = steps = 0
    for line in (HERE / f"{recording}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "scenario" in entry:
            current = version in entry["versions"]
            scenarios += current
        else:
            steps += current
    return scenarios, steps


CASES = [
    (recording, version)
    for recording in (*RECORDINGS, WRITTEN)
    for version in VERSIONS
    if any(contents(recording, version))
]


def test_recordings_are_whole() -> None:
    counts = [contents(*case) for case in CASES if case[0] != WRITTEN]
    assert (sum(count[0] for count in counts), sum(count[1] for count in counts)) == (577, 23270)


def replay(emulate: Path, version: str, *arguments: str) -> tuple[int, int, int, str]:
    """Run replay.py under an emulated device; scenarios, steps, differences, and all that was printed."""
    command = [emulate, "--version", version, "--", sys.executable, HERE / "replay.py", "--version", version]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=110)
    last = re.search(r"^(\d+) scenarios, (\d+) steps, (\d+) differences$", done.stdout, re.MULTILINE)
    assert last, done.stdout + done.stderr
    assert (done.returncode == 0) == (last[3] == "0" and last[1] != "0")
    return int(last[1]), int(last[2]), int(last[3]), done.stdout


@pytest.mark.parametrize(("recording", "version"), CASES)
def test_no_difference(emulate: Path, recording: str, version: str) -> None:
    scenarios, steps, differences, output = replay(emulate, version, str(HERE / f"{recording}.jsonl"))
    assert differences == 0, output
    assert (scenarios, steps) == contents(recording, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_scenario_in_one_sitting(emulate: Path, version: str) -> None:
    """No scenario leaves anything behind for the next one, whatever it does to the device."""
    files = [str(HERE / f"{name}.jsonl") for name in ("assumed", "data", "random-" + version)]
    _, _, differences, output = replay(emulate, version, "--isolate", "exec", *files)
    assert differences == 0, output


def test_a_difference_is_found(emulate: Path) -> None:
    """The comparison itself: a device of the other version does differ."""
    command = [emulate, "--version", "2.5", "--", sys.executable, HERE / "replay.py", "--version", "2.0"]
    done = subprocess.run(
        [*command, "--scenario", "valid-device", str(HERE / "configuration.jsonl")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "recorded" in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_64_byte_stores(emulate: Path, version: str) -> None:
    # data-line stores at addresses that a 64-byte store cannot have.
    _, _, differences, output = replay(
        emulate, version, "--store", "64", "--skip", "data-line", str(HERE / "data.jsonl"), str(HERE / "assumed.jsonl")
    )
    assert differences == 0, output
