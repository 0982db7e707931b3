"""The command `tvm-practice` as a person types it, in a copy of the course."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tomllib

import pytest

from tests.learner import PACKAGE, ROOT, Learner
from tvm_practice.commands import COMMANDS, course
from tvm_practice.common import answers
from tvm_practice.common.command import VARIABLE
from tvm_practice.common.exercise import LESSONS, catalogue, exercises_of

AS_SHIPPED = os.environ.get("TVM_PRACTICE_AS_SHIPPED") == "1"


@pytest.fixture
def learner(tmp_path) -> Learner:
    return Learner(tmp_path / "course")


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that could not run."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


# ------------------------------------------------------------------------------------------- Ctrl-C

CTRL_C = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("loading", "command"),
    [
        ("tomllib", ["tvm_practice", "list"]),
        ("click", ["tvm_practice", "list"]),
        ("tomllib", ["tvm_practice.te_basics"]),
        ("numpy", ["tvm_practice.te_basics"]),
        ("psutil", ["tvm_practice", "doctor"]),
    ],
)
def test_ctrl_c_while_a_command_is_loaded_is_told_in_a_line(learner, loading, command) -> None:
    (learner.folder / f"{loading}.py").write_text(CTRL_C)
    done = learner.python("-m", *command)
    assert (done.returncode, done.stderr.strip()) == (130, "Interrupted."), done.stderr


def test_whoever_imports_the_package_keeps_their_own_interrupt(learner) -> None:
    done = learner.python("-c", f"import tvm_practice\n{CTRL_C}")
    assert "Interrupted." not in done.stderr
    assert "KeyboardInterrupt" in done.stderr


# -------------------------------------------------------------------------------- list and progress


def test_list_has_one_line_for_each_exercise(learner) -> None:
    done = learner.types("list")
    assert (done.returncode, done.stderr) == (0, "")
    for known in catalogue().values():
        line = re.search(rf"^  {re.escape(known.id)} .*$", done.stdout, re.MULTILINE)
        assert line and line[0].endswith("todo"), known.id
    assert len(done.stdout.splitlines()) == len(catalogue()) + len(LESSONS)
    assert "\x1b" not in done.stdout


def test_list_of_one_lesson(learner) -> None:
    lines = learner.types("list", "conv1d").stdout.splitlines()
    assert len(lines) == 1 + len(exercises_of("conv1d"))


def test_list_answers_at_once_and_loads_nothing_heavy(learner) -> None:
    learner.types("list")  # bytecode is compiled once
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = learner.python("-X", "importtime", "-m", "tvm_practice", "list").stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    modules = {line.rpartition("|")[2].strip() for line in loaded.splitlines()}
    assert "click" in modules
    assert not modules & {"tvm", "torch", "numpy", "rich", "multiprocessing", "watchfiles"}
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < 0.3, f"{spent:.2f} s of a processor"


def test_grading_an_exercise_loads_no_torch_in_any_process(learner) -> None:
    mark = learner.folder / "torch was loaded"
    (learner.folder / "torch.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    learner.answers("te_basics", "1.1", "matmul")
    done = learner.types("run", "1.1")
    assert "1.1  Matrix multiplication  right" in done.stdout
    assert not mark.exists()
    learner.python("-c", "import torch")
    assert mark.exists(), "it would have been seen"


def test_list_into_a_program_that_stops_reading(learner) -> None:
    command = f"{sys.executable} -m tvm_practice list | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=learner.folder,
        env=learner.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_fits_a_narrow_terminal(learner) -> None:
    for columns in (40, 60):
        done = learner.types("list", COLUMNS=str(columns))
        assert max(map(len, done.stdout.splitlines())) <= columns
        done = learner.types("progress", COLUMNS=str(columns))
        assert done.returncode == 0


def test_progress_counts_by_lesson_and_says_what_is_next(learner) -> None:
    done = learner.types("progress")
    assert f"0 of {len(catalogue())} exercises solved." in done.stdout
    assert "Next: 1.1" in done.stdout
    assert "\n  python -m tvm_practice run 1.1\n" in done.stdout
    assert "─" in learner.types("progress", PYTHONIOENCODING="utf-8").stdout
    assert "..." in learner.types("progress", PYTHONIOENCODING="ascii").stdout


# ---------------------------------------------------------------------------------------------- run


def test_a_stub_is_no_error_a_wrong_answer_is_and_a_right_one_names_the_next(learner) -> None:
    done = learner.types("run", "1.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "TODO" in done.stdout and "tvm_practice/te_basics.py:" in done.stdout

    learner.body("te_basics", "1.1", "    return []")
    done = learner.types("run", "1.1", "--seed", "7")
    assert done.returncode == 1
    assert "not yet" in done.stdout and "seed 7" in done.stdout
    assert "wrong when last run" in learner.types("list", "te_basics").stdout

    learner.answers("te_basics", "1.1", "matmul")
    assert "changed since it was run" in learner.types("list", "te_basics").stdout
    done = learner.types("run")  # the first that is not solved
    assert done.returncode == 0, done.stdout
    assert "1.1  Matrix multiplication  right" in done.stdout
    assert "for k in range(" in done.stdout, "the loop nest is shown"
    assert "Next: 1.2" in done.stdout
    assert re.search(r"1\.1 .* solved", learner.types("list", "te_basics").stdout)
    assert "1.2  Bias" in learner.types("run", "next").stdout


def test_a_lesson_is_run_by_name_or_number_and_remembers_each_exercise(learner) -> None:
    learner.answers("te_basics", "1.4", "stencil")
    done = learner.types("run", "1", "--quick", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "Key question" in done.stdout
    assert re.search(r"1\.4 .* solved", learner.types("list", "te_basics").stdout)
    assert set(json.loads(learner.progress.read_text())["exercises"]) == {
        known.id for known in exercises_of("te_basics")
    }


def test_every_command_says_the_same_of_what_is_next(learner) -> None:
    learner.answers("te_basics", "1.2", "bias_relu")
    done = learner.types("run", "1.2")
    following = re.search(r"^Next: 1\.1 .*\n .* run 1\.1$", done.stdout, re.MULTILINE)
    assert following, done.stdout
    assert following[0] in learner.types("progress").stdout


def test_what_a_body_printed_says_how_much_of_it_is_left_out(learner) -> None:
    learner.body("te_basics", "1.1", "    print(*range(40), sep='\\n')\n    return []")
    told = learner.types("run", "1.1").stdout
    assert "    ... 28 lines before these\n" in told
    assert "    28\n" in told and "    27\n" not in told


def test_a_lesson_with_reference_bodies_says_nothing_about_the_learner(learner) -> None:
    assert learner.types("run", "1.1", "--solutions").returncode == 0
    assert not learner.progress.exists()


def test_a_lesson_that_is_damaged_outside_its_exercises_is_a_sentence(learner) -> None:
    path = learner.file("te_basics")
    path.write_text(path.read_text().replace("from tvm import te\n", "from tvm import te te\n"))
    done = learner.types("run", "1.1")
    assert done.returncode == 1
    assert "Python cannot read tvm_practice/te_basics.py" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert learner.types("list", "te_basics").returncode == 0


def test_an_exercise_for_a_gpu_needs_a_compiler(learner, tmp_path) -> None:
    told = refused(learner.types("run", "2.6", PATH=str(tmp_path)))
    assert "2.6 is an exercise for a GPU" in told and "g++" in told


# ------------------------------------------------------------------- hint, solution, diff and reset


def test_each_hint_is_one_tier_more_and_after_the_last_the_solution_opens(learner) -> None:
    assert "3 of 3 hints are left" in refused(learner.types("solution", "1.2"))
    assert "3 of 3" in refused(learner.types("diff", "1.2"))
    assert "no hint" in learner.types("hint", "1.2", "--again").stderr
    shown = [learner.types("hint", "1.2") for _ in range(4)]
    assert [len(re.findall(r"^ *\d ", one.stdout, re.MULTILINE)) for one in shown] == [1, 2, 3, 3]
    assert "solution 1.2" in shown[2].stdout
    assert learner.types("hint", "1.2", "--again").stdout == shown[3].stdout
    done = learner.types("solution", "1.2")
    assert done.returncode == 0
    assert "te.max(" in done.stdout


def test_after_a_wrong_run_the_first_hint_is_for_what_it_found(learner) -> None:
    def hint(*more: str) -> str:
        return " ".join(learner.types("hint", "1.1", *more).stdout.split())

    before = hint()
    assert "1 Look at row_sum" in before and "last run" not in before
    learner.body("te_basics", "1.1", "    return None")
    assert learner.types("run", "1.1").returncode == 1
    assert "last run" not in hint("--again"), "it was not shown yet"
    told = hint()
    assert "For what the last run found: The docstring ends with the tensors" in told
    assert "Look at row_sum" not in told, "what was shown before is not asked for"
    again = hint("--again")
    assert "The docstring ends" in again and "1 Look at row_sum" in again and " 2 " not in again
    assert " 2 " in hint()
    assert " 3 " in hint()
    learner.body("te_basics", "1.1", "    return sum(M, axis=N)")
    assert learner.types("run", "1.1").returncode == 1
    told = hint()
    assert "row_sum above reduces too" in told and "Look at row_sum" not in told
    assert "hint 1.1 --again shows the hints before it too" in told
    by_lesson = learner.python("-m", "tvm_practice.te_basics", "--hint", "1.1").stdout
    assert "row_sum above reduces too" in by_lesson


def test_a_hint_for_what_the_last_run_found_goes_with_the_text(learner) -> None:
    learner.body("te_basics", "1.1", "    return None")
    assert learner.types("run", "1.1").returncode == 1
    assert learner.types("reset", "1.1").returncode == 0
    for shown in (
        learner.types("hint", "1.1"),
        learner.types("hint", "1.1", "--again"),
        learner.python("-m", "tvm_practice.te_basics", "--hint", "1.1"),
    ):
        assert shown.returncode == 0
        assert "Look at row_sum" in shown.stdout and "last run" not in shown.stdout


def test_hint_without_an_id_is_about_the_next_exercise(learner) -> None:
    assert "1.1  Matrix multiplication" in learner.types("hint").stdout


def test_the_solution_is_shown_without_loading_tvm(learner) -> None:
    done = learner.python("-X", "importtime", "-m", "tvm_practice", "solution", "2.1", "--anyway")
    assert "sch.reorder(io, jo, k, ii, ji)" in done.stdout
    assert not re.search(r"\| +(tvm|torch)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("exercise_id", catalogue())
def test_every_reference_is_complete_as_it_is_shown(exercise_id: str) -> None:
    shown = answers.reference(catalogue()[exercise_id])
    compile(shown, exercise_id, "exec")
    assert f"def {catalogue()[exercise_id].name}(" in shown


def test_diff_shows_both_sources_and_both_nests_and_times_both(learner) -> None:
    learner.body("manual_schedule", "2.2", '    # mine\n    sch.vectorize(sch.get_loops("C")[-1])')
    done = learner.types("diff", "2.2", "--anyway")
    assert done.returncode == 0, done.stdout
    assert "# mine" in done.stdout and "sch.vectorize(ji)" in done.stdout
    assert "Both make the same loop nest" in done.stdout
    timed = learner.types("diff", "2.2", "--time")  # it is solved now
    assert timed.returncode == 0, timed.stderr
    assert re.search(r"yours .*(cannot tell|faster|slower)", timed.stdout)


def test_diff_of_a_wrong_answer_marks_where_the_nests_differ(learner) -> None:
    learner.body("manual_schedule", "2.2", '    sch.unroll(sch.get_loops("C")[-1])')
    done = learner.types("diff", "2.2", "--anyway", "--time")
    assert done.returncode == 1
    assert "not yet" in done.stdout
    assert "Only a right answer is timed." in done.stdout
    assert re.search(r"^ *- .*unroll", done.stdout, re.MULTILINE)


def test_what_takes_no_time_of_its_own_is_not_timed(learner) -> None:
    assert "no program" in refused(learner.types("diff", "3.2", "--time", "--anyway"))


def test_reset_keeps_what_was_typed_and_touches_nothing_else(learner) -> None:
    path = learner.file("te_basics")
    shipped = path.read_bytes()
    learner.body("te_basics", "1.2", "    hours = 'of work'\n    return hours")
    done = learner.types("reset", "1.2")
    assert done.returncode == 0
    assert path.read_bytes() == shipped
    kept = re.search(r"kept in (\S+)", done.stdout)
    assert kept and "hours = 'of work'" in (learner.folder / kept[1]).read_text()
    again = learner.types("reset", "1.2")
    assert (again.returncode, again.stdout) == (0, "1.2 is as it was shipped already.\n")


def test_reset_twice_in_a_second_keeps_both(learner) -> None:
    for typed in ("first", "second"):
        learner.body("te_basics", "1.2", f"    return '{typed}'")
        assert learner.types("reset", "1.2").returncode == 0
    backups = [one.read_text() for one in (learner.folder / ".tvm_practice/backups").iterdir()]
    assert len(backups) == 2
    assert "'first'" in "".join(backups) and "'second'" in "".join(backups)


def damaged_by(learner: Learner, change) -> bytes:
    """Change a lesson file, reset 1.2, and return what the file then holds."""
    path = learner.file("te_basics")
    path.write_bytes(change(path.read_bytes()))
    assert learner.types("reset", "1.2").returncode == 0
    return path.read_bytes()


def test_reset_of_an_exercise_that_was_deleted_with_its_decorator(learner) -> None:
    shipped = learner.file("te_basics").read_bytes()
    stub = answers.originals("te_basics")["1.2"].encode()
    assert damaged_by(learner, lambda text: text.replace(stub, b"")).count(stub) == 1
    assert learner.types("run", "1.2").returncode == 0
    assert len(learner.file("te_basics").read_bytes()) - len(shipped) < 10


def test_reset_in_a_file_that_was_emptied_says_what_gives_it_back(learner) -> None:
    path = learner.file("te_basics")
    for left in ("", '"""Only a docstring."""\n'):
        path.write_text(left)
        assert "git checkout -- tvm_practice/te_basics.py" in refused(learner.types("reset", "1.2"))
        assert path.read_text() == left


def test_reset_takes_away_a_statement_that_slipped_to_the_margin(learner) -> None:
    shipped = learner.file("te_basics").read_bytes()
    raised = b'    raise NotImplementedError("1.2 bias_relu")\n'
    slipped = b"    x = (1,\nreturn x\n"
    assert damaged_by(learner, lambda text: text.replace(raised, slipped)) == shipped
    backup = next((learner.folder / ".tvm_practice/backups").iterdir())
    assert b"return x" in backup.read_bytes()


def test_reset_keeps_the_bytes_of_the_rest_whatever_the_encoding(learner) -> None:
    def windows(text: bytes) -> bytes:
        text = text.replace(b"# TODO(1.2)", b"# caf\xe9 TODO(1.2)").replace(b"A vector is", b"\xe9")
        return b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")

    shipped = learner.file("te_basics").read_bytes()
    got = damaged_by(learner, windows)
    assert got == b"\xef\xbb\xbf" + shipped.replace(b"A vector is", b"\xe9").replace(b"\n", b"\r\n")


def test_reset_keeps_a_constant_of_the_lesson_that_stands_behind_an_exercise(learner) -> None:
    def add(text: bytes) -> bytes:
        return text.replace(b'Error("1.2 bias_relu")\n', b'Error("mine")\n\n\nMINE = 3\n')

    assert b"\nMINE = 3\n" in damaged_by(learner, add)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_originals_are_the_lessons_as_shipped(lesson: str) -> None:
    shipped, now = answers.originals(lesson), answers.texts(lesson)
    assert list(shipped) == [known.id for known in exercises_of(lesson)]
    for known, text in now.items():
        if AS_SHIPPED or f'NotImplementedError("{known} ' in text:
            assert text == shipped[known], "run `python -m tvm_practice.common.answers`"


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "1.9"), "no exercise or lesson '1.9'; did you mean 1.1, 1.2, 1.3 or 1.4?"),
        (("run", "9.9"), "no exercise or lesson '9.9'; `"),
        (("run", "conv1d.9"), "did you mean conv1d.1, "),
        (("run", "te_basic"), "did you mean te_basics?"),
        (("list", "cost_modle"), "did you mean cost_model?"),
        (("watch", "nxt"), "did you mean next?"),
        (("run", "stencil"), "did you mean 1.4?"),  # the name of its function
        (("run", "6"), "there is no exercise or lesson '6'"),
        (("solution", "9.9"), "there is no exercise or lesson '9.9'"),
        (("reset", ""), "there is no exercise or lesson ''"),
        (("reset", "2"), "name the exercise that you mean, such as"),
        (("run", "1.1", "--quick"), "--quick is for a whole lesson"),
        (("lst", "2"), "there is no command 'lst'; did you mean `"),
        (("lst", "2"), " list 2`?"),
        (("frobnicate",), "--help` names them all"),
        (("te_basics",), " run te_basics`?"),
        (("1.1",), " run 1.1`?"),
    ],
)
def test_bad_input_is_one_sentence_with_the_way_out(learner, arguments, told) -> None:
    assert told in refused(learner.types(*arguments))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "te_basics", "--size", "0"), "is no size"),
        (("run", "te_basics", "--target", "tpu"), "there is no target 'tpu'"),
        (("reset",), "Missing argument"),
    ],
)
def test_a_command_that_is_none_is_refused(learner, arguments, told) -> None:
    done = learner.types(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["2", "phase2", "manual_schedule", "Manual-Schedule", "phase 2"])
def test_a_lesson_has_one_name_in_every_command(learner, name: str) -> None:
    assert len(learner.types("list", name).stdout.splitlines()) == 1 + len(
        exercises_of("manual_schedule")
    )
    first = "2.1 is the first of phase 2 that is not solved."
    assert learner.types("hint", name).stdout.startswith(f"{first}\n\n2.1  Tile")
    assert learner.types("solution", name, "--anyway").stdout.startswith(first)


def test_a_lesson_that_is_gone_is_a_sentence_everywhere(learner) -> None:
    learner.file("te_basics").rename(learner.folder / "away")
    way_out = "`git checkout -- tvm_practice/te_basics.py` gives back what was committed last."
    gone = f"tvm_practice/te_basics.py is gone: save it again from your editor, or {way_out}"
    for command in (
        ("run",),
        ("run", "1.2"),
        ("run", "1.2", "--solutions"),
        ("solution", "1.2", "--anyway"),
        ("reset", "1.2"),
        ("diff", "1.2", "--anyway"),
    ):
        assert refused(learner.types(*command)) == f"tvm-practice: {gone}\n", command
    lesson = learner.types("run", "1", "--quick")  # as when it is damaged: others would go on
    assert lesson.returncode == 2 and "te_basics.py is gone" in lesson.stdout
    page = learner.types("report")
    assert page.returncode == 0 and "te_basics.py is gone" in page.stdout
    assert "Look at row_sum" in learner.types("hint", "1.1").stdout


def test_where_a_lesson_is_gone_the_rest_of_the_course_goes_on(learner) -> None:
    for lesson in ("te_basics", "conv1d"):
        learner.file(lesson).unlink()
    listed = learner.types("list")
    assert listed.returncode == 0
    assert "what to compute  its file is gone\n" in listed.stdout
    assert len(listed.stdout.splitlines()) == len(catalogue()) + len(LESSONS)
    assert re.findall(r"(\w+)\.py is gone: save it again", listed.stderr) == ["te_basics", "conv1d"]
    assert re.search(r"te_basics .*file gone$", learner.types("progress").stdout, re.MULTILINE)
    two = learner.types("list", "2")
    assert (two.returncode, two.stderr) == (0, "")
    learner.answers("manual_schedule", "2.1", "tile")
    done = learner.types("run", "2.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "right" in done.stdout and "Next: 2.2" in done.stdout
    assert learner.types("hint", "2").stdout.startswith("2.2 is the first of phase 2")


def test_a_tvm_that_cannot_be_loaded_is_told_with_its_reason(learner) -> None:
    loads = learner.folder / "tvm_practice" / "common" / "import_tvm.py"
    loads.write_text('raise OSError("libtvm.so: cannot open shared object file")\n')
    for command in (("run", "1.1"), ("hint", "1.1"), ("run", "1", "--quick")):
        told = refused(learner.types(*command))
        assert "OSError: libtvm.so: cannot open shared object file" in told
        assert told.endswith("; `python -m tvm_practice doctor` looks into it\n")


@pytest.mark.parametrize("before", ["./practice", "docker compose run --rm tvm"])
def test_commands_are_printed_as_they_are_typed(learner, before: str) -> None:
    typed = f"{before} tvm-practice"
    learner.body("te_basics", "1.1", "    return []")
    for command, told in {
        ("progress",): f"\n  {typed} run 1.1\n",
        ("run", "1.1"): f"({typed} hint 1.1 helps)",
        ("hint", "1.1"): f"({typed} hint 1.1 once more",
        ("run", "--help"): f"{typed} run manual_schedule --quick",
        ("report", "--help"): f"Example: {typed} report",
        (): f"{typed} hint 1.1   when you are stuck",
    }.items():
        shown = learner.types(*command, TVM_PRACTICE_COMMAND=before)
        assert told in shown.stdout + shown.stderr, command
    bench = learner.python("-m", "tvm_practice.bench", "--help", env={VARIABLE: before})
    assert f"{before} python -m tvm_practice.bench matmul" in bench.stdout


def test_a_command_that_is_not_on_the_path_is_printed_as_its_file(learner) -> None:
    def started(by: str, path: str) -> str:
        code = f"import sys; sys.argv[0] = {by!r}; from tvm_practice.common import command; "
        done = learner.python("-c", code + "print(command.program())", env={"PATH": path})
        return done.stdout.strip()

    folder = os.path.dirname(sys.executable)
    module = str(learner.folder / "tvm_practice" / "__main__.py")
    assert started(module, "/bin") == f"{sys.executable} -m tvm_practice"
    assert started(str(learner.folder / "bin" / "tvm-practice"), "/bin") == "bin/tvm-practice"
    assert started("/usr/bin/pytest", folder) == "tvm-practice"


# -------------------------------------------------------------------------- help, completion, start


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_in_its_help(name: str) -> None:
    import click
    from click.testing import CliRunner

    context = click.Context(course)
    if name not in course.list_commands(context):
        pytest.skip(f"{name} is not there yet")
    done = CliRunner().invoke(course, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"tvm-practice {name}" in done.output


def test_the_help_names_every_command_and_how_to_complete(learner) -> None:
    done = learner.types("--help")
    assert "_TVM_PRACTICE_COMPLETE=bash_source tvm-practice" in done.stdout
    for name in ("list", "run", "watch", "hint", "solution", "diff", "reset", "progress"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    assert "-m tvm_practice watch" in learner.types().stderr + learner.types().stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tvm-practice re", {"reset"}),
        ("tvm-practice hint 1.", {"1.1", "1.2", "1.3", "1.4"}),
        ("tvm-practice run conv1d.1", {"conv1d.1"}),
        ("tvm-practice run ne", {"next"}),
        ("tvm-practice watch man", {"manual_schedule"}),
        ("tvm-practice run 2 --target cu", {"cuda", "cuda-sim"}),
    ],
)
def test_commands_and_exercises_complete(learner, words: str, offered: set[str]) -> None:
    done = learner.types(
        _TVM_PRACTICE_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert offered <= found
    assert all(one.startswith(words.split()[-1]) for one in found)


def test_the_versions_are_told(learner) -> None:
    told = learner.types("--version").stdout
    assert re.fullmatch(r"tvm-practice \S+, TVM 0\.27\S*, Python 3\.\d+\.\d+\n", told)


def test_the_command_is_declared_and_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"tvm-practice": "tvm_practice.commands:main"}
    script = os.path.join(os.path.dirname(sys.executable), "tvm-practice")
    if not os.path.exists(script):
        pytest.skip("the package is not installed here")
    done = subprocess.run([script, "list", "te_basics"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Matrix multiplication" in done.stdout


def test_the_originals_are_part_of_the_package() -> None:
    assert {one.stem for one in (PACKAGE / "originals").glob("*.txt")} == set(LESSONS)
