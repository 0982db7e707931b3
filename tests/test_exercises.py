"""The course's own order: stubs, references, checks and hints belong together, and the stubs are
unsolved as shipped."""

from __future__ import annotations

import inspect
import os
import re
from functools import cache

import pytest

from tvm_practice.checks import check_of, grade
from tvm_practice.common import exercise
from tvm_practice.common.exercise import LEARNER, PHASES, REFERENCE, catalogue
from tvm_practice.common.worker import call

AS_SHIPPED = os.environ.get("TVM_PRACTICE_AS_SHIPPED") == "1"
IDS = list(catalogue())


def test_the_five_phases_declare_their_exercises_in_order() -> None:
    expected = {"1": 4, "2": 9, "3": 3, "4": 3, "5": 4}
    of_phases = [known for known in IDS if catalogue()[known].lesson in PHASES]
    assert of_phases == [
        f"{phase}.{n}" for phase, count in expected.items() for n in range(1, count + 1)
    ]
    assert [catalogue()[f"{n}.1"].lesson for n in range(1, 6)] == list(PHASES)


@cache
def _outcome(exercise_id: str):
    return grade(exercise_id, LEARNER)


def _skip_unless_a_stub(exercise_id: str) -> None:
    """The tests of a stub's form are for stubs; an exercise being worked on is left alone."""
    outcome = _outcome(exercise_id)
    if outcome.state != "todo":
        assert not AS_SHIPPED, f"{exercise_id} is shipped as {outcome.state}: {outcome.sentence}"
        pytest.skip(f"{exercise_id} is being worked on")


@pytest.mark.parametrize("exercise_id", IDS)
def test_a_stub_as_shipped_is_unsolved_and_says_so(exercise_id: str) -> None:
    _skip_unless_a_stub(exercise_id)
    known = catalogue()[exercise_id]
    source = exercise.lesson_path(known.lesson).read_text(encoding="utf-8")
    if AS_SHIPPED:
        assert f"# TODO({exercise_id}):" in source
        assert f'NotImplementedError("{exercise_id} {known.name}")' in source


@pytest.mark.parametrize("exercise_id", IDS)
def test_your_answer_is_right(exercise_id: str) -> None:
    """This one grades the file in front of you: unsolved is skipped, wrong fails with the tutor's
    sentence."""
    outcome = _outcome(exercise_id)
    if outcome.state == "todo":
        pytest.skip(f"{exercise_id} is still to do, at {catalogue()[exercise_id].place}")
    assert outcome.state == "right", outcome.sentence


def _stub_facts(exercise_id: str) -> tuple[str, str, str]:
    stub, reference = (exercise.body(exercise_id, whose) for whose in (LEARNER, REFERENCE))
    return str(inspect.signature(stub)), str(inspect.signature(reference)), stub.__doc__ or ""


@pytest.mark.parametrize("exercise_id", IDS)
def test_a_stub_has_the_signature_of_its_reference_and_a_docstring(exercise_id: str) -> None:
    _skip_unless_a_stub(exercise_id)
    stub, reference, docstring = call(_stub_facts, exercise_id)
    assert re.sub(r"tvm_practice\.\w+\.", "", stub) == re.sub(r"tvm_practice\.\w+\.", "", reference)
    assert len(docstring) > 40, f"{exercise_id} has no docstring to work from"


def _check_facts(exercise_id: str) -> tuple[str, tuple[str, ...]]:
    declared = check_of(exercise_id)
    return declared.id, declared.hints


@pytest.mark.parametrize("exercise_id", IDS)
def test_an_exercise_has_a_check_and_three_hints(exercise_id: str) -> None:
    checked, hints = call(_check_facts, exercise_id)
    assert checked == exercise_id, f"the check of {exercise_id} says it is {checked}'s"
    assert len(hints) == 3, f"{exercise_id} has {len(hints)} hints"
    assert all(len(hint) > 20 for hint in hints), f"{exercise_id} has an empty hint"
