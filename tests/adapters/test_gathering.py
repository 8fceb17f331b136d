"""What is written in one turn of a loop is sent together, in order, and nothing is kept beyond the turn."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pydlb.adapters.gathering import GatheringTransport


class Recorded(asyncio.Transport):
    """A transport that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__({"peername": ("::1", 4, 0, 0), "sockname": ("::1", 5, 0, 0), "socket": "the socket"})
        self.told: list[Any] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.told.append(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.told.append("eof")

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")


@pytest.fixture
def below() -> Recorded:
    return Recorded()


def in_a_loop(below: Recorded, *turns: Any) -> None:
    """Call each with the transport in a turn of its own."""

    async def run() -> None:
        transport = GatheringTransport(below, asyncio.get_running_loop().call_soon)
        for turn in turns:
            turn(transport)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(run())


def write(*pieces: bytes) -> Any:
    def turn(transport: GatheringTransport) -> None:
        for piece in pieces:
            transport.write(piece)

    return turn


def test_a_header_and_its_body_are_sent_in_one_piece(below: Recorded) -> None:
    in_a_loop(below, write(b"header ", b"body"))
    assert below.told == [b"header body"]


def test_what_is_written_alone_is_sent_at_the_end_of_the_turn(below: Recorded) -> None:
    in_a_loop(below, write(b"one"), write(b"two"), write())
    assert below.told == [b"one", b"two"]


def test_an_application_that_does_not_give_way_is_not_kept_waiting_for_more_than_its_first_piece(
    below: Recorded,
) -> None:
    seen = []

    def turn(transport: GatheringTransport) -> None:
        for number in range(4):
            transport.write(b"%d" % number)
            seen.append(list(below.told))

    in_a_loop(below, turn)
    assert seen == [[], [b"01"], [b"01", b"2"], [b"01", b"2", b"3"]]


def test_all_is_sent_before_the_end(below: Recorded) -> None:
    def close(transport: GatheringTransport) -> None:
        transport.write(b"last words")
        transport.close()

    in_a_loop(below, close)
    assert below.told == [b"last words", "close"]


def test_all_is_sent_before_half_the_connection_ends(below: Recorded) -> None:
    def end(transport: GatheringTransport) -> None:
        transport.write(b"last words")
        transport.write_eof()

    in_a_loop(below, end)
    assert below.told == [b"last words", "eof"]


def test_nothing_is_sent_once_it_is_aborted(below: Recorded) -> None:
    def abort(transport: GatheringTransport) -> None:
        transport.write(b"never said")
        transport.abort()

    in_a_loop(below, abort)
    assert below.told == ["abort"]


def test_what_is_kept_counts_as_not_sent_yet(below: Recorded) -> None:
    sizes = []

    def turn(transport: GatheringTransport) -> None:
        transport.write(b"123")
        sizes.append(transport.get_write_buffer_size())
        transport.write(b"4")
        sizes.append(transport.get_write_buffer_size())

    in_a_loop(below, turn)
    assert sizes == [3, 0]


def test_a_buffer_that_its_owner_may_change_is_not_kept(below: Recorded) -> None:
    def turn(transport: GatheringTransport) -> None:
        buffer = bytearray(b"before")
        transport.write(buffer)
        buffer[:] = b"behind"

    in_a_loop(below, turn)
    assert below.told == [b"before"]


def test_the_order_is_kept_whatever_is_written(below: Recorded) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kinds = [bytes, bytearray, memoryview]
    expected = b""

    def turn(transport: GatheringTransport) -> None:
        nonlocal expected
        for _ in range(chance.randrange(5)):
            data = chance.randbytes(chance.choice([0, 1, 10, 2**16 - 1, 2**16, 2**17]))
            expected += data
            if chance.random() < 0.2:
                transport.writelines([data])
            else:
                transport.write(chance.choice(kinds)(data))

    in_a_loop(below, *[turn] * 50)
    assert b"".join(below.told) == expected


def test_who_is_introduced_to_it_is_told_the_addresses_and_others_the_socket(below: Recorded) -> None:
    def turn(transport: GatheringTransport) -> None:
        transport.introducing = True
        assert transport.get_extra_info("socket") is None
        assert transport.get_extra_info("peername") == ("::1", 4)
        transport.introducing = False
        assert transport.get_extra_info("socket") == "the socket"
        assert transport.get_extra_info("peername") == ("::1", 4, 0, 0)

    in_a_loop(below, turn)
