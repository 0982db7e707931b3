"""Phase 5 without a GPU: MetaSchedule's space is sampled, every sample accounted for, and what the
simulator finds wrong is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm_practice.common import show, worker
from tvm_practice.common.cuda import search_space
from tvm_practice.common.cuda.access import SECTOR, Pattern
from tvm_practice.common.cuda.kernels import Kernel
from tvm_practice.common.cuda.resources import V100, Occupancy, Report, Usage
from tvm_practice.common.cuda.search_space import BALANCE, LIMITS, Known, Sample
from tvm_practice.common.verify import Wrong
from tvm_practice.experiments import auto_tune

ROOT = Path(__file__).resolve().parent.parent
SIZE = (256, 128, 192)
LARGE = (1024, 1024, 1024)
BARRIER = "__syncthreads();"

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the simulator compiles with g++, which is not installed"
)


def samples_of(size: search_space.Size, wanted: int, seed: int) -> list[Sample]:
    return worker.call(auto_tune.sample_gpu, size, wanted, seed)[2]


@pytest.fixture(scope="module")
def accepted() -> list[Sample]:
    return [one for one in samples_of(SIZE, 4, seed=1) if one.accepted]


# ------------------------------------------------------------------------------ in a worker process


def look_at_all(samples: list[Sample]) -> list[Known]:
    space, generator = search_space.design_space(SIZE)
    return [search_space.look_at(one, space, generator, 1) for one in samples]


def mutated(change):
    """What `search_space.simulated` is to be, if each kernel's source is to be changed."""
    from tvm_practice.common.cuda.simulate import Simulated, simulated

    def simulated_mutant(module):
        right = simulated(module)
        made = [replace(one, source=change(one.source)) for one in right.kernels]
        assert all(a != b for a, b in zip(made, right.kernels, strict=True))
        return Simulated(made, right.nest, right.parameters)

    return simulated_mutant


def without_barriers(connection, size, seed) -> None:
    search_space.simulated = mutated(lambda source: source.replace(BARRIER, ""))
    auto_tune.look_in_worker(connection, size, seed)


def without_the_last_barrier(sample: Sample) -> str:
    def change(source: str) -> str:
        before, _, after = source.rpartition(BARRIER)
        return before + after

    return wrong_with(sample, change)


def with_half_a_product(sample: Sample) -> str:
    """No race, only a wrong result."""
    return wrong_with(sample, lambda source: source.replace("] * ", "] * 0.5f * ", 1))


def wrong_with(sample: Sample, change) -> str:
    search_space.simulated = mutated(change)
    with pytest.raises(Wrong) as raised:
        look_at_all([sample])
    return str(raised.value)


def through_local_arrays(elements: int) -> int:
    """Add 1 to a vector, `elements` at a time in each thread's own array; its bytes."""
    import numpy as np
    from tvm import te
    from tvm.s_tir import Schedule

    from tvm_practice.common.cuda.simulate import simulated

    n = 4 * elements
    A = te.placeholder((n,), name="A")
    sch = Schedule(te.create_prim_func([A, te.compute((n,), lambda i: A[i] + 1.0, name="C")]))
    block = sch.get_sblock("C")
    copy = sch.cache_write(block, 0, "local")
    (i,) = sch.get_loops(block)
    thread, _ = sch.split(i, [4, None])
    sch.bind(thread, "threadIdx.x")
    sch.reverse_compute_at(copy, thread)
    library = simulated(sch.mod)
    a, c = np.arange(n, dtype="float32"), np.full(n, np.nan, "float32")
    library(a, c)
    assert np.array_equal(c, a + 1)
    return library.kernels[0].local_bytes


def dies_at_the_second(connection, size, seed) -> None:
    class Requests:
        """The connection, but the process ends at its second request."""

        def __init__(self) -> None:
            self.count = 0

        def recv(self):
            self.count += 1
            if self.count == 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            return connection.recv()

        def send(self, answer) -> None:
            connection.send(answer)

    auto_tune.look_in_worker(Requests(), size, seed)


def stays_silent(connection, size, seed) -> None:
    connection.recv()
    signal.pause()


# -------------------------------------------------------------------------------------- the samples


def test_a_seed_draws_the_same_samples_again(accepted) -> None:
    again = samples_of(SIZE, 4, seed=1)
    assert [one for one in again if one.accepted] == accepted
    others = samples_of(SIZE, 4, seed=2)
    assert len(accepted) == sum(one.accepted for one in others) == 4
    assert not {(one.rows, one.columns, one.depth) for one in accepted} & {
        (one.rows, one.columns, one.depth) for one in others if one.accepted
    }


def test_each_refusal_is_one_of_three_limits() -> None:
    samples = samples_of(LARGE, 24, seed=3)
    assert len({one.rows + one.columns + one.depth for one in samples}) > 100
    for one in samples:
        assert one.whole == LARGE
        assert one.accepted == (not one.reasons)
        threads = one.rows[2] * one.columns[2]
        (rows, columns, depth) = one.tile
        shared = 4 * (rows * depth + columns * depth)
        broken = (threads < 32, threads > 1024, shared > 48 * 1024)
        assert one.reasons == tuple(
            limit for limit, is_broken in zip(LIMITS, broken, strict=True) if is_broken
        )
    assert {reason for one in samples for reason in one.reasons} == set(LIMITS)


@needs_compiler
def test_accepted_samples_are_right_and_are_what_was_drawn(accepted) -> None:
    some = accepted[:2]
    for sample, known in zip(some, worker.call(look_at_all, some), strict=True):
        assert known.verified
        (kernel,), (small,) = known.kernels, known.small
        assert kernel.blocks == sample.rows[0] * sample.columns[0]
        assert kernel.threads == small.threads == sample.threads
        assert kernel.shared_bytes == small.shared_bytes == sample.shared_bytes
        assert small.source.count(BARRIER) == kernel.source.count(BARRIER) > 0
        # A block fetches its rows of A and columns of B once.
        rows, columns, _ = sample.tile
        read = sum(one.asked for one in known.patterns[0] if not one.write) * small.blocks
        assert read / known.flops == pytest.approx(4 * (rows + columns) / (2 * rows * columns))
        assert known.read_per_flop * known.coalescing == pytest.approx(read / known.flops)
        assert known.coalescing <= 1


@needs_compiler
def test_a_thread_may_have_all_the_local_memory_of_a_gpu() -> None:
    """Random tiles have accumulators by the ten thousand; the simulator has to hold them."""
    most = (512 << 10) // 4
    assert worker.call(through_local_arrays, most) == 4 * most
    with pytest.raises(worker.WorkerFailed, match=r"take 524,292 bytes; a GPU gives it 524,288"):
        worker.call(through_local_arrays, most + 1)


# ---------------------------------------------------------------------------- what is found is said


@needs_compiler
def test_a_kernel_without_its_last_barrier_is_wrong(accepted) -> None:
    assert "no barrier stands between" in worker.call(without_the_last_barrier, accepted[0])


@needs_compiler
def test_a_kernel_that_adds_half_a_product_is_wrong(accepted) -> None:
    assert "expected" in worker.call(with_half_a_product, accepted[0])


@needs_compiler
def test_wrong_candidates_are_told_and_not_ranked(accepted, monkeypatch, capsys) -> None:
    monkeypatch.setattr(auto_tune, "look_in_worker", without_barriers)
    looked = auto_tune._look(SimpleNamespace(seed=1), SIZE, accepted[:1])
    assert looked.known == looked.failed == {}
    assert len(looked.wrong) == 2  # the schedule by hand too
    assert all("barrier" in sentence for sentence in looked.wrong.values())
    auto_tune._tell_looked(looked, SIZE)
    auto_tune._gpu_question(SimpleNamespace(question=show.question), accepted, accepted, looked)
    told = capsys.readouterr().out
    assert told.count("WRONG: ") == 2
    assert "2 gave a wrong result" in " ".join(told.replace("│", " ").split())


@needs_compiler
def test_a_worker_that_dies_costs_one_candidate(accepted, monkeypatch) -> None:
    monkeypatch.setattr(auto_tune, "look_in_worker", dies_at_the_second)
    monkeypatch.setattr(auto_tune, "threads", lambda: 1)
    looked = auto_tune._look(SimpleNamespace(seed=1), SIZE, accepted[:2])
    assert len(looked.known) == 2
    assert ["SIGSEGV" in sentence for sentence in looked.failed.values()] == [True]


def test_a_worker_that_hangs_is_given_up(accepted, monkeypatch) -> None:
    monkeypatch.setattr(auto_tune, "look_in_worker", stays_silent)
    monkeypatch.setattr(auto_tune, "LOOK_SECONDS", 1.0)
    looked = auto_tune._look(SimpleNamespace(seed=1), SIZE, accepted[:1])
    assert list(looked.failed.values()) == ["it took longer than 1 s"] * 2


# -------------------------------------------------------------------------------------- the ranking


def known(
    blocks: int = V100.sms, sectors: int = 1, occupancy: float = 0.5, spilled: int = 0
) -> Known:
    """A schedule that asks for `sectors` in each block, for 1000 operations."""
    kernel = Kernel("k", "", "", (blocks, 1, 1), (64, 1, 1), ("A",), ("float32",))
    pattern = Pattern("A", False, False, 4, 0, 1, sectors, 4, 1.0)
    usage = Usage("k", V100.arch, 64, spilled, spilled, 0, 0, 0)
    fits = Occupancy(1, round(occupancy * V100.warps), V100.warps, "")
    return Known(
        kernels=(kernel,),
        small=(kernel,),
        patterns=((pattern,),),
        flops=1000.0 * blocks,
        verified=True,
        reports=((Report("k", V100.name, usage, fits, 1.0, 1.0),),),
    )


def test_the_rule_compares_one_thing_after_the_other() -> None:
    least = int(BALANCE * 1000 / SECTOR)  # so many sectors do not make memory the limit
    assert not known(sectors=least).memory_bound
    assert known(sectors=least + 1).memory_bound
    best_first = [
        known(sectors=1, occupancy=0.75),
        known(sectors=least, occupancy=0.5),
        known(sectors=1, occupancy=0.25),  # fewer bytes are no better where memory is no limit
        known(sectors=10, occupancy=0.25),
        known(sectors=11, occupancy=1.0),
        known(blocks=V100.sms - 1, occupancy=1.0),
        known(blocks=2, sectors=10),
        known(spilled=8, occupancy=1.0),
        known(spilled=8, blocks=1),
    ]
    ranked = best_first[::-1]
    ranked.sort(key=lambda one: one.rank)
    assert ranked == best_first


def test_without_nvrtc_what_the_trace_tells_still_ranks() -> None:
    first, second = (replace(known(sectors=sectors), reports=()) for sectors in (10, 11))
    assert first.rank < second.rank
    assert first.occupancy == first.spilled == 0


# -------------------------------------------------------------------------------------- the command


@needs_compiler
@pytest.mark.parametrize(("trials", "more"), [(2, ()), (1, ("--solutions",))])
def test_the_phase_runs_without_a_gpu(trials: int, more: tuple[str, ...]) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tvm_practice.auto_tune", "--target", "cuda-sim", "--quick"),
            *("--seed", "1", "--trials", str(trials), "--size", "256", *more),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "COLUMNS": "110"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.replace("│", " ").split())
    for words in (
        "verified, not timed",
        "No search took place",
        "by hand",
        *LIMITS,
        "Key question",
    ):
        assert words in told
    assert "Traceback" not in told
    found = json.loads((ROOT / "reports" / "auto_tune.json").read_text())["gpu"]
    assert found["accepted"] == trials
    assert found["wrong"] == found["failed"] == {}
    assert len(found["ranked"]) == trials + 1
    assert (ROOT / "reports" / "auto_tune" / "gpu_candidates.png").stat().st_size > 10_000
