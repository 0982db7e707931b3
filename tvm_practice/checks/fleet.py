"""What "done" means in the lab `fleet`: a program timed where it runs, a verdict on every failure,
records that are neither lost nor doubled, a model of the pipeline."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from tvm_practice.checks import Trial, check
from tvm_practice.common import fleet
from tvm_practice.common.exercise import load_lesson
from tvm_practice.common.verify import Wrong, a_or_an

lesson = load_lesson("fleet")
Attempt, Record, Costs, FAILED = lesson.Attempt, lesson.Record, lesson.Costs, lesson.FAILED


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------------ fleet.1

SLEEP = 0.004
KEY = "sleeper"
FIRST, SECOND = 1.0, 2.0  # what the arguments hold
BACK_SECONDS = 5.0  # in which a device that was let go has come back


@check(
    "fleet.1",
    hints=(
        "run_remotely above, with a timer in place of the call. Who has to do the timing?",
        "`module = session.load_module(program.name)`, then "
        '`timer = module.time_evaluator("main", session.cpu(), ...)`: as many repeats as samples.',
        '`timer = module.time_evaluator("main", session.cpu(), number=1, repeat=samples, '
        "min_repeat_ms=SAMPLE_MS)` and `return list(timer(*tensors).results)`",
    ),
    told={
        "the clock was one at this end": (
            "A timer takes the place of `main` in run_remotely: it is made of the module, by the "
            'name "main", and called with the same tensors.'
        ),
        "measured here|was loaded here": (
            "Everything that run_remotely does before the call of `main` is done for a timing too."
        ),
        r"returned \d+ values?;": (
            "`repeat` is how many samples there are; `number` is how many calls one of them is the "
            "mean of."
        ),
        "still holds its only device": (
            "An object of a session keeps it: the module, a tensor, the timer. One session does "
            "for all samples."
        ),
        "what the device did not measure": (
            "`results` of what the timer returns has a number for each sample, as they came."
        ),
        "Can not pass in local device": (
            "The device reaches only what is there. tvm.runtime.tensor takes, after the array, the "
            "device on which the tensor is made."
        ),
        "dev has no RPC session": "Of whose devices is the one that the timer was given?",
        r"time_evaluator` is of an older": (
            "`main` is a function of the module; time_evaluator belongs to the module itself, "
            "which is what load_module returns."
        ),
    },
)
def time_remotely(body: Callable, trial: Trial) -> None:
    samples = int(trial.rng.integers(3, 7))
    call = f"time_remotely(tracker, {KEY!r}, program, arrays, {samples})"
    arrays = [np.full(1, FIRST, "float32"), np.full(1, SECOND, "float32")]
    with _watched_device() as (tracker, program, seen):
        got = trial.call(body, tracker, KEY, program, arrays, samples)
        notes = seen()
    sessions = [one for one in notes if one["what"] == "session"]
    timings = [one for one in notes if one["what"] == "timing"]
    if not sessions:
        raise Wrong(
            f"{call} never asked the tracker for a device: what it returned was measured here. "
            "tracker.request(key, ...) opens a session on a device."
        )
    if "timeout" not in sessions[0]["options"]:
        raise Wrong(
            f"{call} opened a session without an end: a program that never ends would keep the "
            "device for ever. tracker.request takes session_timeout=SESSION_SECONDS."
        )
    loaded = [one["path"] for one in notes if one["what"] == "load"]
    if not loaded:
        raise Wrong(
            f"{call} opened a session and loaded no program in it: what it returned is of a module "
            "that was loaded here. session.load_module loads one on the device."
        )
    if str(program) in loaded:
        raise Wrong(
            f"{call} had the device load {program}, a path of this machine, which the device of "
            "another one does not have. session.upload sends the file; there it is program.name."
        )
    if not timings:
        raise Wrong(
            f"{call}: the device was not asked to time anything, so the clock was one at this end, "
            "and the network is in what it says. module.time_evaluator times where the module is."
        )
    _assert_samples(got, samples, call)
    if not all(SLEEP * 0.9 < one < 100 * SLEEP for one in got):
        raise Wrong(
            f"{call} of a program that takes {SLEEP * 1000:.0f} ms returned "
            f"{', '.join(f'{one * 1000:.3g} ms' for one in got)}; expected the seconds of one call "
            "as `timer(*tensors).results` has them."
        )
    timed = [one for one in notes if one["what"] == "times"]
    if any(first != FIRST or FIRST in more for first, *more in (one["held"] for one in timed)):
        raise Wrong(
            f"{call} called the program with other arguments than `arrays`: its arguments held "
            f"{timed[-1]['held']}; expected {[FIRST, SECOND]}, a tensor made of each array."
        )
    left = [(one, took) for one in timed for took in one["results"]]
    for mine in got:
        place = next((n for n, (_, took) in enumerate(left) if math.isclose(mine, took)), None)
        if place is None:
            raise Wrong(
                f"{call} returned {mine * 1000:.6g} ms, what the device did not measure, or not so "
                f"often; it measured {', '.join(f'{took * 1000:.6g} ms' for _, took in left)}. "
                "Their spread would be lost."
            )
        told, _ = left.pop(place)
        _assert_long_enough(told["number"], told["min_repeat_ms"], call)


def _assert_long_enough(number: int, min_repeat_ms: int, call: str) -> None:
    if number * SLEEP * 1000 >= lesson.SAMPLE_MS or min_repeat_ms >= lesson.SAMPLE_MS:
        return
    if min_repeat_ms < 1:
        calls = "1 call" if number == 1 else f"{number} calls"
        raise Wrong(
            f"{call}: a sample is {calls}, however short, and a clock cannot tell "
            "that from the time it takes to read it. min_repeat_ms=SAMPLE_MS makes it long enough."
        )
    raise Wrong(
        f"{call} asked for samples of {min_repeat_ms} ms; expected at least SAMPLE_MS, which is "
        f"{lesson.SAMPLE_MS}, as min_repeat_ms."
    )


def _assert_samples(got: Any, samples: int, call: str) -> None:
    if _is_number(got):
        raise Wrong(
            f"{call} returned one number; expected a list of {samples}, one for each sample: their "
            "spread tells how far to trust them. `timer(*tensors).results` has them."
        )
    if not isinstance(got, list | tuple):
        raise Wrong(f"{call} returned {a_or_an(got)}; expected a list of {samples} numbers.")
    if not all(_is_number(one) for one in got):
        raise Wrong(f"{call} returned what are not all numbers: {got!r:.80}.")
    if len(got) != samples:
        values = "1 value" if len(got) == 1 else f"{len(got)} values"
        raise Wrong(f"{call} returned {values}; expected {samples}, one for each sample.")


@contextlib.contextmanager
def _watched_device() -> Iterator[tuple[Any, Path, Callable[[], list[dict]]]]:
    """A tracker with one device, whose sessions and timings are written down; a compiled program
    for it; and a function that reads what was written."""
    import tvm
    from tvm.rpc.client import TrackerSession

    class Tracker(TrackerSession):
        """A real one, which does not wait for ever for a device that there is not."""

        asked = False

        def request(self, key: str, *arguments: Any, **options: Any) -> Any:
            if key != KEY:
                raise Wrong(
                    f"tracker.request asked for a device of key {key!r}, and waits until there is "
                    f"one. Which devices are wanted, `key` says: here {KEY!r}."
                )
            if self.asked and not self._comes_back():
                raise Wrong(
                    "tracker.request asked for another session while the one before still holds "
                    f"its only device; it would wait {lesson.SESSION_SECONDS} seconds. A device "
                    "belongs to its session until the last object of that is gone."
                )
            self.asked = True
            return super().request(key, *arguments, **options)

        def _comes_back(self) -> bool:
            until = time.monotonic() + BACK_SECONDS
            while time.monotonic() < until:
                if self.summary()["queue_info"][KEY]["free"]:
                    return True
                time.sleep(0.05)
            return False

    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        notes.touch()
        program = Path(folder) / "program.ll"
        compiled = tvm.compile(fleet.sleeping_program(SLEEP), target=fleet.here().target())
        compiled.mod.write_to_file(str(program), "ll")

        def seen() -> list[dict]:
            return [json.loads(line) for line in notes.read_text().splitlines()]

        with fleet.on_loopback(1, KEY, lambda: _watch(notes)) as tracker:
            yield Tracker(tracker), program, seen


def _watch(notes: Path) -> None:
    """In the device: write down every session, every program and every timing."""
    import tvm_ffi
    from tvm.rpc import server

    def note(**what: Any) -> None:
        with notes.open("a") as file:
            file.write(json.dumps(what) + "\n")

    serving, evaluator = server._serving, tvm_ffi.get_global_func("runtime.RPCTimeEvaluator")
    load = server._load_module

    def watched_load(path: str) -> Any:
        note(what="load", path=path)
        return load(path)

    def watched_serving(sock: Any, addr: Any, opts: dict, load_library: Any) -> None:
        note(what="session", options=opts)
        serving(sock, addr, opts, load_library)

    def watched_evaluator(*arguments: Any) -> Any:
        # module, name, device type and index, number, repeat, min_repeat_ms, ...
        number, repeat, min_repeat_ms = arguments[4:7]
        note(what="timing")
        timer = evaluator(*arguments)

        def watched_timer(*tensors: Any) -> bytes:
            held = [float(tensor.numpy()[0]) for tensor in tensors]
            found = timer(*tensors)
            results = struct.unpack(f"@{repeat}d", found)
            note(
                what="times",
                number=number,
                min_repeat_ms=min_repeat_ms,
                held=held,
                results=results,
            )
            return found

        return watched_timer

    server._serving, server._load_module = watched_serving, watched_load
    tvm_ffi.register_global_func("runtime.RPCTimeEvaluator", watched_evaluator, override=True)


# ------------------------------------------------------------------------------------------ fleet.2

FLOOR = 1e-5
GOOD = 2e-4
DONE, FAILED_, AGAIN = "done", "failed", "again"


def _cases(rng: np.random.Generator) -> list[tuple[list[Any], dict[str, str], set[str], str]]:
    """(attempts, what to do with each candidate, devices to leave out, why)."""
    good = float(GOOD * rng.uniform(0.5, 2))
    a, b, c = (f"device-{n}" for n in rng.permutation(9)[:3])
    lies = {"negative": -good, "zero": 0.0, "nan": math.nan, "infinite": math.inf}
    cases = [
        ([Attempt("x", a, True, good)], {"x": DONE}, set(), "a device gave a possible time"),
        (
            [Attempt("x", built=False)],
            {"x": FAILED_},
            set(),
            "it could not be built, and so it is everywhere; no device has seen it",
        ),
        (
            [Attempt("x", a)],
            {"x": AGAIN},
            set(),
            "it failed once, on one device, and that may have been the device",
        ),
        (
            [Attempt("x", a), Attempt("x", b, True, good)],
            {"x": DONE},
            set(),
            "it failed on one device, and another could time it",
        ),
        (
            [Attempt("x", a, True, good), Attempt("x", b)],
            {"x": DONE},
            set(),
            "a device could time it before another one failed",
        ),
        (
            [Attempt("x", a), Attempt("x", b)],
            {"x": FAILED_},
            set(),
            "two different devices failed with it",
        ),
        (
            [Attempt("x", a), Attempt("x", b), Attempt("x", c)],
            {"x": FAILED_},
            set(),
            "three different devices failed with it, where two would do",
        ),
        (
            [Attempt("x", a), Attempt("x", b), Attempt("x", c, True, good)],
            {"x": DONE},
            set(),
            "two devices failed with it, but a third could time it, so it works",
        ),
        (
            [Attempt("x", a), Attempt("x", a)],
            {"x": AGAIN},
            set(),
            "it failed twice, but on the same device, which may be broken",
        ),
        (
            [Attempt("x", a, True, good), Attempt("x", b), Attempt("x", c)],
            {"x": DONE},
            set(),
            "one device could time it, whatever became of it on others",
        ),
        (
            [Attempt("x", a), Attempt("y", a), Attempt("y", b)],
            {"x": AGAIN, "y": FAILED_},
            set(),
            "each candidate has failures of its own",
        ),
    ]
    for name, lie in lies.items():
        why = f"the time is {name}, which no program can cause: it is the device"
        cases.append(([Attempt("x", a, True, lie)], {"x": AGAIN}, {a}, why))
    cases += [
        (
            [Attempt("x", a, True, FLOOR / 3)],
            {"x": AGAIN},
            {a},
            "the time is shorter than `floor`, which no program can cause: it is the device",
        ),
        (
            [Attempt("x", a, True, -1.0), Attempt("x", b)],
            {"x": AGAIN},
            {a},
            "an impossible time says nothing about the candidate, so it has one failure, not two",
        ),
        (
            [Attempt("x", a, True, 0.0), Attempt("y", b, True, good), Attempt("x", b, True, good)],
            {"x": DONE, "y": DONE},
            {a},
            "the second device could time both",
        ),
        (
            [Attempt("x", a, True, -good), Attempt("y", a, True, good)],
            {"x": AGAIN, "y": DONE},
            {a},
            "an impossible time is dropped, and what that device said of others stays",
        ),
        (
            [Attempt("x", a, True, FLOOR)],
            {"x": DONE},
            set(),
            "the time is exactly `floor`, which `possible` allows",
        ),
    ]
    return cases


@check(
    "fleet.2",
    hints=(
        "Go through the attempts once and note: who was timed, who could not be built, on which "
        "devices each candidate failed, which devices lied. The verdicts follow from that.",
        "The devices on which a candidate failed belong in a set: the same one twice counts once. "
        "Any possible time outweighs all failures.",
        'Start with {attempt.candidate: "again" for attempt in attempts}. For each attempt: not '
        'built: "failed"; seconds is None: add its device to the candidate\'s set; possible: '
        '"done"; else add the device to those left out. In the end, who is still "again" and has '
        'two devices in its set has "failed".',
    ),
    told={
        "no device has seen it": "`attempt.built` is False where there was no device to ask.",
        "failed once, on one|two different devices|on the same device|failures of its own": (
            "Of each candidate you need the different devices on which it was lost. Which Python "
            "type keeps a thing once, and where are there two of them?"
        ),
        "(a third|another|one device) could time it|before another one failed": (
            "Attempts come in any order. Decide who has failed after the last of them is seen: "
            "which verdict is not to be touched then?"
        ),
        "no program can cause": (
            "`possible`, above, tells such times from others. What remains to be done with one "
            "that is not possible?"
        ),
        "has one failure, not two": (
            "Which of your branches counts a failure, and by which other one should an attempt "
            "with an impossible time go?"
        ),
    },
)
def judge(body: Callable, trial: Trial) -> None:
    for attempts, verdicts, left_out, why in _cases(trial.rng):
        told = "; ".join(_shown(one) for one in attempts)
        call = f"judge of these attempts: {told}"
        given = list(attempts)
        got = trial.call(body, attempts, FLOOR)
        if not (isinstance(got, tuple) and len(got) == 2 and isinstance(got[0], dict)):
            raise Wrong(
                f"{call} returned {a_or_an(got)}; expected a dict with a verdict for each "
                "candidate, and the set of the devices that are not to be asked again."
            )
        if not (isinstance(got[1], Set | list | tuple) and all(isinstance(d, str) for d in got[1])):
            what = f"a {type(got[1]).__name__} of other things"
            what = what if isinstance(got[1], Set | list | tuple) else a_or_an(got[1])
            raise Wrong(
                f"{call} returned {what} as the devices that are not to be asked again; expected "
                "a set of their names."
            )
        if attempts != given:
            raise Wrong(f"{call} changed the list that it was given.")
        for candidate, verdict in verdicts.items():
            if got[0].get(candidate) != verdict:
                raise Wrong(
                    f"{call} says {got[0].get(candidate)!r} of {candidate}; expected {verdict!r}: "
                    f"{why}."
                )
        if got[0].keys() != verdicts.keys():
            raise Wrong(f"{call} has verdicts on {', '.join(map(str, got[0]))}; nobody else.")
        if set(got[1]) != left_out:
            zero = next((one for one in attempts if one.built and one.seconds == 0), None)
            if zero and zero.device not in got[1]:
                raise Wrong(
                    f"{call} does not leave out {zero.device}, though {why}. In Python 0.0 is "
                    "false, as None is; `is None` tells them apart."
                )
            raise Wrong(
                f"{call} leaves out {_names(got[1])}; expected {_names(left_out)}. Only a device "
                "that gave an impossible time is left out: one that was lost may come back."
            )


def _shown(attempt: Any) -> str:
    if not attempt.built:
        return f"{attempt.candidate} not built"
    if attempt.seconds is None:
        return f"{attempt.candidate} lost on {attempt.device}"
    return f"{attempt.candidate} took {attempt.seconds:.3g} s on {attempt.device}"


def _names(devices: Sequence[str]) -> str:
    return ", ".join(sorted(map(str, devices))) or "none"


# ------------------------------------------------------------------------------------------ fleet.3


@check(
    "fleet.3",
    hints=(
        "What makes two records the same record? Those fields are the key of a dict.",
        "In the dict, a Counter of the runs for each (program, trace, machine); "
        "`counts | Counter(record.runs)` puts two together. dicts keep their order.",
        "`runs[key] = runs.get(key, Counter()) | Counter(record.runs)` for each record of "
        "[*a, *b]; then, where any run is not FAILED, `del counts[FAILED]`, and "
        "`Record(*key, tuple(counts.elements()))`.",
    ),
    told={
        "both have the same record|may have a record twice": (
            "Go through [*a, *b] once: is this record one that you have already? A dict answers "
            "that."
        ),
        "they are two records|of two programs|of two schedules": (
            "Three fields make a record what it is. Which of them does yours leave out?"
        ),
        "once in each file|is the same run|so there were two": (
            "Of two Counters, `|` takes the larger count of each run, `+` their sum, `&` the "
            "smaller one; a set knows no counts, and the first record alone not the other's runs."
        ),
        "another machine says nothing": (
            "Whether a run worked, ask of the runs of one program, trace and machine."
        ),
        "it worked once|it failed in both|its own runs worked": (
            "FAILED goes only after all runs of a record are known, and only where another run is "
            "left."
        ),
        "in which they are met first": "A dict gives its keys in the order in which they came.",
    },
)
def merge(body: Callable, trial: Trial) -> None:
    one, two, three, four = (float(x) for x in np.round(trial.rng.uniform(1e-4, 9e-4, 4), 7))
    record = lambda *runs, trace="t1", machine="m1", program="p1": Record(  # noqa: E731
        program, trace, machine, runs
    )
    other_trace, other_machine = record(two, trace="t2"), record(three, machine="m2")
    other_program = record(four, program="p2")
    cases = [
        ([record(one)], [], [record(one)], "there is only one"),
        ([record(one)], [record(one)], [record(one)], "both have the same record"),
        ([record(one)], [other_trace], [record(one), other_trace], "they are of two schedules"),
        (
            [record(one)],
            [other_machine],
            [record(one), other_machine],
            "a time belongs to a machine, so they are two records",
        ),
        (
            [record(one)],
            [other_program],
            [record(one), other_program],
            "they are of two programs",
        ),
        ([record(one)], [record(two)], [record(one, two)], "it was run twice, once in each file"),
        (
            [record(one)],
            [record(one, two, three)],
            [record(one, two, three)],
            "the run that both have is the same run",
        ),
        (
            [record(one, one)],
            [record(one, two)],
            [record(one, one, two)],
            "one of them has that run twice, so there were two",
        ),
        ([record(one), record(two)], [], [record(one, two)], "a file may have a record twice"),
        ([record(FAILED)], [record(FAILED)], [record(FAILED)], "it failed in both"),
        ([record(FAILED)], [record(one)], [record(one)], "it worked once, so it works"),
        (
            [other_machine, record(one)],
            [other_trace, record(two)],
            [other_machine, record(one, two), other_trace],
            "they come in the order in which they are met first",
        ),
        (
            [record(one), record(one)],
            [],
            [record(one)],
            "one file has it twice, and the run is the same run",
        ),
        ([record(FAILED, one)], [], [record(one)], "one of its own runs worked, so it works"),
        (
            [record(FAILED)],
            [record(one, machine="m2")],
            [record(FAILED), record(one, machine="m2")],
            "that it worked on another machine says nothing about this one",
        ),
    ]
    for a, b, want, why in cases:
        given = (list(a), list(b))
        got = trial.call(body, a, b)
        call = f"merge of {_listed(a)} and {_listed(b)}"
        if not isinstance(got, list) or not all(isinstance(item, Record) for item in got):
            raise Wrong(f"{call} returned {a_or_an(got)}; expected a list of Records.")
        for item in got:
            if not isinstance(item.runs, tuple | list):
                raise Wrong(
                    f"{call} returned a Record whose runs are {a_or_an(item.runs)}; expected a "
                    "tuple of seconds."
                )
            if strange := [run for run in item.runs if not _is_number(run)]:
                raise Wrong(
                    f"{call} returned a Record with {a_or_an(strange[0])} among its runs; expected "
                    "numbers, a run for each time it was measured."
                )
        if (a, b) != given:
            raise Wrong(f"{call} changed a list that it was given; make a new one.")
        same = [(r.program, r.trace, r.machine, Counter(r.runs)) for r in got]
        if same != [(r.program, r.trace, r.machine, Counter(r.runs)) for r in want]:
            raise Wrong(f"{call} returned {_listed(got)}; expected {_listed(want)}: {why}.")


def _listed(records: Sequence[Any]) -> str:
    if not records:
        return "nothing"
    runs = lambda r: ", ".join("failed" if x == FAILED else f"{x:.7g}" for x in r.runs)  # noqa: E731
    return (
        "[" + "; ".join(f"{r.program} {r.trace} on {r.machine}: {runs(r)}" for r in records) + "]"
    )


# ------------------------------------------------------------------------------------------ fleet.4

SAME = 1e-6  # what float32 can tell apart


@check(
    "fleet.4",
    hints=(
        "How long does each of the three stages take for a whole batch, and how long the batch?",
        "A stage of n workers needs ceil(batch / n) rounds. The tracker is one worker. The stages "
        "work at the same time, and the search at another.",
        "`slowest = max(math.ceil(batch / builders) * costs.build, batch * costs.request, "
        "math.ceil(batch / devices) * costs.measure)`, and `60 * batch / (costs.search + slowest)`",
    ),
    told={
        "The search is": "A batch takes two spans, one after the other. Which are they?",
        "A batch takes its stages": (
            "Compute by hand how often each stage works in turn for one batch, for these numbers, "
            "and compare it with what your lines give."
        ),
    },
)
def candidates_per_minute(body: Callable, trial: Trial) -> None:
    scale = float(trial.rng.uniform(0.5, 2))
    cases = [
        (4, 2, 16, Costs(0.0, 0.0, 0.0, scale)),  # devices alone
        (5, 2, 16, Costs(0.0, 0.0, 0.0, scale)),  # a last round that is not full
        (100, 2, 16, Costs(0.0, 0.0, 0.0, scale)),  # more devices than candidates
        (4, 3, 16, Costs(0.0, scale, 0.0, 0.0)),  # builders alone
        (4, 2, 16, Costs(0.0, 0.0, scale, 0.0)),  # the tracker alone
        (8, 2, 16, Costs(5.0, 0.0, 0.0, scale)),  # devices, and a search that takes longer
        (4, 2, 16, Costs(0.5, 0.0, 0.0, scale)),  # devices, and one that takes less
        (8, 2, 16, Costs(1.0, 0.3 * scale, 0.02, scale)),  # builders are the slowest
        (2, 8, 32, Costs(1.0, 0.3 * scale, 0.02, scale)),  # devices are
    ]
    for devices, builders, batch, costs in cases:
        got = trial.call(body, devices, builders, batch, costs)
        stages = (
            math.ceil(batch / builders) * costs.build,
            batch * costs.request,
            math.ceil(batch / devices) * costs.measure,
        )
        want = 60 * batch / (costs.search + max(stages))
        call = (
            f"candidates_per_minute({devices} devices, {builders} builders, batch of {batch}, "
            f"search {costs.search:.3g} s, build {costs.build:.3g} s, request "
            f"{costs.request:.3g} s, measure {costs.measure:.3g} s)"
        )
        if not _is_number(got):
            raise Wrong(f"{call} returned {a_or_an(got)}; expected a number.")
        if not math.isclose(got, want, rel_tol=SAME):
            raise Wrong(
                f"{call} returned {got:.5g}; expected {want:.5g}. "
                f"{_about_rate(got, devices, builders, batch, costs, stages)}"
            )


def _about_rate(got: float, devices, builders, batch, costs, stages) -> str:
    def is_(seconds: float) -> bool:
        return seconds > 0 and math.isclose(got, 60 * batch / seconds, rel_tol=SAME)

    halves = (batch / builders * costs.build, stages[1], batch / devices * costs.measure)
    if is_(60 * (costs.search + max(stages))):
        return "That is per second; expected per minute."
    if is_(batch * (costs.search + max(stages))):
        return f"That counts batches; in each are {batch} candidates."
    if is_(costs.search + max(halves)):
        return (
            "There a worker does part of a candidate: the last round takes as long as a full one, "
            "so it is math.ceil(batch / workers) rounds."
        )
    if is_(costs.search + sum(stages)):
        return "The stages work at the same time: the slowest one counts, not their sum."
    if is_(max(stages)) and costs.search:
        return "The search is missing: while it proposes a batch, nothing is measured."
    if is_(max(costs.search, *stages)):
        return "The search is no stage beside the others: it comes before them, each batch."
    if is_(costs.search + max(batch * costs.build, *stages[1:])):
        return "That has one builder; builders share a batch as devices do."
    if is_(costs.search + max(stages[0], costs.request, stages[2])):
        return "There the tracker serves one request; it serves one for each candidate."
    slowest = dict(zip(("builders", "tracker", "devices"), stages, strict=True))
    told = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in slowest.items())
    return f"A batch takes its stages {told}, and the search before them."
