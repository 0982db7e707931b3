"""A workload for test_bench.py that is measured in no time; a module of its own, since the workers
import it."""

from __future__ import annotations

import time

from tvm_practice.bench import Workload
from tvm_practice.common import verify
from tvm_practice.common.timing import Candidate, Runnable


def make_sleep(size: tuple[int, ...], factor: float, verified: bool = True) -> Runnable:
    """Sleeps as long as the size says; as much work as the read sum has, so that it is bound by
    bandwidth."""
    rows, columns = size
    work = 1e6 * rows * columns
    seconds = 1e-4 * factor * rows * columns
    return Runnable(lambda: time.sleep(seconds), work, 4 * work, verified)


def make_wrong(size: tuple[int, ...]) -> Runnable:
    raise verify.Wrong("1 of 1 elements of C are wrong")


def make_broken(size: tuple[int, ...]) -> Runnable:
    raise RuntimeError("there is no compiler")


def competitors(size: tuple[int, ...], seed: int) -> list[Candidate]:
    return [
        Candidate("naive", make_sleep, {"size": size, "factor": 20.0}),
        Candidate("1.1 step", make_sleep, {"size": size, "factor": 3.0}),
        Candidate("hand", make_sleep, {"size": size, "factor": 1.0}),
        Candidate("NumPy", make_sleep, {"size": size, "factor": 2.0}),
        Candidate("torch.compile", make_broken, {"size": size}),
    ]


def wrong_competitors(size: tuple[int, ...], seed: int) -> list[Candidate]:
    return [*competitors(size, seed), Candidate("torch", make_wrong, {"size": size})]


def unverified_competitors(size: tuple[int, ...], seed: int) -> list[Candidate]:
    arguments = {"size": size, "factor": 2.0, "verified": False}
    return [*competitors(size, seed), Candidate("torch", make_sleep, arguments)]


SIZES, QUICK_SIZES = ((1, 8), (4, 8)), ((1, 4),)


def workload(name: str, competitors=competitors) -> Workload:
    return Workload(name, SIZES, QUICK_SIZES, competitors)


# The same as if they ran on a GPU, whose clock says how long they took.


def make_ticking(size: tuple[int, ...], factor: float, footprint: float = 0.0) -> Runnable:
    rows, columns = size
    work = 1e9 * rows * columns
    seconds = 1e-4 * factor * rows * columns
    moved = footprint or 4 * work
    return Runnable(print, work, moved, True, moved / 3, on_device=lambda calls: seconds)


def gpu_competitors(size: tuple[int, ...], seed: int) -> list[Candidate]:
    return [
        Candidate("hand", make_ticking, {"size": size, "factor": 1.0}),
        Candidate("torch (cuBLAS)", make_ticking, {"size": size, "factor": 2.0}),
    ]


def gpu_found() -> dict:
    named = {"name": "a GPU that ticks", "arch": "sm_70"}
    return {**named, "processors": 1, "memory_bytes": 1 << 30, "driver": "13.0"}


def bandwidth_roof(work: Runnable) -> Candidate:
    return Candidate("stream triad", make_ticking, {"size": (1, 1), "factor": 1.0})


GPU_PEAKS = (
    Candidate("FMA peak", make_ticking, {"size": (4, 8), "factor": 0.5}),
    Candidate("stream triad", make_ticking, {"size": (4, 8), "factor": 1.0}),
)
