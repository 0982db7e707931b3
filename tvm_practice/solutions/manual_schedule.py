"""Reference answers to phase 2: the ladder from the default loops to packed panels."""

from tvm.s_tir import Schedule


def tile(sch: Schedule, rows: int, columns: int) -> None:
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    io, ii = sch.split(i, [None, rows])
    jo, ji = sch.split(j, [None, columns])
    sch.reorder(io, jo, k, ii, ji)


def vectorize(sch: Schedule) -> None:
    *_, ji = sch.get_loops(sch.get_sblock("C"))
    sch.vectorize(ji)


def parallelize(sch: Schedule) -> None:
    slab, *_ = sch.get_loops(sch.get_sblock("C"))
    sch.parallel(slab)


def register_tile(sch: Schedule) -> None:
    block = sch.get_sblock("C")
    *outer, k, ii, _ = sch.get_loops(block)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, outer[-1])
    *_, row, column = sch.get_loops(copy)
    sch.unroll(row)
    sch.vectorize(column)
    sch.unroll(ii)
    sch.decompose_reduction(block, k)


def pack(sch: Schedule, columns: int) -> None:
    product = sch.get_sblock("C_update")
    copy = sch.cache_read(product, 2, "global")
    sch.transform_layout(product, ("read", 2), lambda k, j: (j // columns, k, j % columns))
    k, j = sch.get_loops(copy)
    panel, column = sch.split(j, [None, columns])
    sch.reorder(panel, k, column)
    sch.parallel(panel)
    sch.vectorize(column)
