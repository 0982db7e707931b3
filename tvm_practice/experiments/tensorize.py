"""What the lab on tensorization shows: the loop nest, the instruction in the machine code, its
speed against float32, and what the older instruction gets wrong."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show
from tvm_practice.common.competitors import flops
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.target import register_tile
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable, in_huge_pages
from tvm_practice.experiments.manual_schedule import RUNGS, make_hand

EXERCISES = tuple(f"tensorize.{number}" for number in range(1, 4))
FLOAT32, INT8 = "float32, phase 2", "int8, phase 2"
LOOPS, TENSORIZED = "int8, woven loops", "int8, instruction"
OWNER = {LEARNER: "yours", REFERENCE: "reference"}
NO_INSTRUCTION = (
    "This CPU has none of the instructions that the lab knows ({}), so there is nothing to time "
    "here. The three exercises can be solved and checked without it."
)
INT8_OPERATIONS = 4  # multiplications of a lane of the instruction, where float32 has one
THE_INSTRUCTION = r"\b(?:vpdpbusd|usdot)\b"
# The instructions that multiply vectors of integers, on x86 and AArch64.
MULTIPLICATIONS = r"\b(?:vp(?:dp|madd|mul)\w+|(?:us|s|u)dot|[su]?mlal?2?)\b"

# What the bench measures: M, N, K; there is no padding, and these are multiples of any tile.
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
    lanes, _ = found
    size = session.size(quick=512, full=1024)
    if size[1] % lanes or size[2] % 4:
        show.say(
            f"The lab has no padding: N has to be a multiple of {lanes}, K of 4. It runs at 1024."
        )
        size = (1024, 1024, 1024)
    multiplications = _machine_code(session, size, whose)
    measured = _compare(session, size, whose)
    _key_question(session, size, measured, lanes, multiplications)


def _machine_code(session, size: Size, whose: dict[str, str]) -> Counter[str]:
    """Show the instruction where it stands; return what the compiler multiplies with without it."""
    with show.waiting("compiling ..."):
        lines = session.call(machine_code, size, whose, True)
        without = session.call(machine_code, size, whose, False)
    places = [n for n, line in enumerate(lines) if re.search(THE_INSTRUCTION, line)]
    show.heading("The instruction in the machine code")
    middle = places[len(places) // 2]
    show.code("\n".join(lines[middle - 2 : middle + 4]), "asm")
    show.line(f"  {len(places)} of them stand in the compiled function.", "dim")
    return Counter(found[0] for line in without if (found := re.search(MULTIPLICATIONS, line)))


def _compare(session, size: Size, whose: dict[str, str]) -> Comparison:
    show.heading("{} x {} x {}: int8 against float32".format(*size))
    candidates = [PEAK_FMA, *_candidates(size, session.seed, whose)]
    measured = session.compare(candidates, what="int8 against float32")
    names = [one.name for one in candidates[1:] if one.name in measured]
    peak = measured.peak_gflops
    show.table(
        ("product", "time", "spread", "Gop/s", "of peak", "against float32"),
        [
            (
                name,
                show.seconds(measured[name].median_s),
                f"{measured[name].spread:.0%}",
                show.rate(measured[name].gflops),
                show.share(measured[name].gflops / _peak(measured, name)),
                "-" if name == FLOAT32 else measured.verdict(name, FLOAT32).short(),
            )
            for name in names
        ],
        "The instruction's program is built from: "
        + ", ".join(f"{known} {OWNER[whose[known]]}" for known in EXERCISES)
        + f". The float32 peak is the FMA chain's in the same rounds, {show.rate(peak)} GFLOP/s; "
        f"the int8 one {INT8_OPERATIONS} times that, were an instruction as fast as a float32 "
        f"multiply-add. Medians of up to {measured.rounds} paired rounds, {measured.threads} "
        "threads each; every result verified, the int8 ones exactly.",
    )
    session.report |= {
        "size": size,
        "peaks": {"fma_gflops": peak},
        "results": measured.as_json(),
    }
    if {FLOAT32, TENSORIZED} <= measured.figures.keys():
        ratio = measured.verdict(TENSORIZED, FLOAT32).ratio
        session.headline = f"int8 at {show.times(ratio)} the speed of float32"
    session.picture("speed", lambda path: draw_speed(path, size, measured, names))
    return measured


def _peak(measured: Comparison, name: str) -> float:
    return measured.peak_gflops * (1 if name == FLOAT32 else INT8_OPERATIONS)


def draw_speed(path: Path, size: Size, measured: Comparison, names: list[str]) -> None:
    """Operations a second of each product, against the float32 peak and that of the instruction."""
    figure, axes = picture.blank(8, 3.2)
    bars = axes.barh(names, [measured[name].gflops for name in names], color="tab:blue")
    labels = [show.rate(measured[name].gflops) for name in names]
    axes.bar_label(bars, labels, label_type="center", color="white")
    for factor, told in ((1, "FMA peak"), (INT8_OPERATIONS, f"{INT8_OPERATIONS} x FMA peak")):
        axes.axvline(factor * measured.peak_gflops, color="tab:red", linestyle="--")
        axes.text(factor * measured.peak_gflops, -0.75, told, color="tab:red", ha="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * INT8_OPERATIONS * measured.peak_gflops)
    axes.set_xlabel("10^9 additions and multiplications a second, {} x {} x {}".format(*size))
    picture.save(figure, path)


def _key_question(
    session, size: Size, measured: Comparison, lanes: int, multiplications: Counter[str]
) -> None:
    if not {FLOAT32, INT8, LOOPS, TENSORIZED} <= measured.figures.keys():
        return
    wrong, total, example = session.call(saturated, size, session.seed)
    _, N, K = size
    answer = [
        f"{measured.verdict(TENSORIZED, FLOAT32).sentence()}. An instruction with {lanes} lanes "
        f"does {4 * lanes} multiplications where a float32 one of that width does {lanes}. The "
        f"data is four times smaller too: B is {K * N / 1e6:.1f} MB instead of "
        f"{4 * K * N / 1e6:.1f} MB, so the caches deliver as many elements for each instruction "
        "as before.",
        f"Small numbers alone are not enough: {measured.verdict(INT8, FLOAT32).sentence()}, with "
        "the ladder of phase 2 for both. Nor is the layout: "
        f"{measured.verdict(TENSORIZED, LOOPS).sentence()}, in which only the last step is left "
        f"out. {_instead(multiplications)}",
    ]
    if total:
        answer.append(
            "CPUs before this instruction used two others, vpmaddubsw and vpmaddwd. The first adds "
            "pairs of products in 16 bits and saturates: with the same random bytes "
            f"{wrong / total:.0%} of its results are wrong (C[0, 0] = {example[0]:,} where "
            f"{example[1]:,} is right). It is safe only where weights have 7 bits."
        )
    question = "The instruction multiplies four times as much. What else is four times smaller?"
    session.question(question, answer)


def _instead(multiplications: Counter[str]) -> str:
    """What the compiler makes of the loops that the instruction is to replace."""
    if not multiplications:
        return ""
    most = multiplications.most_common(1)[0][0]
    if re.search(THE_INSTRUCTION, most):
        return f"Here the compiler has found {most} by itself; its other code is the difference."
    return f"Left alone with those loops, the compiler widens the bytes and multiplies with {most}."


# -------------------------------------------------------------------------------------- competitors


def _candidates(size: Size, seed: int, whose: dict[str, str]) -> list[Candidate]:
    common = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        Candidate(FLOAT32, make_hand, common),
        Candidate(INT8, make_ladder, common),
        Candidate(LOOPS, make_int8, {**common, "whose": whose, "tensorized": False}),
        Candidate(TENSORIZED, make_int8, {**common, "whose": whose, "tensorized": True}),
    ]


def competitors(size: Size, seed: int) -> list[Candidate]:
    """The default loops, float32 and int8, the tensorized one with reference bodies as "hand", and
    the libraries."""
    *others, best = _candidates(size, seed, dict.fromkeys(EXERCISES, REFERENCE))
    common = dict(zip("MNK", size, strict=True), seed=seed)
    return [
        Candidate("naive", make_naive, common),
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
    M, N, _ = size
    rows, vectors = lesson.tile_of(M, N, lanes)
    lesson.tile(sch, rows, vectors, lanes)
    bodies["tensorize.2"](sch, vectors * lanes)
    if tensorized:
        name = lesson.register(lanes, llvm, bodies["tensorize.1"](lanes))
        bodies["tensorize.3"](sch, name)
    else:
        block = sch.get_sblock("C")
        *_, ko, _, _, _, _ = sch.get_loops(block)
        zero = sch.decompose_reduction(block, ko)
        sch.vectorize(sch.get_loops(zero)[-1])
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
    return _compiled(schedule((M, N, K), whose, tensorized), M, N, K, seed)


def make_naive(M: int, N: int, K: int, seed: int) -> Runnable:
    return _compiled(exercise.load_lesson("tensorize").matmul(M, N, K), M, N, K, seed)


def make_ladder(M: int, N: int, K: int, seed: int) -> Runnable:
    """The ladder of phase 2, climbed with bytes."""
    ladder = exercise.load_lesson("manual_schedule")
    sch = exercise.load_lesson("tensorize").matmul(M, N, K)
    for known in RUNGS:
        ladder.climb(sch, known, exercise.body(known), *register_tile(M, N))
    return _compiled(sch, M, N, K, seed)


def _compiled(sch: Any, M: int, N: int, K: int, seed: int) -> Runnable:

    from tvm_practice.common.target import build

    function = build(sch.mod)
    a, b = inputs(M, N, K, seed)
    tensors = [in_huge_pages(array) for array in (a, b, np.full((M, N), -1, "int32"))]
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


def machine_code(size: Size, whose: dict[str, str], tensorized: bool) -> list[str]:
    """The lines of assembly that the product compiles to."""
    import tvm

    from tvm_practice.common.target import cpu_target

    executable = tvm.compile(schedule(size, whose, tensorized).mod, target=cpu_target())
    lines = executable.mod.inspect_source("asm").splitlines()
    return [line.strip().replace("\t", "  ") for line in lines]


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
