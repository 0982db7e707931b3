"""What can be said of a GPU schedule without a GPU, as plain data that a table can be made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_practice.common import show
from tvm_practice.common.cuda.access import SECTOR, Pattern, merged, patterns
from tvm_practice.common.cuda.kernels import Kernel, kernels
from tvm_practice.common.cuda.resources import DEVICES, Report, available, report, roofline
from tvm_practice.common.cuda.simulate import Simulated, simulated


@dataclass(frozen=True)
class Facts:
    """A schedule's kernels at the size that is asked for, and what a run in the simulator showed,
    at a size small enough for it.

    patterns: how one block's warps touch memory, for each kernel. flops: of the small run.
    verified: that its result was right. reports: what each kernel needs of each of DEVICES, empty
    where NVIDIA's compiler is missing.
    """

    kernels: tuple[Kernel, ...]
    small: tuple[Kernel, ...]
    patterns: tuple[tuple[Pattern, ...], ...]
    flops: float
    verified: bool
    reports: tuple[tuple[Report, ...], ...]

    @property
    def read_per_flop(self) -> float:
        """Bytes that the blocks read from global memory, over all kernels, for each operation. For
        a schedule that only repeats itself along a reduction, it is the same at every size."""
        read = sum(
            one.sectors * SECTOR * kernel.blocks
            for kernel, found in zip(self.small, self.patterns, strict=True)
            for one in found
            if not one.write
        )
        return read / self.flops

    @property
    def coalescing(self) -> float:
        """Of the bytes that move, the share that was asked for."""
        found = [one for each in self.patterns for one in each if not one.shared]
        moved = sum(one.sectors for one in found) * SECTOR
        return sum(one.asked for one in found) / moved

    @property
    def requests(self) -> int:
        """Loads and stores of all warps of the traced blocks."""
        return sum(one.requests for each in self.patterns for one in each)

    @property
    def bank_rounds(self) -> float | None:
        """Rounds of the shared memory's banks for each request, None without shared memory."""
        found = [one for each in self.patterns for one in each if one.shared]
        requests = sum(one.requests for one in found)
        return sum(one.ways * one.requests for one in found) / requests if requests else None


def facts(
    full: Any,
    small: Any,
    arrays: Sequence[np.ndarray],
    verify: Callable[..., None],
    flops: float,
    work: tuple[float, float] | None = None,
) -> Facts:
    """Lower and compile the schedule `full`; run and trace `small`, the same schedule at a small
    size.

    arrays: the arguments of `small`; verify(simulated) runs it and raises Wrong if it is not right;
    flops: its operations. work: operations of `full`, and the bytes that have to be moved once,
    for the estimate from a data sheet. To be called in a worker.
    """
    library: Simulated = simulated(small.mod)
    verify(library)
    traced = library.trace([np.array(array) for array in arrays])
    made = kernels(full.mod)
    return Facts(
        made,
        library.kernels,
        tuple(tuple(merged(patterns(one))) for one in traced),
        flops,
        verified=True,
        reports=_reports(full.mod, work) if available() is None else (),
    )


def _reports(module: Any, work: tuple[float, float] | None) -> tuple[tuple[Report, ...], ...]:
    """What each kernel needs of each device; the estimate is the first one's, of all the work."""
    by_device = []
    for device in DEVICES:
        estimate = roofline(*work, device) if work else None
        first, *others = kernels(module, device.arch)
        by_device.append(
            [report(first, device, estimate), *(report(one, device) for one in others)]
        )
    return tuple(zip(*by_device, strict=True))


LEGEND = (
    "read / FLOP: bytes that a block reads from global memory for an operation, in sectors of 32; "
    "what threads of a warp ask for together is counted once. used: the share that was asked for, "
    "of all bytes that move; for a single number a whole sector moves. bank rounds: of shared "
    "memory, for a request of a warp, the average of all loads and stores; 1 is the least."
)
RESOURCES_LEGEND = (
    "Registers of a thread; what of it is spilled to memory for want of more; how many blocks a "
    "processor (an SM) holds at a time; how many warps these are, of those it could hold; and what "
    "limits them."
)


def table(named: dict[str, Facts], caption: str = "", legend: bool = True) -> None:
    """A row for each schedule: its launch, its memory, and what stands where a time would; legend:
    say what the columns mean."""
    rows = []
    for name, one in named.items():
        kernel = max(one.kernels, key=lambda kernel: kernel.blocks * kernel.threads)
        rounds = one.bank_rounds
        rows.append(
            (
                name,
                f"{kernel.blocks:,} x {kernel.threads}",
                f"{kernel.shared_bytes / 1024:.3g} KiB" if kernel.shared_bytes else "-",
                f"{one.read_per_flop:.2g}",
                f"{one.coalescing:.0%}",
                "-" if rounds is None else f"{rounds:.3g}",
                "verified, not timed",
            )
        )
    show.table(
        (
            "schedule",
            "blocks x threads",
            "shared",
            "read / FLOP",
            "used",
            "bank rounds",
            "time ",
        ),
        rows,
        f"{caption} {LEGEND}".strip() if legend else caption,
    )
    _resources(named, legend)


def _resources(named: dict[str, Facts], legend: bool) -> None:
    """What the kernels need of a V100 and an H100: a second table, where NVRTC is there."""
    if not any(one.reports for one in named.values()):
        show.line(f"  {available()}", "dim")
        return
    rows = []
    every = [told for one in named.values() for reports in one.reports for told in reports]
    architectures = dict.fromkeys(told.usage.arch for told in every)
    for name, one in named.items():
        for number, reports in enumerate(one.reports):
            for told in reports:
                usage, fits = told.usage, told.occupancy
                local = usage.stack_bytes + usage.spill_store_bytes + usage.spill_load_bytes
                rows.append(
                    (
                        name if number == 0 else f"{name}, kernel {number + 1}",
                        told.device,
                        str(usage.registers),
                        f"{local} B" if local else "none",
                        f"{fits.blocks}",
                        f"{fits.share:.0%}",
                        _short(fits.limit),
                    )
                )
    words = [
        f"Compiled by NVRTC for {' and '.join(architectures)}; no GPU ran it.",
        RESOURCES_LEGEND if legend else "",
        _bounds(every),
    ]
    show.table(
        (
            "schedule",
            "GPU ",
            "registers",
            "spilled",
            "blocks / SM",
            "occupancy",
            "limited by ",
        ),
        rows,
        " ".join(filter(None, words)),
    )


def _bounds(reports: Sequence[Report]) -> str:
    """What the data sheets say of the least time: the same for all versions of one task."""
    bounds = {one.device: one.estimate.lower_bound for one in reports if one.estimate}
    if not bounds:
        return ""
    told = ", ".join(f"{show.seconds(bound)} on one {name}" for name, bound in bounds.items())
    return f"By the data sheets no version can take less than {told}: an estimate, not a time."


def _short(limit: str) -> str:
    """ "64 warps per SM; registers: 30 per thread, ..." as "warps, registers"."""
    words = [one.partition(":")[0].removesuffix(" per SM").strip() for one in limit.split(";")]
    return ", ".join(word.lstrip("0123456789 ") for word in words)
