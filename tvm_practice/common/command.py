"""What to type to run a command of the course: printed so that it can be copied, whichever way the
one that prints it was started.

`./practice` and the container say in TVM_PRACTICE_COMMAND what stands before a command; `uv run`
leaves a variable of its own. Without either, the command stands for itself, or for a Python that is
on nobody's path.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
VARIABLE = "TVM_PRACTICE_COMMAND"
UNDER_UV = "UV_RUN_RECURSION_DEPTH"


def program() -> str:
    """`tvm-practice`, as it is to be typed."""
    before = os.environ.get(VARIABLE) or ("uv run" if UNDER_UV in os.environ else "")
    if before:
        return f"{before} tvm-practice"
    started = Path(sys.argv[0] or ".")
    if started.suffix == ".py" and PACKAGE in started.resolve().parents:
        return f"{_typed('python', sys.executable)} -m tvm_practice"
    return _typed("tvm-practice", started) if started.name == "tvm-practice" else "tvm-practice"


def typed(rest: str) -> str:
    """What to type to run a command of the course."""
    return f"{program()} {rest}"


def _typed(name: str, file: str | Path) -> str:
    """The name of a program, if the shell finds this file by it, else the file."""
    path = Path(os.path.abspath(file))
    found = shutil.which(name)
    if found and Path(os.path.abspath(found)) == path:
        return name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
