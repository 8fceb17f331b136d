"""JSON, with the place of each value."""

from __future__ import annotations

import bisect
import json
import re
from decimal import Decimal
from typing import Final, NoReturn

from .errors import EnvoyConfigError
from .nodes import Entry, Node

__all__ = ["read_json"]

_SPACE: Final = re.compile(r"[ \t\r\n]*")
# As deep as protobuf goes.
_DEEPEST: Final = 100


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except ArithmeticError:
        raise ValueError(f"{digits} is too large") from None


# Of strings and numbers the standard library takes care.
_DECODER: Final = json.JSONDecoder(parse_float=_decimal, parse_constant=_no_constant)


class _Reader:
    def __init__(self, text: str, source: str | None) -> None:
        self.text = text
        self.source = source
        self.lines = [found.end() for found in re.finditer(r"\n", text)]
        self.place = 0

    def line(self, place: int) -> int:
        return bisect.bisect_right(self.lines, place) + 1

    def fail(self, reason: str) -> NoReturn:
        raise EnvoyConfigError(f"bad JSON: {reason}", source=self.source, line=self.line(self.place))

    def skip(self) -> str:
        """Go to the next token; its first character, empty at the end."""
        found = _SPACE.match(self.text, self.place)
        assert found is not None
        self.place = found.end()
        return self.text[self.place : self.place + 1]

    def value(self, depth: int = 0) -> Node:
        if depth > _DEEPEST:
            self.fail(f"it is more than {_DEEPEST} levels deep")
        match self.skip():
            case "{":
                return self.mapping(depth)
            case "[":
                return self.sequence(depth)
            case _:
                return self.scalar()

    def scalar(self) -> Node:
        start = self.place
        try:
            value, self.place = _DECODER.raw_decode(self.text, start)
        except ValueError as error:
            if not isinstance(error, json.JSONDecodeError):
                self.fail(str(error))
            self.place = error.pos
            self.fail(error.msg[:1].lower() + error.msg[1:])
        return Node(value, self.line(start), start, self.place)

    def sequence(self, depth: int) -> Node:
        start, items = self.place, []
        self.place += 1
        if self.skip() == "]":
            self.place += 1
            return Node((), self.line(start), start, self.place)
        while True:
            items.append(self.value(depth + 1))
            if not self.goes_on("]"):
                return Node(tuple(items), self.line(start), start, self.place)

    def mapping(self, depth: int) -> Node:
        start = self.place
        entries: dict[str, Entry] = {}
        self.place += 1
        if self.skip() == "}":
            self.place += 1
            return Node(entries, self.line(start), start, self.place)
        while True:
            if self.skip() != '"':
                self.fail("a name in double quotes should stand here")
            key = self.scalar()
            if self.skip() != ":":
                self.fail("a colon should stand here")
            self.place += 1
            add_entry(entries, key, self.value(depth + 1))
            if not self.goes_on("}"):
                return Node(entries, self.line(start), start, self.place)

    def goes_on(self, end: str) -> bool:
        token = self.skip()
        if token not in (",", end) or not token:
            self.fail(f"a comma or {end!r} should stand here")
        self.place += 1
        return token == ","


def add_entry(entries: dict[str, Entry], key: Node, value: Node) -> None:
    """Add an entry to a mapping, or note that its key is there already."""
    name = str(key.value)
    if name in entries:
        first = entries[name]
        entries[name] = Entry(first.key, first.value, (*first.again, key))
    else:
        entries[name] = Entry(key, value)


def read_json(text: str, source: str | None) -> Node:
    """Read one value.

    Raises:
        EnvoyConfigError: It is no JSON.
    """
    reader = _Reader(text, source)
    node = reader.value()
    if reader.skip():
        reader.fail("there is something after its end")
    return node
