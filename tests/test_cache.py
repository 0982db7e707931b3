"""The simulated cache: against an exact count, and against the clock."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_practice.common import cache, worker
from tvm_practice.common.cache import Hierarchy, Level
from tvm_practice.experiments import manual_schedule

LINE = 64


def exact(trace: list[int], level: Level) -> list[bool]:
    """For each touch whether it is a hit, by the definition: the line was touched before, and since
    then fewer than `ways` other lines of its set."""
    hits = []
    for now, line in enumerate(trace):
        before = [place for place in range(now) if trace[place] == line]
        between = trace[before[-1] + 1 : now] if before else []
        rivals = {one for one in between if one % level.sets == line % level.sets}
        hits.append(bool(before) and len(rivals) < level.ways)
    return hits


levels = st.builds(
    Level, st.just("L1"), st.just(LINE), st.sampled_from([1, 2, 4, 8]), st.integers(1, 5)
)
traces = st.lists(st.integers(0, 40), max_size=150)


@given(traces, levels, levels)
@settings(max_examples=400, deadline=None)
def test_every_touch_is_a_hit_or_a_miss_as_the_exact_count_says(trace, first, second) -> None:
    hits = exact(trace, first)
    asked = [line for line, hit in zip(trace, hits, strict=True) if not hit]
    found_there = iter(exact(asked, second))
    want = [0 if hit else 1 if next(found_there) else 2 for hit in hits]
    hierarchy = Hierarchy([first, second])
    assert [hierarchy.touch(line) for line in trace] == want
    counted = cache.misses(trace, [first, second])
    assert counted == (len(asked), want.count(2))
    if trace:
        assert hierarchy.holder(trace[-1]) == 0
    assert hierarchy.holder(1000) == 2


def test_a_stream_misses_each_line_once_and_a_set_that_is_too_small_misses_always() -> None:
    level = Level("L1", LINE, sets=4, ways=2)
    assert (level.lines, level.bytes) == (8, 512)
    assert cache.misses([n // 4 for n in range(400)], [level]) == (100,)
    assert cache.misses([0, 4, 8] * 50, [level]) == (150,)  # three lines, two ways of one set
    assert cache.misses([0, 4, 9] * 50, [level]) == (3,)
    assert cache.misses([], [level]) == (0,)


def test_the_caches_of_this_machine_and_their_small_copies() -> None:
    first, second = cache.machine_levels()
    assert (first.name, second.name) == ("L1", "L2")
    assert 4096 <= first.bytes < second.bytes
    one, two = cache.scaled((Level("L1", 64, 64, 8), Level("L2", 64, 2048, 8)), 32, 1024)
    assert (one.lines, two.lines) == (16, 64)  # half of 32 rows, a quarter of 256 lines
    for side, real in itertools.product((16, 32, 64), (512, 1024, 2048)):
        one, two = cache.scaled((first, second), side, real)
        assert 0 < one.lines < two.lines


def test_the_picture_of_phase_2_counts_as_it_did() -> None:
    """Fully associative, one level, each array with lines of its own."""
    side = manual_schedule.ORDER_SIZE
    order = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    counted = manual_schedule.misses(order)
    level = Level("L1", LINE, 1, manual_schedule.CACHE_LINES)
    per_matrix = side * side // manual_schedule.CACHE_LINE_FLOATS
    columns = {"A": (0, 2), "B": (2, 1), "C": (0, 1)}
    lines = [
        number * per_matrix + (visit[a] * side + visit[b]) // manual_schedule.CACHE_LINE_FLOATS
        for visit in order[: 4 * side * side].tolist()
        for number, (a, b) in enumerate(columns.values())
    ]
    few = manual_schedule.misses(order[: 4 * side * side])
    assert sum(few.values()) == exact_misses(lines, level)
    assert list(counted) == ["A", "B", "C"] and sum(counted.values()) > sum(few.values())


def exact_misses(lines: list[int], level: Level) -> int:
    """By distances in a stack, for one set: the number of different lines since the last touch."""
    stack: list[int] = []
    misses = 0
    for line in lines:
        place = stack.index(line) if line in stack else level.ways
        misses += place >= level.ways
        if line in stack:
            stack.remove(line)
        stack.insert(0, line)
    return misses


# -------------------------------------------------------------------------------- against the clock

ORDERS = {"i, k, j": (0, 2, 1), "i, j, k": (0, 1, 2), "j, k, i": (1, 2, 0)}
ROUNDS = 4  # at most: a busy machine makes one of them slower than it is, and never faster
REAL = 640  # two matrices are more than a second-level cache of 1 or 2 MiB


def predicted_and_measured(order: tuple[int, int, int]) -> tuple[int, float]:
    """The misses of the first level that a small product in an order of loops makes in a small
    cache, and the seconds that a large one takes. Runs in a worker."""
    import time

    import tvm

    from tvm_practice.common import exercise
    from tvm_practice.common.accesses import accesses
    from tvm_practice.common.target import build
    from tvm_practice.report import ladders

    lesson = exercise.load_lesson("manual_schedule")

    def ordered(side: int):
        sch = lesson.matmul(side, side, side)
        block = sch.get_sblock("C")
        loops = sch.get_loops(block)
        sch.decompose_reduction(block, loops[0])  # else zeroing stands in the way of the reorder
        loops = sch.get_loops(sch.get_sblock("C_update"))
        sch.reorder(*(loops[place] for place in order))
        return sch.mod

    small = cache.scaled(cache.machine_levels(), ladders.SIDE, REAL)
    counted = ladders.counted(accesses(ordered(ladders.SIDE)["main"]), small)
    function = build(ordered(REAL))
    rng = np.random.default_rng(1)
    a, b = rng.random((2, REAL, REAL), dtype="float32")
    tensors = [tvm.runtime.tensor(one) for one in (a, b, np.empty_like(a))]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function(*tensors)
        seconds.append(time.perf_counter() - start)
    assert np.allclose(tensors[2].numpy(), a @ b, rtol=1e-3)
    return sum(one[1] for one in counted.values()), min(seconds)


def test_the_order_that_misses_less_is_the_faster_one() -> None:
    found: dict[str, tuple[int, float]] = {}
    for _ in range(ROUNDS):
        for name, order in ORDERS.items():
            count, seconds = worker.call(predicted_and_measured, order)
            found[name] = count, min(seconds, found.get(name, (0, math.inf))[1])
        misses, times = (sorted(found, key=lambda name: found[name][part]) for part in (0, 1))
        if misses == times:
            break
    assert misses == times == list(ORDERS), found
    for better, worse in itertools.pairwise(misses):
        assert found[worse][0] > 1.5 * found[better][0], "the prediction must be no toss-up"


@pytest.mark.parametrize("text", ["", "x\n", "-1K\n"])
def test_a_system_that_tells_nothing_gives_the_usual_caches(tmp_path, monkeypatch, text) -> None:
    (tmp_path / "index0").mkdir()
    for name in ("level", "type", "size", "ways_of_associativity", "coherency_line_size"):
        (tmp_path / "index0" / name).write_text(text)
    monkeypatch.setattr(cache, "SYSTEM", tmp_path)
    first, second = cache.machine_levels.__wrapped__()
    assert (first.bytes, second.bytes) == (32 << 10, 1 << 20)
