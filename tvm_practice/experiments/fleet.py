"""What the lab `fleet` shows: a program timed on a device, a device that goes in the middle, two
tuners' records put together, and how a fleet grows."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tvm_practice.common import exercise, fleet, picture, show
from tvm_practice.common.measure import SAMPLE_SECONDS, SAMPLES, arguments_of
from tvm_practice.common.target import threads
from tvm_practice.common.worker import Worker

if TYPE_CHECKING:
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

EXERCISES = ("fleet.1", "fleet.2", "fleet.3", "fleet.4")
QUICK_COUNTS, COUNTS = (1, 2, 4), (1, 2, 4, 8)
SLEEP = 0.1  # seconds: what a program of the growth measurement takes, without a core
QUICK_EACH, EACH = 3, 4  # candidates for each device
BATCH = 16
SHOWN_DEVICES = (1, 2, 4, 8, 16, 32, 64, 100, 200)
MANY = 100
SIZE = 512  # of the matmul whose search and compilation are measured
QUICK_PROPOSALS, PROPOSALS = 2, 3  # batches that are proposed; the first has no model to ask
CLIENTS, REQUESTS = 8, 200  # that ask the tracker at once, and how often in all
NOBODY = ("127.0.0.1", 1)  # a tracker that is not there
CANDIDATES = 8  # whose compilation and session are timed


def run(session) -> None:
    whose = {known: session.exercise(known) for known in EXERCISES}
    _show_one_device(session, whose["fleet.1"])
    _show_a_lost_device(session, whose["fleet.2"])
    _show_merged(session, whose["fleet.3"])
    with show.waiting("a fleet that grows, and what its parts cost ..."):
        growth = session.call(
            measure_growth, QUICK_COUNTS if session.quick else COUNTS, session.quick
        )
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


# ------------------------------------------------------------------------------ a device that goes


def _show_a_lost_device(session, whose: str) -> None:
    with show.waiting("two devices, one of which is killed ..."):
        lost = session.call(lose_a_device, whose)
    show.heading("Two devices, one of them killed in the middle")
    show.table(
        ("after", "judge says of the candidate"),
        [
            ("the device was lost", lost.first),
            ("another device timed it", lost.second),
        ],
        f"All {lost.measured} candidates were measured in the end; phase 5's own measuring says of "
        f"it: {'; '.join(f'a device {one.kind}' for one in lost.events) or 'nothing happened'}.",
    )
    session.report["lost"] = asdict(lost)


@dataclass(frozen=True)
class Lost:
    """What became of a search that lost a device: what the judge said of the candidate that was on
    it, before and after the second attempt, how many were measured, and what happened."""

    first: str
    second: str
    measured: int
    events: list[fleet.Event]


def lose_a_device(whose: str) -> Lost:
    """Measure on two devices, and kill one while it measures."""
    import psutil
    from tvm.s_tir import meta_schedule as ms

    lesson = exercise.load_lesson("fleet")
    judge = exercise.body("fleet.2", whose)
    program, events, measured = fleet.sleeping_program(SLEEP), [], []

    def kill_one() -> None:
        """A device is a process whose child is in a session."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for process in multiprocessing.active_children():
                if process.name != fleet.DEVICE:
                    continue
                sessions = psutil.Process(process.pid).children()
                if any(time.time() - one.create_time() > 3 * SLEEP for one in sessions):
                    process.kill()
                    return
            time.sleep(SLEEP / 10)

    with fleet.on_loopback(2) as tracker:
        measure = fleet.Fleet(
            ms.database.MemoryDatabase(),
            program,
            fleet.here().target(),
            measured.append,
            devices=fleet.Devices(tracker, "cpu", fleet.here()),
            happened=events.append,
        )
        killer = threading.Thread(target=kill_one)
        killer.start()
        measure(fleet.variants(program, 4))
        killer.join()
    timed = [one.seconds for one in measured if one.seconds is not None]
    attempts = [lesson.Attempt("it", "one")]
    first = judge(attempts, SLEEP / 10)[0]["it"]
    second = judge([*attempts, lesson.Attempt("it", "other", True, timed[-1])], SLEEP / 10)[0]["it"]
    return Lost(first, second, len(timed), events)


# --------------------------------------------------------------------------------- records together


def _show_merged(session, whose: str) -> None:
    lesson_records = session.call(merge_two_files, whose)
    show.heading("Two tuners' records, one of which began with a copy of the other's")
    show.table(
        ("schedule", "machine", "runs in a", "runs in b", "merged"),
        lesson_records,
        "`python -m tvm_practice.records merge A B -o C` does this with the files that tuning "
        "leaves, and refuses to mix CPUs unless it is told to.",
    )


def merge_two_files(whose: str) -> list[tuple[str, str, str, str, str]]:
    lesson = exercise.load_lesson("fleet")
    merge = exercise.body("fleet.3", whose)
    record, failed = lesson.Record, lesson.FAILED
    shared = record("matmul", "tile 8 x 32", "board one", (1.25e-3,))
    a = [shared, record("matmul", "tile 6 x 48", "board one", (failed,))]
    b = [
        record("matmul", "tile 8 x 32", "board one", (1.25e-3, 1.27e-3)),
        record("matmul", "tile 6 x 48", "board one", (1.31e-3,)),
        record("matmul", "tile 8 x 32", "board two", (2.4e-3,)),
    ]

    def runs(records: Sequence, one) -> str:
        found = [
            "failed" if run == failed else show.seconds(run)
            for other in records
            if (other.trace, other.machine) == (one.trace, one.machine)
            for run in other.runs
        ]
        return ", ".join(found) or "-"

    merged = merge(a, b)
    return [
        (one.trace, one.machine, runs(a, one), runs(b, one), runs(merged, one)) for one in merged
    ]


# ------------------------------------------------------------------------------- a fleet that grows


@dataclass(frozen=True)
class Growth:
    """How many candidates a minute so many devices measured, and what the model rests on.

    per_minute: by number of devices, `each` candidates for one, all ready from the start.
    The seconds: of the search between two batches of a matmul, of compiling one of its candidates,
    of the tracker for a request, and of a device with one of these candidates.
    """

    batch: int
    each: int
    builders: int
    per_minute: dict[int, float]
    search: float
    build: float
    request: float
    measure: float


def measure_growth(counts: Sequence[int], quick: bool = False) -> Growth:
    """Start so many devices and measure on them, for each count; then time the parts. Runs in a
    process that has run nothing with TVM yet."""
    each = QUICK_EACH if quick else EACH
    from tvm.s_tir import meta_schedule as ms

    program, machine = fleet.sleeping_program(SLEEP), fleet.here()
    per_minute = {}
    for count in counts:
        with fleet.on_loopback(count) as tracker:
            measured = []
            measure = fleet.Fleet(
                ms.database.MemoryDatabase(),
                program,
                machine.target(),
                measured.append,
                devices=fleet.Devices(tracker, "cpu", machine),
            )
            measure(fleet.variants(program, 1))  # starts what candidates' processes are forked from
            measured.clear()
            candidates = fleet.variants(program, each * count)
            start = time.monotonic()
            measure(candidates)
            seconds = time.monotonic() - start
            if any(one.failure for one in measured):
                raise RuntimeError("a candidate that sleeps could not be measured")
            per_minute[count] = 60 * len(candidates) / seconds
    with fleet.on_loopback(1) as tracker:
        request = _time_the_tracker(tracker)
        search, build, on_device = _time_the_tuner(QUICK_PROPOSALS if quick else PROPOSALS, tracker)
    return Growth(BATCH, each, threads(), per_minute, search, build, request, on_device)


def _time_the_tracker(tracker: fleet.Address) -> float:
    """Seconds of a request when the tracker is given many at once: not how long one waits."""
    from tvm.rpc.base import TrackerCode

    def ask(_: int) -> None:
        fleet.ask_tracker(tracker, TrackerCode.SUMMARY)

    with ThreadPoolExecutor(CLIENTS) as clients:
        start = time.monotonic()
        list(clients.map(ask, range(REQUESTS)))
        return (time.monotonic() - start) / REQUESTS


def _time_a_session(tracker: fleet.Address, candidate: MeasureCandidate) -> float:
    """Seconds that a candidate takes from the request for a device to its times."""
    import numpy as np
    import tvm
    from tvm import rpc

    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.ll"
        compiled = tvm.compile(candidate.sch.mod, target=fleet.here().target())
        compiled.mod.write_to_file(str(program), "ll")
        time.sleep(0.2)  # the device has come back
        start = time.monotonic()
        host, port, word = fleet.free_device(tracker, "cpu")
        session = rpc.connect(host, port, word)
        fleet.machine_of(session)
        session.upload(str(program))
        module = session.load_module(program.name)
        device = session.cpu()
        tensors = [
            tvm.runtime.tensor(np.ones(shape, dtype), device)
            for shape, dtype in arguments_of(candidate)
        ]
        timer = module.time_evaluator(
            "main", device, number=1, repeat=SAMPLES, min_repeat_ms=round(1000 * SAMPLE_SECONDS)
        )
        timer(*tensors)
        del timer, tensors, device, module, session
        return time.monotonic() - start


def _time_the_tuner(proposals: int, tracker: fleet.Address) -> tuple[float, float, float]:
    """Seconds of the search between two batches of phase 5's matmul, with a model that learns, of
    compiling one of its candidates, with the process that does it, and of a device with one."""
    from tvm.s_tir import meta_schedule as ms

    from tvm_practice.common.target import cpu_target
    from tvm_practice.experiments.auto_tune import make_task

    size = (SIZE, SIZE, SIZE)
    task = make_task(size, dict.fromkeys(("5.1", "5.2"), exercise.REFERENCE), 1)
    database, model = (
        ms.database.MemoryDatabase(),
        ms.cost_model.XGBModel(num_warmup_samples=BATCH, num_tuning_cores=1),
    )
    workload = database.commit_workload(task.mod)
    task.pre_tuning(BATCH * proposals, BATCH, database=database, cost_model=model)
    searches, builds, sessions = [], [], []
    for batch in range(proposals):
        start = time.monotonic()
        candidates = task.generate_measure_candidates()
        if batch:
            searches.append(time.monotonic() - start)
        else:
            for one in candidates[:CANDIDATES]:
                begun = time.monotonic()
                arguments = (one.sch.mod, cpu_target(), arguments_of(one), (60.0, 60.0))
                with Worker(fleet.time_remotely, *arguments, NOBODY, "cpu", 1) as builder:
                    builder.answer(60.0)
                    builds.append(time.monotonic() - begun)
                sessions.append(_time_a_session(tracker, one))
        # No candidate is run: what the model learns is the order in which they were proposed.
        results = [ms.runner.RunnerResult([1e-3 * (n + 1)], None) for n in range(len(candidates))]
        for one, result in zip(candidates, results, strict=True):
            database.commit_tuning_record(
                ms.database.TuningRecord(
                    one.sch.trace, workload, result.run_secs, cpu_target(), one.args_info
                )
            )
        start = time.monotonic()
        task.notify_runner_results(candidates, results)
        model.update(task, candidates, results)
        if batch:
            searches[-1] += time.monotonic() - start
    return median(searches), median(builds), median(sessions)


def predict(growth: Growth, whose: str) -> dict[int, float]:
    """Candidates a minute by number of devices, as the body of fleet.4 has it, in batches."""
    lesson = exercise.load_lesson("fleet")
    rate = exercise.body("fleet.4", whose)
    costs = lesson.Costs(growth.search, growth.build, growth.request, growth.measure)
    return {
        devices: rate(devices, growth.builders, batch_for(devices), costs)
        for devices in sorted({*SHOWN_DEVICES, *growth.per_minute})
    }


def batch_for(devices: int) -> int:
    """What phase 5 takes: two for each device, but no fewer than on one machine."""
    return max(BATCH, 2 * devices)


def tell_growth(growth: Growth, predicted: dict[int, float]) -> None:
    show.heading("Candidates per minute, by number of devices")
    alone = growth.per_minute[min(growth.per_minute)] / min(growth.per_minute)
    rows = [
        (
            str(devices),
            f"{rate:.0f}",
            f"{alone * devices:.0f}",
            f"{rate / (alone * devices):.0%}",
        )
        for devices, rate in growth.per_minute.items()
    ]
    show.table(
        ("devices", "measured", "ideal", "of ideal"),
        rows,
        f"Devices of this machine, with programs that sleep {SLEEP:.1f} s and so keep no core "
        f"busy; {growth.each} candidates for each, no search between them. Ideal is the first row "
        "times the devices.",
    )
    show.table(
        ("stage", "seconds"),
        [
            ("search, between two batches", f"{growth.search:.2f}"),
            (f"a builder, one candidate ({growth.builders} builders)", f"{growth.build:.3f}"),
            ("the tracker, one device", f"{growth.request:.4f}"),
            ("a device, one candidate", f"{growth.measure:.2f}"),
        ],
        f"Search, compilation and device time of phase 5's matmul at {SIZE}, not of programs that "
        "sleep: what the model rests on.",
    )
    show.table(
        ("devices", "candidates a minute, by candidates_per_minute", "one device more brings"),
        [
            (str(devices), f"{rate:.0f}", f"{_marginal(predicted, devices):+.1f}")
            for devices, rate in predicted.items()
        ],
        "In batches of two candidates for each device, and no fewer than "
        f"{BATCH}; all builders on one machine.",
    )
    show.line(where_it_saturates(growth))


def _marginal(predicted: dict[int, float], devices: int) -> float:
    """What a device more brings, from here to the next row."""
    rows = list(predicted)
    place = rows.index(devices)
    if place + 1 == len(rows):
        place -= 1
    first, last = rows[place], rows[place + 1]
    return (predicted[last] - predicted[first]) / (last - first)


def saturation(growth: Growth) -> tuple[int, str]:
    """From how many devices on another stage is the slowest, and which."""
    by_builders = growth.measure * growth.builders / growth.build
    by_tracker = growth.measure / growth.request
    if by_builders <= by_tracker:
        return math.ceil(by_builders), "builders"
    return math.ceil(by_tracker), "tracker"


def where_it_saturates(growth: Growth) -> str:
    limit, stage = saturation(growth)
    builders = f"{growth.builders} builder{'s' if growth.builders > 1 else ''}"
    named = builders if stage == "builders" else f"the {stage}"
    if limit >= MANY:
        return f"{MANY} devices do not saturate {named}: {limit} would."
    them = "them" if stage == "builders" else "it"
    return (
        f"{limit} of {MANY} devices saturate {named}: every further one waits for {them}, and "
        "brings larger batches alone."
    )


def growth_of(report: dict[str, Any]) -> tuple[Growth, dict[int, float]]:
    """What `fleet growth` wrote: the growth, and candidates a minute as predicted."""
    facts = {one.name: report[one.name] for one in fields(Growth)}
    facts["per_minute"] = {int(n): rate for n, rate in report["per_minute"].items()}
    return Growth(**facts), {int(n): rate for n, rate in report["predicted"].items()}


def _key_question(session, growth: Growth, predicted: dict[int, float]) -> None:
    limit, stage = saturation(growth)
    half = predicted[MANY] - predicted[64]
    most = max(growth.per_minute)
    alone = growth.per_minute[min(growth.per_minute)] / min(growth.per_minute)
    idle = growth.search / (60 * batch_for(MANY) / predicted[MANY])
    other = (
        "More builders, on other machines: they need nothing but the compiler, and no quiet."
        if stage == "builders"
        else "A second tracker with half of the devices: the two need not know of each other."
    )
    session.headline = (
        f"{most} devices: {growth.per_minute[most] / (alone * most):.0%} of ideal; "
        f"saturates at {limit} ({stage})"
    )
    session.question(
        "You have 100 devices. What do the last of them bring, and what would you change?",
        [
            f"**They bring** {half:.0f} candidates a minute, the 65th to the 100th together; the "
            f"first alone brings {predicted[1]:.0f}. A device needs {growth.measure:.2f} s for a "
            f"candidate, a builder {growth.build:.2f} s, and there are {growth.builders}: from "
            f"{limit} devices on the slowest stage is the {stage}, and every further device waits. "
            "What it still brings is a larger batch: the search is asked less often.",
            f"**And the search** takes {growth.search:.2f} s between two batches, {idle:.0%} of "
            f"the time with {MANY} devices, in which nothing is measured. Larger batches make "
            "that less, but the model then learns less often: that is the price of a fleet.",
            f"**To change:** {other} Or proposals for the next batch while this one is measured, "
            "from a model that is one batch old.",
        ],
    )


# ------------------------------------------------------------------------------------------ picture


def draw(path: Path, growth: Growth, predicted: dict[int, float]) -> None:
    """What was measured against ideal, and where the model says that it ends."""
    figure, (left, right) = picture.blank(10, 4.2, ncols=2)
    counts, rates = list(growth.per_minute), list(growth.per_minute.values())
    alone = rates[0] / counts[0]
    left.plot(counts, [alone * one for one in counts], "--", color="tab:gray", label="ideal")
    left.plot(counts, rates, "o-", color="tab:blue", label="measured")
    left.set_xticks(counts)
    left.set_xlabel("devices")
    left.set_ylabel("candidates a minute")
    left.set_ylim(bottom=0)
    left.set_title("Programs that sleep")
    left.legend()
    devices = list(predicted)
    right.plot(devices, [predicted[one] for one in devices], "o-", label="model, in batches")
    right.plot(
        devices,
        [60 * one / growth.measure for one in devices],
        "--",
        color="tab:gray",
        label="devices alone",
    )
    limits = (
        (60 * growth.builders / growth.build, f"{growth.builders} builders", "tab:orange"),
        (60 / growth.request, "tracker", "tab:green"),
    )
    for rate, name, color in limits:
        right.axhline(rate, color=color, linewidth=1, label=f"{name}: {rate:.0f}")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set_xticks(devices, [str(one) for one in devices])
    right.set_xlabel("devices")
    right.set_title(f"Where it ends: matmul at {SIZE}")
    right.legend(fontsize=8)
    picture.save(figure, path)
