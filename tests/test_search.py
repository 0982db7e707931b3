"""Phase 5 survives what a search meets: candidates that crash or hang, Ctrl-C, damaged records."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tvm_practice.common import records, worker

ROOT = Path(__file__).resolve().parent.parent
SIZE = (64, 96, 48)


# ------------------------------------------------------------------------------ in a worker process


def task_for(size, seed: int):
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.exercise import body, load_lesson
    from tvm_practice.common.target import cpu_target

    space = load_lesson("auto_tune").search_space(body("5.2"))
    return body("5.1")(*size, cpu_target(), space, ms.search_strategy.ReplayTrace(), seed)


def candidates_of(task, number: int) -> list:
    from tvm_practice.common.measure import module_hash

    task.pre_tuning(8 * number, 8 * number)
    made = {module_hash(one.sch.mod): one for one in task.generate_measure_candidates()}
    return list(made.values())[:number]


def misbehaving(connection, module, target, arguments, limits) -> None:
    """A candidate whose first compilation says, by a file's length, which kind of trouble it is."""
    from tvm_practice.common.measure import serve_candidate

    with open(os.environ["TROUBLE"], "a+") as file:
        file.write("x")
        file.flush()
        number = file.tell()
    if number == 1:
        os.abort()
    if number == 2:
        while True:
            pass
    if number == 3:
        raise MemoryError("no memory for this one")
    if number == 4:  # builds, and never ends when it is timed
        connection.send(("returned", "built"))
        connection.recv()
        time.sleep(1000)
    serve_candidate(connection, module, target, arguments, limits)


def measure_trouble(folder: Path) -> tuple[list, list]:
    from tvm_practice.common.measure import Measure
    from tvm_practice.common.target import cpu_target

    os.environ["TROUBLE"] = str(folder / "trouble")
    os.environ["TVM_NUM_THREADS"] = "1"  # one at a time, so that the order is known
    task = task_for(SIZE, 1)
    database = records.open_database(folder, task.mod)
    seen = []
    measure = Measure(
        database,
        task.mod,
        cpu_target(),
        seen.append,
        candidate=misbehaving,
        build_seconds=3,
        run_seconds=3,
    )
    candidates = candidates_of(task, 6)
    results = measure(candidates)
    assert measure.fresh(candidates) == [], "a candidate that has a record is proposed again"
    return [one.failure and one.failure.sentence for one in seen], [
        result.error_msg for result in results
    ]


def write_records(folder: Path, number: int) -> bytes:
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.target import cpu_target

    task = task_for(SIZE, 1)
    database = records.open_database(folder, task.mod)
    workload = database.commit_workload(task.mod)
    for place, one in enumerate(candidates_of(task, number), 1):
        database.commit_tuning_record(
            ms.database.TuningRecord(
                one.sch.trace, workload, [place * 1e-3], cpu_target(), one.args_info
            )
        )
    return pickle.dumps(task.mod)


def opened(folder: Path, module: bytes) -> int:
    return len(records.open_database(folder, pickle.loads(module)))


def search_a_small_space() -> tuple[int, int]:
    """The lesson's own examples, as they stand there, on a space of few schedules."""
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.exercise import load_lesson
    from tvm_practice.common.measure import Measure
    from tvm_practice.common.target import cpu_target

    lesson = load_lesson("auto_tune")
    space = ms.space_generator.ScheduleFn(
        lesson.vector_add_space,
        sch_rules=[],
        postprocs=[],
        mutator_probs={ms.mutator.MutateTileSize(): 1.0},
    )
    strategy = ms.search_strategy.EvolutionarySearch(population_size=64)
    task = lesson.vector_add_task(8, cpu_target(), space, strategy, 1)
    database = ms.database.MemoryDatabase()
    measure = Measure(database, task.mod, cpu_target())
    lesson.tune_blindly(task, database, measure, trials=100, batch=4)
    found = database.get_all_tuning_records()
    return len(found), len({str(lesson.replay(record).mod) for record in found})


# -------------------------------------------------------------------------------------------- tests


def test_candidates_that_crash_or_hang_are_counted_and_survived(tmp_path: Path) -> None:
    failures, errors = worker.call(measure_trouble, tmp_path, seconds=120)
    assert len(failures) == 6
    assert "SIGABRT" in failures[0]
    assert "still compiling" in failures[1]
    assert "MemoryError" in failures[2]
    assert "still running" in failures[3]
    assert failures[4:] == [None, None]
    assert errors[:4] == failures[:4]
    runs = records.runs_of_records(tmp_path)
    assert runs[:4] == [None] * 4
    assert all(seconds > 0 for (seconds,) in runs[4:])


DAMAGES = {
    "cut off": lambda line: line[: len(line) // 2],
    "garbage": lambda line: "\x00\x01 garbage",
    "merge conflict": lambda line: "<<<<<<< HEAD",
    "empty line": lambda line: "",
    "no record": lambda line: "[0, []]",
    "no time": lambda line: _edited(line, lambda record: record.__setitem__(1, [])),
    "negative time": lambda line: _edited(line, lambda record: record.__setitem__(1, [-1.0])),
    "no trace": lambda line: _edited(line, lambda record: record[0].__setitem__(0, [])),
    "unknown instruction": lambda line: _edited(
        line, lambda record: record[0][0][0].__setitem__(0, "Nonsense")
    ),
    "decision about nothing": lambda line: _edited(  # TVM reads beyond an array, and may crash
        line, lambda record: record[0].__setitem__(1, [[99, [1, 2]]])
    ),
    "decision for another": lambda line: _edited(
        line, lambda record: record[0][1][0].__setitem__(0, 0)
    ),
}


def _edited(line: str, edit) -> str:
    whole = json.loads(line)
    edit(whole[1])
    return json.dumps(whole)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_file_is_named_and_set_aside(damage: str, tmp_path: Path) -> None:
    module = worker.call(write_records, tmp_path, 3)
    path = tmp_path / records.RECORDS
    lines = path.read_text().splitlines()
    broken = "\n".join([lines[0], DAMAGES[damage](lines[1]), lines[2], ""])
    path.write_text(broken)
    told = records.repair(tmp_path, module)
    assert str(path) in told
    assert "1 of 3 lines" in told
    assert "line 2" in told
    assert (tmp_path / f"{records.RECORDS}.damaged-1").read_text() == broken
    assert path.read_text().splitlines() == [lines[0], lines[2]]
    assert worker.call(opened, tmp_path, module) == 2
    assert records.repair(tmp_path, module) == ""


def test_sound_records_are_left_alone(tmp_path: Path) -> None:
    module = worker.call(write_records, tmp_path, 2)
    path = tmp_path / records.RECORDS
    before = path.read_text()
    assert records.repair(tmp_path, module) == ""
    assert path.read_text() == before
    path.write_text(before.rstrip("\n"))  # as if the process had ended before the line did
    assert records.repair(tmp_path, module) == ""
    assert path.read_text() == before
    assert records.runs_of_records(tmp_path) == [[1e-3], [2e-3]]
    records.add_runs(tmp_path, {0: [3e-3, 4e-3]})
    assert records.runs_of_records(tmp_path) == [[1e-3, 3e-3, 4e-3], [2e-3]]
    assert worker.call(opened, tmp_path, module) == 2


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def run_phase(copy: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tvm_practice.auto_tune", "--solutions", "--quick"]
    return subprocess.Popen(
        [*command, "--size", "64x96x48", *options],
        cwd=copy,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_ctrl_c_keeps_every_record_and_the_next_run_goes_on(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tvm_practice", tmp_path / "tvm_practice")
    first = run_phase(tmp_path, "--trials", "500")
    end = time.monotonic() + 150
    while not (found := list(tmp_path.glob(f"records/*/*/{records.RECORDS}"))) or not (
        len(_lines(found[0])) >= 3
    ):
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < end, "no record was written"
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 130, output
    assert "Every record is kept" in " ".join(output.split())
    kept = _lines(found[0])
    assert len(kept) >= 3
    total = len(kept) + 4
    second = run_phase(tmp_path, "--trials", str(total))
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert f"{len(kept)} schedules were measured by earlier runs" in output
    assert f"{total} of {total} measured" in output
    traces = [[json.loads(line)[1][0] for line in lines] for lines in (kept, _lines(found[0]))]
    assert traces[1][: len(kept)] == traces[0]
    assert (tmp_path / "reports" / "auto_tune" / "tuning_curve.png").stat().st_size > 1000


def test_the_worked_search_finds_every_schedule_of_a_small_space_once_and_ends() -> None:
    # 8 = a * b * c in 10 ways
    assert worker.call(search_a_small_space, seconds=120) == (10, 10)
