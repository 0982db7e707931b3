"""The progress file: written whole, recovered when damaged, never in anybody's way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from tvm_practice.common import answers, progress
from tvm_practice.common.exercise import catalogue
from tvm_practice.common.progress import RIGHT, TODO, WRONG, Progress, Record


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A progress folder of the test's own."""
    monkeypatch.setattr(progress, "FOLDER", tmp_path)
    for name in ("FILE", "BACKUP", "DAMAGED", "LOCK"):
        monkeypatch.setattr(progress, name, tmp_path / getattr(progress, name).name)
    return tmp_path


def test_what_was_graded_is_read_again() -> None:
    assert progress.read() == Progress()
    assert progress.graded("1.1", WRONG, "one") == ""
    assert progress.graded("1.1", RIGHT, "two") == ""
    assert progress.hinted("1.1", 2) == ""
    record = progress.read().of("1.1")
    assert (record.state, record.runs, record.hints) == (RIGHT, 2, 2)
    assert record.digest == progress.digest("two")
    assert record.solved
    progress.graded("1.1", WRONG, "three")
    assert progress.read().of("1.1").solved == record.solved, "solved once is solved"


def test_the_hint_for_what_the_last_run_found_is_new_until_it_was_shown() -> None:
    def shown() -> tuple[str, bool]:
        record = progress.read().of("1.1")
        return record.advice, record.advised

    progress.graded("1.1", WRONG, "one", "look at k")
    assert shown() == ("look at k", False)
    progress.hinted("1.1", 0)
    assert shown() == ("look at k", True)
    progress.graded("1.1", WRONG, "two", "look at k")
    assert shown() == ("look at k", True), "the same mistake again: time for the next tier"
    progress.graded("1.1", WRONG, "three", "look at j")
    assert shown() == ("look at j", False)
    progress.graded("1.1", RIGHT, "four")
    assert shown() == ("", False)


def test_the_file_holds_nothing_that_was_typed(folder) -> None:
    progress.graded("1.1", RIGHT, "a secret answer")
    assert "secret" not in progress.FILE.read_text()
    assert json.loads(progress.FILE.read_text())["version"] == progress.VERSION


def test_what_was_said_to_a_key_question_is_kept_with_the_rest() -> None:
    assert progress.said("Why?", "Because.") == ""
    progress.graded("1.1", RIGHT, "one")
    assert progress.said("Why?", "It is so.") == ""
    found = progress.read()
    assert found.said == {"Why?": "It is so."}
    assert found.of("1.1").state == RIGHT


def test_a_file_of_the_first_version_is_read_and_goes_on() -> None:
    entry = {"state": RIGHT, "digest": progress.digest("one"), "runs": 1}
    progress.FILE.write_text(json.dumps({"version": 1, "exercises": {"1.1": entry}}))
    assert progress.said("Why?", "Because.") == ""
    found = progress.read()
    assert (found.trouble, found.of("1.1").state) == ("", RIGHT)
    assert found.said == {"Why?": "Because."}


STUB = 'def f():\n    raise NotImplementedError("1.1 f")'


@pytest.mark.parametrize(
    ("record", "text", "expected"),
    [
        (Record(), STUB, progress.TO_DO),
        (Record(RIGHT, progress.digest("old"), runs=1), STUB + "\n\n", progress.TO_DO),
        (Record(), None, progress.TO_DO),
        (Record(), "def f(): return 1", progress.NOT_RUN),
        (Record(hints=2), "def f(): return 1", progress.NOT_RUN),
        (Record(RIGHT, progress.digest("x = 1"), runs=1), "x = 1  \n", progress.SOLVED),
        (Record(WRONG, progress.digest("x = 1"), runs=1), "x = 1", progress.LAST_WRONG),
        (Record(TODO, progress.digest("x = 1"), runs=1), "x = 1", progress.TO_DO),
        (Record(RIGHT, progress.digest("x = 1"), runs=1), "x = 2", progress.CHANGED),
    ],
)
def test_the_state_follows_from_the_record_and_the_text(record, text, expected) -> None:
    assert Progress({"1.1": record}).state("1.1", text, STUB) == expected


def test_every_exercise_has_a_state() -> None:
    states = progress.states(progress.read())
    assert list(states) == list(catalogue())


DAMAGES = {
    "empty": b"",
    "half": b'{"version": 1, "exerc',
    "no JSON": b"\x00\xff\xfe",
    "a list": b"[]",
    "no version": b'{"exercises": {}}',
    "no exercises": b'{"version": 1, "exercises": []}',
    "an entry of another kind": b'{"version": 1, "exercises": {"1.1": 3}}',
    "a state that is none": b'{"version": 1, "exercises": {"1.1": {"state": "best"}}}',
    "hints that are no number": b'{"version": 1, "exercises": {"1.1": {"hints": true}}}',
    "words that are none": b'{"version": 2, "exercises": {}, "said": {"Why?": 3}}',
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_recovered_from_its_backup(damage: bytes) -> None:
    progress.graded("1.1", RIGHT, "one")
    progress.graded("1.2", RIGHT, "two")  # the backup is from before this
    progress.FILE.write_bytes(damage)
    found = progress.read()
    assert "damaged" in found.trouble and "backup" in found.trouble
    assert found.trouble.count("\n") == 0
    assert found.of("1.1").state == RIGHT
    told = progress.graded("1.3", WRONG, "three")
    assert progress.DAMAGED.name in told
    assert progress.DAMAGED.read_bytes() == damage, "what was there is kept"
    again = progress.read()
    assert again.trouble == ""
    assert {known: one.state for known, one in again.records.items()} == {
        "1.1": RIGHT,
        "1.3": WRONG,
    }


def test_a_damaged_file_without_a_backup_starts_anew_and_says_so() -> None:
    progress.FILE.write_text("nonsense")
    assert "has no backup" in progress.read().trouble
    progress.graded("1.1", RIGHT, "one")
    assert progress.read().of("1.1").state == RIGHT
    assert progress.DAMAGED.read_text() == "nonsense"


def test_a_newer_version_is_left_alone() -> None:
    newer = json.dumps({"version": progress.VERSION + 1, "exercises": "in another way"})
    progress.FILE.write_text(newer)
    found = progress.read()
    assert "newer version" in found.trouble
    assert progress.graded("1.1", RIGHT, "one") == found.trouble
    assert progress.FILE.read_text() == newer


def test_a_deleted_file_starts_anew(folder) -> None:
    progress.graded("1.1", RIGHT, "one")
    progress.graded("1.1", RIGHT, "two")
    progress.FILE.unlink()
    assert progress.read() == Progress()


def test_a_folder_that_cannot_be_made_is_a_sentence(folder, monkeypatch) -> None:
    blocked = folder / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr(progress, "FOLDER", blocked)
    monkeypatch.setattr(progress, "FILE", blocked / "progress.json")
    monkeypatch.setattr(progress, "LOCK", blocked / "lock")
    told = progress.graded("1.1", RIGHT, "one")
    assert "could not be written" in told and "only not remembered" in told
    assert blocked.read_text() == "a file where a folder should be"


def test_a_write_that_fails_leaves_the_file_as_it_was(monkeypatch) -> None:
    progress.graded("1.1", RIGHT, "one")
    before = progress.FILE.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answers.os, "fsync", full)
    assert "No space left on device" in progress.graded("1.2", RIGHT, "two")
    assert progress.FILE.read_bytes() == before
    assert not list(progress.FOLDER.glob("*.tmp")), "nothing unfinished is left"


WRITER = """
import sys
from pathlib import Path
from tvm_practice.common import progress
folder = Path(sys.argv[1])
progress.FOLDER = folder
for name in ("FILE", "BACKUP", "DAMAGED", "LOCK"):
    setattr(progress, name, folder / getattr(progress, name).name)
for number in range(20):
    assert progress.graded(f"{sys.argv[2]}.{number}", "right", "text") == ""
"""


def test_two_processes_at_once_lose_nothing(folder) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name]) for name in "abc"
    ]
    while any(writer.poll() is None for writer in writers):
        assert progress.read().trouble == "", "a reader never finds half a file"
        time.sleep(0.005)
    assert all(writer.wait() == 0 for writer in writers)
    assert len(progress.read().records) == 60


def test_a_process_that_is_killed_lets_go_of_the_lock(folder) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; file = open(sys.argv[1], 'a'); "
            "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)",
            str(progress.LOCK),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    threading.Timer(0.5, holder.kill).start()
    assert progress.graded("1.1", RIGHT, "one") == ""
    holder.wait()
    holder.stdout.close()


def test_a_lock_that_is_never_let_go_is_a_sentence(folder, monkeypatch) -> None:
    import fcntl

    monkeypatch.setattr(progress, "LOCK_SECONDS", 0.1)
    with open(progress.LOCK, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "not remembered" in progress.graded("1.1", RIGHT, "one")
