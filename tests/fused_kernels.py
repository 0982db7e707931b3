"""What test_fused_gelu.py runs in a worker; a module of its own, since the worker imports it."""

from __future__ import annotations

import re

from tests import other_cpus
from tvm_practice.common import target
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.experiments import fused_gelu

WHOSE = dict.fromkeys(fused_gelu.EXERCISES, REFERENCE)
VECTOR_SIZED = (240, 256, 2048)  # multiples of the tiles of all CPUs, and long sums


def computes_what_it_should(size: tuple[int, int, int]) -> bool:
    """Both versions at a size; their makers compare every element with float64."""
    fused = fused_gelu.make_fused(*size, 1, WHOSE, library=False)
    separate = fused_gelu.make_separate(*size, 1, WHOSE)
    return fused.verified and separate.verified


def _assembly(library: bool) -> list[str]:
    import tvm

    sch = fused_gelu.fused_schedule(*VECTOR_SIZED, WHOSE, library)
    module = tvm.compile(sch.mod, target=target.cpu_target()).mod
    return module.inspect_source("asm").splitlines()


def library_calls(library: bool) -> int:
    """Calls of the C library's functions of one number, in the fused kernel."""
    called = r"\b(?:callq?|bl)\s+(?:expf|tanhf|erff)\b"
    return sum(bool(re.search(called, line)) for line in _assembly(library))


def inner_loop(cpu: str) -> tuple[tuple[int, int], int, int]:
    """(register tile, vector multiply-adds, spills) in the loop over k of the fused kernel."""
    other_cpus._pretend(cpu)
    tile = target.register_tile(*VECTOR_SIZED[:2])
    # A loop over k runs from a label to the jump back to it; what follows is the epilogue, which
    # multiplies and adds too.
    stretches: list[list[str]] = [[]]
    for line in _assembly(library=False):
        if re.match(r"^\S+:", line):
            stretches.append([])
        stretches[-1].append(line)
        if re.match(r"\s+(?:j[a-z]+|b\.[a-z]+|cbn?z|tbn?z)\s", line):
            stretches.append([])

    def multiply_adds(stretch: list[str]) -> int:
        return sum(bool(re.search(other_cpus.MULTIPLY_ADD[cpu], line)) for line in stretch)

    loop = max((one for one in stretches if _jumps_back(one)), key=multiply_adds)
    return (
        tile,
        multiply_adds(loop),
        sum(bool(re.search(other_cpus.SPILL[cpu], x)) for x in loop),
    )


def _jumps_back(stretch: list[str]) -> bool:
    """Whether the last line jumps to the label in the first."""
    label = stretch[0].partition(":")[0] if stretch else ""
    return bool(label) and stretch[-1].split()[-1] == label
