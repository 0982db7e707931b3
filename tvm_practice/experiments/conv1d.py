"""What the lab on convolution shows: the loop nest after every step, and the ladder timed against
np.convolve and torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show, verify
from tvm_practice.common.cuda import device, facts
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable

EXERCISES = tuple(f"conv1d.{number}" for number in range(1, 6))
# The rungs, in the order of the lesson's `ladder`, and the exercise that each is the work of.
RUNGS = {
    "naive": "",
    "fewer terms": "conv1d.1",
    "no test": "conv1d.2",
    "vectorized": "conv1d.3",
    "parallel": "",
    "registers": "conv1d.4",
    "fewer loads": "conv1d.5",
}
BEST = "fewer loads"
OWNER = {exercise.LEARNER: "yours", exercise.REFERENCE: "reference"}

ON_GPU = ("conv1d.6", "conv1d.7", "conv1d.8")
GPU_RUNGS = ("a block each", "threads", "memory", "unrolled")
GPU_SIZE = (16384, 32)
GPU_SMALL = (1000, 32)  # for the simulator

# What the bench measures: M samples, N taps.
SIZES = ((4096, 128), (65536, 32))
QUICK_SIZES = ((256, 32),)  # two vectors of taps, with 16 lanes: the last rung needs them
GPU_SIZES = (GPU_SIZE, (1 << 22, 32))
GPU_QUICK_SIZES = (GPU_SMALL,)


def run(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    size = SIZES[0]  # microseconds a call: quick enough for any run
    measured = _ladder(session, size, whose)
    session.picture("ladder", lambda path: draw_ladder(path, size, measured))
    _key_question(session, size, measured)


def run_gpu(session) -> None:
    """The GPU's ladder, simulated; what each rung asks of memory."""
    whose = {known: session.exercise(known) for known in (*EXERCISES[:2], *ON_GPU)}
    M, N = GPU_SIZE
    session.only_at(f"{M} samples and {N} taps")
    show.heading(f"The ladder on a GPU, {M} samples, {N} taps, float32")
    found = {}
    for rung in GPU_RUNGS:
        with show.waiting(f"{rung} ..."):
            found[rung] = session.call(gpu_rung, rung, tuple(whose.items()), session.seed)
    facts.table(
        found,
        "Each run in the simulator on a small convolution, thread by thread, and verified; "
        "counted are the accesses of its middle block.",
    )
    each, threads, memory = (found[rung] for rung in ("a block each", "threads", "memory"))
    session.headline = f"{len(found)} kernels verified in the simulator, not timed"
    session.report["gpu"] = {
        name: {"bytes_read_per_flop": one.read_per_flop, "blocks": one.kernels[0].blocks}
        for name, one in found.items()
    }
    session.question(
        "A convolution uses each sample for every tap. Who fetches it, and how often?",
        [
            f"With a block for each result, {each.read_per_flop:.3g} bytes for an operation: a "
            "sector of 32 bytes for each 4 that a lone thread wants. With threads side by side "
            f"{threads.read_per_flop:.3g}: one request serves a warp, but every tap fetches its "
            "samples again.",
            f"In shared memory a sample is fetched once for each block, "
            f"{memory.read_per_flop:.3g} bytes for an operation; all else happens in the "
            "processor's own memory.",
        ],
    )


def _ladder(session, size: tuple[int, int], whose: dict[str, str]) -> Comparison:
    M, N = size
    show.heading(f"The ladder, {M} samples, {N} taps, float32")
    candidates = [
        PEAK_FMA,
        *ladder_candidates(size, session.seed, whose),
        *libraries(size, session.seed),
    ]
    measured = session.compare(candidates, what="the ladder")
    names = [one.name for one in candidates[1:] if one.name in measured]
    rows, previous = [], None
    for name in names:
        figure = measured[name]
        rows.append(
            (
                name,
                OWNER[whose[RUNGS[name]]] if RUNGS.get(name) else "-",
                show.seconds(figure.median_s),
                f"{figure.spread:.0%}",
                show.rate(figure.gflops),
                show.share(measured.share_of_peak(name)),
                "-" if previous is None else measured.verdict(name, previous).short(),
            )
        )
        previous = name if name in RUNGS and name != BEST else BEST
    show.table(
        ("version", "body ", "time", "spread", "GFLOP/s", "of FMA peak", "against the one before"),
        rows,
        f"The libraries are compared with {BEST!r}. Counted are {useful_flops(M, N):,.0f} "
        "operations, those of the definition; what a version does beyond them earns nothing. FMA "
        f"peak of {measured.threads} threads in the same rounds: "
        f"{show.rate(measured.peak_gflops)} GFLOP/s. Medians of up to {measured.rounds} paired "
        "rounds; every result verified.",
    )
    session.report |= {
        "size": size,
        "peaks": {"fma_gflops": measured.peak_gflops},
        "results": measured.as_json(),
    }
    if BEST in measured:
        session.headline = f"{show.seconds(measured[BEST].median_s)}"
        if "NumPy" in measured:
            session.headline += f", NumPy {show.seconds(measured['NumPy'].median_s)}"
    return measured


def _key_question(session, size: tuple[int, int], measured: Comparison) -> None:
    if not {BEST, "NumPy", "torch"} <= measured.figures.keys():
        return
    answer = [
        f"{measured.verdict(BEST, 'NumPy').sentence()}. "
        f"{measured.verdict(BEST, 'torch').sentence()}.",
        f"np.convolve computes each result by itself, as a dot product of up to {size[1]} terms: "
        "its vectors lie along k, so every result ends with adding up the lanes of one vector, it "
        "has few sums under way, and one thread. The ladder's vectors lie along i: they never have "
        "to be added up.",
    ]
    if {"vectorized", "parallel"} <= measured.figures.keys():
        answer.append(f"Threads: {measured.verdict('parallel', 'vectorized').sentence()}.")
    if {"registers", BEST} <= measured.figures.keys():
        answer.append(
            f"Loads: {measured.verdict(BEST, 'registers').sentence()}. The arithmetic is the same; "
            "where each multiply-add loaded its own samples, taps one vector apart now share them."
        )
    answer.append(
        f"What is left to {show.share(1.0)} of the FMA peak, from "
        f"{show.share(measured.share_of_peak(BEST))}, is probably the copies to P and from T, "
        "waking the threads, and the loads that remain; this run does not tell them apart."
    )
    session.question(
        "np.convolve is compiled C with vector instructions. What does it lack?", answer
    )


# -------------------------------------------------------------------------------------- competitors


def useful_flops(M: int, N: int) -> float:
    """A multiplication and an addition for each sample and tap."""
    return 2.0 * M * N


def ladder_candidates(size: tuple[int, int], seed: int, whose: dict[str, str]) -> list[Candidate]:
    common = {"M": size[0], "N": size[1], "seed": seed, "whose": whose}
    return [Candidate(rung, make_rung, {**common, "rung": rung}) for rung in RUNGS]


def libraries(size: tuple[int, int], seed: int) -> list[Candidate]:
    common = {"M": size[0], "N": size[1], "seed": seed}
    return [Candidate("NumPy", make_numpy, common), Candidate("torch", make_torch, common)]


def competitors(size: tuple[int, int], seed: int) -> list[Candidate]:
    """The ladder with reference bodies, its last rung as "hand", and the libraries."""
    *rungs, best = ladder_candidates(size, seed, dict.fromkeys(EXERCISES, REFERENCE))
    return [*rungs, Candidate("hand", best.make, best.arguments), *libraries(size, seed)]


def gpu_competitors(size: tuple[int, int], seed: int) -> list[Candidate]:
    """The GPU's ladder with reference bodies, its last rung as "hand", and torch (cuDNN)."""
    common = {"M": size[0], "N": size[1], "seed": seed}
    names = [*GPU_RUNGS[:-1], "hand"]
    return [
        *(
            Candidate(name, make_gpu_rung, {**common, "rung": rung})
            for name, rung in zip(names, GPU_RUNGS, strict=True)
        ),
        Candidate("torch (cuDNN)", make_gpu_torch, common),
    ]


# ---------------------------------------------------------------------------------- run in a worker


def inputs(M: int, N: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples and the taps that every competitor of one comparison is given."""
    rng = np.random.default_rng(seed)
    return verify.random_array(rng, M), verify.random_array(rng, N)


def _assert_right(got: np.ndarray, d: np.ndarray, w: np.ndarray) -> None:
    want = np.convolve(d.astype("float64"), w)
    magnitude = np.convolve(abs(d.astype("float64")), abs(w))
    verify.assert_close(got, want, magnitude, len(w), "C")


def _work(M: int, N: int) -> dict[str, float]:
    moved = 4.0 * (M + N + M + N - 1)
    return {"flops": useful_flops(M, N), "bytes": moved, "bytes_written": 4.0 * (M + N - 1)}


def _verified(call, got: np.ndarray, d: np.ndarray, w: np.ndarray) -> Runnable:
    _assert_right(got, d, w)
    return Runnable(call, verified=True, **_work(len(d), len(w)))


def make_rung(M: int, N: int, seed: int, whose: dict[str, str], rung: str) -> Runnable:
    import tvm

    from tvm_practice.common.target import build

    lesson = exercise.load_lesson("conv1d")
    bodies = {known: exercise.body(known, who) for known, who in whose.items()}
    function = build(lesson.ladder(M, N, bodies)[rung].mod)
    d, w = inputs(M, N, seed)
    tensors = [tvm.runtime.tensor(x) for x in (d, w, np.full(M + N - 1, np.nan, "float32"))]
    function(*tensors)
    return _verified(lambda: function(*tensors), tensors[2].numpy(), d, w)


def gpu_rung(rung: str, steps: tuple[tuple[str, str], ...], seed: int) -> facts.Facts:
    """A rung of the GPU's ladder: compiled at its full size, simulated and verified at a small
    one."""
    lesson = exercise.load_lesson("conv1d")
    bodies = {known: exercise.body(known, who) for known, who in steps}
    d, w = inputs(*GPU_SMALL, seed)

    def is_right(function) -> None:
        got = verify.run(function, (d, w), (len(d) + len(w) - 1,))
        _assert_right(got, d, w)

    full, small = (lesson.gpu_ladder(*size, bodies)[rung] for size in (GPU_SIZE, GPU_SMALL))
    M, N = GPU_SIZE
    work = (useful_flops(M, N), 4.0 * (M + N + M + N - 1))
    arrays = (d, w, np.full(len(d) + len(w) - 1, np.nan, "float32"))
    return facts.facts(full, small, arrays, is_right, useful_flops(*GPU_SMALL), work)


def make_gpu_rung(M: int, N: int, seed: int, rung: str, build: Any = device.Compiled) -> Runnable:
    lesson = exercise.load_lesson("conv1d")
    bodies = {known: exercise.body(known) for known in (*EXERCISES[:2], *ON_GPU)}
    d, w = inputs(M, N, seed)
    module = lesson.gpu_ladder(M, N, bodies)[rung].mod
    is_right = partial(_assert_right, d=d, w=w)
    return device.runnable(module, (d, w), (M + N - 1,), is_right, build, **_work(M, N))


def make_gpu_torch(M: int, N: int, seed: int) -> Runnable:
    import torch

    d, w = inputs(M, N, seed)

    def layer(signal, turned):
        return torch.nn.functional.conv1d(signal, turned, padding=N - 1)

    given = (d[None, None], w[::-1][None, None])
    return device.torch_runnable(
        layer, given, lambda got: _assert_right(got[0, 0], d, w), **_work(M, N)
    )


def make_numpy(M: int, N: int, seed: int) -> Runnable:
    d, w = inputs(M, N, seed)
    return _verified(lambda: np.convolve(d, w), np.convolve(d, w), d, w)


def make_torch(M: int, N: int, seed: int) -> Runnable:
    """torch's conv1d is a correlation: it is given the filter turned round."""
    import torch

    from tvm_practice.common.target import threads

    torch.set_num_threads(threads())
    d, w = inputs(M, N, seed)
    signal = torch.from_numpy(d)[None, None]
    turned = torch.from_numpy(w[::-1].copy())[None, None]

    def call():
        with torch.no_grad():
            return torch.nn.functional.conv1d(signal, turned, padding=N - 1)

    return _verified(call, call().numpy()[0, 0], d, w)


# ------------------------------------------------------------------------------------------ picture


def draw_ladder(path: Path, size: tuple[int, int], measured: Comparison) -> None:
    """The time of every version as a bar, logarithmic, with the libraries beside them."""
    names = [name for name in (*RUNGS, "NumPy", "torch") if name in measured]
    figure, axis = picture.blank(7.5, 0.45 * len(names) + 1.4)
    times = [measured[name].median_s * 1e6 for name in names]
    colors = ["tab:blue" if name in RUNGS else "tab:gray" for name in names]
    axis.barh(names, times, color=colors)
    for place, microseconds in enumerate(times):
        axis.text(microseconds * 1.08, place, f"{microseconds:,.3g} µs", va="center", fontsize=9)
    axis.set_xscale("log")
    axis.set_xlim(right=max(times) * 6)
    axis.invert_yaxis()
    axis.set_xlabel("microseconds per call, median")
    axis.set_title(f"Full convolution, {size[0]} samples, {size[1]} taps", fontsize=11)
    picture.save(figure, path)
