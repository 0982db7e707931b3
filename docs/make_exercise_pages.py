"""Make docs/EXERCISES.md, a section for every exercise.

    ./practice python docs/make_exercise_pages.py           all of them, which takes some minutes
    ./practice python docs/make_exercise_pages.py 2.1 2.2   only these, in their places

What an exercise teaches, and which wrong answers are worth reading about, is written by hand in
docs/exercises.toml. The loop nests are the reference's, and what is told about a wrong answer is
what the check says when it is given that answer.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

# A nest may depend on how many threads there are: the page is made for two, wherever it is made.
os.environ["TVM_NUM_THREADS"] = "2"

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))  # for tests.wrong_answers

from tests.wrong_answers import answers_of  # noqa: E402
from tvm_practice.checks import RIGHT, WRONG, Outcome, grade  # noqa: E402
from tvm_practice.common import show, worker  # noqa: E402
from tvm_practice.common.answers import write_whole  # noqa: E402
from tvm_practice.common.exercise import (  # noqa: E402
    GPU,
    LESSONS,
    PHASES,
    REFERENCE,
    TITLES,
    Exercise,
    catalogue,
    exercises_of,
    lesson_file,
)
from tvm_practice.common.loop_nest import Line, LoopNest  # noqa: E402

PAGE = DOCS / "EXERCISES.md"
PROSE = DOCS / "exercises.toml"
MOST_PITFALLS = 5
SEED = 3
PROCESSES = 2
# Of a nest: characters of a line, lines in all, lines that are shown in any case, and unchanged
# lines in a row before they are cut.
WIDEST, LONGEST, SHORT, UNCHANGED = 160, 44, 14, 3

HEAD = """\
# The exercises

What each exercise teaches, the loop nest before and after it, and what the course says to wrong
answers that people give. No reference code stands here. Read a section before you begin, or when
you are done; for a way on in between, `tvm-practice hint ID` is better.

In a nest, `-` marks lines that go and `+` lines that come; a loop that only moved is not marked,
and `...` stands for unchanged lines. The nest is the reference's, at the size at which the check
looks at it, for two threads and the vector registers of the machine that made this page; yours may
have other numbers.

*`./practice python docs/make_exercise_pages.py` made this page: the nests and what is told are from
the checks, the rest from [exercises.toml](exercises.toml).*
"""


@dataclass(frozen=True)
class Prose:
    """What is written by hand for an exercise. pitfalls: function of a wrong answer -> what it
    does. fold: its nest tells too much to be shown at once."""

    teaches: str
    pitfalls: dict[str, str]
    fold: bool


def read_prose(ids: Iterable[str]) -> dict[str, Prose]:
    """The prose of these exercises. Raises ValueError, with a sentence, for what does not fit the
    course."""
    given = tomllib.loads(PROSE.read_text())
    for exercise_id in given:
        if exercise_id not in catalogue():
            raise ValueError(f"{PROSE.name} has {exercise_id}, which is no exercise")
    if missing := [exercise_id for exercise_id in ids if exercise_id not in given]:
        raise ValueError(f"{PROSE.name} has nothing for {', '.join(missing)}")
    wrong_answers = {
        (exercise_id, name)
        for lesson in {catalogue()[exercise_id].lesson for exercise_id in ids}
        for name, exercise_id, diagnosis in worker.call(answers_of, lesson)
        if diagnosis is not None
    }
    prose = {}
    for exercise_id in ids:
        one = given[exercise_id]
        if not 1 <= len(one["pitfalls"]) <= MOST_PITFALLS:
            raise ValueError(f"{PROSE.name}: {exercise_id} needs 1 to {MOST_PITFALLS} pitfalls")
        for name in one["pitfalls"]:
            if (exercise_id, name) not in wrong_answers:
                raise ValueError(f"{PROSE.name}: {name} is no wrong answer to {exercise_id}")
        teaches = " ".join(one["teaches"].split())
        prose[exercise_id] = Prose(teaches, one["pitfalls"], one.get("fold", False))
    return prose


# -------------------------------------------------------------------------------------- a loop nest


def shortened(lines: tuple[Line, ...], marked: set[int], mark: str) -> list[str]:
    """The lines of a nest, those in `marked` with a mark; of the others, those that a marked line
    stands in or beside, if any is marked."""
    whole = not marked or len(lines) <= SHORT
    kept = set(range(len(lines))) if whole else _worth_showing(lines, marked)
    text, number = [], 0
    while number < len(lines):
        line = lines[number]
        end = number
        while end < len(lines) and end not in kept:
            end += 1
        if end - number > UNCHANGED:
            text.append(f"  {'  ' * line.depth}...")
            number = end
            continue
        shown = "  " * line.depth + line.text
        cut = shown if len(shown) <= WIDEST else f"{shown[: WIDEST - 4]} ..."
        text.append(f"{mark if number in marked else ' '} {cut}")
        number += 1
    if len(text) > LONGEST:
        text = [*text[:LONGEST], f"  ... {len(text) - LONGEST} more lines"]
    return text


def _worth_showing(lines: tuple[Line, ...], marked: set[int]) -> set[int]:
    kept = set(marked)
    for number in marked:
        depth = lines[number].depth
        beside = {number - 1, number + 1} & set(range(len(lines)))
        kept |= {other for other in beside if lines[other].depth <= depth}
        for above in range(number - 1, -1, -1):
            if lines[above].depth < depth:
                kept.add(above)
                depth = lines[above].depth
    return kept


def nests(before: LoopNest | None, after: LoopNest, fold: bool) -> list[str]:
    """A nest, or both, as Markdown. Where the nest is the answer itself it is folded away."""
    gone, come = (set(), set()) if before is None else show.changed_lines(before, after)
    lines = [] if before is None else ["Before:", "", *_block(before, gone, "-"), "", "After:", ""]
    lines += _block(after, come, "+")
    if before is None or fold:
        summary = "Of a right answer. It gives much away."
        lines = [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]
    return lines


def _block(nest: LoopNest, marked: set[int], mark: str) -> list[str]:
    lines = shortened(nest.lines, marked, mark)
    return ["```diff", *(line.rstrip() for line in lines), "```"]


# ----------------------------------------------------------------------------------------- the page


def heading(known: Exercise) -> str:
    return f"{known.id} {known.title}"


def anchor(title: str) -> str:
    """What GitHub makes of a heading, to link to it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def lesson_heading(lesson: str) -> str:
    kind = f"Phase {PHASES.index(lesson) + 1}" if lesson in PHASES else f"Lab {lesson}"
    return f"{kind}: {TITLES[lesson]}"


def section(known: Exercise, prose: Prose, outcomes: dict[str, Outcome]) -> str:
    """The text of an exercise; outcomes: of REFERENCE, and of each pitfall by its name."""
    siblings = exercises_of(known.lesson)
    place = next(n for n, one in enumerate(siblings, 1) if one.id == known.id)
    file = lesson_file(known.lesson)
    kind = ", for a GPU" if known.target == GPU else ""
    lines = [
        f"### {heading(known)}",
        "",
        f"Exercise {place} of {len(siblings)} in [{file}](../{file}){kind}. "
        f"Run it: `tvm-practice run {known.id}`",
        "",
        f"**What it teaches.** {prose.teaches}",
        "",
    ]
    if outcomes[REFERENCE].nests:
        lines += ["**The loop nest.**", "", *nests(*outcomes[REFERENCE].nests[0], prose.fold), ""]
    lines += ["**Pitfalls.**", ""]
    for name, what in prose.pitfalls.items():
        told = named(outcomes[name].sentence, name, known.name)
        lines.append(f"- *{what}.* {as_markdown(told)}")
    return "\n".join(lines)


def named(sentence: str, answer: str, exercise: str) -> str:
    """A sentence with the exercise's function where it names that of the wrong answer."""
    if "_" in answer:
        return re.sub(rf"\b{answer}\b", exercise, sentence)
    return re.sub(
        rf"\b{answer}(?=\(| (?:computes|failed|ran|returned|should)\b)", exercise, sentence
    )


def as_markdown(sentence: str) -> str:
    """A sentence of a check, so that it reads the same in Markdown. Lines of the files in which the
    wrong answers stand are left out: they tell a reader nothing."""
    sentence = re.sub(r"\b([Aa]t )?line \d+, (?=`)", r"\1", " ".join(sentence.split()))
    pieces = re.split(r"(`[^`]*`)", sentence)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"[*<]|(?<!\w)_|_(?!\w)", r"\\\g<0>", piece)
        for piece in pieces
    )


def sections_of(page: str) -> dict[str, str]:
    """The section of each exercise that a page has, by the exercise's id."""
    starts = list(re.finditer(r"^### (\S+) .*$", page, re.M))
    ends = [one.start() for one in re.finditer(r"^##+ ", page, re.M)] + [len(page)]
    return {
        one[1]: page[one.start() : next(end for end in ends if end > one.start())].rstrip()
        for one in starts
    }


def page_of(sections: dict[str, str]) -> str:
    """The whole page: its head, the contents, and the sections there are, in their order."""
    contents, body = [], []
    for lesson in LESSONS:
        there = [known for known in exercises_of(lesson) if known.id in sections]
        if not there:
            continue
        title = lesson_heading(lesson)
        contents.append(f"- [{title}](#{anchor(title)})")
        contents += [f"  - [{heading(known)}](#{anchor(heading(known))})" for known in there]
        body += [f"## {title}", *(sections[known.id] for known in there)]
    return "\n\n".join([HEAD.rstrip(), "\n".join(contents), *body]) + "\n"


# ---------------------------------------------------------------------------------------- making it


def graded(exercise_id: str, lesson: str, name: str) -> Outcome:
    """The outcome of an answer. Raises ValueError if it is not what the page is to tell of it."""
    whose = REFERENCE if name == REFERENCE else f"{ROOT}/tests/wrong_answers/{lesson}.py:{name}"
    outcome = grade(exercise_id, whose, seed=SEED)
    if outcome.state != (RIGHT if name == REFERENCE else WRONG):
        raise ValueError(
            f"{exercise_id}, {name}: the check says {outcome.state}. {outcome.sentence}".rstrip(
                ". "
            )
        )
    return outcome


def make(ids: list[str], page: Path = PAGE) -> None:
    """Make the sections of these exercises, each written to the page when it is done."""
    prose = read_prose(ids)
    # Spawned: a forked process would think that this one's fork server is its own.
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        jobs: dict[str, dict[str, Future[Outcome]]] = {
            exercise_id: {
                name: pool.submit(graded, exercise_id, catalogue()[exercise_id].lesson, name)
                for name in (REFERENCE, *prose[exercise_id].pitfalls)
            }
            for exercise_id in ids
        }
        try:
            with show.progress("exercises", len(ids)) as bar:
                for exercise_id, answers in jobs.items():
                    outcomes = {name: answer.result() for name, answer in answers.items()}
                    known = catalogue()[exercise_id]
                    text = section(known, prose[exercise_id], outcomes)
                    there = sections_of(page.read_text()) if page.exists() else {}
                    write_whole(page, page_of({**there, exercise_id: text}).encode())
                    show.advance(bar, heading(known))
                    if not show.console.is_terminal:
                        show.line(heading(known))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main(arguments: list[str]) -> int:
    try:
        if unknown := [one for one in arguments if one not in catalogue()]:
            raise ValueError(f"{unknown[0]!r} is no exercise; there are {', '.join(catalogue())}")
        make(arguments or list(catalogue()))
    except ValueError as error:
        print(f"make_exercise_pages: {error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
