"""A model as a library: the processes that run it load no compiler and tell what is wrong in a
sentence, AArch64 computes the same numbers, and a learner's own model is taken or refused with the
part that is to blame."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tvm_practice.common import deployed, own_model
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.worker import call
from tvm_practice.experiments import deploy

ROOT = Path(__file__).resolve().parent.parent
WHOSE = dict.fromkeys(deploy.EXERCISES, REFERENCE)
MODELS = ROOT / "tests" / "data" / "own_models.py"

needs_linker = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with the lab's library, its C++ program, a batch and the weights."""
    folder = tmp_path_factory.mktemp("exported")
    call(deploy.export_here, WHOSE, 1, folder)
    return folder


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "run_model"), *arguments], cwd=folder, capture_output=True, text=True
    )


@needs_linker
def test_a_process_without_a_compiler_loads_none_and_computes_the_same(exported) -> None:
    x = np.load(exported / "batch0.npy")
    library = exported / "model.so"
    in_cpp = deployed.run_program(exported / "run_model", library, x, deploy.SIZES[2])
    done = deployed.run_without_compiler(REFERENCE, library, [x], exported)
    assert np.array_equal(done.results[0], in_cpp)
    loaded = {Path(one).name for one in done.libraries}
    assert {"libtvm_runtime.so", "libtvm_ffi.so"} <= loaded
    assert not [name for name in loaded if "compiler" in name or "torch" in name]


@needs_linker
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "run_model LIBRARY INPUT OUTPUT ROWS COLUMNS"),
        (("./no.so", "model.in", "out", "5", "784"), "no.so"),
        (("./model.so", "no.in", "out", "5", "784"), "no.in does not hold that many numbers"),
        (("./model.so", "model.in", "out", "6", "784"), "does not hold that many numbers"),
        (("./model.so", "model.in", "out", "5", "783"), "783"),
    ],
)
def test_the_program_says_what_is_wrong(exported, arguments, told) -> None:
    done = program(exported, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("run_model: ")
    assert told in done.stderr


@needs_linker
@pytest.mark.skipif(bool(deployed.missing_for_board()), reason="no emulator, or no runtime for it")
def test_a_program_for_aarch64_computes_the_same_numbers(exported) -> None:
    result = call(deploy.export_for_board, WHOSE, 1, exported)
    assert deployed.elf_machine(exported / "board.so") == "AArch64"
    x = np.load(exported / "batch0.npy")
    here = deployed.run_program(exported / "run_model", exported / "model.so", x, deploy.SIZES[2])
    np.testing.assert_allclose(result, here, rtol=0, atol=1e-5 * np.abs(here).max())


def test_without_an_emulator_the_lab_says_what_to_install(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(deployed, "BOARD", tmp_path / "aarch64")
    deploy._on_board(None, {}, tmp_path)
    told = capsys.readouterr().out
    assert "apt-get install qemu-user g++-aarch64-linux-gnu" in told
    assert "--platform manylinux_2_28_aarch64" in told and "apache-tvm-ffi==0.1.14.post1" in told


@pytest.mark.parametrize(
    ("line", "bits"),
    [
        ("vmulps (%rdi,%rax), %zmm0, %zmm1", 512),
        ("vmulps %ymm0, %ymm1, %ymm2", 256),
        ("vmulps %xmm0, %xmm1, %xmm2", 128),
        ("fmul v1.4s, v1.4s, v0.4s", 128),
        ("fmul s1, s1, s0", 0),
    ],
)
def test_the_width_of_a_vector_is_read_from_the_assembly(line, bits) -> None:
    assert deployed.vector_bits(line) == bits


# ----------------------------------------------------------------------------- a model of one's own


def _all(names: list[str], folder: Path) -> list[tuple[str, own_model.Deployed | None]]:
    """In a worker, so that torch is imported once: what becomes of each model."""
    return [own_model.deploy(f"{MODELS}:{name}", folder / f"{name}.so", 1) for name in names]


@needs_linker
def test_a_model_of_ones_own_is_compiled_and_agrees_with_pytorch(tmp_path) -> None:
    results = {"picture": 1, "tokens": 2, "transformer": 2}
    for (why, done), name in zip(call(_all, [*results], tmp_path), results, strict=True):
        assert why == ""
        assert done.outputs == results[name]
        assert done.kernels > 0
        assert done.far <= max(own_model.TIMES_AS_FAR * done.torch_far, own_model.NEVER_BELOW)
        assert deployed.elf_machine(tmp_path / f"{name}.so")


REFUSED = {
    "wrong_shape": ("`conv` (Conv2d) at conv2d", "to have 3 channels, but got 4"),
    "no_such_operator": (
        "no operator special_bessel_j0.default",
        "`deep.1` (Bessel) in own_models.py",
        "return torch.special.bessel_j0(x)",
    ),
    "of_a_library": ("no operator _fft_r2c.default", "`1` (Spectrum)", "custom_convert_map"),
    "half_precision": ("importer fails at addmm.default, used by Linear", "datatype"),
    "branch": ("cannot write down Branch as a graph", "own_models.py", "if x.sum() > 0:"),
    "nothing": ("own_models.py:nothing returned None; expected a torch.nn.Module and a tuple",),
    "no_model": ("returned a str as its model",),
    "no_tensors": ("returned an int as example input 1",),
    "no_inputs": ("returned no example inputs",),
    "two_inputs": ("returned a tuple of 3; expected",),
    "raises": ("own_models.py:raises did not return: line", "ValueError: no weights."),
    "missing": ("own_models.py has no function missing; it has picture, wrong_shape",),
}


@needs_linker
def test_a_model_that_cannot_be_taken_is_refused_with_its_part_and_operator(tmp_path) -> None:
    done = call(_all, [*REFUSED], tmp_path)
    for (told, _), (name, fragments) in zip(done, REFUSED.items(), strict=True):
        assert "Traceback" not in told and "\n" not in told
        for fragment in fragments:
            assert fragment in told, f"{name}: {told}"


def lab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_practice.labs.deploy", "--solutions", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


@needs_linker
def test_a_refused_model_ends_the_command_with_one_sentence() -> None:
    done = lab("--model", "no_such.py:make")
    assert done.returncode == 2
    assert done.stderr == "tvm_practice: there is no file no_such.py.\n"


@needs_linker
def test_a_model_of_ones_own_through_the_command() -> None:
    done = lab("--model", f"{MODELS}:picture")
    assert done.returncode == 0, done.stderr
    assert "records/deploy/picture.so" in done.stdout
    assert "furthest from float64" in done.stdout


def test_without_a_linker_the_lab_says_what_to_install(tmp_path) -> None:
    done = lab("--quick", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "`apt-get install g++` brings it" in done.stderr
