"""Coalescing and bank conflicts, on addresses whose answer is known from the rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_practice.common.cuda.access import BANKS, SECTOR, Pattern, merged, patterns
from tvm_practice.common.cuda.kernels import WARP, Kernel
from tvm_practice.common.cuda.simulate import ACCESS, Traced

SOURCE = "__shared__ float tile_ptr[8192];\n"
KERNEL = Kernel("main", "", SOURCE, (1, 1, 1), (64, 1, 1), ("A",), ("float32",))
GLOBAL, SHARED, WRITE = 0, 1, 128


def traced(offsets: list[int], array: int = GLOBAL, width: int = 4) -> Traced:
    """Thread n accesses offsets[n], in bytes, once, all at the same place of the program."""
    accesses = np.zeros(len(offsets), ACCESS)
    accesses["site"], accesses["thread"] = 1, np.arange(len(offsets))
    accesses["offset"], accesses["array"], accesses["size"] = offsets, array, width
    return Traced(KERNEL, accesses, {1: 7})


def only(found: list[Pattern]) -> Pattern:
    (one,) = found
    return one


@pytest.mark.parametrize(
    ("step", "width", "sectors", "used"),
    [(4, 4, 4, 1.0), (8, 4, 8, 0.5), (32, 4, 32, 0.125), (16, 16, 16, 1.0), (0, 4, 1, 0.125)],
    ids=["neighbours", "every other", "a sector apart", "float4", "all the same"],
)
def test_a_request_moves_the_sectors_that_its_addresses_touch(step, width, sectors, used) -> None:
    one = only(patterns(traced([step * lane for lane in range(WARP)], width=width)))
    assert (one.array, one.line, one.requests) == ("A", 7, 1)
    assert (one.sectors, one.efficiency) == (sectors, pytest.approx(used))


@pytest.mark.parametrize(
    ("step", "width", "rounds"),
    [(4, 4, 1), (8, 4, 2), (128, 4, 32), (132, 4, 1), (0, 4, 1), (16, 16, 1), (8, 8, 1)],
    ids=[
        "neighbours",
        "every other",
        "one bank",
        "padded rows",
        "all the same",
        "float4",
        "float2",
    ],
)
def test_a_bank_delivers_one_word_after_the_other(step, width, rounds) -> None:
    one = only(patterns(traced([step * lane for lane in range(WARP)], SHARED, width)))
    assert one.shared
    assert one.ways == pytest.approx(rounds)


@pytest.mark.parametrize(
    ("lanes", "width", "rounds"),
    [
        # The first lane of each quarter reads bank 0: each is served in its own turn.
        ((0, 8, 16, 24), 16, 1),
        # Two of the first quarter read bank 0, and one of the third: two rounds, and one.
        ((0, 1, 16), 16, 1.5),
        # The halves of a warp, for 8 bytes: two of the first, two of the second.
        ((0, 15, 16, 31), 8, 2),
        ((0, 16), 8, 1),
        # No quarters for 4 bytes.
        ((0, 8, 16, 24), 4, 4),
    ],
)
def test_lanes_that_stay_away_do_not_move_the_others_up(lanes, width, rounds) -> None:
    request = traced([512 * n for n in range(len(lanes))], SHARED, width)
    request.accesses["thread"] = lanes
    assert only(patterns(request)).ways == pytest.approx(rounds)


def test_each_warp_sends_a_request_of_its_own() -> None:
    one = only(patterns(traced([4 * lane for lane in range(2 * WARP)])))
    assert (one.requests, one.sectors) == (2, 8)


def test_a_load_that_is_repeated_at_once_is_one_load() -> None:
    once, twice = traced([0, 4, 8, 12]), traced([0, 0, 4, 4])
    twice.accesses["thread"] = [0, 0, 1, 1]
    assert only(patterns(once)).asked == 16
    assert only(patterns(twice)).requests == 1


def test_patterns_of_one_array_are_added_up() -> None:
    one = only(patterns(traced([4 * lane for lane in range(WARP)])))
    both = only(merged([one, one]))
    assert (both.requests, both.sectors, both.efficiency) == (2, 8, 1.0)


@given(st.lists(st.integers(0, 2047), min_size=1, max_size=WARP))
def test_no_request_is_better_than_perfect_or_worse_than_a_sector_for_each_thread(words) -> None:
    offsets = [4 * word for word in words]
    one = only(patterns(traced(offsets)))
    assert len(set(offsets)) * 4 <= one.sectors * SECTOR
    assert one.sectors <= len(set(offsets))
    assert 1 <= only(patterns(traced(offsets, SHARED))).ways <= min(len(set(offsets)), BANKS)
