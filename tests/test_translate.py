"""`tvm-practice translate`: every old name of the classic scripts is found, and nothing else."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tvm_practice.common import exercise
from tvm_practice.translate import command, read, translate

DATA = Path(__file__).parent / "data"
CLASSIC = sorted(DATA.glob("classic_*.py"))
TODAY = [
    *(exercise.lesson_path(lesson) for lesson in exercise.LESSONS),
    *(exercise.PACKAGE / "solutions").glob("*.py"),
]


def expected(source: str) -> list[tuple[int, str]]:
    """What the script itself says is old: a line's names stand behind its `#:`."""
    return [
        (number, name)
        for number, line in enumerate(source.splitlines(), 1)
        if "#:" in line and not line.startswith("#")
        for name in re.findall(r'"[^"]*"|[^,\s][^,]*', line.partition("#:")[2])
    ]


@pytest.mark.parametrize("path", CLASSIC, ids=lambda path: path.stem)
def test_every_old_name_is_found_and_nothing_else(path: Path) -> None:
    found, why = translate(path.read_text())
    assert not why
    assert sorted((one.number, one.text) for one in found) == sorted(expected(path.read_text()))
    assert all(one.row is not None for one in found)


def test_the_classic_scripts_have_enough_in_them() -> None:
    assert len(CLASSIC) == 5
    assert sum(len(expected(path.read_text())) for path in CLASSIC) >= 150


@pytest.mark.parametrize("path", TODAY, ids=lambda path: path.stem)
def test_nothing_is_found_in_what_is_written_for_today(path: Path) -> None:
    found, why = translate(path.read_text())
    assert not why
    assert [(one.number, one.text) for one in found] == []


@pytest.mark.parametrize("path", CLASSIC, ids=lambda path: path.stem)
def test_a_script_that_python_cannot_read_is_searched_line_by_line(path: Path) -> None:
    source = path.read_text() + '\nprint "done"\n%matplotlib inline\n'
    with pytest.raises(SyntaxError):
        ast.parse(source)
    reader, why = read(source)
    assert "line" in why
    got = {(one.number, one.text) for one in reader.found}
    lost = [one for one in expected(source) if one not in got]
    assert len(lost) <= 0.15 * len(expected(source)), lost
    assert {number for number, _ in got} <= {number for number, _ in expected(source)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tvm import te as t\ns = t.create_schedule(1)", ["t.create_schedule"]),
        ("from tvm.te import create_schedule as cs\ns = cs(1)", None),
        ("import tvm.relay", ["tvm.relay"]),
        ("import tvm.relay as relay\nrelay.build(1)", ["tvm.relay", "relay.build"]),
        ("import tvm\nt = f'llvm -mcpu={1}'", ['f"llvm -mcpu={1}"']),
        ("import tvm\ndef f(s, C):\n    return s[C].split(1, factor=2)", ["s[C].split"]),
        ("import tvm\ntvm.nothing_like_it()", ["tvm.nothing_like_it"]),
        ("from tvm.script import tir as T\n@T.prim_func\ndef f():\n  T.block('C')", None),
        ("import tvm\nA = {}\nA['x'].tile(1)", []),
        ("def create_schedule(): pass\ncreate_schedule()", []),
        ("relay = object()\nrelay.build()", []),
        ("class te: pass\nte.create_schedule", []),
        ("words = 'cuda is not -fast'\nx = 'llvm'", []),
        ("s = {}\ns['C'].split(',')", []),
        ("import numpy as np\nnp.zeros(3).tile(2)", []),
        ("import tvm\nlib = tvm.compile(1)\nlib.run()", []),
        ("import topi\ntopi.nn.relu(1)", ["topi"]),
        ("import tvm\nC = tvm.te.compute((1,), f)\nC.op.axis[0]", ["C.op.axis[0]"]),
        ("tensor.op.axis", []),
        ("import tvm\ntvm.build(1, target_host=2)", ["tvm.build", "target_host="]),
    ],
)
def test_a_name_is_followed_to_where_it_comes_from(source: str, found: list[str] | None) -> None:
    got = [one.text for one in translate(source)[0]]
    assert len(got) == 2 if found is None else got == found


def test_of_a_row_about_several_names_the_line_of_the_one_that_is_meant() -> None:
    (found,) = translate("import tvm\ntvm.reduce_axis((0, 8))")[0]
    assert found.lines == ("te.reduce_axis",)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ('tvm.context("llvm", 0)', "tvm.cpu(0)"),
        ('tvm.context("cuda", 1)', "tvm.cuda(0)"),
        ("tvm.context(name, 0)", 'tvm.device("cpu", 0)'),
        ("tvm.gpu(0)", "tvm.cuda(0)"),
    ],
)
def test_a_context_is_the_device_that_it_names(given: str, line: str) -> None:
    (found,) = translate(f"import tvm\n{given}")[0]
    assert found.lines == (line,)


def test_a_target_string_is_written_as_a_dictionary() -> None:
    (found,) = translate('t = "llvm -mcpu=native -mattr=+avx2,+fma -num-cores 4 --system-lib"')[0]
    assert found.lines == (
        'tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), '
        '"mattr": ["+avx2", "+fma"], "num-cores": 4, "system-lib": True})',
    )


# ---------------------------------------------------------------------------------- the command


def run(*arguments: str):
    return CliRunner().invoke(command, arguments)


def test_the_command_as_a_person_gives_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tvm_practice.translate", str(DATA / "classic_tuning.py")],
        check=False,
        capture_output=True,
        text=True,
        cwd=exercise.PACKAGE.parent,
        env=os.environ | {"COLUMNS": "160"},
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"autotvm\.template +ms\.space_generator\.ScheduleFn", done.stdout)
    assert "from tvm.s_tir import meta_schedule as ms" in done.stdout


def test_in_a_pipe_no_line_of_code_is_folded(tmp_path) -> None:
    long = "llvm -mcpu=skylake-avx512 -mattr=+avx512f,+avx512bw,+avx512vl -num-cores=16"
    file = tmp_path / "long.py"
    file.write_text(f'import tvm\ntarget = "{long}"\n')
    done = run(str(file))
    assert f'"{long}"' in done.output
    assert '"mattr": ["+avx512f", "+avx512bw", "+avx512vl"], "num-cores": 16})' in done.output


def test_json() -> None:
    done = run("--json", str(DATA / "classic_graph.py"))
    assert done.exit_code == 1
    listed = json.loads(done.output)
    (one,) = [one for one in listed["found"] if one["old"] == "r.build"]
    assert one["today"] == "tvm.compile"
    assert one["write"] == ['ex = tvm.compile(relax.get_pipeline("zero")(mod), target=target)']
    assert "from tvm import relax" in listed["imports"]


def test_nothing_old(tmp_path) -> None:
    file = tmp_path / "new.py"
    file.write_text("from tvm import te\nA = te.placeholder((1,))\n")
    done = run(str(file))
    assert (done.exit_code, "nothing in it is of an older TVM" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.py", None, "cannot be read: No such file or directory."),
        ("tutorial.ipynb", b"{}", "is a notebook; `jupyter nbconvert --to script"),
        ("model.so", b"\x7fELF\0\0", "is no text file."),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes | None, sentence: str, tmp_path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    done = run(str(file))
    assert done.exit_code == 2
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert run(str(tmp_path)).exit_code == 2
