"""What test_fused_gelu.py runs in a worker; a module of its own, since the worker imports it."""

from __future__ import annotations

import re
from collections import Counter

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
    loops: list[list[str]] = [[]]
    for line in _assembly(library=False):
        if re.match(r"^\S+:", line):
            loops.append([])
        loops[-1].append(line)
    count = Counter()
    for number, body in enumerate(loops):
        # The epilogue multiplies and adds too, but it divides, and the loop over k does not.
        if not any(re.match(r"\s*(?:vdivps|fdiv)\b", line) for line in body):
            count[number] = sum(bool(re.search(other_cpus.MULTIPLY_ADD[cpu], x)) for x in body)
    ((number, most),) = count.most_common(1)
    return tile, most, sum(bool(re.search(other_cpus.SPILL[cpu], x)) for x in loops[number])
