"""Fields of messages, by the rules of protobuf's JSON mapping."""

from __future__ import annotations

import contextlib
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NoReturn

from .errors import EnvoyConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .nodes import Document, Node

__all__ = ["Field", "Message"]

_WHOLE: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_MOST_DIGITS: Final = 400


class Field:
    """A value in a document, and the way to it."""

    __slots__ = ("document", "node", "path")

    def __init__(self, node: Node, path: str, document: Document) -> None:
        self.node: Final = node
        self.path: Final = path
        self.document: Final = document

    def error(self, reason: str) -> EnvoyConfigError:
        """What is wrong with it."""
        return EnvoyConfigError(reason, source=self.document.source, line=self.node.line, path=self.path)

    def at(self, key: str, node: Node) -> Field:
        """A field of it."""
        return Field(node, f"{self.path}.{key}" if self.path else key, self.document)

    def warn(self, reason: str) -> None:
        """Note what is strange about it."""
        self.document.warnings.append(str(self.error(reason)))

    def expected(self, what: str) -> NoReturn:
        """Raise for a value of another kind."""
        raise self.error(f"it is {self.node.kind}, and should be {what}")

    # ---- scalars -----------------------------------------------------------------------------------------------------

    def string(self) -> str:
        """A string field."""
        if not isinstance(self.node.value, str):
            self.expected("a string")
        return self.node.value

    def boolean(self) -> bool:
        """A bool or BoolValue field."""
        if not isinstance(self.node.value, bool):
            self.expected("true or false")
        return self.node.value

    def uint32(self, most: int = 2**32 - 1) -> int:
        """A uint32 or UInt32Value field: a number, or one in a string."""
        number = self._number()
        if not 0 <= number <= most:
            raise self.error(f"{self.node.value} is out of range: it goes from 0 to {most}")
        if number != int(number):
            raise self.error(f"{self.node.value} is no whole number")
        return int(number)

    def _number(self) -> int | Decimal:
        value = self.node.value
        if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
            self.expected("a whole number")
        if not isinstance(value, str):
            return value
        if len(value) > _MOST_DIGITS:
            raise self.error("it has too many digits for a number")
        if _WHOLE.fullmatch(value):
            return int(value)
        if _NUMBER.fullmatch(value):
            with contextlib.suppress(ArithmeticError):
                return Decimal(value)
        raise self.error(f"{value!r} is no number")

    def enum(self, names: Mapping[str, int]) -> int:
        """An enum field: a value's name, in any case as Envoy takes it, or its number."""
        value = self.node.value
        if isinstance(value, str) and not _WHOLE.fullmatch(value):
            if value in names:
                return names[value]
            for name, number in names.items():
                if name.lower() == value.lower():
                    self.warn(f"{value!r} is written {name!r}; Envoy does not mind, other programs may")
                    return number
            raise self.error(f"there is no {value!r}: it is one of {', '.join(names)}")
        number = self.int32()
        if number not in names.values():
            raise self.error(f"no value has the number {number}: {_numbered(names)}")
        return number

    def int32(self) -> int:
        """An int32 field."""
        number = self._number()
        if not -(2**31) <= number < 2**31:
            raise self.error(f"{self.node.value} is out of range")
        if number != int(number):
            raise self.error(f"{self.node.value} is no whole number")
        return int(number)

    # ---- messages ----------------------------------------------------------------------------------------------------

    def message(self, name: str, known: Iterable[str], *, also: Iterable[str] = ()) -> Message:
        """A message field.

        Args:
            name: The message's name, for errors.
            known: Its fields' names.
            also: Keys that it may have beside, such as ``"@type"``.
        """
        if not isinstance(self.node.value, dict):
            self.expected("an object")
        known = tuple(known)
        names = {name: name for name in known} | {_camel(name): name for name in known} | {key: key for key in also}
        found: dict[str, Field] = {}
        for key, entry in self.node.value.items():
            if entry.again:
                raise self.at(key, entry.again[0]).error("it stands here twice")
            if key not in names:
                fields = ", ".join(known) or "none"
                raise self.at(key, entry.key).error(f"no such field: {key!r} in {name}, which has {fields}")
            field = names[key]
            if field in found:
                raise self.at(key, entry.key).error(f"{field!r} has already been set, under its other name")
            found[field] = self.at(key, entry.value)
        return Message(self, {field: value for field, value in found.items() if value.node.value is not None})

    def items(self) -> list[Field]:
        """A repeated field; Envoy takes one message for a list of one."""
        if isinstance(self.node.value, dict):
            self.warn("it is an object, and should be a list: taken for a list of one, as Envoy does")
            return [self]
        if not isinstance(self.node.value, tuple):
            self.expected("a list")
        found = [Field(item, f"{self.path}[{index}]", self.document) for index, item in enumerate(self.node.value)]
        for item in found:
            if item.node.value is None:
                raise item.error("null cannot be an element of a list")
        return found


class Message:
    """The fields of a message that are set; those that are null are not."""

    __slots__ = ("field", "set")

    def __init__(self, field: Field, found: dict[str, Field]) -> None:
        self.field: Final = field
        self.set: Final = found

    def get(self, name: str) -> Field | None:
        """A field, if it is set."""
        return self.set.get(name)

    def string(self, name: str) -> str:
        """A string field; empty if it is not set."""
        field = self.set.get(name)
        return field.string() if field else ""

    def boolean(self, name: str, default: bool) -> bool:
        """A boolean field."""
        field = self.set.get(name)
        return field.boolean() if field else default

    def uint32(self, name: str, default: int = 0) -> int:
        """A uint32 field."""
        field = self.set.get(name)
        return field.uint32() if field else default

    def one_of(self, *names: str) -> tuple[str, Field] | None:
        """Which of a oneof's fields is set.

        Raises:
            EnvoyConfigError: Several are.
        """
        found = [(name, self.set[name]) for name in self.set if name in names]
        if len(found) > 1:
            name, field = found[1]
            raise field.error(f"{name!r} has already been set (either directly or as part of a oneof)")
        return found[0] if found else None


def _camel(name: str) -> str:
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)


def _numbered(names: Mapping[str, int]) -> str:
    return ", ".join(f"{number} is {name}" for name, number in names.items())
