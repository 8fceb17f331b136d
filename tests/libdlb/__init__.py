"""The adapter to the vendor's library, over a stand-in of our own making."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import pytest

import pydlb

ROOT = Path(__file__).parents[2]
CORE = ROOT / "csrc"
FOLDERS = ("core", "engine", "software")
SOURCES = [
    Path(__file__).with_name("standin.c"),
    *sorted(path for name in FOLDERS for path in (CORE / name).glob("*.c")),
]


def need_cffi() -> None:
    """Skip the test that asks where there is none."""
    if importlib.util.find_spec("cffi") is None:
        pytest.skip("cffi has no wheel for this interpreter")


@functools.cache
def standin() -> str:
    """Build the stand-in, unless it is built already, and return its path."""
    library = ROOT / "build/standin/libdlb.so"
    newest = max(path.stat().st_mtime for folder in (CORE, Path(__file__).parent) for path in folder.rglob("*.[ch]"))
    if not library.exists() or library.stat().st_mtime < newest:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            compiler = shutil.which("cc") or "gcc"
            options = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
            folders = [f"-I{CORE / name}" for name in ("include", *FOLDERS)]
            subprocess.run([compiler, *options, *folders, "-o", built, *SOURCES], check=True)
            built.rename(library)
    return str(library)


def open_standin(version: str = "2.5") -> pydlb.Device:
    """Open the stand-in, as a device of a version."""
    need_cffi()
    with mock.patch.dict(os.environ, STANDIN_VERSION=version):
        return pydlb.open(f"libdlb:{standin()}")
