"""The fused kernel at sizes that no tile divides, in its machine code, and on other CPUs."""

from __future__ import annotations

import pytest

from tests.fused_kernels import computes_what_it_should, inner_loop, library_calls
from tests.other_cpus import VECTOR_UNITS
from tvm_practice.common.worker import call

ODD_SIZES = [(61, 35, 24), (7, 19, 5), (1, 64, 64), (125, 517, 33)]


@pytest.mark.parametrize("size", ODD_SIZES, ids=["x".join(map(str, size)) for size in ODD_SIZES])
def test_any_size_is_computed(size: tuple[int, int, int]) -> None:
    assert call(computes_what_it_should, size)


def test_only_the_library_tanh_calls_a_function_for_each_element() -> None:
    assert call(library_calls, False) == 0
    assert call(library_calls, True) > 0


@pytest.mark.parametrize("cpu", ["AVX-512", "AVX2", "NEON"])
def test_the_tile_stays_in_registers_while_k_runs(cpu: str) -> None:
    (rows, columns), multiply_adds, spills = call(inner_loop, cpu)
    vectors = columns // VECTOR_UNITS[cpu][0]
    assert multiply_adds >= rows * vectors, (
        f"a tile of {rows} x {columns} needs {rows * vectors} vector multiply-adds for each k, "
        f"and the inner loop has {multiply_adds}"
    )
    assert spills == 0, f"{spills} vectors are kept on the stack in the inner loop"
