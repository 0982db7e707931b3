"""The guides cannot rot: their Python runs, prints what they show, and names only what the
installed TVM has.

A document's ```python blocks of one level-2 section share a namespace, and a section runs in a
process of its own. What a block prints stands in a ```text block directly below it. After a change
that is meant to be seen:

    python tests/test_guides.py --update                     run every block, write what it prints
    python tests/test_guides.py --update LEARNING_GUIDE.md   into all documents, or those named
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import shutil
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402 - the path comes first when this file is the program

from tvm_practice.common.worker import WorkerFailed, call  # noqa: E402

DOCUMENTS = [
    path
    for name in ("README.md", "LEARNING_GUIDE.md", "REAL_WORLD_USES.md")
    if (path := ROOT / name).exists()
]
GUIDE = ROOT / "LEARNING_GUIDE.md"
TABLE = "From classic TVM to 0.27"
GROUPS_OF_THE_GONE = ("No replacement", "What was removed when")
FEWEST_ROWS = 40
SECONDS = 120


# ------------------------------------------------------------------------------- reading a document


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, its section, and its first and last line of content (numbered
    from 0)."""

    language: str
    section: str
    first: int
    last: int
    content: str


@dataclass(frozen=True)
class Example:
    """A Python block and the text block that holds what it prints, if one follows."""

    code: Fence
    printed: Fence | None


def fences(text: str) -> list[Fence]:
    found, section, opened = [], "", None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if opened is None:
                opened = number
                continue
            content = "\n".join(lines[opened + 1 : number])
            language = lines[opened][3:].strip()
            found.append(Fence(language, section, opened + 1, number - 1, content))
            opened = None
        elif opened is None and line.startswith("## "):
            section = line[3:].strip()
    return found


def examples(text: str) -> list[Example]:
    lines, blocks = text.splitlines(), fences(text)
    found = []
    for block, following in zip(blocks, [*blocks[1:], None], strict=False):
        if block.language != "python":
            continue
        between = lines[block.last + 2 : following.first - 1] if following else ["no"]
        adjacent = following is not None and not any(line.strip() for line in between)
        shown = following if adjacent and following.language == "text" else None
        found.append(Example(block, shown))
    return found


def sections(path: Path) -> dict[str, list[Example]]:
    by_section: dict[str, list[Example]] = {}
    for example in examples(path.read_text()):
        by_section.setdefault(example.code.section, []).append(example)
    return by_section


# ----------------------------------------------------------------------------- running its examples


def run_blocks(path: str, blocks: list[tuple[int, str]]) -> tuple[list[str], str | None]:
    """In a worker: what each (first line, code) prints, until one raises; then its traceback."""
    namespace = {"__name__": "guide"}
    printed = []
    for first, code in blocks:
        out = StringIO()
        try:
            # Padded, so that tracebacks and TVMScript's parser find the code at its place in the
            # document.
            compiled = compile("\n" * first + code, path, "exec", dont_inherit=True)
            with redirect_stdout(out):
                exec(compiled, namespace)
        except Exception:
            return printed, traceback.format_exc()
        printed.append("\n".join(line.rstrip() for line in out.getvalue().splitlines()))
    return printed, None


@cache
def outputs(path: Path, section: str) -> tuple[list[str], str | None]:
    blocks = [(example.code.first, example.code.content) for example in sections(path)[section]]
    try:
        return call(run_blocks, str(path), blocks, seconds=SECONDS)
    except WorkerFailed as failed:
        return [], f"{failed}\n{failed.failure.printed}"


SECTIONS = [(path, section) for path in DOCUMENTS for section in sections(path)]


@pytest.mark.parametrize(
    ("path", "section"), SECTIONS, ids=[f"{path.stem}: {section}" for path, section in SECTIONS]
)
def test_every_python_block_runs_and_prints_what_the_document_shows(path, section) -> None:
    if section.startswith("A GPU") and shutil.which("g++") is None:
        pytest.skip("the simulator compiles with g++, which is not installed")
    printed, error = outputs(path, section)
    for example, got in zip(sections(path)[section], printed, strict=False):
        want = example.printed.content if example.printed else ""
        if got != want:
            difference = difflib.unified_diff(
                want.splitlines(), got.splitlines(), "the document", "this run", lineterm=""
            )
            pytest.fail(
                f"{path.name}:{example.code.first + 1}: the block prints something else than the "
                "document shows. "
                "If that is right, run `python tests/test_guides.py --update`.\n"
                + "\n".join(difference)
            )
    assert error is None, f"a block of {path.name}, section {section!r}, failed:\n{error}"


def update(path: Path) -> int:
    """Write what every block prints into the document; returns how many blocks changed."""
    replacements: list[tuple[Example, str]] = []
    for section, blocks in sections(path).items():
        printed, error = outputs(path, section)
        if error is not None:
            raise SystemExit(f"{path.name}, section {section!r}: a block failed\n{error}")
        replacements += zip(blocks, printed, strict=True)
    lines, changed = path.read_text().splitlines(), 0
    for example, got in reversed(replacements):
        want = example.printed.content if example.printed else ""
        if got == want:
            continue
        changed += 1
        start = example.code.last + 2
        end = example.printed.last + 2 if example.printed else start
        lines[start:end] = ["", "```text", *got.splitlines(), "```"] if got else []
    path.write_text("\n".join(lines) + "\n")
    return changed


# --------------------------------------------------------------------------- the names in the prose


@dataclass(frozen=True)
class Row:
    """A row of the table: its line number, its group (the level-3 heading above), and its cells."""

    line: int
    group: str
    classic: str
    today: str
    remarks: str


def table() -> list[Row]:
    rows, group, section, fenced = [], "", "", False
    for number, line in enumerate(GUIDE.read_text().splitlines(), 1):
        fenced ^= line.startswith("```")
        if fenced:
            continue
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("### "):
            group = line[4:].strip()
        elif section == TABLE and line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] != "classic" and set(cells[0]) - set("-: "):
                rows.append(Row(number, group, cells[0], cells[1], " ".join(cells[2:])))
    return rows


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def named_today() -> list[tuple[int, str]]:
    """(line, code) of all inline code outside of fences, but for the classic names of the table."""
    rows = {row.line: row for row in table()}
    found, fenced = [], False
    for number, line in enumerate(GUIDE.read_text().splitlines(), 1):
        fenced ^= line.startswith("```")
        if not fenced:
            text = f"{rows[number].today} {rows[number].remarks}" if number in rows else line
            found += [(number, code) for code in spans(text)]
    return found


class _Names:
    """In a worker: what a name in the guide's code spans means in the installed TVM."""

    # Importing this package registers some hundreds of intrinsics and takes long; its files say
    # enough.
    SLOW = "tvm.s_tir.tensor_intrin"

    def __init__(self) -> None:
        import numpy as np
        import tvm
        import tvm_ffi
        from tvm import relax, rpc, s_tir, te, tirx, topi
        from tvm.s_tir import dlight, meta_schedule
        from tvm.script import ir
        from tvm.script import relax as relax_script
        from tvm.script import tirx as tirx_script

        A = te.placeholder((8,), name="A")
        sch = s_tir.Schedule(
            te.create_prim_func([A, te.compute((8,), lambda i: A[i] + 1.0, name="C")])
        )
        bb = relax.BlockBuilder()
        x = relax.Var("x", relax_script.Tensor((8,), "float32"))
        with bb.function("main", [x]):
            bb.emit_func_output(bb.emit(relax.op.add(x, x)))
        relax_module = bb.get()
        llvm = tvm.target.Target({"kind": "llvm"})
        executable = tvm.compile(sch.mod, target=llvm)
        self.roots = {
            "tvm": tvm,
            "te": te,
            "s_tir": s_tir,
            "tirx": tirx,
            "relax": relax,
            "rpc": rpc,
            "topi": topi,
            "ms": meta_schedule,
            "dl": dlight,
            "I": ir,
            "T": tirx_script,
            "R": relax_script,
            "tvm_ffi": tvm_ffi,
            "Schedule": s_tir.Schedule,
            # things the guide calls by these names
            "sch": sch,
            "mod": sch.mod,
            "bb": bb,
            "ex": executable,
            "vm": relax.VirtualMachine(tvm.compile(relax_module, target=llvm), tvm.cpu()),
            "db": meta_schedule.database.MemoryDatabase(),
            "remote": rpc.LocalSession(),
            "tracker": rpc.TrackerSession,
            "tensor": tvm.runtime.tensor(np.zeros(1, "float32")),
            "target": llvm,
        }
        self.configs = set(tvm.transform.PassContext.list_configs())

    def complaints(self, code: str) -> tuple[int, list[str]]:
        """(how many names of TVM were found in the code, what is wrong with it)."""
        command = re.match(r"python -m ([\w.]+)", code)
        if command:
            wrong = [] if self._module(command[1]) else [f"there is no module {command[1]}"]
            return 1, wrong
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/[\w.-]*", code):
            here = [ROOT / code, Path(self.roots["tvm"].__path__[0]).parent / code]
            return 0, [] if any(path.exists() for path in here) else [f"there is no file {code}"]
        try:
            tree = ast.parse(code)
        except SyntaxError:
            return 0, []
        found, wrong = 0, []
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and getattr(node.value, "id", None) in self.roots:
                self.roots[node.value.id][ast.literal_eval(node.slice)]
                found += 1
            name = self._dotted(node)
            if name is None:
                continue
            try:
                self.resolve(name)
                found += 1
            except (AttributeError, ImportError) as error:
                wrong.append(f"{name}: {error}")
        if not wrong:
            wrong = [self._misuse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        return found, [sentence for sentence in wrong if sentence]

    def _dotted(self, node: ast.AST) -> str | None:
        """The dotted name a node is, if it starts at a known root."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not parts or not isinstance(node, ast.Name) or node.id not in self.roots:
            return None
        return ".".join([node.id, *reversed(parts)])

    def resolve(self, name: str):
        from types import ModuleType

        root, *rest = name.split(".")
        value = self.roots[root]
        for part in rest:
            if isinstance(value, Path):
                value = self._member(value, part)
                continue
            try:
                value = getattr(value, part)
            except AttributeError:
                if not isinstance(value, ModuleType):
                    raise
                value = self._submodule(value, part)
        if isinstance(value, Path) and not (value.is_dir() or value.with_suffix(".py").is_file()):
            raise AttributeError(f"no file {value}")
        return value

    def _submodule(self, package, name: str):
        """A module of a package; only its path where importing it takes long or needs what is not
        installed."""
        full = f"{package.__name__}.{name}"
        path = Path(getattr(package, "__path__", [""])[0]) / name
        if full.startswith(self.SLOW):
            return path
        try:
            return importlib.import_module(full)
        except ImportError:
            if path.is_dir() or path.with_suffix(".py").is_file():
                return path
            raise

    @staticmethod
    def _member(path: Path, name: str):
        """A module's submodule, or the definition of a name, read from its file, not run."""
        if path.is_dir() and ((path / name).is_dir() or (path / f"{name}.py").is_file()):
            return path / name
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(file.read_text()).body:
            imported = [alias.asname or alias.name for alias in getattr(node, "names", [])]
            if name in imported or getattr(node, "name", None) == name:
                return node
        raise AttributeError(f"{file} defines no {name}")

    @staticmethod
    def _module(name: str) -> bool:
        import importlib.util

        return importlib.util.find_spec(name) is not None

    def _misuse(self, call: ast.Call) -> str | None:
        """Whether the call's arguments fit; `...` among them stands for any more."""
        import inspect

        name = self._dotted(call.func)
        if name is None:
            return None
        try:
            signature = inspect.signature(self.resolve(name))
        except (TypeError, ValueError):
            return None
        if name.endswith(".PassContext"):
            settings = [ast.literal_eval(key) for word in call.keywords for key in word.value.keys]
            if unknown := set(settings) - self.configs:
                return f"PassContext has no setting {', '.join(unknown)}"
        arguments = [argument for argument in call.args if not _is_ellipsis(argument)]
        keywords = {word.arg: None for word in call.keywords if word.arg}
        partial = len(arguments) != len(call.args) or len(keywords) != len(call.keywords)
        try:
            (signature.bind_partial if partial else signature.bind)(*arguments, **keywords)
        except TypeError as error:
            return f"{ast.unparse(call)}: {error}"
        return None


def _is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def read_names(
    texts: list[str], classic: list[str]
) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """In a worker: for each text (code, or prose with code spans) how many names of TVM it holds
    and what is wrong with it; and which of the classic names the installed TVM still has.
    """
    names = _Names()
    read = []
    for text in texts:
        answers = [names.complaints(code) for code in spans(text) or [text]]
        read.append(
            (sum(found for found, _ in answers), [w for _, wrong in answers for w in wrong])
        )
    surviving = []
    for name in classic:
        try:
            names.resolve(name)
            surviving.append(name)
        except (AttributeError, ImportError):
            pass
    return read, surviving


def classic_names() -> dict[str, int]:
    """Names of the left column that are gone today, if the table is right, and the line of each."""
    names = {}
    for row in table():
        if not re.search(r"\bunchanged\b|\bstill\b", f"{row.today} {row.remarks}"):
            for code in spans(row.classic):
                for name in re.findall(
                    r"\b(?:te|tvm|topi|T|relay|autotvm|auto_scheduler)\.[\w.]+", code
                ):
                    rooted = name.startswith(("te.", "tvm.", "topi.", "T."))
                    names[name if rooted else f"tvm.{name}"] = row.line
    return names


@cache
def answers() -> tuple[list[tuple[int, list[str]]], list[tuple[int, list[str]]], list[str]]:
    """What the worker says to the code in the prose, to the rows of the table, and to the classic
    names."""
    prose, rows = [code for _, code in named_today()], [row.today for row in table()]
    read, surviving = call(read_names, prose + rows, list(classic_names()), seconds=SECONDS)
    return read[: len(prose)], read[len(prose) :], surviving


@pytest.mark.parametrize("path", DOCUMENTS, ids=[path.stem for path in DOCUMENTS])
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / file).exists(), f"{path.name}: there is no file {file}"
        assert file or anchor in anchors, f"{path.name}: there is no heading #{anchor}"


def test_the_table_is_long_enough() -> None:
    assert len([row for row in table() if row.group not in GROUPS_OF_THE_GONE]) >= FEWEST_ROWS


def test_every_name_in_the_guide_exists_and_takes_these_arguments() -> None:
    wrong = [
        f"{GUIDE.name}:{line}: `{code}`: {sentence}"
        for (line, code), (_, sentences) in zip(named_today(), answers()[0], strict=True)
        for sentence in sentences
    ]
    assert not wrong, "\n".join(wrong)


def test_every_row_of_the_table_names_what_to_use_today() -> None:
    wrong = [
        f"{GUIDE.name}:{row.line}: {row.today}"
        for row, (found, _) in zip(table(), answers()[1], strict=True)
        if not found and row.group not in GROUPS_OF_THE_GONE
    ]
    assert not wrong, "these rows name nothing of TVM 0.27:\n" + "\n".join(wrong)


def test_what_the_table_calls_gone_is_gone() -> None:
    """A classic name may only exist today where its row says so."""
    lines = classic_names()
    wrong = [f"{GUIDE.name}:{lines[name]}: {name} still exists" for name in answers()[2]]
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--update"]:
        raise SystemExit(__doc__)
    # Under its importable name: workers cannot find the functions of a program that was started.
    guides = importlib.import_module("tests.test_guides")
    for document in guides.DOCUMENTS:
        if sys.argv[2:] and document.name not in sys.argv[2:]:
            continue
        print(f"{document.name}: {guides.update(document)} blocks changed")
