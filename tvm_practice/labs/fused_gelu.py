"""Lab: a matmul, a bias and a GELU in one pass over memory.

    python -m tvm_practice.labs.fused_gelu                        run this lesson
    python -m tvm_practice.labs.fused_gelu --hint fused_gelu.1    a nudge, when you are stuck
    python -m tvm_practice.labs.fused_gelu --target cuda-sim      its last step, for a GPU

Half of a transformer's layer is G = gelu(A @ B + bias). Written as three operations it is three
passes: the product is stored, read to add the bias, stored, read for the GELU, stored. Each pass
does next to nothing per byte: where G is too large for the caches, memory decides how long it
takes. Fusion computes the last two where the product is finished and still in registers. It costs
arithmetic only.

    gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))

This is the tanh form (Hendrycks and Gimpel 2016), PyTorch's gelu(approximate="tanh"). It is within
0.0005 of the exact one, which has an integral of the normal distribution in its place.

Fusing is the easy half. A tanh in the innermost loop is the other.
"""

import math

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_practice.common.exercise import GPU, exercise
from tvm_practice.common.target import slabs_for

# -------------------------------------------------------------------- worked: a tanh, and its price
#
# TVM has a tanh, tirx.tanh. For a CPU it becomes two quotients,
#
#     (1 - exp(-2 x)) / (1 + exp(-2 x))    for x >= 0, where exp(-2 x) cannot overflow
#     (exp(2 x) - 1) / (exp(2 x) + 1)      for x < 0
#
# of which a vector computes both, and selects. And exp becomes a call of the C library's expf,
# which takes one number and returns one. The lanes of a vector are taken apart, expf is called
# twice for each, and they are put together again: 32 calls for 16 lanes. (tirx.erf, which the exact
# GELU wants, is a call of erff for each lane.) Run this file and look at the row
# "fused, tirx.tanh".
#
# A vector instruction wants arithmetic: additions, multiplications, a division, minimum, maximum.
# So does this GELU's other half, and there is a way to build it from them. Where x is small, tanh
# is nearly a quotient of two polynomials. Where it is not, it is nearly 1 or -1.
#
#     tanh(x) = x * P(x * x) / Q(x * x)        for |x| <= LIMIT
#
# Nearly: the value at LIMIT stands for all beyond, and everywhere it is within 3e-7 of tanh, five
# units in the last place of a float32. The sum of 1024 products that comes before it is rounded by
# more than that. (The coefficients are Eigen's, generic_fast_tanh_float, from a minimax fit. TVM
# has this quotient too, topi.fast_tanh; but it is a te.compute of its own, and here it is to be
# part of another.) Both polynomials are evaluated by Horner's rule, a multiply-add for each
# coefficient but the highest:

LIMIT = 7.90531110763549805
P = (
    4.89352455891786e-03,
    6.37261928875436e-04,
    1.48572235717979e-05,
    5.12229709037114e-08,
    -8.60467152213735e-11,
    2.00018790482477e-13,
    -2.76076847742355e-16,
)
Q = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)


def number(value: float) -> tirx.Expr:
    """A float32 constant. (TVM makes a Python float a float32 by itself, but not two of them.)"""
    return tirx.const(value, "float32")


def polynomial(coefficients: tuple[float, ...], x: tirx.Expr) -> tirx.Expr:
    """coefficients[0] + coefficients[1] * x + coefficients[2] * x ** 2 + ..."""
    *others, highest = coefficients
    value = number(highest)
    for coefficient in reversed(others):
        value = value * x + number(coefficient)
    return value


# ------------------------------------------------------------------------------------- 1 arithmetic


@exercise("fused_gelu.1", "A tanh that is only arithmetic")
def tanh(x: tirx.Expr) -> tirx.Expr:
    """tanh(x) for a float32 expression x, from P, Q and LIMIT, without a call.

    Bring x into -LIMIT to LIMIT first: beyond, the quotient is not tanh at all. The minimum and the
    maximum of two expressions are tirx.min(a, b) and tirx.max(a, b).
    """
    # TODO(fused_gelu.1): about 3 lines.
    raise NotImplementedError("fused_gelu.1 tanh")


def gelu(x: tirx.Expr, tanh=tanh) -> tirx.Expr:
    """The GELU of a float32 expression, with a tanh of your choice."""
    inner = number(math.sqrt(2 / math.pi)) * (x + number(0.044715) * x * x * x)
    return number(0.5) * x * (number(1.0) + tanh(inner))


# ------------------------------------------------------------------------------- 2 the expression
#
# The expression has two stages: the product, a sum over k, and what becomes of each element. They
# stay two stages, "C" and "G", because only a stage can be given a place of its own. (That the bias
# and the GELU are one stage fuses these two already: a te.compute is one pass.)


@exercise("fused_gelu.2", "The product and what becomes of it")
def expression(M: int, N: int, K: int, activation) -> list[te.Tensor]:
    """G[i, j] = activation(C[i, j] + bias[j]), where C = A @ B, in float32.

    A is M x K, B is K x N, bias has N elements. `activation` maps an expression to an expression.
    Name the tensors "A", "B", "bias", "C" and "G", the reduction axis "k". Return [A, B, bias, G].
    """
    # TODO(fused_gelu.2): about 7 lines.
    raise NotImplementedError("fused_gelu.2 expression")


# ---------------------------------------------------------------------------- 3 fusing in the tile
#
# The ladder of phase 2, up to its threads, does not know about G: it treats the block "C" as it
# always did, and G stands after it with loops of its own. In 2.4 the tile was accumulated in a
# "local" buffer, and a copy block took it from there to C. Now there is a block already that reads
# C and writes the result. It takes the copy's place:
#
#   - `sch.set_scope(block, 0, "local")` moves what a block writes, C, to registers. (cache_write
#     would make a second buffer; here C itself is not wanted in memory.)
#   - `sch.reverse_compute_at(G, io)` computes G's part of the tile there, when k has run. From then
#     on C is never larger than a tile.
#   - the rest is as in 2.4: G's rows unrolled and its columns vectorized, the rows of the tile
#     unrolled, and the zeroing taken apart, last.


def pad(sch: Schedule, rows: int, columns: int) -> None:
    """Round the sides of C up to multiples of the tile, as in phase 2. What is left over is cut off
    where C is read, by inlining, and not by one more copy."""
    sch.pad_einsum(sch.get_sblock("C"), [rows, columns, 1])
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        name = sch.get(block).name_hint
        if name == "C_pad":
            sch.compute_inline(block)
        elif name in ("A_pad", "B_pad"):
            sch.parallel(sch.get_loops(block)[0])


def ladder(sch: Schedule, rows: int, columns: int) -> None:
    """Phase 2 as far as its threads: loops slab (parallel), jo, io, k, ii, ji (vectorized)."""
    pad(sch, rows, columns)
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    slabs = slabs_for(int(sch.get(i).extent) // rows)
    slab, io, ii = sch.split(i, [slabs, None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(slab, jo, io, k, ii, ji)
    sch.parallel(slab)
    sch.vectorize(ji)


@exercise("fused_gelu.3", "Compute the epilogue in the register tile")
def fuse(sch: Schedule) -> None:
    """Keep C in registers, and compute G where a tile of C is finished.

    sch: as `ladder` leaves it, with loops slab, jo, io, k, ii, ji around the block "C", and the
    block "G" after it. It is changed in place.
    """
    # TODO(fused_gelu.3): about 9 lines.
    raise NotImplementedError("fused_gelu.3 fuse")


def pack(sch: Schedule, columns: int) -> None:
    """Copy B to panels, as in 2.5, and pad it on the way. (Left out, as in phase 2, where B fits
    the second-level cache and nothing has to be filled up.)"""
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), lambda k, j: (j // columns, k, j % columns))
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [None, columns])
    sch.reorder(panel, k, column)
    sch.parallel(panel)
    sch.vectorize(column)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if sch.get(block).name_hint == "B_pad":
            sch.compute_inline(block)
    # G stops at the edge of the result. Only the last panel can reach it: the others are compiled
    # without that test, which would keep them from being vectors.
    sch.annotate(sch.get_loops(product)[1], "pragma_loop_partition_hint", True)


# ---------------------------------------------------------------------------------- 4 what it costs
#
# Before you look at the times, work out what they should be. The product takes 2 * M * N * K
# operations. The epilogue takes some tens for each element of G, whoever computes it and where; at
# K = 1024 that is a percent or two of the product's. What the passes cost is memory: a pass over
# G reads and writes 4 bytes for each element.
#
# Assume that arithmetic runs at the peak, that a pass over memory runs at the bandwidth with its
# arithmetic hidden behind it, and that one follows the other.


@exercise("fused_gelu.4", "Predict it")
def predict(
    M: int, N: int, K: int, operations: int, gflops: float, gbytes: float
) -> tuple[float, float]:
    """(seconds when fused, seconds in three passes) of G = gelu(A @ B + bias).

    operations: what the epilogue takes for each element of G. gflops, gbytes: the machine's peak in
    1e9 operations, and its bandwidth in 1e9 bytes, a second. Fused, everything is arithmetic. In
    three passes the product is arithmetic, and the bias and the GELU each read and write all
    elements of G, of 4 bytes each.
    """
    # TODO(fused_gelu.4): about 4 lines.
    raise NotImplementedError("fused_gelu.4 predict")


# --------------------------------------------------------------------------------- 5 on a GPU
#
# Phase 2's ladder for a GPU, 2.6 to 2.9, treats the block "C" of this expression as it always did:
# in the end each thread has its tile of C in registers, "C_local", and the block of that name
# stores it to C, in global memory. The block "G" stands after it with two loops of its own, which
# are bound to nothing. Bind them, and there are two kernels: the first writes C, M * N * 4 bytes
# that a GPU has to bring to its memory and back, and the second reads it.
#
# One kernel is better, and it is the other way round from 2.4: there a block was moved into the
# tile. Here the tile's own store can do G's work, if G is inlined into the block that writes what G
# reads, with `sch.reverse_compute_inline(block)`. ("Reverse", because compute_inline goes the usual
# way, from a block into its readers.)


@exercise("fused_gelu.5", "One kernel on a GPU", target=GPU)
def fuse_kernels(sch: Schedule) -> None:
    """Compute G where each thread stores its tile, so that C never is in global memory.

    sch: as phase 2's GPU ladder leaves it: threads' loops around "C_update" and "C_local", which
    stores to C; then the block "G" with its loops i and j. The store stays vectorized.
    """
    # TODO(fused_gelu.5): one line will do.
    raise NotImplementedError("fused_gelu.5 fuse_kernels")


# When you run this file, ask yourself: in a fused kernel, what does the GELU still cost, and where
# has the rest of its time gone?
