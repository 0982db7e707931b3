"""A Relax function as plain data: what it calls, on what, and what flows between the calls.

The check of a graph pass asks it about structure, the terminal prints it. It pickles, like
`loop_nest.LoopNest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm import ir

OPERATOR, KERNEL, SUBGRAPH = "operator", "kernel", "subgraph"

# The fusion classes, as AnnotateTIROpPattern numbers them (tvm/relax/op_attr_types.h).
CLASSES = {
    0: "elementwise",
    1: "broadcast",
    2: "injective",
    3: "reduction",
    4: "out-fusable",
    7: "tuple",
    8: "opaque",
}


@dataclass(frozen=True)
class Step:
    """One call, numbered: its result is "v1", "v2", and so on.

    kind: OPERATOR (such as nn.conv2d), KERNEL (call_tir of a TensorIR function) or SUBGRAPH (a call
    of another Relax function). inputs: results, names of the module's inputs, and of a constant its
    shape. number: the kernel's fusion class, if it was given one. constant_only: nothing that it
    reads depends on the module's inputs.
    """

    result: str
    kind: str
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    constant_only: bool
    number: int | None = None
    training: bool = False

    @property
    def fusion_class(self) -> str:
        return "-" if self.number is None else CLASSES.get(self.number, str(self.number))


@dataclass(frozen=True)
class Graph:
    """A module's "main": its inputs as (name, shape, dtype), its result (a value's name, shape,
    dtype), its calls in order."""

    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    result: tuple[str, tuple[int, ...], str]
    returns_tuple: bool
    steps: tuple[Step, ...]

    def of_kind(self, kind: str) -> list[Step]:
        return [step for step in self.steps if step.kind == kind]

    def readers(self, result: str) -> list[Step]:
        return [step for step in self.steps if result in step.inputs]

    @property
    def bytes_between(self) -> int:
        """Bytes that calls write for others to read: every result but the last."""
        return sum(step.bytes for step in self.steps if step.result != self.result[0])


def graph(module: ir.IRModule) -> Graph:
    """Read the "main" of a Relax module."""
    return _Reader(module).read()


class _Reader:
    def __init__(self, module: ir.IRModule) -> None:
        self.module = module
        self.names: dict = {}  # a variable -> the name of the value it stands for
        self.constant: set[str] = set()  # names of values that depend on no input

    def read(self) -> Graph:
        from tvm import relax

        main = self.module["main"]
        self.names |= {parameter: parameter.name for parameter in main.params}
        steps = []
        for block in main.body.blocks:
            for binding in block.bindings:
                if isinstance(binding.value, relax.Call):
                    step = self.step(f"v{len(steps) + 1}", binding.value, binding.var.ty)
                    steps.append(step)
                    self.names[binding.var] = step.result
                    if step.constant_only:
                        self.constant.add(step.result)
                else:  # another name for a value, a part of it, or a tuple that starts with it
                    self.names[binding.var] = self.name(binding.value)
        inputs = tuple((parameter.name, *_shape(parameter.ty)) for parameter in main.params)
        result = (self.name(main.body.body), *_shape(main.ret_ty))
        return Graph(inputs, result, hasattr(main.ret_ty, "fields"), tuple(steps))

    def step(self, result: str, call, result_type) -> Step:
        from tvm import ir

        kind, number, arguments = OPERATOR, None, list(call.args)
        if isinstance(call.op, ir.GlobalVar):
            kind, name = SUBGRAPH, call.op.name_hint
        elif call.op.name == "relax.call_tir":
            kind, name = KERNEL, call.args[0].name_hint
            arguments = list(call.args[1].fields)
            attributes = self.module[name].attrs
            if attributes and "op_pattern" in attributes:
                number = int(attributes["op_pattern"])
        else:
            name = call.op.name.removeprefix("relax.")
        inputs = tuple(self.name(argument) for argument in arguments)
        values = [self.name(argument) for argument in arguments if _computed(argument)]
        return Step(
            result,
            kind,
            name,
            inputs,
            *_shape(result_type),
            bytes=_bytes(result_type),
            constant_only=all(value in self.constant for value in values),
            number=number,
            training=bool(getattr(call.attrs, "training", False)),
        )

    def name(self, expression) -> str:
        from tvm import relax

        if isinstance(expression, relax.Var):
            return self.names.get(expression, expression.name)
        if isinstance(expression, relax.TupleGetItem):
            return self.name(expression.tuple_value)
        if isinstance(expression, relax.Tuple):
            return self.name(expression.fields[0]) if len(expression.fields) else "()"
        shape, dtype = _shape(getattr(expression, "ty", None))
        return f"const {' x '.join(map(str, shape)) or 'scalar'}" if dtype else str(expression)


def _computed(expression) -> bool:
    """Whether it is a value, a part or a tuple of some; a constant, a shape or an attribute is
    not."""
    from tvm import relax

    if isinstance(expression, relax.Tuple):
        return any(_computed(field) for field in expression.fields)
    return isinstance(expression, relax.Var | relax.TupleGetItem)


def _shape(type_) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a tensor's type, of a tuple's first field; a symbolic extent is -1; (), ""
    for anything else."""
    if hasattr(type_, "fields"):
        return _shape(type_.fields[0]) if len(type_.fields) else ((), "")
    if getattr(type_, "shape", None) is None or not hasattr(type_, "dtype"):
        return (), ""
    extents = getattr(type_.shape, "values", type_.shape)
    return tuple(int(n) if hasattr(n, "value") else -1 for n in extents), str(type_.dtype)


def _bytes(type_) -> int:
    import numpy as np

    if hasattr(type_, "fields"):
        return sum(map(_bytes, type_.fields))
    shape, dtype = _shape(type_)
    return prod(shape) * np.dtype(dtype).itemsize if dtype else 0
