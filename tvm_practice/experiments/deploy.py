"""What the lab on deployment shows: what is in a library, what a process around it costs, and the
same model as a program for another processor."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import answers, deployed, exercise, own_model, show
from tvm_practice.common.own_function import Refused
from tvm_practice.common.timing import Candidate, Comparison, Runnable

EXERCISES = tuple(f"deploy.{number}" for number in range(1, 5))
SIZES = (784, 256, 10)
ROWS = 5
PROGRAM, RUNTIME, COMPILER, TORCH = (
    "C++ program",
    "Python, runtime only",
    "Python, all of TVM",
    "PyTorch, eager",
)
PROCESSES = exercise.PACKAGE / "labs" / "deployment"
BOARD = ("cortex-a72", 4)  # a Raspberry Pi 4
MIB = 1 << 20


def run(session) -> None:
    if session.options.model:
        _own_model(session)
        return
    whose = {known: session.exercise(known) for known in EXERCISES}
    with tempfile.TemporaryDirectory(prefix="tvm_practice_") as name:
        folder = Path(name)
        with show.waiting("exporting, and building the C++ program ..."):
            session.call(export_here, whose, session.seed, folder)
        _inside(session, folder)
        measured = _processes(session, whose, folder)
        width = _vectors(session, whose)
        _on_board(session, whose, folder)
        _key_question(session, measured, width)


def _inside(session, folder: Path) -> None:
    """The library: what it offers, and what it expects of those who load it."""
    library = folder / "model.so"
    symbols = deployed.run(["nm", "-D", str(library)])  # T marks what is there, U what is needed
    kernels = re.findall(r" T __tvm_ffi_(\w+)", symbols)
    needed = re.findall(r" U (TVM\w+)", symbols)
    parameters = sum(4 * size for size in (SIZES[0] * SIZES[1], SIZES[1], SIZES[1] * SIZES[2]))
    show.heading("What is in the library")
    show.table(
        ("", ""),
        [
            ("size", f"{library.stat().st_size / 1e3:,.0f} kB"),
            ("of it parameters", f"{parameters / 1e3:,.0f} kB"),
            ("kernels", ", ".join(sorted(kernels))),
            ("graph and constants", "packed as bytes, in the symbol __tvm_ffi__library_bin"),
            ("what it needs of TVM", ", ".join(needed) or "nothing by name"),
        ],
        "Loaded, the library is given the few further functions that kernels call, such as the one "
        "that starts threads. It does not name libtvm_runtime.so, and works with whichever loads "
        "it.",
    )
    session.report["library_bytes"] = library.stat().st_size


def _processes(session, whose: dict[str, str], folder: Path) -> Comparison:
    show.heading("The same model, with less and less around it")
    candidates = _candidates(whose, folder)
    if session.quick:
        candidates = [one for one in candidates if one.name != TORCH]
        show.line(f"--quick leaves out {TORCH}, which takes seconds each time.", "dim")
    measured = session.compare(candidates, what="whole processes")
    on_disk = _on_disk(folder)
    names = [one.name for one in candidates if one.name in measured]
    results = {one.name: np.load(one.arguments["kept"]) for one in candidates if one.name in names}
    rows = []
    for name in names:
        figure = measured[name]
        difference = _difference(results[name], results[PROGRAM])
        rows.append(
            (
                name,
                f"{on_disk[name] / MIB:,.1f} MiB",
                show.seconds(figure.median_s),
                f"{figure.spread:.0%}",
                "-" if name == PROGRAM else measured.verdict(PROGRAM, name).short(),
                "-" if name == PROGRAM else f"{difference:.1e}" if difference else "the same bits",
            )
        )
    show.table(
        ("process", "on disk", "start to end", "spread", "C++ is", "numbers, against C++"),
        rows,
        f"From the start of the process to its end, one batch of {ROWS} in between. On disk: the "
        "model and what is loaded of TVM or PyTorch, without Python itself. Medians of up to "
        f"{measured.rounds} paired rounds; every result verified, differences relative to the "
        "largest number.",
    )
    mapped = json.loads((folder / "facts.json").read_text())["libraries"]
    of_tvm = sorted(Path(one).name for one in mapped if "tvm" in Path(one).name)
    if of_tvm:
        show.line(f"  What {RUNTIME!r} had loaded of TVM at its end: {', '.join(of_tvm)}.", "dim")
    session.report |= {
        "on_disk_bytes": {name: on_disk[name] for name in names},
        "results": measured.as_json(),
    }
    session.headline = f"{show.seconds(measured[PROGRAM].median_s)} from start to end in C++"
    if COMPILER in measured:
        session.headline += f", {show.seconds(measured[COMPILER].median_s)} with all of TVM"
    return measured


def _difference(got: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(got - other).max() / np.abs(other).max())


def _on_disk(folder: Path) -> dict[str, int]:
    """Bytes of the model and of the libraries that each process loads for it."""
    model = (folder / "model.so").stat().st_size
    runtime = sum(Path(one).stat().st_size for one in deployed.libraries())
    ffi = sum(one.stat().st_size for one in deployed.installed("tvm_ffi").glob("core*.so"))
    compiler = sum(one.stat().st_size for one in deployed.installed("tvm/lib").glob("*.so"))
    ffi_library = Path(deployed.libraries()[0]).stat().st_size
    return {
        PROGRAM: model + runtime + (folder / "run_model").stat().st_size,
        RUNTIME: model + runtime + ffi,
        COMPILER: model + compiler + ffi + ffi_library,
        TORCH: (folder / "weights.npz").stat().st_size + _torch_libraries(),
    }


def _torch_libraries() -> int:
    from importlib import metadata

    folder = Path(str(metadata.distribution("torch").locate_file("torch/lib")))
    return sum(one.stat().st_size for one in folder.glob("*.so*") if not one.is_symlink())


def _vectors(session, whose: dict[str, str]) -> dict[str, int]:
    """Show, and return, how wide the vectors of this machine and of the board are, in bits."""
    show.heading("Another machine: the same schedule, other registers")
    with show.waiting("compiling ..."):
        found = session.call(multiplications, whose)
    width = {name: deployed.vector_bits(line) for name, line in found.items()}
    show.table(
        ("compiled for", "multiplies with", "bits", "floats in one"),
        [(name, line, str(width[name]), str(width[name] // 32)) for name, line in found.items()],
        "Read from the assembly. The schedule asks for vectors of 16 floats for both; the target "
        "decides how many registers that takes.",
    )
    session.report["vector_bits"] = width
    return width


def _on_board(session, whose: dict[str, str], folder: Path) -> None:
    if missing := deployed.missing_for_board():
        show.say(
            "The model is not run on an ARM processor here. What is missing (of an emulator, a "
            "compiler, and TVM's own runtime for one), this brings:"
        )
        for command in missing:
            show.command(command)
        return
    with show.waiting("the whole model for AArch64, in the emulator ..."):
        start = time.perf_counter()
        result = session.call(export_for_board, whose, session.seed, folder)
        seconds = time.perf_counter() - start
    here = np.load(folder / "0.result.npy")
    show.say(
        f"The model was exported for {BOARD[0]}, the C++ program compiled by "
        f"{deployed.CROSS_COMPILER}, and both run by {deployed.EMULATOR} ({seconds:.0f} s in all; "
        f"what is emulated says nothing about speed). {_same(result, here)}"
    )
    session.report["board"] = {
        "elements": int(result.size),
        "equal": int((result == here).sum()),
        "largest_difference": _difference(result, here),
    }


def _same(result: np.ndarray, here: np.ndarray) -> str:
    equal = int((result == here).sum())
    if equal == result.size:
        return f"All {result.size} numbers are the same as here, to the last bit."
    return (
        f"{equal} of {result.size} numbers are the same as here to the last bit; the others differ "
        f"by at most {_difference(result, here):.1e} of the largest number, as far as rounding in "
        "another order explains."
    )


def _key_question(session, measured: Comparison, width: dict[str, int]) -> None:
    if not {PROGRAM, RUNTIME, COMPILER} <= measured.figures.keys():
        return
    on_disk = session.report["on_disk_bytes"]
    program, compiler = (f"{on_disk[name] / MIB:,.0f} MiB" for name in (PROGRAM, COMPILER))
    answer = [
        "A compiled model is a library with kernels, constants and the order of the calls. Besides "
        f"it a process needs TVM's runtime: together {program}, where the compiler makes it "
        f"{compiler}.",
        f"What is loaded is what starting costs: {measured.verdict(PROGRAM, COMPILER).sentence()}. "
        f"Most of that is the compiler and the packages around it: "
        f"{measured.verdict(RUNTIME, COMPILER).sentence()}, and what is left of Python in it "
        f"costs the rest: {measured.verdict(PROGRAM, RUNTIME).sentence()}.",
    ]
    if TORCH in measured:
        answer.append(
            f"{measured.verdict(PROGRAM, TORCH).sentence()}. None of this is the time of a call: "
            "once they run, what counts is the kernels, which are the same in the first three."
        )
    answer.append(
        "The library is for one kind of processor, and the C++ program too. A schedule can be "
        f"compiled for others, but its tiles are for one: {BOARD[0]} has vectors of "
        f"{width[BOARD[0]]} bits."
    )
    session.question(
        "What must a process load before the first number of a model comes out, and what does that "
        "cost?",
        answer,
    )


# ------------------------------------------------------------------------------ a model of your own


def _writable(folder: Path) -> Path:
    """A folder, made if need be; refused now if nothing could be written into it later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Refused(
            f"no library can be written into {answers.shown(folder)}: {error.strerror}."
        ) from None
    return folder


def _own_model(session) -> None:
    """Import, compile, export and compare the model that --model names."""
    given = session.options.model
    name = given.rpartition(":")[2]
    path = _writable(session.records) / f"{name}.so"
    show.heading(f"A model of your own: {given}")
    with show.waiting("importing, compiling and comparing ..."):
        why, done = session.call(own_model.deploy, given, path, session.seed, seconds=900)
    if done is None:
        raise Refused(why)
    show.table(
        ("", ""),
        [
            ("model", done.name),
            ("inputs", ", ".join(done.inputs)),
            ("results", str(done.outputs)),
            ("operators, imported", str(done.operators)),
            ("kernels, after fusing", str(done.kernels)),
            ("library", f"{answers.shown(path)}, {path.stat().st_size / 1e3:,.0f} kB"),
            ("furthest from float64", f"{done.far:.1e} (PyTorch's own {done.torch_far:.1e})"),
        ],
        f"Compared on the example inputs and {done.tried - 1} random ones; distances relative to "
        "the largest element. The library is for inputs of these shapes, and for this machine.",
    )
    session.headline = f"{done.name} exported"


# -------------------------------------------------------------------------------------- competitors


def _candidates(whose: dict[str, str], folder: Path) -> list[Candidate]:
    library, given = folder / "model.so", folder / "batch0.npy"
    script = [sys.executable, str(PROCESSES / "with_tvm.py"), str(library), str(given)]
    eager = [sys.executable, str(PROCESSES / "with_torch.py")]
    eager += [str(folder / "weights.npz"), str(given)]
    raw = [str(folder / name) for name in ("model.in", "model.out")]
    commands = {
        PROGRAM: ([str(folder / "run_model"), str(library), *raw], raw[1]),
        RUNTIME: (
            deployed.runtime_only_command(whose["deploy.3"], library, folder, 1),
            str(folder / "results.npz"),
        ),
        COMPILER: ([*script, str(folder / "tvm.npy")], str(folder / "tvm.npy")),
        TORCH: ([*eager, str(folder / "torch.npy")], str(folder / "torch.npy")),
    }
    commands[PROGRAM][0].extend(map(str, (ROWS, SIZES[0])))
    return [
        Candidate(
            name,
            make_process,
            {
                "command": command,
                "written": written,
                "folder": str(folder),
                "kept": str(folder / f"{n}.result.npy"),
            },
        )
        for n, (name, (command, written)) in enumerate(commands.items())
    ]


# ---------------------------------------------------------------------------------- run in a worker


def make_process(command: list[str], written: str, folder: str, kept: str) -> Runnable:
    """A whole process as a competitor: its result is verified, and kept."""
    from tvm_practice.checks.deploy import assert_right

    def call() -> None:
        deployed.run(command, PYTHONPATH=str(exercise.PACKAGE.parent))

    call()
    if written.endswith(".out"):
        result = np.fromfile(written, "float32").reshape(ROWS, SIZES[2])
    else:
        loaded = np.load(written)
        result = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    assert_right(result, np.load(Path(folder) / "batch0.npy"), _weights(folder), "the result")
    np.save(kept, result)
    return Runnable(call, verified=True)


def _weights(folder: str | Path) -> list[np.ndarray]:
    with np.load(Path(folder) / "weights.npz") as kept:
        return [kept[name] for name in kept.files]


def _bodies(whose: dict[str, str]) -> dict[str, Any]:
    return {known: exercise.body(known, who) for known, who in whose.items()}


def export_here(whose: dict[str, str], seed: int, folder: Path) -> None:
    """The library, the C++ program, a batch and the weights, as files."""
    from tvm_practice.checks.deploy import linker, weights
    from tvm_practice.common import verify
    from tvm_practice.common.target import cpu_target

    rng = np.random.default_rng(seed)
    given, bodies = weights(rng, SIZES), _bodies(whose)
    x = verify.random_array(rng, ROWS, SIZES[0])
    np.savez(folder / "weights.npz", *given)
    np.save(folder / "batch0.npy", x)
    x.tofile(folder / "model.in")
    module = exercise.load_lesson("deploy").two_layers(given)
    bodies["deploy.1"](module, cpu_target(), str(folder / "model.so"), linker())
    _build(bodies, linker(), folder / "run_model", deployed.libraries())


def _build(bodies: dict[str, Any], compiler: str, program: Path, libraries: list[str]) -> None:
    source = str(deployed.SOURCE)
    deployed.run(
        list(bodies["deploy.2"](compiler, source, str(program), deployed.headers(), libraries))
    )


def export_for_board(whose: dict[str, str], seed: int, folder: Path) -> np.ndarray:
    """The result of the same model, exported for AArch64 and run there."""
    from tvm_practice.checks.deploy import assert_right

    bodies, given = _bodies(whose), _weights(folder)
    module = exercise.load_lesson("deploy").two_layers(given)
    library, program = folder / "board.so", folder / "run_model_board"
    target = bodies["deploy.4"](*BOARD)
    bodies["deploy.1"](module, target, str(library), deployed.CROSS_COMPILER)
    _build(bodies, deployed.CROSS_COMPILER, program, deployed.libraries(deployed.BOARD))
    x = np.load(folder / "batch0.npy")
    emulator = (deployed.EMULATOR, "-L", deployed.SYSROOT)
    result = deployed.run_program(program, library, x, SIZES[2], emulator)
    assert_right(result, x, given, "the result on AArch64")
    return result


# A vector multiplication, on x86 and AArch64.
MULTIPLICATION = r"\bv?mulps\b|\bfmul\s+v\d+\.4s"


def multiplications(whose: dict[str, str]) -> dict[str, str]:
    """The widest vector multiplication in the lesson's kernel for this machine and for the board,
    by the name of the processor; "none" if there is none."""
    from tvm_practice.common.target import cpu_target

    lesson = exercise.load_lesson("deploy")
    targets = (cpu_target(), exercise.body("deploy.4", whose["deploy.4"])(*BOARD))
    found = {}
    for target in targets:
        lines = [line.strip() for line in lesson.assembly(target).splitlines()]
        those = [line for line in lines if re.search(MULTIPLICATION, line)]
        widest = max(those, key=deployed.vector_bits, default="none")
        found[str(target.attrs["mcpu"])] = re.sub(r"\s+", " ", widest)
    return found
