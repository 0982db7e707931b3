"""Kernels written by hand for the simulator, where a worker can find them."""

from __future__ import annotations

import numpy as np

from tvm_practice.common.cuda.kernels import Kernel
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.loop_nest import LoopNest


def written(body: str, grid=(1, 1, 1), block=(32, 1, 1), number: int = 0) -> Kernel:
    head = f'extern "C" __global__ void kernel_{number}(float* A_ptr, float* B_ptr) {{'
    source = f"{head}\n  int t = (int)threadIdx.x;\n{body}\n}}"
    return Kernel(f"kernel_{number}", "", source, grid, block, ("A", "B"), ("float32",) * 2)


def library_of(*made: Kernel) -> Simulated:
    return Simulated(made, LoopNest((), (), ()), "AB")


def beyond_the_stack() -> None:
    """800,000 bytes of a thread's own, in a type whose size nobody has declared."""
    body = """\
  struct { float many[200000]; } own;
  for (int i = 0; i < 200000; ++i) own.many[i] = A_ptr[t] + (float)i;
  __syncthreads();
  B_ptr[t] = own.many[((int)A_ptr[t]) + 100000];"""
    library_of(written(body)).run([np.zeros(64, "f4"), np.zeros(64, "f4")])


def compile_for_ever(connection) -> None:
    while True:
        library_of(written("  B_ptr[t] = A_ptr[t];"))
