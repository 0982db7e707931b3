"""The statistics behind "faster": what they claim at a stated confidence, they must deliver on
samples whose truth is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_practice.common import timing
from tvm_practice.common.timing import PEAK_FMA, Candidate, Comparison, Figure, Runnable

QUICK_ROUNDS, ROUNDS = 9, timing.ROUNDS

Noise = Callable[[np.random.Generator, int], np.ndarray]


def skewed(rng: np.random.Generator, rounds: int) -> np.ndarray:
    """What a quiet machine does: never faster than it can, now and then a little slower."""
    return 1 + 0.02 * rng.exponential(size=rounds)


def heavy_tailed(rng: np.random.Generator, rounds: int) -> np.ndarray:
    """As above, and in one round of ten something else takes the core, for as long as it likes."""
    return skewed(rng, rounds) + (rng.random(rounds) < 0.1) * rng.pareto(1.0, size=rounds)


def independent(rng: np.random.Generator, rounds: int) -> np.ndarray:
    return 1 + 0.3 * rng.random(rounds)


def wandering(rng: np.random.Generator, rounds: int) -> np.ndarray:
    """A drift in which each round remembers the one before."""
    return np.exp(np.cumsum(0.05 * rng.standard_normal(rounds)))


def figure(name: str, samples: np.ndarray) -> Figure:
    return Figure(name, tuple(samples), 1, flops=1e9, bytes=0.0, verified=True)


def verdicts(
    difference: float,
    rounds: int,
    trials: int = 2000,
    noise: Noise = skewed,
    drift: Noise = independent,
    luck: float = 0.0,
    margin: float = 0.0,
) -> list[str]:
    """The words for two competitors whose times differ by `difference`: each round has a drift that
    both share, and noise of their own; `luck` stays with a process through all rounds."""
    rng = np.random.default_rng(5)
    words = []
    for _ in range(trials):
        shared = drift(rng, rounds)
        first = shared * noise(rng, rounds) * (1 + luck * rng.standard_normal())
        second = shared * noise(rng, rounds) * (1 + luck * rng.standard_normal())
        pair = figure("a", first), figure("b", second * (1 + difference))
        words.append(timing.verdict(*pair, margin=margin).word)
    return words


def told_apart(words: list[str]) -> float:
    return sum(word != "cannot tell" for word in words) / len(words)


@pytest.mark.parametrize("rounds", [6, 7, QUICK_ROUNDS, 11, 12, ROUNDS])
@pytest.mark.parametrize("noise", [skewed, heavy_tailed])
@pytest.mark.parametrize("drift", [independent, wandering])
def test_equal_competitors_are_told_apart_no_more_often_than_the_confidence_allows(
    rounds: int, noise: Noise, drift: Noise
) -> None:
    share = told_apart(verdicts(0.0, rounds, noise=noise, drift=drift))
    assert share <= 1 - timing.CONFIDENCE + 0.015, f"equal competitors differ in {share:.1%}"


def test_a_difference_of_five_percent_is_found_in_nine_rounds() -> None:
    words = verdicts(difference=0.05, rounds=QUICK_ROUNDS)
    assert words.count("faster") / len(words) > 0.9
    assert "slower" not in words


def test_the_same_code_in_two_processes_is_not_told_apart() -> None:
    """What stays with a process is no noise from round to round: a margin must hold it off."""
    quiet = {"noise": lambda rng, rounds: 1 + 0.002 * rng.exponential(size=rounds), "luck": 0.006}
    share = told_apart(verdicts(0.0, ROUNDS, margin=timing.PROCESS_LUCK, **quiet))
    assert share <= 1 - timing.CONFIDENCE
    assert told_apart(verdicts(0.0, ROUNDS, **quiet)) > 0.5  # this is what the margin is for


@pytest.mark.parametrize("drift", [independent, wandering])
def test_a_difference_of_five_percent_is_found_in_the_rounds_of_a_bench(drift: Noise) -> None:
    words = verdicts(0.05, ROUNDS, drift=drift, margin=timing.PROCESS_LUCK)
    assert words.count("faster") / len(words) > 0.97
    assert "slower" not in words


def test_heavy_tails_cost_certainty_and_never_turn_a_verdict_round() -> None:
    words = verdicts(0.05, ROUNDS, noise=heavy_tailed, margin=timing.PROCESS_LUCK)
    assert words.count("faster") / len(words) > 0.8
    assert words.count("slower") / len(words) < 0.001


def slowing(position: int, count: int, alternate: bool, rounds: int = ROUNDS) -> np.ndarray:
    """The samples of the competitor at a position among `count` equal ones, on a machine that grows
    slower by 1% with each sample."""
    names = [str(n) for n in range(count)]
    places = [
        (timing.order(names, number) if alternate else names).index(str(position))
        for number in range(rounds)
    ]
    return np.array([1.01 ** (number * count + place) for number, place in enumerate(places)])


def test_a_machine_that_grows_slower_favours_nobody() -> None:
    for first, second in ((0, 1), (0, 7), (3, 4), (6, 2)):
        pair = [figure(str(n), slowing(n, 8, alternate=True)) for n in (first, second)]
        assert timing.verdict(*pair).word == "cannot tell"
    # In one fixed order it would favour whoever comes first: this is what the order is for.
    pair = [figure(str(n), slowing(n, 8, alternate=False)) for n in (0, 7)]
    assert timing.verdict(*pair).word == "faster"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-7, 1e3), st.floats(1e-7, 1e3)), min_size=1, max_size=30),
    st.sampled_from([0.0, timing.PROCESS_LUCK]),
)
def test_the_word_the_interval_and_the_sentence_agree(samples, margin: float) -> None:
    first, second = (
        figure(name, np.array(s)) for name, s in zip("ab", zip(*samples, strict=True), strict=True)
    )
    one = timing.verdict(first, second, margin=margin)
    other = timing.verdict(second, first, margin=margin)
    assert one.low <= one.ratio <= one.high
    assert (one.word == "faster") == (one.low > 1 + margin)
    assert (one.word == "slower") == (one.high < 1 / (1 + margin))
    assert one.word in one.sentence()
    assert one.short().endswith(one.word)
    opposite = {"faster": "slower", "slower": "faster", "cannot tell": "cannot tell"}
    assert other.word == opposite[one.word]


def test_too_few_rounds_never_claim_a_difference() -> None:
    assert set(verdicts(difference=10.0, rounds=5, trials=50)) == {"cannot tell"}


def test_a_slow_round_shared_by_both_does_not_move_the_verdict() -> None:
    first, second = np.ones(9), np.full(9, 1.5)
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
    # Nobody wakes too early; how much too late, and so whether this is "faster", is the machine's.
    for name, seconds in (("short", 0.002), ("long", 0.008)):
        assert min(measured[name].samples) >= seconds
    assert measured.verdict("short", "long").word != "slower"


def test_ctrl_c_keeps_what_was_measured() -> None:
    taken = []

    def advance(name: str) -> None:
        taken.append(name)
        if len(taken) == 2 + 5:  # two are built, then five samples
            raise KeyboardInterrupt

    candidates = [Candidate(name, sleeping, {"seconds": 0.001}) for name in ("one", "other")]
    with pytest.raises(timing.Interrupted) as caught:
        timing.compare(candidates, rounds=6, sample_seconds=0.001, advance=advance)
    measured = caught.value.measured
    assert taken[2:] == ["one", "other", "other", "one", "one"]
    assert {name: len(one.samples) for name, one in measured.figures.items()} == {
        "one": 3,
        "other": 2,
    }
    assert isinstance(caught.value, KeyboardInterrupt)


def test_what_takes_too_long_a_call_is_left_out_with_the_reason() -> None:
    candidates = [
        Candidate("short", sleeping, {"seconds": 0.001}),
        Candidate("long", sleeping, {"seconds": 0.1}),
    ]
    measured = timing.compare(candidates, rounds=2, sample_seconds=0.001, longest_call=0.05)
    assert list(measured.figures) == ["short"]
    assert "one call takes 0.1 s, more than the 0.05 s allowed" in measured.failed["long"]


def moving(name: str, rates: np.ndarray, written: float = 0.0) -> Figure:
    samples = tuple(8e9 / rates)
    return Figure(name, samples, 1, flops=1e9, bytes=8e9, verified=True, bytes_written=written)


def test_a_share_of_bandwidth_is_taken_round_by_round_over_the_roof_that_fits() -> None:
    memory = np.array([20e9, 60e9, 25e9, 55e9, 40e9, 30e9, 20e9, 60e9, 35e9])  # it is shared
    figures = {
        one.name: one
        for one in (
            moving(timing.PEAK_READ.name, memory),
            moving(timing.PEAK_TRIAD.name, 0.5 * memory, written=8e9 / 3),
            moving("reads", 0.9 * memory),
            moving("writes", 0.4 * memory, written=4e9),
        )
    }
    measured = timing.Comparison(figures, {}, 9, 2)
    assert measured.share_of_bandwidth("reads") == pytest.approx((0.9, 0.9, 0.9))
    assert measured.share_of_bandwidth("writes") == pytest.approx((0.8, 0.8, 0.8))
    assert measured["reads"].intensity == pytest.approx(1 / 8)
    del figures[timing.PEAK_READ.name]
    assert measured.share_of_bandwidth("reads") is None


def test_the_peaks_are_measured_at_one_thread_and_at_all() -> None:
    peaks = [*timing.PEAKS, *timing.ONE_THREAD.values()]
    measured = timing.compare(peaks, rounds=3, sample_seconds=0.01)
    assert not measured.failed
    assert measured.peak_gflops > 1.0
    assert all(entry["verified"] for entry in measured.as_json())
    for peak in timing.PEAKS:
        one, all_of_them = measured[f"{peak.name}, 1 thread"], measured[peak.name]
        rates = [(f.bytes or f.flops) / min(f.samples) for f in (one, all_of_them)]
        assert rates[1] > 0.4 * rates[0]  # more, were the machine ours alone
    triad = measured["stream triad"]
    assert triad.gbytes > 0.5
    assert triad.gflops < measured.peak_gflops
    threads = {entry["competitor"]: entry["threads"] for entry in measured.as_json()}
    assert threads["FMA peak"] == measured.threads
    assert threads["FMA peak, 1 thread"] == 1


def test_a_core_taken_by_another_program_is_told() -> None:
    def comparison(cores: float) -> Comparison:
        peak = Figure(PEAK_FMA.name, (1.0,), 1, 1e9, 0.0, True, cores=(cores, cores, 2.0))
        return Comparison({peak.name: peak}, {}, 3, threads=2)

    assert comparison(1.99).disturbance() == ""
    assert comparison(1.2).disturbance().startswith("Other programs took 0.8 of the 2 cores")
