"""Timing the candidates of a search on other machines, through TVM's own RPC tracker and servers.

A device is a process with TVM that runs what it is sent. It registers with a tracker under a key,
by custom the kind of machine; who wants to measure asks the tracker for a device of a key, and gets
an address. Here are both sides: `serve_tracker` and `serve_device`, which add to TVM's what keeps
them going, and `Fleet`, which measures as `Measure` does, but there.

RPC has no time limits and knows no faults: a call to a device that hangs waits for ever. So every
attempt is a process of its own, which is stopped when its time is up.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import platform
import socket
import struct
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
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
from tvm_practice.common.records import this_machine
from tvm_practice.common.target import UnusableTarget, cpu_name, threads, vector_unit
from tvm_practice.common.worker import Failure, Worker, WorkerFailed, call

if TYPE_CHECKING:
    import tvm
    from tvm.rpc.client import RPCSession
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

Address = tuple[str, int]

TRACKER_PORT, DEVICE_PORT = 9190, 9091
CLIENTS_WAITING = 512
PORTS = 100  # so many are tried, from the first on
CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0  # without any device: as long as a tracker may take to come back
FASTEST_CLOCK = 7e9  # Hz
STRIKES = 3  # failures of a device with candidates that another one could time: it is left out

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


# What TVM says when the other side of a connection is gone.
_BROKEN = ("kShutdown", "Socket", "Connection reset", "Broken pipe")


class NoDevice(UnusableTarget):
    """Nobody answers; the message says what to start."""


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
    """TVM's tracker, in this process, until it is ended. Raises OSError if the port is taken."""
    from tvm.rpc import base, tracker

    tracker.logger.setLevel("WARNING")
    # TVM's own command lets one client wait to be let in. Of many at once the others try again a
    # second later.
    family = base.get_addr_family((host, port))
    with socket.create_server((host, port), family=family, backlog=CLIENTS_WAITING) as listening:
        told(f"tracker at {host}:{port}")
        tracker._tracker_server(listening, base.random_key("tracker"))


def serve_device(
    tracker: Address, key: str, host: str, port: int, told: Callable[[str], None]
) -> None:
    """TVM's RPC server, in this process, until it is ended.

    A candidate that crashes ends the process of its session; TVM's server takes that for the end of
    its own work. So it is started again. Raises OSError if there is no such host as the tracker's.
    """
    import multiprocessing

    import tvm_ffi
    from tvm.rpc import server

    try:  # TVM's server would go on asking, without a pause
        socket.getaddrinfo(*tracker)
    except OSError as error:
        raise OSError(f"the tracker's host, {tracker[0]}: {error.strerror}") from None
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
        state = server.PopenRPCServerState(
            host, port, last, tracker_addr=tracker, key=key, silent=True
        )
        port, last = state.port, state.port + 1
        told(f"device {key} at {host}:{port}" + (f", again: {reason}" if reason else ""))
        state.thread.join()
        state.sock.close()
        os.chdir(home)  # that session's folder is gone
        time.sleep(0.1)


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


def machine_of(session: RPCSession) -> Machine:
    """What a device says of itself. Raises NoDevice if it is no device of this course."""
    try:
        return Machine(**json.loads(session.get_function(ABOUT)()))
    except AttributeError:
        raise NoDevice(
            "it does not say what machine it is, and a record must; start it with "
            "`python -m tvm_practice.fleet device`"
        ) from None


def first_machine(tracker: Address, key: str) -> Machine:
    """The machine that stands behind a key. Raises NoDevice with the way out."""
    where = shown(tracker)
    try:
        found = call(devices_at, tracker, seconds=2 * CONNECT_SECONDS)
    except WorkerFailed as error:
        reason = error.failure.sentence.partition(": ")[2] or error.failure.sentence
        raise NoDevice(
            f"no tracker answers at {where} ({reason}); `python -m tvm_practice.fleet tracker` "
            "starts one"
        ) from None
    if not found[key]:
        others = f"; it has {', '.join(sorted(found))}" if found else ""
        raise NoDevice(
            f"the tracker at {where} has no device of key {key!r}{others}; `python -m "
            f"tvm_practice.fleet device --tracker {where} --key {key}` starts one"
        )
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


@dataclass
class Job:
    """A candidate that is to be timed, and its failures so far."""

    candidate: MeasureCandidate
    failures: list[tuple[str, Failure]] = field(default_factory=list)


@dataclass(frozen=True)
class Timed:
    """What became of a candidate: the seconds of each round, or none and why."""

    runs: tuple[float, ...]
    failure: Failure | None
    machine: str


class Fleet(Measure):
    """Measures like Measure, on the devices that a tracker has under a key.

    Whose fault is a failure? A program that fails to compile is at fault itself. One that fails on
    a device is tried once more, by whichever is free. If it then works, it was the device; if it
    fails on a second one, it is the program. A time that cannot be (negative, nan, shorter than
    `floor_seconds`) is always the device's fault, and nothing more is asked of it. What a device
    did wrong is told to `happened`. Without any device for a minute, NoDevice is raised.
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
        self.width = self._count_devices(1)

    def again(self, candidates: Sequence[MeasureCandidate], rounds: int) -> list[list[float]]:
        runs: list[list[float]] = [[] for _ in candidates]
        for place, timed in self._timed(candidates, rounds):
            runs[place] = list(timed.runs)
        return runs

    def _measured(self, candidates: Sequence[MeasureCandidate]) -> Iterator[tuple[int, Measured]]:
        for place, timed in self._timed(candidates, 1):
            yield place, Measured(min(timed.runs, default=None), timed.failure, timed.machine)

    def _timed(
        self, candidates: Sequence[MeasureCandidate], rounds: int
    ) -> Iterator[tuple[int, Timed]]:
        """Each candidate's place and what became of it, as it comes: as many on their way as there
        are devices, and for each thread one that compiles meanwhile."""
        jobs = [Job(candidate) for candidate in candidates]
        left, running = deque(range(len(jobs))), {}
        self.width = self._count_devices(self.width)
        silent_since = time.monotonic()
        try:
            while left or running:
                while left and len(running) < self.width + threads():
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

    def _count_devices(self, known: int) -> int:
        try:
            return max(1, devices_at(self._tracker)[self._key] - len(self._left_out))
        except OSError:  # it may come back
            return known

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
                attempt.phase, attempt.deadline = "waiting", math.inf
            case "waiting":
                attempt.device = answer
                wanted = answer not in self._left_out
                attempt.worker.connection.send(wanted)
                if wanted:
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
                for device, failure in job.failures:  # so it was not the candidate
                    self._strike(device, failure)
                return Timed(tuple(answer), None, attempt.machine.name)
        return None

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
            return "again"
        if failure.kind == "raised" and any(one in failure.sentence for one in _BROKEN):
            failure = Failure("died", "it ended its session on the device", failure.printed)
        if attempt.phase == "connecting":  # the candidate has not been there yet
            self._strike(attempt.device, failure)
            return "again"
        job.failures.append((attempt.device, failure))
        if not self._blamed(job.failures):
            return "again"
        return Timed((), failure, attempt.machine.name)

    def _blamed(self, failures: Sequence[tuple[str, Failure]]) -> bool:
        """Whether it is the candidate's fault: on two devices; twice on the only one; or too
        often."""
        where = {device for device, _ in failures}
        return len(where) > 1 or len(failures) > (1 if self.width == 1 else 2)

    def _strike(self, device: str, failure: Failure) -> None:
        kind = {"timeout": HUNG, "died": LOST}.get(failure.kind, RAISED)
        self._happened(Event(kind, device, failure.sentence))
        self._strikes[device] += 1
        if self._strikes[device] >= STRIKES:
            self._left_out.add(device)

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
    wanted = False
    while not wanted:
        host, port, word = free_device(tracker, key)
        connection.send(("returned", f"{host}:{port}"))
        wanted = connection.recv()
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
