"""Timing that may be believed.

Every competitor runs in a process of its own (thread pools of TVM, OpenBLAS and OpenMP in one
process take the cores from each other), and all of them run in paired rounds, A B C, A B C, ...:
whatever slows the machine for a while slows all of them. A figure is a median with its quartiles; a
comparison is a verdict from the paired ratios, never a bare number. The machine's own peaks, an FMA
chain and a stream triad, are competitors like the others and share their rounds.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from tvm_practice.common.target import threads
from tvm_practice.common.worker import Worker, WorkerFailed

CONFIDENCE = 0.95
FEWEST_ROUNDS = 6  # with fewer, no ordering of the samples reaches 95%
SLOW_SECONDS = 1.0
WARM_SECONDS = 0.005
BUILD_SECONDS = 300.0
SAMPLE_LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Runnable:
    """What a maker returns: a call without arguments, the work it does, and whether its result was
    verified.

    flops: floating-point operations of one call; bytes: memory traffic of one call, where that is
    the measure.
    """

    call: Callable[[], Any]
    flops: float = 0.0
    bytes: float = 0.0
    verified: bool = False


@dataclass(frozen=True)
class Candidate:
    """A competitor: `make(**arguments)`, importable and picklable, builds its Runnable in the
    worker process."""

    name: str
    make: Callable[..., Runnable]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One competitor's measured seconds per call, one sample a round."""

    name: str
    samples: tuple[float, ...]
    calls_per_sample: int
    flops: float
    bytes: float
    verified: bool

    @property
    def median_s(self) -> float:
        return median(self.samples)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        low, high = self.quartiles_s
        return (high - low) / 2 / self.median_s

    @property
    def gflops(self) -> float:
        return self.flops / self.median_s / 1e9

    @property
    def gbytes(self) -> float:
        return self.bytes / self.median_s / 1e9


@dataclass(frozen=True)
class Verdict:
    """How much faster `first` is than `second`: their paired ratio with its confidence interval,
    and the word for it."""

    first: str
    second: str
    ratio: float
    low: float
    high: float
    confidence: float
    word: str

    def sentence(self) -> str:
        if self.word == "cannot tell":
            return (
                f"{self.first} against {self.second}: cannot tell at this noise "
                f"({self.low:.2f}x to {self.high:.2f}x, {self.confidence:.0%} confidence)"
            )
        shown = self.ratio if self.word == "faster" else 1 / self.ratio
        low, high = (
            (self.low, self.high) if self.word == "faster" else (1 / self.high, 1 / self.low)
        )
        return (
            f"{self.first} is {_times(shown)} {self.word} than {self.second} "
            f"({_times(low)} to {_times(high)}, {self.confidence:.0%} confidence)"
        )


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """A confidence interval for the median of independent values, from their order alone.

    Between the k-th smallest and the k-th largest of n values lies the median with probability 1 -
    2 P(Binomial(n, 1/2) < k), whatever their distribution. With fewer than six values no interval
    reaches 95%; it is then unbounded.
    """
    ordered = sorted(values)
    n = len(ordered)
    best = 0
    for k in range(1, n // 2 + 1):
        outside = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
        if 1 - outside >= confidence:
            best = k
    if best == 0:
        return 0.0, math.inf
    return ordered[best - 1], ordered[n - best]


def verdict(first: Figure, second: Figure, confidence: float = CONFIDENCE) -> Verdict:
    """Compare two figures measured in the same rounds. The ratio is second's time over first's:
    above 1 is faster."""
    ratios = [b / a for a, b in zip(first.samples, second.samples, strict=False)]
    low, high = median_interval(ratios, confidence)
    word = "faster" if low > 1 else "slower" if high < 1 else "cannot tell"
    return Verdict(first.name, second.name, median(ratios), low, high, confidence, word)


@dataclass(frozen=True)
class Comparison:
    """The figures of one set of paired rounds, by name, and the competitors that could not be
    measured, with the reason."""

    figures: dict[str, Figure]
    failed: dict[str, str]
    rounds: int
    threads: int

    def __getitem__(self, name: str) -> Figure:
        return self.figures[name]

    def __contains__(self, name: str) -> bool:
        return name in self.figures

    def verdict(self, first: str, second: str) -> Verdict:
        return verdict(self.figures[first], self.figures[second])

    @property
    def peak_gflops(self) -> float:
        """The FMA peak of all threads: PEAK_FMA's fastest round, NaN if it was not a candidate.

        A peak is what the machine can do at all, so here, and only here, the best round counts.
        Where something else runs through every round it is still too low, and a share of it beyond
        100% tells so.
        """
        if PEAK_FMA.name not in self.figures:
            return math.nan
        peak = self.figures[PEAK_FMA.name]
        return peak.flops / min(peak.samples) / 1e9

    @property
    def peak_gbytes(self) -> float:
        """The stream triad's rate in its fastest round, NaN if it was not a candidate."""
        if PEAK_TRIAD.name not in self.figures:
            return math.nan
        peak = self.figures[PEAK_TRIAD.name]
        return peak.bytes / min(peak.samples) / 1e9

    def share_of_peak(self, name: str) -> float:
        return self.figures[name].gflops / self.peak_gflops

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "competitor": figure.name,
                "median_s": figure.median_s,
                "spread": figure.spread,
                "quartiles_s": list(figure.quartiles_s),
                "samples_s": list(figure.samples),
                "calls_per_sample": figure.calls_per_sample,
                "gflops": figure.gflops,
                "share_of_peak": self.share_of_peak(figure.name)
                if not math.isnan(self.peak_gflops)
                else None,
                "threads": self.threads,
                "verified": figure.verified,
            }
            for figure in self.figures.values()
        ]


def compare(
    candidates: Sequence[Candidate],
    rounds: int = 9,
    sample_seconds: float = 0.03,
    advance: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measure the candidates in paired rounds, each in a process of its own.

    A sample is as many calls as last `sample_seconds`, one at least, after a few that are not
    counted. A candidate that takes a second or more for one call sits out after the fewest rounds
    that allow a verdict. A candidate whose maker raises, dies or takes too long is left out and
    named in `failed`. `advance` is called with a candidate's name after it is built and after each
    of its samples.
    """
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[float]] = {}
    try:
        for candidate in candidates:
            worker = Worker(_serve, candidate, sample_seconds)
            workers[candidate.name] = worker
            try:
                facts[candidate.name] = worker.answer(BUILD_SECONDS)
                samples[candidate.name] = []
            except WorkerFailed as error:
                failed[candidate.name] = str(error)
            advance(candidate.name)
        for number in range(rounds):
            for name in [name for name in samples if name not in failed]:
                if number >= FEWEST_ROUNDS and samples[name][-1] > SLOW_SECONDS:
                    advance(name)
                    continue
                try:
                    samples[name].append(workers[name].ask("sample", SAMPLE_LIMIT_SECONDS))
                except WorkerFailed as error:
                    failed[name] = str(error)
                advance(name)
    finally:
        for worker in workers.values():
            worker.__exit__()
    figures = {
        name: Figure(name, tuple(taken), **facts[name])
        for name, taken in samples.items()
        if name not in failed
    }
    return Comparison(figures, failed, rounds, threads())


def _serve(connection: Connection, candidate: Candidate, sample_seconds: float) -> None:
    """The worker's side: build, find out how many calls make a sample, then take a sample whenever
    asked."""
    runnable = candidate.make(**candidate.arguments)
    call = runnable.call
    calls, once = 1, seconds_per_call(call, 1)
    while once * calls < sample_seconds:
        calls = max(calls + 1, min(calls * 10, math.ceil(1.2 * sample_seconds / max(once, 1e-9))))
        once = seconds_per_call(call, calls)
    give_each_thread_a_core()
    facts = {
        "calls_per_sample": calls,
        "flops": runnable.flops,
        "bytes": runnable.bytes,
        "verified": runnable.verified,
    }
    _wait_until_quiet()
    connection.send(("returned", facts))
    while True:
        connection.recv()
        if once < WARM_SECONDS:
            seconds_per_call(call, math.ceil(WARM_SECONDS / once))
        seconds = seconds_per_call(call, calls)
        _wait_until_quiet()
        connection.send(("returned", seconds))


def seconds_per_call(call: Callable[[], Any], calls: int) -> float:
    """Seconds per call, measured over `calls` of them."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def give_each_thread_a_core() -> None:
    """Pin the threads that did the work, this one included, to a core each (Linux only).

    A scheduler may leave two threads that wake each other on one core for as long as a sample
    lasts; which library that hits is chance. Pinned alike, they can be compared.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    main = threading.get_native_id()
    cores = sorted(os.sched_getaffinity(main))
    busy = []
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        if int(task.name) != main:
            busy.append((int(fields[11]) + int(fields[12]), int(task.name)))
    workers = [task for ticks, task in sorted(busy, reverse=True) if ticks > 0]
    for core, task in zip(cores, [main, *workers[: threads() - 1]], strict=False):
        os.sched_setaffinity(task, {core})


def _wait_until_quiet(limit: float = 0.5) -> None:
    """Wait until this process's own threads have stopped spinning, so that they take nothing from
    the next competitor.

    The window is longer than a clock tick, because a kernel may charge a spinning thread only once
    a tick.
    """
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(0.010)
        if time.process_time() - used < 0.002:
            return


# -------------------------------------------------------------------------- the machine's own peaks


def make_fma_peak() -> Runnable:
    """Independent chains of vector multiply-adds in registers, on every thread: no memory is
    touched in the loop."""
    import tvm
    from tvm.script import tirx as T

    from tvm_practice.common.target import build, vector_unit

    lanes, registers = vector_unit()
    chains, steps, workers = registers // 2, 100_000, threads()

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((2, lanes), "float32"), y: T.Buffer((workers, chains, lanes), "float32")):
        T.func_attr({"tirx.noalias": True})
        for worker in T.parallel(workers):
            with T.sblock("worker"):
                w = T.axis.spatial(workers, worker)
                chain = T.sblock_alloc_buffer((chains, lanes), "float32", scope="local")
                for c in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        with T.sblock("start"):
                            vc, vl = T.axis.remap("SS", [c, lane])
                            chain[vc, vl] = x[0, vl]
                for step in range(steps):
                    for c in T.unroll(chains):
                        for lane in T.vectorized(lanes):
                            with T.sblock("fma"):
                                _, vc, vl = T.axis.remap("RSS", [step, c, lane])
                                chain[vc, vl] = chain[vc, vl] * x[0, vl] + x[1, vl]
                for c in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        with T.sblock("store"):
                            vc, vl = T.axis.remap("SS", [c, lane])
                            y[w, vc, vl] = chain[vc, vl]

    function = build(tvm.IRModule({"main": main}))
    x = tvm.runtime.tensor(np.array([[0.5] * lanes, [1.0] * lanes], "float32"))
    y = tvm.runtime.tensor(np.full((workers, chains, lanes), np.nan, "float32"))
    function(x, y)
    # chain = chain / 2 + 1 tends to 2, and in float32 reaches it.
    if not (y.numpy() == 2.0).all():
        raise RuntimeError("the FMA chain gave a wrong result; its rate means nothing")
    flops = 2.0 * workers * chains * lanes * steps
    return Runnable(lambda: function(x, y), flops=flops, verified=True)


def make_triad() -> Runnable:
    """The stream triad a[i] = b[i] + s * c[i] (McCalpin 1995) on arrays far beyond the caches, on
    every thread.

    Bytes are counted as STREAM does: two arrays read and one written, without the read that a write
    may cause.
    """
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    from tvm_practice.common.target import build, vector_unit

    length = 1 << 24
    b, c = te.placeholder((length,), name="b"), te.placeholder((length,), name="c")
    a = te.compute((length,), lambda i: b[i] + c[i] * 3.0, name="a")
    sch = Schedule(te.create_prim_func([b, c, a]))
    (i,) = sch.get_loops(sch.get_sblock("a"))
    per_thread, _, lane = sch.split(
        i, [threads(), None, vector_unit()[0]], preserve_unit_iters=True
    )
    sch.parallel(per_thread)
    sch.vectorize(lane)
    function = build(sch.mod)
    tensors = [
        tvm.runtime.tensor(np.full(length, value, "float32")) for value in (1.0, 2.0, np.nan)
    ]
    function(*tensors)
    if not (tensors[2].numpy() == 7.0).all():
        raise RuntimeError("the triad gave a wrong result; its rate means nothing")
    return Runnable(
        lambda: function(*tensors), flops=2.0 * length, bytes=12.0 * length, verified=True
    )


PEAK_FMA = Candidate("FMA peak", make_fma_peak)
PEAK_TRIAD = Candidate("stream triad", make_triad)
