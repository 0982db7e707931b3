"""The figures of the lab on whole models: measured by one command, kept as JSON with every sample,
drawn, and told in sentences that follow from the samples."""

from __future__ import annotations

import importlib.metadata
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tvm_practice.common import picture, show, target
from tvm_practice.common.answers import write_whole
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.common.status import COULD_NOT_RUN, INTERRUPTED
from tvm_practice.common.timing import (
    CONFIDENCE,
    PEAK_FMA,
    PROCESS_LUCK,
    Figure,
    compare,
    verdict,
)
from tvm_practice.common.worker import WorkerFailed, call
from tvm_practice.experiments import whole_models as lab
from tvm_practice.experiments.whole_models import COMPILED, DEFAULT, EAGER, TUNED

ROUNDS, CALLS = 12, 20
SAMPLE_SECONDS = 0.06
NAMES = {
    "resnet18": "ResNet-18",
    "gpt_blocks": "A stack of GPT-2's blocks",
    "small": "A small ResNet",
}
# How a sentence names the competitors.
WORDS = {
    EAGER: "eager PyTorch",
    COMPILED: "torch.compile",
    DEFAULT: "TVM's default loops",
}
MEASURED = (lab.MODEL, "gpt_blocks")


@click.command("python -m tvm_practice.labs.whole_models --figures")
@click.option("--figures", is_flag=True, help="Measure the models with the records that are there.")
@click.option("--model", type=click.Choice(lab.MODELS), multiple=True, help="Which; several times.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw them, a PNG.")
@click.pass_context
def figures_command(
    context: click.Context,
    figures: bool,
    model: tuple[str, ...],
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Time the models beside PyTorch, with the schedules that were found, and where the time of
    each goes."""
    try:
        wanted = [(path, write) for path, write in ((json_path, write_json), (plot, draw)) if path]
        for path, _ in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)  # before the minutes that are to fill it
        report = measured_report(model or MEASURED)
        for paragraph in sentences(report):
            show.say(paragraph)
        for path, write in wanted:
            write(path, report)
    except KeyboardInterrupt:
        context.exit(INTERRUPTED)
    except OSError as error:
        where = f"{error.filename} could not be written: " if error.filename else ""
        click.echo(f"tvm_practice: {where}{error.strerror or error}.", err=True)
        context.exit(COULD_NOT_RUN)
    except WorkerFailed as error:
        click.echo(f"tvm_practice: the models could not be measured: {error}", err=True)
        context.exit(COULD_NOT_RUN)


def measured_report(models: tuple[str, ...]) -> dict[str, Any]:
    """What benchmarks/whole_models.json holds."""
    machine = call(target.machine) | {"torch": importlib.metadata.version("torch")}
    with tempfile.TemporaryDirectory(prefix="tvm_practice_") as folder:
        measured = [_measured(name, Path(folder)) for name in models]
    return {
        "machine": machine,
        "rounds": ROUNDS,
        "confidence": CONFIDENCE,
        "margin": PROCESS_LUCK,
        "models": measured,
    }


def _measured(name: str, folder: Path) -> dict[str, Any]:
    """One model: its competitors in paired rounds, and the time of each of its tasks when tuned."""
    with show.waiting(f"{NAMES[name]}, from PyTorch to kernels ..."):
        whose = dict.fromkeys(lab.EXERCISES, REFERENCE)
        prepared = call(lab.prepare, name, str(folder), whose, seconds=300)
    best, searches = lab.known_best(prepared, lab.ROOT)
    if best:
        watched = call(lab.watch, prepared, best, lab.INPUTS, CALLS)
        best = lab.replayed(best, watched)
    known = lab.candidates_of(prepared, best)
    candidates = [PEAK_FMA, *known.values()]
    with show.progress(NAMES[name], len(candidates) * (ROUNDS + 1)) as bar:
        timed = compare(
            candidates, ROUNDS, SAMPLE_SECONDS, lambda candidate: show.advance(bar, candidate)
        )
    for competitor, reason in timed.failed.items():
        show.line(f"  {competitor} was not measured: {reason}", "yellow")
    if disturbance := timed.disturbance():
        show.line(disturbance, "yellow")
    return {
        "model": name,
        "peak_gflops": None if math.isnan(timed.peak_gflops) else timed.peak_gflops,
        "searches": searches,
        "results": timed.as_json(),
        "not_measured": timed.failed,
        "tasks": _tasks(prepared, best, watched) if best else [],
    }


def _tasks(
    prepared: lab.Prepared, best: dict[str, lab.Best], watched: lab.Watched
) -> list[dict[str, Any]]:
    seconds = lab.by_task(prepared, watched.seconds)
    return [
        {
            "task": task.name,
            "weight": task.weight,
            "flops": task.flops,
            "seconds": seconds[task.name],
            "trials": best[task.name].trials if task.name in best else 0,
        }
        for task in prepared.tasks
    ]


def write_json(path: Path, report: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())


# ------------------------------------------------------------------------------------- in sentences


def sentences(report: dict[str, Any]) -> list[str]:
    """What the samples of a report say, a paragraph for each model."""
    return [_paragraph(report, model) for model in report["models"]]


def _paragraph(report: dict[str, Any], model: dict[str, Any]) -> str:
    figures = {
        one["competitor"]: Figure(
            one["competitor"], tuple(one["samples_s"]), one["calls_per_sample"], 0.0, 0.0, True
        )
        for one in model["results"]
        if one["competitor"] != PEAK_FMA.name
    }
    name = NAMES[model["model"]]
    if not figures:
        return f"**{name}** was not measured."
    times = [
        f"{show.seconds(one.median_s)} with {_with(competitor, model)}"
        for competitor, one in figures.items()
    ]
    told = [f"**{name}**, batch 1, takes {_listed(times)}."]
    first = TUNED if TUNED in figures else DEFAULT
    named = f"{name}, {'tuned' if first == TUNED else 'not tuned'},"
    for other in (EAGER, COMPILED):
        if {first, other} <= figures.keys():
            found = verdict(figures[first], figures[other], report["confidence"], report["margin"])
            told.append(f"{replace(found, first=named, second=WORDS[other]).sentence()}.")
    return " ".join(told)


def _with(competitor: str, model: dict[str, Any]) -> str:
    if competitor != TUNED:
        return WORDS[competitor]
    minutes = sum(one["minutes"] for one in model["searches"])
    trials = sum(one["trials"] for one in model["tasks"])
    return f"the schedules that {minutes:.0f} minutes of search found in {trials:,} trials"


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


# ---------------------------------------------------------------------------------------- a picture


def draw(path: Path, report: dict[str, Any]) -> None:
    """The time of each competitor of the first model, and where that of the tuned one goes."""
    model = report["models"][0]
    shown = [one for one in model["results"] if one["competitor"] in (TUNED, EAGER, COMPILED)]
    figure, (left, right) = picture.blank(10, 4.6, ncols=2, width_ratios=(1, 1.7))
    for place, one in enumerate(shown):
        color = "tab:blue" if one["competitor"] == TUNED else "tab:gray"
        left.bar(place, one["median_s"] * 1e3, color=color, width=0.6)
        samples = [1e3 * seconds for seconds in one["samples_s"]]
        left.plot([place] * len(samples), samples, "k_", alpha=0.5)
    left.set_xticks(range(len(shown)), [one["competitor"].replace(", ", ",\n") for one in shown])
    left.set_ylabel("ms, batch 1")
    left.set_title(NAMES[model["model"]])
    tasks = sorted(model["tasks"], key=lambda one: -one["seconds"])
    lab.draw_task_times(
        right,
        [one["task"] for one in tasks],
        [one["seconds"] for one in tasks],
        [one["weight"] * one["flops"] for one in tasks],
        model["peak_gflops"],
        TUNED,
    )
    right.tick_params(axis="y", labelsize=7)
    right.set_title("Where the tuned one's time goes")
    picture.save(figure, path)
