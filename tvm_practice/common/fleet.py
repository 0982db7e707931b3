"""Timing the candidates of a search on other machines, through TVM's own RPC tracker and servers.

A device is a process with TVM that runs what it is sent. It registers with a tracker under a key,
by custom the kind of machine; who wants to measure asks the tracker for a device of a key, and gets
an address. Here are both sides: `serve_tracker` and `serve_device`, which add to TVM's what keeps
them going, and `Fleet`, which measures as `Measure` does, but there.

RPC has no time limits and knows no faults: a call to a device that hangs waits for ever. So every
attempt is a process of its own, which is stopped when its time is up.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import math
import os
import platform
import re
import socket
import struct
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_practice.common import command
from tvm_practice.common.measure import (
    SAMPLE_SECONDS,
    SAMPLES,
    Measure,
    Measured,
    arguments_of,
    end_with_parent,
    module_hash,
)
from tvm_practice.common.records import this_machine
from tvm_practice.common.target import UnusableTarget, cpu_name, threads, vector_unit
from tvm_practice.common.worker import Failure, Worker, WorkerFailed, call

if TYPE_CHECKING:
    import tvm
    from tvm.rpc.client import RPCSession
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

Address = tuple[str, int]

TRACKER_PORT, DEVICE_PORT = 9190, 9091
KEY = "cpu"  # unless another is given
CLIENTS_WAITING = 512
PORTS = 100  # so many are tried, from the first on
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 2.0  # between two attempts of a device to reach its tracker
PATIENCE_SECONDS = 60.0  # without any device: as long as a tracker may take to come back
FASTEST_CLOCK = 7e9  # Hz
# So often a device fails with what another one could time, or tells another time, and never agrees
# with one in between: it is left out.
STRIKES = 3
AGREE = 1.5  # times of two devices that are further apart are not the same time
BETTER = 0.95  # of the best so far: a time below is a claim, which a second device has to make too

PAUSE_SECONDS = 0.2
# What is to be done with a device that the tracker offers: measure there, leave it alone for the
# seconds after which it offers itself again, or give it back for others.
TAKE, LEAVE, RETURN = "take", "leave", "return"

DEVICE = "device"  # the name of the process of one
ABOUT = "tvm_practice.machine"  # what a device answers about itself


@dataclass(frozen=True)
class Machine:
    """What records from a device hold for; `name` goes into each of them."""

    cpu: str
    llvm_cpu: str
    threads: int
    lanes: int  # of float32, in a vector
    host: str

    @property
    def name(self) -> str:
        return this_machine(self.cpu, self.threads, self.host)

    @property
    def most_flops(self) -> float:
        """Operations a second that it cannot exceed: on each core two multiply-adds of whole
        vectors a cycle, at more cycles than any."""
        return self.threads * 2 * 2 * self.lanes * FASTEST_CLOCK

    def target(self) -> tvm.target.Target:
        """What to compile for."""
        import tvm

        return tvm.target.Target({"kind": "llvm", "mcpu": self.llvm_cpu, "num-cores": self.threads})

    def alike(self, other: Machine) -> bool:
        """Whether times of one may be compared with times of the other."""
        return all(
            getattr(self, one) == getattr(other, one) for one in ("cpu", "llvm_cpu", "threads")
        )


@dataclass(frozen=True)
class Devices:
    """Where to measure: a tracker, the key of its devices, and the kind of machine they are."""

    tracker: Address
    key: str
    machine: Machine


@dataclass(frozen=True)
class Event:
    """Something that went wrong on a device and did not stop the search: what kind, and where."""

    kind: str
    device: str
    sentence: str = ""


LOST = "was lost in the middle of a session"
HUNG = "did not answer in time"
GARBAGE = "gave times that cannot be"
OTHER_CPU = "is another kind of machine"
RAISED = "failed with what another one could time"
LEFT_OUT = "was not asked any more"
DISAGREED = f"gave times more than {AGREE} times away from what another one took"


# What TVM says when the other side of a connection is gone.
_BROKEN = ("kShutdown", "Socket", "Connection reset", "Broken pipe")


class NoDevice(UnusableTarget):
    """Nobody answers; the message says what to start."""


class CannotListen(UnusableTarget):
    """A tracker or a device cannot have the address it was given; the message says what to give."""


def parse_address(text: str, port: int | None = None) -> Address:
    """ "HOST:PORT" as a tuple. Raises ValueError with a sentence."""
    host, colon, number = text.rpartition(":")
    if not colon or not host or not number.isdigit() or not 0 < int(number) < 1 << 16:
        raise ValueError(f"{text!r} is no address; give HOST:PORT, such as 127.0.0.1:9190")
    return host, int(number)


def _nothing(*_: object) -> None:
    pass


def shown(address: Address) -> str:
    return "{}:{}".format(*address)


# ------------------------------------------------------------------------------------------ serving


def is_loopback(host: str) -> bool:
    """Whether only this very machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve_tracker(host: str, port: int, told: Callable[[str], None]) -> None:
    """TVM's tracker, in this process, until it is ended. Raises CannotListen."""
    from tvm.rpc import base, tracker

    tracker.logger.setLevel("WARNING")
    with _listening_at(host, port):
        # TVM's own command lets one client wait to be let in. Of many at once the others try again
        # a second later.
        family = base.get_addr_family((host, port))
        listening = socket.create_server((host, port), family=family, backlog=CLIENTS_WAITING)
    with listening:
        told(f"tracker at {host}:{port}")
        tracker._tracker_server(listening, base.random_key("tracker"))


def serve_device(
    tracker: Address, key: str, host: str, port: int, told: Callable[[str], None]
) -> None:
    """TVM's RPC server, in this process, until it is ended.

    A candidate that crashes ends the process of its session; TVM's server takes that for the end of
    its own work. So it is started again. Raises CannotListen, and NoDevice if there is no such host
    as the tracker's.
    """
    import multiprocessing

    import tvm_ffi
    from tvm.rpc import base, server

    try:
        socket.getaddrinfo(*tracker)
    except OSError as error:
        raise NoDevice(
            f"the tracker's host {tracker[0]!r} cannot be found ({error.strerror}); --tracker "
            "takes a name that this machine knows, or a number such as 192.168.0.7."
        ) from None
    base.connect_with_retry = lambda address: _reach(address, told)
    multiprocessing.set_start_method("fork", force=True)  # a session has the function below
    tvm_ffi.register_global_func(ABOUT, _about_session, override=True)
    server.logger.setLevel("ERROR")
    home = os.getcwd()
    reason = ""

    def keep(failed: threading.ExceptHookArgs) -> None:
        nonlocal reason
        reason = str(failed.exc_value)

    threading.excepthook = keep
    last = port + PORTS
    while True:
        with _listening_at(host, port):
            state = server.PopenRPCServerState(
                host, port, last, tracker_addr=tracker, key=key, silent=True
            )
        port, last = state.port, state.port + 1
        told(f"device {key} at {host}:{port}" + (f", again: {reason}" if reason else ""))
        state.thread.join()
        state.sock.close()
        os.chdir(home)  # that session's folder is gone
        time.sleep(0.1)


@contextmanager
def _listening_at(host: str, port: int) -> Iterator[None]:
    """What keeps a server from listening there, as CannotListen."""
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError if no port of a range is free
        code = getattr(error, "errno", None) or errno.EADDRINUSE
        reason = os.strerror(code) if code > 0 else error.strerror  # of a name, they are negative
        other = (
            "--port takes another"
            if code == errno.EADDRINUSE
            else "--host takes an address of this machine"
        )
        if code == errno.EACCES:
            other = "--port takes one from 1024 on, which is for everybody"
        raise CannotListen(f"nothing can listen at {host}:{port} ({reason}); {other}.") from None


def _reach(tracker: Address, told: Callable[[str], None]) -> socket.socket:
    """Connect to the tracker, as soon as it is there. TVM's own gives up after a minute, or asks
    without a pause where the host is gone, which takes a core from what is measured."""
    silent = False
    while True:
        try:
            devices_at(tracker)  # so it is a tracker
            connection = socket.create_connection(tracker, CONNECT_SECONDS)
        except OSError as error:
            if not silent:
                told(
                    f"no tracker answers at {shown(tracker)} ({error.strerror or error}); asking "
                    "again until one does"
                )
            silent = True
            time.sleep(RETRY_SECONDS)
            continue
        if silent:
            told(f"the tracker at {shown(tracker)} answers")
        connection.settimeout(None)
        return connection


def _about_session() -> str:
    end_with_parent()  # a device that is killed leaves no session behind
    return json.dumps(asdict(here()))


def here() -> Machine:
    """This machine."""
    import tvm

    llvm_cpu = tvm.target.codegen.llvm_get_system_cpu()
    return Machine(cpu_name(), llvm_cpu, threads(), vector_unit()[0], platform.node())


@contextmanager
def on_loopback(
    number: int, key: str = "cpu", prepare: Callable[[], None] = _nothing
) -> Iterator[Address]:
    """A tracker and so many devices on this machine, forked from this process, which has TVM loaded
    and has run nothing with it yet. prepare: called in each device first. Each is one of this
    process's `multiprocessing.active_children()`, by the name of DEVICE."""
    import multiprocessing

    multiprocessing.current_process().daemon = False  # a worker is, and may then have no children
    fork = multiprocessing.get_context("fork")
    tracker = ("127.0.0.1", _free_port())
    processes = [
        fork.Process(target=_ends_with_us, args=(_nothing, serve_tracker, *tracker, _nothing))
    ]
    try:
        processes[0].start()
        _wait_for_devices(tracker, key, 0)
        for _ in range(number):
            at = ("127.0.0.1", _free_port())
            arguments = (prepare, serve_device, tracker, key, *at, _nothing)
            processes.append(fork.Process(target=_ends_with_us, args=arguments, name=DEVICE))
            processes[-1].start()
        _wait_for_devices(tracker, key, number)
        yield tracker
    finally:
        for process in processes:
            process.kill()
            process.join()


def _ends_with_us(prepare: Callable[[], None], serve: Callable[..., None], *arguments: Any) -> None:
    end_with_parent()
    prepare()
    serve(*arguments)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for_devices(tracker: Address, key: str, number: int) -> None:
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            if devices_at(tracker)[key] >= number:
                return
        except OSError:
            pass
        if time.monotonic() > until:
            raise NoDevice("a tracker and devices could not be started on this machine.")
        time.sleep(0.02)


# ------------------------------------------------------------------------------ asking the tracker


def ask_tracker(tracker: Address, *request: Any, seconds: float | None = None) -> Any:
    """The tracker's answer to one request. Raises OSError if there is none."""
    from tvm.rpc import base

    with socket.create_connection(tracker, timeout=seconds or CONNECT_SECONDS) as connection:
        connection.settimeout(seconds)
        # Both ends write a message in two pieces, and the second waits until the first has been
        # acknowledged: 40 ms each way, unless they are sent, and acknowledged, at once.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        (magic,) = struct.unpack("<i", base.recvall(connection, 4))
        if magic != base.RPC_TRACKER_MAGIC:
            raise OSError("it answers, but is no tracker")
        base.sendjson(connection, list(request))
        if hasattr(socket, "TCP_QUICKACK"):  # Linux has it, for what comes next
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        status, answer = base.recvjson(connection)
        if status != base.TrackerCode.SUCCESS:
            raise OSError(f"the tracker refused: {answer}")
        return answer


def devices_at(tracker: Address) -> Counter[str]:
    """How many devices are registered under each key."""
    from tvm.rpc.base import TrackerCode

    summary = ask_tracker(tracker, TrackerCode.SUMMARY, seconds=CONNECT_SECONDS)
    return Counter(one["key"].removeprefix("server:") for one in summary["server_info"])


def registered(tracker: Address, key: str) -> set[str]:
    """The addresses of the devices of a key, free or not."""
    from tvm.rpc.base import TrackerCode

    summary = ask_tracker(tracker, TrackerCode.SUMMARY, seconds=CONNECT_SECONDS)
    of_key = (one for one in summary["server_info"] if one["key"] == f"server:{key}")
    return {shown(tuple(one["addr"])) for one in of_key}


def free_device(tracker: Address, key: str) -> tuple[str, int, str]:
    """Wait for a device: host, port, and the word that it wants to hear. A tracker that goes is
    waited for too."""
    from tvm.rpc.base import TrackerCode

    while True:
        try:
            host, port, word = ask_tracker(tracker, TrackerCode.REQUEST, key, "", 1)
            return host, port, word
        except OSError:
            time.sleep(0.5)


def no_tracker(tracker: Address, reason: str) -> str:
    """A sentence, and the way out."""
    port = f" --port {tracker[1]}" if tracker[1] != TRACKER_PORT else ""
    return (
        f"no tracker answers at {shown(tracker)} ({reason}); on that machine, "
        f"`{command.module(f'fleet tracker{port}')}` starts one."
    )


def no_device(tracker: Address, key: str = KEY, others: str = "") -> str:
    """A sentence, and the way out. others: what it has instead."""
    which = f" of key {key!r}{others}" if others or key != KEY else ""
    start = command.module(f"fleet device --tracker {shown(tracker)} --key {key}")
    return f"the tracker at {shown(tracker)} has no device{which}; `{start}` starts one."


def machine_of(session: RPCSession) -> Machine:
    """What a device says of itself. Raises NoDevice if it is no device of this course."""
    try:
        return Machine(**json.loads(session.get_function(ABOUT)()))
    except AttributeError:
        raise NoDevice(
            "it does not say what machine it is, and a record must; start it with "
            f"`{command.module('fleet device')}`."
        ) from None


def first_machine(tracker: Address, key: str) -> Machine:
    """The machine that stands behind a key. Raises NoDevice with the way out."""
    where = shown(tracker)
    try:
        found = call(devices_at, tracker, seconds=2 * CONNECT_SECONDS)
    except WorkerFailed as error:
        reason = re.sub(r"^(\w+: )?(\[Errno -?\d+\] )?", "", error.failure.sentence)
        raise NoDevice(no_tracker(tracker, reason)) from None
    if not found[key]:
        others = f", but of {', '.join(map(repr, sorted(found)))}" if found else ""
        raise NoDevice(no_device(tracker, key, others))
    try:
        return call(_first_machine, tracker, key, seconds=PATIENCE_SECONDS)
    except WorkerFailed as error:
        raise NoDevice(
            f"the devices of key {key!r} at {where} cannot be used: "
            f"{error.failure.sentence.removeprefix('NoDevice: ')}"
        ) from None


def _first_machine(tracker: Address, key: str) -> Machine:
    from tvm import rpc

    host, port, word = free_device(tracker, key)
    return machine_of(rpc.connect(host, port, word, session_timeout=CONNECT_SECONDS))


# ---------------------------------------------------------------------------------------- measuring


@dataclass
class Attempt:
    """One candidate on its way: its place in the batch, its process, how far it is and until when
    it may be there, and the device that it was given."""

    place: int
    worker: Worker
    phase: str  # building, waiting, connecting, timing
    deadline: float
    device: str = ""
    machine: Machine | None = None


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
class Job:
    """A candidate that is to be timed, its failures so far, and its times.

    known: what it took before, if it is timed again and that was in this search. certain: whether
    two devices have to agree, whatever it takes. anybody: who has timed it may do so once more.
    """

    candidate: MeasureCandidate
    known: Timed | None = None
    certain: bool = False
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    times: list[Timed] = field(default_factory=list)
    anybody: bool = False

    @property
    def said(self) -> list[Timed]:
        return [self.known, *self.times] if self.known else self.times

    @property
    def asked(self) -> set[str]:
        return {one.device for one in self.said} | {device for device, _ in self.failures}


class Fleet(Measure):
    """Measures like Measure, on the devices that a tracker has under a key.

    Whose fault is a failure? A program that fails to compile is at fault itself. One that fails on
    a device is tried once more, by whichever is free. If it then works, it was the device; if it
    fails on a second one, it is the program. A time that cannot be (negative, nan, shorter than
    `floor_seconds`) is always the device's fault, and nothing more is asked of it.

    A clock that is wrong gives times that can be. So a time that beats all others is only a claim:
    it counts when another device comes to it too, within AGREE, and so does whatever is timed
    `again`. Where two disagree, a third decides. Without one, the slower of the two is asked once
    more; then the longest time counts, since much makes a program slower, and nothing faster than
    it is. With a single device, nobody can object.

    What a device did wrong is told to `happened`. Without any device for a minute, NoDevice is
    raised.
    """

    def __init__(
        self,
        *arguments: Any,
        devices: Devices,
        floor_seconds: float = 0.0,
        happened: Callable[[Event], None] = lambda _: None,
        patience_seconds: float = PATIENCE_SECONDS,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._candidate = named.get("candidate") or time_remotely
        self._tracker, self._key, self._machine = devices.tracker, devices.key, devices.machine
        self._floor_seconds = floor_seconds
        self._happened = happened
        self._patience_seconds = patience_seconds
        self._left_out: set[str] = set()
        self._strikes: Counter[str] = Counter()
        self._devices: set[str] = set()
        self._by: dict[int, Timed] = {}
        times = [
            mean(float(run) for run in record.run_secs)
            for record in self._database.get_all_tuning_records()
        ]
        self._best = min(times, default=math.inf)

    @property
    def width(self) -> int:
        """How many candidates can be timed at once."""
        return max(1, len(self._usable()))

    def _usable(self) -> set[str]:
        with suppress(OSError):  # the tracker may come back
            self._devices = registered(self._tracker, self._key)
        return self._devices - self._left_out

    def again(self, candidates: Sequence[MeasureCandidate], rounds: int) -> list[list[float]]:
        runs: list[list[float]] = [[] for _ in candidates]
        jobs = [Job(one, self._by.get(module_hash(one.sch.mod)), True) for one in candidates]
        for place, timed in self._timed(jobs, rounds):
            if timed is not jobs[place].known:  # that is no further run
                runs[place] = list(timed.runs)
        return runs

    def _measured(self, candidates: Sequence[MeasureCandidate]) -> Iterator[tuple[int, Measured]]:
        jobs = [Job(candidate) for candidate in candidates]
        for place, timed in self._timed(jobs, 1):
            if timed.failure:
                yield place, Measured(None, timed.failure, timed.machine)
                continue
            self._best = min(self._best, timed.seconds)
            self._by[module_hash(candidates[place].sch.mod)] = timed
            yield place, Measured(timed.seconds, None, timed.machine)

    def _timed(self, jobs: Sequence[Job], rounds: int) -> Iterator[tuple[int, Timed]]:
        """Each job's place and what became of it, as it comes: as many on their way as there are
        devices, and for each thread one that compiles meanwhile."""
        left, running = deque(range(len(jobs))), {}
        width = self.width
        silent_since = time.monotonic()
        try:
            while left or running:
                while left and len(running) < width + threads():
                    attempt = self._start_attempt(left.popleft(), jobs, rounds)
                    running[attempt.worker.connection] = attempt
                soonest = min(attempt.deadline for attempt in running.values())
                ready = wait(list(running), max(0.0, min(1.0, soonest - time.monotonic())))
                late = [key for key, one in running.items() if one.deadline <= time.monotonic()]
                for connection in ready or late:
                    attempt = running.pop(connection)
                    outcome = self._step(attempt, jobs[attempt.place])
                    if attempt.phase in ("connecting", "timing"):
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
                    one.phase in ("building", "connecting", "timing") for one in running.values()
                ):
                    silent_since = time.monotonic()
                elif running and time.monotonic() - silent_since > self._patience_seconds:
                    raise NoDevice(self._nobody())
        finally:
            for attempt in running.values():
                attempt.worker.__exit__()

    def _nobody(self) -> str:
        out = f", and {len(self._left_out)} left out" if self._left_out else ""
        return (
            f"for {self._patience_seconds:.0f} seconds the tracker at {shown(self._tracker)} had "
            f"no device of key {self._key!r} to offer{out}; every record until then is kept"
        )

    def _start_attempt(self, place: int, jobs: Sequence[Job], rounds: int) -> Attempt:
        candidate = jobs[place].candidate
        limits = (self._build_seconds, self._run_seconds)
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

    def _step(self, attempt: Attempt, job: Job) -> Timed | str | None:
        """Take the next answer of an attempt: None if it goes on, Timed if it is over, "again"
        if the candidate is to be tried once more."""
        try:
            answer = attempt.worker.answer(0.0)
        except WorkerFailed as error:
            return self._failed(attempt, job, error.failure)
        now = time.monotonic()
        match attempt.phase:
            case "building":
                attempt.phase = "waiting"
                second = job.said and not job.anybody  # which may be busy elsewhere for long
                attempt.deadline = now + self._run_seconds if second else math.inf
            case "waiting":
                attempt.device = answer
                said = self._wanted(answer, job)
                attempt.worker.connection.send(said)
                if said == TAKE:
                    attempt.phase, attempt.deadline = "connecting", now + CONNECT_SECONDS
            case "connecting":
                attempt.machine = answer
                if not answer.alike(self._machine):
                    return self._leave_out(attempt, OTHER_CPU, answer.name)
                limit = self._build_seconds + self._run_seconds
                attempt.phase, attempt.deadline = "timing", now + limit
            case "timing":
                if fault := self._fault_of_times(answer):
                    return self._leave_out(attempt, GARBAGE, fault)
                timed = Timed(tuple(answer), None, attempt.machine.name, attempt.device)
                job.times.append(timed)
                return self._settled(job) or "again"
        return None

    def _wanted(self, device: str, job: Job) -> str:
        if device in self._left_out:
            return LEAVE
        if job.said and not job.anybody and (others := self._witnesses(job)):
            return TAKE if device in others else RETURN
        return TAKE

    def _witnesses(self, job: Job) -> set[str]:
        """The devices to ask about a candidate that has been timed: those that have not been asked;
        then, once more, the one where it took longest, which may have been disturbed."""
        usable = self._usable()
        if others := usable - job.asked:
            return others
        devices = [one.device for one in job.said]
        longest = max(job.said, key=lambda one: one.seconds).device
        return {longest} & usable if len(devices) == len(set(devices)) > 1 else set()

    def _settled(self, job: Job, patient: bool = True) -> Timed | None:
        """The time that counts; None if another device has to be asked first. patient: it may be
        waited for."""
        counts = job.times[-1]
        if job.certain or counts.seconds < BETTER * self._best:
            others = [one for one in job.said if one.device != counts.device]
            if not any(one.agrees(counts) for one in others):
                if patient and self._witnesses(job):
                    return None
                counts = max(job.said, key=lambda one: one.seconds)
        for device, failure in job.failures:  # so it was not the candidate
            kind = {"timeout": HUNG, "died": LOST}.get(failure.kind, RAISED)
            self._strike(device, kind, failure.sentence)
        for one in job.said:
            if not one.agrees(counts):
                took = f"{one.seconds:.3g} s, where {counts.device} took {counts.seconds:.3g} s"
                self._strike(one.device, DISAGREED, took)
        agreed = {one.device for one in job.said if one.agrees(counts)}
        if len(agreed) > 1:
            self._strikes -= Counter(dict.fromkeys(agreed, STRIKES))
        return counts

    def _fault_of_times(self, times: Sequence[float]) -> str:
        for one in times:
            if not math.isfinite(one) or one <= 0:
                return f"{one} seconds"
            if one < self._floor_seconds:
                return (
                    f"{one:.3g} s, where this CPU cannot take less than {self._floor_seconds:.3g}"
                )
        return "" if times else "no time at all"

    def _failed(self, attempt: Attempt, job: Job, failure: Failure) -> Timed | str:
        if attempt.phase == "building":
            if failure.kind == "timeout":
                told = f"it was still compiling after {self._build_seconds:.0f} seconds"
                failure = Failure("timeout", told, failure.printed)
            return Timed((), failure, self._machine.name)
        if attempt.phase == "waiting":
            return self._in_vain(job) if failure.kind == "timeout" else "again"
        if failure.kind == "raised" and any(one in failure.sentence for one in _BROKEN):
            failure = Failure("died", "it ended its session on the device", failure.printed)
        if attempt.phase == "connecting":  # the candidate has not been there yet
            self._strike(
                attempt.device, HUNG if failure.kind == "timeout" else LOST, failure.sentence
            )
            return "again"
        job.failures.append((attempt.device, failure))
        if job.times:  # another device could
            return self._settled(job) or "again"
        if not self._blamed(job.failures):
            return "again"
        return Timed((), failure, attempt.machine.name)

    def _blamed(self, failures: Sequence[tuple[str, Failure]]) -> bool:
        """Whether it is the candidate's fault: on two devices; twice on the only one; or too
        often."""
        where = {device for device, _ in failures}
        return len(where) > 1 or len(failures) > (1 if self.width == 1 else 2)

    def _in_vain(self, job: Job) -> Timed | str:
        """A second device was waited for, and none was free."""
        if job.times:
            return self._settled(job, patient=False)
        job.anybody = True
        return "again"

    def _strike(self, device: str, kind: str, sentence: str) -> None:
        self._happened(Event(kind, device, sentence))
        self._strikes[device] += 1
        if self._strikes[device] >= STRIKES and device not in self._left_out:
            self._left_out.add(device)
            self._happened(Event(LEFT_OUT, device))

    def _leave_out(self, attempt: Attempt, kind: str, sentence: str) -> str:
        if attempt.device not in self._left_out:
            self._left_out.add(attempt.device)
            self._happened(Event(kind, attempt.device, sentence))
        return "again"


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
    said = ""
    while said != TAKE:
        host, port, word = free_device(tracker, key)
        connection.send(("returned", shown((host, port))))
        said = connection.recv()
        if said == RETURN:  # a device whose session has ended is free at once
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
