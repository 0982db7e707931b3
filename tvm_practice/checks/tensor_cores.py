"""What "done" means in the lab on tensor cores. Every schedule is finished with the references of
the steps after it and run in the simulator, on any machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm_practice.checks import UNCHANGED, Trial, check, on_gpu
from tvm_practice.common import verify
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, Loop, LoopNest
from tvm_practice.common.verify import Wrong

lesson = load_lesson("tensor_cores")
EDGE, WARP, WIDTH = lesson.EDGE, lesson.WARP, 8

# (M, N, K) and how it is dealt out: every extent another, as far as possible, and each piece a
# multiple of what the threads of a block fetch at once.
CASES = (
    ((64, 192, 128), lesson.Tiling(warps=(2, 4), each=(1, 1), depth=4)),
    ((96, 192, 160), lesson.Tiling(warps=(2, 3), each=(3, 2), depth=2)),
)
LOADS = {"A": ("wmma.matrix_a", "load_a"), "B": ("wmma.matrix_b", "load_b")}
SUMS = "C_wmma.accumulator"


def climbed(exercise_id: str, body: Callable, trial: Trial, case):
    """Climb to a step with references, and take it with `body`: the nests before and after, and the
    schedule."""
    size, tiling = case
    sch = lesson.matmul(*size)
    before, after = on_gpu.climbed(lesson, sch, exercise_id, body, trial, tiling)
    return before, after, sch


def assert_multiplies(sch, trial: Trial, case, done: str) -> Simulated:
    """Take the steps after `done` with references; the kernel multiplies."""
    (M, N, K), tiling = case
    on_gpu.finish(lesson, sch, done, tiling)
    a, b = (verify.random_array(trial.rng, *s, dtype="float16") for s in ((M, K), (K, N)))
    function = on_gpu.compiled(sch)
    got = verify.run(function, (a, b), (M, N))
    want, magnitude = verify.matmul_reference(a, b)
    # A product of two float16 is exact in float32: only the sums round.
    what = f"C (at {M} x {N} x {K})"
    writer = partial(function.written, "C")
    verify.assert_close(got, want, magnitude, K, what, written=writer)
    return function


def has(sch, name: str) -> bool:
    try:
        sch.get_sblock(name)
    except Exception:
        return False
    return True


def told(loops) -> str:
    return ", ".join(f"{loop.name} ({loop.extent})" for loop in loops)


# ------------------------------------------------------------------------------------------- 1 tile


@check(
    "tensor_cores.1",
    hints=(
        "i is split in four: block, warp, tile, element. So is j; k is split in three.",
        "`by, row, fi, it = sch.split(i, [None, warps[0], each[0], EDGE])`; one `sch.reorder` of "
        "all eleven; `sch.fuse(row, column)` returns the loop of the warps; `sch.blockize` last.",
        "sch.reorder(by, bx, row, column, ko, ki, fi, fj, it, jt, kt); bind by to blockIdx.y, "
        "bx to blockIdx.x, the fused loop to threadIdx.y; sch.blockize(it)",
    ),
    told={
        **UNCHANGED,
        "makes it of the last|outermost of those|Inside of a tile": (
            "What is replaced later is a block of three loops, 16 x 16 x 16. Which loops of yours "
            "are those, in which order?"
        ),
        "Are the warps|expected blockIdx|bound to threadIdx.x|is bound": (
            "A warp works as one: threadIdx.x is kept for its 32 threads. Which axis is left to "
            "count warps?"
        ),
        "side by side|together|warps; expected|expected depth": (
            "Read each split from the outside: blocks, warps of a block, tiles of a warp. With "
            "which extents, and which part steps to the neighbouring tile?"
        ),
    },
)
def tile(body: Callable, trial: Trial) -> None:
    for case in CASES:
        _, tiling = case
        _, after, sch = climbed("tensor_cores.1", body, trial, case)
        if not has(sch, "C_o"):
            _assert_not_blockized(sch, after)
        block = next((one for one in after.blocks if one.name == "C_o"), None)
        if block is None:
            raise Wrong(
                'There is a block "C_o", but it stands inside of another. blockize is called once.'
            )
        _assert_inside(sch)
        _assert_around(block, tiling)
        _assert_dealt_out(sch, tiling)
        assert_multiplies(sch, trial, case, "tensor_cores.1")


def _assert_not_blockized(sch, after: LoopNest) -> None:
    block = after.computing("C")
    loops = f" The loops are {told(block.loops)}." if block else ""
    if any("Idx." in line.text for line in after.lines):
        raise Wrong('There is no block "C_o": sch.blockize(it) makes it of the last three loops.')
    raise Wrong(
        f'There is no block "C_o", and nothing is bound.{loops} Split, reorder, bind; then '
        "sch.blockize(it)."
    )


def _assert_inside(sch) -> None:
    inside = [sch.get(loop) for loop in sch.get_loops(sch.get_sblock("C"))]
    extents = [int(loop.extent) for loop in inside]
    if extents != [EDGE] * 3:
        raise Wrong(
            f'The loops inside of "C_o" are {extents}; expected it, jt, kt, {EDGE} each. blockize '
            "takes the outermost of those that go inside."
        )
    block = sch.get(sch.get_sblock("C"))
    order = [axis.var.name for axis in block.iter_vars]
    values = {loop.loop_var.name: n for n, loop in enumerate(inside)}
    places = [values.get(str(value)) for value in _realize(sch, "C").iter_values]
    if places != [0, 1, 2]:
        by_place = sorted(zip(places, order, strict=True), key=lambda pair: str(pair[0]))
        now = ", ".join(name.removeprefix("v_").removesuffix("_i") for _, name in by_place)
        raise Wrong(
            f"Inside of a tile the loops run over {now}; expected i, j, k, as the instruction has "
            "them. (TVM compares loops in their order.)"
        )


def _assert_around(block: Block, tiling) -> None:
    loops = block.loops
    if len(loops) != 7:
        raise Wrong(
            f'There are {len(loops)} loops around "C_o": {told(loops)}; expected seven: by, bx, '
            "warp, ko, ki, fi, fj. Are the warps' two fused?"
        )
    if (reduced := block.position("k_o")) != [3, 4]:
        places = " and ".join(loops[n].name for n in reduced)
        raise Wrong(
            f'The loops around "C_o" are {told(loops)}; along k run {places}. Expected ko and ki '
            "after the bound ones, and fi, fj inside of them."
        )
    kinds = tuple(loop.kind for loop in loops[:3])
    if kinds[2] == "threadIdx.x":
        raise Wrong(
            "The warps are bound to threadIdx.x. Its 32 neighbours are one warp, which calls each "
            "instruction together: the warps are counted by threadIdx.y."
        )
    if kinds != ("blockIdx.y", "blockIdx.x", "threadIdx.y"):
        now = ", ".join(f"{loop.name} is {loop.kind}" for loop in loops[:3])
        raise Wrong(f"{now}; expected blockIdx.y, blockIdx.x and threadIdx.y.")
    if extra := [loop for loop in loops[3:] if "Idx." in loop.kind]:
        raise Wrong(f"Loop {extra[0].name} is bound to {extra[0].kind}; it stays a loop.")
    warps = tiling.warps[0] * tiling.warps[1]
    if loops[2].extent != warps:
        raise Wrong(
            f"A block has {loops[2].extent} warps; expected {tiling.warps[0]} x "
            f"{tiling.warps[1]} = {warps}."
        )
    if loops[4].extent != tiling.depth:
        raise Wrong(
            f"ki takes {loops[4].extent} tiles along k; expected depth, {tiling.depth}. The list "
            "of sch.split goes from the outer extent to the inner."
        )
    own = tuple(loop.extent for loop in loops[5:])
    if own != tiling.each:
        swapped = " Are the two swapped?" if own == tiling.each[::-1] else ""
        raise Wrong(
            f"A warp has {own[0]} x {own[1]} tiles of C; expected each, {tiling.each[0]} x "
            f"{tiling.each[1]}.{swapped}"
        )


def _realize(sch, name: str):
    import tvm_ffi
    from tvm import s_tir

    found = []

    def look(realize) -> None:
        if realize.block.name_hint == name:
            found.append(realize)

    tvm_ffi.structural_walk(sch.mod["main"].body, (s_tir.SBlockRealize, look))
    return found[0]


def _assert_dealt_out(sch, tiling) -> None:
    """Which tile the n-th warp takes: neighbouring tiles are one warp's."""
    from tvm import ir
    from tvm.sym import Analyzer

    block = sch.get_sblock("C_o")
    loops = [sch.get(loop) for loop in sch.get_loops(block)]
    analyzer = Analyzer()
    for loop in loops:
        analyzer.bind(loop.loop_var, ir.Range.from_min_extent(loop.min, loop.extent))
    by, bx, warp, _, _, fi, fj = (loop.loop_var for loop in loops)
    (warp_rows, warp_columns), (rows, columns) = tiling.warps, tiling.each
    i, j, _ = _realize(sch, "C_o").iter_values

    def dealt(row, column) -> bool:
        wanted = (by * warp_rows + row) * rows + fi, (bx * warp_columns + column) * columns + fj
        return all(map(analyzer.can_prove_equal, (i, j), wanted))

    by_rows = dealt(warp // warp_columns, warp % warp_columns)
    by_columns = dealt(warp % warp_rows, warp // warp_rows)
    if not (by_rows or by_columns):
        now = ", ".join(str(analyzer.simplify(value)) for value in (i, j))
        raise Wrong(
            f'"C_o" computes the tile of row and column {now}. Expected the tiles of a block '
            f"together, {warp_rows} x {warp_columns} warps, and the {rows} x {columns} tiles of a "
            "warp side by side: i is split into by, the warp's row, fi and it, from the outside to "
            "the inside, and j in the same way."
        )


# -------------------------------------------------------------------------------------- 2 fragments


@check(
    "tensor_cores.2",
    hints=(
        "Step 2.8 with other scopes: a write cache for the sums, read caches for A and B.",
        '`sch.cache_write(block, 0, "wmma.accumulator")` with `reverse_compute_at(..., warp)`; '
        '`sch.cache_read(block, 0, "wmma.matrix_a")` and number 1 with "wmma.matrix_b", each with '
        "`compute_at(..., ki)`; `over_tiles(sch, copy)` for all three.",
        'block = sch.get_sblock("C_o"); _, _, warp, _, ki, _, _ = sch.get_loops(block); then the '
        "three copies, moved, over tiles",
    ),
    told={
        **UNCHANGED,
        "adds to a fragment|scope .local|left factor|still reads B": (
            "Three kinds of fragments, for the left factor, the right one and the sums. Which "
            "copy of yours lies in which?"
        ),
        "would have to lie|outside of ki|hold a few|anew for every": (
            "A fragment is loaded when it is needed, used several times, then replaced. In which "
            "loop is it needed first?"
        ),
    },
)
def fragments(body: Callable, trial: Trial) -> None:
    for case in CASES:
        _, after, sch = climbed("tensor_cores.2", body, trial, case)
        block = _product(after)
        scopes = {name: scope for name, _, scope in after.buffers}
        _assert_scopes(block, scopes)
        _assert_sums(after, block)
        for name, (scope, _) in LOADS.items():
            _assert_load(after, block, f"{name}_{scope}", name)
        assert_multiplies(sch, trial, case, "tensor_cores.2")


def _product(nest: LoopNest) -> Block:
    block = nest.block("C_o")
    if block is None:
        raise Wrong('The block "C_o" is gone; it is needed in the next step as it is.')
    return block


def _assert_scopes(block: Block, scopes: dict[str, str]) -> None:
    if block.stores_to == "C":
        raise Wrong(
            '"C_o" still adds to C, in global memory. mma_sync adds to a fragment: cache_write in '
            '"wmma.accumulator".'
        )
    scope = scopes.get(block.stores_to, "global")
    if scope != "wmma.accumulator":
        raise Wrong(f'The sums are in scope "{scope}"; expected "wmma.accumulator".')
    read = [name for name in block.reads if name != block.stores_to]
    for name, (wanted, _) in LOADS.items():
        if name in read:
            raise Wrong(
                f'"C_o" still reads {name} itself, from global memory; mma_sync reads a fragment: '
                f'cache_read in "{wanted}".'
            )
        copy = next((known for known in read if known.startswith(f"{name}_")), None)
        if copy is None:
            raise Wrong(f'"C_o" reads {" and ".join(read)}; no copy of {name} is among them.')
        if (scope := scopes.get(copy, "global")) != wanted:
            raise Wrong(
                f'The copy of {name} is in scope "{scope}"; expected "{wanted}", since {name} is '
                f"the {'left' if name == 'A' else 'right'} factor."
            )


def _assert_sums(nest: LoopNest, block: Block) -> None:
    copy = next((one for one in nest.blocks if one.stores_to == "C"), None)
    shared = on_gpu.common_loops(copy, block) if copy else 0
    if shared < 3:
        raise Wrong(
            "The sums are stored outside of the loop of the warps, when all blocks are done, and "
            "all of C would have to lie in fragments: reverse_compute_at(copy, warp)."
        )
    if shared > 3:
        raise Wrong(
            f"The sums are stored inside of {block.loops[shared - 1].name}: they are complete only "
            "after ko. reverse_compute_at(copy, warp)."
        )
    _assert_over_tiles(copy, "stores the sums")


def _assert_load(nest: LoopNest, block: Block, name: str, what: str) -> None:
    copy = next((one for one in nest.blocks if one.stores_to == name), None)
    if copy is None:
        raise Wrong(f"No block loads {name}.")
    shared = on_gpu.common_loops(copy, block)
    ki = block.loops[4].name
    if shared < 4:
        where = f"inside of {copy.loops[shared - 1].name}" if shared else "outside of all loops"
        raise Wrong(
            f"{name} is loaded {where}: a warp would hold all tiles of {what} that it ever needs, "
            f"and its registers hold a few. compute_at(copy, ki), which is {ki}."
        )
    if shared == 4:
        raise Wrong(
            f"{name} is loaded outside of ki ({ki}), for {block.loops[4].extent} steps along k at "
            "once: that many times the registers. compute_at(copy, ki)."
        )
    if shared > 5:
        raise Wrong(
            f"{name} is loaded inside of {copy.loops[shared - 1].name}, anew for every tile of C: "
            "two loads for each multiplication, and nothing is used twice. compute_at(copy, ki)."
        )
    _assert_over_tiles(copy, f"loads {name}")


def _assert_over_tiles(copy: Block, does: str) -> None:
    last = [loop.extent for loop in copy.loops[-2:]]
    if last != [EDGE, EDGE] or copy.strides[-1] != 1 or len(copy.feeds) < 4:
        raise Wrong(
            f"The block that {does} has {told(copy.loops[-4:])} as its last loops. One instruction "
            f"copies a tile: the last two have to be {EDGE} rows and {EDGE} columns of one. "
            "over_tiles(sch, copy) splits them."
        )


# ------------------------------------------------------------------------------------------ 3 share


@check(
    "tensor_cores.3",
    hints=(
        "It is 2.7's fetch, for two blocks: those that load the fragments of A and of B.",
        '`copy = sch.cache_read(sch.get_sblock("A_wmma.matrix_a"), 0, "shared")`, '
        "`sch.compute_at(copy, ko)`; fuse its last two loops, split by [None, warps, WARP, 8]; "
        "bind, vectorize, storage_align.",
        '`_, y, x, lane = sch.split(piece, [None, warps, WARP, 8])`: y to "threadIdx.y", x to '
        '"threadIdx.x", vectorize lane; sch.storage_align(copy, 0, axis=0, factor=32, offset=8)',
    ),
    told={
        **UNCHANGED,
        "all warps of a block see|loads from B": (
            "What all warps of a block read should lie where all of them reach it, for both "
            "factors."
        ),
        "for each piece|no room for": ("Which loop is entered once for each piece of k?"),
        "called by one|to be 32|copies the whole piece|by the element|moves 4": (
            "The elements of a piece are shared out: warps, the 32 threads of a warp, the lanes "
            "of one access of 16 bytes. How many float16 are 16 bytes?"
        ),
        "outside of threadIdx.y|a run of B": (
            "Neighbouring threads should fetch neighbouring places. Which loop is innermost but "
            "for the lanes?"
        ),
        "same bank|no multiple of 16": (
            "A row that is a little longer begins in another bank. By how much may it be longer, "
            "so that 16 bytes still begin at a multiple of 16?"
        ),
    },
)
def share(body: Callable, trial: Trial) -> None:
    for case in CASES:
        _, tiling = case
        _, after, sch = climbed("tensor_cores.3", body, trial, case)
        block = _product(after)
        copies = {
            name: _fetched(after, block, name, f"{name}_{scope}", tiling)
            for name, (scope, _) in LOADS.items()
        }
        function = assert_multiplies(sch, trial, case, "tensor_cores.3")
        on_gpu.assert_side_by_side(sch, function, copies)
        _assert_spread(function, tiling)


def _fetched(nest: LoopNest, block: Block, name: str, fragment: str, tiling) -> tuple[Loop, ...]:
    """The loops that fetch a piece of A or B, shared out among all threads."""
    load = next((one for one in nest.blocks if one.stores_to == fragment), None)
    if load is None:
        raise Wrong(f"The block that loads {fragment} is gone.")
    (source,) = load.reads
    scopes = {known: scope for known, _, scope in nest.buffers}
    if source == name:
        raise Wrong(f'"{fragment}" still loads from {name}, in global memory.')
    if scopes.get(source) != "shared":
        raise Wrong(
            f'"{fragment}" loads from {source}, in "{scopes.get(source) or "global"}" memory; '
            'expected "shared", which all warps of a block see.'
        )
    copy = next((one for one in nest.blocks if one.stores_to == source), None)
    if copy is None:
        raise Wrong(f"No block fills {source}.")
    place = on_gpu.common_loops(copy, block)
    if place != 4:
        inside = "outside of all loops" if not place else f"inside of {copy.loops[place - 1].name}"
        raise Wrong(
            f"{source} is filled {inside}; expected inside of ko, {block.loops[3].name}: "
            f"{'there is no room for more than a piece' if place < 4 else 'once for each piece'}."
        )
    own = copy.loops[4:]
    bound = {loop.kind: loop.extent for loop in own if "Idx." in loop.kind}
    warps = tiling.warps[0] * tiling.warps[1]
    if "threadIdx.x" not in bound:
        raise Wrong(
            f"No loop that fills {source} is bound to threadIdx.x. Nothing else is either: the "
            "block would be started with one thread in place of each warp, and an instruction for "
            "32 called by one."
        )
    if bound["threadIdx.x"] != WARP:
        raise Wrong(
            f"{source} is filled by {bound['threadIdx.x']} threads along threadIdx.x, and so the "
            f"block is started: it has to be {WARP}, a warp."
        )
    if "threadIdx.y" not in bound:
        raise Wrong(
            f"No loop that fills {source} is bound to threadIdx.y: each of the {warps} warps "
            "copies the whole piece."
        )
    if bound["threadIdx.y"] != warps:
        raise Wrong(
            f"{source} is filled by {bound['threadIdx.y']} warps, but the block has {warps}: a "
            "thread axis has one extent in a kernel. Take it from the loop of the warps."
        )
    if (copy.strides[-1] or 0) > 1:
        raise Wrong(
            f"Consecutive iterations of {own[-1].name}, the innermost loop that fills {source}, "
            f"copy elements that lie {copy.strides[-1]} apart: the two loops were fused with the "
            "columns outside. Fuse them in the order in which compute_at left them, rows outside."
        )
    if own[-1].kind != "vectorized":
        raise Wrong(
            f"{source} is filled by the element, 2 bytes at a time. Vectorize {WIDTH} neighbours."
        )
    if own[-1].extent != WIDTH:
        raise Wrong(
            f"A thread moves {own[-1].extent} numbers of 2 bytes at once; expected {WIDTH}, the 16 "
            "bytes that a GPU moves at most."
        )
    kinds = [loop.kind for loop in own]
    if kinds.index("threadIdx.x") < kinds.index("threadIdx.y"):
        raise Wrong(
            f"In the loops that fill {source}, threadIdx.x stands outside of threadIdx.y. The 32 "
            "threads of a warp then read places far apart; neighbours belong together."
        )
    return own


def _assert_spread(function: Simulated, tiling) -> None:
    rows, columns, deep = tiling.block
    arrays = {one.name: one for one in function.kernels[0].shared}
    for name, height, width in (("A_shared", rows, deep), ("B_shared", deep, columns)):
        stride = arrays[name].extent // height
        if (needed := lesson.bank_rounds(stride)) > 1:
            how = "as wide as they are" if stride == width else f"{stride} for {width} numbers"
            raise Wrong(
                f"The rows of {name} are {stride} numbers apart, {how}. Of eight of them, "
                f"{needed} begin in the same bank of shared memory, and are delivered one after "
                "the other. sch.storage_align(copy, 0, axis=0, factor=32, offset=8) spreads them; "
                "axis 0 is the row."
            )


# -------------------------------------------------------------------------------------- 4 tensorize

CALLS = {
    "tvm_mma_sync": ("C", "multiplication"),
    "tvm_load_matrix_sync": ("A_wmma.matrix_a and B_wmma.matrix_b", "loads"),
    "tvm_store_matrix_sync": (SUMS, "store"),
}


@check(
    "tensor_cores.4",
    hints=(
        "The inside of a tile has two loops in a copy and three in the multiplication; "
        "sch.tensorize takes the outermost of them.",
        '`*_, it, _, _ = sch.get_loops(sch.get_sblock("C"))` and `sch.tensorize(it, '
        'instructions["multiply"])`; a copy has `*_, it, _`.',
        '"A_wmma.matrix_a" takes "load_a", "B_wmma.matrix_b" takes "load_b", "C_wmma.accumulator" '
        'takes "store"',
    ),
    told={
        **UNCHANGED,
        "still made of loops|One of the loads": (
            "Four kinds of blocks become instructions: the zeroing, the loads, the "
            "multiplication, the store. Which have you not named?"
        ),
    },
)
def tensorize(body: Callable, trial: Trial) -> None:
    for case in CASES:
        _, _, sch = climbed("tensor_cores.4", body, trial, case)
        text = sch.mod.script()
        for call, (block, what) in CALLS.items():
            wanted = 2 if "load" in call else 1
            count = text.count(f"T.{call}(")
            if count < wanted:
                some = "One of the" if count else "The"
                raise Wrong(
                    f"{some} {what} ({block}) {'is' if count or wanted == 1 else 'are'} still "
                    "made of loops. Fragments can only be used by the instructions, so TVM could "
                    "make no kernel of it."
                )
        assert_multiplies(sch, trial, case, "tensor_cores.4")
