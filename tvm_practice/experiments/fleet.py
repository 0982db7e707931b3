"""What the lab `fleet` shows: a program timed on a device, a device that goes in the middle, two
tuners' records put together, and how a fleet grows."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tvm_practice.common import exercise, fleet, picture, show
from tvm_practice.common.target import threads

EXERCISES = ("fleet.1", "fleet.2", "fleet.3", "fleet.4")
QUICK_COUNTS, COUNTS = (1, 2, 4), (1, 2, 4, 8)
SLEEP = 0.1  # seconds: what a program of the growth measurement takes, without a core
EACH = 4  # candidates for each device
BATCH = 16
SHOWN_DEVICES = (1, 2, 4, 8, 16, 32, 64, 100, 200)
MANY = 100
SIZE = 512  # of the matmul whose search and compilation are measured
PROPOSALS = 4  # batches whose proposal is timed; the first has no model to ask
CANDIDATES = 8  # whose compilation is timed


def run(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    _show_one_device(session, whose["fleet.1"])
    _show_a_lost_device(session, whose["fleet.2"])
    _show_merged(session, whose["fleet.3"])
    with show.waiting("a fleet that grows, and what its parts cost ..."):
        growth = session.call(measure_growth, QUICK_COUNTS if session.quick else COUNTS)
        predicted = session.call(predict, growth, whose["fleet.4"])
    tell_growth(growth, predicted)
    session.report["growth"] = asdict(growth) | {"predicted": predicted}
    session.picture("growth", lambda path: draw(path, growth, predicted))
    _key_question(session, growth, predicted)


# ------------------------------------------------------------------------------------ one device


def _show_one_device(session, whose: str) -> None:
    with show.waiting("a tracker and a device on this machine ..."):
        there, here = session.call(time_there_and_here, whose)
    show.heading("One program, timed by two clocks")
    spread = max(there) / min(there) - 1
    show.table(
        ("clock", "a call of a program that sleeps 4 ms"),
        [
            ("the device's, by time_evaluator", show.seconds(min(there))),
            ("this end's, around the call", show.seconds(here)),
        ],
        f"{len(there)} samples on the device, which spread by {spread:.1%}. The rest of the second "
        "figure is the way there and back; on loopback it is short, in a network it is not.",
    )
    session.report["clocks"] = {"device": there, "here": here}


def time_there_and_here(whose: str) -> tuple[list[float], float]:
    import numpy as np
    import tvm
    from tvm import rpc

    time_remotely = exercise.body("fleet.1", whose)
    arrays = [np.ones(1, "float32"), np.zeros(1, "float32")]
    with tempfile.TemporaryDirectory() as folder, fleet.on_loopback(1) as (host, port):
        program = Path(folder) / "program.ll"
        compiled = tvm.compile(fleet.sleeping_program(0.004), target=fleet.here().target())
        compiled.mod.write_to_file(str(program), "ll")
        tracker = rpc.connect_tracker(host, port)
        there = list(time_remotely(tracker, "cpu", program, arrays, 5))
        session = tracker.request("cpu")
        session.upload(str(program))
        main = session.load_module(program.name)["main"]
        tensors = [tvm.runtime.tensor(array, session.cpu()) for array in arrays]
        main(*tensors)
        start = time.perf_counter()
        main(*tensors)
        here = time.perf_counter() - start
        del main, tensors, session
    return there, here


# --------------------------------------------------------------------------- a device that goes


def _show_a_lost_device(session, whose: str) -> None:
    with show.waiting("two devices, one of which will be killed ..."):
        attempts, verdicts, measured, events = session.call(lose_a_device, whose)
    show.heading("Two devices, one of them killed in the middle")
    show.table(
        ("candidate", "device", "result"),
        [(one, device, result) for one, device, result in attempts],
        "The attempts that ended, in this order.",
    )
    told = ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items())
    show.say(f"judge says of these attempts: {told}.")
    show.say(
        f"Phase 5's own measuring, with such a device: {measured} of {measured} candidates were "
        f"measured, and its summary says: "
        + ("; ".join(f"device {one.device} {one.kind}" for one in events) or "nothing happened")
        + "."
    )
    session.report["lost"] = {"attempts": attempts, "events": [asdict(one) for one in events]}


def lose_a_device(
    whose: str,
) -> tuple[list[tuple[str, str, str]], dict[str, str], int, list[fleet.Event]]:
    """Measure on two devices, and kill one as soon as it measures."""
    from tvm.s_tir import meta_schedule as ms

    lesson = exercise.load_lesson("fleet")
    program, seen, events, measured = fleet.sleeping_program(SLEEP), [], [], []
    with fleet.on_loopback(2) as tracker:
        measure = fleet.Fleet(
            ms.database.MemoryDatabase(),
            program,
            fleet.here().target(),
            measured.append,
            devices=fleet.Devices(tracker, "cpu", fleet.here()),
            happened=events.append,
            attempted=lambda *one: seen.append(one) or _kill_the_first(seen),
        )
        measure(fleet.variants(program, 4))
    names = {device: f"device {n}" for n, device in enumerate(sorted({d for _, d, _ in seen}), 1)}
    attempts, told = [], []
    for place, device, seconds in seen:
        if seconds == fleet.STARTED:
            continue
        name = f"candidate {place + 1}"
        attempts.append(lesson.Attempt(name, names[device], True, seconds))
        told.append((name, names[device], "lost" if seconds is None else show.seconds(seconds)))
    verdicts, _ = exercise.body("fleet.2", whose)(attempts, SLEEP / 10)
    named = [fleet.Event(one.kind, names[one.device], one.sentence) for one in events]
    return told, verdicts, sum(one.failure is None for one in measured), named
