"""Phase 4: whole models, or what a compiler can do that sees all of it.

    python -m tvm_practice.relay_import             run this lesson
    python -m tvm_practice.relay_import --hint 4.1  a nudge, when you are stuck

Relay, which gave this file its name, was TVM's language for whole models; TVM 0.20 (2025) removed
it. Relax stands in its place, and keeps the graph of a model and the loops of its operators in one
module, where a pass can see both.

Until now there was one operator, and a schedule for it. A model is a graph of operators, and each
one by itself is a loop over memory: it reads what the last one wrote, and writes what the next one
reads. In eager PyTorch it cannot be otherwise, because a kernel runs before anybody knows what
comes next. A compiler knows, and can

    fold      compute now what depends on parameters only: they will not change any more
    drop      leave out what nobody reads
    fuse      make one kernel of several, so that what flows between them need not go through memory

That is the work of passes. A pass takes a module and returns a new one; the given one stays as it
was.
"""

import math
from contextlib import suppress

import numpy as np
import torch
import tvm
from torch import nn
from tvm import IRModule, relax, tirx
from tvm.relax import transform
from tvm.relax.frontend.torch import from_exported_program  # noqa: F401 - for you to use
from tvm.s_tir import Schedule, ScheduleError
from tvm.target import Target

from tvm_practice.common.exercise import exercise
from tvm_practice.common.target import cpu_target, register_tile

# ----------------------------------------------------------------------------------- the two models


class MLP(nn.Module):
    """Two linear layers, for vectors of 784 numbers (a 28 x 28 picture, row after row)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 256)
        self.out = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))


class CNN(nn.Module):
    """Two convolutions, each with batch norm and ReLU, for pictures of 3 channels and any height
    and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.out = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.out(x.mean((2, 3)))


def pretend_trained(model_class: type[nn.Module], seed: int) -> nn.Module:
    """A model with random parameters, batch norm's statistics too.

    Fresh from its constructor a batch norm has mean 0 and variance 1 and changes next to nothing: a
    compiler that got it wrong would not be noticed.
    """
    torch.manual_seed(seed)
    model = model_class()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.3, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return model


# -------------------------------------------------------------------------- worked: a graph by hand
#
# A Relax module is a set of functions. "main" is the graph: it binds the result of each operator to
# a variable and does nothing else. Everything in it has a type with a shape, so the memory a model
# needs is known before it runs. Inside the dataflow block nothing has a side effect; that is what
# allows passes to move, merge and drop operators there.


def linear_relu(rows: int, inputs: int, outputs: int) -> IRModule:
    """y = relu(x @ w), as a Relax graph with two inputs."""
    x = relax.Var("x", relax.TensorType((rows, inputs), "float32"))
    w = relax.Var("w", relax.TensorType((inputs, outputs), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, w))
            y = builder.emit_output(relax.op.nn.relu(product))
        builder.emit_func_output(y)
    return builder.get()


# --------------------------------------------------------------------------------------- 4.1 import
#
# Nobody writes the graph of a real model by hand. PyTorch can give it away:
#
#     torch.export.export(model, (example,))   runs the model on fake tensors shaped like `example`,
#                                              and writes down every operator it meets: the result
#                                              is an ExportedProgram
#     from_exported_program(program, ...)      translates that to a Relax module
#
# What the model is at the moment of the export is what you get, and three things are to be decided:
#
#   - Its mode. A model starts in training mode, where batch norm normalizes by the statistics of
#     the batch at hand. What you want to deploy is `model.eval()`: it uses those of the training.
#   - Its parameters. With keep_params_as_input=True they become inputs of "main", to be passed at
#     every call. With False they become constants, and with constants a compiler can compute.
#   - Its result. An ExportedProgram returns a tuple, even of one tensor;
#     unwrap_unit_return_tuple=True takes the one out.
#
# The shape of the example is compiled in: the module takes batches of that size. (torch.export can
# leave an extent open, and Relax can too. A compiler that knows every extent makes better loops,
# and we take that.)


@exercise("4.1", "Import a PyTorch model")
def import_model(model: nn.Module, example: torch.Tensor) -> IRModule:
    """The Relax module of a PyTorch model: "main" takes one float32 tensor of example's shape and
    returns one tensor.

    model: as its constructor left it, in training mode; the module is to be the model in evaluation
    mode, with its parameters as constants. example: a batch; its values do not matter.
    """
    # TODO(4.1): about 3 lines.
    raise NotImplementedError("4.1 import_model")


# ------------------------------------------------------------------------------- worked: a pipeline
#
# tvm.transform.Sequential makes one pass of several, which run in the order given. For the graph
# above:


def lower(module: IRModule) -> IRModule:
    """One kernel for each operator, and no kernel that nobody calls."""
    pipeline = tvm.transform.Sequential(
        [
            transform.LegalizeOps(),
            transform.DeadCodeElimination(),
        ]
    )
    return pipeline(module)


# LegalizeOps replaces each operator, such as R.matmul, by R.call_tir(matmul, ...): a call of a
# TensorIR function that now stands in the module beside "main". That is a kernel: the loops you
# know from phase 1.

# ----------------------------------------------------------------------------- 4.2 the graph passes
#
# Which kernels may become one? TVM decides that by their class, and reads the class of a kernel off
# its loops:
#
#     injective     each element of the output is made of one element of each input: relu, add,
#                   reshape. Fuses with kernels before and after it that are injective too.
#                   (TVM tells elementwise and broadcast apart from the rest of this class.)
#     reduction     an element is made of many: sum, max. Fuses with the injective kernels it reads.
#     out-fusable   more than a plain reduction: conv2d, matmul, mean (a sum, then a division).
#                   Fuses with the elementwise kernels that read its result.
#     opaque        nothing is known of it: a call of a library. Fuses with nothing.
#
# In the order of the alphabet, these passes are needed:
#
#     AnnotateTIROpPattern()    notes on each kernel its class
#     FoldBatchnormToConv2D()   of a conv2d and the batch_norm after it: puts the scale into the
#                               weights, and leaves the addition of a constant
#     FoldConstant()            runs, now, kernels that read constants only, and keeps the result
#     FuseOps()                 groups kernels by their classes: each group becomes a Relax function
#     FuseTIR()                 makes one kernel of each such group
#     LegalizeOps()             makes a kernel of each operator
#
# The order is for you to find. Ask of each: does it look for operators or for kernels? What must
# another pass have left for it?


@exercise("4.2", "A pipeline of graph passes")
def optimize(module: IRModule) -> IRModule:
    """The module after the six passes above, in an order in which each finds what it looks for.

    module: as import_model returns it, and it stays as it is. In the module that is returned, no
    call reads constants only, batch norm is gone, and every bias and ReLU is part of the kernel
    that makes its input.
    """
    # TODO(4.2): about 10 lines.
    raise NotImplementedError("4.2 optimize")


# ------------------------------------------------------------------ worked: compile and run a graph
#
# A graph is compiled to an executable, and a virtual machine runs that: it holds the memory, calls
# one kernel after the other, and decides nothing. All decisions were made before.


def run_linear_relu(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """relu(x @ w), computed by a virtual machine."""
    module = lower(linear_relu(*x.shape, w.shape[1]))
    executable = tvm.compile(module, target=cpu_target())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    y = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(w))
    return y.numpy()


# tvm.runtime.tensor is not a matter of taste: handed a NumPy or a torch array, the virtual machine
# of TVM 0.27 ends the process with a segmentation fault.

# ------------------------------------------------------------------------------ 4.3 compile and run
#
# Compiling takes a second, running a millisecond. So compile once, and run every batch.


@exercise("4.3", "Compile, and run on the virtual machine")
def compile_and_run(
    module: IRModule, batches: list[np.ndarray], target: Target
) -> list[np.ndarray]:
    """The module's results for all batches, in their order.

    module: as optimize returns it; its "main" takes one tensor. batches: float32 arrays of the
    shape it takes. target: what to compile for. Return a list of NumPy arrays, one for each batch.
    """
    # TODO(4.3): about 5 lines.
    raise NotImplementedError("4.3 compile_and_run")


# ------------------------------------------------------------------------ worked: a pass of our own
#
# Graph passes leave the loops as they are. FuseTIR puts the loops of conv2d, addition and ReLU into
# one kernel, one nest after the other, and in between the values still go through memory. What it
# has changed is that one schedule can reach them all now. So the last pass is one of ours: phase
# 2's steps, on every kernel of the module. All of it is known to you, except that it does not know
# the kernel, and has to ask.


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
def schedule_kernels(module: IRModule, _: tvm.transform.PassContext) -> IRModule:
    """A register tile for every kernel with one reduction, threads for all; where that does not
    fit, the default loops."""
    scheduled = module.clone()
    for name, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            sch = Schedule(function)
            try:
                schedule_kernel(sch)
            except ScheduleError:
                continue
            scheduled[name] = sch.mod["main"]
    return scheduled


def schedule_kernel(sch: Schedule) -> None:
    """Schedule one kernel, whatever it computes."""
    for block in blocks_of(sch):  # relu(t + bias): t + bias needs no array of its own
        readers = sch.get_consumers(block)
        if readers and not any(reduces(sch, one) for one in (block, *readers)):
            with suppress(ScheduleError):  # it is an output as well
                sch.compute_inline(block)
    reductions = [block for block in blocks_of(sch) if reduces(sch, block)]
    others = [block for block in blocks_of(sch) if not reduces(sch, block)]
    if len(reductions) == 1:
        (reduction,) = reductions
        if not sch.get_consumers(reduction):
            sch.cache_write(reduction, 0, "local")
        (last,) = sch.get_consumers(reduction)  # bias and ReLU if they were fused, else the copy
        tile(sch, reduction, last)
        others = [block for block in others if sch.get(block).name_hint != sch.get(last).name_hint]
    for block in others:
        *outer, _ = sch.get_loops(block)  # LLVM makes vectors of so plain a loop by itself
        if outer:
            sch.parallel(sch.fuse(*outer))


def tile(sch: Schedule, reduction, last) -> None:
    """Keep a tile of the reduction's sums in registers until `last` has made the result of them."""
    rows, columns = register_tile()
    *outer, x = sch.get_loops(last)
    # Rows of the tile share what they read of the other input: a matmul's rows, a convolution's
    # channels.
    shared = 1 if len(outer) == 3 else 0
    outer[shared], row = split_off(sch, outer[shared], rows)
    column, x = split_off(sch, x, columns)
    sch.reorder(*outer, column, row, x)
    task = sch.fuse(*outer, column)
    sch.parallel(task)
    sch.compute_at(reduction, task)
    sch.set_scope(reduction, 0, "local")
    inside = sch.get_loops(reduction)[1:]
    reduced = sum(
        axis.iter_type == tirx.IterVar.CommReduce for axis in sch.get(reduction).iter_vars
    )
    spatial, steps = inside[:-reduced], inside[-reduced:]
    sch.reorder(*steps, *spatial)
    for loop in (*spatial[:-1], row):
        sch.unroll(loop)
    sch.vectorize(spatial[-1])
    sch.vectorize(x)
    sch.decompose_reduction(reduction, steps[0])


def split_off(sch: Schedule, loop, factor: int) -> list:
    """Split by the largest divisor of the loop's extent that `factor`, a power of two, has room
    for."""
    return sch.split(loop, [None, math.gcd(int(sch.get(loop).extent), factor)])


def reduces(sch: Schedule, block) -> bool:
    return any(axis.iter_type == tirx.IterVar.CommReduce for axis in sch.get(block).iter_vars)


def blocks_of(sch: Schedule) -> list:
    return sch.get_child_blocks(sch.get_sblock("root"))


# When you run this file, both models go through your functions, and are timed against eager PyTorch
# at each stage: as imported, folded, and fused, with and without schedules. Guess first: which of
# the two is worth more, fusing or scheduling? And what can graph passes do that no schedule of an
# operator can?
