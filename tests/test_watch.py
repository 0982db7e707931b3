"""`tvm-practice watch`: what a save is about, and the command itself at a terminal."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from tests.learner import Learner, reference_body
from tvm_practice.common.exercise import catalogue
from tvm_practice.watching import Seen, look, meant

BEFORE = Seen((1, 1, 1), {"1.1": "a = 1", "1.2": "b = 1"})


@pytest.mark.parametrize(
    ("now", "current", "expected"),
    [
        ({"1.1": "a = 2", "1.2": "b = 1"}, "1.2", ["1.1"]),
        ({"1.1": "a = 2", "1.2": "b = 2"}, "1.2", ["1.1", "1.2"]),
        ({"1.1": "a = 1  ", "1.2": "b = 1\n"}, "1.2", ["1.2"]),  # saved again as it was
        ({"1.1": "a = 1", "1.2": "b = 1"}, "2.1", []),  # another lesson's file
        ({"1.1": "a = 1"}, "1.1", ["1.1"]),  # 1.2 was deleted
    ],
)
def test_a_save_is_about_the_exercise_whose_text_changed(now, current, expected) -> None:
    assert meant("te_basics", BEFORE, Seen((2, 2, 2), now), catalogue()[current]) == expected


def test_a_file_that_nobody_wrote_is_not_read_again() -> None:
    seen = look("te_basics")
    assert seen is not None
    assert set(seen.texts) >= {"1.1", "1.2"}
    assert look("te_basics", seen) is seen


@pytest.fixture
def learner(tmp_path) -> Learner:
    return Learner(tmp_path / "course")


@pytest.fixture
def watching(learner):
    """A function that starts `watch` at a terminal, and ends it however the test does."""
    started = []

    def start(*arguments: str, **environment: str):
        child = learner.at_terminal("watch", *arguments, **environment)
        started.append(child)
        child.expect("waiting for a save of")
        return child

    yield start
    for child in started:
        child.close(force=True)


def save_by_renaming(learner: Learner, exercise_id: str, typed: str) -> None:
    """As vim and many other editors save: a new file takes the old one's name."""
    path = learner.file("te_basics")
    before = path.read_bytes()
    learner.body("te_basics", exercise_id, typed)
    written = path.with_name("te_basics.py~new")
    written.write_bytes(path.read_bytes())
    path.write_bytes(before)
    os.replace(written, path)


def still_running(learner: Learner, seconds: float = 10) -> list[str]:
    """The processes that a command of the learner's left behind, after a moment to end in."""
    until = time.monotonic() + seconds
    while True:
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(process / "cwd") == str(learner.folder):
                    left.append(process.name)
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


def ended(child) -> int | None:
    child.expect("Watching ended")
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def test_each_save_checks_the_exercise_that_changed_and_nothing_else(learner, watching) -> None:
    child = watching()
    assert "1.1  Matrix multiplication" in child.before and "TODO" in child.before

    learner.body("te_basics", "1.1", "    return []")
    child.expect("not yet")
    child.expect("waiting for a save")

    learner.answers("te_basics", "1.1", "matmul")
    child.expect("1.1  Matrix multiplication .*right")
    child.expect("Next: 1.2")
    child.expect("waiting for a save")
    with pytest.raises(pexpect.TIMEOUT):  # it never goes on by itself
        child.expect("1.2  Bias", timeout=2)

    save_by_renaming(learner, "1.3", reference_body("te_basics", "softmax"))
    child.expect("1.3  Row softmax, stable for large values .*right")
    child.expect("waiting for a save")

    child.sendintr()
    assert ended(child) == 130
    assert "Traceback" not in child.before


def test_with_an_id_only_that_exercise_is_checked(learner, watching) -> None:
    child = watching("1.2", "--poll")
    learner.body("te_basics", "1.1", "    return []")
    with pytest.raises(pexpect.TIMEOUT):
        child.expect("1.1  Matrix", timeout=3)
    learner.answers("te_basics", "1.2", "bias_relu")
    child.expect("1.2  Bias and ReLU: two stages .*right")
    child.sendintr()
    assert ended(child) == 130


def test_a_save_that_no_event_tells_of_is_noticed_all_the_same(learner, watching) -> None:
    """Of a file that lies elsewhere the watched folder tells nothing, as with some mounts."""
    path, elsewhere = learner.file("te_basics"), learner.folder / "elsewhere.py"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    child = watching()
    learner.answers("te_basics", "1.1", "matmul")
    assert path.is_symlink()
    child.expect("1.1  Matrix multiplication .*right")
    child.sendintr()
    assert ended(child) == 130


def test_a_save_while_a_check_runs_is_not_lost(learner) -> None:
    child = learner.at_terminal("watch", "1.1")
    time.sleep(0.8)  # it has read the file, and is grading
    learner.answers("te_basics", "1.1", "matmul")
    child.expect("waiting for a save")
    if "right" not in child.before:
        child.expect("1.1  Matrix multiplication .*right")
    child.sendintr()
    assert ended(child) == 130


def test_a_save_stops_the_check_that_runs(learner) -> None:
    endless = "    while True:\n        pass"
    learner.body("te_basics", "1.1", endless)
    child = learner.at_terminal("watch")
    child.expect("Matrix multiplication")  # the spinner
    time.sleep(3)
    learner.answers("te_basics", "1.2", "bias_relu")
    child.expect("the check of 1.1 was stopped", timeout=20)  # far less than the time limit
    child.expect("1.2  Bias and ReLU.*right")
    child.expect("1.1 Matrix multiplication")  # is gone on with, and is as it was
    learner.answers("te_basics", "1.1", "matmul")
    child.expect("the check of 1.1 was stopped", timeout=20)
    child.expect("1.1  Matrix multiplication .*right")
    child.expect("waiting for a save")
    assert "not yet" not in child.before
    child.sendintr()
    assert ended(child) == 130
    assert not still_running(learner)


def test_a_file_that_is_gone_is_told_and_watching_goes_on_when_it_is_back(
    learner, watching
) -> None:
    child = watching("1.1")
    path = learner.file("te_basics")
    away = path.rename(path.with_suffix(".away"))
    child.expect("te_basics.py is gone: .* `git checkout")
    away.rename(path)
    child.expect("te_basics.py is back")
    child.expect("1.1  Matrix multiplication .*TODO")
    child.expect("waiting for a save")
    shipped = path.read_bytes()
    path.write_bytes(b"")
    child.expect("is empty, or cannot be read")
    path.write_bytes(shipped)
    learner.answers("te_basics", "1.1", "matmul")
    child.expect("1.1  Matrix multiplication .*right")
    child.sendintr()
    assert ended(child) == 130


@pytest.mark.parametrize("seconds", [1.0, 4.0], ids=["while it starts", "while it runs"])
def test_ctrl_c_while_a_check_runs_ends_at_once_and_leaves_nothing_behind(
    learner, seconds: float
) -> None:
    learner.body("te_basics", "1.1", "    while True:\n        pass")
    child = learner.at_terminal("watch", "1.1")
    child.expect("Matrix multiplication")  # the spinner
    time.sleep(seconds)
    child.sendintr()
    child.expect("Watching ended", timeout=20)  # far less than the check's time limit
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before
    assert not still_running(learner)


def test_a_file_that_is_no_python_any_more_is_a_sentence_and_watching_goes_on(
    learner, watching
) -> None:
    child = watching("1.1")
    learner.body("te_basics", "1.1", "    return (")
    child.expect("not yet")
    child.expect("Python cannot read")
    child.expect("waiting for a save")
    learner.answers("te_basics", "1.1", "matmul")
    child.expect("right")
    child.sendintr()
    assert ended(child) == 130
