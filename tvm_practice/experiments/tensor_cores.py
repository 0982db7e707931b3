"""What the lab on tensor cores shows: the kernel in outline, and what tiles of several sizes ask of
memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show, verify
from tvm_practice.common.cuda import device
from tvm_practice.common.cuda.kernels import kernels
from tvm_practice.common.cuda.resources import V100, Report, available, report, roofline
from tvm_practice.common.cuda.simulate import Simulated, simulated
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.timing import Candidate, Runnable

EXERCISES = tuple(f"tensor_cores.{number}" for number in range(1, 5))
OWNER = {LEARNER: "yours", REFERENCE: "reference"}

# Warps of a block and tiles of each, along i and j: what a block computes grows from row to row.
SHAPES = (((1, 1), (1, 1)), ((2, 2), (1, 1)), ((2, 2), (2, 2)), ((2, 4), (4, 2)))
DEPTH = 2
GPU_MULTIPLES = (128, 128, 32)  # of M, N, K: a block's part with the last of them

# Bytes for an operation, by the data sheet of a V100; its processors' shared memory delivers 32
# banks of 4 bytes a cycle.
GLOBAL_LIMIT = V100.bandwidth / V100.tensor_peak
FLOAT32_LIMIT = V100.bandwidth / V100.float32_peak
SHARED_LIMIT = V100.sms * 128 * V100.tensor_clock / V100.tensor_peak
SUM_REGISTERS = FACTOR_REGISTERS = 8  # of a thread, for its part of a tile

# What it measures on a GPU.
GPU_SIZES = ((2048, 2048, 2048), (1024, 2048, 512))
GPU_QUICK_SIZES = ((256, 256, 256),)
GPU_ARITHMETIC = "float16"

Size = tuple[int, int, int]
Shape = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Traffic:
    """What a tiling asks of memory, counted in the simulator. Bytes are for an operation.

    rounds: of the banks for 16 bytes of eight rows, of A's and B's piece; unspread: the same for
    rows as wide as they are. registers: of a thread, those that its fragments take. report: what
    the compiler made of it for a V100, None without NVRTC.
    """

    rows: int
    columns: int
    threads: int
    blocks: int
    shared_bytes: int
    registers: int
    from_global: float
    from_shared: float
    rounds: tuple[int, int]
    unspread: tuple[int, int]
    report: Report | None


def run_gpu(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    size = session.size(quick=1024, full=2048, multiples=GPU_MULTIPLES)
    with show.waiting("compiling ..."):
        outline = session.call(kernel_outline, size, whose)
    show.heading("The kernel, without its indices")
    show.code("\n".join(outline), "cuda")
    show.heading("{} x {} x {}, float16, for a V100: larger tiles".format(*size))
    found: list[Traffic] = []
    for shape in SHAPES:
        with show.waiting(f"{shape} ..."):
            found.append(session.call(traffic, shape, size, whose, session.seed))
    _table(found, whose)
    session.picture("traffic", lambda path: draw_traffic(path, found))
    _key_question(session, found)
    session.headline = f"{len(found)} kernels verified in the simulator, not timed"
    session.report["gpu"] = {
        f"{one.rows} x {one.columns}": {
            "threads": one.threads,
            "shared_bytes": one.shared_bytes,
            "global_bytes_per_flop": one.from_global,
            "shared_bytes_per_flop": one.from_shared,
            "verified": True,
        }
        for one in found
    }


def _table(found: list[Traffic], whose: dict[str, str]) -> None:
    show.table(
        (
            *("block", "blocks x threads", "shared", "registers", "/ SM", "global"),
            *("fragments", "time "),
        ),
        [
            (
                f"{one.rows} x {one.columns}",
                f"{one.blocks:,} x {one.threads}",
                f"{one.shared_bytes / 1024:.3g} KiB",
                *_compiled(one),
                f"{one.from_global:.3g}",
                f"{one.from_shared:.3g}",
                "verified, not timed",
            )
            for one in found
        ],
        "Each was run in the simulator on a small product and its result verified. Counted there, "
        "in bytes for an operation: what a block reads of A and B in global memory, and what its "
        "warps load to fragments from shared memory. Block: its part of C; / SM: how many of them "
        "a processor holds at a time. Registers: those of a thread that its fragments take, of "
        "those that the compiler gave it. Built from: "
        + ", ".join(f"{known} {OWNER[whose[known]]}" for known in EXERCISES)
        + ".",
    )
    if (made := found[-1].report) is None:
        show.line(f"  {available()}", "dim")
    else:
        bound = show.seconds(made.estimate.lower_bound)
        show.line(f"  By the data sheet of a V100, no version takes less than {bound}.", "dim")


def _compiled(one: Traffic) -> tuple[str, str]:
    """The table's registers, and the blocks that a processor of a V100 holds at a time."""
    if one.report is None:
        return str(one.registers), "-"
    return f"{one.registers} of {one.report.usage.registers}", str(one.report.occupancy.blocks)


def _key_question(session, found: list[Traffic]) -> None:
    first, last = found[0], found[-1]
    session.question(
        "If multiplying takes an eighth of the time, what else has to be eight times as fast?",
        [
            f"All that delivers. A V100's data sheet has {V100.tensor_peak / 1e12:.0f} TFLOP/s in "
            f"its tensor cores and {V100.float32_peak / 1e12:.1f} in float32, but the same "
            f"{V100.bandwidth / 1e9:.0f} GB/s for both: {GLOBAL_LIMIT:.2g} bytes for an operation "
            "instead "
            f"of {FLOAT32_LIMIT:.2g}. float16 halves the bytes; larger tiles have to do the rest. "
            f"A block of {first.rows} x {first.columns} asks for {first.from_global:.2g}, one of "
            f"{last.rows} x {last.columns} for {last.from_global:.2g}. What is still above "
            f"{GLOBAL_LIMIT:.2g} has to come from the cache that all blocks share, where those of "
            "one row of blocks look for the same piece of A.",
            "Shared memory has the same question to answer. 128 bytes a cycle in each processor "
            f"are {SHARED_LIMIT:.3g} for an operation at most. A warp with one tile of C asks for "
            f"{first.from_shared:.3g}, one with {SHAPES[-1][1][0]} x {SHAPES[-1][1][1]} for "
            f"{last.from_shared:.3g}; and that holds only if the banks deliver without queues. "
            f"Rows as wide as they are would need {last.unspread[0]} rounds for A's fragments and "
            f"{last.unspread[1]} for B's; as they lie here, {last.rounds[0]} and "
            f"{last.rounds[1]}.",
        ],
    )


def draw_traffic(path: Path, found: list[Traffic]) -> None:
    """Bytes for an operation, from global and from shared memory, against what a V100 has."""
    figure, (left, right) = picture.blank(9, 3, ncols=2)
    names = [f"{one.rows} x {one.columns}" for one in found]
    for axes, values, limit, told in (
        (left, [one.from_global for one in found], GLOBAL_LIMIT, "global memory"),
        (right, [one.from_shared for one in found], SHARED_LIMIT, "shared memory"),
    ):
        bars = axes.barh(names, values, color="tab:blue")
        axes.bar_label(bars, [f"{value:.2g}" for value in values], padding=3)
        axes.axvline(limit, color="tab:red", linestyle="--")
        axes.set_title(f"a V100 has {limit:.2g}", color="tab:red", fontsize="medium")
        axes.set_xlim(0, 1.25 * max(*values, limit))
        axes.set_xlabel(f"bytes for an operation from {told}")
        axes.invert_yaxis()
    left.set_ylabel("a block's part of C")
    picture.save(figure, path)


# -------------------------------------------------------------------------------------- competitors


def gpu_competitors(size: Size, seed: int) -> list[Candidate]:
    """Every tiling with reference bodies, the largest as "hand", and cuBLAS in float16."""
    common = dict(zip("MNK", size, strict=True), seed=seed)
    names = [f"{_rows_of(shape)[0]} x {_rows_of(shape)[1]}" for shape in SHAPES[:-1]] + ["hand"]
    return [
        *(
            Candidate(name, make_gpu, {**common, "shape": shape})
            for name, shape in zip(names, SHAPES, strict=True)
        ),
        Candidate("torch (cuBLAS)", make_gpu_torch, common),
    ]


def _rows_of(shape: Shape) -> tuple[int, int]:
    """Rows and columns of C that a block computes."""
    (warps_i, warps_j), (own_i, own_j) = shape
    return 16 * warps_i * own_i, 16 * warps_j * own_j


# ---------------------------------------------------------------------------------- run in a worker


def make_gpu(
    M: int, N: int, K: int, seed: int, shape: Shape, build: Any = device.Compiled
) -> Runnable:
    module = schedule((M, N, K), dict.fromkeys(EXERCISES, REFERENCE), shape).mod
    given, is_right = _case(M, N, K, seed)
    return device.runnable(module, given, (M, N), is_right, build, **_work(M, N, K))


def make_gpu_torch(M: int, N: int, K: int, seed: int) -> Runnable:
    """cuBLAS on the tensor cores; its result is in float16, ours in float32."""
    import torch

    given, is_right = _case(M, N, K, seed)
    return device.torch_runnable(torch.mm, given, is_right, **_work(M, N, K))


def _case(M: int, N: int, K: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], Any]:
    """A and B in float16, and what raises Wrong for a C in float32 that is not their product."""
    rng = np.random.default_rng(seed)
    a = verify.random_array(rng, M, K, dtype="float16")
    b = verify.random_array(rng, K, N, dtype="float16")
    want, magnitude = verify.matmul_reference(a, b)
    return (a, b), lambda c: verify.assert_close(c, want, magnitude, K, "C")


def _work(M: int, N: int, K: int) -> dict[str, float]:
    moved = 2.0 * (M + N) * K + 4.0 * M * N
    return {"flops": 2.0 * M * N * K, "bytes": moved, "bytes_written": 4.0 * M * N}


def schedule(size: Size, whose: dict[str, str], shape: Shape = SHAPES[-1]) -> Any:
    """The product with all four steps taken, by the bodies asked for."""
    lesson = exercise.load_lesson("tensor_cores")
    sch = lesson.matmul(*size)
    for known in lesson.STEPS:
        lesson.climb(sch, known, exercise.body(known, whose[known]), lesson.Tiling(*shape, DEPTH))
    return sch


def kernel_outline(size: Size, whose: dict[str, str]) -> list[str]:
    """The lines of the kernel that copy, wait or multiply, with their loops; "..." for indices."""
    lines = []
    (kernel,) = kernels(schedule(size, whose).mod)
    for line in kernel.source.splitlines():
        if re.search(r"for \(|__syncthreads|_sync\(|fill_fragment|uint4", line):
            line = re.sub(r"int (\w+) = 0; \1 < (\d+); \+\+\1", r"\1 < \2", line)
            line = re.sub(
                r"\*\(uint4\*\)\((\w+)_ptr \+ .*?\)(?= =|;)", r"*(uint4*)(\1 + ...)", line
            )
            line = re.sub(r"\(&\((\w+)_ptr\[.*?\]\)\)(?=, )", r"&\1[...]", line)
            line = re.sub(r"_ptr\[[^\]]*\]", "[...]", line)
            line = re.sub(r"nvcuda::wmma::|/\*.*?\*/|\s*\{$", "", line)
            lines.append(line.replace("_wmma_matrix_", ".").replace("_wmma_accumulator", ".sums"))
    return lines


def traffic(shape: Shape, size: Size, whose: dict[str, str], seed: int) -> Traffic:
    """Run a tiling on two blocks each way, verify the result, and count."""
    lesson = exercise.load_lesson("tensor_cores")
    tiling = lesson.Tiling(*shape, DEPTH)
    rows, columns, deep = tiling.block
    M, N, K = 2 * rows, 2 * columns, 2 * deep
    library = simulated(schedule((M, N, K), whose, shape).mod)
    arrays = _verified(library, M, N, K, seed)
    (kernel,) = library.kernels
    (traced,) = library.trace(arrays)
    flops = 2.0 * rows * columns * K
    reads = traced.accesses[traced.accesses["size"] < 128]
    parameters = len(kernel.parameters)
    (full,) = kernels(schedule(size, whose, shape).mod)
    whole = _work(*size)
    bound = roofline(whole["flops"], whole["bytes"], V100, tensor_cores=True)
    extents = {one.name: one.extent for one in kernel.shared}
    strides = extents["A_shared"] // rows, extents["B_shared"] // deep
    own_rows, own_columns = tiling.each
    return Traffic(
        rows,
        columns,
        full.threads,
        full.blocks,
        full.shared_bytes,
        own_rows * own_columns * SUM_REGISTERS + (own_rows + own_columns) * FACTOR_REGISTERS,
        float(reads["size"][reads["array"] < parameters].sum()) / flops,
        float(reads["size"][reads["array"] >= parameters].sum()) / flops,
        (lesson.bank_rounds(strides[0]), lesson.bank_rounds(strides[1])),
        (lesson.bank_rounds(deep), lesson.bank_rounds(columns)),
        report(full, V100, bound),
    )


def _verified(library: Simulated, M: int, N: int, K: int, seed: int) -> list[np.ndarray]:
    given, is_right = _case(M, N, K, seed)
    is_right(got := verify.run(library, given, (M, N)))
    return [*given, got]
