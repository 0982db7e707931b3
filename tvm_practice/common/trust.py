"""Which device is believed: what its failures and times say of a candidate, and of the device.

Pure decisions, without a process or a network: they are told what came of each attempt, and answer
what is known by then. `fleet` makes the attempts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from tvm_practice.common.worker import Failure

# So often in a row a device fails with what another one could time, or disagrees with two that
# agree: it is left out.
STRIKES = 3
# Times of two devices that are further apart are not the same time. Machines that have other work
# besides are that far apart.
AGREE = 3.0
BETTER = 0.95  # of the best so far: a time below is a claim, which a second device has to make too

LOST = "was lost in the middle of a session"
HUNG = "did not answer in time"
RAISED = "failed with what another one could time"
GARBAGE = "gave times that cannot be"
DISAGREED = f"gave times more than {AGREE:.0f} times away from what two others took"
DISPUTED = f"and another one gave times more than {AGREE:.0f} times apart; a third would decide"
OTHER_CPU = "is another kind of machine"
FOREIGN = "is no device of this version of the course"
LEFT_OUT = "was not asked any more"
WITHDRAWN = "is not believed: its times that no other came to were taken out of the records"


@dataclass(frozen=True)
class Event:
    """Something that went wrong on a device and did not stop the search: what kind, and where."""

    kind: str
    device: str
    sentence: str = ""


class Offer(Enum):
    """What to do with a device that the tracker offers: measure there, give it back for others, or
    leave it alone for the seconds after which it offers itself again."""

    TAKE = "take"
    RETURN = "return"
    LEAVE = "leave"


@dataclass(frozen=True)
class Timed:
    """What became of a candidate: the seconds of each round, or none and why; and where."""

    runs: tuple[float, ...]
    failure: Failure | None
    machine: str
    device: str = ""

    @property
    def seconds(self) -> float:
        return min(self.runs)

    def agrees(self, other: Timed) -> bool:
        return 1 / AGREE <= self.seconds / other.seconds <= AGREE


@dataclass
class Case:
    """What devices have said of a candidate.

    certain: two have to agree, whatever it takes. alone: another device was waited for in vain.
    """

    certain: bool = False
    times: list[Timed] = field(default_factory=list)
    failures: list[Timed] = field(default_factory=list)
    alone: bool = False

    @property
    def asked(self) -> set[str]:
        return {one.device for one in (*self.times, *self.failures)}


@dataclass(frozen=True)
class Kept:
    """A time that counts, whose it is, and whether a second device came to it too."""

    seconds: float
    device: str
    confirmed: bool


class Trust:
    """What is known of the devices of a search. best: the shortest time of earlier searches.

    A candidate that fails goes to another device. If that can time it, the first was at fault; if
    it fails there too, or twice on the only device, the candidate is. A time that beats all others
    is a claim: it counts when a second device agrees, and so does every time of a case that has to
    be `certain`. Of times that agree the longest counts, since much makes a program slower, and
    nothing faster than it is. Two that disagree wait for a third; it decides, and the odd one has a
    strike. Without a third the longest counts, and nobody is at fault.
    """

    def __init__(self, happened: Callable[[Event], None], best: float = math.inf) -> None:
        self._happened = happened
        self.devices: set[str] = set()  # that are registered
        self.left_out: set[str] = set()
        self._absent: set[str] = set()  # registered, but silent when they were last wanted
        self._faults: Counter[str] = Counter()
        self._disagreed: Counter[str] = Counter()
        self._unbelieved: set[str] = set()  # left out for their times
        self._best_before = best
        self.kept: list[Kept] = []  # in the order in which they were recorded

    @property
    def usable(self) -> set[str]:
        return self.devices - self.left_out

    def others(self, case: Case) -> set[str]:
        """The devices that can still be asked about it."""
        return set() if case.alone else self.usable - self._absent - case.asked

    def offered(self, device: str, case: Case) -> Offer:
        if device in self.left_out:
            return Offer.LEAVE
        if device in case.asked and self.others(case):
            return Offer.RETURN
        return Offer.TAKE

    # These return what became of the candidate, or None while another device has to be asked.

    def timed(self, case: Case, timed: Timed) -> Timed | None:
        """A device came to a time that can be."""
        self._faults[timed.device] = 0
        self._absent.discard(timed.device)
        case.times.append(timed)
        return self._verdict(case)

    def failed(self, case: Case, failed: Timed) -> Timed | None:
        """The candidate failed on a device."""
        case.failures.append(failed)
        return self._verdict(case)

    def in_vain(self, case: Case) -> Timed | None:
        """No other device came."""
        self._absent |= self.others(case)
        case.alone = True
        return self._verdict(case)

    def _verdict(self, case: Case) -> Timed | None:
        times = [one for one in case.times if one.device not in self.left_out]
        if not times:
            return self._blame(case)
        agreed = [
            one
            for one in times
            if any(one.agrees(other) for other in times if other.device != one.device)
        ]
        claim = case.certain or times[0].seconds < BETTER * self.best
        if (claim or len(times) > 1) and not agreed and self.others(case):
            return None
        counts = max(agreed or times, key=lambda one: one.seconds)
        for one in case.failures:  # so it was not the candidate
            kind = {"timeout": HUNG, "died": LOST}.get(one.failure.kind, RAISED)
            self.fault(one.device, kind, one.failure.sentence)
        for one in times:
            took = f"{one.seconds:.3g} s, where {counts.device} took {counts.seconds:.3g} s"
            if one in agreed:
                self._disagreed[one.device] = 0
            elif agreed and not any(one.agrees(other) for other in agreed):
                self._disagrees(one.device, took)
            elif not one.agrees(counts):
                self._happened(Event(DISPUTED, one.device, took))
        return counts

    def _blame(self, case: Case) -> Timed | None:
        """The candidate's failure, if it is its own: on two devices, or twice on the only one."""
        failures = [one for one in case.failures if one.device not in self.left_out]
        on_two = len({one.device for one in failures}) > 1
        on_the_only_one = len(failures) > 1 and not self.others(case)
        return failures[-1] if on_two or on_the_only_one else None

    def keep(self, timed: Timed, case: Case) -> None:
        """It is recorded."""
        seconds = math.inf if timed.failure else timed.seconds
        others = [one for one in case.times if one.device != timed.device]
        confirmed = bool(timed.failure) or any(one.agrees(timed) for one in others)
        self.kept.append(Kept(seconds, timed.device, confirmed))

    def withdraw(self) -> list[int]:
        """The places, in the order in which they were kept, of the times that are not believed any
        more. They are forgotten."""
        places = [place for place, one in enumerate(self.kept) if not self._believed(one)]
        for device in sorted({self.kept[place].device for place in places}):
            self._happened(Event(WITHDRAWN, device))
        self.kept = [one for one in self.kept if self._believed(one)]
        return places

    def _believed(self, one: Kept) -> bool:
        return one.confirmed or one.device not in self._unbelieved

    @property
    def best(self) -> float:
        """The shortest time so far."""
        believed = (one.seconds for one in self.kept if self._believed(one))
        return min(self._best_before, *believed, math.inf)

    # ------------------------------------------------------------------------ what a device did

    def fault(self, device: str, kind: str, sentence: str) -> None:
        """It failed, and not because of the candidate."""
        self._happened(Event(kind, device, sentence))
        if kind == HUNG:
            self._absent.add(device)
        self._faults[device] += 1
        if self._faults[device] >= STRIKES:
            self.leave_out(device, LEFT_OUT)

    def _disagrees(self, device: str, took: str) -> None:
        self._happened(Event(DISAGREED, device, took))
        self._disagreed[device] += 1
        if self._disagreed[device] >= STRIKES and self.usable - {device}:
            self._unbelieved.add(device)
            self.leave_out(device, LEFT_OUT)

    def leave_out(self, device: str, kind: str, sentence: str = "") -> None:
        """It is not asked any more, for what it is or did."""
        if kind == GARBAGE:
            self._unbelieved.add(device)
        if device not in self.left_out:
            self.left_out.add(device)
            self._happened(Event(kind, device, sentence))
