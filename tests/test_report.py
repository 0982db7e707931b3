"""What the page is made of: the accesses of a program, what runs left, and its command."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import report_page
from tvm_practice import main
from tvm_practice.common import accesses, cache, command, exercise, worker
from tvm_practice.common.accesses import MOST_BUFFERS, Buffer, Program
from tvm_practice.common.loop_nest import Line, LoopNest
from tvm_practice.report import ladders, page, runs

MATMUL, FUSED, CONV = ladders.LADDERS


def data() -> dict[str, Any]:
    return report_page.data(report_page.made())


def program_of(step: dict[str, Any]) -> Program:
    found = step["program"]
    buffers = tuple(
        Buffer(one["name"], tuple(one["shape"]), one["registers"]) for one in found["buffers"]
    )
    return Program(buffers, tuple(found["loops"]), found["body"])


def touches(program: Program) -> list[tuple[str, str, int]]:
    """(r or w, array, element) of every access to memory, in order."""
    return [
        ("rw"[one & 1], program.buffers[(one >> 1) % MOST_BUFFERS].name, one // 2 // MOST_BUFFERS)
        for one in accesses.trace(program)
    ]


# ----------------------------------------------------------------------------------- the accesses


def test_the_accesses_of_the_default_loops_are_those_of_the_definition() -> None:
    side = ladders.SIDE
    want = []
    for i in range(side):
        for j in range(side):
            for k in range(side):
                c = ("C", i * side + j)
                want += [("w", *c)] if k == 0 else []
                want += [("r", *c), ("r", "A", i * side + k), ("r", "B", k * side + j), ("w", *c)]
    assert touches(program_of(data()["ladders"][0]["steps"][0])) == want


def test_a_convolution_reads_only_where_its_condition_holds() -> None:
    M, N = ladders.SAMPLES, ladders.TAPS
    by_part = {step["part"]: step for step in data()["ladders"][2]["steps"]}
    read = [one for one in touches(program_of(by_part["fewer terms"])) if one[1] in "DW"]
    want = []
    for i in range(M + N - 1):
        for k in range(N):
            want += [("r", "D", i - k), ("r", "W", k)] if 0 <= i - k < M else []
    assert read == want


@pytest.mark.parametrize("ladder", ladders.LADDERS, ids=lambda ladder: ladder.name)
def test_every_step_computes_the_same(ladder) -> None:
    """Whatever the order, each product is taken once, and each result written."""
    found = next(one for one in data()["ladders"] if one["name"] == ladder.name)
    result = {"matmul": "C", "fused_gelu": "G", "conv1d": "C"}[ladder.name]
    assert len(found["steps"]) > 10
    for step in found["steps"]:
        program = program_of(step)
        seen = touches(program)
        sizes = {one.name: one.size for one in program.buffers}
        counts = Counter(seen)
        assert {at for way, name, at in counts if (way, name) == ("w", result)} == set(
            range(sizes[result])
        ), step["call"]
        for _, name, place in counts:
            assert 0 <= place < sizes[name], step["call"]
        if ladder.name != "conv1d":
            of_a = [n for (way, name, _), n in counts.items() if (way, name) == ("r", "A")]
            assert of_a == [ladders.SIDE] * ladders.SIDE**2, step["call"]
        lines = {name: sum(1 for one in seen if one[1] == name) for name in step["misses"]}
        assert lines == {name: counts[0] for name, counts in step["misses"].items()}


def _last_writes(program: Program, name: str) -> dict[int, list[tuple[str, int]]]:
    """By element, the loops at its last write: the program is run, and every write is noted."""
    last, values = {}, {}

    def value(expression: Any) -> int:
        match expression:
            case int():
                return expression
            case ["v", number]:
                return values[number]
            case ["min" | "max" as which, left, right]:
                return (min if which == "min" else max)(value(left), value(right))
            case [operator, left, right]:
                return int(eval(f"{value(left)} {operator} {value(right)}"))
        raise ValueError(expression)

    def run(nodes: list[Any], around: tuple[int, ...]) -> None:
        for node in nodes:
            match node:
                case ["for", number, extent, body]:
                    for values[number] in range(extent):
                        run(body, (*around, number))
                case ["if", condition, body, other]:
                    run(body if value(condition) else other, around)
                case ["w", buffer, offset] if program.buffers[buffer].name == name:
                    last[value(offset)] = [(program.loops[n], values[n]) for n in around]

    run(program.body, ())
    return last


def test_the_last_write_to_an_element_is_the_one_that_a_run_of_the_program_makes_last() -> None:
    for ladder, result in zip(data()["ladders"], "CGC", strict=True):
        programs = {json.dumps(step["program"]): step for step in ladder["steps"]}
        for step in list(programs.values())[::4]:
            program = program_of(step)
            shape = next(one.shape for one in program.buffers if one.name == result)
            last = _last_writes(program, result)
            for place in range(0, math.prod(shape), 5):
                where = [int(one) for one in np.unravel_index(place, shape)]
                found = accesses.last_write(program, result, where)
                assert found == last[place], (step["call"], where)


def test_an_element_that_nothing_writes_has_no_last_write() -> None:
    every_other = [["for", 0, 4, [["w", 0, ["*", ["v", 0], 2]]]]]
    program = Program((Buffer("C", (2, 4), False),), ("i",), every_other)
    assert accesses.last_write(program, "C", (1, 2)) == [("i", 3)]
    assert accesses.last_write(program, "C", (1, 1)) is None


def test_loops_of_the_program_are_the_loops_of_the_text() -> None:
    """The page writes each loop's value beside its line: both must come in one order."""
    for ladder in data()["ladders"]:
        for step in ladder["steps"]:
            text = [line for mark, _, line in step["lines"] if mark != "-"]
            loops = [line.split()[1] for line in text if line.startswith("for ")]
            assert loops == step["program"]["loops"], step["call"]


def test_what_the_ladder_shows_of_caches() -> None:
    """What the lesson says of tiling, and of the tile in registers, is what the page counts."""

    def misses(call: str) -> dict[str, list[int]]:
        steps = data()["ladders"][0]["steps"]
        return next(step["misses"] for step in reversed(steps) if step["call"].startswith(call))

    naive, tiled = data()["ladders"][0]["steps"][0]["misses"], misses("reorder(i_0, j_0, k")
    kept = misses("decompose_reduction")
    assert naive["B"][1] > 5 * tiled["B"][1]
    assert tiled["C"][1] > 5 * kept["C"][1]
    side, floats = ladders.SIDE, cache.SMALL_LINE // ladders.FLOAT
    assert kept["C"][1] == side * side // floats, "each line of C is fetched once"


def test_lines_that_came_and_went_are_marked() -> None:
    def nest(*texts: str) -> LoopNest:
        return LoopNest((), (), tuple(Line(n, text) for n, text in enumerate(texts)))

    assert ladders.marked(None, nest("a", "b")) == [("", 0, "a"), ("", 1, "b")]
    found = ladders.marked(nest("a", "b", "c"), nest("x", "a", "c", "d" * 500))
    assert found[:4] == [("+", 0, "x"), ("", 1, "a"), ("-", 1, "b"), ("", 2, "c")]
    assert found[4][2].endswith(" ... 500 characters")


def test_an_answer_that_cannot_be_drawn_gives_way_to_the_reference(tmp_path) -> None:
    answers = tmp_path / "mine.py"
    answers.write_text("def tile(sch, rows, columns):\n    raise ValueError('only for 1024')\n")
    whose = {**ladders.references(MATMUL), "2.1": f"{answers}:tile"}
    with pytest.raises(worker.WorkerFailed, match="only for 1024"):
        worker.call(ladders.made, "matmul", whose)
    found, told = page._climbed(MATMUL, {**whose, "2.2": exercise.LEARNER}, solutions=False)
    assert len(found["steps"]) > 10
    assert "cannot be drawn" in told and "only for 1024" in told


@pytest.mark.parametrize(
    ("yours", "solutions", "want"),
    [
        (MATMUL.exercises, False, "Built from your own answers."),
        (("2.1", "2.4"), False, "Built from your 2.1, 2.4; the reference stands in"),
        ((), False, "yours will stand here"),
        ((), True, "Built from the reference's answers."),
    ],
)
def test_whose_answers_a_ladder_is_made_of(yours, solutions, want) -> None:
    whose = ladders.references(MATMUL) | dict.fromkeys(yours, exercise.LEARNER)
    assert want in ladders.told_of_bodies(whose, solutions)


# ------------------------------------------------------------------------------ what runs have left

MACHINE = {"cpu": "A processor", "llvm_cpu": "znver9", "threads": 3, "tvm": "0.27"}


def result(name: str, seconds: float, **more: Any) -> dict[str, Any]:
    gflops = 2 * 512**3 / seconds / 1e9
    return {"competitor": name, "median_s": seconds, "spread": 0.01, "gflops": gflops, **more}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "benchmarks").mkdir()
    return tmp_path


def test_times_come_with_their_file_machine_and_date(root) -> None:
    size = [512, 512, 512]
    times = [result("FMA peak", 1e-3), result("naive", 0.5), result("2.1 tile", 0.1)]
    lesson = {"machine": MACHINE, "size": size, "peaks": {"fma_gflops": 300.0}, "results": times}
    path = root / "reports" / "manual_schedule.json"
    path.write_text(json.dumps(lesson))
    os.utime(path, (0, time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))))
    bench = {
        "machine": MACHINE,
        "started": "2026-01-02T03:04:05Z",
        "peaks": {"fma_gflops": 299.0, "read_gbytes": 30.0},
        "results": [
            result(name, 0.2, size=side, workload=workload)
            for workload in ("matmul", "conv1d")
            for side in ([2048, 2048, 2048], [64, 64, 64])
            for name in ("naive", "NumPy")
        ],
    }
    (root / "benchmarks" / "cpu.json").write_text(json.dumps(bench))
    first, second, third = runs.measured(root, MATMUL)
    assert first["size"] == size and first["file"] == "reports/manual_schedule.json"
    assert first["date"] == "2026-03-04" and first["bandwidth"] is None
    assert first["machine"] == "A processor (znver9), 3 threads, TVM 0.27"
    assert [one["name"] for one in first["times"]] == ["naive", "2.1 tile"]
    assert first["times"][0]["intensity"] == pytest.approx(512 / 6)
    assert [second["size"][0], third["size"][0]] == [2048, 64], "the size nearest to the lesson's"
    assert (second["date"], second["bandwidth"]) == ("2026-01-02", 30.0)
    assert second["times"][1]["library"]
    assert runs.measured(root, CONV) == [], "three sides are no convolution"
    path.write_text(json.dumps(lesson | {"started": "2026-03-05T23:59:59+01:00"}))
    assert runs.measured(root, MATMUL)[0]["date"] == "2026-03-05", "rather than the file's time"


def test_a_lesson_says_in_its_report_when_it_ran(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(main, "REPORTS", tmp_path)
    session = main.Session("conv1d", main.Options("cpu", True, True, 1, None, None))
    session.save_report(MACHINE)
    began = datetime.fromisoformat(json.loads((tmp_path / "conv1d.json").read_text())["started"])
    assert abs((datetime.now().astimezone() - began).total_seconds()) < 60


SAVER = """
import sys
from pathlib import Path
from tvm_practice import main
main.REPORTS = Path(sys.argv[1])
session = main.Session("conv1d", main.Options("cpu", True, True, 1, None, None))
session.report = {"results": [sys.argv[2] * 10_000] * 20}
for _ in range(40):
    session.save_report({})
"""


def test_two_courses_at_once_write_their_reports_whole(tmp_path) -> None:
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    told = [saver.communicate()[0] for saver in savers]
    assert told == ["", ""], "each could be written"
    content = json.loads((tmp_path / "conv1d.json").read_text())
    assert len({letter for one in content["results"] for letter in one}) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["conv1d.json"]


def test_what_is_not_there_or_has_no_times_is_nothing_to_tell(root) -> None:
    told: list[str] = []
    assert runs.measured(root, MATMUL, told.append) == []
    (root / "reports" / "manual_schedule.json").write_text('{"gpu": {}, "machine": {}}')
    (root / "reports" / "explain.json").write_text('{"complete": false, "size": null}')
    assert runs.measured(root, MATMUL, told.append) == []
    assert runs.explained(root, told.append) is None
    assert told == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"results": 3, "size": [1, 2, 3]}',
        '{"results": [{}], "size": [1, 2, 3], "peaks": {"fma_gflops": 1}}',
        '{"results": [{"competitor": "naive"}], "size": [1, 2, 3]}',
        '{"results": [["naive"]], "size": [1, 2, 3], "peaks": {"fma_gflops": 1}}',
        '{"complete": true, "size": [1, 2, 3], "steps": [{}]}',
        '{"complete": true, "size": [1, 2, 3], "steps": 3}',
        '{"results": [{"competitor": "a", "median_s": NaN, "spread": 0, "gflops": 1}, 3],'
        ' "size": [1, 2, 3], "peaks": {"fma_gflops": 1}}',
        "\x00\x01",
    ],
)
def test_a_file_of_another_form_is_no_measurement(root, content) -> None:
    for name in ("manual_schedule", "bench", "explain"):
        (root / "reports" / f"{name}.json").write_text(content)
    told: list[str] = []
    assert runs.measured(root, MATMUL, told.append) == []
    assert runs.explained(root, told.append) is None
    assert runs.curves(root) == []
    assert any("tvm-practice run manual_schedule` writes it anew" in one for one in told) or any(
        "explain 2.5 --json reports/explain.json` writes it anew" in one for one in told
    )
    assert all(re.match(r"reports/\w+\.json is (damaged|of another version)", one) for one in told)


def test_a_search_becomes_a_curve(root) -> None:
    folder = root / "records" / "auto_tune" / "matmul-64x64x64-znver9-2-threads-abc"
    folder.mkdir(parents=True)
    trace = [[["GetSBlock", [], ["C", "main"], ["b0"]]], []]
    lines = [
        json.dumps([0, [trace, seconds, {"kind": "llvm"}, []]])
        for seconds in ([1e-4], [1e10], [5e-5, 5e-5], [2e-4])
    ]
    (folder / "database_tuning_record.json").write_text("\n".join([*lines, "damaged"]))
    (curve,) = runs.curves(root)
    work = 2 * 64**3 / 1e9
    assert curve["trials"] == pytest.approx([work / 1e-4, 0, work / 5e-5, work / 2e-4, 0])
    assert curve["best"] == pytest.approx([work / 1e-4] * 2 + [work / 5e-5] * 3)
    assert (curve["title"], curve["machine"]) == ("matmul 64 x 64 x 64", "znver9, 2 threads")


def nothing_measured() -> dict:
    """The content of a page before anything was measured."""
    return {
        "made": "now",
        "machine": {**MACHINE},
        "ladders": [
            {
                **vars(MATMUL),
                "told": "This ladder could not be drawn: <b>",
                "cache": "",
                "levels": [],
                "steps": [],
                "measured": [],
                "explained": None,
                "command": runs.command(MATMUL),
            }
        ],
        "curves": [],
        "search": runs.SEARCH,
        "progress": {"lessons": [], "solved": 0, "total": 0, "trouble": ""},
        "trouble": ["It is damaged."],
    }


def test_where_nothing_was_measured_the_page_says_what_to_run() -> None:
    text = page.html(nothing_measured())
    words = re.sub(r"<[^>]*>", "", text)
    assert "run manual_schedule" in words and "run auto_tune" in words
    assert "tvm-practice run 1.1 checks it" in " ".join(words.split())
    assert "It is damaged." in text
    assert "could not be drawn: &lt;b&gt;" in text
    assert "GFLOP/s</th>" not in text


def test_the_page_prints_commands_as_they_are_typed() -> None:
    made = (
        "from tvm_practice.report import page, runs; from tests import test_report as one; "
        "print(runs.BENCH); print(runs.EXPLAIN); print(page.html(one.nothing_measured()))"
    )
    environment = {**os.environ, command.VARIABLE: "./practice"}
    done = subprocess.run(
        [sys.executable, "-c", made],
        cwd=report_page.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = re.sub(r"<[^>]*>", "", done.stdout)
    assert words.startswith("./practice python -m tvm_practice.bench\n")
    assert words.splitlines()[1].startswith("./practice python -m tvm_practice.explain 2.5 --json")
    assert "python -m" not in (page.HERE / "page.html").read_text()
    for rest in ("run 1.1", "run auto_tune", "report"):
        assert f"./practice tvm-practice {rest}" in words
    assert words.count("tvm-practice ") == words.count("./practice tvm-practice ")


def test_nothing_in_the_data_ends_its_element() -> None:
    text = page.embedded({"name": "</script><!--&"})
    assert "<" not in text and "&" not in text
    assert json.loads(text) == {"name": "</script><!--&"}


# -------------------------------------------------------------------------------------- the command


def test_the_page_holds_all_it_needs() -> None:
    text = report_page.made().read_text()
    assert "Content-Security-Policy" in text
    for fragment in ('<link rel="stylesheet', " src=", "@import", "url("):
        assert fragment not in text
    assert len(text) < 2_000_000


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "page.html"):
        start = time.monotonic()
        done = report_page.run("--out", place)
        assert done.returncode == 2
        assert done.stderr.startswith(f"tvm_practice.report: {tmp_path}"), done.stderr
        assert "cannot be written" in done.stderr and "--out FILE" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert time.monotonic() - start < 20, "before the work, not after it"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_the_help_has_an_example_and_loads_neither_tvm_nor_torch() -> None:
    loaded = (
        "import sys, tvm_practice.report as r; print({'tvm', 'torch', 'jinja2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done
    help_ = report_page.run("--help")
    assert help_.returncode == 0 and "Example: tvm-practice report --open" in help_.stdout


def test_the_files_that_the_page_is_made_of_are_in_the_package() -> None:
    for name in ("page.html", "page.css", "page.js"):
        assert (page.HERE / name).is_file()
