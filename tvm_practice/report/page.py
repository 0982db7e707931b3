"""Gathers what the page shows and writes it: the template, the style and the script of this folder,
and the data as JSON, in one file."""

from __future__ import annotations

import json
import os
import webbrowser
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import jinja2

from tvm_practice.common import exercise, show, target, worker
from tvm_practice.common.exercise import LEARNER, REFERENCE
from tvm_practice.common.status import COULD_NOT_RUN, INTERRUPTED, NOTHING_WRONG
from tvm_practice.report import ROOT, runs
from tvm_practice.report.ladders import LADDERS, REAL_SIDE, Ladder, made, references, told_of_bodies

HERE = Path(__file__).resolve().parent
SECONDS = 120.0


def run(out: Path, open_: bool, solutions: bool) -> int:
    """Write the page; return the exit status."""
    try:
        check_writable(out)
        content = gathered(ROOT, solutions)
        write(out, html(content))
    except KeyboardInterrupt:
        click.echo("tvm_practice.report: interrupted; no page was written.", err=True)
        return INTERRUPTED
    except worker.WorkerFailed as error:
        click.echo(f"tvm_practice.report: TVM cannot be started: {error}", err=True)
        return COULD_NOT_RUN
    except OSError as error:
        click.echo(
            f"tvm_practice.report: {error.filename or out} cannot be written: "
            f"{error.strerror or error}. --out FILE writes to another place.",
            err=True,
        )
        return COULD_NOT_RUN
    shown = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    show.line(f"page: {shown} ({out.stat().st_size / 1e6:.1f} MB, opens without a network)")
    if open_ and not webbrowser.open(out.resolve().as_uri()):
        show.line(f"No browser could be started; open {out.resolve().as_uri()} yourself.", "yellow")
    for sentence in content["trouble"]:
        show.line(sentence, "yellow")
    failed = [one for one in content["ladders"] if not one["steps"]]
    return COULD_NOT_RUN if len(failed) == len(content["ladders"]) else NOTHING_WRONG


def check_writable(out: Path) -> None:
    """Refuse now what could not be written after all the work."""
    if out.is_dir():
        raise IsADirectoryError(0, "it is a folder", str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    probe = out.with_name(out.name + ".unfinished")
    probe.touch()
    probe.unlink()


def write(out: Path, text: str) -> None:
    """Write the file, whole or not at all."""
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, out)


# ----------------------------------------------------------------------------------- what it shows


def gathered(root: Path, solutions: bool) -> dict[str, Any]:
    """All of the page's content as plain data."""
    with show.waiting("starting TVM ..."):
        machine = worker.call(target.machine)
    trouble: dict[str, None] = {}  # a file that several ladders read is told of once
    progress = runs.progress()
    return {
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "machine": machine,
        "ladders": [_ladder(root, one, solutions, trouble.setdefault) for one in LADDERS],
        "curves": runs.curves(root),
        "search": runs.SEARCH,
        "progress": progress,
        "trouble": [*trouble, *filter(None, [progress["trouble"]])],
    }


def _ladder(root: Path, ladder: Ladder, solutions: bool, tell: runs.Tell) -> dict[str, Any]:
    whose = references(ladder) if solutions else _whose(ladder)
    with show.waiting(f"{ladder.title}: every primitive ..."):
        found, told = _climbed(ladder, whose, solutions)
    return {
        **asdict(ladder),
        "told": told,
        "cache": _cache_told(ladder, found) if found["steps"] else "",
        **found,
        "measured": runs.measured(root, ladder, tell),
        "explained": runs.explained(root, tell) if ladder.name == "matmul" else None,
        "command": runs.command(ladder),
    }


def _whose(ladder: Ladder) -> dict[str, str]:
    """The learner's body of each exercise where it is right, else the reference's."""
    from tvm_practice.checks import grade

    whose = {}
    for known in ladder.exercises:
        title = exercise.catalogue()[known].title if known in exercise.catalogue() else known
        with show.waiting(f"{known} {title} ..."):
            right = grade(known, LEARNER, seed=1).state == "right"
        whose[known] = LEARNER if right else REFERENCE
    return whose


def _climbed(ladder: Ladder, whose: dict[str, str], solutions: bool) -> tuple[dict[str, Any], str]:
    """The ladder's steps and whose bodies they are. Where a right answer cannot be drawn all the
    same, the reference is."""
    try:
        return _call(ladder, whose), told_of_bodies(whose, solutions)
    except worker.WorkerFailed as error:
        failed = str(error)
    if LEARNER in whose.values():
        try:
            return _call(ladder, references(ladder)), (
                "Built from the reference's answers: yours are right, but cannot be drawn at this "
                f"size ({failed})."
            )
        except worker.WorkerFailed as error:
            failed = str(error)
    sentence = f"This ladder could not be drawn: {failed.removeprefix('BrokenLesson: ')}"
    show.line(f"  {ladder.title}: {sentence}", "yellow")
    return {"levels": [], "steps": []}, sentence


def _call(ladder: Ladder, whose: dict[str, str]) -> dict[str, Any]:
    return worker.call(made, ladder.name, whose, seconds=SECONDS, limit_memory=True)


def _cache_told(ladder: Ladder, found: dict[str, Any]) -> str:
    """What the simulated caches are, as a sentence or two."""
    small = " and ".join(_level(one) for one in found["levels"])
    if not ladder.small_caches:
        return f"The simulated caches are as large as this machine's: {small}."
    real = " and ".join(
        f"{one['name']} of {_bytes(one['line_bytes'] * one['sets'] * one['ways'])}"
        for one in found["machine_levels"]
    )
    return (
        f"The simulated caches are {small}. To these small matrices they are what this machine's, "
        f"{real}, are to matrices of {REAL_SIDE} x {REAL_SIDE}: L1 holds a line of as large a "
        "share of a matrix's rows, L2 as large a share of a matrix."
    )


def _level(one: dict[str, Any]) -> str:
    lines = one["sets"] * one["ways"]
    return (
        f"{one['name']} of {_bytes(lines * one['line_bytes'])} ({lines} lines of "
        f"{one['line_bytes']} bytes, {one['ways']} ways)"
    )


def _bytes(number: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:g} {unit}"
    return f"{number} bytes"


# ----------------------------------------------------------------------------------------- the file


def html(content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        **content,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        data=embedded({"ladders": content["ladders"], "curves": content["curves"]}),
    )


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")
