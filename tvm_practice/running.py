"""`tvm-practice run`: one exercise alone, or a whole lesson."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import click

from tvm_practice import commands
from tvm_practice.commands import COMMANDS, NEXT, WHAT_OR_NEXT, Refused
from tvm_practice.common import progress, show, target, worker
from tvm_practice.common.command import typed
from tvm_practice.common.exercise import CPU, LESSONS, Exercise, gone
from tvm_practice.common.status import ANSWER_WRONG, NOTHING_WRONG
from tvm_practice.main import (
    RUN_OPTIONS,
    Options,
    Session,
    run_lessons,
)

FRESH = 1 << 31  # seeds are below


def check(known: Exercise, seed: int | None = None, solutions: bool = False) -> str:
    """Grade one exercise, show what a lesson would show of it, and say what is next; return its
    state. Raises Refused if it cannot be graded here."""
    own = _own_target(known)
    try:
        target.check_usable(own)
    except target.UnusableTarget as error:
        raise Refused(f"{known.id} is an exercise for a GPU: {error}") from None
    options = Options(
        target=own,
        quick=True,
        solutions=solutions,
        seed=secrets.randbelow(FRESH) if seed is None else seed,
        size=None,
        trials=None,
    )
    session = Session(known.lesson, options)
    try:
        session.exercise(known.id)
    except worker.WorkerFailed as error:  # nothing of a damaged lesson can be run
        kind, _, sentence = str(error).partition(": ")
        if sentence in map(gone, LESSONS):
            raise Refused(sentence) from None
        if kind != "BrokenLesson":
            raise Refused(f"{known.id} could not be checked: {error}") from None
        if not session.outcomes:
            show.heading(f"{known.id}  {known.title}", progress.WRONG)
        show.diagnosis(sentence)
        return progress.WRONG
    except (RuntimeError, target.UnusableTarget) as error:
        raise Refused(f"{known.id} could not be checked: {error}") from None
    state = session.outcomes[-1].state if session.outcomes else progress.RIGHT
    if state == progress.WRONG:
        show.line(f"  (seed {options.seed}: --seed draws the same inputs again)", "dim")
    elif state == progress.RIGHT and not solutions:
        right = [known.id]  # the rest of its lesson first, wherever the learner has begun
        show.following(progress.following(known.lesson, right) or progress.following(right=right))
    commands.tell_trouble(session.trouble)
    return state


def _own_target(known: Exercise) -> str:
    """What an exercise by itself is graded with."""
    return "cpu" if known.target == CPU else "cuda-sim"


@click.command("run", short_help=COMMANDS["run"][1])
@WHAT_OR_NEXT
@click.pass_context
def run(ctx: click.Context, what: Exercise | str, **given: Any) -> int:
    """Grade one exercise and show its loop nest before and after, or run a whole lesson: a phase
    by its name or number, a lab by its name. Without either: the first exercise that is not solved.

    \b
    Examples:
      tvm-practice run 1.1
      tvm-practice run
      tvm-practice run manual_schedule --quick
      tvm-practice run tensor_cores --target cuda-sim

    The options other than --seed and --solutions are for a whole lesson.
    """
    if what in LESSONS:
        seed = given.pop("seed")
        options = Options(seed=secrets.randbelow(FRESH) if seed is None else seed, **given)
        return run_lessons([what], options)
    known = progress.following() if what == NEXT else what
    own = "cpu" if known is None else _own_target(known)
    source = ctx.get_parameter_source
    for name in ("quick", "target", "size", "trials", "tracker", "key"):
        if source(name) == click.core.ParameterSource.COMMANDLINE and given[name] != own:
            raise Refused(
                f"--{name} is for a whole lesson, such as `{typed('run 2')}`; an exercise "
                "by itself needs none of them, and one for a GPU runs in the simulator."
            )
    if known is None:
        show.following(None)
        return NOTHING_WRONG
    state = check(known, given["seed"], given["solutions"])
    return ANSWER_WRONG if state == progress.WRONG else NOTHING_WRONG


def _with_options(command: click.Command, options: tuple[Callable, ...]) -> None:
    for option in options:
        option(command)


_with_options(run, RUN_OPTIONS)
