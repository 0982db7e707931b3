"""Reference answers to the lab on attention."""

from tvm.s_tir import Schedule
from tvm.script import tirx as T

from tvm_practice.common.exercise import load_lesson

lesson = load_lesson("attention")
WIDTH = lesson.WIDTH


def extend(highest, total, score) -> tuple:
    new = T.max(highest, score)
    return new, total * T.exp(highest - new) + T.exp(score - new)


def fetch(sch: Schedule, threads: tuple[int, int]) -> None:
    sch.transform_layout("K_load", ("write", 0), lambda j, k: (k, j))
    for name in ("Q_load", "K_load", "V_load"):
        piece = sch.fuse(*sch.get_loops(sch.get_sblock(name))[-2:])
        _, y, x, lane = sch.split(piece, [None, *threads, WIDTH])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(lane)


def product(sch: Schedule, name: str, threads: tuple[int, int], deep: int) -> None:
    block = sch.get_sblock(name)
    *_, i, j, k = sch.get_loops(block)
    y, yi = sch.split(i, [threads[0], None])
    x, xi = sch.split(j, [threads[1], None])
    ko, ki = sch.split(k, [None, deep])
    sch.reorder(y, x, ko, ki, yi, xi)
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    copy = sch.cache_read(block, len(sch.get(block).reads) - 1, "local")
    sch.compute_at(copy, ki)
    sch.vectorize(sch.get_loops(copy)[-1])
    for loop in (ki, yi, xi):
        sch.unroll(loop)
    sch.decompose_reduction(block, ko)


def own_rows(sch: Schedule, name: str, threads: tuple[int, int]) -> None:
    rows = sch.get_loops(sch.get_sblock(name))[-lesson.ROWS[name]]
    y, own = sch.split(rows, [threads[0], None])
    sch.bind(y, "threadIdx.y")
    sch.unroll(own)
