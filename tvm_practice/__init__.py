"""TVM Practice: a hands-on course in machine-learning compilers, on Apache TVM.

This file runs before anything else of the package, and does three things that cannot wait.

It sees to it that Ctrl-C is told in a line also while the rest is loaded.

It sets the thread count, which TVM, NumPy and torch each read once, when they are loaded.

And when a lesson file is what was started, as `python -m tvm_practice.te_basics` or as a script, it
hands the run to `main`. A lesson file holds a lesson and nothing else; it may also hold a learner's
half-written answer, with a syntax error or an endless loop in it. So it is never run in this
process: `main` has it graded in processes of their own.
"""

import sys
from pathlib import Path

from tvm_practice.common import interrupted  # noqa: F401 - first: for while the others are loaded
from tvm_practice.common.exercise import LESSONS, lesson_module, lesson_path
from tvm_practice.common.target import set_thread_environment


def _lesson_started() -> str | None:
    """The phase or lab that this Python process was started to run, if it is one."""
    if sys.argv[:1] == ["-m"]:  # what Python puts there until it has found the module
        options = sys.orig_argv[1:]
        module = next(
            (options[n + 1] if option == "-m" else option[2:])
            for n, option in enumerate(options)
            if option.startswith("-m")
        )
        return next((lesson for lesson in LESSONS if lesson_module(lesson) == module), None)
    script = Path(sys.argv[0] if sys.argv else "").resolve()
    return next((lesson for lesson in LESSONS if lesson_path(lesson) == script), None)


set_thread_environment()

if (_lesson := _lesson_started()) is not None:
    from tvm_practice.main import run_lesson_from_command_line

    sys.exit(run_lesson_from_command_line(_lesson))
