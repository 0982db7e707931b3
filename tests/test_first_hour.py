"""docs/FIRST_HOUR.md is what the commands print today, and README.md shows its beginning."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import pytest

from tvm_practice.common import answers
from tvm_practice.common.exercise import catalogue

ROOT = Path(__file__).resolve().parent.parent
STALE = "is stale; `./practice python docs/make_first_hour.py` makes it."


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")  # where its worker processes look for it, too
        yield importlib.import_module("make_first_hour")


def test_the_readme_shows_the_beginning_of_the_page(maker) -> None:
    readme, page = maker.README.read_text(), maker.PAGE.read_text()
    assert readme.count(maker.START) == readme.count(maker.END) == 1
    assert maker.with_beginning(readme, page) == readme, f"the first hour in README.md {STALE}"
    assert "(docs/FIRST_HOUR.md)" in readme
    assert 10 <= len(maker.beginning(page).splitlines()) <= maker.IN_README + 1


def test_the_page_has_every_step_in_its_order(maker) -> None:
    page = maker.PAGE.read_text()
    assert page.startswith(maker.HEAD.rstrip()), f"docs/FIRST_HOUR.md {STALE}"
    commands = re.findall(r"^```text\n\$ tvm-practice (.+)$", page, re.M)
    assert commands == [step.command for step in maker.STEPS], f"docs/FIRST_HOUR.md {STALE}"
    for step in maker.STEPS:
        assert f"\n\n{step.prose}\n\n" in page, f"docs/FIRST_HOUR.md {STALE}"
    assert str(ROOT) not in page and "/tmp" not in page
    assert re.search(r"^target cpu: .+ cores", page, re.M), "the machine is not named"


def test_what_is_the_same_everywhere_is_printed_today(maker, tmp_path) -> None:
    steps = tuple(takewhile(lambda step: step.same, maker.STEPS))
    assert len(steps) >= 7
    page = maker.PAGE.read_text()
    for step, text in zip(steps, maker.play(maker.clean_copy(tmp_path), steps), strict=True):
        assert f"\n\n{text}\n" in page, f"docs/FIRST_HOUR.md {STALE} `{step.command}` gives\n{text}"


def test_the_copy_is_unsolved_whatever_stands_in_the_lessons(maker, tmp_path) -> None:
    folder = maker.clean_copy(tmp_path)
    for exercise_id in ("1.1", "1.2", "2.1", "attention.4"):
        lesson = catalogue()[exercise_id].lesson
        text = (folder / maker.lesson_file(lesson)).read_text()
        assert answers.originals(lesson)[exercise_id] in text
    assert not (folder / ".tvm_practice").exists() and not (folder / "reports").exists()


def test_an_answer_takes_the_place_of_the_one_before(maker, tmp_path) -> None:
    folder = maker.clean_copy(tmp_path)
    path = folder / "tvm_practice" / "te_basics.py"
    shipped = path.read_text()
    for body in ("    return [1]", "    x = 2\n\n    return [x]"):
        maker.write_answer(folder, "1.1", body)
        text = path.read_text()
        assert f'    """\n{body}\n\n\n# ---' in text
        assert len(text.splitlines()) < len(shipped.splitlines()) + 3


def test_a_command_that_cannot_run_ends_it(maker, tmp_path) -> None:
    folder = maker.clean_copy(tmp_path)
    with pytest.raises(RuntimeError, match=r"`tvm-practice run 9\.9` ended with 2"):
        maker.run(folder, "run 9.9")


def test_long_output_is_cut_in_the_middle(maker) -> None:
    text = "\n".join("abcdefghij")
    assert maker.shortened(text, maker.Step("", first=2, tail="i")) == ["a", "b", "...", "i", "j"]
    assert maker.shortened(text, maker.Step("", first=2)) == ["a", "b", "..."]
    assert maker.shortened(text, maker.Step("")) == list("abcdefghij")
    with pytest.raises(RuntimeError, match="printed no 'z'"):
        maker.shortened(text, maker.Step("", first=2, tail="z"))
