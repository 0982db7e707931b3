"""What "done" means in the lab on a fused epilogue."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isclose

import numpy as np

from tvm_practice.checks import UNCHANGED, Trial, check, on_gpu
from tvm_practice.common import verify
from tvm_practice.common.accesses import written
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, LoopNest, loop_nest
from tvm_practice.common.target import build, register_tile
from tvm_practice.common.verify import Wrong

lesson = load_lesson("fused_gelu")


# ------------------------------------------------------------------------------------------- 1 tanh


def _elementwise(rule: Callable, n: int):
    """y[i] = rule(x[i]) for n float32 elements, as a PrimFunc."""
    from tvm import te

    x = te.placeholder((n,), name="x")
    return te.create_prim_func([x, te.compute((n,), lambda i: rule(x[i].asobject()), name="y")])


@check(
    "fused_gelu.1",
    hints=(
        "Two steps: bring x into the range where the quotient holds, then write the quotient.",
        "tirx.min and tirx.max with number(LIMIT) and number(-LIMIT); then polynomial(P, x * x) "
        "and polynomial(Q, x * x).",
        "x = tirx.max(tirx.min(x, number(LIMIT)), number(-LIMIT)); "
        "return x * polynomial(P, x * x) / polynomial(Q, x * x)",
    ),
    told={
        "runs away|min and max exchanged": (
            "Try x = 20 and x = -20 by hand: what should tanh be there, and what goes into your "
            "quotient?"
        ),
        "one number at a time|calls sigmoid": (
            "Only additions, multiplications and one division can be done on all lanes at once. "
            "Which call of yours is a function of the library?"
        ),
        r"in x \* x|factor x|upside down": (
            "tanh is odd: x times a quotient of two polynomials in x * x. Where does x stand in "
            "yours?"
        ),
    },
)
def tanh(body: Callable, trial: Trial) -> None:
    near = trial.rng.uniform(-8, 8, 3000)
    x = np.concatenate([near, np.linspace(-0.01, 0.01, 501), [12.0, -12.0, 60.0, -60.0, 0.0]])
    x = x.astype("float32")
    function = _elementwise(lambda value: _expression(trial.call(body, value)), len(x))
    nest = loop_nest(function)
    trial.show(nest)
    if called := _calls(function):
        raise Wrong(
            f"The expression calls {called[0]}, which this CPU computes one number at a time. Only "
            "P, Q and LIMIT are needed, and arithmetic."
        )
    got = verify.run(build(function), (x,), x.shape)
    want = np.tanh(x.astype("float64"))
    off = np.nan_to_num(np.abs(got - want), nan=np.inf)
    inside = abs(x) < lesson.LIMIT
    if off[inside].max() > 5e-7:
        worst = int(np.argmax(np.where(inside, off, 0)))
        raise Wrong(
            f"tanh({x[worst]:.6g}) is {got[worst]:.6g}; expected {want[worst]:.6g}."
            + _why_not_tanh(x[inside], got[inside])
        )
    if off.max() > 5e-7:
        worst = int(np.argmax(off))
        raise Wrong(
            f"tanh({x[worst]:g}) is {got[worst]:g}; expected {want[worst]:g}. Beyond LIMIT the "
            "quotient runs away: bring x into -LIMIT to LIMIT first."
        )


def _calls(function) -> list[str]:
    """The names of the functions that a PrimFunc calls: exp, tanh, and the like."""
    import tvm_ffi
    from tvm import ir

    found = []

    def look(call) -> None:
        found.append(str(getattr(call.op, "name", call.op)).rpartition(".")[2])

    tvm_ffi.structural_walk(function.body, (ir.Call, look))
    return found


def _expression(value):
    from tvm import tirx

    if not isinstance(value, tirx.Expr):
        raise Wrong(f"tanh(x) should return an expression; it returned {value!r:.60}.")
    return value


def _polynomial(coefficients, x: np.ndarray) -> np.ndarray:
    return np.polynomial.polynomial.polyval(x, coefficients)


def _why_not_tanh(x: np.ndarray, got: np.ndarray) -> str:
    """The sentence for a slip that gives these numbers."""
    if (got == got[0]).all():
        return (
            f" It is {got[0]:.6g} for every x. Are min and max exchanged? The smaller of x and "
            "LIMIT is never above LIMIT; the larger of that and -LIMIT is never below -LIMIT."
        )
    x = x.astype("float64")
    p, q = (_polynomial(known, x * x) for known in (lesson.P, lesson.Q))
    slips = [
        (p / q, "The factor x before the quotient is missing: P and Q are even, tanh is odd."),
        (
            x * _polynomial(lesson.P, x) / _polynomial(lesson.Q, x),
            "The polynomials are in x * x, not in x.",
        ),
        (x * q / p, "The quotient is upside down: P is above, Q below."),
        (x * p, "The division by Q is missing."),
    ]
    with np.errstate(all="ignore"):
        for values, sentence in slips:
            if np.allclose(got, values, rtol=1e-3, atol=1e-3, equal_nan=True):
                return f" {sentence}"
    return ""


# ------------------------------------------------------------------------------------- 2 expression


def _reference_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def inputs(trial: Trial, M: int, N: int, K: int):
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    return a, b, verify.random_array(trial.rng, N)


def _reference_relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def assert_computes(
    module, trial: Trial, M: int, N: int, K: int, activation: Callable = _reference_gelu
) -> None:
    """A module computes G = activation(A @ B + bias), on random numbers."""
    try:
        function = build(module)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(f"TVM cannot compile this program: {reason}") from None
    assert_right(function, trial, M, N, K, partial(written, module, "G"), activation)


def assert_right(
    function: Callable,
    trial: Trial,
    M: int,
    N: int,
    K: int,
    writer: Callable[[tuple[int, ...]], str],
    activation: Callable = _reference_gelu,
) -> None:
    """The same for a function that is ready to be called. writer: who wrote an element of G."""
    a, b, bias = inputs(trial, M, N, K)
    got = verify.run(function, (a, b, bias), (M, N))
    c, magnitude = verify.matmul_reference(a, b)
    want = activation(c + bias)
    reasons = [
        (activation(c), "Is the bias missing?"),
        (activation(c) + bias, "The bias comes before the activation, not after it."),
        (c + bias, "Is the activation missing?"),
        (activation(c - bias), "The bias is to be added."),
        (
            activation(c + K * bias),
            "The bias stands inside of the sum, and is added for every k. It belongs into G's "
            "rule, where it is added once.",
        ),
    ]
    if M == N:
        by_rows = activation(c + bias[:, None])
        reasons.append((by_rows, "It is bias[j], one for each column; this is bias[i]."))
    # gelu changes by at most 1.13 times what its argument changes by.
    verify.assert_close(got, want, 1.2 * (magnitude + abs(bias)) + 1.0, K, "G", reasons, writer)


@check(
    "fused_gelu.2",
    hints=(
        "matmul of 1.1 with one more placeholder and one more te.compute.",
        "C = te.compute((M, N), lambda i, j: te.sum(...), name='C') as in 1.1; G is a te.compute "
        "of the same shape whose rule calls activation.",
        "G = te.compute((M, N), lambda i, j: activation(C[i, j] + bias[j]), name='G')",
    ),
    told={
        "before the activation|activation missing|bias missing|inside of the sum": (
            "Three stages in a row: product, bias, activation. What does the rule of G read, and "
            "what does it do first?"
        ),
        "one for each column": (
            "How many elements has bias? Which of i and j takes that many values?"
        ),
    },
)
def expression(body: Callable, trial: Trial) -> None:
    from tvm import te, tirx

    rational = body_of("fused_gelu.1")
    # First an activation that leaves the loop nest short enough to be read.
    activations = [
        ("relu", lambda x: tirx.max(x, lesson.number(0.0)), _reference_relu),
        ("gelu", lambda x: lesson.gelu(x, rational), _reference_gelu),
    ]
    for (M, N, K), (name, activation, numbers) in zip(
        ((9, 9, 5), (6, 11, 8)), activations, strict=True
    ):
        call = f"expression({M}, {N}, {K}, {name})"
        tensors = trial.call(body, M, N, K, activation)
        if not isinstance(tensors, (list, tuple)) or len(tensors) != 4:
            raise Wrong(
                f"{call} should return the list [A, B, bias, G]; it returned {tensors!r:.80}."
            )
        if not all(isinstance(tensor, te.Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
            raise Wrong(
                f"{call} should return four te.Tensors, [A, B, bias, G]; it returned {kinds}."
            )
        shapes = [tuple(int(extent) for extent in tensor.shape) for tensor in tensors]
        if shapes != [(M, K), (K, N), (N,), (M, N)]:
            raise Wrong(
                f"{call} returns tensors of the shapes {', '.join(map(str, shapes))}; expected A "
                f"{(M, K)}, B {(K, N)}, bias {(N,)}, G {(M, N)}, in this order."
            )
        function = te.create_prim_func(list(tensors))
        nest = loop_nest(function)
        trial.show(nest)
        stages = [block.name for block in nest.blocks]
        if stages != ["C", "G"]:
            raise Wrong(
                f"The stages of {call} are {', '.join(stages)}; expected C, the sum, and G, "
                "everything that happens to an element of it, by name=."
            )
        assert_computes(function, trial, M, N, K, numbers)


# ------------------------------------------------------------------------------------------- 3 fuse


def _sizes() -> tuple[tuple[int, int, int, int, int], ...]:
    """(M, N, K, rows, columns) that the step is tried at: a size that the tile divides, to look at;
    another tile; and a size that is padded."""
    rows, columns = register_tile()
    return (
        (4 * rows, 3 * columns, 24, rows, columns),
        (6, 2 * columns, 7, 3, columns),
        (2 * rows + 1, 2 * columns + 5, 9, rows, columns),
    )


@check(
    "fused_gelu.3",
    hints=(
        "The steps of 2.4, with G in place of the copy, and set_scope in place of cache_write.",
        "set_scope(block, 0, 'local'); reverse_compute_at(G, io), io being the loop just around k; "
        "then the kinds of G's last two loops; unroll ii; decompose_reduction last.",
        "block, G = sch.get_sblock('C'), sch.get_sblock('G'); *_, io, k, ii, ji = "
        "sch.get_loops(block); sch.set_scope(block, 0, 'local'); sch.reverse_compute_at(G, io); "
        "*_, row, column = sch.get_loops(G); unroll row and ii, vectorize column; "
        "sch.decompose_reduction(block, k)",
    ),
    told={
        **UNCHANGED,
        "after all the loops|many tiles are|not finished|in memory": (
            "G can be computed when a tile of C is done, before the next one is begun, and then C "
            "needs no memory. Which loop goes from tile to tile?"
        ),
        "one element after|before reverse_compute_at|rows of G": (
            "A block that is moved gets new loops. Which kinds should they have, and when can you "
            "give them?"
        ),
        "tested for every k|at k|more than one tile": (
            "Each sum starts at 0 once, before its first k. Which is the last of your calls?"
        ),
    },
)
def fuse(body: Callable, trial: Trial) -> None:
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    rational = body_of("fused_gelu.1")
    # First an activation that leaves the loop nest short enough to be read.
    activations = [
        (lambda x: tirx.max(x, lesson.number(0.0)), _reference_relu),
        (lambda x: lesson.gelu(x, rational), _reference_gelu),
        (lambda x: lesson.gelu(x, rational), _reference_gelu),
    ]
    for (M, N, K, rows, columns), (activation, numbers) in zip(_sizes(), activations, strict=True):
        sch = Schedule(te.create_prim_func(body_of("fused_gelu.2")(M, N, K, activation)))
        lesson.ladder(sch, rows, columns)
        before, steps = loop_nest(sch.mod), len(sch.trace.insts)
        trial.call(body, sch)
        after = loop_nest(sch.mod)
        trial.show(after, before)
        if after.lines == before.lines:
            raise Wrong(
                "fuse(sch) ran, but the loop nest is what it was before. Each primitive changes "
                "sch itself; was any called?"
            )
        _assert_fused(after, [step.kind.name for step in sch.trace.insts][steps:])
        assert_computes(sch.mod, trial, M, N, K, numbers)


def _assert_fused(after: LoopNest, steps: list[str]) -> None:
    """steps: the primitives that were called, by TVM's names."""
    product, epilogue = after.computing("C"), after.block("G")
    if product is None or epilogue is None:
        names = ", ".join(block.name for block in after.blocks)
        raise Wrong(f'The blocks are now {names}; "C" and "G" should still be there.')
    expected = {"C_init", "C_update", "C", "G", "A_pad", "B_pad"}
    if others := {block.name for block in after.blocks} - expected:
        raise Wrong(
            f"There is a new block, {min(others)}: G reads C itself, so nothing has to be copied. "
            "set_scope moves C to registers without a second buffer."
        )
    k = product.axes.index("R")
    shared = sum(a is b for a, b in zip(product.loops, epilogue.loops, strict=False))
    if shared == 0:
        raise Wrong(
            "G stands after all the loops of C: all of C is finished, and has left the registers "
            "and most of the caches, before the first element of G. reverse_compute_at moves G in."
        )
    if shared > k:
        raise Wrong("G stands inside of k: it is computed from sums that are not finished.")
    if shared < k:
        raise Wrong(
            f"G stands in loop {epilogue.loops[shared - 1].name}: many tiles are finished before "
            f"it. It belongs in {product.loops[k - 1].name}, the loop just around k."
        )
    if product.scope != "local":
        raise Wrong(
            "G is computed where the tile is finished, but C still lies in memory. "
            'set_scope(block, 0, "local") keeps the tile in registers.'
        )
    if product.has_init:
        raise Wrong(
            "The zeroing `if k == 0` is still tested for every k. decompose_reduction(block, k) "
            "makes it a loop nest of its own."
        )
    moved = steps.index("ReverseComputeAt") if "ReverseComputeAt" in steps else len(steps)
    if "Vectorize" in steps[:moved] and epilogue.loops[-1].kind == "serial":
        raise Wrong(
            f"The columns of G (loop {epilogue.loops[-1].name}) are serial: vectorize was called "
            "before reverse_compute_at, which gives G new loops, without kinds. Move G first; then "
            "ask for its loops, and set their kinds."
        )
    _assert_kinds(product, epilogue, after.block("C_init"), k)


def _assert_kinds(product: Block, epilogue: Block, zero: Block | None, k: int) -> None:
    kinds = [loop.kind for loop in epilogue.loops[k:]]
    if len(kinds) != 2:
        raise Wrong(f"G has {len(kinds)} loops in the tile; expected two, its rows and columns.")
    if kinds[1] != "vectorized":
        raise Wrong(
            f"The columns of G (loop {epilogue.loops[-1].name}) are {kinds[1]}: the whole GELU is "
            "computed for one element after the other. Vectorize them."
        )
    if kinds[0] != "unrolled":
        raise Wrong(
            f"The rows of G (loop {epilogue.loops[-2].name}) are {kinds[0]}: C with a variable row "
            "has no register. Unroll them."
        )
    if len(product.loops) != k + 3 or product.loops[k].kind != "serial":
        raise Wrong(
            f"The loops around the product are now {product.order()}, {product.loops[k].name} is "
            f"{product.loops[k].kind}; k should stay as it was, with the tile's two loops in it."
        )
    rows, columns = product.loops[k + 1 :]
    if rows.kind != "unrolled":
        raise Wrong(
            f"The rows of the tile (loop {rows.name}) are {rows.kind}: C with a variable row has "
            "no register. Unroll them."
        )
    if columns.kind != "vectorized" or product.loops[0].kind != "parallel":
        raise Wrong("The tile's columns should still be vectorized, and the slabs parallel.")
    zeroing = [loop.kind for loop in zero.loops[k:]] if zero else []
    before_k = sum(a is b for a, b in zip(product.loops, zero.loops, strict=False)) if zero else k
    if before_k != k:
        raise Wrong(
            f"The zeroing stands before {product.loops[before_k].name}, and zeroes more than one "
            "tile. It should stand just before k: decompose_reduction takes the loop it is put "
            "before."
        )
    if zeroing != ["unrolled", "vectorized"]:
        raise Wrong(
            f"The loops of the zeroing are {' and '.join(zeroing) or 'gone'}: it took over the "
            "kinds that ii and ji had when decompose_reduction was called, at the loop it was "
            "given. Call it last, at k."
        )


# ---------------------------------------------------------------------------------------- 4 predict


@check(
    "fused_gelu.4",
    hints=(
        "Three durations: the product, the epilogue's arithmetic, and one pass over G.",
        "Operations divided by gflops * 1e9 are seconds; so are bytes divided by gbytes * 1e9. A "
        "pass moves 8 bytes for each of M * N elements.",
        "product = 2 * M * N * K / (gflops * 1e9); epilogue = operations * M * N / (gflops * 1e9); "
        "one_pass = 8 * M * N / (gbytes * 1e9); return product + epilogue, product + 2 * one_pass",
    ),
    told={
        "1e9 operations|two operations|still to be done": (
            "Count the operations of one element of G by hand, with K = 3. Then the unit: how "
            "many are a giga?"
        ),
        "each reads and writes|hidden behind": (
            "Which bytes move in each of the two versions, and which part of the time hides "
            "behind which?"
        ),
    },
)
def predict(body: Callable, trial: Trial) -> None:
    cases = [(1000, 1000, 1000, 30, 200.0, 20.0), (300, 700, 50, 40, 50.0, 10.0)]
    for case in cases:
        M, N, K, operations, gflops, gbytes = case
        call = f"predict{case}"
        got = trial.call(body, *case)
        pair = isinstance(got, (tuple, list)) and len(got) == 2
        if not pair or not all(isinstance(one, (int, float)) for one in got):
            raise Wrong(f"{call} should return two numbers, (fused, in three passes): {got!r:.60}.")
        product, one_pass = 2e-9 * M * N * K / gflops, 8e-9 * M * N / gbytes
        epilogue = 1e-9 * operations * M * N / gflops
        want = (product + epilogue, product + 2 * one_pass)
        told = f"{call} is ({got[0]:.4g}, {got[1]:.4g}) s; expected ({want[0]:.4g}, {want[1]:.4g})."
        same = [isclose(one, other, rel_tol=1e-9) for one, other in zip(got, want, strict=True)]
        if all(same):
            continue
        if isclose(got[0], 1e9 * want[0], rel_tol=1e-6):
            raise Wrong(f"{told} gflops counts 1e9 operations a second, gbytes 1e9 bytes.")
        if isclose(got[0], product, rel_tol=1e-9) and same[1]:
            raise Wrong(f"{told} Fused, the epilogue's own operations are still to be done.")
        if isclose(got[0], product / 2 + epilogue, rel_tol=1e-9):
            raise Wrong(f"{told} A multiplication and an addition are two operations.")
        if isclose(got[1], product + one_pass, rel_tol=1e-9):
            raise Wrong(
                f"{told} Two passes come after the product, and each reads and writes: four times "
                "4 bytes for each element, not two."
            )
        if isclose(got[1], product + 2 * one_pass + epilogue, rel_tol=1e-9):
            raise Wrong(
                f"{told} In a pass over memory the arithmetic is hidden behind the memory; it is "
                "not to be added."
            )
        if isclose(got[1], want[0], rel_tol=1e-9) and isclose(got[0], want[1], rel_tol=1e-9):
            raise Wrong(f"{told} They are in the other order: fused first.")
        raise Wrong(told)


# ---------------------------------------------------------------------------------- 5 on a GPU


def ladder_on_gpu(M: int, N: int, K: int, threads: tuple[int, int]):
    """The expression after phase 2's GPU ladder, by references, with G on its own."""
    from tvm import te
    from tvm.s_tir import Schedule

    phase = load_lesson("manual_schedule")
    tanh = body_of("fused_gelu.1")
    tensors = body_of("fused_gelu.2")(M, N, K, lambda x: lesson.gelu(x, tanh))
    sch = Schedule(te.create_prim_func(tensors))
    tiling = phase.Tiling(threads, each=(4, 4), depth=8, width=4)
    for known in phase.GPU_LADDER:
        phase.climb_gpu(sch, known, body_of(known), tiling)
    return sch


@check(
    "fused_gelu.5",
    hints=(
        "G is to disappear as a block: its arithmetic goes into the block that stores C.",
        "`sch.reverse_compute_inline(block)` puts a block into the one that writes what it reads.",
        '`sch.reverse_compute_inline(sch.get_sblock("G"))`',
    ),
    told={
        "There are 2 kernels|of the block .G. is bound": (
            "One kernel has one grid. Does G run in loops of its own, or in those that make C?"
        ),
        "C, is still in global": (
            "Where should the numbers lie that only one thread makes and reads?"
        ),
    },
)
def fuse_kernels(body: Callable, trial: Trial) -> None:
    M, N, K = 64, 96, 16
    sch = ladder_on_gpu(M, N, K, (8, 8))
    _, after = on_gpu.taken(sch, body, trial, alike=True)  # two kernels, as is told below
    function = on_gpu.compiled(
        sch,
        "G is not in the kernel",
        {
            "Cannot allocate global memory": (
                "G is in the kernel, but what it reads, C, is still in global memory, a buffer "
                "that no caller gives. `sch.set_scope(block, 0, ...)` says where a block's result "
                "lives; or let G be inlined, so that there is no C."
            )
        },
    )
    if len(function.kernels) > 1:
        raise Wrong(
            f"There are {len(function.kernels)} kernels: the first stores C, {M * N * 4:,} bytes "
            "at this size, and the second reads it again. G belongs into the first."
        )
    store = next((block for block in after.blocks if block.stores_to == "G"), None)
    if store is None or store.loops[-1].kind != "vectorized":
        raise Wrong(
            "One kernel, but it stores G one element at a time. The loop over a thread's columns "
            "is to be vectorized, as the store of C was."
        )
    assert_right(function, trial, M, N, K, partial(function.written, "G"))
