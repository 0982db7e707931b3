"""What an old TVM script needs today, line by line: `tvm-practice translate FILE`.

The script is read, never run. Its syntax tree says which module a name was imported from and what
was assigned to a variable, so `s[C].tile(...)` is told from another object's `tile`. A file that
Python cannot read any more is searched line by line instead. What the table does not know, the
installed TVM is asked about.

Exit status: 0 when nothing old is found, 1 when something is, 2 when the file cannot be read.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from tvm_practice.common import old_names, worker
from tvm_practice.common.old_names import KEYWORD, LETTERS, SCHEDULES, Row, Spelling, find, full

NOTHING_OLD, OLD_FOUND, COULD_NOT_RUN = 0, 1, 2
WHERE = "From classic TVM to 0.27"

# Methods that nothing but the object of their letter has, so that it need not be known. What is not
# here is looked for only in variables that were assigned from something known.
DISTINCT = {
    **dict.fromkeys(("get_block", "set_axis_separator"), "sch"),
    **dict.fromkeys(("cache_write", "cache_read", "create_group", "rfactor"), "s"),
    **dict.fromkeys(("asnumpy",), "a"),
    **dict.fromkeys(("entry_name", "imported_modules"), "f"),
    **dict.fromkeys(("define_split", "define_knob", "define_annotate", "define_reorder"), "cfg"),
    **dict.fromkeys(("add_flop",), "cfg"),
    **dict.fromkeys(("apply_best", "print_best", "compute_dag"), "task"),
    **dict.fromkeys(("set_input", "get_output"), "m"),
}
LONGEST = 10_000  # characters of a row in a pipe
PACKAGES = ("tvm", "topi", "nnvm", "vta")  # that a script imports who uses an old TVM or today's
STAGE = {
    *("tile", "vectorize", "parallel", "unroll", "bind", "tensorize", "pragma", "reorder", "fuse"),
    *("compute_at", "compute_inline", "compute_root", "double_buffer", "storage_align", "prefetch"),
    *("set_scope", "set_store_predicate", "rolling_buffer", "env_threads"),
}


@dataclass(frozen=True)
class Found:
    """Something old in a script: where it stands, how it is written there, and the row about it;
    `better` are better lines than the row's, if there are any. Without a row, the installed TVM
    lacks the name, and nobody knows more."""

    number: int
    column: int
    text: str
    row: Row | None
    better: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        return self.better or (self.row.lines if self.row and self.row.new != "none" else ())


# --------------------------------------------------------------------------------- reading a script


class Reader(ast.NodeVisitor):
    """Collects the old names of a script.

    `known` holds what a variable stands for: the full name of a module or function, or a letter of
    old_names.toml behind a "=" (`=s` for a schedule).
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.found: list[Found] = []
        self.unsure: dict[str, tuple[int, int, str]] = {}  # names that only the TVM can tell about
        self.uses_tvm = False
        self.shift = 0  # the number of lines above what is being read

    # what is imported

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.uses_tvm |= alias.name.split(".")[0] in PACKAGES
            self._name(alias, alias.name, alias.name)
            if alias.asname:
                self.known[alias.asname] = alias.name
            else:
                root = alias.name.split(".")[0]
                self.known[root] = root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        self.uses_tvm |= module.split(".")[0] in PACKAGES and not node.level
        for alias in node.names:
            name = f"{module}.{alias.name}" if not node.level else f".{module}.{alias.name}"
            if alias.name == "*":
                name = module
            self._name(alias, name, name)
            self.known[alias.asname or alias.name] = name

    # what is assigned

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._assign(target, node.value)
            if not isinstance(target, ast.Name | ast.Tuple | ast.List):
                self.visit(target)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self._assign(item.optional_vars, item.context_expr)
        for statement in node.body:
            self.visit(statement)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._assign(node.target, None)
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        outside = dict(self.known)
        self.known[node.name] = "."
        arguments = node.args
        for default in [*arguments.defaults, *(d for d in arguments.kw_defaults if d)]:
            self.visit(default)
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            self.known.pop(argument.arg, None)
            if argument.annotation is not None:
                self.visit(argument.annotation)
        for statement in node.body:
            self.visit(statement)
        self.known = outside | {node.name: "."}

    visit_AsyncFunctionDef = visit_FunctionDef

    def _assign(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                for one, its in zip(target.elts, value.elts, strict=True):
                    self._assign(one, its)
                return
            makes = self._makes(value)
            for place, one in enumerate(target.elts):
                if isinstance(one, ast.Name):
                    letter = makes[place] if place < len(makes) else ""
                    self._remember(one.id, letter if letter in LETTERS else "")
                else:
                    self._assign(one, None)
        elif isinstance(target, ast.Name):
            if isinstance(value, ast.Name | ast.Attribute) and (same := self._resolved(value)):
                self.known[target.id] = same
            else:
                makes = self._makes(value)
                self._remember(target.id, makes[0] if makes else "")

    def _remember(self, name: str, letter: str) -> None:
        self.known[name] = f"={letter}" if letter else "."

    def _makes(self, value: ast.expr | None) -> tuple[str, ...]:
        """The letters of what an expression returns."""
        if isinstance(value, ast.Subscript) and self._resolved(value.value) == "=s":
            return ("s[C]",)
        if not isinstance(value, ast.Call):
            return ()
        name = self._resolved(value.func)
        row = find(Spelling(name.removeprefix("="), old_names.details_of(value))) if name else None
        return row.makes if row else ()

    # what is used

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(node, node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._use(node, node)

    def visit_Name(self, node: ast.Name) -> None:
        self._use(node, node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute | ast.Name):
            self._use(node.func, node)
        else:
            self.visit(node.func)
        for argument in [*node.args, *(word.value for word in node.keywords)]:
            self.visit(argument)
        name = self._resolved(node.func) or ""
        if name.rpartition(".")[2] in ("PassContext", "build_config"):
            self._settings(node)
        if re.match(r"tvm\.|topi\.|=", name):
            for word in node.keywords:
                if row := find(Spelling(f"{KEYWORD}.{word.arg}")):
                    self._add(word.value, f"{word.arg}=", row)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._target(node, node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = [
            str(part.value)
            if isinstance(part, ast.Constant)
            else "{" + ast.unparse(part.value) + "}"
            for part in node.values
        ]
        self._target(node, "".join(parts), formatted=True)
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.visit(node.value)

    def _use(self, node: ast.expr, whole: ast.expr) -> None:
        """A name, or a chain of attributes, that may be old; then what stands in its brackets."""
        name = self._resolved(node)
        if name is not None:
            letter = name.startswith("=")
            self._name(node, name.removeprefix("="), ast.unparse(node), whole, letter)
        self._inside(node)

    def _inside(self, node: ast.expr) -> None:
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Subscript):
                self.visit(node.slice)
                node = node.value
            elif isinstance(node, ast.Attribute):
                node = node.value
            else:
                self.visit(node)
                return

    def _resolved(self, node: ast.expr) -> str | None:
        """The full name that a chain stands for, or "=" and its letter with what follows."""
        chain = old_names.chain_of(node) if _plain(node) else None
        if chain is None:
            return self._distinct(node)
        root, rest = re.fullmatch(r"(\w+)(.*)", chain).groups()  # type: ignore[union-attr]
        stands_for = self.known.get(root)
        if stands_for is None or stands_for == ".":
            return self._distinct(node)
        if not stands_for.startswith("="):
            return None if "[C]" in rest and not rest.startswith(".") else full(stands_for + rest)
        if stands_for == "=s" and not rest.startswith("[C]"):
            rest = "" if rest.startswith(".op") else rest
        return f"{stands_for}{rest}" if rest else stands_for

    def _distinct(self, node: ast.expr) -> str | None:
        """The same for an object that nobody knows, by its method."""
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            node = node.value  # C.op.axis[0]
        if not isinstance(node, ast.Attribute) or not self.uses_tvm:
            return None
        inner = node
        names = [node.attr]
        while isinstance(inner.value, ast.Attribute):
            inner = inner.value
            names.append(inner.attr)
        base = inner.value
        if names[-1] == "op" and len(names) > 1 and names[-2] in ("axis", "reduce_axis"):
            return "=s[C].op.axis"  # of a tensor, as s[C].tile(C.op.axis[0], ...) has it
        if isinstance(base, ast.Subscript) and isinstance(base.value, ast.Name):
            named = base.value.id in SCHEDULES
            unknown = self.known.get(base.value.id) is None
            if unknown and (names[-1] in STAGE or (named and names[-1] in ("split", "op"))):
                return "=s[C]." + ".".join(reversed(names))
        if (letter := DISTINCT.get(node.attr)) is None:
            return None
        if letter == "s" and not (
            isinstance(node.value, ast.Name)
            and node.value.id in SCHEDULES - {"sch"}
            and self.known.get(node.value.id) is None
        ):
            return None
        return f"={letter}.{node.attr}"

    # what is found

    def _name(
        self,
        node: ast.AST,
        name: str,
        text: str,
        whole: ast.expr | None = None,
        letter: bool = False,
    ) -> None:
        details = old_names.details_of(whole) if whole is not None else frozenset()
        row = find(Spelling(name, details))
        if row is not None:
            if not letter or _worth_it(name):
                self._add(node, text, row, row.lines_of(name) if row.new != "none" else ())
        elif not letter and re.match(r"tvm\.|T\.", name):
            place = (node.lineno + self.shift, node.col_offset, text)  # type: ignore[attr-defined]
            self.unsure.setdefault(name, place)

    def _add(self, node: ast.AST, text: str, row: Row, better: tuple[str, ...] = ()) -> None:
        # An attribute stands where it ends: its `s[C]` may be lines above.
        number = node.end_lineno if isinstance(node, ast.Attribute) else node.lineno  # type: ignore[attr-defined]
        self.found.append(Found(number + self.shift, node.col_offset, text, row, better))  # type: ignore[attr-defined]

    def _target(self, node: ast.expr, text: str, formatted: bool = False) -> None:
        if (spelling := old_names.target_spelling(text)) and (row := find(spelling)):
            line = old_names.target_line(text) or ""
            if formatted:
                line = re.sub(r'"(?=[^"]*\{)', 'f"', line)
                line = re.sub(r'f"\{([\w.]+)\}"', r"\1", line)
            self._add(node, f'{"f" * formatted}"{text}"', row, (line,) if line else ())

    def _settings(self, node: ast.Call) -> None:
        for word in node.keywords:
            if word.arg == "config" and isinstance(word.value, ast.Dict):
                for key in word.value.keys:
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        row = find(Spelling(f"config.{key.value}"))
                        if row is not None:
                            self._add(key, f'"{key.value}"', row)


def _plain(node: ast.expr) -> bool:
    """Whether a chain holds no calls: what a call returns is another object."""
    while not isinstance(node, ast.Name):
        if not isinstance(node, ast.Attribute | ast.Subscript):
            return False
        node = node.value
    return True


def _worth_it(name: str) -> bool:
    """A schedule in brackets alone, `s[C]`, is said only where nothing more special is."""
    return name not in LETTERS


def read(source: str) -> tuple[Reader, str]:
    """The old names of a script, and why it was read line by line, if it was."""
    reader = Reader()
    try:
        reader.visit(ast.parse(source))
        return reader, ""
    except (SyntaxError, ValueError) as error:
        number = getattr(error, "lineno", None)
        why = f"line {number}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
    for number, line in enumerate(source.splitlines()):
        reader.shift = number
        for piece in _pieces(line):
            reader.visit(piece)
    return reader, why


_CHAIN = re.compile(r"[A-Za-z_]\w*(?:\[[^\[\]]*\]|\.[A-Za-z_]\w*)*")
_STRING = re.compile(r"\"([^\"\\]*)\"|'([^'\\]*)'")


def _pieces(line: str) -> list[ast.AST]:
    """A line of a script that as a whole cannot be read: as a statement, else its names."""
    text = line.strip()
    for attempt in (text, f"{text}\n    pass", text.rstrip("([{,")):
        try:
            return list(ast.parse(attempt).body)
        except (SyntaxError, ValueError):
            continue
    text = re.sub(r"#.*", "", text)
    strings = [ast.Constant(a or b) for a, b in _STRING.findall(text)]
    found: list[ast.AST] = []
    for chain in _CHAIN.findall(_STRING.sub("", text)):
        try:
            found += ast.parse(chain).body
        except SyntaxError:
            continue
    for node in strings:
        node.lineno = node.end_lineno = 1
        node.col_offset = 0
    return [*found, *strings]


def translate(source: str) -> tuple[list[Found], str]:
    """What is old in a script, in its order, and why it was read line by line, if it was."""
    reader, why = read(source)
    found = reader.found
    if reader.unsure:
        for name in worker.call(missing, list(reader.unsure)):
            found.append(Found(*reader.unsure[name], None))
    kept: dict[tuple, Found] = {}
    for one in sorted(found, key=lambda one: (one.number, one.column)):
        # One row is said once of a line; but of two modules that are imported, each is said.
        text = one.text if one.row is None or one.text.startswith("tvm.") else ""
        kept.setdefault((one.number, one.row, one.better, text), one)
    return _without_the_general(list(kept.values())), why


def _without_the_general(found: list[Found]) -> list[Found]:
    """`s[C]` alone is not said of a line that does something with a stage, as compute_at does."""
    stages = {one.number for one in found if re.search(r"\]\.\w", one.text)}
    general = find(Spelling("s[C]"))
    return [one for one in found if one.row is not general or one.number not in stages]


def missing(names: Iterable[str]) -> list[str]:
    """Which of these names the installed TVM does not have. Imports TVM: to be called in a
    worker."""
    return [name for name in names if not _exists(name)]


def _exists(name: str) -> bool:
    import importlib

    parts = re.sub(r"^T\.", "tvm.script.tirx.", name).split(".")
    value = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], 2):
        part = part.replace("[C]", "")
        if hasattr(value, part):
            value = getattr(value, part)
            continue
        if not hasattr(value, "__path__"):
            return not hasattr(value, "__name__") or not isinstance(value, type(ast))
        try:
            if find_spec(".".join(parts[:number])) is None:
                return False
            value = importlib.import_module(".".join(parts[:number]))
        except Exception:  # it is there, but wants a package that is not
            return True
    return True


# ------------------------------------------------------------------------------------ command line


class CannotRead(click.ClickException):
    exit_code = COULD_NOT_RUN


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise CannotRead(f"{path} is a folder; give one Python file.") from None
    except OSError as error:
        raise CannotRead(f"{path} cannot be read: {error.strerror}.") from None
    if path.suffix == ".ipynb":
        raise CannotRead(
            f"{path} is a notebook; `jupyter nbconvert --to script {path}` makes a script of it."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise CannotRead(f"{path} is no text file.")
    return text


@click.command(name="translate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON, for a program.")
def command(file: Path, as_json: bool) -> None:
    """List what an old TVM script needs today, line by line. The script is not run.

    \b
    Example:
        tvm-practice translate tune_conv2d.py

    Exit status: 0 when nothing old is found, 1 when something is, 2 when FILE cannot be read.
    """
    source = _read(file)
    try:
        found, why = translate(source)
    except RecursionError:
        raise CannotRead(f"{file} nests too deeply to be read.") from None
    except worker.WorkerFailed as error:
        raise CannotRead(f"TVM cannot be asked about names of {file}: {error}") from None
    if as_json:
        click.echo(json.dumps(_as_json(file, found, why), indent=2))
    else:
        _show(file, found, why)
    raise SystemExit(OLD_FOUND if found else NOTHING_OLD)


def _as_json(file: Path, found: list[Found], why: str) -> dict:
    return {
        "file": str(file),
        "read_line_by_line_because": why or None,
        "found": [
            {
                "line": one.number,
                "old": one.text,
                "today": _today(one),
                "write": list(one.lines),
                "remark": one.row.remark if one.row else "",
            }
            for one in found
        ],
        "imports": old_names.imports(line for one in found for line in one.lines),
    }


def _today(one: Found) -> str:
    if one.row is None:
        return "not in this TVM"
    return old_names.called(one.lines) or one.row.new


def _show(file: Path, found: list[Found], why: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from tvm_practice.common import show

    if why:
        show.line(
            f"Python cannot read {file} ({why}), so each line was searched by itself; what a "
            "variable holds is then often unknown.",
            "yellow",
        )
    if not found:
        show.line(f"{file}: nothing in it is of an older TVM.")
        return
    # A terminal's columns share its width. In a pipe nothing is folded, as nowhere in the course:
    # code that breaks in the middle cannot be searched for or copied.
    shares, width = ((3, 3, 5), None) if show.console.is_terminal else ((None, None, 1), LONGEST)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=True, width=width)
    table.add_column("line", justify="right")
    for name, share in zip(("in the script", "today", "write"), shares, strict=True):
        table.add_column(name, overflow="fold", ratio=share)
    told: list[Row | None] = []  # a remark is made once
    for one in found:
        written = Text("\n".join(one.lines))
        remark = one.row.remark if one.row and one.row not in told else ""
        if remark and not one.text.endswith('"'):  # of a target string, the line says it all
            written.append(("\n" if one.lines else "") + remark, style="dim")
        elif one.row is None:
            written.append("the table has no successor for it", style="dim")
        told.append(one.row)
        table.add_row(str(one.number), Text(one.text), Text(_today(one)), written)
    show.console.print(table, crop=False)
    rows = len({one.number for one in found})
    show.line(f"\n{len(found)} old names in {rows} lines of {file}. The lines of today need")
    show.code("\n".join(old_names.imports(line for one in found for line in one.lines)))
    show.line(f'LEARNING_GUIDE.md, "{WHERE}", says what sch, ex, mod and the others stand for.')


if __name__ == "__main__":
    # The worker imports `missing` by the module's own name, which "__main__" is not.
    from tvm_practice.translate import command as translate_command

    translate_command(prog_name="python -m tvm_practice.translate")
