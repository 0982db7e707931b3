"""What the lab on whole models shows: what the passes leave of ResNet-18, what there is to tune and
where the time goes, and the tuned model beside PyTorch. Here, too, is the tuning itself."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import lzma
import math
import os
import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from tvm_practice.common import exercise, picture, records, show, target
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.status import COULD_NOT_RUN, INTERRUPTED, NOTHING_WRONG
from tvm_practice.common.timing import (
    PEAK_FMA,
    PROCESS_LUCK,
    Candidate,
    Comparison,
    Runnable,
    give_each_thread_a_core,
)
from tvm_practice.common.worker import Worker, WorkerFailed, call

EXERCISES = tuple(f"whole_models.{number}" for number in range(1, 6))
MODEL, MODELS = "resnet18", ("resnet18", "gpt_blocks", "small")
COMMAND = "python -m tvm_practice.labs.whole_models --tune"
ROOT = exercise.PACKAGE.parent / "records" / "whole_models"
SHIPPED = exercise.PACKAGE / "labs" / "data"
DEFAULT, TUNED, EAGER, COMPILED = "default loops", "tuned", "PyTorch, eager", "torch.compile"
INPUTS = 3
BATCH = 16
FINALISTS, FINAL_ROUNDS = 3, 5
MOST_TRIALS = 100_000  # of one task: the clock ends a search, not this
MOST_MINUTES = 7 * 24 * 60
SILENT_SECONDS = 900.0
ALLOWED = 1e-4  # of the largest element: sums of thousands of float32 products, layer after layer


@dataclass(frozen=True)
class Task:
    """What there is to know of a task before it is tuned: how often the model calls it, under which
    names, its operations, and its program as a digest."""

    name: str
    weight: int
    kernels: tuple[str, ...]
    flops: float
    program: str


@dataclass(frozen=True)
class Prepared:
    """A model after its passes, as files in `folder`: the module, inputs, and the wanted results.

    operators: how often each stands in the graph as imported. errors: for each input, the largest
    error of eager PyTorch against float64, and the largest element.
    """

    name: str
    folder: Path
    operators: dict[str, int]
    tasks: tuple[Task, ...]
    errors: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Watched:
    """A compiled model that ran: its largest error for each input, the seconds of each kernel in
    one run, and the tasks that kept their default loops, since their record cannot be replayed."""

    errors: tuple[float, ...]
    seconds: dict[str, float]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The best schedule found for a task: its seconds, and its record as MetaSchedule writes it."""

    task: str
    program: str
    seconds: float
    trials: int
    record: list


@dataclass(frozen=True)
class Found:
    """What a tuning run found, and the machine that it was found on."""

    about: dict[str, Any]
    best: dict[str, Best]

    @property
    def machine(self) -> str:
        about = self.about
        return f"{about['cpu']} ({about['llvm_cpu']}), {about['threads']} threads"


def run(session) -> None:
    with tempfile.TemporaryDirectory(prefix="tvm_practice_") as folder:
        _show_model(session, _exercises(session, folder))


def _exercises(session, folder: str) -> Prepared:
    whose = {known: session.exercise(known) for known in EXERCISES[:2]}
    # ResNet-18 is made ready meanwhile: that takes long, and until then nothing is timed.
    with Worker(prepare_in_worker, MODEL, folder, whose) as preparing:
        whose[EXERCISES[2]] = session.exercise(EXERCISES[2])
        layers, sizes = (1, (1, 3)) if session.quick else (4, (1, 3, 8))
        with show.waiting("GPT-2's blocks, for any batch ..."):
            batches = session.call(any_batch, whose[EXERCISES[2]], session.seed, layers, sizes)
        _show_batches(batches, layers)

        whose[EXERCISES[3]] = session.exercise(EXERCISES[3])
        said, error = session.call(with_converters, whose[EXERCISES[3]], session.seed)
        show.say(
            f"Without the table the importer said: `{said}`. With it, the exact GELU is imported; "
            f"its largest error on random inputs is {error:.1e}."
        )

        whose[EXERCISES[4]] = session.exercise(EXERCISES[4])
        with show.waiting("ResNet-18, from PyTorch to kernels ..."):
            return preparing.answer(SILENT_SECONDS)


def _show_model(session, prepared: Prepared) -> None:
    _show_prepared(prepared)
    found, _ = known_best(prepared, session.records)
    watched = {}
    with show.waiting("every kernel's time, call by call ..."):
        if found:
            calls = 5 if session.quick else 20
            watched[TUNED] = session.call(watch, prepared, found, INPUTS, calls)
            found = replayed(found, watched[TUNED])
        if not found or not session.quick:
            watched[DEFAULT] = session.call(watch, prepared, {}, 1 if found else INPUTS, 1)
    if not found:  # the first was of the default loops, too
        watched.pop(TUNED, None)
    best = TUNED if found else DEFAULT
    _show_errors(prepared, best, watched[best])
    measured = _compare(session, prepared, found)
    times = {name: by_task(prepared, one.seconds) for name, one in watched.items()}
    _show_tasks(session, prepared, found, times, measured)
    _answer(session, prepared, times[best], measured)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _show_prepared(prepared: Prepared) -> None:
    show.heading("ResNet-18, from PyTorch to kernels")
    imported = prepared.operators
    calls = sum(task.weight for task in prepared.tasks)
    show.say(
        f"ResNet-18 as imported has {sum(imported.values())} operators: "
        + ", ".join(f"{number} {name}" for name, number in Counter(imported).most_common(6))
        + f", and others. After the pipeline it calls {calls} kernels, {len(prepared.tasks)} "
        "different ones."
    )


def _show_errors(prepared: Prepared, best: str, watched: Watched) -> None:
    loops = "the best schedules there are" if best == TUNED else "the default loops"
    show.say(f"ResNet-18's results, with {loops}, against PyTorch in float64:")
    show.table(
        ("input", "largest error", "eager PyTorch's own error", "largest element"),
        [
            (str(number), f"{error:.1e}", f"{eager:.1e}", f"{largest:.2g}")
            for number, (error, (eager, largest)) in enumerate(
                zip(watched.errors, prepared.errors, strict=True), 1
            )
        ],
    )


def _show_batches(batches: list[tuple[int, float, float]], layers: int) -> None:
    blocks = "One block" if layers == 1 else f"{layers} blocks"
    show.say(f"{blocks} of GPT-2, 256 wide, 128 positions, compiled once for any batch up to 8:")
    show.table(
        ("batch", "largest error against float64", "largest element"),
        [(str(size), f"{error:.1e}", f"{largest:.2g}") for size, error, largest in batches],
    )


# ------------------------------------------------------------------------------------- the records


def known_best(prepared: Prepared, root: Path) -> tuple[dict[str, Best], list[dict[str, Any]]]:
    """The best schedule known for each task, and what is known of the searches they come from.

    Of this machine's own and those that were shipped the faster one counts; its own always, where
    the others are from another machine, since their seconds are too.
    """
    show.heading("The schedules that were found")
    programs = {task.name: task.program for task in prepared.tasks}
    here = call(target.machine)
    usable: dict[str, tuple[Best, dict[str, Any]]] = {}
    for folder, whose in ((SHIPPED, "came with the course"), (root, "were found here")):
        found = read_found(file_of(prepared.name, folder))
        if found is None:
            continue
        fitting = {
            name: best for name, best in found.best.items() if programs.get(name) == best.program
        }
        show.say(
            f"Schedules for {len(fitting)} of {len(programs)} tasks {whose}: {found.machine}, "
            f"{found.about['trials']} trials in {found.about['minutes']:.0f} minutes, "
            f"{found.about['date']}."
        )
        foreign = _differences(found.about, here)
        if fitting and foreign:
            show.line(
                f"  These records are foreign: {'; '.join(foreign)}. Their results are right on "
                f"any machine, their speed was found on that one. `{COMMAND} --minutes 30` finds "
                "this machine's own.",
                "yellow",
            )
        for name, best in fitting.items():
            before, about = usable.get(name, (None, {}))
            faster = before is not None and not foreign and best.seconds < before.seconds
            if before is None or _differences(about, here) or faster:
                usable[name] = best, found.about
    if not usable:
        show.line(f"  There are none yet; `{COMMAND} --minutes 30` finds some.", "yellow")
    sources = {id(about): about for _, about in usable.values()}
    return {name: best for name, (best, _) in usable.items()}, list(sources.values())


def replayed(found: dict[str, Best], watched: Watched) -> dict[str, Best]:
    """Those schedules that could be applied; of the others it is told."""
    if watched.refused:
        show.line(
            f"  {', '.join(watched.refused)}: the record cannot be replayed and is left aside; the "
            "default loops take its place.",
            "yellow",
        )
    return {name: best for name, best in found.items() if name not in watched.refused}


def _differences(about: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """In what the machine of some records differs from this one."""
    return [
        f"{about[key]} there, {here[key]} here"
        for key in ("cpu", "llvm_cpu", "threads", "tvm")
        if about[key] != here[key]
    ]


def file_of(name: str, folder: Path) -> Path:
    """Where the best records for a model are kept."""
    return folder / f"{name}.jsonl.xz"


def read_found(path: Path) -> Found | None:
    """The records in a file; None if there is none, or none that can be read."""
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            about, *lines = (json.loads(line) for line in file)
        for key in ("cpu", "llvm_cpu", "threads", "tvm", "date"):
            about[key]  # a file that lacks one is no file of records
        found = Found(about, {line["task"]: Best(**line) for line in lines})
        for number in (
            about["minutes"],
            about["trials"],
            *(b.seconds for b in found.best.values()),
        ):
            math.isfinite(number)
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, EOFError, lzma.LZMAError) as error:
        show.line(
            f"  {path} cannot be read ({type(error).__name__}) and is left aside; "
            + (
                "it came with the course: copy it once more from there."
                if path.parent == SHIPPED
                else f"`{COMMAND}` writes it anew."
            ),
            "yellow",
        )
        return None


def write_found(path: Path, found: Found) -> None:
    """Write records, whole or not at all."""
    lines = [found.about, *(vars(best) for best in found.best.values())]
    unfinished = path.with_suffix(".new")
    with lzma.open(unfinished, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    os.replace(unfinished, path)


# --------------------------------------------------------------------------------------- the timing


def candidates_of(prepared: Prepared, found: dict[str, Best]) -> dict[str, Candidate]:
    """The model with the schedules that were found, if any were, in PyTorch, and with the default
    loops."""
    common = {
        "prepared": prepared,
        "flops": sum(task.weight * task.flops for task in prepared.tasks),
    }
    made = {
        TUNED: (make_compiled, {"best": found}),
        EAGER: (make_torch, {"compiled": False}),
        COMPILED: (make_torch, {"compiled": True}),
        DEFAULT: (make_compiled, {"best": {}}),
    }
    return {
        name: Candidate(name, make, {**common, **more})
        for name, (make, more) in made.items()
        if name != TUNED or found
    }


def _compare(session, prepared: Prepared, found: dict[str, Best]) -> Comparison:
    known = candidates_of(prepared, found)
    ours = TUNED if found else DEFAULT
    names = [name for name in known if not session.quick or name in (ours, EAGER)]
    measured = session.compare([PEAK_FMA, *map(known.get, names)], what="ResNet-18")
    show.heading("ResNet-18, one picture of 224 x 224")
    show.table(
        ("", "time", "spread", "GFLOP/s", "of FMA peak", *([f"{TUNED} is"] if found else [])),
        [
            (
                name,
                show.seconds(measured[name].median_s),
                f"{measured[name].spread:.0%}",
                show.rate(measured[name].gflops),
                show.share(measured.share_of_peak(name)),
                *([_against(measured, name)] if found else []),
            )
            for name in names
            if name in measured
        ],
        f"{measured.rounds} paired rounds, every competitor in a process of its own with "
        f"{measured.threads} threads, its result verified. FMA peak in the same rounds: "
        + (f"{show.rate(measured.peak_gflops)} GFLOP/s." if _peak(measured) else "not measured."),
    )
    for other in (EAGER, COMPILED):
        if {TUNED, other} <= measured.figures.keys():
            verdict = measured.verdict(TUNED, other, PROCESS_LUCK)
            show.line("  " + verdict.sentence() + ".")
    session.report |= {
        "peaks": {"fma_gflops": _peak(measured)},
        "results": measured.as_json(),
    }
    return measured


def _against(measured: Comparison, name: str) -> str:
    if name == TUNED or TUNED not in measured:
        return "-"
    return measured.verdict(TUNED, name, PROCESS_LUCK).short()


def _peak(measured: Comparison) -> float | None:
    """The FMA peak in GFLOP/s, where it was measured."""
    return None if math.isnan(measured.peak_gflops) else measured.peak_gflops


def _show_tasks(
    session,
    prepared: Prepared,
    found: dict[str, Best],
    times: dict[str, dict[str, float]],
    measured: Comparison,
) -> None:
    show.heading("What there is to tune, and where the time goes")
    names = [name for name in (DEFAULT, TUNED) if name in times]
    total = {name: sum(times[name].values()) for name in names}
    best = times[names[-1]]
    by_time = sorted(prepared.tasks, key=lambda task: -best[task.name])
    columns = [column for name in names for column in (name, "share")]
    show.table(
        ("task", "weight", "GFLOP", *columns, "GFLOP/s", "trials"),
        [
            (
                task.name.removeprefix("fused_"),
                str(task.weight),
                f"{task.weight * task.flops / 1e9:.2f}",
                *(
                    cell
                    for name in names
                    for cell in (
                        show.seconds(times[name][task.name]),
                        f"{times[name][task.name] / total[name]:.0%}",
                    )
                ),
                show.rate(task.weight * task.flops / best[task.name] / 1e9),
                str(found[task.name].trials) if task.name in found else "-",
            )
            for task in by_time
        ],
        "All calls of a task together, told by the virtual machine's instrument: "
        + " and ".join(
            {
                TUNED: "the median of several runs with the schedules that were found",
                DEFAULT: "one run with the default loops",
            }[name]
            for name in reversed(names)
        )
        + ".",
    )
    session.report["tasks"] = [
        {
            "task": task.name,
            "weight": task.weight,
            "flops": task.flops,
            **{f"{name}_s": times[name][task.name] for name in names},
        }
        for task in prepared.tasks
    ]
    session.picture(
        "tasks", lambda path: draw_tasks(path, by_time, names[-1], best, _peak(measured))
    )


def by_task(prepared: Prepared, seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each task, all its kernels together."""
    return {
        task.name: sum(seconds.get(kernel, 0.0) for kernel in task.kernels)
        for task in prepared.tasks
    }


def draw_tasks(
    path: Path, tasks: list[Task], loops: str, seconds: dict[str, float], peak: float | None
) -> None:
    """The time of every task with these loops, and the least that its arithmetic takes."""
    figure, axes = picture.blank(9, 0.32 * len(tasks) + 1.5)
    draw_task_times(
        axes,
        [task.name for task in tasks],
        [seconds[task.name] for task in tasks],
        [task.weight * task.flops for task in tasks],
        peak,
        loops,
    )
    picture.save(figure, path)


def draw_task_times(
    axes: Any,
    names: list[str],
    seconds: list[float],
    flops: list[float],
    peak: float | None,
    loops: str,
) -> None:
    """A bar for each task, with the least that its arithmetic takes inside, where the peak is
    known."""
    names = [name.removeprefix("fused_") for name in names]
    axes.barh(names, [1e3 * one for one in seconds], color="tab:blue", label=loops)
    if peak:
        least = [work / peak / 1e6 for work in flops]
        axes.barh(names, least, color="tab:orange", height=0.35, label="its arithmetic at FMA peak")
    axes.invert_yaxis()
    axes.set_xlabel("ms of one run of the model, all calls of a task together")
    axes.legend()


def _answer(session, prepared: Prepared, times: dict[str, float], measured: Comparison) -> None:
    slowest = max(times, key=times.__getitem__)
    total = sum(times.values())
    answer = [
        f"Where the time is that a search can still save. In this run the kernels took "
        f"{show.seconds(total)} together, "
    ]
    if peak := _peak(measured):
        least = {task.name: task.weight * task.flops / peak / 1e9 for task in prepared.tasks}
        left = {name: times[name] - least[name] for name in least}
        most, arithmetic = max(left, key=left.__getitem__), sum(least.values())
        answer[0] += (
            f"and at the FMA peak their arithmetic would take {show.seconds(arithmetic)}. Of what "
            f"lies between the largest part, {show.seconds(left[most])}, is in {most}."
        )
        if slowest == most:
            answer.append(
                "The kernel that takes longest is the same one here, so weight x seconds points "
                "the same way. It need not: a kernel may take long because it has much to compute, "
                "and that no schedule saves."
            )
        else:
            answer.append(
                f"The kernel that takes longest, {slowest}, is another: it has much to compute, "
                "and that no schedule saves. That is why a scheduler that follows weight x seconds "
                "is only a beginning; better ones look at what the last batches of a task have "
                "brought."
            )
    else:
        answer[0] += (
            f"most of it {slowest}. How much of that is arithmetic, which no schedule saves, only "
            "the FMA peak could tell, and it was not measured."
        )
    if {TUNED, EAGER} <= measured.figures.keys():
        against = measured.verdict(TUNED, EAGER, PROCESS_LUCK)
        answer.append(
            f"{against.sentence()}. PyTorch's kernels were tuned by hand for many shapes and "
            "years, these by a search for one model and one machine."
        )
        short = against.short()
        joint = "from" if short == "cannot tell" else "than"
        session.headline = f"ResNet-18 tuned: {short} {joint} eager PyTorch"
    session.question("Where should the next minute of tuning go?", answer)


# ---------------------------------------------------------------------------------- run in a worker


def prepare(name: str, folder: str, whose: dict[str, str]) -> Prepared:
    """Take a model through import and passes, and leave it in a folder, with inputs and PyTorch's
    results."""
    import torch
    import tvm

    from tvm_practice.labs.models import made

    lesson = exercise.load_lesson("whole_models")
    model, shape = made(name)
    with torch.inference_mode():
        rng = np.random.default_rng(1)
        inputs = [rng.standard_normal(shape).astype("float32") for _ in range(INPUTS)]
        eager = [model(torch.from_numpy(one)).numpy() for one in inputs]
    imported = lesson.import_as_it_is(model, torch.from_numpy(inputs[0]))
    module = exercise.body(EXERCISES[1], whose[EXERCISES[1]])(imported)
    with torch.inference_mode():
        model.double()
        wanted = [model(torch.from_numpy(one).double()).numpy() for one in inputs]
    place = Path(folder)
    (place / f"{name}.json").write_text(tvm.ir.save_json(module))
    np.savez(place / f"{name}.npz", x=inputs, want=wanted)
    return Prepared(
        name,
        place,
        _operators(imported),
        tuple(_tasks(lesson, module)),
        tuple(
            (float(np.abs(own - want).max()), float(np.abs(want).max()))
            for own, want in zip(eager, wanted, strict=True)
        ),
    )


def prepare_in_worker(
    connection: Connection, name: str, folder: str, whose: dict[str, str]
) -> None:
    connection.send(("returned", prepare(name, folder, whose)))


def _operators(module) -> dict[str, int]:
    from tvm_practice.common.graph import graph

    return dict(Counter(step.name.removeprefix("nn.") for step in graph(module).steps))


def _tasks(lesson, module) -> list[Task]:
    from tvm.s_tir.analysis import estimate_tir_flops

    from tvm_practice.common.measure import module_hash
    from tvm_practice.common.target import cpu_target

    names: dict[int, list[str]] = {}
    for name, kernel in lesson.kernels(module).items():
        names.setdefault(module_hash(kernel), []).append(name)
    return [
        Task(
            task.task_name,
            int(task.weight),
            tuple(names[module_hash(task.dispatched[0])]),
            float(estimate_tir_flops(task.dispatched[0])),
            program_of(task.dispatched[0]),
        )
        for task in lesson.tasks_of(module, cpu_target())
    ]


def program_of(module) -> str:
    """A digest of a program, the same in every process."""
    return hashlib.sha256(module.script().encode()).hexdigest()[:16]


def _results(module, inputs: list[np.ndarray]) -> list[np.ndarray]:
    import tvm

    machine = _machine(module)
    return [machine["main"](tvm.runtime.tensor(one)).numpy() for one in inputs]


def _machine(module):
    import tvm
    from tvm import relax

    from tvm_practice.common.target import cpu_target

    return relax.VirtualMachine(tvm.compile(module, target=cpu_target()), tvm.cpu())


def any_batch(
    whose: str, seed: int, layers: int, sizes: tuple[int, ...]
) -> list[tuple[int, float, float]]:
    """For some batch sizes the largest error of GPT-2's blocks, compiled once, and the largest
    element."""
    import torch

    from tvm_practice.labs.models import MODELS, Blocks, with_parameters

    exercise.load_lesson("whole_models")
    _, (_, *shape) = MODELS["gpt_blocks"]
    model = with_parameters(Blocks(layers))
    module = exercise.body(EXERCISES[2], whose)(model, torch.zeros(2, *shape), 8)
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal((size, *shape)).astype("float32") for size in sizes]
    found = []
    fused = exercise.body("4.2", REFERENCE)(module)
    model.double()
    for batch, got in zip(batches, _results(fused, batches), strict=True):
        with torch.inference_mode():
            want = model(torch.from_numpy(batch).double()).numpy()
        found.append((len(batch), float(np.abs(got - want).max()), float(np.abs(want).max())))
    if any(not error < ALLOWED * largest for _, error, largest in found):
        raise RuntimeError(f"the blocks of GPT-2 are wrong: {found}")
    return found


def with_converters(whose: str, seed: int) -> tuple[str, float]:
    """What the importer says of the exact GELU, and the error once it knows erfc."""
    import torch
    from tvm.relax.frontend.torch import from_exported_program

    lesson = exercise.load_lesson("whole_models")
    x = np.random.default_rng(seed).standard_normal((16, 64)).astype("float32") * 2
    model = lesson.ExactGELU().eval()
    program = torch.export.export(model, (torch.from_numpy(x),))
    try:
        from_exported_program(program)
        said = "nothing: this TVM knows erfc"
    except AssertionError as error:
        said = f"AssertionError: {error}"
    table = exercise.body(EXERCISES[3], whose)()
    module = from_exported_program(program, unwrap_unit_return_tuple=True, custom_convert_map=table)
    (got,) = _results(module, [x])
    return said, float(np.abs(got - model(torch.from_numpy(x).double()).numpy()).max())


def tuned_module(prepared: Prepared, best: dict[str, Best]) -> tuple[Any, tuple[str, ...]]:
    """The prepared module with the schedules of these records, and the tasks that keep their
    default loops, since their record cannot be replayed."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    lesson = exercise.load_lesson("whole_models")
    module = tvm.ir.load_json((prepared.folder / f"{prepared.name}.json").read_text())
    if not best:
        return module, ()
    schedules, refused = {}, []
    kernels = lesson.kernels(module)
    for name, one in best.items():
        workload = ms.database.Workload(kernels[name])
        try:
            record = ms.database.TuningRecord.from_json(one.record, workload)
            schedules[name] = record.as_measure_candidate().sch.mod
        except Exception:  # whatever TVM thinks of a trace that was damaged
            refused.append(name)
    return lesson.with_schedules(module, schedules), tuple(refused)


def watch(prepared: Prepared, best: dict[str, Best], inputs: int, calls: int) -> Watched:
    """Compile the model with these schedules, verify it on so many inputs, and watch so many runs
    of it through the virtual machine's instrument."""
    import tvm

    lesson = exercise.load_lesson("whole_models")
    module, refused = tuned_module(prepared, best)
    machine = _machine(module)
    stored = _stored(prepared)
    pairs = list(zip(stored["x"], stored["want"], strict=True))[:inputs]
    errors = tuple(
        _verified(machine["main"](tvm.runtime.tensor(x)).numpy(), want) for x, want in pairs
    )
    x = tvm.runtime.tensor(stored["x"][0])
    give_each_thread_a_core()
    runs = []
    seconds = lesson.instrument(machine, time.perf_counter)
    for _ in range(calls):
        seconds.clear()
        machine["main"](x)
        runs.append(dict(seconds))
    times = {name: median(run[name] for run in runs) for name in runs[0]}
    return Watched(errors, times, refused)


def make_compiled(prepared: Prepared, best: dict[str, Best], flops: float) -> Runnable:
    """The model, compiled with these schedules, verified."""
    import tvm

    machine = _machine(tuned_module(prepared, best)[0])
    stored = _stored(prepared)
    x, main = tvm.runtime.tensor(stored["x"][0]), machine["main"]
    _verified(main(x).numpy(), stored["want"][0])
    return Runnable(lambda: main(x), flops=flops, verified=True)


def make_torch(prepared: Prepared, compiled: bool, flops: float) -> Runnable:
    """PyTorch's own, eager or compiled, verified."""
    import torch

    from tvm_practice.labs.models import made

    torch.set_num_threads(target.threads())
    model, _ = made(prepared.name)
    stored = _stored(prepared)
    x = torch.from_numpy(stored["x"][0])
    run = torch.compile(model) if compiled else model

    def once():
        with torch.inference_mode():
            return run(x)

    _verified(once().numpy(), stored["want"][0])
    return Runnable(once, flops=flops, verified=True)


def _stored(prepared: Prepared) -> dict[str, np.ndarray]:
    return np.load(prepared.folder / f"{prepared.name}.npz")


def _verified(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error; raises where it is too large."""
    error, largest = float(np.abs(got - want).max()), float(np.abs(want).max())
    if not error < ALLOWED * largest:
        raise RuntimeError(f"the result is off by {error:.2g}; its time means nothing")
    return error


# --------------------------------------------------------------------------------------- the tuning


def _number(_context: click.Context, _option: click.Parameter, minutes: float) -> float:
    if math.isnan(minutes):  # which is in every range
        raise click.BadParameter("nan is not a number of minutes.")
    return minutes


@click.command("python -m tvm_practice.labs.whole_models --tune")
@click.option("--tune", is_flag=True, help="Search schedules for a model, kernel by kernel.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, MOST_MINUTES),
    callback=_number,
    default=30.0,
    show_default=True,
)
@click.option("--model", type=click.Choice(MODELS), default=MODEL, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.pass_context
def tune_command(context: click.Context, tune: bool, minutes: float, model: str, seed: int) -> None:
    """Search a schedule for each kernel of a model, for so many minutes; then time the fastest of
    each once more, a few seconds a kernel. Ctrl-C stops it, and the same command goes on from
    there. The lesson uses what was found for resnet18, --figures what was found for any model."""
    try:
        with _alone(model, ROOT):
            status = tune_model(model, minutes, seed, ROOT)
        context.exit(status)
    except KeyboardInterrupt:
        context.exit(INTERRUPTED)
    except BlockingIOError:
        click.echo(
            f"tvm_practice: a search for {model} is running already. Wait for its end, or stop it "
            "by Ctrl-C; its records are kept.",
            err=True,
        )
        context.exit(COULD_NOT_RUN)
    except OSError as error:
        where = f"{error.filename} could not be written: " if error.filename else ""
        click.echo(f"tvm_practice: {where}{error.strerror or error}.", err=True)
        context.exit(COULD_NOT_RUN)
    except WorkerFailed as error:
        click.echo(f"tvm_practice: {model} could not be prepared: {error}", err=True)
        context.exit(COULD_NOT_RUN)


@contextmanager
def _alone(name: str, root: Path) -> Iterator[None]:
    """Keep other searches for the model away from its records; BlockingIOError where one runs."""
    with open(_folder(root) / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def tune_model(name: str, minutes: float, seed: int, root: Path) -> int:
    """Search for so many minutes, go on from the records in `root`, and write the best of each task
    there; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="tvm_practice_") as folder:
        return _tune(name, minutes, seed, root, folder)


def _tune(name: str, minutes: float, seed: int, root: Path, folder: str) -> int:
    with show.waiting(f"{name}, from PyTorch to kernels ..."):
        prepared, places = call(prepare_to_tune, name, folder, root, seed)
    before = file_of(name, root)
    if before.exists() and not _clock(name, root).exists() and (found := read_found(before)):
        _add_seconds(_clock(name, root), 60 * found.about["minutes"])
    for place, module in places:
        if damage := records.repair(place, module):
            show.line(f"  {damage}", "yellow")
    start, status, best = time.monotonic(), NOTHING_WRONG, None
    title = f"{_counted(len(prepared.tasks), 'task')}, {_counted(minutes, 'minute')}"
    try:
        with (
            show.progress(title, max(1, round(60 * minutes))) as bar,
            Worker(tune_in_worker, prepared, root, seed, 60 * minutes) as worker,
        ):
            while best is None:
                told = worker.answer(SILENT_SECONDS)
                done = min(60 * minutes, time.monotonic() - start)
                bar.update(bar.task_ids[0], completed=round(done))
                if told.get("sentence"):
                    show.line("  " + told["sentence"])
                best = told.get("best")
    except KeyboardInterrupt:
        status = INTERRUPTED
        show.line(
            "\nStopped. Every record is kept; the same command goes on from there, with "
            "--minutes 0 it only times the fastest again."
        )
    except WorkerFailed as error:
        status = COULD_NOT_RUN
        show.line(
            f"The search has ended: {error}. Every record is kept; the same command goes on from "
            "there.",
            "yellow",
        )
    if best is None:
        with show.waiting("the best of each task ..."):
            best = call(best_records, prepared, root, seed)
    _keep_best(name, root, best)
    return status


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"


def _clock(name: str, root: Path) -> Path:
    """The file with the seconds of every batch, a line for each: those of a search that was killed
    count as its records do."""
    return _folder(root / name) / "seconds"


def _add_seconds(clock: Path, seconds: float) -> None:
    with open(clock, "a") as file:
        file.write(f"{seconds:.2f}\n")


def seconds_of(name: str, root: Path) -> float:
    """How long all searches for the model have taken."""
    clock, seconds = _clock(name, root), 0.0
    for line in clock.read_text().splitlines() if clock.exists() else ():
        with suppress(ValueError):
            seconds += float(line)
    return seconds


def _keep_best(name: str, root: Path, best: dict[str, Best]) -> None:
    """Write the best record of each task to the file that the lesson reads."""
    if not best:
        show.line("  No trial was finished.", "yellow")
        return
    path = file_of(name, root)
    machine = call(target.machine)
    about = {key: machine[key] for key in ("cpu", "llvm_cpu", "threads", "tvm", "llvm")}
    about |= {
        "model": name,
        "minutes": round(seconds_of(name, root) / 60, 1),
        "trials": sum(one.trials for one in best.values()),
        "date": date.today().isoformat(),
    }
    write_found(path, Found(about, best))
    show.line(
        f"  {_counted(about['trials'], 'trial')} of {_counted(len(best), 'task')} on record, "
        f"{_counted(about['minutes'], 'minute')} in all; the best schedule of each task, of those "
        f"timed again where some were, is in {path}."
    )


def prepare_to_tune(
    name: str, folder: str, root: Path, seed: int
) -> tuple[Prepared, list[tuple[Path, bytes]]]:
    """The prepared model, and for each task the folder of its records and its program, pickled."""
    prepared = prepare(name, folder, dict.fromkeys(EXERCISES, REFERENCE))
    searches = _searches(prepared, root, seed).values()
    return prepared, [(place, pickle.dumps(search.mod)) for place, search in searches]


def _searches(prepared: Prepared, root: Path, seed: int) -> dict[str, tuple[Path, Any]]:
    """For each task the folder of its records, and its search."""
    from tvm_practice.common.target import cpu_target

    lesson = exercise.load_lesson("whole_models")
    found = {}
    module, _ = tuned_module(prepared, {})
    for number, task in enumerate(lesson.tasks_of(module, cpu_target()), 1):
        search = lesson.search_for(task, seed + number)
        folder = f"{task.task_name}-{records.key_of(search)}"
        found[task.task_name] = (_folder(root / prepared.name / folder), search)
    return found


def tune_in_worker(
    connection: Connection, prepared: Prepared, root: Path, seed: int, seconds: float
) -> None:
    """Search, a batch for one task at a time, for so many seconds; tell of each batch."""
    from tvm_practice.common.measure import Measured, end_with_parent

    end_with_parent()  # whoever goes on after a kill -9 is alone with the records
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
    np.random.seed(seed)
    lesson = exercise.load_lesson("whole_models")
    next_batch = exercise.load_lesson("auto_tune").next_batch
    next_task = exercise.body(EXERCISES[4], REFERENCE)
    failures: Counter[str] = Counter()

    def count(one: Measured) -> None:
        if one.failure is not None:
            failures[one.failure.sentence] += 1

    def add_seconds() -> None:
        nonlocal since
        now = time.monotonic()
        _add_seconds(clock, now - since)
        since = now

    clock, since = _clock(prepared.name, root), time.monotonic()
    default = by_task(prepared, watch(prepared, {}, 1, 1).seconds)
    searches = {
        name: _started(place, search, count)
        for name, (place, search) in _searches(prepared, root, seed).items()
    }
    finished = []  # no schedule of theirs is left to be tried
    states = [
        lesson.Tuning(
            task.name,
            task.weight,
            _least(default[task.name] / task.weight, searches[task.name].place),
            len(searches[task.name].database) // BATCH,
        )
        for task in prepared.tasks
    ]
    until = time.monotonic() + seconds
    while states and time.monotonic() < until:
        turn = next_task(states)
        state, one = states[turn], searches[states[turn].name]
        candidates = next_batch(one.search, one.measure)
        if not candidates:
            finished.append(states.pop(turn))
            connection.send(("returned", {"sentence": f"{state.name}: every schedule is known"}))
            continue
        results = one.measure(candidates)
        one.search.notify_runner_results(candidates, results)
        one.model.update(one.search, candidates, results)
        times = [float(seconds) for result in results for seconds in result.run_secs or ()]
        best = min([state.seconds, *times])
        states[turn] = replace(state, seconds=best, batches=state.batches + 1)
        add_seconds()
        total = sum(one.weight * one.seconds for one in states + finished)
        told = (
            f"{state.name}: {len(one.database)} trials, best {show.seconds(best)}"
            f"{' (new)' if best < state.seconds else ''}; all kernels {show.seconds(total)}"
        )
        connection.send(("returned", {"sentence": told}))
    for name, one in searches.items():
        if times := again(one):
            add_seconds()
            told = f"{name}: the fastest were timed again, best {show.seconds(min(times))}"
            connection.send(("returned", {"sentence": told}))
    for sentence, number in failures.most_common(3):
        connection.send(("returned", {"sentence": f"{number} failed: {sentence}"}))
    connection.send(("returned", {"best": best_records(prepared, root, seed)}))


@dataclass(frozen=True)
class Search:
    """What the search for one task needs between its batches."""

    place: Path
    search: Any
    database: Any
    measure: Any
    model: Any


def _started(place: Path, search: Any, count: Callable) -> Search:
    """A search that knows what the records in its folder have to tell."""
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.measure import Measure
    from tvm_practice.common.target import cpu_target

    database = records.open_database(place, search.mod)
    model = ms.cost_model.XGBModel(num_warmup_samples=BATCH, num_tuning_cores=1)
    search.pre_tuning(MOST_TRIALS, BATCH, database=database, cost_model=model)
    exercise.load_lesson("auto_tune").learn_from_records(model, search, database)
    measure = Measure(database, search.mod, cpu_target(), count)
    return Search(place, search, database, measure, model)


def again(one: Search) -> list[float]:
    """Time the fastest records of a task again, in paired rounds; return the median of each,
    nothing where none is faster than the fastest of those that were timed again before.

    Of many schedules that were timed once, the fastest is partly the luckiest. What is told of it,
    and which it is, has to come from other samples than those that made it the fastest.
    """
    once, more = _timed(one.place)
    champion = sorted(more, key=more.__getitem__)[:1]
    hopeful = [place for place in once if all(once[place] < more[old] for old in champion)]
    finalists = champion + sorted(hopeful, key=once.__getitem__)[:FINALISTS]
    if not hopeful:
        return []
    candidates = records.candidates_at(one.place, finalists, one.search.mod)
    runs = one.measure.again(candidates, FINAL_ROUNDS)
    failed = [records.FAILED_SECONDS]
    added = {place: taken or failed for place, taken in zip(finalists, runs, strict=True)}
    records.add_runs(one.place, added)
    return [median(taken) for taken in runs if taken]


def _least(default: float, place: Path) -> float:
    """The seconds of the best schedule that is known of a task, be it the default loops."""
    once, more = _timed(place)
    return min([default, *(more or once).values()])


def _timed(place: Path) -> tuple[dict[int, float], dict[int, float]]:
    """By the place of a record in its file, the seconds of those that were timed once, and of those
    that were timed again: the median of all times but the first, which made them finalists."""
    runs = records.runs_of_records(place)
    once = {number: taken[0] for number, taken in enumerate(runs) if taken and len(taken) == 1}
    more = {
        number: median(taken[1:]) for number, taken in enumerate(runs) if taken and len(taken) > 1
    }
    return once, more


def best_records(prepared: Prepared, root: Path, seed: int) -> dict[str, Best]:
    """The best record of each task that has one; of those that were timed again, where there are
    some."""
    found = {}
    for name, (place, search) in _searches(prepared, root, seed).items():
        once, more = _timed(place)
        times = more or once
        if times:
            best = min(times, key=times.__getitem__)
            lines = (place / records.RECORDS).read_text().splitlines()
            record = json.loads(lines[best])[1]
            found[name] = Best(name, program_of(search.mod), times[best], len(lines), record)
    return found
