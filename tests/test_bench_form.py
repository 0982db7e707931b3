"""The form of the bench's JSON, from which the README's tables and pictures are drawn: the files in
benchmarks/, and one more where TVM_PRACTICE_BENCH names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tvm_practice.common import roofline

ROOT = Path(__file__).resolve().parent.parent
OF_LABS = ("fleet.json", "whole_models.json")  # made by commands of their own; see test_readme.py
FILES = [one for one in sorted((ROOT / "benchmarks").glob("*.json")) if one.name not in OF_LABS]
if named := os.environ.get("TVM_PRACTICE_BENCH"):
    FILES.append(ROOT / named)

RESULT = {
    *("workload", "size", "competitor", "median_s", "spread", "gflops", "share_of_peak"),
    *("threads", "verified"),
}


@pytest.fixture(params=FILES, ids=[path.name for path in FILES])
def report(request) -> dict:
    return json.loads(request.param.read_text())


def test_a_run_is_whole_and_names_its_machine_and_command(report) -> None:
    assert report["complete"], "the run was interrupted"
    assert report["command"].startswith("python -m tvm_practice.bench")
    assert {"cpu", "threads", "cores", "tvm", "numpy"} <= report["machine"].keys()
    of_a_gpu = "gpu" in report["machine"]
    kinds = ("fma_gflops", "triad_gbytes") + (() if of_a_gpu else ("read_gbytes",))
    assert all(report["peaks"][kind] > 0 for kind in kinds)


def test_every_figure_was_verified_and_has_a_spread(report) -> None:
    assert report["results"]
    for one in report["results"]:
        assert one.keys() >= RESULT, f"{one['competitor']} lacks {RESULT - one.keys()}"
        assert one["verified"], f"{one['competitor']} of {one['workload']} was not verified"
        assert one["median_s"] > 0, f"{one['competitor']} took no time"
        assert one["spread"] >= 0


def test_the_reference_was_measured_at_every_size_and_judged_against_every_other(report) -> None:
    missing = [one for one in report["not_measured"] if one["competitor"] == "hand"]
    assert not missing, f"the reference has no figure: {missing}"
    measured = {
        (one["workload"], *one["size"], one["competitor"])
        for one in report["results"]
        if one["competitor"] not in roofline.PEAKS
    }
    judged = {(one["workload"], *one["size"], one["second"]) for one in report["verdicts"]}
    for place in {one[:-1] for one in measured}:
        assert (*place, "hand") in measured, f"no hand at {place}"
    assert {one for one in measured if one[-1] != "hand"} <= judged
