"""Reference answers to the lab on deployment."""

from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from tvm import IRModule
from tvm.target import Target


def export(module: IRModule, target: Target, path: str, linker: str) -> None:
    executable = tvm.compile(module, target=target)
    executable.export_library(path, cc=linker)


def build_command(
    compiler: str, source: str, program: str, headers: list[str], libraries: list[str]
) -> list[str]:
    return [
        *(compiler, "-std=c++17", "-O2"),
        *(f"-I{folder}" for folder in headers),
        *(source, "-o", program, "-Wl,--no-as-needed"),
        *libraries,
        *(f"-Wl,-rpath,{Path(library).parent}" for library in libraries),
    ]


def run_library(library: str, batches: list[np.ndarray]) -> list[np.ndarray]:
    machine = tvm_ffi.load_module(library)["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    main = machine["main"]
    return [np.from_dlpack(main(tvm_ffi.from_dlpack(batch))) for batch in batches]


def board(cpu: str, cores: int) -> Target:
    return Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": cores})
