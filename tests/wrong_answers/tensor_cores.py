"""Answers to the lab on tensor cores: first attempts gone wrong, and right answers unlike the
reference."""

from tests.wrong_answers import right, wrong
from tvm_practice.common.exercise import load_lesson

lesson = load_lesson("tensor_cores")
EDGE, WARP = lesson.EDGE, lesson.WARP

# ------------------------------------------------------------------------------------------- 1 tile


def tile_but(
    sch,
    warps,
    each,
    depth,
    rows=lambda warps, each: [None, warps, each, EDGE],
    order="by bx row column ko ki fi fj it jt kt",
    fuse=("row", "column"),
    axis="threadIdx.y",
    bound=("by", "bx"),
    ki=None,
    blockize="it",
):
    """The reference, with one thing changed."""
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    named = {}
    named["by"], named["row"], named["fi"], named["it"] = sch.split(i, rows(warps[0], each[0]))
    named["bx"], named["column"], named["fj"], named["jt"] = sch.split(j, rows(warps[1], each[1]))
    named["ko"], named["ki"], named["kt"] = sch.split(k, ki or [None, depth, EDGE])
    sch.reorder(*[named[name] for name in order.split()])
    if fuse:
        sch.bind(sch.fuse(*[named[name] for name in fuse]), axis)
    for name, block in zip(bound, ("blockIdx.y", "blockIdx.x"), strict=False):
        sch.bind(named[name], block)
    if blockize:
        sch.blockize(named[blockize])


@right("tensor_cores.1")
def tile_with_the_warps_counted_by_columns(sch, warps, each, depth):
    tile_but(
        sch,
        warps,
        each,
        depth,
        order="by bx column row ko ki fi fj it jt kt",
        fuse=("column", "row"),
    )


@right("tensor_cores.1")
def tile_from_the_inside(sch, warps, each, depth):
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    i, it = sch.split(i, [None, EDGE])
    j, jt = sch.split(j, [None, EDGE])
    k, kt = sch.split(k, [None, EDGE])
    sch.reorder(i, j, k, it, jt, kt)
    block = sch.blockize(it)
    i, j, k = sch.get_loops(block)
    by, row, fi = sch.split(i, [None, warps[0], each[0]])
    bx, column, fj = sch.split(j, [None, warps[1], each[1]])
    ko, ki = sch.split(k, [None, depth])
    sch.reorder(by, bx, row, column, ko, ki, fi, fj)
    warp = sch.fuse(row, column)
    for loop, axis in zip((by, bx, warp), ("blockIdx.y", "blockIdx.x", "threadIdx.y"), strict=True):
        sch.bind(loop, axis)


@wrong(
    "tensor_cores.1", "the loop nest is what it was before", hint="Which object do your primitives"
)
def tile_nothing(sch, warps, each, depth):
    sch.get_sblock("C")


@wrong(
    "tensor_cores.1",
    "sch.blockize(it) makes it of the last three loops",
    hint="What is replaced later is",
)
def tile_without_a_block(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, blockize=None)


@wrong("tensor_cores.1", "and nothing is bound", hint="A warp works as one: threadIdx.x")
def tile_only_split(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, fuse=(), bound=(), blockize=None)


@wrong("tensor_cores.1", "blockize takes the outermost of those that go inside")
def tile_with_a_block_of_one_row(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, blockize="jt")


@wrong("tensor_cores.1", "Inside of a tile the loops run over")
def tile_with_k_first_inside(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, order="by bx row column ko ki fi fj kt it jt", blockize="kt")


@wrong("tensor_cores.1", "Are the warps' two fused?")
def tile_with_warps_of_two_dimensions(sch, warps, each, depth):
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    by, row, fi, it = sch.split(i, [None, warps[0], each[0], EDGE])
    bx, column, fj, jt = sch.split(j, [None, warps[1], each[1], EDGE])
    ko, ki, kt = sch.split(k, [None, depth, EDGE])
    sch.reorder(by, bx, row, column, ko, ki, fi, fj, it, jt, kt)
    for loop, axis in (
        (by, "blockIdx.y"),
        (bx, "blockIdx.x"),
        (row, "threadIdx.z"),
        (column, "threadIdx.y"),
    ):
        sch.bind(loop, axis)
    sch.blockize(it)


@wrong("tensor_cores.1", "Expected ko and ki after the bound ones, and fi, fj inside of them")
def tile_with_the_own_tiles_outside_of_k(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, order="by bx row column fi fj ko ki it jt kt")


@wrong("tensor_cores.1", "The warps are bound to threadIdx.x")
def tile_with_warps_along_x(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, axis="threadIdx.x")


@wrong("tensor_cores.1", "expected blockIdx.y, blockIdx.x and threadIdx.y")
def tile_with_x_and_y_exchanged(sch, warps, each, depth):
    tile_but(
        sch, warps, each, depth, bound=("bx", "by"), order="by bx row column ko ki fi fj it jt kt"
    )


@wrong("tensor_cores.1", "expected depth", hint="Read each split from the")
def tile_with_depth_outside(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, ki=[depth, None, EDGE])


@wrong("tensor_cores.1", "warps; expected")
def tile_with_warps_and_tiles_exchanged(sch, warps, each, depth):
    tile_but(sch, warps, each, depth, rows=lambda warps, each: [None, each, warps, EDGE])


@wrong("tensor_cores.1", "tiles of a warp side by side")
def tile_with_a_warps_tiles_far_apart(sch, warps, each, depth):
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    by, fi, row, it = sch.split(i, [None, each[0], warps[0], EDGE])
    bx, fj, column, jt = sch.split(j, [None, each[1], warps[1], EDGE])
    ko, ki, kt = sch.split(k, [None, depth, EDGE])
    sch.reorder(by, bx, row, column, ko, ki, fi, fj, it, jt, kt)
    warp = sch.fuse(row, column)
    for loop, axis in zip((by, bx, warp), ("blockIdx.y", "blockIdx.x", "threadIdx.y"), strict=True):
        sch.bind(loop, axis)
    sch.blockize(it)


@wrong("tensor_cores.1", "Expected the tiles of a block together, 2 x 3 warps")
def tile_with_a_warps_rows_far_apart(sch, warps, each, depth):
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    by, fi, row, it = sch.split(i, [None, each[0], warps[0], EDGE])
    bx, column, fj, jt = sch.split(j, [None, warps[1], each[1], EDGE])
    ko, ki, kt = sch.split(k, [None, depth, EDGE])
    sch.reorder(by, bx, row, column, ko, ki, fi, fj, it, jt, kt)
    warp = sch.fuse(row, column)
    for loop, axis in zip((by, bx, warp), ("blockIdx.y", "blockIdx.x", "threadIdx.y"), strict=True):
        sch.bind(loop, axis)
    sch.blockize(it)


# -------------------------------------------------------------------------------------- 2 fragments


def fragments_but(
    sch,
    sums="wmma.accumulator",
    scopes=("wmma.matrix_a", "wmma.matrix_b"),
    store_at=2,
    load_at=4,
    tiles=True,
    numbers=(0, 1),
):
    """The reference, with one thing changed."""
    block = sch.get_sblock("C_o")
    loops = sch.get_loops(block)
    copies = []
    if sums:
        copies.append(sch.cache_write(block, 0, sums))
        if store_at is not None:
            sch.reverse_compute_at(copies[-1], loops[store_at])
    for number, scope in zip(numbers, scopes, strict=False):
        copies.append(sch.cache_read(block, number, scope))
        if load_at is not None:
            sch.compute_at(copies[-1], loops[load_at])
    if tiles:
        for copy in copies:
            lesson.over_tiles(sch, copy)


@right("tensor_cores.2")
def fragments_with_the_reads_first(sch):
    block = sch.get_sblock("C_o")
    *_, warp, _, ki, _, _ = sch.get_loops(block)
    b = sch.cache_read(block, 1, "wmma.matrix_b")
    a = sch.cache_read(block, 0, "wmma.matrix_a")
    for copy in (a, b):
        sch.compute_at(copy, ki)
    c = sch.cache_write(block, 0, "wmma.accumulator")
    sch.reverse_compute_at(c, warp)
    for copy in (a, b, c):
        lesson.over_tiles(sch, copy)


@right("tensor_cores.2")
def fragments_with_the_copies_unrolled(sch):
    fragments_but(sch)
    for name in ("A_wmma.matrix_a", "B_wmma.matrix_b"):
        *_, fi, fj, _, _ = sch.get_loops(sch.get_sblock(name))
        sch.unroll(fi)
        sch.unroll(fj)


@wrong(
    "tensor_cores.2", "the loop nest is what it was before", hint="Which object do your primitives"
)
def fragments_of_nothing(sch):
    sch.get_sblock("C_o")


@wrong("tensor_cores.2", "mma_sync adds to a fragment", hint="Three kinds of fragments")
def fragments_without_sums(sch):
    fragments_but(sch, sums=None)


@wrong("tensor_cores.2", 'The sums are in scope "local"')
def fragments_of_sums_in_a_threads_registers(sch):
    fragments_but(sch, sums="local")


@wrong("tensor_cores.2", '"C_o" still reads B itself')
def fragments_of_a_only(sch):
    fragments_but(sch, numbers=(0,))


@wrong("tensor_cores.2", "since A is the left factor")
def fragments_in_each_others_scope(sch):
    fragments_but(sch, scopes=("wmma.matrix_b", "wmma.matrix_a"))


@wrong(
    "tensor_cores.2", "all of C would have to lie in fragments", hint="A fragment is loaded when"
)
def fragments_stored_at_the_end(sch):
    fragments_but(sch, store_at=None)


@wrong("tensor_cores.2", "outside of ki")
def fragments_loaded_for_a_whole_piece(sch):
    fragments_but(sch, load_at=3)


@wrong("tensor_cores.2", "and its registers hold a few")
def fragments_loaded_before_everything(sch):
    fragments_but(sch, load_at=None)


@wrong("tensor_cores.2", "anew for every tile of C")
def fragments_loaded_for_each_tile(sch):
    fragments_but(sch, load_at=6)


@wrong("tensor_cores.2", "over_tiles(sch, copy) splits them")
def fragments_by_the_element(sch):
    fragments_but(sch, tiles=False)


# ------------------------------------------------------------------------------------------ 3 share


def share_but(
    sch,
    names=("A_wmma.matrix_a", "B_wmma.matrix_b"),
    scope="shared",
    at=3,
    y="threadIdx.y",
    x="threadIdx.x",
    threads=WARP,
    width=8,
    vectorize=True,
    align=(0, 32, 8),
    fetch=True,
    exchanged=False,
    runs=False,
    columns_outside=False,
):
    """The reference, with one thing changed."""
    loops = sch.get_loops(sch.get_sblock("C_o"))
    warps = int(sch.get(loops[2]).extent)
    for name in names:
        copy = sch.cache_read(sch.get_sblock(name), 0, scope)
        if at is not None:
            sch.compute_at(copy, loops[at])
        if not fetch:
            continue
        row, column = sch.get_loops(copy)[-2:]
        if columns_outside:
            sch.reorder(column, row)
            row, column = column, row
        piece = sch.fuse(row, column)
        if exchanged:
            _, in_x, in_y, lane = sch.split(piece, [None, threads, warps, width])
        elif runs:
            in_y, in_x, _, lane = sch.split(piece, [warps, threads, None, width])
        else:
            _, in_y, in_x, lane = sch.split(piece, [None, warps, threads, width])
        if y:
            sch.bind(in_y, y)
        if x:
            sch.bind(in_x, x)
        if vectorize:
            sch.vectorize(lane)
        if align:
            axis, factor, offset = align
            sch.storage_align(copy, 0, axis=axis, factor=factor, offset=offset)


@right("tensor_cores.3")
def share_b_before_a(sch):
    share_but(sch, names=("B_wmma.matrix_b", "A_wmma.matrix_a"))


@right("tensor_cores.3")
def share_with_the_last_axis_but_one(sch):
    share_but(sch, align=(-2, 16, 8))


@wrong(
    "tensor_cores.3", "the loop nest is what it was before", hint="Which object do your primitives"
)
def share_nothing(sch):
    sch.get_sblock("C_o")


@wrong("tensor_cores.3", '"B_wmma.matrix_b" still loads from B', hint="What all warps of a block")
def share_a_only(sch):
    share_but(sch, names=("A_wmma.matrix_a",))


@wrong("tensor_cores.3", "which all warps of a block see")
def share_in_local_memory(sch):
    share_but(sch, scope="local", align=None)


@wrong("tensor_cores.3", "once for each piece", hint="Which loop is entered once")
def share_inside_of_ki(sch):
    share_but(sch, at=4, fetch=False)


@wrong("tensor_cores.3", "there is no room for more than a piece")
def share_outside_of_all_loops(sch):
    share_but(sch, at=None, fetch=False)


@wrong("tensor_cores.3", "an instruction for 32 called by one", hint="The elements of a piece are")
def share_among_warps_only(sch):
    share_but(sch, x=None)


@wrong("tensor_cores.3", "it has to be 32, a warp")
def share_among_sixteen_threads(sch):
    share_but(sch, threads=16)


@wrong("tensor_cores.3", "copies the whole piece")
def share_by_each_warp_for_itself(sch):
    share_but(sch, y=None)


@wrong("tensor_cores.3", "by the element, 2 bytes at a time")
def share_without_vectors(sch):
    share_but(sch, vectorize=False)


@wrong("tensor_cores.3", "A thread moves 4 numbers")
def share_with_vectors_as_for_float32(sch):
    share_but(sch, width=4)


@wrong(
    "tensor_cores.3",
    "threadIdx.x stands outside of threadIdx.y",
    hint="Neighbouring threads should",
)
def share_with_x_outside(sch):
    share_but(sch, exchanged=True)


@wrong("tensor_cores.3", "Each thread copies a run of B of its own")
def share_in_runs(sch):
    share_but(sch, runs=True)


@wrong(
    "tensor_cores.3",
    "begin in the same bank of shared memory",
    hint="A row that is a little longer",
)
def share_without_spreading_the_rows(sch):
    share_but(sch, align=None)


@wrong("tensor_cores.3", "at an address that is no multiple of 16")
def share_with_an_offset_of_two(sch):
    share_but(sch, align=(0, 32, 2))


@wrong("tensor_cores.3", "the two loops were fused with the columns outside")
def share_column_by_column(sch):
    share_but(sch, columns_outside=True)


@wrong("tensor_cores.3", "not all of its readers stand in that loop")
def share_inside_of_the_product(sch):
    share_but(sch, at=5)


# -------------------------------------------------------------------------------------- 4 tensorize


def tensorize_but(
    sch,
    instructions,
    multiply="multiply",
    copies=(
        ("A_wmma.matrix_a", "load_a"),
        ("B_wmma.matrix_b", "load_b"),
        ("C_wmma.accumulator", "store"),
    ),
    place=-2,
):
    """The reference, with one thing changed."""
    if multiply:
        *_, it, _, _ = sch.get_loops(sch.get_sblock("C"))
        sch.tensorize(it, instructions[multiply])
    for name, instruction in copies:
        sch.tensorize(sch.get_loops(sch.get_sblock(name))[place], instructions[instruction])


@right("tensor_cores.4")
def tensorize_the_copies_first(sch, instructions):
    tensorize_but(sch, instructions, multiply=None)
    sch.tensorize(sch.get_loops(sch.get_sblock("C"))[0], instructions["multiply"])


@right("tensor_cores.4")
def tensorize_by_numbers(sch, instructions):
    for name, key, depth in (
        ("C_wmma.accumulator", "store", 2),
        ("C", "multiply", 3),
        ("B_wmma.matrix_b", "load_b", 2),
        ("A_wmma.matrix_a", "load_a", 2),
    ):
        sch.tensorize(sch.get_loops(sch.get_sblock(name))[-depth], instructions[key])


@wrong(
    "tensor_cores.4", "the loop nest is what it was before", hint="Which object do your primitives"
)
def tensorize_nothing(sch, instructions):
    sch.get_sblock("C")


@wrong(
    "tensor_cores.4",
    "The multiplication (C) is still made of loops",
    hint="Four kinds of blocks become",
)
def tensorize_the_copies_only(sch, instructions):
    tensorize_but(sch, instructions, multiply=None)


@wrong("tensor_cores.4", "One of the loads")
def tensorize_one_load(sch, instructions):
    tensorize_but(
        sch,
        instructions,
        copies=(("A_wmma.matrix_a", "load_a"), ("C_wmma.accumulator", "store")),
    )


@wrong("tensor_cores.4", "are still made of loops")
def tensorize_no_load(sch, instructions):
    tensorize_but(sch, instructions, copies=(("C_wmma.accumulator", "store"),))


@wrong("tensor_cores.4", "The store (C_wmma.accumulator) is still made of loops")
def tensorize_without_the_store(sch, instructions):
    tensorize_but(
        sch, instructions, copies=(("A_wmma.matrix_a", "load_a"), ("B_wmma.matrix_b", "load_b"))
    )


@wrong("tensor_cores.4", "TVM refuses: this loop and what is inside of it")
def tensorize_with_the_loads_exchanged(sch, instructions):
    tensorize_but(
        sch,
        instructions,
        copies=(
            ("A_wmma.matrix_a", "load_b"),
            ("B_wmma.matrix_b", "load_a"),
            ("C_wmma.accumulator", "store"),
        ),
    )
