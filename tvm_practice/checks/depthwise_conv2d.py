"""What "done" means in the lab on depthwise convolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tvm_practice.checks import UNCHANGED, Trial, check, on_gpu
from tvm_practice.checks.on_gpu import bound
from tvm_practice.common import verify
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.loop_nest import Block, LoopNest
from tvm_practice.common.verify import Wrong

lesson = load_lesson("depthwise_conv2d")

Tile = tuple[int, int]

# Shapes with the tile of a block. In the second the tiles do not fit: some threads have no result.
CASES = (((2, 3, 8, 12, 3), (4, 6)), ((3, 2, 10, 20, 5), (2, 8)), ((2, 3, 10, 20, 3), (4, 8)))
SUMMED = ("r", "s")


def taken(exercise_id: str, body: Callable, trial: Trial, case) -> tuple[LoopNest, object]:
    """Take a step with `body`, from where its docstring says; the loop nest and the schedule."""
    shape, tile = case
    arguments = tile if exercise_id in ("depthwise_conv2d.3", "depthwise_conv2d.4") else ()
    sch = lesson.depthwise(*shape)
    if exercise_id == "depthwise_conv2d.5":
        body_of("depthwise_conv2d.4")(sch, *tile)
    else:
        lesson.inline_padding(sch)
    _, after = on_gpu.taken(sch, body, trial, *arguments)
    return after, sch


def reference(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """The convolution in float64."""
    _, _, H, W = x.shape
    K = f.shape[1]
    half = K // 2
    padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (half, half), (half, half)))
    return sum(
        padded[:, :, r : r + H, s : s + W] * f[None, :, r, s, None, None].astype("float64")
        for r in range(K)
        for s in range(K)
    )


def assert_convolves(sch, trial: Trial, case) -> Simulated:
    """Run the kernel in the simulator on random numbers."""
    (B, C, H, W, K), _ = case
    x = verify.random_array(trial.rng, B, C, H, W)
    f = verify.random_array(trial.rng, C, K, K)
    function = on_gpu.compiled(sch)
    got = verify.run(function, (x, f), x.shape)
    what = f"Y (for {B} x {C} images of {H} x {W})"
    want, magnitude = reference(x, f), reference(abs(x), abs(f))
    writer = partial(function.written, "Y")
    verify.assert_close(got, want, magnitude, K * K, what, written=writer)
    return function


# ------------------------------------------------------------------------- what the steps ask alike


def result(nest: LoopNest) -> Block:
    block = nest.computing("Y")
    if block is None:
        raise Wrong('The block "Y" is gone; it is to be scheduled, not replaced.')
    return block


def feeds(block: Block, place: int) -> list[str]:
    """The axes of the result that a loop goes through: "b", "c", "h", "w", or "r", "s"."""
    return block.feeds[place].split(",") if block.feeds[place] else []


def sums(block: Block) -> list[int]:
    """The places of the loops that run over the terms of a sum."""
    return [n for n in range(len(block.loops)) if set(feeds(block, n)) & set(SUMMED)]


def told(block: Block) -> str:
    return ", ".join(
        f"{loop.name} ({loop.extent}{'' if loop.kind == 'serial' else ', ' + loop.kind})"
        for loop in block.loops
    )


def _assert_bindings(block: Block) -> None:
    """Something is bound; no sum is; and the sums are inside of everything else."""
    if not bound(block):
        raise Wrong(
            f"The loops are {told(block)}, and none is bound: TVM would make a function for the "
            "CPU of it, without a word. sch.bind(loop, axis) makes blocks or threads of a loop."
        )
    for axis, place in bound(block).items():
        if summed := [one for one in feeds(block, place) if one in SUMMED]:
            raise Wrong(
                f"Loop {block.loops[place].name}, which runs over {summed[0]}, is bound to {axis}: "
                "each thread would have some terms of a sum, and they would have to be brought "
                "together. The sum stays a loop in each thread."
            )
    first = sums(block)[0]
    for loop, axis in list(zip(block.loops, block.axes, strict=True))[first:]:
        if axis == "S" and "Idx." not in loop.kind:
            raise Wrong(
                f"Loop {loop.name} stands inside of {block.loops[first].name}: a result is left "
                "unfinished for others and taken up again. r and s are the innermost."
            )


def _assert_one_thread(block: Block) -> None:
    for axis, place in bound(block).items():
        if axis.startswith("threadIdx"):
            raise Wrong(
                f"Loop {block.loops[place].name} is bound to {axis}: these would be threads of one "
                "block, on one processor. This step makes blocks, of one thread each."
            )


def _assert_tile(block: Block, tile: Tile, shape, call: str) -> None:
    """A tile of Y, one thread for each element, threadIdx.x along w."""
    places = bound(block)
    for axis in ("threadIdx.x", "threadIdx.y"):
        if axis not in places:
            raise Wrong(
                f"After {call} the loops are {told(block)}: none is bound to {axis}. The tile has "
                "threads in two dimensions, y along h and x along w."
            )
    x, y = places["threadIdx.x"], places["threadIdx.y"]
    if feeds(block, x) == ["h"] and feeds(block, y) == ["w"]:
        raise Wrong(
            "threadIdx.x runs along h and threadIdx.y along w. The 32 threads of a warp have "
            "neighbouring x; what they load at once would lie a row apart, each in a sector of 32 "
            "bytes of its own, of which 4 are wanted. x belongs to w, the contiguous axis."
        )
    for place, axis in ((y, "h"), (x, "w")):
        if feeds(block, place) != [axis]:
            raise Wrong(
                f"{block.loops[place].name}, which is {block.loops[place].kind}, runs along "
                f"{', '.join(feeds(block, place))}; expected {axis}."
            )
    extents = block.loops[y].extent, block.loops[x].extent
    for place, axis, size, own in ((y, "h", tile[0], shape[3]), (x, "w", tile[1], 1)):
        loop = block.loops[place]
        if loop.extent != size and block.strides[place] != own:
            raise Wrong(
                f"{loop.name}, which is {loop.kind}, is the outer part of {axis}: it counts tiles, "
                f"and the {size} places in a tile are left to a loop. Threads are the inner "
                "parts, ty and tx: sch.split returns the outer loop first, then the inner."
            )
    if extents != tile:
        if extents == tile[::-1]:
            why = "Are the two swapped?"
        else:
            why = "The list of sch.split goes from the outer extent to the inner."
        raise Wrong(
            f"{call} gives a block {extents[0]} x {extents[1]} threads; expected rows x columns, "
            f"{tile[0]} along h and {tile[1]} along w. {why}"
        )
    if block.strides[x] != 1:
        raise Wrong(
            f"Threads with neighbouring threadIdx.x write to Y {block.strides[x]} elements apart. "
            "They are to be neighbours, for a warp to load and store side by side: tx is the inner "
            "part of the split of w."
        )
    if block.strides[y] != shape[3]:
        raise Wrong(
            f"Threads with neighbouring threadIdx.y are {(block.strides[y] or 0) // shape[3]} rows "
            "apart: that is no tile, and what they read is not shared. ty is the inner part of "
            "the split of h."
        )
    if "threadIdx.z" in places:
        loop = block.loops[places["threadIdx.z"]]
        raise Wrong(
            f"{loop.name} is bound to threadIdx.z: a block would have {loop.extent} times the "
            "threads of a tile. Only ty and tx are threads."
        )


# ----------------------------------------------------------------------------------- 1 2-D blocks


def _assert_image_blocks(block: Block, shape) -> None:
    """b is bound to blockIdx.y, c to blockIdx.x, all of each, and nothing else to blocks."""
    places = {axis: n for axis, n in bound(block).items() if axis.startswith("blockIdx")}
    for axis, place in places.items():
        if extra := [one for one in feeds(block, place) if one not in ("b", "c")]:
            tiled = len(block.position("h")) > 1 or len(block.position("w")) > 1
            why = "; a thread does the tiles of its image one after the other." if tiled else "."
            raise Wrong(
                f"Loop {block.loops[place].name}, bound to {axis}, runs along {', '.join(extra)}; "
                f"in this step only b and c are blocks{why}"
            )
    if len(places) == 1 and "b,c" in [block.feeds[n] for n in places.values()]:
        raise Wrong(
            "b and c are fused to one axis of blocks. It makes the same blocks; this step "
            "shows a grid of two dimensions, b along y and c along x."
        )
    for axis, wanted in (("b", "blockIdx.y"), ("c", "blockIdx.x")):
        if [axis] not in [feeds(block, n) for n in places.values()]:
            raise Wrong(
                f"The loops are {told(block)}: {axis} is not bound to blocks, so its iterations "
                f'run one after the other. Bind it to "{wanted}".'
            )
    if elsewhere := [
        f"{axis} to {kind}"
        for kind, n in places.items()
        for axis, wanted in (("b", "blockIdx.y"), ("c", "blockIdx.x"))
        if feeds(block, n) == [axis] and kind != wanted
    ]:
        raise Wrong(
            f"There are blocks for b and c, but {' and '.join(elsewhere)} "
            f"{'is' if len(elsewhere) == 1 else 'are'} bound. The same "
            "blocks would run; whoever reads the grid, as in 2.6, takes x for what lies closest "
            "together, and that is c: b to blockIdx.y, c to blockIdx.x."
        )
    made, (B, C, *_) = int(np.prod([block.loops[n].extent for n in places.values()])), shape
    if made != B * C:
        raise Wrong(
            f"{made} blocks for {B} x {C} images and channels: a part of them is left to a loop. "
            f"Bind all of b and all of c, {B * C} blocks."
        )


@check(
    "depthwise_conv2d.1",
    hints=(
        "The loops come from the block, and two of the six get bound.",
        '`sch.get_loops(sch.get_sblock("Y"))` returns b, c, h, w, r, s; `sch.bind(loop, axis)` '
        "binds one.",
        'b, c, *_ = sch.get_loops(sch.get_sblock("Y")); sch.bind(b, "blockIdx.y"), and c to '
        '"blockIdx.x"',
    ),
    told={
        **UNCHANGED,
        (
            "to blockIdx|left to a loop|not bound to blocks|none is bound|on one processor|"
            "fused to one"
        ): ("Two loops, two axes of blocks, nothing else yet. Which loop goes to which axis?"),
        "brought together|r and s are": (
            "r and s run over the terms of one sum. Can terms of one sum be shared out?"
        ),
    },
)
def blocks(body: Callable, trial: Trial) -> None:
    for case in CASES[:2]:
        after, sch = taken("depthwise_conv2d.1", body, trial, case)
        block = result(after)
        _assert_bindings(block)
        _assert_one_thread(block)
        _assert_image_blocks(block, case[0])
        assert_convolves(sch, trial, case)


# --------------------------------------------------------------------------------- 2 block fusion


@check(
    "depthwise_conv2d.2",
    hints=(
        "Three loops become one, and that one becomes the blocks.",
        "`sch.fuse(b, c, h)` returns the fused loop; the three it was made of are gone then.",
        'b, c, h, *_ = sch.get_loops(sch.get_sblock("Y")); bch = sch.fuse(b, c, h); '
        'sch.bind(bch, "blockIdx.x")',
    ),
    told={
        "fused one is not bound|h is missing|w is fused|3 axes|one after the other": (
            "The grid should have one block for each row of each image: which three loops count "
            "these, and what is bound in the end?"
        ),
        "65,535": ("Which of the three axes of a grid may be longer than 65,535?"),
    },
)
def fused_blocks(body: Callable, trial: Trial) -> None:
    for case in CASES[:2]:
        (B, C, H, _, _), _ = case
        after, sch = taken("depthwise_conv2d.2", body, trial, case)
        block = result(after)
        fused = next((n for n in range(len(block.loops)) if len(feeds(block, n)) > 1), None)
        if fused is not None and not bound(block):
            raise Wrong(
                f"The loops are fused to {told(block)}, but the fused one is not bound. "
                'sch.bind(loop, "blockIdx.x") makes blocks of it.'
            )
        _assert_bindings(block)
        _assert_one_thread(block)
        places = bound(block)
        if len(places) > 1:
            made = np.prod([block.loops[n].extent for n in places.values()])
            raise Wrong(
                f"The grid has {len(places)} axes, {', '.join(places)}, and {made} blocks. "
                "Expected one: b, c and h fused. There are only three such axes, and step 4 has "
                "four loops to bind."
            )
        ((axis, place),) = places.items()
        missing = [one for one in ("b", "c", "h") if one not in feeds(block, place)]
        if missing:
            raise Wrong(
                f"{axis} has {block.loops[place].extent} blocks, from "
                f"{', '.join(feeds(block, place))}; {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Expected B * C * H = {B * C * H}."
            )
        if "w" in feeds(block, place):
            raise Wrong(
                f"w is fused as well: {block.loops[place].extent} blocks of one result. Each is a "
                "warp with one lane in use, and there were enough for all processors before. b, c "
                "and h are fused, and w stays a loop."
            )
        if (made := block.loops[place].extent) != B * C * H:
            raise Wrong(
                f"{axis} has {made} blocks; expected B * C * H = {B * C * H}. A part of b, c or h "
                f"is left to a loop, {B * C * H // made} rows for each block one after the other, "
                "while processors are idle. Fuse the whole loops."
            )
        if axis != "blockIdx.x":
            raise Wrong(
                f"The fused loop is bound to {axis}, of which a GPU takes 65,535 at most; of "
                "blockIdx.x it takes two thousand million. A fused loop belongs to x."
            )
        assert_convolves(sch, trial, case)


# ---------------------------------------------------------------------------------- 3 2-D threads


@check(
    "depthwise_conv2d.3",
    hints=(
        "h is split in two, and so is w: which tile, and which place in it. The inner ones are the "
        "threads.",
        "`ho, ty = sch.split(h, [None, rows])`; `sch.reorder(ho, wo, ty, tx)`; then four times "
        "`sch.bind`.",
        "Split h by [None, rows] and w by [None, columns], reorder, bind b, c, ty, tx to "
        '"blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x"',
    ),
    told={
        (
            "Are the two swapped|inner part of the split|outer extent to the inner|"
            "counts tiles|of which 4"
        ): (
            "Read the split from the outside: how many tiles, how many threads. Threads with "
            "neighbouring x should have neighbouring columns."
        ),
        "none is bound to threadIdx|bound to threadIdx.z": (
            "A tile has rows and columns, and its threads have two axes."
        ),
    },
)
def threads(body: Callable, trial: Trial) -> None:
    for case in CASES:
        shape, tile = case
        after, sch = taken("depthwise_conv2d.3", body, trial, case)
        block = result(after)
        _assert_bindings(block)
        _assert_tile(block, tile, shape, f"threads(sch, {tile[0]}, {tile[1]})")
        _assert_image_blocks(block, shape)
        assert_convolves(sch, trial, case)


# --------------------------------------------------------------------------------- 4 outer fusion


@check(
    "depthwise_conv2d.4",
    hints=(
        "As step 3, but b, c, ho and wo become one loop before anything is bound.",
        "`sch.reorder(ho, wo, ty, tx)` puts the four outer loops next to each other; "
        "`sch.fuse(b, c, ho, wo)` returns the one that is bound to blocks.",
        'The splits and the reorder of step 3; sch.bind(sch.fuse(b, c, ho, wo), "blockIdx.x"); ty '
        'to "threadIdx.y", tx to "threadIdx.x"',
    ),
    told={
        "one after the other|three axes|Expected one": (
            "Everything that tells one tile from another can be fused. How many loops are that?"
        ),
        "of which 4|none is bound": (
            "The inner parts of both splits are threads, as in the exercise before."
        ),
    },
)
def outer_fusion(body: Callable, trial: Trial) -> None:
    for case in CASES:
        shape, tile = case
        (B, C, H, W, _), (rows, columns) = case
        after, sch = taken("depthwise_conv2d.4", body, trial, case)
        block = result(after)
        _assert_bindings(block)
        call = f"outer_fusion(sch, {rows}, {columns})"
        _assert_tile(block, tile, shape, call)
        places = {axis: n for axis, n in bound(block).items() if axis.startswith("blockIdx")}
        wanted = B * C * -(-H // rows) * -(-W // columns)
        made = int(np.prod([block.loops[n].extent for n in places.values()]))
        serial = [
            loop.name
            for loop, axis in zip(block.loops, block.axes, strict=True)
            if axis == "S" and loop.kind == "serial"
        ]
        if serial:
            raise Wrong(
                f"{call} makes {made} blocks, which do {', '.join(serial)} one after the other. "
                f"All that lies outside of a tile becomes blocks: {wanted} of them."
            )
        if len(places) > 1:
            raise Wrong(
                f"The grid has {len(places)} axes, {', '.join(places)}. Expected one: b, c, ho and "
                "wo fused."
            )
        if "blockIdx.x" not in places:
            raise Wrong(
                f"The fused loop is bound to {', '.join(places) or 'nothing'}; expected "
                '"blockIdx.x", of which a GPU takes the most.'
            )
        if made != wanted:
            raise Wrong(f"{call} makes {made} blocks; expected {wanted}.")
        assert_convolves(sch, trial, case)


# -------------------------------------------------------------------------------- 5 a shared tile


@check(
    "depthwise_conv2d.5",
    hints=(
        "Two primitives for P itself, where it lies and where it is made; then its loops are "
        "shared out, as in 2.7.",
        '`P = sch.get_sblock("P")`, `sch.set_scope(P, 0, "shared")`, `sch.compute_at(P, block)`, '
        "`piece = sch.fuse(*sch.get_loops(P)[-2:])`, a split in three, two bindings.",
        "`_, y, x = sch.split(piece, [None, rows, columns])`, bind y to "
        '"threadIdx.y" and x to "threadIdx.x"; rows and columns are sch.get(ty).extent and '
        "sch.get(tx).extent",
    ),
    told={
        "inlined into|all images|for every row of the filter": (
            "One block needs one tile with its halo, once. Which loop goes from block to block, "
            "and how is the padding moved there?"
        ),
        "as far away|itself has stored|only what it stored": (
            "All threads of a block read the tile. Which memory do they share?"
        ),
        "all the others do|none is bound|one extent|rounds come first|inside of threadIdx.x": (
            "The elements of the tile are shared out among the threads that there are: rounds "
            "outside, then threadIdx.y, then threadIdx.x."
        ),
    },
)
def share(body: Callable, trial: Trial) -> None:
    for case in CASES:
        _, tile = case
        after, sch = taken("depthwise_conv2d.5", body, trial, case)
        _assert_fetched(after, tile)
        assert_convolves(sch, trial, case)


def _assert_fetched(after: LoopNest, tile: Tile) -> None:
    block = result(after)
    copy = after.block("P")
    if copy is None:
        raise Wrong(
            'The block "P" is gone, inlined into the sum: every thread reads X itself, 49 times '
            "and with a test. P is the block that fetches, if it gets a place."
        )
    common = on_gpu.common_loops(copy, block)
    if common == 0:
        raise Wrong(
            "P is made outside of the loops of Y, for all images at once. compute_at(P, block) "
            "puts it inside of the loop of the blocks, where it makes what one block needs."
        )
    if common > sums(block)[0]:
        raise Wrong(
            f"P is made inside of {block.loops[common - 1].name}, anew for every term or row of "
            "terms, and all threads wait for it each time. Once for a block is enough: "
            "compute_at(P, block)."
        )
    if copy.scope != "shared":
        held = {"": "global", "global": "global"}.get(copy.scope, copy.scope)
        raise Wrong(
            f'P is made for each block, in "{held}" memory. '
            + (
                "It is as far away as X was; "
                if held == "global"
                else "There each thread has only what it stored itself; "
            )
            + 'sch.set_scope(P, 0, "shared") puts it where all threads of a block see it.'
        )
    own = copy.loops[common:]
    kinds = {loop.kind: (n, loop) for n, loop in enumerate(own) if "Idx." in loop.kind}
    names = ", ".join(f"{loop.name} ({loop.extent}, {loop.kind})" for loop in own)
    for axis in ("threadIdx.y", "threadIdx.x"):
        if axis not in kinds:
            raise Wrong(
                f"The loops that fill P are {names}; none is bound to {axis}. Every thread along "
                "it copies the same elements as all the others do."
            )
    for axis, wanted in zip(("threadIdx.y", "threadIdx.x"), tile, strict=True):
        loop = kinds[axis][1]
        if loop.extent != wanted:
            raise Wrong(
                f"{loop.name}, which fills P, is bound to {axis} with extent {loop.extent}, and "
                f"the loop of Y has {wanted}. A thread axis has one extent in a kernel: the block "
                f"has {tile[0]} x {tile[1]} threads."
            )
    inside = own[kinds["threadIdx.x"][0] + 1 :]
    if any(loop.extent != 1 for loop in inside):
        raise Wrong(
            f"The loops that fill P are {names}: {inside[0].name} stands inside of threadIdx.x. "
            "Each thread fetches a run of its own, so that the 32 of a warp read places far apart. "
            "Neighbouring elements belong to neighbouring threads; the rounds come first."
        )
