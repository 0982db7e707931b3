"""Whatever a learner's file does, it costs its exercise, or its lesson, and is told in one
sentence."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tvm_practice.checks import Outcome, grade
from tvm_practice.common import exercise, worker

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------------- what a body may do

BODIES = """
import os
import subprocess
import sys

import numpy as np
from tvm import te


def never_ends(M, N, K):
    while True:
        pass


def sleeps(M, N, K):
    import time

    time.sleep(1000)


def aborts(M, N, K):
    print("the last words")
    sys.stdout.flush()
    os.abort()


def exits(M, N, K):
    sys.exit(3)


def leaves_without_a_word(M, N, K):
    os._exit(0)


def interrupts(M, N, K):
    raise KeyboardInterrupt


def reads_address_zero(M, N, K):
    import ctypes

    ctypes.string_at(0)


def crashes_tvm(M, N, K):
    def rule(i, j):
        0.0

    return te.compute((M, N), rule, name="C")


def takes_a_terabyte(M, N, K):
    return np.ones(10**12 // 8)


def recurses(M, N, K):
    return recurses(M, N, K)


def prints_for_ever(M, N, K):
    while True:
        print("still here " * 100)


def prints_much(M, N, K):
    for line in range(100_000):
        print("line", line)
    print("a long line " * 1000)
    print("the last line")


def prints_and_is_right(M, N, K):
    print("a remark")
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return [A, B, C]


def leaves_a_child_behind(M, N, K):
    child = subprocess.Popen(["sleep", "300"])
    print("child", child.pid)
    return []


def not_implemented_elsewhere(M, N, K):
    import asyncio

    return asyncio.AbstractEventLoop().run_forever()
"""


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bodies") / "bodies.py"
    path.write_text(BODIES)
    return path


def graded(bodies: Path, name: str, seconds: float = 30) -> Outcome:
    started = time.monotonic()
    outcome = grade("1.1", f"{bodies}:{name}", seconds=seconds)
    assert time.monotonic() - started < seconds + 15
    return outcome


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("aborts", "SIGABRT: the process was aborted) at line LINE, `os.abort()`."),
        ("exits", "At line LINE, `sys.exit(3)`: SystemExit ends the program"),
        ("leaves_without_a_word", "it ended the whole Python process (exit status 0)."),
        ("interrupts", "`raise KeyboardInterrupt`: KeyboardInterrupt ends the program"),
        ("reads_address_zero", "memory that is not its own) at line LINE, `ctypes.string_at(0)`."),
        ("crashes_tvm", "is its `return` missing?"),
        ("takes_a_terabyte", "`return np.ones(10**12 // 8)`: it asked for more than"),
        ("recurses", "RecursionError: maximum recursion depth exceeded"),
        ("prints_for_ever", "it has printed, or written into a file, more than 64 MiB"),
        ("not_implemented_elsewhere", "run_forever()`: NotImplementedError"),
    ],
)
def test_a_body_that_misbehaves_is_told_in_a_sentence(bodies: Path, name: str, told: str) -> None:
    outcome = graded(bodies, name)
    assert outcome.state == "wrong"
    if quoted := re.search(r"LINE, `(.+?)`", told):
        line = next(n for n, text in enumerate(BODIES.splitlines(), 1) if quoted[1] in text)
        told = told.replace("LINE", str(line))
    assert told in outcome.sentence
    assert len(outcome.sentence.splitlines()) == 1
    assert "Traceback" not in outcome.sentence + outcome.printed


@pytest.mark.parametrize(
    ("name", "line"), [("never_ends", "`while True:`"), ("sleeps", "`time.sleep(1000)`")]
)
def test_a_body_that_never_ends_is_stopped_and_told_where_it_was(
    bodies: Path, name: str, line: str
) -> None:
    outcome = graded(bodies, name, seconds=5)
    assert outcome.state == "wrong"
    assert "was still running after 5 seconds and was stopped at line" in outcome.sentence
    assert line in outcome.sentence or "`pass`" in outcome.sentence
    assert outcome.printed == ""


def test_what_a_body_printed_is_kept_but_not_all_of_it(bodies: Path) -> None:
    assert graded(bodies, "aborts").printed == "the last words"
    assert graded(bodies, "prints_and_is_right").printed.splitlines()[-1] == "a remark"
    much = graded(bodies, "prints_much")
    assert much.state == "wrong"
    assert much.printed.endswith("the last line")
    assert len(much.printed) < 5000


def test_what_a_body_started_ends_with_it(bodies: Path) -> None:
    printed = graded(bodies, "leaves_a_child_behind").printed
    child = int(re.search(r"child (\d+)", printed)[1])  # type: ignore[index]
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or _is_dead(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} outlived the exercise that started it")


def _is_dead(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


# -------------------------------------------------------------------- what a file may look like

TODO_1_1 = '    raise NotImplementedError("1.1 matmul")\n'
LESSON = ROOT / "tvm_practice" / "te_basics.py"


def broken(replacement: str, old: str = TODO_1_1) -> str:
    """The lesson with something else in the place of 1.1's `raise`, or of `old`."""
    source = LESSON.read_text(encoding="utf-8")
    if source.count(old) != 1:
        pytest.skip("this lesson's exercise 1.1 is not as shipped")
    return source.replace(old, replacement)


def _told_by(source: str, folder: str, exercise_id: str) -> str:
    """What calling an exercise of a lesson with this source raises. Runs in a worker."""
    exercise.PACKAGE = Path(folder)
    (exercise.PACKAGE / "te_basics.py").write_text(source, encoding="utf-8")
    try:
        body = exercise.body(exercise_id, exercise.LEARNER)
        body(*(7 for _ in inspect.signature(body).parameters))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


UNREADABLE = {
    "a bracket that is never closed": ('    A = te.placeholder((M, K), name="A"\n', 0),
    "a string that is never closed": ('    A = te.placeholder((M, K), name="A)\n', 0),
    "a docstring that is never closed": ('    """A remark\n    return []\n', None),
    "an indentation that does not fit": ("    A = 1\n      B = 2\n", 1),
    "a tab among spaces": ("    A = 1\n\tB = 2\n", 1),
    "a colon that is missing": ("    for k in range(K)\n        pass\n", 0),
    "a break outside of a loop": ("    A = 1\n    break\n", 1),
    "a return at the left margin": ("    A = 1\nreturn A\n", 1),
    "an assignment at the left margin": ("    A = 1\nB = 2\n    return [A, B]\n", 2),
    "a half-written line": ("    A = te.placeholder(\n    B = \n", None),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_syntax_error_costs_its_exercise_only(what: str, tmp_path) -> None:
    text, number = UNREADABLE[what]
    source = broken(text)
    first = source[: source.index(text)].count("\n") + 1
    told = worker.call(_told_by, source, str(tmp_path), "1.1")
    assert told.startswith("BrokenAnswer: Python cannot read tvm_practice/te_basics.py, line ")
    line = int(re.search(r"line (\d+)", told)[1])  # type: ignore[index]
    if number is None:
        assert first <= line <= first + text.count("\n")
    else:
        assert line == first + number
        assert text.splitlines()[number].strip() in told
    for other in ("1.2", "1.3", "1.4"):
        assert worker.call(_told_by, source, str(tmp_path), other) == (
            f"NotImplementedError: {other} {exercise.catalogue()[other].name}"
        )


def test_a_damaged_decorator_costs_its_exercise_only(tmp_path) -> None:
    mark = '@exercise("1.1", "Matrix multiplication")\n'
    source = broken(mark.replace(")", ""), old=mark)
    assert worker.call(_told_by, source, str(tmp_path), "1.1").startswith("BrokenAnswer: ")
    assert "1.2 bias_relu" in worker.call(_told_by, source, str(tmp_path), "1.2")


@pytest.mark.parametrize(
    "mark",
    [
        "@exercise('1.1', 'Matrix multiplication')\n",
        '@exercise(\n    "1.1",\n    "Matrix multiplication",\n)\n',
    ],
)
def test_a_formatter_of_other_habits_does_no_harm(mark: str, tmp_path) -> None:
    source = broken(mark, old='@exercise("1.1", "Matrix multiplication")\n')
    for text in (source, "\ufeff" + source, source.replace("\n", "\r\n")):
        told = worker.call(_told_by, text, str(tmp_path), "1.1")
        assert told == "NotImplementedError: 1.1 matmul"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("k = te.reduce_axis((0, 4)\n", r"Python cannot read .*'\(' was never closed"),
        ("print(matmull(2, 3, 4))\n", r"`print\(matmull\(2, 3, 4\)\)`, raises NameError"),
        ("matmul(2, 3, 4)\n", r"`matmul\(2, 3, 4\)`, raises NotImplementedError: 1.1 matmul"),
        ("import sys; sys.exit()\n", "raises SystemExit"),
    ],
)
def test_what_is_wrong_outside_the_exercises_is_said_so(line: str, told: str, tmp_path) -> None:
    source = LESSON.read_text(encoding="utf-8") + line
    for exercise_id in ("1.1", "1.4"):
        message = worker.call(_told_by, source, str(tmp_path), exercise_id)
        assert message.startswith("BrokenLesson: ")
        assert f"line {source.count(chr(10))}" in message
        assert re.search(told, message)
        assert "outside the exercises" in message


# ------------------------------------------------------------------- the commands, in a copy


def copy_of_the_course(folder: Path, source: str) -> Path:
    shutil.copytree(ROOT / "tvm_practice", folder / "tvm_practice")
    (folder / "tvm_practice" / "te_basics.py").write_text(source, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_practice.te_basics", *arguments],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def unwrapped(text: str) -> str:
    """Text as one line, without the frames around it."""
    return " ".join(re.sub(r"[─│╭╮╰╯]", " ", text).split())


def test_a_phase_runs_to_its_end_around_damaged_exercises(tmp_path) -> None:
    right = textwrap.indent(
        textwrap.dedent(
            """
            X = te.placeholder((M, N), name="X")
            bias = te.placeholder((N,), name="bias")
            biased = te.compute((M, N), lambda i, j: X[i, j] + bias[j], name="biased")
            Y = te.compute((M, N), lambda i, j: te.max(biased[i, j], 0.0), name="Y")
            return [X, bias, Y]
            """
        ),
        "    ",
    )
    source = broken('    A = te.placeholder((M, K), name="A"\n')
    number = source[: source.index('name="A"\n')].count("\n") + 1
    source = source.replace('    raise NotImplementedError("1.2 bias_relu")\n', right)
    source = source.replace(
        '    raise NotImplementedError("1.3 softmax")\n', '    print("so far")\n    return None\n'
    )
    deleted = source.index('@exercise("1.4"')
    source = source[:deleted] + source[source.index("# ---", deleted) :]
    done = run(copy_of_the_course(tmp_path, source), "--quick")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    told = unwrapped(done.stdout)
    assert "1.1 Matrix multiplication wrong not yet Python cannot read" in told
    assert f"te_basics.py, line {number}, `A = te.placeholder((M, K), name=\"A\"`: '('" in told
    assert "1.2 Bias and ReLU: two stages right" in told
    assert "wrong not yet softmax(6, 11) returned None" in told
    assert "it printed, at the end (a check calls it at several sizes): so far" in told
    assert "wrong not yet tvm_practice/te_basics.py has no function stencil any more" in told
    assert "Key question" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("k = te.reduce_axis((0, 4)\n", "'(' was never closed"),
        ("matmul(2, 3, 4)\n", "raises NotImplementedError: 1.1 matmul"),
    ],
)
def test_a_lesson_damaged_outside_the_exercises_ends_with_one_sentence(
    line: str, told: str, tmp_path
) -> None:
    source = LESSON.read_text(encoding="utf-8") + line
    folder = copy_of_the_course(tmp_path, source)
    done = run(folder, "--quick")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert unwrapped(done.stdout).count(told) == 1
    assert f"line {source.count(chr(10))}" in unwrapped(done.stdout)
    hint = run(folder, "--hint", "1.1")
    assert hint.returncode == 0
    assert "Look at row_sum above" in hint.stdout
