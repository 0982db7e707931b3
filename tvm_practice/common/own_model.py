"""A learner's own PyTorch model: imported, compiled, exported, and compared with PyTorch.

Whatever fails on the way is told in one sentence that names the part of the model and the operator.
All of it runs in a worker process, which loads the learner's file.
"""

from __future__ import annotations

import copy
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.common import own_function
from tvm_practice.common.own_function import OwnFunction, Refused
from tvm_practice.common.verify import a_or_an

if TYPE_CHECKING:
    import torch
    from tvm import IRModule

# How much further from float64 than PyTorch's own result a result may be: both round, in orders of
# their own.
TIMES_AS_FAR = 32
NEVER_BELOW = 1e-5  # of the largest element


@dataclass(frozen=True)
class Deployed:
    """What became of a model: its class, inputs, operators and kernels, and how far its library's
    results are from those of float64, beside PyTorch's own."""

    name: str
    inputs: tuple[str, ...]
    outputs: int
    operators: int
    kernels: int
    tried: int
    far: float
    torch_far: float


def deploy(given: str, path: Path, seed: int) -> tuple[str, Deployed | None]:
    """In a worker: ("", what became of the model) or (why it could not be taken, None)."""
    try:
        return "", _deploy(given, path, seed)
    except Refused as refused:
        return str(refused), None


def _deploy(given: str, path: Path, seed: int) -> Deployed:
    from tvm import relax, tirx

    from tvm_practice.common.exercise import body
    from tvm_practice.common.stage import short_reason
    from tvm_practice.common.target import cpu_target

    model, inputs = load(own_function.named(given))
    _run(model, inputs)
    program = _exported(model, inputs)
    module = _imported(program)
    try:
        fused = relax.get_pipeline("zero")(module)
        body("deploy.1")(fused, cpu_target(), str(path), "g++")
    except Exception as error:
        raise Refused(
            f"{type(model).__name__} was imported, but TVM cannot compile it: {short_reason(error)}"
        ) from error
    far, torch_far, outputs, tried = _compared(model, inputs, path, seed)
    return Deployed(
        type(model).__name__,
        tuple(f"{_shape(one)} {str(one.dtype).removeprefix('torch.')}" for one in inputs),
        outputs,
        sum(node.op == "call_function" for node in program.graph.nodes),
        sum(isinstance(one, tirx.PrimFunc) for one in fused.functions.values()),
        tried,
        far,
        torch_far,
    )


def load(own: OwnFunction) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The model, in evaluation mode, and the example inputs that a learner's function returns."""
    import torch

    returned = own_function.result_of(own)
    expected = "expected a torch.nn.Module and a tuple of example inputs, which are tensors"
    if not isinstance(returned, tuple) or len(returned) != 2:
        several = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        raise Refused(f"{own} returned {a_or_an(returned)}{several}; {expected}.")
    model, inputs = returned
    if not isinstance(model, torch.nn.Module):
        raise Refused(f"{own} returned {a_or_an(model)} as its model; {expected}.")
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, tuple | list):
        raise Refused(f"{own} returned {a_or_an(inputs)} as example inputs; {expected}.")
    if not inputs:
        raise Refused(f"{own} returned no example inputs; {expected}.")
    for number, one in enumerate(inputs, 1):
        if not isinstance(one, torch.Tensor):
            raise Refused(f"{own} returned {a_or_an(one)} as example input {number}; {expected}.")
    return model.eval(), tuple(inputs)


def _said(error: BaseException) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"\s+", " ", lines[0])[:300] if lines else "no message"
    return f"{type(error).__name__}: {text.rstrip('.')}."


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


# ------------------------------------------------------------------------- PyTorch, and its export


def _run(model: torch.nn.Module, inputs: tuple) -> None:
    """Run the model as it is; raise Refused with the part in which it fails."""
    import torch

    entered: list[str] = []
    removed = []
    for name, part in model.named_modules():
        told = _part(name, type(part).__name__)
        removed.append(part.register_forward_pre_hook(lambda *_, told=told: entered.append(told)))
        removed.append(part.register_forward_hook(lambda *_: entered.pop() and None))
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(map(_shape, inputs))
        where = entered[-1] if entered else _part("", type(model).__name__)
        raise Refused(
            f"With the example inputs ({shapes}) PyTorch itself fails in {where}"
            f"{_operator(error)}: {_said(error)}"
        ) from error
    finally:
        for hook in removed:
            hook.remove()


def _part(name: str, kind: str) -> str:
    return f"`{name}` ({kind})" if name else kind


def _operator(error: BaseException) -> str:
    """The function of torch in which an exception was raised, as " at linear"."""
    lines = [one.line or "" for one in traceback.extract_tb(error.__traceback__)]
    called = re.findall(r"(?:F|torch|functional)\.(\w+)\(", lines[-1]) if lines else []
    return f" at {called[-1]}" if called else f", `{lines[-1]}`" if lines and lines[-1] else ""


def _exported(model: torch.nn.Module, inputs: tuple) -> Any:
    import torch

    try:
        return torch.export.export(model, inputs)
    except Exception as error:
        told = str(error)
        found = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*([^\n]+)', told)
        own = [one for one in found if "/torch/" not in one[0]]
        if own:
            file, number, _, code = own[-1]
            where = f"{Path(file).name}, line {number}, `{code.strip()}`: "
        else:
            where = ""
        raise Refused(
            f"torch.export cannot write down {type(model).__name__} as a graph: {where}"
            f"{_said(error)} A graph is the same for all values of its inputs: no `if` or loop may "
            "depend on them (torch.where and torch.cond may stand in)."
        ) from error


def _imported(program: Any) -> IRModule:
    from tvm.relax.frontend.torch import from_exported_program

    try:
        return from_exported_program(program, unwrap_unit_return_tuple=True)
    except Exception as error:
        told = str(error)
        if unknown := re.search(r"Unsupported function types? \[(.+?)\]", told):
            names = re.findall(r"'([^']+)'", unknown[1])  # a set: in no order
            nodes = program.run_decompositions().graph.nodes  # of which the importer speaks
            first = next((one for one in nodes if _name(one) in names), None)
            raise Refused(
                f"TVM's importer has no operator {_name(first) if first else names[0]}"
                f"{_of(first)}. Write it with other operators, or tell the importer what it is, "
                "with custom_convert_map."
            ) from error
        node = _node_of(error)
        at = f" at {_name(node)}{_of(node)}" if node is not None else ""
        raise Refused(f"TVM's importer fails{at}: {_said(error)}") from error


def _name(node: Any) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _of(node: Any) -> str:
    """The part of the model that a node of the graph comes from, and the line."""
    if node is None:
        return ""
    told = ""
    if stack := list(node.meta.get("nn_module_stack", {}).values()):
        name, kind = stack[-1]
        kind = kind if isinstance(kind, str) else kind.__name__
        name = re.sub(r"^L\['self'\]\.?", "", name)
        told = f", used by {_part(name, kind.rpartition('.')[2])}"
    lines = re.findall(r'File "([^"]+)", line (\d+)[^\n]*\n\s*([^\n]+)', node.stack_trace or "")
    own = [one for one in lines if "/torch/" not in one[0]]
    if own:
        file, number, code = own[-1]
        told += f" in {Path(file).name}, line {number}, `{code.strip()}`"
    return told


def _node_of(error: BaseException) -> Any:
    """The node that the importer was at when it raised."""
    found, step = None, error.__traceback__
    while step is not None:
        node = step.tb_frame.f_locals.get("node")
        found = node if hasattr(node, "stack_trace") else found
        step = step.tb_next
    return found


# --------------------------------------------------------------------------------- the same numbers


def _compared(
    model: torch.nn.Module, inputs: tuple, library: Path, seed: int
) -> tuple[float, float, int, int]:
    """(distance of the library's results from float64, and of PyTorch's, relative to the largest
    element; how many results there are; how many sets of inputs were tried)."""
    import torch
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    tries = [inputs, *(_others(inputs, seed + n) for n in range(2))]
    far = torch_far = 0.0
    results = 0
    for one in tries:
        with torch.no_grad():
            mine = _leaves(model(*one))
            try:
                exact = _leaves(copy.deepcopy(model).double()(*map(_wide, one)))
            except Exception:  # what insists on float32 is its own reference
                exact = mine
        got = machine["main"](*[tvm.runtime.tensor(x.detach().contiguous().numpy()) for x in one])
        got = [got] if hasattr(got, "numpy") else list(got)
        if len(got) != len(mine):
            raise Refused(f"The library returns {len(got)} results, PyTorch {len(mine)}.")
        results = len(got)
        for number, (theirs, ours, want) in enumerate(zip(got, mine, exact, strict=True), 1):
            distance, allowed = _distance(theirs.numpy(), want), _distance(ours, want)
            far, torch_far = max(far, distance), max(torch_far, allowed)
            if not distance <= max(TIMES_AS_FAR * allowed, NEVER_BELOW):
                raise Refused(
                    f"{type(model).__name__} was compiled, but result {number} of {results} "
                    f"differs: by {distance:.1e} of its largest element from float64, PyTorch's "
                    f"own by {allowed:.1e}. The library is not to be used."
                )
    return far, torch_far, results, len(tries)


def _others(inputs: tuple, seed: int) -> tuple:
    """Random inputs like the given ones: numbers from the normal distribution; integers, which may
    be indices, from those that are there."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = []
    for one in inputs:
        if one.is_floating_point():
            made.append(torch.randn(one.shape, generator=generator).to(one.dtype))
        else:
            order = torch.randperm(one.numel(), generator=generator)
            made.append(one.flatten()[order].reshape(one.shape))
    return tuple(made)


def _wide(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor


def _leaves(returned: Any) -> list[np.ndarray]:
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves(returned)
    return [one.detach().numpy() for one in leaves if hasattr(one, "detach")]


def _distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, relative to the largest element."""
    if got.shape != want.shape:
        return float("inf")
    largest = float(np.abs(want).max(initial=0.0)) or 1.0
    return float(np.abs(got.astype("float64") - want).max(initial=0.0)) / largest
