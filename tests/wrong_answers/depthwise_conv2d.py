"""Answers to the lab on depthwise convolution: mistakes made in first attempts, and right answers
unlike the reference."""

from tests.wrong_answers import right, wrong


def loops_of(sch, name="Y"):
    return sch.get_loops(sch.get_sblock(name))


# ----------------------------------------------------------------------------------- 1 2-D blocks


@right("depthwise_conv2d.1")
def blocks_channels_first(sch):
    b, c, *_ = loops_of(sch)
    sch.bind(c, "blockIdx.x")
    sch.bind(b, "blockIdx.y")


@right("depthwise_conv2d.1")
def blocks_with_c_outside(sch):
    b, c, *_ = loops_of(sch)
    sch.reorder(c, b)
    sch.bind(b, "blockIdx.y")
    sch.bind(c, "blockIdx.x")


@wrong(
    "depthwise_conv2d.1",
    "b to blockIdx.z and c to blockIdx.y are bound",
    hint="Two loops, two axes of blocks",
)
def blocks_along_z(sch):
    b, c, *_ = loops_of(sch)
    sch.bind(b, "blockIdx.z")
    sch.bind(c, "blockIdx.y")


@wrong("depthwise_conv2d.1", "b to blockIdx.x and c to blockIdx.y are bound")
def blocks_the_other_way(sch):
    b, c, *_ = loops_of(sch)
    sch.bind(b, "blockIdx.x")
    sch.bind(c, "blockIdx.y")


@wrong("depthwise_conv2d.1", "a part of them is left to a loop")
def blocks_of_three_channels(sch):
    b, c, *_ = loops_of(sch)
    outer, _ = sch.split(c, [None, 3])
    sch.bind(b, "blockIdx.y")
    sch.bind(outer, "blockIdx.x")


@wrong(
    "depthwise_conv2d.1",
    "the loop nest is what it was before",
    hint="Which object do your primitives",
)
def blocks_of_nothing(sch):
    loops_of(sch)


@wrong("depthwise_conv2d.1", "and none is bound")
def blocks_in_parallel(sch):
    sch.parallel(loops_of(sch)[0])


@wrong("depthwise_conv2d.1", "c is not bound to blocks")
def blocks_for_images_only(sch):
    sch.bind(loops_of(sch)[0], "blockIdx.x")


@wrong("depthwise_conv2d.1", "on one processor")
def blocks_as_threads(sch):
    b, c, *_ = loops_of(sch)
    sch.bind(b, "threadIdx.y")
    sch.bind(c, "threadIdx.x")


@wrong(
    "depthwise_conv2d.1",
    "they would have to be brought together",
    hint="r and s run over the terms",
)
def blocks_with_the_sum_in_threads(sch):
    b, c, _, _, r, _ = loops_of(sch)
    sch.bind(b, "blockIdx.y")
    sch.bind(c, "blockIdx.x")
    sch.bind(r, "threadIdx.x")


@wrong("depthwise_conv2d.1", "in this step only b and c are blocks")
def blocks_of_pixels(sch):
    _, _, h, w, _, _ = loops_of(sch)
    sch.bind(h, "blockIdx.y")
    sch.bind(w, "blockIdx.x")


@wrong("depthwise_conv2d.1", "fused to one axis of blocks")
def blocks_fused(sch):
    b, c, *_ = loops_of(sch)
    sch.bind(sch.fuse(b, c), "blockIdx.x")


@wrong("depthwise_conv2d.1", "r and s are the innermost")
def blocks_with_the_sum_outside(sch):
    b, c, h, w, r, s = loops_of(sch)
    sch.reorder(b, c, r, s, h, w)
    sch.bind(b, "blockIdx.y")
    sch.bind(c, "blockIdx.x")


# --------------------------------------------------------------------------------- 2 block fusion


@right("depthwise_conv2d.2")
def fused_blocks_by_twos(sch):
    b, c, h, *_ = loops_of(sch)
    images = sch.fuse(b, c)
    sch.bind(sch.fuse(images, h), "blockIdx.x")


@right("depthwise_conv2d.2")
def fused_blocks_channels_first(sch):
    b, c, h, *_ = loops_of(sch)
    sch.reorder(c, b)
    sch.bind(sch.fuse(c, b, h), "blockIdx.x")


@wrong("depthwise_conv2d.2", "but the fused one is not bound", hint="The grid should have one")
def fused_blocks_unbound(sch):
    sch.fuse(*loops_of(sch)[:3])


@wrong("depthwise_conv2d.2", "h is missing")
def fused_blocks_of_images(sch):
    sch.bind(sch.fuse(*loops_of(sch)[:2]), "blockIdx.x")


@wrong("depthwise_conv2d.2", "w is fused as well")
def fused_blocks_of_all(sch):
    sch.bind(sch.fuse(*loops_of(sch)[:4]), "blockIdx.x")


@wrong("depthwise_conv2d.2", "The grid has 3 axes")
def fused_blocks_unfused(sch):
    for loop, axis in zip(loops_of(sch), "zyx", strict=False):
        sch.bind(loop, f"blockIdx.{axis}")


@wrong("depthwise_conv2d.2", "2 rows for each block one after the other")
def fused_blocks_of_half_of_h(sch):
    b, c, h, *_ = loops_of(sch)
    outer, _ = sch.split(h, [None, 2])
    sch.bind(sch.fuse(b, c, outer), "blockIdx.x")


@wrong("depthwise_conv2d.2", "65,535 at most", hint="Which of the three axes of")
def fused_blocks_along_y(sch):
    sch.bind(sch.fuse(*loops_of(sch)[:3]), "blockIdx.y")


@wrong("depthwise_conv2d.2", "on one processor")
def fused_blocks_as_threads(sch):
    sch.bind(sch.fuse(*loops_of(sch)[:3]), "threadIdx.x")


# ---------------------------------------------------------------------------------- 3 2-D threads

AXES = ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")


def threads_but(sch, rows, columns, axes=AXES, interleaved=""):
    """The reference, with one thing changed."""
    b, c, h, w, _, _ = loops_of(sch)
    if "h" in interleaved:
        ty, ho = sch.split(h, [rows, None])
    else:
        ho, ty = sch.split(h, [None, rows])
    if "w" in interleaved:
        tx, wo = sch.split(w, [columns, None])
    else:
        wo, tx = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    for loop, axis in zip((b, c, ty, tx), axes, strict=True):
        if axis:
            sch.bind(loop, axis)


@right("depthwise_conv2d.3")
def threads_without_reorder(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    _, ty = sch.split(h, [None, rows])
    _, tx = sch.split(w, [None, columns])
    for loop, axis in zip((b, c, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@right("depthwise_conv2d.3")
def threads_with_the_tiles_inside(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    ho, ty = sch.split(h, [None, rows])
    wo, tx = sch.split(w, [None, columns])
    sch.reorder(b, c, ty, tx, wo, ho)
    for loop, axis in zip((b, c, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@wrong("depthwise_conv2d.3", "of which 4 are wanted", hint="Read the split from the outside")
def threads_with_x_along_h(sch, rows, columns):
    threads_but(sch, rows, columns, ("blockIdx.y", "blockIdx.x", "threadIdx.x", "threadIdx.y"))


@wrong("depthwise_conv2d.3", "none is bound to threadIdx.y", hint="A tile has rows and columns")
def threads_in_one_dimension(sch, rows, columns):
    threads_but(sch, rows, columns, ("blockIdx.y", "blockIdx.x", None, "threadIdx.x"))


@wrong("depthwise_conv2d.3", "Are the two swapped?")
def threads_swapped(sch, rows, columns):
    threads_but(sch, columns, rows)


@wrong("depthwise_conv2d.3", "tx is the inner part of the split of w")
def threads_far_apart(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    ho, ty = sch.split(h, [None, rows])
    tx, wo = sch.split(w, [columns, None])
    sch.reorder(ho, wo, ty, tx)
    for loop, axis in zip((b, c, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@wrong("depthwise_conv2d.3", "ty is the inner part of the split of h")
def threads_in_rows_far_apart(sch, rows, columns):
    threads_but(sch, rows, columns, interleaved="h")


@wrong("depthwise_conv2d.3", "b is not bound to blocks")
def threads_of_every_image(sch, rows, columns):
    threads_but(sch, rows, columns, (None, "blockIdx.x", "threadIdx.y", "threadIdx.x"))


@wrong("depthwise_conv2d.3", "a thread does the tiles of its image one after the other")
def threads_and_blocks_of_rows_of_tiles(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    ho, ty = sch.split(h, [None, rows])
    wo, tx = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    for loop, axis in zip((b, c, ty, tx, ho), (*AXES, "blockIdx.z"), strict=True):
        sch.bind(loop, axis)


@wrong("depthwise_conv2d.3", "is bound to threadIdx.z")
def threads_of_all_rows_of_tiles(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    ho, ty = sch.split(h, [None, rows])
    wo, tx = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    for loop, axis in zip((b, c, ty, tx, ho), (*AXES, "threadIdx.z"), strict=True):
        sch.bind(loop, axis)


@wrong("depthwise_conv2d.3", "The list of sch.split goes from the outer extent to the inner")
def threads_split_from_the_inside(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    ho, ty = sch.split(h, [rows, None])
    wo, tx = sch.split(w, [columns, None])
    sch.reorder(ho, wo, ty, tx)
    for loop, axis in zip((b, c, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@wrong("depthwise_conv2d.3", 'there is no thread axis "threads.y". The six are "blockIdx.x"')
def threads_of_an_axis_of_another_name(sch, rows, columns):
    threads_but(sch, rows, columns, ("blockIdx.y", "blockIdx.x", "threads.y", "threads.x"))


@wrong("depthwise_conv2d.3", "is the outer part of h: it counts tiles")
def threads_by_the_number_of_tiles(sch, rows, columns):
    b, c, h, w, _, _ = loops_of(sch)
    ty, ho = sch.split(h, [None, rows])
    tx, wo = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    for loop, axis in zip((b, c, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


# --------------------------------------------------------------------------------- 4 outer fusion


def tiled(sch, rows, columns):
    """Split and reordered as in the reference: b, c, ho, wo, ty, tx."""
    b, c, h, w, _, _ = loops_of(sch)
    ho, ty = sch.split(h, [None, rows])
    wo, tx = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    return b, c, ho, wo, ty, tx


def bind_tile(sch, ty, tx, axes="yx"):
    sch.bind(ty, f"threadIdx.{axes[0]}")
    sch.bind(tx, f"threadIdx.{axes[1]}")


@right("depthwise_conv2d.4")
def outer_fusion_threads_first(sch, rows, columns):
    b, c, ho, wo, ty, tx = tiled(sch, rows, columns)
    bind_tile(sch, ty, tx)
    images, tiles = sch.fuse(b, c), sch.fuse(ho, wo)
    sch.bind(sch.fuse(images, tiles), "blockIdx.x")


@right("depthwise_conv2d.4")
def outer_fusion_with_the_columns_outside(sch, rows, columns):
    b, c, ho, wo, ty, tx = tiled(sch, rows, columns)
    sch.reorder(wo, ho)
    sch.bind(sch.fuse(b, c, wo, ho), "blockIdx.x")
    bind_tile(sch, ty, tx)


@wrong(
    "depthwise_conv2d.4", "which do h_0, w_0 one after the other", hint="Everything that tells one"
)
def outer_fusion_of_images(sch, rows, columns):
    b, c, _, _, ty, tx = tiled(sch, rows, columns)
    sch.bind(sch.fuse(b, c), "blockIdx.x")
    bind_tile(sch, ty, tx)


@wrong("depthwise_conv2d.4", "which do w_0 one after the other")
def outer_fusion_without_the_columns(sch, rows, columns):
    b, c, ho, _, ty, tx = tiled(sch, rows, columns)
    sch.bind(sch.fuse(b, c, ho), "blockIdx.x")
    bind_tile(sch, ty, tx)


@wrong("depthwise_conv2d.4", "Expected one: b, c, ho and wo fused")
def outer_fusion_in_three_axes(sch, rows, columns):
    b, c, ho, wo, ty, tx = tiled(sch, rows, columns)
    sch.bind(sch.fuse(b, c), "blockIdx.z")
    sch.bind(ho, "blockIdx.y")
    sch.bind(wo, "blockIdx.x")
    bind_tile(sch, ty, tx)


@wrong("depthwise_conv2d.4", "of which 4 are wanted", hint="The inner parts of both splits")
def outer_fusion_with_x_along_h(sch, rows, columns):
    b, c, ho, wo, ty, tx = tiled(sch, rows, columns)
    sch.bind(sch.fuse(b, c, ho, wo), "blockIdx.x")
    bind_tile(sch, ty, tx, "xy")


@wrong("depthwise_conv2d.4", "none is bound to threadIdx.x")
def outer_fusion_without_threads(sch, rows, columns):
    b, c, ho, wo, _, _ = tiled(sch, rows, columns)
    sch.bind(sch.fuse(b, c, ho, wo), "blockIdx.x")


@wrong("depthwise_conv2d.4", 'expected "blockIdx.x"')
def outer_fusion_along_y(sch, rows, columns):
    b, c, ho, wo, ty, tx = tiled(sch, rows, columns)
    sch.bind(sch.fuse(b, c, ho, wo), "blockIdx.y")
    bind_tile(sch, ty, tx)


# -------------------------------------------------------------------------------- 5 a shared tile


def share_but(sch, scope="shared", at=0, split=None, axes=("threadIdx.y", "threadIdx.x")):
    """The reference, with one thing changed. at: which loop of Y; split: (y, x) to the extents of
    the split and the places of y and x in it."""
    P = sch.get_sblock("P")
    loops = loops_of(sch)
    rows, columns = (int(sch.get(loop).extent) for loop in loops[1:3])
    if scope:
        sch.set_scope(P, 0, scope)
    sch.compute_at(P, loops[at])
    piece = sch.fuse(*sch.get_loops(P)[-2:])
    extents, y, x = split(rows, columns) if split else ([None, rows, columns], 1, 2)
    parts = sch.split(piece, extents)
    for place, axis in zip((y, x), axes, strict=True):
        if axis:
            sch.bind(parts[place], axis)


@right("depthwise_conv2d.5")
def share_inside_of_the_threads(sch):
    share_but(sch, at=2)


@right("depthwise_conv2d.5")
def share_by_rows_and_columns(sch):
    P = sch.get_sblock("P")
    block, ty, tx, _, _ = loops_of(sch)
    rows, columns = (int(sch.get(loop).extent) for loop in (ty, tx))
    sch.compute_at(P, block)
    sch.set_scope(P, 0, "shared")
    *_, h, w = sch.get_loops(P)
    ho, y = sch.split(h, [None, rows])
    wo, x = sch.split(w, [None, columns])
    sch.reorder(ho, wo, y, x)
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")


@wrong("depthwise_conv2d.5", "is gone, inlined into the sum", hint="One block needs one tile")
def share_inlined(sch):
    sch.compute_inline(sch.get_sblock("P"))


@wrong("depthwise_conv2d.5", "for all images at once")
def share_everything(sch):
    sch.set_scope(sch.get_sblock("P"), 0, "shared")


@wrong("depthwise_conv2d.5", "It is as far away as X was", hint="All threads of a block read")
def share_in_global_memory(sch):
    share_but(sch, scope=None)


@wrong("depthwise_conv2d.5", "There each thread has only what it stored itself")
def share_in_local_memory(sch):
    share_but(sch, scope="local")


@wrong("depthwise_conv2d.5", "all threads wait for it each time")
def share_for_every_row_of_the_filter(sch):
    share_but(sch, at=3)


@wrong(
    "depthwise_conv2d.5",
    "copies the same elements as all the others do",
    hint="The elements of the tile",
)
def share_not_shared_out(sch):
    share_but(sch, axes=(None, None))


@wrong("depthwise_conv2d.5", "none is bound to threadIdx.y")
def share_among_one_row_of_threads(sch):
    share_but(sch, axes=(None, "threadIdx.x"))


@wrong("depthwise_conv2d.5", "A thread axis has one extent in a kernel")
def share_among_other_numbers_of_threads(sch):
    share_but(sch, split=lambda rows, columns: ([None, columns, rows], 1, 2))


@wrong("depthwise_conv2d.5", "the rounds come first")
def share_in_runs(sch):
    share_but(sch, split=lambda rows, columns: ([rows, columns, None], 0, 1))


@wrong("depthwise_conv2d.5", "stands inside of threadIdx.x")
def share_with_x_outside(sch):
    share_but(sch, split=lambda rows, columns: ([None, columns, rows], 2, 1))
