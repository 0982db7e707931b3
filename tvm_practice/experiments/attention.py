"""What the lab on attention shows: the fused kernel verified, and what it asks of memory beside
three kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_practice.common import exercise, show, verify
from tvm_practice.common.cuda import device
from tvm_practice.common.cuda import facts as cuda_facts
from tvm_practice.common.cuda.facts import Facts
from tvm_practice.common.cuda.resources import V100
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.timing import Candidate, Runnable

EXERCISES = tuple(f"attention.{number}" for number in range(1, 5))
D, HEADS, THREADS = 64, 8, (16, 16)
LENGTH, QUICK_LENGTH = 1024, 512
TILES = ((16, 32), (32, 32), (64, 32), (64, 64))  # queries of a block, keys of a piece
FLOAT_BYTES = 4
GPU_SIZES = ((HEADS, LENGTH),)  # what it measures on a GPU
GPU_QUICK_SIZES = ((1, 256),)


def run_gpu(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    multiples = (max(rows for rows, _ in TILES), 1, 1)
    length = session.size(quick=QUICK_LENGTH, full=LENGTH, multiples=multiples)[0]
    show.heading(f"{HEADS} heads, {length} queries and keys of {D} numbers, float32, for a V100")
    found: dict[str, Facts] = {}
    for rows, columns in TILES:
        name = f"{rows} x {columns}"
        with show.waiting(f"{name} ..."):
            found[name] = session.call(tiling, length, rows, columns, whose, session.seed)
    cuda_facts.table(
        found,
        "Queries of a block x keys of a piece. Each was run in the simulator on a short sequence "
        "and its result verified. Operations are those of the two products; of the bank rounds, "
        "the turned copy of K takes most.",
    )
    _key_question(session, found, length)
    session.headline = f"{len(found)} kernels verified in the simulator, not timed"
    session.report["gpu"] = {
        name: {
            "grid": one.kernels[0].grid,
            "block": one.kernels[0].block,
            "shared_bytes": one.kernels[0].shared_bytes,
            "bytes_read_per_flop": one.read_per_flop,
            "bank_rounds": one.bank_rounds,
            "verified": one.verified,
        }
        for name, one in found.items()
    }


def _key_question(session, found: dict[str, Facts], length: int) -> None:
    small, *_, large = found.values()
    least, most = TILES[0][0], TILES[-1][0]
    own = 4 * HEADS * length * D * FLOAT_BYTES
    scores = HEADS * length * length * FLOAT_BYTES
    flops = 4.0 * HEADS * length * length * D
    session.question(
        "How often does the kernel read K, and what decides that?",
        [
            f"Once for each block of queries: {length // least} times with {least} of them, "
            f"{length // most} times with {most}. That is the tile of 2.8 again: "
            f"{small.read_per_flop:.2g} bytes for an operation become "
            f"{large.read_per_flop:.2g}, where a V100's data sheet has "
            f"{V100.bandwidth / V100.float32_peak:.2g}. The "
            "keys of a piece do not matter for it, only for how often the sums are corrected.",
            f"Q, K, V and O are {own / 2**20:.0f} MiB together, the scores {scores / 2**20:.0f} "
            "MiB. Three kernels write S, read it, write P and read it: "
            f"{4 * scores / 2**20:.0f} MiB, {4 * scores / flops:.2g} bytes for an operation, "
            "besides what their products read. Here they never leave the processor, and a "
            f"sequence twice as long needs no more memory: a block has "
            f"{large.kernels[0].shared_bytes / 1024:.0f} KiB of shared memory for any length.",
        ],
    )


# -------------------------------------------------------------------------------------- competitors


def gpu_competitors(size: tuple[int, int], seed: int) -> list[Candidate]:
    """Every tiling with reference bodies, the largest as "hand", and torch: three kernels eager,
    and its own fused one."""
    common = {"heads": size[0], "length": size[1], "seed": seed}
    names = [f"{rows} x {columns}" for rows, columns in TILES[:-1]] + ["hand"]
    return [
        *(
            Candidate(name, make_gpu, {**common, "rows": rows, "columns": columns})
            for name, (rows, columns) in zip(names, TILES, strict=True)
        ),
        Candidate("torch, eager", make_gpu_torch, {**common, "fused": False}),
        Candidate("torch, fused", make_gpu_torch, {**common, "fused": True}),
    ]


# ---------------------------------------------------------------------------------- run in a worker


def make_gpu(
    heads: int, length: int, seed: int, rows: int, columns: int, build: Any = device.Compiled
) -> Runnable:
    module = schedule(heads, length, rows, columns, dict.fromkeys(EXERCISES, REFERENCE)).mod
    given, is_right = _case(heads, length, seed)
    work = _work(heads, length)
    return device.runnable(module, given, given[0].shape, is_right, build, **work)


def make_gpu_torch(heads: int, length: int, seed: int, fused: bool) -> Runnable:
    import torch

    def eager(q, k, v):
        weights = torch.softmax(q @ k.transpose(1, 2) / D**0.5, dim=-1)
        return weights @ v

    layer = torch.nn.functional.scaled_dot_product_attention if fused else eager
    given, is_right = _case(heads, length, seed)
    return device.torch_runnable(layer, given, is_right, **_work(heads, length))


def _case(heads: int, length: int, seed: int) -> tuple[list[np.ndarray], Any]:
    """Q, K and V, and what raises Wrong for an O that is not right."""
    from tvm_practice.checks.attention import attention_reference

    rng = np.random.default_rng(seed)
    given = [verify.random_array(rng, heads, length, D) for _ in range(3)]
    want, magnitude = attention_reference(*given)
    return given, lambda got: verify.assert_close(got, want, magnitude, length + D, "O")


def _work(heads: int, length: int) -> dict[str, float]:
    own = heads * length * D * FLOAT_BYTES
    flops = 4.0 * heads * length * length * D
    return {"flops": flops, "bytes": 4.0 * own, "bytes_written": float(own)}


def schedule(heads: int, length: int, rows: int, columns: int, whose: dict[str, str]) -> Any:
    """The kernel with all steps taken, by the bodies asked for."""
    lesson = exercise.load_lesson("attention")
    sch = lesson.attention(heads, length, D, rows, columns)
    lesson.begin(sch, THREADS)
    for known in lesson.STEPS:
        lesson.climb(sch, known, exercise.body(known, whose[known]), THREADS)
    return sch


def tiling(length: int, rows: int, columns: int, whose: dict[str, str], seed: int) -> Facts:
    short = 4 * max(rows, columns)
    given, is_right = _case(1, short, seed)
    shape = given[0].shape
    whole = _work(HEADS, length)
    return cuda_facts.facts(
        schedule(HEADS, length, rows, columns, whose),
        schedule(1, short, rows, columns, whose),
        [*given, np.zeros(shape, "float32")],
        lambda library: is_right(verify.run(library, given, shape)),
        _work(1, short)["flops"],
        (whole["flops"], whole["bytes"]),
    )
