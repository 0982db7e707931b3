"""What "done" means in the lab on deployment: the library, the program and the process work, and
were made for the machine that was asked for."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tvm_practice.checks import Trial, check
from tvm_practice.common import deployed, verify
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.target import cpu_target, require_compiler
from tvm_practice.common.verify import Wrong

lesson = load_lesson("deploy")

SIZES = (40, 24, 6)  # of the input, between the layers, of the result
PI = ("cortex-a72", 4)
INTEL = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell", "num-cores": 4}


def linker() -> str:
    """The path of g++. Raises UnusableTarget without it."""
    return require_compiler(
        "a library is exported by linking it, and a C++ program has to be compiled: both with g++"
    )


def weights(rng: np.random.Generator, sizes: tuple[int, int, int] = SIZES) -> list[np.ndarray]:
    inputs, hidden, outputs = sizes
    shapes = ((inputs, hidden), (hidden,), (hidden, outputs), (outputs,))
    return [verify.random_array(rng, *shape) for shape in shapes]


def exported(trial: Trial) -> tuple[list[np.ndarray], Path]:
    """The weights of a model, and its library, by the reference, in a folder of its own."""
    given, library = weights(trial.rng), Path(tempfile.mkdtemp()) / "model.so"
    body_of("deploy.1")(lesson.two_layers(given), cpu_target(), str(library), linker())
    return given, library


def assert_right(got: np.ndarray, x: np.ndarray, given: list[np.ndarray], what: str) -> None:
    """Raise Wrong unless `got` is the model's result for x."""
    w1, b1, w2, b2 = (array.astype("float64") for array in given)
    want = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    magnitude = (abs(x) @ abs(w1) + abs(b1)) @ abs(w2) + abs(b2)
    verify.assert_close(got, want, magnitude, len(w1) + len(w2) + 4, what)


def script(path: Path, text: str) -> str:
    """Write a shell script that can be called as a compiler."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# ----------------------------------------------------------------------------------------- 1 export


@check(
    "deploy.1",
    hints=(
        "Two calls: one compiles for the target, and what it returns can write itself as a "
        "library.",
        "tvm.compile(module, target=...), then export_library of the executable; the linker is "
        "an argument of the second.",
        "executable = tvm.compile(module, target=target); executable.export_library(path, "
        "cc=linker)",
    ),
    told={
        "was never called": (
            'In the line above the exercise, where does "clang++" stand? That is where the name of '
            "the linker goes."
        ),
        "has returned, and there is no file": (
            "What tvm.compile returns is in memory. Which of its methods writes a library?"
        ),
        "written was": "`path` is the whole name, its ending too: hand it on as it is.",
    },
)
def export(body: Callable, trial: Trial) -> None:
    import tvm
    from tvm import relax
    from tvm.target import Target

    given = weights(trial.rng)
    module = lesson.two_layers(given)
    folder = Path(tempfile.mkdtemp())
    path, log = folder / "model.so", folder / "linked"
    # A linker that says it was called, and one that keeps what it was to link for another machine.
    here = script(folder / "linker", f'touch {log}\nexec {shlex.quote(linker())} "$@"')
    trial.call(body, module, cpu_target(), str(path), here)
    _assert_linked(path, log, here)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    for rows in (1, 5):
        x = verify.random_array(trial.rng, rows, SIZES[0])
        got = machine["main"](tvm.runtime.tensor(x)).numpy()
        assert_right(got, x, given, f"the library's result for {rows} rows")
    here_is = deployed.elf_machine(path)
    path, log = folder / "other.so", folder / "other_linked"
    there = script(
        folder / "other_linker",
        f'touch {log}\nfor file in "$@"; do case $file in *.o) cat "$file" >> {path};; esac; done',
    )
    wanted, other = "AArch64", body_of("deploy.4")(*PI)
    if here_is == wanted:
        wanted, other = "x86-64", Target(INTEL)
    trial.call(body, module, other, str(path), there)
    _assert_linked(path, log, there)
    kind = deployed.elf_machine(path)
    if kind != wanted:
        raise Wrong(
            f"For a target with {wanted} processors the kernels were compiled for {kind}. "
            "tvm.compile takes this machine unless it is told `target=`."
        )


def _assert_linked(path: Path, log: Path, program: str) -> None:
    if not log.exists():
        if not path.exists():
            raise Wrong(f"export(...) has returned, and there is no file {path.name} at `path`.")
        raise Wrong(
            f"{path.name} was not made by the linker that was given: {Path(program).name} was "
            "never called. Left alone, TVM takes the first compiler that it finds, which cannot "
            "link for another machine."
        )
    if not path.exists():
        others = ", ".join(sorted(one.name for one in path.parent.glob("*.so*"))) or "nothing"
        raise Wrong(f"There is no file {path.name} at `path`; written was {others}.")


# ---------------------------------------------------------------------------------- 2 build_command


@check(
    "deploy.2",
    hints=(
        "Write the command down as you would type it, then as a list: an element for each word.",
        "After the compiler: -std=c++17, a -I for each folder, the source, -o and the program, "
        "-Wl,--no-as-needed, the paths of the libraries, a -Wl,-rpath, for the folder of each.",
        'rpaths = [f"-Wl,-rpath,{Path(one).parent}" for one in libraries]; return [compiler, '
        '"-std=c++17", *[f"-I{one}" for one in headers], source, "-o", program, '
        '"-Wl,--no-as-needed", *libraries, *rpaths]',
    ),
    told={
        "A -I is missing": (
            "`headers` has several folders. Each is an argument: -I and the folder in one word."
        ),
        "stand after the source file": (
            "The linker takes from a library what the files before it lack. Where in your list "
            "does `source` stand, and where do `libraries`?"
        ),
        "is forgotten when the program starts": (
            "A folder, not a file, stands after -Wl,-rpath, and each of the two libraries has its "
            "own: Path(library).parent."
        ),
        "expected a list": (
            "Begin with [compiler, and put a name with a star, as *libraries, where the elements "
            "of another list belong."
        ),
        "with a space in it": "In a shell a space parts two arguments, in a list a comma does.",
    },
)
def build_command(body: Callable, trial: Trial) -> None:
    given, library = exported(trial)
    folder = library.parent
    program = folder / "run_model"
    compiler = linker()
    command = trial.call(
        body,
        compiler,
        str(deployed.SOURCE),
        str(program),
        deployed.headers(),
        deployed.libraries(),
    )
    if isinstance(command, str) or not isinstance(command, list | tuple):
        raise Wrong(
            f"build_command(...) returned {command!r:.60}; expected a list, the compiler and each "
            "of its arguments as a string of its own."
        )
    if other := next((one for one in command if not isinstance(one, str)), None):
        raise Wrong(f"The command holds {other!r:.60}; every element of it is a string.")
    if not command or command[0] != compiler:
        first = command[0] if command else "nothing"
        raise Wrong(f"The command starts with {first!r:.60}; expected the compiler that is given.")
    if glued := next((one for one in command if " -" in one), None):
        raise Wrong(
            f"{glued!r:.60} is one argument with a space in it; each is an element of its own."
        )
    here = os.getcwd()
    os.chdir(folder)  # where a program without -o would go
    try:
        deployed.run(list(command), LD_LIBRARY_PATH="")
    except deployed.Failed as error:
        raise Wrong(f"The compiler refuses: {_of_compiler(str(error))}") from None
    finally:
        os.chdir(here)
    if not program.exists():
        written = "a.out" if (folder / "a.out").exists() else "nothing"
        raise Wrong(
            f"It compiles, but there is no {program.name}; the compiler wrote {written}. -o is "
            "followed by the program's path."
        )
    x = verify.random_array(trial.rng, 3, SIZES[0])
    try:
        got = deployed.run_program(program, library, x, SIZES[2])
    except deployed.Failed as error:
        raise Wrong(f"It compiles; run, the program says: {_of_program(str(error))}") from None
    assert_right(got, x, given, "what the program wrote")


def _of_compiler(told: str) -> str:
    reason = next((line for line in told.splitlines() if "error" in line), told.splitlines()[0])
    reason = reason.partition("error: ")[2] or reason
    if "tvm/ffi" in reason and "No such file" in reason:
        return f"{reason}. A -I is missing for the folder of the headers."
    if "undefined reference" in told or "ld returned" in told:
        return (
            "functions of TVM are not found. The libraries are linked with, and stand after the "
            "source file that needs them."
        )
    return reason


def _of_program(told: str) -> str:
    if "error while loading shared libraries" in told:
        name = told.partition("libraries: ")[2].partition(":")[0]
        return (
            f"{name} is not found. The path given to the linker is forgotten when the program "
            "starts; -Wl,-rpath,folder keeps the folder."
        )
    if "VMExecutable" in told or "load_from_bytes" in told:
        return (
            "it does not know relax.VMExecutable. libtvm_runtime.so, which has the virtual "
            "machine, is not loaded: either it is not among the libraries, or the linker dropped "
            "it, because no function of it is called by name; -Wl,--no-as-needed before the "
            "libraries keeps it."
        )
    return told.splitlines()[-1]


# ------------------------------------------------------------------------------------ 3 run_library


@check(
    "deploy.3",
    hints=(
        "The four calls of run_model.cc, once; then one call of main for each batch.",
        '`module["vm_load_executable"]()` makes the machine, '
        '`machine["vm_initialization"](1, 0, 2)` readies it: the CPU, its number, and how to '
        "allocate.",
        '`machine = tvm_ffi.load_module(library)["vm_load_executable"]()`, '
        '`machine["vm_initialization"](1, 0, 2)`, then '
        '`np.from_dlpack(machine["main"](tvm_ffi.from_dlpack(batch)))` for each batch',
    ),
    told={
        "is of the package tvm": (
            "tvm_ffi.load_module loads the library too, and the virtual machine comes out of it: "
            "which function of the library makes one?"
        ),
        "was not told where to run": (
            "It takes three numbers: the kind of device, which of that kind, and how to allocate. "
            "deployment/run_model.cc has them."
        ),
        "main is not in the library itself": (
            "Between loading and the first batch stand two calls: one makes the machine, one tells "
            "it where to run."
        ),
        "the library was loaded": (
            "Which lines in your loop are the same for every batch? They belong before it."
        ),
        "batches were given": (
            "main takes one batch and returns one result. Which of your lines belong into a loop "
            "over `batches`?"
        ),
    },
)
def run_library(body: Callable, trial: Trial) -> None:
    given, library = exported(trial)
    folder = library.parent
    batches = [verify.random_array(trial.rng, rows, SIZES[0]) for rows in (1, 7, 4)]
    file = Path(body.__code__.co_filename)
    whose = "learner" if file == Path(lesson.__file__) else f"{file}:{body.__name__}"
    try:
        done = deployed.run_without_compiler(whose, library, batches, folder)
    except deployed.Failed as error:
        raise Wrong(f"The process without a compiler says: {str(error).splitlines()[-1]}") from None
    if done.raised == "NotImplementedError":
        raise NotImplementedError
    if done.raised:
        raise Wrong(_in_words(done.raised))
    if done.returned != "arrays":
        raise Wrong(
            f"run_library(...) returned {done.returned}; expected a list of NumPy arrays "
            "(np.from_dlpack makes one of a tensor)."
        )
    if len(done.results) != len(batches):
        came = len(done.results)
        raise Wrong(
            f"{len(batches)} batches were given, {came} result{'s' if came != 1 else ''} came back."
        )
    for x, got in zip(batches, done.results, strict=True):
        assert_right(got, x, given, f"the result for a batch of {len(x)}")
    if done.loaded > 1:
        raise Wrong(
            f"The results are right, but the library was loaded {done.loaded} times. Load it once, "
            "and call main for each batch: loading is what takes long."
        )


def _in_words(raised: str) -> str:
    place = re.match(r"At .*`", raised)
    at = f"{place[0]}: " if place else ""
    if "which is not here" in raised:
        return (
            f"{raised}. A compiler is in it, and so it is not where a model is deployed; tvm_ffi "
            "has all that is needed."
        )
    if "func_pool_" in raised:  # what the virtual machine says before it knows a device
        return (
            f"{at}the virtual machine was not told where to run; its vm_initialization comes "
            "before the first call."
        )
    if 'no function "main"' in raised:
        return (
            f"{at}main is not in the library itself, which has kernels and bytecode, but in the "
            "virtual machine that vm_load_executable makes of them."
        )
    return raised


# ------------------------------------------------------------------------------------------ 4 board


@check(
    "deploy.4",
    hints=(
        "A target is made of a dictionary, as in phase 1; four entries.",
        'The kind is "llvm": the same compiler, told to generate for another machine. The triple '
        'of 64-bit ARM Linux is "aarch64-linux-gnu".',
        'Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": cores})',
    ),
    told={
        "has no mtriple|is not 64-bit ARM|does not name Linux": (
            "Three triples stand above the exercise. Which of them is of 64-bit ARM, and of Linux?"
        ),
        "those that it is given": (
            "What differs from computer to computer is an argument of `board`. Which of your "
            "entries are the same in every call?"
        ),
        "expected a tvm.target.Target": "`Target` makes one of such a dictionary; return that.",
    },
)
def board(body: Callable, trial: Trial) -> None:
    from tvm.target import Target

    for cpu, cores in (PI, ("neoverse-n1", 8)):
        call = f'board("{cpu}", {cores})'
        target = trial.call(body, cpu, cores)
        if not isinstance(target, Target):
            raise Wrong(f"{call} returned {target!r:.80}; expected a tvm.target.Target.")
        if str(target.kind) != "llvm":
            raise Wrong(f'{call} is of the kind "{target.kind}"; "llvm" generates code for CPUs.')
        attributes = {str(name): value for name, value in target.attrs.items()}
        triple = str(attributes.get("mtriple", ""))
        if not triple:
            raise Wrong(f"{call} has no mtriple, so code is generated for this machine's kind.")
        if not triple.startswith(("aarch64", "arm64")):
            raise Wrong(f'{call} has the triple "{triple}", which is not 64-bit ARM.')
        if "linux" not in triple:
            raise Wrong(f'The triple "{triple}" does not name Linux.')
        if "mcpu" not in attributes:
            raise Wrong(
                f"{call} names no processor, so LLVM uses what every one of its kind has: mcpu is "
                f'to be "{cpu}".'
            )
        if "num-cores" not in attributes:
            raise Wrong(
                f"{call} leaves num-cores out; expected {cores}. A search refuses a target without "
                "it."
            )
        named, count = str(attributes["mcpu"]), int(attributes["num-cores"])
        if (named, count) != (cpu, cores):
            fixed = ", as for the computer before" if named == PI[0] or count == PI[1] else ""
            raise Wrong(
                f'{call} names the processor "{named}" and {count} cores{fixed}; expected those '
                "that it is given."
            )
        if "fmul" not in lesson.assembly(target):
            raise Wrong(f"What {call} generates is no AArch64 code.")
