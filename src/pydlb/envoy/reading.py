"""Documents from files and texts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import EnvoyConfigError
from .jsontext import read_json
from .nodes import Document

if TYPE_CHECKING:
    from .nodes import Node

__all__ = ["read_documents", "read_source"]

_MOST_BYTES: Final = 64 << 20
# What a file's name does not have, and every document has.
_TEXT: Final = re.compile(r"\n|:(\s|$)|^\s*[{\[]")


def read_source(source: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The text that is meant, and the file's name if it was one.

    Args:
        source: A path, or a text: something with a line break, or a colon at a word's end, or that begins with a brace.

    Raises:
        OSError: The file cannot be read.
        EnvoyConfigError: It is no text in UTF-8.
    """
    if isinstance(source, str) and _TEXT.search(source):
        return source.removeprefix("\ufeff"), None
    name = os.fspath(source)
    with Path(name).open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise EnvoyConfigError(f"it has more than {_MOST_BYTES >> 20} MB", source=name)
    try:
        return content.decode("utf-8-sig"), name
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise EnvoyConfigError("it is no text in UTF-8", source=name, line=line) from None


def read_documents(text: str, source: str | None) -> list[Document]:
    """Take a text in YAML or JSON apart.

    Raises:
        EnvoyConfigError: It is neither; or it is YAML, and PyYAML is not installed.
    """
    failure = None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return [Document(read_json(text, source), text, source, "json")]
        except EnvoyConfigError as error:
            # YAML may look so too; a text that has JSON's quotes is taken for JSON.
            if (source or "").endswith(".json") or re.match(r'\s*[{\[]\s*[{\[]*\s*"', text):
                raise
            failure = error
    try:
        return [Document(node, text, source, "yaml") for node in _read_yaml(text, source)]
    except ImportError:
        if failure is not None:
            raise failure from None
        raise EnvoyConfigError("YAML needs PyYAML: pip install 'pydlb[envoy]'; JSON does not", source=source) from None


def _read_yaml(text: str, source: str | None) -> list[Node]:
    from .yamltext import read_yaml

    return read_yaml(text, source)
