"""What test_ladder.py runs in a worker; a module of its own, since the worker imports it."""

from __future__ import annotations

import numpy as np

from tvm_practice.common import verify
from tvm_practice.common.target import build, register_tile, slabs_for
from tvm_practice.experiments.manual_schedule import Steps, hand_schedule, scheduled_matmul


def assert_multiplies(sizes: list[tuple[int, int, int]], steps: Steps | None) -> None:
    """Raise verify.Wrong unless the matmul after `steps`, or the hand schedule for None, computes
    A @ B at each size M, N, K."""
    for M, N, K in sizes:
        rng = np.random.default_rng(M + N + K)
        a, b = verify.random_array(rng, M, K), verify.random_array(rng, K, N)
        sch = hand_schedule(M, N, K) if steps is None else scheduled_matmul(M, N, K, steps)
        got = verify.run(build(sch.mod), (a, b), (M, N))
        verify.assert_close(got, *verify.matmul_reference(a, b), K, f"C (at {M} x {N} x {K})")


def tile_and_slabs(M: int, N: int) -> tuple[int, int, int]:
    """Rows and columns of the register tile for an M x N matrix, and the slabs of its tile rows."""
    rows, columns = register_tile(M, N)
    return rows, columns, slabs_for(-(-M // rows))
