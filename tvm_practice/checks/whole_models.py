"""What "done" means in the lab on whole models.

The checks take small models of the same kind: what is to be written does not know the size, and a
check should not take a minute.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from tvm_practice.checks import Trial, check
from tvm_practice.checks.imported import (
    check_interface,
    check_mode,
    check_structure,
    expected,
    module_of,
    run,
    says,
)
from tvm_practice.common import verify
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.graph import Graph, graph
from tvm_practice.common.verify import Wrong, a_or_an

PICTURES = (2, 3, 24, 16)


# ----------------------------------------------------------------------------------------------- 1


@check(
    "whole_models.1",
    hints=(
        "Write the batch norm as y * scale + shift, with one scale and one shift for a channel.",
        (
            "scale = gamma / sqrt(variance + epsilon). The scale belongs to the output channels, "
            "the first dimension of the weight; `scale[:, None, None, None]` has its shape."
        ),
        "`return weight * scale[:, None, None, None], beta - mean * scale`",
    ),
    told={
        "input channels|could not be broadcast": (
            "NumPy lines up shapes from the last dimension. How many have to follow that of the "
            "scale, so that it meets the first of the weight's four?"
        ),
        "epsilon (is left out|was added)|instead of its square root": (
            "Read the denominator in the comment from the inside: what is added to what first, "
            "and what is then done to the sum?"
        ),
        "the bias is not": (
            "Where the convolution gives 0, the bias alone is the result. Put y = 0 into the "
            "formula in the comment: which two terms stay?"
        ),
        "changed one of its arguments": (
            "`a *= b` writes into a, `a * b` makes an array of its own. Which of your lines writes?"
        ),
    },
)
def fold_batch_norm(body: Callable, trial: Trial) -> None:
    rng = trial.rng
    # As many channels out as in, so that a scale of the wrong dimension fits; and not as many.
    for outputs, inputs in ((5, 5), (4, 3)):
        weight = verify.random_array(rng, outputs, inputs, 3, 2)
        gamma, beta, mean = (verify.random_array(rng, outputs) for _ in range(3))
        variance = (0.3 + rng.random(outputs)).astype("float32")
        given = (weight, gamma, beta, mean, variance)
        copies = [one.copy() for one in given]
        epsilon = 0.25  # so large that its place matters
        call = f"fold_batch_norm(a weight of {weight.shape}, ..., epsilon={epsilon})"
        returned = trial.call(body, *copies, epsilon)
        if any(not np.array_equal(*pair) for pair in zip(given, copies, strict=True)):
            raise Wrong(f"{call} changed one of its arguments; they are only to be read.")
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise Wrong(f"{call} returned {a_or_an(returned)}; expected a pair (weight, bias).")
        got = _array(returned[0], weight.shape, f"{call}: the weight")
        bias = _array(returned[1], (outputs,), f"{call}: the bias")
        _check_folded(got, bias, given, epsilon, call)


def _array(returned: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    try:
        array = np.asarray(returned)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "fiu":
        raise Wrong(f"{what} is {a_or_an(returned)}; expected an array of numbers, {shape}.")
    if array.shape != shape:
        raise Wrong(f"{what} has shape {array.shape}; expected {shape}.")
    return array


def _check_folded(got, bias, given, epsilon: float, call: str) -> None:
    weight, gamma, beta, mean, variance = (one.astype("float64") for one in given)
    scale = gamma / np.sqrt(variance + epsilon)
    others = {
        "epsilon is left out": gamma / np.sqrt(variance),
        "epsilon was added to the square root; it belongs under it": gamma
        / (np.sqrt(variance) + epsilon),
        "it was divided by the variance instead of its square root": gamma / (variance + epsilon),
    }

    def close(one: np.ndarray, other: np.ndarray) -> bool:
        return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-4, atol=1e-5))

    if not close(got, weight * scale[:, None, None, None]):
        why = "each output channel is to be multiplied by gamma / sqrt(variance + epsilon)"
        if weight.shape[0] == weight.shape[1] and close(got, weight * scale[None, :, None, None]):
            why = (
                "the scale was applied to the input channels, the second dimension; a batch norm "
                "knows the output channels"
            )
        elif close(got, weight):
            why = "the weight is as it was given"
        for reason, wrong in others.items():
            if close(got, weight * wrong[:, None, None, None]):
                why = reason
        raise Wrong(f"{call}: the weight is not right: {why}.")
    if not close(bias, beta - mean * scale):
        why = "expected beta - mean * scale, what the batch norm makes of a result of 0"
        if close(bias, beta):
            why = "it is beta alone, but the mean is subtracted before the scale: it is scaled too"
        elif close(bias, beta - mean):
            why = "the mean was subtracted unscaled"
        elif close(bias, beta + mean * scale):
            why = "the mean was added instead of subtracted"
        raise Wrong(f"{call}: the weight is right, the bias is not: {why}.")


# ----------------------------------------------------------------------------------------------- 2

_LAYOUT = "ConvertLayout"


@contextmanager
def _guarded() -> Iterator[Any]:
    """A pass instrument that notes which passes run, and leaves ConvertLayout out where it would
    crash the process. It goes into every PassContext: one of the answer's own would hide it."""
    import tvm

    @tvm.instrument.pass_instrument
    class Guard:
        def __init__(self) -> None:
            self.names: list[str] = []
            self.refused = 0

        def should_run(self, module: Any, information: Any) -> bool:
            if information.name == _LAYOUT:
                constant = sum(
                    step.constant_only and step.name not in ("permute_dims", "zeros_like")
                    for step in graph(module).steps
                )
                self.refused = max(self.refused, constant)
                return not constant
            return True

        def run_after_pass(self, _: Any, information: Any) -> None:
            self.names.append(information.name)

    guard = Guard()
    made = tvm.transform.PassContext.__init__

    def make(
        self, opt_level=2, required_pass=None, disabled_pass=None, instruments=None, config=None
    ):
        every = [*(instruments or ()), guard]
        made(self, opt_level, required_pass, disabled_pass, every, config)

    with (
        patch.object(tvm.transform.PassContext, "__init__", make),
        tvm.transform.PassContext(),
    ):
        yield guard


@check(
    "whole_models.2",
    hints=(
        (
            "Start from your 4.2. ConvertLayout looks for operators, so it has to run before "
            "LegalizeOps, and FoldConstant runs twice."
        ),
        (
            "FoldBatchnormToConv2D, then FoldConstant for what that leaves, then ConvertLayout. "
            "What follows is 4.2's, its FoldConstant included: it transposes the weights."
        ),
        (
            "FoldBatchnormToConv2D, FoldConstant, ConvertLayout({...}), LegalizeOps, FoldConstant, "
            "AnnotateTIROpPattern, FuseOps, FuseTIR"
        ),
    ),
    told={
        "crashes on them|ran before FoldBatchnorm|ran after LegalizeOps": (
            "Write down for each pass what it looks for and what it leaves. ConvertLayout needs "
            "operators, no batch norm, and no arithmetic on constants: behind which of your lines "
            "is it so?"
        ),
        "has not run": (
            "It is a pass of `transform` like the others; the comment has its argument. It looks "
            "for conv2d: which of your passes takes these away?"
        ),
        "read nothing but constants": (
            "FoldConstant computes what depends on constants alone when it runs. Which pass has "
            "added these, and does a FoldConstant follow it?"
        ),
        "a weight is a const": (
            "The argument has two layouts for conv2d, of the data and of the weights. What does "
            "each letter of the second stand for?"
        ),
        "are enough": (
            "One pass notes each kernel's class, one groups kernels by their classes, one makes a "
            "kernel of each group. Which of the three is missing, or too early?"
        ),
        "pipeline itself|as it was given": (
            "A pipeline is called with a module and returns a new one. What becomes of that in "
            "your answer?"
        ),
    },
)
def optimize(body: Callable, trial: Trial) -> None:
    import torch
    import tvm
    import tvm_ffi

    from tvm_practice.labs.models import ResNet, with_parameters

    model = with_parameters(ResNet((8,), classes=5), int(trial.rng.integers(1 << 31)))
    module = body_of("4.1")(model, torch.zeros(PICTURES))
    before = tvm_ffi.structural_hash(module)
    call = "optimize(a small ResNet)"
    with _guarded() as guard:
        returned = trial.call(body, module)
    if guard.refused:
        raise Wrong(
            f"{call}: ConvertLayout ran while {guard.refused} operators on constants stood in the "
            "graph, what is left of the batch norms. TVM 0.27 crashes on them (here the pass was "
            "left out). FoldConstant computes them away: run it before."
        )
    if isinstance(returned, tvm.transform.Pass):
        raise Wrong(f"{call} returned the pipeline itself; call it with the module.")
    result = module_of(returned, call)
    if tvm_ffi.structural_hash(module) != before:
        raise Wrong(f"{call} changed the module it was given; it is to return a new one.")
    if tvm_ffi.structural_hash(result) == before:
        raise Wrong(f"{call} returned the module as it was given.")
    batch = verify.random_array(trial.rng, *PICTURES)
    try:
        (got,) = run(result, batch)
    except Exception as error:
        raise Wrong(f"What {call} returned cannot be compiled and run: {says(error)}") from None
    want, magnitude, terms = expected(model, batch)
    verify.assert_close(got, want, magnitude, terms, "the ResNet's result", ())
    reference = graph(body_of("whole_models.2")(module))
    read = graph(result)
    _check_norms(read, guard.names, call)
    _check_layout(read, reference, guard.names, call)
    check_structure(read, reference, guard.names, call)


def _check_norms(read: Graph, ran: list[str], call: str) -> None:
    norms = [step for step in read.steps if "batch_norm" in step.name]
    fold = "FoldBatchnormToConv2D"
    if norms and {fold, _LAYOUT} <= set(ran) and ran.index(_LAYOUT) < ran.index(fold):
        raise Wrong(
            f"{call} computes the right numbers, but {len(norms)} kernels still compute a batch "
            "norm: ConvertLayout ran before FoldBatchnormToConv2D, which then finds no conv2d in "
            "NCHW in front of a batch norm."
        )


def _check_layout(read: Graph, reference: Graph, ran: list[str], call: str) -> None:
    """Raise Wrong where a convolution or its weight has another layout than the reference's."""

    def convolutions(one: Graph) -> list:
        return [step for step in one.steps if "conv2d" in step.name]

    def weights(one: Graph) -> set[str]:
        inputs = {name for step in convolutions(one) for name in step.inputs}
        return {name for name in inputs if name.startswith("const") and name.count(" x ") == 3}

    known = {step.shape for step in convolutions(reference)}
    odd = [step.shape for step in convolutions(read) if step.shape not in known]
    if odd and _LAYOUT not in ran:
        raise Wrong(
            f"{call} computes the right numbers, but every convolution is in NCHW: ConvertLayout "
            "has not run."
        )
    if any(step.constant_only for step in read.steps):
        return  # weights that are transposed at every call are told of as such
    if odd:
        late = ran.index("LegalizeOps") < ran.index(_LAYOUT) if "LegalizeOps" in ran else False
        raise Wrong(
            f"{call} computes the right numbers, but a convolution makes {odd[0]}; in NHWC the "
            "channels are last. "
            + (
                "ConvertLayout ran after LegalizeOps, when there was no operator conv2d left."
                if late
                else 'Its argument is {"relax.nn.conv2d": ["NHWC", "HWIO"]}.'
            )
        )
    if odd := weights(read) - weights(reference):
        raise Wrong(
            f"{call} computes the right numbers, but a weight is a {min(odd)}; as HWIO, height and "
            "width come first and the output channels last."
        )


# ----------------------------------------------------------------------------------------------- 3


@check(
    "whole_models.3",
    hints=(
        "import_as_it_is, with one more argument for export.",
        (
            "`dynamic_shapes` is a tuple with an entry for each argument of the model; an entry "
            "maps a dimension's number to a `Dim`, which has a name, a min and a max."
        ),
        '`export(model.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1, max=most)},))`',
    ),
    told={
        "and no other": (
            "export fixes each extent of the example, unless `dynamic_shapes` says otherwise: what "
            "does it map, for which of the model's arguments?"
        ),
        "how large a batch|largest batch": (
            "A Dim has a name and two bounds, min and max. Which numbers are they here, and which "
            "of them were you given?"
        ),
        "smallest batch": (
            "Which min has your Dim? Of a min of 1, PyTorch makes 2 in Dim.DYNAMIC and Dim.AUTO; "
            'a Dim with a name, `Dim("batch", ...)`, keeps it.'
        ),
        "has one row": (
            "import_as_it_is exports with the example as it was given. What does your answer "
            "export with, and what does the comment say of 1?"
        ),
        "more than the batch": (
            "An entry names each dimension that is open; what it does not name is fixed. Which "
            "numbers does yours name?"
        ),
        "an entry for each argument": (
            "The model has one argument. What is a tuple with one element written like, and where "
            "in the comment's example does it end?"
        ),
        "Only dimension 0": (
            "Dimensions are counted from 0, and a dictionary names those that are open. Which key "
            "does yours have?"
        ),
        "kept as inputs|tuple of one": (
            "import_as_it_is calls from_exported_program with two options. Which of them differ in "
            "your call?"
        ),
        "training mode": (
            "A model keeps its mode until it is told another one. What does import_as_it_is call "
            "before it exports?"
        ),
    },
)
def import_any_batch(body: Callable, trial: Trial) -> None:
    import torch

    from tvm_practice.labs.models import Blocks, ResNet, with_parameters

    for make, shape, most in (
        (lambda: Blocks(layers=1, width=16, length=6, heads=2), (3, 6, 16), 7),
        (lambda: ResNet((4,), classes=3), (2, 3, 20, 12), 5),
    ):
        model = with_parameters(make(), int(trial.rng.integers(1 << 31))).train()
        example = torch.from_numpy(verify.random_array(trial.rng, *shape))
        name = type(model).__name__
        call = f"import_any_batch({name}, a batch of {shape}, most={most})"
        parameters = copy.deepcopy(model.state_dict())
        try:
            returned = trial.call(body, model, example, most)
        except Wrong as error:
            raise (_refused_by_export(str(error), name) or error) from None
        module = module_of(returned, call)
        _check_open(module, graph(module), shape, most, call)
        if any(not torch.equal(parameters[key], now) for key, now in model.state_dict().items()):
            raise Wrong(f"{call} changed the parameters of the model it was given.")
        batches = [verify.random_array(trial.rng, n, *shape[1:]) for n in (1, most - 1, most)]
        try:
            results = run(module, *batches)
        except Exception as error:
            raise Wrong(f"What {call} returned does not run: {says(error)}") from None
        for batch, got in zip(batches, results, strict=True):
            with torch.inference_mode():
                want = copy.deepcopy(model).double().eval()(torch.from_numpy(batch).double())
            worst = float(np.abs(got - want.numpy()).max()) if got.shape == want.shape else np.inf
            if not worst < 1e-3 * max(1.0, float(want.abs().max())):
                raise Wrong(
                    f"{call}: for a batch of {len(batch)} the result is off by {worst:.2g}; "
                    f"expected what {name} itself computes in evaluation mode."
                )


def _refused_by_export(said: str, name: str) -> Wrong | None:
    """What it means that PyTorch cannot export the model with these dynamic_shapes."""
    at, _, _ = said.partition("UserError")
    if "its top-level keys must be" in said:
        return Wrong(
            f"{at}PyTorch refuses: dynamic_shapes has an entry for each argument of the model, and "
            "the entry of the first says which of its dimensions are open."
        )
    found = re.search(r"specialized it to be a constant \((\d+)\)", said)
    if found is None:
        return None
    if found[1] == "1":
        return Wrong(
            f"{at}PyTorch refuses: the batch that the model was exported with has one row. An "
            "extent of 1 broadcasts, so what works for it need not work for others."
        )
    return Wrong(
        f"{at}PyTorch refuses: with what was left open, {name} works for {found[1]} alone. Only "
        "dimension 0 varies, the batch."
    )


def _check_open(module, read: Graph, shape: tuple[int, ...], most: int, call: str) -> None:
    _, got, _ = read.inputs[0]
    if got[:1] != (-1,) and len(read.inputs) == 1:
        raise Wrong(
            f'{call}: "main" takes batches of {got[0]} and no other. Leave dimension 0 open, by '
            "dynamic_shapes."
        )
    if -1 in got[1:]:
        raise Wrong(f"{call}: more than the batch was left open: {got}, -1 for what is open.")
    closed = replace(read, inputs=((read.inputs[0][0], shape, read.inputs[0][2]), *read.inputs[1:]))
    check_interface(closed, call, shape)
    check_mode(read, call)
    attributes = dict(module["main"].attrs or {})
    lower = [int(n) for n in dict(attributes.get("tir_var_lower_bound", {})).values()]
    upper = [int(n) for n in dict(attributes.get("tir_var_upper_bound", {})).values()]
    if not upper:
        raise Wrong(
            f"{call}: the module does not say how large a batch may be; memory is planned for "
            f"that. The Dim has max={most}."
        )
    if upper != [most]:
        raise Wrong(f"{call}: the largest batch is {upper[0]}; expected {most}, as was asked.")
    if lower and lower[0] > 1:
        raise Wrong(f"{call}: the smallest batch is {lower[0]}; a batch of 1 is a batch, too.")


# ----------------------------------------------------------------------------------------------- 4


@check(
    "whole_models.4",
    hints=(
        "A function like hypot, and a dictionary with one entry for it.",
        (
            "The key is the name that the importer's message has, with its overload. The value of "
            "the argument is `importer.env[node.args[0]]`."
        ),
        (
            '`one_less = relax.op.subtract(relax.const(1.0, "float32"), relax.op.erf(x))`, then '
            'return `importer.block_builder.emit(one_less)`; the table is {"erfc.default": ...}'
        ),
    ),
    told={
        "It computes": (
            "erfc is 1 at 0, and nearly 0 at 3, where erf is nearly 1. What does your function "
            "give at these two?"
        ),
        "returned nothing": (
            "hypot ends with a `return`. What does the block builder give back that is to be "
            "returned?"
        ),
        "required positional argument|positional arguments? but": (
            "The importer calls the function with two values. Which two does hypot take?"
        ),
        "has no attribute 'emit'": (
            "The importer emits nothing itself. Which of its parts does hypot ask to emit?"
        ),
        "float64": (
            "The layer computes in float32, and Relax converts nothing by itself. What is the "
            "second argument of relax.const?"
        ),
        "A node is a place": "hypot has this line for both of its arguments. What does it look up?",
        "expected a dictionary|maps a name to a function": (
            "The importer looks an operator's name up, and calls what it finds with the node and "
            "itself. What is the name here, and what is to be called?"
        ),
    },
)
def converters(body: Callable, trial: Trial) -> None:
    import torch
    from tvm.relax.frontend.torch import from_exported_program

    lesson = load_lesson("whole_models")
    table = trial.call(body)
    if not isinstance(table, dict):
        raise Wrong(f"converters() returned {a_or_an(table)}; expected a dictionary.")
    if not table or not all(callable(one) for one in table.values()):
        raise Wrong("converters(): each entry maps a name to a function; one does not.")
    if "erfc.default" not in table:
        raise Wrong(
            f"converters() has an entry for {', '.join(map(repr, table))}, and the importer still "
            "says: Unsupported function types ['erfc.default']. The key is that name, with its "
            "overload."
        )
    shape = (3, 17)
    program = torch.export.export(lesson.ExactGELU().eval(), (torch.zeros(shape),))

    call = "The model imported with converters()"
    try:
        module = from_exported_program(
            program,
            unwrap_unit_return_tuple=True,
            custom_convert_map={name: _told_of(name, one, trial) for name, one in table.items()},
        )
        read = graph(module)
    except Wrong as error:
        if "ffi.OpaquePyObject" in str(error):  # all that TVM sees of PyTorch's node
            raise Wrong(
                f"{error} A node is a place in PyTorch's graph; its value in Relax is "
                "importer.env[node.args[0]]."
            ) from None
        raise
    except Exception as error:
        raise Wrong(
            f"The importer cannot go on with what converters() made of erfc: {says(error)}"
        ) from None
    batch = verify.random_array(trial.rng, *shape) * 3
    try:
        (got,) = run(module, batch)
    except Exception as error:
        raise Wrong(f"{call} does not run: {says(error)}") from None
    x = batch.astype("float64")
    erfc = torch.erfc(torch.from_numpy(-x * 0.5**0.5)).numpy()
    want = x * 0.5 * erfc
    if not any(step.name == "erf" for step in read.steps) and np.abs(got - want).max() > 1e-4:
        raise Wrong(f"{call} is wrong by {np.abs(got - want).max():.2g}, and never calls erf.")
    others = [
        (x * 0.5 * (1 - erfc), "It computes erf, not 1 - erf."),
        (x * 0.5 * (erfc - 2) * -1, "It computes 1 + erf; the complement is 1 - erf."),
        (x * 0.5 * -erfc, "It computes erf - 1, the negative."),
    ]
    verify.assert_close(got, want, np.abs(x) + 1.0, 8, "the layer's result", others)


def _told_of(name: str, convert: Callable, trial: Trial) -> Callable:
    """The converter; what it raises, or fails to return, is told of its own lines."""
    from tvm import relax

    @functools.wraps(convert)
    def called(node: Any, importer: Any) -> Any:
        known = hasattr(convert, "__code__")  # a partial, say, has no lines of its own
        returned = trial.call(convert, node, importer) if known else convert(node, importer)
        if returned is None:
            raise Wrong(f"The function for {name!r} returned nothing; expected a value in Relax.")
        if not isinstance(returned, relax.Expr):
            raise Wrong(
                f"The function for {name!r} returned {a_or_an(returned)}; expected the node's "
                "value in Relax."
            )
        return returned

    return called


# ----------------------------------------------------------------------------------------------- 5


@check(
    "whole_models.5",
    hints=(
        "Compute for each task what the formula says; return the place of the largest.",
        "`worth = [task.weight * task.seconds / (task.batches + 1) for task in tasks]`",
        "`return worth.index(max(worth))`",
    ),
    told={
        "ZeroDivisionError": (
            "A task that was never measured has had 0 batches, and is to get its first. What does "
            "the formula divide by then?"
        ),
        "The model calls it|batches already|deserves a batch only after|which has the largest": (
            "Put the numbers of these tasks into the formula by hand, all of it: a product over a "
            "sum. For which task does your answer compute another value?"
        ),
        "expected the place": (
            "`max` of the values is one of the values. What finds the place of a value in a list?"
        ),
        "Of equals": (
            "`max` and `index` keep the first of equals. What in your comparison decides otherwise?"
        ),
        "the slowest comes first": (
            "Is the largest value of the formula that of the task with the most to save, or with "
            "the least? Which one do you look for?"
        ),
    },
)
def next_task(body: Callable, trial: Trial) -> None:
    lesson = load_lesson("whole_models")

    def ask(*tasks: tuple[int, float, int]) -> tuple[int, str]:
        given = [lesson.Tuning("abcdefgh"[n], *task) for n, task in enumerate(tasks)]
        listed = ", ".join(f"({w}, {s:g}, {b})" for w, s, b in tasks)
        call = f"next_task of tasks with (weight, seconds, batches) {listed}"
        copies = copy.deepcopy(given)
        place = trial.call(body, given)
        if given != copies:
            raise Wrong(f"{call} changed the list that it was given.")
        if isinstance(place, bool) or not isinstance(place, int | np.integer):
            raise Wrong(
                f"{call} returned {a_or_an(place)}; expected the place of a task in the list, an "
                "int."
            )
        if not 0 <= place < len(given):
            raise Wrong(f"{call} returned {place}, but the places are 0 to {len(given) - 1}.")
        return int(place), call

    cases = (
        (
            ((1, 0.2, 0), (1, 0.9, 0), (1, 0.5, 0)),
            1,
            "Nothing was measured yet, and the weights are equal: the slowest comes first.",
        ),
        (
            ((1, 0.5, 0), (4, 0.3, 0), (1, 0.9, 0)),
            1,
            "The model calls it 4 times: what counts is weight x seconds, here 1.2.",
        ),
        (
            ((1, 1.0, 3), (1, 0.9, 0)),
            1,
            "The first has had 3 batches already: 1.0 / 4 is less than 0.9 / 1.",
        ),
        (
            ((1, 1.0, 1), (1, 0.1, 0)),
            0,
            "A tenth of the time deserves a batch only after about ten "
            "of the other's: 1.0 / 2 is more than 0.1 / 1.",
        ),
        (((1, 0.5, 0), (1, 0.2, 0), (1, 0.5, 0)), 0, "Of equals it is the first."),
    )
    for tasks, want, why in cases:
        got, call = ask(*tasks)
        if got != want:
            raise Wrong(f"{call} returned {got}; expected {want}. {why}")
    rng = trial.rng
    for _ in range(50):
        tasks = tuple(
            (int(rng.integers(1, 5)), float(rng.random()), int(rng.integers(0, 9)))
            for _ in range(int(rng.integers(2, 8)))
        )
        worth = [weight * seconds / (batches + 1) for weight, seconds, batches in tasks]
        got, call = ask(*tasks)
        if got != worth.index(max(worth)):
            raise Wrong(
                f"{call} returned {got}; expected {worth.index(max(worth))}, which has the largest "
                "weight x seconds / (batches + 1)."
            )
