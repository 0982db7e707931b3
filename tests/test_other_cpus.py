"""The schedules follow from the CPU: on others than this one they have its vectors, fit its
registers, and use its instructions or say that it has none."""

from __future__ import annotations

import pytest

from tests.other_cpus import VECTOR_UNITS, dot_products, inner_loop, without_the_instruction
from tvm_practice.common.worker import call


@pytest.mark.parametrize("cpu", ["AVX-512", "AVX2", "NEON"])
def test_the_register_tile_stays_in_registers(cpu: str) -> None:
    (rows, columns), multiply_adds, spills = call(inner_loop, cpu)
    vectors = columns // VECTOR_UNITS[cpu][0]
    assert multiply_adds >= rows * vectors, (
        f"a tile of {rows} x {columns} needs {rows * vectors} vector multiply-adds for each k, "
        f"and the inner loop has {multiply_adds}"
    )
    assert spills == 0, f"{spills} vectors are kept on the stack in the inner loop"


def test_int8_dot_products_are_found_on_aarch64() -> None:
    assert call(dot_products, "i8mm") >= 16


def test_a_cpu_without_the_instruction_is_refused_clearly() -> None:
    found, failure, outcome = call(without_the_instruction)
    assert found is None
    assert "This CPU has none of the instructions that the lab knows (avx512vnni" in failure
    assert outcome == "right"
