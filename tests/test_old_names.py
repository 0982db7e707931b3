"""Old names: every line that the table offers works, and whoever types an old name is told it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tvm_practice.checks import grade
from tvm_practice.common import exercise, old_names, worker
from tvm_practice.common.old_names import Row, rows

FEWEST_ROWS = 40
TRIALS = 2


# --------------------------------------------------------------------- what is written today, run


def _programs() -> dict[str, Callable]:
    """The programs that the lines of today are about, as schedules."""
    from tvm import te
    from tvm.s_tir import Schedule

    def matmul():
        A, B = (te.placeholder((64, 64), name=name) for name in "AB")
        k = te.reduce_axis((0, 64), name="k")
        C = te.compute((64, 64), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
        return Schedule(te.create_prim_func([A, B, C]))

    def two_stages():
        A = te.placeholder((64, 64), name="A")
        B = te.compute((64, 64), lambda i, j: A[i, j] * 2.0, name="B")
        C = te.compute((64, 64), lambda i, j: B[i, j] - 1.0, name="C")
        return Schedule(te.create_prim_func([A, C]))

    def window():
        A = te.placeholder((64,), name="A")
        B = te.compute((64,), lambda i: A[i] * 2.0, name="B")
        C = te.compute((62,), lambda i: B[i] + B[i + 1] + B[i + 2], name="C")
        sch = Schedule(te.create_prim_func([A, C]))
        sch.compute_at("B", sch.get_loops("C")[0])
        return sch

    def row_of_16():
        sch = matmul()
        i, j, k = sch.get_loops("C")
        jo, ji = sch.split(j, [None, 16])
        sch.reorder(i, jo, k, ji)
        sch.decompose_reduction("C", k)
        return sch

    return {"matmul": matmul, "two": two_stages, "window": window, "row": row_of_16}


def _fma_row():
    """A description and an implementation for tensorize."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (1,), offset_factor=1)
        B = T.match_buffer(b, (16,), offset_factor=1)
        C = T.match_buffer(c, (16,), offset_factor=1)
        with T.sblock("root"):
            T.reads(C[0:16], A[0:1], B[0:16])
            T.writes(C[0:16])
            for j in range(16):
                with T.sblock("element"):
                    v = T.axis.spatial(16, j)
                    C[v] = C[v] + A[0] * B[v]

    @T.prim_func(s_tir=True)
    def implementation(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (1,), offset_factor=1)
        B = T.match_buffer(b, (16,), offset_factor=1)
        C = T.match_buffer(c, (16,), offset_factor=1)
        with T.sblock("root"):
            T.reads(C[0:16], A[0:1], B[0:16])
            T.writes(C[0:16])
            for j in T.serial(16):
                C[j] = C[j] + A[0] * B[j]

    return description, implementation


class _Context:
    """The variables that the lines of today use, each made when a line names it."""

    def __init__(self, row: Row, text: str, folder: Path) -> None:
        self.row, self.text = row, text
        self.folder = folder
        self.close: list[Callable] = []
        self.variables: dict[str, object] = {}

    def namespace(self, line: str) -> dict[str, object]:
        for node in ast.walk(ast.parse(line)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self[node.id]
        return self.variables

    def __getitem__(self, name: str) -> object:
        if name not in self.variables and (make := getattr(self, "_" + name, None)):
            self.variables[name] = make()
        return self.variables.get(name)

    # modules, under the names that the guide gives them

    def __getattr__(self, name: str):
        modules = {
            **{"_np": "numpy", "_tvm": "tvm", "_tvm_ffi": "tvm_ffi", "_te": "tvm.te"},
            **{"_s_tir": "tvm.s_tir", "_tirx": "tvm.tirx", "_relax": "tvm.relax"},
            **{"_rpc": "tvm.rpc", "_topi": "tvm.topi", "_torch": "torch"},
            **{"_ms": "tvm.s_tir.meta_schedule", "_dl": "tvm.s_tir.dlight"},
            **{"_T": "tvm.script.tirx", "_R": "tvm.script.relax"},
        }
        if name not in modules:
            raise AttributeError(name)
        return lambda: importlib.import_module(modules[name])

    def _Schedule(self):
        return self["s_tir"].Schedule

    # a program

    def _sch(self):
        programs = _programs()
        if "rolling_buffer" in self.text:
            return programs["window"]()
        if "tensorize" in self.text:
            return programs["row"]()
        return programs["two" if '"B"' in self.row.new else "matmul"]()

    def _loops(self):
        return dict(zip("ijk", self["sch"].get_loops("C"), strict=False))

    def _i(self):
        self.variables |= self._loops()
        return self["i"]

    def _j(self):
        return self["i"] and self["j"]

    def _k(self):
        return self["i"] and self["k"]

    def _loop(self):
        return self["sch"].get_loops("C_update")[-1]

    def _name(self):
        return "test.fma_row_16"

    def _description(self):
        return _fma_row()[0]

    def _implementation(self):
        return _fma_row()[1]

    def _tensors(self):
        te = self["te"]
        A, B = (te.placeholder((64, 64), name=name) for name in "AB")
        return {"A": A, "B": B, "C": te.compute((64, 64), lambda i, j: A[i, j] + B[i, j], name="C")}

    def _A(self):
        self.variables |= self._tensors()
        return self["A"]

    def _B(self):
        return self["A"] and self["B"]

    def _C(self):
        return self["A"] and self["C"]

    def _target(self):
        return self["tvm"].target.Target({"kind": "llvm", "num-cores": 2})

    def _mod(self):
        graph = re.search(r"\brelax\.|MetaScheduleApplyDatabase", self.text)
        return self["model_mod"] if graph else self["sch"].mod

    def _ex(self):
        what = self["model_mod"] if re.search(r"\brelax\.|\bvm\b", self.text) else self["sch"].mod
        return self["tvm"].compile(what, target=self["target"])

    # arrays

    def _array(self):
        return self["tvm"].runtime.tensor(self["np"].zeros((64, 64), "float32"))

    _a = _b = _c = _tensor = _array

    def _dev(self):
        return self["tvm"].cpu()

    def _library(self):
        path = self.folder / "library.tar"
        self["ex"].export_library(str(path))
        return str(path)

    # a graph

    def _model_mod(self):
        relax, R = self["relax"], self["R"]
        bb = relax.BlockBuilder()
        x = relax.Var("x", R.Tensor((4, 8), "float32"))
        w = relax.Var("w", R.Tensor((8, 8), "float32"))
        with bb.function("main", [x, w], attrs={"num_input": 1}):
            with bb.dataflow():
                y = bb.emit_output(relax.op.nn.relu(relax.op.matmul(x, w)))
            bb.emit_func_output(y)
        mod = bb.get()
        if "MetaSchedule" not in self.text and "BindParams" not in self.text:
            mod = relax.transform.BindParams("main", self["params"])(mod)
        return mod

    def _params(self):
        return {"w": self["tvm"].runtime.tensor(self["np"].ones((8, 8), "float32"))}

    def _bb(self):
        return self["relax"].BlockBuilder()

    def _x(self):
        if "relax.op" in self.text:
            return self["relax"].Var("x", self["R"].Tensor((4, 8), "float32"))
        return self["tvm"].runtime.tensor(self["np"].zeros((4, 8), "float32"))

    def _w(self):
        return self["relax"].Var("w", self["R"].Tensor((8, 8), "float32"))

    def _vm(self):
        return self["relax"].VirtualMachine(self["ex"], self["tvm"].cpu())

    def _instrument(self):
        return lambda *_: None

    def _legalize(self):
        return lambda bb, call: call

    def _model(self):
        return self["torch"].nn.ReLU().eval()

    def _image(self):
        return self["torch"].zeros(1, 3)

    # a search

    def _schedule(self):
        return lambda sch: sch.sample_categorical([1, 2], [0.5, 0.5])

    def _idle(self):
        from tvm.ir.utils import derived_object

        builder = self["ms"].builder

        @derived_object
        class Idle(builder.PyBuilder):
            def build(self, build_inputs):
                return [builder.BuilderResult(None, "not built") for _ in build_inputs]

        return Idle()

    def _unused(self):
        from tvm.ir.utils import derived_object

        runner = self["ms"].runner

        @derived_object
        class Unused(runner.PyRunner):
            def run(self, runner_inputs):
                return []

        return Unused()

    def _db(self):
        ms = self["ms"]
        db = ms.database.MemoryDatabase()
        workload = db.commit_workload(self["mod"])
        sch = self["s_tir"].Schedule(self["mod"])
        sch.parallel(sch.get_loops("C")[0])
        info = ms.arg_info.ArgInfo.from_prim_func(self["mod"]["main"])
        db.commit_tuning_record(
            ms.database.TuningRecord(sch.trace, workload, [1.0], self["target"], info)
        )
        return db

    # another machine, which is this one

    def _tracker(self):
        import tvm.rpc.server
        import tvm.rpc.tracker

        tracker = tvm.rpc.tracker.Tracker(host="127.0.0.1", port=9190, port_end=9990, silent=True)
        server = tvm.rpc.server.Server(
            host="127.0.0.1",
            port=9190,
            port_end=9990,
            key="test",
            tracker_addr=("127.0.0.1", tracker.port),
            silent=True,
        )
        self.close += [server.terminate, tracker.terminate]
        return tracker

    def _port(self):
        return self["tracker"].port

    def _host(self):
        return "127.0.0.1"

    def _key(self):
        return "test"

    def _remote(self):
        return self["rpc"].connect_tracker("127.0.0.1", self["port"]).request("test")


_SEARCHED: set[str] = set()


def _run_one(line: str, context: _Context) -> None:
    if line.startswith("python -m "):
        command = [sys.executable, *line.split()[1:], "--help"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return
    try:
        ast.parse(line)
    except SyntaxError as error:
        raise AssertionError(f"{line!r} is no line of Python") from error
    if "ms.tune_tir(" in line:  # few candidates, none built, and once: it takes half a minute
        line = re.sub(r"=\d+", f"={TRIALS}, builder=idle, runner=unused", line)
        if line in _SEARCHED:
            return
        _SEARCHED.add(line)
    if re.fullmatch(r'"[\w.]+"|source|rpc_config|ms', line):
        return  # a word of the prose around the lines
    namespace = context.namespace(line)
    value = ast.parse(line).body[0]
    if isinstance(value, ast.Expr) and isinstance(value.value, ast.Attribute | ast.Name):
        _look_up(line, context)
    else:
        exec(compile(line, "the table", "exec"), namespace)


def _look_up(name: str, context: _Context) -> None:
    """A name that is only named; a module of it may have to be imported first."""
    root, *rest = name.split(".")
    value = context[root]
    assert value is not None, f"{root} is not defined"
    for part in rest:
        if not hasattr(value, part):
            importlib.import_module(f"{value.__name__}.{part}")
        value = getattr(value, part)


def run_rows(which: list[int], folder: str) -> dict[int, str]:
    """In a worker: why a line of these rows does not work, for those of which one does not."""
    from tvm_practice.common.measure import skip_tensor_intrinsics

    skip_tensor_intrinsics()  # every TuneContext would import them, for 20 seconds
    failures = {}
    for number in which:
        row = rows()[number]
        for part in row.new.split("; "):
            lines = list(old_names.spans(part))
            own = Path(folder) / f"{number}"
            own.mkdir(exist_ok=True)
            os.chdir(own)  # some write a file
            context = _Context(row, part, own)
            context.variables["folder"] = str(own)
            try:
                for line in lines:
                    _run_one(line, context)
            except BaseException:
                failures[number] = traceback.format_exc(limit=-4)[-1500:]
            finally:
                context.variables.clear()
                for close in context.close:
                    close()
    return failures


def _missing(row: Row) -> bool:
    return bool(row.needs) and importlib.util.find_spec(row.needs) is None


def test_every_line_of_today_works(tmp_path) -> None:
    numbers = [n for n, row in enumerate(rows()) if row.lines and not _missing(row)]
    assert len(numbers) >= FEWEST_ROWS
    failures = worker.call(run_rows, numbers, str(tmp_path), seconds=600)
    assert not failures, "\n".join(f"{rows()[n].old}: {why}" for n, why in failures.items())


# ------------------------------------------------------------------------- what a learner is told

# Bodies as somebody types them who has read a book about an older TVM, and what is said to each.
ANSWERS = {
    "s = te.create_schedule(C.op)": (
        "`te.create_schedule` is of an older TVM, removed in 0.20. Today: "
        "`sch = Schedule(te.create_prim_func([A, B, C]))`"
    ),
    "print(tvm.lower(None, simple_mode=True))": "`sch.mod.show()`",
    "from tvm import relay": (
        "`tvm.relay` is of an older TVM, removed in 0.20. Today: `from tvm import relax`"
    ),
    "import tvm.relay.testing": "Today: `relax.frontend.nn.Module`",
    "relay.frontend.from_pytorch(None)": (
        "`relay.frontend.from_pytorch` is of an older TVM, removed in 0.20. Today: "
        "`from tvm.relax.frontend.torch import from_exported_program`"
    ),
    "from tvm.auto_scheduler import SearchTask": "`ms.TuneContext(mod=mod, target=target)`",
    "autotvm.template('x')": "`ms.space_generator.ScheduleFn(schedule)`",
    "from tvm import auto_scheduler": "`from tvm.s_tir import meta_schedule as ms`",
    "from tvm.contrib import graph_executor": "`vm = relax.VirtualMachine(ex, tvm.cpu())`",
    "from tvm.contrib import utils": "`from tvm.support import cc, utils`",
    "from tvm import tir": "`from tvm import tirx, s_tir`",
    "from tvm.script import tir": "`from tvm.script import tirx as T`",
    "tvm.nd.array([1])": "`a = tvm.runtime.tensor(",
    "tvm.gpu(0)": "`tvm.cuda(0)`",
    "tvm.register_func('x')": "`tvm.register_global_func(",
    "tvm.runtime.empty((1,)).asnumpy()": "`.asnumpy` is of an older TVM",
    "sch.get_block('C')": "`block = sch.get_sblock(",
    "sch.tile(i, j, 8, 8)": "`sch.reorder(io, jo, ii, ji)`",
    "sch['C']": "`sch.get_sblock(",
    "sch.get_sblock('C').op.axis": "`i, j, k = sch.get_loops(",
    "sch.get_sblock('C').split(i)": "`io, ii = sch.split(i, [None, 32])`",
    "sch[Undefined].split(i)": "`io, ii = sch.split(i, [None, 32])`",
    "s[C].tile(i, j, 8, 8)": "`s[C].tile` is of an older TVM, removed in 0.20. Today: `io, ii = ",
    "tvm.placeholder((M, K))": (
        "`tvm.placeholder` is of an older TVM, removed in 0.7. Today: "
        '`te.placeholder((16, 16), name="A")`.'
    ),
    "import topi": "`topi` is of an older TVM, removed in 0.7. Today: `from tvm import topi`.",
    "sch.split(i, factor=8)": "`io, ii = sch.split(i, [None, 32])`",
    "sch.bind(i, te.thread_axis('threadIdx.x'))": '`sch.bind(i, "threadIdx.x")`',
    "sch.cache_write('C', 'local')": '`sch.cache_write("C", 0, "local")`',
    "sch.cache_read(A, 'shared', [C])": '`sch.cache_read("C", 0, "shared")`',
    "Schedule(C.op)": "`sch = Schedule(te.create_prim_func(",
    "tvm.build(sch, [A, B, C], 'llvm')": "`ex = tvm.compile(sch.mod, target=target)`",
    "tvm.build(sch, [A, B, C], target='llvm')": "`ex = tvm.compile(sch.mod, target=target)`",
    "tvm.target.Target('llvm -mcpu=haswell -num-cores=4')": (
        '"llvm -mcpu=haswell -num-cores=4" is of an older TVM, removed in 0.24. Today: '
        '`tvm.target.Target({"kind": "llvm", "mcpu": "haswell", "num-cores": 4})`'
    ),
    "tvm.compile(sch.mod, target='cuda -arch=sm_70')": '{"kind": "cuda", "arch": "sm_70"}',
    "tvm.compile(sch)": "`ex = tvm.compile(sch.mod, target=target)`",
    "sch.compute_inline(C)": '`sch.get_sblock("C")` (or just the name',
    "sch.tensorize(i, object())": "`s_tir.TensorIntrin.register(",
    "tvm.transform.PassContext(config={'tir.disable_vectorize': True})": '"tirx.disable_vectorize"',
    "tvm.compile(sch.mod, 'llvm').get_source('asm')": '`ex.mod.inspect_source("asm")`',
    "from tvm.driver import tvmc": "and nothing took its place (a Python script).",
}
BODY = """
def answer(M, N, K):
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule

    A, B = te.placeholder((M, K), name="A"), te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    sch = Schedule(te.create_prim_func([A, B, C]))
    i, j, _ = sch.get_loops("C")
    {line}
    return [A, B, C]
"""


@pytest.mark.parametrize("line", ANSWERS)
def test_an_old_name_is_told_with_the_line_of_today(line: str, tmp_path) -> None:
    file = tmp_path / "answer.py"
    file.write_text(BODY.format(line=line))
    outcome = grade("1.1", f"{file}:answer")
    assert outcome.state == "wrong"
    assert f"At line 12, `{line}`: " in outcome.sentence
    assert ANSWERS[line] in outcome.sentence, outcome.sentence


@pytest.mark.parametrize(
    ("line", "not_said"),
    [
        ("te.nothing_like_it", "older TVM"),
        ("import nothing_like_it", "older TVM"),
        ("{}['x'].tile", "older TVM"),
        ("tvm.target.Target('lllvm')", "older TVM"),
        ("sch.split(i, [7, 7, 7, None, None])", "older TVM"),
        ("relayed", "older TVM"),
        ("undefined['x'].split(',')", "older TVM"),
        ("a[0]", "older TVM"),
    ],
)
def test_other_mistakes_are_not_taken_for_old_names(line: str, not_said: str, tmp_path) -> None:
    file = tmp_path / "answer.py"
    file.write_text(BODY.format(line=line))
    outcome = grade("1.1", f"{file}:answer")
    assert outcome.state == "wrong"
    assert not_said not in outcome.sentence


def test_an_old_name_is_told_where_its_module_was_not_imported_either(tmp_path) -> None:
    file = tmp_path / "answer.py"
    file.write_text("def answer(M, N, K):\n    return tvm.compute((M, N), lambda i, j: 0)\n")
    sentence = grade("1.1", f"{file}:answer").sentence
    assert "`tvm.compute` is of an older TVM, removed in 0.7. Today: `te.compute`." in sentence
    file.write_text("def answer(M, N, K):\n    return tvm.compile(1)\n")
    assert "older TVM" not in grade("1.1", f"{file}:answer").sentence


def _lesson_with(line: str, folder: str) -> str:
    """What is said of a lesson file with this line at its top. Runs in a worker."""
    source = exercise.source("te_basics").replace("\nfrom tvm", f"\n{line}\nfrom tvm", 1)
    assert line in source
    exercise.PACKAGE = Path(folder)
    (exercise.PACKAGE / "te_basics.py").write_text(source, encoding="utf-8")
    try:
        exercise.body("1.1", exercise.LEARNER)
    except exercise.BrokenLesson as error:
        return str(error)
    return "nothing"


def test_an_old_import_at_the_top_of_a_lesson_is_told(tmp_path) -> None:
    told = worker.call(_lesson_with, "from tvm import relay, autotvm", str(tmp_path))
    assert "line " in told and "`from tvm import relay, autotvm`" in told
    assert "`tvm.relay` is of an older TVM, removed in 0.20" in told
    assert "`from tvm import relax`" in told


# ------------------------------------------------------------------------------------- the data


def test_every_row_says_what_to_write_or_that_there_is_nothing() -> None:
    assert len(rows()) >= FEWEST_ROWS
    for row in rows():
        assert row.lines or row.new == "none", row.old
        assert "|" not in row.old + row.new + row.note, f"{row.old}: | would end the cell"


def test_an_old_name_stands_in_one_row_only() -> None:
    for key, known in old_names._index().items():
        details = [frozenset(words) for words, _ in known]
        of_rows = {id(row) for _, row in known}
        assert len(of_rows) == 1 or len(set(details)) == len(details), (
            f"{key} stands in several rows that nothing tells apart"
        )
