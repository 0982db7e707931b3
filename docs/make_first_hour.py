"""Make docs/FIRST_HOUR.md: a first hour with the course, played in a clean copy of the repository.

    ./practice python docs/make_first_hour.py

Types what a learner types, wrong turns included, by the real commands, and keeps what they print.
The beginning also goes into README.md, between its markers. There are times in it: make it on a
machine that does nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tvm_practice.common import show
from tvm_practice.common.answers import originals, reference, texts, write_whole
from tvm_practice.common.exercise import LESSONS, catalogue, lesson_file

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGE = DOCS / "FIRST_HOUR.md"
README = ROOT / "README.md"
START, END = "<!-- first hour: docs/make_first_hour.py -->", "<!-- end of first hour -->"

# What a clone has not: the environment, what runs have left, and caches.
LEFT_BEHIND = (
    *(".git", ".venv*", ".uv", "uv.lock"),
    *("records", "reports", ".tvm_practice"),
    *("__pycache__", ".*_cache", ".hypothesis", "build", "dist"),
)

COLUMNS = 96
IN_README = 16  # lines
SECONDS = 600

HEAD = """\
# A first hour

In a fresh clone, played by a script: what a learner types, wrong turns included, and what the
commands then print, of which nothing was written by hand. `tvm-practice` is short for
`./practice tvm-practice`. `...` stands for lines left out. `--seed 1` makes the numbers the same
each time; it need not be typed.

*`./practice python docs/make_first_hour.py` made this page.*
"""


@dataclass(frozen=True)
class Step:
    """One thing that the learner does, and the sentence before it.

    answer: (exercise, its body), typed into the lesson; the reference's if the body is empty, which
    is then not shown. command: what is run.

    Of the output the first lines are kept, and those from the last one on that begins with `tail`.
    same: it is the same on every machine.
    """

    prose: str
    command: str = ""
    answer: tuple[str, str] | None = None
    first: int = 60
    tail: str = ""
    same: bool = True


MATMUL = """\
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[{index}] * B[k, j], axis=k), name="C")
    return [A, B, C]"""

RELU = """\
    X = te.placeholder((M, N), name="X")
    bias = te.placeholder((N,), name="bias")
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias[j], name="biased")
    Y = te.compute((M, N), lambda i, j: max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]"""

TILE = """\
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    io, ii = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(io, jo, ii, ji, k)"""

STEPS = (
    Step("What is there?", "list", first=3),
    Step(
        "The first exercise stands in tvm_practice/te_basics.py, a file to be read from its top. "
        "To run it before anything is written is no error.",
        "run 1.1",
    ),
    Step(
        "After reading as far as the `TODO`, a first try, which has two indices swapped:",
        "run 1.1 --seed 1",
        ("1.1", MATMUL.format(index="k, i")),
    ),
    Step("That says it. What would a hint have said?", "hint 1.1"),
    Step(
        "With the indices in order:",
        "run 1.1 --seed 1",
        ("1.1", MATMUL.format(index="i, k")),
    ),
    Step("On to 1.2, in Python as it comes to mind:", "run 1.2 --seed 1", ("1.2", RELU)),
    Step(
        "With `te.max` in its place. Without an id it is the first exercise that is not solved:",
        "run --seed 1",
        ("1.2", ""),
    ),
    Step("Right answers are not shown from here on. 1.3:", "run 1.3 --seed 1", ("1.3", "")),
    Step("And 1.4:", "run 1.4 --seed 1", ("1.4", "")),
    Step(
        "The lesson as a whole, with these answers: it shows what becomes of them, times them, and "
        "answers its key question from that.",
        "run te_basics --seed 1",
        first=2,
        tail="╭─ Key question",
        same=False,
    ),
    Step(
        "Phase 2. Tiles of rows and columns, with k where it was:",
        "run 2.1 --seed 1",
        ("2.1", TILE),
        first=23,
        same=False,
    ),
    Step("With k outside of the tile:", "run 2.1 --seed 1", ("2.1", ""), same=False),
    Step("2.2 is two lines:", "run 2.2 --seed 1", ("2.2", ""), same=False),
    Step(
        "What has that been worth? The lesson times every step, with these two answers, and with "
        "references for the rest.",
        "run manual_schedule --quick --seed 1",
        first=2,
        tail="The ladder,",
        same=False,
    ),
    Step("That is an hour's work.", "progress", first=4, tail="6 of "),
)


# ------------------------------------------------------------------------------------------ playing


def clean_copy(folder: Path) -> Path:
    """The repository as a fresh clone of it would be, with what is not committed yet."""
    # By name and not by git, which need not be there in a container.
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_BEHIND), dirs_exist_ok=True)
    for lesson in LESSONS:
        path = folder / lesson_file(lesson)
        text, shipped = path.read_text(), originals(lesson)
        for exercise_id, mine in texts(lesson).items():
            text = text.replace(mine, shipped.get(exercise_id, mine))
        path.write_text(text)
    return folder


def typed_command() -> Path:
    """The command as it is installed beside this Python."""
    command = Path(sys.executable).parent / "tvm-practice"
    if not command.exists():
        raise FileNotFoundError(f"{command} is not there; `uv sync` installs it")
    return command


def run(folder: Path, command: str) -> str:
    """What a command prints in the copy. Raises RuntimeError if it could not run."""
    program = typed_command()
    unset = ("TVM_PRACTICE_TARGET", "TVM_PRACTICE_COMMAND", "UV_RUN_RECURSION_DEPTH")
    done = subprocess.run(
        [program, *command.split()],
        cwd=folder,
        env={
            **{name: text for name, text in os.environ.items() if name not in unset},
            "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]]),
            "PYTHONPATH": str(folder),
            "COLUMNS": str(COLUMNS),
            "NO_COLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode not in (0, 1) or "Traceback" in done.stdout:
        raise RuntimeError(f"`tvm-practice {command}` ended with {done.returncode}: {done.stdout}")
    return done.stdout


def write_answer(folder: Path, exercise_id: str, body: str) -> None:
    """Put a body in the place of what stands under the docstring of an exercise."""
    known = catalogue()[exercise_id]
    path = folder / lesson_file(known.lesson)
    text = path.read_text()
    shipped = originals(known.lesson)[exercise_id]
    upto = shipped.index(f"    # TODO({exercise_id})")
    start = text.index(shipped[:upto]) + upto
    end = re.compile(r"\n+(?=\S)").search(text, start).start()
    path.write_text(text[:start] + (body or reference_body(exercise_id)) + text[end:])


def reference_body(exercise_id: str) -> str:
    return reference(catalogue()[exercise_id]).partition("\n")[2]


def shortened(text: str, step: Step) -> list[str]:
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    tails = [n for n, line in enumerate(lines) if step.tail and line.startswith(step.tail)]
    if step.tail and not tails:
        raise RuntimeError(f"`tvm-practice {step.command}` printed no {step.tail!r}")
    tail = tails[-1] if tails else len(lines)
    if tail <= step.first + 1:
        return lines
    return [*lines[: step.first], "...", *lines[tail:]]


def play(folder: Path, steps: tuple[Step, ...] = STEPS) -> Iterator[str]:
    """The text of each step, as it is done in `folder`."""
    for step in steps:
        parts = [step.prose]
        if step.answer:
            exercise_id, body = step.answer
            write_answer(folder, exercise_id, body)
            if body:
                parts.append(f"```python\n{body}\n```")
        output = shortened(run(folder, step.command), step)
        parts.append("\n".join(["```text", f"$ tvm-practice {step.command}", *output, "```"]))
        yield "\n\n".join(parts)


# ---------------------------------------------------------------------------------------- the pages


def page_of(played: list[str]) -> str:
    return "\n\n".join([HEAD.rstrip(), *played]) + "\n"


def beginning(page: str) -> str:
    """What README.md shows of the page: the first lines of all that was typed and printed."""
    blocks = re.findall(r"^```text\n(.*?)\n```$", page, re.M | re.S)
    lines = "\n".join(blocks).splitlines()
    return "\n".join([*lines[:IN_README], "..."])


def with_beginning(readme: str, page: str) -> str:
    block = f"{START}\n\n```text\n{beginning(page)}\n```\n\n{END}"
    return re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: block, readme, flags=re.S)


def main() -> int:
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tvm-practice-") as folder,
            show.progress("the first hour", len(STEPS)) as bar,
        ):
            played = []
            for step, text in zip(STEPS, play(clean_copy(Path(folder))), strict=True):
                played.append(text)
                show.advance(bar, f"tvm-practice {step.command}")
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 2
    page = page_of(played)
    write_whole(PAGE, page.encode())
    write_whole(README, with_beginning(README.read_text(), page).encode())
    print(PAGE, README, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
