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


def bind(sch: Schedule, threads: tuple[int, int], each: tuple[int, int]) -> None:
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    by, ty, yi = sch.split(i, [None, threads[0], each[0]])
    bx, tx, xi = sch.split(j, [None, threads[1], each[1]])
    sch.reorder(by, bx, ty, tx, k, yi, xi)
    sch.bind(by, "blockIdx.y")
    sch.bind(bx, "blockIdx.x")
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")


def share(sch: Schedule, depth: int, width: int) -> None:
    block = sch.get_sblock("C")
    *_, ty, tx, k, _, _ = sch.get_loops(block)
    rows, columns = sch.get(ty).extent, sch.get(tx).extent
    ko, _ = sch.split(k, [None, depth])
    for number in (0, 1):
        copy = sch.cache_read(block, number, "shared")
        sch.compute_at(copy, ko)
        piece = sch.fuse(*sch.get_loops(copy)[-2:])
        _, y, x, lane = sch.split(piece, [None, rows, columns, width])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)


def thread_tile(sch: Schedule) -> None:
    block, store = sch.get_sblock("C"), sch.get_sblock("C_local")
    *_, ko, ki, yi, xi = sch.get_loops(block)
    a, b = (sch.cache_read(block, number, "local") for number in (0, 1))
    sch.compute_at(a, ki)
    sch.compute_at(b, ki)
    *_, row, column = sch.get_loops(store)
    for loop in (ki, yi, xi, *sch.get_loops(a)[-2:], row):
        sch.unroll(loop)
    sch.vectorize(column)
    sch.vectorize(sch.get_loops(b)[-1])
    sch.decompose_reduction(block, ko)


def pipeline(sch: Schedule) -> None:
    *_, ko, _, _, _ = sch.get_loops(sch.get_sblock("C_update"))
    sch.annotate(ko, "software_pipeline_stage", [0, 0, 0, 0, 1])
    sch.annotate(ko, "software_pipeline_order", [0, 3, 1, 4, 2])
