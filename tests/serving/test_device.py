"""`pydlb serve` on a device: the emulated one, which all its processes share."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pydlb import _native

if TYPE_CHECKING:
    from collections.abc import Callable

EMULATE = Path(_native.__file__).with_name("pdlb-emulate")


@pytest.fixture(params=["2.0", "2.5"])
def serve_on_device(serve: Callable[..., Any], request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``serve``, under `pydlb emulate`."""

    def start(*arguments: str) -> Any:
        return serve(
            *("site_app:app", "--workers", "2", "--backend", "/dev/dlb0", "--no-access-log", *arguments),
            through=[EMULATE, "--version", request.param, "--"],
        )

    return start


def end(served: Any) -> None:
    """It ends in order, and the device has nothing to complain of."""
    assert "emulated device" not in served.stop(), "it was misused"


def test_another_process_takes_over_when_the_device_is_reset(
    serve_on_device: Callable[..., Any], folder: Path, worker_class: str
) -> None:
    """Threads move to another engine by themselves; a client that was connected before is served on."""
    text = (folder / "site_app.py").read_text()
    begin = '    if scope["path"] == "/slow":'
    reset = '    if scope["path"] == "/reset":\n        open("/sys/class/dlb2/dlb0/device/reset", "w").write("1")\n'
    assert begin in text
    (folder / "site_app.py").write_text(
        "import warnings; warnings.simplefilter('ignore')\n" + text.replace(begin, reset + begin)
    )
    served = serve_on_device()
    before = served.connect()
    pid = served.ask(before)[1]
    assert served.ask(before, "/reset")[1] == pid
    assert served.ask(before)[1] == pid
    assert len(served.get()) == 3, "who comes meanwhile waits, and is served"
    if worker_class == "process":
        served.wait_for("Process .* cannot be given connections: /dev/dlb0: it was reset or went away")
        served.wait_for("backend /dev/dlb0$", 2)
        assert served.get()[1] != pid
    before.close()
    said = served.stop(errors=True)
    assert "emulated device" not in said, "it was misused"
    assert said.count("Traceback") == 0


def test_reloads_under_load(serve_on_device: Callable[..., Any], folder: Path, visiting: Any) -> None:
    """The new process has a domain of its own before the old one leaves; no request fails."""
    served = serve_on_device()
    served.wait_for("backend /dev/dlb0$")
    with visiting(served) as visitors:
        visitors.wait_until(lambda answer: answer[0] == "1")
        text = (folder / "site_app.py").read_text()
        (folder / "site_app.py").write_text(text.replace("VERSION = 1", "VERSION = 200"))
        served.send(signal.SIGHUP)
        visitors.wait_until(lambda answer: answer[0] == "200")
        served.wait_for("Finished server process")
    assert visitors.failures == []
    served.wait_for("backend /dev/dlb0$", 2)
    end(served)


def test_what_is_killed_is_replaced(serve_on_device: Callable[..., Any]) -> None:
    """A worker process, or the serving process with its threads, whose domain the driver takes back."""
    served = serve_on_device()
    for _ in range(3):
        pid = int(served.get()[1])
        os.kill(pid, signal.SIGKILL)
        served.wait_for(rf"(Process \[{pid}\]|worker_\d \(process {pid}\)) was killed by SIGKILL")
        assert int(served.get()[1]) != pid
    end(served)
