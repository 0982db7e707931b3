"""What the checks of the exercises for a GPU have in common: a step of a ladder taken with an
answer, the kernels run in the simulator, and what they move counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.checks import Trial
from tvm_practice.common.cuda.access import SECTOR, Pattern, merged, patterns
from tvm_practice.common.cuda.kernels import NoKernel
from tvm_practice.common.cuda.simulate import Simulated, simulated
from tvm_practice.common.exercise import body as body_of
from tvm_practice.common.loop_nest import Block, Loop, LoopNest, loop_nest
from tvm_practice.common.target import UnusableTarget
from tvm_practice.common.verify import Wrong

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

X, Y = "threadIdx.x", "threadIdx.y"
AXES = tuple(f"{which}Idx.{letter}" for which in ("block", "thread") for letter in "xyz")

NO_KERNEL = "TVM makes no kernel of this schedule"
CANNOT = "TVM allows each primitive, but cannot make a kernel of them"


# ----------------------------------------------------------------------------------- taking a step


def taken(
    sch: Schedule, body: Callable, trial: Trial, *arguments: Any, alike: bool = False
) -> tuple[LoopNest, LoopNest]:
    """Call a body with a schedule: the loop nests before and after. alike: whether they may be the
    same, as where a loop is only annotated."""
    before = loop_nest(sch.mod)
    trial.call(body, sch, *arguments)
    after = loop_nest(sch.mod)
    _compared(before, after, body, trial, alike)
    return before, after


def climbed(
    lesson: Any, sch: Schedule, exercise_id: str, body: Callable, trial: Trial, *tiling: Any
) -> tuple[LoopNest, LoopNest]:
    """Climb a lab's STEPS with references up to an exercise, and take that one with `body`: the
    nests before and after. tiling: what the lab's `climb` takes besides."""
    for known in lesson.STEPS:
        if known == exercise_id:
            break
        lesson.climb(sch, known, body_of(known), *tiling)
    before: list[LoopNest] = []

    def step(*arguments: Any) -> None:
        before.append(loop_nest(sch.mod))  # `climb` may do something first
        trial.call(body, *arguments)

    lesson.climb(sch, exercise_id, step, *tiling)
    after = loop_nest(sch.mod)
    _compared(before[0], after, body, trial)
    return before[0], after


def _compared(
    before: LoopNest, after: LoopNest, body: Callable, trial: Trial, alike: bool = False
) -> None:
    trial.show(after, before)
    if after.lines == before.lines and not alike:
        raise Wrong(
            f"{body.__name__} ran, but the loop nest is what it was before. Each primitive changes "
            "sch itself; was any called?"
        )


def finish(lesson: Any, sch: Schedule, done: str, *tiling: Any) -> None:
    """Take the STEPS after `done` with references."""
    steps = list(lesson.STEPS)
    for known in steps[steps.index(done) + 1 :]:
        try:
            lesson.climb(sch, known, body_of(known), *tiling)
        except Exception as error:
            raise Wrong(
                f"The next steps cannot be taken from here: in {known} ({lesson.STEPS[known]}), "
                f"TVM says: {_last_line(error)}"
            ) from None


# -------------------------------------------------------------------------- running what it leaves


def compiled(
    sch: Schedule, no_kernel: str = NO_KERNEL, reasons: Mapping[str, str] | None = None
) -> Simulated:
    """The kernels of a schedule, in the simulator.

    reasons: by words of an error of TVM's, the sentence to say instead. UnusableTarget, which is a
    fault of the machine and none of the schedule, goes through.
    """
    try:
        return simulated(sch.mod)
    except NoKernel as error:
        raise Wrong(f"{no_kernel}: {error}") from None
    except (Wrong, UnusableTarget, MemoryError):
        raise
    except Exception as error:
        if told := [told for words, told in (reasons or {}).items() if words in str(error)]:
            raise Wrong(told[0]) from None
        raise Wrong(f"{CANNOT}: {_last_line(error)}") from None


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


# ------------------------------------------------------------------------------ what a block moves


def moved(sch: Schedule, function: Simulated) -> list[Pattern]:
    """How one block of each kernel touches memory, by array, direction and width."""
    arrays = [
        np.ones([int(extent) for extent in buffer.shape], str(buffer.dtype))
        for buffer in sch.mod["main"].params
    ]
    return [one for traced in function.trace(arrays) for one in merged(patterns(traced))]


def assert_side_by_side(
    sch: Schedule, function: Simulated, copies: Mapping[str, Sequence[Loop]]
) -> None:
    """The warps fetch arrays from global memory in no more sectors than hold what they ask for.

    copies: by the array, the loops of the block that copies it, threads and lanes among them.
    """
    for one in moved(sch, function):
        needed = -(-one.asked // SECTOR)
        if one.array in copies and not one.write and one.sectors > needed:
            raise Wrong(
                f"{slip(copies[one.array], one.array)} {one.sectors} sectors of {SECTOR} bytes "
                f"move for what a block fetches of {one.array}, and {needed} would hold it. From "
                "the outside to the inside: the rounds, threadIdx.y, threadIdx.x, the lanes."
            )


def slip(own: Iterable[Loop], array: str) -> str:
    """What is wrong with the order of the loops of a copy, whose warps read places far apart."""
    own = list(own)
    kinds = [loop.kind for loop in own]
    x, y = kinds.index(X), kinds.index(Y)
    if runs := [loop for loop in own[x + 1 :] if _is_round(loop)]:
        return (
            f"Each thread copies a run of {array} of its own: {runs[0].name} stands inside of "
            "threadIdx.x, so that neighbouring threads read places far apart."
        )
    if x < y:
        return (
            f"In the loops that copy {array}, threadIdx.x stands outside of threadIdx.y, so that "
            "neighbouring threads of a warp read places far apart."
        )
    return f"Neighbouring threads read places of {array} far apart."


def _is_round(loop: Loop) -> bool:
    return loop.kind in ("serial", "unrolled") and loop.extent != 1


# -------------------------------------------------------------------------------- loops and blocks


def bound(block: Block) -> dict[str, int]:
    """By thread axis, the place of the loop of a block that is bound to it."""
    return {loop.kind: n for n, loop in enumerate(block.loops) if "Idx." in loop.kind}


def common_loops(one: Block, other: Block) -> int:
    """How many of the first loops around two blocks are the same."""
    count = 0
    for mine, theirs in zip(one.loops, other.loops, strict=False):
        if mine is not theirs:
            break
        count += 1
    return count
