"""The machines that measure: a tracker, the devices that register with it, and how a fleet grows.

    python -m tvm_practice.fleet tracker                                  on this machine, port 9190
    python -m tvm_practice.fleet device --tracker 127.0.0.1:9190 --key cpu
    python -m tvm_practice.fleet devices --tracker 127.0.0.1:9190         what there is
    python -m tvm_practice.auto_tune --tracker 127.0.0.1:9190 --key cpu   measures there
    python -m tvm_practice.fleet growth --json benchmarks/fleet.json --plot docs/fleet.png

These are TVM's own tracker and RPC server, kept going when a candidate crashes. An RPC server runs
whatever it is sent, by whoever can reach it. So both listen to this machine alone, whose other
users can reach them too. For other machines it takes --host, the address to listen at, and
--trust-network, which says that everybody on that network may use this machine as they please:

    python -m tvm_practice.fleet tracker --host 0.0.0.0 --trust-network
    python -m tvm_practice.fleet device --tracker TRACKER:9190 --host 0.0.0.0 --trust-network

Exit status: 2 when the command could not run, 130 when it was interrupted.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tvm_practice.common import fleet
from tvm_practice.common.status import COULD_NOT_RUN, INTERRUPTED, status_of
from tvm_practice.common.target import UnusableTarget


class _Address(click.ParamType):
    name = "HOST:PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> fleet.Address:
        if isinstance(value, tuple):
            return value
        try:
            return fleet.parse_address(value)
        except ValueError as error:
            self.fail(f"{error}.")


def _key(ctx: Any, param: Any, value: str) -> str:
    if not value or any(letter.isspace() for letter in value):
        raise click.BadParameter(
            f"{value!r} is not one word, and RPC ends a key at a blank; give one such as board-one."
        )
    return value


ADDRESS = _Address()

_HOST = click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen at."
)
_TRUST = click.option(
    "--trust-network",
    is_flag=True,
    help="With --host: other machines may connect. Whoever can, may run any program here.",
)


@click.group(help=__doc__.partition("\n")[0])
def command() -> None:
    pass


@command.command(help="The directory of devices.")
@_HOST
@_TRUST
@click.option("--port", type=click.IntRange(1, 65535), default=fleet.TRACKER_PORT)
def tracker(host: str, trust_network: bool, port: int) -> None:
    _warn(host, trust_network)
    _until_ended(fleet.serve_tracker, host, port, _say)


@command.command(help="This machine, offered to whoever asks the tracker for its key.")
@_HOST
@_TRUST
@click.option("--tracker", type=ADDRESS, required=True, help="The tracker to register with.")
@click.option(
    "--key", default=fleet.KEY, show_default=True, callback=_key, help="What to register as."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535 - fleet.PORTS),
    default=fleet.DEVICE_PORT,
    help="The first port that is tried.",
)
def device(tracker: fleet.Address, key: str, host: str, trust_network: bool, port: int) -> None:
    _warn(host, trust_network)
    if fleet.is_loopback(host) and _is_elsewhere(tracker):
        raise click.UsageError(
            f"the tracker at {fleet.shown(tracker)} would hand out this device to other machines, "
            f"and none of them can connect to {host}. If everybody on that network may use this "
            "machine as they please, add --host 0.0.0.0 --trust-network."
        )
    _until_ended(fleet.serve_device, tracker, key, host, port, _say)


@command.command(help="What a tracker has: how many devices of each key.")
@click.option("--tracker", type=ADDRESS, required=True, help="The tracker to ask.")
def devices(tracker: fleet.Address) -> None:
    try:
        import tvm_practice.common.import_tvm  # noqa: F401 - without torch

        found = fleet.devices_at(tracker)
    except OSError as error:
        reason = error.strerror or str(error)
        click.echo(f"tvm_practice: {fleet.no_tracker(tracker, reason)}", err=True)
        sys.exit(COULD_NOT_RUN)
    for key, number in sorted(found.items()):
        click.echo(f"{key}: {number}")
    if not found:
        click.echo(f"tvm_practice: {fleet.no_device(tracker)}", err=True)
        sys.exit(COULD_NOT_RUN)


@command.command(help="Candidates a minute with more and more devices, all on this machine.")
@click.option("--devices", default="1,2,4,8", show_default=True, help="How many, in turn.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw them, a PNG.")
def growth(devices: str, json_path: Path | None, plot: Path | None) -> None:
    from tvm_practice.common import show, target, worker
    from tvm_practice.common.answers import write_whole
    from tvm_practice.common.exercise import REFERENCE
    from tvm_practice.experiments import fleet as lab

    counts = [int(one) for one in devices.split(",") if one.strip().isdigit() and int(one)]
    if not counts or len(counts) != len(devices.split(",")) or max(counts) > lab.MANY:
        raise click.UsageError(f"--devices {devices}: give numbers up to {lab.MANY}, as 1,2,4,8.")
    try:
        with show.waiting("a fleet that grows, and what its parts cost ..."):
            found = worker.call(lab.measure_growth, sorted(set(counts)), seconds=900)
            predicted = worker.call(lab.predict, found, REFERENCE)
            machine = worker.call(target.machine)
        lab.tell_growth(found, predicted)
        if json_path is not None:
            limit, stage = lab.saturation(found)
            report = {
                "command": _as_typed(devices, json_path, plot),
                "machine": machine,
                **asdict(found),
                "predicted": predicted,
                "saturates": {"devices": limit, "stage": stage},
            }
            json_path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(json_path, (json.dumps(report, indent=1) + "\n").encode())
        if plot is not None:
            plot.parent.mkdir(parents=True, exist_ok=True)
            lab.draw(plot, found, predicted)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        click.echo(
            f"tvm_practice: {error.filename} could not be written: {error.strerror}.", err=True
        )
        sys.exit(COULD_NOT_RUN)
    except worker.WorkerFailed as error:
        click.echo(f"tvm_practice: the growth could not be measured: {error}", err=True)
        sys.exit(COULD_NOT_RUN)


def _as_typed(devices: str, json_path: Path, plot: Path | None) -> str:
    words = ["python -m tvm_practice.fleet growth", "--devices", devices, "--json", str(json_path)]
    return " ".join(words + (["--plot", str(plot)] if plot else []))


def _is_elsewhere(tracker: fleet.Address) -> bool:
    """Whether a tracker has an address that other machines may know."""
    try:
        found = socket.getaddrinfo(*tracker)
    except OSError:  # the device says so
        return False
    return not any(fleet.is_loopback(address[0]) for *_, address in found)


def _warn(host: str, trusted: bool) -> None:
    if fleet.is_loopback(host):
        if trusted:
            click.echo(
                f"tvm_practice: --trust-network does nothing at {host}, where only this machine "
                "can connect; for others it takes --host too, such as --host 0.0.0.0.",
                err=True,
            )
        return
    if not trusted:
        raise click.UsageError(
            f"at {host} other machines could connect, and RPC runs whatever it is sent. On a "
            "network where everybody may use this machine as they please, add --trust-network."
        )
    click.echo(
        f"WARNING: listening at {host}. RPC has no password and runs whatever it is sent: "
        "everybody who can reach this port can run any program here, with your rights.",
        err=True,
    )


def _until_ended(serve: Any, *arguments: Any) -> None:
    try:
        import tvm_practice.common.import_tvm  # noqa: F401 - without torch

        serve(*arguments)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)  # the thread that listens would be waited for
    except UnusableTarget as error:
        click.echo(f"tvm_practice: {error}", err=True)
        os._exit(COULD_NOT_RUN)


def _say(sentence: str) -> None:
    click.echo(sentence)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(status_of(command, "python -m tvm_practice.fleet"))
