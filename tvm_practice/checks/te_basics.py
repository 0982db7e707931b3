"""What "done" means in phase 1: the declared expression computes the right numbers, at shapes that show a swapped index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tvm_practice.checks import Trial, check
from tvm_practice.common import verify
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.target import build
from tvm_practice.common.verify import Wrong


def declared(
    body: Callable, trial: Trial, sizes: Sequence[int], shapes: dict[str, tuple[int, ...]]
):
    """Call the body, and return its tensors and their PrimFunc, after checking names, order, shapes and dtypes."""
    from tvm import te

    call = f"{body.__name__}({', '.join(map(str, sizes))})"
    tensors = trial.call(body, *sizes)
    wanted = ", ".join(shapes)
    if not isinstance(tensors, list | tuple) or not all(isinstance(t, te.Tensor) for t in tensors):
        returned = type(tensors).__name__
        raise Wrong(f"{call} returned {returned}; expected the list of tensors [{wanted}].")
    names = [tensor.op.name for tensor in tensors]
    if len(names) != len(shapes):
        raise Wrong(f"{call} returned {len(names)} tensors, {names}; expected [{wanted}].")
    for tensor, (name, shape) in zip(tensors, shapes.items(), strict=True):
        if tensor.op.name != name:
            raise Wrong(
                f"{call} returned tensors named {names}; expected [{wanted}], in this order. Later steps "
                "find them by these names."
            )
        got = tuple(int(extent) for extent in tensor.shape)
        if got != shape:
            raise Wrong(f"In {call}, {name} has shape {got}; expected {shape}.")
        if tensor.dtype != "float32":
            raise Wrong(f"In {call}, {name} has dtype {tensor.dtype}; expected float32.")
    try:
        function = te.create_prim_func(list(tensors))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise Wrong(f"TVM could not make a function of what {call} returned: {reason}") from None
    trial.show(loop_nest(function))
    verify.assert_reads_in_bounds(function)
    return tensors, function


def stages(function) -> list[str]:
    return [block.name for block in loop_nest(function).blocks]


@check(
    "1.1",
    hints=(
        "Look at row_sum above: same three parts, with two placeholders and one more index in the rule.",
        '`te.reduce_axis((0, K), name="k")` first; then the rule of `te.compute((M, N), ...)` takes i and j and returns a '
        "`te.sum` of a product over `axis=k`.",
        '`C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")`',
    ),
)
def matmul(body: Callable, trial: Trial) -> None:
    for M, N, K in ((17, 9, 33), (6, 31, 14)):
        shapes = {"A": (M, K), "B": (K, N), "C": (M, N)}
        _, function = declared(body, trial, (M, N, K), shapes)
        a, b = verify.random_array(trial.rng, M, K), verify.random_array(trial.rng, K, N)
        got = verify.run(build(function), (a, b), (M, N))
        want, magnitude = verify.matmul_reference(a, b)
        mistakes = (
            (
                want - np.outer(a[:, -1], b[-1]),
                "The last k is missing: a reduce_axis runs up to, not including, its end.",
            ),
            (want - np.outer(a[:, 0], b[0]), "The first k is missing: the reduction starts at 0."),
            (
                a.sum(1)[:, None] + b.sum(0),
                "That is the sum of A[i, k] + B[k, j]; the terms are products.",
            ),
        )
        verify.assert_close(got, want, magnitude, K, "C", mistakes)


@check(
    "1.2",
    hints=(
        "Two te.compute calls; the second reads the tensor that the first returned.",
        "Column j of X gets bias[j]: the row index is simply not used. ReLU is `te.max(..., 0.0)`.",
        '`biased = te.compute((M, N), lambda i, j: X[i, j] + bias[j], name="biased")`, then '
        '`Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")`',
    ),
)
def bias_relu(body: Callable, trial: Trial) -> None:
    for M, N in ((13, 7), (5, 18)):
        shapes = {"X": (M, N), "bias": (N,), "Y": (M, N)}
        _, function = declared(body, trial, (M, N), shapes)
        x, bias = verify.random_array(trial.rng, M, N), verify.random_array(trial.rng, N)
        got = verify.run(build(function), (x, bias), (M, N))
        want = np.maximum(x + bias.astype("float64"), 0)
        columns = np.resize(bias, M)[:, None]
        mistakes = (
            (np.maximum(x, 0) + bias, "ReLU was applied before the bias was added."),
            (np.minimum(x + bias, 0), "That is the minimum with 0: ReLU keeps what is positive."),
            (x + bias, "The bias is added, but negative values are still there: ReLU is missing."),
            (np.maximum(x, 0), "ReLU is applied, but the bias is not added."),
            (np.maximum(x + columns, 0), "bias has one element for each column: index it with j."),
        )
        verify.assert_close(got, want, np.abs(x) + np.abs(bias), 1, "Y", mistakes)
        if len(stages(function)) < 2:
            raise Wrong(
                "The numbers are right, but there is one stage only. Give the biased values a te.compute of their own: that a "
                "compiler may fuse two stages is a later lesson, and needs two."
            )


@check(
    "1.3",
    hints=(
        "Four te.compute calls: two of them reduce and have shape (M,), two are elementwise and have shape (M, N).",
        "`te.max(X[i, j], axis=j)` reduces with a reduction axis j that you declare before; the sum needs a reduction axis of its "
        "own. Inside an elementwise stage, i and j are just the lambda's arguments.",
        "`highest = te.compute((M,), lambda i: te.max(X[i, j1], axis=j1))`, "
        "`e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]))`, then `total` with a second axis, then `Y`.",
    ),
)
def softmax(body: Callable, trial: Trial) -> None:
    for M, N in ((11, 6), (4, 19)):
        _, function = declared(body, trial, (M, N), {"X": (M, N), "Y": (M, N)})
        built = build(function)
        small = verify.random_array(trial.rng, M, N)
        _compare_softmax(verify.run(built, (small,), (M, N)), small, "Y")
        for offset, what in ((1000.0, "around +1000"), (-1000.0, "around -1000")):
            large = (small + offset).astype("float32")
            try:
                got = verify.run(built, (large,), (M, N))
                _compare_softmax(got, large, "Y")
            except Wrong as error:
                raise Wrong(
                    f"Softmax is right for small values, but not for rows {what}: {error} Subtract each row's own "
                    "maximum before te.exp, so that the largest exponent is 0."
                ) from None


def _compare_softmax(got: np.ndarray, x: np.ndarray, what: str) -> None:
    wide = x.astype("float64")
    e = np.exp(wide - wide.max(1, keepdims=True))
    want = e / e.sum(1, keepdims=True)
    plain = np.exp(np.minimum(wide, 700))
    by_column = np.exp(wide - wide.max(0))
    mistakes = (
        (e, "The rows do not add up to 1: the division by the row's sum is missing."),
        (by_column / by_column.sum(0), "The columns add up to 1: reduce over j, along a row."),
        (np.log(want), "That is the logarithm of the softmax."),
        (e / e.sum(), "All elements together add up to 1: each row needs its own sum."),
        (
            plain / e.sum(1, keepdims=True),
            "The sum is of shifted exponentials, the numerator is not shifted.",
        ),
        (
            e / plain.sum(1, keepdims=True),
            "The numerator is shifted by the maximum, the sum is not.",
        ),
    )
    # The exponent's error is relative to |x - max|, and expf is good to a few units in the last place.
    magnitude = want * (4 + np.abs(wide - wide.max(1, keepdims=True)))
    verify.assert_close(got, want, magnitude, x.shape[1] + 4, what, mistakes)


@check(
    "1.4",
    hints=(
        "shift_right above guards its left end; do the same at both ends.",
        "Two te.if_then_else: A[i - 1] where i > 0, A[i + 1] where i < n - 1, else 0.0.",
        "`te.if_then_else(i > 0, A[i - 1], 0.0) + A[i] + te.if_then_else(i < n - 1, A[i + 1], 0.0)`, divided by 3.0",
    ),
)
def stencil(body: Callable, trial: Trial) -> None:
    for n in (23, 2, 1):
        _, function = declared(body, trial, (n,), {"A": (n,), "B": (n,)})
        a = verify.random_array(trial.rng, n)
        got = verify.run(build(function), (a,), (n,))
        padded = np.pad(a.astype("float64"), 1)
        total = padded[:-2] + padded[1:-1] + padded[2:]
        magnitude = (np.abs(padded[:-2]) + np.abs(padded[1:-1]) + np.abs(padded[2:])) / 3
        edge = np.pad(a.astype("float64"), 1, mode="edge")
        wrapped = np.pad(a.astype("float64"), 1, mode="wrap")
        neighbours = np.pad(np.ones(n), 1)
        copied, zeroed = total / 3, total / 3
        copied, zeroed = copied.copy(), zeroed.copy()
        copied[[0, -1]], zeroed[[0, -1]] = a[[0, -1]], 0
        mistakes = (
            (total, "The division by 3 is missing."),
            (
                (edge[:-2] + edge[1:-1] + edge[2:]) / 3,
                "Outside, A counts as 0, not as its nearest element.",
            ),
            (
                (wrapped[:-2] + wrapped[1:-1] + wrapped[2:]) / 3,
                "Outside, A counts as 0; it does not wrap around.",
            ),
            (
                total / (neighbours[:-2] + neighbours[1:-1] + neighbours[2:]),
                "Divide by 3 at the ends too, not by the number of neighbours that exist.",
            ),
            (
                copied,
                "The ends are copied from A; they too are averages, with 0 for the missing neighbour.",
            ),
            (zeroed, "The ends are 0; only the neighbour outside counts as 0."),
        )
        verify.assert_close(got, total / 3, magnitude, 4, "B", mistakes)
