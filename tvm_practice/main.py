"""Run the lessons: `python -m tvm_practice.main` all five phases in order, with --labs the labs
too, `python -m tvm_practice.<phase>` or `python -m tvm_practice.labs.<lab>` one.

Exit status: 0 when nothing is wrong (an unsolved exercise is not wrong), 1 when an answer is wrong,
2 when the command could not run, 130 when it was interrupted.
"""

from __future__ import annotations

import importlib
import json
import re
import secrets
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from tvm_practice.common import answers, ask, guess, progress, show, target, timing, worker
from tvm_practice.common.command import typed
from tvm_practice.common.exercise import (
    CPU,
    GPU,
    LABS,
    LEARNER,
    LESSONS,
    PHASES,
    REFERENCE,
    TITLES,
    BrokenLesson,
    exercises_of,
    gone,
    lesson_file,
    lesson_module,
    lesson_path,
)
from tvm_practice.common.own_function import Refused
from tvm_practice.common.status import (
    ANSWER_WRONG,
    COULD_NOT_RUN,
    INTERRUPTED,
    NOTHING_WRONG,
    status_of,
)
from tvm_practice.fleet import ADDRESS

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "reports"
RECORDS = ROOT / "records"


@dataclass(frozen=True)
class Options:
    """What the command line asked for. size is (M, N, K) or None for the lesson's own default."""

    target: str
    quick: bool
    solutions: bool
    seed: int
    size: tuple[int, int, int] | None
    trials: int | None
    model: str | None = None  # the learner's own, for the lab on deployment
    tracker: tuple[str, int] | None = None
    key: str | None = None

    @property
    def kind(self) -> str:
        """Which exercises a lesson takes up, and which part of its experiments it runs."""
        return CPU if self.target == "cpu" else GPU


class UnusableSize(ValueError):
    """The lesson cannot run at the size that was asked for; the message says which it takes."""


@dataclass
class Session:
    """One run of one lesson: its options, whose body of each exercise counts, and what it leaves
    behind."""

    lesson: str
    options: Options
    outcomes: list[Any] = field(default_factory=list)
    headline: str = ""
    status: int = NOTHING_WRONG  # other than that, where the lesson itself could not be run
    pictures: list[Path] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    trouble: str = ""  # what there is to say about the file that remembers the learner's progress
    _graded: dict[str, Any] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        return self.options.quick

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def records(self) -> Path:
        """Where this lesson keeps what it must find again in a later run; to be made by whoever
        writes there."""
        return RECORDS / self.lesson

    def size(
        self, quick: int, full: int, multiples: tuple[int, int, int] = (1, 1, 1)
    ) -> tuple[int, int, int]:
        """(M, N, K) asked for with --size, or the square default of this lesson. Raises
        UnusableSize unless they are multiples of the lesson's tiles."""
        side = quick if self.quick else full
        size = self.options.size or (side, side, side)
        if any(side % multiple for side, multiple in zip(size, multiples, strict=True)):
            raise UnusableSize(
                f"--size {'x'.join(map(str, size))}: on a GPU {self.lesson} takes multiples of "
                f"{'x'.join(map(str, multiples))}, such as 1024x2048x512."
            )
        return size

    def only_at(self, size: str) -> None:
        """Say that --size, if it is given, does not change anything here."""
        if self.options.size:
            show.line(f"--size is not for this part, which is at {size}.", "yellow")

    def grade(self, exercise_id: str, whose: str) -> Any:
        """The outcome of an exercise of any lesson; each is graded once a session."""
        from tvm_practice.checks import grade

        if (exercise_id, whose) not in self._graded:
            text = answers.text_of(exercise_id) if whose == LEARNER else None
            outcome = grade(exercise_id, whose, self.seed)
            self._graded[exercise_id, whose] = outcome
            if whose == LEARNER:
                told = progress.graded(exercise_id, outcome.state, text, outcome.hint)
                self.trouble = told or self.trouble
        return self._graded[exercise_id, whose]

    def whose(self, exercise_id: str) -> str:
        """Whose body of an exercise to build on: the learner's where it is right, else the
        reference's."""
        if self.options.solutions or self.grade(exercise_id, LEARNER).state != "right":
            return REFERENCE
        return LEARNER

    def took_up(self, exercise_ids: Iterable[str]) -> bool:
        """Whether any of these was graded."""
        return not {known for known, _ in self._graded}.isdisjoint(exercise_ids)

    def exercise(self, exercise_id: str) -> str:
        """Grade and show an exercise of this lesson; return whose body the rest of it builds on."""
        known = next(known for known in exercises_of(self.lesson) if known.id == exercise_id)
        with show.waiting(f"{exercise_id} {known.title} ..."):
            whose = self.whose(exercise_id)
            shown = self.grade(exercise_id, whose)
        if shown.state != "right":
            raise RuntimeError(f"the reference of {exercise_id} fails its check: {shown.sentence}")
        if self.options.solutions:
            show.heading(f"{exercise_id}  {known.title}  (reference)")
        else:
            outcome = self.grade(exercise_id, LEARNER)
            self.outcomes.append(outcome)
            show.heading(f"{exercise_id}  {known.title}", outcome.state)
            self._tell(outcome)
            if outcome.state != "right":
                yours = "yours to write" if outcome.state == "todo" else "not right yet"
                show.line(
                    f"  {known.place}: {yours} ({typed(f'hint {exercise_id}')} helps). The "
                    "reference stands in.",
                    "dim",
                )
        wrong = not self.options.solutions and self.grade(exercise_id, LEARNER).state == "wrong"
        found = whose == LEARNER or self.options.solutions
        # The nest is the goal, which the text names too; how to get there is the answer.
        made = "after" if found else "after: what your schedule is to make of it"
        for before, after in () if wrong else shown.nests:  # beside a wrong one it would drown it
            # Where the program itself is the answer, it is not shown before it is found.
            if before is not None or found:
                show.nest(after, before, ("before", made))
        return whose

    def _tell(self, outcome: Any) -> None:
        """What the learner's body did: the tutor's sentence and the loop nest if it is wrong, and
        in any case the end of what it printed."""
        if outcome.state == "wrong":
            show.diagnosis(outcome.sentence)
            for before, after in outcome.nests:
                show.line("  your loop nest", "dim")
                show.nest(after, before, diagnosis=outcome.sentence)
        if printed := outcome.printed.strip():
            show.line("  it printed, at the end (a check calls it at several sizes):", "dim")
            show.code(printed, "text")

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float = 300) -> Any:
        """Run a function in a worker process and return its result."""
        return worker.call(function, *arguments, seconds=seconds)

    def compare(
        self,
        candidates: Sequence[timing.Candidate],
        rounds: int | None = None,
        what: str = "timing",
        predict: bool = True,
    ) -> timing.Comparison:
        """Time candidates in paired rounds, behind a progress bar. Eleven rounds (seven if quick)
        unless told. Before it, at a terminal, ask which will win."""
        rounds = rounds or (7 if self.quick else 11)
        roofs = {peak.name for peak in timing.PEAKS}
        names = [one.name for one in candidates if one.name not in roofs]
        expected = None
        if predict and len(names) > 1 and ask.at_a_terminal():
            expected = guess.ask_for(names, what)
        with show.progress(what, len(candidates) * (rounds + 1)) as bar:
            measured = timing.compare(
                candidates,
                rounds,
                0.03 if self.quick else 0.06,
                lambda name: show.advance(bar, name),
            )
        for name, reason in measured.failed.items():
            show.line(f"  {name} was not measured: {reason}", "yellow")
        if disturbance := measured.disturbance():
            show.line(disturbance, "yellow")
        if expected and (score := expected.score(measured)):
            show.say(score)
        return measured

    def question(self, text: str, answer: Sequence[str]) -> None:
        """Ask a key question, show what this run found that answers it, and keep what was said."""
        if said := show.question(text, answer, progress.said().get(text, "")):
            self.trouble = progress.say(text, said) or self.trouble

    def picture(self, name: str, draw: Callable[[Path], None]) -> None:
        """Have `draw(path)` write reports/<lesson>/<name>.png and say where it is; a full disk
        costs only the picture."""
        path = REPORTS / self.lesson / f"{name}.png"
        try:
            _folder(path.parent)
            draw(path)
        except OSError as error:
            show.line(
                f"  {_relative(path)} could not be written: {error.strerror or error}", "yellow"
            )
            return
        self.pictures.append(path)
        show.line(f"  picture: {_relative(path)}", "dim")

    def save_report(self, machine: dict[str, Any]) -> None:
        """Write what was measured to reports/<lesson>.json, whole or not at all."""
        path = REPORTS / f"{self.lesson}.json"
        content = {
            "lesson": self.lesson,
            "started": self.started.isoformat(timespec="seconds"),
            "machine": machine,
            "seed": self.seed,
            **self.report,
        }
        try:
            _folder(REPORTS)
            answers.write_whole(path, json.dumps(content, indent=1).encode())
        except OSError as error:
            show.line(
                f"  {_relative(path)} could not be written: {error.strerror or error}", "yellow"
            )

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


# ------------------------------------------------------------------------------ running the lessons


def run_lessons(lessons: Sequence[str], options: Options) -> int:
    """Run the lessons in order, then the summary if there are several; return the exit status."""
    if options.key and not options.tracker:
        return _refuse("--key names devices of a tracker; give --tracker HOST:PORT with it.")
    if options.tracker and ("auto_tune" not in lessons or options.kind != CPU):
        return _refuse("--tracker is for phase 5 with --target cpu; nothing else measures there.")
    try:
        target.check_usable(options.target)
    except target.UnusableTarget as error:
        return _refuse(str(error))
    sessions = []
    try:
        machine = _introduce(options)
        for lesson in lessons:
            session = Session(lesson, options)
            sessions.append(session)
            kind = f"Phase {PHASES.index(lesson) + 1}" if lesson in PHASES else "Lab"
            show.title(f"{kind}  {TITLES[lesson]}", lesson_file(lesson))
            try:
                _experiments(session)
            except (BrokenLesson, worker.WorkerFailed) as error:
                if not _cannot_run(session, error):
                    raise
            session.save_report(machine)
        if len(sessions) > 1:
            _summary(sessions)
    except KeyboardInterrupt:
        show.line("\nInterrupted.")
        return INTERRUPTED
    except (target.UnusableTarget, UnusableSize, BrokenLesson, Refused) as error:
        return _refuse(str(error))
    except PermissionError as error:
        return _refuse(
            f"{_relative(Path(error.filename or 'a folder'))} cannot be used: {error.strerror}."
        )
    except worker.WorkerFailed as error:
        if error.failure.printed.strip():
            show.line("\n".join(error.failure.printed.strip().splitlines()[-12:]), "dim")
        return _refuse(f"the lesson could not be finished: {error}")
    except Exception as error:  # whatever nobody foresaw is not the learner's wrong answer
        show.line(traceback.format_exc(limit=-3), "dim")
        return _refuse(f"the lesson could not be finished: {type(error).__name__}: {error}")
    if trouble := next((session.trouble for session in sessions if session.trouble), ""):
        show.line(trouble, "yellow")
    wrong = any(session.count("wrong") for session in sessions)
    return max(ANSWER_WRONG if wrong else NOTHING_WRONG, *(one.status for one in sessions))


def _cannot_run(session: Session, error: Exception) -> bool:
    """Tell of a lesson file that is damaged or gone, found here or in a worker; the other lessons
    go on. False if the error is another one."""
    kind, sentence = "BrokenLesson", str(error)
    if isinstance(error, worker.WorkerFailed):
        kind, _, sentence = sentence.partition(": ")
    if kind != "BrokenLesson":
        return False
    is_gone = sentence in map(gone, LESSONS)
    show.diagnosis(sentence)
    session.headline = f"could not run: a lesson file is {'gone' if is_gone else 'damaged'}"
    session.status = COULD_NOT_RUN if is_gone else ANSWER_WRONG
    return True


def _experiments(session: Session) -> None:
    """Run what a lesson shows on the kind of target that was asked for, if it has a part for it."""
    module = importlib.import_module(f"tvm_practice.experiments.{session.lesson}")
    part = {CPU: "run", GPU: "run_gpu"}[session.options.kind]
    if hasattr(module, part):
        getattr(module, part)(session)
        known = exercises_of(session.lesson)
        given = session.options.solutions or session.options.model
        if not (given or session.took_up(one.id for one in known)):
            show.line(
                f"Exercises {known[0].id} to {known[-1].id} are taken up with --target cpu.", "dim"
            )
        if session.options.target == "cuda" and hasattr(module, "gpu_competitors"):
            _on_device(session, module)
        return
    other = "--target cuda-sim runs it on any machine" if part == "run" else "--target cpu runs it"
    show.line(f"This lesson has no part for --target {session.options.target}; {other}.")
    session.headline = f"nothing for --target {session.options.target}"


def _on_device(session: Session, module: Any) -> None:
    """Time the references of a lesson, and the libraries, on the GPU itself."""
    from tvm_practice.common.cuda import device

    size = (module.GPU_QUICK_SIZES if session.quick else module.GPU_SIZES)[0]
    gpu = worker.call(device.found)["name"]
    show.heading(f"Measured: {' x '.join(map(str, size))} on one {gpu}")
    candidates = [*device.PEAKS, *module.gpu_competitors(size, session.seed)]
    measured = session.compare(candidates, what="on the device")
    peaks = {peak.name for peak in device.PEAKS}
    names = [name for name in measured.figures if name not in peaks]
    best = "hand"
    rows = []
    for name in names:
        figure = measured[name]
        compared = best in measured and name != best
        rows.append(
            (
                name,
                show.seconds(figure.median_s),
                f"{figure.spread:.0%}",
                show.rate(figure.gflops),
                f"{measured.share_of_peak(name):.0%}",
                show.rate(figure.gbytes),
                measured.verdict(best, name, timing.PROCESS_LUCK).short() if compared else "-",
            )
        )
    show.table(
        ("version", "time", "spread", "GFLOP/s", "of FMA peak", "GB/s", f"{best} is"),
        rows,
        f"Reference schedules. Measured in the same rounds: {show.rate(measured.peak_gflops)} "
        f"GFLOP/s of float32 multiply-adds, {show.rate(measured.peak_gbytes)} GB/s stream triad. "
        f"Medians of up to {measured.rounds} paired rounds by the device's own clock; every result "
        "verified. torch without TF32.",
    )
    session.report["device"] = {"name": gpu, "size": size, "results": measured.as_json()}
    if best in measured:
        session.headline += f"; {show.seconds(measured[best].median_s)} on one {gpu}"


def _introduce(options: Options) -> dict[str, Any]:
    """Say what runs and on what; every figure below is to be read with it."""
    with show.waiting("starting TVM ..."):
        machine = worker.call(target.machine)
        if options.target == "cuda":
            from tvm_practice.common.cuda import device

            machine["gpu"] = worker.call(device.found)
            show.line(device.in_words(machine["gpu"]), "dim")
    show.line(
        f"target {options.target}: {machine['cpu']} ({machine['llvm_cpu']}), "
        f"{machine['threads']} of {machine['cores']} cores, {machine['busy_cores']:.1f} of them "
        "busy "
        f"| TVM {machine['tvm']}, LLVM {machine['llvm']}, Python {machine['python']} "
        f"| seed {options.seed}",
        "dim",
    )
    if machine["busy_cores"] > 0.25 and options.kind == CPU:  # without a GPU nothing is timed
        show.line(
            f"Other programs keep {machine['busy_cores']:.1f} cores busy at this moment: figures "
            "will be lower than they could be, and verdicts less certain.",
            "yellow",
        )
    return machine


def _summary(sessions: Sequence[Session]) -> None:
    show.title("Summary")
    rows = []
    for session in sessions:
        done = session.count("right")
        wrong = session.count("wrong")
        taken_up = len(session.outcomes) or len(exercises_of(session.lesson, session.options.kind))
        state = "references" if session.options.solutions else f"{done} of {taken_up}"
        rows.append(
            (
                f"{PHASES.index(session.lesson) + 1} {session.lesson}"
                if session.lesson in PHASES
                else f"lab {session.lesson}",
                state + (f", {wrong} wrong" if wrong else ""),
                session.headline,
            )
        )
    run = {session.lesson for session in sessions}
    rows += [
        (f"lab {lab}", "-", typed(f"run {lab}"))
        for lab in LABS
        if lab not in run and lesson_path(lab).exists()
    ]
    show.table(("lesson", "solved ", "this run "), rows)
    pictures = [_relative(path) for session in sessions for path in session.pictures]
    if pictures:
        show.line("Pictures: " + ", ".join(map(str, pictures)))
    if sessions[0].options.solutions:
        return
    outcomes = [outcome for session in sessions for outcome in session.outcomes]
    right = [outcome.id for outcome in outcomes if outcome.state == "right"]
    show.following(progress.following(right=right))


def _refuse(sentence: str) -> int:
    click.echo(f"tvm_practice: {sentence}", err=True)
    return COULD_NOT_RUN


# ------------------------------------------------------------------------------------- command line


class _Size(click.ParamType):
    """N for a square matmul, or MxNxK."""

    name = "N|MxNxK"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int]:
        found = re.fullmatch(r"(\d+)(?:x(\d+)x(\d+))?", str(value))
        sides = [int(side) for side in found.groups() if side] if found else []
        if not sides or min(sides) < 1 or max(sides) > 8192:
            self.fail(
                f"{value!r} is no size; give N or MxNxK with each from 1 to 8192, such as 512 or "
                "1000x517x333."
            )
        m, n, k = sides if len(sides) == 3 else sides * 3
        return m, n, k


RUN_OPTIONS = (
    click.option(
        "--target",
        default="cpu",
        envvar=target.TARGET_VARIABLE,
        show_envvar=True,
        metavar="|".join(target.TARGETS),
        shell_complete=lambda ctx, param, begun: [
            one for one in target.TARGETS if one.startswith(begun)
        ],
        help="What code is generated for.",
    ),
    click.option("--quick", is_flag=True, help="Smaller sizes, fewer rounds, 64 trials."),
    click.option("--solutions", is_flag=True, help="The reference bodies throughout."),
    click.option(
        "--seed", type=click.IntRange(0), help="Seed of every random input; fresh if not given."
    ),
    click.option(
        "--size",
        type=_Size(),
        metavar="N|MxNxK",
        help="Size of the matmul in phases 2, 3, 5 and the labs fused_gelu, tensorize.",
    ),
    click.option("--trials", type=click.IntRange(1), help="Schedules that phase 5 measures."),
    click.option(
        "--tracker", type=ADDRESS, help="Phase 5 measures on the devices of this RPC tracker."
    ),
    click.option("--key", help="Which of the tracker's devices; cpu if not given."),
)


_HINTS = (
    click.option("--hint", metavar="ID", help="Show a hint for an exercise, and nothing else."),
    click.option("--more", count=True, help="With --hint: one tier more each time it is given."),
)


_LABS = click.option("--labs", is_flag=True, help="The labs too, after the phases.")


# What only one lesson takes.
_OF_LESSON = {
    "deploy": (
        click.option(
            "--model",
            metavar="FILE:FUNCTION",
            help="Your own PyTorch model: a function that returns it and example inputs.",
        ),
    )
}


# What else a lesson's program does, by the flag that asks for it.
_OTHER_COMMANDS = {
    "whole_models": {
        "--tune": ("tvm_practice.experiments.whole_models", "tune_command"),
        "--figures": ("tvm_practice.experiments.model_figures", "figures_command"),
    }
}


def _run(
    lessons: Sequence[str],
    hint: str | None,
    more: int,
    seed: int | None,
    labs: bool = False,
    **given: Any,
) -> int:
    if hint is not None:
        return _hint(hint, more)
    if more:
        return _refuse("--more goes with --hint ID.")
    seed = seed if seed is not None else secrets.randbelow(1 << 31)
    return run_lessons([*lessons, *(LABS if labs else ())], Options(seed=seed, **given))


def _hint(exercise_id: str, more: int) -> int:
    known = {known.id: known for lesson in LESSONS for known in exercises_of(lesson)}
    if exercise_id not in known:
        return _refuse(f"there is no exercise {exercise_id!r}; there are {', '.join(known)}.")
    from tvm_practice.checks import hints_of

    hints = hints_of(exercise_id)
    show.heading(f"{exercise_id}  {known[exercise_id].title}")
    text = answers.texts_if_there(known[exercise_id].lesson).get(exercise_id)
    show.hints(hints[: more + 1], progress.read().advice(exercise_id, text))
    if more + 1 < len(hints):
        show.line(f"(add --more{' --more' * more} for the next hint)", "dim")
    return NOTHING_WRONG


def _command(
    name: str, summary: str, lessons: Sequence[str], more_options: Sequence[Callable] = ()
) -> click.Command:
    """A click command that runs `lessons`."""

    @click.pass_context
    def run(context: click.Context, **given: Any) -> None:
        try:
            context.exit(_run(lessons, **given))
        except KeyboardInterrupt:
            context.exit(INTERRUPTED)

    for option in reversed((*RUN_OPTIONS, *_HINTS, *more_options)):
        run = option(run)
    return click.command(name, help=summary)(run)


def run_lesson_from_command_line(lesson: str) -> int:
    """The entry of `python -m tvm_practice.<phase>` and of the labs; returns the exit status."""
    for flag, (module, name) in _OTHER_COMMANDS.get(lesson, {}).items():
        if flag in sys.argv[1:]:
            command = getattr(importlib.import_module(module), name)
            return status_of(command, command.name)
    others = [f"{flag} --help" for flag in _OTHER_COMMANDS.get(lesson, ())]
    summary = f"{TITLES[lesson]}." + (f" It has other uses: {', '.join(others)}." if others else "")
    name = f"python -m {lesson_module(lesson)}"
    return status_of(_command(name, summary, (lesson,), _OF_LESSON.get(lesson, ())), name)


def main() -> int:
    """The entry of `python -m tvm_practice.main`; returns the exit status."""
    summary = "All five phases in order, then a summary."
    name = "python -m tvm_practice.main"
    return status_of(_command(name, summary, PHASES, (_LABS,)), name)


if __name__ == "__main__":
    sys.exit(main())
