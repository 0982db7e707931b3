"""The ladder of phase 2: it multiplies at every size, and its steps fit, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ladder import assert_multiplies, tile_and_slabs
from tests.wrong_answers import answers_of
from tvm_practice.common import target
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.worker import call

ANSWERS = Path(__file__).parent / "wrong_answers" / "manual_schedule.py"
EXERCISES = ("2.1", "2.2", "2.3", "2.4", "2.5")
REFERENCES = dict.fromkeys(EXERCISES, REFERENCE)

# (exercise, "FILE.py:function") of every other right answer, read in a worker: they import TVM.
OTHERS = [
    (exercise_id, f"{ANSWERS}:{name}")
    for name, exercise_id, diagnosis in call(answers_of, "manual_schedule")
    if diagnosis is None and exercise_id in EXERCISES
]


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 5, 3), (33, 33, 33), (1000, 517, 333)], ids=str)
def test_the_whole_ladder_multiplies_at_any_size(size) -> None:
    call(assert_multiplies, [size], tuple(REFERENCES.items()))


# One row; fewer rows than a tile; sides that no tile divides; K = 1; a prime number of tiles.
@pytest.mark.parametrize(
    "size", [(1, 300, 77), (1, 1, 1), (3, 40, 9), (8 * 31, 64, 20), (66, 211, 1)], ids=str
)
def test_the_best_schedule_of_a_size_multiplies(size) -> None:
    call(assert_multiplies, [size], None)


@given(M=st.integers(1, 5000), N=st.integers(1, 5000))
@settings(max_examples=200, deadline=None)
def test_tile_and_slabs_fit_the_matrix(M: int, N: int) -> None:
    """In this process: what they need to know of the CPU is asked only once."""
    rows, columns, slabs = tile_and_slabs(M, N)
    padded = -(-M // rows) * rows * (-(-N // columns) * columns)
    widest = tile_and_slabs(1 << 12, 1 << 12)[:2]
    assert (-(-M // rows)) % slabs == 0, "a slab would hold a part of a tile"
    assert rows <= M, "a row of the tile is padding in every tile"
    assert padded <= -(-M // widest[0]) * widest[0] * (-(-N // widest[1]) * widest[1])


@pytest.mark.parametrize(
    ("lanes", "registers", "expected"),
    [(16, 32, (8, 32)), (8, 16, (6, 16)), (4, 16, (6, 8)), (4, 32, (8, 8))],
    ids=["AVX-512", "AVX2", "SSE", "NEON"],
)
def test_the_tile_follows_from_the_vector_unit(monkeypatch, lanes, registers, expected) -> None:
    monkeypatch.setattr(target, "vector_unit", lambda: (lanes, registers))
    assert target.register_tile() == expected
    for M, N in [(1000, 517), (7, 9), (4096, 64)]:
        rows, columns = target.register_tile(M, N)
        vectors = columns // lanes
        assert rows * vectors + vectors + 1 <= registers, "the tile would spill"


@pytest.mark.parametrize("count", range(len(EXERCISES)))
def test_every_rung_multiplies(count: int) -> None:
    call(assert_multiplies, [(1, 1, 1), (7, 5, 3), (33, 65, 17)], tuple(REFERENCES.items())[:count])


@pytest.mark.parametrize(
    ("exercise_id", "answer"), OTHERS, ids=lambda text: text.rpartition(":")[2]
)
def test_another_right_answer_fits_between_the_references(exercise_id: str, answer: str) -> None:
    steps = {**REFERENCES, exercise_id: answer}
    call(assert_multiplies, [(7, 5, 3), (33, 101, 24)], tuple(steps.items()))


@pytest.mark.parametrize("pick", [0, 1, -1], ids=["first", "second", "last"])
def test_a_ladder_without_a_single_reference_multiplies(pick: int) -> None:
    steps = tuple((known, [a for e, a in OTHERS if e == known][pick]) for known in EXERCISES)
    call(assert_multiplies, [(7, 5, 3), (33, 101, 24)], steps)
