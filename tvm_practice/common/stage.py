"""A function of any operator, run: random inputs by the shapes of its buffers, its result verified
against another form of the same function, and ready to be timed.

Everything here needs TVM and runs in a worker process. Programs come as TVM's JSON.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import verify
from tvm_practice.common.loop_nest import loop_nest
from tvm_practice.common.replay import main_of
from tvm_practice.common.timing import Runnable, in_huge_pages

WANTED = "wanted.npz"
SMALL_INTEGERS = 100  # an integer may be an index; one that is small is inside of most things


class CannotRun(Exception):
    """A function cannot be called with arrays; the message is one sentence that says why."""


@dataclass(frozen=True)
class Parameter:
    name: str
    shape: tuple[int, ...]
    dtype: str
    written: bool

    @property
    def text(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.shape))}] {self.dtype}"


@dataclass(frozen=True)
class Facts:
    """What a call does: its parameters, operations, compulsory traffic in bytes, and how many
    roundings can reach an element of its result. positive: the inputs are all above 0, because the
    function is not finite for others."""

    parameters: tuple[Parameter, ...]
    flops: float
    bytes: float
    bytes_written: float
    terms: int
    positive: bool = False


def parameters(function: Any) -> tuple[Parameter, ...]:
    nest = loop_nest(function)
    stored = {block.stores_to for block in nest.blocks}
    found = []
    for parameter in function.params:
        shape = getattr(parameter, "shape", None)
        if shape is None:
            raise CannotRun(f"its parameter {parameter.name} is no array.")
        if not all(hasattr(side, "value") for side in shape):
            raise CannotRun(f"the shape of {parameter.name} is only known when it runs.")
        name, dtype = str(parameter.name), str(parameter.dtype)
        try:
            np.dtype(dtype)
        except TypeError:
            raise CannotRun(f"NumPy has no arrays of {dtype}, which {name} is.") from None
        found.append(Parameter(name, tuple(map(int, shape)), dtype, name in stored))
    if not any(one.written for one in found):
        raise CannotRun("it writes none of its parameters.")
    return tuple(found)


def prepare(unscheduled: str, seed: int, folder: Path) -> Facts:
    """Run the unscheduled program once, keep its result in `folder`, and say what a call does."""
    import tvm
    from tvm import s_tir

    module = tvm.ir.load_json(unscheduled)
    function = main_of(module)
    known = parameters(function)
    sizes = [math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in known]
    nest = loop_nest(function)
    summed = [
        math.prod(
            loop.extent for loop, axis in zip(block.loops, block.axes, strict=True) if axis == "R"
        )
        for block in nest.blocks
    ]
    facts = Facts(
        known,
        float(s_tir.analysis.estimate_tir_flops(tvm.IRModule({"main": function}))),
        float(sum(sizes)),
        float(sum(size for one, size in zip(known, sizes, strict=True) if one.written)),
        sum(summed) + 4 * len(summed),
    )
    compiled = compile_(unscheduled)
    for positive in (False, True):
        facts = Facts(**{**vars(facts), "positive": positive})
        results = run(compiled, facts, seed)
        if all(np.isfinite(one).all() for one in results):
            np.savez(folder / WANTED, *results)
            return facts
    raise CannotRun(
        "its result is not finite for random inputs, or depends on what its output held before."
    )


def compile_(module: str) -> Any:
    import tvm

    from tvm_practice.common.target import build

    function = main_of(tvm.ir.load_json(module))
    return build(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))


def inputs(facts: Facts, seed: int) -> list[np.ndarray]:
    """Random arrays for what is only read: of both signs where the function allows it."""
    rng = np.random.default_rng(seed)
    shortest = min((min(one.shape) for one in facts.parameters if one.shape), default=1)
    made = []
    for one in facts.parameters:
        if one.written:
            continue
        kind = np.dtype(one.dtype)
        if kind.kind == "f":
            values = rng.standard_normal(one.shape)
            made.append((np.abs(values) + 0.5 if facts.positive else values).astype(kind))
        elif kind.itemsize == 1 and kind.kind in "iu":
            limits = np.iinfo(kind)
            made.append(rng.integers(limits.min, limits.max + 1, one.shape).astype(kind))
        else:
            most = 2 if kind.kind == "b" else max(1, min(SMALL_INTEGERS, shortest))
            made.append(rng.integers(0, most, one.shape).astype(kind))
    return made


def run(compiled: Any, facts: Facts, seed: int) -> list[np.ndarray]:
    """The outputs of one call, between guard zones where they are floating-point numbers."""
    import tvm

    read = [n for n, one in enumerate(facts.parameters) if not one.written]
    written = [n for n, one in enumerate(facts.parameters) if one.written]
    place = {number: n for n, number in enumerate([*read, *written])}

    def call(*tensors: Any) -> None:
        compiled(*[tensors[place[n]] for n in range(len(facts.parameters))])

    outputs = [(facts.parameters[n].shape, facts.parameters[n].dtype) for n in written]
    if all(np.dtype(dtype).kind == "f" for _, dtype in outputs):
        return verify.run_all(call, inputs(facts, seed), outputs)
    arrays = [*inputs(facts, seed), *(np.ones(shape, dtype) for shape, dtype in outputs)]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    call(*tensors)
    return [tensor.numpy() for tensor in tensors[len(read) :]]


def compare(results: list[np.ndarray], facts: Facts, folder: Path) -> None:
    """Raise verify.Wrong unless these are the results of the unscheduled program.

    What the terms of an element were is not known here, so the largest element stands for them; and
    both results are rounded.
    """
    names = [one.name for one in facts.parameters if one.written]
    with np.load(folder / WANTED) as kept:
        wanted = [kept[name] for name in kept.files]
    for got, want, name in zip(results, wanted, names, strict=True):
        if got.dtype.kind != "f":
            if not np.array_equal(got, want):
                count, where = int((got != want).sum()), tuple(np.argwhere(got != want)[0])
                raise verify.Wrong(
                    f"{count} of {got.size} elements of {name} are wrong; the first is "
                    f"{name}[{', '.join(map(str, where))}] = {got[where]}, expected {want[where]}."
                )
            continue
        magnitude = np.full(want.shape, 2 * np.abs(want).max(initial=0.0), "float64")
        verify.assert_close(got, want.astype("float64"), magnitude, facts.terms, name)


def check_same_parameters(module: str, facts: Facts) -> None:
    """Raise verify.Wrong where a schedule changed what callers must pass."""
    import tvm

    for now, first in zip(
        parameters(main_of(tvm.ir.load_json(module))), facts.parameters, strict=True
    ):
        if (now.shape, now.dtype) != (first.shape, first.dtype):
            raise verify.Wrong(f"callers must now pass {now.text} instead of {first.text}.")


def judge(
    connection: Connection, modules: dict[int, str], facts: Facts, seed: int, folder: Path
) -> None:
    """For each program send ("compiled", reason) and, unless it has a reason, ("verified", reason);
    a reason is "" where all is well."""
    for module in modules.values():
        try:
            compiled = compile_(module)
        except Exception as error:
            connection.send(("returned", ("compiled", short_reason(error))))
            continue
        connection.send(("returned", ("compiled", "")))
        reason = ""
        try:
            check_same_parameters(module, facts)
            compare(run(compiled, facts, seed), facts, folder)
        except verify.Wrong as wrong:
            reason = str(wrong)
        except Exception as error:
            reason = short_reason(error)
        connection.send(("returned", ("verified", reason)))


def make_stage(module: str, facts: Facts, seed: int, folder: Path) -> Runnable:
    """The program as a competitor, verified first."""
    compiled = compile_(module)
    compare(run(compiled, facts, seed), facts, folder)
    read = iter(inputs(facts, seed))
    tensors = [
        in_huge_pages(np.zeros(one.shape, one.dtype) if one.written else next(read))
        for one in facts.parameters
    ]
    return Runnable(lambda: compiled(*tensors), facts.flops, facts.bytes, True, facts.bytes_written)


def short_reason(error: Exception) -> str:
    """What an exception of TVM's compiler says, in one line, without the trace and the program."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [
        line
        for line in lines
        if line and not re.match(r"(Traceback|File |\d+: |at |Stack trace|\[\d+:\d+:\d+\])", line)
    ]
    text = re.sub(r"^(?:Internal|TVM)?Error: ", "", told[-1] if told else "no message")
    text = re.sub(r"^Check failed: .*? (?:is false)?: ", "", text)
    return f"{type(error).__name__}: {text[:200]}{' ...' if len(text) > 200 else ''}"
