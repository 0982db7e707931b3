"""What "done" means in phase 2: each step leaves the loop structure it is about, and the numbers stay right at any size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_practice.checks import Trial, check
from tvm_practice.common import verify
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, LoopNest, loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

lesson = load_lesson("manual_schedule")


def step(exercise_id: str, body: Callable, trial: Trial, M: int, N: int, K: int):
    """Climb the ladder with references up to a step, take that step with `body`; return the nests before and after,
    and the schedule."""
    sch = lesson.matmul(M, N, K)
    lesson.pad(sch)
    for known, (_, arguments) in lesson.LADDER.items():
        if known == exercise_id:
            break
        body_of(known)(sch, *arguments)
    before = loop_nest(sch.mod)
    trial.call(body, sch, *lesson.LADDER[exercise_id][1])
    after = loop_nest(sch.mod)
    trial.show(after, before)
    if after.lines == before.lines:
        raise Wrong(f"{body.__name__} ran, but the loop nest is what it was before: no primitive was applied to sch.")
    return before, after, sch


def sizes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """A size that the tile divides, to look at, and one that it does not."""
    rows, columns = lesson.ROWS, lesson.COLUMNS
    return (4 * rows, 3 * columns, 40), (3 * rows + 1, 2 * columns + 5, 23)


def assert_multiplies(sch, trial: Trial, M: int, N: int, K: int) -> None:
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    try:
        function = build(sch.mod)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(f"The schedule is accepted, but TVM cannot compile the program it makes: {reason}") from None
    got = verify.run(function, (a, b), (M, N))
    want, magnitude = verify.matmul_reference(a, b)
    verify.assert_close(got, want, magnitude, K, f"C (at {M} x {N} x {K})")


def product(nest: LoopNest) -> Block:
    """The block that multiplies and adds."""
    block = nest.computing("C")
    if block is None:
        raise Wrong('The block "C" (or "C_update") is gone; the later steps look for it by that name.')
    return block


def only(block: Block, kind: str) -> list[str]:
    return [loop.name for loop in block.loops if loop.kind == kind]


@check(
    "2.1",
    hints=(
        "Two splits make five loops of three; one reorder puts them in order.",
        "`io, ii = sch.split(i, [None, rows])`: the list has the extents from the outer to the inner, None for what is left. "
        "`sch.reorder(...)` takes the loops in the order you want.",
        "`i, j, k = sch.get_loops(sch.get_sblock(\"C\"))`, split i and j, then `sch.reorder(io, jo, k, ii, ji)`",
    ),
)
def tile(body: Callable, trial: Trial) -> None:
    rows, columns = lesson.ROWS, lesson.COLUMNS
    for M, N, K in sizes():
        _, after, sch = step("2.1", body, trial, M, N, K)
        block = product(after)
        where = f"The loops are now {block.order()}"
        if len(block.loops) != 5:
            raise Wrong(f"{where}; expected five: io, jo, k, ii, ji. Split i and j, and leave k whole.")
        extents = [loop.extent for loop in block.loops]
        feeds = list(block.feeds)
        if feeds[4] != "j":
            raise Wrong(f"{where}: the innermost belongs to {feeds[4]}. It should be ji, along a row of B and C.")
        if feeds[3] == "k":
            raise Wrong(f"{where}: k lies inside of ii. Then B's row is loaded again for every row of the tile; k goes outside.")
        if feeds[2] != "k":
            raise Wrong(f"{where}: k should be in the middle, outside of the tile's own loops ii and ji and inside of io and jo.")
        if extents[3:] == [columns, rows] or (extents[3], extents[4]) == (columns, columns):
            raise Wrong(f"The tile is {extents[3]} x {extents[4]}; expected {rows} rows by {columns} columns. Are the factors swapped?")
        if extents[3:] != [rows, columns]:
            raise Wrong(
                f"The inner loops have extents {extents[3]} and {extents[4]}; expected {rows} and {columns}. "
                "In sch.split(loop, [None, factor]) the second is the inner one."
            )
        assert_multiplies(sch, trial, M, N, K)


@check(
    "2.2",
    hints=(
        "Which of the five loops moves along a row of both B and C?",
        "`sch.get_loops(block)` gives the loops from the outermost inwards; `sch.vectorize(loop)` takes one.",
        "`*_, ji = sch.get_loops(sch.get_sblock(\"C\"))`, then `sch.vectorize(ji)`",
    ),
)
def vectorize(body: Callable, trial: Trial) -> None:
    for M, N, K in sizes():
        before, after, sch = step("2.2", body, trial, M, N, K)
        block = product(after)
        vectorized = only(block, "vectorized")
        if not vectorized:
            others = [f"{loop.name} is {loop.kind}" for loop in block.loops if loop.kind != "serial"]
            told = f" ({', '.join(others)})" if others else ""
            raise Wrong(f"The result would be right, but no loop is vectorized{told}.")
        place = next(n for n, loop in enumerate(block.loops) if loop.kind == "vectorized")
        if block.feeds[place] != "j" or place != len(block.loops) - 1:
            raise Wrong(
                f"Loop {vectorized[0]} is vectorized, but it belongs to {block.feeds[place]}: its neighbours lie a whole row apart in "
                "memory. Vectorize the innermost loop, ji."
            )
        if len(block.loops) != len(product(before).loops):
            raise Wrong(f"The loops are now {block.order()}; expected the five of 2.1, the last of them vectorized.")
        if extra := only(block, "parallel") + only(block, "unrolled"):
            raise Wrong(f"Loop {extra[0]} was changed as well; this step only vectorizes. The others have their own.")
        assert_multiplies(sch, trial, M, N, K)


@check(
    "2.3",
    hints=(
        "The threads should be started once, not once for every tile.",
        "The outermost loop is the first that `sch.get_loops(block)` returns; `sch.parallel(loop)` shares it out.",
        "`io, *_ = sch.get_loops(sch.get_sblock(\"C\"))`, then `sch.parallel(io)`",
    ),
)
def parallelize(body: Callable, trial: Trial) -> None:
    for M, N, K in sizes():
        _, after, sch = step("2.3", body, trial, M, N, K)
        block = product(after)
        parallel = only(block, "parallel")
        if not parallel:
            raise Wrong("The result would be right, but no loop is parallel: one thread does it all.")
        place = next(n for n, loop in enumerate(block.loops) if loop.kind == "parallel")
        if place > 0:
            starts = int(np.prod([int(loop.extent) for loop in block.loops[:place]]))
            raise Wrong(
                f"Loop {parallel[0]} is parallel, but {place} loop(s) lie around it: the threads would be started {starts} times "
                f"at this size. Take the outermost, {block.loops[0].name}."
            )
        if len(parallel) > 1:
            raise Wrong(f"{len(parallel)} loops are parallel ({', '.join(parallel)}); the outermost alone is enough.")
        if not only(block, "vectorized"):
            raise Wrong("The innermost loop is no longer vectorized; that was step 2.2.")
        if block.feeds[-3:] != ("k", "i", "j"):
            raise Wrong(f"The loops are now {block.order()}; k, ii and ji should still be the three inner ones.")
        assert_multiplies(sch, trial, M, N, K)


@check(
    "2.4",
    hints=(
        "Five primitives in this order: cache_write, reverse_compute_at, kinds for the copy's loops, unroll, decompose_reduction.",
        "The copy belongs in the loop just outside k, where a tile is finished: `outer[-1]`. Unroll ii; unroll and vectorize the "
        "copy's last two loops; decompose at k.",
        "`copy = sch.cache_write(block, 0, \"local\")`; `sch.reverse_compute_at(copy, outer[-1])`; "
        "`*_, row, column = sch.get_loops(copy)`; unroll row, vectorize column, unroll ii; `sch.decompose_reduction(block, k)`",
    ),
)
def register_tile(body: Callable, trial: Trial) -> None:
    rows, columns = lesson.ROWS, lesson.COLUMNS
    for M, N, K in sizes():
        _, after, sch = step("2.4", body, trial, M, N, K)
        block = product(after)
        if block.scope != "local":
            scope = f'in a "{block.scope}" buffer, {block.stores_to}' if block.stores_to != "C" else "in C, in memory"
            raise Wrong(f"The sum is still kept {scope}. cache_write(block, 0, \"local\") gives it a place in registers.")
        copy = next((b for b in after.blocks if block.stores_to in b.reads and b.name != block.name), None)
        if copy is None:
            raise Wrong(f"Nothing copies {block.stores_to} out of the registers.")
        common = _common_loops(block, copy)
        if len(common) == 0:
            raise Wrong(
                "The copy to C stands after all the loops: the whole of C would have to stay in registers. "
                "reverse_compute_at(copy, jo) moves it to where one tile is finished."
            )
        k = block.position("k")[0]
        if len(common) > k:
            raise Wrong("The copy to C stands inside of k: the tile leaves the registers for every k, before it is finished.")
        if len(common) < k:
            raise Wrong(
                f"The copy to C stands in loop {common[-1]}, outside of {block.loops[k - 1].name}: a whole row of tiles would have to stay "
                f"in registers. Put it in {block.loops[k - 1].name}, the loop just around k."
            )
        if block.has_init:
            raise Wrong(
                "The zeroing `if k == 0` is still tested for every k. decompose_reduction(block, k) makes it a loop nest of its own."
            )
        zero = after.block("C_init")
        if zero is None or len(_common_loops(block, zero)) != k:
            raise Wrong("The zeroing should stand just before k, once for each tile: decompose_reduction at the loop k.")
        kinds = [loop.kind for loop in block.loops[-2:]]
        if kinds[0] != "unrolled":
            raise Wrong(
                f"The rows of the tile (loop {block.loops[-2].name}) are not unrolled. C_local[ii, ...] with ii a variable has "
                "no register; unroll ii."
            )
        if kinds[1] != "vectorized":
            raise Wrong(f"Loop {block.loops[-1].name} is no longer vectorized; that was step 2.2.")
        if copy.loops[-1].kind != "vectorized" or copy.loops[-2].kind not in ("unrolled", "vectorized"):
            raise Wrong(
                f"The copy to C is not done: vectorize its innermost loop and unroll the one around it, as for the tile "
                f"(they are {copy.loops[-2].kind} and {copy.loops[-1].kind})."
            )
        if [loop.kind for loop in zero.loops[-2:]] != ["unrolled", "vectorized"]:
            raise Wrong(
                "The zeroing has serial loops: it took over the kinds that ii and ji had when decompose_reduction was called. "
                "Call it last."
            )
        if (block.loops[-2].extent, block.loops[-1].extent) != (rows, columns):
            raise Wrong(f"The tile should still be {rows} x {columns}.")
        if block.loops[0].kind != "parallel":
            raise Wrong("The outermost loop is no longer parallel; that was step 2.3.")
        assert_multiplies(sch, trial, M, N, K)


def _common_loops(first: Block, second: Block) -> list[str]:
    """Names of the loops that two blocks share, from the outside."""
    shared = []
    for one, other in zip(first.loops, second.loops, strict=False):
        if one.name != other.name:
            break
        shared.append(one.name)
    return shared


@check(
    "2.5",
    hints=(
        "First the copy (cache_read), then its layout (transform_layout), then its loops.",
        "C_update reads C_local, A, B: B is number 2. Element [k, j] lies in panel j // columns, row k, column j % columns. The copy's "
        "loops are k and j: split j by columns, reorder.",
        "`copy = sch.cache_read(product, 2, \"global\")`; `sch.transform_layout(product, (\"read\", 2), lambda k, j: "
        "(j // columns, k, j % columns))`; split, `sch.reorder(panel, k, column)`, parallel, vectorize",
    ),
)
def pack(body: Callable, trial: Trial) -> None:
    columns = lesson.COLUMNS
    for M, N, K in sizes():
        before, after, sch = step("2.5", body, trial, M, N, K)
        old, block = product(before), product(after)
        b_name = old.reads[2]
        new = [name for name in block.reads if name not in old.reads]
        if not new:
            raise Wrong(f"C_update still reads {', '.join(block.reads[1:])}: no packed copy of {b_name} is used.")
        if b_name in block.reads:
            raise Wrong(
                f"{new[0]} is a copy of A, and B is still read as it lies. C_update reads C_local, A and B, in this order: B is number 2."
            )
        copy = next(b for b in after.blocks if b.stores_to == new[0])
        shape = next(shape for name, shape, _ in after.buffers if name == new[0])
        panels = -(-N // columns)
        if len(shape) != 3:
            raise Wrong(
                f"{new[0]} has shape {list(shape)}, the layout of B itself. transform_layout should make it "
                f"[{panels}, {K}, {columns}]: panel, k, column."
            )
        if shape != (panels, K, columns):
            raise Wrong(
                f"{new[0]} has shape {list(shape)}; expected [{panels}, {K}, {columns}]: element [k, j] lies at "
                "[j // columns, k, j % columns]."
            )
        if _common_loops(block, copy):
            raise Wrong(
                f"The copy stands inside of {block.loops[0].name}: B is packed again for every tile. Leave it before the product; packing pays "
                "because it is done once."
            )
        if len(copy.loops) != 3 or [loop.extent for loop in copy.loops] != [panels, K, columns]:
            extents = [loop.extent for loop in copy.loops]
            raise Wrong(
                f"The copy's loops have extents {extents}; expected {[panels, K, columns]}: panel, k, column, the order in which the "
                "panels lie in memory. Split j and reorder."
            )
        kinds = [loop.kind for loop in copy.loops]
        if kinds[2] != "vectorized":
            raise Wrong("The copy's innermost loop, along a row of B and of the panel, is not vectorized.")
        if kinds[0] != "parallel":
            raise Wrong(
                "The copy is done by one thread alone while the others wait: run its panels in parallel."
            )
        assert_multiplies(sch, trial, M, N, K)
