"""Right or wrong: numbers against a float64 reference, and structure on the scheduled TensorIR.

A check never accepts by accident: inputs are random and non-square, outputs are filled with NaN before the call, inputs
are compared after it, and the tolerance follows from the length of the reduction and the dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# A rounding error analysis that treats errors as random (Higham & Mary 2019, SIAM J. Sci. Comput. 41(5)) bounds
# the error of an n-term sum by lambda * sqrt(n) * u * sum|terms|, with a chance of failure per element of about
# 2 * exp(-lambda^2 / 2): below 1e-7 for lambda = 6.
LAMBDA = 6.0


class Wrong(Exception):
    """A wrong answer. The message is what a tutor would say: what was called, what came back, what was expected."""


def tolerance(magnitude: np.ndarray, terms: int, dtype: str = "float32") -> np.ndarray:
    """The largest error a right answer may have, elementwise.

    magnitude: sum of the absolute values of the terms of each element; terms: how many roundings reach it.
    """
    unit_roundoff = np.finfo(dtype).eps / 2
    smallest = np.finfo(dtype).tiny
    return LAMBDA * np.sqrt(terms) * unit_roundoff * magnitude + smallest


def assert_close(
    got: np.ndarray,
    want: np.ndarray,
    magnitude: np.ndarray,
    terms: int,
    what: str,
    reasons: Sequence[tuple[np.ndarray, str]] = (),
) -> None:
    """Raise Wrong unless every element of `got` is `want` within tolerance(magnitude, terms).

    reasons: pairs of (a result that a known mistake gives, the sentence that names the mistake); the first that
    matches is added to the message.
    """
    if got.shape != want.shape:
        raise Wrong(f"{what} has shape {got.shape}; expected {want.shape}.")
    allowed = tolerance(magnitude, terms, str(got.dtype))
    if not np.isfinite(got).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(got))[0])
        count = int((~np.isfinite(got)).sum())
        if np.isnan(got).all():
            raise Wrong(f"no element of {what} was written: the output still holds its initial NaN.")
        raise Wrong(
            f"{count} of {got.size} elements of {what} are not finite; the first is {_element(what, where)} = "
            f"{got[where]}, expected {want[where]:.6g}. Either they were never written, or the arithmetic overflowed."
            + _reason(got, reasons, allowed)
        )
    if want.any() and not got.any():
        raise Wrong(f"{what} is zero everywhere; nothing was computed into it.")
    difference = np.abs(got.astype("float64") - want)
    if (difference <= allowed).all():
        return
    where = tuple(int(i) for i in np.argwhere(difference > allowed)[0])
    count = int((difference > allowed).sum())
    raise Wrong(
        f"{count} of {got.size} elements of {what} are wrong; the first is {_element(what, where)} = {got[where]:.6g}, "
        f"expected {want[where]:.6g}." + _reason(got, reasons, allowed)
    )


def _element(what: str, where: tuple[int, ...]) -> str:
    return f"{what}[{', '.join(map(str, where))}]"


def _reason(got: np.ndarray, reasons: Sequence[tuple[np.ndarray, str]], allowed: np.ndarray) -> str:
    for mistaken, sentence in reasons:
        if mistaken.shape == got.shape and np.allclose(
            got, mistaken, rtol=1e-4, atol=10 * float(allowed.max()), equal_nan=True
        ):
            return " " + sentence
    return ""


def random_array(rng: np.random.Generator, *shape: int, dtype: str = "float32") -> np.ndarray:
    """Standard normal values: of both signs, so that errors cannot hide behind a growing sum."""
    return rng.standard_normal(shape).astype(dtype)


GUARD_BYTES = 1 << 18
POISON = 8765432.0


def run(
    function: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    shape: tuple[int, ...],
    dtype: str = "float32",
) -> np.ndarray:
    """Call a compiled TVM function `function(*inputs, output)` and return the output, which held NaN before.

    Every tensor lies between two guard zones of NaN. Raises Wrong if the call wrote outside its output or into an input,
    or if a result came from memory outside the inputs, which is then NaN where another run would find anything.
    """
    output = _call(function, inputs, shape, dtype, np.nan)
    if np.isnan(output).any() and all(np.isfinite(array).all() for array in inputs):
        again = _call(function, inputs, shape, dtype, POISON)
        outside = np.argwhere(np.isnan(again))
        if len(outside):
            where = ", ".join(str(int(i)) for i in outside[0])
            raise Wrong(
                f"{len(outside)} of {output.size} elements of the output, the first at [{where}], are computed from memory "
                "outside the inputs (or from undefined arithmetic such as 0/0): an index goes below 0 or beyond "
                "a dimension there."
            )
    return output


def _call(
    function: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    shape: tuple[int, ...],
    dtype: str,
    poison: float,
) -> np.ndarray:
    import tvm

    guarded = [_guarded(array) for array in inputs] + [_guarded(np.full(shape, poison, dtype))]
    function(*[tvm.runtime.from_dlpack(array) for array, _ in guarded])
    for number, ((array, memory), before) in enumerate(zip(guarded, inputs, strict=False), 1):
        if not np.array_equal(array, before, equal_nan=True):
            raise Wrong(f"the call changed its input number {number}; inputs are only to be read.")
        _check_guard(memory, array, f"input number {number}")
    output, memory = guarded[-1]
    _check_guard(memory, output, "the output")
    return output.copy()


def _guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a copy of the array between guard zones, 64-byte aligned; the float32 memory it lies in)."""
    memory = np.full((array.nbytes + 2 * GUARD_BYTES + 64) // 4, np.nan, "float32")
    start = GUARD_BYTES + (-(memory.ctypes.data + GUARD_BYTES)) % 64
    inside = memory.view("uint8")[start : start + array.nbytes].view(array.dtype)
    inside = inside.reshape(array.shape)
    inside[...] = array
    return inside, memory


def _check_guard(memory: np.ndarray, inside: np.ndarray, what: str) -> None:
    start = (inside.ctypes.data - memory.ctypes.data) // 4
    end = start + inside.nbytes // 4
    if not (np.isnan(memory[:start]).all() and np.isnan(memory[end:]).all()):
        raise Wrong(f"the call wrote outside {what}: an index goes below 0 or beyond a dimension.")


def assert_reads_in_bounds(function: Any) -> None:
    """Raise Wrong where a plain index (one loop, no arithmetic) runs further than the dimension it indexes."""
    import tvm_ffi
    from tvm import s_tir

    def look(block: Any) -> None:
        extents = {axis.var: int(axis.dom.extent) for axis in block.iter_vars}
        for region in block.reads:
            indices = [dimension.min for dimension in region.region]
            written = ", ".join(str(index).removeprefix("v_") for index in indices)
            for position, (index, size) in enumerate(zip(indices, region.source.shape, strict=True)):
                if extents.get(index, 0) > int(size):
                    raise Wrong(
                        f"{region.source.name}[{written}]: index number {position + 1} runs to {extents[index] - 1}, but that "
                        f"dimension of {region.source.name} has only {int(size)} elements. Are two indices swapped?"
                    )

    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, look))


def matmul_reference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A @ B in float64, |A| @ |B|), the product and the magnitude of its terms."""
    wide_a, wide_b = a.astype("float64"), b.astype("float64")
    return wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)
