"""Answers to phase 4 that a learner might give."""

import copy

import numpy as np
import torch
import tvm
from torch.export import export
from tvm import relax
from tvm.relax import transform
from tvm.relax.frontend.torch import from_exported_program

from tests.wrong_answers import right, wrong

AS_CONSTANTS = {"keep_params_as_input": False, "unwrap_unit_return_tuple": True}

# ---------------------------------------------------------------------------------------------- 4.1


@wrong("4.1", "batch norms are in training mode", hint="In which mode does a model")
def import_in_training_mode(model, example):
    return from_exported_program(export(model, (example,)), **AS_CONSTANTS)


@wrong("4.1", "The parameters were kept as inputs", hint="from_exported_program has an")
def import_parameters_as_inputs(model, example):
    program = export(model.eval(), (example,))
    return from_exported_program(program, keep_params_as_input=True, unwrap_unit_return_tuple=True)


@wrong("4.1", "returns a tuple of one")
def import_without_unwrapping(model, example):
    return from_exported_program(export(model.eval(), (example,)), keep_params_as_input=False)


@wrong("4.1", "returned PyTorch's ExportedProgram", hint="Two frameworks, two calls")
def import_only_exports(model, example):
    return export(model.eval(), (example,))


@wrong("4.1", "are not this model's parameters", hint="The model and the example")
def import_a_fresh_model(model, example):
    fresh = type(model)().eval()
    return from_exported_program(export(fresh, (example,)), **AS_CONSTANTS)


@wrong("4.1", "export them as they are")
def import_in_double_precision(model, example):
    wide = copy.deepcopy(model).double().eval()
    return from_exported_program(export(wide, (example.double(),)), **AS_CONSTANTS)


@wrong("4.1", "the shape of the example that was given")
def import_for_a_single_picture(model, example):
    return from_exported_program(export(model.eval(), (example[:1],)), **AS_CONSTANTS)


@wrong("4.1", "a shape with an open extent")
def import_with_an_open_batch(model, example):
    open_batch = ({0: torch.export.Dim("batch")},)
    program = export(model.eval(), (example,), dynamic_shapes=open_batch)
    return from_exported_program(program, **AS_CONSTANTS)


@wrong("4.1", "returned None")
def import_forgets_return(model, example):
    from_exported_program(export(model.eval(), (example,)), **AS_CONSTANTS)


@right("4.1")
def import_binds_the_parameters_later(model, example):
    model.train(False)
    program = export(model, (example,))
    module = from_exported_program(
        program, keep_params_as_input=True, unwrap_unit_return_tuple=True
    )
    module, parameters = relax.frontend.detach_params(module)
    names = [parameter.name for parameter in module["main"].params[1:]]
    bound = dict(zip(names, parameters["main"], strict=True))
    return transform.BindParams("main", bound)(module)


@right("4.1")
def import_a_copy_without_gradients(model, example):
    still = copy.deepcopy(model).requires_grad_(False).eval()
    with torch.no_grad():
        program = export(still, args=(example.clone(),)).run_decompositions()
    return from_exported_program(program, **AS_CONSTANTS)


# ---------------------------------------------------------------------------------------------- 4.2

NORM = transform.FoldBatchnormToConv2D()
LEGALIZE = transform.LegalizeOps()
FOLD = transform.FoldConstant()
ANNOTATE = transform.AnnotateTIROpPattern()
GROUP = transform.FuseOps()
FUSE = transform.FuseTIR()


def _run(module, *passes):
    return tvm.transform.Sequential(list(passes))(module)


@wrong("4.2", "operators are no kernels yet", hint="Six passes, each with one")
def optimize_without_legalizing(module):
    return _run(module, NORM, FOLD, ANNOTATE, GROUP, FUSE)


@wrong("4.2", "read nothing but constants")
def optimize_without_folding(module):
    return _run(module, NORM, LEGALIZE, ANNOTATE, GROUP, FUSE)


@wrong("4.2", "did not know the class of any kernel: AnnotateTIROpPattern notes it")
def optimize_without_annotating(module):
    return _run(module, NORM, LEGALIZE, FOLD, GROUP, FUSE)


@wrong("4.2", "FuseOps ran before AnnotateTIROpPattern", hint="Each pass looks for something")
def optimize_annotates_too_late(module):
    return _run(module, NORM, LEGALIZE, FOLD, GROUP, ANNOTATE, FUSE)


@wrong("4.2", "AnnotateTIROpPattern ran before LegalizeOps")
def optimize_annotates_too_early(module):
    return _run(module, NORM, ANNOTATE, LEGALIZE, FOLD, GROUP, FUSE)


@wrong("4.2", "that is what FuseOps does")
def optimize_without_grouping(module):
    return _run(module, NORM, LEGALIZE, FOLD, ANNOTATE, FUSE)


@wrong("4.2", "FuseTIR makes one kernel of each group")
def optimize_without_fusing(module):
    return _run(module, NORM, LEGALIZE, FOLD, ANNOTATE, GROUP)


@wrong("4.2", "it comes after FuseOps")
def optimize_fuses_before_grouping(module):
    return _run(module, NORM, LEGALIZE, FOLD, ANNOTATE, FUSE, GROUP)


@wrong("4.2", "puts the scale into the weights")
def optimize_keeps_batch_norm(module):
    return relax.get_pipeline("zero")(module)


@wrong("4.2", "when it ran they were kernels already")
def optimize_folds_batch_norm_too_late(module):
    return _run(module, LEGALIZE, NORM, FOLD, ANNOTATE, GROUP, FUSE)


@wrong("4.2", "return what the pipeline returned", hint="A pipeline is called with")
def optimize_throws_the_result_away(module):
    _run(module, NORM, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)
    return module


@wrong("4.2", "returned the pipeline itself")
def optimize_returns_the_pipeline(module):
    return tvm.transform.Sequential([NORM, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE])


@wrong("4.2", "beyond float32 rounding")
def optimize_computes_in_half_precision(module):
    half = transform.ToMixedPrecision("float16")
    return _run(module, NORM, half, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@right("4.2")
def optimize_one_pass_after_the_other(module):
    for step in (NORM, LEGALIZE, FOLD, transform.DeadCodeElimination(), ANNOTATE, GROUP, FUSE):
        module = step(module)
    return module


@right("4.2")
def optimize_with_the_standard_pipeline(module):
    return relax.get_pipeline("zero")(NORM(module))


@right("4.2")
def optimize_folds_last(module):
    return _run(module, NORM, LEGALIZE, ANNOTATE, GROUP, FUSE, FOLD)


# ---------------------------------------------------------------------------------------------- 4.3


def _machine(module, target):
    return relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())


@wrong("4.3", "That is the result for batch 1", hint="The function was compiled")
def run_the_first_batch_only(module, batches, target):
    y = _machine(module, target)["main"](tvm.runtime.tensor(batches[0])).numpy()
    return [y for _ in batches]


@wrong("4.3", "the target it was given is", hint="run_linear_relu above compiles")
def run_for_any_cpu(module, batches, target):
    machine = _machine(module, "llvm")
    return [machine["main"](tvm.runtime.tensor(batch)).numpy() for batch in batches]


@wrong("4.3", "which would crash on it", hint="Before the call a NumPy array")
def run_on_numpy_arrays(module, batches, target):
    machine = _machine(module, target)
    return [machine["main"](batch).numpy() for batch in batches]


@wrong("4.3", "TVM's and torch's tensors have .numpy()")
def run_returns_tensors(module, batches, target):
    machine = _machine(module, target)
    return [machine["main"](tvm.runtime.tensor(batch)) for batch in batches]


@wrong("4.3", "expected one for each of")
def run_returns_in_the_loop(module, batches, target):
    machine = _machine(module, target)
    for batch in batches:
        return [machine["main"](tvm.runtime.tensor(batch)).numpy()]


@wrong("4.3", "expected a list of")
def run_stacks_the_results(module, batches, target):
    machine = _machine(module, target)
    return np.stack([machine["main"](tvm.runtime.tensor(batch)).numpy() for batch in batches])


@wrong("4.3", "is zero everywhere", hint="A virtual machine computes")
def run_never_calls(module, batches, target):
    _machine(module, target)
    return [np.zeros((len(batch), 10), "float32") for batch in batches]


@wrong("4.3", "has dtype float64", hint="Which of your calls makes")
def run_widens(module, batches, target):
    machine = _machine(module, target)
    return [
        machine["main"](tvm.runtime.tensor(batch)).numpy().astype("float64") for batch in batches
    ]


@wrong("4.3", "main takes a tensor x of float32, but was given one of float64")
def run_on_doubles(module, batches, target):
    machine = _machine(module, target)
    return [
        machine["main"](tvm.runtime.tensor(batch.astype("float64"))).numpy() for batch in batches
    ]


@wrong("4.3", "the number of dimensions it was given is 3")
def run_on_all_batches_at_once(module, batches, target):
    y = _machine(module, target)["main"](tvm.runtime.tensor(np.stack(batches))).numpy()
    return list(y)


@wrong("4.3", "but was given one with 1 in dimension 0")
def run_on_one_row_at_a_time(module, batches, target):
    machine = _machine(module, target)
    rows = [[machine["main"](tvm.runtime.tensor(row[None])) for row in one] for one in batches]
    return [np.concatenate([row.numpy() for row in one]) for one in rows]


@wrong("4.3", "so the number of arguments is 1")
def run_on_all_batches_as_arguments(module, batches, target):
    return _machine(module, target)["main"](*map(tvm.runtime.tensor, batches))


@wrong("4.3", 'the module has no function "forward"')
def run_torchs_forward(module, batches, target):
    machine = _machine(module, target)
    return [machine["forward"](tvm.runtime.tensor(batch)).numpy() for batch in batches]


@wrong("4.3", "runs what tvm.compile makes of a module")
def run_without_compiling(module, batches, target):
    machine = relax.VirtualMachine(module, tvm.cpu())
    return [machine["main"](tvm.runtime.tensor(batch)).numpy() for batch in batches]


@right("4.3")
def run_with_set_input(module, batches, target):
    with target:
        machine = relax.VirtualMachine(relax.build(module, target), tvm.device("cpu"))
    results = []
    for batch in batches:
        machine.set_input("main", tvm.runtime.tensor(batch))
        machine.invoke_stateful("main")
        results.append(machine.get_outputs("main").numpy())
    return results


@right("4.3")
def run_with_schedules(module, batches, target):
    from tvm_practice.relay_import import schedule_kernels

    run = _machine(schedule_kernels(module), target)["main"]
    return [np.array(run(tvm.runtime.tensor(batch)).numpy()) for batch in batches]
