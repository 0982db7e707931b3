"""Right or wrong: numbers against a float64 reference, and structure on the scheduled TensorIR.

A check never accepts by accident: inputs are random and non-square, outputs are filled with NaN
before the call, inputs are compared after it, and the tolerance follows from the length of the
reduction and the dtype.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

# A rounding error analysis that treats errors as random (Higham & Mary 2019, SIAM J. Sci. Comput.
# 41(5)) bounds
# the error of an n-term sum by lambda * sqrt(n) * u * sum|terms|, with a chance of failure per
# element of about
# 2 * exp(-lambda^2 / 2): below 1e-7 for lambda = 6.
LAMBDA = 6.0
# Relative to the sum of the terms' absolute values; bfloat16, the coarsest type in use, rounds by
# 2^-9.
NEAR = 2.0**-8


class Wrong(Exception):
    """A wrong answer. The message is what a tutor would say: what was called, what came back, what
    was expected."""


def tolerance(magnitude: np.ndarray, terms: int, dtype: str = "float32") -> np.ndarray:
    """The largest error a right answer may have, elementwise.

    magnitude: sum of the absolute values of the terms of each element; terms: how many roundings
    reach it.
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
    written: Callable[[tuple[int, ...]], str] = lambda where: "",
) -> None:
    """Raise Wrong unless every element of `got` is `want` within tolerance(magnitude, terms).

    reasons: pairs of (a result that a known mistake gives, the sentence that names the mistake);
    the first that matches is added to the message. written: who wrote an element, as a sentence;
    asked about the first that is wrong.
    """
    if got.shape != want.shape:
        raise Wrong(f"{what} has shape {got.shape}; expected {want.shape}.")
    allowed = tolerance(magnitude, terms, str(got.dtype))
    if not np.isfinite(got).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(got))[0])
        count = int((~np.isfinite(got)).sum())
        if np.isnan(got).all():
            raise Wrong(
                f"no element of {what} was written: the output still holds its initial NaN."
            )
        raise Wrong(
            f"{count} of {got.size} elements of {what} are not finite; the first is "
            f"{_element(what, where)} = {got[where]}, expected {want[where]:.6g}."
            f"{_spaced(written(where)) or _NEVER_OR_OVERFLOWED}{_reason(got, reasons, allowed)}"
        )
    if want.any() and not got.any():
        raise Wrong(f"{what} is zero everywhere; nothing was computed into it.")
    difference = np.abs(got.astype("float64") - want)
    if (difference <= allowed).all():
        return
    where = tuple(int(i) for i in np.argwhere(difference > allowed)[0])
    count = int((difference > allowed).sum())
    reason = _reason(got, reasons, allowed)
    if not reason and (difference <= NEAR * magnitude).all():
        reason = (
            " All are near, but further off than float32 rounding explains: did a number lose "
            "digits on "
            "the way, in a narrower type or in a constant?"
        )
    raise Wrong(
        f"{count} of {got.size} elements of {what} are wrong; the first is "
        f"{_element(what, where)} = {got[where]:.6g}, expected {want[where]:.6g}."
        f"{_spaced(written(where))}{reason}"
    )


_NEVER_OR_OVERFLOWED = " Either they were never written, or the arithmetic overflowed."


def _spaced(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def _element(what: str, where: tuple[int, ...]) -> str:
    """An element of "C", or of "C (at 8 x 4 x 2)", as C[1, 2]."""
    return f"{what.partition(' (')[0]}[{', '.join(map(str, where))}]"


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


class OutsideMemory(Wrong):
    """A result was computed from memory outside the tensors."""


def run(
    function: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    shape: tuple[int, ...],
    dtype: str = "float32",
) -> np.ndarray:
    """`run_all` for a function `function(*inputs, output)` with one output."""
    return run_all(function, inputs, [(shape, dtype)])[0]


def run_all(
    function: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    outputs: Sequence[tuple[tuple[int, ...], str]],
) -> list[np.ndarray]:
    """Call a compiled TVM function `function(*inputs, *outputs)` and return the outputs, which held
    NaN before.

    outputs: (shape, dtype) of each. Every tensor lies between two guard zones of NaN. Raises Wrong
    if the call wrote outside its outputs or into an input, and OutsideMemory if a result came from
    memory outside the tensors, which is then NaN where another run would find anything.
    """
    results = _call(function, inputs, outputs, poison=np.nan, guard=np.nan)
    missing = any(np.isnan(array).any() for array in results)
    if missing and all(np.isfinite(array).all() for array in inputs):
        # NaN has three sources. Where it goes away with another poison, the element was never
        # written; where it goes
        # away with another guard, it was read from outside; what stays is arithmetic, such as 0/0.
        guarded = _call(function, inputs, outputs, poison=POISON, guard=np.nan)
        unguarded = _call(function, inputs, outputs, poison=POISON, guard=1.0)
        for one, other in zip(guarded, unguarded, strict=True):
            outside = np.argwhere(np.isnan(one) & ~np.isnan(other))
            if len(outside):
                where = ", ".join(str(int(i)) for i in outside[0])
                raise OutsideMemory(
                    f"{len(outside)} of {one.size} elements of the output, the first at "
                    f"[{where}], "
                    "are computed from "
                    "memory outside the inputs."
                )
    return results


def _call(
    function: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    outputs: Sequence[tuple[tuple[int, ...], str]],
    poison: float,
    guard: float,
) -> list[np.ndarray]:
    import tvm

    arrays = [*inputs, *(np.full(shape, poison, dtype) for shape, dtype in outputs)]
    guarded = [_guarded(array, guard) for array in arrays]
    function(*[tvm.runtime.from_dlpack(array) for array, _ in guarded])
    for number, ((array, memory), before) in enumerate(zip(guarded, inputs, strict=False), 1):
        if not np.array_equal(array, before, equal_nan=True):
            raise Wrong(f"the call changed its input number {number}; inputs are only to be read.")
        _check_guard(memory, array, guard, f"input number {number}")
    for array, memory in guarded[len(inputs) :]:
        _check_guard(memory, array, guard, "the output")
    return [array.copy() for array, _ in guarded[len(inputs) :]]


def _guarded(array: np.ndarray, guard: float) -> tuple[np.ndarray, np.ndarray]:
    """(a copy of the array between guard zones, 64-byte aligned; the float32 memory it lies in)."""
    memory = np.full((array.nbytes + 2 * GUARD_BYTES + 64) // 4, guard, "float32")
    start = GUARD_BYTES + (-(memory.ctypes.data + GUARD_BYTES)) % 64
    inside = memory.view("uint8")[start : start + array.nbytes].view(array.dtype)
    inside = inside.reshape(array.shape)
    inside[...] = array
    return inside, memory


def _check_guard(memory: np.ndarray, inside: np.ndarray, guard: float, what: str) -> None:
    start = (inside.ctypes.data - memory.ctypes.data) // 4
    end = start + -(-inside.nbytes // 4)
    outside = np.concatenate((memory[:start], memory[end:]))
    if not (outside == guard).all() and not (np.isnan(guard) and np.isnan(outside).all()):
        raise Wrong(f"the call wrote outside {what}: an index goes below 0 or beyond a dimension.")


@dataclass(frozen=True)
class OutsideRead:
    """An index that runs beyond what it indexes, by TVM's analysis.

    dimension: counted from 1; 0 if the tensor has only one.
    """

    tensor: str
    dimension: int
    index: str
    lowest: int
    highest: int
    size: int

    @property
    def sentence(self) -> str:
        which = f"The index `{self.index}` into {self.tensor}"
        if self.dimension:
            which = f"The {_ordinal(self.dimension)} index of {self.tensor}, `{self.index}`,"
        told = (
            f"{which} runs from {self.lowest} to {self.highest}, but only 0 to {self.size - 1} "
            "exist there."
        )
        plain = self.index.isidentifier() and self.highest > self.size
        return told + (" Are two indices swapped?" if plain else "")


def _ordinal(number: int) -> str:
    words = ("first", "second", "third", "fourth")
    return words[number - 1] if number <= len(words) else f"{number}th"


_OUTSIDE = re.compile(
    r"access on buffer (\S+) dimension (\d+)\. index (.+) with bounds \[(-?\d+), (-?\d+)\] "
    r"is outside the range \[0, (\d+)\]"
)


def reads_outside(function: Any) -> list[OutsideRead]:
    """Where TVM's analysis finds an index beyond a dimension.

    It is a reason to give for numbers that are wrong, no verdict: the analysis follows a condition
    such as `i > 0`, but not every condition that a right answer may use.
    """
    import tvm
    from tvm import s_tir

    try:
        with _stderr_hidden():
            s_tir.analysis.OOBChecker()(tvm.IRModule({"main": function}))
    except RuntimeError as error:  # a ScheduleError, whose message lists every one
        found = _OUTSIDE.findall(str(error))
        buffers = [*function.params, *function.body.block.alloc_buffers]
        ranks = {buffer.name: len(buffer.shape) for buffer in buffers}
        reads = [
            OutsideRead(
                name,
                int(dimension) + 1 if ranks.get(name) != 1 else 0,
                re.sub(r"\bv_", "", index),
                int(lowest),
                int(highest),
                int(size),
            )
            for name, dimension, index, lowest, highest, size in found
        ]
        return list(dict.fromkeys(reads))
    return []


@contextmanager
def _stderr_hidden() -> Iterator[None]:
    """Send file descriptor 2 nowhere: TVM's printer warns while it makes the error message."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def matmul_reference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A @ B in float64, |A| @ |B|), the product and the magnitude of its terms."""
    wide_a, wide_b = a.astype("float64"), b.astype("float64")
    return wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)
