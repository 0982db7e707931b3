"""The ladder of phase 2: it multiplies at every size, and its steps fit, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ladder import assert_multiplies
from tests.wrong_answers import answers_of
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.worker import call

ANSWERS = Path(__file__).parent / "wrong_answers" / "manual_schedule.py"
EXERCISES = ("2.1", "2.2", "2.3", "2.4", "2.5")
REFERENCES = dict.fromkeys(EXERCISES, REFERENCE)

# (exercise, "FILE.py:function") of every other right answer, read in a worker: they import TVM.
OTHERS = [
    (exercise_id, f"{ANSWERS}:{name}")
    for name, exercise_id, diagnosis in call(answers_of, "manual_schedule")
    if diagnosis is None
]


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 5, 3), (33, 33, 33), (1000, 517, 333)], ids=str)
def test_the_whole_ladder_multiplies_at_any_size(size) -> None:
    call(assert_multiplies, [size], tuple(REFERENCES.items()))


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
