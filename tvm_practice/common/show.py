"""What a person sees: headings, prose, tables, loop nests before and after, progress.

Rich decides how much of it a terminal can show; into a pipe it is plain text, and NO_COLOR is
respected.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, Group
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.status import Status
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from tvm_practice.common import ask
from tvm_practice.common import progress as record
from tvm_practice.common.loop_nest import LoopNest

PIPE_WIDTH = 110
LONGEST_LINE = 240  # characters of one line of a loop nest


class _Output:
    """Standard output, whichever it is at the moment. Into a pipe lines go without the blanks with
    which rich fills them up."""

    def write(self, text: str) -> int:
        output = self._output()
        return output.write(text if output.isatty() else re.sub(r" +(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output(), name)

    @staticmethod
    def _output() -> IO[str]:
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # beneath rich's own stand-in


console = Console(
    file=_Output(),  # type: ignore[arg-type]
    highlight=False,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH,
)


def title(text: str, detail: str = "") -> None:
    """The first line of a phase."""
    console.print()
    console.print(Rule(Text(text, style="bold"), characters="━", align="left"))
    if detail:
        console.print(Text(detail, style="dim"))


def heading(text: str, state: str = "") -> None:
    """A section; `state` ("todo", "right", "wrong") stands at its end."""
    words = Text(f"\n{text}", style="bold cyan")
    if state:
        style = {"right": "bold green", "wrong": "bold red", "todo": "bold yellow"}[state]
        words.append("  ")
        words.append(state.upper() if state == "todo" else state, style=style)
    console.print(words)


def say(text: str) -> None:
    """Prose, as Markdown."""
    console.print(Markdown(text))


def hints(tiers: Sequence[str], advice: str = "") -> None:
    """The hint for what the last run found, if there is one, and the tiers so far."""
    if advice:
        say(f"For what the last run found: {advice}")
    for number, text in enumerate(tiers, 1):
        say(f"{number}. {text}")


def line(text: str, style: str = "") -> None:
    """One line as it is."""
    console.print(Text(text, style=style))


def command(text: str) -> None:
    """A command to be copied: never folded, however long it is."""
    console.print(Text(f"    {text}"), soft_wrap=True)


def code(text: str, language: str = "python", most_lines: int = 60) -> None:
    """Source text, indented; long texts are cut with a line that says so."""
    lines = text.rstrip().splitlines()
    cut = len(lines) - most_lines
    _whole("\n".join(lines[:most_lines]), 4, language)
    if cut > 0:
        line(f"    ... {cut} more lines", "dim")


def _whole(text: Text | str, blanks: int, language: str = "") -> None:
    """Source text or a loop nest, indented. In a pipe its lines are not folded: what breaks in the
    middle of a name cannot be searched for, or copied."""
    if console.is_terminal:
        if isinstance(text, str):
            text = Syntax(text, language, background_color="default", word_wrap=True)
        console.print(Padding(text, (0, 0, 0, blanks)))
        return
    for one in str(text).split("\n"):
        console.print(Text(" " * blanks + one), soft_wrap=True)


def side_by_side(left: str, right: str, titles: tuple[str, str], language: str = "python") -> None:
    """Two source texts, beside each other where the terminal is wide enough."""
    widest = max(map(len, (*left.splitlines(), *right.splitlines())), default=0)
    shown = [
        Syntax(text.rstrip(), language, background_color="default", word_wrap=True)
        for text in (left, right)
    ]
    if 2 * widest + 6 <= console.width:
        grid = Table.grid(padding=(0, 4))
        grid.add_row(*[Text(one, style="dim") for one in titles])
        grid.add_row(*shown)
        console.print(Padding(grid, (0, 0, 0, 2)))
    else:
        for head, text in zip(titles, (left, right), strict=True):
            line(f"  {head}", "dim")
            _whole(text.rstrip(), 2, language)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """A table; columns after the first are right-aligned unless their title ends with a space."""
    grid = Table(caption=caption or None, caption_justify="left", title_justify="left")
    for number, column in enumerate(columns):
        left = number == 0 or column.endswith(" ")
        grid.add_column(column.strip(), justify="left" if left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*[Text(str(cell)) for cell in row])
    console.print(grid)


def nest(
    after: LoopNest,
    before: LoopNest | None = None,
    titles: tuple[str, str] = ("before", "after"),
    diagnosis: str = "",
) -> None:
    """A loop nest; with `before`, both under their titles, the lines that went marked "-" and those
    that came marked "+". The loop that a diagnosis is about is pointed at."""
    about = offending(after, diagnosis)
    if before is None:
        _whole(_nest_text(after, set(), "", about), 2)
        return
    gone, come = changed_lines(before, after)
    left, right = _nest_text(before, gone, "-"), _nest_text(after, come, "+", about)
    widest = max(text.cell_len for text in (*left.split(), *right.split()))
    if 2 * widest + 10 <= console.width:
        grid = Table.grid(padding=(0, 4))
        grid.add_row(Text(titles[0], style="dim"), Text(titles[1], style="dim"))
        grid.add_row(left, right)
        console.print(Padding(grid, (0, 0, 0, 2)))
    else:
        for head, text in zip(titles, (left, right), strict=True):
            line(f"  {head}", "dim")
            _whole(text, 2)


def changed_lines(before: LoopNest, after: LoopNest) -> tuple[set[int], set[int]]:
    """The lines of `before` that went, and those of `after` that came, by their numbers.

    Lines are compared without their indentation: a loop that only moved inwards is no change of
    that loop.
    """
    old, new = [line.text for line in before.lines], [line.text for line in after.lines]
    gone, come = set(range(len(old))), set(range(len(new)))
    for a, b, size in difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        gone -= set(range(a, a + size))
        come -= set(range(b, b + size))
    return gone, come


def offending(nest: LoopNest, diagnosis: str) -> frozenset[int]:
    """The line of the first loop that a sentence names, as "Loop j_1 is vectorized, but ..."; none
    if several loops have that name."""
    for name in re.findall(r"\b[Ll]oops? (\w+)", diagnosis):
        lines = {n for n, line in enumerate(nest.lines) if re.match(rf"for {name}\b", line.text)}
        if lines:
            return frozenset(lines if len(lines) == 1 else ())
    return frozenset()


def _nest_text(
    nest: LoopNest, marked: set[int], mark: str, about: frozenset[int] = frozenset()
) -> Text:
    style = {"-": "red", "+": "bold green"}.get(mark, "")
    text = Text()
    for number, item in enumerate(nest.lines):
        is_marked = number in marked
        text.append(f"{mark if is_marked else ' '} ", style=style if is_marked else "")
        shown = item.text
        if len(shown) > LONGEST_LINE:  # a polynomial in one statement, say
            shown = f"{shown[: LONGEST_LINE - 30]} ... {len(shown)} characters"
        text.append("  " * item.depth + shown, style=style if is_marked else "")
        if number in about:
            text.append("  <-- this loop", style="bold red")
        text.append("\n")
    text.rstrip()
    return text


def diagnosis(text: str) -> None:
    """The tutor's sentence about a wrong answer."""
    console.print(Panel(Text(text), border_style="red", title="not yet", title_align="left"))


def question(text: str, answer: Sequence[str]) -> None:
    """The key question of a lesson and what this run measured that answers it. At a terminal there
    is time to answer it oneself first."""
    body: list[Text | Markdown] = [Text(text, style="bold")]
    trouble = ""
    console.print()
    if ask.at_a_terminal():
        console.print(Text(f"Key question: {text}", style="bold"))
        if said := ask.line("In a few words; Enter shows what this run says: "):
            trouble = record.said(text, said)
            body.append(Text(f"You said: {said}", style="italic"))
    body += [Markdown(paragraph) for paragraph in answer]
    console.print(
        Panel(Group(*body), title="Key question", title_align="left", border_style="cyan")
    )
    if trouble:
        line(trouble, "yellow")


@contextmanager
def waiting(text: str) -> Iterator[Status]:
    """A spinner while something runs that has no steps to count; nothing when the output is no
    terminal. What it yields has `update(text)`."""
    with console.status(text) as status:
        yield status


@contextmanager
def progress(text: str, steps: int) -> Iterator[Progress]:
    """A progress bar over `steps`; use `advance(progress, what)`. It leaves no trace when done."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=4,
        disable=not console.is_terminal,
    )
    with bar:
        bar.add_task(text, total=steps)
        yield bar


def advance(bar: Progress, what: str) -> None:
    for task in bar.tasks:
        bar.update(task.id, advance=1, description=what)


# ---------------------------------------------------------------------------------- figures as text


def seconds(value: float) -> str:
    """A duration with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= factor:
            return f"{_three_digits(value / factor)} {unit}"
    return f"{_three_digits(value / 1e-9)} ns"


def rate(value: float) -> str:
    """GFLOP/s or GB/s with about three digits."""
    return _three_digits(value)


def share(value: float) -> str:
    if math.isnan(value):
        return "-"
    if value > 1.02:
        return "disturbed"  # more than the peak: something else ran while the peak was measured
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def times(value: float) -> str:
    return f"{_three_digits(value)}x"


def _three_digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
