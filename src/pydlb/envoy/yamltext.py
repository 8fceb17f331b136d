"""YAML as Envoy reads it, with the place of each value.

PyYAML takes the text apart. What a scalar is worth follows Envoy's own reader: plain ``y``, ``on``, ``0x10``, ``010``
are true, true, 16 and 8, and other plain numbers are strings, which protobuf takes for numbers where it wants some.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from .errors import EnvoyConfigError
from .jsontext import add_entry
from .nodes import Entry, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read_yaml"]

_TRUE: Final = {"y", "yes", "true", "on"}
_FALSE: Final = {"n", "no", "false", "off"}
_NULL: Final = {"", "~", "null", "Null", "NULL"}
_INTEGER: Final = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[0-7]+|0|[1-9][0-9]*)")
_DEEPEST: Final = 100
# Values that a document repeats by its aliases.
_MOST_REPEATED: Final = 50_000
_MOST_DIGITS: Final = 100


def read_yaml(text: str, source: str | None) -> list[Node]:
    """Read all documents that are not empty.

    Raises:
        EnvoyConfigError: It is no YAML.
    """
    try:
        composed = [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]
        nodes = [_Builder(source).build(node, 0) for node in composed]
        return [node for node in nodes if node.value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        words = " ".join(part for part in (error.context, error.problem) if part)
        raise EnvoyConfigError(f"bad YAML: {words}", source=source, line=line) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise EnvoyConfigError(f"bad YAML: {str(error).splitlines()[0]}", source=source, line=line) from None
    except RecursionError:
        raise EnvoyConfigError("bad YAML: it is too deep", source=source) from None


class _Alias(NamedTuple):
    """A reference to an anchor: the node that is meant, and where the reference stands."""

    target: Any
    start_mark: Any
    end_mark: Any


class _Loader(yaml.SafeLoader):
    """PyYAML's, but it tells where the aliases are."""

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 - as PyYAML has it
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        return _Alias(super().compose_node(parent, index), event.start_mark, event.end_mark)


class _Builder:
    def __init__(self, source: str | None) -> None:
        self.source = source
        self.repeated = 0
        self.open: set[int] = set()
        self.seen: set[int] = set()

    def fail(self, reason: str, composed: Any) -> EnvoyConfigError:  # noqa: ANN401
        return EnvoyConfigError(f"bad YAML: {reason}", source=self.source, line=composed.start_mark.line + 1)

    def build(self, composed: Any, depth: int) -> Node:  # noqa: ANN401
        if id(composed) in self.seen:
            self.repeated += 1
            if self.repeated > _MOST_REPEATED:
                raise self.fail(f"its aliases repeat more than {_MOST_REPEATED} values", composed)
        self.seen.add(id(composed))
        place = (composed.start_mark.line + 1, composed.start_mark.index, _end(composed))
        target = composed.target if isinstance(composed, _Alias) else composed
        if isinstance(target, yaml.ScalarNode):
            return Node(_scalar(target), *place)
        if depth > _DEEPEST or id(target) in self.open:
            raise self.fail(f"it is more than {_DEEPEST} levels deep, or contains itself", composed)
        self.open.add(id(target))
        value: tuple[Node, ...] | dict[str, Entry]
        if isinstance(target, yaml.SequenceNode):
            value = tuple(self.build(item, depth + 1) for item in target.value)
        else:
            value = self.entries(target, depth)
        self.open.discard(id(target))
        return Node(value, *place, block=not (target is not composed or target.flow_style))

    def entries(self, composed: Any, depth: int) -> dict[str, Entry]:  # noqa: ANN401
        entries: dict[str, Entry] = {}
        merged: list[Any] = []
        for key, value in composed.value:
            name = key.target if isinstance(key, _Alias) else key
            if not isinstance(name, yaml.ScalarNode):
                raise self.fail("a name is a list or a mapping", key)
            if name.tag == "!ignore":  # Envoy's way to have anchors
                continue
            if name.value == "<<" and name.style is None:
                merged.append(value)
                continue
            place = (key.start_mark.line + 1, key.start_mark.index, key.end_mark.index)
            add_entry(entries, Node(name.value, *place), self.build(value, depth + 1))
        for value in merged:
            for name, entry in self.merged(value, depth):
                entries.setdefault(name, entry)
        return entries

    def merged(self, value: Any, depth: int) -> Iterator[tuple[str, Entry]]:  # noqa: ANN401
        """What ``<<`` brings: Kubernetes' readers know it, Envoy's does not."""
        value = value.target if isinstance(value, _Alias) else value
        for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            mapping = self.build(other, depth + 1).value
            if not isinstance(mapping, dict):
                raise self.fail("what is merged by << is no mapping", other)
            yield from mapping.items()


def _end(composed: Any) -> int:  # noqa: ANN401
    """The offset after it; PyYAML lets a block go on to the next token, over comments that are not its own."""
    if isinstance(composed, _Alias | yaml.ScalarNode) or composed.flow_style:
        return int(composed.end_mark.index)
    if isinstance(composed, yaml.SequenceNode):
        children = composed.value
    else:
        children = [child for pair in composed.value for child in pair]
    return max(map(_end, children), default=int(composed.start_mark.index))


def _scalar(composed: Any) -> str | int | bool | None:  # noqa: ANN401
    text: str = composed.value
    if composed.style is not None:  # quoted, or a block of text
        return text
    if text in _NULL:
        return None
    if text in {text.lower(), text.upper(), text.capitalize()}:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
    if len(text) <= _MOST_DIGITS and _INTEGER.fullmatch(text):
        digits = text.lstrip("+-")
        base = 16 if digits[:2] in {"0x", "0X"} else 8 if digits[0] == "0" else 10
        return -int(digits, base) if text[0] == "-" else int(digits, base)
    return text
