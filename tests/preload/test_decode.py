"""The reader of stores that were trapped, held against the assembler and the disassembler of binutils."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")

SOURCES = Path(__file__).parents[2] / "csrc" / "preload"
SEED = int(os.environ.get("PDLB_TEST_SEED") or random.SystemRandom().randrange(2**32))
SLOT = 32  # bytes between instructions; none is longer than 15

VECTOR, GENERAL, SWAPPED, HIGH_BYTE, IMMEDIATE, MEMORY, STRING_MOVE, STRING_FILL = range(8)
NO_MASK, OPMASK, VECTOR_MASK = range(3)


class Operand(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_int),
        ("index", ctypes.c_int),
        ("scale", ctypes.c_uint),
        ("displacement", ctypes.c_int64),
        ("rip_relative", ctypes.c_bool),
        ("address_32", ctypes.c_bool),
        ("segment", ctypes.c_char),
    )


class Store(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_int),
        ("length", ctypes.c_uint),
        ("width", ctypes.c_uint),
        ("reg", ctypes.c_uint),
        ("skip", ctypes.c_uint),
        ("mask", ctypes.c_int),
        ("mask_reg", ctypes.c_uint),
        ("element", ctypes.c_uint),
        ("immediate", ctypes.c_uint64),
        ("repeat", ctypes.c_bool),
        ("memory", Operand),
    )


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("decode") / "decode.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCES / "decode.c"], check=True)
    decoder = ctypes.CDLL(str(library))
    decoder.decode_store.restype = ctypes.c_bool
    return decoder


def decode(decoder: ctypes.CDLL, code: bytes) -> Store | None:
    store = Store()
    return store if decoder.decode_store(code, ctypes.byref(store)) else None


# ---- against the assembler -----------------------------------------------------------------------------------------

# Intel syntax: {m} is the memory operand, {x}, {y}, {z} a vector register, {r8}, {r4} ... a general one, {k} an opmask.
# Source, bytes, and where it matters: first byte of the register, kind of mask, bytes of a mask's element.
FORMS: dict[str, tuple[int, ...]] = {
    "movntdq {m}, {x}": (VECTOR, 16),
    "movntps {m}, {x}": (VECTOR, 16),
    "movntpd {m}, {x}": (VECTOR, 16),
    "movaps {m}, {x}": (VECTOR, 16),
    "movapd {m}, {x}": (VECTOR, 16),
    "movups {m}, {x}": (VECTOR, 16),
    "movupd {m}, {x}": (VECTOR, 16),
    "movdqa {m}, {x}": (VECTOR, 16),
    "movdqu {m}, {x}": (VECTOR, 16),
    "movss {m}, {x}": (VECTOR, 4),
    "movsd {m}, {x}": (VECTOR, 8),
    "movd {m}, {x}": (VECTOR, 4),
    "movq {m}, {x}": (VECTOR, 8),
    "movlps {m}, {x}": (VECTOR, 8),
    "movlpd {m}, {x}": (VECTOR, 8),
    "movhps {m}, {x}": (VECTOR, 8, 8),
    "movhpd {m}, {x}": (VECTOR, 8, 8),
    "pextrb {m}, {x}, 5": (VECTOR, 1, 5),
    "pextrw {m}, {x}, 6": (VECTOR, 2, 12),
    "pextrd {m}, {x}, 3": (VECTOR, 4, 12),
    "pextrq {m}, {x}, 1": (VECTOR, 8, 8),
    "extractps {m}, {x}, 2": (VECTOR, 4, 8),
    "vmovntdq {m}, {x}": (VECTOR, 16),
    "vmovntdq {m}, {y}": (VECTOR, 32),
    "vmovntps {m}, {y}": (VECTOR, 32),
    "vmovntpd {m}, {y}": (VECTOR, 32),
    "vmovaps {m}, {x}": (VECTOR, 16),
    "vmovaps {m}, {y}": (VECTOR, 32),
    "vmovups {m}, {y}": (VECTOR, 32),
    "vmovupd {m}, {y}": (VECTOR, 32),
    "vmovdqa {m}, {y}": (VECTOR, 32),
    "vmovdqu {m}, {x}": (VECTOR, 16),
    "vmovdqu {m}, {y}": (VECTOR, 32),
    "vmovss {m}, {x}": (VECTOR, 4),
    "vmovsd {m}, {x}": (VECTOR, 8),
    "vmovd {m}, {x}": (VECTOR, 4),
    "vmovq {m}, {x}": (VECTOR, 8),
    "vmovlps {m}, {x}": (VECTOR, 8),
    "vmovhps {m}, {x}": (VECTOR, 8, 8),
    "vpextrd {m}, {x}, 1": (VECTOR, 4, 4),
    "vpextrq {m}, {x}, 1": (VECTOR, 8, 8),
    "vextractf128 {m}, {y}, 1": (VECTOR, 16, 16),
    "vextracti128 {m}, {y}, 0": (VECTOR, 16, 0),
    "vmovntdq {m}, {z}": (VECTOR, 64),
    "vmovups {m}, {z}": (VECTOR, 64),
    "vmovapd {m}, {z}": (VECTOR, 64),
    "vmovdqu8 {m}, {z}": (VECTOR, 64),
    "vmovdqu16 {m}, {e32}": (VECTOR, 32),
    "vmovdqu32 {m}, {e16}": (VECTOR, 16),
    "vmovdqu64 {m}, {z}": (VECTOR, 64),
    "vmovdqa64 {m}, {e32}": (VECTOR, 32),
    "vmovntdq {m}, {e16}": (VECTOR, 16),
    "vmovss {m}, {e16}": (VECTOR, 4),
    "vmovq {m}, {e16}": (VECTOR, 8),
    "vmovhps {m}, {e16}": (VECTOR, 8, 8),
    "vpextrq {m}, {e16}, 1": (VECTOR, 8, 8),
    "vextractf32x4 {m}, {z}, 3": (VECTOR, 16, 48),
    "vextracti64x2 {m}, {e32}, 1": (VECTOR, 16, 16),
    "vextracti64x4 {m}, {z}, 1": (VECTOR, 32, 32),
    "vextractf32x8 {m}, {z}, 0": (VECTOR, 32, 0),
    "vmovdqu8 {m}{k}, {z}": (VECTOR, 64, 0, OPMASK, 1),
    "vmovdqu16 {m}{k}, {z}": (VECTOR, 64, 0, OPMASK, 2),
    "vmovdqu32 {m}{k}, {e32}": (VECTOR, 32, 0, OPMASK, 4),
    "vmovdqa64 {m}{k}, {e16}": (VECTOR, 16, 0, OPMASK, 8),
    "vmovups {m}{k}, {z}": (VECTOR, 64, 0, OPMASK, 4),
    "vmovupd {m}{k}, {z}": (VECTOR, 64, 0, OPMASK, 8),
    "vmovsd {m}{k}, {e16}": (VECTOR, 8, 0, OPMASK, 8),
    "vextracti64x4 {m}{k}, {z}, 1": (VECTOR, 32, 32, OPMASK, 8),
    "vmaskmovps {m}, {v}, {x}": (VECTOR, 16, 0, VECTOR_MASK, 4),
    "vmaskmovpd {m}, {v}, {y}": (VECTOR, 32, 0, VECTOR_MASK, 8),
    "vpmaskmovd {m}, {v}, {y}": (VECTOR, 32, 0, VECTOR_MASK, 4),
    "vpmaskmovq {m}, {v}, {x}": (VECTOR, 16, 0, VECTOR_MASK, 8),
    "mov {m}, {r8}": (GENERAL, 8),
    "mov {m}, {r4}": (GENERAL, 4),
    "mov {m}, {r2}": (GENERAL, 2),
    "mov {m}, {r1}": (GENERAL, 1),
    "mov {m}, {h}": (HIGH_BYTE, 1),
    "movnti {m}, {r8}": (GENERAL, 8),
    "movnti {m}, {r4}": (GENERAL, 4),
    "movbe {m}, {r8}": (SWAPPED, 8),
    "movbe {m}, {r2}": (SWAPPED, 2),
    "movdiri {m}, {r8}": (GENERAL, 8),
    "movdiri {m}, {r4}": (GENERAL, 4),
    "movdir64b {r8}, {m}": (MEMORY, 64),
    "mov byte ptr {m}, {i}": (IMMEDIATE, 1),
    "mov word ptr {m}, {i}": (IMMEDIATE, 2),
    "mov dword ptr {m}, {i}": (IMMEDIATE, 4),
    "mov qword ptr {m}, {i}": (IMMEDIATE, 8),
}
NAMES = {
    size: names.split()
    for size, names in {
        8: "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15",
        4: "eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d",
        2: "ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w",
        1: "al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b",
    }.items()
}


class Case(NamedTuple):
    text: str
    expected: dict[str, object]


def address(chance: random.Random, *, legacy: bool) -> tuple[str, dict[str, object]]:
    """A memory operand, and what it is read as."""
    names = NAMES[4] if chance.random() < 0.1 else NAMES[8]
    if legacy:
        names = names[:8]
    displacement = chance.choice([0, 1, -1, 16, 0x40, -0x80, 0x7F, 0x80, 0x200, -0x1000, 0x12345678, -0x7FFFFFFF])
    seen: dict[str, object] = {"base": -1, "index": -1, "scale": 0, "rip_relative": False, "segment": b"\0"}
    seen["address_32"] = names[0] == "eax"
    way = chance.randrange(8)
    if way == 0:
        parts = ["rip"]
        seen |= {"rip_relative": True, "address_32": False}
    elif way == 1:
        displacement |= 1
        parts = []
        seen["address_32"] = False
    else:
        parts = []
        if way != 2:
            seen["base"] = chance.randrange(len(names))
            parts.append(names[int(str(seen["base"]))])
        if way >= 5 or way == 2:
            seen["index"] = chance.choice([n for n in range(len(names)) if n != 4])
            seen["scale"] = chance.randrange(1 if way == 2 else 0, 4)
            parts.append(f"{names[int(str(seen['index']))]}*{2 ** int(str(seen['scale']))}")
    seen["displacement"] = displacement
    segment = chance.choice(["", "", "", "", "fs:", "gs:"])
    if segment:
        seen["segment"] = segment[:1].encode()
    if not parts and not segment:
        segment = "ds:"
    sign = "-" if displacement < 0 else "+"
    return f"{segment}[{'+'.join(parts)}{sign}{abs(displacement):#x}]", seen


def make_case(chance: random.Random, form: str) -> Case:
    source, width, skip, mask, element = (*FORMS[form], *(0,) * 5)[:5]
    memory, operand = address(chance, legacy="{h}" in form)
    number = chance.randrange(32 if re.search(r"\{(z|e16|e32)\}", form) else 4 if "{h}" in form else 16)
    mask_reg = chance.randrange(1, 8) if mask == OPMASK else chance.randrange(16) if mask == VECTOR_MASK else 0
    immediate = chance.choice([0, 1, 0x7F, 0x12])
    if re.search(r"\{e(16|32)\}", form):
        number |= 16  # with a lower one the assembler may choose a shorter encoding, which is fine, but tried already
    letter = {"{x}": "x", "{y}": "y", "{z}": "z", "{e16}": "x", "{e32}": "y"}
    text = form.replace("{m}", memory).replace("{i}", str(immediate)).replace("{k}", f"{{k{mask_reg}}}")
    for name, kind in letter.items():
        text = text.replace(name, f"{kind}mm{number}")
    text = text.replace("{v}", f"{'x' if '{x}' in form else 'y'}mm{mask_reg}").replace(
        "{h}", ("ah", "ch", "dh", "bh")[number % 4]
    )
    for size, names in NAMES.items():
        text = text.replace(f"{{r{size}}}", names[number % 16])
    if source == MEMORY and operand["address_32"]:
        text = text.replace(NAMES[8][number], NAMES[4][number], 1)
    expected = {"source": source, "width": width, "skip": skip, "mask": mask, "mask_reg": mask_reg, "element": element}
    if source == IMMEDIATE:
        expected |= {"immediate": immediate}
    else:
        expected |= {"reg": number}
    return Case(text, expected | operand)


def assemble(folder: Path, texts: list[str]) -> tuple[bytes, bytes]:
    """Their code, each in a slot of its own, and their lengths."""
    lines = [".intel_syntax noprefix"]
    for text in texts:
        lines += [".text", f".balign {SLOT}, 0x90", "1:", text, "2:", ".data", ".byte 2b - 1b"]
    lines += [".text", f".balign {SLOT}, 0x90"]
    (folder / "code.s").write_text("\n".join(lines) + "\n")
    subprocess.run(["as", "-o", folder / "code.o", folder / "code.s"], check=True)
    for section in "text", "data":
        command = ["objcopy", "-O", "binary", "-j", f".{section}", folder / "code.o", folder / section]
        subprocess.run(command, check=True)
    return (folder / "text").read_bytes(), (folder / "data").read_bytes()


def test_what_the_assembler_makes(decoder: ctypes.CDLL, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    cases = [make_case(chance, form) for form in FORMS for _ in range(100)]
    code, lengths = assemble(tmp_path, [case.text for case in cases])
    for n, case in enumerate(cases):
        store = decode(decoder, code[SLOT * n : SLOT * (n + 1)])
        assert store is not None, case.text
        seen = {
            name: getattr(store, name)
            for name in ("source", "width", "skip", "mask", "mask_reg", "element", "reg", "immediate")
        }
        seen |= {name: getattr(store.memory, name) for name, _ in Operand._fields_}
        assert {name: seen[name] for name in case.expected} == case.expected, case.text
        assert store.length == lengths[n], case.text


@pytest.mark.parametrize(
    ("text", "source", "width", "repeat"),
    [
        ("movsb", STRING_MOVE, 1, False),
        ("rep movsb", STRING_MOVE, 1, True),
        ("rep movsq", STRING_MOVE, 8, True),
        ("rep movsd", STRING_MOVE, 4, True),
        ("rep stosw", STRING_FILL, 2, True),
        ("stosq", STRING_FILL, 8, False),
    ],
)
def test_strings(decoder: ctypes.CDLL, tmp_path: Path, text: str, source: int, width: int, repeat: bool) -> None:
    code, lengths = assemble(tmp_path, [text])
    store = decode(decoder, code)
    assert store is not None
    assert (store.source, store.width, store.repeat, store.length) == (source, width, repeat, lengths[0])


def test_pauses(decoder: ctypes.CDLL, tmp_path: Path) -> None:
    texts = ["umonitor rax", "umonitor r9", "umwait ecx", "umwait r13d", "tpause ecx"]
    others = ["pause", "lfence", "mfence", "sfence", "ud2", "clflushopt [rax]", "clwb [rax]", "movdqu [rax], xmm0"]
    code, lengths = assemble(tmp_path, texts + others)
    found = [decoder.decode_pause(code[SLOT * n :]) for n in range(len(texts + others))]
    assert found == [*lengths[: len(texts)], *[0] * len(others)]


# ---- against the disassembler --------------------------------------------------------------------------------------

# What a disassembler may call an instruction that stores what it has in registers, or by which it is one.
STORE = re.compile(
    r"v?mov(nt)?(dq|dqa|dqu|dq[au](8|16|32|64)|aps|apd|ups|upd|ps|pd|ss|sd|d|q|lps|lpd|hps|hpd|i)|"
    r"v?pextr[bwdq]|v?extractps|vextract[fi](128|(32|64)x[248])|vp?maskmov(ps|pd|d|q)|"
    r"mov|movabs|movbe|movdiri|movdir64b|movs|stos"
)
PREFIX = re.compile(
    r"((\{evex\}|\{vex\}|rep[nz]*|lock|data16|addr32|rex\S*|[cdefgs]s|xacquire|xrelease|notrack|bnd)\s+)*"
)


def random_code(chance: random.Random) -> bytes:
    """Bytes among which stores are not rare."""
    start = b"".join(chance.choice([b"", b"", b"", b"\x66", b"\xf2", b"\xf3", b"\x67", b"\x64"]) for _ in range(2))
    rex = chance.choice([b"", b"", bytes([0x40 + chance.randrange(16)])])
    opcodes = [
        0x11,
        0x13,
        0x17,
        0x29,
        0x2B,
        0x7E,
        0x7F,
        0xC3,
        0xD6,
        0xE7,
        0xAE,
        0x14,
        0x15,
        0x16,
        0x19,
        0x1B,
        0x39,
        0x3B,
        0x2E,
        0x2F,
        0x8E,
        0xF1,
        0xF8,
        0xF9,
    ]
    opcode = bytes([chance.choice([chance.randrange(256), *opcodes])])

    def anything() -> int:
        return chance.randrange(256)

    head = chance.choice(
        [
            rex + bytes([chance.choice([0x88, 0x89, 0xC6, 0xC7, 0xA4, 0xA5, 0xAA, 0xAB, anything()])]),
            rex + b"\x0f" + opcode,
            rex + b"\x0f\x38" + opcode,
            rex + b"\x0f\x3a" + opcode,
            b"\xc5" + bytes([anything()]) + opcode,
            b"\xc4" + bytes([anything() & 0xE0 | chance.randrange(4), anything()]) + opcode,
            b"\x62" + bytes([anything() & 0xF0 | chance.randrange(4), anything() | 4, anything()]) + opcode,
        ]
    )
    return (start + head + chance.randbytes(16))[:15]


def disassemble(folder: Path, codes: list[bytes]) -> list[tuple[int, str]]:
    """Length and text of the instruction in each slot."""
    (folder / "code").write_bytes(b"".join(code.ljust(SLOT, b"\x90") for code in codes))
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--insn-width=16", folder / "code"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[int, tuple[int, str]] = {}
    for offset, hexadecimal, text in re.findall(
        r"^ *([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t(.*)$", listing, re.MULTILINE
    ):
        found[int(offset, 16)] = (len(hexadecimal.split()), text)
    return [found.get(SLOT * n, (0, "(nothing)")) for n in range(len(codes))]


def test_what_no_assembler_makes(decoder: ctypes.CDLL, tmp_path: Path) -> None:
    """Of random bytes, what is taken for a store is one, and as long as the disassembler says."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    taken: list[tuple[bytes, Store]] = []
    while len(taken) < 10_000:
        code = random_code(chance)
        store = decode(decoder, code)
        # More than 15 bytes are no instruction.
        if store is not None and store.length <= 15:
            taken.append((code[: store.length], store))
    for (code, store), (length, text) in zip(taken, disassemble(tmp_path, [code for code, _ in taken]), strict=True):
        what = f"{code.hex()} is {text!r}"
        if "(bad)" in text or "{bad}" in text:
            continue  # the processor does not carry it out, so it is never trapped
        words = PREFIX.sub("", text, count=1)
        assert STORE.fullmatch(words.split()[0]), what
        assert length == store.length, what
