"""The command `tvm-practice`: everything a learner does, in one place.

It must answer at once, so this file imports nothing that is heavy: a command that grades, measures
or draws lives in a module of its own, which is imported when that command is given.

Exit status: 0 when nothing is wrong (an unsolved exercise is not wrong), 1 when an answer is wrong,
2 when the command could not run, 130 when it was interrupted.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import shutil
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tvm_practice.common import answers, progress
from tvm_practice.common.exercise import (
    GPU,
    LESSONS,
    PHASES,
    TITLES,
    Exercise,
    catalogue,
    lesson_file,
)
from tvm_practice.common.status import COULD_NOT_RUN, INTERRUPTED, NOTHING_WRONG

HINTS = 3  # tiers of every exercise

# Each command in the order of a learner's day: where it lives, and what it does.
COMMANDS = {
    "list": ("tvm_practice.commands:list_", "Every exercise and lab with its state."),
    "run": ("tvm_practice.running:run", "Grade an exercise, or run a whole lesson."),
    "watch": ("tvm_practice.watching:watch", "Check an exercise whenever its file is saved."),
    "hint": ("tvm_practice.commands:hint", "A hint; each time it is asked, one tier more."),
    "solution": (
        "tvm_practice.commands:solution",
        "The reference, once solved or after the hints.",
    ),
    "diff": ("tvm_practice.comparing:diff", "Your answer beside the reference."),
    "reset": ("tvm_practice.commands:reset", "Put an exercise back to how it was shipped."),
    "progress": ("tvm_practice.commands:progress_", "What is solved, by lesson, and what is next."),
    "report": ("tvm_practice.report:command", "One page to look at, of what was measured."),
    "translate": ("tvm_practice.translate:command", "What an old TVM script needs today."),
    "doctor": ("tvm_practice.doctor:command", "What this machine has and lacks for the course."),
}


class Course(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (place, _) in COMMANDS.items() if _is_there(place)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [
            CompletionItem(name, help=COMMANDS[name][1])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if name in catalogue() or name in LESSONS:
            ctx.fail(f"{name} is no command; did you mean `{typed(f'run {name}')}`?")
        return super().resolve_command(ctx, args)


def _is_there(place: str) -> bool:
    try:
        return importlib.util.find_spec(place.partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


def program() -> str:
    """The command as it was started."""
    started = Path(sys.argv[0]).name
    return "python -m tvm_practice" if started == "__main__.py" else "tvm-practice"


def typed(rest: str) -> str:
    """What to type to run a command of this program."""
    return f"{program()} {rest}"


class Refused(click.ClickException):
    """The command cannot run; the message is one sentence that says why, and the way out."""

    exit_code = COULD_NOT_RUN

    def show(self, file: Any = None) -> None:
        click.echo(f"tvm-practice: {self.format_message()}", err=True)


# ------------------------------------------------------------------------------------ what is given


class ExerciseId(click.ParamType):
    """The id of an exercise, such as 1.1 or conv1d.3."""

    name = "ID"

    def convert(self, value: Any, param: Any, ctx: Any) -> Exercise:
        if isinstance(value, Exercise):
            return value
        if value in catalogue():
            return catalogue()[value]
        raise Refused(f"there is no exercise {value!r}; {_meant(value, catalogue())}")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [
            CompletionItem(known.id, help=known.title)
            for known in catalogue().values()
            if known.id.startswith(incomplete)
        ]


def _meant(value: str, known: Iterable[str]) -> str:
    lesson = value.rpartition(".")[0] or value
    close = [one for one in known if one.rpartition(".")[0] == lesson]
    close = close or [one.id for one in catalogue().values() if one.lesson == lesson]
    close = close or difflib.get_close_matches(value, list(known), 3)
    meant = f"did you mean {', '.join(close[:-1])} or {close[-1]}? " if close[1:] else ""
    meant = meant or (f"did you mean {close[0]}? " if close else "")
    return f"{meant}`{typed('list')}` shows them all."


EXERCISE = click.argument("known", metavar="ID", type=ExerciseId())
THIS_OR_NEXT = click.argument("known", metavar="[ID]", type=ExerciseId(), required=False)


def following(states: dict[str, tuple[Exercise, str]]) -> Exercise | None:
    """The first exercise that is not solved; None when all are."""
    return next((known for known, state in states.values() if state != progress.SOLVED), None)


def given_or_next(known: Exercise | None) -> Exercise:
    """The exercise that was named, or the first that is not solved."""
    known = known or following(progress.states(progress.read()))
    if known is None:
        raise Refused("every exercise is solved; name the one you mean, such as 1.1.")
    return known


def tell_trouble(sentence: str) -> None:
    """What there is to say about the progress file; it never stops a command."""
    if sentence:
        click.echo(styled(f"tvm-practice: {sentence}", "yellow", error=True), err=True)


# ---------------------------------------------------------------------------------- how it is shown

_STYLES = {
    progress.SOLVED: "green",
    progress.LAST_WRONG: "red",
    progress.CHANGED: "yellow",
    progress.NOT_RUN: "yellow",
    progress.TO_DO: "bright_black",
}


def styled(text: str, color: str = "", bold: bool = False, error: bool = False) -> str:
    """Colored text, where a terminal will show it and NO_COLOR does not forbid it."""
    stream = sys.stderr if error else sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return click.style(text, fg=color or None, bold=bold or None)


def width() -> int:
    return max(30, min(110, shutil.get_terminal_size((110, 24)).columns))


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(1, most - 3)].rstrip() + "..."


def lesson_name(lesson: str) -> str:
    return f"Phase {PHASES.index(lesson) + 1}" if lesson in PHASES else f"Lab {lesson}"


def where_next(known: Exercise) -> str:
    return f"{known.id}  {known.title}, at {known.place}; then {typed(f'run {known.id}')}"


# ------------------------------------------------------------------------------------- the commands

HELP = """A hands-on course in machine-learning compilers, on Apache TVM.

    \b
    tvm-practice list       what there is, and what is next
    tvm-practice watch      then write, and save; each save is checked
    tvm-practice hint 1.1   when you are stuck

    To complete commands and exercises with the Tab key, add to ~/.bashrc (for zsh, ~/.zshrc and
    zsh_source; fish takes fish_source):

    \b
    eval "$(_TVM_PRACTICE_COMPLETE=bash_source tvm-practice)"
"""

course = Course(name="tvm-practice", help=HELP)


@click.command("list", short_help=COMMANDS["list"][1])
@click.argument("lesson", required=False, type=click.Choice(LESSONS), metavar="[LESSON]")
def list_(lesson: str | None) -> int:
    """Every exercise and lab with its state, one line each.

    The state is what the last run found. "changed since it was run": the text is no longer the one
    that was graded.

    \b
    Examples:
      tvm-practice list
      tvm-practice list manual_schedule
    """
    known_so_far = progress.read()
    states = progress.states(known_so_far)
    tell_trouble(known_so_far.trouble)
    shown = [one for one in LESSONS if lesson in (None, one)]
    widest = max(len(state) for _, state in states.values())
    for one in shown:
        here = [(known, state) for known, state in states.values() if known.lesson == one]
        names = max(len(known.id) for known, _ in here)
        titles = min(56, width() - names - widest - 6)
        solved = sum(state == progress.SOLVED for _, state in here)
        count = f"{solved} of {len(here)}"
        heading = cut(f"{lesson_name(one)}  {TITLES[one]}", width() - len(count) - 2)
        click.echo(styled(f"{heading}  ", bold=True) + count)
        for known, state in here:
            kind = " (GPU)" if known.target == GPU else ""
            title = cut(known.title, titles - len(kind)) + kind
            click.echo(
                f"  {known.id:<{names}}  {title:<{titles}}  " + styled(state, _STYLES[state])
            )
    return NOTHING_WRONG


@click.command("progress", short_help=COMMANDS["progress"][1])
def progress_() -> int:
    """What is solved, by lesson, and what is next.

    \b
    Example:
      tvm-practice progress
    """
    known_so_far = progress.read()
    states = progress.states(known_so_far)
    tell_trouble(known_so_far.trouble)
    full, empty = ("━", "─") if _can_show("━─") else ("#", ".")
    names = max(len(one) for one in LESSONS)
    bar = max(8, min(30, width() - names - 26))
    for lesson in LESSONS:
        here = [state for known, state in states.values() if known.lesson == lesson]
        solved = here.count(progress.SOLVED)
        length = round(bar * solved / len(here))
        others = [
            f"{here.count(state)} {word}"
            for state, word in (
                (progress.LAST_WRONG, "wrong"),
                (progress.CHANGED, "changed"),
                (progress.NOT_RUN, "not run"),
            )
            if state in here
        ]
        click.echo(
            f"{lesson:<{names}}  {styled(full * length, 'green')}{empty * (bar - length)}  "
            + ", ".join([f"{solved} of {len(here)}", *others])
        )
    total = sum(state == progress.SOLVED for _, state in states.values())
    click.echo(f"\n{total} of {len(states)} exercises solved.")
    known = following(states)
    told = f"Next: {where_next(known)}" if known else "Every exercise is solved."
    click.echo(click.wrap_text(told, width()))
    return NOTHING_WRONG


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


@click.command("hint", short_help=COMMANDS["hint"][1])
@THIS_OR_NEXT
@click.option("--again", is_flag=True, help="The hints that were shown already, and no more.")
def hint(known: Exercise | None, again: bool) -> int:
    """A hint for an exercise: after a wrong run, first the one for what that run found; then a
    nudge, what to call, nearly the code, one tier more each time it is asked. Without ID: for the
    first exercise that is not solved.

    \b
    Examples:
      tvm-practice hint 1.1
      tvm-practice hint 1.1 --again
    """
    from tvm_practice.checks import hints_of
    from tvm_practice.common import show

    known = given_or_next(known)
    record = progress.read().of(known.id)
    fresh = bool(record.advice) and not record.advised  # the last run found something else
    if again and not (record.hints or record.advised):
        raise Refused(f"no hint for {known.id} was shown yet; `{typed(f'hint {known.id}')}` does.")
    tier = record.hints if again or fresh else min(record.hints + 1, HINTS)
    with show.waiting("looking it up ..."):
        hints = hints_of(known.id)
    show.heading(f"{known.id}  {known.title}")
    show.hints(hints[:tier], "" if again and fresh else record.advice)
    trouble = "" if again else progress.hinted(known.id, tier)
    if tier < len(hints):
        show.line(f"({typed(f'hint {known.id}')} once more for the next tier)", "dim")
    else:
        show.line(f"(that is the last; {typed(f'solution {known.id}')} shows the reference)", "dim")
    tell_trouble(trouble)
    return NOTHING_WRONG


def open_or_refuse(known: Exercise, anyway: bool, command: str) -> None:
    """Refuse to show a reference that a learner may still want to find."""
    record = progress.read().of(known.id)
    if anyway or record.solved or record.hints >= HINTS:
        return
    left = HINTS - record.hints
    raise Refused(
        f"{known.id} is not solved yet, and {left} of {HINTS} hints {'is' if left == 1 else 'are'} "
        f"left (`{typed(f'hint {known.id}')}`). `{typed(f'{command} {known.id} --anyway')}` shows "
        "the reference all the same."
    )


@click.command("solution", short_help=COMMANDS["solution"][1])
@EXERCISE
@click.option("--anyway", is_flag=True, help="Before it is solved, and with hints left.")
def solution(known: Exercise, anyway: bool) -> int:
    """The reference of an exercise: after it is solved, or after its last hint, or --anyway.

    \b
    Examples:
      tvm-practice solution 1.1
      tvm-practice solution 1.1 --anyway
    """
    open_or_refuse(known, anyway, "solution")
    from tvm_practice.common import show

    show.heading(f"{known.id}  {known.title}  (reference)")
    show.code(answers.reference(known), most_lines=200)
    return NOTHING_WRONG


@click.command("reset", short_help=COMMANDS["reset"][1])
@EXERCISE
def reset(known: Exercise) -> int:
    """Put one exercise back to how it was shipped. What stood there is kept as a file, whose place
    is printed; the rest of the lesson is left as it is.

    \b
    Example:
      tvm-practice reset 1.1
    """
    try:
        backup = answers.reset(known)
    except answers.NotReplaced as error:
        raise Refused(str(error)) from None
    if backup is None:
        click.echo(f"{known.id} is as it was shipped already.")
    else:
        click.echo(f"{known.id} in {lesson_file(known.lesson)} is as it was shipped.")
        click.echo(f"What stood there is kept in {answers.shown(backup)}")
    return NOTHING_WRONG


# ------------------------------------------------------------------------------------ how it begins


def main() -> int:
    """The entry of `tvm-practice`; returns the exit status."""
    stdout = sys.stdout
    try:
        # Completion asks for the variable of the program's own name, however it was started.
        status = course.main(
            prog_name=program(), standalone_mode=False, complete_var="_TVM_PRACTICE_COMPLETE"
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except SystemExit as ended:
        # `tvm-practice list | head`: click changes stdout, rich raises from the error.
        if sys.stdout is not stdout or isinstance(ended.__context__, BrokenPipeError):
            return NOTHING_WRONG
        return ended.code if isinstance(ended.code, int) else COULD_NOT_RUN
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        click.echo(f"tvm-practice: {error.strerror or error}{named}", err=True)
        return COULD_NOT_RUN
    except Exception as error:  # whatever nobody foresaw is not the learner's mistake
        told = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(told.filename).name}, line {told.lineno}"
        what = f"{type(error).__name__}: {error} ({place})"
        click.echo(f"tvm-practice: this is a fault of the course, not yours: {what}", err=True)
        return COULD_NOT_RUN
    return status if isinstance(status, int) else NOTHING_WRONG
