"""The lab on whole models: its searches are stopped and killed, go on, and are applied; a lucky
time is not believed; foreign records are told."""

from __future__ import annotations

import fcntl
import json
import lzma
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.learner import Learner
from tvm_practice.common import records
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.worker import call
from tvm_practice.experiments import model_figures
from tvm_practice.experiments import whole_models as lab

WHOSE = dict.fromkeys(lab.EXERCISES, REFERENCE)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with the small model, prepared, and the records of a search for it, one batch of
    trials or more; made once, by whichever of pytest's processes comes first."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    root /= "whole_models"
    with open(f"{root}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            unfinished = root.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            assert lab.tune_model("small", 0.02, 0, unfinished) == 0
            prepared = call(lab.prepare, "small", str(unfinished), WHOSE)
            (unfinished / "prepared").write_bytes(pickle.dumps(replace(prepared, folder=root)))
            unfinished.rename(root)
    return root


@pytest.fixture
def tuned(made: Path, tmp_path) -> Path:
    """The same, to be changed."""
    shutil.copytree(made, tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.fixture
def prepared(made: Path) -> lab.Prepared:
    return pickle.loads((made / "prepared").read_bytes())


def schedules(root: Path) -> dict[str, list]:
    """The schedules on record, task by task, in the order in which they were measured."""
    return {
        path.parent.name: [json.loads(line)[1][0] for line in path.read_text().splitlines()]
        for path in root.glob(f"small/*/{records.RECORDS}")
    }


def records_in(root: Path) -> Path:
    """The longest file of records."""
    return max(root.glob(f"small/*/{records.RECORDS}"), key=lambda path: path.stat().st_size)


def number(found: dict[str, list]) -> int:
    return sum(map(len, found.values()))


def test_what_a_search_found_is_applied_and_computes_the_same(tuned: Path, prepared) -> None:
    best, _ = lab.known_best(prepared, tuned)
    assert best, "a search of one batch has a best schedule"
    names = {task.name for task in prepared.tasks}
    assert set(best) <= names
    watched = call(lab.watch, prepared, best, lab.INPUTS, 1)
    assert len(watched.errors) == lab.INPUTS
    assert {kernel for task in prepared.tasks for kernel in task.kernels} <= set(watched.seconds)

    (name, one), *_ = best.items()
    record = json.loads(json.dumps(one.record).replace("GetSBlock", "GetNoBlock"))
    watched = call(lab.watch, prepared, {name: replace(one, record=record)}, 1, 1)
    assert watched.refused == (name,), "it keeps the default loops"
    assert lab.replayed(best, watched) == {key: best[key] for key in best if key != name}


def test_a_search_goes_on_and_a_damaged_line_costs_only_itself(tuned: Path, capsys) -> None:
    before = number(schedules(tuned))
    damaged = records_in(tuned)
    damaged.write_text(damaged.read_text() + '{"half a li')
    assert lab.tune_model("small", 0.02, 0, tuned) == 0
    assert "1 of" in capsys.readouterr().out
    after = number(schedules(tuned))
    assert after > before
    assert lab.read_found(lab.file_of("small", tuned)).about["trials"] == after


def test_a_lucky_time_is_not_believed(tuned: Path) -> None:
    path = records_in(tuned)
    known = [json.loads(line) for line in path.read_text().splitlines()]
    lucky = next(one for one in known if len(one[1][1]) == 1 and one[1][1][0] < 1)
    lucky[1][1] = [1e-12]
    path.write_text("".join(json.dumps(record) + "\n" for record in known))
    assert lab.tune_model("small", 0, 0, tuned) == 0
    runs = records.runs_of_records(path.parent)[known.index(lucky)]
    assert len(runs) > 1, "the fastest record is timed again"
    best = lab.read_found(lab.file_of("small", tuned)).best
    assert all(one.seconds > 1e-9 for one in best.values())


def tuning(course: Learner, minutes: float) -> subprocess.Popen:
    """The command, in a process of its own."""
    options = ["--tune", "--model", "small", "--minutes", str(minutes)]
    return subprocess.Popen(
        [sys.executable, "-m", "tvm_practice.labs.whole_models", *options],
        cwd=course.folder,
        env=course.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_more(process: subprocess.Popen, root: Path, than: int) -> dict[str, list]:
    """Wait until there are more schedules on record; they are what must be kept."""
    end = time.monotonic() + 120
    while number(schedules(root)) <= than:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "no schedule was measured"
        time.sleep(0.05)
    return schedules(root)


def kept(before: dict[str, list], after: dict[str, list]) -> bool:
    return all(after[task][: len(found)] == found for task, found in before.items())


def test_a_search_that_is_stopped_and_killed_keeps_every_schedule(tmp_path: Path) -> None:
    course = Learner(tmp_path / "course")
    root = course.folder / "records" / "whole_models"
    stopped = tuning(course, 5)
    first = until_more(stopped, root, than=2)
    stopped.send_signal(signal.SIGINT)
    output, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, output
    assert "Every record is kept" in output
    assert kept(first, schedules(root))
    found = lab.read_found(lab.file_of("small", root))
    assert found.about["trials"] == number(schedules(root))

    seconds = lab.seconds_of("small", root)
    killed = tuning(course, 5)
    second = until_more(killed, root, than=number(schedules(root)) + lab.BATCH)
    other = tuning(course, 0)
    output, _ = other.communicate(timeout=60)
    assert other.returncode == 2, output
    assert "a search for small is running already" in output
    killed.kill()
    killed.communicate(timeout=60)
    assert kept(first, second)
    assert lab.seconds_of("small", root) > seconds, "the seconds count as the trials do"

    last = tuning(course, 0)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert kept(second, schedules(root))
    found = lab.read_found(lab.file_of("small", root))
    assert found.about["trials"] == number(schedules(root)) >= number(second)


def test_records_of_another_machine_are_told_and_used(tuned, prepared, tmp_path, capsys) -> None:
    found = lab.read_found(lab.file_of("small", tuned))
    other = replace(found, about={**found.about, "cpu": "a Cray-1", "threads": 64})
    lab.write_found(lab.file_of("small", tmp_path), other)
    best, _ = lab.known_best(prepared, tmp_path)
    assert best.keys() == found.best.keys()
    said = " ".join(capsys.readouterr().out.split())
    assert "These records are foreign: a Cray-1 there" in said
    assert "64 there" in said


def test_of_records_found_here_and_shipped_the_faster_counts(
    tuned, prepared, tmp_path, monkeypatch
) -> None:
    found = lab.read_found(lab.file_of("small", tuned))
    fast = {name: replace(one, seconds=one.seconds / 2) for name, one in found.best.items()}
    monkeypatch.setattr(lab, "SHIPPED", tmp_path)
    lab.write_found(lab.file_of("small", tmp_path), replace(found, best=fast))
    assert lab.known_best(prepared, tuned)[0] == fast
    cray = {**found.about, "cpu": "a Cray-1"}
    lab.write_found(lab.file_of("small", tmp_path), lab.Found(cray, fast))
    best, searches = lab.known_best(prepared, tuned)
    assert best == found.best, "what another machine measured is no measure here"
    assert searches == [found.about]


def test_records_of_another_program_are_left_aside(tuned, prepared, tmp_path) -> None:
    found = lab.read_found(lab.file_of("small", tuned))
    other = {name: replace(one, program="another") for name, one in found.best.items()}
    lab.write_found(lab.file_of("small", tmp_path), replace(found, best=other))
    assert lab.known_best(prepared, tmp_path) == ({}, [])


@pytest.mark.parametrize("content", [b"no archive", lzma.compress(b"{}\n"), lzma.compress(b"")])
def test_a_file_of_records_that_cannot_be_read_is_told(content, tmp_path, capsys) -> None:
    path = lab.file_of("small", tmp_path)
    path.write_bytes(content)
    assert lab.read_found(path) is None
    assert "cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", ["nan", "inf", "-1"])
def test_a_search_of_an_impossible_length_is_refused_before_it_starts(minutes: str) -> None:
    done = CliRunner().invoke(lab.tune_command, ["--tune", "--minutes", minutes])
    assert done.exit_code == 2
    assert "Invalid value for '--minutes'" in done.output


def test_the_figures_are_measured_by_one_command(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lab, "ROOT", made)
    monkeypatch.setattr(model_figures, "ROUNDS", 2)
    candidates_of = lab.candidates_of  # but for torch.compile, which takes long to compile

    def some(*arguments):
        return {k: one for k, one in candidates_of(*arguments).items() if k != lab.COMPILED}

    monkeypatch.setattr(lab, "candidates_of", some)
    json_path, plot = tmp_path / "figures" / "it.json", tmp_path / "figures" / "it.png"
    options = ["--figures", "--model", "small", "--json", str(json_path), "--plot", str(plot)]
    done = CliRunner().invoke(model_figures.figures_command, options)
    assert done.exit_code == 0, done.output
    (model,) = json.loads(json_path.read_text())["models"]
    samples = {one["competitor"]: len(one["samples_s"]) for one in model["results"]}
    assert samples == dict.fromkeys(("FMA peak", lab.TUNED, lab.EAGER, lab.DEFAULT), 2)
    assert all(one["verified"] for one in model["results"])
    assert sum(task["trials"] for task in model["tasks"]) == number(schedules(made))
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_figures_of_which_nothing_could_be_measured_say_so(tmp_path) -> None:
    nothing = {"model": "small", "peak_gflops": None, "searches": [], "results": [], "tasks": []}
    report = {"models": [nothing], "confidence": 0.95, "margin": 0.02}
    assert model_figures.sentences(report) == ["**A small ResNet** was not measured."]
    model_figures.draw(tmp_path / "it.png", report)


@pytest.mark.parametrize("name", ["resnet18", "gpt_blocks"])
def test_the_shipped_records_are_for_the_kernels_of_today(name: str, tmp_path) -> None:
    prepared = call(lab.prepare, name, str(tmp_path), WHOSE)
    shipped = lab.read_found(lab.file_of(name, lab.SHIPPED))
    assert shipped is not None
    assert sum(task.name in shipped.best for task in prepared.tasks) > len(prepared.tasks) / 2
    assert {task.name: task.program for task in prepared.tasks if task.name in shipped.best} == {
        name: one.program for name, one in shipped.best.items()
    }
    assert call(lab.watch, prepared, shipped.best, lab.INPUTS, 1).errors, "verified"
