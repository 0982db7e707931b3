"""Whole models in the simulator: every kernel runs, a wrong one is found, and what the passes save
is counted right."""

from __future__ import annotations

import math
import re
import shutil

import numpy as np
import pytest

from tvm_practice.common import exercise
from tvm_practice.common.cuda import resources
from tvm_practice.common.cuda.kernels import by_default
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.graph import KERNEL, graph
from tvm_practice.common.verify import Wrong
from tvm_practice.experiments import relay_import
from tvm_practice.experiments.relay_import import FOLDED, FUSED, IMPORTED, STAGES, OnBoth

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator compiles with g++, which is not installed"
)

SHAPES = {"CNN": (2, 3, 12, 8), "MLP": (3, 784)}
SEED = 5


@pytest.fixture(scope="module")
def models() -> dict[str, tuple]:
    """By model: it, a batch, and its module at each stage."""
    import torch

    lesson = exercise.load_lesson("relay_import")
    import_model, optimize = (exercise.body(known, REFERENCE) for known in ("4.1", "4.2"))
    made = {}
    for name, shape in SHAPES.items():
        model = lesson.pretend_trained(getattr(lesson, name), SEED)
        imported = import_model(model, torch.zeros(shape))
        batch = np.random.default_rng(SEED).standard_normal(shape).astype("float32")
        made[name] = model, batch, relay_import._modules(lesson, imported, optimize)
    return made


@pytest.fixture(scope="module")
def functions(models) -> OnBoth:
    return OnBoth([module for *_, stages in models.values() for module in stages.values()])


@pytest.fixture(scope="module")
def stories(models, functions) -> dict[str, dict[str, relay_import.OnGpu]]:
    from tvm_practice.checks.relay_import import expected

    return {
        name: {
            stage: relay_import._on_gpu(name, module, batch, expected(model, batch), functions)
            for stage, module in stages.items()
        }
        for name, (model, batch, stages) in models.items()
    }


# ------------------------------------------------------------------------------- what runs, and how


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", SHAPES)
def test_every_kernel_of_a_model_runs_in_the_simulator(stories, models, name, stage) -> None:
    from tvm import tirx

    module = models[name][2][stage]
    functions = {
        variable.name_hint
        for variable, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    }
    ran = [launch.call for launch in stories[name][stage].launches]
    assert set(ran) == functions
    assert list(dict.fromkeys(ran)) == [step.name for step in graph(module).of_kind(KERNEL)]


@pytest.mark.parametrize("name", SHAPES)
def test_the_simulated_model_is_pytorchs(models, functions, name) -> None:
    """Against PyTorch itself, and not what the lesson takes for right."""
    import torch

    model, batch, stages = models[name]
    with torch.inference_mode():
        want = model.eval()(torch.from_numpy(batch)).numpy()
    got, *_ = relay_import.run_on_gpu(stages[FUSED], batch, functions)
    np.testing.assert_allclose(got, want, atol=2e-5)


# ---------------------------------------------------------------------------------- what is counted


@pytest.mark.parametrize("name", SHAPES)
def test_folding_and_fusing_spare_launches_and_bytes(stories, name) -> None:
    imported, folded, fused = (stories[name][stage] for stage in STAGES)
    assert len(imported.launches) > len(folded.launches) > len(fused.launches)
    assert imported.read > folded.read > fused.read
    assert imported.written > folded.written > fused.written
    assert imported.threads > folded.threads > fused.threads


def test_the_bytes_of_the_mlp_are_those_of_its_arrays(stories) -> None:
    rows, inputs, hidden, outputs = SHAPES["MLP"][0], 784, 256, 10
    first, second = stories["MLP"][FUSED].launches
    assert first.read == 4 * (rows * inputs + inputs * hidden + hidden)
    assert first.written == 4 * rows * hidden
    assert second.read == 4 * (rows * hidden + hidden * outputs + outputs)
    assert second.written == 4 * rows * outputs
    folded = stories["MLP"][FOLDED]
    # Between matmul, bias and ReLU, and between the last two, an array is written and read again.
    between = 4 * (2 * rows * hidden + rows * outputs)
    assert folded.written - stories["MLP"][FUSED].written == between
    assert folded.read - stories["MLP"][FUSED].read == between


def test_batch_norm_is_launched_for_its_statistics_too(stories) -> None:
    """Nobody reads them; a call of several kernels counts as several launches."""
    channels, pixels = 32, math.prod(SHAPES["CNN"]) // 3
    launches = [
        launch for launch in stories["CNN"][IMPORTED].launches if launch.call == "batch_norm"
    ]
    assert [(launch.read, launch.written) for launch in launches] == [
        (4 * channels * (pixels + 4), 4 * channels * pixels),
        (4 * channels, 4 * channels),
        (4 * channels, 4 * channels),
    ]
    assert not any("batch_norm" in launch.call for launch in stories["CNN"][FOLDED].launches)


@pytest.mark.skipif(resources.available() is not None, reason=str(resources.available()))
def test_kernels_compiled_together_need_what_they_need_alone(stories) -> None:
    for launch in stories["CNN"][FUSED].launches[:3]:
        alone = resources.report(launch.kernel, resources.V100).usage
        assert launch.usage is not None
        assert (launch.usage.registers, launch.usage.shared_bytes) == (
            alone.registers,
            alone.shared_bytes,
        )


# ------------------------------------------------------------------------------ what is found wrong


def changed(function, old: str, new: str):
    """The function with a piece of its text replaced, where it has that."""
    from tvm.script import from_source

    text = function.script()
    return from_source(re.sub(old, new, text)) if re.search(old, text) else function


MUTANTS = {
    "the other relu": (r"T\.max\(", "T.min(", "fused_matmul_add_relu"),
    "a wrong sign": (r"(= matmul_intermediate\[[^]]*\]) \+ ", r"\1 - ", "fused_matmul_add"),
    "a bit off": (r"T\.float32\(0\.0\)\)", "T.float32(0.001))", "fused_matmul_add_relu"),
    "a shifted column": (r"param_0\[v_k, v_i1\]", "param_0[v_k, T.max(v_i1 - 1, 0)]", "fused_mat"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_kernel_that_is_not_its_function_is_found(models, mutant) -> None:
    old, new, where = MUTANTS[mutant]
    _, batch, stages = models["MLP"]
    mutated = []

    def wrong(function):
        other = changed(function, old, new)
        mutated.extend([other] * (other is not function))
        return by_default(other)

    functions = OnBoth([stages[FUSED]], wrong)
    assert mutated
    with pytest.raises(Wrong, match=f"{where}.*'s result are wrong"):
        relay_import.run_on_gpu(stages[FUSED], batch, functions)


def test_a_function_that_a_pass_got_wrong_is_found_by_the_models_result(models) -> None:
    """On the CPU it is as wrong as on the GPU; PyTorch is right."""
    from tvm_practice.checks.relay_import import expected

    model, batch, stages = models["MLP"]
    broken = stages[FUSED].clone()
    for variable, function in stages[FUSED].functions.items():
        if variable.name_hint == "fused_matmul_add_relu":
            broken[variable] = changed(function, r"T\.max\(", "T.min(")
    functions = OnBoth([broken])
    relay_import.run_on_gpu(broken, batch, functions)
    with pytest.raises(Wrong, match="elements of the MLP are wrong"):
        relay_import._on_gpu("the MLP", broken, batch, expected(model, batch), functions)


def test_a_module_with_an_operator_left_is_no_program_for_a_gpu(models) -> None:
    lesson = exercise.load_lesson("relay_import")
    with pytest.raises(RuntimeError, match="no call of a kernel"):
        relay_import.run_on_gpu(
            lesson.linear_relu(2, 3, 4), np.zeros((2, 3), "float32"), OnBoth([])
        )
