"""What the README shows is what the course says: its tables, and its example of a diagnosis."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType

import pytest

from tvm_practice.checks import grade

ROOT = Path(__file__).resolve().parent.parent


def make_figures() -> ModuleType:
    path = ROOT / "docs" / "make_figures.py"
    specification = importlib.util.spec_from_file_location("make_figures", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tables_in_the_readme_are_made_from_the_committed_json() -> None:
    figures = make_figures()
    readme = figures.README.read_text()
    assert readme.count(figures.START) == readme.count(figures.END) == 1
    if not figures.JSON.exists():
        assert "benchmarks/cpu.json" not in readme, "the README cites figures that are not there"
        return
    report = figures.read_report()
    assert report["complete"]
    assert figures.with_table(readme, report) == readme


def test_what_the_readme_says_of_whole_models_is_made_from_the_committed_json() -> None:
    figures = make_figures()
    readme = figures.README.read_text()
    assert readme.count(figures.MODELS_START) == readme.count(figures.MODELS_END) == 1
    if not figures.MODELS.exists():
        assert "benchmarks/whole_models.json" not in readme
        return
    assert figures.with_models(readme, json.loads(figures.MODELS.read_text())) == readme
    assert figures.MODELS_PICTURE.exists()


def test_what_the_readme_says_of_a_fleet_is_made_from_the_committed_json() -> None:
    figures = make_figures()
    readme = figures.README.read_text()
    assert readme.count(figures.FLEET_START) == readme.count(figures.FLEET_END) == 1
    assert figures.with_fleet(readme, json.loads(figures.FLEET.read_text())) == readme


FLEET_REPORT = {
    "command": "python -m one --json two",
    "machine": {"cpu": "CPU", "llvm_cpu": "generic", "threads": 2, "busy_cores": 0.0},
    **{"batch": 16, "each": 4, "builders": 2, "per_minute": {"1": 80.0, "2": 150.0}},
    **{"search": 1.5, "build": 0.1, "request": 1e-4, "measure": 0.3},
    "predicted": {"1": 90.0, "2": 160.0, "100": 1000.0},
}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, "6 of 100 devices saturate 2 builders: every further one waits for them, and"),
        ({"measure": 7.0}, "100 devices do not saturate 2 builders: 140 would."),
        ({"request": 0.06}, "5 of 100 devices saturate the tracker: every further one waits for"),
    ],
)
def test_where_a_fleet_saturates_follows_from_the_json(more, sentence: str) -> None:
    said = make_figures().growth(FLEET_REPORT | more)
    assert said.startswith(sentence)
    assert "`./practice python -m one --json two` measured it." in said


def test_the_picture_of_a_fleet_is_drawn_from_the_json(tmp_path, monkeypatch) -> None:
    figures = make_figures()
    monkeypatch.setattr(figures, "FLEET", tmp_path / "fleet.json")
    figures.FLEET.write_text(json.dumps(FLEET_REPORT))
    assert figures.draw_fleet(tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def models_report(tuned: float, eager: float) -> dict[str, object]:
    """A report whose samples jitter by 3% around these seconds."""

    def one(competitor: str, seconds: float) -> dict[str, object]:
        jitter = [0.97 + 0.06 * (7 * n % 12) / 11 for n in range(12)]
        samples = [seconds * (more if competitor == "tuned" else 1.0) for more in jitter]
        return {
            "competitor": competitor,
            "median_s": seconds,
            "samples_s": samples,
            "calls_per_sample": 1,
        }

    seconds = {"FMA peak": 1.0, "tuned": tuned, "PyTorch, eager": eager}
    return {
        "machine": {name: name.upper() for name in ("cpu", "llvm_cpu", "torch")}
        | {"threads": 2, "busy_cores": 0.0},
        "rounds": 12,
        "confidence": 0.95,
        "margin": 0.02,
        "models": [
            {
                "model": "resnet18",
                "peak_gflops": 200.0,
                "searches": [{"minutes": 20.0}, {"minutes": 4.0}],
                "results": [one(*known) for known in seconds.items()],
                "tasks": [
                    {"task": name, "weight": 2, "flops": 1e8, "seconds": 0.002, "trials": 700}
                    for name in ("fused_conv2d_add", "mean")
                ],
            }
        ],
    }


def test_the_words_on_whole_models_follow_from_the_samples() -> None:
    figures = make_figures()
    even, faster, slower = (figures.models(models_report(0.02, at)) for at in (0.02, 0.025, 0.016))
    assert "ResNet-18, tuned, against eager PyTorch: cannot tell at this noise" in even
    assert "ResNet-18, tuned, is 1.25x faster than eager PyTorch" in faster
    assert "ResNet-18, tuned, is 1.25x slower than eager PyTorch" in slower
    assert "**ResNet-18**, batch 1, takes 20.0 ms with the schedules that 24 minutes" in even
    assert "found in 1,400 trials and 25.0 ms with eager PyTorch." in faster
    readme = f"before\n{figures.MODELS_START}\nold\n{figures.MODELS_END}\nafter\n"
    written = figures.with_models(readme, models_report(0.02, 0.02))
    assert "old" not in written
    assert written.startswith("before\n") and written.endswith("after\n")


def test_the_picture_of_whole_models_is_drawn_from_the_json(tmp_path, monkeypatch) -> None:
    figures = make_figures()
    monkeypatch.setattr(figures, "MODELS", tmp_path / "whole_models.json")
    figures.MODELS.write_text(json.dumps(models_report(0.02, 0.025)))
    assert figures.draw_models(tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def result(size: list[int], competitor: str, gflops: float, **more: object) -> dict[str, object]:
    return {
        "workload": "matmul",
        "size": size,
        "competitor": competitor,
        "median_s": 2 * math.prod(size) / gflops / 1e9,
        "quartiles_s": [2 * math.prod(size) / gflops / 1e9] * 2,
        "spread": 0.012,
        "gflops": gflops,
        "share_of_peak": gflops / 200,
        "bound": "arithmetic",
        "intensity": size[0] / 6,
        "share_of_bandwidth": None,
        **more,
    }


def report() -> dict[str, object]:
    square, row = [1024, 1024, 1024], [1, 4096, 4096]
    facts = ("cpu", "llvm_cpu", "tvm", "llvm", "numpy", "torch")
    faster = {"ratio": 1.25, "low": 1.2, "high": 1.3, "confidence": 0.95, "word": "faster"}
    return {
        "machine": {name: name.upper() for name in facts} | {"threads": 2, "busy_cores": 0.0},
        "peaks": {
            **{"fma_gflops": 200.0, "read_gbytes": 40.0, "triad_gbytes": 30.0, "threads": 2},
            **{"read_gbytes_median": 39.0},
        },
        "results": [
            result(square, "FMA peak", 200),
            result(square, "1.1 step", 100),
            result(square, "hand", 190),
            result(square, "NumPy", 152),
            result(row, "hand", 15, bound="bandwidth", share_of_bandwidth=0.9, intensity=0.5),
        ],
        "verdicts": [
            {"workload": "matmul", "size": square, "first": "hand", "second": "NumPy", **faster}
        ],
        "not_measured": [
            {
                "workload": "matmul",
                "size": square,
                "competitor": "naive",
                "reason": "a call would take about 3 s",
            }
        ],
        "rounds": 12,
        "confidence": 0.95,
        "margin": 0.02,
    }


def test_the_tables_say_what_the_json_says() -> None:
    figures = make_figures()
    tables = figures.tables(report())
    assert "| matmul 1024 x 1024 x 1024 | 190 | 1% | 95% | 1.25x faster |" in tables
    assert "| matmul 1 x 4096 x 4096 | 15.0 | 1% | 90% of bandwidth | - |" in tables
    assert "| 1.1 step | 21.47 | 1% | 100 | 50% | 1.00x |" in tables
    assert "| naive | not measured: a call would take about 3 s | | | | |" in tables
    assert "FMA peak |" not in tables.replace("of FMA peak |", "")
    readme = f"before\n{figures.START}\nold\n{figures.END}\nafter\n"
    written = figures.with_table(readme, report())
    assert "old" not in written
    assert written.startswith("before\n") and written.endswith("after\n")
    assert figures.with_table(written, report()) == written


def test_the_pictures_are_drawn_from_the_json(tmp_path) -> None:
    drawn = make_figures().draw(report(), tmp_path)
    names = {"roofline-matmul.png", "variants.png", "access_pattern.png"}
    assert {path.name for path in drawn} == names
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


SWAPPED = """
from tvm import te


def matmul(M, N, K):
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[k, i] * B[k, j], axis=k), name="C")
    return [A, B, C]
"""


def test_the_diagnosis_in_the_readme_is_what_the_check_says(tmp_path) -> None:
    answer = tmp_path / "answer.py"
    answer.write_text(SWAPPED)
    told = grade("1.1", f"{answer}:matmul").sentence
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"<!-- told: 1.1 with A\[k, i\] -->\n\n((?:> .*\n)+)", readme)[1]
    assert " ".join(shown.replace("> ", " ").split()) == " ".join(told.split())
