"""Answers to the lab on a fused epilogue: mistakes made in first attempts, and right answers unlike
the reference."""

from tvm import te, tirx

from tests.wrong_answers import right, wrong
from tvm_practice.labs.fused_gelu import LIMIT, P, Q, gelu, number, polynomial

# ------------------------------------------------------------------------------------------ 1 tanh


def clamped(x):
    return tirx.max(tirx.min(x, number(LIMIT)), number(-LIMIT))


@right("fused_gelu.1")
def tanh_clamped_the_other_way_round(x):
    x = tirx.min(number(LIMIT), tirx.max(number(-LIMIT), x))
    square = x * x
    return polynomial(P, square) * x / polynomial(Q, square)


@right("fused_gelu.1")
def tanh_with_the_quotient_first(x):
    x = clamped(x)
    return polynomial(P, x * x) / polynomial(Q, x * x) * x


@wrong("fused_gelu.1", "Beyond LIMIT the quotient runs away", hint="Try x = 20 and x = -20 by")
def tanh_without_the_clamp(x):
    return x * polynomial(P, x * x) / polynomial(Q, x * x)


@wrong("fused_gelu.1", "Are min and max exchanged?")
def tanh_with_min_and_max_exchanged(x):
    x = tirx.min(tirx.max(x, number(LIMIT)), number(-LIMIT))
    return x * polynomial(P, x * x) / polynomial(Q, x * x)


@wrong("fused_gelu.1", "one number at a time", hint="Only additions, multiplications")
def tanh_of_the_library(x):
    return tirx.tanh(x)


@wrong("fused_gelu.1", "calls sigmoid")
def tanh_by_the_sigmoid(x):
    return number(2.0) * tirx.sigmoid(number(2.0) * x) - number(1.0)


@wrong("fused_gelu.1", "The polynomials are in x * x", hint="tanh is odd: x times a quotient")
def tanh_in_x(x):
    x = clamped(x)
    return x * polynomial(P, x) / polynomial(Q, x)


@wrong("fused_gelu.1", "The factor x before the quotient is missing")
def tanh_without_x(x):
    x = clamped(x)
    return polynomial(P, x * x) / polynomial(Q, x * x)


@wrong("fused_gelu.1", "upside down")
def tanh_upside_down(x):
    x = clamped(x)
    return x * polynomial(Q, x * x) / polynomial(P, x * x)


@wrong("fused_gelu.1", "should return an expression")
def tanh_of_nothing(x):
    clamped(x)


# ------------------------------------------------------------------------------------ 2 expression


def expression_but(M, N, K, activation, rule=None, names="CG", given=4):
    """The reference, with one thing changed."""
    A, B = te.placeholder((M, K), name="A"), te.placeholder((K, N), name="B")
    bias = te.placeholder((M if rule == "rows" else N,), name="bias")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name=names[0])
    rules = {
        None: lambda i, j: activation(C[i, j] + bias[j]),
        "rows": lambda i, j: activation(C[i, j] + bias[i]),
        "after": lambda i, j: activation(C[i, j]) + bias[j],
        "no bias": lambda i, j: activation(C[i, j]),
        "no activation": lambda i, j: C[i, j] + bias[j],
    }
    return [A, B, bias, te.compute((M, N), rules[rule], name=names[1])][:given]


@right("fused_gelu.2")
def expression_with_named_rules(M, N, K, activation):
    A = te.placeholder((M, K), "float32", name="A")
    B = te.placeholder((K, N), "float32", name="B")
    bias = te.placeholder((N,), "float32", name="bias")
    k = te.reduce_axis((0, K), name="k")

    def product(i, j):
        return te.sum(B[k, j] * A[i, k], axis=k)

    C = te.compute((M, N), product, name="C")

    def finish(i, j):
        return activation(bias[j] + C[i, j])

    return [A, B, bias, te.compute((M, N), finish, name="G")]


@right("fused_gelu.2")
def expression_as_a_tuple(M, N, K, activation):
    return tuple(expression_but(M, N, K, activation))


@wrong("fused_gelu.2", "It is bias[j], one for each column", hint="How many elements has bias")
def expression_with_the_bias_along_rows(M, N, K, activation):
    return expression_but(M, N, K, activation, "rows")


@wrong("fused_gelu.2", "before the activation, not after it", hint="Three stages in a row: product")
def expression_with_the_bias_last(M, N, K, activation):
    return expression_but(M, N, K, activation, "after")


@wrong("fused_gelu.2", "Is the activation missing?")
def expression_without_activation(M, N, K, activation):
    return expression_but(M, N, K, activation, "no activation")


@wrong("fused_gelu.2", "Is the bias missing?")
def expression_without_bias(M, N, K, activation):
    return expression_but(M, N, K, activation, "no bias")


@wrong("fused_gelu.2", "should return the list [A, B, bias, G]")
def expression_of_three(M, N, K, activation):
    return expression_but(M, N, K, activation, given=3)


@wrong("fused_gelu.2", "should return four te.Tensors")
def expression_of_nothing(M, N, K, activation):
    return [*expression_but(M, N, K, activation, given=3), None]


@wrong("fused_gelu.2", "stands inside of the sum")
def expression_with_the_bias_in_the_sum(M, N, K, activation):
    A, B = te.placeholder((M, K), name="A"), te.placeholder((K, N), name="B")
    bias = te.placeholder((N,), name="bias")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j] + bias[j], axis=k), name="C")
    return [A, B, bias, te.compute((M, N), lambda i, j: activation(C[i, j]), name="G")]


@wrong("fused_gelu.2", "in this order")
def expression_with_the_bias_last_in_the_list(M, N, K, activation):
    A, B, bias, G = expression_but(M, N, K, activation)
    return [A, B, G, bias]


@wrong("fused_gelu.2", "elements of G")
def expression_with_a_gelu_of_its_own(M, N, K, activation):
    return expression_but(M, N, K, lambda x: gelu(x, tirx.tanh))


@wrong("fused_gelu.2", "The stages of")
def expression_in_three_stages(M, N, K, activation):
    A, B, bias, D = expression_but(M, N, K, activation, "no activation", names="CD")
    return [A, B, bias, te.compute((M, N), lambda i, j: activation(D[i, j]), name="G")]


# ------------------------------------------------------------------------------------------ 3 fuse


def fuse_but(
    sch, scope="local", at=lambda jo, io, k: io, kinds=("unroll", "vectorize"), rows=True, zero=True
):
    """The reference, with one thing changed."""
    block, epilogue = sch.get_sblock("C"), sch.get_sblock("G")
    *_, jo, io, k, ii, _ = sch.get_loops(block)
    if scope:
        sch.set_scope(block, 0, scope)
    if zero == "first":
        sch.decompose_reduction(block, k)
    if at is not None:
        sch.reverse_compute_at(epilogue, at(jo, io, k))
    for loop, kind in zip(sch.get_loops(epilogue)[-2:], kinds, strict=True):
        if kind:
            getattr(sch, kind)(loop)
    if rows:
        sch.unroll(ii)
    if zero is True:
        sch.decompose_reduction(block, k)


@right("fused_gelu.3")
def fuse_with_the_scope_last(sch):
    block, epilogue = sch.get_sblock("C"), sch.get_sblock("G")
    *outer, k, ii, _ = sch.get_loops(block)
    sch.unroll(ii)
    sch.reverse_compute_at(epilogue, outer[-1])
    *_, row, column = sch.get_loops(epilogue)
    sch.vectorize(column)
    sch.unroll(row)
    sch.decompose_reduction(block, k)
    sch.set_scope(sch.get_sblock("C_update"), 0, "local")


@right("fused_gelu.3")
def fuse_by_number(sch):
    C, G = sch.get_sblock("C"), sch.get_sblock("G")
    sch.set_scope(C, 0, "local")
    sch.reverse_compute_at(G, sch.get_loops(C)[2])
    sch.unroll(sch.get_loops(G)[3])
    sch.vectorize(sch.get_loops(G)[4])
    sch.unroll(sch.get_loops(C)[4])
    sch.decompose_reduction(C, sch.get_loops(C)[3])


@wrong(
    "fused_gelu.3", "the loop nest is what it was before", hint="Which object do your primitives"
)
def fuse_nothing(sch):
    sch.get_sblock("G")


@wrong("fused_gelu.3", "but C still lies in memory", hint="G can be computed when a")
def fuse_in_memory(sch):
    fuse_but(sch, scope=None)


@wrong("fused_gelu.3", "G stands after all the loops of C")
def fuse_without_moving(sch):
    fuse_but(sch, at=None)


@wrong("fused_gelu.3", "many tiles are finished before")
def fuse_in_jo(sch):
    fuse_but(sch, at=lambda jo, io, k: jo)


@wrong("fused_gelu.3", "from sums that are not finished")
def fuse_in_k(sch):
    fuse_but(sch, at=lambda jo, io, k: k)


@wrong("fused_gelu.3", "one element after the other", hint="A block that is moved gets")
def fuse_without_vectors(sch):
    fuse_but(sch, kinds=("unroll", None))


@wrong("fused_gelu.3", "vectorize was called before reverse_compute_at")
def fuse_with_the_kinds_before_the_move(sch):
    block, epilogue = sch.get_sblock("C"), sch.get_sblock("G")
    *_, io, k, ii, _ = sch.get_loops(block)
    row, column = sch.get_loops(epilogue)
    sch.unroll(row)
    sch.vectorize(column)
    sch.set_scope(block, 0, "local")
    sch.reverse_compute_at(epilogue, io)
    sch.unroll(ii)
    sch.decompose_reduction(block, k)


@wrong("fused_gelu.3", "The rows of G")
def fuse_without_unrolling_g(sch):
    fuse_but(sch, kinds=(None, "vectorize"))


@wrong("fused_gelu.3", "The rows of the tile")
def fuse_without_unrolling_the_tile(sch):
    fuse_but(sch, rows=False)


@wrong("fused_gelu.3", "still tested for every k", hint="Each sum starts at 0 once")
def fuse_without_decomposing(sch):
    fuse_but(sch, zero=False)


@wrong("fused_gelu.3", "Call it last, at k")
def fuse_decomposed_first(sch):
    fuse_but(sch, zero="first")


@wrong("fused_gelu.3", "and zeroes more than one tile")
def fuse_decomposed_at_io(sch):
    block = sch.get_sblock("C")
    io = sch.get_loops(block)[2]
    fuse_but(sch, zero=False)
    sch.decompose_reduction(block, io)


@wrong("fused_gelu.3", "k should stay as it was")
def fuse_with_k_unrolled(sch):
    fuse_but(sch)
    sch.unroll(sch.get_loops(sch.get_sblock("C_update"))[3])


@wrong("fused_gelu.3", "There is a new block")
def fuse_with_a_cache(sch):
    block = sch.get_sblock("C")
    copy = sch.cache_write(block, 0, "local")
    io = sch.get_loops(block)[2]
    sch.reverse_compute_at(copy, io)
    fuse_but(sch, scope=None)


# --------------------------------------------------------------------------------------- 4 predict


def parts(M, N, K, operations, gflops, gbytes):
    product = 2 * M * N * K / gflops / 1e9
    return product, operations * M * N / gflops / 1e9, 8 * M * N / gbytes / 1e9


@right("fused_gelu.4")
def predict_in_nanoseconds(M, N, K, operations, gflops, gbytes):
    fused = M * N * (2 * K + operations) / gflops
    passes = 2 * M * N * K / gflops + 16 * M * N / gbytes
    return fused * 1e-9, passes * 1e-9


@right("fused_gelu.4")
def predict_by_parts(M, N, K, operations, gflops, gbytes):
    product, epilogue, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return product + epilogue, product + one_pass + one_pass


@wrong("fused_gelu.4", "gflops counts 1e9 operations", hint="Count the operations of one")
def predict_without_units(M, N, K, operations, gflops, gbytes):
    product, epilogue, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return (product + epilogue) * 1e9, (product + 2 * one_pass) * 1e9


@wrong("fused_gelu.4", "the epilogue's own operations are still to be done")
def predict_a_free_epilogue(M, N, K, operations, gflops, gbytes):
    product, _, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return product, product + 2 * one_pass


@wrong("fused_gelu.4", "are two operations")
def predict_half_a_product(M, N, K, operations, gflops, gbytes):
    product, epilogue, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return product / 2 + epilogue, product / 2 + 2 * one_pass


@wrong("fused_gelu.4", "each reads and writes", hint="Which bytes move in each")
def predict_reading_only(M, N, K, operations, gflops, gbytes):
    product, epilogue, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return product + epilogue, product + one_pass


@wrong("fused_gelu.4", "hidden behind the memory")
def predict_everything_added(M, N, K, operations, gflops, gbytes):
    product, epilogue, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return product + epilogue, product + epilogue + 2 * one_pass


@wrong("fused_gelu.4", "in the other order")
def predict_the_other_way_round(M, N, K, operations, gflops, gbytes):
    product, epilogue, one_pass = parts(M, N, K, operations, gflops, gbytes)
    return product + 2 * one_pass, product + epilogue


# ----------------------------------------------------------------------------- 5 on a GPU


def into_the_thread(sch):
    """Move G into the loop of the threads along x, and return it."""
    tx = sch.get_loops(sch.get_sblock("C_local"))[3]
    sch.reverse_compute_at(sch.get_sblock("G"), tx)
    return sch.get_sblock("G")


@right("fused_gelu.5")
def fuse_kernels_by_name(sch):
    sch.reverse_compute_inline("G")


@right("fused_gelu.5")
def fuse_kernels_by_moving_g(sch):
    block = into_the_thread(sch)
    sch.set_scope(sch.get_sblock("C_local"), 0, "local")
    sch.vectorize(sch.get_loops(block)[-1])


@wrong("fused_gelu.5", 'no loop of the block "G" is bound', hint="One kernel has one grid")
def fuse_kernels_not_at_all(sch):
    sch.get_sblock("G")


@wrong("fused_gelu.5", "There are 2 kernels: the first stores C")
def fuse_kernels_by_binding_g(sch):
    i, j = sch.get_loops(sch.get_sblock("G"))
    block, thread = sch.split(sch.fuse(i, j), [None, 128])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


@wrong(
    "fused_gelu.5",
    "C, is still in global memory, a buffer that no caller gives",
    hint="Where should the numbers",
)
def fuse_kernels_with_c_in_global_memory(sch):
    into_the_thread(sch)


@wrong("fused_gelu.5", "one element at a time")
def fuse_kernels_one_element_at_a_time(sch):
    into_the_thread(sch)
    sch.set_scope(sch.get_sblock("C_local"), 0, "local")


@wrong("fused_gelu.5", "nothing in the program reads the output, G.")
def fuse_kernels_from_the_wrong_side(sch):
    sch.compute_inline(sch.get_sblock("G"))


@wrong("fused_gelu.5", "Here several make it (decompose_reduction leaves two")
def fuse_kernels_by_the_store(sch):
    sch.reverse_compute_inline(sch.get_sblock("C_local"))


@wrong("fused_gelu.5", "block C_update is a sum, or what decompose_reduction left of one")
def fuse_kernels_the_usual_way(sch):
    sch.compute_inline(sch.get_sblock("C_update"))
