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
    right = _unpacked(linecache.getline(frame.f_code.co_filename, number), names)
    values = _again(right, frame)
    if values is not None and len(values) != names:
        loops = _loops(values, frame)
        count = f"{len(values)} {'loop' if loops else 'value'}{'s'[: len(values) != 1]}"
        return (
            f"{left} on the left, and on the right {count}{': ' * bool(loops)}{', '.join(loops)}."
        )
    factors = _factors_of_split(right, frame)
    if factors is not None and len(factors) != names:
        return (
            f"{left} on the left, and {ast.unparse(right.func)} makes {len(factors)} loops, "  # type: ignore[union-attr]
            "one for each place in its list."
        )
    if said["values"]:
        return f"{left} on the left, and on the right {said['values']}."
    return f"{left} on the left, and more than that on the right."


def _unpacked(line: str, names: int) -> ast.expr | None:
    """The right side of a line that unpacks to so many plain names, and does nothing else; None if
    it is another one, or goes over several lines."""
    with suppress(SyntaxError):
        match ast.parse(line.strip()).body:
            case [ast.Assign(targets=[ast.Tuple(elts=left) | ast.List(elts=left)], value=right)]:
                if len(left) == names and all(isinstance(one, ast.Name) for one in left):
                    return right
    return None


def _again(right: ast.expr | None, frame: FrameType) -> list | tuple | None:
    """What stands on the right, looked up a second time: a name, a slice of it, or the loops of a
    block. None for everything else, which could change something."""
    known = (ast.Name, ast.Subscript, ast.Slice, ast.Constant, ast.UnaryOp)
    calls = [node for node in ast.walk(right) if isinstance(node, ast.Call)] if right else []
    looks = [call.func for call in calls if _method(call, frame) in _LOOKS]
    if right is None or len(looks) < len(calls):
        return None
    others = [one for one in ast.walk(right) if isinstance(one, ast.expr)]
    if any(not isinstance(one, known) and one not in (*calls, *looks) for one in others):
        return None
    with suppress(Exception):
        code = compile(ast.Expression(right), "", "eval")
        values = eval(code, frame.f_globals, dict(frame.f_locals))
        if isinstance(values, list | tuple):
            return values
    return None


def _method(call: ast.Call, frame: FrameType) -> str | None:
    """The method of a schedule that a call calls; None if it is one of anything else."""
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr=method):
            if type(frame.f_locals.get(name)).__name__ == "Schedule":
                return method
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


def _factors_of_split(right: ast.expr | None, frame: FrameType) -> list[ast.expr] | None:
    """The factors of a split, where they are written down in the call."""
    if not isinstance(right, ast.Call) or _method(right, frame) != "split":
        return None
    given = [*right.args, *(word.value for word in right.keywords)]
    lists = [one.elts for one in given if isinstance(one, ast.List)]
    if len(lists) != 1 or any(isinstance(one, ast.Starred) for one in lists[0]):
        return None
    return lists[0]
