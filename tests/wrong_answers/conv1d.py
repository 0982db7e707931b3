"""Answers to the lab on convolution: mistakes made in first attempts, and right answers unlike the
reference."""

from tvm import te, tirx

from tests.wrong_answers import right, wrong
from tvm_practice.labs.conv1d import fetch


def zero():
    return tirx.const(0.0, "float32")


def placeholders(M, N):
    return te.placeholder((M,), name="D"), te.placeholder((N,), name="W")


def over_taps_but(M, N, sample=lambda i, k: i - k, length=None, taps=None, test=None):
    """The reference, with one thing changed."""
    D, W = placeholders(M, N)
    k = te.reduce_axis((0, N if taps is None else taps), name="k")
    test = test or (lambda s: tirx.all(s >= 0, s < M))

    def rule(i):
        s = sample(i, k)
        return te.sum(tirx.if_then_else(test(s), D[s] * W[k], zero()), axis=k)

    return [D, W, te.compute((length or M + N - 1,), rule, name="C")]


# --------------------------------------------------------------------------------- 1 over the taps


@right("conv1d.1")
def over_taps_multiplying_outside_of_the_test(M, N):
    D, W = placeholders(M, N)
    k = te.reduce_axis((0, N), name="tap")
    inside = lambda i: tirx.all(k <= i, i < M + k)  # noqa: E731
    sample = lambda i: tirx.if_then_else(inside(i), D[i - k], zero())  # noqa: E731
    return [D, W, te.compute((M + N - 1,), lambda i: te.sum(W[k] * sample(i), axis=k), name="C")]


@right("conv1d.1")
def over_taps_from_the_last_to_the_first(M, N):
    D, W = placeholders(M, N)
    k = te.reduce_axis((0, N), name="k")

    def rule(n):
        s = n - (N - 1) + k
        inside = tirx.all(s >= 0, s < M)
        return te.sum(tirx.if_then_else(inside, D[s] * W[N - 1 - k], zero()), axis=k)

    return [D, W, te.compute((M + N - 1,), rule, name="C")]


@wrong("conv1d.1", "it should run over the", hint="Write out C[0] and the last")
def over_all_samples(M, N):
    D, W = placeholders(M, N)
    m = te.reduce_axis((0, M), name="m")

    def rule(i):
        inside = tirx.all(i - m >= 0, i - m < N)
        return te.sum(tirx.if_then_else(inside, D[m] * W[i - m], zero()), axis=m)

    return [D, W, te.compute((M + N - 1,), rule, name="C")]


@wrong("conv1d.1", "That is the correlation", hint="In a convolution the two")
def correlate(M, N):
    return over_taps_but(M, N, sample=lambda i, k: i + k - (N - 1))


@wrong("conv1d.1", "memory outside the inputs")
def over_taps_without_the_upper_test(M, N):
    return over_taps_but(M, N, test=lambda s: s >= 0)


@wrong("conv1d.1", "tirx.Select computes both", hint="A test must stand around")
def over_taps_by_select(M, N):
    D, W = placeholders(M, N)
    k = te.reduce_axis((0, N), name="k")

    def rule(i):
        inside = tirx.all(i - k >= 0, i - k < M)
        return te.sum(tirx.Select(inside, D[i - k] * W[k], zero()), axis=k)

    return [D, W, te.compute((M + N - 1,), rule, name="C")]


@right("conv1d.1")
def over_taps_by_select_of_a_read_that_is_tested(M, N):
    D, W = placeholders(M, N)
    k = te.reduce_axis((0, N), name="k")

    def rule(i):
        sample = tirx.if_then_else(tirx.all(i - k >= 0, i - k < M), D[i - k], zero())
        return te.sum(tirx.Select(i >= k, sample * W[k], zero()), axis=k)

    return [D, W, te.compute((M + N - 1,), rule, name="C")]


@wrong("conv1d.1", "The sum of C has a condition, where=")
def over_taps_where(M, N):
    D, W = placeholders(M, N)
    k = te.reduce_axis((0, N), name="k")

    def rule(i):
        return te.sum(D[i - k] * W[k], axis=k, where=tirx.all(i - k >= 0, i - k < M))

    return [D, W, te.compute((M + N - 1,), rule, name="C")]


@wrong("conv1d.1", "'same'", hint="How many places has the filter")
def as_many_results_as_samples(M, N):
    return over_taps_but(M, N, length=M)


@wrong("conv1d.1", "should return the list [D, W, C]")
def only_the_result(M, N):
    return over_taps_but(M, N)[2]


@wrong("conv1d.1", "sums nothing")
def without_a_sum(M, N):
    D, W = placeholders(M, N)
    inside = lambda i: i < M  # noqa: E731
    rule = lambda i: tirx.if_then_else(inside(i), D[i] * W[0], zero())  # noqa: E731
    return [D, W, te.compute((M + N - 1,), rule, name="C")]


# ---------------------------------------------------------------------------------------- 2 padded


def padded_but(M, N, length, before=None, p_length=None, t_length=None, read=None, names="PTC"):
    """The reference, with one thing changed."""
    D, W = placeholders(M, N)
    before = N - 1 if before is None else before

    def sample(t):
        inside = tirx.all(t >= before, t < before + M)
        return tirx.if_then_else(inside, D[t - before], zero())

    P = te.compute((length + N - 1 if p_length is None else p_length,), sample, name=names[0])
    k = te.reduce_axis((0, N), name="k")
    read = read or (lambda i, k: i + N - 1 - k)
    rule = lambda i: te.sum(P[read(i, k)] * W[k], axis=k)  # noqa: E731
    T = te.compute((length if t_length is None else t_length,), rule, name=names[1])
    return [D, W, te.compute((M + N - 1,), lambda i: T[i], name=names[2])]


@right("conv1d.2")
def padded_with_the_taps_counted_down(M, N, length):
    D, W = placeholders(M, N)
    zeros = N - 1

    def sample(t):
        return tirx.if_then_else(tirx.all(zeros <= t, t - zeros < M), D[t - zeros], zero())

    P = te.compute((length + zeros,), sample, name="P")
    k = te.reduce_axis((0, N), name="k")
    T = te.compute((length,), lambda n: te.sum(P[n + k] * W[zeros - k], axis=k), name="T")
    return [D, W, te.compute((M + N - 1,), lambda n: T[n], name="C")]


@right("conv1d.2")
def padded_by_two_conditions(M, N, length):
    D, W = placeholders(M, N)

    def sample(t):
        late = tirx.if_then_else(t - (N - 1) < M, D[t - (N - 1)], zero())
        return tirx.if_then_else(t < N - 1, zero(), late)

    P = te.compute((length + N - 1,), sample, name="P")
    k = te.reduce_axis((0, N), name="k")
    T = te.compute((length,), lambda i: te.sum(W[k] * P[i - k + (N - 1)], axis=k), name="T")
    return [D, W, te.compute((M + N - 1,), lambda i: T[i], name="C")]


@wrong("conv1d.2", "That is the correlation", hint="In a convolution the two")
def padded_correlation(M, N, length):
    return padded_but(M, N, length, read=lambda i, k: i + k)


@wrong("conv1d.2", "is a shift by N - 1 taken as N?", hint="Take N = 3 and two samples")
def padded_by_one_too_many(M, N, length):
    return padded_but(M, N, length, before=N)


@wrong("conv1d.2", "P has")
def padded_before_only(M, N, length):
    return padded_but(M, N, length, p_length=M + N - 1)


@wrong("conv1d.2", "T has")
def padded_without_the_length(M, N, length):
    return padded_but(M, N, length, t_length=M + N - 1)


@wrong("conv1d.2", 'There is no stage "T"')
def padded_under_other_names(M, N, length):
    return padded_but(M, N, length, names=("P", "sums", "C"))


@wrong("conv1d.2", "tirx.Select computes both", hint="The test belongs where the")
def padded_by_select(M, N, length):
    D, W = placeholders(M, N)

    def sample(t):
        inside = tirx.all(t >= N - 1, t < N - 1 + M)
        return tirx.Select(inside, D[t - (N - 1)], zero())

    P = te.compute((length + N - 1,), sample, name="P")
    k = te.reduce_axis((0, N), name="k")
    T = te.compute((length,), lambda i: te.sum(P[i + N - 1 - k] * W[k], axis=k), name="T")
    return [D, W, te.compute((M + N - 1,), lambda i: T[i], name="C")]


@wrong("conv1d.2", "The sum of T has a condition, where=")
def padded_where(M, N, length):
    D, W = placeholders(M, N)

    def sample(t):
        inside = tirx.all(t >= N - 1, t < N - 1 + M)
        return tirx.if_then_else(inside, D[t - (N - 1)], zero())

    P = te.compute((length + N - 1,), sample, name="P")
    k = te.reduce_axis((0, N), name="k")

    def rule(i):
        return te.sum(P[i + N - 1 - k] * W[k], axis=k, where=i < M + N - 1)

    T = te.compute((length,), rule, name="T")
    return [D, W, te.compute((M + N - 1,), lambda i: T[i], name="C")]


@wrong("conv1d.2", "T still tests every term")
def padded_and_tested(M, N, length):
    D, W = placeholders(M, N)
    P = te.compute(
        (length + N - 1,),
        lambda t: tirx.if_then_else(tirx.all(t >= N - 1, t < N - 1 + M), D[t - (N - 1)], zero()),
        name="P",
    )
    k = te.reduce_axis((0, N), name="k")
    term = lambda i: tirx.if_then_else(i < M + N, P[i + N - 1 - k] * W[k], zero())  # noqa: E731
    T = te.compute((length,), lambda i: te.sum(term(i), axis=k), name="T")
    return [D, W, te.compute((M + N - 1,), lambda i: T[i], name="C")]


# ------------------------------------------------------------------------------------- 3 vectorize


def loops(sch):
    return sch.get_loops(sch.get_sblock("T"))


@right("conv1d.3")
def vectorize_by_two_splits(sch, vectors, lanes):
    i, _ = loops(sch)
    rest, lane = sch.split(i, [None, lanes])
    _, iv = sch.split(rest, [None, vectors])
    k = loops(sch)[-1]
    sch.reorder(k, iv, lane)
    sch.vectorize(lane)


@right("conv1d.3")
def vectorize_before_reordering(sch, vectors, lanes):
    i, k = loops(sch)
    _, iv, lane = sch.split(i, [None, vectors, lanes])
    sch.vectorize(lane)
    sch.reorder(k, iv, lane)


@wrong("conv1d.3", "the loop nest is what it was before", hint="Which object do your primitives")
def vectorize_nothing(sch, vectors, lanes):
    loops(sch)


@wrong("conv1d.3", "none is vectorized", hint="The lanes of a vector are")
def vectorize_without_vectorizing(sch, vectors, lanes):
    i, k = loops(sch)
    io, iv, lane = sch.split(i, [None, vectors, lanes])
    sch.reorder(io, k, iv, lane)


@wrong("conv1d.3", "goes from one vector to the next")
def vectorize_the_vectors(sch, vectors, lanes):
    i, k = loops(sch)
    io, iv, lane = sch.split(i, [None, vectors, lanes])
    sch.reorder(io, k, lane, iv)
    sch.vectorize(iv)


@wrong("conv1d.3", "expected io, k, iv, lane", hint="Say of each loop what it")
def vectorize_without_a_tile(sch, vectors, lanes):
    i, k = loops(sch)
    io, lane = sch.split(i, [None, lanes])
    sch.reorder(io, k, lane)
    sch.vectorize(lane)


@wrong("conv1d.3", "each multiply-add waits for the one before")
def vectorize_with_k_inside_the_tile(sch, vectors, lanes):
    i, k = loops(sch)
    io, iv, lane = sch.split(i, [None, vectors, lanes])
    sch.reorder(io, iv, k, lane)
    sch.vectorize(lane)


@wrong("conv1d.3", "with k outermost")
def vectorize_with_k_outermost(sch, vectors, lanes):
    i, k = loops(sch)
    io, iv, lane = sch.split(i, [None, vectors, lanes])
    sch.reorder(k, io, iv, lane)
    sch.vectorize(lane)


@wrong("conv1d.3", "vectors in a tile")
def vectorize_one_vector_at_a_time(sch, vectors, lanes):
    i, k = loops(sch)
    io, iv, lane = sch.split(i, [None, 1, lanes])
    sch.reorder(io, k, iv, lane)
    sch.vectorize(lane)


@wrong("conv1d.3", "this loop is a reduction")
def vectorize_the_taps(sch, vectors, lanes):
    sch.vectorize(loops(sch)[1])


# ------------------------------------------------------------------------------------- 4 registers


@right("conv1d.4")
def registers_unrolled_first(sch):
    block = sch.get_sblock("T")
    _, io, k, iv, lane = sch.get_loops(block)
    sch.unroll(iv)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, io)
    factors = [int(sch.get(iv).extent), int(sch.get(lane).extent)]
    vector, part = sch.split(sch.get_loops(copy)[2], factors)
    sch.vectorize(part)
    sch.unroll(vector)
    sch.decompose_reduction(block, k)


@right("conv1d.4")
def registers_with_the_zeroing_scheduled_by_itself(sch):
    block = sch.get_sblock("T")
    *_, io, k, iv, lane = sch.get_loops(block)
    lanes = int(sch.get(lane).extent)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, io)
    vector, part = sch.split(sch.get_loops(copy)[-1], [None, lanes])
    sch.vectorize(part)
    zero_block = sch.decompose_reduction(block, k)
    sch.unroll(vector)
    sch.unroll(iv)
    sch.unroll(sch.get_loops(zero_block)[-2])


def registers_but(
    sch, scope="local", at=lambda io, k: io, kinds=("unroll", "vectorize"), unroll=True, zero="k"
):
    """The reference, with one thing changed."""
    block = sch.get_sblock("T")
    *_, io, k, iv, lane = sch.get_loops(block)
    lanes = int(sch.get(lane).extent)
    copy = sch.cache_write(block, 0, scope)
    if zero == "first":
        sch.decompose_reduction(block, k)
    if at is not None:
        sch.reverse_compute_at(copy, at(io, k))
    if kinds is not None:
        for loop, kind in zip(
            sch.split(sch.get_loops(copy)[-1], [None, lanes]), kinds, strict=True
        ):
            if kind:
                getattr(sch, kind)(loop)
    if unroll:
        sch.unroll(iv)
    if zero == "k":
        sch.decompose_reduction(block, k)


@wrong("conv1d.4", "which is memory")
def registers_in_memory(sch):
    registers_but(sch, scope="global")


@wrong("conv1d.4", "after all the loops", hint="A tile may leave the registers")
def registers_with_the_copy_left_behind(sch):
    registers_but(sch, at=None)


@wrong("conv1d.4", "The copy stands inside of k")
def registers_with_the_copy_in_k(sch):
    registers_but(sch, at=lambda io, k: k)


@wrong("conv1d.4", "has a single loop over", hint="The sums and their copy have")
def registers_with_the_copy_unsplit(sch):
    registers_but(sch, kinds=None)


@wrong("conv1d.4", "lanes, vectorized")
def registers_with_a_serial_copy(sch):
    registers_but(sch, kinds=("unroll", None))


@wrong("conv1d.4", "The copy's loop over vectors is serial")
def registers_with_the_copy_not_unrolled(sch):
    registers_but(sch, kinds=(None, "vectorize"))


@wrong("conv1d.4", "over the vectors of a tile, is serial")
def registers_without_unroll(sch):
    registers_but(sch, unroll=False)


@wrong("conv1d.4", "still tested for every tap", hint="decompose_reduction takes the")
def registers_without_decompose(sch):
    registers_but(sch, zero=None)


@wrong("conv1d.4", "Call it last")
def registers_decomposed_first(sch):
    registers_but(sch, zero="first")


# ----------------------------------------------------------------------------------- 5 fewer loads


def k_of(sch):
    return sch.get_loops(sch.get_sblock("T_update"))[2]


@right("conv1d.5")
def reuse_by_two_splits(sch, taps, lanes):
    rest, residue = sch.split(k_of(sch), [None, lanes])
    _, tap = sch.split(rest, [None, taps])
    sch.unroll(tap)
    sch.reorder(residue, tap)


@right("conv1d.5")
def reuse_with_the_groups_inside(sch, taps, lanes):
    groups, tap, residue = sch.split(k_of(sch), [None, taps, lanes])
    sch.reorder(residue, groups, tap)
    sch.unroll(tap)


@right("conv1d.5")
def reuse_with_the_vectors_outside_of_the_taps(sch, taps, lanes):
    *_, k, iv, lane = sch.get_loops(sch.get_sblock("T_update"))
    _, tap, residue = sch.split(k, [None, taps, lanes])
    sch.reorder(residue, iv, tap, lane)
    sch.unroll(tap)


@wrong("conv1d.5", "stands outside of", hint="Write down which sample result")
def reuse_with_the_vectors_outside_of_the_residues(sch, taps, lanes):
    *_, k, iv, lane = sch.get_loops(sch.get_sblock("T_update"))
    _, tap, residue = sch.split(k, [None, taps, lanes])
    sch.reorder(iv, residue, tap, lane)
    sch.unroll(tap)


@wrong("conv1d.5", "the loop nest is what it was before", hint="Which object do your primitives")
def reuse_nothing(sch, taps, lanes):
    k_of(sch)


@wrong("conv1d.5", "are those that read the same samples")
def reuse_of_neighbouring_taps(sch, taps, lanes):
    _, _, tap = sch.split(k_of(sch), [None, lanes, taps])
    sch.unroll(tap)


@wrong("conv1d.5", "reorder puts")
def reuse_without_reorder(sch, taps, lanes):
    _, tap, _ = sch.split(k_of(sch), [None, taps, lanes])
    sch.unroll(tap)


@wrong("conv1d.5", "one tap at a time")
def reuse_without_unroll(sch, taps, lanes):
    _, tap, residue = sch.split(k_of(sch), [None, taps, lanes])
    sch.reorder(residue, tap)


@wrong("conv1d.5", "expected ko and residue serial")
def reuse_with_the_residues_unrolled_too(sch, taps, lanes):
    _, tap, residue = sch.split(k_of(sch), [None, taps, lanes])
    sch.reorder(residue, tap)
    sch.unroll(tap)
    sch.unroll(residue)


# ------------------------------------------------------------------------------ 6 threads on a GPU


def bind_as(sch, factors, axes, name="C"):
    """Split i of a block by `factors`, and bind its parts to `axes` (None: not at all)."""
    i, *_ = sch.get_loops(sch.get_sblock(name))
    parts = sch.split(i, factors)
    for loop, axis in zip(parts, axes, strict=True):
        if axis:
            sch.bind(loop, axis)
    return parts


@right("conv1d.6")
def bind_threads_first(sch, count):
    i, _ = sch.get_loops(sch.get_sblock("C"))
    block, thread = sch.split(i, [None, count])
    sch.bind(thread, "threadIdx.x")
    sch.bind(block, "blockIdx.x")


@right("conv1d.6")
def bind_threads_with_k_split(sch, count):
    bind_as(sch, [None, count], ("blockIdx.x", "threadIdx.x"))
    *_, k = sch.get_loops(sch.get_sblock("C"))
    sch.split(k, [None, 2])


@wrong("conv1d.6", "and none is bound", hint="A kernel has blocks, and")
def bind_no_threads(sch, count):
    bind_as(sch, [None, count], (None, None))


@wrong("conv1d.6", "nothing is bound to threadIdx.x")
def bind_blocks_alone(sch, count):
    bind_as(sch, [None, count], ("blockIdx.x", None))


@wrong(
    "conv1d.6", "Neighbouring threads take results that lie", hint="Read the split from the outside"
)
def bind_threads_to_the_outer_loop(sch, count):
    bind_as(sch, [count, None], ("threadIdx.x", "blockIdx.x"))


@wrong("conv1d.6", "threads; expected 8")
def bind_threads_of_another_count(sch, count):
    bind_as(sch, [None, count // 2], ("blockIdx.x", "threadIdx.x"))


@wrong("conv1d.6", "threads at the same time would add to one sum")
def bind_threads_to_the_taps(sch, count):
    i, k = sch.get_loops(sch.get_sblock("C"))
    sch.bind(i, "blockIdx.x")
    sch.bind(k, "threadIdx.x")


@wrong("conv1d.6", "one after the other: there are")
def bind_threads_with_four_results(sch, count):
    bind_as(sch, [None, 4, count], ("blockIdx.x", None, "threadIdx.x"))


@wrong("conv1d.6", "as virtual threads: there are")
def bind_threads_with_four_virtual_ones(sch, count):
    bind_as(sch, [None, 4, count], ("blockIdx.x", "vthread.x", "threadIdx.x"))


# --------------------------------------------------------------------------- 7 virtual threads


VIRTUAL = ("blockIdx.x", "vthread.x", "threadIdx.x")


@right("conv1d.7")
def bind_virtual_in_two_splits(sch, each, count):
    i, _ = sch.get_loops(sch.get_sblock("T"))
    block, rest = sch.split(i, [None, each * count])
    virtual, thread = sch.split(rest, [each, None])
    for loop, axis in zip((block, virtual, thread), VIRTUAL, strict=True):
        sch.bind(loop, axis)


@right("conv1d.7")
def bind_virtual_from_the_inside(sch, each, count):
    i, _ = sch.get_loops(sch.get_sblock("T"))
    rest, thread = sch.split(i, [None, count])
    sch.bind(thread, "threadIdx.x")
    block, virtual = sch.split(rest, [None, each])
    sch.bind(block, "blockIdx.x")
    sch.bind(virtual, "vthread.x")


@wrong("conv1d.7", "no loop is bound to vthread.x", hint="Three parts of one loop")
def bind_virtual_as_a_loop(sch, each, count):
    bind_as(sch, [None, each, count], ("blockIdx.x", None, "threadIdx.x"), "T")


@wrong(
    "conv1d.7",
    "Neighbouring threads take results that lie 2 apart",
    hint="Read the split from the outside",
)
def bind_virtual_to_neighbours(sch, each, count):
    bind_as(sch, [None, count, each], ("blockIdx.x", "threadIdx.x", "vthread.x"), "T")


@wrong("conv1d.7", "A block has 2 threads; expected 8")
def bind_virtual_with_swapped_factors(sch, each, count):
    bind_as(sch, [None, count, each], VIRTUAL, "T")


@wrong("conv1d.7", "nothing is bound to threadIdx.x")
def bind_virtual_without_threads(sch, each, count):
    bind_as(sch, [None, each, count], ("blockIdx.x", "vthread.x", None), "T")


@wrong("conv1d.7", "There are 4 virtual threads; expected 2")
def bind_virtual_with_too_many(sch, each, count):
    bind_as(sch, [None, 2 * each, count], VIRTUAL, "T")


# ------------------------------------------------------------------------- 8 the memory hierarchy


def place_but(sch, count, shared=True, taps=True, local=True, at=(0, 0), fetched=True, store=2):
    """The reference, with one thing changed. at: in which of the loops of T P and W are copied;
    store: in which one C is, None for none."""
    P, T, C = (sch.get_sblock(name) for name in "PTC")
    around = sch.get_loops(T)
    copies = [P]
    if shared:
        sch.set_scope(P, 0, "shared")
    if taps:
        copies.append(sch.cache_read(T, 1, "shared"))
    for copy, place in zip(copies, at, strict=False):
        sch.compute_at(copy, around[place])
        if fetched:
            fetch(sch, copy, count)
    if local:
        sch.set_scope(T, 0, "local")
    if store is not None:
        sch.reverse_compute_at(C, around[store])


@right("conv1d.8")
def place_from_the_result_backwards(sch, count):
    P, T, C = (sch.get_sblock(name) for name in "PTC")
    block, _, thread, _ = sch.get_loops(T)
    sch.reverse_compute_at(C, thread)
    sch.set_scope(T, 0, "local")
    sch.compute_at(P, block)
    fetch(sch, P, count)
    sch.set_scope(P, 0, "shared")
    W = sch.cache_read(T, 1, "shared")
    sch.compute_at(W, block)
    fetch(sch, W, count)


@right("conv1d.8")
def place_by_name(sch, count):
    place_but(sch, count)


@wrong("conv1d.8", "P is in global memory; expected shared", hint="What all threads of a block")
def place_p_in_global_memory(sch, count):
    place_but(sch, count, shared=False)


@wrong("conv1d.8", "The sum reads W itself")
def place_without_the_taps(sch, count):
    place_but(sch, count, taps=False)


@wrong("conv1d.8", "T is in global memory; a thread's sums belong to registers")
def place_t_in_global_memory(sch, count):
    place_but(sch, count, local=False)


@wrong("conv1d.8", 'no loop of the block "C" is bound', hint="Each stage of the kernel")
def place_without_the_result(sch, count):
    place_but(sch, count, store=None)


@wrong("conv1d.8", "Every thread fills P by itself")
def place_without_sharing_out(sch, count):
    place_but(sch, count, fetched=False)


@wrong("conv1d.8", "P is written inside of k", hint="How often is the loop entered")
def place_p_for_every_tap(sch, count):
    place_but(sch, count, at=(3, 0))


@wrong("conv1d.8", "W_shared is written inside of k")
def place_w_for_every_tap(sch, count):
    place_but(sch, count, at=(0, 3))


@wrong("conv1d.8", "7 times as many stores as results")
def place_the_result_for_every_tap(sch, count):
    place_but(sch, count, store=3)
