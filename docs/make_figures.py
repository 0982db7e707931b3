"""Make the README's table and pictures by running the course itself: `uv run python
docs/make_figures.py`.

Runs phases 2 and 3 with the reference bodies at 1024 x 1024 x 1024, keeps their JSON and pictures
beside this file, and writes the table into README.md. `--table` only writes the table, from the
JSON that is there.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
README = ROOT / "README.md"
JSON = DOCS / "schedule_analysis.json"
START, END = "<!-- table: docs/make_figures.py -->", "<!-- end of table -->"


def measure() -> None:
    for phase in ("manual_schedule", "schedule_analysis"):
        command = [sys.executable, "-m", f"tvm_practice.{phase}", "--solutions", "--size", "1024"]
        subprocess.run(command, cwd=ROOT, check=True)
    reports = ROOT / "reports"
    shutil.copy(reports / "schedule_analysis.json", JSON)
    shutil.copy(reports / "schedule_analysis" / "variants.png", DOCS / "variants.png")
    shutil.copy(reports / "manual_schedule" / "access_pattern.png", DOCS / "access_pattern.png")


def table(report: dict) -> str:
    """The README's table from the JSON of phase 3."""
    machine, peak = report["machine"], report["peaks"]["fma_gflops"]
    results = [
        one for one in report["results"] if one["share_of_peak"] and one["competitor"] != "FMA peak"
    ]
    naive = results[0]["median_s"]
    lines = [
        "| variant | ms | spread | GFLOP/s | of FMA peak | speed-up |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one['competitor']} | {one['median_s'] * 1e3:.4g} | {one['spread']:.0%} | "
        f"{one['gflops']:.3g} | "
        f"{one['share_of_peak']:.1%} | {naive / one['median_s']:.3g}x |"
        for one in results
    ]
    size = " x ".join(map(str, report["size"]))
    lines += [
        "",
        f"{size}, float32, {machine['threads']} threads of an {machine['cpu']} "
        f"({machine['llvm_cpu']}), TVM {machine['tvm']}, LLVM "
        f"{machine['llvm']}, {machine['busy_cores']:.1f} cores busy with other programs before "
        "the run. FMA peak measured in the "
        f"same rounds: {peak:.0f} GFLOP/s. Made by "
        "`./practice python docs/make_figures.py`; the samples are in "
        "[docs/schedule_analysis.json](docs/schedule_analysis.json).",
    ]
    return "\n".join(lines)


def with_table(readme: str, report: dict) -> str:
    block = f"{START}\n\n{table(report)}\n\n{END}"
    return re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: block, readme, flags=re.S)


if __name__ == "__main__":
    if "--table" not in sys.argv:
        measure()
    report = json.loads(JSON.read_text())
    README.write_text(with_table(README.read_text(), report))
