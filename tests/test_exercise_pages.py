"""docs/EXERCISES.md has a section for every exercise, is what the course says today, and its links
lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.wrong_answers import answers_of
from tvm_practice.common.exercise import catalogue
from tvm_practice.common.worker import call

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "./practice python docs/make_exercise_pages.py"
# One with a description, one with nests before and after, one with none: cheap, and the same on
# every machine.
SAMPLE = ("1.2", "3.1", "3.2")


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")  # where its worker processes look for it, too
        yield importlib.import_module("make_exercise_pages")


@pytest.fixture(scope="module")
def page(maker) -> str:
    return maker.PAGE.read_text()


@pytest.fixture(scope="module")
def prose(maker) -> dict:
    return maker.read_prose(list(catalogue()))


def test_every_exercise_has_its_prose(prose) -> None:
    for exercise_id, one in prose.items():
        assert 60 < len(one.teaches) < 400, (
            f"{exercise_id}: what it teaches is one or two sentences"
        )
        assert all(what[0].isupper() and what[-1] != "." for what in one.pitfalls.values())


def test_prose_that_does_not_fit_the_course_is_refused(maker, tmp_path, monkeypatch) -> None:
    text = maker.PROSE.read_text()
    monkeypatch.setattr(maker, "PROSE", tmp_path / "exercises.toml")
    for old, new, sentence in (
        ('["1.1"', '["0.1"', "0.1, which is no exercise"),
        ("reads_a_transposed", "reads_nothing", "reads_nothing is no wrong answer to 1.1"),
        ("reads_a_transposed", "relu_first", "relu_first is no wrong answer to 1.1"),
    ):
        maker.PROSE.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=sentence):
            maker.read_prose(["1.1"])
    maker.PROSE.write_text(text.partition("# ---")[0])
    with pytest.raises(ValueError, match=r"has nothing for 1\.1, 1\.2, 2\.1\Z"):
        maker.read_prose(["1.1", "1.2", "2.1"])


@pytest.mark.parametrize("exercise_id", catalogue())
def test_an_exercise_has_a_section_with_all_its_parts(maker, page, prose, exercise_id) -> None:
    sections = maker.sections_of(page)
    again = f"`{COMMAND} {exercise_id}` makes it."
    assert exercise_id in sections, f"docs/EXERCISES.md has no section for {exercise_id}; {again}"
    text = sections[exercise_id]
    prose = prose[exercise_id]
    stale = f"docs/EXERCISES.md: the section of {exercise_id} is stale; {again}"
    assert text.startswith(f"### {maker.heading(catalogue()[exercise_id])}\n"), stale
    assert f"**What it teaches.** {prose.teaches}\n" in text, stale
    assert f"`tvm-practice run {exercise_id}`" in text, stale
    pitfalls = re.findall(r"^- \*(.*?)\.\* (.+)$", text.partition("**Pitfalls.**")[2], re.M)
    assert [what for what, _ in pitfalls] == list(prose.pitfalls.values()), stale
    told = [sentence for _, sentence in pitfalls]
    assert len(set(told)) == len(told), f"{exercise_id}: two pitfalls are told the same"
    diagnoses = {name: one for name, _, one in call(answers_of, catalogue()[exercise_id].lesson)}
    for name, sentence in zip(prose.pitfalls, told, strict=True):
        shown = re.sub(r"\\([*<_])", r"\1", sentence)
        expected = " ".join(re.sub(r"\bline \d+, ", "", diagnoses[name]).split())
        assert expected in shown, f"{stale} (pitfall {name})"
        assert name not in sentence or "_" not in name, stale
    assert str(ROOT) not in text and "Traceback" not in text


@pytest.mark.parametrize("exercise_id", SAMPLE)
def test_a_section_made_again_is_the_one_on_the_page(maker, page, tmp_path, exercise_id) -> None:
    again = tmp_path / "EXERCISES.md"
    maker.make([exercise_id], again)
    made = maker.sections_of(again.read_text())[exercise_id]
    assert made == maker.sections_of(page)[exercise_id], (
        f"docs/EXERCISES.md: the section of {exercise_id} is stale; "
        f"`{COMMAND} {exercise_id}` makes it, and `{COMMAND}` all of them."
    )


def test_the_page_is_put_together_from_its_sections(maker, page) -> None:
    assert maker.page_of(maker.sections_of(page)) == page, (
        f"the head or the contents of docs/EXERCISES.md are stale; `{COMMAND} 1.1` makes them."
    )


def test_links_lead_somewhere(page) -> None:
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
    assert len(set(anchors)) == len(anchors), "two headings have the same anchor"
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose))
    assert len(links) > len(catalogue())
    for target in links:
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / "docs" / file).exists(), f"there is no file {file}"
        assert file or anchor in anchors, f"there is no heading #{anchor}"
    assert "(docs/EXERCISES.md)" in (ROOT / "LEARNING_GUIDE.md").read_text()


def test_no_reference_code_stands_on_the_page(maker, page) -> None:
    """Nests are the goal, calls are the answer."""
    for block in re.findall(r"^```diff\n(.*?)^```$", page, re.M | re.S):
        assert "sch." not in block and "te." not in block
    for exercise_id, known in catalogue().items():
        source = (ROOT / f"tvm_practice/solutions/{known.lesson}.py").read_text().splitlines()
        long = [line.strip() for line in source if len(line.strip()) > 60]
        assert not [line for line in long if line in maker.sections_of(page)[exercise_id]]


def test_an_unknown_exercise_is_refused_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_exercise_pages.py", "9.9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("make_exercise_pages: '9.9' is no exercise; there are 1.1, ")


def test_a_long_nest_is_cut_to_what_changed_and_what_is_around_it(maker) -> None:
    texts = [(0, "for a:")] + [(1, f"x[{n}] = 0") for n in range(20)]
    texts += [(1, "for b:"), (2, "for c:"), (3, "y = 1"), (3, "z = 2")]
    lines = tuple(maker.Line(*one) for one in texts)
    assert maker.shortened(lines, {23}, "+") == [
        "  for a:",
        "    ...",
        "    for b:",
        "      for c:",
        "+       y = 1",
        "        z = 2",
    ]
    assert maker.shortened(lines[-4:], {2}, "-")[2] == "-       y = 1"
    assert len(maker.shortened(lines * 3, set(), "")) == maker.LONGEST + 1
