"""What earlier runs left: the times of a ladder, the curves of the searches, the state of every
exercise. Nothing is measured here, and where nothing was measured, the page says which command does
it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

from tvm_practice.common import records, timing
from tvm_practice.common.command import typed
from tvm_practice.common.exercise import LESSONS
from tvm_practice.main import TITLES
from tvm_practice.report.ladders import Ladder

PEAKS = {peak.name for peak in timing.PEAKS} | set(timing.ONE_THREAD)
LIBRARIES = ("NumPy", "torch", "torch.compile")
FLOAT = 4
EXPLAIN = "python -m tvm_practice.explain 2.5 --json reports/explain.json"
SEARCH = typed("run auto_tune")
Tell = Callable[[str], None]


class Unusable(ValueError):
    """A file is damaged, or not what this version writes."""


def _read(path: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where there is no file. Raises Unusable."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from None
    except ValueError:
        raise Unusable("is damaged: it is not JSON") from None
    if not isinstance(found, dict):
        raise Unusable("is damaged: it is not an object of JSON")
    return found


def _told(root: Path, path: Path, error: Unusable, command: str) -> str:
    return (
        f"{path.relative_to(root)} {error}. What it held is left out; `{command}` writes it anew."
    )


def _date(path: Path, content: dict[str, Any]) -> str:
    """When it was measured, by the file's own word or else by the file's time."""
    try:
        when = datetime.fromisoformat(str(content["started"]))
    except (KeyError, ValueError):
        when = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return when.strftime("%Y-%m-%d")


def _machine(content: dict[str, Any]) -> str:
    machine = content.get("machine")
    if not isinstance(machine, dict) or "cpu" not in machine:
        return "an unnamed machine"
    told = (
        f"{machine['cpu']} ({machine.get('llvm_cpu', '?')}), {machine.get('threads', '?')} threads"
    )
    return f"{told}, TVM {machine['tvm']}" if "tvm" in machine else told


# --------------------------------------------------------------------------------- a ladder's times


def command(ladder: Ladder) -> str:
    return typed(f"run {ladder.lesson}")


def measured(root: Path, ladder: Ladder, tell: Tell = lambda _: None) -> list[dict[str, Any]]:
    """Every set of times there is of a ladder: of the lesson's own last run, and of the bench, the
    sizes that are nearest to the lesson's own first. `tell` gets a sentence about each file that
    cannot be used."""
    found: list[dict[str, Any]] = []
    for path, what, again in (
        (root / "reports" / f"{ladder.lesson}.json", "your lesson", command(ladder)),
        (root / "reports" / "bench.json", "your bench", "python -m tvm_practice.bench"),
        (root / "benchmarks" / "cpu.json", "benchmarks", "git checkout benchmarks/cpu.json"),
    ):
        try:
            content = _read(path)
            if content.get("results"):
                found += _sets(path, content, ladder, what)
        except Unusable as error:
            tell(_told(root, path, error, again))

    def apart(run: dict[str, Any]) -> float:
        return abs(math.log(math.prod(run["size"]) / math.prod(ladder.usual)))

    return sorted(found, key=lambda run: (run["source"] != "your lesson", apart(run)))


def _sets(path: Path, content: dict[str, Any], ladder: Ladder, what: str) -> list[dict[str, Any]]:
    by_size: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    try:
        for one in content.get("results", ()):
            size = tuple(one.get("size") or content["size"])
            is_ours = one.get("workload", ladder.name) == ladder.name
            if is_ours and len(size) == len(ladder.size) and one["competitor"] not in PEAKS:
                by_size.setdefault(size, []).append(_time(one, ladder, size))
        peaks = content.get("peaks", {})
        fma = float(peaks["fma_gflops"])
        bandwidth = peaks.get("read_gbytes") or peaks.get("triad_gbytes")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Unusable("is damaged, or of another version of the course") from None
    return [
        {
            "source": what,
            "file": str(path.relative_to(path.parents[1])),
            "date": _date(path, content),
            "machine": _machine(content),
            "size": list(size),
            "fma": fma,
            "bandwidth": bandwidth,
            "times": times,
        }
        for size, times in by_size.items()
        if len(times) > 1
    ]


def _time(one: dict[str, Any], ladder: Ladder, size: tuple[int, ...]) -> dict[str, Any]:
    seconds, spread, gflops = (float(one[key]) for key in ("median_s", "spread", "gflops"))
    if not all(map(math.isfinite, (seconds, spread, gflops))):
        raise ValueError("a time must be a number")
    return {
        "name": one["competitor"],
        "seconds": seconds,
        "spread": spread,
        "gflops": gflops,
        "intensity": intensity(ladder, size),
        "library": one["competitor"] in LIBRARIES,
    }


def intensity(ladder: Ladder, size: tuple[int, ...]) -> float:
    """Operations for each byte that has to be moved at least: every input read and every output
    written once."""
    if ladder.name == "conv1d":
        M, N = size
        return 2 * M * N / (FLOAT * (M + N + M + N - 1))
    M, N, K = size
    return 2 * M * N * K / (FLOAT * (M * K + K * N + M * N))


def explained(root: Path, tell: Tell = lambda _: None) -> dict[str, Any] | None:
    """The time after every primitive of the matmul's ladder, from `explain`. `tell` is told of a
    file that cannot be used."""
    path = root / "reports" / "explain.json"
    try:
        content = _read(path)
        if not content or not content["complete"] or not content["size"]:
            return None
        return {
            "file": str(path.relative_to(root)),
            "date": _date(path, content),
            "machine": _machine(content),
            "size": list(content["size"]),
            "steps": [
                {
                    "kind": one["kind"],
                    "part": one["part"],
                    "seconds": one["median_s"],
                    "spread": one["spread"],
                    "short": one["verdict"] and one["verdict"]["short"],
                }
                for one in content["steps"]
            ],
        }
    except Unusable as error:
        tell(_told(root, path, error, EXPLAIN))
    except (KeyError, TypeError):
        tell(_told(root, path, Unusable("is of another version of the course"), EXPLAIN))
    return None


# ------------------------------------------------------------------------------- searches, progress


def curves(root: Path) -> list[dict[str, Any]]:
    """Each search of phase 5 on record: the speed of every trial, and of the best so far."""
    found = []
    for folder in sorted((root / "records" / "auto_tune").glob("matmul-*")):
        named = re.match(r"matmul-(\d+)x(\d+)x(\d+)-(.+)-(\d+)-threads", folder.name)
        if named is None:
            continue
        M, N, K = (int(side) for side in named.groups()[:3])
        times = [runs and mean(runs) for runs in records.runs_of_records(folder)]
        rates = [2 * M * N * K / one / 1e9 if one else 0.0 for one in times]
        if not any(rates):
            continue
        file = folder / records.RECORDS
        found.append(
            {
                "title": f"matmul {M} x {N} x {K}",
                "machine": f"{named[4]}, {named[5]} threads",
                "date": datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d"),
                "file": str(file.relative_to(root)),
                "trials": rates,
                "best": list(accumulate(rates, max)),
            }
        )
    return found


def progress() -> dict[str, Any]:
    """Every lesson with its exercises and what became of them; a sentence where something is
    wrong with the file that remembers."""
    from tvm_practice.common import progress as remembered

    read = remembered.read()
    lessons: dict[str, list[dict[str, str]]] = {lesson: [] for lesson in LESSONS}
    for known, (exercise, state) in remembered.states(read).items():
        lessons[exercise.lesson].append({"id": known, "title": exercise.title, "state": state})

    def solved(some: list[dict[str, str]]) -> int:
        return sum(one["state"] == remembered.SOLVED for one in some)

    return {
        "lessons": [
            {"title": TITLES[name], "exercises": some, "solved": solved(some)}
            for name, some in lessons.items()
            if some
        ],
        "solved": sum(map(solved, lessons.values())),
        "total": sum(map(len, lessons.values())),
        "trouble": read.trouble,
    }
