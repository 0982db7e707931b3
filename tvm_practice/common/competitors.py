"""The matrix multiplications that are timed against each other: a TVM schedule, NumPy, torch, each
verified first."""

from __future__ import annotations

import numpy as np

from tvm_practice.common import verify
from tvm_practice.common.target import build, threads
from tvm_practice.common.timing import Candidate, Runnable, in_huge_pages


def inputs(M: int, N: int, K: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The A and B that every competitor of one comparison multiplies."""
    rng = np.random.default_rng(seed)
    return verify.random_array(rng, M, K), verify.random_array(rng, K, N)


def flops(M: int, N: int, K: int) -> float:
    """Floating-point operations of a matmul: a multiplication and an addition for each i, j, k."""
    return 2.0 * M * N * K


def work(M: int, N: int, K: int) -> dict[str, float]:
    """What one call has to do, for a Runnable: operations, and compulsory traffic in bytes."""
    return {
        "flops": flops(M, N, K),
        "bytes": 4.0 * (M * K + K * N + M * N),
        "bytes_written": 4.0 * M * N,
    }


def runnable_matmul(schedule_or_module, M: int, N: int, K: int, seed: int) -> Runnable:
    """Compile "main"(A, B, C), verify its result against float64, and return it to be timed."""
    function = build(getattr(schedule_or_module, "mod", schedule_or_module))
    a, b = inputs(M, N, K, seed)
    tensors = [in_huge_pages(array) for array in (a, b, np.full((M, N), np.nan, "float32"))]
    function(*tensors)
    _verify(tensors[2].numpy(), a, b)
    return Runnable(lambda: function(*tensors), verified=True, **work(M, N, K))


def _verify(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    want, magnitude = verify.matmul_reference(a, b)
    verify.assert_close(got, want, magnitude, a.shape[1], "C")


def make_numpy(M: int, N: int, K: int, seed: int) -> Runnable:
    a, b = inputs(M, N, K, seed)
    c = np.empty((M, N), "float32")
    np.matmul(a, b, out=c)
    _verify(c, a, b)
    return Runnable(lambda: np.matmul(a, b, out=c), verified=True, **work(M, N, K))


def make_torch(M: int, N: int, K: int, seed: int) -> Runnable:
    import torch

    torch.set_num_threads(threads())
    a, b = (torch.from_numpy(array) for array in inputs(M, N, K, seed))
    c = torch.empty((M, N))
    torch.mm(a, b, out=c)
    _verify(c.numpy(), a.numpy(), b.numpy())
    return Runnable(lambda: torch.mm(a, b, out=c), verified=True, **work(M, N, K))


def make_torch_compile(M: int, N: int, K: int, seed: int) -> Runnable:
    """What torch.compile makes of a matmul; it raises where torch cannot compile, for want of a C++
    compiler say."""
    import torch

    torch.set_num_threads(threads())
    a, b = (torch.from_numpy(array) for array in inputs(M, N, K, seed))
    compiled = torch.compile(torch.mm, fullgraph=True)
    _verify(compiled(a, b).numpy(), a.numpy(), b.numpy())
    return Runnable(lambda: compiled(a, b), verified=True, **work(M, N, K))


def libraries(M: int, N: int, K: int, seed: int) -> list[Candidate]:
    """NumPy and torch at this size, as candidates of a comparison."""
    arguments = {"M": M, "N": N, "K": K, "seed": seed}
    return [Candidate("NumPy", make_numpy, arguments), Candidate("torch", make_torch, arguments)]
