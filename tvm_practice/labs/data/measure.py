"""Measure every schedule of the lab's search space on this machine.

    python -m tvm_practice.labs.data [--out FILE] [--candidates N]

It takes about twenty minutes on two cores, wants the machine for itself, and can be interrupted:
the same command goes on. The lab `cost_model` uses the file that it leaves in records/cost_model/
instead of the one that came with the course.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np

from tvm_practice.common import exercise, show, target, verify
from tvm_practice.common.timing import give_each_thread_a_core, seconds_per_call
from tvm_practice.common.worker import Worker, WorkerFailed, call
from tvm_practice.labs import data
from tvm_practice.labs.data.metaschedule import RUNS, WARM_UPS, run_metaschedule

PASSES = 5
GROUP = 256  # candidates that are built, and then timed together, pass by pass
CHUNK = 32  # of which so many share a process
SAMPLES, SAMPLE_SECONDS = 3, 0.002
BUILD_SECONDS, RUN_SECONDS = 60.0, 20.0


# -------------------------------------------------------------------------- in a process of its own


def serve_chunk(connection: Connection, decisions: list[tuple[int, ...]], seed: int) -> None:
    """Build the candidates one after the other and send the features of each; then answer every
    request with the seconds per call of each, the first time after verifying its result."""
    import tvm
    from tvm.s_tir import Schedule

    lab = exercise.load_lesson("cost_model")
    module = lab.matmul(lab.SIDE)
    functions = []
    for candidate in decisions:
        schedule = Schedule(module["main"])
        knobs = zip(candidate, lab.KNOBS.values(), strict=True)
        lab.write_schedule(schedule, *(choices[place] for place, choices in knobs))
        functions.append(target.build(schedule.mod))
        connection.send(("returned", lab.store_features(schedule, target.cpu_target())))
    rng = np.random.default_rng(seed)
    a, b = (verify.random_array(rng, lab.SIDE, lab.SIDE) for _ in range(2))
    want, magnitude = verify.matmul_reference(a, b)
    poison = np.full((lab.SIDE, lab.SIDE), np.nan, "float32")
    verified: set[int] = set()
    while True:
        connection.recv()
        tensors = [tvm.runtime.tensor(array) for array in (a, b, poison)]
        for number, function in enumerate(functions):
            if number not in verified:
                tensors[2] = tvm.runtime.tensor(poison)
                function(*tensors)
                verify.assert_close(tensors[2].numpy(), want, magnitude, lab.SIDE, "C")
                verified.add(number)
            connection.send(("returned", _seconds(lambda: function(*tensors))))  # noqa: B023


def _seconds(run: Callable[[], None]) -> float:
    """Seconds per call: the shortest of a few samples, since whatever else runs on the machine can
    only add to it; of one, where a call is longer than a sample."""
    run()
    give_each_thread_a_core()
    once = seconds_per_call(run, 1)
    if once > SAMPLE_SECONDS:
        return once
    calls = max(1, round(SAMPLE_SECONDS / once))
    return min(seconds_per_call(run, calls) for _ in range(SAMPLES))


# ---------------------------------------------------------------------------------- the whole space

Row = tuple[np.ndarray, list[float]]  # features, seconds in each pass


class Chunk:
    """Some candidates in one process. A candidate that crashes or hangs is left out, and the
    process started again without it."""

    def __init__(self, candidates: list[tuple[int, ...]], seed: int) -> None:
        self.left = list(candidates)
        self.features: dict[tuple[int, ...], np.ndarray] = {}
        self.passes: dict[tuple[int, ...], list[float]] = {one: [] for one in candidates}
        self._seed = seed
        self._worker: Worker | None = None

    def start_once(self) -> None:
        if self._worker is None:
            self._start()

    def _start(self) -> None:
        self._worker = Worker(serve_chunk, self.left, self._seed, limit_memory=True)

    def finish_building(self) -> None:
        done = 0
        while done < len(self.left):
            try:
                self.features[self.left[done]] = self._worker.answer(BUILD_SECONDS)
                done += 1
            except WorkerFailed as error:
                self._drop(self.left[done], error)
                done = 0

    def time(self) -> None:
        if not self.left:
            return
        self._worker.connection.send("time")
        for candidate in list(self.left):
            try:
                self.passes[candidate].append(self._worker.answer(RUN_SECONDS))
            except WorkerFailed as error:
                self._drop(candidate, error)
                self.finish_building()
                return  # the rest of the chunk has one pass less now

    def lacks_a_pass(self) -> bool:
        return any(len(self.passes[one]) < PASSES for one in self.left)

    def _drop(self, candidate: tuple[int, ...], error: WorkerFailed) -> None:
        show.line(f"  {candidate} failed: {error}", "yellow")
        self.stop()
        self.left.remove(candidate)
        self._start()

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.__exit__()

    def rows(self) -> dict[tuple[int, ...], Row]:
        nothing = np.zeros((1, 164), "float32")
        return {
            one: (self.features.get(one, nothing), (taken + [np.nan] * PASSES)[:PASSES])
            for one, taken in self.passes.items()
        }


def measure_group(
    candidates: list[tuple[int, ...]],
    seed: int,
) -> dict[tuple[int, ...], Row]:
    """Build some candidates, as many processes at a time as there are threads; then time them all,
    one after the other, PASSES times, so that a disturbance does not hit all the times of one."""
    chunks = [Chunk(candidates[n : n + CHUNK], seed) for n in range(0, len(candidates), CHUNK)]
    try:
        for n, chunk in enumerate(chunks):
            for one in chunks[n : n + target.threads()]:
                one.start_once()
            chunk.finish_building()
        for _ in range(PASSES):
            for chunk in chunks:
                chunk.time()
        for chunk in chunks:
            while chunk.lacks_a_pass():
                chunk.time()
        return {one: row for chunk in chunks for one, row in chunk.rows().items()}
    finally:
        for chunk in chunks:
            chunk.stop()


def every_candidate() -> list[tuple[int, ...]]:
    return [tuple(map(int, row)) for row in exercise.load_lesson("cost_model").every_candidate()]


def task() -> dict[str, object]:
    lab = exercise.load_lesson("cost_model")
    return {
        "task": f"C = A @ B, {lab.SIDE} x {lab.SIDE} x {lab.SIDE}, float32",
        "side": lab.SIDE,
        "knobs": {name: list(choices) for name, choices in lab.KNOBS.items()},
        "passes": PASSES,
        "machine": target.machine(),
    }


def finished(path: Path) -> dict[tuple[int, ...], Row]:
    """What an interrupted run has measured already."""
    if not path.exists():
        return {}
    table = data.load(path)
    return {
        tuple(map(int, one)): (features, list(map(float, passes)))
        for one, features, passes in zip(table.decisions, table.features, table.passes, strict=True)
    }


def as_measurements(rows: dict[tuple[int, ...], Row], about: dict) -> data.Measurements:
    order = sorted(rows)
    passes = np.array([rows[one][1] for one in order])
    return data.Measurements(np.array(order), passes, [rows[one][0] for one in order], {}, about)


def measure_all(path: Path, todo: list[tuple[int, ...]], rows: dict, about: dict) -> None:
    """Measure group by group; whatever is interrupted keeps the groups before."""
    for number in range(0, len(todo), GROUP):
        group = todo[number : number + GROUP]
        start = time.monotonic()
        rows |= measure_group(group, number)
        about["seconds_per_candidate"] = round((time.monotonic() - start) / len(group), 3)
        table = as_measurements(rows, about)
        data.save(path, table)
        show.line(f"  {len(rows)} measured, best {show.seconds(table.seconds.min())}")


def record_metaschedule(path: Path) -> None:
    """Let MetaSchedule search the finished table, and keep what it asked for."""
    table = data.load(path)
    recorded, told = {}, {}
    for name, warm_up in WARM_UPS.items():
        runs = []
        for seed in range(RUNS):
            runs.append(call(run_metaschedule, table.seconds, warm_up, seed, seconds=600))
            show.line(f"  {name}, run {seed + 1} of {RUNS}: {runs[-1][1]:.0f} s")
        recorded[name] = np.array([order for order, _ in runs])
        seconds = float(np.median([seconds for _, seconds in runs]))
        told[name] = {"warm_up": warm_up, "seconds_per_run": round(seconds, 2)}
    about = {**table.about, "recorded": told}
    data.save(path, replace(table, recorded=recorded, about=about))


@click.command(name=data.COMMAND)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("records/cost_model") / data.SHIPPED.name,
    show_default=True,
    help="Where the measurements go.",
)
@click.option(
    "--candidates", type=click.IntRange(1), help="Only so many, drawn at random; a trial."
)
def main(out: Path, candidates: int | None) -> None:
    """Measure every schedule of the search space of the lab cost_model on this machine."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = finished(out)
    everything = call(every_candidate)
    # At random, so that drift of the machine is no property of a knob.
    shuffled = [everything[n] for n in np.random.default_rng(0).permutation(len(everything))]
    todo = [one for one in shuffled[:candidates] if one not in rows]
    about = {**call(task), "measured": date.today().isoformat()}
    show.line(f"{len(rows)} candidates are measured, {len(todo)} to go; they go to {out}.")
    measure_all(out, todo, rows, about)
    if len(rows) == len(everything):
        show.line("MetaSchedule searches in what was measured.")
        record_metaschedule(out)
    show.line(f"{len(rows)} of {len(everything)} candidates are in {out}.")
