"""The explain command: what a step changed, whether it is right, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tvm_practice import explain
from tvm_practice.common import worker

ROOT = Path(__file__).resolve().parent.parent

SCHEDULES = '''
from tvm import te
from tvm.s_tir import Schedule

def elementwise():
    A = te.placeholder((50, 13), name="A")
    B = te.compute((50, 13), lambda i, j: te.exp(A[i, j]) * 2.0, name="B")
    C = te.compute((50, 13), lambda i, j: B[i, j] + A[i, j], name="C")
    sch = Schedule(te.create_prim_func([A, C]))
    sch.compute_inline(sch.get_sblock("B"))
    fused = sch.fuse(*sch.get_loops(sch.get_sblock("C")))
    outer, middle, lanes = sch.split(fused, [2, None, 16])
    sch.parallel(outer)
    sch.vectorize(lanes)
    sch.get_loops(sch.get_sblock("C"))
    return sch

def matmul(M=10, N=30, K=8):
    A, B = te.placeholder((M, K), name="A"), te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return Schedule(te.create_prim_func([A, B, C]))

def forgotten_guard():
    """TVM 0.27 loses the guard that a split made when it puts one for the padding."""
    sch = matmul()
    block = sch.get_sblock("C")
    sch.pad_einsum(block, [1, 4, 1])
    i, j, k = sch.get_loops(block)
    outer, _ = sch.split(i, [None, 4])
    copy = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(copy, outer)
    sch.reverse_compute_inline(sch.get_sblock("C_pad"))
    return sch

def overlapping_layout():
    sch = matmul()
    sch.cache_read(sch.get_sblock("C"), 1, "global")
    sch.transform_layout(sch.get_sblock("C"), ("read", 1), lambda k, j: (k // 2, j))
    sch.parallel(sch.get_loops(sch.get_sblock("C"))[0])
    return sch

def other_layout():
    sch = matmul()
    sch.transform_layout(sch.get_sblock("C"), ("read", 1), lambda k, j: (j, k))
    return sch

def for_a_gpu():
    sch = matmul()
    sch.bind(sch.get_loops(sch.get_sblock("C"))[0], "threadIdx.x")
    return sch

def there_and_back():
    sch = matmul()
    i, j, k = sch.get_loops(sch.get_sblock("C"))
    sch.reorder(j, i)
    sch.reorder(i, j)
    return sch

def integers():
    A = te.placeholder((20, 9), name="A", dtype="int8")
    k = te.reduce_axis((0, 9), name="k")
    B = te.compute((20,), lambda i: te.sum(A[i, k].astype("int32"), axis=k), name="B")
    sch = Schedule(te.create_prim_func([A, B]))
    sch.split(sch.get_loops(sch.get_sblock("B"))[0], [None, 8])
    return sch

def of_positive_numbers():
    A = te.placeholder((20,), name="A")
    B = te.compute((20,), lambda i: te.log(A[i]), name="B")
    sch = Schedule(te.create_prim_func([A, B]))
    sch.vectorize(*sch.get_loops(sch.get_sblock("B")))
    return sch

def number():
    return 3

def refused():
    sch = matmul()
    sch.parallel(sch.get_loops(sch.get_sblock("C"))[2])
    return sch

def with_arguments(n):
    return n

def leaves():
    raise SystemExit(0)

def crashes():
    import os
    os.abort()
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("schedules") / "mine.py"
    path.write_text(SCHEDULES)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(explain.main, [str(one) for one in arguments])


def explained(tmp_path: Path, *arguments: object, status: int = 0) -> tuple[dict, Result]:
    path = tmp_path / "explained.json"
    done = run(*arguments, "--seed", 3, "--json", path)
    assert done.exit_code == status, (
        f"explain {arguments} ended with status {done.exit_code}, not {status}: {done.output}"
    )
    assert not list(tmp_path.glob("*.unfinished"))
    return json.loads(path.read_text()), done


def changes(report: dict) -> dict[str, list[str]]:
    """The sentences of each step, by its call."""
    return {step["call"]: step["changes"] for step in report["steps"]}


def test_the_reference_ladder(tmp_path) -> None:
    arguments = ("2.5", "--solutions", "--size", "60x100x40", "--no-time")
    report, done = explained(tmp_path, *arguments)
    steps = report["steps"]
    assert report["size"] == [60, 100, 40]
    assert report["complete"] is True
    assert [step["number"] for step in steps] == list(range(len(steps)))
    for step in steps:
        assert step["compiled"] and step["verified"], f"{step['call']}: {step['reason']}"
        assert step["nest"]["lines"] and step["nest"]["tree"] and step["nest"]["blocks"]
        assert step["changes"] or step["number"] == 0, f"{step['call']} changed nothing?"
        assert step["median_s"] is None
    assert steps[0]["kind"] == "start" and steps[0]["part"] is None
    parts = [step["part"] for step in steps[1:]]
    assert parts == sorted(parts)
    assert set(parts) == {"2.1", "2.2", "2.3", "2.4", "2.5"}
    kinds = [step["kind"] for step in steps]
    assert "GetLoops" not in kinds
    assert {"Split", "Reorder", "Vectorize", "Parallel", "CacheWrite", "Unroll"} <= set(kinds)
    told = "\n".join(sentence for step in steps for sentence in step["changes"])
    for fragment in (
        "i split into i_0 x i_1 (",
        "order now i_0, j_0, k, i_1, j_1",
        "j_1 vectorized",
        "i_0_0 parallel",
        "in local",
        "_local: moved into loop i_0_1 of C, its own loops ax0 x ax1: ",
        "C taken apart: C_init sets the result before k, C_update adds",
        "i_1 unrolled",
    ):
        assert fragment in told, f"no step says {fragment!r}:\n{told}"
    assert "transform_layout" in done.output
    # The lines of Python are TVM's own, and the whole trace is there.
    lines = [line for step in steps[1:] for line in (*step["asked"], step["python"])]
    assert lines[0].startswith("b0 = sch.get_sblock(")
    assert all("sch." in line for line in lines)


def test_an_elementwise_schedule_and_its_times(tmp_path, mine) -> None:
    report, done = explained(tmp_path, f"{mine}:elementwise", "--rounds", 6)
    assert changes(report) == {
        "": [],
        "sch.compute_inline(B)": [
            "block B is gone, now computed in C",
            "reads B no more",
            "buffer B is gone",
        ],
        "sch.fuse(i, j)": ["i, j fused into i_j_fused (650)"],
        "sch.split(i_j_fused, [2, None, 16])": [
            "i_j_fused split into i_j_fused_0 x i_j_fused_1 x i_j_fused_2 "
            "(2 x 21 x 16: 22 more than 650)",
            "under a guard now",
        ],
        "sch.parallel(i_j_fused_0)": ["i_j_fused_0 parallel"],
        "sch.vectorize(i_j_fused_2)": ["i_j_fused_2 vectorized"],
    }
    assert report["size"] is None
    assert [one["name"] for one in report["work"]["parameters"]] == ["A", "C"]
    assert "sch.get_loops(" in report["rest"][-1]
    assert report["peaks"]["fma_gflops"] > 0
    assert {"cpu", "threads", "tvm"} <= report["machine"].keys()
    for step in report["steps"]:
        assert step["verified"] is True, step["reason"]
        assert step["median_s"] > 0 and step["spread"] >= 0 and step["gflops"] > 0
        assert len(step["samples_s"]) == 6
        if step["number"]:
            assert step["verdict"]["word"] in ("faster", "slower", "cannot tell")
            assert step["verdict"]["second"] == str(step["number"] - 1)
    assert "GFLOP/s" in done.output


def test_a_step_that_breaks_the_result_is_named(tmp_path, mine) -> None:
    report, done = explained(tmp_path, f"{mine}:overlapping_layout", "--no-time", status=1)
    assert [step["verified"] for step in report["steps"]] == [True, True, False, False]
    assert "step 2, transform_layout(" in done.stderr
    assert "elements of C are wrong" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_forgotten_guard_writes_outside(tmp_path, mine) -> None:
    report, done = explained(tmp_path, f"{mine}:forgotten_guard", "--no-time", status=1)
    assert [step["verified"] for step in report["steps"]] == [True] * 5 + [False]
    assert "reverse_compute_inline(C_pad)" in done.stderr
    assert "wrote outside the output" in done.stderr


def test_another_layout_of_a_parameter_is_wrong(tmp_path, mine) -> None:
    _, done = explained(tmp_path, f"{mine}:other_layout", "--no-time", status=1)
    assert "callers must now pass B[30, 8] float32 instead of B[8, 30] float32" in done.stderr


def test_what_cannot_be_compiled_has_a_short_reason(tmp_path, mine) -> None:
    report, _ = explained(tmp_path, f"{mine}:for_a_gpu", "--no-time")
    (_, step) = report["steps"]
    assert (step["compiled"], step["verified"]) == (False, None)
    assert step["reason"] == "i is bound to threadIdx.x, which only a GPU has"


def test_the_same_program_again_is_not_timed_again(tmp_path, mine) -> None:
    report, _ = explained(tmp_path, f"{mine}:there_and_back", "--rounds", 1)
    first, between, last = report["steps"]
    assert (between["same_as"], last["same_as"]) == (None, 0)
    assert last["samples_s"] == first["samples_s"] != between["samples_s"]


@pytest.mark.parametrize("function", ["integers", "of_positive_numbers"])
def test_functions_of_other_kinds(tmp_path, mine, function: str) -> None:
    report, _ = explained(tmp_path, f"{mine}:{function}", "--no-time")
    assert all(step["verified"] for step in report["steps"])


# ------------------------------------------------------------------------------------------ records


def _records_of_the_default_space(folder: Path) -> None:
    """A tiny search in MetaSchedule's own space, which ends with its postprocessors. Runs in a
    worker."""
    import tvm
    from tvm import te
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.measure import skip_tensor_intrinsics
    from tvm_practice.common.target import cpu_target

    skip_tensor_intrinsics()
    A, B = te.placeholder((16, 16), name="A"), te.placeholder((16, 16), name="B")
    k = te.reduce_axis((0, 16), name="k")
    C = te.compute((16, 16), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    D = te.compute((16, 16), lambda i, j: C[i, j] * 2.0, name="D")
    module = tvm.IRModule({"main": te.create_prim_func([A, B, D])})
    task = ms.TuneContext(
        mod=module,
        target=cpu_target(),
        space_generator=ms.space_generator.PostOrderApply(
            sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"
        ),
        search_strategy=ms.search_strategy.ReplayTrace(),
        num_threads=1,
        rand_state=3,
    )
    database = ms.database.JSONDatabase(work_dir=str(folder))
    workload = database.commit_workload(module)
    task.pre_tuning(4, 4, task.generate_design_space(), database, ms.cost_model.RandomModel())
    for number, one in enumerate(task.generate_measure_candidates()):
        database.commit_tuning_record(
            ms.database.TuningRecord(
                one.sch.trace, workload, [1e-3 / (1 + number)], cpu_target(), one.args_info
            )
        )


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    worker.call(_records_of_the_default_space, folder)
    return folder


def test_a_record_and_its_postprocessors(tmp_path, searched) -> None:
    before = {path.name: path.read_bytes() for path in searched.iterdir()}
    report, done = explained(tmp_path, searched, "--no-time")
    steps = report["steps"]
    assert "record 1 of " in report["told"]
    assert all(step["verified"] for step in steps)
    after = [step["postprocessor"] for step in steps]
    assert after == sorted(after), "postprocessors come last"
    assert any(after) and not all(after)
    assert "Parallel" in {step["kind"] for step in steps if step["postprocessor"]}
    assert "Split" in {step["kind"] for step in steps if not step["postprocessor"]}
    assert "postprocessor: " in done.output
    assert before == {path.name: path.read_bytes() for path in searched.iterdir()}


def test_damaged_lines_are_passed_over(tmp_path, searched) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in searched.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "database_tuning_record.json"
    good = path.read_text()
    path.write_text("<<<<<<< HEAD\n{}\n[0, [[[], []], [null]]]\n" + good)
    last = len(good.splitlines())
    report, _ = explained(tmp_path, folder, "--no-time", "--rank", last)
    assert f"record {last} of {last} by speed (line 4)" in report["told"]
    refused = run(folder, "--rank", last + 1)
    assert refused.exit_code == 2
    assert f"holds {last} usable records" in refused.stderr
    path.write_text("{}\n")
    refused = run(folder)
    assert refused.exit_code == 2
    assert "no record of a schedule" in refused.stderr


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("number", "number returned an int; expected a tvm.s_tir.Schedule"),
        (
            "refused",
            '`sch.parallel(sch.get_loops(sch.get_sblock("C"))[2])`: TVM refuses: this loop is',
        ),
        ("with_arguments", "takes arguments"),
        ("leaves", "SystemExit"),
        ("crashes", "SIGABRT"),
        ("missing", "has no function missing; it has elementwise, matmul"),
    ],
)
def test_a_function_that_is_no_schedule_is_status_2(mine, function: str, told: str) -> None:
    done = run(f"{mine}:{function}")
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["9.9"], "9.9 is no exercise; explain takes 2.1, 2.2"),
        (["1.1"], "1.1 is no step of phase 2's ladder"),
        (["2.7"], " run 2.7` checks it, and shows the loop nests it makes"),
        (["nothing_here"], "there is no nothing_here; give an exercise"),
        (["no.py:f"], "there is no file no.py"),
        (["pyproject.toml:f"], "is no Python file"),
        (["tests/test_explain.py"], "tests/test_explain.py:FUNCTION names a function in it"),
        (["tests"], "tests holds no database_tuning_record.json"),
        (["tests", "--size", "4"], "--size is only for the ladder"),
        (["2.1", "--rank", "2"], "only for a folder of tuning records"),
        (["2.1", "--size", "0"], "is no size"),
        (["2.1", "--json", "tests"], "it is a folder"),
        (["2.1", "--json", "pyproject.toml/x.json"], "its folder is a file"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(monkeypatch, arguments: list, told: str) -> None:
    monkeypatch.chdir(ROOT)
    done = run(*arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_a_file_that_python_cannot_read(tmp_path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def f(:\n")
    done = run(f"{path}:f")
    assert done.exit_code == 2
    assert "broken.py cannot be loaded: line 1, `def f(:`: invalid syntax." in done.stderr


def test_a_narrow_terminal_has_a_list(tmp_path, mine, monkeypatch) -> None:
    monkeypatch.setattr(explain.show.console, "width", 60)
    _, done = explained(tmp_path, f"{mine}:there_and_back", "--no-time", "--all", "--nests")
    assert "1  reorder(j, i)" in done.output
    assert max(len(line) for line in done.output.splitlines()[:-1] if "json" not in line) <= 60


def test_ctrl_c_is_130_and_keeps_what_there_is(tmp_path, mine) -> None:
    path = tmp_path / "kept.json"
    command = [sys.executable, "-m", "tvm_practice.explain", f"{mine}:elementwise"]
    process = subprocess.Popen(
        [*command, "--rounds", "3000", "--json", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "seed" in process.stdout.readline()  # it has replayed the trace
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert f"interrupted; what there is so far is in {path}" in err, out
    assert "Traceback" not in err
    report = json.loads(path.read_text())
    assert report["complete"] is False
    assert len(report["steps"]) == 6
