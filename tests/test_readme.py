"""The README's table is the one that docs/make_figures.py makes from the committed measurements."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_in_the_readme_is_made_from_the_committed_json() -> None:
    path = ROOT / "docs" / "make_figures.py"
    specification = importlib.util.spec_from_file_location("make_figures", path)
    figures = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(figures)
    readme = figures.README.read_text()
    assert figures.START in readme
    assert figures.with_table(readme, json.loads(figures.JSON.read_text())) == readme
