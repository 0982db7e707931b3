"""Registers, occupancy and rooflines: against numbers worked out by hand, NVIDIA's own calculator,
TVM's own compiler options, and kernels that TVM makes."""

from __future__ import annotations

import itertools
import math
import pickle
import random
import re
import shutil
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_practice.common.cuda import resources
from tvm_practice.common.cuda.kernels import Kernel, kernels
from tvm_practice.common.cuda.resources import (
    DEVICES,
    H100,
    KIB,
    V100,
    Device,
    NotCompiled,
    Usage,
    available,
    occupancy,
    report,
    roofline,
)
from tvm_practice.common.worker import call

MISSING = available()
needs_nvrtc = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


def using(registers: int) -> Usage:
    return Usage("kernel", "sm_70", registers, 0, 0, 0, 0, 0)


# ---------------------------------------------------------------------------------------- devices


def test_the_peaks_are_those_of_the_data_sheets() -> None:
    assert V100.float32_peak == pytest.approx(15.7e12, rel=0.005)
    assert V100.tensor_peak == pytest.approx(125e12, rel=0.005)
    assert H100.float32_peak == pytest.approx(67e12, rel=0.005)
    assert H100.tensor_peak == pytest.approx(989.4e12, rel=0.005)
    assert V100.warps == H100.warps == 64


def header(name: str) -> Path | None:
    """A header of CUDA: of the extra, or of what PyTorch's CUDA build brings."""
    for wheel in (
        "nvidia-cuda-runtime-cu12",
        "nvidia-cuda-cccl-cu12",
        "nvidia-cuda-runtime",
        "nvidia-cuda-cccl",
    ):
        try:
            files = metadata.files(wheel) or ()
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.as_posix().endswith(f"include/{name}"):
                return Path(str(file.locate()))
    return None


TRAITS = header("cccl/cuda/__device/arch_traits.h")


@pytest.mark.skipif(not TRAITS, reason="no wheel of CUDA 13's C++ library is installed here")
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_the_limits_are_those_of_cudas_own_table(device: Device) -> None:
    text = TRAITS.read_text()
    said: dict[str, int] = {}
    for part in (
        text[text.index("__common_arch_traits(arch_id") :],
        text[text.index(f"arch_traits<arch_id::{device.arch}>()") :],
    ):
        for name, value in re.findall(r"__traits\.(\w+)\s*=\s*([\d *]+);", part.split("\n}")[0]):
            said[name] = math.prod(map(int, value.split("*")))
    assert said["max_threads_per_block"] == device.threads_per_block
    assert said["max_threads_per_multiprocessor"] == device.threads
    assert said["max_blocks_per_multiprocessor"] == device.blocks
    assert said["max_registers_per_multiprocessor"] == device.registers
    assert said["max_registers_per_block"] == device.registers_per_block
    assert said["max_registers_per_thread"] == device.registers_per_thread
    assert said["max_shared_memory_per_multiprocessor"] == device.shared_bytes
    assert said["max_shared_memory_per_block"] == resources.STATIC_SHARED_BYTES
    # Not a number in the table from sm_80 on, but a choice between 1024 and 0.
    assert said.get("reserved_shared_memory_per_block", 1024) == device.reserved_shared_bytes
    assert device.shared_bytes - device.reserved_shared_bytes == device.shared_bytes_per_block


# -------------------------------------------------------------------------------------- occupancy


# (device, registers, threads, shared bytes, blocks, what the limit names)
BY_HAND = [
    # 8 warps a block, 64 warps an SM; 8 * 256 * 32 registers are all there are.
    (V100, 32, 256, 0, 8, ["64 warps", "registers"]),
    # One more register, and a warp gets 40 * 32 = 1280: 12 in a partition, 48 in the SM, 6 blocks.
    (V100, 33, 256, 0, 6, ["registers"]),
    (V100, 40, 256, 0, 6, ["registers"]),
    # 64 * 32 = 2048 a warp: 8 in a partition, 32 in the SM, 4 blocks of 8.
    (V100, 64, 256, 0, 4, ["registers"]),
    # 256 * 32 = 8192 a warp: 2 in a partition, 8 in the SM, one block of 8 warps.
    (V100, 255, 256, 0, 1, ["registers"]),
    (V100, 255, 257, 0, 0, ["257 threads with 255 registers"]),
    # 88 * 32 = 2816 a warp: 5 in a partition, 20 in the SM, whose 65536 would do for 23.
    (V100, 88, 32, 0, 20, ["registers"]),
    # 168 * 32 = 5376 a warp: 3 in a partition, 12 in the SM, 4 blocks of 3 warps ...
    (V100, 168, 96, 0, 4, ["registers"]),
    # ... but 9 warps count as 12 at the launch, and 13 as 16, which are 86016 registers.
    (V100, 168, 288, 0, 1, ["registers"]),
    (V100, 168, 416, 0, 0, ["needs 86016"]),
    (V100, 16, 1024, 0, 2, ["64 warps"]),
    (V100, 64, 1024, 0, 1, ["registers"]),
    (V100, 65, 1024, 0, 0, ["1024 threads with 65 registers"]),
    (V100, 16, 1025, 0, 0, ["1024 threads"]),
    (V100, 256, 32, 0, 0, ["255 registers"]),
    # Blocks of one warp, even of one thread: 32 blocks, half of the warps.
    (V100, 16, 32, 0, 32, ["32 blocks"]),
    (V100, 16, 1, 0, 32, ["32 blocks"]),
    # Shared memory: 96 KiB, given in units of 256 bytes.
    (V100, 16, 64, 48 * KIB, 2, ["shared memory: 48 KiB"]),
    (V100, 16, 64, 48 * KIB + 1, 1, ["shared memory"]),
    (V100, 16, 64, 96 * KIB, 1, ["shared memory: 96 KiB"]),
    (V100, 16, 64, 96 * KIB + 1, 0, ["96 KiB of shared memory"]),
    (V100, 16, 64, 4 * KIB, 24, ["shared memory"]),
    (V100, 16, 64, 3 * KIB, 32, ["64 warps", "32 blocks", "shared memory"]),
    (V100, 16, 64, 3 * KIB + 1, 29, ["shared memory: 3.25 KiB"]),
    # An H100 has 228 KiB, in units of 128 bytes, 1 KiB of each block's for the driver.
    (H100, 16, 64, 6 * KIB + 128, 32, ["64 warps", "32 blocks", "shared memory"]),
    (H100, 16, 64, 6 * KIB + 129, 31, ["shared memory: 7.25 KiB"]),
    (H100, 16, 64, 48 * KIB, 4, ["shared memory: 49 KiB"]),
    (H100, 16, 64, 96 * KIB, 2, ["shared memory"]),
    (H100, 16, 64, 113 * KIB, 2, ["shared memory: 114 KiB"]),
    (H100, 16, 64, 113 * KIB + 1, 1, ["shared memory"]),
    (H100, 16, 64, 227 * KIB, 1, ["shared memory: 228 KiB"]),
    (H100, 16, 64, 227 * KIB + 1, 0, ["227 KiB of shared memory"]),
]


@pytest.mark.parametrize(("device", "registers", "threads", "shared", "blocks", "limits"), BY_HAND)
def test_occupancy_worked_out_by_hand(
    device: Device, registers: int, threads: int, shared: int, blocks: int, limits: list[str]
) -> None:
    found = occupancy(using(registers), threads, shared, device)
    assert found.blocks == blocks
    assert found.warps == blocks * -(-threads // 32)
    assert found.share == found.warps / 64
    reasons = found.limit.split("; ")
    assert len(reasons) == len(limits)
    assert all(wanted in reason for wanted, reason in zip(limits, reasons, strict=True))


BLOCKS = st.tuples(
    st.integers(0, 260), st.integers(1, 1100), st.integers(0, 240 * KIB), st.sampled_from(DEVICES)
)


@given(BLOCKS, st.tuples(st.integers(0, 40), st.integers(0, 200), st.integers(0, 20 * KIB)))
def test_who_needs_more_does_not_fit_more_often(block, more) -> None:
    registers, threads, shared, device = block
    before = occupancy(using(registers), threads, shared, device).blocks
    for change in itertools.product(*[(0, one) for one in more]):
        after = occupancy(
            using(registers + change[0]), threads + change[1], shared + change[2], device
        )
        assert after.blocks <= before


@given(BLOCKS)
def test_what_fits_is_there_and_one_more_would_not_be(block) -> None:
    registers, threads, shared, device = block
    found = occupancy(using(registers), threads, shared, device)
    assert found.limit
    assert 0 <= found.share <= 1
    assert found.blocks <= device.blocks
    assert found.blocks * threads <= device.threads
    assert found.blocks * threads * registers <= device.registers
    assert found.blocks * shared <= device.shared_bytes


# NVIDIA's occupancy calculator, for lines of "registers threads shared_bytes".
CALCULATOR = """
#include <climits>
#include <cstdio>
#include <cuda_occupancy.h>
int main() {
    cudaOccDeviceProp device;
    device.computeMajor = MAJOR; device.computeMinor = 0;
    device.maxThreadsPerBlock = 1024; device.maxThreadsPerMultiprocessor = 2048;
    device.regsPerBlock = 65536; device.regsPerMultiprocessor = 65536; device.warpSize = 32;
    device.sharedMemPerBlock = 48 << 10; device.sharedMemPerMultiprocessor = SHARED << 10;
    device.sharedMemPerBlockOptin = OPTIN << 10; device.reservedSharedMemPerBlock = RESERVED << 10;
    device.numSms = 1;
    cudaOccDeviceState state;
    int registers, threads, shared;
    while (scanf("%d %d %d", &registers, &threads, &shared) == 3) {
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = INT_MAX; kernel.numRegs = registers;
        kernel.sharedSizeBytes = 0; kernel.maxDynamicSharedSizeBytes = shared;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; kernel.numBlockBarriers = 1;
        cudaOccResult result;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(
                &result, &device, &kernel, &state, threads, shared) != CUDA_OCC_SUCCESS)
            return 1;
        printf("%d %u\\n", result.activeBlocksPerMultiprocessor, result.limitingFactors);
    }
}
"""
FACTORS = {1: "warps per SM", 2: "registers:", 4: "shared memory:", 8: "blocks per SM"}


OCCUPANCY = header("cuda_occupancy.h")


@pytest.mark.skipif(not OCCUPANCY, reason="no wheel of the CUDA runtime has cuda_occupancy.h here")
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.parametrize(
    ("device", "defines"),
    [
        (V100, ["MAJOR=7", "SHARED=96", "OPTIN=96", "RESERVED=0"]),
        (H100, ["MAJOR=9", "SHARED=228", "OPTIN=227", "RESERVED=1"]),
    ],
    ids=["V100", "H100"],
)
def test_nvidias_own_calculator_says_the_same(
    device: Device, defines: list[str], tmp_path: Path
) -> None:
    (tmp_path / "calculator.cpp").write_text(CALCULATOR)
    command = ["g++", "-w", "-isystem", OCCUPANCY.parent, *[f"-D{one}" for one in defines]]
    command += ["-o", tmp_path / "calculator", tmp_path / "calculator.cpp"]
    subprocess.run(command, check=True, timeout=60)

    rng = random.Random(0)
    edges = [0, 1, 128, 3 * KIB, 48 * KIB, 96 * KIB, 227 * KIB, 228 * KIB]
    shared = [max(0, edge + by) for edge in edges for by in (-257, -1, 0, 1, 256)]
    cases = [
        (
            rng.choice([rng.randint(0, 255), rng.randint(0, 32)]),
            rng.choice([rng.randint(1, 1024), 32 * rng.randint(1, 32), rng.randint(1, 96)]),
            rng.choice([0, rng.randint(0, 230 * KIB), rng.randint(0, 16 * KIB), *shared]),
        )
        for _ in range(20_000)
    ]
    lines = "".join(f"{r} {t} {s}\n" for r, t, s in cases)
    out = subprocess.run(
        [tmp_path / "calculator"], input=lines, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(out) == len(cases)
    for (registers, threads, bytes), line in zip(cases, out, strict=True):
        blocks, factors = map(int, line.split())
        mine = occupancy(using(registers), threads, bytes, device)
        assert mine.blocks == blocks, (registers, threads, bytes)
        if blocks:
            wanted = {words for bit, words in FACTORS.items() if factors & bit}
            assert wanted == {words for words in FACTORS.values() if words in mine.limit}


@pytest.mark.parametrize(("registers", "threads", "shared"), [(-1, 32, 0), (1, 0, 0), (1, 32, -1)])
def test_occupancy_of_nothing_is_refused(registers: int, threads: int, shared: int) -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        occupancy(using(registers), threads, shared, V100)


# --------------------------------------------------------------------------------------- roofline


def test_the_higher_of_the_two_bounds_is_the_roof() -> None:
    square = roofline(2 * 2048**3, 3 * 4 * 2048**2, V100)
    assert square.roof == "arithmetic"
    assert square.lower_bound == pytest.approx(2 * 2048**3 / V100.float32_peak)
    assert square.intensity > square.ridge
    adding = roofline(1e6, 12e6, V100)
    assert adding.roof == "memory"
    assert adding.lower_bound == pytest.approx(12e6 / 900e9)
    assert adding.intensity == pytest.approx(1 / 12)
    assert roofline(2 * 2048**3, 1, V100, tensor_cores=True).lower_bound < square.lower_bound


@given(st.floats(1, 1e15), st.floats(1, 1e13), st.sampled_from(DEVICES))
def test_on_the_ridge_both_roofs_are_the_same(flops: float, bytes: float, device: Device) -> None:
    found = roofline(flops, bytes, device)
    assert found.lower_bound >= flops / device.float32_peak
    assert found.lower_bound >= bytes / device.bandwidth
    assert (found.roof == "arithmetic") == (found.intensity >= found.ridge) or (
        found.intensity == pytest.approx(found.ridge)
    )


def test_an_estimate_says_that_it_is_one() -> None:
    assert "an estimate from data-sheet numbers, not a time" in str(roofline(1e9, 1e6, H100))
    assert roofline(1e9, 0, V100).roof == "arithmetic"
    with pytest.raises(ValueError, match="operations or bytes"):
        roofline(0, 0, V100)


# ---------------------------------------------------------------------------------------- compile


COPY = """
extern "C" __global__ void copy_kernel(float* to, const float* from) {
  to[blockIdx.x * 256 + threadIdx.x] = from[blockIdx.x * 256 + threadIdx.x];
}
"""


@needs_nvrtc
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_a_copy_needs_next_to_nothing(device: Device) -> None:
    (found,) = resources.compile(COPY, device.arch)
    assert (found.kernel, found.arch) == ("copy_kernel", device.arch)
    assert 0 < found.registers <= 32
    assert not found.spills
    assert found.shared_bytes == found.stack_bytes == 0
    assert found.constant_bytes is None or found.constant_bytes >= 16  # two pointers


@needs_nvrtc
def test_a_thread_that_may_have_few_registers_spills() -> None:
    source = """
    extern "C" __global__ void __launch_bounds__(1024) tight(float* a) {
      __shared__ float s[1024];
      float x[96];
      for (int i = 0; i < 96; ++i) x[i] = a[i * 1024 + threadIdx.x];
      s[threadIdx.x] = x[0];
      __syncthreads();
      for (int i = 0; i < 96; ++i) a[(95 - i) * 1024 + threadIdx.x] = x[i] * s[i];
    }
    extern "C" __global__ void easy(float* a) { a[threadIdx.x] += 1; }
    """
    found = {one.kernel: one for one in resources.compile(source, "sm_70")}
    tight, easy = found["tight"], found["easy"]
    assert set(found) == {"tight", "easy"}
    assert tight.registers <= 64
    assert tight.spills
    assert tight.stack_bytes and tight.spill_store_bytes and tight.spill_load_bytes
    assert tight.shared_bytes == 4096
    assert not easy.spills
    assert easy.shared_bytes == 0


@needs_nvrtc
def test_tensor_cores_and_half_precision_compile() -> None:
    source = """
    #include <cuda_fp16.h>
    #include <mma.h>
    #include <cuda.h>
    extern "C" __global__ void wmma_kernel(const half* a, const half* b, float* c) {
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, half, nvcuda::wmma::row_major> fa;
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, half, nvcuda::wmma::row_major> fb;
      nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> fc;
      nvcuda::wmma::fill_fragment(fc, 0.0f);
      nvcuda::wmma::load_matrix_sync(fa, a, 16);
      nvcuda::wmma::load_matrix_sync(fb, b, 16);
      nvcuda::wmma::mma_sync(fc, fa, fb, fc);
      nvcuda::wmma::store_matrix_sync(c, fc, 16, nvcuda::wmma::mem_row_major);
    }
    """
    (found,) = resources.compile(source, "sm_70")
    assert found.registers > 8


@needs_nvrtc
@pytest.mark.parametrize(
    ("source", "arch", "sentence"),
    [
        ("int x;\nnonsense y;", "sm_70", 'for sm_70, line 2: identifier "nonsense" is undefined'),
        ('#include "none.h"', "sm_70", 'line 1: cannot open source file "none.h"'),
        (COPY, "sm_12", 'does not know the architecture "sm_12"'),
        (COPY.replace("to[", 'asm volatile("cp.async.wait_all;"); to['), "sm_70", "sm_80 or high"),
        (
            COPY.replace(
                "to[", "__shared__ float s[12289]; s[to[0] > 0 ? 1 : 5] = 0; to[", 1
            ).replace("= from[", "= s[int(to[1])] + from["),
            "sm_90",
            "copy_kernel has 49156 bytes of shared memory, and a block can have 49152",
        ),
    ],
)
def test_what_does_not_compile_gets_a_sentence(source: str, arch: str, sentence: str) -> None:
    with pytest.raises(NotCompiled, match=r"^[^\n]+$") as error:
        resources.compile(source, arch)
    assert sentence in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@needs_nvrtc
def test_a_source_is_compiled_once_for_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    source, runs = COPY.replace("copy_kernel", "once_kernel"), []
    run = resources._run_nvrtc
    monkeypatch.setattr(
        resources, "_run_nvrtc", lambda *arguments: runs.append(arguments) or run(*arguments)
    )
    first = resources.compile(source, "sm_70")
    assert resources.compile(source, "sm_70") is first
    assert len(runs) == 1
    assert resources.compile(source, "sm_90") != first
    assert len(runs) == 2


def test_without_the_wheels_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    there = resources._file
    monkeypatch.setattr(
        resources, "_file", lambda wheel, path: None if "nvrtc" in wheel else there(wheel, path)
    )
    assert "nvidia-cuda-nvrtc-cu12" in available()
    assert "./practice --extra cuda-sim" in available()
    kernel = Kernel("k", "", COPY, (1, 1, 1), (256, 1, 1), ("to", "from"), ("float32", "float32"))
    assert report(kernel, V100) is None
    with pytest.raises(RuntimeError, match="not installed"):
        resources.compile(COPY + "// without the wheels", "sm_70")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux" in available()


def test_a_library_that_does_not_load_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libnvrtc.so.12").write_text("no library")
    monkeypatch.setattr(resources, "_file", lambda wheel, path: tmp_path / "libnvrtc.so.12")
    resources._nvrtc.cache_clear()
    try:
        assert "does not load" in available()
    finally:
        resources._nvrtc.cache_clear()


def test_reading_this_loads_no_compiler() -> None:
    program = (
        "import sys, tvm_practice.common.cuda.resources\n"
        "assert not {'tvm', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --------------------------------------------------------------------------------------- with TVM


def tvms_own_request() -> tuple[str, list[str]]:
    """The source and options that TVM gives NVRTC for COPY, on sm_70: what a stand-in for
    cuda-bindings gets to see."""
    import os
    import tempfile

    from tvm.support import nvcc

    for name in ("TVM_CUDA_PTXAS_REG_LEVEL", "TVM_CUDA_PTXAS_EXTRA_OPTS"):
        os.environ.pop(name, None)
    seen = {}

    def create(source, *_):
        seen["source"] = source.decode()
        return 0, None

    def compile(_, __, options):
        seen["options"] = [option.decode() for option in options]
        return (1,)  # that it failed: no more is wanted

    nvrtc = types.SimpleNamespace(
        nvrtcResult=types.SimpleNamespace(NVRTC_SUCCESS=0),
        nvrtcCreateProgram=create,
        nvrtcCompileProgram=compile,
        nvrtcGetProgramLogSize=lambda _: (0, 0),
        nvrtcDestroyProgram=lambda _: None,
    )
    bindings = types.ModuleType("cuda.bindings")
    bindings.nvrtc = nvrtc
    sys.modules.update({"cuda": types.ModuleType("cuda"), "cuda.bindings": bindings})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "include").mkdir()
        (Path(folder) / "include" / "cuda_runtime.h").touch()
        nvcc.find_cuda_path = lambda: folder
        try:
            nvcc._compile_cuda_nvrtc(COPY, "cubin", "sm_70")
        except RuntimeError:
            return seen["source"], seen["options"]
    raise AssertionError("the stand-in was not asked")


def test_nvrtc_is_asked_as_tvm_asks_it() -> None:
    source, options = call(tvms_own_request)
    mine = resources._options("sm_70")
    assert [one for one in mine if not one.startswith("-I")] == [
        one for one in options if not one.startswith("-I")
    ]

    def code(text: str) -> list[str]:
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith(("//", "#line"))]

    assert code(resources._complete(COPY)) == code(source)


def gemm(tile: int, each: int) -> tuple[Kernel, ...]:
    """A product of 256 x 256 matrices: blocks of tile x tile, threads of each x each; with slabs of
    A and B in shared memory."""
    from tvm import te
    from tvm.s_tir import Schedule

    a, b = te.placeholder((256, 256), name="A"), te.placeholder((256, 256), name="B")
    k = te.reduce_axis((0, 256), name="k")
    c = te.compute((256, 256), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    sch = Schedule(te.create_prim_func([a, b, c]))
    block = sch.get_sblock("C")
    i, j, k = sch.get_loops(block)
    threads = tile // each
    by, ty, yi = sch.split(i, [None, threads, each])
    bx, tx, xi = sch.split(j, [None, threads, each])
    ko, ki = sch.split(k, [None, 8])
    sch.reorder(by, bx, ty, tx, ko, ki, yi, xi)
    for loop, axis in ((by, "blockIdx.y"), (bx, "blockIdx.x")):
        sch.bind(loop, axis)
    for loop, axis in ((ty, "threadIdx.y"), (tx, "threadIdx.x")):
        sch.bind(loop, axis)
    sch.reverse_compute_at(sch.cache_write(block, 0, "local"), tx)
    for operand in (0, 1):
        slab = sch.cache_read(block, operand, "shared")
        sch.compute_at(slab, ko)
        fused = sch.fuse(*sch.get_loops(slab)[-2:])
        _, y, x = sch.split(fused, [None, threads, threads])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
    for loop in (ki, yi, xi):
        sch.unroll(loop)
    sch.decompose_reduction(block, ko)
    return kernels(sch.mod)


@pytest.fixture(scope="module")
def small_tiles() -> Kernel:
    (kernel,) = call(gemm, 32, 2)
    return kernel


@pytest.fixture(scope="module")
def large_tiles() -> Kernel:
    (kernel,) = call(gemm, 128, 16)
    return kernel


@needs_nvrtc
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_a_gemm_of_tvms_fits(small_tiles: Kernel, device: Device) -> None:
    estimate = roofline(2 * 256**3, 3 * 4 * 256**2, device)
    found = report(small_tiles, device, estimate)
    assert (found.kernel, found.device) == (small_tiles.name, device.name)
    assert found.usage.arch == device.arch
    assert found.usage.shared_bytes == small_tiles.shared_bytes == 2 * 32 * 8 * 4
    assert not found.usage.spills
    assert found.usage.registers >= 4  # a thread's sums
    assert found.occupancy == occupancy(found.usage, 256, 2048, device)
    assert found.occupancy.blocks >= 2
    assert found.waves == 64 / (found.occupancy.blocks * device.sms)
    assert found.busy_sms == 64 / device.sms
    assert found.estimate is estimate
    assert pickle.loads(pickle.dumps(found)) == found


@needs_nvrtc
def test_tiles_too_large_for_the_registers_spill(small_tiles: Kernel, large_tiles: Kernel) -> None:
    small, large = report(small_tiles, V100), report(large_tiles, V100)
    assert large.usage.registers == V100.registers_per_thread
    assert large.usage.spills
    assert large.occupancy.share < small.occupancy.share
    assert "registers: 255 per thread" in large.occupancy.limit


@needs_nvrtc
def test_dynamic_shared_memory_is_not_guessed() -> None:
    source = COPY.replace("to[", "extern __shared__ float s[]; s[0] = 0; to[", 1)
    kernel = Kernel("copy_kernel", "", source, (1, 1, 1), (256, 1, 1), (), ())
    with pytest.raises(NotCompiled, match="dynamic shared memory"):
        report(kernel, V100)


@needs_nvrtc
def test_a_kernel_that_fits_on_no_sm_makes_no_waves() -> None:
    kernel = Kernel("copy_kernel", "", COPY, (4, 1, 1), (2048, 1, 1), (), ())
    found = report(kernel, V100)
    assert found.occupancy.blocks == 0
    assert found.waves is None
    assert "1024 threads" in found.occupancy.limit
