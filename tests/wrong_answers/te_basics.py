"""Answers to phase 1: reductions without an axis, swapped indices, maxima that are not the row's,
ends left unguarded."""

import math

import numpy as np
from tvm import te, tirx, topi

from tests.wrong_answers import right, wrong

# --------------------------------------------------------------------------------------------- 1.1


def matrices(M, N, K, dtype="float32"):
    A = te.placeholder((M, K), name="A", dtype=dtype)
    B = te.placeholder((K, N), name="B", dtype=dtype)
    return A, B


@wrong("1.1", "no te.sum or te.max with axis=k reduces over it", hint="row_sum above reduces too")
def forgets_the_sum(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: A[i, k] * B[k, j], name="C")
    return [A, B, C]


@wrong("1.1", "must be told over what: axis=k")
def sum_without_axis(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j]), name="C")
    return [A, B, C]


@wrong("1.1", "axis= takes what te.reduce_axis returned")
def axis_by_its_name(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis="k"), name="C")
    return [A, B, C]


@wrong("1.1", "That is Python's own function")
def python_sum(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong(
    "1.1",
    "A reduction axis is declared outside, and is no argument",
    hint="Which names does the shape",
)
def k_as_an_argument_of_the_rule(M, N, K):
    A, B = matrices(M, N, K)
    C = te.compute((M, N), lambda i, j, k: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong(
    "1.1", "Each call of te.reduce_axis makes a new one", hint="Count the calls of te.reduce_axis"
)
def declares_k_twice(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute(
        (M, N),
        lambda i, j: te.sum(A[i, k] * B[k, j], axis=te.reduce_axis((0, K), name="k")),
        name="C",
    )
    return [A, B, C]


@wrong(
    "1.1",
    "but k is an argument of that rule, which hides an axis of the same name",
    hint="The rule has three names",
)
def k_hidden_by_an_argument_of_the_rule(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")  # noqa: F841
    C = te.compute((M, N), lambda i, k: te.sum(A[i, k] * B[k, k], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "te.reduce_axis takes a pair, (0, n)")
def reduce_axis_of_a_number(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis(K, name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "te.placeholder takes the whole shape as its first argument")
def placeholder_of_two_numbers(M, N, K):
    A = te.placeholder(M, K, name="A")
    B = te.placeholder(K, N, name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "The second index of B, `k`, runs from 0 to 32", hint="Write each shape beside its")
def reads_b_transposed(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[j, k], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "The first index of A, `k`, runs from 0 to 32")
def reads_a_transposed(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[k, i] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "The second index of B, `i`, runs from 0 to 16")
def swaps_i_and_j(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[j, k] * B[k, i], axis=k), name="C")
    return [A, B, C]


@wrong(
    "1.1",
    "C has shape (9, 17); expected (17, 9). Two extents are swapped.",
    hint="te.compute hands the rule",
)
def c_transposed(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((N, M), lambda j, i: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "have one index for each dimension")
def products_that_nobody_adds(M, N, K):
    A, B = matrices(M, N, K)
    C = te.compute((M, N, K), lambda i, j, k: A[i, k] * B[k, j], name="C")
    return [A, B, C]


@wrong("1.1", "runs over range(0, 32); expected (0, K)", hint="The axis takes a pair (first")
def k_ends_one_early(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K - 1), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "runs over range(0, 34); expected (0, K)")
def k_ends_one_late(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K + 1), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "It starts at 0.")
def k_starts_at_one(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((1, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "that is N; expected (0, K)")
def k_runs_over_n(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, N), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "runs over range(0, 33); expected (0, K), which is range(0, 14)")
def k_is_a_constant(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, 33), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "runs over range(0, 64); expected (0, K)")
def right_for_small_k_only(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, min(K, 64)), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "the terms are products", hint="Write C[0, 0] out by hand")
def adds_instead_of_multiplying(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] + B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "the largest of the products, not their sum")
def maximum_instead_of_sum(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.max(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "must be all that a rule returns", hint="Is there anything around")
def scales_the_sum_in_the_same_rule(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: 0.5 * te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "Python's loop wrote all 33 terms", hint="A Python `for` is a loop")
def unrolled_by_python(M, N, K):
    A, B = matrices(M, N, K)
    C = te.compute((M, N), lambda i, j: sum(A[i, k] * B[k, j] for k in range(K)), name="C")
    return [A, B, C]


@wrong("1.1", "it is product that sums, and C only reads it")
def sums_in_another_stage(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    product = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="product")
    C = te.compute((M, N), lambda i, j: product[i, j], name="C")
    return [A, B, C]


@wrong("1.1", "expected one axis, named k")
def axis_of_another_name(M, N, K):
    A, B = matrices(M, N, K)
    r = te.reduce_axis((0, K), name="r")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, r] * B[r, j], axis=r), name="C")
    return [A, B, C]


@wrong("1.1", "A has dtype float64; expected float32")
def in_float64(M, N, K):
    A, B = matrices(M, N, K, "float64")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "further off than float32 rounding explains")
def in_float16_between(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    half = te.compute((M, K), lambda i, k: A[i, k].astype("float16"), name="half")
    C = te.compute(
        (M, N), lambda i, j: te.sum(half[i, k].astype("float32") * B[k, j], axis=k), name="C"
    )
    return [A, B, C]


@wrong("1.1", "C is zero everywhere")
def only_zeros(M, N, K):
    A, B = matrices(M, N, K)
    return [A, B, te.compute((M, N), lambda i, j: te.const(0.0, "float32"), name="C")]


@wrong(
    "1.1", "returned one tensor, C; expected the list [A, B, C]", hint="The docstring ends with the"
)
def returns_c_alone(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    return te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")


@wrong("1.1", "the right tensors, but the order is [A, B, C]")
def returns_c_first(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return C, A, B


@wrong("1.1", "returned None; expected the list [A, B, C]")
def returns_nothing(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")


@wrong("1.1", "is its `return` missing?")
def rule_returns_nothing(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")

    def rule(i, j):
        te.sum(A[i, k] * B[k, j], axis=k)

    C = te.compute((M, N), rule, name="C")
    return [A, B, C]


@wrong("1.1", "returned a PrimFunc; expected the list")
def returns_a_function(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return te.create_prim_func([A, B, C])


@wrong("1.1", "element 2 is a ndarray")
def computes_with_numpy(M, N, K):
    A, B = matrices(M, N, K)
    return [A, B, np.ones((M, K)) @ np.ones((K, N))]


@wrong("1.1", 'Is name="A" missing?')
def names_nothing(M, N, K):
    A = te.placeholder((M, K))
    B = te.placeholder((K, N))
    k = te.reduce_axis((0, K))
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k))
    return [A, B, C]


@wrong("1.1", "reads a te.placeholder named A that is not in the returned list")
def returns_another_a(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [te.placeholder((M, K), name="A"), B, C]


@wrong("1.1", "C is a te.placeholder, so nothing computes it")
def c_is_an_input(M, N, K):
    A, B = matrices(M, N, K)
    return [A, B, te.placeholder((M, N), name="C")]


@wrong("1.1", "A whole product is not an operation of TE")
def matrix_product_operator(M, N, K):
    A, B = matrices(M, N, K)
    return [A, B, A @ B]


@wrong("1.1", "without slices")
def slices(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, :] * B[:, j], axis=k), name="C")
    return [A, B, C]


@wrong("1.1", "A has a symbolic shape")
def symbolic_rows(M, N, K):
    A = te.placeholder((te.var("rows"), K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


@right("1.1")
def products_in_a_stage_then_their_sum(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    products = te.compute((M, N, K), lambda i, j, k: A[i, k] * B[k, j], name="products")
    C = te.compute((M, N), lambda i, j: te.sum(products[i, j, k], axis=[k]), name="C")
    return [A, B, C]


@right("1.1")
def b_transposed_first(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    Bt = te.compute((N, K), lambda j, k: B[k, j], name="Bt")
    return A, B, te.compute((M, N), lambda i, j: te.sum(Bt[j, k] * A[i, k], axis=k), name="C")


@right("1.1")
def with_helper_functions(M, N, K):
    def matrix(rows, columns, name):
        return te.placeholder((rows, columns), "float32", name)

    def rule(row, column):
        k = te.reduce_axis((0, K), name="k")
        return te.sum(A(row, k) * B(k, column), axis=[k])

    A, B = matrix(M, K, "A"), matrix(K, N, "B")
    return [A, B, te.compute((M, N), rule, name="C")]


@right("1.1")
def k_runs_backwards(M, N, K):
    A, B = matrices(M, N, K)
    k = te.reduce_axis((0, K), name="k")
    C = te.compute(
        (M, N), lambda *ij: te.sum(A[ij[0], K - 1 - k] * B[K - 1 - k, ij[1]], k), name="C"
    )
    return [A, B, C]


# --------------------------------------------------------------------------------------------- 1.2


def inputs(M, N):
    return te.placeholder((M, N), name="X"), te.placeholder((N,), name="bias")


def add(X, bias):
    return te.compute(X.shape, lambda i, j: X[i, j] + bias[j], name="biased")


@wrong("1.2", "ReLU was applied before the bias was added", hint="Two stages with one job each")
def relu_first(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: te.max(X[i, j], 0.0), name="biased")
    Y = te.compute((M, N), lambda i, j: biased[i, j] + bias[j], name="Y")
    return [X, bias, Y]


@wrong(
    "1.2",
    "The index `i` into bias runs from 0 to 12, but only 0 to 6 exist",
    hint="How many elements has bias",
)
def bias_of_the_row(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias[i], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "bias has shape (13,); expected (7,)")
def bias_as_long_as_a_column(M, N):
    X, bias = te.placeholder((M, N), name="X"), te.placeholder((M,), name="bias")
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias[i], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "Every column got bias[0]")
def one_bias_for_all(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias[0], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "with as many indices as it has dimensions")
def bias_with_two_indices(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias[i, j], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "index every tensor in it fully")
def bias_without_an_index(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j] + bias, name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "The bias is subtracted")
def subtracts(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j] - bias[j], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "X is multiplied by the bias")
def multiplies(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j] * bias[j], name="biased")
    Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "ReLU is missing", hint="Put -2 and then 3 into your")
def no_relu(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [X, bias, te.compute((M, N), lambda i, j: biased[i, j], name="Y")]


@wrong("1.2", "but the bias is not added")
def reads_x_in_the_second_stage(M, N):
    X, bias = inputs(M, N)
    add(X, bias)
    return [X, bias, te.compute((M, N), lambda i, j: te.max(X[i, j], 0.0), name="Y")]


@wrong("1.2", "the minimum with 0")
def keeps_the_negative(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [X, bias, te.compute((M, N), lambda i, j: te.min(biased[i, j], 0.0), name="Y")]


@wrong("1.2", "That is the absolute value")
def absolute_value(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [X, bias, te.compute((M, N), lambda i, j: te.abs(biased[i, j]), name="Y")]


@wrong("1.2", "= 6, expected")
def with_a_ceiling(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    Y = te.compute((M, N), lambda i, j: te.min(te.max(biased[i, j], 0.0), 6.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "Python's max and min compare now", hint="Python runs your rule once")
def python_max(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [X, bias, te.compute((M, N), lambda i, j: max(biased[i, j], 0.0), name="Y")]


@wrong("1.2", "Python's `if` decides now")
def python_if(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)

    def rule(i, j):
        if biased[i, j] > 0.0:
            return biased[i, j]
        return 0.0

    return [X, bias, te.compute((M, N), rule, name="Y")]


@wrong("1.2", "must be told over what", hint="te.max has two uses: the")
def max_of_one_value(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [X, bias, te.compute((M, N), lambda i, j: te.max(biased[i, j]), name="Y")]


@wrong("1.2", "That is each row's maximum")
def maximum_of_the_row(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    k = te.reduce_axis((0, N), name="k")
    return [X, bias, te.compute((M, N), lambda i, j: te.max(biased[i, k], axis=k), name="Y")]


@wrong("1.2", "there is one stage only")
def one_stage(M, N):
    X, bias = inputs(M, N)
    Y = te.compute((M, N), lambda i, j: te.max(X[i, j] + bias[j], 0.0), name="Y")
    return [X, bias, Y]


@wrong("1.2", "It holds Y already, and Y only copies it")
def second_stage_copies(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: te.max(X[i, j] + bias[j], 0.0), name="biased")
    return [X, bias, te.compute((M, N), lambda i, j: biased[i, j], name="Y")]


@wrong("1.2", "It is a copy of X, and Y does all the work")
def first_stage_copies(M, N):
    X, bias = inputs(M, N)
    biased = te.compute((M, N), lambda i, j: X[i, j], name="biased")
    return [X, bias, te.compute((M, N), lambda i, j: te.max(biased[i, j] + bias[j], 0.0), name="Y")]


@wrong("1.2", 'no stage is named "biased"; before Y there is Z')
def first_stage_has_another_name(M, N):
    X, bias = inputs(M, N)
    Z = te.compute((M, N), lambda i, j: X[i, j] + bias[j], name="Z")
    return [X, bias, te.compute((M, N), lambda i, j: te.max(Z[i, j], 0.0), name="Y")]


@wrong(
    "1.2",
    "returned 4 tensors, [X, bias, biased, Y]; expected 3",
    hint="The docstring ends with the",
)
def returns_the_stage_too(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [X, bias, biased, te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")]


@wrong("1.2", "returned tensors named [X, bias, biased]")
def returns_the_wrong_stage(M, N):
    X, bias = inputs(M, N)
    return [X, bias, add(X, bias)]


@wrong("1.2", "the order is [X, bias, Y]")
def returns_bias_first(M, N):
    X, bias = inputs(M, N)
    biased = add(X, bias)
    return [bias, X, te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")]


@right("1.2")
def chooses_with_if_then_else(M, N):
    X, bias = inputs(M, N)
    biased = te.compute(X.shape, lambda *at: bias[at[-1]] + X(*at), name="biased")

    def rule(i, j):
        return te.if_then_else(biased[i, j] > 0.0, biased[i, j], 0.0)

    return X, bias, te.compute(biased.shape, rule, name="Y")


@right("1.2")
def bias_spread_over_the_rows_first(M, N):
    X, bias = inputs(M, N)
    wide = te.compute((M, N), lambda i, j: bias[j], name="wide")
    biased = te.compute((M, N), lambda i, j: X[i, j] + wide[i, j], name="biased")
    return [X, bias, te.compute((M, N), lambda i, j: te.max(0.0, biased[i, j]), name="Y")]


@right("1.2")
def adds_with_topi(M, N):
    X, bias = inputs(M, N)
    added = topi.add(X, bias)
    biased = te.compute((M, N), lambda i, j: added[i, j], name="biased")
    return [X, bias, te.compute((M, N), lambda i, j: te.max(biased[i, j], 0), name="Y")]


# --------------------------------------------------------------------------------------------- 1.3


def row_maximum(X):
    M, N = X.shape
    j = te.reduce_axis((0, N), name="j_max")
    return te.compute((M,), lambda i: te.max(X[i, j], axis=j), name="highest")


def shifted_exponentials(X):
    highest = row_maximum(X)
    return te.compute(X.shape, lambda i, j: te.exp(X[i, j] - highest[i]), name="e")


def row_sum(e):
    M, N = e.shape
    j = te.reduce_axis((0, N), name="j_sum")
    return te.compute((M,), lambda i: te.sum(e[i, j], axis=j), name="total")


def divided(e):
    total = row_sum(e)
    return te.compute(e.shape, lambda i, j: e[i, j] / total[i], name="Y")


@wrong(
    "1.3",
    "not for values around +1000: 66 of 66 elements of Y are not a number",
    hint="exp(89) is too large for",
)
def no_shift(M, N):
    X = te.placeholder((M, N), name="X")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j]), name="e")
    return [X, divided(e)]


@wrong("1.3", "not for values around +1000: 66 of 66 elements of Y are wrong")
def clamps_instead_of_shifting(M, N):
    X = te.placeholder((M, N), name="X")
    e = te.compute((M, N), lambda i, j: te.exp(te.min(X[i, j], 80.0)), name="e")
    return [X, divided(e)]


@wrong("1.3", "the maximum of each row and 0")
def maximum_at_least_zero(M, N):
    X = te.placeholder((M, N), name="X")
    j = te.reduce_axis((0, N), name="j")
    highest = te.compute((M,), lambda i: te.max(te.max(X[i, j], 0.0), axis=j), name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]), name="e")
    return [X, divided(e)]


@wrong("1.3", "highest holds the maximum of the whole matrix", hint="One value for each row: what")
def maximum_of_the_matrix(M, N):
    X = te.placeholder((M, N), name="X")
    i_max, j_max = te.reduce_axis((0, M), name="i_max"), te.reduce_axis((0, N), name="j_max")
    highest = te.compute(
        (1,), lambda _: te.max(X[i_max, j_max], axis=[i_max, j_max]), name="highest"
    )
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[0]), name="e")
    return [X, divided(e)]


@wrong("1.3", "The maximum is that of each column", hint="In a reduction one index")
def maximum_of_the_column(M, N):
    X = te.placeholder((M, N), name="X")
    i_max = te.reduce_axis((0, M), name="i_max")
    highest = te.compute((N,), lambda j: te.max(X[i_max, j], axis=i_max), name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[j]), name="e")
    return [X, divided(e)]


@wrong("1.3", "the minimum of each row; it must be the maximum")
def subtracts_the_minimum(M, N):
    X = te.placeholder((M, N), name="X")
    j = te.reduce_axis((0, N), name="j")
    lowest = te.compute((M,), lambda i: te.min(X[i, j], axis=j), name="lowest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - lowest[i]), name="e")
    return [X, divided(e)]


@wrong("1.3", "the sum of each row's values; it must be the maximum")
def subtracts_the_mean(M, N):
    X = te.placeholder((M, N), name="X")
    total = row_sum(X)
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - total[i] / float(N)), name="e")
    return [X, divided(e)]


@wrong("1.3", "No stage holds the maximum of each row")
def subtracts_the_first_element(M, N):
    X = te.placeholder((M, N), name="X")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - X[i, 0]), name="e")
    return [X, divided(e)]


@wrong(
    "1.3", "without its last element: the axis ends too early", hint="The axis takes a pair (first"
)
def maximum_ends_one_early(M, N):
    X = te.placeholder((M, N), name="X")
    j = te.reduce_axis((0, N - 1), name="j")
    highest = te.compute((M,), lambda i: te.max(X[i, j], axis=j), name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]), name="e")
    return [X, divided(e)]


@wrong(
    "1.3", "Stage highest holds each row's maximum: subtract it", hint="At the largest element of"
)
def adds_the_maximum(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] + highest[i]), name="e")
    return [X, divided(e)]


@wrong("1.3", "The sign of the exponent is reversed")
def subtracts_the_other_way_round(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    e = te.compute((M, N), lambda i, j: te.exp(highest[i] - X[i, j]), name="e")
    return [X, divided(e)]


@wrong(
    "1.3",
    "The index `j` into highest runs from 0 to 10, but only 0 to 5 exist",
    hint="A stage of shape (M,) has",
)
def maximum_read_at_j(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[j]), name="e")
    return [X, divided(e)]


@wrong("1.3", "The index `j` into total runs from 0 to 10, but only 0 to 5 exist")
def sum_read_at_j(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    total = row_sum(e)
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[j], name="Y")]


@wrong("1.3", "the division by the row's sum is missing", hint="What must the elements of")
def does_not_divide(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    return [X, te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]), name="Y")]


@wrong("1.3", "multiplied by the row's sum")
def multiplies_by_the_sum(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    total = row_sum(e)
    return [X, te.compute((M, N), lambda i, j: e[i, j] * total[i], name="Y")]


@wrong("1.3", "Each element is divided by the sum of its column")
def divides_by_the_column(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    i_sum = te.reduce_axis((0, M), name="i_sum")
    total = te.compute((N,), lambda j: te.sum(e[i_sum, j], axis=i_sum), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[j], name="Y")]


@wrong(
    "1.3",
    "but j is an argument of that rule, which hides an axis of the same name",
    hint="Give the reduction axis a name",
)
def sum_over_an_argument_of_the_rule(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    total = te.compute((M, N), lambda i, j: te.sum(e[i, j], axis=j), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[i, j], name="Y")]


@wrong("1.3", "The columns add up to 1")
def softmax_of_the_columns(M, N):
    X = te.placeholder((M, N), name="X")
    i_max, i_sum = te.reduce_axis((0, M), name="i_max"), te.reduce_axis((0, M), name="i_sum")
    highest = te.compute((N,), lambda j: te.max(X[i_max, j], axis=i_max), name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[j]), name="e")
    total = te.compute((N,), lambda j: te.sum(e[i_sum, j], axis=i_sum), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[j], name="Y")]


@wrong("1.3", "All elements together add up to 1")
def softmax_of_the_matrix(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    i_sum, j_sum = te.reduce_axis((0, M), name="i_sum"), te.reduce_axis((0, N), name="j_sum")
    total = te.compute((1,), lambda _: te.sum(e[i_sum, j_sum], axis=[i_sum, j_sum]), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[0], name="Y")]


@wrong("1.3", "The divisor is the sum of X")
def divides_by_the_sum_of_x(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    total = row_sum(X)
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[i], name="Y")]


@wrong(
    "1.3",
    "The numerator is shifted by the maximum, the sum is not",
    hint="Numerator and sum are made",
)
def sum_without_shift(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    j_sum = te.reduce_axis((0, N), name="j_sum")
    total = te.compute((M,), lambda i: te.sum(te.exp(X[i, j_sum]), axis=j_sum), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[i], name="Y")]


@wrong("1.3", "the numerator is not shifted")
def numerator_without_shift(M, N):
    X = te.placeholder((M, N), name="X")
    total = row_sum(shifted_exponentials(X))
    return [X, te.compute((M, N), lambda i, j: te.exp(X[i, j]) / total[i], name="Y")]


@wrong("1.3", "That is the logarithm of the softmax", hint="Write one element of Y as")
def log_softmax(M, N):
    X = te.placeholder((M, N), name="X")
    highest, total = row_maximum(X), row_sum(shifted_exponentials(X))

    def rule(i, j):
        return X[i, j] - highest[i] - te.log(total[i])

    return [X, te.compute((M, N), rule, name="Y")]


@wrong("1.3", "te.exp is missing")
def no_exponential(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    return [X, divided(te.compute((M, N), lambda i, j: X[i, j] - highest[i], name="e"))]


@wrong("1.3", "The powers are of 2")
def powers_of_two(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    return [X, divided(te.compute((M, N), lambda i, j: tirx.exp2(X[i, j] - highest[i]), name="e"))]


@wrong("1.3", "j_sum of total runs over range(0, 10); expected (0, N)")
def sum_ends_one_early(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    j_sum = te.reduce_axis((0, N - 1), name="j_sum")
    total = te.compute((M,), lambda i: te.sum(e[i, j_sum], axis=j_sum), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[i], name="Y")]


@wrong("1.3", "j_sum of total runs over range(0, 64); expected (0, N)")
def right_for_short_rows_only(M, N):
    X = te.placeholder((M, N), name="X")
    e = shifted_exponentials(X)
    j_sum = te.reduce_axis((0, min(N, 64)), name="j_sum")
    total = te.compute((M,), lambda i: te.sum(e[i, j_sum], axis=j_sum), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[i], name="Y")]


@wrong("1.3", "Y[0, 0] = 0.0909091")
def uniform(M, N):
    X = te.placeholder((M, N), name="X")
    return [X, te.compute((M, N), lambda i, j: te.const(1.0 / N, "float32"), name="Y")]


@wrong("1.3", "the rule of e uses j_max, but nothing runs j_max", hint="Only a stage that reduces")
def elementwise_over_the_axis(M, N):
    X = te.placeholder((M, N), name="X")
    j_max = te.reduce_axis((0, N), name="j_max")
    highest = te.compute((M,), lambda i: te.max(X[i, j_max], axis=j_max), name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j_max] - highest[i]), name="e")
    return [X, divided(e)]


@wrong("1.3", "must be all that a rule returns", hint="Four sentences, four stages")
def maximum_inside_the_exponent(M, N):
    X = te.placeholder((M, N), name="X")
    k = te.reduce_axis((0, N), name="k")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - te.max(X[i, k], axis=k)), name="e")
    return [X, divided(e)]


@wrong("1.3", "NumPy's and Python's functions want numbers", hint="Python runs your rule once")
def exponential_of_python(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    return [X, divided(te.compute((M, N), lambda i, j: math.exp(X[i, j] - highest[i]), name="e"))]


@wrong(
    "1.3",
    "but nothing is reduced: Python's loop wrote all 11 elements",
    hint="A Python `for` is a loop",
)
def rows_unrolled_by_python(M, N):
    X = te.placeholder((M, N), name="X")

    def maximum(i):
        highest = X[i, 0]
        for j in range(1, N):
            highest = te.max(highest, X[i, j])
        return highest

    highest = te.compute((M,), maximum, name="highest")
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i]), name="e")
    total = te.compute((M,), lambda i: sum(e[i, j] for j in range(N)), name="total")
    return [X, te.compute((M, N), lambda i, j: e[i, j] / total[i], name="Y")]


@wrong("1.3", "returned 5 tensors", hint="The docstring ends with the")
def returns_every_stage(M, N):
    X = te.placeholder((M, N), name="X")
    highest, e = row_maximum(X), shifted_exponentials(X)
    return [X, highest, e, row_sum(e), divided(e)]


@right("1.3")
def shift_is_a_stage(M, N):
    X = te.placeholder((M, N), name="X")
    highest = row_maximum(X)
    shifted = te.compute((M, N), lambda i, j: X[i, j] - highest[i], name="shifted")
    j = te.reduce_axis((0, N), name="j")
    total = te.compute((M,), lambda i: te.sum(te.exp(shifted[i, j]), axis=[j]), name="total")
    return X, te.compute((M, N), lambda i, j: te.exp(shifted[i, j]) / total[i], name="Y")


@right("1.3")
def exponential_of_the_log_softmax(M, N):
    X = te.placeholder((M, N), name="X")
    highest, total = row_maximum(X), row_sum(shifted_exponentials(X))

    def rule(i, j):
        return te.exp(X[i, j] - highest[i] - te.log(total[i]))

    return [X, te.compute((M, N), rule, name="Y")]


@right("1.3")
def columns_of_one(M, N):
    X = te.placeholder((M, N), name="X")
    j_max, j_sum = te.reduce_axis((0, N)), te.reduce_axis((0, N))
    highest = te.compute((M, 1), lambda i, _: te.max(X[i, j_max], axis=j_max))
    e = te.compute((M, N), lambda i, j: te.exp(X[i, j] - highest[i, 0]))
    inverse = te.compute((M, 1), lambda i, _: te.sum(e[i, j_sum], axis=j_sum))
    return [X, te.compute((M, N), lambda i, j: e[i, j] * (1.0 / inverse[i, 0]), name="Y")]


@right("1.3")
def one_axis_for_both_reductions(M, N):
    X = te.placeholder((M, N), name="X")
    j = te.reduce_axis((0, N), name="j")
    highest = te.compute((M,), lambda i: te.max(X[i, j], axis=j), name="highest")
    e = te.compute((M, N), lambda i, k: te.exp(X[i, k] - highest[i]), name="e")
    total = te.compute((M,), lambda i: te.sum(e[i, j], axis=j), name="total")
    return [X, te.compute((M, N), lambda i, k: e[i, k] / total[i], name="Y")]


@right("1.3")
def softmax_of_topi(M, N):
    X = te.placeholder((M, N), name="X")
    softmax = topi.nn.softmax(X, axis=1)
    return [X, te.compute((M, N), lambda i, j: softmax[i, j], name="Y")]


# --------------------------------------------------------------------------------------------- 1.4


def filtered(rule, n):
    """[A, B] with B[i] = rule(A, i)."""
    A = te.placeholder((n,), name="A")
    return [A, te.compute((n,), lambda i: rule(A, i), name="B")]


def guarded(A, i, n):
    """The sum that the reference divides by 3."""
    left = te.if_then_else(i > 0, A[i - 1], 0.0)
    right = te.if_then_else(i < n - 1, A[i + 1], 0.0)
    return left + A[i] + right


@wrong("1.4", "No te.if_then_else guards it", hint="For which i is there no A[i")
def no_guard(n):
    return filtered(lambda A, i: (A[i - 1] + A[i] + A[i + 1]) / 3.0, n)


@wrong(
    "1.4",
    "The index `i + 1` into A runs from 1 to 23, but only 0 to 22 exist there. The other",
    hint="One end is done. At the other",
)
def left_end_only(n):
    return filtered(lambda A, i: (te.if_then_else(i > 0, A[i - 1], 0.0) + A[i] + A[i + 1]) / 3.0, n)


@wrong(
    "1.4", "The index `i - 1` into A runs from -1 to 21, but only 0 to 22 exist there. The other"
)
def right_end_only(n):
    return filtered(
        lambda A, i: (A[i - 1] + A[i] + te.if_then_else(i < n - 1, A[i + 1], 0.0)) / 3.0, n
    )


@wrong(
    "1.4",
    "Python's `and`, `or` and `not` want a truth value now",
    hint="Python runs your rule once",
)
def python_and(n):
    def rule(A, i):
        return te.if_then_else(i > 0 and i < n - 1, (A[i - 1] + A[i] + A[i + 1]) / 3.0, A[i] / 3.0)

    return filtered(rule, n)


@wrong("1.4", "Python's `if` decides now")
def python_if_at_the_ends(n):
    def rule(A, i):
        left = A[i - 1] if i > 0 else 0.0
        right = A[i + 1] if i < n - 1 else 0.0
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong("1.4", "or a chain such as 0 < i < n")
def chained_comparison(n):
    def rule(A, i):
        return te.if_then_else(0 < i < n - 1, (A[i - 1] + A[i] + A[i + 1]) / 3.0, A[i] / 3.0)

    return filtered(rule, n)


@wrong("1.4", "even with ==, is decided once")
def python_if_with_equals(n):
    def rule(A, i):
        left = 0.0 if i == 0 else A[i - 1]
        right = 0.0 if i == n - 1 else A[i + 1]
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong("1.4", "Multiplying by 0 is no guard")
def multiplied_by_the_condition(n):
    def rule(A, i):
        left = A[i - 1] * (i > 0).astype("float32")
        right = A[i + 1] * (i < n - 1).astype("float32")
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong("1.4", "Select computes both of its values", hint="Which function guards the")
def select_instead_of_if_then_else(n):
    def rule(A, i):
        zero = tirx.const(0.0, "float32")
        left = tirx.Select(i > 0, A[i - 1], zero)
        right = tirx.Select(i < n - 1, A[i + 1], zero)
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong(
    "1.4",
    "te.any holds where one of its conditions holds",
    hint="te.if_then_else(condition, then, else)",
)
def any_instead_of_all(n):
    def rule(A, i):
        inside = te.any(i > 0, i < n - 1)
        return te.if_then_else(inside, (A[i - 1] + A[i] + A[i + 1]) / 3.0, A[i] / 3.0)

    return filtered(rule, n)


@wrong("1.4", "The condition is the wrong way round")
def branches_swapped(n):
    def rule(A, i):
        left = te.if_then_else(i == 0, A[i - 1], 0.0)
        right = te.if_then_else(i == n - 1, A[i + 1], 0.0)
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong(
    "1.4",
    "The index `i - 1` into A runs from -1 to 21, but only 0 to 22 exist there. A condition",
    hint="Try i = 0, 1, n - 2 and n",
)
def left_guard_lets_zero_through(n):
    def rule(A, i):
        left = te.if_then_else(i >= 0, A[i - 1], 0.0)
        right = te.if_then_else(i < n - 1, A[i + 1], 0.0)
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong(
    "1.4", "The index `i + 1` into A runs from 1 to 23, but only 0 to 22 exist there. A condition"
)
def right_guard_lets_the_last_through(n):
    def rule(A, i):
        left = te.if_then_else(i > 0, A[i - 1], 0.0)
        right = te.if_then_else(i < n, A[i + 1], 0.0)
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong("1.4", "A[0] is missing from B[1]")
def left_guard_too_strict(n):
    def rule(A, i):
        left = te.if_then_else(i > 1, A[i - 1], 0.0)
        right = te.if_then_else(i < n - 1, A[i + 1], 0.0)
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong("1.4", "A[n - 1] is missing from B[n - 2]")
def right_guard_too_strict(n):
    def rule(A, i):
        left = te.if_then_else(i > 0, A[i - 1], 0.0)
        right = te.if_then_else(i < n - 2, A[i + 1], 0.0)
        return (left + A[i] + right) / 3.0

    return filtered(rule, n)


@wrong("1.4", "not as its nearest element", hint="Write B[0] out: the same")
def clamped(n):
    return filtered(lambda A, i: (A[te.max(i - 1, 0)] + A[i] + A[te.min(i + 1, n - 1)]) / 3.0, n)


@wrong("1.4", "it does not wrap around")
def wrapped(n):
    return filtered(lambda A, i: (A[(i - 1 + n) % n] + A[i] + A[(i + 1) % n]) / 3.0, n)


@wrong("1.4", "The ends are copied from A")
def ends_copied(n):
    def rule(A, i):
        inside = te.all(i > 0, i < n - 1)
        return te.if_then_else(inside, (A[i - 1] + A[i] + A[i + 1]) / 3.0, A[i])

    return filtered(rule, n)


@wrong("1.4", "The ends are 0")
def ends_zeroed(n):
    def rule(A, i):
        inside = te.all(i > 0, i < n - 1)
        return te.if_then_else(inside, (A[i - 1] + A[i] + A[i + 1]) / 3.0, 0.0)

    return filtered(rule, n)


@wrong("1.4", "not by the number of neighbours that exist")
def mean_of_those_that_exist(n):
    def rule(A, i):
        count = 1.0 + te.if_then_else(i > 0, 1.0, 0.0) + te.if_then_else(i < n - 1, 1.0, 0.0)
        return guarded(A, i, n) / count

    return filtered(rule, n)


@wrong("1.4", "The division by 3 is missing", hint="An average of three: one")
def not_divided(n):
    return filtered(lambda A, i: guarded(A, i, n), n)


@wrong("1.4", "Only the last term is divided by 3")
def no_parentheses(n):
    def rule(A, i):
        left = te.if_then_else(i > 0, A[i - 1], 0.0)
        return left + A[i] + te.if_then_else(i < n - 1, A[i + 1], 0.0) / 3.0

    return filtered(rule, n)


@wrong("1.4", "The sum is divided by 2")
def divided_by_two(n):
    return filtered(lambda A, i: guarded(A, i, n) / 2.0, n)


@wrong("1.4", "0.333 is not a third")
def almost_a_third(n):
    return filtered(lambda A, i: guarded(A, i, n) * 0.333, n)


@wrong("1.4", "`//` divides integers")
def divided_as_integers(n):
    return filtered(lambda A, i: guarded(A, i, n) // 3, n)


@wrong("1.4", "A[i] itself is missing from the sum", hint="Count the terms of your sum")
def only_the_neighbours(n):
    return filtered(lambda A, i: (guarded(A, i, n) - A[i]) / 3.0, n)


@wrong("1.4", "The right neighbour, A[i + 1], is missing from the sum")
def window_of_two(n):
    A = te.placeholder((n,), name="A")
    d = te.reduce_axis((0, 2), name="d")
    B = te.compute(
        (n,),
        lambda i: te.sum(te.if_then_else(i + d > 0, A[i + d - 1], 0.0) / 3.0, axis=d),
        name="B",
    )
    return [A, B]


@wrong("1.4", "B has shape (21,); expected (23,)", hint="B has as many elements as")
def only_where_both_neighbours_exist(n):
    A = te.placeholder((n,), name="A")
    return [A, te.compute((n - 2,), lambda i: (A[i] + A[i + 1] + A[i + 2]) / 3.0, name="B")]


@wrong("1.4", "stencil_of_three_or_more(2) failed.")
def stencil_of_three_or_more(n):
    if n < 3:
        raise ValueError("three elements at least")
    return filtered(lambda A, i: guarded(A, i, n) / 3.0, n)


@wrong(
    "1.4",
    "The index `i - 1` into padded runs from -1 to 21, but only 0 to 24 exist",
    hint="Where does A[0] lie in your",
)
def padding_read_too_early(n):
    A = te.placeholder((n,), name="A")
    padded = te.compute(
        (n + 2,), lambda i: te.if_then_else(te.all(i > 0, i <= n), A[i - 1], 0.0), name="padded"
    )
    B = te.compute((n,), lambda i: (padded[i - 1] + padded[i] + padded[i + 1]) / 3.0, name="B")
    return [A, B]


@wrong("1.4", "The index `i + 2` into padded runs from 2 to 24, but only 0 to 23 exist")
def padded_on_one_side(n):
    A = te.placeholder((n,), name="A")
    padded = te.compute((n + 1,), lambda i: te.if_then_else(i > 0, A[i - 1], 0.0), name="padded")
    B = te.compute((n,), lambda i: (padded[i] + padded[i + 1] + padded[i + 2]) / 3.0, name="B")
    return [A, B]


@wrong("1.4", "does not support item assignment")
def fills_b_in_a_loop(n):
    A = te.placeholder((n,), name="A")
    B = te.placeholder((n,), name="B")
    for i in range(1, n - 1):
        B[i] = (A[i - 1] + A[i] + A[i + 1]) / 3.0
    return [A, B]


@wrong("1.4", "element 1 is a list", hint="The docstring ends with the")
def list_of_elements(n):
    A = te.placeholder((n,), name="A")
    return [A, [A[i] / 3.0 for i in range(n)]]


@right("1.4")
def padded_first(n):
    A = te.placeholder((n,), name="A")
    padded = te.compute(
        (n + 2,), lambda i: te.if_then_else(te.all(i >= 1, i <= n), A[i - 1], 0.0), name="padded"
    )
    B = te.compute((n,), lambda i: (padded[i] + padded[i + 1] + padded[i + 2]) / 3.0, name="B")
    return [A, B]


@right("1.4")
def padded_by_topi(n):
    A = te.placeholder((n,), name="A")
    padded = topi.nn.pad(A, (1,), (1,))
    B = te.compute((n,), lambda i: (padded[i] + padded[i + 1] + padded[i + 2]) / 3.0, name="B")
    return [A, B]


@right("1.4")
def with_a_function_for_the_neighbour(n):
    A = te.placeholder((n,), name="A")

    def at(i):
        return te.if_then_else(te.all(i >= 0, i < n), A[i], 0.0)

    return [A, te.compute((n,), lambda i: (at(i - 1) + at(i) + at(i + 1)) * (1.0 / 3.0), name="B")]


@right("1.4")
def reduced_over_the_window(n):
    A = te.placeholder((n,), name="A")
    d = te.reduce_axis((0, 3), name="d")

    def term(i):
        return te.if_then_else(te.all(i + d >= 1, i + d <= n), A[i + d - 1], 0.0)

    total = te.compute((n,), lambda i: te.sum(term(i), axis=d), name="total")
    return A, te.compute((n,), lambda i: total[i] / 3.0, name="B")


@right("1.4")
def thirds_first(n):
    A = te.placeholder((n,), name="A")
    third = te.compute((n,), lambda i: A[i] / 3.0, name="third")

    def rule(i):
        left = te.if_then_else(i == 0, 0.0, third[i - 1])
        right = te.if_then_else(i == n - 1, 0.0, third[i + 1])
        return left + third[i] + right

    return [A, te.compute((n,), rule, name="B")]


@right("1.4")
def case_by_case(n):
    def rule(A, i):
        inside = (A[i - 1] + A[i] + A[i + 1]) / 3.0
        at_the_right_end = te.if_then_else(i > 0, (A[i - 1] + A[i]) / 3.0, A[i] / 3.0)
        at_an_end = te.if_then_else(i < n - 1, (A[i] + A[i + 1]) / 3.0, at_the_right_end)
        return te.if_then_else(te.all(i > 0, i < n - 1), inside, at_an_end)

    return filtered(rule, n)
