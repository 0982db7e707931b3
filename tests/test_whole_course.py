"""A learner's way through the course, by the command `tvm-practice` at a terminal.

Here they solve one phase and one lab. With TVM_PRACTICE_WHOLE_COURSE=1, as in CI, every exercise;
that takes some minutes.
"""

from __future__ import annotations

import ctypes
import os
import re

import pexpect
import pytest

from tests.learner import Learner
from tvm_practice.common.exercise import LESSONS, Exercise, catalogue, exercises_of

WHOLE_COURSE = os.environ.get("TVM_PRACTICE_WHOLE_COURSE") == "1"
COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d)(?:;\d+)*m")
CONTROL = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]|\x1b[()][AB0]")


@pytest.fixture
def learner(tmp_path) -> Learner:
    return Learner(tmp_path / "course")


def shown(child) -> str:
    """What a command at a terminal has shown when it ended, without colors."""
    child.expect(pexpect.EOF)
    child.close()
    return CONTROL.sub("", child.before).replace("\r\n", "\n")


def status(child) -> int:
    assert child.signalstatus is None
    return child.exitstatus


def solve(learner: Learner, child, known: Exercise) -> None:
    """Type the reference's body in while `watch` runs, and wait until it is found right."""
    learner.answers(known.lesson, known.id, known.name)
    child.expect(rf"{re.escape(known.id)}  {re.escape(known.title[:20])}.*?(right|wrong|TODO)")
    assert child.match[1] == "right", child.before
    child.expect("Next: |Every exercise is solved")
    child.expect("waiting for a save")


def interrupt(child) -> None:
    child.sendintr()
    assert "Watching ended." in shown(child)
    assert "Traceback" not in child.before
    assert status(child) == 130


def test_a_learner_from_the_first_list_to_the_end(learner) -> None:
    # They look round.
    child = learner.at_terminal("list")
    listed = shown(child)
    assert status(child) == 0
    assert listed.count(" todo") == len(catalogue())
    child = learner.at_terminal("run")
    assert re.search(r"1\.1  Matrix multiplication +TODO", shown(child))
    assert status(child) == 0

    # A wrong turn: the operands are the wrong way round. Then hints, until the solution opens.
    learner.body(
        "te_basics",
        "1.1",
        """    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[j, k], axis=k), name="C")
    return [A, B, C]""",
    )
    child = learner.at_terminal("run", "1.1")
    told = shown(child)
    assert status(child) == 1
    assert "not yet" in told and "Traceback" not in told
    assert re.search(r"1\.1 .*wrong when last run", shown(learner.at_terminal("list")))
    assert "Write each shape beside its read" in shown(learner.at_terminal("hint", "1.1"))
    for expected in ("once more for the next tier", "once more", "that is the last"):
        child = learner.at_terminal("solution", "1.1")
        assert "is not solved yet" in shown(child)
        assert status(child) == 2
        assert expected in shown(learner.at_terminal("hint", "1.1"))
    child = learner.at_terminal("solution", "1.1")
    assert "A[i, k] * B[k, j]" in shown(child)
    assert status(child) == 0

    # They start over, and their attempt is kept.
    told = shown(learner.at_terminal("reset", "1.1"))
    backup = learner.folder / re.search(r"kept in (\S+)", told)[1]  # type: ignore[index]
    assert "B[j, k]" in backup.read_text()

    # A phase, with `watch` beside the editor; a pause in the middle.
    phase = exercises_of("te_basics")
    child = learner.at_terminal("watch")
    child.expect("waiting for a save")
    for known in phase[:2]:
        solve(learner, child, known)
    interrupt(child)

    # The machine goes down while the progress is written.
    learner.progress.write_bytes(learner.progress.read_bytes()[:40])
    child = learner.at_terminal("list", "te_basics")
    told = shown(child)
    assert status(child) == 0
    assert "is damaged" in told and "comes from its backup" in told.replace("\n", " ")
    assert re.search(r"1\.1 .* solved", told)

    # On with it; what the backup did not know yet is found again by one run.
    child = learner.at_terminal("watch")
    child.expect("1.2  Bias and ReLU.*right")
    child.expect("waiting for a save")
    lessons = LESSONS[1:] if WHOLE_COURSE else ("cost_model",)
    rest = [known for lesson in lessons for known in exercises_of(lesson)]
    for known in phase[2:] + rest:
        solve(learner, child, known)
    interrupt(child)

    # What they have in the end.
    told = shown(learner.at_terminal("progress"))
    done = len(phase) + len(rest)
    assert f"{done} of {len(catalogue())} exercises solved." in told
    child = learner.at_terminal("run", "next")
    assert ("Every exercise is solved." if WHOLE_COURSE else "2.1  Tile the loop") in shown(child)
    assert status(child) == 0


def test_a_narrow_terminal_cuts_nothing_off(learner) -> None:
    learner.answers("te_basics", "1.1", "matmul")
    for command in (("list",), ("run", "1.1"), ("hint", "1.2"), ("progress",), ("solution", "1.1")):
        child = learner.at_terminal(*command, columns=60)
        # A line that a spinner wrote over is not one.
        lines = [line.rpartition("\r")[2] for line in shown(child).split("\n")]
        assert max(map(len, lines)) <= 60, command
        assert status(child) == 0


def test_without_color(learner) -> None:
    for command in (("list",), ("run", "1.1"), ("hint", "1.2"), ("solution", "1.1")):
        assert not COLOR.search(learner.at_terminal(*command, NO_COLOR="1").read()), command
    assert COLOR.search(learner.at_terminal("list").read())


def _without_the_rights_of_root() -> None:
    """In the child: permissions of files count for root too, from the next program on."""
    CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.fixture
def read_only(learner):
    """The course in folders that cannot be written to."""
    learner.answers("te_basics", "1.1", "matmul")
    folders = [learner.folder, *(one for one in learner.folder.rglob("*") if one.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        os.chmod(learner.file("te_basics"), 0o444)
        check = "open('probe', 'w')"
        if learner.python("-c", check, preexec_fn=_without_the_rights_of_root).returncode == 0:
            pytest.skip("this user may write everywhere")
        yield learner
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_folder_that_is_read_only_costs_only_the_memory_of_it(read_only) -> None:
    def gives(*arguments: str):
        return read_only.python(
            "-m", "tvm_practice", *arguments, preexec_fn=_without_the_rights_of_root
        )

    done = gives("run", "1.1")
    assert done.returncode == 0, done
    assert "1.1  Matrix multiplication  right" in done.stdout
    assert "Next: 1.2" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "could not be written" in done.stderr and "only not remembered" in done.stderr
    done = gives("list", "te_basics")
    assert (done.returncode, done.stderr) == (0, "")
    done = gives("hint", "1.2")
    assert done.returncode == 0 and "not remembered" in done.stderr
    done = gives("report")
    assert done.returncode == 2 and "--out FILE writes to another place" in done.stderr
    done = read_only.python(
        *("-m", "tvm_practice.labs.deploy", "--model", "mine.py:make"),
        preexec_fn=_without_the_rights_of_root,
        env={"HOME": "/nonexistent"},
    )
    told = "no library can be written into records/deploy: Permission denied."
    assert (done.returncode, done.stderr) == (2, f"tvm_practice: {told}\n")
    assert "Traceback" not in done.stdout
    before = read_only.file("te_basics").read_bytes()
    done = gives("reset", "1.1")
    assert done.returncode == 2
    assert "is as it was: " in done.stderr and done.stderr.count("\n") == 1
    assert read_only.file("te_basics").read_bytes() == before
