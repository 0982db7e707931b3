"""The README's table is the one that docs/make_figures.py makes from the committed measurements."""

from __future__ import annotations

import importlib.util
import json
import re
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


def test_every_link_to_a_file_leads_to_one() -> None:
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (ROOT / target).exists(), (
                f"{document.name} links to {target}, which is not there"
            )
