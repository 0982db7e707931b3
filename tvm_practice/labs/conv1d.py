"""Lab: a full one-dimensional convolution, from six loops too many to a few microseconds.

    python -m tvm_practice.labs.conv1d                    run this lesson
    python -m tvm_practice.labs.conv1d --hint conv1d.1    a nudge, when you are stuck

A filter of N taps slides over M samples. Every position at which they overlap by at least one
sample gives a result, M + N - 1 in all:

    C[i] = sum over k of D[i - k] * W[k]        wherever 0 <= i - k < M

It is what np.convolve computes. For M = 4096 and N = 128 that is half a million multiplications,
which this CPU can do in a few microseconds. The ladder below gets there, and each rung changes one
thing: how many terms are summed, what is tested inside, how many at a time, by how many threads,
and where the sums are kept.

A convolution of this size fits the first-level cache, so nothing here is about memory. It is about
the innermost loop.
"""

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_practice.common.exercise import exercise
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


# The blocking: as many vectors of sums as keep the multiply-add units busy, and as fit the
# registers. Of these numbers the one that leaves the least of the last tile unused, when every
# thread gets the same number of tiles: 11 vectors of 16 for 4096 samples, 128 taps and 2 threads.


def tile_for(results: int) -> tuple[int, int]:
    """(vectors in a tile, lanes of a vector) for so many results."""
    lanes, registers = vector_unit()

    def length(vectors: int) -> int:
        return -(-results // (vectors * lanes * threads())) * vectors * lanes * threads()

    return min(range(CHAINS, registers - 3), key=length), lanes


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


# --------------------------------------------------------------------------------------- 4 threads
#
# The whole convolution takes some ten microseconds by now. Waking a thread takes about one, so it
# should be done once, and each thread should get its share in one piece.


@exercise("conv1d.4", "A piece for each thread")
def parallelize(sch: Schedule, pieces: int) -> None:
    """Split io into `pieces` and run these in parallel: loops piece, io, k, iv, lane.

    sch: as conv1d.3 leaves it, with loops io, k, iv, lane (vectorized) around the block "T". The
    number of tiles is a multiple of `pieces`.
    """
    # TODO(conv1d.4): 3 lines.
    raise NotImplementedError("conv1d.4 parallelize")


# ------------------------------------------------------------------------------------- 5 registers
#
# For every k each vector of sums is loaded, added to and stored again. As in 2.4, a "local" buffer
# with constant indices stays in registers: a write cache, copied out in io when k has run; iv
# unrolled, in the copy too; and the zeroing put before k, last of all.
#
# The copy's own loop runs over the whole tile. It has to be split as T's was, so that each vector
# is one store.


@exercise("conv1d.5", "Keep the sums in registers")
def registers(sch: Schedule) -> None:
    """Accumulate in a "local" buffer: write cache in io, iv unrolled, zeroing before k.

    sch: as conv1d.4 leaves it, loops piece (parallel), io, k, iv, lane (vectorized) around the
    block "T". The copy's loop is split into vectors (unrolled) and lanes (vectorized).
    """
    # TODO(conv1d.5): about 9 lines.
    raise NotImplementedError("conv1d.5 registers")


# --------------------------------------------------------------------------------------- the ladder


def ladder(M: int, N: int, bodies: dict) -> dict[str, Schedule]:
    """The schedule of every rung by its name; `bodies` has a function for each exercise's id."""
    vectors, lanes = tile_for(M + N - 1)
    pieces = threads()
    whole = vectors * lanes * pieces
    length = -(-(M + N - 1) // whole) * whole

    def scheduled(*steps) -> Schedule:
        sch = Schedule(te.create_prim_func(bodies["conv1d.2"](M, N, length)))
        for step in steps:
            step(sch)
        return sch

    steps = (
        lambda sch: bodies["conv1d.3"](sch, vectors, lanes),
        lambda sch: bodies["conv1d.4"](sch, pieces),
        lambda sch: bodies["conv1d.5"](sch),
    )
    return {
        "naive": Schedule(te.create_prim_func(naive(M, N))),
        "fewer terms": Schedule(te.create_prim_func(bodies["conv1d.1"](M, N))),
        "no test": scheduled(),
        "vectorized": scheduled(*steps[:1]),
        "parallel": scheduled(*steps[:2]),
        "registers": scheduled(*steps),
    }


# When you run this file, it times every rung against np.convolve and torch's conv1d. Before you
# look: np.convolve is compiled C and uses vector instructions. What does it lack?
