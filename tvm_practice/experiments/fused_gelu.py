"""What the lab on a fused epilogue shows: the loop nest, what fusion and a vectorizable tanh are
each worth, and the prediction beside the measurement."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show, verify
from tvm_practice.common.competitors import flops
from tvm_practice.common.cuda import device, facts
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.target import register_tile, second_level_cache
from tvm_practice.common.timing import (
    PEAK_FMA,
    PEAK_TRIAD,
    Candidate,
    Comparison,
    Runnable,
    in_huge_pages,
)
from tvm_practice.experiments.manual_schedule import make_hand

EXERCISES = tuple(f"fused_gelu.{number}" for number in range(1, 5))
PLAIN, FUSED = "plain matmul", "fused"
SEPARATE, LIBRARY_TANH = "three passes", "fused, tirx.tanh"
OWNER = {LEARNER: "yours", REFERENCE: "reference"}
# What the epilogue takes for each element, counted in the expression: the bias 1, the GELU's own 8,
# the clamp 2, the two polynomials 6 and 3 multiply-adds, and x * x, a product and a division.
EPILOGUE_OPERATIONS = 1 + 8 + 2 + 2 * (6 + 3) + 3

ON_GPU = "fused_gelu.5"
TWO_KERNELS, ONE_KERNEL = "two kernels", "one kernel"
GPU_SIZE = (512, 3072, 768)  # a transformer's first feed-forward layer

# What the bench measures: M, N, K; the second is a transformer's first feed-forward layer.
SIZES = ((1024, 1024, 1024), (512, 3072, 768))
QUICK_SIZES = ((64, 64, 32),)
GPU_SIZES, GPU_QUICK_SIZES = (GPU_SIZE,), ((128, 128, 64),)

Size = tuple[int, int, int]


def run(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    size = session.size(quick=512, full=1024)
    measured = _compare(session, size, whose)
    _key_question(session, size, measured, whose)


def run_gpu(session) -> None:
    """The fused kernel beside the two, simulated; the bytes that each asks of global memory."""
    whose = {known: session.exercise(known) for known in (*EXERCISES[:2], ON_GPU)}
    session.only_at(" x ".join(map(str, GPU_SIZE)))
    found = {}
    for name in (TWO_KERNELS, ONE_KERNEL):
        with show.waiting(f"{name} ..."):
            found[name] = session.call(gpu_kernels, name, tuple(whose.items()), session.seed)
    show.heading("gelu(A @ B + bias) on a GPU, {} x {} x {}, float32".format(*GPU_SIZE))
    facts.table(found, "Run in the simulator on a small product and verified; see phase 2.")
    two, one = found.values()
    M, N, K = GPU_SIZE
    session.headline = f"{len(one.kernels)} kernel instead of {len(two.kernels)}, verified"
    session.report["gpu"] = {
        name: {"kernels": len(made.kernels), "bytes_read_per_flop": made.read_per_flop}
        for name, made in found.items()
    }
    session.question(
        "In a fused kernel, what does the GELU still cost?",
        [
            f"Two kernels are two launches, and C goes to memory and back: at {M} x {N} "
            f"{2 * 4 * M * N / 1e6:.3g} MB, beside {4 * (M * K + K * N + M * N) / 1e6:.3g} MB that "
            "any version has to move once. In one kernel it costs arithmetic alone, on numbers "
            "that are in registers already. How much of that hides, a GPU would tell.",
        ],
    )


def _compare(session, size: Size, whose: dict[str, str]) -> Comparison:
    show.heading("gelu(A @ B + bias), {} x {} x {}, float32".format(*size))
    ours = _ours(size, session.seed, whose)
    candidates = [PEAK_FMA, PEAK_TRIAD, *ours, *_torch(size, session.seed)]
    measured = session.compare(candidates, what="fused and not")
    names = [one.name for one in candidates[2:] if one.name in measured]
    show.table(
        ("version", "time", "spread", "GFLOP/s", "of FMA peak", f"against {FUSED}"),
        [
            (
                name,
                show.seconds(measured[name].median_s),
                f"{measured[name].spread:.0%}",
                show.rate(measured[name].gflops),
                show.share(measured.share_of_peak(name)),
                "-"
                if name == FUSED or FUSED not in measured
                else measured.verdict(name, FUSED).short(),
            )
            for name in names
        ],
        "Counted are the operations of the product alone, so that the rows can be compared with "
        f"the plain one. The fused kernel is built from: {_owners(whose)}. FMA peak of "
        f"{measured.threads} threads in the same rounds: {show.rate(measured.peak_gflops)} "
        f"GFLOP/s. Medians of up to {measured.rounds} paired rounds; every result verified.",
    )
    session.report |= {
        "size": size,
        "peaks": {"fma_gflops": measured.peak_gflops, "triad_gbytes": measured.peak_gbytes},
        "results": measured.as_json(),
    }
    if {PLAIN, FUSED} <= measured.figures.keys():
        share = measured[PLAIN].median_s / measured[FUSED].median_s
        session.headline = f"fused, at {share:.0%} of the plain product's speed"
    session.picture("speed", lambda path: draw_speed(path, size, measured, names))
    return measured


def draw_speed(path: Path, size: Size, measured: Comparison, names: list[str]) -> None:
    """Each version's speed, in operations of the product alone, against the FMA peak."""
    figure, axes = picture.blank(8, 3.2)
    colors = ["tab:orange" if name == FUSED else "tab:blue" for name in names]
    bars = axes.barh(names, [measured[name].gflops for name in names], color=colors)
    axes.bar_label(bars, [show.rate(measured[name].gflops) for name in names], padding=4)
    axes.axvline(measured.peak_gflops, color="tab:red", linestyle="--")
    axes.text(measured.peak_gflops, -0.75, "FMA peak", color="tab:red", ha="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * measured.peak_gflops)
    axes.set_xlabel("GFLOP/s of the product, gelu(A @ B + bias), {} x {} x {}".format(*size))
    picture.save(figure, path)


def _owners(whose: dict[str, str]) -> str:
    return ", ".join(f"{known} {OWNER[whose[known]]}" for known in EXERCISES[:3])


def _key_question(session, size: Size, measured: Comparison, whose: dict[str, str]) -> None:
    if not {PLAIN, FUSED, SEPARATE, LIBRARY_TANH} <= measured.figures.keys():
        return
    rates = (measured[PLAIN].gflops, measured.peak_gbytes)
    fused, separate = session.call(
        _predict, whose["fused_gelu.4"], size, EPILOGUE_OPERATIONS, *rates
    )
    show.table(
        ("", "predicted", "measured"),
        [
            ("fused", show.seconds(fused), show.seconds(measured[FUSED].median_s)),
            ("three passes", show.seconds(separate), show.seconds(measured[SEPARATE].median_s)),
        ],
        f"By fused_gelu.4 ({OWNER[whose['fused_gelu.4']]}), from {EPILOGUE_OPERATIONS} operations "
        "for each element, the speed of the plain product, and the bandwidth of a triad over "
        "arrays far larger than the caches.",
    )
    M, N, K = size
    share = EPILOGUE_OPERATIONS / (2 * K)
    answer = [
        f"{measured.verdict(FUSED, PLAIN).sentence()}. The epilogue's arithmetic is {share:.1%} of "
        "the product's.",
        f"{measured.verdict(FUSED, SEPARATE).sentence()}. The passes move the "
        f"{4 * M * N / 1e6:.2g} MB of G four times. Where the prediction is too pessimistic, the "
        "last-level cache holds what the first pass wrote, and no pass goes to memory at all.",
        f"{measured.verdict(FUSED, LIBRARY_TANH).sentence()}: fusion alone is not enough. The "
        "calls of expf take the vectors apart; they may well cost more than the passes that fusion "
        "saves.",
    ]
    session.question("What does the GELU still cost, and where has the rest gone?", answer)


# -------------------------------------------------------------------------------------- competitors


def _ours(size: Size, seed: int, whose: dict[str, str]) -> list[Candidate]:
    common = dict(zip("MNK", size, strict=True), seed=seed)
    built = {**common, "whose": whose}
    return [
        Candidate(PLAIN, make_hand, common),
        Candidate(SEPARATE, make_separate, built),
        Candidate(LIBRARY_TANH, make_fused, {**built, "library": True}),
        Candidate(FUSED, make_fused, {**built, "library": False}),
    ]


def _torch(size: Size, seed: int) -> list[Candidate]:
    common = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        Candidate("torch", make_torch, {**common, "compiled": False}),
        Candidate("torch.compile", make_torch, {**common, "compiled": True}),
    ]


def competitors(size: Size, seed: int) -> list[Candidate]:
    """The versions with reference bodies, the fused one as "hand", and torch."""
    *others, best = _ours(size, seed, dict.fromkeys(EXERCISES, REFERENCE))
    return [*others, Candidate("hand", best.make, best.arguments), *_torch(size, seed)]


def gpu_competitors(size: Size, seed: int) -> list[Candidate]:
    """The layer in two kernels and in one, and torch's eager, which starts two."""
    common = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        Candidate(TWO_KERNELS, make_gpu, {**common, "name": TWO_KERNELS}),
        Candidate("hand", make_gpu, {**common, "name": ONE_KERNEL}),
        Candidate("torch (cuBLAS)", make_gpu_torch, common),
    ]


# ---------------------------------------------------------------------------------- run in a worker


def _predict(whose: str, size: Size, operations: int, gflops: float, gbytes: float):
    return exercise.body("fused_gelu.4", whose)(*size, operations, gflops, gbytes)


def inputs(M: int, N: int, K: int, seed: int) -> list[np.ndarray]:
    """A, B scaled so that the product has the variance of A, and the bias."""
    rng = np.random.default_rng(seed)
    b = verify.random_array(rng, K, N) / np.float32(math.sqrt(K))
    return [verify.random_array(rng, M, K), b, verify.random_array(rng, N)]


def assert_right(got: np.ndarray, a: np.ndarray, b: np.ndarray, bias: np.ndarray) -> None:
    c, magnitude = verify.matmul_reference(a, b)
    x = c + bias
    want = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    # The GELU changes by at most 1.13 times what its argument changes by; the 1 is for tanh's own.
    verify.assert_close(got, want, 1.2 * (magnitude + abs(bias)) + 1.0, a.shape[1], "G")


def _work(M: int, N: int, K: int) -> dict[str, float]:
    moved = 4.0 * (M * K + K * N + N + M * N)
    return {"flops": flops(M, N, K), "bytes": moved, "bytes_written": 4.0 * M * N}


def _runnable(call, got: np.ndarray, a: np.ndarray, b: np.ndarray, bias: np.ndarray) -> Runnable:
    assert_right(got, a, b, bias)
    return Runnable(call, verified=True, **_work(*got.shape, a.shape[1]))


def _compiled(sch, M: int, N: int, K: int, seed: int) -> Runnable:

    from tvm_practice.common.target import build

    function = build(sch.mod)
    given = inputs(M, N, K, seed)
    out = np.full((M, N), np.nan, "float32")
    tensors = [in_huge_pages(array) for array in (*given, out)]
    function(*tensors)
    return _runnable(lambda: function(*tensors), tensors[3].numpy(), *given)


def make_fused(M: int, N: int, K: int, seed: int, whose: dict[str, str], library: bool) -> Runnable:
    """Everything in one pass, with the tanh of the lab or with TVM's."""
    return _compiled(fused_schedule(M, N, K, whose, library), M, N, K, seed)


def fused_schedule(M: int, N: int, K: int, whose: dict[str, str], library: bool) -> Any:
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    lesson = exercise.load_lesson("fused_gelu")
    tanh = tirx.tanh if library else exercise.body("fused_gelu.1", whose["fused_gelu.1"])
    expression = exercise.body("fused_gelu.2", whose["fused_gelu.2"])
    tensors = expression(M, N, K, lambda x: lesson.gelu(x, tanh))
    sch = Schedule(te.create_prim_func(tensors))
    rows, columns = register_tile(M, N)
    lesson.ladder(sch, rows, columns)
    exercise.body("fused_gelu.3", whose["fused_gelu.3"])(sch)
    if _worth_packing(M, N, K, rows, columns):
        lesson.pack(sch, columns)
    return sch


def _worth_packing(M: int, N: int, K: int, rows: int, columns: int) -> bool:
    """As the plain product, `make_hand`, decides it: not where the second-level cache holds B and
    nothing has to be filled up."""
    return bool(M % rows or N % columns) or second_level_cache() < 4 * N * K


def make_separate(M: int, N: int, K: int, seed: int, whose: dict[str, str]) -> Runnable:
    """The product by the ladder of phase 2, then the bias and the GELU, each a pass by itself that
    is vectorized and shared out."""
    from tvm import te
    from tvm.s_tir import Schedule

    lesson = exercise.load_lesson("fused_gelu")
    tanh = exercise.body("fused_gelu.1", whose["fused_gelu.1"])
    A, B = te.placeholder((M, K), name="A"), te.placeholder((K, N), name="B")
    bias = te.placeholder((N,), name="bias")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    D = te.compute((M, N), lambda i, j: C[i, j] + bias[j], name="D")
    G = te.compute((M, N), lambda i, j: lesson.gelu(D[i, j], tanh), name="G")
    sch = Schedule(te.create_prim_func([A, B, bias, G]))
    rows, columns = register_tile(M, N)
    lesson.ladder(sch, rows, columns)
    exercise.load_lesson("manual_schedule")
    exercise.body("2.4")(sch)
    if _worth_packing(M, N, K, rows, columns):
        lesson.pack(sch, columns)
    for name in "DG":
        i, j = sch.get_loops(sch.get_sblock(name))
        piece, lane = sch.split(j, [None, columns])
        sch.parallel(i)
        sch.vectorize(lane)
        sch.annotate(piece, "pragma_loop_partition_hint", True)
    return _compiled(sch, M, N, K, seed)


def gpu_schedule(name: str, size: Size, whose: dict[str, str]) -> Any:
    """The layer after phase 2's GPU ladder: G in a kernel of its own, or fused by ON_GPU."""
    from tvm import te
    from tvm.s_tir import Schedule

    lesson = exercise.load_lesson("fused_gelu")
    phase = exercise.load_lesson("manual_schedule")
    tanh = exercise.body("fused_gelu.1", whose["fused_gelu.1"])
    expression = exercise.body("fused_gelu.2", whose["fused_gelu.2"])
    sch = Schedule(te.create_prim_func(expression(*size, lambda x: lesson.gelu(x, tanh))))
    for known in phase.GPU_LADDER:
        phase.climb_gpu(sch, known, exercise.body(known))
    if name == ONE_KERNEL:
        exercise.body(ON_GPU, whose[ON_GPU])(sch)
    else:
        block, thread = sch.split(sch.fuse(*sch.get_loops(sch.get_sblock("G"))), [None, 256])
        sch.bind(block, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
    return sch


def make_gpu(
    M: int, N: int, K: int, seed: int, name: str, build: Any = device.Compiled
) -> Runnable:
    whose = dict.fromkeys((*EXERCISES, ON_GPU), REFERENCE)
    given = inputs(M, N, K, seed)
    module = gpu_schedule(name, (M, N, K), whose).mod

    def is_right(got: np.ndarray) -> None:
        assert_right(got, *given)

    return device.runnable(module, given, (M, N), is_right, build, **_work(M, N, K))


def make_gpu_torch(M: int, N: int, K: int, seed: int) -> Runnable:
    import torch

    def layer(a, b, bias):
        return torch.nn.functional.gelu(torch.addmm(bias, a, b), approximate="tanh")

    given = inputs(M, N, K, seed)
    return device.torch_runnable(
        layer, given, lambda got: assert_right(got, *given), **_work(M, N, K)
    )


def gpu_kernels(name: str, steps: tuple[tuple[str, str], ...], seed: int) -> facts.Facts:
    """What can be said of the layer without a GPU, in two kernels or in one."""
    whose = dict(steps)
    phase = exercise.load_lesson("manual_schedule")
    M, N, K = (2 * side for side in phase.fits(phase.TILE_EACH))
    a, b, bias = inputs(M, N, K, seed)

    def is_right(function) -> None:
        got = verify.run(function, (a, b, bias), (M, N))
        assert_right(got, a, b, bias)

    arrays = (a, b, bias, np.full((M, N), np.nan, "float32"))
    full, small = (gpu_schedule(name, size, whose) for size in (GPU_SIZE, (M, N, K)))
    whole = _work(*GPU_SIZE)
    estimated = (whole["flops"], whole["bytes"])
    return facts.facts(full, small, arrays, is_right, flops(M, N, K), estimated)


def make_torch(M: int, N: int, K: int, seed: int, compiled: bool) -> Runnable:
    """torch's own, eager or through torch.compile, which needs a C++ compiler."""
    import torch

    from tvm_practice.common.target import threads

    torch.set_num_threads(threads())
    given = inputs(M, N, K, seed)

    def layer(a, b, bias):
        return torch.nn.functional.gelu(torch.addmm(bias, a, b), approximate="tanh")

    function = torch.compile(layer) if compiled else layer
    tensors = [torch.from_numpy(array) for array in given]

    def call():
        with torch.no_grad():
            return function(*tensors)

    return _runnable(call, call().numpy(), *given)
