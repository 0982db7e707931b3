"""Lab: deployment, or what is left of the compiler when the model is shipped.

    python -m tvm_practice.labs.deploy                          run this lesson
    python -m tvm_practice.labs.deploy --hint deploy.1          a nudge, when you are stuck
    python -m tvm_practice.labs.deploy --model FILE.py:FUNCTION  a model of your own, see the end

Until now every model ran in the process that compiled it, with the compiler, PyTorch and Python
around it: gigabytes, and seconds before the first number. None of that is needed to run a model.
What is needed is machine code, the parameters, and somebody who calls the kernels in the right
order. This lab puts the first two into one file, a shared library, and leaves everything else
behind, step by step: PyTorch, the compiler, Python, and in the end the machine itself.
"""

from pathlib import Path  # noqa: F401 - for you to use

import numpy as np
import tvm
import tvm_ffi  # noqa: F401 - for you to use
from tvm import IRModule, relax, te, tirx
from tvm.s_tir import Schedule
from tvm.target import Target

from tvm_practice.common.exercise import exercise

# ---------------------------------------------------------------- worked: a model of any batch size
#
# A deployed model is called with batches of any size, so the number of rows is not compiled in: it
# is a variable of the shape. (torch.export does the same with `dynamic_shapes`; the guide's chapter
# on deployment shows it.) The parameters are constants, and will be part of the library.


def two_layers(weights: list[np.ndarray]) -> IRModule:
    """y = relu(x @ w1 + b1) @ w2 + b2 for any number of rows of x, fused to two kernels.

    weights: w1, b1, w2, b2.
    """
    w1, b1, w2, b2 = (relax.const(array) for array in weights)
    rows = tirx.Var("rows", "int64")
    x = relax.Var("x", relax.TensorType((rows, weights[0].shape[0]), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            hidden = builder.emit(relax.op.add(relax.op.matmul(x, w1), b1))
            hidden = builder.emit(relax.op.nn.relu(hidden))
            y = builder.emit_output(relax.op.add(relax.op.matmul(hidden, w2), b2))
        builder.emit_func_output(y)
    return relax.get_pipeline("zero")(builder.get())


# ----------------------------------------------------------------------------------------- 1 export
#
# tvm.compile gives an executable: the bytecode of the graph, the constants, and an object file with
# the kernels. `export_library(path)` writes them as one file. It does so as any compiler does: it
# calls a linker, and that is a program of the machine's, g++ unless told:
#
#     executable.export_library(path, cc="clang++")
#
# For a machine of another kind the kernels must be compiled for it, which is the target's affair,
# and linked by a linker that knows its object files, which is not TVM's. So both are arguments.


@exercise("deploy.1", "Export a shared library")
def export(module: IRModule, target: Target, path: str, linker: str) -> None:
    """Compile the module for `target`, and write it to `path` as a shared library.

    module: a graph with the function "main", such as `two_layers` makes. linker: the program to
    link with, such as "g++", or "aarch64-linux-gnu-g++" if the target is another machine.
    """
    # TODO(deploy.1): about 2 lines.
    raise NotImplementedError("deploy.1 export")


# ----------------------------------------------------------------- worked: a program without Python
#
# deployment/run_model.cc, next to this file, runs such a library from C++. Read it; it is short.
# Four of its lines matter:
#
#     Module::LoadFromFile(path)                   loads the library
#     library->GetFunction("vm_load_executable")   makes a virtual machine of the bytecode in it
#     machine->GetFunction("vm_initialization")    tells it the device, and how to allocate
#     machine->GetFunction("main")                 the model
#
# The program calls functions of libtvm_ffi.so, the calling convention of TVM, and of nothing else.
# The virtual machine is in libtvm_runtime.so, and makes itself known when that is loaded: none of
# its functions is called by name in C++.

# -------------------------------------------------------------------------- 2 build the C++ program
#
# What is left is to compile it. Whoever has never had to: a C++ compiler wants to know
#
#     -std=c++17 -O2      the language, and whether to optimize
#     -Ifolder            where headers are, such as <tvm/ffi/function.h>: one for each folder
#     file.cc             what to compile
#     -o file             what to write
#     library.so          what to link with. A library comes after what needs it.
#
# A path given for a library is only for the linker. When the program starts, another program looks
# for the libraries again, by their names, in the system's folders: TVM's are not there. The program
# can carry a list of further folders with it: -Wl,-rpath,folder. And on some systems (Ubuntu is
# one) the linker drops a library of which no function is called by name; -Wl,--no-as-needed before
# the libraries keeps them all.


@exercise("deploy.2", "Build a program that runs it, in C++")
def build_command(
    compiler: str, source: str, program: str, headers: list[str], libraries: list[str]
) -> list[str]:
    """The command that compiles `source` to `program`, as a list of the compiler and its arguments.

    headers: folders with headers. libraries: the paths of libtvm_ffi.so and libtvm_runtime.so. Both
    are to be loaded when the program starts, from where they lie now.
    """
    # TODO(deploy.2): about 6 lines.
    raise NotImplementedError("deploy.2 build_command")


# ---------------------------------------------------------------------- 3 Python without a compiler
#
# The same four lines from Python, in a process that has no compiler: `tvm` is a package with a
# compiler in it, and on the machine that a model is deployed on it is not installed. This process
# has libtvm_runtime.so (already loaded) and the small package tvm_ffi:
#
#     tvm_ffi.load_module(path)      loads a library
#     module["name"]                 a function of it, to be called
#     tvm_ffi.from_dlpack(array)     a NumPy array as a tensor; nothing is copied
#     np.from_dlpack(tensor)         and back
#
# 1 is the CPU in the numbers of DLPack, by which frameworks name devices.


@exercise("deploy.3", "Load and run it without a compiler, in Python")
def run_library(library: str, batches: list[np.ndarray]) -> list[np.ndarray]:
    """The results of the library's "main" for all batches, as NumPy arrays in their order.

    library: the path of an exported library. batches: float32 arrays, of different numbers of rows.
    Of TVM only tvm_ffi may be used.
    """
    # TODO(deploy.3): about 5 lines.
    raise NotImplementedError("deploy.3 run_library")


# -------------------------------------------------------------------------------- 4 another machine
#
# A target says for which machine to generate code. For this one three of its entries are found by
# themselves or do not matter; for another one they have to be given:
#
#     mtriple     the kind of processor, and the system: the calling convention and the object
#                 format follow from it. "x86_64-linux-gnu", "aarch64-linux-gnu" (64-bit ARM),
#                 "arm-linux-gnueabihf" (32-bit ARM)
#     mcpu        which processor of that kind, by LLVM's name: which instructions it has
#     num-cores   for how many threads a search should share out the work
#
# The kernel below asks for vectors of 16 floats. How many a machine's registers hold is for LLVM
# to know: it takes one instruction where 16 fit, and several where they do not.


def scale() -> Schedule:
    """y = 3 x for 1024 numbers, 16 at a time."""
    x = te.placeholder((1024,), "float32", name="x")
    y = te.compute((1024,), lambda i: x[i] * tirx.const(3.0, "float32"), name="y")
    sch = Schedule(te.create_prim_func([x, y]))
    (i,) = sch.get_loops(sch.get_sblock("y"))
    _, lanes = sch.split(i, [None, 16])
    sch.vectorize(lanes)
    return sch


def assembly(target: Target) -> str:
    """What `scale` is compiled to for a machine that need not be this one."""
    return tvm.compile(scale().mod, target=target).mod.inspect_source("asm")


@exercise("deploy.4", "Name another machine")
def board(cpu: str, cores: int) -> Target:
    """The target of a computer with 64-bit ARM processors that runs Linux, such as a Raspberry Pi
    4: cpu is "cortex-a72" there, and it has 4 cores."""
    # TODO(deploy.4): about 8 lines, or one long one.
    raise NotImplementedError("deploy.4 board")


# ------------------------------------------------------------------------------ a model of your own
#
#     python -m tvm_practice.labs.deploy --model my_model.py:make
#
# `make` takes nothing and returns your PyTorch module and a tuple of example inputs. The module is
# imported, compiled, compared with PyTorch and exported. If it cannot be, you are told which part
# of your module it is, and which operator.
#
# When you run this file, the library is started in four ways, with less and less around it, and a
# fifth time as a program for an ARM processor, which an emulator executes. Before you look: what
# must a process load before the first number comes out, and what does that cost?
