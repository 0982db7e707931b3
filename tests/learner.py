"""A learner, for tests: a copy of the course as it was shipped, in which things are typed and
saved, and the command is given in processes of its own."""

from __future__ import annotations

import ast
import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tvm_practice.common.exercise import lesson_file

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tvm_practice"

AS_SHIPPED = """
import shutil
from tvm_practice.common import answers
from tvm_practice.common.exercise import catalogue
for known in catalogue().values():
    answers.reset(known)
shutil.rmtree(answers.FOLDER, ignore_errors=True)
"""


@cache
def _shipped() -> Path:
    """The package as it was shipped, with bytecode. Whoever works on this copy of the course may
    have answered something already, so every exercise is reset."""
    folder = Path(tempfile.mkdtemp(prefix="tvm_practice_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = folder / "tvm_practice"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for command in (["-c", AS_SHIPPED], ["-m", "compileall", "-q", "tvm_practice"]):
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True)
    return package


class Learner:
    def __init__(self, folder: Path) -> None:
        """Copy the course to a folder that is not there yet."""
        self.folder = folder
        shutil.copytree(_shipped(), folder / "tvm_practice")

    @property
    def progress(self) -> Path:
        return self.folder / ".tvm_practice" / "progress.json"

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "NO_COLOR", "TVM_PRACTICE_TARGET", "FORCE_COLOR")
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**kept, "PATH": path, "PYTHONPATH": str(self.folder), "TERM": "xterm-256color"}

    def python(self, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **more.pop("env", {})}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            **more,
        )

    def types(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Give the command `tvm-practice`, into a pipe."""
        return self.python("-m", "tvm_practice", *arguments, env=environment)

    def at_terminal(self, *arguments: str, columns: int = 100, **environment: str | None):
        """Give the command at a terminal; a pexpect child. A variable that is None is not set."""
        import pexpect

        environment = {**self.environment, **environment}
        return pexpect.spawn(
            sys.executable,
            ["-m", "tvm_practice", *arguments],
            cwd=str(self.folder),
            env={name: value for name, value in environment.items() if value is not None},
            dimensions=(40, columns),
            encoding="utf-8",
            timeout=90,
        )

    def file(self, lesson: str) -> Path:
        return self.folder / lesson_file(lesson)

    def body(self, lesson: str, exercise_id: str, typed: str) -> None:
        """Put lines in the place of an exercise's TODO, or of what was typed there before, as a
        person does in an editor."""
        path = self.file(lesson)
        lines = path.read_text(encoding="utf-8").splitlines()
        first = next(n for n, line in enumerate(lines) if f'@exercise("{exercise_id}"' in line)
        start = next(n for n in range(first, len(lines)) if lines[n].endswith('"""')) + 1
        end = start
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
            end += 1
        lines[start:end] = [*typed.rstrip().splitlines(), "", ""]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def answers(self, lesson: str, exercise_id: str, name: str) -> None:
        """Type the reference's body in."""
        self.body(lesson, exercise_id, reference_body(lesson, name))


def reference_body(lesson: str, name: str) -> str:
    """The lines of a reference's body, as they would stand in its lesson."""
    text = (PACKAGE / "solutions" / f"{lesson}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
    )
    first = min(node.lineno for node in ast.walk(function.body[0]) if hasattr(node, "lineno"))
    lines = text.splitlines()[first - 1 : function.end_lineno]
    return re.sub(r"\blesson\.", "", "\n".join(lines))
