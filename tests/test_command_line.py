"""The commands as a person types them: exit statuses, one clear sentence for bad input, and no
trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_practice.common.exercise import CPU, GPU, LABS, TITLES, catalogue, exercises_of

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )


def phase(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("-m", f"tvm_practice.{name}", *arguments, **environment)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that could not run."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_a_target_that_is_not_there_is_refused_with_the_way_out() -> None:
    assert "--target cuda-sim" in refused(phase("main", "--target", "cuda"))


def test_cuda_sim_without_a_compiler_says_what_to_install(tmp_path) -> None:
    told = refused(phase("main", "--target", "cuda-sim", PATH=str(tmp_path)))
    assert "g++, which is not installed" in told


def test_a_lesson_without_a_part_for_gpus_says_so_and_is_no_failure() -> None:
    done = phase("labs.cost_model", "--target", "cuda-sim")
    assert done.returncode == 0, done.stderr
    assert "This lesson has no part for --target cuda-sim; --target cpu runs it." in done.stdout


def test_a_size_that_a_gpu_tile_does_not_divide_is_refused() -> None:
    done = phase("manual_schedule", "--target", "cuda-sim", "--size", "1000x517x333")
    assert done.returncode == 2
    assert "takes multiples of 64x64x16, such as 1024x2048x512." in done.stderr


def test_the_whole_course_for_a_gpu_runs_in_one_command_and_times_nothing() -> None:
    done = phase("main", "--labs", "--target", "cuda-sim", "--quick", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for lesson in dict.fromkeys(
        known.lesson for known in catalogue().values() if known.target == GPU
    ):
        _, _, rest = done.stdout.partition(f"  {TITLES[lesson]} ")
        printed, _, answer = rest.partition("Key question")
        assert answer, lesson
        assert "verified, not timed" in printed, lesson
        assert "GFLOP/s" not in printed, lesson
        for known in exercises_of(lesson):
            assert known.target != GPU or f"\n{known.id}  " in printed
    assert "What does fusion save on a GPU?" in done.stdout, "phase 4 has a question of its own"


def test_the_target_may_come_from_the_environment() -> None:
    assert phase("te_basics", TVM_PRACTICE_TARGET="cuda").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--size", "0"), "is no size"),
        (("--size", "12x"), "is no size"),
        (("--size", "99999"), "from 1 to 8192"),
        (("--seed", "-1"), "--seed"),
        (("--trials", "many"), "--trials"),
        (("--target", "tpu"), "there is no target 'tpu'"),
        (("--frobnicate",), "No such option"),
        (("--hint", "9.9"), "there is no exercise '9.9'"),
    ],
)
def test_bad_input_gets_a_sentence_and_status_2(arguments, told) -> None:
    done = phase("te_basics", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_hints_come_one_at_a_time() -> None:
    first = phase("main", "--hint", "1.1")
    third = phase("main", "--hint", "1.1", "--more", "--more")
    assert first.returncode == third.returncode == 0
    assert "--more" in first.stdout
    assert "te.sum(A[i, k] * B[k, j], axis=k)" not in first.stdout
    assert "te.sum(A[i, k] * B[k, j], axis=k)" in third.stdout


@pytest.mark.parametrize(
    "started", [("-m", "tvm_practice.labs.conv1d"), ("tvm_practice/labs/conv1d.py",)]
)
def test_a_lab_is_started_like_a_phase(started) -> None:
    hint = run(*started, "--hint", "conv1d.1", PYTHONPATH=str(ROOT))
    assert hint.returncode == 0, hint.stderr
    assert "Turn the question round" in hint.stdout
    assert run(*started, "--hint", "conv1d.9", PYTHONPATH=str(ROOT)).returncode == 2


LABS_FOR_A_CPU = [lab for lab in LABS if any(known.target == CPU for known in exercises_of(lab))]


@pytest.mark.parametrize("lab", LABS_FOR_A_CPU)
def test_every_lab_runs_to_its_key_question(lab: str) -> None:
    done = phase(f"labs.{lab}", "--quick", "--solutions", "--size", "128", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "Key question" in done.stdout
    assert "verified, not timed" not in done.stdout


@pytest.mark.parametrize(
    "started", [("-m", "tvm_practice.te_basics"), ("tvm_practice/te_basics.py",)]
)
def test_a_lesson_runs_as_a_module_and_as_a_script(started) -> None:
    done = run(*started, "--quick", "--solutions", "--seed", "3", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "seed 3" in done.stdout
    assert "Key question" in done.stdout


def test_plain_text_goes_into_a_pipe() -> None:
    done = phase("te_basics", "--quick", "--solutions")
    assert "\x1b" not in done.stdout


def test_a_reports_folder_that_cannot_be_made_costs_only_the_report(tmp_path) -> None:
    subprocess.run(
        ["cp", "-r", str(ROOT / "tvm_practice"), str(tmp_path / "tvm_practice")], check=True
    )
    (tmp_path / "reports").write_text("a file where a folder should be")
    done = subprocess.run(
        [sys.executable, "-m", "tvm_practice.te_basics", "--quick", "--solutions"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout
