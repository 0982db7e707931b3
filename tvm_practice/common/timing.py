"""Timing that may be believed.

Every competitor runs in a process of its own (thread pools of TVM, OpenBLAS and OpenMP in one
process take the cores from each other), and all of them run in paired rounds, A B C, C B A, ...:
whatever slows the machine for a while slows all of them. A figure is a median with its quartiles; a
comparison is a verdict from the paired ratios, never a bare number. The machine's own peaks, an FMA
chain, a stream triad and the sum of a large array, are competitors like the others and share their
rounds.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from tvm_practice.common.target import threads
from tvm_practice.common.worker import Worker, WorkerFailed

CONFIDENCE = 0.95
DISTURBED_CORES = 0.15  # taken by other programs: more than that is said
FEWEST_ROUNDS = 6  # with fewer, no ordering of the samples reaches 95%
# Two processes that run the very same code differ for as long as they live, if only by which pages
# of memory they got: in a matmul the interval of their ratio began up to 0.4% from 1, and where
# memory is the limit up to 1.8% (less in huge pages). A verdict on code, not on two processes,
# leaves that out.
PROCESS_LUCK = 0.02
# With noise of 2% in each competitor, these find a difference of 5% in more than 97 of 100 runs,
# PROCESS_LUCK left out.
ROUNDS = 20
SLOW_SECONDS = 1.0
WARM_SECONDS = 0.005
MIB = 1 << 20
BUILD_SECONDS = 300.0
SAMPLE_LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Runnable:
    """What a maker returns: a call without arguments, the work it does, and whether its result was
    verified.

    flops: floating-point operations of one call; bytes: its compulsory memory traffic, every input
    read once and every output written once; bytes_written: how many of these are written.
    on_device: for a call that only starts work elsewhere: what times so many of them by the clock
    of the device, in seconds per call.
    """

    call: Callable[[], Any]
    flops: float = 0.0
    bytes: float = 0.0
    verified: bool = False
    bytes_written: float = 0.0
    on_device: Callable[[int], float] | None = None


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
    bytes_written: float = 0.0
    cores: tuple[float, ...] = ()  # that its process had, one a round

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

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: operations per byte of compulsory traffic; NaN if unknown."""
        return self.flops / self.bytes if self.bytes else math.nan


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
    margin: float = 0.0

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

    def short(self) -> str:
        """The verdict as a cell of a table: "1.23x faster", or "cannot tell"."""
        if self.word == "cannot tell":
            return self.word
        return f"{_times(self.ratio if self.word == 'faster' else 1 / self.ratio)} {self.word}"


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


def verdict(
    first: Figure, second: Figure, confidence: float = CONFIDENCE, margin: float = 0.0
) -> Verdict:
    """Compare two figures measured in the same rounds. The ratio is second's time over first's:
    above 1 is faster.

    The confidence holds whatever the distribution of the noise, and whatever drift the rounds
    share. It speaks of these two processes: noise that stays with one of them from round to round
    is part of what is compared. With `margin`, they are told apart only where the whole interval
    lies that far from 1: PROCESS_LUCK makes it a verdict on their code.
    """
    ratios = [b / a for a, b in zip(first.samples, second.samples, strict=False)]
    low, high = median_interval(ratios, confidence)
    faster, slower = low > 1 + margin, high < 1 / (1 + margin)
    word = "faster" if faster else "slower" if slower else "cannot tell"
    return Verdict(first.name, second.name, median(ratios), low, high, confidence, word, margin)


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

    def verdict(self, first: str, second: str, margin: float = 0.0) -> Verdict:
        return verdict(self.figures[first], self.figures[second], margin=margin)

    @property
    def cores_taken(self) -> float:
        """Cores that other programs had in the median round; 0.0 without PEAK_FMA.

        The FMA chains never wait for anything, so their process gets every core it has threads
        for, unless another program runs there.
        """
        peak = self.figures.get(PEAK_FMA.name)
        return max(0.0, self.threads - median(peak.cores)) if peak and peak.cores else 0.0

    def disturbance(self) -> str:
        """A sentence if other programs took enough to spoil the figures, else ""."""
        if self.cores_taken <= DISTURBED_CORES:
            return ""
        return (
            f"Other programs took {self.cores_taken:.1f} of the {self.threads} cores while this "
            "was measured: the peak and every figure are too low, and the shares and verdicts "
            "uncertain."
        )

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

    def share_of_bandwidth(self, name: str) -> tuple[float, float, float] | None:
        """(median, low, high) of a figure's bytes per second over those of the roof that fits it
        (`bandwidth_roof`), round by round; None where either was not measured.

        Not over the roof's best round, as with arithmetic: memory is shared with whatever else runs
        on the machine, beyond a virtual machine's walls too, and can change its rate by half within
        minutes. The interval has the confidence of a verdict.
        """
        figure = self.figures[name]
        roof = self.figures.get(bandwidth_roof(figure).name)
        if roof is None or not figure.bytes:
            return None
        shares = [
            (figure.bytes / taken) / (roof.bytes / roof_taken)
            for taken, roof_taken in zip(figure.samples, roof.samples, strict=False)
        ]
        return median(shares), *median_interval(shares)

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
                "threads": 1 if figure.name in ONE_THREAD else self.threads,
                "verified": figure.verified,
                "cores": round(median(figure.cores), 3) if figure.cores else None,
            }
            for figure in self.figures.values()
        ]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `compare`, with what was measured until then."""

    def __init__(self, measured: Comparison) -> None:
        super().__init__()
        self.measured = measured


class TooSlow(Exception):
    """One call takes longer than whoever compares wants to wait for."""


def compare(
    candidates: Sequence[Candidate],
    rounds: int = 9,
    sample_seconds: float = 0.03,
    advance: Callable[[str], None] = lambda _: None,
    longest_call: float = math.inf,
) -> Comparison:
    """Measure the candidates in paired rounds, each in a process of its own.

    A sample is as many calls as last `sample_seconds`, one at least, after a few that are not
    counted. A candidate that takes a second or more for one call sits out after the fewest rounds
    that allow a verdict. A candidate whose maker raises, dies or takes too long, or one of whose
    calls takes more than `longest_call` seconds, is left out and named in `failed`. `advance` is
    called with a candidate's name after it is built and after each of its samples. Ctrl-C raises
    Interrupted.
    """
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[float]] = {}
    cores: dict[str, list[float]] = {}
    interrupted = False
    try:
        for candidate in candidates:
            worker = Worker(_serve, candidate, sample_seconds, longest_call)
            workers[candidate.name] = worker
            try:
                facts[candidate.name] = worker.answer(BUILD_SECONDS)
                samples[candidate.name], cores[candidate.name] = [], []
            except WorkerFailed as error:
                failed[candidate.name] = str(error).removeprefix(f"{TooSlow.__name__}: ")
            advance(candidate.name)
        for number in range(rounds):
            for name in order([name for name in samples if name not in failed], number):
                if number >= FEWEST_ROUNDS and samples[name][-1] > SLOW_SECONDS:
                    advance(name)
                    continue
                try:
                    seconds, used = workers[name].ask("sample", SAMPLE_LIMIT_SECONDS)
                    samples[name].append(seconds)
                    cores[name] += [] if used is None else [used]
                except WorkerFailed as error:
                    failed[name] = str(error)
                advance(name)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for worker in workers.values():
            worker.__exit__()
    figures = {
        name: Figure(name, tuple(taken), **facts[name], cores=tuple(cores[name]))
        for name, taken in samples.items()
        if name not in failed and taken
    }
    measured = Comparison(figures, failed, rounds, threads())
    if interrupted:
        raise Interrupted(measured)
    return measured


def work_of(candidate: Candidate) -> Runnable:
    """What a call of a competitor has to do, as a Runnable that does nothing; runs in a worker."""
    return replace(candidate.make(**candidate.arguments), call=print, on_device=None)


def order(names: Sequence[str], number: int) -> list[str]:
    """The order of the competitors in round `number`: forwards, then backwards, and so on.

    In one fixed order, a machine that steadily grows slower would slow the later ones more, in
    every round alike. So half of the rounds err to one side and half to the other.
    """
    return list(names) if number % 2 == 0 else list(reversed(names))


def _serve(
    connection: Connection, candidate: Candidate, sample_seconds: float, longest_call: float
) -> None:
    """The worker's side: build, find out how many calls make a sample, then take a sample whenever
    asked."""
    runnable = candidate.make(**candidate.arguments)
    timed = runnable.on_device or partial(seconds_per_call, runnable.call)
    calls, once = 1, timed(1)
    if once > longest_call:
        raise TooSlow(f"one call takes {once:.2g} s, more than the {longest_call:.2g} s allowed")
    while once * calls < sample_seconds:
        calls = max(calls + 1, min(calls * 10, math.ceil(1.2 * sample_seconds / max(once, 1e-9))))
        once = timed(calls)
    give_each_thread_a_core()
    facts = {
        "calls_per_sample": calls,
        "flops": runnable.flops,
        "bytes": runnable.bytes,
        "verified": runnable.verified,
        "bytes_written": runnable.bytes_written,
    }
    _wait_until_quiet()
    connection.send(("returned", facts))
    while True:
        connection.recv()
        if once < WARM_SECONDS:
            timed(math.ceil(WARM_SECONDS / once))
        used = time.process_time()
        seconds = timed(calls)
        used = (time.process_time() - used) / (seconds * calls)
        _wait_until_quiet()
        # On a device, the cores of this machine are not what counts.
        connection.send(("returned", (seconds, None if runnable.on_device else used)))


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


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy of the array that begins where a cache line does, as TVM demands."""
    line = 64
    memory = np.empty(array.nbytes + line, "uint8")
    start = -memory.ctypes.data % line
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def in_huge_pages(array: np.ndarray) -> Any:
    """The array as a TVM tensor in memory of NumPy's kind.

    NumPy asks the system for huge pages (2 MiB instead of 4 KiB, on Linux), TVM's own tensors have
    small ones. With small pages, their chance places in the caches make one process up to a third
    slower than another; and competitors are to have the same kind of memory.
    """
    import tvm

    return tvm.runtime.from_dlpack(aligned(array))


# -------------------------------------------------------------------------- the machine's own peaks
#
# Each takes the number of threads that work; None is all of them. The rest of TVM's pool then has
# nothing to do.


def make_fma_peak(workers: int | None = None) -> Runnable:
    """Independent chains of vector multiply-adds in registers: no memory is touched in the loop."""
    import tvm
    from tvm.script import tirx as T

    from tvm_practice.common.target import vector_unit

    workers = workers or threads()
    lanes, registers = vector_unit()
    chains, steps = registers // 2, 100_000

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((2, lanes), "float32"), y: T.Buffer((workers, chains, lanes), "float32")):
        T.func_attr({"tirx.noalias": True})
        for worker in range(workers):
            with T.sblock("worker"):
                w = T.axis.spatial(workers, worker)
                chain = T.sblock_alloc_buffer((chains, lanes), "float32", scope="local")
                for c in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        with T.sblock("start"):
                            vc, vl = T.axis.remap("SS", [c, lane])
                            # Each from elsewhere: of equal chains a compiler may keep only one.
                            chain[vc, vl] = x[0, vl] * T.Cast("float32", vc)
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

    function = _build_for(workers, main)
    x = tvm.runtime.tensor(np.array([[0.5] * lanes, [1.0] * lanes], "float32"))
    y = tvm.runtime.tensor(np.full((workers, chains, lanes), np.nan, "float32"))
    function(x, y)
    # chain = chain / 2 + 1 tends to 2, and in float32 reaches it.
    if not (y.numpy() == 2.0).all():
        raise RuntimeError("the FMA chain gave a wrong result; its rate means nothing")
    flops = 2.0 * workers * chains * lanes * steps
    return Runnable(lambda: function(x, y), flops=flops, verified=True)


def make_triad(workers: int | None = None, footprint: float = 192 * MIB) -> Runnable:
    """The stream triad a[i] = b[i] + s * c[i] (McCalpin 1995) on three arrays that fill `footprint`
    bytes, far beyond the caches unless told.

    Bytes are counted as STREAM does: two arrays read and one written, without the read that a write
    may cause. Each thread goes through two halves of its part at once, which a prefetcher follows.
    """
    from tvm import te
    from tvm.s_tir import Schedule

    from tvm_practice.common.target import build, vector_unit

    workers, lanes = workers or threads(), vector_unit()[0]
    together = workers * 2 * lanes
    length = max(1, round(footprint / 12 / together)) * together
    b, c = te.placeholder((length,), name="b"), te.placeholder((length,), name="c")
    a = te.compute((length,), lambda i: b[i] + c[i] * 3.0, name="a")
    sch = Schedule(te.create_prim_func([b, c, a]))
    (i,) = sch.get_loops(sch.get_sblock("a"))
    per_thread, half, step, lane = sch.split(i, [workers, 2, None, lanes], preserve_unit_iters=True)
    sch.reorder(per_thread, step, half, lane)
    sch.parallel(per_thread)
    sch.unroll(half)
    sch.vectorize(lane)
    function = build(sch.mod)
    tensors = [in_huge_pages(np.full(length, value, "float32")) for value in (1.0, 2.0, np.nan)]
    function(*tensors)
    if not (tensors[2].numpy() == 7.0).all():
        raise RuntimeError("the triad gave a wrong result; its rate means nothing")
    return Runnable(
        lambda: function(*tensors),
        flops=2.0 * length,
        bytes=12.0 * length,
        verified=True,
        bytes_written=4.0 * length,
    )


def make_read_sum(workers: int | None = None, footprint: float = 256 * MIB) -> Runnable:
    """The sum of an array of `footprint` bytes, far beyond the caches unless told: memory that is
    only read.

    Each thread reads two streams, as far apart as its part allows, which a prefetcher follows at
    once; each stream has four sums in registers.
    """
    from tvm.script import tirx as T

    from tvm_practice.common.target import vector_unit

    workers = workers or threads()
    lanes, _ = vector_unit()
    streams, sums = 2, 4
    steps = max(1, round(footprint / 4 / (workers * streams * sums * lanes)))

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((workers, streams, steps, sums, lanes), "float32"),
        y: T.Buffer((workers, streams, sums, lanes), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for worker in range(workers):
            with T.sblock("worker"):
                w = T.axis.spatial(workers, worker)
                total = T.sblock_alloc_buffer((streams, sums, lanes), "float32", scope="local")
                for s, c in T.grid(streams, sums):
                    for lane in T.vectorized(lanes):
                        with T.sblock("start"):
                            vs, vc, vl = T.axis.remap("SSS", [s, c, lane])
                            total[vs, vc, vl] = T.float32(0)
                for step in range(steps):
                    for s in T.unroll(streams):
                        for c in T.unroll(sums):
                            for lane in T.vectorized(lanes):
                                with T.sblock("add"):
                                    k, vs, vc, vl = T.axis.remap("RSSS", [step, s, c, lane])
                                    total[vs, vc, vl] = total[vs, vc, vl] + x[w, vs, k, vc, vl]
                for s, c in T.grid(streams, sums):
                    for lane in T.vectorized(lanes):
                        with T.sblock("store"):
                            vs, vc, vl = T.axis.remap("SSS", [s, c, lane])
                            y[w, vs, vc, vl] = total[vs, vc, vl]

    function = _build_for(workers, main)
    shape = (workers, streams, steps, sums, lanes)
    x = in_huge_pages(np.ones(shape, "float32"))
    y = in_huge_pages(np.full((workers, streams, sums, lanes), np.nan, "float32"))
    function(x, y)
    if not (y.numpy() == np.float32(steps)).all():
        raise RuntimeError("the sum gave a wrong result; its rate means nothing")
    length = float(math.prod(shape))
    return Runnable(lambda: function(x, y), flops=length, bytes=4.0 * length, verified=True)


def _build_for(workers: int, function: Any) -> Callable[..., None]:
    """Compile a function whose block "worker" is what each of `workers` threads does."""
    from tvm.s_tir import Schedule

    from tvm_practice.common.target import build

    sch = Schedule(function)
    if workers > 1:
        sch.parallel(*sch.get_loops(sch.get_sblock("worker")))
    return build(sch.mod)


PEAK_FMA = Candidate("FMA peak", make_fma_peak)
PEAK_TRIAD = Candidate("stream triad", make_triad)
PEAK_READ = Candidate("read sum", make_read_sum)
PEAKS = (PEAK_FMA, PEAK_TRIAD, PEAK_READ)
# The same at one thread, by name.
ONE_THREAD = {
    name: Candidate(name, peak.make, {"workers": 1})
    for peak in PEAKS
    for name in [f"{peak.name}, 1 thread"]
}


def bandwidth_roof(work: Figure | Runnable) -> Candidate:
    """The roof for this memory traffic: the triad writes a third of its bytes, the sum none; the
    nearer mix of the two is the one to compare with.

    It has the same footprint: what is called again and again finds some of its data in the caches,
    even where all of it would not fit, and so must its roof.
    """
    peak = PEAK_TRIAD if work.bytes_written > work.bytes / 6 else PEAK_READ
    return Candidate(peak.name, peak.make, {"footprint": work.bytes})
