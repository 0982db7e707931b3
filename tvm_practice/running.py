"""`tvm-practice run`: one exercise alone, or a whole lesson."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import click

from tvm_practice import commands
from tvm_practice.commands import COMMANDS, ExerciseId, Refused, where_next
from tvm_practice.common import progress, show, target, worker
from tvm_practice.common.exercise import CPU, LESSONS, PHASES, TITLES, Exercise
from tvm_practice.common.status import ANSWER_WRONG, NOTHING_WRONG
from tvm_practice.main import (
    RUN_OPTIONS,
    Options,
    Session,
    run_lessons,
)

WHAT = "[ID|LESSON|next]"
FRESH = 1 << 31  # seeds are below


class _What(click.ParamType):
    """An exercise, a lesson by its name (a phase by its number too), or `next`."""

    name = "what"

    def convert(self, value: Any, param: Any, ctx: Any) -> Exercise | str:
        if value == "next" or value in LESSONS or isinstance(value, Exercise):
            return value
        if value.isdigit() and 1 <= int(value) <= len(PHASES):
            return PHASES[int(value) - 1]
        return ExerciseId().convert(value, param, ctx)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[Any]:
        words = [("next", "The first that is not solved"), *((one, TITLES[one]) for one in LESSONS)]
        found = [commands.CompletionItem(one, help=told) for one, told in words]
        return [
            one for one in found if one.value.startswith(incomplete)
        ] + ExerciseId().shell_complete(ctx, param, incomplete)


def check(known: Exercise, seed: int | None = None, solutions: bool = False) -> str:
    """Grade one exercise, show what a lesson would show of it, and say what is next; return its
    state. Raises Refused if it cannot be graded here."""
    kind = "cpu" if known.target == CPU else "cuda-sim"
    try:
        target.check_usable(kind)
    except target.UnusableTarget as error:
        raise Refused(f"{known.id} is an exercise for a GPU: {error}") from None
    options = Options(
        target=kind,
        quick=True,
        solutions=solutions,
        seed=secrets.randbelow(FRESH) if seed is None else seed,
        size=None,
        trials=None,
    )
    session = Session(known.lesson, options, hint=commands.typed("hint"))
    try:
        session.exercise(known.id)
    except worker.WorkerFailed as error:  # nothing of a damaged lesson can be run
        kind, _, sentence = str(error).partition(": ")
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
        _say_next(known)
    commands.tell_trouble(session.trouble)
    return state


def _say_next(known: Exercise) -> None:
    """What comes after an exercise that is right: the next of the course that is not solved, or an
    earlier one that was left out."""
    states = progress.states(progress.read())
    states[known.id] = (known, progress.SOLVED)  # also where nothing can be remembered
    order = list(states)
    place = order.index(known.id)
    later = {one: states[one] for one in order[place:] + order[:place]}
    following = commands.following(later)
    if following is None:
        show.line("\nEvery exercise is solved.", "bold green")
        return
    show.line(f"\nNext: {where_next(following)}", "bold")


@click.command("run", short_help=COMMANDS["run"][1])
@click.argument("what", metavar=WHAT, type=_What(), default="next")
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
        return run_lessons([what], options, hint=commands.typed("hint"))
    known = commands.following(progress.states(progress.read())) if what == "next" else what
    own = "cpu" if known is None or known.target == CPU else "cuda-sim"
    typed = ctx.get_parameter_source
    for name in ("quick", "target", "size", "trials"):
        if typed(name) == click.core.ParameterSource.COMMANDLINE and given[name] != own:
            raise Refused(
                f"--{name} is for a whole lesson, such as `{commands.typed('run 2')}`; an exercise "
                "by itself needs none of them, and one for a GPU runs in the simulator."
            )
    if known is None:
        show.line("Every exercise is solved.", "bold green")
        return NOTHING_WRONG
    state = check(known, given["seed"], given["solutions"])
    return ANSWER_WRONG if state == progress.WRONG else NOTHING_WRONG


def _with_options(command: click.Command, options: tuple[Callable, ...]) -> None:
    for option in options:
        option(command)


_with_options(run, RUN_OPTIONS)
