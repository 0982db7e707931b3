"""Tuning records on disk: a folder for each task, machine and search space; damaged files set
aside, what is good kept.

A folder holds MetaSchedule's two files: the workload, and a line of JSON for every schedule that
was measured. Lines are appended one by one, so an interrupted search loses nothing. But
MetaSchedule refuses a file with one bad line (a full disk, an editor, a merge conflict), or crashes
on it. So every line is examined first, by TVM too, in a process that may crash.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import platform
import re
import shutil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_practice.common.target import cpu_name, threads
from tvm_practice.common.worker import Worker, WorkerFailed

if TYPE_CHECKING:
    import tvm
    from tvm.s_tir.meta_schedule import Database, TuneContext
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

WORKLOAD = "database_workload.json"
RECORDS = "database_tuning_record.json"

# What MetaSchedule writes as the time of a candidate that has none; its database never returns such
# a record as best.
FAILED_SECONDS = 1e10

LINE_SECONDS = 30.0


def key_of(task: TuneContext, cpu: str = "", count: int = 0) -> str:
    """A name for what the records of a task depend on: program, search space, target, CPU, threads
    (this machine's unless told), and TVM."""
    import tvm

    cpu, count = cpu or cpu_name(), count or threads()
    # What was decided this time, by one seed, is no part of the space.
    spaces = [
        re.sub(r", decision=(\[.*?\]|-?\d+)", "", str(space.trace))
        for space in task.generate_design_space()
    ]
    facts = [task.mod.script(), *spaces, str(task.target), cpu, count, tvm.__version__]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    return f"{task.target.attrs['mcpu']}-{count}-threads-{digest}"


def this_machine(cpu: str = "", count: int = 0, host: str = "") -> str:
    """How a record names the machine that measured it; this one unless told."""
    count = count or threads()
    number = f"{count} thread{'s' if count > 1 else ''}"
    return f"{cpu or cpu_name()}, {number}, {host or platform.node()}"


def on_machine(target: tvm.target.Target, machine: str) -> tvm.target.Target:
    """The target as a record has it, whose attribute `model` is TVM's own place for this."""
    import tvm

    return tvm.target.Target({**target.export(), "model": machine}) if machine else target


def open_database(folder: Path, module: tvm.IRModule) -> Database:
    """MetaSchedule's JSON database in `folder`, for this one workload; call `repair` before."""
    from tvm.s_tir import meta_schedule as ms

    # The workload file says nothing that is not known, so it is written anew rather than examined.
    workload, records = folder / WORKLOAD, folder / RECORDS
    workload.unlink(missing_ok=True)
    ms.database.JSONDatabase(str(workload), os.devnull).commit_workload(module)
    return ms.database.JSONDatabase(str(workload), str(records))


def runs_of_records(folder: Path) -> list[list[float] | None]:
    """The times of every record, in the order in which they were first measured; None for a failed
    candidate."""
    times = [
        None if fault_of_record(line) else json.loads(line)[1][1]
        for line in _lines(folder / RECORDS)
    ]
    return [None if runs is None or FAILED_SECONDS in runs else runs for runs in times]


def candidates_at(folder: Path, places: list[int], module: tvm.IRModule) -> list[MeasureCandidate]:
    """The schedules of some records, by their places in the file, made again."""
    from tvm.s_tir import meta_schedule as ms

    lines, workload = _lines(folder / RECORDS), ms.database.Workload(module)
    made = [ms.database.TuningRecord.from_json(json.loads(lines[n])[1], workload) for n in places]
    return [record.as_measure_candidate() for record in made]


def add_runs(folder: Path, more: dict[int, list[float]]) -> None:
    """Append times to records that are there already; `more` has them by the record's place in the
    file."""
    lines = _lines(folder / RECORDS)
    for place, runs in more.items():
        record = json.loads(lines[place])
        record[1][1] += runs
        lines[place] = json.dumps(record)
    _replace(folder / RECORDS, lines)


def remove(folder: Path, places: list[int]) -> None:
    """Take records out of the file, by their places in it."""
    lines = _lines(folder / RECORDS)
    _replace(folder / RECORDS, [line for n, line in enumerate(lines) if n not in set(places)])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _replace(path: Path, lines: list[str]) -> None:
    """Write the file anew, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(new, path)


# ------------------------------------------------------------------------------------ damaged files


def repair(folder: Path, pickled_module: bytes) -> str:
    """Make the records in `folder` safe to open; return a sentence about what was damaged, "" if
    nothing was.

    A file with a bad line is renamed, and its good lines become the new file.
    """
    path = folder / RECORDS
    if not path.exists():
        return ""
    if not path.is_file():
        return f"{path} is no file; it is now called {_set_aside(path).name}."
    content = path.read_bytes()
    lines = content.decode("utf-8", errors="replace").splitlines()
    faults = {
        number: fault for number, line in enumerate(lines, 1) if (fault := fault_of_record(line))
    }
    faults |= _faults_for_tvm(
        pickled_module, {n: line for n, line in enumerate(lines, 1) if n not in faults}
    )
    if not faults:
        if content and not content.endswith(b"\n"):  # else the next record would continue this line
            with path.open("ab") as file:
                file.write(b"\n")
        return ""
    good = [line for number, line in enumerate(lines, 1) if number not in faults]
    aside = _set_aside(path)
    _replace(path, good)
    first = min(faults)
    return (
        f"{path} was damaged: {len(faults)} of {len(lines)} lines cannot be used (line {first} "
        f"{faults[first]}). It is now called "
        f"{aside.name}, and its {len(good)} good records are kept."
    )


def copy_aside(path: Path) -> Path:
    """Keep a damaged file as it is, beside itself. Raises OSError."""
    aside = _aside(path)
    try:
        shutil.copyfile(path, aside)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def _set_aside(path: Path) -> Path:
    aside = _aside(path)
    os.replace(path, aside)
    return aside


def _aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def fault_of_record(line: str, workloads: int = 1) -> str | None:
    """What is wrong with a line as JSON; None if it has the form of a record of one of so many
    workloads."""
    try:
        record = json.loads(line)
    except ValueError:
        return "is empty" if not line.strip() else "is no JSON"
    match record:
        case [int(place), [[[*instructions], [*decisions]], [*runs], target, arguments]] if (
            0 <= place < workloads
        ):
            if not runs or not all(_is_time(run) for run in runs):
                return "has no usable time"
            if not _is_target(target):
                return "has no usable target"
            if not isinstance(arguments, list) or not all(map(_is_argument, arguments)):
                return "has no usable arguments"
            return _fault_of_trace(instructions, decisions)
    return "is no tuning record"


def _fault_of_trace(instructions: list, decisions: list) -> str | None:
    """TVM does not look whether a decision is one of an instruction that there is."""
    names = [one[0] if isinstance(one, list) and one else None for one in instructions]
    if not names or not all(isinstance(name, str) for name in names):
        return "has no usable trace"
    for decision in decisions:
        match decision:
            case [int(place), _] if 0 <= place < len(names) and names[place].startswith("Sample"):
                continue
        return "has a decision that belongs to no instruction"
    return None


def _is_target(target: object) -> bool:
    """Whether it is one as TVM exports it, with all that says which machine it is."""
    texts = ("model", "mcpu", "mtriple", "arch")
    match target:
        case {"kind": str()}:
            cores = target.get("num-cores", 0)
            return isinstance(cores, int) and all(isinstance(target.get(t, ""), str) for t in texts)
    return False


def _is_argument(argument: object) -> bool:
    match argument:
        case ["TENSOR", str(), [*shape]]:
            return all(isinstance(extent, int) for extent in shape)
    return False


def _is_time(run: object) -> bool:
    return isinstance(run, int | float) and math.isfinite(run) and run > 0


def _faults_for_tvm(pickled_module: bytes, lines: dict[int, str]) -> dict[int, str]:
    """The lines that TVM cannot make a schedule of. One on which it crashes ends a process, and the
    next goes on behind it."""
    faults: dict[int, str] = {}
    left = dict(lines)
    while left:
        with Worker(_judge, pickled_module, left) as judge:
            for number in list(left):
                try:
                    fault = judge.answer(LINE_SECONDS)
                except WorkerFailed as error:
                    fault = f"is not understood by TVM: {error}"
                    del left[number]
                    faults[number] = fault
                    break
                del left[number]
                if fault:
                    faults[number] = fault
    return faults


def _judge(connection: Connection, pickled_module: bytes, lines: dict[int, str]) -> None:
    from tvm.s_tir import meta_schedule as ms

    workload = ms.database.Workload(pickle.loads(pickled_module))
    for line in lines.values():
        fault = ""
        try:
            record = ms.database.TuningRecord.from_json(json.loads(line)[1], workload)
            record.as_measure_candidate()
        except Exception as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            fault = f"is not understood by TVM: {reason[0][:120]}"
        connection.send(("returned", fault))
