"""The ladders of the course for the page: every primitive with its loop nest, the accesses of the
program after it on a small size, and how many of them a simulated cache misses.

`made` needs TVM and runs in a worker process; what it returns is plain data for JSON.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tvm_practice.common import cache, exercise
from tvm_practice.common.accesses import MOST_BUFFERS, Buffer, Program, accesses, trace
from tvm_practice.common.cache import FLOAT, Level
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.loop_nest import LoopNest, loop_nest

SIDE = 32  # of the small matrices
TILE = (4, 8)  # rows and columns of the small register tile: two lines of the small cache wide
REAL_SIDE = 1024  # of the matrices that the small caches are made for
SAMPLES, TAPS = 225, 32  # of the small convolution
LONGEST_LINE = 240  # characters of a line of a nest, as in `show`


@dataclass(frozen=True)
class Ladder:
    """What is known of a ladder before it is climbed.

    name: as the benchmarks call it. lesson: whose report has its times. size: of what is drawn;
    usual: of what is measured. note: what to know of the simulation here. small_caches: the arrays
    stand for larger ones, and so must the caches. also: by a part of the ladder, what else its
    times are called.
    """

    name: str
    title: str
    formula: str
    lesson: str
    exercises: tuple[str, ...]
    size: tuple[int, ...]
    usual: tuple[int, ...]
    note: str
    small_caches: bool = True
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)


LADDERS = (
    Ladder(
        "matmul",
        "Matrix multiplication",
        "C = A B",
        "manual_schedule",
        ("2.1", "2.2", "2.3", "2.4", "2.5"),
        (SIDE,) * 3,
        (REAL_SIDE,) * 3,
        "Packing copies B and gains nothing here: what it is for, the pages of a large B that the "
        "TLB cannot hold, is not simulated.",
    ),
    Ladder(
        "fused_gelu",
        "A matmul with a fused epilogue",
        "G = gelu(A B + bias)",
        "fused_gelu",
        ("fused_gelu.1", "fused_gelu.2", "fused_gelu.3"),
        (SIDE,) * 3,
        (REAL_SIDE,) * 3,
        "Fusing saves the passes over C: watch what C and G cost before and after.",
        also={"pack B": ("fused", "hand")},
    ),
    Ladder(
        "conv1d",
        "One-dimensional convolution",
        "C[i] = sum of D[i - k] W[k] over k",
        "conv1d",
        ("conv1d.1", "conv1d.2", "conv1d.3", "conv1d.4", "conv1d.5"),
        (SAMPLES, TAPS),
        (4096, 128),
        "All of it fits into the first cache, so nothing is missed twice: this ladder is about the "
        "number of loads, vectors and registers. Watch how often P and T are touched. What the "
        "last rung saves, a vector that several taps share, the compiler does with its program "
        "afterwards; it is not counted here.",
        small_caches=False,
        also={"fewer loads": ("hand",)},
    ),
)


# ---------------------------------------------------------------------------------- run in a worker


def made(name: str, whose: dict[str, str]) -> dict[str, Any]:
    """Climb a ladder with the given bodies; every step of it as plain data."""
    import tvm

    from tvm_practice.common.replay import main_of

    ladder = next(one for one in LADDERS if one.name == name)
    levels = cache.machine_levels()
    if ladder.small_caches:
        levels = cache.scaled(levels, SIDE, REAL_SIDE)
    steps: list[dict[str, Any]] = []
    before: LoopNest | None = None
    for part, call, changes, module in _CLIMBS[name](ladder.size, whose):
        function = main_of(module if isinstance(module, tvm.IRModule) else tvm.ir.load_json(module))
        nest, program = loop_nest(function), accesses(function)
        steps.append(
            {
                "part": part,
                "call": call,
                "changes": list(changes),
                "lines": marked(before, nest),
                "program": as_data(program),
                "misses": counted(program, levels),
            }
        )
        before = nest
    return {
        "levels": [asdict(level) for level in levels],
        "machine_levels": [asdict(level) for level in cache.machine_levels()],
        "steps": steps,
    }


# (the exercise or rung that a step belongs to, the call, what it changed, the program after it)
_Step = tuple[str, str, Sequence[str], Any]


def _matmul(size: tuple[int, ...], whose: dict[str, str]) -> Iterator[_Step]:
    lesson = exercise.load_lesson("manual_schedule")
    sch, parts = lesson.matmul(*size), []
    for known, name in lesson.LADDER.items():
        lesson.climb(sch, known, exercise.body(known, whose[known]), *TILE)
        parts.append((f"{known} {name}", len(sch.trace.insts)))
    yield from _replayed("naive", lesson.matmul(*size).mod, sch, parts)


def _fused_gelu(size: tuple[int, ...], whose: dict[str, str]) -> Iterator[_Step]:
    from tvm import te
    from tvm.s_tir import Schedule

    lesson = exercise.load_lesson("fused_gelu")
    tanh, expression, fuse = (exercise.body(known, whose[known]) for known in whose)
    function = te.create_prim_func(expression(*size, lambda x: lesson.gelu(x, tanh)))
    sch, parts = Schedule(function), []
    for name, climb in (
        ("ladder of phase 2", lambda: lesson.ladder(sch, *TILE)),
        ("fused_gelu.3 fuse", lambda: fuse(sch)),
        ("pack B", lambda: lesson.pack(sch, TILE[1])),
    ):
        climb()
        parts.append((name, len(sch.trace.insts)))
    yield from _replayed("two stages", Schedule(function).mod, sch, parts)


def _conv1d(size: tuple[int, ...], whose: dict[str, str]) -> Iterator[_Step]:
    lesson = exercise.load_lesson("conv1d")
    bodies = {known: exercise.body(known, who) for known, who in whose.items()}
    rungs = lesson.ladder(*size, bodies)
    yield "naive", "", (), rungs["naive"].mod
    yield (
        "fewer terms",
        "",
        ("another expression: the sum is over the taps",),
        rungs["fewer terms"].mod,
    )
    parts = [
        (name, len(sch.trace.insts))
        for name, sch in rungs.items()
        if name not in ("naive", "fewer terms", "no test")
    ]
    told = ("another expression: D is copied with zeros on both sides, and no test is left",)
    last = list(rungs.values())[-1]
    for number, step in enumerate(_replayed("no test", rungs["no test"].mod, last, parts)):
        yield (*step[:2], told, step[3]) if number == 0 else step


_CLIMBS: dict[str, Callable[[tuple[int, ...], dict[str, str]], Iterator[_Step]]] = {
    "matmul": _matmul,
    "fused_gelu": _fused_gelu,
    "conv1d": _conv1d,
}


def _replayed(
    first: str, start: Any, sch: Any, parts: Sequence[tuple[str, int]]
) -> Iterator[_Step]:
    """Every primitive of a schedule's trace; `parts` has each part's last instruction."""
    from tvm_practice.common.replay import replay

    for step in replay(start, sch.trace).steps:
        part = next((name for name, last in parts if 0 < step.instruction <= last), first)
        yield part, step.call.removeprefix("sch."), step.changes, step.module


# ------------------------------------------------------------------------------------ as plain data


def marked(before: LoopNest | None, after: LoopNest) -> list[tuple[str, int, str]]:
    """The lines of a nest as (mark, depth, text): "+" came, "-" went, "" stayed. Lines are compared
    without their indentation, as `show.nest` does it."""
    old = [] if before is None else [line.text for line in before.lines]
    new = [line.text for line in after.lines]
    found: list[tuple[str, int, str]] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if before is not None and kind != "equal":
            found += [("-", line.depth, _short(line.text)) for line in before.lines[a:b]]
        mark = "" if kind == "equal" or before is None else "+"
        found += [(mark, line.depth, _short(line.text)) for line in after.lines[c:d]]
    return found


def _short(text: str) -> str:
    """A polynomial in one statement is longer than anybody reads."""
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[: LONGEST_LINE - 30]} ... {len(text)} characters"


def as_data(program: Program) -> dict[str, Any]:
    return {
        "buffers": [
            {"name": one.name, "shape": one.shape, "registers": one.registers}
            for one in program.buffers
        ],
        "loops": program.loops,
        "body": program.body,
    }


def first_lines(buffers: Sequence[Buffer], line_bytes: int) -> list[int]:
    """Where each buffer starts, in lines: one behind the other, each on a line of its own."""
    starts, following = [], 0
    for one in buffers:
        starts.append(following)
        if not one.registers:
            following += -(-one.size * FLOAT // line_bytes)
    return starts


def counted(program: Program, levels: Sequence[Level]) -> dict[str, list[int]]:
    """For each buffer in memory: how often it is touched, and how often each level misses."""
    return _counted(program.buffers, trace(program).tobytes(), tuple(levels))


@functools.cache  # most primitives leave the order of the accesses as it is
def _counted(
    buffers: tuple[Buffer, ...], run: bytes, levels: tuple[Level, ...]
) -> dict[str, list[int]]:
    starts = first_lines(buffers, levels[0].line_bytes)
    floats = levels[0].line_bytes // FLOAT
    hierarchy = cache.Hierarchy(levels)
    found = {n: [0] * (1 + len(levels)) for n, one in enumerate(buffers) if not one.registers}
    for access in memoryview(run).cast("Q"):
        place, buffer = divmod(access >> 1, MOST_BUFFERS)
        counts = found[buffer]
        counts[0] += 1
        for level in range(hierarchy.touch(starts[buffer] + place // floats)):
            counts[1 + level] += 1
    return {buffers[n].name: counts for n, counts in found.items()}


# -------------------------------------------------------------------------------------------- whose


def told_of_bodies(whose: dict[str, str], solutions: bool) -> str:
    yours = [known for known, who in whose.items() if who == LEARNER]
    if len(yours) == len(whose):
        return "Built from your own answers."
    if yours:
        return f"Built from your {', '.join(yours)}; the reference stands in for the others."
    why = "" if solutions else "; yours will stand here once they are right"
    return f"Built from the reference's answers{why}."


def references(ladder: Ladder) -> dict[str, str]:
    return dict.fromkeys(ladder.exercises, REFERENCE)
