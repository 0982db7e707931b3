"""What can crash or be slow to load, each asked in a Python process of its own.

A wrong tvm-ffi ends its process by a segmentation fault, a broken driver may hang: that costs one
finding, not the doctor. Run as `python -m tvm_practice.doctor.probes NAME`, a probe prints one line
of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

SECONDS = 60
_pool = ThreadPoolExecutor(2)
_asked: dict[str, Future[dict[str, Any]]] = {}


class Died(RuntimeError):
    """A probe gave no answer; the message says how it ended."""


def start(names: Iterable[str]) -> None:
    """Have probes run in the background, two at a time; `ask` waits for their answers."""
    for name in names:
        if name not in _asked:
            _asked[name] = _pool.submit(_run, name)


def ask(name: str) -> dict[str, Any]:
    """The answer of a probe, each of which runs once. Raises Died."""
    start([name])
    return _asked[name].result()


def _run(name: str) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, "-m", __name__, name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            printed, complaint = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise Died(f"it did not end within {SECONDS} seconds") from None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode < 0:
        raise Died(f"its process ended by {signal.Signals(-process.returncode).name}")
    if process.returncode:
        lines = complaint.strip().splitlines() or ["no reason given"]
        raise Died(lines[-1][:300])
    return json.loads(printed.strip().splitlines()[-1])


# --------------------------------------------------------------------------------- in the process


def probe_tvm() -> dict[str, Any]:
    started = time.perf_counter()
    from tvm_practice.common import import_tvm  # noqa: F401

    seconds = time.perf_counter() - started
    import tvm

    return {
        "seconds": seconds,
        "version": tvm.__version__,
        "torch": "torch" in sys.modules,
        "llvm": tvm.target.codegen.llvm_version_major(),
        "cpu": tvm.target.codegen.llvm_get_system_cpu(),
        "threads": int(tvm.get_global_func("runtime.NumThreads")()),
    }


def probe_metaschedule() -> dict[str, Any]:
    """Save a program as every record of a search does: there a wrong tvm-ffi crashes."""
    import tempfile

    from tvm_practice.common import import_tvm  # noqa: F401

    import tvm  # isort: skip
    from tvm import te
    from tvm.s_tir import meta_schedule as ms

    A = te.placeholder((8,), name="A")
    function = te.create_prim_func([A, te.compute((8,), lambda i: A[i] + 1.0, name="B")])
    module = tvm.IRModule({"main": function})
    with tempfile.TemporaryDirectory(prefix="tvm_practice_doctor_") as folder:
        ms.database.JSONDatabase(work_dir=folder).commit_workload(module)
    tvm.ir.load_json(tvm.ir.save_json(module))
    return {}


def probe_torch() -> dict[str, Any]:
    import torch

    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "right": bool((torch.ones(3) + 1 == 2).all()),
    }


def probe_xgboost() -> dict[str, Any]:
    import numpy as np
    import xgboost

    matrix = xgboost.DMatrix(np.arange(8.0).reshape(-1, 1), np.arange(8.0))
    xgboost.train({"verbosity": 0}, matrix, 2)
    return {"version": xgboost.__version__}


def probe_simulator() -> dict[str, Any]:
    """A kernel of TVM's through g++ and back, as --target cuda-sim does it."""
    from tvm_practice.common import import_tvm  # noqa: F401
    from tvm_practice.common.cuda.simulate import simulated

    import numpy as np  # isort: skip
    from tvm import te
    from tvm.s_tir import Schedule

    A = te.placeholder((64,), name="A")
    schedule = Schedule(te.create_prim_func([A, te.compute((64,), lambda i: A[i] * 2.0, name="B")]))
    (loop,) = schedule.get_loops(schedule.get_sblock("B"))
    outer, inner = schedule.split(loop, [None, 32])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    a, b = np.arange(64, dtype="float32"), np.zeros(64, "float32")
    simulated(schedule.mod)(a, b)
    return {"right": bool(np.array_equal(b, 2 * a))}


def probe_nvrtc() -> dict[str, Any]:
    from tvm_practice.common.cuda import resources

    if missing := resources.available():
        return {"missing": missing}
    source = "#include <cuda_fp16.h>\n#include <mma.h>\n" + (
        'extern "C" __global__ void twice(float* a) { a[threadIdx.x] *= 2.0f; }\n'
    )
    archs = ["sm_70", "sm_90"]
    return {"archs": [arch for arch in archs if resources.machine_code(source, arch)]}


def probe_workers() -> dict[str, Any]:
    from tvm_practice.common import worker

    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        worker.call(os.getpid)
        seconds.append(time.perf_counter() - started)
    return {"first": seconds[0], "next": seconds[1]}


def probe_driver() -> dict[str, Any]:
    """NVIDIA's driver by itself, before anything is built on it."""
    import ctypes

    from tvm_practice.common.target import DRIVER

    driver = ctypes.CDLL(DRIVER)
    if status := driver.cuInit(0):
        return {"status": status}
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    return {"status": 0, "cuda": version.value // 1000, "devices": count.value}


def probe_runtime() -> dict[str, Any]:
    from tvm_practice.common.target import load_cuda_runtime

    load_cuda_runtime()
    return {}


def probe_tvm_cuda() -> dict[str, Any]:
    """Whether TVM's own CUDA library loads, which TVM itself does not say."""
    import ctypes

    from tvm_practice.common import import_tvm  # noqa: F401

    import tvm  # isort: skip
    from importlib import metadata
    from pathlib import Path

    if not tvm.runtime.enabled("cuda"):
        files = metadata.files("apache-tvm") or []
        named = [one for one in files if one.name == "libtvm_runtime_cuda.so"]
        if not named:
            return {"enabled": False, "reason": "this build of TVM has no libtvm_runtime_cuda.so"}
        try:
            ctypes.CDLL(str(Path(named[0].locate())))
        except OSError as error:
            return {"enabled": False, "reason": str(error)}
        return {"enabled": False, "reason": "libtvm_runtime_cuda.so loads, but TVM does not use it"}
    from tvm_practice.common.cuda import device

    return {"enabled": True, "device": device.found()}


def probe_torch_cuda() -> dict[str, Any]:
    import torch

    return {"cuda": torch.version.cuda, "archs": torch.cuda.get_arch_list()}


if __name__ == "__main__":
    print(json.dumps(globals()[f"probe_{sys.argv[1]}"]()))
