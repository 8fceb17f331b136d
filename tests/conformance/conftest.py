"""Where the program that runs others under an emulated device is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def emulate() -> Path:
    """The launcher: beside the extension module where pydlb is installed, or named by PDLB_EMULATE."""
    named = os.environ.get("PDLB_EMULATE")
    if named:
        return Path(named)
    from pydlb import _native

    return Path(_native.__file__).with_name("pdlb-emulate")
