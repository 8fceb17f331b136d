"""What threads look up where there is no interpreter lock."""

from __future__ import annotations

import sys

from pydlb.serving.keys import hold_keys

HAS_LOCK = getattr(sys, "_is_gil_enabled", lambda: True)()


def test_another_thread_refers_to_what_is_looked_up() -> None:
    """A look-up can take a reference to such a key without the dictionary's lock."""
    table = {(str(number), self): number for number, self in enumerate([object()] * 3)}
    before = [sys.getrefcount(key) for key in table]
    hold_keys()
    after = [sys.getrefcount(key) for key in table]
    assert [more - less for more, less in zip(after, before, strict=True)] == [0 if HAS_LOCK else 1] * 3
