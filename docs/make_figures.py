"""Make the README's tables and pictures from what was measured:

    ./practice python docs/make_figures.py

Reads benchmarks/cpu.json, whole_models.json and fleet.json, writes tables and sentences into
README.md between their markers, and draws the pictures beside this file; `--tables` writes only the
text. The access pattern needs no measurement: it is drawn from the schedules. What is measured, on
a machine that does nothing else, is measured by

    ./practice python -m tvm_practice.bench --json benchmarks/cpu.json
    ./practice python -m tvm_practice.labs.whole_models --figures \\
        --json benchmarks/whole_models.json
    ./practice python -m tvm_practice.fleet growth \\
        --json benchmarks/fleet.json --plot docs/fleet.png
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tvm_practice.bench import limit, short, size_text
from tvm_practice.common import roofline, show, worker
from tvm_practice.common.exercise import REFERENCE
from tvm_practice.experiments import fleet, manual_schedule, model_figures

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
README = ROOT / "README.md"
JSON = ROOT / "benchmarks" / "cpu.json"
START, END = "<!-- table: docs/make_figures.py -->", "<!-- end of table -->"
MODELS = ROOT / "benchmarks" / "whole_models.json"
MODELS_PICTURE = DOCS / "whole_models.png"
MODELS_START = "<!-- whole models: docs/make_figures.py -->"
MODELS_END = "<!-- end of whole models -->"
FLEET = ROOT / "benchmarks" / "fleet.json"
FLEET_PICTURE = DOCS / "fleet.png"
FLEET_START, FLEET_END = "<!-- fleet: docs/make_figures.py -->", "<!-- end of fleet -->"

RIVALS = ("NumPy", "torch", "torch.compile", "tuned")
# The size at which the ladder is shown step by step.
LADDER = (1024, 1024, 1024)


def read_report() -> dict[str, Any]:
    """The whole run of JSON; a workload that was measured again later, in a file of its own beside
    it, is taken from there, and named in `again`."""
    report = json.loads(JSON.read_text())
    report["again"] = {}
    for path in sorted(JSON.parent.glob("*.json")):
        if path == JSON:
            continue
        later = json.loads(path.read_text())
        if "results" not in later:  # another kind of figures, such as a fleet's
            continue
        workloads = {one["workload"] for one in later["results"]}
        for part in ("results", "verdicts", "not_measured"):
            kept = [one for one in report[part] if one["workload"] not in workloads]
            report[part] = kept + [one for one in later[part] if one["workload"] in workloads]
        report["again"] |= dict.fromkeys(sorted(workloads), path.name)
    return report


def limits_table(report: dict[str, Any]) -> list[str]:
    """Every workload and size: what "hand" reaches of its limit, and what it is against the
    others."""
    verdicts = {
        (one["workload"], tuple(one["size"]), one["second"]): short(one)
        for one in report["verdicts"]
    }
    rivals = [name for name in RIVALS if any(name == known for *_, known in verdicts)]
    lines = [
        "| workload | GFLOP/s | spread | of its limit | " + " | ".join(rivals) + " |",
        "|---|--:|--:|--:|" + "--:|" * len(rivals),
    ]
    for one in report["results"]:
        if one["competitor"] != "hand" or one["workload"] == "search":
            continue
        key = (one["workload"], tuple(one["size"]))
        cells = [
            f"{one['workload']} {size_text(one['size'])}",
            show.rate(one["gflops"]),
            f"{one['spread']:.0%}",
            limit(one),
            *[verdicts.get((*key, rival), "-") for rival in rivals],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ladder_table(report: dict[str, Any]) -> list[str]:
    """The steps of the matmul ladder, at LADDER or at the largest size there is."""
    sizes = roofline.competitors(report, "matmul")
    if not sizes:
        return []
    size = LADDER if LADDER in sizes else max(sizes)
    results = sizes[size]
    slowest = max(one["median_s"] for one in results)
    lines = [
        f"| matmul {size_text(size)} | ms | spread | GFLOP/s | of FMA peak | speed-up |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one['competitor']} | {one['median_s'] * 1e3:.4g} | {one['spread']:.0%} | "
        f"{show.rate(one['gflops'])} | {show.share(one['share_of_peak'])} | "
        f"{show.times(slowest / one['median_s'])} |"
        for one in results
    ]
    lines += [
        f"| {one['competitor']} | not measured: {one['reason']} | | | | |"
        for one in report["not_measured"]
        if one["workload"] == "matmul" and tuple(one["size"]) == size
    ]
    return lines


def searches_table(report: dict[str, Any]) -> list[str]:
    """What searches of each length took, and what their winners are against the hand."""
    seconds = {
        (one["workload"], tuple(one["size"]), result["competitor"]): result["median_s"]
        for one in report.get("searches", [])
        for result in report["results"]
        if (result["workload"], result["size"]) == (one["workload"], one["size"])
    }
    lines = []
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in report.get("searches", []):
        groups.setdefault((tuple(one["size"]), one["trials"]), []).append(one)
    for (size, trials), made in groups.items():
        hand = seconds.get(("search", size, "hand"))
        winners = [
            seconds.get(("search", size, f"{trials} trials, seed {one['seed']}")) for one in made
        ]
        if hand is None or None in winners:
            continue
        shares = sorted(hand / winner for winner in winners)
        lines.append(
            f"| {size_text(size)} | {trials} | {len(made)} | "
            f"{median(one['seconds'] for one in made):.0f} s | {median(shares):.0%} | "
            f"{shares[0]:.0%} to {shares[-1]:.0%} |"
        )
    if lines:
        heads = "| search | trials | seeds | whole search | winner's speed, of hand's | range |"
        lines = [heads, "|---|--:|--:|--:|--:|--:|", *lines]
    return lines


def caption(report: dict[str, Any]) -> str:
    machine, peaks = report["machine"], report["peaks"]
    again = "".join(
        f" (those of {workload} in [benchmarks/{name}](benchmarks/{name}), a later run)"
        for workload, name in report.get("again", {}).items()
    )
    return (
        f"{machine['threads']} threads of an {machine['cpu']} ({machine['llvm_cpu']}), TVM "
        f"{machine['tvm']}, LLVM {machine['llvm']}, NumPy {machine['numpy']}, torch "
        f"{machine['torch']}; {machine['busy_cores']:.1f} cores busy with other programs before "
        f"the run. Roofs of this machine, from kernels compiled through TVM: "
        f"{show.rate(peaks['fma_gflops'])} GFLOP/s of multiply-adds, "
        f"{show.rate(peaks['read_gbytes'])} GB/s read, {show.rate(peaks['triad_gbytes'])} GB/s "
        f"stream triad. Medians of up to {report['rounds']} paired rounds, every competitor in a "
        f"process of its own with {machine['threads']} threads, every result verified; a verdict "
        f"has {report['confidence']:.0%} confidence that they differ by more than "
        f"{report['margin']:.0%}, which two processes of the same code may. The samples are in "
        f"[benchmarks/cpu.json](benchmarks/cpu.json){again}; "
        "`./practice python docs/make_figures.py` made this table from it."
    )


def tables(report: dict[str, Any]) -> str:
    parts = [limits_table(report), ladder_table(report), searches_table(report), [caption(report)]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def with_table(readme: str, report: dict[str, Any]) -> str:
    return _between(readme, START, END, tables(report))


def with_models(readme: str, report: dict[str, Any]) -> str:
    return _between(readme, MODELS_START, MODELS_END, models(report))


def with_fleet(readme: str, report: dict[str, Any]) -> str:
    return _between(readme, FLEET_START, FLEET_END, growth(report))


def growth(report: dict[str, Any]) -> str:
    """How far a fleet grows, in sentences, and the command that measured it; nothing of figures
    without one, which are of an older course."""
    if "command" not in report:
        return ""
    found, predicted = fleet.growth_of(report)
    machine = report["machine"]
    return (
        f"{fleet.where_it_saturates(found)} Of the matmul at {fleet.SIZE} a candidate takes a "
        f"builder {found.build * 1000:.0f} ms and a device {found.measure * 1000:.0f} ms; "
        f"{fleet.MANY} devices would measure {predicted[fleet.MANY]:.0f} candidates a minute, one "
        f"{predicted[1]:.0f}. {machine['threads']} threads of an {machine['cpu']} "
        f"({machine['llvm_cpu']}), {machine['busy_cores']:.1f} cores busy with other programs "
        f"before the run; `./practice {report['command']}` measured it."
    )


def _between(readme: str, start: str, end: str, text: str) -> str:
    block = f"{start}\n\n{text}\n\n{end}" if text else f"{start}\n\n{end}"
    return re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: block, readme, flags=re.S)


def models(report: dict[str, Any]) -> str:
    """What was measured of whole models, in sentences, and where it comes from."""
    machine = report["machine"]
    shown = (
        "![ResNet-18 tuned, in eager PyTorch and with torch.compile as bars, and where the tuned "
        "one's time goes, kernel by kernel](docs/whole_models.png)"
    )
    source = (
        f"{machine['threads']} threads of an {machine['cpu']} ({machine['llvm_cpu']}), torch "
        f"{machine['torch']}, {machine['busy_cores']:.1f} cores busy with other programs before "
        f"the run; medians of up to {report['rounds']} paired rounds, verdicts as above. The "
        "samples are in [benchmarks/whole_models.json](benchmarks/whole_models.json); "
        "`./practice python -m tvm_practice.labs.whole_models --figures --json FILE` measures them."
    )
    return "\n\n".join([*model_figures.sentences(report), shown, source])


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """The pictures of a report, and the access pattern."""
    paths = roofline.draw_all(folder, report)
    sizes = roofline.competitors(report, "matmul")
    if sizes:
        paths.append(folder / "variants.png")
        size = LADDER if LADDER in sizes else max(sizes)
        roofline.draw_bars(paths[-1], report, "matmul", size)
    orders = {
        "untiled": worker.call(manual_schedule.access_order, ()),
        "tiled": worker.call(manual_schedule.access_order, (("2.1", REFERENCE),)),
    }
    paths.append(folder / "access_pattern.png")
    manual_schedule.draw_access_pattern(paths[-1], orders)
    return paths


def draw_models(path: Path) -> Path:
    model_figures.draw(path, json.loads(MODELS.read_text()))
    return path


def draw_fleet(path: Path) -> Path:
    fleet.draw(path, *fleet.growth_of(json.loads(FLEET.read_text())))
    return path


if __name__ == "__main__":
    if not JSON.exists():
        sys.exit(f"there is no {JSON}; python -m tvm_practice.bench --json {JSON} makes it.")
    report = read_report()
    readme = with_table(README.read_text(), report)
    if MODELS.exists():
        readme = with_models(readme, json.loads(MODELS.read_text()))
    if FLEET.exists():
        readme = with_fleet(readme, json.loads(FLEET.read_text()))
    README.write_text(readme)
    if "--tables" not in sys.argv:
        print(*draw(report, DOCS), sep="\n")
        if MODELS.exists():
            print(draw_models(MODELS_PICTURE))
        if FLEET.exists() and "command" in json.loads(FLEET.read_text()):
            print(draw_fleet(FLEET_PICTURE))
