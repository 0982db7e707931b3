"""What "done" means in the lab on tensorization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_practice.checks import UNCHANGED, Trial, check
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

lesson = load_lesson("tensorize")


def run(function: Callable, inputs: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The int32 output of a compiled function; it held a number that no sum here reaches."""
    import tvm

    out = tvm.runtime.tensor(np.full(shape, UNTOUCHED, "int32"))
    function(*[tvm.runtime.tensor(array) for array in inputs], out)
    return out.numpy()


UNTOUCHED = -(1 << 30)


def numbers(trial: Trial, M: int, N: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    """A and B over the whole range of their types, its ends included."""
    a = trial.rng.integers(0, 256, (M, K)).astype("uint8")
    b = trial.rng.integers(-128, 128, (K, N)).astype("int8")
    a[0], b[:, 0] = 255, -128
    return a, b


def assert_multiplies(sch, trial: Trial, M: int, N: int, K: int) -> None:
    a, b = numbers(trial, M, N, K)
    try:
        function = build(sch.mod)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(f"TVM cannot compile this program: {reason}") from None
    got = run(function, [a, b], (M, N))
    want = a.astype("int32") @ b.astype("int32")
    if (got == want).all():
        return
    i, j = (int(place) for place in np.argwhere(got != want)[0])
    if got[i, j] == UNTOUCHED:
        raise Wrong(f"C[{i}, {j}] was never written.")
    raise Wrong(
        f"{int((got != want).sum())} of {got.size} elements of C are wrong; the first is C[{i}, "
        f"{j}] = {got[i, j]}, expected {want[i, j]}. These are integers: nothing is rounded."
    )


# ------------------------------------------------------------------------------------ 1 dot_product


@check(
    "tensorize.1",
    hints=(
        "Two loops and one statement; the second loop is the one that is summed over.",
        "The block's axes are vi = T.axis.spatial(lanes, i) and vk = T.axis.reduce(4, k); a byte "
        'is widened by T.cast(A[vk], "int32").',
        'C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32"), in a '
        'T.sblock("update") '
        "inside of the two loops; around them T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4]) and "
        "T.writes(C[0:lanes])",
    ),
    told={
        "none is a reduction|k around i|C is overwritten": (
            "The instruction adds four products to each lane. Which axis is spatial, which is a "
            "reduction, and what does C hold before?"
        ),
        "count as signed|computed as a byte": (
            "What is the product of 200 and -100? Which type holds it, and when must the numbers "
            "have it?"
        ),
        "sblock|T.sblock": (
            "The description is a program as those that are scheduled: what stands around the "
            "statement there?"
        ),
    },
)
def dot_product(body: Callable, trial: Trial) -> None:
    from tvm import tirx

    for lanes in (16, 8):
        function = trial.call(body, lanes)
        if not isinstance(function, tirx.PrimFunc):
            raise Wrong(
                f"dot_product({lanes}) should return the description, a PrimFunc; it returned "
                f"{function!r:.60}."
            )
        nest = loop_nest(function)
        trial.show(nest)
        _assert_buffers(function, lanes)
        if not nest.blocks:
            raise Wrong(
                "The loops contain no sblock: the statement stands in T.sblock(...), with an axis "
                "for each loop, as in multiply_add."
            )
        _assert_dot_loops(nest.blocks[-1], lanes)
        _assert_adds_dot_products(function, trial, lanes)
        _assert_found(function, lanes)


def _assert_buffers(function, lanes: int) -> None:
    expected = [("A", (4,), "uint8"), ("B", (lanes, 4), "int8"), ("C", (lanes,), "int32")]
    buffers = list(function.params)
    if len(buffers) != 3:
        raise Wrong(f"The description has {len(buffers)} buffers; expected A, B and C.")
    for buffer, (name, shape, dtype) in zip(buffers, expected, strict=True):
        got = tuple(int(extent) for extent in buffer.shape)
        if got != shape:
            raise Wrong(f"{name} has shape {got}; expected {shape}.")
        if str(buffer.dtype).replace("T.", "") != dtype:
            raise Wrong(f"{name} is {str(buffer.dtype).replace('T.', '')}; expected {dtype}.")
    if buffers[2].scope() != "local":
        raise Wrong(
            'C is not in scope "local". The tile of the program is kept in registers, and TVM '
            "matches the scopes too."
        )


def _assert_dot_loops(block: Block, lanes: int) -> None:
    loops = [(loop.extent, axis) for loop, axis in zip(block.loops, block.axes, strict=True)]
    if loops == [(lanes, "S"), (4, "R")]:
        return
    told = ", ".join(f"{loop.name} ({loop.extent})" for loop in block.loops)
    if len(loops) != 2:
        raise Wrong(f"The loops are {told or 'none'}; expected i over {lanes} lanes, k over 4.")
    if "R" not in block.axes:
        raise Wrong(
            f"The loops are {told}, and none is a reduction: k is summed over, so it is "
            "T.axis.reduce(4, k)."
        )
    if block.axes[0] == "R":
        raise Wrong(f"The loops are {told}, k around i. The program has the four k innermost.")
    raise Wrong(f"The loops are {told}; expected i over {lanes} lanes around k over 4.")


def _assert_adds_dot_products(function, trial: Trial, lanes: int) -> None:
    """Run it as a program: C starts from what is there."""
    import tvm

    a = trial.rng.integers(128, 256, 4).astype("uint8")
    b = trial.rng.integers(-128, 128, (lanes, 4)).astype("int8")
    start = trial.rng.integers(-1000, 1000, lanes).astype("int32")
    tensors = [tvm.runtime.tensor(array) for array in (a, b, start)]
    try:
        runnable = build(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(f"TVM cannot compile the description as a program: {reason}") from None
    runnable(*tensors)
    got = tensors[2].numpy()
    sums = b.astype("int32") @ a.astype("int32")
    if (got == start + sums).all():
        return
    if (got == sums).all():
        raise Wrong("C is overwritten. The instruction adds to what C holds: C[vi] = C[vi] + ...")
    narrow = (b * a.astype("int8")).sum(axis=1, dtype="int32")
    if (got == start + narrow).all():
        raise Wrong(
            "The product of two bytes is computed as a byte, and overflows: T.cast each to "
            '"int32" first.'
        )
    signed = b.astype("int32") @ a.astype("int8").astype("int32")
    if (got == start + signed).all():
        raise Wrong("A's bytes count as signed here: 200 becomes -56. A is uint8.")
    raise Wrong(
        f"From A = {a.tolist()}, B[0] = {b[0].tolist()}, C[0] = {start[0]} the description makes "
        f"C[0] = {got[0]}; expected {start[0] + sums[0]}."
    )


def _assert_found(function, lanes: int) -> None:
    """TVM finds the description in the program, with the references around it."""
    llvm = next(name for width, name in lesson.INSTRUCTIONS.values() if width == lanes)
    sch = tiled((8, 2 * lanes, 8, 4, 2, lanes))
    body_of("tensorize.2")(sch, 2 * lanes)
    try:
        body_of("tensorize.3")(sch, lesson.register(lanes, llvm, function))
    except Exception:
        told = (
            "The description computes the right numbers, but TVM compares word for word, and does "
            "not find it in the program. "
        )
        root = function.body.block
        if len(root.reads) != 3 or len(root.writes) != 1:
            why = (
                "T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4]) and T.writes(C[0:lanes]) are to "
                'stand in T.sblock("root"), before the loops.'
            )
        elif [name for name in loop_nest(function).blocks[-1].reads if name != "C"] != ["A", "B"]:
            why = "The program multiplies A by B, in this order."
        else:
            why = (
                'The program has C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], '
                '"int32").'
            )
        raise Wrong(told + why) from None


# ------------------------------------------------------------------------------------ the schedules

# (M, N, K, rows, vectors, lanes)
CASES = ((32, 96, 24, 4, 2, 16), (12, 32, 8, 3, 1, 8))


def tiled(case, steps: tuple = ()):
    M, N, K, rows, vectors, lanes = case
    sch = lesson.matmul(M, N, K)
    lesson.tile(sch, rows, vectors, lanes)
    for step in steps:
        step(sch)
    return sch


def _assert_kept(before: Block, after: Block, count: int) -> None:
    """The first loops around the product are what they were."""
    for old, new in zip(before.loops[:count], after.loops, strict=False):
        if old != new:
            told = ", ".join(f"{loop.name} ({loop.kind})" for loop in after.loops)
            raise Wrong(
                f"The loops of the product are not as they were: now {told}; expected {old.name} "
                f"({old.kind}) in the place of {new.name} ({new.kind})."
            )


@check(
    "tensorize.2",
    hints=(
        "As in 2.5: the copy, its layout, its loops. The layout has one index more.",
        'cache_read(block, 1, "global"); transform_layout(block, ("read", 1), lambda k, j: ...) '
        "with k // 4 and k % 4; then split both loops of the copy.",
        "lambda k, j: (j // columns, k // 4, j % columns, k % 4); k into ko, four; j into panel, "
        "column; reorder(panel, ko, column, four); parallel(panel)",
    ),
    told={
        **UNCHANGED,
        r"transform_layout is missing|expected \(|is kept at": (
            "The instruction reads four values of k for each column, side by side. Which index "
            "must change fastest in memory?"
        ),
        "byte after byte|all the panels|inside of the product": (
            "The copy is made once, by all threads, in the order of the memory that it writes. "
            "Which of its loops is outermost, which innermost?"
        ),
    },
)
def pack(body: Callable, trial: Trial) -> None:
    for case in CASES:
        M, N, K, _, vectors, lanes = case
        columns = vectors * lanes
        sch = tiled(case)
        before = loop_nest(sch.mod)
        trial.call(body, sch, columns)
        after = loop_nest(sch.mod)
        trial.show(after, before)
        call = f"pack(sch, {columns})"
        if after.lines == before.lines:
            raise Wrong(f"{call} ran, but the loop nest is what it was before.")
        product = after.block("C")
        if product is None:
            raise Wrong('The block "C" is gone; it is not to be decomposed before the next step.')
        if product.reads[0] != "A" and product.reads[1] == "B":
            raise Wrong(f"{call} copies A. The block reads A and B, counted from 0: B is number 1.")
        if tuple(map(int, sch.mod["main"].params[1].shape)) != (K, N):
            raise Wrong(
                f"{call} changed the shape of B itself, which callers pass: cache_read first, then "
                "the layout of the copy."
            )
        if product.reads[1] == "B":
            raise Wrong(f"After {call} the block still reads B as it lies.")
        packed = product.reads[1]
        shape = next(shape for name, shape, _ in after.buffers if name == packed)
        wanted = (N // columns, K // 4, columns, 4)
        if shape == (K, N):
            raise Wrong(f"{packed} has the shape of B: transform_layout is missing.")
        if shape != wanted:
            raise Wrong(
                f"{packed} has shape {shape}; expected {wanted}: panel, k // 4, column, k % 4."
            )
        scope = next(scope for name, _, scope in after.buffers if name == packed)
        if scope not in ("", "global"):
            raise Wrong(
                f'{packed} is in scope "{scope}"; expected "global". All of B packed is far too '
                "much for registers, it lies in memory; and the instruction's B is described as "
                "memory, so that tensorize would not find it here."
            )
        assert_multiplies(sch, trial, M, N, K)
        _assert_kept(before.block("C"), product, len(product.loops))
        _assert_woven(sch, packed, columns)
        _assert_copy(after, packed, wanted)


def _assert_woven(sch, packed: str, columns: int) -> None:
    """Element [k, j] of B is where the instruction looks for it."""
    from tvm import ir
    from tvm.sym import Analyzer

    block = sch.get(sch.get_sblock("C"))
    region = next(region for region in block.reads if region.source.name == packed)
    indices = [index.min for index in region.region]
    axes = {axis.var.name: axis for axis in block.iter_vars}
    analyzer = Analyzer()
    for axis in block.iter_vars:
        analyzer.bind(axis.var, ir.Range(0, axis.dom.extent))
    k, j = axes["v_k"].var, axes["v_j"].var
    wanted = (j // columns, k // 4, j % columns, k % 4)
    if not all(map(analyzer.can_prove_equal, indices, wanted)):
        kept = ", ".join(str(analyzer.simplify(index)).replace("v_", "") for index in indices)
        raise Wrong(
            f"Element [k, j] of B is kept at [{kept}]; expected [j // {columns}, k // 4, "
            f"j % {columns}, k % 4]."
        )


def _assert_copy(after, packed: str, wanted: tuple[int, ...]) -> None:
    copy = next(block for block in after.blocks if block.stores_to == packed)
    told = ", ".join(f"{loop.name} ({loop.extent})" for loop in copy.loops)
    if any(one is other for one, other in zip(copy.loops, after.block("C").loops, strict=False)):
        raise Wrong("The copy stands inside of the product's loops; B is to be packed once.")
    if [loop.extent for loop in copy.loops] != list(wanted) or copy.strides[-1] != 1:
        raise Wrong(
            f"The copy's loops are {told}; expected panel, k // 4, column, k % 4, of extents "
            f"{list(wanted)}, so that it writes byte after byte."
        )
    if copy.loops[0].kind != "parallel":
        raise Wrong("One thread packs all the panels while the others wait: share them out.")


@check(
    "tensorize.3",
    hints=(
        "Three primitives: decompose_reduction, vectorize, tensorize.",
        "decompose_reduction(block, ko) returns the zeroing, whose last loop wants to be "
        "vectorized; tensorize takes the loop lane, with four inside of it.",
        "_, _, _, ko, _, _, lane, _ = sch.get_loops(block); zero = sch.decompose_reduction(block, "
        "ko); sch.vectorize(sch.get_loops(zero)[-1]); sch.tensorize(lane, name)",
    ),
    told={
        **UNCHANGED,
        "only adds|zeroing": (
            "The instruction only adds. So where does each sum get its 0, and when in your answer "
            "is that taken out?"
        ),
        "not what the description|No loop has been": (
            "Which loops does the description of the instruction have, and which one of yours "
            "stands around just these?"
        ),
    },
)
def tensorize(body: Callable, trial: Trial) -> None:
    found = lesson.instruction()
    # Without such an instruction the loops are still found and replaced, but cannot be run.
    lanes, llvm = found or next(iter(lesson.INSTRUCTIONS.values()))
    name = lesson.register(lanes, llvm, body_of("tensorize.1")(lanes))
    for M, N, K, rows, vectors in ((32, 6 * lanes, 24, 4, 2), (12, 4 * lanes, 8, 3, 1)):
        case = (M, N, K, rows, vectors, lanes)
        sch = tiled(case, (lambda sch: body_of("tensorize.2")(sch, vectors * lanes),))  # noqa: B023
        before = loop_nest(sch.mod)
        trial.call(body, sch, name)
        after = loop_nest(sch.mod)
        trial.show(after, before)
        if after.lines == before.lines:
            raise Wrong("tensorize(sch, name) ran, but the loop nest is what it was before.")
        if llvm.rpartition(".")[0] not in str(sch.mod) and "call_llvm" not in str(sch.mod):
            raise Wrong("No loop has been replaced: there is no call of the instruction.")
        zero = after.block("C_init")
        if zero is None:
            raise Wrong("The zeroing is not there by itself: decompose_reduction(block, ko).")
        update = next(block for block in after.blocks if block.name.startswith("C_update"))
        shared = sum(a is b for a, b in zip(zero.loops, update.loops, strict=False))
        k = update.axes.index("R")
        if shared != k:
            raise Wrong(
                f"The zeroing stands {'inside of' if shared > k else 'outside of'} the place it "
                "belongs to, just before ko: decompose_reduction takes the loop it is put before."
            )
        if zero.loops[-1].kind != "vectorized":
            raise Wrong(
                f"The lanes of the zeroing (loop {zero.loops[-1].name}) are {zero.loops[-1].kind}. "
                "The compiler then makes no registers of C_local; vectorize them."
            )
        _assert_kept(before.block("C"), update, 6)
        if found:
            assert_multiplies(sch, trial, M, N, K)
