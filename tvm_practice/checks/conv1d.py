"""What "done" means in the lab on one-dimensional convolution."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from tvm_practice.checks import UNCHANGED, Trial, check, on_gpu
from tvm_practice.common import verify
from tvm_practice.common.accesses import written
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, LoopNest, loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

lesson = load_lesson("conv1d")

# (M, N): more samples than taps, fewer, and one tap.
SHAPES = ((29, 6), (5, 9), (13, 1))


def function_of(tensors, call: str):
    """The PrimFunc of what an expression returned, which should be [D, W, C]."""
    from tvm import te

    if not isinstance(tensors, (list, tuple)) or len(tensors) != 3:
        raise Wrong(f"{call} should return the list [D, W, C]; it returned {tensors!r:.80}.")
    if not all(isinstance(tensor, te.Tensor) for tensor in tensors):
        raise Wrong(f"{call} should return three te.Tensors; it returned {tensors!r:.80}.")
    _assert_no_where(tensors[2])
    function = te.create_prim_func(list(tensors))
    if outside := _read_for_select(function):
        raise Wrong(
            f"{call} reads {outside} where there is no such element: tirx.Select computes both of "
            "its values and then takes one (and TVM drops a min or max that its condition makes "
            "needless). tirx.if_then_else computes only the one it takes."
        )
    return function


def _assert_no_where(tensor) -> None:
    """te.create_prim_func drops the condition of a sum without a word."""
    from tvm import te, tirx

    if not isinstance(tensor.op, te.ComputeOp):
        return
    for expression in tensor.op.body:
        if isinstance(expression, tirx.Reduce) and str(expression.condition) not in ALWAYS:
            raise Wrong(
                f"The sum of {tensor.name} has a condition, where=, which TVM leaves out when it "
                "makes a program of it: every term is added. A condition belongs into the term, "
                "as tirx.if_then_else."
            )
    for source in tensor.op.input_tensors:
        _assert_no_where(source)


ALWAYS = ("True", "1", "T.bool(True)")


def _read_for_select(function) -> str:
    """A read that a tirx.Select does not keep from going outside of its buffer; "" if none."""
    import tvm_ffi
    from tvm import ir, s_tir, tirx
    from tvm.sym import Analyzer

    analyzer, found = Analyzer(), []

    def look(node, chosen: bool) -> None:
        if isinstance(node, ir.TensorLoad) and chosen:
            for index, size in zip(node.indices, node.source.shape, strict=True):
                if not (analyzer.can_prove(index >= 0) and analyzer.can_prove(index < size)):
                    indices = ", ".join(str(one).replace("v_", "") for one in node.indices)
                    found.append(f"{node.source.name}[{indices}]")
        if isinstance(node, ir.Call) and getattr(node.op, "name", "").endswith("if_then_else"):
            condition, then, otherwise = node.args
            look(condition, chosen)
            for scope, branch in ((condition, then), (tirx.Not(condition), otherwise)):
                with analyzer.constraint_scope(scope):
                    look(branch, chosen)
            return
        inner = chosen or isinstance(node, tirx.Select)
        for name in ("a", "b", "value", "condition", "true_value", "false_value"):
            if isinstance(child := getattr(node, name, None), tvm_ffi.Object):
                look(child, inner)
        for name in ("args", "indices"):
            for child in getattr(node, name, ()):
                look(child, inner)

    def block(realize) -> None:
        for axis in realize.block.iter_vars:
            analyzer.bind(axis.var, ir.Range(0, axis.dom.extent))
        if isinstance(realize.block.body, tirx.BufferStore):
            look(realize.block.body.value, False)

    tvm_ffi.structural_walk(function.body, (s_tir.SBlockRealize, block))
    return next(iter(found), "")


def assert_convolves(module, trial: Trial, M: int, N: int) -> None:
    """Run it on random numbers, the filter lopsided, so that a turned-round one shows."""
    d, w = verify.random_array(trial.rng, M), verify.random_array(trial.rng, N)
    want = np.convolve(d.astype("float64"), w)
    magnitude = np.convolve(abs(d.astype("float64")), abs(w))
    reasons = [
        (
            np.convolve(d, w[::-1]),
            "That is the correlation: the filter is turned round. Sample i - k goes with tap k.",
        ),
        (
            np.concatenate([want[1:], [0.0]]),
            "Every result stands one place too early: is a shift by N - 1 taken as N?",
        ),
        (
            np.concatenate([[0.0], want[:-1]]),
            "Every result stands one place too late: is a shift by N - 1 taken as N?",
        ),
    ]
    try:
        function = build(module)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(f"TVM cannot compile this program: {reason}") from None
    got = verify.run(function, (d, w), (M + N - 1,))
    what = f"C (for {M} samples, {N} taps)"
    writer = partial(written, module, "C")
    verify.assert_close(got, want, magnitude, N, what, reasons, writer)


def block_of(nest: LoopNest, name: str, why: str) -> Block:
    block = nest.computing(name)
    if block is None:
        there = ", ".join(block.name for block in nest.blocks)
        raise Wrong(f'There is no stage "{name}" ({there}); {why}')
    return block


def assert_length(block: Block, M: int, N: int) -> None:
    length = block.loops[0].extent
    if length == M + N - 1:
        return
    modes = {M: "same", M - N + 1: "valid"}
    mode = f", which np.convolve calls {modes[length]!r}" if length in modes else ""
    raise Wrong(
        f"C has {length} elements for {M} samples and {N} taps{mode}; the full convolution has "
        f"M + N - 1 = {M + N - 1}."
    )


@check(
    "conv1d.1",
    hints=(
        "Turn the question round: not which tap belongs to a sample, but which sample to a tap.",
        "The reduction axis is k = te.reduce_axis((0, N), name='k'). The sample is D[i - k]; it is "
        "there if 0 <= i - k < M, two comparisons in a tirx.all.",
        "te.sum(tirx.if_then_else(tirx.all(i - k >= 0, i - k < M), D[i - k] * W[k], "
        "tirx.const(0.0, 'float32')), axis=k), in a te.compute of shape (M + N - 1,)",
    ),
    told={
        "it should run over|memory outside": (
            "Write out C[0] and the last C[i]: which taps meet a sample there, and which would "
            "need a sample that does not exist?"
        ),
        "That is the correlation": (
            "In a convolution the two indices of a term add up to i. Do yours?"
        ),
        "Select computes both|has a condition, where=": (
            "A test must stand around the read itself, so that nothing is read where there is "
            "nothing. Which of the functions named above does that?"
        ),
        "'same'": ("How many places has the filter when it may hang out at both ends?"),
    },
)
def over_taps(body: Callable, trial: Trial) -> None:
    for M, N in SHAPES:
        call = f"over_taps({M}, {N})"
        function = function_of(trial.call(body, M, N), call)
        nest = loop_nest(function)
        trial.show(nest)
        block = block_of(nest, "C", "name the result so.")
        assert_length(block, M, N)
        extents = [
            loop.extent for loop, axis in zip(block.loops, block.axes, strict=True) if axis == "R"
        ]
        if not extents:
            raise Wrong(f"{call} sums nothing: there is no reduction axis in C.")
        if extents != [N]:
            raise Wrong(
                f"The sum of {call} runs over {' x '.join(map(str, extents))} terms; it should run "
                f"over the {N} taps: te.reduce_axis((0, N))."
            )
        assert_convolves(function, trial, M, N)


@check(
    "conv1d.2",
    hints=(
        "Three te.compute: the first has the only condition, the second the only sum.",
        "P[t] is D[t - (N - 1)] where N - 1 <= t < N - 1 + M, else 0. For tap k, T[i] wants "
        "D[i - k], which lies at P[i - k + N - 1].",
        "T = te.compute((length,), lambda i: te.sum(P[i + N - 1 - k] * W[k], axis=k), name='T'); "
        "C = te.compute((M + N - 1,), lambda i: T[i], name='C')",
    ),
    told={
        "That is the correlation": (
            "In a convolution the two indices of a term add up to i. How far has the padding "
            "moved the samples?"
        ),
        "Select computes both|has a condition, where=|still tests every term": (
            "The test belongs where the zeros are made, once for each of them. Which of the "
            "stages is that?"
        ),
        "by N - 1 taken as N|P has|T has": (
            "Take N = 3 and two samples, and draw P: how many zeros stand before the first "
            "sample, and how many behind the last?"
        ),
    },
)
def padded(body: Callable, trial: Trial) -> None:
    for M, N in SHAPES:
        for length in (M + N - 1, M + N + 12):
            call = f"padded({M}, {N}, {length})"
            function = function_of(trial.call(body, M, N, length), call)
            nest = loop_nest(function)
            trial.show(nest)
            stages = {
                "P": block_of(nest, "P", "the padded samples are to be one."),
                "T": block_of(nest, "T", "the sums are to be one."),
                "C": block_of(nest, "C", "the result is to be one."),
            }
            assert_length(stages["C"], M, N)
            if "R" in stages["C"].axes or "R" not in stages["T"].axes:
                raise Wrong(
                    "The sum belongs to T; C only takes the first M + N - 1 of its elements."
                )
            wanted = {"P": length + N - 1, "T": length}
            for name, extent in wanted.items():
                if stages[name].loops[0].extent != extent:
                    raise Wrong(
                        f"{name} has {stages[name].loops[0].extent} elements in {call}; expected "
                        f"{'length + N - 1' if name == 'P' else 'length'} = {extent}."
                    )
            if _tests_inside(nest, "T"):
                raise Wrong(
                    "T still tests every term. P has a sample, if only a zero, wherever T asks for "
                    "one, so nothing is left to be tested."
                )
            if "P" not in stages["T"].reads:
                raise Wrong(f"T reads {', '.join(stages['T'].reads)}; it should read P and W.")
            assert_convolves(function, trial, M, N)


def _tests_inside(nest: LoopNest, name: str) -> bool:
    """Whether the statement of a block has a condition in it."""
    lines = [line.text for line in nest.lines if line.text.startswith(f"{name}[")]
    return any(re.search(r"\bif_then_else\(|\bSelect\(|\bif\b", text) for text in lines)


# ------------------------------------------------------------------------------------ the schedules

# (M, N, vectors, lanes, pieces): what the steps are tried at.
CASES = ((150, 11, 3, 4, 2), (301, 8, 2, 16, 3))
# The same with the taps taken together, which N has to fit.
TAPS_CASES = ((150, 24, 3, 4, 2, 3), (301, 96, 2, 16, 3, 2))


def step(exercise_id: str, body: Callable, trial: Trial, case):
    """Climb with references up to a step, take it with `body`; the nests and the schedule."""
    from tvm import te
    from tvm.s_tir import Schedule

    M, N, vectors, lanes, pieces, *taps = case
    whole = vectors * lanes * pieces
    length = -(-(M + N - 1) // whole) * whole
    sch = Schedule(te.create_prim_func(body_of("conv1d.2")(M, N, length)))
    given = {"conv1d.3": (vectors, lanes), "conv1d.4": (), "conv1d.5": (*taps, lanes)}
    for known, arguments in given.items():
        if known == "conv1d.4":
            lesson.parallelize(sch, pieces)
        if known == exercise_id:
            break
        body_of(known)(sch, *arguments)
    before = loop_nest(sch.mod)
    trial.call(body, sch, *arguments)
    after = loop_nest(sch.mod)
    trial.show(after, before)
    call = f"{body.__name__}({', '.join(['sch', *map(str, arguments)])})"
    if after.lines == before.lines:
        raise Wrong(
            f"{call} ran, but the loop nest is what it was before. Each primitive changes sch "
            "itself; was any called?"
        )
    return before, after, sch, call


def sums(nest: LoopNest) -> Block:
    return block_of(nest, "T", "the later steps look for the sums by that name.")


def told(block: Block) -> str:
    return ", ".join(
        f"{loop.name} ({loop.extent}{'' if loop.kind == 'serial' else ', ' + loop.kind})"
        for loop in block.loops
    )


@check(
    "conv1d.3",
    hints=(
        "One split makes three loops of i; then k moves between the first and the second.",
        "`sch.split(i, [None, vectors, lanes])` returns io, iv, lane. `sch.reorder(...)` takes the "
        "loops in the order you want.",
        'i, k = sch.get_loops(sch.get_sblock("T")); io, iv, lane = sch.split(i, [None, vectors, '
        "lanes]); sch.reorder(io, k, iv, lane); sch.vectorize(lane)",
    ),
    told={
        **UNCHANGED,
        "with k outermost|waits for the one before|expected io, k, iv, lane": (
            "Say of each loop what it chooses: which tile, which tap, which vector of the tile, "
            "which lane of the vector."
        ),
        "none is vectorized|goes from one vector to the next|is a reduction": (
            "The lanes of a vector are results that lie side by side. Which loop goes from one to "
            "its neighbour?"
        ),
    },
)
def vectorize(body: Callable, trial: Trial) -> None:
    for case in CASES:
        M, N, vectors, lanes, _ = case
        _, after, sch, call = step("conv1d.3", body, trial, case)
        block = sums(after)
        now = f"After {call} the loops are {told(block)}"
        if "vectorized" not in [loop.kind for loop in block.loops]:
            raise Wrong(f"{now}: none is vectorized, so it is one sum at a time.")
        place = [loop.kind for loop in block.loops].index("vectorized")
        if block.axes[place] == "S" and block.strides[place] != 1:
            raise Wrong(
                f"{now}: the vectorized one goes from one vector to the next, and its sums lie "
                f"{block.strides[place]} apart. Vectorize the innermost part of i, the lanes."
            )
        if place != len(block.loops) - 1:
            raise Wrong(f"{now}: the vectorized one should be the innermost.")
        if len(block.loops) != 4:
            raise Wrong(f"{now}: {len(block.loops)} of them; expected io, k, iv, lane.")
        if block.loops[place].extent != lanes:
            raise Wrong(f"{now}: expected vectors of {lanes} lanes.")
        if block.axes == ("S", "S", "R", "S"):
            raise Wrong(
                f"{now}: k lies inside of iv, so one vector of sums is finished before the next "
                "is begun, and each multiply-add waits for the one before. k goes around iv."
            )
        if block.axes[0] == "R":
            raise Wrong(
                f"{now}: with k outermost, all the sums are passed through for every tap. k goes "
                "inside of io."
            )
        if block.axes != ("S", "R", "S", "S"):
            raise Wrong(f"{now}; expected io, k, iv, lane.")
        if block.loops[2].extent != vectors:
            raise Wrong(f"{now}: expected {vectors} vectors in a tile.")
        if block.strides[2:] != (lanes, 1):
            raise Wrong(
                f"{now}, but neighbouring vectors lie {block.strides[2]} apart, not {lanes}."
            )
        if kinds := [loop.name for loop in block.loops[:-1] if loop.kind != "serial"]:
            raise Wrong(f"{now}: {kinds[0]} has a kind as well. That comes later.")
        assert_convolves(sch.mod, trial, M, N)


@check(
    "conv1d.4",
    hints=(
        "As in 2.4: cache_write, reverse_compute_at, kinds for the copy's loops, unroll, "
        "decompose_reduction last.",
        "After reverse_compute_at(copy, io) the copy has one loop over the whole tile: split it by "
        "[None, lanes], unroll the vectors, vectorize the lanes. `sch.get(lane).extent` is the "
        "number of lanes.",
        'copy = sch.cache_write(block, 0, "local"); sch.reverse_compute_at(copy, io); vector, '
        "part = sch.split(sch.get_loops(copy)[-1], [None, lanes]); unroll vector and iv, vectorize "
        "part; "
        "sch.decompose_reduction(block, k)",
    ),
    told={
        "after all the loops|stands inside of k": (
            "A tile may leave the registers when its last tap is done and before the next tile "
            "begins. Which loop goes from tile to tile?"
        ),
        "has a single loop|lanes, vectorized|copy's loop over vectors|of a tile, is serial": (
            "The sums and their copy have the same two loops, vectors and lanes. Which kind has "
            "each in both?"
        ),
        "tested for every tap|Call it last": (
            "decompose_reduction takes the loops as they are when it is called. When in your "
            "answer is that, and before which loop does it put the zeroing?"
        ),
    },
)
def registers(body: Callable, trial: Trial) -> None:
    for case in CASES:
        M, N, vectors, lanes, _ = case
        _, after, sch, call = step("conv1d.4", body, trial, case)
        _assert_in_registers(after, call, vectors, lanes)
        assert_convolves(sch.mod, trial, M, N)


def _assert_in_registers(after: LoopNest, call: str, vectors: int, lanes: int) -> None:
    block = sums(after)
    if block.scope != "local":
        raise Wrong(
            f'The sums are kept in {block.stores_to}, scope "{block.scope or "global"}", which is '
            'memory: every term is a load and a store. cache_write(block, 0, "local") gives them a '
            "place in registers."
        )
    copy = next(
        (b for b in after.blocks if block.stores_to in b.reads and b.name != block.name), None
    )
    if copy is None:
        raise Wrong(f"Nothing copies {block.stores_to} out of the registers.")
    k = block.axes.index("R")
    shared = sum(one is other for one, other in zip(block.loops, copy.loops, strict=False))
    if shared == 0:
        raise Wrong(
            "The copy stands after all the loops, so that every sum would have to stay in a "
            "register. reverse_compute_at moves it into io, where one tile is finished."
        )
    if shared > k:
        raise Wrong("The copy stands inside of k: the sums leave the registers for every tap.")
    if shared < k:
        raise Wrong(
            f"The copy stands in loop {copy.loops[shared - 1].name}: all the tiles of "
            f"{block.loops[k - 1].name} would have to stay in registers. It belongs in io."
        )
    if block.has_init:
        raise Wrong(
            "The zeroing is still tested for every tap. decompose_reduction(block, k) makes it a "
            "loop nest of its own."
        )
    own = [(loop.extent, loop.kind) for loop in copy.loops[k:]]
    if len(own) == 1:
        raise Wrong(
            f"The copy has a single loop over the {own[0][0]} sums of a tile, {own[0][1]}. Split "
            f"it into vectors of {lanes}, as the sums are, and vectorize the lanes."
        )
    if own[-1] != (lanes, "vectorized"):
        raise Wrong(
            f"The copy's innermost loop has extent {own[-1][0]} and is {own[-1][1]}; expected "
            f"{lanes} lanes, vectorized."
        )
    if [kind for _, kind in own[:-1]] != ["unrolled"]:
        raise Wrong(
            f"The copy's loop over vectors is {own[0][1]}. {block.stores_to} with a variable index "
            "has no register; unroll it."
        )
    # iv may stand among the unrolled loops of k: unrolled, they are one piece of code.
    inner = list(zip(block.loops, block.axes, strict=True))[k:]
    for loop in [loop for loop, axis in inner if axis == "S"][:-1]:
        if loop.kind != "unrolled":
            raise Wrong(
                f"Loop {loop.name}, over the vectors of a tile, is {loop.kind}: a sum with a "
                "variable index has no register. Unroll it."
            )
        within = block.loops[block.loops.index(loop) + 1 :]
        if serial := [one.name for one in within if one.kind == "serial"]:
            raise Wrong(
                f"Loop {loop.name}, over the vectors of a tile, stands outside of {serial[0]}: one "
                "vector of sums is finished before the next is begun, and each multiply-add waits "
                "for the one before. Only unrolled loops may stand inside of it."
            )
    zero = after.block("T_init")
    if zero is None:
        raise Wrong("The zeroing is gone: every sum starts from what the register held.")
    before_k = sum(one is other for one, other in zip(block.loops, zero.loops, strict=False))
    if before_k != k:
        raise Wrong(
            "The zeroing does not stand just before k; decompose_reduction takes the loop it is "
            "put before."
        )
    zeroing = [loop.kind for loop in zero.loops[k:]]
    if zeroing != ["unrolled", "vectorized"]:
        raise Wrong(
            f"The loops of the zeroing are {' and '.join(zeroing)}: it took over the kinds that "
            "iv and lane had when decompose_reduction was called. Call it last."
        )


@check(
    "conv1d.5",
    hints=(
        "A split writes k as ko * (taps * lanes) + tap * lanes + residue. Which loop is then the "
        "innermost of the three, and which should be?",
        "`sch.split(k, [None, taps, lanes])` returns ko, tap, residue: one step of tap is a whole "
        "vector. Then reorder the last two, and unroll tap.",
        '*_, k, _, _ = sch.get_loops(sch.get_sblock("T_update")); _, tap, residue = sch.split(k, '
        "[None, taps, lanes]); sch.reorder(residue, tap); sch.unroll(tap)",
    ),
    told={
        **UNCHANGED,
        "read the same samples|stands outside of|reorder puts|residue serial|one tap at a time": (
            "Write down which sample result i reads for tap k, and find the pairs (i, k) that "
            "read the same. Which of your loops runs over just these, and is it the one that is "
            "written out?"
        ),
    },
)
def reuse(body: Callable, trial: Trial) -> None:
    for case in TAPS_CASES:
        M, N, vectors, lanes, _, taps = case
        _, after, sch, call = step("conv1d.5", body, trial, case)
        _assert_shares_loads(after, sch, call, N, taps, lanes)
        _assert_in_registers(after, call, vectors, lanes)
        assert_convolves(sch.mod, trial, M, N)


def _assert_shares_loads(after: LoopNest, sch, call: str, N: int, taps: int, lanes: int) -> None:
    block = sums(after)
    now = f"After {call} the loops are {told(block)}"
    steps = _steps_of_k(sch)
    over_k = [n for n, axis in enumerate(block.axes) if axis == "R"]
    apart = ", ".join(f"{block.loops[n].name} by {steps[n]}" for n in over_k)
    together = [n for n in over_k if steps[n] == lanes and block.loops[n].extent == taps]
    if not together:
        raise Wrong(
            f"{now}, and one more iteration moves k: {apart}. None goes through {taps} taps that "
            f"lie {lanes} apart, which are those that read the same samples."
        )
    tap = together[0]
    if tap != over_k[-1]:
        inner = block.loops[over_k[-1]]
        raise Wrong(
            f"{now}: {inner.name} runs inside of {block.loops[tap].name}, so taps that share their "
            f"samples are {inner.extent} iterations apart. reorder puts {inner.name} outside."
        )
    if block.loops[tap].kind != "unrolled":
        raise Wrong(
            f"{now}: {block.loops[tap].name} is {block.loops[tap].kind}, so that the compiler sees "
            "one tap at a time, and nothing that is loaded twice. Unroll it."
        )
    if len(over_k) > 3 or any(block.loops[n].kind != "serial" for n in over_k[:-1]):
        raise Wrong(f"{now}; expected ko and residue serial, and tap unrolled.")


def _steps_of_k(sch) -> list[int]:
    """By how much one more iteration of each loop around T moves k, outermost first."""
    import tvm_ffi
    from tvm import s_tir, tirx

    found = []

    def look(realize) -> None:
        if realize.block.name_hint == "T_update":
            for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
                if axis.iter_type == tirx.IterVar.CommReduce:
                    found.append(str(value))

    tvm_ffi.structural_walk(sch.mod["main"].body, (s_tir.SBlockRealize, look))
    loops = [sch.get(loop).loop_var.name for loop in sch.get_loops(sch.get_sblock("T_update"))]

    def tap(moved: str) -> int:
        # Index arithmetic such as k_0 * 64 + k_1 is Python, written out.
        return eval(found[0], {}, {name: int(name == moved) for name in loops})

    return [tap(name) - tap("") for name in loops]


# ---------------------------------------------------------------------------------- on a GPU


# (M, N), each, count: a last block that is not full, more than one.
ON_GPU = (((45, 7), 2, 8), ((100, 16), 3, 32))


def assert_convolves_on_gpu(sch, trial: Trial, M: int, N: int) -> None:
    function = on_gpu.compiled(sch)
    d, w = verify.random_array(trial.rng, M), verify.random_array(trial.rng, N)
    got = verify.run(function, (d, w), (M + N - 1,))
    want = np.convolve(d.astype("float64"), w)
    verify.assert_close(got, want, np.convolve(abs(d.astype("float64")), abs(w)), N, "C")


def _assert_counts(block: Block, count: int) -> None:
    """The block's threads are `count` neighbours."""
    bound = on_gpu.bound(block)
    if missing := [axis for axis in ("blockIdx.x", "threadIdx.x") if axis not in bound]:
        raise Wrong(
            f"The loops are now {block.order()}; nothing is bound to {' and '.join(missing)}."
        )
    for axis, place in bound.items():
        if block.axes[place] == "R":
            raise Wrong(
                f"Loop {block.loops[place].name} runs over the taps and is bound to {axis}: "
                "threads at the same time would add to one sum."
            )
    thread = block.loops[bound["threadIdx.x"]]
    if block.strides[bound["threadIdx.x"]] != 1:
        raise Wrong(
            f"Neighbouring threads take results that lie {block.strides[bound['threadIdx.x']]} "
            "apart: their 32 samples for a tap do not lie side by side. The threads are the "
            "innermost part of the split."
        )
    if thread.extent != count:
        raise Wrong(f"A block has {thread.extent} threads; expected {count}.")


@check(
    "conv1d.6",
    hints=(
        "One split, two bindings.",
        '`sch.split(i, [None, count])` gives the outer and the inner loop; `sch.bind(loop, "...")` '
        "binds one.",
        'block, thread = sch.split(i, [None, count]); sch.bind(block, "blockIdx.x"); '
        'sch.bind(thread, "threadIdx.x")',
    ),
    told={
        "none is bound|nothing is bound": (
            "A kernel has blocks, and each block has threads. Which loop goes to which?"
        ),
        "one after the other: there are|as virtual threads|threads; expected|results that lie": (
            "Read the split from the outside: how many blocks, then how many threads. Which of "
            "its two parts steps from a result to its neighbour?"
        ),
    },
)
def bind_threads(body: Callable, trial: Trial) -> None:
    from tvm import te
    from tvm.s_tir import Schedule

    for (M, N), _, count in ON_GPU:
        sch = Schedule(te.create_prim_func(body_of("conv1d.1")(M, N)))
        _, after = on_gpu.taken(sch, body, trial, count)
        block = block_of(after, "C", "it is the result.")
        if not on_gpu.bound(block):
            raise Wrong(
                f"The loops are now {block.order()}, and none is bound: TVM would make a function "
                "for the CPU of it."
            )
        _assert_counts(block, count)
        _assert_one_each(block, M + N - 1, count)
        assert_convolves_on_gpu(sch, trial, M, N)


def _assert_one_each(block: Block, results: int, count: int) -> None:
    """No loop but those of blocks and threads runs over results."""
    for loop, axis in zip(block.loops, block.axes, strict=True):
        if axis == "S" and "Idx." not in loop.kind and loop.extent != 1:
            made = block.loops[on_gpu.bound(block)["blockIdx.x"]].extent
            how = "as virtual threads" if loop.kind.startswith("vthread") else "one after the other"
            raise Wrong(
                f"Each thread has {loop.extent} results ({loop.name}), {how}: there are {made} "
                f"blocks, where a thread for each result makes {-(-results // count)}. Several "
                "results for a thread are the next step's."
            )


def _virtual(M: int, N: int, each: int, count: int):
    """`padded` by the reference, as a schedule, with a length that fits the tiles."""
    from tvm import te
    from tvm.s_tir import Schedule

    tile = each * count
    length = -(-(M + N - 1) // tile) * tile
    return Schedule(te.create_prim_func(body_of("conv1d.2")(M, N, length)))


@check(
    "conv1d.7",
    hints=(
        "One split in three: which block, which of the thread's results, which thread.",
        '`sch.split(i, [None, each, count])`; the middle one is bound to "vthread.x".',
        "block, virtual, thread = sch.split(i, [None, each, count]), then bind the three to "
        '"blockIdx.x", "vthread.x", "threadIdx.x"',
    ),
    told={
        "no loop is bound|nothing is bound": (
            "Three parts of one loop, three axes. Which of them is still a loop?"
        ),
        "expected 8|virtual threads; expected|results that lie": (
            "Read the split from the outside: blocks, virtual threads, threads. The innermost "
            "steps from a result to its neighbour; with which extent is each part given?"
        ),
    },
)
def bind_virtual_threads(body: Callable, trial: Trial) -> None:
    for (M, N), each, count in ON_GPU:
        sch = _virtual(M, N, each, count)
        _, after = on_gpu.taken(sch, body, trial, each, count)
        block = block_of(after, "T", "the sums are to be one.")
        _assert_counts(block, count)
        virtual = [n for n, loop in enumerate(block.loops) if loop.kind.startswith("vthread")]
        if not virtual:
            raise Wrong(
                f"The loops are now {block.order()}; no loop is bound to vthread.x, so a thread's "
                "results are a loop like any other."
            )
        if block.loops[virtual[0]].extent != each:
            raise Wrong(
                f"There are {block.loops[virtual[0]].extent} virtual threads; expected {each}."
            )
        if block.strides[virtual[0]] != count:
            raise Wrong(
                f"A thread's results lie {block.strides[virtual[0]]} apart; expected {count}, the "
                "threads of a block, so that neighbouring threads have neighbours each time."
            )
        if [loop.kind for loop in block.loops[:3]] != ["blockIdx.x", "vthread.x", "threadIdx.x"]:
            raise Wrong(
                f"The loops are now {block.order()}; expected block, virtual, thread, k in this "
                "order."
            )
        body_of("conv1d.8")(sch, count)
        assert_convolves_on_gpu(sch, trial, M, N)


@check(
    "conv1d.8",
    hints=(
        "Four things have to be placed: P, a copy of W, T and C. Begin with the loops of T: block, "
        "virtual, thread, k.",
        '`sch.set_scope(block, 0, "shared")`, `sch.compute_at(block, loop)`, '
        '`sch.cache_read(T, 1, "shared")`, `sch.reverse_compute_at(C, thread)`.',
        "W = sch.cache_read(T, 1, 'shared'); sch.set_scope(P, 0, 'shared'); for both: compute_at "
        "block, then fetch; sch.set_scope(T, 0, 'local'); sch.reverse_compute_at(C, thread)",
    ),
    told={
        "in global memory|reads W itself": (
            "What all threads of a block read lies in one scope, what one thread alone keeps in "
            "another. Which stage belongs where?"
        ),
        "inside of k|stores as results": (
            "How often is the loop entered in which you have put that block, and how often need "
            "it be done?"
        ),
        "fills P by itself|is bound": (
            "Each stage of the kernel has loops of its own. Which of them are not yet shared out "
            "among the threads?"
        ),
    },
)
def place(body: Callable, trial: Trial) -> None:
    for (M, N), each, count in ON_GPU:
        sch = _virtual(M, N, each, count)
        body_of("conv1d.7")(sch, each, count)
        _, after = on_gpu.taken(sch, body, trial, count)
        samples = block_of(after, "P", "the padded samples are to be one.")
        if samples.scope != "shared":
            raise Wrong(
                f"P is in {samples.scope or 'global'} memory; expected shared, so that a block "
                "fetches its samples once."
            )
        block = block_of(after, "T", "the sums are to be one.")
        if "W" in block.reads:
            raise Wrong(
                "The sum reads W itself: every thread fetches all taps from global memory. A read "
                'cache in "shared" brings them once for each block.'
            )
        if block.scope != "local":
            raise Wrong(
                f"T is in {block.scope or 'global'} memory; a thread's sums belong to registers, "
                '"local".'
            )
        result = block_of(after, "C", "it is the result.")
        _assert_outside_of_taps(result, block, N, f"{N} times as many stores as results")
        for copy in after.blocks:
            if copy.scope != "shared":
                continue
            _assert_outside_of_taps(copy, block, N, f"{N} fetches and {N} barriers instead of one")
            if not copy.loops or copy.loops[0].kind != "blockIdx.x":
                raise Wrong(
                    f"{copy.name} is filled outside of the blocks; compute_at moves it into their "
                    "loop."
                )
            if not any(loop.kind == "threadIdx.x" for loop in copy.loops[1:]):
                raise Wrong(f"Every thread fills {copy.name} by itself; `fetch` shares it out.")
        assert_convolves_on_gpu(sch, trial, M, N)


def _assert_outside_of_taps(copy: Block, block: Block, taps: int, cost: str) -> None:
    """A block that copies stands outside of the sum's loop over the taps."""
    common = on_gpu.common_loops(copy, block)
    if "R" not in block.axes[:common]:
        return
    k = block.loops[block.axes.index("R")].name
    way_out = "compute_at(block, loop) takes the loop of the blocks."
    if copy.name == "C":
        way_out = "A result is stored when its sum is finished, in the threads' loop."
    raise Wrong(
        f"{'P' if copy.name == 'P' else copy.stores_to} is written inside of {k}, the loop over "
        f"the taps, anew for each of the {taps}: {cost}. {way_out}"
    )
