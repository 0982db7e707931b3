"""Reference answers to phase 1."""

from tvm import te


def matmul(M: int, N: int, K: int) -> list[te.Tensor]:
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


def bias_relu(M: int, N: int) -> list[te.Tensor]:
    X = te.placeholder((M, N), name="X")
    bias = te.placeholder((N,), name="bias")
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias[j], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


def softmax(M: int, N: int) -> list[te.Tensor]:
    X = te.placeholder((M, N), name="X")
    j_max = te.reduce_axis((0, N), name="j_max")
    highest = te.compute((M,), lambda i: te.max(X[i, j_max], axis=j_max), name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]), name="e")
    j_sum = te.reduce_axis((0, N), name="j_sum")
    total = te.compute((M,), lambda i: te.sum(e[i, j_sum], axis=j_sum), name="total")
    Y = te.compute((M, N), lambda i, j: e[i, j] / total[i], name="Y")
    return [X, Y]


def stencil(n: int) -> list[te.Tensor]:
    A = te.placeholder((n,), name="A")

    def rule(i):
        left = te.if_then_else(i > 0, A[i - 1], 0.0)
        right = te.if_then_else(i < n - 1, A[i + 1], 0.0)
        return (left + A[i] + right) / 3.0

    B = te.compute((n,), rule, name="B")
    return [A, B]
