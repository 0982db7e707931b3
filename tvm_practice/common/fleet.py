"""Timing the candidates of a search on other machines, which a tracker knows.

`Fleet` measures as `Measure` does, but there: `rpc` finds the devices, and `trust` decides whom to
believe. RPC has no time limits: a call to a device that hangs waits for ever. So every attempt is a
process of its own, which is stopped when its time is up.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.common.measure import (
    SAMPLE_SECONDS,
    SAMPLES,
    Measure,
    Measured,
    arguments_of,
    end_with_parent,
)
from tvm_practice.common.rpc import (  # noqa: F401 - the lab and the commands have them from here
    CONNECT_SECONDS,
    DEVICE,
    DEVICE_PORT,
    KEY,
    PORTS,
    TRACKER_PORT,
    Address,
    CannotListen,
    Machine,
    NoDevice,
    ask_tracker,
    devices_at,
    first_machine,
    free_device,
    here,
    is_loopback,
    machine_of,
    no_device,
    no_tracker,
    on_loopback,
    parse_address,
    registered,
    serve_device,
    serve_tracker,
    shown,
)
from tvm_practice.common.target import threads
from tvm_practice.common.trust import (  # noqa: F401 - as above
    DISAGREED,
    FOREIGN,
    GARBAGE,
    HUNG,
    LEFT_OUT,
    LOST,
    OTHER_CPU,
    Case,
    Event,
    Offer,
    Timed,
    Trust,
)
from tvm_practice.common.worker import Failure, Worker, WorkerFailed

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

PATIENCE_SECONDS = 60.0  # without any device: as long as a tracker may take to come back
PAUSE_SECONDS = 0.2

# What TVM says when the other side of a connection is gone.
_BROKEN = re.compile(r"kShutdown|SockChannel::|Connection reset|Broken pipe")


@dataclass(frozen=True)
class Devices:
    """Where to measure: a tracker, the key of its devices, and the kind of machine they are."""

    tracker: Address
    key: str
    machine: Machine


@dataclass
class Job:
    """A candidate that is to be timed, and what devices have said of it."""

    candidate: MeasureCandidate
    case: Case = field(default_factory=Case)


@dataclass
class Attempt:
    """A candidate on its way: its place in the batch, its process, how far it is, since when and
    until when it may be there, and the device that it was given."""

    place: int
    worker: Worker
    phase: str  # building, waiting, connecting, timing
    deadline: float
    taken: float = 0.0
    device: str = ""
    machine: Machine | None = None


class Fleet(Measure):
    """Measures like Measure, on the devices that a tracker has under a key; `trust` has the rules
    by which a failure is the device's fault or the candidate's, and a time counts.

    What a device did wrong is told to `happened`. Times that are not believed any more are given to
    `remove`, by the places of their records among those of the database, after each batch. Without
    any device for a minute, NoDevice is raised.
    """

    def __init__(
        self,
        *arguments: Any,
        devices: Devices,
        floor_seconds: float = 0.0,
        happened: Callable[[Event], None] = lambda _: None,
        remove: Callable[[list[int]], None] = lambda _: None,
        patience_seconds: float = PATIENCE_SECONDS,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._candidate = named.get("candidate") or time_remotely
        self._tracker, self._key, self._machine = devices.tracker, devices.key, devices.machine
        self._floor_seconds = floor_seconds
        self._remove = remove
        self._patience_seconds = patience_seconds
        self._look_again = -math.inf
        times = [
            mean(float(run) for run in record.run_secs)
            for record in self._database.get_all_tuning_records()
        ]
        self._records_before = len(times)
        self._trust = Trust(happened, min(times, default=math.inf))

    @property
    def width(self) -> int:
        """How many candidates can be timed at once."""
        self._look()
        return max(1, len(self._trust.usable))

    def _look(self) -> None:
        """Ask the tracker for the devices that it has: once a second, and less often while it does
        not answer."""
        if time.monotonic() < self._look_again:
            return
        pause = 1.0
        try:
            self._trust.devices = registered(self._tracker, self._key)
        except OSError:  # it may come back
            pause = CONNECT_SECONDS
        self._look_again = time.monotonic() + pause

    def __call__(self, candidates: Sequence[MeasureCandidate]) -> list[Any]:
        results = super().__call__(candidates)
        self.withdraw()
        return results

    def withdraw(self) -> None:
        """Have the records removed that are not believed any more."""
        if places := self._trust.withdraw():
            self._remove([self._records_before + place for place in places])

    def again(self, candidates: Sequence[MeasureCandidate], rounds: int) -> list[list[float]]:
        runs: list[list[float]] = [[] for _ in candidates]
        jobs = [Job(candidate, Case(certain=True)) for candidate in candidates]
        for place, timed in self._timed(jobs, rounds):
            runs[place] = list(timed.runs)
        return runs

    def _measured(self, candidates: Sequence[MeasureCandidate]) -> Iterator[tuple[int, Measured]]:
        jobs = [Job(candidate) for candidate in candidates]
        for place, timed in self._timed(jobs, 1):
            self._trust.keep(timed, jobs[place].case)
            seconds = None if timed.failure else timed.seconds
            yield place, Measured(seconds, timed.failure, timed.machine)

    def _timed(self, jobs: Sequence[Job], rounds: int) -> Iterator[tuple[int, Timed]]:
        """Each job's place and what became of it, as it comes: as many on their way as there are
        devices, and for each thread one that compiles meanwhile."""
        left, running = deque(range(len(jobs))), {}
        silent_since = time.monotonic()
        try:
            while left or running:
                width = self.width
                building = sum(one.phase == "building" for one in running.values())
                while left and len(running) < width + threads() and building < threads():
                    attempt = self._start_attempt(left.popleft(), jobs, rounds)
                    running[attempt.worker.connection] = attempt
                    building += 1
                soonest = min(attempt.deadline for attempt in running.values())
                ready = wait(list(running), max(0.0, min(1.0, soonest - time.monotonic())))
                late = [key for key, one in running.items() if one.deadline <= time.monotonic()]
                for connection in ready or late:
                    attempt = running.pop(connection)
                    outcome = self._step(attempt, jobs[attempt.place], rounds)
                    if attempt.phase != "waiting":
                        silent_since = time.monotonic()
                    if outcome is None:  # it goes on
                        running[connection] = attempt
                        continue
                    attempt.worker.__exit__()
                    if isinstance(outcome, Timed):
                        yield attempt.place, outcome
                    else:
                        left.appendleft(attempt.place)
                if any(
                    one.phase != "waiting" or one.deadline < math.inf for one in running.values()
                ):
                    silent_since = time.monotonic()
                elif running and time.monotonic() - silent_since > self._patience_seconds:
                    raise NoDevice(self._nobody())
        finally:
            for attempt in running.values():
                attempt.worker.__exit__()

    def _nobody(self) -> str:
        number = len(self._trust.left_out)
        out = f", and {number} left out" if number else ""
        return (
            f"for {self._patience_seconds:.0f} seconds the tracker at {shown(self._tracker)} had "
            f"no device of key {self._key!r} to offer{out}; every record until then is kept"
        )

    def _start_attempt(self, place: int, jobs: Sequence[Job], rounds: int) -> Attempt:
        candidate = jobs[place].candidate
        limits = (self._build_seconds, rounds * self._run_seconds)
        worker = Worker(
            self._candidate,
            candidate.sch.mod,
            self._target,
            arguments_of(candidate),
            limits,
            self._tracker,
            self._key,
            rounds,
            limit_memory=True,
        )
        return Attempt(place, worker, "building", time.monotonic() + self._build_seconds)

    def _timing_seconds(self, rounds: int) -> float:
        """A device makes machine code of the candidate, and runs it."""
        return self._build_seconds + rounds * self._run_seconds

    def _step(self, attempt: Attempt, job: Job, rounds: int) -> Timed | str | None:
        """Take the next answer of an attempt: None if it goes on, Timed if it is over, "again"
        if the candidate is to be tried once more."""
        try:
            answer = attempt.worker.answer(0.0)
        except WorkerFailed as error:
            return self._failed(attempt, job, error.failure, rounds)
        now = time.monotonic()
        case = job.case
        match attempt.phase:
            case "building":
                attempt.phase, attempt.deadline = "waiting", math.inf
                if case.asked and self._trust.others(case):  # which may be busy elsewhere for long
                    attempt.deadline = now + self._patience_seconds
            case "waiting":
                attempt.device = answer
                offer = self._trust.offered(answer, case)
                with suppress(BrokenPipeError, ConnectionResetError):  # its end is told next
                    attempt.worker.connection.send(offer)
                if offer is Offer.TAKE:
                    attempt.phase, attempt.taken = "connecting", now
                    attempt.deadline = now + CONNECT_SECONDS
            case "connecting":
                attempt.machine = answer
                if not answer.alike(self._machine):
                    self._trust.leave_out(attempt.device, OTHER_CPU, answer.name)
                    return "again"
                limit = self._timing_seconds(rounds)
                attempt.phase, attempt.deadline = "timing", now + limit
            case "timing":
                if fault := self._fault_of_times(answer, now - attempt.taken):
                    self._trust.leave_out(attempt.device, GARBAGE, fault)
                    return "again"
                timed = Timed(tuple(answer), None, attempt.machine.name, attempt.device)
                return self._trust.timed(case, timed) or "again"
        return None

    def _fault_of_times(self, times: Sequence[float], took: float) -> str:
        """Why these times cannot be, of a session that took so long here."""
        for one in times:
            if not math.isfinite(one) or one <= 0:
                return f"{one} seconds"
            if one < self._floor_seconds:
                return (
                    f"{one:.3g} s, where this CPU cannot take less than {self._floor_seconds:.3g}"
                )
        if SAMPLES * sum(times) > took:  # each is the shortest of so many
            return f"{max(times):.3g} s a call, in a session of {took:.3g} s with more calls"
        return "" if times else "no time at all"

    def _failed(self, attempt: Attempt, job: Job, failure: Failure, rounds: int) -> Timed | str:
        """What an attempt's end without times means."""
        late, said = failure.kind == "timeout", failure.sentence
        if attempt.phase == "waiting":
            return (self._trust.in_vain(job.case) if late else None) or "again"
        if attempt.phase == "building":
            if late:
                said = f"it was still compiling after {self._build_seconds:.0f} seconds"
            return Timed((), Failure(failure.kind, said, failure.printed), self._machine.name)
        if attempt.phase == "connecting":  # the candidate has not been there yet
            if said.startswith(f"{NoDevice.__name__}: "):
                said = said.removeprefix(f"{NoDevice.__name__}: ")
                self._trust.leave_out(attempt.device, FOREIGN, said)
            else:
                self._trust.fault(attempt.device, HUNG if late else LOST, said)
            return "again"
        if late:
            said = f"it was still running after {self._timing_seconds(rounds):.0f} seconds"
            failure = Failure("timeout", said, failure.printed)
        elif failure.kind == "raised" and _BROKEN.search(said):
            failure = Failure("died", "it ended its session on the device", failure.printed)
        failed = Timed((), failure, attempt.machine.name, attempt.device)
        return self._trust.failed(job.case, failed) or "again"


def sleeping_program(seconds: float) -> tvm.IRModule:
    """A program that takes so long and keeps no core busy: many devices fit on one machine."""
    return program_that_calls("usleep", round(seconds * 1e6))


def program_that_calls(function: str, *arguments: int) -> tvm.IRModule:
    """A program that calls a function of the C library."""
    from tvm import ir, te, tirx

    A = te.placeholder((1,), name="A")
    C = te.extern((1,), [A], lambda *_: tirx.call_extern("int32", function, *arguments), name="C")
    return ir.IRModule({"main": te.create_prim_func([A, C])})


def variants(program: tvm.IRModule, number: int) -> list[MeasureCandidate]:
    """So many candidates that differ in an annotation only."""
    from tvm.s_tir import Schedule
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

    found = []
    for variant in range(number):
        sch = Schedule(program)
        sch.annotate(sch.get_sblock("C"), "variant", variant)
        found.append(MeasureCandidate(sch, ArgInfo.from_entry_func(program, True)))
    return found


# ----------------------------------------------------------------------- in the candidate's process


def time_remotely(
    connection: Connection,
    module: tvm.IRModule,
    target: tvm.target.Target,
    arguments: list[tuple[tuple[int, ...], str]],
    limits: tuple[float, float],
    tracker: Address,
    key: str,
    rounds: int,
) -> None:
    """Compile, say so, and time on a device: its address, its Machine and the times of the rounds
    are sent as they are known."""
    end_with_parent()
    import tvm
    from tvm import rpc

    # LLVM's own language: the device makes machine code of it, and nobody needs a linker.
    path = Path(tempfile.gettempdir()) / "candidate.ll"
    tvm.compile(module, target=target).mod.write_to_file(str(path), "ll")
    connection.send(("returned", "built"))
    offer = None
    while offer is not Offer.TAKE:
        host, port, word = free_device(tracker, key)
        connection.send(("returned", shown((host, port))))
        offer = connection.recv()
        if offer is Offer.RETURN:  # a device whose session has ended is free at once
            rpc.connect(host, port, word, session_timeout=CONNECT_SECONDS)
            time.sleep(PAUSE_SECONDS)
    # The device ends a session that hangs, a little later than whoever asks has given up.
    session = rpc.connect(host, port, word, session_timeout=sum(limits) + 2)
    connection.send(("returned", machine_of(session)))
    session.upload(str(path))
    function = session.load_module(path.name)
    device = session.cpu()
    tensors = [tvm.runtime.tensor(np.ones(shape, dtype), device) for shape, dtype in arguments]
    timer = function.time_evaluator(
        "main", device, number=1, repeat=SAMPLES, min_repeat_ms=round(1000 * SAMPLE_SECONDS)
    )
    times = [min(timer(*tensors).results) for _ in range(rounds)]
    del timer, tensors, function, device, session  # else the device sees a connection that broke
    connection.send(("returned", times))
