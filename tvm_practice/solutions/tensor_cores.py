"""Reference answers to the lab on tensor cores."""

from tvm.s_tir import Schedule

from tvm_practice.common.exercise import load_lesson

lesson = load_lesson("tensor_cores")
EDGE, WARP = lesson.EDGE, lesson.WARP


def tile(sch: Schedule, warps: tuple[int, int], each: tuple[int, int], depth: int) -> None:
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    by, row, fi, it = sch.split(i, [None, warps[0], each[0], EDGE])
    bx, column, fj, jt = sch.split(j, [None, warps[1], each[1], EDGE])
    ko, ki, kt = sch.split(k, [None, depth, EDGE])
    sch.reorder(by, bx, row, column, ko, ki, fi, fj, it, jt, kt)
    sch.bind(by, "blockIdx.y")
    sch.bind(bx, "blockIdx.x")
    sch.bind(sch.fuse(row, column), "threadIdx.y")
    sch.blockize(it)


def fragments(sch: Schedule) -> None:
    block = sch.get_sblock("C_o")
    _, _, warp, _, ki, _, _ = sch.get_loops(block)
    sums = sch.cache_write(block, 0, "wmma.accumulator")
    sch.reverse_compute_at(sums, warp)
    lesson.over_tiles(sch, sums)
    for number, scope in enumerate(("wmma.matrix_a", "wmma.matrix_b")):
        copy = sch.cache_read(block, number, scope)
        sch.compute_at(copy, ki)
        lesson.over_tiles(sch, copy)


def share(sch: Schedule) -> None:
    _, _, warp, ko, _, _, _ = sch.get_loops(sch.get_sblock("C_o"))
    warps = int(sch.get(warp).extent)
    for name in ("A_wmma.matrix_a", "B_wmma.matrix_b"):
        copy = sch.cache_read(sch.get_sblock(name), 0, "shared")
        sch.compute_at(copy, ko)
        piece = sch.fuse(*sch.get_loops(copy)[-2:])
        _, y, x, lane = sch.split(piece, [None, warps, WARP, 8])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)
        sch.storage_align(copy, 0, axis=0, factor=32, offset=8)


def tensorize(sch: Schedule, instructions: dict[str, str]) -> None:
    *_, it, _, _ = sch.get_loops(sch.get_sblock("C"))
    sch.tensorize(it, instructions["multiply"])
    for name, instruction in (
        ("A_wmma.matrix_a", "load_a"),
        ("B_wmma.matrix_b", "load_b"),
        ("C_wmma.accumulator", "store"),
    ):
        *_, it, _ = sch.get_loops(sch.get_sblock(name))
        sch.tensorize(it, instructions[instruction])
