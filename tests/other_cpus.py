"""What test_other_cpus.py runs in a worker; a module of its own, since the worker imports it.

Code for a CPU that this machine need not have is compiled and its assembly looked at.
"""

from __future__ import annotations

import re
from collections import Counter

from tvm_practice.common import exercise, target
from tvm_practice.common.exercise import REFERENCE

CPUS = {
    "AVX-512": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "skylake-avx512"},
    "AVX2": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"},
    "NEON": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"},
    "i8mm": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v1"},
}
VECTOR_UNITS = {"AVX-512": (16, 32), "AVX2": (8, 16), "NEON": (4, 32), "i8mm": (4, 32)}
# A multiply-add of whole vectors in registers, and a vector stored to or loaded from the stack.
MULTIPLY_ADD = {
    "AVX-512": r"vfmadd\d+ps\s.*%zmm",
    "AVX2": r"vfmadd\d+ps\s.*%ymm",
    "NEON": r"fmla\s+v\d+\.4s",
}
SPILL = {
    "AVX-512": r"vmovups\s.*\(%rsp\).*%zmm|vmovups\s+%zmm\d+, -?\d*\(%rsp\)",
    "AVX2": r"vmovups\s.*\(%rsp\).*%ymm|vmovups\s+%ymm\d+, -?\d*\(%rsp\)",
    "NEON": r"(?:str|ldr|stp|ldp)\s+q\d+.*\[sp",
}


def _pretend(cpu: str) -> None:
    """From now on this process generates code for another CPU."""
    import tvm

    other = tvm.target.Target({**CPUS[cpu], "num-cores": 2})
    target.cpu_target = lambda: other
    target.vector_unit = lambda: VECTOR_UNITS[cpu]


def _assembly(sch) -> str:
    import tvm

    return tvm.compile(sch.mod, target=target.cpu_target()).mod.inspect_source("asm")


def inner_loop(cpu: str) -> tuple[tuple[int, int], int, int]:
    """(register tile, vector multiply-adds, spills) in the innermost loop of the matmul ladder."""
    _pretend(cpu)
    from tvm_practice.experiments.manual_schedule import scheduled_matmul

    tile = target.register_tile(240, 256)
    steps = tuple((f"2.{number}", REFERENCE) for number in range(1, 6))
    lines = _assembly(scheduled_matmul(240, 256, 128, steps)).splitlines()
    # The innermost loop is the stretch between two labels with the most multiply-adds.
    stretches, count = Counter(), 0
    loops: dict[int, list[str]] = {0: []}
    for line in lines:
        if re.match(r"^\S+:", line):
            count += 1
            loops[count] = []
        loops[count].append(line)
    for number, body in loops.items():
        stretches[number] = sum(bool(re.search(MULTIPLY_ADD[cpu], line)) for line in body)
    (number, most), *_ = stretches.most_common(1)
    spills = sum(bool(re.search(SPILL[cpu], line)) for line in loops[number])
    return tile, most, spills


def dot_products(cpu: str) -> int:
    """How many int8 dot product instructions the tensorized reference has for another CPU."""
    _pretend(cpu)
    from tvm_practice.experiments import tensorize

    whose = dict.fromkeys(tensorize.EXERCISES, REFERENCE)
    sch = tensorize.schedule((64, 64, 64), whose, tensorized=True)
    return len(re.findall(r"\b(?:vpdpbusd|usdot)\b", _assembly(sch)))


def without_the_instruction() -> tuple[object, str, str]:
    """On a CPU without an int8 dot product: (what the lab finds, how a competitor fails, what the
    last exercise's check says of the reference)."""
    _pretend("AVX-512")
    from tvm_practice.checks import Trial, check_of
    from tvm_practice.experiments import tensorize

    whose = dict.fromkeys(tensorize.EXERCISES, REFERENCE)
    try:
        tensorize.make_int8(64, 64, 64, 1, whose, tensorized=True)
        failure = ""
    except tensorize.NoInstruction as error:
        failure = str(error)
    check_of("tensorize.3").function(exercise.body("tensorize.3"), Trial(1))
    return tensorize.this_instruction(), failure, "right"
