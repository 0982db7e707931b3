"""What an exported library needs to run, and the processes that run it: with a C++ program, with
Python and TVM's runtime, and as a program for AArch64 under an emulator.

Nothing here loads TVM: paths of its parts are asked of the package index on disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from tvm_practice.common.exercise import PACKAGE

SOURCE = PACKAGE / "labs" / "deployment" / "run_model.cc"
PARTS = ("tvm_ffi/lib/libtvm_ffi.so", "tvm/lib/libtvm_runtime.so")
SECONDS = 60.0

# AArch64, on a machine that is none: Debian's emulator and compiler, and TVM's own runtime for it.
EMULATOR, CROSS_COMPILER, SYSROOT = (
    "qemu-aarch64",
    "aarch64-linux-gnu-g++",
    "/usr/aarch64-linux-gnu",
)
DEBIAN = {EMULATOR: "qemu-user", CROSS_COMPILER: "g++-aarch64-linux-gnu"}
BOARD = PACKAGE.parent / ".tvm_practice" / "aarch64"  # where its runtime is put
ELF_MACHINES = {62: "x86-64", 183: "AArch64", 40: "32-bit ARM"}


class Failed(Exception):
    """A process or a compiler ended with an error; the message is the end of what it said."""


def installed(path: str) -> Path:
    """A file of the packages that the course runs with."""
    package = "apache-tvm-ffi" if path.startswith("tvm_ffi") else "apache-tvm"
    return Path(str(metadata.distribution(package).locate_file(path)))


def headers() -> list[str]:
    """The folders with the headers of tvm_ffi, the same for every machine."""
    return [str(installed("tvm_ffi/include"))]


def libraries(folder: Path | None = None) -> list[str]:
    """The paths of libtvm_ffi.so and libtvm_runtime.so: those in use here, or those under a folder
    into which the packages for another machine were unpacked."""
    return [str(folder / part if folder else installed(part)) for part in PARTS]


def missing_for_board() -> list[str]:
    """The commands that bring what is missing to run a program for AArch64; none if nothing is."""
    commands = []
    if packages := [DEBIAN[tool] for tool in DEBIAN if shutil.which(tool) is None]:
        commands.append("apt-get install " + " ".join(packages))
    if not all((BOARD / part).exists() for part in PARTS):
        folder = os.path.relpath(BOARD) if BOARD.is_relative_to(Path.cwd()) else str(BOARD)
        versions = [
            f"{name}=={metadata.version(name)}" for name in ("apache-tvm-ffi", "apache-tvm")
        ]
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        commands.append(
            f"pip install --no-deps --only-binary :all: --platform "
            f"manylinux_2_28_aarch64 --python-version {python} --target {folder} "
            + " ".join(versions)
        )
    return commands


def elf_machine(path: Path) -> str | None:
    """For which machine an object file or a library is; None if it is neither."""
    with open(path, "rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return None
    number = int.from_bytes(head[18:20], "little")
    return ELF_MACHINES.get(number, f"machine number {number}")


_VECTOR_BITS = (
    (r"%zmm\d|\bzmm\d", 512),
    (r"%ymm\d|\bymm\d", 256),
    (r"\bv\d+\.(?:16b|8h|4s|2d)\b|\bmulps\b|\bvmulps\b.*xmm", 128),
)


def vector_bits(assembly: str) -> int:
    """The width of the widest vector register that the assembly names; 0 if it names none."""
    return next((bits for names, bits in _VECTOR_BITS if re.search(names, assembly)), 0)


# -------------------------------------------------------------------------------------- processes


def run(command: list[str], seconds: float = SECONDS, **environment: str) -> str:
    """Run a command and return what it printed; raise Failed if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            errors="replace",
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} was still running after {seconds:.0f} s") from None
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()
        ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
        raise Failed("\n".join([*told[-6:], ended]).strip() or f"status {done.returncode}")
    return done.stdout


def run_program(
    program: Path, library: Path, x: np.ndarray, columns: int, emulator: tuple[str, ...] = ()
) -> np.ndarray:
    """The result of a library's "main" for x, a matrix, by the C++ program. columns: how many the
    result has."""
    given, result = library.with_suffix(".in"), library.with_suffix(".out")
    x.tofile(given)
    run([*emulator, str(program), str(library), str(given), str(result), *map(str, x.shape)])
    return np.fromfile(result, "float32").reshape(-1, columns)


@dataclass(frozen=True)
class WithoutCompiler:
    """What became of an answer to deploy.3 in a process without a compiler.

    returned: "arrays", or what else it was; raised: a sentence, "NotImplementedError" for a stub,
    or ""; loaded: how many libraries it loaded; libraries: what is mapped into the process at its
    end.
    """

    results: list[np.ndarray]
    returned: str
    raised: str
    loaded: int
    libraries: list[str]


def runtime_only_command(whose: str, library: Path, folder: Path, batches: int) -> list[str]:
    module = "tvm_practice.labs.deployment.runtime_only"
    inputs = [str(folder / f"batch{n}.npy") for n in range(batches)]
    outputs = [str(folder / name) for name in ("facts.json", "results.npz")]
    return [sys.executable, "-m", module, whose, str(library), *outputs, *inputs]


def run_without_compiler(
    whose: str, library: Path, batches: list[np.ndarray], folder: Path
) -> WithoutCompiler:
    """Run somebody's answer to deploy.3 in a process of its own."""
    for number, batch in enumerate(batches):
        np.save(folder / f"batch{number}.npy", batch)
    run(runtime_only_command(whose, library, folder, len(batches)), PYTHONPATH=str(PACKAGE.parent))
    facts = json.loads((folder / "facts.json").read_text())
    results = []
    if facts.get("returned") == "arrays":
        with np.load(folder / "results.npz") as kept:
            results = [kept[name] for name in kept.files]
    return WithoutCompiler(
        results, facts.get("returned", ""), facts["raised"], facts["loaded"], facts["libraries"]
    )
