"""Answers to phase 2: mistakes made in first schedules, and right answers unlike the reference."""

from tvm import te
from tvm.s_tir import Schedule

from tests.wrong_answers import right, wrong


def loops(sch: Schedule, name: str = "C") -> list:
    return sch.get_loops(sch.get_sblock(name))


# ----------------------------------------------------------------------------------------- 2.1 tile


@right("2.1")
def tile_with_explicit_quotients(sch, rows, columns):
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    io, ii = sch.split(i, factors=[int(sch.get(i).extent) // rows, rows])
    jo, ji = sch.split(j, factors=[int(sch.get(j).extent) // columns, columns])
    sch.reorder(io, jo, k, ii, ji)


@right("2.1")
def tile_and_look_again_after_each_step(sch, rows, columns):
    sch.split(loops(sch)[1], [None, columns])
    sch.split(loops(sch)[0], [None, rows])
    _, ii, jo, ji, k = loops(sch)
    sch.reorder(jo, k, ii, ji)


@right("2.1")
def tile_with_two_reorders(sch, rows, columns):
    i, j, k = loops(sch)
    sch.reorder(k, i, j)
    io, ii = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(io, jo, k, ii)
    sch.reorder(ii, ji)


@wrong("2.1", "jo stands outside of io", hint="Say of each loop what")
def tile_down_the_columns_of_tiles(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(jo, io, k, ii, ji)


@wrong(
    "2.1", "`te.create_schedule` is of an older TVM, removed in 0.20; `sch` is the schedule already"
)
def tile_a_schedule_of_its_own(sch, rows, columns):
    s = te.create_schedule(sch)
    s[sch].tile(rows, columns)


@wrong("2.1", "3 names on the left, and on the right 4 loops: i_0, i_1, j, k")
def tile_with_too_few_names(sch, rows, columns):
    i, _, _ = loops(sch)
    sch.split(i, [None, rows])
    io, j, k = sch.get_loops(sch.get_sblock("C"))
    sch.reorder(io, k, j)


@wrong("2.1", "Are the factors swapped?", hint="After `x, y = sch.split(i")
def tile_with_swapped_factors(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, columns, rows)


@wrong("2.1", "with k innermost, each element of C is finished", hint="Say of each loop what")
def tile_with_k_innermost(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(io, jo, ii, ji, k)


@wrong("2.1", "with k outermost, all of C is passed through", hint="Say of each loop what")
def tile_with_k_outermost(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    io, jo, k, *_ = loops(sch)
    sch.reorder(k, io, jo)


@wrong("2.1", "k should be the third", hint="Say of each loop what")
def tile_with_k_second(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    _, jo, k, *_ = loops(sch)
    sch.reorder(k, jo)


@wrong("2.1", "k lies inside of ii", hint="Say of each loop what")
def tile_with_k_inside_the_tile(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    *_, k, ii, _ = loops(sch)
    sch.reorder(ii, k)


@wrong("2.1", "the innermost runs down a column of C", hint="Say of each loop what")
def tile_with_its_own_loops_swapped(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    *_, ii, ji = loops(sch)
    sch.reorder(ji, ii)


@wrong("2.1", "k is split as well", hint="A tile is a block of")
def tile_k_too(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    ko, ki = sch.split(k, [None, 4])
    sch.reorder(io, jo, ko, ki, ii, ji)


@wrong("2.1", "j is not split", hint="A tile is a block of")
def tile_the_rows_only(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [None, rows])
    sch.reorder(io, k, ii, j)


@wrong("2.1", "as the splits left them", hint="Say of each loop what")
def tile_without_reorder(sch, rows, columns):
    i, j, _ = loops(sch)
    sch.split(i, [None, rows])
    sch.split(j, [None, columns])


@wrong(
    "2.1",
    "The list of sch.split goes from the outer extent to the inner one",
    hint="After `x, y = sch.split(i",
)
def tile_with_the_factor_first(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [rows, None])
    jo, ji = sch.split(j, [columns, None])
    sch.reorder(io, jo, k, ii, ji)


@wrong("2.1", "sch.split returns the outer loop first", hint="After `x, y = sch.split(i")
def tile_with_factor_and_result_turned_round(sch, rows, columns):
    # Extents and order are those asked for; but each "tile" is spread over the whole of C.
    i, j, k = loops(sch)
    ii, io = sch.split(i, [rows, None])
    ji, jo = sch.split(j, [columns, None])
    sch.reorder(io, jo, k, ii, ji)


@wrong(
    "2.1",
    "but i_0 and j_0 go from tile to tile",
    hint="After `x, y = sch.split(i",
)
def tile_with_the_results_swapped(sch, rows, columns):
    i, j, k = loops(sch)
    ii, io = sch.split(i, [None, rows])
    ji, jo = sch.split(j, [None, columns])
    sch.reorder(io, jo, k, ii, ji)


@wrong("2.1", "but i_0 goes from tile to tile", hint="After `x, y = sch.split(i")
def tile_with_the_results_of_one_split_exchanged(sch, rows, columns):
    i, j, k = loops(sch)
    ii, io = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(io, jo, k, ii, ji)


@wrong("2.1", "take the arguments rows and columns", hint="The check calls the body")
def tile_with_the_numbers_of_this_machine(sch, rows, columns):
    from tvm_practice.common.target import register_tile

    tile_and_look_again_after_each_step(sch, *register_tile())


@wrong(
    "2.1",
    "the factors multiply to less than the extent of loop",
    hint="The number of tiles differs",
)
def tile_with_the_number_of_tiles_of_the_first_size(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [4, rows])
    jo, ji = sch.split(j, [3, columns])
    sch.reorder(io, jo, k, ii, ji)


@wrong("2.1", "so a guard `if` stands around the statement", hint="The number of tiles differs")
def tile_with_one_tile_too_many(sch, rows, columns):
    i, j, k = loops(sch)
    io, ii = sch.split(i, [int(sch.get(i).extent) // rows + 1, rows])
    jo, ji = sch.split(j, [int(sch.get(j).extent) // columns + 1, columns])
    sch.reorder(io, jo, k, ii, ji)


@wrong("2.1", "this loop no longer exists", hint="A split puts two loops")
def tile_and_reorder_the_old_loops(sch, rows, columns):
    i, j, k = loops(sch)
    _, ii = sch.split(i, [None, rows])
    _, ji = sch.split(j, [None, columns])
    sch.reorder(i, j, k, ii, ji)


@wrong("2.1", "split takes a list here, but was given an integer", hint="How many loops does the")
def tile_with_a_bare_factor(sch, rows, columns):
    i, _, _ = loops(sch)
    sch.split(i, rows)


@wrong("2.1", "i_1_j_1_fused runs over two indices at once")
def tile_and_fuse(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    *_, ii, ji = loops(sch)
    sch.fuse(ii, ji)


@wrong("2.1", "a loop has another kind already (j_1 is vectorized)")
def tile_and_vectorize(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    sch.vectorize(loops(sch)[-1])


@wrong("2.1", "left a new block")
def tile_and_decompose(sch, rows, columns):
    tile_and_look_again_after_each_step(sch, rows, columns)
    sch.decompose_reduction(sch.get_sblock("C"), loops(sch)[2])


@wrong("2.1", "the loop nest is what it was before", hint="Which object do your")
def tile_a_copy_of_the_schedule(sch, rows, columns):
    tile_and_look_again_after_each_step(sch.copy(), rows, columns)


# ------------------------------------------------------------------------------------ 2.2 vectorize


@right("2.2")
def vectorize_by_number(sch):
    sch.vectorize(loops(sch)[4])


@right("2.2")
def vectorize_by_name(sch):
    named = {sch.get(loop).loop_var.name: loop for loop in loops(sch)}
    sch.vectorize(named["j_1"])


@wrong("2.2", "the loop nest is what it was before", hint="Which object do your")
def vectorize_nothing(sch):
    pass


@wrong("2.2", "it runs down a column", hint="Take two iterations of")
def vectorize_the_rows(sch):
    sch.vectorize(loops(sch)[3])


@wrong("2.2", "it goes from tile to tile", hint="Take two iterations of")
def vectorize_the_tiles(sch):
    sch.vectorize(loops(sch)[1])


@wrong(
    "2.2",
    "`sch.vectorize(loops(sch)[2])`: TVM refuses: this loop is a reduction",
    hint="A vector instruction",
)
def vectorize_the_reduction(sch):
    sch.vectorize(loops(sch)[2])


@wrong("2.2", "so they cannot happen at the same time", hint="A vector instruction")
def vectorize_every_loop(sch):
    for loop in reversed(loops(sch)):
        sch.vectorize(loop)


@wrong("2.2", "no loop is vectorized (j_1 is parallel)", hint="Each kind of loop has")
def vectorize_by_threads(sch):
    sch.parallel(loops(sch)[4])


@wrong("2.2", "no loop is vectorized (j_1 is unrolled)", hint="Each kind of loop has")
def vectorize_by_unrolling(sch):
    sch.unroll(loops(sch)[4])


@wrong("2.2", "which is two loops fused to one", hint="Take two iterations of")
def vectorize_the_whole_tile(sch):
    *_, ii, ji = loops(sch)
    sch.vectorize(sch.fuse(ii, ji))


@wrong("2.2", "the compiler cuts it into registers itself", hint="One call is enough here")
def vectorize_pairs(sch):
    _, lanes = sch.split(loops(sch)[4], [None, 2])
    sch.vectorize(lanes)


@wrong(
    "2.2",
    "Loop i_0 is parallel as well; this step only vectorizes ji",
    hint="One call is enough here",
)
def vectorize_and_parallelize(sch):
    io, *_, ji = loops(sch)
    sch.vectorize(ji)
    sch.parallel(io)


@wrong("2.2", "vectorize takes a loop here, but was given a list", hint="sch.get_loops returns a")
def vectorize_a_list(sch):
    sch.vectorize(loops(sch))


@wrong("2.2", "vectorize takes a loop here, but was given a block", hint="sch.get_loops returns a")
def vectorize_the_block(sch):
    sch.vectorize(sch.get_sblock("C"))


# ---------------------------------------------------------------------------------- 2.3 parallelize


@right("2.3")
def parallelize_by_number(sch):
    sch.parallel(loops(sch)[0])


@right("2.3")
def parallelize_all_tiles(sch):
    slab, jo, io, *_ = loops(sch)
    sch.parallel(sch.fuse(slab, jo, io))


@right("2.3")
def parallelize_the_panels(sch):
    slab, jo, *_ = loops(sch)
    sch.reorder(jo, slab)
    sch.parallel(jo)


@right("2.3")
def parallelize_in_chunks(sch):
    chunk, _ = sch.split(loops(sch)[0], [2, None])
    sch.parallel(chunk)


@wrong("2.3", "the loop nest is what it was before", hint="Which object do your")
def parallelize_nothing(sch):
    loops(sch)


@wrong(
    "2.3", "Loop j_0 is parallel, but it lies inside of i_0_0:", hint="Threads are started whenever"
)
def parallelize_jo(sch):
    sch.parallel(loops(sch)[1])


@wrong(
    "2.3",
    "Loop i_1 is parallel, but it lies inside of i_0_0, j_0, i_0_1, k:",
    hint="Threads are started whenever",
)
def parallelize_ii(sch):
    sch.parallel(loops(sch)[-2])


@wrong("2.3", "Loop j_1 is parallel, but it lies inside of", hint="Threads are started whenever")
def parallelize_ji(sch):
    sch.parallel(loops(sch)[-1])


@wrong(
    "2.3",
    "`sch.parallel(loops(sch)[3])`: TVM refuses: this loop is a reduction",
    hint="Two threads may not add",
)
def parallelize_k(sch):
    sch.parallel(loops(sch)[3])


@wrong("2.3", "each needs what the one before left there", hint="Two threads may not add")
def parallelize_everything_outside_the_tile(sch):
    slab, jo, io, k, *_ = loops(sch)
    sch.parallel(sch.fuse(slab, jo, io, k))


@wrong("2.3", "2 loops are parallel, i_0_0 and j_0", hint="Threads are started whenever")
def parallelize_two_loops(sch):
    slab, jo, *_ = loops(sch)
    sch.parallel(slab)
    sch.parallel(jo)


@wrong("2.3", "k, ii and ji should still be the three inner ones", hint="Go through your calls")
def parallelize_ji_moved_outside(sch):
    *others, ji = loops(sch)
    sch.reorder(ji, *others)
    sch.parallel(ji)


@wrong("2.3", "Loop j_1 is no longer vectorized", hint="Go through your calls")
def parallelize_and_unroll_the_vectors(sch):
    slab, *_, ji = loops(sch)
    sch.parallel(slab)
    sch.unroll(ji)


@wrong("2.3", "as 2.1 left them", hint="Go through your calls")
def parallelize_and_split_the_vectors(sch):
    slab, *_, ji = loops(sch)
    sch.parallel(slab)
    _, lanes = sch.split(ji, [None, 2])
    sch.vectorize(lanes)


@wrong(
    "2.3",
    "no loop is parallel (i_0_0 is threadIdx.x, j_1 is vectorized)",
    hint="The outermost line of",
)
def parallelize_as_on_a_gpu(sch):
    sch.bind(loops(sch)[0], "threadIdx.x")


@wrong("2.3", "no loop is parallel (j_1 is vectorized)", hint="The outermost line of")
def parallelize_before_fusing(sch):
    slab, jo, *_ = loops(sch)
    sch.parallel(slab)
    sch.fuse(slab, jo)  # makes a new loop, which is serial


@wrong("2.3", "but has a single iteration", hint="The outermost line of")
def parallelize_one_piece(sch):
    piece, _ = sch.split(loops(sch)[0], [1, None])
    sch.parallel(piece)


@wrong("2.3", "Loop i_1 is unrolled as well", hint="Go through your calls")
def parallelize_and_unroll(sch):
    slab, *_, ii, _ = loops(sch)
    sch.parallel(slab)
    sch.unroll(ii)


# -------------------------------------------------------------------------------- 2.4 register_tile


@right("2.4")
def register_tile_unrolled_first_copied_last(sch):
    block = sch.get_sblock("C")
    *_, io, k, ii, _ = sch.get_loops(block)
    sch.unroll(ii)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, io)
    sch.decompose_reduction(block, k)
    *_, row, column = sch.get_loops(copy)
    sch.vectorize(column)
    sch.unroll(row)


@right("2.4")
def register_tile_decomposed_early(sch):
    # The zeroing gets its kinds one by one, since it was made before the tile had them.
    block = sch.get_sblock("C")
    *outer, k, ii, _ = sch.get_loops(block)
    copy = sch.cache_write(block, 0, "local")
    zero = sch.decompose_reduction(block, k)
    sch.reverse_compute_at(copy, outer[-1])
    *_, row, column = sch.get_loops(copy)
    sch.vectorize(column)
    for rows in (row, ii, sch.get_loops(zero)[-2]):
        sch.unroll(rows)


@right("2.4")
def register_tile_with_four_steps_of_k_at_a_time(sch):
    block = sch.get_sblock("C")
    *outer, k, ii, _ = sch.get_loops(block)
    if int(sch.get(k).extent) % 4 == 0:
        k, four = sch.split(k, [None, 4])
        sch.unroll(four)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, outer[-1])
    *_, row, column = sch.get_loops(copy)
    sch.unroll(row)
    sch.vectorize(column)
    sch.unroll(ii)
    sch.decompose_reduction(block, k)


def register_tile_but(
    sch,
    scope="local",
    copy_at=lambda outer, k, ii: outer[-1],
    decompose_at=lambda outer, k: k,
    copy_kinds=("unroll", "vectorize"),
    tile_kind="unroll",
):
    """The reference, with one thing changed."""
    block = sch.get_sblock("C")
    *outer, k, ii, _ = sch.get_loops(block)
    copy = sch.cache_write(block, 0, scope)
    if copy_at is not None:
        sch.reverse_compute_at(copy, copy_at(outer, k, ii))
    for loop, kind in zip(sch.get_loops(copy)[-2:], copy_kinds, strict=True):
        if kind:
            getattr(sch, kind)(loop)
    if tile_kind:
        getattr(sch, tile_kind)(ii)
    if decompose_at is not None:
        sch.decompose_reduction(block, decompose_at(outer, k))


@wrong("2.4", "the loop nest is what it was before", hint="Which object do your")
def register_tile_of_nothing(sch):
    sch.get_sblock("C")


@wrong("2.4", 'still kept in a "global" buffer', hint="While k runs, the sum")
def register_tile_in_memory(sch):
    register_tile_but(sch, scope="global")


@wrong("2.4", 'still kept in a "shared" buffer', hint="While k runs, the sum")
def register_tile_in_shared_memory(sch):
    register_tile_but(sch, scope="shared")


@wrong("2.4", 'Registers are "local" in TVM')
def register_tile_in_the_register_scope(sch):
    register_tile_but(sch, scope="register")


@wrong("2.4", "still kept in C itself", hint="While k runs, the sum")
def register_tile_without_a_buffer(sch):
    block = sch.get_sblock("C")
    *_, k, ii, _ = sch.get_loops(block)
    sch.unroll(ii)
    sch.decompose_reduction(block, k)


@wrong("2.4", "The copy to C stands after all the loops", hint="A tile may leave the")
def register_tile_with_the_copy_left_behind(sch):
    register_tile_but(sch, copy_at=None)


@wrong("2.4", "The copy to C stands in loop j_0, outside of i_0_1", hint="A tile may leave the")
def register_tile_with_the_copy_in_jo(sch):
    register_tile_but(sch, copy_at=lambda outer, k, ii: outer[1])


@wrong("2.4", "The copy to C stands inside of k", hint="A tile may leave the")
def register_tile_with_the_copy_in_k(sch):
    register_tile_but(sch, copy_at=lambda outer, k, ii: k)


@wrong("2.4", "made: reverse_compute_at", hint="cache_write returned a")
def register_tile_with_compute_at(sch):
    block = sch.get_sblock("C")
    *outer, _, _, _ = sch.get_loops(block)
    sch.compute_at(sch.cache_write(block, 0, "local"), outer[-1])


@wrong("2.4", "The block to be moved is the copy", hint="cache_write returned a")
def register_tile_moving_the_product(sch):
    block = sch.get_sblock("C")
    *outer, _, _, _ = sch.get_loops(block)
    sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(block, outer[-1])


@wrong("2.4", "The zeroing `if k == 0` is still tested", hint="Each sum starts at 0")
def register_tile_without_decompose(sch):
    register_tile_but(sch, decompose_at=None)


@wrong("2.4", "The zeroing stands in loop j_0, before i_0_1", hint="Each sum starts at 0")
def register_tile_decomposed_at_io(sch):
    register_tile_but(sch, decompose_at=lambda outer, k: outer[-1])


@wrong("2.4", "The zeroing stands before i_0_0", hint="Each sum starts at 0")
def register_tile_decomposed_at_the_slab(sch):
    register_tile_but(sch, decompose_at=lambda outer, k: outer[0])


@wrong("2.4", "for every k the sum would start again from 0", hint="Each sum starts at 0")
def register_tile_decomposed_at_ii(sch):
    block = sch.get_sblock("C")
    *_, ii, _ = sch.get_loops(block)
    sch.cache_write(block, 0, "local")
    sch.decompose_reduction(block, ii)


@wrong("2.4", "The loops of the zeroing are serial and vectorized", hint="Mind the order of the")
def register_tile_decomposed_before_unrolling(sch):
    block = sch.get_sblock("C")
    *outer, k, ii, _ = sch.get_loops(block)
    copy = sch.cache_write(block, 0, "local")
    sch.decompose_reduction(block, k)
    sch.reverse_compute_at(copy, outer[-1])
    *_, row, column = sch.get_loops(copy)
    sch.unroll(row)
    sch.vectorize(column)
    sch.unroll(ii)


@wrong("2.4", "cache_write comes before decompose_reduction", hint="Mind the order of the")
def register_tile_decomposed_before_caching(sch):
    block = sch.get_sblock("C")
    *_, k, _, _ = sch.get_loops(block)
    sch.decompose_reduction(block, k)
    sch.cache_write(block, 0, "local")


@wrong("2.4", 'no block named "C" now, only "C_init", "C_update"', hint="Mind the order of the")
def register_tile_looking_for_the_block_too_late(sch):
    *_, k, _, _ = loops(sch)
    sch.decompose_reduction(sch.get_sblock("C"), k)
    sch.cache_write(sch.get_sblock("C"), 0, "local")


@wrong("2.4", "The rows of the tile (loop i_1) are not unrolled", hint="A register is chosen")
def register_tile_without_unroll(sch):
    register_tile_but(sch, tile_kind=None)


@wrong("2.4", "its 40 iterations would be written out", hint="Of the loops that are")
def register_tile_with_k_unrolled(sch):
    sch.unroll(loops(sch)[-3])
    register_tile_but(sch)


@wrong("2.4", "Loop j_1 is unrolled, no longer vectorized", hint="Of the loops that are")
def register_tile_with_everything_unrolled(sch):
    sch.unroll(loops(sch)[-1])
    register_tile_but(sch)


@wrong("2.4", "The innermost loop of the copy to C (ax1) is serial", hint="The copy has the same")
def register_tile_with_a_serial_copy(sch):
    register_tile_but(sch, copy_kinds=(None, None))


@wrong("2.4", "The rows of the copy to C (loop ax0) are serial", hint="The copy has the same")
def register_tile_with_a_copy_that_is_not_unrolled(sch):
    register_tile_but(sch, copy_kinds=(None, "vectorize"))


@wrong("2.4", "expected two, as the tile has", hint="The copy has the same")
def register_tile_with_a_fused_copy(sch):
    register_tile_but(sch, copy_kinds=(None, None))
    copy = sch.get_sblock("C_local" if "C_pad" not in str(sch.mod) else "C_pad_local")
    sch.vectorize(sch.fuse(*sch.get_loops(copy)[-2:]))


@wrong("2.4", "there is another new buffer, C_global", hint="How many copies did you")
def register_tile_and_one_more_buffer(sch):
    sch.cache_write(sch.get_sblock("C"), 0, "global")
    register_tile_but(sch)


@wrong("2.4", "around the tile, only the outermost loop has a kind", hint="Of the loops that are")
def register_tile_with_jo_parallel_too(sch):
    sch.parallel(loops(sch)[1])
    register_tile_but(sch)


@wrong("2.4", "no longer parallel", hint="Of the loops that are")
def register_tile_by_one_thread(sch):
    slab, jo, *_ = loops(sch)
    sch.fuse(slab, jo)  # makes a new loop, which is serial
    register_tile_but(sch)


@wrong("2.4", "2.3 may also have fused slab and jo")
def register_tile_for_six_loops_only(sch):
    _, _, io, _, _, _ = loops(sch)
    register_tile_but(sch, copy_at=lambda outer, k, ii: io)


@wrong("2.4", "block C writes 1 buffer(s), counted from 0; there is no number 1")
def register_tile_of_buffer_number_one(sch):
    sch.cache_write(sch.get_sblock("C"), 1, "local")


# ----------------------------------------------------------------------------------------- 2.5 pack


@right("2.5")
def pack_by_the_write_side_of_the_copy(sch, columns):
    copy = sch.cache_read(sch.get_sblock("C_update"), 2, "global")
    sch.transform_layout(copy, ("write", 0), lambda k, j: (j // columns, k, j % columns))
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [None, columns])
    sch.reorder(panel, k)
    sch.vectorize(column)
    sch.parallel(panel)


@right("2.5")
def pack_loops_first_layout_last(sch, columns):
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    k, j = sch.get_loops(copy)
    sch.reorder(j, k)
    panel, column = sch.split(j, [None, columns])
    sch.reorder(k, column)
    sch.parallel(panel)
    sch.vectorize(column)
    sch.transform_layout(
        product, "B_global" if _has_buffer(sch, "B_global") else "B_pad_global", _panels(columns)
    )


@right("2.5")
def pack_by_transforming_the_copy_itself(sch, columns):
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), lambda k, j: [j // columns, k, j % columns])
    sch.transform_block_layout(copy, lambda k, j: (j // columns, k, j % columns))
    panel, _, column = sch.get_loops(copy)
    sch.parallel(panel)
    sch.vectorize(column)


def _panels(columns):
    return lambda k, j: (j // columns, k, j % columns)


def _has_buffer(sch, name):
    return any(region.source.name == name for region in sch.get(sch.get_sblock("C_update")).reads)


def pack_but(
    sch,
    columns,
    layout=_panels,
    number=2,
    scope="global",
    order=("panel", "k", "column"),
    kinds=(("panel", "parallel"), ("column", "vectorize")),
):
    """The reference, with one thing changed."""
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, number, scope)
    if layout is not None:
        sch.transform_layout(product, ("read", number), layout(columns))
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [None, columns])
    named = {"panel": panel, "k": k, "column": column}
    sch.reorder(*(named[name] for name in order))
    for name, kind in kinds:
        getattr(sch, kind)(named[name])


@wrong("2.5", "the loop nest is what it was before", hint="Which object do your")
def pack_nothing(sch, columns):
    sch.get_sblock("C_update")


@wrong(
    "2.5",
    "C_update now reads A from a copy, A_global, and B as it lies",
    hint="cache_read counts what",
)
def pack_a(sch, columns):
    copy = sch.cache_read(sch.get_sblock("C_update"), 1, "global")
    row, _ = sch.get_loops(copy)
    sch.parallel(row)


@wrong("2.5", "C_local is written by 2 blocks", hint="cache_read counts what")
def pack_the_sum(sch, columns):
    pack_but(sch, columns, number=0)


@wrong(
    "2.5",
    "block C_update reads 3 buffer(s), counted from 0; there is no number 3",
    hint="cache_read counts what",
)
def pack_counting_from_one(sch, columns):
    pack_but(sch, columns, number=3)


@wrong("2.5", 'no block named "C" now')
def pack_for_the_block_c(sch, columns):
    sch.cache_read(sch.get_sblock("C"), 2, "global")


@wrong("2.5", 'B_local is in scope "local"', hint="How large is all of B")
def pack_into_registers(sch, columns):
    pack_but(sch, columns, scope="local")


@wrong("2.5", "changed the shape of B itself", hint="Which buffer is yours")
def pack_b_where_it_lies(sch, columns):
    sch.transform_layout(sch.get_sblock("C_update"), ("read", 2), _panels(columns))


@wrong("2.5", "transform_layout is missing", hint="The lambda gives each")
def pack_in_the_same_layout(sch, columns):
    pack_but(sch, columns, layout=None)


@wrong("2.5", "kept at B_global[k, j //", hint="The lambda gives each")
def pack_with_k_outside(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (k, j // columns, j % columns))


@wrong("2.5", ", k]; expected [j //", hint="The lambda gives each")
def pack_transposed(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (j // columns, j % columns, k))


@wrong("2.5", "kept at B_global[j, k];", hint="The lambda gives each")
def pack_as_a_plain_transpose(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (j, k))


@wrong("2.5", "kept at B_global[j % 3, k, j // 3]", hint="The lambda gives each")
def pack_every_third_column_together(sch, columns):
    # The shape is right; but the columns of a panel are not neighbours in B.
    panels = int(sch.get(sch.get_sblock("C_update")).reads[2].source.shape[1]) // columns
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (j % panels, k, j // panels))


@wrong("2.5", "kept at B_global[k // ", hint="The lambda gives each")
def pack_rows_instead_of_columns(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (k // 8, j, k % 8))


@wrong("2.5", "take the argument columns", hint="The check calls the body")
def pack_with_the_columns_of_this_machine(sch, columns):
    from tvm_practice.common.target import register_tile

    pack_but(sch, register_tile()[1])


@wrong("2.5", "which has room for more elements than there are")
def pack_panels_of_a_width_that_does_not_divide(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (j // 36, k, j % 36))


@wrong(
    "2.5",
    "TVM does not check that the lambda keeps all elements apart",
    hint="The lambda gives each",
)
def pack_without_the_column(sch, columns):
    # The columns of a panel lie on top of each other: TVM accepts it, and computes something else.
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (j // columns, k))


@wrong("2.5", "the lambda must take one index for each dimension", hint="The lambda gives each")
def pack_with_a_lambda_of_three(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda panel, k, column: (panel, k, column))


@wrong("2.5", "indices are divided with `//`")
def pack_with_a_true_division(sch, columns):
    pack_but(sch, columns, layout=lambda columns: lambda k, j: (j / columns, k, j % columns))


def _pack_in(sch, columns, number):
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), _panels(columns))
    sch.compute_at(copy, sch.get_loops(product)[number])


@wrong("2.5", "The copy stands inside of i_0", hint="B is packed once and")
def pack_again_for_every_row_of_tiles(sch, columns):
    _pack_in(sch, columns, 0)


@wrong("2.5", "The copy stands inside of j_0", hint="B is packed once and")
def pack_again_for_every_tile(sch, columns):
    _pack_in(sch, columns, 1)


@wrong("2.5", "The copy stands inside of k", hint="B is packed once and")
def pack_again_for_every_k(sch, columns):
    _pack_in(sch, columns, 3)


@wrong("2.5", "it still runs through B row by row", hint="The copy should write")
def pack_with_the_loops_left_alone(sch, columns):
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), _panels(columns))
    k, j = sch.get_loops(copy)
    sch.parallel(k)
    sch.vectorize(j)


@wrong("2.5", "j is split, but k is still outside of the panel", hint="The copy should write")
def pack_without_reorder(sch, columns):
    pack_but(sch, columns, order=("k", "panel", "column"))


@wrong("2.5", "The copy's loops ax1_0, ax1_1, ax0 have extents", hint="The copy should write")
def pack_with_k_innermost(sch, columns):
    pack_but(
        sch,
        columns,
        order=("panel", "column", "k"),
        kinds=(("panel", "parallel"), ("k", "vectorize")),
    )


@wrong("2.5", "The copy's loops ax1_0, ax0, ax1_1 have extents", hint="The copy should write")
def pack_with_the_split_turned_round(sch, columns):
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), _panels(columns))
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [columns, None])
    sch.reorder(panel, k, column)
    sch.parallel(panel)
    sch.vectorize(column)


@wrong("2.5", "The copy's loops ax1_1, ax0, ax1_0 have extents", hint="The copy should write")
def pack_with_split_and_result_turned_round(sch, columns):
    # Extents as expected; but the vectors gather every third column and scatter them.
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), _panels(columns))
    k, j = sch.get_loops(copy)
    column, panel = sch.split(j, [columns, None])
    sch.reorder(panel, k, column)
    sch.parallel(panel)
    sch.vectorize(column)


@wrong(
    "2.5",
    "The copy's innermost loop ax1_1, along a row of B and of the panel, is serial",
    hint="The three loops of the",
)
def pack_without_vectors(sch, columns):
    pack_but(sch, columns, kinds=(("panel", "parallel"),))


@wrong("2.5", "The copy is done by one thread alone", hint="The three loops of the")
def pack_by_one_thread(sch, columns):
    pack_but(sch, columns, kinds=(("column", "vectorize"),))


@wrong("2.5", "Loop ax0 of the copy is parallel", hint="The three loops of the")
def pack_with_k_parallel(sch, columns):
    pack_but(sch, columns, kinds=(("k", "parallel"), ("column", "vectorize")))


@wrong("2.5", "Loop ax0 of the copy is unrolled", hint="The three loops of the")
def pack_with_k_unrolled(sch, columns):
    pack_but(sch, columns, kinds=(("panel", "parallel"), ("k", "unroll"), ("column", "vectorize")))


@wrong(
    "2.5",
    "or the layout of its result, are not as 2.4 left them: now i_0_0, j_0, i_0_1, k, i_1",
    hint="The product has loops",
)
def pack_the_register_tile_too(sch, columns):
    pack_but(sch, columns)
    sch.transform_layout(sch.get_sblock("C_update"), ("write", 0), lambda i, j: (j, i))


@wrong("2.5", "k is unrolled, i_1 is unrolled", hint="The product has loops")
def pack_and_unroll_k(sch, columns):
    pack_but(sch, columns)
    sch.unroll(sch.get_loops(sch.get_sblock("C_update"))[3])


# ----------------------------------------------------------------------------------------- 2.6 bind

AXES = ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")


def bind_as(sch, threads, each, axes=AXES, order=(0, 1, 2, 3, 4, 5, 6)):
    """The reference, with other axes or another order of by, bx, ty, tx, k, yi, xi."""
    i, j, k = loops(sch)
    by, ty, yi = sch.split(i, [None, threads[0], each[0]])
    bx, tx, xi = sch.split(j, [None, threads[1], each[1]])
    seven = (by, bx, ty, tx, k, yi, xi)
    sch.reorder(*(seven[n] for n in order))
    for loop, axis in zip((by, bx, ty, tx), axes, strict=True):
        if axis:
            sch.bind(loop, axis)


@right("2.6")
def bind_with_two_splits_each(sch, threads, each):
    i, j, k = loops(sch)
    by, i = sch.split(i, [None, threads[0] * each[0]])
    ty, yi = sch.split(i, [threads[0], None])
    bx, j = sch.split(j, [None, threads[1] * each[1]])
    tx, xi = sch.split(j, [threads[1], None])
    sch.reorder(by, bx, ty, tx, k, yi, xi)
    for loop, axis in zip((by, bx, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@right("2.6")
def bind_before_the_reorder(sch, threads, each):
    i, j, k = loops(sch)
    by, ty, yi = sch.split(i, [None, *(pair[0] for pair in (threads, each))])
    bx, tx, xi = sch.split(j, [None, *(pair[1] for pair in (threads, each))])
    for loop, axis in zip((by, bx, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)
    sch.reorder(by, bx, ty, tx, k, yi, xi)


@wrong(
    "2.6", "and none is bound: TVM would make a function for the CPU", hint="Four axes want a loop"
)
def bind_nothing(sch, threads, each):
    bind_as(sch, threads, each, axes=(None,) * 4)


@wrong("2.6", "threadIdx.x runs along i, down a column", hint="Neighbours in x run side")
def bind_x_to_the_rows(sch, threads, each):
    bind_as(sch, threads, each, axes=("blockIdx.y", "blockIdx.x", "threadIdx.x", "threadIdx.y"))


@wrong("2.6", "blockIdx.x runs along i and blockIdx.y along j", hint="Neighbours in x run side")
def bind_the_blocks_the_other_way(sch, threads, each):
    bind_as(sch, threads, each, axes=("blockIdx.x", "blockIdx.y", "threadIdx.y", "threadIdx.x"))


@wrong("2.6", "nothing is bound to threadIdx.y and threadIdx.x", hint="Four axes want a loop")
def bind_blocks_alone(sch, threads, each):
    bind_as(sch, threads, each, axes=("blockIdx.y", "blockIdx.x", None, None))


@wrong("2.6", "i is split in two, which block and which thread", hint="How many numbers does the")
def bind_without_elements(sch, threads, each):
    i, j, k = loops(sch)
    by, ty = sch.split(i, [None, threads[0]])
    bx, tx = sch.split(j, [None, threads[1]])
    sch.reorder(by, bx, ty, tx, k)
    for loop, axis in zip((by, bx, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@wrong("2.6", "2 names on the left, and sch.split makes 3 loops, one for each place in its list")
def bind_with_too_few_names(sch, threads, each):
    i, _, _ = loops(sch)
    by, ty = sch.split(i, [None, threads[0], each[0]])
    sch.reorder(by, ty)


@wrong("2.6", "as the splits left them", hint="Name your loops in the order")
def bind_without_reorder(sch, threads, each):
    bind_as(sch, threads, each, order=(0, 2, 5, 1, 3, 6, 4))


@wrong("2.6", "a thread's own rows and columns yi, xi, inside of k", hint="Each thread keeps its")
def bind_with_k_innermost(sch, threads, each):
    bind_as(sch, threads, each, order=(0, 1, 2, 3, 5, 6, 4))


@wrong("2.6", "Are the two swapped?", hint="Read each split from")
def bind_with_swapped_threads(sch, threads, each):
    bind_as(sch, threads[::-1], each)


@wrong("2.6", "counts blocks, the middle one threads", hint="from the outside to the inside")
def bind_with_threads_outside_of_blocks(sch, threads, each):
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    ty, by, yi = sch.split(i, [None, threads[0], each[0]])
    tx, bx, xi = sch.split(j, [None, threads[1], each[1]])
    sch.reorder(by, bx, ty, tx, k, yi, xi)
    for loop, axis in ((by, "blockIdx.y"), (bx, "blockIdx.x"), (ty, "threadIdx.y")):
        sch.bind(loop, axis)
    sch.bind(tx, "threadIdx.x")


@wrong(
    "2.6",
    "The list of sch.split goes from the outer extent to the inner",
    hint="Read each split from",
)
def bind_with_the_lists_turned_round(sch, threads, each):
    i, j, k = loops(sch)
    by, ty, yi = sch.split(i, [threads[0], None, each[0]])
    bx, tx, xi = sch.split(j, [threads[1], None, each[1]])
    sch.reorder(by, bx, ty, tx, k, yi, xi)
    for loop, axis in zip((by, bx, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@wrong("2.6", "Consecutive elements of a thread lie", hint="Read each split from")
def bind_with_interleaved_elements(sch, threads, each):
    i, j, k = loops(sch)
    by, ty, yi = sch.split(i, [None, threads[0], each[0]])
    bx, xi, tx = sch.split(j, [None, each[1], threads[1]])
    sch.reorder(by, bx, ty, tx, k, yi, xi)
    for loop, axis in zip((by, bx, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


@wrong("2.6", "Two loops are bound to threadIdx.x", hint="Each axis takes one loop")
def bind_two_loops_to_one_axis(sch, threads, each):
    bind_as(sch, threads, each, axes=("blockIdx.y", "blockIdx.x", "threadIdx.x", "threadIdx.x"))


@wrong(
    "2.6",
    "threads at the same time would add to the same element of C",
    hint="Each thread has elements",
)
def bind_k(sch, threads, each):
    i, j, k = loops(sch)
    by, ty, yi = sch.split(i, [None, threads[0], each[0]])
    bx, xi = sch.split(j, [None, each[1]])
    ko, tx = sch.split(k, [None, 8])
    sch.reorder(by, bx, ty, tx, ko, yi, xi)
    for loop, axis in zip((by, bx, ty, tx), AXES, strict=True):
        sch.bind(loop, axis)


# ---------------------------------------------------------------------------------------- 2.7 share


def share_but(
    sch,
    depth,
    width,
    scope="shared",
    at="ko",
    numbers=(0, 1),
    axes=("threadIdx.y", "threadIdx.x"),
    vectors=True,
    unit_loops=False,
    columns_outside=False,
):
    """The reference, with one thing changed."""
    block = sch.get_sblock("C")
    *_, ty, tx, k, _, _ = loops(sch)
    rows, columns = sch.get(ty).extent, sch.get(tx).extent
    ko, ki = sch.split(k, [None, depth]) if at != "k" else (k, k)
    where = {"k": k, "ko": ko, "ki": ki, "tx": tx}[at]
    for number in numbers:
        copy = sch.cache_read(block, number, scope)
        sch.compute_at(copy, where, preserve_unit_loops=unit_loops)
        row, column = sch.get_loops(copy)[-2:]
        if columns_outside:
            sch.reorder(column, row)
            row, column = column, row
        piece = sch.fuse(row, column)
        _, y, x, lane = sch.split(piece, [None, rows, columns, width])
        for loop, axis in zip((y, x), axes, strict=True):
            if axis:
                sch.bind(loop, axis)
        if vectors:
            sch.vectorize(lane)


@right("2.7")
def share_b_first(sch, depth, width):
    share_but(sch, depth, width, numbers=(1, 0))


@right("2.7")
def share_with_three_splits(sch, depth, width):
    block = sch.get_sblock("C")
    *_, ty, tx, k, _, _ = loops(sch)
    rows, columns = int(sch.get(ty).extent), int(sch.get(tx).extent)
    ko, _ = sch.split(k, factors=[None, depth])
    for number in (0, 1):
        copy = sch.cache_read(block, number, "shared")
        sch.compute_at(copy, ko, preserve_unit_loops=True)
        first, second = sch.get_loops(copy)[-2:]
        piece = sch.fuse(first, second)
        rest, lane = sch.split(piece, [None, width])
        rest, x = sch.split(rest, [None, columns])
        _, y = sch.split(rest, [None, rows])
        sch.vectorize(lane)
        sch.bind(x, "threadIdx.x")
        sch.bind(y, "threadIdx.y")


@wrong(
    "2.7", "of which each thread has its own: nothing is shared", hint="What all of a block read"
)
def share_in_registers(sch, depth, width):
    share_but(sch, depth, width, scope="local", unit_loops=True)


@wrong("2.7", 'to read the copy takes as long; expected "shared"', hint="What all of a block read")
def share_in_global_memory(sch, depth, width):
    share_but(sch, depth, width, scope="global", unit_loops=True)


@wrong("2.7", 'further up. A_local is in "local" memory', hint="What all of a block read")
def share_in_registers_of_one_loop(sch, depth, width):
    share_but(sch, depth, width, scope="local")


@wrong("2.7", 'further up. A_global is in "global" memory', hint="What all of a block read")
def share_in_global_memory_of_one_loop(sch, depth, width):
    share_but(sch, depth, width, scope="global")


@wrong(
    "2.7",
    'The copy of A is in "shared.dyn" memory; expected "shared"',
    hint="What all of a block read",
)
def share_in_a_scope_of_unknown_size(sch, depth, width):
    share_but(sch, depth, width, scope="shared.dyn")


@wrong("2.7", "compute_at has put A_shared into k_1, which is ki", hint="A piece is `depth` values")
def share_a_column_for_every_k(sch, depth, width):
    share_but(sch, depth, width, at="ki")


@wrong(
    "2.7",
    "Split k by depth first; the copy belongs into the outer part",
    hint="A piece is `depth` values",
)
def share_a_column_of_an_unsplit_k(sch, depth, width):
    share_but(sch, depth, width, at="k")


@wrong("2.7", "the piece is copied column by column", hint="Read the copy from the")
def share_column_by_column(sch, depth, width):
    share_but(sch, depth, width, columns_outside=True)


@wrong("2.7", "ax0 does not stand directly in ax1. If ax1 stands in ax0, give them in the other")
def share_fused_from_the_inside(sch, depth, width):
    ko, _ = sch.split(loops(sch)[4], [None, depth])
    copy = sch.cache_read(sch.get_sblock("C"), 0, "shared")
    sch.compute_at(copy, ko)
    *_, row, column = sch.get_loops(copy)
    sch.fuse(column, row)


@wrong("2.7", "its own are the last ones")
def share_with_the_loops_around_it_fused_too(sch, depth, width):
    ko, _ = sch.split(loops(sch)[4], [None, depth])
    copy = sch.cache_read(sch.get_sblock("C"), 0, "shared")
    sch.compute_at(copy, ko)
    sch.fuse(*sch.get_loops(copy))


@wrong("2.7", "are bound to no thread: each of the", hint="The elements of a piece")
def share_by_every_thread(sch, depth, width):
    share_but(sch, depth, width, axes=(None, None))


@wrong(
    "2.7",
    "not bound to threadIdx.y: threads that differ only there",
    hint="The elements of a piece",
)
def share_along_x_alone(sch, depth, width):
    share_but(sch, depth, width, axes=(None, "threadIdx.x"))


@wrong("2.7", "The product still reads B itself", hint="What all of a block read")
def share_a_alone(sch, depth, width):
    share_but(sch, depth, width, numbers=(0,))


@wrong(
    "2.7", "for every single k; it should be once for every piece", hint="A piece is `depth` values"
)
def share_for_every_k(sch, depth, width):
    share_but(sch, depth, width, at="ki", vectors=False, unit_loops=True)


@wrong("2.7", "the loop over pieces", hint="A piece is `depth` values")
def share_the_whole_length_of_k(sch, depth, width):
    share_but(sch, depth, width, at="tx")


@wrong("2.7", "is filled one element at a time", hint="Read the copy from the")
def share_one_element_at_a_time(sch, depth, width):
    share_but(sch, depth, width, vectors=False)


@wrong("2.7", "k is not split", hint="A piece is `depth` values")
def share_without_pieces(sch, depth, width):
    for number in (0, 1):
        sch.compute_at(sch.cache_read(sch.get_sblock("C"), number, "shared"), loops(sch)[3])


@wrong("2.7", "The two axes are exchanged", hint="The elements of a piece")
def share_with_exchanged_axes(sch, depth, width):
    share_but(sch, depth, width, axes=("threadIdx.x", "threadIdx.y"))


@wrong("2.7", "but the block has", hint="The elements of a piece")
def share_with_other_threads(sch, depth, width):
    block = sch.get_sblock("C")
    ko, _ = sch.split(loops(sch)[4], [None, depth])
    for number in (0, 1):
        copy = sch.cache_read(block, number, "shared")
        sch.compute_at(copy, ko)
        piece = sch.fuse(*sch.get_loops(copy)[-2:])
        _, y, x, lane = sch.split(piece, [None, 4, 4, width])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)


def share_split(sch, depth, width, split):
    """The reference, with the places of the piece dealt out by `split(piece, y, x)`, which returns
    the loops for y, for x and for the lanes."""
    block = sch.get_sblock("C")
    *_, ty, tx, k, _, _ = loops(sch)
    rows, columns = (int(sch.get(loop).extent) for loop in (ty, tx))
    ko, _ = sch.split(k, [None, depth])
    for number in (0, 1):
        copy = sch.cache_read(block, number, "shared")
        sch.compute_at(copy, ko)
        y, x, lane = split(sch.fuse(*sch.get_loops(copy)[-2:]), rows, columns)
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)


@wrong(
    "2.7",
    "In the loops that copy A, threadIdx.x stands outside of threadIdx.y",
    hint="Read the copy from the",
)
def share_with_x_outside(sch, depth, width):
    def split(piece, rows, columns):
        _, x, y, lane = sch.split(piece, [None, columns, rows, width])
        return y, x, lane

    share_split(sch, depth, width, split)


@wrong("2.7", "Each thread copies a run of A of its own", hint="Read the copy from the")
def share_in_runs(sch, depth, width):
    def split(piece, rows, columns):
        y, x, _, lane = sch.split(piece, [rows, columns, None, width])
        return y, x, lane

    share_split(sch, depth, width, split)


# ---------------------------------------------------------------------------------- 2.8 thread_tile


def thread_tile_but(
    sch,
    numbers=(0, 1),
    at="ki",
    zero_at="ko",
    stores=True,
    rolled=(),
    vectorized=True,
    also=lambda sch, ko, xi: None,
):
    """The reference, with one thing changed. rolled: which loops are left as they are, of ki, a,
    b, yi, xi; also: what is done to other loops before the zeroing is taken apart."""
    block = sch.get_sblock("C")
    *_, ko, ki, yi, xi = loops(sch)
    unrolled = {"ki": [ki], "yi": [yi], "xi": [xi]}
    for number in numbers:
        read = sch.cache_read(block, number, "local")
        if at != "ko":  # ko is where cache_read leaves it
            sch.compute_at(read, {"ki": ki, "xi": xi}[at], preserve_unit_loops=True)
        *_, row, column = sch.get_loops(read)
        unrolled["ab"[number]] = [row, column]
        if number == 1 and vectorized:
            unrolled["b"] = [row]
            sch.vectorize(column)
    for name, some in unrolled.items():
        for loop in some if name not in rolled else ():
            sch.unroll(loop)
    if stores:
        sch.unroll(loops(sch, "C_local")[-2])
        sch.vectorize(loops(sch, "C_local")[-1])
    also(sch, ko, xi)
    if zero_at:
        sch.decompose_reduction(block, {"ko": ko, "ki": ki}[zero_at])


@right("2.8")
def thread_tile_reads_b_first(sch):
    thread_tile_but(sch, numbers=(1, 0))


@right("2.8")
def thread_tile_with_a_copied_row_by_row(sch):
    # Inside of yi a row's one element of A is loaded: as many loads, and the same code, unrolled.
    block = sch.get_sblock("C")
    *_, ko, ki, yi, xi = loops(sch)
    a, b = (sch.cache_read(block, number, "local") for number in (0, 1))
    sch.compute_at(b, ki)
    sch.compute_at(a, yi)
    sch.vectorize(loops(sch, "B_shared_local")[-1])
    for loop in (ki, yi, xi, loops(sch, "C_local")[-2]):
        sch.unroll(loop)
    sch.vectorize(loops(sch, "C_local")[-1])
    sch.decompose_reduction(block, ko)


@wrong("2.8", "it runs down a column of A_shared, whose elements lie a row apart")
def thread_tile_with_a_in_vectors_of_two(sch):
    def vectors(sch, ko, xi):
        rows, lane = sch.split(loops(sch, "A_shared_local")[6], [None, 2])
        sch.unroll(rows)
        sch.vectorize(lane)

    thread_tile_but(sch, rolled=("a",), also=vectors)


@wrong("2.8", "is unrolled: the whole piece, its fetch and its barriers")
def thread_tile_with_all_pieces_written_out(sch):
    thread_tile_but(sch, also=lambda sch, ko, xi: sch.unroll(ko))


@wrong("2.8", "vector instructions to load and store, none to multiply")
def thread_tile_multiplied_in_vectors(sch):
    thread_tile_but(sch, rolled=("xi",), also=lambda sch, ko, xi: sch.vectorize(xi))


@wrong("2.8", "each k costs a count, a test and a jump of its own", hint="A register is chosen")
def thread_tile_with_ki_as_a_loop(sch):
    thread_tile_but(sch, rolled=("ki",))


@wrong("2.8", "which fills the registers for A_shared, is serial", hint="A register is chosen")
def thread_tile_with_a_counted(sch):
    thread_tile_but(sch, rolled=("a",))


@wrong("2.8", "2 neighbours are loaded by 2 instructions", hint="Neighbours in memory")
def thread_tile_with_b_one_by_one(sch):
    thread_tile_but(sch, vectorized=False)


@wrong("2.8", "3 things are left", hint="Take them one at a time")
def thread_tile_with_copies_as_they_come(sch):
    thread_tile_but(sch, rolled=("ki", "a", "b"), vectorized=False)


@wrong("2.8", "of which only 6 are different", hint="For one k a thread needs")
def thread_tile_copied_for_every_element(sch):
    thread_tile_but(sch, at="xi")


@wrong("2.8", "neighbours leave the registers one at a time", hint="Neighbours in memory")
def thread_tile_stored_one_by_one(sch):
    thread_tile_but(sch, stores=False)


@wrong(
    "2.8",
    "the 6 x 2 elements of a thread cost 12 loads of it for every k, of which 2 are",
    hint="How many numbers does",
)
def thread_tile_with_a_alone(sch):
    thread_tile_but(sch, numbers=(0,))


@wrong("2.8", "they would have to hold the whole piece", hint="For one k a thread needs")
def thread_tile_with_whole_pieces(sch):
    thread_tile_but(sch, at="ko")


@wrong("2.8", "Registers have no addresses", hint="A register is chosen")
def thread_tile_rolled(sch):
    thread_tile_but(sch, rolled=("ki", "a", "yi", "xi"))


@wrong("2.8", "for every k the sum would start again from 0", hint="Each sum starts at 0")
def thread_tile_zeroed_in_each_piece(sch):
    thread_tile_but(sch, zero_at="ki")


@wrong("2.8", "The zeroing is still inside of the product", hint="Each sum starts at 0")
def thread_tile_zeroed_with_a_test(sch):
    thread_tile_but(sch, zero_at=None)


@wrong(
    "2.8", "counts the rows of the tile in ax0, which is not unrolled", hint="A register is chosen"
)
def thread_tile_with_rows_counted(sch):
    thread_tile_but(sch, stores=False, zero_at=None)
    sch.vectorize(loops(sch, "C_local")[-1])
    sch.decompose_reduction(sch.get_sblock("C"), loops(sch)[4])


# ------------------------------------------------------------------------------------- 2.9 pipeline


def pipeline_as(sch, stage, order):
    *_, ko, _, _, _ = loops(sch, "C_update")
    if stage is not None:
        sch.annotate(ko, "software_pipeline_stage", stage)
    if order is not None:
        sch.annotate(ko, "software_pipeline_order", order)


@right("2.9")
def pipeline_with_b_loaded_first(sch):
    pipeline_as(sch, [0, 0, 0, 0, 1], [1, 3, 0, 4, 2])


@right("2.9")
def pipeline_with_b_stored_first(sch):
    pipeline_as(sch, [0, 0, 0, 0, 1], [0, 4, 1, 3, 2])


@wrong("2.9", "has no annotation software_pipeline_stage", hint="Write the five blocks")
def pipeline_without_stages(sch):
    pipeline_as(sch, None, [0, 3, 1, 4, 2])


@wrong("2.9", "has no annotation software_pipeline_order", hint="Write the five blocks")
def pipeline_without_order(sch):
    pipeline_as(sch, [0, 0, 0, 0, 1], None)


@wrong("2.9", "the lists have 3 and 3 numbers", hint="Write the five blocks")
def pipeline_of_three(sch):
    pipeline_as(sch, [0, 0, 1], [0, 1, 2])


@wrong("2.9", "nothing overlaps", hint="One of the five works")
def pipeline_in_one_stage(sch):
    pipeline_as(sch, [0, 0, 0, 0, 0], [0, 3, 1, 4, 2])


@wrong("2.9", "A store comes before the multiplication", hint="The places 0 to 4 are")
def pipeline_in_the_order_of_the_text(sch):
    pipeline_as(sch, [0, 0, 0, 0, 1], [0, 1, 2, 3, 4])


@wrong("2.9", "A load comes after the multiplication", hint="The places 0 to 4 are")
def pipeline_multiplies_first(sch):
    pipeline_as(sch, [0, 0, 0, 0, 1], [1, 3, 2, 4, 0])


@wrong("2.9", "is no permutation of 0 to 4", hint="The places 0 to 4 are")
def pipeline_with_a_place_twice(sch):
    pipeline_as(sch, [0, 0, 0, 0, 1], [0, 3, 0, 3, 2])


@right("2.9")
def pipeline_with_the_store_a_round_later(sch):
    # The registers are emptied first, then filled again while the piece before is multiplied.
    pipeline_as(sch, [0, 1, 0, 1, 1], [2, 0, 3, 1, 4])


@right("2.9")
def pipeline_of_three_stages(sch):
    pipeline_as(sch, [0, 1, 0, 1, 2], [0, 3, 1, 4, 2])


@wrong("2.9", "a piece is multiplied in the round that loads it", hint="One of the five works")
def pipeline_with_the_multiplication_in_the_first_stage(sch):
    pipeline_as(sch, [1, 1, 0, 0, 1], [0, 1, 2, 3, 4])


@wrong("2.9", "With the stages [1, 0, 1, 0, 0]", hint="Follow one piece through")
def pipeline_with_the_stages_turned_round(sch):
    pipeline_as(sch, [1, 0, 1, 0, 0], [0, 3, 1, 4, 2])


@wrong("2.9", "or multiplied before it is stored", hint="Follow one piece through")
def pipeline_with_the_store_after_its_multiplication(sch):
    pipeline_as(sch, [0, 1, 0, 1, 1], [0, 3, 1, 4, 2])
