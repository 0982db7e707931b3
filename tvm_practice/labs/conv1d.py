"""Lab: a full one-dimensional convolution, down to a few microseconds.

    python -m tvm_practice.labs.conv1d                    run this lesson
    python -m tvm_practice.labs.conv1d --hint conv1d.1    a nudge, when you are stuck

A filter of N taps slides over M samples. Every position at which they overlap by at least one
sample gives a result, M + N - 1 in all:

    C[i] = sum over k of D[i - k] * W[k]        wherever 0 <= i - k < M

It is what np.convolve computes. For M = 4096 and N = 128 that is half a million multiplications,
a few microseconds' work for a CPU with wide vectors. The ladder below gets close, and each rung
changes one thing: how many terms are summed, what is tested inside, how many at a time, by how many
threads, where the sums are kept, and how often a sample is loaded.

A convolution of this size fits the first-level cache, so nothing here is about memory. It is about
the innermost loop.
"""

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_practice.common.exercise import GPU, exercise
from tvm_practice.common.target import CHAINS, threads, vector_unit

# ------------------------------------------------------------------------ worked: the naive version
#
# The definition as it stands: for each result, go through all the samples, and where the filter
# has a tap for one, add. `tirx.if_then_else` evaluates only the branch that is taken, so W is never
# read outside of its bounds.


def naive(M: int, N: int) -> list[te.Tensor]:
    """C = D * W, summed over all M samples; returns [D, W, C]."""
    D = te.placeholder((M,), name="D")
    W = te.placeholder((N,), name="W")
    m = te.reduce_axis((0, M), name="m")

    def rule(i):
        tap = i - m
        inside = tirx.all(tap >= 0, tap < N)
        zero = tirx.const(0.0, "float32")
        return te.sum(tirx.if_then_else(inside, D[m] * W[tap], zero), axis=m)

    C = te.compute((M + N - 1,), rule, name="C")
    return [D, W, C]


# ------------------------------------------------------------------------------------ 1 fewer terms
#
# For a result, M samples are looked at and at most N of them count: 4096 tests for 128 terms. No
# schedule removes that, since a schedule keeps the terms of a sum. It takes another expression of
# the same result: let the reduction run over the N taps, and ask for each whether its sample is
# there.


@exercise("conv1d.1", "Sum over the taps only")
def over_taps(M: int, N: int) -> list[te.Tensor]:
    """C[i] = sum over the N taps k of D[i - k] * W[k], where D has an element i - k.

    D holds M samples, W holds N taps, C has M + N - 1 elements, all float32. Name the tensors "D",
    "W", "C" and the reduction axis "k". Return [D, W, C].
    """
    # TODO(conv1d.1): about 8 lines, like `naive`.
    raise NotImplementedError("conv1d.1 over_taps")


# ------------------------------------------------------------------------------------- 2 no test
#
# What is left inside of the sum is a test for every term. It is nearly always true, but the
# compiler does not know: sixteen neighbouring results may not all want the same answer, so they
# cannot be computed by one instruction. Only 127 results at either end need the test at all.
#
# The remedy is the one of phase 2: fill up with zeros, so that every term may be computed. Here the
# expression does it, in three stages:
#
#     P    the samples with N - 1 zeros before them, and zeros after them
#     T    the sums, without any test: P has a sample wherever one is asked for
#     C    the first M + N - 1 of them
#
# By itself this need not be any faster: one result is still computed after the other. It is what
# makes the next step possible.
#
# T may be longer than C. Given a length that is a multiple of whatever the schedule wants, no loop
# will ever end in the middle of a tile. P then has to be length + N - 1 long, since T[i] reads
# P[i] to P[i + N - 1].


@exercise("conv1d.2", "Pad the samples, so that nothing is tested inside the sum")
def padded(M: int, N: int, length: int) -> list[te.Tensor]:
    """The same C, from sums T of which there are `length` >= M + N - 1.

    P has length + N - 1 elements: P[t] is D[t - (N - 1)] where there is such an element, else 0.
    T[i] is the sum over k of P[...] * W[k], without a condition. C has M + N - 1 elements. Name
    the stages "P", "T" and "C", the reduction axis "k". Return [D, W, C].
    """
    # TODO(conv1d.2): about 12 lines.
    raise NotImplementedError("conv1d.2 padded")


# The blocking: enough vectors of sums to keep the multiply-add units busy, and no more than leave
# as many registers again for samples (why, is told in 5). With 16 registers there is no choice.
# Of these numbers the one that leaves the least of the last tile unused, when every thread gets
# the same number of tiles.


def tile_for(results: int, pieces: int) -> tuple[int, int]:
    """(vectors in a tile, lanes of a vector) for so many results in so many pieces."""
    lanes, registers = vector_unit()
    most = max(CHAINS, (registers - 2) // 2)

    def length(vectors: int) -> int:
        return -(-results // (vectors * lanes * pieces)) * vectors * lanes * pieces

    return min(range(CHAINS, most + 1), key=length), lanes


# ---------------------------------------------------------------------------------------- 3 vectors
#
# The default loops of T are i around k: one result after the other, each a sum of 128 terms, one
# term after the other. The vector instruction wants neighbours. Neighbouring k are neighbours in
# memory too, but they belong to the same sum. Neighbouring i belong to different sums: for a given
# k, sixteen results read sixteen neighbouring elements of P, and all of them the same tap.
#
#     for io:                                     which tile of results
#         for k:                                  for every tap ...
#             for iv in range(vectors):           ... some vectors of results
#                 for lane in range(lanes):       of so many lanes each: one instruction
#
# Several vectors, because one is not enough: a multiply-add takes four or five cycles, and the next
# one on the same sum has to wait for it. A CPU with two multiply-add units wants ten under way.


@exercise("conv1d.3", "Many sums at a time")
def vectorize(sch: Schedule, vectors: int, lanes: int) -> None:
    """Split i into tiles of `vectors` x `lanes`; order the loops io, k, iv, lane; vectorize lane.

    sch: `padded` with its default loops i, k around the block "T"; the length is a multiple of
    vectors * lanes. It is changed in place.
    """
    # TODO(conv1d.3): about 5 lines.
    raise NotImplementedError("conv1d.3 vectorize")


# ---------------------------------------------------------------------------------- worked: threads
#
# Waking a thread takes a good part of what is left to be done, so it should happen once, and each
# thread should get its share in one piece. It is phase 2's step. It comes here, before the zeroing
# is split off, after which TVM no longer sees a sum and refuses.


def parallelize(sch: Schedule, pieces: int) -> None:
    """Split io into `pieces` and run these in parallel: loops piece, io, k, iv, lane."""
    io, *_ = sch.get_loops(sch.get_sblock("T"))
    piece, _ = sch.split(io, [pieces, None])
    sch.parallel(piece)


# ------------------------------------------------------------------------------------- 4 registers
#
# For every k each vector of sums is loaded, added to and stored again. As in 2.4, a "local" buffer
# with constant indices stays in registers: a write cache, copied out in io when k has run; iv
# unrolled, in the copy too; and the zeroing put before k, last of all.
#
# The copy's own loop runs over the whole tile. It has to be split as T's was, so that each vector
# is one store.


@exercise("conv1d.4", "Keep the sums in registers")
def registers(sch: Schedule) -> None:
    """Accumulate in a "local" buffer: write cache in io, iv unrolled, zeroing before k.

    sch: as `parallelize` leaves it, loops piece (parallel), io, k, iv, lane (vectorized) around the
    block "T". The copy's loop is split into vectors (unrolled) and lanes (vectorized).
    """
    # TODO(conv1d.4): about 9 lines.
    raise NotImplementedError("conv1d.4 registers")


# ---------------------------------------------------------------------------------- 5 fewer loads
#
# Now each multiply-add takes its sum from a register, and its samples from memory: one load each.
# In the matrix product a loaded vector was used for all the rows of the tile. Is there nothing to
# be used twice here? For tap k, vector number v of the tile reads the samples from
#
#     v * lanes - k        (and the same constant for all)
#
# Tap k + lanes reads, for vector v + 1, from (v + 1) * lanes - (k + lanes): the very same samples.
# So taps that lie one vector apart share what they load, all but one vector. Neighbouring taps
# share nothing: their vectors overlap, but no two begin at the same place.
#
#     for ko:                                     which group of taps
#         for residue in range(lanes):            where in a vector they stand
#             for tap in range(taps):             taps one vector apart, written out
#                 for iv, lane: ...
#
# The loads are never mentioned. Once `tap` and `iv` are unrolled, LLVM sees the same address loaded
# several times, and loads it once, if registers are left to keep it in. With v vectors and `taps`
# taps that is v + taps - 1 loads for v * taps multiply-adds.


@exercise("conv1d.5", "Load a sample once for several taps")
def reuse(sch: Schedule, taps: int, lanes: int) -> None:
    """Order k so that `taps` taps, `lanes` apart, come one after the other, unrolled: loops
    piece, io, ko, residue, tap, iv, lane.

    sch: as conv1d.4 leaves it, loops piece, io, k, iv, lane around the block "T_update", the adding
    half of "T". The number of taps N is a multiple of taps * lanes.
    """
    # TODO(conv1d.5): about 4 lines.
    raise NotImplementedError("conv1d.5 reuse")


# How many taps: four save two loads of three or more, and still leave the program short. Fewer
# where N is no multiple; with one there would be nothing to share, and the step is left out.

MOST_TAPS = 4


def taps_for(N: int) -> int:
    """How many taps, one vector apart, to take together."""
    lanes, _ = vector_unit()
    return next((taps for taps in range(MOST_TAPS, 1, -1) if N % (taps * lanes) == 0), 1)


# --------------------------------------------------------------------------------------- the ladder


def ladder(M: int, N: int, bodies: dict, pieces: int | None = None) -> dict[str, Schedule]:
    """The schedule of every rung by its name; `bodies` has a function for each exercise's id, and
    `pieces` is how many there are to be shared out, one for each thread unless told."""
    pieces = pieces or threads()
    vectors, lanes = tile_for(M + N - 1, pieces)
    whole = vectors * lanes * pieces
    length = -(-(M + N - 1) // whole) * whole
    taps = taps_for(N)

    def scheduled(*steps) -> Schedule:
        sch = Schedule(te.create_prim_func(bodies["conv1d.2"](M, N, length)))
        for step in steps:
            step(sch)
        return sch

    steps = [
        lambda sch: bodies["conv1d.3"](sch, vectors, lanes),
        lambda sch: parallelize(sch, pieces),
        lambda sch: bodies["conv1d.4"](sch),
    ]
    if taps > 1:
        steps.append(lambda sch: bodies["conv1d.5"](sch, taps, lanes))
    return {
        "naive": Schedule(te.create_prim_func(naive(M, N))),
        "fewer terms": Schedule(te.create_prim_func(bodies["conv1d.1"](M, N))),
        "no test": scheduled(),
        "vectorized": scheduled(*steps[:1]),
        "parallel": scheduled(*steps[:2]),
        "registers": scheduled(*steps[:3]),
        "fewer loads": scheduled(*steps),
    }


# When you run this file, it times every rung against np.convolve and torch's conv1d. Before you
# look: np.convolve is compiled C and uses vector instructions. What does it lack?


# -------------------------------------------------------------------------------------- on a GPU
#
#     python -m tvm_practice.labs.conv1d --target cuda-sim
#
# The same convolution for a GPU; phase 2's second half says what blocks and threads are. The first
# version gives each result a block of its own, of one thread. It works, and wastes nearly all: a
# warp has 32 threads, and 31 of them are switched off.


def one_block_each(sch: Schedule) -> None:
    """A block of a single thread for each result. sch: `naive` or `over_taps`."""
    i, _ = sch.get_loops(sch.get_sblock("C"))
    sch.bind(i, "blockIdx.x")


# --------------------------------------------------------------------------------- 6 threads
#
# A block should be a few warps. And neighbouring threads should take neighbouring results: for a
# given tap their 32 samples lie side by side, and one request brings them all.


@exercise("conv1d.6", "A thread for each result", target=GPU)
def bind_threads(sch: Schedule, count: int) -> None:
    """Bind i to blocks of `count` threads.

    sch: `over_taps` with its default loops i, k around the block "C".
    """
    # TODO(conv1d.6): about 4 lines.
    raise NotImplementedError("conv1d.6 bind_threads")


# ------------------------------------------------------------------------- 7 several results each
#
# As on the CPU, a thread that has several sums under way waits less. Which ones? Not neighbours:
# with results 2 t and 2 t + 1 for thread t, the threads of a warp would ask for every other sample.
# Thread t should take t and t + `count`: split i into blocks, `each`, and threads, in this order.
#
# The loop of `each` then stands outside of the threads' loop, and should run inside of each thread.
# A virtual thread is just that: a loop bound to "vthread.x" is neither a block nor a thread of the
# GPU. TVM writes its iterations out in the thread's own code, term by term next to each other.
# (Without it, as a serial loop inside of the threads', a thread's two results lie `count` apart,
# and TVM, which copies the range from the first to the last of them, would have threads write each
# other's results. The simulator calls it a race. Try it, after step 8.)
#
# From here on the expression is `padded`, whose sum has no test. The other two of its stages, P and
# C, follow in step 8.


@exercise("conv1d.7", "Several results for each thread, far apart", target=GPU)
def bind_virtual_threads(sch: Schedule, each: int, count: int) -> None:
    """Split i of the block "T" into blocks, `each` virtual threads and `count` threads.

    sch: `padded` with its default loops i, k around the block "T". The loops are to be block,
    virtual, thread (bound to "blockIdx.x", "vthread.x", "threadIdx.x"), k.
    """
    # TODO(conv1d.7): about 5 lines.
    raise NotImplementedError("conv1d.7 bind_virtual_threads")


# -------------------------------------------------------------------------- 8 the memory hierarchy
#
# A block of 128 results reads 128 + N - 1 samples, but asks for 128 * N. It should fetch them once.
# No cache_read is needed for it: the stages of `padded` are there already, and only have to live in
# the right place.
#
#   - P, the padded samples: `sch.set_scope(block, 0, "shared")` moves a stage's result to shared
#     memory, `compute_at` into the loop over blocks shrinks it to a block's part. (The zeros are
#     then stored there as well, and the sum keeps no test.)
#   - W is an argument; a `cache_read(T, 1, "shared")` copies it, also once for each block.
#   - T, the sums: to "local", registers.
#   - C, the result, takes the sums out of the registers: reverse_compute_at, into the loop of the
#     threads.
#
# What P's and W's copies have as their own loop is shared out among the threads by this worked
# step, for each of them:


def fetch(sch: Schedule, copy, count: int) -> None:
    """Share out the innermost loop around a block of shared memory among `count` threads."""
    _, thread = sch.split(sch.get_loops(copy)[-1], [None, count])
    sch.bind(thread, "threadIdx.x")


@exercise("conv1d.8", "Samples in shared memory, sums in registers", target=GPU)
def place(sch: Schedule, count: int) -> None:
    """P and a copy of W in shared memory, filled once for each block; T in registers; C where a
    thread's sum is finished.

    sch: as conv1d.7 leaves it, loops block, virtual, thread, k around the block "T". count: the
    threads of a block, for `fetch`.
    """
    # TODO(conv1d.8): about 9 lines.
    raise NotImplementedError("conv1d.8 place")


# ----------------------------------------------------------------------------- worked: unrolling
#
# The sums are in "local" memory, which becomes registers only where every index is a constant; and
# the loop over the taps has a test and a jump for each multiply-add. Both go when k is written out.


def unroll_taps(sch: Schedule) -> None:
    """Unroll k, and put the zeroing before it. sch: as conv1d.8 leaves it."""
    *_, k = sch.get_loops(sch.get_sblock("T"))
    sch.unroll(k)
    sch.decompose_reduction(sch.get_sblock("T"), k)


GPU_THREADS, GPU_EACH = 64, 2  # 128 results for each block


def gpu_ladder(
    M: int, N: int, bodies: dict, count: int = GPU_THREADS, each: int = GPU_EACH
) -> dict[str, Schedule]:
    """The schedule of every rung for a GPU by its name; `bodies` as for `ladder`."""
    tile = count * each
    length = -(-(M + N - 1) // tile) * tile

    def scheduled(expression, *steps) -> Schedule:
        sch = Schedule(te.create_prim_func(expression))
        for step in steps:
            step(sch)
        return sch

    placed = (
        lambda sch: bodies["conv1d.7"](sch, each, count),
        lambda sch: bodies["conv1d.8"](sch, count),
    )
    return {
        "a block each": scheduled(bodies["conv1d.1"](M, N), one_block_each),
        "threads": scheduled(bodies["conv1d.1"](M, N), lambda sch: bodies["conv1d.6"](sch, tile)),
        "memory": scheduled(bodies["conv1d.2"](M, N, length), *placed),
        "unrolled": scheduled(bodies["conv1d.2"](M, N, length), *placed, unroll_taps),
    }
