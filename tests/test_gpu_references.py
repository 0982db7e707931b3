"""Every reference for a GPU, at the size its lesson shows: it fits a V100 and an H100-class GPU,
and keeps its numbers in registers. NVIDIA's compiler says so; no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tvm_practice.common import exercise
from tvm_practice.common.cuda import resources
from tvm_practice.common.cuda.kernels import kernels
from tvm_practice.common.exercise import GPU, REFERENCE, catalogue, exercises_of
from tvm_practice.common.worker import call
from tvm_practice.experiments import (
    attention,
    conv1d,
    depthwise_conv2d,
    fused_gelu,
    manual_schedule,
    tensor_cores,
)

pytestmark = pytest.mark.skipif(
    resources.available() is not None, reason=str(resources.available())
)
RUNGS = tuple((known, REFERENCE) for known in manual_schedule.GPU_RUNGS)
GELU = tuple((known, REFERENCE) for known in (*fused_gelu.EXERCISES[:2], fused_gelu.ON_GPU))


def whose(lesson: str) -> dict[str, str]:
    return {known.id: REFERENCE for known in exercises_of(lesson)}


def bodies(lesson: str) -> dict[str, Callable]:
    return {known: exercise.body(known, who) for known, who in whose(lesson).items()}


def of_conv1d(rung: str) -> Any:
    lesson = exercise.load_lesson("conv1d")
    return lesson.gpu_ladder(*conv1d.GPU_SIZE, bodies("conv1d"))[rung]


def of_depthwise(rung: str) -> Any:
    lesson = exercise.load_lesson("depthwise_conv2d")
    return lesson.ladder(lesson.SHAPE, bodies("depthwise_conv2d"))[rung]


def of_tensor_cores(shape: tensor_cores.Shape) -> Any:
    return tensor_cores.schedule(tensor_cores.GPU_SIZES[0], whose("tensor_cores"), shape)


def of_attention(tile: tuple[int, int]) -> Any:
    return attention.schedule(attention.HEADS, attention.LENGTH, *tile, whose("attention"))


# By lab: how a schedule is made, and of what.
LABS = {
    "conv1d": (of_conv1d, conv1d.GPU_RUNGS),
    "depthwise_conv2d": (of_depthwise, tuple(depthwise_conv2d.RUNGS)),
    "tensor_cores": (of_tensor_cores, tensor_cores.SHAPES),
    "attention": (of_attention, attention.TILES),
}


def reports(lab: str) -> dict[Any, list[tuple[resources.Report, ...]]]:
    """By schedule, then by kernel, on each device."""
    make, choices = LABS[lab]
    return {choice: _reports(make(choice).mod) for choice in choices}


def _reports(module: Any) -> list[tuple[resources.Report, ...]]:
    by_device = [
        [resources.report(kernel, device) for kernel in kernels(module, device.arch)]
        for device in resources.DEVICES
    ]
    return list(zip(*by_device, strict=True))


def spilled(reports) -> list[str]:
    return [
        f"{one.kernel} on {one.device}: {one.usage}"
        for of_kernel in reports
        for one in of_kernel
        if one.usage.spills or one.usage.stack_bytes
    ]


@pytest.mark.parametrize("rung", manual_schedule.GPU_RUNGS)
def test_a_rung_of_the_ladder_spills_nothing(rung: str) -> None:
    found = call(manual_schedule.gpu_rung, rung, (1024, 2048, 512), RUNGS, 1)
    assert not spilled(found.reports)
    assert all(one.occupancy.blocks for of_kernel in found.reports for one in of_kernel)


def test_the_fused_layer_spills_nothing() -> None:
    found = call(fused_gelu.gpu_kernels, "one kernel", GELU, 1)
    assert len(found.kernels) == 1
    assert not spilled(found.reports)


@pytest.mark.parametrize("lab", LABS)
def test_no_kernel_of_a_lab_spills(lab: str) -> None:
    for choice, found in call(reports, lab).items():
        told = [one.usage.arch for one in found[0]]
        assert told == [device.arch for device in resources.DEVICES]
        assert not spilled(found), choice
        assert all(one.occupancy.blocks for of_kernel in found for one in of_kernel), choice


def test_no_lesson_is_forgotten() -> None:
    lessons = {known.lesson for known in catalogue().values() if known.target == GPU}
    assert lessons == {"manual_schedule", "fused_gelu", *LABS}
