"""What a kernel needs of a GPU, and how many of its blocks fit on one, without a GPU.

`compile` hands CUDA C to NVRTC, NVIDIA's compiler, which comes as a wheel and needs neither a
driver nor a device; ptxas, inside of it, says what it gave the kernel: registers, shared memory,
spills. `occupancy` is the arithmetic of NVIDIA's occupancy calculator on those numbers, `roofline`
what a data sheet promises at best. Nothing here is a time: whether a kernel is fast, only a GPU
can say. What this can say is why it cannot be.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from tvm_practice.common.cuda.kernels import WARP, Kernel

KIB = 1024
STATIC_SHARED_BYTES = 48 * KIB  # of a block; more must be dynamic, and asked for at the launch
EXTRA = "cuda-sim"  # of pyproject.toml: the wheels below
LIBRARY = "libnvrtc.so.12"

# NVRTC 12, because 13 can no longer compile for sm_70. (wheel, where its part lies in it):
_LIBRARY_WHEEL = ("nvidia-cuda-nvrtc-cu12", f"nvidia/cuda_nvrtc/lib/{LIBRARY}")
_HEADER_WHEELS = (
    ("nvidia-cuda-runtime-cu12", "nvidia/cuda_runtime/include"),  # cuda_fp16.h, mma.h
    ("nvidia-cuda-cccl-cu12", "nvidia/cuda_cccl/include"),  # cuda/std/...
    ("nvidia-cuda-nvcc-cu12", "nvidia/cuda_nvcc/include"),  # crt/..., which those two include
)

# TVM's own options and preamble, from tvm.support.nvcc: registers and spills are then what TVM's
# build on a machine with a GPU would get. A test holds them together.
_OPTIONS = (
    "-default-device",
    "--device-int128",
    "-D__NV_SILENCE_DEPRECATION_BEGIN=",
    "-D__NV_SILENCE_DEPRECATION_END=",
    "-D__NV_SILENCE_HOST_DEPRECATION_BEGIN=",
    "-D__NV_SILENCE_HOST_DEPRECATION_END=",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
    "--use_fast_math",
    "--ptxas-options=-v",
    "--ptxas-options=--register-usage-level=10",
    "--ptxas-options=--warn-on-local-memory-usage",
)
_PREAMBLE = """\
#include <cuda/std/cstdint>
using cuda::std::uint8_t;
using cuda::std::uint16_t;
using cuda::std::uint32_t;
using cuda::std::uint64_t;
using cuda::std::int8_t;
using cuda::std::int16_t;
using cuda::std::int32_t;
using cuda::std::int64_t;
#ifndef __asm__
#define __asm__ asm
#endif
#ifndef __volatile__
#define __volatile__ volatile
#endif
#include <cuda/std/limits>
#ifndef INFINITY
#define INFINITY (::cuda::std::numeric_limits<float>::infinity())
#endif
"""
_FILE = "tvm_kernels.cu"


class NotCompiled(ValueError):
    """NVRTC refuses a source; the message says why."""


# ---------------------------------------------------------------------------------------- devices


@dataclass(frozen=True)
class Device:
    """The limits of an architecture, and what the data sheet of one GPU of it says.

    Per SM: threads, blocks, registers, shared bytes; the last two also per block. A warp is given
    registers in units of `register_unit`, out of its SM partition's share; a block is given shared
    memory in units of `shared_unit`, `reserved_shared_bytes` of it for the driver. lanes: float32
    multiply-adds that an SM starts in each clock; tensor_lanes: float16 ones in its tensor cores,
    which have a clock of their own. Clocks in Hz, bandwidth in bytes/s.
    """

    name: str
    arch: str
    threads: int
    blocks: int
    threads_per_block: int
    registers: int
    registers_per_block: int
    registers_per_thread: int
    register_unit: int
    partitions: int
    shared_bytes: int
    shared_bytes_per_block: int
    shared_unit: int
    reserved_shared_bytes: int
    sms: int
    lanes: int
    clock: float
    tensor_lanes: int
    tensor_clock: float
    bandwidth: float

    @property
    def warps(self) -> int:
        """That an SM can hold."""
        return self.threads // WARP

    @property
    def float32_peak(self) -> float:
        """FLOP/s by the data sheet: a multiply-add counts as two."""
        return 2 * self.sms * self.lanes * self.clock

    @property
    def tensor_peak(self) -> float:
        """FLOP/s of float16 matrices, dense, by the data sheet."""
        return 2 * self.sms * self.tensor_lanes * self.tensor_clock


# The limits: CUDA C++ Programming Guide, "Compute Capabilities", the table of technical
# specifications; the CUDA 13 headers have them too, in cuda/__device/arch_traits.h. The units, and
# the four partitions of an SM: cuda_occupancy.h, NVIDIA's occupancy calculator as a C header.
V100 = Device(
    name="V100",
    arch="sm_70",
    threads=2048,
    blocks=32,
    threads_per_block=1024,
    registers=65536,
    registers_per_block=65536,
    registers_per_thread=255,
    register_unit=256,
    partitions=4,
    shared_bytes=96 * KIB,
    shared_bytes_per_block=96 * KIB,
    shared_unit=256,
    reserved_shared_bytes=0,
    # "NVIDIA Tesla V100 GPU Architecture" (WP-08608-001), table 1: Tesla V100 SXM2, boost clock.
    # 8 tensor cores an SM, each 64 multiply-adds a clock.
    sms=80,
    lanes=64,
    clock=1.53e9,
    tensor_lanes=8 * 64,
    tensor_clock=1.53e9,
    bandwidth=900e9,
)
H100 = Device(
    name="H100",
    arch="sm_90",
    threads=2048,
    blocks=32,
    threads_per_block=1024,
    registers=65536,
    registers_per_block=65536,
    registers_per_thread=255,
    register_unit=256,
    partitions=4,
    shared_bytes=228 * KIB,
    shared_bytes_per_block=227 * KIB,
    shared_unit=128,
    reserved_shared_bytes=1 * KIB,
    # "NVIDIA H100 Tensor Core GPU Architecture" (V1.04): H100 SXM5, and its two boost clocks.
    # 4 tensor cores an SM, each 512 multiply-adds a clock. The bandwidth: H100 data sheet.
    sms=132,
    lanes=128,
    clock=1.98e9,
    tensor_lanes=4 * 512,
    tensor_clock=1.83e9,
    bandwidth=3.35e12,
)
DEVICES = (V100, H100)


# ---------------------------------------------------------------------------------------- compile


@dataclass(frozen=True)
class Usage:
    """What ptxas gave a kernel on an architecture.

    registers: for each thread. stack_bytes: a thread's frame in local memory, which is the GPU's
    memory; spill bytes: what is stored there and loaded back for want of registers, as written in
    the code, once, however often it runs. shared_bytes: a block's static shared memory.
    constant_bytes: parameters and constants, None where ptxas does not say (for sm_90).
    """

    kernel: str
    arch: str
    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    shared_bytes: int
    constant_bytes: int | None

    @property
    def spills(self) -> bool:
        return bool(self.spill_store_bytes or self.spill_load_bytes)


def available() -> str | None:
    """None if kernels can be compiled here; otherwise a sentence that says what is missing."""
    if sys.platform != "linux":
        return "Registers and occupancy need NVRTC, which the course uses on Linux only."
    missing = [wheel for wheel, path in (_LIBRARY_WHEEL, *_HEADER_WHEELS) if not _file(wheel, path)]
    if missing:
        return (
            f"Registers and occupancy need NVRTC 12; not installed: {', '.join(missing)}. "
            f'"./practice --extra {EXTRA} true" adds what is missing, for good.'
        )
    try:
        _nvrtc()
    except OSError as error:
        return f"Registers and occupancy need NVRTC 12, which does not load: {error}."
    return None


@lru_cache(maxsize=256)
def compile(source: str, arch: str) -> tuple[Usage, ...]:
    """Compile CUDA C as TVM does, for an architecture ("sm_70"); what each of its kernels uses.

    Raises NotCompiled, with NVRTC's reason, and RuntimeError if `available()` says what is missing.
    """
    return _usages(_run_nvrtc(source, arch)[0])


def machine_code(source: str, arch: str) -> bytes:
    """CUDA C compiled for an architecture, as a GPU's driver loads it (a "cubin"). Raises like
    `compile`."""
    return _run_nvrtc(source, arch)[1]


def _complete(source: str) -> str:
    """Without the host's cuda.h, and with what NVRTC does not define by itself; lines keep their
    numbers."""
    lines = ["" if line.strip() == "#include <cuda.h>" else line for line in source.splitlines()]
    return "\n".join([f'{_PREAMBLE}#line 1 "{_FILE}"', *lines])


def _options(arch: str) -> list[str]:
    includes = [f"-I{_file(wheel, path)}" for wheel, path in _HEADER_WHEELS]
    return [f"--gpu-architecture={arch}", *includes, *_OPTIONS]


def _file(wheel: str, path: str) -> Path | None:
    """Where a part of an installed wheel is. Not asked of the package `nvidia`: that is spread over
    wheels for CUDA 12 and 13, PyTorch's among them."""
    try:
        found = Path(str(metadata.distribution(wheel).locate_file(path)))
    except metadata.PackageNotFoundError:
        return None
    return found if found.exists() else None


@lru_cache(maxsize=1)
def _nvrtc() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_file(*_LIBRARY_WHEEL)))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def _run_nvrtc(source: str, arch: str) -> tuple[str, bytes]:
    """What NVRTC and ptxas print, and the machine code."""
    if missing := available():
        raise RuntimeError(missing)
    nvrtc, program = _nvrtc(), ctypes.c_void_p()

    def call(name: str, *arguments: object) -> None:
        if status := getattr(nvrtc, name)(*arguments):
            raise RuntimeError(f"{name}: {nvrtc.nvrtcGetErrorString(status).decode()}")

    def fetch(what: str) -> bytes:
        size = ctypes.c_size_t()
        call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    options = [option.encode() for option in _options(arch)]
    complete = _complete(source).encode()
    call(
        "nvrtcCreateProgram",
        ctypes.byref(program),
        complete,
        _FILE.encode(),
        0,
        None,
        None,
    )
    try:
        arguments = (ctypes.c_char_p * len(options))(*options)
        status = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
        log = fetch("ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            raise NotCompiled(_reason(log or nvrtc.nvrtcGetErrorString(status).decode(), arch))
        return log, fetch("CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _usages(log: str) -> tuple[Usage, ...]:
    """From ptxas's -v: a paragraph for each kernel, where what is 0 may be left out."""
    found = []
    for paragraph in re.split(r"Compiling entry function (?=')", log)[1:]:
        kernel, arch = re.match(r"'(\w+)' for '(\w+)'", paragraph).groups()
        own = re.search(
            rf"Function properties for {kernel}\n\D*(\d+) bytes stack frame, "
            r"(\d+) bytes spill stores, (\d+) bytes spill loads",
            paragraph,
        )
        used = re.search(r"Used (\d+) registers(.*)", paragraph)
        if not own or not used:
            raise RuntimeError(f"ptxas does not say what {kernel} uses: {paragraph!r}")
        stack, stores, loads = map(int, own.groups())
        found.append(
            Usage(
                kernel,
                arch,
                registers=int(used[1]),
                spill_store_bytes=stores,
                spill_load_bytes=loads,
                stack_bytes=stack,
                shared_bytes=_sum(r"(\d+) bytes smem", used[2]),
                # Never 0: the launch's extents and the parameters are there.
                constant_bytes=_sum(r"(\d+) bytes cmem", used[2]) or None,
            )
        )
    return tuple(found)


def _sum(pattern: str, text: str) -> int:
    return sum(map(int, re.findall(pattern, text)))


def _reason(log: str, arch: str) -> str:
    """NVRTC's first error, as a sentence."""
    if "--gpu-architecture" in log:
        return f'NVRTC 12 does not know the architecture "{arch}".'
    if found := re.search(rf"^{_FILE}\((\d+)\): (?:catastrophic )?error: (.+)$", log, re.MULTILINE):
        return f"NVRTC refuses the source for {arch}, line {found[1]}: {found[2].strip()}."
    if found := re.search(r"^ptxas .*?(?:error|fatal)\s*: (.+)$", log, re.MULTILINE):
        return f"ptxas refuses the kernel for {arch}: {found[1].strip().removesuffix('.')}."
    # Of this one error, ptxas's words do not get into NVRTC's log.
    for one in _usages(log):
        if one.shared_bytes > STATIC_SHARED_BYTES:
            return (
                f"{one.kernel} has {one.shared_bytes} bytes of shared memory, and a block can have "
                f"{STATIC_SHARED_BYTES}. (Some GPUs have more, for arrays of the scope "
                '"shared.dyn".)'
            )
    return f"NVRTC refuses the source for {arch}: {log.strip()}"


# -------------------------------------------------------------------------------------- occupancy


@dataclass(frozen=True)
class Occupancy:
    """How many blocks of a kernel an SM holds at a time, 0 if it cannot hold one.

    limit: what keeps it from one more, in words. warps of max_warps are then there to hide each
    other's waiting.
    """

    blocks: int
    warps: int
    max_warps: int
    limit: str

    @property
    def share(self) -> float:
        return self.warps / self.max_warps


def occupancy(usage: Usage, threads_per_block: int, shared_bytes: int, device: Device) -> Occupancy:
    """By the rules of NVIDIA's occupancy calculator (cuda_occupancy.h).

    shared_bytes: all that a block has, static and dynamic (of the usage, only the registers count
    here). The SM is taken to give as much of its cache as it can to shared memory, and a block to
    use no more than the one barrier of __syncthreads.
    """
    if threads_per_block < 1 or shared_bytes < 0 or usage.registers < 0:
        raise ValueError("a block has at least one thread, and no less than 0 bytes and registers")
    if refusal := _cannot_launch(usage.registers, threads_per_block, shared_bytes, device):
        return Occupancy(0, 0, device.warps, refusal)
    warps = _units(threads_per_block, WARP)
    # A partition gives each of its warps registers; what is left over in one is no use to another.
    each = _up(usage.registers * WARP, device.register_unit)
    partition = device.registers // device.partitions
    memory = _up(shared_bytes + device.reserved_shared_bytes, device.shared_unit)
    limits = {
        f"{device.warps} warps per SM": device.warps // warps,
        f"{device.blocks} blocks per SM": device.blocks,
    }
    if each:
        limits[f"registers: {usage.registers} per thread, {device.registers} per SM"] = (
            partition // each * device.partitions // warps
        )
    if memory:
        limits[f"shared memory: {_kib(memory)} per block, {_kib(device.shared_bytes)} per SM"] = (
            device.shared_bytes // memory
        )
    blocks = min(limits.values())
    binding = [words for words, most in limits.items() if most == blocks]
    return Occupancy(blocks, blocks * warps, device.warps, "; ".join(binding))


def _cannot_launch(
    registers: int, threads_per_block: int, shared_bytes: int, device: Device
) -> str | None:
    """Why not even one block can run, if so."""
    if threads_per_block > device.threads_per_block:
        return (
            f"a block may have {device.threads_per_block} threads on {device.name}, "
            f"not {threads_per_block}"
        )
    if registers > device.registers_per_thread:
        return f"a thread may have {device.registers_per_thread} registers, not {registers}"
    # A launch is checked as if every partition had as many warps as the fullest.
    warps = _up(_units(threads_per_block, WARP), device.partitions)
    wanted = warps * _up(registers * WARP, device.register_unit)
    if wanted > device.registers_per_block:
        return (
            f"a block of {threads_per_block} threads with {registers} registers needs {wanted}, "
            f"and may have {device.registers_per_block} on {device.name}"
        )
    # As in NVIDIA's calculator, what is compared is what a block is given: with the driver's part,
    # and rounded up.
    given = _up(shared_bytes + device.reserved_shared_bytes, device.shared_unit)
    if given > device.shared_bytes_per_block + device.reserved_shared_bytes:
        return (
            f"a block may have {_kib(device.shared_bytes_per_block)} of shared memory on "
            f"{device.name}, not {_kib(shared_bytes)}"
        )
    return None


def _units(amount: int, unit: int) -> int:
    return -(-amount // unit)


def _up(amount: int, unit: int) -> int:
    return _units(amount, unit) * unit


def _kib(number: int) -> str:
    return f"{number / KIB:.4g} KiB"


# --------------------------------------------------------------------------------------- roofline


@dataclass(frozen=True)
class Estimate:
    """An estimate from data-sheet numbers, never a time: no kernel can take less than
    `lower_bound` seconds, because of `roof`; how much more it takes, only the device can say.

    intensity: operations for each byte; ridge: from how many on arithmetic is the roof.
    """

    lower_bound: float
    roof: str  # "arithmetic" or "memory"
    intensity: float
    ridge: float

    def __str__(self) -> str:
        return (
            f"at least {self.lower_bound * 1e6:.3g} us, for {self.roof} "
            "(an estimate from data-sheet numbers, not a time)"
        )


def roofline(flops: float, bytes: float, device: Device, tensor_cores: bool = False) -> Estimate:
    """The lower bound for `flops` operations, and `bytes` to and from the GPU's memory.

    In float32, or, with tensor_cores, in float16 matrices on these.
    """
    if flops < 0 or bytes < 0 or not flops + bytes:
        raise ValueError("an estimate needs operations or bytes, and no less than 0 of each")
    peak = device.tensor_peak if tensor_cores else device.float32_peak
    arithmetic, memory = flops / peak, bytes / device.bandwidth
    return Estimate(
        max(arithmetic, memory),
        "arithmetic" if arithmetic >= memory else "memory",
        flops / bytes if bytes else float("inf"),
        peak / device.bandwidth,
    )


# ----------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class Report:
    """A kernel on a device: what it needs, and how much of the device that leaves busy.

    waves: how often the device is filled with blocks before all have run, None if it cannot hold
    one; 2.1 take nearly as long as 3. A device with fewer blocks than SMs has some with nothing to
    do: `busy_sms` is the share of SMs that get any. estimate: beside it, where it was asked for.
    """

    kernel: str
    device: str
    usage: Usage
    occupancy: Occupancy
    waves: float | None
    busy_sms: float
    estimate: Estimate | None = None


def report(kernel: Kernel, device: Device, estimate: Estimate | None = None) -> Report | None:
    """Compile a kernel for a device, and work out how it fits; None where NVRTC is missing
    (`available` says what of it). estimate: the kernel's roofline on that device.

    Raises NotCompiled if the device's architecture cannot run it, and for a kernel with dynamic
    shared memory, of which the source does not say how much.
    """
    if available():
        return None
    if re.search(r"\bextern __shared__\b", kernel.source):
        raise NotCompiled(
            f"{kernel.name} has dynamic shared memory, of which only the launch says how much: use "
            'the scope "shared" instead of "shared.dyn".'
        )
    used = {one.kernel: one for one in compile(kernel.preamble + kernel.source, device.arch)}
    usage = used[kernel.name]
    fits = occupancy(usage, kernel.threads, usage.shared_bytes, device)
    at_a_time = fits.blocks * device.sms
    return Report(
        kernel.name,
        device.name,
        usage,
        fits,
        kernel.blocks / at_a_time if at_a_time else None,
        min(1.0, kernel.blocks / device.sms),
        estimate,
    )
