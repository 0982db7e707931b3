"""Whom a search believes: simulated fleets, whose faults are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_practice.common import trust
from tvm_practice.common.trust import Case, Event, Offer, Timed, Trust
from tvm_practice.common.worker import Failure

# What a device makes of the true time of a candidate: another time, or how it fails.
Device = Callable[[float], float | str]

searches = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 1 << 32)
FAILS = -1.0  # the true time of a candidate that fails everywhere


def honest(time: float) -> float | str:
    return time if time > 0 else "died"


def broken(time: float) -> str:
    return "raised"


def off_by(factor: float) -> Device:
    return lambda time: honest(time) * factor if time > 0 else "died"


def noisy(rng: random.Random) -> Device:
    """A machine with other work besides."""
    return lambda time: time * rng.uniform(1, 2.9) if time > 0 else "died"


@dataclass
class Search:
    """A search on such devices, several candidates at a time, in a random order.

    records: of each candidate, but for those that were withdrawn, its true time, the recorded one
    (None if it failed) and the device.
    """

    fleet: dict[str, Device]
    seed: int
    certain: bool = False
    silent: tuple[str, ...] = ()  # registered, and never free
    settled: int = 0
    events: list[Event] = field(default_factory=list)
    records: list[tuple[float, float | None, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.trust = Trust(self.events.append)
        self.trust.devices = set(self.fleet) | set(self.silent)

    def improving(self, number: int = 60) -> list[float]:
        """What a search proposes: better and better, with exceptions."""
        return [math.exp(self.rng.gauss(0, 0.5)) * 0.98**n for n in range(number)]

    def run(self, truth: list[float]) -> Search:
        left = [(true, Case(certain=self.certain)) for true in truth]
        steps = 0
        while left:
            steps += 1
            assert steps < 20 * len(truth), "a candidate waits for ever"
            place = self.rng.randrange(min(4, len(left)))
            true, case = left[place]
            if (outcome := self._try(true, case)) is None:
                continue
            del left[place]
            self.settled += 1
            self.trust.keep(outcome, case)
            seconds = None if outcome.failure else outcome.seconds
            self.records.append((true, seconds, outcome.device))
        for place in reversed(self.trust.withdraw()):
            del self.records[place]
        return self

    def _try(self, true: float, case: Case) -> Timed | None:
        offers = {one: self.trust.offered(one, case) for one in self.fleet}
        takes = sorted(one for one, offer in offers.items() if offer is Offer.TAKE)
        if not takes:
            return self.trust.in_vain(case)
        name = self.rng.choice(takes)
        match self.fleet[name](true):
            case str() as kind:
                return self.trust.failed(case, Timed((), Failure(kind, kind), "", name))
            case seconds:
                return self.trust.timed(case, Timed((seconds,), None, "", name))

    def kinds(self, device: str) -> set[str]:
        return {one.kind for one in self.events if one.device == device}


# ------------------------------------------------------------------------------------- whose fault


@searches
@given(SEEDS, st.integers(1, 3))
def test_a_broken_device_costs_no_good_candidate_while_another_is_usable(seed, others) -> None:
    fleet = {f"honest {n}": honest for n in range(others)} | {"bad": broken}
    search = Search(fleet, seed)
    search.run(search.improving())
    assert [seconds for true, seconds, _ in search.records] == [t for t, *_ in search.records]
    assert len(search.records) == 60
    assert search.trust.left_out <= {"bad"}


@searches
@given(SEEDS, st.integers(1, 3))
def test_a_candidate_that_fails_everywhere_costs_no_device(seed, number) -> None:
    search = Search({str(n): honest for n in range(number)}, seed)
    truth = [FAILS if search.rng.random() < 0.5 else 1.0 for _ in range(40)]
    search.run(truth)
    assert len(search.records) == 40
    assert all((seconds is None) == (true == FAILS) for true, seconds, _ in search.records)
    assert search.events == []


# ------------------------------------------------------------------------------------ wrong clocks


@searches
@given(SEEDS, st.floats(1.5, 1000), st.integers(1, 3))
def test_a_slow_clock_gets_no_honest_device_left_out(seed, factor, others) -> None:
    fleet = {f"honest {n}": honest for n in range(others)} | {"slow": off_by(factor)}
    search = Search(fleet, seed)
    search.run(search.improving())
    assert search.trust.left_out <= {"slow"}


@searches
@given(SEEDS, st.integers(1, 5))
def test_honest_devices_with_other_work_besides_are_all_kept(seed, number) -> None:
    noise = noisy(random.Random(seed))
    search = Search({str(n): noise for n in range(number)}, seed)
    search.run(search.improving())
    assert search.events == []
    assert len(search.records) == 60


@searches
@given(SEEDS, st.booleans())
def test_a_clock_ten_times_too_fast_among_three_is_found_and_named(seed, others_busy) -> None:
    noise = noisy(random.Random(seed)) if others_busy else honest
    search = Search({"one": noise, "two": noise, "liar": off_by(0.1)}, seed)
    search.run(search.improving(200))
    assert search.trust.left_out == {"liar"}
    assert {trust.DISAGREED, trust.LEFT_OUT} <= search.kinds("liar")
    assert {one.device for one in search.events} == {"liar"}
    assert all(seconds >= true for true, seconds, _ in search.records)


@searches
@given(SEEDS, st.sampled_from([0.1, 0.5, 2.0, 10.0]))
def test_of_two_devices_that_disagree_none_is_left_out_and_the_longer_time_counts(
    seed, factor
) -> None:
    search = Search({"one": honest, "two": off_by(factor)}, seed, certain=True)
    search.run(search.improving())
    assert search.trust.left_out == set()
    assert all(seconds == true * max(1, factor) for true, seconds, _ in search.records)
    disputed = {trust.DISPUTED} if not 1 / 3 <= factor <= 3 else set()
    assert {one.kind for one in search.events} == disputed


@searches
@given(SEEDS, st.sampled_from([0.001, 1.0, 1000.0]), st.booleans())
def test_the_only_device_is_believed_and_keeps_its_runs(seed, factor, certain) -> None:
    search = Search({"only": off_by(factor)}, seed, certain)
    search.run(search.improving())
    assert search.events == []
    assert [seconds for _, seconds, _ in search.records] == [
        true * factor for true, *_ in search.records
    ]
    assert len(search.records) == 60


def test_a_third_decides_also_when_the_time_is_no_record_any_more() -> None:
    fleet = Trust(lambda _: None)
    fleet.devices = {"one", "slow", "two"}
    case, other = Case(), Case(alone=True)
    assert fleet.timed(case, Timed((1.0,), None, "", "one")) is None
    fleet.keep(fleet.timed(other, Timed((0.5,), None, "", "one")), other)
    assert fleet.timed(case, Timed((10.0,), None, "", "slow")) is None
    assert fleet.timed(case, Timed((1.1,), None, "", "two")).seconds == 1.1


def test_who_agrees_in_between_is_not_left_out() -> None:
    fleet = Trust(lambda _: None)
    fleet.devices = {"one", "two", "odd"}
    for _ in range(2 * trust.STRIKES):
        for odd in (10.0, 1.0):
            case = Case(certain=True)
            times = {"odd": odd, "one": 1.0, "two": 1.0}
            outcomes = (fleet.timed(case, Timed((t,), None, "", d)) for d, t in times.items())
            assert next(one for one in outcomes if one).seconds == 1.0
    assert fleet.usable == fleet.devices


def test_finals_get_the_new_runs_of_the_only_device() -> None:
    only = Trust(lambda _: None, best=0.1)
    runs = (0.1003, 0.1001, 0.1005)
    assert only.timed(Case(certain=True), Timed(runs, None, "", "only")).runs == runs


# ---------------------------------------------------------------------------------------- withdrawn


def test_unconfirmed_times_of_a_device_that_is_left_out_are_withdrawn() -> None:
    search = Search({"liar": off_by(0.1)}, 1)
    search.trust.devices = {"liar"}
    search.run([1.0] * 5)  # nobody can object
    assert len(search.records) == 5 and search.trust.best == 0.1
    search.fleet |= {"one": honest, "two": honest}
    search.trust.devices = set(search.fleet)
    search.certain = True
    search.run([1.0] * 20)
    assert search.trust.left_out == {"liar"}
    assert search.kinds("liar") == {trust.DISAGREED, trust.LEFT_OUT, trust.WITHDRAWN}
    assert search.trust.best == 1.0
    assert [seconds for _, seconds, _ in search.records] == [1.0] * 20
    assert search.trust.withdraw() == []


def test_a_device_with_impossible_times_loses_those_before_and_is_not_asked_again() -> None:
    events: list[Event] = []
    fleet = Trust(events.append)
    fleet.devices = {"one"}
    case = Case()
    fleet.keep(fleet.timed(case, Timed((1.0,), None, "", "one")), case)
    fleet.leave_out("one", trust.GARBAGE, "nan seconds")
    assert fleet.offered("one", Case()) is Offer.LEAVE
    assert (fleet.withdraw(), fleet.best) == ([0], math.inf)
    assert [one.kind for one in events] == [trust.GARBAGE, trust.WITHDRAWN]


# -------------------------------------------------------------------------------------- it all ends


@searches
@given(
    SEEDS,
    st.lists(
        st.sampled_from(["honest", "noisy", "broken", "fast", "slow", "silent"]),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_every_candidate_is_settled_whatever_the_devices_are(seed, kinds, certain) -> None:
    rng = random.Random(seed)
    made = {
        "honest": honest,
        "noisy": noisy(rng),
        "broken": broken,
        "fast": off_by(0.1),
        "slow": off_by(10),
    }
    names = [f"{kind} {n}" for n, kind in enumerate(["honest", *kinds])]
    fleet = {name: made[name.split()[0]] for name in names if "silent" not in name}
    search = Search(fleet, seed, certain, tuple(name for name in names if "silent" in name))
    search.run(search.improving(40))
    assert search.settled == 40
    assert search.trust.usable, "the last device was left out"


@pytest.mark.parametrize("kind", [trust.LOST, trust.HUNG])
def test_a_device_that_is_back_begins_anew(kind) -> None:
    fleet = Trust(lambda _: None)
    fleet.devices = {"one", "two"}
    for _ in range(trust.STRIKES + 1):
        fleet.fault("one", kind, "")
        fleet.timed(Case(), Timed((1.0,), None, "", "one"))
    assert fleet.usable == {"one", "two"}
    for _ in range(trust.STRIKES):
        fleet.fault("one", kind, "")
    assert fleet.usable == {"two"}


def test_a_device_that_does_not_answer_is_not_waited_for_twice() -> None:
    fleet = Trust(lambda _: None)
    fleet.devices = {"one", "silent"}
    first, second = Case(), Case()
    assert fleet.timed(first, Timed((1.0,), None, "", "one")) is None
    assert fleet.offered("one", first) is Offer.RETURN
    assert fleet.in_vain(first).seconds == 1.0
    assert fleet.timed(second, Timed((0.5,), None, "", "one")).seconds == 0.5
