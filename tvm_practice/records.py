"""Tuning records of several machines: put together, looked at, and ranked.

    python -m tvm_practice.records merge A B -o C    what is in A or B, once, into C
    python -m tvm_practice.records show A            what there is, by program and machine
    python -m tvm_practice.records best A            the fastest record of each program

A, B and C are folders as phase 5 keeps them under records/, and as MetaSchedule's JSONDatabase
writes them: the programs in one file, in the other a line for each schedule that was measured. Its
target says, as `model`, which machine that was.

A schedule on a machine is one record, whose runs are put together; a run that is there already is
the same run. What failed once and worked another time has worked. Times of different CPUs say
nothing about which schedule is the faster, so they are only ranked together with --mix.

Exit status: 0, or 2 when the command could not run; then nothing was changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import click

from tvm_practice.common import show
from tvm_practice.common.records import (
    FAILED_SECONDS,
    RECORDS,
    WORKLOAD,
    copy_aside,
    fault_of_record,
)
from tvm_practice.common.status import COULD_NOT_RUN, status_of

UNNAMED = "unnamed machine"
NAMED = re.compile(r"(.+?, \d+ threads?), ")  # as common.records.this_machine writes it
WHERE = "Phase 5 keeps a folder for each search under records/auto_tune/."


class Refused(click.ClickException):
    """The command cannot run; the message is one sentence that says why, and the way out."""

    exit_code = COULD_NOT_RUN

    def show(self, file=None) -> None:
        click.echo(f"tvm_practice: {self.format_message()}", err=True)


@dataclass(frozen=True)
class Record:
    """A schedule on a machine, as its line has it; workload is the program's own line."""

    workload: str
    trace: str
    target: str
    arguments: str
    runs: tuple[float, ...]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.workload, self.trace, self.target, self.arguments

    @property
    def machine(self) -> str:
        """CPU, threads and host; of a record that does not say, what its target says."""
        return json.loads(self.target).get("model") or f"{UNNAMED}, {self._compiled_for}"

    @property
    def kind(self) -> str:
        """What times can be compared among: CPU and threads, without the host."""
        model = json.loads(self.target).get("model", "")
        if named := NAMED.match(model):
            return named[1]
        return f"{model or UNNAMED}, {self._compiled_for}"

    @property
    def _compiled_for(self) -> str:
        target = json.loads(self.target)
        cores = target.get("num-cores")
        facts = [
            target.get("mcpu") or target["kind"],
            target.get("mtriple"),
            target.get("arch"),
            cores and f"{cores} core{'s' if cores > 1 else ''}",
        ]
        return ", ".join(fact for fact in facts if fact)

    @property
    def seconds(self) -> float | None:
        """The mean of its runs; None if it failed."""
        return None if FAILED_SECONDS in self.runs else mean(self.runs)

    @property
    def shapes(self) -> str:
        """The program, by the shapes of its arguments."""
        found = [
            "x".join(map(str, shape)) + ("" if dtype == "float32" else f" {dtype}")
            for _, dtype, shape in json.loads(self.arguments)
        ]
        return ", ".join(found)


@dataclass
class Loaded:
    """What a folder holds, and a sentence about the lines that cannot be used."""

    workloads: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    damage: str = ""


def load(folder: Path) -> Loaded:
    """Read a folder of records. Raises Refused if there is none, or its programs cannot be read."""
    folder = _folder_of(folder)
    if not folder.exists():
        raise Refused(f"there is no {folder}. {WHERE}")
    for name in (WORKLOAD, RECORDS):
        if not (folder / name).is_file():
            raise Refused(f"{folder} is no folder of records: {name} is missing. {WHERE}")
    try:
        workloads = (folder / WORKLOAD).read_text(encoding="utf-8").splitlines()
        lines = (folder / RECORDS).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{folder} cannot be read: {getattr(error, 'strerror', error)}.") from None
    for number, line in enumerate(workloads, 1):
        if not _is_workload(line):
            raise Refused(
                f"{folder / WORKLOAD}, line {number}, is no program of MetaSchedule's, and without "
                "it the records mean nothing. Running phase 5 again writes this file anew."
            )
    # What JSON says counts, not how it is written: else one program or target would be two.
    found, faults = Loaded([json.dumps(json.loads(line)) for line in workloads]), {}
    for number, line in enumerate(lines, 1):
        if fault := fault_of_record(line, len(workloads)):
            faults[number] = fault
            continue
        place, (trace, runs, target, arguments) = json.loads(line)
        texts = (json.dumps(one, sort_keys=True) for one in (trace, target, arguments))
        found.records.append(Record(found.workloads[place], *texts, tuple(runs)))
    if faults:
        first = min(faults)
        found.damage = (
            f"{folder / RECORDS}: {len(faults)} of {len(lines)} lines cannot be used (line {first} "
            f"{faults[first]}); they are left out."
        )
    return found


def _folder_of(path: Path) -> Path:
    """Of a folder of records, its file of records will do too."""
    return path.parent if path.name == RECORDS else path


def _is_workload(line: str) -> bool:
    try:
        match json.loads(line):
            case [str(), str()]:
                return True
    except ValueError:
        pass
    return False


def merged(records: Iterable[Record]) -> list[Record]:
    """Each schedule on each machine once, with all its runs, in the order of their first lines."""
    runs: dict[tuple[str, str, str, str], Counter[float]] = {}
    for record in records:
        # The largest count of each value: a run that two files have is the same run.
        runs[record.identity] = runs.get(record.identity, Counter()) | Counter(record.runs)
    united = []
    for identity, counted in runs.items():
        if any(run != FAILED_SECONDS for run in counted):
            del counted[FAILED_SECONDS]
        united.append(Record(*identity, tuple(counted.elements())))
    return united


def save(folder: Path, workloads: Sequence[str], records: Sequence[Record]) -> None:
    """Write a folder of records whole or not at all; one that is there keeps the order of its
    programs, so it is sound at every moment. Raises OSError."""
    places = {workload: place for place, workload in enumerate(workloads)}
    lines = [
        json.dumps(
            [
                places[one.workload],
                [
                    json.loads(one.trace),
                    list(one.runs),
                    json.loads(one.target),
                    json.loads(one.arguments),
                ],
            ],
            separators=(",", ":"),
        )
        for one in records
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        for name, content in ((WORKLOAD, workloads), (RECORDS, lines)):
            with (unfinished / name).open("w", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in content))
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            for name in (WORKLOAD, RECORDS):
                os.replace(unfinished / name, folder / name)
        else:
            os.replace(unfinished, folder)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(unfinished)


# ------------------------------------------------------------------------------------- command line


@click.group(help="Tuning records of several machines: put together, looked at, and ranked.")
def command() -> None:
    pass


_FOLDER = click.Path(path_type=Path)
_MIX = click.option("--mix", is_flag=True, help="Rank different CPUs together.")


@command.command()
@click.argument("sources", nargs=-1, required=True, type=_FOLDER, metavar="A B ...")
@click.option("-o", "--output", required=True, type=_FOLDER, metavar="C", help="Where to.")
@_MIX
def merge(sources: tuple[Path, ...], output: Path, mix: bool) -> None:
    """Put the records of several folders into one."""
    inputs, output = [_folder_of(one) for one in sources], _folder_of(output)
    at = [one.resolve() for one in inputs]
    if output.resolve() in at:  # first, so that its programs keep their numbers
        inputs.insert(0, inputs.pop(at.index(output.resolve())))
    elif output.exists():
        raise Refused(f"{output} is there already; name it among those to be merged, or another.")
    loaded = [_load(one) for one in inputs]
    workloads = list(dict.fromkeys(line for one in loaded for line in one.workloads))
    all_of_them = [record for one in loaded for record in one.records]
    _refuse_mixture(all_of_them, mix)
    records = merged(all_of_them)
    try:
        if output.exists() and loaded[0].damage:
            aside = copy_aside(output / RECORDS)
            click.echo(f"tvm_practice: as it was, it is kept as {aside.name}.", err=True)
        save(output, workloads, records)
    except OSError as error:
        raise Refused(
            f"{output} could not be written ({error.strerror}); nothing was changed."
        ) from None
    told = f"{output}: {_counted(len(records))}"
    if twice := len(all_of_them) - len(records):
        told += f"; {twice} more {'was' if twice == 1 else 'were'} there twice"
    click.echo(f"{told}.")


def _counted(number: int) -> str:
    return "1 record" if number == 1 else f"{number} records"


@command.command(name="show")
@click.argument("folder", type=_FOLDER, metavar="A")
def show_(folder: Path) -> None:
    """What there is, by program and machine."""
    loaded = _load_some(folder)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in merged(loaded.records):
        groups.setdefault((record.workload, record.machine), []).append(record)
    rows = []
    for (_, machine), records in groups.items():
        times = [one.seconds for one in records if one.seconds is not None]
        rows.append(
            (
                records[0].shapes,
                machine,
                str(len(records)),
                str(len(records) - len(times)),
                show.seconds(min(times)) if times else "-",
            )
        )
    show.table(("arguments", "machine", "records", "failed", "fastest"), rows)


@command.command()
@click.argument("folder", type=_FOLDER, metavar="A")
@_MIX
def best(folder: Path, mix: bool) -> None:
    """The fastest record of each program, by the mean of its runs."""
    records = merged(_load_some(folder).records)
    _refuse_mixture(records, mix)
    fastest: dict[str, Record] = {}
    for record in records:
        known = fastest.get(record.workload)
        if record.seconds is not None and (known is None or record.seconds < known.seconds):
            fastest[record.workload] = record
    if not fastest:
        raise Refused(f"no record in {folder} has a time: every candidate failed.")
    for record in fastest.values():
        show.line(f"{record.shapes}: {show.seconds(record.seconds)} on {record.machine}")
        show.line(f"  runs: {', '.join(show.seconds(run) for run in record.runs)}", "dim")
        for place, decision in json.loads(record.trace)[1]:
            name, inputs, *_ = json.loads(record.trace)[0][place]
            show.line(f"  {name} of {', '.join(map(str, inputs))}: {decision}", "dim")


def _load(folder: Path) -> Loaded:
    loaded = load(folder)
    if loaded.damage:
        click.echo(f"tvm_practice: {loaded.damage}", err=True)
    return loaded


def _load_some(folder: Path) -> Loaded:
    loaded = _load(folder)
    if not loaded.records:
        raise Refused(
            f"{folder} holds no record that can be used; a search writes one for each schedule "
            "that it measures."
        )
    return loaded


def _refuse_mixture(records: Sequence[Record], mix: bool) -> None:
    kinds = sorted({record.kind for record in records})
    if len(kinds) > 1 and not mix:
        raise Refused(
            f"these records are of different machines ({'; '.join(kinds)}), and times of one say "
            "nothing about the other. --mix takes them together all the same."
        )


if __name__ == "__main__":
    sys.exit(status_of(command, "python -m tvm_practice.records"))
