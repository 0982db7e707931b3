"""The lab on whole models: its searches stop, go on and are applied; foreign records are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tvm_practice.common import records
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.worker import call
from tvm_practice.experiments import whole_models as lab

WHOSE = dict.fromkeys(lab.EXERCISES, REFERENCE)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """A folder with the records of a search for the small model, one batch of trials or more."""
    root = tmp_path_factory.mktemp("records")
    assert lab.tune_model("small", 0.02, 0, root) == 0
    return root


@pytest.fixture(scope="module")
def prepared(tuned: Path) -> lab.Prepared:
    return call(lab.prepare, "small", str(tuned), WHOSE)


def lines(root: Path) -> int:
    return sum(len(one.read_text().splitlines()) for one in root.glob(f"small/*/{records.RECORDS}"))


def verified(prepared: lab.Prepared, best: dict[str, lab.Best]) -> bool:
    """Compiles the model with these schedules, and compares its result with PyTorch's."""
    return lab.make_compiled(prepared, best, 0.0).verified


def test_what_a_search_found_is_applied_and_computes_the_same(tuned: Path, prepared) -> None:
    best = lab.known_best(prepared, tuned)
    assert best, "a search of one batch has a best schedule"
    names = {task.name for task in prepared.tasks}
    assert set(best) <= names
    assert call(verified, prepared, best)
    seconds = call(lab.seconds_of_kernels, prepared, best, 1)
    assert {kernel for task in prepared.tasks for kernel in task.kernels} <= set(seconds)


def test_a_search_goes_on_and_a_damaged_line_costs_only_itself(tuned: Path, capsys) -> None:
    before = lines(tuned)
    (damaged,) = list(tuned.glob(f"small/*/{records.RECORDS}"))[:1]
    damaged.write_text(damaged.read_text() + '{"half a li')
    assert lab.tune_model("small", 0.02, 0, tuned) == 0
    assert "1 of" in capsys.readouterr().out
    assert lines(tuned) > before
    found = lab.read_found(lab.file_of("small", tuned))
    assert found.about["trials"] == lines(tuned)


def test_records_of_another_machine_are_told_and_used(tuned, prepared, tmp_path, capsys) -> None:
    found = lab.read_found(lab.file_of("small", tuned))
    other = replace(found, about={**found.about, "cpu": "a Cray-1", "threads": 64})
    lab.write_found(lab.file_of("small", tmp_path), other)
    assert lab.known_best(prepared, tmp_path).keys() == found.best.keys()
    said = " ".join(capsys.readouterr().out.split())
    assert "These records are foreign: a Cray-1 there" in said
    assert "64 there" in said


def test_records_of_another_program_are_left_aside(tuned, prepared, tmp_path) -> None:
    found = lab.read_found(lab.file_of("small", tuned))
    other = {name: replace(one, program="another") for name, one in found.best.items()}
    lab.write_found(lab.file_of("small", tmp_path), replace(found, best=other))
    assert lab.known_best(prepared, tmp_path) == {}


def test_a_file_of_records_that_cannot_be_read_is_told(tmp_path, capsys) -> None:
    path = lab.file_of("small", tmp_path)
    path.write_bytes(b"no archive")
    assert lab.read_found(path) is None
    assert "cannot be read" in capsys.readouterr().out


def test_the_shipped_records_are_for_the_kernels_of_today(tmp_path) -> None:
    prepared = call(lab.prepare, lab.MODEL, str(tmp_path), WHOSE)
    assert sum(task.weight for task in prepared.tasks) == 24
    shipped = lab.read_found(lab.file_of(lab.MODEL, lab.SHIPPED))
    assert shipped is not None
    assert {task.name: task.program for task in prepared.tasks if task.name in shipped.best} == {
        name: one.program for name, one in shipped.best.items()
    }
    assert call(verified, prepared, shipped.best)
