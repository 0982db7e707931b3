"""What "done" means for every exercise, one module a phase; here, how a check is run.

A check is a function of the exercise's name, `def tile(body, trial)`. It calls the body through
`trial.call`, and raises `verify.Wrong` with a tutor's sentence if the answer is not right. It runs
in a process of its own, under a time limit and a memory limit, so a body may do anything.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import linecache
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tvm_practice.common import exercise, worker
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.loop_nest import LoopNest
from tvm_practice.common.refusal import in_plain_words
from tvm_practice.common.target import UnusableTarget
from tvm_practice.common.verify import Wrong

SECONDS = 60.0

TODO, RIGHT, WRONG = "todo", "right", "wrong"
PRINTED_SHOWN = 12  # lines


@dataclass(frozen=True)
class Outcome:
    """What became of one body: its state, the tutor's sentence, the hint that belongs to it, what
    it printed, and the loop nests to show."""

    id: str
    whose: str
    state: str
    sentence: str = ""
    hint: str = ""
    printed: str = ""
    nests: tuple[tuple[LoopNest | None, LoopNest], ...] = ()


@dataclass
class Trial:
    """One run of a check: its random numbers, the way to call the body, and what it leaves to be
    shown."""

    seed: int
    rng: np.random.Generator = field(init=False)
    nests: list[tuple[LoopNest | None, LoopNest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def call(self, body: Callable[..., Any], *arguments: Any) -> Any:
        """body(*arguments); what it raises becomes a sentence with the line it was raised on."""
        try:
            return body(*arguments)
        except (exercise.BrokenAnswer, Wrong):
            raise
        except NotImplementedError as error:
            # The stub's own, unless it comes out of a library: then it is an error like others.
            raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
            if raised_in == body.__code__.co_filename:
                raise
            raise Wrong(_told(error, body)) from error
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise Wrong(_told(error, body)) from error

    def show(self, after: LoopNest, before: LoopNest | None = None) -> None:
        """Leave a loop nest to be shown; the first one counts, so that it is called before the
        verdict."""
        if not self.nests:
            self.nests.append((before, after))


@dataclass(frozen=True)
class Check:
    """A check as its module declares it."""

    id: str
    hints: tuple[str, ...]
    function: Callable[[Callable[..., Any], Trial], None]
    told: Mapping[str, str] = field(default_factory=dict)

    def hint_for(self, diagnosis: str) -> str:
        """The hint that belongs to a diagnosis; "" where only the tiers help."""
        return next((hint for told, hint in self.told.items() if re.search(told, diagnosis)), "")


# The hint for whatever step is told that it left the loop nest as it was.
UNCHANGED = {
    "the loop nest is what it was before": (
        "Which object do your primitives belong to? Only those of the `sch` that was given change "
        "it."
    ),
}


def check(
    exercise_id: str, hints: tuple[str, str, str], told: Mapping[str, str] | None = None
) -> Callable[[Callable], Check]:
    """Declare the check of an exercise, and its hints from a nudge to nearly the code.

    told: hints for whoever was told a diagnosis, by a regular expression that is found in it; the
    first counts. The diagnosis says what is wrong, its hint which way to look.

    The hints stand here, not in the lesson: beside the gap they would be read before the gap is
    tried.
    """

    def declare(function: Callable[[Callable[..., Any], Trial], None]) -> Check:
        return Check(exercise_id, hints, function, told or {})

    return declare


def check_of(exercise_id: str) -> Check:
    """The check of an exercise. Imports the lesson and TVM: to be called in a worker or test."""
    exercise.load_lesson(exercise.catalogue()[exercise_id].lesson)
    return _check(exercise_id)


def _check(exercise_id: str) -> Check:
    known = exercise.catalogue()[exercise_id]
    return getattr(importlib.import_module(f"tvm_practice.checks.{known.lesson}"), known.name)


def hints_of(exercise_id: str) -> tuple[str, ...]:
    return worker.call(_hints, exercise_id)


def _hints(exercise_id: str) -> tuple[str, ...]:
    with suppress(exercise.BrokenLesson):  # whoever broke the lesson may need the hint most
        exercise.load_lesson(exercise.catalogue()[exercise_id].lesson)
    return _check(exercise_id).hints


def grade(
    exercise_id: str, whose: str = LEARNER, seed: int = 0, seconds: float = SECONDS
) -> Outcome:
    """Run the check of an exercise on somebody's body, in a process of its own.

    whose: "learner", "reference" or "FILE.py:function". Raises WorkerFailed if it is the reference
    that cannot run, because its lesson is broken, and UnusableTarget if this machine cannot run the
    check, whatever the answer is.
    """
    arguments = (exercise_id, whose, seed, seconds)
    with worker.Worker(_grade_in_worker, *arguments, limit_memory=True) as process:
        try:
            outcome = process.answer(seconds)
        except worker.WorkerFailed as error:
            failure = error.failure
            if failure.sentence.startswith(_UNUSABLE):
                raise UnusableTarget(failure.sentence.removeprefix(_UNUSABLE)) from None
            if whose == REFERENCE and failure.sentence.startswith("BrokenLesson"):
                raise
            sentence = _about_process(exercise_id, whose, failure)
            outcome = Outcome(exercise_id, whose, WRONG, sentence)
        return replace(outcome, printed=_by_the_body(process.printed()))


_UNUSABLE = f"{UnusableTarget.__name__}: "  # as a worker tells an exception


def _grade_in_worker(
    connection: Connection, exercise_id: str, whose: str, seed: int, seconds: float
) -> None:
    # A crash, and a body that is still running just before it is stopped, leave their stack in what
    # was printed; _about_process finds the line there.
    faulthandler.enable()
    faulthandler.dump_traceback_later(0.95 * seconds)
    trial = Trial(seed)
    state, sentence, hint = RIGHT, "", ""
    try:
        body = exercise.body(exercise_id, whose)
        check_of(exercise_id).function(body, trial)
    except NotImplementedError:
        state = TODO
    except Wrong as error:
        state, sentence = WRONG, str(error)
        hint = check_of(exercise_id).hint_for(sentence)
    except exercise.BrokenAnswer as error:
        state, sentence = WRONG, str(error)
    except exercise.BrokenLesson as error:
        if whose == REFERENCE:
            raise
        state, sentence = WRONG, str(error)
    except MemoryError:
        state, sentence = WRONG, f"Exercise {exercise_id} {_TOO_MUCH_MEMORY}"
    with suppress(OSError):  # it has printed all that it may
        sys.stdout.flush()
    outcome = Outcome(exercise_id, whose, state, sentence, hint, "", tuple(trial.nests))
    connection.send(("returned", outcome))


_TOO_MUCH_MEMORY = (
    f"asked for more than {worker.memory_limit() / worker.GIB:.0f} GiB of memory; "
    "an extent or a shape is probably far too large."
)


# A line of a body, and why it may have ended the process.
_CRASHES = (
    (r"te\.compute", "TVM crashes on a rule that returns nothing; is its `return` missing?"),
)


def _about_process(exercise_id: str, whose: str, failure: worker.Failure) -> str:
    line = _last_line(exercise_id, whose, failure.printed)
    at = f" at {line}" if line else ""
    if failure.kind == "timeout":
        return (
            f"Exercise {exercise_id} did not finish: {failure.sentence}{at}. Look for a loop that "
            "never ends."
        )
    if failure.kind == "died":
        if "bad_alloc" in failure.printed or "Cannot allocate memory" in failure.printed:
            return f"Exercise {exercise_id} {_TOO_MUCH_MEMORY}"
        why = next((f" {why}" for pattern, why in _CRASHES if re.search(pattern, line)), "")
        return f"Exercise {exercise_id} did not survive: {failure.sentence}{at}.{why}"
    # The check itself raised something that nobody foresaw.
    place = re.findall(r'File ".*?(tvm_practice/[^"]+)", line (\d+)', failure.printed)
    where = f" (last seen in {place[-1][0]}, line {place[-1][1]})" if place else ""
    return f"Exercise {exercise_id} could not be checked{where}: {failure.sentence}"


def _last_line(exercise_id: str, whose: str, printed: str) -> str:
    """The body's line that faulthandler saw last, as "line 7, `while True:`"; "" if it saw none."""
    file = whose.rpartition(":")[0]
    if whose in (LEARNER, REFERENCE):
        file = str(exercise.lesson_path(exercise.catalogue()[exercise_id].lesson))
    stack = re.split(r"^(?:Fatal Python error|Timeout \()", printed, flags=re.MULTILINE)[-1]
    found = re.search(rf'File "{re.escape(file)}", line (\d+)', stack)
    if found is None or stack == printed:
        return ""
    return f"line {found[1]}, `{linecache.getline(file, int(found[1])).strip()}`"


def _by_the_body(printed: str) -> str:
    """What a body printed, cut to the end that a person would look at: without stacks and without
    TVM's own remarks."""
    text = re.split(
        r"^(?:Fatal Python error|Timeout \(|Traceback \(most|!!!!!!! )", printed, flags=re.MULTILINE
    )[0]
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # TVM's own show() colours what it prints
    lines = [
        line[:200] for line in text.splitlines() if not re.match(r"\[\d\d:\d\d:\d\d\] /", line)
    ]
    before = len(lines) - PRINTED_SHOWN
    left_out = [f"... {before} lines before these"] if before > 0 else []
    return "\n".join([*left_out, *lines[-PRINTED_SHOWN:]])


def _told(error: Exception, body: Callable[..., Any]) -> str:
    """An exception of a learner's body as a sentence: the line of the body's own file, and what TVM
    or Python meant."""
    file = body.__code__.co_filename
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = (
        f"line {lines[-1].lineno}, `{lines[-1].line}`" if lines else f"the call of {body.__name__}"
    )
    if isinstance(error, MemoryError):
        return f"At {where}: it {_TOO_MUCH_MEMORY}"
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return (
            f"At {where}: {type(error).__name__} ends the program. An exercise returns its answer."
        )
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return (
            f"At {where}: it has printed, or written into a file, more than "
            f"{worker.FILE_LIMIT >> 20} MiB. Look for a loop that never ends."
        )
    return f"At {where}: {in_plain_words(error)}"
