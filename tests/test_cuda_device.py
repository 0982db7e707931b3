"""What a GPU is given to run and to time, as far as it can be tried without one: the simulator, or
the CPU, stands where the device would."""

from __future__ import annotations

import importlib
import math
import pickle

import numpy as np
import pytest

from tvm_practice.common import exercise, timing, verify
from tvm_practice.common.cuda import device, resources
from tvm_practice.common.cuda.kernels import kernels
from tvm_practice.common.cuda.simulate import simulated
from tvm_practice.common.timing import Candidate, Runnable
from tvm_practice.common.worker import call

LESSONS = [
    lesson
    for lesson in exercise.LESSONS
    if hasattr(importlib.import_module(f"tvm_practice.experiments.{lesson}"), "gpu_competitors")
]


class InTheSimulator:
    """Stands in for `device.Compiled`: the same call, by the simulator, and no clock."""

    def __init__(self, module) -> None:
        self.library = simulated(module)

    def on_device(self, arrays):
        copies = [np.array(one) for one in arrays]
        if (found := self.library.run(copies)) is not None:
            raise verify.Wrong(found.sentence)
        return lambda calls: math.nan, [_Tensor(one) for one in copies]


class _Tensor:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def numpy(self) -> np.ndarray:
        return self.array


def competitors(lesson: str) -> list[Candidate]:
    module = importlib.import_module(f"tvm_practice.experiments.{lesson}")
    return module.gpu_competitors(module.GPU_QUICK_SIZES[0], 3)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_lessons_of_the_gpu_ladders_compete_on_a_device(lesson: str) -> None:
    names = [one.name for one in competitors(lesson)]
    assert names.count("hand") == 1 and any(name.startswith("torch") for name in names)
    assert len(set(names)) == len(names)
    pickle.dumps(competitors(lesson))


OURS = [
    (lesson, one.name)
    for lesson in LESSONS
    for one in competitors(lesson)
    if not one.name.startswith("torch")
]


@pytest.mark.parametrize(("lesson", "name"), OURS)
def test_what_a_device_would_time_is_right_in_the_simulator(lesson: str, name: str) -> None:
    made = call(_made, lesson, name, seconds=240)
    assert made.verified
    assert made.flops > 0 and made.bytes > made.bytes_written > 0


def _made(lesson: str, name: str) -> Runnable:
    one = next(one for one in competitors(lesson) if one.name == name)
    made = one.make(**one.arguments, build=InTheSimulator)
    return Runnable(print, made.flops, made.bytes, made.verified, made.bytes_written)


def test_a_wrong_result_is_not_timed() -> None:
    call(_wrong)


def _wrong() -> None:
    length = 4 * device.BLOCK
    arrays = [np.ones(length, "float32"), np.zeros(length, "float32")]

    def is_right(a: np.ndarray) -> None:
        verify.assert_close(a, np.full(length, 7.0), np.full(length, 7.0), 1, "a")

    with pytest.raises(verify.Wrong, match="expected 7"):
        device.runnable(device.triad(length), arrays, (length,), is_right, InTheSimulator)


@pytest.mark.parametrize("peak", ["fma", "triad"])
def test_the_kernels_that_measure_a_peak_are_right(peak: str) -> None:
    call(_peak, peak)


def _peak(peak: str) -> None:
    if peak == "fma":
        made = device.make_fma_peak(InTheSimulator, blocks=2, rounds=2)
        assert made.flops == 2.0 * 2 * device.BLOCK * device.CHAINS * device.UNROLLED * 2
    else:
        made = device.make_triad(1e5, InTheSimulator)
        assert made.bytes == 3 * made.bytes_written >= 1e5
    assert made.verified


@pytest.mark.skipif(resources.available() is not None, reason=resources.available() or "")
@pytest.mark.parametrize("arch", ["sm_70", "sm_90"])
def test_nvrtc_12_makes_machine_code_of_what_tvm_hands_over(arch: str) -> None:
    code, spills = call(_machine_code, arch)
    assert code.startswith(b"\x7fELF")
    assert not spills


def _machine_code(arch: str) -> tuple[bytes, bool]:
    (kernel,) = kernels(device.fma_chains(80, 4096), arch)
    source = kernel.preamble + kernel.source
    return resources.machine_code(source, arch), resources.compile(source, arch)[0].spills


def test_a_compiled_function_takes_and_fills_arrays_of_the_host() -> None:
    call(_on_the_cpu)


def _on_the_cpu() -> None:
    import tvm
    from tvm import te

    from tvm_practice.common.target import cpu_target

    A = te.placeholder((1000,), name="A")
    module = te.create_prim_func([A, te.compute((1000,), lambda i: A[i] * 2.0, name="B")])
    compiled = device.Compiled(module, cpu_target(), tvm.cpu(0))
    given = np.arange(1000, dtype="float32")
    assert np.array_equal(verify.run(compiled, (given,), (1000,)), 2 * given)
    timed, (_, result) = compiled.on_device([given, np.zeros(1000, "float32")])
    assert np.array_equal(result.numpy(), 2 * given)
    assert 0 < timed(100) < 1


def test_a_device_is_timed_by_its_own_clock() -> None:
    """And the cores of this machine, which then do nothing, are not counted as taken."""
    measured = timing.compare([Candidate("FMA peak", _ticking)], rounds=3, sample_seconds=0.0)
    assert measured["FMA peak"].samples == (0.25, 0.25, 0.25)
    assert measured.cores_taken == 0.0


def _ticking() -> Runnable:
    return Runnable(print, flops=1.0, verified=True, on_device=lambda calls: 0.25)


def test_without_a_gpu_none_is_found() -> None:
    import ctypes

    from tvm_practice.common import target

    try:
        ctypes.CDLL(target.DRIVER)
    except OSError:
        assert call(device.found) is None
        assert target.missing_for_cuda().startswith(target.DRIVER)
    else:
        pytest.skip("NVIDIA's driver is installed here")
