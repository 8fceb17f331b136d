"""All of it needs cffi."""

from __future__ import annotations

import pytest

from . import need_cffi


@pytest.fixture(autouse=True)
def cffi() -> None:
    need_cffi()
