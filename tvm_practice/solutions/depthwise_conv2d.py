"""Reference answers to the lab on depthwise convolution."""

from tvm.s_tir import Schedule


def blocks(sch: Schedule) -> None:
    b, c, _, _, _, _ = sch.get_loops(sch.get_sblock("Y"))
    sch.bind(b, "blockIdx.y")
    sch.bind(c, "blockIdx.x")


def fused_blocks(sch: Schedule) -> None:
    b, c, h, _, _, _ = sch.get_loops(sch.get_sblock("Y"))
    sch.bind(sch.fuse(b, c, h), "blockIdx.x")


def threads(sch: Schedule, rows: int, columns: int) -> None:
    b, c, h, w, _, _ = sch.get_loops(sch.get_sblock("Y"))
    ho, ty = sch.split(h, [None, rows])
    wo, tx = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    sch.bind(b, "blockIdx.y")
    sch.bind(c, "blockIdx.x")
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")


def outer_fusion(sch: Schedule, rows: int, columns: int) -> None:
    b, c, h, w, _, _ = sch.get_loops(sch.get_sblock("Y"))
    ho, ty = sch.split(h, [None, rows])
    wo, tx = sch.split(w, [None, columns])
    sch.reorder(ho, wo, ty, tx)
    sch.bind(sch.fuse(b, c, ho, wo), "blockIdx.x")
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")


def share(sch: Schedule) -> None:
    P = sch.get_sblock("P")
    block, ty, tx, _, _ = sch.get_loops(sch.get_sblock("Y"))
    rows, columns = sch.get(ty).extent, sch.get(tx).extent
    sch.set_scope(P, 0, "shared")
    sch.compute_at(P, block)
    piece = sch.fuse(*sch.get_loops(P)[-2:])
    _, y, x = sch.split(piece, [None, rows, columns])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
