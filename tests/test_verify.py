"""Checks must not be fooled: zeros, constants, unwritten elements, memory outside, and tolerances
wide enough for garbage."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_practice.common import verify
from tvm_practice.common.verify import Wrong
from tvm_practice.common.worker import WorkerFailed, call

RNG = np.random.default_rng(11)
A, B = verify.random_array(RNG, 9, 40), verify.random_array(RNG, 40, 7)
WANT, MAGNITUDE = verify.matmul_reference(A, B)


def judge(got: np.ndarray, *reasons) -> None:
    verify.assert_close(got.astype("float32"), WANT, MAGNITUDE, 40, "C", reasons)


def test_a_float32_product_in_any_order_is_accepted() -> None:
    judge(A @ B)
    judge(A[:, ::-1] @ B[::-1])
    judge(sum(np.outer(A[:, k], B[k]) for k in range(40)))


@pytest.mark.parametrize(
    ("got", "told"),
    [
        (np.zeros_like(WANT), "zero everywhere"),
        (np.full_like(WANT, np.nan), "no element of C was written"),
        (np.where(np.arange(7) == 3, np.nan, WANT), "C[0, 3]"),
        (WANT * (1 + 1e-4), "are wrong"),
        (np.full_like(WANT, WANT.mean()), "are wrong"),
        (WANT.T, "has shape"),
    ],
)
def test_what_is_not_the_product_is_rejected(got, told) -> None:
    with pytest.raises(Wrong, match=told.replace("[", r"\[").replace("]", r"\]")):
        judge(got)


def test_the_tolerance_grows_with_the_root_of_the_reduction_and_not_faster() -> None:
    one, hundred = verify.tolerance(np.ones(1), 1), verify.tolerance(np.ones(1), 100)
    assert hundred == pytest.approx(10 * one)
    assert one < 1e-6


def test_a_single_element_off_by_a_thousandth_is_found() -> None:
    got = WANT.copy()
    got[4, 5] += 1e-3 * abs(WANT).max()
    with pytest.raises(Wrong, match=r"1 of 63 elements.*C\[4, 5\]"):
        judge(got)


def test_a_known_mistake_is_named() -> None:
    with pytest.raises(Wrong, match="twice as much"):
        judge(2 * WANT, (2 * WANT, "That is twice as much."))


def test_a_wrong_number_says_who_wrote_it() -> None:
    got = WANT.copy()
    got[4, 5] += 1
    for value, told in ((got[4, 5], "expected .*"), (np.nan, "expected .*")):
        got[4, 5] = value
        with pytest.raises(Wrong, match=rf"C\[4, 5\] = .*{told}\. Row 4 did"):
            verify.assert_close(
                got, WANT, MAGNITUDE, 40, "C (at 9 x 7 x 40)", (), lambda at: f"Row {at[0]} did."
            )


def _compiled(body):
    from tvm import te

    from tvm_practice.common.target import build

    A = te.placeholder((16,), name="A")
    return build(te.create_prim_func([A, te.compute((16,), lambda i: body(A, i), name="B")]))


def _reads_outside() -> None:
    verify.run(_compiled(lambda A, i: A[i + 3] * 2.0), (np.ones(16, "float32"),), (16,))


def _reads_inside() -> np.ndarray:
    return verify.run(_compiled(lambda A, i: A[i] * 2.0), (np.ones(16, "float32"),), (16,))


def _writes_outside() -> None:
    def function(a, b):
        memory = np.from_dlpack(b)
        np.lib.stride_tricks.as_strided(memory, (20,))[16] = 1.0

    verify.run(function, (np.ones(16, "float32"),), (16,))


def _changes_its_input() -> None:
    def function(a, b):
        np.from_dlpack(a)[0] = 5.0
        np.from_dlpack(b)[:] = 1.0

    verify.run(function, (np.ones(16, "float32"),), (16,))


def test_memory_outside_the_tensors_is_guarded() -> None:
    assert (call(_reads_inside) == 2).all()
    with pytest.raises(WorkerFailed, match="computed from memory outside the inputs"):
        call(_reads_outside)
    with pytest.raises(WorkerFailed, match="wrote outside the output"):
        call(_writes_outside)
    with pytest.raises(WorkerFailed, match="changed its input number 1"):
        call(_changes_its_input)
