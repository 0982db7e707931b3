"""What "done" means in phase 2: each step leaves the loops it is about, and right numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from math import prod

from tvm_practice.checks import (
    FROM_THE_OUTSIDE,
    STARTS_AT_0,
    UNCHANGED,
    WHERE_ALL_REACH_IT,
    Trial,
    check,
    on_gpu,
)
from tvm_practice.common import verify
from tvm_practice.common.accesses import written
from tvm_practice.common.cuda import kernels
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, Loop, LoopNest, loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong

lesson = load_lesson("manual_schedule")

TAKE_THE_ARGUMENTS = (
    "The check calls the body with several tiles. Where do their rows and columns come from?"
)

Size = tuple[int, int, int]
Tile = tuple[int, int]


def cases() -> tuple[tuple[Size, Tile], ...]:
    """A size that the tile divides, to look at; one it does not; and another tile, for the steps
    that are given one."""
    rows, columns = lesson.ROWS, lesson.COLUMNS
    return (
        ((4 * rows, 3 * columns, 40), (rows, columns)),
        ((4 * rows + 1, 3 * columns + 5, 23), (rows, columns)),
        ((3 * rows, 2 * columns, 17), (rows // 2, columns // 4)),
    )


def step(
    exercise_id: str, body: Callable, trial: Trial, size: Size, tile: Tile, fused: bool = False
):
    """Climb the ladder with references up to a step, and take that step with `body`; return the
    nests before and after, and the schedule.

    fused: whether slab and jo are one loop, as an answer to 2.3 may leave them.
    """
    sch = lesson.matmul(*size)
    for known in lesson.LADDER:
        if known == exercise_id:
            break
        lesson.climb(sch, known, body_of(known), *tile)
        if known == "2.3" and fused:
            slab, jo, *_ = sch.get_loops(sch.get_sblock("C"))
            sch.parallel(sch.fuse(slab, jo))
    if exercise_id == "2.1":
        lesson.pad(sch, *tile)
    elif exercise_id == "2.3":
        lesson.slab(sch)
    before, shapes = loop_nest(sch.mod), _argument_shapes(sch)
    given = {"2.1": tile, "2.5": tile[1:]}.get(exercise_id, ())
    trial.call(body, sch, *given)
    after = loop_nest(sch.mod)
    trial.show(after, before)
    call = f"{body.__name__}({', '.join(['sch', *map(str, given)])})"
    if changed := [name for name, shape in _argument_shapes(sch).items() if shape != shapes[name]]:
        raise Wrong(
            f"{call} changed the shape of {changed[0]} itself, an argument of the function: "
            "whoever"
            f" calls it has {changed[0]} as it was. Only a copy that the function makes may get"
            " another layout; make the copy first."
        )
    if after.lines == before.lines:
        raise Wrong(
            f"{call} ran, but the loop nest is what it was before. Each primitive changes sch"
            " itself; was any called?"
        )
    known_blocks = {block.name for block in before.blocks}
    new = [block.name for block in after.blocks if block.name not in known_blocks]
    if new and exercise_id in ("2.1", "2.2", "2.3"):
        raise Wrong(
            f"{call} left a new block, {new[0]}: something was copied or decomposed. That comes "
            "in 2.4;"
            " this step only changes loops."
        )
    return before, after, sch


def _argument_shapes(sch) -> dict[str, tuple[int, ...]]:
    return {
        buffer.name: tuple(int(extent) for extent in buffer.shape)
        for buffer in sch.mod["main"].params
    }


def assert_multiplies(sch, trial: Trial, size: Size) -> None:
    M, N, K = size
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    try:
        function = build(sch.mod)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(
            f"TVM allows each primitive, but cannot compile the program they make: {reason}"
        ) from None
    got = verify.run(function, (a, b), (M, N))
    want, magnitude = verify.matmul_reference(a, b)
    what = f"C (at {M} x {N} x {K})"
    writer = partial(written, sch.mod, "C")
    verify.assert_close(got, want, magnitude, K, what, written=writer)


def product(nest: LoopNest) -> Block:
    """The block that multiplies and adds."""
    block = nest.computing("C")
    if block is None:
        raise Wrong(
            'The block "C" (or "C_update") is gone; the later steps look for it by that name.'
        )
    if missing := [axis for axis in "ijk" if not block.position(axis)]:
        raise Wrong(
            f'No loop of the block "{block.name}" runs over {" and ".join(missing)} any more: the'
            " block has other indices than the i, j, k that the later steps count on."
        )
    return block


def of_kind(block: Block, kind: str) -> list[int]:
    """Where the block's loops of a kind stand, 0 being the outermost."""
    return [n for n, loop in enumerate(block.loops) if loop.kind == kind]


def other_kinds(block: Block) -> str:
    """The loops that are not serial, in brackets, for a sentence that says what is missing."""
    told = [f"{loop.name} is {loop.kind}" for loop in block.loops if loop.kind != "serial"]
    return f" ({', '.join(told)})" if told else ""


def shape_of(block: Block, inner: int) -> list[tuple]:
    """What the `inner` innermost loops are, whatever their names and kinds."""
    extents = [loop.extent for loop in block.loops]
    return list(zip(block.feeds, extents, block.strides, strict=True))[-inner:]


@check(
    "2.1",
    hints=(
        "Two splits make five loops of three; one reorder puts them in order.",
        (
            "`io, ii = sch.split(i, [None, rows])`: the list has the extents from the outer to the"
            " inner, None for what is left. `sch.reorder(...)` takes the loops in the order you"
            " want."
        ),
        (
            '`i, j, k = sch.get_loops(sch.get_sblock("C"))`, split i and j, then `sch.reorder(io,'
            " jo, k, ii, ji)`"
        ),
    ),
    told={
        **UNCHANGED,
        (
            "with k innermost|with k outermost|k should be the third|k lies inside|"
            "innermost runs down|jo stands outside|as the splits left them"
        ): (
            "Say of each loop what it chooses: which tile (io, jo), which k, where in the tile "
            "(ii, ji). sch.reorder takes them in just that order."
        ),
        "The list of sch.split|factors swapped|returns the outer loop first|from tile to tile": (
            "After `x, y = sch.split(i, [a, b])`, x is outside and runs a times, y inside and b "
            "times. Which of the two has as many iterations as the tile has rows?"
        ),
        "split takes a list": (
            "How many loops does the split make, and how many extents does it need to be told?"
        ),
        "take the arguments": TAKE_THE_ARGUMENTS,
        "multiply to less|more iterations than": (
            "The number of tiles differs from call to call, the size of one does not. What stands "
            "in the list for what nobody needs to say?"
        ),
        "no longer exists": (
            "A split puts two loops in the place of one. Which of your names are from before it?"
        ),
        "is not split|is split as well": ("A tile is a block of C. Which two indices has C?"),
    },
)
def tile(body: Callable, trial: Trial) -> None:
    for size, (rows, columns) in cases():
        before, after, sch = step("2.1", body, trial, size, (rows, columns))
        block = product(after)
        _assert_tile_loops(block)
        row = product(before).strides[0]  # from one row of C to the next
        ii, ji = block.loops[3:]
        steps = ((ii, block.strides[3], row), (ji, block.strides[4], 1))
        if far := [loop.name for loop, stride, own in steps if stride != own]:
            raise Wrong(
                f"{ii.name} and {ji.name} are inside, but {' and '.join(far)} "
                f"{'goes' if len(far) == 1 else 'go'} from tile to tile: consecutive iterations of "
                f"{ii.name} write elements of C that lie {block.strides[3]} apart, of {ji.name} "
                f"{block.strides[4]}; expected {row} and 1. sch.split returns the outer loop "
                "first, then the inner one."
            )
        if (ii.extent, ji.extent) == (columns, rows) != (rows, columns):
            raise Wrong(
                f"The tile is {ii.extent} x {ji.extent}; expected {rows} rows by {columns} "
                "columns."
                " Are the factors swapped?"
            )
        if (ii.extent, ji.extent) == (lesson.ROWS, lesson.COLUMNS) != (rows, columns):
            raise Wrong(
                f"tile(sch, {rows}, {columns}) makes tiles of {ii.extent} x {ji.extent}: take the"
                " arguments rows and columns, not the numbers they happen to be here."
            )
        if (ii.extent, ji.extent) != (rows, columns):
            raise Wrong(
                f"The inner loops have extents {ii.extent} and {ji.extent}; expected {rows} and"
                f" {columns}. The list of sch.split goes from the outer extent to the inner one."
            )
        if block.guarded:
            raise Wrong(
                f"The factors make more iterations than the loop has (i has {size[0]}, j has"
                f" {size[1]}, before padding), so a guard `if` stands around the statement. None"
                " instead of the outer factor is always exact here."
            )
        if told := other_kinds(block):
            raise Wrong(
                f"The tile is right, but a loop has another kind already{told}. Each kind has its"
                " own step, to be timed by itself."
            )
        assert_multiplies(sch, trial, size)


def _assert_tile_loops(block: Block) -> None:
    """Five loops, of i, j, k, i, j in this order."""
    now = f"The loops are now {block.order()}"
    if fused := [
        loop.name for loop, feeds in zip(block.loops, block.feeds, strict=True) if "," in feeds
    ]:
        raise Wrong(
            f"{now}; {fused[0]} runs over two indices at once. Nothing is to be fused in this step."
        )
    count = {axis: len(block.position(axis)) for axis in "ijk"}
    if count["k"] > 1:
        raise Wrong(
            f"{now}: k is split as well. Leave it whole: a tile is a block of C, and C has no k."
        )
    if missing := [axis for axis in "ij" if count[axis] == 1]:
        raise Wrong(
            f"{now}: {' and '.join(missing)} is not split. The tile needs both, ii from i and ji"
            " from j."
        )
    if len(block.loops) != 5:
        raise Wrong(f"{now}: {len(block.loops)} of them; expected five: io, jo, k, ii, ji.")
    feeds = block.feeds
    if feeds == ("i", "i", "j", "j", "k"):
        raise Wrong(f"{now}, as the splits left them. Now put them in order: io, jo, k, ii, ji.")
    if feeds[4] == "k":
        raise Wrong(
            f"{now}: with k innermost, each element of C is finished before the next one, and B is"
            " walked down its columns as before. k goes outside of the tile's own loops."
        )
    if feeds[4] == "i":
        raise Wrong(
            f"{now}: the innermost runs down a column of C. It should be ji, along a row of B"
            " and C."
        )
    if feeds[3] == "k":
        raise Wrong(
            f"{now}: k lies inside of ii, so the row of B is loaded again for every row of the"
            " tile. k goes around both."
        )
    if feeds[0] == "k":
        raise Wrong(
            f"{now}: with k outermost, all of C is passed through for every k, and no tile stays "
            "in"
            " the cache. k goes inside of io and jo."
        )
    if feeds[2] != "k":
        raise Wrong(
            f"{now}: k should be the third, inside of io and jo (which tile) and outside of ii and"
            " ji (where in the tile)."
        )
    if feeds[:2] == ("j", "i"):
        raise Wrong(
            f"{now}: jo stands outside of io, so one tile follows the other down a column of them."
            " The result would be right, but the next steps take the outermost loop for io, the"
            " rows of tiles, and share it out. Expected io, jo, k, ii, ji."
        )


@check(
    "2.2",
    hints=(
        "Which of the five loops moves along a row of both B and C?",
        (
            "`sch.get_loops(block)` gives the loops from the outermost inwards;"
            " `sch.vectorize(loop)` takes one."
        ),
        '`*_, ji = sch.get_loops(sch.get_sblock("C"))`, then `sch.vectorize(ji)`',
    ),
    told={
        **UNCHANGED,
        "is a reduction": (
            "A vector instruction writes several elements at once. Which loops lead to another "
            "element of C, and which one stays at the same?"
        ),
        "down a column|from tile to tile|two loops fused": (
            "Take two iterations of that loop, one after the other, and write down which elements "
            "of C they write. For which loop do they lie side by side?"
        ),
        "takes a loop here": (
            "sch.get_loops returns a list with the outermost loop first. Which of its five is ji?"
        ),
        "no loop is vectorized": (
            "Each kind of loop has its own call. Which one gives the kind that the title of this "
            "step names?"
        ),
        "as well; this step|expected the five": (
            "One call is enough here, for one loop as 2.1 left it. What do your other calls do?"
        ),
    },
)
def vectorize(body: Callable, trial: Trial) -> None:
    for size, tile_of_case in cases():
        before, after, sch = step("2.2", body, trial, size, tile_of_case)
        block = product(after)
        vectorized = of_kind(block, "vectorized")
        if not vectorized:
            raise Wrong(
                f"The result would be right, but no loop is vectorized{other_kinds(block)}."
            )
        _assert_neighbours(block, vectorized[0])
        if shape_of(block, 9) != shape_of(product(before), 9):
            raise Wrong(
                f"The loops are now {block.order()}; expected the five of 2.1, the last of them"
                " vectorized. (Where it is longer than a vector register, the compiler cuts it"
                " into registers itself.)"
            )
        for loop in block.loops[:-1]:
            if loop.kind != "serial":
                raise Wrong(
                    f"Loop {loop.name} is {loop.kind} as well; this step only vectorizes ji. The"
                    " others have steps of their own."
                )
        assert_multiplies(sch, trial, size)


def _assert_neighbours(block: Block, place: int) -> None:
    """The loop at `place` is the innermost, and its iterations write neighbouring elements."""
    loop, feeds, stride = block.loops[place], block.feeds[place], block.strides[place]
    if "," in feeds:
        raise Wrong(
            f"Loop {loop.name} is vectorized, which is two loops fused to one: its {loop.extent}"
            " elements lie in several rows of C, not side by side. Vectorize ji alone."
        )
    if feeds == "i":
        raise Wrong(
            f"Loop {loop.name} is vectorized, but it runs down a column: its elements of C lie"
            f" {stride} apart in memory, a vector instruction wants neighbours. Vectorize ji."
        )
    if stride != 1:
        raise Wrong(
            f"Loop {loop.name} is vectorized, but it goes from tile to tile: its elements of C lie"
            f" {stride} apart in memory, a vector instruction wants neighbours. Vectorize ji,"
            " inside of the tile."
        )


@check(
    "2.3",
    hints=(
        "The threads should be started once, not once for every tile.",
        (
            "The outermost loop is the first that `sch.get_loops(block)` returns;"
            " `sch.parallel(loop)` shares it out."
        ),
        '`slab, *_ = sch.get_loops(sch.get_sblock("C"))`, then `sch.parallel(slab)`',
    ),
    told={
        **UNCHANGED,
        "is a reduction": (
            "Two threads may not add to the same element of C. Does every loop that you share out "
            "lead to another element?"
        ),
        "lies inside of|threads would start": (
            "Threads are started whenever the loop is entered. Which loop is entered only once?"
        ),
        "no loop is parallel|single iteration": (
            "The outermost line of your nest should read `parallel`, with several iterations. A "
            "loop that fuse or split has made is serial again, so its kind comes after."
        ),
        "as 2.1 left them|that was step 2.2|this step only shares": (
            "Go through your calls: which of them touches a loop of the tile? Everything from k "
            "inwards is done."
        ),
    },
)
def parallelize(body: Callable, trial: Trial) -> None:
    for size, tile_of_case in cases():
        before, after, sch = step("2.3", body, trial, size, tile_of_case)
        block = product(after)
        parallel = of_kind(block, "parallel")
        names = [block.loops[place].name for place in parallel]
        if not parallel:
            raise Wrong(
                f"The result would be right, but no loop is parallel{other_kinds(block)}: one"
                " thread does it all."
            )
        if parallel[0] > 0:
            starts = prod(int(loop.extent) for loop in block.loops[: parallel[0]])
            raise Wrong(
                f"Loop {names[0]} is parallel, but it lies inside of"
                f" {', '.join(loop.name for loop in block.loops[: parallel[0]])}: the threads "
                "would"
                f" be started {starts} times at this size. Take the outermost,"
                f" {block.loops[0].name}."
            )
        if len(parallel) > 1:
            raise Wrong(
                f"{len(parallel)} loops are parallel, {' and '.join(names)}, one inside of the"
                " other: threads would start threads. The outermost alone is enough; to share out"
                " more pieces, fuse the two first."
            )
        if block.loops[0].extent == 1:
            raise Wrong(
                f"Loop {names[0]} is parallel, but has a single iteration: there is nothing to "
                "share"
                " out, and one thread does it all."
            )
        if block.feeds[-3:] != ("k", "i", "j") or shape_of(block, 3) != shape_of(
            product(before), 3
        ):
            raise Wrong(
                f"The loops are now {block.order()}; k, ii and ji should still be the three inner"
                " ones, as 2.1 left them."
            )
        if block.loops[-1].kind != "vectorized":
            raise Wrong(f"Loop {block.loops[-1].name} is no longer vectorized; that was step 2.2.")
        for loop in block.loops[1:-1]:
            if loop.kind != "serial":
                raise Wrong(
                    f"Loop {loop.name} is {loop.kind} as well; this step only shares out the"
                    " outermost loop."
                )
        assert_multiplies(sch, trial, size)


@check(
    "2.4",
    hints=(
        (
            "Five primitives in this order: cache_write, reverse_compute_at, kinds for the copy's"
            " loops, unroll, decompose_reduction."
        ),
        (
            "The copy belongs in the loop just outside k, where a tile is finished: `outer[-1]`."
            " Unroll ii; unroll and vectorize the copy's last two loops; decompose at k."
        ),
        (
            '`copy = sch.cache_write(block, 0, "local")`; `sch.reverse_compute_at(copy,'
            " outer[-1])`; `*_, row, column = sch.get_loops(copy)`; unroll row, vectorize column,"
            " unroll ii; `sch.decompose_reduction(block, k)`"
        ),
    ),
    told={
        **UNCHANGED,
        "took over the kinds|cache_write comes before|no block named": (
            "Mind the order of the calls: what makes a block comes first, then the kinds of its "
            "loops, and the zeroing is taken out last."
        ),
        "The sum is still kept": (
            "While k runs, the sum of a tile should lie in a buffer of its own. Which call makes "
            "one for what a block writes, and which of its arguments says where?"
        ),
        "The copy to C stands": (
            "A tile may leave the registers when its last k is done and before the next tile "
            "begins. Which loop goes from tile to tile?"
        ),
        "nothing in the program reads the output|to be moved is the copy": (
            "cache_write returned a block. It reads what the product makes, so it stands behind "
            "it: which of the two compute_at calls moves a block to the one that makes what it "
            "reads?"
        ),
        "The zeroing|would start again from 0": STARTS_AT_0,
        "of the copy to C .* serial|expected two, as": (
            "The copy has the same two loops as the tile, rows and columns. Which kinds have "
            "those of the tile?"
        ),
        r"C_local\[i_1": (
            "A register is chosen when the program is compiled. What would the processor do with "
            "the number of a row that it only learns as it runs?"
        ),
        "no longer vectorized|no longer parallel|unrolled as well|is parallel as well": (
            "Of the loops that are there already, this step changes the kind of one: the rows of "
            "the tile. Which of your calls goes further?"
        ),
        "another new buffer": (
            "How many copies did you ask for? One, of what the product writes, is what the tile "
            "needs."
        ),
    },
)
def register_tile(body: Callable, trial: Trial) -> None:
    for size, tile_of_case in cases():
        before, after, sch = step("2.4", body, trial, size, tile_of_case)
        _assert_register_tile(product(before), after)
        if (
            extra := {name for name, *_ in after.buffers}
            - {name for name, *_ in before.buffers}
            - {product(after).stores_to}
        ):
            raise Wrong(
                f"Besides {product(after).stores_to} there is another new buffer, {min(extra)}. "
                "One"
                " place for the sum is enough; what else is read or written stays as it was."
            )
        assert_multiplies(sch, trial, size)
    size, tile_of_case = cases()[0]
    try:
        before, after, _ = step("2.4", body, trial, size, tile_of_case, fused=True)
        _assert_register_tile(product(before), after)
    except Wrong as error:
        raise Wrong(
            "Right after loops slab, jo, io, k, ii, ji. But 2.3 may also have fused slab and jo to"
            f" one loop, and then: {str(error).rstrip('.')}. `*outer, k, ii, ji = "
            "sch.get_loops(block)`"
            " takes the loops either way."
        ) from None


def _assert_register_tile(old: Block, after: LoopNest) -> None:
    block = product(after)
    if block.scope != "local":
        kept = (
            f"in {old.stores_to} itself"
            if block.stores_to == old.stores_to
            else f'in a "{block.scope}" buffer, {block.stores_to}'
        )
        raise Wrong(
            f'The sum is still kept {kept}. cache_write(block, 0, "local") gives it a place in'
            " registers."
        )
    copy = next(
        (b for b in after.blocks if block.stores_to in b.reads and b.name != block.name), None
    )
    if copy is None:
        raise Wrong(f"Nothing copies {block.stores_to} out of the registers.")
    common, k = _common_loops(block, copy), block.position("k")[0]
    around_k = block.loops[k - 1].name
    if not common:
        raise Wrong(
            "The copy to C stands after all the loops: the whole of C would have to stay in"
            " registers. reverse_compute_at moves it to where one tile is finished, into"
            f" {around_k}."
        )
    if len(common) > k:
        raise Wrong(
            "The copy to C stands inside of k: the tile leaves the registers for every k, before "
            "it"
            " is finished."
        )
    if len(common) < k:
        raise Wrong(
            f"The copy to C stands in loop {common[-1].name}, outside of {around_k}: all the tiles"
            f" of {around_k} would have to stay in registers. Put it in {around_k}, the loop just"
            " around k."
        )
    if block.has_init:
        raise Wrong(
            "The zeroing `if k == 0` is still tested for every k. decompose_reduction(block, k)"
            " makes it a loop nest of its own."
        )
    zero = after.block("C_init")
    shared = _common_loops(block, zero) if zero is not None else []
    if zero is None or len(shared) != k:
        place = (
            f"in loop {shared[-1].name}, before {block.loops[len(shared)].name}"
            if shared
            else f"before {block.loops[0].name}"
        )
        raise Wrong(
            f"The zeroing stands {place}, and zeroes more than one tile at a time. It should stand"
            " just before k: decompose_reduction takes the loop it is put before."
        )
    _assert_tile_kinds(old, block, copy, zero)


def _assert_tile_kinds(old: Block, block: Block, copy: Block, zero: Block) -> None:
    """In all three blocks the tile's rows are unrolled, its columns vectorized, nothing else."""
    if shape_of(block, 2) != shape_of(old, 2):
        raise Wrong(
            f"The loops around the product are now {block.order()}; the tile's own, ii and ji,"
            " should still be the inner two."
        )
    ii, ji = block.loops[-2:]
    if ii.kind != "unrolled":
        raise Wrong(
            f"The rows of the tile (loop {ii.name}) are not unrolled. {block.stores_to}[{ii.name},"
            f" ...] with {ii.name} a variable has no register; unroll it."
        )
    if ji.kind != "vectorized":
        raise Wrong(f"Loop {ji.name} is {ji.kind}, no longer vectorized; that was step 2.2.")
    k = block.position("k")[0]
    if len(copy.loops) != k + 2:
        own = ", ".join(loop.name for loop in copy.loops[k:])
        raise Wrong(
            f"The copy to C has loops of its own {own}; expected two, as the tile has: rows and "
            "columns,"
            " the columns to be vectorized."
        )
    if copy.loops[-1].kind != "vectorized":
        raise Wrong(
            f"The innermost loop of the copy to C ({copy.loops[-1].name}) is "
            f"{copy.loops[-1].kind}:"
            " the floats leave the registers one by one. Vectorize it."
        )
    if copy.loops[-2].kind != "unrolled":
        raise Wrong(
            f"The rows of the copy to C (loop {copy.loops[-2].name}) are {copy.loops[-2].kind}."
            f" Unroll them as those of the tile: {block.stores_to}[{copy.loops[-2].name}, ...]"
            " needs a constant index there too."
        )
    zeroing = [loop.kind for loop in zero.loops[k:]]
    if zeroing != ["unrolled", "vectorized"]:
        raise Wrong(
            f"The loops of the zeroing are {' and '.join(zeroing)}: it took over the kinds that ii"
            " and ji had when decompose_reduction was called. Call it last."
        )
    if block.loops[0].kind != "parallel":
        raise Wrong(f"Loop {block.loops[0].name} is no longer parallel; that was step 2.3.")
    for loop in block.loops[1 : k + 1]:
        if loop.kind != "serial":
            reason = "around the tile, only the outermost loop has a kind, parallel."
            if loop.kind == "unrolled":
                reason = (
                    f"its {loop.extent} iterations would be written out one after the other, each "
                    "a"
                    " whole tile. Unroll the rows of the tile only."
                )
            raise Wrong(f"Loop {loop.name} is {loop.kind} as well: {reason}")


def _common_loops(first: Block, second: Block) -> list[Loop]:
    """The loops that two blocks of a nest share, from the outside."""
    shared = []
    for one, other in zip(first.loops, second.loops, strict=False):
        if one is not other:  # the very same loop, not one of the same name
            break
        shared.append(one)
    return shared


@check(
    "2.5",
    hints=(
        "First the copy (cache_read), then its layout (transform_layout), then its loops.",
        (
            "C_update reads C_local, A, B: B is number 2. Element [k, j] lies in panel j //"
            " columns, row k, column j % columns. The copy's loops are k and j: split j by "
            "columns,"
            " reorder."
        ),
        (
            '`copy = sch.cache_read(product, 2, "global")`; `sch.transform_layout(product, '
            '("read",'
            " 2), lambda k, j: (j // columns, k, j % columns))`; split, `sch.reorder(panel, k,"
            " column)`, parallel, vectorize"
        ),
    ),
    told={
        **UNCHANGED,
        "now reads A from a copy|reads 3 buffer|is written by 2 blocks": (
            "cache_read counts what the block reads, from 0. Print `sch.get(block).reads`: at "
            "which place is B?"
        ),
        "take the argument": TAKE_THE_ARGUMENTS,
        "transform_layout is missing|is kept at|one index for each dimension": (
            "The lambda gives each element (k, j) its new place. Follow the product through one "
            "panel: for k = 0 all its columns, then for k = 1. Which index changes fastest, which "
            "slowest, and do no two elements meet?"
        ),
        "The copy stands inside": (
            "B is packed once and read by all. Which of your calls moved the copy into the loops "
            "of the product?"
        ),
        "row by row|outside of the panel|The copy's loops": (
            "The copy should write its memory from the first address to the last. Which of its "
            "loops steps from panel to panel, which from k to k, and which by one?"
        ),
        "copy's innermost loop|by one thread alone|of the copy is": (
            "The three loops of the copy want three kinds: threads share out one, one stays as it "
            "is, one is a vector. Which of them is outermost, and which moves by one?"
        ),
        "as 2.4 left them": (
            "The product has loops, and the copy has others. From which block did you take the "
            "ones that you changed?"
        ),
        "changed the shape of B itself": (
            "Which buffer is yours to lay out anew: the one that the caller gives, or the one "
            "that the copy writes?"
        ),
        "is in scope": ("How large is all of B, and how large is a register?"),
    },
)
def pack(body: Callable, trial: Trial) -> None:
    for size, (rows, columns) in cases():
        before, after, sch = step("2.5", body, trial, size, (rows, columns))
        old, block = product(before), product(after)
        _assert_copies_b(old, block, after)
        if block.loops != old.loops or block.strides != old.strides:
            raise Wrong(
                "The product's own loops, or the layout of its result, are not as 2.4 left them: "
                "now"
                f" {block.order()}{other_kinds(block)}. This step is about the copy of B only."
            )
        _assert_panel_layout(sch, block, after, columns)
        copy = next(b for b in after.blocks if b.stores_to == block.reads[2])
        _assert_panel_loops(block, copy, after, columns)
        assert_multiplies(sch, trial, size)


def _assert_copies_b(old: Block, block: Block, after: LoopNest) -> None:
    """B, and nothing else, is read through a new buffer in memory."""
    a, b = old.reads[1:]
    if block.reads[1] != a:
        raise Wrong(
            f"C_update now reads A from a copy, {block.reads[1]}, and B"
            f" {'from another' if block.reads[2] != b else 'as it lies'}. It reads C_local, A and"
            " B, counted from 0: B is number 2, and A stays."
        )
    if block.reads[2] == b:
        raise Wrong(
            f"C_update still reads {b} as it lies: cache_read of its buffer number 2 makes a copy"
            " and has it read that."
        )
    scope = next(scope for name, _, scope in after.buffers if name == block.reads[2])
    if scope not in ("", "global"):
        raise Wrong(
            f'{block.reads[2]} is in scope "{scope}", which means a small place next to the'
            ' processor. All of B does not fit there; packed panels lie in memory, "global".'
        )


def _assert_panel_layout(sch, block: Block, after: LoopNest, columns: int) -> None:
    """Element [k, j] of B is kept at [j // columns, k, j % columns] of the packed buffer."""
    from tvm import ir
    from tvm.sym import Analyzer

    packed = block.reads[2]
    real = sch.get(sch.get_sblock(block.name))
    region = next(region for region in real.reads if region.source.name == packed)
    indices = [index.min for index in region.region]
    shape = next(list(shape) for name, shape, _ in after.buffers if name == packed)
    analyzer = Analyzer()
    for axis in real.iter_vars:
        analyzer.bind(axis.var, ir.Range(0, axis.dom.extent))
    j, k = (
        next(axis.var for axis in real.iter_vars if axis.var.name == name)
        for name in ("v_j", "v_k")
    )

    def are(*expected) -> bool:
        return len(indices) == len(expected) and all(
            map(analyzer.can_prove_equal, indices, expected)
        )

    if are(j // columns, k, j % columns):
        return
    if are(k, j):
        raise Wrong(
            f"{packed} has shape {shape}, the layout of B itself: as far from row to row as "
            "before."
            " transform_layout is missing."
        )
    kept = ", ".join(str(analyzer.simplify(index)).replace("v_", "") for index in indices)
    wanted = (
        f"Element [k, j] of B is kept at {packed}[{kept}]; expected [j // {columns}, k, j %"
        f" {columns}]"
    )
    if are(j // lesson.COLUMNS, k, j % lesson.COLUMNS):
        raise Wrong(
            f"{wanted} for pack(sch, {columns}): take the argument columns, not the number it"
            " happens to be here."
        )
    if prod(shape) < prod(
        int(axis.dom.extent)
        for axis in real.iter_vars
        if axis.var.same_as(j) or axis.var.same_as(k)
    ):
        raise Wrong(
            f"{wanted}. {packed} has shape {shape}, fewer places than B has elements. TVM does not"
            " check that the lambda keeps all elements apart."
        )
    raise Wrong(f"{wanted}: which panel, which k, which column of the panel.")


def _assert_panel_loops(block: Block, copy: Block, after: LoopNest, columns: int) -> None:
    if inside := _common_loops(block, copy):
        times = prod(int(loop.extent) for loop in inside)
        raise Wrong(
            f"The copy stands inside of {inside[-1].name}, so B is packed {times} times over at"
            " this size, or in pieces. Leave it before the product: packing pays because it is"
            " done once."
        )
    panels, K, _ = next(shape for name, shape, _ in after.buffers if name == copy.stores_to)
    extents = [loop.extent for loop in copy.loops]
    written = f"The copy's loops {copy.order()} have extents {extents}"
    if extents == [K, panels * columns]:
        raise Wrong(
            f"{written}: it still runs through B row by row and writes all over the panels. Split"
            " j, then reorder."
        )
    if extents == [K, panels, columns]:
        raise Wrong(
            f"{written}: j is split, but k is still outside of the panel. reorder to panel, k,"
            " column."
        )
    if extents != [panels, K, columns] or copy.strides != (K * columns, columns, 1):
        apart = ", ".join("uneven" if step is None else str(step) for step in copy.strides)
        raise Wrong(
            f"{written}, and the elements that consecutive iterations write lie [{apart}] apart."
            f" Expected extents {[panels, K, columns]}, and {[K * columns, columns, 1]} apart:"
            " panel, k, column, the order of the memory."
        )
    panel, k, column = copy.loops
    if column.kind != "vectorized":
        raise Wrong(
            f"The copy's innermost loop {column.name}, along a row of B and of the panel, is"
            f" {column.kind}. Vectorize it."
        )
    if k.kind == "parallel":
        raise Wrong(
            f"Loop {k.name} of the copy is parallel: the threads are started for every panel. "
            "Share"
            " out the panels, its outermost loop."
        )
    if panel.kind != "parallel":
        raise Wrong(
            "The copy is done by one thread alone while the others wait: run its panels in"
            " parallel."
        )
    if k.kind != "serial":
        raise Wrong(
            f"Loop {k.name} of the copy is {k.kind}; it should stay serial: K is large, and the"
            " panels and columns are enough."
        )


# ------------------------------------------------------------------------------------- on a GPU
#
# These steps are checked by running TVM's CUDA code in the simulator, on any machine.

# (M, N, K), threads, each: none of the extents equal to another, as far as threads allow. A warp
# is one row of the first block's threads, and in the second a thread fetches several times.
GPU_CASES = (
    ((48, 64, 24), (8, 32), (1, 1)),
    ((96, 64, 40), (8, 4), (6, 2)),
)
DEPTH, WIDTH = 8, 4


def gpu_step(
    exercise_id: str,
    body: Callable,
    trial: Trial,
    case,
    slip: Callable[[LoopNest], str] = lambda _: "",
):
    """Climb the GPU's ladder with references up to a step, and take that step with `body`; return
    the nests before and after, and the schedule.

    slip: what is wrong with the nest so far, "" if nothing is. Where TVM refuses a primitive, the
    mistake is often one that an earlier line made.
    """
    size, threads, each = case
    tiling = lesson.Tiling(threads, each, DEPTH, WIDTH)
    sch = lesson.matmul(*size)
    for known in lesson.GPU_LADDER:
        if known == exercise_id:
            break
        lesson.climb_gpu(sch, known, body_of(known), tiling)
    if exercise_id == "2.9":
        lesson.fetch_through_registers(sch, WIDTH)
        lesson.spread_rows(sch, DEPTH)
    given = {"2.6": (threads, each), "2.7": (DEPTH, WIDTH)}
    try:
        before, after = on_gpu.taken(
            sch, body, trial, *given.get(exercise_id, ()), alike=exercise_id == "2.9"
        )
    except Wrong as error:
        where, refused, _ = str(error).partition("TVM refuses: ")
        if refused and (why := slip(loop_nest(sch.mod))):
            raise Wrong(f"{where}TVM refuses, but the mistake is further up. {why}") from None
        raise
    return before, after, sch


def assert_multiplies_on_gpu(sch, trial: Trial, size: Size) -> Simulated:
    M, N, K = size
    a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
    function = on_gpu.compiled(sch)
    got = verify.run(function, (a, b), (M, N))
    want, magnitude = verify.matmul_reference(a, b)
    what = f"C (at {M} x {N} x {K})"
    writer = partial(function.written, "C")
    verify.assert_close(got, want, magnitude, K, what, written=writer)
    return function


@check(
    "2.6",
    hints=(
        "Each of i and j is split in three: which block, which thread, which of its elements.",
        (
            "`by, ty, yi = sch.split(i, [None, threads[0], each[0]])` makes the three at once; "
            '`sch.reorder(...)` puts the bound ones first; `sch.bind(ty, "threadIdx.y")` binds one.'
        ),
        (
            "Split i and j so, then `sch.reorder(by, bx, ty, tx, k, yi, xi)`, and bind by, bx, ty, "
            'tx to "blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x"'
        ),
    ),
    told={
        "none is bound|nothing is bound": (
            "Four axes want a loop each. Which of your loops goes from block to block along i, "
            "which along j, and which from thread to thread?"
        ),
        "runs along i": (
            "Neighbours in x run side by side. Along which of i and j do neighbours of C lie side "
            "by side?"
        ),
        "Are the two swapped|The list of sch.split|Consecutive elements of a thread": (
            FROM_THE_OUTSIDE
        ),
        "counts blocks, the middle": (
            "A split makes three names, from the outside to the inside. Which of yours counts the "
            "tiles, and to which axis is it bound?"
        ),
        "third part is missing": (
            "The extents of the two inner parts are given: one in `threads`, one in `each`. How "
            "many numbers does the list of your split have?"
        ),
        "as the splits left them": (
            "Name your loops in the order of the question: which block, which thread, which k, "
            "which of its elements. sch.reorder takes them so."
        ),
        "inside of k": (
            "Each thread keeps its elements while k runs. So on which side of k do its own two "
            "loops stand?"
        ),
        "bound to threadIdx.x. They would": (
            "Each axis takes one loop of the product. Which loop has two names in your answer, or "
            "which axis is given twice?"
        ),
        "would add to the same element": (
            "Each thread has elements of C that nobody else touches. Which of i, j and k tells "
            "elements of C apart?"
        ),
    },
)
def bind(body: Callable, trial: Trial) -> None:
    for case in GPU_CASES:
        size, threads, each = case
        _, after, sch = gpu_step("2.6", body, trial, case)
        block = product(after)
        _assert_bound(block, threads, each)
        assert_multiplies_on_gpu(sch, trial, size)


def _assert_bound(block: Block, threads: Tile, each: Tile) -> None:
    now = f"The loops are now {block.order()}"
    bound = on_gpu.bound(block)
    if not bound:
        raise Wrong(
            f"{now}, and none is bound: TVM would make a function for the CPU of it, without a "
            "word. sch.bind(loop, axis) makes threads of a loop."
        )
    kinds = [loop.kind for loop in block.loops if "Idx." in loop.kind]
    if unknown := [axis for axis in bound if axis not in kernels.AXES]:
        raise Wrong(f"There is no thread axis {unknown[0]}, only {', '.join(kernels.AXES)}.")
    if twice := [axis for axis in bound if kinds.count(axis) > 1]:
        raise Wrong(
            f"Two loops are bound to {twice[0]}. They would count together, as one: iteration 3 of "
            "the one always with iteration 3 of the other."
        )
    for axis, place in bound.items():
        if "k" in block.feeds[place].split(","):
            raise Wrong(
                f"Loop {block.loops[place].name}, which runs over k, is bound to {axis}: threads "
                "at the same time would add to the same element of C. k stays a loop in each "
                "thread."
            )
    if missing := [
        axis
        for axis in ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")
        if axis not in bound
    ]:
        raise Wrong(
            f"{now}; nothing is bound to {' and '.join(missing)}. Blocks and threads both have two "
            "dimensions here, y along i and x along j."
        )
    if block.feeds[bound["threadIdx.x"]] == "i" and block.feeds[bound["threadIdx.y"]] == "j":
        raise Wrong(
            "threadIdx.x runs along i, down a column. Threads with neighbouring x are a warp, and "
            "their 32 addresses in B and C would be the same column of 32 rows, a row apart; x "
            "belongs to j, whose neighbours lie side by side."
        )
    if block.feeds[bound["blockIdx.x"]] == "i" and block.feeds[bound["blockIdx.y"]] == "j":
        raise Wrong(
            "blockIdx.x runs along i and blockIdx.y along j. It would be right, but the later "
            "steps, and whoever reads the grid, take x for the columns everywhere."
        )
    for axis in ("y", "x"):
        thread, whole = bound[f"threadIdx.{axis}"], bound[f"blockIdx.{axis}"]
        if (block.strides[thread] or 0) > (block.strides[whole] or math.inf):
            raise Wrong(
                f"{block.loops[thread].name}, which is bound to threadIdx.{axis}, goes from tile to"
                f" tile, and {block.loops[whole].name}, bound to blockIdx.{axis}, through one. Of "
                "the three loops of a split the outermost counts blocks, the middle one threads."
            )
    extents = tuple(block.loops[bound[axis]].extent for axis in ("threadIdx.y", "threadIdx.x"))
    if extents != threads:
        if extents == threads[::-1]:
            raise Wrong(
                f"A block has {extents[0]} x {extents[1]} threads; expected {threads[0]} along i "
                f"(y) and {threads[1]} along j (x). Are the two swapped?"
            )
        raise Wrong(
            f"A block has {extents[0]} x {extents[1]} threads; expected {threads[0]} along i and "
            f"{threads[1]} along j. The list of sch.split goes from the outer extent to the inner."
        )
    for axis, number, whose in (("i", each[0], "rows"), ("j", each[1], "columns")):
        if block.feeds.count(axis) == 2:
            raise Wrong(
                f"{now}: {axis} is split in two, which block and which thread. The third part is "
                f"missing, the thread's own {whose}, {number} here: it is to be there also where "
                "it has a single iteration."
            )
    if block.feeds == ("i", "i", "i", "j", "j", "j", "k"):
        raise Wrong(
            f"{now}, as the splits left them. Now put them in order: by, bx, ty, tx, k, yi, xi."
        )
    if block.feeds != ("i", "j", "i", "j", "k", "i", "j"):
        raise Wrong(
            f"{now}; expected seven: by, bx, ty, tx, then k, then a thread's own rows and columns "
            "yi, xi, inside of k."
        )
    own = tuple(loop.extent for loop in block.loops[5:])
    if own != each:
        raise Wrong(
            f"A thread has {own[0]} x {own[1]} elements; expected {each[0]} x {each[1]}, the "
            "argument `each`."
        )
    if [block.loops[n].kind for n in range(4)] != [
        "blockIdx.y",
        "blockIdx.x",
        "threadIdx.y",
        "threadIdx.x",
    ]:
        kinds = ", ".join(f"{loop.name} is {loop.kind}" for loop in block.loops[:4])
        raise Wrong(f"{kinds}; expected blockIdx.y, blockIdx.x, threadIdx.y, threadIdx.x.")
    if (own[1] > 1 and block.strides[6] != 1) or block.strides[3] != own[1]:
        raise Wrong(
            f"Consecutive elements of a thread lie {block.strides[6]} apart in C, and consecutive "
            f"threads {block.strides[3]}; expected 1 and {own[1]}: a thread's elements are "
            "neighbours, the innermost part of the split."
        )


@check(
    "2.7",
    hints=(
        "Split k first. Then a copy of A and one of B, each moved to the new outer loop, each "
        "shared out among the threads. A loop over the numbers 0 and 1 saves writing it twice.",
        (
            '`copy = sch.cache_read(block, number, "shared")`, `sch.compute_at(copy, ko)`, then '
            "`sch.fuse(*sch.get_loops(copy)[-2:])` and a split of it in four. "
            "`sch.get(ty).extent` is how many threads there are along y."
        ),
        (
            "`_, y, x, lane = sch.split(piece, [None, rows, columns, width])`, bind y to "
            '"threadIdx.y" and x to "threadIdx.x", vectorize lane'
        ),
    ),
    told={
        r'is in "[\w.]+" memory|B itself': WHERE_ALL_REACH_IT,
        "for every single k|loop over pieces|k is not split": (
            "A piece is `depth` values of k. Which loop is entered once for each piece, and is "
            "there such a loop yet?"
        ),
        "bound to no thread|not bound to threadIdx|but the block has|axes are exchanged": (
            "The elements of a piece are shared out among all threads of the block, just these. "
            "Which two axes do they have, and with which extents?"
        ),
        "one element at a time|stands outside of threadIdx.y|columns outside|copies a run": (
            "Read the copy from the outside: rounds, threadIdx.y, threadIdx.x, the lanes of one "
            "access. Neighbouring threads should fetch neighbouring places."
        ),
    },
)
def share(body: Callable, trial: Trial) -> None:
    for case in GPU_CASES:
        size, threads, _ = case
        before, after, sch = gpu_step("2.7", body, trial, case, _slip_before_fuse)
        block = product(after)
        _assert_pieces(block, before, after)
        for name in ("A", "B"):
            _assert_fetched_together(after, name, block, threads)
        function = assert_multiplies_on_gpu(sch, trial, size)
        copies = {name: _copy(after, name).loops[5:] for name in ("A", "B")}
        on_gpu.assert_side_by_side(sch, function, copies)


def _slip_before_fuse(nest: LoopNest) -> str:
    """Why a copy has no two loops of its own to fuse: what it holds is a single thread's, or a
    single k's."""
    block = nest.computing("C")
    copies = {}
    for name in ("A", "B"):
        copies |= {
            one.stores_to: one
            for one in nest.blocks
            if re.fullmatch(rf"{name}_[\w.]+", one.stores_to)
        }
    if block is None or not copies:
        return ""
    pieces = block.position("k")
    name, copy = list(copies.items())[-1]  # the one that is being moved
    if copy.scope != "shared":
        return (
            f"{_in_another_scope(name, name[0], copy.scope)}. The copy of what all threads of the "
            f'block read is made by cache_read(block, {"AB".index(name[0])}, "shared").'
        )
    inside = [n for n in pieces if block.loops[n] in copy.loops]
    if len(pieces) == 1 and inside:
        return (
            f"k is not split, and {name} is filled inside of {block.loops[pieces[0]].name}, for "
            "every single k: there is one column of A or one row of B to copy. Split k by depth "
            "first; the copy belongs into the outer part, ko."
        )
    if len(inside) == 2:
        return (
            f"compute_at has put {name} into {block.loops[pieces[1]].name}, which is ki: there is "
            "one column of A or one row of B to copy, for every single k. It belongs into ko, "
            f"{block.loops[pieces[0]].name}, once for every piece."
        )
    return ""


def _in_another_scope(copy: str, array: str, scope: str) -> str:
    """Where a copy is that should be shared, and what is wrong with that place."""
    where = f'{copy} is in "{scope or "global"}" memory'
    if scope == "local":
        return f"{where}, of which each thread has its own: nothing is shared"
    if scope in ("", "global"):
        return f"{where}, where {array} lies already: to read the copy takes as long"
    return where


def _assert_pieces(block: Block, before: LoopNest, after: LoopNest) -> None:
    pieces = block.position("k")
    if len(pieces) == 1:
        raise Wrong(
            "k is not split: a piece of the whole length of k would have to fit into shared "
            f"memory. Split it by depth, {DEPTH} here."
        )
    if block.feeds != ("i", "j", "i", "j", "k", "k", "i", "j"):
        raise Wrong(
            f"The loops around the product are now {block.order()}; expected by, bx, ty, tx, ko, "
            "ki, yi, xi."
        )
    if block.loops[5].extent != DEPTH:
        raise Wrong(
            f"A piece is {block.loops[5].extent} deep; expected depth, {DEPTH}. The list of "
            "sch.split goes from the outer extent to the inner."
        )
    scopes = {name: scope for name, _, scope in after.buffers}
    for name in ("A", "B"):
        copies = [known for known in scopes if re.fullmatch(rf"{name}_[\w.]+", known)]
        if name in block.reads or not copies:
            raise Wrong(
                f"The product still reads {name} itself, from global memory. Both A (number 0) and "
                "B (number 1) are to be copied."
            )
        if "shared" not in scopes.values() or scopes.get(f"{name}_shared") != "shared":
            told = _in_another_scope(f"The copy of {name}", name, scopes[copies[0]])
            raise Wrong(f'{told}; expected "shared".')


def _copy(nest: LoopNest, name: str) -> Block | None:
    """The block that fills the shared copy of A or B."""
    return next((one for one in nest.blocks if one.stores_to == f"{name}_shared"), None)


def _assert_fetched_together(nest: LoopNest, name: str, block: Block, threads: Tile) -> None:
    copy = _copy(nest, name)
    if copy is None:
        raise Wrong(f"No block fills {name}_shared.")
    around = [loop for loop in copy.loops if loop in block.loops]
    outer = block.loops[:5]
    if copy.loops[:5] != outer:
        where = "outside of all loops" if not around else f"inside of {around[-1].name}"
        raise Wrong(
            f"{name}_shared is filled {where}; expected inside of {outer[-1].name}, the loop over "
            "pieces: there a piece of A and one of B are what the block needs. compute_at moves it."
        )
    if block.loops[5] in copy.loops:
        raise Wrong(
            f"{name}_shared is filled inside of {block.loops[5].name}, for every single k; it "
            f"should be once for every piece, in {outer[-1].name}."
        )
    own = copy.loops[5:]
    bound = {loop.kind: loop.extent for loop in own if "Idx." in loop.kind}
    if not bound:
        raise Wrong(
            f"The loops that fill {name}_shared are bound to no thread: each of the "
            f"{threads[0] * threads[1]} threads of the block copies the whole piece. Fuse them, "
            "split by the threads, and bind."
        )
    if missing := {"threadIdx.y", "threadIdx.x"} - bound.keys():
        raise Wrong(
            f"The loops that fill {name}_shared are not bound to {' and '.join(sorted(missing))}: "
            "threads that differ only there all copy the same elements."
        )
    counted = (bound["threadIdx.y"], bound["threadIdx.x"])
    kinds = [loop.kind for loop in own]
    if counted == threads[::-1] and kinds.index("threadIdx.x") < kinds.index("threadIdx.y"):
        raise Wrong(
            f"In the loops that copy {name}, the one with {threads[0]} iterations, for the rows of "
            f"threads, is bound to threadIdx.x, and the one with {threads[1]}, for the columns, to "
            "threadIdx.y. The two axes are exchanged."
        )
    if counted != threads:
        raise Wrong(
            f"{name}_shared is filled by {bound['threadIdx.y']} x {bound['threadIdx.x']} threads, "
            f"but the block has {threads[0]} x {threads[1]}: a thread axis has one extent in a "
            "kernel. Take it from the loops ty and tx."
        )
    last = own[-1]
    if (copy.strides[-1] or 0) > 1:
        raise Wrong(
            f"Consecutive iterations of {last.name}, the innermost loop that fills {name}_shared, "
            f"copy elements that lie {copy.strides[-1]} apart: the two loops were fused with the "
            "columns outside, so "
            "that the piece is copied column by column. Fuse them in the order in which compute_at "
            "left them, rows outside: sch.fuse(*sch.get_loops(copy)[-2:])."
        )
    if last.kind != "vectorized":
        raise Wrong(
            f"{name}_shared is filled one element at a time; the innermost of its loops, `width` = "
            f"{WIDTH} neighbours, is to be vectorized."
        )
    if last.extent != WIDTH:
        raise Wrong(
            f"The vectorized loop that fills {name}_shared has {last.extent} elements; expected "
            f"width, {WIDTH}."
        )


@check(
    "2.8",
    hints=(
        "What a thread reads for one k goes to registers first. Then every loop of the thread's "
        "own is unrolled or vectorized.",
        (
            '`sch.cache_read(block, number, "local")` with `sch.compute_at(..., ki)` for 0 and 1; '
            "unroll and vectorize; decompose_reduction last."
        ),
        (
            "`*_, ko, ki, yi, xi = sch.get_loops(block)`; after the reads, unroll ki, yi, xi, the "
            "two innermost loops of A's copy and the row of C_local's, vectorize the innermost of "
            "B's copy and of C_local's, then `sch.decompose_reduction(block, ko)`"
        ),
    ),
    told={
        "things are left": (
            "Take them one at a time, from the top, and run after each. Below ki, every loop ends "
            "unrolled or vectorized."
        ),
        "which is not unrolled|only known when the program runs|each k costs": (
            "A register is chosen when the kernel is compiled. Which loops below ko still count "
            "as it runs?"
        ),
        "where one would do|one at a time": (
            "Neighbours in memory can move together. Which loops along a row of B or of C move "
            "them singly?"
        ),
        "of which only|hold the whole piece": (
            "For one k a thread needs one number for each of its rows and each of its columns. "
            "Where in the nest does one k begin?"
        ),
        "B_shared itself": (
            "How many numbers does one k of a thread take from A, and how many from B? Both are "
            "read several times."
        ),
        "The zeroing|start again from 0": STARTS_AT_0,
    },
)
def thread_tile(body: Callable, trial: Trial) -> None:
    case = GPU_CASES[1]
    _, after, sch = gpu_step("2.8", body, trial, case)
    scopes = {name: scope for name, _, scope in after.buffers}
    block = product(after)
    store = next((one for one in after.blocks if one.stores_to == "C"), None)
    if scopes.get(block.stores_to) != "local" or store is None:
        raise Wrong(
            f"The product adds to {block.stores_to}; the tile C_local, in registers, is to stay as "
            "it was."
        )
    if store.loops[-1].kind != "vectorized":
        raise Wrong(
            f"The innermost loop of the block that stores C, {store.loops[-1].name}, is "
            f"{store.loops[-1].kind}: neighbours leave the registers one at a time. Vectorize it."
        )
    if store.loops[-2].kind != "unrolled":
        raise Wrong(
            f"The block that stores C counts the rows of the tile in {store.loops[-2].name}, which "
            "is not unrolled: a register has no address."
        )
    if block.name != "C_update" and block.has_init:
        raise Wrong(
            "The zeroing is still inside of the product, a test for every k. decompose_reduction "
            "at ko makes it a loop nest of its own."
        )
    zeroing = after.block("C_init")
    if zeroing is None or zeroing.loops[:4] != block.loops[:4]:
        raise Wrong(
            "No zeroing stands before the pieces, in the threads' own loops. decompose_reduction "
            "takes ko, the loop over pieces."
        )
    reads = [one for one in after.blocks if scopes.get(one.stores_to) == "local"]
    copies: dict[str, Block] = {}
    for name in ("A_shared", "B_shared"):
        kept = [one for one in reads if one.reads == (name,)]
        if not kept:
            rows, columns = (int(loop.extent) for loop in block.loops[-2:])
            needed = rows if name == "A_shared" else columns
            raise Wrong(
                f"The product reads {name} itself: the {rows} x {columns} elements of a thread "
                f"cost {rows * columns} loads of it for every k, of which {needed} are different. "
                f'A read cache of it in "local" loads {needed}.'
            )
        copies[name] = kept[0]
        _assert_in_ki(kept[0], name, block)
    rolled = [loop for loop in block.loops[6:] if loop.kind != "unrolled"]
    if rolled and rolled[0].kind == "vectorized":
        raise Wrong(
            f"Loop {rolled[0].name} is vectorized. A GPU's thread has vector instructions to load "
            "and store, none to multiply: unroll the loops of the product, yi and xi."
        )
    if rolled:
        raise Wrong(
            f"Loop {rolled[0].name} is not unrolled. Registers have no addresses: with an index "
            "that is only known when the program runs, the tile goes to memory instead."
        )
    ko = block.loops[4]
    if ko.kind != "serial":
        raise Wrong(
            f"ko ({ko.name}) is {ko.kind}: the whole piece, its fetch and its barriers, would be "
            f"written out {ko.extent} times, and that number grows with K. ki, yi and xi are "
            "enough; ko stays a loop."
        )
    left = _left_over(block, copies)
    if left:
        raise Wrong(f"{f'{len(left)} things are left. ' if len(left) > 1 else ''}{' '.join(left)}")
    if any("Idx." in loop.kind for loop in block.loops[5:]):
        raise Wrong("A loop inside of ko is bound; only the copies share out their work there.")
    assert_multiplies_on_gpu(sch, trial, case[0])


def _assert_in_ki(copy: Block, name: str, block: Block) -> None:
    """The registers for a shared piece are filled in ki, each number once."""
    ki = block.loops[5].name
    common = on_gpu.common_loops(copy, block)
    if common < 6:
        raise Wrong(
            f"The registers for {name} are filled outside of {ki}: they would have to hold the "
            "whole piece. compute_at moves them into ki."
        )
    rows, columns = (int(loop.extent) for loop in block.loops[6:])
    needed = rows if name == "A_shared" else columns
    loaded = prod(int(loop.extent) for loop in copy.loops[6:])
    if loaded > needed:
        raise Wrong(
            f"The registers for {name} are filled inside of {block.loops[common - 1].name}: "
            f"{loaded} numbers are loaded for every k, of which only {needed} are different, so "
            f"that is {loaded // needed} times the loads. compute_at(copy, ki), which is {ki}."
        )


def _left_over(block: Block, copies: dict[str, Block]) -> list[str]:
    """What a tile in registers still lacks, a sentence for each: kinds of loops."""
    left = []
    ki = block.loops[5]
    if ki.kind != "unrolled":
        left.append(
            f"ki ({ki.name}) is {ki.kind}: each k costs a count, a test and a jump of its own, and "
            f"the loads of one cannot be put before the sums of another. All {ki.extent} written "
            "out cost none."
        )
    a, b = copies["A_shared"], copies["B_shared"]
    if lanes := [loop for loop in a.loops[6:] if loop.kind == "vectorized"]:
        left.append(
            f"Loop {lanes[0].name}, which fills the registers for A_shared, is vectorized, but for "
            "one k it runs down a column of A_shared, whose elements lie a row apart: one "
            "instruction cannot load them together. Unroll it."
        )
    if rolled := _rolled(a.loops[6:]):
        left.append(
            f"Loop {rolled[0].name}, which fills the registers for A_shared, is {rolled[0].kind}: "
            "it gives them an index that is only known when the program runs. Unroll it."
        )
    if rolled := _rolled(b.loops[6:-1]):
        left.append(
            f"Loop {rolled[0].name}, which fills the registers for B_shared, is {rolled[0].kind}. "
            "Unroll it."
        )
    lanes = b.loops[-1]
    if lanes.kind != "vectorized":
        left.append(
            f"Loop {lanes.name}, which fills the registers for B_shared, is {lanes.kind}: "
            f"{lanes.extent} neighbours are loaded by {lanes.extent} instructions, where one would "
            "do. Vectorize it."
        )
    return left


def _rolled(loops: tuple[Loop, ...]) -> list[Loop]:
    return [loop for loop in loops if loop.kind == "serial" and loop.extent != 1]


@check(
    "2.9",
    hints=(
        "Which of the five blocks can start before the piece before is multiplied? Which one has "
        "to wait for it to be used up?",
        (
            '`sch.annotate(ko, "software_pipeline_stage", [...])` with a 0 for each block that '
            "fetches and a 1 for the one that multiplies; the order is a permutation of 0 to 4."
        ),
        "The blocks are load A, store A, load B, store B, multiply: stages [0, 0, 0, 0, 1]; the "
        "loads come first, then the multiplication, then the stores.",
    ),
    told={
        "has no annotation|the lists have": (
            "Write the five blocks under ko in a row, as the nest prints them. Under each goes "
            "its stage, and in a second row its place: two lists of five."
        ),
        "nothing overlaps|in the round that loads it": (
            "One of the five works on the piece that came a round earlier, so that the others may "
            "fetch the next. Which?"
        ),
        "comes before the multiplication|comes after the multiplication|no permutation": (
            "The places 0 to 4 are one round. What takes long and waits for nobody, what is ready "
            "to be done meanwhile, and what needs the answer?"
        ),
        "would be stored before it is loaded": (
            "Follow one piece through your lists: loaded, stored, multiplied. Each comes later "
            "than the one before, by its place or by its stage."
        ),
    },
)
def pipeline(body: Callable, trial: Trial) -> None:
    case = ((64, 96, 40), (16, 8), (2, 4))
    _, _, sch = gpu_step("2.9", body, trial, case)
    *_, ko, _, _, _ = sch.get_loops(sch.get_sblock("C_update"))
    told = {str(key): value for key, value in sch.get(ko).annotations.items()}
    stage, order = (
        [int(one) for one in told.get(f"software_pipeline_{word}", ())]
        for word in ("stage", "order")
    )
    if not stage or not order:
        missing = "stage" if not stage else "order"
        raise Wrong(
            f"The loop {sch.get(ko).loop_var.name} has no annotation software_pipeline_{missing}; "
            "sch.annotate(ko, key, list) puts one there."
        )
    if len(stage) != 5 or len(order) != 5:
        raise Wrong(
            f"There are five blocks under ko; the lists have {len(stage)} and {len(order)} numbers."
        )
    if sorted(order) != [0, 1, 2, 3, 4]:
        raise Wrong(f"The order {order} is no permutation of 0 to 4.")
    if len(set(stage)) == 1:
        raise Wrong(
            f"All stages are {stage[0]}: all blocks work on the same piece, and nothing overlaps. "
            "The multiplication works on the piece before: stage 1."
        )
    for load, store in ((0, 1), (2, 3)):
        stored, multiplied = ((stage[n], order[n]) for n in (store, MULTIPLY))
        if stage[load] > stage[store] or stored > multiplied:
            raise Wrong(
                f"With the stages {stage} and the order {order} a piece would be stored before it "
                "is loaded, or multiplied before it is stored. A stage is the round in which a "
                "block works on a piece; in the same round the order decides."
            )
        _assert_overlaps(stage, order, load, store)
    assert_multiplies_on_gpu(sch, trial, case[0])


MULTIPLY = 4


def _assert_overlaps(stage: list[int], order: list[int], load: int, store: int) -> None:
    """A multiplication stands between a load and the store that waits for it: in the same round, or
    in those that lie between the two."""
    rounds = stage[store] - stage[load]
    after_load, before_store = order[load] < order[MULTIPLY], order[MULTIPLY] < order[store]
    if stage[MULTIPLY] == stage[load]:
        raise Wrong(
            f"The stages are {stage}: a piece is multiplied in the round that loads it, so that "
            "the multiplication waits for memory. It works on the piece before: stage 1."
        )
    if rounds > 1 or (rounds == 1 and (after_load or before_store)):
        return
    if rounds == 1 or not after_load:
        raise Wrong(
            "A load comes after the multiplication: it is under way only when nothing is left to "
            "do meanwhile. Both loads go first."
        )
    if not before_store:
        raise Wrong(
            "A store comes before the multiplication. It needs what its load brings, so the "
            "multiplication would wait for memory as before. Both stores go last."
        )
