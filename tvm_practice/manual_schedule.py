"""Phase 2: schedules, or how to say HOW to compute it.

    python -m tvm_practice.manual_schedule                    run this lesson
    python -m tvm_practice.manual_schedule --hint 2.1         a nudge, when you are stuck
    python -m tvm_practice.manual_schedule --target cuda-sim  the second half, for GPUs

A tensor expression says what C[i, j] is. It leaves open in which order the elements are computed,
by how many threads, how many at a time, and where intermediate values are kept. A schedule decides
that: it takes the program with the default loops and rewrites it, one primitive at a time. Each
primitive keeps the meaning of the program, or is refused. So a schedule can be slow, but hardly
wrong (2.5 meets the one exception of this phase), and you may try anything.

    sch = Schedule(function)            the program, to be rewritten
    block = sch.get_sblock("C")         the computation named "C": the statement, without its loops
    loops = sch.get_loops(block)        the loops around it, from the outermost inwards

    sch.split(loop, [None, 32])         one loop becomes two, the inner of extent 32; returns the
                                        outer, then the inner
    sch.reorder(a, b, c)                these loops stand in this order
    sch.vectorize(loop)                 the whole loop becomes vector instructions
    sch.parallel(loop)                  its iterations are shared out among the threads
    sch.unroll(loop)                    its body is written out for every iteration
    sch.cache_write(block, 0, "local")  the block writes to a small buffer, and a new block copies
                                        that out
    sch.cache_read(block, 1, "global")  a new block copies input number 1 (of 0, 1, ...) to a
                                        buffer, and the block reads that

Loop numbers in TVM's names: splitting i gives i_0 (outer) and i_1 (inner). The prose below calls
them io and ii.

The first five exercises are one ladder. Each step starts where the one before ended, and the phase
times every rung. The last four are a ladder of the same product for a GPU, which need not be there.
"""

from dataclasses import dataclass

from tvm import te
from tvm.s_tir import Schedule

from tvm_practice.common.exercise import GPU, exercise
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.target import register_tile as register_tile_of_this_cpu
from tvm_practice.common.target import slabs_for, threads, vector_unit

# -------------------------------------------------------------------------- worked: vector addition
#
# C[i] = A[i] + B[i] for millions of elements. By default one thread takes one element after the
# other. Three primitives change that. The loop is split in three: pieces that threads share,
# vectors within a piece, lanes within a vector.


def vector_add(n: int) -> Schedule:
    """C = A + B for float32 vectors of length n, with the default loop."""
    A = te.placeholder((n,), name="A")
    B = te.placeholder((n,), name="B")
    C = te.compute((n,), lambda i: A[i] + B[i], name="C")
    return Schedule(te.create_prim_func([A, B, C]))


def schedule_vector_add(sch: Schedule, pieces: int, lanes: int) -> None:
    """Share `pieces` pieces among the threads, and add `lanes` elements at a time."""
    block = sch.get_sblock("C")
    (i,) = sch.get_loops(block)
    piece, _, lane = sch.split(i, [pieces, None, lanes])  # None: whatever is left
    sch.parallel(piece)
    sch.vectorize(lane)


# Run this file and look at the loop nest before and after. Where n is no multiple of pieces *
# lanes, TVM puts a guard around the statement: `split` rounds up, and the guard skips what is
# too much. The result is right for every n.

# ------------------------------------------------------------------------------ the matrix multiply
#
# Now the real thing. This is the expression you wrote in phase 1, and what you start from is its
# default loop nest:
#
#     for i in range(M):
#         for j in range(N):
#             for k in range(K):
#                 C[i, j] += A[i, k] * B[k, j]


def matmul(M: int, N: int, K: int) -> Schedule:
    """C = A @ B in float32 (A is M x K, B is K x N), with the default loops i, j, k around the
    block "C"."""
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return Schedule(te.create_prim_func([A, B, C]))


# The blocking of this ladder: a tile of C, so many rows by so many columns, that fits the vector
# registers of this CPU (8 x 32 where there are 32 registers of 16 floats; `register_tile` in
# common/target.py works it out). Until step 2.4 it is merely a small tile; then you will see why it
# has just this size.

ROWS, COLUMNS = register_tile_of_this_cpu()


# A matrix of 1000 x 517 has no whole number of tiles. A guard around the statement would be right,
# as in the vector addition, but a statement under a guard cannot become one vector instruction. So
# the ladder pads first: it works on copies whose sides are multiples of the tile, filled up with
# zeros, and copies the result back. Where the sides are multiples already, pad_einsum changes
# nothing. (What the copies cost, and how to lose them again, stands after 2.5.)


def pad(sch: Schedule, rows: int = ROWS, columns: int = COLUMNS) -> None:
    """Round the sides of C up to multiples of the tile; the copies this needs are shared among the
    threads."""
    sch.pad_einsum(sch.get_sblock("C"), [rows, columns, 1])
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if sch.get(block).name_hint != "C":
            row, _ = sch.get_loops(block)
            sch.parallel(row)


# --------------------------------------------------------------------------------------- 2.1 tiling
#
# The default order walks down a whole column of B for every single element of C. Consecutive
# elements of a column lie a row apart in memory, so every step touches another cache line (64
# bytes: 16 floats) and uses 4 bytes of it. A column of 1024 elements touches 64 KiB of lines: by
# the time the neighbouring column is wanted, they have left the first-level cache.
#
# Tiling computes a small block of C at a time. Put k outside of the tile: for every k, `rows`
# elements of A and `columns` neighbouring elements of B are loaded, and each is used for a whole
# row or column of the tile. `columns` floats of B lie side by side, in a line or two that are used
# entirely.
#
#     for io, jo:                                 which tile of C
#         for k:                                  for every k ...
#             for ii in range(rows):              ... the tile is updated by a column of A
#                 for ji in range(columns):       times a row of B


@exercise("2.1", "Tile the loop nest")
def tile(sch: Schedule, rows: int, columns: int) -> None:
    """Split i by `rows` and j by `columns`, and order the five loops io, jo, k, ii, ji.

    sch: the matmul with its default loops i, j, k around the block "C", padded. It is changed in
    place.
    """
    # TODO(2.1): about 5 lines.
    raise NotImplementedError("2.1 tile")


# ---------------------------------------------------------------------------------- 2.2 vectorizing
#
# A vector instruction adds or multiplies 4, 8 or 16 floats at once, if they lie side by side in
# memory. Of the five loops one runs over neighbouring elements of both B and C.


@exercise("2.2", "Vectorize the innermost loop")
def vectorize(sch: Schedule) -> None:
    """Turn the loop over neighbouring elements of B and C into vector instructions.

    sch: as 2.1 leaves it, loops io, jo, k, ii, ji around the block "C".
    """
    # TODO(2.2): 2 lines.
    raise NotImplementedError("2.2 vectorize")


# -------------------------------------------------------------------------------------- 2.3 threads
#
# First, in which order a thread should take its tiles. With io around jo it goes along a row of
# tiles, through all of B, and starts again at B's first column for the next row: each element of B
# comes from far away, is used for the rows of one tile, and is pushed out by the rest. Better to
# stay with one panel of B, K x `columns` floats, which the second-level cache can hold, and go down
# all the rows of tiles before the next panel.
#
# This worked step gives each thread a slab, its share of the rows of tiles, and puts jo outside of
# the tiles in a slab:
#
#     for slab:                                   which rows, to be shared out
#         for jo:                                 for every panel of B ...
#             for io:                             ... down the slab
#                 for k, ii, ji: ...


def slab(sch: Schedule) -> None:
    """Order the loops over tiles slab, jo, io: as many slabs as keep every thread equally busy."""
    io, jo, *_ = sch.get_loops(sch.get_sblock("C"))
    slabs, io = sch.split(io, [slabs_for(int(sch.get(io).extent)), None])
    sch.reorder(slabs, jo, io)


# Now to the threads. Starting a parallel loop costs microseconds: every thread must be woken, and
# all are waited for. It should happen once, so the parallel loop should be the outermost one. And
# it must be a loop whose iterations write different elements of C: two threads that add to the same
# element lose updates. (TVM refuses to parallelize a reduction. Try it.)


@exercise("2.3", "Share the tiles among threads")
def parallelize(sch: Schedule) -> None:
    """Run the outermost loop in parallel.

    sch: as 2.2 and `slab` leave it, loops slab, jo, io, k, ii, ji around the block "C".
    """
    # TODO(2.3): 2 lines.
    raise NotImplementedError("2.3 parallelize")


# ------------------------------------------------------------------------------ 2.4 a register tile
#
# Look at the innermost statement: C[i, j] += ... . For every k the tile of C is loaded from memory,
# added to, and stored back, K times in all, though it is the same tile each time. The loads and
# stores take longer than the arithmetic. The tile should stay in the CPU's registers while k runs.
# Three things are needed:
#
#   - a place: `copy = sch.cache_write(block, 0, "local")` makes the block write to a buffer
#     C_local, and a new block copies C_local to C. `sch.reverse_compute_at(copy, loop)` moves the
#     copy into `loop`, after the work done there; put it where one tile is finished: in io, the
#     loop around k. The buffer then shrinks to one tile (when the program is compiled: the printed
#     nest still shows the shape of all of C).
#   - constant indices: a register has no address, so "C_local[ii, ...]" must be a fixed name for
#     each ii. `sch.unroll(ii)` writes the rows of the tile out. Vectorize the copy's innermost
#     loop, and unroll the one around it, for the same reason.
#   - no test inside: the statement `if k == 0: C_local[...] = 0` would run for every k.
#     `sch.decompose_reduction(block, k)` makes the zeroing a loop nest of its own, before k.
#
# decompose_reduction comes last: it tears the block in two, and both halves inherit the loop kinds
# set before. Afterwards TVM no longer recognizes a reduction in the adding half, and refuses to
# vectorize or parallelize its loops.
#
# Now the tile size explains itself. With AVX-512, 8 x 32 floats are 16 registers of 16 floats. With
# 2 for a row of B and one for an element of A that leaves room; 16 x 32 would need all 32 and spill
# to memory. And every element of B that is loaded is used 8 times.


@exercise("2.4", "Keep a tile of C in registers")
def register_tile(sch: Schedule) -> None:
    """Accumulate each tile in a "local" buffer: write cache in the loop around k, rows unrolled,
    zeroing before k.

    sch: as 2.3 leaves it: loops slab (parallel), jo, io, k, ii, ji (vectorized) around the block
    "C". Some of the loops outside k may have been fused; `*outer, k, ii, ji = sch.get_loops(block)`
    takes them either way.
    """
    # TODO(2.4): about 8 lines.
    raise NotImplementedError("2.4 register_tile")


# -------------------------------------------------------------------------------------- 2.5 packing
#
# What is left is how B is read. While k runs, the tile wants `columns` floats of row k, then of row
# k + 1, a whole row of B further on in memory. For a large B each of these lies on another page,
# the TLB (the cache of page addresses) cannot hold them all, and the prefetcher does not follow.
# Every fast library therefore copies B into panels first: the columns of one tile, for all k, one
# after the other. The copy takes N * K steps, the product M * N * K. Where B is so small that the
# caches hold it anyway, it may cost what it saves; run this file with --size 1024 and with --size
# 256 to see both.
#
#     B_global[jo, k, ji] = B[k, jo * columns + ji]
#
#   - After 2.4 the block that reads B is "C_update", the adding half of "C". It reads C_local, A
#     and B: B is number 2. `copy = sch.cache_read(block, 2, "global")` makes a block that copies it
#     to a new buffer, with loops over k and j (which TVM names ax0 and ax1).
#   - `sch.transform_layout(block, ("read", 2), lambda k, j: (...))` gives that new buffer another
#     layout: the lambda says where element [k, j] is kept. The copy writes it there, and the block
#     reads it there. This is the exception: TVM does not check that the lambda keeps all elements
#     apart. (Given B itself instead of a copy, it would change what callers must pass.)
#   - The copy still runs through B in the order k, j, and writes all over the place. It is a
#     program like any other: split its j, reorder to panel, k, column, vectorize the columns and
#     share out the panels.


@exercise("2.5", "Pack B into panels")
def pack(sch: Schedule, columns: int) -> None:
    """Copy B to panels of `columns` columns, B_global[j // columns, k, j % columns], before the
    product starts.

    sch: as 2.4 leaves it, with the block "C_update" that reads B; the columns of B are a multiple
    of `columns`. The copy's loops are to be panel (parallel), k, column (vectorized).
    """
    # TODO(2.5): about 8 lines.
    raise NotImplementedError("2.5 pack")


# ----------------------------------------------------------------- worked: odd sizes without copies
#
# At 1000 x 517 the ladder still makes three passes that compute nothing: B is copied to a padded B
# and that is packed; the tiles go to a padded C and that is copied to C. Each is a block like any
# other, and can be computed where its neighbour is:
#
#   - compute_inline puts the padding into the packing, which then reads B itself, or a zero;
#   - reverse_compute_inline puts the last copy into the tile's own: the tile leaves the registers
#     for C directly, under a guard, since the last tile of a row hangs over the edge of C.
#
# (A tile that is under a guard already, because a split did not come out even, keeps its copy: TVM
# 0.27 forgets the old guard when it adds the new one, and the program would write beyond C.)
#
# The guard would keep every store from being a vector instruction. But it can only fail in the last
# panel, so the loop over panels is cut in two: TVM compiles all panels but the last without guard.
# That is what the annotation asks for.


def fold_padding(sch: Schedule) -> None:
    """Compute the copies that `pad` added where their neighbours are. sch: as 2.5 leaves it."""
    copies = {sch.get(block).name_hint for block in sch.get_child_blocks(sch.get_sblock("root"))}
    if "B_pad" in copies:
        sch.compute_inline(sch.get_sblock("B_pad"))
    tiles = [block for block in loop_nest(sch.mod).blocks if block.stores_to == "C_pad"]
    if tiles and not tiles[0].guarded:
        sch.reverse_compute_inline(sch.get_sblock("C_pad"))
        _, jo, *_ = sch.get_loops(sch.get_sblock("C_update"))
        sch.annotate(jo, "pragma_loop_partition_hint", True)


# ------------------------------------------------------------------------ worked: a single row of A
#
# The ladder lives on reuse: every element of B that is loaded is used for all rows of a tile. With
# M = 1 there is one row, and every element of B is used once; packing would copy all of B for that
# single use. Now memory is the limit, as in the vector addition, and all that counts is to read B
# as fast as memory delivers it.
#
#   - Each thread should read a contiguous piece of B: half of its rows. But k is the reduction, and
#     its iterations add to the same elements of C. `rfactor` is the answer: it splits the reduction
#     in partial ones, here one a slab of k, each with its own row of partial sums, and a second
#     block adds these up.
#   - Going along a row of B, the partial sums are loaded and stored for each multiplication. Eight
#     rows at once use each partial sum eight times before it is stored, and give the memory eight
#     streams to fetch ahead.

ROWS_AT_ONCE = 8


def schedule_row(sch: Schedule) -> None:
    """Read B once, in slabs of rows, one for each thread. sch: the matmul for M = 1."""
    K = int(sch.get(sch.get_loops(sch.get_sblock("C"))[2]).extent)
    *_, k = sch.get_loops(sch.get_sblock("C"))
    slabs, _ = sch.split(k, [threads(), None])
    partial = sch.rfactor(slabs, 0)
    _, j, slabs, k = sch.get_loops(partial)
    k, rows = sch.split(k, [None, min(ROWS_AT_ONCE, -(-K // threads()))])
    j, lane = sch.split(j, [None, vector_unit()[0]])
    sch.reorder(slabs, k, j, rows, lane)
    sch.parallel(slabs)
    sch.unroll(rows)
    sch.vectorize(lane)
    sch.decompose_reduction(partial, k)
    _, j, slabs = sch.get_loops(sch.get_sblock("C"))
    j, lane = sch.split(j, [None, vector_unit()[0]])
    sch.reorder(j, slabs, lane)
    sch.vectorize(lane)


# --------------------------------------------------------------------------------------- the ladder
#
# The steps in order, and how each is taken: with what this lesson gives before and after it. Phases
# 3 and 5 climb the same ladder, with your functions wherever they are right.

LADDER = {
    "2.1": "tile",
    "2.2": "vectorize",
    "2.3": "parallel",
    "2.4": "register tile",
    "2.5": "pack B",
}


def climb(sch: Schedule, exercise_id: str, step, rows: int = ROWS, columns: int = COLUMNS) -> None:
    """Take one step of the ladder, with tiles of rows x columns; `step` is a body of the
    exercise."""
    if exercise_id == "2.1":
        pad(sch, rows, columns)
        step(sch, rows, columns)
    elif exercise_id == "2.3":
        slab(sch)
        step(sch)
    elif exercise_id == "2.5":
        step(sch, columns)
        fold_padding(sch)
    else:
        step(sch)


# When you run this file, it draws the order in which A, B and C are touched, untiled and tiled.
# Before you look: why does tiling help the cache, when it does exactly the same multiplications?


# ------------------------------------------------------------------------------------- on a GPU
#
# The second half of this lesson schedules the same product for a GPU. It needs none:
#
#     python -m tvm_practice.manual_schedule --target cuda-sim
#
# executes the CUDA code that TVM makes on the CPU, thread by thread, finds what is wrong with it,
# and computes what can be computed. With a GPU, --target cuda runs and times it.
#
# A GPU runs thousands of threads at once, in groups of two sizes:
#
#   - A block of threads (up to 1024) runs on one of the GPU's processors (a V100 has 80), and has
#     some fast memory there that all of its threads see, the shared memory (48 KiB). A kernel, the
#     function that a GPU runs, is started with a grid of blocks. Blocks cannot wait for each other.
#   - 32 threads of a block with neighbouring numbers are a warp. They execute each instruction
#     together, and when it is a load, their 32 addresses go to memory as one request.
#
# A loop becomes threads by `sch.bind(loop, axis)`: axis is "blockIdx.x", ".y", ".z" for the blocks
# of the grid, "threadIdx.x", ".y", ".z" for the threads of a block. Iterations of a bound loop run
# at the same time, in no order. The worked example is the vector addition again: a thread for each
# element.


def bind_vector_add(sch: Schedule, threads: int) -> None:
    """One thread for each element of the vector addition, in blocks of `threads` threads."""
    (i,) = sch.get_loops(sch.get_sblock("C"))
    io, ii = sch.split(i, [None, threads])
    sch.bind(io, "blockIdx.x")
    sch.bind(ii, "threadIdx.x")


# ------------------------------------------------------------------------ 2.6 blocks and threads
#
# The product needs a grid of two dimensions. Blocks take tiles of C, the threads of a block the
# elements of its tile; or a small tile each, `each` rows by columns, which step 2.8 will be about.
# Until then it is 1 x 1.
#
#     for by, bx:                                 which block: a tile of C
#         for ty, tx:                             which thread of it
#             for k:
#                 for yi, xi:                     the thread's own elements
#
# Two things to get right. The loops outside of k are all bound: TVM makes a kernel of the bound
# loops, and a function without any becomes a function for the CPU, without a word. And threadIdx.x
# counts fastest: the 32 threads of a warp have neighbouring x. So x belongs to the columns, where
# neighbours lie side by side in B and C. Were it the rows, the 32 addresses of a request would be a
# row apart, and memory, which moves 32 bytes at a time, would move eight times what is asked for.


@exercise("2.6", "Bind blocks and threads", target=GPU)
def bind(sch: Schedule, threads: tuple[int, int], each: tuple[int, int]) -> None:
    """Split i and j for blocks, threads and the elements of a thread, and bind them.

    sch: the matmul with its default loops i, j, k around the block "C". threads: how many threads a
    block has along i (threadIdx.y) and along j (threadIdx.x). each: how many rows and columns of C
    a thread computes. The loops are to be by, bx, ty, tx (bound), k, yi, xi.
    """
    # TODO(2.6): about 8 lines.
    raise NotImplementedError("2.6 bind")


# Before the next step, one that you have taken already, in 2.4: each thread adds up its elements in
# a register of its own, and stores them at the end.


def add_up_in_registers(sch: Schedule) -> None:
    """Accumulate in a "local" buffer within each thread. sch: as 2.6 leaves it."""
    block = sch.get_sblock("C")
    *_, tx, _, _, _ = sch.get_loops(block)
    sch.reverse_compute_at(sch.cache_write(block, 0, "local"), tx)


# ------------------------------------------------------------------------- 2.7 shared-memory tiles
#
# Each element of A is read by every thread of its row, N times in all, and each time from global
# memory: a thread loads 8 bytes for every multiplication, even if those of a warp that ask for the
# same number are served together. A block of 16 x 16 threads reads the same 16 rows of A
# and 16 columns of B, each element 16 times. It should fetch them once, together, into its shared
# memory, a piece of `depth` along k at a time:
#
#     for ko:
#         A_shared = A[tile of rows, depth]       each thread copies a few elements
#         B_shared = B[depth, tile of columns]
#         for ki in range(depth): ...             reads A_shared and B_shared
#
#   - `copy = sch.cache_read(block, number, "shared")` makes the copy (A is number 0, B number 1), a
#     block of its own; `sch.compute_at(copy, ko)` puts it where a piece is needed. It has two loops
#     of its own there, over the rows and columns of the piece, and these are in no thread's charge
#     yet: every thread would copy everything.
#   - So the copy is shared out: fuse its two loops to one, and split that again into rounds, the
#     threads along y, the threads along x, and `width` neighbours that a thread copies at once (a
#     GPU loads up to 16 bytes, 4 floats, with one instruction, if they are vectorized). Bind the
#     middle two to the same axes as before.
#
# No thread may read the piece before all have copied their part, and none may fetch the next one
# before all have read this one. TVM puts the two barriers there, __syncthreads in CUDA, because it
# knows who writes and who reads "shared" memory. The simulator checks that they suffice.


@exercise("2.7", "Fetch tiles into shared memory", target=GPU)
def share(sch: Schedule, depth: int, width: int) -> None:
    """Split k by `depth`, and copy a piece of A and of B to shared memory for each ko, the threads
    of a block together, `width` neighbouring elements each at a time.

    sch: as `add_up_in_registers` leaves it, loops by, bx, ty, tx, k, yi, xi around the block "C".
    """
    # TODO(2.7): about 10 lines.
    raise NotImplementedError("2.7 share")


# ------------------------------------------------------------------------------- 2.8 register tiles
#
# Now shared memory is what limits: it delivers a word to each of 32 threads in a cycle, and a
# processor of a V100 multiplies and adds 64 numbers in that time. With one element of C for each
# thread, there are two loads for one multiplication. It is the CPU's step 2.4 again: a thread that
# has a tile of 4 x 4 elements loads 4 elements of A and 4 of B for 16 multiplications, if it keeps
# all of them in registers. This step is taken on the loops of 2.6 and 2.7 with `each` = (4, 4).
#
#   - the elements of A and B: `cache_read(block, number, "local")` makes a copy of what the block
#     reads (A_shared is number 0, B_shared 1), moved by compute_at into ki;
#   - a register has no address here either: unroll ki, yi, xi, the loops of A's copy, and the outer
#     of the two loops of the block "C_local" that stores the tile. But where neighbours in memory
#     go to neighbours in registers, vectorize: the innermost loop of B's copy, and of the one that
#     stores C, for 16 bytes with one instruction;
#   - last, decompose_reduction at ko: the zeroing before the pieces.


@exercise("2.8", "Keep a tile for each thread in registers", target=GPU)
def thread_tile(sch: Schedule) -> None:
    """Multiply from "local" copies of what a thread reads, all of its loops unrolled.

    sch: as 2.7 leaves it, loops by, bx, ty, tx, ko, ki, yi, xi around the block "C", which reads
    A_shared and B_shared and adds to C_local; the block "C_local" stores the tile to C.
    """
    # TODO(2.8): about 10 lines.
    raise NotImplementedError("2.8 thread_tile")


# ----------------------------------------------------------------------------------- 2.9 pipelining
#
# Between two pieces everybody waits: the loads of a piece are under way for hundreds of cycles
# before the first can be stored to shared memory, and no multiplication can start before. The next
# piece should be on its way while this one is multiplied. Each round then does
#
#     load     the next piece, global memory to registers
#     multiply this piece
#     store    the next piece, registers to shared memory, once all threads have multiplied
#
# The load must be a block of its own for that. This worked step makes it one: it fetches through
# registers, and leaves five blocks under ko: A loaded, A stored, B loaded, B stored, multiplied.


def fetch_through_registers(sch: Schedule, width: int) -> None:
    """Copy the pieces of A and B to registers first, then to shared memory. sch: as 2.8 leaves
    it."""
    *_, ty, tx, ko, _, _, _ = sch.get_loops(sch.get_sblock("C_update"))
    rows, columns = (int(sch.get(loop).extent) for loop in (ty, tx))
    for shared in ("A_shared", "B_shared"):
        load = sch.cache_read(sch.get_sblock(shared), 0, "local")
        sch.compute_at(load, ko)
        piece = sch.fuse(*sch.get_loops(load)[-2:])
        _, y, x, lane = sch.split(piece, [None, rows, columns, width])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)


# One more thing, which step 2.8 left. Shared memory lies in 32 banks, word n in bank n % 32, and a
# bank delivers one word at a time. In a warp of 16 x 2 threads, two rows of threads read A_shared,
# 4 rows of a piece apart: 4 * 16 = 64 words, the same bank. So each such load takes two rounds.
# Rows of 20 words instead of 16 put the second row of threads 80 words on, in another bank.


def spread_rows(sch: Schedule, depth: int) -> None:
    """Let the rows of A_shared lie depth + 4 words apart, so that two of them share no bank."""
    sch.storage_align(sch.get_sblock("A_shared"), 0, axis=0, factor=32, offset=depth + 4)


# Two annotations of the loop ko ask TVM for a pipeline; each has a number for every block under ko,
# in the order in which they stand there:
#
#   - "software_pipeline_stage": the round in which the block works on a piece, 0 or 1. What has
#     stage 0 works on piece ko while what has stage 1 works on piece ko - 1.
#   - "software_pipeline_order": the position of the block in the new loop's body. TVM asks for it
#     too: with the store before the multiplication, the multiplication would wait for the load.
#
# (Classic TVM's documents use virtual threads for this. A loop bound to "vthread" becomes several
# threads whose steps are interleaved in one: while one waits for its load, the other computes. A
# GPU's warps do that for each other, as far as registers and shared memory leave room for many of
# them; a pipeline does it within a warp. What virtual threads are still good for on a GPU, the
# place of a thread's elements, is in labs/conv1d.py.)


@exercise("2.9", "Load the next piece while this one is multiplied", target=GPU)
def pipeline(sch: Schedule) -> None:
    """Annotate ko with the stage and the order of its five blocks.

    sch: as `fetch_through_registers` and `spread_rows` leave it: loops by, bx, ty, tx, ko, ki, yi,
    xi around the block "C_update".
    """
    # TODO(2.9): about 3 lines.
    raise NotImplementedError("2.9 pipeline")


GPU_LADDER = {
    "2.6": "threads",
    "2.7": "shared memory",
    "2.8": "registers",
    "2.9": "pipeline",
}


@dataclass(frozen=True)
class Tiling:
    """The numbers of the GPU's ladder: the threads of a block, the elements of C that each of them
    computes (both along i and along j), the depth of a piece, and how many elements a thread copies
    at once."""

    threads: tuple[int, int]
    each: tuple[int, int]
    depth: int
    width: int


# One element for each thread, as the first two steps have it; and the tile of the last two, 64 x 64
# elements of C for each block.
ONE_EACH = Tiling(threads=(16, 16), each=(1, 1), depth=16, width=1)
TILE_EACH = Tiling(threads=(16, 16), each=(4, 4), depth=16, width=4)


def fits(tiling: Tiling) -> tuple[int, int, int]:
    """What M, N and K have to be multiples of: the tile of a block, and the depth of a piece."""
    rows, columns = (
        threads * each for threads, each in zip(tiling.threads, tiling.each, strict=True)
    )
    return rows, columns, tiling.depth


def climb_gpu(sch: Schedule, exercise_id: str, step, tiling: Tiling = TILE_EACH) -> None:
    """Take one step of the GPU's ladder; `step` is a body of the exercise."""
    if exercise_id == "2.6":
        step(sch, tiling.threads, tiling.each)
        add_up_in_registers(sch)
    elif exercise_id == "2.7":
        step(sch, tiling.depth, tiling.width)
    elif exercise_id == "2.9":
        fetch_through_registers(sch, tiling.width)
        spread_rows(sch, tiling.depth)
        step(sch)
    else:
        step(sch)


# When you run the lesson for the GPU, it counts what each rung asks of memory. Before you look: how
# many bytes do the blocks read from global memory for each operation (a multiplication or an
# addition) after 2.6, after 2.7, and after 2.8?
