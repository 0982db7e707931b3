"""Explain a schedule: what each primitive changed in the loop nest, and what that did to the time.

    python -m tvm_practice.explain 2.5                          the ladder of phase 2, up to a step
    python -m tvm_practice.explain mine.py:schedule             what your function returns
    python -m tvm_practice.explain records/auto_tune/FOLDER     the best record of a search

The schedule's trace is replayed one instruction at a time. Every program on the way is compiled,
its result compared with that of the unscheduled program, and all of them are timed in paired
rounds. With --json everything goes to a file from which the steps can be drawn.

Exit status: 0 when every step gives the right result, 1 when one gives a wrong result, 2 when the
command could not run, 130 when it was interrupted.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import secrets
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import click
from rich.padding import Padding
from rich.text import Text

from tvm_practice.common import (
    answers,
    exercise,
    records,
    show,
    stage,
    target,
    timing,
    verify,
    worker,
)
from tvm_practice.common.command import typed
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.own_function import OwnFunction, Refused, named, result_of
from tvm_practice.common.refusal import in_plain_words
from tvm_practice.common.replay import START, NoReplay, Replay, Step, replay
from tvm_practice.common.status import ANSWER_WRONG, COULD_NOT_RUN, INTERRUPTED
from tvm_practice.experiments.manual_schedule import RUNGS, scheduled_matmul

SIDE = 512  # of the ladder's matmul
ROUNDS = 9
SAMPLE_SECONDS = 0.03
LONGEST_CALL_SECONDS = 2.0
LOAD_SECONDS = 120.0
RUN_SECONDS = 60.0
NARROW = 100  # columns; below, the steps are a list and no table

Size = tuple[int, int, int]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after something was kept; the message says where."""


# ------------------------------------------------------------------------- where a schedule is from


@dataclass(frozen=True)
class Ladder:
    """The ladder of phase 2 up to a step: who wrote each, and the size."""

    steps: tuple[tuple[str, str], ...]
    size: Size


@dataclass(frozen=True)
class OfRecord:
    """The rank-th best record of a database folder; workload counts from 0."""

    folder: Path
    rank: int
    workload: int


Source = Ladder | OwnFunction | OfRecord


@dataclass(frozen=True)
class Replayed:
    """Every step of a source's schedule. told: what there is to say of it; parts: the ladder's
    exercises, each with the last instruction that belongs to it."""

    replay: Replay
    told: str = ""
    parts: tuple[tuple[str, int], ...] = ()


def replayed(source: Source) -> Replayed:
    """Make the schedule and replay its trace. Runs in a worker."""
    match source:
        case Ladder():
            return _of_ladder(source)
        case OwnFunction():
            return Replayed(_of_file(source))
    return _of_record(source)


def _of_ladder(source: Ladder) -> Replayed:
    lesson = exercise.load_lesson("manual_schedule")
    parts = []
    for number, (known, _) in enumerate(source.steps, 1):
        sch = scheduled_matmul(*source.size, source.steps[:number])
        parts.append((known, len(sch.trace.insts)))
    steps = replay(lesson.matmul(*source.size).mod, sch.trace)
    return Replayed(steps, parts=tuple(parts))


def _of_file(source: OwnFunction) -> Replay:
    """Call the function, and replay the trace of what it returns on the program that it started
    from: a schedule does not keep that, so every new one is watched."""
    import tvm
    import tvm_ffi
    from tvm.s_tir import Schedule

    started: dict[str, None] = {}
    construct = Schedule.__init__

    def watched(self: Any, *given: Any, **named: Any) -> None:
        construct(self, *given, **named)
        started[tvm.ir.save_json(self.mod)] = None

    Schedule.__init__ = watched  # type: ignore[method-assign]
    sch = result_of(source)
    Schedule.__init__ = construct  # type: ignore[method-assign]
    if not isinstance(sch, Schedule):
        raise Refused(f"{source} returned {verify.a_or_an(sch)}; expected a tvm.s_tir.Schedule.")
    if sch.trace is None:
        raise Refused(f"{source} returned a schedule without a trace (enable_trace=False).")
    problem: Exception | None = None
    for program in reversed(started):
        try:
            steps = replay(tvm.ir.load_json(program), sch.trace)
        except NoReplay as error:
            problem = error
            continue
        if tvm_ffi.structural_equal(tvm.ir.load_json(steps.steps[-1].module), sch.mod):
            return steps
    if problem is not None and len(started) == 1:
        raise problem
    raise Refused(
        f"{source} returned a schedule whose first program is not known: it must call "
        "Schedule(...) itself, and change the program only by the schedule's primitives."
    )


def _of_record(source: OfRecord) -> Replayed:
    """The schedule of a record, with what postprocessors did, on the program of its workload."""
    from tvm.s_tir import meta_schedule as ms

    folder = source.folder
    workloads = _text(folder / records.WORKLOAD)
    lines = _text(folder / records.RECORDS)
    if source.workload >= len(workloads):
        raise Refused(
            f"{folder} holds {len(workloads)} workloads; there is no number {source.workload + 1}."
        )
    ranked = _ranked(lines, source.workload)
    if not ranked:
        raise Refused(f"{folder} holds no record of a schedule that could be measured.")
    if source.rank > len(ranked):
        raise Refused(
            f"{folder} holds {len(ranked)} usable records; there is no rank {source.rank}."
        )
    seconds, number = ranked[source.rank - 1]
    record = json.loads(lines[number])[1]
    names = {one[0] for one in record[0][0]}
    if "Tensorize" in names:
        _register_intrinsics()
    try:
        workload = ms.database.Workload.from_json(json.loads(workloads[source.workload]))
        trace = ms.database.TuningRecord.from_json(record, workload).trace
    except Exception as error:
        raise Refused(
            f"line {number + 1} of {folder / records.RECORDS} is not understood by this TVM: "
            f"{in_plain_words(error)}"
        ) from None
    told = (
        f"record {source.rank} of {len(ranked)} by speed (line {number + 1}), "
        f"{show.seconds(seconds)} when it was searched"
    )
    if len(workloads) > 1:
        told += f"; workload {source.workload + 1} of {len(workloads)}"
    return Replayed(replay(workload.mod, trace), told)


def _text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _ranked(lines: Sequence[str], workload: int) -> list[tuple[float, int]]:
    """(mean seconds, place) of every usable record of a workload, the fastest first. Damaged lines
    are left alone: a search repairs them."""
    found = []
    for number, line in enumerate(lines):
        try:
            index, ((instructions, _), runs, *_) = json.loads(line)
            usable = index == workload and all(isinstance(one[0], str) for one in instructions)
            times = [float(run) for run in runs]
        except (ValueError, TypeError, IndexError, KeyError):
            continue
        if usable and times and all(0 < run < records.FAILED_SECONDS for run in times):
            found.append((mean(times), number))
    return sorted(found)


def _register_intrinsics() -> None:
    """The tensor instructions of CPUs, without those of every GPU, which take 15 s to register."""
    from tvm_practice.common.measure import skip_tensor_intrinsics

    skip_tensor_intrinsics()
    for name in ("x86", "arm_cpu"):
        importlib.import_module(f"tvm.s_tir.tensor_intrin.{name}")


# ------------------------------------------------------------------------------------ what is asked


_EXERCISE = re.compile(r"\w+\.\d+")


def find(given: str, options: Options) -> Source:
    """The source that an argument names; whatever is wrong with it is said here, where it can
    be."""
    path, _, function = given.rpartition(":")
    is_function = bool(path) and function.isidentifier()
    is_exercise = bool(_EXERCISE.fullmatch(given)) and not Path(given).exists()
    if options.size and not is_exercise:
        raise Refused("--size is only for the ladder; a function or record has a size of its own.")
    if (options.rank or options.workload) and (is_exercise or is_function):
        raise Refused("--rank and --workload are only for a folder of tuning records.")
    if is_exercise:
        return _ladder(given, options)
    if is_function:
        return named(given)
    folder = Path(given)
    if folder.is_file():
        hint = f"{given}:FUNCTION names a function in it" if folder.suffix == ".py" else "no folder"
        raise Refused(f"{given} is a file; {hint}.")
    if not folder.is_dir():
        raise Refused(
            f"there is no {given}; give an exercise of phase 2 such as 2.5, FILE.py:FUNCTION, or a "
            "folder of tuning records."
        )
    if not (folder / records.RECORDS).is_file():
        inside = sorted(str(one.parent) for one in folder.glob(f"**/{records.RECORDS}"))
        more = f"; these folders in it do: {', '.join(inside)}" if inside else ""
        raise Refused(f"{given} holds no {records.RECORDS}{more}.")
    return OfRecord(folder, options.rank or 1, (options.workload or 1) - 1)


def _ladder(given: str, options: Options) -> Ladder:
    if given not in RUNGS:
        what = "is no exercise"
        if given in exercise.catalogue():
            run = f"`{typed(f'run {given}')}` checks it, and shows the loop nests it makes"
            what = f"is no step of phase 2's ladder for a CPU: {run}"
        raise Refused(
            f"{given} {what}; explain takes {', '.join(RUNGS)}, or any schedule as "
            "FILE.py:FUNCTION, a function without arguments that returns it."
        )
    rungs = list(RUNGS)
    wanted = rungs[: rungs.index(given) + 1]
    if options.solutions:
        return Ladder(tuple((one, REFERENCE) for one in wanted), options.size or (SIDE,) * 3)
    from tvm_practice.checks import grade

    steps = []
    for one in wanted:
        with show.waiting(f"{one} {RUNGS[one]} ..."):
            outcome = grade(one, LEARNER, options.seed)
        steps.append((one, LEARNER if outcome.state == "right" else REFERENCE))
    return Ladder(tuple(steps), options.size or (SIDE,) * 3)


# ------------------------------------------------------------------------ every step, run and timed


@dataclass
class Explained:
    """A step, and what became of its program. part: the exercise that it belongs to; verified: None
    where it could not be run."""

    step: Step
    part: str = ""
    compiled: bool | None = None
    verified: bool | None = None
    reason: str = ""
    figure: timing.Figure | None = None
    verdict: timing.Verdict | None = None

    @property
    def wrong(self) -> bool:
        return self.verified is False


@dataclass
class Report:
    source: str
    told: str
    seed: int
    rounds: int
    command: str
    machine: dict[str, Any]
    size: list[int] | None = None
    facts: stage.Facts | None = None
    steps: list[Explained] = field(default_factory=list)
    rest: tuple[str, ...] = ()
    measured: timing.Comparison | None = None
    complete: bool = False
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())

    def as_json(self) -> dict[str, Any]:
        peaks: dict[str, Any] = {}
        if self.measured is not None:
            peaks = {
                "fma_gflops": _number(self.measured.peak_gflops),
                "triad_gbytes": _number(self.measured.peak_gbytes),
                "threads": self.measured.threads,
            }
        facts = self.facts
        work = facts and {
            "parameters": [asdict(one) for one in facts.parameters],
            "flops": facts.flops,
            "bytes": facts.bytes,
        }
        return {
            "machine": self.machine,
            "started": self.started.isoformat(timespec="seconds"),
            "source": self.source,
            "told": self.told,
            "size": self.size,
            "work": work,
            "peaks": peaks,
            "steps": [self._step(one) for one in self.steps],
            "rest": list(self.rest),
            "seed": self.seed,
            "rounds": self.rounds,
            "confidence": timing.CONFIDENCE,
            "margin": timing.PROCESS_LUCK,
            "command": self.command,
            "complete": self.complete,
        }

    def _step(self, one: Explained) -> dict[str, Any]:
        step, figure, verdict = one.step, one.figure, one.verdict
        peak = math.nan if self.measured is None else self.measured.peak_gflops
        return {
            "number": step.number,
            "kind": step.kind,
            "python": step.python,
            "call": step.call,
            "part": one.part or None,
            "asked": list(step.asked),
            "postprocessor": step.postprocessor,
            "changes": list(step.changes),
            "nest": {
                "lines": [asdict(line) for line in step.nest.lines],
                "tree": step.tree,
                "blocks": [asdict(block) for block in step.nest.blocks],
                "buffers": [
                    {"name": name, "shape": list(shape), "scope": scope}
                    for name, shape, scope in step.nest.buffers
                ],
            },
            "same_as": step.same_as,
            "compiled": one.compiled,
            "verified": one.verified,
            "reason": one.reason or None,
            "median_s": figure and figure.median_s,
            "spread": figure and figure.spread,
            "quartiles_s": figure and list(figure.quartiles_s),
            "samples_s": figure and list(figure.samples),
            "gflops": figure and figure.gflops,
            "gbytes": figure and figure.gbytes,
            "share_of_peak": figure and _number(figure.gflops / peak),
            "verdict": verdict
            and {**vars(verdict), "high": _number(verdict.high), "short": verdict.short()},
        }


def _number(value: float) -> float | None:
    """JSON knows neither infinity nor NaN."""
    return value if math.isfinite(value) else None


def write(path: Path, report: Report) -> None:
    """Write the file, whole or not at all."""
    text = json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n"
    answers.write_whole(path, text.encode())


def judge_all(report: Report, folder: Path) -> None:
    """Compile every program and compare its result with the unscheduled one's. A program that
    crashes ends a process, and the next goes on behind it."""
    left = {one.step.number: one for one in report.steps if one.step.same_as is None}
    with show.progress("every step compiled and verified", len(left)) as bar:
        while left:
            modules = {number: one.step.module for number, one in left.items()}
            arguments = (modules, report.facts, report.seed, folder)
            with worker.Worker(stage.judge, *arguments) as judging:
                for number in list(left):
                    one = left.pop(number)
                    show.advance(bar, f"step {number}: {one.step.kind}")
                    if not _judged(one, judging):
                        break
    for one in report.steps:
        if one.step.same_as is not None:
            twin = report.steps[one.step.same_as]
            one.compiled, one.verified, one.reason = twin.compiled, twin.verified, twin.reason


def _judged(one: Explained, judging: worker.Worker) -> bool:
    """Take a program's judgement from the worker; False where the worker is gone."""
    try:
        _, one.reason = judging.answer(LOAD_SECONDS)
        one.compiled = not one.reason
        if not one.compiled:
            one.reason = _of_a_gpu(one.step) or one.reason
        else:
            _, one.reason = judging.answer(RUN_SECONDS)
            one.verified = not one.reason
    except worker.WorkerFailed as error:
        one.reason = error.failure.sentence
        slow = error.failure.kind == "timeout"
        if one.compiled:
            one.verified = None if slow else False
        else:
            one.compiled = False
        return False
    return True


def _of_a_gpu(step: Step) -> str:
    """Why no CPU can run a step, where that is the reason."""
    for block in step.nest.blocks:
        for loop in block.loops:
            if "." in loop.kind:
                return f"{loop.name} is bound to {loop.kind}, which only a GPU has"
    return ""


def time_all(report: Report, folder: Path) -> None:
    """Time every program whose result is right, in paired rounds with the machine's peaks."""
    shared = {"facts": report.facts, "seed": report.seed, "folder": folder}
    candidates = [
        timing.Candidate(
            str(one.step.number), stage.make_stage, {"module": one.step.module, **shared}
        )
        for one in report.steps
        if one.verified and one.step.same_as is None
    ]
    everybody = [timing.PEAK_FMA, timing.PEAK_TRIAD, *candidates]
    try:
        with show.progress("timing", len(everybody) * (report.rounds + 1)) as bar:
            report.measured = timing.compare(
                everybody,
                report.rounds,
                SAMPLE_SECONDS,
                lambda name: show.advance(bar, f"timing step {name}" if name.isdigit() else name),
                LONGEST_CALL_SECONDS,
            )
    except timing.Interrupted as interrupted:
        report.measured = interrupted.measured
        raise
    finally:
        _assign(report)


def _assign(report: Report) -> None:
    """Give each step its figure, and the verdict against the last one before it that has any."""
    measured = report.measured
    if measured is None:
        return
    previous = ""
    for one in report.steps:
        name = str(one.step.number if one.step.same_as is None else one.step.same_as)
        if name in measured.failed and not one.reason:
            one.reason = f"not timed: {measured.failed[name]}"
        if name not in measured:
            continue
        one.figure = measured[name]
        if previous and previous != name:
            one.verdict = measured.verdict(name, previous, timing.PROCESS_LUCK)
        previous = name


# ------------------------------------------------------------------------------------ what is shown


def _verdict(one: Explained) -> str:
    if one.wrong:
        return "WRONG RESULT"
    if one.compiled is False:
        return "not compiled"
    if one.verified is None and one.compiled:
        return "not run"
    if one.verdict is not None:
        return one.verdict.short()
    return f"as step {one.step.same_as}" if one.step.same_as is not None else "-"


def _time(one: Explained) -> tuple[str, str, str]:
    """Time, spread and rate as cells of the table."""
    figure = one.figure
    if figure is None:
        return "-", "-", "-"
    rate = show.rate(figure.gflops) if figure.flops else f"{show.rate(figure.gbytes)} GB/s"
    return show.seconds(figure.median_s), f"{figure.spread:.0%}", rate


def _title(step: Step) -> str:
    if step.kind == START:
        return "the program before the schedule"
    call = step.call.removeprefix("sch.")
    return f"postprocessor: {call}" if step.postprocessor else call


def present(report: Report, all_: bool, nests: bool) -> None:
    show.heading(f"Every primitive of {report.source}")
    timed = any(one.figure is not None for one in report.steps)
    if show.console.width >= NARROW:
        _present_table(report, all_, timed)
    else:
        _present_list(report, all_, timed)
    if timed:
        show.line(f"  {_caption(report)}", "dim")
    for one in report.steps:
        if one.reason and one.step.same_as is None:
            show.line(f"  step {one.step.number}: {one.reason}", "red" if one.wrong else "yellow")
    if not nests:
        show.heading("The loop nest, before and after")
        show.nest(report.steps[-1].step.nest, report.steps[0].step.nest)
        return
    for before, one in zip([None, *report.steps[:-1]], report.steps, strict=True):
        show.heading(f"{one.step.number}  {_title(one.step)}")
        show.nest(one.step.nest, before and before.step.nest)


def _present_table(report: Report, all_: bool, timed: bool) -> None:
    parts = any(one.part for one in report.steps)
    columns = ["", *(["of "] if parts else []), "primitive ", "what it changed "]
    columns += ["time", "spread", "GFLOP/s", "verdict "] if timed else ["result "]

    def asked(lines: Sequence[str]) -> list[list[str]]:
        """Rows of what changed nothing, without results."""
        first = ["", *([""] if parts else [])]
        return [[*first, line, *[""] * (len(columns) - len(first) - 1)] for line in lines]

    rows = []
    for one in report.steps:
        rows += asked(one.step.asked if all_ else ())
        row = [str(one.step.number), *([one.part] if parts else []), _title(one.step)]
        row.append("\n".join(one.step.changes))
        rows.append([*row, *(_time(one) if timed else ()), _verdict(one) if timed else _state(one)])
    show.table(columns, [*rows, *asked(report.rest if all_ else ())])


def _state(one: Explained) -> str:
    return "right" if one.verified else _verdict(one)


def _present_list(report: Report, all_: bool, timed: bool) -> None:
    for one in report.steps:
        for line in one.step.asked if all_ else ():
            _indented(line, 4, "dim")
        part = f"{one.part}  " if one.part else ""
        _indented(f"{one.step.number}  {part}{_title(one.step)}", 0, "bold")
        for sentence in one.step.changes:
            _indented(sentence, 4)
        if timed and one.figure is not None:
            taken, spread, rate = _time(one)
            rate += "" if "GB/s" in rate else " GFLOP/s"
            verdict = f"; {_verdict(one)}" if one.verdict else ""
            _indented(f"{taken} (spread {spread}), {rate}{verdict}", 4, "cyan")
        elif one.compiled is not None:
            _indented(_state(one), 4, "red" if one.wrong else "cyan")
    for line in report.rest if all_ else ():
        _indented(line, 4, "dim")


def _indented(text: str, columns: int, style: str = "") -> None:
    show.console.print(Padding(Text(text, style=style), (0, 0, 0, columns)))


def _caption(report: Report) -> str:
    measured = report.measured
    assert measured is not None
    told = (
        f"Medians of up to {measured.rounds} paired rounds, {measured.threads} threads; the "
        "verdict is on a step against the last one before it that was timed. In the same rounds: "
        f"FMA peak {show.rate(measured.peak_gflops)} GFLOP/s, stream triad "
        f"{show.rate(measured.peak_gbytes)} GB/s."
    )
    timed = [one for one in report.steps if one.figure is not None]
    first, last = timed[0], timed[-1]
    if first.step.number == 0 and last is not first:
        name = str(last.step.number if last.step.same_as is None else last.step.same_as)
        if name != "0":
            verdict = measured.verdict(name, "0", timing.PROCESS_LUCK)
            told += f" From step 0 to step {last.step.number}: {verdict.short()}"
            if report.facts and report.facts.flops / report.facts.bytes > 10:
                told += f", {show.share(measured.share_of_peak(name))} of FMA peak"
            told += "."
    return told


# ------------------------------------------------------------------------------------- command line


@dataclass(frozen=True)
class Options:
    size: Size | None
    solutions: bool
    seed: int
    rank: int | None
    workload: int | None


def explain(
    given: str, options: Options, rounds: int, timed: bool, json_path: Path | None
) -> Report:
    """Replay, judge and time; the file is written at the end, or with what there is when it is
    interrupted."""
    source = find(given, options)
    with show.waiting("replaying the trace ..."):
        found = _call_loader(source)
        machine = worker.call(target.machine)
    command = " ".join(["python -m tvm_practice.explain", *sys.argv[1:]])
    report = Report(given, found.told, options.seed, rounds, command, machine)
    report.size = list(source.size) if isinstance(source, Ladder) else None
    report.steps = [Explained(step, _part(step, found.parts)) for step in found.replay.steps]
    report.rest = found.replay.rest
    _introduce(report, source)
    try:
        with tempfile.TemporaryDirectory(prefix="tvm_practice_explain_") as name:
            folder = Path(name)
            _prepare(report, folder)
            judge_all(report, folder)
            if timed:
                time_all(report, folder)
    except KeyboardInterrupt:
        if json_path is None:
            raise
        write(json_path, report)
        raise Interrupted(f"what there is so far is in {json_path}") from None
    report.complete = True
    if json_path is not None:
        write(json_path, report)
    return report


def _part(step: Step, parts: Sequence[tuple[str, int]]) -> str:
    return next((name for name, last in parts if 0 < step.instruction <= last), "")


def _call_loader(source: Source) -> Replayed:
    """`replayed` in a worker with limits: users' code runs in it."""
    try:
        return worker.call(replayed, source, seconds=LOAD_SECONDS, limit_memory=True)
    except worker.WorkerFailed as error:
        sentence = str(error)
        for kind in (Refused, NoReplay):
            sentence = sentence.removeprefix(f"{kind.__name__}: ")
        if error.failure.kind == "raised":
            raise Refused(sentence) from None
        raise Refused(f"the schedule could not be made: {sentence}.") from None


def _prepare(report: Report, folder: Path) -> None:
    first = report.steps[0].step.module
    try:
        with show.waiting("running the unscheduled program ..."):
            report.facts = worker.call(
                stage.prepare, first, report.seed, folder, seconds=LOAD_SECONDS
            )
    except worker.WorkerFailed as error:
        sentence = str(error).removeprefix(f"{stage.CannotRun.__name__}: ").rstrip(".")
        raise Refused(f"the unscheduled program cannot be run: {sentence}.") from None


def _introduce(report: Report, source: Source) -> None:
    machine = report.machine
    show.line(
        f"{machine['cpu']} ({machine['llvm_cpu']}), {machine['threads']} threads | TVM "
        f"{machine['tvm']} | seed {report.seed}, {report.rounds} rounds",
        "dim",
    )
    if isinstance(source, Ladder):
        yours = [one for one, by in source.steps if by == LEARNER]
        rest = "the others the reference's" if yours else "every step the reference's"
        bodies = f"{', '.join(yours)} yours, {rest}" if yours else rest
        if len(yours) == len(source.steps):
            bodies = "every step yours"
        report.told = f"matmul {' x '.join(map(str, source.size))}, float32; {bodies}"
    if report.told:
        show.line(f"{report.told}.")


class _Size(click.ParamType):
    name = "N|MxNxK"

    def convert(self, value: Any, param: Any, ctx: Any) -> Size:
        found = re.fullmatch(r"(\d+)(?:x(\d+)x(\d+))?", str(value))
        sides = [int(side) for side in found.groups() if side] if found else []
        if not sides or min(sides) < 1 or max(sides) > 8192:
            self.fail(f"{value!r} is no size; give N or MxNxK with each from 1 to 8192.")
        return tuple(sides if len(sides) == 3 else sides * 3)  # type: ignore[return-value]


EPILOG = """WHAT is a step of phase 2's ladder, 2.1 to 2.5 (your body where it is right, else the
reference), or FILE.py:FUNCTION, a function without arguments that returns a tvm.s_tir.Schedule, or
a folder of tuning records."""


@click.command(
    name="python -m tvm_practice.explain",
    help="Show what each primitive of a schedule changed, and what it did to the time.",
    epilog=EPILOG,
)
@click.argument("what", metavar="WHAT")
@click.option("--size", type=_Size(), help=f"Size of the ladder's matmul; {SIDE} if not given.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="A file for all of it, as JSON."
)
@click.option("--no-time", is_flag=True, help="Compile and verify every step, but time none.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=ROUNDS,
    show_default=True,
    help="Paired rounds; with fewer than 6 no verdict has 95% confidence.",
)
@click.option("--rank", type=click.IntRange(1), help="The n-th best record of a folder.")
@click.option("--workload", type=click.IntRange(1), help="Which workload of a folder with several.")
@click.option("--solutions", is_flag=True, help="The reference bodies only.")
@click.option("--all", "all_", is_flag=True, help="Also the lines that change nothing.")
@click.option("--nests", is_flag=True, help="The loop nest after every step.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the inputs; fresh if not given.")
def main(
    what: str,
    size: Size | None,
    json_path: Path | None,
    no_time: bool,
    rounds: int,
    rank: int | None,
    workload: int | None,
    solutions: bool,
    all_: bool,
    nests: bool,
    seed: int | None,
) -> None:
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    options = Options(size, solutions, seed, rank, workload)
    try:
        if json_path is not None:
            check_writable(json_path)
        report = explain(what, options, rounds, not no_time, json_path)
    except Refused as refused:
        _end(COULD_NOT_RUN, str(refused))
    except KeyboardInterrupt as interrupted:
        kept = f"; {interrupted}" if isinstance(interrupted, Interrupted) else ""
        _end(INTERRUPTED, f"interrupted{kept}.")
    except (worker.WorkerFailed, exercise.BrokenLesson) as error:
        _end(COULD_NOT_RUN, f"the schedule could not be explained: {error}")
    except OSError as error:
        _end(COULD_NOT_RUN, f"{error.filename or json_path} cannot be used: {error.strerror}.")
    except Exception as error:  # whatever nobody foresaw is no wrong result
        show.line(traceback.format_exc(limit=-3), "dim")
        _end(COULD_NOT_RUN, f"the schedule could not be explained: {type(error).__name__}: {error}")
    present(report, all_, nests)
    if json_path is not None:
        show.line(f"  steps: {json_path}", "dim")
    wrong = [one for one in report.steps if one.wrong]
    if wrong:
        one = wrong[0]
        _end(
            ANSWER_WRONG,
            f"step {one.step.number}, {_title(one.step)}, makes the result wrong: {one.reason}",
        )


def check_writable(path: Path) -> None:
    """Refuse now what could not be written after all the work."""
    probe = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise Refused(f"--json {path} cannot be written: it is a folder.")
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise Refused(f"--json {path} cannot be written: its folder is a file.") from None
    except OSError as error:
        raise Refused(f"--json {path} cannot be written: {error.strerror or error}.") from None


def _end(status: int, sentence: str) -> None:
    click.echo(f"tvm_practice.explain: {sentence}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    # Workers import the functions above by the module's own name, which "__main__" is not.
    from tvm_practice.explain import main as explain_main

    explain_main()
