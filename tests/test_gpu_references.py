"""Every reference for a GPU, at the size its lesson shows: it fits a V100 and an H100-class GPU,
and keeps its numbers in registers. NVIDIA's compiler says so; no GPU is needed."""

from __future__ import annotations

import pytest

from tvm_practice.common.cuda import resources
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.worker import call
from tvm_practice.experiments import fused_gelu, manual_schedule

pytestmark = pytest.mark.skipif(
    resources.available() is not None, reason=str(resources.available())
)
RUNGS = tuple((known, REFERENCE) for known in manual_schedule.GPU_RUNGS)
GELU = tuple((known, REFERENCE) for known in (*fused_gelu.EXERCISES[:2], fused_gelu.ON_GPU))


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
