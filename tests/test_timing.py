"""The statistics behind "faster": what they claim at a stated confidence, they must deliver on
samples whose truth is known."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from tvm_practice.common import timing
from tvm_practice.common.timing import Candidate, Figure, Runnable

ROUNDS = 9


def figure(name: str, samples: np.ndarray) -> Figure:
    return Figure(name, tuple(samples), 1, flops=1e9, bytes=0.0, verified=True)


def verdicts(difference: float, rounds: int, trials: int = 2000, noise: float = 0.02) -> list[str]:
    """The words for two competitors whose times differ by `difference`: each round has a drift that
    both share, and skewed noise of their own."""
    rng = np.random.default_rng(5)
    words = []
    for _ in range(trials):
        drift = 1 + 0.3 * rng.random(rounds)
        first = drift * (1 + noise * rng.exponential(size=rounds))
        second = drift * (1 + noise * rng.exponential(size=rounds)) * (1 + difference)
        words.append(timing.verdict(figure("a", first), figure("b", second)).word)
    return words


def test_equal_competitors_are_told_apart_no_more_often_than_the_confidence_allows() -> None:
    words = verdicts(difference=0.0, rounds=ROUNDS)
    told_apart = sum(word != "cannot tell" for word in words) / len(words)
    assert told_apart <= 1 - timing.CONFIDENCE + 0.015, (
        f"equal competitors differ in {told_apart:.1%} of trials"
    )


def test_a_difference_of_five_percent_is_found_in_nine_rounds() -> None:
    words = verdicts(difference=0.05, rounds=ROUNDS)
    assert words.count("faster") / len(words) > 0.9
    assert "slower" not in words


def test_too_few_rounds_never_claim_a_difference() -> None:
    assert set(verdicts(difference=10.0, rounds=5, trials=50)) == {"cannot tell"}


def test_a_slow_round_shared_by_both_does_not_move_the_verdict() -> None:
    first, second = np.ones(ROUNDS), np.full(ROUNDS, 1.5)
    first[3] *= 50
    second[3] *= 50
    judged = timing.verdict(figure("a", first), figure("b", second))
    assert judged.word == "faster"
    assert judged.ratio == pytest.approx(1.5)


@pytest.mark.parametrize("count", [6, 9, 11, 20])
def test_the_interval_covers_the_median_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(2000):
        low, high = timing.median_interval(rng.exponential(size=count))
        covered += low <= math.log(2) <= high
    assert covered / 2000 >= timing.CONFIDENCE - 0.015


def test_a_figure_is_a_median_with_quartiles() -> None:
    one = figure("a", np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert one.median_s == 3.0
    assert one.quartiles_s == (2.0, 4.0)
    assert one.spread == pytest.approx(1 / 3)


def test_a_verdict_speaks_of_times_in_the_direction_it_names() -> None:
    fast, slow = figure("quick", np.full(9, 1.0)), figure("slow", np.full(9, 4.0))
    assert timing.verdict(fast, slow).sentence().startswith("quick is 4.00x faster than slow")
    assert timing.verdict(slow, fast).sentence().startswith("slow is 4.00x slower than quick")


def sleeping(seconds: float) -> Runnable:
    return Runnable(lambda: time.sleep(seconds), flops=1.0)


def failing() -> Runnable:
    raise ValueError("this competitor cannot be built")


def test_competitors_are_measured_in_processes_of_their_own_and_a_failing_one_is_named() -> None:
    measured = timing.compare(
        [
            Candidate("short", sleeping, {"seconds": 0.002}),
            Candidate("broken", failing),
            Candidate("long", sleeping, {"seconds": 0.008}),
        ],
        rounds=6,
        sample_seconds=0.005,
    )
    assert "broken" not in measured
    assert "this competitor cannot be built" in measured.failed["broken"]
    assert len(measured["short"].samples) == 6
    assert measured["short"].median_s == pytest.approx(0.002, rel=0.5)
    assert measured.verdict("short", "long").word == "faster"


def test_the_peaks_are_measured_and_the_triad_is_slower_in_flops() -> None:
    measured = timing.compare([timing.PEAK_FMA, timing.PEAK_TRIAD], rounds=3, sample_seconds=0.01)
    assert not measured.failed
    assert measured.peak_gflops > 1.0
    assert measured["stream triad"].gbytes > 0.5
    assert measured["stream triad"].gflops < measured.peak_gflops
    assert all(entry["verified"] for entry in measured.as_json())
