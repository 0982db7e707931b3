"""Questions to the person at the terminal. Enter skips each; in a pipe or in CI none is asked."""

from __future__ import annotations

import os
import re
import sys

VARIABLE = "TVM_PRACTICE_ASK"  # 0: never, though at a terminal


def at_a_terminal() -> bool:
    """Whether there is somebody to ask: both ends are a terminal, and nobody said no."""
    wanted = os.environ.get(VARIABLE, "1") != "0" and "CI" not in os.environ
    return wanted and sys.stdin.isatty() and sys.stdout.isatty()


def line(prompt: str, form: str = ".*") -> str:
    """What was typed, "" for Enter or the end of input. What has another form (a regular
    expression) is asked for again."""
    while True:
        try:
            typed = "".join(filter(str.isprintable, input(f"  {prompt}"))).strip()
        except EOFError:
            print()
            return ""
        if not typed or re.fullmatch(form, typed):
            return typed
        print("  That is no answer to this; Enter skips it.")
