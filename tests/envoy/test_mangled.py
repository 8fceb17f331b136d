"""Files that somebody's editor, template or thumb got at: read, or refused with a reason; nothing else comes out."""

from __future__ import annotations

import contextlib
import json
import os
import random

import yaml

from pydlb.envoy import EnvoyConfigError
from pydlb.envoy.configuration import read
from pydlb.envoy.explain import explain
from pydlb.envoy.migrate import migrate

from .inputs import BOOTSTRAP, DESCRIBED, ENVOY_FILTER, bootstrap, dlb

TEXTS = [
    ENVOY_FILTER,
    BOOTSTRAP,
    bootstrap(dlb("id: 3")),
    json.dumps(yaml.safe_load(BOOTSTRAP)),
    json.dumps(yaml.safe_load(ENVOY_FILTER), indent=1),
    DESCRIBED,
]
BITS = [
    *"{}[]:,-&*!|>'\"#%@`\n \t?",
    "null",
    "true",
    "0x1",
    "---\n",
    "...",
    "<<: *a",
    "&a ",
    "*a ",
    "!ignore ",
    "!!str ",
]
BITS += [
    "- ",
    "extend_balance",
    "exact_balance: {}",
    "@type",
    "1e400",
    "\x00",
    "\ufeff",
    "é",
    "\u2028",
    "{{ .Values.x }}",
]


def mangle(text: str, chance: random.Random) -> str:
    """One to three things go wrong: something comes in, is lost, is repeated, or moves to the right."""
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(text) + 1)
        lines = text.split("\n")
        number = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                text = text[:place] + chance.choice(BITS) + text[place:]
            case 1:
                text = text[:place] + text[place + chance.choice([1, 3, 20]) :]
            case 2:
                lines.insert(chance.randrange(len(lines)), lines[number])
                text = "\n".join(lines)
            case _:
                lines[number] = " " * chance.choice([1, 2, 4]) + lines[number]
                text = "\n".join(lines)
    return text


def test_mangled_files() -> None:
    seed = int(os.environ.get("PDLB_TEST_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    read_all = 0
    for _ in range(400):
        text = mangle(chance.choice(TEXTS), chance)
        print(repr(text))
        with contextlib.suppress(EnvoyConfigError):
            assert explain(read(text, None))
            assert migrate(text, None).count <= len(read(text, None))
            read_all += 1
    assert 0 < read_all < 400
