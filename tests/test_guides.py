"""The guides cannot rot: their Python runs, prints what they show, and names only what the
installed TVM has.

A document's ```python blocks of one level-2 section share a namespace, and a section runs in a
process of its own. What a block prints stands in a ```text block directly below it. After a change
that is meant to be seen:

    python tests/test_guides.py --update                     run every block, write what it prints,
                                                             and the tables of old names
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

from tvm_practice.common import old_names  # noqa: E402
from tvm_practice.common.worker import WorkerFailed, call  # noqa: E402

DOCUMENTS = [
    path
    for name in ("README.md", "LEARNING_GUIDE.md", "REAL_WORLD_USES.md")
    if (path := ROOT / name).exists()
]
GUIDE = ROOT / "LEARNING_GUIDE.md"
TABLE = "From classic TVM to 0.27"
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
    if section.startswith(("A GPU", "Deployment")) and shutil.which("g++") is None:
        pytest.skip("it compiles C++ with g++, which is not installed")
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
class Table:
    """One of the tables of old names: its group (the level-3 heading above), its first line, and
    all of them."""

    group: str
    first: int
    lines: list[str]


def tables() -> list[Table]:
    found, group, section, fenced = [], "", "", False
    for number, line in enumerate(GUIDE.read_text().splitlines(), 1):
        fenced ^= line.startswith("```")
        if fenced:
            continue
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("### "):
            group = line[4:].strip()
        elif section == TABLE and line.startswith("|"):
            if not found or number != found[-1].first + len(found[-1].lines):
                found.append(Table(group, number, []))
            found[-1].lines.append(line)
    return found


def update_tables() -> int:
    """Write the tables of old names from their data; returns how many changed."""
    lines, changed = GUIDE.read_text().splitlines(), 0
    for shown in reversed(tables()):
        wanted = old_names.table(shown.group)
        changed += shown.lines != wanted
        lines[shown.first - 1 : shown.first - 1 + len(shown.lines)] = wanted
    GUIDE.write_text("\n".join(lines) + "\n")
    return changed


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def named_today() -> list[tuple[int, str]]:
    """(line, code) of all inline code outside of fences, but for the classic names of the table."""
    classic = {
        table.first + place: line.split(" | ", 1)
        for table in tables()
        for place, line in enumerate(table.lines)
    }
    found, fenced = [], False
    for number, line in enumerate(GUIDE.read_text().splitlines(), 1):
        fenced ^= line.startswith("```")
        if not fenced:
            text = classic[number][-1] if number in classic else line
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
            settings = [
                ast.literal_eval(key)
                for word in call.keywords
                if word.arg == "config"
                for key in word.value.keys
            ]
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


def read_names(texts: list[str], classic: list[str]) -> tuple[list[list[str]], list[str]]:
    """In a worker: what is wrong with each of these pieces of code; and which of the classic names
    the installed TVM still has."""
    names = _Names()
    read = [names.complaints(code)[1] for code in texts]
    surviving = []
    for name in classic:
        try:
            names.resolve(name)
            surviving.append(name)
        except (AttributeError, ImportError):
            pass
    return read, surviving


def classic_names() -> list[str]:
    """Names that are gone today, if the tables are right."""
    still = re.compile(r"\bunchanged\b|\bstill\b")
    gone, kept = set(), set()
    for row in old_names.rows():
        for text in (row.old, *row.also):
            names = {one.key for code in spans(text) for one in old_names.spellings(code)}
            (kept if still.search(f"{row.new} {row.note}") else gone).update(names)
    return sorted(name for name in gone - kept if name.startswith(("tvm.", "T.")))


@cache
def answers() -> tuple[list[list[str]], list[str]]:
    """What the worker says to the code in the prose, and to the classic names."""
    prose = [code for _, code in named_today()]
    return call(read_names, prose, classic_names(), seconds=SECONDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=[path.stem for path in DOCUMENTS])
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
    prose = re.sub(r"`[^`\n]*`", "", prose)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / file).exists(), f"{path.name}: there is no file {file}"
        assert file or anchor in anchors, f"{path.name}: there is no heading #{anchor}"


def test_the_contents_of_the_guide_are_its_chapters() -> None:
    text = GUIDE.read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\d+\. \[(.+)\]\(#", prose, flags=re.MULTILINE)
    assert listed == re.findall(r"^## (.+)$", prose, flags=re.MULTILINE)


def test_the_tables_are_the_data() -> None:
    assert [table.group for table in tables()] == old_names.groups()
    for shown in tables():
        assert shown.lines == old_names.table(shown.group), (
            f"{GUIDE.name}:{shown.first}: the table is not what old_names.toml says; "
            "`python tests/test_guides.py --update` writes it"
        )


def test_every_name_in_the_guide_exists_and_takes_these_arguments() -> None:
    wrong = [
        f"{GUIDE.name}:{line}: `{code}`: {sentence}"
        for (line, code), sentences in zip(named_today(), answers()[0], strict=True)
        for sentence in sentences
    ]
    assert not wrong, "\n".join(wrong)


def test_what_the_table_calls_gone_is_gone() -> None:
    """A classic name may only exist today where its row says so."""
    assert not answers()[1]


if __name__ == "__main__":
    if sys.argv[1:2] != ["--update"]:
        raise SystemExit(__doc__)
    # Under its importable name: workers cannot find the functions of a program that was started.
    guides = importlib.import_module("tests.test_guides")
    if not sys.argv[2:] or GUIDE.name in sys.argv[2:]:
        print(f"{GUIDE.name}: {guides.update_tables()} tables changed")
    for document in guides.DOCUMENTS:
        if sys.argv[2:] and document.name not in sys.argv[2:]:
            continue
        print(f"{document.name}: {guides.update(document)} blocks changed")
