"""The page as the command makes it, once for all tests that look at it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.learner import Learner

ROOT = Path(__file__).resolve().parent.parent


@cache
def made() -> Path:
    """The file that `python -m tvm_practice.report --solutions` writes in a course in which nothing
    was run yet: what other tests have measured meanwhile would be another page each time."""
    folder = tempfile.TemporaryDirectory(prefix="tvm_practice_page_")
    _kept.append(folder)
    course = Learner(Path(folder.name) / "course")
    shutil.copytree(ROOT / "benchmarks", course.folder / "benchmarks")
    out = Path(folder.name) / "of the report" / "page.html"
    done = course.python("-m", "tvm_practice.report", "--solutions", "--out", str(out))
    assert done.returncode == 0, done
    assert not list(out.parent.glob("*.unfinished"))
    return out


_kept: list[tempfile.TemporaryDirectory] = []


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_practice.report", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def data(path: Path) -> dict[str, Any]:
    """The data that a page holds."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    assert found is not None
    return json.loads(found[1])
