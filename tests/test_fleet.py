"""A fleet of real processes on this machine, and what goes wrong with one: tuning goes on, every
finished record is kept, and what happened is counted.

The programs sleep, so that many devices fit on two cores.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest

from tvm_practice.common import fleet, records, rpc, trust
from tvm_practice.common.worker import Worker, WorkerFailed, call

ROOT = Path(__file__).resolve().parent.parent
SLEEP = 0.1
LIMITS = {"build_seconds": 15.0, "run_seconds": 3.0}


# ------------------------------------------------------------------------------ in a worker process


def measure(
    folder: Path,
    devices: fleet.Devices,
    number: int,
    called: tuple | None = None,
    **options: float,
) -> tuple[list[str | None], list[fleet.Event]]:
    """Measure so many sleeping candidates, and some that call something else; what failed and what
    happened."""
    import multiprocessing

    multiprocessing.current_process().daemon = False
    program = fleet.sleeping_program(SLEEP)
    candidates = fleet.variants(program, number)
    if called:
        candidates += fleet.variants(fleet.program_that_calls(*called), 1)
    measured, events = [], []
    measure = fleet.Fleet(
        records.open_database(folder, program),
        program,
        devices.machine.target(),
        measured.append,
        devices=devices,
        happened=events.append,
        **{**LIMITS, **options},
    )
    results = measure(candidates)
    assert [one.error_msg is None for one in results[:number]] == [True] * number
    return [one.failure and one.failure.sentence for one in measured], events


# -------------------------------------------------------------------------------------------- tools


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Fleet:
    """A tracker and devices, as the commands start them, each in a process group of its own."""

    def __init__(self, folder: Path, key: str, port: int) -> None:
        folder.mkdir()
        self.folder, self.key, self.port = folder, key, port
        self.processes: dict[str, subprocess.Popen] = {}

    @property
    def tracker(self) -> fleet.Address:
        return "127.0.0.1", self.port

    def start(self, name: str, *command: object, threads: int = 1) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, *(str(one) for one in command)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TVM_NUM_THREADS": str(threads)},
            stdout=(self.folder / f"{name}.log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start_tracker(self) -> None:
        self.start("tracker", "-m", "tvm_practice.fleet", "tracker", "--port", self.port)

    def start_device(self, name: str, threads: int = 1) -> None:
        at = fleet.shown(self.tracker)
        command = ("-m", "tvm_practice.fleet", "device", "--tracker", at, "--key", self.key)
        self.start(name, *command, "--port", free_port(), threads=threads)

    def start_liar(self, name: str, lie: str) -> None:
        program = ROOT / "tests" / "fleet_device.py"
        self.start(name, program, lie, self.port, free_port(), self.key)

    def kill(self, name: str, signal: int = signal.SIGKILL) -> None:
        """Send a signal to a process and its children, as if the machine had gone."""
        os.killpg(self.processes[name].pid, signal)

    def address(self, name: str) -> str:
        found = re.search(r"^device \S+ at (\S+)", (self.folder / f"{name}.log").read_text(), re.M)
        return found[1]

    def wait_for(self, number: int) -> fleet.Devices:
        """Wait until so many devices are registered."""

        def registered() -> bool:
            try:
                return call(fleet.devices_at, self.tracker)[self.key] == number
            except WorkerFailed:
                return False

        wait_until(registered, f"{number} devices were not registered")
        machine = fleet.first_machine(self.tracker, self.key)
        return fleet.Devices(self.tracker, self.key, machine)

    def wait_until_said(self, name: str, *parts: str) -> None:
        log = self.folder / f"{name}.log"
        wait_until(lambda: all(one in log.read_text() for one in parts), f"{name} did not say it")

    def wait_until_measuring(self, name: str) -> None:
        """Wait until a device has been in a session for longer than a session takes to start."""
        device = psutil.Process(self.processes[name].pid)

        def measuring() -> bool:
            with suppress(psutil.NoSuchProcess):  # a session that has just ended
                return any(time.time() - one.create_time() > 2 * SLEEP for one in device.children())
            return False

        wait_until(measuring, f"{name} was given nothing to measure")

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for name, process in self.processes.items():
            with suppress(ProcessLookupError):
                self.kill(name)
            process.wait()


def wait_until(holds: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a tracker that all tests share, each with a key of its own."""
    with Fleet(tmp_path_factory.mktemp("shared") / "tracker", "", free_port()) as shared:
        shared.start_tracker()
        yield shared.port


@pytest.fixture
def machines(tracker: int, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "machines", tmp_path.name, tracker) as machines:
        yield machines


def recorded(folder: Path) -> list[list[float] | None]:
    return records.runs_of_records(folder)


# ------------------------------------------------------------------------------- faults of a device


@pytest.mark.parametrize(
    ("gone", "kind"), [(signal.SIGKILL, fleet.LOST), (signal.SIGSTOP, fleet.HUNG)]
)
def test_a_device_that_is_lost_or_hangs_costs_no_candidate(gone, kind, machines, tmp_path) -> None:
    machines.start_device("one")
    machines.start_device("two")
    devices = machines.wait_for(2)
    arguments = (tmp_path, devices, 6)
    with Worker(_measured, arguments, {"build_seconds": 5.0}) as tuning:
        machines.wait_until_measuring("one")
        machines.kill("one", gone)
        failures, events = tuning.answer(90)
    assert failures == [None] * 6
    assert Counter((one.kind, one.device) for one in events) == {(kind, machines.address("one")): 1}
    assert len(recorded(tmp_path)) == 6
    assert all(seconds >= SLEEP for (seconds,) in recorded(tmp_path))


def _measured(connection, arguments: tuple, options: dict) -> None:
    connection.send(("returned", measure(*arguments, **options)))


def test_times_that_cannot_be_and_other_machines_are_left_out(machines, tmp_path) -> None:
    lies = {"negative": "-1.0", "zero": "0.0", "nan": "nan", "fast": "time / 1000"}
    machines.start_device("honest")
    devices = machines.wait_for(1)
    for name, lie in lies.items():
        machines.start_liar(name, lie)
    machines.start_device("other", threads=2)
    machines.wait_for(6)
    failures, events = call(_measure_with_floor, tmp_path, devices, seconds=120)
    assert failures == [None] * 10
    assert all(seconds >= SLEEP for (seconds,) in recorded(tmp_path))
    told = {one.device: one for one in events}
    assert len(events) == len(told), "a device that was left out was asked again"
    for name in lies:
        assert told[machines.address(name)].kind == fleet.GARBAGE
    assert told[machines.address("other")].kind == fleet.OTHER_CPU
    assert "2 threads" in told[machines.address("other")].sentence


def _measure_with_floor(folder: Path, devices: fleet.Devices):
    return measure(folder, devices, 10, floor_seconds=SLEEP / 10)


def test_a_time_counts_when_another_device_comes_to_it_too(machines, tmp_path) -> None:
    machines.start_device("one")
    machines.start_device("two")
    machines.start_liar("liar", "time / 10")
    devices = machines.wait_for(3)
    failures, events = call(_measure_patiently, tmp_path, devices, seconds=240)
    assert failures == [None] * 6
    assert all(seconds >= SLEEP for (seconds,) in recorded(tmp_path))
    assert_accused(machines.address("liar"), events)


def _measure_patiently(folder: Path, devices: fleet.Devices):
    return measure(folder, devices, 6, run_seconds=60.0)


def assert_accused(device: str, events: list[fleet.Event]) -> None:
    assert {one.device for one in events} == {device}
    assert {one.kind for one in events} - {fleet.LEFT_OUT, trust.WITHDRAWN} == {fleet.DISAGREED}


def test_of_two_devices_the_one_that_is_too_fast_is_not_believed(machines, tmp_path) -> None:
    machines.start_device("honest")
    devices = machines.wait_for(1)
    with Worker(_measure_in_three_parts, tmp_path, devices) as tuning:
        assert all(seconds >= SLEEP for seconds in tuning.answer(60))
        machines.start_liar("liar", "time / 2")
        machines.wait_for(2)
        tuning.connection.send("the winner again")
        (runs,), events = tuning.answer(120)
        assert len(runs) == 3 and all(seconds >= SLEEP for seconds in runs)
        assert events == []  # that far apart, machines with other work besides may be
        tuning.connection.send("others")
        tuning.answer(120)
    assert len(recorded(tmp_path)) == 4


def test_a_broken_device_costs_no_candidate_and_is_named(machines, tmp_path) -> None:
    machines.start_device("honest")
    devices = machines.wait_for(1)
    machines.start_liar("broken", "1 / 0")
    machines.wait_for(2)
    failures, events = call(measure, tmp_path, devices, 8, seconds=120)
    assert failures == [None] * 8
    assert {one.device for one in events} == {machines.address("broken")}
    assert {one.kind for one in events} <= {trust.RAISED, trust.LEFT_OUT}


def test_a_clock_that_is_far_too_slow_cannot_be(machines, tmp_path) -> None:
    machines.start_device("honest")
    devices = machines.wait_for(1)
    machines.start_liar("slow", "time * 100")
    machines.wait_for(2)
    failures, (event,) = call(measure, tmp_path, devices, 6, seconds=120)
    assert failures == [None] * 6
    assert (event.kind, event.device) == (fleet.GARBAGE, machines.address("slow"))
    assert "in a session of" in event.sentence


def test_records_that_are_not_believed_any_more_are_taken_out_of_the_file(
    machines, tmp_path
) -> None:
    machines.start_liar("liar", "time / 10 if time < 10 else nan")
    devices = machines.wait_for(1)
    removed = call(_measure_and_leave_out, tmp_path, devices, machines.address("liar"), seconds=60)
    assert removed == [[1, 2]]
    ((kept,),) = recorded(tmp_path)
    assert kept == 1.0


def _measure_and_leave_out(folder: Path, devices: fleet.Devices, device: str) -> list[list[int]]:
    program, removed = fleet.sleeping_program(SLEEP), []
    first, *others = fleet.variants(program, 3)
    database = records.open_database(folder, program)
    database.commit_tuning_record(_record(first, database, program, devices))

    def remove(places: list[int]) -> None:
        removed.append(places)
        records.remove(folder, places)

    measure = fleet.Fleet(
        database, program, devices.machine.target(), devices=devices, remove=remove, **LIMITS
    )
    measure(others)
    measure._trust.leave_out(device, fleet.GARBAGE)
    measure.withdraw()
    return removed


def _record(candidate, database, program, devices: fleet.Devices):
    from tvm.s_tir.meta_schedule.database import TuningRecord

    workload, target = database.commit_workload(program), devices.machine.target()
    return TuningRecord(candidate.sch.trace, workload, [1.0], target, candidate.args_info)


def _measure_in_three_parts(connection, folder: Path, devices: fleet.Devices) -> None:
    program, events = fleet.sleeping_program(SLEEP), []
    measure = fleet.Fleet(
        records.open_database(folder, program),
        program,
        devices.machine.target(),
        devices=devices,
        happened=events.append,
        run_seconds=60.0,
    )
    first, *others = fleet.variants(program, 4)
    measure([first])
    (alone,) = measure.again([first], 2)
    connection.send(("returned", alone))
    connection.recv()
    connection.send(("returned", (measure.again([first], 3), events)))
    connection.recv()
    measure(others)
    connection.send(("returned", None))


def test_without_a_device_the_search_ends_with_a_sentence(machines, tmp_path) -> None:
    machines.start_device("one")
    devices = machines.wait_for(1)
    with Worker(_measured, (tmp_path, devices, 50), {"patience_seconds": 2.0}) as tuning:
        wait_until(lambda: len(recorded(tmp_path)) >= 2, "nothing was measured")
        machines.kill("one")
        with pytest.raises(WorkerFailed) as ended:
            tuning.answer(60)
    assert "NoDevice: for 2 seconds the tracker at 127.0.0.1:" in str(ended.value)
    assert all(seconds >= SLEEP for (seconds,) in recorded(tmp_path))


# ---------------------------------------------------------------------------- faults of a candidate


@pytest.mark.parametrize(
    ("called", "sentence"),
    [
        (("abort",), "it ended its session on the device"),
        (("sleep", 100), "it was still running after 5 seconds"),
    ],
)
def test_a_candidate_that_crashes_or_hangs_costs_no_device(
    called, sentence, machines, tmp_path
) -> None:
    machines.start_device("one")
    devices = machines.wait_for(1)
    limits = {"build_seconds": 4.0, "run_seconds": 1.0}
    with Worker(_measured, (tmp_path, devices, 2, called), limits) as tuning:
        failures, events = tuning.answer(90)
    assert sorted(failures, key=bool)[:2] == [None, None]
    assert sum(sentence in one for one in failures if one) == 1
    assert events == []
    assert sorted(recorded(tmp_path), key=bool)[0] is None
    machines.wait_for(1)
    assert call(_measure_again, tmp_path, devices, seconds=60)[0] == [None]


def _measure_again(folder: Path, devices: fleet.Devices):
    return measure(folder, devices, 1)


# -------------------------------------------------------- faults of the tracker, and of the tuning


def test_the_tracker_may_come_later_and_be_started_again(tmp_path) -> None:
    with Fleet(tmp_path / "machines", "cpu", free_port()) as machines:
        machines.start_device("one")
        machines.wait_until_said("one", "no tracker answers at", "asking again until one does")
        machines.start_tracker()
        devices = machines.wait_for(1)
        machines.wait_until_said("one", f"the tracker at {fleet.shown(machines.tracker)} answers")
        with Worker(_measured, (tmp_path, devices, 6), {}) as tuning:
            wait_until(lambda: len(recorded(tmp_path)) >= 1, "nothing was measured")
            machines.kill("tracker")
            time.sleep(1)
            machines.start_tracker()
            failures, events = tuning.answer(90)
        for name, process in machines.processes.items():
            machines.kill(name, signal.SIGINT)  # Ctrl-C
            assert process.wait(20) == 130
    assert (failures, events) == ([None] * 6, [])
    assert len(recorded(tmp_path)) == 6


def test_phase_5_killed_goes_on_from_its_records_and_tells_what_happened(
    machines, tmp_path
) -> None:
    shutil.copytree(ROOT / "tvm_practice", tmp_path / "tvm_practice")
    machines.start_device("one")
    machines.start_liar("liar", "-1.0")
    machines.wait_for(2)
    first = run_phase(tmp_path, machines, "--trials", "500")
    wait_until(
        lambda: len(lines_of_records(tmp_path)) >= 3 or first.poll() is not None,
        "no record was written",
        150,
    )
    assert first.poll() is None, first.stdout.read()
    started = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.wait()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, "processes outlive the search"
    kept = lines_of_records(tmp_path)
    total = len(kept) + 4
    second = run_phase(tmp_path, machines, "--trials", str(total))
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    flat = " ".join(output.split())
    assert f"{len(kept)} schedules were measured by earlier runs" in flat
    assert f"{total} of {total} measured" in flat
    assert f"device {machines.address('liar')} {fleet.GARBAGE}" in flat
    assert "This machine is not of that kind" in flat
    now = lines_of_records(tmp_path)
    assert [json.loads(line)[1][0] for line in now[: len(kept)]] == [
        json.loads(line)[1][0] for line in kept
    ]
    assert all('"model":' in line and ", 1 thread, " in line for line in now)


def run_phase(copy: Path, machines: Fleet, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tvm_practice.auto_tune", "--solutions", "--quick"]
    at = fleet.shown(machines.tracker)
    return subprocess.Popen(
        [*command, "--size", "64x96x48", "--tracker", at, "--key", machines.key, *options],
        cwd=copy,
        # Not as the devices have it: what is found for another machine is not compared here.
        env={**os.environ, "TVM_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_of_records(copy: Path) -> list[str]:
    found = list(copy.glob(f"records/*/*/{records.RECORDS}"))
    return found[0].read_text().splitlines() if found else []


# ----------------------------------------------------------------------------------- the commands


def test_other_machines_are_let_in_only_when_told_and_with_a_warning() -> None:
    command = [sys.executable, "-m", "tvm_practice.fleet"]
    for kind in (["tracker"], ["device", "--tracker", "127.0.0.1:1"]):
        refused = subprocess.run(
            [*command, *kind, "--host", "0.0.0.0"], capture_output=True, text=True
        )
        assert refused.returncode == 2
        assert "RPC runs whatever it is sent" in refused.stderr
        assert "--trust-network" in refused.stderr
    with socket.socket() as taken:  # so that nothing listens there, not even for this test
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        warned = subprocess.run(
            [*command, "tracker", "--host", "0.0.0.0", "--trust-network", "--port", port],
            capture_output=True,
            text=True,
        )
    assert warned.returncode == 2
    assert warned.stderr.startswith("WARNING: listening at 0.0.0.0. RPC has no password")
    assert "Address already in use" in warned.stderr


def test_devices_that_are_in_use_and_one_that_hangs_are_told_apart(machines, monkeypatch) -> None:
    monkeypatch.setattr(rpc, "IN_USE_SECONDS", 2.0)
    machines.start_device("hangs")
    machines.wait_for(1)
    machines.kill("hangs", signal.SIGSTOP)
    machines.start_device("works")
    machines.wait_for(2)  # it asks whichever the tracker offers, and goes on to the next
    with Worker(_hold_a_device, machines.tracker, machines.key) as holder:
        holder.answer(20)
        with pytest.raises(fleet.NoDevice, match="were in use for 2 seconds; start another one"):
            fleet.first_machine(machines.tracker, machines.key)


def _hold_a_device(connection, tracker: fleet.Address, key: str) -> None:
    from tvm.rpc import connect

    session = connect(*fleet.free_device(tracker, key))
    connection.send(("returned", "held"))
    connection.recv()
    del session


def test_the_tracker_says_what_it_has(machines) -> None:
    command = [sys.executable, "-m", "tvm_practice.fleet", "devices", "--tracker"]
    machines.start_device("one")
    machines.wait_for(1)
    at = fleet.shown(machines.tracker)
    asked = subprocess.run([*command, at], capture_output=True, text=True)
    assert (asked.returncode, f"{machines.key}: 1\n" in asked.stdout) == (0, True)
    with pytest.raises(fleet.NoDevice, match=f"no device of key 'gpu', but of .*{machines.key!r}"):
        fleet.first_machine(machines.tracker, "gpu")
    with another_server() as port:
        asked = subprocess.run([*command, f"127.0.0.1:{port}"], capture_output=True, text=True)
    assert asked.returncode == 2
    assert "(it answers, but is no tracker); on that machine, `" in asked.stderr


@contextmanager
def another_server() -> Iterator[int]:
    """A port at which something else than a tracker answers."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Greeter) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"220 ready")
        self.request.recv(1024)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("tracker", "--host", "192.0.2.1"), "(Cannot assign requested address); --host takes an"),
        (("device", "--tracker", "nobody.invalid:1"), "host 'nobody.invalid' cannot be found"),
        (("device", "--tracker", "1:70000"), "'1:70000' is no address; give HOST:PORT"),
    ],
)
def test_what_cannot_be_served_is_told_with_the_way_out(command, sentence) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tvm_practice.fleet", *command, "--trust-network"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--tracker", "127.0.0.1"), "'127.0.0.1' is no address; give HOST:PORT"),
        (("--tracker", "127.0.0.1:1"), "no tracker answers at 127.0.0.1:1 (Connection refused)"),
        (("--tracker", "nobody.invalid:1"), "no tracker answers at nobody.invalid:1 ("),
        (("--key", "board"), "--key names devices of a tracker; give --tracker HOST:PORT"),
        (("--tracker", "127.0.0.1:1", "--target", "cuda-sim"), "for phase 5 with --target cpu"),
    ],
)
def test_a_tracker_that_is_not_there_is_told_at_once(given, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tvm_practice.auto_tune", *given],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "TODO" not in done.stdout, "exercises are graded before the tracker is asked"
