"""Timing the candidates of a schedule search, each in a process of its own.

A search proposes schedules that nobody has tried: one may take the compiler minutes, run for hours,
ask for all memory or end the process. Here that costs one candidate. Processes are forked from a
server that has TVM loaded, so one takes milliseconds to start; MetaSchedule's own builder starts
each from nothing, exports an archive, and needs a C++ compiler.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.common.records import FAILED_SECONDS, on_machine, this_machine
from tvm_practice.common.target import threads
from tvm_practice.common.timing import give_each_thread_a_core, seconds_per_call
from tvm_practice.common.worker import Failure, Worker, WorkerFailed

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir.meta_schedule import Database
    from tvm.s_tir.meta_schedule.runner import RunnerResult
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

BUILD_SECONDS = 15.0
RUN_SECONDS = 10.0
SAMPLES = 5
SAMPLE_SECONDS = 0.02


def skip_tensor_intrinsics() -> None:
    """Put an empty module where `ms.TuneContext` would import `tvm.s_tir.tensor_intrin`.

    That import registers every tensor instruction of every GPU, which takes 15 to 25 s; no schedule
    of this course's CPU lessons uses one. Its submodules can still be imported one by one.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        specification = importlib.util.find_spec(name)
        sys.modules[name] = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Measured:
    """What became of one candidate: its seconds per call, or None and why; and on which machine."""

    seconds: float | None
    failure: Failure | None = None
    machine: str = ""


class Measure:
    """Call it with candidates of one workload: it builds and times them, and returns a RunnerResult
    for each.

    Each result is committed to `database` as soon as it is known, so an interrupted search keeps
    them all; then it is told to `report`. A candidate that fails is committed too, with the time
    that says so.
    """

    def __init__(
        self,
        database: Database,
        module: tvm.IRModule,
        target: tvm.target.Target,
        report: Callable[[Measured], None] = lambda _: None,
        candidate: Callable[..., None] | None = None,
        build_seconds: float = BUILD_SECONDS,
        run_seconds: float = RUN_SECONDS,
    ) -> None:
        # A worker is a daemon, which multiprocessing allows no children; these end with it (see
        # `end_with_parent`).
        multiprocessing.current_process().daemon = False
        self._database = database
        self._workload = database.commit_workload(module)
        self._target = target
        self._report = report
        self._candidate = candidate or serve_candidate
        self._build_seconds, self._run_seconds = build_seconds, run_seconds
        self._known = {
            module_hash(record.as_measure_candidate().sch.mod)
            for record in database.get_all_tuning_records()
        }

    def fresh(self, candidates: Sequence[MeasureCandidate]) -> list[MeasureCandidate]:
        """The candidates that have no record yet, each once."""
        first = {module_hash(candidate.sch.mod): candidate for candidate in candidates}
        return [candidate for known, candidate in first.items() if known not in self._known]

    def __call__(self, candidates: Sequence[MeasureCandidate]) -> list[RunnerResult]:
        from tvm.s_tir import meta_schedule as ms

        results: list[RunnerResult | None] = [None] * len(candidates)
        for place, measured in self._measured(candidates):
            candidate = candidates[place]
            seconds = FAILED_SECONDS if measured.seconds is None else measured.seconds
            self._known.add(module_hash(candidate.sch.mod))
            self._database.commit_tuning_record(
                ms.database.TuningRecord(
                    candidate.sch.trace,
                    self._workload,
                    [seconds],
                    on_machine(self._target, measured.machine),
                    candidate.args_info,
                )
            )
            self._report(measured)
            if measured.failure is None:
                results[place] = ms.runner.RunnerResult([seconds], None)
            else:
                results[place] = ms.runner.RunnerResult(None, measured.failure.sentence)
        return results

    def again(self, candidates: Sequence[MeasureCandidate], rounds: int) -> list[list[float]]:
        """Time candidates that worked before once more, in paired rounds; commits nothing. A list
        is short where one fails."""
        runs: list[list[float]] = [[] for _ in candidates]
        built = self._build(candidates)
        try:
            for _ in range(rounds):
                for (worker, failure), taken in zip(built, runs, strict=True):
                    if failure is None and worker.connection.closed is False:
                        try:
                            taken.append(worker.ask("time", self._run_seconds))
                        except WorkerFailed:
                            continue
        finally:
            for worker, _ in built:
                worker.__exit__()
        return runs

    def _measured(self, candidates: Sequence[MeasureCandidate]) -> Iterator[tuple[int, Measured]]:
        """Time one after the other, with nothing beside it, once all are built; each comes with its
        place."""
        built = deque(self._build(candidates))
        machine = this_machine()
        try:
            while built:
                worker, failure = built[0]
                seconds = None
                if failure is None:
                    try:
                        seconds = worker.ask("time", self._run_seconds)
                    except WorkerFailed as error:
                        failure = error.failure
                worker.__exit__()
                built.popleft()
                yield len(candidates) - len(built) - 1, Measured(seconds, failure, machine)
        finally:
            for worker, _ in built:
                worker.__exit__()

    def _build(self, candidates: Sequence[MeasureCandidate]) -> list[tuple[Worker, Failure | None]]:
        """A process for each candidate, as many compiling at a time as there are threads."""
        built: list[tuple[Worker, Failure | None]] = []
        building: deque[tuple[Worker, float]] = deque()
        try:
            for candidate in candidates:
                if len(building) == threads():
                    built.append(self._finish(*building.popleft()))
                building.append((self._start(candidate), time.monotonic() + self._build_seconds))
            while building:
                built.append(self._finish(*building.popleft()))
        except BaseException:
            for worker, _ in (*building, *built):
                worker.__exit__()
            raise
        return built

    def _start(self, candidate: MeasureCandidate) -> Worker:
        limits = (self._build_seconds, self._run_seconds)
        return Worker(
            self._candidate,
            candidate.sch.mod,
            self._target,
            arguments_of(candidate),
            limits,
            limit_memory=True,
        )

    def _finish(self, worker: Worker, deadline: float) -> tuple[Worker, Failure | None]:
        try:
            worker.answer(max(0.1, deadline - time.monotonic()))
        except WorkerFailed as error:
            if error.failure.kind != "timeout":
                return worker, error.failure
            told = f"it was still compiling after {self._build_seconds:.0f} seconds"
            return worker, Failure("timeout", told, error.failure.printed)
        return worker, None


def arguments_of(candidate: MeasureCandidate) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of each argument of a candidate."""
    return [
        (tuple(map(int, information.shape)), str(information.dtype))
        for information in candidate.args_info
    ]


def module_hash(module: tvm.IRModule) -> int:
    import tvm_ffi

    return tvm_ffi.structural_hash(module)


# ----------------------------------------------------------------------- in the candidate's process


def serve_candidate(
    connection: Connection,
    module: tvm.IRModule,
    target: tvm.target.Target,
    arguments: list[tuple[tuple[int, ...], str]],
    limits: tuple[float, float],
) -> None:
    """Compile and say so; then answer every request with the seconds per call."""
    build_seconds, run_seconds = limits
    end_with_parent()
    end_after(build_seconds)
    import tvm

    function = tvm.compile(module, target=target).jit()["main"]
    connection.send(("returned", "built"))
    while True:
        end_after(None)
        connection.recv()
        end_after(run_seconds)
        tensors = [tvm.runtime.tensor(np.ones(shape, dtype)) for shape, dtype in arguments]
        connection.send(("returned", shortest_seconds(lambda: function(*tensors))))  # noqa: B023


def end_with_parent() -> None:
    """Have the kernel end this process when the one that it was forked from ends (Linux only)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def end_after(seconds: float | None) -> None:
    """Have the kernel end this process some time after its limit: whoever should have done so is
    then gone."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(0 if seconds is None else int(seconds) + 30)


def shortest_seconds(call: Callable[[], Any]) -> float:
    """Seconds per call: the shortest of a few samples, since whatever else runs on the machine can
    only add to it.

    A ranking of hundreds of candidates needs no more. What is reported of the winner is measured
    again, in paired rounds.
    """
    call()
    give_each_thread_a_core()
    once = seconds_per_call(call, 1)
    if once > SAMPLE_SECONDS:
        return min(once, seconds_per_call(call, 1)) if once < 0.5 else once
    calls = max(1, round(SAMPLE_SECONDS / once))
    return min(seconds_per_call(call, calls) for _ in range(SAMPLES))
