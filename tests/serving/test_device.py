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
