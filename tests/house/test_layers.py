"""Who may use whom: arrows run one way, from the face to the core."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "csrc"
PACKAGE = ROOT / "src" / "pydlb"

# For each folder of the core, the folders whose headers it may include. Its own and include/ always.
MAY_INCLUDE = {
    "include": set(),
    "core": set(),
    "engine": set(),
    "software": {"core", "engine"},
    "device": {"core", "uapi"},
    "acceptor": {"core"},
    "inprocess": {"device", "emulate", "uapi"},
    "bind": {"inprocess"},
    "uapi": set(),
    "emulate": {"uapi"},
    "preload": {"emulate", "uapi"},
}

# System headers that would bring I/O, threads or the environment into what must have none.
WORLDLY = {"stdio.h", "unistd.h", "pthread.h", "fcntl.h", "signal.h", "time.h", "sys/mman.h", "sys/socket.h"}

# For each layer of the package, from the ground up, the modules in it. A module uses its own layer and those below.
LAYERS = [
    {"status"},
    {"errors", "_native"},
    {"types"},
    {"_backend"},
    {"port"},
    {"device"},
]


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include [<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def folder_of(header: str, own: str) -> str | None:
    for folder in [own, *MAY_INCLUDE]:
        if (CORE / folder / header).exists():
            return folder
    return None


@pytest.mark.parametrize("folder", sorted(MAY_INCLUDE))
def test_core_folders_include_only_what_lies_below(folder: str) -> None:
    for path in sorted((CORE / folder).glob("*.[ch]*")):
        for header in includes(path):
            target = folder_of(header, folder)
            assert target in {None, "include", folder} | MAY_INCLUDE[folder], f"{path.name} includes {header}"


def test_engine_does_no_io() -> None:
    for path in sorted((CORE / "engine").glob("*.[ch]")):
        assert not WORLDLY & set(includes(path)), path.name
        assert not re.search(r"\b(malloc|calloc|free|printf|getenv|exit)\(", path.read_text()), path.name


def test_core_knows_nothing_of_python() -> None:
    for path in sorted(CORE.rglob("*.[ch]")):
        assert "Python.h" not in includes(path), path.name


def test_core_has_no_bare_fences() -> None:
    """The thread sanitizer does not model them, so what they order would go unchecked."""
    for path in sorted(CORE.rglob("*.[ch]")):
        assert not re.search(r"atomic_thread_fence|__sync_synchronize|_mm_[msl]fence", path.read_text()), path.name


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports when it is loaded, or later, by their first name below pydlb."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pydlb.")}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 1 or module == "pydlb":
                found |= {module.split(".")[0]} if node.level == 1 and module else {a.name for a in node.names}
            elif module.startswith("pydlb."):
                found.add(module.split(".")[1])
    return found


def test_package_layers() -> None:
    for height, layer in enumerate(LAYERS):
        above = set().union(*LAYERS[height + 1 :])
        for module in sorted(layer - {"_native"}):
            upward = imports(PACKAGE / f"{module}.py") & above - {module}
            upward -= type_checking_imports(PACKAGE / f"{module}.py")
            assert not upward, f"{module} imports {upward} from above"


def type_checking_imports(path: Path) -> set[str]:
    """What is imported for type checkers only ties nothing when the program runs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom):
                    found |= {(inner.module or "").split(".")[-1]} | {alias.name for alias in inner.names}
    return found


@pytest.mark.parametrize("folder", ["examples", "benchmarks", "src/pydlb/cli"])
def test_programs_use_public_names_only(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        private = {name for name in imports(path) if name.startswith("_") and not name.startswith("__")}
        assert not private, f"{path} imports {private}"
