"""A TensorIR function as the memory accesses that it makes: loops around reads and writes, as plain
data.

The page runs it to animate a schedule, Python to count the misses; both get the same order of
accesses. Nothing is computed, so a value is only the reads in it. A check asks which iteration
wrote an element that is wrong.

A program is a list of nodes:

    ["for", v, n, body]            variable number v from 0 to n - 1
    ["if", condition, body, else]
    ["r", buffer, offset]          read element `offset` of a buffer, counted row by row
    ["w", buffer, offset]          write it

An expression is a number, a variable as ["v", v], or [operator, left, right] with one of OPERATORS.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm import ir, tirx

Node = list[Any]

OPERATORS = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "FloorDiv": "//",
    "FloorMod": "%",
    "Min": "min",
    "Max": "max",
    "LT": "<",
    "LE": "<=",
    "GT": ">",
    "GE": ">=",
    "EQ": "==",
    "NE": "!=",
    "And": "and",
    "Or": "or",
}
MOST_BUFFERS = 16  # of one program, with which an access fits into one number


@dataclass(frozen=True)
class Buffer:
    """registers: it is kept in registers, so that an access to it is none to memory."""

    name: str
    shape: tuple[int, ...]
    registers: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Program:
    """loops: the loops' names by the number of their variable, in the order of the printed nest."""

    buffers: tuple[Buffer, ...]
    loops: tuple[str, ...]
    body: list[Node]


def accesses(function: tirx.PrimFunc) -> Program:
    """Read a PrimFunc whose body still holds sblocks. Needs TVM; runs in a worker."""
    return _Reader(function).program()


class _Reader:
    def __init__(self, function: tirx.PrimFunc) -> None:
        from tvm.sym import Analyzer

        self.analyzer = Analyzer()
        self.function = function
        self.buffers: dict[Any, Buffer] = {}
        self.numbers: dict[Any, int] = {}
        self.loops: list[str] = []
        for parameter in function.params:
            self._declare(
                parameter if hasattr(parameter, "shape") else function.buffer_map[parameter]
            )

    def program(self) -> Program:
        body = self._body(self.function.body, {})
        return Program(tuple(self.buffers.values()), tuple(self.loops), body)

    def _declare(self, buffer: Any) -> None:
        shape = tuple(int(side) for side in buffer.shape)
        registers = buffer.scope() == "local"
        self.buffers[buffer] = Buffer(str(buffer.name), shape, registers)
        if len(self.buffers) > MOST_BUFFERS:
            raise ValueError("the program has too many buffers to be drawn")

    def _body(self, statement: Any, values: dict) -> list[Node]:
        return list(self._nodes(statement, values))

    def _nodes(self, statement: Any, values: dict) -> Iterator[Node]:
        kind = type(statement).__name__
        if kind == "For":
            number = self.numbers[statement.loop_var] = len(self.loops)
            self.loops.append(str(statement.loop_var.name))
            from tvm import ir

            self.analyzer.bind(
                statement.loop_var, ir.Range.from_min_extent(statement.min, statement.extent)
            )
            assert int(statement.min) == 0
            yield ["for", number, int(statement.extent), self._body(statement.body, values)]
        elif kind == "SeqStmt":
            for child in statement.seq:
                yield from self._nodes(child, values)
        elif kind == "SBlockRealize":
            yield from self._block(statement, values)
        elif kind == "BufferStore":
            reads = dict.fromkeys(map(json.dumps, self._reads(statement.value, values)))
            yield from map(json.loads, reads)  # an element read twice in a statement is read once
            offset = self._offset(statement.buffer, statement.indices, values)
            yield ["w", self._number(statement.buffer), offset]
        else:
            raise ValueError(f"a {kind} cannot be drawn")

    def _block(self, realize: Any, values: dict) -> Iterator[Node]:
        from tvm import tirx

        block = realize.block
        for buffer in block.alloc_buffers:
            self._declare(buffer)
        bound = {
            axis.var: self._plain(value, values)
            for axis, value in zip(block.iter_vars, realize.iter_values, strict=True)
        }
        values = {**values, **bound}
        inside = []
        if block.init is not None:
            first: Any = 1
            for axis in block.iter_vars:
                if axis.iter_type == tirx.IterVar.CommReduce:
                    is_zero = ["==", self._expression(bound[axis.var]), 0]
                    first = is_zero if first == 1 else ["and", first, is_zero]
            inside.append(["if", first, self._body(block.init, values), []])
        inside += self._body(block.body, values)
        guard = self._expression(self._plain(realize.predicate, values))
        yield from inside if guard == 1 else [["if", guard, inside, []]]

    def _reads(self, value: Any, values: dict) -> Iterator[Node]:
        kind = type(value).__name__
        if kind == "TensorLoad":
            offset = self._offset(value.source, value.indices, values)
            yield ["r", self._number(value.source), offset]
        elif kind == "Call" and str(value.op.name).endswith("if_then_else"):
            condition, then, other = value.args
            branches = [list(self._reads(one, values)) for one in (then, other)]
            if any(branches):
                yield ["if", self._expression(self._plain(condition, values)), *branches]
        else:
            for child in _children(value):
                yield from self._reads(child, values)

    def _number(self, buffer: Any) -> int:
        return list(self.buffers).index(buffer)

    def _offset(self, buffer: Any, indices: Any, values: dict) -> Any:
        offset: Any = 0
        for index, side in zip(indices, buffer.shape, strict=True):
            offset = offset * int(side) + index
        return self._expression(self._plain(offset, values))

    def _plain(self, expression: Any, values: dict) -> Any:
        import tvm_ffi
        from tvm import tirx

        if isinstance(expression, int):
            return expression
        return self.analyzer.simplify(
            tvm_ffi.structural_map(expression, (tirx.Var, lambda one: values.get(one, one)))
        )

    def _expression(self, expression: Any) -> Any:
        kind = type(expression).__name__
        if isinstance(expression, int) or kind == "IntImm":
            return int(expression)
        if kind == "Var" or expression in self.numbers:
            return ["v", self.numbers[expression]]
        if kind == "Cast":
            return self._expression(expression.value)
        if kind == "Not":
            return ["==", self._expression(expression.a), 0]
        if kind in OPERATORS:
            return [
                OPERATORS[kind],
                self._expression(expression.a),
                self._expression(expression.b),
            ]
        if kind == "Call" and len(expression.args) == 2:
            name = str(expression.op.name).rpartition(".")[2]
            operator = {"shift_right": "//", "shift_left": "*"}.get(name)
            if operator and hasattr(expression.args[1], "value"):
                left, right = expression.args
                return [operator, self._expression(left), 1 << int(right)]
        raise ValueError(f"an index with {expression} cannot be drawn")


def _children(value: Any) -> Iterator[Any]:
    for name in ("a", "b", "value", "condition", "true_value", "false_value"):
        if hasattr(value, name) and not isinstance(getattr(value, name), int | float | str):
            yield getattr(value, name)
    yield from getattr(value, "args", ())


# -------------------------------------------------------------------------------------- the program


def trace(program: Program) -> array:
    """Every access to memory in its order, as (offset * MOST_BUFFERS + buffer) * 2 + (1 for a
    write). What is kept in registers is left out."""
    lines = ["def run(out):"]

    def text(expression: Any) -> str:
        match expression:
            case int():
                return str(expression)
            case ["v", number]:
                return f"v{number}"
            case ["min" | "max" as name, left, right]:
                return f"{name}({text(left)}, {text(right)})"
            case [operator, left, right]:
                return f"({text(left)} {operator} {text(right)})"
        raise ValueError(expression)

    def write(nodes: Sequence[Node], depth: int) -> None:
        lines.append("    " * depth + "pass")
        for node in nodes:
            match node:
                case ["for", number, extent, body]:
                    lines.append("    " * depth + f"for v{number} in range({extent}):")
                    write(body, depth + 1)
                case ["if", condition, body, other]:
                    lines.append("    " * depth + f"if {text(condition)}:")
                    write(body, depth + 1)
                    lines.append("    " * depth + "else:")
                    write(other, depth + 1)
                case [way, buffer, offset]:
                    if program.buffers[buffer].registers:
                        continue
                    tail = f"* {2 * MOST_BUFFERS} + {2 * buffer + (way == 'w')}"
                    lines.append("    " * depth + f"out({text(offset)} {tail})")

    write(program.body, 1)
    found = array("Q")
    defined: dict[str, Any] = {}
    exec("\n".join(lines), defined)
    defined["run"](found.append)
    return found


# ------------------------------------------------------------------------ who wrote an element last


def written(function: tirx.PrimFunc | ir.IRModule, name: str, where: Sequence[int]) -> str:
    """Which iteration of a scheduled function (or a module's "main") wrote an element last, as a
    sentence; "" where it cannot be read as accesses."""
    from tvm import ir

    try:
        main = function["main"] if isinstance(function, ir.IRModule) else function
        found = last_write(accesses(main), name, where)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
        return ""
    if found is None:
        return f"No iteration writes {name}[{', '.join(map(str, where))}]."
    at = ", ".join(f"{loop} = {value}" for loop, value in found)
    return f"It was last written at {at}." if at else ""


def last_write(program: Program, name: str, where: Sequence[int]) -> list[tuple[str, int]] | None:
    """The loops, outermost first, with their values at the last write to an element; None if
    nothing writes it.

    Searched from the end. Bounds of the offsets tell which iterations cannot be it, whatever the
    loops inside of them do, so that few are tried.
    """
    number = [one.name for one in program.buffers].index(name)
    wanted = 0
    for index, side in zip(where, program.buffers[number].shape, strict=True):
        wanted = wanted * side + index
    ranges: dict[int, tuple[int, int]] = {}  # of each loop's variable: its least and largest value

    def may_write(nodes: Sequence[Node]) -> bool:
        for node in nodes:
            match node:
                case ["for", variable, extent, body]:
                    ranges[variable] = (0, extent - 1)
                    if may_write(body):
                        return True
                case ["if", condition, body, other]:
                    surely, maybe = _bounds(condition, ranges)
                    if (maybe and may_write(body)) or (not surely and may_write(other)):
                        return True
                case ["w", buffer, offset] if buffer == number:
                    least, largest = _bounds(offset, ranges)
                    if least <= wanted <= largest:
                        return True
        return False

    def found(nodes: Sequence[Node]) -> list[int] | None:
        for node in reversed(nodes):
            match node:
                case ["for", variable, extent, body]:
                    for value in reversed(range(extent)):
                        ranges[variable] = (value, value)
                        if may_write(body) and (inner := found(body)) is not None:
                            return [variable, *inner]
                case ["if", condition, body, other]:
                    taken = body if _bounds(condition, ranges)[0] else other
                    if (inner := found(taken)) is not None:
                        return inner
                case ["w", buffer, offset]:
                    if buffer == number and _bounds(offset, ranges)[0] == wanted:
                        return []
        return None

    path = found(program.body)
    return path and [(program.loops[variable], ranges[variable][0]) for variable in path]


def _bounds(expression: Any, ranges: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The least and the largest value that an expression may have; exact where every variable in it
    has one value."""
    match expression:
        case int():
            return expression, expression
        case ["v", variable]:
            return ranges[variable]
    operator, (a, b), (c, d) = expression[0], *(_bounds(one, ranges) for one in expression[1:])
    match operator:
        case "+":
            return a + c, b + d
        case "-":
            return a - d, b - c
        case "*":
            products = (a * c, a * d, b * c, b * d)
            return min(products), max(products)
        case "//":  # by a constant, as "%"
            return a // c, b // c
        case "%":
            return (a % c, b % c) if a // c == b // c else (0, c - 1)
        case "min":
            return min(a, c), min(b, d)
        case "max":
            return max(a, c), max(b, d)
        case "<":
            return int(b < c), int(a < d)
        case "<=":
            return int(b <= c), int(a <= d)
        case ">":
            return int(a > d), int(b > c)
        case ">=":
            return int(a >= d), int(b >= c)
        case "==":
            return int(a == b == c == d), int(a <= d and c <= b)
        case "!=":
            return int(b < c or d < a), int(not a == b == c == d)
        case "and":
            return int(bool(a and c)), int(bool(b and d))
        case "or":
            return int(bool(a or c)), int(bool(b or d))
    raise ValueError(expression)
