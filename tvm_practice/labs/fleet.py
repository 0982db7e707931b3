"""Lab: a fleet of machines that measure.

    python -m tvm_practice.labs.fleet                  run this lab
    python -m tvm_practice.labs.fleet --hint fleet.1   a nudge, when you are stuck

A search is as fast as it can measure, and one machine measures one candidate at a time: two at once
would disturb each other. So tuners measure on many machines. Often they have to: what runs the
result, a phone or a board, is not what compiles it. TVM has three programs for this, which speak
RPC, remote procedure calls:

    device    waits for somebody to connect, and runs what it is sent, in a process for each session
    tracker   knows the devices by a key, by custom the kind of machine, and hands them out
    client    the tuner: asks the tracker for a device, connects to it, and sends it a program

    +--------+  which one?  +---------+  here I am   +-----------+
    | client |------------->| tracker |<-------------| device(s) |
    +--------+              +---------+              +-----------+
         |        program, arguments; times back           |
         +-------------------------------------------------+

You use them here, all on this machine, on loopback: measure on a device, decide whose fault a
failure is, put together what several tuners have measured, and say from how many devices on more of
them are of no use. `python -m tvm_practice.fleet` starts trackers and devices that last, and phase
5 measures on them: `python -m tvm_practice.auto_tune --tracker HOST:PORT --key KEY`.

RPC has no password: a device runs whatever it is sent by whoever can reach it. Keep it to yourself.
"""

import math
from collections import Counter  # noqa: F401 - for you to use
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm.rpc.client import TrackerSession

from tvm_practice.common.exercise import exercise

# ------------------------------------------------------------------------- fleet.1 another machine
#
# A compiled program is a file. The client sends it (`upload`), has it loaded there, and gets a
# module that looks like one of its own: calling its functions calls them there. Arguments must be
# there too. A tensor is made on a device, and `session.cpu()` is the device at the other end.
#
# A program may never end, and a device that waits for it is lost to everybody. So a session is
# given a time, after which the device ends it.
#
# Here is a program run on a device, and its result fetched. `tracker` is a connection to a tracker,
# as rpc.connect_tracker(host, port) returns it.

SESSION_SECONDS = 30


def run_remotely(
    tracker: TrackerSession, key: str, program: Path, arrays: Sequence[np.ndarray]
) -> np.ndarray:
    """Call a compiled program's "main" on a device of `key`; its last argument is the result."""
    session = tracker.request(key, session_timeout=SESSION_SECONDS)
    session.upload(str(program))
    main = session.load_module(program.name)["main"]
    tensors = [tvm.runtime.tensor(array, session.cpu()) for array in arrays]
    main(*tensors)
    return tensors[-1].numpy()


# To time it, a clock here would be of no use: it would time the network too. `time_evaluator`
# belongs to a module, and with a module that is there, it uses the clock that is there:
#
#     timer = module.time_evaluator("main", device, number=1, repeat=5, min_repeat_ms=20)
#     timer(*tensors).results        one number of seconds for each of the 5 samples
#
# A sample is the mean of `number` calls, or of as many more as it takes to fill `min_repeat_ms`: a
# short program is called often enough that reading the clock does not count.

SAMPLE_MS = 20


@exercise("fleet.1", "Time a program on another machine")
def time_remotely(
    tracker: TrackerSession, key: str, program: Path, arrays: Sequence[np.ndarray], samples: int
) -> list[float]:
    """The seconds that the program's "main" takes on a device of `key`, by the device's own clock.

    One number for each of so many samples, each of at least SAMPLE_MS. The session ends after
    SESSION_SECONDS, whatever the program does.
    """
    # TODO(fleet.1): about 7 lines, like run_remotely.
    raise NotImplementedError("fleet.1 time_remotely")


# --------------------------------------------------------------------------- fleet.2 whose fault?
#
# With one machine, a candidate that fails is a bad candidate. With twenty machines, one of them is
# always being switched off. Whose fault is a failure? If it is the candidate's, the record says so,
# and nobody measures it again; if it is the device's, a good schedule must not be lost by it. One
# failure does not tell. An experiment does: try the same candidate somewhere else.
#
# Some devices do not fail but lie. A clock that stands still gives 0, one that was set back a
# negative time, and a device that never ran the program a time that no CPU could reach. To notice
# the last one takes a bound: so many operations cannot take less than `floor` seconds on this CPU.
# (A clock at half speed gives times that are possible. Against that only a second device helps;
# phase 5 asks one about every time that beats all before it.)


@dataclass(frozen=True)
class Attempt:
    """One attempt to measure a candidate."""

    candidate: str
    device: str = ""
    built: bool = True  # False: the compiler failed, as it would everywhere
    seconds: float | None = None  # None: the device was lost, or did not answer in time


def possible(seconds: float, floor: float) -> bool:
    """Whether a program can have taken so long."""
    return math.isfinite(seconds) and seconds >= floor > 0


@exercise("fleet.2", "Decide whose fault a failure is")
def judge(attempts: Sequence[Attempt], floor: float) -> tuple[dict[str, str], set[str]]:
    """What is to be done with each candidate of these attempts, and which devices are not to be
    asked again.

    A candidate is "done" if a device gave a possible time for it. It has "failed" if it could not
    be built, or if it was lost on, or not answered by, two different devices. Else it is tried
    "again". A device that gave an impossible time is not asked again, and that attempt says nothing
    about the candidate.
    """
    # TODO(fleet.2): about 12 lines.
    raise NotImplementedError("fleet.2 judge")


# ------------------------------------------------------------------------- fleet.3 one file of many
#
# Several tuners leave several files of records, and some began with a copy of another's. To be of
# use, the files become one, in which nothing is missing and nothing is there twice: what is there
# twice counts twice in every mean.
#
# A time belongs to a machine. The fastest schedule of one CPU may be a slow one on another, so the
# same schedule on two machines is two records.
#
# A run is known by its time, to the last digit. If two files both have 1.25 ms twice, one has it
# from the other, and it was measured twice, not four times. Python's Counter knows how often each
# value is there; `a | b` of two Counters has each as often as the one that has it most often, and
# `counts.elements()` lists the values again.


@dataclass(frozen=True)
class Record:
    """A schedule that was measured: of which program, by its trace, on which machine, and the
    seconds of its runs (FAILED for one that failed)."""

    program: str
    trace: str
    machine: str
    runs: tuple[float, ...]


FAILED = 1e10  # what MetaSchedule writes


@exercise("fleet.3", "Merge records without loss or duplicates")
def merge(a: Sequence[Record], b: Sequence[Record]) -> list[Record]:
    """One record for each program, trace and machine that a or b has, in the order in which they
    are met first, a before b.

    Its runs are those of all records of it: a run that two of them have is the same run, so it is
    there as often as in the one that has it most often. If any of its runs worked, those that
    FAILED are left out.
    """
    # TODO(fleet.3): about 9 lines.
    raise NotImplementedError("fleet.3 merge")


# ------------------------------------------------------------------------ fleet.4 how many devices?
#
# Candidates come in batches: the search proposes some, all are measured, the model learns, and the
# next batch is better. Within a batch, everything goes on at once: while the devices measure, the
# client compiles what comes next. So the slowest stage sets the pace, and that is not always the
# devices. A batch of `batch` candidates passes
#
#     builders   of which each compiles a candidate in `build` seconds
#     tracker    which hands out one device after the other, each in `request` seconds
#     devices    of which each measures a candidate in `measure` seconds
#
# and between two batches the search takes `search` seconds, in which no device has anything to do.
# No candidate can be halved: 16 of them on 5 devices take as long as 20.


@dataclass(frozen=True)
class Costs:
    """Seconds: the search between two batches; for a candidate a builder, the tracker, a device."""

    search: float
    build: float
    request: float
    measure: float


@exercise("fleet.4", "Predict where a fleet saturates")
def candidates_per_minute(devices: int, builders: int, batch: int, costs: Costs) -> float:
    """How many candidates a minute so many devices and builders measure, in batches of `batch`.

    A batch takes the search, and then as long as its slowest stage: all stages work at once, and
    the time until the first candidate reaches the last stage is left out. No builder and no device
    works at half a candidate.
    """
    # TODO(fleet.4): about 7 lines.
    raise NotImplementedError("fleet.4 candidates_per_minute")


# When you run this file, it starts a tracker and devices on this machine, whose programs sleep (so
# that two cores are enough for many), takes one of them away in the middle, and counts candidates
# per minute. Before you look: you have 100 devices. What do the last of them bring, and what would
# you change?
