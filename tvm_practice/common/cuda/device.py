"""A GPU itself: schedules compiled for it, verified on it, and timed by its own clock.

Everything here runs in a worker, on a machine whose GPU `target.check_usable("cuda")` has found;
`Compiled` alone is also for a CPU, so that a test can do without a GPU. The kernels are compiled by
the same NVRTC 12 that counts their registers elsewhere: 13 cannot make code for a V100.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from tvm_practice.common.cuda.kernels import cuda_target
from tvm_practice.common.cuda.resources import machine_code
from tvm_practice.common.timing import MIB, PEAK_FMA, PEAK_TRIAD, Candidate, Runnable

BLOCK = 256  # threads, of the kernels that measure a peak
CHAINS, UNROLLED = 8, 16  # multiply-adds of a thread that do not wait for each other; and in a row


def found() -> dict[str, Any] | None:
    """The first GPU as TVM sees it, or None: its name, architecture ("sm_70"), processors, bytes of
    memory and of second-level cache, clock in Hz by the driver, and the CUDA version of the driver.
    """
    import tvm

    device = tvm.cuda(0)
    if not tvm.runtime.enabled("cuda") or not device.exist:
        return None
    return {
        "name": device.device_name,
        "arch": f"sm_{device.compute_version.replace('.', '')}",
        "processors": device.multi_processor_count,
        "memory_bytes": device.total_global_memory,
        "cache_bytes": device.l2_cache_size_bytes,
        "clock_hz": 1e3 * device.max_clock_rate,
        "driver": device.driver_version,
    }


def in_words(gpu: dict[str, Any]) -> str:
    """What `found` found, as a line."""
    return (
        f"{gpu['name']} ({gpu['arch']}): {gpu['processors']} processors, "
        f"{gpu['memory_bytes'] / 2**30:.0f} GiB, driver for CUDA {gpu['driver']}"
    )


@cache
def _gpu() -> dict[str, Any]:
    device = found()
    if device is None:
        raise RuntimeError("TVM sees no GPU on this machine")
    return device


class Compiled:
    """A scheduled function on a device. It is called with arrays of the host, which it copies there
    and back, as a simulated one is; `on_device` is what can be timed."""

    def __init__(self, module: Any, target: Any = None, device: Any = None) -> None:
        """module: with a "main"; target, device: TVM's, the first GPU unless told."""
        import tvm

        if target is None:
            arch = _gpu()["arch"]
            _compile_with_nvrtc_12(arch)
            target, device = cuda_target(arch), tvm.cuda(0)
        with target:  # TVM takes the architecture from here, not from its argument
            self._library = tvm.compile(module, target=target).jit()
        self._device = device

    def __call__(self, *tensors: Any) -> None:
        views = [np.from_dlpack(tensor) for tensor in tensors]
        _, arguments = self.on_device(views)
        for view, argument in zip(views, arguments, strict=True):
            result = argument.numpy()
            ctypes.memmove(view.ctypes.data, result.ctypes.data, result.nbytes)

    def on_device(self, arrays: Sequence[np.ndarray]) -> tuple[Callable[[int], float], list[Any]]:
        """Call it once on copies of `arrays`; return what times n further calls, in seconds per
        call, and the copies."""
        import tvm

        arguments = [tvm.runtime.tensor(np.array(one), device=self._device) for one in arrays]
        self._library["main"](*arguments)
        self._device.sync()

        def seconds_per_call(calls: int) -> float:
            timed = self._library.time_evaluator("main", self._device, number=calls, repeat=1)
            return float(timed(*arguments).mean)

        return seconds_per_call, arguments


@cache
def _compile_with_nvrtc_12(arch: str) -> None:
    """Have TVM hand the CUDA C of every module to NVRTC 12, wherever else CUDA is installed."""
    import tvm_ffi

    tvm_ffi.register_global_func(
        "tvm_callback_cuda_compile", lambda source: machine_code(source, arch), override=True
    )


# --------------------------------------------------------------------------------- the competitors


def runnable(
    module: Any,
    inputs: Sequence[np.ndarray],
    shape: tuple[int, ...],
    is_right: Callable[[np.ndarray], None],
    build: Callable[[Any], Any] = Compiled,
    **work: float,
) -> Runnable:
    """Compile "main"(*inputs, output), verify a call, and return it to be timed on the device.

    is_right: raises Wrong for a result that is not. work: Runnable's flops, bytes, bytes_written.
    """
    timer, arguments = build(module).on_device([*inputs, np.full(shape, np.nan, "float32")])
    is_right(arguments[-1].numpy())
    return Runnable(lambda: timer(1), verified=True, on_device=timer, **work)


def torch_runnable(
    layer: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    is_right: Callable[[np.ndarray], None],
    **work: float,
) -> Runnable:
    """The same for a function of torch tensors. TF32, which keeps 10 of float32's 23 bits, is off.

    It is timed as it is called from Python: where a kernel takes less than its launch, that shows.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    tensors = [torch.from_numpy(np.array(one)).cuda() for one in inputs]

    def call() -> Any:
        with torch.no_grad():
            return layer(*tensors)

    def seconds_per_call(calls: int) -> float:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        first.record()
        for _ in range(calls):
            call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / calls

    is_right(call().cpu().numpy())
    return Runnable(call, verified=True, on_device=seconds_per_call, **work)


# --------------------------------------------------------------------------- the device's own peaks


def fma_chains(blocks: int, rounds: int, chains: int = CHAINS) -> Any:
    """Every thread has `chains` sums, and in each round UNROLLED multiply-adds for each of them: a
    multiply-add waits for the last one of its own chain only, and the loop is hardly to be seen."""
    from tvm.s_tir import Schedule
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((2,), "float32"),
        y: T.Buffer((blocks, BLOCK, chains), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for b in T.thread_binding(blocks, "blockIdx.x"):
            for t in T.thread_binding(BLOCK, "threadIdx.x"):
                with T.sblock("thread"):
                    vb, vt = T.axis.remap("SS", [b, t])
                    chain = T.sblock_alloc_buffer((chains,), "float32", scope="local")
                    for c in T.unroll(chains):
                        with T.sblock("start"):
                            vc = T.axis.spatial(chains, c)
                            chain[vc] = T.Cast("float32", vc)
                    for step in range(rounds):
                        for again, c in T.grid(UNROLLED, chains):
                            with T.sblock("fma"):
                                _step, _again, vc = T.axis.remap("RRS", [step, again, c])
                                chain[vc] = chain[vc] * x[0] + x[1]
                    for c in T.unroll(chains):
                        with T.sblock("store"):
                            vc = T.axis.spatial(chains, c)
                            y[vb, vt, vc] = chain[vc]

    sch = Schedule(main)
    *_, again, c = sch.get_loops(sch.get_sblock("fma"))
    sch.unroll(again)
    sch.unroll(c)
    return sch.mod


def make_fma_peak(
    build: Callable[[Any], Any] = Compiled, blocks: int | None = None, rounds: int = 1 << 12
) -> Runnable:
    """The multiply-adds a second of chains in registers: on all processors, each with as many
    threads as it can hold, unless told how many blocks."""
    blocks = blocks or 8 * _gpu()["processors"]
    x = np.array([0.5, 1.0], "float32")

    def is_right(y: np.ndarray) -> None:
        # chain = chain / 2 + 1 tends to 2, and in float32 reaches it.
        if not (y == 2.0).all():
            raise RuntimeError("the FMA chains gave a wrong result; their rate means nothing")

    flops = 2.0 * blocks * BLOCK * CHAINS * UNROLLED * rounds
    module = fma_chains(blocks, rounds)
    return runnable(module, [x], (blocks, BLOCK, CHAINS), is_right, build, flops=flops)


def triad(length: int) -> Any:
    """a[i] = b[i] + 3 c[i], four elements for each thread; `length` is a multiple of 4 BLOCK."""
    from tvm import te
    from tvm.s_tir import Schedule

    b, c = te.placeholder((length,), name="b"), te.placeholder((length,), name="c")
    a = te.compute((length,), lambda i: b[i] + c[i] * 3.0, name="a")
    sch = Schedule(te.create_prim_func([b, c, a]))
    block, thread, four = sch.split(sch.get_loops(sch.get_sblock("a"))[0], [None, BLOCK, 4])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    sch.vectorize(four)
    return sch.mod


def make_triad(footprint: float = 768 * MIB, build: Callable[[Any], Any] = Compiled) -> Runnable:
    """The stream triad (McCalpin 1995) on three arrays that fill `footprint` bytes, far beyond the
    caches unless told."""
    together = 4 * BLOCK
    length = max(1, math.ceil(footprint / 12 / together)) * together

    def is_right(a: np.ndarray) -> None:
        if not (a == 7.0).all():
            raise RuntimeError("the triad gave a wrong result; its rate means nothing")

    arrays = [np.full(length, value, "float32") for value in (1.0, 2.0)]
    work = {"flops": 2.0 * length, "bytes": 12.0 * length, "bytes_written": 4.0 * length}
    return runnable(triad(length), arrays, (length,), is_right, build, **work)


# By the names of the CPU's own, whose place they take in a comparison.
PEAKS = (Candidate(PEAK_FMA.name, make_fma_peak), Candidate(PEAK_TRIAD.name, make_triad))


def bandwidth_roof(work: Runnable) -> Candidate:
    """The triad over as many bytes."""
    return Candidate(PEAK_TRIAD.name, make_triad, {"footprint": work.bytes})
