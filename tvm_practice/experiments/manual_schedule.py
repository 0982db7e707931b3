"""What phase 2 shows: the loop nest after every primitive, the ladder timed, and the order in which
memory is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, show, verify
from tvm_practice.common.cache import Hierarchy, Level
from tvm_practice.common.competitors import (
    inputs,
    libraries,
    make_torch_compile,
    runnable_matmul,
    work,
)
from tvm_practice.common.cuda import device
from tvm_practice.common.cuda import facts as cuda_facts
from tvm_practice.common.cuda.facts import Facts
from tvm_practice.common.cuda.kernels import by_default, kernels
from tvm_practice.common.cuda.resources import V100
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.loop_nest import LoopNest, loop_nest
from tvm_practice.common.target import register_tile, second_level_cache
from tvm_practice.common.timing import (
    PEAK_FMA,
    PEAK_TRIAD,
    Candidate,
    Comparison,
    Runnable,
    in_huge_pages,
)

Steps = tuple[tuple[str, str], ...]  # (exercise, whose body), in the order they are applied

RUNGS = {  # the ladder's steps; the lesson's own LADDER, which can only be read where TVM is loaded
    "2.1": "tile",
    "2.2": "vectorize",
    "2.3": "parallel",
    "2.4": "register tile",
    "2.5": "pack B",
}
GPU_RUNGS = {"2.6": "threads", "2.7": "shared memory", "2.8": "registers", "2.9": "pipeline"}
GPU_MULTIPLES = (64, 64, 16)  # of M, N, K: the lesson's tiles on a GPU
ADD_LENGTH = 1 << 24  # three arrays of 64 MiB: beyond most caches
ORDER_SIZE = 32  # the matmul whose accesses are drawn
CACHE_LINE_FLOATS = 16
CACHE_LINES = 32


def run(session) -> None:
    _vector_add(session)
    whose = {known: session.exercise(known) for known in ("2.1", "2.2", "2.3", "2.4", "2.5")}
    size = session.size(quick=512, full=1024)
    measured = _ladder(session, size, whose)
    _key_question(session, measured, whose)


def run_gpu(session) -> None:
    """The GPU's ladder, without a GPU: each step simulated, and what it asks of memory counted."""
    size = session.size(quick=1024, full=2048, multiples=GPU_MULTIPLES)
    show.heading("Worked: vector addition, a thread for each element")
    with show.waiting("vector addition ..."):
        before, after, source = session.call(gpu_vector_add)
    show.nest(after, before)
    show.say("The kernel that TVM makes of it, in CUDA C:")
    show.code(source, "cuda")
    whose = {known: session.exercise(known) for known in GPU_RUNGS}
    show.heading(f"The ladder, {size[0]} x {size[1]} x {size[2]}, float32, for a V100")
    found = {}
    for known, name in GPU_RUNGS.items():
        with show.waiting(f"{known} {name} ..."):
            found[f"{known} {name}"] = session.call(
                gpu_rung, known, size, tuple(whose.items()), session.seed
            )
    cuda_facts.table(
        found,
        "Each was run in the simulator on a small product, thread by thread, and its result "
        "verified.",
    )
    _gpu_answer(found)
    session.headline = f"{len(found)} kernels verified in the simulator, not timed"
    session.report["gpu"] = {
        name: {
            "grid": one.kernels[0].grid,
            "block": one.kernels[0].block,
            "shared_bytes": one.kernels[0].shared_bytes,
            "bytes_read_per_flop": one.read_per_flop,
            "coalescing": one.coalescing,
            "bank_rounds": one.bank_rounds,
            "verified": one.verified,
        }
        for name, one in found.items()
    }


def _gpu_answer(found: dict[str, Facts]) -> None:
    threads, shared, registers, last = found.values()
    balance = V100.bandwidth / V100.float32_peak
    show.question(
        "How many bytes does the product read from global memory for each operation?",
        [
            f"With a thread for each element, {threads.read_per_flop:.2g}: the warps of a block "
            "fetch the same rows of A and columns of B again and again.",
            f"A block that fetches its tiles once, together, needs {shared.read_per_flop:.2g}; "
            f"with 4 x 4 elements for each thread the tile is larger, and it is "
            f"{registers.read_per_flop:.2g}. That is what decides whether memory or arithmetic is "
            f"the limit: by its data sheet a V100 moves {V100.bandwidth / 1e9:,.0f} GB/s and "
            f"computes {V100.float32_peak / 1e9:,.0f} GFLOP/s, {balance:.2g} bytes for an "
            f"operation; {'still less' if balance < registers.read_per_flop else 'more'} than "
            "this. (The caches take a share of what is asked; how much, only a GPU tells.)",
            "The rounds that the banks of shared memory need for a request are then "
            f"{registers.bank_rounds:.3g} on the average, and {last.bank_rounds:.3g} once the rows "
            "of A_shared are spread.",
        ],
    )


def _vector_add(session) -> None:
    show.heading("Worked: vector addition, scheduled")
    with show.waiting("vector addition ..."):
        before, after = session.call(vector_add_nests)
    show.nest(after, before)
    candidates = [
        Candidate("default loop", make_vector_add, {"scheduled": False, "seed": session.seed}),
        Candidate("scheduled", make_vector_add, {"scheduled": True, "seed": session.seed}),
        PEAK_TRIAD,
    ]
    measured = session.compare(candidates, what="vector addition")
    roof = measured.peak_gbytes
    rows = []
    for name in ("default loop", "scheduled"):
        figure = measured[name]
        rows.append(
            (
                name,
                show.seconds(figure.median_s),
                show.rate(figure.gbytes),
                show.share(figure.gbytes / roof),
                f"{figure.spread:.0%}",
            )
        )
    show.table(
        ("vector addition", "time", "GB/s", "share of triad", "spread"),
        rows,
        f"{ADD_LENGTH:,} floats; this machine's stream triad, in the same rounds: "
        f"{show.rate(roof)} GB/s",
    )
    show.say(
        measured.verdict("scheduled", "default loop").sentence()
        + ". An addition per twelve bytes leaves nothing to "
        "compute: memory is the limit, and a schedule cannot go beyond it."
    )
    session.report["vector_add"] = measured.as_json()


def _ladder(session, size: tuple[int, int, int], whose: dict[str, str]) -> Comparison:
    M, N, K = size
    show.heading(f"The ladder, {M} x {N} x {K}, float32")
    candidates = [PEAK_FMA, *ladder_candidates(size, whose, session.seed)]
    measured = session.compare(candidates, what="the ladder")
    names = [candidate.name for candidate in candidates[1:] if candidate.name in measured]
    rows, previous = [], None
    for name in names:
        figure = measured[name]
        known = name.partition(" ")[0]
        body = (
            {"learner": "yours", "reference": "reference"}[whose[known]] if known in whose else "-"
        )
        gain = "-" if previous is None else _gain(measured.verdict(name, previous))
        rows.append(
            (
                name,
                body,
                show.seconds(figure.median_s),
                f"{figure.spread:.0%}",
                show.rate(figure.gflops),
                show.share(measured.share_of_peak(name)),
                gain,
            )
        )
        previous = name
    show.table(
        (
            "after step",
            "body ",
            "time",
            "spread",
            "GFLOP/s",
            "of FMA peak",
            "against the step before",
        ),
        rows,
        f"FMA peak of {measured.threads} threads, measured in the same rounds: "
        f"{show.rate(measured.peak_gflops)} GFLOP/s. Medians of "
        f"up to {measured.rounds} paired rounds; every result verified.",
    )
    best = max(names, key=lambda name: measured[name].gflops)
    session.report["size"] = size
    session.report["peaks"] = {"fma_gflops": measured.peak_gflops}
    session.report["results"] = measured.as_json()
    share = show.share(measured.share_of_peak(best))
    session.headline = f"{show.rate(measured[best].gflops)} GFLOP/s, {share} of FMA peak"
    if "naive" in measured:
        gain = measured["naive"].median_s / measured[best].median_s
        session.headline += f", {show.times(gain)} naive"
    return measured


def _gain(verdict) -> str:
    if verdict.word == "cannot tell":
        return "cannot tell"
    ratio = verdict.ratio if verdict.word == "faster" else 1 / verdict.ratio
    return f"{show.times(ratio)} {verdict.word}"


def _key_question(session, measured: Comparison, whose: dict[str, str]) -> None:
    with show.waiting("following every access ..."):
        orders = {
            "untiled": session.call(access_order, ()),
            "tiled": session.call(access_order, (("2.1", whose["2.1"]),)),
        }
    session.picture("access_pattern", lambda path: draw_access_pattern(path, orders))
    untiled, tiled = (misses(orders[name]) for name in ("untiled", "tiled"))
    answer = [
        f"At {ORDER_SIZE} x {ORDER_SIZE} x {ORDER_SIZE}, with a simulated cache of {CACHE_LINES} "
        "lines of 64 bytes, the untiled order loads "
        f"a line {sum(untiled.values()):,} times (A {untiled['A']:,}, B {untiled['B']:,}, C "
        f"{untiled['C']:,}), the tiled order "
        f"{sum(tiled.values()):,} times (A {tiled['A']:,}, B {tiled['B']:,}, C {tiled['C']:,}): "
        "the same multiplications, in an "
        "order that uses a line completely while it is there."
    ]
    if {"naive", "2.1 tile"} <= measured.figures.keys():
        answer.append(
            "Measured at the size above, with one thread and no vector loop yet: "
            f"{measured.verdict('2.1 tile', 'naive').sentence()}."
        )
    answer.append(
        "The picture shows the order of the touches: dark first, bright last. Untiled, B is swept "
        "once for every row of C."
    )
    show.question("Why does tiling (split and reorder) help the cache?", answer)


# ---------------------------------------------------------------------------------- run in a worker


def scheduled_matmul(M: int, N: int, K: int, steps: Steps):
    """The matmul after `steps` of the ladder, as a Schedule."""
    lesson = exercise.load_lesson("manual_schedule")
    sch = lesson.matmul(M, N, K)
    for known, whose in steps:
        lesson.climb(sch, known, exercise.body(known, whose), *register_tile(M, N))
    return sch


def make_step(M: int, N: int, K: int, seed: int, steps: Steps) -> Runnable:
    """The verified matmul after `steps`, ready to be timed."""
    return runnable_matmul(scheduled_matmul(M, N, K, steps), M, N, K, seed)


def ladder_candidates(
    size: tuple[int, int, int], whose: dict[str, str], seed: int
) -> list[Candidate]:
    """Naive and every step, each on top of the ones before. A step that is missing in `whose` is
    the reference's."""
    M, N, K = size
    common = {"M": M, "N": N, "K": K, "seed": seed}
    candidates = [Candidate("naive", make_step, {**common, "steps": ()})]
    steps: Steps = ()
    for known, name in RUNGS.items():
        steps = (*steps, (known, whose.get(known, REFERENCE)))
        candidates.append(Candidate(f"{known} {name}", make_step, {**common, "steps": steps}))
    return candidates


def hand_schedule(M: int, N: int, K: int):
    """The best that the references make of a size, and in words what that is.

    A single row is read once. Otherwise the ladder, without packing where the second-level cache
    holds all of B and nothing needs to be filled up.
    """
    if M == 1:
        sch = exercise.load_lesson("manual_schedule").matmul(M, N, K)
        exercise.load_lesson("manual_schedule").schedule_row(sch)
        return sch
    steps = [(known, REFERENCE) for known in RUNGS]
    rows, columns = register_tile(M, N)
    if M % rows == N % columns == 0 and second_level_cache() >= 4 * N * K:
        steps.pop()
    return scheduled_matmul(M, N, K, tuple(steps))


def make_hand(M: int, N: int, K: int, seed: int) -> Runnable:
    return runnable_matmul(hand_schedule(M, N, K), M, N, K, seed)


# What the bench measures.
SIZES = (
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (1000, 517, 333),
    (4096, 64, 512),
    (1, 4096, 4096),
)
QUICK_SIZES = ((64, 64, 64), (61, 35, 24), (1, 256, 256))


def competitors(size: tuple[int, int, int], seed: int) -> list[Candidate]:
    """Every rung of the ladder, the best of the hand-written schedules, and the libraries."""
    arguments = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        *ladder_candidates(size, {}, seed),
        Candidate("hand", make_hand, arguments),
        *libraries(**arguments),
        Candidate("torch.compile", make_torch_compile, arguments),
    ]


# What it measures on a GPU. The last rung has two more tilings there: with more elements for each
# thread than the lesson's 4 x 4, shared memory has less to deliver for an operation. Along j there
# are four of them in any case, as many as one instruction loads.
GPU_SIZES = ((2048, 2048, 2048), (1024, 2048, 512))
GPU_QUICK_SIZES = ((256, 256, 256),)
GPU_TILINGS = {  # threads, elements of each, depth, width
    "2.9, tile 128 x 128": ((8, 32), (16, 4), 16, 4),
    "hand": ((16, 16), (8, 4), 16, 4),
}


def gpu_competitors(size: tuple[int, int, int], seed: int) -> list[Candidate]:
    """Every rung of the GPU's ladder, the last one's tilings, TVM's default schedule, cuBLAS."""
    arguments = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        *(
            Candidate(f"{known} {name}", make_gpu_step, {**arguments, "last": known})
            for known, name in GPU_RUNGS.items()
        ),
        *(
            Candidate(name, make_gpu_step, {**arguments, "last": "2.9", "tiling": tiling})
            for name, tiling in GPU_TILINGS.items()
        ),
        Candidate("dlight", make_gpu_default, arguments),
        Candidate("torch (cuBLAS)", make_gpu_torch, arguments),
    ]


def make_gpu_step(
    M: int,
    N: int,
    K: int,
    seed: int,
    last: str,
    tiling: tuple | None = None,
    build: Any = device.Compiled,
) -> Runnable:
    """The product after the GPU's ladder up to `last`, on the device."""
    steps = tuple((known, REFERENCE) for known in GPU_RUNGS)
    return _on_gpu(gpu_schedule(last, (M, N, K), steps, tiling).mod, M, N, K, seed, build)


def make_gpu_default(M: int, N: int, K: int, seed: int, build: Any = device.Compiled) -> Runnable:
    """What TVM's own rules make of the product."""
    module = by_default(exercise.load_lesson("manual_schedule").matmul(M, N, K).mod)
    return _on_gpu(module, M, N, K, seed, build)


def _on_gpu(module: Any, M: int, N: int, K: int, seed: int, build: Any) -> Runnable:
    given = inputs(M, N, K, seed)
    is_right = _product_is_right(*given)
    return device.runnable(module, given, (M, N), is_right, build, **work(M, N, K))


def make_gpu_torch(M: int, N: int, K: int, seed: int) -> Runnable:
    import torch

    given = inputs(M, N, K, seed)
    return device.torch_runnable(torch.mm, given, _product_is_right(*given), **work(M, N, K))


def _product_is_right(a: np.ndarray, b: np.ndarray) -> Callable[[np.ndarray], None]:
    want, magnitude = verify.matmul_reference(a, b)
    return lambda c: verify.assert_close(c, want, magnitude, a.shape[1], "C")


def vector_add_nests() -> tuple[LoopNest, LoopNest]:
    from tvm_practice.common.target import threads, vector_unit

    lesson = exercise.load_lesson("manual_schedule")
    sch = lesson.vector_add(ADD_LENGTH)
    before = loop_nest(sch.mod)
    lesson.schedule_vector_add(sch, threads(), vector_unit()[0])
    return before, loop_nest(sch.mod)


def make_vector_add(scheduled: bool, seed: int) -> Runnable:

    from tvm_practice.common.target import build, threads, vector_unit

    lesson = exercise.load_lesson("manual_schedule")
    sch = lesson.vector_add(ADD_LENGTH)
    if scheduled:
        lesson.schedule_vector_add(sch, threads(), vector_unit()[0])
    function = build(sch.mod)
    rng = np.random.default_rng(seed)
    a, b = verify.random_array(rng, ADD_LENGTH), verify.random_array(rng, ADD_LENGTH)
    tensors = [in_huge_pages(x) for x in (a, b, np.full(ADD_LENGTH, np.nan, "float32"))]
    function(*tensors)
    verify.assert_close(tensors[2].numpy(), a + b.astype("float64"), np.abs(a) + np.abs(b), 1, "C")
    return Runnable(
        lambda: function(*tensors), flops=ADD_LENGTH, bytes=12.0 * ADD_LENGTH, verified=True
    )


def gpu_vector_add() -> tuple[LoopNest, LoopNest, str]:
    """The vector addition before and after it is bound, and its kernel."""
    lesson = exercise.load_lesson("manual_schedule")
    sch = lesson.vector_add(ADD_LENGTH)
    before = loop_nest(sch.mod)
    lesson.bind_vector_add(sch, 256)
    (kernel,) = kernels(sch.mod)
    return before, loop_nest(sch.mod), kernel.source


def gpu_schedule(last: str, size: tuple[int, int, int], steps: Steps, tiling: tuple | None = None):
    """The matmul after the GPU's ladder up to the rung `last`, as a Schedule; with the lesson's
    tiling unless told."""
    lesson = exercise.load_lesson("manual_schedule")
    own = lesson.ONE_EACH if last in ("2.6", "2.7") else lesson.TILE_EACH
    tiling = lesson.Tiling(*tiling) if tiling else own
    sch = lesson.matmul(*size)
    for known, whose in steps:
        lesson.climb_gpu(sch, known, exercise.body(known, whose), tiling)
        if known == last:
            break
    return sch


def gpu_rung(last: str, size: tuple[int, int, int], steps: Steps, seed: int) -> Facts:
    """What can be said of a rung of the GPU's ladder without a GPU."""
    return gpu_facts(lambda size: gpu_schedule(last, size, steps), size, seed)


def gpu_facts(
    schedule: Callable[[tuple[int, int, int]], Any], size: tuple[int, int, int], seed: int
) -> Facts:
    """What can be said of a matmul's schedule without a GPU: run with two tiles along each side and
    two pieces, verified, its accesses counted."""
    lesson = exercise.load_lesson("manual_schedule")
    M, N, K = (2 * side for side in lesson.fits(lesson.TILE_EACH))
    rng = np.random.default_rng(seed)
    a, b = verify.random_array(rng, M, K), verify.random_array(rng, K, N)

    def is_right(function) -> None:
        want, magnitude = verify.matmul_reference(a, b)
        verify.assert_close(verify.run(function, (a, b), (M, N)), want, magnitude, K, "C")

    arrays = (a, b, np.full((M, N), np.nan, "float32"))
    full, small = schedule(size), schedule((M, N, K))
    rows, columns, depth = size
    moved = 4.0 * (rows * depth + depth * columns + rows * columns)
    estimated = (2.0 * rows * columns * depth, moved)
    return cuda_facts.facts(full, small, arrays, is_right, 2.0 * M * N * K, estimated)


def access_order(steps: Steps) -> np.ndarray:
    """The (i, j, k) that the block "C" visits, in the order of its scheduled loops: an array of
    shape (visits, 3)."""
    sch = scheduled_matmul(ORDER_SIZE, ORDER_SIZE, ORDER_SIZE, steps)
    block = sch.get(sch.get_sblock("C"))
    realize = _realize_of(sch.mod["main"].body, block.name_hint)
    loops = [sch.get(loop) for loop in sch.get_loops(sch.get_sblock("C"))]
    names = [loop.loop_var.name for loop in loops]
    grid = np.meshgrid(*[np.arange(int(loop.extent)) for loop in loops], indexing="ij")
    values = {name: axis.ravel() for name, axis in zip(names, grid, strict=True)}
    # The bindings are index arithmetic (i_0 * 8 + i_1): as text they are Python, and NumPy
    # evaluates them for all iterations.
    return np.stack([eval(str(value), {}, values) for value in realize.iter_values], axis=1)


def _realize_of(statement, name: str):
    """The SBlockRealize of a block."""
    import tvm_ffi
    from tvm import s_tir

    found = []

    def look(realize) -> None:
        if realize.block.name_hint == name:
            found.append(realize)

    tvm_ffi.structural_walk(statement, (s_tir.SBlockRealize, look))
    return found[0]


# ---------------------------------------------------------------------------------------- the cache


def misses(order: np.ndarray) -> dict[str, int]:
    """Lines of A, B and C that a small cache loads when the matmul visits (i, j, k) in this order.

    Fully associative, least recently used out first; every visit reads A[i, k] and B[k, j] and
    updates C[i, j].
    """
    hierarchy = Hierarchy([Level("L1", 4 * CACHE_LINE_FLOATS, 1, CACHE_LINES)])
    lines = ORDER_SIZE**2 // CACHE_LINE_FLOATS  # of one matrix
    count = {"A": 0, "B": 0, "C": 0}
    for i, j, k in order.tolist():
        for number, (name, row, column) in enumerate((("A", i, k), ("B", k, j), ("C", i, j))):
            line = number * lines + (row * ORDER_SIZE + column) // CACHE_LINE_FLOATS
            count[name] += hierarchy.touch(line)
    return count


def draw_access_pattern(path: Path, orders: dict[str, np.ndarray]) -> None:
    """One row of three pictures for each order: when each element of A, B and C is touched.

    Shown are the first ORDER_SIZE^3 / 8 visits; what has not been touched by then is white.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = ORDER_SIZE**3 // 8
    figure, axes = plt.subplots(
        len(orders), 3, figsize=(9, 3.2 * len(orders)), layout="constrained"
    )
    for row, (name, order) in zip(axes, orders.items(), strict=True):
        count = misses(order)
        for axis, (matrix, first, second) in zip(
            row, (("A", 0, 2), ("B", 2, 1), ("C", 0, 1)), strict=True
        ):
            touched = np.full((ORDER_SIZE, ORDER_SIZE), np.nan)
            touched[order[:shown, first], order[:shown, second]] = np.arange(shown)
            image = axis.imshow(touched, cmap="viridis", vmin=0, vmax=shown)
            axis.set_title(f"{matrix}, {name}: {count[matrix]:,} lines loaded", fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.colorbar(
        image, ax=axes, label=f"last touched at visit ... of the first {shown:,}", shrink=0.8
    )
    figure.suptitle(
        f"Matmul {ORDER_SIZE} x {ORDER_SIZE} x {ORDER_SIZE}: the order in which elements are "
        "touched "
        f"(all visits counted, cache of {CACHE_LINES} lines)",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
