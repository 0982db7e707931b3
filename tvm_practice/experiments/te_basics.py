"""What phase 1 shows: from expression to a checked run, and one expression compiled for three
machines."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tvm_practice.common import exercise, show, verify
from tvm_practice.common.competitors import make_numpy, runnable_matmul
from tvm_practice.common.cuda.kernels import by_default
from tvm_practice.common.cuda.simulate import simulated
from tvm_practice.common.loop_nest import LoopNest, loop_nest
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Runnable

ADD_LENGTH = 1_000_003  # prime: nothing divides it
MATMUL_SIZE = 256
DEFAULT = "default loops"


def run(session) -> None:
    with show.waiting("vector addition ..."):
        added = session.call(vector_add_story, session.seed)
    show.heading("Worked: vector addition")
    show.say("The expression `C[i] = A[i] + B[i]` becomes TensorIR, TVM's own program:")
    show.code(added["script"])
    show.say("Read as a loop nest, which is how this course will print it from here on:")
    show.nest(added["nest"])
    show.say(
        f"Compiled and run on {ADD_LENGTH:,} random elements: equal to NumPy's float64 sum within "
        "float32 rounding."
    )

    whose = {known: session.exercise(known) for known in ("1.1", "1.2", "1.3", "1.4")}

    measured = _default_loops(session, whose["1.1"])

    with show.waiting("one expression for three targets ..."):
        targets = session.call(one_expression_three_targets, whose["1.1"])
    show.heading("One expression, three machines")
    owner = "your" if whose["1.1"] == exercise.LEARNER else "the reference's"
    show.say(
        f"The innermost arithmetic of {owner} `matmul`, compiled for three machines. Only the "
        "target, "
        "and a default schedule for it, differ; the expression does not."
    )
    for name, text, language in targets["excerpts"]:
        show.line(f"  {name}", "bold")
        show.code(text, language, most_lines=16)

    session.report["targets"] = [name for name, _, _ in targets["excerpts"]]
    session.headline = f"one matmul expression, {len(targets['excerpts'])} machines"
    instructions = ", ".join(
        f"`{found}` on {name}" for name, found in targets["instructions"].items()
    )
    session.question(
        "Why does TVM separate what is computed from how?",
        (
            f"In this run the same expression became {instructions}. Nothing in it had to change, "
            "because nothing in it "
            "said how: no loop order, no vector width, no thread.",
            "It also means that every transformation from here on can be checked against the "
            "expression, and that a program can "
            "search through transformations (phase 5): all of them compute the same thing by "
            "construction. "
            "PyTorch's eager mode cannot do that; when it meets `a @ b` it must call a kernel "
            "that exists.",
            f"And it leaves something to do: with the default loops the expression reached "
            f"{show.share(measured.share_of_peak(DEFAULT))} of what this CPU can compute. That is "
            "the next lesson.",
        ),
    )


# The arguments of each exercise's function for a run in the simulator: odd numbers, so that blocks
# of threads hang over the edges.
ON_GPU = {"1.1": (17, 9, 33), "1.2": (33, 70), "1.3": (33, 70), "1.4": (301,)}


def run_gpu(session) -> None:
    """The same expressions as kernels, run in the simulator and compared with the CPU."""
    whose = {known: session.exercise(known) for known in ON_GPU}
    rows, sources = [], {}
    for known, arguments in ON_GPU.items():
        with show.waiting(f"{known} on the simulated GPU ..."):
            found = session.call(on_gpu, known, whose[known], arguments, session.seed)
        sources[known] = found["source"]
        rows.append(
            (
                known,
                found["name"],
                ", ".join(f"{blocks} x {threads}" for blocks, threads in found["launches"]),
                f"{found['shared']} B" if found["shared"] else "-",
                f"{found['difference']:.1g}",
                "verified, not timed",
            )
        )
    show.heading("The same expressions on a GPU")
    show.say(
        "Each expression with TVM's default schedule for a GPU, as CUDA for a V100 (sm_70), run on "
        "the CPU thread by thread and compared with the expression compiled for the CPU."
    )
    show.table(("", "function ", "blocks x threads", "shared", "largest difference", "time "), rows)
    show.say("The kernel of 1.2; `blockIdx` and `threadIdx` are where the loops were:")
    show.code(sources["1.2"], "cuda")
    session.headline = f"{len(rows)} expressions as kernels, verified in the simulator, not timed"
    session.report["gpu"] = [
        dict(zip(("id", "function", "launches"), row[:3], strict=True)) for row in rows
    ]
    session.question(
        "Why does TVM separate what is computed from how?",
        (
            f"In this run the {len(rows)} expressions of this lesson became kernels for a GPU, and "
            "none of them had to change: which loop is a block, which a thread, and what goes to "
            "shared memory is the schedule's. The check is the same as well: whatever the schedule "
            "does, the expression says what must come out.",
        ),
    )


def _default_loops(session, whose: str) -> Comparison:
    """Time the matmul with the loops it has by default: what "how" is worth before anybody thought
    about it."""
    size = {"M": MATMUL_SIZE, "N": MATMUL_SIZE, "K": MATMUL_SIZE, "seed": session.seed}
    candidates = [
        PEAK_FMA,
        Candidate(DEFAULT, make_default_loops, {**size, "whose": whose}),
        Candidate("NumPy", make_numpy, size),
    ]
    measured = session.compare(candidates, what="the default loops")
    show.heading(f"What the default loops are worth, {MATMUL_SIZE} x {MATMUL_SIZE} x {MATMUL_SIZE}")
    rows = []
    for name in (DEFAULT, "NumPy"):
        figure = measured[name]
        rows.append(
            (
                name,
                show.seconds(figure.median_s),
                f"{figure.spread:.0%}",
                show.rate(figure.gflops),
                show.share(measured.share_of_peak(name)),
            )
        )
    show.table(
        ("matmul", "time", "spread", "GFLOP/s", "of FMA peak"),
        rows,
        f"FMA peak of {measured.threads} threads, measured in the same rounds: "
        f"{show.rate(measured.peak_gflops)} GFLOP/s.",
    )
    session.report["size"] = (MATMUL_SIZE, MATMUL_SIZE, MATMUL_SIZE)
    session.report["peaks"] = {"fma_gflops": measured.peak_gflops}
    session.report["results"] = measured.as_json()
    return measured


# ---------------------------------------------------------------------------------- run in a worker


def make_default_loops(M: int, N: int, K: int, seed: int, whose: str) -> Runnable:
    """The matmul of exercise 1.1 without any schedule."""
    from tvm import te

    return runnable_matmul(te.create_prim_func(exercise.body("1.1", whose)(M, N, K)), M, N, K, seed)


def on_gpu(known: str, whose: str, arguments: tuple[int, ...], seed: int) -> dict[str, Any]:
    """An exercise's expression with TVM's default schedule for a GPU, simulated and compared with
    the expression compiled for the CPU. Raises Wrong if they differ."""
    from tvm import te

    from tvm_practice.common.target import build

    body = exercise.body(known, whose)

    def function():
        return te.create_prim_func(body(*arguments))

    shapes = [tuple(int(extent) for extent in one.shape) for one in function().params]
    rng = np.random.default_rng(seed)
    inputs = [verify.random_array(rng, *shape) for shape in shapes[:-1]]
    want = verify.run(build(function()), inputs, shapes[-1])
    library = simulated(by_default(function()))
    got = verify.run(library, inputs, shapes[-1])
    verify.assert_close(got, want.astype("float64"), 1 + np.abs(want), 100, "the output")
    return {
        "name": body.__name__,
        "launches": [(kernel.blocks, kernel.threads) for kernel in library.kernels],
        "shared": sum(kernel.shared_bytes for kernel in library.kernels),
        "difference": float(np.abs(got - want).max()),
        "source": library.kernels[0].source,
    }


def vector_add_story(seed: int) -> dict[str, str | LoopNest]:
    """Declare, compile, run and verify the worked example; return its TensorIR as text and as a
    nest."""
    from tvm import te

    from tvm_practice.common.target import build

    lesson = exercise.load_lesson("te_basics")
    function = te.create_prim_func(lesson.vector_add(ADD_LENGTH))
    rng = np.random.default_rng(seed)
    a, b = verify.random_array(rng, ADD_LENGTH), verify.random_array(rng, ADD_LENGTH)
    got = verify.run(build(function), (a, b), (ADD_LENGTH,))
    verify.assert_close(got, a + b.astype("float64"), np.abs(a) + np.abs(b), 1, "C")
    script = function.script()
    return {"script": script[script.index("@T.prim_func") :], "nest": loop_nest(function)}


def one_expression_three_targets(whose: str) -> dict:
    """The x86-64 and AArch64 assembly and the CUDA C of one matmul: the lines around its
    multiply-add."""
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    size = 64
    function = te.create_prim_func(exercise.body("1.1", whose)(size, size, size))

    def schedule() -> Schedule:
        """The matmul as one block, also where the product of A and B is a stage of its own."""
        sch = Schedule(function)
        for block in loop_nest(function).blocks:
            if block.name != "C":
                sch.compute_inline(sch.get_sblock(block.name))
        return sch

    def for_cpu() -> tvm.IRModule:
        """Column tiles as vectors, k outside of them: the least that lets an expression become
        vector code."""
        sch = schedule()
        i, j, k = sch.get_loops(sch.get_sblock("C"))
        columns, lane = sch.split(j, [None, 16])
        sch.reorder(i, columns, k, lane)
        sch.vectorize(lane)
        return sch.mod

    x86 = tvm.target.Target(
        {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "skylake-avx512"}
    )
    arm = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"})
    cuda = tvm.target.Target({"kind": "cuda", "arch": "sm_70"}, host="llvm")

    def for_gpu() -> tvm.IRModule:
        """One GPU thread for each element of C: the least that makes a kernel of an expression."""
        sch = schedule()
        i, j, _ = sch.get_loops(sch.get_sblock("C"))
        block, thread = sch.split(sch.fuse(i, j), [None, 128])
        sch.bind(block, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        return sch.mod

    excerpts = []
    for name, target in (
        ("x86-64 with AVX-512, assembly", x86),
        ("AArch64 with NEON, assembly", arm),
    ):
        assembly = tvm.compile(for_cpu(), target=target).mod.inspect_source("s")
        excerpts.append((name, _around(assembly, r"\bv?fmadd|\bfmla\b|\bv?mulps|\bfmul\b"), "text"))
    with cuda:
        kernels = tvm.compile(for_gpu(), target=cuda).mod.imports
    if not kernels:
        raise RuntimeError("TVM compiled the CUDA matmul to host code only")
    source = kernels[0].inspect_source()
    kernel = source[source.rindex('extern "C" __global__') :]
    excerpts.append(("NVIDIA sm_70, CUDA C", kernel, "c"))
    found = {name.partition(",")[0]: _instruction(text) for name, text, _ in excerpts}
    return {"excerpts": excerpts, "instructions": found}


def _around(source: str, pattern: str, before: int = 3, after: int = 6) -> str:
    lines = [
        line for line in source.splitlines() if not re.match(r"\s*(\.|#|//)", line)
    ]  # no labels, no remarks
    at = next(number for number, line in enumerate(lines) if re.search(pattern, line))
    return "\n".join(line.replace("\t", "  ") for line in lines[max(0, at - before) : at + after])


def _instruction(text: str) -> str:
    assembly = re.search(r"\b(v?fmadd\w+|fmla|v?mulps|fmul)\b", text)
    return assembly[1] if assembly else "a multiply-add in CUDA C"
