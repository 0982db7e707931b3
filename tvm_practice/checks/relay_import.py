"""What "done" means in phase 4: the module computes what the PyTorch model does, and has the
structure that was asked for.

Numbers are compared with the model in float64, on random inputs, at sizes that tell height from
width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
from tvm_practice.common.graph import graph
from tvm_practice.common.target import cpu_target
from tvm_practice.common.verify import Wrong, a_or_an

if TYPE_CHECKING:
    import torch
    from tvm import IRModule

# (model, shape of a batch). The MLP comes first: it is the cheaper one to be wrong about.
CASES = (("MLP", (3, 784)), ("CNN", (2, 3, 12, 8)))


def trained(name: str, trial: Trial) -> torch.nn.Module:
    """One of the lesson's models, its parameters fresh from the trial's random numbers."""
    lesson = load_lesson("relay_import")
    return lesson.pretend_trained(getattr(lesson, name), int(trial.rng.integers(1 << 31)))


# ---------------------------------------------------------------------------------------------- 4.1


@check(
    "4.1",
    hints=(
        (
            "Two calls, one of PyTorch and one of TVM, both named above; and the model must first "
            "be put in the mode it is to be deployed in."
        ),
        (
            "`torch.export.export` takes the model and a tuple of its arguments. Of "
            "`from_exported_program`, the two options decide whether parameters are inputs, and "
            "whether the result stays wrapped in a tuple."
        ),
        (
            "`program = torch.export.export(model.eval(), (example,))`, then "
            "`from_exported_program(program, keep_params_as_input=False, "
            "unwrap_unit_return_tuple=True)`"
        ),
    ),
    told={
        "training mode": (
            "In which mode does a model use what it has learned, instead of learning on? The "
            "export keeps what it finds."
        ),
        "kept as inputs|tuple of one": (
            "from_exported_program has an option for each of these. What are their names, and "
            "which way round do you need them?"
        ),
        "PyTorch's ExportedProgram|returned None": (
            "Two frameworks, two calls: what does the first return, and which is to take it?"
        ),
        "not this model's|as they are|shape of the example|open extent": (
            "The model and the example are given: which of your lines puts something else in "
            "their place?"
        ),
    },
)
def import_model(body: Callable, trial: Trial) -> None:
    import torch

    for name, shape in CASES:
        model = trained(name, trial)
        batch = verify.random_array(trial.rng, *shape)
        parameters = copy.deepcopy(model.state_dict())
        call = f"import_model({name}(), a batch of {shape})"
        example = torch.from_numpy(verify.random_array(trial.rng, *shape))
        try:
            returned = trial.call(body, model, example)
        except Wrong as error:
            if "same datatype" in str(error):
                raise Wrong(
                    f"{error} TVM's importer expects float32, which the model and the example "
                    "have: export them as they are."
                ) from None
            raise
        if isinstance(returned, torch.export.ExportedProgram):
            raise Wrong(
                f"{call} returned PyTorch's ExportedProgram; it has still to be translated, by "
                "from_exported_program."
            )
        module = module_of(returned, call)
        check_interface(graph(module), call, shape)
        check_mode(graph(module), call)
        if any(not torch.equal(parameters[key], now) for key, now in model.state_dict().items()):
            raise Wrong(f"{call} changed the parameters of the model it was given.")
        try:
            (got,) = run(module, batch)
        except Exception as error:
            raise Wrong(f"What {call} returned does not run: {says(error)}") from None
        want, magnitude, terms = expected(model, batch)
        if not _holds(module, model):
            reason = (
                " The module's constants are not this model's parameters: was another model "
                "exported, or one of the same class with parameters of its own?"
            )
        else:
            reason = ""
        try:
            verify.assert_close(got, want, magnitude, terms, f"the {name}'s result", ())
        except Wrong as error:
            raise Wrong(f"{call} does not compute what the model does: {error}{reason}") from None


def _holds(module: IRModule, model: torch.nn.Module) -> bool:
    """Whether each of the model's weights is among the module's constants."""
    import tvm_ffi
    from tvm import ir

    constants: list[np.ndarray] = []

    def keep(constant: ir.GenericConst) -> None:
        if hasattr(constant, "data"):
            constants.append(constant.data.numpy())

    tvm_ffi.structural_walk(module["main"], (ir.GenericConst, keep))
    weights = [value.detach().numpy() for key, value in model.named_parameters() if "weight" in key]
    return all(any(np.array_equal(weight, one) for one in constants) for weight in weights)


# ---------------------------------------------------------------------------------------------- 4.2

_PASSES = (
    "FoldBatchnormToConv2D",
    "LegalizeOps",
    "FoldConstant",
    "AnnotateTIROpPattern",
    "FuseOps",
    "FuseTIR",
)


def _recorder() -> Any:
    """A pass instrument that notes the names of the lesson's passes as they run, in `names`."""
    import tvm

    @tvm.instrument.pass_instrument
    class Recorder:
        def __init__(self) -> None:
            self.names: list[str] = []

        def run_after_pass(self, _: Any, information: Any) -> None:
            if information.name in _PASSES:
                self.names.append(information.name)

    return Recorder()


@check(
    "4.2",
    hints=(
        (
            "lower above shows how a pipeline is made and called. One pass looks for the "
            "operators "
            "conv2d and batch_norm, one makes kernels of operators, and four look for kernels."
        ),
        (
            "First the pass that looks for operators, then LegalizeOps. Constants are folded "
            "while "
            "every kernel still does one thing. FuseOps reads the classes, FuseTIR the groups."
        ),
        (
            "FoldBatchnormToConv2D, LegalizeOps, FoldConstant, AnnotateTIROpPattern, FuseOps, "
            "FuseTIR: all from `transform`, in `tvm.transform.Sequential([...])(module)`"
        ),
    ),
    told={
        (
            "operators are no kernels|read nothing but constants|AnnotateTIROpPattern notes|"
            "FuseOps does|FuseTIR makes|puts the scale"
        ): (
            "Six passes, each with one job. Write down what each one looks for, and see which job "
            "is left."
        ),
        "ran before|comes after|when it ran they were": (
            "Each pass looks for something that another one makes, or takes away. What does the "
            "one that is named need to find?"
        ),
        "what the pipeline returned|pipeline itself": (
            "A pipeline is called with a module and returns a new one. What becomes of that in "
            "your answer?"
        ),
    },
)
def optimize(body: Callable, trial: Trial) -> None:
    import torch
    import tvm
    import tvm_ffi

    for name, shape in CASES:
        model = trained(name, trial)
        module = body_of("4.1")(model, torch.zeros(shape))
        before = tvm_ffi.structural_hash(module)
        call = f"optimize(the imported {name})"
        recorder = _recorder()
        with tvm.transform.PassContext(instruments=[recorder]):
            returned = trial.call(body, module)
        if isinstance(returned, tvm.transform.Pass):
            raise Wrong(
                f"{call} returned the pipeline itself. A pipeline is called like a function: "
                "pipeline(module)."
            )
        result = module_of(returned, call)
        if tvm_ffi.structural_hash(module) != before:
            raise Wrong(f"{call} changed the module it was given; it is to return a new one.")
        if tvm_ffi.structural_hash(result) == before:
            ran = len(recorder.names)
            raise Wrong(
                f"{call} returned the module as it was given, though {ran} passes ran. A pass "
                "leaves its module as it is and returns a new one: return what the pipeline "
                "returned."
                if ran
                else f"{call} returned the module as it was given; no pass has run."
            )
        _check_numbers(result, model, verify.random_array(trial.rng, *shape), name, call)
        reference = graph(body_of("4.2")(module))
        check_structure(graph(result), reference, recorder.names, call)


def _check_numbers(
    module: IRModule, model: torch.nn.Module, batch: np.ndarray, name: str, call: str
) -> None:
    try:
        (got,) = run(module, batch)
    except Exception as error:
        raise Wrong(f"What {call} returned cannot be compiled and run: {says(error)}") from None
    want, magnitude, terms = expected(model, batch)
    if got.dtype != np.float32:
        raise Wrong(
            f"{call} made a module that returns {got.dtype}; the model's result is float32."
        )
    try:
        verify.assert_close(got, want, magnitude, terms, f"the {name}'s result", ())
    except Wrong as error:
        raise Wrong(
            f"{call} changed what the model computes, beyond float32 rounding: {error}"
        ) from None


# ---------------------------------------------------------------------------------------------- 4.3


def _target_recorder() -> Any:
    """A pass instrument that notes, in `targets`, the CPU of every target that kernels are compiled
    for."""
    import tvm
    from tvm import tirx

    @tvm.instrument.pass_instrument
    class Recorder:
        def __init__(self) -> None:
            self.targets: set[str] = set()

        def run_after_pass(self, module: Any, information: Any) -> None:
            if information.name == "tirx.BindTarget":
                for function in module.functions.values():
                    if isinstance(function, tirx.PrimFunc) and "target" in (function.attrs or {}):
                        target = function.attrs["target"]
                        self.targets.add(str(target.attrs.get("mcpu", "any " + str(target.kind))))

    return Recorder()


@check(
    "4.3",
    hints=(
        (
            "run_linear_relu above does it for one call with two inputs; here it is one input, "
            "and "
            "several calls."
        ),
        (
            "`tvm.compile(module, target=...)` and `relax.VirtualMachine(executable, tvm.cpu())` "
            "once; then for each batch "
            '`machine["main"]` with a tensor made by `tvm.runtime.tensor`.'
        ),
        '`return [machine["main"](tvm.runtime.tensor(batch)).numpy() for batch in batches]`',
    ),
    told={
        "is zero everywhere": (
            "A virtual machine computes when one of its functions is called. Which of your lines "
            "calls one?"
        ),
        (
            "result for batch 1|expected one for each|expected a list of|in dimension 0|"
            "number of dimensions|number of arguments"
        ): (
            "The function was compiled for one batch. How often is it called, with what, and "
            "where do its results go?"
        ),
        "would crash|have .numpy": (
            "Before the call a NumPy array becomes a tensor of TVM, after it the other way. Which "
            "of your values is which?"
        ),
        "has dtype float64|one of float64": (
            "Which of your calls makes doubles of float32? NumPy does so unless told otherwise."
        ),
        "no function|runs what tvm.compile|target it was given": (
            "run_linear_relu above compiles, loads and calls, in three lines. Compare them one by "
            "one."
        ),
    },
)
def compile_and_run(body: Callable, trial: Trial) -> None:
    import torch
    import tvm

    target = cpu_target()
    for (name, shape), count in zip(CASES, (3, 2), strict=True):
        model = trained(name, trial)
        module = body_of("4.2")(body_of("4.1")(model, torch.zeros(shape)))
        batches = [verify.random_array(trial.rng, *shape) for _ in range(count)]
        copies = [batch.copy() for batch in batches]
        call = f"compile_and_run(the {name}, {count} batches of {shape}, target)"
        recorder = _target_recorder()
        with _only_tensors(call), tvm.transform.PassContext(instruments=[recorder]):
            results = trial.call(body, module, list(copies), target)
        _check_results(results, count, call)
        if any(not np.array_equal(*pair) for pair in zip(batches, copies, strict=True)):
            raise Wrong(f"{call} changed a batch; inputs are only to be read.")
        wanted = [expected(model, batch) for batch in batches]
        for number, (got, (want, magnitude, terms)) in enumerate(
            zip(results, wanted, strict=True), 1
        ):
            others = [
                (other[0], f"That is the result for batch {n}.")
                for n, other in enumerate(wanted, 1)
                if n != number
            ]
            verify.assert_close(
                got, want, magnitude, terms, f"the {name}'s result for batch {number}", others
            )
        asked = str(target.attrs["mcpu"])
        if asked not in recorder.targets:
            compiled = ", ".join(sorted(recorder.targets)) or "nothing"
            raise Wrong(
                f"{call} computes the right numbers, but was compiled for {compiled}; the target "
                f"it was given is {asked}. Without it the code uses only what every CPU of this "
                "kind has, half of the vector width or less."
            )


class _only_tensors:
    """While this lasts, a virtual machine refuses what would crash the process: anything but TVM's
    own tensors."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __enter__(self) -> None:
        import tvm
        from tvm import relax

        call, self.original = self.call, relax.VirtualMachine

        class Guarded(self.original):  # type: ignore[misc, name-defined]
            def __getitem__(self, name: str) -> Callable[..., Any]:
                function = super().__getitem__(name)

                def guarded(*arguments: Any) -> Any:
                    for argument in arguments:
                        if not isinstance(argument, tvm.runtime.Tensor):
                            raise Wrong(
                                f"{call} handed {a_or_an(argument)} to the virtual machine, which "
                                "would crash on it. Make a tensor of it: "
                                "tvm.runtime.tensor(batch)."
                            )
                    return function(*arguments)

                return guarded

        relax.VirtualMachine = Guarded

    def __exit__(self, *_: object) -> None:
        from tvm import relax

        relax.VirtualMachine = self.original


def _check_results(results: Any, count: int, call: str) -> None:
    if not isinstance(results, list | tuple):
        raise Wrong(f"{call} returned {a_or_an(results)}; expected a list of {count} arrays.")
    if len(results) != count:
        raise Wrong(
            f"{call} returned {len(results)} results; expected one for each of {count} batches."
        )
    for number, result in enumerate(results, 1):
        if not isinstance(result, np.ndarray):
            raise Wrong(
                f"{call}: result {number} is {a_or_an(result)}; expected a NumPy array. (TVM's and "
                "torch's tensors have .numpy().)"
            )
        if result.dtype != np.float32:
            raise Wrong(f"{call}: result {number} has dtype {result.dtype}; expected float32.")
