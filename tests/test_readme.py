"""What the README shows is what the course says: its table, and its example of a diagnosis."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from tvm_practice.checks import grade

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_in_the_readme_is_made_from_the_committed_json() -> None:
    path = ROOT / "docs" / "make_figures.py"
    specification = importlib.util.spec_from_file_location("make_figures", path)
    figures = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(figures)
    readme = figures.README.read_text()
    assert figures.START in readme
    assert figures.with_table(readme, json.loads(figures.JSON.read_text())) == readme


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
