"""Plausible wrong answers, each with the diagnosis it must get, and right answers of a shape of
their own.

`@wrong("1.1", "fragment of the diagnosis")` and `@right("1.1")` mark functions with the exercise's
signature; tests/test_answers.py runs the check on every one of them. For each hint that a check
gives for a diagnosis, one wrong answer says `hint="fragment of it"`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from tvm_practice.checks import check_of


@dataclass(frozen=True)
class Answer:
    """One answer to an exercise; `diagnosis` is what its rejection must say, None where it is
    right, and `hint` what the hint for it must say."""

    exercise_id: str
    diagnosis: str | None
    hint: str = ""


def wrong(exercise_id: str, diagnosis: str, hint: str = "") -> Callable[[Callable], Callable]:
    return _mark(Answer(exercise_id, diagnosis, hint))


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


def hints_of(lesson: str) -> dict[str, tuple[str, str]]:
    """By function name, (exercise, fragment of the hint) of every wrong answer that names one."""
    module = importlib.import_module(f"tests.wrong_answers.{lesson}")
    return {
        name: (function.answer.exercise_id, function.answer.hint)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and getattr(function, "answer", None)
        and function.answer.hint
    }


def given_for_diagnoses(exercise_id: str) -> list[str]:
    """Every hint that a check gives for a diagnosis."""
    return list(check_of(exercise_id).told.values())
