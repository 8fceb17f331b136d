"""A document as a tree whose nodes know where they are in the text."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Document", "Entry", "Node", "Scalar", "Syntax"]

Scalar: TypeAlias = "str | int | bool | Decimal | None"
Syntax = Literal["yaml", "json"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value and its place.

    Attributes:
        value: A scalar, a tuple of nodes, or a dictionary of entries by their keys.
        line: The line that it begins on, from 1.
        start: Its first character's offset in the text.
        end: The offset after its last one.
        block: Whether it is a list or mapping that is written by indentation.
    """

    value: Scalar | tuple[Node, ...] | dict[str, Entry]
    line: int
    start: int
    end: int
    block: bool = False

    @property
    def kind(self) -> str:
        """What it is, in JSON's words."""
        match self.value:
            case None:
                return "null"
            case bool():
                return "a boolean"
            case str():
                return "a string"
            case tuple():
                return "a list"
            case dict():
                return "an object"
            case _:
                return "a number"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A key of a mapping, with its value.

    Attributes:
        key: The key.
        value: The value.
        again: Where the same key stands once more.
    """

    key: Node
    value: Node
    again: tuple[Node, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One document of a text.

    Attributes:
        root: Its value.
        text: The whole text, of all its documents.
        source: The file's name; None for text.
        syntax: How it is written.
        warnings: What is strange in it, as it is found.
    """

    root: Node
    text: str
    source: str | None
    syntax: Syntax
    warnings: list[str] = dataclasses.field(default_factory=list)
