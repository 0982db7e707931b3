"""The target switch: what code is generated for, and how many threads run it.

Nothing here imports TVM at module level: the thread count must be in the environment before TVM,
NumPy or torch is loaded, and `tvm_practice/__init__.py` calls `set_thread_environment` first thing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm

TARGETS = ("cpu", "cuda", "cuda-sim")
TARGET_VARIABLE = "TVM_PRACTICE_TARGET"
# Every library a phase times reads its thread count from one of these, once, when it is loaded.
THREAD_VARIABLES = (
    "TVM_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class UnusableTarget(ValueError):
    """The target that was asked for cannot be used here; the message says what to do."""


def physical_cores() -> int:
    """Physical cores this process may use: the machine's, cut down by CPU affinity and a
    container's CPU quota."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().partition(" ")
        if limit.isdigit():
            cores = min(cores, max(1, int(limit) // int(period)))
    return max(1, cores)


def set_thread_environment() -> None:
    """Give TVM, OpenBLAS, MKL and OpenMP the same thread count: the physical cores, unless
    TVM_NUM_THREADS says otherwise.

    Left alone, TVM takes half of the hardware threads on x86 (it assumes hyper-threading), so two
    real cores would give one thread and `parallel` would show nothing.
    """
    chosen = os.environ.get("TVM_NUM_THREADS", "")
    count = chosen if chosen.isdigit() and int(chosen) > 0 else str(physical_cores())
    for variable in THREAD_VARIABLES:
        os.environ[variable] = count
    # After a call, worker threads spin before they sleep: TVM's 0.15 s, OpenBLAS's 0.1 s, in which
    # the next competitor of a timing would find a core taken. A few milliseconds still cover the
    # gap between two calls.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "20000")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "24")  # 2^24 clock cycles


def threads() -> int:
    """The thread count every competitor is given."""
    return int(os.environ["TVM_NUM_THREADS"])


def check_usable(name: str) -> None:
    """Raise UnusableTarget unless code can be generated and run for `name` on this machine."""
    if name not in TARGETS:
        raise UnusableTarget(f"there is no target {name!r}; choose one of {', '.join(TARGETS)}.")
    if name == "cuda-sim":
        require_compiler()
    if name == "cuda" and (missing := missing_for_cuda()):
        raise UnusableTarget(
            f"--target cuda needs a GPU; {missing}. --target cuda-sim checks the same schedules "
            "without one, and --target cpu runs and times those for the CPU."
        )


# What CUDA code needs on a machine, and who brings it. The runtime's number is the one that TVM's
# wheel is linked with.
DRIVER, RUNTIME = "libcuda.so.1", "libcudart.so.13"
_RUNTIME_WHEEL = ("nvidia-cuda-runtime", f"nvidia/cu13/lib/{RUNTIME}")


def missing_for_cuda() -> str | None:
    """What a machine lacks for --target cuda, as a clause; None if nothing."""
    from tvm_practice.common import worker
    from tvm_practice.common.cuda import device, resources

    for load, library, whose in (
        (lambda: ctypes.CDLL(DRIVER), DRIVER, "NVIDIA's driver"),
        (load_cuda_runtime, RUNTIME, "the CUDA runtime"),
    ):
        try:
            load()
        except OSError:
            hint = "" if library == DRIVER else ' ("./practice --extra cuda true" brings it)'
            return f"{library}, {whose}, is not here{hint}"
    if missing := resources.available():
        return missing.rstrip(".")
    if worker.call(device.found) is None:
        return "NVIDIA's driver is here, but TVM sees no device; does `nvidia-smi` list one?"
    return None


def load_cuda_runtime() -> None:
    """Load the CUDA runtime that TVM's wheel is linked with, before TVM is: where it comes as a
    wheel, the loader does not find it by itself. Raises OSError if it is nowhere."""
    try:
        ctypes.CDLL(RUNTIME)
    except OSError:
        from importlib import metadata

        wheel, path = _RUNTIME_WHEEL
        try:
            ctypes.CDLL(str(metadata.distribution(wheel).locate_file(path)))
        except metadata.PackageNotFoundError:
            raise OSError(f"{RUNTIME} is not installed") from None


def require_compiler(
    wanted: str = "--target cuda-sim compiles the kernels for the CPU with g++",
) -> str:
    """The path of g++. Raises UnusableTarget without it, and says what it is wanted for."""
    found = shutil.which("g++")
    if found is None:
        raise UnusableTarget(
            f"{wanted}, which is not installed; on Debian and Ubuntu, `apt-get install g++` brings "
            "it."
        )
    return found


@cache
def cpu_target() -> tvm.target.Target:
    """LLVM for this very CPU. `"mcpu": "native"` would quietly mean a generic CPU, so the name is
    asked of LLVM."""
    import tvm

    return tvm.target.Target(
        {
            "kind": "llvm",
            "mcpu": tvm.target.codegen.llvm_get_system_cpu(),
            "num-cores": threads(),
        }
    )


def build(module: tvm.IRModule | tvm.tirx.PrimFunc) -> Callable[..., None]:
    """Compile a module's (or function's) "main" for this CPU and return it, ready to be called."""
    import tvm

    return tvm.compile(module, target=cpu_target()).jit()["main"]


def cpu_has(feature: str) -> bool:
    """Whether code for this CPU may use a feature, by LLVM's name for it, such as "avx512f"."""
    import tvm

    return bool(tvm.target.codegen.target_has_features(feature, cpu_target()))


@cache
def vector_unit() -> tuple[int, int]:
    """(float32 lanes of one vector register, number of vector registers) of this CPU."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 4, 32
    if cpu_has("avx512f"):
        return 16, 32
    return (8, 16) if cpu_has("avx") else (4, 16)


# Sums that must be under way at once: two multiply-add units, each with a latency of 4 to 5 cycles.
CHAINS = 10


def register_tile(M: int = 1 << 12, N: int = 1 << 12) -> tuple[int, int]:
    """(rows, columns) of the block of C that is kept in vector registers while k runs.

    Two vectors wide, or one, and enough rows to keep the multiply-add units busy, as far as the
    registers also hold the vectors of a row of B and an element of A. Among these tiles the one
    that an M x N matrix leaves the least of to fill up; then the one that uses what it loads most
    often. For a power of two that is 8 x 32 with AVX-512, 6 x 16 with AVX2 (16 registers), 8 x 8
    with NEON.
    """
    lanes, registers = vector_unit()
    tiles = []
    for vectors in (2, 1):
        fewest, most = -(-CHAINS // vectors), (registers - 1 - vectors) // vectors
        tiles += [(rows, vectors) for rows in range(min(fewest, M), min(most, M) + 1)]

    def cost(tile: tuple[int, int]) -> tuple[int, float]:
        rows, vectors = tile
        loads_per_multiplication = (rows + vectors) / (rows * vectors)
        return _round_up(M, rows) * _round_up(N, vectors * lanes), loads_per_multiplication

    rows, vectors = min(tiles, key=cost)
    return rows, vectors * lanes


def _round_up(extent: int, factor: int) -> int:
    return -(-extent // factor) * factor


def slabs_for(tiles: int) -> int:
    """Into how many equal slabs to cut `tiles` rows of tiles, so that every thread gets as much.

    The fewest that divide `tiles` and keep all threads busy for 98% of the time; where no number
    does, the one that comes nearest.
    """
    count = max(threads(), 2)  # two at least: with one thread the loop nest keeps its form
    even = [n for n in range(min(count, tiles), tiles + 1) if tiles % n == 0]
    busy = {n: n / _round_up(n, count) for n in even}
    return next((n for n in even if busy[n] >= 0.98), max(even, key=lambda n: busy[n]))


def second_level_cache() -> int:
    """Bytes of the second-level cache of one core; 1 MiB where the system does not tell."""
    size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    found = re.fullmatch(r"(\d+)K", size.read_text().strip()) if size.is_file() else None
    return int(found[1]) * 1024 if found else 1 << 20


def cpu_name() -> str:
    """The processor's own name for itself, as far as the operating system tells it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        found = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", information.read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str | int | float]:
    """What a reader needs to know to believe a figure: processor, threads, versions, and how busy
    the machine is.

    Imports TVM, so it is called in a worker process. `busy_cores` is how many cores other programs
    keep busy at this moment, `load` the one-minute load average, in which earlier runs count too.
    """
    import numpy
    import psutil
    import tvm

    lanes, registers = vector_unit()
    busy = psutil.cpu_percent(interval=0.3) / 100 * (psutil.cpu_count() or 1)
    return {
        "cpu": cpu_name(),
        "llvm_cpu": str(cpu_target().attrs["mcpu"]),
        "cores": physical_cores(),
        "threads": threads(),
        "vector_lanes_float32": lanes,
        "vector_registers": registers,
        "busy_cores": round(busy, 2),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "tvm": tvm.__version__,
        "llvm": int(tvm.target.codegen.llvm_version_major()),
        "numpy": numpy.__version__,
    }
