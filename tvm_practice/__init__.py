"""TVM Practice: a hands-on course in machine-learning compilers, on Apache TVM.

This file runs before anything else of the package, and does two things that cannot wait.

It sets the thread count, which TVM, NumPy and torch each read once, when they are loaded.

And when a lesson file is what was started, as `python -m tvm_practice.te_basics` or as a script, it
hands the run to `main`. A lesson file holds a lesson and nothing else; it may also hold a learner's
half-written answer, with a syntax error or an endless loop in it. So it is never run in this
process: `main` has it graded in processes of their own.
"""

import sys
from pathlib import Path

from tvm_practice.common.exercise import PHASES
from tvm_practice.common.target import set_thread_environment


def _lesson_started() -> str | None:
    """The phase that this Python process was started to run, if it is one."""
    if sys.argv[:1] == ["-m"]:  # what Python puts there until it has found the module
        options = sys.orig_argv[1:]
        module = next(
            (options[n + 1] if option == "-m" else option[2:])
            for n, option in enumerate(options)
            if option.startswith("-m")
        )
        package, _, name = module.rpartition(".")
        return name if package == __name__ and name in PHASES else None
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    inside = script.is_file() and script.resolve().parent == Path(__file__).resolve().parent
    return script.stem if inside and script.stem in PHASES else None


set_thread_environment()

if (_phase := _lesson_started()) is not None:
    from tvm_practice.main import run_phase_from_command_line

    sys.exit(run_phase_from_command_line(_phase))
