"""What test_ladder.py runs in a worker; a module of its own, since the worker imports it."""

from __future__ import annotations

import numpy as np

from tvm_practice.common import verify
from tvm_practice.common.target import build
from tvm_practice.experiments.manual_schedule import Steps, scheduled_matmul


def assert_multiplies(sizes: list[tuple[int, int, int]], steps: Steps) -> None:
    """Raise verify.Wrong unless the matmul after `steps` computes A @ B at each size M, N, K."""
    for M, N, K in sizes:
        rng = np.random.default_rng(M + N + K)
        a, b = verify.random_array(rng, M, K), verify.random_array(rng, K, N)
        got = verify.run(build(scheduled_matmul(M, N, K, steps).mod), (a, b), (M, N))
        verify.assert_close(got, *verify.matmul_reference(a, b), K, f"C (at {M} x {N} x {K})")
