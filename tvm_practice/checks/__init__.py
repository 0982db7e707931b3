"""What "done" means for every exercise, one module a phase; here, how a check is run.

A check is a function of the exercise's name, `def tile(body, trial)`. It calls the body through `trial.call`, and raises
`verify.Wrong` with a tutor's sentence if the answer is not right. It runs in a process of its own, under a time limit and
a memory limit, so a body may do anything.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvm_practice.common import exercise, worker
from tvm_practice.common.exercise import LEARNER
from tvm_practice.common.loop_nest import LoopNest
from tvm_practice.common.refusal import in_plain_words
from tvm_practice.common.verify import Wrong

SECONDS = 60.0

TODO, RIGHT, WRONG = "todo", "right", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What became of one body: its state, the tutor's sentence, what it printed, and the loop nests to show."""

    id: str
    whose: str
    state: str
    sentence: str = ""
    printed: str = ""
    nests: tuple[tuple[LoopNest | None, LoopNest], ...] = ()


@dataclass
class Trial:
    """One run of a check: its random numbers, the way to call the body, and what it leaves to be shown."""

    seed: int
    rng: np.random.Generator = field(init=False)
    nests: list[tuple[LoopNest | None, LoopNest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def call(self, body: Callable[..., Any], *arguments: Any) -> Any:
        """body(*arguments); whatever it raises becomes a sentence with the line it was raised on."""
        try:
            return body(*arguments)
        except (NotImplementedError, exercise.BrokenAnswer, Wrong):
            raise
        except Exception as error:
            raise Wrong(_told(error, body)) from error

    def show(self, after: LoopNest, before: LoopNest | None = None) -> None:
        """Leave a loop nest to be shown; the first one counts, so that it is called before the verdict."""
        if not self.nests:
            self.nests.append((before, after))


@dataclass(frozen=True)
class Check:
    """A check as its module declares it."""

    id: str
    hints: tuple[str, ...]
    function: Callable[[Callable[..., Any], Trial], None]


def check(exercise_id: str, hints: tuple[str, str, str]) -> Callable[[Callable], Check]:
    """Declare the check of an exercise, and its hints from a nudge to nearly the code.

    The hints stand here, not in the lesson: beside the gap they would be read before the gap is tried.
    """

    def declare(function: Callable[[Callable[..., Any], Trial], None]) -> Check:
        return Check(exercise_id, hints, function)

    return declare


def check_of(exercise_id: str) -> Check:
    """The check of an exercise. Imports the lesson and TVM, so it is called in a worker or a test."""
    known = exercise.catalogue()[exercise_id]
    exercise.load_lesson(known.phase)
    return getattr(importlib.import_module(f"tvm_practice.checks.{known.phase}"), known.name)


def hints_of(exercise_id: str) -> tuple[str, ...]:
    return worker.call(_hints, exercise_id)


def _hints(exercise_id: str) -> tuple[str, ...]:
    return check_of(exercise_id).hints


def grade(
    exercise_id: str, whose: str = LEARNER, seed: int = 0, seconds: float = SECONDS
) -> Outcome:
    """Run the check of an exercise on somebody's body, in a process of its own.

    whose: "learner", "reference" or "FILE.py:function".
    """
    with worker.Worker(_grade_in_worker, exercise_id, whose, seed, limit_memory=True) as process:
        try:
            return process.answer(seconds)
        except worker.WorkerFailed as error:
            failure = error.failure
            return Outcome(
                exercise_id, whose, WRONG, _about_process(exercise_id, failure), failure.printed
            )


def _grade_in_worker(connection, exercise_id: str, whose: str, seed: int) -> None:
    trial = Trial(seed)
    state, sentence = RIGHT, ""
    try:
        body = exercise.body(exercise_id, whose)
        check_of(exercise_id).function(body, trial)
    except NotImplementedError:
        state = TODO
    except (Wrong, exercise.BrokenAnswer, exercise.BrokenLesson) as error:
        state, sentence = WRONG, str(error)
    except MemoryError:
        state, sentence = WRONG, f"exercise {exercise_id} {_TOO_MUCH_MEMORY}"
    connection.send(
        ("returned", Outcome(exercise_id, whose, state, sentence, "", tuple(trial.nests)))
    )


_TOO_MUCH_MEMORY = (
    f"asked for more than {worker.memory_limit() / worker.GIB:.0f} GiB of memory; "
    "an extent or a shape is probably far too large."
)


def _about_process(exercise_id: str, failure: worker.Failure) -> str:
    if failure.kind == "timeout":
        return f"Exercise {exercise_id} did not finish: {failure.sentence}. Look for a loop that never ends."
    if failure.kind == "died":
        if "bad_alloc" in failure.printed or "Cannot allocate memory" in failure.printed:
            return f"Exercise {exercise_id} {_TOO_MUCH_MEMORY}"
        return f"Exercise {exercise_id} did not survive: {failure.sentence}."
    # The check itself, or the lesson outside the exercise, raised something that nobody foresaw.
    place = re.findall(r'File ".*?(tvm_practice/[^"]+)", line (\d+)', failure.printed)
    where = f" (last seen in {place[-1][0]}, line {place[-1][1]})" if place else ""
    return f"Exercise {exercise_id} could not be checked{where}: {failure.sentence}"


def _told(error: Exception, body: Callable[..., Any]) -> str:
    """An exception of a learner's body as a sentence: the line of the body's own file, and what TVM or Python meant."""
    file = body.__code__.co_filename
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = (
        f"line {lines[-1].lineno}, `{lines[-1].line}`" if lines else f"the call of {body.__name__}"
    )
    if isinstance(error, MemoryError):
        return f"At {where}: it {_TOO_MUCH_MEMORY}"
    return f"At {where}: {in_plain_words(error)}"
