"""A scheduled TensorIR function as plain data: its loops, what they enclose, and one line of text
for each.

`verify` asks it about structure, `show` prints it. It pickles, so a worker process can send it to
the terminal's process, which has no TVM loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm import ir, tirx


@dataclass(frozen=True)
class Loop:
    """One loop. kind is "serial", "parallel", "vectorized", "unrolled" or, for a GPU thread axis,
    its name."""

    name: str
    extent: int | str
    kind: str


@dataclass(frozen=True)
class Block:
    """One sblock: the loops around it, outermost first, and for each of them what it feeds.

    axes: "S" (data parallel), "R" (reduction) or "-" if no index of the block uses the loop.
    feeds: the names of the block's axes that use it, joined by "," if a fused loop feeds several.
    strides: how far apart in `stores_to`, in elements, two consecutive iterations write: 1 for
    neighbours, 0 for a reduction, None where it is not the same for all iterations.
    stores_to, scope: the buffer it writes.
    """

    name: str
    loops: tuple[Loop, ...]
    axes: tuple[str, ...]
    feeds: tuple[str, ...]
    strides: tuple[int | None, ...]
    stores_to: str
    scope: str
    reads: tuple[str, ...]
    has_init: bool
    guarded: bool

    def position(self, axis: str) -> list[int]:
        """Where the loops that feed an axis ("i", "k", ...) stand, 0 being the outermost."""
        return [n for n, feeds in enumerate(self.feeds) if axis in feeds.split(",")]

    def order(self) -> str:
        """The loops' names from the outermost inwards, as a sentence shows them."""
        return ", ".join(loop.name for loop in self.loops)


@dataclass(frozen=True)
class Line:
    """One line of the printed nest."""

    depth: int
    text: str


@dataclass(frozen=True)
class LoopNest:
    """A function's sblocks in program order, its intermediate buffers (name, shape, scope), and its
    text."""

    blocks: tuple[Block, ...]
    buffers: tuple[tuple[str, tuple[int | str, ...], str], ...]
    lines: tuple[Line, ...]

    def block(self, name: str) -> Block | None:
        return next((block for block in self.blocks if block.name == name), None)

    def computing(self, stem: str) -> Block | None:
        """The block that does the work of `stem`: itself, or its update part after
        decompose_reduction."""
        return self.block(stem) or self.block(f"{stem}_update")

    def text(self) -> str:
        return "\n".join("    " * line.depth + line.text for line in self.lines)


HIGHEST_FLOAT32 = "340282346638528859811704183484516925440.0"

_LOOP_WORDS = {0: "serial", 1: "parallel", 2: "vectorized", 3: "unrolled"}


def loop_nest(function: tirx.PrimFunc | ir.IRModule) -> LoopNest:
    """Read a PrimFunc (or a module's "main") whose body still holds sblocks."""
    from tvm import ir

    if isinstance(function, ir.IRModule):
        function = function["main"]
    reader = _Reader()
    reader.visit(function.body, ())
    return LoopNest(tuple(reader.blocks), tuple(reader.buffers), tuple(reader.lines))


class _Reader:
    def __init__(self) -> None:
        from tvm.sym import Analyzer

        self.analyzer = Analyzer()
        self.blocks: list[Block] = []
        self.buffers: list[tuple[str, tuple[int | str, ...], str]] = []
        self.lines: list[Line] = []

    def visit(self, statement, loops: tuple) -> None:
        """`loops` holds (Loop, its variable) from the outermost inwards."""
        kind = type(statement).__name__
        if kind == "For":
            self._loop(statement, loops)
        elif kind == "SeqStmt":
            for child in statement.seq:
                self.visit(child, loops)
        elif kind == "SBlockRealize":
            self._block(statement, loops)
        else:
            self.lines += [
                Line(len(loops), text) for text in _statement_lines(statement, self.analyzer)
            ]

    def _loop(self, statement, loops: tuple) -> None:
        kind = _LOOP_WORDS.get(int(statement.kind), "serial")
        if statement.thread_binding is not None:
            kind = str(statement.thread_binding.thread_tag)
        loop = Loop(statement.loop_var.name, _number(statement.extent), kind)
        self.analyzer.bind(statement.loop_var, _range(statement))
        word = "range" if kind == "serial" else kind
        first = str(statement.min)
        span = loop.extent if first == "0" else f"{first}, {statement.min + statement.extent}"
        self.lines.append(
            Line(len(loops), f"for {loop.name} in {word}({span}):{_asked(statement)}")
        )
        self.visit(statement.body, (*loops, (loop, statement.loop_var)))

    def _block(self, realize, loops: tuple) -> None:
        from tvm import tirx

        block = realize.block
        for buffer in block.alloc_buffers:
            shape = tuple(_number(extent) for extent in buffer.shape)
            self.buffers.append((buffer.name, shape, buffer.scope()))
            where = "" if buffer.scope() in ("", "global") else f" in {buffer.scope()}"
            text = f"allocate {_identifier(buffer.name)}[{', '.join(map(str, shape))}]{where}"
            self.lines.append(Line(len(loops), text))
        if block.name_hint == "root" or not block.iter_vars:
            self.visit(block.body, loops)
            return
        self._record(realize, loops)
        depth = len(loops)
        guard = self._guard(realize)
        if guard:
            self.lines.append(Line(depth, f"if {_plain(guard)}:"))
            depth += 1
        values = dict(zip([axis.var for axis in block.iter_vars], realize.iter_values, strict=True))
        body = _substituted(block.body, values)
        if block.match_buffers and type(block.body).__name__ == "Evaluate":
            self.lines.append(Line(depth, self._instruction(block, values)))
            return
        if block.init is not None:
            reduced = [
                _script(value)
                for axis, value in zip(block.iter_vars, realize.iter_values, strict=True)
                if axis.iter_type == tirx.IterVar.CommReduce
            ]
            first = " and ".join(f"{value} == 0" for value in reduced)
            init = _substituted(block.init, values)
            if _has_structure(init):
                self.lines.append(Line(depth, f"if {first}:"))
                self._inside(init, loops, depth + 1)
            else:
                for text in _statement_lines(init, self.analyzer):
                    self.lines.append(Line(depth, f"if {first}: {text}"))
        if _has_structure(body):
            self._inside(body, loops, depth)
            return
        for text in _statement_lines(body, self.analyzer):
            self.lines.append(Line(depth, text))

    def _inside(self, statement, loops: tuple, depth: int) -> None:
        """The loops inside of a block that was made by blockize: printed, but no blocks of the
        nest's own."""
        reader = _Reader()
        reader.analyzer = self.analyzer
        reader.visit(statement, ())
        self.lines += [Line(depth + line.depth, line.text) for line in reader.lines]

    def _instruction(self, block, values: dict) -> str:
        """A block that is one instruction on tiles, and where the tiles begin."""
        tiles = []
        for match in block.match_buffers:
            begins = [
                _script(self.analyzer.simplify(_substituted(index.min, values)))
                for index in match.source.region
            ]
            tiles.append(f"{_identifier(match.source.source.name)}[{', '.join(begins)}]")
        call = getattr(getattr(block.body, "value", None), "op", None)
        name = str(getattr(call, "name", "instruction")).rpartition(".")[2]
        return f"{name.removeprefix('tvm_')} on the tiles at {', '.join(tiles)}"

    def _record(self, realize, loops: tuple) -> None:
        import tvm_ffi
        from tvm import tirx

        block = realize.block
        used: dict = {}
        fed: dict = {}
        for axis, value in zip(block.iter_vars, realize.iter_values, strict=True):
            letter = "R" if axis.iter_type == tirx.IterVar.CommReduce else "S"

            axis_name = axis.var.name.removeprefix("v_")

            def mark(variable, letter=letter, axis_name=axis_name):
                used[variable] = "R" if letter == "R" else used.get(variable, "S")
                fed.setdefault(variable, []).append(axis_name)

            tvm_ffi.structural_walk(value, (tirx.Var, mark))
        writes = block.writes[0].source if block.writes else None
        values = dict(zip([axis.var for axis in block.iter_vars], realize.iter_values, strict=True))
        self.blocks.append(
            Block(
                name=block.name_hint,
                loops=tuple(loop for loop, _ in loops),
                axes=tuple(used.get(variable, "-") for _, variable in loops),
                feeds=tuple(",".join(fed.get(variable, [])) for _, variable in loops),
                strides=tuple(self._strides(block, values, [variable for _, variable in loops])),
                stores_to=writes.name if writes is not None else "",
                scope=writes.scope() if writes is not None else "",
                reads=tuple(region.source.name for region in block.reads),
                has_init=block.init is not None,
                guarded=bool(self._guard(realize)),
            )
        )

    def _guard(self, realize) -> str:
        """The condition under which a block runs; "" if it always does."""
        always = _plain(_script(self.analyzer.simplify(realize.predicate))) in ("True", "1")
        return "" if always else _script(realize.predicate)

    def _strides(self, block, values: dict, variables: list) -> list[int | None]:
        """By how much one more iteration of each loop moves the address that the block writes."""
        address = 0
        for region in block.writes[:1]:
            for index, size in zip(region.region, region.source.shape, strict=True):
                address = address * size + _substituted(index.min, values)
        if isinstance(address, int):  # a scalar: every iteration writes the same element
            return [0] * len(variables)
        address = self.analyzer.simplify(address)
        strides: list[int | None] = []
        for variable in variables:
            moved = _substituted(address, {variable: variable + 1})
            step = self.analyzer.simplify(moved - address)
            strides.append(int(step) if hasattr(step, "value") else None)
        return strides


def _has_structure(statement) -> bool:
    """Whether a statement inside of a block has loops or blocks of its own."""
    kind = type(statement).__name__
    if kind == "SeqStmt":
        return any(map(_has_structure, statement.seq))
    return kind in ("For", "SBlockRealize")


def _asked(statement) -> str:
    """What a loop's annotations ask of TVM's pipeliner, as a comment."""
    told = [
        f"{str(key).removeprefix('software_pipeline_')} {[int(one) for one in value]}"
        for key, value in sorted(statement.annotations.items())
        if str(key) in ("software_pipeline_stage", "software_pipeline_order")
    ]
    return f"  # pipeline: {', '.join(told)}" if told else ""


def _number(extent) -> int | str:
    """An extent as a number; as text where it is only known when the program runs."""
    return int(extent) if hasattr(extent, "value") else str(extent)


def _range(statement):
    from tvm import ir

    return ir.Range.from_min_extent(statement.min, statement.extent)


def _substituted(statement, values):
    """The statement or expression with the variables in `values` replaced: block axes by the loops
    they are bound to."""
    import tvm_ffi
    from tvm import tirx

    return tvm_ffi.structural_map(
        statement, (tirx.Var, lambda variable: values.get(variable, variable))
    )


def _statement_lines(statement, analyzer) -> list[str]:
    """A statement without loops as lines of text; `x = x + y` is written `x += y`."""
    kind = type(statement).__name__
    if kind == "BufferStore":
        indices = ", ".join(_script(analyzer.simplify(index)) for index in statement.indices)
        target = _plain(f"{_identifier(statement.buffer.name)}[{indices or '()'}]")
        value = _plain(_script(analyzer.simplify(statement.value)))
        if value.startswith(target + " + "):
            return [f"{target} += {value[len(target) + 3 :]}"]
        return [f"{target} = {value}"]
    if kind == "SeqStmt":
        return [line for child in statement.seq for line in _statement_lines(child, analyzer)]
    # Anything rarer is left to TVM's own printer, without the declarations it puts first.
    declaration = rf"\w+ = {_PREFIX}\.(Buffer|u?int\d+)\("
    lines = _script(statement).splitlines()
    return [_plain(line) for line in lines if not re.match(declaration, line)]


def _identifier(name: str) -> str:
    """A buffer's name as TVM's own printer writes it where the buffer is read: "C.rf" is C_rf."""
    return re.sub(r"\W", "_", name)


# What TVM's printer puts before a word of its own. It is "T", or "I", unless told otherwise, and
# then a tensor of that name is printed as T_1.
_PREFIX = "_tir"


def _script(node) -> str:
    """An expression or a statement as TVM's own printer writes it."""
    return node.script(ir_prefix="_ir", extra_config={"tirx.prefix": _PREFIX})


def _plain(text: str) -> str:
    """TVMScript as plain arithmetic: _tir.float32(0.0) is 0.0, _tir.max(a, b) is max(a, b)."""
    text = re.sub(rf"{_PREFIX}\.(?:float|int|uint|bool)\d*\((-?[\w.+-]+)\)", r"\1", text)
    text = re.sub(rf"\b{_PREFIX}\.(?=\w)", "", text).replace(
        f"-{HIGHEST_FLOAT32}", "lowest float32"
    )
    return text.replace(HIGHEST_FLOAT32, "highest float32")
