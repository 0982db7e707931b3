"""The FMA chain and the triad once more, in C, for test_peaks.py; a module of its own, since the
workers that time them import it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from tvm_practice.common.timing import Runnable, aligned

COMPILER = shutil.which("gcc") or shutil.which("clang")

SOURCE = """
typedef float vector __attribute__((vector_size(4 * LANES)));

/* Whether every chain ended at the fixed point of chain / 2 + 1. */
int fma_chain(int workers, long steps) {
    volatile float half_from_memory = 0.5f, one_from_memory = 1.0f;
    int right = 1;
    #pragma omp parallel for schedule(static, 1) num_threads(workers) reduction(&: right)
    for (int worker = 0; worker < workers; ++worker) {
        vector half = half_from_memory - (vector){0}, one = one_from_memory - (vector){0};
        vector chain[CHAINS];
        /* Each from elsewhere: of equal chains a compiler keeps only one. */
        for (int c = 0; c < CHAINS; ++c) chain[c] = half * (float)c;
        for (long step = 0; step < steps; ++step) {
            #pragma GCC unroll 64
            for (int c = 0; c < CHAINS; ++c) chain[c] = chain[c] * half + one;
        }
        for (int c = 0; c < CHAINS; ++c)
            for (int lane = 0; lane < LANES; ++lane) right &= chain[c][lane] == 2.0f;
    }
    return right;
}

void triad(int workers, long length, float *restrict a, const float *restrict b,
           const float *restrict c) {
    #pragma omp parallel for schedule(static) num_threads(workers)
    for (long i = 0; i < length; ++i) a[i] = b[i] + c[i] * 3.0f;
}
"""


def compile_c(folder: Path, lanes: int, chains: int) -> str:
    """Compile SOURCE into a library in `folder`; return its path, or raise RuntimeError with what
    the compiler said."""
    source = folder / f"peaks_{lanes}_{chains}.c"
    library = source.with_suffix(".so")
    source.write_text(SOURCE)
    defines = [f"-DLANES={lanes}", f"-DCHAINS={chains}"]
    options = ["-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC"]
    done = subprocess.run(
        [COMPILER, *options, *defines, str(source), "-o", str(library)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[0])
    return str(library)


def make_c_fma(library: str, workers: int, lanes: int, chains: int) -> Runnable:
    function = ctypes.CDLL(library).fma_chain
    function.argtypes = (ctypes.c_int, ctypes.c_long)
    steps = 100_000
    if not function(workers, steps):
        raise RuntimeError("the C chain gave a wrong result")
    flops = 2.0 * workers * chains * lanes * steps
    return Runnable(lambda: function(workers, steps), flops=flops, verified=True)


def make_c_triad(library: str, workers: int) -> Runnable:
    function = ctypes.CDLL(library).triad
    function.argtypes = (ctypes.c_int, ctypes.c_long, *[ctypes.c_void_p] * 3)
    length = 1 << 24
    # In the order in which make_triad has them: what lies where in memory matters.
    arrays = [aligned(np.full(length, value, "float32")) for value in (1.0, 2.0, np.nan)]
    pointers = [arrays[n].ctypes.data for n in (2, 0, 1)]
    function(workers, length, *pointers)
    if not (arrays[2] == 7.0).all():
        raise RuntimeError("the C triad gave a wrong result")
    return Runnable(
        lambda: function(workers, length, *pointers) or arrays,
        flops=2.0 * length,
        bytes=12.0 * length,
        verified=True,
        bytes_written=4.0 * length,
    )
