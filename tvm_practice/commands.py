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
import re
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tvm_practice.common import answers, progress
from tvm_practice.common.command import program, typed
from tvm_practice.common.exercise import (
    GPU,
    LESSONS,
    PHASES,
    TITLES,
    BrokenLesson,
    Exercise,
    catalogue,
    exercises_of,
    gone,
    lesson_file,
    lesson_path,
)
from tvm_practice.common.status import COULD_NOT_RUN, NOTHING_WRONG, status_of

HINTS = 3  # tiers of every exercise

# Each command in the order of a learner's day: where it lives, and what it does.
COMMANDS = {
    "list": ("tvm_practice.commands:list_", "Every exercise and lab with its state."),
    "run": ("tvm_practice.running:run", "Grade an exercise, or run a whole lesson."),
    "watch": ("tvm_practice.watching:watch", "Check an exercise whenever its file is saved."),
    "hint": (
        "tvm_practice.commands:hint",
        "A hint for the last mistake, then one tier more each time.",
    ),
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
        return _as_typed(getattr(importlib.import_module(module), attribute))

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
        name, known = args[0], self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        if found := what_is(name):
            given = found.id if isinstance(found, Exercise) else found
            raise Refused(f"{name} is no command; did you mean `{typed(f'run {given}')}`?")
        close = difflib.get_close_matches(name, known, 2)
        meant = _meant([f"`{typed(' '.join([one, *args[1:]]))}`" for one in close])
        raise Refused(f"there is no command {name!r}; {meant}`{typed('--help')}` names them all.")


_EXAMPLE = re.compile(r"^( *(?:Example: )?)tvm-practice(?= )", re.MULTILINE)


def _as_typed(command: click.Command) -> click.Command:
    """A command whose help has its examples as they are to be typed here."""
    for text in ("help", "epilog"):
        if given := getattr(command, text):
            setattr(command, text, _EXAMPLE.sub(lambda found: found[1] + program(), given))
    return command


def _is_there(place: str) -> bool:
    try:
        return importlib.util.find_spec(place.partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


class Refused(click.ClickException):
    """The command cannot run; the message is one sentence that says why, and the way out."""

    exit_code = COULD_NOT_RUN

    def show(self, file: Any = None) -> None:
        click.echo(f"tvm-practice: {self.format_message()}", err=True)


# ------------------------------------------------------------------------------------ what is given


def what_is(name: str) -> Exercise | str | None:
    """What a name stands for: an exercise by its id, a lesson by its name, a phase by its number
    too, or `next`; None if nothing has it."""
    name = name.lower().replace("-", "_")
    if name in catalogue():
        return catalogue()[name]
    number = name.removeprefix("phase").strip("_ ")
    if number.isdecimal() and 1 <= int(number) <= len(PHASES):
        return PHASES[int(number) - 1]
    return name if name in (*LESSONS, NEXT) else None


class What(click.ParamType):
    """An exercise, a lesson or `next`, as every command takes them."""

    name = "what"

    def convert(self, value: Any, param: Any, ctx: Any) -> Exercise | str:
        found = value if isinstance(value, Exercise) else what_is(value)
        if found is None:
            every = f"`{typed('list')}` shows them all."
            raise Refused(f"there is no exercise or lesson {value!r}; {_near(value)}{every}")
        return found

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        offered = {NEXT: "The first that is not solved", **TITLES}
        offered |= {known.id: known.title for known in catalogue().values()}
        return [
            CompletionItem(name, help=told)
            for name, told in offered.items()
            if name.startswith(incomplete)
        ]


def _near(value: str) -> str:
    """A question about what may have been meant instead."""
    lesson = what_is(value.rpartition(".")[0])
    close = [one.id for one in catalogue().values() if lesson and one.lesson == lesson]
    close = close or [one.id for one in catalogue().values() if one.name == value]
    for names in ((*LESSONS, NEXT), catalogue()):
        if not re.fullmatch(r"[\d.]+", value):  # a number is no slip of another one
            close = close or difflib.get_close_matches(value.lower(), names, 3)
    return _meant(close)


def _meant(close: list[str]) -> str:
    if not close:
        return ""
    return f"did you mean {' or '.join(filter(None, (', '.join(close[:-1]), close[-1])))}? "


NEXT = "next"
WHAT = click.argument("what", metavar="ID|LESSON", type=What())
WHAT_OR_NEXT = click.argument("what", metavar="[ID|LESSON]", type=What(), default=NEXT)


def one_of(what: Exercise | str) -> Exercise:
    """The exercise that was named; of a lesson, or of the whole course, the first that is not
    solved."""
    if isinstance(what, Exercise):
        return what
    known = first_unsolved(what)
    if known is None:
        such = exercises_of(LESSONS[0] if what == NEXT else what)[0].id
        raise Refused(f"{all_solved(what)}; name the one you mean, such as {such}.")
    return known


def first_unsolved(what: str) -> Exercise | None:
    """Of a lesson, or of the whole course, the first exercise that is not solved; says which it is
    if a lesson was named. None if all are."""
    if what == NEXT:
        return progress.following()
    if known := progress.following(what):
        click.echo(styled(f"{known.id} is the first of {called(what)} that is not solved.", "cyan"))
    return known


def all_solved(what: str) -> str:
    return f"every exercise{'' if what == NEXT else f' of {called(what)}'} is solved"


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


def called(lesson: str) -> str:
    return f"phase {PHASES.index(lesson) + 1}" if lesson in PHASES else f"lab {lesson}"


# ------------------------------------------------------------------------------------- the commands

HELP = f"""A hands-on course in machine-learning compilers, on Apache TVM.

    \b
    {typed("list")}       what there is, and what is next
    {typed("watch")}      then write, and save; each save is checked
    {typed("hint 1.1")}   when you are stuck

    An exercise is named by its ID, a lesson by its name, a phase by its number too: 2.1, conv1d, 2.
    Where a command wants an exercise, a lesson stands for its first one that is not solved.

    To complete commands and exercises with the Tab key, add to ~/.bashrc (for zsh, ~/.zshrc and
    zsh_source; fish takes fish_source):

    \b
    eval "$(_TVM_PRACTICE_COMPLETE=bash_source tvm-practice)"
"""

course = Course(name="tvm-practice", help=HELP)


def _say_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    versions = {}
    for package in ("tvm-practice", "apache-tvm"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "(not installed)"
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo("tvm-practice {}, TVM {}, Python {}".format(*versions.values(), python))
    ctx.exit()


click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_say_version,
    help="Show the versions of the course, of TVM and of Python.",
)(course)


@click.command("list", short_help=COMMANDS["list"][1])
@click.argument("what", required=False, type=What(), metavar="[ID|LESSON]")
def list_(what: Exercise | str | None) -> int:
    """Every exercise and lab with its state, one line each; or those of one lesson.

    The state is what the last run found. "changed since it was run": the text is no longer the one
    that was graded.

    \b
    Examples:
      tvm-practice list
      tvm-practice list 2
      tvm-practice list conv1d
    """
    known_so_far = progress.read()
    states = progress.states(known_so_far)
    tell_trouble(known_so_far.trouble)
    if what == NEXT:
        what = one_of(what)
    only = what if isinstance(what, Exercise) else None
    lesson = only.lesson if only else what
    shown = [one for one in LESSONS if lesson in (None, one)]
    widest = max(len(state) for _, state in states.values())
    for one in shown:
        here = [(known, state) for known, state in states.values() if known.lesson == one]
        names = max(len(known.id) for known, _ in here)
        titles = min(56, width() - names - widest - 6)
        solved = sum(state == progress.SOLVED for _, state in here)
        count = f"{solved} of {len(here)}"
        if not lesson_path(one).exists():
            tell_trouble(gone(one))
            count = "its file is gone"
        name = called(one)
        heading = cut(f"{name[0].upper()}{name[1:]}  {TITLES[one]}", width() - len(count) - 2)
        click.echo(styled(f"{heading}  ", bold=True) + count)
        for known, state in here:
            if only not in (None, known):
                continue
            kind = " (GPU)" if known.target == GPU else ""
            title = cut(known.title, titles - len(kind)) + kind
            click.echo(
                f"  {known.id:<{names}}  {title:<{titles}}  " + styled(state, _STYLES[state])
            )
    return NOTHING_WRONG


@click.command("progress", short_help=COMMANDS["progress"][1])
def progress_() -> int:
    """What is solved, by lesson, what is next, and what you said to the key questions.

    \b
    Example:
      tvm-practice progress
    """
    from tvm_practice.common import show

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
        if not lesson_path(lesson).exists():
            others.append("file gone")
        click.echo(
            f"{lesson:<{names}}  {styled(full * length, 'green')}{empty * (bar - length)}  "
            + ", ".join([f"{solved} of {len(here)}", *others])
        )
    total = sum(state == progress.SOLVED for _, state in states.values())
    click.echo(f"\n{total} of {len(states)} exercises solved.")
    show.following(progress.following(found=states))
    said = progress.said()
    if said:
        click.echo("\nWhat you said to the key questions:")
    for question, words in said.items():
        click.echo(styled(click.wrap_text(question, width(), "  ", "  "), bold=True))
        click.echo(click.wrap_text(words, width(), "    ", "    "))
    return NOTHING_WRONG


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


@click.command("hint", short_help=COMMANDS["hint"][1])
@WHAT_OR_NEXT
@click.option("--more", is_flag=True, expose_value=False, help="One tier more, as without it.")
@click.option("--again", is_flag=True, help="The hints that were shown already, and no more.")
def hint(what: Exercise | str, again: bool) -> int:
    """A hint for an exercise: after a wrong run, first the one for what that run found, and it
    alone; then a nudge, what to call, nearly the code, one tier more each time it is asked. Without
    ID: for the first exercise that is not solved.

    \b
    Examples:
      tvm-practice hint 1.1
      tvm-practice hint 1.1 --again
    """
    from tvm_practice.checks import hints_of
    from tvm_practice.common import show

    known = one_of(what)
    known_so_far = progress.read()
    record = known_so_far.of(known.id)
    text = answers.texts_if_there(known.lesson).get(known.id)
    advice = known_so_far.advice(known.id, text)
    fresh = bool(advice) and not record.advised and not again  # the last run found something new
    if again and not (record.hints or (advice and record.advised)):
        raise Refused(f"no hint for {known.id} was shown yet; `{typed(f'hint {known.id}')}` does.")
    tier = record.hints if again or fresh else min(record.hints + 1, HINTS)
    with show.waiting("looking it up ..."):
        hints = hints_of(known.id)
    show.heading(f"{known.id}  {known.title}")
    show.hints([] if fresh else hints[:tier], advice if fresh or record.advised else "")
    trouble = "" if again else progress.hinted(known.id, tier, advised=bool(advice))
    if fresh and tier == len(hints):
        show.line(f"({typed(f'hint {known.id} --again')} shows the hints before it too)", "dim")
    elif tier < len(hints):
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
@WHAT
@click.option("--anyway", is_flag=True, help="Before it is solved, and with hints left.")
def solution(what: Exercise | str, anyway: bool) -> int:
    """The reference of an exercise: after it is solved, or after its last hint, or --anyway.

    \b
    Examples:
      tvm-practice solution 1.1
      tvm-practice solution 1.1 --anyway
    """
    known = one_of(what)
    open_or_refuse(known, anyway, "solution")
    from tvm_practice.common import show

    source = answers.reference(known)
    show.heading(f"{known.id}  {known.title}  (reference)")
    show.code(source, most_lines=200)
    return NOTHING_WRONG


@click.command("reset", short_help=COMMANDS["reset"][1])
@WHAT
def reset(what: Exercise | str) -> int:
    """Put one exercise back to how it was shipped. What stood there is kept as a file, whose place
    is printed; the rest of the lesson is left as it is.

    \b
    Example:
      tvm-practice reset 1.1
    """
    if not isinstance(what, Exercise):  # what is taken away is not left to a rule
        first = exercises_of(LESSONS[0] if what == NEXT else what)[0]
        raise Refused(f"name the exercise that you mean, such as `{typed(f'reset {first.id}')}`.")
    known = what
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
    try:
        # Completion asks for the variable of the program's own name, however it was started.
        return status_of(course, program(), complete_var="_TVM_PRACTICE_COMPLETE")
    except BrokenLesson as error:
        click.echo(f"tvm-practice: {error}", err=True)
        return COULD_NOT_RUN
    except Exception as error:  # whatever nobody foresaw is not the learner's mistake
        from tvm_practice.common.worker import WorkerFailed  # here: most commands need none

        if isinstance(error, WorkerFailed):
            click.echo(f"tvm-practice: {error}", err=True)
            return COULD_NOT_RUN
        told = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(told.filename).name}, line {told.lineno}"
        what = f"{type(error).__name__}: {error} ({place})"
        click.echo(f"tvm-practice: this is a fault of the course, not yours: {what}", err=True)
        return COULD_NOT_RUN
