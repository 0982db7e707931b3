"""The page: `tvm-practice report` writes one HTML file that shows what the last runs left.

The file holds all it needs and asks no network. Every loop nest and every order of accesses in it
is computed by TVM now, on a small size; every time in it is one that an earlier run measured.
"""

from __future__ import annotations

from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent.parent


@click.command(
    name="report",
    short_help="One HTML page with the ladders, times, searches and progress.",
    help="""Write one HTML file, to be opened without a network: each ladder primitive by primitive
    with its loop nest, the order in which it touches memory and what a small cache misses; the
    times of the last runs; the curves of the searches; your progress. Nothing is timed for it.

    Example: tvm-practice report --open""",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "reports" / "index.html",
    help="The file to write; reports/index.html if not given.",
)
@click.option("--open", "open_", is_flag=True, help="Show it in the browser.")
@click.option("--solutions", is_flag=True, help="The reference bodies only.")
def command(out: Path, open_: bool, solutions: bool) -> None:
    from tvm_practice.report.page import run  # here, so that other commands start without it

    raise SystemExit(run(out, open_, solutions))
