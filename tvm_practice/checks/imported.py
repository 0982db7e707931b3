"""What the checks of modules that come from PyTorch have in common: what the model computes, and
whether the module has the form and the structure that were asked for."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.common.graph import KERNEL, OPERATOR, SUBGRAPH, Graph
from tvm_practice.common.target import cpu_target
from tvm_practice.common.verify import Wrong, a_or_an

if TYPE_CHECKING:
    import torch
    from tvm import IRModule


def expected(model: torch.nn.Module, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(the model's result in float64, the magnitude of its terms, how many roundings in a row reach
    it).

    The weights are of either sign, so partial sums grow like the root of the sum of squares, layer
    after layer. That is the magnitude here: the model once more, with every parameter and every
    input squared.
    """
    import torch
    from torch import nn

    wide = copy.deepcopy(model).double().eval()
    squares = copy.deepcopy(wide)
    roundings = int(np.prod(batch.shape[2:]))  # the CNN's mean; at most
    for layer in squares.modules():
        if isinstance(layer, nn.BatchNorm2d):
            scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
            layer.bias.data = layer.bias**2 + (layer.running_mean * scale) ** 2
            layer.weight.data = scale**2
            layer.running_mean.zero_()
            layer.running_var.fill_(1 - layer.eps)
            roundings += 4
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            for parameter in layer.parameters():
                parameter.data = parameter**2
            roundings += layer.weight[0].numel() + 1
    x = torch.from_numpy(batch).double()
    with torch.no_grad():
        return wide(x).numpy(), torch.sqrt(squares(x**2)).numpy(), roundings


def run(module: IRModule, *batches: np.ndarray) -> list[np.ndarray]:
    """The results of a module's "main" on a virtual machine, one for each batch."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.compile(module, target=cpu_target()), tvm.cpu())
    return [machine["main"](tvm.runtime.tensor(batch)).numpy() for batch in batches]


def module_of(returned: Any, call: str) -> IRModule:
    """What a body returned, if it is a Relax module with a function "main"; else raise Wrong."""
    from tvm import IRModule

    if not isinstance(returned, IRModule):
        raise Wrong(f"{call} returned {a_or_an(returned)}; expected a Relax module (an IRModule).")
    if "main" not in [variable.name_hint for variable in returned.get_global_vars()]:
        raise Wrong(f'{call} returned a module without a function "main".')
    return returned


def says(error: Exception) -> str:
    """The last line of an error, with its type."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"


def check_interface(read: Graph, call: str, shape: tuple[int, ...]) -> None:
    """Raise Wrong unless "main" takes one float32 tensor of this shape and returns another."""
    if len(read.inputs) > 1:
        others = ", ".join(name for name, _, _ in read.inputs[1:3])
        raise Wrong(
            f'{call}: "main" takes {len(read.inputs)} inputs ({read.inputs[0][0]}, {others}, '
            "...); expected one. The parameters were kept as inputs; as constants they can be "
            "folded."
        )
    if read.returns_tuple:
        raise Wrong(
            f'{call}: "main" returns a tuple of one; expected the tensor in it '
            "(unwrap_unit_return_tuple)."
        )
    (_, got, dtype), (_, _, result_dtype) = read.inputs[0], read.result
    if dtype != "float32" or result_dtype != "float32":
        raise Wrong(
            f'{call}: "main" takes {dtype} and returns {result_dtype}; expected float32, which '
            "the model and the example have."
        )
    if -1 in got:
        raise Wrong(
            f'{call}: "main" takes a shape with an open extent; expected {shape}, the shape of '
            "the example."
        )
    if got != shape:
        raise Wrong(
            f'{call}: "main" takes {got}; expected {shape}, the shape of the example that was '
            "given."
        )


def check_mode(read: Graph, call: str) -> None:
    """Raise Wrong if a batch norm was exported in training mode."""
    training = sum(step.training for step in read.steps)
    if training:
        raise Wrong(
            f"{call}: {training} batch norms are in training mode; they would normalize by the "
            "statistics of whatever batch comes. Export the model in evaluation mode."
        )


def check_structure(read: Graph, reference: Graph, ran: list[str], call: str) -> None:
    """Raise Wrong with the first thing that is left undone. The numbers are right at this point."""
    so_far = f"{call} computes the right numbers, but"
    kernels = read.of_kind(KERNEL)
    if operators := read.of_kind(OPERATOR):
        names = ", ".join(dict.fromkeys(step.name for step in operators))
        raise Wrong(
            f"{so_far} {len(operators)} operators are no kernels yet ({names}). Passes that look "
            "for kernels have found none: LegalizeOps makes them, and has to come before those."
        )
    if subgraphs := read.of_kind(SUBGRAPH):
        early = "FuseTIR" in ran
        raise Wrong(
            f"{so_far} {len(subgraphs)} groups ({subgraphs[0].name}, ...) are still Relax "
            "functions of several kernels each. "
            + (
                "FuseTIR ran when there was no group yet: it comes after FuseOps."
                if early
                else "FuseTIR makes one kernel of each group."
            )
        )
    if norms := [step for step in kernels if "batch_norm" in step.name]:
        late = "FoldBatchnormToConv2D" in ran
        raise Wrong(
            f"{so_far} {len(norms)} kernels still compute a batch norm ({norms[0].name}, ...). "
            + (
                "FoldBatchnormToConv2D looks for the operators conv2d and batch_norm, and when it "
                "ran they were kernels already."
                if late
                else "In evaluation mode it is a scale and a shift by constants: "
                "FoldBatchnormToConv2D puts the scale into the weights."
            )
        )
    if constant := [step for step in kernels if step.constant_only]:
        names = ", ".join(step.name for step in constant[:3])
        raise Wrong(
            f"{so_far} {len(constant)} of its {len(kernels)} kernels read nothing but constants "
            f"({names}), and would run at every call. FoldConstant computes what depends on "
            "constants alone when it runs; behind the pass that has added these, it runs them "
            "once, now."
        )
    if len(kernels) > len(reference.steps):
        raise Wrong(
            f"{so_far} runs {len(kernels)} kernels where {len(reference.steps)} are enough"
            + _unfused(read)
            + ". "
            + _why_not_fused(ran)
        )


def _unfused(read: Graph) -> str:
    for step in read.of_kind(KERNEL):
        readers = read.readers(step.result)
        if len(readers) == 1:
            return f": {step.name} writes {step.bytes:,} bytes which only {readers[0].name} reads"
    return ""


def _why_not_fused(ran: list[str]) -> str:
    if "FuseOps" not in ran:
        return "Nothing has grouped them: that is what FuseOps does."
    if "AnnotateTIROpPattern" not in ran:
        return (
            "FuseOps ran, but did not know the class of any kernel: AnnotateTIROpPattern notes it."
        )
    if ran.index("AnnotateTIROpPattern") > ran.index("FuseOps"):
        return (
            "FuseOps ran before AnnotateTIROpPattern, so it did not know the class of any kernel."
        )
    if "LegalizeOps" in ran and ran.index("AnnotateTIROpPattern") < ran.index("LegalizeOps"):
        return "AnnotateTIROpPattern ran before LegalizeOps, when there was no kernel to annotate."
    return "The passes ran as " + ", ".join(ran) + "."
