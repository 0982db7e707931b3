"""Answers to the lab on whole models that a learner might give."""

import numpy as np
import torch
import tvm
from torch.export import Dim, export
from tvm import relax
from tvm.relax import transform
from tvm.relax.frontend.torch import from_exported_program

from tests.wrong_answers import right, wrong

AS_CONSTANTS = {"keep_params_as_input": False, "unwrap_unit_return_tuple": True}

# ----------------------------------------------------------------------------------------------- 1


def _each(scale):
    return scale[:, None, None, None]


@wrong("whole_models.1", "applied to the input channels", hint="from the last dimension")
def fold_into_the_input_channels(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance + epsilon)
    return weight * scale[None, :, None, None], beta - mean * scale


@wrong("whole_models.1", "epsilon is left out", hint="from the inside")
def fold_without_epsilon(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance)
    return weight * _each(scale), beta - mean * scale


@wrong("whole_models.1", "epsilon was added to the square root", hint="from the inside")
def fold_with_epsilon_outside(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / (np.sqrt(variance) + epsilon)
    return weight * _each(scale), beta - mean * scale


@wrong("whole_models.1", "instead of its square root", hint="from the inside")
def fold_with_the_variance(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / (variance + epsilon)
    return weight * _each(scale), beta - mean * scale


@wrong("whole_models.1", "it is beta alone", hint="which two terms stay")
def fold_without_the_mean(weight, gamma, beta, mean, variance, epsilon):
    return weight * _each(gamma / np.sqrt(variance + epsilon)), beta


@wrong("whole_models.1", "subtracted unscaled", hint="which two terms stay")
def fold_with_the_mean_unscaled(weight, gamma, beta, mean, variance, epsilon):
    return weight * _each(gamma / np.sqrt(variance + epsilon)), beta - mean


@wrong("whole_models.1", "the mean was added", hint="which two terms stay")
def fold_with_the_mean_added(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance + epsilon)
    return weight * _each(scale), beta + mean * scale


@wrong("whole_models.1", "changed one of its arguments", hint="writes into a")
def fold_in_place(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance + epsilon)
    weight *= _each(scale)
    return weight, beta - mean * scale


@wrong("whole_models.1", "could not be broadcast", hint="from the last dimension")
def fold_by_the_last_dimension(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance + epsilon)
    return weight * scale, beta - mean * scale


@wrong("whole_models.1", "the weight is a list; expected an array of numbers")
def fold_into_rows_of_different_lengths(weight, gamma, beta, mean, variance, epsilon):
    return [[1.0, 2.0], [3.0]], beta


@right("whole_models.1")
def fold_with_einsum(weight, gamma, beta, mean, variance, epsilon):
    scale = gamma * (variance + epsilon) ** -0.5
    return np.einsum("oihw,o->oihw", weight, scale), beta - scale * mean


@right("whole_models.1")
def fold_channel_by_channel(weight, gamma, beta, mean, variance, epsilon):
    folded, bias = weight.astype("float64"), beta.astype("float64")
    for channel in range(len(weight)):
        scale = gamma[channel] / np.sqrt(variance[channel] + epsilon)
        folded[channel] *= scale
        bias[channel] -= mean[channel] * scale
    return folded, bias


# ----------------------------------------------------------------------------------------------- 2

NORM = transform.FoldBatchnormToConv2D()
LEGALIZE = transform.LegalizeOps()
FOLD = transform.FoldConstant()
ANNOTATE = transform.AnnotateTIROpPattern()
GROUP = transform.FuseOps()
FUSE = transform.FuseTIR()
LAYOUT = transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]})


def _passes(module, *passes):
    return tvm.transform.Sequential(list(passes))(module)


@wrong("whole_models.2", "crashes on them", hint="behind which of your lines")
def optimize_the_layout_right_after_the_norms(module):
    return _passes(module, NORM, LAYOUT, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@wrong(
    "whole_models.2",
    "ConvertLayout ran before FoldBatchnormToConv2D",
    hint="behind which of your lines",
)
def optimize_the_layout_first(module):
    return _passes(module, LAYOUT, NORM, FOLD, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@wrong("whole_models.2", "ConvertLayout has not run", hint="which of your passes takes these away")
def optimize_as_in_phase_4(module):
    return _passes(module, NORM, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@wrong("whole_models.2", "read nothing but constants", hint="does a FoldConstant follow it")
def optimize_without_folding_the_weights(module):
    return _passes(module, NORM, FOLD, LAYOUT, LEGALIZE, ANNOTATE, GROUP, FUSE)


@wrong("whole_models.2", "ConvertLayout ran after LegalizeOps", hint="behind which of your lines")
def optimize_the_layout_of_kernels(module):
    return _passes(module, NORM, LEGALIZE, FOLD, LAYOUT, ANNOTATE, GROUP, FUSE)


@wrong("whole_models.2", "a weight is a const", hint="each letter of the second")
def optimize_with_the_weights_as_ohwi(module):
    layout = transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "OHWI"]})
    return _passes(module, NORM, FOLD, layout, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@wrong("whole_models.2", "did not know the class of any kernel", hint="notes each kernel's class")
def optimize_without_classes(module):
    return _passes(module, NORM, FOLD, LAYOUT, LEGALIZE, FOLD, GROUP, FUSE)


@wrong("whole_models.2", "returned the module as it was given", hint="What becomes of that")
def optimize_and_drop_the_result(module):
    _passes(module, NORM, FOLD, LAYOUT, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)
    return module


@wrong("whole_models.2", "TVM 0.27 crashes on them", hint="behind which of your lines")
def optimize_in_the_crashing_order_in_a_context_of_its_own(module):
    with tvm.transform.PassContext(opt_level=3):
        return _passes(module, NORM, LAYOUT, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@right("whole_models.2")
def optimize_in_a_context_of_its_own(module):
    with tvm.transform.PassContext(opt_level=3):
        return _passes(module, NORM, FOLD, LAYOUT, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE)


@right("whole_models.2")
def optimize_with_the_constants_before_the_kernels(module):
    return _passes(module, NORM, FOLD, LAYOUT, FOLD, LEGALIZE, ANNOTATE, GROUP, FUSE)


@right("whole_models.2")
def optimize_one_by_one(module):
    for one in (NORM, FOLD, LAYOUT, FOLD, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE):
        module = one(module)
    return module


@right("whole_models.2")
def optimize_with_dead_code_removed(module):
    dead = transform.DeadCodeElimination()
    return _passes(module, dead, NORM, FOLD, LAYOUT, LEGALIZE, FOLD, ANNOTATE, GROUP, FUSE, dead)


# ----------------------------------------------------------------------------------------------- 3


def _with(model, example, shapes):
    return from_exported_program(export(model, (example,), dynamic_shapes=shapes), **AS_CONSTANTS)


@wrong("whole_models.3", "and no other. Leave dimension 0 open", hint="what does it map")
def import_one_batch(model, example, most):
    return from_exported_program(export(model.eval(), (example,)), **AS_CONSTANTS)


@wrong("whole_models.3", "does not say how large a batch may be", hint="two bounds")
def import_without_a_maximum(model, example, most):
    return _with(model.eval(), example, ({0: Dim("batch", min=1)},))


@wrong("whole_models.3", "the largest batch is 3; expected 7", hint="two bounds")
def import_batches_up_to_the_examples(model, example, most):
    return _with(model.eval(), example, ({0: Dim("batch", min=1, max=len(example))},))


@wrong("whole_models.3", "the smallest batch is 2", hint="Which min has your Dim")
def import_batches_of_two_and_more(model, example, most):
    return _with(model.eval(), example, ({0: Dim("batch", min=2, max=most)},))


@wrong("whole_models.3", "batch is 2", hint="PyTorch makes 2 in Dim.DYNAMIC")
def import_with_a_dim_without_a_name(model, example, most):
    return _with(model.eval(), example, ({0: Dim.DYNAMIC(min=1, max=most)},))


@wrong("whole_models.3", "was exported with has one row", hint="export with")
def import_with_an_example_of_one(model, example, most):
    return _with(model.eval(), example[:1], ({0: Dim("batch", min=1, max=most)},))


@wrong("whole_models.3", "an entry for each argument", hint="a tuple with one element")
def import_without_the_tuple(model, example, most):
    return _with(model.eval(), example, {0: Dim("batch", min=1, max=most)})


@wrong("whole_models.3", "more than the batch was left open", hint="Which numbers does yours name")
def import_with_everything_open(model, example, most):
    return _with(model.eval(), example, (dict.fromkeys(range(example.dim()), Dim.AUTO),))


@wrong("whole_models.3", "Only dimension 0 varies", hint="Which key")
def import_with_another_dimension(model, example, most):
    return _with(model.eval(), example, ({1: Dim("batch", min=1, max=most)},))


@wrong("whole_models.3", "The parameters were kept as inputs", hint="with two options")
def import_parameters_too(model, example, most):
    program = export(model.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1, max=most)},))
    return from_exported_program(program, keep_params_as_input=True, unwrap_unit_return_tuple=True)


@wrong("whole_models.3", "in training mode", hint="keeps its mode")
def import_in_training(model, example, most):
    return _with(model, example, ({0: Dim("batch", min=1, max=most)},))


@right("whole_models.3")
def import_by_name(model, example, most):
    model.train(False)
    (name,) = ["x"]
    shapes = {name: {0: Dim("n", min=1, max=most)}}
    with torch.no_grad():
        return _with(model, example, shapes)


@right("whole_models.3")
def import_with_every_dimension_named(model, example, most):
    fixed = [Dim.STATIC] * (example.dim() - 1)
    return _with(model.eval(), example, ([Dim("batch", max=most), *fixed],))


# ----------------------------------------------------------------------------------------------- 4

ONE = relax.const(1.0, "float32")


def _emit(importer, value):
    return importer.block_builder.emit(value)


@wrong("whole_models.4", "The key is that name, with its overload")
def converters_without_the_overload():
    return {
        "erfc": lambda node, importer: _emit(
            importer, relax.op.subtract(ONE, relax.op.erf(importer.env[node.args[0]]))
        )
    }


@wrong("whole_models.4", "It computes erf, not 1 - erf", hint="at these two")
def converters_to_erf():
    return {"erfc.default": lambda node, it: _emit(it, relax.op.erf(it.env[node.args[0]]))}


@wrong("whole_models.4", "It computes 1 + erf", hint="at these two")
def converters_to_a_sum():
    return {
        "erfc.default": lambda node, it: _emit(
            it, relax.op.add(ONE, relax.op.erf(it.env[node.args[0]]))
        )
    }


@wrong("whole_models.4", "erf - 1, the negative", hint="at these two")
def converters_turned_round():
    return {
        "erfc.default": lambda node, it: _emit(
            it, relax.op.subtract(relax.op.erf(it.env[node.args[0]]), ONE)
        )
    }


@wrong(
    "whole_models.4", "its value in Relax is importer.env[node.args[0]]", hint="hypot has this line"
)
def converters_of_the_node():
    return {"erfc.default": lambda node, it: _emit(it, relax.op.erf(node.args[0]))}


def _erf(importer, node):
    return relax.op.erf(importer.env[node.args[0]])


@wrong("whole_models.4", "'erfc.default' returned nothing", hint="ends with a `return`")
def converters_without_a_return():
    def convert(node, importer):
        _emit(importer, relax.op.subtract(ONE, _erf(importer, node)))

    return {"erfc.default": convert}


@wrong("whole_models.4", "missing 1 required positional argument", hint="two values")
def converters_with_one_parameter_too_many():
    return {"erfc.default": lambda self, node, it: _emit(it, _erf(it, node))}


@wrong("whole_models.4", "has no attribute 'emit'", hint="does hypot ask to emit")
def converters_that_ask_the_importer():
    return {"erfc.default": lambda node, it: it.emit(relax.op.subtract(ONE, _erf(it, node)))}


@wrong("whole_models.4", "must have the same datatype", hint="the second argument of relax.const")
def converters_in_float64():
    one = relax.const(1.0, "float64")
    return {"erfc.default": lambda node, it: _emit(it, relax.op.subtract(one, _erf(it, node)))}


@wrong("whole_models.4", "expected a dictionary", hint="looks an operator's name up")
def converters_the_function_alone():
    return lambda node, importer: None


@right("whole_models.4")
def converters_by_negation():
    def convert(node, importer):
        (x,) = node.args
        erf = importer.block_builder.emit(relax.op.erf(importer.env[x]))
        return importer.block_builder.emit(relax.op.add(relax.op.negative(erf), ONE))

    return {"erfc.default": convert, "hypot.default": convert}


@right("whole_models.4")
def converters_with_the_importers_own():
    def convert(node, importer):
        x = importer.retrieve_args(node)[0]
        return _emit(importer, relax.op.subtract(ONE, relax.op.erf(x)))

    return {"erfc.default": convert}


# ----------------------------------------------------------------------------------------------- 5


@wrong("whole_models.5", "The model calls it 4 times", hint="by hand")
def next_without_weights(tasks):
    worth = [task.seconds / (task.batches + 1) for task in tasks]
    return worth.index(max(worth))


@wrong("whole_models.5", "has had 3 batches already", hint="by hand")
def next_the_most_expensive(tasks):
    worth = [task.weight * task.seconds for task in tasks]
    return worth.index(max(worth))


@wrong("whole_models.5", "deserves a batch only after", hint="by hand")
def next_by_turns(tasks):
    least = min(task.batches for task in tasks)
    waiting = [n for n, task in enumerate(tasks) if task.batches == least]
    return max(waiting, key=lambda n: tasks[n].weight * tasks[n].seconds)


@wrong("whole_models.5", "a batch only after", hint="a product over a sum")
def next_with_a_sum_of_both(tasks):
    worth = [(task.weight + task.seconds) / (task.batches + 1) for task in tasks]
    return worth.index(max(worth))


@wrong("whole_models.5", "had 3 batches already", hint="a product over a sum")
def next_without_the_parentheses(tasks):
    worth = [
        task.weight * task.seconds / task.batches + 1
        if task.batches
        else task.weight * task.seconds
        for task in tasks
    ]
    return worth.index(max(worth))


@wrong("whole_models.5", "ZeroDivisionError", hint="was never measured")
def next_without_the_one(tasks):
    worth = [task.weight * task.seconds / task.batches for task in tasks]
    return worth.index(max(worth))


@wrong("whole_models.5", "expected the place of a task", hint="the place of a value")
def next_the_task_itself(tasks):
    return max(tasks, key=lambda task: task.weight * task.seconds / (task.batches + 1))


@wrong("whole_models.5", "Of equals it is the first", hint="keep the first of equals")
def next_the_last_of_equals(tasks):
    return max(
        range(len(tasks)),
        key=lambda n: (tasks[n].weight * tasks[n].seconds / (tasks[n].batches + 1), n),
    )


@wrong("whole_models.5", "the slowest comes first", hint="with the most to save")
def next_the_cheapest(tasks):
    worth = [task.weight * task.seconds / (task.batches + 1) for task in tasks]
    return worth.index(min(worth))


@right("whole_models.5")
def next_with_max(tasks):
    return max(
        range(len(tasks)),
        key=lambda n: tasks[n].weight * tasks[n].seconds / (tasks[n].batches + 1),
    )


@right("whole_models.5")
def next_with_numpy(tasks):
    numbers = np.array([(task.weight, task.seconds, task.batches) for task in tasks])
    return np.argmax(numbers[:, 0] * numbers[:, 1] / (numbers[:, 2] + 1))
