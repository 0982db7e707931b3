"""Phase 1: tensor expressions, or how to say WHAT to compute.

    python -m tvm_practice.te_basics            run this lesson
    python -m tvm_practice.te_basics --hint 1.1 a nudge, when you are stuck

A compiler for tensor programs starts from one decision: the description of a result is kept apart
from the order in which it is computed. In PyTorch the line `c = a @ b` is both. It runs at once, by
a kernel somebody else wrote, for the machines they wrote it for. In TVM you first describe a
result, element by element, in a tensor expression (TE). No loop order, no vector width, no thread
is mentioned. Those are the schedule's business, and the schedule is phase 2.

Three functions make a tensor expression:

    te.placeholder(shape, name=...)      a tensor that will be given: an input
    te.compute(shape, rule, name=...)    a tensor whose element [i, j, ...] is rule(i, j, ...)
    te.reduce_axis((0, n), name=...)     an index that runs inside the rule, for te.sum or te.max

Fill in the functions marked TODO, one after the other, and run this file after each. Delete the
`raise` when you write yours. An exercise you have not solved yet is no error: the reference stands
in for it.
"""

from tvm import te

from tvm_practice.common.exercise import exercise

# -------------------------------------------------------------------------- worked: vector addition
#
# C[i] = A[i] + B[i]. The rule is an ordinary Python function of the index. TVM calls it once, with
# a symbol for i, and keeps the expression that comes back: nothing is added here.


def vector_add(n: int) -> list[te.Tensor]:
    """C = A + B for float32 vectors of length n; returns [A, B, C]."""
    A = te.placeholder((n,), name="A")
    B = te.placeholder((n,), name="B")
    C = te.compute((n,), lambda i: A[i] + B[i], name="C")
    return [A, B, C]


# What becomes of it, step by step (run this file to see each):
#
#     function = te.create_prim_func([A, B, C])     TensorIR: a loop over i around a block named "C"
#     executable = tvm.compile(function, target)    machine code, through LLVM
#     executable["main"](a, b, c)                   runs it: the output is passed in, as inputs are
#
# The loop `for i in range(n)` is only the default. That every i may be computed in any order, or
# all at once, is known from the expression: a schedule can use it, and needs no analysis to prove
# it.

# ---------------------------------------------------------------------------------- 1.1 a reduction
#
# A matrix product has an index that is in the inputs and not in the output: C[i, j] is a sum over
# k. Such an index is a reduction axis. It is declared outside the rule and consumed by te.sum:
#
#     k = te.reduce_axis((0, K), name="k")
#     te.sum(<expression in i, j and k>, axis=k)
#
# For comparison, the sum of each row of a matrix, written out:


def row_sum(M: int, N: int) -> list[te.Tensor]:
    """S[i] = sum over j of A[i, j]; returns [A, S]."""
    A = te.placeholder((M, N), name="A")
    j = te.reduce_axis((0, N), name="j")
    S = te.compute((M,), lambda i: te.sum(A[i, j], axis=j), name="S")
    return [A, S]


@exercise("1.1", "Matrix multiplication")
def matmul(M: int, N: int, K: int) -> list[te.Tensor]:
    """C[i, j] = sum over k of A[i, k] * B[k, j], in float32.

    A is M x K, B is K x N, C is M x N. Name the tensors "A", "B", "C" and the reduction axis "k".
    Return [A, B, C].
    """
    # TODO(1.1): about 5 lines.
    raise NotImplementedError("1.1 matmul")


# ------------------------------------------------------------------------- 1.2 stages, broadcasting
#
# A compute may read another compute: each is a stage. Below, the second stage reads the first, and
# a vector is broadcast over rows simply by leaving an index out. TVM keeps the stages apart:
# whether they become two loops over memory or one is, again, a matter of schedule.


def scale_and_shift(M: int, N: int) -> list[te.Tensor]:
    """Y[i, j] = X[i, j] * s[i] + 1, a factor for every row; returns [X, s, Y]."""
    X = te.placeholder((M, N), name="X")
    s = te.placeholder((M,), name="s")
    scaled = te.compute((M, N), lambda i, j: X[i, j] * s[i], name="scaled")
    Y = te.compute((M, N), lambda i, j: scaled[i, j] + 1.0, name="Y")
    return [X, s, Y]


@exercise("1.2", "Bias and ReLU: two stages")
def bias_relu(M: int, N: int) -> list[te.Tensor]:
    """Y[i, j] = max(X[i, j] + bias[j], 0), in float32, as two stages.

    X is M x N; bias has N elements, one for each column. The first stage adds the bias, the second
    applies te.max(expression, 0.0). Name the tensors "X", "bias", "biased", "Y". Return [X, bias,
    Y].
    """
    # TODO(1.2): about 5 lines.
    raise NotImplementedError("1.2 bias_relu")


# ------------------------------------------------------------------ 1.3 several reductions in a row
#
# The softmax of a row is exp(x[j]) / sum over j of exp(x[j]). Written like that it fails on large
# numbers: exp(89) is beyond float32, and inf / inf is not a number. Every library therefore
# subtracts the row's maximum first, which changes nothing mathematically, since the factor
# exp(-max) cancels:
#
#     highest[i]   = max over j of X[i, j]
#     e[i, j]      = exp(X[i, j] - highest[i])          the largest is exp(0) = 1
#     total[i]     = sum over j of e[i, j]
#     Y[i, j]      = e[i, j] / total[i]
#
# te.max with axis=... reduces, like te.sum. Give each reduction an axis of its own: two loops that
# have nothing to do with each other should not share a name.


@exercise("1.3", "Row softmax, stable for large values")
def softmax(M: int, N: int) -> list[te.Tensor]:
    """Softmax over each row of X (M x N, float32), right for values of any size; returns [X, Y].

    Four stages, as above. Name the reduction axes as you like, the last stage "Y".
    """
    # TODO(1.3): about 8 lines.
    raise NotImplementedError("1.3 softmax")


# ------------------------------------------------------------------------- 1.4 neighbours, boundary
#
# A rule may read at any index computed from its own. At the boundary the neighbour does not exist,
# and the rule must say what stands in for it. te.if_then_else(condition, yes, no) chooses, and
# evaluates only what it chose, so it also guards against reading outside the tensor. Conditions are
# combined with te.all and te.any: Python's `and` and `if` would want a truth value now, while i is
# still a symbol.


def shift_right(n: int) -> list[te.Tensor]:
    """B[i] = A[i - 1], and B[0] = 0; returns [A, B]."""
    A = te.placeholder((n,), name="A")
    B = te.compute((n,), lambda i: te.if_then_else(i > 0, A[i - 1], 0.0), name="B")
    return [A, B]


@exercise("1.4", "Three-point stencil with a boundary")
def stencil(n: int) -> list[te.Tensor]:
    """B[i] = (A[i-1] + A[i] + A[i+1]) / 3 in float32, where A counts as 0 outside of 0 <= i < n;
    returns [A, B].

    n may be as small as 1. Name the tensors "A" and "B".
    """
    # TODO(1.4): about 6 lines.
    raise NotImplementedError("1.4 stencil")


# ---------------------------------------------------------------------------------- what to look at
#
# When you run this file, it ends by compiling your matmul for an x86-64 CPU, for an AArch64 CPU and
# for CUDA. It is the same expression three times. That is the answer to this lesson's key question
# in one sight:
#
#     Why does TVM separate what is computed from how?
