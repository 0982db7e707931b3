"""Answers to the lab on deployment: first attempts gone wrong, and right answers unlike the
reference."""

import os

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.support import cc
from tvm.target import Target

from tests.wrong_answers import right, wrong

# ----------------------------------------------------------------------------------------- 1 export


@right("deploy.1")
def export_with_a_linking_function(module, target, path, linker):
    tvm.compile(module, target=target).export_library(path, fcompile=cc.cross_compiler(linker))


@right("deploy.1")
def export_by_relax(module, target, path, linker):
    with target:
        relax.build(module, target=target).export_library(path, cc=linker, options=["-s"])


@wrong("deploy.1", "was never called", hint="where the name of the linker goes")
def export_without_the_linker(module, target, path, linker):
    tvm.compile(module, target=target).export_library(path)


@wrong("deploy.1", "the kernels were compiled for ")
def export_without_the_target(module, target, path, linker):
    tvm.compile(module).export_library(path, cc=linker)


@wrong(
    "deploy.1", "there is no file model.so at `path`", hint="Which of its methods writes a library"
)
def export_nothing(module, target, path, linker):
    return tvm.compile(module, target=target)


@wrong("deploy.1", "written was model.so.so", hint="`path` is the whole name")
def export_with_another_ending(module, target, path, linker):
    tvm.compile(module, target=target).export_library(path + ".so", cc=linker)


# ---------------------------------------------------------------------------------- 2 build_command


@right("deploy.2")
def build_by_names(compiler, source, program, headers, libraries):
    command = [compiler, "-O2", "-std=c++20", source, "-o", program, "-Wl,--no-as-needed"]
    for folder in headers:
        command += ["-I", folder]
    for library in libraries:
        folder, name = os.path.split(library)
        command += ["-L", folder, "-l", name[3:-3], "-Wl,-rpath", f"-Wl,{folder}"]
    return command


@right("deploy.2")
def build_with_one_list_of_folders(compiler, source, program, headers, libraries):
    folders = ":".join(os.path.dirname(one) for one in libraries)
    return (
        [compiler, "-std=c++17", f"-Wl,-rpath={folders}", "-Wl,--no-as-needed", "-o", program]
        + [source, *libraries]
        + [f"-I{folder}" for folder in headers]
    )


@wrong("deploy.2", "A -I is missing", hint="`headers` has several folders")
def build_without_headers(compiler, source, program, headers, libraries):
    return [compiler, "-std=c++17", source, "-o", program, *libraries]


@wrong("deploy.2", "stand after the source file", hint="The linker takes from a library")
def build_with_libraries_first(compiler, source, program, headers, libraries):
    includes = [f"-I{one}" for one in headers]
    return [compiler, "-std=c++17", *libraries, *includes, source, "-o", program]


@wrong("deploy.2", "-Wl,-rpath,folder keeps the folder", hint="A folder, not a file")
def build_without_a_path_for_the_start(compiler, source, program, headers, libraries):
    includes = [f"-I{one}" for one in headers]
    return [compiler, *includes, source, "-o", program, "-Wl,--no-as-needed", *libraries]


@wrong("deploy.2", "it does not know relax.VMExecutable")
def build_without_the_virtual_machine(compiler, source, program, headers, libraries):
    includes = [f"-I{one}" for one in headers]
    ffi, _ = libraries
    path = f"-Wl,-rpath,{os.path.dirname(ffi)}"
    return [compiler, "-std=c++17", *includes, source, "-o", program, ffi, path]


@wrong("deploy.2", "the compiler wrote a.out")
def build_without_a_name(compiler, source, program, headers, libraries):
    includes = [f"-I{one}" for one in headers]
    return [compiler, "-std=c++17", *includes, source, "-Wl,--no-as-needed", *libraries]


@wrong("deploy.2", "expected a list", hint="Begin with [compiler")
def build_as_a_line(compiler, source, program, headers, libraries):
    return f"{compiler} {source} -o {program}"


@wrong("deploy.2", "is one argument with a space in it", hint="in a list a comma does")
def build_with_glued_arguments(compiler, source, program, headers, libraries):
    includes = [f"-I{one}" for one in headers]
    return [compiler, "-std=c++17", *includes, source, f"-o {program} -O2", *libraries]


# ------------------------------------------------------------------------------------ 3 run_library


@right("deploy.3")
def run_by_get_function(library, batches):
    load = tvm_ffi.load_module(library).get_function("vm_load_executable")
    machine = load()
    machine.get_function("vm_initialization")(1, 0, 1)
    results = []
    for batch in batches:
        tensor = machine.get_function("main")(tvm_ffi.from_dlpack(batch))
        results.append(np.from_dlpack(tensor).copy())
    return results


@right("deploy.3")
def run_as_a_tuple(library, batches):
    machine = tvm_ffi.load_module(library)["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    return tuple(np.from_dlpack(machine["main"](tvm_ffi.from_dlpack(one))) for one in batches)


@wrong(
    "deploy.3",
    "is of the package tvm, which is not here",
    hint="which function of the library makes one",
)
def run_with_the_compiler(library, batches):
    machine = relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
    return [machine["main"](tvm.runtime.tensor(one)).numpy() for one in batches]


@wrong("deploy.3", "was not told where to run", hint="It takes three numbers")
def run_without_initialization(library, batches):
    machine = tvm_ffi.load_module(library)["vm_load_executable"]()
    return [np.from_dlpack(machine["main"](tvm_ffi.from_dlpack(one))) for one in batches]


@wrong("deploy.3", "expected a list of NumPy arrays")
def run_and_return_tensors(library, batches):
    machine = tvm_ffi.load_module(library)["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    return [machine["main"](tvm_ffi.from_dlpack(one)) for one in batches]


@wrong("deploy.3", "the library was loaded 3 times", hint="the same for every batch")
def run_and_load_each_time(library, batches):
    results = []
    for batch in batches:
        machine = tvm_ffi.load_module(library)["vm_load_executable"]()
        machine["vm_initialization"](1, 0, 2)
        results.append(np.from_dlpack(machine["main"](tvm_ffi.from_dlpack(batch))))
    return results


@wrong(
    "deploy.3",
    "3 batches were given, 1 result came back",
    hint="Which of your lines belong into a loop",
)
def run_the_first_only(library, batches):
    machine = tvm_ffi.load_module(library)["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    return [np.from_dlpack(machine["main"](tvm_ffi.from_dlpack(batches[0])))]


@wrong("deploy.3", "main is not in the library itself", hint="stand two calls")
def run_main_of_the_library(library, batches):
    main = tvm_ffi.load_module(library)["main"]
    return [np.from_dlpack(main(tvm_ffi.from_dlpack(batch))) for batch in batches]


# ------------------------------------------------------------------------------------------ 4 board


@right("deploy.4")
def board_with_a_vendor(cpu, cores):
    return Target(
        {"num-cores": cores, "mcpu": cpu, "mtriple": "aarch64-unknown-linux-gnu", "kind": "llvm"}
    )


@right("deploy.4")
def board_with_features(cpu, cores):
    entries = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": cores}
    return Target({**entries, "mattr": ["+neon"], "device": "arm_cpu"})


@wrong("deploy.4", "has no mtriple", hint="Three triples stand above")
def board_without_a_triple(cpu, cores):
    return Target({"kind": "llvm", "mcpu": cpu, "num-cores": cores})


@wrong("deploy.4", "is not 64-bit ARM", hint="Three triples stand above")
def board_of_32_bits(cpu, cores):
    return Target(
        {"kind": "llvm", "mtriple": "arm-linux-gnueabihf", "mcpu": cpu, "num-cores": cores}
    )


@wrong("deploy.4", "names no processor")
def board_of_any_kind(cpu, cores):
    return Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": cores})


@wrong("deploy.4", "and 4 cores, as for the computer before", hint="What differs from computer")
def board_of_one_computer(cpu, cores):
    return Target(
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 4}
    )


@wrong("deploy.4", "leaves num-cores out")
def board_without_cores(cpu, cores):
    return Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu})


@wrong("deploy.4", "expected a tvm.target.Target", hint="makes one of such a dictionary")
def board_as_a_dictionary(cpu, cores):
    return {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": cores}


@wrong("deploy.4", "is of an older TVM")
def board_as_a_line(cpu, cores):
    return Target(f"llvm -mtriple=aarch64-linux-gnu -mcpu={cpu} -num-cores={cores}")
