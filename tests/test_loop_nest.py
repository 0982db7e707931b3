"""What loop_nest prints and reports: what learners see, what the checks of schedules believe."""

from __future__ import annotations

from textwrap import dedent

from tvm_practice.common.loop_nest import Block, LoopNest, loop_nest
from tvm_practice.common.worker import call

# The functions below run in a worker, which has TVM; the nests come back as plain data.


def _scaled(n: int | None = None):
    """B = 2 A for n elements; for an n known only at run time, by way of an intermediate buffer."""
    from tvm import te
    from tvm.s_tir import Schedule

    size = te.var("n") if n is None else n
    A = te.placeholder((size,), name="A")
    D = te.compute((size,), lambda i: A[i], name="D") if n is None else A
    B = te.compute((size,), lambda i: D[i] * 2.0, name="B")
    return Schedule(te.create_prim_func([A, B]))


def _bound_to_threads(n: int) -> LoopNest:
    sch = _scaled(n)
    (i,) = sch.get_loops(sch.get_sblock("B"))
    outer, inner = sch.split(i, [None, 32])
    sch.bind(outer, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    return loop_nest(sch.mod)


def _of_unknown_size() -> LoopNest:
    return loop_nest(_scaled().mod)


def _reduced(name: str) -> LoopNest:
    from tvm import te

    X = te.placeholder((5, 7), name="X")
    i, j = te.reduce_axis((0, 5), name="i"), te.reduce_axis((0, 7), name="j")
    if name == "sum of all":
        Y = te.compute((), lambda: te.sum(X[i, j], axis=[i, j]), name="Y")
    else:
        Y = te.compute((5,), lambda i: getattr(te, name)(X[i, j], axis=j), name="Y")
    return loop_nest(te.create_prim_func([X, Y]))


def _of_tensors_named_as_tvm_scripts_words() -> LoopNest:
    from tvm import te, tirx

    A = te.placeholder((5, 7), name="I")
    k = te.reduce_axis((0, 7), name="k")
    T = te.compute((5,), lambda i: te.sum(A[i, k], axis=k), name="T")
    R = te.compute((5,), lambda i: tirx.max(T[i], tirx.const(0.0, "float32")), name="R")
    return loop_nest(te.create_prim_func([A, R]))


def _matmul():
    from tvm import te
    from tvm.s_tir import Schedule

    A, B = te.placeholder((12, 9), name="A"), te.placeholder((9, 16), name="B")
    k = te.reduce_axis((0, 9), name="k")
    C = te.compute((12, 16), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return Schedule(te.create_prim_func([A, B, C]))


def _tiled(split: tuple, fuse: bool = False) -> LoopNest:
    sch = _matmul()
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    io, ii = sch.split(i, list(split))
    sch.reorder(io, j, k, ii)
    if fuse:
        sch.parallel(sch.fuse(io, j))
    return loop_nest(sch.mod)


def _in_registers() -> LoopNest:
    sch = _matmul()
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    jo, ji = sch.split(j, [None, 4])
    sch.reorder(i, jo, k, ji)
    sch.vectorize(ji)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, jo)
    sch.decompose_reduction(block, k)
    return loop_nest(sch.mod)


def _padded() -> LoopNest:
    sch = _matmul()
    sch.pad_einsum(sch.get_sblock("C"), [8, 1, 1])
    return loop_nest(sch.mod)


def _block(nest: LoopNest, name: str) -> Block:
    block = nest.block(name)
    assert block is not None, [block.name for block in nest.blocks]
    return block


def test_a_split_that_does_not_divide_shows_its_guard() -> None:
    nest = call(_bound_to_threads, 100)
    assert _block(nest, "B").guarded
    assert nest.text() == dedent("""\
        for i_0 in blockIdx.x(4):
            for i_1 in threadIdx.x(32):
                if i_0 * 32 + i_1 < 100:
                    B[i_0 * 32 + i_1] = A[i_0 * 32 + i_1] * 2.0""")


def test_thread_bindings_are_loop_kinds_and_an_exact_split_has_no_guard() -> None:
    block = _block(call(_bound_to_threads, 128), "B")
    assert [(loop.extent, loop.kind) for loop in block.loops] == [
        (4, "blockIdx.x"),
        (32, "threadIdx.x"),
    ]
    assert block.strides == (32, 1)
    assert not block.guarded


def test_a_size_known_at_run_time_is_text() -> None:
    nest = call(_of_unknown_size)
    assert nest.text() == dedent("""\
        allocate D[n]
        for i in range(n):
            D[i] = A[i]
        for i in range(n):
            B[i] = D[i] * 2.0""")


def test_a_tensor_keeps_its_name_whatever_it_is() -> None:
    text = call(_of_tensors_named_as_tvm_scripts_words).text()
    assert "T[i] += I[i, k]" in text
    assert "R[i] = max(T[i], 0.0)" in text


def test_reductions_show_where_they_start() -> None:
    first = "if j == 0: Y[i] ="
    assert (
        f"{first} lowest float32\n        Y[i] = max(Y[i], X[i, j])" in call(_reduced, "max").text()
    )
    assert (
        f"{first} highest float32\n        Y[i] = min(Y[i], X[i, j])"
        in call(_reduced, "min").text()
    )


def test_a_scalar_is_written_by_every_iteration() -> None:
    nest = call(_reduced, "sum of all")
    assert nest.lines[-2].text == "if i == 0 and j == 0: Y[()] = 0.0"
    assert nest.lines[-1].text == "Y[()] += X[i, j]"
    block = _block(nest, "Y")
    assert (block.axes, block.strides) == (("R", "R"), (0, 0))


def test_each_loop_knows_what_it_feeds_and_how_far_it_steps() -> None:
    block = _block(call(_tiled, (None, 4)), "C")
    assert block.order() == "i_0, j, k, i_1"
    assert block.axes == ("S", "S", "R", "S")
    assert block.feeds == ("i", "j", "k", "i")
    assert block.position("i") == [0, 3]
    assert block.strides == (4 * 16, 1, 0, 16)


def test_strides_tell_an_inner_loop_from_an_outer_one_of_the_same_extent() -> None:
    # split(i, [4, None]): i_0 has 4 iterations as the tile above, but it goes in steps of 3 rows.
    block = _block(call(_tiled, (4, None)), "C")
    assert block.strides == (3 * 16, 1, 0, 16)


def test_a_fused_loop_feeds_both_and_has_no_single_stride() -> None:
    block = _block(call(_tiled, (None, 4), True), "C")
    fused = block.loops[0]
    assert (fused.name, fused.extent, fused.kind) == ("i_0_j_fused", 48, "parallel")
    assert (block.axes[0], block.feeds[0], block.strides[0]) == ("S", "i,j", None)
    assert block.position("j") == [0]


def test_a_decomposed_reduction_is_two_blocks_around_a_copy_out() -> None:
    nest = call(_in_registers)
    assert nest.text() == dedent("""\
        allocate C_local[12, 16] in local
        for i in range(12):
            for j_0 in range(4):
                for j_1_init in vectorized(4):
                    C_local[i, j_0 * 4 + j_1_init] = 0.0
                for k in range(9):
                    for j_1 in vectorized(4):
                        C_local[i, j_0 * 4 + j_1] += A[i, k] * B[k, j_0 * 4 + j_1]
                for ax0 in range(4):
                    C[i, j_0 * 4 + ax0] = C_local[i, j_0 * 4 + ax0]""")
    assert [block.name for block in nest.blocks] == ["C_init", "C_update", "C_local"]
    assert nest.buffers == (("C_local", (12, 16), "local"),)
    update = nest.computing("C")
    assert update is nest.block("C_update")
    assert (update.stores_to, update.scope, update.has_init) == ("C_local", "local", False)
    assert update.reads == ("C_local", "A", "B")
    copy = _block(nest, "C_local")
    assert (copy.stores_to, copy.scope, copy.reads) == ("C", "global", ("C_local",))
    assert copy.loops[1] is update.loops[1], "blocks in the same loop hold the same Loop"


def test_a_whole_reduction_computes_under_its_own_name() -> None:
    nest = call(_tiled, (None, 4))
    assert nest.computing("C") is nest.block("C")
    assert _block(nest, "C").has_init
    assert nest.block("C_update") is None


def test_padding_shows_as_a_condition_in_the_copy() -> None:
    nest = call(_padded)
    assert "A_pad[i0, i1] = if_then_else(i0 < 12, A[i0, i1], 0.0)" in nest.text()
    assert ("A_pad", (16, 9), "global") in nest.buffers
    assert not any(block.guarded for block in nest.blocks)
