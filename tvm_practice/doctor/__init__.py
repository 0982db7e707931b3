"""`doctor`: what this machine has and lacks for the course, each with its fix. It changes nothing.

Exit status: 0 when nothing fails for the target that was asked for, 1 when something does, 2 when
the command could not run, 130 when it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import click

from tvm_practice.common import show, target
from tvm_practice.common.status import INTERRUPTED
from tvm_practice.doctor import probes
from tvm_practice.doctor.finding import CHECKS, FAIL, OK, SKIPPED, WARN, Finding

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red", SKIPPED: "dim"}
# What the checks of a target ask that takes time; it runs two at a time while others are made.
SLOW = {
    "cpu": ("torch", "metaschedule", "workers", "xgboost"),
    "cuda-sim": ("torch", "metaschedule", "simulator", "nvrtc", "workers", "xgboost"),
    "cuda": (
        *("torch", "metaschedule", "simulator", "tvm_cuda", "nvrtc", "workers", "xgboost"),
        *("driver", "runtime"),
    ),
}
# These time something, so they are made first, while nothing else runs; in this order.
UNDISTURBED = ("load", "timing noise", "import tvm")


def findings(wanted: str, next_is: Callable[[str], None] = lambda name: None) -> Iterator[Finding]:
    """Make every check for a target, those that are disturbed by others first; `next_is` is told
    the name of each before it is made."""
    from tvm_practice.doctor import gpu, machine  # noqa: F401 - they register their checks

    known = {check.name: check for check in CHECKS}
    for name in UNDISTURBED:
        next_is(name)
        yield known[name].finding(wanted)
    probes.start(SLOW[wanted])
    for check in CHECKS:
        if check.name not in UNDISTURBED:
            next_is(check.name)
            yield check.finding(wanted)


@click.command("doctor", epilog="Example: tvm-practice doctor --target cuda-sim")
@click.option(
    "--target",
    "wanted",
    type=click.Choice(target.TARGETS),
    default="cpu",
    envvar=target.TARGET_VARIABLE,
    show_envvar=True,
    help="What the machine is to be used for.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def command(context: click.Context, wanted: str, as_json: bool) -> None:
    """What this machine has and lacks for the course, each with its fix. It changes nothing."""
    found = []
    in_terminal = show.console.is_terminal
    try:
        with show.waiting("examining this machine ...") as status:
            for one in findings(wanted, lambda name: status.update(f"examining: {name} ...")):
                found.append(one)
                if not as_json and not in_terminal:  # at once: some checks take seconds
                    _plain(one)
    except KeyboardInterrupt:
        click.echo("\nInterrupted.", err=True)
        context.exit(INTERRUPTED)
    failed = sum(one.state == FAIL for one in found)
    if as_json:
        click.echo(
            json.dumps({"target": wanted, "findings": [asdict(one) for one in found]}, indent=1)
        )
    else:
        if in_terminal:
            _table(found)
        _sum_up(wanted, found)
    context.exit(1 if failed else 0)


def _plain(one: Finding) -> None:
    fix = f" -> {one.fix}" if one.fix else ""
    click.echo(f"{one.state:10}  {one.name}: {one.sentence}{fix}")


def _table(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(show_lines=False)
    for title in ("", "check", "found"):
        grid.add_column(title, overflow="fold")
    for one in found:
        told = Text(one.sentence)
        if one.fix:
            told.append(f"\n{one.fix}", style="bold")
        grid.add_row(Text(one.state, style=STYLES[one.state]), one.name, told)
    show.console.print(grid)


def _sum_up(wanted: str, found: list[Finding]) -> None:
    failed = [one.name for one in found if one.state == FAIL]
    warned = [one.name for one in found if one.state == WARN]
    if failed:
        show.line(f"--target {wanted} cannot be used here as it is: {', '.join(failed)}.", "red")
    else:
        show.line(f"Nothing is in the way of --target {wanted}.", "green")
    if warned:
        show.line(f"Worth a look: {', '.join(warned)}.", "yellow")
