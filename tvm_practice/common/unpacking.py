"""What an assignment to too few or too many names should have been told: how many values there are,
and, where they are loops, which."""

from __future__ import annotations

import ast
import linecache
import re
import traceback
from contextlib import suppress
from types import FrameType
from typing import Any

_SAID = re.compile(
    r"(?:too many|not enough) values to unpack "
    r"\(expected (?P<least>at least )?(?P<names>\d+)(?:, got (?P<values>\d+))?\)"
)
_LOOKS = ("get_loops", "get_sblock")  # what may be called once more, because it changes nothing


def about(error: BaseException) -> str | None:
    """A sentence about an unpacking that failed; None if an exception is about something else."""
    said = _SAID.match(str(error)) if type(error) is ValueError else None
    if said is None or error.__traceback__ is None:
        return None
    names = int(said["names"])
    left = f"{said['least'] or ''}{names} name{'s' if names != 1 else ''}"
    frame, number = list(traceback.walk_tb(error.__traceback__))[-1]
    right = _unpacked(linecache.getline(frame.f_code.co_filename, number))
    values = _again(right, frame)
    if values is not None:
        names_of_loops = _loops(values, frame)
        count = f"{len(values)} {'loop' if names_of_loops else 'value'}{'s'[: len(values) != 1]}"
        which = f": {', '.join(names_of_loops)}" if names_of_loops else ""
        return f"{left} on the left, and on the right {count}{which}."
    if isinstance(right, ast.Call) and (listed := _list_in(right)) is not None:
        return (
            f"{left} on the left, and {ast.unparse(right.func)} makes {len(listed.elts)} loops, "
            "one for each place in its list."
        )
    if said["values"]:
        return f"{left} on the left, and on the right {said['values']}."
    return f"{left} on the left, and more than that on the right."


def _unpacked(line: str) -> ast.expr | None:
    """The right side of a line that unpacks; None if it is none, or goes over several lines."""
    with suppress(SyntaxError):
        statement = ast.parse(line.strip()).body[0]
        if isinstance(statement, ast.Assign):
            return statement.value
    return None


def _again(right: ast.expr | None, frame: FrameType) -> list | tuple | None:
    """What stands on the right, looked up a second time; None where that could change something."""
    known = (ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.Call, ast.UnaryOp)
    for node in ast.walk(right) if right is not None else ():
        looks = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node, ast.Call) and not (looks and node.func.attr in _LOOKS):  # type: ignore[attr-defined]
            return None
        if isinstance(node, ast.expr) and not isinstance(node, known):
            return None
    if right is None:
        return None
    with suppress(Exception):
        code = compile(ast.Expression(right), "", "eval")
        values = eval(code, frame.f_globals, dict(frame.f_locals))
        if isinstance(values, list | tuple):
            return values
    return None


def _loops(values: list | tuple, frame: FrameType) -> list[str]:
    """The names of loops; none if the values are anything else, or no longer there."""
    if not values or any(type(one).__name__ != "LoopRV" for one in values):
        return []
    for sch in frame.f_locals.values():
        if type(sch).__name__ == "Schedule":
            with suppress(Exception):
                return [_name(sch, one) for one in values]
    return []


def _name(sch: Any, loop: Any) -> str:
    return str(sch.get(loop).loop_var.name)


def _list_in(call: ast.Call) -> ast.List | None:
    """The list of factors of a split, where it is written down in the call."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "split":
        return None
    given = [*call.args, *(word.value for word in call.keywords)]
    lists = [one for one in given if isinstance(one, ast.List)]
    starred = any(isinstance(one, ast.Starred) for found in lists for one in found.elts)
    return lists[0] if len(lists) == 1 and not starred else None
