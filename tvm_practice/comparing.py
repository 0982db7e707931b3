"""`tvm-practice diff`: an answer beside the reference, as source, as loop nest, and timed."""

from __future__ import annotations

import importlib
import secrets
from typing import Any

import click

from tvm_practice.commands import (
    COMMANDS,
    WHAT,
    Refused,
    one_of,
    open_or_refuse,
    tell_trouble,
)
from tvm_practice.common import answers, progress, show, target, timing
from tvm_practice.common.command import typed
from tvm_practice.common.exercise import CPU, LEARNER, REFERENCE, Exercise, exercises_of
from tvm_practice.common.status import ANSWER_WRONG, COULD_NOT_RUN, NOTHING_WRONG

YOURS = "yours"
MATMUL = {"M": 512, "N": 512, "K": 512}
SLOW = {"M": 256, "N": 256, "K": 256}  # for loops that nobody has tiled


def _bodies(known: Exercise, whose: str) -> dict[str, str]:
    """References of a lesson's exercises, and `whose` body of the one in question."""
    return dict.fromkeys((one.id for one in exercises_of(known.lesson, CPU)), REFERENCE) | {
        known.id: whose
    }


def competitor(known: Exercise, whose: str, seed: int) -> timing.Candidate | None:
    """The program that an exercise's body ends in, all else the reference's; None if the exercise
    makes none that takes a time of its own."""
    lesson = importlib.import_module(f"tvm_practice.experiments.{known.lesson}")
    name = YOURS if whose == LEARNER else REFERENCE
    built: dict[str, Any] = {**MATMUL, "seed": seed, "whose": _bodies(known, whose)}
    if known.target != CPU:
        return None
    if known.id == "1.1":
        arguments = {**SLOW, "seed": seed, "whose": whose}
        return timing.Candidate(name, lesson.make_default_loops, arguments)
    if known.lesson == "manual_schedule":
        rungs = list(lesson.RUNGS)
        before = rungs[: rungs.index(known.id)]
        steps = (*((one, REFERENCE) for one in before), (known.id, whose))
        arguments = {**(SLOW if known.id == "2.1" else MATMUL), "seed": seed, "steps": steps}
        return timing.Candidate(name, lesson.make_step, arguments)
    if known.lesson == "conv1d":
        rung = next(rung for rung, needs in lesson.RUNGS.items() if needs == known.id)
        samples, taps = lesson.SIZES[0]
        arguments = {**built, "M": samples, "N": taps, "rung": rung}
        del arguments["K"]
        return timing.Candidate(name, lesson.make_rung, arguments)
    if known.id in ("fused_gelu.1", "fused_gelu.2", "fused_gelu.3"):
        return timing.Candidate(name, lesson.make_fused, {**built, "library": False})
    if known.lesson == "tensorize":
        tensorized = known.id != "tensorize.2"
        return timing.Candidate(name, lesson.make_int8, {**built, "tensorized": tensorized})
    return None


@click.command("diff", short_help=COMMANDS["diff"][1])
@WHAT
@click.option("--time", "timed", is_flag=True, help="Time both, in paired rounds.")
@click.option("--anyway", is_flag=True, help="Before it is solved, and with hints left.")
def diff(what: Exercise | str, timed: bool, anyway: bool) -> int:
    """Your answer beside the reference: the source, the loop nest that each makes, and with --time
    how long each takes. It opens as `solution` does.

    \b
    Examples:
      tvm-practice diff 2.1
      tvm-practice diff 2.4 --time
    """
    known = one_of(what)
    open_or_refuse(known, anyway, "diff")
    text = answers.text_of(known.id)
    if text is None:
        raise Refused(
            f"{known.id} is in its lesson no more; `{typed(f'reset {known.id}')}` brings it back."
        )
    seed = secrets.randbelow(1 << 31)
    pair = [competitor(known, whose, seed) for whose in (LEARNER, REFERENCE)] if timed else []
    if None in pair:
        if known.target != CPU:
            raise Refused(f"{known.id} is for a GPU: it is verified in the simulator, not timed.")
        raise Refused(f"{known.id} makes no program that takes a time of its own.")
    try:
        target.check_usable("cpu" if known.target == CPU else "cuda-sim")
    except target.UnusableTarget as error:
        raise Refused(f"{known.id} is an exercise for a GPU: {error}") from None
    from tvm_practice.checks import grade

    show.heading(f"{known.id}  {known.title}")
    show.side_by_side(_without_what_follows(text), answers.reference(known), (YOURS, REFERENCE))
    try:
        with show.waiting("running both ..."):
            yours, other = (grade(known.id, whose, seed) for whose in (LEARNER, REFERENCE))
    except target.UnusableTarget as error:
        raise Refused(f"{known.id} could not be checked: {error}") from None
    trouble = progress.graded(known.id, yours.state, text, yours.hint)
    if yours.state != progress.RIGHT:
        show.diagnosis(yours.sentence or "It is still to be written.")
    _nests(yours, other)
    status = ANSWER_WRONG if yours.state == progress.WRONG else NOTHING_WRONG
    if pair and yours.state != progress.RIGHT:
        show.line("Only a right answer is timed.", "yellow")
    elif pair:
        status = max(status, _time(pair))
    tell_trouble(trouble)
    return status


def _without_what_follows(text: str) -> str:
    """An exercise's text without the comments at the margin behind it, which lead to the next."""
    lines = text.rstrip().splitlines()
    while lines and (not lines[-1] or lines[-1].startswith("#")):
        lines.pop()
    return "\n".join(lines)


def _nests(yours: Any, other: Any) -> None:
    if not other.nests or not yours.nests:
        return
    mine, its = yours.nests[0][1], other.nests[0][1]
    if mine.lines == its.lines:
        show.line("\nBoth make the same loop nest:")
        show.nest(mine)
    else:
        show.line("\nThe loop nests:")
        show.nest(its, mine, (YOURS, REFERENCE))


def _time(pair: list[Any]) -> int:
    with show.progress("timing", len(pair) * (timing.ROUNDS + 1)) as bar:
        measured = timing.compare(pair, timing.ROUNDS, 0.03, lambda name: show.advance(bar, name))
    for name, reason in measured.failed.items():
        show.line(f"{name} was not measured: {reason}", "yellow")
    if measured.failed:
        return COULD_NOT_RUN
    rows = [
        (name, show.seconds(figure.median_s), f"{figure.spread:.0%}", show.rate(figure.gflops))
        for name, figure in measured.figures.items()
    ]
    caption = f"Medians of {measured.rounds} paired rounds; the steps before are the reference's."
    show.table(("version", "time", "spread", "GFLOP/s"), rows, caption)
    if disturbance := measured.disturbance():
        show.line(disturbance, "yellow")
    show.line(measured.verdict(YOURS, REFERENCE, timing.PROCESS_LUCK).sentence() + ".", "bold")
    return NOTHING_WRONG
