"""A function in a file of the learner's own, which a command takes as FILE.py:FUNCTION.

Whatever is wrong with it is told in one sentence, which starts with the name of the file and ends
with the way out, or with the line that is to blame. What the function is for, and so what it has to
return, is the affair of the command: `explain` wants a schedule, the lab on deployment a model.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_practice.common.refusal import in_plain_words


class Refused(Exception):
    """What a learner gave cannot be used; the message is a sentence that says why."""


@dataclass(frozen=True)
class OwnFunction:
    """A file that is there, and the name of a function that should be in it."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"


def named(given: str) -> OwnFunction:
    """What FILE.py:FUNCTION names; raises Refused unless there is such a file."""
    file, _, name = given.rpartition(":")
    if not file or not name.isidentifier():
        raise Refused(f"{given} names no function; give a file and a function in it, as mine.py:f.")
    if not Path(file).is_file():
        raise Refused(f"there is no file {file}.")
    if Path(file).suffix != ".py":
        raise Refused(f"{file} is no Python file.")
    return OwnFunction(Path(file).resolve(), name)


def result_of(own: OwnFunction) -> Any:
    """What the function returns, called without arguments; raises Refused where that fails. To be
    called in a worker, because it runs the learner's file."""
    function = _load(own)
    try:
        return function()
    except BaseException as error:  # SystemExit too
        if isinstance(error, TypeError) and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
            raise Refused(
                f"{own} takes arguments; it has to be a function that is called without any."
            ) from None
        raise Refused(f"{own} did not return: {_told(error, own.path)}") from error


def _load(own: OwnFunction) -> Callable[[], Any]:
    path = own.path
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_of_the_learner"
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)  # type: ignore[arg-type]
    sys.modules[name] = module  # as for any import: a class looks for its module there
    sys.path.insert(0, str(path.parent))  # for what lies beside it
    try:
        specification.loader.exec_module(module)  # type: ignore[union-attr]
    except BaseException as error:
        raise Refused(f"{path.name} cannot be loaded: {_told(error, path)}") from error
    function = getattr(module, own.name, None)
    if callable(function):
        return function
    functions = [
        known
        for known, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == name
    ]
    raise Refused(
        f"{path.name} has no function {own.name}; it has {', '.join(functions) or 'none'}."
    )


def _told(error: BaseException, path: Path) -> str:
    """An exception of the learner's code in plain words, with the line of the file it is from."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}, `{(error.text or '').strip()}`: {error.msg}."
    lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == str(path)]
    at = f"line {lines[-1].lineno}, `{lines[-1].line}`: " if lines else ""
    ends = f"{type(error).__name__} ends the program"
    words = in_plain_words(error) if isinstance(error, Exception) else ends
    return f"{at}{words.rstrip('.')}."
