"""What the lab on tensorization shows: the loop nest, the instruction in the machine code, its
speed against float32, and what the older instruction gets wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tvm_practice.common import exercise, show
from tvm_practice.common.competitors import flops
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.timing import PEAK_FMA, Candidate, Runnable
from tvm_practice.experiments.manual_schedule import make_hand

EXERCISES = tuple(f"tensorize.{number}" for number in range(1, 4))
FLOAT32, LOOPS, TENSORIZED = "float32, phase 2", "int8, loops", "int8, instruction"
OWNER = {LEARNER: "yours", REFERENCE: "reference"}
NO_INSTRUCTION = (
    "This CPU has none of the instructions that the lab knows ({}), so there is nothing to time "
    "here. The three exercises can be solved and checked without it."
)
# The tile: eight rows by two vectors, as the float32 one has with AVX-512.
ROWS, VECTORS = 8, 2

# What the bench measures: M, N, K, multiples of any tile.
SIZES = ((512, 512, 512), (1024, 1024, 1024))
QUICK_SIZES = ((64, 64, 64),)
ARITHMETIC = "int8"  # a share of the float32 peak may be above 100%

Size = tuple[int, int, int]


class NoInstruction(Exception):
    """This CPU has no int8 dot product; the message says so."""


def run(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    found = session.call(this_instruction)
    if found is None:
        show.say(NO_INSTRUCTION.format(", ".join(session.call(known_features))))
        session.headline = "this CPU has no int8 dot product"
        return
    size = session.size(quick=512, full=1024)
    if size[0] % ROWS or size[1] % 64 or size[2] % 4:
        show.say(
            f"The lab has no padding: M has to be a multiple of {ROWS}, N of 64, K of 4. "
            "It runs at 1024."
        )
        size = (1024, 1024, 1024)
    _machine_code(session, size, whose)
    measured = _compare(session, size, whose)
    _key_question(session, size, measured)


def _machine_code(session, size: Size, whose: dict[str, str]) -> None:
    with show.waiting("compiling ..."):
        lines, count = session.call(machine_code, size, whose)
    show.heading("The instruction in the machine code")
    show.code("\n".join(lines), "asm")
    show.line(f"  {count} of them stand in the compiled function.", "dim")


def _compare(session, size: Size, whose: dict[str, str]):
    show.heading("{} x {} x {}: int8 against float32".format(*size))
    candidates = [PEAK_FMA, *_candidates(size, session.seed, whose)]
    measured = session.compare(candidates, what="int8 against float32")
    names = [one.name for one in candidates[1:] if one.name in measured]
    show.table(
        ("product", "time", "spread", "Gop/s", "against float32"),
        [
            (
                name,
                show.seconds(measured[name].median_s),
                f"{measured[name].spread:.0%}",
                show.rate(measured[name].gflops),
                "-" if name == FLOAT32 else measured.verdict(name, FLOAT32).short(),
            )
            for name in names
        ],
        "The instruction's program is built from: "
        + ", ".join(f"{known} {OWNER[whose[known]]}" for known in EXERCISES)
        + f". Medians of up to {measured.rounds} paired rounds, {measured.threads} threads each; "
        "every result verified, the int8 ones exactly.",
    )
    session.report |= {
        "size": size,
        "peaks": {"fma_gflops": measured.peak_gflops},
        "results": measured.as_json(),
    }
    if {FLOAT32, TENSORIZED} <= measured.figures.keys():
        session.headline = f"int8 is {measured.verdict(TENSORIZED, FLOAT32).short()} than float32"
    return measured


def _key_question(session, size: Size, measured) -> None:
    if not {FLOAT32, LOOPS, TENSORIZED} <= measured.figures.keys():
        return
    lanes, _ = session.call(this_instruction)
    wrong, total, example = session.call(saturated, size, session.seed)
    _, N, K = size
    answer = [
        f"{measured.verdict(TENSORIZED, FLOAT32).sentence()}. An instruction with {lanes} lanes "
        f"does {4 * lanes} multiplications where a float32 one of that width does {lanes}. The "
        f"data is four times smaller too: B is {K * N / 1e6:.1f} MB instead of "
        f"{4 * K * N / 1e6:.1f} MB, so the caches deliver as many elements for each instruction "
        "as before.",
        f"{measured.verdict(TENSORIZED, LOOPS).sentence()}: the compiler, given the same loops, "
        "widens every byte to 32 bits before it multiplies.",
    ]
    if total:
        answer.append(
            "CPUs before this instruction used two others, vpmaddubsw and vpmaddwd. The first adds "
            "pairs of products in 16 bits and saturates: with the same random bytes "
            f"{wrong / total:.0%} of its results are wrong (C[0, 0] = {example[0]:,} where "
            f"{example[1]:,} is right). It is safe only where weights have 7 bits."
        )
    question = "The instruction multiplies four times as much. What else is four times smaller?"
    show.question(question, answer)


# -------------------------------------------------------------------------------------- competitors


def _candidates(size: Size, seed: int, whose: dict[str, str]) -> list[Candidate]:
    common = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        Candidate(FLOAT32, make_hand, common),
        Candidate(LOOPS, make_int8, {**common, "whose": whose, "tensorized": False}),
        Candidate(TENSORIZED, make_int8, {**common, "whose": whose, "tensorized": True}),
    ]


def competitors(size: Size, seed: int) -> list[Candidate]:
    """float32 and int8, the tensorized one with reference bodies as "hand", and the libraries."""
    *others, best = _candidates(size, seed, dict.fromkeys(EXERCISES, REFERENCE))
    common = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        *others,
        Candidate("hand", best.make, best.arguments),
        Candidate("NumPy", make_numpy, common),
        Candidate("torch", make_torch, common),
    ]


# ---------------------------------------------------------------------------------- run in a worker


def this_instruction() -> tuple[int, str] | None:
    return exercise.load_lesson("tensorize").instruction()


def known_features() -> list[str]:
    return list(exercise.load_lesson("tensorize").INSTRUCTIONS)


def schedule(size: Size, whose: dict[str, str], tensorized: bool) -> Any:
    """The int8 product, up to its loops or with the instruction. Raises NoInstruction."""
    lesson = exercise.load_lesson("tensorize")
    found = lesson.instruction()
    if found is None:
        raise NoInstruction(NO_INSTRUCTION.format(", ".join(lesson.INSTRUCTIONS)))
    lanes, llvm = found
    bodies = {known: exercise.body(known, who) for known, who in whose.items()}
    sch = lesson.matmul(*size)
    lesson.tile(sch, ROWS, VECTORS, lanes)
    bodies["tensorize.2"](sch, VECTORS * lanes)
    if tensorized:
        name = lesson.register(lanes, llvm, bodies["tensorize.1"](lanes))
        bodies["tensorize.3"](sch, name)
    else:
        block = sch.get_sblock("C")
        _, _, _, ko, _, _, lane, four = sch.get_loops(block)
        sch.reorder(four, lane)
        sch.vectorize(lane)
        sch.decompose_reduction(block, ko)
    return sch


def inputs(M: int, N: int, K: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 A and int8 B over their whole ranges."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (M, K)).astype("uint8")
    return a, rng.integers(-128, 128, (K, N)).astype("int8")


def _verified(call, got: np.ndarray, a: np.ndarray, b: np.ndarray) -> Runnable:
    from tvm_practice.common.verify import Wrong

    # Exact in float64: the sums stay far below 2^53.
    want = a.astype("float64") @ b.astype("float64")
    if not (got == want).all():
        raise Wrong(f"{int((got != want).sum())} of {got.size} elements of C are wrong.")
    M, N, K = *got.shape, a.shape[1]
    return Runnable(
        call,
        flops=flops(M, N, K),
        bytes=1.0 * (M * K + K * N) + 4.0 * M * N,
        bytes_written=4.0 * M * N,
        verified=True,
    )


def make_int8(
    M: int, N: int, K: int, seed: int, whose: dict[str, str], tensorized: bool
) -> Runnable:
    import tvm

    from tvm_practice.common.target import build

    function = build(schedule((M, N, K), whose, tensorized).mod)
    a, b = inputs(M, N, K, seed)
    tensors = [tvm.runtime.tensor(array) for array in (a, b, np.full((M, N), -1, "int32"))]
    function(*tensors)
    return _verified(lambda: function(*tensors), tensors[2].numpy(), a, b)


def make_numpy(M: int, N: int, K: int, seed: int) -> Runnable:
    """NumPy's integer product, which has no library behind it."""
    a, b = inputs(M, N, K, seed)
    wide = a.astype("int32"), b.astype("int32")
    return _verified(lambda: np.matmul(*wide), np.matmul(*wide), a, b)


def make_torch(M: int, N: int, K: int, seed: int) -> Runnable:
    """torch._int_mm, its int8 product: A is signed there, so it is given A - 128."""
    import torch

    from tvm_practice.common.target import threads

    torch.set_num_threads(threads())
    a, b = inputs(M, N, K, seed)
    shifted = torch.from_numpy((a.astype("int16") - 128).astype("int8"))
    other = torch.from_numpy(b)
    got = torch._int_mm(shifted, other).numpy() + 128 * b.astype("int32").sum(axis=0)
    return _verified(lambda: torch._int_mm(shifted, other), got, a, b)


def machine_code(size: Size, whose: dict[str, str]) -> tuple[list[str], int]:
    """A few lines of assembly around the instruction, and how many of it there are."""
    import tvm

    from tvm_practice.common.target import cpu_target

    executable = tvm.compile(schedule(size, whose, True).mod, target=cpu_target())
    lines = [line.strip() for line in executable.mod.inspect_source("asm").splitlines()]
    places = [n for n, line in enumerate(lines) if re.match(r"vpdpbusd|usdot", line)]
    first = places[len(places) // 2]
    return [line.replace("\t", "  ") for line in lines[first - 2 : first + 4]], len(places)


def saturated(size: Size, seed: int) -> tuple[int, int, tuple[int, int]]:
    """(wrong elements, elements, (one element, what it should be)) of the product by vpmaddubsw and
    vpmaddwd, as TVM's dot_16x4_avx512 has it; (0, 0, ...) where the CPU has no AVX-512."""
    import importlib

    import tvm

    from tvm_practice.common.measure import skip_tensor_intrinsics
    from tvm_practice.common.target import build, cpu_has

    if not cpu_has("avx512bw"):
        return 0, 0, (0, 0)
    skip_tensor_intrinsics()
    x86 = importlib.import_module("tvm.s_tir.tensor_intrin.x86")
    lesson = exercise.load_lesson("tensorize")
    # In memory, since that description has no scope for its sums.
    sch = lesson.matmul(*size)
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    jo, lane = sch.split(j, [None, 16])
    ko, four = sch.split(k, [None, 4])
    sch.reorder(jo, i, ko, lane, four)
    exercise.body("tensorize.2")(sch, 16)
    sch.decompose_reduction(block, ko)
    sch.tensorize(lane, x86.AVX512_DOT_16x4_INTRIN)
    a, b = inputs(*size, seed)
    out = tvm.runtime.tensor(np.zeros((size[0], size[1]), "int32"))
    build(sch.mod)(tvm.runtime.tensor(a), tvm.runtime.tensor(b), out)
    got, want = out.numpy(), a.astype("float64") @ b.astype("float64")
    return int((got != want).sum()), got.size, (int(got[0, 0]), int(want[0, 0]))
