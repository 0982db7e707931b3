"""The registry of exercises, and whose body runs: the learner's or the reference.

A lesson file marks its exercises with `@exercise("2.1", "Tile the loop nest")`. This module reads
lesson files as text before it runs them: a learner's file may hold a syntax error, and that must
cost one exercise, not the whole lesson.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tvm_practice.common import old_names
from tvm_practice.common.command import typed

PACKAGE = Path(__file__).resolve().parent.parent
PHASES = ("te_basics", "manual_schedule", "schedule_analysis", "relay_import", "auto_tune")
LABS = (
    "conv1d",
    "fused_gelu",
    "tensorize",
    "cost_model",
    "tensor_cores",
    "depthwise_conv2d",
    "attention",
    "whole_models",
    "deploy",
    "fleet",
)
LESSONS = PHASES + LABS

TITLES = {
    "te_basics": "Tensor expressions: what to compute",
    "manual_schedule": "Schedules: how to compute it",
    "schedule_analysis": "Measuring schedules",
    "relay_import": "Whole models: from PyTorch to Relax",
    "auto_tune": "Searching for schedules",
    "conv1d": "One-dimensional convolution",
    "fused_gelu": "A matmul with a fused epilogue",
    "tensorize": "The CPU's own dot product",
    "cost_model": "Inside the search",
    "tensor_cores": "Tensor cores: a warp multiplies tiles",
    "attention": "Attention in one kernel",
    "depthwise_conv2d": "Depthwise convolution: a whole GPU at work",
    "whole_models": "Whole models, tuned",
    "deploy": "Deployment: a model without its compiler",
    "fleet": "A fleet of machines that measure",
}

CPU, GPU = "cpu", "gpu"

LEARNER = "learner"
REFERENCE = "reference"


def exercise(exercise_id: str, title: str, target: str = CPU) -> Callable[[Callable], Callable]:
    """Mark a function of a lesson as an exercise. The function itself is left as it is.

    target: CPU or GPU, the kind of target with which the lesson takes it up.
    """

    def mark(function: Callable) -> Callable:
        function.exercise_id = exercise_id  # type: ignore[attr-defined]
        function.exercise_title = title  # type: ignore[attr-defined]
        function.exercise_target = target  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Exercise:
    """An exercise as its lesson file declares it; `line` is where the function starts."""

    id: str
    title: str
    lesson: str
    name: str
    line: int
    target: str = CPU

    @property
    def place(self) -> str:
        return f"{lesson_file(self.lesson)}:{self.line}"


class BrokenAnswer(Exception):
    """Python cannot read the learner's source of an exercise; the message says where and why."""


class BrokenLesson(Exception):
    """A lesson file cannot be read outside its exercises, or an exercise is missing; the message
    says the way out."""


def lesson_path(lesson: str) -> Path:
    """The file of a phase, or of a lab."""
    return PACKAGE / "labs" / f"{lesson}.py" if lesson in LABS else PACKAGE / f"{lesson}.py"


def lesson_file(lesson: str) -> str:
    """The file as a person names it, from the root of the repository."""
    return f"tvm_practice/labs/{lesson}.py" if lesson in LABS else f"tvm_practice/{lesson}.py"


def lesson_module(lesson: str) -> str:
    """What follows `python -m` to run a lesson."""
    return f"tvm_practice.labs.{lesson}" if lesson in LABS else f"tvm_practice.{lesson}"


# ---------------------------------------------------------------------------- reading a lesson file


@dataclass(frozen=True)
class Piece:
    """One exercise of a lesson as text: lines[first:last], 0-based, and the exercise it holds."""

    first: int
    last: int
    exercise: Exercise


_DECORATOR = re.compile(r"^@exercise\(")
_MARK = re.compile(
    r"""^@exercise\(\s*(["'])(.+?)\1\s*,\s*(["'])(.+?)\3(?P<gpu>\s*,\s*target=GPU)?""", re.DOTALL
)
_DEFINITION = re.compile(r"^def (\w+)\(")
# What may stand at the left margin inside a function: nothing, a comment, or a closing bracket.
_STILL_INSIDE = re.compile(r"^(?:\s|#|[)\]}]|$)")
# What starts something new at the left margin, whatever stood before it.
_STARTS = re.compile(r"^(?:@|def |class |import |from |# -{20})")


def source(lesson: str) -> str:
    """A lesson file as text, whatever an editor made of its encoding. Raises BrokenLesson if there
    is none."""
    try:
        return lesson_path(lesson).read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        raise BrokenLesson(gone(lesson)) from None


def gone(lesson: str) -> str:
    """What to do about a lesson file that is not there."""
    return (
        f"{lesson_file(lesson)} is gone: save it again from your editor, or "
        f"`git checkout -- {lesson_file(lesson)}` gives back what was committed last."
    )


def pieces(lesson: str, lines: list[str]) -> list[Piece]:
    """The exercises of a lesson file, in the order in which they stand there."""
    found = []
    for first, line in enumerate(lines):
        if not _DECORATOR.match(line):
            continue
        definition = next(
            (
                n
                for n in range(first + 1, min(first + 6, len(lines)))
                if _DEFINITION.match(lines[n])
            ),
            None,
        )
        if definition is None:
            continue
        mark = _MARK.match("\n".join(lines[first:definition]))
        if mark is None:
            continue
        last = definition + 1
        while (
            last < len(lines)
            and _STILL_INSIDE.match(lines[last])
            and not _STARTS.match(lines[last])
        ):
            last += 1
        name = _DEFINITION.match(lines[definition])[1]  # type: ignore[index]
        kind = GPU if mark["gpu"] else CPU
        where = Exercise(mark[2], mark[4], lesson, name, definition + 1, kind)
        found.append(Piece(first, last, where))
    return found


def end_of_section(lines: list[str], first: int) -> int:
    """Where, from a line on, something new starts at the left margin."""
    return next((n for n in range(first, len(lines)) if _STARTS.match(lines[n])), len(lines))


_CHECK = re.compile(
    r"""^@check\(\s*(["'])(?P<id>.+?)\1.*?^def (?P<name>\w+)\(""", re.DOTALL | re.MULTILINE
)


def _checked(lesson: str) -> list[tuple[str, str]]:
    """(id, function name) of every exercise that has a check: those a lesson must have."""
    path = PACKAGE / "checks" / f"{lesson}.py"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [(found["id"], found["name"]) for found in _CHECK.finditer(text)]


@cache
def catalogue() -> dict[str, Exercise]:
    """Every exercise by its id, in order, read from the lesson files without running them.

    An exercise that was deleted from its lesson, also with all of the file, or renamed there, is
    still listed if it has a check, so that the rest of the course goes on.
    """
    exercises = {}
    for lesson in LESSONS:
        lines = source(lesson).splitlines() if lesson_path(lesson).exists() else []
        declared = {piece.exercise.id: piece.exercise for piece in pieces(lesson, lines)}
        for exercise_id, name in _checked(lesson):
            known = declared.get(exercise_id)
            if known is None or known.name != name:
                line = next((n for n, text in enumerate(lines, 1) if f"def {name}(" in text), 1)
                title = known.title if known else name.replace("_", " ")
                declared[exercise_id] = Exercise(exercise_id, title, lesson, name, line)
        exercises |= {known: declared[known] for known in sorted(declared)}
    return exercises


def exercises_of(lesson: str, target: str | None = None) -> list[Exercise]:
    """The exercises of a lesson in order; target: only those for the CPU, or for a GPU."""
    return [
        known
        for known in catalogue().values()
        if known.lesson == lesson and target in (None, known.target)
    ]


@cache
def load_lesson(lesson: str) -> ModuleType:
    """Run a lesson file as the module that `lesson_module` names, and return it.

    An exercise that is no valid Python is replaced by a function that raises BrokenAnswer with the
    line and the reason, so that the rest of the lesson still runs. Raises BrokenLesson if the fault
    lies outside the exercises.
    """
    name = lesson_module(lesson)
    if name in sys.modules:
        return sys.modules[name]
    path = lesson_path(lesson)
    text = source(lesson)
    try:
        code = _compiled(text, path)
    except SyntaxError:
        code = _compiled(_without_broken_exercises(lesson, text), path)
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    module.BrokenAnswer = BrokenAnswer  # type: ignore[attr-defined]
    sys.modules[name] = module
    setattr(importlib.import_module(name.rpartition(".")[0]), lesson, module)
    try:
        exec(code, module.__dict__)
    except BaseException as error:  # SystemExit too
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        at = next((frame for frame in frames if frame.filename == str(path)), frames[-1])
        raise BrokenLesson(
            f"{lesson_file(lesson)} cannot be run: line {at.lineno}, `{at.line}`, raises "
            f"{type(error).__name__}: {old_names.about(error) or f'{error}.'} {_way_out(lesson)}"
        ) from error
    return module


def _compiled(source: str, path: Path) -> CodeType:
    # dont_inherit: this file's `from __future__ import annotations` is not the lesson's.
    return compile(source, str(path), "exec", dont_inherit=True)


def _way_out(lesson: str) -> str:
    return (
        "That line is outside the exercises; "
        f"`git diff {lesson_file(lesson)}` shows what changed there."
    )


def _without_broken_exercises(lesson: str, source: str) -> str:
    """The source with a stand-in for every exercise that Python cannot compile; as many lines."""
    path = lesson_path(lesson)
    lines = source.splitlines()
    left = pieces(lesson, lines)
    for piece in left:
        try:
            _compiled("\n".join(lines[piece.first : piece.last]), path)
        except SyntaxError as error:
            _stand_in(lines, piece, piece.last, piece.first + (error.lineno or 1), error)
    while True:
        try:
            _compiled("\n".join(lines), path)
        except SyntaxError as error:
            number = error.lineno or 1
            owner = _owner(left, lines, number)
            if owner is None:
                raise BrokenLesson(
                    f"{_unreadable(lesson, lines, number, error)} {_way_out(lesson)}"
                ) from None
            left.remove(owner[0])
            _stand_in(lines, *owner, number, error)
        else:
            return "\n".join(lines)


def _owner(pieces: list[Piece], lines: list[str], number: int) -> tuple[Piece, int] | None:
    """The exercise behind which a faulty line stands, and where its text ends, if it has one.

    A statement that slipped to the left margin ends the function for Python, not for the learner.
    """
    for piece in pieces:
        end = end_of_section(lines, piece.last)
        if piece.last < number <= end:
            return piece, end
    return None


def _stand_in(lines: list[str], piece: Piece, end: int, number: int, error: SyntaxError) -> None:
    """Replace lines[piece.first:end] by a function that raises BrokenAnswer about line `number`."""
    known = piece.exercise
    sentence = _unreadable(known.lesson, lines, number, error)
    function = [
        f"@exercise({known.id!r}, {known.title!r})",
        f"def {known.name}(*_, **__): raise BrokenAnswer({sentence!r})",
    ]
    lines[piece.first : end] = function + [""] * (end - piece.first - len(function))


def _unreadable(lesson: str, lines: list[str], number: int, error: SyntaxError) -> str:
    text = lines[number - 1].strip() if number <= len(lines) else ""
    shown = f", `{text}`" if text else ""
    return f"Python cannot read {lesson_file(lesson)}, line {number}{shown}: {error.msg}."


# ---------------------------------------------------------------------------------- whose body runs


def body(exercise_id: str, whose: str = REFERENCE) -> Callable[..., Any]:
    """The function that answers an exercise.

    whose: "learner" for the lesson file, "reference" for the solution, or "FILE.py:function" for
    any other answer. Raises BrokenLesson when the function is not there, BrokenAnswer when its
    source cannot be read.
    """
    known = catalogue().get(exercise_id)
    if known is None:
        raise BrokenLesson(
            f"No lesson declares exercise {exercise_id}. If its decorator was deleted, "
            "`git checkout -p tvm_practice/` brings it back."
        )
    if whose == LEARNER:
        lesson = load_lesson(known.lesson)
        if not callable(getattr(lesson, known.name, None)):
            raise BrokenLesson(
                f"{lesson_file(known.lesson)} has no function {known.name} any more, which is "
                f"exercise {exercise_id}. `{typed(f'reset {exercise_id}')}` brings its stub back."
            )
        return getattr(lesson, known.name)
    load_lesson(known.lesson)  # references and other answers may use the lesson's declarations
    if whose == REFERENCE:
        return getattr(
            importlib.import_module(f"tvm_practice.solutions.{known.lesson}"), known.name
        )
    path, _, name = whose.rpartition(":")
    specification = importlib.util.spec_from_file_location(Path(path).stem + "_answers", path)
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    specification.loader.exec_module(module)  # type: ignore[union-attr]
    return getattr(module, name)
