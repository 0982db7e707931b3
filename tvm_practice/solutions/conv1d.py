"""Reference answers to the lab on one-dimensional convolution."""

from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_practice.labs.conv1d import fetch


def over_taps(M: int, N: int) -> list[te.Tensor]:
    D = te.placeholder((M,), name="D")
    W = te.placeholder((N,), name="W")
    k = te.reduce_axis((0, N), name="k")

    def rule(i):
        inside = tirx.all(i - k >= 0, i - k < M)
        zero = tirx.const(0.0, "float32")
        return te.sum(tirx.if_then_else(inside, D[i - k] * W[k], zero), axis=k)

    C = te.compute((M + N - 1,), rule, name="C")
    return [D, W, C]


def padded(M: int, N: int, length: int) -> list[te.Tensor]:
    D = te.placeholder((M,), name="D")
    W = te.placeholder((N,), name="W")

    def sample(t):
        inside = tirx.all(t >= N - 1, t < N - 1 + M)
        return tirx.if_then_else(inside, D[t - (N - 1)], tirx.const(0.0, "float32"))

    P = te.compute((length + N - 1,), sample, name="P")
    k = te.reduce_axis((0, N), name="k")
    T = te.compute((length,), lambda i: te.sum(P[i + N - 1 - k] * W[k], axis=k), name="T")
    C = te.compute((M + N - 1,), lambda i: T[i], name="C")
    return [D, W, C]


def vectorize(sch: Schedule, vectors: int, lanes: int) -> None:
    i, k = sch.get_loops(sch.get_sblock("T"))
    io, iv, lane = sch.split(i, [None, vectors, lanes])
    sch.reorder(io, k, iv, lane)
    sch.vectorize(lane)


def registers(sch: Schedule) -> None:
    block = sch.get_sblock("T")
    *_, io, k, iv, lane = sch.get_loops(block)
    lanes = int(sch.get(lane).extent)
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, io)
    vector, part = sch.split(sch.get_loops(copy)[-1], [None, lanes])
    sch.unroll(vector)
    sch.vectorize(part)
    sch.unroll(iv)
    sch.decompose_reduction(block, k)


def reuse(sch: Schedule, taps: int, lanes: int) -> None:
    *_, k, _, _ = sch.get_loops(sch.get_sblock("T_update"))
    _, tap, residue = sch.split(k, [None, taps, lanes])
    sch.reorder(residue, tap)
    sch.unroll(tap)


def bind_threads(sch: Schedule, count: int) -> None:
    i, _ = sch.get_loops(sch.get_sblock("C"))
    block, thread = sch.split(i, [None, count])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


def bind_virtual_threads(sch: Schedule, each: int, count: int) -> None:
    i, _ = sch.get_loops(sch.get_sblock("T"))
    block, virtual, thread = sch.split(i, [None, each, count])
    sch.bind(block, "blockIdx.x")
    sch.bind(virtual, "vthread.x")
    sch.bind(thread, "threadIdx.x")


def place(sch: Schedule, count: int) -> None:
    P, T, C = (sch.get_sblock(name) for name in "PTC")
    block, _, thread, _ = sch.get_loops(T)
    W = sch.cache_read(T, 1, "shared")
    sch.set_scope(P, 0, "shared")
    for copy in (P, W):
        sch.compute_at(copy, block)
        fetch(sch, copy, count)
    sch.set_scope(T, 0, "local")
    sch.reverse_compute_at(C, thread)
