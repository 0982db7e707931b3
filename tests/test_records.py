"""Records of several machines: merged without loss or duplicates, and never ranked across CPUs
unless somebody asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tvm_practice import records
from tvm_practice.common.records import FAILED_SECONDS, RECORDS, WORKLOAD

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ('["-1", "program one"]', '["-2", "program two"]')
HERE, THERE = "CPU one, 2 threads, host a", "CPU two, 2 threads, host b"

runs = st.lists(st.sampled_from([1e-3, 2e-3, 3e-3, 4e-3, FAILED_SECONDS]), min_size=1, max_size=4)
one_record = st.builds(
    lambda workload, tile, machine, runs: records.Record(
        workload, trace(tile), target(machine), "[]", tuple(runs)
    ),
    st.sampled_from(PROGRAMS),
    st.integers(1, 3),
    st.sampled_from([HERE, THERE]),
    runs,
)
some_records = st.lists(one_record, max_size=8)


def trace(tile: int) -> str:
    instruction = ["SamplePerfectTile", ["l1"], [2, 16], ["v1", "v2"]]
    return json.dumps([[instruction], [[0, [64 // tile, tile]]]])


def target(machine: str) -> str:
    return json.dumps({"kind": "llvm", "mcpu": "generic", "model": machine})


def write(folder: Path, *rows: tuple[int, str, list[float]], programs=PROGRAMS[:1]) -> Path:
    """A folder with a record for each (tile, machine, runs)."""
    arguments = [["TENSOR", "float32", [64, 64]]]
    lines = [
        json.dumps([0, [json.loads(trace(tile)), taken, json.loads(target(machine)), arguments]])
        for tile, machine, taken in rows
    ]
    folder.mkdir()
    (folder / WORKLOAD).write_text("".join(line + "\n" for line in programs))
    (folder / RECORDS).write_text("".join(line + "\n" for line in lines))
    return folder


def command(*arguments: object):
    return CliRunner().invoke(records.command, [str(one) for one in arguments])


def content(found: list[records.Record]) -> dict:
    return {one.identity: Counter(one.runs) for one in found}


# ------------------------------------------------------------------------------- what holds always


@given(some_records, some_records)
def test_nothing_is_lost_and_nothing_is_there_twice(a, b) -> None:
    found = records.merged(a + b)
    assert len({one.identity for one in found}) == len(found)
    united = content(found)
    for record in a + b:
        kept = united[record.identity]
        assert all(
            kept[run] >= count
            for run, count in Counter(record.runs).items()
            if run != FAILED_SECONDS
        )
    assert {one.identity for one in a + b} == united.keys()
    for identity, counted in united.items():
        of_it = [Counter(one.runs) for one in a + b if one.identity == identity]
        assert all(count == max(one[run] for one in of_it) for run, count in counted.items())
        assert counted.keys() == {FAILED_SECONDS} or FAILED_SECONDS not in counted


@given(some_records, some_records, some_records)
def test_order_and_repetition_of_merges_do_not_matter(a, b, c) -> None:
    merged = records.merged
    assert content(merged(a + b)) == content(merged(b + a))
    assert content(merged(merged(a + b) + c)) == content(merged(a + merged(b + c)))
    assert merged(merged(a) + a) == merged(a)


@given(some_records)
def test_what_is_saved_is_loaded_again(tmp_path_factory, found) -> None:
    folder = tmp_path_factory.mktemp("saved") / "C"
    records.save(folder, PROGRAMS, found)
    again = records.load(folder)
    assert (again.workloads, again.records, again.damage) == (list(PROGRAMS), found, "")


# ----------------------------------------------------------------------------------- the command


def test_merge_show_and_best(tmp_path: Path) -> None:
    a = write(tmp_path / "a", (1, HERE, [3e-3]), (2, HERE, [2e-3]))
    b = write(tmp_path / "b", (2, HERE, [2e-3, 1e-3]), (4, HERE, [FAILED_SECONDS]))
    done = command("merge", a, b / RECORDS, "-o", tmp_path / "c")
    assert done.exit_code == 0, done.output
    assert "3 records; 1 more" in done.output
    assert [one.runs for one in records.load(tmp_path / "c").records] == [
        (3e-3,),
        (2e-3, 1e-3),
        (FAILED_SECONDS,),
    ]
    shown = command("show", tmp_path / "c")
    assert HERE in shown.output and "64x64" in shown.output
    best = command("best", tmp_path / "c")
    assert "1.50 ms" in best.output and "[32, 2]" in best.output and HERE in best.output
    again = command("merge", tmp_path / "c", a, b, "-o", tmp_path / "c")  # into one of them
    assert again.exit_code == 0
    assert len(records.load(tmp_path / "c").records) == 3


def test_two_programs_keep_their_records_apart(tmp_path: Path) -> None:
    a = write(tmp_path / "a", (1, HERE, [3e-3]))
    b = write(tmp_path / "b", (1, HERE, [2e-3]), programs=PROGRAMS[1:])
    assert command("merge", b, a, "-o", a).exit_code == 0
    found = records.load(a)
    assert found.workloads == list(PROGRAMS)  # a's own stays the first
    assert {(one.workload, one.runs) for one in found.records} == {
        (PROGRAMS[0], (3e-3,)),
        (PROGRAMS[1], (2e-3,)),
    }
    assert command("best", a).output.count(HERE) == 2


def test_different_cpus_are_not_ranked_together_unless_asked(tmp_path: Path) -> None:
    a = write(tmp_path / "a", (1, HERE, [3e-3]), (1, HERE.replace("host a", "host c"), [2e-3]))
    b = write(tmp_path / "b", (1, THERE, [1e-3]))
    assert command("best", a).exit_code == 0  # the same CPU, twice
    refused = command("merge", a, b, "-o", tmp_path / "c")
    assert refused.exit_code == 2
    assert "CPU one, 2 threads; CPU two, 2 threads" in refused.output
    assert not (tmp_path / "c").exists()
    assert command("merge", a, b, "-o", tmp_path / "c", "--mix").exit_code == 0
    assert len(records.load(tmp_path / "c").records) == 3
    assert command("best", tmp_path / "c").exit_code == 2
    assert THERE in command("best", tmp_path / "c", "--mix").output


def of_target(folder: Path, target: dict, taken: float = 1e-3, program: str = PROGRAMS[0]) -> Path:
    """A folder with one record, of this target."""
    write(folder, (1, HERE, [taken]), programs=(program,))
    record = json.loads((folder / RECORDS).read_text())
    record[1][2] = target
    (folder / RECORDS).write_text(json.dumps(record) + "\n")
    return folder


DIFFERENT = {
    "CPUs": ({"kind": "llvm", "mcpu": "znver4"}, {"kind": "llvm", "mcpu": "cortex-a72"}),
    "cores": ({"kind": "llvm", "num-cores": 1}, {"kind": "llvm", "num-cores": 64}),
    "triples": ({"kind": "llvm", "mtriple": "aarch64"}, {"kind": "llvm", "mtriple": "x86_64"}),
    "GPUs": ({"kind": "cuda", "arch": "sm_70"}, {"kind": "cuda", "arch": "sm_90"}),
    "CPUs of one name": (
        {"kind": "llvm", "mcpu": "znver4", "model": "unknown"},
        {"kind": "llvm", "mcpu": "cortex-a72", "model": "unknown"},
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_machines_without_a_name_are_told_apart_by_their_targets(what: str, tmp_path: Path) -> None:
    a, b = (
        of_target(tmp_path / name, one) for name, one in zip("ab", DIFFERENT[what], strict=True)
    )
    refused = command("merge", a, b, "-o", tmp_path / "c")
    assert refused.exit_code == 2 and "of different machines" in refused.output
    assert command("merge", a, b, "-o", tmp_path / "c", "--mix").exit_code == 0
    assert len(records.load(tmp_path / "c").records) == 2


def test_one_record_written_in_two_ways_is_one(tmp_path: Path) -> None:
    target = {"kind": "llvm", "mcpu": "generic", "model": HERE}
    a = of_target(tmp_path / "a", target)
    b = of_target(tmp_path / "b", dict(reversed(target.items())), 2e-3, '["-1","program one"]')
    assert command("merge", a, b, "-o", tmp_path / "c").exit_code == 0
    merged = records.load(tmp_path / "c")
    assert [one.runs for one in merged.records] == [(1e-3, 2e-3)]
    assert merged.workloads == [PROGRAMS[0]]


DAMAGES = {
    "cut off": lambda line: line[:40],
    "empty": lambda line: "",
    "another program": lambda line: line.replace("[0,", "[7,", 1),
    "no time": lambda line: line.replace("0.002", '"soon"'),
    "a target of text": lambda line: line.replace(target(HERE), '"llvm -mcpu=generic"'),
    "no kind": lambda line: line.replace('"kind"', '"sort"'),
    "a number as machine": lambda line: line.replace(json.dumps(HERE), "3"),
    "no arguments": lambda line: line.replace('[["TENSOR", "float32", [64, 64]]]', "null"),
    "other arguments": lambda line: line.replace('[["TENSOR", "float32", [64, 64]]]', "[1]"),
}


def test_what_is_damaged_in_the_output_itself_is_kept_beside_it(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", (1, HERE, [3e-3])), write(tmp_path / "b", (2, HERE, [2e-3]))
    with (b / RECORDS).open("a") as file:
        file.write("half a li")
    before = (b / RECORDS).read_text()
    done = command("merge", a, b, "-o", b / RECORDS)
    assert done.exit_code == 0
    assert "it is kept as database_tuning_record.json.damaged-1" in done.output
    assert (b / f"{RECORDS}.damaged-1").read_text() == before
    assert len(records.load(b).records) == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_lines_are_named_and_left_out(damage: str, tmp_path: Path) -> None:
    a = write(tmp_path / "a", (1, HERE, [3e-3]), (2, HERE, [2e-3]), (4, HERE, [1e-3]))
    lines = (a / RECORDS).read_text().splitlines()
    whole, lines[1] = lines[1], DAMAGES[damage](lines[1])
    assert lines[1] != whole
    (a / RECORDS).write_text("\n".join(lines))
    done = command("merge", a, "-o", tmp_path / "c")
    assert done.exit_code == 0
    assert "1 of 3 lines cannot be used (line 2 " in done.output
    assert len(records.load(tmp_path / "c").records) == 2


def test_what_cannot_be_done_is_told_in_a_sentence(tmp_path: Path) -> None:
    a = write(tmp_path / "a", (1, HERE, [3e-3]))
    nothing = tmp_path / "nothing"
    nothing_yet = write(tmp_path / "nothing-yet")
    for folder, sentence in (
        (nothing, f"there is no {nothing}."),
        (tmp_path, f"{tmp_path} is no folder of records"),
        (nothing_yet, f"{nothing_yet} holds no record that can be used"),
    ):
        for name in ("show", "best"):
            refused = command(name, folder)
            assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
            assert sentence in refused.output
    there = write(tmp_path / "there", (2, HERE, [1e-3]))
    before = (there / RECORDS).read_text()
    refused = command("merge", a, "-o", there)
    assert refused.exit_code == 2 and "is there already" in refused.output
    assert (there / RECORDS).read_text() == before
    (a / WORKLOAD).write_text("nonsense\n")
    refused = command("best", a)
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    failed = write(tmp_path / "failed", (1, HERE, [FAILED_SECONDS]))
    assert "every candidate failed" in command("best", failed).output


@pytest.mark.parametrize("arguments", [("show",), ("best",)])
def test_output_that_nobody_takes_is_no_crash(arguments: tuple[str, ...], tmp_path: Path) -> None:
    a = write(tmp_path / "a", *((1, f"CPU one, 2 threads, host {n}", [1e-3]) for n in range(2000)))
    python = f"exec {sys.executable} -m tvm_practice.records {' '.join(arguments)} {a}"
    full = subprocess.run(["bash", "-c", f"{python} >/dev/full"], **CAPTURED)
    assert (full.returncode, full.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in full.stderr
    read = subprocess.run(["bash", "-c", f"set -o pipefail; ({python}) | head -1"], **CAPTURED)
    assert (read.returncode, read.stderr) == (0, "")


CAPTURED = {
    "env": {**os.environ, "PYTHONPATH": str(ROOT)},
    "capture_output": True,
    "text": True,
}


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """The limit on the size of a file stands in for it: both end in an error of write()."""
    rows = [(1 + n % 32, f"CPU one, 2 threads, host {n}", [1e-3]) for n in range(100)]
    a = write(tmp_path / "a", *rows)
    c = write(tmp_path / "c", (1, HERE, [3e-3]))
    before = (c / RECORDS).read_text()
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from tvm_practice.records import command; command()"
    )
    done = subprocess.run([sys.executable, "-c", limited, "merge", a, c, "-o", c], **CAPTURED)
    assert done.returncode == 2, done.stderr
    assert "could not be written (File too large); nothing was changed" in done.stderr
    assert (c / RECORDS).read_text() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "c"]
