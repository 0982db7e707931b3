"""The CUDA kernels that TVM makes of a scheduled function. No GPU and no CUDA are needed for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.verify import Wrong

if TYPE_CHECKING:
    import tvm

V100 = "sm_70"  # the architecture of the course's GPU
AXES = tuple(f"{kind}Idx.{axis}" for kind in ("block", "thread") for axis in "xyz")
WARP = 32  # threads that execute an instruction together, on every GPU of NVIDIA's so far

# What every GPU since Kepler launches, and what a block and a thread have on each of them.
MOST_THREADS = 1024
MOST_ALONG = {"thread": (1024, 1024, 64), "block": (2**31 - 1, 65535, 65535)}
MOST_SHARED = 48 << 10
MOST_LOCAL = 512 << 10
MOST_AT_ONCE = 16  # bytes that a thread loads or stores; more only from Blackwell on

_BYTES = {
    **dict.fromkeys(("bool", "char", "signed char", "uchar", "int8_t", "uint8_t"), 1),
    **dict.fromkeys(("short", "ushort", "half", "nv_bfloat16", "int16_t", "uint16_t"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32_t", "uint32_t"), 4),
    **dict.fromkeys(("double", "int64_t", "uint64_t", "longlong", "ulonglong"), 8),
}
_BYTES |= {
    f"{kind}{n}": n * _BYTES[kind]
    for kind in ("char", "uchar", "short", "ushort", "half", "int", "uint", "float")
    for n in (2, 4)
} | {f"{kind}2": 16 for kind in ("double", "longlong", "ulonglong")}
_SHARED = re.compile(
    r"^ *__shared__ (?:(?:alignas|__align__)\(\d+\) )?(?P<type>[\w ]+?) (?P<name>\w+)"
    r"\[(?P<extent>\d+)\];$",
    re.MULTILINE,
)
_LOCAL = re.compile(
    r"^ *(?:(?:alignas|__align__)\(\d+\) )?(?P<type>(?:signed )?\w+) \w+\[(?P<extent>\d+)\];$",
    re.MULTILINE,
)


class NoKernel(ValueError):
    """TVM makes no kernel of a function, or not of all of it; the message says why."""


@dataclass(frozen=True)
class SharedArray:
    """An array in shared memory, as its kernel declares it."""

    name: str
    element: str
    extent: int

    @property
    def bytes(self) -> int:
        return self.extent * _bytes(self.element)


@dataclass(frozen=True)
class Kernel:
    """A kernel and how it is launched.

    source: CUDA C of the kernel itself; preamble: what TVM puts before it (includes, types).
    grid, block: how many blocks, and how many threads in each, along x, y, z.
    parameters: the buffers that it is given, in order; dtypes: theirs.
    """

    name: str
    preamble: str
    source: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    parameters: tuple[str, ...]
    dtypes: tuple[str, ...]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def shared(self) -> tuple[SharedArray, ...]:
        return tuple(
            SharedArray(one["name"].removesuffix("_ptr"), one["type"], int(one["extent"]))
            for one in _SHARED.finditer(self.source)
        )

    @property
    def shared_bytes(self) -> int:
        return sum(array.bytes for array in self.shared)

    @property
    def local_bytes(self) -> int:
        """Of a thread's own arrays, in registers or, where these do not suffice, local memory."""
        return sum(_bytes(one["type"]) * int(one["extent"]) for one in _LOCAL.finditer(self.source))


@cache
def cuda_target(arch: str = V100) -> tvm.target.Target:
    """CUDA for an architecture, with the limits that every GPU since Kepler has."""
    import tvm

    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": arch,
            "max_shared_memory_per_block": 49152,
            "max_threads_per_block": 1024,
            "thread_warp_size": WARP,
        },
        host="llvm",
    )


def kernels(function: tvm.tirx.PrimFunc | tvm.IRModule, arch: str = V100) -> tuple[Kernel, ...]:
    """The kernels of a scheduled function (a module's "main"), in the order of their launches.

    Raises NoKernel if none of its loops is bound to threads (TVM would quietly make a CPU function
    of it), or only some of its blocks are; Wrong where a GPU would refuse the launch, or no thread
    can load so much at once.
    """
    from tvm.tirx.build import codegen_build

    module = _module(function)
    on_host = [
        block.name
        for block in loop_nest(module).blocks
        if not any("Idx." in loop.kind for loop in block.loops)
    ]
    host, devices = _lowered(module, arch)
    if not devices:
        raise NoKernel(
            "no loop is bound to blockIdx or threadIdx, so TVM makes no kernel of it: it would "
            "build a function for the CPU, without a word."
        )
    if on_host:
        raise NoKernel(
            f'no loop of the block "{on_host[0]}" is bound to blockIdx or threadIdx, while others '
            "are: TVM would leave it to the CPU, without a word, and the CPU would reach into the "
            "GPU's memory."
        )
    ((target, device),) = devices.items()
    _assert_loads_are_narrow(device, module)
    source = codegen_build(device, target).inspect_source()
    preamble, bodies = _split(source)
    functions = {str(one.attrs["global_symbol"]): one for one in device.functions.values()}
    order = [name for name in _launches(str(host)) if name in functions]
    made = tuple(_kernel(name, functions[name], preamble, bodies[name]) for name in order)
    for kernel in made:
        assert_can_be_launched(kernel)
    return made


def assert_can_be_launched(kernel: Kernel) -> None:
    """Raises Wrong, with the limit, where every GPU would refuse to launch a kernel."""
    if kernel.threads > MOST_THREADS:
        raise Wrong(
            f"A block of {' x '.join(map(str, kernel.block))} = {kernel.threads} threads: a GPU "
            f"launches {MOST_THREADS} at most."
        )
    for kind, extents in (("thread", kernel.block), ("block", kernel.grid)):
        for axis, extent, most in zip("xyz", extents, MOST_ALONG[kind], strict=True):
            if extent > most:
                raise Wrong(
                    f"{extent:,} along {kind}Idx.{axis}: a GPU launches {most:,} at most. "
                    f"{kind}Idx.x takes {MOST_ALONG[kind][0]:,}; the longest loop belongs there."
                )
    if kernel.shared_bytes > MOST_SHARED:
        told = ", ".join(f"{array.name} {array.bytes:,}" for array in kernel.shared)
        raise Wrong(
            f"The shared arrays of a block take {kernel.shared_bytes:,} bytes ({told}); a block "
            f"has {MOST_SHARED:,}."
        )
    if kernel.local_bytes > MOST_LOCAL:
        raise Wrong(
            f"The local arrays of a thread take {kernel.local_bytes:,} bytes; a GPU gives it "
            f"{MOST_LOCAL:,}."
        )
    limit = re.search(r"__launch_bounds__\((\d+)", kernel.source)
    if limit and int(limit[1]) < kernel.threads:
        raise Wrong(
            f"The kernel is compiled for {limit[1]} threads and launched with {kernel.threads}."
        )


def by_default(function: tvm.tirx.PrimFunc | tvm.IRModule, arch: str = V100) -> tvm.IRModule:
    """A module with TVM's default schedules for a GPU (dlight), whatever the functions compute."""
    from tvm.s_tir import dlight

    rules = ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback")
    with cuda_target(arch):
        apply = dlight.ApplyDefaultSchedule(*(getattr(dlight.gpu, rule)() for rule in rules))
        return apply(_module(function))


def _module(function: Any) -> tvm.IRModule:
    import tvm

    if isinstance(function, tvm.IRModule):
        return function
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def _lowered(module: tvm.IRModule, arch: str) -> tuple[Any, dict[Any, Any]]:
    """TVM's own steps from a scheduled module to a host module and device modules by target."""
    from tvm import tirx
    from tvm.tirx.build import split_host_device_mods

    module = tirx.transform.BindTarget(cuda_target(arch))(module)
    pipeline, finish_host, finish_device = tirx.get_tir_pipeline("s_tir")
    module = pipeline(module)
    host, devices = split_host_device_mods(module)
    return finish_host()(host), {one: finish_device()(found) for one, found in devices.items()}


def _assert_loads_are_narrow(device: tvm.IRModule, scheduled: tvm.IRModule) -> None:
    """Raises Wrong where a thread would load or store more than a GPU's instructions do."""
    import tvm_ffi
    from tvm import ir, tirx

    too_wide: list[tuple[int, int]] = []

    def look(access: Any) -> None:
        moved = access.value if isinstance(access, tirx.BufferStore) else access
        size, lanes = moved.ty.dtype.bits // 8, moved.ty.dtype.lanes
        if size * lanes > MOST_AT_ONCE:
            too_wide.append((size, lanes))

    for function in device.functions.values():
        tvm_ffi.structural_walk(function.body, ((ir.TensorLoad, tirx.BufferStore), look))
    for size, lanes in too_wide[:1]:
        loops = [loop for block in loop_nest(scheduled).blocks for loop in block.loops]
        names = [one.name for one in loops if (one.kind, one.extent) == ("vectorized", lanes)]
        most = MOST_AT_ONCE // size
        raise Wrong(
            f"{f'Loop {names[0]}' if names else 'A loop'} is vectorized over {lanes} numbers of "
            f"{size} bytes. A GPU loads and stores {MOST_AT_ONCE} bytes at a time at most, which "
            f"is {most} of them: split the loop by {most} and vectorize the inner one."
        )


def _bytes(kind: str) -> int:
    if kind not in _BYTES:
        raise NoKernel(f"the size of CUDA's type {kind!r} is not known here.")
    return _BYTES[kind]


def _launches(host: str) -> list[str]:
    return re.findall(r'call_packed\w*\("(\w+)"', host)


def _split(source: str) -> tuple[str, dict[str, str]]:
    """The preamble, and the definition of every kernel by its name."""
    starts = [one.start() for one in re.finditer(r'^extern "C" __global__', source, re.MULTILINE)]
    pieces = [
        source[first:last] for first, last in zip(starts, [*starts[1:], len(source)], strict=True)
    ]
    bodies = {}
    for piece in pieces:
        head = piece.partition("\n")[0]
        if not head.endswith(";"):  # a declaration comes before each definition
            bodies[re.search(r"(\w+)\((?!\d+\))[^()]*\) \{$", head)[1]] = piece.rstrip()
    return source[: starts[0]], bodies


def _kernel(name: str, function: Any, preamble: str, source: str) -> Kernel:
    extents = _thread_extents(function)
    if strange := [axis for axis in extents if axis not in AXES]:
        raise NoKernel(f"there is no thread axis {strange[0]!r}; there are {', '.join(AXES)}.")
    if counters := [one.name for one in function.params if not _is_buffer(one)]:
        raise NoKernel(
            f"{' and '.join(counters)} stand outside of the bound loops, so the CPU would run them "
            "and start the kernel anew for each iteration. The outermost loops are to be bound."
        )
    return Kernel(
        name,
        preamble,
        source,
        tuple(extents.get(f"blockIdx.{axis}", 1) for axis in "xyz"),  # type: ignore[arg-type]
        tuple(extents.get(f"threadIdx.{axis}", 1) for axis in "xyz"),  # type: ignore[arg-type]
        tuple(one.name.removesuffix("_ptr") for one in function.params),
        tuple(_dtype(one) for one in function.params),
    )


def _is_buffer(parameter: Any) -> bool:
    return "handle" in str(parameter.ty)


def _dtype(parameter: Any) -> str:
    return re.search(r'"(\w+)"', str(parameter.ty))[1]  # T.handle("float32", "global")


def _thread_extents(function: Any) -> dict[str, int]:
    """By thread axis: its extent, which is what the host launches."""
    import tvm_ffi
    from tvm import tirx

    found: dict[str, int] = {}

    def look(statement: Any) -> None:
        if statement.attr_key == "thread_extent":
            found[str(statement.node.thread_tag)] = int(statement.value)

    tvm_ffi.structural_walk(function.body, (tirx.AttrStmt, look))
    return found
