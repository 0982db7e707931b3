"""Lab: a whole model, from PyTorch to a program that was tuned for this machine.

    python -m tvm_practice.labs.whole_models                          run this lesson
    python -m tvm_practice.labs.whole_models --hint whole_models.1    a nudge, when you are stuck
    python -m tvm_practice.labs.whole_models --tune --minutes 30      tune ResNet-18 here

Phase 4 took two small models through the graph passes, phase 5 searched for the schedule of one
matmul. A model that somebody uses needs both: dozens of operators are to be cleaned up, the size of
a batch is not known yet, the importer has never heard of one operator, and each kernel that is left
is a search of its own, all of them on one budget.

The models are ResNet-18 and four blocks of GPT-2, in labs/models.py. Their parameters are random:
to a compiler it is the same what a model knows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tvm  # noqa: F401 - for you to use
from torch import nn
from torch.export import Dim, export  # noqa: F401 - Dim is for you to use
from tvm import IRModule, relax, tirx
from tvm.relax import transform  # noqa: F401 - for you to use
from tvm.relax.frontend.torch import from_exported_program
from tvm.s_tir import meta_schedule as ms
from tvm.target import Target

from tvm_practice.common.exercise import exercise
from tvm_practice.common.measure import module_hash, skip_tensor_intrinsics

skip_tensor_intrinsics()

# ------------------------------------------------------------------------------ 1 fold a batch norm
#
# In evaluation mode a batch norm knows its statistics. Of y, the convolution's result in output
# channel o, it makes
#
#     (y - mean[o]) / sqrt(variance[o] + epsilon) * gamma[o] + beta[o]
#
# Everything here but y is a constant, so for each channel it is a factor and a summand. And a
# convolution is linear: to multiply its result is to multiply its weights. That can be done now,
# once and for all; what is left to do for each picture is to add a bias, which fuses.
#
# The pass FoldBatchnormToConv2D does it with graph operators. Here you do it with numbers.


@exercise("whole_models.1", "Fold a batch norm into the weights")
def fold_batch_norm(
    weight: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of a convolution that does what the convolution and its batch norm do.

    weight: of a convolution without a bias, as PyTorch keeps it: output channels x input channels x
    height x width. The others: one number for each output channel. Nothing given is changed.
    """
    # TODO(whole_models.1): about 3 lines.
    raise NotImplementedError("whole_models.1 fold_batch_norm")


# ------------------------------------------------------------------------------- 2 clean it up
#
# PyTorch keeps a picture channel by channel: batch, channels, height, width, in short NCHW. A CPU's
# vectors would then hold neighbours in a row, and the rows of ResNet's last stage have 7 elements.
# With the channels last, NHWC, a vector holds channels, of which there are 64 to 512, and all of
# them do the same. Their weights should lie side by side too: height, width, inputs, outputs, HWIO.
#
#     ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]})
#
# changes both. It looks for the operator conv2d, puts a permute_dims before and behind it, and
# moves these through whatever does not mind, until most of them meet and cancel. Among phase 4's
# six passes it has its place, and two others are wrong:
#
#   - Before FoldBatchnormToConv2D: that pass looks for a batch_norm right behind a conv2d in NCHW.
#   - Right behind it: what is left of each batch norm is arithmetic on constants (a square root of
#     the variance, and so on). TVM 0.27's ConvertLayout does not expect that, and ends the process
#     with a segmentation fault. FoldConstant computes the constants, and nothing is left.
#
# After ConvertLayout there are new constants to compute, the transposed weights. A pass may run
# twice.


@exercise("whole_models.2", "The pass pipeline of a convolutional network")
def optimize(module: IRModule) -> IRModule:
    """The module after phase 4's six passes and ConvertLayout to NHWC and HWIO.

    module: as from_exported_program returns it, parameters as constants; it stays as it is. In the
    module that is returned batch norm is gone, every convolution is in NHWC, no call reads
    constants only, and bias, addition and ReLU are part of the kernel that makes their input.
    """
    # TODO(whole_models.2): about 12 lines, like 4.2.
    raise NotImplementedError("whole_models.2 optimize")


# ------------------------------------------------------------------------------- 3 any batch
#
# The shape of the example is compiled in, batch and all. A server that answers requests as they
# come would need a program for each batch size. But torch.export can leave an extent open:
#
#     export(model, (example,), dynamic_shapes=({0: Dim("batch", min=1, max=8)},))
#
# says that dimension 0 of the first argument is any number from 1 to 8. Relax makes a variable of
# it, writes the other shapes as expressions of that variable (128 * batch rows), and computes them
# when it runs. PyTorch checks that the model really works for all of them: one that reshapes to a
# fixed batch is refused. The example should be a batch of two or more; 1 is special, since an
# extent of 1 broadcasts.
#
# This has its price: a loop whose extent is not known cannot be tiled as well. So leave open what
# varies, and nothing else, and say how large it may become: memory is planned for that.


def import_as_it_is(model: nn.Module, example: torch.Tensor) -> IRModule:
    """The model for batches of the example's size, its parameters constants."""
    program = export(model.eval(), (example,))
    return from_exported_program(program, keep_params_as_input=False, unwrap_unit_return_tuple=True)


@exercise("whole_models.3", "One program for every batch size")
def import_any_batch(model: nn.Module, example: torch.Tensor, most: int) -> IRModule:
    """The model for batches of 1 to `most`; every other extent is fixed, parameters are constants.

    example: a batch of at least two; its first dimension is the one to be left open.
    """
    # TODO(whole_models.3): about 4 lines, like import_as_it_is.
    raise NotImplementedError("whole_models.3 import_any_batch")


# ------------------------------------------------------------- 4 an operator that is not known
#
# The importer has a table: for each operator of PyTorch a function that emits Relax operators. An
# operator that is not in the table ends the import, before anything was translated:
#
#     AssertionError: Unsupported function types ['erfc.default']
#
# That is the operator's name as torch.export writes it, a dot, and its overload. There are three
# ways out: write the model without it; have PyTorch take it apart (`program.run_decompositions()`,
# which the importer does already, as far as PyTorch knows how); or add a line to the table, by
# from_exported_program(..., custom_convert_map={name: function}). The function is called with the
# node of PyTorch's graph and with the importer, and returns the node's value in Relax:
#
#     importer.env[node.args[0]]          the Relax value of the node's first argument
#     importer.block_builder.emit(...)    binds a Relax expression; returns the variable
#
# The layer below is the GELU by its definition, x times the probability that a normal variable is
# below x. TVM 0.27 does not know its erfc.


class ExactGELU(nn.Module):
    """x P(X <= x), with P from the complementary error function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5 * torch.erfc(x * -(0.5**0.5))


Converter = Callable[[torch.fx.Node, object], relax.Var]


def hypot(node: torch.fx.Node, importer) -> relax.Var:
    """torch.hypot(x, y), which TVM 0.27 does not know either: sqrt(x * x + y * y)."""
    x, y = (importer.env[argument] for argument in node.args)
    squares = relax.op.add(relax.op.multiply(x, x), relax.op.multiply(y, y))
    return importer.block_builder.emit(relax.op.sqrt(squares))


@exercise("whole_models.4", "Teach the importer an operator")
def converters() -> dict[str, Converter]:
    """The custom_convert_map with which a model that calls torch.erfc is imported.

    erfc(x) = 1 - erf(x), and Relax has `relax.op.erf`. A number becomes a Relax value by
    `relax.const(1.0, "float32")`.
    """
    # TODO(whole_models.4): about 6 lines, like hypot.
    raise NotImplementedError("whole_models.4 converters")


# -------------------------------------------------------------------- worked: what there is to tune
#
# Every kernel of the optimized module is a search of its own, a task. Kernels that are the same
# program are one task; how often the model calls them is its weight.


def tasks_of(module: IRModule, target: Target) -> list[ms.ExtractedTask]:
    """The tasks of an optimized module, by name."""
    found = ms.relax_integration.extract_tasks(module, target)
    return sorted(found, key=lambda task: task.task_name)


# Nobody writes a search space by hand for nineteen kernels. MetaSchedule derives it by rules, which
# was Ansor's idea. Each rule looks at a block and applies itself or does not: bias and ReLU move
# into the block they read, a reduction is tiled on two levels with its sums in a cache, or split
# between threads, and what is left is vectorized, unrolled and made parallel.


def search_for(task: ms.ExtractedTask, seed: int) -> ms.TuneContext:
    """A search for one task, over the space of MetaSchedule's rules for a CPU."""
    rule, mutator, postproc = ms.schedule_rule, ms.mutator, ms.postproc
    inline = rule.AutoInline(
        into_producer=False,
        into_consumer=True,
        inline_const_tensor=True,
        disallow_if_then_else=True,
        require_injective=True,
        require_ordered=True,
        disallow_op=["tirx.exp"],
    )
    tile = rule.MultiLevelTiling(
        structure="SSRSRS",  # S: the spatial loops, R: the reduction's
        max_innermost_factor=64,
        reuse_write=rule.ReuseType(req="may", levels=[1, 2], scope="global"),
    )
    kinds = rule.ParallelizeVectorizeUnroll(
        max_jobs_per_core=16,
        max_vectorize_extent=64,
        unroll_max_steps=[0, 16, 64, 512],
        unroll_explicit=True,
    )
    space = ms.space_generator.PostOrderApply(
        sch_rules=[inline, rule.AddRFactor(), tile, kinds, rule.RandomComputeLocation()],
        postprocs=[
            postproc.DisallowDynamicLoop(),
            postproc.RewriteParallelVectorizeUnroll(),
            postproc.RewriteReductionBlock(),
        ],
        mutator_probs={
            mutator.MutateTileSize(): 0.9,
            mutator.MutateComputeLocation(): 0.05,
            mutator.MutateUnroll(): 0.03,
            mutator.MutateParallel(max_jobs_per_core=16): 0.02,
        },
    )
    return ms.TuneContext(
        mod=task.dispatched[0],
        target=task.target,
        space_generator=space,
        search_strategy=ms.search_strategy.EvolutionarySearch(population_size=128),
        task_name=task.task_name,
        rand_state=seed,
    )


# A schedule that was found takes the place of the default loops, kernel by kernel.


def with_schedules(module: IRModule, schedules: dict[str, IRModule]) -> IRModule:
    """The module with other loops for some kernels; `schedules` has them by the task's name."""
    defaults = kernels(module)
    tuned = {module_hash(defaults[name]): found for name, found in schedules.items()}
    result = module.clone()
    for name, default in defaults.items():
        if scheduled := tuned.get(module_hash(default)):
            function = scheduled["main"].with_attr("global_symbol", name)
            result[name] = function.with_attr("tirx.is_scheduled", True)
    return result


def kernels(module: IRModule) -> dict[str, IRModule]:
    """Every kernel as a module of its own, with the function "main", as a task has it."""
    return {
        variable.name_hint: IRModule({"main": function.with_attr("global_symbol", "main")})
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }


# ------------------------------------------------------------------------------- 5 spread a budget
#
# A search costs time, and there are nineteen. In equal shares most of it would be wasted: some
# kernels take a thousandth of the model's time. What a search can save is in proportion to what its
# kernel costs the model, weight x seconds of one call; and what one more batch of trials brings
# shrinks with the number of those before it. So the next batch goes to the task with the largest
#
#     weight x seconds / (batches + 1)
#
# With fixed seconds this shares the batches in proportion to weight x seconds (parliaments share
# their seats so: D'Hondt's method). But seconds are not fixed: as a task gets faster, its share
# moves to others. MetaSchedule's own scheduler, "gradient", goes further, and looks at how much the
# last batches have brought.


@dataclass(frozen=True)
class Tuning:
    """How far the search for one task is: how often the model calls the kernel, the seconds of a
    call with the best loops so far (at first the default loops), and the batches measured."""

    name: str
    weight: int
    seconds: float
    batches: int


@exercise("whole_models.5", "Whose turn is it?")
def next_task(tasks: list[Tuning]) -> int:
    """The place in `tasks` of the one that gets the next batch; of equals, the first."""
    # TODO(whole_models.5): one line will do, three are clearer.
    raise NotImplementedError("whole_models.5 next_task")


# A search times each schedule once. Of hundreds, the fastest is then partly the luckiest, and
# whoever believes its time is disappointed: the winner's curse. So `--tune` ends with the few
# fastest of each task, timed again in turns; from these samples alone it is decided which is the
# best, and what its time is.

# ----------------------------------------------------------------- worked: where the time goes
#
# Relax's virtual machine can be watched: an instrument is called before and after each kernel, with
# its name.


def instrument(machine: relax.VirtualMachine, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each kernel, added up call by call while `machine` runs, by its name."""
    seconds: dict[str, float] = {}
    started: list[float] = []

    def tell(_function, name: str, before: bool, _result, *_arguments) -> int:
        if before:
            started.append(clock())
        else:
            seconds[name] = seconds.get(name, 0.0) + clock() - started.pop()
        return int(relax.VMInstrumentReturnKind.NO_OP)

    machine.set_instrument(tell)
    return seconds


# When you run this file, both models are compiled and compared with PyTorch, and ResNet-18 is timed
# with the default loops, tuned, and in PyTorch. Before you look: where should the next minute of
# tuning go?
