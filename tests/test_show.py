"""What a person sees of a loop nest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_practice.checks import _check, grade
from tvm_practice.common import show
from tvm_practice.common.exercise import catalogue
from tvm_practice.common.worker import call

WRONG = Path(__file__).resolve().parent / "wrong_answers" / "manual_schedule.py"


@pytest.mark.parametrize(
    ("exercise_id", "answer", "loop"),
    [("2.2", "vectorize_the_rows", "i_1"), ("2.2", "vectorize_the_tiles", "j_0")],
)
def test_the_loop_that_a_diagnosis_is_about_is_pointed_at(exercise_id, answer, loop) -> None:
    outcome = grade(exercise_id, f"{WRONG}:{answer}", seed=1)
    ((before, after),) = outcome.nests
    with show.console.capture() as capture:
        show.nest(after, before, diagnosis=outcome.sentence)
    (pointed,) = [line for line in capture.get().splitlines() if "<-- this loop" in line]
    told = outcome.sentence.partition("Loop ")[2].partition(" ")[0]
    assert f"for {told} in" in pointed
    assert told.startswith(loop)


def hints_that_would_be_links() -> list[str]:
    """Hints are Markdown, in which `x["y"](z)` outside of backticks is a link."""
    found = []
    for exercise_id in catalogue():
        known = _check(exercise_id)
        for hint in (*known.hints, *(known.told or {}).values()):
            if "](" in re.sub(r"`[^`]*`", "", hint):
                found.append(f"{exercise_id}: {hint}")
    return found


def test_code_in_a_hint_is_shown_as_it_is() -> None:
    assert call(hints_that_would_be_links, seconds=120) == []


SHOWN_IN_A_PIPE = """
from tvm_practice.common import show
from tvm_practice.common.loop_nest import Line, LoopNest
long = "name_" * 40
loops = [(Line(0, f"for {one} in range(3):"), Line(1, long)) for one in ("i", "j")]
nests = [LoopNest((), (), lines) for lines in loops]
show.code(f"x = {long}")
show.side_by_side(long, "y", ("yours", "reference"))
show.nest(*nests)
show.nest(nests[0])
show.say("prose " * 40)
show.table(("a", "b"), [("1", "2")], "a caption " * 30)
"""


def test_in_a_pipe_no_name_breaks_and_no_line_ends_in_blanks() -> None:
    done = subprocess.run([sys.executable, "-c", SHOWN_IN_A_PIPE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("name_" * 40) == 5
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()]


def test_a_diagnosis_that_names_no_loop_points_at_none() -> None:
    outcome = grade("2.2", f"{WRONG}:vectorize_nothing", seed=1)
    ((_, after),) = outcome.nests
    assert not show.offending(after, "The result would be right, but no loop is vectorized.")
    assert not show.offending(after, "Loop nowhere is parallel.")
