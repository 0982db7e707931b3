"""Plausible wrong answers, each with the diagnosis it must get, and right answers of a shape of
their own.

`@wrong("1.1", "fragment of the diagnosis")` and `@right("1.1")` mark functions with the exercise's
signature; tests/test_answers.py runs the check on every one of them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One answer to an exercise; `diagnosis` is what its rejection must say, None where it is
    right."""

    exercise_id: str
    diagnosis: str | None


def wrong(exercise_id: str, diagnosis: str) -> Callable[[Callable], Callable]:
    return _mark(Answer(exercise_id, diagnosis))


def right(exercise_id: str) -> Callable[[Callable], Callable]:
    return _mark(Answer(exercise_id, None))


def _mark(answer: Answer) -> Callable[[Callable], Callable]:
    def mark(function: Callable) -> Callable:
        function.answer = answer  # type: ignore[attr-defined]
        return function

    return mark


def answers_of(lesson: str) -> list[tuple[str, str, str | None]]:
    """(function name, exercise, diagnosis or None) of every marked answer of a lesson, in the order
    of the file."""
    module = importlib.import_module(f"tests.wrong_answers.{lesson}")
    return [
        (name, function.answer.exercise_id, function.answer.diagnosis)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and hasattr(function, "answer")
    ]
