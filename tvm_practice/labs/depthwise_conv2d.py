"""Lab: a depthwise convolution, and enough for a whole GPU to do.

    python -m tvm_practice.labs.depthwise_conv2d --target cuda-sim          run it, no GPU needed
    python -m tvm_practice.labs.depthwise_conv2d --hint depthwise_conv2d.1  a nudge, when stuck

In a depthwise convolution every channel has a filter of its own, K x K, and channels are never
added together:

    Y[b, c, h, w] = sum over r, s of P[b, c, h + r, w + s] * F[c, r, s]

P is X with K // 2 zeros on each of the four sides, so that Y is as large as X ("same" padding; K is
odd), and the filter is not turned round, as in all libraries for neural networks.

The example is small: 3 images, 4 channels, 16 x 32 pixels, K = 7. That is 6144 results of 49 terms,
0.6 million operations, which a V100 could do in less time than it takes to start a kernel. It is
the kind of size on which a GPU is mostly idle, and in two ways:

  - A V100 has 80 processors. A block runs on one of them, so with fewer than 80 blocks some have
    nothing to do at all.
  - A processor executes warps, 32 threads at a time. A block of one thread is a warp all the same,
    with 31 of its 32 lanes switched off.

Every step of the ladder cures the one or the other.
"""

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_practice.common.exercise import GPU, exercise

Shape = tuple[int, int, int, int, int]  # B, C, H, W, K

SHAPE: Shape = (3, 4, 16, 32, 7)
PROCESSORS = 80  # of a V100; NVIDIA calls them SMs, streaming multiprocessors
WARP = 32  # threads of a warp
MOST_THREADS = 1024  # of a block


def depthwise(B: int, C: int, H: int, W: int, K: int) -> Schedule:
    """The convolution with its default loops: P, the padded images, and then Y."""
    half = K // 2
    X = te.placeholder((B, C, H, W), name="X")
    F = te.placeholder((C, K, K), name="F")

    def pixel(b, c, h, w):
        inside = tirx.all(h >= half, h < half + H, w >= half, w < half + W)
        return tirx.if_then_else(inside, X[b, c, h - half, w - half], tirx.const(0.0, "float32"))

    P = te.compute((B, C, H + K - 1, W + K - 1), pixel, name="P")
    r = te.reduce_axis((0, K), name="r")
    s = te.reduce_axis((0, K), name="s")

    def rule(b, c, h, w):
        return te.sum(P[b, c, h + r, w + s] * F[c, r, s], axis=[r, s])

    Y = te.compute((B, C, H, W), rule, name="Y")
    return Schedule(te.create_prim_func([X, F, Y]))


# ------------------------------------------------------------------------- worked: a single kernel
#
# P and Y are two loop nests, and would be two kernels: P written to memory by the first, read by
# the second, and the start of a kernel takes longer than either. compute_inline puts the rule of P
# wherever P is read, and P is gone. The price is its test, made for each of the 49 terms of a
# result. (The last step finds a better place for it.)


def inline_padding(sch: Schedule) -> None:
    """Compute P where it is read: one loop nest b, c, h, w, r, s around the block "Y"."""
    sch.compute_inline(sch.get_sblock("P"))


# ----------------------------------------------------------------------------------- 1 2-D blocks
#
# The first four steps are four answers to one question, which of the loops become blocks and which
# become threads, and each starts again from the default loops. The simplest: images and channels
# have nothing to do with each other, so let each pair of them be a block, in a grid of two
# dimensions. `sch.bind(loop, axis)` does it, and axis is a word like "blockIdx.x" or "blockIdx.y".
#
#     for b, c:                               a block for each: 3 x 4 of them
#         for h, w, r, s: ...                 all done by its only thread
#
# 12 blocks, on 12 of 80 processors; and of each warp, one lane.


@exercise("depthwise_conv2d.1", "Bind batch and channel to blocks", target=GPU)
def blocks(sch: Schedule) -> None:
    """Bind b to "blockIdx.y" and c to "blockIdx.x".

    sch: the convolution with its padding inlined and its default loops b, c, h, w, r, s around the
    block "Y". It is changed in place.
    """
    # TODO(depthwise_conv2d.1): about 3 lines.
    raise NotImplementedError("depthwise_conv2d.1 blocks")


# --------------------------------------------------------------------------------- 2 block fusion
#
# More blocks, then: with h there are 3 * 4 * 16 = 192, two or three for each processor. The grid
# has only three axes, and of y and z no more than 65,535 each; one long axis x serves for any
# number of loops. `sch.fuse(b, c, h)` makes one loop of loops that stand directly inside of each
# other, and returns it; TVM computes b, c and h from its number by division.
#
#     for bch:                                192 blocks
#         for w, r, s: ...                    a row of results, done by one thread
#
# Why stop at h? With w there would be 6144 blocks. But a processor takes 32 blocks at most at a
# time, and each would still be a warp with one lane in use. More blocks cure idle processors. They
# do nothing for idle lanes.


@exercise("depthwise_conv2d.2", "Fuse loops to make enough blocks", target=GPU)
def fused_blocks(sch: Schedule) -> None:
    """Fuse b, c and h, and bind the fused loop to "blockIdx.x".

    sch: as for depthwise_conv2d.1, all six loops as they were made.
    """
    # TODO(depthwise_conv2d.2): about 3 lines.
    raise NotImplementedError("depthwise_conv2d.2 fused_blocks")


# ---------------------------------------------------------------------------------- 3 2-D threads
#
# Now for the lanes. A block gets one thread for each result of a tile, rows x columns:
#
#     for b, c:                               a block for each, as in step 1
#         for ho, wo:                         the tiles of its image, one after the other
#             for ty, tx:                     a thread for each result of a tile
#                 for r, s: ...
#
# (A bound loop is no loop in the kernel, so TVM makes the same one wherever ty and tx stand. In
# this order, which reorder makes, the nest says what runs inside of what.)
#
# Which of the two tile loops is threadIdx.x matters. threadIdx.x counts fastest: a warp is 32
# threads with neighbouring x. And when a warp loads, the 32 addresses go to memory as one request,
# in sectors of 32 bytes. Neighbours along w lie side by side, 32 of them in four or five sectors.
# Neighbours along h lie a row apart, each in a sector of its own: 32 sectors, of which 4 bytes each
# are wanted. So x belongs to w, the contiguous axis, and 32 columns are a whole warp.
#
# How many threads? Multiples of 32, and at most 1024 in a block. Several warps are better than one:
# while one waits for its load, another computes.


@exercise("depthwise_conv2d.3", "Bind a tile to threads in two dimensions", target=GPU)
def threads(sch: Schedule, rows: int, columns: int) -> None:
    """Split h by `rows` and w by `columns`: loops b, c, ho, wo, ty, tx, r, s, with b bound to
    "blockIdx.y", c to "blockIdx.x", ty to "threadIdx.y", tx to "threadIdx.x".

    sch: as for depthwise_conv2d.1, all six loops as they were made.
    """
    # TODO(depthwise_conv2d.3): about 8 lines.
    raise NotImplementedError("depthwise_conv2d.3 threads")


# --------------------------------------------------------------------------------- 4 outer fusion
#
# All lanes work, and there are 12 blocks again: with a tile of 16 x 32, a whole image, each has 512
# threads, and 68 processors have none. A smaller tile alone would not help, as long as the tiles of
# an image are done one after the other. They need not be. Fuse all that lies outside of a tile, and
# every tile is a block:
#
#     for outer:                              3 * 4 * (16 / rows) * (32 / columns) blocks
#         for ty, tx:                         a thread for each result of a tile
#             for r, s: ...
#
# Tiles of 8 rows make 24 blocks, of 4 rows 48. The results are 6144, however they are dealt out:
# more blocks have fewer threads each. Worked is the choice, the largest tile that still leaves a
# block for every processor.


def rows_for(shape: Shape, processors: int = PROCESSORS, columns: int = WARP) -> int:
    """The most rows, a divisor of H, with which a tile still leaves `processors` blocks; else 1."""
    B, C, H, W, _ = shape
    fitting = [
        rows
        for rows in range(1, H + 1)
        if H % rows == 0
        and rows * columns <= MOST_THREADS
        and B * C * (H // rows) * -(-W // columns) >= processors
    ]
    return max(fitting, default=1)


@exercise("depthwise_conv2d.4", "Fuse all outer loops to blocks", target=GPU)
def outer_fusion(sch: Schedule, rows: int, columns: int) -> None:
    """Split h by `rows` and w by `columns`, fuse everything outside of a tile: one loop bound to
    "blockIdx.x", then ty and tx, bound to "threadIdx.y" and "threadIdx.x", then r, s.

    sch: as for depthwise_conv2d.1, all six loops as they were made.
    """
    # TODO(depthwise_conv2d.4): about 7 lines.
    raise NotImplementedError("depthwise_conv2d.4 outer_fusion")


# -------------------------------------------------------------------------------- 5 a shared tile
#
# Each result reads 49 pixels, and its neighbour 42 of the same. The tile of 2 x 32 asks for
# 64 * 49 = 3136 pixels, and there are only 8 x 38 = 304 different ones: the tile and a margin of
# K // 2 on every side, its halo. A block should fetch them once, into its shared memory.
#
# The block that does it is there already: it is P, if it is not inlined. Until it has a place it
# pads all of the images, but `sch.compute_at(P, loop)` puts it inside a loop of Y, where it makes
# what one iteration needs and no more. TVM finds the halo itself. The zeros are stored there too,
# so the test is made once for each of the 304, and the sum has none any more.
#
#     for outer:
#         P_shared = tile with its halo       each thread fetches some of it
#         for ty, tx:
#             for r, s: ...                   reads P_shared
#
#   - `sch.set_scope(P, 0, "shared")` says where the block keeps what it makes.
#   - As in 2.7 no thread is in charge of the copy's loops yet: fuse the last two of them, over the
#     rows and columns of the piece, and split the fused one into rounds, ty and tx, for the same
#     two axes. Both must be as long as before, since a block has one number of threads. (304 is
#     no multiple of 64: TVM adds a test, and the last round is not a full one.)
#
# A halo is what small tiles cost: 304 pixels for 64 results here, 14 x 38 = 532 for 256 with tiles
# of 8 rows. Fewer blocks fetch less in all; step 4 wanted more blocks. That is the bargain of each
# kernel of this kind.


@exercise("depthwise_conv2d.5", "Fetch a tile with its halo into shared memory", target=GPU)
def share(sch: Schedule) -> None:
    """Let P be made in "shared" memory, for one block at a time, by all of its threads together.

    sch: as depthwise_conv2d.4 leaves it, but with P not inlined: the block "P" with its default
    loops, and the loops outer, ty, tx (bound), r, s around the block "Y".
    """
    # TODO(depthwise_conv2d.5): about 8 lines; `sch.get(ty).extent` is the number of rows.
    raise NotImplementedError("depthwise_conv2d.5 share")


# ------------------------------------------------------------------------------ worked: registers
#
# What is left: each of the 49 terms is added to Y in global memory. As in 2.8, a "local" buffer
# keeps the sum in a register; with r and s unrolled nothing is counted or compared inside of it.


def registers(sch: Schedule) -> None:
    """Add up in a register, all terms written out. sch: as depthwise_conv2d.5 leaves it."""
    block = sch.get_sblock("Y")
    *_, tx, r, s = sch.get_loops(block)
    sch.reverse_compute_at(sch.cache_write(block, 0, "local"), tx)
    sch.unroll(r)
    sch.unroll(s)
    sch.decompose_reduction(block, r)


# -------------------------------------------------------------------------------------- the ladder

STEPS = {
    "depthwise_conv2d.1": "2-D blocks",
    "depthwise_conv2d.2": "block fusion",
    "depthwise_conv2d.3": "2-D threads",
    "depthwise_conv2d.4": "outer fusion",
    "depthwise_conv2d.5": "shared tile",
}
FIRST_THREADS = (16, WARP)  # the tile of step 3: 512 threads, one for each result of an image


def ladder(shape: Shape, bodies: dict) -> dict[str, Schedule]:
    """The schedule of every rung by its name; `bodies` has a function for each exercise's id."""
    tile = (rows_for(shape), WARP)
    given = {
        "depthwise_conv2d.1": (),
        "depthwise_conv2d.2": (),
        "depthwise_conv2d.3": FIRST_THREADS,
        "depthwise_conv2d.4": tile,
    }
    made = {}
    for known, arguments in given.items():
        sch = depthwise(*shape)
        inline_padding(sch)
        bodies[known](sch, *arguments)
        made[STEPS[known]] = sch
    for name in ("shared tile", "registers"):
        sch = depthwise(*shape)
        bodies["depthwise_conv2d.4"](sch, *tile)
        bodies["depthwise_conv2d.5"](sch)
        if name == "registers":
            registers(sch)
        made[name] = sch
    return made


# When you run this file, it counts for each rung how many processors and how many lanes have work,
# and what is asked of memory. Before you look: steps 3 and 4 start the same 6144 threads, one for
# each result. What does step 4 gain?
