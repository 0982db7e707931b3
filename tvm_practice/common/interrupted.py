"""Ctrl-C while a command is still being loaded, before it can take it: one line and the status of
what was interrupted, as from then on, and no trace of Python's. To be imported before all else.

Only where a command of the course was started: whoever imports the package keeps their Python.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from types import TracebackType

from tvm_practice.common.status import INTERRUPTED

PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    with suppress(OSError):
        sys.stderr.write("\nInterrupted.\n")
        sys.stderr.flush()
    os._exit(INTERRUPTED)  # Python would end itself by the signal


def _command_started() -> bool:
    started = sys.argv[0] if sys.argv else ""
    name = os.path.basename(started)
    return (
        started == "-m"  # what Python puts there until it has found the module
        or name == "tvm-practice"
        or os.path.realpath(started).startswith(PACKAGE + os.sep)
    )


if _command_started():
    sys.excepthook = _told
