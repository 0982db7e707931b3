"""The bench command: what it writes, what it refuses, and what is left after Ctrl-C."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import bench_workloads
from tvm_practice import bench
from tvm_practice.common import roofline, timing

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def sleeping(monkeypatch) -> None:
    """Three workloads that only sleep: one right, one with a wrong result, one unverified."""
    offered = {
        "sleep": bench_workloads.workload("sleep"),
        "wrong": bench_workloads.workload("wrong", bench_workloads.wrong_competitors),
        "unverified": bench_workloads.workload(
            "unverified", bench_workloads.unverified_competitors
        ),
    }
    monkeypatch.setattr(bench, "workloads", lambda gpu=False: offered)
    monkeypatch.setattr(bench, "SAMPLE_SECONDS", 0.001)


@pytest.fixture
def known_peaks(monkeypatch) -> None:
    """Peaks that need no measurement."""
    peaks = {"fma_gflops": 100.0, "read_gbytes": 10.0, "threads": 2}
    monkeypatch.setattr(bench, "_peaks", lambda report, *_: report.peaks.update(peaks))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bench.main, [str(one) for one in arguments])


def test_the_json_has_the_form_that_others_draw_from(tmp_path, sleeping) -> None:
    path, plots = tmp_path / "new" / "bench.json", tmp_path / "plots"
    done = run("sleep", "--rounds", 6, "--seed", 4, "--json", path, "--plot", plots)
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    assert {"machine", "peaks", "results"} <= report.keys()
    assert report["complete"] is True
    assert (report["seed"], report["rounds"], report["confidence"]) == (4, 6, 0.95)
    assert {"cpu", "threads", "tvm", "llvm", "busy_cores", "torch"} <= report["machine"].keys()
    for kind in ("fma_gflops", "triad_gbytes", "read_gbytes"):
        assert report["peaks"][kind] > 0
        assert report["peaks"][f"{kind}_one_thread"] > 0
    fields = {
        *("workload", "size", "competitor", "median_s", "spread", "gflops", "share_of_peak"),
        *("threads", "verified", "samples_s", "quartiles_s"),
    }
    assert all(fields <= one.keys() for one in report["results"])
    assert all(one["verified"] for one in report["results"])
    shown = [one for one in report["results"] if one["competitor"] not in roofline.PEAKS]
    assert [one["competitor"] for one in shown] == ["naive", "1.1 step", "hand", "NumPy"] * 2
    assert [one["size"] for one in shown[::4]] == [[1, 8], [4, 8]]
    for one in shown:
        assert len(one["samples_s"]) == 6
        assert one["bound"] == "bandwidth"
        assert one["bandwidth_roof"] == timing.PEAK_READ.name
        assert one["share_of_bandwidth"] > 0
        low, high = one["share_of_bandwidth_interval"]
        assert low <= one["share_of_bandwidth"] <= high
    verdicts = {(tuple(one["size"]), one["second"]): one for one in report["verdicts"]}
    assert set(verdicts) == {
        (size, name) for size in ((1, 8), (4, 8)) for name in ("naive", "1.1 step", "NumPy")
    }
    # Which word is right depends on the machine's noise; that it is the samples' word does not.
    samples = {(tuple(one["size"]), one["competitor"]): one["samples_s"] for one in shown}
    for (size, name), told in verdicts.items():
        figures = [
            timing.Figure(one, tuple(samples[size, one]), 1, 0.0, 0.0, True)
            for one in ("hand", name)
        ]
        judged = timing.verdict(*figures, margin=timing.PROCESS_LUCK)
        assert told["word"] == judged.word
        assert (told["ratio"], told["low"]) == pytest.approx((judged.ratio, judged.low))
    missing = {(one["competitor"], one["reason"]) for one in report["not_measured"]}
    assert missing == {("torch.compile", "RuntimeError: there is no compiler")}
    assert "there is no compiler" in done.output
    assert (plots / "roofline-sleep.png").read_bytes().startswith(b"\x89PNG")
    assert not list(path.parent.glob("*.unfinished"))


def test_what_takes_too_long_is_left_out_and_the_file_says_why(
    tmp_path, sleeping, known_peaks
) -> None:
    path = tmp_path / "bench.json"
    limit = 0.03  # naive takes 0.016 s at 1 x 8, and so 0.064 s at 4 x 8
    done = run("sleep", "--rounds", 2, "--longest-call", limit, "--json", path)
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    naive = [one["size"] for one in report["results"] if one["competitor"] == "naive"]
    assert naive == [[1, 8]]
    (reason,) = [one["reason"] for one in report["not_measured"] if one["competitor"] == "naive"]
    assert "by its rate at 1 x 8; the limit is 0.03 s" in reason
    # With two rounds there is no interval, and JSON knows no infinity.
    assert {one["word"] for one in report["verdicts"]} == {"cannot tell"}
    assert report["verdicts"][0]["high"] is None


@pytest.mark.parametrize(
    ("workload", "told"), [("wrong", "elements of C are wrong"), ("unverified", "not verified")]
)
def test_a_wrong_result_is_status_1(
    tmp_path, sleeping, known_peaks, workload: str, told: str
) -> None:
    path = tmp_path / "bench.json"
    done = run(workload, "--quick", "--rounds", 1, "--json", path)
    assert done.exit_code == 1
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    report = json.loads(path.read_text())
    assert {tuple(one["size"]) for one in report["results"]} == {(1, 4)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("conv3d",), "there is no workload 'conv3d'; there are sleep, wrong, unverified."),
        (("sleep", "--sizes", "12x"), "'12x' is no size; give N or MxN"),
        (("sleep", "--sizes", "4,8x8x8"), "a size of sleep has 2 sides"),
        (("sleep", "--sizes", "0"), "too small or too large"),
        (("sleep", "--sizes", "70000"), "too small or too large"),
        (("sleep", "--json", "/proc/nowhere/bench.json"), "--json /proc/nowhere/bench.json cannot"),
        (("sleep", "--json", "{folder}"), "it is a folder"),
        (("sleep", "--json", "{folder}/file/bench.json"), "its folder is a file"),
        (("sleep", "--plot", "{folder}/file"), "is a file"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    tmp_path, sleeping, monkeypatch, arguments, told
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_: pytest.fail("it went on"))
    (tmp_path / "file").write_text("")
    done = run(*(one.replace("{folder}", str(tmp_path)) for one in arguments))
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_sizes_may_be_lists_and_one_number_is_every_side(sleeping) -> None:
    (chosen,) = bench.choose(["sleep"], ["4, 2x8", "4"], quick=False).values()
    assert chosen == [(4, 4), (2, 8)]


def test_ctrl_c_keeps_what_was_measured(tmp_path, sleeping, known_peaks, monkeypatch) -> None:
    path = tmp_path / "bench.json"
    compare, sizes, samples = timing.compare, [], []

    def pressed_in_the_second_size(candidates, rounds, seconds, advance, longest):
        sizes.append(None)

        def advance_or_press(name: str) -> None:
            advance(name)
            samples.append(name)
            if len(sizes) == 2 and samples.count("hand") == 2 + 6 + 2:  # built twice, then rounds
                raise KeyboardInterrupt

        return compare(candidates, rounds, seconds, advance_or_press, longest)

    monkeypatch.setattr(timing, "compare", pressed_in_the_second_size)
    done = run("sleep", "--rounds", 6, "--json", path)
    assert done.exit_code == 130, done.output
    assert f"What was measured is in {path}" in done.stderr
    report = json.loads(path.read_text())
    assert report["complete"] is False
    hands = [one for one in report["results"] if one["competitor"] == "hand"]
    assert [(one["size"], len(one["samples_s"])) for one in hands] == [([1, 8], 6), ([4, 8], 2)]


def test_ctrl_c_in_a_terminal_ends_the_command_with_status_130(tmp_path) -> None:
    path = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tvm_practice.bench", "matmul", "--json", str(path)]
    started = subprocess.Popen(
        [*command, "--sizes", "64", "--rounds", "500"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stdout.readline(), "the command ended before it said what it measures"
    time.sleep(1)
    os.killpg(started.pid, signal.SIGINT)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in told
    assert "interrupted" in told
    assert json.loads(path.read_text())["complete"] is False


def test_every_workload_of_the_course_offers_sizes_and_competitors() -> None:
    offered = bench.workloads()
    assert "matmul" in offered
    for one in offered.values():
        sides = {len(size) for size in (*one.sizes, *one.quick_sizes)}
        assert len(sides) == 1
        for size in one.sizes:
            names = [candidate.name for candidate in one.competitors(size, 1)]
            assert "hand" in names, f"{one.name} has no reference to compare with"
            assert len(set(names)) == len(names)


def test_columns_that_lie_on_each_other_are_drawn_side_by_side_in_their_order() -> None:
    places = roofline._side_by_side([0.5, 80.0, 81.0, 83.0, 400.0])
    assert places[0] == pytest.approx(0.5)
    assert places[4] == pytest.approx(400.0)
    ratios = [high / low for low, high in itertools.pairwise(places)]
    assert min(ratios) >= roofline.NEAREST * 0.999
    assert places[2] == pytest.approx(81.3, rel=0.01)


def test_a_gpu_is_measured_against_its_own_peaks(tmp_path, monkeypatch) -> None:
    """With a GPU that only ticks: what is written, said and drawn of one."""
    ticking = replace(bench_workloads.workload("tick", bench_workloads.gpu_competitors), gpu=True)
    monkeypatch.setattr(bench, "workloads", lambda gpu: {"tick": ticking} if gpu else {})
    monkeypatch.setattr(bench.target, "check_usable", lambda name: None)
    monkeypatch.setattr(bench.device, "found", bench_workloads.gpu_found)
    monkeypatch.setattr(bench.device, "PEAKS", bench_workloads.GPU_PEAKS)
    monkeypatch.setattr(bench.device, "bandwidth_roof", bench_workloads.bandwidth_roof)
    path, plots = tmp_path / "gpu.json", tmp_path / "plots"
    done = run("gpu", "--rounds", 6, "--quick", "--json", path, "--plot", plots)
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    assert report["machine"]["gpu"] == bench_workloads.gpu_found()
    assert report["peaks"]["gpu"] == "a GPU that ticks"
    assert report["peaks"]["fma_gflops"] == pytest.approx(2e13 / 1e9)
    (verdict,) = report["verdicts"]
    assert (verdict["first"], verdict["second"], verdict["word"]) == (
        "hand",
        "torch (cuBLAS)",
        "faster",
    )
    assert verdict["ratio"] == pytest.approx(2.0)
    hand = next(one for one in report["results"] if one["competitor"] == "hand")
    assert hand["bound"] == "bandwidth"
    told = " ".join(done.output.split())
    assert "the GPU's own clock" in told and "threads each" not in told
    assert (plots / "roofline-tick.png").exists()


def test_a_gpu_that_is_not_there_is_not_measured(tmp_path) -> None:
    done = run("gpu", "--json", tmp_path / "gpu.json")
    if bench.target.missing_for_cuda() is None:
        pytest.skip("there is a GPU here")
    assert done.exit_code == 2
    assert "--target cuda needs a GPU" in done.output
    assert not (tmp_path / "gpu.json").exists()
