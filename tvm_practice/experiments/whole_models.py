"""What the lab on whole models shows: what the passes leave of ResNet-18, what there is to tune and
where the time goes, and the tuned model beside PyTorch. Here, too, is the tuning itself."""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable
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
from tvm_practice.common.status import INTERRUPTED, NOTHING_WRONG
from tvm_practice.common.timing import (
    PEAK_FMA,
    Candidate,
    Comparison,
    Runnable,
    give_each_thread_a_core,
)
from tvm_practice.common.worker import Worker, call

EXERCISES = tuple(f"whole_models.{number}" for number in range(1, 6))
MODEL, MODELS = "resnet18", ("resnet18", "gpt_blocks", "small")
COMMAND = "python -m tvm_practice.labs.whole_models --tune"
ROOT = exercise.PACKAGE.parent / "records" / "whole_models"
SHIPPED = exercise.PACKAGE / "labs" / "data"
DEFAULT, TUNED, EAGER, COMPILED = "default loops", "tuned", "PyTorch, eager", "torch.compile"
INPUTS = 3
BATCH = 16
FINALISTS, FINAL_ROUNDS = 3, 3
MOST_TRIALS = 100_000  # of one task: the clock ends a search, not this
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
    """A model after its passes, as files in `folder`: the module, an input, and the wanted result.

    operators: how often each stands in the graph as imported. errors: for each input, the largest
    error of the compiled module and of eager PyTorch, both against float64, and the largest
    element.
    """

    name: str
    folder: Path
    operators: dict[str, int]
    tasks: tuple[Task, ...]
    errors: tuple[tuple[float, float, float], ...]


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
    whose = {known: session.exercise(known) for known in EXERCISES[:2]}
    with show.waiting("ResNet-18, from PyTorch to kernels ..."):
        prepared = session.call(prepare, MODEL, str(_folder(session.records)), whose)
    _show_prepared(prepared)

    whose[EXERCISES[2]] = session.exercise(EXERCISES[2])
    with show.waiting("GPT-2's blocks, for any batch ..."):
        batches = session.call(any_batch, whose[EXERCISES[2]], session.seed)
    _show_batches(batches)

    whose[EXERCISES[3]] = session.exercise(EXERCISES[3])
    said, error = session.call(with_converters, whose[EXERCISES[3]], session.seed)
    show.say(
        f"Without the table the importer said: `{said}`. With it, the exact GELU is imported; its "
        f"largest error on random inputs is {error:.1e}."
    )

    whose[EXERCISES[4]] = session.exercise(EXERCISES[4])
    found = known_best(prepared, session.records)
    with show.waiting("every kernel's time, call by call ..."):
        spent = {
            name: session.call(seconds_of_kernels, prepared, best, calls)
            for name, best, calls in ((DEFAULT, {}, 1), (TUNED, found, 5 if session.quick else 20))
        }
    measured = _compare(session, prepared, found)
    _show_tasks(session, prepared, found, spent, measured)
    _answer(session, prepared, found, spent, measured)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _show_prepared(prepared: Prepared) -> None:
    imported = prepared.operators
    calls = sum(task.weight for task in prepared.tasks)
    show.say(
        f"ResNet-18 as imported has {sum(imported.values())} operators: "
        + ", ".join(f"{number} {name}" for name, number in Counter(imported).most_common(6))
        + f", and others. After the pipeline it calls {calls} kernels, {len(prepared.tasks)} "
        "different ones. Its results, with the default loops, against PyTorch in float64:"
    )
    show.table(
        ("input", "largest error", "eager PyTorch's own error", "largest element"),
        [
            (str(number), f"{error:.1e}", f"{eager:.1e}", f"{largest:.2g}")
            for number, (error, eager, largest) in enumerate(prepared.errors, 1)
        ],
    )


def _show_batches(batches: list[tuple[int, float, float]]) -> None:
    show.say("Four blocks of GPT-2, 256 wide, 128 positions, compiled once for any batch up to 8:")
    show.table(
        ("batch", "largest error against float64", "largest element"),
        [(str(size), f"{error:.1e}", f"{largest:.2g}") for size, error, largest in batches],
    )


# ------------------------------------------------------------------------------------- the records


def known_best(prepared: Prepared, root: Path) -> dict[str, Best]:
    """The best schedule known for each task, this machine's own before those that were shipped."""
    show.heading("The schedules that were found")
    programs = {task.name: task.program for task in prepared.tasks}
    here = call(target.machine)
    usable: dict[str, Best] = {}
    for folder, whose in ((SHIPPED, "came with the course"), (root, "were found here")):
        found = read_found(file_of(prepared.name, folder))
        if found is None:
            continue
        fitting = {
            name: best for name, best in found.best.items() if programs.get(name) == best.program
        }
        usable |= fitting
        show.say(
            f"Schedules for {len(fitting)} of {len(programs)} tasks {whose}: {found.machine}, "
            f"{found.about['trials']} trials in {found.about['minutes']:.0f} minutes, "
            f"{found.about['date']}."
        )
        foreign = [
            f"{found.about[key]} there, {here[key]} here"
            for key in ("cpu", "llvm_cpu", "threads", "tvm")
            if found.about[key] != here[key]
        ]
        if foreign and fitting:
            show.line(
                f"  These records are foreign: {'; '.join(foreign)}. Their results are right on "
                f"any machine, their speed was found on that one. `{COMMAND} --minutes 30` finds "
                "this machine's own.",
                "yellow",
            )
    if not usable:
        show.line(f"  There are none yet; `{COMMAND} --minutes 30` finds some.", "yellow")
    return usable


def file_of(name: str, folder: Path) -> Path:
    """Where the best records for a model are kept."""
    return folder / f"{name}.jsonl.xz"


def read_found(path: Path) -> Found | None:
    """The records in a file; None if there is none, or none that can be read."""
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            about, *lines = (json.loads(line) for line in file)
        return Found(about, {line["task"]: Best(**line) for line in lines})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, EOFError, lzma.LZMAError) as error:
        show.line(
            f"  {path} cannot be read ({type(error).__name__}) and is left aside; delete it, "
            "and it is written anew.",
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


def _compare(session, prepared: Prepared, found: dict[str, Best]) -> Comparison:
    flops = sum(task.weight * task.flops for task in prepared.tasks)
    common = {"prepared": prepared, "flops": flops}
    candidates = [PEAK_FMA, Candidate(EAGER, make_torch, {**common, "compiled": False})]
    if found:
        candidates.insert(1, Candidate(TUNED, make_compiled, {**common, "best": found}))
    if not session.quick:
        candidates.append(Candidate(COMPILED, make_torch, {**common, "compiled": True}))
        candidates.append(Candidate(DEFAULT, make_compiled, {**common, "best": {}}))
    measured = session.compare(candidates, what="ResNet-18")
    show.heading("ResNet-18, one picture of 224 x 224")
    show.table(
        ("", "time", "spread", "GFLOP/s", "of FMA peak", f"{TUNED} is"),
        [
            (
                one.name,
                show.seconds(measured[one.name].median_s),
                f"{measured[one.name].spread:.0%}",
                show.rate(measured[one.name].gflops),
                show.share(measured.share_of_peak(one.name)),
                "-"
                if one.name == TUNED or TUNED not in measured
                else measured.verdict(TUNED, one.name).short(),
            )
            for one in candidates[1:]
            if one.name in measured
        ],
        f"{measured.rounds} paired rounds, every competitor in a process of its own with "
        f"{measured.threads} threads, its result verified. FMA peak in the same rounds: "
        f"{show.rate(measured.peak_gflops)} GFLOP/s.",
    )
    for other in (EAGER, COMPILED):
        if {TUNED, other} <= measured.figures.keys():
            show.line("  " + measured.verdict(TUNED, other).sentence() + ".")
    session.report |= {
        "peaks": {"fma_gflops": measured.peak_gflops},
        "results": measured.as_json(),
    }
    return measured


def _show_tasks(
    session,
    prepared: Prepared,
    found: dict[str, Best],
    spent: dict[str, dict[str, float]],
    measured: Comparison,
) -> None:
    show.heading("What there is to tune, and where the time goes")
    times = {name: _by_task(prepared, seconds) for name, seconds in spent.items()}
    total = {name: sum(one.values()) for name, one in times.items()}
    by_time = sorted(prepared.tasks, key=lambda task: -times[TUNED][task.name])
    show.table(
        ("task", "weight", "GFLOP", DEFAULT, "share", TUNED, "share", "GFLOP/s", "trials"),
        [
            (
                task.name.removeprefix("fused_"),
                str(task.weight),
                f"{task.weight * task.flops / 1e9:.2f}",
                show.seconds(times[DEFAULT][task.name]),
                f"{times[DEFAULT][task.name] / total[DEFAULT]:.0%}",
                show.seconds(times[TUNED][task.name]),
                f"{times[TUNED][task.name] / total[TUNED]:.0%}",
                show.rate(task.weight * task.flops / times[TUNED][task.name] / 1e9),
                str(found[task.name].trials) if task.name in found else "-",
            )
            for task in by_time
        ],
        "All calls of a task together, told by the virtual machine's instrument: once with the "
        "default loops, the median of several runs with the schedules that were found.",
    )
    session.report["tasks"] = [
        {
            "task": task.name,
            "weight": task.weight,
            "flops": task.flops,
            "default_s": times[DEFAULT][task.name],
            "tuned_s": times[TUNED][task.name],
        }
        for task in prepared.tasks
    ]
    session.picture("tasks", lambda path: draw_tasks(path, by_time, times, measured.peak_gflops))


def _by_task(prepared: Prepared, seconds: dict[str, float]) -> dict[str, float]:
    return {
        task.name: sum(seconds.get(kernel, 0.0) for kernel in task.kernels)
        for task in prepared.tasks
    }


def draw_tasks(
    path: Path, tasks: list[Task], times: dict[str, dict[str, float]], peak: float
) -> None:
    """The tuned time of every task, and the least that its arithmetic takes."""
    figure, axes = picture.blank(9, 0.32 * len(tasks) + 1.5)
    names = [task.name.removeprefix("fused_") for task in tasks]
    taken = [times[TUNED][task.name] * 1e3 for task in tasks]
    least = [task.weight * task.flops / peak / 1e6 for task in tasks]
    axes.barh(names, taken, color="tab:blue", label="tuned")
    axes.barh(names, least, color="tab:orange", height=0.35, label="its arithmetic at FMA peak")
    axes.invert_yaxis()
    axes.set_xlabel("ms of one run of ResNet-18, all calls of a task together")
    axes.legend()
    picture.save(figure, path)


def _answer(session, prepared, found, spent, measured: Comparison) -> None:
    times = _by_task(prepared, spent[TUNED])
    peak = measured.peak_gflops * 1e9
    left = {
        task.name: times[task.name] - task.weight * task.flops / peak for task in prepared.tasks
    }
    most = max(left, key=left.__getitem__)
    slowest = max(times, key=times.__getitem__)
    total, gap = sum(times.values()), sum(left.values())
    answer = [
        f"Where the time is that a search can still save. In this run the kernels took "
        f"{show.seconds(total)} together. At the FMA peak their arithmetic would take "
        f"{show.seconds(total - gap)}; what lies between is {show.seconds(gap)}, and the largest "
        f"part of it, {show.seconds(left[most])}, is in {most}.",
        "The kernel that takes longest"
        + (" is the same one" if slowest == most else f", {slowest}, is another")
        + ": a kernel may take long because it has much to compute, and then no schedule helps. "
        "That is why a scheduler that follows weight x seconds is only a beginning; better ones "
        "look at what the last batches of a task have brought.",
    ]
    if {TUNED, EAGER} <= measured.figures.keys():
        answer.append(
            f"{measured.verdict(TUNED, EAGER).sentence()}. PyTorch's kernels were tuned by hand "
            "for many shapes and years, these by a search for one model and one machine."
        )
        short = measured.verdict(TUNED, EAGER).short()
        joint = "from" if short == "cannot tell" else "than"
        session.headline = f"ResNet-18 tuned: {short} {joint} eager PyTorch"
    show.question("Where should the next minute of tuning go?", answer)


# ---------------------------------------------------------------------------------- run in a worker


def prepare(name: str, folder: str, whose: dict[str, str]) -> Prepared:
    """Take a model through import and passes, compare it with PyTorch, and leave it in a folder."""
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
    got = _results(module, inputs)
    place = Path(folder)
    (place / f"{name}.json").write_text(tvm.ir.save_json(module))
    np.savez(place / f"{name}.npz", x=inputs[0], want=wanted[0])
    return Prepared(
        name,
        place,
        _operators(imported),
        tuple(_tasks(lesson, module)),
        tuple(
            (
                float(np.abs(one - want).max()),
                float(np.abs(own - want).max()),
                float(np.abs(want).max()),
            )
            for one, own, want in zip(got, eager, wanted, strict=True)
        ),
    )


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


def any_batch(whose: str, seed: int) -> list[tuple[int, float, float]]:
    """For some batch sizes the largest error of GPT-2's blocks, compiled once, and the largest
    element."""
    import torch

    from tvm_practice.labs.models import made

    exercise.load_lesson("whole_models")
    model, (_, *shape) = made("gpt_blocks")
    module = exercise.body(EXERCISES[2], whose)(model, torch.zeros(2, *shape), 8)
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal((size, *shape)).astype("float32") for size in (1, 3, 8)]
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


def tuned_module(prepared: Prepared, best: dict[str, Best]):
    """The prepared module with the schedules of these records; one that cannot be replayed keeps
    its default loops."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    lesson = exercise.load_lesson("whole_models")
    module = tvm.ir.load_json((prepared.folder / f"{prepared.name}.json").read_text())
    if not best:
        return module
    schedules = {}
    kernels = lesson.kernels(module)
    for name, one in best.items():
        workload = ms.database.Workload(kernels[name])
        record = ms.database.TuningRecord.from_json(one.record, workload)
        schedules[name] = record.as_measure_candidate().sch.mod
    return lesson.with_schedules(module, schedules)


def seconds_of_kernels(prepared: Prepared, best: dict[str, Best], calls: int) -> dict[str, float]:
    """Seconds of each kernel in one run of the model, as the virtual machine's instrument sees
    them."""
    import tvm

    lesson = exercise.load_lesson("whole_models")
    machine = _machine(tuned_module(prepared, best))
    x = tvm.runtime.tensor(_stored(prepared)["x"])
    machine["main"](x)
    give_each_thread_a_core()
    runs = []
    seconds = lesson.instrument(machine, time.perf_counter)
    for _ in range(calls):
        seconds.clear()
        machine["main"](x)
        runs.append(dict(seconds))
    return {name: median(run[name] for run in runs) for name in runs[0]}


def make_compiled(prepared: Prepared, best: dict[str, Best], flops: float) -> Runnable:
    """The model, compiled with these schedules, verified."""
    import tvm

    machine = _machine(tuned_module(prepared, best))
    stored = _stored(prepared)
    x, main = tvm.runtime.tensor(stored["x"]), machine["main"]
    _verify(main(x).numpy(), stored["want"])
    return Runnable(lambda: main(x), flops=flops, verified=True)


def make_torch(prepared: Prepared, compiled: bool, flops: float) -> Runnable:
    """PyTorch's own, eager or compiled, verified."""
    import torch

    from tvm_practice.labs.models import made

    torch.set_num_threads(target.threads())
    model, _ = made(prepared.name)
    stored = _stored(prepared)
    x = torch.from_numpy(stored["x"])
    run = torch.compile(model) if compiled else model

    def once():
        with torch.inference_mode():
            return run(x)

    _verify(once().numpy(), stored["want"])
    return Runnable(once, flops=flops, verified=True)


def _stored(prepared: Prepared) -> dict[str, np.ndarray]:
    return np.load(prepared.folder / f"{prepared.name}.npz")


def _verify(got: np.ndarray, want: np.ndarray) -> None:
    error, largest = float(np.abs(got - want).max()), float(np.abs(want).max())
    if not error < ALLOWED * largest:
        raise RuntimeError(f"the result is off by {error:.2g}; its time means nothing")


# --------------------------------------------------------------------------------------- the tuning


@click.command("python -m tvm_practice.labs.whole_models --tune")
@click.option("--tune", is_flag=True, help="Search schedules for a model, kernel by kernel.")
@click.option("--minutes", type=click.FloatRange(0), default=30.0, show_default=True)
@click.option("--model", type=click.Choice(MODELS), default=MODEL, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.pass_context
def tune_command(context: click.Context, tune: bool, minutes: float, model: str, seed: int) -> None:
    """Search a schedule for each kernel of a model, for so many minutes. Ctrl-C stops it, and the
    same command goes on from there; the lesson then uses the best schedule of each kernel."""
    context.exit(tune_model(model, minutes, seed, ROOT))


def tune_model(name: str, minutes: float, seed: int, root: Path) -> int:
    """Search for so many minutes, go on from the records in `root`, and write the best of each task
    there; return the exit status."""
    whose = dict.fromkeys(EXERCISES, REFERENCE)
    with show.waiting(f"{name}, from PyTorch to kernels ..."):
        prepared = call(prepare, name, str(_folder(root)), whose)
        places = call(record_folders, prepared, seed)
    for place, module in places.values():
        if damage := records.repair(place, module):
            show.line(f"  {damage}", "yellow")
    start, told, interrupted = time.monotonic(), {}, False
    title = f"{len(prepared.tasks)} tasks, {minutes:g} minutes"
    try:
        with (
            show.progress(title, max(1, int(60 * minutes))) as bar,
            Worker(tune_in_worker, prepared, seed, 60 * minutes) as worker,
        ):
            while not told.get("finished"):
                told = worker.answer(SILENT_SECONDS)
                done = min(60 * minutes, time.monotonic() - start)
                bar.update(bar.task_ids[0], completed=done)
                if told.get("sentence"):
                    show.line("  " + told["sentence"])
    except KeyboardInterrupt:
        interrupted = True
        show.line("\nStopped. Every record is kept; the same command goes on from there.")
    with show.waiting("the best of each task ..."):
        _keep_best(prepared, seed, time.monotonic() - start)
    return INTERRUPTED if interrupted else NOTHING_WRONG


def _keep_best(prepared: Prepared, seed: int, seconds: float) -> None:
    """Write the best record of each task to the file that the lesson reads."""
    best = call(best_records, prepared, seed)
    if not best:
        show.line("  No trial was finished.", "yellow")
        return
    path = file_of(prepared.name, prepared.folder)
    before = read_found(path)
    machine = call(target.machine)
    about = {key: machine[key] for key in ("cpu", "llvm_cpu", "threads", "tvm", "llvm")}
    about |= {
        "model": prepared.name,
        "minutes": round((before.about["minutes"] if before else 0.0) + seconds / 60, 1),
        "trials": sum(one.trials for one in best.values()),
        "date": date.today().isoformat(),
    }
    write_found(path, Found(about, best))
    show.line(
        f"  {about['trials']} trials of {len(best)} tasks are on record, {about['minutes']:g} "
        f"minutes in all; the best of each are in {path}."
    )


def record_folders(prepared: Prepared, seed: int) -> dict[str, tuple[Path, bytes]]:
    """For each task the folder of its records, and its program, pickled."""
    return {
        name: (place, pickle.dumps(search.mod))
        for name, (place, search) in _searches(prepared, seed).items()
    }


def _searches(prepared: Prepared, seed: int) -> dict[str, tuple[Path, Any]]:
    """For each task the folder of its records, and its search."""
    from tvm_practice.common.target import cpu_target

    lesson = exercise.load_lesson("whole_models")
    found = {}
    for number, task in enumerate(lesson.tasks_of(tuned_module(prepared, {}), cpu_target()), 1):
        search = lesson.search_for(task, seed + number)
        folder = f"{task.task_name}-{records.key_of(search)}"
        found[task.task_name] = (_folder(prepared.folder / prepared.name / folder), search)
    return found


def tune_in_worker(connection: Connection, prepared: Prepared, seed: int, seconds: float) -> None:
    """Search, a batch for one task at a time, for so many seconds; tell of each batch."""
    from tvm_practice.common.measure import Measured

    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
    np.random.seed(seed)
    lesson = exercise.load_lesson("whole_models")
    next_batch = exercise.load_lesson("auto_tune").next_batch
    next_task = exercise.body(EXERCISES[4], REFERENCE)
    failures: Counter[str] = Counter()

    def count(one: Measured) -> None:
        if one.failure is not None:
            failures[one.failure.sentence] += 1

    default = _by_task(prepared, seconds_of_kernels(prepared, {}, 1))
    searches = {
        name: _started(place, search, count)
        for name, (place, search) in _searches(prepared, seed).items()
    }
    states = [
        lesson.Tuning(
            task.name,
            task.weight,
            min([default[task.name] / task.weight, *_measured(searches[task.name].database)]),
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
            states.pop(turn)
            connection.send(("returned", {"sentence": f"{state.name}: every schedule is known"}))
            continue
        results = one.measure(candidates)
        one.search.notify_runner_results(candidates, results)
        one.model.update(one.search, candidates, results)
        best = min([state.seconds, *_measured(one.database)])
        states[turn] = replace(state, seconds=best, batches=state.batches + 1)
        total = sum(one.weight * one.seconds for one in states)
        told = (
            f"{state.name}: {len(one.database)} trials, best {show.seconds(best)}"
            f"{' (new)' if best < state.seconds else ''}; all kernels {show.seconds(total)}"
        )
        connection.send(("returned", {"sentence": told}))
    for sentence, number in failures.most_common(3):
        connection.send(("returned", {"sentence": f"{number} failed: {sentence}"}))
    connection.send(("returned", {"finished": True}))


@dataclass(frozen=True)
class Search:
    """What the search for one task needs between its batches."""

    search: Any
    database: Any
    measure: Any
    model: Any


def _started(folder: Path, search: Any, count: Callable) -> Search:
    """A search that knows what the records in its folder have to tell."""
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.measure import Measure
    from tvm_practice.common.target import cpu_target

    database = records.open_database(folder, search.mod)
    model = ms.cost_model.XGBModel(num_warmup_samples=BATCH, num_tuning_cores=1)
    search.pre_tuning(MOST_TRIALS, BATCH, database=database, cost_model=model)
    exercise.load_lesson("auto_tune").learn_from_records(model, search, database)
    return Search(search, database, Measure(database, search.mod, cpu_target(), count), model)


def _measured(database: Any) -> list[float]:
    """The seconds of every candidate in a database that worked."""
    return [
        float(seconds)
        for record in database.get_all_tuning_records()
        for seconds in record.run_secs
        if seconds < records.FAILED_SECONDS
    ]


def best_records(prepared: Prepared, seed: int) -> dict[str, Best]:
    """The fastest record of each task that has one."""
    found = {}
    for name, (place, search) in _searches(prepared, seed).items():
        runs = records.runs_of_records(place)
        working = [number for number, taken in enumerate(runs) if taken]
        if working:
            first = min(working, key=lambda number: min(runs[number]))
            record = json.loads((place / records.RECORDS).read_text().splitlines()[first])[1]
            found[name] = Best(name, program_of(search.mod), min(runs[first]), len(runs), record)
    return found
