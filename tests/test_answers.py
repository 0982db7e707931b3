"""Every check is proven: it accepts the reference and other right answers, and rejects each wrong
one for its own reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.wrong_answers import answers_of, given_for_diagnoses, hints_of
from tvm_practice.checks import grade
from tvm_practice.common.exercise import GPU, LESSONS, REFERENCE, catalogue
from tvm_practice.common.worker import call

FOLDER = Path(__file__).parent / "wrong_answers"
FEWEST_WRONG, FEWEST_RIGHT = 4, 2


# Read in a worker: the answers import TVM and the lessons, which this process does not need.
ANSWERS = [
    (lesson, *answer)
    for lesson in LESSONS
    if (FOLDER / f"{lesson}.py").exists()
    for answer in call(answers_of, lesson)
]
HINTS = {
    (lesson, name): hint
    for lesson in dict.fromkeys(answer[0] for answer in ANSWERS)
    for name, hint in call(hints_of, lesson).items()
}
WRONG = [answer for answer in ANSWERS if answer[3] is not None]
RIGHT = [answer for answer in ANSWERS if answer[3] is None]


@pytest.fixture(autouse=True)
def _compiler_of_the_simulator(request) -> None:
    """Answers for a GPU are checked in the simulator."""
    known = catalogue()[request.node.callspec.params["exercise_id"]]
    if known.target == GPU and shutil.which("g++") is None:
        pytest.skip("the simulator compiles with g++, which is not installed")


def _names(answers: list) -> list[str]:
    return [f"{lesson}-{exercise_id}-{name}" for lesson, name, exercise_id, _ in answers]


@pytest.mark.parametrize("exercise_id", catalogue())
def test_the_reference_is_accepted(exercise_id: str) -> None:
    outcome = grade(exercise_id, REFERENCE, seed=1)
    assert outcome.state == "right", outcome.sentence


@pytest.mark.parametrize(("lesson", "name", "exercise_id", "diagnosis"), RIGHT, ids=_names(RIGHT))
def test_another_right_answer_is_accepted(lesson, name, exercise_id, diagnosis) -> None:
    outcome = grade(exercise_id, f"{FOLDER / lesson}.py:{name}", seed=2)
    assert outcome.state == "right", f"{name} is right, but was told: {outcome.sentence}"


@pytest.mark.parametrize(("lesson", "name", "exercise_id", "diagnosis"), WRONG, ids=_names(WRONG))
def test_a_wrong_answer_gets_its_own_diagnosis(lesson, name, exercise_id, diagnosis) -> None:
    outcome = grade(exercise_id, f"{FOLDER / lesson}.py:{name}", seed=3)
    assert outcome.state == "wrong", f"{name} is wrong, but counts as {outcome.state}"
    assert diagnosis in outcome.sentence, (
        f"{name} should be told {diagnosis!r}; it was told: {outcome.sentence}"
    )
    _, hint = HINTS.get((lesson, name), ("", ""))
    assert hint in outcome.hint, f"{name} should be given {hint!r}; it is given: {outcome.hint}"


@pytest.mark.parametrize("exercise_id", catalogue())
def test_an_exercise_has_enough_answers_and_each_wrong_one_a_diagnosis_of_its_own(
    exercise_id: str,
) -> None:
    diagnoses = [diagnosis for _, _, known, diagnosis in WRONG if known == exercise_id]
    others = [name for _, name, known, _ in RIGHT if known == exercise_id]
    assert len(diagnoses) >= FEWEST_WRONG, f"{exercise_id} has only {len(diagnoses)} wrong answers"
    assert len(set(diagnoses)) == len(diagnoses), (
        f"{exercise_id}: two wrong answers share a diagnosis"
    )
    assert len(others) >= FEWEST_RIGHT, f"{exercise_id} has only {len(others)} other right answers"


@pytest.mark.parametrize("exercise_id", catalogue())
def test_each_hint_for_a_diagnosis_is_the_one_of_some_wrong_answer(exercise_id: str) -> None:
    hints = call(given_for_diagnoses, exercise_id)
    assert len(set(hints)) == len(hints), f"{exercise_id} has a hint twice"
    named = {hint for known, hint in HINTS.values() if known == exercise_id}
    for fragment in named:
        found = [hint for hint in hints if fragment in hint]
        assert len(found) == 1, f"{exercise_id}: {fragment!r} is in {len(found)} of its hints"
    for hint in hints:
        assert any(fragment in hint for fragment in named), (
            f"{exercise_id}: no wrong answer names the hint {hint!r}"
        )
