"""The registry of exercises, and whose body runs: the learner's or the reference.

A lesson file marks its exercises with `@exercise("2.1", "Tile the loop nest")`. This module reads lesson files as text
before it runs them: a learner's file may hold a syntax error, and that must cost one exercise, not the whole phase.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
PHASES = ("te_basics", "manual_schedule", "schedule_analysis", "relay_import", "auto_tune")

LEARNER = "learner"
REFERENCE = "reference"


def exercise(exercise_id: str, title: str) -> Callable[[Callable], Callable]:
    """Mark a function of a lesson as an exercise. The function itself is left as it is."""

    def mark(function: Callable) -> Callable:
        function.exercise_id = exercise_id  # type: ignore[attr-defined]
        function.exercise_title = title  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True)
class Exercise:
    """An exercise as its lesson file declares it; `line` is where the function starts."""

    id: str
    title: str
    phase: str
    name: str
    line: int

    @property
    def place(self) -> str:
        return f"tvm_practice/{self.phase}.py:{self.line}"


class BrokenAnswer(Exception):
    """The learner's source of an exercise cannot be read by Python; the message says where and why."""


class BrokenLesson(Exception):
    """A lesson file cannot be read outside its exercises, or an exercise is missing; the message says the way out."""


def lesson_path(phase: str) -> Path:
    return PACKAGE / f"{phase}.py"


# ------------------------------------------------------------------------------------------- reading a lesson file


@dataclass(frozen=True)
class _Piece:
    """One exercise of a lesson as text: lines[first:last], 0-based, and the exercise it holds."""

    first: int
    last: int
    exercise: Exercise


_MARK = re.compile(r"^@exercise\(\s*\"([^\"]+)\",\s*\"([^\"]+)\"")
_DEFINITION = re.compile(r"^def (\w+)\(")
# What may stand at the left margin inside a function: nothing, a comment, or a closing bracket.
_STILL_INSIDE = re.compile(r"^(?:\s|#|[)\]}]|$)")


def _pieces(phase: str, lines: list[str]) -> list[_Piece]:
    found = []
    for first, line in enumerate(lines):
        mark = _MARK.match(line)
        if not mark:
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
        last = definition + 1
        while last < len(lines) and _STILL_INSIDE.match(lines[last]):
            last += 1
        name = _DEFINITION.match(lines[definition])[1]  # type: ignore[index]
        where = Exercise(mark[1], mark[2], phase, name, definition + 1)
        found.append(_Piece(first, last, where))
    return found


@cache
def catalogue() -> dict[str, Exercise]:
    """Every exercise by its id, in order, read from the lesson files without running them."""
    exercises = {}
    for phase in PHASES:
        if not lesson_path(phase).exists():
            continue
        lines = lesson_path(phase).read_text(encoding="utf-8").splitlines()
        for piece in _pieces(phase, lines):
            exercises[piece.exercise.id] = piece.exercise
    return exercises


def exercises_of(phase: str) -> list[Exercise]:
    return [known for known in catalogue().values() if known.phase == phase]


@cache
def load_lesson(phase: str) -> ModuleType:
    """Run a lesson file as the module `tvm_practice.<phase>` and return it.

    An exercise that is no valid Python is replaced by a function that raises BrokenAnswer with the line and the reason,
    so that the rest of the lesson still runs. Raises BrokenLesson if the fault lies outside the exercises.
    """
    name = f"tvm_practice.{phase}"
    if name in sys.modules:
        return sys.modules[name]
    path = lesson_path(phase)
    source = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(source, str(path))
    except SyntaxError:
        tree = ast.parse(_without_broken_exercises(phase, source), str(path))
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    module.BrokenAnswer = BrokenAnswer  # type: ignore[attr-defined]
    sys.modules[name] = module
    setattr(importlib.import_module("tvm_practice"), phase, module)
    try:
        exec(compile(tree, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _without_broken_exercises(phase: str, source: str) -> str:
    lines = source.splitlines()
    for piece in _pieces(phase, lines):
        text = "\n".join(lines[piece.first : piece.last])
        try:
            ast.parse(text)
        except SyntaxError as error:
            line = piece.first + (error.lineno or 1)
            sentence = f"Python cannot read tvm_practice/{phase}.py, line {line}: {error.msg}."
            stand_in = [
                lines[piece.first],
                f"def {piece.exercise.name}(*_, **__): raise BrokenAnswer({sentence!r})",
            ]
            blank = [""] * (piece.last - piece.first - len(stand_in))
            lines[piece.first : piece.last] = stand_in + blank
    repaired = "\n".join(lines)
    try:
        ast.parse(repaired)
    except SyntaxError as error:
        raise BrokenLesson(
            f"Python cannot read tvm_practice/{phase}.py, line {error.lineno}: {error.msg}. That line is outside "
            f"the exercises; `git diff tvm_practice/{phase}.py` shows what changed there."
        ) from None
    return repaired


# ----------------------------------------------------------------------------------------------- whose body runs


def body(exercise_id: str, whose: str = REFERENCE) -> Callable[..., Any]:
    """The function that answers an exercise.

    whose: "learner" for the lesson file, "reference" for the solution, or "FILE.py:function" for any other answer.
    Raises BrokenLesson when the function is not there, BrokenAnswer when its source cannot be read.
    """
    known = catalogue().get(exercise_id)
    if known is None:
        raise BrokenLesson(
            f"No lesson declares exercise {exercise_id}. If its decorator was deleted, "
            "`git checkout -p tvm_practice/` brings it back."
        )
    if whose == LEARNER:
        return getattr(load_lesson(known.phase), known.name)
    load_lesson(known.phase)  # references and other answers may use the lesson's declarations
    if whose == REFERENCE:
        return getattr(importlib.import_module(f"tvm_practice.solutions.{known.phase}"), known.name)
    path, _, name = whose.rpartition(":")
    specification = importlib.util.spec_from_file_location(Path(path).stem + "_answers", path)
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    specification.loader.exec_module(module)  # type: ignore[union-attr]
    return getattr(module, name)
