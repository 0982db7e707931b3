"""Answers to the lab on tensorization: first attempts gone wrong, and right answers unlike the
reference."""

from tvm.script import tirx as T

from tests.wrong_answers import right, wrong
from tvm_practice.solutions import tensorize as reference

# ----------------------------------------------------------------------------------- 1 dot_product


@right("tensorize.1")
def dot_product_with_remapped_axes(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@right("tensorize.1")
def dot_product_with_other_names(lanes):
    @T.prim_func(s_tir=True)
    def dot(
        bytes_: T.Buffer((4,), "uint8", offset_factor=1),
        weights: T.Buffer((lanes, 4), "int8", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], bytes_[0:4], weights[0:lanes, 0:4])
            T.writes(sums[0:lanes])
            for lane in T.serial(lanes):
                for step in T.serial(4):
                    with T.sblock("dot"):
                        n = T.axis.spatial(lanes, lane)
                        s = T.axis.reduce(4, step)
                        sums[n] = sums[n] + T.cast(bytes_[s], "int32") * T.cast(
                            weights[n, s], "int32"
                        )

    return dot


@right("tensorize.1")
def dot_product_without_offset_factors(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8"),
        B: T.Buffer((lanes, 4), "int8"),
        C: T.Buffer((lanes,), "int32", scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@wrong("tensorize.1", "none is a reduction", hint="The instruction adds four")
def dot_product_without_a_reduction(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@wrong("tensorize.1", "k around i")
def dot_product_with_k_outside(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for k, i in T.grid(4, lanes):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@wrong("tensorize.1", "C is overwritten")
def dot_product_that_starts_anew(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    with T.init():
                        C[vi] = 0
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@wrong("tensorize.1", "A's bytes count as signed", hint="What is the product of 200")
def dot_product_of_signed_bytes(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(T.cast(A[vk], "int8"), "int32") * T.cast(
                        B[vi, vk], "int32"
                    )

    return description


@wrong("tensorize.1", "is computed as a byte, and overflows")
def dot_product_widened_too_late(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(T.cast(A[vk], "int8") * B[vi, vk], "int32")

    return description


@wrong("tensorize.1", 'C is not in scope "local"')
def dot_product_in_memory(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@wrong("tensorize.1", "B has shape (4, ")
def dot_product_with_b_turned_round(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((4, lanes), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:4, 0:lanes])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vk, vi], "int32")

    return description


@wrong("tensorize.1", "contain no sblock", hint="The description is a program")
def dot_product_without_a_block(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                C[i] = C[i] + T.cast(A[k], "int32") * T.cast(B[i, k], "int32")

    return description


@wrong("tensorize.1", "are to stand in T.sblock")
def dot_product_without_its_regions(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


@wrong("tensorize.1", "multiplies A by B, in this order")
def dot_product_with_the_factors_turned_round(lanes):
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i, k in T.grid(lanes, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(B[vi, vk], "int32") * T.cast(A[vk], "int32")

    return description


@wrong("tensorize.1", "should return the description, a PrimFunc")
def dot_product_that_is_not_returned(lanes):
    reference.dot_product(lanes)


# ------------------------------------------------------------------------------------------ 2 pack


def pack_but(
    sch,
    columns,
    buffer=1,
    layout=lambda columns: lambda k, j: (j // columns, k // 4, j % columns, k % 4),
    order=("panel", "ko", "column", "four"),
    parallel=True,
    inside=False,
    scope="global",
):
    """The reference, with one thing changed."""
    block = sch.get_sblock("C")
    copy = sch.cache_read(block, buffer, scope)
    if layout is not None:
        sch.transform_layout(block, ("read", buffer), layout(columns))
    if inside:
        sch.compute_at(copy, sch.get_loops(block)[0])
        return
    k, j = sch.get_loops(copy)
    ko, four = sch.split(k, [None, 4])
    panel, column = sch.split(j, [None, columns])
    named = {"panel": panel, "ko": ko, "column": column, "four": four}
    sch.reorder(*[named[name] for name in order])
    if parallel:
        sch.parallel(panel)


@right("tensorize.2")
def pack_by_the_write_side_of_the_copy(sch, columns):
    copy = sch.cache_read(sch.get_sblock("C"), 1, "global")
    sch.transform_layout(
        copy, ("write", 0), lambda k, j: (j // columns, k // 4, j % columns, k % 4)
    )
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [None, columns])
    ko, four = sch.split(k, [None, 4])
    sch.parallel(panel)
    sch.reorder(panel, ko, column, four)


@right("tensorize.2")
def pack_with_the_four_unrolled(sch, columns):
    pack_but(sch, columns)
    copy = next(
        block
        for block in sch.get_child_blocks(sch.get_sblock("root"))
        if sch.get(block).name_hint == "B_global"
    )
    sch.unroll(sch.get_loops(copy)[-1])


@wrong("tensorize.2", "the loop nest is what it was before", hint="Which object do your primitives")
def pack_nothing(sch, columns):
    sch.get_sblock("C")


@wrong("tensorize.2", "copies A")
def pack_a(sch, columns):
    sch.cache_read(sch.get_sblock("C"), 0, "global")


@wrong("tensorize.2", "changed the shape of B itself")
def pack_b_where_it_lies(sch, columns):
    sch.transform_layout(
        sch.get_sblock("C"), ("read", 1), lambda k, j: (j // columns, k // 4, j % columns, k % 4)
    )


@wrong("tensorize.2", "The loops of the product are not as they were")
def pack_and_vectorize_the_product(sch, columns):
    pack_but(sch, columns)
    *_, lane, four = sch.get_loops(sch.get_sblock("C"))
    sch.reorder(four, lane)
    sch.vectorize(lane)


@wrong("tensorize.2", 'is in scope "local"')
def pack_into_registers(sch, columns):
    pack_but(sch, columns, scope="local")


@wrong("tensorize.2", "transform_layout is missing", hint="The instruction reads four")
def pack_without_a_layout(sch, columns):
    sch.cache_read(sch.get_sblock("C"), 1, "global")


@wrong("tensorize.2", "expected (")
def pack_as_for_float32(sch, columns):
    block = sch.get_sblock("C")
    sch.cache_read(block, 1, "global")
    sch.transform_layout(block, ("read", 1), lambda k, j: (j // columns, k, j % columns))


@wrong("tensorize.2", "Element [k, j] of B is kept at")
def pack_with_the_four_far_apart(sch, columns):
    block = sch.get_sblock("C")
    steps = int(sch.get(block).reads[1].source.shape[0]) // 4

    def layout(columns):
        return lambda k, j: (j // columns, k % steps, j % columns, k // steps)

    pack_but(sch, columns, layout=layout)


@wrong("tensorize.2", "so that it writes byte after byte", hint="The copy is made once, by")
def pack_with_the_loops_as_b_has_them(sch, columns):
    pack_but(sch, columns, order=("ko", "four", "panel", "column"), parallel=False)


@wrong("tensorize.2", "One thread packs all the panels")
def pack_by_one_thread(sch, columns):
    pack_but(sch, columns, parallel=False)


@wrong("tensorize.2", "The copy stands inside of the product's loops")
def pack_for_each_slab(sch, columns):
    pack_but(sch, columns, inside=True)


# ------------------------------------------------------------------------------------- 3 tensorize


@right("tensorize.3")
def tensorize_by_number(sch, name):
    block = sch.get_sblock("C")
    zero = sch.decompose_reduction(block, sch.get_loops(block)[3])
    sch.tensorize(sch.get_loops(sch.get_sblock("C_update"))[6], name)
    sch.vectorize(sch.get_loops(zero)[-1])


@right("tensorize.3")
def tensorize_from_the_inside(sch, name):
    block = sch.get_sblock("C")
    *_, ko, _, _, lane, _ = sch.get_loops(block)
    sch.decompose_reduction(block, ko)
    *_, last = sch.get_loops(sch.get_sblock("C_init"))
    sch.vectorize(last)
    sch.tensorize(lane, name)


def tensorize_but(sch, name, at=3, vectorize=True, loop=6):
    """The reference, with one thing changed."""
    block = sch.get_sblock("C")
    loops = sch.get_loops(block)
    zero = sch.decompose_reduction(block, loops[at])
    if vectorize:
        sch.vectorize(sch.get_loops(zero)[-1])
    if loop is not None:
        sch.tensorize(loops[loop], name)


@wrong("tensorize.3", "the loop nest is what it was before", hint="Which object do your primitives")
def tensorize_nothing(sch, name):
    sch.get_sblock("C")


@wrong("tensorize.3", "No loop has been replaced", hint="Which loops does the description")
def tensorize_without_tensorizing(sch, name):
    tensorize_but(sch, name, loop=None)


@wrong(
    "tensorize.3", "the description of the instruction only adds", hint="The instruction only adds"
)
def tensorize_before_decomposing(sch, name):
    sch.tensorize(sch.get_loops(sch.get_sblock("C"))[6], name)


@wrong("tensorize.3", "The lanes of the zeroing")
def tensorize_without_vectorizing_the_zeroing(sch, name):
    tensorize_but(sch, name, vectorize=False)


@wrong("tensorize.3", "The zeroing stands outside of the place")
def tensorize_with_the_zeroing_before_io(sch, name):
    tensorize_but(sch, name, at=2)


@wrong("tensorize.3", "are not what the description of the instruction says")
def tensorize_the_vectors(sch, name):
    tensorize_but(sch, name, loop=5)


@wrong("tensorize.3", "expected k_0 (serial) in the place of k_0 (unrolled)")
def tensorize_with_ko_unrolled(sch, name):
    ko = sch.get_loops(sch.get_sblock("C"))[3]
    tensorize_but(sch, name)
    sch.unroll(ko)


@wrong("tensorize.3", "no instruction is registered under the name")
def tensorize_under_another_name(sch, name):
    tensorize_but(sch, "dot_product")
