"""The names of older TVM and what is written today; the data is in old_names.toml.

`about(error)` says what an exception over an old name should have said. The tables of
LEARNING_GUIDE.md are `table(group)`, as tests/test_guides.py insists, and tests/test_old_names.py
executes every line of them.
"""

from __future__ import annotations

import ast
import re
import tomllib
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

DATA = Path(__file__).with_suffix(".toml")

# How a name at the left end of a spelling is usually imported.
MODULES = {
    name: f"tvm.{name}"
    for name in (
        *("te", "tir", "topi", "relay", "autotvm", "auto_scheduler", "rpc", "nd"),
        *("tirx", "s_tir", "relax", "arith", "meta_schedule", "graph_executor", "hybrid"),
    )
} | {"tvm": "tvm", "T": "T", "vta": "vta", "graph_executor": "tvm.contrib.graph_executor"}
# Objects by the letters of the data, and the letters that an object of today may be taken for.
KEYWORD = "keyword"  # the root of a keyword argument's spelling
LETTERS = {"s", "sch", "cfg", "task", "tuner", "m", "f", "a", "mod"}
SCHEDULES = {"s", "sch", "sched", "schedule"}  # what a schedule of te is called in a script
_OBJECTS = {
    "Schedule": ("sch", "s[C]", "s"),
    "SBlockRV": ("s[C]",),
    "Executable": ("f", "m"),
    "Function": ("f",),
    "Module": ("f",),
    "VirtualMachine": ("m",),
    "Tensor": ("a",),
    "IRModule": ("mod",),
    "PrimFunc": ("mod",),
}
_TARGET = re.compile(
    r"(llvm|cuda|nvptx|opencl|metal|vulkan|rocm|hexagon|webgpu|opengl|sdaccel|aocl)"
    r"(?: +--?[a-z][\w-]*(?:=\S*| +[^\s-]\S*)?)+"
)
_OPTION = re.compile(r" +--?(?P<name>[a-z][\w-]*)(?:=(?P<value>\S*)| +(?P<next>[^\s-]\S*))?")


def spans(text: str) -> tuple[str, ...]:
    """The pieces of code in a cell of Markdown."""
    return tuple(re.findall(r"`([^`]+)`", text))


@dataclass(frozen=True)
class Row:
    """One row of the tables; what its fields are is said in old_names.toml."""

    group: str
    old: str
    new: str
    note: str = ""
    also: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    needs: str = ""

    @property
    def works(self) -> bool:
        """Whether the old name does what it did, so that nothing has to be said about it."""
        return self.new.startswith(("unchanged", "still"))

    @property
    def lines(self) -> tuple[str, ...]:
        """What to write today, as code."""
        return spans(self.new)

    def lines_of(self, key: str) -> tuple[str, ...]:
        """The lines about one of the row's names: of a row about several of a module, those that
        call what is still called so."""
        module, _, last = key.rpartition(".")
        if module.startswith("tvm") and len(spans(self.old)) > 1:
            same = [
                line
                for line in self.lines
                if last in [name.rpartition(".")[2] for name in _called(line)]
            ]
            if same:
                return tuple(same)
        return self.lines

    @property
    def remark(self) -> str:
        """The note without links, which lead nowhere outside of the guide."""
        return re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r'"\1" in LEARNING_GUIDE.md', self.note)


def called(lines: Iterable[str]) -> str:
    """The names of today in these lines, without their arguments."""
    return ", ".join(dict.fromkeys(name for line in lines for name in _called(line)))


def _called(line: str) -> Iterator[str]:
    """The name that a line is about: what is called, or the whole of what is only named."""
    try:
        statement = ast.parse(line).body[0]
    except SyntaxError:
        yield line
        return
    if isinstance(statement, ast.Import | ast.ImportFrom):
        module = getattr(statement, "module", None)
        yield from (f"{module}.{alias.name}" if module else alias.name for alias in statement.names)
        return
    if isinstance(statement, ast.With):
        statement = statement.body[0]
    value = getattr(statement, "value", None)
    while isinstance(value, ast.Call | ast.Subscript):
        value = value.func if isinstance(value, ast.Call) else value.value
    yield ast.unparse(value) if isinstance(value, ast.Name | ast.Attribute) else line


@dataclass(frozen=True)
class Removed:
    """When names went: a row of the guide's last table."""

    what: str
    version: str
    released: str
    became: str = ""
    also: tuple[str, ...] = ()


@cache
def _data() -> dict:
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


def _of(kind: type, entry: dict, **more: str):
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}, **more)


@cache
def rows() -> tuple[Row, ...]:
    return tuple(
        _of(Row, entry, group=group["title"])
        for group in _data()["group"]
        for entry in group["rows"]
    )


@cache
def removed() -> tuple[Removed, ...]:
    return tuple(_of(Removed, entry) for entry in _data()["removed"])


REMOVED = "What was removed when"


def groups() -> list[str]:
    """The titles of the guide's tables, in their order."""
    return [*dict.fromkeys(row.group for row in rows()), REMOVED]


def table(group: str) -> list[str]:
    """A table of the guide, as lines of Markdown."""
    if group == REMOVED:
        head = ("classic", "removed in", "released", "became")
        cells = [(one.what, one.version, one.released, one.became) for one in removed()]
    else:
        what_to_do = "what to do" if group == "No replacement" else "remark"
        head = ("classic", "TVM 0.27", what_to_do)
        cells = [(row.old, row.new, row.note) for row in rows() if row.group == group]
    lines = ["| " + " | ".join(row) + " |" for row in [head, *cells]]
    return [lines[0].replace("|  |", "| |"), "|---" * len(head) + "|"] + [
        line.replace("|  |", "| |") for line in lines[1:]
    ]


# --------------------------------------------------------------------------------- finding a row


@dataclass(frozen=True)
class Spelling:
    """A name in the one form under which it is looked up, and what else in a use of it tells two
    rows apart: keywords, strings, a target's options."""

    key: str
    details: frozenset[str] = frozenset()


def full(name: str) -> str:
    """A dotted name with its module in full: "te.create_schedule" as "tvm.te.create_schedule"."""
    root, dot, rest = name.partition(".")
    whole = MODULES.get(root, root) + dot + rest
    return re.sub(r"^tvm\.(?:script\.tirx?|tirx\.script)\.", "T.", whole)


def short(key: str) -> str:
    """The opposite, as far as people write it so."""
    return re.sub(r"^tvm\.(te|topi|relay|autotvm|auto_scheduler)\.", r"\1.", key)


def details_of(node: ast.AST) -> frozenset[str]:
    if not isinstance(node, ast.Call):
        return frozenset()
    words = {word.arg for word in node.keywords if word.arg}
    for value in [*node.args, *(word.value for word in node.keywords)]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            words.add(value.value)
    return frozenset(words)


def target_spelling(text: str) -> Spelling | None:
    """A target string with options, which TVM refuses since 0.24; None if it is anything else."""
    options = target_options(text)
    if options is None:
        return None
    words = {str(value) for value in options.values()} | set(options)
    return Spelling("target", frozenset(words))


def target_options(text: str) -> dict[str, object] | None:
    """An old target string as the dictionary of today: "llvm -mcpu=x" as {"kind": "llvm", "mcpu":
    "x"}."""
    found = _TARGET.fullmatch(text.strip())
    if found is None:
        return None
    options: dict[str, object] = {"kind": found[1]}
    for option in _OPTION.finditer(found[0], found.end(1)):
        name, value = option["name"], option["value"] or option["next"] or ""
        if name in ("mattr", "libs", "keys"):
            options[name] = value.split(",")
        elif re.fullmatch(r"\d+", value):
            options[name] = int(value)
        else:
            options[name] = value or True
    if "target" in options:  # `-target=` was LLVM's triple, before it was called so
        options["mtriple"] = options.pop("target")
    return options


def target_line(text: str) -> str | None:
    """The line that makes today's target of an old target string."""
    options = target_options(text)
    if options is None:
        return None
    written = ", ".join(f'"{key}": {_literal(value)}' for key, value in options.items())
    written = written.replace(
        '"mcpu": "native"', '"mcpu": tvm.target.codegen.llvm_get_system_cpu()'
    )
    return f"tvm.target.Target({{{written}}})"


def _literal(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_literal(one) for one in value) + "]"
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)


def spellings(code: str) -> Iterator[Spelling]:
    """The spellings of a code span of the data."""
    try:
        statement = ast.parse(code.removeprefix("@")).body[0]
    except SyntaxError:
        return
    if isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield Spelling(f"{statement.module}.{alias.name}")
    elif isinstance(statement, ast.Import):
        yield from (Spelling(alias.name) for alias in statement.names)
    elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
        for setting in statement.value.keys:
            yield Spelling("config." + ast.literal_eval(setting))
    elif isinstance(statement, ast.Assign):
        yield from (Spelling(f"{KEYWORD}.{target.id}") for target in statement.targets)
    elif isinstance(statement, ast.Expr):
        node = statement.value
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if spelling := target_spelling(node.value):
                yield spelling
            return
        chain = chain_of(node)
        if chain is None:
            return
        root = re.split(r"[.\[]", chain)[0]
        if root in LETTERS and (chain != root or isinstance(node, ast.Name)):
            yield Spelling(chain, details_of(node))
        elif root in MODULES:
            yield Spelling(full(chain), details_of(node))


def chain_of(node: ast.AST) -> str | None:
    """`s[C].op.axis` for s[C].op.axis[0], calls and what stands in brackets left out; None if it
    does not start at a name. Brackets of anything but the first name are left out too."""
    parts: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            parts.append("." + node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript):
            if isinstance(node.value, ast.Name):
                parts.append("[C]")
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None
    return node.id + "".join(reversed(parts))


@cache
def _index() -> dict[str, list[tuple[frozenset[str], Row]]]:
    index: dict[str, list[tuple[frozenset[str], Row]]] = {}
    for row in rows():
        if row.works:
            continue
        for code in [*spans(row.old), *(code for text in row.also for code in spans(text))]:
            for spelling in spellings(code):
                index.setdefault(spelling.key, []).append((spelling.details, row))
    return index


@cache
def _versions() -> dict[str, str]:
    return {
        spelling.key: one.version
        for one in removed()
        for text in (one.what, *one.also)
        for code in spans(text)
        for spelling in spellings(code)
    }


def _prefixes(key: str) -> Iterator[str]:
    """The key, then shorter ones: a.b.c, a.b, a; s[C].op, s[C], s."""
    while key:
        yield key
        key = key[:-3] if key.endswith("[C]") else key.rpartition(".")[0]


def find(spelling: Spelling) -> Row | None:
    """The row about a name, or about the nearest thing that holds it."""
    for key in _prefixes(spelling.key):
        if known := _index().get(key):
            return max(
                known,
                key=lambda one: (len(one[0] & spelling.details), -len(one[0] - spelling.details)),
            )[1]
    return None


def version_of(key: str) -> str | None:
    """The release in which a name was removed, if it is known."""
    return next((v for one in _prefixes(key) if (v := _versions().get(one))), None)


# ------------------------------------------------------------------------------- about an exception


def about(error: BaseException) -> str | None:
    """What is written today in place of the old name that an exception is about; None if it is
    about something else."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    if found := re.search(r'Cannot parse target string "(.*?)"', text):
        line = target_line(found[1])
        return line and _sentence(f'"{found[1]}"', find(target_spelling(found[1])), "target", line)
    for key in _keys(error, text):
        lines = [frame.line or "" for frame in frames]
        key = _more_of(key, lines)
        words = frozenset(re.findall(r"[\w.]+", " ".join(lines)))
        if row := find(Spelling(key, words)):
            return _sentence(f"`{_shown(key)}`", row, key, schedule=_schedule_in(error))
    if isinstance(error, AssertionError) and not text:
        text = _line(error)
    said = [
        (found.start(), number)
        for number, row in enumerate(rows())
        for pattern in row.says
        if (found := re.search(pattern, text))
    ]
    if not said:
        return None
    row = rows()[min(said)[1]]  # what TVM says first is the most special
    name = spans(row.old)[0]
    key = next((one.key for one in spellings(name)), "")
    return _sentence(f"This, like `{name}`,", row, key, schedule=_schedule_in(error))


def _more_of(key: str, lines: list[str]) -> str:
    """The whole of a name of which an exception tells only the part that was not found."""
    for line in reversed(lines):
        names = re.findall(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)+", line)
        names += [".".join(found) for found in re.findall(r"from ([\w.]+) import (\w+)", line)]
        for name in names:
            if full(name).startswith(key + "."):
                return full(name)
    return key


def _shown(key: str) -> str:
    return re.sub(r"^(?:sch|s|f|m|a|mod)\.", ".", short(key))


def _keys(error: BaseException, text: str) -> Iterator[str]:
    """The names that an exception says do not exist, as they are looked up."""
    if isinstance(error, ModuleNotFoundError):
        yield error.name or ""
    elif isinstance(error, ImportError):
        if found := re.search(r"cannot import name '(\w+)' from '([\w.]+)'", text):
            yield full(f"{found[2]}.{found[1]}")
    elif isinstance(error, NameError):
        yield from _uses(error, error.name or "")
    elif isinstance(error, AttributeError) and error.name:
        if isinstance(error.obj, ModuleType):
            yield full(f"{error.obj.__name__}.{error.name}")
        elif type(error.obj).__module__.startswith("tvm"):
            line = _line(error)
            names = [*re.findall(rf"\.({error.name}(?:\.\w+)+)", line), error.name]
            for letter in _OBJECTS.get(type(error.obj).__name__, ()):
                yield from (key for name in names if (key := f"{letter}.{name}") in _index())


def _line(error: BaseException) -> str:
    """The line that raised it; "" if that is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].line or "" if frames else ""


def _schedule_in(error: BaseException) -> str:
    """The argument of a function on the way that holds a schedule; "" if there is none."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        for name in code.co_varnames[: code.co_argcount]:
            if name != "self" and type(frame.f_locals.get(name)).__name__ == "Schedule":
                return name
    return ""


def _uses(error: NameError, name: str) -> Iterator[str]:
    """What a line does with a name that nothing was assigned to: pasted from an old script,
    `s[C].tile` is about tile, whatever `s` was."""
    line = _line(error)
    for use in re.findall(rf"(?<![\w.]){re.escape(name)}(?:\[[^\[\]]*\]|\.\w+)+", line):
        chain = chain_of(ast.parse(use).body[0].value) if _parses(use) else None  # type: ignore[attr-defined]
        if chain is None:
            continue
        rest = chain.removeprefix(name)
        if name in MODULES:
            yield full(chain)
        elif name in SCHEDULES and f"s{rest}" in _index():
            yield f"s{rest}"
        elif chain in _index():
            yield chain
    for schedule, rest in re.findall(rf"(\w+)\[{re.escape(name)}\]((?:\.\w+)*)", line):
        if schedule in SCHEDULES and f"s[C]{rest}" in _index():
            yield f"s[C]{rest}"
    if name in MODULES and _index().get(MODULES[name]):
        yield MODULES[name]


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def _sentence(name: str, row: Row, key: str, line: str = "", schedule: str = "") -> str:
    """What a tutor would say of an old name; line: a better one than the row's, if there is.
    schedule: the one that the learner was given, if there is, so that none has to be made."""
    version = version_of(key)
    gone = f", removed in {version}" if version else ""
    if schedule and "s" in row.makes:
        return f"{name} is of an older TVM{gone}; `{schedule}` is the schedule already."
    remark = row.remark
    if row.new == "none":
        return f"{name} is of an older TVM{gone}, and nothing took its place" + (
            f" ({remark})." if remark else "."
        )
    if line:
        return f"{name} is of an older TVM{gone}. Today: `{line}`."
    lines = row.lines_of(key)
    today = f"`{lines[0]}`" if len(lines) == 1 else row.new
    return f"{name} is of an older TVM{gone}. Today: {today}" + (f" ({remark})." if remark else ".")


def imports(lines: Iterable[str]) -> list[str]:
    """The imports that lines of today need."""
    text = "\n".join(lines)
    return [line for names, line in _IMPORTS if re.search(rf"(?<![\w.])(?:{names})\b", text)]


_IMPORTS = (
    (r"np\.", "import numpy as np"),
    (r"torch\.", "import torch"),
    (r"tvm\.", "import tvm"),
    (r"tvm_ffi\.", "import tvm_ffi"),
    (r"te\.", "from tvm import te"),
    (r"tirx\.", "from tvm import tirx"),
    (r"s_tir\.", "from tvm import s_tir"),
    (r"relax\.", "from tvm import relax"),
    (r"rpc\.", "from tvm import rpc"),
    (r"topi\.", "from tvm import topi"),
    (r"Schedule\(", "from tvm.s_tir import Schedule"),
    (r"ms\.", "from tvm.s_tir import meta_schedule as ms"),
    (r"dl\.", "from tvm.s_tir import dlight as dl"),
    (r"T\.", "from tvm.script import tirx as T"),
    (r"R\.", "from tvm.script import relax as R"),
)
