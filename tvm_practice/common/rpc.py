"""TVM's RPC tracker and servers: serving them so that they keep going, and asking them.

A device is a process with TVM that runs what it is sent. It registers with a tracker under a key,
by custom the kind of machine; who wants to measure asks the tracker for a device of a key, and gets
an address.

RPC has no time limits and knows no faults: a call to a device that hangs waits for ever. So whoever
calls one does so in a process that can be stopped.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import platform
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from tvm_practice.common import command
from tvm_practice.common.measure import end_with_parent
from tvm_practice.common.records import this_machine
from tvm_practice.common.target import UnusableTarget, cpu_name, threads, vector_unit
from tvm_practice.common.worker import Worker, WorkerFailed, call

if TYPE_CHECKING:
    import tvm
    from tvm.rpc.client import RPCSession

Address = tuple[str, int]

TRACKER_PORT, DEVICE_PORT = 9190, 9091
KEY = "cpu"  # unless another is given
CLIENTS_WAITING = 512
PORTS = 100  # so many are tried, from the first on
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 2.0  # between two attempts of a device to reach its tracker
IN_USE_SECONDS = 40.0  # longer than a candidate has a device
FASTEST_CLOCK = 7e9  # Hz

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


class NoDevice(UnusableTarget):
    """Nobody answers; the message says what to start."""


class CannotListen(UnusableTarget):
    """A tracker or a device cannot have the address it was given; the message says what to give."""


def parse_address(text: str) -> Address:
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
    """What a device says of itself. Raises NoDevice if it is no device of this course, or of
    another version of it."""
    try:
        return Machine(**json.loads(session.get_function(ABOUT)()))
    except (AttributeError, TypeError, ValueError):
        raise NoDevice(
            "it does not say what machine it is, as this version of the course wants it, and a "
            f"record must; start it with `{command.module('fleet device')}`."
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
    reason = ""
    for _ in range(found[key]):  # one may hang, or be no device of this course
        with Worker(_meet_a_device, tracker, key) as meeting:
            try:
                meeting.answer(IN_USE_SECONDS)
            except WorkerFailed as error:
                if not reason:
                    raise NoDevice(_in_use(tracker, key, error)) from None
                break  # the others are in use
            try:
                return meeting.answer(CONNECT_SECONDS)
            except WorkerFailed as error:
                reason = error.failure.sentence.removeprefix("NoDevice: ")
    raise NoDevice(f"the devices of key {key!r} at {where} cannot be used: {reason}")


def _in_use(tracker: Address, key: str, error: WorkerFailed) -> str:
    if error.failure.kind != "timeout":
        return f"the tracker at {shown(tracker)} hands out no device: {error.failure.sentence}"
    return (
        f"all devices of key {key!r} at {shown(tracker)} were in use for {IN_USE_SECONDS:.0f} "
        "seconds; start another one, or try again when they are free."
    )


def _meet_a_device(connection: Connection, tracker: Address, key: str) -> None:
    """Say when the tracker gives one, and what machine it is."""
    from tvm import rpc

    host, port, word = free_device(tracker, key)
    connection.send(("returned", shown((host, port))))
    session = rpc.connect(host, port, word, session_timeout=CONNECT_SECONDS)
    connection.send(("returned", machine_of(session)))
