"""What the lab on depthwise convolution shows: for every rung of the ladder, how much of a GPU it
gives work to, and what it asks of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.common import exercise, picture, show, verify
from tvm_practice.common.cuda import device
from tvm_practice.common.cuda.access import SECTOR, WRITE, Pattern, patterns
from tvm_practice.common.cuda.kernels import WARP
from tvm_practice.common.cuda.resources import V100, Report, report
from tvm_practice.common.cuda.simulate import Traced, simulated
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.loop_nest import LoopNest, loop_nest
from tvm_practice.common.timing import Candidate, Runnable

EXERCISES = tuple(f"depthwise_conv2d.{number}" for number in range(1, 6))
RUNGS = {  # the lesson's own, which can only be read where TVM is loaded; whose work each is
    "2-D blocks": "depthwise_conv2d.1",
    "block fusion": "depthwise_conv2d.2",
    "2-D threads": "depthwise_conv2d.3",
    "outer fusion": "depthwise_conv2d.4",
    "shared tile": "depthwise_conv2d.5",
    "registers": "",
}
OWNER = {LEARNER: "yours", REFERENCE: "reference"}
PROCESSORS, LANES = V100.sms, V100.lanes
DRAWN = ("2-D blocks", "block fusion", "2-D threads", "outer fusion")
DRAWN_ROWS = 8  # the processors are drawn in so many rows

# What it measures on a GPU: the lesson's shape (B, C, H, W, K), and one that fills any GPU.
GPU_SIZES = ((3, 4, 16, 32, 7), (32, 64, 64, 64, 7))
GPU_QUICK_SIZES = GPU_SIZES[:1]


@dataclass(frozen=True)
class Rung:
    """A schedule's kernel at the lesson's size, run in the simulator and verified.

    read: bytes of X and F that are asked of global memory for each result, in sectors of 32.
    of_y: loads and stores of Y for each result.
    bank_rounds: rounds of the shared memory's banks for a request, None without shared memory.
    report: what ptxas gives it, None where it cannot be compiled.
    """

    nest: LoopNest
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    read: float
    of_y: float
    bank_rounds: float | None
    report: Report | None

    @property
    def blocks(self) -> int:
        return int(np.prod(self.grid))

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return int(np.prod(self.block))

    @property
    def processors(self) -> int:
        """How many have a block to run."""
        return min(self.blocks, PROCESSORS)

    @property
    def lanes(self) -> float:
        """The share of a warp's lanes that are switched on."""
        return self.threads / (-(-self.threads // WARP) * WARP)


def run_gpu(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    with show.waiting("measuring the convolution ..."):
        shape = session.call(lesson_shape)
    session.only_at("the shape of the lesson")
    found: dict[str, Rung] = {}
    for name in RUNGS:
        with show.waiting(f"{name} ..."):
            found[name] = session.call(rung, name, whose, session.seed)
    show.heading("The last rung: a shared tile, and sums in registers")
    show.nest(found["registers"].nest)
    B, C, H, W, K = shape
    show.heading(f"The ladder, {B} x {C} images of {H} x {W}, K = {K}, float32, for a V100")
    _table(found, whose)
    session.picture("processors", lambda path: draw_processors(path, found))
    _key_question(found, B * C * H * W)
    session.headline = f"{len(found)} kernels verified in the simulator, not timed"
    session.report["gpu"] = {
        name: {
            "grid": one.grid,
            "block": one.block,
            "shared_bytes": one.shared_bytes,
            "read_bytes_per_result": one.read,
            "bank_rounds": one.bank_rounds,
            "registers": one.report.usage.registers if one.report else None,
            "verified": True,
        }
        for name, one in found.items()
    }


def _table(found: dict[str, Rung], whose: dict[str, str]) -> None:
    rows = []
    for name, one in found.items():
        rows.append(
            (
                name,
                OWNER[whose[RUNGS[name]]] if RUNGS[name] else "-",
                f"{one.blocks} x {one.threads}",
                f"{one.processors} of {PROCESSORS}",
                show.share(one.lanes),
                f"{one.read:,.0f}",
                f"{one.of_y:.3g}",
                "verified, not timed",
            )
        )
    show.table(
        (
            "version",
            "body ",
            "blocks x threads",
            "processors",
            "lanes",
            "bytes read",
            "Y",
            "time ",
        ),
        rows,
        "Processors with a block to run, and the lanes of their warps that are switched on. For "
        "each result: the bytes of X and F that are asked of global memory, in sectors of 32; and "
        "how often Y is loaded or stored, as the source has it (a compiler may keep a sum in a "
        "register without being told). All were run in the simulator, thread by thread, and "
        f"verified. {_registers(found)}",
    )


def _registers(found: dict[str, Rung]) -> str:
    reports = [one.report for one in found.values() if one.report]
    if not reports:
        return "(Without NVRTC there is no saying how many registers they take.)"
    spilled = sum(one.usage.spill_store_bytes + one.usage.spill_load_bytes for one in reports)
    return (
        f"Registers of a thread on a {V100.name}: "
        f"{', '.join(str(one.usage.registers) for one in reports)}; "
        f"{f'{spilled} bytes' if spilled else 'none'} spilled to memory."
    )


def _key_question(found: dict[str, Rung], results: int) -> None:
    threads, outer, shared = (
        found[name] for name in ("2-D threads", "outer fusion", "shared tile")
    )
    first, fused = found["2-D blocks"], found["block fusion"]
    answer = [
        f"Processors. 2-D threads starts {threads.blocks} x {threads.threads} = "
        f"{threads.blocks * threads.threads:,} threads on {threads.processors} of them; outer "
        f"fusion {outer.blocks} x {outer.threads} = {outer.blocks * outer.threads:,} on "
        f"{outer.processors}. A processor of a V100 adds and multiplies for {LANES} threads at a "
        f"time; the {threads.threads} that share one in step 3 take turns, while others stand "
        "idle.",
        f"Block fusion had {fused.processors} of {PROCESSORS} processors as well, with "
        f"{show.share(fused.lanes)} of their lanes, and {first.processors} before it. A single "
        f"lane also wastes what it loads: a sector of {SECTOR} bytes for "
        f"each 4 it wants, {fused.read:,.0f} bytes for a result, against {outer.read:,.0f} when "
        f"{WARP} neighbours load at once.",
        f"The shared tile brings it to {shared.read:,.0f}: a block fetches each pixel once, and "
        "the filter is the most of what is left. The rounds that the banks of shared memory take "
        f"for a request are {shared.bank_rounds:.3g} on the average, where 1 is the least: "
        "neighbouring lanes read neighbouring words, each in a bank of its own.",
        f"None of it makes {results:,} results a large task. On a GPU, part of the time of each "
        "version is the start of the kernel, which no schedule changes.",
    ]
    show.question(
        "Steps 3 and 4 start a thread for each result. What does step 4 gain?",
        answer,
    )


# -------------------------------------------------------------------------------------- competitors


def gpu_competitors(size: tuple[int, ...], seed: int) -> list[Candidate]:
    """The ladder with reference bodies, its last rung as "hand", and torch (cuDNN)."""
    common = {"shape": size, "seed": seed}
    names = [*list(RUNGS)[:-1], "hand"]
    return [
        *(
            Candidate(name, make_gpu_rung, {**common, "name": rung})
            for name, rung in zip(names, RUNGS, strict=True)
        ),
        Candidate("torch (cuDNN)", make_gpu_torch, common),
    ]


# ---------------------------------------------------------------------------------- run in a worker


def make_gpu_rung(
    shape: tuple[int, ...], seed: int, name: str, build: Any = device.Compiled
) -> Runnable:
    lesson = exercise.load_lesson("depthwise_conv2d")
    bodies = {known: exercise.body(known) for known in EXERCISES}
    module = lesson.ladder(shape, bodies)[name].mod
    given, is_right = _case(shape, seed)
    return device.runnable(module, given, given[0].shape, is_right, build, **_work(*shape))


def make_gpu_torch(shape: tuple[int, ...], seed: int) -> Runnable:
    import torch

    C, half = shape[1], shape[4] // 2

    def layer(x, f):
        return torch.nn.functional.conv2d(x, f[:, None], padding=half, groups=C)

    given, is_right = _case(shape, seed)
    return device.torch_runnable(layer, given, is_right, **_work(*shape))


def _case(shape: tuple[int, ...], seed: int) -> tuple[tuple[np.ndarray, np.ndarray], Any]:
    """X and F of a shape, and what raises Wrong for a Y that is not their convolution."""
    B, C, H, W, K = shape
    rng = np.random.default_rng(seed)
    x, f = verify.random_array(rng, B, C, H, W), verify.random_array(rng, C, K, K)
    want, magnitude = (convolved(*pair) for pair in ((x, f), (abs(x), abs(f))))
    return (x, f), lambda y: verify.assert_close(y, want, magnitude, K * K, "Y")


def _work(B: int, C: int, H: int, W: int, K: int) -> dict[str, float]:
    pixels = float(B * C * H * W)
    moved = 4.0 * (2 * pixels + C * K * K)
    return {"flops": 2.0 * K * K * pixels, "bytes": moved, "bytes_written": 4.0 * pixels}


def lesson_shape() -> tuple[int, ...]:
    return exercise.load_lesson("depthwise_conv2d").SHAPE


def rung(name: str, whose: dict[str, str], seed: int) -> Rung:
    """Run a rung in the simulator, verify it, and count what the blocks of one image ask for; they
    ask for the same in all images."""
    lesson = exercise.load_lesson("depthwise_conv2d")
    B, C, H, W, _ = lesson.SHAPE
    bodies = {known: exercise.body(known, who) for known, who in whose.items()}
    sch = lesson.ladder(lesson.SHAPE, bodies)[name]
    library = simulated(sch.mod)
    (x, f), is_right = _case(lesson.SHAPE, seed)
    is_right(verify.run(library, (x, f), x.shape))
    (kernel,) = library.kernels
    arrays = (x, f, np.full(x.shape, np.nan, "float32"))
    # All images have the same blocks, so those of the first will do.
    traces = [
        traced
        for number in range(kernel.blocks // (B * C))
        for traced in library.trace([np.array(array) for array in arrays], number)
    ]
    place = kernel.parameters.index("Y")
    return Rung(
        loop_nest(sch.mod),
        kernel.grid,
        kernel.block,
        kernel.shared_bytes,
        sum(map(sectors_read, traces)) * SECTOR / (H * W),
        sum(int((traced.accesses["array"] == place).sum()) for traced in traces) / (H * W),
        _bank_rounds([one for traced in traces for one in patterns(traced) if one.shared]),
        report(kernel, V100),
    )


def sectors_read(traced: Traced) -> int:
    """Sectors of X and F that the warps of a block ask for.

    A thread at the edge of an image skips terms, so its n-th pixel is not the n-th of its
    neighbours. The filter is read for every term, and a shared tile is stored in every round: these
    are the clock by which it is seen what the threads of a warp load together.
    """
    accesses = traced.accesses[np.argsort(traced.accesses["thread"], kind="stable")]
    x, f = (traced.kernel.parameters.index(name) for name in ("X", "F"))
    array = accesses["array"]
    ticks = (array == f) | (array >= len(traced.kernel.parameters)) & (accesses["size"] >= WRITE)
    clock = np.cumsum(ticks)
    _, first, count = np.unique(accesses["thread"], return_index=True, return_counts=True)
    clock -= np.repeat(clock[first] - ticks[first], count)
    where = accesses["thread"] // WARP, clock, array, accesses["offset"] // SECTOR
    return len(np.unique(np.stack(where)[:, (array == x) | (array == f)], axis=1).T)


def _bank_rounds(seen: list[Pattern]) -> float | None:
    requests = sum(one.requests for one in seen)
    return sum(one.ways * one.requests for one in seen) / requests if requests else None


def convolved(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """The convolution in float64."""
    H, W = x.shape[2:]
    K = f.shape[1]
    half = K // 2
    padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (half, half), (half, half)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (K, K), axis=(2, 3))
    assert windows.shape[2:4] == (H, W)
    return np.einsum("bchwrs,crs->bchw", windows, f.astype("float64"))


# ------------------------------------------------------------------------------------------ picture


def draw_processors(path: Path, found: dict[str, Rung]) -> None:
    """The processors of a V100, and how many threads each of them has of a rung's kernel."""
    drawn = {name: found[name] for name in DRAWN}
    most = max(-(-one.blocks // PROCESSORS) * one.threads for one in drawn.values())
    figure, axes = picture.blank(9, 2.7, ncols=len(drawn))
    for axis, (name, one) in zip(axes, drawn.items(), strict=True):
        each = np.bincount(np.arange(one.blocks) % PROCESSORS, minlength=PROCESSORS) * one.threads
        squares = each.reshape(DRAWN_ROWS, -1)
        axis.imshow(np.log2(1 + squares), cmap="Blues", vmin=0, vmax=np.log2(1 + most))
        for (row, column), count in np.ndenumerate(squares):
            color = "white" if count > most // 8 else "black"
            axis.text(column, row, str(count), ha="center", va="center", fontsize=6, color=color)
        axis.set_title(f"{name}\n{one.blocks} blocks of {one.threads}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
    figure.suptitle(
        "Threads on each of the 80 processors, if blocks are dealt out evenly", fontsize=11
    )
    picture.save(figure, path)
