"""MetaSchedule's own search space for a matmul on a GPU: sampled, and each sample looked at without
a GPU.

What makes schedules runs in a worker and returns plain data. A sample is known by its seed: the
same seed makes the same schedule again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from tvm_practice.common import verify
from tvm_practice.common.competitors import flops, inputs
from tvm_practice.common.cuda.access import SECTOR, merged, patterns
from tvm_practice.common.cuda.facts import Facts
from tvm_practice.common.cuda.kernels import WARP, Kernel, cuda_target, kernels
from tvm_practice.common.cuda.resources import V100, available, report, roofline
from tvm_practice.common.cuda.simulate import Simulated, Traced, simulated
from tvm_practice.common.measure import skip_tensor_intrinsics

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir.meta_schedule.space_generator import SpaceGenerator

Size = tuple[int, int, int]

# What MetaSchedule asks of a block and a GPU; the target says the last two.
FEWEST_THREADS, MOST_THREADS, MOST_SHARED = 32, 1024, 49152
TOO_FEW = f"fewer than {FEWEST_THREADS} threads in a block, less than a warp"
TOO_MANY = f"more than {MOST_THREADS:,} threads in a block"
TOO_MUCH = f"more than {MOST_SHARED // 1024} KiB of shared memory for a block"
LIMITS = (TOO_FEW, TOO_MANY, TOO_MUCH)
SAMPLES_FOR_ONE = 200  # that many are drawn for a valid one before the space counts as empty

TILES = 2  # blocks along i and j, and pieces along k, of the small product that is simulated
# Of shared memory only a warp is traced, and of each of its threads no more accesses than these: a
# tile of 1024 x 1024 makes millions.
TRACED_BY_A_THREAD = 1 << 15
MOST_TRACED = 1 << 25


@dataclass(frozen=True)
class Sample:
    """What was drawn from the space.

    rows, columns: the factors of i and j: blocks, virtual threads, threads, and two loops within a
    thread. depth: those of k: pieces that are fetched, and two loops within one.
    fetched: how many elements of A and of B a thread copies at once. unroll: up to how many
    statements of a loop are unrolled. accepted: by MetaSchedule's postprocessors. reasons: the
    limits that it breaks, worked out here, since the postprocessors only say no.
    """

    seed: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    depth: tuple[int, ...]
    fetched: tuple[int, int]
    unroll: int
    accepted: bool
    reasons: tuple[str, ...]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows[2] * self.columns[2]

    @property
    def shared_bytes(self) -> int:
        """What a block keeps of A and of B, one piece along k at a time."""
        rows, columns, depth = self.tile
        return 4 * (rows + columns) * depth

    @property
    def whole(self) -> Size:
        return prod(self.rows), prod(self.columns), prod(self.depth)

    @property
    def tile(self) -> Size:
        """A block's part of C, and of k at a time."""
        return prod(self.rows[1:]), prod(self.columns[1:]), prod(self.depth[1:])

    @property
    def small(self) -> Size:
        """The size of a product of only TILES such tiles along each side."""
        factors = (self.rows, self.columns, self.depth)
        return tuple(min(TILES, first) * prod(others) for first, *others in factors)  # type: ignore


def matmul_module(size: Size) -> tvm.IRModule:
    from tvm import ir, te

    M, N, K = size
    A = te.placeholder((M, K), name="A")
    B = te.placeholder((K, N), name="B")
    k = te.reduce_axis((0, K), name="k")
    C = te.compute((M, N), lambda i, j: te.sum(A[i, k] * B[k, j], axis=k), name="C")
    return ir.IRModule({"main": te.create_prim_func([A, B, C])})


def design_space(size: Size) -> tuple[Schedule, SpaceGenerator]:
    """The one schedule with open numbers that MetaSchedule's rules make of a matmul for CUDA."""
    from tvm.s_tir import meta_schedule as ms

    skip_tensor_intrinsics()  # the rules for CUDA cores use none, and loading them takes long
    generator = ms.space_generator.PostOrderApply()
    task = ms.TuneContext(
        mod=matmul_module(size),
        target=cuda_target(),
        space_generator=generator,
        search_strategy="evolutionary",
        rand_state=1,  # what is drawn here is thrown away
    )
    (space,) = task.generate_design_space()
    return space, generator


def shown_trace(space: Schedule) -> str:
    """The space's trace, without the instructions that only fetch and reorder loops, and without
    the decisions, which are what is open."""
    shown = ("sample_", "bind(", "cache_", "compute_at", "cooperative_fetch", "unroll_explicit")
    lines = [line.strip() for line in str(space.trace).splitlines()]
    kept = [line for line in lines if any(word in line for word in shown)]
    dropped = r", (decision|probs|preserve_\w+|index|consumer_blocks)=(\[[^\]]*\]|[^,)]*)"
    return "\n".join(re.sub(dropped, "", line) for line in kept)


def draw(
    size: Size, seed: int, space: Schedule, generator: SpaceGenerator
) -> tuple[Sample, Schedule]:
    """Replay the space's trace without its decisions, as `seed` has it, then postprocess it."""
    from tvm.s_tir import Schedule

    sch = Schedule(matmul_module(size), seed=seed)
    # A decision of None is one that is drawn anew.
    space.trace.apply_to_schedule(
        sch, remove_postproc=True, decision_provider=lambda *_instruction: None
    )
    drawn: dict[str, list] = {"SamplePerfectTile": [], "SampleCategorical": []}
    for instruction, decision in sch.trace.decisions.items():
        if instruction.kind.name == "SamplePerfectTile":
            drawn["SamplePerfectTile"].append(tuple(int(factor) for factor in decision))
        else:
            drawn["SampleCategorical"].append(int(instruction.attrs[0][int(decision)]))
    rows, columns, depth = drawn["SamplePerfectTile"]
    *fetched, unroll = drawn["SampleCategorical"]
    accepted = _postprocess(sch, generator)
    sample = Sample(seed, rows, columns, depth, tuple(fetched), unroll, accepted, ())
    return replace(sample, reasons=_reasons(sample)), sch


def _postprocess(sch: Schedule, generator: SpaceGenerator) -> bool:
    """Rewrite the annotations as threads and unrolled loops; False if a limit is broken."""
    sch.enter_postproc()
    return all(one.apply(sch) for one in generator.postprocs)


def draw_small(sample: Sample, space: Schedule, generator: SpaceGenerator) -> Schedule:
    """The same tiles, threads and loops for the small product: only the outermost loops are
    shorter."""
    from tvm.s_tir import Schedule

    _, whole = draw(sample.whole, sample.seed, space, generator)
    factors = iter((sample.rows, sample.columns, sample.depth))
    decisions = iter(
        [
            _fewer(next(factors)) if instruction.kind.name == "SamplePerfectTile" else decision
            for instruction, decision in whole.trace.decisions.items()
        ]
    )
    sch = Schedule(matmul_module(sample.small), seed=1)
    space.trace.apply_to_schedule(
        sch,
        remove_postproc=True,
        decision_provider=lambda _one, _inputs, _attributes, decision: (
            None if decision is None else next(decisions)
        ),
    )
    if not _postprocess(sch, generator):
        raise RuntimeError(f"MetaSchedule accepts {sample}, but not for {sample.small}")
    return sch


def _fewer(factors: Sequence[int]) -> list[int]:
    return [min(TILES, factors[0]), *factors[1:]]


def _reasons(sample: Sample) -> tuple[str, ...]:
    broken = {
        TOO_FEW: sample.threads < FEWEST_THREADS,
        TOO_MANY: sample.threads > MOST_THREADS,
        TOO_MUCH: sample.shared_bytes > MOST_SHARED,
    }
    return tuple(reason for reason, is_broken in broken.items() if is_broken)


def draw_valid(
    size: Size, wanted: int, seed: int, space: Schedule, generator: SpaceGenerator
) -> list[Sample]:
    """Samples as they come, until `wanted` different ones are accepted (or hardly any is)."""
    samples: dict[tuple, Sample] = {}
    valid = 0
    for candidate in _seeds(seed, wanted * SAMPLES_FOR_ONE):
        sample, _ = draw(size, candidate, space, generator)
        key = (sample.rows, sample.columns, sample.depth, sample.fetched, sample.unroll)
        if key not in samples:
            samples[key] = sample
            valid += sample.accepted
        if valid == wanted:
            break
    return list(samples.values())


def _seeds(seed: int, number: int) -> Iterator[int]:
    """Seeds of samples, from TVM's range of 1 to 2^31 - 1."""
    rng = np.random.default_rng(seed)
    yield from (int(one) for one in rng.integers(1, (1 << 31) - 1, number))


# ------------------------------------------------------------------- what is known without a device


@dataclass(frozen=True)
class Known(Facts):
    """What is known of a schedule without a device."""

    @property
    def coalescing(self) -> float:
        """Of the bytes that are read: with so few pieces along k, the writes of C, which come once,
        are too large a part of the small product."""
        found = [one for each in self.patterns for one in each if not (one.shared or one.write)]
        return sum(one.asked for one in found) / (SECTOR * sum(one.sectors for one in found))

    @property
    def spilled(self) -> int:
        """Bytes of a thread that do not fit into its registers (0 where NVRTC is missing)."""
        usages = [told.usage for (told,) in self.reports]
        return sum(one.stack_bytes + one.spill_store_bytes for one in usages)

    @property
    def blocks(self) -> int:
        return min(kernel.blocks for kernel in self.kernels)

    @property
    def fills(self) -> bool:
        """Whether there is a block for each SM of a V100."""
        return self.blocks >= V100.sms

    @property
    def memory_bound(self) -> bool:
        """Whether a V100's memory would be too slow for it, if no cache took a share."""
        return self.read_per_flop > BALANCE

    @property
    def occupancy(self) -> float:
        """Of the warps that an SM can hold, the share (0 where NVRTC is missing)."""
        return min((told.occupancy.share for (told,) in self.reports), default=0.0)

    @property
    def rank(self) -> tuple[bool, float, float, float, float]:
        """Smaller is better, by the rule in RULE."""
        return (
            self.spilled > 0,
            -min(1.0, self.blocks / V100.sms),
            max(self.read_per_flop, BALANCE),
            -self.occupancy,
            self.read_per_flop,
        )


# What a V100's memory brings while it computes one operation, by its data sheet.
BALANCE = V100.bandwidth / V100.float32_peak
RULE = (
    "everything of a thread in registers: what spills goes through the GPU's memory",
    f"a block for each of a V100's {V100.sms} SMs, or for as many as can be: the others idle",
    "few bytes read from global memory for an operation; below "
    f"{BALANCE:.2g} memory is no longer the limit, and less is not better",
    "occupancy: many warps hide each other's waiting",
)


def look_at(sample: Sample, space: Schedule, generator: SpaceGenerator, inputs_seed: int) -> Known:
    """A sample, run in the simulator as a small product; raises Wrong if that is not right."""
    _, sch = draw(sample.whole, sample.seed, space, generator)
    small = draw_small(sample, space, generator)
    return look(sch, small, sample.whole, sample.small, inputs_seed)


def look(whole: Schedule, small: Schedule, size: Size, small_size: Size, seed: int) -> Known:
    """What is known of a schedule of a matmul of `size`, of which `small` is the same for
    `small_size`. Raises Wrong if the simulator finds it wrong."""
    return judge(kernels(whole.mod), simulated(small.mod), size, small_size, seed)


def judge(
    made: tuple[Kernel, ...], library: Simulated, size: Size, small_size: Size, seed: int
) -> Known:
    """Run, verify and trace the small kernels, and compile the whole ones where NVRTC is there."""
    M, N, K = small_size
    a, b = inputs(M, N, K, seed)
    want, magnitude = verify.matmul_reference(a, b)
    verify.assert_close(verify.run(library, (a, b), (M, N)), want, magnitude, K, "C")
    traced = library.trace(
        [a.copy(), b.copy(), np.full((M, N), np.nan, "float32")], None, MOST_TRACED
    )
    rows, columns, depth = size
    moved = 4.0 * (rows * depth + depth * columns + rows * columns)
    estimate = roofline(flops(*size), moved, V100)
    return Known(
        kernels=made,
        small=library.kernels,
        patterns=tuple(tuple(merged(patterns(_part(one)))) for one in traced),
        flops=flops(M, N, K),
        verified=True,
        reports=() if available() else tuple((report(one, V100, estimate),) for one in made),
    )


def _part(traced: Traced) -> Traced:
    """All accesses of global memory, and those of shared memory by the first warp's threads."""
    accesses = traced.accesses
    shared = accesses["array"] >= len(traced.kernel.parameters)
    kept = ~shared
    for thread in range(WARP):
        its = np.flatnonzero(shared & (accesses["thread"] == thread))
        kept[its[:TRACED_BY_A_THREAD]] = True
    return replace(traced, accesses=accesses[kept])
