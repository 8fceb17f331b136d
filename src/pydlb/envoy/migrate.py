"""A configuration for Envoys without the DLB balancer: the same text, with `exact_balance` in the place of it."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from typing import TYPE_CHECKING, Final

from .balance import Dlb
from .configuration import read
from .documents import listeners_in
from .errors import EnvoyConfigError
from .fields import Field
from .program import program
from .reading import read_documents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .configuration import Configuration
    from .nodes import Document, Entry, Node

__all__ = ["Migration", "migrate"]

NOTE: Final = (
    "Envoy's DLB balancer was removed from it in September 2026; exact_balance, which levels open connections as well, "
    "takes its place."
)
_NAMES: Final = {"extend_balance", "extendBalance"}
_WIDTH: Final = 110
# What may stand before the first thing on a line.
_BEGINNING: Final = re.compile(r" *(- +)*")


@dataclasses.dataclass(frozen=True, slots=True)
class Migration:
    """What became of a configuration.

    Attributes:
        text: The configuration for today's Envoy; the same text where there was nothing to change.
        count: How many DLB balancers were replaced.
        python: A program with the same balance by pydlb.
        commented: Whether comments in the text say what was done: JSON has none.
        before: What it was.
    """

    text: str
    count: int
    python: str
    commented: bool
    before: Configuration


@dataclasses.dataclass(frozen=True, slots=True)
class _Edit:
    """Put `text` in the place of what stands from `start` to `end`."""

    start: int
    end: int
    text: str


def migrate(text: str, source: str | None) -> Migration:
    """Bring a configuration up to date.

    Args:
        text: All that :func:`pydlb.envoy.load` takes.
        source: The file's name; None for text.

    Raises:
        EnvoyConfigError: As :func:`pydlb.envoy.load`; or the text is written in a way that cannot be changed.
    """
    before = read(text, source)
    title = f"The listeners of {source or 'a configuration of Envoy'}, balanced by pydlb."
    documents = read_documents(text, source)
    edits = {edit.start: edit for document in documents for edit in _edits(document)}  # aliases lead to one place
    changed = _apply(text, list(edits.values()))
    commented = not documents or documents[0].syntax == "yaml"
    _check(before, changed, source)
    count = sum(isinstance(listener.balance, Dlb) for listener in before)
    return Migration(changed, count, program(before.listeners, title), commented, before)


def _check(before: Configuration, changed: str, source: str | None) -> None:
    """See that the changed text says the same of everything else."""
    try:
        after = read(changed, None)
    except EnvoyConfigError as error:
        raise EnvoyConfigError(f"it cannot be rewritten; change it by hand ({error})", source=source) from None
    if len(after) != len(before):
        raise EnvoyConfigError("it cannot be rewritten; change it by hand", source=source)
    for old, new in zip(before, after, strict=True):
        kept = (old.name, old.addresses, old.not_carried) == (new.name, new.addresses, new.not_carried)
        if not kept or isinstance(new.balance, Dlb) or new.exact_balance != (old.exact_balance or old.id is not None):
            raise EnvoyConfigError(f"{old.label} cannot be rewritten; change it by hand", source=source)


def _apply(text: str, edits: list[_Edit]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text.replace("\n", newline) + text[edit.end :]
    return text


# ---- where the balancers are -----------------------------------------------------------------------------------------


def _edits(document: Document) -> Iterator[_Edit]:
    kinds = {listener.origin.kind for listener in listeners_in(document)}
    if kinds & {"typed extension config", "typed config"}:
        yield _whole(document)
    elif kinds:
        for entry, places in _balancers(document.root, [document.root.start]):
            yield from _replace(document, entry, places)


def _balancers(node: Node, places: list[int]) -> Iterator[tuple[Entry, list[int]]]:
    """All entries `extend_balance`, with the places of the keys and elements that they are in."""
    if isinstance(node.value, dict):
        for key, entry in node.value.items():
            if key in _NAMES and isinstance(entry.value.value, dict):
                yield entry, [*places, entry.key.start]
            else:
                yield from _balancers(entry.value, [*places, entry.key.start])
    elif isinstance(node.value, tuple):
        for item in node.value:
            yield from _balancers(item, [*places, item.start])


def _whole(document: Document) -> _Edit:
    """For an extension by itself: the balance that takes its place in the listener."""
    text, root = document.text, document.root
    if document.syntax == "json":
        return _Edit(root.start, root.end, '{"connection_balance_config": {"exact_balance": {}}}')
    old = textwrap.indent(text[root.start : root.end].rstrip(), "#   ", lambda _: True)
    lines = [*_comment("", NOTE + " In the listener that had this extension, write"), "connection_balance_config:"]
    return _Edit(root.start, root.end, "\n".join([*lines, "  exact_balance: {}", "# in the place of", old]))


def _replace(document: Document, entry: Entry, places: list[int]) -> Iterator[_Edit]:
    text = document.text
    start, end = entry.key.start, entry.value.end
    if entry.value.start < entry.key.end:
        raise Field(entry.key, "extend_balance", document).error("its value stands before it; change it by hand")
    quote = '"' if text[start] == '"' else ""
    new = f"{quote}{'exactBalance' if entry.key.value == 'extendBalance' else 'exact_balance'}{quote}: {{}}"
    if document.syntax == "json":
        yield _Edit(start, end, new)
        return
    indent = text[_line_start(text, start) : start]
    if not indent.strip() and entry.value.block:
        old = text[start:end].rstrip()
        shown = [f"{indent}#   {line.removeprefix(indent)}".rstrip() for line in old.splitlines()]
        note = "\n".join([*_comment(indent, f"{NOTE} It was:"), *shown, indent])
        yield _Edit(_line_start(text, start), start + len(old), note + new)
        return
    line, indent = _line_for_comment(text, places)
    was = " ".join(text[start:end].split())
    note = "\n".join([*_comment(indent, f"{NOTE} It was:"), f"{indent}#   {was}", ""])
    if line == start:
        yield _Edit(start, end, note + new)
    else:
        yield _Edit(line, line, note)
        yield _Edit(start, end, new)


def _line_for_comment(text: str, places: list[int]) -> tuple[int, str]:
    """Where the innermost line begins that a key or an element is the first thing on, and its indentation."""
    for place in reversed(places):
        line = _line_start(text, place)
        if _BEGINNING.fullmatch(text, line, place):
            break
    return line, " " * (len(text[line:]) - len(text[line:].lstrip(" ")))


def _line_start(text: str, place: int) -> int:
    return text.rfind("\n", 0, place) + 1


def _comment(indent: str, words: str) -> list[str]:
    return textwrap.wrap(
        words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )
