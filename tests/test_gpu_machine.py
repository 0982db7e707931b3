"""A machine that cannot run a kernel is no wrong answer: the command says what is missing and ends
with 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_practice.common.cuda.kernels import Kernel
from tvm_practice.common.cuda.simulate import Simulated
from tvm_practice.common.loop_nest import LoopNest
from tvm_practice.common.target import UnusableTarget

ROOT = Path(__file__).resolve().parent.parent
NO_COMPILER = "g++: fatal error: cannot execute 'cc1plus': execvp: No such file or directory"
NO_ROOM = "/tmp/ccXYZ.s: fatal error: error writing to /tmp/ccXYZ.s: No space left on device"

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator compiles with g++, which is not installed"
)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a g++ that fails with these words first on the PATH."""

    def put(words: str) -> None:
        compiler = tmp_path / "g++"
        compiler.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def tvm_practice(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tvm_practice", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def kernel(source: str) -> Simulated:
    """A kernel of one thread, from its source."""
    source = f'extern "C" __global__ void main_kernel(float* __restrict__ A) {{\n{source}\n}}'
    one = Kernel("main_kernel", "", source, (1, 1, 1), (1, 1, 1), ("A",), ("float32",))
    return Simulated([one], LoopNest((), (), ()), ["A"])


@pytest.mark.parametrize("words", [NO_COMPILER, NO_ROOM])
def test_a_broken_compiler_is_no_wrong_answer(words: str, broken) -> None:
    broken(words)
    done = tvm_practice("run", "conv1d.6", "--solutions")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "conv1d.6 could not be checked: --target cuda-sim compiles" in done.stderr
    assert words in done.stderr and "TMPDIR=FOLDER" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_broken_compiler_ends_a_lesson(broken) -> None:
    broken(NO_COMPILER)
    done = tvm_practice("run", "conv1d", "--target", "cuda-sim", "--quick", "--solutions")
    assert done.returncode == 2, done.stdout + done.stderr
    assert NO_COMPILER in " ".join((done.stdout + done.stderr).split())


@needs_compiler
def test_what_the_compiler_says_about_a_kernel_is_the_kernels_fault() -> None:
    with pytest.raises(RuntimeError, match="'ulonglong5' was not declared"):
        kernel("  *(ulonglong5*)(A) = 0;")


@needs_compiler
def test_a_folder_without_room_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "is not there"))
    with pytest.raises(UnusableTarget, match=r"No such file or directory.*TMPDIR=FOLDER"):
        kernel("  A[0] = 0;")
