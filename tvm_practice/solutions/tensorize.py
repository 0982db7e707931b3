"""Reference answers to the lab on tensorization."""

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.script import tirx as T


def dot_product(lanes: int) -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i in range(lanes):
                for k in range(4):
                    with T.sblock("update"):
                        vi = T.axis.spatial(lanes, i)
                        vk = T.axis.reduce(4, k)
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


def pack(sch: Schedule, columns: int) -> None:
    block = sch.get_sblock("C")
    copy = sch.cache_read(block, 1, "global")
    sch.transform_layout(
        block, ("read", 1), lambda k, j: (j // columns, k // 4, j % columns, k % 4)
    )
    k, j = sch.get_loops(copy)
    ko, four = sch.split(k, [None, 4])
    panel, column = sch.split(j, [None, columns])
    sch.reorder(panel, ko, column, four)
    sch.parallel(panel)


def tensorize(sch: Schedule, name: str) -> None:
    block = sch.get_sblock("C")
    _, _, _, ko, _, _, lane, _ = sch.get_loops(block)
    zero = sch.decompose_reduction(block, ko)
    sch.vectorize(sch.get_loops(zero)[-1])
    sch.tensorize(lane, name)
