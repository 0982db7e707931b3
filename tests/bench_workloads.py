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
