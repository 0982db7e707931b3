"""Runs the kernels of a scheduled function on the CPU, thread by thread, and says what is wrong
with them.

`simulated(function)` is called like a compiled function. What it finds, it raises as
`verify.Wrong`: a race (a missing barrier), threads that part at a barrier, an index outside of its
array, shared memory that is read before it is written, a misaligned vector access. See simulator.h
for how.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.common.cuda.kernels import WARP, Kernel, assert_can_be_launched, kernels
from tvm_practice.common.loop_nest import LoopNest, loop_nest
from tvm_practice.common.target import UnusableTarget, require_compiler
from tvm_practice.common.verify import Wrong

if TYPE_CHECKING:
    import tvm

HEADER = Path(__file__).with_name("simulator.h")
ASCENDING, DESCENDING, SHUFFLED = 0, 1, 2
ORDERS = (ASCENDING, SHUFFLED)
MOST_ARRAYS = 64

_COMPILE = (
    *("-std=c++17", "-O1", "-g1", "-w", "-fPIC", "-c", "-fno-strict-aliasing"),
    *("-U_FORTIFY_SOURCE", "-fcf-protection=none", "-fsanitize=thread", "-fsanitize=bounds"),
    "-fno-tree-sra",  # a float4 stays one access of 16 bytes
    "-fstack-clash-protection",  # no array reaches beyond the guard at the end of a thread's stack
)


# ----------------------------------------------------------------------------- what simulator.h has


class _Array(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("element", ctypes.c_uint32),
        ("written", ctypes.c_uint32),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("order", ctypes.c_uint32),
        ("chosen_count", ctypes.c_uint32),
        ("chosen", ctypes.POINTER(ctypes.c_uint32)),
    )


class _Trace(ctypes.Structure):
    _fields_ = (
        ("accesses", ctypes.c_void_p),
        ("capacity", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
    )


class _Finding(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("kind", "write", "site", "other_site")),
        *((name, ctypes.c_uint32) for name in ("array", "size")),
        ("offset", ctypes.c_int64),
        *((name, ctypes.c_uint32) for name in ("block", "thread", "other_block", "other_thread")),
        *((name, ctypes.c_uint32) for name in ("waiting", "elsewhere", "meeting", "where")),
    )


# Access in simulator.h.
ACCESS = np.dtype(
    [("site", "u4"), ("offset", "u4"), ("thread", "u2"), ("array", "u1"), ("size", "u1")]
)
WRITE = 128  # what `size` has on top where it is a write
KINDS = (
    *("nothing", "outside", "misaligned", "unwritten", "read after write", "write after read"),
    *("overwritten", "write after write", "divergence", "warp divergence", "local outside"),
    "two barriers",
)
MEETINGS = ("at a barrier of the warp", "at a shuffle", "at an operation of the tensor cores")
ELSEWHERE = (
    *("{count} others have returned", "{count} others wait at a barrier of the block{there}"),
    *("{count} others are at another place{there}", "{count} of them are not in the mask"),
)


@dataclass(frozen=True)
class Finding:
    """What is wrong with a kernel: one of KINDS, and the sentence about it."""

    kind: str
    sentence: str


@dataclass(frozen=True)
class Traced:
    """Every access of some blocks of one kernel, in the order of each thread.

    accesses: records of ACCESS; `array` counts the parameters first, then the shared arrays.
    lines: by site, the line of the kernel's source, counted from 1.
    """

    kernel: Kernel
    accesses: np.ndarray
    lines: dict[int, int]


# ------------------------------------------------------------------------------------ the simulator


class Simulated:
    """The kernels of one function, compiled for the CPU.

    Called with the function's arguments, as arrays or TVM tensors, it launches them in order and
    writes the outputs. Raises Wrong for whatever the simulator finds, and where the result depends
    on the order of the threads.
    """

    def __init__(self, made: Sequence[Kernel], nest: LoopNest, parameters: Sequence[str]) -> None:
        self.kernels = tuple(made)
        self.nest = nest
        self.parameters = tuple(parameters)
        self._before: list[np.ndarray] = []  # the arguments of the last call, as they were given
        for kernel in self.kernels:
            assert_can_be_launched(kernel)
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="tvm-practice-cuda-")
            self._library_path = _compiled(self.kernels, Path(self._folder.name))
            self._library = ctypes.CDLL(str(self._library_path))
        except OSError as error:
            raise UnusableTarget(
                f"{_NOT_COMPILED}: {error.strerror or error}. {_ELSEWHERE}"
            ) from None

    def __call__(self, *tensors: Any) -> None:
        views = [np.from_dlpack(tensor) for tensor in tensors]
        self._before = before = [np.array(view) for view in views]
        results = []
        for order in ORDERS:
            arrays = [np.array(one) for one in before]
            if (found := self.run(arrays, order)) is not None:
                raise Wrong(found.sentence)
            results.append(arrays)
        for name, *runs in zip(self.parameters, *results, strict=True):
            if not all(np.array_equal(runs[0], other, equal_nan=True) for other in runs[1:]):
                raise Wrong(
                    f"{name} depends on the order in which the threads of a block run: two orders "
                    "gave two results."
                )
        for view, result in zip(views, results[0], strict=True):
            ctypes.memmove(view.ctypes.data, result.ctypes.data, result.nbytes)

    def run(
        self,
        arrays: Sequence[np.ndarray],
        order: int = ASCENDING,
        blocks: Sequence[int] | None = None,
        only: int | None = None,
    ) -> Finding | None:
        """Launch every kernel on contiguous arrays, which are changed in place.

        order: of the threads in a block; SHUFFLED and beyond are seeds, each of which gives the
        same order again. blocks: which of them, x fastest; None for all. only: the number of the
        one kernel to launch. Returns what was found, if anything; nothing runs after it.
        """
        known = self._named(arrays)
        for number in range(len(self.kernels)) if only is None else (only,):
            if (found := self._launch(number, known, order, blocks, None)) is not None:
                return found
        return None

    def trace(
        self, arrays: Sequence[np.ndarray], block: int | None = None, capacity: int = 1 << 22
    ) -> tuple[Traced, ...]:
        """Every access of one block of each kernel, the middle one unless told. Raises Wrong if
        something is found."""
        known = self._named(arrays)
        traced = []
        for number, kernel in enumerate(self.kernels):
            chosen = kernel.blocks // 2 if block is None else min(block, kernel.blocks - 1)
            accesses = self._accesses(number, known, chosen, capacity)
            sites = [int(site) for site in np.unique(accesses["site"])]
            traced.append(Traced(kernel, accesses, self._lines(sites)))
        return tuple(traced)

    def written(self, name: str, where: Sequence[int]) -> str:
        """Which thread of which block wrote an element of an argument, in the call before this, as
        a sentence; "" where a block makes too many accesses to be looked through."""
        known = self._named([np.array(one) for one in self._before])
        strides = known[name].strides
        offset = sum(index * stride for index, stride in zip(where, strides, strict=True))
        for number, kernel in reversed(list(enumerate(self.kernels))):
            if name not in kernel.parameters:
                continue
            array = kernel.parameters.index(name)
            for block in reversed(range(kernel.blocks)):
                try:
                    made = self._accesses(number, known, block)
                except ValueError:
                    return ""
                start, size = made["offset"].astype("i8"), made["size"].astype("i8") - WRITE
                hit = (made["array"] == array) & (start <= offset) & (offset < start + size)
                if hit.any():
                    thread = _index(int(made["thread"][hit][-1]), kernel.block)
                    within = _index(block, kernel.grid)
                    return f"It was written by thread {thread} of block {within}."
        return f"No thread writes {name}[{', '.join(map(str, where))}]."

    def _accesses(
        self, number: int, known: dict[str, np.ndarray], block: int, capacity: int = 1 << 22
    ) -> np.ndarray:
        """Every access of one block of a kernel. Raises Wrong if something is found."""
        accesses = np.zeros(capacity, ACCESS)
        into = _Trace(accesses.ctypes.data, capacity, 0)
        if (found := self._launch(number, known, ASCENDING, [block], into)) is not None:
            raise Wrong(found.sentence)
        if into.count > capacity:
            raise ValueError(f"{into.count:,} accesses, room for {capacity:,}; a smaller size?")
        return accesses[: into.count].copy()

    def _named(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        known = dict(zip(self.parameters, arrays, strict=True))
        for name, shape, scope in self.nest.buffers:  # what lies between two kernels
            if scope in ("", "global"):
                dtype = next(
                    dtype
                    for kernel in self.kernels
                    for parameter, dtype in zip(kernel.parameters, kernel.dtypes, strict=True)
                    if parameter == name
                )
                known[name] = np.empty([int(extent) for extent in shape], dtype)
                known[name].view(np.uint8).fill(0xFF)  # NaN, or -1: nobody has written it yet
        return known

    def _launch(
        self,
        number: int,
        known: dict[str, np.ndarray],
        order: int,
        blocks: Sequence[int] | None,
        trace: _Trace | None,
    ) -> Finding | None:
        kernel = self.kernels[number]
        arrays = [known[name] for name in kernel.parameters]
        shared = kernel.shared
        table = (_Array * (len(arrays) + len(shared)))(
            *(_Array(one.ctypes.data, one.nbytes, one.itemsize) for one in arrays),
            *(_Array(None, one.bytes, one.bytes // one.extent) for one in shared),
        )
        chosen = (ctypes.c_uint32 * len(blocks))(*blocks) if blocks else None
        launch = _Launch(
            (ctypes.c_uint32 * 3)(*kernel.grid),
            (ctypes.c_uint32 * 3)(*kernel.block),
            order,
            len(blocks or ()),
            chosen,
        )
        found = _Finding()
        ran = self._library.simulate(
            ctypes.c_uint32(number),
            table,
            ctypes.c_uint32(len(table)),
            ctypes.byref(launch),
            ctypes.byref(trace) if trace is not None else None,
            ctypes.byref(found),
        )
        if not ran:
            raise MemoryError("the simulator's arrays do not fit into memory")
        return self._told(kernel, arrays, found) if found.kind else None

    # ------------------------------------------------------------------------ findings as sentences

    def _told(self, kernel: Kernel, arrays: Sequence[np.ndarray], found: _Finding) -> Finding:
        kind = KINDS[found.kind]
        sites = [found.site, found.other_site] if found.other_site else [found.site]
        lines = self._lines(sites)
        here = self._block(kernel, lines.get(found.site))
        there = self._block(kernel, lines.get(found.other_site))
        thread = f"thread {_index(found.thread, kernel.block)}"
        block = _index(found.block, kernel.grid)
        if kind == "warp divergence":
            where = ELSEWHERE[found.where].format(
                count=found.elsewhere, there=_at(kernel, lines.get(found.other_site))
            )
            sentence = (
                f"In block {block}, {found.waiting} threads of a warp wait for each other "
                f"{MEETINGS[found.meeting]}{_at(kernel, lines.get(found.site))}, and {where}. All "
                "threads that its mask names must come to the same place, so it may not stand "
                "under a condition that holds for some of them."
            )
            return Finding(kind, sentence)
        if kind == "two barriers":
            sentence = (
                f"In block {block}, {found.waiting} threads wait at one barrier"
                f"{_at(kernel, lines.get(found.site))} and {found.elsewhere} at another"
                f"{_at(kernel, lines.get(found.other_site))}. All threads of a block must come to "
                "the same barrier, so it may not stand under a condition that holds for some."
            )
            return Finding(kind, sentence)
        if kind == "divergence":
            sentence = (
                f"In block {block}, {found.waiting} threads wait at a barrier{here}, and "
                f"{found.elsewhere} have returned: they will wait for ever. A barrier must be "
                "reached by all threads of a block or by none, so it may not stand under a "
                "condition that holds for some."
            )
            return Finding(kind, sentence)
        if kind == "local outside":
            line = lines.get(found.site)
            text = f", `{_line(kernel, line)}`" if line else ""
            sentence = f"In block {block}, {thread} goes outside of a local array{here}{text}."
            return Finding(kind, sentence)
        names = [*kernel.parameters, *(array.name for array in kernel.shared)]
        elements = [
            *(array.itemsize for array in arrays),
            *(array.bytes // array.extent for array in kernel.shared),
        ]
        sizes = [*(array.size for array in arrays), *(array.extent for array in kernel.shared)]
        name, element, size = (known[found.array] for known in (names, elements, sizes))
        verb = "writes" if found.write else "reads"
        index = found.offset // element
        what = f"In block {block}, {thread} {verb} {name}[{index}]{here}"
        if kind == "outside":
            wide = f", {found.size // element} elements at once" if found.size > element else ""
            sentence = (
                f"{what}{wide}, but {name} has {size} elements (all of its dimensions in one row)."
            )
        elif kind == "misaligned":
            sentence = (
                f"{what}, {found.size} bytes at once, at an address that is no multiple of "
                f"{found.size}: a GPU refuses it. A vectorized access starts at a multiple of its "
                "width."
            )
        elif kind == "unwritten":
            sentence = (
                f"{what}, which no thread has written: shared memory holds anything when a block "
                f"starts. Does the copy into {name} bring all that is read?"
            )
        else:
            other = f"thread {_index(found.other_thread, kernel.block)}"
            if found.other_block != found.block:
                other += f" of block {_index(found.other_block, kernel.grid)}"
                does = "reads" if kind == "write after read" else "writes"
                as_well = " as well" if kind == "write after write" else ""
                told = f"which {other} {does}{as_well}{there}: {_BETWEEN_BLOCKS}"
                if kind == "write after write":
                    told = f"{told} {_ONE_WRITER}"
                else:
                    told = f"{told} {_NO_WAITING.format(name=name)}"
                return Finding(kind, f"{what}, {told}")
            sentence = f"{what}, {_RACES[kind].format(other=other, there=there, name=name)}"
            if found.thread // WARP == found.other_thread // WARP:
                sentence += _IN_STEP
        return Finding(kind, sentence)

    def _lines(self, sites: Sequence[int]) -> dict[int, int]:
        """By site, the line of the kernel's source that it belongs to; addr2line knows."""
        if not sites or shutil.which("addr2line") is None:
            return {}
        # A return address is where the call comes back to: the call itself lies just before it.
        command = ["addr2line", "-i", "-a", "-e", str(self._library_path)]
        answer = subprocess.run(
            [*command, *(hex(site - 1) for site in sites)], capture_output=True, text=True
        ).stdout
        lines: dict[int, int] = {}
        site = 0
        for text in answer.splitlines():
            if text.startswith("0x"):
                site = int(text, 16) + 1
            elif found := re.search(r"kernel_\d+:(\d+)", text):
                lines.setdefault(site, int(found[1]))
        return lines

    def _block(self, kernel: Kernel, line: int | None) -> str:
        """The TensorIR block that a line of the kernel comes from, for a sentence: the one that
        stores into the array that the line stores into."""
        if line is None:
            return ""
        stored = re.match(r"\s*\*?\(?(?:\(\w+\*\)\()?(\w+?)_ptr\b", _line(kernel, line))
        if stored is None:
            return ""
        blocks = [block.name for block in self.nest.blocks if block.stores_to == stored[1]]
        return f' in the block "{blocks[-1]}"' if blocks else ""


_ONE_WRITER = "Each element should be one thread's to write."
_RACES = {
    "read after write": (
        "which {other} writes{there}, and no barrier stands between the two: in another order of "
        "the threads, it reads what was there before. A barrier is missing after {name} is filled."
    ),
    "write after read": (
        "which {other} reads{there}, and no barrier stands between the two: in another order of "
        "the threads, that one reads the new value. A barrier is missing before {name} is filled "
        "again."
    ),
    "overwritten": (
        "which {other} has filled again{there}, and no barrier stands between the two: it should "
        "have read what was there before. A barrier is missing before {name} is filled again."
    ),
    "write after write": (
        "which {other} writes as well{there}, and no barrier stands between the two: which of them "
        f"is last is chance. {_ONE_WRITER}"
    ),
}
_BETWEEN_BLOCKS = "blocks run in any order, and none can wait for another."
_NO_WAITING = (
    "Either what fills {name} is a kernel of its own, which ends before the next one starts, or "
    "each block computes for itself what it needs of it."
)

_IN_STEP = (
    " (Both are threads of one warp. Before Volta a warp ran in step, and programs could rely on "
    "it; since then they may not.)"
)


def simulated(function: tvm.tirx.PrimFunc | tvm.IRModule) -> Simulated:
    """The kernels of a scheduled function, ready to be called with its arguments.

    Raises NoKernel where nothing is bound to threads, Wrong where a GPU would refuse the launch,
    UnusableTarget where g++ is missing, or cannot compile anything.
    """
    import tvm

    main = function["main"] if isinstance(function, tvm.IRModule) else function
    names = [buffer.name for buffer in main.params]
    return Simulated(kernels(function), loop_nest(function), names)


# ----------------------------------------------------------------------------- compiling the source


def _compiled(made: Sequence[Kernel], folder: Path) -> Path:
    """Compile kernels to a library whose function `simulate` launches one by its number."""
    source, compiled, library = (folder / name for name in ("all.cc", "all.o", "all.so"))
    pieces = [f'#include "{HEADER}"']
    for number, kernel in enumerate(made):
        pieces += [f'#line 1 "kernel_{number}"', _for_the_cpu(kernel), '#line 1 "launch"']
        pieces.append(_launcher(number, kernel))
    names = ", ".join(f"launch_{number}" for number in range(len(made)))
    pieces.append(
        f"static void (*const launches[])() = {{{names}}};\n"
        'extern "C" int simulate(uint32_t number, simulator::Array* arrays, uint32_t count, '
        "const simulator::Launch* launch, simulator::Trace* trace, simulator::Finding* found) {\n"
        "  return simulator::run(launches[number], arrays, count, *launch, trace, found, "
        "simulated_arguments);\n}"
    )
    source.write_text("\n".join(pieces))
    compiler = require_compiler()
    _run([compiler, *_COMPILE, *_poison(compiler), str(source), "-o", str(compiled)])
    _run([compiler, "-shared", str(compiled), "-o", str(library)])  # without ThreadSanitizer's own
    return library


@cache
def _poison(compiler: str) -> tuple[str, ...]:
    """Fill local arrays with a pattern, so that one that is read too early shows; since g++ 12."""
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True).stdout
    major = re.match(r"\d+", version)
    return ("-ftrivial-auto-var-init=pattern",) if major and int(major[0]) >= 12 else ()


def _run(command: Sequence[str]) -> None:
    english = {**os.environ, "LC_ALL": "C"}  # for _IN_A_KERNEL
    done = subprocess.run(command, capture_output=True, text=True, env=english)
    if not done.returncode:
        return
    first = next((text for text in done.stderr.splitlines() if "error" in text), done.stderr)
    if _IN_A_KERNEL.search(done.stderr):
        raise RuntimeError(f"g++ cannot compile the kernel for the CPU: {first.strip()}")
    # Nothing is said about the kernel's source: whatever it is, this machine cannot compile it.
    raise UnusableTarget(
        f"{_NOT_COMPILED}: {first.strip()[:300] or 'no reason given'}. {_ELSEWHERE}"
    )


_IN_A_KERNEL = re.compile(r"^(?:kernel_\d+|launch):[\d:]+ (?:error:|  required from)", re.MULTILINE)
_NOT_COMPILED = "--target cuda-sim compiles the kernels for the CPU with g++, and that fails here"
_ELSEWHERE = (
    "Does `g++ --version` answer, and is there room in the folder for temporary files? "
    "TMPDIR=FOLDER before the command takes another one."
)


def _for_the_cpu(kernel: Kernel) -> str:
    """The kernel's source with its shared arrays where the simulator keeps them; line for line."""
    count = itertools.count()

    def placed(array: re.Match[str]) -> str:
        kind, name, extent = array[1], array[2], array[3]
        place = f"simulator::shared({next(count)})"
        return f"{kind} (&{name})[{extent}] = *({kind}(*)[{extent}]){place};"

    source = re.sub(
        r"__shared__ (?:(?:alignas|__align__)\(\d+\) )?([\w ]+?) (\w+)\[(\d+)\];",
        placed,
        kernel.source,
    )
    if found := re.search(r"\basm\b[^;]*;|extern __shared__[^;]*;", source):
        raise RuntimeError(f"the simulator does not know `{found[0].strip()[:80]}`")
    return source


def _launcher(number: int, kernel: Kernel) -> str:
    head = re.search(rf"{kernel.name}\((.*)\) \{{$", kernel.source, re.MULTILINE)[1]
    types = [
        re.sub(r"\bconst\b|__restrict__", "", one.strip().rpartition(" ")[0]).strip()
        for one in head.split(",")
    ]
    given = ", ".join(f"({kind})simulated_arguments[{n}]" for n, kind in enumerate(types))
    storage = f"static void* simulated_arguments[{MOST_ARRAYS}];\n" if number == 0 else ""
    return f"{storage}static PLAIN void launch_{number}() {{ {kernel.name}({given}); }}"


def _index(number: int, extents: tuple[int, int, int]) -> str:
    """A thread of a block, or a block of the grid, by its x, y, z, as far as there are several."""
    x, y, z = extents
    coordinates = (number % x, number // x % y, number // x // y)
    rank = 3 if z > 1 else 2 if y > 1 else 1
    if rank == 1:
        return str(coordinates[0])
    return f"({', '.join(map(str, coordinates[:rank]))})"


def _at(kernel: Kernel, line: int | None) -> str:
    """A line of the kernel, for a sentence."""
    return f" (line {line} of the kernel, `{_line(kernel, line)}`)" if line else ""


def _line(kernel: Kernel, line: int) -> str:
    lines = kernel.source.splitlines()
    return lines[line - 1].strip()[:160] if line <= len(lines) else ""
