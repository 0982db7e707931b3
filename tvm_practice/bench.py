"""The measuring instrument: every competitor of a workload, at every size, against the limits of
this machine.

    python -m tvm_practice.bench                                    everything, all sizes
    python -m tvm_practice.bench matmul --sizes 512,1000x517x333    one workload, two sizes
    python -m tvm_practice.bench --json benchmarks/cpu.json --plot docs
    python -m tvm_practice.bench gpu --json benchmarks/gpu.json     everything that is for a GPU

A workload is a lesson whose experiments offer SIZES, QUICK_SIZES and competitors(size, seed), for a
GPU the same with gpu_ before it; the bodies measured are the reference ones. What comes out is a
JSON file, written anew after each size, and with --plot a roofline of each workload.

Exit status: 0 when every result is right, 1 when a competitor's result is wrong, 2 when the command
could not run, 130 when it was interrupted; what was measured until then is kept.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tvm_practice.common import answers, records, roofline, show, target, timing, verify, worker
from tvm_practice.common.command import module
from tvm_practice.common.cuda import device
from tvm_practice.common.exercise import LABS, PACKAGE, REFERENCE, exercises_of
from tvm_practice.common.status import ANSWER_WRONG, COULD_NOT_RUN, INTERRUPTED
from tvm_practice.common.timing import Candidate, Comparison
from tvm_practice.main import RECORDS, REPORTS

Size = tuple[int, ...]

MATMUL, SEARCH = "matmul", "search"
GPU = "gpu"  # given first, it asks for the workloads that are for one
HAND, TUNED = "hand", "tuned"
SAMPLE_SECONDS = 0.06
LONGEST_CALL_SECONDS = 2.0
CACHES_HOLD = 4 * timing.MIB  # so much is found there by the next call, and memory is no limit
LONGEST_SIDE = 1 << 16
MOST_WORK = 1 << 39  # a matmul of 8192 x 8192 x 8192

# How the failure of a competitor whose result is not what it should be begins.
WRONG = tuple(f"{kind.__name__}: " for kind in (verify.Wrong, *verify.Wrong.__subclasses__()))


class Refused(Exception):
    """The command cannot run; the message is one sentence that says why."""


@dataclass(frozen=True)
class Workload:
    """A lesson that can be measured: its sizes, and who competes at one of them."""

    name: str
    sizes: tuple[Size, ...]
    quick_sizes: tuple[Size, ...]
    competitors: Callable[[Size, int], list[Candidate]]
    float32: bool = True  # all of its arithmetic: the FMA peak is then a limit
    # What has to be made first, such as a search: a fact sheet for each.
    prepare: Callable[[Size, Callable[[str], None]], list[dict[str, Any]]] | None = None
    gpu: bool = False


def workloads(gpu: bool = False) -> dict[str, Workload]:
    """Every workload that there is: a lesson whose experiments module offers one."""
    modules = {MATMUL: "manual_schedule", SEARCH: "auto_tune", **{lab: lab for lab in LABS}}
    found = {}
    for name, lesson in modules.items():
        if not (PACKAGE / "experiments" / f"{lesson}.py").exists():
            continue
        module = importlib.import_module(f"tvm_practice.experiments.{lesson}")
        prefix = "gpu_" if gpu else ""
        if competitors := getattr(module, f"{prefix}competitors", None):
            of = prefix.upper()
            found[name] = Workload(
                name,
                getattr(module, f"{of}SIZES"),
                getattr(module, f"{of}QUICK_SIZES"),
                competitors,
                getattr(module, f"{of}ARITHMETIC", "float32") == "float32",
                getattr(module, f"{prefix}prepare", None),
                gpu,
            )
    return found


def size_text(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


# ---------------------------------------------------------------------------------- what is written


@dataclass
class Report:
    """What was measured so far; `as_json` is the content of the file."""

    machine: dict[str, Any]
    seed: int
    rounds: int
    command: str
    peaks: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    not_measured: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    started: float = field(default_factory=time.time)

    def add_peaks(self, measured: Comparison) -> None:
        """The roofs: each peak's best round, and its samples."""
        for suffix, name in (("", "{}"), ("_one_thread", "{}, 1 thread")):
            rates = {
                f"fma_gflops{suffix}": (timing.PEAK_FMA, "flops"),
                f"triad_gbytes{suffix}": (timing.PEAK_TRIAD, "bytes"),
                f"read_gbytes{suffix}": (timing.PEAK_READ, "bytes"),
            }
            for key, (peak, work) in rates.items():
                figure = measured.figures.get(name.format(peak.name))
                if figure is not None:
                    self.peaks[key] = getattr(figure, work) / min(figure.samples) / 1e9
                    self.peaks[f"{key}_median"] = getattr(figure, work) / figure.median_s / 1e9
        self.peaks["threads"] = measured.threads
        self.peaks["measured"] = measured.as_json()
        self.peaks["how"] = HOW_PEAKS
        if gpu := self.machine.get("gpu"):
            self.peaks |= {"how": HOW_GPU_PEAKS, "gpu": gpu["name"]}
        self._add_failures("peaks", (), measured.failed)

    def add(self, workload: Workload, size: Size, measured: Comparison) -> None:
        """The figures of one size, the machine's own peaks in the same rounds among them, and the
        verdicts on "hand" against each."""
        for entry in measured.as_json():
            figure = measured[entry["competitor"]]
            where = {"workload": workload.name, "size": list(size)}
            memory = _bandwidth(measured, entry["competitor"])
            self.results.append({**where, **entry, **memory, "float32": workload.float32})
            if is_peak(figure.name) or figure.name == HAND or HAND not in measured:
                continue
            verdict = measured.verdict(HAND, figure.name, timing.PROCESS_LUCK)
            interval = {"low": verdict.low, "high": verdict.high}
            if math.isinf(verdict.high):
                interval = {"low": None, "high": None}
            self.verdicts.append({**where, **vars(verdict), **interval})
        if measured.peak_gflops > self.peaks.get("fma_gflops", 0.0):
            self.peaks["fma_gflops"] = measured.peak_gflops
        self._add_failures(workload.name, size, measured.failed)

    def skip(self, workload: str, size: Size, competitor: str, reason: str) -> None:
        self._add_failures(workload, size, {competitor: reason})

    def _add_failures(self, workload: str, size: Size, failed: dict[str, str]) -> None:
        self.not_measured += [
            {"workload": workload, "size": list(size), "competitor": name, "reason": reason}
            for name, reason in failed.items()
        ]

    def wrong(self) -> list[str]:
        """A sentence for every competitor whose result is wrong, or was not verified, and for every
        "hand" that could not run, unless the CPU lacks an instruction."""
        return [
            f"{one['competitor']} ({one['workload']} {size_text(one['size'])}): {one['reason']}"
            for one in self.not_measured
            if one["reason"].startswith(WRONG)
            or (one["competitor"] == HAND and not one["reason"].startswith("NoInstruction"))
        ] + [
            f"{one['competitor']} ({one['workload']} {size_text(one['size'])}) was not verified"
            for one in self.results
            if not one["verified"]
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "peaks": self.peaks,
            "results": self.results,
            "verdicts": self.verdicts,
            "not_measured": self.not_measured,
            "searches": self.searches,
            "seed": self.seed,
            "rounds": self.rounds,
            "confidence": timing.CONFIDENCE,
            "margin": timing.PROCESS_LUCK,
            "command": self.command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
            "complete": self.complete,
        }


HOW_PEAKS = (
    "Kernels compiled through TVM: independent FMA chains in registers; the stream triad, 12 bytes "
    "an element; the sum of a large array, which only reads. A roof is the best round of the run, "
    "since what else runs can only take from it. share_of_peak is over the FMA peak of the same "
    "rounds. share_of_bandwidth is there where bandwidth is the limit, the intensity being below "
    "the ridge and the footprint beyond 4 MiB: the median of the paired ratios to the "
    "bandwidth_roof of the same rounds. That is the triad where more than a sixth of the "
    "compulsory traffic is written (the triad writes a third), the read sum otherwise, with the "
    "footprint of the workload: repeated calls find part of their data in the caches, in the "
    "workload and in its roof alike."
)


HOW_GPU_PEAKS = (
    "Kernels compiled through TVM for the device, on all of its processors, timed by its own "
    "events: independent FMA chains in registers, in float32; the stream triad, 12 bytes an "
    "element. A roof is the best round of the run. share_of_bandwidth is there where bandwidth is "
    "the limit: the median of the paired ratios to a triad over as many bytes. torch has TF32 off."
)


def _bandwidth(measured: Comparison, name: str) -> dict[str, Any]:
    """What a result says of memory: intensity and rate, and where bandwidth is its limit (its roof
    was then in the same rounds), the share of it."""
    figure = measured[name]
    told: dict[str, Any] = {"bound": "arithmetic", "share_of_bandwidth": None}
    if figure.bytes:
        told |= {"gbytes": figure.gbytes, "intensity": figure.intensity}
    if is_peak(name) or (shares := measured.share_of_bandwidth(name)) is None:
        return told
    roof = measured[timing.bandwidth_roof(figure).name]
    share, low, high = shares
    return told | {
        "bound": "bandwidth",
        "share_of_bandwidth": share,
        "share_of_bandwidth_interval": None if math.isinf(high) else [low, high],
        "bandwidth_roof": roof.name,
        "bandwidth_roof_gbytes": roof.gbytes,
    }


def is_peak(name: str) -> bool:
    return name in timing.ONE_THREAD or name in {peak.name for peak in timing.PEAKS}


def write(path: Path, report: Report) -> None:
    """Write the file, whole or not at all."""
    text = json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n"
    answers.write_whole(path, text.encode())


# ---------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Options:
    rounds: int
    seed: int
    tune: int
    longest_call: float
    json: Path
    plot: Path | None


def run(chosen: dict[Workload, list[Size]], options: Options) -> Report:
    """Measure everything that was chosen; the file is written after each size. Raises
    KeyboardInterrupt after writing what there is."""
    with show.waiting("starting TVM ..."):
        machine = worker.call(target.machine)
    machine["torch"] = importlib.metadata.version("torch")
    gpu = any(workload.gpu for workload in chosen)
    if gpu:
        machine["gpu"] = worker.call(device.found)
    introduce(machine, options)
    command = " ".join(["python -m tvm_practice.bench", *sys.argv[1:]])
    report = Report(machine, options.seed, options.rounds, command)
    try:
        _peaks(report, options, gpu)
        write(options.json, report)
        for workload, sizes in chosen.items():
            _measure(report, workload, sizes, options)
        report.complete = True
    finally:
        write(options.json, report)
    return report


def introduce(machine: dict[str, Any], options: Options) -> None:
    show.line(
        f"{machine['cpu']} ({machine['llvm_cpu']}), {machine['threads']} of {machine['cores']} "
        f"cores, {machine['busy_cores']:.1f} of them busy | TVM {machine['tvm']}, LLVM "
        f"{machine['llvm']}, NumPy {machine['numpy']}, torch {machine['torch']} | seed "
        f"{options.seed}, {options.rounds} rounds",
        "dim",
    )
    if gpu := machine.get("gpu"):
        show.line(device.in_words(gpu), "dim")
    if machine["busy_cores"] > 0.25:
        show.line(
            f"Other programs keep {machine['busy_cores']:.1f} cores busy at this moment: figures "
            "will be lower than they could be, and verdicts less certain.",
            "yellow",
        )


def _compare(candidates: Sequence[Candidate], what: str, options: Options) -> Comparison:
    with show.progress(what, len(candidates) * (options.rounds + 1)) as bar:
        measured = timing.compare(
            candidates,
            options.rounds,
            SAMPLE_SECONDS,
            lambda name: show.advance(bar, f"{what}: {name}"),
            options.longest_call,
        )
    if disturbance := measured.disturbance():
        show.line(disturbance, "yellow")
    return measured


def _peaks(report: Report, options: Options, gpu: bool) -> None:
    ours = device.PEAKS if gpu else timing.PEAKS
    candidates = [*ours, *({} if gpu else timing.ONE_THREAD).values()]
    try:
        report.add_peaks(measured := _compare(candidates, "peaks", options))
    except timing.Interrupted as interrupted:
        report.add_peaks(interrupted.measured)
        raise
    rows = []
    columns = ("{}",) if gpu else ("{}, 1 thread", "{}")
    for peak in ours:
        row = [peak.name]
        for name in (column.format(peak.name) for column in columns):
            figure = measured.figures.get(name)
            if figure is None:
                row.append("-")
                continue
            work, unit = (figure.bytes, "GB/s") if figure.bytes else (figure.flops, "GFLOP/s")
            best = show.rate(work / min(figure.samples) / 1e9)
            row.append(f"{best} {unit} ({figure.spread:.0%})")
        rows.append(row)
    show.table(
        (
            "this machine's roofs",
            *(("the GPU",) if gpu else ("1 thread", f"{measured.threads} threads")),
        ),
        rows,
        f"Best of {measured.rounds} rounds (and the spread of all); kernels compiled through TVM.",
    )
    for name, reason in measured.failed.items():
        show.line(f"  {name} was not measured: {reason}", "yellow")


def _measure(report: Report, workload: Workload, sizes: list[Size], options: Options) -> None:
    """One workload, from the smallest size to the largest, so that each tells what to expect of
    the next."""
    rate: dict[str, tuple[float, Size]] = {}  # by competitor: seconds per unit of work, and where
    for size in sorted(sizes, key=math.prod):
        show.heading(f"{workload.name}, {size_text(size)}")
        if workload.prepare is not None:
            _prepare(report, workload, size)
        candidates = workload.competitors(size, options.seed)
        skipped: dict[str, str] = {}
        on_cpu = workload.name == MATMUL and not workload.gpu
        if on_cpu and TUNED not in {one.name for one in candidates}:
            found = tuned(size, options)
            if isinstance(found, Candidate):
                candidates.append(found)
            else:
                skipped[TUNED] = found
        for one in list(candidates):
            seconds, where = rate.get(one.name, (0.0, size))
            if seconds * math.prod(size) > options.longest_call:
                candidates.remove(one)
                skipped[one.name] = (
                    f"a call would take about {seconds * math.prod(size):.2g} s, by its rate at "
                    f"{size_text(where)}; the limit is {options.longest_call:.2g} s"
                )
        for name, reason in skipped.items():
            report.skip(workload.name, size, name, reason)
        what = f"{workload.name} {size_text(size)}"
        fma, roof = (
            (device.PEAKS[0], device.bandwidth_roof)
            if workload.gpu
            else (timing.PEAK_FMA, timing.bandwidth_roof)
        )
        peaks = [fma, *_bandwidth_roofs(candidates, report.peaks, roof)]
        try:
            measured = _compare([*peaks, *candidates], what, options)
        except timing.Interrupted as interrupted:
            report.add(workload, size, interrupted.measured)
            raise
        report.add(workload, size, measured)
        rate |= {
            name: (figure.median_s / math.prod(size), size)
            for name, figure in measured.figures.items()
        }
        names = [one.name for one in candidates]
        _show(measured, names, {**skipped, **measured.failed}, workload)
        write(options.json, report)


def _prepare(report: Report, workload: Workload, size: Size) -> None:
    with show.waiting(f"{workload.name} ...") as waiting:
        made = workload.prepare(size, lambda what: waiting.update(f"{workload.name}: {what} ..."))
    report.searches += [{"workload": workload.name, "size": list(size), **one} for one in made]
    show.table(
        ("search", "schedules", "failed", "seconds"),
        [
            (
                f"{one['trials']} trials, seed {one['seed']}",
                str(one["measured"]),
                str(one["failed"]),
                f"{one['seconds']:.1f}",
            )
            for one in made
        ],
        "Each from nothing; the seconds are those of the whole search.",
    )


def _bandwidth_roofs(
    candidates: list[Candidate],
    peaks: dict[str, Any],
    roof: Callable[[timing.Runnable], Candidate],
) -> list[Candidate]:
    """The roof for the memory traffic of these competitors, where memory is their limit: their
    intensity is below the ridge, where the slope of the bandwidth meets the FMA peak. None where
    a peak could not be measured."""
    bandwidth = roofline.bandwidth(peaks)
    if bandwidth is None or "fma_gflops" not in peaks:
        return []
    quick_to_build = {"NumPy": 0, "torch": 1, HAND: 2}
    for one in sorted(candidates, key=lambda one: quick_to_build.get(one.name, 3)):
        try:
            work = worker.call(timing.work_of, one, seconds=timing.BUILD_SECONDS)
        except worker.WorkerFailed:
            continue
        ridge = peaks["fma_gflops"] / bandwidth
        bound = work.bytes > CACHES_HOLD and work.flops / work.bytes < ridge
        return [roof(work)] if bound else []
    return []


def _show(
    measured: Comparison, names: list[str], missing: dict[str, str], workload: Workload
) -> None:
    """The table of one size. The column of bandwidth is there where bandwidth is the limit."""
    names = [name for name in names if name in measured]
    memory = {name: _bandwidth(measured, name) for name in names}
    bound = any(one["bound"] == "bandwidth" for one in memory.values())
    rows = []
    for name in names:
        figure = measured[name]
        row = [
            name,
            show.seconds(figure.median_s),
            f"{figure.spread:.0%}",
            show.rate(figure.gflops),
            peak_share(measured.share_of_peak(name), workload.float32),
        ]
        if bound:
            share = memory[name]["share_of_bandwidth"]
            row += [show.rate(figure.gbytes), "-" if share is None else f"{share:.0%}"]
        against = "-"
        if HAND in measured and name != HAND:
            against = measured.verdict(HAND, name, timing.PROCESS_LUCK).short()
        rows.append([*row, against])
    columns = ["competitor", "time", "spread", "GFLOP/s", "of FMA peak"]
    columns += ["GB/s", "of bandwidth"] if bound else []
    timed = "by the GPU's own clock" if workload.gpu else f"{measured.threads} threads each"
    caption = (
        f"FMA peak {show.rate(measured.peak_gflops)} GFLOP/s in the same rounds. Medians of up to "
        f"{measured.rounds} paired rounds, {timed}, every result verified."
    )
    if bound:
        roof = measured[next(filter(None, (one.get("bandwidth_roof") for one in memory.values())))]
        caption += (
            f" Bandwidth is the limit here: that of a {roof.name} over as many bytes, "
            f"{show.rate(roof.gbytes)} GB/s, compared round by round."
        )
    show.table([*columns, "hand is"], rows, caption)
    for name, reason in missing.items():
        show.line(f"  {name} was not measured: {reason}", "yellow")


def summary(report: Report) -> None:
    """One line a size: "hand" against the limit, and against everything but the ladder."""
    rivals: list[str] = []
    verdicts: dict[tuple[str, Size], dict[str, str]] = {}
    for one in report.verdicts:
        row = verdicts.setdefault((one["workload"], tuple(one["size"])), {})
        row[one["second"]] = short(one)
    rivals = [
        name
        for name in ("NumPy", "torch", "torch.compile", TUNED)
        if any(name in row for row in verdicts.values())
    ]
    rows = []
    for one in report.results:
        key = (one["workload"], tuple(one["size"]))
        if one["competitor"] != HAND:
            continue
        rows.append(
            [
                f"{one['workload']} {size_text(one['size'])}",
                show.rate(one["gflops"]),
                limit(one),
                *[verdicts.get(key, {}).get(rival, "-") for rival in rivals],
            ]
        )
    if rows:
        show.heading("Summary: hand, and what it is against the others")
        show.table(["workload", "GFLOP/s", "of its limit", *rivals], rows)


def limit(result: dict[str, Any]) -> str:
    """The share of what limits a result: the FMA peak, or bandwidth, which is then named."""
    if result["bound"] == "bandwidth":
        return f"{result['share_of_bandwidth']:.0%} of bandwidth"
    float32 = result.get("float32", True)
    return peak_share(result["share_of_peak"], float32) + ("" if float32 else " of float32's")


def peak_share(share: float | None, float32: bool) -> str:
    """A share of the FMA peak. Only arithmetic in float32 cannot go beyond it."""
    if share is None:
        return "-"
    return show.share(share) if float32 else f"{share:.0%}"


def short(verdict: dict[str, Any]) -> str:
    """`Verdict.short` for a verdict that was read from JSON."""
    fields = timing.Verdict.__dataclass_fields__
    return timing.Verdict(**{name: verdict[name] for name in fields if name in verdict}).short()


# ---------------------------------------------------------------------------------- tuned schedules


def tuned(size: Size, options: Options) -> Candidate | str:
    """The best schedule on record for this size, after a search if --tune asks for one; or why
    there is none."""
    from tvm_practice.experiments import auto_tune

    name = f"matmul-{'x'.join(map(str, size))}"
    if not options.tune and not list((RECORDS / "auto_tune").glob(f"{name}-*")):
        return "there is no tuning record for this size; --tune N searches with N trials"
    whose = {one.id: REFERENCE for one in exercises_of("auto_tune")}
    with show.waiting("the search space ..."):
        plan = worker.call(auto_tune.describe, size, whose, options.seed)
    folder = RECORDS / "auto_tune" / f"{name}-{plan.key}"
    if options.tune:
        folder.mkdir(parents=True, exist_ok=True)
        records.repair(folder, plan.module)
        _search(auto_tune, size, whose, options, folder)
    if not any(records.runs_of_records(folder)):
        return "no tuning record fits this machine, thread count and TVM; --tune N makes them"
    arguments = dict(zip("MNK", size, strict=True), seed=options.seed, whose=whose, folder=folder)
    return Candidate(TUNED, auto_tune.make_tuned, arguments)


def _search(auto_tune, size: Size, whose: dict[str, str], options: Options, folder: Path) -> None:
    done = len(records.runs_of_records(folder))
    if done >= options.tune:
        return
    arguments = (size, whose, options.seed, options.tune, folder)
    with (
        show.progress(f"tuning {size_text(size)}", options.tune) as bar,
        worker.Worker(auto_tune.tune_in_worker, *arguments) as search,
    ):
        bar.update(bar.task_ids[0], completed=done)
        while isinstance(search.answer(auto_tune.silent_seconds(size)), auto_tune.Measured):
            show.advance(bar, f"tuning {size_text(size)}")


# ------------------------------------------------------------------------------------- command line


def parse_size(text: str, sides: int, workload: str) -> Size:
    """ "512" (each side) or "1000x517x333", for a workload whose sizes have `sides` sides."""
    shown = "x".join("MNK"[:sides])
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise Refused(f"{text!r} is no size; give N or {shown}, such as 512.")
    size = tuple(map(int, text.split("x")))
    size = size * sides if len(size) == 1 else size
    if len(size) != sides:
        raise Refused(f"a size of {workload} has {sides} sides, N or {shown}; {text!r} does not.")
    if min(size) < 1 or max(size) > LONGEST_SIDE or math.prod(size) > MOST_WORK:
        raise Refused(
            f"{text!r} is too small or too large; sides go from 1 to {LONGEST_SIDE}, their product "
            f"to {MOST_WORK:,}."
        )
    return size


def choose(names: Sequence[str], sizes: Sequence[str], quick: bool) -> dict[Workload, list[Size]]:
    gpu = tuple(names[:1]) == (GPU,)
    if gpu:
        names = names[1:]
        try:
            target.check_usable("cuda")
        except target.UnusableTarget as error:
            raise Refused(str(error)) from None
    known = workloads(gpu)
    for name in names:
        if name not in known:
            of = " for a GPU" if gpu else ""
            raise Refused(f"there is no workload {name!r}{of}; there are {', '.join(known)}.")
    asked = [text for given in sizes for text in given.split(",")]
    chosen = {}
    for name in dict.fromkeys(names or known):
        one = known[name]
        offered = one.quick_sizes if quick else one.sizes
        given = [parse_size(text.strip(), len(one.sizes[0]), name) for text in asked]
        chosen[one] = list(dict.fromkeys(given or offered))
    return chosen


def check_writable(path: Path, option: str) -> None:
    """Refuse now what could not be written after an hour."""
    probe = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise Refused(f"{option} {path} cannot be written: it is a folder.")
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise Refused(f"{option} {path} cannot be written: its folder is a file.") from None
    except OSError as error:
        raise Refused(f"{option} {path} cannot be written: {error.strerror or error}.") from None


EPILOG = f"""Example:

\b
{module("bench matmul --sizes 512,1000x517x333 --json cpu.json --plot pictures")}"""


@click.command(
    name="python -m tvm_practice.bench",
    help="Measure workloads (all, if none is named) against the limits of this machine; after "
    "gpu, those for a GPU against its own.",
    epilog=EPILOG,
)
@click.argument("names", nargs=-1, metavar="[gpu] [WORKLOAD]...")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    default=REPORTS / "bench.json",
    help="Where the figures go; reports/bench.json if not given.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=timing.ROUNDS,
    show_default=True,
    help="Paired rounds; with fewer than 6 no verdict has 95% confidence.",
)
@click.option(
    "--sizes",
    multiple=True,
    metavar="N|MxNxK,...",
    help="Sizes instead of the workloads' own.",
)
@click.option("--quick", is_flag=True, help="The workloads' own small sizes.")
@click.option("--tune", type=click.IntRange(0), default=0, help="Tune matmul first, N trials each.")
@click.option(
    "--longest-call",
    type=click.FloatRange(0, min_open=True),
    default=LONGEST_CALL_SECONDS,
    show_default=True,
    help="Leave out what takes more seconds a call.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for a roofline of each workload.",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the inputs; fresh if not given.")
def main(
    names: tuple[str, ...],
    json_path: Path,
    rounds: int,
    sizes: tuple[str, ...],
    quick: bool,
    tune: int,
    longest_call: float,
    plot: Path | None,
    seed: int | None,
) -> None:
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    options = Options(rounds, seed, tune, longest_call, json_path, plot)
    try:
        chosen = choose(names, sizes, quick)
        check_writable(json_path, "--json")
        if plot is not None:
            check_writable(plot / "roofline.png", "--plot")
        report = run(chosen, options)
    except Refused as refused:
        _end(COULD_NOT_RUN, str(refused))
    except KeyboardInterrupt:
        kept = f" What was measured is in {json_path}." if json_path.exists() else ""
        _end(INTERRUPTED, f"interrupted.{kept}")
    except worker.WorkerFailed as error:
        _end(COULD_NOT_RUN, f"the bench could not be finished: {error}")
    except OSError as error:
        _end(COULD_NOT_RUN, f"{error.filename or json_path} cannot be written: {error.strerror}.")
    except Exception as error:  # whatever nobody foresaw is not a competitor's wrong result
        show.line(traceback.format_exc(limit=-3), "dim")
        _end(COULD_NOT_RUN, f"the bench could not be finished: {type(error).__name__}: {error}")
    summary(report)
    show.line(f"  figures: {json_path}", "dim")
    if plot is not None:
        for path in roofline.draw_all(plot, report.as_json()):
            show.line(f"  picture: {path}", "dim")
    if wrong := report.wrong():
        _end(ANSWER_WRONG, f"{len(wrong)} results are wrong. {' '.join(wrong)}")


def _end(status: int, sentence: str) -> None:
    click.echo(f"tvm_practice.bench: {sentence}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
